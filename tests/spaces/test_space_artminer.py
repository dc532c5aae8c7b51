"""The page that finds a detail in a collection: its handlers, and its endpoints as a program calls them."""

import csv
import gc
import io
import itertools
import json
import re
import threading
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gradio as gr
import networkx as nx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from PIL import Image
from support import ROOT, load_script

import artmodels
from artmodels import ui
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.artminer import ArtMiner
from artmodels.methods.artminer.evidence.findings import Claim
from artmodels.methods.artminer.evidence.verdicts import Verdict
from artmodels.methods.artminer.pipeline import PairProgress
from artmodels.ui import running
from artmodels.ui.events import answered
from artmodels.ui.server.modelcache import ModelCache

SPACE = ROOT / "spaces" / "artminer"
EXAMPLES = SPACE / "examples"
TRUTH = json.loads((EXAMPLES / "boxes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def app() -> ModuleType:
    return load_script(SPACE / "app.py")


@pytest.fixture
def quick(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer scales and no mirrored view: a third of a second a picture."""
    miner = artmodels.ArtMiner.from_pretrained(app.MODEL, scales=(36, 20), views=("",), device="cpu")
    monkeypatch.setattr(app, "miner", lambda: miner)


@pytest.fixture(scope="module")
def example(app: ModuleType):
    """The example collection with its features, which takes the longest of all."""
    work = last(app.example())[0]
    # Nothing is said where another test of this process has had them computed.
    assert all("of 12" in text for text in app.described(work)) and work.features is not None
    return work


@pytest.fixture
def work(app: ModuleType, example, tmp_path: Path):
    """A visitor of its own, who finds the features computed."""
    made = last(collected(app, app.EXAMPLES, tmp_path / "visitor", store=example.store))
    made.open, made.features = "orchard.jpg", example.features
    return made


def collected(app: ModuleType, paths: list[str], folder: Path, **options: object):
    return app.Investigation(folder, **options).collect(paths, most=app.FILES)


def last(steps: Iterator):
    *_, final = steps
    return final


def small(path: Path, colour: str = "red", size: tuple[int, int] = (60, 40)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def xywh(name: str, what: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = TRUTH[name][what]
    return left, top, right - left, bottom - top


def overlap(one: tuple, other: tuple) -> float:
    wide = max(min(one[2], other[2]) - max(one[0], other[0]), 0)
    high = max(min(one[3], other[3]) - max(one[1], other[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return wide * high / (sum(areas) - wide * high)


def click(index: int) -> SimpleNamespace:
    return SimpleNamespace(index=index)


# --- what comes in


def test_files_come_in_and_the_rest_is_told(app: ModuleType, tmp_path: Path) -> None:
    small(tmp_path / "a.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(small(tmp_path / "b.jpg", "blue"), "deep/../../../a.png")
        archive.write(tmp_path / "b.jpg", "b.jpg")
        archive.write(tmp_path / "b.jpg", "again.jpg")
        archive.writestr("__MACOSX/._b.jpg", b"not a picture")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and no more")
    names = ("a.png", "copy.png", "broken.jpg", "more.zip", "bad.zip")
    made = last(collected(app, [str(tmp_path / name) for name in names], tmp_path / "made"))
    assert made.files == ["a.png", "b.jpg"]
    assert made.twins == {"copy.png": "a.png", "again.jpg": "b.jpg"}
    assert set(made.skipped) == {"broken.jpg", "bad.zip", "../../a.png"}
    assert not (tmp_path.parent / "a.png").exists(), "nothing is written outside"
    text = made.left_out()
    assert "copy.png is left out: it has the same bytes as a.png" in text
    assert "broken.jpg is left out" in text and str(tmp_path) not in text


def test_too_many_or_no_pictures_are_refused(app: ModuleType, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="no picture that can be used.*\n- x.png"):
        last(collected(app, [str(tmp_path / "x.png")], tmp_path / "one"))
    monkeypatch.setattr(app, "FILES", 1)
    paths = [str(small(tmp_path / f"{colour}.png", colour)) for colour in ("red", "blue")]
    with pytest.raises(DatasetError, match="more than 1 pictures"):
        last(collected(app, paths, tmp_path / "two"))


def test_one_picture_is_nothing_to_search(app: ModuleType, tmp_path: Path) -> None:
    twins = [str(small(tmp_path / "a.png")), str(small(tmp_path / "b.png"))]
    work, wall, *_, status = last(app.take(twins))
    assert len(wall) == 1 and "nothing to compare it with" in status and "same bytes as a.png" in status
    for steps in (app.find(work, 1, 1, 20, 20, 0.5), app.repeat(work, 0.02)):
        with pytest.raises(DatasetError, match="has one picture"):
            list(steps)


def test_blank_and_tiny_pictures_are_searched_all_the_same(app: ModuleType, tmp_path: Path, quick: None) -> None:
    paths = [small(tmp_path / "blank.png", "grey", (90, 60)), small(tmp_path / "tiny.png", "teal", (10, 10))]
    paths.append(EXAMPLES / "quay.jpg")
    work = last(app.take([str(path) for path in paths]))[0]
    work.open = "quay.jpg"
    tiles, _, status = last(app.find(work, *xywh("quay.jpg", "lantern"), -1))
    assert {hit.image for hit in work.findings.last.ranked} == {"blank.png", "tiny.png"}
    assert len(tiles) == len(work.shown) > 1 and "in 2 other pictures" in status
    *_, status = last(app.repeat(work, 0.02))
    assert "**0 groups" in status


def test_the_networks_are_those_of_the_shared_cache(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(artmodels.load, limit=1)
    with monkeypatch.context() as patch:
        patch.setattr(ui, "MODELS", cache)
        held = weakref.ref(app.miner().backbone)
        assert held() is cache(app.MODEL).backbone
        cache("mimax-seascapes")  # takes its place
        gc.collect()
        assert held() is None, "nothing else keeps it"
    kept = app.miner()
    assert app.MODEL in ui.MODELS.names and kept is ui.MODELS(app.MODEL)
    assert (kept.scales, kept.views) == ((49, 36, 28, 20, 40), ("", "mirror"))
    assert (app.THRESHOLD, app.PAIR_THRESHOLD) == (
        kept.config.threshold,
        kept.config.pair_threshold,
    )


# --- a detail


def test_a_visitor_finds_judges_and_exports(app: ModuleType, work) -> None:
    start, *texts = app.find(work, *xywh("orchard.jpg", "bird"), 0.2)
    assert start[-1] == "Preparing…" and texts[0][-1].startswith("Searching: 1 of 12 pictures")
    tiles, _, status = texts[-1]
    assert status.startswith("Finished after") and "in 2 other pictures" in status
    found = [(hit.image, hit.view) for hit in work.shown]
    assert found == [("chart.jpg", ""), ("tapestry.jpg", "mirror")] and all(hit.closer for hit in work.shown)
    assert work.features.path("chart.jpg") == EXAMPLES / "chart.jpg", "no visitor's, whose files are deleted"
    for hit in work.shown:
        assert overlap(hit.box, TRUTH[hit.image]["bird"]) > 0.5
    assert tiles[0][1].startswith("0.4") and "⇆" in tiles[1][1] and "⇆" not in tiles[0][1]
    assert "**2 places" in status and "Below it, and hidden: " in status
    raised = status
    assert not any("quick look" in caption for _, caption in tiles) and "closer look" not in status
    tiles, status = last(app.browse(work, 0.2, True))
    assert len(tiles) > 2 and "shown after these and named so" in status
    under = [caption.startswith("below the threshold: ") for _, caption in tiles]
    assert under == [False, False] + [True] * (len(tiles) - 2)
    quick = ["(quick look)" in caption for _, caption in tiles]
    assert quick == [not hit.closer for hit in work.shown] and any(quick) and "A closer look may raise" in status
    assert "Rank 3, below the threshold" in last(app.explain(click(2), work))[1]

    last(app.browse(work, 0.2))
    why, _ = last(app.explain(click(1), work))
    for part in (
        "Found in tapestry.jpg",
        "mirrored",
        "<dt>Score</dt>",
        "artminer-paintings, sha256",
        "Correspondences",
        "by turns",
    ):
        assert part in why, part
    assert why.count("data:image/jpeg;base64,") == 5
    assert "<dd>none yet</dd>" in why
    tiles, why, status = last(app.judge_hit(work, "similar", 0.2))
    assert "<dd>similar</dd>" in why and "1 verdict so far" in status and tiles[1][1].startswith("≈ ")
    last(app.judge_hit(work, "same", 0.2))
    assert [(each.verdict, each.second) for each in work.findings.verdicts] == [("same", "tapestry.jpg")]

    download, status = last(app.export(work, 0.2, 0.02))
    with zipfile.ZipFile(download["value"]) as packed:
        assert packed.testzip() is None
        rows = list(csv.DictReader(io.StringIO(packed.read("detail/hits.csv").decode())))
        listed = json.loads(packed.read("detail/hits.json"))
        page = json.loads(packed.read("detail/iiif/chart.jpg.json"))
        report = packed.read("detail/report.html").decode()
        verdict = json.loads(packed.read("verdicts.jsonl").splitlines()[-1])
    assert [row["image"] for row in rows] == ["chart.jpg", "tapestry.jpg"]
    assert listed["query"]["image"] == "orchard.jpg" and listed["model"] == app.miner().fingerprint
    assert listed["parameters"]["threshold"] == listed["parameters"]["chance"] > 0.2, "raised by what the box is like"
    assert f"raises the threshold to **{listed['parameters']['threshold']:.2f}**" in raised
    assert "#xywh=" in json.dumps(page) and "tapestry.jpg" in report
    assert (verdict["first"], verdict["verdict"]) == ("orchard.jpg", "same")


def test_verdicts_go_home_and_come_again(app: ModuleType, work, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no verdict yet"):
        list(app.write_verdicts(work))
    list(app.find(work, *xywh("orchard.jpg", "bird"), 0.28))
    last(app.explain(click(0), work))
    last(app.judge_hit(work, "same", 0.28))
    file = last(app.write_verdicts(work))[0]["value"]

    other = last(collected(app, app.EXAMPLES[:6], tmp_path / "other"))
    lines = Path(file).read_text() + json.dumps({"first": "no.jpg", "second": "such.jpg", "verdict": "no"}) + "\n"
    (tmp_path / "mine.jsonl").write_text(lines)
    _, status = last(app.bring(other, str(tmp_path / "mine.jsonl")))
    assert "0 verdicts taken up. 2 are about pictures that are not" in status, "orchard.jpg is not among the six"
    again = last(collected(app, app.EXAMPLES, tmp_path / "again"))
    _, status = last(app.bring(again, str(tmp_path / "mine.jsonl")))
    assert "1 verdict taken up. 1 are" in status and "look for the same details" in status
    assert again.findings.verdict_on("orchard.jpg", "chart.jpg", work.findings.last.box) == "same"
    (tmp_path / "wrong.jsonl").write_text('{"first": "a"}\n')
    with pytest.raises(DatasetError, match="^wrong.jsonl, line 1 is no verdict"):
        list(app.bring(again, str(tmp_path / "wrong.jsonl")))


def test_enough_verdicts_move_the_threshold(app: ModuleType, work) -> None:
    threshold, least, status = last(app.calibrate(work))
    assert (
        "The threshold of details stays as it is: of what has a score 0 are judged" in status
        and "judge at least 5" in status
    )
    assert "value" not in threshold and "value" not in least, "nothing moves"
    for name, what in (("orchard.jpg", "bird"), ("chapel.jpg", "rose window"), ("quay.jpg", "lantern")):
        work.open = name
        list(app.find(work, *xywh(name, what), 0.3))
        seen = set()
        for hit in work.findings.last.ranked:
            if hit.image not in seen and len(seen) < 4:
                seen.add(hit.image)
                work.judging = Claim(name, hit, work.findings.last.box)
                _, _, said = last(app.judge_hit(work, "same" if what in TRUTH[hit.image] else "no", 0.3))
                given = [each.verdict for each in work.findings.verdicts]
                enough = min(given.count("same"), given.count("no")) >= 5
                assert ("enough to **calibrate the threshold**" if enough else "5 “same” and 5 others") in said
    update, least, status = last(app.calibrate(work))
    scores = list(work.findings.scores.values())
    assert min(scores) < update["value"] < max(scores) and update["value"] != app.THRESHOLD
    assert f"details is now **{update['value']}**, from 6 judged the same and 6 not" in status
    assert update["info"].startswith(f"Calibrated to {update['value']} by your verdicts: 6 judged the same")
    assert "The threshold of pairs stays as it is" in status and "value" not in least
    above = work.findings.last.from_score(update["value"]).hits
    assert len(last(app.browse(work, update["value"]))[0]) == len(above) > 0
    *_, places, pairs, below, _ = last(app.example())
    assert (places["value"], pairs["value"], below) == (app.THRESHOLD, app.PAIR_THRESHOLD, False), "forgotten"


def test_a_calibrated_threshold_of_pairs_fits_its_slider(app: ModuleType, work) -> None:
    match = SimpleNamespace(score=0.0)
    work.findings.pairs = [
        SimpleNamespace(first="lake.jpg", second=name, match=SimpleNamespace(score=0.5 - 0.09 * number), view="")
        for number, name in enumerate(name for name in work.files[:6] if name != "lake.jpg")
    ]
    work.findings.pairs += [
        SimpleNamespace(first="floor.jpg", second=name, match=match, view="")
        for name in work.files
        if name > "floor.jpg" and name != "lake.jpg"
    ]
    for pair in work.findings.pairs:
        verdict = "same" if pair.match.score else "no"
        work.findings.verdict_file.add(Verdict(first=pair.first, second=pair.second, verdict=verdict))
    _, least, _ = last(app.calibrate(work))
    assert least["value"] > app.STRICTEST and least["maximum"] == least["value"]


def test_a_second_place_in_a_picture_is_not_judged(app: ModuleType, work) -> None:
    list(app.find(work, *xywh("orchard.jpg", "bird"), -1, True))
    again = next(hit for hit in work.findings.last.ranked if not work.findings.is_best(hit))
    work.judging = Claim("orchard.jpg", again, work.findings.last.box)
    with pytest.raises(ConfigError, match=f"best place in {again.image}"):
        list(app.judge_hit(work, "no", -1))
    assert work.findings.verdicts == []


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((None, None, None, None), "There is no box yet"),
        ((10, 10, None, 20), "There is no box yet"),
        ((700, 10, 50, 50), "The box at x 700, y 10 lies outside the picture, which has 640 x 480 px: draw it inside"),
        ((639, 10, 50, 50), "lies outside the picture"),
        ((10, -60, 50, 50), "The box at x 10, y -60 lies outside the picture"),
        ((10, 10, 1, 1), "The box is 1 x 1 px: draw one of at least 2 x 2 px"),
        ((10, 10, 0, 20), "The box is 0 x 20 px"),
        ((10, 10, -5, 20), "The box is -5 x 20 px"),
    ],
)
def test_boxes_that_are_none_are_explained(app: ModuleType, work, box: tuple, message: str) -> None:
    steps = answered(app.find, outputs=3)(work, *box, 0.5)
    told = []
    with pytest.raises(gr.Error, match=message):
        for update in steps:
            told.append(update[-1])
    assert told[-1].startswith("**It did not work:**") and message in told[-1]


# --- whatever repeats


def test_what_repeats_is_found_without_asking(app: ModuleType, work) -> None:
    rows, tiles, _, status = last(app.repeat(work, 0.024))
    assert "groups of pictures that share something" in status
    groups, _ = work.findings.groups(0.024)
    together = {group.images for group in groups}
    assert ("chart.jpg", "floor.jpg", "table.jpg") in together, "the compass rose"
    assert ("chart.jpg", "orchard.jpg", "tapestry.jpg") in together, "the bird"
    alone = {"lake.jpg", "fields.jpg", "bouquet.jpg"}
    assert not alone & {name for images in together for name in images}
    assert rows.count('class="cluster"') == len(groups) and len(tiles) == min(24, len(work.findings.pairs))

    why, _ = last(app.explain_pair(click(0), work))
    assert "Discovery score" in why and "<dt>Score</dt>" not in why
    pair = work.findings.pairs[0]
    last(app.judge_pair(work, "no", 0.024))
    assert work.findings.verdict_on(pair.first, pair.second) == "no"
    download, _ = last(app.export(work, 0.28, 0.024))
    with zipfile.ZipFile(download["value"]) as packed:
        graph = nx.parse_graphml(packed.read("repeats/pairs.graphml").decode(), force_multigraph=True)
        listed = json.loads(packed.read("repeats/pairs.json"))
        clusters = list(csv.DictReader(io.StringIO(packed.read("repeats/clusters.csv").decode())))
        assert "repeats/iiif/orchard.jpg.json" in packed.namelist()
    ends = [{each["first"]["image"], each["second"]["image"]} for each in listed["pairs"] if each["origin"] == "found"]
    assert {pair.first, pair.second} not in ends, "what was judged no is no link"
    assert {"orchard.jpg", "tapestry.jpg"} in ends
    assert graph.number_of_edges() == len(listed["pairs"])
    assert {row["image"] for row in clusters} >= {"orchard.jpg", "tapestry.jpg"}


def test_a_large_collection_is_compared_by_a_shortlist(app: ModuleType, work, monkeypatch) -> None:
    monkeypatch.setattr(app, "ALL_PAIRS", 4)
    monkeypatch.setattr(app, "SHORTLIST", 2)
    steps = app.compare(work, 0.02)
    assert next(steps) == "Making a shortlist of pairs…"
    said = re.fullmatch(r"Comparing pair 1 of (\d+): [01] share something so far…", next(steps))
    steps.close()
    assert 0 < int(said[1]) < 40, "of 66 pairs"


def test_pairs_are_counted_that_are_too_quick_to_be_shown(app: ModuleType, work, monkeypatch) -> None:
    seconds = itertools.count(0, 0.1)
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    weak, strong = (SimpleNamespace(match=SimpleNamespace(score=score)) for score in (0.02, 0.5))
    found = [strong if done % 2 else weak for done in range(1, 21)]
    stream = [*(PairProgress(done, 20, "a and b", pair) for done, pair in enumerate(found, 1)), found]
    monkeypatch.setattr(ArtMiner, "stream_pairs", lambda *_, **__: iter(stream))
    said = [re.fullmatch(r"Comparing pair (\d+) of 20: (\d+) share.*", step) for step in app.compare(work, 0.02)]
    shown = [match.groups() for match in said if match]
    assert len(shown) > 2
    assert all((int(done) + 1) // 2 == int(alike) for done, alike in shown), "those above the threshold"
    assert len(work.findings.pairs) == 20


# --- stopping, and what cannot be done


def test_leaving_ends_the_work_and_what_was_done_is_kept(app: ModuleType, tmp_path: Path, quick: None) -> None:
    work = last(collected(app, app.EXAMPLES[:4], tmp_path / "made"))
    work.open = work.files[0]
    steps = answered(app.find, outputs=3)(work, 10, 10, 200, 200, 0.5)
    assert next(steps)[-1] == "Preparing…"
    assert next(steps)[-1].startswith("Searching: ")
    steps.close()
    assert not app._describing.locked()
    texts = [update[-1] for update in app.find(work, 10, 10, 200, 200, 0.5)]
    assert texts[-1].startswith("Finished after")
    assert work.features.names == tuple(sorted(work.files))


def test_features_begin_with_the_upload_and_a_search_goes_on_with_them(
    app: ModuleType, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=itertools.count(0, 1.0).__next__))
    work = last(app.take(app.EXAMPLES[:4]))[0]
    steps = app.prepare(work)
    told = [next(steps)[-1] for _ in range(2)]
    steps.close()
    assert told[0].endswith("Looking at each picture once: 1 of 4 pictures, about 3 seconds left…"), told
    assert told[0].startswith("**4 pictures.**") and "2 of 4 pictures, about" in told[1]
    assert not app._describing.locked() and work.features is None

    computed = list[str]()
    describe = ArtMiner.pyramids
    monkeypatch.setattr(ArtMiner, "pyramids", lambda miner, picture: computed.append("one") or describe(miner, picture))
    work.open = work.files[0]
    updates = list(app.find(work, 10, 10, 200, 200, -1))
    assert len(computed) == 2, "the two that were left"
    said = [text for _, _, text in updates]
    assert said[-1].startswith("Finished after") and any("3 of 4 pictures" in text for text in said), said
    shown = [len(tiles) for tiles, _, _ in updates[1:] if isinstance(tiles, list)]
    assert 0 < shown[0] <= shown[-1] and len(shown) > 1, "hits as they come"
    assert list(app.prepare(work)) == [(gr.skip(), work.said)], "there is nothing left to compute"


def test_what_nobody_asked_for_ends_where_somebody_waits(
    app: ModuleType, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = last(app.take(app.EXAMPLES[:4]))[0]
    monkeypatch.setattr(app, "awaited", lambda lane: lane == "collections")
    assert [text for _, text in app.prepare(work)][-1] == work.said and work.features is None


def test_evidence_that_was_opened_during_a_search_is_that_of_its_end(app: ModuleType, work) -> None:
    steps = app.find(work, *xywh("orchard.jpg", "bird"), -1)
    for _, _, text in steps:
        if work.shown and text.startswith("Searching: "):
            break
    early = work.shown[0]
    last(app.explain(click(0), work))
    *_, (_, why, _) = steps
    assert "comparison" in why or "Score" in why
    best = next(hit for hit in work.findings.last.ranked if hit.image == early.image)
    assert work.judging.hit is best and work.findings.is_best(work.judging.hit)


def test_whoever_starts_again_waits_for_what_was_stopped(app: ModuleType, tmp_path: Path, quick: None) -> None:
    """gradio lets the next search begin while the thread of the stopped one still writes its picture."""
    work = last(
        collected(app, [str(small(tmp_path / "a.png")), str(small(tmp_path / "b.png", "blue"))], tmp_path / "w")
    )
    texts, writing = [], threading.Event()
    hold = threading.Thread(target=lambda: [app._describing.acquire(), writing.set()])
    hold.start()
    assert writing.wait(60)
    again = threading.Thread(target=lambda: texts.extend(app.described(work)))
    again.start()
    again.join(0.5)
    assert again.is_alive() and work.features is None
    app._describing.release()
    again.join(30)
    assert texts and set(work.features.names) == {"a.png", "b.png"}


@pytest.mark.parametrize(
    ("handler", "arguments", "message"),
    [
        ("take", (None,), "There are no pictures"),
        ("find", (None, 1, 1, 9, 9, 0.5), "There is no collection yet"),
        ("repeat", (None, 0.02), "There is no collection yet"),
        ("judge_hit", (None, "same", 0.28), "There is no collection yet"),
        ("export", (None, 0.5, 0.02), "There is no collection yet"),
    ],
)
def test_what_cannot_be_done_yet_is_said(app: ModuleType, handler: str, arguments: tuple, message: str) -> None:
    told = []
    with pytest.raises(gr.Error, match=message):
        for update in answered(getattr(app, handler), outputs=4)(*arguments):
            told.append(update[-1])
    assert told[-1].startswith(f"**It did not work:** {message}")


def test_a_collection_says_what_is_missing(app: ModuleType, tmp_path: Path) -> None:
    paths = [str(small(tmp_path / f"{colour}.png", colour)) for colour in ("red", "blue")]
    work = last(app.take(paths))[0]
    with pytest.raises(ConfigError, match="Nothing has been found yet"):
        list(app.export(work, 0.28, 0.02))
    with pytest.raises(ConfigError, match="Nothing is open"):
        list(app.judge_hit(work, "same", 0.28))
    work.pictures.rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match="deleted, as everything is after an hour"):
        list(app.find(work, 1, 1, 9, 9, 0.5))


# --- programs


@pytest.fixture
def client(artminer_url: str, tmp_path: Path) -> Iterator[Client]:
    client = Client(artminer_url, verbose=False, download_files=tmp_path / "downloads", analytics_enabled=False)
    yield client
    client.close()


@pytest.fixture
def some(tmp_path: Path) -> list[object]:
    """Three pictures, two of which show the bird, one of them twice; and a file that is none."""
    (tmp_path / "torn.png").write_bytes(b"nothing")
    (tmp_path / "twin.jpg").write_bytes((EXAMPLES / "chart.jpg").read_bytes())
    names = [EXAMPLES / "chart.jpg", tmp_path / "torn.png", EXAMPLES / "orchard.jpg", tmp_path / "twin.jpg"]
    return [handle_file(path) for path in (*names, EXAMPLES / "lake.jpg")]


def test_a_program_finds_a_detail(client: Client, quick: None, some: list) -> None:
    box = xywh("orchard.jpg", "bird")
    tiles, found, archive = client.predict(some, "orchard.jpg", *box, 0.28, api_name="/artminer_search")
    assert [hit["image"] for hit in found["hits"]] == ["chart.jpg"]
    assert overlap(found["hits"][0]["box"], TRUTH["chart.jpg"]["bird"]) > 0.5
    assert found["duplicates"] == {"twin.jpg": "chart.jpg"} and list(found["skipped"]) == ["torn.png"]
    assert len(tiles) == 1
    with zipfile.ZipFile(archive) as packed:
        assert {"detail/hits.csv", "detail/report.html", "detail/iiif/chart.jpg.json"} <= set(packed.namelist())


def test_a_program_finds_what_repeats(client: Client, quick: None, some: list) -> None:
    found, archive = client.predict(some, 0.02, api_name="/artminer_pairs")
    assert found["clusters"] == [["chart.jpg", "orchard.jpg"]]
    assert found["duplicates"] == {"twin.jpg": "chart.jpg"}
    with zipfile.ZipFile(archive) as packed:
        assert "repeats/pairs.graphml" in packed.namelist()


@pytest.mark.parametrize(
    ("picture", "box", "message"),
    [
        ("orchard.jpg", (5000, 5, 9, 9), "lies outside the picture, which has 640 x 480 px"),
        ("2", (5, 5, 1, 1), "at least 2 x 2 px"),
        ("9", (5, 5, 20, 20), "'9' is none of the pictures: give a number from 1 to 3, or one of chart.jpg"),
    ],
)
def test_wrong_input_is_explained(client: Client, some: list, picture: str, box: tuple, message: str) -> None:
    with pytest.raises(AppError, match=message) as caught:
        client.predict(some, picture, *box, 0.5, api_name="/artminer_search")
    assert "run-" not in str(caught.value)


def test_no_pictures_or_one_are_refused(client: Client) -> None:
    with pytest.raises((AppError, ValidationError), match="There are no pictures"):
        client.predict([], "1", 5, 5, 20, 20, 0.5, api_name="/artminer_search")
    with pytest.raises(AppError, match="has one picture"):
        client.predict([handle_file(EXAMPLES / "lake.jpg")], 0.02, api_name="/artminer_pairs")


def test_the_endpoints_are_the_ones_that_were_promised(client: Client) -> None:
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/artminer_search", "/artminer_pairs"}
