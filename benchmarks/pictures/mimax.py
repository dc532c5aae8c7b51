"""Write the example collection: small seascapes, painted by our own fast styles, some with a ship, a tower or a bird.

    python benchmarks/pictures/mimax.py

Nothing in it is anyone else's. `examples/labels.csv` says what each picture shows, `examples/boxes.json` where: the
boxes are for tests, the page never reads them.
"""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import artmodels

FOLDER = Path(__file__).parents[2] / "spaces" / "mimax" / "examples"
COUNT, WIDTH, HEIGHT, SCALE = 36, 384, 288, 3  # drawn three times as large, then reduced: smooth edges
# The fast styles have been trained anew since; these make the same pictures again.
EARLIER = Path(__file__).parents[2] / "weights" / "earlier"
STYLES = ("starry-night", "city-rises", "haymaking", "ink", "scream")

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]
Points = list[tuple[float, float]]


def main() -> None:
    """Draw, paint and write everything."""
    FOLDER.mkdir(exist_ok=True)
    painters = [artmodels.FastStyle.from_pretrained(EARLIER / f"fast-style-{name}") for name in STYLES]
    rng = np.random.default_rng(0)
    rows, boxes = list[dict[str, object]](), dict[str, dict[str, Box]]()
    for number in range(COUNT):
        name = f"seascape-{number:02}.jpg"
        picture, found = scene(rng)
        painted = painters[number % len(painters)](picture, strength=0.8).image
        painted.save(FOLDER / name, quality=85)
        rows.append({"file": name} | {thing: int(thing in found) for thing in THINGS})
        boxes[name] = found
    with open(FOLDER / "labels.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps(boxes, indent=1)
    (FOLDER / "boxes.json").write_text(text + "\n", encoding="utf-8")


def scene(rng: np.random.Generator) -> tuple[Image.Image, dict[str, Box]]:
    """Draw a sky, a sea, perhaps hills, and each thing two times in five; return it with the things' boxes."""
    width, height = WIDTH * SCALE, HEIGHT * SCALE
    horizon = height * rng.uniform(0.45, 0.65)
    canvas = Image.fromarray(_background(rng, width, height, horizon))
    draw = ImageDraw.Draw(canvas)
    if rng.random() < 0.6:
        _hills(draw, rng, width, horizon)
    found = dict[str, Box]()
    places = list(rng.permutation(3))  # thirds of the width: things do not hide each other
    for place, (name, paint) in zip(places, THINGS.items(), strict=True):
        if rng.random() < 0.4:
            size = height * rng.uniform(0.22, 0.4)
            centre = width * (place + rng.uniform(0.35, 0.65)) / 3
            left, top, right, bottom = paint(draw, rng, centre, horizon, size)
            found[name] = (
                round(max(0, left) / SCALE, 1),
                round(max(0, top) / SCALE, 1),
                round(min(width, right) / SCALE, 1),
                round(min(height, bottom) / SCALE, 1),
            )
    return canvas.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), found


