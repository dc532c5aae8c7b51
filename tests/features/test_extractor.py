"""Reading features at taps: what runs, geometry, padding, preprocessing, checkpointing, messages."""

import math
from typing import get_args

import pytest
import torch
from noise import image
from torch import Tensor
from torch.nn import functional as F

from artmodels.errors import ConfigError, ImageError
from artmodels.features.extractor import FeatureExtractor, build
from artmodels.features.networks import CAFFE, NONE, TORCHVISION, Node, Preprocessing, convolutions, vgg_nodes
from artmodels.features.stages import Padding

SMALL_VGG = ((4, 6), (8, 8), (10, 10, 10))  # widths that make every test of structure fast


def small_vgg(
    pooling: str = "avg", preprocessing: Preprocessing = NONE, dtype: torch.dtype = torch.float32
) -> FeatureExtractor:
    nodes = vgg_nodes(SMALL_VGG, pooling)
    source = torch.Generator().manual_seed(1)
    for conv in convolutions(nodes):
        conv.randomise(source)
        conv.bias.data.normal_(0, 0.1, generator=source)  # else zero padding of zero features would go unseen
    return FeatureExtractor("small-vgg", nodes, preprocessing=preprocessing, dtype=dtype)


@pytest.fixture(scope="module")
def resnet18() -> FeatureExtractor:
    return build("resnet18", seed=3)


@pytest.fixture(scope="module")
def filters() -> FeatureExtractor:
    return build("random-filters", maps=4)


# --- taps ------------------------------------------------------------------------------------------


