"""The protocols of LTLL, old photographs to new ones, and of Oxford5K, retrieval of buildings.

Fernando, Tommasi and Tuytelaars 2015 for LTLL; Philbin, Chum, Isard, Sivic and Zisserman 2007 for Oxford5K. Shen, Efros
and Aubry 2019 (arXiv:1903.02678, section 5.2) measure on both how well pictures of a landmark are found, by the
discovery score or by one vector a picture. The vector is the largest value of each feature over the cells of the
picture's reference map, of unit length. What is evaluated is a miner and the pictures that it described, by the names
of the benchmark; a picture that is missing there is a DatasetError.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.correspondence.cells import EPSILON
from artmodels.detections.boxes import Box
from artmodels.errors import ConfigError, DatasetError, one_of, some
from artmodels.files import read_json, text_of
from artmodels.methods.artminer.collection.collection import Described
from artmodels.methods.artminer.discovery import DiscoveryConfig, discover_many
from artmodels.methods.artminer.oneshot import check_box, detail
from artmodels.methods.artminer.pipeline import ArtMiner
from artmodels.progress import Progress

__all__ = [
    "LandmarkBy",
    "Ltll",
    "OxfordQuery",
    "oxford_average_precision",
    "oxford_mean",
    "oxford_released_precision",
    "read_ltll",
    "read_oxford",
    "stream_ltll_answers",
    "stream_oxford_rankings",
    "top_1_accuracy",
]

LandmarkBy = Literal["discovery", "pooled"]
"""What ranks: the discovery score, or the cosine of pooled vectors."""

OXFORD_CELLS, OXFORD_MARGIN = 25, 5  # of the longer side of a query's box, and of its surroundings
OXFORD = DiscoveryConfig(margin=0, tolerance=2.0, iterations=1000, saliency=False)  # a detail has lost its margin
TOGETHER = 16  # pictures that are compared with each query at a time
PREFIX = "oxc1_"  # before the image's name in Oxford5K's query files only


# --- LTLL: the landmark of an old photograph


@dataclass(frozen=True)
class Ltll:
    """Large time lags locations."""

    queries: Mapping[str, str]  # landmark of each old photograph
    database: Mapping[str, str]  # landmark of each new one
    validation: tuple[str, ...]  # those of the old ones on which the published method was chosen


def read_ltll(file: Path) -> Ltll:
    """Read the label file: lists "test" (queries), "searchImg" (database), "val", and one table {image: landmark}.

    Raises:
        DatasetError: A list or the table is missing, or an image has no landmark.
    """
    layout = read_json(file)
    tables = [value for value in layout.values() if isinstance(value, dict)]
    lists = [layout.get(key) for key in ("test", "searchImg", "val")]
    if len(tables) != 1 or not all(isinstance(names, list) and names for names in lists[:2]):
        raise DatasetError(f'{file} needs lists "test" and "searchImg" and one table {{image: landmark}}')
    labels = tables[0]
    queries, database, validation = ([str(name) for name in names or []] for names in lists)
    unlabelled = [name for name in (*queries, *database) if name not in labels]
    if unlabelled:
        raise DatasetError(f"{file}: {len(unlabelled)} images have no landmark: {some(unlabelled)}")
    return Ltll(
        {name: str(labels[name]) for name in queries}, {name: str(labels[name]) for name in database}, tuple(validation)
    )


@torch.inference_mode()
def stream_ltll_answers(
    miner: ArtMiner, labels: Ltll, among: Described, *, by: LandmarkBy = "discovery"
) -> Iterator[Progress | dict[str, str]]:
    """The new photograph that is most like each old one; landmarks are not looked at.

    The published score is that of the miner's defaults in one view: margin 3, tolerance 2, with saliency, the better of
    both directions.

    Yields:
        A step after each query; then a name in the database by that of the query. Of equal scores the first counts.
    """
    one_of("way to rank", by, get_args(LandmarkBy))
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


def top_1_accuracy(labels: Ltll, best: Mapping[str, str], *, without_validation: bool = False) -> float:
    """Share of queries whose best image of the database shows their landmark.

    `without_validation` leaves out the queries that the published method was chosen on; the published figure does not.

    Raises:
        DatasetError: A query has no answer, or an answer is not in the database.
    """
    asked = [name for name in labels.queries if not (without_validation and name in labels.validation)]
    missing = [name for name in asked if name not in best]
    if missing or not asked:
        raise DatasetError(f"{len(missing)} of {len(asked)} queries have no answer: {some(missing)}")
    strange = [best[name] for name in asked if best[name] not in labels.database]
    if strange:
        raise DatasetError(f"{len(strange)} answers are not in the database: {some(strange)}")
    return float(np.mean([labels.database[best[name]] == labels.queries[name] for name in asked]))


# --- Oxford5K: pictures of a building


@dataclass(frozen=True)
class OxfordQuery:
    """A box in a picture, and the pictures of the same building."""

    name: str  # of the query, as "all_souls_1"
    image: str  # name without suffix
    box: Box
    good: frozenset[str]  # pictures that show the building well
    okay: frozenset[str]  # those that show more than a quarter of it
    junk: frozenset[str]  # those that show less, or distorted: they are neither right nor wrong

    @property
    def positives(self) -> frozenset[str]:
        """What is to be found."""
        return self.good | self.okay


def read_oxford(folder: Path) -> tuple[OxfordQuery, ...]:
    """Read the official ground truth: NAME_query.txt, NAME_good.txt, NAME_ok.txt and NAME_junk.txt, sorted by NAME.

    Raises:
        DatasetError: There is no query file, one of its companions is missing, or a line is not laid out so.
    """
    files = sorted(folder.glob("*_query.txt"))
    if not files:
        raise DatasetError(f"there is no NAME_query.txt in {folder}: unpack the ground truth of Oxford5K there")
    found = list[OxfordQuery]()
    for file in files:
        name = file.name.removesuffix("_query.txt")
        good, okay, junk = (
            frozenset(text_of(folder / f"{name}_{part}.txt").split()) for part in ("good", "ok", "junk")
        )
        words = text_of(file).split()
        try:
            left, top, right, bottom = (float(word) for word in words[1:])
        except ValueError as error:
            raise DatasetError(f"{file} is not one line of an image and four numbers") from error
        if not (left < right and top < bottom and np.isfinite([left, top, right, bottom]).all()):
            raise DatasetError(f"{file}: the box {words[1:]} has no area; check the download")
        if not good | okay:
            raise DatasetError(f"{name} has no good and no ok picture in {folder}; check the download")
        image = words[0].removeprefix(PREFIX)
        found.append(OxfordQuery(name, image, (left, top, right, bottom), good, okay, junk))
    return tuple(found)


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

    Pictures are searched at the miner's scales, in its views; `path` gives the file of one.

    Yields:
        A step after each group of pictures; then names by the query's name, among equal scores in the order of `among`.

    Raises:
        ConfigError: A box lies outside its picture.
        ImageError: A picture cannot be read.
    """
    one_of("way to rank", by, get_args(LandmarkBy))
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


