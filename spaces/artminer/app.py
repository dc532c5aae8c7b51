"""Find a detail in a whole collection, or whatever repeats in it, with the evidence for each place."""

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from artmodels import ui
from artmodels.errors import ConfigError, DatasetError
from artmodels.hub import catalogue
from artmodels.progress import Progress
from artmodels.ui.events import endpoint
from artmodels.ui.keeping import keep_in_browser, kept_values
from artmodels.ui.running import TimeLeft, calm
from artmodels.ui.server.lanes import awaited
from artmodels.ui.uploads import markdown, reported
from artmodels.ui.visitors import VisitorPictures, Works, present
from artmodels.ui.widgets.canvas import box_canvas, corners, opened
from artmodels.ui.widgets.component import html
from artmodels.ui.widgets.evidence import JUDGING_STYLE, SCROLL, comparison, judging, rows_of_groups
from artmodels.ui.widgets.viewers import gallery, gallery_tiles

# What computes is imported where it is used: the gallery is to be up before anybody searches.
if TYPE_CHECKING:
    from artmodels.detections.boxes import Box
    from artmodels.methods.artminer import ArtMiner, Collection, Hit
    from artmodels.methods.artminer.evidence.findings import Claim, Findings

EXAMPLES = sorted(map(str, Path(__file__).parent.glob("examples/*.jpg")))
FIRST = "orchard.jpg", (175, 59, 310, 302)  # what the example opens with: a picture, and a box x, y, width, height
FILES = 100  # pictures of a collection: some 2 s of a core each
MODEL = "artminer-paintings"
# Measured for these weights and their settings: see `ArtMinerConfig`.
THRESHOLD: Any = catalogue.get(MODEL).config["threshold"]
PAIR_THRESHOLD: Any = catalogue.get(MODEL).config["pair_threshold"]
STRICTEST = 0.1  # of the thresholds of pairs on the slider, unless verdicts say more
MEASURED = "What unrelated paintings hardly reach. Verdicts calibrate it: see Take home."
SHARING = "How much two pictures share. " + MEASURED
RAISED = MEASURED + " A box that is like much else raises it."
HITS, VERIFIED = 200, 20
SO_FAR_PAUSE = 1.5  # seconds between two looks at what was found so far
HITS_AT = 7  # among the outputs of a new collection: after the state, the pictures, the canvas and the box
ALL_PAIRS, SHORTLIST = 40, 12  # pictures up to which all pairs are compared; candidates a picture beyond
SHOWN, TILE = 24, 260  # places, and pairs, on the page (an export has all); px of one
MARKS = {"": "", "same": "✓ ", "similar": "≈ ", "no": "✗ "}
VERDICTS = {"same": "✓ Same", "similar": "≈ Similar", "no": "✗ No"}
INTRODUCTION = (
    "# Find a detail elsewhere\n"
    "Upload pictures, or take the example collection; click one to open it, and **draw a box** around a detail: every "
    "other picture is searched for it, at any size and mirrored. Or let the page find **whatever repeats**. Then look "
    "at the evidence, say what you think of it, and take everything home."
)
# gradio keeps its columns on a telephone.
STYLE = f"""
{JUDGING_STYLE}
.collection .grid-wrap, .found .grid-wrap, .pairs .grid-wrap {{ padding-top: 2.4rem !important; }}
.collection .empty {{ min-height: 180px !important; }}
.collection .grid-container {{ grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)) !important; }}
.found .grid-container {{ grid-template-columns: repeat(auto-fill, minmax(min(100%, 150px), 1fr)) !important; }}
.pairs .grid-container {{ grid-template-columns: repeat(auto-fill, minmax(min(100%, 200px), 1fr)) !important; }}
"""

# Features of the example collection, which all visitors read: the gallery computes them once.
_shared = tempfile.TemporaryDirectory(prefix="artminer-examples-", ignore_cleanup_errors=True)
SHARED = Path(_shared.name) / "features"
# What was stopped ends its picture first, and goes on writing to the features until then.
_describing = threading.Lock()

Updates = Generator[ui.Update, None, None]


WORKS = Works()
# For the browser, which keeps only whose picture is open.
OPEN = "(value) => JSON.stringify({ at: Date.now() / 1000, values: [(value && value.of) || ''] })"


