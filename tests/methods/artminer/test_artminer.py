import numpy as np
import pytest
import torch
from torch.nn import functional as F

from artmodels import features, images
from artmodels.correspondence.cells import SCALES, Describer, grid, scale_list, side
from artmodels.correspondence.views import VIEWS, from_view, turned, turned_box, unturned
from artmodels.errors import ConfigError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.artminer.oneshot import check_box, detail, found_in, window_cosine


@pytest.fixture(scope="module")
def describer() -> Describer:
    return Describer(features.build("resnet18", until="layer3", seed=0), "layer3")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=-3)


# --- Cells


def test_scales_are_the_papers() -> None:
    assert SCALES == scale_list() == (80, 74, 68, 60, 49, 36, 20)
    assert [side(cells) for cells in (1, 2, 40, 80)] == [15, 31, 639, 1279]
    assert grid(300, 400, 40) == (30, 40) and grid(400, 300, 40) == (40, 30)
    assert grid(1, 500, 20) == (1, 20) and grid(1, 500, 20, least=8) == (8, 20)


@pytest.mark.parametrize("cells", [1, 2, 7, 20])
def test_a_side_gives_exactly_its_cells(describer: Describer, cells: int) -> None:
    pictures = torch.rand(1, 3, side(cells), side(3))
    assert describer.of_pixels(pictures).shape == (1, 256, cells, 3)


def test_cells_have_length_one(describer: Describer) -> None:
    image = torch.rand(1, 3, 41, 90)
    pyramid = describer.pyramid(image, (8, 5))
    assert [tuple(each.shape) for each in pyramid.maps] == [(256, 4, 8), (256, 2, 5)]
    assert (pyramid.width, pyramid.height) == (90, 41)
    for each in pyramid.maps:
        torch.testing.assert_close(each.norm(dim=0), torch.ones(each.shape[1:]))
    assert pyramid.at(5) is pyramid.maps[1]
    with pytest.raises(ConfigError, match="no scale of 40 cells among 8, 5"):
        pyramid.at(40)


def test_a_projection_is_applied_before_lengths_are_made_one(describer: Describer) -> None:
    matrix = torch.linalg.qr(torch.randn(256, 16, generator=torch.Generator().manual_seed(0))).Q
    fewer = Describer(describer.backbone, "layer3", matrix)
    image = torch.rand(1, 3, 60, 60)
    raw = describer.backbone(F.interpolate(image, (63, 63), mode="bicubic", antialias=True).clamp(0, 1), ["layer3"])
    wanted = F.normalize(torch.einsum("chw,cd->dhw", raw["layer3"][0], matrix), dim=0)
    assert fewer.dims == 16 and describer.dims == 256
    torch.testing.assert_close(fewer(image, 4, 4), wanted)


# --- A detail


def test_window_cosine_is_the_cosine_of_the_window() -> None:
    target, kernels = unit(5, 9, 11), torch.randn(3, 5, 2, 4)
    found = window_cosine(target, kernels)
    assert found.shape == (3, 8, 8)
    for q in range(3):
        for row in range(8):
            for column in range(8):
                window = target[:, row : row + 2, column : column + 4].flatten()
                wanted = F.cosine_similarity(window, kernels[q].flatten(), dim=0)
                assert float(found[q, row, column] - wanted) == pytest.approx(0, abs=1e-5)
    own = window_cosine(target, target[None, :, 3:5, 6:10])
    assert float(own.max()) == pytest.approx(1, abs=1e-6) and int(own.argmax()) == 3 * 8 + 6


def test_a_detail_is_found_at_its_own_place(describer: Describer) -> None:
    picture = images.load(noise(150, 200))
    maps = describer.pyramid(picture.tensor(), (20, 12)).maps
    # Two cells of a map of 20 are 20 px: the box lies on whole cells.
    kernel = maps[0][None, :, 5:9, 10:13]
    ((boxes, scores),) = found_in(maps, kernel, width=200, height=150)
    assert float(scores[0]) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(boxes[0], torch.tensor([100.0, 50, 130, 90]))
    assert bool((scores[1:] <= scores[:-1]).all()) and float(scores[1]) < 0.999
    for one in range(len(boxes)):
        for other in range(one):
            low, high = torch.maximum(boxes[one, :2], boxes[other, :2]), torch.minimum(boxes[one, 2:], boxes[other, 2:])
            assert not bool((high - low > 1e-3).all()), "none overlaps a better one"


