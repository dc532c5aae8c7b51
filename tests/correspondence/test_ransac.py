"""RANSAC on planted transforms, against a loop over hypotheses, and on matches that fix nothing."""

import dataclasses
import math

import pytest
import torch

from artmodels.correspondence import ransac as module
from artmodels.correspondence.geometry import apply, corner_error, least_squares, minimal, plausible
from artmodels.correspondence.ransac import RansacConfig, draw, ransac
from artmodels.errors import ConfigError
from artmodels.runtime.devices import generator

EYE = torch.eye(3, dtype=torch.float64)
FEW = RansacConfig(hypotheses=500)


def planted(seed, *, matches=1000, share=0.3, noise=1 / 240, model="homography"):
    """A plausible transform, and matches of which so many follow it up to noise; the others are anywhere."""
    source = generator(seed)

    def uniform(*shape):
        return 2 * torch.rand(*shape, generator=source, dtype=torch.float64) - 1

    truth = EYE + torch.tensor([[0.3, 0.3, 0.3], [0.3, 0.3, 0.3], [0.15, 0.15, 0]]) * uniform(3, 3)
    if model != "homography":
        truth[2, :2] = 0
    if model == "similarity":
        truth[1, 1], truth[1, 0] = truth[0, 0], -truth[0, 1]
    target = uniform(matches, 2)
    images = apply(truth, target) + noise * torch.randn(matches, 2, generator=source, dtype=torch.float64)
    good = torch.rand(matches, generator=source) < share
    return truth, target, torch.where(good[:, None], images, uniform(matches, 2)), good


def test_a_planted_homography_is_found_in_every_seed():
    errors = []
    for seed in range(100):
        truth, target, source, _ = planted(seed)
        fit = ransac(target, source, RansacConfig(seed=seed))
        assert fit.reason == ""
        errors.append(corner_error(fit.matrix, truth, (480, 480)))
    assert sum(error < 2 for error in errors) > 99
    assert sorted(errors)[50] < 0.5


@pytest.mark.parametrize("model", ["affine", "similarity"])
def test_other_models_are_found(model):
    for seed in range(5):
        truth, target, source, _ = planted(seed, model=model)
        fit = ransac(target, source, dataclasses.replace(FEW, model=model))
        assert corner_error(fit.matrix, truth, (480, 480)) < 2
        assert fit.matrix[2].tolist() == [0, 0, 1]


def test_a_similarity_is_one_of_pixels_whatever_the_shapes():
    """A quarter turn of 200 x 100 px, which in relative coordinates alone is no similarity of the square."""
    turn = torch.tensor([[0.0, -0.5, 0], [2, 0, 0], [0, 0, 1]], dtype=torch.float64)  # target and source 200 x 100
    target = planted(0)[1] / 3
    fit = ransac(target, apply(turn, target), dataclasses.replace(FEW, model="similarity"), aspects=(2.0, 2.0))
    torch.testing.assert_close(fit.matrix, turn, atol=1e-9, rtol=0)
    assert ransac(target, apply(turn, target), dataclasses.replace(FEW, model="similarity")).inliers.sum() < 1000


def test_isotropic_residuals_are_circles_in_pixels():
    # Five matches are 0.06 off in x. In a source twice as high as wide, that is 0.042 of the mean side.
    target = planted(0, matches=200)[1]
    source = target.clone()
    source[:5, 0] += 0.06
    for isotropic, inliers in ((False, 195), (True, 200)):
        assert ransac(target, source, aspects=(0.5, 0.5), isotropic=isotropic).inliers.sum() == inliers


def test_identical_places_give_the_identity():
    target = planted(0)[1]
    fit = ransac(target, target, FEW)
    torch.testing.assert_close(fit.matrix, EYE, atol=1e-9, rtol=0)
    assert fit.inliers.all()
    assert fit.score == 1000
    assert fit.hypotheses > 300


def test_the_best_hypothesis_is_that_of_a_loop():
    truth, target, source, _ = planted(3, matches=60, share=0.5)
    samples = (torch.rand(200, 4, generator=generator(0), dtype=torch.float64) * 60).long()
    best, scored = (-1.0, EYE), 0
    for sample in samples:
        matrix, sound = minimal(target[sample], source[sample], "homography")
        if not sound or not plausible(matrix):
            continue
        scored += 1
        score = 0.0
        for there, here in zip(target, source, strict=True):
            distance = float((apply(matrix, there[None])[0] - here).norm())
            score += max(0.0, 1 - (distance / 0.05) ** 2)
        best = max(best, (score, matrix), key=lambda each: each[0])
    fit = ransac(target, source, RansacConfig(hypotheses=200), refinements=0)
    assert fit.hypotheses == scored > 5
    assert torch.equal(fit.matrix, best[1])
    inliers = (apply(fit.matrix, target) - source).norm(dim=1) < 0.05
    assert torch.equal(fit.inliers, inliers)
    assert fit.score == inliers.sum()


def test_refits_bring_it_near_what_the_right_matches_give():
    for seed in range(5):
        truth, target, source, good = planted(seed)
        ideal = corner_error(least_squares(target, source, good, "homography"), truth, (480, 480))
        rough = corner_error(ransac(target, source, refinements=0).matrix, truth, (480, 480))
        fine = corner_error(ransac(target, source).matrix, truth, (480, 480))
        assert fine < ideal + 0.3
        assert fine < rough


