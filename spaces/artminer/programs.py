"""The endpoints: a search and a comparison, as programs call them."""

import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import gradio as gr

from artmodels.errors import ConfigError
from artmodels.ui.batches import upload_files
from artmodels.ui.checks import file_list
from artmodels.ui.controls import Update, run_folder
from artmodels.ui.events import endpoint
from artmodels.ui.uploads import reported


def add(collections: ModuleType, searching: ModuleType, shown: Callable[..., Any]) -> None:
    """Add the endpoints to the page.

    Args:
        collections: `collection.py`.
        searching: `searching.py`.
        shown: Gives the hits above a threshold as pictures, and a sentence.
    """

    def artminer_search(
        photos: list[str], picture: str, x: float, y: float, width: float, height: float, threshold: float
    ) -> Iterator[Update]:
        """Find a detail of one picture in others.

        Args:
            photos: Pictures, or ZIP files of pictures: PNG, JPEG, WebP or TIFF.
            picture: Name of the picture with the detail, or its number, from 1.
            x: Left edge of the detail, in pixels of that picture.
            y: Upper edge.
            width: Of the detail, in pixels.
            height: Of it.
            threshold: Score from -1 to 1 from which a place is reported.

        Returns:
            The places as pictures, best first; the places with boxes, scores and the model (JSON); and a ZIP file with
            a CSV table, the JSON, an HTML report and IIIF annotations.
        """
        work = yield from reported(
            collections.Work(run_folder() / "collection").collect(photos, most=collections.FILES), others=3
        )
        work.open = _named(work, picture)
        for text in searching.search(work, work.open, (x, y, width, height)):
            yield gr.skip(), gr.skip(), gr.skip(), text
        files = searching.search_files(work, threshold)
        archive = run_folder() / "artminer.zip"
        searching.pack(archive, work, [files])
        found = json.loads(files["detail/hits.json"]) | {"skipped": work.skipped, "duplicates": work.twins}
        tiles, text = shown(work, threshold)
        yield tiles, found, str(archive), text

    def artminer_pairs(photos: list[str], threshold: float) -> Iterator[Update]:
        """Find whatever repeats in a collection, without asking for anything.

        Args:
            photos: Pictures, or ZIP files of pictures: PNG, JPEG, WebP or TIFF.
            threshold: Discovery score from 0 to 1 above which two pictures are linked.

        Returns:
            Pairs of pictures that show the same, with boxes, transforms and cells, and the clusters (JSON); and a ZIP
            file with the pairs as CSV, JSON and GraphML, the clusters, and IIIF annotations.
        """
        work = yield from reported(
            collections.Work(run_folder() / "collection").collect(photos, most=collections.FILES), others=2
        )
        for text in searching.compare(work):
            yield gr.skip(), gr.skip(), text
        files = searching.pair_files(work, threshold)
        archive = run_folder() / "artminer.zip"
        searching.pack(archive, work, [files])
        groups, _ = searching.settled(work, threshold)
        found = json.loads(files["repeats/pairs.json"]) | {"clusters": [list(group.images) for group in groups]}
        yield found | {"skipped": work.skipped, "duplicates": work.twins}, str(archive), f"{len(groups)} groups"

    with gr.Column(visible=False):
        photos = upload_files("Pictures or ZIP files")
        picture = gr.Textbox(label="Picture with the detail")
        box = [gr.Number(label=name) for name in ("x", "y", "width", "height")]
        place = gr.Slider(-1, 1, searching.THRESHOLD, label="Least score")
        score = gr.Slider(0, 1, searching.PAIR_THRESHOLD, label="Least discovery score")
        tiles = gr.Gallery(label="Places, best first", format="jpeg")
        found, archive = gr.JSON(label="Found"), gr.File(label="ZIP file")
    most = {"photos": file_list(collections.FILES)}
    endpoint(artminer_search, [photos, picture, *box, place], [tiles, found, archive], most, "collections")
    endpoint(artminer_pairs, [photos, score], [found, archive], most, "collections")


def _named(work: Any, picture: str) -> str:
    """The picture of a name or number.

    Raises:
        ConfigError: There is none.
    """
    given = str(picture or "").strip()
    if given in work.files:
        return given
    if given in work.twins:
        return str(work.twins[given])
    if given.isdecimal() and 1 <= int(given) <= len(work.files):
        return str(work.files[int(given) - 1])
    names = ", ".join(work.files[:10]) + (", …" if len(work.files) > 10 else "")
    raise ConfigError(
        f"{given!r} is none of the pictures: give a number from 1 to {len(work.files)}, or one of {names}"
    )
