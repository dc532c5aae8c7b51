"""Pairs of places that seem to show the same detail, found in a collection without any label.

Shen, Efros and Aubry 2019, "Discovering Visual Patterns in Art Collections with Spatially-Consistent Feature Learning"
(arXiv:1903.02678), section 3: small patches are proposed at random, searched for in all other pictures, and two places
where the same patch was found are kept if what surrounds them agrees, too.

A place is the top left cell of a patch in one map of one picture. Loops run over pictures, their scales and chunks;
never over patches.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor

from artmodels.correspondence.cells import Pyramid
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.artminer.oneshot import window_cosine
from artmodels.settings import Count, Settings

__all__ = ["MiningConfig", "Pairs", "PatchMatches", "PatchPlaces", "Pyramids", "corners", "mine"]

MERGED = 64  # pictures whose hits are merged into the best at a time
REACH = 1  # cells by which a vote may miss its place, and a positive be away from it


class Pyramids(Protocol):
    """A collection: a list of pyramids, or whatever makes or reads one when it is asked for.

    All have the same number of scales, and at one scale the longer sides of all have as many cells.
    """

    def __len__(self) -> int:
        """How many pictures."""

    def __getitem__(self, index: int, /) -> Pyramid:
        """The features of one, each cell of length 1; float16 is searched as float32."""


EvenSide = Annotated[int, Ge(2), MultipleOf(2)]


@dataclass(frozen=True, kw_only=True)
class MiningConfig(Settings):
    """How pairs are mined. Defaults are the paper's."""

    proposals: Annotated[Count, "Patches that are cut at random."] = 2000
    patch: Annotated[Count, "Their side in cells."] = 2
    sides: Annotated[
        tuple[int, ...],
        "Longer sides, in cells, of the maps that patches are cut from. The released code has 40, too, which is none "
        "of the seven scales that are searched.",
    ] = (68, 60, 49, 36)
    margin: Annotated[
        int, "Cells at a border that are neither proposed nor found: what is padded tells how far the border is."
    ] = 5
    keep: Annotated[int, Ge(2), "Pictures in which a patch is found, the best ones: a pair is two of them."] = 10
    draws: Annotated[Count, "Pairs of such places that are looked at."] = 2000
    region: Annotated[EvenSide, "Side in cells of the square around a place whose outermost cells vote."] = 10
    corners: Annotated[EvenSide, "Side in cells of the square whose corners are trained on."] = 12
    pairs: Annotated[Count, "Pairs that are kept, those with the most votes."] = 200
    least: Annotated[
        int,
        "Votes that a pair must have. The paper keeps the best pairs however few their votes: 0. In a small collection "
        "that has hardly any repeated detail those would be noise.",
    ] = 0
    memory: Annotated[Count, "Bytes that the cosines of a chunk may take."] = 2**26

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        for name, side in {"region": self.region, "corners": self.corners}.items():
            if side // 2 > min(self.margin + 1, self.margin + self.patch - 1):
                raise ConfigError(
                    f"{name}={side} reaches beyond the picture at a place {self.margin} cells from its border: give a "
                    "larger margin"
                )

    @property
    def smallest(self) -> int:
        """Cells that the shorter side of a map must have for a patch to fit inside the margin, as the paper counts."""
        return 2 * self.margin + self.patch + 1


@dataclass(frozen=True, eq=False)
class PatchPlaces:
    """Where patches are: int64 tensors of one shape, on the CPU."""

    image: Tensor  # number of the picture
    scale: Tensor  # number of the map in its pyramid
    row: Tensor  # of the top left cell
    column: Tensor

    def __getitem__(self, index: Tensor | tuple[Tensor, ...]) -> "PatchPlaces":
        """Some of them."""
        return PatchPlaces(self.image[index], self.scale[index], self.row[index], self.column[index])


