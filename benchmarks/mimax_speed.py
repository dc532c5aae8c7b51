"""MI-max: how much faster than a plain loop, and what it takes at the size of IconArt.

(a) All classes and restarts at once against one autograd descent for each class and restart, of the same loss from the
same first vectors, at a moderate size. (b) Seconds and peak memory on synthetic features, 3 000 bags of 300 instances
with 2 048 numbers, float16 in a memory-mapped file, 7 classes, 12 restarts; mini-batches, and, at the small size of 300
bags, also what full batches give and take.

    python benchmarks/mimax_speed.py --size small
    python benchmarks/mimax_speed.py --size full --folder /folder/with/4/GB
"""

import tempfile
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import Peak, table_of
from rich.console import Console
from torch import Tensor

from artmodels.methods.mimax import Bags, MIMax
from artmodels.methods.mimax.model import MIMaxObjective, Scaling, balanced, descend, initial
from artmodels.methods.mimax.pipeline import MIMaxConfig

CLASSES, RESTARTS = 7, 12


class Size(StrEnum):
    """What (b) measures."""

    SMALL = "small"
    FULL = "full"


SIZES = {Size.SMALL: (300, 300, 2048), Size.FULL: (3000, 300, 2048)}


def synthetic(file: Path, bags: int, instances: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Write non-negative features [B, K, M] as float16 and return labels [B, C].

    Like those after a ReLU: sparse, of uneven mean. A class has a direction of its own, added to one to three instances
    of its positive bags, a quarter of all.
    """
    random = np.random.default_rng(seed)
    store = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(bags, instances, width))
    labels = random.random((bags, CLASSES)) < 0.25
    labels[0], labels[1] = True, False
    level = random.gamma(2.0, 0.25, width).astype(np.float32)
    directions = random.gamma(0.3, 1.0, (CLASSES, width)).astype(np.float32) * level
    for number in range(bags):
        block = random.standard_normal((instances, width), dtype=np.float32)
        # Regions of an image overlap: they share most of what they show.
        block = (0.7 * block + 0.7 * block[:20][random.integers(0, 20, instances)]) * level
        for each in np.flatnonzero(labels[number]):
            where = random.integers(0, instances, random.integers(1, 4))
            block[where] += directions[each] * random.uniform(0.5, 1.0)
        store[number] = np.maximum(block, 0)
    store.flush()
    return labels.astype(np.int64)


def plain(bags: list[Tensor], signs: Tensor, vectors: Tensor, bias: Tensor, *, steps: int, rate: float) -> Tensor:
    """Eq. 1 for each class and restart by itself, with autograd and a loop over bags; returns the final losses [P]."""
    finals = []
    for problem in range(len(vectors)):
        w, b = vectors[problem, 0].clone().requires_grad_(), bias[problem, 0].clone().requires_grad_()
        weights = balanced(signs[:, problem : problem + 1])[:, 0]

        def loss(w: Tensor = w, b: Tensor = b, weights: Tensor = weights) -> Tensor:
            best = torch.stack([(bag @ w + b).max() for bag in bags])
            return (weights * best.tanh()).sum() + w.square().sum()

        for _ in range(steps):
            slopes = torch.autograd.grad(loss(), (w, b))
            with torch.no_grad():
                w -= rate * slopes[0]
                b -= rate * slopes[1]
        finals.append(loss().detach())
    return torch.stack(finals)


def against_plain(console: Console) -> None:
    """(a): the same steps, so the same result."""
    random = torch.Generator().manual_seed(0)
    instances = torch.randn(300 * 50, 256, generator=random)
    bags = Bags(instances, torch.full((300,), 50))
    labels = torch.where(torch.rand(300, CLASSES, generator=random) < 0.3, 1, -1)
    signs = labels.repeat_interleave(RESTARTS, 1)
    problems, steps, rate = CLASSES * RESTARTS, 4, 0.01
    vectors, bias = initial(problems, 1, 256, deviation=1 / 16, seed=0)
    start = time.perf_counter()
    slow = plain(list(bags), signs, vectors, bias, steps=steps, rate=rate)
    middle = time.perf_counter()
    problem = MIMaxObjective(bags, balanced(signs), torch.ones(problems), scaling=Scaling.of(bags, standardize=False))
    plan = MIMaxConfig(optimiser="gd", learning_rate=rate, iterations=steps, scan_every=1).descent(0)
    for _ in descend(problem, vectors, bias, plan):
        pass
    fast = problem(vectors, bias).total
    end = time.perf_counter()
    console.print(
        f"(a) 300 bags x 50 x 256, {CLASSES} classes x {RESTARTS} restarts, {steps} steps of plain descent: one by one "
        f"{middle - start:.2f} s, at once {end - middle:.2f} s: {(middle - start) / (end - middle):.0f} times as fast; "
        f"losses differ by at most {float((slow - fast).abs().max()):.1e}"
    )


def main(
    size: Annotated[Size, typer.Option(help="Of (b): 300 or 3000 bags.")] = Size.SMALL,
    folder: Annotated[Path | None, typer.Option(help="Where the synthetic store goes; it is removed again.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    others: Annotated[
        bool | None, typer.Option(help="Also full batches, which take long; by default at the small size only.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Of PyTorch; 0 keeps its own number.")] = 0,
) -> None:
    """Print ratio, seconds, memory and losses."""
    if threads:
        torch.set_num_threads(threads)
    console = Console(width=120)
    against_plain(console)
    shape = SIZES[size]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch, "features.npy")
        labels = synthetic(file, *shape)
        store = np.load(file, mmap_mode="r")
        title = f"(b) {' x '.join(map(str, shape))} float16, {CLASSES} classes x {RESTARTS} restarts, {device}, "
        table = table_of(
            title + f"{torch.get_num_threads()} threads",
            ("settings", "seconds", "peak memory, MiB", "data term", "loss", "worst class"),
        )
        settings: list[dict[str, Any]] = [{"batch_size": shape[0] // 10, "iterations": 20}]
        if size is Size.SMALL if others is None else others:
            settings += [{"iterations": 100}, {"iterations": 100, "scan_every": 1}]
        for options in settings:
            model = MIMax(device=device, **options)
            start = time.perf_counter()
            with Peak() as peak:
                model.fit(Bags.of(store), labels)
            seconds = time.perf_counter() - start
            terms = model.data_term_
            total = terms + np.square(model.coef_).sum(2).mean(1)
            table.add_row(
                ", ".join(f"{name} {value}" for name, value in options.items()),
                f"{seconds:.1f}",
                f"{peak.mib:.0f}",
                f"{terms.mean():.4f}",
                f"{total.mean():.4f}",
                f"{total.max():.4f}",
            )
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
