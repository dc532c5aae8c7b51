"""Bring a picture onto another of the same thing, see how they differ, and take the alignment home as data."""

import json
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from artmodels import ui
from artmodels.correspondence.views import IN_WORDS
from artmodels.errors import ConfigError, DatasetError, ImageError
from artmodels.hub import catalogue
from artmodels.images.decoding import ACCEPTED
from artmodels.progress import Progress
from artmodels.ui.events import check_at_once, endpoint
from artmodels.ui.keeping import remember
from artmodels.ui.server.pictures import data_url
from artmodels.ui.uploads import bullets, markdown, reported, take_in
from artmodels.ui.visitors import present
from artmodels.ui.widgets import viewers
from artmodels.ui.widgets.component import html

# What computes is imported where it is used: the gallery is to be up before anybody aligns.
if TYPE_CHECKING:
    from artmodels.methods.ransac_flow import Alignment, Group

MODEL = catalogue.default("ransac_flow").name
EXAMPLES = Path(__file__).parent / "examples"
# The sources of the examples; the target of all is the painting.
PAIRS = {
    "engraving": "An engraving, mirrored",
    "copy": "A copy in another hand",
    "repainted": "Cleaned and repainted",
    "photograph": "An old photograph",
    "stranger": "Something else: refused",
}
GROUP = ("painting", "copy", "engraving", "repainted", "photograph", "stranger")  # the reference first
SHOWN = 1200  # px: longest side of what the page gets; what is taken home has the target's own size
SMALLEST = 8  # px: side of a picture, as of what the method reads
BLANK = 0.015  # standard deviation of a picture in [0, 1] below which it shows nothing
APART = 8  # times one picture is as large as the other, from which its lack of detail may be the reason
POINTS = 40  # more cannot be told apart on the page
PICTURES = 20  # of a group
CHOOSING = 8  # pictures up to which the page looks for the best reference, for which all pairs are compared
SIDE = 1200  # px: longest side of a picture of a group, all of which are in memory at a time
FILES = {
    "png": (
        "Picture (PNG)",
        "the source as the target shows it, at the target's full size, with the settings inside.",
    ),
    "npz": (
        "Flow (NPZ)",
        "for NumPy: the flow of every pixel, where the source reaches, matchability, error there and back, and the "
        "homographies.",
    ),
    "gif": ("Flicker (GIF)", "both by turns, at most 1000 pixels a side."),
    "mp4": ("Flicker (MP4)", "the same as a film."),
    "json": (
        "Matches (JSON)",
        "score, homographies, correspondences on a lattice, the points that you clicked, and the settings.",
    ),
}
if find_spec("cv2") is None:  # which the extra `demo` installs, and which writes films
    del FILES["mp4"]
STAGES = {"Fine: each pixel by itself": "fine", "Coarse: homographies only": "coarse"}
MEANS = {
    "unaligned": ("Unaligned", "All of them only brought to one size."),
    "coarse": ("Coarse", "Moved by a homography each."),
    "fine": ("Fine", "Every pixel moved by itself, and weighed by its matchability."),
}
CHOOSE = ""  # of the reference: let the page find it
PAGE_CHOOSES = ("Let the page choose", CHOOSE)
CHECKS = {
    "source": ui.picture("the source, the picture that is moved", smallest=SMALLEST),
    "target": ui.picture("the target, the picture it is brought onto", smallest=SMALLEST),
}
GONE = (
    "Nothing is aligned yet: upload two pictures, and align them.",
    "The result was deleted, as everything is after an hour: align the pictures again.",
)
INTRODUCTION = (
    "# Align two pictures\n"
    "A painting and its engraving, a copy, an X-ray, an old photograph: give two pictures of the same thing, and the "
    "one is brought onto the other, pixel by pixel. Swipe between them, click a place to see its match, see what "
    "differs, and take the alignment home as data. Mirror images and quarter turns are recognised."
)
# The buttons stand beside the fields, not beside their labels; all tabs fit on a telephone.
STYLE = """
.typed { align-items: end; }
.typed button { flex: 0 1 140px; }
@media (max-width: 640px) { .aligned .tab-container button { padding: .5rem .5rem !important; } }
"""

