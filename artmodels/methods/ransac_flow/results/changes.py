"""What differs between two pictures of one thing, once they lie on each other: losses, overpaintings, other hands.

Lightness is compared within small windows, less its mean and spread, so that another exposure, fading or another
technique is no change by itself. It is the structure term of SSIM (Wang et al. 2004); what cannot be matched counts as
changed as well.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from artmodels.detections.boxes import Box
from artmodels.detections.drawing import heat_over
from artmodels.errors import ConfigError
from artmodels.images.colour import luminance
from artmodels.images.resampling import resized
from artmodels.methods.ransac_flow.results.alignment import Alignment

__all__ = ["Changes", "changes"]

EVEN = 0.01  # deviation of lightness in a window below which there is no structure to compare


@dataclass(frozen=True, eq=False)
class Changes:
    """Where the aligned source is unlike the target.

    Attributes:
        tensor: [h, w] in [0, 1] at the working size: 0 where both show the same or nothing, 1 where they do not.
        inside: [h, w] bool, where the source reaches; elsewhere nothing is known, and `tensor` is 0.
        boxes: Regions that differ, in pixels of the target, the largest first: left, top, right, bottom.
        alignment: That they lie on each other by.
    """

    tensor: Tensor
    inside: Tensor
    boxes: tuple[Box, ...]
    alignment: Alignment

    @property
    def image(self) -> Image.Image:
        """The target under the map as heat."""
        return heat_over(self.alignment.pictures[1], self.tensor.numpy(), low=0.0, high=1.0)


def changes(alignment: Alignment, *, window: int = 17, threshold: float = 0.6, least: float = 0.0005) -> Changes:
    """Compare the aligned pictures.

    Args:
        alignment: Of both.
        window: Pixels of the working size of the side of what is compared, odd.
        threshold: From which a place belongs to a region that differs.
        least: Share of the target that a region has at least.

    Raises:
        ConfigError: There is no alignment, or a number is out of range.
    """
    if window < 3 or window % 2 == 0 or not 0 < threshold < 1 or not 0 <= least < 1:
        raise ConfigError(
            f"window={window} must be odd and at least 3, threshold={threshold} in (0, 1), and least={least} in [0, 1)"
        )
    warp = alignment.sound
    size = warp.which.shape[0], warp.which.shape[1]
    moved, inside = warp.read(alignment.pictures[0].tensor(), *size, cubic=False)
    target = resized(alignment.pictures[1].tensor(), size).clamp(0, 1)
    unlike = _unlike(luminance(moved), luminance(target), window)
    unlike = torch.maximum(unlike, 1 - alignment.matchability) * inside
    labels, _ = ndimage.label((unlike >= threshold).numpy())
    scale = [full / working for full, working in zip(alignment.sizes[1][::-1], size, strict=True)]
    found = list[tuple[int, Box]]()
    areas = ndimage.sum_labels(torch.ones(size).numpy(), labels, range(1, labels.max() + 1))
    for place, area in zip(ndimage.find_objects(labels), areas, strict=True):
        if area >= least * size[0] * size[1]:
            rows, columns = place
            top, bottom = rows.start * scale[0], rows.stop * scale[0]
            left, right = columns.start * scale[1], columns.stop * scale[1]
            found.append((int(area), (left, top, right, bottom)))
    found.sort(key=lambda each: -each[0])
    return Changes(unlike, inside, tuple(box for _, box in found), alignment)


def _unlike(first: Tensor, second: Tensor, window: int) -> Tensor:
    """Half of 1 less the correlation of windows of [1, 1, H, W], so that a negative is full change: [H, W]."""

    def mean(x: Tensor) -> Tensor:
        padded = F.pad(x, (window // 2,) * 4, mode="replicate")
        return F.avg_pool2d(F.avg_pool2d(padded, (1, window), stride=1), (window, 1), stride=1)

    means = [mean(each) for each in (first, second)]
    spreads = [(mean(each**2) - m**2).clamp_min(0) for each, m in zip((first, second), means, strict=True)]
    together = mean(first * second) - means[0] * means[1]
    # Two even places are alike, an even one and a structured one are not.
    alike = (together + EVEN**2) / ((spreads[0] * spreads[1]).sqrt() + EVEN**2)
    much = torch.maximum(*(spread.sqrt() for spread in spreads))
    return ((1 - alike.clamp(-1, 1)) / 2 * (much / (much + 2 * EVEN)))[0, 0].clamp(0, 1)
