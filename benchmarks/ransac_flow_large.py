"""RANSAC-Flow on a pair of 6000 x 4000 pixels: seconds and memory, files included.

python benchmarks/ransac_flow_large.py
"""

import resource
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from artmodels import RansacFlow

PICTURE = Path(__file__).parent.parent / "spaces" / "artminer" / "examples" / "tapestry.jpg"


def main(
    width: Annotated[int, typer.Option(help="Of both pictures, in pixels.")] = 6000,
    height: Annotated[int, typer.Option(help="Of both.")] = 4000,
    threads: Annotated[int, typer.Option(help="Of PyTorch.")] = 1,
) -> None:
    """Align a picture and a part of it, both enlarged, and print what that took."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as scratch:
        whole = Image.open(PICTURE).convert("RGB")
        part = whole.crop((8, 6, whole.width, whole.height))
        files = [Path(scratch, name) for name in ("part.png", "whole.png", "aligned.png")]
        for picture, file in zip((part, whole), files[:2], strict=True):
            picture.resize((width, height)).save(file, compress_level=1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        aligner = RansacFlow.from_pretrained(device="cpu")
        start = time.perf_counter()
        result = aligner(files[0], files[1])
        aligned = time.perf_counter() - start
        result.save(files[2])
        total = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"found: {result.found}, {result.inliers} of {result.matches} matches, {tuple(result.tensor.shape)}")
        print(f"aligned after {aligned:.1f} s, written after {total:.1f} s, {threads} thread(s)")
        print(f"peak memory {peak:.2f} GiB, before {before:.2f} GiB")


if __name__ == "__main__":
    typer.run(main)
