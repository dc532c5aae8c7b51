"""Detections and score maps as pictures: boxes with their class and score, and heat over the image."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from skimage.color import lab2rgb
from torch.nn import functional as F

from artmodels import images
from artmodels.detections.annotations import Detections
from artmodels.detections.boxes import as_boxes
from artmodels.errors import ConfigError, ImageError
from artmodels.images.decoding import Array

__all__ = ["boxes_over", "class_colour", "heat_colours", "heat_over", "in_a_row", "score_map"]

Colour = tuple[int, int, int]


def in_a_row(pictures: Sequence[Image.Image], *, height: int | None = None, gap: int = 8) -> Image.Image:
    """Lay pictures, at least one, side by side on white, aligned at the top, with `gap` pixels between two.

    With a `height` all are brought to so many pixels, keeping their shapes.
    """
    if height is not None:
        pictures = [item.resize((max(1, round(item.width * height / item.height)), height)) for item in pictures]
    width = sum(picture.width + gap for picture in pictures) - gap
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


def class_colour(label: str, classes: Sequence[str] = ()) -> Colour:
    """Give the sRGB colour of a class, the same in every picture.

    Colours differ in hue and hardly in lightness, so that no class stands out. Those of `classes` are spread evenly, in
    their order; any other class has the hue of a hash of its name, which may come close to another's.
    """
    if label in classes:
        turn = list(classes).index(label) / len(classes)
    else:
        turn = int.from_bytes(hashlib.sha256(label.encode()).digest()[:4], "big") / 2**32
    angle = 2 * math.pi * turn
    red, green, blue = _srgb(np.array([65.0, 60 * math.cos(angle), 60 * math.sin(angle)])).tolist()
    return red, green, blue


def boxes_over(
    image: images.Source, found: Detections, *, threshold: float = -math.inf, classes: Sequence[str] = ()
) -> Image.Image:
    """Draw boxes over an RGB copy of an image, each with its class and score; the highest score lies on top.

    Lines and letters grow with the image, so that they can be read when it is shown whole. The font is Pillow's own,
    which has Latin letters; others become empty squares. Only scores above `threshold` are drawn. For `classes` see
    `class_colour`.

    Raises:
        ImageError: The image has not the size that the detections were made at.
    """
    picture = images.load(image).pil().copy()
    if picture.size != (found.width, found.height):
        raise ImageError(
            f"the image has {picture.width} x {picture.height} pixels, the detections in {found.image!r} were made at "
            f"{found.width} x {found.height}; draw them over the image they were found in"
        )
    pen = ImageDraw.Draw(picture)
    shorter = min(picture.size)
    line, font = max(1, round(shorter / 250)), ImageFont.load_default(max(10, round(shorter / 32)))
    found = found.above(threshold)
    for number in np.argsort(found.scores, kind="stable"):
        colour = class_colour(found.labels[number], classes)
        left, top, right, bottom = found.boxes[number].round().astype(int).tolist()
        right, bottom = max(left, min(right, picture.width - 1)), max(top, min(bottom, picture.height - 1))
        pen.rectangle((min(left, right), min(top, bottom), right, bottom), outline=colour, width=line)
        # The caption on its class's colour: above the box where there is room, inside it otherwise, never beyond.
        caption = f"{found.labels[number]} {found.scores[number]:.2f}"
        x0, y0, x1, y1 = pen.textbbox((0, 0), caption, font=font)
        pad = max(1, round((y1 - y0) / 5))
        width, height = math.ceil(x1 - x0) + 2 * pad, math.ceil(y1 - y0) + 2 * pad
        x = max(0, min(left, picture.width - width))
        y = top - height if top >= height else max(0, min(top, picture.height - height))
        pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
        pen.text((x + pad - x0, y + pad - y0), caption, fill=(0, 0, 0), font=font)
    return picture


def heat_colours() -> Array:
    """Colours from dark violet over red to pale yellow, [256, 3] uint8 sRGB, whose lightness rises evenly.

    Even steps of CIELAB lightness keep the order of values also in grey and for colour-blind eyes.
    """
    steps = np.linspace(0, 1, 256)
    hue = np.radians(300 + 150 * steps)  # violet, red, orange, yellow
    chroma = 8 + 52 * np.sin(np.pi * np.clip(0.08 + 0.87 * steps, 0, 1))
    return _srgb(np.stack([8 + 84 * steps, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1))


def heat_over(
    image: images.Source, scores: Array, *, low: float | None = None, high: float | None = None, strength: float = 0.7
) -> Image.Image:
    """Lay a score map over an RGB copy of an image: where it is low the image shows, where it is high the heat.

    Args:
        image: Anything that `images.load` takes.
        scores: [h, w], of any size; it is enlarged to the image's, smoothly.
        low: Score without heat, and everything under it; the lowest by default.
        high: Score of full heat, and everything above it; the highest by default.
        strength: Share of the heat at `high`, in (0, 1].

    Raises:
        ConfigError: `strength` is out of range, or `low` above `high`.
        ImageError: The scores are no map, or not finite.
    """
    if not 0 < strength <= 1:
        raise ConfigError(f"strength is {strength}; give a value in (0, 1]")
    scores = np.asarray(scores, np.float32)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ImageError(f"scores have the shape {list(scores.shape)} or are not finite; give finite [h, w]")
    low, high = float(scores.min()) if low is None else low, float(scores.max()) if high is None else high
    if low > high:
        raise ConfigError(f"low is {low}, high {high}; low is the smaller")
    picture = images.load(image).pil()
    shares = (np.clip(scores, low, high) - low) / (high - low) if high > low else np.zeros_like(scores)
    size = picture.size[::-1]
    enlarged = F.interpolate(torch.from_numpy(shares)[None, None], size, mode="bilinear", align_corners=False)
    heat = enlarged[0, 0].clamp(0, 1).numpy()
    colours = heat_colours()[(heat * 255).round().astype(np.uint8)]
    mixed = np.asarray(picture) + (strength * heat)[..., None] * (colours.astype(np.float32) - np.asarray(picture))
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def score_map(boxes: Array, scores: Array, width: int, height: int, *, background: float = 0.0) -> Array:
    """Give each pixel the highest score [N] of the boxes [N, 4] over it: [height, width] float32.

    Pixels that no box covers have the score `background`, which is the least there is.
    """
    edges = as_boxes(boxes).cpu().numpy()
    scores = np.asarray(scores, np.float32)
    canvas = np.full((height, width), background, np.float32)
    # Painted from the lowest score up, the last one over a pixel is its highest.
    for number in np.argsort(scores, kind="stable"):
        if scores[number] > background:
            left, top = np.floor(edges[number, :2]).clip(0).astype(int)
            right, bottom = np.ceil(edges[number, 2:]).clip(0).astype(int)
            canvas[top:bottom, left:right] = scores[number]
    return canvas


def _srgb(lab: Array) -> Array:
    colours: Array = (np.clip(lab2rgb(lab), 0, 1) * 255).round().astype(np.uint8)
    return colours
