"""Training of the features, on a collection or for everyone: mining, objective, the recipe."""
