"""Images as grids of cells: their sizes, the seven scales, and unit-length features of each cell.

Shen, Efros and Aubry 2019, "Discovering Visual Patterns in Art Collections with Spatially-Consistent Feature Learning"
(arXiv:1903.02678), section 3. A cell is one position of a feature map. A side of F cells is exactly (F - 1) * stride +
stride - 1 pixels long, so the shape of a picture is kept up to the rounding of cells. Where the original resamples
without a filter, antialiased bicubic interpolation is used here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.errors import ConfigError
from artmodels.features.extractor import FeatureExtractor
from artmodels.images.resampling import resized

__all__ = ["SCALES", "Describer", "Pyramid", "grid", "saliency", "scale_list", "side"]

STRIDE = 16
EPSILON = 1e-7


def scale_list(base: int = 20, octaves: int = 2, per_octave: int = 3) -> tuple[int, ...]:
    """Cells of the longer side at each scale, largest first: floor(b (2^O - 2^(k / S))) + b for k = 0 ... O S."""
    return tuple(
        math.floor(base * (2**octaves - 2 ** (k / per_octave))) + base for k in range(octaves * per_octave + 1)
    )


SCALES: tuple[int, ...] = scale_list()  # 80, 74, 68, 60, 49, 36, 20


def side(cells: int, stride: int = STRIDE) -> int:
    """Pixels that make so many cells: 639 for 40, at a stride of 16."""
    return (cells - 1) * stride + stride - 1


def grid(height: float, width: float, longest: int, *, least: int = 1) -> tuple[int, int]:
    """Rows and columns of a picture whose longer side is to have `longest` cells; the other has at least `least`."""
    shorter = max(round(longest * min(height, width) / max(height, width)), least)
    return (longest, shorter) if height >= width else (shorter, longest)


@dataclass(frozen=True, eq=False)
class Pyramid:
    """Features of one picture, of so many pixels, at several scales."""

    maps: tuple[Tensor, ...]  # [D, R_k, C_k] of each scale, each cell of length 1; float32 or float16
    width: int
    height: int

    def at(self, longest: int) -> Tensor:
        """The map [D, R, C] whose longer side has so many cells.

        Raises:
            ConfigError: There is none.
        """
        for found in self.maps:
            if max(found.shape[1:]) == longest:
                return found
        sides = ", ".join(str(max(found.shape[1:])) for found in self.maps)
        raise ConfigError(f"there is no scale of {longest} cells among {sides}: choose one of them")


class Describer:
    """Features of cells: a backbone's at one tap, optionally in fewer dimensions, scaled to length 1."""

    def __init__(self, backbone: FeatureExtractor, tap: str, projection: Tensor | None = None) -> None:
        """Take a backbone, on the device that is to be used, and the tap whose positions are the cells.

        A projection [C, D] is multiplied to each cell's C features before they are scaled.
        """
        self.backbone, self.tap, self.projection = backbone, tap, projection
        self.stride = backbone.stride(tap)
        self.least = backbone.minimum_size(tap)
        self.device = backbone.gain.device

    @property
    def dims(self) -> int:
        """D."""
        return self.backbone.channels(self.tap) if self.projection is None else self.projection.shape[1]

    def __call__(self, image: Tensor, rows: int, columns: int) -> Tensor:
        """Features [D, rows, columns] of an image [1, 3, H, W] in [0, 1], brought to that many cells."""
        size = side(rows, self.stride), side(columns, self.stride)
        return self.of_pixels(resized(image, size).clamp(0, 1))[0]

    def of_pixels(self, pictures: Tensor) -> Tensor:
        """Features [N, D, R, C] of pictures [N, 3, H, W] in [0, 1] as they are."""
        rows, columns = (-(-length // self.stride) for length in pictures.shape[-2:])
        short = [max(0, self.least - length) for length in pictures.shape[-2:]]
        if any(short):  # borders are reflected, which takes more pixels than a cell has
            pictures = F.pad(pictures, (0, short[1], 0, short[0]), mode="replicate")
        found = self.backbone(pictures, [self.tap])[self.tap][..., :rows, :columns].float()
        if self.projection is not None:
            found = torch.einsum("nchw,cd->ndhw", found, self.projection)
        return F.normalize(found, dim=1, eps=EPSILON)

    def pyramid(self, image: Tensor, scales: Sequence[int] = SCALES, *, least: int = 1) -> Pyramid:
        """Features of an image [1, 3, H, W] in [0, 1] at several scales."""
        height, width = image.shape[-2:]
        maps = tuple(self(image, *grid(height, width, longest, least=least)) for longest in scales)
        return Pyramid(maps, width, height)


def saliency(cells: Tensor) -> Tensor:
    """How much each cell of [D, R, C], of length 1, differs from its neighbours: [R, C] in [0, 2].

    One minus the mean cosine with the two to four cells beside, above and below (a cell without any: weight 1).
    """
    total, count = cells.new_zeros(cells.shape[1:]), cells.new_zeros(cells.shape[1:])
    for dim in (0, 1):
        length = cells.shape[dim + 1] - 1
        cosine = (cells.narrow(dim + 1, 0, length) * cells.narrow(dim + 1, 1, length)).sum(0)
        for start in (0, 1):
            total.narrow(dim, start, length).add_(cosine)
            count.narrow(dim, start, length).add_(1)
    return 1 - total / count.clamp_min(1)
