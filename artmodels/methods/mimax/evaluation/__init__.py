"""The protocol of the paper, and its published tables."""
