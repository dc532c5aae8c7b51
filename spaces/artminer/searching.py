"""Describing, searching and comparing while somebody watches, and packing what was found."""

import csv
import io
import json
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from artmodels.errors import ConfigError, DatasetError
from artmodels.hub import catalogue
from artmodels.ui.controls import MODELS
from artmodels.ui.live import live

if TYPE_CHECKING:
    from collection import Work  # of this folder, loaded by its path

    from artmodels.methods.artminer.groups.clusters import Cluster, Propagated
    from artmodels.methods.artminer.pipeline import ArtMiner, Described

MODEL, SCALES, VIEWS = "artminer-paintings", (49, 36, 28, 20), ("", "mirror")
# Measured for these weights, scales and views: see `ArtMinerConfig`.
THRESHOLD, PAIR_THRESHOLD = (catalogue.get(MODEL).config[name] for name in ("threshold", "pair_threshold"))
PAUSE = 0.4  # seconds between reports of progress
HITS, VERIFIED = 200, 20
SMALLEST = 2  # px: sides of a box, as in `check_box`, whose messages speak of left, top, right and bottom
ALL_PAIRS, SHORTLIST = 40, 12  # pictures up to which all pairs are compared; candidates a picture beyond
IIIF = "https://example.org"  # nobody's: to be replaced by the address of the collection

# Features of the example collection, which all visitors read: the gallery computes them once.
_shared = tempfile.TemporaryDirectory(prefix="artminer-examples-", ignore_cleanup_errors=True)
SHARED = Path(_shared.name) / "features"
# What was stopped ends its picture first, and goes on writing to the features until then.
_describing = threading.Lock()


def miner() -> "ArtMiner":
    """What describes and compares pictures on this page: fewer scales than the paper's seven, which take far longer.

    The networks are those of the cache that all pages share; nothing else holds them.
    """
    # Not at the top: the gallery is to be up before anybody searches.
    from artmodels.methods.artminer import ArtMiner

    kept = MODELS(MODEL)
    config = replace(kept.config, scales=SCALES, views=VIEWS)
    return ArtMiner(config, backbone=kept.backbone, projection=kept.projection, device=kept.device)


class Watched:
    """Described pictures that report which one is read: progress, and a place to stop, for whatever reads them."""

    def __init__(self, described: "Described", report: Callable[[str], None]) -> None:
        """Take them, and what is told the name of each."""
        self.described, self.report = described, report
        self.names, self.size = described.names, described.size

    def pyramid(self, name: str, view: str = "") -> Any:
        """Features of one."""
        self.report(name)
        return self.described.pyramid(name, view)


def calm(steps: Iterator[Any]) -> Iterator[Any]:
    """Leave out what comes too soon after another report."""
    following = 0.0
    for step in steps:
        if time.monotonic() >= following:
            yield step
            following = time.monotonic() + PAUSE


def describe(work: "Work") -> Iterator[str]:
    """Compute the features of all pictures, unless they are there; what was interrupted goes on."""
    from artmodels.methods.artminer.collection.collection import Collection

    if work.features is not None:
        return
    model = miner()
    found = Collection.open_or_create(work.store, model)
    if set(found.names) != set(work.files):
        with _describing:
            for step in calm(found.stream_add(work.pictures, model)):
                if step is not found:
                    yield f"Looking at picture {step.done} of {step.total}: once for each collection…"
    for name, reason in found.skipped.items():
        work.skipped[name] = reason
    work.files = [name for name in work.files if name in found.names]
    work.features = found


def enough(work: "Work") -> None:
    """Check that there is something to compare.

    Raises:
        DatasetError: There are fewer than two pictures.
    """
    if len(work.files) < 2:
        raise DatasetError("The collection has one picture, and nothing to compare it with: add more, then search.")


