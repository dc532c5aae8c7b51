"""Find things in a collection: say of some pictures whether they show one, train, and see where it is in all."""

import json
import re
import time
import zipfile
import zlib
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
from artmodels.errors import ConfigError, DatasetError, WeightsError
from artmodels.images.results import ImageResult
from artmodels.ui.keeping import keep_in_browser, kept_values
from artmodels.ui.running import TimeLeft, calm
from artmodels.ui.uploads import Names, markdown, reported
from artmodels.ui.visitors import VisitorPictures, Works, present
from artmodels.ui.widgets import marking

if TYPE_CHECKING:
    from artmodels.methods.mimax import Detector

WORKS = Works()
EXAMPLES = Path(__file__).parent / "examples"
FILES = 400  # pictures of a collection
SHOWN, DRAWN = 60, 3  # pictures with detections on the page, and boxes on each; an export has all
REGIONS = "art-regions-whole"
CLASSIFIER = 32 << 20  # bytes: no file of an exported classifier has as many
SCORE = "How sure the classifier is: -1 shows anything, 1 nothing."
FORMATS = ("JSON", "COCO", "Pascal VOC", "IIIF")
FORMS = "JSON is plain; COCO and Pascal VOC train detectors; IIIF shows boxes in viewers of museums."
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

    @property
    def regions(self) -> Path:
        """The folder of what was seen in the pictures."""
        return self.folder / "regions"

    def learnt_from(self, label: str) -> str:
        """Say what a class was learnt from."""
        if label not in self.learnt:
            return "found by a classifier from before"
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
    from artmodels.methods.mimax import Detector, MIMax

    for number, (label, answers) in enumerate(marks.items(), start=1):
        for kind, words in ((True, "✓ yes"), (False, "✗ no")):
            if kind not in answers.values():
                raise DatasetError(f"No picture is marked “{words}” for “{label}”: mark at least one, then train.")
        given = {name: [label] if shown else [] for name, shown in answers.items()}
        detector = Detector(ui.MODELS(REGIONS), MIMax(standardize=True))
        of = f" ({number} of {len(marks)}: {markdown(label)})" if len(marks) > 1 else ""
        yield from told(detector.stream_fit(work.pictures, given, classes=[label], store=work.regions), of)
        work.detectors[label], work.learnt[label] = detector, dict(answers)


def told(steps: Iterator[Any], of: str = "") -> Iterator[str]:
    """Say how far a detector is, and how long it still takes."""
    from artmodels.methods.mimax import MIMaxStep
    from artmodels.progress import Progress

    kind, left = Progress, TimeLeft()
    for step in calm(steps):
        if isinstance(step, Progress):
            if type(step) is not kind:  # learning comes after looking
                kind, left = type(step), TimeLeft(step.done)
            rest = left(step.done, step.total)
            if isinstance(step, MIMaxStep):
                yield f"Training{of}: step {step.done} of {step.total}, loss {step.loss:.3f}{rest}."
            else:
                yield f"Looking at picture {step.done} of {step.total}{rest}…"


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
    yield work, wall_of(work, marking.Marks("", {})), marking.found_update("", []), text


