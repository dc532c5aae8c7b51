"""Make the landing page's thumbnails: a result of each method, with its input in the corner.

`python spaces/gallery/thumbnails.py` makes all, `python spaces/gallery/thumbnails.py fast_style` only one.
"""

import sys
from pathlib import Path

from PIL import Image, ImageOps

import artmodels
from artmodels.patterns import example

HERE = Path(__file__).parent
SIZE = 480, 300  # width, height


def save(method: str, result: Image.Image, source: Image.Image) -> None:
    """Write a thumbnail under 30 kB."""
    inset = ImageOps.expand(ImageOps.fit(source, (96, 96)), 4, "white")
    picture = ImageOps.fit(result, SIZE)
    picture.paste(inset, (SIZE[0] - inset.width - 14, SIZE[1] - inset.height - 14))
    quality = 85
    file = HERE / f"{method}.jpg"
    picture.save(file, quality=quality, optimize=True)
    while file.stat().st_size > 30_000:
        quality -= 5
        picture.save(file, quality=quality, optimize=True)


def fast_style() -> None:
    """Repaint the astronaut; the painting itself is not ours to show."""
    photo = example("astronaut", 480)
    save("fast_style", artmodels.load("fast-style-starry-night")(photo).image, photo)


def super_resolution() -> None:
    """Enlarge the cat's eye; the corner shows how small it was."""
    photo = example("chelsea", 512).crop((120, 60, 360, 240)).resize((80, 60), Image.Resampling.BICUBIC)
    save("super_resolution", artmodels.load("super-resolution-x4")(photo).image, photo)


def texture_synthesis() -> None:
    """Lay more of the same floor."""
    exemplar = example("terrazzo")
    texture = artmodels.load("texture-patches")(exemplar, size=SIZE[::-1], progress=True)
    save("texture_synthesis", texture.image, exemplar)


def neural_style() -> None:
    """Repaint the cat with combed ink."""
    style = example("marbling")
    styled = artmodels.load("style-patches")(example("chelsea"), style, progress=True)
    save("neural_style", styled.image, style)


if __name__ == "__main__":
    made = {function.__name__: function for function in (fast_style, super_resolution, texture_synthesis, neural_style)}
    for name in sys.argv[1:] or made:
        made[name]()
