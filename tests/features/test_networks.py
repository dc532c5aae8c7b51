"""The named networks against their definitions: torchvision's and timm's models, random weights, messages."""

import math
from pathlib import Path

import pytest
import torch
from noise import image
from safetensors.torch import save_file
from torch import Tensor

from artmodels.errors import ConfigError, DeviceError, MissingWeights, WeightsMismatch
from artmodels.features.extractor import build, load
from artmodels.features.networks import (
    CAFFE,
    TORCHVISION,
    TRAINED,
    Node,
    Preprocessing,
    checkpoint_layout,
    convolutions,
    named_nodes,
)
from artmodels.features.stages import Convolution


def convolutions_of(name: str) -> list[Convolution]:
    return list(convolutions(named_nodes(name, pooling="avg", until=None)[0]))


def test_taps_are_the_fields_own_names() -> None:
    assert build("vgg16", until="pool2").taps == (
        "relu1_1",
        "relu1_2",
        "pool1",
        "relu2_1",
        "relu2_2",
        "pool2",
    )
    assert [tap for tap in build("vgg19").taps if tap.startswith(("relu5", "pool"))] == [
        *("pool1", "pool2", "pool3", "pool4", "relu5_1", "relu5_2", "relu5_3", "relu5_4", "pool5")
    ]
    assert build("resnet50", until="layer1").taps == (
        "stem",
        "maxpool",
        "layer1.0",
        "layer1.1",
        "layer1.2",
        "layer1",
    )
    assert build("random-filters", maps=1).taps == tuple(f"filters{n}" for n in (3, 5, 7, 11, 15, 23, 37, 55))
    assert build("patches").taps == ("patches3", "patches5", "patches7", "patches11")


def test_geometry_of_the_published_networks() -> None:
    vgg, resnet = build("vgg19"), build("resnet50")
    # relu4_1 of VGG-19: 1 + 2·(1+1) + 1 + 2·2·2 + 2 + 4·2·4 + 4 + 2·8 = 68.
    assert [vgg.receptive_field(tap) for tap in ("relu1_1", "relu2_1", "relu3_1", "relu4_1")] == [
        3,
        10,
        24,
        68,
    ]
    assert [vgg.stride(tap) for tap in ("relu1_2", "pool1", "relu5_4", "pool5")] == [1, 2, 16, 32]
    assert [resnet.stride(f"layer{n}") for n in (1, 2, 3, 4)] == [4, 8, 16, 32]
    assert [resnet.channels(f"layer{n}") for n in (1, 2, 3, 4)] == [256, 512, 1024, 2048]
    assert [resnet.receptive_field(f"layer{n}") for n in (1, 2, 3, 4)] == [35, 91, 267, 427]


# --- weight-free extractors ------------------------------------------------------------------------


def test_the_seed_decides_the_weights() -> None:
    for name, until in (("vgg16", "relu2_1"), ("resnet18", "layer1"), ("random-filters", None)):
        one, same, other = (build(name, until=until, seed=seed).state_dict() for seed in (5, 5, 6))
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["vgg19", "resnet50"])
def test_random_networks_keep_their_features_in_scale(name: str) -> None:
    extractor = build(name)
    with torch.no_grad():
        found = extractor(image(64), extractor.taps)
    deviations = [feature.std().item() for feature in found.values()]
    assert max(deviations) < 8
    assert min(deviations) > 0.2


def test_random_filters_answer_alike_to_an_image_whatever_their_size() -> None:
    """On a grey image with the 1/f amplitudes of photographs."""
    extractor = build("random-filters", maps=32)
    frequency = torch.fft.fftfreq(512)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt()
    radius[0, 0] = math.inf
    noise = torch.fft.fft2(torch.randn(512, 512, generator=torch.Generator().manual_seed(0)))
    grey = torch.fft.ifft2(noise / radius).real
    x = (0.5 + 0.25 * grey / grey.std()).expand(1, 3, 512, 512)
    with torch.no_grad():
        found = extractor(x, extractor.taps, padding="circular")
    energies = [feature.square().mean().item() for feature in found.values()]
    assert all(0.4 < energy < 2 for energy in energies), energies


