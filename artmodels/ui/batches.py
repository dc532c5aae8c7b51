"""What the Spaces of feed-forward methods share: one pass or many files behind `connect`, and a wall of pictures.

`once` and `batch` are the counterparts of `artmodels.ui.controls.follow` for methods that have no steps.
"""

import json
import logging
import time
import zipfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageOps

from artmodels import images
from artmodels.errors import ArtModelsError, ImageError, WeightsError
from artmodels.hub import catalogue
from artmodels.images.loading import LoadedImage
from artmodels.images.results import ImageResult
from artmodels.runtime.devices import pick_device
from artmodels.ui.controls import MODELS, Panel, Update, explained, finish, models, run_folder, told
from artmodels.ui.server.files import Files
from artmodels.ui.server.pictures import picture_url
from artmodels.ui.uploads import Names, listing, markdown

__all__ = ["FILES", "LONGEST", "Tile", "at_size", "batch", "batch_results", "once", "tiles", "upload_files", "wall"]

LONGEST = 3072 if pick_device().type == "cuda" else 2048  # px: side of what is run in one piece
FILES = 32  # of a batch: a few minutes of a small machine
TILE = 224  # px: side of a picture on a wall
PREVIEW = 320  # px: longest side of a batch's previews

_log = logging.getLogger(__name__)


# --- one picture


def once(run: Callable[[], ImageResult], *, name: str, before: str) -> Generator[Update, None, None]:
    """Turn one pass into updates of the panel that `results(..., steps=False)` made.

    Args:
        run: Gives the method's result.
        name: Of the file to download, without ending.
        before: File of the picture to compare the result with.

    Raises:
        gr.Error: With the message of any error that artmodels explains.
    """

    def updates() -> Iterator[Update]:
        yield None, None, gr.update(value=None, interactive=False), None, "Working…"
        yield finish(run(), run_folder() / f"{name}.png", before)

    yield from explained(updates(), outputs=5)


def at_size(model: Callable[..., ImageResult], picture: LoadedImage, side: int, **options: object) -> ImageResult:
    """Run a method that keeps the size of its input, on a picture whose longest side is to be `side` pixels.

    Args:
        model: Is called with the picture, `size=(height, width)` and the options.
        picture: What to run it on.
        side: 0 keeps the picture's own size up to `LONGEST`; a note of the result says where that made it smaller.
        **options: Passed on.
    """
    longest = max(picture.height, picture.width)
    target = side or min(longest, LONGEST)
    if target == longest:
        return model(picture, **options)
    size = max(1, round(picture.height * target / longest)), max(1, round(picture.width * target / longest))
    result = model(picture, size=size, **options)
    if side:
        return result
    note = (
        f"The picture of {picture.width} x {picture.height} pixels was reduced to this server's limit of {LONGEST} a "
        "side; in Python there is no such limit."
    )
    return replace(result, notes=(*result.notes, note))


# --- many pictures


def upload_files(label: str) -> Any:
    """Add a control for several files, which reach us as they are, readable or not."""
    return Files(label=label, file_count="multiple", height=260, elem_classes="batch")


def batch_results() -> Panel:
    """Add the buttons of a batch, its progress, its pictures, a report on each file, and the archive."""
    with gr.Row():
        run = gr.Button("Run all", variant="primary", size="lg", min_width=120)
        stop = gr.Button("Stop", size="lg", min_width=120)
    status, made = told()
    previews = gr.Gallery(
        label="Results",
        format="png",
        interactive=False,
        columns=4,
        height=360,
        buttons=[],
        elem_classes="batch-results",
    )
    download = gr.DownloadButton("Download ZIP", interactive=False, elem_classes="download", size="lg")
    with gr.Accordion("Report on each file", open=False):
        report = gr.JSON(label="Report: settings or error of each file", buttons=["copy"])
    return Panel(
        run=run, stop=stop, outputs=(download, report, previews, status), public=2, made=made, lane="collections"
    )


def batch(run: Callable[[str], ImageResult], paths: Sequence[str], *, name: str) -> Generator[Update, None, None]:
    """Run a method on files, one after the other; a file that cannot be used is reported, and the rest goes on.

    Args:
        run: Gives the result for a file.
        paths: The files.
        name: Of the archive to download, without ending. It holds a PNG a picture, each with its settings, and the
            report as `report.json`.

    Raises:
        gr.Error: No file gave a result, or the model cannot be loaded.
    """
    yield from explained(_batch(run, paths, name), outputs=4)


