"""Which pairs of images are worth comparing cell by cell: those whose regions find each other.

The regions of each image are looked up among those of all others. A hit is a vote for an image and a view, and for how
the one picture would have to be shifted and enlarged to lie on the other, in coarse bins that overlap: the votes that
agree count. All pairs are on the list of a small collection.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from artmodels.correspondence.views import VIEWS, sideways
from artmodels.errors import ConfigError
from artmodels.methods.artminer.collection.collection import Collection
from artmodels.search.index import Array, ExactIndex, FaissConfig, FaissIndex, Index, WhitenedIndex, Whitening

__all__ = ["EXHAUSTIVE", "Candidates", "candidates", "index_regions", "region_index"]

EXHAUSTIVE = 2000
DIMS = 128  # of a region in an index, at most
PROBES = 8  # cells of an index that are searched
SAMPLE = 200_000  # regions from which an index learns
QUERIES = 4096  # regions that are looked up at a time
OCTAVES = 2  # the scales of two pictures differ by at most 2 to this power
BIN = 0.25  # side of a bin of shifts, as a share of the longer side of the first picture
ORIGIN = math.ceil(2 ** (OCTAVES + 0.5) / BIN) + 1
BINS = ORIGIN + math.ceil(1 / BIN) + 2
INVERSE = {view: view for view in VIEWS} | {"90": "270", "270": "90"}  # a mirrored view is its own


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of images, the one with the most votes first; or all pairs, in order, without votes."""

    names: tuple[str, ...]  # of the images
    views: tuple[str, ...]  # ways in which the second picture may have been turned
    pairs: Tensor  # [P, 2] int64, first and second among the names
    view: Tensor  # [P] int64, of the second, among the views
    votes: Tensor  # [P] float32; 0 where all pairs are listed

    def __len__(self) -> int:
        """P."""
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        """First name, second name, and how the second is turned."""
        for (first, second), view in zip(self.pairs, self.view, strict=True):
            yield self.names[first], self.names[second], self.views[view]


def region_index(collection: Collection, *, dims: int = DIMS, faiss: FaissConfig | None = None) -> Index:
    """The index that suits the regions of a collection, with all of them in it: whitened ones, searched with FAISS.

    At most `dims` numbers of a region are kept. By default FAISS has inverted lists, of which 8 are searched.

    Raises:
        ConfigError: FAISS is not installed, or the regions of the collection span fewer directions.
    """
    stored = collection.descriptors()
    kept = min(dims, collection.layout.dims, len(stored) - 1)
    index: Index = ExactIndex(collection.layout.dims)
    if kept > 0:  # nothing can be learned from one region
        inner = FaissIndex(kept, faiss or FaissConfig(probes=PROBES))
        index = WhitenedIndex(inner, Whitening.fit(stored, kept))
    index_regions(collection, index)
    return index


