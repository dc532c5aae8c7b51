"""The published weights of RANSAC-Flow: its network written down anew gives what the converted one gives."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

import artmodels
from artmodels.errors import ConfigError, MissingWeights, UnsafeFormat, WeightsMismatch
from artmodels.hub import catalogue
from artmodels.methods.ransac_flow.model import FineConfig, FineNetwork
from artmodels.runtime.devices import generator
from weights import __main__ as command
from weights.convert import ransac_flow as convert

State = dict[str, Tensor]


# --- the published network, written down anew: a function of the tensors under their published names


def filters(channels: int) -> Tensor:
    return torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]).div(16).repeat(channels, 1, 1, 1)


def published(seed: int = 0) -> State:
    """Random weights under the published names; running statistics are not those of the start."""
    rng, state = generator(seed), State()

    def conv(name: str, outputs: int, inputs: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, side, side, generator=rng) / (inputs * side**2) ** 0.5

    def norm(name: str, channels: int) -> None:
        for kind in ("weight", "running_var"):
            state[f"{name}.{kind}"] = 0.5 + torch.rand(channels, generator=rng)
        for kind in ("bias", "running_mean"):
            state[f"{name}.{kind}"] = 0.3 * torch.randn(channels, generator=rng)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("netFeatCoarse.conv1", 64, 3, 3)
    norm("netFeatCoarse.bn1", 64)
    state["netFeatCoarse.maxpool.1.filt"] = filters(64)
    inputs = 64
    for layer, outputs in ((1, 64), (2, 128), (3, 256)):
        for block in range(2):
            name = f"netFeatCoarse.layer{layer}.{block}"
            conv(f"{name}.conv1", outputs, inputs, 3)
            norm(f"{name}.bn1", outputs)
            conv(f"{name}.conv2", outputs, outputs, 3)
            norm(f"{name}.bn2", outputs)
            if inputs != outputs:
                state[f"{name}.downsample.0.filt"] = filters(inputs)
                conv(f"{name}.downsample.1", outputs, inputs, 1)
                norm(f"{name}.downsample.2", outputs)
            inputs = outputs
    for head, last in (("netFlowCoarse", 49), ("netMatch", 1)):
        sides = (49, 512, 256, 128, last)
        for number in range(4):
            conv(f"{head}.conv{number + 1}", sides[number + 1], sides[number], 3)
            if number < 3:
                norm(f"{head}.bn{number + 1}", sides[number + 1])
        state[f"{head}.conv4.weight"] *= 4  # so that some shifts count more than others
    return state


def normed(state: State, x: Tensor, name: str) -> Tensor:
    mean, variance, gain, bias = (
        state[f"{name}.{kind}"].view(1, -1, 1, 1) for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * gain + bias


def halved(x: Tensor) -> Tensor:
    """1 2 1 over each direction at every second place, from slices; borders are reflected."""
    for dim in (2, 3):
        size = x.shape[dim]
        at = torch.arange(0, size, 2)
        before, after = (at - 1).abs(), torch.where(at + 1 < size, at + 1, size - 2)
        x = (x.index_select(dim, before) + 2 * x.index_select(dim, at) + x.index_select(dim, after)) / 4
    return x


def encoded(state: State, image: Tensor) -> Tensor:
    x = normed(state, F.conv2d(image, state["netFeatCoarse.conv1.weight"], padding=1), "netFeatCoarse.bn1").clamp_min(0)
    rows, columns = x.shape[2] - 1, x.shape[3] - 1
    x = halved(torch.stack([x[:, :, r : rows + r, c : columns + c] for r in (0, 1) for c in (0, 1)]).amax(0))
    for layer in (1, 2, 3):
        for block in range(2):
            name = f"netFeatCoarse.layer{layer}.{block}"
            half = layer > 1 and block == 0
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=2 if half else 1, padding=1)
            y = normed(state, y, f"{name}.bn1").clamp_min(0)
            y = normed(state, F.conv2d(y, state[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            if half:
                x = normed(state, F.conv2d(halved(x), state[f"{name}.downsample.1.weight"]), f"{name}.downsample.2")
            x = (x + y).clamp_min(0)
    return x / x.square().sum(1, keepdim=True).sqrt()


def headed(state: State, x: Tensor, name: str) -> Tensor:
    for number in (1, 2, 3):
        x = F.conv2d(x, state[f"{name}.conv{number}.weight"], padding=1)
        x = normed(state, x, f"{name}.bn{number}").clamp_min(0)
    return F.conv2d(x, state[f"{name}.conv4.weight"], padding=1)


def official(state: State, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Displacement [N, 2, H, W] where -1 and 1 are the centres of the outermost pixels, and matchability."""
    one, other = encoded(state, target), F.pad(encoded(state, source), (3, 3, 3, 3))
    rows, columns = one.shape[2:]
    shifts = [(y, x) for y in range(-3, 4) for x in range(-3, 4)]
    cosines = [(one * other[:, :, 3 + y : 3 + y + rows, 3 + x : 3 + x + columns]).sum(1) for y, x in shifts]
    shares = headed(state, torch.stack(cosines, 1), "netFlowCoarse").exp()
    shares = shares / shares.sum(1, keepdim=True)
    down, across = (torch.tensor([float(shift[i]) for shift in shifts]).view(1, -1, 1, 1) for i in (0, 1))
    flow = torch.stack([(shares * across).sum(1) / columns, (shares * down).sum(1) / rows], 1) * 2
    matchable = 1 / (1 + (-headed(state, torch.stack(cosines, 1), "netMatch")).exp())
    larger = {"size": source.shape[2:], "mode": "bilinear", "align_corners": False}
    return F.interpolate(flow, **larger), F.interpolate(matchable, **larger)


