"""What happens when a visitor clicks: generators of what the page is to show, the status last."""

import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from artmodels.errors import ConfigError, DatasetError
from artmodels.ui.checks import read
from artmodels.ui.controls import Update, run_folder
from artmodels.ui.server.pictures import data_url
from artmodels.ui.uploads import markdown, reported
from artmodels.ui.visitors import present
from artmodels.ui.widgets import canvas

# `app.py` has loaded them: they are files of this folder, not of a package.
collections, searching, evidence = (
    sys.modules[f"artminer_space_{name}"] for name in ("collection", "searching", "evidence")
)
Work = collections.Work

EXAMPLES = Path(__file__).parent / "examples"
FIRST = "orchard.jpg", (175, 59, 310, 302)  # what the example opens with: a picture, and a box x, y, width, height
SHOWN = 24  # places, and pairs, on the page; an export has all
TILE = 260  # px
OUTPUTS = 18  # of a new collection, beside the status: see `everything` of the page
STRICTEST = 0.1  # of the thresholds of pairs on the slider, unless verdicts say more
MEASURED = "What unrelated paintings hardly reach. Verdicts calibrate it: see Take home."
MARKS = {"": "", "same": "✓ ", "similar": "≈ ", "no": "✗ "}


# --- the collection


def wall(work: Work) -> list[tuple[str, str]]:
    """Give small versions of the pictures with their names."""
    return [(str(work.thumbnail(name)), name) for name in work.files]


def told(work: Work) -> str:
    """Say what came in, and what did not."""
    faults = work.left_out()
    if len(work.files) == 1:
        return f"**One picture.** There is nothing to compare it with: add more.{faults}"
    return f"**{len(work.files)} pictures.** Click one to open it, then draw a box on it.{faults}"


def begun(work: Work, text: str, box: list[int] | None = None) -> Update:
    """Show a new collection, and forget what was shown of another, and learnt from it: see `everything`."""
    numbers = box or [None] * 4
    page = canvas.opened(read(str(work.pictures / work.open)).pil(), box)
    empty: Update = ([], "", "", [], "", "", "", "", gr.update(value=None, interactive=False))
    return work, wall(work), page, *numbers, *empty, *usual(), text


def usual() -> tuple[Any, Any]:
    """Both thresholds as they were measured, before any verdict."""
    return (
        gr.update(value=searching.THRESHOLD, info=MEASURED),
        gr.update(value=searching.PAIR_THRESHOLD, info=MEASURED, maximum=STRICTEST),
    )


def take(paths: list[str] | None) -> Iterator[Update]:
    """Make a collection of uploaded files."""
    if not paths:
        raise DatasetError("There are no pictures: upload some, or a ZIP file of them.")
    work = yield from reported(Work(run_folder() / "collection").collect(paths, most=collections.FILES), others=OUTPUTS)
    work.open = work.files[0]
    yield begun(work, told(work))


def example_files() -> list[str]:
    """The pictures that come with the page."""
    return sorted(map(str, EXAMPLES.glob("*.jpg")))


def example() -> Iterator[Update]:
    """Take the example collection, with a box around the bird."""
    steps = Work(run_folder() / "collection", store=searching.SHARED).collect(example_files(), most=collections.FILES)
    work = yield from reported(steps, others=OUTPUTS)
    work.open, box = FIRST
    text = (
        f"**{len(work.files)} pictures** in which a window, a key, a bird, a compass rose and a lantern return. A box "
        "is around the bird: find it elsewhere, or draw another."
    )
    yield begun(work, text, list(box))


def choose(event: gr.SelectData, work: Work | None) -> Iterator[Update]:
    """Open a picture: canvas, numbers, status."""
    work = present(work)
    work.open = work.files[event.index]
    page = canvas.opened(read(str(work.pictures / work.open)).pil())
    yield page, None, None, None, None, f"**{markdown(work.open)}**: draw a box around a detail."


# --- a detail


def find(work: Work | None, x: float, y: float, width: float, height: float, threshold: float) -> Iterator[Update]:
    """Find the box elsewhere: hits, evidence, status."""
    work, start = present(work), time.monotonic()
    work.judging = None
    yield [], "", "Preparing…"
    for text in searching.search(work, work.open, (x, y, width, height)):
        yield gr.skip(), gr.skip(), text
    tiles, text = shown(work, threshold)
    seconds = time.monotonic() - start
    yield tiles, "", f"Finished after {seconds:.1f} s, for a detail of {markdown(work.searched.query)}: {text}"


