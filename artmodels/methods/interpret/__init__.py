"""What a network looks for, and what training changed in it."""

from artmodels.methods.interpret.activations import (
    TopActivations,
    box_statistics,
    class_entropy,
    class_gini,
    overlap,
    top_activations,
)
from artmodels.methods.interpret.attribution import grad_cam, overlaid, visual_backprop
from artmodels.methods.interpret.comparison import Comparison, compare
from artmodels.methods.interpret.similarity import CKA, cka, weight_distances
from artmodels.methods.interpret.taps import HookedNetwork
from artmodels.methods.interpret.visualisation.objectives import Channel, Direction, Diversity, Layer, Neuron
from artmodels.methods.interpret.visualisation.pipeline import FeatureVisualizer, VisualizerConfig

__all__ = [
    "CKA",
    "Channel",
    "Comparison",
    "Direction",
    "Diversity",
    "FeatureVisualizer",
    "HookedNetwork",
    "Layer",
    "Neuron",
    "TopActivations",
    "VisualizerConfig",
    "box_statistics",
    "cka",
    "class_entropy",
    "class_gini",
    "compare",
    "grad_cam",
    "overlaid",
    "overlap",
    "top_activations",
    "visual_backprop",
    "weight_distances",
]