def test_weights_decide_between_two_transforms():
    target = planted(0, matches=400)[1]
    source = target.clone()
    source[:200] += 0.3
    weights = torch.ones(400)
    for heavy, shift in ((slice(0, 200), 0.3), (slice(200, 400), 0.0)):
        chosen = weights.index_fill(0, torch.arange(400)[heavy], 3.0)
        fit = ransac(target, source, RansacConfig(), weights=chosen)
        assert float(fit.matrix[0, 2]) == pytest.approx(shift, abs=1e-6)
        assert fit.score == 600
        assert fit.inliers.sum() == 200


def test_the_same_seed_gives_the_same_bytes_and_blocks_change_nothing(monkeypatch):
    _, target, source, _ = planted(1)
    fit = ransac(target, source)
    again = ransac(target, source)
    assert torch.equal(fit.matrix, again.matrix) and fit.score == again.score
    other = ransac(target, source, RansacConfig(seed=1))
    assert not torch.equal(fit.matrix, other.matrix)
    monkeypatch.setattr(module, "BLOCK", 97)
    monkeypatch.setattr(module, "REUSED", 4 * 1000 * 7)
    torch.testing.assert_close(ransac(target, source).matrix, fit.matrix, atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_fewer_matches_than_a_transform_needs(count):
    points = torch.rand(count, 2)
    fit = ransac(points, points)
    assert fit.matrix is None
    assert fit.inliers.shape == (count,)
    found = "is only 1 match" if count == 1 else f"are only {count} matches"
    assert fit.reason.startswith(f"there {found}, and a transform (homography) needs 4")


@pytest.mark.parametrize(
    "points",
    [
        torch.zeros(50, 2),
        torch.full((50, 2), 0.7),
        torch.linspace(-1, 1, 50)[:, None].expand(50, 2),
        torch.stack([torch.linspace(-1, 1, 50), torch.zeros(50)], 1),
    ],
)
@pytest.mark.parametrize("model", ["homography", "affine"])
def test_points_that_fix_nothing(points, model):
    for target, source in ((points, points), (points, torch.rand(50, 2)), (torch.rand(50, 2), points)):
        fit = ransac(target, source, dataclasses.replace(FEW, model=model))
        assert fit.matrix is None and not fit.inliers.any() and fit.hypotheses == 0
        assert "of the 50 matches fit a plausible transform" in fit.reason


def test_a_mirror_image_is_not_plausible():
    target = planted(0)[1]
    fit = ransac(target, target * torch.tensor([-1.0, 1]), FEW)
    assert fit.matrix is None
    assert fit.hypotheses == 0


def test_matches_at_random_are_no_alignment():
    source = generator(5)
    target, images = torch.rand(2, 300, 2, generator=source) * 2 - 1
    fit = ransac(target, images)
    assert fit.matrix is None and not fit.inliers.any()
    assert 4 <= fit.score < 15
    assert fit.reason.startswith(f"only {fit.score:.0f} of 300 matches agree on a transform (homography), of 15 needed")
    assert ransac(target, images, RansacConfig(share=0, least=4)).matrix is not None


def test_eight_matches_of_fewer_are_needed():
    target = planted(0, matches=7)[1]
    fit = ransac(target, target)
    assert fit.matrix is None and fit.score == 7
    assert "only 7 of 7 matches agree" in fit.reason and "of 8 needed" in fit.reason


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "thin-plate"}, "model='thin-plate' must be one of 'homography', 'affine', 'similarity'"),
        ({"hypotheses": 0}, "hypotheses=0 must be at least 1"),
        ({"tolerance": 0.0}, "tolerance=0.0 must be above 0 and at most 2"),
        ({"share": 1.5}, "share=1.5 must be at least 0 and at most 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        RansacConfig(**settings)


# --- samples


def test_samples_are_distinct_and_uniform() -> None:
    for count, size in ((4, 4), (10, 3), (19, 3), (30, 2), (49, 4), (49, 3)):
        samples = draw(count, size, 1000, 0)
        assert len({tuple(sorted(sample)) for sample in samples.tolist()}) == min(math.comb(count, size), 1000)
        assert all(len(set(sample)) == size and max(sample) < count for sample in samples.tolist())
    for size in (2, 3, 4):
        samples = draw(50, size, 60_000, 1)
        assert (samples.sort(1).values.diff(dim=1) > 0).all() and samples.min() == 0 and samples.max() == 49
        for column in samples.T:  # 1200 expected, with a deviation of 34
            assert (torch.bincount(column, minlength=50) - 1200).abs().max() < 5 * 35


def test_the_seed_decides_the_samples() -> None:
    found = [draw(80, 3, 1000, seed).numpy().tobytes() for seed in (0, 0, 1)]
    assert found[0] == found[1] == draw(80, 3, 1000, 0).numpy().tobytes() != found[2]


def test_repeated_samples_are_those_of_each_number_by_itself() -> None:
    uniform = torch.rand(9, 3, generator=generator(4), dtype=torch.float64)
    assert torch.equal(draw(5, 3, 9, 4, repeated=True), (uniform * 5).long()), "as many as are asked for, of few"
    assert len(draw(4, 3, 9, 4)) == 4 and len(draw(2, 3, 9, 4)) == 0 and len(draw(2, 3, 9, 4, repeated=True)) == 9
