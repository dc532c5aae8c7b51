"""RANSAC-Flow's coarse stage: accuracy and seconds, against the method as it is written down and against OpenCV.

(a) 1000 matches, of which 30 % follow a planted homography with a noise of 1 px at 480 px; 10 000 samples. "as written"
solves each sample by the singular value decomposition of its equations, 100 samples at a time, and counts inliers.
(b) The same on real matches: paintings of a folder, warped by such homographies, with art-resnet's cells at 480 px.
(c) Seconds of the coarse stage.

CPU times are those of all threads together: on a busy machine they say more than the clock.

    python benchmarks/ransac.py --threads 1 --folder /folder/with/paintings
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from common import table_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from artmodels import features, images
from artmodels.correspondence.geometry import apply, corner_error, from_pixels, grid_of, plausible, sample
from artmodels.correspondence.ransac import RansacConfig, ransac
from artmodels.images.resampling import resized
from artmodels.methods.ransac_flow.coarse import Coarse, CoarseConfig, CoarseFit
from artmodels.runtime.devices import generator

SIZE = (480, 480)
Method = Callable[[Tensor, Tensor, int], Tensor | None]


def as_written(target: Tensor, source: Tensor, seed: int, *, tolerance: float) -> Tensor | None:
    """10 000 homographies of four points by decomposition, 100 at a time, and the one with most inliers."""
    first, second = (np.c_[each.numpy(), np.ones(len(each))].astype(np.float32) for each in (source, target))
    samples = np.random.default_rng(seed).integers(len(first), size=(10_000, 4))
    ordered = np.sort(samples, 1)
    samples = samples[(ordered[:, 1:] != ordered[:, :-1]).all(1)]
    best, most = None, 0
    for start in range(0, len(samples), 100):
        some = samples[start : start + 100]
        x, y = second[some], first[some]  # [n, 4, 3]
        zero = np.zeros_like(x)
        upper = np.concatenate([x, zero, -y[..., :1] * x], 2)
        lower = np.concatenate([zero, x, -y[..., 1:2] * x], 2)
        matrices = np.linalg.svd(np.concatenate([upper, lower], 1).astype(np.float64))[2][:, 8].reshape(-1, 3, 3)
        moved = torch.from_numpy(second) @ torch.from_numpy(matrices).float().mT
        error = (moved[..., :2] / moved[..., 2:] - torch.from_numpy(first)[:, :2]).norm(dim=2)
        count = (error < tolerance).sum(1) * (torch.det(torch.from_numpy(matrices)) > 1e-6)
        if int(count.max()) > most:
            most, best = int(count.max()), matrices[int(count.argmax())]
    return None if best is None else torch.from_numpy(best / best[2, 2])


def ours(target: Tensor, source: Tensor, seed: int, *, tolerance: float) -> Tensor | None:
    """The library's."""
    return ransac(target, source, RansacConfig(tolerance=tolerance, seed=seed)).matrix


def opencv(target: Tensor, source: Tensor, seed: int, *, tolerance: float, method: int) -> Tensor | None:
    """OpenCV's, in pixels of 480 x 480."""
    cv2.setRNGSeed(seed)
    there, here = (((points.numpy() + 1) * 240 - 0.5).astype(np.float64) for points in (target, source))
    found, _ = cv2.findHomography(there, here, method, tolerance * 240, maxIters=10_000, confidence=0.9999)
    return None if found is None else from_pixels(torch.from_numpy(found), SIZE, SIZE)


def methods() -> dict[str, Method]:
    """By name, with the paper's tolerance, and with one that suits a noise of 1 px."""
    found: dict[str, Method] = {}
    for tolerance in (0.05, 0.0125):
        unit = f"{tolerance * 240:g} px"
        found |= {
            f"as written, {unit}": partial(as_written, tolerance=tolerance),
            f"artmodels, {unit}": partial(ours, tolerance=tolerance),
            f"OpenCV RANSAC, {unit}": partial(opencv, tolerance=tolerance, method=cv2.RANSAC),
            f"OpenCV USAC_MAGSAC, {unit}": partial(opencv, tolerance=tolerance, method=cv2.USAC_MAGSAC),
        }
    return found


def homography(seed: int) -> Tensor:
    """A turn of up to 23 degrees, a scale from 0.6 to 1.7, and some of everything else."""
    source = generator(seed)
    while True:
        angle, octaves = (float(each) for each in torch.rand(2, generator=source) - 0.5)
        scale, angle = 2 ** (1.5 * octaves), 0.8 * angle
        turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float64)
        matrix = torch.eye(3, dtype=torch.float64)
        matrix[:2, :2] = scale * turn
        spread = torch.tensor([[0.1, 0.1, 0.2], [0.1, 0.1, 0.2], [0.08, 0.08, 0]], dtype=torch.float64)
        matrix += spread * torch.randn(3, 3, generator=source, dtype=torch.float64)
        if plausible(matrix):
            return matrix


