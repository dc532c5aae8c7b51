"""Transforms against decompositions, loops and worked examples; grids and warps against what they must read."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from artmodels.correspondence.geometry import (
    apply,
    corner_error,
    from_pixels,
    grid_of,
    identity,
    inside,
    least_squares,
    minimal,
    plausible,
    sample,
    to_pixels,
)

EYE = torch.eye(3, dtype=torch.float64)
SQUARE = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]], dtype=torch.float64)
WARP = torch.tensor([[0.9, 0.2, 0.1], [-0.1, 1.1, -0.05], [0.1, -0.08, 1]], dtype=torch.float64)


def by_svd(target, source):
    """The direct linear transform: the null vector of two equations a point."""
    rows = []
    for (x, y), (u, v) in zip(np.asarray(target), np.asarray(source), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y, -u], [0, 0, 0, x, y, 1, -v * x, -v * y, -v]]
    matrix = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)
    return torch.from_numpy(matrix / matrix[2, 2])


def warps(count, model="homography", seed=0):
    """Moderate transforms [count, 3, 3]."""
    source = torch.Generator().manual_seed(seed)
    found = EYE + 0.2 * (2 * torch.rand(count, 3, 3, generator=source, dtype=torch.float64) - 1)
    if model != "homography":
        found[:, 2, :2] = 0
    if model == "similarity":
        found[:, 1, 1], found[:, 1, 0] = found[:, 0, 0], -found[:, 0, 1]
    if model == "scaling":
        found[:, 0, 1] = found[:, 1, 0] = 0
    found[:, 2, 2] = 1
    return found


# --- grids and warps


def test_the_identity_grid_holds_the_centres_of_pixels():
    grid = identity(2, 4)
    assert grid.dtype == torch.float32
    assert grid[1, :, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert grid[:, 0, 1].tolist() == [-0.5, 0.5]


def test_the_grid_of_the_identity_returns_the_image():
    image = torch.rand(2, 3, 37, 53)
    assert torch.equal(grid_of(EYE, 37, 53), identity(37, 53))
    torch.testing.assert_close(sample(image, identity(37, 53)), image, atol=1e-5, rtol=0)


def test_a_shift_of_one_pixel_reads_its_neighbour_and_zero_outside():
    image = torch.rand(1, 3, 4, 8)
    shift = EYE.clone()
    shift[0, 2] = 2 / 8
    warped = sample(image, grid_of(shift, 4, 8))
    torch.testing.assert_close(warped[..., :-1], image[..., 1:], atol=1e-6, rtol=0)
    assert (warped[..., -1] == 0).all()


def test_a_warp_reads_at_the_places_of_the_matrix():
    x, y = torch.meshgrid(torch.linspace(-1, 1, 401), torch.linspace(-1, 1, 301), indexing="xy")
    places = torch.stack([x, y, x * 0])[None]
    places = F.interpolate(places, (300, 400), mode="area")  # linear, so that each pixel holds its place
    grid = grid_of(WARP, 20, 30)
    seen = sample(places, grid)[0, :2].permute(1, 2, 0)
    within = (grid.abs() < 0.99).all(-1)
    assert within.sum() > 300
    torch.testing.assert_close(seen[within], grid[within], atol=2e-3, rtol=0)


def test_grids_of_many_matrices_are_those_of_each():
    matrices = warps(3)
    assert torch.equal(grid_of(matrices, 5, 7), torch.stack([grid_of(each, 5, 7) for each in matrices]))


def test_inside_is_the_closed_square():
    assert inside(torch.tensor([[1.0, -1], [1.001, 0], [0, -1.001]])).tolist() == [True, False, False]


def test_points_behind_the_horizon_are_finite_and_far_away():
    matrix = EYE.clone()
    matrix[2, 0] = -1
    moved = apply(matrix, torch.tensor([[1.0, 0], [2, 0], [0.5, 0]], dtype=torch.float64))
    assert moved.isfinite().all()
    assert moved[0, 0] > 1e5 and moved[1, 0] > 1e5
    assert moved[2].tolist() == [1.0, 0.0]


# --- few points


def test_four_points_give_what_the_decomposition_gives():
    source = torch.Generator().manual_seed(0)
    target = torch.rand(500, 4, 2, generator=source, dtype=torch.float64) * 2 - 1
    images = apply(warps(500), target)
    found, sound = minimal(target, images, "homography")
    assert 400 < sound.sum() < 500
    truth = torch.stack([by_svd(*each) for each in zip(target[sound], images[sound], strict=True)])
    torch.testing.assert_close(found[sound], truth, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(apply(found[sound], target[sound]), images[sound], atol=1e-9, rtol=0)
    assert torch.equal(found[~sound], EYE.expand(int((~sound).sum()), 3, 3))


@pytest.mark.parametrize(("model", "points"), [("homography", 4), ("affine", 3), ("scaling", 2), ("similarity", 2)])
def test_few_points_give_back_the_transform(model, points):
    source = torch.Generator().manual_seed(1)
    target = torch.rand(200, points, 2, generator=source, dtype=torch.float64) * 2 - 1
    truth = warps(200, model)
    found, sound = minimal(target, apply(truth, target), model)
    assert sound.sum() > 150
    torch.testing.assert_close(found[sound], truth[sound], atol=1e-8, rtol=1e-8)
    alone = [minimal(each, apply(matrix, each), model)[0] for each, matrix in zip(target, truth, strict=True)]
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-12, rtol=1e-12)


def test_degenerate_and_turned_samples_are_refused():
    line = torch.tensor([[-0.5, -0.5], [0.0, 0.0], [0.5, 0.5], [-0.5, 0.5]], dtype=torch.float64)
    nearly = line + torch.tensor([[0.0, 0], [1e-4, 0], [0, 0], [0, 0]], dtype=torch.float64)
    twice = SQUARE[[0, 0, 2, 3]]
    mirrored = SQUARE * torch.tensor([-1.0, 1])
    crossed = SQUARE[[0, 2, 1, 3]]  # what no view without a horizon between the points does
    everything = torch.stack([line, nearly, twice, mirrored, crossed])
    for target, source in ((SQUARE.expand(5, 4, 2), everything), (everything, SQUARE.expand(5, 4, 2))):
        found, sound = minimal(target, source, "homography")
        assert not sound.any()
        assert torch.equal(found, EYE.expand(5, 3, 3))
    assert minimal(SQUARE, SQUARE, "homography")[1]
    triangles = everything[:, :3]
    assert minimal(SQUARE[:3].expand(5, 3, 2), triangles, "affine")[1].tolist() == [False] * 5
    assert not minimal(SQUARE[[0, 0]], SQUARE[:2], "similarity")[1]
    assert not minimal(SQUARE[:2], SQUARE[[0, 0]], "similarity")[1]
    assert not minimal(SQUARE[:2], SQUARE[[0, 2]], "scaling")[1], "they are at one height"


def test_turned_and_flattened_samples_are_solved_where_they_are_wanted():
    mirror = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64))
    flat = torch.tensor([[1.0, 0, 0.1], [0.5, 0, 0], [0, 0, 1]], dtype=torch.float64)
    for truth, model, picks in (
        (mirror, "homography", [0, 1, 2, 3]), (mirror, "affine", [0, 1, 2]), (mirror, "scaling", [0, 2]),
        (flat, "affine", [0, 1, 2]), (EYE, "similarity", [0, 2]),
    ):  # fmt: skip
        target = SQUARE[picks]
        found, sound = minimal(target, apply(truth, target), model, turned=True)
        assert sound, model
        torch.testing.assert_close(found, truth)
        assert minimal(target, apply(truth, target), model)[1] == (model == "similarity")
    assert not minimal(SQUARE, apply(flat, SQUARE), "homography", turned=True)[1], "it would not be a homography"
    assert not minimal(SQUARE[[0, 0, 1]], SQUARE[:3], "affine", turned=True)[1]
    assert minimal(SQUARE / 100, SQUARE, "homography", least=1e-5)[1]


# --- many points


@pytest.mark.parametrize("model", ["homography", "affine", "scaling", "similarity"])
def test_least_squares_of_exact_points_is_the_transform(model):
    source = torch.Generator().manual_seed(2)
    target = torch.rand(5, 40, 2, generator=source, dtype=torch.float64) * 2 - 1
    truth = warps(5, model)
    weights = torch.rand(5, 40, generator=source)
    torch.testing.assert_close(least_squares(target, apply(truth, target), weights, model), truth, atol=1e-9, rtol=1e-9)


def test_an_affine_fit_is_that_of_numpy_with_the_weights_as_repetitions():
    source = torch.Generator().manual_seed(3)
    target, images = torch.rand(2, 30, 2, generator=source, dtype=torch.float64) * 2 - 1
    weights = torch.randint(0, 4, (30,), generator=source)
    repeated = target.repeat_interleave(weights, 0).numpy()
    known = images.repeat_interleave(weights, 0).numpy()
    truth = np.linalg.lstsq(np.c_[repeated, np.ones(len(repeated))], known)[0].T
    found = least_squares(target, images, weights, "affine")
    np.testing.assert_allclose(found[:2], truth, atol=1e-10)
    assert found[2].tolist() == [0, 0, 1]


def test_a_homography_fit_is_near_the_least_distance():
    source = torch.Generator().manual_seed(4)
    target = torch.rand(60, 2, generator=source, dtype=torch.float64) * 2 - 1
    images = apply(WARP, target) + 0.02 * torch.randn(60, 2, generator=source, dtype=torch.float64)

    def distance(matrix):
        return float((apply(matrix, target) - images).square().sum())

    found = least_squares(target, images, torch.ones(60), "homography")
    matrix = found.clone().requires_grad_()
    descent = torch.optim.LBFGS([matrix], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure():
        descent.zero_grad()
        loss = (apply(matrix, target) - images).square().sum()
        loss.backward()
        return loss

    descent.step(closure)
    assert distance(found) < distance(WARP)
    assert distance(found) < 1.001 * distance(matrix.detach())


@pytest.mark.parametrize("model", ["homography", "affine", "scaling", "similarity"])
@pytest.mark.parametrize("points", [torch.zeros(9, 2), torch.linspace(-1, 1, 9)[:, None].expand(9, 2)])
def test_fits_of_points_that_fix_nothing_are_finite(model, points):
    assert least_squares(points, points, torch.ones(9), model).isfinite().all()
    assert least_squares(points, points, torch.zeros(9), model).isfinite().all()


# --- guard rails and units


def test_what_is_plausible():
    def changed(row, column, value):
        matrix = EYE.clone()
        matrix[row, column] = value
        return matrix

    cases = {
        True: [EYE, -2 * EYE, WARP, changed(2, 0, 0.29), changed(0, 2, 5.0), torch.diag(EYE.new_tensor([2.8, 2.8, 1]))],
        False: [
            changed(2, 1, -0.31),
            changed(0, 0, -1.0),  # mirrored
            changed(0, 0, 8.1),
            changed(0, 0, 0.12),
            changed(2, 2, 0.0),
            changed(0, 0, torch.nan),
            changed(1, 2, torch.inf),
            EYE * 0,
        ],
    }
    for expected, matrices in cases.items():
        assert plausible(torch.stack(matrices)).tolist() == [expected] * len(matrices)
        assert [bool(plausible(matrix)) for matrix in matrices] == [expected] * len(matrices)
    assert plausible(changed(0, 0, 8.1), area=9) and plausible(changed(2, 1, 0.31), perspective=0.4)


def test_pixels_have_their_centres_at_integers():
    shift = EYE.clone()
    shift[0, 2] = 2 * 3 / 40
    found = to_pixels(shift, (20, 30), (40, 60))
    # The first pixel of 20 is where pixels 0 and 1 of 40 meet; three pixels further on is 3.5.
    assert apply(found, torch.tensor([[0.0, 0.0]], dtype=torch.float64)).tolist() == [[pytest.approx(3.5), 0.5]]
    torch.testing.assert_close(from_pixels(found, (20, 30), (40, 60)), shift)
    both = torch.stack([shift, WARP])
    torch.testing.assert_close(to_pixels(both, (20, 30), (40, 60))[0], found)


def test_corner_errors_are_mean_distances_in_pixels():
    shift = EYE.clone()
    shift[0, 2], shift[1, 2] = 2 * 3 / 100, 2 * 4 / 50
    assert corner_error(EYE, EYE, (100, 50)) == 0
    assert corner_error(shift, EYE, (100, 50)) == pytest.approx(5)