def example() -> Iterator[ui.Update]:
    """Take the example collection, a third of it labelled: state, wall, found, status."""
    files = sorted(map(str, EXAMPLES.glob("*.jpg")))
    work = yield from reported(collection(files), others=3)
    table = labelled_csv(EXAMPLES / "labels.csv", EXAMPLES)
    some = table.items[: len(files) // 3]
    marks = {label: {item.path.name: label in item.labels for item in some} for label in table.classes}
    text = f"**{len(files)} seascapes**, a third of them labelled: train, and see whether the others are found."
    wall = wall_of(work, marking.Marks(table.classes[0], marks))
    yield work, wall, marking.found_update("", []), text


def wall_of(work: MarkedPictures, marks: marking.Marks) -> Any:
    """Show a collection with its marks, and keep it for a page that is opened again."""
    name = work.folder.parent.name
    WORKS.add(name, work)
    return marking.wall_update(work.files, work.small, marks.label, marks.answers, name)


def bring(text: object, threshold: float) -> ui.Update:
    """Show, of what the browser kept, the collection and its marks again: state, wall, found, status."""
    for sent in kept_values(text):
        work = WORKS.get(sent.get("of")) if isinstance(sent, dict) else None
        if work is not None:
            try:
                marks = marking.read_marks(sent, work.files)
            except (ConfigError, DatasetError):
                marks = marking.Marks("", {})
            found, said = shown(work, marks.label, threshold)
            text = f"{len(work.files)} pictures and their marks are here again. {said}"
            return work, wall_of(work, marks), found, text
    return (gr.skip(),) * 4


def save_marks(work: MarkedPictures | None, sent: object) -> Iterator[ui.Update]:
    """Write the marks into a file: download, status."""
    work = present(work)
    marks = marking.read_marks(sent, work.files)
    file = ui.run_folder() / "marks.json"
    file.write_text(json.dumps(marking.plain_marks(marks), indent=1), encoding="utf-8")
    count = sum(map(len, marks.answers.values()))
    yield ui.offered(file), f"marks.json has {count} marks: bring it again with the same pictures."


def bring_marks(work: MarkedPictures | None, file: str | None) -> Iterator[ui.Update]:
    """Take marks from a file, as far as their pictures are here: wall, status."""
    work = present(work)
    if file is None:
        yield gr.skip(), gr.skip()
        return
    try:
        sent = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, OSError):
        raise DatasetError("This file has no marks: give the one that “Save marks” wrote.") from None
    marks = marking.read_marks(marking.known_marks(sent, work.files), work.files)
    count = sum(map(len, marks.answers.values()))
    yield wall_of(work, marks), f"{count} marks are here again, of the pictures that are in this collection."


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


def bring_classifier(work: MarkedPictures | None, sent: object, file: str | None) -> Iterator[ui.Update]:
    """Take an exported classifier, and look for what it knows: wall, status."""
    work = present(work)
    if file is None:
        raise ConfigError("There is no classifier: give the ZIP file that an export of this page wrote.")
    detector, marks = exported(file), marking.read_marks(sent, work.files)
    if len(detector.classes) != 1:
        raise ConfigError(f"It knows {', '.join(detector.classes)}: give a classifier of one thing.")
    regions = ui.MODELS(REGIONS)
    if detector.regions.fingerprint != regions.fingerprint:
        raise WeightsError("This classifier is of other regions than those of this page: train it here again.")
    detector.regions = regions  # one network for all
    (label,) = detector.classes
    work.detectors[label] = detector
    work.learnt.pop(label, None)
    yield wall_of(work, marking.Marks(label, marks.answers)), f"Looking for “{markdown(label)}”…"


def use_classifier(work: MarkedPictures | None, sent: object, threshold: float) -> Iterator[ui.Update]:
    """Look at all pictures with the classifier that was brought: found, status."""
    work, start = present(work), time.monotonic()
    label = label_of(work, sent)
    if label in work.learnt or label not in work.detectors:
        yield gr.skip(), gr.skip()  # another one is looked for by now
        return
    for text in told(work.detectors[label].stream_take(work.pictures, store=work.regions)):
        yield gr.skip(), text
    found, text = shown(work, label, threshold)
    seconds = time.monotonic() - start
    yield found, f"Finished after {seconds:.1f} s, “{markdown(label)}”, {work.learnt_from(label)}: {text}"


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
    if work.learnt.get(label, marks.current) != marks.current:
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


def exported(archive: str) -> "Detector":
    """Load the classifier that an export of this page holds.

    Raises:
        WeightsError: It is none of ours.
    """
    from artmodels.methods.mimax import Detector

    folder = ui.run_folder()
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [entry for entry in packed.infolist() if entry.filename.startswith("classifier-")]
            first = entries[0].filename.partition("/")[0] if entries else ""
            for entry in entries:
                place, _, name = entry.filename.partition("/")
                if place != first or not re.fullmatch(r"[\w.-]+", name) or len(list(folder.iterdir())) >= 8:
                    continue
                with packed.open(entry) as file:
                    content = file.read(CLASSIFIER + 1)
                if len(content) > CLASSIFIER:
                    raise WeightsError(f"{name} in this archive is larger than any classifier of ours: give an export.")
                (folder / name).write_bytes(content)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error):
        raise WeightsError("This is no archive of this page: give the ZIP file that an export wrote.") from None
    if not any(folder.iterdir()):
        raise WeightsError("This archive holds no classifier: give the ZIP file that an export of this page wrote.")
    return Detector.from_pretrained(str(folder))


