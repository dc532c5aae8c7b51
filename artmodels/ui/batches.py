"""Many pictures behind one button: upload, one pass of a network for each, and an archive of what came out."""

import json
import logging
import time
import zipfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from artmodels import images
from artmodels.errors import ArtModelsError, ImageError, WeightsError
from artmodels.images.results import ImageResult
from artmodels.ui.controls import (
    Panel,
    Update,
    download_button,
    offered,
    repeating,
    run_and_stop,
    run_folder,
    status_lines,
)
from artmodels.ui.server.components import Files
from artmodels.ui.uploads import Names, bullets, markdown

__all__ = ["FILES", "batch_results", "show_batch", "upload_files"]

FILES = 32  # of a batch: a few minutes of a small machine
PREVIEW = 320  # px: longest side of a batch's previews

_log = logging.getLogger(__name__)


def upload_files(label: str, height: int = 220) -> Any:
    """Add a control for several files, which reach us as they are, readable or not."""
    return Files(label=label, file_count="multiple", height=height, elem_classes="batch")


def batch_results() -> Panel:
    """Add the buttons of a batch, its progress, its pictures, a report on each file, and the archive."""
    run, stop = run_and_stop("Run all")
    status, made = status_lines()
    previews = gr.Gallery(
        label="Results", format="png", interactive=False, columns=4, height=360, buttons=[],
        elem_classes="batch-results",
    )  # fmt: skip
    download = download_button("Download ZIP")
    with gr.Accordion("Report on each file", open=False):
        report = gr.JSON(label="Report: settings or error of each file", buttons=["copy"])
    outputs = (download, report, previews, status)
    return Panel(run=run, stop=stop, outputs=outputs, public=2, made=made, again=repeating(), lane="collections")


def show_batch(run: Callable[[str], ImageResult], paths: Sequence[str], *, name: str) -> Generator[Update, None, None]:
    """Run a method on files, one after the other; a file that cannot be used is reported, and the rest goes on.

    The archive has this name, and holds a PNG a picture, with its settings, and the report as `report.json`.

    Raises:
        ImageError: No file gave a result.
        WeightsError: The model cannot be loaded.
    """
    start = time.perf_counter()
    folder = run_folder()
    archive = folder / f"{name}.zip"
    report: list[dict[str, Any]] = []
    previews: list[tuple[str, str]] = []
    names = Names("report.json")
    yield offered(None), None, None, f"0 of {len(paths)} pictures…"
    with zipfile.ZipFile(archive, "w") as packed:  # stored: PNG is compressed already
        for index, path in enumerate(paths, start=1):
            given = Path(path).name
            row: dict[str, Any] = {"file": given}
            try:
                result = run(path)
                row |= {"result": names.unused(f"{Path(path).stem}.png"), "settings": result.settings}
                result.save(folder / "result.png")
                packed.write(folder / "result.png", row["result"])
                opaque = images.to_pil(result.tensor)
                previews.append((_preview(opaque, folder / f"preview-{index}.jpg"), given))
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
    yield offered(archive), report, previews, status


def _preview(image: Image.Image, file: Path) -> str:
    small = image.copy()
    small.thumbnail((PREVIEW, PREVIEW))
    small.save(file, quality=85)
    return str(file)


def _faults(report: Sequence[dict[str, Any]]) -> str:
    return bullets([(row["file"], row["error"]) for row in report if "error" in row])