def test_features_come_in_the_order_asked_with_the_shapes_announced(filters: FeatureExtractor) -> None:
    for extractor in (small_vgg(), filters, build("patches")):
        asked = extractor.taps[::-1]
        found = extractor(image(64, 96), asked)
        assert tuple(found) == asked
        for tap, feature in found.items():
            stride = extractor.stride(tap)
            assert feature.shape == (1, extractor.channels(tap), 64 // stride, 96 // stride)
            assert feature.dtype == torch.float32


def test_a_stage_and_its_other_name_are_one_tensor(resnet18: FeatureExtractor) -> None:
    found = resnet18(image(64), ["layer1", "layer1.1"])
    assert found["layer1"] is found["layer1.1"]


@pytest.mark.parametrize(
    ("taps", "ran"),
    [
        (["relu1_1"], [0]),
        (["relu2_1", "pool1"], [0, 1, 2, 3]),
        (["relu1_2"], [0, 1]),
        (["pool3"], list(range(10))),
    ],
)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_forward_stops_at_the_deepest_tap(taps: list[str], ran: list[int], checkpoint: bool) -> None:
    extractor = small_vgg()
    assert stages_run(extractor, taps, checkpoint=checkpoint) == ran


def test_a_forward_runs_only_the_branches_asked(filters: FeatureExtractor) -> None:
    names = {i: tap for tap, i in filters.index.items()}
    assert [names.get(i, "halving") for i in stages_run(filters, ["filters37", "filters3"])] == [
        *("filters3", "halving", "halving", "filters37")
    ]


def stages_run(extractor: FeatureExtractor, taps: list[str], *, checkpoint: bool = False) -> list[int]:
    ran: list[int] = []
    hooks = [stage.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, stage in enumerate(extractor.stages)]
    extractor(image(64), taps, checkpoint=checkpoint)
    for hook in hooks:
        hook.remove()
    return ran


def test_until_leaves_the_rest_out() -> None:
    short, whole = build("vgg16", until="relu2_1"), build("vgg16")
    assert short.taps[-1] == "relu2_1"
    assert sum(p.numel() for p in short.parameters()) == 64 * 28 + 64 * 577 + 128 * 577
    torch.testing.assert_close(short(image(16), ["relu2_1"]), whole(image(16), ["relu2_1"]), rtol=0, atol=0)


# --- geometry --------------------------------------------------------------------------------------


def support(extractor: FeatureExtractor, tap: str, size: int) -> tuple[int, int]:
    """Height and width of the part of the image that the middle feature depends on, from gradients."""
    x = image(size).requires_grad_()
    feature = extractor(x, [tap], padding="zeros")[tap]
    feature[..., feature.shape[-2] // 2, feature.shape[-1] // 2].sum().backward()
    seen = x.grad.abs().sum((0, 1)).nonzero()
    low, high = seen.amin(0), seen.amax(0)
    return tuple((high - low + 1).tolist())


@pytest.mark.parametrize("tap", ["relu1_1", "relu1_2", "pool1", "relu2_2", "pool2", "relu3_1", "relu3_3", "pool3"])
def test_receptive_field_of_a_vgg_is_what_gradients_reach(tap: str) -> None:
    extractor = small_vgg()
    field = extractor.receptive_field(tap)
    assert support(extractor, tap, 2 * field + 16) == (field, field)


@pytest.mark.parametrize("tap", ["stem", "maxpool", "layer1.0", "layer1", "layer2.0"])
def test_receptive_field_of_a_resnet_is_what_gradients_reach(resnet18: FeatureExtractor, tap: str) -> None:
    field = resnet18.receptive_field(tap)
    assert support(resnet18, tap, 2 * field + 32) == (field, field)


@pytest.mark.parametrize("tap", [f"filters{n}" for n in (3, 11, 15, 23, 37, 55)])
def test_receptive_field_of_filters_is_what_gradients_reach(filters: FeatureExtractor, tap: str) -> None:
    field = filters.receptive_field(tap)
    assert support(filters, tap, 2 * field + 16) == (field, field)


@pytest.mark.parametrize("padding", get_args(Padding))
@pytest.mark.parametrize("kind", ["vgg", "resnet", "filters", "patches"])
def test_the_minimum_size_works_and_one_pixel_less_does_not(
    kind: str, padding: str, resnet18: FeatureExtractor, filters: FeatureExtractor
) -> None:
    extractor = {"vgg": small_vgg(), "resnet": resnet18, "filters": filters, "patches": build("patches")}[kind]
    for tap in extractor.taps:
        if tap.startswith(("layer3", "layer4")):
            continue
        size = extractor.minimum_size(tap, padding=padding)
        assert min(extractor(image(size, size + 3), [tap], padding=padding)[tap].shape) >= 1
        if size == 1:
            continue
        with pytest.raises(ImageError) as error:
            extractor(image(size + 9, size - 1), [tap], padding=padding)
        assert f"{size - 1} x {size + 9}" in str(error.value)
        assert f"{tap!r} with {padding} padding needs at least {size} x {size}" in str(error.value)


def test_valid_features_need_the_whole_receptive_field(resnet18: FeatureExtractor) -> None:
    for tap in ("stem", "layer1.0", "layer2.0", "layer2"):
        size = resnet18.minimum_size(tap, padding="valid")
        assert size == resnet18.receptive_field(tap)
        assert resnet18(image(size), [tap], padding="valid")[tap].shape[-2:] == (1, 1)


# --- padding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["reflect", "replicate", "circular", "zeros"])
def test_first_convolution_pads_as_said(padding: str) -> None:
    extractor = small_vgg()
    conv, x = extractor.stages[0], image(9, 7)
    padded = F.pad(x, (1, 1, 1, 1), mode="constant" if padding == "zeros" else padding)
    expected = F.conv2d(padded, conv.weight, conv.bias).relu()
    torch.testing.assert_close(extractor(x, ["relu1_1"], padding=padding)["relu1_1"], expected)


def test_padding_of_the_extractor_is_the_default_of_the_forward() -> None:
    x = image(12)
    circular = FeatureExtractor("copy", [Node(build("patches").stages[0], ("patches3",), -1)], padding="circular")
    assert torch.equal(circular(x, ["patches3"])["patches3"][0, 0, :, 0], x[0, 0, torch.arange(-1, 11), -1])
    assert torch.equal(circular(x, ["patches3"], padding="zeros")["patches3"][0, 0, :, 0], torch.zeros(12))


@pytest.mark.parametrize("kind", ["vgg-avg", "vgg-max", "resnet", "filters", "patches"])
def test_circular_features_roll_with_the_image(
    kind: str, resnet18: FeatureExtractor, filters: FeatureExtractor
) -> None:
    extractor = {
        "vgg-avg": small_vgg("avg"),
        "vgg-max": small_vgg("max"),
        "resnet": resnet18,
        "filters": filters,
        "patches": build("patches"),
    }[kind]
    x = image(64, 128)
    taps = [tap for tap in extractor.taps if not tap.startswith("layer4")]
    before = extractor(x, taps, padding="circular")
    for tap in taps:
        stride = extractor.stride(tap)
        for rows, columns in ((1, 0), (0, 1), (2, -3)):
            rolled = x.roll((rows * stride, columns * stride), (2, 3))
            after = extractor(rolled, [tap], padding="circular")[tap]
            torch.testing.assert_close(after, before[tap].roll((rows, columns), (2, 3)), rtol=1e-4, atol=1e-5)
        if kind != "patches":
            reflected = extractor(rolled, [tap], padding="reflect")[tap]
            assert (reflected - before[tap].roll((2, -3), (2, 3))).abs().max() > 1e-3


@pytest.mark.parametrize("tap", ["stem", "maxpool", "layer1.0", "layer2.0", "layer2.1", "layer3.0"])
def test_valid_features_are_the_inside_of_padded_ones(resnet18: FeatureExtractor, tap: str) -> None:
    """Also of the shortcuts, whose border has to be cut to stay aligned."""
    x, stride = image(240, 272), resnet18.stride(tap)
    path = resnet18._path(tap)
    jumps = [math.prod(window.stride for window in path[:i]) for i in range(len(path))]
    # The first unpadded feature sits that many pixels further in; start the image where the two grids meet.
    inset = sum(window.padding * jump for window, jump in zip(path, jumps, strict=True))
    start = -inset % stride
    valid = resnet18(x[..., start:, start:], [tap], padding="valid")[tap]
    padded = resnet18(x, [tap], padding="zeros")[tap]
    first = (start + inset) // stride
    inside = padded[..., first : first + valid.shape[-2], first : first + valid.shape[-1]]
    assert min(valid.shape[-2:]) >= 2
    torch.testing.assert_close(valid, inside, rtol=1e-4, atol=1e-4)


# --- preprocessing ---------------------------------------------------------------------------------


def test_preprocessing_is_in_the_networks_order_and_scale() -> None:
    x = torch.tensor([0.2, 0.5, 1.0]).view(1, 3, 1, 1)
    caffe = small_vgg(preprocessing=CAFFE)._preprocess(x).flatten().tolist()
    assert caffe == pytest.approx([255 - 103.939, 127.5 - 116.779, 51 - 123.68], abs=1e-4)
    torchvision = small_vgg(preprocessing=TORCHVISION)._preprocess(x).flatten().tolist()
    assert torchvision == pytest.approx([-0.285 / 0.229, 0.044 / 0.224, 0.594 / 0.225], abs=1e-5)
    assert torch.equal(small_vgg(preprocessing=NONE)._preprocess(x), x)
    assert build("vgg16", until="relu1_1", preprocessing=CAFFE).preprocessing == CAFFE
    assert build("resnet50", until="stem").preprocessing == TORCHVISION
    assert build("patches").preprocessing == NONE


def test_preprocessing_reaches_the_features_and_the_gradient() -> None:
    plain, caffe = small_vgg(), small_vgg(preprocessing=CAFFE)
    x = image(12).requires_grad_()
    prepared = x.flip(1) * 255 - torch.tensor(CAFFE.mean).view(1, 3, 1, 1)
    ours, theirs = (f(y, ["relu2_1"])["relu2_1"] for f, y in ((caffe, x), (plain, prepared)))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    (mine,), (reference,) = (torch.autograd.grad(y.square().mean(), x) for y in (ours, theirs))
    torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-3 * reference.abs().max().item())


# --- checkpointing, dtype, freezing ----------------------------------------------------------------


@pytest.mark.parametrize("padding", ["reflect", "circular"])
@pytest.mark.parametrize("kind", ["vgg", "resnet", "filters"])
def test_checkpointing_changes_no_number(
    kind: str, padding: str, resnet18: FeatureExtractor, filters: FeatureExtractor
) -> None:
    extractor = {"vgg": small_vgg(), "resnet": resnet18, "filters": filters}[kind]
    taps = [tap for tap in extractor.taps if not tap.startswith(("layer3", "layer4"))]
    results = []
    for checkpoint in (False, True):
        x = image(64).requires_grad_()
        found = extractor(x, taps, padding=padding, checkpoint=checkpoint)
        sum(feature.square().mean() for feature in found.values()).backward()
        results.append((found, x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_checkpointing_keeps_less() -> None:
    kept = []
    for checkpoint in (False, True):
        sizes: dict[int, int] = {}

        def note(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            if not isinstance(tensor, torch.nn.Parameter):
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            found = small_vgg()(image(64).requires_grad_(), ["pool3"], checkpoint=checkpoint)
        kept.append(sum(sizes.values()))
        del found
    assert kept[1] < kept[0] / 4


def test_only_the_image_has_a_gradient_and_training_mode_stays_off() -> None:
    extractor = small_vgg().train()
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    x = image(16).requires_grad_()
    extractor(x, ["relu3_1"])["relu3_1"].sum().backward()
    assert x.grad.abs().sum() > 0


def test_an_earlier_tap_is_not_overwritten_by_a_later_stage(resnet18: FeatureExtractor) -> None:
    for extractor in (small_vgg(), resnet18):
        taps = [tap for tap in extractor.taps if not tap.startswith("layer4")]
        together = extractor(image(64), taps)
        for tap in taps:
            assert torch.equal(together[tap], extractor(image(64), [tap])[tap])


def test_networks_run_channels_last() -> None:
    feature = small_vgg()(image(16, 20), ["relu2_2"])["relu2_2"]
    assert feature.is_contiguous(memory_format=torch.channels_last)


def test_bfloat16_computes_in_it_and_returns_float32() -> None:
    exact, short = small_vgg(), small_vgg(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in short.parameters()} == {torch.bfloat16}
    found = short(image(32), ["relu3_3"])["relu3_3"]
    assert found.dtype == torch.float32
    expected = exact(image(32), ["relu3_3"])["relu3_3"]
    assert not torch.equal(found, expected)
    assert (found - expected).norm() < 0.05 * expected.norm()


# --- messages --------------------------------------------------------------------------------------


def test_wrong_calls_are_named() -> None:
    extractor = small_vgg()
    with pytest.raises(
        ConfigError,
        match="small-vgg has no tap 'relu1_l'. Did you mean .*'relu1_1'.* Choose from 'relu1_1', 'relu1_2'",
    ):
        extractor(image(8), ["relu1_l"])
    for ask in (extractor.stride, extractor.receptive_field, extractor.channels, extractor.minimum_size):
        with pytest.raises(ConfigError, match="no tap 'conv1'"):
            ask("conv1")
    for taps in ([], "relu1_1"):
        with pytest.raises(ConfigError, match="taps must be a list of at least one"):
            extractor(image(8), taps)
    with pytest.raises(ConfigError, match="Unknown padding 'same'"):
        extractor(image(8), ["relu1_1"], padding="same")
    for wrong in (image(8)[0], torch.rand(1, 1, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(ImageError, match=r"small-vgg reads a floating-point tensor \[N, 3, H, W\]"):
            extractor(wrong, ["relu1_1"])
