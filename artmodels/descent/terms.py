"""The texture losses, from Gram matrices to sliced Wasserstein distances.

Sources: Gatys et al. 2015 (Gram); Heitz et al. 2021 (sliced Wasserstein of features); Elnekave & Weiss 2022 (of
patches). `spectral` has the Fourier ones, `nearest` patches matched one by one, `algebra` how terms compose.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.descent import sliced
from artmodels.descent.algebra import Bound, Context, Features, Layers, Moments, Term, recommended, shrunk
from artmodels.descent.nearest import PatchNearest, reflected
from artmodels.descent.spectral import Autocorrelation, Spectrum
from artmodels.errors import ConfigError

__all__ = [
    "TERMS",
    "GaussianWasserstein",
    "Gram",
    "PatchSlicedWasserstein",
    "SlicedWasserstein",
    "TotalVariation",
]

EPSILON = 1e-12


def _weights(weights: tuple[float, ...] | None, layers: tuple[str, ...], what: str) -> tuple[float, ...]:
    if weights is None:
        return (1 / len(layers),) * len(layers)
    if len(weights) != len(layers):
        raise ConfigError(f"{what} has {len(weights)} weights for {len(layers)} layers; give one for each")
    return weights


@dataclass(frozen=True, kw_only=True)
class Gram(Term):
    """Squared difference of Gram matrices (Gatys et al. 2015, eq. 3-5).

    Attributes:
        layers: Taps.
        weights: One per layer; None for 1 / number of layers each.
        normalisation: "relative" divides by the squared norm of the exemplar's matrix; "gatys" is the paper's
            1 / (4 N^2) of matrices already divided by the number of pixels. N is the number of channels.
    """

    name: ClassVar[str] = "gram"
    layers: Layers = None
    weights: tuple[float, ...] | None = None
    normalisation: Literal["relative", "gatys"] = "relative"

    def __post_init__(self) -> None:
        """Check the choice."""
        if self.normalisation not in ("relative", "gatys"):
            raise ConfigError(f"gram normalisation {self.normalisation!r} is not 'relative' or 'gatys'")

    def moment_taps(self, context: Context) -> tuple[str, ...]:
        """The layers."""
        return recommended(self.layers, context, "gram")

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the exemplar's matrices."""
        layers = self.moment_taps(context)
        targets = []
        for layer, weight in zip(layers, _weights(self.weights, layers, "gram"), strict=True):
            target = moments[layer].second.detach()
            relative = 1 / target.square().sum().clamp_min(EPSILON)
            scale = relative if self.normalisation == "relative" else 1 / (4 * target.shape[0] ** 2)
            targets.append((layer, target, weight * scale))
        return _BoundGram(targets)