def search(work: "Work", name: str, box: Sequence[float | None]) -> Iterator[str]:
    """Find a box, given as x, y, width and height in pixels, in all other pictures; `work.searched` has the result.

    Raises:
        ConfigError: There is no box, or it is none inside the picture.
        DatasetError: There is nothing to search.
    """
    from artmodels.methods.artminer.oneshot import check_box

    enough(work)
    if any(value is None for value in box):
        raise ConfigError("There is no box yet: draw one around a detail, or type x, y, width and height.")
    x, y, width, height = (float(value or 0) for value in box)
    if min(width, height) < SMALLEST:
        raise ConfigError(f"The box is {width:g} x {height:g} px: draw one of at least {SMALLEST} x {SMALLEST} px.")
    wide, high = work.sizes[name]
    if min(x + width, wide) - max(x, 0) < SMALLEST or min(y + height, high) - max(y, 0) < SMALLEST:
        raise ConfigError(
            f"The box at x {x:g}, y {y:g} lies outside the picture, which has {wide} x {high} px: draw it inside."
        )
    place = check_box((x, y, x + width, y + height), wide, high)
    yield from describe(work)
    results = list[Any]()

    def run(report: Callable[[Any], None]) -> None:
        among = Watched(work.features, report)
        results.append(miner().search(work.pictures / name, place, among, query=name, count=HITS, verify=VERIFIED))

    seen = set[str]()
    for read in live(run):
        if read not in seen:
            seen.add(read)
            yield f"Searching picture {len(seen)} of {len(work.files) - 1}…"
    (work.searched,) = results
    for hit in reversed(work.searched.hits):  # the best of each picture stays
        work.scores[name, hit.image, work.searched.box] = hit.score


def compare(work: "Work") -> Iterator[str]:
    """Compare pictures with each other; `work.pairs` has those that show the same.

    All pairs of a small collection, of a larger one those that a shortlist of similar regions names.

    Raises:
        DatasetError: There is nothing to compare.
    """
    from artmodels.methods.artminer.collection.shortlist import candidates, index_regions
    from artmodels.search.index import ExactIndex

    enough(work)
    yield from describe(work)
    chosen: list[tuple[str, str]] | None = None
    total = len(work.files) * (len(work.files) - 1) // 2
    if len(work.files) > ALL_PAIRS:
        yield "Making a shortlist of pairs…"
        index = ExactIndex(work.features.layout.dims)
        index_regions(work.features, index)
        listed = candidates(work.features, index, keep=SHORTLIST, exhaustive=ALL_PAIRS)
        chosen = sorted({(min(a, b), max(a, b)) for a, b, _ in listed})
        total = len(chosen)
    found = list[Any]()

    def run(report: Callable[[Any], None]) -> None:
        # What is read reports, too: most pairs have nothing in common, and are not told one by one.
        among = Watched(work.features, lambda _: report(len(found)))
        for pair in miner().pairs(among, chosen):
            found.append(pair)
            report(len(found))

    for count in calm(live(run)):
        yield f"Comparing {total} pairs of pictures: {count} show something in common so far…"
    work.pairs = sorted(found, key=lambda pair: -pair.match.score)


def settled(work: "Work", threshold: float) -> "tuple[list[Cluster], list[Propagated]]":
    """Groups of pictures that share something, by the scores and the verdicts; and what follows from others."""
    from artmodels.methods.artminer.evidence import verdicts
    from artmodels.methods.artminer.groups import clusters

    pairs = verdicts.judged(work.pairs or [], work.verdicts.current())
    groups = clusters.communities(pairs, threshold=threshold, least=2)
    return groups, clusters.propagate(pairs, threshold=threshold)


def calibrated(work: "Work", *, details: bool) -> Any:
    """Learn from the verdicts what scores mean, those of details or those of pairs of pictures.

    Raises:
        DatasetError: There are too few verdicts.
    """
    from artmodels.methods.artminer.evidence import verdicts

    given = [verdict for verdict in work.verdicts.current() if (verdict.box is not None) == details]
    if not details:
        scores = {(pair.first, pair.second): pair.match.score for pair in work.pairs or []}
        return verdicts.calibrate(scores, given)
    # Calibration knows pairs by two names: here the first is a picture and the box of its detail.
    scores = {(f"{first} {box}", second): score for (first, second, box), score in work.scores.items()}
    return verdicts.calibrate(scores, [replace(verdict, first=f"{verdict.first} {verdict.box}") for verdict in given])


