"""Many pairs of pictures as arrays: what was accepted, its masks on one grid a picture, and triangles of pictures."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from artmodels.correspondence.cells import grid
from artmodels.correspondence.views import VIEWS, from_view, sideways
from artmodels.errors import ConfigError
from artmodels.images.decoding import Array
from artmodels.images.results import Tabular
from artmodels.methods.artminer.discovery import Match

__all__ = [
    "IOU_CELLS",
    "MASK_CELLS",
    "THRESHOLD",
    "Pair",
    "PairTable",
    "check",
    "components",
    "mapped",
    "overlapping",
    "triangles",
]

THRESHOLD = 0.015  # of the paper; 0.03 for its old and new photographs
MASK_CELLS = 40  # of the longer side of a mask to be shown
IOU_CELLS = 100  # of those that are compared
BLOCK = 1024  # maps that are made at a time
MASKS = 2**13  # masks that are compared as bits at a time
WEDGES = 2**20  # candidates for triangles, and pairs of masks, that are looked at together

UPRIGHT = {view: from_view(view).double().numpy() for view in VIEWS}  # from relative coordinates of a view
TURNED = {view: np.linalg.inv(matrix) for view, matrix in UPRIGHT.items()}  # to these


@dataclass(frozen=True, eq=False)
class Pair(Tabular):
    """Two pictures that show the same thing, as far as their cells say.

    Attributes:
        first: Name of the reference picture.
        second: Name of the target picture.
        match: The evidence; its target is the second picture as the view shows it.
        view: How the second was turned before it was compared, see `artmodels.correspondence.views.VIEWS`.
        verdict: Of an expert: "same", "similar", "no", or "" for none.
    """

    first: str
    second: str
    match: Match
    view: str = ""
    verdict: str = ""

    def _table(self) -> tuple[str, Sequence[str], Iterable[Sequence[object]]]:
        title, heads, rows = self.match._table()
        turned = f", turned: {self.view}" if self.view else ""
        return f"{self.first} and {self.second}{turned}. {title}", heads, rows

    @property
    def accepted(self) -> bool | None:
        """What the verdict decides, whatever the score: True for "same", False for "no", None for the others."""
        return {"same": True, "no": False}.get(self.verdict)

    @property
    def transform(self) -> Array:
        """[3, 3] float64: relative coordinates of the second picture, not turned, to those of the first."""
        matrix: Array = self.match.transform.double().numpy() @ TURNED[self.view]
        return matrix


class PairTable:
    """Accepted pairs as arrays: those judged "same", or scored above the threshold and not judged "no".

    An entry is one of the two ends of a pair: number 2 n is the first's of pair n. Pictures are numbered by name.
    """

    def __init__(self, pairs: Sequence[Pair], threshold: float) -> None:
        """Choose and arrange."""
        self.pairs = [p for p in pairs if (p.match.score > threshold if p.accepted is None else p.accepted)]
        self.names = sorted({name for pair in self.pairs for name in (pair.first, pair.second)})
        place = {name: number for number, name in enumerate(self.names)}
        ends = [(place[pair.first], place[pair.second]) for pair in self.pairs]
        self.ends = np.array(ends, np.int64).reshape(-1, 2)  # the picture of each entry
        self.scores = np.array([pair.match.score for pair in self.pairs], np.float64)

    def __len__(self) -> int:
        """How many were accepted."""
        return len(self.pairs)

    @cached_property
    def transforms(self) -> Array:
        """[n, 3, 3] float64, see `Pair.transform`."""
        if not self.pairs:
            return np.zeros((0, 3, 3))
        found = torch.stack([pair.match.transform for pair in self.pairs]).double().numpy()
        matrices: Array = found @ np.stack([TURNED[pair.view] for pair in self.pairs])
        return matrices

    @cached_property
    def _by_picture(self) -> tuple[Array, Array]:
        """Entries in the order of their pictures, and where those of each picture start: [2 n] and [names + 1]."""
        flat = self.ends.reshape(-1)
        order = np.argsort(flat, kind="stable")
        return order, np.searchsorted(flat[order], np.arange(len(self.names) + 1))

    @cached_property
    def _cells(self) -> tuple[Array, Array, Array, Array]:
        """Cells as the views show them: [cells, 2] row and column, and [2 n + 1] where those of an entry start.

        Then [2 n, 2] rows and columns of an entry's map as the view shows it, and [2 n] its place in `VIEWS`.
        """
        shapes = np.array([s for p in self.pairs for s in (p.match.reference_shape, p.match.target_shape)], np.int64)
        cells = [c for pair in self.pairs for c in (pair.match.reference_cells, pair.match.target_cells)]
        starts = np.concatenate([[0], np.cumsum([part.size(0) for part in cells], dtype=np.int64)])
        flat = torch.cat(cells).numpy() if cells else np.zeros((0, 2), np.int64)
        place = {view: number for number, view in enumerate(VIEWS)}
        views = np.zeros(2 * len(self), np.int64)
        views[1::2] = [place[pair.view] for pair in self.pairs]
        return flat, starts, shapes.reshape(-1, 2), views

    def entries(self, picture: int) -> Array:
        """Numbers of the entries of a picture."""
        order, starts = self._by_picture
        found: Array = order[starts[picture] : starts[picture + 1]]
        return found

    def points(self, count: int) -> Array:
        """Centres of `count` cells of each entry, evenly taken, relative: [2 n, count, 2]; NaN where it has none."""
        cells, starts, shapes, views = self._cells
        sizes = np.diff(starts)
        chosen = starts[:-1, None] + (((np.arange(count) + 0.5) / count) * sizes[:, None]).astype(np.int64)
        points = np.full((len(sizes), count, 2), np.nan)
        points[sizes > 0] = ((cells[chosen[sizes > 0]] + 0.5) / shapes[sizes > 0, None])[..., ::-1]
        for number, view in enumerate(VIEWS):
            if view:
                points[views == number] = mapped(UPRIGHT[view], points[views == number])
        return points

    @cached_property
    def shapes(self) -> Array:
        """Rows and columns of the finest map of each picture, not turned: [names, 2]."""
        flat, (_, _, shapes, views) = self.ends.reshape(-1), self._cells
        lying = np.array([sideways(view) for view in VIEWS])[views]
        shapes = np.where(lying[:, None], shapes[:, ::-1], shapes)
        order = np.lexsort((shapes.prod(1), flat))
        last = np.searchsorted(flat[order], np.arange(len(self.names)), side="right") - 1
        found: Array = shapes[order[last]]
        return found

    def masks(self, picture: int, entries: Array, cells: int) -> Array:
        """What entries of one picture cover: [k, R, C] bool on a grid whose longer side has `cells` cells.

        A surviving cell of a map covers itself and its eight neighbours, and a cell of the grid is covered if its
        centre is.
        """
        tall, wide = self.shapes[picture].tolist()
        shape = grid(tall, wide, cells)
        covered = np.zeros((len(entries), *shape), bool)
        for members, maps in self.maps(entries):
            rows, columns = map(_nearest, shape, maps.shape[1:])
            covered[members] = maps[:, rows[:, None], columns]
        return covered

    def packed(self, entries: Array, cells: int) -> tuple[Array, Array]:
        """The masks of entries of any pictures as bits [k, W] uint64, and their bounds [k, 5].

        Bits are in the order of rows, and masks of one picture have the same layout. Bounds are how many bits are set,
        the first row and column that has one, and those after the last.
        """
        pictures, place = np.unique(self.ends.reshape(-1)[entries], return_inverse=True)
        grids = [grid(tall, wide, cells) for tall, wide in self.shapes[pictures].tolist()]
        shapes = np.array(grids, np.int64).reshape(-1, 2)[place]
        longest = int((shapes[:, 0] * -(-shapes[:, 1] // 8)).max(initial=0))  # bytes
        words = np.zeros((len(entries), -(-longest // 8)), np.uint64)
        bounds = np.zeros((len(entries), 5), np.int64)
        for members, maps in self.maps(entries, shapes):
            rows, columns = map(_nearest, shapes[members[0]].tolist(), maps.shape[1:])
            # A line of the grid by its bits, from the bytes of a row of the map: a table is faster than bit by bit.
            octets = np.packbits(maps, axis=2)
            lines = np.zeros((*octets.shape[:2], -(-len(columns) // 8)), np.uint8)
            for at in range(octets.shape[2]):
                known = np.zeros((256, 8 * octets.shape[2]), np.uint8)
                known[:, 8 * at : 8 * at + 8] = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
                lines |= np.packbits(known[:, columns], axis=1).take(octets[:, :, at], axis=0)
            bits = np.zeros((len(members), words.shape[1] * 8), np.uint8)
            bits[:, : len(rows) * lines.shape[2]] = lines.take(rows, axis=1).reshape(len(members), -1)
            words[members] = bits.view(np.uint64)
            across = np.unpackbits(np.bitwise_or.reduce(lines, axis=1), axis=1, count=len(columns)).astype(bool)
            down = np.take(lines.any(2), rows, axis=1)
            for at, along in ((1, down), (2, across)):
                bounds[members, at] = along.argmax(1)
                bounds[members, at + 2] = along.shape[1] - along[:, ::-1].argmax(1)
        bounds[:, 0] = np.bitwise_count(words).sum(1, dtype=np.int64)
        return words, bounds

    def maps(self, entries: Array, kinds: Array | None = None) -> Iterator[tuple[Array, Array]]:
        """What entries [k] cover on their maps, a surviving cell with its eight neighbours, some of a shape at a time.

        Kinds [k, 2], not negative, are what else those have in common, such as a grid. Gives places among the entries,
        and their maps [b, r, c] bool of the picture as it is, not turned.
        """
        cells, starts, shapes, views = self._cells
        kinds = np.zeros((len(entries), 0), np.int64) if kinds is None else kinds
        keys = np.concatenate([views[entries, None], shapes[entries], kinds], 1)
        kind = np.ravel_multi_index(tuple(keys.T), tuple((keys.max(0, initial=0) + 1).tolist()))
        order = np.argsort(kind, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(kind[order])) + 1):
            for at in range(0, len(group), BLOCK):
                members = group[at : at + BLOCK]
                chosen = entries[members]
                sizes = starts[chosen + 1] - starts[chosen]
                row, column = cells[_counting(starts[chosen], sizes)].T
                marked = np.zeros((len(members), *(shapes[chosen[0]] + 2)), bool)
                marked[np.repeat(np.arange(len(members)), sizes), row + 1, column + 1] = True
                wide = marked[:, :, :-2] | marked[:, :, 1:-1] | marked[:, :, 2:]
                seen = wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
                mirrored, quarters = tuple(VIEWS.values())[views[chosen[0]]]
                seen = np.rot90(seen, -quarters, axes=(1, 2))
                yield members, seen[:, :, ::-1] if mirrored else seen


def _nearest(count: int, size: int) -> Array:
    """Which of `size` cells in a row has the centre of each of `count` cells."""
    return (2 * np.arange(count) + 1) * size // (2 * count)


def _counting(starts: Array, counts: Array) -> Array:
    """As many whole numbers from each start on as its count says, one behind the other."""
    found: Array = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    return found


def _portions(counts: Array) -> Iterator[Array]:
    """The places of counts, as many at a time as add up to `WEDGES`, and one at least."""
    ends, start = np.cumsum(counts), 0
    while start < len(counts):
        most = ends[start] - counts[start] + WEDGES
        stop = max(start + 1, int(np.searchsorted(ends, most, side="right")))
        yield np.arange(start, stop)
        start = stop


def overlapping(table: PairTable, entries: Array, overlap: float, cells: int = IOU_CELLS) -> Iterator[Array]:
    """Which entries cover the same part of the same picture, each of them given once.

    Masks on a grid of so many cells are compared bit by bit where their sizes and the boxes around them allow an
    intersection over union above the one asked for, which is in [0, 1). Memory does not grow with the pairs of entries.
    Gives [b, 3] float64: two entries, the smaller number first, and their intersection over union.
    """
    pictures = table.ends.reshape(-1)[entries]
    order = np.lexsort((entries, pictures))
    entries, pictures = entries[order], pictures[order]
    # Whole pictures at a time, about MASKS masks.
    first = np.searchsorted(pictures, pictures)
    for group in np.split(np.arange(len(entries)), np.flatnonzero(np.diff(first // MASKS)) + 1):
        words, bounds = table.packed(entries[group], cells)
        owner = pictures[group]
        later = np.searchsorted(owner, owner, side="right") - np.arange(len(group)) - 1
        for part in _portions(later):
            one, other = np.repeat(part, later[part]), _counting(part + 1, later[part])
            areas = bounds[one, 0] + bounds[other, 0]
            low = np.maximum(bounds[one, 1:3], bounds[other, 1:3])
            high = np.minimum(bounds[one, 3:], bounds[other, 3:])
            most = (high - low).clip(0).prod(1)
            most = np.minimum(most, np.minimum(bounds[one, 0], bounds[other, 0]))
            possible = np.flatnonzero(most > overlap * (areas - most))
            for at in range(0, len(possible), MASKS):
                these = possible[at : at + MASKS]
                here, there = one[these], other[these]
                common = np.bitwise_count(words[here] & words[there]).sum(1, dtype=np.int64)
                union = areas[these] - common
                above = common > overlap * union
                here, there = entries[group[here[above]]], entries[group[there[above]]]
                yield np.stack([here, there, common[above] / union[above]], 1)


def components(count: int, one: Array, other: Array) -> Array:
    """The connected component of each of `count` nodes, numbered by their first node: [count] int64."""
    links = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    labels: Array = connected_components(links, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    firsts: Array = first[inverse]
    return firsts


def triangles(low: Array, high: Array, count: int) -> Iterator[Array]:
    """All triangles of a graph of so many nodes, whose edges lead from smaller ones [m] to larger ones [m], each once.

    Gives [t, 3]: numbers of the edges u-v, v-w and u-w, where u comes before v before w in the order of degrees, so
    that no node has many triangles that start at it.
    """
    degree = np.bincount(np.concatenate([low, high]), minlength=count)
    rank = np.argsort(np.argsort(degree, kind="stable"), kind="stable")
    swap = rank[low] > rank[high]
    tail, head = np.where(swap, high, low), np.where(swap, low, high)
    keys = tail * count + head
    order = np.argsort(keys)
    tail, head, keys = tail[order], head[order], keys[order]
    starts = np.searchsorted(tail, np.arange(count + 1))
    widths = starts[head + 1] - starts[head]
    for part in _portions(widths):
        first, second = np.repeat(part, widths[part]), _counting(starts[head[part]], widths[part])
        wanted = tail[first] * count + head[second]
        place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        closed = keys[place] == wanted
        yield order[np.stack([first, second, place], 1)[closed]]


def mapped(matrices: Array, points: Array) -> Array:
    """Points [..., n, 2] through matrices [..., 3, 3] of homogeneous coordinates; what is at infinity is not finite."""
    moved = points @ matrices[..., :2, :2].swapaxes(-1, -2) + matrices[..., None, :2, 2]
    depth = points @ matrices[..., 2, :2, None] + matrices[..., None, None, 2, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = moved / depth
    return result


def check(*, threshold: float, overlap: float = 0.3, sigma: float = 1.0, least: int = 2, least_images: int = 2) -> None:
    """Raise a ConfigError for a setting of the functions on pairs that is out of range."""
    if not threshold >= 0:
        raise ConfigError(f"threshold={threshold} must be a score: 0 or more")
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap={overlap} must be in [0, 1): an intersection over union that masks exceed")
    if not sigma > 0:
        raise ConfigError(f"sigma={sigma} must be a number of cells above 0")
    if least < 1 or least_images < 2:
        raise ConfigError(f"least={least} and least_images={least_images} must be at least 1 and 2: a pair has two")