Updates = Generator[ui.Update, None, None]


@dataclass(eq=False)
class AlignedPair:
    """What a visitor looks at, small enough to be kept for an hour."""

    folder: Path
    alignment: "Alignment"  # without pixels
    about: dict[str, Any]  # everything there is to say of it, for the JSON file
    points: list[tuple[float, float]] = field(default_factory=list)  # that were clicked: pixels of the target

    def exists(self) -> bool:
        """Whether the files are still there."""
        return self.folder.is_dir()


@dataclass(eq=False)
class Gathered:
    """A group before it is aligned."""

    pictures: dict[str, Image.Image] = field(default_factory=dict)  # at most `SIDE` pixels a side
    skipped: dict[str, str] = field(default_factory=dict)  # files that cannot be used, and why
    reduced: bool = False  # whether some pictures were larger

    def left_out(self) -> str:
        """List, as Markdown, the files that cannot be used, and why."""
        return markdown(bullets(self.skipped.items(), " cannot be used"))


with ui.blocks("Align two pictures") as demo:
    # --- the page

    gr.Markdown(INTRODUCTION)
    state = gr.State(None, time_to_live=3600)
    with gr.Tabs():
        with gr.Tab("Two pictures"):
            with gr.Row():
                source = ui.upload("Source: the picture that is moved", min_width=280, height=190)
                target = ui.upload("Target: the picture it is brought onto", min_width=280, height=190)
            run, _ = ui.run_and_stop("Align", steps=False)
            status = ui.status_line("Nothing has been aligned yet.")
            with gr.Column(visible=False, elem_classes="aligned") as results:
                info = (
                    "A homography moves a picture as one flat sheet. For the eye and the PNG file; points, maps "
                    "and the other files are of the fine stage."
                )
                label = "Show the source as it was moved"
                stage = gr.Radio(list(STAGES.items()), value="fine", label=label, info=info)
                with gr.Tabs():
                    with gr.Tab("Swipe"):
                        slider = gr.ImageSlider(
                            label="Target | source", interactive=False, max_height=560, buttons=["fullscreen"]
                        )
                    with gr.Tab("Overlay"):
                        overlay = viewers.overlay()
                    with gr.Tab("Points"):
                        points = viewers.points()
                        with gr.Row(elem_classes="typed"):
                            place = [gr.Number(None, label=f"Target {name}", min_width=90) for name in "xy"]
                            look = gr.Button("Look up", min_width=100)
                            clear = gr.Button("Clear", min_width=100)
                        table = html("table", viewers.NO_POINTS)
                    with gr.Tab("Maps"):
                        maps = html("figures")
                    with gr.Tab("Files"):
                        with gr.Row():
                            downloads = [ui.download_button(title, min_width=150) for title, _ in FILES.values()]
                        gr.Markdown("\n".join(f"- **{kind.upper()}**: {text}" for kind, (_, text) in FILES.items()))
            samples = viewers.choices([(EXAMPLES / f"{name}.jpg", text) for name, text in PAIRS.items()])
        with gr.Tab("Several pictures"):
            gr.Markdown(
                "Give several pictures of one thing: all are brought onto one of them, and averaged. The sharper the "
                "mean, the better they fit: its sharpness stands above each. What cannot be "
                "aligned is left out, and named."
            )
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    photos = ui.upload_files(f"Pictures or ZIP files, 2 to {PICTURES} pictures")
                with gr.Column(scale=1, min_width=280):
                    sample = gr.Button("Take the example group")
                    info = f"The page chooses among {CHOOSING} pictures at most: all pairs are compared."
                    reference = gr.Dropdown([PAGE_CHOOSES], value=CHOOSE, label="Reference", info=info)
                    run_all, stop = ui.run_and_stop("Align all", (120, 90))
            group_status = ui.status_line("There are no pictures yet.")
            means = html("figures")
            archive = ui.download_button("Download ZIP")
    gr.HTML(f"<style>{STYLE}</style>", padding=False)

    # --- two pictures are aligned

    def choose_example(event: gr.EventData) -> Updates:
        """Take an example: source, target, status."""
        name = list(PAIRS)[int(event.index)]
        yield *(str(EXAMPLES / f"{stem}.jpg") for stem in (name, "painting")), "An example is ready: press Align."

    def align(source: str | None, target: str | None) -> Updates:
        """Align: pair, results, stage, slider, overlay, points, table, maps, downloads, status."""
        from artmodels.methods.ransac_flow.results.evidence import explained_maps

        yield without_result("Aligning: this takes some seconds…")
        result = ui.MODELS(MODEL)(*loaded(source, target))
        if not result.found:
            yield without_result(refusal(result))
            return
        pair = kept(result)
        shown = page_pictures(result, pair.folder)
        names = " on ".join(markdown(Path(path or "").name) for path in (source, target))
        text = "  \n".join([verdict(result), f"{names}.", *result.notes])
        both = {name: data_url(shown[name]) for name in ("source", "target")}
        sizes = {f"{name}_size": list(size) for name, size in zip(both, result.sizes, strict=True)}
        yield (
            pair,
            gr.update(visible=True),
            "fine",
            *layers(pair, "fine"),
            gr.update(value=both | sizes, marks=[]),
            viewers.NO_POINTS,
            viewers.figures(explained_maps(result, SHOWN)),
            *no_files(),
            f"{text}  \nWriting files…",
        )
        yield *[gr.skip()] * 8, *map(ui.offered, files(result, pair)), text

    def restage(pair: AlignedPair | None, stage: str) -> Updates:
        """Show the coarse or the fine stage: slider, overlay, PNG, status."""
        pair = present(pair, *GONE)
        file = pair.folder / ("aligned.png" if stage == "fine" else "aligned-coarse.png")
        yield *layers(pair, stage), ui.offered(file), gr.skip()

    def pick(event: gr.EventData, pair: AlignedPair | None) -> Updates:
        """Look up a place that was clicked: x, y, points, table, status."""
        x, y = round(event.x, 1), round(event.y, 1)
        for update in look_up(pair, x, y):
            yield x, y, *update

    def look_up(pair: AlignedPair | None, x: float | None, y: float | None) -> Updates:
        """Look up a place of the target: points, table, status."""
        pair = present(pair, *GONE)
        if x is None or y is None or not math.isfinite(x + y):
            raise ConfigError("There is no point: click a place on the target, or type both x and y.")
        if len(pair.points) >= POINTS:
            raise ConfigError(f"There are {POINTS} points, as many as can be told apart: clear them first.")
        yield *marked(pair, [*pair.points, (x, y)]), gr.skip()

    def forget(pair: AlignedPair | None) -> Updates:
        """Forget all points: points, table, status."""
        yield *marked(present(pair, *GONE), []), gr.skip()

    everything = [state, results, stage, slider, overlay, points, table, maps, *downloads, status]
    ui.working(run, align, [source, target], everything, lane="compute")
    check_at_once(align, [source, target], CHECKS)
    remember("ransac_flow", [source, target])
    ui.on(stage.input, restage, [state, stage], [slider, overlay, downloads[0], status])
    ui.on(samples.chosen, choose_example, [], [source, target, status])
    ui.on(points.picked, pick, [state], [*place, points, table, status], trigger_mode="multiple")
    ui.on(look.click, look_up, [state, *place], [points, table, status])
    ui.on(clear.click, forget, [state], [points, table, status])

    # --- several pictures are aligned

    def offer_names(paths: list[str] | None) -> Updates:
        """Offer uploaded pictures as references: reference, status."""
        if not paths:
            yield gr.update(choices=[PAGE_CHOOSES], value=CHOOSE), "There are no pictures yet."
            return
        gathered = yield from reported(gather(paths), others=1)
        names = list(gathered.pictures)
        choices = [(name, name) for name in names]
        if len(names) <= CHOOSING:  # more are not compared with each other to choose one
            choices.insert(0, PAGE_CHOOSES)
        text = f"**{len(names)} pictures.** Choose the reference, or let the page choose, then align them."
        yield gr.update(choices=choices, value=choices[0][1]), text + gathered.left_out()

    def align_all(paths: list[str] | None, reference: str) -> Updates:
        """Align several pictures: figures, download, status."""
        if not paths:
            raise ImageError("There are no pictures: upload two or more, or a ZIP file of them, or take the example.")
        yield "", ui.offered(None), "Preparing…"
        gathered = yield from reported(gather(paths), others=2)
        group = yield from reported(aligned(gathered, reference), others=2)
        _, archive = packed(group, gathered)
        yield viewers.figures(group_pictures(group)), ui.offered(archive), group_verdict(group, gathered)

    naming = ui.on(photos.change, offer_names, [photos], [reference, group_status], lane="collections")
    sample.click(
        lambda: [str(EXAMPLES / f"{name}.jpg") for name in GROUP], None, photos, api_visibility="private",
        show_progress="hidden",
    )  # fmt: skip
    remember("ransac_flow_group", [photos])
    running = ui.working(run_all, align_all, [photos, reference], [means, archive, group_status], lane="collections")
    ui.stop_button(stop, [running, naming], group_status, "Stopped. Nothing is kept of what was not finished.")

    # --- programs call the same

    def ransac_flow_run(
        source: str, target: str, fine: bool = True, points: list[list[float]] | None = None
    ) -> Updates:
        """Bring a picture onto another of the same thing.

        Args:
            source: Picture that is moved: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000, at least 8 pixels a side.
            target: Picture it is brought onto.
            fine: Whether each pixel is moved by itself after the homographies.
            points: Places of the target to look up in the source: a list of [x, y] in its pixels.

        Returns:
            The source as the target shows it (PNG), or nothing where no alignment was found; what was found, with
            score, homographies, correspondences and points (JSON); and the files: PNG, NPZ, GIF, MP4 and JSON.
        """
        from artmodels.methods.ransac_flow.exports import checked_points, correspondences, summary

        wanted = checked_points(points)
        result = ui.MODELS(MODEL)(ui.read(source), ui.read(target), fine=bool(fine))
        if not result.found:
            yield None, summary(result) | {"points": []}, [], ""
            return
        pair = kept(result)
        found = correspondences(pair.alignment, wanted)
        written = [str(path) for path in files(result, pair)]
        yield written[0], write_about(pair, found), written, ""

    def ransac_flow_group(photos: list[str], reference: str = "") -> Updates:
        """Bring several pictures of a thing onto one of them, and average them.

        Args:
            photos: Pictures, or ZIP files of pictures: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000.
            reference: Name of the picture that the others are brought onto; nothing finds the one that fits best.

        Returns:
            Reference, sharpness of the means, what was left out, and each alignment (JSON); and a ZIP file of the
            means, the aligned pictures and the JSON.
        """
        gathered = yield from reported(gather(photos), others=2)
        group = yield from reported(aligned(gathered, str(reference or "")), others=2)
        about, archive = packed(group, gathered)
        yield about, str(archive), ""

    with gr.Column(visible=False):
        pair = [ui.upload("Source"), ui.upload("Target")]
        fine = gr.Checkbox(True, label="Fine stage")
        given = gr.JSON(None, label="Points of the target")
        image = gr.Image(label="Source on target", format="png")
        found, taken = gr.JSON(label="Found"), gr.File(label="Files", file_count="multiple")
        members, onto = ui.upload_files("Pictures or ZIP files"), gr.Textbox("", label="Reference")
        group, zip_file = gr.JSON(label="Group"), gr.File(label="ZIP file")
    endpoint(ransac_flow_run, [*pair, fine, given], [image, found, taken], CHECKS, "compute")
    most = {"photos": ui.file_list(PICTURES)}
    endpoint(ransac_flow_group, [members, onto], [group, zip_file], most, "collections")


