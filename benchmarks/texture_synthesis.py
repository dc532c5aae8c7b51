"""Texture synthesis against the plain way to do it: seconds to the same loss, in one run, and the memory of each.

The plain way is the usual script: a stack of Conv2d, ReLU and AvgPool2d, Gram matrices, and torch's own L-BFGS from
noise at full size. Ours goes through `TextureSynthesizer` with the same weights, the same loss and the same exemplar.
Both see the features of a VGG-19 with seeded random weights, because no trained one comes with the project; the time of
a step does not depend on the values of the weights.

    python benchmarks/texture_synthesis.py --sizes 256,512 --steps 100
"""

import resource
import subprocess
import sys
import time
from typing import Annotated

import numpy as np
import skimage.data
import torch
import typer
from common import table_of
from rich.console import Console
from torch import Tensor, nn

from artmodels import features
from artmodels.descent.method import LAYERS
from artmodels.descent.optimise import Step
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.stages import Convolution
from artmodels.images.resampling import resized
from artmodels.methods.texture_synthesis import TextureConfig, TextureSynthesizer

TAPS = LAYERS["vgg"]
CONFIG = TextureConfig(features="vgg19", loss="gram", optimiser="lbfgs", rate=0.02, per_octave=1, halvings=0)


def exemplar(size: int) -> Tensor:
    """scikit-image's gravel, [1, 3, size, size]."""
    grey = torch.from_numpy(np.asarray(skimage.data.gravel())).float() / 255  # type: ignore[no-untyped-call]
    return resized(grey.expand(1, 3, *grey.shape), (size, size)).clamp(0, 1)


def extractor() -> FeatureExtractor:
    """VGG-19 down to pool4 with seeded random weights."""
    return features.build("vgg19", until=TAPS[-1], seed=0)


class PlainNetwork(nn.Sequential):
    """The same network as anyone would write it."""

    def __init__(self, source: FeatureExtractor) -> None:
        """Copy the weights of `source`."""
        layers: list[nn.Module] = []
        self.taps: dict[int, str] = {}
        names = {stage: tap for tap, stage in source.index.items()}
        for number, stage in enumerate(source.stages):
            if isinstance(stage, Convolution):
                outputs, inputs = stage.weight.shape[:2]
                convolution = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")
                convolution.load_state_dict({"weight": stage.weight, "bias": stage.bias})
                layers += [convolution, nn.ReLU()]
            else:
                layers.append(nn.AvgPool2d(2))
            if names[number] in TAPS:
                self.taps[len(layers) - 1] = names[number]
        super().__init__(*layers)
        self.requires_grad_(False)
        self.preprocessing = source.preprocessing

    def grams(self, x: Tensor) -> list[Tensor]:
        """Gram matrices at the taps."""
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (self.preprocessing.mean, self.preprocessing.std))
        x = (x - mean) / std
        found = []
        for number, layer in enumerate(self):
            x = layer(x)
            if number in self.taps:
                f = x[0].flatten(1)
                found.append(f @ f.T / f.shape[1])
        return found


def plain(size: int, steps: int) -> list[tuple[float, float]]:
    """Seconds and loss after each of `steps` iterations of the plain loop."""
    network = PlainNetwork(extractor())
    reference = exemplar(size)
    targets = network.grams(reference)
    torch.manual_seed(0)
    x = (reference.mean() + reference.std() * torch.randn_like(reference)).requires_grad_(True)
    descent = torch.optim.LBFGS([x], max_iter=steps, max_eval=steps, tolerance_grad=0, tolerance_change=0)
    start, curve = time.perf_counter(), list[tuple[float, float]]()

    def closure() -> Tensor:
        descent.zero_grad()
        pairs = zip(network.grams(x), targets, strict=True)
        loss = sum(((g - t).square().sum() / t.square().sum() for g, t in pairs), torch.zeros(())) / len(targets)
        (1e6 * loss).backward()  # type: ignore[no-untyped-call]  # the customary style weight, without which L-BFGS creeps
        curve.append((time.perf_counter() - start, loss.item()))
        return 1e6 * loss

    descent.step(closure)  # type: ignore[no-untyped-call]  # torch's own
    return curve


def ours(size: int, steps: int) -> list[tuple[float, float]]:
    """Seconds since the start and loss after each step at full size."""
    synthesise = TextureSynthesizer(CONFIG, extractor=extractor())
    start, curve = time.perf_counter(), []
    for step in synthesise.stream(exemplar(size), size=(size, size), steps=steps):
        if isinstance(step, Step) and step.level == step.levels - 1:
            curve.append((time.perf_counter() - start, step.loss))
    return curve


def main(
    sizes: Annotated[str, typer.Option(help="Sides in pixels.")] = "256,512",
    steps: Annotated[int, typer.Option(help="Iterations of the plain loop; its last loss is the mark to reach.")] = 100,
    one: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print seconds to equal loss and peak memory, plain against ours."""
    if one:  # in a process of its own, so that the peak memory is this one's
        which, side = one.split(":")
        curve = {"plain": plain, "ours": ours}[which](int(side), steps)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        sys.stdout.write(f"{peak}\n" + "\n".join(f"{seconds} {loss}" for seconds, loss in curve))
        return
    table = table_of(
        f"Gram texture synthesis on VGG-19, gravel, {torch.get_num_threads()} threads",
        ("size", "loss to reach", "plain", "ours", "speed-up", "plain memory", "our memory"),
    )
    for size in map(int, sizes.split(",")):
        runs = {}
        for which in ("plain", "ours"):
            command = [sys.executable, __file__, "--one", f"{which}:{size}", "--steps", str(steps)]
            lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()  # noqa: S603
            runs[which] = float(lines[0]), [tuple(map(float, line.split())) for line in lines[1:]]
        mark = runs["plain"][1][-1][1]
        seconds = [next((t for t, loss in runs[which][1] if loss <= mark), float("nan")) for which in ("plain", "ours")]
        table.add_row(
            f"{size}²",
            f"{mark:.2e}",
            f"{seconds[0]:.1f} s",
            f"{seconds[1]:.1f} s",
            f"{seconds[0] / seconds[1]:.1f}x",
            *(f"{runs[which][0]:.0f} MB" for which in ("plain", "ours")),
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
