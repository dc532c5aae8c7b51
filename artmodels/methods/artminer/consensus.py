"""Which matches of two pictures agree on one transform: hypotheses, their scores, and what survives of the best.

Shen, Efros and Aubry 2019, "Discovering Visual Patterns in Art Collections with Spatially-Consistent Feature Learning"
(arXiv:1903.02678), section 5. Samples are drawn and solved as in `artmodels.correspondence`, in float64 on the CPU; all
hypotheses are scored on all matches in float32, where the features are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from artmodels.correspondence.geometry import Model, least_squares
from artmodels.images.decoding import Array

__all__ = ["Matches", "best_of_each", "plausible", "refitted", "scores", "surviving"]

# Matches lie on a lattice, so that residuals of exactly the tolerance are common: they are outside, whatever the
# rounding. This is the share of the squared tolerance that is left out for it.
ROUNDING = 1e-4
EDGE = 1e-6  # what is so near an edge, of a cell or of what is plausible, is on the same side whatever the rounding
HORIZON = 1e-6  # least depth of a point that is in front
SCALE, ANISOTROPY, SHEAR = 4.0, 3.0, 0.5  # bounds of plausible transforms; shear in radians
SIDE = 1000  # cells a side that a deduced target must be below
REUSED = 2**20  # bytes of a block on a CPU: a few of these stay in its cache, and the allocator keeps them


@dataclass(frozen=True, eq=False)
class Matches:
    """The m mutual matches of a pair at all scales, on the CPU."""

    cell: Tensor  # [m] int64, row * columns + column in the reference without its margin; once at most for each scale
    first: Tensor  # [m, 2] float64, (x, y) in the reference, in the units of the tolerance
    second: Tensor  # [m, 2] float64, (x, y) in the target
    similarity: Tensor  # [m] float32, above 0
    extent: tuple[float, float]  # width and height of the whole target in the units of `second`
    cells: tuple[float, float]  # (x, y) cells of the reference that a unit of `first` is
    target_cells: tuple[float, float]  # the same of `second`, for a target brought to the reference's longer side
    tolerance: float  # in the units of `first`


def plausible(transforms: Tensor, matches: Matches) -> Tensor:
    """Which transforms [n, 3, 3] a copyist could have made: [n] bool.

    The scale is within 1/4 and 4 (1 where both pictures show the thing at the same share of their longer side), the
    ratio of the largest to the smallest stretch below 3, the angle of the axes within 0.5 rad of a right one, and
    nothing is mirrored. A homography is looked at in the middle of the target; its horizon must be outside.
    """
    width, height = matches.extent
    corners = torch.tensor([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], dtype=torch.float64)
    within = (transforms[:, 2] @ corners.T > HORIZON).all(1)
    middle = transforms @ torch.tensor([width / 2, height / 2, 1], dtype=torch.float64)  # [n, 3]
    depth = torch.where(within, middle[:, 2], 1.0)[:, None, None]
    slope = (transforms[:, :2, :2] - (middle[:, :2] / depth[:, 0])[..., None] * transforms[:, 2:, :2]) / depth
    units = torch.tensor([matches.cells, matches.target_cells], dtype=torch.float64)
    a, b, c, d = (slope * units[0, :, None] / units[1]).flatten(1).unbind(1)
    same, other = torch.hypot(a + d, c - b) / 2, torch.hypot(a - d, c + b) / 2
    determinant = a * d - b * c
    skew = (a * b + c * d).abs() < math.sin(SHEAR) * torch.hypot(a, c) * torch.hypot(b, d)
    scale = determinant.clamp(min=0).sqrt()
    sized = (scale >= 1 / SCALE - EDGE) & (scale <= SCALE + EDGE)
    return within & sized & skew & (same + other < (ANISOTROPY - EDGE) * (same - other))


def _layers(cell: Tensor) -> tuple[Tensor, list[int]]:
    """An order of matches [m] in layers, and the layers' sizes: the l-th matches of cells, cells with most ones first.

    Each layer is then a prefix of the first in terms of cells, so that the largest of each cell is a few maxima of
    slices, with no scatter.
    """
    order = torch.argsort(cell, stable=True)
    _, group, sizes = torch.unique_consecutive(cell[order], return_inverse=True, return_counts=True)
    rank = torch.arange(len(cell)) - (sizes.cumsum(0) - sizes)[group]
    place = torch.empty_like(sizes)
    place[torch.argsort(sizes, descending=True, stable=True)] = torch.arange(len(sizes))
    return order[torch.argsort(rank * len(sizes) + place[group])], torch.bincount(rank).tolist()


def scores(transforms: Tensor, matches: Matches, device: torch.device | str = "cpu") -> Tensor:
    """Score each hypothesis on all matches: sum over reference cells of the best s exp(-e^2 / t^2), where e < t.

    Transforms [n, 3, 3] float64 go from target to reference; the scores [n] float32 are on the CPU.
    """
    order, sizes = _layers(matches.cell)
    origin = matches.first.mean(0)  # near it float32 has digits to spare
    known, points = ((matches.first - origin) / matches.tolerance)[order].T, matches.second[order]
    points = torch.cat([points.T, torch.ones(1, len(order), dtype=torch.float64)])  # [3, m]
    moved = transforms.clone()
    moved[:, :2] = (moved[:, :2] - origin[:, None] * moved[:, 2:]) / matches.tolerance
    weight = matches.similarity[order].to(device)
    projective = bool((transforms[:, 2, :2] != 0).any())
    known, points, moved = (tensor.to(device, torch.float32) for tensor in (known, points, moved))
    if not projective:  # T x2 - x1 is one product
        known = torch.cat([points, known])  # [5, m]
        minus = torch.tensor([[-1.0, 0.0], [0.0, -1.0]], device=device).expand(len(moved), 2, 2)
        moved = torch.cat([moved[:, :2], minus], 2).transpose(0, 1).contiguous()  # [2, n, 5]
    found = torch.empty(len(transforms), device=device)
    bound = REUSED if found.device.type == "cpu" else REUSED * 2**8
    rows = max(1, bound // (4 * len(order)))
    for start in range(0, len(found), rows):
        if projective:
            part = moved[start : start + rows]
            depth = part[:, 2] @ points
            x, y = ((part[:, axis] @ points).div_(depth).sub_(known[axis]) for axis in (0, 1))
            distance = x.square_().addcmul_(y, y).masked_fill_(depth <= HORIZON, math.inf)
        else:
            x, y = (coordinate[start : start + rows] @ known for coordinate in moved)
            distance = x.square_().addcmul_(y, y)
        # Of far more than 1 the exponential would be a denormal number, which takes three times as long.
        value = distance.clamp_(max=2).neg_().exp_()
        torch.threshold_(value, math.exp(ROUNDING - 1), 0.0)
        value.mul_(weight)
        offset = sizes[0]
        best = value[:, :offset]
        for size in sizes[1:]:
            torch.maximum(best[:, :size], value[:, offset : offset + size], out=best[:, :size])
            offset += size
        torch.sum(best, 1, out=found[start : start + rows])
    return found.cpu()


def refitted(model: Model, transform: Tensor, matches: Matches) -> Tensor:
    """Fit a transform to the matches that agree with it, by least squares with the weights s exp(-e^2 / t^2).

    A hypothesis [3, 3] goes through its few points exactly; this one has the errors of all. Where the matches that
    agree do not determine the model, the smallest of the solutions is taken, and where nothing agrees, the hypothesis:
    see with `plausible` and `scores` whether the result is better.
    """
    moved = torch.cat([matches.second, torch.ones_like(matches.second[:, :1])], 1) @ transform.T
    away = (moved[:, :2] / moved[:, 2:] - matches.first) / matches.tolerance
    square = away.square().sum(1)
    agreeing = (square < 1 - ROUNDING) & (moved[:, 2] > HORIZON)
    if not agreeing.any():
        return transform
    weights = matches.similarity[agreeing] * (-square[agreeing]).exp()
    unit = max(matches.extent)  # with coordinates of about 1 no digit is lost
    found = least_squares(matches.second[agreeing] / unit, matches.first[agreeing] / unit, weights, model)
    found[:2, 2] *= unit
    found[2, :2] /= unit
    return found


def best_of_each(key: Array, value: Array) -> NDArray[np.int64]:
    """Positions of the largest value of each key, the first of equal ones; in the order of keys."""
    order = np.lexsort((-value, key))
    return order[np.unique(key[order], return_index=True)[1]]


def _in_large_parts(cells: NDArray[np.int64], shape: tuple[int, int], least: int) -> NDArray[np.bool_]:
    """Which of the cells [n, 2] lie in 8-connected components of at least so many."""
    mask = np.zeros(shape, bool)
    mask[cells[:, 0], cells[:, 1]] = True
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    large: NDArray[np.bool_] = (np.bincount(labels.ravel()) >= least)[labels[cells[:, 0], cells[:, 1]]]
    return large


def surviving(
    transform: Tensor, matches: Matches, shape: Sequence[int], least: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[int, int], str]:
    """What is left of the matches once they agree with a transform, pair cells one to one and lie in patches.

    Patches are 8-connected and have `least` cells, in both pictures; `shape` is that of the reference in cells, without
    its margin. Gives positions [n] of the matches that are left, their cells (row, column) [n, 2] in the target, the
    target's shape in cells that are as large as the reference's, and why none is left, or "".
    """
    matrix, second = transform.numpy(), matches.second.numpy()
    extent = np.array(matches.extent)
    projected = np.c_[second, np.ones(len(second))] @ matrix.T
    with np.errstate(divide="ignore", invalid="ignore"):  # a point on the horizon of a homography is an outlier
        distance = projected[:, :2] / projected[:, 2:] - matches.first.numpy()
        inlier = np.square(distance / matches.tolerance).sum(1) < 1 - ROUNDING
        axes = np.array([[0, 0, 1], [extent[0], 0, 1], [0, extent[1], 1]]) @ matrix.T
        corners = axes[:, :2] / axes[:, 2:]
        columns, rows = np.hypot(*((corners[1:] - corners[0]) * matches.cells).T)
    size = f"{rows:.3g} x {columns:.3g}"
    # NaN and infinity are refused as well.
    if not (0.5 <= rows + EDGE < SIDE - 0.5 and 0.5 <= columns + EDGE < SIDE - 0.5):
        return np.zeros(0, np.int64), np.zeros((0, 2), np.int64), (0, 0), f"the transform makes the target {size} cells"
    grid = math.floor(rows + 0.5 + EDGE), math.floor(columns + 0.5 + EDGE)
    kept = np.flatnonzero(inlier & (projected[:, 2] > 0))
    cell, similarity = matches.cell.numpy(), matches.similarity.numpy()
    kept = kept[best_of_each(cell[kept], similarity[kept])]
    place = (second[kept][:, ::-1] / extent[::-1] * grid + EDGE).astype(np.int64).clip(max=np.array(grid) - 1)
    chosen = np.sort(best_of_each(place[:, 0] * grid[1] + place[:, 1], similarity[kept]))
    kept, place = kept[chosen], place[chosen]
    while len(kept):
        here = np.stack(np.divmod(cell[kept], shape[1]), 1)
        large = _in_large_parts(here, (shape[0], shape[1]), least) & _in_large_parts(place, grid, least)
        if large.all():
            return kept, place, grid, ""
        kept, place = kept[large], place[large]
    return kept, place, grid, f"no patch of {least} cells that touch agrees with the transform"
