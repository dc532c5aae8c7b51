"""What a picture must withstand, so that it is more than noise that a network happens to answer to.

Source: Olah et al. 2017, "Feature Visualization", in the order and with the numbers of its library, Lucid (pad, jitter,
scale, rotate, jitter); Fel et al. 2023 (crops and noise). Each draws from a generator, once for all pictures of a step.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["cropped", "jittered", "padded_grey", "random_crops", "rotated", "scaled_by", "with_noise"]

GREY = 0.5  # of what lies outside the picture


def padded_grey(x: Tensor, width: int) -> Tensor:
    """Put a grey frame of so many pixels around pictures [N, 3, h, w]."""
    return F.pad(x, (width,) * 4, value=GREY)


def jittered(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Cut `most` pixels off each side's length, anywhere: [N, 3, h, w] to [N, 3, h - most, w - most]."""
    top, left = torch.randint(most + 1, (2,), generator=generator).tolist()
    return x[..., top : top + x.shape[-2] - most, left : left + x.shape[-1] - most]


def scaled_by(x: Tensor, factor: float) -> Tensor:
    """Resample by bilinear interpolation; sizes are rounded down."""
    size = [max(1, math.floor(factor * side)) for side in x.shape[-2:]]
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def rotated(x: Tensor, degrees: float) -> Tensor:
    """Turn pictures about their middle, anticlockwise, at their size; the corners that come in are grey."""
    if degrees == 0:
        return x
    height, width = x.shape[-2:]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # From places in the result to those in x, in units of half a width and half a height, y downwards.
    turn = torch.tensor([[cos, -sin * height / width, 0], [sin * width / height, cos, 0]], dtype=x.dtype)
    grid = F.affine_grid(turn[None].to(x.device), [1, 1, height, width], align_corners=False)
    moved = F.grid_sample(x - GREY, grid.expand(len(x), -1, -1, -1), align_corners=False)
    return moved + GREY


def chosen(values: Sequence[float], generator: torch.Generator) -> float:
    """One of some values."""
    return values[int(torch.randint(len(values), (), generator=generator))]


def cropped(x: Tensor, centres: Tensor, lengths: Tensor, side: int) -> Tensor:
    """Cut squares out of a picture and bring them to one size; what lies outside is grey.

    Args:
        x: [1, 3, h, w].
        centres: [K, 2], x and y as shares of width and height.
        lengths: [K], sides as shares of those of the picture.
        side: Pixels of a side of the result.

    Returns:
        [K, 3, side, side].
    """
    turn = torch.zeros(len(centres), 2, 3, dtype=x.dtype)
    turn[:, 0, 0] = turn[:, 1, 1] = lengths
    turn[:, :, 2] = 2 * centres - 1
    grid = F.affine_grid(turn.to(x.device), [len(centres), 1, side, side], align_corners=False)
    return F.grid_sample((x - GREY).expand(len(centres), -1, -1, -1), grid, align_corners=False) + GREY


def random_crops(x: Tensor, count: int, share: float, side: int, generator: torch.Generator) -> Tensor:
    """Crops about the middle of each picture, their sides about `share` of its: [N, 3, h, w] to [N * count, ...]."""
    centres = 0.5 + 0.15 * torch.randn(count, 2, generator=generator)
    lengths = (share + 0.05 * torch.randn(count, generator=generator)).clamp(0.05, 1)
    return torch.cat([cropped(one[None], centres, lengths, side) for one in x])


def with_noise(x: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    """Add normal noise, and even noise between minus and plus half as much."""
    normal = deviation * torch.randn(x.shape, generator=generator)
    even = deviation * (torch.rand(x.shape, generator=generator) - 0.5)
    return x + (normal + even).to(x)