def index_regions(collection: Collection, index: Index) -> None:
    """Bring an index to what a collection holds: add the regions of new images, remove those of images that are gone.

    The numbers of the regions are those of the collection, so that an index follows it for ever, compactions included.
    An empty index is prepared with an even sample of the regions.

    Raises:
        ConfigError: The index takes vectors of another length.
    """
    if index.dims != collection.layout.dims:
        raise ConfigError(
            f"the index takes vectors of {index.dims} numbers and the collection has {collection.layout.dims}: make "
            "another index"
        )
    spans = collection.spans()
    spans = spans[spans[:, 2] > 0]
    held = index.ids
    if len(held):
        # The regions of an image come and go together.
        index.remove(held[_image_of(held, spans) < 0])
        spans = spans[~np.isin(spans[:, 0], held)]
    if not len(spans):
        return
    stored = collection.descriptors()
    if not len(held):
        rows = _rows(spans)
        chosen = rows[:: -(-len(rows) // SAMPLE)]
        index.prepare(torch.from_numpy(stored[chosen].astype(np.float32)), len(rows))
    # Images that lie behind each other go in at once, without copying.
    breaks = (spans[1:, :2] != spans[:-1, :2] + spans[:-1, 2:]).any(1).nonzero()[0] + 1
    for run in np.split(spans, breaks):
        (first, row, _), count = run[0], run[:, 2].sum()
        index.add(np.arange(first, first + count), stored[row : row + count])


def candidates(
    collection: Collection,
    index: Index | None = None,
    *,
    k: int = 30,
    keep: int = 100,
    names: Sequence[str] | None = None,
    exhaustive: int = EXHAUSTIVE,
) -> Candidates:
    """Pairs to compare: for each image those with the most votes, in both directions, each pair and view once.

    Each picture as it is is looked up among all pictures in all views: of each region the nearest `k`, from which those
    of its own image are dropped, and of each image the `keep` others, each with a view, that have the most votes. If
    there are `names`, such as of images that were just added, only these are looked up, and votes are theirs alone.

    Votes are the larger of both directions; where the collection lacks the inverse of a view that was found from the
    other side, that side stays the first. A collection of fewer images than `exhaustive` gives all its pairs in all
    views, and needs no index.

    Raises:
        ConfigError: The index is missing, holds regions that the collection does not, or takes other vectors.
        DatasetError: A name is not in the collection.
    """
    if k < 1 or keep < 1:
        raise ConfigError(f"k={k}, keep={keep}: give at least 1")
    numbers = _numbers(collection, names)
    if len(collection) < exhaustive:
        return _all_pairs(collection, numbers)
    if index is None:
        raise ConfigError(f"{len(collection)} images need an index: make one by region_index")
    spans, views = collection.spans(), collection.layout.views
    stored, windows = collection.descriptors(), torch.from_numpy(np.array(collection.windows()))
    sides = torch.tensor([collection.size(name) for name in collection.names], dtype=torch.float32).reshape(-1, 2)
    sides = sides / sides.max(1, keepdim=True).values  # so that bins are square
    sides = torch.stack([sides.flip(1) if sideways(view) else sides for view in views], 1)
    pairs, votes = [torch.empty(0, dtype=torch.int64)], [torch.empty(0)]
    for group in _groups(spans[:, 2], numbers):
        rows = _rows(spans[group])
        rows = rows[windows[rows, 0].numpy() == views.index("")]
        scores, ids = index.search(stored[rows], k)
        owner = torch.from_numpy(_image_of(rows, spans[:, [1, 1, 2]]))
        image = torch.from_numpy(_image_of(ids.numpy(), spans))
        if bool(((image < 0) & (ids >= 0)).any()):
            raise ConfigError("the index holds regions that the collection does not: call index_regions first")
        valid = (image >= 0) & (image != owner[:, None])
        weight = (scores.clamp_min(0) / valid.cumsum(1).sqrt())[valid]
        asked, image, first = valid.nonzero()[:, 0], image[valid], owner[valid.nonzero()[:, 0]]
        place = ids[valid] + torch.from_numpy(spans[:, 1] - spans[:, 0])[image]
        view = windows[place, 0].long()
        both = torch.stack([sides[first, views.index("")], sides[image, view]])
        pair = (first * len(collection) + image) * len(views) + view
        found = _votes(torch.from_numpy(rows)[asked], place, pair, weight, windows, both)
        best, most = _best(*found, keep, len(collection) * len(views))
        pairs.append(best)
        votes.append(most)
    return _union(collection, torch.cat(pairs), torch.cat(votes))


def _numbers(collection: Collection, names: Sequence[str] | None) -> Array:
    """Places of images among the names of a collection."""
    if names is None:
        return np.arange(len(collection))
    place = {name: number for number, name in enumerate(collection.names)}
    for name in names:
        if name not in place:
            collection.size(name)  # says what is wrong with a name that is unknown
            raise ConfigError(f"{name} has the bytes of an earlier file: use the collection's name of its image")
    return np.array(sorted({place[name] for name in names}), np.int64)


def _all_pairs(collection: Collection, numbers: Array) -> Candidates:
    count, views = len(collection), len(collection.layout.views)
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.from_numpy(numbers)] = True
    pairs = torch.triu_indices(count, count, 1).T
    pairs = pairs[chosen[pairs].any(1)]
    view = torch.arange(views).repeat(len(pairs))
    pairs = pairs.repeat_interleave(views, 0)
    return Candidates(collection.names, collection.layout.views, pairs, view, torch.zeros(len(pairs)))


def _groups(counts: Array, numbers: Array) -> list[Array]:
    """Images in order, as many at a time as have about `QUERIES` regions."""
    total = counts[numbers].cumsum()
    groups = np.split(numbers, np.flatnonzero(np.diff((total - 1) // QUERIES)) + 1)
    return groups if len(numbers) else []


def _rows(spans: Array) -> Array:
    """Rows of all regions of spans (number, row, count), in order."""
    starts = spans[:, 2].cumsum() - spans[:, 2]
    rows: Array = np.arange(spans[:, 2].sum()) + np.repeat(spans[:, 1] - starts, spans[:, 2])
    return rows


def _image_of(ids: Array, spans: Array) -> Array:
    """Places of the spans that numbers of regions are in, -1 for none; spans rise."""
    if not len(spans):
        return np.full(ids.shape, -1)
    place = np.searchsorted(spans[:, 0], ids, side="right") - 1
    return np.where((place >= 0) & (ids < spans[place, 0] + spans[place, 2]), place, -1)


def _votes(
    query: Tensor, place: Tensor, pair: Tensor, weight: Tensor, windows: Tensor, sides: Tensor
) -> tuple[Tensor, Tensor]:
    """Pairs, each once, and the votes [P] that agree best for each.

    Hits [H] are rows of a region that was looked up and of one that was found in `windows`, the number of the pair and
    view, and a weight. Sides [2, H, 2] are width and height of the first and of the turned second picture, the longer
    of which is 1. A region that finds several others at one shift has one vote there, the largest.
    """
    one, other = windows[query], windows[place]
    factor = one[:, 3] / other[:, 3]
    octave = factor.log2().round().long() + OCTAVES
    # Where the origin of the second picture comes to lie on the first.
    shift = (one[:, 1:3] * sides[0] - factor[:, None] * other[:, 1:3] * sides[1]) / BIN
    near = (octave >= 0) & (octave <= 2 * OCTAVES)
    pairs, number = torch.unique(pair, return_inverse=True)
    keys = list[Tensor]()
    for copy, (x, y) in enumerate(((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5))):
        across, down = ((shift + torch.tensor([x, y])).floor().long() + ORIGIN).unbind(1)
        keys.append((((number * (2 * OCTAVES + 1) + octave) * BINS + across) * BINS + down) * 4 + copy)
    least = query.min() if len(query) else 0
    span = int(query.max() - least) + 1 if len(query) else 1
    both = torch.stack([key * span + (query - least) for key in keys])[:, near].flatten()
    voters, which = torch.unique(both, return_inverse=True)
    each = weight.new_zeros(len(voters)).scatter_reduce_(0, which, weight[near].repeat(4), "amax")
    bins, which = torch.unique_consecutive(voters // span, return_inverse=True)
    total = weight.new_zeros(len(bins)).index_add_(0, which, each)
    best = weight.new_zeros(len(pairs)).scatter_reduce_(0, bins // (4 * BINS * BINS * (2 * OCTAVES + 1)), total, "amax")
    return pairs, best


def _best(pairs: Tensor, votes: Tensor, keep: int, size: int) -> tuple[Tensor, Tensor]:
    """The `keep` pairs with the most votes of each first image; the first is the number of the pair // size."""
    order = votes.sort(descending=True, stable=True).indices
    order = order[(pairs[order] // size).sort(stable=True).indices]
    first = pairs[order] // size
    rank = torch.arange(len(first)) - torch.searchsorted(first, first)
    kept = order[(rank < keep) & (votes[order] > 0)]
    return pairs[kept], votes[kept]


def _union(collection: Collection, pairs: Tensor, votes: Tensor) -> Candidates:
    """Each pair and view once, whichever side found it, with the larger votes."""
    views, count = collection.layout.views, len(collection)
    first, second, view = pairs // (count * len(views)), pairs // len(views) % count, pairs % len(views)
    inverse = torch.tensor([views.index(INVERSE[name]) if INVERSE[name] in views else -1 for name in views])[view]
    swap = (first > second) & (inverse >= 0)
    first, second, view = (torch.where(swap, a, b) for a, b in ((second, first), (first, second), (inverse, view)))
    found, which = torch.unique((first * count + second) * len(views) + view, return_inverse=True)
    most = votes.new_zeros(len(found)).scatter_reduce_(0, which, votes, "amax")
    order = most.sort(descending=True, stable=True).indices
    found = found[order]
    both = torch.stack([found // (count * len(views)), found // len(views) % count], 1)
    return Candidates(collection.names, views, both, found % len(views), most[order])
