"""The protocols of the paper, and its published tables."""
