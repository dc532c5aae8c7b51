"""Make the landing page's thumbnails: a result of each method, with its input, if it has one, in the corner.

`python benchmarks/pictures/gallery.py` makes all, `python benchmarks/pictures/gallery.py fast_style` only one.
"""

import sys
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

import artmodels
from artmodels.images.examples import example

HERE = Path(__file__).parents[2] / "spaces" / "gallery"
SIZE = 480, 300  # width, height


def save(method: str, result: Image.Image, source: Image.Image | None) -> None:
    """Write a thumbnail under 30 kB."""
    picture = ImageOps.fit(result, SIZE)
    if source is not None:
        inset = ImageOps.expand(ImageOps.fit(source, (96, 96)), 4, "white")
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


def arbitrary_style() -> None:
    """Repaint the coffee like a floor, which shows that any picture will do."""
    style = example("terrazzo")
    save("arbitrary_style", artmodels.load("arbitrary-style")(example("coffee", 480), style).image, style)


def super_resolution() -> None:
    """Enlarge the cat's eye; the corner shows how small it was."""
    photo = example("chelsea", 512).crop((120, 60, 360, 240)).resize((80, 60), Image.Resampling.BICUBIC)
    save("super_resolution", artmodels.load("super-resolution-x4")(photo).image, photo)


def texture_synthesis() -> None:
    """Lay more of the same floor."""
    exemplar = example("terrazzo")
    texture = artmodels.load("texture-patches")(exemplar, size=SIZE[::-1], progress=True)
    save("texture_synthesis", texture.image, exemplar)


def texture_network() -> None:
    """Show a strip of each texture; they are made from nothing that could stand in the corner."""
    entries = artmodels.list_models("texture_network")
    edges = [round(SIZE[0] * index / len(entries)) for index in range(len(entries) + 1)]
    strips = Image.new("RGB", SIZE)
    for entry, (left, right) in zip(entries, pairwise(edges), strict=True):
        strip = artmodels.load(entry.name)(size=(SIZE[1], right - left), tileable=False)
        strips.paste(strip.image, (left, 0))
    save("texture_network", strips, None)


def mimax() -> None:
    """Find what the example collection shows, in a picture that shows two things."""
    photo = HERE.parent / "mimax" / "examples" / "seascape-09.jpg"
    save("mimax", artmodels.load("mimax-seascapes")(photo, threshold=0.4, limit=4).image, None)


def artminer() -> None:
    """Find the bird of a chart in an orchard; the corner shows what was asked for."""
    chart, orchard = (HERE.parent / "artminer" / "examples" / f"{name}.jpg" for name in ("chart", "orchard"))
    miner, box = artmodels.ArtMiner.from_pretrained(scales=(49, 36, 28, 20)), (25, 77, 175, 223)
    hit = miner.search(chart, box, miner.describe({"orchard": orchard}), count=1).hits[0]
    photo = Image.open(orchard)
    ImageDraw.Draw(photo).rectangle(hit.box, outline="white", width=5)
    save("artminer", photo, Image.open(chart).crop(box))


def ransac_flow() -> None:
    """Lay an engraving on its painting, half of each; the corner shows the engraving as it is."""
    engraving, painting = (
        HERE.parent / "ransac_flow" / "examples" / f"{name}.jpg" for name in ("engraving", "painting")
    )
    both = Image.open(painting)
    laid = artmodels.RansacFlow.from_pretrained()(engraving, painting).image
    middle = both.width // 2
    both.paste(laid.crop((middle, 0, *laid.size)), (middle, 0))
    ImageDraw.Draw(both).line((middle, 0, middle, both.height), "white", 4)
    save("ransac_flow", both, Image.open(engraving))


def neural_style() -> None:
    """Repaint the cat with combed ink."""
    style = example("marbling")
    styled = artmodels.load("style-art-vgg")(example("chelsea"), style, progress=True)
    save("neural_style", styled.image, style)


if __name__ == "__main__":
    styles, textures = (fast_style, arbitrary_style, neural_style), (texture_synthesis, texture_network)
    made = {make.__name__: make for make in (*styles, super_resolution, *textures, mimax, artminer, ransac_flow)}
    for name in sys.argv[1:] or made:
        made[name]()
