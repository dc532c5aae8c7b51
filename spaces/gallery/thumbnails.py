"""Make the landing page's thumbnails: a result of each method, with its input in the corner."""

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


if __name__ == "__main__":
    exemplar, style = example("terrazzo"), example("marbling")
    texture = artmodels.load("texture-patches")(exemplar, size=SIZE[::-1], progress=True)
    save("texture_synthesis", texture.image, exemplar)
    styled = artmodels.load("style-patches")(example("chelsea"), style, progress=True)
    save("neural_style", styled.image, style)
