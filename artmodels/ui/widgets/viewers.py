"""What one looks at pictures with: on top of each other, a place beside its match, pictures with captions."""

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from artmodels.ui.controls import run_folder
from artmodels.ui.server.pictures import data_url, picture_url

__all__ = [
    "FIGURES_STYLE",
    "NO_POINTS",
    "TABLE_STYLE",
    "choices",
    "figures",
    "gallery",
    "gallery_tiles",
    "html",
    "overlay",
    "points",
    "table",
]


def html(style: str, value: str = "", *, name: str | None = None) -> Any:
    """Add a place for HTML that the server makes.

    Args:
        style: Its style sheet, which reaches nothing else on the page.
        value: What it shows at first.
        name: Class by which the page's own style sheet finds it.
    """
    return gr.HTML(value, css_template=style, js_on_load=None, apply_default_css=False, elem_classes=name)


def gallery(label: str, name: str, **options: Any) -> Any:
    """Add pictures to click, which do not open by themselves.

    Args:
        label: For people.
        name: Class by which the page's own style sheet finds it.
        options: Further ones of `gr.Gallery`.
    """
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


# --- examples

CHOICES_STYLE = """
.choices {
  display: grid; gap: .6rem; grid-template-columns: repeat(auto-fit, minmax(104px, 1fr)); padding: .2rem 0 .6rem;
}
p { margin: 0; font-size: .9rem; color: var(--body-text-color-subdued); }
button {
  display: flex; flex-direction: column; padding: 0; cursor: pointer; text-align: left; font-size: .85rem;
  color: inherit; border: 1px solid var(--border-color-primary); background: var(--block-background-fill);
}
button:hover, button:focus-visible { border-color: var(--button-primary-background-fill); }
button img { display: block; width: 100%; aspect-ratio: 3 / 2; object-fit: cover; margin: 0; }
button span { padding: .35rem .5rem; line-height: 1.3; }
"""
CHOICES_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) trigger('chosen', { index: button.dataset.index });
});
"""
THUMBNAIL = 240  # px: longest side


def choices(tiles: Sequence[tuple[Path, str]]) -> Any:
    """Add a row of pictures with captions; the event `chosen` brings the index of the one that was clicked."""
    buttons = ""
    for index, (path, text) in enumerate(tiles):
        with Image.open(path) as picture:
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            image = picture_url(picture.convert("RGB"), 80)
        inside = f'<img src="{image}" alt=""><span>{escape(text)}</span>'
        buttons += f'<button type="button" data-index="{index}">{inside}</button>'
    return gr.HTML(
        f'<p>Or try an example:</p><div class="choices">{buttons}</div>', css_template=CHOICES_STYLE,
        js_on_load=CHOICES_SCRIPT, elem_classes="samples", apply_default_css=False,
    )  # fmt: skip


# --- one picture on the other

OVERLAY = """
<div class="stack"><img class="under" alt="The target"><img class="over" alt="The source, on the target"></div>
<div class="tools">
  <label class="wide">Opacity of the source
    <input class="opacity" type="range" min="0" max="100" step="1" value="50"> <output>50 %</output></label>
  <label><input class="flicker" type="checkbox"> Flicker: both by turns</label>
