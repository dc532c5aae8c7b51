"""Losses bound to exemplars and a feature extractor: value and gradient of an image, whole or tile by tile."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.descent.algebra import Bound, Context, Loss, Moments, Sampled, Taps, Term, shrunk
from artmodels.errors import ConfigError
from artmodels.features.extractor import FeatureExtractor
from artmodels.runtime.devices import generator

__all__ = ["MatchingObjective", "Target", "TextureObjective", "gaussian_reduced"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

GREY = 1e-4  # between channels: far less than a step of 8 bits, more than resampling leaves
BURT_ADELSON = (0.05, 0.25, 0.4, 0.25, 0.05)  # a = 0.4 (Burt & Adelson 1983), as Snelgrove uses it


def gaussian_reduced(x: Tensor, *, circular: bool) -> Tensor:
    """One octave down: 5-tap Gaussian, every second pixel. [1, C, H, W] to [1, C, ceil(H / 2), ceil(W / 2)]."""
    taps = torch.tensor(BURT_ADELSON, device=x.device, dtype=x.dtype)
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 5, 5)
    mode = "circular" if circular else "replicate"
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode=mode), kernel, stride=2, groups=x.shape[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What some or all pixels of the image must agree with, and how.

    The loss in a region is also multiplied by the region's mean, so that pixels weigh the same in regions of any size.
    """

    loss: Loss
    exemplar: Tensor  # [1, 3, h, w] in [0, 1]
    weight: float = 1.0
    region: Tensor | None = None  # [1, 1, H, W] in [0, 1], the share that each pixel has in the loss; None: all alike
    layers: Taps = None  # for terms that name none; None for those of the objective


_Place = tuple[int | None, str]  # the number of the target whose region it is, None for the whole image; and a tap


@dataclass
class _Octave:
    """What is measured at one octave of the image."""

    bound: list[tuple[float, Bound, int | None]] = field(default_factory=list)  # weight, term and whose region
    map_taps: tuple[str, ...] = ()
    places: tuple[_Place, ...] = ()  # whose moments suffice
    regions: dict[int | None, Tensor | None] = field(default_factory=dict)

    @property
    def taps(self) -> tuple[str, ...]:
        return _merged(self.map_taps, (tap for _, tap in self.places))


