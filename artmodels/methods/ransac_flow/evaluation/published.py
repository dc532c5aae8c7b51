"""The published figures of RANSAC-Flow, beside ours.

A published figure and ours compare only where features, weights and images are the same. Figures that we only remember
are marked and not given: of the paper's own tables that is nearly all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from artmodels.errors import ConfigError

__all__ = ["BENCHMARKS", "Benchmark", "PublishedRow", "published_table"]


@dataclass(frozen=True)
class PublishedRow:
    """A row of the literature."""

    method: str  # and its features and weights
    values: tuple[float, ...] | None = None  # in the benchmark's unit and order; None where only remembered
    note: str = "from memory, unverified: not quoted"  # what a reader must know of them


@dataclass(frozen=True)
class Benchmark:
    """What is measured, and what is published of it."""

    measure: str  # and in what unit
    columns: tuple[str, ...]  # what there is a figure for
    digits: int  # after the point
    rows: tuple[PublishedRow, ...]


IMAGENET, MOCO = "RANSAC-Flow, ImageNet features", "RANSAC-Flow, MoCo features"
AUTHOR = "a new run by the author, github.com/XiSHEN0220/RANSAC-Flow, issue 2"
PEER = "reported by the authors of DenseMatching, in its README"
UPDATED = "on the updated set, by the authors, in their README"

BENCHMARKS = {
    "HPatches": Benchmark(
        "mean endpoint error in px at 240 x 240, by difficulty, viewpoint",
        ("I", "II", "III", "IV", "V"),
        3,
        (PublishedRow(IMAGENET, (0.517, 2.328, 3.189, 5.348, 5.253), AUTHOR), PublishedRow(MOCO)),
    ),
    "KITTI 2015 flow": Benchmark("mean endpoint error in px, training part", ("noc", "occ"), 2, (PublishedRow(MOCO),)),
    "MegaDepth": Benchmark(
        "right places, %, of 1600 pairs at 480 px",
        ("1 px", "3 px", "5 px"),
        2,
        (
            PublishedRow(MOCO),
            PublishedRow("GLU-Net-GOCor*", (57.77, 78.61, 82.24), PEER),
            PublishedRow("PDC-Net (MS)", (71.81, 89.36, 91.18), PEER),
        ),
    ),
    "RobotCar": Benchmark("right places, %, at 480 px", ("1 px", "3 px", "5 px"), 2, (PublishedRow(MOCO),)),
    "YFCC100M": Benchmark(
        "pairs whose pose is right, %, mean over limits up to",
        ("5 degrees", "10 degrees", "20 degrees"),
        2,
        (PublishedRow(MOCO),),
    ),
    "Aachen day-night": Benchmark(
        "queries that are located, %",
        ("0.5 m, 2 degrees", "1 m, 5 degrees", "5 m, 10 degrees"),
        1,
        (
            PublishedRow(f"{MOCO}, fine-tuned", (74.5, 88.8, 100.0), UPDATED),
            PublishedRow(f"{IMAGENET}, fine-tuned", (74.5, 87.8, 100.0), UPDATED),
        ),
    ),
}


def published_table(benchmark: str, ours: Mapping[str, Sequence[float]] | None = None) -> str:
    """A table in Markdown: the published figures of a benchmark, and below them ours.

    Ours are named by our network and how it was run, in the unit and order of the benchmark's columns.

    Raises:
        ConfigError: The benchmark is unknown, or a row of ours has another number of figures.
    """
    if benchmark not in BENCHMARKS:
        raise ConfigError(f"nothing is published on {benchmark!r}; name {', '.join(BENCHMARKS)}")
    known, rows = BENCHMARKS[benchmark], list[tuple[str, Sequence[float] | None, str]]()
    rows += [(row.method, row.values, row.note) for row in known.rows]
    for name, values in (ours or {}).items():
        if len(values) != len(known.columns):
            raise ConfigError(f"{name}: give {len(known.columns)} figures, for {', '.join(known.columns)}")
        rows.append((f"ours: {name}", values, "measured here"))
    lines = [f"{benchmark}: {known.measure}", "", f"| method | {' | '.join(known.columns)} | note |"]
    lines.append("|---" * (len(known.columns) + 2) + "|")
    for method, figures, note in rows:
        cells = ["-"] * len(known.columns) if figures is None else [f"{figure:.{known.digits}f}" for figure in figures]
        lines.append(f"| {method} | {' | '.join(cells)} | {note} |")
    return "\n".join(lines) + "\n"