def test_details_of_one_size_are_found_together_as_one_by_one() -> None:
    maps = [unit(6, 9, 12), unit(6, 5, 7, seed=1), unit(6, 2, 2, seed=2)]
    kernels = torch.randn(4, 6, 3, 2)
    both = found_in(maps, kernels, width=300, height=200)
    for number, (boxes, scores) in enumerate(both):
        ((alone, alone_scores),) = found_in(maps, kernels[number : number + 1], width=300, height=200)
        torch.testing.assert_close(boxes, alone)
        torch.testing.assert_close(scores, alone_scores)
    nothing = found_in(maps[2:], kernels, width=300, height=200)
    assert all(boxes.shape == (0, 4) and scores.shape == (0,) for boxes, scores in nothing)


def test_the_best_places_are_those_of_a_plain_search() -> None:
    maps, kernels = [unit(4, 6, 8), unit(4, 4, 5, seed=1)], torch.randn(1, 4, 2, 2)
    candidates = []
    for level in maps:
        rows, columns = level.shape[1:]
        scores = window_cosine(level, kernels)[0]
        places = [(float(scores[r, c]), r, c) for r in range(rows - 1) for c in range(columns - 1)]
        for score, r, c in sorted(places, reverse=True)[:8]:
            candidates.append((score, (c / columns * 80, r / rows * 60, (c + 2) / columns * 80, (r + 2) / rows * 60)))
    kept: list = []
    for score, box in sorted(candidates, reverse=True):
        if not any(
            min(box[2], b[2]) - max(box[0], b[0]) > 1e-9 and min(box[3], b[3]) - max(box[1], b[1]) > 1e-9
            for _, b in kept
        ):
            kept.append((score, box))
    ((boxes, scores),) = found_in(maps, kernels, width=80, height=60)
    np.testing.assert_allclose(scores.numpy(), [score for score, _ in kept], atol=1e-6)
    np.testing.assert_allclose(boxes.numpy(), [box for _, box in kept], atol=1e-4)


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        ((40, 30, 120, 70), (4, 8)),
        ((0, 0, 200, 150), (6, 8)),
        ((10, 5, 14, 140), (8, 1)),
        ((0, 0, 9, 150), (8, 1)),
        ((199 - 8, 141, 200, 150), (8, 8)),
    ],
)
def test_a_detail_has_eight_cells_on_its_longer_side(
    describer: Describer, box: tuple[int, ...], cells: tuple[int, int]
) -> None:
    found = detail(describer, images.load(noise(150, 200)), tuple(map(float, box)))
    assert found.shape == (256, *cells)
    torch.testing.assert_close(found.norm(dim=0), torch.ones(cells))


def test_surroundings_are_seen_and_cut_off(describer: Describer) -> None:
    plain, busy = np.full((200, 200, 3), 128, np.uint8), noise(200, 200)
    busy[76:124, 76:124] = 128  # a little more, which interpolation reaches for
    box = (80.0, 80.0, 120.0, 120.0)
    with_margin = [detail(describer, images.load(picture), box) for picture in (plain, busy)]
    without = [detail(describer, images.load(picture), box, margin=0) for picture in (plain, busy)]
    assert torch.equal(*without) and not torch.allclose(*with_margin, atol=1e-2)
    assert with_margin[0].shape == without[0].shape == (256, 8, 8)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((1, 2, 3), "has 3 numbers"),
        ((5, 5, 5, 9), "has no area"),
        ((9, 5, 5, 9), "has no area"),
        ((float("nan"), 0, 5, 9), "has no area"),
        ((200, 0, 300, 50), "lies outside the picture of 200 x 150 px"),
        ((10, 10, 11, 80), "less than 2 px wide or high"),
        ((199, 10, 500, 80), "less than 2 px wide or high"),
    ],
)
def test_boxes_that_are_none_are_refused(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_box(box, 200, 150)


def test_a_box_is_cut_to_the_picture() -> None:
    assert check_box((-5, 3, 50, 900), 200, 150) == (0, 3, 50, 150)


# --- Views


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_shows_what_its_matrix_says(view: str) -> None:
    picture = LoadedImage(noise(5, 8))
    seen = turned(picture, view)
    assert (seen.width == 8) == (view.rstrip("0") not in ("9", "mirror 9", "27", "mirror 27"))
    for row in range(seen.height):
        for column in range(seen.width):
            at = torch.tensor([(column + 0.5) / seen.width, (row + 0.5) / seen.height, 1])
            x, y, one = (from_view(view) @ at).tolist()
            assert one == 1 and (picture.pixels[int(5 * y), int(8 * x)] == seen.pixels[row, column]).all()
    # A marked rectangle, found in the view, is where it was.
    marked = np.zeros((50, 80, 3), np.uint8)
    marked[20:30, 10:25] = 255
    rows, columns = np.nonzero(turned(LoadedImage(marked), view).pixels[..., 0])
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert unturned(tuple(map(float, box)), view, 80, 50) == pytest.approx((10, 20, 25, 30))
    assert turned_box((10.0, 20.0, 25.0, 30.0), view, 80, 50) == pytest.approx(box)
