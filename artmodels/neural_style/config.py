"""Settings of neural style."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from artmodels.errors import ConfigError
from artmodels.neural_style.model import CONTENT_TERMS
from artmodels.neural_style.nearest import PatchNearest
from artmodels.optimise import Optimiser, OptimiserName
from artmodels.texture_synthesis import algebra
from artmodels.texture_synthesis.model import TERMS

__all__ = ["SMALLEST", "STYLE_TERMS", "Colour", "Start", "StyleConfig"]

Colour = Literal["none", "luminance", "transfer", "histogram"]
Start = Literal["content", "noise"]

STYLE_TERMS = TERMS | {PatchNearest.name: PatchNearest}
SMALLEST = 8  # px: fewer hold no picture


def _knob(default: Any, help_: str) -> Any:  # noqa: ANN401 - as dataclasses.field itself
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, kw_only=True)
class StyleConfig:
    """Settings of neural style. The defaults are those of patches; the catalogue's entries set others."""

    features: str = _knob("patches", "What the losses look at: patches (no network), random-filters, vgg19, ...")
    loss: str = _knob(
        "patch_nearest + 0.2 * patch_sliced_wasserstein(octaves=1, wrap=False)",
        "How style is measured: any loss of texture synthesis, patch_nearest, or a sum of some.",
    )
    content_loss: str = _knob(
        "0.25 * pixels + pixels(octave=1)",
        "How content is measured: content (of features), pixels(octave=n) of n halvings, or a sum.",
    )
    style_weight: float = _knob(1.0, "Weight of the style. Only its ratio to the other weights matters.")
    content_weight: float = _knob(0.4, "Weight of the content: more keeps the subject, less lets the style in.")
    tv_weight: float = _knob(0.02, "Weight of total variation: more is smoother.")
    colour: Colour = _knob(
        "none",
        "Whose colours: none (the style's), luminance (the content's, exactly), transfer or histogram (a style "
        "recoloured like the content first).",
    )
    palette: bool = _knob(True, "Compare with the content in the style's colours, which frees colour from content.")
    init: Start = _knob("content", "Start from the content or from noise.")
    style_scale: float = _knob(1.0, "Size of the style's strokes: 1 fits the style to the result's longer side.")
    layers: tuple[str, ...] | None = _knob(None, "Taps for style terms that name none; None: those of the paper.")
    content_layers: tuple[str, ...] | None = _knob(None, "Taps for content terms that name none.")
    optimiser: OptimiserName = _knob("momentum", "momentum for patches, adam for sampled losses, lbfgs for exact ones.")
    steps: int = _knob(10, "Steps at each level. Time grows in proportion.")
    first_level: float = _knob(1.0, "Times as many steps at the coarsest level, where they cost least.")
    rate: float = _knob(0.9, "Step length: in natural steps for momentum, in grey levels (0 to 1) for adam.")
    rate_end: float = _knob(0.2, "What remains of the rate at the end of a level; small values remove noise.")
    momentum: float = _knob(0.0, "Share of the last step carried on.")
    average: float = _knob(0.0, "Weight of the past in the average of iterates that is shown (0.99 suits adam).")
    refresh_every: int = _knob(1, "Steps that share random directions; lbfgs needs 20 or more on sliced losses.")
    coarsest: int = _knob(64, "Longer side of the coarsest level, about. Smaller lets the style move larger forms.")
    per_octave: int = _knob(2, "Levels per halving of the size.")
    pooling: str = _knob("avg", "avg or max, for VGG.")
    padding: str = _knob("reflect", "How networks see borders: reflect, zeros, replicate, circular.")
    checkpoint: bool = _knob(False, "Compute activations twice instead of keeping them: less memory, a third slower.")

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        algebra.parse(self.loss, STYLE_TERMS)
        algebra.parse(self.content_loss, CONTENT_TERMS)
        self.descent()
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
        if self.steps < 1 or not 0 < self.first_level < math.inf:
            raise ConfigError(f"steps={self.steps} must be at least 1 and first_level={self.first_level} above 0")
        if self.coarsest < SMALLEST or self.per_octave < 1:
            raise ConfigError(
                f"coarsest={self.coarsest} must be at least {SMALLEST} px and per_octave={self.per_octave} at least 1"
            )

    def descent(self) -> Optimiser:
        """The optimiser these settings describe."""
        return Optimiser(
            name=self.optimiser,
            rate=self.rate,
            rate_end=self.rate_end,
            momentum=self.momentum,
            average=self.average,
            refresh_every=self.refresh_every,
        )
