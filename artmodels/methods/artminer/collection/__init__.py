"""A collection on disk: its images, their descriptors, and the shortlist of places to verify."""
