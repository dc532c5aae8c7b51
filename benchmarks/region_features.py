"""Recall of objects by region proposals on held-out icons: art-regions beside windows that nobody learnt.

Needs the icons with boxes. Those that the recipe of art-regions put aside are measured, at the paper's IoU of 0.5 and
at 0.7: the share of all boxes that one of the best 10 to 300 proposals of their icon overlaps so far. Windows lie on a
grid of 11 sizes and 3 shapes. They come in an order drawn by lot, each size as often, the mean of 20 draws; or by the
edges inside less those around, with the same non-maximum suppression. The last column is seconds an image.

    python benchmarks/region_features.py
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import DATA
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from artmodels.data import folders
from artmodels.methods.region_features import RegionFeatures, RegionFeaturesConfig
from artmodels.methods.region_features.model import RATIOS, anchor_shapes, select
from artmodels.methods.region_features.train import BOXES, COUNTS, ICONS, AnnotatedImages, recall
from artmodels.runtime.devices import generator

SMALLEST, STEP, SIZES = 16, 2**0.5, 11  # px of the least window, and from size to size: 16 to 512
OVERLAP = 0.65  # of neighbouring windows, to each side
CHANCES = 20  # orders drawn by lot that are averaged


def windows(height: int, width: int) -> Tensor:
    """The grid: boxes [N, 4] of 11 sizes and 3 shapes, wholly inside an image."""
    parts = []
    for level in range(SIZES):
        for shape in anchor_shapes(SMALLEST * STEP**level, RATIOS):
            w, h = (shape[2:] - shape[:2]).tolist()
            if w > width or h > height:
                continue
            columns, rows = (
                torch.linspace(0, free, max(1, math.ceil(free / ((1 - OVERLAP) * side))) + 1)
                for free, side in ((width - w, w), (height - h, h))
            )
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            parts.append(torch.stack([x, y, x + w, y + h], -1).view(-1, 4))
    return torch.cat(parts)


def by_lot(picture: Tensor, config: RegionFeaturesConfig, seed: int) -> Tensor:
    """Windows in an order drawn by lot, each size and shape as often: most windows are small."""
    found = windows(*picture.shape[-2:])
    areas = (found[:, 2:] - found[:, :2]).prod(1)
    _, kind, count = areas.round().unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]  # torch's own
    rows = torch.multinomial(1 / count[kind].double(), config.regions, generator=generator(seed))
    return found[rows]


def by_edges(picture: Tensor, config: RegionFeaturesConfig) -> Tensor:
    """Windows by the edges within, less those of as wide a frame around as makes their area twice that."""
    found = windows(*picture.shape[-2:])
    grey = picture.mean(1, keepdim=True)
    edges = F.pad(grey.diff(dim=2).abs(), (0, 0, 0, 1)) + F.pad(grey.diff(dim=3).abs(), (0, 1))
    table = F.pad(edges[0, 0].double(), (1, 0, 1, 0)).cumsum(0).cumsum(1)

    def total(boxes: Tensor) -> Tensor:
        left, top, right, bottom = boxes.round().long().T
        return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]

    margin = (found[:, 2:] - found[:, :2]) * (2**0.5 - 1) / 2
    around = torch.cat([found[:, :2] - margin, found[:, 2:] + margin], 1)
    height, width = picture.shape[-2:]
    around = torch.minimum(around.clamp(min=0), around.new_tensor([width, height, width, height]))
    inside = total(found)
    # By the length of the outline, as Edge Boxes divide (Zitnick & Dollar 2014): an area would favour the least.
    scores = (2 * inside - total(around)) / (found[:, 2:] - found[:, :2]).sum(1)
    ranks = scores.argsort().argsort() / len(scores)
    return select([found], [ranks.float()], height=height, width=width, config=config)[0]


def row(table: Table, name: str, runs: list[list[Tensor]], unseen: AnnotatedImages, seconds: float) -> None:
    """Print the mean of some runs."""
    numbers = [
        sum(recall(run, unseen.boxes, count, threshold) for run in runs) / len(runs)
        for threshold in (0.5, 0.7)
        for count in COUNTS
    ]
    table.add_row(name, *(f"{number:.3f}" for number in numbers), f"{seconds:.2f}")


def main(
    name: Annotated[str, typer.Argument(help="Name or folder of the checkpoint.")] = "art-regions",
    data: Annotated[Path, typer.Option(help="Folder that holds icons.")] = DATA,
) -> None:
    """Print the table."""
    if not (data / ICONS).is_dir():
        print(f"Skipped: needs the icons of {data} (--data).")
        return
    model = RegionFeatures.from_pretrained(name, device="cpu")
    _, files = folders.split(folders.image_files(data, [ICONS]), held_out=2)
    unseen = AnnotatedImages.load(files, data / BOXES)
    pictures = [pixels[None] / 255 for pixels in unseen.images]
    table = Table(title=f"Recall of {sum(map(len, unseen.boxes))} boxes on {len(files)} held-out icons")
    table.add_column("regions")
    for threshold in (0.5, 0.7):
        for count in COUNTS:
            table.add_column(f"@{count}, IoU {threshold}", justify="right")
    table.add_column("s an image", justify="right")

    def timed(propose: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], float]:
        start = time.perf_counter()
        found = [propose(picture) for picture in pictures]
        return found, (time.perf_counter() - start) / len(pictures)

    config = model.config
    runs, spent = zip(*(timed(partial(by_lot, config=config, seed=seed)) for seed in range(CHANCES)), strict=True)
    row(table, "windows by lot", list(runs), unseen, sum(spent) / CHANCES)
    found, seconds = timed(lambda picture: by_edges(picture, config))
    row(table, "windows by edges", [found], unseen, seconds)
    found, seconds = timed(lambda picture: model(picture).boxes)
    row(table, name, [found], unseen, seconds)
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
