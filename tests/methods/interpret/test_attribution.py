"""VisualBackProp against masks by hand and an independent adjoint; Grad-CAM by hand."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.errors import ConfigError
from artmodels.features import FeatureExtractor, build
from artmodels.features.networks import NETWORKS, Node
from artmodels.features.stages import Convolution, Pool, Residual, Stage, Window
from artmodels.methods.interpret.attribution import grad_cam, overlaid, visual_backprop


def ones(inputs: int, channels: int, kernel: int, stride: int = 1) -> Convolution:
    conv = Convolution(inputs, channels, kernel, stride=stride)
    conv.weight.data.fill_(1.0)
    return conv


def test_a_mask_by_hand() -> None:
    """One pixel; a 3 x 3 convolution with ones and padding: 3 x 3 ones, whose transposed is a pyramid of 5 x 5."""
    image = torch.zeros(1, 3, 7, 7)
    image[0, 0, 3, 3] = 1
    one = FeatureExtractor("toy", [Node(ones(3, 2, 3), ("a",), -1)], padding="zeros")
    pyramid = torch.tensor([0.0, 1, 2, 3, 2, 1, 0])
    assert torch.allclose(visual_backprop(one, image)[0, 0], torch.outer(pyramid, pyramid) / 9)
    # In a corner the padding is cropped off, and nothing else.
    image = torch.zeros(1, 3, 7, 7)
    image[0, 0, 0, 0] = 1
    corner = torch.tensor([2.0, 2, 1, 0, 0, 0, 0])
    assert torch.allclose(visual_backprop(one, image)[0, 0], torch.outer(corner, corner) / 4)


def test_two_layers_by_hand_with_a_remainder_of_the_stride() -> None:
    """6 x 6 by a kernel of 2 and stride 2, then one of 3 and stride 2 that leaves the last row and column out."""
    first, second = ones(3, 1, 2, 2), ones(1, 1, 3, 2)
    first.windows, second.windows = (Window(2, 2, 0),), (Window(3, 2, 0),)
    network = FeatureExtractor("toy", [Node(first, ("a",), -1), Node(second, ("b",), 0)], padding="zeros")
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    a = F.avg_pool2d(image.sum(1, keepdim=True), 2) * 4  # [1, 1, 4, 4]
    b = float(a[..., :3, :3].sum())
    expected = torch.zeros(4, 4)
    expected[:3, :3] = b
    expected = (expected * a[0, 0]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.allclose(visual_backprop(network, image)[0, 0], expected / expected.max(), atol=1e-6)


class Branches(Stage):
    """As a block of InceptionV1: a 1 x 1, a reduced 3 x 3, a reduced 5 x 5 and a pooled branch, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = torch.nn.ModuleList(torch.nn.ModuleList([Convolution(4, 4, kernel)]) for kernel in (1, 3, 5))
        self.windows, self.channels, self.relu = (Window(5, 1, 2),), 16, True

    def forward(self, x: Tensor, padding: str) -> Tensor:
        branches = [conv(x, padding) for (conv,) in self.paths]
        return torch.cat([*branches, F.max_pool2d(x, 3, 1, 1)], 1)


def by_adjoint(extractor: FeatureExtractor, image: Tensor, tap: str) -> Tensor:
    """The same, its transposed convolutions by autograd of convolutions with ones, and without scaling."""
    path, stage = [], extractor.index[tap]
    while stage >= 0:
        path.append(stage)
        (stage,) = (s,) if isinstance(s := extractor.sources[stage], int) else s
    path.reverse()
    outputs, x = [image.double()], extractor._preprocess(image)
    for number in path:
        x = extractor.stages[number](x, extractor.padding)
        outputs.append(x.double())
    mask = None
    for place in reversed(range(len(path))):
        stage = extractor.stages[path[place]]
        if isinstance(stage, Residual) or getattr(stage, "relu", False):
            own = outputs[place + 1].mean(1, keepdim=True)
            mask = own if mask is None else mask * own
        if mask is None:
            continue
        leaf = torch.zeros(1, 1, *outputs[place].shape[-2:], dtype=torch.float64, requires_grad=True)
        y = leaf
        for kernel, stride, padding in stage.windows:
            y = F.conv2d(y, torch.ones(1, 1, kernel, kernel, dtype=torch.float64), stride=stride, padding=padding)
        (mask,) = torch.autograd.grad(y, leaf, mask)
    mask = mask - mask.min()
    return mask / mask.max()


