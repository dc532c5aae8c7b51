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
        out = np.empty_like(rows)
        _in_threads(rows.shape[0], lambda part: _sort_into(out, rows, part))
        return torch.from_numpy(out)
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
    return torch.lerp(ascending.gather(-1, below), ascending.gather(-1, (below + 1).clamp(max=last)), position - below)


def transported(x: Tensor, ascending: Tensor, weights: Tensor | None = None) -> Tensor:
    """Where optimal transport sends each value: row by row, the k-th smallest of x [D, N] to the k-th of `ascending`.

    Args:
        x: Projections [D, N]; float32 is fastest.
        ascending: Sorted target values [D, N'], resampled by quantiles when N' differs.
        weights: How much each of the N counts, [N] and positive; None for equally.

    Returns:
        Targets [D, N] in the order of x, without gradient.
    """
    order = _argsort(x.detach())
    if weights is None:
        target = quantiles(ascending, x.shape[-1])
    else:
        mass = (weights / weights.sum()).double()[order]
        last = ascending.shape[-1] - 1
        position = ((mass.cumsum(-1) - mass / 2) * (last + 1) - 0.5).clamp(0, last)
        below = position.floor().long()
        above = (below + 1).clamp(max=last)
        target = torch.lerp(ascending.gather(-1, below), ascending.gather(-1, above), (position - below).float())
    return torch.empty_like(target).scatter_(-1, order, target)


def _argsort(x: Tensor) -> Tensor:
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return x.argsort(dim=-1)
    rows = x.contiguous().numpy().view(np.int32)
    out = np.empty(rows.shape, np.int64)
    _in_threads(rows.shape[0], lambda part: _argsort_into(out, rows, part))
    return torch.from_numpy(out)


def _sort_into(out: np.ndarray, rows: np.ndarray, part: slice) -> None:
    out[part] = np.sort(rows[part], axis=-1)


def _argsort_into(out: np.ndarray, rows: np.ndarray, part: slice) -> None:
    # Sorting numbers is vectorised, sorting positions is not: so pack (value, position) in one 64-bit integer. The
    # bits of a float, with those of negative ones flipped, order like the float.
    bits = rows[part]
    packed = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)
    packed <<= 32
    packed |= np.arange(bits.shape[-1])
    packed.sort(axis=-1)
    np.bitwise_and(packed, 0xFFFFFFFF, out=out[part])


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="artmodels-sort")


def _in_threads(rows: int, work: Callable[[slice], None]) -> None:
    parts = min(torch.get_num_threads(), rows)
    cuts = [rows * i // parts for i in range(parts + 1)]
    list(_pool().map(work, [slice(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]))