@dataclass(eq=False)
class Investigation(VisitorPictures):
    """What a visitor works on: pictures, and what was found in them."""

    store: Path | None = None  # the folder of the features, if they are not with the pictures
    features: "Collection | None" = None  # of all pictures, once they are computed
    open: str = ""  # name of the picture that is looked at
    said: str = ""  # of the collection, while its features are computed
    shown: "list[Hit]" = field(default_factory=list)  # on the page
    above: int = 0  # how many of these reach the threshold
    judging: "Claim | None" = None  # what a verdict is about; None where nothing is open

    @cached_property
    def findings(self) -> "Findings":
        """What was found, and what the visitor says of it."""
        from artmodels.methods.artminer.evidence.findings import Findings
        from artmodels.methods.artminer.evidence.verdicts import VerdictFile

        return Findings(self.picture, self.sizes, VerdictFile(self.folder / "verdicts.jsonl"))


with ui.blocks("Find a detail elsewhere") as demo:
    # --- the page

    gr.Markdown(INTRODUCTION)
    state = gr.State(None, time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            files = ui.upload_files(f"Pictures or ZIP files, up to {FILES} pictures", height=140)
            sample = gr.Button("Take the example collection")
        with gr.Column(scale=2, min_width=320):
            pictures = gallery("Click a picture to open it", "collection", columns=6, height=260)
    status = ui.status_line("There is no collection yet.")
    with gr.Tabs():
        with gr.Tab("A detail"):
            with gr.Row():
                with gr.Column(scale=1, min_width=320):
                    canvas, box = box_canvas()
                with gr.Column(scale=1, min_width=320, elem_classes="acting"):
                    run, stop = ui.run_and_stop("Find it elsewhere", (180, 90))
                    search_status = ui.status_line("")
                    label = "Found, best first: click one to see why"
                    hits = gallery(label, "found", columns=3, height=360, object_fit="contain")
                    label = "Show places with a score of at least"
                    threshold = gr.Slider(-1, 1, THRESHOLD, step=0.01, label=label, info=RAISED)
                    below = gr.Checkbox(
                        False, label="Show places below the threshold, too", info="Most of these are chance."
                    )
            why, verdicts, verdict_status = judging(VERDICTS)
        with gr.Tab("Repeats"):
            run_all, stop_all = ui.run_and_stop("Find whatever repeats", (180, 90))
            pairs_status = ui.status_line(
                f"All pairs of up to {ALL_PAIRS} pictures are compared; of more, those that share similar regions."
            )
            label = "Link pictures with a discovery score above"
            least = gr.Slider(0, STRICTEST, PAIR_THRESHOLD, step=0.001, label=label, info=SHARING)
            rows = html("rows", name="clusters")
            label = "Pairs, best first: click one to see why"
            pairs = gallery(label, "pairs", columns=4, height=420, object_fit="contain")
            why_pair, pair_verdicts, pair_status = judging(VERDICTS)
        with gr.Tab("Take home"):
            gr.Markdown(
                "Verdicts calibrate the thresholds, decide which pictures are linked, and are examples to learn from: "
                "take the file with you, and bring it again. To tune the network to your pictures, with every “no” as "
                "a hard negative: `python -m artmodels.methods.artminer.tuning.tune PICTURES TUNED "
                "--verdicts verdicts.jsonl`"
            )
            with gr.Row():
                with gr.Column(min_width=300):
                    weigh = gr.Button("Calibrate thresholds from verdicts")
                    save_verdicts = gr.Button("Write verdicts")
                    verdict_file = ui.download_button("Download verdicts")
                    brought = gr.File(label="Verdicts from before (.jsonl)", type="filepath", height=120)
                with gr.Column(min_width=300):
                    save = gr.Button("Export what was found")
                    download = ui.download_button("Download ZIP")
                    gr.Markdown(
                        "Tables (CSV), everything (JSON), a graph for Gephi or Cytoscape (GraphML), IIIF annotations "
                        "of each picture, and a report (HTML) that opens anywhere."
                    )
            files_status = ui.status_line("")
    gr.HTML(f"<style>{STYLE}</style>", padding=False)

    # --- a collection comes in, and a picture is opened

    # What `new_collection` gives.
    everything = [
        state, pictures, canvas, *box, hits, why, search_status, pairs, rows, why_pair, verdict_status, pair_status,
        download, threshold, least, below, status,
    ]  # fmt: skip

    def take(paths: list[str] | None) -> Updates:
        """Make a collection of uploaded files."""
        work = yield from reported(collected(paths), others=len(everything) - 1)
        work.open = work.files[0]
        if len(work.files) == 1:
            text = "**One picture.** There is nothing to compare it with: add more."
        else:
            text = f"**{len(work.files)} pictures.** Click one to open it, then draw a box on it."
        yield new_collection(work, text + work.left_out())

    def prepare(work: Investigation | None) -> Updates:
        """Compute features before anybody asks for them: pictures, status.

        It ends where somebody waits for other work, such as a search of the same pictures, which goes on with it.
        """
        work = present(work)
        with closing(described(work)) as steps:
            for text in steps if len(work.files) > 1 else ():
                yield gr.skip(), f"{work.said}  \n{text}"
                if awaited("collections"):
                    break
        yield gr.skip(), work.said

    def example() -> Updates:
        """Take the example collection, with a box around the bird."""
        work = yield from reported(collected(EXAMPLES, store=SHARED), others=len(everything) - 1)
        work.open, place = FIRST
        text = (
            f"**{len(work.files)} pictures** in which a window, a key, a bird, a compass rose and a lantern return. A "
            "box is around the bird: find it elsewhere, or draw another."
        )
        yield new_collection(work, text, list(place))

    def choose(event: gr.SelectData, work: Investigation | None) -> Updates:
        """Open a picture: canvas, numbers, status."""
        work = present(work)
        work.open = work.files[event.index]
        picture = opened(work.opened(work.open).pil()) | {"of": work.folder.parent.name}
        work.said = f"**{markdown(work.open)}**: draw a box around a detail."
        yield picture, None, None, None, None, work.said

    collecting = [
        ui.on(files.upload, take, [files], everything, lane="collections"),
        ui.on(sample.click, example, [], everything, lane="collections"),
    ]
    preparing = [ui.on(taken.success, prepare, [state], [pictures, status], lane="collections") for taken in collecting]
    ui.on(pictures.select, choose, [state], [canvas, *box, status])
    keep_in_browser("artminer", [canvas], lambda text: bring_collection(text), [], everything, OPEN)

    # --- a detail is looked for, looked at, and judged

    def find(
        work: Investigation | None,
        x: float,
        y: float,
        width: float,
        height: float,
        threshold: float,
        below: bool = False,
    ) -> Updates:
        """Find the box elsewhere: hits, evidence, status."""
        work, start = present(work), time.monotonic()
        work.judging, following = None, 0.0
        yield [], "", "Preparing…"
        with closing(calm(search(work, (x, y, width, height)))) as steps:
            for text in steps:
                began, tiles = time.monotonic(), gr.skip()
                if work.findings.searched is not None and began >= following:
                    tiles, _ = places(work, threshold, below=below)
                    # Drawing takes a tenth of the time at most.
                    following = began + max(SO_FAR_PAUSE, 10 * (time.monotonic() - began))
                yield tiles, gr.skip(), text
        tiles, text = places(work, threshold, below=below)
        seconds = time.monotonic() - start
        text = f"Finished after {seconds:.1f} s, for a detail of {markdown(work.findings.last.query)}: {text}"
        yield tiles, evidence_again(work), text

    def browse(work: Investigation | None, threshold: float, below: bool = False) -> Updates:
        """Show the hits from a threshold on, and those below if they are asked for: hits, status."""
        if work is None or work.findings.searched is None:
            yield gr.skip(), gr.skip()
        else:
            yield places(present(work), threshold, below=below)

    def explain(event: gr.SelectData, work: Investigation | None) -> Updates:
        """Show the evidence for a hit: evidence, status."""
        work = present(work)
        hit, found = work.shown[event.index], work.findings.last
        under = "" if event.index < work.above else ", below the threshold"
        text = f"Rank {event.index + 1}{under}: {markdown(hit.image)}. Does it show the same detail?"
        yield evidence(work, found.query, hit, found.box), text

    def judge_hit(work: Investigation | None, verdict: str, threshold: float, below: bool = False) -> Updates:
        """Keep a verdict on a hit: hits, evidence, status."""
        work = present(work)
        why, text = judged(work, verdict)
        yield places(work, threshold, below=below)[0], why, text

    asked = [state, *box, threshold, below]
    running = ui.working(run, find, asked, [hits, why, search_status], lane="collections")
    for control in (threshold, below):
        ui.on(control.change, browse, [state, threshold, below], [hits, search_status], trigger_mode="always_last")
    ui.on(hits.select, explain, [state], [why, verdict_status]).then(**SCROLL)
    kinds = {verdict: gr.State(verdict) for verdict in VERDICTS}
    for verdict, button in verdicts.items():
        ui.on(button.click, judge_hit, [state, kinds[verdict], threshold, below], [hits, why, verdict_status])

    # --- whatever repeats is looked for, looked at, and judged

    def repeat(work: Investigation | None, threshold: float) -> Updates:
        """Compare all pictures: clusters, pairs, evidence, status."""
        work, start = present(work), time.monotonic()
        work.judging = None
        yield "", [], "", "Preparing…"
        yield from reported(compare(work, threshold), others=3)
        groups, tiles, text = repeats(work, threshold)
        yield groups, tiles, "", f"Finished after {time.monotonic() - start:.1f} s: {text}"

    def regroup(work: Investigation | None, threshold: float) -> Updates:
        """Group again at another threshold: clusters, pairs, status."""
        if work is None or work.findings.pairs is None:
            yield gr.skip(), gr.skip(), gr.skip()
        else:
            yield repeats(present(work), threshold)

    def explain_pair(event: gr.SelectData, work: Investigation | None) -> Updates:
        """Show the evidence for a pair: evidence, status."""
        from artmodels.methods.artminer.evidence.proof import hit_of_pair

        work = present(work)
        pair = (work.findings.pairs or [])[event.index]
        text = f"{markdown(pair.first)} and {markdown(pair.second)}. Do they show the same?"
        yield evidence(work, pair.first, hit_of_pair(pair, work.sizes), None), text

    def judge_pair(work: Investigation | None, verdict: str, threshold: float) -> Updates:
        """Keep a verdict on a pair, which decides whether it is a link: clusters, pairs, evidence, status."""
        work = present(work)
        why, text = judged(work, verdict)
        groups, tiles, _ = repeats(work, threshold)
        yield groups, tiles, why, text

    comparing = ui.working(run_all, repeat, [state, least], [rows, pairs, why_pair, pairs_status], lane="collections")
    ui.on(least.change, regroup, [state, least], [rows, pairs, pairs_status], trigger_mode="always_last")
    ui.on(pairs.select, explain_pair, [state], [why_pair, pair_status]).then(**SCROLL)
    for verdict, button in pair_verdicts.items():
        ui.on(button.click, judge_pair, [state, kinds[verdict], least], [rows, pairs, why_pair, pair_status])
    text = "Stopped. Start again to go on: pictures that were looked at are not looked at again."
    for button, work_of_it, line in ((stop, running, search_status), (stop_all, comparing, pairs_status)):
        ui.stop_button(button, [work_of_it, *collecting, *preparing], line, text)
        button.click(
            lambda work: gr.skip() if work is None else work.said, state, status, api_visibility="private", queue=False,
            show_progress="hidden",
        )  # fmt: skip

    # --- verdicts, and files to take home

    def calibrate(work: Investigation | None) -> Updates:
        """Move the thresholds to where the verdicts part: threshold, threshold of pairs, status."""
        work = present(work)
        values, texts = [], []
        for what in ("details", "pairs"):
            try:
                found = work.findings.calibration(details=what == "details")
            except DatasetError as error:
                values.append(gr.skip())
                texts.append(f"The threshold of {what} stays as it is: {error}.")
                continue
            value = round(min(max(found.threshold, 0), 1), 4)
            rests = f"{found.positives} judged the same and {found.negatives} not"
            moved: dict[str, Any] = {"maximum": max(STRICTEST, value)} if what == "pairs" else {}
            info = f"Calibrated to {value} by your verdicts: {rests}."
            values.append(gr.update(value=value, info=info, **moved))
            texts.append(f"The threshold of {what} is now **{value}**, from {rests}.")
        yield *values, "  \n".join(texts)

    def write_verdicts(work: Investigation | None) -> Updates:
        """Offer the verdicts as a file: download, status."""
        findings = present(work).findings
        if not findings.verdicts:
            raise ConfigError("There is no verdict yet: open a place that was found, and say what you think of it.")
        file = ui.run_folder() / "verdicts.jsonl"
        shutil.copyfile(findings.verdict_file.path, file)
        text = f"{file.name} has {count(len(findings.verdicts), 'verdict')}."
        yield ui.offered(file), text

    def bring(work: Investigation | None, path: str | None) -> Updates:
        """Take up verdicts from a file: upload, status."""
        work = present(work)
        if path is None:
            raise DatasetError("There is no file of verdicts: upload one that was taken from here.")
        try:
            known, others = work.findings.bring(path, work.files)
        except DatasetError as error:
            raise DatasetError(str(error).replace(path, Path(path).name)) from None
        note = f" {others} are about pictures that are not in this collection, and left out." if others else ""
        again = " Before they can calibrate, look for the same details, or for whatever repeats, again."
        yield None, f"{count(known, 'verdict')} taken up.{note}{again if known else ''}"

    def export(work: Investigation | None, threshold: float, pair_threshold: float, below: bool = False) -> Updates:
        """Write all that was found: download, status."""
        work = present(work)
        searched, compared = work.findings.searched is not None, work.findings.pairs is not None
        if not searched and not compared:
            raise ConfigError("Nothing has been found yet: search for a detail, or for whatever repeats, then export.")
        archive, texts = packed(
            work, threshold if searched else None, pair_threshold if compared else None, below=below
        )
        names = ", ".join(name for name in texts if "/iiif/" not in name)
        yield ui.offered(archive), f"{archive.name} has {names} and IIIF annotations."

    ui.on(weigh.click, calibrate, [state], [threshold, least, files_status])
    ui.on(save_verdicts.click, write_verdicts, [state], [verdict_file, files_status])
    ui.on(brought.upload, bring, [state, brought], [brought, files_status])
    ui.on(save.click, export, [state, threshold, least, below], [download, files_status])

    # --- programs call the same

    def artminer_search(
        photos: list[str],
        picture: str,
        x: float,
        y: float,
        width: float,
        height: float,
        threshold: float,
        below: bool = False,
    ) -> Updates:
        """Find a detail of one picture in others.

        Args:
            photos: Pictures, or ZIP files of pictures: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000.
            picture: Name of the picture with the detail, or its number, from 1.
            x: Left edge of the detail, in pixels of that picture.
            y: Upper edge.
            width: Of the detail, in pixels.
            height: Of it.
            threshold: Score from -1 to 1 from which a place is reported; a detail that is like much else raises it.
            below: Report places below the threshold, too, as a list of their own, `below_threshold`.

        Returns:
            The places as pictures, best first; the places with boxes, scores and the model (JSON); and a ZIP file with
            a CSV table, the JSON, an HTML report and IIIF annotations.
        """
        work = yield from reported(collected(photos), others=3)
        work.open = work.named(picture)
        yield from reported(search(work, (x, y, width, height)), others=3)
        archive, texts = packed(work, threshold, below=below)
        found = json.loads(texts["detail/hits.json"]) | {"skipped": work.skipped, "duplicates": work.twins}
        tiles, text = places(work, threshold, below=below)
        yield tiles, found, str(archive), text

    def artminer_pairs(photos: list[str], threshold: float) -> Updates:
        """Find whatever repeats in a collection, without asking for anything.

        Args:
            photos: Pictures, or ZIP files of pictures: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000.
            threshold: Discovery score from 0 to 1 above which two pictures are linked.

        Returns:
            Pairs of pictures that show the same, with boxes, transforms and cells, and the clusters (JSON); and a ZIP
            file with the pairs as CSV, JSON and GraphML, the clusters, and IIIF annotations.
        """
        work = yield from reported(collected(photos), others=2)
        yield from reported(compare(work, threshold), others=2)
        archive, texts = packed(work, None, threshold)
        groups, _ = work.findings.groups(threshold)
        found = json.loads(texts["repeats/pairs.json"]) | {"clusters": [list(group.images) for group in groups]}
        found |= {"skipped": work.skipped, "duplicates": work.twins}
        yield found, str(archive), f"{len(groups)} groups"

    with gr.Column(visible=False):
        photos = ui.upload_files("Pictures or ZIP files")
        named = gr.Textbox(label="Picture with the detail")
        numbers = [gr.Number(label=name) for name in ("x", "y", "width", "height")]
        least_score = gr.Slider(-1, 1, THRESHOLD, label="Least score")
        least_pair = gr.Slider(0, 1, PAIR_THRESHOLD, label="Least discovery score")
        all_places = gr.Checkbox(False, label="Below it, too")
        tiles_found = gr.Gallery(label="Places, best first", format="jpeg")
        json_found, zip_file = gr.JSON(label="Found"), gr.File(label="ZIP file")
    checks, found = {"photos": ui.file_list(FILES)}, [json_found, zip_file]
    wanted = [photos, named, *numbers, least_score, all_places]
    endpoint(artminer_search, wanted, [tiles_found, *found], checks, "collections")
    endpoint(artminer_pairs, [photos, least_pair], found, checks, "collections")


# --- the collection


def collected(paths: Sequence[str] | None, *, store: Path | None = None) -> Iterator[str | Investigation]:
    """Take pictures in: texts that say how far it is, and what the visitor works on, last."""
    return Investigation(ui.run_folder() / "collection", store=store).collect(paths, most=FILES)


def bring_collection(text: object) -> ui.Update:
    """Show the collection that the browser remembers again, and what was found in it: see `everything`."""
    for name in kept_values(text):
        work = WORKS.get(name)
        if work is None:
            continue
        shown = list(new_collection(work, f"Your {len(work.files)} pictures are here again."))
        if work.findings.searched is not None:
            shown[HITS_AT], shown[HITS_AT + 2] = places(work, THRESHOLD)
        if work.findings.pairs is not None:
            shown[HITS_AT + 4], shown[HITS_AT + 3], _ = repeats(work, PAIR_THRESHOLD)
        return tuple(shown)
    return (gr.skip(),) * len(everything)


def new_collection(work: Investigation, text: str, box: list[int] | None = None) -> ui.Update:
    """Show a new collection, and forget what was shown of another, and learnt from it: see `everything`."""
    WORKS.add(work.folder.parent.name, work)
    work.said = text
    wall = [(str(work.thumbnail(name)), name) for name in work.files]
    canvas = opened(work.opened(work.open).pil(), box) | {"of": work.folder.parent.name}
    empty: ui.Update = ([], "", "", [], "", "", "", "", ui.offered(None))
    usual = gr.update(value=THRESHOLD, info=RAISED), gr.update(value=PAIR_THRESHOLD, info=SHARING, maximum=STRICTEST)
    return work, wall, canvas, *(box or (None,) * 4), *empty, *usual, False, text


# --- computing, while somebody watches


def miner() -> "ArtMiner":
    """What describes and compares pictures: that of the cache which all pages share; nothing else holds it."""
    model: ArtMiner = ui.MODELS(MODEL)
    return model


def features_of(work: Investigation) -> "Collection":
    """The features of the pictures, as far as they are computed."""
    from artmodels.methods.artminer import Collection

    if work.features is not None:
        return work.features
    return Collection.open_or_create(work.store or work.folder / "features", miner())


def ready(work: Investigation, found: "Collection") -> Generator[str, None, None]:
    """Give the names of the pictures that have features, and of the others when theirs are computed.

    What was interrupted goes on; closing this ends it after a picture.
    """
    known = set(found.names) & set(work.files)
    yield from sorted(known)
    # A search looks at files again: those of a visitor are deleted after an hour, and features that all share stay.
    pictures = work.pictures if work.store is None else Path(__file__).parent / "examples"
    if known != set(work.files):
        steps: Any = found.stream_add(pictures, miner())
        with _describing, closing(steps):  # closed, then unlocked
            for step in steps:
                if isinstance(step, Progress) and step.what not in known and step.what not in found.skipped:
                    yield step.what
    work.skipped |= found.skipped
    work.files = [name for name in work.files if name in found.names]
    work.features = found


def counted(names: Iterator[str], known: int, total: int) -> Iterator[tuple[str, str]]:
    """Give each name with how far it is; names that were `known` before say nothing of the pace of others."""
    left = TimeLeft()
    for done, name in enumerate(names, 1):
        if done <= known < total:
            left = TimeLeft(done)
        yield name, f"{done} of {total} pictures{left(done, total)}…"


def described(work: Investigation) -> "Generator[str, None, Collection]":
    """Compute the features of all pictures, unless they are there, and return them; what was interrupted goes on."""
    found = features_of(work)
    if work.features is None:
        known = len(set(found.names) & set(work.files))
        with closing(ready(work, found)) as names, closing(calm(counted(names, known, len(work.files)))) as steps:
            for _, text in steps:
                yield f"Looking at each picture once: {text}"
    return found


def several(work: Investigation) -> None:
    """Check that there are several pictures."""
    if len(work.files) < 2:
        raise DatasetError("The collection has one picture, and nothing to compare it with: add more, then search.")


def search(work: Investigation, box: Sequence[float | None]) -> Iterator[str]:
    """Find a box of the open picture, x, y, width and height in pixels, in all others, which are described meanwhile.

    The findings have what there is so far.
    """
    several(work)
    query = work.open
    place = corners(box, work.sizes[query])
    found = features_of(work)
    total, known = len(work.files), len(set(found.names) & set(work.files))
    work.findings.searched = None
    said = "Searching…"

    def names() -> Generator[str, None, None]:
        nonlocal said
        with closing(ready(work, found)) as described:
            for name, text in counted(described, known, total):
                said = f"Searching: {text}"
                yield name

    with closing(names()) as described:
        steps = miner().stream_search(
            work.picture(query), place, found, query=query, count=HITS, verify=VERIFIED, names=described
        )
        searched, closer, most, left = 0, 0, min(VERIFIED, total - 1), TimeLeft()
        for step in steps:
            if isinstance(step, Progress):
                work.findings.take(step.so_far())
                if step.done > searched:
                    searched, left = step.done, TimeLeft()
                    yield said
                else:
                    closer += 1
                    yield f"Looking more closely: {closer} of {most}, {markdown(step.what)}{left(closer, most)}…"
            else:
                work.findings.take(step)


def compare(work: Investigation, threshold: float) -> Iterator[str]:
    """Compare all pairs of a small collection, of a larger one those that a shortlist of similar regions names."""
    from artmodels.search.index import ExactIndex

    several(work)
    features = yield from described(work)
    if len(work.files) > ALL_PAIRS:
        yield "Making a shortlist of pairs…"
    index = ExactIndex(features.layout.dims)
    steps = miner().stream_pairs(features, index=index, keep=SHORTLIST, exhaustive=ALL_PAIRS + 1)

    def counted() -> Iterator[str]:  # before `calm` leaves most steps out
        alike = 0
        for step in steps:
            if isinstance(step, Progress):
                alike += step.pair is not None and step.pair.match.score > threshold
                yield f"Comparing pair {step.done} of {step.total}: {alike} share something so far…"
            else:
                work.findings.pairs = sorted(step, key=lambda pair: -pair.match.score)

    yield from calm(counted())


# --- what is shown of it


def places(work: Investigation, threshold: float, *, below: bool = False) -> tuple[list[tuple[str, str]], str]:
    """Give the hits from a threshold on, and those below after them if they are asked for, as pictures; a sentence."""
    from artmodels.methods.artminer.evidence.proof import counterpart
    from artmodels.methods.artminer.evidence.report import fitted

    findings = work.findings
    found = findings.last.from_score(threshold)
    above, hidden = found.hits, found.below
    work.shown, work.above = [*above, *(hidden if below else ())][:SHOWN], len(above)
    frame = fitted((found.box[2] - found.box[0], found.box[3] - found.box[1]), TILE)
    shown = []
    for rank, hit in enumerate(work.shown):
        picture, _ = counterpart(work.opened(hit.image), hit, frame)
        mark = MARKS[findings.verdict_on(found.query, hit.image, found.box)] if findings.is_best(hit) else ""
        under = "" if rank < len(above) else "below the threshold: "
        signs = f"{' ⇆' if hit.view == 'mirror' else ''}{'' if hit.closer else ' (quick look)'}"
        shown.append((picture, f"{under}{mark}{hit.score:.2f}{signs}  {hit.image}"))
    more = f", the best {SHOWN} are shown" if len(above) > SHOWN else ""
    counted = count(len(above), "place"), count(len({hit.image for hit in above}), "other picture")
    text = f"**{' in '.join(counted)}**{more}."
    if found.raised:
        text += f" What the box scores here by chance raises the threshold to **{found.threshold:.2f}**."
    if hidden and below:
        most = f"; {SHOWN} are shown in all" if len(above) + len(hidden) > SHOWN else ""
        text += f" Below it: {count(len(hidden), 'place')}, shown after these and named so{most}."
    elif hidden:
        text += f" Below it, and hidden: {count(len(hidden), 'place')}, most of them chance."
    if shown:
        text += " Click one to see why; ⇆ is mirrored."
    if not all(hit.closer for hit in work.shown):
        text += " A closer look may raise the score of a quick one."
    return gallery_tiles(shown), text


def repeats(work: Investigation, threshold: float) -> tuple[str, list[tuple[str, str]], str]:
    """Give clusters as rows, pairs as pictures, and a sentence."""
    from artmodels.detections.drawing import in_a_row
    from artmodels.methods.artminer.evidence.proof import cluster_rows, link_rows

    small = work.opened_small
    groups, further = work.findings.groups(threshold)
    rows = rows_of_groups(cluster_rows(groups, small), link_rows(further, small))
    shown = []
    for pair in (work.findings.pairs or [])[:SHOWN]:
        mark = MARKS[work.findings.verdict_on(pair.first, pair.second)]
        caption = f"{mark}{pair.match.score:.4f}  {pair.first} – {pair.second}"
        shown.append((in_a_row([small(pair.first), small(pair.second)], height=TILE, gap=6), caption))
    counted = count(len(groups), "group"), count(len(further), "link")
    text = f"**{counted[0]} of pictures that share something**, {counted[1]} propagated."
    return rows, gallery_tiles(shown), text


def count(number: int, what: str) -> str:
    """A number and what it counts."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def evidence(work: Investigation, first: str, hit: "Hit", box: "Box | None") -> str:
    """Open a place that was found for a detail of the first picture, or for all of it: then it can be judged."""
    from artmodels.methods.artminer.evidence.findings import Claim
    from artmodels.methods.artminer.evidence.proof import facts, proof

    work.judging = Claim(first, hit, box)
    query, image = map(work.opened, (first, hit.image))
    made, model = proof(query, box, image, hit, name=first), miner()
    settings = {name: getattr(model.config, name) for name in ("scales", "views", "iterations", "seed")}
    known = facts(hit, pair=box is None) | {
        "Verdict": work.findings.verdict_on(first, hit.image, box) or "none yet",
        "Model": f"{MODEL}, sha256 {model.fingerprint[:16]}…",
        "Parameters": ", ".join(f"{key} {value}" for key, value in settings.items()),
    }
    what, where = ("The first picture,", "The second,") if box is None else ("The detail, in", "Found in")
    looked_for, place = (f"{what} {first}", made.detail), (f"{where} {hit.image}, {made.how}", made.found)
    note = " Yellow: the cells that correspond." if made.cells else ""
    return comparison(looked_for, place, made.wholes, known, note=note)


def evidence_again(work: Investigation) -> str:
    """Show the evidence that is open as the end of the search has it; "" for none."""
    claim = work.judging
    if claim is None or claim.box != work.findings.last.box:
        return ""
    hit = next((hit for hit in work.findings.last.ranked if hit.image == claim.hit.image), None)
    return "" if hit is None else evidence(work, claim.first, hit, claim.box)


# --- verdicts and files


def judged(work: Investigation, verdict: str) -> tuple[str, str]:
    """Keep what the visitor thinks of the place that is open: evidence, status."""
    from artmodels.methods.artminer.evidence.verdicts import LEAST

    claim = work.judging
    if claim is None:
        raise ConfigError("Nothing is open: click a place that was found, then say what you think of it.")
    same, others = work.findings.judge(claim, verdict)
    text = f"Kept: “{verdict}”. {count(same + others, 'verdict')} so far"
    if min(same, others) < LEAST:
        text += f": {LEAST} “same” and {LEAST} others can calibrate the threshold."
    else:
        text += ", enough to **calibrate the threshold**: see Take home."
    return evidence(work, claim.first, claim.hit, claim.box), text


def packed(
    work: Investigation, threshold: float | None = None, pair_threshold: float | None = None, *, below: bool = False
) -> tuple[Path, dict[str, str]]:
    """Write what the last search found, what repeats, or both, into a ZIP file; give its path, and the texts in it."""
    findings, model, texts = work.findings, miner(), dict[str, str]()
    about = {"name": MODEL} | asdict(model.config)
    if threshold is not None:
        texts |= findings.search_files(about, threshold=threshold, below=below)
    if pair_threshold is not None:
        texts |= findings.pair_files(about, threshold=pair_threshold, model=model.fingerprint)
    archive = ui.run_folder() / "artminer.zip"
    findings.pack(archive, texts)
    return archive, texts


if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
