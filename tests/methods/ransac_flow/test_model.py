"""The fine stage's network: cosines of a window, what it can reach, its two encoders, and its graph."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels import features
from artmodels.errors import ConfigError
from artmodels.methods.ransac_flow.model import FineConfig, FineNetwork, correlation
from artmodels.runtime.devices import generator

PUBLISHED = FineConfig(encoder="published", width=64, heads=(512, 256, 128), corners=True)
SMALL = FineConfig(encoder="published", width=6, heads=(8, 8, 8))
OURS = FineConfig(heads=(8, 8, 8))


class Sharp(nn.Module):
    """A head that takes the window's largest cosine."""

    def forward(self, cosines: Tensor) -> Tensor:
        return 1e6 * cosines


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator(seed)), dim=1)


def pixels(displacement: Tensor) -> Tensor:
    """[N, 2, H, W] in relative coordinates as pixels of H x W."""
    height, width = displacement.shape[2:]
    return displacement * torch.tensor([width, height]).view(1, 2, 1, 1) / 2


@pytest.mark.parametrize("window", [3, 7])
def test_cosines_are_those_of_literal_loops(window: int) -> None:
    target, source = unit(2, 5, 4, 6, seed=1), unit(2, 5, 4, 6, seed=2)
    found = correlation(target, source, window).numpy()
    assert found.shape == (2, window**2, 4, 6)
    reach, expected = window // 2, np.zeros(found.shape)
    for n, r, c in itertools.product(range(2), range(4), range(6)):
        for k, (down, across) in enumerate(itertools.product(range(-reach, reach + 1), repeat=2)):
            if 0 <= r + down < 4 and 0 <= c + across < 6:
                expected[n, k, r, c] = target[n, :, r, c].double() @ source[n, :, r + down, c + across].double()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("config", [SMALL, OURS], ids=["published", "art-resnet"])
