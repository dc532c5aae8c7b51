"""The protocols of Brueghel, LTLL and Oxford5K on examples worked by hand, and the real Brueghel annotation."""

import json
from pathlib import Path

import numpy as np
import pytest

from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.artminer.evaluation.brueghel import (
    Instance,
    average_precision,
    hold_out,
    leaks,
    read_queries,
    score,
)
from artmodels.methods.artminer.evaluation.landmarks import (
    oxford_average_precision,
    oxford_released_precision,
    read_ltll,
    read_oxford,
    top_1_accuracy,
)
from artmodels.methods.artminer.evaluation.published import PUBLISHED, published_table
from artmodels.methods.artminer.oneshot import Hit

BRUEGHEL = Path(__file__).parents[4] / "shared" / "data" / "brueghel"
A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (0.0, 20.0, 10.0, 30.0)


def layout(**categories: list[tuple[str, tuple]]) -> dict:
    return {
        name: [
            {"query": [image, list(box)], "gt": [[i, list(b)] for i, b in places if i != image]}
            for image, box in places
        ]
        for name, places in categories.items()
    }


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# --- average precision


def test_a_ranking_by_hand():
    truth = [Instance("one", A), Instance("two", B), Instance("three", C)]
    # Wrong image; hit; the same once more; overlap too small; hit. The third instance is never found.
    images = ["three", "one", "one", "two", "two"]
    boxes = [A, A, (0, 0, 10, 9), A, B]
    assert average_precision(images, boxes, truth) == pytest.approx((1 / 2 + 2 / 5) / 3, abs=1e-12)
    assert average_precision([], [], truth) == 0


@pytest.mark.parametrize("sides, hit", [((0, 0, 10, 3), 0.0), ((0, 0, 10, 3.0001), 1.0), ((0, 0, 100, 3), 0.0)])
def test_an_overlap_of_exactly_the_threshold_does_not_count(sides, hit):
    assert average_precision(["one"], [sides], [Instance("one", A)]) == hit


def test_the_threshold_can_be_set():
    found = [average_precision(["one"], [(0, 0, 10, 5)], [Instance("one", A)], overlap=o) for o in (0.3, 0.49, 0.5)]
    assert found == [1, 1, 0]


def test_predictions_after_the_thousandth_are_cut_off():
    truth = [Instance("one", A)]
    images, boxes = ["other"] * 999 + ["one"], [A] * 1000
    assert average_precision(images, boxes, truth) == pytest.approx(1 / 1000)
    assert average_precision(["other", *images], [A, *boxes], truth) == 0
    assert average_precision(["other", *images], [A, *boxes], truth, predictions=1001) == pytest.approx(1 / 1001)


def test_of_two_instances_in_an_image_each_is_taken_once():
    near = (4.0, 0.0, 14.0, 10.0)  # overlaps A by 6 / 14
    truth = [Instance("one", A), Instance("one", near)]
    # The best overlap is taken first, then the one that is left.
    assert average_precision(["one", "one"], [near, near], truth) == 1
    assert average_precision(["one", "one", "one"], [B, near, near], truth) == pytest.approx((1 / 2 + 2 / 3) / 2)


def slow_average_precision(images, boxes, truth, overlap) -> float:
    used, hits, total = set(), 0, 0.0
    for rank, (image, box) in enumerate(zip(images, boxes, strict=True), start=1):
        best, which = overlap, None
        for number, place in enumerate(truth):
            if number in used or place.image != image:
                continue
            wide = min(box[2], place.box[2]) - max(box[0], place.box[0])
            high = min(box[3], place.box[3]) - max(box[1], place.box[1])
            common = max(wide, 0) * max(high, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, place.box)]
            if common / (sum(areas) - common) > best:
                best, which = common / (sum(areas) - common), number
        if which is not None:
            used.add(which)
            hits += 1
            total += hits / rank
    return total / len(truth)


