"""`artmodels run artminer`: a detail of one file, looked for in a folder."""

import hashlib
from dataclasses import replace
from pathlib import Path

from platformdirs import user_cache_path

from artmodels import images
from artmodels.errors import ConfigError
from artmodels.files import write_whole
from artmodels.methods.artminer.collection.collection import Collection
from artmodels.methods.artminer.evidence.report import html_report
from artmodels.methods.artminer.oneshot import Searched
from artmodels.methods.artminer.pipeline import ArtMiner

__all__ = ["collection_of", "search_folder", "write_report"]


def collection_of(folder: Path, miner: ArtMiner, *, store: Path | None = None, progress: bool = False) -> Collection:
    """The described pictures of a folder, made or brought up to date.

    Args:
        folder: Of pictures, with those of its subfolders.
        miner: What describes them.
        store: Where features are kept; None for a place of this folder and model in the user's cache.
        progress: Show a bar.

    Raises:
        ArtModelsError: See `Collection.add`.
    """
    root = folder.expanduser().resolve()
    if not root.is_dir():
        raise ConfigError(f"{folder} is not a folder: name one with pictures")
    if store is None:
        key = hashlib.sha256(f"{root}\0{miner.fingerprint}\0{miner.views}".encode()).hexdigest()[:16]
        store = user_cache_path("artmodels", appauthor=False) / "collections" / key
    held = Collection.open(store) if (store / "collection.json").exists() else Collection.create(store, miner)
    held.add(root, miner, progress=progress)
    gone = [name for name in held.files if not (root / name).is_file()]
    if gone:
        held.remove(gone)
    return held


def search_folder(query: Path, box: tuple[float, float, float, float], held: Collection, miner: ArtMiner) -> Searched:
    """Look for a detail in a collection; the query's own picture, if it is there, is left out.

    Places below the `threshold` of the miner's settings are left out, too.

    Args:
        query: Picture that shows it.
        box: Left, top, width, height in its pixels, from the top left corner.
        held: Where to look.
        miner: What described it.

    Raises:
        ArtModelsError: The picture cannot be read, or the box is none inside it.
    """
    left, top, width, height = box
    loaded = images.load(query)
    own = held.name_of_bytes(query) or ""
    found = miner.search(loaded, (left, top, left + width, top + height), held, query=own)
    return replace(found, hits=tuple(hit for hit in found.hits if hit.score >= miner.config.threshold))


def write_report(file: Path, query: Path, found: Searched, held: Collection, miner: ArtMiner) -> None:
    """Write the hits as one HTML file, whole or not at all.

    Raises:
        ArtModelsError: It cannot be written.
    """
    page = html_report(
        query,
        found.box,
        found.hits,
        held.path,
        name=query.name,
        model=found.model,
        parameters=miner.config,
    )
    write_whole({file: page})