@pytest.mark.parametrize("size", [(32, 32), (40, 72)])
def test_shapes_ranges_and_unit_cells(config: FineConfig, size: tuple[int, int]) -> None:
    network = FineNetwork(config).eval()
    source, target = torch.rand(2, 2, 3, *size, generator=generator(1))
    with torch.no_grad():
        cells = network.encode(source)
        found = network(source, target)
        shares = network.weights_of_shifts(correlation(network.encode(target), cells, 7))
    assert cells.shape[2:] == (size[0] // 8, size[1] // 8)
    torch.testing.assert_close(cells.norm(dim=1), torch.ones(2, size[0] // 8, size[1] // 8))
    assert found.shape == (2, 6, *size)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, size[0] // 8, size[1] // 8))
    # Before training nothing is known of what matches.
    for channel in (2, 5):
        torch.testing.assert_close(found[:, channel], torch.full((2, *size), 0.5), atol=5e-3, rtol=0)
    with torch.no_grad():  # both ways, of which each is one
        torch.testing.assert_close(found[:, :3], network.one_way(source, target))
        torch.testing.assert_close(found[:, 3:], network.one_way(target, source))


def test_parameters_are_as_many_as_counted_by_hand() -> None:
    def count(module: nn.Module) -> int:
        return sum(each.numel() for each in module.parameters())

    # 3 x 3 convolutions without bias, shortcuts of 1 x 1, and two numbers a channel of each normalisation.
    encoder = 9 * 3 * 64 + 2 * 64
    encoder += 4 * (9 * 64 * 64 + 2 * 64)
    encoder += 9 * 64 * 128 + 3 * 9 * 128 * 128 + 64 * 128 + 5 * 2 * 128
    encoder += 9 * 128 * 256 + 3 * 9 * 256 * 256 + 128 * 256 + 5 * 2 * 256
    trunk = 9 * (49 * 512 + 512 * 256 + 256 * 128) + 2 * (512 + 256 + 128)
    network = FineNetwork(PUBLISHED)
    assert encoder == 2_775_104 and trunk == 1_702_144
    assert count(network.encoder) == encoder
    assert count(network.flow) == trunk + 9 * 128 * 49
    assert count(network.matchability) == trunk + 9 * 128
    ours = FineNetwork()
    trunk = 9 * (49 * 256 + 256 * 128 + 128 * 64) + 2 * (256 + 128 + 64)
    assert count(ours.flow) + count(ours.matchability) == 2 * trunk + 9 * 64 * 50
    # The encoder's own are not trained but where a recipe says so.
    assert ours.encoder.state_dict().keys() == features.build("art-resnet", until="layer2").state_dict().keys()


@pytest.mark.parametrize("corners", [False, True])
def test_a_place_moves_by_24_pixels_and_no_further(corners: bool) -> None:
    """F11: every shift of up to 3 cells is reached exactly, in x and y; no weights reach beyond."""
    network = FineNetwork(FineConfig(encoder="published", width=4, heads=(4, 4, 4), corners=corners))
    rows, columns = 5, 9
    one = torch.eye(49).view(49, 49, 1, 1).expand(-1, -1, rows, columns)
    moved = network.displacement(one)
    # 8 px of an image of 8 * columns px; where -1 and 1 are the centres of its outermost pixels, 1 px less counts.
    span = torch.tensor([8 * columns - corners, 8 * rows - corners]) / torch.tensor([8 * columns, 8 * rows])
    expected = torch.tensor([[8.0 * x, 8.0 * y] for y in range(-3, 4) for x in range(-3, 4)]) * span
    found = moved[:, :, 2, 4] * torch.tensor([8 * columns, 8 * rows]) / 2
    torch.testing.assert_close(found, expected)
    assert found.abs().max() == pytest.approx(24 * float(span.max())) and found.abs().max() <= 24
    anything = torch.randn(4, 49, rows, columns, generator=generator(1)).mul(20).softmax(1)
    limits = torch.tensor([8 * columns, 8 * rows]).view(1, 2, 1, 1) / 2
    assert (network.displacement(anything) * limits).abs().max() <= 24


@pytest.mark.parametrize(("cells", "reached"), [(3, True), (-3, True), (4, False)])
def test_three_cells_are_found_and_four_are_not(cells: int, reached: bool) -> None:
    network = FineNetwork(SMALL)
    network.flow = Sharp()
    target = unit(1, 16, 12, 14)
    moved, _ = network.match(target.roll(cells, 3), target)
    found = moved[0, 0, :, 4:-4] * 14 * 8 / 2
    assert (torch.allclose(found, torch.tensor(8.0 * cells), atol=1e-3)) == reached
    if not reached:
        assert (found < 31).all()


@pytest.mark.parametrize("config", [SMALL, OURS], ids=["published", "art-resnet"])
def test_the_flow_says_where_the_target_is_in_the_source(config: FineConfig) -> None:
    """Untrained features of a picture that is cut out elsewhere: 8 px to the right and 16 px up, in that order."""
    network = FineNetwork(config).eval()
    network.flow = Sharp()
    whole = torch.rand(1, 3, 200, 200, generator=generator(3))
    source, target = whole[:, :, 32:160, 32:168], whole[:, :, 16:144, 40:176]
    with torch.no_grad():
        moved = pixels(network(source, target)[:, :2])[0, :, 56:72, 56:80]
    torch.testing.assert_close(moved[0], torch.full_like(moved[0], 8.0), atol=0.1, rtol=0)
    torch.testing.assert_close(moved[1], torch.full_like(moved[1], -16.0), atol=0.1, rtol=0)


def test_the_same_seed_gives_the_same_weights() -> None:
    one, same, other = (FineNetwork(SMALL, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["flow.conv1.weight"], other["flow.conv1.weight"])
    assert not any("kernel" in key or "shifts" in key for key in one)  # which are no weights


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"encoder": "resnet18"}, "encoder='resnet18' must be one of 'art-resnet', 'published'"),
        ({"width": 0}, "width=0"),
        ({"heads": (8, 8)}, r"heads=\(8, 8\) must be 3 values"),
        ({"heads": (8, 8, 0)}, r"heads=\(8, 8, 0\)"),
        ({"window": 6}, "window=6 must be .* odd"),
        ({"window": 1}, "window=1 must be at least 3"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        FineConfig(**fields)


@pytest.mark.parametrize("config", [pytest.param(SMALL, marks=pytest.mark.slow), OURS], ids=["published", "art-resnet"])
def test_the_graph_of_two_pictures_gives_what_pytorch_gives(config: FineConfig) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    from export import convert

    # The exporter traces each shift of the window: 9 take seconds, and 49 take several times as long.
    network = FineNetwork(dataclasses.replace(config, window=3)).eval()
    nn.init.normal_(network.matchability.conv4.weight, std=0.1, generator=generator(1))
    model = convert.convert(network)
    dims = [[dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim] for port in model.graph.input]
    assert [port.name for port in model.graph.input] == ["source", "target"]
    assert dims == [["N", 3, "8*h", "8*w"]] * 2
    assert [port.name for port in model.graph.output] == ["alignment"]
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for batch, height, width in ((1, 64, 64), (2, 104, 72)):
        inputs = network.example(batch, height, width, seed=height)
        with torch.no_grad():
            wanted = network(*inputs)
        (found,) = session.run(None, dict(zip(network.inputs, (each.numpy() for each in inputs), strict=True)))
        assert pixels(wanted[:, :2]).abs().max() > 1 and wanted[:, 2].std() > 0.01
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4, rtol=0)
