"""Texture networks: how near to their exemplars, how different from each other, and how fast.

For each checkpoint: sliced Wasserstein distance of patches to the exemplar, beside that of the exemplar's two halves,
below which a difference means little; mean difference of pixels between two samples, beside that of the two halves, far
below which samples would be copies of each other; and the seconds that a texture takes.

    python benchmarks/texture_network.py --data ../shared/data --figure benchmarks/figures/texture_networks.jpg
"""

import statistics
import time
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import ROOT, contact_sheet, table_of
from rich.console import Console

from artmodels import images
from artmodels.hub.checkpoints import WEIGHTS
from artmodels.images.resampling import resized
from artmodels.methods.texture_network import TextureNetwork
from artmodels.methods.texture_synthesis.metrics import sliced_wasserstein_distance

GAP = 8  # px between pictures
SHOWN = 320, 480  # height and width of the textures in the picture
SAMPLES = 4
REPEATS = 5
CHECKPOINTS = ROOT / "weights"


def main(
    data: Annotated[Path, typer.Option(help="Folder of the exemplars that the recipes name.")],
    size: Annotated[int, typer.Option(help="Side of the textures that are timed, in pixels.")] = 512,
    figure: Annotated[Path | None, typer.Option(help="Where to write two textures of each.")] = None,
) -> None:
    """Print distances and seconds."""
    folders = [folder for folder in sorted(CHECKPOINTS.glob("texture-network-*")) if (folder / WEIGHTS).is_file()]
    if not folders:
        raise typer.BadParameter(f"{CHECKPOINTS} holds no texture network yet: python -m weights build NAME")
    table = table_of(
        f"Texture networks on the CPU, {torch.get_num_threads()} threads",
        (
            *("checkpoint", "distance", "of halves", "difference", "of halves"),
            *(f"seconds, {size} px", "MB"),
        ),
    )
    rows = []
    for folder in folders:
        settings = tomllib.loads((folder / "recipe.toml").read_text())["settings"]
        exemplar = images.load(data / settings["exemplar"]).tensor()
        ratio = min(1.0, settings.get("side", 256) / min(exemplar.shape[-2:]))
        height, width = (round(length * ratio) for length in exemplar.shape[-2:])
        exemplar = resized(exemplar, (height, width)).clamp(0, 1)
        halves = exemplar[..., : width // 2], exemplar[..., -(width // 2) :]
        model = TextureNetwork.from_pretrained(folder, device="cpu")
        # Other seeds than those that evaluated the training.
        samples = [model(size=(height, width), seed=100 + k, tileable=False).tensor for k in range(SAMPLES)]
        seconds = []
        for seed in range(REPEATS):
            start = time.perf_counter()
            model(size=(size, size), seed=seed)
            seconds.append(time.perf_counter() - start)
        table.add_row(
            folder.name,
            f"{statistics.mean(sliced_wasserstein_distance(sample, exemplar) for sample in samples):.4f}",
            f"{sliced_wasserstein_distance(*halves):.4f}",
            f"{statistics.mean(float((a - b).abs().mean()) for a, b in pairwise(samples)):.3f}",
            f"{float((halves[0] - halves[1]).abs().mean()):.3f}",
            f"{statistics.median(seconds):.2f}",
            f"{(folder / WEIGHTS).stat().st_size / 1e6:.2f}",
        )
        rows.append([model(size=SHOWN, seed=seed).tensor for seed in range(2)])
    Console(width=120).print(table)
    if figure is not None:
        contact_sheet(rows, gap=GAP).save(figure, quality=88, optimize=True)


if __name__ == "__main__":
    typer.run(main)
