"""What an alignment is and what it serves for: evidence, changes, groups, transfer."""
