"""Example pictures that need no download: drawn by code, or shipped inside scikit-image."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

__all__ = ["PATTERNS", "bricks", "example", "marbling", "terrazzo", "weave"]

Pixels = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float64]


def weave(size: int = 256) -> Pixels:
    """Draw a plain weave of blue and ochre threads; uint8 `[size, size, 3]`, tileable."""
    y, x = _grid(size)
    pitch = size / 12
    row, column = np.floor(y / pitch), np.floor(x / pitch)
    warp_on_top = (row + column) % 2 == 0
    across = np.where(warp_on_top, x, y) / pitch % 1
    along = np.where(warp_on_top, y, x) / pitch % 1
    shade = np.sqrt(np.clip(1 - (2 * across - 1) ** 2, 0, 1)) * (0.72 + 0.28 * np.sin(np.pi * along))
    shade *= 1 + 0.12 * _noise(size, 0.35, seed=1)
    colours = np.where(warp_on_top[..., None], [46, 74, 112], [196, 158, 92])
    return _pixels(colours * shade[..., None])


def marbling(size: int = 256) -> Pixels:
    """Draw combed ink on water, as on old endpapers; uint8 `[size, size, 3]`, tileable."""
    y, x = _grid(size)
    drift = 0.18 * size * _noise(size, 2.6, seed=2)
    comb = 0.06 * size * np.sin(2 * np.pi * 4 * x / size)
    phase = (y + drift + comb) / size * 12
    palette = np.array([[26, 44, 74], [228, 216, 190], [148, 52, 44], [228, 216, 190], [58, 100, 96], [212, 166, 90]])
    colours = palette[np.floor(phase).astype(int) % len(palette)].astype(float)
    edge = np.abs(phase % 1 - 0.5) * 2
    return _pixels(colours * (1 - 0.35 * edge[..., None] ** 8) + 6 * _noise(size, 0.2, seed=3)[..., None])


def bricks(size: int = 256) -> Pixels:
    """Draw a wall of bricks in two fired colours; uint8 `[size, size, 3]`, tileable."""
    y, x = _grid(size)
    height, width = size / 8, size / 4
    row = np.floor(y / height)
    shifted = (x + (row % 2) * width / 2) % size
    column = np.floor(shifted / width)
    mortar = (y % height < 0.1 * height) | (shifted % width < 0.05 * width)
    tints = np.random.default_rng(4).normal(0, 1, (8, 4))[row.astype(int), column.astype(int)]
    colours = np.array([156.0, 78.0, 58.0]) * (1 + 0.13 * tints[..., None])
    colours[(row + column) % 3 == 0] *= [0.78, 0.8, 0.9]
    colours[mortar] = [196, 188, 174]
    return _pixels(colours * (1 + 0.1 * _noise(size, 0.7, seed=5))[..., None])


def terrazzo(size: int = 256) -> Pixels:
    """Draw a polished floor of stone chips; uint8 `[size, size, 3]`, tileable."""
    y, x = _grid(size)
    random = np.random.default_rng(6)
    nearest = np.full((size, size), np.inf)
    second, owner = nearest.copy(), np.zeros((size, size), int)
    for index, (top, left) in enumerate(random.uniform(0, size, (90, 2))):
        down, right = np.abs(y - top), np.abs(x - left)
        distance = np.hypot(np.minimum(down, size - down), np.minimum(right, size - right))
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        owner, nearest = np.where(closer, index, owner), np.where(closer, distance, nearest)
    palette = np.array([[176, 92, 72], [84, 110, 104], [222, 206, 178], [70, 66, 74], [198, 160, 108]])
    colours = palette[random.integers(0, len(palette), 90)][owner].astype(float)
    colours[second - nearest < 0.02 * size] = [232, 228, 220]
    return _pixels(colours * (1 + 0.06 * _noise(size, 0.5, seed=7))[..., None])


PATTERNS: Mapping[str, Callable[[], Pixels]] = {draw.__name__: draw for draw in (weave, marbling, bricks, terrazzo)}


def example(name: str, side: int = 384) -> Image.Image:
    """Give one of `PATTERNS`, or a photograph of scikit-image such as "gravel", at most `side` pixels wide or high."""
    if name in PATTERNS:
        return Image.fromarray(PATTERNS[name]())
    # By its file: skimage.data would try to download what is not in the wheel.
    file = next(item for item in (files("skimage") / "data").iterdir() if Path(item.name).stem == name)
    with file.open("rb") as stream:
        image = Image.open(stream).convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _grid(size: int) -> tuple[Field, Field]:
    y, x = np.mgrid[:size, :size].astype(float)
    return y, x


def _noise(size: int, smoothness: float, *, seed: int) -> Field:
    """Periodic noise of mean 0 and deviation 1 whose spectrum falls as frequency ** -smoothness."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")) * size
    frequency[0, 0] = np.inf
    white = np.random.default_rng(seed).standard_normal((size, size))
    field = np.fft.irfft2(np.fft.rfft2(white) * frequency**-smoothness, (size, size))
    scaled: Field = field / field.std()
    return scaled


def _pixels(values: Field) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
