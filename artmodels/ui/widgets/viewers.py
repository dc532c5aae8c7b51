"""What one looks at pictures with: on top of each other, a place beside its match, pictures with captions."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from artmodels.ui.controls import run_folder
from artmodels.ui.server.pictures import data_url, picture_url
from artmodels.ui.widgets.component import component

__all__ = ["NO_POINTS", "choices", "figures", "gallery", "gallery_tiles", "overlay", "points", "table"]

THUMBNAIL = 240  # px: longest side of an example
NO_POINTS = "<p>No point yet: click a place on the target, or type its pixels and press “Look up”.</p>"


def gallery(label: str, name: str, **options: Any) -> Any:
    """Add pictures to click, which do not open by themselves; the page's own style sheet finds them by their name."""
    return gr.Gallery(
        label=label, elem_classes=name, allow_preview=False, format="jpeg", interactive=False, buttons=[], **options
    )


def gallery_tiles(pictures: Iterable[tuple[Image.Image, str]], quality: int = 88) -> list[tuple[str, str]]:
    """Write pictures with captions as JPEG files, which a `gr.Gallery` shows without encoding them again."""
    folder, tiles = run_folder(), list[tuple[str, str]]()
    for number, (picture, caption) in enumerate(pictures):
        file = folder / f"{number:03}.jpg"
        picture.save(file, quality=quality)
        tiles.append((str(file), caption))
    return tiles


def choices(tiles: Sequence[tuple[Path, str]]) -> Any:
    """Add a row of pictures with captions; the event `chosen` brings the index of the one that was clicked."""
    buttons = ""
    for index, (path, text) in enumerate(tiles):
        with Image.open(path) as picture:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            image = picture_url(picture.convert("RGB"), 80)
        inside = f'<img src="{image}" alt=""><span>{escape(text)}</span>'
        buttons += f'<button type="button" data-index="{index}">{inside}</button>'
    row = f'<p>Or try an example:</p><div class="choices">{buttons}</div>'
    return component("choices", row, elem_classes="samples")


def overlay() -> Any:
    """Add two pictures on top of each other; the value holds the addresses `under` and `over`."""
    return component("overlay", elem_classes="overlay")


def points() -> Any:
    """Add target and source; the event `picked` brings x and y in pixels of the target, `marks` is what is drawn."""
    return component("points", elem_classes="points", marks=[])


def table(found: Sequence[dict[str, Any]], trusted: float) -> str:
    """Points and their matches in numbers, in the style `table`."""
    if not found:
        return NO_POINTS
    rows = ""
    for number, point in enumerate(found, 1):
        if not point["inside"]:
            verdict = "outside the source"
        else:
            verdict = "sure" if point["matchability"] >= trusted else "unsure: the source may not show this"
        cells = "".join(f"<td>{value:.1f}</td>" for value in (*point["target"], *point["source"]))
        rows += f"<tr><td>{number}</td>{cells}<td>{point['matchability']:.2f}</td><td>{verdict}</td></tr>"
    head = "".join(f"<th>{title}</th>" for title in ("", "Target x", "y", "Source x", "y", "Matchability", ""))
    return f'<div class="frame"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def figures(shown: Sequence[tuple[str, Image.Image, str]]) -> str:
    """Pictures with titles and explanations, in the style `figures`."""
    parts = "".join(
        f'<figure><img src="{data_url(picture, 86)}" alt="{escape(title)}">'
        f"<figcaption><b>{escape(title)}</b>{escape(text)}</figcaption></figure>"
        for title, picture, text in shown
    )
    return f'<div class="figures">{parts}</div>'
