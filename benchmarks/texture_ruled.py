"""How much of a ruled layout survives: tiles, chequers, wicker and bricks, drawn straight, turned and hand-laid.

The order of a picture is its correlation with itself, moved by the exemplar's periods: the lower of the two. What the
result has of the exemplar's order is printed from noise and from pieces of the exemplar that lie whole periods apart,
with the share that is copied as it stands, and the pictures are written side by side.

    python benchmarks/texture_ruled.py --size 128 --figure ruled.jpg
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
import typer
from common import contact_sheet, table_of
from rich.console import Console
from scipy import ndimage
from torch import Tensor

import artmodels
from artmodels.images.examples import example
from artmodels.methods.texture_synthesis.layout import autocorrelation, periods
from artmodels.methods.texture_synthesis.metrics import verbatim_share

Field = npt.NDArray[np.float64]


def tiles(y: Field, x: Field, random: np.random.Generator) -> Field:
    """Tiles with a ring, in a frame of mortar, each of its own tint."""
    down, across = y % 1, x % 1
    radius = np.hypot(down - 0.54, across - 0.54)
    tints = random.normal(0, 0.1, (99, 99))[np.floor(y).astype(int), np.floor(x).astype(int)]
    colours: Field = np.array([96.0, 130, 90]) * (1 + tints[..., None])
    colours[(radius < 0.32) & (radius > 0.22)] = [236, 220, 180]
    colours[(down < 0.08) | (across < 0.08)] = [190, 180, 170]
    return colours


def chequers(y: Field, x: Field, random: np.random.Generator) -> Field:
    """Chequers of two stones."""
    light = (np.floor(1.4 * y) + np.floor(1.4 * x)) % 2 == 0
    return np.where(light[..., None], [220.0, 200, 180], [120.0, 60, 50])


def wicker(y: Field, x: Field, random: np.random.Generator) -> Field:
    """Canes that go over and under stakes."""
    row, column = np.floor(2 * y), np.floor(x)
    over, along, across = (row + column) % 2 == 0, x % 1, 2 * y % 1
    shade = np.where(over, 0.5 + 0.5 * np.sin(np.pi * along), 0.8 - 0.5 * np.sin(np.pi * along))
    shade *= np.sqrt(1 - (2 * across - 1) ** 2)
    stake = ~over & (np.abs(along - 0.5) < 0.2)
    shade = np.where(stake, 0.85 * np.sqrt(np.clip(1 - ((along - 0.5) / 0.2) ** 2, 0, 1)), shade)
    tints = random.normal(0, 0.1, 99)[row.astype(int) % 99]
    colours: Field = np.array([214.0, 180, 120]) * (shade * (1 + tints))[..., None]
    return colours


def bricks(y: Field, x: Field, random: np.random.Generator) -> Field:
    """A wall of bricks, each of its own tint."""
    row = np.floor(2.2 * y)
    across = 0.9 * x + (row % 2) / 2
    tints = random.normal(0, 0.16, (99, 99))[row.astype(int) % 99, np.floor(across).astype(int) % 99]
    colours: Field = np.array([150.0, 96, 70]) * (1 + tints[..., None])
    colours[(2.2 * y % 1 < 0.14) | (across % 1 < 0.06)] = [205, 200, 190]
    return colours


def drawn(pattern: str, size: int, *, degrees: float = 0.0, by_hand: float = 0.0, seed: int = 1) -> Tensor:
    """A ruled exemplar [1, 3, size, size] of some six periods a side, turned, and bent by so many pixels at random."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    turn = np.deg2rad(degrees)
    y, x = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
    if by_hand:
        bends = [ndimage.gaussian_filter(random.standard_normal((size, size)), size / 24) for _ in "yx"]
        y, x = (at + by_hand * bend / bend.std() for at, bend in zip((y, x), bends, strict=True))
    pitch = size / 5.7
    draw = {"tiles": tiles, "chequers": chequers, "wicker": wicker, "bricks": bricks}[pattern]
    colours = draw(y / pitch + 20, x / pitch + 20, random)
    grain = ndimage.gaussian_filter(random.standard_normal((size, size)), 0.6)
    pixels = (colours * (1 + 0.12 * grain[..., None])).clip(0, 255) / 255
    return torch.from_numpy(pixels).float().permute(2, 0, 1)[None]


def order(image: Tensor, basis: npt.NDArray[np.float64], slack: int = 2) -> float:
    """Correlation of an image with itself, moved by the periods, give or take some pixels: the lower of the two."""
    found = autocorrelation(image)
    centre = np.array(found.shape) // 2
    places = np.rint(centre + basis).astype(int)
    return min(float(found[y - slack : y + slack + 1, x - slack : x + slack + 1].max()) for y, x in places)


def main(
    size: Annotated[int, typer.Option(help="Side of exemplar and result in pixels.")] = 192,
    model: Annotated[str, typer.Option(help="Name of the method.")] = "texture-patches",
    only: Annotated[str, typer.Option(help="Exemplars to take, by the beginning of their names.")] = "",
    figure: Annotated[Path | None, typer.Option(help="Where to write the pictures side by side.")] = None,
) -> None:
    """Print order kept, share copied, and seconds of processor time."""
    exemplars = {
        "tiles": drawn("tiles", size),
        "tiles, turned 20 degrees": drawn("tiles", size, degrees=20, seed=2),
        "chequers, by hand": drawn("chequers", size, by_hand=size / 200, seed=3),
        "wicker, turned 6 degrees": drawn("wicker", size, degrees=6, by_hand=size / 400, seed=4),
        "bricks, by hand": drawn("bricks", size, degrees=-3, by_hand=size / 250, seed=5),
        "bricks, as the page has": torch.from_numpy(
            np.asarray(example("bricks").resize((size, size)), np.float32) / 255
        ).permute(2, 0, 1)[None],
    }
    headings = ("exemplar", "its order", "kept from noise", "kept from pieces", "copied", "CPU seconds", "CPU seconds ")
    table = table_of(f"Order of {model}, {size} px, {torch.get_num_threads()} threads", headings, left=headings[:1])
    method, rows = artmodels.load(model), []
    for name, exemplar in exemplars.items():
        if not name.startswith(only):
            continue
        basis = periods(exemplar)
        if basis is None:
            table.add_row(name, "no periods found")
            continue
        own, orders, seconds, pictures = order(exemplar, basis), [], [], [exemplar]
        for layout in ("noise", "auto"):
            start = time.process_time()
            pictures.append(method(exemplar, size=(size, size), layout=layout, progress=True).tensor)
            seconds.append(time.process_time() - start)
            orders.append(order(pictures[-1], basis) / own)
        share = verbatim_share(pictures[-1], exemplar)
        shown = f"{own:.2f}", *(f"{kept:.0%}" for kept in orders), f"{share:.0%}", *(f"{s:.1f}" for s in seconds)
        table.add_row(name, *shown)
        rows.append(pictures)
    Console(width=140).print(table)
    if figure is not None and rows:
        half = -(-len(rows) // 2)
        pairs = [rows[i] + (rows[i + half] if i + half < len(rows) else []) for i in range(half)]
        contact_sheet(pairs, gap=8).save(figure, quality=88, optimize=True)


if __name__ == "__main__":
    typer.run(main)
