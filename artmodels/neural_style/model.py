"""What neural style adds to the losses of texture synthesis: the content losses, colour, and where each style goes.

Sources: Gatys et al. 2016, "Image style transfer using convolutional neural networks" (content loss, eq. 1); Gatys et
al. 2016, "Preserving color in neural artistic style transfer" (colour); Elnekave & Weiss 2022 (patches for style).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from artmodels.errors import ConfigError
from artmodels.texture_synthesis import sliced
from artmodels.texture_synthesis.algebra import Bound, Context, Features, Layers, Moments, Term, recommended

__all__ = [
    "CONTENT_TERMS",
    "Content",
    "Pixels",
    "histogram_matched",
    "linearly_matched",
    "luminance",
    "palette_matched",
    "shares",
    "with_chroma",
]

EPSILON = 1e-12
LUMA = (0.299, 0.587, 0.114)  # Y of YIQ and YCbCr (Rec. 601)


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


def luminance(image: Tensor) -> Tensor:
    """Y of [1, 3, H, W], as [1, 1, H, W]."""
    return (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def with_chroma(bright: Tensor, content: Tensor) -> Tensor:
    """An image with the luminance of one and the chroma of another (Gatys et al. 2016, "Preserving color", sec. 3.2).

    Y enters red, green and blue alike, so that chroma is kept by adding the change of Y to all three. Where the sum
    would leave [0, 1], Y stops at the last value that does not: chroma is exact, always.

    Args:
        bright: Luminance [1, 1, H, W].
        content: [1, 3, H, W] in [0, 1].
    """
    offset = content - luminance(content)
    least, greatest = -offset.amin(dim=1, keepdim=True), 1 - offset.amax(dim=1, keepdim=True)
    return offset + torch.maximum(least, torch.minimum(greatest, bright))


def linearly_matched(image: Tensor, reference: Tensor) -> Tensor:
    """Give an image the mean colour and colour covariance of another by the optimal linear map between Gaussians.

    Source: Gatys et al. 2016, "Preserving color", sec. 3.1, with the symmetric map A = Si^-1/2 (Si^1/2 Sr Si^1/2)^1/2
    Si^-1/2 of Pitie & Kokaram 2007, which moves colours least. Colours that the image does not vary in stay constant.

    Args:
        image: [1, 3, H, W].
        reference: [1, 3, h, w].

    Returns:
        [1, 3, H, W], not clamped to [0, 1].
    """
    mean, covariance = _colour_moments(image)
    wanted, target = _colour_moments(reference)
    root, inverse = _root(covariance), _root(covariance, inverse=True)
    map_ = inverse @ _root(root @ target @ root) @ inverse
    rows = image[0].flatten(1).double()
    result: Tensor = (map_ @ (rows - mean) + wanted).to(image.dtype).view_as(image)
    return result


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


def _colour_moments(image: Tensor) -> tuple[Tensor, Tensor]:
    rows = image[0].flatten(1).double()  # [3, M]
    mean = rows.mean(dim=1, keepdim=True)
    return mean, (rows - mean) @ (rows - mean).T / rows.shape[1]


def _root(matrix: Tensor, *, inverse: bool = False) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.cpu())
    floor = max(1e-8, 1e-6 * float(values[-1]))  # below: no variation, but for rounding
    roots = values.clamp_min(0).sqrt()
    if inverse:
        roots = torch.where(values > floor, 1 / values.clamp_min(floor).sqrt(), torch.zeros_like(values))
    root: Tensor = (vectors * roots) @ vectors.T
    return root.to(matrix.device)
