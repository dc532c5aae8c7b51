"""How arbitrary style compares with Magenta's, on photographs and paintings that neither of our networks has seen.

The yardstick is Magenta's pair of int8 networks (a MobileNet predictor and the separable transformer). Both paint the
same photographs at 384 px in the manner of the same paintings at 256 px, and are judged by a network that ours did not
learn from: VGG-19 itself, up to relu3_1. Needs the images and networks, and an interpreter of .tflite files
(`pip install ai-edge-litert`). Writes a sheet of pictures on request.

    python benchmarks/arbitrary_style.py --figure benchmarks/figures/arbitrary_style.jpg
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import DATA, NETWORKS, contact_sheet, table_of
from PIL import Image, ImageOps
from rich.console import Console
from torch import Tensor

import artmodels
from artmodels import images
from artmodels.data.folders import image_files, split
from artmodels.features import teachers
from artmodels.features.extractor import FeatureExtractor, moments

CONTENT, STYLE = 384, 256  # px, what Magenta's networks take
CONTENT_TAP, STYLE_TAPS = "relu3_1", ("relu1_1", "relu2_1", "relu3_1")
MAGENTA = "arbitrary_style_predict_256_int8.tflite", "arbitrary_style_transfer_384_int8.tflite"
COLUMNS, ROWS, CELL = 6, 7, 240  # of the sheet; px

Painter = Callable[[Tensor, Tensor], Tensor]


def main(
    data: Annotated[Path, typer.Option(help="Folder of images.")] = DATA,
    networks: Annotated[Path, typer.Option(help="Folder of the networks.")] = NETWORKS,
    name: Annotated[str, typer.Option(help="Our checkpoint.")] = "arbitrary-style",
    photos: Annotated[int, typer.Option(help="Held-out photographs.")] = 8,
    styles: Annotated[int, typer.Option(help="Held-out paintings and textures for each.")] = 16,
    figure: Annotated[Path | None, typer.Option(help="Where to write a sheet of stylised pictures.")] = None,
) -> None:
    """Print losses and seconds of both."""
    if not data.is_dir() or not networks.is_dir():
        print(f"Skipped: needs the images of {data} and the networks of {networks} (--data, --networks).")
        return
    _, photographs = split(image_files(data, ["photos"]), held_out=3)
    _, paintings = split(image_files(data, ["paintings", "textures", "icons"]))
    model = artmodels.ArbitraryStyle.from_pretrained(name)

    def ours(content: Tensor, style: Tensor) -> Tensor:
        return model(content, style, style_size=STYLE).tensor

    painters: dict[str, Painter] = {"the photograph itself": lambda content, _: content, "ours": ours}
    try:
        painters["Magenta, int8"] = magenta(networks)
    except ImportError:
        print("Without Magenta's networks: pip install ai-edge-litert")
    judge = teachers.load(teachers.NORMALISED, networks)
    contents = [square(path, CONTENT) for path in spread(photographs, photos)]
    targets = [square(path, STYLE) for path in spread(paintings, styles)]
    table = table_of(
        f"{len(contents)} held-out photographs in {len(targets)} held-out styles, by VGG-19",
        ("", "content", "style", "sum", "seconds"),
        left=("",),
    )
    for label, painter in painters.items():
        content_loss = style_loss = seconds = 0.0
        for content in contents:
            for style in targets:
                began = time.perf_counter()
                output = painter(content, style)
                seconds += time.perf_counter() - began
                losses = judged(judge, output, content, style)
                content_loss, style_loss = content_loss + losses[0], style_loss + losses[1]
        pairs = len(contents) * len(targets)
        row = [content_loss / pairs, style_loss / pairs, (content_loss + style_loss) / pairs]
        table.add_row(label, *(f"{value:.3f}" for value in row), f"{seconds / pairs:.2f}")
    Console(width=120).print(table)
    if figure is not None:
        sheet(model, photographs, paintings).save(figure, quality=88, optimize=True)


def spread(paths: list[Path], count: int) -> list[Path]:
    """Pick some evenly."""
    return [paths[index * len(paths) // count] for index in range(min(count, len(paths)))]


def square(path: Path, side: int) -> Tensor:
    """Cut the middle of a picture, [1, 3, side, side]."""
    picture = ImageOps.fit(images.load(path).pil(), (side, side), Image.Resampling.LANCZOS)
    return images.load(picture).tensor()


@torch.inference_mode()
def judged(judge: FeatureExtractor, output: Tensor, content: Tensor, style: Tensor) -> tuple[float, float]:
    """Squared distance of content, and of the means and covariances of style, each relative to what is aimed at."""
    found = judge(output, STYLE_TAPS)
    wanted = judge(content, [CONTENT_TAP])[CONTENT_TAP]
    like = judge(style, STYLE_TAPS)
    total = 0.0
    for tap in STYLE_TAPS:
        for mine, theirs in zip(moments(found[tap]), moments(like[tap]), strict=True):
            total += float((mine - theirs).square().sum() / theirs.square().sum()) / (2 * len(STYLE_TAPS))
    return float((found[CONTENT_TAP] - wanted).square().mean() / wanted.square().mean()), total


def magenta(folder: Path) -> Painter:
    """Load Magenta's two networks."""
    from ai_edge_litert.interpreter import Interpreter

    predictor, transformer = (Interpreter(str(folder / file), num_threads=torch.get_num_threads()) for file in MAGENTA)
    for network in (predictor, transformer):
        network.allocate_tensors()

    def run(network: Any, inputs: list[Tensor]) -> Tensor:  # noqa: ANN401 - the interpreter has no types
        for place in network.get_input_details():
            value = next(x for x in inputs if tuple(x.shape) == tuple(place["shape"]))
            network.set_tensor(place["index"], value.contiguous().numpy())
        network.invoke()
        return torch.from_numpy(network.get_tensor(network.get_output_details()[0]["index"]).copy())

    def paint(content: Tensor, style: Tensor) -> Tensor:
        code = run(predictor, [style.permute(0, 2, 3, 1)])
        return run(transformer, [content.permute(0, 2, 3, 1), code]).permute(0, 3, 1, 2)

    return paint


def sheet(model: artmodels.ArbitraryStyle, photographs: list[Path], paintings: list[Path]) -> Image.Image:
    """One row a style, the most colourful ones; one column a photograph. The styles are printed, not shown."""
    chosen = spread(photographs, COLUMNS)
    contents = [ImageOps.fit(images.load(path).pil(), (512, 512), Image.Resampling.LANCZOS) for path in chosen]
    styles = sorted(paintings, key=colourfulness, reverse=True)[:ROWS]
    rows = []
    for number, path in enumerate(styles, 1):
        print(f"row {number}: {path.name}")
        code = model.describe(path)
        made = (model(content, code).image for content in contents)
        rows.append([picture.resize((CELL, CELL), Image.Resampling.LANCZOS) for picture in made])
    return contact_sheet(rows)


def colourfulness(path: Path) -> float:
    """How much colours differ in a picture: the spread of red against green, and of yellow against blue."""
    red, green, blue = square(path, 64)[0]
    return float((red - green).std() + ((red + green) / 2 - blue).std())


if __name__ == "__main__":
    typer.run(main)
