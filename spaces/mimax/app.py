"""Find things in a collection: say of some pictures whether they show one, train, and see where it is in all."""

import json
import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import gradio as gr
import numpy as np

from artmodels import ui
from artmodels.data.labelled import labelled_csv
from artmodels.detections import annotations, drawing
from artmodels.detections.annotations import Detections
from artmodels.errors import ConfigError, DatasetError
from artmodels.ui.running import calm
from artmodels.ui.uploads import Names, markdown, reported
from artmodels.ui.visitors import VisitorPictures, present
from artmodels.ui.widgets import marking

if TYPE_CHECKING:
    from artmodels.methods.mimax import Detector

EXAMPLES = Path(__file__).parent / "examples"
FILES = 400  # pictures of a collection
SHOWN, DRAWN = 60, 3  # pictures with detections on the page, and boxes on each; an export has all
REGIONS = "art-regions"
FORMATS = ("JSON", "COCO", "Pascal VOC", "IIIF")
IIIF = "https://example.org"  # nobody's: to be replaced by the address of the collection
INTRODUCTION = (
    "# Find things in a collection\n"
    "1. Upload pictures, or take the example collection.\n"
    "2. Name what you look for, and click pictures to say whether they show it: **?**, **✓ yes**, **✗ no**. A few of "
    "each are enough; pictures left at **?** are searched, not learnt from.\n"
    "3. Train: it takes seconds after the pictures have been looked at once. Then look at what was found, correct "
    "labels by clicking, and train again."
)


# --- what a visitor works on


@dataclass(eq=False)
class MarkedPictures(VisitorPictures):
    """One visitor's collection, and what was learnt of each class."""

    detectors: "dict[str, Detector]" = field(default_factory=dict)
    learnt: dict[str, marking.Answers] = field(default_factory=dict)  # whether the pictures learnt from show it

    def learnt_from(self, label: str) -> str:
        """Say what a class was learnt from."""
        answers = list(self.learnt[label].values())
        return f"learnt from {answers.count(True)} ✓ and {answers.count(False)} ✗"

    def detections(self, labels: Sequence[str], threshold: float) -> list[Detections]:
        """Give what was found of some classes in each picture."""
        from artmodels.methods.mimax.detector import detect_together

        return detect_together([self.detectors[label] for label in labels], threshold=threshold)


def collection(paths: Sequence[str] | None) -> Iterator[Any]:
    """Take pictures, and those inside ZIP files: texts that say how far it is, and the work, last."""
    return MarkedPictures(ui.run_folder() / "collection").collect(paths, most=FILES, repeated=True)


def train_on(work: MarkedPictures, marks: Mapping[str, marking.Answers]) -> Iterator[str]:
    """Train a detector for each class from whether pictures show it, and say how far it is."""
    # Not at the top: the gallery is to be up before anybody trains.
    from artmodels.methods.mimax import Detector, MIMax, MIMaxStep
    from artmodels.progress import Progress

    for number, (label, answers) in enumerate(marks.items(), start=1):
        for kind, words in ((True, "✓ yes"), (False, "✗ no")):
            if kind not in answers.values():
                raise DatasetError(f"No picture is marked “{words}” for “{label}”: mark at least one, then train.")
        given = {name: [label] if shown else [] for name, shown in answers.items()}
        detector = Detector(ui.MODELS(REGIONS), MIMax(standardize=True))
        of = f" ({number} of {len(marks)}: {markdown(label)})" if len(marks) > 1 else ""
        for step in calm(detector.stream_fit(work.pictures, given, classes=[label], store=work.folder / "regions")):
            if isinstance(step, MIMaxStep):
                yield f"Training{of}: step {step.done} of {step.total}, loss {step.loss:.3f}."
            elif isinstance(step, Progress):
                yield f"Looking at picture {step.done} of {step.total}…"
        work.detectors[label], work.learnt[label] = detector, dict(answers)


