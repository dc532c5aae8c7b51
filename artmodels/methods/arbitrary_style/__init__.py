"""Arbitrary style transfer: any picture in the manner of any other, in one pass (Ghiasi et al. 2017)."""

from artmodels.methods.arbitrary_style.model import ArbitraryStyleConfig
from artmodels.methods.arbitrary_style.pipeline import ArbitraryStyle, StyleCode

__all__ = ["ArbitraryStyle", "ArbitraryStyleConfig", "StyleCode"]
