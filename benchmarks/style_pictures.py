"""Neural style offline, as pictures: what art-vgg, patches and random filters make of a photograph.

python benchmarks/style_pictures.py --figure benchmarks/figures/styles.jpg
python benchmarks/style_pictures.py --content photo.jpg --style painting.jpg --figure mine.jpg
"""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import contact_sheet, table_of
from PIL import ImageOps
from rich.console import Console

import artmodels
from artmodels import images
from artmodels.images.examples import example

NAMES = ("style-art-vgg", "style-patches", "style-random-filters")


def main(
    figure: Annotated[Path | None, typer.Option(help="Where to write the pictures, a row a style.")] = None,
    content: Annotated[Path | None, typer.Option(help="Photograph; scikit-image's cat by default.")] = None,
    style: Annotated[list[Path] | None, typer.Option(help="Styles; by default three that are at hand.")] = None,
    side: Annotated[int, typer.Option(help="Longer side of the results in pixels.")] = 320,
) -> None:
    """Write the pictures and print the seconds."""
    photograph = example("chelsea") if content is None else images.load(content).pil()
    photograph = ImageOps.contain(photograph, (side, side))
    names = ("marbling", "ihc", "terrazzo")
    styles = [example(name, side) for name in names] if not style else [images.load(path).pil() for path in style]
    methods = [artmodels.load(name) for name in NAMES]
    width, height = photograph.size
    rows = []
    table = table_of(f"Seconds, {width} x {height} px, {torch.get_num_threads()} threads", ("style", *NAMES))
    for row, look in enumerate(styles):
        pictures, seconds = [photograph, ImageOps.fit(look, (width, height))], []
        for method in methods:
            start = time.perf_counter()
            pictures.append(method(photograph, look).image)
            seconds.append(f"{time.perf_counter() - start:.0f}")
        table.add_row(names[row] if not style else style[row].name, *seconds)
        rows.append(pictures)
    Console().print(table)
    if figure is not None:
        contact_sheet(rows, gap=8).save(figure, quality=88, optimize=True)


if __name__ == "__main__":
    typer.run(main)
