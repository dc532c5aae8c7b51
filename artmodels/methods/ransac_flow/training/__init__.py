"""How the fine network is trained: synthetic pairs, losses, the recipe."""
