"""Find things in a collection: say of some pictures whether they show one, train, and see where it is in all."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from artmodels import annotations, serving
from artmodels.errors import ConfigError, DatasetError
from artmodels.labelled import labelled_csv
from artmodels.serving import MODELS, Panel, Update, beside, explained, run_folder
from artmodels.serving_checks import file_list, model_of, picture, read
from artmodels.serving_events import on, working
from artmodels.serving_launch import launch_options
from artmodels.serving_once import batch_results, once, upload_files

HERE = Path(__file__).parent
EXAMPLES = HERE / "examples"
MARKS = {"yes": "✓ yes", "no": "✗ no", "?": "?"}
INTRODUCTION = (
    "# Find things in a collection\n"
    "1. Upload pictures, or take the example collection.\n"
    "2. Name what you look for, and click pictures to say whether they show it: **?**, **✓ yes**, **✗ no**. A few of "
    "each are enough; pictures left at **?** are searched, not learnt from.\n"
    "3. Train: it takes seconds after the pictures have been looked at once. Then look at what was found, correct "
    "labels by clicking, and train again."
)


collections, learning = (beside(__file__, name, space="mimax") for name in ("collection", "learning"))
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


def wall(work: Collection | None, label: str) -> list[tuple[str, str]]:
    """Give the pictures with their marks."""
    if work is None:
        return []
    return [(str(work.thumbnail(name)), MARKS[work.answer(label, name)]) for name in work.files]


def shown(work: Collection | None, label: str, threshold: float) -> tuple[Any, list[str], str]:
    """Give what was found as pictures, their names, and a sentence."""
    if work is None or label not in work.detectors:
        return [], [], ""
    found = work.found(label, threshold)
    folder = run_folder()
    tiles = []
    for number, one in enumerate(found[: collections.SHOWN]):
        file = folder / f"{number:03}.jpg"
        work.overlay(one).save(file, quality=88)
        mark = MARKS[work.answer(label, one.image)]
        tiles.append((str(file), f"{one.scores[0]:.2f}  {mark}  {one.image}"))
    boxes = sum(len(one) for one in found)
    more = f", the first {len(tiles)} are shown" if len(tiles) < len(found) else ""
    text = f"**{boxes} places in {len(found)} of {len(work.files)} pictures**{more}."
    return tiles, [one.image for one in found[: len(tiles)]], text


def take(paths: list[str] | None) -> Iterator[Update]:
    """Make a collection of uploaded files: state, class, wall, found, names, status."""
    if not paths:
        raise DatasetError("There are no pictures: upload some, or a ZIP file of them.")
    work = collections.collect(paths, run_folder() / "collection")
    yield work, gr.update(choices=[], value=""), wall(work, ""), [], [], told(work)


def told(work: Collection) -> str:
    """Say what came in, and what did not."""
    faults = "".join(f"\n- {name} is left out: {reason}" for name, reason in work.skipped.items())
    return f"**{len(work.files)} pictures.** Name what you look for, then click pictures.{faults}"


def example() -> Iterator[Update]:
    """Take the example collection, a third of it labelled: state, class, wall, found, names, status."""
    files = sorted(map(str, EXAMPLES.glob("*.jpg")))
    work = collections.collect(files, run_folder() / "collection")
    table = labelled_csv(EXAMPLES / "labels.csv", EXAMPLES)
    for label in table.classes:
        work.labels[label] = {item.path.name: label in item.labels for item in table.items[: len(files) // 3]}
    first = table.classes[0]
    text = f"**{len(files)} seascapes**, a third of them labelled: train, and see whether the others are found."
    yield work, gr.update(choices=list(table.classes), value=first), wall(work, first), [], [], text


def choose(work: Collection | None, label: str | None, threshold: float) -> Iterator[Update]:
    """Show another class: its name, wall, found, names, status."""
    name = " ".join((label or "").split())
    tiles, names, text = shown(work, name, threshold)
    classes = sorted({*(work.labels if work else ()), *([name] if name else ())})
    yield gr.update(choices=classes, value=name), wall(work, name), tiles, names, text or f"Looking for “{name}”."


def mark(event: gr.SelectData, work: Collection | None, label: str | None) -> Iterator[Update]:
    """Turn the mark of a picture: wall, status."""
    work = present(work)
    if not label:
        raise ConfigError("Name what you look for first, such as “ship”.")
    work.turn(label, work.files[event.index])
    yield wall(work, label), counted(work, label)


def counted(work: Collection, label: str) -> str:
    """Say how many pictures are marked."""
    answers = list(work.labels.get(label, {}).values())
    return f"“{label}”: {answers.count(True)} ✓ yes, {answers.count(False)} ✗ no, of {len(work.files)} pictures."


def rest(work: Collection | None, label: str | None) -> Iterator[Update]:
    """Mark all pictures without a mark as no: wall, status."""
    work = present(work)
    if not label:
        raise ConfigError("Name what you look for first, such as “ship”.")
    known = work.labels.setdefault(label, {})
    for name in work.files:
        known.setdefault(name, False)
    yield wall(work, label), counted(work, label)


def correct(
    event: gr.SelectData, work: Collection | None, label: str, names: list[str], threshold: float
) -> Iterator[Update]:
    """Turn the mark of a picture in which something was found: wall, found, names, status."""
    work = present(work)
    work.turn(label, names[event.index])
    tiles, names, _ = shown(work, label, threshold)
    yield wall(work, label), tiles, names, f"{counted(work, label)} Train again to learn from it."


def train(work: Collection | None, label: str | None, threshold: float) -> Iterator[Update]:
    """Train for the class: found, names, status."""
    work = present(work)
    if not label:
        raise ConfigError("Name what you look for first, such as “ship”.")
    start = time.monotonic()
    for text in learning.train(work, [label]):
        yield gr.skip(), gr.skip(), text
    tiles, names, text = shown(work, label, threshold)
    yield tiles, names, f"Finished after {time.monotonic() - start:.1f} s: {text}"


def browse(work: Collection | None, label: str | None, threshold: float) -> Iterator[Update]:
    """Show what scores above the threshold: found, names, status."""
    yield shown(work, label or "", threshold)


def export(work: Collection | None, label: str | None, threshold: float, form: str) -> Iterator[Update]:
    """Write what was found: download, status."""
    work = present(work)
    if not label or label not in work.detectors:
        raise ConfigError("Nothing has been learnt yet: train first, then export.")
    archive = run_folder() / f"{'-'.join(label.split())}.zip"
    learning.pack(archive, work, [label], threshold, (form,))
    yield gr.update(value=str(archive), interactive=True), f"{archive.name} has the boxes and the classifier."


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
    work = collections.collect(photos, run_folder() / "collection")
    try:
        given = labelled_csv(table, work.pictures)
    except DatasetError as error:
        raise DatasetError(str(error).replace(table, "the table").replace(str(work.pictures), "the upload")) from None
    for label in given.classes:
        work.labels[label] = {item.path.name: label in item.labels for item in given.items}
    labels = list(given.classes)
    for text in learning.train(work, labels):
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
    faults = "".join(f"\n- {name} is left out: {reason}" for name, reason in work.skipped.items())
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


with serving.blocks("Find things in a collection") as demo:
    gr.Markdown(INTRODUCTION)
    with gr.Tabs():
        with gr.Tab("By clicking"):
            state, order = gr.State(None, time_to_live=3600), gr.State([])
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=320):
                    files = upload_files(f"Pictures or ZIP files, up to {collections.FILES} pictures")
                    sample = gr.Button("Take the example collection")
                    label = gr.Dropdown([], value="", label="What are you looking for?", allow_custom_value=True)
                    pictures = gr.Gallery(
                        label="Click a picture: ?, ✓ yes, ✗ no", columns=3, height=420, allow_preview=False,
                        format="jpeg", interactive=False, buttons=[], elem_classes="collection",
                    )  # fmt: skip
                    others = gr.Button("Mark all others ✗ no")
                with gr.Column(scale=1, min_width=320):
                    with gr.Row():
                        run = gr.Button("Train", variant="primary", size="lg", min_width=120)
                        stop = gr.Button("Stop", size="lg", min_width=120)
                    status = gr.Markdown("Nothing has run yet.", elem_classes="status")
                    threshold = gr.Slider(-1, 1, 0.5, step=0.05, label="Show what scores above")
                    results = gr.Gallery(
                        label="Found, best first; click to change a mark", columns=2, height=520, allow_preview=False,
                        format="jpeg", interactive=False, buttons=[], elem_classes="found",
                    )  # fmt: skip
                    form = gr.Dropdown(list(learning.FORMATS), value=learning.FORMATS[0], label="Export boxes as")
                    save = gr.Button("Export boxes and classifier")
                    download = gr.DownloadButton("Download ZIP", interactive=False, elem_classes="download", size="lg")

            everything = [state, label, pictures, results, order, status]
            slow = {"concurrency_id": "collections", "concurrency_limit": 1}
            on(files.upload, take, [files], everything, **slow)
            on(sample.click, example, [], everything, **slow)
            on(label.input, choose, [state, label, threshold], [label, pictures, results, order, status])
            on(others.click, rest, [state, label], [pictures, status])
            running = working(run, train, [state, label, threshold], [results, order, status], lane="collections")
            on(
                threshold.change,
                browse,
                [state, label, threshold],
                [results, order, status],
                trigger_mode="always_last",
            )
            on(save.click, export, [state, label, threshold, form], [download, status])
            stop.click(
                lambda: "Stopped. Train again to go on; pictures that were looked at are not looked at again.",
                outputs=status, cancels=[running], api_visibility="private", queue=False,
            )  # fmt: skip

            on(pictures.select, mark, [state, label], [pictures, status], event=True)
            on(
                results.select,
                correct,
                [state, label, order, threshold],
                [pictures, results, order, status],
                event=True,
            )
        with gr.Tab("By a table"), gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                photos = upload_files(f"Pictures or ZIP files, up to {collections.FILES} pictures")
                table = gr.File(label="Labels: a CSV file", file_count="single", type="filepath", height=120)
                least = gr.Slider(-1, 1, 0.5, step=0.05, label="Report what scores above")
            with gr.Column(scale=3, min_width=320):
                panel: Panel = batch_results()
                checks = {"photos": file_list(collections.FILES), "table": a_table}
                serving.connect(mimax_batch, [photos, table, least], panel, checks)
        with gr.Tab("One picture"), gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                photo = serving.upload("Picture")
                choices = serving.model_choices("mimax")
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
                single = serving.results("Picture", steps=False)
                checks = {"photo": picture("the picture to search"), "model": model_of("mimax")}
                serving.connect(mimax_run, [photo, model, score], single, checks)

LAUNCH = launch_options()

if __name__ == "__main__":
    demo.queue(**serving.QUEUE).launch(**LAUNCH)
