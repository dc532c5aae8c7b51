"""Patches of the result matched one by one to the most similar patches of the style: strokes stay whole.

Sources: Li & Wand 2016, "Combining Markov random fields and convolutional neural networks", here on raw colour patches;
Granot et al. 2022, "Drop the GAN: in defense of patches nearest neighbors" (variety).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.descent.algebra import Bound, Context, Features, Moments, Term
from artmodels.errors import ConfigError

__all__ = ["PatchNearest", "first_minimum", "reflected"]

EPSILON = 1e-12
TABLE = {"cpu": 2**20}  # distances held at a time: those that stay in a processor's cache are read twice as fast
TABLE_ELSEWHERE = 2**24


def reflected(x: Tensor, margin: int) -> Tensor:
    """Continue [1, C, H, W] by reflection at its borders; the gradient sees each pixel once, as everywhere else."""
    frame = (margin, margin, margin, margin)
    kept = x.detach()
    return F.pad(x, frame) + (F.pad(kept, frame, mode="reflect") - F.pad(kept, frame))


def first_minimum(table: Tensor) -> Tensor:
    """Index of the first minimum of each row of [N, K]; numpy is ten times as fast as torch on a CPU."""
    return torch.from_numpy(table.numpy().argmin(-1)) if table.device.type == "cpu" else table.argmin(-1)


@dataclass(frozen=True, kw_only=True)
class PatchNearest(Term):
    """Squared distance of each colour patch to its nearest neighbour among the exemplar's patches, relative.

    Where the sliced distances match distributions, and so can make any mixture, this one makes each spot look like some
    spot of the exemplar. Patches are compared along their principal components, and read on a lattice of random phase.

    Attributes:
        sizes: Sides of the patches in pixels, taken in turn round by round. Primes cost most: see `_stride`.
        components: Principal components compared.
        patches: Largest number of the exemplar's patches compared with; the lattice they are read on widens to suit.
        variety: How much patches are preferred that the image has not yet, so that no single one fills a flat area
            (Granot et al. 2022, eq. 1); 0 takes the nearest.
        wrap: Treat the image as a torus, which suits textures; otherwise it is reflected at its borders.
    """

    name: ClassVar[str] = "patch_nearest"
    sizes: tuple[int, ...] = (9, 6)
    components: int = 24
    patches: int = 16384
    variety: float = 4.0
    wrap: bool = True

    def __post_init__(self) -> None:
        """Check the sizes."""
        if not self.sizes or min(*self.sizes, self.components, self.patches) < 1 or self.variety < 0:
            raise ConfigError(
                f"sizes={self.sizes} must be sides of 1 px or more, components={self.components} and "
                f"patches={self.patches} at least 1, variety={self.variety} at least 0"
            )

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the exemplar's patches and their principal components."""
        return _BoundNearest(self, exemplar, context)


def _stride(size: int) -> int:
    """The widest lattice on which each pixel lies in equally many overlapping patches."""
    return next(stride for stride in range(max(1, size // 2), 0, -1) if size % stride == 0)


class _BoundNearest(Bound):
    def __init__(self, term: PatchNearest, exemplar: Tensor, context: Context) -> None:
        smallest = min(*exemplar.shape[-2:], *context.size)
        self.sizes = [size for size in term.sizes if size <= smallest] or [1]
        self.region = context.region
        self.variety = term.variety
        self.wrap = term.wrap
        deviation = exemplar - exemplar.mean(dim=(2, 3), keepdim=True)
        self.variance = max(float(deviation.square().sum(dim=1).mean()), EPSILON)
        self.keys = {}
        for size in set(self.sizes):
            stride = 1
            while (exemplar.shape[2] // stride) * (exemplar.shape[3] // stride) > term.patches:
                stride += 1
            patches = F.unfold(exemplar, size, stride=stride)[0].T  # [K, 3 size^2]
            mean = patches.mean(dim=0)
            _, vectors = torch.linalg.eigh(((patches - mean).T @ (patches - mean)).double().cpu())
            axes = vectors[:, -term.components :].float().to(exemplar.device)  # [3 size^2, k]
            keys = (patches - mean) @ axes
            # |q - k|^2 = (q, 1, |q|^2) (-2 k, |k|^2, 1): with two columns more, one product is a table of distances.
            wide = torch.cat([-2 * keys, keys.square().sum(dim=1, keepdim=True), torch.ones_like(keys[:, :1])], dim=1)
            self.keys[size] = patches, mean, axes, wide.T.contiguous()

    def refresh(self, generator: torch.Generator, round_: int) -> None:
        self.size = self.sizes[round_ % len(self.sizes)]
        self.stride = _stride(self.size)
        down, across = torch.randint(self.stride, (2,), generator=generator).tolist()
        self.phase = (down, across)

    def __call__(self, x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
        patches = F.unfold(self._extended(x), self.size, stride=self.stride)[0].T  # [Q, 3 size^2]
        pixels = float(x.shape[2] * x.shape[3])
        squared = (patches - self._nearest(patches.detach())).square().sum(dim=1)
        if self.region is not None:
            pixels = max(float(self.region.sum()), EPSILON)
            squared = squared * F.avg_pool2d(self._extended(self.region), self.size, stride=self.stride).flatten()
        # A pixel lies in size^2 / stride^2 patches.
        return squared.sum() * (self.stride**2 / (self.size**2 * pixels * self.variance))

    def _nearest(self, patches: Tensor) -> Tensor:
        exemplars, mean, axes, keys = self.keys[self.size]  # keys [k + 2, K]
        near = (patches - mean) @ axes
        near = torch.cat([near, torch.ones_like(near[:, :1]), near.square().sum(dim=1, keepdim=True)], dim=1)
        queries = torch.split(near, max(1, TABLE.get(near.device.type, TABLE_ELSEWHERE) // keys.shape[1]))
        if self.variety:
            closest = torch.stack([(query @ keys).amin(dim=0) for query in queries]).amin(dim=0).clamp_min(0)  # [K]
            keys = keys / (closest + closest.mean().clamp_min(EPSILON) / self.variety)
        return exemplars[torch.cat([first_minimum(query @ keys) for query in queries])]

    def _extended(self, x: Tensor) -> Tensor:
        margin = self.size - 1
        if self.wrap:
            return F.pad(torch.roll(x, self.phase, dims=(2, 3)), (0, margin, 0, margin), mode="circular")
        return reflected(x, margin)[..., self.phase[0] :, self.phase[1] :]
