"""How fast a network is with PyTorch and ONNX Runtime, and how near to what the machine can multiply."""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from artmodels.feedforward import Graph
from artmodels.graphs import PROVIDERS, OnnxRunner
from artmodels.runtime import make_runner, pick_device
from export import folder

__all__ = ["COLUMNS", "Row", "flops", "peak", "run"]

COLUMNS = ("runtime", "size", "batch", "ms", "images/s", "GFLOP/image", "of peak", "note")
SIZES = ((1, 512, 512), (1, 1080, 1920), (8, 256, 256))  # batch, height, width
QUICK = ((1, 64, 64), (2, 48, 96))
SECONDS = 3.0  # for one row, unless its first runs take longer

Run = Callable[[tuple[Tensor, ...]], object]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        runtime: What computed, in what type.
        batch: Images at once.
        height: In pixels, as the network accepts it.
        width: In pixels.
        seconds: Median time of one run, the whole batch; None where it could not be run.
        flop: Floating-point operations of one image: those of convolutions and products, as PyTorch counts them.
        peak: Operations per second of a large product of matrices in the same type on the same device.
        note: Why it could not be run.
    """

    runtime: str
    batch: int
    height: int
    width: int
    seconds: float | None
    flop: float
    peak: float
    note: str = ""

    def cells(self) -> list[str]:
        """Give the cells of `COLUMNS`."""
        size = f"{self.width}x{self.height}"
        flop = f"{self.flop / 1e9:.3g}"
        if self.seconds is None:
            return [self.runtime, size, str(self.batch), "", "", flop, "", self.note]
        rate = self.batch / self.seconds
        share = f"{rate * self.flop / self.peak:.0%}"
        return [self.runtime, size, str(self.batch), f"{self.seconds * 1e3:.3g}", f"{rate:.3g}", flop, share, self.note]


def run(name: str, *, quick: bool = False) -> list[Row]:
    """Measure a checkpoint with every runtime that is here.

    Args:
        name: What `export.folder.load` takes.
        quick: Small sizes, one run each, nothing compiled.

    Raises:
        ConfigError: The checkpoint has no graph.
        WeightsError: It cannot be loaded.
    """
    rows = []
    graph = folder.load(name)[0].demands
    device = pick_device()
    peaks = {dtype: peak(device, dtype, quick=quick) for dtype in _dtypes(device)}
    peaks_cpu = peaks if device.type == "cpu" else {torch.float32: peak(torch.device("cpu"), quick=quick)}
    with tempfile.TemporaryDirectory() as scratch:
        for title, place, dtype, prepare in _runtimes(name, graph, device, Path(scratch), quick=quick):
            best = (peaks_cpu if place.type == "cpu" else peaks)[dtype]
            try:
                call, reason = prepare(), ""
            except Exception as error:  # a runtime that does not work here is a line of the table
                call, reason = None, _first_line(error)
            for batch, height, width in QUICK if quick else SIZES:
                height, width = graph.requirements.size(height, width)
                inputs = tuple(tensor.to(place) for tensor in graph.example(batch, height, width))
                seconds, note = None, reason
                if call is not None:
                    try:
                        seconds = _median(call, inputs, place, quick=quick)
                    except Exception as error:  # out of memory, a compiler that is missing
                        note = _first_line(error)
                rows.append(
                    Row(
                        runtime=title,
                        batch=batch,
                        height=height,
                        width=width,
                        seconds=seconds,
                        flop=flops(graph, batch, height, width) / batch,
                        peak=best,
                        note=note,
                    )
                )
    return rows


def _dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    return (torch.float32, torch.float16) if device.type == "cuda" else (torch.float32,)


def _runtimes(
    name: str, graph: Graph, device: torch.device, scratch: Path, *, quick: bool
) -> Iterator[tuple[str, torch.device, torch.dtype, Callable[[], Run]]]:
    """Give title, device, type, and what makes the call: runtimes are made one after another, in the caller's `try`."""
    cpu = torch.device("cpu")
    for dtype in _dtypes(device):
        short = str(dtype).removeprefix("torch.")

        def eager(dtype: torch.dtype = dtype) -> Run:
            runner = make_runner(copy.deepcopy(graph), device=device, dtype=dtype)
            return lambda inputs: runner(*inputs)

        def compiled(dtype: torch.dtype = dtype) -> Run:
            runner = make_runner(torch.compile(copy.deepcopy(graph)), device=device, dtype=dtype)  # type: ignore[arg-type]
            return lambda inputs: runner(*inputs)

        yield f"PyTorch {device.type} {short}", device, dtype, eager
        if not quick:
            yield f"PyTorch compiled {device.type} {short}", device, dtype, compiled

    def exported(provider: str, *, half: bool) -> Run:
        path, _ = folder.export(name, scratch / f"{'half' if half else 'float'}", half=half)
        runner = OnnxRunner(path, provider=provider)
        if runner.provider != provider:
            raise RuntimeError(f"{PROVIDERS[provider]} does not start")
        return lambda inputs: runner(*inputs)

    yield "ONNX Runtime cpu float32", cpu, torch.float32, lambda: exported("cpu", half=False)
    if device.type == "cuda":
        yield "ONNX Runtime cuda float32", device, torch.float32, lambda: exported("cuda", half=False)
        yield "ONNX Runtime cuda float16", device, torch.float16, lambda: exported("cuda", half=True)


def flops(graph: Graph, batch: int, height: int, width: int) -> float:
    """Count the floating-point operations of a run, without running it: two for each multiplication with addition."""
    shapes = copy.deepcopy(graph).to("meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        shapes(*(tensor.to("meta") for tensor in graph.example(batch, height, width)))
    return float(counter.get_total_flops())


def peak(device: torch.device, dtype: torch.dtype = torch.float32, *, quick: bool = False) -> float:
    """Measure the operations per second of a large product of matrices: what no network passes."""
    side = 256 if quick else (8192 if device.type == "cuda" else 2048)
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    times = list(_times(lambda _: torch.mm(left, right, out=out), (), device, seconds=0.05 if quick else 1.0))
    return 2 * side**3 / min(times)


def _median(call: Run, inputs: tuple[Tensor, ...], device: torch.device, *, quick: bool) -> float:
    return statistics.median(_times(call, inputs, device, seconds=0 if quick else SECONDS))


def _times(call: Run, inputs: tuple[Tensor, ...], device: torch.device, *, seconds: float) -> Iterator[float]:
    def once() -> float:
        start = time.perf_counter()
        call(inputs)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    once()  # compiles, chooses algorithms, allocates
    end = time.perf_counter() + seconds
    yield once()
    while time.perf_counter() < end:
        yield once()


def _first_line(error: Exception) -> str:
    return next((line.strip()[:80] for line in str(error).splitlines() if line.strip()), type(error).__name__)
