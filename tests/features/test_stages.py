"""Layers against PyTorch's own operations."""

import pytest
import torch
from noise import image
from torch.nn import functional as F

from artmodels.features.extractor import build
from artmodels.features.stages import Pool, Window, padded


@pytest.mark.parametrize("pad", [1, 3, 5])
def test_circular_padding_equals_pytorchs_and_so_does_its_gradient(pad: int) -> None:
    x = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    ours, theirs = padded(x, pad, "circular"), F.pad(x, (pad,) * 4, mode="circular")
    assert torch.equal(ours, theirs)
    weight = torch.randn_like(theirs)
    (mine,), (reference,) = (torch.autograd.grad((y * weight).sum(), x) for y in (ours, theirs))
    torch.testing.assert_close(mine, reference)


def test_max_pool_of_the_stem_is_torchvisions_but_where_the_mode_matters() -> None:
    pool, x = Pool(2, Window(3, 2, 1), "max"), torch.rand(1, 2, 8, 8)
    torchvisions = F.max_pool2d(x, 3, 2, 1)
    for padding in ("zeros", "reflect", "replicate"):
        assert torch.equal(pool(x, padding), torchvisions)
        if padding != "zeros":
            assert torch.equal(F.max_pool2d(F.pad(x, (1,) * 4, mode=padding), 3, 2), torchvisions)
    assert torch.equal(pool(x, "circular")[..., 0, 0], x[..., [[7], [0], [1]], [7, 0, 1]].amax((-2, -1)))
    assert torch.equal(pool(x, "valid"), F.max_pool2d(x, 3, 2))


@pytest.mark.parametrize("size", [3, 5, 7, 11])
def test_patches_are_the_pixels_around(size: int) -> None:
    x = image(16, 20)
    found = build("patches")(x, [f"patches{size}"], padding="valid")[f"patches{size}"]
    assert found.shape == (1, 3 * size**2, 17 - size, 21 - size)
    assert torch.equal(found[0, :, 2, 4].view(3, size, size), x[0, :, 2 : 2 + size, 4 : 4 + size])
