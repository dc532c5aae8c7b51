"""The protocol of the papers: average precision of detection and classification, runs, and transfer between media.

Sources: Gonthier et al. 2018 (arXiv:1810.02569) and 2020 (arXiv:2008.01178); the average precision of Pascal VOC from
2010 on (Everingham et al. 2015, sec. 4.2).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import average_precision_score

from artmodels.data.labelled import Item, LabelledSet
from artmodels.detections.annotations import Detections
from artmodels.detections.boxes import as_boxes, paired_iou
from artmodels.errors import ConfigError, DatasetError
from artmodels.images.decoding import Array

__all__ = [
    "ClassificationScores",
    "DetectionScores",
    "RunScores",
    "TransferScores",
    "average_precision",
    "classification_scores",
    "detection_scores",
    "hits",
    "over_runs",
    "precision_at",
    "transfer_scores",
]

IOUS = (0.5, 0.3, 0.1)
_PAIRS = 2**20  # of a detection and a true box that are compared at a time

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


# --- one class


def hits(
    found: tuple[Array, Array, Array],
    truth: tuple[Array, Array, Array],
    *,
    iou: float = 0.5,
    plus_one: bool = False,
) -> Flags:
    """Say of each detection of one class whether it is right, by falling score.

    A detection belongs to the true box of its image that it overlaps most. It is right if that overlap is more than
    `iou` and no better detection took the box; otherwise it is wrong. One that belongs to a difficult box by more than
    `iou` is neither, and is left out. Among equal scores the first comes first.

    Args:
        found: Boxes [D, 4], scores [D], number of the image [D].
        truth: Boxes [G, 4], number of the image [G], whether difficult [G].
        iou: The overlap to exceed, in [0, 1).
        plus_one: As in `boxes.iou`; the papers' tables have it on.

    Returns:
        [D'] true or false, D' <= D.

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
    over = overlap > iou
    counted = ~(over & np.append(np.asarray(difficult, bool), False)[best])
    # The first detection of each true box, among those that overlap it enough.
    candidates = np.flatnonzero(over & counted)
    right = np.zeros(len(order), bool)
    right[candidates[np.unique(best[candidates], return_index=True)[1]]] = True
    kept: Flags = right[counted]
    return kept


def average_precision(right: Flags, positives: int) -> float:
    """Area under precision over recall, made monotone: all points, not eleven.

    Args:
        right: [D] whether each detection is right, by falling score, as from `hits`.
        positives: How many there are to find, without the difficult ones.

    Returns:
        In [0, 1]; not a number where there is nothing to find.
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

    Args:
        labels: [B] 0 or 1.
        scores: [B]; among equal scores the first comes first.
        k: How many to look at.

    Returns:
        In [0, 1]; not a number without a positive.
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
    """Average precision of detection.

    Attributes:
        classes: C names.
        ious: I overlaps to exceed.
        ap: [I, C] in [0, 1]; not a number where a class has no true box.
        positives: [C] true boxes that count.
        images: How many images were looked at.
    """

    classes: tuple[str, ...]
    ious: tuple[float, ...]
    ap: Floats
    positives: Numbers
    images: int

    @property
    def mean(self) -> Floats:
        """[I] the mean over the classes that have true boxes (mAP)."""
        return _mean(self.ap)


@dataclass(frozen=True, eq=False)
class ClassificationScores:
    """Whether images show a class, judged by one score an image.

    Attributes:
        classes: C names.
        ap: [C] average precision in [0, 1] as scikit-learn defines it; not a number without a positive.
        precision_at_20: [C] as `precision_at`.
        positives: [C] images that show the class.
    """

    classes: tuple[str, ...]
    ap: Floats
    precision_at_20: Floats
    positives: Numbers

    @property
    def mean_ap(self) -> float:
        """The mean AP of the classes that have a positive."""
        return float(_mean(self.ap))

    @property
    def mean_precision_at_20(self) -> float:
        """The mean precision@20 of the classes that have a positive."""
        return float(_mean(self.precision_at_20))


def detection_scores(
    detections: Sequence[Detections],
    truth: LabelledSet,
    *,
    ious: Sequence[float] = IOUS,
    plus_one: bool = False,
) -> DetectionScores:
    """Score detections against the boxes of a collection; an image without a true box is one to find nothing in.

    Args:
        detections: One an image of `truth`, in its order; detections of other classes do not count.
        truth: Images whose boxes are known, as `LabelledSet.boxed` gives them.
        ious: Overlaps to exceed.
        plus_one: As in `boxes.iou`. The papers' tables have it on; the boxes of `labelled` fit both.

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
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if labels.shape != scores.shape or labels.ndim != 2 or labels.shape[1] != len(classes):
        raise DatasetError(
            f"labels {list(labels.shape)} and scores {list(scores.shape)} must both be [images, {len(classes)}]"
        )
    if not np.isfinite(scores).all():
        raise DatasetError(f"{int((~np.isfinite(scores)).sum())} scores are not finite")
    positives = (labels > 0).sum(0)
    ap = [
        average_precision_score(labels[:, column] > 0, scores[:, column]) if positives[column] else float("nan")
        for column in range(len(classes))
    ]
    first = [precision_at(labels[:, column], scores[:, column]) for column in range(len(classes))]
    return ClassificationScores(tuple(classes), np.array(ap, float), np.array(first, float), positives)


# --- runs


@dataclass(frozen=True, eq=False)
class RunScores:
    """Detection over runs that differ in their seed.

    Attributes:
        runs: The scores of each.
    """

    runs: tuple[DetectionScores, ...]

    @property
    def mean(self) -> Floats:
        """[I] the mean over runs of their mAP."""
        mean: Floats = np.mean([run.mean for run in self.runs], axis=0)
        return mean

    @property
    def std(self) -> Floats:
        """[I] the standard deviation of their mAP, of these runs and not of a population they stand for (1/n)."""
        deviation: Floats = np.std([run.mean for run in self.runs], axis=0)
        return deviation


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
    """Detectors trained on one collection and tested on another.

    Attributes:
        names: The collections.
        ap: By (source, target): AP of each class of the source that the target has too, NaN without true boxes;
            (target, target) is the detector trained on the target itself.
    """

    names: tuple[str, ...]
    ap: Mapping[tuple[str, str], Mapping[str, float]]

    def pair(self, source: str, target: str) -> tuple[float, float] | None:
        """MAP of the source's detector on the target, and of the target's own, over their common classes, if any."""
        across, own = self.ap[source, target], self.ap[target, target]
        common = [name for name in across if name in own]
        if not common:
            return None
        both = np.array([[scores[name] for name in common] for scores in (across, own)])
        return float(_mean(both)[0]), float(_mean(both)[1])


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
        iou: The overlap to exceed.
        plus_one: As in `boxes.iou`.
    """
    ap = dict[tuple[str, str], dict[str, float]]()
    for source, (train, _) in sets.items():
        detect = fit(train)
        for target, (_, test) in sets.items():
            common = train.common_classes(test)
            if common:
                kept = test.restrict(common)
                scores = detection_scores(detect(kept), kept, ious=[iou], plus_one=plus_one)
                ap[source, target] = dict(zip(common, scores.ap[0].tolist(), strict=True))
            else:
                ap[source, target] = {}
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