def test_it_equals_loops_on_random_rankings():
    random = np.random.default_rng(0)

    def boxes(count: int) -> list[tuple]:
        corners = random.integers(0, 20, (count, 2))
        return [tuple(map(float, row)) for row in np.hstack([corners, corners + random.integers(5, 20, (count, 2))])]

    values = []
    for _ in range(20):
        truth = [Instance(f"{random.integers(4)}", box) for box in boxes(6)]
        images, found = [f"{number}" for number in random.integers(0, 4, 80)], boxes(80)
        values.append(average_precision(images, found, truth))
        assert values[-1] == pytest.approx(slow_average_precision(images, found, truth, 0.3), abs=1e-12)
    assert 0 < min(values) < max(values) < 1


def test_wrong_input_of_a_ranking_is_refused():
    with pytest.raises(ConfigError, match="nothing to find"):
        average_precision(["one"], [A], [])
    with pytest.raises(ConfigError, match="overlap=1"):
        average_precision(["one"], [A], [Instance("one", A)], overlap=1)
    with pytest.raises(DatasetError, match="2 image names and 1 boxes"):
        average_precision(["one", "two"], [A], [Instance("one", A)])


# --- the queries


def test_both_means_and_the_own_image_is_not_searched(tmp_path):
    content = layout(x=[("1", A), ("2", B)], y=[("1", C), ("3", A), ("4", A)])
    queries = read_queries(write(tmp_path / "q.json", content))
    right = [Hit("2", B, 0.1)], [Hit("2", B, 0.9), Hit("1", A, 0.8)]  # the second one's own image comes first
    wrong = [[], [Hit("1", C, 0.5)], [Hit("3", A, 1.0)]]
    scores = score(queries, [*right, *wrong])
    assert scores.ap.tolist() == [1, 1, 0, 0.5, 0.5]
    assert scores.by_category == {"x": 1.0, "y": pytest.approx(1 / 3)}
    assert scores.mean == pytest.approx(3 / 5)
    assert scores.category_mean == pytest.approx(2 / 3)


def test_predictions_are_ranked_by_their_score(tmp_path):
    queries = read_queries(write(tmp_path / "q.json", {"x": [{"query": ["1", list(A)], "gt": [["2", list(B)]]}]}))
    assert score(queries, [[Hit("2", A, 0.2), Hit("2", B, 0.7)]]).mean == 1
    assert score(queries, [[Hit("2", A, 0.7), Hit("2", B, 0.7)]]).mean == 0.5  # equal: the first comes first
    assert score(queries, [[Hit("2", A, 0.7), Hit("2", B, 0.2)]], limit=1).mean == 0
    with pytest.raises(DatasetError, match="a score for 1 of category x is not finite"):
        score(queries, [[Hit("2", B, float("nan"))]])
    with pytest.raises(ConfigError, match="0 lists of predictions for 1 queries"):
        score(queries, [])


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", r"q\.json is not JSON"),
        ([], "holds a list where an object is expected"),
        ({}, "holds no query"),
        ({"x": 3}, "category 'x' is no list"),
        ({"x": [{"query": ["1", [0, 0, 1, 1]]}]}, "query 0 of category 'x' is not"),
        ({"x": [{"query": ["1", [0, 0, 1, 1]], "gt": []}]}, "query 0 of category 'x' has no ground truth"),
        ({"x": [{"query": ["1", [5, 0, 1, 1]], "gt": [["2", [0, 0, 1, 1]]]}]}, r"names \['1', \[5, 0, 1, 1\]\]"),
        ({"x": [{"query": ["1", [0, 0, 1, 1]], "gt": [["2", [0, 0, 1]]]}]}, r"names \['2', \[0, 0, 1\]\]"),
        ({"x": [{"query": ["1", [0, 0, 1, "1"]], "gt": [["2", [0, 0, 1, 1]]]}]}, "names"),
    ],
)
def test_odd_files_are_refused(tmp_path, content, message):
    with pytest.raises(DatasetError, match=message):
        read_queries(write(tmp_path / "q.json", content))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.json cannot be read"):
        read_queries(tmp_path / "none.json")
    file = write(tmp_path / "q.json", layout(x=[("1.png", A), ("2.png", B), ("3.png", B)]))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "2.png").touch()
    with pytest.raises(DatasetError, match=r"2 of 3 images of q\.json are not in .*images: 1\.png, 3\.png\."):
        read_queries(file, tmp_path / "images")
    with pytest.raises(DatasetError, match="there is no folder"):
        read_queries(file, tmp_path / "elsewhere")
    for name in ("1.png", "3.png"):
        (tmp_path / "images" / name).touch()
    assert read_queries(file, tmp_path / "images").images == ("1.png", "2.png", "3.png")


