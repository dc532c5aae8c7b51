"""The published figures of ArtMiner, beside ours.

A published figure and ours compare only where network and images are the same: each table names the networks. Figures
that we only remember are marked and not given.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from artmodels.errors import ConfigError

__all__ = ["BENCHMARKS", "PUBLISHED", "PublishedFigure", "published_table"]

BENCHMARKS = {
    "Brueghel": "one-shot detection, mAP % at IoU > 0.3",
    "LTLL": "top-1 accuracy %",
    "Oxford5K": "mAP % as the released code measures it, junk not removed",
}
REMEMBERED = "from memory, unverified: not quoted"


@dataclass(frozen=True)
class PublishedFigure:
    """One figure of the literature."""

    benchmark: str  # one of `BENCHMARKS`
    features: str  # what describes the pictures
    method: str  # how they are compared
    value: float | None  # in per cent; None where it is known from memory alone
    note: str = ""  # what a reader must know of it


def _rows(benchmark: str, *rows: tuple[Any, ...]) -> tuple[PublishedFigure, ...]:
    return tuple(PublishedFigure(benchmark, *row) for row in rows)


IMAGENET, CONTEXT = "ResNet-18, ImageNet", "ResNet-18, context prediction (Doersch)"
TUNED = "ResNet-18, trained on"
COSINE, DISCOVERY, POOLED = "cosine", "discovery", "max-pooled, image level"
# Published as mAP; which of the measures of `landmarks` the authors of the other methods took is not said.
OFFICIAL = "the measure is most likely the official one"

# X. Shen, defence of the thesis, 2021: the tables of the slides.
PUBLISHED: tuple[PublishedFigure, ...] = (
    *_rows(
        "Brueghel",
        (IMAGENET, COSINE, 58.0),
        (IMAGENET, DISCOVERY, 54.8),
        (CONTEXT, COSINE, 58.8),
        (CONTEXT, DISCOVERY, 64.29),
        (f"{TUNED} LTLL", COSINE, None, REMEMBERED),
        (f"{TUNED} LTLL", DISCOVERY, None, REMEMBERED),
        (f"{TUNED} Brueghel", COSINE, 75.3),
        (f"{TUNED} Brueghel", DISCOVERY, 76.4),
    ),
    *_rows(
        "LTLL",
        ("Fernando et al.", "", 56.1),
        (IMAGENET, POOLED, 59.8),
        (IMAGENET, DISCOVERY, 80.9),
        (f"{TUNED} LTLL", DISCOVERY, 88.5),
        (f"{TUNED} Oxford5K", DISCOVERY, 85.6),
    ),
    *_rows(
        "Oxford5K",
        ("Radenovic et al.", "", 87.8, OFFICIAL),
        (IMAGENET, POOLED, 14.0),
        (IMAGENET, DISCOVERY, 85.0),
        (f"{TUNED} LTLL", DISCOVERY, 83.6),
        (f"{TUNED} Oxford5K", DISCOVERY, 85.7),
    ),
)


def published_table(
    benchmark: str, ours: Mapping[tuple[str, str], float] | None = None, *, network: str | None = None
) -> str:
    """A table in Markdown: the published figures of a benchmark, and ours.

    Ours are shares in [0, 1] by (features, method), such as `OneShotScores.category_mean`, and come with the name of
    the network and weights. One stands beside the published figure of these names, or else in a row of its own.

    Raises:
        ConfigError: The benchmark is unknown, a figure is no share, or one of `ours` and `network` is missing.
    """
    if benchmark not in BENCHMARKS:
        raise ConfigError(f"nothing is published on {benchmark!r}; name {', '.join(BENCHMARKS)}")
    if (not ours) != (not network):
        raise ConfigError("give our figures together with the network that they come from; or neither")
    left = dict(ours or {})
    wrong = [value for value in left.values() if not 0 <= value <= 1]
    if wrong:
        raise ConfigError(f"our figure {wrong[0]} is no share in [0, 1]; divide per cents by 100")
    lines = [
        f"{benchmark}: {BENCHMARKS[benchmark]}",
        "",
        "| features | method | published | ours | our network | note |",
        "|---|---|---|---|---|---|",
    ]
    for row in PUBLISHED:
        if row.benchmark == benchmark:
            mine = left.pop((row.features, row.method), None)
            lines.append(_line(row, mine, network))
    lines += [_line(PublishedFigure(benchmark, *key, None), value, network) for key, value in left.items()]
    return "\n".join(lines) + "\n"


def _line(row: PublishedFigure, ours: float | None, network: str | None) -> str:
    published = "-" if row.value is None else str(row.value)
    mine = ("-", "-") if ours is None else (f"{100 * ours:.1f}", str(network))
    cells = (row.features, row.method, published, *mine, row.note)
    return f"| {' | '.join(cell or ' ' for cell in cells)} |"
