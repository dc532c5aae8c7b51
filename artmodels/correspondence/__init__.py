"""Cells, views, transforms, RANSAC and redrawing: what is needed to tell what corresponds to what."""
