"""Super-resolution: pictures two or four times as large, by small convolutional networks."""

from artmodels.methods.super_resolution.condition import Condition, checkpoint_for, examine
from artmodels.methods.super_resolution.model import SuperResolutionConfig
from artmodels.methods.super_resolution.pipeline import SuperResolution, Upscaled

__all__ = ["Condition", "SuperResolution", "SuperResolutionConfig", "Upscaled", "checkpoint_for", "examine"]