def test_random_filters_are_blind_to_grey_and_see_colour() -> None:
    extractor = build("random-filters", maps=16)
    rose = torch.tensor([0.9, 0.2, 0.4]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    grey, colour = (extractor(x, extractor.taps) for x in (torch.full_like(rose, 0.7), rose))
    for tap in extractor.taps:
        assert grey[tap].max() < 1e-5
        assert colour[tap].max() > 0.05


# --- trained weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in TRAINED if not name.startswith("art-")])
def test_layout_is_that_of_timms_model(name: str) -> None:
    import timm

    with torch.device("meta"):
        model = timm.create_model(f"{name}.tv_in1k", pretrained=False)
    layout = checkpoint_layout(name)
    assert layout == {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    needed = [key for conv in convolutions_of(name) for key in conv.keys()]  # noqa: SIM118
    assert len(needed) == len(set(needed))
    unread = layout.keys() - set(needed)
    assert set(needed) <= layout.keys()
    assert all(key.startswith(("fc.", "pre_logits.", "head.")) or key.endswith("batches_tracked") for key in unread)


@pytest.mark.parametrize("name", TRAINED)
def test_layout_gives_our_own_shapes(name: str) -> None:
    layout = checkpoint_layout(name)
    for conv in convolutions_of(name):
        assert layout[conv.keys()[0]] == tuple(conv.weight.shape)
        assert all(layout[key] == tuple(conv.bias.shape) for key in conv.keys()[1:])


@pytest.fixture(scope="module")
def timm_resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """Timm's model with random weights and random statistics, and a folder as the Hub would hold it."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet18.tv_in1k", pretrained=False).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.3, 0.8)
            module.bias.data.normal_(0, 0.2)
    folder = tmp_path_factory.mktemp("resnet18")
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "resnet18"}')
    return model, folder


@pytest.mark.parametrize("until", [None, "layer2"])
def test_a_loaded_resnet_is_timms(timm_resnet18: tuple[torch.nn.Module, Path], until: str | None) -> None:
    model, folder = timm_resnet18
    extractor = load(str(folder), padding="zeros", until=until)
    layers = [f"layer{n}" for n in (1, 2, 3, 4)][: 2 if until else 4]
    theirs: dict[str, Tensor] = {}
    hooks = [
        getattr(model, name).register_forward_hook(lambda _, __, y, name=name: theirs.update({name: y}))
        for name in ["act1", *layers]
    ]
    x = image(64, 96)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (TORCHVISION.mean, TORCHVISION.std))
    with torch.no_grad():
        model((x - mean) / std)
        ours = extractor(x, ["stem", *layers])
    for hook in hooks:
        hook.remove()
    for name, feature in zip(ours, theirs.values(), strict=True):
        torch.testing.assert_close(ours[name], feature, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_a_vgg_is_torchvisions(name: str) -> None:
    """Without the head, whose 0.5 GB no feature needs: the file would be slow to write and read."""
    import torchvision

    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)().features
    theirs = theirs.to_empty(device="cpu").eval()
    source = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        scale = math.sqrt(2 / parameter[0].numel()) if parameter.ndim > 1 else 0.1
        parameter.data.normal_(0, scale, generator=source)
    tensors = {f"features.{key}": tensor for key, tensor in theirs.state_dict().items()}

    extractor = build(name, pooling="max", padding="zeros", until="relu5_1")
    for conv in convolutions([Node(stage, (), -1) for stage in extractor.stages]):
        conv.assign(tensors)
    x = image(48, 64)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (TORCHVISION.mean, TORCHVISION.std))
    with torch.no_grad():
        ours = extractor(x, extractor.taps)
        y = (x - mean) / std
        expected = []
        for layer in theirs:
            y = layer(y)
            if not isinstance(layer, torch.nn.Conv2d):
                expected.append(y.clone())
    for tap, feature in zip(extractor.taps, expected, strict=False):
        assert (ours[tap] - feature).abs().max() < 1e-5 * feature.abs().max(), tap


def checkpoint_folder(folder: Path, state: dict[str, Tensor], config: str) -> str:
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(config)
    return str(folder)


def test_the_whole_file_is_checked_however_little_is_read(
    timm_resnet18: tuple[torch.nn.Module, Path], tmp_path: Path
) -> None:
    state = dict(timm_resnet18[0].state_dict())
    del state["fc.bias"]
    state["layer2.0.conv1.weight"] = state["layer2.0.conv1.weight"][:, :-1].contiguous()
    state["extra"] = torch.zeros(1)
    folder = checkpoint_folder(tmp_path, state, '{"architecture": "resnet18"}')
    with pytest.raises(WeightsMismatch) as error:
        load(folder, until="stem")
    for fault in ("fc.bias", "extra", "layer2.0.conv1.weight"):
        assert fault in str(error.value)


def test_only_the_tensors_needed_are_read(
    timm_resnet18: tuple[torch.nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = Convolution.assign
    monkeypatch.setattr(Convolution, "assign", lambda self, tensors: (read.extend(tensors), original(self, tensors)))
    load(str(timm_resnet18[1]), until="stem")
    assert sorted(read) == ["bn1.bias", "bn1.running_mean", "bn1.running_var", "bn1.weight", "conv1.weight"]


def test_preprocessing_travels_with_the_weights(timm_resnet18: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    stated = '{"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}}'
    folder = checkpoint_folder(tmp_path, timm_resnet18[0].state_dict(), stated)
    assert load(folder, until="stem").preprocessing == Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)
    assert load(folder, until="stem", preprocessing=CAFFE).preprocessing == CAFFE
    assert load(str(timm_resnet18[1]), until="stem").preprocessing == TORCHVISION


def test_a_folder_of_another_architecture_is_refused(
    timm_resnet18: tuple[torch.nn.Module, Path], tmp_path: Path
) -> None:
    for stated in ('"convnext_tiny"', '"patches"', "null"):
        folder = checkpoint_folder(tmp_path, {"w": torch.zeros(1)}, f'{{"architecture": {stated}}}')
        with pytest.raises(ConfigError, match=r"\"architecture\": .* can be read from 'vgg16', 'vgg19', 'resnet18'"):
            load(folder)


def test_loading_what_has_no_weights_is_building_it() -> None:
    assert load("patches", padding="circular").padding == "circular"
    built, loaded = build("random-filters").state_dict(), load("random-filters").state_dict()
    assert all(torch.equal(built[key], loaded[key]) for key in built)


def test_weights_that_are_not_there_are_an_error_and_never_random() -> None:
    with pytest.raises(MissingWeights, match="vgg19"):
        load("vgg19", local_files_only=True)
    with pytest.raises(ConfigError, match="Unknown padding 'same'"):  # said before anything is fetched
        load("vgg19", padding="same")


# --- messages --------------------------------------------------------------------------------------


def test_wrong_settings_are_named_with_the_near_miss() -> None:
    with pytest.raises(ConfigError, match="Unknown feature extractor 'vgg-19'. Did you mean 'vgg19'"):
        build("vgg-19")
    with pytest.raises(ConfigError, match="Unknown pooling 'mean'.* Choose one of 'avg', 'max'"):
        build("vgg19", pooling="mean")
    with pytest.raises(ConfigError, match="Unknown padding 'reflection'. Did you mean 'reflect'"):
        build("patches", padding="reflection")
    with pytest.raises(ConfigError, match="Unknown tap 'relu6_1'"):
        build("vgg16", until="relu6_1")
    with pytest.raises(ConfigError, match="maps must be at least 1, not 0"):
        build("random-filters", maps=0)
    with pytest.raises(DeviceError):
        build("patches", device="cuda:77")
