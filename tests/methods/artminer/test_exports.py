"""Verdicts, exported results and the HTML report of ArtMiner."""

import base64
import csv
import io
import json
import multiprocessing
import re
from html.parser import HTMLParser
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.isotonic import IsotonicRegression
from support import CHROMIUM

from artmodels.correspondence.views import VIEWS, from_view
from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.images.loading import load
from artmodels.methods.artminer.discovery import DiscoveryConfig, Match
from artmodels.methods.artminer.evidence.exports import (
    HIT_COLUMNS,
    PAIR_COLUMNS,
    hits_annotations,
    hits_csv,
    hits_json,
    pair_boxes,
    pairs_annotations,
    pairs_csv,
    pairs_graphml,
    pairs_json,
)
from artmodels.methods.artminer.evidence.report import aligned, html_report
from artmodels.methods.artminer.evidence.verdicts import Verdict, VerdictFile, calibrate, hard_negatives, judged
from artmodels.methods.artminer.groups.clusters import Pair, propagate
from artmodels.methods.artminer.oneshot import Hit

NASTY = 'a "quoted", <script>alert(1)</script>\nname & more.jpg'


def match(first=((2, 3), (4, 6)), second=((1, 1), (2, 4)), *, score=0.25, transform=None, shape=(10, 20)):
    return Match(
        score=score,
        transform=torch.eye(3) if transform is None else torch.as_tensor(transform).float(),
        reference_cells=torch.tensor(first).reshape(-1, 2),
        target_cells=torch.tensor(second).reshape(-1, 2),
        similarity=torch.full((len(first),), 0.9),
        reference_shape=shape,
        target_shape=(8, 8),
        reason="" if score else "nothing found",
    )


# --- Verdicts


def verdict(first="a", second="b", said="same", **options):
    return Verdict(first=first, second=second, verdict=said, **options)


def test_the_last_verdict_on_a_pair_counts(tmp_path: Path) -> None:
    file = VerdictFile(tmp_path / "verdicts.jsonl")
    assert file.history() == [] == file.current()
    given = [
        verdict(),
        verdict("c", NASTY, "no", who="Ann é"),
        verdict("b", "a", "similar", when="2026-01-02T03:04:05Z"),
    ]
    given.append(verdict(said="no", box=(1, 2, 3.5, 4)))
    for each in given:
        file.add(each)
    assert VerdictFile(file.path).history() == given
    assert file.current() == [given[2], given[1], given[3]], "what was said of a detail is not said of the pictures"
    assert len(file.path.read_text().splitlines()) == 4


def test_a_torn_last_line_is_passed_over_and_does_not_swallow_the_next(tmp_path: Path, caplog) -> None:
    file = VerdictFile(tmp_path / "verdicts.jsonl")
    file.add(verdict())
    whole = file.path.read_bytes()
    for cut in range(1, len(whole) - 1):
        file.path.write_bytes(whole + whole[:cut])
        assert file.history() == [verdict()]
        file.add(verdict("c", "d"))
        assert file.history() == [verdict(), verdict("c", "d")], "the torn line stays on its own"
    assert "line 2 is torn" in caplog.text
    file.path.write_bytes(whole.rstrip(b"\n"))
    file.add(verdict("c", "d"))
    assert file.history() == [verdict(), verdict("c", "d")], "only the end of the line was missing"


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"first": "a", "second": "b", "verdict": "no", "box": [1e999, 1, 2, 3]}',
        b'{"first": "a", "second": "b", "verdict": "no", "box": [1' + b"0" * 400 + b", 1, 2, 3]}",
    ],
)
def test_a_hostile_line_is_passed_over_or_refused(tmp_path: Path, line: bytes) -> None:
    file = VerdictFile(tmp_path / "verdicts.jsonl")
    file.path.write_bytes(line + b"\n")
    if line.startswith(b"["):
        assert file.history() == []
    else:
        with pytest.raises(DatasetError, match="line 1 is no verdict"):
            file.history()


