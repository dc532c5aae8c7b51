"""What neural style adds to the losses of texture synthesis: the content losses, colour, and where each style goes.

Sources: Gatys et al. 2016, "Image style transfer using convolutional neural networks" (content loss, eq. 1); Gatys et
al. 2016, "Preserving color in neural artistic style transfer" (colour); Elnekave & Weiss 2022 (patches for style).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from artmodels.descent import sliced
from artmodels.descent.algebra import Bound, Context, Features, Layers, Moments, Term, recommended
from artmodels.errors import ConfigError
from artmodels.images.colour import linearly_matched

__all__ = [
    "CONTENT_TERMS",
    "Content",
    "Pixels",
    "histogram_matched",
    "palette_matched",
    "shares",
]

EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True)
class Content(Term):
    """Squared difference of features, place by place (Gatys et al. 2016, eq. 1).

    Attributes:
        layers: Taps.
        normalisation: "relative" divides by the variance of the content's features over the layer; "gatys" is the
            paper's 1/2 of the sum.
    """

    name: ClassVar[str] = "content"
    layers: Layers = None
    normalisation: Literal["relative", "gatys"] = "relative"

    def __post_init__(self) -> None:
        """Check the choice."""
        if self.normalisation not in ("relative", "gatys"):
            raise ConfigError(f"content normalisation {self.normalisation!r} is not 'relative' or 'gatys'")

    def taps(self, context: Context) -> tuple[str, ...]:
        """The layers."""
        return recommended(self.layers, context, "content")

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the content's features."""
        kept = {tap: features[tap].detach() for tap in self.taps(context)}
        scales = dict.fromkeys(kept, 0.5)
        if self.normalisation == "relative":
            spread = {tap: (f - f.mean(dim=(2, 3), keepdim=True)).square().sum() for tap, f in kept.items()}
            scales = {tap: 1 / (len(kept) * max(float(total), EPSILON)) for tap, total in spread.items()}
        return _BoundContent(kept, scales)


class _BoundContent(Bound):
    def __init__(self, features: Features, scales: Mapping[str, float]) -> None:
        self.features = features
        self.scales = scales

    def __call__(self, x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
        return torch.stack(
            [scale * (features[tap] - self.features[tap]).square().sum() for tap, scale in self.scales.items()]
        ).sum()


@dataclass(frozen=True, kw_only=True)
class Pixels(Term):
    """Squared difference of pixels, relative to the content's variance: a content loss that needs no network.

    Reduced images hold coarse form and leave fine texture to the style.

    Attributes:
        octave: How often the image is first reduced by two.
    """

    name: ClassVar[str] = "pixels"
    octave: int = 0

    def __post_init__(self) -> None:
        """Check the range."""
        if self.octave < 0:
            raise ConfigError(f"pixels octave={self.octave} must be 0 or more")

    def terms(self) -> Iterator[tuple[float, int, Term]]:
        """Yield itself, at its octave."""
        yield 1.0, self.octave, self

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the content."""
        return _BoundPixels(exemplar)


class _BoundPixels(Bound):
    def __init__(self, content: Tensor) -> None:
        self.content = content
        spread = (content - content.mean(dim=(2, 3), keepdim=True)).square().sum()
        self.scale = 1 / max(float(spread), EPSILON)

    def __call__(self, x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
        return self.scale * (x - self.content).square().sum()


CONTENT_TERMS: dict[str, type[Term]] = {term.name: term for term in (Content, Pixels)}


def shares(masks: Sequence[Tensor], weights: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """What share each style has in each pixel.

    Where masks overlap, the styles mix by their weights; a pixel is painted as far as its strongest mask says.

    Args:
        masks: [1, 1, H, W] in [0, 1], one a style.
        weights: Positive, one a style.

    Returns:
        The shares [1, 1, H, W], which sum to the coverage, and the coverage [1, 1, H, W]: the largest mask.
    """
    weighted = torch.cat([mask * weight for mask, weight in zip(masks, weights, strict=True)])  # [S, 1, H, W]
    coverage = torch.cat(list(masks)).amax(dim=0, keepdim=True)
    total = weighted.sum(dim=0, keepdim=True).clamp_min(EPSILON)
    return [share[None] for share in weighted / total * coverage], coverage


def histogram_matched(image: Tensor, reference: Tensor) -> Tensor:
    """Give each channel of [1, 3, H, W] the histogram of the same channel of [1, 3, h, w]."""
    rows, ascending = image[0].flatten(1), sliced.sorted_values(reference[0].flatten(1))
    return sliced.transported(rows, ascending).view_as(image)


def palette_matched(content: Tensor, styles: Sequence[Tensor], regions: Sequence[Tensor], coverage: Tensor) -> Tensor:
    """The content in the colours of the styles, each in its region; where no style goes, as it was."""
    result = content * (1 - coverage)
    for style, region in zip(styles, regions, strict=True):
        result = result + region * linearly_matched(content, style).clamp(0, 1)
    return result