@pytest.fixture(scope="module")
def state() -> State:
    return published()


def test_converted_weights_give_what_the_published_ones_give(state: State) -> None:
    network = FineNetwork(convert.PUBLISHED).eval()
    network.load_state_dict(convert.convert(state))
    source, target = (torch.rand(1, 3, 48, 64, generator=generator(seed)) for seed in (1, 2))
    with torch.no_grad():
        flow, matchable = official(state, source, target)
        found = network.one_way(source, target)
    width_height = torch.tensor([64, 48]).view(1, 2, 1, 1)
    pixels = flow * (width_height - 1) / 2
    assert pixels.abs().max() > 4 and matchable.std() > 0.05
    # 1e-5 of the 24 px that a place can move.
    torch.testing.assert_close(found[:, :2] * width_height / 2, pixels, atol=2.4e-4, rtol=0)
    torch.testing.assert_close(found[:, 2:], matchable, atol=1e-5, rtol=0)


def test_a_file_becomes_a_checkpoint(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "mega.safetensors")
    arguments = ["convert", "ransac-flow-megadepth", str(tmp_path / "mega.safetensors"), str(tmp_path / "mine")]
    done = CliRunner().invoke(command.app, arguments)
    assert done.exit_code == 0 and "artmodels.RansacFlow.from_pretrained" in done.output
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    aligner = artmodels.RansacFlow.from_pretrained(tmp_path / "mine", device="cpu")
    assert aligner.network is not None
    loaded, wanted = aligner.network.state_dict(), convert.convert(state)
    assert all(torch.equal(loaded[key], value) for key, value in wanted.items())
    network = {"encoder": "published", "width": 64, "heads": [512, 256, 128], "window": 7, "corners": True}
    assert config == {"method": "ransac_flow", **network}
    tensors = load_file(tmp_path / "mine" / "model.safetensors")
    wanted = FineNetwork(FineConfig(encoder="published", heads=(512, 256, 128))).state_dict()
    assert {key: value.shape for key, value in tensors.items()} == {
        key: value.shape for key, value in wanted.items() if value.is_floating_point()
    }
    assert torch.equal(tensors["encoder.layer2.0.downsample.2.bias"], state["netFeatCoarse.layer2.0.downsample.2.bias"])
    assert "mine exists and is not an empty folder" in str(CliRunner().invoke(command.app, arguments).exception)


def test_the_printed_command_flattens_a_file_of_state_dicts(tmp_path: Path, monkeypatch) -> None:
    match = {"conv4.weight": torch.rand(1, 2, 3, 3), "bn1.num_batches_tracked": torch.tensor(3)}
    nested = {"netCorr": {}, "netMatch": match}
    torch.save(nested, tmp_path / "m.pth")
    with pytest.raises(UnsafeFormat, match="nothing else is ever opened") as caught:
        convert.convert_file(tmp_path / "m.pth", tmp_path / "out")
    python, flag, code, *arguments = shlex.split(str(caught.value).splitlines()[1])
    assert (python, flag) == ("python", "-c")
    assert arguments == [str(tmp_path / "m.pth"), str(tmp_path / "m.safetensors")]
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(code, {})
    flat = load_file(tmp_path / "m.safetensors")
    assert flat.keys() == {"netMatch.conv4.weight", "netMatch.bn1.num_batches_tracked"}
    assert torch.equal(flat["netMatch.conv4.weight"], nested["netMatch"]["conv4.weight"])


def test_files_that_are_not_converted(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"12345678")
    with pytest.raises(WeightsMismatch, match="is damaged"):
        convert.convert_file(tmp_path / "bad.safetensors", tmp_path / "out")
    with pytest.raises(MissingWeights, match="There is no file"):
        convert.convert_file(tmp_path / "none.safetensors", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        convert.convert_file(tmp_path / "bad.safetensors", tmp_path / "full")
    assert not (tmp_path / "out").exists()


def test_tensors_of_another_network_are_refused_by_name(state: State) -> None:
    less = {key: value for key, value in state.items() if key != "netMatch.bn2.running_var"}
    with pytest.raises(WeightsMismatch, match=r"shape are netMatch\.bn2\.running_var\. Fetch"):
        convert.convert(less)
    with pytest.raises(WeightsMismatch, match=r"shape are netCorr\.weight\."):
        convert.convert(state | {"netCorr.weight": torch.zeros(1)})
    with pytest.raises(WeightsMismatch, match=r"shape are netFlowCoarse\.conv4\.weight\."):
        convert.convert(state | {"netFlowCoarse.conv4.weight": torch.zeros(81, 128, 3, 3)})
    with pytest.raises(WeightsMismatch, match=r"and \d+ more"):
        convert.convert({"layer1.0.conv1.weight": torch.zeros(1)})


def test_another_filter_and_what_is_no_number_are_refused(state: State) -> None:
    key = "netFeatCoarse.layer3.0.downsample.0.filt"
    with pytest.raises(WeightsMismatch, match=f"{key} is not the binomial filter"):
        convert.convert(state | {key: torch.full((128, 1, 3, 3), 1 / 9)})
    key = "netFlowCoarse.bn1.bias"
    with pytest.raises(WeightsMismatch, match=f"{key} hold values that are no numbers"):
        convert.convert(state | {key: torch.full((512,), torch.nan)})


def test_the_published_weights_by_name_say_how_to_get_them() -> None:
    entry = catalogue.get("ransac-flow-megadepth")
    assert entry.converted and FineConfig(**entry.config) == convert.PUBLISHED
    with pytest.raises(
        MissingWeights, match=r"weights convert ransac_flow MegaDepth_Theta1_Eta001_Grad0_0.807.pth my-"
    ):
        artmodels.RansacFlow.from_pretrained("ransac-flow-megadepth")