def drawn(work: MarkedPictures, found: Sequence[Detections]) -> list[tuple[str, Path, float]]:
    """Draw the best boxes over small versions of the best pictures: name, file and score of each, the best first."""
    folder, tiles = ui.run_folder(), []
    for number, one in enumerate(sorted(found, key=lambda one: -one.scores.max())[:SHOWN]):
        picture = work.opened_small(one.image)
        scale = picture.width / one.width, picture.height / one.height
        best = np.argsort(-one.scores, kind="stable")[:DRAWN]
        reduced = Detections(
            image=one.image,
            width=picture.width,
            height=picture.height,
            boxes=np.clip(one.boxes[best] * (scale * 2), 0, picture.size * 2),
            scores=one.scores[best],
            labels=tuple(one.labels[index] for index in best),
        )
        file = folder / f"{number:03}.jpg"
        drawing.boxes_over(picture, reduced).save(file, quality=88)
        tiles.append((one.image, file, float(one.scores.max())))
    return tiles


def pack(
    archive: Path, work: MarkedPictures, found: Sequence[Detections], labels: Sequence[str], formats: Sequence[str]
) -> None:
    """Write annotations of all pictures and the classifiers into a ZIP file."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        if "JSON" in formats:
            packed.writestr("detections.json", json.dumps(annotations.plain(found), indent=1))
        if "COCO" in formats:
            packed.writestr("coco.json", json.dumps(annotations.coco(found, labels)))
        if "IIIF" in formats:
            for one in found:
                address = quote(one.image)
                page = annotations.iiif_page(one, page=f"{IIIF}/annotations/{address}", canvas=f"{IIIF}/{address}")
                packed.writestr(f"iiif/{one.image}.json", json.dumps(page, indent=1))
        if "Pascal VOC" in formats:
            names = Names()
            for one in found:
                packed.writestr(f"voc/{names.unused(f'{Path(one.image).stem}.xml')}", annotations.voc(one))
        folders = Names()
        for label in labels:
            name = folders.unused(plain_name(label))
            work.detectors[label].save_pretrained(archive.parent / name)
            for file in sorted((archive.parent / name).iterdir()):
                packed.write(file, f"classifier-{name}/{file.name}")


def plain_name(label: str) -> str:
    """Make the name of a class one of a file: it is the visitor's, and may be a path."""
    return re.sub(r"\W+", "-", label).strip("-") or "thing"


# --- what happens when a visitor clicks: updates of the page, the status last


def take(paths: list[str] | None) -> Iterator[ui.Update]:
    """Make a collection of uploaded files: state, wall, found, status."""
    work = yield from reported(collection(paths), others=3)
    text = f"**{len(work.files)} pictures.** Name what you look for, then click pictures.{work.left_out()}"
    yield work, marking.wall_update(work.files, work.small, "", {}), marking.found_update("", []), text


