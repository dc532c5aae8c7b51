"""Pairs of which the truth is known: splines against SciPy, planted dots, and what can be seen."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence.geometry import identity
from artmodels.errors import ConfigError
from artmodels.methods.ransac_flow.training import synthetic
from artmodels.methods.ransac_flow.training.synthetic import (
    WarpConfig,
    WarpedPairs,
    Warper,
    closer,
    covers,
    make_pairs,
    thin_plate,
)
from artmodels.runtime.devices import generator

STILL = WarpConfig(bend=0, ripple=0, corners=0, covered=0, apart=0)


class Shifted(Warper):
    """Every map reads 3 px to the right and 2 px up."""

    def __call__(self, count: int, rng: torch.Generator) -> Tensor:
        shift = 2 * torch.tensor([3 / self.width, -2 / self.height])
        return (self.identity + shift).expand(count, -1, -1, -1)


class Same(Warper):
    """One drawn map for all pictures."""

    def __call__(self, count: int, rng: torch.Generator) -> Tensor:
        return super().__call__(1, rng).expand(count, -1, -1, -1)


def soft(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 3, height // 8, width // 8, generator=generator(seed))
    return F.interpolate(coarse, (height, width), mode="bilinear")


# --- splines


def test_a_thin_plate_spline_is_that_of_scipy() -> None:
    points = torch.rand(9, 2, generator=generator(1)) * 2 - 1
    at = torch.rand(40, 2, generator=generator(2)) * 3 - 1.5
    values = torch.randn(9, 2, generator=generator(3)).double()
    found = thin_plate(points, at) @ values
    reference = RBFInterpolator(points.double().numpy(), values.numpy(), kernel="thin_plate_spline", degree=1)
    np.testing.assert_allclose(found.numpy(), reference(at.double().numpy()), atol=1e-8)


def test_control_points_go_exactly_where_they_are_moved() -> None:
    points = torch.rand(12, 2, generator=generator(4)) * 2 - 1
    torch.testing.assert_close(thin_plate(points, points), torch.eye(12, dtype=torch.float64), atol=1e-9, rtol=0)


def test_affine_maps_are_exact_everywhere() -> None:
    points = torch.rand(7, 2, generator=generator(5)).double() * 2 - 1
    at = torch.rand(30, 2, generator=generator(6)).double() * 6 - 3
    matrix, shift = torch.tensor([[0.8, -0.3], [0.5, 1.2]]).double(), torch.tensor([0.4, -0.7]).double()
    moved = thin_plate(points, at) @ (points @ matrix.T + shift)
    torch.testing.assert_close(moved, at @ matrix.T + shift, atol=1e-9, rtol=0)


# --- maps


def test_nothing_moves_where_no_deviation_is_asked_for() -> None:
    grids = Warper(STILL, 40, 56)(3, generator(1))
    torch.testing.assert_close(grids, identity(40, 56).expand(3, -1, -1, -1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["bend", "ripple", "corners"])
def test_deviations_are_in_pixels_of_either_side(name: str) -> None:
    warper = Warper(dataclasses.replace(STILL, **{name: 4.0}), 32, 48)
    moved = (warper(120, generator(2)) - warper.identity) * torch.tensor([48, 32]) / 2
    # A share of 0 to 1, whose square is a third on average, of 4 px; less between the points than there.
    spread = moved.square().mean((0, 1, 2)).sqrt()
    assert 0.4 < float(spread[0] / (4 / 3**0.5)) < 1.2 and 0.4 < float(spread[1] / (4 / 3**0.5)) < 1.2
    assert 0.8 < float(spread[0] / spread[1]) < 1.25
    assert float(moved.mean((0, 1, 2)).abs().max()) < 0.6


def test_planted_dots_are_where_the_grid_says() -> None:
    """F8, with maps that bend: the middle of each dot of the target lies at the dot's place of the source."""
    size = 128
    warper = Same(WarpConfig(bend=4, ripple=0.4, corners=6, covered=0, apart=0), size, size)
    line = torch.tensor([40.0, 64.0, 88.0]) + 0.3
    places = torch.cartesian_prod(line, line)  # y, x in pixels
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    squared = (rows - places[:, 0, None, None]).square() + (columns - places[:, 1, None, None]).square()
    dots = (-squared / (2 * 1.2**2)).exp()[:, None].repeat(1, 3, 1, 1)
    for seed in range(3):
        pairs = make_pairs(dots, dots, warper, generator(seed))
        weights = pairs.target[:, 0] / pairs.target[:, 0].sum((1, 2), keepdim=True)
        middle = torch.stack([(weights * columns).sum((1, 2)), (weights * rows).sum((1, 2))], 1)
        at = ((2 * middle + 1) / size - 1)[:, None, None]
        found = F.grid_sample(pairs.grid.permute(0, 3, 1, 2), at, align_corners=False)[:, :, 0, 0]
        found = ((found + 1) * size - 1) / 2
        assert float((middle - places.flip(1)).norm(dim=1).mean()) > 1
        assert float((found - places.flip(1)).norm(dim=1).max()) < 0.1


def test_the_target_is_the_source_read_at_the_grid() -> None:
    warper = Warper(dataclasses.replace(WarpConfig(), covered=0, apart=0), 64, 80)
    pictures = soft(4, 64, 80)
    pairs = make_pairs(pictures, pictures.flip(0), warper, generator(7))
    assert torch.equal(pairs.source, pictures)
    read = F.grid_sample(pictures, pairs.grid, align_corners=False, padding_mode="border")
    # Within half a pixel of the edge a border is not a reflection.
    inner = (pairs.grid.abs() * torch.tensor([80, 64]) <= torch.tensor([79, 63])).all(-1)[:, None].expand_as(read)
    torch.testing.assert_close(pairs.target[inner], read[inner], atol=1e-5, rtol=0)
    assert torch.equal(pairs.seen[:, 0] > 0.5, (pairs.grid.abs() <= 1).all(-1)) and 0.5 < pairs.seen.mean() < 1


