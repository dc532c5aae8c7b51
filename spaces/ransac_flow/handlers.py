"""What happens when a visitor clicks: generators of what the page is to show, the status last."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from artmodels.errors import ConfigError, ImageError
from artmodels.ui.checks import picture, read
from artmodels.ui.controls import Update, run_folder
from artmodels.ui.server.pictures import data_url
from artmodels.ui.uploads import listing, markdown, reported
from artmodels.ui.visitors import present
from artmodels.ui.widgets import viewers

# `app.py` has loaded them: they are files of this folder, not of a package.
aligning, grouping = (sys.modules[f"ransac_flow_space_{name}"] for name in ("aligning", "grouping"))
Work = aligning.Work

EXAMPLES = Path(__file__).parent / "examples"
PAIRS = {
    "engraving": "An engraving, mirrored",
    "copy": "A copy in another hand",
    "repainted": "Cleaned and repainted",
    "photograph": "An old photograph",
    "stranger": "Something else: refused",
}
POINTS = 40  # at most: more cannot be told apart on the page
GONE = (
    "Nothing is aligned yet: upload two pictures, and align them.",
    "The result was deleted, as everything is after an hour: align the pictures again.",
)
STAGES = {"Fine: each pixel by itself": "fine", "Coarse: homographies only": "coarse"}
CHOOSE = ""  # of the reference: let the page find it
CHECKS = {
    "source": picture("the source, the picture that is moved", smallest=8),
    "target": picture("the target, the picture it is brought onto", smallest=8),
}


def tiles() -> list[tuple[Path, str]]:
    """The sources of the examples with their captions; the target of all is the painting."""
    return [(EXAMPLES / f"{name}.jpg", text) for name, text in PAIRS.items()]


def example(event: gr.EventData) -> Iterator[Update]:
    """Take an example: source, target, status."""
    yield str(tiles()[int(event.index)][0]), str(EXAMPLES / "painting.jpg"), "An example is ready: press Align."


def loaded(source: str | None, target: str | None) -> Iterator[Any]:
    """Read both pictures.

    Raises:
        ImageError: One is missing, or cannot be used.
    """
    for name, path in (("source", source), ("target", target)):
        fault = CHECKS[name](path, {})
        if fault:
            raise ImageError(f"{name.capitalize()}: {fault}")
        yield read(path)


# --- two pictures


def align(source: str | None, target: str | None) -> Iterator[Update]:
    """Align: work, results, stage, slider, overlay, points, table, maps, downloads, status; see `app.py`."""
    hidden: Update = (None, gr.update(visible=False), *[gr.skip()] * 6, *[_nothing()] * len(aligning.KINDS))
    yield *hidden, "Aligning: this takes some seconds…"
    result = aligning.align(*loaded(source, target))
    if not result.found:
        yield *hidden, aligning.refusal(result)
        return
    folder = run_folder()
    work = aligning.keep(result, folder)
    shown = aligning.pictures(result, folder)
    pair = " on ".join(markdown(Path(path or "").name) for path in (source, target))
    said = "  \n".join([aligning.verdict(result), f"{pair}.", *result.notes])
    both = {name: data_url(shown[name]) for name in ("source", "target")}
    sizes = {f"{name}_size": list(size) for name, size in zip(both, result.sizes, strict=True)}
    downloads = [_nothing()] * len(aligning.KINDS)
    yield (
        work,
        gr.update(visible=True),
        "fine",
        *layers(work, "fine"),
        gr.update(value=both | sizes, marks=[]),
        viewers.NO_POINTS,
        viewers.figures(aligning.maps(result)),
        *downloads,
        f"{said}  \nWriting files…",
    )
    for index, (_, path) in enumerate(aligning.files(result, work)):
        downloads[index] = gr.update(value=str(path), interactive=True)
    yield *[gr.skip()] * 8, *downloads, said


def _nothing() -> Any:
    return gr.update(value=None, interactive=False)


def layers(work: Work, stage: str) -> tuple[tuple[str, str], Any]:
    """What the slider and the overlay show: the target, and the source on it after a stage."""
    target, moved = work.folder / "target.jpg", work.folder / f"{stage}.jpg"
    both = {"under": data_url(target), "over": data_url(moved)}
    # As an update: the difference of a bare mapping to the `gr.skip()` that follows would be an empty one.
    return (str(target), str(moved)), gr.update(value=both)


def restage(work: Work | None, stage: str) -> Iterator[Update]:
    """Show the coarse or the fine stage: slider, overlay, PNG, status."""
    work = present(work, *GONE)
    file = work.folder / ("aligned.png" if stage == "fine" else "aligned-coarse.png")
    yield *layers(work, stage), gr.update(value=str(file), interactive=True), gr.skip()


def picked(event: gr.EventData, work: Work | None) -> Iterator[Update]:
    """Look up a place that was clicked: x, y, points, table, status."""
    x, y = round(event.x, 1), round(event.y, 1)
    for update in look_up(work, x, y):
        yield x, y, *update


def look_up(work: Work | None, x: float | None, y: float | None) -> Iterator[Update]:
    """Look up a place of the target: points, table, status."""
    work = present(work, *GONE)
    if x is None or y is None or not math.isfinite(x + y):
        raise ConfigError("There is no point: click a place on the target, or type both x and y.")
    if len(work.points) >= POINTS:
        raise ConfigError(f"There are {POINTS} points, as many as can be told apart: clear them first.")
    found = aligning.looked_up(work, [*work.points, (x, y)])
    work.points.append((x, y))
    yield *marked(work, found), gr.skip()


def clear(work: Work | None) -> Iterator[Update]:
    """Forget all points: points, table, status."""
    work = present(work, *GONE)
    work.points.clear()
    yield *marked(work, []), gr.skip()


def marked(work: Work, found: list[dict[str, Any]]) -> tuple[Any, str]:
    """What the page shows of points, which the JSON file has, too."""
    sure = [each["inside"] and each["matchability"] >= aligning.TRUSTED for each in found]
    aligning.write_summary(work, found)
    marks = [each | {"sure": known} for each, known in zip(found, sure, strict=True)]
    return gr.update(marks=marks), viewers.table(found, aligning.TRUSTED)


# --- several


def name_them(paths: list[str] | None) -> Iterator[Update]:
    """Offer uploaded pictures as references: reference, status."""
    if not paths:
        yield gr.update(choices=[("Let the page choose", CHOOSE)], value=CHOOSE), "There are no pictures yet."
        return
    gathered = yield from reported(grouping.gather(paths, run_folder()), others=1)
    names = list(gathered.pictures)
    # So many are not compared with each other to choose one.
    many = len(names) > grouping.CHOOSING
    choices = [(name, name) for name in names]
    faults = markdown(listing(gathered.skipped.items(), " cannot be used"))
    offered = choices if many else [("Let the page choose", CHOOSE), *choices]
    yield (
        gr.update(choices=offered, value=names[0] if many else CHOOSE),
        f"**{len(names)} pictures.** Choose the reference, or let the page choose, then align them.{faults}",
    )


def example_group() -> list[str]:
    """The pictures that come with the page, the reference first."""
    names = ("painting", "copy", "engraving", "repainted", "photograph", "stranger")
    return [str(EXAMPLES / f"{name}.jpg") for name in names]


def group(paths: list[str] | None, reference: str) -> Iterator[Update]:
    """Align several pictures: figures, download, status."""
    if not paths:
        raise ImageError("There are no pictures: upload two or more, or a ZIP file of them, or take the example.")
    yield "", _nothing(), "Preparing…"
    gathered = yield from reported(grouping.gather(paths, run_folder()), others=2)
    chosen = grouping.check_reference(gathered, reference or CHOOSE)
    for step in grouping.aligned(gathered, chosen):
        if isinstance(step, str):
            yield gr.skip(), gr.skip(), step
            continue
        archive = grouping.packed(step, gathered)
        yield (
            viewers.figures(grouping.shown(step)),
            gr.update(value=str(archive), interactive=True),
            grouping.sentence(step, gathered),
        )
