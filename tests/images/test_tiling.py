"""tiling.py: padding that is cropped back, and tiles that blend without a trace."""

import itertools
import weakref

import pytest
import torch
import torch.nn.functional as F

from artmodels.errors import ConfigError
from artmodels.images.tiling import SizeRequirements, Tiling, fit_run, tiled


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def conv(radius: int, stride: int = 1):
    """A convolution with zero padding: its result shows where the borders of its input were."""
    side = 2 * radius + 1
    weight = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1)) / side

    def run(x):
        return F.conv2d(x, weight, padding=radius, stride=stride)

    return run


# --- sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirements,size,expected", [
    ({}, (5, 7), (5, 7)),
    ({"multiple_of": 4}, (5, 8), (8, 8)),
    ({"minimum": 16}, (5, 30), (16, 30)),
    ({"minimum": 10, "multiple_of": 4}, (5, 13), (12, 16)),
    ({"square": True}, (5, 7), (7, 7)),
    ({"square": True, "multiple_of": 2, "minimum": 3}, (1, 1), (4, 4)),
    ({"multiple_of": 2}, (101, 77), (102, 78)),
])  # fmt: skip
def test_size(requirements, size, expected):
    requirements = SizeRequirements(**requirements)
    assert requirements.size(*size) == expected
    x = noise(2, 3, *size)
    padded = requirements.pad(x)
    assert padded.shape == (2, 3, *expected)
    assert torch.equal(padded[..., : size[0], : size[1]], x)

    def enlarged(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    assert torch.equal(fit_run(enlarged, x, requirements, scale=2), enlarged(x))


def test_what_fits_is_not_copied():
    x = noise(1, 3, 8, 8)
    assert SizeRequirements(multiple_of=4).pad(x) is x


def test_padding_reflects():
    x = torch.arange(5.0).expand(1, 1, 5, 5)
    padded = SizeRequirements(multiple_of=8).pad(x)
    assert padded[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert padded[0, 0, 7].tolist() == padded[0, 0, 1].tolist()


def test_padding_repeats_where_there_is_too_little_to_reflect():
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])[None, None]  # one row of five
    padded = SizeRequirements(multiple_of=4).pad(x)
    assert padded[0, 0].tolist() == [[1, 2, 3, 4, 5, 4, 3, 2]] * 4
    padded = SizeRequirements(multiple_of=10).pad(x)  # as many more columns as there are
    assert padded[0, 0, 9].tolist() == [1, 2, 3, 4, 5, 5, 5, 5, 5, 5]


@pytest.mark.parametrize("setting", [{"minimum": 0}, {"multiple_of": 0}, {"multiple_of": 2.5}, {"minimum": -3}])
def test_size_requirements_are_checked(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}=.* must be (at least 1|a whole number)"):
        SizeRequirements(**setting)


def test_tiling_by_name():
    assert Tiling("discouraged") is Tiling.DISCOURAGED
    assert [t.value for t in Tiling] == ["supported", "discouraged", "internal"]


# --- fit_run ----------------------------------------------------------------------------------------


def test_fit_run_gives_the_size_of_its_input():
    seen = []

    def double(x):
        seen.append(tuple(x.shape))
        return F.interpolate(x, scale_factor=2)

    x = noise(1, 3, 101, 77)
    y = fit_run(double, x, SizeRequirements(multiple_of=4, minimum=80), scale=2)
    assert seen == [(1, 3, 104, 80)]
    assert torch.equal(y, F.interpolate(x, scale_factor=2))


def test_fit_run_names_a_wrong_size():
    with pytest.raises(
        ConfigError, match=r"fn gave \(1, 3, 8, 8\) for \(1, 3, 8, 8\); with scale 2 it must give \(1, c"
    ):
        fit_run(lambda x: x, noise(1, 3, 8, 8), SizeRequirements(), scale=2)
    with pytest.raises(ConfigError, match="scale is 0"):
        fit_run(lambda x: x, noise(1, 3, 8, 8), SizeRequirements(), scale=0)


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 3, 0, 8), (8,)])
def test_input_shape_is_checked(shape):
    for call in (
        lambda x: SizeRequirements().pad(x),
        lambda x: fit_run(lambda y: y, x, SizeRequirements()),
        lambda x: tiled(lambda y: y, x, tile=8, overlap=2),
    ):
        with pytest.raises(ConfigError, match=r"give a non-empty \[N, C, H, W\]"):
            call(torch.zeros(shape))