def _batch(run: Callable[[str], ImageResult], paths: Sequence[str], name: str) -> Iterator[Update]:
    start = time.perf_counter()
    folder = run_folder()
    archive = folder / f"{name}.zip"
    report: list[dict[str, Any]] = []
    previews: list[tuple[str, str]] = []
    names = Names("report.json")
    yield gr.update(value=None, interactive=False), None, None, f"0 of {len(paths)} pictures…"
    with zipfile.ZipFile(archive, "w") as packed:  # stored: PNG is compressed already
        for index, path in enumerate(paths, start=1):
            given = Path(path).name
            row: dict[str, Any] = {"file": given}
            try:
                result = run(path)
                row |= {"result": names.unused(f"{Path(path).stem}.png"), "settings": result.settings}
                result.save(folder / "result.png")
                packed.write(folder / "result.png", row["result"])
                previews.append((_preview(images.to_pil(result.tensor), folder / f"preview-{index}.jpg"), given))
                if result.notes:
                    row["notes"] = list(result.notes)
            except WeightsError:
                raise  # it would be the same for every file
            except ArtModelsError as error:
                row["error"] = str(error)
            except Exception:
                _log.exception("a file of a batch failed")
                row["error"] = "It failed for a reason that the server's log tells."
            report.append(row)
            yield gr.skip(), gr.skip(), list(previews), f"{index} of {len(paths)} pictures…{markdown(_faults(report))}"
        packed.writestr("report.json", json.dumps(report, indent=1))
    if not previews:
        raise ImageError("None of the files gave a result." + _faults(report))
    seconds = time.perf_counter() - start
    status = f"**Finished: {len(previews)} of {len(paths)} pictures after {seconds:.1f} s.**{markdown(_faults(report))}"
    yield gr.update(value=str(archive), interactive=True), report, previews, status


def _preview(image: Image.Image, file: Path) -> str:
    small = image.copy()
    small.thumbnail((PREVIEW, PREVIEW))
    small.save(file, quality=85)
    return str(file)


def _faults(report: Sequence[dict[str, Any]]) -> str:
    return listing([(row["file"], row["error"]) for row in report if "error" in row])


# --- a wall of pictures to choose from


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A choice on a wall.

    Attributes:
        value: What is chosen, the name of a model.
        title: First part of the caption.
        text: The rest, smaller.
        picture: Square.
    """

    value: str
    title: str
    text: str
    picture: Image.Image


def tiles(method: str, sample: Image.Image, caption: Callable[[catalogue.Entry], tuple[str, str]]) -> list[Tile]:
    """Show what each model of a method does to the same picture, now: about a tenth of a second each.

    Args:
        method: Whose models; those that would have to be downloaded first keep the sample as it is.
        sample: The picture.
        caption: Gives a model's title and text.
    """
    sample = ImageOps.fit(sample, (TILE, TILE), Image.Resampling.LANCZOS)
    made = []
    for entry in models(method):
        picture = sample
        if catalogue.download(entry) is None:
            try:
                picture = MODELS(entry.name)(sample).image
            except ArtModelsError as error:  # whoever chooses it is told; the others are not kept from opening
                _log.warning("no tile for %s: %s", entry.name, error)
        title, text = caption(entry)
        made.append(Tile(value=entry.name, title=title, text=text, picture=picture))
    return made


def wall(label: str, choices: Sequence[Tile]) -> Any:
    """Add a choice among pictures: radio buttons, for keyboards and programs too, that look like a wall of tiles."""
    pictures = "".join(
        f".wall label:nth-of-type({number})::before {{ background-image: url({picture_url(tile.picture)}); }}\n"
        f".wall label:nth-of-type({number})::after {{ content: {json.dumps(tile.text, ensure_ascii=False)}; }}\n"
        for number, tile in enumerate(choices, start=1)
    )
    gr.HTML(f"<style>{_WALL}{pictures}</style>", elem_classes="wall-style", padding=False)
    titles = [(tile.title, tile.value) for tile in choices]
    component = gr.Radio(titles, value=choices[0].value, label=label, elem_classes="wall")
    # gradio's own step would answer a program that asks for another one with "400 Bad Request": leave it to a check.
    component.preprocess = lambda payload: payload  # type: ignore[method-assign]
    return component


_WALL = """
.wall-style { display: none; }
.wall .wrap:has(> label) {
  display: grid; gap: clamp(.4rem, 1vw, .7rem); grid-template-columns: repeat(auto-fit, minmax(88px, 1fr));
}
.wall .wrap label {
  display: block; padding: 0; overflow: hidden; border-radius: 0; box-shadow: none; cursor: pointer;
  border: 1px solid var(--border-color-primary); background: var(--block-background-fill); color: inherit;
}
.wall .wrap label::before {
  content: ""; display: block; aspect-ratio: 1; background-size: cover; background-position: center;
}
.wall .wrap label:hover { border-color: var(--button-primary-background-fill); }
.wall .wrap label:has(input:checked) {
  border-color: var(--button-primary-background-fill); outline: 2px solid var(--button-primary-background-fill);
}
.wall .wrap label:has(input:focus-visible) { outline: 3px solid var(--button-primary-background-fill); }
.wall .wrap input { position: absolute; opacity: 0; pointer-events: none; }
.wall .wrap span {
  display: block; margin: 0; padding: .5rem .6rem .2rem; font-size: .85rem; line-height: 1.3; font-weight: 600;
}
.wall .wrap label::after {
  display: block; padding: 0 .6rem .6rem; font-size: .78rem; line-height: 1.35; font-weight: 400;
  color: var(--body-text-color-subdued);
}
@media (max-width: 640px) {
  .wall .wrap span { padding: .4rem .4rem .1rem; font-size: .74rem; overflow-wrap: anywhere; }
  .wall .wrap label::after { padding: 0 .4rem .4rem; font-size: .7rem; }
}
"""
