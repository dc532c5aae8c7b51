"""A loss bound to an exemplar and a feature extractor: value and gradient of an image, whole or tile by tile."""

import logging
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name the field uses

from artmodels.errors import ConfigError
from artmodels.features import FeatureExtractor
from artmodels.runtime import generator
from artmodels.texture_synthesis.algebra import Bound, Context, Loss, Moments, Term

__all__ = ["TextureObjective", "gaussian_reduced"]

logger = logging.getLogger(__name__)

BURT_ADELSON = (0.05, 0.25, 0.4, 0.25, 0.05)  # a = 0.4 (Burt & Adelson 1983), as Snelgrove uses it


def gaussian_reduced(x: Tensor, *, circular: bool) -> Tensor:
    """One octave down: 5-tap Gaussian, every second pixel. [1, C, H, W] to [1, C, ceil(H / 2), ceil(W / 2)]."""
    taps = torch.tensor(BURT_ADELSON, device=x.device, dtype=x.dtype)
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 5, 5)
    mode = "circular" if circular else "replicate"
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode=mode), kernel, stride=2, groups=x.shape[1])


class TextureObjective:
    """What `optimise.minimise` descends."""

    def __init__(
        self,
        loss: Loss,
        exemplar: Tensor,
        *,
        extractor: FeatureExtractor | None,
        layers: tuple[str, ...],
        size: tuple[int, int],
        circular: bool = False,
        seed: int = 0,
        tile: int | None = 1024,
        checkpoint: bool = False,
    ) -> None:
        """Bind the loss.

        Args:
            loss: The loss.
            exemplar: [1, 3, h, w] in [0, 1].
            extractor: Where features come from; None when no term needs any.
            layers: The taps that terms use when they name none.
            size: (H, W) of the image.
            circular: Treat the image as a torus, so that the result tiles.
            seed: Of the random draws.
            tile: Side in pixels above which features are gathered tile by tile, exactly, in bounded memory; None:
                never. Only losses that need no more than moments can be tiled.
            checkpoint: Recompute activations in the backward instead of keeping them.

        Raises:
            ConfigError: A term needs features and there are none.
            ImageError: The exemplar or the size is too small for a layer.
        """
        self.extractor = extractor
        self.circular = circular
        self.seed = seed
        self.tile = tile
        self.checkpoint = checkpoint
        self.round = -1
        deviation = exemplar - exemplar.mean(dim=(2, 3), keepdim=True)
        variance = float(deviation.square().sum(dim=1).mean())
        self.natural_step = size[0] * size[1] * max(variance, 1e-12) / 2
        octaves: dict[int, list[tuple[float, Term]]] = {}
        for weight, octave, term in loss.terms():
            octaves.setdefault(octave, []).append((weight, term))
        self.octaves: list[tuple[list[tuple[float, Bound]], tuple[str, ...], tuple[str, ...]]] = []
        with torch.no_grad():
            for octave in range(max(octaves) + 1):
                if octave:
                    exemplar = gaussian_reduced(exemplar, circular=False)
                    size = (-(-size[0] // 2), -(-size[1] // 2))
                context = Context(size=size, layers=layers, circular=circular)
                weighted = octaves.get(octave, [])
                taps = _merged(term.taps(context) for _, term in weighted)
                moment_taps = _merged(term.moment_taps(context) for _, term in weighted)
                if octave and not self._large_enough((*exemplar.shape[-2:], *size), taps + moment_taps):
                    logger.info("the pyramid stops at %d octaves: the next is too small for the features", octave)
                    break
                features = self._features(exemplar, _merged([taps, moment_taps]), circular=False)
                moments = {tap: Moments.of(features[tap]) for tap in moment_taps}
                bound = [(weight, term.bind(exemplar, features, moments, context)) for weight, term in weighted]
                self.octaves.append((bound, taps, moment_taps))
        self.refresh(0)

    def refresh(self, round_: int) -> None:
        """Draw new random directions; the same round draws the same."""
        self.round = round_
        draws = generator((self.seed * 1_000_003 + round_) % 2**63)
        for bound, _, _ in self.octaves:
            for _, term in bound:
                term.refresh(draws, round_)

    def value_and_grad(self, x: Tensor) -> tuple[float, Tensor]:
        """Loss at x [1, 3, H, W] and its gradient."""
        leaf = x.detach().requires_grad_(True)
        image, values = leaf, []
        tiled: dict[str, Moments] = {}
        with torch.enable_grad():
            for octave, (bound, taps, moment_taps) in enumerate(self.octaves):
                if octave:
                    image = gaussian_reduced(image, circular=self.circular)
                features: dict[str, Tensor] = {}
                if self.tile is not None and moment_taps and max(image.shape[-2:]) > self.tile:
                    if taps or octave:
                        raise ConfigError(
                            "only Gram and Gaussian terms of the full image can be computed tile by tile: use those, "
                            f"or a size of at most {self.tile} px, or tile=None, which needs more memory"
                        )
                    moments = tiled = self._tiled_moments(x.detach(), moment_taps)
                else:
                    features = self._features(image, _merged([taps, moment_taps]), circular=self.circular)
                    moments = {tap: Moments.of(features[tap]) for tap in moment_taps}
                values += [weight * term(image, features, moments) for weight, term in bound]
            total = torch.stack(values).sum()
        parts = [part for pair in tiled.values() for part in pair]
        own, *slopes = torch.autograd.grad(total, [leaf, *parts], allow_unused=True)
        gradient = torch.zeros_like(leaf) if own is None else own
        if tiled:
            pairs = zip(slopes[::2], slopes[1::2], strict=True)
            self._add_tiled_gradient(gradient, x.detach(), dict(zip(tiled, pairs, strict=True)))
        return total.item(), gradient

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

        def spans(length: int) -> Iterator[tuple[Tensor, dict[str, slice]]]:
            for start in range(0, length, side):
                stop = min(start + side, length)
                if self.circular:
                    first, last = start - halo, stop + halo
                else:
                    first, last = max(0, start - halo), min(length, stop + halo)
                # The last core takes whatever features remain, as layers differ in how they round a last half stride.
                inner = None if stop == length and not self.circular else stop - first
                core = {tap: slice((start - first) // s, inner and inner // s) for tap, s in strides.items()}
                yield torch.arange(first, last, device=x.device) % length, core

        for rows, down in spans(x.shape[2]):
            for columns, across in spans(x.shape[3]):
                yield rows, columns, {tap: (down[tap], across[tap]) for tap in taps}

    def _tiled_moments(self, x: Tensor, taps: tuple[str, ...]) -> dict[str, Moments]:
        """Moments of the whole image's features, as leaves of a new graph."""
        sums: dict[str, Tensor] = {}
        with torch.no_grad():
            for rows, columns, core in self._tiles(x, taps):
                features = self._features(x[:, :, rows][..., columns], taps, circular=False)
                for tap, (down, across) in core.items():
                    f = features[tap][0, :, down, across].flatten(1)  # [C, M]
                    f = torch.cat([f, torch.ones_like(f[:1])])  # the last row and column then sum features and pixels
                    sums[tap] = sums[tap] + f @ f.T if tap in sums else f @ f.T
        self.counts = {tap: float(total[-1, -1]) for tap, total in sums.items()}
        return {
            tap: Moments(
                (total[-1, :-1] / total[-1, -1]).requires_grad_(), (total[:-1, :-1] / total[-1, -1]).requires_grad_()
            )
            for tap, total in sums.items()
        }

    def _add_tiled_gradient(self, gradient: Tensor, x: Tensor, slopes: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Add to `gradient` what the slopes of the loss by the moments make of the pixels, tile by tile."""
        taps = tuple(slopes)
        for rows, columns, core in self._tiles(x, taps):
            crop = x[:, :, rows][..., columns].requires_grad_(True)
            with torch.enable_grad():
                features = self._features(crop, taps, circular=False)
                pulls = []
                for tap, (down, across) in core.items():
                    f = features[tap][0, :, down, across].flatten(1)
                    by_mean, by_second = slopes[tap]
                    # d<S, F F^T> = <(S + S^T) F, dF>. The slope by the mean is None for losses of the Gram matrix.
                    pull = (by_second + by_second.T) @ f.detach()
                    pulls.append(((pull if by_mean is None else pull + by_mean[:, None]) * f).sum() / self.counts[tap])
                (part,) = torch.autograd.grad(torch.stack(pulls).sum(), crop)
            gradient[0].permute(1, 2, 0).index_put_(
                (rows[:, None], columns[None, :]), part[0].permute(1, 2, 0), accumulate=True
            )

    def _large_enough(self, sides: tuple[int, ...], taps: tuple[str, ...]) -> bool:
        if min(sides) < 2 or self.extractor is None:
            return min(sides) >= 2
        return all(min(sides) >= self.extractor.minimum_size(tap) for tap in taps)

    def _features(self, x: Tensor, taps: tuple[str, ...], *, circular: bool) -> dict[str, Tensor]:
        if not taps:
            return {}
        if self.extractor is None:
            raise ConfigError("the loss needs features, and there is no feature extractor")
        padding = "circular" if circular else None
        features: dict[str, Tensor] = self.extractor(x, taps, padding=padding, checkpoint=self.checkpoint)
        return features


def _merged(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """All taps, each once, in order."""
    return tuple(dict.fromkeys(tap for group in groups for tap in group))
