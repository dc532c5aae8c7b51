"""What tuning minimises on a pair of maps, and the projection of what it gives. Tensors in, tensors out.

Shen, Efros and Aubry 2019 (arXiv:1903.02678), section 3.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from artmodels.correspondence.cells import Describer, grid
from artmodels.errors import ConfigError
from artmodels.methods.artminer.tuning.mining import REACH

__all__ = ["contrast", "principal"]


def contrast(
    first: Tensor, second: Tensor, at: Tensor, there: Tensor, *, negatives: int, threshold: float, masked: bool
) -> tuple[Tensor, Tensor]:
    """How far cells are from being alike where they should be, and unlike elsewhere.

    The terms are [lambda - p]+ and [n - (1 - lambda)]+. p is the greatest cosine of a cell of the first map with the
    3 x 3 cells around its like in the second. n is the mean of the K greatest cosines of the cell with the whole second
    map, or of its like with the whole first one if that is more. But for a constant, the sum of both is
    max(n, 1 - lambda) - min(p, lambda).

    Args:
        first: [D, R, C], each cell of length 1.
        second: [D, R2, C2].
        at: Rows and columns int64 [n, 2] in the first map.
        there: Those of their likes in the second.
        negatives: K; fewer where a map has fewer cells.
        threshold: lambda.
        masked: Whether the 3 x 3 cells are left out of the K.

    Returns:
        Means of both terms.
    """
    at, there = at.to(first.device), there.to(first.device)
    forth, near = _cosines(first, at, second, there)
    back, near_back = _cosines(second, there, first, at)
    alike = forth.masked_fill(~near, -torch.inf).amax(1)
    wrong = torch.maximum(_hardest(forth, near & masked, negatives), _hardest(back, near_back & masked, negatives))
    return (threshold - alike).relu().mean(), (wrong - (1 - threshold)).relu().mean()


def _cosines(source: Tensor, at: Tensor, target: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines [n, R C] of cells of one map with all of another, and which of these are around the right one."""
    cosines = source[:, at[:, 0], at[:, 1]].T @ target.flatten(1)
    rows, columns = (torch.arange(length, device=there.device) for length in target.shape[1:])
    near = ((rows - there[:, :1]).abs() <= REACH)[:, :, None] & ((columns - there[:, 1:]).abs() <= REACH)[:, None]
    return cosines, near.flatten(1)


def _hardest(cosines: Tensor, excluded: Tensor, count: int) -> Tensor:
    """Mean [n] of the greatest cosines [n, m] among those that are not excluded."""
    count = min(count, int((~excluded).sum(1).min()))
    return cosines.masked_fill(excluded, -torch.inf).topk(count, dim=1).values.mean(1)


def principal(describer: Describer, pictures: Iterable[Tensor], longest: int, dims: int) -> Tensor:
    """The directions [C, dims] along which unit features of cells are largest: orthonormal, the most important first.

    Nothing is subtracted first, since a projection cannot: these directions keep cosines best. Of each, the entry of
    largest magnitude is positive. The describer has no projection; each picture [1, 3, H, W] is described by `longest`
    cells on its longer side. More directions than channels are a ConfigError.
    """
    if dims > describer.dims:
        raise ConfigError(f"dims={dims} is more than the {describer.dims} channels of {describer.tap!r}")
    total = torch.zeros(describer.dims, describer.dims, dtype=torch.float64)
    for picture in pictures:
        height, width = picture.shape[2:]
        cells = describer(picture, *grid(height, width, longest)).flatten(1).cpu().double()
        total += cells @ cells.T / cells.shape[1]
    basis = torch.linalg.eigh(total).eigenvectors.flip(1)[:, :dims]
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    directions: Tensor = (basis * largest.sign()).float()
    return directions
