"""Fast style transfer: a picture in one painter's manner, in one pass of a network (Johnson et al. 2016)."""

from artmodels.methods.fast_style.model import FastStyleConfig
from artmodels.methods.fast_style.pipeline import FastStyle

__all__ = ["FastStyle", "FastStyleConfig"]
