"""The texture losses, from Gram matrices to patches matched one by one.

Sources: Gatys et al. 2015 (Gram); Heitz et al. 2021 (sliced Wasserstein of features); Elnekave & Weiss 2022 (of
patches); Li & Wand 2016, "Combining Markov random fields and convolutional neural networks", here on raw colour
patches, and Granot et al. 2022, "Drop the GAN: in defense of patches nearest neighbors" (nearest patches). `spectral`
has the Fourier ones, `algebra` how terms compose.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Len
from torch import Tensor
from torch.nn import functional as F

from artmodels.descent import sliced
from artmodels.descent.algebra import Bound, Context, Features, FeatureTerm, Moments, Sampled, Term, shrunk
from artmodels.descent.spectral import Autocorrelation, Spectrum
from artmodels.errors import ConfigError
from artmodels.settings import Count

__all__ = [
    "TERMS",
    "GaussianWasserstein",
    "Gram",
    "PatchNearest",
    "PatchSlicedWasserstein",
    "SlicedWasserstein",
    "TotalVariation",
    "first_minimum",
]

EPSILON = 1e-12
TABLE = {"cpu": 2**20}  # distances held at a time: those that stay in a processor's cache are read twice as fast
TABLE_ELSEWHERE = 2**24

Sizes = Annotated[tuple[Count, ...], Len(1)]  # of patches


@dataclass(frozen=True, kw_only=True)
class _MomentTerm(FeatureTerm):
    """A loss of the moments of features."""

    needs_maps = False
    weights: Annotated[tuple[float, ...] | None, "One a layer; None for 1 / number of layers each."] = None

    def _weighted(self, context: Context) -> Iterator[tuple[str, float]]:
        """Taps with their weights."""
        layers = self.taps(context)
        weights = (1 / len(layers),) * len(layers) if self.weights is None else self.weights
        if len(weights) != len(layers):
            raise ConfigError(f"{self.name} has {len(weights)} weights for {len(layers)} layers; give one for each")
        return zip(layers, weights, strict=True)


@dataclass(frozen=True, kw_only=True)
class Gram(_MomentTerm):
    """Squared difference of Gram matrices (Gatys et al. 2015, eq. 3-5)."""

    name = "gram"
    normalisation: Annotated[
        Literal["relative", "gatys"],
        '"relative" divides by the squared norm of the exemplar\'s matrix; "gatys" is the paper\'s 1 / (4 N^2) of '
        "matrices already divided by the number of pixels. N is the number of channels.",
    ] = "relative"

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the exemplar's matrices."""
        targets = list[tuple[str, Tensor, Tensor | float]]()
        for layer, weight in self._weighted(context):
            target = moments[layer].second.detach()
            relative = 1 / target.square().sum().clamp_min(EPSILON)
            scale = relative if self.normalisation == "relative" else 1 / (4 * target.shape[0] ** 2)
            targets.append((layer, target, weight * scale))

        def loss(x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
            return torch.stack([w * (moments[tap].second - g).square().sum() for tap, g, w in targets]).sum()

        return loss


@dataclass(frozen=True, kw_only=True)
class GaussianWasserstein(_MomentTerm):
    """Squared 2-Wasserstein distance of Gaussians fitted to the features: mean and covariance.

    W^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S2^1/2 S1 S2^1/2)^1/2), relative to tr(S2). Unlike the Gram difference it weighs
    each direction of the feature space by its deviation, not its variance squared.
    """

    name = "gaussian_wasserstein"

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the exemplar's means, covariances and their square roots."""
        targets = []
        for tap, weight in self._weighted(context):
            values, vectors = torch.linalg.eigh(_double(moments[tap].covariance.detach()))
            root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
            variance = values.clamp_min(0).sum().float().clamp_min(EPSILON)
            mean = moments[tap].mean.detach()
            targets.append((tap, weight, mean, root, variance.to(mean.device)))

        def loss(x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
            losses = []
            for tap, weight, mean, root, variance in targets:
                covariance = moments[tap].covariance
                # In float64: the square roots of rounding errors, one for each dead direction, would add up.
                fidelity = _trace_of_root(root @ _double(covariance) @ root).float().to(mean.device)
                distance = (moments[tap].mean - mean).square().sum() + covariance.trace() + variance - 2 * fidelity
                losses.append(weight * distance / variance)
            return torch.stack(losses).sum()

        return loss


def _trace_of_root(matrix: Tensor) -> Tensor:
    """tr(A^1/2) of a positive semi-definite A [C, C].

    As d tr(A^1/2) = 1/2 <A^-1/2, dA>, one eigendecomposition outside autograd gives value and gradient even where
    eigenvalues coincide, which autograd's own formula cannot.
    """
    with torch.no_grad():
        values, vectors = torch.linalg.eigh(matrix.detach())
        floor = values[-1].clamp_min(EPSILON) * 1e-14
        inverse = (vectors / values.clamp_min(floor).sqrt()) @ vectors.mT
        trace = values.clamp_min(0).sqrt().sum()
    slope = (inverse * matrix).sum() / 2
    result: Tensor = slope + (trace - slope).detach()
    return result


def _double(x: Tensor) -> Tensor:
    return x.double() if x.device.type != "mps" else x.cpu().double()  # which has no float64


@dataclass(frozen=True, kw_only=True)
class SlicedWasserstein(FeatureTerm):
    """Sliced Wasserstein distance of features (Heitz et al. 2021): zero only if all distributions agree."""

    name = "sliced_wasserstein"
    directions: Annotated[Count, "Random directions a layer and round."] = 64
    samples: Annotated[Count, "Most pixels used a round, drawn at random where there are more: bounds the memory."] = (
        65536
    )

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Sampled:
        """Keep the exemplar's features."""
        return _BoundSliced(self, {tap: features[tap].detach() for tap in self.taps(context)}, context.region)


class _BoundSliced(Sampled):
    def __init__(self, term: SlicedWasserstein, features: Features, region: Tensor | None) -> None:
        self.term = term
        self.region = region
        self.rows = {tap: maps[0].flatten(1) for tap, maps in features.items()}  # [C, M]
        self.variances = {tap: rows.var(dim=1, correction=0).mean() for tap, rows in self.rows.items()}

    def refresh(self, generator: torch.Generator, round_: int) -> None:
        self.seeds, self.directions, self.targets = {}, {}, {}
        for tap, rows in self.rows.items():
            directions = sliced.orthonormal_directions(self.term.directions, len(rows), generator, rows.device)
            self.directions[tap] = directions
            self.seeds[tap] = int(torch.randint(2**62, (), generator=generator))
            self.targets[tap] = sliced.sorted_values(directions @ self._sample(rows, tap))

    def _sample(self, rows: Tensor, tap: str) -> Tensor:
        if rows.shape[1] <= self.term.samples:
            return rows
        generator = torch.Generator().manual_seed(self.seeds[tap])
        chosen = torch.randint(rows.shape[1], (self.term.samples,), generator=generator)
        return rows[:, chosen.to(rows.device)]

    def __call__(self, x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
        losses = []
        for tap, directions in self.directions.items():
            rows = features[tap][0].flatten(1)  # [C, M]
            weights = None
            if self.region is not None:
                rows, weights = _within(rows, shrunk(self.region, features[tap].shape[-2:]))
                weights = self._sample(weights[None], tap)[0]
            projected = directions @ self._sample(rows, tap)  # [D, M]
            squared = (projected - sliced.transported(projected, self.targets[tap], weights)).square().mean(dim=0)
            distance = squared.mean() if weights is None else (squared * weights).sum() / weights.sum()
            losses.append(distance / self.variances[tap].clamp_min(EPSILON))
        return torch.stack(losses).mean()


def _within(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The columns of [C, M] that count at all, and how much each does."""
    flat = weights.flatten()
    inside = flat > 0
    return rows[:, inside], flat[inside]


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
class PatchSlicedWasserstein(Term):
    """Sliced Wasserstein distance of raw colour patches: no network (after Elnekave & Weiss 2022).

    The image is a torus, or continued by reflection, so that each pixel lies in equally many patches and borders are
    like the rest. Patches are read on a lattice of random phase whose spacing grows with the fourth root of the area,
    so that a round costs about the square root of the area. The value estimates the squared distance to the projection
    of the image on the set of images with the exemplar's patches: a gradient step of the natural length goes there.
    """

    name = "patch_sliced_wasserstein"
    sizes: Annotated[Sizes, "Sides of the patches in pixels, taken in turn round by round."] = (3, 5, 7)
    octaves: Annotated[Count, "The image, its half, its quarter, ... take turns too, so that no scale drifts off."] = 3
    directions: Annotated[Count, "Random directions a round."] = 64
    wrap: Annotated[bool, "Whether the image is a torus, which suits textures, or reflected at its borders."] = True

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Sampled:
        """Rotate the exemplar to its own colour axes."""
        return _BoundPatches(self, exemplar, context)


class _BoundPatches(Sampled):
    def __init__(self, term: PatchSlicedWasserstein, exemplar: Tensor, context: Context) -> None:
        self.sides = min(exemplar.shape[-2:]), min(context.size)
        self.area = context.size[0] * context.size[1]
        # Details need the most steps and blur first, so every second round is at full size.
        turns = [turn for octave in range(1, term.octaves) for turn in (0, octave)] or [0]
        windows = [(octave, size) for size in term.sizes for octave in turns if size <= min(self.sides) >> octave]
        self.windows = windows or [(0, 1)]
        self.term = term
        self.region = context.region
        self.mean = exemplar.mean(dim=(2, 3), keepdim=True)
        pixels = (exemplar - self.mean)[0].flatten(1)  # [3, M]
        variances, axes = torch.linalg.eigh((pixels @ pixels.T / pixels.shape[1]).cpu())
        self.variance = float(variances.clamp_min(0).sum())
        # Colours that the exemplar does not have, like any hue in a grey one, are left out of the patches and drawn to
        # the mean instead: fewer dimensions to search, and no coloured noise.
        kept = variances > max(1e-6 * float(variances[-1]), 1e-10)
        self.axes = axes[:, kept].to(exemplar.device)  # [3, k]
        self.exemplar = self._palette(exemplar)

    def _palette(self, x: Tensor) -> Tensor:
        """[1, 3, h, w] to coordinates along the exemplar's colour axes, [1, k, h, w]."""
        return torch.einsum("nchw,ck->nkhw", x - self.mean, self.axes)

    def refresh(self, generator: torch.Generator, round_: int) -> None:
        channels = self.axes.shape[1]
        if not channels:
            return
        self.octave, self.size = self.windows[round_ % len(self.windows)]
        cell = max(1, min(2**self.octave, self.sides[0] - (self.size << self.octave) + 1))
        side = (self.sides[0] - cell + 1) >> self.octave  # of the exemplar reduced from the furthest offset
        spacing = math.ceil((self.area / 4**self.octave / 128**2) ** 0.25 - 1e-9)
        room = side - self.size + 1  # a phase must leave the exemplar one patch
        self.stride = max(1, min(spacing, self.size, side // 16, room))
        dimensions = channels * self.size**2
        count = min(self.term.directions, dimensions)
        directions = sliced.orthonormal_directions(count, dimensions, generator, self.exemplar.device)
        self.kernels = directions.view(count, channels, self.size, self.size)
        top, left, *self.phase = torch.randint(self.stride, (4,), generator=generator).tolist()
        y, x, *self.offset = torch.randint(cell, (4,), generator=generator).tolist()
        reduced = F.avg_pool2d(self.exemplar[..., y:, x:], 2**self.octave)
        found = F.conv2d(reduced[..., top:, left:], self.kernels, stride=self.stride)
        self.target = sliced.sorted_values(found[0].flatten(1))

    def __call__(self, x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
        pixels = self.area if self.region is None else float(self.region.sum())
        scale = 1 / (max(pixels, EPSILON) * max(self.variance, EPSILON))
        palette = self._palette(x)  # [1, k, H, W]
        off = (x - self.mean).square().sum(dim=1) - palette.square().sum(dim=1)  # of the exemplar's colours
        squared = scale * (off if self.region is None else off * self.region[0]).sum()
        if not self.axes.shape[1]:
            return squared
        projected = F.conv2d(self._extended(palette), self.kernels, stride=self.stride)[0].flatten(1)  # [D, patches]
        weights = None
        if self.region is not None:
            inside = F.avg_pool2d(self._extended(self.region), self.size, stride=self.stride)
            projected, weights = _within(projected, inside)
        distance = (projected - sliced.transported(projected, self.target, weights)).square().sum(dim=0)
        if weights is not None:
            distance = distance * weights
        # A pixel lies in size^2 / stride^2 patches and stands for 4^octave; D of the dimensions are seen.
        share = self.kernels[0].numel() / len(self.kernels) * self.stride**2 / self.size**2 * 4**self.octave
        result: Tensor = squared + scale * share * distance.sum()
        return result

    def _extended(self, x: Tensor) -> Tensor:
        """Continue [1, C, H, W] over its borders, so that the lattice of this round meets every pixel equally often."""
        cell = 2**self.octave
        x = extended(x, 0 if self.term.wrap else cell - 1, self.offset, wrap=self.term.wrap)
        return extended(F.avg_pool2d(x, cell), self.size - 1, self.phase, wrap=self.term.wrap)


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
    patches: Annotated[Count, "Most patches of the exemplar compared with; their lattice widens to suit."] = 16384
    variety: Annotated[
        float,
        Ge(0),
        "How much patches are preferred that the image has not yet, so that no single one fills a flat area (Granot et "
        "al. 2022, eq. 1); 0 takes the nearest.",
    ] = 4.0
    refine: Annotated[
        bool, "Whether a match on that lattice moves on to the best place around it: sharper on fine stuff."
    ] = False
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
        self.term = term
        self.region = context.region
        deviation = exemplar - exemplar.mean(dim=(2, 3), keepdim=True)
        self.variance = max(float(deviation.square().sum(dim=1).mean()), EPSILON)
        self.exemplar = exemplar
        self.keys = {}
        stride = 1
        while (exemplar.shape[2] // stride) * (exemplar.shape[3] // stride) > term.patches:
            stride += 1
        self.spacing = stride
        for size in set(self.sizes):
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
        if self.term.variety:
            closest = torch.stack([(query @ keys).amin(dim=0) for query in queries]).amin(dim=0).clamp_min(0)  # [K]
            keys = keys / (closest + closest.mean().clamp_min(EPSILON) / self.term.variety)
        found = torch.cat([first_minimum(query @ keys) for query in queries])
        return self._refined(patches, found) if self.term.refine and self.spacing > 1 else exemplars[found]

    def _refined(self, patches: Tensor, found: Tensor) -> Tensor:
        """The patches [Q, 3 size^2] nearest to the given ones around those found, between the nodes of the lattice."""
        every = self.exemplar[0].unfold(1, self.size, 1).unfold(2, self.size, 1).permute(1, 2, 0, 3, 4)
        last = torch.tensor(every.shape[:2], device=found.device) - 1
        around = torch.cartesian_prod(*[torch.arange(-1, 2, device=found.device)] * 2)  # [9, 2]
        columns = last[1] // self.spacing + 1
        at = torch.stack([found // columns, found % columns], dim=1) * self.spacing
        step = self.spacing // 2
        while step:
            places = (at[:, None] + step * around).clamp(min=torch.zeros_like(last), max=last)  # [Q, 9, 2]
            nearest = []
            for some, wanted in zip(torch.split(places, 1024), torch.split(patches, 1024), strict=True):
                candidates = every[some[..., 0], some[..., 1]].flatten(2)  # [q, 9, 3 size^2]
                nearest.append((candidates - wanted[:, None]).square().sum(dim=2).argmin(dim=1))
            at = places[torch.arange(len(at), device=at.device), torch.cat(nearest)]
            step //= 2
        return every[at[:, 0], at[:, 1]].flatten(1)

    def _extended(self, x: Tensor) -> Tensor:
        return extended(x, self.size - 1, self.phase, wrap=self.term.wrap)


@dataclass(frozen=True, kw_only=True)
class TotalVariation(Term):
    """Mean squared difference of neighbouring pixels, per channel; small values are smooth. Not relative."""

    name = "total_variation"

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Nothing to keep."""

        def loss(x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
            total = 0 * x.sum()  # of one pixel it is 0, and still has a gradient
            for dim in (2, 3):
                if context.circular:
                    total = total + (x - x.roll(1, dim)).square().mean()
                elif x.shape[dim] > 1:
                    total = total + x.diff(dim=dim).square().mean()
            return total

        return loss


TERMS: dict[str, type[Term]] = {
    term.name: term
    for term in (
        Gram,
        GaussianWasserstein,
        SlicedWasserstein,
        PatchSlicedWasserstein,
        PatchNearest,
        Spectrum,
        Autocorrelation,
        TotalVariation,
    )
}
