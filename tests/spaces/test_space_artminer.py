"""The page that finds a detail in a collection: its handlers, and its endpoints as a program calls them."""

import csv
import gc
import io
import json
import threading
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gradio as gr
import networkx as nx
import pytest
from conftest import ROOT, load_script
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from PIL import Image

import artmodels
from artmodels import ui
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.artminer.evidence.verdicts import Verdict
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
    miner = artmodels.ArtMiner.from_pretrained(app.searching.MODEL, scales=(36, 20), views=("",), device="cpu")
    monkeypatch.setattr(app.searching, "miner", lambda: miner)


@pytest.fixture(scope="module")
def example(app: ModuleType):
    """The example collection with its features, which takes the longest of all."""
    work = last(app.handlers.example())[0]
    # Nothing is said where another test of this process has had them computed.
    assert all("of 12" in text for text in app.searching.describe(work)) and work.features is not None
    return work


@pytest.fixture
def work(app: ModuleType, example, tmp_path: Path):
    """A visitor of its own, who finds the features computed."""
    made = last(collected(app, app.handlers.example_files(), tmp_path / "visitor", store=example.store))
    made.open, made.features = "orchard.jpg", example.features
    return made


def collected(app: ModuleType, paths: list[str], folder: Path, **options: object):
    return app.collections.Work(folder, **options).collect(paths, most=app.collections.FILES)


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
    text = app.handlers.told(made)
    assert "copy.png is left out: it has the same bytes as a.png" in text
    assert "broken.jpg is left out" in text and str(tmp_path) not in text


def test_too_many_or_no_pictures_are_refused(app: ModuleType, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="no picture that can be used.*\n- x.png"):
        last(collected(app, [str(tmp_path / "x.png")], tmp_path / "one"))
    monkeypatch.setattr(app.collections, "FILES", 1)
    paths = [str(small(tmp_path / f"{colour}.png", colour)) for colour in ("red", "blue")]
    with pytest.raises(DatasetError, match="more than 1 pictures"):
        last(collected(app, paths, tmp_path / "two"))


def test_one_picture_is_nothing_to_search(app: ModuleType, tmp_path: Path) -> None:
    twins = [str(small(tmp_path / "a.png")), str(small(tmp_path / "b.png"))]
    work, wall, *_, status = last(app.handlers.take(twins))
    assert len(wall) == 1 and "nothing to compare it with" in status and "same bytes as a.png" in status
    for steps in (app.handlers.find(work, 1, 1, 20, 20, 0.5), app.handlers.repeat(work, 0.02)):
        with pytest.raises(DatasetError, match="has one picture"):
            list(steps)


def test_blank_and_tiny_pictures_are_searched_all_the_same(app: ModuleType, tmp_path: Path, quick: None) -> None:
    paths = [small(tmp_path / "blank.png", "grey", (90, 60)), small(tmp_path / "tiny.png", "teal", (10, 10))]
    paths.append(EXAMPLES / "quay.jpg")
    work = last(app.handlers.take([str(path) for path in paths]))[0]
    work.open = "quay.jpg"
    tiles, _, status = last(app.handlers.find(work, *xywh("quay.jpg", "lantern"), -1))
    assert {hit.image for hit in work.searched.hits} == {"blank.png", "tiny.png"}
    assert len(tiles) == len(work.shown) > 1 and "in 2 other pictures" in status
    *_, status = last(app.handlers.repeat(work, 0.02))
    assert "**0 groups" in status


