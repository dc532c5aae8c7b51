"""The coarse stage on a picture and what was made of it: warped, turned, in parts, and pictures that show nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from artmodels import features
from artmodels.correspondence.geometry import apply, corner_error, grid_of, sample
from artmodels.correspondence.views import VIEWS, turned
from artmodels.errors import ConfigError, ImageError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.ransac_flow import coarse as module
from artmodels.methods.ransac_flow.coarse import Coarse, CoarseConfig, inverse, mutual, scales
from artmodels.runtime.devices import generator

EYE = torch.eye(3, dtype=torch.float64)
WARP = torch.tensor([[0.85, 0.15, 0.05], [-0.15, 0.9, -0.05], [0.05, -0.05, 1]], dtype=torch.float64)


def picture(height=180, width=240, seed=0):
    """Noise of several sizes, so that each place looks like no other: [1, 3, height, width]."""
    source = generator(seed)
    layers = [
        F.interpolate(
            torch.rand(1, 3, height // cell + 1, width // cell + 1, generator=source), (height, width), mode="bicubic"
        )
        for cell in (6, 12, 30)
    ]
    return torch.stack(layers).mean(0).sub(0.5).mul(1.5).add(0.5).clamp(0, 1)


@pytest.fixture(scope="module")
def backbone():
    return features.load("art-resnet", until="layer3")


@pytest.fixture(scope="module")
def coarse(backbone):
    return Coarse(backbone, config=CoarseConfig(side=160, hypotheses=2000))


@pytest.fixture(scope="module")
def small(backbone):
    """One scale, for what does not depend on scales."""
    return Coarse(backbone, config=CoarseConfig(side=160, steps=0, hypotheses=2000))


# --- scales, cells and matches


def test_scales_are_the_papers():
    assert scales(2, 3) == pytest.approx((2, 5 / 3, 4 / 3, 1, 5 / 6, 2 / 3, 0.5))
    assert scales(1.2, 3) == pytest.approx((1.2, 1.133333, 1.066667, 1, 0.944444, 0.888889, 0.833333), abs=1e-6)
    assert scales(2, 0) == (1.0,)


def test_cells_follow_the_shorter_side_up_to_a_longest_one(backbone):
    default = Coarse(backbone)
    assert default.cells(640, 480) == (30, 40)
    assert default.cells(480, 640, 2.0) == (80, 60)
    assert default.cells(3, 3, 0.5) == (15, 15)
    assert default.cells(10_000, 100) == (1, 120)
    assert default.cells(100, 10_000, 0.5) == (60, 1)


def test_mutual_matches_are_those_of_a_loop(monkeypatch):
    source = generator(0)
    maps = [F.normalize(torch.randn(8, count, generator=source), dim=0) for count in (30, 20, 7)]
    target = F.normalize(torch.randn(8, 25, generator=source), dim=0)
    target[:, 3] = 0  # a cell that shows nothing
    cosine = torch.cat(maps, 1).T.numpy() @ target.numpy()
    expected = [
        (int(cosine[:, j].argmax()), j)
        for j in range(25)
        if cosine[cosine[:, j].argmax()].argmax() == j and cosine[:, j].max() > 0
    ]
    for block in (module.BLOCK, 4 * 25 * 4):
        monkeypatch.setattr(module, "BLOCK", block)
        first, second, similarity = mutual(maps, target)
        assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected
        np.testing.assert_allclose(similarity, cosine[first, second], atol=1e-6)
    assert 8 < len(expected) < 25
    assert mutual(maps, target * 0)[0].shape == (0,)
    assert mutual(maps, target[:, :0])[2].shape == (0,)


def test_a_picture_is_described_once_and_when_needed(backbone, monkeypatch):
    calls = list[tuple[int, ...]]()
    forward = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda x, taps: calls.append(tuple(x.shape[2:])) or forward(x, taps))
    config = CoarseConfig(side=64, views=("",), eager=1.0, hypotheses=50)
    every = Coarse(backbone, config=config)
    source, target = every.describe(picture(64, 96)), every.describe(picture(96, 64, seed=1))
    assert calls == []
    every.fit(source, target)
    assert calls == [(95, 63), (127, 191), (111, 159), (79, 127), (63, 95), (47, 79), (47, 63), (31, 47)]
    every.fit(source, target)
    every.fit(target, source)
    assert len(calls) == 8 + 6
    # Of views the target is turned, at half the size: where one is as likely as another all are looked at.
    calls.clear()
    Coarse(backbone, config=dataclasses.replace(config, views=tuple(VIEWS))).fit(source, source)
    assert (31, 47) in calls and (47, 31) in calls and len(calls) <= 3 + 8 + 7


def test_what_agrees_well_is_taken_at_once(backbone, monkeypatch):
    calls = list[tuple[int, ...]]()
    forward = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda x, taps: calls.append(tuple(x.shape[2:])) or forward(x, taps))
    for eager, looked_at in ((0.5, 3), (1.0, 7)):
        calls.clear()
        coarse = Coarse(backbone, config=CoarseConfig(side=64, eager=eager, looks=1, hypotheses=50))
        described = coarse.describe(picture(64, 96))
        assert coarse.fit(described, described).fit.inliers.all()
        assert len(calls) == looked_at  # the target is the source at scale 1


# --- fits


def test_of_a_moved_source_more_cells_agree(backbone):
    once = Coarse(backbone, config=CoarseConfig(side=160, looks=1, hypotheses=2000))
    image = picture(360, 480)
    cosine, sine = 0.75 * np.cos(0.35), 0.75 * np.sin(0.35)
    truth = torch.tensor([[cosine, -sine, 0.1], [sine, cosine, -0.1], [0, 0, 1]], dtype=torch.float64)
    covered = sample(image, grid_of(truth, 360, 480)[None])
    covered[..., :150] = picture(360, 150, seed=9)
    source, target = once.describe(image), once.describe(covered)
    first = once.fit(source, target)
    second = once.again(source, target, first)
    shares = [float(each.fit.inliers.float().mean()) for each in (first, second)]
    assert shares[1] > 1.5 * shares[0] and second.view == first.view
    seen = grid_of(EYE, 36, 48).double()[:, 16:].flatten(0, 1)
    errors = [(apply(each.fit.matrix, seen) - apply(truth, seen)).norm(dim=1).mean() for each in (first, second)]
    assert errors[1] < 1.05 * errors[0] < 0.06
    torch.testing.assert_close(  # places of the source as it is
        second.matches.source[second.fit.inliers],
        apply(truth, second.matches.target[second.fit.inliers]), atol=0.25, rtol=0,
    )  # fmt: skip
    half = torch.zeros(once.cells(480, 360), dtype=torch.bool)
    half[:, half.shape[1] // 2 :] = True
    assert (once.again(source, target, first, unexplained=half).matches.target[:, 0] > -0.01).all()
    assert (once.again(source, target, first, unused=half).matches.source[:, 0] > -0.1).all()


def test_a_second_look_makes_nothing_of_nothing(coarse):
    other, none = coarse.describe(picture(seed=7)), coarse.describe(torch.zeros(1, 3, 90, 120))
    found = coarse.fit(other, none)
    assert found.fit.matrix is None and coarse.again(other, none, found) is found


def test_a_picture_and_itself_are_the_identity(coarse):
    described = coarse.describe(picture())
    found = coarse.fit(described, described)
    assert found.fit.inliers.all()
    assert found.view == ""
    assert len(found.matches.target) == 130 == found.matches.cells[0] * found.matches.cells[1]
    torch.testing.assert_close(found.fit.matrix, EYE, atol=1e-6, rtol=0)


def test_a_warp_is_found_and_undone(coarse):
    image = picture(360, 480)
    target = sample(image, grid_of(WARP, 360, 480))
    found = coarse.fit(coarse.describe(image), coarse.describe(target))
    assert corner_error(found.fit.matrix, WARP, (480, 480)) < 24  # half a cell, which is 48 px of these
    again = coarse.fit(coarse.describe(image), coarse.describe(target))
    assert torch.equal(found.fit.matrix, again.fit.matrix)


def test_a_detail_of_half_the_side_is_found_at_another_scale(coarse, small):
    image = picture(360, 480)
    truth = torch.diag(EYE.new_tensor([0.5, 0.5, 1]))
    detail = coarse.describe(image[..., 90:270, 120:360])
    found = coarse.fit(coarse.describe(image), detail)
    assert corner_error(found.fit.matrix, truth, (480, 480)) < 8
    one = small.fit(small.describe(image), detail)
    assert one.fit.inliers.sum() < found.fit.inliers.sum() / 2


@pytest.mark.parametrize("view", VIEWS)
def test_turned_and_mirrored_pictures_are_found(backbone, view):
    every = Coarse(backbone, config=CoarseConfig(side=160, steps=0, views=tuple(VIEWS), hypotheses=500))
    image = picture()
    pixels = (image[0].permute(1, 2, 0) * 65535).numpy().astype(np.uint16)
    target = turned(LoadedImage(pixels), view).tensor()
    found = every.fit(every.describe(image), every.describe(target))
    assert found.view == view
    assert found.fit.score > 100
    warped = sample(image, grid_of(found.fit.matrix, *target.shape[2:]))
    torch.testing.assert_close(warped, target, atol=0.02, rtol=0)
    assert inverse(inverse(view)) == view


def test_two_parts_that_moved_apart_are_found_in_turn(small):
    target = picture(160, 320)
    source = torch.cat([target[..., 160:], target[..., :160]], 3)  # the halves change places
    described, seen = small.describe(source), small.describe(target)
    assert small.cells(320, 160) == (10, 20)
    first = small.fit(described, seen)
    left = bool(first.fit.matrix[0, 2] > 0)
    unexplained = torch.zeros(10, 20, dtype=torch.bool)
    unexplained[:, slice(10, 20) if left else slice(0, 10)] = True
    second = small.fit(described, seen, unexplained)
    assert ((second.matches.target[:, 0] > 0) == left).all()
    for found, shift in ((first, 1.0), (second, -1.0)):
        assert float(found.fit.matrix[0, 2]) == pytest.approx(shift if left else -shift, abs=0.05)
    nothing = small.fit(described, seen, torch.zeros(10, 20, dtype=torch.bool))
    assert nothing.fit.matrix is None and "only 0 matches" in nothing.fit.reason
    with pytest.raises(ConfigError, match=r"unexplained is torch.bool \[20, 10\]: give bool \[10, 20\]"):
        small.fit(described, seen, torch.ones(20, 10, dtype=torch.bool))


# --- pictures that show nothing


def test_other_pictures_are_not_aligned(coarse):
    found = coarse.fit(coarse.describe(picture()), coarse.describe(picture(seed=7)))
    assert found.fit.matrix is None and not found.fit.inliers.any()
    assert "the pictures may not show the same thing" in found.fit.reason


@pytest.mark.parametrize("other", [torch.zeros(1, 3, 90, 120), torch.ones(1, 3, 90, 120), torch.rand(1, 3, 1, 1)])
def test_blank_pictures_and_single_pixels_are_not_aligned(coarse, other):
    described, blank = coarse.describe(picture()), coarse.describe(other)
    for source, target in ((described, blank), (blank, described)):
        found = coarse.fit(source, target)
        assert found.fit.matrix is None and found.fit.reason
        for each in (found.matches.target, found.matches.source, found.matches.similarity):
            assert each.isfinite().all()


def test_features_of_nothing_match_nothing(small, monkeypatch):
    monkeypatch.setattr(small.describer, "backbone", lambda x, taps: {"layer3": torch.zeros(1, 256, 10, 13)})
    described = small.describe(picture())
    found = small.fit(described, described)
    assert len(found.matches.target) == 0
    assert found.fit.reason.startswith("there are only 0 matches")


def test_sizes_that_differ_fifty_times(small):
    large = F.interpolate(picture(60, 80), (3000, 4000), mode="bilinear")
    source = small.describe(large)
    assert source.image.shape == (1, 3, 159, 207)
    found = small.fit(source, small.describe(picture(60, 80)))
    assert corner_error(found.fit.matrix, EYE, (480, 480)) < 8


def test_very_long_pictures_stay_small(small):
    described = small.describe(torch.rand(1, 3, 20, 3000))
    assert small.map(described).shape[1:] == (1, 40)
    assert small.fit(described, described).fit.matrix is None  # one row of cells fixes no homography


def test_random_weights_do_as_well(backbone):
    random = Coarse(features.build("resnet18", until="layer3"), config=CoarseConfig(side=96, steps=0))
    described = random.describe(picture(96, 128))
    found = random.fit(described, described)
    torch.testing.assert_close(found.fit.matrix, EYE, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 8, 8), r"float tensor \[1, 3, H, W\], not torch.float32 \[3, 8, 8\]"),
        (torch.rand(2, 3, 8, 8), r"not torch.float32 \[2, 3, 8, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "not torch.uint8"),
        (torch.rand(1, 3, 0, 8), r"\[1, 3, 0, 8\]"),
        (torch.full((1, 3, 8, 8), torch.nan), "values that are not finite"),
    ],
)
def test_tensors_that_are_no_pictures(small, image, message):
    with pytest.raises(ImageError, match=message):
        small.describe(image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 8}, "side=8 must be at least 16"),
        ({"looks": 4}, "looks=4 must be at least 1 and at most 3"),
        ({"eager": 0.0}, "eager=0.0 must be above 0 and at most 1"),
        ({"reach": 0.9}, "reach=0.9 must be at least 1 and at most 8"),
        ({"steps": -1}, "steps=-1 must be at least 0 and at most 8"),
        ({"views": ("upside down",)}, "must be some of"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        CoarseConfig(**settings)
