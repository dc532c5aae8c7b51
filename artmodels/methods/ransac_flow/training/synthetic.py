"""Pairs of pictures of which the truth is known: one is warped, and either may be in another hand, worn or covered.

The target is the source read at places that a thin-plate spline (Bookstein 1989) and a homography say; so where each
of its pixels lies in the source is exact. What the paper has instead are pairs of photographs that were roughly
aligned; a collection of copies after one another is not here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence import geometry
from artmodels.settings import Settings, Share, Weight

__all__ = ["WarpedPairs", "WarpConfig", "Warper", "closer", "covers", "make_pairs", "thin_plate"]

Restyle = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class WarpConfig(Settings):
    """How far pictures are moved, in pixels of their own."""

    bend: Annotated[Weight, "Deviation of the points of the coarse spline; each pair draws its share of it."] = 10.0
    ripple: Annotated[Weight, "The same of the fine spline."] = 2.5
    corners: Annotated[Weight, "Deviation of the corners that a homography moves."] = 8.0
    points: Annotated[int, Ge(2), "Points a side of the coarse spline."] = 4
    fine: Annotated[int, Ge(2), "Points a side of the fine spline."] = 8
    covered: Annotated[Share, "Chance that something covers a part of either picture."] = 0.4
    apart: Annotated[Share, "Chance that both show something else."] = 0.06


@dataclass(frozen=True, eq=False)
class WarpedPairs:
    """Pictures and their truth."""

    source: Tensor  # [N, 3, H, W] in [0, 1]
    target: Tensor
    grid: Tensor  # [N, H, W, 2], where each pixel of the target lies in the source, relative
    seen: Tensor  # [N, 1, H, W], 1 where the source shows what the target shows there, else 0

    def to(self, device: torch.device) -> "WarpedPairs":
        """The same on a device."""
        return WarpedPairs(*(tensor.to(device) for tensor in (self.source, self.target, self.grid, self.seen)))


def _lattice(points: int) -> Tensor:
    """Places evenly over the picture, edges included: [points², 2]."""
    line = torch.linspace(-1, 1, points, dtype=torch.float64)
    return torch.cartesian_prod(line, line).flip(1)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    squared = (first[:, None] - second[None]).square().sum(-1)
    kernel: Tensor = squared * squared.clamp_min(1e-300).log()
    return kernel


def thin_plate(points: Tensor, at: Tensor) -> Tensor:
    """How a thin-plate spline that is moved at points [K, 2], not on one line, moves others [M, 2]: a matrix [M, K].

    Its product with displacements of the points [K, ...] interpolates these.
    """
    points, at = points.double(), at.double()
    count = len(points)
    affine = torch.cat([torch.ones(count, 1, dtype=torch.float64), points], 1)
    system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
    system[:count, :count] = _kernel(points, points)
    system[:count, count:], system[count:, :count] = affine, affine.T
    solution: Tensor = torch.linalg.inv(system)[:, :count]
    basis = torch.cat([_kernel(at, points), torch.ones(len(at), 1, dtype=torch.float64), at], 1)
    return basis @ solution


class Warper:
    """Draws smooth maps of pictures of one size; the splines' matrices are computed once."""

    def __init__(self, config: WarpConfig, height: int, width: int) -> None:
        """For pictures of so many pixels."""
        self.config, self.height, self.width = config, height, width
        self.identity = geometry.identity(height, width)
        flat = self.identity.flatten(0, 1)
        self.coarse = thin_plate(_lattice(config.points), flat).float()
        self.fine = thin_plate(_lattice(config.fine), flat).float()

    def __call__(self, count: int, rng: torch.Generator) -> Tensor:
        """Draw maps from target to source, [count, H, W, 2], relative."""
        config = self.config
        pixel = 2 / torch.tensor([self.width, self.height], dtype=torch.float32)
        total = self.identity.expand(count, -1, -1, -1)
        share = torch.rand(count, 3, 1, 1, generator=rng)
        for number, (matrix, deviation) in enumerate(((self.coarse, config.bend), (self.fine, config.ripple))):
            moved = torch.randn(count, matrix.shape[1], 2, generator=rng) * share[:, number] * deviation * pixel
            total = total + (matrix @ moved).view(count, self.height, self.width, 2)
        corners = torch.tensor(geometry.CORNERS).expand(count, -1, -1)
        moved = corners + torch.randn(count, 4, 2, generator=rng) * share[:, 2] * config.corners * pixel
        matrix, _ = geometry.minimal(corners.double(), moved.double(), "homography")
        return geometry.apply(matrix.float(), total.flatten(1, 2)).view(total.shape)


