"""Many pairs of pictures as arrays: what was accepted, its masks on one grid a picture, and triangles of pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from artmodels.artminer.cells import grid
from artmodels.artminer.views import VIEWS, from_view
from artmodels.decoding import Array
from artmodels.errors import ConfigError

if TYPE_CHECKING:
    from artmodels.artminer.discovery import Match

__all__ = [
    "IOU_CELLS",
    "MASK_CELLS",
    "THRESHOLD",
    "Pair",
    "PairTable",
    "check",
    "components",
    "mapped",
    "overlaps",
    "triangles",
]

THRESHOLD = 0.015  # of the paper; 0.03 for its old and new photographs
MASK_CELLS = 40  # of the longer side of a mask to be shown
IOU_CELLS = 100  # of those that are compared
BLOCK = 1024  # masks that are compared with all others of a picture at a time
WEDGES = 2**20  # candidates for triangles that are looked at together


@dataclass(frozen=True, eq=False)
class Pair:
    """Two pictures that show the same thing, as far as their cells say.

    Attributes:
        first: Name of the reference picture.
        second: Name of the target picture.
        match: The evidence; its target is the second picture as the view shows it.
        view: How the second was turned before it was compared, see `artmodels.artminer.views.VIEWS`.
        verdict: Of an expert: "same", "similar", "no", or "" for none.
    """

    first: str
    second: str
    match: "Match"
    view: str = ""
    verdict: str = ""

    @property
    def accepted(self) -> bool | None:
        """What the verdict decides, whatever the score: True for "same", False for "no", None for the others."""
        return {"same": True, "no": False}.get(self.verdict)

    @property
    def transform(self) -> Array:
        """[3, 3] float64: relative coordinates of the second picture, not turned, to those of the first."""
        matrix: Array = self.match.transform.double().numpy() @ np.linalg.inv(from_view(self.view).double().numpy())
        return matrix


class PairTable:
    """Accepted pairs as arrays. An entry is one of the two ends of a pair: number 2 n is the first's of pair n.

    Attributes:
        pairs: Those accepted: judged "same", or scored above the threshold and not judged "no".
        names: Of their pictures, sorted.
        ends: [n, 2] int64, the picture of each entry.
        scores: [n] float64.
        transforms: [n, 3, 3], see `Pair.transform`.
    """

    def __init__(self, pairs: Sequence[Pair], threshold: float) -> None:
        """Choose and arrange."""
        self.pairs = [p for p in pairs if (p.match.score > threshold if p.accepted is None else p.accepted)]
        self.names = sorted({name for pair in self.pairs for name in (pair.first, pair.second)})
        place = {name: number for number, name in enumerate(self.names)}
        ends = [(place[pair.first], place[pair.second]) for pair in self.pairs]
        self.ends = np.array(ends, np.int64).reshape(-1, 2)
        self.scores = np.array([pair.match.score for pair in self.pairs], np.float64)

    def __len__(self) -> int:
        """How many were accepted."""
        return len(self.pairs)

    @cached_property
    def transforms(self) -> Array:
        """[n, 3, 3] float64."""
        if not self.pairs:
            return np.zeros((0, 3, 3))
        back = {view: np.linalg.inv(from_view(view).double().numpy()) for view in VIEWS}
        found = torch.stack([pair.match.transform for pair in self.pairs]).double().numpy()
        matrices: Array = found @ np.stack([back[pair.view] for pair in self.pairs])
        return matrices

    @cached_property
    def _by_picture(self) -> tuple[Array, Array]:
        """Entries in the order of their pictures, and where those of each picture start: [2 n] and [names + 1]."""
        flat = self.ends.reshape(-1)
        order = np.argsort(flat, kind="stable")
        return order, np.searchsorted(flat[order], np.arange(len(self.names) + 1))

    @cached_property
    def _cells(self) -> tuple[Array, Array, Array]:
        """Cells as rectangles, in relative coordinates of the picture that was not turned.

        Returns:
            [cells, 4] left, top, right, bottom; [2 n + 1] where those of an entry start; [2 n, 2] rows and columns of
            an entry's map, not turned either.
        """
        shapes = np.array([s for p in self.pairs for s in (p.match.reference_shape, p.match.target_shape)], np.int64)
        shapes = shapes.reshape(-1, 2)
        cells = [c for pair in self.pairs for c in (pair.match.reference_cells, pair.match.target_cells)]
        starts = np.concatenate([[0], np.cumsum([len(each) for each in cells], dtype=np.int64)])
        flat = torch.cat(cells).numpy() if cells else np.zeros((0, 2), np.int64)
        owner = np.repeat(np.arange(len(cells)), np.diff(starts))
        # x before y; the eight neighbours belong to a cell too, as in the mask that the paper shows.
        low, high = ((flat + step) / shapes[owner] for step in (-1, 2))
        boxes = np.concatenate([low[:, ::-1], high[:, ::-1]], 1)
        views = np.array([view for pair in self.pairs for view in ("", pair.view)], object)
        for view in set(views) - {""}:
            here = (views == view)[owner]
            matrix = from_view(view).double().numpy()
            corners = mapped(matrix, boxes[here].reshape(-1, 2, 2))
            boxes[here] = np.concatenate([corners.min(1), corners.max(1)], 1)
            if VIEWS[view][1] % 2:
                shapes[views == view] = shapes[views == view][:, ::-1]
        return boxes, starts, shapes

    def entries(self, picture: int) -> Array:
        """Numbers of the entries of a picture."""
        order, starts = self._by_picture
        found: Array = order[starts[picture] : starts[picture + 1]]
        return found

    def points(self, count: int) -> Array:
        """Centres of `count` cells of each entry, evenly taken, relative: [2 n, count, 2]; NaN where it has none."""
        boxes, starts, _ = self._cells
        sizes = np.diff(starts)
        chosen = starts[:-1, None] + (((np.arange(count) + 0.5) / count) * sizes[:, None]).astype(np.int64)
        points = np.full((len(sizes), count, 2), np.nan)
        points[sizes > 0] = (boxes[:, :2] + boxes[:, 2:])[chosen[sizes > 0]] / 2
        return points

    @cached_property
    def shapes(self) -> Array:
        """Rows and columns of the finest map of each picture, not turned: [names, 2]."""
        flat, shapes = self.ends.reshape(-1), self._cells[2]
        order = np.lexsort((shapes.prod(1), flat))
        last = np.searchsorted(flat[order], np.arange(len(self.names)), side="right") - 1
        found: Array = shapes[order[last]]
        return found

    def masks(self, picture: int, entries: Array, cells: int) -> Array:
        """What entries of one picture cover: [k, R, C] bool on a grid whose longer side has `cells` cells.

        A surviving cell of a map covers itself and its eight neighbours; a cell of the grid is covered if its centre
        is.
        """
        if len(entries) > BLOCK:
            parts = [self.masks(picture, entries[at : at + BLOCK], cells) for at in range(0, len(entries), BLOCK)]
            return np.concatenate(parts)
        boxes, starts, _ = self._cells
        tall, wide = self.shapes[picture].tolist()
        shape = np.array(grid(tall, wide, cells))
        sizes = starts[entries + 1] - starts[entries]
        owner = np.repeat(np.arange(len(entries)), sizes)
        which = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + starts[entries][owner]
        # A centre (g + 0.5) / n is inside from `low` to below `high`; the slack absorbs rounding of edges.
        sides = np.ceil(boxes[which].reshape(-1, 2, 2) * shape[::-1] - 0.5 - 1e-9).astype(np.int64)
        sides = sides.clip(0, shape[::-1])
        (left, top), (right, bottom) = sides[:, 0].T, sides[:, 1].T
        # Rectangles are painted by the sum of their corners: +1 where one starts, -1 where it ends.
        rows, columns = (shape + 1).tolist()
        painted = np.zeros((rows, columns, len(entries)), np.int16)
        for y, x, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
            np.add.at(painted.reshape(-1), (y * columns + x) * len(entries) + owner, np.int16(sign))
        for row in range(1, rows):  # all masks at a time, which is several times as fast as np.cumsum
            painted[row] += painted[row - 1]
        for column in range(1, columns):
            painted[:, column] += painted[:, column - 1]
        covered: Array = np.ascontiguousarray(np.moveaxis(painted[:-1, :-1] > 0, 2, 0))
        return covered


def overlaps(masks: Array) -> Iterator[tuple[slice, Array, Array]]:
    """Cells that masks have in common with each other, some masks at a time.

    Args:
        masks: [k, G] bool.

    Yields:
        Which masks; the cells in common [b, k] of each of these with all; those that either has, [b, k]; float32.
    """
    used = masks[:, masks.any(0)].astype(np.float32)
    areas = used.sum(1)
    for start in range(0, len(used), BLOCK):
        part = slice(start, start + BLOCK)
        common = used[part] @ used.T
        yield part, common, areas[part, None] + areas - common


def components(count: int, one: Array, other: Array) -> Array:
    """The connected component of each of `count` nodes, numbered by their first node: [count] int64."""
    links = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    labels: Array = connected_components(links, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    firsts: Array = first[inverse]
    return firsts


def triangles(low: Array, high: Array, count: int) -> Iterator[Array]:
    """All triangles of a graph.

    Args:
        low: [m] int64, one end of each edge.
        high: [m], the other, which is larger; no edge occurs twice.
        count: Of nodes.

    Yields:
        [t, 3] int64: numbers of the edges u-v, v-w and u-w, where u comes before v before w in the order of
        degrees, so that no node has many triangles that start at it.
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
    ends = np.cumsum(widths)
    start = 0
    while start < len(tail):
        before = ends[start] - widths[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + WEDGES, side="right")))
        wide = widths[start:stop]
        first = np.repeat(np.arange(start, stop), wide)
        second = np.arange(wide.sum()) - np.repeat(np.cumsum(wide) - wide, wide) + starts[head[first]]
        wanted = tail[first] * count + head[second]
        place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        closed = keys[place] == wanted
        yield order[np.stack([first, second, place], 1)[closed]]
        start = stop


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
