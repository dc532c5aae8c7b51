"""Does a graph compute what PyTorch does? Measured at three shapes, with limits that decide what may be written."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from artmodels.errors import ConfigError
from artmodels.runtime.feedforward import Graph
from artmodels.runtime.graphs import OnnxRunner

__all__ = ["LARGEST_ERROR", "LEAST_PSNR", "Measured", "accept", "measure", "shapes"]

LARGEST_ERROR = 1e-4  # in [0, 1] or relative to the largest number, for float32
LEAST_PSNR = 45.0  # dB, for float16
_SIZES = ((1, 64, 64), (2, 101, 77), (3, 40, 131))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How far a graph is from PyTorch's float32 on one set of inputs.

    Images are in [0, 1]. Numbers that are no image are divided by the largest magnitude among PyTorch's, or by 1 where
    all are smaller: it is the peak.

    Attributes:
        shape: Of the first input.
        max_abs: Largest absolute difference; where bytes come out, what exceeds their rounding.
        psnr: Peak signal-to-noise ratio in dB, peak 1; 200 at most, so that it is a number of JSON.
    """

    shape: tuple[int, ...]
    max_abs: float
    psnr: float

    def as_dict(self) -> dict[str, object]:
        """Give what the sidecar holds."""
        return dataclasses.asdict(self) | {"shape": list(self.shape)}


def shapes(graph: Graph, *, batched: bool) -> list[tuple[int, int, int]]:
    """Give three (batch, height, width) that a network accepts, odd multiples of what it asks for among them."""
    needs = graph.requirements

    def side(length: int, odd: bool) -> int:
        steps = -(-max(length, needs.minimum) // needs.multiple_of)
        return (steps | 1 if odd else steps) * needs.multiple_of

    found = []
    for index, (batch, height, width) in enumerate(_SIZES):
        high, wide = side(height, index > 0), side(width, index > 0)
        found.append((batch if batched else 1, high, high if needs.square else wide))
    return found


@torch.inference_mode()
def measure(runner: OnnxRunner, graph: Graph) -> list[Measured]:
    """Compare a graph with its network.

    Args:
        runner: The graph.
        graph: The network, in float32 on the CPU.

    Returns:
        One row a shape.
    """
    image, rounds = runner.exported.inputs[0], runner.exported.output.type == "uint8"
    rows = []
    for seed, size in enumerate(shapes(graph, batched=image.dims[0] == "N")):
        inputs = list(graph.example(*size, seed=seed))
        if image.type == "uint8":
            inputs[0] = (inputs[0] * 255).round() / 255
        wanted = graph(*inputs)
        if graph.pictures:
            wanted = wanted.clamp(0, 1)
        difference = (runner(*inputs).cpu() - wanted).abs()
        if not graph.pictures:
            difference = difference / wanted.abs().max().clamp_min(1)
        mean = difference.square().mean().item()
        largest = difference.max().item() - (0.5 / 255 if rounds else 0)
        psnr = 200.0 if mean == 0 else min(200.0, -10 * math.log10(mean))
        # Not-a-number compares as false, and would pass.
        if not math.isfinite(largest):
            largest, psnr = math.inf, 0.0
        rows.append(Measured(shape=tuple(inputs[0].shape), max_abs=max(0.0, largest), psnr=psnr))
    return rows


def accept(name: str, rows: Sequence[Measured], *, half: bool) -> None:
    """Refuse a graph that is too far from its network.

    Raises:
        ConfigError: It is; the message tells the worst shape.
    """
    worst = min(rows, key=lambda row: row.psnr) if half else max(rows, key=lambda row: row.max_abs)
    if half and worst.psnr < LEAST_PSNR:
        raise ConfigError(
            f"{name} in float16 is {worst.psnr:.1f} dB from PyTorch's float32 at {list(worst.shape)}, and at least "
            f"{LEAST_PSNR:g} dB are asked for: use it in float32, without --fp16"
        )
    if not half and worst.max_abs > LARGEST_ERROR:
        raise ConfigError(
            f"{name} as a graph differs from PyTorch by {worst.max_abs:.2g} at {list(worst.shape)}, and at most "
            f"{LARGEST_ERROR:g} is allowed: use runtime='torch', and report it"
        )