def test_held_out_categories_leak_nothing(tmp_path):
    places = [("1", A), ("2", B)]
    queries = read_queries(write(tmp_path / "q.json", layout(x=places, y=places, z=places)))
    tuning, test = hold_out(queries, ["y"])
    assert (tuning.categories, test.categories) == (("y",), ("x", "z"))
    assert str(leaks(test, tuning)) == "None of the 4 test queries, and no category, is in the validation set."
    shared = leaks(queries, tuning)
    assert (len(shared.queries), shared.categories) == (2, ("y",))
    assert str(shared).startswith("2 of the 6 test queries are in the validation set too, and 1 categories")
    counted = hold_out(queries, 2)
    assert [len(part.categories) for part in counted] == [2, 1]
    assert counted == hold_out(queries, 2)
    for wrong, message in ((["w"], "no category w; there are x, y, z"), (3, "leave one side empty"), ([], "one side")):
        with pytest.raises(ConfigError, match=message):
            hold_out(queries, wrong)


@pytest.mark.skipif(not BRUEGHEL.is_dir(), reason="../shared/data/brueghel is not beside the repository")
def test_the_real_annotation():
    test, validation = (read_queries(BRUEGHEL / f"brueghel{part}.json") for part in ("Test", "Val"))
    assert (len(test.queries), len(test.images), len(test.categories)) == (273, 146, 10)
    assert {len(query.truth) for query in test.queries if query.category == "888"} == {56}
    shared = leaks(test, validation)
    assert (len(shared.queries), len(shared.categories)) == (20, 10)
    tuning, held_out = hold_out(test, 3)
    assert len(tuning.queries) + len(held_out.queries) == 273
    assert not leaks(held_out, tuning).categories
    # Both means of a perfect search are 1, and of one that is right in a single category they differ.
    perfect = score(test, [[Hit(place.image, place.box, 1.0) for place in query.truth] for query in test.queries])
    assert perfect.mean == perfect.category_mean == pytest.approx(1)
    largest = [[Hit(p.image, p.box, 1.0) for p in q.truth if q.category == "888"] for q in test.queries]
    partial = score(test, largest)
    assert (partial.mean, partial.category_mean) == (pytest.approx(57 / 273), pytest.approx(1 / 10))


# --- LTLL


def test_ltll(tmp_path):
    labels = {"o1": "tower", "o2": "gate", "o3": "tower", "n1": "tower", "n2": "gate"}
    content = {"test": ["o1", "o2", "o3"], "searchImg": ["n1", "n2"], "anno": labels, "val": ["o1"]}
    found = read_ltll(write(tmp_path / "l.json", content))
    assert found.queries == {"o1": "tower", "o2": "gate", "o3": "tower"}
    best = {"o1": "n1", "o2": "n1", "o3": "n1"}
    assert top_1_accuracy(found, best) == pytest.approx(2 / 3)
    assert top_1_accuracy(found, best, without_validation=True) == pytest.approx(1 / 2)
    with pytest.raises(DatasetError, match="1 of 3 queries have no answer: o3"):
        top_1_accuracy(found, {"o1": "n1", "o2": "n1"})
    with pytest.raises(DatasetError, match="1 answers are not in the database: o2"):
        top_1_accuracy(found, best | {"o1": "o2"})
    with pytest.raises(DatasetError, match="1 images have no landmark: n3"):
        read_ltll(write(tmp_path / "l.json", content | {"searchImg": ["n1", "n3"]}))
    with pytest.raises(DatasetError, match='needs lists "test"'):
        read_ltll(write(tmp_path / "l.json", {"test": ["o1"], "anno": labels}))


# --- Oxford5K


def oxford(folder: Path, **parts: str) -> Path:
    texts = {"query": "oxc1_q 1 2 30.5 40", "good": "a\n", "ok": "b\n", "junk": "j\n"} | parts
    for part, text in texts.items():
        write(folder / f"tower_1_{part}.txt", text)
    return folder