# --- files to take home


def parameters(**chosen: float) -> dict[str, Any]:
    """All settings, with the threshold that was chosen."""
    return {"name": MODEL} | asdict(miner().config) | chosen


def brief() -> dict[str, Any]:
    """The settings that somebody who looks at evidence should know."""
    config = miner().config
    return {"name": MODEL} | {name: getattr(config, name) for name in ("scales", "views", "iterations", "seed")}


def search_files(work: "Work", threshold: float) -> dict[str, str]:
    """What the last search found, as texts by file name.

    Raises:
        ConfigError: There was no search.
    """
    from artmodels.methods.artminer.evidence import exports, report

    found = work.searched
    if found is None:
        raise ConfigError("Nothing has been searched yet: draw a box and find it elsewhere, then export.")
    hits = [hit for hit in found.hits if hit.score >= threshold]
    about: dict[str, Any] = {"model": found.model, "parameters": parameters(threshold=threshold)}
    pages = exports.hits_annotations(
        hits,
        work.sizes,
        label=f"detail of {found.query}",
        canvas=_address,
        page=lambda name: _address(name, "annotations/"),
    )
    page = report.html_report(
        work.pictures / found.query, found.box, hits, lambda name: work.pictures / name, name=found.query, **about
    )
    listed = exports.hits_json(hits, query=found.query, box=found.box, **about)
    return {
        "detail/hits.csv": exports.hits_csv(hits),
        "detail/hits.json": json.dumps(listed, indent=1),
        "detail/report.html": page,
    } | {f"detail/iiif/{name}.json": json.dumps(page, indent=1) for name, page in pages.items()}


def pair_files(work: "Work", threshold: float) -> dict[str, str]:
    """What repeats, as texts by file name.

    Raises:
        ConfigError: It was not looked for.
    """
    from artmodels.methods.artminer.evidence import exports, verdicts

    if work.pairs is None:
        raise ConfigError("Nothing has been compared yet: find whatever repeats, then export.")
    groups, further = settled(work, threshold)
    judged = verdicts.judged(work.pairs, work.verdicts.current())
    kept = [pair for pair in judged if pair.accepted or (pair.accepted is None and pair.match.score > threshold)]
    both = [*kept, *further]
    about: dict[str, Any] = {"model": miner().fingerprint, "parameters": parameters(pair_threshold=threshold)}
    pages = exports.pairs_annotations(
        both, work.sizes, canvas=_address, page=lambda name: _address(name, "annotations/")
    )
    numbers = {name: number for number, group in reversed(list(enumerate(groups, 1))) for name in group.images}
    return {
        "repeats/pairs.csv": exports.pairs_csv(both, work.sizes),
        "repeats/pairs.json": json.dumps(exports.pairs_json(both, work.sizes, **about), indent=1),
        "repeats/pairs.graphml": exports.pairs_graphml(both, clusters=numbers, **about),
        "repeats/clusters.csv": _clusters_csv(groups),
    } | {f"repeats/iiif/{name}.json": json.dumps(page, indent=1) for name, page in pages.items()}


def pack(archive: Path, work: "Work", parts: Sequence[dict[str, str]]) -> None:
    """Write texts, and the verdicts if there are any, into a ZIP file."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in parts:
            for name, text in part.items():
                packed.writestr(name, text)
        if work.verdicts.path.exists():
            packed.write(work.verdicts.path, "verdicts.jsonl")


def _address(name: str, folder: str = "") -> str:
    return f"{IIIF}/{folder}{quote(name)}"


def _clusters_csv(groups: "Sequence[Cluster]") -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["cluster", "image"])
    writer.writerows([number, name] for number, group in enumerate(groups, 1) for name in group.images)
    return text.getvalue()
