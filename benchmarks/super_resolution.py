"""Super-resolution against bicubic on held-out pictures: PSNR and SSIM of the luma, seams, false grids, and seconds.

    python benchmarks/super_resolution.py --figure benchmarks/figures/super_resolution.jpg
    python benchmarks/super_resolution.py --worn          # scans of worn pictures, by each kind of wear
    python benchmarks/super_resolution.py --condition     # what is seen in them

With `--worn`, the pictures are worn by `WORN` of the method's `evaluate.py`, other code than the training's, and the
models are those that enlarge twice, and what the page would take of them; `perceptual` is the distance of unit features
at four taps of art-vgg (Zhang et al. 2018, arXiv:1801.03924, without their learnt weights). The folder holds `photos`
and `paintings`; what the recipes put aside by name, the Kodak pictures among it, is measured.
A folder that is not there is said and nothing is measured. The picture shows, for each factor, details of two
photographs of scikit-image as they go in, by bicubic interpolation, by the network, and as they were.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import skimage.data
import torch
import typer
from common import DATA, contact_sheet, table_of
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from artmodels import features, images
from artmodels.data import folders
from artmodels.hub import catalogue
from artmodels.methods.super_resolution import SuperResolution, checkpoint_for, examine
from artmodels.methods.super_resolution.evaluate import (
    WORN,
    Reduce,
    bicubic,
    evaluate,
    grid_score,
    luma,
    psnr,
    reduced,
    seam_score,
    ssim,
)
from artmodels.methods.super_resolution.train import web_copy

GROUPS = ("photos/kodak", "photos", "paintings")
INPUTS: dict[str, Reduce] = {"clean": reduced, "JPEG 75": web_copy}
TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1")
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


def kinds() -> dict[str, Reduce]:
    """What is done to pictures on their way down, by name."""
    return {**INPUTS, **WORN}


def seen(files: Sequence[Path]) -> Table:
    """How often each fault is named, by what was done to the pictures."""
    words = ("dots", "blocks", "noise", "blurred")
    table = table_of(f"What is seen in {len(files)} held-out pictures", ("done", *words, "nothing"), left=("done",))
    for kind, reduce in {"not reduced": lambda picture, _: picture, **kinds()}.items():
        found = [" ".join(examine(reduce(even(path), 2)).faults) for path in files]
        counts = [sum(word in faults for faults in found) for word in words]
        table.add_row(kind, *(f"{count / len(files):.0%}" for count in (*counts, found.count(""))))
    return table


def restored(names: Sequence[str], files: Sequence[Path]) -> Table:
    """Bicubic, each model, and the one that the page takes, on worn pictures: means."""
    models = {name: SuperResolution.from_pretrained(name) for name in names}
    by_page = set(models) <= {entry.name for entry in catalogue.list_models("super_resolution")}
    distance = Distance()
    columns = ("bicubic", *models, *(["taken"] if by_page else []))
    table = table_of(
        f"{len(files)} held-out pictures: gain dB / SSIM-Y / perceptual", ("done", *columns), left=("done",)
    )
    for kind, reduce in kinds().items():
        rows = list[list[tuple[float, float, float]]]()
        for path in files:
            wanted = even(path)
            small = reduce(wanted, 2)
            made = {"bicubic": bicubic(small, 2)} | {name: model(small).tensor for name, model in models.items()}
            if by_page:
                made["taken"] = made[checkpoint_for(examine(small))]
            truth, plain = luma(wanted)[..., 2:-2, 2:-2], 0.0
            row = list[tuple[float, float, float]]()
            for image in made.values():
                found = luma(image.mul(255).round().div(255))[..., 2:-2, 2:-2]
                quality = psnr(found, truth)
                plain = plain or quality
                row.append((quality - plain, ssim(found, truth), distance(image, wanted)))
            rows.append(row)
        means = torch.tensor(rows).mean(0).tolist()
        table.add_row(kind, *(f"{gain:+.2f} / {similar:.3f} / {apart:.3f}" for gain, similar, apart in means))
    return table


def even(path: Path) -> Tensor:
    """A picture whose sides are even: [1, 3, H, W]."""
    picture = images.load(path).tensor()
    return picture[..., : picture.shape[-2] // 2 * 2, : picture.shape[-1] // 2 * 2]


class Distance:
    """How far the features of two pictures are apart."""

    def __init__(self) -> None:
        """Load the network."""
        self.extractor = features.load("art-vgg", device="cpu")

    def __call__(self, first: Tensor, second: Tensor) -> float:
        """The mean over taps and places of the squared distance of unit features, of [1, 3, H, W] each."""
        both = self.extractor(torch.cat([first, second]), TAPS)
        apart = [(unit[0] - unit[1]).square().sum(0).mean() for unit in map(F.normalize, both.values())]
        return float(torch.stack(apart).mean())


def main(
    names: Annotated[list[str] | None, typer.Argument(help="Names or folders of checkpoints.")] = None,
    data: Annotated[Path, typer.Option(help="Folder of pictures.")] = DATA,
    limit: Annotated[int, typer.Option(help="Most pictures of each group.")] = 1000,
    figure: Annotated[Path | None, typer.Option(help="Where to write a sheet of details.")] = None,
    worn: Annotated[bool, typer.Option("--worn", help="Measure on worn scans instead.")] = False,
    condition: Annotated[bool, typer.Option("--condition", help="Count what is seen in worn scans instead.")] = False,
) -> None:
    """Print the tables."""
    if not data.is_dir():
        print(f"There is no folder {data}: name the one that holds photos and paintings with --data.")
        return
    if worn or condition:
        _, files = folders.split(folders.image_files(data, GROUPS[1:]))
        chosen = files[:: -(-len(files) // min(limit, len(files)))]
        if condition:
            Console().print(seen(chosen))
        if worn:
            twice = [entry.name for entry in catalogue.list_models("super_resolution") if "-x2" in entry.name]
            Console().print(restored(names or twice, chosen))
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
    for name in names or [entry.name for entry in catalogue.list_models("super_resolution") if entry.embedded]:
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
