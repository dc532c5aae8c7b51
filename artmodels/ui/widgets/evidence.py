"""What one looks at evidence with: two places side by side and by turns, and groups of pictures as rows."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from artmodels.ui.controls import status_line
from artmodels.ui.server.pictures import data_url
from artmodels.ui.widgets.viewers import html

__all__ = ["JUDGING_STYLE", "ROWS_STYLE", "SCROLL", "comparison", "judging", "rows_of_groups"]

COMPARISON_STYLE = """
.sides { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 220px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .85rem; line-height: 1.4; padding: .3rem 0 .5rem; color: var(--body-text-color-subdued); }
.frame { position: relative; background: #8884; line-height: 0; }
.frame img { display: block; width: 100%; height: auto; margin: 0; }
.frame .over { position: absolute; inset: 0; height: 100%; animation: turns 1.6s infinite step-end; }
.by-turns:has(.still:checked) .over { animation: none; }
@media (prefers-reduced-motion: reduce) { .frame .over { animation: none; } }
.more { display: grid; gap: .8rem 1.4rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.whole img { display: block; max-width: 100%; max-height: 460px; width: auto; height: auto; margin: 0; }
dl {
  display: grid; grid-template-columns: auto 1fr; gap: .2rem .9rem; margin: 0; font-size: .9rem; align-content: start;
}
dt { color: var(--body-text-color-subdued); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) {
  .sides { grid-template-columns: 1fr 1fr; }
  .by-turns { grid-column: 1 / -1; }
}
"""

ROWS_STYLE = """
section { padding: .9rem 0 1rem; border-top: 1px solid var(--border-color-primary); }
h3 { font-size: 1.05rem; margin: 0 0 .5rem; }
.row { display: flex; gap: .7rem; overflow-x: auto; padding-bottom: .3rem; }
figure { margin: 0; flex: none; }
img { display: block; height: 170px; width: auto; max-width: none; margin: 0; }
figcaption { font-size: .8rem; padding-top: .25rem; color: var(--body-text-color-subdued); }
.follows img { height: 110px; outline: 2px dashed var(--body-text-color-subdued); outline-offset: -2px; }
.follows { padding: .5rem 0; flex-wrap: wrap; }
.follows > figcaption { flex: 1 1 14rem; }
.nothing { color: var(--body-text-color-subdued); }
"""


# For the style sheet of the page. Nobody can judge what is not shown.
JUDGING_STYLE = ".judging:not(:has(.sides)) .verdicts { display: none; }"

# Runs in the browser when evidence has come.
SCROLL = """() => {
  const all = [...document.querySelectorAll('.evidence .sides')];
  all.find((one) => one.offsetParent)?.scrollIntoView({ behavior: 'smooth', block: 'center' });
}"""


def judging(verdicts: Mapping[str, str]) -> tuple[Any, dict[str, Any], Any]:
    """Add a place for `comparison`, buttons to judge it, which are there only with it, and a status line.

    Args:
        verdicts: Words on the buttons by what they mean.

    Returns:
        The place, the buttons by what they mean, and the status line.
    """
    with gr.Column(elem_classes="judging"):
        place = html(COMPARISON_STYLE, name="evidence")
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
    """Show two places beside each other and by turns, the whole pictures that they are from, and facts.

    Args:
        first: Caption and picture of what was looked for.
        second: Caption and picture of what was found, of the same size.
        wholes: Name and picture, with the place marked on it.
        facts: Names and values.
        note: What is said below each whole picture, after its name.
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


def rows_of_groups(
    groups: Sequence[tuple[str, Sequence[tuple[str, Image.Image]]]],
    further: Sequence[tuple[str, Sequence[tuple[str, Image.Image]]]],
) -> str:
    """Show groups of pictures as rows, and below them what only follows from others.

    Args:
        groups: For each its heading, and the names and pictures in it.
        further: For each proposal a sentence, and the names and pictures that it is about.
    """
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
