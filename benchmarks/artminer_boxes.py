"""ArtMiner: what a search shows of copies, and of nothing, for boxes as people draw them.

Paintings that no network was trained on, and copies of details in some of them:
`artmodels.methods.artminer.evaluation.copies`. These details are the richest of many boxes; people also draw boxes on
skies and walls. So for each picture a box anywhere in it, and the flattest of forty, are looked for as well. A picture
is shown wrongly where it shares nothing with the query's, and a place in it reaches the threshold: the checkpoint's
own, or that raised by what the box scores by chance, as a search does. A copy is found where a place that is shown lies
on it (IoU > 0.3): without the closer look, and with it.

    python benchmarks/artminer_boxes.py

`--paper` takes the seven scales of the paper, without a closer look.
"""

import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import DATA, table_of
from PIL import Image
from rich.console import Console

from artmodels import images
from artmodels.data import folders
from artmodels.detections.boxes import Box, as_boxes, iou
from artmodels.methods.artminer import ArtMiner, Collection, Searched
from artmodels.methods.artminer.evaluation.brueghel import IOU, Query, read_queries
from artmodels.methods.artminer.evaluation.copies import make_benchmark
from artmodels.methods.fast_style import FastStyle

UNSEEN = ("fast-style-scream", "fast-style-ink")  # styles that no network was trained to withstand
PAPER = (80, 74, 68, 60, 49, 36, 20)
PROPOSALS, SHARE, EDGE = 40, (0.2, 0.32), 0.04  # boxes of a picture, shares of its shorter side, and of its sides


def restyled(styles: Iterator[FastStyle], picture: Image.Image) -> Image.Image:
    """A picture in the manner of the next style."""
    return next(styles)(picture).image


def drawn_boxes(file: Path, random: np.random.Generator) -> dict[str, Box]:
    """A box anywhere in a picture, and the one of forty where the grey values change least."""
    grey = images.load(file).pixels.mean(2) / 255
    size = np.array(grey.shape[::-1])
    sides = random.uniform(*SHARE, (PROPOSALS, 2)) * size.min()
    low = EDGE * size + random.random((PROPOSALS, 2)) * (size * (1 - 2 * EDGE) - sides)
    corners = np.concatenate([low, low + sides], 1).astype(int)
    slope = np.hypot(*np.gradient(grey))
    steep = [slope[top:bottom, left:right].mean() for left, top, right, bottom in corners]
    found = dict[str, Box]()
    for kind, number in (("anywhere", 0), ("on the flattest ground", int(np.argmin(steep)))):
        left, top, right, bottom = corners[number].tolist()
        found[kind] = left, top, right, bottom
    return found


def unrelated(searched: Searched, related: set[str]) -> list[float]:
    """The best score of each picture that shares nothing with the query's."""
    best = dict[str, float]()
    for hit in searched.ranked:
        best.setdefault(hit.image, hit.score)
    return [score for name, score in best.items() if name not in related]


def copies(searched: Searched, query: Query) -> list[float]:
    """The best score of a place on each copy; minus infinity where there is none."""
    scores = list[float]()
    for place in query.truth:
        hits = [hit for hit in searched.ranked if hit.image == place.image]
        overlaps = iou(as_boxes([hit.box for hit in hits]), as_boxes([place.box]))[:, 0].tolist()
        scores.append(max((h.score for h, o in zip(hits, overlaps, strict=True) if o > IOU), default=-np.inf))
    return scores


