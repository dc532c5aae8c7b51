"""Super-resolution: pictures two or four times as large, by small convolutional networks."""

from artmodels.methods.super_resolution.model import SuperResolutionConfig
from artmodels.methods.super_resolution.pipeline import SuperResolution, Upscaled

__all__ = ["SuperResolution", "SuperResolutionConfig", "Upscaled"]
