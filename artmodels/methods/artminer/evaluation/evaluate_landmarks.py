"""LTLL and Oxford5K: pictures of a landmark, found by the discovery score or by one vector a picture.

Shen, Efros and Aubry 2019 (arXiv:1903.02678), section 5.2. The measures are those of `landmarks`. The vector of a
picture is the largest value of each feature over the cells of its reference map, of unit length.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.correspondence.cells import EPSILON
from artmodels.errors import ConfigError
from artmodels.methods.artminer.collection.collection import Described
from artmodels.methods.artminer.discovery import DiscoveryConfig, discover_many
from artmodels.methods.artminer.evaluation.landmarks import (
    Ltll,
    OxfordQuery,
    oxford_average_precision,
    oxford_released_precision,
)
from artmodels.methods.artminer.oneshot import check_box, detail
from artmodels.methods.artminer.pipeline import ArtMiner
from artmodels.progress import Progress

__all__ = ["LandmarkBy", "oxford_mean", "stream_ltll_answers", "stream_oxford_rankings"]

LandmarkBy = Literal["discovery", "pooled"]

OXFORD_CELLS, OXFORD_MARGIN = 25, 5  # of the longer side of a query's box, and of its surroundings
OXFORD = DiscoveryConfig(margin=0, tolerance=2.0, iterations=1000, saliency=False)  # a detail has lost its margin
TOGETHER = 16  # pictures that are compared with each query at a time


@torch.inference_mode()
def stream_ltll_answers(
    miner: ArtMiner, labels: Ltll, among: Described, *, by: LandmarkBy = "discovery"
) -> Iterator[Progress | dict[str, str]]:
    """The new photograph that is most like each old one.

    Args:
        miner: What described the pictures. The published score is that of its defaults in one view: margin 3, tolerance
            2, with saliency, the better of both directions.
        labels: Names of the pictures; their landmarks are not looked at.
        among: All pictures, by these names.
        by: What ranks: the discovery score, or the cosine of pooled vectors.

    Yields:
        A step after each query; then a name in the database for each query, see `landmarks.top_1_accuracy`. Of equal
        scores the first counts.

    Raises:
        ConfigError: `by` is unknown.
        DatasetError: A picture is missing.
    """
    _check(by)
    database = list(labels.database)
    vectors = _pooled(miner, among, database) if by == "pooled" else None
    answers = dict[str, str]()
    for done, query in enumerate(labels.queries, start=1):
        if vectors is None:
            scores = torch.tensor([pair.match.score for pair in miner.compare(query, database, among)])
        else:
            scores = vectors @ _pooled(miner, among, [query])[0]
        answers[query] = database[int(scores.numpy().argmax())]
        yield Progress(done, len(labels.queries), query)
    yield answers


@torch.inference_mode()
def stream_oxford_rankings(
    miner: ArtMiner,
    queries: Sequence[OxfordQuery],
    among: Described,
    path: Callable[[str], Path],
    *,
    by: LandmarkBy = "discovery",
) -> Iterator[Progress | dict[str, list[str]]]:
    """All pictures for each query, the one that shows its building best first.

    A box is brought to 25 cells on its longer side and described with 5 cells of its surroundings, which are cut off
    again. It is the reference; there is no other direction and no saliency, and the tolerance is 2 cells.

    Args:
        miner: What described the pictures; they are searched at its scales, in its views.
        queries: See `landmarks.read_oxford`.
        among: All pictures, by the names of the benchmark.
        path: Gives the file of a picture.
        by: What ranks: the discovery score, or the cosine of pooled vectors.

    Yields:
        A step after each group of pictures; then names by the query's name, among equal scores in the order of `among`.

    Raises:
        ConfigError: `by` is unknown, or a box lies outside its picture.
        DatasetError: A picture is missing.
        ImageError: One cannot be read.
    """
    _check(by)
    kernels = list[Tensor]()
    for query in queries:
        picture = images.load(path(query.image))
        box = check_box(query.box, picture.width, picture.height)
        kernels.append(detail(miner.describer, picture, box, cells=OXFORD_CELLS, margin=OXFORD_MARGIN).cpu())
    names = list(among.names)
    scores = torch.zeros(len(queries), len(names))
    for start in range(0, len(names), TOGETHER):
        group = names[start : start + TOGETHER]
        part = scores[:, start : start + TOGETHER]
        if by == "pooled":
            part[:] = torch.stack([_vector(kernel) for kernel in kernels]) @ _pooled(miner, among, group).T
        else:
            for view in miner.views:
                targets = [among.pyramid(name, view).maps[: len(miner.config.scales)] for name in group]
                for row, kernel in zip(part, kernels, strict=True):
                    found = torch.tensor([match.score for match in discover_many(kernel, targets, OXFORD)])
                    torch.maximum(row, found, out=row)
        yield Progress(start + len(group), len(names), group[-1])
    orders = np.argsort(-scores.numpy(), axis=1, kind="stable").tolist()
    yield {query.name: [names[index] for index in order] for query, order in zip(queries, orders, strict=True)}


def oxford_mean(
    queries: Sequence[OxfordQuery], rankings: Mapping[str, Sequence[str]], *, released: bool = False
) -> float:
    """Mean of the average precisions of all queries.

    Args:
        queries: At least one.
        rankings: Of each, by its name.
        released: Take the measure of the released code, which counts junk as wrong, and not the official one.

    Raises:
        ConfigError: There is no query, or one has no ranking.
        DatasetError: A picture is in a ranking twice.
    """
    missing = [query.name for query in queries if query.name not in rankings]
    if missing or not queries:
        raise ConfigError(f"{len(missing)} of {len(queries)} queries have no ranking; give one to each")
    measure = oxford_released_precision if released else oxford_average_precision
    return float(np.mean([measure(query, rankings[query.name]) for query in queries]))


def _check(by: str) -> None:
    if by not in ("discovery", "pooled"):
        raise ConfigError(f"by={by!r} is not one of discovery, pooled")


def _pooled(miner: ArtMiner, among: Described, names: Sequence[str]) -> Tensor:
    """[N, D] of pictures as they are."""
    return torch.stack([_vector(among.pyramid(name).at(miner.config.reference)) for name in names])


def _vector(features: Tensor) -> Tensor:
    """The largest of each feature of a map [D, R, C], to length 1: [D] float32."""
    return F.normalize(features.float().amax((1, 2)), dim=0, eps=EPSILON)