def test_the_networks_are_those_of_the_shared_cache(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(artmodels.load, limit=1)
    with monkeypatch.context() as patch:
        patch.setattr(app.searching, "MODELS", cache)
        held = weakref.ref(app.searching.miner().backbone)
        assert held() is cache(app.searching.MODEL).backbone
        cache("mimax-seascapes")  # takes its place
        gc.collect()
        assert held() is None, "nothing else keeps it"
    model = app.searching.miner()
    assert app.searching.MODEL in ui.MODELS.names
    kept = ui.MODELS(app.searching.MODEL)
    assert model.backbone is kept.backbone and model.projection is kept.projection
    assert (model.scales, model.views) == ((49, 36, 28, 20, 40), ("", "mirror")) != (kept.scales, kept.views)
    assert (app.searching.THRESHOLD, app.searching.PAIR_THRESHOLD) == (
        kept.config.threshold,
        kept.config.pair_threshold,
    )


# --- a detail


def test_a_visitor_finds_judges_and_exports(app: ModuleType, work) -> None:
    start, *texts = app.handlers.find(work, *xywh("orchard.jpg", "bird"), 0.2)
    assert start[-1] == "Preparing…" and texts[0][-1].startswith("Searching picture 1 of 11")
    tiles, _, status = texts[-1]
    assert status.startswith("Finished after") and "in 2 other pictures" in status
    found = [(hit.image, hit.view) for hit in work.shown]
    assert found == [("chart.jpg", ""), ("tapestry.jpg", "mirror")]
    for hit in work.shown:
        assert overlap(hit.box, TRUTH[hit.image]["bird"]) > 0.5
    assert tiles[0][1].startswith("0.4") and "⇆" in tiles[1][1] and "⇆" not in tiles[0][1]
    assert len(last(app.handlers.browse(work, 0.1))[0]) > 2

    last(app.handlers.browse(work, 0.2))
    why, _ = last(app.handlers.explain(click(1), work))
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
    tiles, why, status = last(app.handlers.said(work, "similar", 0.2))
    assert "<dd>similar</dd>" in why and "1 verdict so far" in status and tiles[1][1].startswith("≈ ")
    last(app.handlers.said(work, "same", 0.2))
    assert [(each.verdict, each.second) for each in work.verdicts.current()] == [("same", "tapestry.jpg")]

    download, status = last(app.handlers.export(work, 0.2, 0.02))
    with zipfile.ZipFile(download["value"]) as packed:
        assert packed.testzip() is None
        rows = list(csv.DictReader(io.StringIO(packed.read("detail/hits.csv").decode())))
        listed = json.loads(packed.read("detail/hits.json"))
        page = json.loads(packed.read("detail/iiif/chart.jpg.json"))
        report = packed.read("detail/report.html").decode()
        verdict = json.loads(packed.read("verdicts.jsonl").splitlines()[-1])
    assert [row["image"] for row in rows] == ["chart.jpg", "tapestry.jpg"]
    assert listed["query"]["image"] == "orchard.jpg" and listed["model"] == app.searching.miner().fingerprint
    assert listed["parameters"]["threshold"] == 0.2
    assert "#xywh=" in json.dumps(page) and "tapestry.jpg" in report
    assert (verdict["first"], verdict["verdict"]) == ("orchard.jpg", "same")


def test_verdicts_go_home_and_come_again(app: ModuleType, work, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no verdict yet"):
        list(app.handlers.keep(work))
    list(app.handlers.find(work, *xywh("orchard.jpg", "bird"), 0.28))
    last(app.handlers.explain(click(0), work))
    last(app.handlers.said(work, "same", 0.28))
    file = last(app.handlers.keep(work))[0]["value"]

    other = last(collected(app, app.handlers.example_files()[:6], tmp_path / "other"))
    lines = Path(file).read_text() + json.dumps({"first": "no.jpg", "second": "such.jpg", "verdict": "no"}) + "\n"
    (tmp_path / "mine.jsonl").write_text(lines)
    _, status = last(app.handlers.bring(other, str(tmp_path / "mine.jsonl")))
    assert "0 verdicts taken up. 2 are about pictures that are not" in status, "orchard.jpg is not among the six"
    again = last(collected(app, app.handlers.example_files(), tmp_path / "again"))
    _, status = last(app.handlers.bring(again, str(tmp_path / "mine.jsonl")))
    assert "1 verdict taken up. 1 are" in status and "look for the same details" in status
    assert again.verdict_on("orchard.jpg", "chart.jpg", work.searched.box) == "same"
    (tmp_path / "wrong.jsonl").write_text('{"first": "a"}\n')
    with pytest.raises(DatasetError, match="^wrong.jsonl, line 1 is no verdict"):
        list(app.handlers.bring(again, str(tmp_path / "wrong.jsonl")))


def test_enough_verdicts_move_the_threshold(app: ModuleType, work) -> None:
    threshold, least, status = last(app.handlers.calibrate(work))
    assert (
        "The threshold of details stays as it is: of what has a score 0 are judged" in status
        and "judge at least 5" in status
    )
    assert "value" not in threshold and "value" not in least, "nothing moves"
    for name, what in (("orchard.jpg", "bird"), ("chapel.jpg", "rose window"), ("quay.jpg", "lantern")):
        work.open = name
        list(app.handlers.find(work, *xywh(name, what), 0.3))
        seen = set()
        for hit in work.searched.hits:
            if hit.image not in seen and len(seen) < 4:
                seen.add(hit.image)
                work.judging = hit
                _, _, said = last(app.handlers.said(work, "same" if what in TRUTH[hit.image] else "no", 0.3))
                given = [each.verdict for each in work.verdicts.current()]
                enough = min(given.count("same"), given.count("no")) >= 5
                assert ("enough to **calibrate the threshold**" if enough else "5 “same” and 5 others") in said
    update, least, status = last(app.handlers.calibrate(work))
    scores = list(work.scores.values())
    assert min(scores) < update["value"] < max(scores) and update["value"] != app.searching.THRESHOLD
    assert f"details is now **{update['value']}**, from 6 judged the same and 6 not" in status
    assert update["info"].startswith(f"Calibrated to {update['value']} by your verdicts: 6 judged the same")
    assert "The threshold of pairs stays as it is" in status and "value" not in least
    above = [hit for hit in work.searched.hits if hit.score >= update["value"]]
    assert len(last(app.handlers.browse(work, update["value"]))[0]) == len(above) > 0
    *_, places, pairs, _ = last(app.handlers.example())
    assert (places["value"], pairs["value"]) == (app.searching.THRESHOLD, app.searching.PAIR_THRESHOLD), "forgotten"


def test_a_calibrated_threshold_of_pairs_fits_its_slider(app: ModuleType, work) -> None:
    match = SimpleNamespace(score=0.0)
    work.pairs = [
        SimpleNamespace(first="lake.jpg", second=name, match=SimpleNamespace(score=0.5 - 0.09 * number), view="")
        for number, name in enumerate(name for name in work.files[:6] if name != "lake.jpg")
    ]
    work.pairs += [
        SimpleNamespace(first="floor.jpg", second=name, match=match, view="")
        for name in work.files
        if name > "floor.jpg" and name != "lake.jpg"
    ]
    for pair in work.pairs:
        verdict = "same" if pair.match.score else "no"
        work.verdicts.add(Verdict(first=pair.first, second=pair.second, verdict=verdict))
    _, least, _ = last(app.handlers.calibrate(work))
    assert least["value"] > app.handlers.STRICTEST and least["maximum"] == least["value"]


def test_a_second_place_in_a_picture_is_not_judged(app: ModuleType, work) -> None:
    list(app.handlers.find(work, *xywh("orchard.jpg", "bird"), -1))
    again = next(hit for hit in work.searched.hits if hit is not app.handlers.best(work, hit.image))
    work.judging = again
    with pytest.raises(ConfigError, match=f"best place in {again.image}"):
        list(app.handlers.judge(work, "no"))
    assert work.verdicts.current() == []


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
    steps = answered(app.handlers.find, outputs=3)(work, *box, 0.5)
    told = []
    with pytest.raises(gr.Error, match=message):
        for update in steps:
            told.append(update[-1])
    assert told[-1].startswith("**It did not work:**") and message in told[-1]


# --- whatever repeats


def test_what_repeats_is_found_without_asking(app: ModuleType, work) -> None:
    rows, tiles, _, status = last(app.handlers.repeat(work, 0.024))
    assert "groups of pictures that share something" in status
    groups, _ = app.searching.settled(work, 0.024)
    together = {group.images for group in groups}
    assert ("chart.jpg", "floor.jpg", "table.jpg") in together, "the compass rose"
    assert ("chart.jpg", "orchard.jpg", "tapestry.jpg") in together, "the bird"
    alone = {"lake.jpg", "fields.jpg", "bouquet.jpg"}
    assert not alone & {name for images in together for name in images}
    assert rows.count('class="cluster"') == len(groups) and len(tiles) == min(24, len(work.pairs))

    why, _ = last(app.handlers.explain_pair(click(0), work))
    assert "Discovery score" in why and "<dt>Score</dt>" not in why
    pair = work.judging
    last(app.handlers.said_of_pair(work, "no", 0.024))
    assert work.verdict_on(pair.first, pair.second) == "no"
    download, _ = last(app.handlers.export(work, 0.28, 0.024))
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
    compared, pairs = [], artmodels.ArtMiner.stream_pairs
    monkeypatch.setattr(app.searching, "ALL_PAIRS", 4)
    monkeypatch.setattr(app.searching, "SHORTLIST", 2)
    monkeypatch.setattr(
        artmodels.ArtMiner,
        "stream_pairs",
        lambda self, among, chosen: compared.extend(chosen) or pairs(self, among, chosen[:4]),
    )
    list(app.searching.compare(work))
    assert len(compared) == len(set(compared)) < 40, "of 66 pairs"
    assert all(first < second for first, second in compared)


# --- stopping, and what cannot be done


def test_leaving_ends_the_thread_and_what_was_done_is_kept(app: ModuleType, tmp_path: Path, quick: None) -> None:
    work = last(collected(app, app.handlers.example_files()[:4], tmp_path / "made"))
    work.open = work.files[0]
    steps = answered(app.handlers.find, outputs=3)(work, 10, 10, 200, 200, 0.5)
    assert next(steps)[-1] == "Preparing…"
    assert next(steps)[-1].startswith("Looking at picture 1 of 4")
    steps.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "artminer-work"]
    texts = [update[-1] for update in app.handlers.find(work, 10, 10, 200, 200, 0.5)]
    assert texts[-1].startswith("Finished after")
    assert work.features.names == tuple(sorted(work.files))


def test_whoever_starts_again_waits_for_what_was_stopped(app: ModuleType, tmp_path: Path, quick: None) -> None:
    """gradio lets the next search begin while the thread of the stopped one still writes its picture."""
    work = last(
        collected(app, [str(small(tmp_path / "a.png")), str(small(tmp_path / "b.png", "blue"))], tmp_path / "w")
    )
    texts, writing = [], threading.Event()
    hold = threading.Thread(target=lambda: [app.searching._describing.acquire(), writing.set()])
    hold.start()
    assert writing.wait(60)
    again = threading.Thread(target=lambda: texts.extend(app.searching.describe(work)))
    again.start()
    again.join(0.5)
    assert again.is_alive() and work.features is None
    app.searching._describing.release()
    again.join(30)
    assert texts and set(work.features.names) == {"a.png", "b.png"}


@pytest.mark.parametrize(
    ("handler", "arguments", "message"),
    [
        ("take", (None,), "There are no pictures"),
        ("find", (None, 1, 1, 9, 9, 0.5), "There is no collection yet"),
        ("repeat", (None, 0.02), "There is no collection yet"),
        ("said", (None, "same", 0.28), "There is no collection yet"),
        ("export", (None, 0.5, 0.02), "There is no collection yet"),
    ],
)
def test_what_cannot_be_done_yet_is_said(app: ModuleType, handler: str, arguments: tuple, message: str) -> None:
    told = []
    with pytest.raises(gr.Error, match=message):
        for update in answered(getattr(app.handlers, handler), outputs=4)(*arguments):
            told.append(update[-1])
    assert told[-1].startswith(f"**It did not work:** {message}")


def test_a_collection_says_what_is_missing(app: ModuleType, tmp_path: Path) -> None:
    paths = [str(small(tmp_path / f"{colour}.png", colour)) for colour in ("red", "blue")]
    work = last(app.handlers.take(paths))[0]
    with pytest.raises(ConfigError, match="Nothing has been found yet"):
        list(app.handlers.export(work, 0.28, 0.02))
    with pytest.raises(ConfigError, match="Nothing is open"):
        list(app.handlers.said(work, "same", 0.28))
    work.pictures.rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match="deleted, as everything is after an hour"):
        list(app.handlers.find(work, 1, 1, 9, 9, 0.5))


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
