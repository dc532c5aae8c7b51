"""ArtMiner's one-shot search: places that are verified cell by cell."""

import math

import pytest
import torch
from torch.nn import functional as F

from artmodels.methods.artminer.oneshot import RING, TOLERANCE, agreement, found_in, window_cosine


def field(rows: int, columns: int, *, dims: int = 16, seed: int) -> torch.Tensor:
    """Features of unit length, [D, rows, columns]."""
    return F.normalize(torch.randn(dims, rows, columns, generator=torch.Generator().manual_seed(seed)), dim=0)


def literal(target: torch.Tensor, kernel: torch.Tensor, top: int, left: int) -> float:
    """The agreement of a detail and a place, cell by cell; what is outside the picture is like nothing."""
    _, a, b = kernel.shape
    _, rows, columns = target.shape
    cells = [(r, c) for r in range(a) for c in range(b)]
    around = [(r, c) for r in range(-RING, a + RING) for c in range(-RING, b + RING)]

    def similarity(one: tuple[int, int], other: tuple[int, int]) -> float:
        r, c = other[0] + top, other[1] + left
        inside = 0 <= r < rows and 0 <= c < columns
        return float(kernel[:, one[0], one[1]] @ target[:, r, c]) if inside else 0.0

    total = 0.0
    for one in cells:
        nearest = max(around, key=lambda other: similarity(one, other))
        square = ((one[0] - nearest[0]) ** 2 + (one[1] - nearest[1]) ** 2) / TOLERANCE**2
        if square < 1 and max(cells, key=lambda each: similarity(each, nearest)) == one:
            total += max(0.0, similarity(one, nearest)) * math.exp(-square)
    return total / len(cells)


def test_agreement_equals_a_loop() -> None:
    target = field(9, 11, dims=6, seed=0)
    kernels = torch.stack([target[:, 2:6, 3:8], target[:, 5:9, 0:5]])
    noise = torch.randn(kernels.shape, generator=torch.Generator().manual_seed(1))
    kernels = F.normalize(kernels + 0.2 * noise, dim=1)
    top, left = torch.tensor([[2, 0, 3], [5, 1, 4]]), torch.tensor([[3, 6, 2], [0, 2, 1]])  # at borders and inside
    places = [list(zip(*both, strict=True)) for both in zip(top.tolist(), left.tolist(), strict=True)]
    expected = [[literal(target, k, *at) for at in row] for k, row in zip(kernels, places, strict=True)]
    found = agreement(target, kernels, top, left)
    torch.testing.assert_close(found, torch.tensor(expected))
    assert found[0, 0] > 0.2 > 2 * found[0, 1] > 0


def test_agreement_by_hand() -> None:
    """Cells of 2 x 2 with directions of their own: in place, moved by one, and taken by a nearer one."""
    kernel = torch.eye(4).T.reshape(1, 4, 2, 2)
    target = torch.zeros(4, 6, 6)
    target[:, 2:4, 2:4] = kernel[0]
    at = torch.tensor([[2, 2, 1, 0]]), torch.tensor([[2, 1, 1, 0]])
    found = agreement(target, kernel, *at)[0]
    moved, across = math.exp(-1 / TOLERANCE**2), math.exp(-2 / TOLERANCE**2)
    torch.testing.assert_close(found, torch.tensor([1, moved, across, 0.0]), atol=1e-6, rtol=0)
    target[:, 3, 3] = 0  # the last cell is nowhere, and the first two are like one cell
    assert float(agreement(target, kernel, torch.tensor([[2]]), torch.tensor([[2]]))) == pytest.approx(0.75)
    kernel[0, :, 0, 1] = kernel[0, :, 0, 0]
    assert float(agreement(target, kernel, torch.tensor([[2]]), torch.tensor([[2]]))) == pytest.approx(0.5)


def test_a_place_whose_cells_are_in_order_beats_one_with_the_same_cosine() -> None:
    """Cells that are all like the mean of the detail have a large cosine, and match nothing one to one."""
    kernel = F.normalize(field(5, 6, seed=3) + 1.5 * field(1, 1, seed=4), dim=0)
    target = field(12, 30, seed=5)
    target[:, 3:8, 2:8] = F.normalize(kernel.mean((1, 2)), dim=0)[:, None, None]
    target[:, 4:9, 20:26] = F.normalize(kernel + 0.9 * field(5, 6, seed=6), dim=0)
    cosine = window_cosine(target, kernel[None])[0]
    assert cosine[3, 2] > cosine[4, 20] > cosine.flatten().sort().values[-20]
    places = [found_in([target], kernel[None], width=30, height=12, verified=verified)[0] for verified in (False, True)]
    assert places[0][0][0].tolist() == [2, 3, 8, 8] and places[1][0][0].tolist() == [20, 4, 26, 9]
    (boxes, scores) = places[1]
    assert (scores.diff() <= 0).all()
    for box, score in zip(boxes.tolist(), scores.tolist(), strict=True):
        top, left = round(box[1]), round(box[0])
        agreed = literal(target, kernel, top, left)
        assert score == pytest.approx((float(cosine[top, left]) + agreed) / 2, abs=1e-5)


def test_the_detail_itself_scores_one() -> None:
    target = field(10, 12, seed=7)
    (boxes, scores) = found_in([target], target[None, :, 2:7, 3:9], width=120, height=100, verified=True)[0]
    assert boxes[0].tolist() == [30, 20, 90, 70] and float(scores[0]) == pytest.approx(1, abs=1e-5)
    assert len(scores) == 1  # all other places overlap it