def oxford_average_precision(query: OxfordQuery, ranking: Sequence[str]) -> float:
    """The official average precision: area under precision over recall, by trapezia, without the junk.

    The ranking has names of pictures without suffix, best first.

    Raises:
        DatasetError: A picture is in the ranking twice.
    """
    right, precision = _right(query, ranking, without=query.junk)
    before = np.concatenate([[1.0], precision[:-1]])  # at a recall of 0 the official programme takes 1
    return float(((precision + before) / 2)[right].sum() / len(query.positives))


def oxford_released_precision(query: OxfordQuery, ranking: Sequence[str]) -> float:
    """What the released ArtMiner measures: the mean of the precisions at every positive, junk counted as wrong.

    It is not Oxford5K's measure, and is lower wherever junk ranks well. See `oxford_average_precision`.
    """
    right, precision = _right(query, ranking, without=frozenset())
    return float(precision[right].sum() / len(query.positives))


def oxford_mean(
    queries: Sequence[OxfordQuery], rankings: Mapping[str, Sequence[str]], *, released: bool = False
) -> float:
    """Mean of the average precisions of all queries, whose rankings go by their names.

    It is the official measure, or that of the released code, which counts junk as wrong.

    Raises:
        ConfigError: There is no query, or one has no ranking.
        DatasetError: A picture is in a ranking twice.
    """
    missing = [query.name for query in queries if query.name not in rankings]
    if missing or not queries:
        raise ConfigError(f"{len(missing)} of {len(queries)} queries have no ranking; give one to each")
    measure = oxford_released_precision if released else oxford_average_precision
    return float(np.mean([measure(query, rankings[query.name]) for query in queries]))


def _right(
    query: OxfordQuery, ranking: Sequence[str], *, without: frozenset[str]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which pictures of a ranking are right, and the precision down to each, both without some."""
    twice = sorted(name for name, count in Counter(ranking).items() if count > 1)
    if twice:
        raise DatasetError(f"the ranking for {query.name} has pictures twice: {some(twice)}; give each once")
    right = np.array([name in query.positives for name in ranking if name not in without], bool)
    return right, np.cumsum(right) / np.arange(1, len(right) + 1)


# --- Pictures as they are described


def _pooled(miner: ArtMiner, among: Described, names: Sequence[str]) -> Tensor:
    """[N, D] of pictures as they are."""
    return torch.stack([_vector(among.pyramid(name).at(miner.config.reference)) for name in names])


def _vector(features: Tensor) -> Tensor:
    """The largest of each feature of a map [D, R, C], to length 1: [D] float32."""
    return F.normalize(features.float().amax((1, 2)), dim=0, eps=EPSILON)