def shown(work: Work, threshold: float) -> tuple[list[tuple[str, str]], str]:
    """Give the hits above a threshold as pictures, and a sentence."""
    found = work.searched
    above = [hit for hit in found.hits if hit.score >= threshold]
    work.shown = above[:SHOWN]
    frame = evidence.fitted((found.box[2] - found.box[0], found.box[3] - found.box[1]), TILE)
    folder, tiles = run_folder(), []
    for number, hit in enumerate(work.shown):
        picture, _ = evidence.counterpart(read(str(work.pictures / hit.image)), hit, frame)
        file = folder / f"{number:03}.jpg"
        picture.save(file, quality=88)
        tiles.append((str(file), caption(work, hit)))
    more = f", the best {SHOWN} are shown" if len(above) > SHOWN else ""
    hint = " Click one to see why; ⇆ is mirrored." if above else " Lower the threshold to see more."
    counted = _count(len(above), "place"), _count(len({hit.image for hit in above}), "other picture")
    return tiles, f"**{' in '.join(counted)}**{more}.{hint}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def caption(work: Work, hit: Any) -> str:
    """Say what a hit is."""
    # A verdict is on a detail and a picture: it stands beside the best place of that.
    first = hit is best(work, hit.image)
    verdict = work.verdict_on(work.searched.query, hit.image, work.searched.box) if first else ""
    mirrored = " ⇆" if hit.view == "mirror" else ""
    return f"{MARKS[verdict]}{hit.score:.2f}{mirrored}  {hit.image}"


def best(work: Work, name: str) -> Any:
    """The best place of a picture."""
    return next(hit for hit in work.searched.hits if hit.image == name)


def browse(work: Work | None, threshold: float) -> Iterator[Update]:
    """Show the hits above a threshold: hits, status."""
    if work is None or work.searched is None:
        yield gr.skip(), gr.skip()
        return
    tiles, text = shown(present(work), threshold)
    yield tiles, text


def explain(event: gr.SelectData, work: Work | None) -> Iterator[Update]:
    """Show the evidence for a hit: evidence, status."""
    work = present(work)
    work.judging = work.shown[event.index]
    yield proof(work), f"Rank {event.index + 1}: {markdown(work.judging.image)}. Does it show the same detail?"


def proof(work: Work) -> str:
    """The evidence for what is being judged."""
    about, settings = work.judging, searching.brief()
    if hasattr(about, "second"):
        hit, name, box = evidence.pair_hit(about, work.sizes), about.first, None
        model, verdict = searching.miner().fingerprint, work.verdict_on(about.first, about.second)
    else:
        hit, name, box = about, work.searched.query, work.searched.box
        model, verdict = work.searched.model, work.verdict_on(name, hit.image, box)
    pictures = [read(str(work.pictures / each)) for each in (name, hit.image)]
    said = evidence.facts(hit, settings, model, verdict, pair=box is None)
    return evidence.shown(pictures[0], box, pictures[1], hit, said, name=name, url=data_url)


def judge(work: Work | None, verdict: str) -> Iterator[Update]:
    """Keep what the visitor thinks: evidence, status."""
    from artmodels.methods.artminer.evidence.verdicts import LEAST, Verdict

    work = present(work)
    about = work.judging
    if about is None:
        raise ConfigError("Nothing is open: click a place that was found, then say what you think of it.")
    pair = hasattr(about, "second")
    if not pair and about is not best(work, about.image):
        raise ConfigError(f"A verdict is on a picture: say it of the best place in {about.image}, which is further up.")
    first, second = (about.first, about.second) if pair else (work.searched.query, about.image)
    box = None if pair else work.searched.box
    when = datetime.now(UTC).isoformat(timespec="seconds")
    work.verdicts.add(Verdict(first=first, second=second, verdict=verdict, when=when, box=box))
    given = [each.verdict for each in work.verdicts.current() if (each.box is None) == pair]
    same, count = given.count("same"), len(given)
    text = f"Kept: “{verdict}”. {_count(count, 'verdict')} so far"
    if min(same, count - same) < LEAST:
        yield proof(work), f"{text}: {LEAST} “same” and {LEAST} others can calibrate the threshold."
    else:
        yield proof(work), f"{text}, enough to **calibrate the threshold**: see Take home."


def said(work: Work | None, verdict: str, threshold: float) -> Iterator[Update]:
    """Keep a verdict on a hit: hits, evidence, status."""
    for proof_of, text in judge(work, verdict):
        yield shown(work, threshold)[0], proof_of, text


# --- whatever repeats


def repeat(work: Work | None, threshold: float) -> Iterator[Update]:
    """Compare all pictures: clusters, pairs, evidence, status."""
    work, start = present(work), time.monotonic()
    work.judging = None
    yield "", [], "", "Preparing…"
    for text in searching.compare(work):
        yield gr.skip(), gr.skip(), gr.skip(), text
    rows, tiles, text = repeats(work, threshold)
    yield rows, tiles, "", f"Finished after {time.monotonic() - start:.1f} s: {text}"


