"""Boxes: overlap, edges and suppression."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artmodels.detections.boxes import as_boxes, clip, iou, nms_per_class, paired_iou
from artmodels.errors import ConfigError, DatasetError


def random_boxes(count: int, seed: int = 0, size: float = 100) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, size, (count, 2, 2)), axis=1)
    return torch.from_numpy(corners.reshape(count, 4))


def pixels_inside(box) -> set[tuple[int, int]]:
    left, top, right, bottom = box
    return {(x, y) for x in range(left, right + 1) for y in range(top, bottom + 1)}


def test_iou_by_hand() -> None:
    a = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])
    b = torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10], [10, 10, 20, 20]])
    assert iou(a, b).tolist() == [pytest.approx([50 / 150, 1, 0]), [0, 0, 0]]
    # Counted in pixels, boxes that meet at a corner share one.
    assert iou(a, b, plus_one=True)[0].tolist() == pytest.approx([66 / 176, 1, 1 / 241])
    assert iou(a, b[:0]).shape == (2, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=2, max_size=6))
def test_iou_is_that_of_pixels_with_plus_one_and_of_areas_without(corners) -> None:
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    with_one = iou(torch.tensor(boxes).double(), torch.tensor(boxes).double(), plus_one=True)
    ends = torch.tensor([(a, b, c + 1, d + 1) for a, b, c, d in boxes]).double()
    for i, first in enumerate(boxes):
        for j, second in enumerate(boxes):
            ours, theirs = pixels_inside(first), pixels_inside(second)
            assert float(with_one[i, j]) == pytest.approx(len(ours & theirs) / len(ours | theirs))
    assert torch.allclose(with_one, iou(ends, ends))


def test_empty_boxes_overlap_nothing_but_are_no_error() -> None:
    point = torch.tensor([[3.0, 3, 3, 3]])
    assert iou(point, torch.tensor([[0.0, 0, 10, 10], [3, 3, 3, 3]])).tolist() == [[0, 0]]


def test_pairs_are_the_diagonal() -> None:
    a, b = random_boxes(30), random_boxes(30, seed=1)
    assert torch.equal(paired_iou(a, b), iou(a, b).diagonal())


def test_boxes_come_from_lists_arrays_and_tensors() -> None:
    assert as_boxes([]).shape == (0, 4)
    assert as_boxes(np.zeros((0, 4))).shape == (0, 4)
    assert as_boxes([[0, 1, 2, 3]]).dtype == torch.float32
    assert as_boxes(np.array([[0, 1, 2, 3.5]])).dtype == torch.float64
    assert as_boxes(torch.tensor([[0, 1, 2, 3]], dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[0, 0, 1]], r"shape \[1, 3\]"),
        ([0, 0, 1, 1], r"shape \[4\]"),
        ([[0, 0, 1, 1], [5, 0, 4, 1]], r"box 1 is \[5.0, 0.0, 4.0, 1.0\], one of 1 "),
        ([[0, 0, float("nan"), 1], [0, 0, 1, float("inf")]], r"box 0 is .* one of 2 "),
    ],
)
def test_what_is_no_box_is_refused(values, message) -> None:
    with pytest.raises(DatasetError, match=message):
        as_boxes(values)


def test_clip_keeps_what_is_inside() -> None:
    boxes = torch.tensor([[-5.0, 2, 30, 8], [25, 25, 40, 40], [1, 2, 3, 4]])
    assert clip(boxes, 20, 10).tolist() == [[0, 2, 20, 8], [20, 10, 20, 10], [1, 2, 3, 4]]


def slow_nms(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, limit: float) -> list[int]:
    kept: list[int] = []
    for number in sorted(range(len(boxes)), key=lambda number: -float(scores[number])):
        rivals = [other for other in kept if labels[other] == labels[number]]
        if all(float(paired_iou(boxes[number], boxes[other])) <= limit for other in rivals):
            kept.append(number)
    return kept


@pytest.mark.parametrize("limit", [0.0, 0.3, 0.7])
def test_nms_against_loops(limit) -> None:
    rng = torch.Generator().manual_seed(3)
    boxes, labels = random_boxes(80), torch.randint(0, 3, (80,), generator=rng)
    scores = torch.randint(0, 40, (80,), generator=rng) / 40  # many equal ones
    kept = nms_per_class(boxes, scores, labels, iou=limit).tolist()
    assert kept == slow_nms(boxes, scores, labels, limit)
    assert len(kept) < 80


def test_nms_leaves_other_classes_alone_and_takes_none() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 3)
    assert nms_per_class(boxes, torch.tensor([0.1, 0.9, 0.5]), torch.tensor([0, 1, 0])).tolist() == [1, 2]
    assert nms_per_class(boxes[:0], torch.zeros(0), torch.zeros(0, dtype=torch.int64)).tolist() == []


def test_nms_refuses_what_it_cannot_sort() -> None:
    boxes, labels = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0])
    with pytest.raises(ConfigError, match=r"1\.5; give a value in \[0, 1\]"):
        nms_per_class(boxes, torch.ones(1), labels, iou=1.5)
    with pytest.raises(DatasetError, match=r"1 boxes have scores \[2\]"):
        nms_per_class(boxes, torch.ones(2), labels)
    with pytest.raises(DatasetError, match="1 of 1 scores are not finite"):
        nms_per_class(boxes, torch.tensor([float("nan")]), labels)
