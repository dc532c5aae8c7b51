"""Weakly supervised detection on icons: boxes found on held-out ones, learnt from labels of whole icons.

The five classes that the most icons show, of those that some icons of both halves show and some do not. MI-max and MAX
score the regions of a checkpoint; chance scores them by lot. Average precision of boxes, VOC's way, at three overlaps,
and of whole images; mean over the classes. Needs the icons with boxes.

    python benchmarks/icons.py [NAME]
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import DATA, table_of
from rich.console import Console

from artmodels.data import folders
from artmodels.data.bags import Bags
from artmodels.data.labelled import LabelledSet, annotated_folder
from artmodels.detections.annotations import Detections
from artmodels.detections.boxes import clip, nms_per_class
from artmodels.methods.mimax import MAX, MIMax
from artmodels.methods.mimax.evaluation.evaluate import classification_scores, detection_scores
from artmodels.methods.region_features import RegionFeatures, Regions

IOUS = (0.5, 0.3, 0.1)
NO_CLASS = "Roboflow is an end-to-end computer vision platform that helps you"  # an accident in one file
CLASSES, SEEDS, DRAWS = 5, 3, 20


def main(
    name: Annotated[str, typer.Argument(help="Checkpoint of region features, or its folder.")] = "art-regions-whole",
    data: Annotated[Path, typer.Option(help="Folder that holds icons.")] = DATA,
) -> None:
    """Print the table."""
    if not (data / "icons").is_dir():
        print(f"Skipped: needs the icons of {data} (--data).")
        return
    icons = annotated_folder(
        data / "icons" / "valid", data / "icons" / "annotations" / "valid", ignored=(NO_CLASS,), clip=True
    )
    halves = folders.split([item.path for item in icons.items], held_out=2)
    train, unseen = (icons.__class__(icons.name, icons.classes, part_of(icons, half)) for half in halves)
    chosen = most_frequent(train, unseen)
    train, unseen = train.restrict(chosen), unseen.restrict(chosen)
    extract = RegionFeatures.from_pretrained(name)
    known, new = ([extract(item.path) for item in part.items] for part in (train, unseen))
    bags, fresh = as_bags(known), as_bags(new)
    makers: dict[str, Any] = {
        "MI-max": lambda seed: MIMax(standardize=True, seed=seed),
        "MI-max, polyhedral": lambda seed: MIMax("polyhedral", standardize=True, seed=seed),
        "MAX": lambda seed: MAX(),
    }
    table = table_of(
        f"{len(train)} icons to learn from, {len(unseen)} held out: {', '.join(chosen)}",
        ("", *(f"AP at IoU {iou}" for iou in IOUS), "AP of images"),
        left=("",),
    )
    for name, make in makers.items():
        runs = [make(seed).fit(bags, train.labels()).instance_scores(fresh) for seed in range(SEEDS)]
        table.add_row(name, *cells([measured(scores, new, unseen) for scores in runs]))
    lots = [np.random.default_rng(seed).random((len(fresh.instances), CLASSES)) for seed in range(DRAWS)]
    table.add_row("chance", *cells([measured(scores, new, unseen) for scores in lots]))
    Console(width=120).print(table)


def part_of(whole: LabelledSet, paths: list[Path]) -> tuple[Any, ...]:
    """Keep the items of some files."""
    return tuple(item for item in whole.items if item.path in set(paths))


def most_frequent(train: LabelledSet, unseen: LabelledSet) -> tuple[str, ...]:
    """Choose classes, the most frequent first."""
    shown, held = train.labels(), unseen.labels()
    usable = [
        number
        for number in range(len(train.classes))
        if 0 < shown[:, number].sum() < len(shown) and 0 < held[:, number].sum() < len(held)
    ]
    usable.sort(key=lambda number: -int(shown[:, number].sum() + held[:, number].sum()))
    return tuple(train.classes[number] for number in usable[:CLASSES])


def as_bags(found: list[Regions]) -> Bags:
    """One bag an icon."""
    return Bags.of([one.features for one in found], [one.objectness for one in found])


def measured(scores: np.ndarray, regions: list[Regions], truth: LabelledSet) -> list[float]:
    """Give AP of boxes at each overlap, and of images."""
    found, best = [], []
    values = torch.from_numpy(np.ascontiguousarray(scores))
    counts = [len(one) for one in regions]
    for item, one, part in zip(truth.items, regions, values.split(counts), strict=True):  # type: ignore[no-untyped-call]  # torch's own
        best.append(part.amax(0).numpy())
        boxes = clip(one.boxes, one.width, one.height).repeat_interleave(part.shape[1], 0)
        labels = torch.arange(part.shape[1]).repeat(len(one))
        kept = nms_per_class(boxes, part.flatten(), labels)
        found.append(
            Detections(
                image=item.path.name,
                width=one.width,
                height=one.height,
                boxes=boxes[kept].numpy(),
                scores=part.flatten()[kept].numpy(),
                labels=tuple(truth.classes[number] for number in labels[kept].tolist()),
            )
        )
    whole = classification_scores(truth.labels(), np.stack(best), truth.classes)
    return [*detection_scores(found, truth, ious=IOUS).mean.tolist(), whole.mean_ap]


def cells(runs: list[list[float]]) -> list[str]:
    """Mean and standard deviation over seeds."""
    return [f"{mean:.3f} ± {std:.3f}" for mean, std in zip(np.mean(runs, 0), np.std(runs, 0), strict=True)]


if __name__ == "__main__":
    typer.run(main)
