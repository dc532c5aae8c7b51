"""Patches of the result matched one by one to the most similar patches of the style: strokes stay whole.

Sources: Li & Wand 2016, "Combining Markov random fields and convolutional neural networks", here on raw colour patches;
Granot et al. 2022, "Drop the GAN: in defense of patches nearest neighbors" (variety).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Len
from torch import Tensor
from torch.nn import functional as F

from artmodels.descent.algebra import Context, Features, Moments, Sampled, Term
from artmodels.settings import Count

__all__ = ["PatchNearest", "Sizes", "extended", "first_minimum"]

Sizes = Annotated[tuple[Count, ...], Len(1)]

EPSILON = 1e-12
TABLE = {"cpu": 2**20}  # distances held at a time: those that stay in a processor's cache are read twice as fast
TABLE_ELSEWHERE = 2**24


def reflected(x: Tensor, margin: int) -> Tensor:
    """Continue [1, C, H, W] by reflection at its borders; the gradient sees each pixel once, as everywhere else."""
    frame = (margin, margin, margin, margin)
    kept = x.detach()
    return F.pad(x, frame) + (F.pad(kept, frame, mode="reflect") - F.pad(kept, frame))


def extended(x: Tensor, margin: int, phase: Sequence[int], *, wrap: bool) -> Tensor:
    """Continue [1, C, H, W] over its borders, as a torus or by reflection, and begin at the pixel `phase`."""
    if wrap:
        x = torch.roll(x, phase, dims=(2, 3))
        return F.pad(x, (0, margin, 0, margin), mode="circular") if margin else x
    down, across = phase
    return reflected(x, margin)[..., down:, across:]


def first_minimum(table: Tensor) -> Tensor:
    """Index of the first minimum of each row of [N, K]; numpy is ten times as fast as torch on a CPU."""
    return torch.from_numpy(table.numpy().argmin(-1)) if table.device.type == "cpu" else table.argmin(-1)


@dataclass(frozen=True, kw_only=True)
class PatchNearest(Term):
    """Squared distance of each colour patch to its nearest neighbour among the exemplar's patches, relative.

    Where the sliced distances match distributions, and so can make any mixture, this one makes each spot look like some
    spot of the exemplar. Patches are compared along their principal components, and read on a lattice of random phase.
    """

    name = "patch_nearest"
    sizes: Annotated[
        Sizes, "Sides of the patches in pixels, taken in turn round by round. Primes cost most: see `_stride`."
    ] = (9, 6)
    components: Annotated[Count, "Principal components compared."] = 24
    patches: Annotated[
        Count, "Most patches of the exemplar compared with; the lattice they are read on widens to suit."
    ] = 16384
    variety: Annotated[
        float,
        Ge(0),
        "How much patches are preferred that the image has not yet, so that no single one fills a flat area (Granot et "
        "al. 2022, eq. 1); 0 takes the nearest.",
    ] = 4.0
    wrap: Annotated[bool, "Whether the image is a torus, which suits textures, or reflected at its borders."] = True

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Sampled:
        """Keep the exemplar's patches and their principal components."""
        return _BoundNearest(self, exemplar, context)


def _stride(size: int) -> int:
    """The widest lattice on which each pixel lies in equally many overlapping patches."""
    return next(stride for stride in range(max(1, size // 2), 0, -1) if size % stride == 0)


class _BoundNearest(Sampled):
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
        self.phase = torch.randint(self.stride, (2,), generator=generator).tolist()

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
        return extended(x, self.size - 1, self.phase, wrap=self.wrap)
