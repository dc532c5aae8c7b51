"""Sliced Wasserstein distances: random directions, and optimal transport of sorted projections along each.

Along one direction the optimal transport between two sets of numbers matches them in sorted order, so the distance
and its gradient cost a sort. Source: Rabin et al. 2011; Heitz et al. 2021 (arXiv:2006.07229) for textures.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

__all__ = ["orthonormal_directions", "quantiles", "sorted_values", "transported"]


def orthonormal_directions(count: int, dimensions: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Random unit directions [count, dimensions], orthogonal within each block of `dimensions` of them.

    Orthogonal directions cover the space evenly, which lowers the variance of the estimate at no cost in bias.
    """
    blocks = -(-count // dimensions)
    gaussian = torch.randn(blocks, min(count, dimensions), dimensions, generator=generator, dtype=torch.float64)
    # Cholesky's way to orthonormal rows: a few small products, where Householder's QR goes column by column.
    lower = torch.linalg.cholesky(gaussian @ gaussian.mT)
    directions = torch.linalg.solve_triangular(lower, gaussian, upper=False).flatten(0, 1)
    result: Tensor = directions[:count].float().to(device)
    return result


def sorted_values(x: Tensor) -> Tensor:
    """Each row of x [D, N] in ascending order."""
    if x.device.type == "cpu":  # NumPy's vectorised sort is several times faster than torch's here
        rows = x.detach().contiguous().numpy()
        return _in_threads(np.sort, rows, np.empty_like(rows))
    return x.detach().sort(dim=-1).values


def quantiles(ascending: Tensor, count: int) -> Tensor:
    """Resample ascending rows [D, N] to [D, count], reading the quantile function linearly between mid-ranks."""
    n = ascending.shape[-1]
    if n == count:
        return ascending
    position = (torch.arange(count, device=ascending.device, dtype=ascending.dtype) + 0.5) * (n / count) - 0.5
    return _read(ascending, position.expand(len(ascending), -1))


def _read(ascending: Tensor, position: Tensor) -> Tensor:
    """Rows [D, N] at fractional positions [D, M], linearly."""
    last = ascending.shape[-1] - 1
    position = position.clamp(0, last)
    below = position.floor().long()
    above = (below + 1).clamp(max=last)
    return torch.lerp(ascending.gather(-1, below), ascending.gather(-1, above), (position - below).to(ascending))


def transported(x: Tensor, ascending: Tensor, weights: Tensor | None = None) -> Tensor:
    """Where optimal transport sends each value: row by row, the k-th smallest of x [D, N] to the k-th of `ascending`.

    The ascending target values [D, N'] are resampled by quantiles when N' differs. `weights` [N], positive, say how
    much each value counts; None: all alike. The targets [D, N] are in the order of x and carry no gradient. float32 is
    fastest.
    """
    order = _argsort(x.detach())
    if weights is None:
        target = quantiles(ascending, x.shape[-1])
    else:
        mass = (weights / weights.sum()).double()[order]
        target = _read(ascending, (mass.cumsum(-1) - mass / 2) * ascending.shape[-1] - 0.5)
    return torch.empty_like(target).scatter_(-1, order, target)


def _argsort(x: Tensor) -> Tensor:
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return x.argsort(dim=-1)
    bits = x.contiguous().numpy().view(np.int32)
    return _in_threads(_argsorted, bits, np.empty(bits.shape, np.int64))


def _argsorted(bits: np.ndarray) -> np.ndarray:
    # Sorting numbers is vectorised, sorting positions is not: so pack (value, position) in one 64-bit integer. The
    # bits of a float, with those of negative ones flipped, order like the float.
    packed: np.ndarray = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    packed <<= 32
    packed |= np.arange(bits.shape[-1])
    packed.sort(axis=-1)
    packed &= 0xFFFFFFFF
    return packed


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="artmodels-sort")


def _in_threads(work: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, out: np.ndarray) -> Tensor:
    """Fill `out` with what `work` makes of the rows, one piece a thread."""

    def fill(part: np.ndarray, room: np.ndarray) -> None:
        room[:] = work(part)

    pieces = min(torch.get_num_threads(), len(rows))
    list(_pool().map(fill, np.array_split(rows, pieces), np.array_split(out, pieces)))
    return torch.from_numpy(out)
