"""Nearest neighbours among vectors: exact, or by FAISS, behind one protocol."""
