"""Neural style: a picture repainted with the statistics of others."""

from artmodels.methods.neural_style.pipeline import NeuralStyle, StyleConfig

__all__ = ["NeuralStyle", "StyleConfig"]
