"""How fast a network is with PyTorch and ONNX Runtime, and how near to what the machine can do."""

import copy
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from artmodels.runtime.devices import TorchRunner, pick_device
from artmodels.runtime.feedforward import Graph
from artmodels.runtime.graphs import PROVIDERS, OnnxRunner
from export import folder

__all__ = ["COLUMNS", "Peaks", "Row", "demands", "measured_peaks", "run"]

COLUMNS = ("runtime", "size", "batch", "ms", "images/s", "GFLOP/image", "MB/image", "of roofline", "note")
SIZES = ((1, 512, 512), (1, 1080, 1920), (8, 512, 512))  # batch, height, width
QUICK = ((1, 64, 64), (2, 48, 96))
SECONDS = 3.0  # for one row, unless its first runs take longer

Run = Callable[[tuple[Tensor, ...]], object]
Demand = tuple[float, float]  # of one operator: floating-point operations; numbers read and written


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What a device can do in one type.

    Attributes:
        flop: Operations per second of a large product of matrices: what no network passes.
        bytes: Bytes per second that a copy of a large tensor reads and writes.
        size: Bytes of a number.
    """

    flop: float
    bytes: float
    size: int

    def seconds(self, demands: Sequence[Demand]) -> float:
        """Give the least time for operators one after another, each bound by what it computes or what it moves.

        The roofline model of Williams et al. 2009, operator by operator.
        """
        return sum(max(flop / self.flop, self.size * numbers / self.bytes) for flop, numbers in demands)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        runtime: What computed, in what type.
        batch: Images at once.
        height: In pixels, as the network accepts it.
        width: In pixels.
        seconds: Median time of one run, the whole batch; None where it could not be run.
        demands: Of the whole batch, see `demands`.
        peaks: In the same type on the same device.
        note: Why it could not be run.
    """

    runtime: str
    batch: int
    height: int
    width: int
    seconds: float | None
    demands: Sequence[Demand]
    peaks: Peaks
    note: str = ""

    def cells(self) -> list[str]:
        """Give the cells of `COLUMNS`."""
        size = f"{self.width}x{self.height}"
        flop = sum(flop for flop, _ in self.demands) / self.batch
        moved = sum(numbers for _, numbers in self.demands) * self.peaks.size / self.batch
        work = [f"{flop / 1e9:.3g}", f"{moved / 1e6:.3g}"]
        if self.seconds is None:
            return [self.runtime, size, str(self.batch), "", "", *work, "", self.note]
        share = f"{self.peaks.seconds(self.demands) / self.seconds:.0%}"
        speed = [f"{self.seconds * 1e3:.3g}", f"{self.batch / self.seconds:.3g}"]
        return [self.runtime, size, str(self.batch), *speed, *work, share, self.note]


def run(name: str, *, quick: bool = False) -> dict[str, list[Row]]:
    """Measure a checkpoint with every runtime that is here.

    Args:
        name: What `export.folder.load` takes.
        quick: Small sizes, one run each, nothing compiled.

    Returns:
        Rows by name: the checkpoint's, and `name-COMPANION` where its method has companions.

    Raises:
        ConfigError: The checkpoint has no graph.
        WeightsError: It cannot be loaded.
    """
    model = folder.load(name)[0]
    device = pick_device()
    peaks = {(device.type, dtype): measured_peaks(device, dtype, quick=quick) for dtype in _dtypes(device)}
    if device.type != "cpu":
        peaks["cpu", torch.float32] = measured_peaks(torch.device("cpu"), quick=quick)
    with tempfile.TemporaryDirectory() as scratch:

        @functools.cache
        def all_exported(half: bool) -> list[Path]:
            return list(folder.export(name, Path(scratch, "half" if half else "float"), half=half))

        def exported(index: int, half: bool) -> Path:
            return all_exported(half)[index]

        graphs = {name: model.graph} | {f"{name}-{part}": graph for part, graph in model.companions.items()}
        return {
            title: _rows(graph, device, peaks, functools.partial(exported, index), quick=quick)
            for index, (title, graph) in enumerate(graphs.items())
        }