def repeats(work: Work, threshold: float) -> tuple[str, list[tuple[str, str]], str]:
    """Give clusters as rows, pairs as pictures, and a sentence."""
    groups, further = searching.settled(work, threshold)

    def picture(name: str) -> Image.Image:
        with Image.open(work.thumbnail(name)) as small:
            return small.convert("RGB")

    rows = evidence.rows(groups, further, picture, data_url)
    folder, tiles = run_folder(), []
    for number, pair in enumerate(work.pairs[:SHOWN]):
        file = folder / f"{number:03}.jpg"
        evidence.joined(picture(pair.first), picture(pair.second), TILE).save(file, quality=86)
        mark = MARKS[work.verdict_on(pair.first, pair.second)]
        tiles.append((str(file), f"{mark}{pair.match.score:.4f}  {pair.first} – {pair.second}"))
    groups_of = _count(len(groups), "group")
    text = f"**{groups_of} of pictures that share something**, {_count(len(further), 'link')} propagated."
    return rows, tiles, text


def regroup(work: Work | None, threshold: float) -> Iterator[Update]:
    """Group again at another threshold: clusters, pairs, status."""
    if work is None or work.pairs is None:
        yield gr.skip(), gr.skip(), gr.skip()
        return
    yield repeats(present(work), threshold)


def explain_pair(event: gr.SelectData, work: Work | None) -> Iterator[Update]:
    """Show the evidence for a pair: evidence, status."""
    work = present(work)
    work.judging = pair = work.pairs[event.index]
    yield proof(work), f"{markdown(pair.first)} and {markdown(pair.second)}. Do they show the same?"


def said_of_pair(work: Work | None, verdict: str, threshold: float) -> Iterator[Update]:
    """Keep a verdict on a pair, which decides whether it is a link: clusters, pairs, evidence, status."""
    for proof_of, text in judge(work, verdict):
        rows, tiles, _ = repeats(work, threshold)
        yield rows, tiles, proof_of, text


# --- verdicts, and files to take home


def calibrate(work: Work | None) -> Iterator[Update]:
    """Move the thresholds to where the verdicts part: threshold, threshold of pairs, status."""
    work, values, texts = present(work), [gr.skip(), gr.skip()], []
    for place, (details, what) in enumerate(((True, "details"), (False, "pairs"))):
        try:
            found = searching.calibrated(work, details=details)
        except DatasetError as error:
            texts.append(f"The threshold of {what} stays as it is: {error}.")
            continue
        value = round(min(max(found.threshold, 0), 1), 4)
        rests = f"{found.positives} judged the same and {found.negatives} not"
        more = {} if details else {"maximum": max(STRICTEST, value)}
        values[place] = gr.update(value=value, info=f"Calibrated to {value} by your verdicts: {rests}.", **more)
        texts.append(f"The threshold of {what} is now **{value}**, from {rests}.")
    yield *values, "  \n".join(texts)


def keep(work: Work | None) -> Iterator[Update]:
    """Offer the verdicts as a file: download, status."""
    work = present(work)
    verdicts = work.verdicts.current()
    if not verdicts:
        raise ConfigError("There is no verdict yet: open a place that was found, and say what you think of it.")
    file = run_folder() / "verdicts.jsonl"
    shutil.copyfile(work.verdicts.path, file)
    yield gr.update(value=str(file), interactive=True), f"{file.name} has {_count(len(verdicts), 'verdict')}."


def bring(work: Work | None, path: str | None) -> Iterator[Update]:
    """Take up verdicts from a file: upload, status."""
    from artmodels.methods.artminer.evidence.verdicts import VerdictFile

    work = present(work)
    if path is None:
        raise DatasetError("There is no file of verdicts: upload one that was taken from here.")
    try:
        given = VerdictFile(path).history()
    except DatasetError as error:
        raise DatasetError(str(error).replace(str(path), Path(path).name)) from None
    known = [verdict for verdict in given if {verdict.first, verdict.second} <= set(work.files)]
    for verdict in known:
        work.verdicts.add(verdict)
    others = len(given) - len(known)
    note = f" {others} are about pictures that are not in this collection, and left out." if others else ""
    again = " Before they can calibrate, look for the same details, or for whatever repeats, again." if known else ""
    yield None, f"{_count(len(known), 'verdict')} taken up.{note}{again}"


def export(work: Work | None, threshold: float, pair_threshold: float) -> Iterator[Update]:
    """Write all that was found: download, status."""
    work = present(work)
    parts = []
    if work.searched is not None:
        parts.append(searching.search_files(work, threshold))
    if work.pairs is not None:
        parts.append(searching.pair_files(work, pair_threshold))
    if not parts:
        raise ConfigError("Nothing has been found yet: search for a detail, or for whatever repeats, then export.")
    archive = run_folder() / "artminer.zip"
    searching.pack(archive, work, parts)
    names = ", ".join(name for part in parts for name in part if "/iiif/" not in name)
    yield gr.update(value=str(archive), interactive=True), f"{archive.name} has {names} and IIIF annotations."
