"""`artmodels run artminer`: a detail of one file, looked for in a folder."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from platformdirs import user_cache_path

from artmodels.detections.boxes import Box
from artmodels.errors import ConfigError
from artmodels.files import write_whole
from artmodels.methods.artminer.collection.collection import Collection
from artmodels.methods.artminer.evidence.report import html_report
from artmodels.methods.artminer.oneshot import Searched
from artmodels.methods.artminer.pipeline import ArtMiner

__all__ = ["FolderSearch", "search_folder"]

SHOWN = 20  # hits


@dataclass(frozen=True, kw_only=True)
class FolderSearch:
    """Where a detail was found."""

    formats: ClassVar[tuple[str, ...]] = (".html", ".htm")  # of files that `save` writes
    query: Path  # the picture that shows the detail
    searched: Searched
    collection: Collection
    miner: ArtMiner
    below: bool = False  # whether places below the threshold are listed, too
    notes: tuple[str, ...] = ()  # which pictures could not be looked at, and why

    @property
    def summary(self) -> str:
        """How many places were found, and a table of the best."""
        hits, below = self.searched.hits, self.searched.below
        rows = [("rank", "picture", "x,y,w,h", "score", "cells", "turned", "")]
        shown = [*hits, *(below if self.below else ())][:SHOWN]
        for rank, hit in enumerate(shown, start=1):
            x, y, right, bottom = hit.box
            cells = "" if hit.match is None else str(len(hit.match.similarity))
            place = f"{x:.0f},{y:.0f},{right - x:.0f},{bottom - y:.0f}"
            under = "" if rank <= len(hits) else "below the threshold"
            rows.append((str(rank), hit.image, place, f"{hit.score:.3f}", cells, hit.view, under))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        lines = [f"{len(hits)} places in {len(self.collection)} pictures", *table]
        if self.searched.raised:
            raised = f"{self.searched.threshold:.3f}"
            lines.append(f"What the box scores there by chance raises the threshold to {raised}.")
        if below and not self.below:
            lines.append(f"{len(below)} places below the threshold are not listed: --below lists them.")
        return "\n".join(lines)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the hits as one HTML file, whole or not at all."""
        page = html_report(
            self.query,
            self.searched.box,
            self.searched.hits,
            self.collection.path,
            name=self.query.name,
            model=self.searched.model,
            parameters=self.miner.config,
        )
        write_whole({Path(file): page})


def search_folder(
    miner: ArtMiner, *, query: Path, box: Box, collection: Path, below: bool = False, progress: bool = False
) -> FolderSearch:
    """Look for a detail of a picture in the other pictures of a folder.

    The query's own picture is left out, and so are places below the threshold, unless they are asked for.

    Args:
        miner: What looks.
        query: The picture that shows the detail.
        box: Left, top, right, bottom of the detail in its pixels.
        collection: The folder to look for it in.
        below: List places below the threshold too, named as such.
        progress: Show a bar while pictures are described; what is described is kept for the next time.

    Raises:
        ArtModelsError: The picture cannot be read, the box is none inside it, or the folder does not do.
    """
    held = _collection_of(collection, miner, progress=progress)
    found = miner.search(query, box, held, query=held.name_of_bytes(query) or "")
    notes = tuple(f"{file} was skipped: {reason}" for file, reason in held.skipped.items())
    return FolderSearch(query=query, searched=found, collection=held, miner=miner, below=below, notes=notes)


def _collection_of(folder: Path, miner: ArtMiner, *, progress: bool) -> Collection:
    """The described pictures of a folder and its subfolders, made or brought up to date in the user's cache."""
    root = folder.expanduser().resolve()
    if not root.is_dir():
        raise ConfigError(f"{folder} is not a folder: name one with pictures")
    key = hashlib.sha256(f"{root}\0{miner.fingerprint}\0{miner.views}".encode()).hexdigest()[:16]
    store = user_cache_path("artmodels", appauthor=False) / "collections" / key
    held = Collection.open_or_create(store, miner)
    held.add(root, miner, progress=progress)
    gone = [name for name in held.files if not (root / name).is_file()]
    if gone:
        held.remove(gone)
    return held