def _rows(
    graph: Graph,
    device: torch.device,
    peaks: Mapping[tuple[str, torch.dtype], Peaks],
    exported: Callable[[bool], Path],
    *,
    quick: bool,
) -> list[Row]:
    """Measure one network; `exported` gives the folder of its graph, in float16 or not."""
    rows = []
    for title, place, dtype, prepare in _runtimes(graph, device, exported, quick=quick):
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
                    demands=demands(graph, batch, height, width),
                    peaks=peaks[place.type, dtype],
                    note=note,
                )
            )
    return rows


def _dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    return (torch.float32, torch.float16) if device.type == "cuda" else (torch.float32,)


def _runtimes(
    graph: Graph, device: torch.device, exported: Callable[[bool], Path], *, quick: bool
) -> Iterator[tuple[str, torch.device, torch.dtype, Callable[[], Run]]]:
    """Give title, device, type, and what makes the call: runtimes are made one after another, in the caller's `try`."""
    cpu = torch.device("cpu")
    for dtype in _dtypes(device):
        short = str(dtype).removeprefix("torch.")

        def eager(dtype: torch.dtype = dtype) -> Run:
            runner = TorchRunner(copy.deepcopy(graph), device=device, dtype=dtype)
            return lambda inputs: runner(*inputs)

        def compiled(dtype: torch.dtype = dtype) -> Run:
            runner = TorchRunner(torch.compile(copy.deepcopy(graph)), device=device, dtype=dtype)  # type: ignore[arg-type]
            return lambda inputs: runner(*inputs)

        yield f"PyTorch {device.type} {short}", device, dtype, eager
        if not quick:
            yield f"PyTorch compiled {device.type} {short}", device, dtype, compiled

    def opened(provider: str, *, half: bool) -> Run:
        runner = OnnxRunner(exported(half), provider=provider)
        if runner.provider != provider:
            raise RuntimeError(f"{PROVIDERS[provider]} does not start")
        return lambda inputs: runner(*inputs)

    yield "ONNX Runtime cpu float32", cpu, torch.float32, lambda: opened("cpu", half=False)
    if device.type == "cuda":
        yield "ONNX Runtime cuda float32", device, torch.float32, lambda: opened("cuda", half=False)
        yield "ONNX Runtime cuda float16", device, torch.float16, lambda: opened("cuda", half=True)


def demands(graph: Graph, batch: int, height: int, width: int) -> list[Demand]:
    """Count, without running it, what each convolution and product of a run computes and moves.

    A multiplication with its addition is two operations. What is moved is the inputs, weights and outputs, once each.
    Normalisation, activation and padding count as nothing: a runtime can do them on the way.
    """
    shapes = copy.deepcopy(graph).to("meta")
    with _Counter() as counter, torch.inference_mode():
        shapes(*(tensor.to("meta") for tensor in graph.example(batch, height, width)))
        return list(counter.found)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's own has no types
    """Looks on as operators run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = list[Demand]()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204
        kwargs = kwargs or {}
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            with self:  # what is made of other operators, such as conv2d, counts as those
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if count is not None:
            moved = sum(x.numel() for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor))
            self.found.append((float(count(*args, **kwargs, out_val=out)), float(moved)))
        return out


def measured_peaks(device: torch.device, dtype: torch.dtype = torch.float32, *, quick: bool = False) -> Peaks:
    """Measure what the device can do, alone: a product of matrices, and a copy that no cache holds."""
    seconds = 0.05 if quick else 1.0
    side = 256 if quick else (8192 if device.type == "cuda" else 2048)
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    product = min(_times(lambda _: torch.mm(left, right, out=out), (), device, seconds=seconds))
    source = torch.rand(2**20 if quick else 2**26, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copying = min(_times(lambda _: target.copy_(source), (), device, seconds=seconds))
    return Peaks(flop=2 * side**3 / product, bytes=2 * source.nbytes / copying, size=source.itemsize)


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