# --- a pair


def loaded(source: str | None, target: str | None) -> Iterator[Any]:
    """Read both pictures, or say which is missing or cannot be used."""
    for name, path in (("source", source), ("target", target)):
        fault = CHECKS[name](path, {})
        if fault or path is None:
            raise ImageError(f"{name.capitalize()}: {fault}")
        yield ui.read(path)


def refusal(result: "Alignment") -> str:
    """Say that nothing was found, how far it was from being found, and what to do."""
    lines = [f"**No alignment was found.** Score {result.score:.2f}: {result.reason}."]
    names = ("The source", "The target")
    blank = [name for name, each in zip(names, result.pictures, strict=True) if float(each.tensor().std()) < BLANK]
    sides = [max(size) for size in result.sizes]
    if blank:
        which = "Both pictures are" if len(blank) == 2 else f"{blank[0]} is"
        lines.append(f"{which} blank, or nearly so: upload a picture that shows something.")
    elif max(sides) >= APART * min(sides):
        small = names[sides.index(min(sides))]
        lines.append(
            f"{small} is {max(sides) / min(sides):.0f} times smaller than the other picture, and may lack the detail "
            "to be recognised: upload a larger scan of it."
        )
    else:
        lines.append(
            "Give two pictures of the same thing, of which both show a good part; crop frames, margins and colour "
            "charts. Mirror images and quarter turns need no preparation: the page tries them."
        )
    return "  \n".join(lines)