def inception_like() -> FeatureExtractor:
    stem, block = Convolution(3, 4, 7, stride=2), Branches()
    for conv in (stem, *(path[0] for path in block.paths)):
        conv.randomise(torch.Generator().manual_seed(1))
    pool = Pool(4, Window(3, 2, 1), "max")
    nodes = [Node(stem, ("conv2d0",), -1), Node(pool, ("pool",), 0), Node(block, ("mixed3a",), 1)]
    return FeatureExtractor("toy", nodes, padding="zeros")


@pytest.mark.parametrize(
    ("network", "tap", "size"),
    [
        ("vgg19", "relu3_4", (37, 45)),
        ("vgg19", "pool4", (32, 48)),
        ("resnet50", "layer3", (45, 61)),
        ("art-resnet", "layer3", (45, 61)),
        ("art-vgg", "relu4_1", (33, 48)),
        ("inception", "mixed3a", (31, 42)),
    ],
)
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_it_is_exact_for_the_networks(network: str, tap: str, size: tuple[int, int], padding: str) -> None:
    extractor = inception_like() if network == "inception" else build(network, pooling="max", until=tap)
    extractor.padding = padding
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(3))
    found = visual_backprop(extractor, image, tap=tap)
    assert found.shape == (1, 1, *size)
    assert found.min() == 0 and found.max() == 1
    assert torch.allclose(found.double(), by_adjoint(extractor, image, tap), atol=1e-4)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("name", ["inception-v1", "googlenet"])
