import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from artmodels.images import examples
from artmodels.methods.texture_synthesis import TextureSynthesizer
from artmodels.methods.texture_synthesis.layout import autocorrelation, canvas, fitted_to_torus, periods, shifted_pieces
from artmodels.methods.texture_synthesis.metrics import verbatim_share

PITCH = (16, 24)


def tiles(height: int = 112, width: int = 128, *, angle: float = 0.0, seed: int | None = None) -> Tensor:
    """Framed tiles of 16 x 24 pixels with a spot off their middle, turned by degrees; a seed gives each a tint."""
    y, x = np.mgrid[:height, :width] - np.array([height / 2, width / 2])[:, None, None]
    turn = np.deg2rad(angle)
    y, x = np.cos(turn) * y - np.sin(turn) * x, np.sin(turn) * y + np.cos(turn) * x
    down, across = y % PITCH[0], x % PITCH[1]
    colours = np.full((height, width, 3), [0.3, 0.5, 0.7])
    if seed is not None:
        tints = np.random.default_rng(seed).normal(0, 0.1, (64, 64))
        colours += tints[(y // PITCH[0]).astype(int), (x // PITCH[1]).astype(int)][..., None]
    colours[np.hypot(down - 6, across - 9) < 3.5] = [0.9, 0.3, 0.2]
    colours[(down < 3) | (across < 3)] = [0.9, 0.9, 0.8]
    return torch.from_numpy(colours.clip(0, 1)).float().permute(2, 0, 1)[None]


def photograph(name: str, side: int = 128) -> Tensor:
    return torch.from_numpy(np.asarray(examples.example(name, side), np.float32) / 255).permute(2, 0, 1)[None]


def whole(moves: object, basis: np.ndarray) -> np.ndarray:
    """How far moves are from whole periods, in pixels."""
    counts = np.atleast_2d(np.asarray(moves, float)) @ np.linalg.inv(basis)
    return np.hypot(*((counts - np.rint(counts)) @ basis).T)


# Periods


@pytest.mark.parametrize("angle", [0, 17, -40])
@pytest.mark.parametrize("tinted", [False, True])
def test_periods_of_tiles_are_found_at_any_angle(angle: float, tinted: bool) -> None:
    found = periods(tiles(angle=angle, seed=1 if tinted else None))
    assert found is not None
    turn = np.deg2rad(angle)
    # The picture at p is the plain one at (cos y - sin x, sin y + cos x): so its periods are turned back.
    turned = np.diag(PITCH) @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    assert whole(found, turned).max() < 0.5
    assert abs(np.linalg.det(found)) == pytest.approx(PITCH[0] * PITCH[1], rel=0.03), "no multiple of the periods"


def test_periods_are_in_pixels_of_a_large_exemplar_too() -> None:
    large = tiles(448, 512).repeat_interleave(2, 2).repeat_interleave(2, 3)
    found = periods(large)
    assert found is not None and whole(found, 2 * np.diag(PITCH)).max() < 1


def test_hand_laid_tiles_are_ruled() -> None:
    random = np.random.default_rng(0)
    shifts = [ndimage.gaussian_filter(random.standard_normal((112, 128)), 8) for _ in "yx"]
    y, x = (at + shift / shift.std() for at, shift in zip(np.mgrid[:112, :128], shifts, strict=True))
    bent = [ndimage.map_coordinates(channel, [y, x], order=1, mode="nearest") for channel in tiles()[0].numpy()]
    found = periods(torch.from_numpy(np.stack(bent))[None])
    assert found is not None and whole(found, np.diag(PITCH)).max() < 2


@pytest.mark.parametrize("name", ["gravel", "grass", "terrazzo", "marbling"])
def test_stuff_without_layout_has_no_periods(name: str) -> None:
    assert periods(photograph(name)) is None


def test_what_cannot_be_ruled_has_no_periods() -> None:
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    for exemplar in (noise, ramp, torch.full((1, 3, 64, 64), 0.5), noise[..., :9, :9]):
        assert periods(exemplar) is None


def test_stripes_are_ruled_across() -> None:
    found = periods((torch.arange(64) % 8 < 4).float().expand(1, 3, 64, 64))
    assert found is not None and np.abs(found[:, 1] / 8 - np.rint(found[:, 1] / 8)).max() < 0.03


# The first picture


@pytest.mark.parametrize("size", [(64, 80), (112, 128), (230, 150)])
def test_pieces_of_a_periodic_picture_continue_it(size: tuple[int, int]) -> None:
    exemplar = tiles()
    started = shifted_pieces(exemplar, np.diag(PITCH).astype(float), size, seed=3)
    assert started.shape == (1, 3, *size)
    # Whole periods away it is the same, and every patch is the exemplar's.
    assert torch.allclose(started[..., PITCH[0] :, :], started[..., : -PITCH[0], :], atol=1e-6)
    assert torch.allclose(started[..., PITCH[1] :], started[..., : -PITCH[1]], atol=1e-6)
    assert verbatim_share(started, exemplar, tolerance=1e-3) == 1


def test_pieces_are_drawn_with_the_seed_and_in_another_order() -> None:
    exemplar, basis = tiles(seed=2), np.diag(PITCH).astype(float)
    first, again, other = (shifted_pieces(exemplar, basis, (112, 128), seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    moved = [exemplar.roll((down, right), (2, 3)) for down in range(0, 112, 16) for right in range(0, 120, 24)]
    assert min(float((first - picture).abs().mean()) for picture in moved) > 0.02


def test_an_exemplar_of_hardly_two_periods_is_enough() -> None:
    small = tiles(34, 50)
    assert shifted_pieces(small, np.diag(PITCH).astype(float), (90, 70), seed=0).isfinite().all()


def test_a_canvas_holds_the_size_a_margin_and_whole_periods() -> None:
    height, width = canvas((100, 130), np.diag(PITCH).astype(float))
    assert 100 + 12 <= height <= 100 + 37 and 130 + 12 <= width <= 130 + 37
    assert (height % PITCH[0], width % PITCH[1]) == (0, 0)
    turned = np.array([[14.0, 5.0], [-5.0, 14.0]])
    height, width = canvas((100, 130), turned)
    assert 100 + 7 <= height <= 100 + 23 and 130 + 7 <= width <= 130 + 23
    assert whole([height, 0], turned) <= min(whole([side, 0], turned) for side in range(108, 122))


def test_an_exemplar_is_stretched_to_fit_a_torus() -> None:
    basis = np.diag(PITCH).astype(float)
    fitted, stretched = fitted_to_torus(tiles(), basis, (100, 100))
    assert whole([[100, 0], [0, 100]], stretched).max() < 1e-9
    assert np.abs(stretched / np.where(basis, basis, 1) - np.eye(2)).max() < 0.1
    found = periods(fitted)
    assert found is not None and whole(found, stretched).max() < 0.7


# What is made


@pytest.fixture(scope="module")
def patches() -> TextureSynthesizer:
    return TextureSynthesizer.from_pretrained("texture-patches", device="cpu")


def ruled(image: Tensor) -> float:
    """Correlation of an image with itself, moved by the periods of the tiles."""
    found = autocorrelation(image)
    down, across = (side // 2 for side in found.shape)
    return float(min(found[down + PITCH[0], across], found[down, across + PITCH[1]]))


def test_a_ruled_layout_survives_only_from_pieces(patches: TextureSynthesizer) -> None:
    exemplar = tiles(96, 96, seed=3)
    kept, broken = (patches(exemplar, size=(90, 100), steps=4, layout=layout) for layout in ("auto", "noise"))
    assert kept.tensor.shape == (1, 3, 90, 100)
    assert ruled(kept.tensor) > 0.85 * ruled(exemplar) > ruled(broken.tensor)
    *_, note = kept.notes
    assert "repeats every 16 and 24 px" in note and "% of the result is copied from it as it stands" in note
    assert not any("copied" in note for note in broken.notes)


def test_a_seamless_ruled_layout_goes_on_over_the_border(patches: TextureSynthesizer) -> None:
    result = patches(tiles(96, 96), size=(90, 100), steps=4, tileable=True)
    assert ruled(result.tensor.repeat(1, 1, 2, 2)[..., 45:135, 50:150].contiguous()) > 0.5
    assert any("stretched" in note for note in result.notes)


def test_stuff_without_layout_is_made_as_ever(patches: TextureSynthesizer) -> None:
    auto, noise = (patches(photograph("gravel", 64), size=(48, 48), steps=2, layout=name) for name in ("auto", "noise"))
    assert torch.equal(auto.tensor, noise.tensor) and auto.notes == noise.notes


# How much is copied


def test_the_verbatim_share_of_copies_and_of_noise() -> None:
    exemplar = photograph("gravel", 96)
    noise = torch.rand(1, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    assert verbatim_share(exemplar[..., 7:60, 11:90], exemplar) == 1
    assert verbatim_share(noise, exemplar) == 0
    half = torch.cat([exemplar[..., :40, :80], noise[..., 40:, :]], dim=2)
    assert verbatim_share(half, exemplar) == pytest.approx(0.45, abs=0.1)
    assert verbatim_share((exemplar + 0.5 / 255).clamp(0, 1), exemplar) == 1
