"""Settings of neural style."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from artmodels.descent import algebra
from artmodels.descent.method import MatchingConfig, knob
from artmodels.descent.terms import TERMS
from artmodels.errors import ConfigError
from artmodels.methods.neural_style.model import CONTENT_TERMS

__all__ = ["SMALLEST", "Colour", "Start", "StyleConfig"]

Colour = Literal["none", "luminance", "transfer", "histogram"]
Start = Literal["content", "noise"]

SMALLEST = 8  # px: fewer hold no picture


@dataclass(frozen=True, kw_only=True)
class StyleConfig(MatchingConfig):
    """Settings of neural style. The defaults are those of patches; the catalogue's entries set others."""

    loss: str = knob(
        "patch_nearest(wrap=False) + 0.2 * patch_sliced_wasserstein(octaves=1, wrap=False)",
        "How style is measured: any loss of texture synthesis, or a sum of some.",
    )
    content_loss: str = knob(
        "0.25 * pixels + pixels(octave=1)",
        "How content is measured: content (of features), pixels(octave=n) of n halvings, or a sum.",
    )
    style_weight: float = knob(1.0, "Weight of the style. Only its ratio to the other weights matters.")
    content_weight: float = knob(0.4, "Weight of the content: more keeps the subject, less lets the style in.")
    tv_weight: float = knob(0.02, "Weight of total variation: more is smoother.")
    colour: Colour = knob(
        "none",
        "Whose colours: none (the style's), luminance (the content's, exactly), transfer or histogram (a style "
        "recoloured like the content first).",
    )
    palette: bool = knob(True, "Compare with the content in the style's colours, which frees colour from content.")
    init: Start = knob("content", "Start from the content or from noise.")
    style_scale: float = knob(1.0, "Size of the style's strokes: 1 fits the style to the result's longer side.")
    content_layers: tuple[str, ...] | None = knob(None, "Taps for content terms that name none.")
    steps: int = knob(10, "Steps at each level. Time grows in proportion.")
    first_level: float = knob(1.0, "Times as many steps at the coarsest level, where they cost least.")
    rate: float = knob(0.9, "Step length: in natural steps for momentum, in grey levels (0 to 1) for adam.")
    rate_end: float = knob(0.2, "What remains of the rate at the end of a level; small values remove noise.")
    momentum: float = knob(0.0, "Share of the last step carried on.")
    coarsest: int = knob(64, "Longer side of the coarsest level, about. Smaller lets the style move larger forms.")

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        super().__post_init__()
        algebra.parse(self.loss, TERMS)
        algebra.parse(self.content_loss, CONTENT_TERMS)
        for name, choices in (("colour", get_args(Colour)), ("init", get_args(Start))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name in ("style_weight", "content_weight", "tv_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} must be 0 or more")
        if self.style_weight + self.content_weight == 0:
            raise ConfigError("style_weight and content_weight are both 0: nothing is left to paint")
        if not 0 < self.style_scale < math.inf:
            raise ConfigError(f"style_scale={self.style_scale} must be above 0")
        if not 0 < self.first_level < math.inf:
            raise ConfigError(f"first_level={self.first_level} must be above 0")
        if self.coarsest < SMALLEST:
            raise ConfigError(f"coarsest={self.coarsest} must be at least {SMALLEST} px")
