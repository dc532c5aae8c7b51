"""People in paintings: boxes learnt from whether whole paintings show a person, on paintings that were held out.

`people.json` says of 78 paintings whether they show people, and where people are in 57 others: 46 with 68 people, 11
without. The boxes are a detector's (YOLOX-nano), kept where they were right by eye, put right or drawn by hand where
not; paintings with crowds, and figures that nobody would agree on, were left out. Many are portraits, which one box of
nearly the whole picture finds: AP is also given of the people who take less than half of their picture, the others
then counting neither way. Held out are paintings that the recipe of art-regions-whole puts aside (a fifth, by a hash of
their names); art-resnet has seen half of them, without boxes.

MI-max and MI-SVM score regions, three times from 30 paintings of each kind, drawn anew. The whole picture as the one
region, and regions by their objectness alone, are what they must beat. `--sheet FILE` draws what MI-max finds.

    python benchmarks/people.py [NAME ...]
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import DATA, contact_sheet, table_of
from icons import as_bags, cells, measured
from rich.console import Console

from artmodels.data.labelled import Box, Item, LabelledSet
from artmodels.detections.annotations import Detections
from artmodels.detections.boxes import nms_per_class
from artmodels.detections.drawing import boxes_over, in_a_row
from artmodels.methods.mimax import MISVM, MIMax
from artmodels.methods.region_features import RegionFeatures, Regions
from artmodels.methods.region_features.train import recall

LEARNT, SEEDS = 30, 3
SHOWN, SIDE = 3, 240  # boxes of a picture on the sheet, and px of its height


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Checkpoints of region features, or folders.")] = None,
    data: Annotated[Path, typer.Option(help="Folder that holds paintings.")] = DATA,
    sheet: Annotated[Path | None, typer.Option(help="PNG to draw the first checkpoint's boxes to.")] = None,
) -> None:
    """Print a table for each."""
    if not (data / "paintings").is_dir():
        print(f"Skipped: needs the paintings of {data} (--data).")
        return
    known = json.loads(Path(__file__).with_suffix(".json").read_text())
    held_out: dict[str, list[list[float]]] = known["held out"]
    for number, name in enumerate(names or ["art-regions-whole"]):
        model = RegionFeatures.from_pretrained(name, device="cpu")
        files = [*known["shown"], *known["not shown"], *held_out]
        began = time.process_time()
        found = {file: model(data / file) for file in files}
        seconds = (time.process_time() - began) / len(files)
        fresh = [found[file] for file in held_out]
        truths = [truth_of(held_out, fresh, data, most=share) for share in (1.0, 0.5)]
        boxes = tuple(torch.tensor(rows, dtype=torch.float32).view(-1, 4) for rows in held_out.values())
        recalls = [
            f"{recall([each.boxes for each in fresh], boxes, count, iou):.3f} of {count} at {iou}"
            for iou in (0.5, 0.7)
            for count in (10, 100, 300)
        ]
        title = f"{name}: recall {', '.join(recalls)}; {seconds:.2f} CPU s a picture"
        table = table_of(
            title, ("", "AP at IoU 0.5", "0.3", "0.1", "0.5, less than half", "AP of pictures"), left=("",)
        )
        makers: dict[str, Any] = {
            "MI-max": lambda seed: MIMax(standardize=True, seed=seed),
            "MI-SVM": lambda seed: MISVM(standardize=True, seed=seed),
        }
        runs = dict[str, list[np.ndarray]]()
        for title, make in makers.items():
            runs[title] = [scores_of(make(seed), known, found, fresh, seed) for seed in range(SEEDS)]
            table.add_row(title, *cells([row(scores, fresh, truths) for scores in runs[title]]))
        table.add_row("objectness", *cells([row(np.concatenate([each.objectness for each in fresh]), fresh, truths)]))
        whole = [whole_of(each) for each in fresh]
        best = [np.array([part.max() for part in split(scores, fresh)]) for scores in runs["MI-max"]]
        table.add_row("whole picture", *cells([row(scores, whole, truths) for scores in best]))
        Console(width=160).print(table)
        if sheet is not None and not number:
            drawn(sheet, data, list(held_out), fresh, runs["MI-max"][0])


def truth_of(held_out: dict[str, list[list[float]]], regions: list[Regions], data: Path, *, most: float) -> LabelledSet:
    """The held-out boxes; those that cover more than a share of their picture count neither way."""
    items = []
    for (file, rows), one in zip(held_out.items(), regions, strict=True):
        area = most * one.width * one.height
        boxes = tuple(
            Box((left, top, right, bottom), "person", difficult=(right - left) * (bottom - top) > area)
            for left, top, right, bottom in rows
        )
        labels = frozenset({"person"} if rows else ())
        items.append(Item(path=data / file, labels=labels, boxes=boxes, size=(one.width, one.height)))
    return LabelledSet("people", ("person",), tuple(items))


def scores_of(
    model: Any,  # noqa: ANN401 - any of the estimators
    known: dict[str, Any],
    found: dict[str, Regions],
    fresh: list[Regions],
    seed: int,
) -> np.ndarray:
    """Scores of all held-out regions, learnt from some paintings."""
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(known[kind], LEARNT, replace=False).tolist() for kind in ("shown", "not shown")]
    bags = as_bags([found[file] for part in chosen for file in part])
    fitted = model.fit(bags, np.repeat([1, 0], LEARNT))
    return np.asarray(fitted.instance_scores(as_bags(fresh)))


def row(scores: np.ndarray, regions: list[Regions], truths: list[LabelledSet]) -> list[float]:
    """AP of boxes at three overlaps, of the smaller people at the first, and of pictures."""
    *boxes, pictures = measured(scores[:, None], regions, truths[0])
    return [*boxes, measured(scores[:, None], regions, truths[1])[0], pictures]


def split(scores: np.ndarray, regions: list[Regions]) -> list[np.ndarray]:
    """Scores picture by picture."""
    return np.split(scores, np.cumsum([len(one) for one in regions])[:-1])


def whole_of(one: Regions) -> Regions:
    """The whole picture as the one region."""
    box = torch.tensor([[0.0, 0.0, one.width, one.height]])
    return Regions(box, one.objectness[:1], one.features[:1], width=one.width, height=one.height)


def drawn(sheet: Path, data: Path, files: list[str], regions: list[Regions], scores: np.ndarray) -> None:
    """Draw the best boxes of each held-out painting, eight in a row."""
    pictures = []
    for file, one, values in zip(files, regions, split(scores, regions), strict=True):
        part = torch.from_numpy(values)
        kept = nms_per_class(one.boxes, part, torch.zeros(len(part), dtype=torch.int64))[:SHOWN]
        found = Detections(
            image=file,
            width=one.width,
            height=one.height,
            boxes=one.boxes[kept].numpy(),
            scores=part[kept].numpy(),
            labels=("person",) * len(kept),
        )
        pictures.append(boxes_over(data / file, found))
    rows = [in_a_row(pictures[start : start + 8], height=SIDE) for start in range(0, len(pictures), 8)]
    contact_sheet([[each] for each in rows]).quantize(128).save(sheet)


if __name__ == "__main__":
    typer.run(main)