</div>
"""

OVERLAY_STYLE = """
.stack { position: relative; width: fit-content; max-width: 100%; margin: 0 auto; line-height: 0; background: #8884; }
.stack img { display: block; margin: 0; }
.under { max-width: 100%; max-height: 560px; width: auto; height: auto; }
.over { position: absolute; inset: 0; width: 100%; height: 100%; }
.stack.by-turns .over { opacity: 1 !important; animation: turns 1.2s infinite step-end; }
.tools { display: flex; flex-wrap: wrap; gap: .6rem 2rem; align-items: center; padding: .9rem 0 .2rem; }
.tools label { display: flex; flex-wrap: wrap; gap: .3rem .7rem; align-items: center; cursor: pointer; }
.tools .wide { flex: 1 1 280px; }
.opacity { flex: 1 1 140px; accent-color: var(--slider-color); }
.flicker { appearance: auto; width: 1.1rem; height: 1.1rem; accent-color: var(--slider-color); }
output { min-width: 3.2em; font-variant-numeric: tabular-nums; }
"""

# The listeners are on the component itself: what is inside is made anew with each value.
OVERLAY_SCRIPT = """
let opacity = 50, flicker = false;
const part = (name) => element.querySelector(name);
function draw() {
  const value = props.value;
  if (!part('.over')) return;
  for (const name of ['under', 'over']) {
    const image = part('.' + name);
    if (value && value[name]) image.setAttribute('src', value[name]); else image.removeAttribute('src');
  }
  part('.over').style.opacity = opacity / 100;
  part('.stack').classList.toggle('by-turns', flicker);
  part('.opacity').value = opacity;
  part('.opacity').disabled = flicker;
  part('.flicker').checked = flicker;
  part('output').textContent = opacity + ' %';
}
element.addEventListener('input', (event) => {
  if (event.target.matches('.opacity')) opacity = event.target.value;
  if (event.target.matches('.flicker')) flicker = event.target.checked;
  draw();
});
watch('value', draw);
draw();
"""


def overlay() -> Any:
    """Add two pictures on top of each other; the value holds the addresses `under` and `over`."""
    return gr.HTML(
        None, html_template=OVERLAY, css_template=OVERLAY_STYLE, js_on_load=OVERLAY_SCRIPT, elem_classes="overlay",
        apply_default_css=False,
    )  # fmt: skip


# --- points

POINTS = """
<div class="both">
  <figure><div class="sheet target" role="img" aria-label="Target: click a place, or type it below">
    <img class="picture" alt="" draggable="false"></div><figcaption>Target: click a place</figcaption></figure>
  <figure><div class="sheet source" role="img" aria-label="Source, with the places that match">
    <img class="picture" alt="" draggable="false"></div><figcaption>Source: its match</figcaption></figure>
</div>
"""

POINTS_STYLE = """
.both { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .85rem; padding: .3rem 0; text-align: center; color: var(--body-text-color-subdued); }
.sheet { position: relative; width: fit-content; max-width: 100%; margin: 0 auto; line-height: 0; }
.target { cursor: crosshair; }
.picture { display: block; max-width: 100%; max-height: 520px; width: auto; height: auto; margin: 0; }
.mark {
  position: absolute; width: 22px; height: 22px; margin: -11px 0 0 -11px; border-radius: 50%; box-sizing: border-box;
  border: 2px solid #fff; outline: 1px solid #000; pointer-events: none; font: 700 11px/18px sans-serif;
  text-align: center; color: #fff; background: rgb(178 34 40 / .85);
}
.mark.unsure { background: rgb(60 60 60 / .55); border-style: dashed; }
"""

POINTS_SCRIPT = """
function draw() {
  const value = props.value;
  for (const name of ['target', 'source']) {
    const sheet = element.querySelector('.' + name);
    if (!sheet) return;
    const picture = sheet.querySelector('.picture');
    if (!value || !value[name]) picture.removeAttribute('src');
    else if (picture.getAttribute('src') !== value[name]) picture.setAttribute('src', value[name]);
    sheet.querySelectorAll('.mark').forEach((mark) => mark.remove());
    (value && value[name] ? props.marks || [] : []).forEach((point, index) => {
      if (name === 'source' && !point.inside) return;
      const mark = document.createElement('span'), [width, height] = value[name + '_size'];
      mark.className = 'mark' + (point.sure ? '' : ' unsure');
      mark.textContent = index + 1;
      mark.style.left = 100 * point[name][0] / width + '%';
      mark.style.top = 100 * point[name][1] / height + '%';
      sheet.append(mark);
    });
  }
}
element.addEventListener('click', (event) => {
  const sheet = event.target.closest('.sheet.target');
  if (!sheet || !props.value || !props.value.target) return;
  const area = sheet.querySelector('.picture').getBoundingClientRect();
  const share = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
  const [x, y] = share.map((each, axis) => Math.min(Math.max(each, 0), 1) * props.value.target_size[axis]);
  trigger('picked', { x, y });
});
watch(['value', 'marks'], draw);
draw();
"""


def points() -> Any:
    """Add target and source; the event `picked` brings x and y in pixels of the target, `marks` is what is drawn."""
    return gr.HTML(
        None, html_template=POINTS, css_template=POINTS_STYLE, js_on_load=POINTS_SCRIPT, elem_classes="points",
        apply_default_css=False, marks=[],
    )  # fmt: skip


TABLE_STYLE = """
.frame { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .25rem 1.1rem .25rem 0; text-align: right; white-space: nowrap; }
th { font-weight: 600; border-bottom: 1px solid var(--border-color-primary); }
td:last-child, th:last-child { text-align: left; }
p { color: var(--body-text-color-subdued); margin: .2rem 0; }
"""
NO_POINTS = "<p>No point yet: click a place on the target, or type its pixels and press “Look up”.</p>"


def table(found: Sequence[dict[str, Any]], trusted: float) -> str:
    """Points and their matches in numbers."""
    if not found:
        return NO_POINTS
    rows = ""
    for number, point in enumerate(found, 1):
        if not point["inside"]:
            verdict = "outside the source"
        else:
            verdict = "sure" if point["matchability"] >= trusted else "unsure: the source may not show this"
        numbers = (*point["target"], *point["source"])
        cells = "".join(f"<td>{value:.1f}</td>" for value in numbers)
        rows += f"<tr><td>{number}</td>{cells}<td>{point['matchability']:.2f}</td><td>{verdict}</td></tr>"
    head = "".join(f"<th>{title}</th>" for title in ("", "Target x", "y", "Source x", "y", "Matchability", ""))
    return f'<div class="frame"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


# --- maps, and means

FIGURES_STYLE = """
.figures { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
figure { margin: 0; min-width: 0; }
img { display: block; max-width: 100%; max-height: 420px; width: auto; height: auto; margin: 0; }
figcaption { font-size: .88rem; line-height: 1.45; padding: .4rem 0; color: var(--body-text-color-subdued); }
figcaption b { display: block; color: var(--body-text-color); font-size: 1rem; }
"""


def figures(shown: Sequence[tuple[str, Image.Image, str]]) -> str:
    """Pictures with titles and explanations."""
    parts = "".join(
        f'<figure><img src="{data_url(picture, 86)}" alt="{escape(title)}">'
        f"<figcaption><b>{escape(title)}</b>{escape(text)}</figcaption></figure>"
        for title, picture, text in shown
    )
    return f'<div class="figures">{parts}</div>'
