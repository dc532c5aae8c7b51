"""Super-resolution against bicubic on held-out pictures: PSNR and SSIM of the luma, seams, false grids, and seconds.

    python benchmarks/super_resolution.py --figure benchmarks/figures/super_resolution.jpg

The folder holds `photos` and `paintings`; what the recipes put aside by name, the Kodak pictures among it, is measured.
A folder that is not there is said and nothing is measured. The picture shows, for each factor, details of two
photographs of scikit-image as they go in, by bicubic interpolation, by the network, and as they were.
"""

import time
from pathlib import Path
from typing import Annotated

import skimage.data
import torch
import typer
from common import DATA, contact_sheet, table_of
from PIL import Image
from rich.console import Console
from torch import Tensor

from artmodels import images
from artmodels.data import folders
from artmodels.methods.super_resolution import SuperResolution
from artmodels.methods.super_resolution.evaluate import bicubic, evaluate, grid_score, reduced, seam_score
from artmodels.methods.super_resolution.train import web_copy

GROUPS = ("photos/kodak", "photos", "paintings")
INPUTS = {"clean": reduced, "JPEG 75": web_copy}
SIDE = 512  # px, of the picture that is timed
DETAIL = 240  # px, of the sheet


def seconds_per_megapixel(model: SuperResolution, rounds: int = 3) -> float:
    """Seconds of the best of some rounds, a million pixels of the result, on a picture of 512 x 512."""
    picture = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    model(picture[..., :64, :64])  # first calls load and choose kernels
    best = min(model(picture).seconds for _ in range(rounds))
    return best / (SIDE * model.config.scale) ** 2 * 1e6


def seams(model: SuperResolution, path: Path) -> float:
    """Greatest difference of a held-out picture run in tiles of the least size from the same run whole."""
    picture = images.load(path)
    return seam_score(model(picture, tile=2048).tensor, model(picture, tile=32).tensor)


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Names or folders of checkpoints.")] = None,
    data: Annotated[Path, typer.Option(help="Folder of pictures.")] = DATA,
    limit: Annotated[int, typer.Option(help="Most pictures of each group.")] = 1000,
    figure: Annotated[Path | None, typer.Option(help="Where to write a sheet of details.")] = None,
) -> None:
    """Print the tables."""
    if not data.is_dir():
        print(f"There is no folder {data}: name the one that holds photos and paintings with --data.")
        return
    quality = table_of(
        "Held-out pictures: network / bicubic",
        ("model", "pictures", "input", "PSNR-Y dB", "gain dB", "SSIM-Y"),
        left=("model", "pictures", "input"),
    )
    cost = table_of(
        f"Cost and faults, {torch.get_num_threads()} threads",
        ("model", "s / megapixel", "bicubic", "seam, grey levels", "false grid, grey levels"),
        left=("model",),
    )
    for name in names or ("super-resolution-x2", "super-resolution-x4"):
        model = SuperResolution.from_pretrained(name)
        scale = model.config.scale

        def enlarge(x: Tensor, model: SuperResolution = model) -> Tensor:
            return model(x).tensor

        for group in GROUPS:
            _, files = folders.split(folders.image_files(data, [group]))
            for label, reduce in INPUTS.items():
                report = evaluate(enlarge, files[:limit], scale=scale, reduce=reduce)
                quality.add_row(
                    name,
                    f"{group} ({len(files[:limit])})",
                    label,
                    f"{report['psnr']:.2f} / {report['psnr of bicubic']:.2f}",
                    f"{report['gain']:+.2f}",
                    f"{report['ssim']:.4f} / {report['ssim of bicubic']:.4f}",
                )
        _, kodak = folders.split(folders.image_files(data, [GROUPS[0]]))
        start = time.perf_counter()
        bicubic(torch.rand(1, 3, SIDE, SIDE), scale)
        plain = (time.perf_counter() - start) / (SIDE * scale) ** 2 * 1e6
        cost.add_row(
            name,
            f"{seconds_per_megapixel(model):.2f}",
            f"{plain:.3f}",
            f"{seams(model, kodak[0]):.4f}",
            f"{grid_score(enlarge, scale):.3f}",
        )
    Console().print(quality)
    Console().print(cost)
    if figure is not None:
        sheet().save(figure, quality=92, optimize=True)


def sheet() -> Image.Image:
    """One row a factor and picture: in, bicubic, network, original. They may be shown, and none was trained on."""
    rows = []
    for scale, name in ((scale, name) for scale in (2, 4) for name in ("coffee", "astronaut")):
        picture = images.load(getattr(skimage.data, name)()).tensor()
        top, left = (length // 2 - DETAIL * 3 // 4 for length in picture.shape[-2:])
        original = picture[..., top : top + DETAIL, left : left + DETAIL]
        small = reduced(original, scale)
        made = SuperResolution.from_pretrained(f"super-resolution-x{scale}")(small).tensor
        coarse = small.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        rows.append((coarse, bicubic(small, scale), made, original))
    return contact_sheet(rows)


if __name__ == "__main__":
    typer.run(main)
