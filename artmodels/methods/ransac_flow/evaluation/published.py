"""The published figures of RANSAC-Flow, beside ours.

A published figure and ours compare only where features, weights and images are the same. Figures that we only remember
are marked and not given: of the paper's own tables that is nearly all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artmodels.errors import ConfigError

__all__ = ["BENCHMARKS", "PUBLISHED", "Benchmark", "PublishedRow", "published_table"]

REMEMBERED = "from memory, unverified: not quoted"


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        measure: And in what unit.
        columns: What there is a figure for.
        digits: After the point.
    """

    measure: str
    columns: tuple[str, ...]
    digits: int


BENCHMARKS = {
    "HPatches": Benchmark(
        "mean endpoint error in px at 240 x 240, by difficulty, viewpoint", ("I", "II", "III", "IV", "V"), 3
    ),
    "KITTI 2015 flow": Benchmark("mean endpoint error in px, training part", ("noc", "occ"), 2),
    "MegaDepth": Benchmark("right places, %, of 1600 pairs at 480 px", ("1 px", "3 px", "5 px"), 2),
    "RobotCar": Benchmark("right places, %, at 480 px", ("1 px", "3 px", "5 px"), 2),
    "YFCC100M": Benchmark(
        "pairs whose pose is right, %, mean over limits up to", ("5 degrees", "10 degrees", "20 degrees"), 2
    ),
    "Aachen day-night": Benchmark(
        "queries that are located, %", ("0.5 m, 2 degrees", "1 m, 5 degrees", "5 m, 10 degrees"), 1
    ),
}


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of the literature.

    Attributes:
        benchmark: One of `BENCHMARKS`.
        method: And its features and weights.
        values: In the unit and order of the benchmark's columns; None where they are known from memory alone.
        note: What a reader must know of them.
    """

    benchmark: str
    method: str
    values: tuple[float, ...] | None
    note: str = ""


IMAGENET, MOCO = "RANSAC-Flow, ImageNet features", "RANSAC-Flow, MoCo features"
PEER = "reported by the authors of DenseMatching, in its README"
UPDATED = "on the updated set, by the authors, in their README"

PUBLISHED: tuple[PublishedRow, ...] = (
    PublishedRow(
        benchmark="HPatches",
        method=IMAGENET,
        values=(0.517, 2.328, 3.189, 5.348, 5.253),
        note="a new run by the author, github.com/XiSHEN0220/RANSAC-Flow, issue 2",
    ),
    PublishedRow(benchmark="HPatches", method=MOCO, values=None, note=REMEMBERED),
    PublishedRow(benchmark="KITTI 2015 flow", method=MOCO, values=None, note=REMEMBERED),
    PublishedRow(benchmark="MegaDepth", method=MOCO, values=None, note=REMEMBERED),
    PublishedRow(benchmark="MegaDepth", method="GLU-Net-GOCor*", values=(57.77, 78.61, 82.24), note=PEER),
    PublishedRow(benchmark="MegaDepth", method="PDC-Net (MS)", values=(71.81, 89.36, 91.18), note=PEER),
    PublishedRow(benchmark="RobotCar", method=MOCO, values=None, note=REMEMBERED),
    PublishedRow(benchmark="YFCC100M", method=MOCO, values=None, note=REMEMBERED),
    PublishedRow(benchmark="Aachen day-night", method=f"{MOCO}, fine-tuned", values=(74.5, 88.8, 100.0), note=UPDATED),
    PublishedRow(
        benchmark="Aachen day-night", method=f"{IMAGENET}, fine-tuned", values=(74.5, 87.8, 100.0), note=UPDATED
    ),
)


def published_table(benchmark: str, ours: Mapping[str, Sequence[float]] | None = None) -> str:
    """A table in Markdown: the published figures of a benchmark, and below them ours.

    Args:
        benchmark: One of `BENCHMARKS`.
        ours: By the name of our network and how it was run: figures in the unit and order of the benchmark's columns.

    Raises:
        ConfigError: The benchmark is unknown, or a row of ours has another number of figures.
    """
    if benchmark not in BENCHMARKS:
        raise ConfigError(f"nothing is published on {benchmark!r}; name {', '.join(BENCHMARKS)}")
    known = BENCHMARKS[benchmark]
    wrong = [name for name, values in (ours or {}).items() if len(values) != len(known.columns)]
    if wrong:
        raise ConfigError(f"{wrong[0]}: give {len(known.columns)} figures, for {', '.join(known.columns)}")
    lines = [
        f"{benchmark}: {known.measure}",
        "",
        f"| method | {' | '.join(known.columns)} | note |",
        "|---" * (len(known.columns) + 2) + "|",
    ]
    for row in PUBLISHED:
        if row.benchmark == benchmark:
            cells = ["-"] * len(known.columns) if row.values is None else _cells(row.values, known.digits)
            lines.append(f"| {row.method} | {' | '.join(cells)} | {row.note} |")
    for name, values in (ours or {}).items():
        lines.append(f"| ours: {name} | {' | '.join(_cells(values, known.digits))} | measured here |")
    return "\n".join(lines) + "\n"


def _cells(values: Sequence[float], digits: int) -> list[str]:
    return [f"{value:.{digits}f}" for value in values]