def planted(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A homography, and matches of which 30 % follow it."""
    source, truth = generator(seed + 10_000), homography(seed)
    target, anywhere = 2 * torch.rand(2, 1000, 2, generator=source, dtype=torch.float64) - 1
    moved = apply(truth, target) + torch.randn(1000, 2, generator=source, dtype=torch.float64) / 240
    good = torch.rand(1000, generator=source) < 0.3
    return truth, target, torch.where(good[:, None], moved, anywhere)


def painted(folder: Path, count: int, coarse: Coarse) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Homographies, and the matches of paintings with what those make of them."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".jpg", ".png"})
    found = []
    for number, path in enumerate(files[:: max(1, len(files) // count)][:count]):
        image = images.load(path).tensor()
        height, width = (round(side * 700 / min(image.shape[2:])) for side in image.shape[2:])
        image = resized(image, (height, width)).clamp(0, 1)
        truth = homography(1000 + number)
        target = sample(image, grid_of(truth, height, width))
        matches = coarse.matches(coarse.describe(image), coarse.describe(target))
        found.append((truth, matches.target, matches.source))
    return found


def compare(title: str, pairs: list[tuple[Tensor, Tensor, Tensor]], *, failed: float) -> Table:
    """Errors and seconds of all methods on the same matches."""
    table = table_of(
        f"{title}: mean corner error in px of 480 x 480",
        ("method", "median", "95 %", f"> {failed:g} px", "none", "ms", "CPU ms"),
        left=("method",),
    )
    for name, method in methods().items():
        method(*pairs[0][1:], 0)
        errors, seconds, busy = list[float](), list[float](), list[float]()
        for seed, (truth, target, source) in enumerate(pairs):
            start = time.perf_counter(), time.process_time()
            matrix = method(target, source, seed)
            seconds.append(time.perf_counter() - start[0])
            busy.append(time.process_time() - start[1])
            errors.append(np.inf if matrix is None else corner_error(matrix, truth, SIZE))
        table.add_row(
            name,
            *(f"{value:.2f}" for value in np.percentile(errors, (50, 95), method="higher")),
            f"{sum(error > failed for error in errors)} of {len(errors)}",
            str(sum(error == np.inf for error in errors)),
            f"{1000 * statistics.median(seconds):.1f}",
            f"{1000 * statistics.median(busy):.1f}",
        )
    return table


def parts(coarse: Coarse, width: int, height: int, repeats: int) -> list[float]:
    """Seconds for the source's features, the target's, matches, RANSAC and all of them, a second look, CPU seconds.

    Each is the least of the runs.
    """
    image = resized(torch.rand(1, 3, height // 8, width // 8, generator=generator(0)), (height, width)).clamp(0, 1)
    runs = []
    for _ in range(repeats + 1):
        source, target = coarse.describe(image), coarse.describe(image)
        busy, marks = time.process_time(), [time.perf_counter()]
        for factor in coarse.factors:
            coarse.map(source, "", factor)
        marks.append(time.perf_counter())
        coarse.map(target)
        marks.append(time.perf_counter())
        matches = coarse.matches(source, target)
        marks.append(time.perf_counter())
        fit = ransac(matches.target, matches.source)
        marks.append(time.perf_counter())
        coarse.again(source, target, CoarseFit(fit, "", matches, coarse.factors))
        marks.append(time.perf_counter())
        steps = np.diff(marks)
        runs.append([*steps[:-1], marks[-2] - marks[0], steps[-1], time.process_time() - busy])
    return [float(each) for each in np.min(runs[1:], 0)]


def main(
    threads: Annotated[int, typer.Option(help="Of PyTorch and OpenCV.")] = 1,
    seeds: Annotated[int, typer.Option(help="Planted homographies.")] = 100,
    folder: Annotated[Path | None, typer.Option(help="With paintings; left out, (b) is.")] = None,
    paintings: Annotated[int, typer.Option(help="Pictures of the folder.")] = 40,
    repeats: Annotated[int, typer.Option(help="Runs of the coarse stage.")] = 3,
) -> None:
    """Print the tables."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    console = Console()
    console.print(f"PyTorch {torch.__version__}, OpenCV {cv2.__version__}, {threads} thread(s)")
    console.print(compare("(a) planted", [planted(seed) for seed in range(seeds)], failed=2))
    backbone = features.load("art-resnet", until="layer3")
    if folder is not None:
        console.print(compare("(b) paintings", painted(folder, paintings, Coarse(backbone)), failed=24))
    table = table_of(
        "(c) seconds of the coarse stage, least of the runs",
        (
            "picture",
            "R",
            "scales",
            "source",
            "target",
            "matches",
            "RANSAC",
            "all",
            "second look",
            "CPU seconds",
        ),
    )
    for width, height in ((640, 480), (480, 360)):
        for reach, steps in ((2.0, 3), (1.2, 3), (2.0, 1)):
            config = CoarseConfig(side=height, reach=reach, steps=steps)
            found = parts(Coarse(backbone, config=config), width, height, repeats)
            cells = (f"{each:.3f}" for each in found)
            table.add_row(f"{width} x {height}", f"{reach:g}", str(2 * steps + 1), *cells)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