def _background(rng: np.random.Generator, width: int, height: int, horizon: float) -> np.ndarray:
    """Sky above, sea below, each with a gradient and a few waves or clouds."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    sky, glow = rng.uniform(90, 200, 3) * (0.8, 0.95, 1.15), rng.uniform(180, 250, 3)
    sea, deep = rng.uniform(60, 150, 3) * (0.6, 0.9, 1.2), rng.uniform(20, 80, 3)
    above = rows < horizon
    share = np.where(above, rows / horizon, (rows - horizon) / (height - horizon))[..., None]
    pixels = np.where(above[..., None], sky + (glow - sky) * share**1.5, sea + (deep - sea) * share)
    for _ in range(5):
        length, phase, slope = rng.uniform(40, 200), rng.uniform(0, 2 * math.pi), rng.uniform(-0.4, 0.4)
        wave = np.sin((rows * rng.uniform(1.5, 4) + columns * slope) / length * 2 * math.pi + phase)
        pixels += (wave * rng.uniform(3, 9))[..., None]
    sky_and_sea: np.ndarray = pixels.clip(0, 255).astype(np.uint8)
    return sky_and_sea


def _hills(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, horizon: float) -> None:
    steps = np.linspace(0, width, 40)
    heights = sum(
        (rng.uniform(10, 60) * (1 + np.sin(steps / rng.uniform(120, 400) + rng.uniform(0, 6))) for _ in range(3)),
        start=np.zeros_like(steps),
    )
    colour = _colour(rng, 40, 130)
    line = [(float(x), float(horizon - rise)) for x, rise in zip(steps, heights, strict=True)]
    draw.polygon([(0, horizon), *line, (width, horizon)], fill=colour)


def _ship(draw: ImageDraw.ImageDraw, rng: np.random.Generator, centre: float, horizon: float, size: float) -> Box:
    """A hull, a mast and two sails."""
    bottom = horizon + size * rng.uniform(0.2, 0.5)
    half, hull = size * 0.5, size * 0.22
    deck = bottom - hull
    left, right = centre - half, centre + half
    draw.polygon(
        [(left, deck), (right, deck), (right - 0.2 * size, bottom), (left + 0.15 * size, bottom)],
        fill=_colour(rng, 30, 90),
    )
    top = deck - size * 0.8
    draw.line([(centre, deck), (centre, top)], fill=(50, 35, 25), width=max(2, round(size * 0.03)))
    sail = _colour(rng, 190, 250)
    draw.polygon(
        [(centre + 4, top), (centre + 0.42 * size, deck - 0.08 * size), (centre + 4, deck - 0.08 * size)], sail
    )
    draw.polygon(
        [(centre - 4, top + 0.1 * size), (centre - 0.36 * size, deck - 0.1 * size), (centre - 4, deck - 0.1 * size)],
        sail,
    )
    return left, top, right, bottom


def _tower(draw: ImageDraw.ImageDraw, rng: np.random.Generator, centre: float, horizon: float, size: float) -> Box:
    """A round tower on the shore, striped, with a pointed roof."""
    bottom, top = horizon + size * 0.12, horizon - size * 0.75
    half = size * 0.14
    wall, stripe = _colour(rng, 180, 240), _colour(rng, 90, 190)
    draw.polygon(
        [(centre - half * 1.3, bottom), (centre - half, top), (centre + half, top), (centre + half * 1.3, bottom)], wall
    )
    for band in range(1, 6, 2):
        upper, lower = top + (bottom - top) * band / 6, top + (bottom - top) * (band + 1) / 6
        draw.polygon(
            [
                (centre - half * 1.1, upper),
                (centre + half * 1.1, upper),
                (centre + half * 1.2, lower),
                (centre - half * 1.2, lower),
            ],
            stripe,
        )
    peak = top - size * 0.25
    draw.polygon([(centre - half * 1.5, top), (centre, peak), (centre + half * 1.5, top)], _colour(rng, 60, 140))
    return centre - half * 1.5, peak, centre + half * 1.5, bottom


def _bird(draw: ImageDraw.ImageDraw, rng: np.random.Generator, centre: float, horizon: float, size: float) -> Box:
    """A large bird in the sky: a body between two bent wings."""
    middle = horizon * rng.uniform(0.25, 0.5)
    span, lift = size * 0.62, size * rng.uniform(0.2, 0.32)
    colour = _colour(rng, 20, 70)
    for side in (-1, 1):
        tip = (centre + side * span, middle - lift * 0.3)
        elbow = (centre + side * span * 0.5, middle - lift)
        draw.polygon(
            [
                (centre, middle - 0.06 * size),
                elbow,
                tip,
                (centre + side * span * 0.45, middle - lift * 0.45),
                (centre, middle + 0.08 * size),
            ],
            colour,
        )
    draw.ellipse((centre - 0.09 * size, middle - 0.1 * size, centre + 0.09 * size, middle + 0.16 * size), fill=colour)
    return centre - span, middle - lift, centre + span, middle + 0.16 * size


def _colour(rng: np.random.Generator, low: int, high: int) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(low, high, 3))
    return red, green, blue


THINGS: dict[str, Callable[[ImageDraw.ImageDraw, np.random.Generator, float, float, float], Box]] = {
    "ship": _ship,
    "tower": _tower,
    "bird": _bird,
}


if __name__ == "__main__":
    main()
