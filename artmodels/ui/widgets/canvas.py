"""A picture on which one draws a box, with a mouse, a pen or a finger."""

from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from artmodels.detections.boxes import Box
from artmodels.errors import ConfigError
from artmodels.ui.server.pictures import data_url
from artmodels.ui.widgets.component import component

__all__ = ["box_canvas", "corners", "opened"]

LONGEST = 1200  # px: side of what the page gets; boxes are in pixels of the picture itself
SMALLEST = 2  # px: sides of a box

# Runs in the browser when a number is typed; a box that is not complete is not shown.
FOLLOW = """
(x, y, width, height) => {
  const stage = document.querySelector('.artminer-canvas .sheet');
  const box = [x, y, width, height].some((value) => value === null || value === '') ? null : [x, y, width, height];
  if (stage) stage.dispatchEvent(new CustomEvent('place', { detail: box, bubbles: true }));
}
"""


def box_canvas() -> tuple[Any, list[Any]]:
    """Add a picture, whose value `opened` makes, and the x, y, width and height of its box, in pixels of the picture.

    What is drawn is in the numbers, and what is typed is drawn.
    """
    canvas = component("canvas", elem_classes="artminer-canvas")
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
    """Check x, y, width and height of a box on a picture of this width and height; give left, top, right and bottom.

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
