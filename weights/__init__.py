"""This project's own checkpoints, and `python -m weights`, which builds, verifies and pushes them.

Run from a checkout; the installed package carries the checkpoints only.
"""