def row_of(kind: str, threshold: str, false: Sequence[int], searched: int, found: Sequence[bool]) -> list[str]:
    """A row of the table: false hits of each box, pictures that were searched in all, and which copies were found."""
    share = f"{100 * np.mean(found):.0f}" if len(found) else ""
    some = f"{100 * np.mean(np.array(false) > 0):.0f}"
    return [f"{len(false)} {kind}", threshold, f"{1000 * sum(false) / searched:.1f}", some, str(max(false)), share]


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds paintings.")] = DATA,
    model: Annotated[str, typer.Option(help="A checkpoint: a name, or a folder.")] = "artminer-paintings",
    paper: Annotated[bool, typer.Option(help="The seven scales of the paper.")] = False,
    difficulty: Annotated[str, typer.Option(help="Of the copies.")] = "medium",
    draw: Annotated[int, typer.Option(help="Of the copies and boxes; settings were chosen on 0.")] = 2,
    categories: Annotated[int, typer.Option(help="Details that are copied, each into three pictures.")] = 6,
    distractors: Annotated[int, typer.Option(help="Pictures without copies.")] = 8,
    verify: Annotated[int, typer.Option(help="Pictures of a search that are looked at closely.")] = 5,
    boxes: Annotated[bool, typer.Option(help="Boxes beside the copied details.")] = True,
) -> None:
    """Print the table."""
    console = Console(width=120)
    if not (data / "paintings").is_dir():
        console.print(f"Skipped: needs the paintings of {data} (--data).")
        return
    torch.set_num_threads(1)
    paintings = folders.split(folders.image_files(data, ["paintings"]))[1]
    options: dict[str, Any] = {"scales": PAPER} if paper else {}
    miner = ArtMiner.from_pretrained(model, device="cpu", **options)
    styles = itertools.cycle([FastStyle.from_pretrained(name, device="cpu") for name in UNSEEN])
    with tempfile.TemporaryDirectory() as scratch:
        made = make_benchmark(
            paintings,
            Path(scratch, "made"),
            categories=categories,
            copies=4,
            distractors=distractors,
            difficulty=difficulty,
            style=partial(restyled, styles),
            seed=draw,
        )
        queries = read_queries(made, made.parent / "images").queries
        held, start, wall = Collection.create(Path(scratch, "features"), miner), time.process_time(), time.monotonic()
        held.add(made.parent / "images", miner)
        each = (time.process_time() - start) / len(held), (time.monotonic() - wall) / len(held)
        console.print(f"To describe a picture: {each[0]:.2f} s of the processor, {each[1]:.2f} s by the clock")
        share = {query.instance.image: {query.instance.image, *(p.image for p in query.truth)} for query in queries}
        headings = ("boxes", "threshold", "false of 1000", "boxes with any, %", "most of one", "copies found, %")
        about = f"{model}, scales {miner.config.scales}, {len(held)} pictures, copies: {difficulty}, draw {draw}"
        table = table_of(about, headings, left=headings[:2])

        def add(kind: str, asked: Sequence[tuple[str, Box]], closely: int, truth: Sequence[Query] = ()) -> None:
            start, wall = time.process_time(), time.monotonic()
            found = [
                miner.search(held.path(name), box, held, query=name, count=10**6, verify=closely) for name, box in asked
            ]
            each = (time.process_time() - start) / len(asked), (time.monotonic() - wall) / len(asked)
            console.print(f"{kind}: {each[0]:.2f} s of the processor a search, {each[1]:.2f} s by the clock")
            false = [unrelated(one, share.get(name, {name})) for one, (name, _) in zip(found, asked, strict=True)]
            scores = [copies(one, query) for one, query in zip(found, truth, strict=False)]
            for words, least in (
                (f"{miner.config.threshold:g}", [miner.config.threshold] * len(found)),
                ("raised by the box", [one.threshold for one in found]),
            ):
                wrong = [sum(s >= t for s in part) for part, t in zip(false, least, strict=True)]
                right = [s >= t for part, t in zip(scores, least, strict=False) for s in part]
                table.add_row(*row_of(kind, words, wrong, sum(map(len, false)), right))

        asked = [(query.instance.image, query.instance.box) for query in queries]
        add("copied details", asked, 0, queries)
        if not paper:
            add("the same, closely", asked, verify, queries)
        if boxes:
            random = np.random.default_rng(draw)
            drawn = {name: drawn_boxes(held.path(name), random) for name in held.names}
            for kind in next(iter(drawn.values())):
                add(kind, [(name, one[kind]) for name, one in drawn.items()], 0)
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
