"""Find things in a collection: say of some pictures whether they show one, train, and see where it is in all."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from artmodels import ui
from artmodels.data.labelled import labelled_csv
from artmodels.detections import annotations
from artmodels.errors import ConfigError, DatasetError
from artmodels.ui.batches import batch_results, once, upload_files
from artmodels.ui.checks import file_list, model_of, picture, read
from artmodels.ui.controls import MODELS, Panel, Update, beside, explained, run_folder
from artmodels.ui.events import on, working
from artmodels.ui.look import launch_options
from artmodels.ui.uploads import listing, markdown, reported

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples"
INTRODUCTION = (
    "# Find things in a collection\n"
    "1. Upload pictures, or take the example collection.\n"
    "2. Name what you look for, and click pictures to say whether they show it: **?**, **✓ yes**, **✗ no**. A few of "
    "each are enough; pictures left at **?** are searched, not learnt from.\n"
    "3. Train: it takes seconds after the pictures have been looked at once. Then look at what was found, correct "
    "labels by clicking, and train again."
)


collections, learning, marking = (
    beside(__file__, name, space="mimax") for name in ("collection", "learning", "marking")
)
Collection = collections.Collection


# --- the page


def present(work: Collection | None) -> Collection:
    """Give the collection.

    Raises:
        DatasetError: There is none, or it has been deleted.
    """
    if work is None:
        raise DatasetError("There is no collection yet: upload pictures, or take the example collection.")
    if not work.pictures.is_dir():
        raise DatasetError("The collection was deleted, as everything is after an hour: upload it again.")
    return work


def shown(work: Collection | None, label: str, threshold: float) -> tuple[Any, str]:
    """Give what was found as pictures, and a sentence."""
    if work is None or label not in work.detectors:
        return marking.places(label, []), ""
    found = work.found(label, threshold)
    folder = run_folder()
    tiles = []
    for number, one in enumerate(found[: collections.SHOWN]):
        file = folder / f"{number:03}.jpg"
        work.overlay(one).save(file, quality=88)
        tiles.append((one.image, file, float(one.scores[0])))
    boxes = sum(len(one) for one in found)
    more = f", the first {len(tiles)} are shown" if len(tiles) < len(found) else ""
    text = f"**{boxes} places in {len(found)} of {len(work.files)} pictures**{more}."
    return marking.places(label, tiles), text


def take(paths: list[str] | None) -> Iterator[Update]:
    """Make a collection of uploaded files: state, wall, found, status."""
    if not paths:
        raise DatasetError("There are no pictures: upload some, or a ZIP file of them.")
    work = yield from reported(collections.collect(paths, run_folder() / "collection"), others=3)
    yield work, marking.shown(work.files, work.small, "", {}), marking.places("", []), told(work)


def told(work: Collection) -> str:
    """Say what came in, and what did not."""
    faults = markdown(listing(work.skipped.items(), " is left out"))
    return f"**{len(work.files)} pictures.** Name what you look for, then click pictures.{faults}"


def example() -> Iterator[Update]:
    """Take the example collection, a third of it labelled: state, wall, found, status."""
    files = sorted(map(str, EXAMPLES.glob("*.jpg")))
    work = yield from reported(collections.collect(files, run_folder() / "collection"), others=3)
    table = labelled_csv(EXAMPLES / "labels.csv", EXAMPLES)
    some = table.items[: len(files) // 3]
    marks = {label: {item.path.name: label in item.labels for item in some} for label in table.classes}
    text = f"**{len(files)} seascapes**, a third of them labelled: train, and see whether the others are found."
    yield work, marking.shown(work.files, work.small, table.classes[0], marks), marking.places("", []), text


def choose(work: Collection | None, marks: Any, threshold: float) -> Iterator[Update]:
    """Show what was found of another class: found, status."""
    label = marking.checked(marks, work.files if work else ()).label
    found, text = shown(work, label, threshold)
    if text:
        text = f"{text} It was {learnt(work, label)}."
    yield found, text or (f"Looking for “{markdown(label)}”." if label else "Name what you look for.")


def learnt(work: Collection, label: str) -> str:
    """Say what a class was learnt from."""
    answers = list(work.learnt[label].values())
    return f"learnt from {answers.count(True)} ✓ and {answers.count(False)} ✗"


def said(work: Collection | None, marks: Any) -> tuple[Collection, Any]:
    """Give the collection, and its marks, of which one class is looked at.

    Raises:
        ConfigError: No class is looked at, or the marks are none.
        DatasetError: There is no collection, or the marks are of another.
    """
    work = present(work)
    given = marking.checked(marks, work.files)
    if not given.label:
        raise ConfigError("Name what you look for first, such as “ship”.")
    return work, given


def train(work: Collection | None, marks: Any, threshold: float) -> Iterator[Update]:
    """Train for the class: found, status."""
    work, given = said(work, marks)
    start = time.monotonic()
    for text in learning.train(work, {given.label: given.current}):
        yield gr.skip(), text
    found, text = shown(work, given.label, threshold)
    seconds = time.monotonic() - start
    of = f"“{markdown(given.label)}”, {learnt(work, given.label)}"
    yield found, f"Finished after {seconds:.1f} s, {of}: {text}"


def browse(work: Collection | None, marks: Any, threshold: float) -> Iterator[Update]:
    """Show what scores above the threshold: found, status."""
    found, text = shown(work, marking.checked(marks, work.files if work else ()).label, threshold)
    yield found, text or gr.skip()


def export(work: Collection | None, marks: Any, threshold: float, form: str) -> Iterator[Update]:
    """Write what was found: download, status."""
    work, given = said(work, marks)
    if given.label not in work.detectors:
        raise ConfigError("Nothing has been learnt yet: train first, then export.")
    if form not in learning.FORMATS:
        raise ConfigError(f"{form!r} is none of {', '.join(learning.FORMATS)}.")
    archive = run_folder() / f"{learning.plain_name(given.label)}.zip"
    learning.pack(archive, work, [given.label], threshold, (form,))
    text = f"{markdown(archive.name)} has the boxes and the classifier, {learnt(work, given.label)}."
    if work.learnt[given.label] != given.current:
        text += " The marks have changed since: train again to learn from them."
    yield gr.update(value=str(archive), interactive=True), text


# --- for programs, and for tables of labels


def mimax_batch(photos: list[str], table: str, threshold: float = 0.5) -> Iterator[Update]:
    """Learn classes from labels of whole pictures, and find them in all pictures.

    Args:
        photos: Pictures, or ZIP files of pictures: PNG, JPEG, WebP or TIFF.
        table: CSV file: a column "file" of names, and a column of 0 and 1 a class; pictures that are not in it are
            searched, not learnt from.
        threshold: Score from -1 to 1 above which a place is reported.

    Returns:
        A ZIP file of the detections (JSON, COCO, Pascal VOC, IIIF) and the classifiers, and the detections (JSON).
    """
    yield from explained(_trained(photos, table, threshold), outputs=4)


def _trained(photos: list[str], table: str, threshold: float) -> Iterator[Update]:
    start = time.monotonic()
    nothing = gr.skip()
    yield gr.update(value=None, interactive=False), None, None, "Reading…"
    work = yield from reported(collections.collect(photos, run_folder() / "collection"), others=3)
    try:
        given = labelled_csv(table, work.pictures)
    except DatasetError as error:
        raise DatasetError(str(error).replace(table, "the table").replace(str(work.pictures), "the upload")) from None
    labels = list(given.classes)
    answers = {label: {item.path.name: label in item.labels for item in given.items} for label in labels}
    for text in learning.train(work, answers):
        yield nothing, nothing, nothing, text
    archive = run_folder() / "mimax.zip"
    learning.pack(archive, work, labels, threshold, learning.FORMATS)
    found = learning.merged(work, labels, threshold)
    tiles = []
    for number, one in enumerate(sorted(found, key=lambda one: -max([*one.scores.tolist(), -1.0]))):
        if len(one) and number < collections.SHOWN:
            file = archive.with_name(f"{number:03}.jpg")
            work.overlay(one).save(file, quality=88)
            tiles.append((str(file), one.image))
    report = annotations.plain(found) | {"skipped": work.skipped}
    status = f"**Finished after {time.monotonic() - start:.1f} s: {sum(map(len, found))} places.**"
    faults = markdown(listing(work.skipped.items(), " is left out"))
    yield gr.update(value=str(archive), interactive=True), report, tiles, status + faults


def mimax_run(photo: str, model: str, threshold: float = 0.5) -> Iterator[Update]:
    """Find what a trained model knows in a picture.

    Args:
        photo: Picture to search: PNG, JPEG, WebP or TIFF.
        model: Name of the model, as in the catalogue, such as "mimax-seascapes".
        threshold: Score from -1 to 1 above which a place is reported.

    Returns:
        The picture with boxes (PNG), its settings with the boxes in pixels, and the PNG file with both inside.
    """
    yield from once(lambda: MODELS(model)(read(photo), threshold=threshold), name=model, before=photo)


def a_table(path: str | None, _: object) -> str:
    """Check that there is a table."""
    return "" if path else "There are no labels: upload a CSV file with a column “file” and one a class."


with ui.blocks("Find things in a collection") as demo:
    gr.Markdown(INTRODUCTION)
    with gr.Tabs():
        with gr.Tab("By clicking"):
            state = gr.State(None, time_to_live=3600)
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=320):
                    files = upload_files(f"Pictures or ZIP files, up to {collections.FILES} pictures")
                    sample = gr.Button("Take the example collection")
                    wall = marking.wall()
                with gr.Column(scale=1, min_width=320):
                    with gr.Row():
                        run = gr.Button("Train", variant="primary", size="lg", min_width=120)
                        stop = gr.Button("Stop", size="lg", min_width=120)
                    status = gr.Markdown("Nothing has run yet.", elem_classes="status")
                    threshold = gr.Slider(-1, 1, 0.5, step=0.05, label="Show what scores above")
                    results = marking.found()
                    form = gr.Dropdown(list(learning.FORMATS), value=learning.FORMATS[0], label="Export boxes as")
                    save = gr.Button("Export boxes and classifier")
                    download = gr.DownloadButton("Download ZIP", interactive=False, elem_classes="download", size="lg")

            # The marks are an input of all, and an output of none but a new collection: the server never changes one.
            everything, marks = [state, wall, results, status], [state, wall, threshold]
            collecting = [
                on(files.upload, take, [files], everything, lane="collections"),
                on(sample.click, example, [], everything, lane="collections"),
            ]
            on(wall.looked, choose, marks, [results, status], trigger_mode="always_last")
            running = working(run, train, marks, [results, status], lane="collections")
            on(threshold.change, browse, marks, [results, status], trigger_mode="always_last")
            on(save.click, export, [*marks, form], [download, status])
            stop.click(
                lambda: "Stopped. Train again to go on; pictures that were looked at are not looked at again.",
                outputs=status, cancels=[running, *collecting], api_visibility="private", queue=False,
            )  # fmt: skip
        with gr.Tab("By a table"), gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                photos = upload_files(f"Pictures or ZIP files, up to {collections.FILES} pictures")
                table = gr.File(label="Labels: a CSV file", file_count="single", type="filepath", height=120)
                least = gr.Slider(-1, 1, 0.5, step=0.05, label="Report what scores above")
            with gr.Column(scale=3, min_width=320):
                panel: Panel = batch_results()
                checks = {"photos": file_list(collections.FILES), "table": a_table}
                ui.connect(mimax_batch, [photos, table, least], panel, checks)
        with gr.Tab("One picture"), gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                photo = ui.upload("Picture")
                choices = ui.model_choices("mimax")
                model = gr.Radio(choices, value=choices[0][1], label="Trained model", elem_classes="stacked")
                model.preprocess = lambda payload: payload  # a check says what is wrong with another one
                score = gr.Slider(-1, 1, 0.5, step=0.05, label="Report what scores above")
                gr.Examples(
                    [[str(file)] for file in sorted(EXAMPLES.glob("*.jpg"))[-4:]],
                    photo,
                    label="Examples",
                    cache_examples=False,
                    api_visibility="private",
                )
            with gr.Column(scale=3, min_width=320):
                single = ui.results("Picture", steps=False)
                checks = {"photo": picture("the picture to search"), "model": model_of("mimax")}
                ui.connect(mimax_run, [photo, model, score], single, checks)

LAUNCH = launch_options()

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**LAUNCH)