def verdict(result: "Alignment") -> str:
    """Say in a line how well the pictures fit."""
    from artmodels.methods.ransac_flow.exports import TRUSTED

    covered = float((result.matchability >= TRUSTED).float().mean())
    turned = f" The source is **{IN_WORDS[result.view]}**." if result.view else ""
    planes = "one homography" if len(result.matrices) == 1 else f"{len(result.matrices)} homographies"
    return (
        f"**Aligned** after {result.seconds:.1f} s.{turned} Score {result.score:.2f}: {result.inliers} of "
        f"{result.matches} matches agree; {planes}; {covered:.0%} of the target can be matched."
    )


def kept(result: "Alignment") -> AlignedPair:
    """Keep what a visitor goes on to ask about; the picture itself only as a file."""
    from artmodels.methods.ransac_flow.exports import summary

    folder = ui.run_folder()
    result.save(folder / "aligned.png")
    return AlignedPair(folder, result.without_pixels(), summary(result))


def page_pictures(result: "Alignment", folder: Path) -> dict[str, Path]:
    """Write what the page shows, as JPEGs: source, target, and the source on the target, finely and coarsely."""
    from artmodels.methods.ransac_flow.results.evidence import thumbnail

    result.coarse.save(folder / "aligned-coarse.png", compress_level=3)
    source, target = (picture.pil() for picture in result.pictures)
    made = {}
    for name, shown in {"source": source, "target": target, "fine": result.image, "coarse": result.coarse}.items():
        made[name] = folder / f"{name}.jpg"
        thumbnail(shown, SHOWN).save(made[name], quality=88)
    return made


