"""What was found in a collection, what an expert says of it, and all of it as texts to take home."""

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from os import PathLike
from pathlib import Path
from urllib.parse import quote

from artmodels import images
from artmodels.detections.boxes import Box
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.artminer.evidence import exports, report
from artmodels.methods.artminer.evidence.verdicts import Calibration, Verdict, VerdictFile, calibrate, judged
from artmodels.methods.artminer.groups.clusters import Cluster, Pair, Propagated, communities, propagate
from artmodels.methods.artminer.groups.pairtable import PairTable
from artmodels.methods.artminer.oneshot import Hit, Searched

__all__ = ["Claim", "Findings"]

LARGEST = 2 * 2**20  # bytes of a file of verdicts: some 10 000, each of which is written to the disk by itself
IIIF = "https://example.org"  # nobody's: to be replaced by the address of the collection


@dataclass(frozen=True)
class Claim:
    """That two places show the same, which an expert may judge."""

    first: str  # name of the picture with the detail, or of the first of a pair
    hit: Hit  # the place that was found; of a pair see `proof.hit_of_pair`
    box: Box | None = None  # of the detail, in pixels of the first picture; None for a pair of whole pictures


@dataclass(eq=False)
class Findings:
    """What was found, and verdicts on it."""

    picture: Callable[[str], images.Source]  # gives the picture of a name
    sizes: Mapping[str, tuple[int, int]]  # width and height of each picture in pixels
    verdict_file: VerdictFile
    searched: Searched | None = None  # what the last search found
    pairs: list[Pair] | None = None  # pictures that show the same, the best first; None before they are looked for
    # Of each detail that was searched: by its picture, the picture where it was found, and its box.
    scores: dict[tuple[str, str, Box], float] = field(default_factory=dict)

    @property
    def verdicts(self) -> list[Verdict]:
        """The last one on each claim."""
        return self.verdict_file.current()

    def take(self, found: Searched) -> None:
        """Keep what a search found, and the score of the best place of each picture."""
        self.searched = found
        for hit in reversed(found.ranked):
            self.scores[found.query, hit.image, found.box] = hit.score

    @property
    def last(self) -> Searched:
        """What the last search found; a ConfigError where there was none."""
        if self.searched is None:
            raise ConfigError("Nothing has been searched yet.")
        return self.searched

    def is_best(self, hit: Hit) -> bool:
        """Whether a hit of the last search is the best of its picture: a verdict is on a detail and a picture."""
        return hit is next(other for other in self.last.ranked if other.image == hit.image)

    def verdict_on(self, first: str, second: str, box: Box | None = None) -> str:
        """The last verdict on two pictures, or on a detail of the first in the second; "" for none."""
        subject = tuple(sorted((first, second))) if box is None else (first, second, box)
        return next((verdict.verdict for verdict in self.verdicts if verdict.subject == subject), "")

    def judge(self, claim: Claim, verdict: str) -> tuple[int, int]:
        """Keep a verdict; how many of its kind, on details or on pairs, are "same", and how many are not.

        Raises:
            ArtModelsError: It cannot be written.
            ConfigError: It is no verdict, or a better place of the picture was found.
        """
        hit, box = claim.hit, claim.box
        if box is not None and not self.is_best(hit):
            raise ConfigError(
                f"A verdict is on a picture: say it of the best place in {hit.image}, which is further up."
            )
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self.verdict_file.add(Verdict(first=claim.first, second=hit.image, verdict=verdict, when=when, box=box))
        given = [recorded.verdict for recorded in self.verdicts if (recorded.box is None) == (box is None)]
        return given.count("same"), len(given) - given.count("same")

    def bring(self, path: str | PathLike[str], among: Iterable[str]) -> tuple[int, int]:
        """Take up verdicts from a file of another day, but for those on pictures that are not `among` these names.

        How many are taken up, and how many are left out, is returned.

        Raises:
            ArtModelsError: They cannot be written.
            DatasetError: The file cannot be read, or is larger than 2 MiB.
        """
        if Path(path).stat().st_size > LARGEST:
            raise DatasetError(
                f"{path} has more than {LARGEST >> 20} MiB, too many verdicts: bring those on this collection."
            )
        given, names = VerdictFile(path).history(), set(among)
        known = [verdict for verdict in given if {verdict.first, verdict.second} <= names]
        for verdict in known:
            self.verdict_file.add(verdict)
        return len(known), len(given) - len(known)

    def calibration(self, *, details: bool) -> Calibration:
        """Learn from the verdicts what scores mean, those of details or those of pairs.

        Raises:
            DatasetError: There are too few verdicts; see `calibrate`.
        """
        if details:
            return calibrate(self.scores, self.verdicts)
        return calibrate({(pair.first, pair.second): pair.match.score for pair in self.pairs or []}, self.verdicts)

    def groups(self, threshold: float) -> tuple[list[Cluster], list[Propagated]]:
        """Groups of pictures that share something, by scores and verdicts; and links that follow from two others."""
        pairs = judged(self.pairs or [], self.verdicts)
        return communities(pairs, threshold=threshold, least=2), propagate(pairs, threshold=threshold)

    def search_files(
        self, parameters: Mapping[str, object], *, threshold: float, below: bool = False
    ) -> dict[str, str]:
        """What the last search found, as texts by names of files: CSV, JSON, HTML, and an IIIF page for each picture.

        Places are written from a score of `threshold`, or of what the detail scores by chance, if that is higher; both
        are added to the parameters, what was chosen by name. Those `below` are written if they are asked for, to the
        JSON and to a table of their own.
        """
        found = self.last.from_score(threshold)
        chance = found.chance if isfinite(found.chance) else None
        about = {**parameters, "threshold": found.threshold, "chance": chance}
        label = f"detail of {found.query}"
        pages = exports.hits_annotations(found.hits, self.sizes, label=label, canvas=_address, page=_page)
        listed = exports.hits_json(
            found.hits,
            query=found.query,
            box=found.box,
            model=found.model,
            parameters=about,
            below=found.below if below else None,
        )
        whole = self.picture(found.query)
        return {
            "detail/hits.csv": exports.hits_csv(found.hits),
            **({"detail/below_threshold.csv": exports.hits_csv(found.below)} if below else {}),
            "detail/hits.json": json.dumps(listed, indent=1),
            "detail/report.html": report.html_report(
                whole, found.box, found.hits, self.picture, name=found.query, model=found.model, parameters=about
            ),
        } | {f"detail/iiif/{name}.json": json.dumps(page, indent=1) for name, page in pages.items()}

    def pair_files(self, parameters: Mapping[str, object], *, threshold: float, model: str) -> dict[str, str]:
        """What repeats, as texts by names of files: pairs (CSV, JSON, GraphML), clusters (CSV), and IIIF pages.

        A pair without a verdict is a link above a score of `threshold`, which is added to the parameters.
        """
        groups, further = self.groups(threshold)
        links: list[exports.AnyPair] = [*PairTable(judged(self.pairs or [], self.verdicts), threshold).pairs, *further]
        about = {**parameters, "pair_threshold": threshold}
        listed = exports.pairs_json(links, self.sizes, model=model, parameters=about)
        pages = exports.pairs_annotations(links, self.sizes, canvas=_address, page=_page)
        numbers = {name: number for number, group in reversed(list(enumerate(groups, 1))) for name in group.images}
        return {
            "repeats/pairs.csv": exports.pairs_csv(links, self.sizes),
            "repeats/pairs.json": json.dumps(listed, indent=1),
            "repeats/pairs.graphml": exports.pairs_graphml(links, clusters=numbers, model=model, parameters=about),
            "repeats/clusters.csv": exports.clusters_csv(groups),
        } | {f"repeats/iiif/{name}.json": json.dumps(page, indent=1) for name, page in pages.items()}

    def pack(self, archive: Path, texts: Mapping[str, str]) -> None:
        """Write texts, by names of files, and the verdicts if there are any, into a ZIP file."""
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, text in texts.items():
                packed.writestr(name, text)
            if self.verdict_file.path.exists():
                packed.write(self.verdict_file.path, "verdicts.jsonl")


def _address(name: str) -> str:
    return f"{IIIF}/{quote(name)}"


def _page(name: str) -> str:
    return f"{IIIF}/annotations/{quote(name)}"
