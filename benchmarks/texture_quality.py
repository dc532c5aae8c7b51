"""How close textures come to their exemplar: sliced Wasserstein distance on brick, gravel and grass of scikit-image.

Compares the default, matching of patches, with Gram matrices of random filters (Ustyuzhaninov et al. 2016), the other
way that needs no weights; with two halves of the exemplar; and with the exemplar itself, moved by a third of its side
and wrapped around, than which no texture of it is better. Writes the pictures side by side.

    python benchmarks/texture_quality.py --size 256 --figure benchmarks/figures/textures.jpg
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import contact_sheet, table_of
from rich.console import Console

import artmodels
from artmodels import images
from artmodels.images.examples import example
from artmodels.images.resampling import resized
from artmodels.methods.texture_synthesis.metrics import sliced_wasserstein_distance

NAMES = ("brick", "gravel", "grass")


def main(
    size: Annotated[int, typer.Option(help="Side of exemplar and result in pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="Of the syntheses.")] = 0,
    figure: Annotated[Path | None, typer.Option(help="Where to write the pictures side by side.")] = None,
) -> None:
    """Print distances and seconds."""
    headings = ("exemplar", "its halves", "itself, moved", "random filters", "patches", "ratio", "seconds", "seconds ")
    table = table_of(
        f"Sliced Wasserstein distance to the exemplar, {size} px, {torch.get_num_threads()} threads", headings
    )
    rows = []
    methods = [artmodels.load("texture-patches"), artmodels.load("texture-random-filters")]
    for name in NAMES:
        exemplar = resized(images.load(example(name, 512)).tensor(), (size, size)).clamp(0, 1)
        halves = sliced_wasserstein_distance(exemplar[..., : size // 2], exemplar[..., -(size // 2) :])
        moved = sliced_wasserstein_distance(exemplar.roll((size // 3, size // 3), (2, 3)), exemplar)
        pictures, distances, seconds = [exemplar], [], []
        for method in methods:
            start = time.perf_counter()
            result = method(exemplar, size=(size, size), seed=seed, progress=True).tensor
            seconds.append(time.perf_counter() - start)
            distances.append(sliced_wasserstein_distance(result, exemplar))
            pictures.append(result)
        ours, filters = distances
        table.add_row(
            name,
            f"{halves:.4f}",
            f"{moved:.4f}",
            f"{filters:.4f}",
            f"{ours:.4f}",
            f"{ours / filters:.2f}",
            f"{seconds[1]:.0f}",
            f"{seconds[0]:.0f}",
        )
        rows.append(pictures)
    Console(width=120).print(table)
    if figure is not None:
        contact_sheet(rows, gap=8).save(figure, quality=88, optimize=True)


if __name__ == "__main__":
    typer.run(main)
