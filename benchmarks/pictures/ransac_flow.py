"""Write the examples: a painting, and what other hands and other days made of it.

    python benchmarks/pictures/ransac_flow.py

The painting is one that the neighbouring Space draws by code; nothing in it is anyone else's. Every other picture is
bent, seen askew and reduced in a way of its own, so that no two lie on each other.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from torch.nn import functional as F

import artmodels
from artmodels import images
from artmodels.correspondence.redrawing import engraved
from artmodels.methods.ransac_flow.training.synthetic import WarpConfig, Warper

FOLDER = Path(__file__).parents[2] / "spaces" / "ransac_flow" / "examples"
DRAWN = FOLDER.parent.parent / "artminer" / "examples"
WARP = WarpConfig(bend=9.0, ripple=0.0, corners=34.0, covered=0.0)


def moved(picture: Image.Image, seed: int) -> Image.Image:
    """Bend a picture, and look at it askew."""
    pixels = images.load(picture).tensor()
    grid = Warper(WARP, *pixels.shape[2:])(1, torch.Generator().manual_seed(seed))
    made = F.grid_sample(pixels, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return images.to_pil(made.clamp(0, 1))


def copy(painting: Image.Image) -> Image.Image:
    """Another painter's copy."""
    painter = artmodels.FastStyle.from_pretrained("fast-style-starry-night")
    return painter(moved(painting, 3), strength=0.6).image


def print_after(painting: Image.Image) -> Image.Image:
    """An engraving: mirrored, as prints are."""
    pixels = np.asarray(ImageOps.mirror(moved(painting, 5)), dtype=np.float64) / 255
    return images.to_pil(torch.from_numpy(engraved(pixels, np.random.default_rng(2))).permute(2, 0, 1)[None].float())


def repainted(painting: Image.Image) -> Image.Image:
    """The same panel, cleaned: with a sun, and without the trees on the right."""
    picture = painting.copy()
    ImageDraw.Draw(picture).ellipse((60, 56, 122, 118), fill=(244, 208, 120), outline=(206, 150, 70), width=3)
    meadow = picture.crop((190, 372, 420, 412)).resize((230, 150), Image.Resampling.BICUBIC)
    mask = Image.new("L", meadow.size)
    ImageDraw.Draw(mask).ellipse((20, 20, 210, 130), fill=255)
    picture.paste(meadow, (450, 325), mask=mask.filter(ImageFilter.GaussianBlur(9)))
    return moved(ImageOps.autocontrast(picture, cutoff=1), 8)


def photograph(painting: Image.Image) -> Image.Image:
    """An old photograph: small, grey, faded and soft."""
    grey = ImageOps.grayscale(moved(painting, 13)).resize((400, 300), Image.Resampling.LANCZOS)
    pale = grey.filter(ImageFilter.GaussianBlur(0.6)).point([round(60 + 0.66 * value) for value in range(256)])
    return ImageOps.colorize(pale, (38, 28, 20), (250, 240, 222))


def main() -> None:
    """Make and write everything."""
    FOLDER.mkdir(exist_ok=True)
    painting = Image.open(DRAWN / "orchard.jpg").convert("RGB")
    made = {
        "painting": painting,
        "copy": copy(painting),
        "engraving": print_after(painting),
        "repainted": repainted(painting),
        "photograph": photograph(painting),
        "stranger": Image.open(DRAWN / "lake.jpg").convert("RGB"),
    }
    for name, picture in made.items():
        picture.save(FOLDER / f"{name}.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    main()
