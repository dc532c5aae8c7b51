"""How long feature visualisation takes, and what the analysis finds that tuning changed in art-resnet.

Seconds are those of one core: of the clock, and of the processor, which other work on the machine does not change. The
analysis is the paper's (Gonthier et al. 2020) on art-resnet before and after its tuning to find details again on
paintings, `artminer-paintings`, with every so many pictures of each school.

    python benchmarks/interpret.py
    python benchmarks/interpret.py --figure benchmarks/figures/interpret.jpg
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import DATA, contact_sheet, table_of
from rich.console import Console
from rich.table import Table

from artmodels.data.folders import image_files
from artmodels.descent.optimise import Step
from artmodels.methods.interpret import FeatureVisualizer
from artmodels.methods.interpret.activations import Reading
from artmodels.methods.interpret.comparison import compare
from artmodels.methods.interpret.report import network_of

TIMED = (
    ("interpret-art-vgg", "relu4_1:20"),
    ("interpret-art-resnet", "layer2:5"),
    ("interpret-art-resnet", "layer3:40"),
    ("interpret-art-resnet-phase", "layer3:40"),
)
SHOWN = ("layer2:5", "layer3:2", "layer3:40", "layer3:57")


def main(
    data: Annotated[Path, typer.Option(help="Folder of images, with schools/ in it.")] = DATA,
    steps: Annotated[int, typer.Option(help="Steps that are timed.")] = 12,
    every: Annotated[int, typer.Option(help="Take one picture of so many.")] = 10,
    figure: Annotated[Path | None, typer.Option(help="Write a sheet of pictures instead, of 64 steps each.")] = None,
) -> None:
    """Print seconds, and the analysis where there are pictures; or write a figure."""
    torch.set_num_threads(1)
    if figure is not None:
        rows = [
            [FeatureVisualizer.from_pretrained(name, steps=64, device="cpu")(objective=o).tensor for o in SHOWN]
            for name in ("interpret-art-resnet", "interpret-art-resnet-phase")
        ]
        contact_sheet(rows).save(figure, quality=88)
        return
    console = Console(width=120)
    console.print(seconds(steps))
    if not (data / "schools").is_dir():
        print(f"Skipped: needs the pictures of {data}/schools (--data).")
        return
    console.print(analysis(data, every))


def seconds(steps: int) -> Table:
    """Seconds a step at 224 px."""
    table = table_of(
        "one picture of 224 px, one core",
        ["model", "channel", "first preview, s", "a step, s", "a step, s of CPU", "256 steps, s of CPU"],
        left=("model", "channel"),
    )
    for name, objective in TIMED:
        visualizer = FeatureVisualizer.from_pretrained(name, device="cpu")
        start, first, busy = time.monotonic(), 0.0, 0.0
        for step in visualizer.stream(objective=objective, steps=steps):
            if isinstance(step, Step) and step.index == 1:
                first, busy = time.monotonic() - start, time.process_time()
        wall = (time.monotonic() - start - first) / (steps - 1)
        cpu = (time.process_time() - busy) / (steps - 1)
        table.add_row(name, objective, f"{first:.1f}", f"{wall:.2f}", f"{cpu:.2f}", f"{256 * cpu:.0f}")
    return table


def analysis(data: Path, every: int) -> Table:
    """What tuning changed, layer by layer."""
    files = image_files(data / "schools")[::every]
    labels = {path.as_posix(): path.relative_to(data / "schools").parts[0] for path in files}
    before, after = network_of("art-resnet"), network_of("artminer-paintings")
    found = compare(
        before, after, files, count=50, labels=labels, reading=Reading(resize="squash", side=160), progress=True
    )
    kinds = list(found.cka)
    table = table_of(
        f"art-resnet and artminer-paintings, {len(found.before.names)} pictures of {len(set(labels.values()))} schools",
        ["layer", *(f"CKA, {kind}" for kind in kinds), "kept of the best 50", "entropy before, bits", "after"],
        left=("layer",),
    )
    entropies, overlaps = found.entropies(), found.overlaps()
    for i, tap in enumerate(found.shared):
        values = [f"{float(found.cka[kind][i, i]):.3f}" for kind in kinds]
        bits = [f"{float(side[tap].nanmean()):.2f}" for side in entropies]
        table.add_row(tap, *values, f"{float(overlaps[tap].of_smaller.mean()):.2f}", *bits)
    return table


if __name__ == "__main__":
    typer.run(main)