def test_branches_of_inception_add_up(name: str, padding: str) -> None:
    """All of the mask as one gradient: each ReLU multiplies by its sum of channels, each window sums up."""
    if name not in NETWORKS:
        pytest.skip(f"there is no {name} among the networks yet")
    extractor = build(name, until="mixed3b", padding=padding)
    image = torch.rand(1, 3, 43, 51, generator=torch.Generator().manual_seed(7))
    found = visual_backprop(extractor, image, tap="mixed3b")
    read = [(s,) if isinstance(s, int) else s for s in extractor.sources]
    leaf = torch.zeros(1, 1, 43, 51, dtype=torch.float64, requires_grad=True)
    outputs = {-1: extractor._preprocess(image)}
    masks_of = {-1: leaf}
    for i, stage in enumerate(extractor.stages):
        outputs[i] = stage(*(outputs[s] for s in read[i]), padding=padding)
        y = sum(masks_of[s] for s in read[i])
        for kernel, stride, pad in stage.windows:
            border = getattr(stage, "border", "same" if getattr(stage, "same", False) else "centred")
            want = outputs[i].shape[-2:]
            first = [pad, pad]
            if padding == "zeros" and border == "ceil":
                first = [0, 0]
            elif padding == "zeros" and border == "same":
                first = [max(0, (w - 1) * stride + kernel - s) // 2 for w, s in zip(want, y.shape[-2:], strict=True)]
            last = [(w - 1) * stride + kernel - s - f for w, s, f in zip(want, y.shape[-2:], first, strict=True)]
            y = F.conv2d(
                F.pad(y, (first[1], last[1], first[0], last[0])),
                torch.ones(1, 1, kernel, kernel, dtype=torch.float64),
                stride=stride,
            )
        if type(stage).__name__ == "Rectifier":
            y = y * outputs[i].double().sum(1, keepdim=True)
        masks_of[i] = y
    (mask,) = torch.autograd.grad(masks_of[len(read) - 1].sum(), leaf)
    mask = mask - mask.min()
    assert torch.allclose(found.double(), mask / mask.max(), atol=1e-4)


def test_a_whole_vgg_and_resnet_keep_within_range() -> None:
    """Without scaling, products of 16 maps of networks with large weights would be infinite."""
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    for name in ("vgg19", "resnet50"):
        extractor = build(name)
        for parameter in extractor.parameters():
            parameter.data *= 30 if name == "vgg19" else 2
        found = visual_backprop(extractor, image)
        assert found.isfinite().all()
        assert found.amax((1, 2, 3)).tolist() == [1, 1]
        assert float(found.mean()) > 0


def test_it_moves_with_the_picture() -> None:
    extractor = build("art-resnet", padding="circular")
    patch = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    image = torch.zeros(1, 3, 192, 192)
    image[..., 64:96, 64:96] = patch
    moved = image.roll((16, 32), (2, 3))
    here, there = (visual_backprop(extractor, picture, tap="layer1") for picture in (image, moved))
    middle = (..., slice(56, 136), slice(72, 152))  # what the border does not reach
    assert float(here[middle].mean()) > 0.001
    assert torch.allclose(here.roll((16, 32), (2, 3))[middle], there[middle], atol=1e-4)


def test_without_maps_there_is_no_mask() -> None:
    dead = ones(3, 2, 3)
    dead.weight.data.fill_(-1.0)
    network = FeatureExtractor("toy", [Node(dead, ("a",), -1)])
    assert visual_backprop(network, torch.rand(1, 3, 8, 8)).eq(0).all()
    linear = FeatureExtractor("toy", [Node(Convolution(3, 2, 1, relu=False), ("a",), -1)])
    with pytest.raises(ConfigError, match="toy has no rectified map up to 'a'"):
        visual_backprop(linear, torch.rand(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="no tap 'b'"):
        visual_backprop(linear, torch.rand(1, 3, 8, 8), tap="b")


class Maps:
    taps = ("maps", "pooled")

    def __call__(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        maps = torch.cat([x[:, :1], 2 * x[:, 1:2]], 1)
        return {tap: maps if tap == "maps" else maps.mean((2, 3)) for tap in taps}


def test_grad_cam_by_hand() -> None:
    image = torch.zeros(2, 3, 4, 4)
    image[0, 0, 0, 1], image[0, 1, 3, 2], image[1, 1, 2, 2] = 1.0, 1.0, 1.0
    found = grad_cam(Maps(), image, lambda pooled: 3 * pooled[:, 0] + pooled[:, 1], tap="maps", of="pooled")
    # Weights are 3 / 16 and 1 / 16: the map of the first channel is 1 there, that of the second 2.
    expected = torch.zeros(2, 1, 4, 4)
    expected[0, 0, 0, 1], expected[0, 0, 3, 2], expected[1, 0, 2, 2] = 1, 2 / 3, 1
    assert torch.allclose(found, expected)
    against = grad_cam(Maps(), image, lambda pooled: -pooled[:, 0], tap="maps", of="pooled")
    assert against.eq(0).all()
    with pytest.raises(ConfigError, match="one number for each of 2 pictures, not"):
        grad_cam(Maps(), image, lambda pooled: pooled, tap="maps", of="pooled")
    constant = torch.ones(2, requires_grad=True)
    with pytest.raises(ConfigError, match="does not depend on the maps"):
        grad_cam(Maps(), image, lambda pooled: constant * 2, tap="maps", of="pooled")


def test_grad_cam_of_a_network_finds_the_evidence() -> None:
    extractor = build("resnet18")
    image = torch.full((1, 3, 96, 96), 0.5)
    image[..., 56:88, 8:40] = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(6))
    found = grad_cam(extractor, image, lambda maps: maps.square().mean((1, 2, 3)), tap="layer2", of="layer3")
    assert found.shape == (1, 1, 96, 96) and found.max() == 1
    inside = found[..., 56:88, 8:40].mean()
    assert float(inside) > 2 * float(found.mean())


def test_an_overlay_is_red() -> None:
    image, mask = torch.full((1, 3, 1, 2), 0.5), torch.tensor([[[[0.25, 1.0]]]])
    assert overlaid(image, mask)[0, :, 0].tolist() == [[0.75, 1], [0.25, 0], [0.25, 0]]


def test_corners_of_images_match_whatever_the_size() -> None:
    extractor = build("art-resnet")
    for height, width in itertools.product((33, 40), (47, 64)):
        assert visual_backprop(extractor, torch.rand(1, 3, height, width)).shape == (1, 1, height, width)
