"""Boxes, annotation files and drawing."""