def test_torn_lines_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = VerdictFile(tmp_path / "verdicts.jsonl")
    file.path.write_bytes(b"x\n" * 5000)
    assert file.history() == []
    assert len(caplog.records) == 1 and "line 1 is torn and 4999 more" in caplog.text


def _write_many(path: str, name: str) -> None:
    file = VerdictFile(path)
    for number in range(100):
        file.add(verdict(name, f"{number}" * 50))


def test_lines_of_two_processes_do_not_mix(tmp_path: Path) -> None:
    path = str(tmp_path / "verdicts.jsonl")
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(path, name)) for name in "xy"]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    found = VerdictFile(path).history()
    for name in "xy":
        assert [each.second for each in found if each.first == name] == [f"{number}" * 50 for number in range(100)]


def test_what_is_no_verdict_is_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"verdict": "maybe"}, "'maybe' must be one of 'same', 'similar', 'no'"),
        ({"second": ""}, "about two pictures"),
        ({"when": "yesterday"}, "ISO 8601"),
        ({"box": (1, 2, 3)}, "must be left, top, right, bottom"),
    ):
        with pytest.raises(ConfigError, match=message):
            Verdict(**{"first": "a", "second": "b", "verdict": "no"} | options)
    file = VerdictFile(tmp_path / "verdicts.jsonl")
    file.path.write_text('{"first": "a", "second": "b", "verdict": "no"}\n{"first": "a", "other": 1}\n')
    with pytest.raises(DatasetError, match="line 2 is no verdict"):
        file.history()
    with pytest.raises(ArtModelsError, match="could not write the verdict"):
        VerdictFile(tmp_path / "none" / "verdicts.jsonl").add(verdict())
    with pytest.raises(DatasetError, match="cannot be read"):
        VerdictFile(tmp_path).history()