@dataclass(frozen=True, eq=False)
class PatchMatches:
    """Where each of P patches was found."""

    places: PatchPlaces  # [P, k], one in each of k pictures, the best first
    scores: Tensor  # float32 [P, k], the cosines; -inf where there was no other picture


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of places that agree."""

    first: PatchPlaces  # [n]
    second: PatchPlaces  # [n]
    votes: Tensor  # int64 [n], most first

    def table(self) -> Tensor:
        """All of it as int64 [n, 9]: image, scale, row, column of first and second, and votes."""
        both = (self.first, self.second)
        columns = [column for places in both for column in (places.image, places.scale, places.row, places.column)]
        return torch.stack([*columns, self.votes], 1)

    @classmethod
    def of(cls, table: Tensor) -> "Pairs":
        """What `table` gave."""
        columns = table.unbind(1)
        return cls(PatchPlaces(*columns[:4]), PatchPlaces(*columns[4:8]), columns[8])


def perimeter(side: int) -> Tensor:
    """Rows and columns [4 side - 4, 2] of the outermost cells of a region, from the place in its middle."""
    offsets = torch.cartesian_prod(*2 * [torch.arange(side) - (side // 2 - 1)])
    return offsets[((offsets == 1 - side // 2) | (offsets == side // 2)).any(1)]


def corners(side: int) -> Tensor:
    """Rows and columns [4, 2] of the corners of a region, from the place in its middle."""
    return torch.cartesian_prod(*2 * [torch.tensor([1 - side // 2, side // 2])])


def proposals(pyramids: Pyramids, config: MiningConfig, rng: torch.Generator) -> PatchPlaces:
    """Patches at random [P]: pictures take turns in random order; scales and positions are drawn evenly.

    Raises:
        DatasetError: No picture has a map of one of the sides asked for that is large enough.
    """
    shapes = torch.tensor([[list(found.shape[1:]) for found in pyramids[i].maps] for i in range(len(pyramids))])
    room = shapes - (2 * config.margin + config.patch - 1)  # [N, scales, 2]: positions on each axis
    usable = torch.isin(shapes.amax(2), torch.tensor(config.sides)) & (room > 0).all(2)
    able = usable.any(1).nonzero()[:, 0]
    if not len(able):
        raise DatasetError(
            f"None of {len(pyramids)} pictures has a map of {' or '.join(map(str, config.sides))} cells with room "
            f"for a patch of {config.patch} inside a margin of {config.margin}: choose other scales or sides."
        )
    turns = -(-config.proposals // len(able))
    image = torch.cat([able[torch.randperm(len(able), generator=rng)] for _ in range(turns)])[: config.proposals]
    scale = torch.multinomial(usable[image].double(), 1, generator=rng)[:, 0]
    span = room[image, scale]
    drawn = torch.rand(len(image), 2, generator=rng, dtype=torch.float64)
    start = config.margin + torch.minimum((drawn * span).long(), span - 1)
    return PatchPlaces(image, scale, *start.unbind(1))


def candidates(pyramids: Pyramids, patches: PatchPlaces, config: MiningConfig) -> PatchMatches:
    """Search every patch [P] in all other pictures, at all scales.

    Of a picture only the best position counts, and of the pictures only the best `keep`. The memory is that of the
    patches, of one pyramid and of a chunk of cosines.
    """
    square = torch.cartesian_prod(*2 * [torch.arange(config.patch)])
    kernels = _gathered(pyramids, patches, square)  # [P, cells, D]
    kernels = kernels.transpose(1, 2).reshape(len(kernels), -1, config.patch, config.patch)  # [P, D, a, a]
    count = len(patches.image)
    scores, found = torch.empty(count, 0), torch.empty(count, 0, 4, dtype=torch.int64)
    fresh = list[tuple[Tensor, Tensor]]()
    for image in range(len(pyramids)):
        score, place = _best_in(pyramids[image], kernels, config)
        score[patches.image == image] = -torch.inf
        number = torch.full((count, 1), image)
        fresh.append((score, torch.cat([number, place], 1)))
        if len(fresh) == MERGED or image + 1 == len(pyramids):
            scores = torch.cat([scores, torch.stack([part[0] for part in fresh], 1)], 1)
            found = torch.cat([found, torch.stack([part[1] for part in fresh], 1)], 1)
            # Stable: of equal ones the earlier picture stays, whatever the chunks are.
            order = scores.argsort(dim=1, descending=True, stable=True)[:, : config.keep]
            scores, found = scores.gather(1, order), found.take_along_dim(order[:, :, None], 1)
            fresh.clear()
    return PatchMatches(PatchPlaces(*found.unbind(2)), scores)


def _best_in(pyramid: Pyramid, kernels: Tensor, config: MiningConfig) -> tuple[Tensor, Tensor]:
    """Best cosine [P] of kernels [P, D, a, a] in one picture, and its scale, row and column [P, 3]; -inf if none."""
    best = torch.full((len(kernels),), -torch.inf)
    place = torch.zeros(len(kernels), 3, dtype=torch.int64)
    edge = config.margin
    for scale, features in enumerate(pyramid.maps):
        rows, columns = features.shape[1:]
        if min(rows, columns) < 2 * edge + config.patch:
            continue
        inner = features[:, edge : rows - edge, edge : columns - edge].float()
        across = inner.shape[2] - config.patch + 1
        cells = (inner.shape[1] - config.patch + 1) * across
        parts = [
            window_cosine(inner, part).flatten(1).max(1)
            for part in torch.split(kernels, max(1, config.memory // 4 // cells))
        ]
        score, at = (torch.cat(blocks).cpu() for blocks in zip(*parts, strict=True))
        here = torch.stack([torch.full_like(at, scale), at // across + edge, at % across + edge], 1)
        better = score > best
        best, place = torch.where(better, score, best), torch.where(better[:, None], here, place)
    return best, place


def votes(pyramids: Pyramids, first: PatchPlaces, second: PatchPlaces, config: MiningConfig) -> Tensor:
    """How many cells around the first place [n] find their like where it belongs around the second: int64 [n].

    The outermost cells of the region around the first each look for the most similar cell of the whole second map. It
    is a vote if that is the cell of the same offset from the second place, or next to it.
    """
    offsets = perimeter(config.region)
    queries = _gathered(pyramids, first, offsets)  # [n, cells, D]
    wanted = torch.stack([second.row, second.column], 1)[:, None] + offsets  # [n, cells, 2]
    total = torch.zeros(len(first.image), dtype=torch.int64)
    for chosen, features in _by_map(pyramids, second):
        columns = features.shape[2]
        flat = features.float().flatten(1)
        for part in torch.split(chosen, max(1, config.memory // 4 // (flat.shape[1] * len(offsets)))):
            at = (queries[part.to(queries.device)] @ flat).argmax(2).cpu()
            nearest = torch.stack([at // columns, at % columns], 2)
            total[part] = ((nearest - wanted[part]).abs().amax(2) <= REACH).sum(1)
    return total


def validated(pyramids: Pyramids, found: PatchMatches, config: MiningConfig, rng: torch.Generator) -> Pairs:
    """Draw pairs of places where the same patch was found, let what surrounds them vote, and keep the best pairs."""
    patch = torch.randint(len(found.scores), (config.draws,), generator=rng)
    hits = (found.scores[patch] > -torch.inf).sum(1)  # the best come first
    drawn = torch.rand(config.draws, 2, generator=rng, dtype=torch.float64)
    one = torch.minimum((drawn[:, 0] * hits).long(), hits - 1)
    other = torch.minimum((drawn[:, 1] * (hits - 1)).long(), hits - 2)
    other += other >= one  # any but that one
    able = hits >= 2
    first, second = (found.places[patch[able], number[able]] for number in (one, other))
    counts = votes(pyramids, first, second, config)
    best = counts.argsort(descending=True, stable=True)[: config.pairs]
    best = best[counts[best] >= config.least]
    return Pairs(first[best], second[best], counts[best])


def mine(pyramids: Pyramids, config: MiningConfig, rng: torch.Generator) -> Pairs:
    """Propose, search and validate; pyramids with different scales are a ConfigError."""
    numbers = {len(pyramids[i].maps) for i in range(len(pyramids))}
    if len(numbers) > 1:
        raise ConfigError(f"pictures have {sorted(numbers)} scales: describe all of them at the same ones")
    patches = proposals(pyramids, config, rng)
    return validated(pyramids, candidates(pyramids, patches, config), config, rng)


def _by_map(pyramids: Pyramids, places: PatchPlaces) -> Iterator[tuple[Tensor, Tensor]]:
    """Each map that holds some of the places [n]: their numbers, and its features [D, R, C]."""
    for image in torch.unique(places.image).tolist():
        inside = (places.image == image).nonzero()[:, 0]
        maps = pyramids[image].maps
        for scale in torch.unique(places.scale[inside]).tolist():
            yield inside[places.scale[inside] == scale], maps[scale]


def _gathered(pyramids: Pyramids, places: PatchPlaces, offsets: Tensor) -> Tensor:
    """Features float32 [n, k, D] of the cells at k offsets [k, 2] from each of n places."""
    first = pyramids[0].maps[0]
    values = first.new_empty(len(places.image), len(offsets), len(first), dtype=torch.float32)
    rows, columns = places.row[:, None] + offsets[:, 0], places.column[:, None] + offsets[:, 1]
    for chosen, features in _by_map(pyramids, places):
        cells = features[:, rows[chosen], columns[chosen]]  # [D, n, k]
        values[chosen.to(values.device)] = cells.permute(1, 2, 0).float()
    return values