# --- what covers


def test_covers_are_blobs_of_up_to_a_third_with_soft_edges() -> None:
    made = covers(40, 48, 64, 1.0, generator(1))
    assert made.shape == (40, 1, 48, 64) and made.min() == 0 and made.max() == 1
    shares = (made > 0.5).float().mean((1, 2, 3))
    assert float(shares.max()) <= 0.36 and 0.1 < float(shares.mean()) < 0.25 and float(shares.min()) < 0.05
    assert ((made > 0) & (made < 1)).float().mean((1, 2, 3)).min() > 0
    assert not covers(40, 48, 64, 0.0, generator(1)).any()
    drawn = (covers(200, 16, 16, 0.3, generator(2)).amax((1, 2, 3)) > 0).float().mean()
    assert 0.2 < float(drawn) < 0.4


def test_what_is_covered_or_outside_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = 16, 24
    source_cover, target_cover = torch.zeros(2, 1, 1, height, width)
    source_cover[..., 6:] = 0.75  # mostly covered counts as covered, and a third does not
    source_cover[..., 18:] = 0.25
    target_cover[..., :5, :] = 1
    monkeypatch.setattr(synthetic, "covers", lambda *_: torch.cat([source_cover] * 2 + [target_cover] * 2))
    pictures, others = soft(2, height, width, 1), soft(2, height, width, 2)
    pairs = make_pairs(pictures, others, Shifted(STILL, height, width), generator(1))
    for r in range(height):
        for c in range(width):
            y, x = r - 2, c + 3
            seen = 0 <= y and x < width and r >= 5 and not 6 <= x < 18
            assert pairs.seen[:, 0, r, c].tolist() == [float(seen)] * 2, (r, c)
    assert 0 < float(pairs.seen.mean()) < 1
    shown = others.roll(1, 0)
    torch.testing.assert_close(pairs.source[..., 6:18], pictures[..., 6:18].lerp(shown[..., 6:18], 0.75))
    assert torch.equal(pairs.target[:, :, :5], shown.flip(3)[:, :, :5])
    torch.testing.assert_close(pairs.target[:, :, 5:, :-3], pictures[:, :, 3:-2, 3:], atol=1e-5, rtol=0)


def test_pairs_that_have_nothing_in_common_are_not_seen() -> None:
    pictures, others = soft(30, 16, 16, 1), soft(30, 16, 16, 2)
    warper = Warper(dataclasses.replace(STILL, apart=0.3), 16, 16)
    pairs = make_pairs(pictures, others, warper, generator(3))
    unlike = ~pairs.seen.flatten(1).any(1)
    assert 3 <= int(unlike.sum()) <= 16
    assert torch.equal(pairs.source[unlike], others[unlike]) and torch.equal(pairs.source[~unlike], pictures[~unlike])
    torch.testing.assert_close(pairs.target, pictures, atol=1e-5, rtol=0)
    assert (pairs.seen[~unlike] == 1).all()


def test_a_half_of_each_side_is_in_another_hand() -> None:
    pictures = soft(80, 16, 16, 1)
    pairs = make_pairs(pictures, pictures, Warper(STILL, 16, 16), generator(4), restyle=lambda each, rng: 1 - each)
    for side in (pairs.source, pairs.target):
        changed = (side - (1 - pictures)).abs().flatten(1).amax(1) < 1e-5
        same = (side - pictures).abs().flatten(1).amax(1) < 1e-5
        assert bool((changed ^ same).all()) and 25 < int(changed.sum()) < 55


def test_what_is_seen_closer_is_twice_as_large_and_moves_as_far_again() -> None:
    far = make_pairs(soft(2, 64, 96), soft(2, 64, 96, 1), Shifted(STILL, 64, 96), generator(3))
    near = closer(far, generator(5))
    assert near.source.shape == far.source.shape and near.grid.shape == far.grid.shape
    shift = ((near.grid - identity(64, 96)) * torch.tensor([96, 64]) / 2)[near.seen[:, 0] > 0.5]
    torch.testing.assert_close(shift, torch.tensor([6.0, -4.0]).expand_as(shift), atol=1e-3, rtol=0)
    assert 0.8 < near.seen.mean() < 1  # what the window cuts off
    read = F.grid_sample(near.source, near.grid, padding_mode="border", align_corners=False)
    apart = (read - near.target).abs().mean(1, keepdim=True)[near.seen > 0.5]
    assert apart.max() < 0.02
    spread = (far.source[..., 1:] - far.source[..., :-1]).abs().mean()
    assert 0.3 * spread < (near.source[..., 1:] - near.source[..., :-1]).abs().mean() < 0.7 * spread


def test_the_same_seed_gives_the_same_bytes() -> None:
    def made(seed: int) -> WarpedPairs:
        return make_pairs(soft(3, 32, 40), soft(3, 32, 40, 1), Warper(WarpConfig(), 32, 40), generator(seed))

    one, same, other = made(5), made(5), made(6)
    for field in dataclasses.fields(WarpedPairs):
        assert torch.equal(getattr(one, field.name), getattr(same, field.name))
    assert not torch.equal(one.grid, other.grid) and one.grid.dtype == torch.float32
    assert one.source.min() >= 0 and one.target.max() <= 1


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"bend": -1.0}, "bend=-1.0 must be at least 0"),
        ({"fine": 1}, "fine=1 must be at least 2"),
        ({"covered": 1.5}, "covered=1.5"),
        ({"apart": -0.1}, "apart=-0.1"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        WarpConfig(**fields)