def scored(positive, negative):
    scores = {(f"p{n}", "q"): score for n, score in enumerate(positive)} | {
        ("q", f"n{n}"): score for n, score in enumerate(negative)
    }
    given = [verdict("q", f"p{n}") for n in range(len(positive))]
    return scores, given + [verdict("q", f"n{n}", "no") for n in range(len(negative))]


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_calibration_of_scores_that_part(method: str) -> None:
    scores, given = scored(np.linspace(0.2, 0.4, 10), np.linspace(0.01, 0.1, 30))
    found = calibrate(scores, given, method=method)
    assert 0.1 < found.threshold < 0.2 and (found.positives, found.negatives) == (10, 30)
    low, middle, high = found.probability([0.01, found.threshold, 0.4])
    assert low < 0.1 and middle == pytest.approx(0.5) and high > 0.9
    assert calibrate(scores, given, method=method, precision=0.6).threshold > found.threshold
    assert found.probability(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_calibration_of_scores_that_overlap(method: str) -> None:
    random = np.random.default_rng(0)
    scores, given = scored(random.normal(1, 1, 4000), random.normal(-1, 1, 4000))
    found = calibrate(scores, given, method=method)
    # Two normal distributions at +-1: the probability is a sigmoid of 2 x.
    x = np.array([-1.5, -0.5, 0.0, 0.5, 1.5])
    assert np.allclose(found.probability(x), 1 / (1 + np.exp(-2 * x)), atol=0.03 if method == "logistic" else 0.08)
    assert abs(found.threshold) < (0.06 if method == "logistic" else 0.2)
    assert (np.diff(found.probability(np.linspace(-5, 5, 200))) >= 0).all()


def test_isotonic_calibration_is_the_regression() -> None:
    random = np.random.default_rng(1)
    positive, negative = random.normal(1, 1, 40), random.normal(0, 1, 40)
    found = calibrate(*scored(positive, negative), method="isotonic")
    expected = IsotonicRegression(out_of_bounds="clip").fit(np.concatenate([positive, negative]), [1] * 40 + [0] * 40)
    x = np.linspace(-4, 5, 50)
    assert np.allclose(found.probability(x), expected.predict(x))


def test_both_kinds_count_alike_and_similar_is_as_asked() -> None:
    positive, negative = np.linspace(0.2, 0.4, 8), np.linspace(0.1, 0.3, 8)
    once = calibrate(*scored(positive, negative))
    often = calibrate(*scored(positive, np.tile(negative, 20)))
    assert once.threshold == pytest.approx(0.25, abs=0.005) and often.threshold == pytest.approx(0.25, abs=0.03)
    scores, given = scored(positive, negative)
    similar = [verdict("q", f"s{n}", "similar") for n in range(6)]
    scores |= {("s" + str(n), "q"): 0.35 for n in range(6)}
    assert calibrate(scores, given + similar).negatives == 14
    assert calibrate(scores, given + similar, similar=True).positives == 14


def test_what_cannot_be_calibrated_is_said() -> None:
    for positive, negative, message in (
        ([0.1] * 9, [], "of what has a score 9 are judged the same and 0 not; judge at least 5 of each"),
        ([0.3] * 4, [0.1] * 9, "score 4 are judged the same and 9 not"),
        ([0.1] * 5, [0.3] * 5, "cannot tell them apart"),
        ([0.1] * 5, [0.1] * 5, "cannot tell them apart"),
        ([float("inf")] * 5, [0.1] * 5, "5 scores of judged pairs are not finite"),
    ):
        with pytest.raises(DatasetError, match=message):
            calibrate(*scored(positive, negative))
    with pytest.raises(DatasetError, match="score 0 are judged"):
        calibrate({}, scored([0.1] * 5, [0.2] * 5)[1])
    scores, given = scored([0.3] * 5, [0.1] * 5)
    with pytest.raises(ConfigError, match="method='forest'"):
        calibrate(scores, given, method="forest")
    with pytest.raises(ConfigError, match="precision=1"):
        calibrate(scores, given, precision=1)
    mixed = scored([0.5, 0.5, 0.5, 0.5, 0.5, 0.1], [0.5, 0.5, 0.1, 0.1, 0.1])
    assert calibrate(*mixed, method="isotonic", precision=0.99).threshold == np.inf, "no score is that sure"


def test_verdicts_reach_pairs_and_training() -> None:
    given = [verdict("b", "a", "no"), verdict("c", "a", "similar"), verdict("a", "c", "no", box=(0, 0, 5, 5))]
    pairs = [Pair("a", "b", match()), Pair("a", "c", match()), Pair("a", "d", match(), verdict="same")]
    assert [each.verdict for each in judged(pairs, given)] == ["no", "similar", "same"]
    assert hard_negatives([*given, verdict("a", "b", "no")]) == [verdict("a", "b", "no"), given[2]]
    assert hard_negatives([*given, verdict("a", "b")]) == [given[2]], "somebody thought again"
    assert hard_negatives([]) == []


# --- Exports


def rows_of(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_hits_as_a_table() -> None:
    hits = [Hit(NASTY, (0.1, 2.0, 30.25, 4.0), 1 / 3, "mirror 90"), Hit("=1+1.jpg", (0, 0, 1, 1), -0.5)]
    header, first, second = rows_of(hits_csv(hits))
    assert tuple(header) == HIT_COLUMNS and first == [
        "1",
        NASTY,
        "0.1",
        "2.0",
        "30.25",
        "4.0",
        str(1 / 3),
        "mirror 90",
        "False",
    ]
    assert second[1] == "'=1+1.jpg" and second[6] == "-0.5", "numbers stay numbers"
    assert rows_of(hits_csv([])) == [list(HIT_COLUMNS)]


def test_hits_as_json() -> None:
    hits = [Hit(NASTY, (1, 2, 3, 4), 0.5, "", match()), Hit("b", (1.5, 2, 3, 4), 0.25, "180")]
    config = DiscoveryConfig()
    found = json.loads(json.dumps(hits_json(hits, query="q", box=(1, 2, 3, 4), model="abc", parameters=config)))
    assert found["model"] == "abc" and found["parameters"]["seed"] == config.seed
    assert found["query"] == {"image": "q", "box": [1, 2, 3, 4]}
    one, other = found["hits"]
    assert one["image"] == NASTY and one["match"]["reference_cells"] == [[2, 3], [4, 6]]
    assert one["match"]["similarity"] == [0.9, 0.9] and one["match"]["transform"] == torch.eye(3).tolist()
    assert other == {"rank": 2, "image": "b", "box": [1.5, 2, 3, 4], "score": 0.25, "view": "180", "closer": False}
    assert hits_json([], query="q", box=(0, 0, 1, 1), model="")["hits"] == []
    for wrong in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(ConfigError, match="cannot be written as JSON"):
            hits_json([], query="q", box=(0, 0, 1, 1), model="", parameters=wrong)


def test_hits_as_annotations() -> None:
    hits = [
        Hit("a.jpg", (10.2, 20.0, 30.7, 40.0), 0.5),
        Hit("b.jpg", (-3, 0, 200, 50), 0.4),
        Hit("a.jpg", (0, 0, 5, 5), 0.1),
    ]
    options = {"canvas": lambda name: f"https://x.org/{name}/canvas", "page": lambda name: f"https://x.org/{name}/page"}
    pages = hits_annotations(hits, {"a.jpg": (100, 80), "b.jpg": (100, 80)}, label="a hand", **options)
    assert [item["target"] for item in pages["a.jpg"]["items"]] == [
        "https://x.org/a.jpg/canvas#xywh=10,20,21,20",
        "https://x.org/a.jpg/canvas#xywh=0,0,5,5",
    ]
    assert pages["b.jpg"]["items"][0]["target"].endswith("#xywh=0,0,100,50"), "cut at the border"
    assert pages["a.jpg"]["type"] == "AnnotationPage" and pages["a.jpg"]["id"] == "https://x.org/a.jpg/page"
    assert [body["value"] for body in pages["a.jpg"]["items"][0]["body"]] == ["a hand", "score 0.5"]
    assert hits_annotations([], {}, label="x", **options) == {}
    with pytest.raises(ConfigError, match="the size of 'a.jpg' is not known"):
        hits_annotations(hits, {}, label="x", **options)


SIZES = {"a": (200, 100), "b": (80, 160), "c": (100, 100)}


def test_boxes_of_a_pair_surround_its_cells_in_the_picture_as_it_is() -> None:
    # Rows 2 to 4 of 10 and columns 3 to 6 of 20; in the second rows 1 to 2 and columns 1 to 4 of 8.
    first, second = pair_boxes(Pair("a", "b", match()), SIZES)
    assert first == pytest.approx((30, 20, 70, 50)) and second == pytest.approx((10, 20, 50, 60))
    for view, (mirrored, quarters) in VIEWS.items():
        seen = np.zeros((8, 8))
        seen[1:3, 1:5] = 1
        back = np.rot90(seen, -quarters)
        back = back[:, ::-1] if mirrored else back
        rows, columns = np.nonzero(back)
        expected = columns.min() * 10, rows.min() * 20, (columns.max() + 1) * 10, (rows.max() + 1) * 20
        assert pair_boxes(Pair("a", "b", match(), view), SIZES)[1] == pytest.approx(expected, abs=1e-4), view
    with pytest.raises(ConfigError, match=r"no cell of 'a' and 'b' survived \(nothing found\)"):
        pair_boxes(Pair("a", "b", match((), (), score=0.0)), SIZES)


def family():
    pairs = [Pair("a", "b", match(), "mirror", "same"), Pair("c", "b", match(score=0.5), "mirror")]
    return [*pairs, *propagate(pairs)]


def test_pairs_as_a_table_and_json_mark_what_is_propagated() -> None:
    every = family()
    assert len(every) == 3
    header, *rows = rows_of(pairs_csv(every, SIZES))
    assert tuple(header) == PAIR_COLUMNS
    table = [dict(zip(header, row, strict=True)) for row in rows]
    assert [(row["origin"], row["via"], row["verdict"], row["cells"]) for row in table] == [
        ("found", "", "same", "2"),
        ("found", "", "", "2"),
        ("propagated", "b", "", "0"),
    ]
    assert float(table[0]["transform_00"]) == -1 and float(table[0]["transform_02"]) == 1, "the mirror is part of it"
    assert float(table[2]["score"]) == 0.25
    document = json.loads(json.dumps(pairs_json(every, SIZES, model="m", parameters={"threshold": 0.015})))
    assert document["parameters"] == {"threshold": 0.015} and document["images"]["a"] == {"width": 200, "height": 100}
    assert [("match" in entry, entry["origin"]) for entry in document["pairs"]] == [
        (True, "found"),
        (True, "found"),
        (False, "propagated"),
    ]
    assert document["pairs"][0]["first"]["box"] == pytest.approx([30, 20, 70, 50])
    assert rows_of(pairs_csv([], {})) == [list(PAIR_COLUMNS)] and pairs_json([], {}, model="")["pairs"] == []


def test_graphml_reads_back() -> None:
    odd = Pair(NASTY + "\x00", "é=b", match(score=0.75), "90", "similar")
    text = pairs_graphml([*family(), odd], model="m" * 64, parameters={"seed": 3}, clusters={"a": 1, "b": 1})
    graph = nx.parse_graphml(text)
    assert set(graph) == {"a", "b", "c", NASTY + "\ufffd", "é=b"} and graph.number_of_edges() == 4
    assert graph.graph["model"] == "m" * 64 and json.loads(graph.graph["parameters"]) == {"seed": 3}
    assert graph.nodes["a"]["cluster"] == 1 and "cluster" not in graph.nodes["c"]
    edges = {frozenset((a, b)): data for a, b, data in graph.edges(data=True)}
    assert edges[frozenset("ab")]["weight"] == 0.25 and edges[frozenset("ab")]["verdict"] == "same"
    assert edges[frozenset("ac")]["origin"] == "propagated" and edges[frozenset("ac")]["via"] == "b"
    assert nx.parse_graphml(pairs_graphml([], model="")).number_of_nodes() == 0


def test_pairs_as_annotations_name_the_other_picture() -> None:
    pages = pairs_annotations(
        family(), SIZES, canvas=lambda name: f"https://x.org/{name}", page=lambda name: f"https://x.org/{name}/p"
    )
    assert set(pages) == {"a", "b", "c"}
    assert pages["a"]["items"][0]["target"] == "https://x.org/a#xywh=30,20,40,30"
    assert pages["a"]["items"][0]["body"][0]["value"] == "b"
    assert pages["b"]["items"][0]["target"] == "https://x.org/b#xywh=30,20,40,40", "mirrored back"
    assert pages["a"]["items"][1]["body"][0]["value"] == "c (propagated via b)"


# --- The report


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def scene(size=(160, 120), seed=0):
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


BOX = (40.0, 30.0, 104.0, 78.0)


def copy_of(picture, view):
    """A picture of which the view is this one."""
    mirrored, quarters = VIEWS[view]
    back = np.rot90(np.asarray(picture), -quarters)
    return Image.fromarray(np.ascontiguousarray(back[:, ::-1] if mirrored else back))


def to_box(width, height):
    """From relative coordinates of a picture to those of the box in it."""
    scale = [width / (BOX[2] - BOX[0]), height / (BOX[3] - BOX[1])]
    return [[scale[0], 0, -BOX[0] / width * scale[0]], [0, scale[1], -BOX[1] / height * scale[1]], [0, 0, 1]]


@pytest.mark.parametrize("view", VIEWS)
def test_the_aligned_crop_is_the_detail(view: str) -> None:
    picture = scene()
    found = Hit("x", (0, 0, 1, 1), 1.0, view, match(transform=to_box(160, 120)))
    crop = aligned(load(copy_of(picture, view)), found, (64, 48))
    expected = np.asarray(picture.crop(tuple(map(int, BOX))), int)
    assert np.abs(np.asarray(crop, int) - expected).max() <= 1, "read at whole pixels, nothing is interpolated"


def test_the_aligned_crop_of_a_larger_copy_is_smooth_and_grey_outside() -> None:
    picture = scene()
    large = picture.resize((640, 480), Image.Resampling.BICUBIC)
    found = Hit("x", (0, 0, 1, 1), 1.0, "", match(transform=to_box(160, 120)))
    crop = np.asarray(aligned(load(large), found, (64, 48)), int)
    assert np.abs(crop - np.asarray(picture.crop(tuple(map(int, BOX))), int)).mean() < 2
    shifted = np.array(to_box(160, 120)) + [[0, 0, 0.75], [0, 0, 0], [0, 0, 0]]
    wide = np.asarray(aligned(load(picture), Hit("x", (0, 0, 1, 1), 1.0, "", match(transform=shifted)), (64, 48)))
    assert (wide[:, :8] == 128).all() and not (wide[:, 8:] == 128).all(2).any(), "40 px of 48 are inside"
    for useless in (
        None,
        match(score=0.0),
        match(transform=torch.zeros(3, 3)),
        match(transform=np.full((3, 3), np.nan)),
    ):
        assert aligned(load(picture), Hit("x", (0, 0, 1, 1), 1.0, "", useless), (64, 48)) is None


def report(hits, store, **options):
    options = {"name": "query.jpg", "model": "f" * 64, "parameters": {"threshold": 0.015}} | options
    return html_report(scene(), BOX, hits, store.__getitem__, **options)


def test_the_report_holds_everything_and_loads_nothing() -> None:
    mirrored = ImageOps.mirror(scene())
    hits = [
        Hit("copy.png", (56, 30, 120, 78), 0.9, "mirror", match(transform=to_box(160, 120))),
        Hit("b", (1, 2, 30, 40), 0.5),
    ]
    page = report(hits, {"copy.png": mirrored, "b": scene(seed=1)}, parameters=DiscoveryConfig())
    found = Page(page)
    assert not found.all("script") and not found.all("link") and not found.all("iframe")
    sources = [each["src"] for each in found.all("img")]
    assert len(sources) == 5 and all(each.startswith("data:image/webp;base64,") for each in sources)
    assert all(each.get("alt") for each in found.all("img"))
    assert not re.search(r"https?://|url\((?!data:)", page.replace('url("data:', "url(data:"))
    assert "default-src 'none'" in page and "prefers-reduced-motion" in page
    facts = "score 0.9000", "2 cells correspond", "2 places found", "iterations"
    for text in ("copy.png", "query.jpg", "f" * 64, *facts):
        assert text in found.text, text
    crops = [Image.open(io.BytesIO(base64.b64decode(each.split(",")[1]))) for each in sources]
    assert [each.size for each in crops] == [(160, 120), (320, 240), (160, 120), (244, 320), (160, 120)]
    original = scene().crop(tuple(map(int, BOX))).resize((320, 240), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(crops[1], int) - np.asarray(original, int)).mean() < 8, "aligned, though it is mirrored"
    # The box on the whole picture, in shares of it.
    paths = [each["d"] for each in found.all("path")]
    assert paths[0] == paths[1] == "M0.25000 0.25000H0.65000V0.65000H0.25000Z"
    assert paths[2] == "M0.35000 0.25000H0.75000V0.65000H0.35000Z"
    (polygon,) = found.all("polygon")
    corners = np.array([each.split(",") for each in polygon["points"].split()], float)
    assert np.allclose(corners, [[0.75, 0.25], [0.35, 0.25], [0.35, 0.65], [0.75, 0.65]], atol=1e-4)
    assert page == report(hits, {"copy.png": mirrored, "b": scene(seed=1)}, parameters=DiscoveryConfig())


def test_the_report_escapes_whatever_comes_from_outside() -> None:
    evil = '"><script>alert(1)</script>{0}</style>&amp;'
    page = report(
        [Hit(evil, (1, 2, 30, 40), 0.5, ""), Hit(evil + "?", (1, 2, 30, 40), 0.5, "")],
        {evil: scene(), evil + "?": b"<script>alert(2)</script>"},
        name=evil,
        model=evil,
        title=evil,
        parameters={evil: evil},
    )
    found = Page(page)
    assert not found.all("script") and page.count("</style>") == 1 and page.count("<script") == 0
    assert found.text.count(evil) == 8, "title and parameter twice, name, model, and both hits"
    assert f"Hit 1: {evil}, the whole picture with the place marked" in [each["alt"] for each in found.all("img")]
    assert "The picture cannot be read" in found.text


def test_the_report_is_bounded_and_says_what_it_leaves_out() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8))
    hits = [Hit("noise", (1, 2, 1500, 1400), 0.5) for _ in range(30)]
    page = report(hits, {"noise": noise}, most=3)
    assert "30 places found, the best 3 are shown" in page and page.count("<article>") == 3
    assert len(page) < 3 * 400_000, "noise is the worst there is"
    empty = Page(report([], {}))
    assert "0 places found" in empty.text and "No place was found" in empty.text
    with pytest.raises(ConfigError, match="most=0"):
        report([], {}, most=0)
    with pytest.raises(ConfigError, match="lies outside"):
        html_report(scene(), (500, 500, 600, 600), [], {}.get, name="x", model="y")