def files(result: "Alignment", pair: AlignedPair) -> Iterator[Path]:
    """Write what is taken home, in the order of `FILES`, and give one path after the other."""
    for kind in FILES:
        path = pair.folder / f"{'alignment' if kind in ('npz', 'json') else 'aligned'}.{kind}"
        if kind == "json":
            write_about(pair, [])
        elif kind != "png":  # which is there already
            result.save(path)
        yield path


def write_about(pair: AlignedPair, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the JSON file, with the points that somebody asked for, and give what it says."""
    about = pair.about | {"points": found}
    (pair.folder / "alignment.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    return about


def no_files() -> list[Any]:
    """Buttons with nothing to download."""
    return [ui.offered(None) for _ in FILES]


def without_result(text: str) -> ui.Update:
    """Show a status and no result: see `align`."""
    return None, gr.update(visible=False), *[gr.skip()] * 6, *no_files(), text


def layers(pair: AlignedPair, stage: str) -> tuple[tuple[str, str], Any]:
    """What the slider and the overlay show: the target, and the source on it after a stage."""
    target, moved = pair.folder / "target.jpg", pair.folder / f"{stage}.jpg"
    both = {"under": data_url(target), "over": data_url(moved)}
    # As an update: the difference of a bare mapping to the `gr.skip()` that follows would be an empty one.
    return (str(target), str(moved)), gr.update(value=both)


def marked(pair: AlignedPair, points: Sequence[tuple[float, float]]) -> tuple[Any, str]:
    """Look points up and keep them, in the JSON file, too; give what the page shows of them: points, table."""
    from artmodels.methods.ransac_flow.exports import TRUSTED, correspondences

    found = correspondences(pair.alignment, points)
    pair.points = list(points)
    write_about(pair, found)
    marks = [point | {"sure": point["inside"] and point["matchability"] >= TRUSTED} for point in found]
    return gr.update(marks=marks), viewers.table(found, TRUSTED)


# --- a group


def gather(paths: Sequence[str]) -> Iterator[str | Gathered]:
    """Read pictures, and those inside ZIP files: texts that say how far it is, and the group, last."""
    made = Gathered()
    for taken in take_in(paths, ui.run_folder(), made.skipped, most=PICTURES):
        if isinstance(taken, str):
            yield taken
            continue
        taken.file.unlink()
        picture = taken.picture
        if min(picture.size) < SMALLEST:
            size = f"{picture.width} x {picture.height} px"
            made.skipped[taken.name] = f"it is {size}, and {SMALLEST} a side are needed"
            continue
        made.reduced |= max(picture.size) > SIDE
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        made.pictures[taken.name] = picture
    if len(made.pictures) < 2:
        have = "There is one picture" if made.pictures else "There is no picture that can be used"
        reasons = bullets(made.skipped.items())
        raise DatasetError(f"{have}: a group needs two or more; {ACCEPTED} files are read.{reasons}")
    yield made


def aligned(gathered: Gathered, reference: str) -> "Iterator[str | Group]":
    """Align a group onto one of its pictures, or onto the one that fits best, if none is named.

    Yields texts that say how far it is, and the group, last; closing this ends it after the next pair.
    """
    from artmodels.methods.ransac_flow import stream_align_group

    names = list(gathered.pictures)
    if reference and reference not in names:
        raise ConfigError(f"{reference!r} is none of the pictures: choose one of {', '.join(names)}.")
    if not reference and len(names) > CHOOSING:
        raise ConfigError(
            f"Of more than {CHOOSING} pictures the page does not look for the reference, for which all pairs are "
            f"compared: choose one of {', '.join(names)}."
        )
    yield "Looking at each picture…"
    for step in stream_align_group(ui.MODELS(MODEL), gathered.pictures, reference=reference or None):
        if isinstance(step, Progress):
            yield f"Comparing pair {min(step.done + 1, step.total)} of {step.total}…"
        else:
            yield step


def group_verdict(group: "Group", gathered: Gathered) -> str:
    """Say what came out."""
    count, aligned = len(gathered.pictures), len(group.aligned) + 1
    if not group.aligned:
        head = f"**No alignment was found**: none of the others fits {markdown(group.reference)}, and there is no mean."
    else:
        gain = group.means["fine"].sharpness / max(group.means["unaligned"].sharpness, 1e-12)
        head = (
            f"**{aligned} of {count} pictures are aligned** with {markdown(group.reference)}. The fine mean is "
            f"{gain:.1f} times as sharp as that of the unaligned pictures."
        )
    out = "".join(
        f"\n- {markdown(name)} is left out, score {group.alignments[name].score:.2f}: {group.alignments[name].reason}."
        for name in group.left_out
    )
    note = f"\n- Pictures were reduced to {SIDE} pixels a side; in Python there is no such limit."
    return head + out + gathered.left_out() + (note if gathered.reduced else "")


def group_pictures(group: "Group") -> list[tuple[str, Image.Image, str]]:
    """Title, picture and explanation of the means, and of what was brought onto the reference."""
    means = group.means if group.aligned else {}
    return [
        (f"{MEANS[stage][0]}: sharpness {1e4 * mean.sharpness:.1f}", mean.image, MEANS[stage][1])
        for stage, mean in means.items()
    ] + [(name, each.image, f"On {group.reference}; score {each.score:.2f}.") for name, each in group.aligned.items()]


def packed(group: "Group", gathered: Gathered) -> tuple[dict[str, Any], Path]:
    """Write the means, every aligned picture and the JSON into a ZIP file; give what the JSON says, and the file."""
    from artmodels.methods.ransac_flow.exports import group_summary, pack_group

    about, archive = group_summary(group) | {"skipped": gathered.skipped}, ui.run_folder() / "group.zip"
    pack_group(group, archive, about)
    return about, archive


if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
