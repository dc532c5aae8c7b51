"""ArtMiner: seconds for a directed pair of pictures, against the method as it is written down.

(a) Matching, votes and RANSAC of a pair at the published size: a reference of 40 x 30 cells with a margin of 3, seven
scales of the target, 1000 hypotheses. Features are synthetic: a smooth field of random directions, of which the target
repeats a part at another scale. Once they share nothing but noise. (b) Features of a picture's pyramid, apart.

    python benchmarks/artminer_pairs.py
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import table_of
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from artmodels import features
from artmodels.correspondence.cells import SCALES, Describer, grid
from artmodels.correspondence.geometry import SAMPLE
from artmodels.correspondence.ransac import draw
from artmodels.methods.artminer.discovery import DiscoveryConfig, discover

sys.path.insert(0, str(Path(__file__).parent))
from artminer_literal import discovery_score

LONGEST, ASPECT = 40, 0.75


def field(rows: int, columns: int, dims: int, *, seed: int) -> Tensor:
    """Features [D, rows, columns] of unit length, not negative as after a ReLU, that neighbours share in part."""
    noise = torch.randn(1, dims, rows + 2, columns + 2, generator=torch.Generator().manual_seed(seed))
    return F.normalize(F.avg_pool2d(noise, 3, 1)[0].relu(), dim=0)


def pair(dims: int, *, shared: bool) -> tuple[Tensor, list[Tensor]]:
    """A reference, and a target that shows its middle 20 x 15 cells at half of each side, or only noise."""
    reference = field(*grid(1, ASPECT, LONGEST), dims, seed=0)
    patch = reference[None, :, 10:30, 8:23]
    target = []
    for number, longest in enumerate(SCALES):
        rows, columns = grid(1, ASPECT, longest)
        features = field(rows, columns, dims, seed=number + 1)
        if shared:
            size = rows // 2, columns // 2
            shown = F.interpolate(patch, size=size, mode="bilinear", antialias=True)[0]
            top, left = rows // 4, columns // 5
            part = features[:, top : top + size[0], left : left + size[1]]
            part.copy_(F.normalize(shown, dim=0) + 0.3 * part)
        target.append(F.normalize(features, dim=0))
    return reference, target


def timed(function: Callable[[], object], repeats: int) -> float:
    """Median of so many runs after one to warm up, in seconds."""
    function()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main(
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 2,
    repeats: Annotated[int, typer.Option(help="Runs of each; the median counts.")] = 7,
    literal: Annotated[bool, typer.Option(help="Whether the literal implementation is measured as well.")] = True,
) -> None:
    """Print seconds a directed pair, their ratio and the difference of the scores."""
    torch.set_num_threads(threads)
    console = Console(width=120)
    table = table_of(
        f"(a) matching, votes and RANSAC of a directed pair, {threads} threads",
        ("features", "pair", "settings", "milliseconds", "literal, ms", "ratio", "score", "difference"),
    )
    for dims in (256, 128, 64):
        for shared in (True, False):
            reference, target = pair(dims, shared=shared)
            as_read = reference.numpy(), [each.numpy() for each in target]
            for name, isotropic in (("ours", True), ("published", False)):
                config = DiscoveryConfig(isotropic=isotropic, gates=isotropic)
                match = discover(reference, target, config)
                ours = timed(partial(discover, reference, target, config), repeats)
                row = [str(dims), "shared part" if shared else "noise", name, f"{ours * 1e3:.1f}"]
                if literal:
                    start = time.perf_counter()
                    expected = discovery_score(
                        *as_read,
                        lambda count: draw(count, SAMPLE["affine"], 1000, 0).numpy(),
                        isotropic=isotropic,
                        gates=isotropic,
                    )
                    plain = time.perf_counter() - start
                    row += [f"{plain * 1e3:.0f}", f"{plain / ours:.1f}", f"{match.score:.5f}"]
                    row += [f"{abs(match.score - expected.score):.1e}"]
                else:
                    row += ["", "", f"{match.score:.5f}", ""]
                table.add_row(*row)
    console.print(table)

    describer = Describer(features.load("art-resnet"), "layer3")
    image = torch.rand(1, 3, 1280, 960, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        pyramid = timed(lambda: describer.pyramid(image), 1)
        reference_map = timed(lambda: describer(image, *grid(1280, 960, LONGEST)), 1)
    console.print(
        f"(b) features of a picture of 960 x 1280 pixels with art-resnet: {pyramid:.2f} s for the seven scales, "
        f"{reference_map:.2f} s for the reference's"
    )


if __name__ == "__main__":
    typer.run(main)
