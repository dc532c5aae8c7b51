"""All pairs of a collection, and the groups of images that they connect."""
