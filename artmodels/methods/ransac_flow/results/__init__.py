"""What an alignment is, and what it shows."""
