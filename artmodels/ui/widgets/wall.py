"""A choice among pictures: what each model makes of the same picture, or of none."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from artmodels.errors import ArtModelsError
from artmodels.hub import catalogue
from artmodels.images.results import ImageResult
from artmodels.ui.controls import MODELS, models
from artmodels.ui.server.components import Choice
from artmodels.ui.server.pictures import picture_url
from artmodels.ui.widgets.component import part

__all__ = ["TILE", "Tile", "tiles", "wall"]

TILE = 224  # px: side of a picture

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A choice on a wall."""

    value: str  # the name of a model
    title: str  # first part of the caption
    text: str  # the rest, smaller
    picture: Image.Image  # square


def tiles(
    method: str,
    caption: Callable[[catalogue.Entry], tuple[str, str]],
    sample: Image.Image,
    make: Callable[[Any, Image.Image], ImageResult] = lambda model, sample: model(sample),
) -> list[Tile]:
    """Show what each model of a method makes of a sample, now: about a tenth of a second each.

    The tile is the sample itself where the model would have to be downloaded first, or cannot be loaded.
    """
    sample = ImageOps.fit(sample, (TILE, TILE), Image.Resampling.LANCZOS)
    made = []
    for entry in models(method):
        picture = sample
        if catalogue.download(entry) is None:
            try:
                picture = make(MODELS(entry.name), sample).image
            except ArtModelsError as error:  # whoever chooses it is told; the others are not kept from opening
                _log.warning("no tile for %s: %s", entry.name, error)
        title, text = caption(entry)
        made.append(Tile(value=entry.name, title=title, text=text, picture=picture))
    return made


def wall(label: str, choices: Sequence[Tile]) -> Any:
    """Add a choice among pictures: radio buttons, for keyboards and programs too, that look like a wall of tiles."""
    pictures = "".join(
        f".wall label:nth-of-type({number})::before {{ background-image: url({picture_url(tile.picture)}); }}\n"
        f".wall label:nth-of-type({number})::after {{ content: {json.dumps(tile.text, ensure_ascii=False)}; }}\n"
        for number, tile in enumerate(choices, start=1)
    )
    gr.HTML(f"<style>{part('wall.css')}{pictures}</style>", elem_classes="wall-style", padding=False)
    titles = [(tile.title, tile.value) for tile in choices]
    return Choice(titles, value=choices[0].value, label=label, elem_classes="wall")