def example() -> Iterator[ui.Update]:
    """Take the example collection, a third of it labelled: state, wall, found, status."""
    files = sorted(map(str, EXAMPLES.glob("*.jpg")))
    work = yield from reported(collection(files), others=3)
    table = labelled_csv(EXAMPLES / "labels.csv", EXAMPLES)
    some = table.items[: len(files) // 3]
    marks = {label: {item.path.name: label in item.labels for item in some} for label in table.classes}
    text = f"**{len(files)} seascapes**, a third of them labelled: train, and see whether the others are found."
    wall = marking.wall_update(work.files, work.small, table.classes[0], marks)
    yield work, wall, marking.found_update("", []), text


def label_of(work: MarkedPictures | None, sent: object) -> str:
    """Give the class that is looked at, of the marks that the page sent; "" for none."""
    return marking.read_marks(sent, work.files if work else ()).label


def marks_on(work: MarkedPictures | None, sent: object) -> tuple[MarkedPictures, marking.Marks]:
    """Give the collection, and its marks, if there is one and a class is looked at."""
    work = present(work)
    marks = marking.read_marks(sent, work.files)
    if not marks.label:
        raise ConfigError("Name what you look for first, such as “ship”.")
    return work, marks


def shown(work: MarkedPictures | None, label: str, threshold: float) -> tuple[Any, str]:
    """Give what was found of a class as pictures, and a sentence; "" before it was learnt."""
    if work is None or label not in work.detectors:
        return marking.found_update(label, []), ""
    found = [one for one in work.detections([label], threshold) if len(one)]
    tiles = drawn(work, found)
    more = f", the first {len(tiles)} are shown" if len(tiles) < len(found) else ""
    text = f"**{sum(map(len, found))} places in {len(found)} of {len(work.files)} pictures**{more}."
    return marking.found_update(label, tiles), text


def choose(work: MarkedPictures | None, sent: object, threshold: float) -> Iterator[ui.Update]:
    """Show what was found of another class: found, status."""
    label = label_of(work, sent)
    found, text = shown(work, label, threshold)
    if work is not None and text:
        text = f"{text} It was {work.learnt_from(label)}."
    yield found, text or (f"Looking for “{markdown(label)}”." if label else "Name what you look for.")


def train(work: MarkedPictures | None, sent: object, threshold: float) -> Iterator[ui.Update]:
    """Train for the class: found, status."""
    work, marks = marks_on(work, sent)
    start = time.monotonic()
    for text in train_on(work, {marks.label: marks.current}):
        yield gr.skip(), text
    found, text = shown(work, marks.label, threshold)
    seconds = time.monotonic() - start
    of = f"“{markdown(marks.label)}”, {work.learnt_from(marks.label)}"
    yield found, f"Finished after {seconds:.1f} s, {of}: {text}"


def browse(work: MarkedPictures | None, sent: object, threshold: float) -> Iterator[ui.Update]:
    """Show what scores above the threshold: found, status."""
    found, text = shown(work, label_of(work, sent), threshold)
    yield found, text or gr.skip()


def export(work: MarkedPictures | None, sent: object, threshold: float, form: str) -> Iterator[ui.Update]:
    """Write what was found: download, status."""
    work, marks = marks_on(work, sent)
    label = marks.label
    if label not in work.detectors:
        raise ConfigError("Nothing has been learnt yet: train first, then export.")
    if form not in FORMATS:
        raise ConfigError(f"{form!r} is none of {', '.join(FORMATS)}.")
    archive = ui.run_folder() / f"{plain_name(label)}.zip"
    pack(archive, work, work.detections([label], threshold), [label], [form])
    text = f"{markdown(archive.name)} has the boxes and the classifier, {work.learnt_from(label)}."
    if work.learnt[label] != marks.current:
        text += " The marks have changed since: train again to learn from them."
    yield ui.offered(archive), text


# --- for programs, and for tables of labels


def mimax_batch(photos: list[str], table: str, threshold: float = 0.5) -> Iterator[ui.Update]:
    """Learn classes from labels of whole pictures, and find them in all pictures.

    Args:
        photos: Pictures, or ZIP files of pictures: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000.
        table: CSV file: a column "file" of names, and a column of 0 and 1 a class; pictures that are not in it are
            searched, not learnt from.
        threshold: Score from -1 to 1 above which a place is reported.

    Returns:
        A ZIP file of the detections (JSON, COCO, Pascal VOC, IIIF) and the classifiers, and the detections (JSON).
    """
    start = time.monotonic()
    yield ui.offered(None), None, None, "Reading…"
    work = yield from reported(collection(photos), others=3)
    try:
        given = labelled_csv(table, work.pictures)
    except DatasetError as error:
        raise DatasetError(str(error).replace(table, "the table").replace(str(work.pictures), "the upload")) from None
    answers = {label: {item.path.name: label in item.labels for item in given.items} for label in given.classes}
    for text in train_on(work, answers):
        yield gr.skip(), gr.skip(), gr.skip(), text
    archive = ui.run_folder() / "mimax.zip"
    found = work.detections(given.classes, threshold)
    pack(archive, work, found, given.classes, FORMATS)
    tiles = [(str(file), name) for name, file, _ in drawn(work, [one for one in found if len(one)])]
    status = f"**Finished after {time.monotonic() - start:.1f} s: {sum(map(len, found))} places.**{work.left_out()}"
    report = annotations.plain(found) | {"skipped": work.skipped}
    yield ui.offered(archive), report, tiles, status


def mimax_run(photo: str, model: str, threshold: float = 0.5) -> Iterator[ui.Update]:
    """Find what a trained model knows in a picture.

    Args:
        photo: Picture to search: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000.
        model: Name of the model, as in the catalogue, such as "mimax-seascapes".
        threshold: Score from -1 to 1 above which a place is reported.

    Returns:
        The picture with boxes (PNG), its settings with the boxes in pixels, and the PNG file with both inside.
    """
    yield from ui.show_pass(lambda: ui.MODELS(model)(ui.read(photo), threshold=threshold), name=model, second=photo)


def a_table(path: str | None, _: object) -> str:
    """Check that there is a table."""
    return "" if path else "There are no labels: upload a CSV file with a column “file” and one a class."


# --- the page


with ui.blocks("Find things in a collection") as demo:
    gr.Markdown(INTRODUCTION)
    with gr.Tabs():
        with gr.Tab("By clicking"):
            state = gr.State(None, time_to_live=3600)
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    files = ui.upload_files(f"Pictures or ZIP files, up to {FILES} pictures")
                    sample = gr.Button("Take the example collection")
                    wall = marking.wall()
                with gr.Column(scale=1, min_width=320):
                    run, stop = ui.run_and_stop("Train")
                    status = ui.status_line()
                    threshold = gr.Slider(-1, 1, 0.5, step=0.05, label="Show what scores above")
                    results = marking.found_wall()
                    form = gr.Dropdown(list(FORMATS), value=FORMATS[0], label="Export boxes as")
                    save = gr.Button("Export boxes and classifier")
                    download = ui.download_button("Download ZIP")

            # The marks are an input of all, and an output of none but a new collection: the server never changes one.
            everything, marks = [state, wall, results, status], [state, wall, threshold]
            collecting = [
                ui.on(files.upload, take, [files], everything, lane="collections"),
                ui.on(sample.click, example, [], everything, lane="collections"),
            ]
            ui.on(wall.looked, choose, marks, [results, status], trigger_mode="always_last")
            running = ui.working(run, train, marks, [results, status], lane="collections")
            ui.on(threshold.change, browse, marks, [results, status], trigger_mode="always_last")
            ui.on(save.click, export, [*marks, form], [download, status])
            text = "Stopped. Train again to go on; pictures that were looked at are not looked at again."
            ui.stop_button(stop, [running, *collecting], status, text)
        with gr.Tab("By a table"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                photos = ui.upload_files(f"Pictures or ZIP files, up to {FILES} pictures")
                table = gr.File(label="Labels: a CSV file", file_count="single", type="filepath", height=120)
                least = gr.Slider(-1, 1, 0.5, step=0.05, label="Report what scores above")
            with gr.Column(scale=3, min_width=320):
                panel = ui.batch_results()
                checks = {"photos": ui.file_list(FILES), "table": a_table}
                ui.connect(mimax_batch, [photos, table, least], panel, checks)
        with gr.Tab("One picture"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                photo = ui.upload("Picture")
                model = ui.model_choice("mimax", "Trained model")
                score = gr.Slider(-1, 1, 0.5, step=0.05, label="Report what scores above")
                ui.examples([[str(file)] for file in sorted(EXAMPLES.glob("*.jpg"))[-4:]], [photo])
            with gr.Column(scale=3, min_width=320):
                panel = ui.results("Picture", steps=False)
                checks = {"photo": ui.picture("the picture to search"), "model": ui.model_of("mimax")}
                ui.connect(mimax_run, [photo, model, score], panel, checks)

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