class MatchingObjective:
    """What `optimise.minimise` descends: the weighted sum of several targets' losses of one image."""

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        extractor: FeatureExtractor | None,
        layers: tuple[str, ...],
        size: tuple[int, int],
        circular: bool = False,
        seed: int = 0,
        tile: int | None = 1024,
        checkpoint: bool = False,
    ) -> None:
        """Bind the losses to an image of `size` (H, W).

        `layers` are for terms that name none. On a torus (`circular`) the result tiles. Where the image has a side
        above `tile` px, features are gathered tile by tile, exactly, in bounded memory: losses that need no more than
        moments can be; None: never. `checkpoint` recomputes activations in the backward instead of keeping them.
        """
        self.extractor = extractor
        self.circular = circular
        self.seed = seed
        self.tile = tile
        self.checkpoint = checkpoint
        self.round = -1
        self.octaves: list[_Octave] = []
        stiffness: Tensor | float = 0.0
        with torch.no_grad():
            for number, target in enumerate(targets):
                deviation = target.exemplar - target.exemplar.mean(dim=(2, 3), keepdim=True)
                variance = float(deviation.square().sum(dim=1).mean())
                share = 1.0 if target.region is None else target.region
                pull = target.weight * sum(abs(weight) for weight, _, _ in target.loss.terms())
                stiffness = stiffness + pull * share / max(variance, 1e-12)
                self._bind(target, None if target.region is None else number, layers, size)
        # Where targets overlap their pulls add up, and the step must suit the pixel that is pulled most.
        stiffest = float(stiffness.max()) if isinstance(stiffness, Tensor) else stiffness
        self.natural_step = size[0] * size[1] / 2 / max(stiffest, 1e-12)
        self.refresh(0)

    def _bind(self, target: Target, key: int | None, layers: tuple[str, ...], size: tuple[int, int]) -> None:
        """Fix each term of the target to its exemplar, octave by octave."""
        exemplar, region = target.exemplar, target.region
        layers = layers if target.layers is None else target.layers
        factor = target.weight * (1.0 if region is None else float(region.mean()))
        by_octave: dict[int, list[tuple[float, Term]]] = {}
        for weight, octave, term in target.loss.terms():
            by_octave.setdefault(octave, []).append((weight, term))
        for number in range(max(by_octave) + 1):
            if number:
                exemplar = gaussian_reduced(exemplar, circular=False)
                size = (-(-size[0] // 2), -(-size[1] // 2))
                region = None if region is None else shrunk(region, size)
            context = Context(size=size, layers=layers, circular=self.circular, region=region)
            weighted = by_octave.get(number, [])
            map_taps = _merged(*(term.taps(context) for _, term in weighted if term.needs_maps))
            moment_taps = _merged(*(term.taps(context) for _, term in weighted if not term.needs_maps))
            taps = _merged(map_taps, moment_taps)
            smallest = max([2, *map(self.extractor.minimum_size, taps)]) if self.extractor else 2
            if number and min(*exemplar.shape[-2:], *size) < smallest:
                logger.info("the pyramid stops at %d octaves: the next is too small for the features", number)
                break
            features = self._features(exemplar, taps, circular=False)
            moments = {tap: Moments.of(features[tap]) for tap in moment_taps}
            if number == len(self.octaves):
                self.octaves.append(_Octave())
            at = self.octaves[number]
            for weight, term in weighted:
                if term.needs_whole and region is not None:
                    raise ConfigError(
                        f"{term.name} measures the image as a whole and cannot be kept to a region: leave out the "
                        "masks, or choose gram, gaussian_wasserstein, sliced_wasserstein or patch_sliced_wasserstein"
                    )
                at.bound.append((factor * weight, term.bind(exemplar, features, moments, context), key))
            at.map_taps = _merged(at.map_taps, map_taps)
            at.places = _merged(at.places, ((key, tap) for tap in moment_taps))
            at.regions[key] = region

    def refresh(self, round_: int) -> None:
        """Draw new random directions; the same round draws the same."""
        drawing = [term for octave in self.octaves for _, term, _ in octave.bound if isinstance(term, Sampled)]
        if not drawing:
            return
        self.round = round_
        draws = generator((self.seed * 1_000_003 + round_) % 2**63)
        for term in drawing:
            term.refresh(draws, round_)

    def value_and_grad(self, x: Tensor) -> tuple[float, Tensor]:
        """Loss at x [1, 3, H, W] and its gradient."""
        leaf = x.detach().requires_grad_(True)
        image, values = leaf, []
        tiled: dict[_Place, Moments] = {}
        with torch.enable_grad():
            for number, octave in enumerate(self.octaves):
                if number:
                    image = gaussian_reduced(image, circular=self.circular)
                features: dict[str, Tensor] = {}
                if self.tile is not None and octave.places and max(image.shape[-2:]) > self.tile:
                    if octave.map_taps or number:
                        raise ConfigError(
                            "only Gram and Gaussian terms of the full image can be computed tile by tile: use those, "
                            f"or a size of at most {self.tile} px, or tile=None, which needs more memory"
                        )
                    moments = tiled = self._tiled_moments(x.detach())
                else:
                    features = self._features(image, octave.taps, circular=self.circular)
                    moments = {(key, tap): Moments.of(features[tap], octave.regions[key]) for key, tap in octave.places}
                for weight, term, key in octave.bound:
                    own = {tap: found for (owner, tap), found in moments.items() if owner == key}
                    values.append(weight * term(image, features, own))
            total = torch.stack(values).sum()
        parts = [part for pair in tiled.values() for part in pair]
        by_pixels, *by_parts = torch.autograd.grad(total, [leaf, *parts], allow_unused=True)
        gradient = torch.zeros_like(leaf) if by_pixels is None else by_pixels
        if tiled:
            pairs = zip(by_parts[::2], by_parts[1::2], strict=True)
            self._add_tiled_gradient(gradient, x.detach(), dict(zip(tiled, pairs, strict=True)))
        return total.item(), gradient.contiguous()

    def _tiles(
        self, x: Tensor, taps: tuple[str, ...]
    ) -> Iterator[tuple[Tensor, Tensor, dict[str, tuple[slice, slice]]]]:
        """Yield (rows, columns, core): pixel indices of each tile with its halo, and where its own features are.

        The halo is half a receptive field, rounded up to whole strides, so that the features of the core equal those of
        the whole image; every feature is in the core of one tile.
        """
        assert self.extractor is not None and self.tile is not None  # noqa: S101 - for the type checker
        strides = {tap: self.extractor.stride(tap) for tap in taps}
        step = max(strides.values())
        halo = step * -(-(max(map(self.extractor.receptive_field, taps)) // 2 + step) // step)
        side = max(step, self.tile // 2 // step * step)
        wraps = self.circular or self.extractor.padding == "circular"

        def spans(length: int) -> Iterator[tuple[Tensor, dict[str, slice]]]:
            for start in range(0, length, side):
                stop = min(start + side, length)
                if wraps:
                    first, last = start - halo, stop + halo
                else:
                    first, last = max(0, start - halo), min(length, stop + halo)
                # The last core takes whatever features remain, as layers differ in how they round a last half stride.
                inner = None if stop == length and not wraps else stop - first
                core = {tap: slice((start - first) // s, inner and inner // s) for tap, s in strides.items()}
                yield torch.arange(first, last, device=x.device) % length, core

        for rows, down in spans(x.shape[2]):
            for columns, across in spans(x.shape[3]):
                yield rows, columns, {tap: (down[tap], across[tap]) for tap in taps}

    def _tiled_moments(self, x: Tensor) -> dict[_Place, Moments]:
        """Moments of the whole image's features, as leaves of a new graph."""
        octave, sums = self.octaves[0], dict[_Place, Tensor]()
        with torch.no_grad():
            for rows, columns, core in self._tiles(x, octave.taps):
                features = self._features(x[:, :, rows][..., columns], octave.taps, circular=False)
                for key, tap in octave.places:
                    f, weights = self._core(features[tap], core[tap], octave.regions[key], rows, columns)
                    f = torch.cat([f, torch.ones_like(f[:1])])  # the last row and column sum features and pixels
                    total = (f * weights) @ f.T
                    sums[key, tap] = sums[key, tap] + total if (key, tap) in sums else total
        self.counts = {place: float(total[-1, -1]) for place, total in sums.items()}
        moments = {}
        for place, total in sums.items():
            mean, second = total[-1, :-1] / total[-1, -1], total[:-1, :-1] / total[-1, -1]
            moments[place] = Moments(mean.requires_grad_(), second.requires_grad_())
        return moments

    def _core(
        self, maps: Tensor, core: tuple[slice, slice], region: Tensor | None, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        """Features [C, M] of a tile without its halo, and the weights [M] of a region there."""
        down, across = core
        weights: Tensor | float = 1.0
        if region is not None:
            weights = shrunk(region[:, :, rows][..., columns], maps.shape[-2:])[0, 0, down, across].flatten()
        return maps[0, :, down, across].flatten(1), weights

    def _add_tiled_gradient(self, gradient: Tensor, x: Tensor, slopes: dict[_Place, tuple[Tensor, Tensor]]) -> None:
        """Add to `gradient` what the slopes of the loss by the moments make of the pixels, tile by tile."""
        octave = self.octaves[0]
        for rows, columns, core in self._tiles(x, octave.taps):
            crop = x[:, :, rows][..., columns].requires_grad_(True)
            with torch.enable_grad():
                features = self._features(crop, octave.taps, circular=False)
                pulls = []
                for (key, tap), (by_mean, by_second) in slopes.items():
                    f, weights = self._core(features[tap], core[tap], octave.regions[key], rows, columns)
                    # d<S, F F^T> = <(S + S^T) F, dF>. The slope by the mean is None for losses of the Gram matrix.
                    pull = (by_second + by_second.T) @ f.detach()
                    pull = pull if by_mean is None else pull + by_mean[:, None]
                    pulls.append((pull * f * weights).sum() / self.counts[key, tap])
                (part,) = torch.autograd.grad(torch.stack(pulls).sum(), crop)
            gradient[0].permute(1, 2, 0).index_put_(
                (rows[:, None], columns[None, :]), part[0].permute(1, 2, 0), accumulate=True
            )

    def _features(self, x: Tensor, taps: tuple[str, ...], *, circular: bool) -> dict[str, Tensor]:
        if not taps:
            return {}
        if self.extractor is None:
            raise ConfigError("the loss needs features, and there is no feature extractor")
        padding = "circular" if circular else None
        features: dict[str, Tensor] = self.extractor(x, taps, padding=padding, checkpoint=self.checkpoint)
        return features


class TextureObjective(MatchingObjective):
    """One loss of one exemplar, over the whole image."""

    def __init__(self, loss: Loss, exemplar: Tensor, **options: Any) -> None:
        """Bind the loss to the exemplar [1, 3, h, w] in [0, 1]; the options are those of `MatchingObjective`."""
        super().__init__([Target(loss=loss, exemplar=exemplar)], **options)
        self.grey = bool((exemplar - exemplar.mean(dim=1, keepdim=True)).abs().max() < GREY)

    def value_and_grad(self, x: Tensor) -> tuple[float, Tensor]:
        """Loss at x [1, 3, H, W] and its gradient, which leaves x grey if the exemplar is: features alone would not."""
        loss, gradient = super().value_and_grad(x)
        return loss, gradient.mean(dim=1, keepdim=True).repeat(1, 3, 1, 1) if self.grey else gradient


def _merged(*groups: Iterable[T]) -> tuple[T, ...]:
    """What is in the groups, each once, in order."""
    return tuple(dict.fromkeys(itertools.chain(*groups)))
