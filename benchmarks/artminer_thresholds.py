"""ArtMiner: from which score a place is shown, and above which score two pictures are linked.

Paintings that no network was trained on, and copies of details in some of them:
`artmodels.methods.artminer.evaluation.copies`. A search is one detail looked for in one picture. It is false where the
two share nothing and a place is shown all the same; a planted copy is found where a place that is shown lies on it (IoU
> 0.3). Of pairs, it is false to link two pictures that share nothing. For each rate of false ones the least threshold
is chosen on some draws and measured on others.

    python benchmarks/artminer_thresholds.py

`threshold` and `pair_threshold` of a checkpoint are the rows of this table for the rates `USED`.
"""

import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from common import table_of
from PIL import Image
from rich.console import Console

from artmodels.data import folders
from artmodels.detections.boxes import as_boxes, iou
from artmodels.methods.artminer import ArtMiner, Collection
from artmodels.methods.artminer.evaluation.brueghel import IOU, Query, read_queries
from artmodels.methods.artminer.evaluation.copies import make_benchmark
from artmodels.methods.fast_style import FastStyle

SHARED = Path(__file__).parent.parent.parent / "shared"
EARLIER = Path(__file__).parent.parent / "weights" / "earlier"
UNSEEN = (EARLIER / "fast-style-scream", EARLIER / "fast-style-ink")  # styles that no network was trained to withstand
QUICK, PAPER = (49, 36, 28, 20), (80, 74, 68, 60, 49, 36, 20)
CATEGORIES, COPIES, DISTRACTORS = 6, 4, 16
RATES = (100, 50, 20, 10, 5, 2)
USED = {"details": 2, "pairs": 10}  # the rates whose thresholds are used; pairs are many, and few copies pass
STEPS = {"details": 100, "pairs": 1000}  # a threshold is a whole number of these


class Scores(NamedTuple):
    """Of what shares nothing, and of planted copies; -inf where a copy was not found at all."""

    false: list[float]
    true: list[float]

    def threshold(self, rate: float, steps: int) -> float:
        """The least, in whole steps, at which no more than `rate` of 1000 false ones are shown."""
        ordered = sorted(self.false, reverse=True)
        return math.floor(ordered[int(rate * len(ordered) / 1000)] * steps + 1) / steps

    def above(self, threshold: float) -> tuple[float, float]:
        """False ones of 1000, and the share of the copies, from a threshold on."""
        false, true = (sum(score >= threshold for score in scores) / len(scores) for scores in self)
        return 1000 * false, true


def details(miner: ArtMiner, queries: Sequence[Query], held: Collection) -> Scores:
    """Search every detail in every picture."""
    found = Scores([], [])
    for query in queries:
        asked = query.instance
        searched = miner.search(held.path(asked.image), asked.box, held, query=asked.image, count=10**6, verify=0)
        truth = {place.image: place.box for place in query.truth}
        for name in held.names:
            hits = [hit for hit in searched.ranked if hit.image == name]
            if name in truth:
                overlaps = iou(as_boxes([hit.box for hit in hits]), as_boxes([truth[name]]))[:, 0]
                scores = (hit.score for hit, overlap in zip(hits, overlaps.tolist(), strict=True) if overlap > IOU)
                found.true.append(max(scores, default=-math.inf))
            elif name != asked.image:
                found.false.append(max((hit.score for hit in hits), default=-math.inf))
    return found


def pairs(miner: ArtMiner, queries: Sequence[Query], held: Collection) -> Scores:
    """Compare every picture with every other."""
    category = {query.instance.image: query.category for query in queries}
    scores = {frozenset((pair.first, pair.second)): pair.match.score for pair in miner.pairs(held)}
    found = Scores([], [])
    for one, other in itertools.combinations(held.names, 2):
        related = one in category and category.get(one) == category.get(other)
        (found.true if related else found.false).append(scores.get(frozenset((one, other)), 0.0))
    return found


def restyled(styles: Iterator[FastStyle], picture: Image.Image) -> Image.Image:
    """A picture in the manner of the next style."""
    return next(styles)(picture).image


def drawn(miner: ArtMiner, paintings: list[Path], seeds: Sequence[int], difficulty: str) -> dict[str, Scores]:
    """Scores on some draws."""
    found = {kind: Scores([], []) for kind in STEPS}
    for seed in seeds:
        styles = itertools.cycle([FastStyle.from_pretrained(name, device="cpu") for name in UNSEEN])
        with tempfile.TemporaryDirectory() as scratch:
            file = make_benchmark(
                paintings,
                Path(scratch, "made"),
                categories=CATEGORIES,
                copies=COPIES,
                distractors=DISTRACTORS,
                difficulty=difficulty,
                style=partial(restyled, styles),
                seed=seed,
            )
            queries = read_queries(file, file.parent / "images").queries
            held = Collection.create(Path(scratch, "features"), miner)
            held.add(file.parent / "images", miner)
            for kind, measure in (("details", details), ("pairs", pairs)):
                for known, new in zip(found[kind], measure(miner, queries, held), strict=True):
                    known += new
    return found


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds paintings.")] = SHARED / "data",
    model: Annotated[str, typer.Option(help="A checkpoint: a name, or a folder.")] = "artminer-paintings",
    paper: Annotated[bool, typer.Option(help="The seven scales of the paper instead of the four of the page.")] = False,
    difficulty: Annotated[str, typer.Option(help="Of the copies.")] = "medium",
    choose: Annotated[list[int], typer.Option(help="Draws that thresholds are chosen on; repeat for more.")] = [0],  # noqa: B006
    report: Annotated[list[int], typer.Option(help="Draws that they are measured on; repeat for more.")] = [2],  # noqa: B006
) -> None:
    """Print the table."""
    console = Console(width=120)
    if not (data / "paintings").is_dir():
        console.print(f"Skipped: needs the paintings of {data} (--data).")
        return
    torch.set_num_threads(1)
    paintings = folders.split(folders.image_files(data, ["paintings"]))[1]
    miner = ArtMiner.from_pretrained(model, device="cpu", scales=PAPER if paper else QUICK)
    chosen, measured = (drawn(miner, paintings, seeds, difficulty) for seeds in (choose, report))
    table = table_of(
        f"{model}, {len(miner.config.scales)} scales, views {miner.views}, copies: {difficulty}",
        ("of", "false of 1000, at most", "threshold", "false of 1000", "copies found, %"),
        left=("of",),
    )
    for kind, steps in STEPS.items():
        for rate in RATES:
            threshold = chosen[kind].threshold(rate, steps)
            false, true = measured[kind].above(threshold)
            mark = " *" if rate == USED[kind] else ""
            table.add_row(kind + mark, str(rate), f"{threshold:g}", f"{false:.1f}", f"{100 * true:.0f}")
        table.add_row(kind, "", "", f"of {len(measured[kind].false)}", f"of {len(measured[kind].true)}")
    console.print(table)
    console.print(f"Chosen on draws {choose}, measured on draws {report}; * are the thresholds that are used.")


if __name__ == "__main__":
    typer.run(main)