class _BoundGram(Bound):
    def __init__(self, targets: list[tuple[str, Tensor, Tensor | float]]) -> None:
        self.targets = targets

    def __call__(self, x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
        return torch.stack([w * (moments[tap].second - g).square().sum() for tap, g, w in self.targets]).sum()


@dataclass(frozen=True, kw_only=True)
class GaussianWasserstein(Term):
    """Squared 2-Wasserstein distance of Gaussians fitted to the features: mean and covariance.

    W^2 = |m1 - m2|^2 + tr(S1 + S2 - 2 (S2^1/2 S1 S2^1/2)^1/2), relative to tr(S2). Unlike the Gram difference it weighs
    each direction of the feature space by its deviation, not its variance squared.
    """

    name: ClassVar[str] = "gaussian_wasserstein"
    layers: Layers = None
    weights: tuple[float, ...] | None = None

    def moment_taps(self, context: Context) -> tuple[str, ...]:
        """The layers."""
        return recommended(self.layers, context, "gaussian_wasserstein")

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the exemplar's means, covariances and their square roots."""
        layers = self.moment_taps(context)
        weights = _weights(self.weights, layers, "gaussian_wasserstein")
        return _BoundGaussian([(tap, weight, moments[tap]) for tap, weight in zip(layers, weights, strict=True)])


class _BoundGaussian(Bound):
    def __init__(self, targets: list[tuple[str, float, Moments]]) -> None:
        self.targets = []
        for tap, weight, target in targets:
            values, vectors = torch.linalg.eigh(_double(target.covariance.detach()))
            root = (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
            variance = values.clamp_min(0).sum().float().clamp_min(EPSILON)
            self.targets.append((tap, weight, target.mean.detach(), root, variance.to(target.mean.device)))

    def __call__(self, x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
        losses = []
        for tap, weight, mean, root, variance in self.targets:
            covariance = moments[tap].covariance
            # In float64: the square roots of rounding errors, one for each dead direction, would add up.
            cross = root @ _double(covariance) @ root  # [C, C]
            # d tr(A^1/2) = 1/2 <A^-1/2, dA>, so one eigendecomposition outside autograd gives value and gradient
            # even where eigenvalues coincide, which autograd's own formula cannot.
            with torch.no_grad():
                values, vectors = torch.linalg.eigh(cross.detach())
                floor = values[-1].clamp_min(EPSILON) * 1e-14
                roots = values.clamp_min(0).sqrt()
                inverse = (vectors / values.clamp_min(floor).sqrt()) @ vectors.mT
                trace = roots.sum()
            slope = (inverse * cross).sum() / 2
            fidelity = (slope + (trace - slope).detach()).float().to(mean.device)
            distance = (moments[tap].mean - mean).square().sum() + covariance.trace() + variance - 2 * fidelity
            losses.append(weight * distance / variance)
        return torch.stack(losses).sum()


def _double(x: Tensor) -> Tensor:
    return x.double() if x.device.type != "mps" else x.cpu().double()  # which has no float64


@dataclass(frozen=True, kw_only=True)
class SlicedWasserstein(Term):
    """Sliced Wasserstein distance of features (Heitz et al. 2021): zero only if all distributions agree.

    Attributes:
        layers: Taps.
        directions: Random directions a layer and round.
        samples: Largest number of pixels used a round; more are drawn from at random, which bounds the memory.
    """

    name: ClassVar[str] = "sliced_wasserstein"
    layers: Layers = None
    directions: int = 64
    samples: int = 65536

    def taps(self, context: Context) -> tuple[str, ...]:
        """The layers."""
        return recommended(self.layers, context, "sliced_wasserstein")

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the exemplar's features."""
        return _BoundSliced(self, {tap: features[tap].detach() for tap in self.taps(context)}, context.region)


class _BoundSliced(Bound):
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


@dataclass(frozen=True, kw_only=True)
class PatchSlicedWasserstein(Term):
    """Sliced Wasserstein distance of raw colour patches: no network (after Elnekave & Weiss 2022).

    The image is a torus, or continued by reflection, so that each pixel lies in equally many patches and borders are
    like the rest. Patches are read on a lattice of random phase whose spacing grows with the fourth root of the area,
    so that a round costs about the square root of the area. The value estimates the squared distance to the projection
    of the image on the set of images with the exemplar's patches: a gradient step of the natural length goes there.

    Attributes:
        sizes: Sides of the patches in pixels, taken in turn round by round.
        octaves: The image, its half, its quarter, ... take turns too, so that no scale drifts off.
        directions: Random directions a round.
        wrap: Treat the image as a torus, which suits textures; otherwise it is reflected at its borders.
    """

    name: ClassVar[str] = "patch_sliced_wasserstein"
    sizes: tuple[int, ...] = (3, 5, 7)
    octaves: int = 3
    directions: int = 64
    wrap: bool = True

    def __post_init__(self) -> None:
        """Check the sizes."""
        if not self.sizes or min(*self.sizes, self.octaves, self.directions) < 1:
            raise ConfigError(
                f"sizes={self.sizes} must be sides of 1 px or more, octaves={self.octaves} and "
                f"directions={self.directions} at least 1"
            )

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Rotate the exemplar to its own colour axes."""
        return _BoundPatches(self, exemplar, context)


class _BoundPatches(Bound):
    def __init__(self, term: PatchSlicedWasserstein, exemplar: Tensor, context: Context) -> None:
        self.sides = min(exemplar.shape[-2:]), min(context.size)
        self.area = context.size[0] * context.size[1]
        smallest = min(self.sides)
        # Details need the most steps and blur first, so every second round is at full size.
        turns = [turn for octave in range(1, term.octaves) for turn in (0, octave)] or [0]
        self.windows = [(octave, size) for size in term.sizes for octave in turns if size <= smallest >> octave] or [
            (0, 1)
        ]
        self.directions = term.directions
        self.wrap = term.wrap
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
        count = min(self.directions, dimensions)
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
        margin = self.size - 1
        if self.wrap:
            x = F.avg_pool2d(torch.roll(x, self.offset, dims=(2, 3)), 2**self.octave)
            x = torch.roll(x, self.phase, dims=(2, 3))
            return F.pad(x, (0, margin, 0, margin), mode="circular") if margin else x
        y, left = self.offset
        x = F.avg_pool2d(reflected(x, 2**self.octave - 1)[..., y:, left:], 2**self.octave)
        top, left = self.phase
        return reflected(x, margin)[..., top:, left:]


@dataclass(frozen=True, kw_only=True)
class TotalVariation(Term):
    """Mean squared difference of neighbouring pixels, per channel; small values are smooth. Not relative."""

    name: ClassVar[str] = "total_variation"

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Nothing to keep."""
        return _BoundVariation(context.circular)


class _BoundVariation(Bound):
    def __init__(self, circular: bool) -> None:
        self.circular = circular

    def __call__(self, x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
        total = 0 * x.sum()  # of one pixel it is 0, and still has a gradient
        for dim in (2, 3):
            if self.circular:
                total = total + (x - x.roll(1, dim)).square().mean()
            elif x.shape[dim] > 1:
                total = total + x.diff(dim=dim).square().mean()
        return total


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
