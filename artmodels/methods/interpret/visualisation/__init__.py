"""Pictures of what a network looks for, found by optimisation."""