def test_oxford_by_hand(tmp_path):
    (query,) = read_oxford(oxford(tmp_path))
    assert (query.name, query.image, query.box) == ("tower_1", "q", (1, 2, 30.5, 40))
    ranking = ["j", "a", "x", "b"]
    # Without the junk: a, x, b. From recall 0 to 1/2 the precision is 1 and 1, from 1/2 to 1 it is 1/2 and 2/3.
    assert oxford_average_precision(query, ranking) == pytest.approx((1 + 1) / 2 / 2 + (1 / 2 + 2 / 3) / 2 / 2)
    assert oxford_released_precision(query, ranking) == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert oxford_average_precision(query, ["a", "b", "j"]) == oxford_released_precision(query, ["a", "b", "j"]) == 1
    # A positive that is not ranked counts for nothing; a wrong start halves the first trapezium.
    assert oxford_average_precision(query, ["x", "a"]) == pytest.approx((0 + 1 / 2) / 2 / 2)
    assert oxford_average_precision(query, []) == oxford_released_precision(query, ["x"]) == 0
    with pytest.raises(DatasetError, match="pictures twice: a"):
        oxford_average_precision(query, ["a", "x", "a"])


def slow_official(positives: set, junk: set, ranking: list) -> float:
    old_recall, old_precision, found, seen, total = 0.0, 1.0, 0, 0, 0.0
    for name in ranking:
        if name in junk:
            continue
        found += name in positives
        seen += 1
        recall, precision = found / len(positives), found / seen
        total += (recall - old_recall) * (old_precision + precision) / 2
        old_recall, old_precision = recall, precision
    return total


def test_oxford_equals_the_loop_over_ranks(tmp_path):
    (query,) = read_oxford(oxford(tmp_path, good="0\n1\n2", ok="3\n4", junk="5 6 7"))
    random = np.random.default_rng(1)
    for _ in range(20):
        ranking = [str(number) for number in random.permutation(30)]
        expected = slow_official({*"01234"}, {*"567"}, ranking)
        assert oxford_average_precision(query, ranking) == pytest.approx(expected, abs=1e-12)


def test_odd_oxford_folders_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="there is no NAME_query.txt"):
        read_oxford(tmp_path)
    oxford(tmp_path)
    (tmp_path / "tower_1_junk.txt").unlink()
    with pytest.raises(DatasetError, match=r"tower_1_junk\.txt cannot be read"):
        read_oxford(tmp_path)
    for text, message in (("", "not one line"), ("q 1 2 3", "not one line"), ("q 5 2 3 4", "has no area")):
        with pytest.raises(DatasetError, match=message):
            read_oxford(oxford(tmp_path, query=text))
    with pytest.raises(DatasetError, match="no good and no ok"):
        read_oxford(oxford(tmp_path, good="", ok=""))


# --- the published figures


def test_ours_stand_beside_the_published_ones():
    ours = {("ResNet-18, ImageNet", "cosine"): 0.5, ("art-resnet", "cosine"): 0.61}
    table = published_table("Brueghel", ours, network="art-resnet on copies")
    assert "| ResNet-18, ImageNet | cosine | 58.0 | 50.0 | art-resnet on copies |   |" in table
    assert "| art-resnet | cosine | - | 61.0 | art-resnet on copies |   |" in table
    assert "| ResNet-18, context prediction (Doersch) | discovery | 64.29 | - | - |   |" in table
    assert len({line.count("|") for line in table.splitlines()[2:]}) == 1
    assert "| Fernando et al. |   | 56.1 | - | - |   |" in published_table("LTLL")


def test_what_is_remembered_is_marked_and_not_quoted():
    remembered = [row for row in PUBLISHED if "from memory" in row.note]
    assert [row.value for row in remembered] == [None, None]
    assert all(row.value is not None for row in PUBLISHED if row not in remembered)
    assert "LTLL | cosine | - | - | - | from memory, unverified: not quoted |" in published_table("Brueghel")


def test_wrong_figures_are_refused():
    for arguments, message in (
        (("Paris6K",), "nothing is published on 'Paris6K'"),
        (("LTLL", {("a", "b"): 0.5}), "together with the network"),
    ):
        with pytest.raises(ConfigError, match=message):
            published_table(*arguments)
    with pytest.raises(ConfigError, match="61 is no share"):
        published_table("LTLL", {("a", "b"): 61}, network="n")
