"""ArtMiner's one-shot search on copies of details with known places: networks, and what ranks places.

Details are cut from paintings that no network was trained on and copied into others: blended, scaled, bent, mirrored,
recoloured, engraved, or restyled by two styles that none of them was trained to withstand, at two difficulties. Mean
over categories of the average precision of all instances as queries (IoU > 0.3), in per cent. Ranked by the cosine; by
"verified", the mean of it and of the discovery score of the detail and the place, which is not published; and by the
discovery score of the detail and the whole picture. With `--folder DIR` and `--queries FILE` the same for the user's
own download of Brueghel.

    python benchmarks/artminer.py
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import table_of
from PIL import Image
from rich.console import Console

from artmodels import features
from artmodels.data import folders
from artmodels.features import teachers
from artmodels.features.extractor import FeatureExtractor
from artmodels.methods.artminer import ArtMiner, ArtMinerConfig, Collection
from artmodels.methods.artminer.evaluation.brueghel import By, read_queries, stream_one_shot
from artmodels.methods.artminer.evaluation.copies import make_benchmark
from artmodels.methods.fast_style import FastStyle
from artmodels.progress import result_of

SHARED = Path(__file__).parent.parent.parent / "shared"
EARLIER = Path(__file__).parent.parent / "weights" / "earlier"
UNSEEN = (EARLIER / "fast-style-scream", EARLIER / "fast-style-ink")
QUICK, PAPER = (49, 36, 28, 20), (80, 74, 68, 60, 49, 36, 20)
LEVELS, MODELS = ["medium", "hard"], ["artminer-paintings"]  # all find the easy ones
ORDERS: tuple[By, ...] = ("cosine", "verified", "discovery")


class Restyled:
    """Redraws pictures in turn in the manner of two styles."""

    def __init__(self) -> None:
        """Load them."""
        self.models = [FastStyle.from_pretrained(name, device="cpu") for name in UNSEEN]
        self.count = 0

    def __call__(self, picture: Image.Image) -> Image.Image:
        """Redraw one."""
        self.count += 1
        return self.models[self.count % 2](picture).image


def networks(teachers_folder: Path, models: list[str], scales: tuple[int, ...]) -> Iterator[tuple[str, ArtMiner]]:
    """What is compared, by name."""

    def untrained(backbone: FeatureExtractor) -> ArtMiner:
        return ArtMiner(ArtMinerConfig(scales=scales), backbone=backbone, device="cpu")

    if teachers_folder.is_dir():
        yield "ResNet-50 v2, ImageNet", untrained(teachers.load(teachers.RESNET, teachers_folder))
    yield "art-resnet", untrained(features.load("art-resnet"))
    for name in models:
        yield name, ArtMiner.from_pretrained(name, device="cpu", scales=scales)


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds paintings.")] = SHARED / "data",
    teachers_folder: Annotated[Path, typer.Option("--teachers", help="Folder of the ResNet-50.")] = SHARED / "teachers",
    model: Annotated[list[str], typer.Option(help="Checkpoints; repeat for more.")] = MODELS,
    difficulty: Annotated[list[str], typer.Option(help="Repeat for more.")] = LEVELS,
    paper: Annotated[bool, typer.Option(help="The seven scales of the paper instead of four.")] = False,
    queries: Annotated[Path | None, typer.Option(help="A JSON file of queries, such as brueghelTest.json.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Its images.")] = None,
    seed: Annotated[int, typer.Option(help="Of the copies; settings were chosen with 0.")] = 1,
    threads: Annotated[int, typer.Option(help="Of PyTorch; 0 keeps its own number.")] = 0,
) -> None:
    """Print the table."""
    if threads:
        torch.set_num_threads(threads)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as scratch:
        sets = list[tuple[str, Path, Path]]()
        if queries is not None and folder is not None:
            sets.append((queries.stem, queries, folder))
        elif not (data / "paintings").is_dir():
            console.print(f"Skipped: needs the paintings of {data} (--data).")
            return
        else:
            unseen = folders.split(folders.image_files(data, ["paintings"]))[1]
            for name in difficulty:
                made = make_benchmark(
                    unseen,
                    Path(scratch, name),
                    categories=6,
                    copies=5,
                    difficulty=name,
                    style=Restyled(),
                    seed=seed,
                )
                sets.append((name, made, made.parent / "images"))
        table = table_of(
            "mean average precision over categories, %",
            ("network", "ranked by", *(name for name, _, _ in sets), "seconds"),
            left=("network", "ranked by"),
        )
        for title, miner in networks(teachers_folder, model, PAPER if paper else QUICK):
            cells: dict[By, list[str]] = {by: [] for by in ORDERS}
            seconds = dict.fromkeys(ORDERS, 0.0)
            for name, file, pictures in sets:
                asked = read_queries(file, pictures)
                held = Collection.create(Path(scratch, f"{title}-{name}"), miner)
                held.add(pictures, miner)
                for by in ORDERS:
                    start = time.perf_counter()
                    scores = result_of(stream_one_shot(miner, asked, held, held.path, by=by))
                    seconds[by] += time.perf_counter() - start
                    cells[by].append(f"{100 * scores.category_mean:.1f}")
            for by in ORDERS:
                table.add_row(title, by, *cells[by], f"{seconds[by]:.0f}")
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