def test_a_crop_without_a_match_is_shown_as_its_view() -> None:
    picture = scene()
    for view in VIEWS:
        # The box of the picture that the view shows as BOX.
        back = from_view(view).numpy()
        corners = back @ np.array([[0.25, 0.65], [0.25, 0.65], [1, 1]])
        turned = copy_of(picture, view)
        x, y = corners[0] * turned.width, corners[1] * turned.height
        page = report([Hit("x", (x.min(), y.min(), x.max(), y.max()), 0.5, view)], {"x": turned})
        crop = Image.open(io.BytesIO(base64.b64decode(Page(page).all("img")[1]["src"].split(",")[1])))
        expected = picture.crop(tuple(map(int, BOX))).resize(crop.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(crop, int) - np.asarray(expected, int)).mean() < 10, view


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: apt-get install chromium")
def test_the_report_works_in_a_browser_without_scripts(browser, tmp_path: Path) -> None:
    hits = [Hit(NASTY, (56, 30, 120, 78), 0.9, "", match(transform=to_box(160, 120))), Hit("b", (1, 2, 30, 40), 0.5)]
    file = tmp_path / "report.html"
    file.write_text(report(hits, {NASTY: scene(), "b": scene(seed=1)}), encoding="utf-8")
    opacity = "element => getComputedStyle(element).opacity"
    moving = "element => getComputedStyle(element).animationName"
    phone = {"viewport": {"width": 360, "height": 700}, "offline": True, "java_script_enabled": False}
    page = browser.new_page(**phone)
    said = list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.goto(file.as_uri())
    over = page.locator(".over")
    assert over.count() == 2 and over.first.evaluate(opacity) == "0"
    page.locator("#swap1").check()
    assert (over.first.evaluate(opacity), over.nth(1).evaluate(opacity)) == ("1", "0")
    page.locator("label[for=flicker]").click()
    assert over.nth(1).evaluate(moving) == "flicker"
    assert page.locator("html").evaluate("element => element.scrollWidth") <= 360, "nothing sticks out"
    assert page.locator("article img").first.evaluate("image => image.naturalWidth") == 320
    page.emulate_media(reduced_motion="reduce")
    assert over.nth(1).evaluate(moving) == "none" and not page.locator(".motion").is_visible()
    assert said == []
    page.close()
