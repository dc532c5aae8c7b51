"""What the fine stage is trained to make small.

Equations 2 to 5 of Shen, Darmon, Efros and Aubry 2020 (arXiv:2004.01526) need no labels; the last two are for pairs
that were made, of which the truth is known. Grids say where the target's pixels are in the source, relative, -1 to 1
between outer edges.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence.geometry import identity

__all__ = ["cycle", "endpoint", "masked_mean", "sampled", "smoothness", "ssim", "ssim_loss", "visibility"]

SIDE, SIGMA = 11, 1.5  # px: of the window of SSIM
LUMINANCE, CONTRAST = 0.01**2, 0.03**2
MAJORITY = 0.5  # of the window that has to count for its centre to count
NONE = 1e-3  # px: added to how much counts, so that nothing gives 0


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of [N, 1, H, W] where the mask, in [0, 1], says so; 0 where nothing counts."""
    return (values * mask).sum() / (mask.sum() + NONE)


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Structural similarity of each pixel and channel of pictures [N, C, H, W] in [0, 1], Wang et al. 2004.

    It is at most 1, which is for equal windows; windows that reach outside see 0 there.
    """
    offsets = torch.arange(SIDE, device=first.device) - SIDE // 2
    line = torch.exp(-offsets.square() / (2 * SIGMA**2)).to(first.dtype)
    line = line / line.sum()
    maps = torch.cat([first, second, first * first, second * second, first * second], 1)
    count = maps.shape[1]
    maps = F.conv2d(maps, line.view(1, 1, 1, SIDE).repeat(count, 1, 1, 1), padding=(0, SIDE // 2), groups=count)
    maps = F.conv2d(maps, line.view(1, 1, SIDE, 1).repeat(count, 1, 1, 1), padding=(SIDE // 2, 0), groups=count)
    mean1, mean2, square1, square2, product = maps.chunk(5, 1)
    alike = (2 * mean1 * mean2 + LUMINANCE) * (2 * (product - mean1 * mean2) + CONTRAST)
    total = (mean1**2 + mean2**2 + LUMINANCE) * (square1 - mean1**2 + square2 - mean2**2 + CONTRAST)
    similarity: Tensor = alike / total
    return similarity


def ssim_loss(warped: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Equation 3: 1 - SSIM, averaged over colours and pixels; the mask [N, 1, H, W] has most of their windows.

    Where no pixel counts all do: matchability begins at a half, there and back at a quarter.
    """
    with torch.no_grad():
        counted = F.avg_pool2d(mask, SIDE, stride=1, padding=SIDE // 2) > MAJORITY
        counted |= ~counted.any()
    return masked_mean((1 - ssim(warped, target)).mean(1, keepdim=True), counted.to(warped.dtype))


def sampled(maps: Tensor, grid: Tensor) -> Tensor:
    """Maps [N, C, H, W] where a grid [N, h, w, 2] points to; borders go on outside."""
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def cycle(there: Tensor, back: Tensor, mask: Tensor) -> Tensor:
    """Equation 4: how far from where it began a place lies that went there [N, H, W, 2] and back, relative."""
    returned = sampled(back.permute(0, 3, 1, 2), there).permute(0, 2, 3, 1)
    return masked_mean((returned - identity(*there.shape[1:3]).to(there)).abs().mean(3)[:, None], mask)


def smoothness(displacement: Tensor, mask: Tensor) -> Tensor:
    """Length of the change from each pixel to its neighbour below on the right, where the mask [N, 1, H, W] has it."""
    change = displacement[..., 1:, 1:] - displacement[..., :-1, :-1]
    return masked_mean((change.square().sum(1, keepdim=True) + 1e-12).sqrt(), mask[..., :-1, :-1])


def endpoint(displacement: Tensor, truth: Tensor, mask: Tensor, pixels: float) -> Tensor:
    """Mean distance from the truth, [N, 2, H, W] relative, in units of so many pixels."""
    height, width = truth.shape[2:]
    extent = torch.tensor([width, height], dtype=truth.dtype, device=truth.device).view(1, 2, 1, 1)
    squared = ((displacement - truth) * extent / (2 * pixels)).square().sum(1, keepdim=True)
    # Rounded at the bottom, where a distance has no slope.
    return masked_mean((squared + 1e-4).sqrt(), mask)


def visibility(matchability: Tensor, seen: Tensor) -> Tensor:
    """Cross entropy of the matchability [N, 1, H, W] with what the source really shows of the target, 0 or 1."""
    return F.binary_cross_entropy(matchability.clamp(1e-6, 1 - 1e-6), seen)
