"""Measure the magnitude spectrum of natural pictures, which `Phase` keeps: run as a module, it writes spectrum.json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn import functional as F

from artmodels.data import folders
from artmodels.errors import ArtModelsError
from artmodels.files import write_whole
from artmodels.methods.interpret.activations import Reading, stream_batches
from artmodels.methods.interpret.visualisation.parametrisation import COLOURS, NODES, SPECTRUM, frequencies

__all__ = ["measure", "on_nodes"]


def measure(files: Sequence[Path], side: int = 256) -> tuple[Tensor, int]:
    """The mean spectrum of pictures in decorrelated colours, magnitudes [3, side, side // 2 + 1], and their number.

    The middle of each is taken, less its mean, under a Hann window: without one, the jump from each edge to the one
    opposite, which no picture shows, would add a cross to the spectrum.
    """
    window = torch.hann_window(side, periodic=True)
    window = torch.outer(window, window)
    total, count = torch.zeros(3, side, side // 2 + 1, dtype=torch.float64), 0
    for _, names, batch in stream_batches(files, Reading(side=side), {}):
        plain = torch.einsum("ij,njhw->nihw", torch.linalg.inv(COLOURS), batch)
        spectra = torch.fft.rfft2((plain - plain.mean((2, 3), keepdim=True)) * window, norm="ortho")
        total += spectra.abs().double().sum(0)
        count += len(names)
    return total / max(count, 1), count


def on_nodes(magnitude: Tensor) -> Tensor:
    """Frequency times magnitude, of [3, side, side // 2 + 1], at the nodes of the stored grid: [3, NODES, NODES]."""
    side = magnitude.shape[1]
    flat = (magnitude * frequencies(side, side)).float()
    # Rows of positive frequencies, each the mean of a frequency and its mirror image.
    half = side // 2
    flat = (flat[:, : half + 1] + flat[:, [0, *range(side - 1, half - 1, -1)]]) / 2
    flat[:, 0, 0] = (flat[:, 0, 1] + flat[:, 1, 0]) / 2  # 0 by definition, where there is no frequency
    nodes = torch.linspace(0, 1, NODES) ** 2 * 2 - 1
    grid = torch.stack([nodes.expand(NODES, -1), nodes[:, None].expand(-1, NODES)], -1)
    return F.grid_sample(flat[None], grid[None], align_corners=True)[0]


def main(sources: Annotated[list[Path], typer.Argument(help="Folders of pictures.")], side: int = 256) -> None:
    """Measure the spectrum of the pictures of some folders, and store it beside this module."""
    try:
        files = [file for source in sources for file in folders.image_files(source)]
        magnitude, count = measure(files, side)
        flat = on_nodes(magnitude)
        about = {"pictures": count, "side": side, "sha256": folders.fingerprint(files)}
        numbers = [float(f"{value:.4g}") for value in (flat / flat.max()).flatten().tolist()]
        write_whole({SPECTRUM: json.dumps(about | {"flat": numbers}) + "\n"})
    except ArtModelsError as error:
        typer.echo(f"artmodels: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{SPECTRUM.name}: {count} pictures")


if __name__ == "__main__":
    typer.run(main)
