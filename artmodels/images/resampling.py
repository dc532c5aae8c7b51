"""Images brought to another size."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["resized"]


def resized(image: Tensor, size: tuple[int, int], *, circular: bool = False) -> Tensor:
    """Resample [1, C, h, w] by antialiased bicubic interpolation, optionally as a torus."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    for dim, length in ((2, size[0]), (3, size[1])):
        if image.shape[dim] == length:
            continue
        repeats = 3 if circular else 1  # the middle of three copies has wrapped neighbours on both sides
        wide = torch.cat([image] * repeats, dim=dim)
        shape = [length * repeats, wide.shape[3]] if dim == 2 else [wide.shape[2], length * repeats]
        wide = F.interpolate(wide, shape, mode="bicubic", antialias=True)
        image = wide.narrow(dim, length, length) if circular else wide
    return image
