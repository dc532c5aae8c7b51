"""The endpoints: a pair and a group, as programs call them."""

import math
from collections.abc import Iterator
from itertools import chain
from types import ModuleType
from typing import Any

import gradio as gr

from artmodels import ui
from artmodels.errors import ConfigError, short
from artmodels.ui.batches import upload_files
from artmodels.ui.checks import file_list, read
from artmodels.ui.controls import Update, run_folder
from artmodels.ui.events import endpoint
from artmodels.ui.uploads import reported

MOST = 10_000  # points that a program may look up in one call


def add(aligning: ModuleType, grouping: ModuleType, handlers: ModuleType) -> None:
    """Add the endpoints to the page.

    Args:
        aligning: `aligning.py`.
        grouping: `grouping.py`.
        handlers: `handlers.py`, for its checks.
    """

    def ransac_flow_run(
        source: str, target: str, fine: bool = True, points: list[list[float]] | None = None
    ) -> Iterator[Update]:
        """Bring a picture onto another of the same thing.

        Args:
            source: Picture that is moved: PNG, JPEG, WebP or TIFF, at least 8 pixels a side.
            target: Picture it is brought onto.
            fine: Whether each pixel is moved by itself after the homographies.
            points: Places of the target to look up in the source: a list of [x, y] in its pixels.

        Returns:
            The source as the target shows it (PNG), or nothing where no alignment was found; what was found, with
            score, homographies, correspondences and points (JSON); and the files: PNG, NPZ, GIF, MP4 and JSON.
        """
        found, files = aligning.pair(read(source), read(target), fine=bool(fine), points=_places(points))
        yield str(files["png"]) if files else None, found, [str(path) for path in files.values()], ""

    def ransac_flow_group(photos: list[str], reference: str = "") -> Iterator[Update]:
        """Bring several pictures of a thing onto one of them, and average them.

        Args:
            photos: Pictures, or ZIP files of pictures: PNG, JPEG, WebP or TIFF.
            reference: Name of the picture that the others are brought onto; nothing finds the one that fits best.

        Returns:
            Reference, sharpness of the means, what was left out, and each alignment (JSON); and a ZIP file of the
            means, the aligned pictures and the JSON.
        """
        gathered = yield from reported(grouping.gather(photos, run_folder()), others=2)
        chosen = grouping.check_reference(gathered, str(reference or ""))
        for step in grouping.aligned(gathered, chosen):
            if isinstance(step, str):
                yield gr.skip(), gr.skip(), step
            else:
                yield grouping.summary(step, gathered), str(grouping.packed(step, gathered)), ""

    with gr.Column(visible=False):
        pair = [ui.upload("Source"), ui.upload("Target")]
        fine = gr.Checkbox(True, label="Fine stage")
        points = gr.JSON(None, label="Points of the target")
        image = gr.Image(label="Source on target", format="png")
        found, files = gr.JSON(label="Found"), gr.File(label="Files", file_count="multiple")
        photos, reference = upload_files("Pictures or ZIP files"), gr.Textbox("", label="Reference")
        group, archive = gr.JSON(label="Group"), gr.File(label="ZIP file")
    endpoint(ransac_flow_run, [*pair, fine, points], [image, found, files], handlers.CHECKS, "compute")
    most = {"photos": file_list(grouping.PICTURES)}
    endpoint(ransac_flow_group, [photos, reference], [group, archive], most, "collections")


def _places(points: Any) -> list[tuple[float, float]]:
    """Points as pairs of finite numbers.

    Raises:
        ConfigError: They are anything else, or too many.
    """
    try:
        places = [(float(x), float(y)) for x, y in (points or ())[: MOST + 1]]
        fine = all(map(math.isfinite, chain(*places)))
    except (TypeError, ValueError, OverflowError, KeyError):
        fine = False
    if not fine:
        raise ConfigError(f"points={short(points)} must be a list of [x, y] in pixels of the target")
    if len(places) > MOST:
        raise ConfigError(f"There are more than {MOST} points: look them up in several calls.")
    return places