def mimax_run(photo: str, model: str, threshold: float = 0.5, classifier: str | None = None) -> Iterator[ui.Update]:
    """Find what a trained model knows in a picture.

    Args:
        photo: Picture to search: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000.
        model: Name of the model, as in the catalogue, such as "mimax-seascapes".
        threshold: Score from -1 to 1 above which a place is reported.
        classifier: ZIP file that an export of this page wrote, whose classifier is taken instead of the model.

    Returns:
        The picture with boxes (PNG), its settings with the boxes in pixels, and the PNG file with both inside.
    """

    def run() -> ImageResult:
        known = exported(classifier) if classifier else ui.MODELS(model)
        result: ImageResult = known(ui.read(photo), threshold=threshold)
        return result

    yield from ui.show_pass(run, name=model, second=photo)


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
                    files = ui.upload_files(f"Pictures or ZIP files, up to {FILES} pictures", height=140)
                    sample = gr.Button("Take the example collection")
                    wall = marking.wall()
                with gr.Column(scale=1, min_width=320, elem_classes="acting"):
                    run, stop = ui.run_and_stop("Train")
                    status = ui.status_line()
                    threshold = gr.Slider(-1, 1, 0.5, step=0.05, label="Show what scores above", info=SCORE)
                    results = marking.found_wall()
                    form = gr.Dropdown(list(FORMATS), value=FORMATS[0], label="Export boxes as", info=FORMS)
                    save = gr.Button("Export boxes and classifier")
                    download = ui.download_button("Download ZIP")
                    with gr.Row():
                        save_them = gr.Button("Save marks", min_width=120)
                        marks_file = ui.download_button("Download marks", min_width=120)
                    with gr.Row():
                        brought = gr.File(label="Marks from before (.json)", type="filepath", height=140, min_width=160)
                        label = "Classifier from before (.zip)"
                        classifier = gr.File(label=label, type="filepath", height=140, min_width=160)

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
            ui.on(save_them.click, save_marks, [state, wall], [marks_file, status])
            ui.on(brought.upload, bring_marks, [state, brought], [wall, status])
            keep_in_browser("mimax", [wall], bring, [threshold], everything)
            naming = ui.on(classifier.upload, bring_classifier, [state, wall, classifier], [wall, status])
            using = ui.on(naming.success, use_classifier, marks, [results, status], lane="collections")
            text = "Stopped. Train again to go on; pictures that were looked at are not looked at again."
            ui.stop_button(stop, [running, using, *collecting], status, text)
        with gr.Tab("By a table"), gr.Row():
            with ui.given_column():
                photos = ui.upload_files(f"Pictures or ZIP files, up to {FILES} pictures")
                table = gr.File(label="Labels: a CSV file", file_count="single", type="filepath", height=120)
                least = gr.Slider(-1, 1, 0.5, step=0.05, label="Report what scores above", info=SCORE)
            with ui.acting_column():
                panel = ui.batch_results()
                checks = {"photos": ui.file_list(FILES), "table": a_table}
                ui.connect(mimax_batch, [photos, table, least], panel, checks)
        with gr.Tab("One picture"), gr.Row():
            with ui.given_column():
                photo = ui.upload("Picture")
                model = ui.model_choice("mimax", "Trained model")
                own = gr.File(label="Or your own: the ZIP file of an export", type="filepath", height=110)
                score = gr.Slider(-1, 1, 0.5, step=0.05, label="Report what scores above", info=SCORE)
                ui.examples([[str(file)] for file in sorted(EXAMPLES.glob("*.jpg"))[-4:]], [photo])
            with ui.acting_column():
                panel = ui.results("Picture", steps=False)
                checks = {"photo": ui.picture("the picture to search"), "model": ui.model_of("mimax")}
                ui.connect(mimax_run, [photo, model, score, own], panel, checks)
    # Both tabs take the same classifier.
    for one, other in ((classifier, own), (own, classifier)):
        one.upload(lambda file: file, one, other, api_visibility="private", queue=False, show_progress="hidden")

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
