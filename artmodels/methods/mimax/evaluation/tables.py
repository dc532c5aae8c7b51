"""Scores as tables, with the published ones beside ours.

A published figure and ours compare only where the feature network is the same, and it seldom is: each table names both.
"""

from collections.abc import Mapping

import numpy as np
from rich.table import Table

from artmodels.errors import ConfigError
from artmodels.methods.mimax.evaluation.evaluate import (
    ClassificationScores,
    DetectionScores,
    Floats,
    RunScores,
    TransferScores,
)

__all__ = [
    "PUBLISHED",
    "PUBLISHED_FEATURES",
    "PUBLISHED_TRANSFER",
    "classification_table",
    "detection_table",
    "published_table",
    "runs_table",
    "transfer_table",
]

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

PUBLISHED_TRANSFER: Mapping[tuple[str, str], tuple[float, float]] = {
    ("PeopleArt", "Watercolor2k"): (60.0, 59.2),
    ("PeopleArt", "Comic2k"): (42.1, 39.5),
    ("PeopleArt", "Clipart1k"): (54.3, 55.4),
    ("Watercolor2k", "PeopleArt"): (56.0, 57.3),
    ("Watercolor2k", "Comic2k"): (23.1, 24.1),
    ("Watercolor2k", "Clipart1k"): (11.2, 24.6),
    ("Watercolor2k", "CASPA"): (13.8, 18.3),
    ("Comic2k", "PeopleArt"): (48.9, 57.3),
    ("Comic2k", "Watercolor2k"): (42.4, 46.6),
    ("Comic2k", "Clipart1k"): (7.2, 24.6),
    ("Comic2k", "CASPA"): (12.5, 18.3),
    ("Clipart1k", "PeopleArt"): (52.0, 57.3),
    ("Clipart1k", "Watercolor2k"): (36.7, 46.6),
    ("Clipart1k", "Comic2k"): (19.6, 24.1),
    ("Clipart1k", "CASPA"): (7.7, 13.6),
    ("CASPA", "Watercolor2k"): (27.5, 39.0),
    ("CASPA", "Comic2k"): (9.9, 18.1),
    ("CASPA", "Clipart1k"): (4.2, 12.5),
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

    Args:
        ours: By method, then by collection, named as in `DATASETS`; several runs or one.
        features: The network that our features come from.

    Raises:
        ConfigError: A collection has no column, or our scores have no AP at 0.5.
    """
    table = Table("method", "features", *DATASETS, title="mean AP@0.5: published above the line, ours below it")
    for method, cells in PUBLISHED.items():
        published = (cells.get(name, (float("nan"), None)) for name in DATASETS)
        table.add_row(
            method, OTHER_FEATURES.get(method, PUBLISHED_FEATURES), *(_number(mean, std) for mean, std in published)
        )
    table.add_section()
    for method, sets in ours.items():
        unknown = [name for name in sets if name not in DATASETS]
        if unknown:
            raise ConfigError(f"there is nothing published on {', '.join(unknown)}; name {', '.join(DATASETS)}")
        table.add_row(method, features, *(_at_half(sets[name]) if name in sets else "-" for name in DATASETS))
    return table


def transfer_table(scores: TransferScores | None = None, *, features: str | None = None) -> Table:
    """Lines are sources, columns targets: mean AP of the source's detector and, in parentheses, of the target's own.

    Args:
        scores: Ours; without any, the published table.
        features: The network that our features come from, to be given with `scores`.

    Raises:
        ConfigError: Only one of the two is given.
    """
    if (scores is None) != (features is None):
        raise ConfigError("give scores together with features, the network that they rest on; or neither")
    names = TRANSFER if scores is None else scores.names
    table = Table("trained on", *names, title=f"mean AP on common classes, {features or PUBLISHED_FEATURES}")
    for source in names:
        cells = list[str]()
        for target in names:
            pair = _pair(scores, source, target)
            cells.append("-" if source == target else "/" if pair is None else f"{pair[0]:.1f} ({pair[1]:.1f})")
        table.add_row(source, *cells)
    return table


def _pair(scores: TransferScores | None, source: str, target: str) -> tuple[float, float] | None:
    if scores is None:
        return PUBLISHED_TRANSFER.get((source, target))
    pair = scores.pair(source, target)
    return pair and (100 * pair[0], 100 * pair[1])


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
