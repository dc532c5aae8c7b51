"""What the fine stage is trained to make small, against scikit-image and numbers by hand."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence.geometry import identity
from artmodels.methods.ransac_flow.training import losses
from artmodels.runtime.devices import generator


def picture(seed: int, height: int = 34, width: int = 40) -> Tensor:
    rng = generator(seed)
    soft = F.interpolate(torch.rand(1, 3, 7, 8, generator=rng), (height, width), mode="bilinear")
    return 0.7 * soft + 0.3 * torch.rand(1, 3, height, width, generator=rng)


def moved(height: int, width: int, across: float, down: float) -> Tensor:
    """A grid that reads so many pixels away."""
    return (identity(height, width) + 2 * torch.tensor([across / width, down / height]))[None]


def test_ssim_of_a_picture_with_itself_is_1() -> None:
    image = picture(1)
    torch.testing.assert_close(losses.ssim(image, image), torch.ones_like(image))
    assert float(losses.ssim_loss(image, image, torch.ones(1, 1, 34, 40))) == pytest.approx(0, abs=1e-6)


def test_ssim_is_that_of_scikit_image() -> None:
    one, other = picture(1), (picture(1) * 0.6 + picture(2) * 0.4)
    found = losses.ssim(one, other)[0].permute(1, 2, 0).numpy()
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}

    def reference(pad: int) -> np.ndarray:
        first, second = (F.pad(each, (pad,) * 4)[0].permute(1, 2, 0).double().numpy() for each in (one, other))
        _, full = structural_similarity(first, second, channel_axis=2, full=True, **options)
        return full[pad : 34 + pad, pad : 40 + pad]

    np.testing.assert_allclose(found[5:-5, 5:-5], reference(0)[5:-5, 5:-5], atol=1e-4)
    np.testing.assert_allclose(found, reference(11), atol=1e-4)  # outside there is 0
    assert found.min() < 0.7


def test_the_loss_counts_pixels_whose_windows_are_mostly_in_the_mask() -> None:
    one, other = picture(1), picture(2)
    mask = torch.zeros(1, 1, 34, 40)
    mask[..., 12:, :19] = 1
    similarity = losses.ssim(one, other)[0].mean(0)
    total, count = 0.0, 0
    for r in range(34):
        for c in range(40):
            window = mask[0, 0, max(0, r - 5) : r + 6, max(0, c - 5) : c + 6]
            if float(window.sum()) / 121 > 0.5:
                total, count = total + 1 - float(similarity[r, c]), count + 1
    assert 100 < count < int(mask.sum())
    assert float(losses.ssim_loss(one, other, mask)) == pytest.approx(total / count, abs=1e-4)


def test_what_is_masked_does_not_matter() -> None:
    one, other = picture(1), picture(2)
    mask = torch.zeros(1, 1, 34, 40)
    mask[..., :17] = 1
    changed = one.clone()
    changed[..., 22:] = 0.5  # 5 px beyond the last window that counts
    assert torch.equal(losses.ssim_loss(one, other, mask), losses.ssim_loss(changed, other, mask))
    assert not torch.equal(losses.ssim_loss(one, other, 1 - mask), losses.ssim_loss(changed, other, 1 - mask))


def test_all_pixels_count_where_none_does() -> None:
    """As at the beginning of the stage that learns the matchability: a half there, a half back."""
    one, other = picture(1), picture(2)
    found = losses.ssim_loss(one, other, torch.full((1, 1, 34, 40), 0.25))
    assert float(found) == pytest.approx(1 - float(losses.ssim(one, other).mean()), rel=1e-4)


def test_the_loss_has_a_gradient_and_none_where_it_is_masked() -> None:
    one = picture(1).requires_grad_(True)
    mask = torch.zeros(1, 1, 34, 40)
    mask[..., :17] = 1
    losses.ssim_loss(one, picture(2), mask).backward()
    assert one.grad is not None and one.grad[..., :17].abs().max() > 0 and not one.grad[..., 22:].any()


def test_the_mean_where_nothing_counts_is_0() -> None:
    values = torch.tensor([1.0, 2.0, 30.0]).view(1, 1, 1, 3)
    assert float(losses.masked_mean(values, torch.zeros_like(values))) == 0
    mask = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 1, 3)
    assert float(losses.masked_mean(values, mask)) == pytest.approx(2 / 1.5, rel=1e-3)


def test_reading_at_a_grid() -> None:
    image = picture(3)
    torch.testing.assert_close(losses.sampled(image, identity(34, 40)[None]), image, atol=1e-5, rtol=0)
    right = losses.sampled(image, moved(34, 40, 4, -3))
    torch.testing.assert_close(right[:, :, 3:, :-4], image[:, :, :-3, 4:], atol=1e-5, rtol=0)
    # Borders go on.
    torch.testing.assert_close(right[:, :, 3:, -4:], image[:, :, :-3, -1:].expand(-1, -1, -1, 4), atol=1e-5, rtol=0)


def test_there_and_back_costs_nothing() -> None:
    mask = F.pad(torch.ones(1, 1, 18, 24), (8, 8, 8, 8))
    there, back = moved(34, 40, 5, -2), moved(34, 40, -5, 2)
    assert float(losses.cycle(there, back, mask)) == pytest.approx(0, abs=1e-6)
    # Twice there: 10 px of 40 and 4 of 34, where a side is 2 long; the mean of both axes.
    assert float(losses.cycle(there, there, mask)) == pytest.approx((10 * 2 / 40 + 4 * 2 / 34) / 2, rel=1e-4)


def test_there_and_back_by_affine_maps() -> None:
    """Of which a bilinear grid is exact: a turn, a scale and a shift, and their inverse."""
    matrix, shift = torch.tensor([[0.9, 0.15], [-0.2, 0.85]]), torch.tensor([0.05, -0.1])
    points = identity(34, 40)
    there = (points @ matrix.T + shift)[None]
    back = ((points - shift) @ torch.linalg.inv(matrix).T)[None]
    mask = F.pad(torch.ones(1, 1, 22, 28), (6, 6, 6, 6))
    assert float(losses.cycle(there, back, mask)) == pytest.approx(0, abs=1e-6)
    assert float(losses.cycle(there, there, mask)) > 0.1


def test_only_changes_of_the_flow_count_and_only_where_the_mask_is() -> None:
    mask = torch.ones(1, 1, 6, 8)
    assert float(losses.smoothness(torch.full((1, 2, 6, 8), 0.3), mask)) == pytest.approx(0, abs=2e-6)
    ramp = torch.zeros(1, 2, 6, 8)
    ramp[:, 0] = 0.03 * torch.arange(8) + 0.0 * torch.arange(6)[:, None]
    ramp[:, 1] = 0.04 * torch.arange(6)[:, None]
    assert float(losses.smoothness(ramp, mask)) == pytest.approx(0.05, rel=1e-3)
    ramp[..., 5:] = 7  # from the change between columns 4 and 5 on it is masked
    mask[..., 4:] = 0
    assert float(losses.smoothness(ramp, mask)) == pytest.approx(0.05, rel=1e-3)


def test_smoothness_of_a_flat_flow_has_a_finite_gradient() -> None:
    flat = torch.zeros(1, 2, 4, 4, requires_grad=True)
    losses.smoothness(flat, torch.ones(1, 1, 4, 4)).backward()
    assert flat.grad is not None and bool(flat.grad.isfinite().all())


def test_the_distance_from_the_truth_is_in_pixels() -> None:
    truth = torch.zeros(1, 2, 32, 64)
    found = truth.clone()
    found[:, 0] = 3 * 2 / 64
    found[:, 1] = 4 * 2 / 32
    found[..., 40:] = 9
    mask = torch.ones(1, 1, 32, 64)
    mask[..., 40:] = 0
    assert float(losses.endpoint(found, truth, mask, 8)) == pytest.approx(5 / 8, rel=1e-3)
    assert float(losses.endpoint(truth, truth, mask, 8)) == pytest.approx(0.01, rel=1e-3)  # rounded at the bottom


def test_what_can_be_seen_is_a_cross_entropy() -> None:
    seen = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    told = torch.tensor([0.8, 0.4]).view(1, 1, 1, 2)
    assert float(losses.visibility(told, seen)) == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)
    assert float(losses.visibility(1 - seen, seen)) == pytest.approx(-math.log(1e-6), rel=0.01)