def covers(count: int, height: int, width: int, chance: float, rng: torch.Generator) -> Tensor:
    """Soft-edged blobs that cover a part of a picture: [count, 1, H, W] in [0, 1], 1 where it is covered."""
    wavy = torch.randn(count, 1, 6, 6, generator=rng)
    wavy = F.interpolate(wavy, (height, width), mode="bicubic", align_corners=False)
    # From none to a third of the picture.
    share = 1 - 0.35 * torch.rand(count, 1, generator=rng)
    level = torch.stack([each.quantile(q) for each, q in zip(wavy.flatten(1), share[:, 0], strict=True)])
    drawn = torch.rand(count, generator=rng) < chance
    soft = ((wavy - level.view(-1, 1, 1, 1)) * 12 + 0.5).clamp(0, 1)
    return soft * drawn.view(-1, 1, 1, 1)


def make_pairs(
    pictures: Tensor, others: Tensor, warper: Warper, rng: torch.Generator, *, restyle: Restyle | None = None
) -> WarpedPairs:
    """Make a pair of each picture [N, 3, H, W] in [0, 1], by a warper for their size.

    `others` cover them, and are shown instead where pairs have nothing in common. `restyle` gives pictures in another
    hand, place by place, and is used on a half of the sources and a half of the targets.
    """
    config = warper.config
    count, _, height, width = pictures.shape
    grid = warper(count, rng)
    source, target = pictures, F.grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    if restyle is not None:
        changed = torch.rand(2, count, 1, 1, 1, generator=rng) < 0.5
        source = torch.where(changed[0], restyle(source, rng), source)
        target = torch.where(changed[1], restyle(target, rng), target)
    hidden = covers(2 * count, height, width, config.covered, rng)
    source_cover, target_cover = hidden[:count], hidden[count:]
    shuffled = others.roll(1, 0)
    source = source.lerp(shuffled, source_cover)
    target = target.lerp(shuffled.flip(-1), target_cover)
    inside = (grid.abs() <= 1).all(-1)[:, None].float()
    there = F.grid_sample(source_cover, grid, align_corners=False)
    seen = inside * (target_cover < 0.5) * (there < 0.5)
    unlike = torch.rand(count, 1, 1, 1, generator=rng) < config.apart
    source = torch.where(unlike, others, source)
    return WarpedPairs(source, target, grid, torch.where(unlike, 0.0, seen))


def closer(pairs: WarpedPairs, rng: torch.Generator) -> WarpedPairs:
    """A part of each pair at twice the size, of half the sides: what a pass of the fine stage at that size sees."""
    count, _, height, width = pairs.source.shape
    centres = torch.rand(count, 1, 1, 2, generator=rng) - 0.5
    window = centres + geometry.identity(height, width) / 2
    source, target, seen = (
        F.grid_sample(each, window, padding_mode="border", align_corners=False)
        for each in (pairs.source, pairs.target, pairs.seen)
    )
    grid = F.grid_sample(pairs.grid.permute(0, 3, 1, 2), window, padding_mode="border", align_corners=False)
    grid = (grid.permute(0, 2, 3, 1) - centres) * 2
    return WarpedPairs(source, target, grid, (seen > 0.5).float() * geometry.inside(grid)[:, None])
