"""Average precision against examples worked by hand and against plain loops."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score

from artmodels.data.labelled import Box, Item, LabelledSet
from artmodels.detections.annotations import Detections
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.mimax.evaluation import evaluate
from artmodels.methods.mimax.evaluation.evaluate import (
    average_precision,
    classification_scores,
    detection_scores,
    hits,
    over_runs,
    precision_at,
    transfer_scores,
)

SIDE = 100


def detections(image: str, *rows) -> Detections:
    """Each row is left, top, right, bottom, score, label."""
    return Detections(
        image=image,
        width=SIDE,
        height=SIDE,
        boxes=[row[:4] for row in rows],
        scores=[row[4] for row in rows],
        labels=tuple(row[5] for row in rows),
    )


def item(name: str, *boxes: Box, boxed: bool = True) -> Item:
    return Item(path=Path(name), boxes=boxes, labels=frozenset(box.label for box in boxes), boxed=boxed)


def slow_overlap(a, b, plus_one: bool) -> float:
    extra = 1 if plus_one else 0
    width = min(a[2], b[2]) - max(a[0], b[0]) + extra
    height = min(a[3], b[3]) - max(a[1], b[1]) + extra
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_ap(found, truth, iou: float, plus_one: bool) -> float:
    """As the protocol says it, one detection after the other; the area from the definition, one recall at a time."""
    boxes, scores, images = found
    true_boxes, true_images, difficult = truth
    taken, marks = set(), []
    for number in sorted(range(len(boxes)), key=lambda number: -scores[number]):
        best, overlap = None, 0.0
        for other in range(len(true_boxes)):
            if true_images[other] == images[number]:
                value = slow_overlap(boxes[number], true_boxes[other], plus_one)
                if value > overlap:
                    best, overlap = other, value
        if best is None or not overlap > iou:
            marks.append(False)
        elif difficult[best]:
            continue
        else:
            marks.append(best not in taken)
            taken.add(best)
    positives = sum(not flag for flag in difficult)
    if not positives:
        return math.nan
    points = [(sum(marks[:n]) / positives, sum(marks[:n]) / n) for n in range(1, len(marks) + 1)]
    area, last = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        area += (recall - last) * max(precision for other, precision in points if other >= recall)
        last = recall
    return area


def scene(seed: int, images: int = 4, found: int = 40, true: int = 12):
    """Random boxes on a coarse grid, so that overlaps and scores are often equal; some images have no truth."""
    rng = np.random.default_rng(seed)

    def draw(count: int) -> np.ndarray:
        corners = rng.integers(0, 6, (count, 2)) * 4
        return np.concatenate([corners, corners + rng.integers(1, 5, (count, 2)) * 4], axis=1).astype(float)

    ours = (draw(found), rng.integers(0, 8, found) / 8, rng.integers(0, images, found))
    return ours, (draw(true), rng.integers(0, max(images - 1, 1), true), rng.random(true) < 0.25)


# --- one class


def test_ap_worked_by_hand() -> None:
    # Two images, three objects. By falling score: hit, duplicate, hit, outside, hit at an overlap of 0.6.
    true = (np.array([[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10]]), np.array([0, 0, 1]), np.zeros(3, bool))
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [80, 80, 90, 90], [0, 0, 10, 6]])
    found = (boxes, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([0, 0, 0, 0, 1]))
    assert hits(found, true).tolist() == [True, False, True, False, True]
    # Precision at the hits: 1, 2/3, 3/5; it is monotone already.
    assert average_precision(hits(found, true), 3) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    # At an overlap of more than 0.6 the last one misses; "more" is strict.
    assert average_precision(hits(found, true, iou=0.6), 3) == pytest.approx((1 + 2 / 3) / 3)


def test_precision_is_made_monotone() -> None:
    # Precisions 0, 1/2, 2/3: the later, greater one counts for both.
    assert average_precision(np.array([False, True, True]), 2) == pytest.approx(2 / 3)
    assert average_precision(np.array([True, True]), 4) == 0.5
    assert average_precision(np.zeros(0, bool), 2) == 0
    assert math.isnan(average_precision(np.array([False]), 0))


def test_difficult_boxes_count_for_nothing() -> None:
    true = (np.array([[0, 0, 10, 10], [50, 50, 60, 60]]), np.array([0, 0]), np.array([True, False]))
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 4, 10]])
    found = (boxes, np.array([0.9, 0.8, 0.7, 0.6]), np.zeros(4, int))
    # Twice on the difficult one: left out. The last overlaps it too little: wrong.
    assert hits(found, true).tolist() == [True, False]


def test_a_taken_box_is_not_exchanged_for_the_second_best() -> None:
    true = (np.array([[0, 0, 10, 10], [0, 0, 10, 8]]), np.array([0, 0]), np.zeros(2, bool))
    found = (np.array([[0, 0, 10, 10], [0, 0, 10, 10]]), np.array([0.9, 0.8]), np.zeros(2, int))
    assert hits(found, true).tolist() == [True, False]


def test_plus_one_lengthens_sides() -> None:
    # 5 x 10 of 10 x 10: exactly a half without, 6 x 11 of 11 x 11 with.
    true, found = (np.array([[0, 0, 10, 10]]), [0], [False]), (np.array([[0, 0, 5, 10]]), [0.5], [0])
    assert hits(found, true).tolist() == [False]
    assert hits(found, true, plus_one=True).tolist() == [True]


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("iou", [0.0, 0.1, 0.3, 0.5])
def test_ap_against_loops_with_ties_difficult_ones_and_duplicates(iou, plus_one) -> None:
    values = []
    for seed in range(15):
        found, truth = scene(seed)
        ap = average_precision(hits(found, truth, iou=iou, plus_one=plus_one), int((~truth[2]).sum()))
        assert ap == pytest.approx(slow_ap(found, truth, iou, plus_one), abs=1e-12)
        values.append(ap)
    assert len({value for value in values if 0 < value < 1}) > 5


def test_ap_is_the_same_in_small_blocks(monkeypatch) -> None:
    found, truth = scene(5, found=200)
    whole = hits(found, truth, iou=0.3)
    for pairs in (1, 7, 50):
        monkeypatch.setattr(evaluate, "_PAIRS", pairs)
        assert hits(found, truth, iou=0.3).tolist() == whole.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(0, 12))
def test_ap_never_rises_with_the_overlap_asked_for(seed, found_count, true_count) -> None:
    found, truth = scene(seed, found=found_count, true=true_count)
    positives = int((~truth[2]).sum())
    ap = [average_precision(hits(found, truth, iou=iou), positives) for iou in (0.1, 0.3, 0.5)]
    if positives == 0:
        assert np.isnan(ap).all()
    else:
        assert 1 >= ap[0] >= ap[1] >= ap[2] >= 0


def test_hits_refuses_what_does_not_fit() -> None:
    found, truth = scene(0)
    with pytest.raises(ConfigError, match="exceed is 1"):
        hits(found, truth, iou=1)
    with pytest.raises(DatasetError, match="40 boxes, 40 scores, 39 image numbers; true: 12, 12, 12"):
        hits((*found[:2], found[2][:-1]), truth)


def test_precision_at_twenty() -> None:
    labels, scores = np.zeros(50), np.linspace(1, 0, 50)
    labels[[0, 1, 30]] = 1
    assert precision_at(labels, scores) == pytest.approx(2 / 3)  # two of the three that there are
    labels[20:45] = 1
    assert precision_at(labels, scores) == pytest.approx(2 / 20)
    assert math.isnan(precision_at(np.zeros(5), np.arange(5)))


# --- a collection


def test_negatives_count_and_classes_without_truth_do_not() -> None:
    truth = LabelledSet(
        "toy", ("angel", "ruins", "nudity"), (item("a.jpg", Box((0, 0, 10, 10), "angel")), item("negative.jpg"))
    )
    good = detections("in/a.jpg", (0, 0, 10, 10, 0.5, "angel"), (5, 5, 9, 9, 0.9, "dragon"))
    bad = detections("negative.jpg", (0, 0, 10, 10, 0.8, "angel"), (0, 0, 9, 9, 0.1, "ruins"))
    scores = detection_scores([good, detections("negative.jpg")], truth)
    assert scores.ap[:, 0].tolist() == [1, 1, 1]
    assert np.isnan(scores.ap[:, 1:]).all()
    assert scores.mean.tolist() == [1, 1, 1]
    assert scores.images == 2
    # A detection in the negative image that scores higher halves the precision.
    assert detection_scores([good, bad], truth).mean.tolist() == [0.5, 0.5, 0.5]
    nothing = LabelledSet("none", ("angel",), truth.items[1:])
    assert np.isnan(detection_scores([detections("negative.jpg")], nothing).mean).all()


def test_a_collection_is_scored_class_by_class() -> None:
    rng = np.random.default_rng(0)
    classes, items, found = ("a", "b"), [], []
    for number in range(12):
        corners = rng.integers(0, 60, (5, 2))
        boxes = np.concatenate([corners, corners + rng.integers(5, 30, (5, 2))], axis=1).astype(float)
        items.append(item(f"{number}.jpg", *(Box(tuple(box), classes[k % 2], k == 4) for k, box in enumerate(boxes))))
        moved = np.clip(boxes + rng.normal(0, 4, boxes.shape), 0, SIDE)
        moved[:, 2:] = np.maximum(moved[:, :2], moved[:, 2:])
        rows = [(*box, rng.random(), classes[rng.integers(2)]) for box in moved]
        found.append(detections(f"{number}.jpg", *rows))
    scores = detection_scores(found, LabelledSet("toy", classes, tuple(items)), plus_one=True)
    for column, name in enumerate(classes):
        rows = [(*row, i) for i, d in enumerate(found) for row in zip(d.boxes, d.scores, d.labels, strict=True)]
        ours = [(box, score, i) for box, score, label, i in rows if label == name]
        theirs = [(b.xyxy, i, b.difficult) for i, it in enumerate(items) for b in it.boxes if b.label == name]
        for row, iou in enumerate(scores.ious):
            expected = slow_ap(list(zip(*ours, strict=True)), list(zip(*theirs, strict=True)), iou, True)
            assert scores.ap[row, column] == pytest.approx(expected, abs=1e-9)
        assert scores.positives[column] == sum(not flag for _, _, flag in theirs)
    assert scores.mean == pytest.approx(scores.ap.mean(1))


def test_detections_must_stand_beside_their_images() -> None:
    truth = LabelledSet("toy", ("a",), (item("a.jpg"), item("b.jpg", boxed=False)))
    with pytest.raises(DatasetError, match="for 1 images, and 2 images"):
        detection_scores([detections("a.jpg")], truth)
    with pytest.raises(DatasetError, match=r"'b.jpg' stand where 'a.jpg' is"):
        detection_scores([detections("b.jpg"), detections("a.jpg")], truth)
    with pytest.raises(DatasetError, match="boxes of 1 of 2 images"):
        detection_scores([detections("a.jpg"), detections("b.jpg")], truth)


def test_classification_scores() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, (60, 3)), rng.normal(size=(60, 3))
    labels[:, 2] = 0
    found = classification_scores(labels, scores, ["a", "b", "c"])
    assert found.ap[0] == average_precision_score(labels[:, 0], scores[:, 0])
    assert found.precision_at_20[1] == precision_at(labels[:, 1], scores[:, 1])
    assert np.isnan([found.ap[2], found.precision_at_20[2]]).all()
    assert found.mean_ap == pytest.approx(found.ap[:2].mean())
    assert found.positives.tolist() == labels.sum(0).tolist()
    with pytest.raises(DatasetError, match=r"labels \[60, 3\] and scores \[60, 2\]"):
        classification_scores(labels, scores[:, :2], ["a", "b", "c"])
    with pytest.raises(DatasetError, match="1 scores are not finite"):
        classification_scores([[1]], [[np.nan]], ["a"])


# --- runs and transfer


def run(ap: float, classes=("a",)) -> evaluate.DetectionScores:
    shape = (3, len(classes))
    return evaluate.DetectionScores(classes, (0.5, 0.3, 0.1), np.full(shape, ap), np.ones(len(classes), int), 7)


def test_runs_are_averaged() -> None:
    scores = over_runs([run(0.2), run(0.4), run(0.6)])
    assert scores.mean == pytest.approx([0.4] * 3)
    assert scores.std == pytest.approx([math.sqrt(0.08 / 3)] * 3)
    with pytest.raises(DatasetError, match="no run"):
        over_runs([])
    with pytest.raises(DatasetError, match="differ"):
        over_runs([run(0.2), run(0.2, ("b",))])


def test_transfer_is_over_common_classes_and_trains_once_on_each() -> None:
    def collection(name: str, *classes: str) -> LabelledSet:
        items = tuple(item(f"{label}.jpg", Box((0, 0, 10, 10), label)) for label in classes)
        return LabelledSet(name, classes, items)

    trained = []

    def fit(train: LabelledSet):
        trained.append(train.name)
        # Finds all, except that what was trained on comics misses every cat.
        missed = {"cat"} if train.name == "comic" else set()

        def detect(images: LabelledSet) -> list[Detections]:
            assert set(images.classes) <= set(train.classes)
            rows = [[(*box.xyxy, 1.0, box.label) for box in it.boxes if box.label not in missed] for it in images.items]
            return [detections(it.path.name, *row) for it, row in zip(images.items, rows, strict=True)]

        return detect

    people, comic = collection("people", "person"), collection("comic", "cat", "dog")
    clip = collection("clip", "dog", "cat", "person")
    scores = transfer_scores({found.name: (found, found) for found in (people, comic, clip)}, fit)
    assert trained == ["people", "comic", "clip"]
    assert scores.pair("people", "comic") is None
    assert scores.pair("comic", "clip") == (0.5, 1.0)
    assert scores.pair("clip", "comic") == (1.0, 0.5)
    assert scores.pair("people", "clip") == (1.0, 1.0)
    table = evaluate.transfer_table(scores, features="toy features")
    assert cells(table, "comic") == ["comic", "/", "-", "50.0 (100.0)"]
    assert cells(table, "clip") == ["clip", "100.0 (100.0)", "100.0 (50.0)", "-"]
    assert "toy features" in text(table)


# --- tables


def text(table: Table) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def cells(table: Table, first: str) -> list[str]:
    row = next(number for number, cell in enumerate(table.columns[0].cells) if cell == first)
    return [list(column.cells)[row] for column in table.columns]


def test_tables_show_per_cent_and_name_the_features() -> None:
    scores = run(0.256, ("a", "b"))
    scores.ap[:, 1] = np.nan
    assert cells(evaluate.detection_table(scores), "a") == ["a", "1", "25.6", "25.6", "25.6"]
    assert cells(evaluate.detection_table(scores), "b") == ["b", "1", "-", "-", "-"]
    assert cells(evaluate.detection_table(scores), "mean")[2:] == ["25.6"] * 3
    runs = over_runs([run(0.2), run(0.4)])
    assert cells(evaluate.runs_table(runs), "mean") == ["mean", *["30.0 ± 10.0"] * 3]
    ours = evaluate.published_table({"our MI-max": {"IconArt": runs, "CASPA": run(0.125)}}, features="art-resnet")
    assert cells(ours, "our MI-max") == ["our MI-max", "art-resnet", "-", "-", "-", "-", "12.5", "30.0 ± 10.0"]
    assert cells(ours, "MI-max")[1:] == [
        "Faster R-CNN, ResNet-152, COCO",
        *("55.5 ± 1.0", "49.5 ± 0.9", "38.4 ± 0.8", "27.0 ± 0.8", "16.2 ± 0.4", "12.0 ± 0.9"),
    ]
    # The two figures of Comic2k that are a slip of the source are not repeated.
    assert cells(ours, "WSDDN")[2:] == ["-", "12.7", "4.4", "-", "-", "-"]
    found = classification_scores([[1, 0], [0, 0]], [[0.9, 1], [0.1, 2]], ["a", "b"])
    assert cells(evaluate.classification_table(found), "a") == ["a", "1", "100.0", "100.0"]
    assert cells(evaluate.classification_table(found), "b") == ["b", "0", "-", "-"]


def test_published_transfer_is_consistent() -> None:
    # A target's own score depends on the common classes only: Watercolor2k and Comic2k have the same six.
    for target in ("Clipart1k", "CASPA", "PeopleArt"):
        own = {evaluate.PUBLISHED_TRANSFER[source, target][1] for source in ("Watercolor2k", "Comic2k")}
        assert len(own) == 1
    assert "/" in cells(evaluate.transfer_table(), "PeopleArt")
    with pytest.raises(ConfigError, match="or neither"):
        evaluate.transfer_table(features="x")


def test_tables_refuse_what_has_no_column() -> None:
    with pytest.raises(ConfigError, match="nothing published on icons"):
        evaluate.published_table({"x": {"icons": run(0.1)}}, features="x")
    other = evaluate.DetectionScores(("a",), (0.75,), np.ones((1, 1)), np.ones(1, int), 1)
    with pytest.raises(ConfigError, match=r"AP@0\.5; these scores have 0\.75"):
        evaluate.published_table({"x": {"CASPA": other}}, features="x")
