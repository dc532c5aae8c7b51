"""Neural style: a picture repainted with the statistics of others."""

from artmodels.neural_style.pipeline import NeuralStyle, StyleConfig

__all__ = ["NeuralStyle", "StyleConfig"]