# --- tiled ------------------------------------------------------------------------------------------

SIZES = [(64, 64), (65, 63), (16, 200), (1, 100), (100, 1), (1, 1), (7, 5), (33, 130)]
TILES = [
    (16, 0, 1),
    (16, 1, 1),
    (16, 4, 1),
    (16, 7, 1),
    (16, 15, 1),
    (32, 8, 4),
    (32, 28, 4),
    (24, 9, 8),
    (512, 64, 16),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("tile,overlap,multiple", TILES)
def test_identity_is_exact(size, tile, overlap, multiple):
    x = noise(2, 3, *size)
    before = x.clone()
    y = tiled(lambda part: part, x, tile=tile, overlap=overlap, multiple_of=multiple)
    assert y.shape == x.shape
    assert (y - x).abs().max() <= 1e-6
    assert torch.equal(x, before)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("tile,overlap,multiple", [(16, 5, 1), (32, 8, 4), (16, 0, 1)])
def test_nearest_upsampling_is_exact(size, tile, overlap, multiple, scale):
    x = noise(1, 3, *size)

    def upsample(part):
        return F.interpolate(part, scale_factor=scale)

    y = tiled(upsample, x, tile=tile, overlap=overlap, multiple_of=multiple, scale=scale)
    assert (y - upsample(x)).abs().max() <= 1e-6


@pytest.mark.parametrize("radius,overlap", [(1, 4), (1, 7), (2, 8), (2, 11), (3, 12)])
@pytest.mark.parametrize("size", [(64, 64), (65, 47), (20, 100)], ids=str)
def test_convolution_equals_the_whole_image_borders_included(radius, overlap, size):
    x = noise(1, 3, *size)
    y = tiled(conv(radius), x, tile=20, overlap=overlap)
    assert y.shape == (1, 4, *size)
    assert (y - conv(radius)(x)).abs().max() <= 2e-6


def test_a_wider_reach_is_close_but_not_equal():
    x = noise(1, 3, 64, 64)
    error = (tiled(conv(2), x, tile=20, overlap=4) - conv(2)(x)).abs().max()
    assert 1e-3 < error < 1


def test_strided_network_equals_the_whole_image():
    def down_up(x):
        return F.interpolate(F.conv2d(x, torch.ones(3, 3, 4, 4) / 48, stride=4), scale_factor=4)

    x = noise(1, 3, 64, 100)
    for tile, overlap in ((24, 10), (32, 17), (20, 16)):
        assert (tiled(down_up, x, tile=tile, overlap=overlap, multiple_of=4) - down_up(x)).abs().max() <= 1e-6
    odd = noise(1, 3, 65, 99)  # padded by reflection first, then as above
    expected = fit_run(down_up, odd, SizeRequirements(multiple_of=4))
    assert (tiled(down_up, odd, tile=24, overlap=8, multiple_of=4) - expected).abs().max() <= 1e-6


def test_seam_is_a_raised_cosine():
    # Two tiles of 16 on 24 pixels, 8 shared: 2 of no weight, a ramp of 4, 2 of no weight.
    values = itertools.count()
    y = tiled(lambda part: torch.full_like(part, next(values)), torch.zeros(1, 1, 1, 24), tile=16, overlap=8)
    position = torch.tensor([0.125, 0.375, 0.625, 0.875])
    ramp = 0.5 - 0.5 * torch.cos(torch.pi * position)
    assert torch.allclose(y[0, 0, 0], torch.cat([torch.zeros(10), ramp, torch.ones(10)]), atol=1e-6)


def test_tile_larger_than_the_image_runs_once():
    seen = []

    def record(part):
        seen.append(tuple(part.shape))
        return part

    x = noise(1, 3, 30, 41)
    assert torch.equal(tiled(record, x, tile=64, overlap=16, multiple_of=8), x)
    assert seen == [(1, 3, 32, 48)]


def test_tiles_have_the_promised_shapes_and_order():
    corners = []
    x = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij"))[None]

    def record(part):
        assert part.shape[2:] == (16, 16)
        corners.append((int(part[0, 0, 0, 0]), int(part[0, 1, 0, 0])))
        return part

    tiled(record, x, tile=16, overlap=4)
    assert corners == [(top, left) for top in (0, 12, 24) for left in (0, 12, 24, 34)]
    corners.clear()
    tiled(record, F.pad(x, (0, 6)), tile=16, overlap=4, multiple_of=8)
    assert all(top % 8 == 0 and left % 8 == 0 for top, left in corners)


def test_results_of_tiles_are_freed_as_they_come():
    alive = []

    def record(part):
        assert sum(ref() is not None for ref in alive) <= 1  # the one before, at most
        y = part * 1.0
        alive.append(weakref.ref(y))
        return y

    tiled(record, noise(1, 3, 64, 64), tile=16, overlap=4)
    assert len(alive) == 25


def test_types_channels_and_batches():
    x = noise(3, 2, 40, 40)
    y = tiled(lambda part: part.sum(1, keepdim=True).double(), x, tile=16, overlap=4)
    assert y.dtype == torch.float64
    assert (y - x.sum(1, keepdim=True)).abs().max() <= 1e-6
    half = tiled(lambda part: part.bfloat16(), x, tile=16, overlap=4)
    assert half.dtype == torch.bfloat16
    assert (half - x).abs().max() < 1e-2


def test_gradients_flow():
    x = noise(1, 3, 30, 30).requires_grad_()
    tiled(lambda part: part * 2, x, tile=16, overlap=4).sum().backward()
    assert (x.grad - 2).abs().max() <= 1e-5


@pytest.mark.parametrize("settings,message", [
    ({"tile": 0, "overlap": 0}, "tile is 0; give a whole number of at least 1"),
    ({"tile": 16, "overlap": -1}, "overlap is -1; give a whole number of at least 0"),
    ({"tile": 16, "overlap": 16}, r"overlap is 16; give at most tile - multiple_of = 15"),
    ({"tile": 16, "overlap": 9, "multiple_of": 8}, r"overlap is 9; give at most tile - multiple_of = 8"),
    ({"tile": 20, "overlap": 0, "multiple_of": 8}, "tile is 20, which is no multiple of 8"),
    ({"tile": 16, "overlap": 4, "scale": 0}, "scale is 0"),
    ({"tile": 16, "overlap": 4, "scale": 1.5}, "scale is 1.5"),
    ({"tile": 16, "overlap": 4, "multiple_of": 0}, "multiple_of is 0"),
    ({"tile": 16, "overlap": 4, "scale": 2}, "with scale 2 it must give"),
])  # fmt: skip
def test_arguments_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        tiled(lambda part: part, noise(1, 3, 32, 32), **settings)


def test_functions_that_cannot_be_tiled():
    x = noise(1, 3, 32, 32)
    with pytest.raises(ConfigError, match="it must give"):
        tiled(lambda part: part.mean((2, 3), keepdim=True), x, tile=16, overlap=4)
    with pytest.raises(ConfigError, match="it must give"):
        tiled(lambda part: part[0], x, tile=16, overlap=4)
    with pytest.raises(ConfigError, match=r"type torch\.uint8, which cannot be blended"):
        tiled(lambda part: part.to(torch.uint8), x, tile=16, overlap=4)
    channels = itertools.cycle((3, 1))
    with pytest.raises(ConfigError, match="fn gave 1 channels for one tile and 3 for another"):
        tiled(lambda part: part[:, : next(channels)], x, tile=16, overlap=4)
