"""A picture on which one draws a box, with a mouse, a pen or a finger."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from artmodels.detections.boxes import Box
from artmodels.errors import ConfigError
from artmodels.ui.server.pictures import data_url

__all__ = ["box_canvas", "corners", "opened"]

LONGEST = 1200  # px: side of what the page gets; boxes are in pixels of the picture itself
SMALLEST = 2  # px: sides of a box

TEMPLATE = """
<div class="sheet" role="img" aria-label="Draw a box around a detail, or type its numbers below">
  <img class="picture" alt="" draggable="false"><div class="box"></div>
  <p class="nothing">Choose a picture above: it opens here.</p>
</div>
"""
STYLE = """
.sheet {
  position: relative; width: fit-content; max-width: 100%; margin: 0 auto; line-height: 0; overflow: hidden;
  touch-action: none; user-select: none; -webkit-user-select: none; cursor: crosshair;
}
.picture { display: block; max-width: 100%; max-height: 540px; width: auto; height: auto; margin: 0; }
.picture:not([src]), .box:not(.drawn), .picture[src] ~ .nothing { display: none; }
.box {
  position: absolute; box-sizing: border-box; pointer-events: none; border: 2px solid #fff; outline: 1px solid #000;
  outline-offset: 0; box-shadow: 0 0 0 4000px rgb(0 0 0 / .42);
}
.nothing {
  line-height: 1.5; padding: 4rem 1.5rem; margin: 0; text-align: center; cursor: default;
  border: 1px dashed var(--border-color-primary); color: var(--body-text-color-subdued);
}
"""

# The listeners are on the component itself: what is inside is made anew with each value.
SCRIPT = """
let box = null, before = null, start = null;
const part = (name) => element.querySelector('.' + name);
const clamp = (value) => Math.min(Math.max(value, 0), 1);

function draw() {
  const image = part('picture'), frame = part('box'), value = props.value;
  if (!image || !frame) return;
  if (!value) { image.removeAttribute('src'); frame.classList.remove('drawn'); return; }
  if (image.getAttribute('src') !== value.src) image.setAttribute('src', value.src);
  frame.classList.toggle('drawn', !!box);
  if (!box) return;
  const [x, y, width, height] = box;
  frame.style.left = 100 * x / value.width + '%';
  frame.style.top = 100 * y / value.height + '%';
  frame.style.width = 100 * width / value.width + '%';
  frame.style.height = 100 * height / value.height + '%';
}

function place(event) {
  const area = part('picture').getBoundingClientRect();
  return [
    clamp((event.clientX - area.left) / area.width) * props.value.width,
    clamp((event.clientY - area.top) / area.height) * props.value.height,
  ];
}

function stretch(event) {
  const [x, y] = place(event);
  const left = Math.round(Math.min(x, start[0])), top = Math.round(Math.min(y, start[1]));
  box = [left, top, Math.round(Math.max(x, start[0])) - left, Math.round(Math.max(y, start[1])) - top];
  draw();
}

element.addEventListener('pointerdown', (event) => {
  if (event.button || !props.value || !event.target.closest('.sheet')) return;
  event.preventDefault();
  event.target.closest('.sheet').setPointerCapture(event.pointerId);
  before = box;
  start = place(event);
});
element.addEventListener('pointermove', (event) => { if (start) stretch(event); });
element.addEventListener('pointerup', (event) => {
  if (!start) return;
  stretch(event);
  start = null;
  if (box[2] < 3 || box[3] < 3) { box = before; draw(); return; }  // a click, no box
  trigger('drawn', { box });
});
element.addEventListener('pointercancel', () => { start = null; box = before; draw(); });
element.addEventListener('place', (event) => { if (!start) { box = event.detail; draw(); } });
watch('value', () => { box = (props.value && props.value.box) || null; draw(); });
draw();
"""

# Runs in the browser when a number is typed; a box that is not complete is not shown.
FOLLOW = """
(x, y, width, height) => {
  const stage = document.querySelector('.artminer-canvas .sheet');
  const box = [x, y, width, height].some((value) => value === null || value === '') ? null : [x, y, width, height];
  if (stage) stage.dispatchEvent(new CustomEvent('place', { detail: box, bubbles: true }));
}
"""


def box_canvas() -> tuple[Any, list[Any]]:
    """Add the picture, and below it the numbers of its box; what is drawn is in the numbers, what is typed is shown.

    Returns:
        The picture, whose value `opened` makes; and four numbers: x, y, width and height in pixels of the picture.
    """
    canvas = gr.HTML(
        None, html_template=TEMPLATE, css_template=STYLE, js_on_load=SCRIPT, elem_classes="artminer-canvas",
        apply_default_css=False,
    )  # fmt: skip
    with gr.Row():
        box = [gr.Number(None, label=name, precision=0, min_width=110) for name in ("x", "y", "width", "height")]
    canvas.drawn(_numbers, None, box, api_visibility="private", show_progress="hidden", queue=False)
    for number in box:
        number.change(None, box, None, js=FOLLOW, api_visibility="private")
    return canvas, box


def _numbers(event: gr.EventData) -> tuple[int, ...]:
    return tuple(event.box)


def opened(picture: Image.Image, box: list[int] | None = None) -> dict[str, Any]:
    """Give what the canvas shows: a picture, and perhaps a box on it as x, y, width and height."""
    small = picture.copy()
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return {"src": data_url(small, 88), "width": picture.width, "height": picture.height, "box": box}


def corners(box: Sequence[float | None], size: tuple[int, int]) -> Box:
    """Check the numbers of a box, and give left, top, right and bottom.

    Args:
        box: x, y, width and height in pixels, None where nothing was typed.
        size: Width and height of the picture.

    Raises:
        ConfigError: A number is missing, or the box is not at least `SMALLEST` pixels a side inside the picture.
    """
    if any(value is None for value in box):
        raise ConfigError("There is no box yet: draw one around a detail, or type x, y, width and height.")
    x, y, width, height = (float(value or 0) for value in box)
    if min(width, height) < SMALLEST:
        raise ConfigError(f"The box is {width:g} x {height:g} px: draw one of at least {SMALLEST} x {SMALLEST} px.")
    wide, high = size
    if min(x + width, wide) - max(x, 0) < SMALLEST or min(y + height, high) - max(y, 0) < SMALLEST:
        raise ConfigError(
            f"The box at x {x:g}, y {y:g} lies outside the picture, which has {wide} x {high} px: draw it inside."
        )
    return x, y, x + width, y + height
