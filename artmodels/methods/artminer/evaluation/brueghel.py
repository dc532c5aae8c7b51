"""The Brueghel protocol: one-shot detection of details, and its average precision.

Shen, Efros and Aubry 2019 (arXiv:1903.02678), section 5.1. The procedural benchmark of `copies` has the same layout.
For LTLL and Oxford5K see `landmarks`, for the published figures `published`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from artmodels.detections.boxes import Box, as_boxes, iou
from artmodels.errors import ConfigError, DatasetError, some
from artmodels.files import read_json
from artmodels.methods.artminer.collection.collection import Described
from artmodels.methods.artminer.oneshot import Hit
from artmodels.methods.artminer.pipeline import ArtMiner
from artmodels.progress import Progress

__all__ = [
    "IOU",
    "PREDICTIONS",
    "By",
    "Instance",
    "Leaks",
    "OneShotScores",
    "OneShotSet",
    "Query",
    "average_precision",
    "hold_out",
    "leaks",
    "read_queries",
    "score",
    "stream_one_shot",
]

By = Literal["cosine", "verified", "discovery"]
"""What ranks places: the cosine of stacked cells; the mean of it and the discovery score of the detail and the place,
see `ArtMiner.search`; or the discovery score of the detail and the whole picture."""

PREDICTIONS = 1000
IOU = 0.3


@dataclass(frozen=True)
class Instance:
    """One place where a detail is seen."""

    image: str  # name of the file
    box: Box


@dataclass(frozen=True)
class Query:
    """A detail to look for, and where it is to be found."""

    category: str
    instance: Instance  # what is drawn by the user
    truth: tuple[Instance, ...]  # all other instances


@dataclass(frozen=True)
class OneShotSet:
    """Queries with their ground truth, in the order of the file."""

    queries: tuple[Query, ...]

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(dict.fromkeys(query.category for query in self.queries))

    @cached_property
    def images(self) -> tuple[str, ...]:
        """Every image that a query or its ground truth names, sorted."""
        return tuple(sorted({place.image for query in self.queries for place in (query.instance, *query.truth)}))


@dataclass(frozen=True)
class Leaks:
    """What a validation set tells of a test set."""

    queries: tuple[Query, ...]  # those in both
    categories: tuple[str, ...]  # those in both
    tested: int  # queries of the test set

    def __str__(self) -> str:
        """A sentence for a report."""
        if not self.categories:
            return f"None of the {self.tested} test queries, and no category, is in the validation set."
        return (
            f"{len(self.queries)} of the {self.tested} test queries are in the validation set too, and "
            f"{len(self.categories)} categories: what is chosen on it is chosen on the test set. Hold out categories."
        )


@dataclass(frozen=True, eq=False)
class OneShotScores:
    """Average precision of every query."""

    categories: tuple[str, ...]  # of each query
    ap: npt.NDArray[np.float64]  # [Q] in [0, 1]

    @cached_property
    def by_category(self) -> Mapping[str, float]:
        """Mean over the queries of each category."""
        labels = np.array(self.categories)
        return {name: float(self.ap[labels == name].mean()) for name in dict.fromkeys(self.categories)}

    @property
    def mean(self) -> float:
        """Over queries."""
        return float(self.ap.mean())

    @property
    def category_mean(self) -> float:
        """Over the means of the categories, each of the same weight: most likely the published figure."""
        return float(np.mean(list(self.by_category.values())))


def read_queries(file: Path, images: Path | None = None) -> OneShotSet:
    """Read queries of the Brueghel layout: {category: [{"query": [image, box], "gt": [[image, box], ...]}, ...]}.

    Boxes are left, top, right, bottom in pixels. In the folder `images` the images are checked for.

    Raises:
        DatasetError: The file is missing or laid out otherwise, a box has no area, or images are missing.
    """
    layout = read_json(file)
    queries = list[Query]()
    for category, entries in layout.items():
        if not isinstance(entries, list):
            raise DatasetError(f"{file}: category {category!r} is no list of queries; give the Brueghel layout")
        for number, entry in enumerate(entries):
            where = f"{file}: query {number} of category {category!r}"
            if not isinstance(entry, dict) or not isinstance(entry.get("gt"), list) or "query" not in entry:
                raise DatasetError(f'{where} is not {{"query": [image, box], "gt": [[image, box], ...]}}')
            truth = tuple(_instance(place, where) for place in entry["gt"])
            if not truth:
                raise DatasetError(f"{where} has no ground truth: nothing can be found; take it out")
            queries.append(Query(category, _instance(entry["query"], where), truth))
    if not queries:
        raise DatasetError(f"{file} holds no query; give the Brueghel layout, {{category: [query, ...]}}")
    found = OneShotSet(tuple(queries))
    if images is not None:
        if not images.is_dir():
            raise DatasetError(f"there is no folder {images}: name the one that holds the images of {file.name}")
        missing = [name for name in found.images if not (images / name).is_file()]
        if missing:
            raise DatasetError(
                f"{len(missing)} of {len(found.images)} images of {file.name} are not in {images}: {some(missing)}. "
                "Copy them there under these names."
            )
    return found


def leaks(test: OneShotSet, validation: OneShotSet) -> Leaks:
    """Queries and categories of a test set that a validation set has too.

    All 20 queries of the published validation file are in the published test file. Whoever tunes on the first reports
    the second on what was tuned on; see `hold_out`.
    """
    seen = {(query.category, query.instance) for query in validation.queries}
    categories = tuple(name for name in test.categories if name in validation.categories)
    shared = tuple(query for query in test.queries if (query.category, query.instance) in seen)
    return Leaks(shared, categories, len(test.queries))


def hold_out(queries: OneShotSet, categories: int | Sequence[str]) -> tuple[OneShotSet, OneShotSet]:
    """Split by category: (what may be tuned on, what is tested on), without a category in both.

    The categories to tune on are given by name, or how many they are. A number takes them by a hash of their names, so
    that the split is the same everywhere.

    Raises:
        ConfigError: A name is unknown, or one of the two sides would be empty.
    """
    known = queries.categories
    wanted = categories if isinstance(categories, int) else len(set(categories))
    if not isinstance(categories, int) and (unknown := set(categories) - set(known)):
        raise ConfigError(f"no category {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if not 0 < wanted < len(known):
        raise ConfigError(f"{wanted} of {len(known)} categories leave one side empty; give less, at least 1")
    if isinstance(categories, int):
        categories = sorted(known, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:categories]
    chosen = set(categories)
    tuning = tuple(query for query in queries.queries if query.category in chosen)
    tested = tuple(query for query in queries.queries if query.category not in chosen)
    return OneShotSet(tuning), OneShotSet(tested)


@torch.inference_mode()
def stream_one_shot(
    miner: ArtMiner, queries: OneShotSet, among: Described, path: Callable[[str], Path], *, by: By = "cosine"
) -> Iterator[Progress | OneShotScores]:
    """Evaluate the search for details, section 5.1 of the paper.

    The miner described all pictures, distractors too, which `among` has by the names of the benchmark; `path` gives the
    file of one.

    Yields:
        A step after each picture, then the average precision of each query.
    """
    kernels = [miner.kernel(path(query.instance.image), query.instance.box) for query in queries.queries]
    sizes = defaultdict[torch.Size, list[int]](list)
    for number, kernel in enumerate(kernels):
        sizes[kernel.shape].append(number)
    found: list[list[Hit]] = [[] for _ in kernels]
    for done, name in enumerate(among.names, start=1):
        if by != "discovery":
            for numbers in sizes.values():
                together = torch.stack([kernels[number] for number in numbers])
                places = miner.places(name, among, together, by=by)
                for number, hits in zip(numbers, places, strict=True):
                    found[number] += hits
        else:
            for number, kernel in enumerate(kernels):
                if queries.queries[number].instance.image != name:
                    found[number] += miner.correspondences(name, among, kernel)
        yield Progress(done, len(among.names), name)
    yield score(queries, found)


def average_precision(
    images: Sequence[str],
    boxes: npt.ArrayLike,
    truth: Sequence[Instance],
    *,
    overlap: float = IOU,
    predictions: int = PREDICTIONS,
) -> float:
    """Average precision of one query: the sum of the precisions at the hits, over the number of instances.

    A prediction is a hit if it overlaps an instance of its image, which no better prediction took, by more than
    `overlap`; of several it takes the one that it overlaps most. Precision is not made monotone.

    Args:
        images: [P], names of the predictions' images, best first.
        boxes: [P, 4].
        truth: What there is to find, at least one.
        overlap: Intersection over union to exceed, in [0, 1).
        predictions: How many count; later ones are cut off.

    Raises:
        ConfigError: `overlap` or `predictions` is out of range, or there is nothing to find.
        DatasetError: The numbers of images and boxes differ, or a box is none.
    """
    if not 0 <= overlap < 1 or predictions < 1:
        raise ConfigError(f"overlap={overlap} must be in [0, 1) and predictions={predictions} at least 1")
    if not truth:
        raise ConfigError("there is nothing to find; give at least one instance")
    every = as_boxes(np.asarray(boxes, np.float64).reshape(-1, 4))
    if len(images) != len(every):
        raise DatasetError(f"{len(images)} image names and {len(every)} boxes; give one name a box")
    found = every[:predictions]
    wanted = as_boxes(np.array([place.box for place in truth], np.float64))
    # In float64, where an overlap of exactly 0.3 is not more than 0.3.
    shared = iou(found, wanted).numpy()  # [P, G]
    same = np.array(images[:predictions], object)[:, None] == np.array([place.image for place in truth], object)[None]
    matching = same & (shared > overlap)
    free = np.ones(len(truth), bool)
    right = np.zeros(len(found), bool)
    for row in np.flatnonzero(matching.any(1)):  # few: only what overlaps an instance
        candidates = np.flatnonzero(matching[row] & free)
        if len(candidates):
            free[candidates[shared[row, candidates].argmax()]] = False
            right[row] = True
    ranks = np.flatnonzero(right) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).sum() / len(truth))


def score(queries: OneShotSet, predictions: Sequence[Sequence[Hit]], *, limit: int = PREDICTIONS) -> OneShotScores:
    """Score the predictions for every query, a list each, in any order; of equal scores the first comes first.

    What lies in the query's own image is left out, which the protocol does not search, and what is after the first
    `limit` of a list.

    Raises:
        ConfigError: The numbers of queries and lists differ, or `limit` is below 1.
        DatasetError: A box is none, or a score is not finite.
    """
    if len(predictions) != len(queries.queries):
        raise ConfigError(f"{len(predictions)} lists of predictions for {len(queries.queries)} queries; give one each")
    values = list[float]()
    for query, hits in zip(queries.queries, predictions, strict=True):
        others = [hit for hit in hits if hit.image != query.instance.image]
        scores = np.array([hit.score for hit in others], np.float64)
        if not np.isfinite(scores).all():
            raise DatasetError(f"a score for {query.instance.image} of category {query.category} is not finite")
        ranked = [others[index] for index in np.argsort(-scores, kind="stable")[:limit]]
        names, boxes = [hit.image for hit in ranked], [hit.box for hit in ranked]
        values.append(average_precision(names, boxes, query.truth, predictions=limit))
    return OneShotScores(tuple(query.category for query in queries.queries), np.array(values))


def _instance(place: Any, where: str) -> Instance:  # noqa: ANN401 - whatever JSON holds
    match place:
        case [str(image), [_, _, _, _] as sides] if image and all(type(side) in (int, float) for side in sides):
            left, top, right, bottom = (float(side) for side in sides)
            # Comparisons that NaN fails too.
            if np.isfinite(sides).all() and left < right and top < bottom:
                return Instance(image, (left, top, right, bottom))
    raise DatasetError(f"{where} names {place!r}; give [image, [left, top, right, bottom]] with left < right")
