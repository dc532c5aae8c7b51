"""What one looks at evidence with: two places side by side and by turns, and groups of pictures as rows."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from artmodels.ui.controls import status_line
from artmodels.ui.server.pictures import data_url
from artmodels.ui.widgets.component import html

__all__ = ["JUDGING_STYLE", "SCROLL", "comparison", "judging", "rows_of_groups"]

# For the style sheet of the page. Nobody can judge what is not shown.
JUDGING_STYLE = ".judging:not(:has(.sides)) .verdicts { display: none; }"

# For the browser, when evidence has come.
_SHOW = """() => {
  const all = [...document.querySelectorAll('.evidence .sides')];
  all.find((one) => one.offsetParent)?.scrollIntoView({ behavior: 'smooth', block: 'center' });
}"""
SCROLL: dict[str, Any] = {"fn": None, "js": _SHOW, "api_visibility": "private"}

Row = tuple[str, Sequence[tuple[str, Image.Image]]]
"""A heading or a sentence, and the names and pictures that it is about."""


def judging(verdicts: Mapping[str, str]) -> tuple[Any, dict[str, Any], Any]:
    """Add a place for a `comparison`, a button for each verdict on it, with these words, and a status line.

    The buttons are there only with a comparison.
    """
    with gr.Column(elem_classes="judging"):
        place = html("comparison", name="evidence")
        with gr.Row(elem_classes="verdicts"):
            buttons = {verdict: gr.Button(words, min_width=100) for verdict, words in verdicts.items()}
        return place, buttons, status_line("")


def comparison(
    first: tuple[str, Image.Image],
    second: tuple[str, Image.Image],
    wholes: Sequence[tuple[str, Image.Image]],
    facts: Mapping[str, str],
    *,
    note: str = "",
) -> str:
    """Show two places, each a caption and a picture, of one size, beside each other and by turns.

    Below them are the whole pictures, each with its name, its place marked on it, and the note; and the facts.
    """
    looked_for, found = data_url(first[1]), data_url(second[1])
    figures = "".join(
        f'<figure class="whole"><img src="{data_url(picture)}" alt="{escape(name)}, whole, with the place marked">'
        f"<figcaption>{escape(name)}, whole.{note}</figcaption></figure>"
        for name, picture in wholes
    )
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f"""<div class="sides">
<figure><div class="frame"><img src="{looked_for}" alt="What was looked for"></div><figcaption>{escape(first[0])}
</figcaption></figure>
<figure><div class="frame"><img src="{found}" alt="What was found"></div><figcaption>{escape(second[0])}
</figcaption></figure>
<figure class="by-turns"><div class="frame"><img src="{looked_for}" alt=""><img class="over" src="{found}"
alt="By turns"></div><figcaption>Both by turns. <label><input type="checkbox" class="still"> hold still</label>
</figcaption></figure>
</div><div class="more">{figures}<dl>{listed}</dl></div>"""


def rows_of_groups(groups: Sequence[Row], further: Sequence[Row]) -> str:
    """Show groups of pictures under their headings, and below them, beside sentences, what only follows from others."""
    parts = []
    for heading, pictures in groups:
        tiles = "".join(_tile(name, picture, f"{name}, what is shared") for name, picture in pictures)
        parts.append(f'<section class="cluster"><h3>{escape(heading)}</h3><div class="row">{tiles}</div></section>')
    if not groups:
        parts.append('<p class="nothing">No group at this threshold: lower it to see more.</p>')
    if further:
        lines = "".join(
            f'<div class="row follows">{"".join(_tile(name, picture) for name, picture in pictures)}'
            f"<figcaption>{escape(sentence)}</figcaption></div>"
            for sentence, pictures in further
        )
        parts.append(f"<section><h3>Propagated: not found, but it follows from two others</h3>{lines}</section>")
    return "".join(parts)


def _tile(name: str, picture: Image.Image, alt: str = "") -> str:
    return (
        f'<figure><img src="{data_url(picture)}" alt="{escape(alt)}"><figcaption>{escape(name)}</figcaption></figure>'
    )
