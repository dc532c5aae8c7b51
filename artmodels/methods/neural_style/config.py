"""Settings of neural style."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from artmodels.descent import algebra
from artmodels.descent.method import MatchingConfig
from artmodels.descent.terms import TERMS
from artmodels.errors import ConfigError
from artmodels.methods.neural_style.model import CONTENT_TERMS
from artmodels.settings import Count, Positive, Weight

__all__ = ["SMALLEST", "Colour", "Start", "StyleConfig"]

Colour = Literal["none", "luminance", "transfer", "histogram"]
Start = Literal["content", "noise"]

SMALLEST = 8  # px: fewer hold no picture


@dataclass(frozen=True, kw_only=True)
class StyleConfig(MatchingConfig):
    """Settings of neural style. The defaults are those of patches; the catalogue's entries set others."""

    loss: Annotated[str, "How style is measured: any loss of texture synthesis, or a sum of some."] = (
        "patch_nearest(wrap=False) + 0.2 * patch_sliced_wasserstein(octaves=1, wrap=False)"
    )
    content_loss: Annotated[
        str, "How content is measured: content (of features), pixels(octave=n) of n halvings, or a sum."
    ] = "0.25 * pixels + pixels(octave=1)"
    style_weight: Annotated[Weight, "Weight of the style. Only its ratio to the other weights matters."] = 1.0
    content_weight: Annotated[Weight, "Weight of the content: more keeps the subject, less lets the style in."] = 0.4
    tv_weight: Annotated[Weight, "Weight of total variation: more is smoother."] = 0.02
    colour: Annotated[
        Colour,
        "Whose colours: none (the style's), luminance (the content's, exactly), transfer or histogram (a style "
        "recoloured like the content first).",
    ] = "none"
    palette: Annotated[bool, "Compare with the content in the style's colours, which frees colour from content."] = True
    init: Annotated[Start, "Start from the content or from noise."] = "content"
    style_scale: Annotated[Positive, "Size of the style's strokes: 1 fits the style to the result's longer side."] = 1.0
    content_layers: Annotated[tuple[str, ...] | None, "Taps for content terms that name none."] = None
    steps: Annotated[Count, "Steps at each level. Time grows in proportion."] = 10
    first_level: Annotated[Positive, "Times as many steps at the coarsest level, where they cost least."] = 1.0
    rate: Annotated[float, "Step length: in natural steps for momentum, in grey levels (0 to 1) for adam."] = 0.9
    rate_end: Annotated[float, "What remains of the rate at the end of a level; small values remove noise."] = 0.2
    momentum: Annotated[float, "Share of the last step carried on."] = 0.0
    coarsest: Annotated[
        int, Ge(SMALLEST), "Longer side of the coarsest level, about. Smaller lets the style move larger forms."
    ] = 64

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        super().__post_init__()
        algebra.parse(self.loss, TERMS)
        algebra.parse(self.content_loss, CONTENT_TERMS)
        if self.style_weight + self.content_weight == 0:
            raise ConfigError("style_weight and content_weight are both 0: nothing is left to paint")
