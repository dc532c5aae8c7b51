"""What neural style adds to the losses of texture synthesis: the content losses, colour, and where each style goes.

Sources: Gatys et al. 2016, "Image style transfer using convolutional neural networks" (content loss, eq. 1); Gatys et
al. 2016, "Preserving color in neural artistic style transfer" (colour); Elnekave & Weiss 2022 (patches for style).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from artmodels.descent import sliced
from artmodels.descent.algebra import Bound, Context, Features, FeatureTerm, Moments, Term
from artmodels.images.colour import linearly_matched

__all__ = ["CONTENT_TERMS", "Content", "Pixels", "histogram_matched", "palette_matched", "shares"]

EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True)
class Content(FeatureTerm):
    """Squared difference of features, place by place (Gatys et al. 2016, eq. 1)."""

    name = "content"
    normalisation: Annotated[
        Literal["relative", "gatys"],
        '"relative" divides by the variance of the content\'s features over the layer; "gatys" is the paper\'s 1/2 of '
        "the sum.",
    ] = "relative"

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the content's features."""
        kept = {tap: features[tap].detach() for tap in self.taps(context)}
        scales = dict.fromkeys(kept, 0.5)
        if self.normalisation == "relative":
            scales = {tap: 1 / (len(kept) * _spread(maps)) for tap, maps in kept.items()}

        def loss(x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
            return torch.stack([scales[tap] * (features[tap] - kept[tap]).square().sum() for tap in kept]).sum()

        return loss


@dataclass(frozen=True, kw_only=True)
class Pixels(Term):
    """Squared difference of pixels, relative to the content's variance: a content loss that needs no network.

    Reduced images hold coarse form and leave fine texture to the style.
    """

    name = "pixels"
    octave: Annotated[int, Ge(0), "How often the image is first reduced by two."] = 0

    def terms(self) -> Iterator[tuple[float, int, Term]]:
        """Yield itself, at its octave."""
        yield 1.0, self.octave, self

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the content."""
        scale = 1 / _spread(exemplar)
        return lambda x, features, moments: scale * (x - exemplar).square().sum()


def _spread(maps: Tensor) -> float:
    """Sum of the squared deviations from the mean of each channel, above 0."""
    return max(float((maps - maps.mean(dim=(2, 3), keepdim=True)).square().sum()), EPSILON)


CONTENT_TERMS: dict[str, type[Term]] = {term.name: term for term in (Content, Pixels)}


def shares(masks: Sequence[Tensor], weights: Sequence[float]) -> tuple[list[Tensor], Tensor]:
    """What share each style has in each pixel.

    Each style has a mask [1, 1, H, W] in [0, 1] and a positive weight. Where masks overlap, the styles mix by their
    weights; a pixel is painted as far as its strongest mask says. That is the coverage [1, 1, H, W], which is returned
    too: the sum of the shares [1, 1, H, W].
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
