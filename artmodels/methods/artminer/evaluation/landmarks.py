"""The protocols of LTLL, old photographs to new ones, and of Oxford5K, retrieval of buildings.

Fernando, Tommasi and Tuytelaars 2015 for LTLL; Philbin, Chum, Isard, Sivic and Zisserman 2007 for Oxford5K. Shen, Efros
and Aubry 2019 (arXiv:1903.02678, section 5.2) measure pair discovery on both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from artmodels.detections.boxes import Box
from artmodels.errors import DatasetError, some
from artmodels.files import read_json, text_of

__all__ = [
    "Ltll",
    "OxfordQuery",
    "oxford_average_precision",
    "oxford_released_precision",
    "read_ltll",
    "read_oxford",
    "top_1_accuracy",
]

PREFIX = "oxc1_"  # before the image's name in Oxford5K's query files only


# --- LTLL: the landmark of an old photograph


@dataclass(frozen=True)
class Ltll:
    """Large time lags locations.

    Attributes:
        queries: Landmark of each old photograph.
        database: Landmark of each new one.
        validation: Those of the old ones on which the published method was chosen.
    """

    queries: Mapping[str, str]
    database: Mapping[str, str]
    validation: tuple[str, ...]


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


def top_1_accuracy(labels: Ltll, best: Mapping[str, str], *, without_validation: bool = False) -> float:
    """Share of queries whose best image of the database shows their landmark.

    Args:
        labels: Of both.
        best: Name in the database, by query.
        without_validation: Leave out the queries that the published method was chosen on; the published figure does
            not.

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
    """A box in a picture, and the pictures of the same building.

    Attributes:
        name: Of the query, as "all_souls_1".
        image: Name without suffix.
        box: Left, top, right, bottom in its pixels.
        good: Pictures that show the building well.
        okay: Those that show more than a quarter of it.
        junk: Those that show less, or distorted: they are neither right nor wrong.
    """

    name: str
    image: str
    box: Box
    good: frozenset[str]
    okay: frozenset[str]
    junk: frozenset[str]

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


def oxford_average_precision(query: OxfordQuery, ranking: Sequence[str]) -> float:
    """The official average precision: area under precision over recall, by trapezia, without the junk.

    Args:
        query: Of one building.
        ranking: Names of pictures without suffix, best first, each once.

    Raises:
        DatasetError: A picture is in the ranking twice.
    """
    right = _right(query, ranking, without=query.junk)
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    before = np.concatenate([[1.0], precision[:-1]])  # at a recall of 0 the official programme takes 1
    return float(((precision + before) / 2)[right].sum() / len(query.positives))


def oxford_released_precision(query: OxfordQuery, ranking: Sequence[str]) -> float:
    """What the released ArtMiner measures: the mean of the precisions at every positive, junk counted as wrong.

    It is not Oxford5K's measure, and is lower wherever junk ranks well. Arguments and errors are those of
    `oxford_average_precision`.
    """
    right = _right(query, ranking, without=frozenset())
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float(precision[right].sum() / len(query.positives))


def _right(query: OxfordQuery, ranking: Sequence[str], *, without: frozenset[str]) -> npt.NDArray[np.bool_]:
    if len(set(ranking)) < len(ranking):
        twice = sorted({name for name in ranking if list(ranking).count(name) > 1})
        raise DatasetError(f"the ranking for {query.name} has pictures twice: {some(twice)}; give each once")
    return np.array([name in query.positives for name in ranking if name not in without], bool)
