"""The pair discovery score: what two pictures have in common, with no query, and where.

Shen, Efros and Aubry 2019, "Discovering Visual Patterns in Art Collections with Spatially-Consistent Feature Learning"
(arXiv:1903.02678), section 5. Cells of the reference, at one scale, and of the target, at several, that are each
other's nearest neighbours are matches; those of one scale that agree on a translation propose transforms; all
matches vote for them; what survives of the best transform in patches is the evidence.

By default distances are in cells of the reference, the same along both axes. The published variant is `PUBLISHED`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from artmodels.correspondence.cells import saliency
from artmodels.correspondence.geometry import SAMPLE, Model, minimal
from artmodels.correspondence.ransac import draw
from artmodels.errors import ConfigError
from artmodels.images.results import Tabular
from artmodels.methods.artminer.consensus import Matches, plausible, refitted, scores, surviving
from artmodels.settings import Settings

__all__ = ["MOST_HYPOTHESES", "PUBLISHED", "DiscoveryConfig", "Match", "discover", "discover_many", "inner_saliency"]

MOST_HYPOTHESES = 100_000
CANDIDATES = 4  # matches that must agree on a translation
LEAST = 1e-6  # similarity of a match: that of cells in uniform areas, which weigh nothing, is rounding
REUSED = 2**20  # bytes of a block of similarities on a CPU: it stays in the cache and the allocator keeps it
BLOCK = 2**28  # bytes of one elsewhere
DEGENERATE = 1e-6  # of the squared side of the reference: twice the area that a sample's triangle must have
VOTE = 2**40  # a vote is counted in these parts, so that sums are exact and equal peaks are equal

drawn = lru_cache(maxsize=256)(draw)  # many pairs have as many candidates


@dataclass(frozen=True, kw_only=True)
class DiscoveryConfig(Settings):
    """Settings of the discovery score. Gates and refits are not published."""

    margin: Annotated[int, Interval(ge=0, le=100), "Cells at each side of the reference that are context only."] = 3
    tolerance: Annotated[
        float,
        Interval(gt=0, le=16),
        "Distance below which a match agrees with a transform, in cells of the reference: 2 for whole pictures, 1 for "
        "regions. Also the radius of the votes for translations.",
    ] = 2.0
    iterations: Annotated[int, Interval(ge=1, le=MOST_HYPOTHESES), "Hypotheses at most."] = 1000
    model: Annotated[Model, "Kind of transform; scaling has a scale and a translation for each axis."] = "affine"
    saliency: Annotated[bool, "Whether reference cells that are like their neighbours weigh less."] = True
    isotropic: Annotated[
        bool,
        "Whether distances are the same along both axes. False is the published variant: coordinates are shares of "
        "width and height, and the tolerance is a share of the reference's longer side with its margin.",
    ] = True
    gates: Annotated[bool, "Whether transforms are refused that no copyist would make: `consensus.plausible`."] = True
    least_component: Annotated[int, Interval(ge=1, le=10_000), "Cells of a patch, in each of both pictures."] = 3
    refits: Annotated[
        int,
        Interval(ge=0, le=100),
        "How often the best transform is fitted again to the matches that agree with it, see `consensus.refitted`; a "
        "fit that is refused or scores less is dropped.",
    ] = 0
    seed: Annotated[int, Interval(ge=0, lt=2**63), "Of the samples."] = 0


PUBLISHED = DiscoveryConfig(isotropic=False, gates=False)


def _mask(cells: Tensor, shape: tuple[int, int], height: int, width: int) -> NDArray[np.float32]:
    grid = np.zeros(shape, bool)
    grid[cells[:, 0].numpy(), cells[:, 1].numpy()] = True
    grid = ndimage.binary_dilation(grid, np.ones((3, 3)))
    along = []
    for pixels, count in ((height, shape[0]), (width, shape[1])):  # weights of bilinear interpolation, [pixels, count]
        centre = np.clip((np.arange(pixels) + 0.5) * count / pixels - 0.5, 0, count - 1)
        along.append(np.clip(1 - np.abs(centre[:, None] - np.arange(count)), 0, None).astype(np.float32))
    mask: NDArray[np.float32] = (along[0] @ grid.astype(np.float32) @ along[1].T > 0.5).astype(np.float32)
    for _ in range(3):
        mask = ndimage.uniform_filter(mask, 5, mode="nearest")
    return mask.clip(0, 1)


@dataclass(frozen=True, eq=False)
class Match(Tabular):
    """Evidence that two pictures, the reference and the target, show the same thing.

    Attributes:
        score: 0 where nothing is found: the similarities of all pairs of cells that are left, by the number of the
            reference's cells without its margin. At most 1.
        transform: [3, 3] float32, from RELATIVE target coordinates (x, y, 1) to relative reference coordinates.
        reference_cells: [n, 2] int64, (row, column) of the pairs that are left, in the reference's map.
        target_cells: [n, 2] int64, (row, column) in a map of the target whose cells are as large as the reference's.
        similarity: [n] float32 of each pair; weighted by saliency, where that is on.
        reference_shape: Rows and columns of the reference's map, with its margin.
        target_shape: Of the target's.
        reason: Why the score is 0; else "".
    """

    score: float
    transform: Tensor
    reference_cells: Tensor
    target_cells: Tensor
    similarity: Tensor
    reference_shape: tuple[int, int]
    target_shape: tuple[int, int]
    reason: str = ""

    def _table(self) -> tuple[str, Sequence[str], Iterable[Sequence[object]]]:
        pairs = zip(self.reference_cells.tolist(), self.target_cells.tolist(), self.similarity.tolist(), strict=True)
        rows = sorted(([*one, *other, value] for one, other, value in pairs), key=lambda row: -row[-1])
        title = f"Score {self.score:.3f}" + (f": {self.reason}" if self.reason else "")
        return title, ("row", "column", "row of the target", "its column", "similarity"), rows

    def reference_mask(self, height: int, width: int) -> NDArray[np.float32]:
        """Where the reference shows it, for a picture of so many pixels: [height, width] in [0, 1], soft at edges.

        The cells that are left and their neighbours, as pixels, blurred by three box filters of 5 pixels.
        """
        return _mask(self.reference_cells, self.reference_shape, height, width)

    def target_mask(self, height: int, width: int) -> NDArray[np.float32]:
        """Where the target shows it, as `reference_mask`."""
        return _mask(self.target_cells, self.target_shape, height, width)


def inner_saliency(features: Tensor) -> Tensor:
    """As `saliency`, [R, C] of a map [D, R, C]; cells at the border weigh 0, as published: leave them in the margin."""
    weight = saliency(features)
    inner = torch.zeros_like(weight)
    inner[1:-1, 1:-1] = weight[1:-1, 1:-1]
    return inner


def _mutual(reference: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Of reference [n1, D] and target [D, n2]: the nearest target cell of each reference cell, and their similarity.

    Both are [n1]; the similarity is 0 where the cells are not each other's nearest.
    """
    count, cells, on_cpu = len(reference), target.shape[1], reference.device.type == "cpu"
    best = reference.new_full((count,), -torch.inf)
    nearest = torch.zeros(count, dtype=torch.int64, device=reference.device)
    largest = reference.new_empty(cells)
    width = max(1, (REUSED if on_cpu else BLOCK) // (4 * count))
    for start in range(0, cells, width):
        block = reference @ target[:, start : start + width].float()
        torch.amax(block, 0, out=largest[start : start + width])
        # The first largest of each row; NumPy's is some ten times as fast as PyTorch's on a CPU.
        where = torch.from_numpy(block.numpy().argmax(1)) if on_cpu else block.argmax(1)
        value = block.gather(1, where[:, None])[:, 0]
        better = value > best
        best, nearest = torch.where(better, value, best), torch.where(better, where + start, nearest)
    index = torch.arange(count, device=reference.device)
    mutual = (best == largest[nearest]) & (best > LEAST)
    # Of reference cells that are alike, the first is the nearest.
    first = torch.full_like(largest, count, dtype=torch.int64)
    first = first.scatter_reduce(0, nearest, torch.where(mutual, index, count), "amin")
    return nearest, torch.where(mutual & (first[nearest] == index), best, 0.0)


def _agreeing(steps: Tensor, scale: Tensor, tolerance: float) -> Tensor:
    """Which matches agree on the translation with most votes: positions [h].

    Steps [m, 2] are the (row, column) of the reference cell less those of the target cell; scales are [m]. Each match
    votes for its own translation and, by exp(-d^2 / tolerance^2), for those within the tolerance along both axes. The
    first of equal peaks counts, by scale, row and column.
    """
    radius = int(tolerance)
    around = torch.cartesian_prod(*[torch.arange(-radius, radius + 1)] * 2)  # [25, 2]
    votes = ((-around.square().sum(1).double() / tolerance**2).exp() * VOTE).round().long()
    low = steps.amin(0) - radius
    rows, columns = (steps.amax(0) + radius - low + 1).tolist()
    place = steps - low
    centre = (scale * rows + place[:, 0]) * columns + place[:, 1]
    bins = torch.zeros((int(scale.max()) + 1) * rows * columns, dtype=torch.int64)
    bins.index_add_(0, (centre[:, None] + around @ torch.tensor([columns, 1])).flatten(), votes.repeat(len(steps)))
    peak = int(bins.numpy().argmax())
    row, column = peak // columns % rows, peak % columns
    near = ((place - torch.tensor([row, column])).abs() <= radius).all(1)
    return torch.nonzero(near & (scale == peak // (rows * columns)))[:, 0]


def _finest(target: Sequence[Tensor]) -> tuple[int, int]:
    return max(((features.shape[1], features.shape[2]) for features in target), key=max)


class _Reference:
    """A reference map that is matched with any number of targets."""

    def __init__(self, features: Tensor, config: DiscoveryConfig) -> None:
        self.config, self.shape = config, (features.shape[1], features.shape[2])
        self.longest = max(self.shape)
        margin = config.margin
        self.inner = max(0, self.shape[0] - 2 * margin), max(0, self.shape[1] - 2 * margin)
        features = features.float()
        if config.saliency:
            features = features * inner_saliency(features)
        rows, columns = self.inner
        inside = features[:, margin : margin + rows, margin : margin + columns]
        self.cells = inside.flatten(1).T.contiguous()  # [n1, D]

    def nothing(self, reason: str, finest: tuple[int, int]) -> Match:
        none = torch.zeros(0, 2, dtype=torch.int64)
        return Match(0.0, torch.eye(3), none, none, torch.zeros(0), self.shape, finest, reason)

    def matches(self, target: Sequence[Tensor]) -> tuple[Matches, Tensor, Tensor]:
        """All matches, the steps [m, 2] from target to reference cells, and scales [m]."""
        found = [_mutual(self.cells, features.flatten(1)) for features in target]
        nearest, similarity = (torch.stack(blocks).cpu() for blocks in zip(*found, strict=True))  # [K, n1]
        scale, cell = torch.nonzero(similarity, as_tuple=True)
        shapes = torch.tensor([features.shape[1:] for features in target])[scale]  # [m, 2]
        place = nearest[scale, cell]
        there = torch.stack([place // shapes[:, 1], place % shapes[:, 1]], 1)  # row, column
        here = torch.stack([cell // self.inner[1], cell % self.inner[1]], 1)
        steps, here, there, shapes = here - there, here.double(), there.double(), shapes.double()
        height, width = (side * self.longest / max(_finest(target)) for side in _finest(target))
        if self.config.isotropic:
            first, unit = here + self.config.margin + 0.5, 1.0
            second = (there + 0.5) / shapes * torch.tensor([height, width], dtype=torch.float64)
            extent = width, height
            sides, spans = (1.0, 1.0), (1.0, 1.0)
        else:
            # 0.49 so that the integer part of position * side is the cell again.
            first, unit = (here + 0.49) / torch.tensor(self.inner), 1 / self.longest
            second, extent = (there + 0.49) / shapes, (1.0, 1.0)
            sides, spans = (float(self.inner[1]), float(self.inner[0])), (width, height)
        tolerance = self.config.tolerance * unit
        strength = similarity[scale, cell]
        points = first.flip(1), second.flip(1)
        return Matches(cell, *points, strength, extent, sides, spans, tolerance), steps, scale

    def relative(self, transform: Tensor, matches: Matches, finest: tuple[int, int]) -> Tensor:
        """The same transform [3, 3] between relative coordinates of whole pictures."""
        rows, columns = self.shape
        back = torch.diag(torch.tensor([1 / columns, 1 / rows, 1.0], dtype=torch.float64))
        there = torch.diag(torch.tensor([*matches.extent, 1.0], dtype=torch.float64))
        if not self.config.isotropic:  # centres of cells are at 0.49 there
            inner, ahead = self.inner, self.config.margin + 0.01
            place = [[inner[1], 0, ahead], [0, inner[0], ahead], [0, 0, 1]]
            back = back @ torch.tensor(place, dtype=torch.float64)
            there[:2, 2] = -0.01 / torch.tensor([finest[1], finest[0]])
        return (back @ transform @ there).float()

    def refined(self, best: Tensor, value: float, matches: Matches) -> Tensor:
        """The transform [3, 3], fitted again as often as that does not lower its score."""
        for _ in range(self.config.refits):
            fitted = refitted(self.config.model, best, matches)[None]
            score = float(scores(fitted, matches, self.cells.device))
            if score < value or (self.config.gates and not plausible(fitted, matches)):
                break
            best, value = fitted[0], score
        return best

    def match(self, target: Sequence[Tensor]) -> Match:
        config, finest = self.config, _finest(target)
        if not len(self.cells):
            return self.nothing(f"no cell of {self.shape} is inside a margin of {config.margin}", finest)
        matches, steps, scale = self.matches(target)
        if not len(steps):
            return self.nothing("no cells are each other's nearest neighbours", finest)
        agreeing, size = _agreeing(steps, scale, config.tolerance), SAMPLE[config.model]
        if len(agreeing) < (needed := max(CANDIDATES, size)):
            return self.nothing(f"{len(agreeing)} matches agree on a translation, fewer than {needed}", finest)
        samples = agreeing[drawn(len(agreeing), size, config.iterations, config.seed)]
        least = DEGENERATE * (self.longest**2 if config.isotropic else 1)
        pairs = matches.second[samples], matches.first[samples]
        transforms, sound = minimal(*pairs, config.model, least=least, turned=True)
        degenerate = len(sound) - int(sound.sum())
        transforms = transforms[sound]
        if config.gates:
            transforms = transforms[plausible(transforms, matches)]
        if not len(transforms):
            refused = f"{degenerate} degenerate and {len(samples) - degenerate} implausible"
            return self.nothing(f"of {len(samples)} hypotheses, {refused}", finest)
        values = scores(transforms, matches, self.cells.device).numpy()
        best = self.refined(transforms[int(values.argmax())], float(values.max()), matches)
        kept, place, grid, reason = surviving(best, matches, self.inner, config.least_component)
        if reason:
            return self.nothing(reason, finest)
        chosen = torch.from_numpy(kept)
        similarity, cell = matches.similarity[chosen], matches.cell[chosen]
        here = torch.stack([cell // self.inner[1], cell % self.inner[1]], 1) + config.margin
        score = float(similarity.double().sum()) / len(self.cells)
        relative = self.relative(best, matches, finest)
        return Match(score, relative, here, torch.from_numpy(place), similarity, self.shape, grid)


def _check(name: str, features: Tensor, dims: int | None = None) -> None:
    shape = tuple(features.shape)
    if features.ndim != 3 or not features.is_floating_point() or 0 in shape:
        raise ConfigError(f"{name} is {features.dtype} {shape}: give floating [D, rows, columns], none of them 0")
    if dims is not None and shape[0] != dims:
        raise ConfigError(f"{name} has {shape[0]} features for each cell and the reference {dims}: use one describer")


@torch.no_grad()
def discover_many(
    reference: Tensor, targets: Sequence[Sequence[Tensor]], config: DiscoveryConfig | None = None
) -> list[Match]:
    """Match one reference with many targets; each result is exactly that of `discover`.

    The score of (a, b) is not that of (b, a): `ArtMiner.compare` keeps the better one, as published. Beside the
    maps, memory is bounded whatever the number of targets.

    Args:
        reference: [D, R, C] with its margin, each cell of length 1; usually 40 cells on the longer side.
        targets: For each, its maps [D, R_k, C_k] at all scales; float32 or float16, on the reference's device.
        config: Settings; None for the defaults.

    Raises:
        ConfigError: A map has the wrong shape or type, or a target has none.
    """
    _check("the reference", reference)
    for number, target in enumerate(targets):
        if not len(target):
            raise ConfigError(f"target {number} has no maps: give one or more scales")
        for features in target:
            _check(f"a map of target {number}", features, len(reference))
    prepared = _Reference(reference, config or DiscoveryConfig())
    return [prepared.match(target) for target in targets]


def discover(reference: Tensor, target: Sequence[Tensor], config: DiscoveryConfig | None = None) -> Match:
    """Match a reference with one target: `discover_many` for one."""
    return discover_many(reference, [target], config)[0]
