"""The protocol of the papers: average precision of detection and classification, runs, and transfer between media.

Sources: Gonthier et al. 2018 (arXiv:1810.02569) and 2020 (arXiv:2008.01178); the average precision of Pascal VOC from
2010 on (Everingham et al. 2015, sec. 4.2). A published figure and ours compare only where the feature network is the
same, and it seldom is: each table names both.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from sklearn.metrics import average_precision_score

from artmodels.data.labelled import Item, LabelledSet
from artmodels.detections.annotations import Detections
from artmodels.detections.boxes import as_boxes, paired_iou
from artmodels.errors import ConfigError, DatasetError
from artmodels.images.decoding import Array

__all__ = [
    "PUBLISHED",
    "PUBLISHED_FEATURES",
    "PUBLISHED_TRANSFER",
    "ClassificationScores",
    "DetectionScores",
    "RunScores",
    "TransferScores",
    "average_precision",
    "classification_scores",
    "classification_table",
    "detection_scores",
    "detection_table",
    "hits",
    "over_runs",
    "precision_at",
    "published_table",
    "runs_table",
    "transfer_scores",
    "transfer_table",
]

IOUS = (0.5, 0.3, 0.1)
_PAIRS = 2**20  # of a detection and a true box that are compared at a time

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


# --- one class


def hits(
    found: tuple[Array, Array, Array], truth: tuple[Array, Array, Array], *, iou: float = 0.5, plus_one: bool = False
) -> Flags:
    """Say of each detection of one class whether it is right, by falling score: [D'], D' <= D.

    A detection belongs to the true box of its image that it overlaps most. It is right if that overlap is more than
    `iou` and no better detection took the box; otherwise it is wrong. One that belongs to a difficult box by more than
    `iou` is neither, and is left out. Among equal scores the first comes first.

    Args:
        found: Boxes [D, 4], scores [D], number of the image [D].
        truth: Boxes [G, 4], number of the image [G], whether difficult [G].
        iou: The overlap to exceed, in [0, 1).
        plus_one: As in `boxes.iou`; the papers' tables have it on. The boxes of `artmodels.data.labelled` fit both.

    Raises:
        ConfigError: `iou` is out of range.
        DatasetError: Lengths differ, or a box is none.
    """
    if not 0 <= iou < 1:
        raise ConfigError(f"the overlap to exceed is {iou}; give a value in [0, 1)")
    boxes, scores, images = found
    true_boxes, true_images, difficult = truth
    if not len(boxes) == len(scores) == len(images) or not len(true_boxes) == len(true_images) == len(difficult):
        raise DatasetError(
            f"{len(boxes)} boxes, {len(scores)} scores, {len(images)} image numbers; true: {len(true_boxes)}, "
            f"{len(true_images)}, {len(difficult)} flags; the numbers must agree"
        )
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    best, overlap = _best_overlap(
        np.asarray(boxes)[order], np.asarray(images)[order], np.asarray(true_boxes), np.asarray(true_images), plus_one
    )
    enough = overlap > iou
    counted = ~(enough & np.append(np.asarray(difficult, bool), False)[best])
    # The first detection of each true box, among those that overlap it enough.
    candidates = np.flatnonzero(enough & counted)
    right = np.zeros(len(order), bool)
    right[candidates[np.unique(best[candidates], return_index=True)[1]]] = True
    return np.asarray(right[counted])


def average_precision(right: Flags, positives: int) -> float:
    """Area under precision over recall, made monotone: all points, not eleven.

    `right` is what `hits` gives, `positives` how many there are to find, without the difficult ones; if none, the area
    is not a number.
    """
    if positives == 0:
        return float("nan")
    found = np.cumsum(right)
    precision = found / np.arange(1, len(found) + 1)
    # Recall rises by 1 / positives at each hit, and only there.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[np.asarray(right, bool)].sum() / positives)


def precision_at(labels: Array, scores: Array, k: int = 20) -> float:
    """Share of positives among the k highest scores, over min(k, positives), so that 1 can be reached.

    Labels [B] are 0 or 1; among equal scores [B] the first comes first. Without a positive it is not a number.
    """
    labels = np.asarray(labels) > 0
    if not labels.any():
        return float("nan")
    first = np.argsort(-np.asarray(scores, np.float64), kind="stable")[:k]
    return float(labels[first].sum() / min(k, labels.sum()))


def _best_overlap(
    boxes: Array, images: Array, true_boxes: Array, true_images: Array, plus_one: bool
) -> tuple[Numbers, Floats]:
    """The true box of its image that each detection overlaps most, and by how much; the number G and 0 without any."""
    by_image = np.argsort(true_images, kind="stable")
    lowest, highest = (np.searchsorted(true_images[by_image], images, side) for side in ("left", "right"))
    ends = np.cumsum(highest - lowest)  # of each detection's pairs
    best, overlap = np.full(len(boxes), len(true_boxes)), np.zeros(len(boxes))
    ours, theirs = as_boxes(boxes).double(), as_boxes(true_boxes).double()
    start = 0
    while start < len(boxes):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS, "right")))
        counts = (highest - lowest)[start:stop]
        detection = np.repeat(np.arange(start, stop), counts)
        within = np.arange(len(detection)) - np.repeat(np.cumsum(counts) - counts, counts)
        true = by_image[lowest[detection] + within]
        pairs = paired_iou(ours[torch.from_numpy(detection)], theirs[torch.from_numpy(true)], plus_one=plus_one).numpy()
        # By detection, then by falling overlap; among equal ones the first true box.
        rank = np.lexsort((true, -pairs, detection))
        first = rank[np.unique(detection[rank], return_index=True)[1]]
        best[detection[first]], overlap[detection[first]] = true[first], pairs[first]
        start = stop
    return best, overlap


# --- a collection


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """Average precision of detection, for C classes and I overlaps to exceed."""

    classes: tuple[str, ...]
    ious: tuple[float, ...]
    ap: Floats  # [I, C] in [0, 1]; not a number where a class has no true box
    positives: Numbers  # [C] true boxes that count
    images: int  # that were looked at

    @property
    def mean(self) -> Floats:
        """[I] the mean over the classes that have true boxes (mAP)."""
        return _mean(self.ap)


@dataclass(frozen=True, eq=False)
class ClassificationScores:
    """Whether images show each of C classes, judged by one score an image."""

    classes: tuple[str, ...]
    ap: Floats  # [C] average precision in [0, 1] as scikit-learn defines it; not a number without a positive
    precision_at_20: Floats  # [C] see `precision_at`
    positives: Numbers  # [C] images that show the class

    @property
    def mean_ap(self) -> float:
        """The mean AP of the classes that have a positive."""
        return float(_mean(self.ap))

    @property
    def mean_precision_at_20(self) -> float:
        """The mean precision@20 of the classes that have a positive."""
        return float(_mean(self.precision_at_20))


def detection_scores(
    detections: Sequence[Detections], truth: LabelledSet, *, ious: Sequence[float] = IOUS, plus_one: bool = False
) -> DetectionScores:
    """Score detections against the boxes of a collection; an image without a true box is one to find nothing in.

    There is one Detections an image of `truth`, in its order; those of other classes do not count. `LabelledSet.boxed`
    leaves out the images whose boxes are not known. `ious` and `plus_one` are as in `hits`.

    Raises:
        DatasetError: Images are not the same, or the boxes of some are not known.
    """
    _check_same(detections, truth.items)
    found_boxes = np.concatenate([np.zeros((0, 4), np.float32), *(found.boxes for found in detections)])
    found_scores = np.concatenate([np.zeros(0, np.float32), *(found.scores for found in detections)])
    found_labels = np.array([label for found in detections for label in found.labels], object)
    found_images = np.repeat(np.arange(len(detections)), [len(found) for found in detections])
    boxes = [box for item in truth.items for box in item.boxes]
    true_boxes = np.array([box.xyxy for box in boxes], np.float64).reshape(-1, 4)
    true_labels = np.array([box.label for box in boxes], object)
    difficult = np.array([box.difficult for box in boxes], bool)
    true_images = np.repeat(np.arange(len(truth)), [len(item.boxes) for item in truth.items])
    ap, positives = np.zeros((len(ious), len(truth.classes))), np.zeros(len(truth.classes), np.int64)
    for column, name in enumerate(truth.classes):
        ours, theirs = found_labels == name, true_labels == name
        positives[column] = (~difficult[theirs]).sum()
        for row, iou in enumerate(ious):
            right = hits(
                (found_boxes[ours], found_scores[ours], found_images[ours]),
                (true_boxes[theirs], true_images[theirs], difficult[theirs]),
                iou=iou,
                plus_one=plus_one,
            )
            ap[row, column] = average_precision(right, int(positives[column]))
    return DetectionScores(truth.classes, tuple(ious), ap, positives, len(truth))


def classification_scores(labels: Array, scores: Array, classes: Sequence[str]) -> ClassificationScores:
    """Score images: labels [B, C] of 0 and 1, scores [B, C], as the greatest score of an image's regions.

    Raises:
        DatasetError: The shapes differ, or a score is not finite.
    """
    labels, scores = np.asarray(labels) > 0, np.asarray(scores, np.float64)
    if labels.shape != scores.shape or labels.ndim != 2 or labels.shape[1] != len(classes):
        raise DatasetError(
            f"labels {list(labels.shape)} and scores {list(scores.shape)} must both be [images, {len(classes)}]"
        )
    if not np.isfinite(scores).all():
        raise DatasetError(f"{int((~np.isfinite(scores)).sum())} scores are not finite")
    ap = [
        average_precision_score(truth, column) if truth.any() else float("nan")
        for truth, column in zip(labels.T, scores.T, strict=True)
    ]
    first = [precision_at(*column) for column in zip(labels.T, scores.T, strict=True)]
    return ClassificationScores(tuple(classes), np.array(ap, float), np.array(first, float), labels.sum(0))


# --- runs


@dataclass(frozen=True, eq=False)
class RunScores:
    """Detection over runs that differ in their seed."""

    runs: tuple[DetectionScores, ...]

    @property
    def mean(self) -> Floats:
        """[I] the mean over runs of their mAP."""
        return np.asarray(np.mean([run.mean for run in self.runs], axis=0))

    @property
    def std(self) -> Floats:
        """[I] the standard deviation of their mAP, of these runs and not of a population they stand for (1/n)."""
        return np.asarray(np.std([run.mean for run in self.runs], axis=0))


def over_runs(runs: Sequence[DetectionScores]) -> RunScores:
    """Put runs together.

    Raises:
        DatasetError: There is none, or they differ in classes, overlaps or images.
    """
    if not runs:
        raise DatasetError("there is no run to average")
    if len({(run.classes, run.ious, run.images) for run in runs}) > 1:
        raise DatasetError("the runs differ in their classes, overlaps or number of images; average runs of one set")
    return RunScores(tuple(runs))


# --- transfer between media


@dataclass(frozen=True, eq=False)
class TransferScores:
    """Detectors trained on one collection and tested on another."""

    names: tuple[str, ...]  # of the collections
    ap: Mapping[tuple[str, str], Mapping[str, float]]
    """By (source, target): AP of each class of the source that the target has too, NaN without true boxes."""

    def pair(self, source: str, target: str) -> tuple[float, float] | None:
        """MAP of the source's detector on the target, and of the target's own, over their common classes, if any."""
        across, own = self.ap[source, target], self.ap[target, target]
        common = [name for name in across if name in own]
        if not common:
            return None
        first, second = _mean(np.array([[scores[name] for name in common] for scores in (across, own)])).tolist()
        return first, second


def transfer_scores(
    sets: Mapping[str, tuple[LabelledSet, LabelledSet]],
    fit: Callable[[LabelledSet], Callable[[LabelledSet], Sequence[Detections]]],
    *,
    iou: float = 0.5,
    plus_one: bool = False,
) -> TransferScores:
    """Train on each collection, once, and test on all that share a class with it.

    Args:
        sets: By name: images to train on, with their labels, and images to test on, with their boxes.
        fit: Trains on a collection and returns a function that gives the detections in the images of another.
        iou: As in `hits`.
        plus_one: As in `hits`.
    """
    ap = dict[tuple[str, str], dict[str, float]]()
    for source, (train, _) in sets.items():
        detect = fit(train)
        for target, (_, test) in sets.items():
            ap[source, target] = {}
            if common := train.common_classes(test):
                kept = test.restrict(common)
                scores = detection_scores(detect(kept), kept, ious=[iou], plus_one=plus_one)
                ap[source, target] = dict(zip(common, scores.ap[0].tolist(), strict=True))
    return TransferScores(tuple(sets), ap)


# --- helpers


def _mean(values: Floats) -> Floats:
    """The mean over the last axis of what is a number; not a number where nothing is."""
    known = ~np.isnan(values)
    counts = known.sum(-1)
    total = np.where(known, values, 0).sum(-1)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def _check_same(detections: Sequence[Detections], items: Sequence[Item]) -> None:
    if len(detections) != len(items):
        raise DatasetError(f"there are detections for {len(detections)} images, and {len(items)} images to compare")
    for found, item in zip(detections, items, strict=True):
        if PurePath(found.image).name != item.path.name:
            raise DatasetError(
                f"detections in {found.image!r} stand where {item.path.name!r} is; give them in the order of the images"
            )
    unknown = sum(not item.boxed for item in items)
    if unknown:
        raise DatasetError(
            f"nobody has drawn the boxes of {unknown} of {len(items)} images; score the others: LabelledSet.boxed()"
        )


# --- tables, with the published ones beside ours

PUBLISHED_FEATURES = "Faster R-CNN, ResNet-152, COCO"
OTHER_FEATURES = {"DT+PL (semi-supervised)": "SSD300", **dict.fromkeys(("WSDDN", "SPN", "PCL"), "VGG16, fine-tuned")}
DATASETS = ("PeopleArt", "Watercolor2k", "Clipart1k", "Comic2k", "CASPA", "IconArt")
TRANSFER = ("PeopleArt", "Watercolor2k", "Comic2k", "Clipart1k", "CASPA")


def _row(*cells: float | tuple[float, float] | None) -> dict[str, tuple[float, float | None]]:
    pairs = (cell if isinstance(cell, tuple) else (cell, None) for cell in cells)
    return {name: (mean, std) for name, (mean, std) in zip(DATASETS, pairs, strict=True) if mean is not None}


# N. Gonthier, seminar at LASTIG, 18 November 2022; the methods on shared features are those of arXiv:2008.01178.
# For Comic2k the slide repeats Watercolor2k's figures of DT+PL and WSDDN, most likely by a slip: those are left out.
PUBLISHED: Mapping[str, Mapping[str, tuple[float, float | None]]] = {
    "DT+PL (semi-supervised)": _row(None, 54.3, 46.0, None, None, None),
    "WSDDN": _row(None, 12.7, 4.4, None, None, None),
    "SPN": _row(10.0, 7.1, 3.8, 1.2, 0.7, 7.7),
    "PCL": _row(3.4, 0.0, 1.2, 0.0, 0.0, 5.9),
    "MAX": _row(25.9, 34.3, 16.9, 11.9, 9.8, 3.7),
    "MAXA": _row(48.9, 43.9, 22.0, 19.8, 14.6, 12.0),
    "MI-SVM": _row(13.3, 21.8, 19.3, 13.0, 2.5, 4.0),
    "mi-SVM": _row(5.6, 5.3, 6.2, 4.6, 1.2, 2.8),
    "MI-max": _row((55.5, 1.0), (49.5, 0.9), (38.4, 0.8), (27.0, 0.8), (16.2, 0.4), (12.0, 0.9)),
    "Polyhedral MI-max": _row((58.3, 1.2), (46.6, 1.3), (30.5, 2.3), (23.3, 1.6), (14.4, 0.7), (13.0, 2.2)),
}
"""Mean AP in per cent at an overlap of more than 0.5, and its standard deviation over 10 runs where it was given."""

_TRANSFER_ROWS: Sequence[Sequence[tuple[float, float] | None]] = (
    (None, (60.0, 59.2), (42.1, 39.5), (54.3, 55.4), None),
    ((56.0, 57.3), None, (23.1, 24.1), (11.2, 24.6), (13.8, 18.3)),
    ((48.9, 57.3), (42.4, 46.6), None, (7.2, 24.6), (12.5, 18.3)),
    ((52.0, 57.3), (36.7, 46.6), (19.6, 24.1), None, (7.7, 13.6)),
    (None, (27.5, 39.0), (9.9, 18.1), (4.2, 12.5), None),
)
PUBLISHED_TRANSFER: Mapping[tuple[str, str], tuple[float, float]] = {
    (source, target): pair
    for source, row in zip(TRANSFER, _TRANSFER_ROWS, strict=True)
    for target, pair in zip(TRANSFER, row, strict=True)
    if pair is not None
}
"""By (source, target), Polyhedral MI-max: mean AP in per cent over the common classes, and the target's own model's."""


def detection_table(scores: DetectionScores) -> Table:
    """A line a class, in per cent."""
    table = Table("class", "boxes", *_headers(scores.ious), title=f"detection, {scores.images} images")
    for column, name in enumerate(scores.classes):
        table.add_row(name, str(scores.positives[column]), *map(_percent, scores.ap[:, column]))
    table.add_row("mean", str(scores.positives.sum()), *map(_percent, scores.mean))
    return table


def runs_table(scores: RunScores) -> Table:
    """A line a class, mean ± standard deviation over the runs, in per cent."""
    first = scores.runs[0]
    title = f"detection, {first.images} images, {len(scores.runs)} runs"
    table = Table("class", *_headers(first.ious), title=title)
    every = np.stack([np.column_stack([run.ap, run.mean]) for run in scores.runs])  # [runs, I, C + 1]
    for column, name in enumerate((*first.classes, "mean")):
        means, deviations = every.mean(0)[:, column], every.std(0)[:, column]
        table.add_row(name, *(_percent(*pair) for pair in zip(means, deviations, strict=True)))
    return table


def classification_table(scores: ClassificationScores) -> Table:
    """A line a class, in per cent."""
    table = Table("class", "images", "AP", "precision@20", title="classification")
    for name, count, *values in zip(scores.classes, scores.positives, scores.ap, scores.precision_at_20, strict=True):
        table.add_row(name, str(count), *map(_percent, values))
    table.add_row("mean", "", *(_percent(value) for value in (scores.mean_ap, scores.mean_precision_at_20)))
    return table


def published_table(ours: Mapping[str, Mapping[str, RunScores | DetectionScores]], *, features: str) -> Table:
    """Put the published mean AP and ours side by side, in per cent, at an overlap of more than 0.5.

    Ours are by method, then by collection, named as in `DATASETS`; `features` is the network that they rest on.

    Raises:
        ConfigError: A collection has no column, or our scores have no AP at 0.5.
    """
    table = Table("method", "features", *DATASETS, title="mean AP@0.5: published above the line, ours below it")
    for method, cells in PUBLISHED.items():
        figures = (_number(*cells[name]) if name in cells else "-" for name in DATASETS)
        table.add_row(method, OTHER_FEATURES.get(method, PUBLISHED_FEATURES), *figures)
    table.add_section()
    for method, sets in ours.items():
        unknown = [name for name in sets if name not in DATASETS]
        if unknown:
            raise ConfigError(f"there is nothing published on {', '.join(unknown)}; name {', '.join(DATASETS)}")
        table.add_row(method, features, *(_at_half(sets[name]) if name in sets else "-" for name in DATASETS))
    return table


def transfer_table(scores: TransferScores | None = None, *, features: str | None = None) -> Table:
    """Lines are sources, columns targets: mean AP of the source's detector and, in parentheses, of the target's own.

    Ours need the network that their features come from; without any it is the published table. One without the other is
    a ConfigError.
    """
    if (scores is None) != (features is None):
        raise ConfigError("give scores together with features, the network that they rest on; or neither")
    names, scale = (TRANSFER, 1) if scores is None else (scores.names, 100)

    def cell(source: str, target: str) -> str:
        pair = PUBLISHED_TRANSFER.get((source, target)) if scores is None else scores.pair(source, target)
        if source == target:
            return "-"
        return "/" if pair is None else f"{scale * pair[0]:.1f} ({scale * pair[1]:.1f})"

    table = Table("trained on", *names, title=f"mean AP on common classes, {features or PUBLISHED_FEATURES}")
    for source in names:
        table.add_row(source, *(cell(source, target) for target in names))
    return table


def _at_half(scores: RunScores | DetectionScores) -> str:
    ious = scores.runs[0].ious if isinstance(scores, RunScores) else scores.ious
    if 0.5 not in ious:
        raise ConfigError(f"the published table is of AP@0.5; these scores have {', '.join(map(str, ious))}")
    row = ious.index(0.5)
    return _percent(scores.mean[row], scores.std[row] if isinstance(scores, RunScores) else None)


def _headers(ious: tuple[float, ...]) -> list[str]:
    return [f"AP@{iou:g}" for iou in ious]


def _percent(share: float | Floats, deviation: float | Floats | None = None) -> str:
    return _number(100 * float(share), None if deviation is None else 100 * float(deviation))


def _number(mean: float, deviation: float | None) -> str:
    if np.isnan(mean):
        return "-"
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
