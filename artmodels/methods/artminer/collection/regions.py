"""Descriptors of regions: windows of cells in a few sizes, weighted by how much a place differs from its neighbours.

The weights are those of the first step of the pair score of Shen, Efros and Aubry 2019 (arXiv:1903.02678, section 3.2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from annotated_types import Interval, MinLen
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence.cells import EPSILON, Pyramid, saliency
from artmodels.settings import Count, Settings

__all__ = ["COLUMNS", "RegionConfig", "CellRegions", "describe_regions"]

COLUMNS = 5
PARTS = 4  # of a picture along each side, of which each gives its share of the regions


@dataclass(frozen=True, kw_only=True)
class RegionConfig(Settings):
    """Which windows are described."""

    scales: Annotated[tuple[Count, ...], MinLen(1), "Cells of the longer side of the maps with the windows."] = (36, 20)
    sizes: Annotated[
        tuple[Count, ...], MinLen(1), "Cells of the side of a window; neighbours overlap by half, rounded down."
    ] = (3, 5, 8)
    saliency: Annotated[float, Interval(ge=0, le=2), "Windows whose mean weight is below this are dropped."] = 0.02
    most: Annotated[
        Count,
        "Of a view that are kept: the most salient ones of each scale and size in each of 4 x 4 parts of the picture, "
        "the same share of all. The most salient of all would be small windows in the busiest part, and what two "
        "pictures share may be elsewhere.",
    ] = 300

    @classmethod
    def of(cls, scales: Sequence[int]) -> Self:
        """The usual windows, of those scales that are nearest to the usual ones."""
        usual = cls().scales
        return cls(scales=tuple(dict.fromkeys(min(scales, key=lambda scale: abs(scale - wanted)) for wanted in usual)))


@dataclass(frozen=True, eq=False)
class CellRegions:
    """Regions of one picture, the most salient first.

    A row of the table is the number of the view, relative x and y of the centre, the side as a share of the longer side
    of the picture, and the saliency.
    """

    descriptors: Tensor  # [n, D] of length 1
    table: Tensor  # [n, 5] float32


def describe_regions(pyramid: Pyramid, config: RegionConfig, *, view: int = 0) -> CellRegions:
    """Weighted means of the cells of windows, of length 1; none where nothing differs from its neighbours.

    The pyramid is that of a picture in the view of this number.
    """
    descriptors, tables, kinds = list[Tensor](), list[Tensor](), list[Tensor]()
    for scale in config.scales:
        cells = pyramid.at(scale).float()
        weight = saliency(cells)
        weighted = torch.cat([cells * weight, weight[None]])
        for size in config.sizes:
            sides = [min(size, length) for length in cells.shape[1:]]
            starts = [_starts(length, side) for length, side in zip(cells.shape[1:], sides, strict=True)]
            down, across = (_means(*axis) for axis in zip(starts, cells.shape[1:], sides, strict=True))
            means = (down @ weighted @ across.T).flatten(1)
            pick = torch.cartesian_prod(*starts)
            centres = (pick.float() + torch.tensor(sides) / 2) / torch.tensor(cells.shape[1:])
            share = means.new_full((len(pick),), max(sides) / scale)
            number = torch.full_like(share, view)
            part = (centres * PARTS).long()
            kinds.append((len(kinds) * PARTS + part[:, 0]) * PARTS + part[:, 1])
            descriptors.append(means[:-1].T)
            tables.append(torch.stack([number, centres[:, 1], centres[:, 0], share, means[-1]], 1))
    found, table, kind = torch.cat(descriptors), torch.cat(tables), torch.cat(kinds)
    # Opposite neighbours may cancel out: without a direction there is nothing to compare.
    kept = ((table[:, 4] >= config.saliency) & (found.norm(dim=1) > EPSILON)).nonzero()[:, 0]
    kept = kept[table[kept, 4].sort(descending=True, stable=True).indices]
    kept = kept[_shared_out(kind[kept], config.most)]
    return CellRegions(F.normalize(found[kept], dim=1), table[kept])


def _shared_out(kind: Tensor, most: int) -> Tensor:
    """Positions, rising, of the first ones of each kind [n]: the same share of each, `most` in all."""
    order = kind.sort(stable=True).indices
    first = torch.searchsorted(kind[order], kind[order])
    share = torch.empty(len(kind), dtype=torch.float64)
    share[order] = (torch.arange(len(kind)) - first + 0.5).double() / kind.bincount()[kind[order]]
    return share.sort(stable=True).indices[:most].sort().values


def _starts(length: int, side: int) -> Tensor:
    """First cells of windows that overlap by half and reach both ends."""
    starts = torch.arange(0, length - side + 1, (side + 1) // 2)
    return starts if starts[-1] == length - side else torch.cat([starts, starts.new_tensor([length - side])])


def _means(starts: Tensor, length: int, side: int) -> Tensor:
    """The matrix [n, length] that takes cells to means of the windows that begin there."""
    cells = torch.arange(length) - starts[:, None]
    return ((cells >= 0) & (cells < side)).float() / side
