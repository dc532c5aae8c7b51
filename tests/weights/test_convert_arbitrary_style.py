"""Magenta's checkpoint of arbitrary style: its networks written down anew paint as the converted ones do."""

import math
import shlex
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner
from verbs import picture

from artmodels.errors import MissingWeights, UnsafeFormat, WeightsMismatch
from artmodels.methods.arbitrary_style.inception import InceptionStyle
from artmodels.methods.arbitrary_style.model import ArbitraryStyleConfig, StyleTransformer
from artmodels.methods.arbitrary_style.pipeline import ArbitraryStyle
from weights import __main__ as command
from weights.convert import arbitrary_style as convert

State = dict[str, Tensor]


# --- The published networks, written down anew: images are [N, H, W, C], kernels [H, W, inputs, outputs]


class Published:
    """Runs the networks under TensorFlow's names; a variable that is not there yet is drawn when it is used."""

    def __init__(self) -> None:
        self.state: State = {}
        self.random = torch.Generator().manual_seed(0)
        self.largest = list[float]()  # before each ReLU6

    def variable(self, name: str, *shape: int, mean: float = 0.0, spread: float = 1.0) -> Tensor:
        if name not in self.state:
            self.state[name] = mean + spread * torch.randn(shape, generator=self.random)
        return self.state[name]

    def convolved(self, x: Tensor, scope: str, outputs: int, height: int, width: int, stride: int = 1) -> Tensor:
        inputs = x.shape[3]
        spread = 0.3 / (inputs * height * width) ** 0.5  # so small that the epsilons matter
        weights = self.variable(f"{scope}/weights", height, width, inputs, outputs, spread=spread)
        y = F.conv2d(x.permute(0, 3, 1, 2), weights.permute(3, 2, 0, 1), stride=stride)
        return y.permute(0, 2, 3, 1)

    def batch_norm(self, x: Tensor, scope: str) -> Tensor:
        name = f"{scope}/BatchNorm"
        if f"{name}/beta" not in self.state:
            # What comes, as after training, but a little off: so no signal dies or explodes on the way.
            variance, mean = torch.var_mean(x, (0, 1, 2))
            draws = torch.randn(3, x.shape[3], generator=self.random)
            self.state[f"{name}/moving_mean"] = mean + 0.3 * variance.sqrt() * draws[0]
            self.state[f"{name}/moving_variance"] = variance * (1 + 0.1 * draws[1]).clamp_min(0.5)
            self.state[f"{name}/beta"] = 2 + 2 * draws[2]
        mean, variance = self.state[f"{name}/moving_mean"], self.state[f"{name}/moving_variance"]
        return (x - mean) / (variance + 0.001).sqrt() + self.state[f"{name}/beta"]

    def mapped(self, x: Tensor, scope: str, outputs: int, *, mean: float = 0.0, spread: float) -> Tensor:
        """A convolution of single pixels, [N, inputs] to [N, outputs]."""
        weights = self.variable(f"{scope}/weights", 1, 1, x.shape[1], outputs, spread=spread)
        return x @ weights[0, 0] + self.variable(f"{scope}/biases", outputs, mean=mean, spread=0.2)

    def inception(self, style: Tensor) -> Tensor:
        """InceptionV3 up to Mixed_6e, its mean, and the bottleneck."""

        def conv(
            x: Tensor, name: str, outputs: int, height: int, width: int, *, stride: int = 1, valid: bool = False
        ) -> Tensor:
            if not valid:
                x = same(x, height, width)
            scope = f"InceptionV3/{name}"
            y = self.batch_norm(self.convolved(x, scope, outputs, height, width, stride), scope)
            self.largest.append(float(y.max()))
            return y.clamp(0, 6)

        x = conv(style, "Conv2d_1a_3x3", 32, 3, 3, stride=2, valid=True)
        x = conv(x, "Conv2d_2a_3x3", 32, 3, 3, valid=True)
        x = conv(x, "Conv2d_2b_3x3", 64, 3, 3)
        x = largest_of_nine(x)
        x = conv(x, "Conv2d_3b_1x1", 80, 1, 1, valid=True)
        x = conv(x, "Conv2d_4a_3x3", 192, 3, 3, valid=True)
        x = largest_of_nine(x)
        for block, first, second, pooled in (
            ("Mixed_5b", "Conv2d_0a_1x1", "Conv2d_0b_5x5", 32),
            ("Mixed_5c", "Conv2d_0b_1x1", "Conv_1_0c_5x5", 64),
            ("Mixed_5d", "Conv2d_0a_1x1", "Conv2d_0b_5x5", 64),
        ):
            a = conv(x, f"{block}/Branch_0/Conv2d_0a_1x1", 64, 1, 1)
            b = conv(x, f"{block}/Branch_1/{first}", 48, 1, 1)
            b = conv(b, f"{block}/Branch_1/{second}", 64, 5, 5)
            c = conv(x, f"{block}/Branch_2/Conv2d_0a_1x1", 64, 1, 1)
            c = conv(c, f"{block}/Branch_2/Conv2d_0b_3x3", 96, 3, 3)
            c = conv(c, f"{block}/Branch_2/Conv2d_0c_3x3", 96, 3, 3)
            d = conv(mean_of_nine(x), f"{block}/Branch_3/Conv2d_0b_1x1", pooled, 1, 1)
            x = torch.cat([a, b, c, d], 3)
        a = conv(x, "Mixed_6a/Branch_0/Conv2d_1a_1x1", 384, 3, 3, stride=2, valid=True)
        b = conv(x, "Mixed_6a/Branch_1/Conv2d_0a_1x1", 64, 1, 1)
        b = conv(b, "Mixed_6a/Branch_1/Conv2d_0b_3x3", 96, 3, 3)
        b = conv(b, "Mixed_6a/Branch_1/Conv2d_1a_1x1", 96, 3, 3, stride=2, valid=True)
        x = torch.cat([a, b, largest_of_nine(x)], 3)
        for block, depth in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            a = conv(x, f"{block}/Branch_0/Conv2d_0a_1x1", 192, 1, 1)
            b = conv(x, f"{block}/Branch_1/Conv2d_0a_1x1", depth, 1, 1)
            b = conv(b, f"{block}/Branch_1/Conv2d_0b_1x7", depth, 1, 7)
            b = conv(b, f"{block}/Branch_1/Conv2d_0c_7x1", 192, 7, 1)
            c = conv(x, f"{block}/Branch_2/Conv2d_0a_1x1", depth, 1, 1)
            c = conv(c, f"{block}/Branch_2/Conv2d_0b_7x1", depth, 7, 1)
            c = conv(c, f"{block}/Branch_2/Conv2d_0c_1x7", depth, 1, 7)
            c = conv(c, f"{block}/Branch_2/Conv2d_0d_7x1", depth, 7, 1)
            c = conv(c, f"{block}/Branch_2/Conv2d_0e_1x7", 192, 1, 7)
            d = conv(mean_of_nine(x), f"{block}/Branch_3/Conv2d_0b_1x1", 192, 1, 1)
            x = torch.cat([a, b, c, d], 3)
        return self.mapped(x.mean((1, 2)), "Conv", 100, spread=0.02)

    def transform(self, content: Tensor, vector: Tensor) -> Tensor:
        """The transformer, [N, H, W, 3] in [0, 1]."""

        def conv(x: Tensor, scope: str, outputs: int, kernel: int, stride: int = 1) -> Tensor:
            padded = F.pad(x.permute(0, 3, 1, 2), [kernel // 2] * 4, mode="reflect").permute(0, 2, 3, 1)
            return self.convolved(padded, f"transformer/{scope}", outputs, kernel, kernel, stride)

        def styled(x: Tensor, scope: str, outputs: int, kernel: int = 3) -> Tensor:
            y = conv(x, scope, outputs, kernel)
            maps = f"style_params/transformer/{scope}/StyleNorm"
            beta = self.mapped(vector, f"{maps}/Conv", outputs, spread=0.05)
            gamma = self.mapped(vector, f"{maps}/Conv_1", outputs, mean=1, spread=0.05)
            variance, mean = torch.var_mean(y, (1, 2), correction=0, keepdim=True)
            return (y - mean) / (variance + 1e-5).sqrt() * gamma[:, None, None] + beta[:, None, None]

        def doubled(x: Tensor) -> Tensor:
            return x.repeat_interleave(2, 1).repeat_interleave(2, 2)

        x = content
        for i, (outputs, kernel, stride) in enumerate([(32, 9, 1), (64, 3, 2), (128, 3, 2)], 1):
            scope = f"contract/conv{i}"
            x = self.batch_norm(conv(x, scope, outputs, kernel, stride), f"transformer/{scope}").relu()
        for i in range(1, 6):
            inner = styled(x, f"residual/residual{i}/conv1", 128).relu()
            x = x + styled(inner, f"residual/residual{i}/conv2", 128)
        x = styled(doubled(x), "expand/conv1/conv", 64).relu()
        x = styled(doubled(x), "expand/conv2/conv", 32).relu()
        return styled(x, "expand/conv3/conv", 3, 9).sigmoid()


def same(x: Tensor, height: int, width: int) -> Tensor:
    """TensorFlow's padding "SAME" at stride 1."""
    return F.pad(x, (0, 0, (width - 1) // 2, width // 2, (height - 1) // 2, height // 2))


def mean_of_nine(x: Tensor) -> Tensor:
    """AvgPool 3 x 3, SAME: of what is there."""
    sums, counts = (same(y, 3, 3).unfold(1, 3, 1).unfold(2, 3, 1).sum((-2, -1)) for y in (x, torch.ones_like(x)))
    return sums / counts


def largest_of_nine(x: Tensor) -> Tensor:
    """MaxPool 3 x 3, stride 2, VALID."""
    return x.unfold(1, 3, 2).unfold(2, 3, 2).amax((-2, -1))


def last(x: Tensor) -> Tensor:
    """Channels last."""
    return x.permute(0, 2, 3, 1)


@pytest.fixture(scope="module")
def published() -> Published:
    """With all its variables."""
    networks = Published()
    styles = torch.cat([picture(96, 96), 0.5 * picture(96, 96, seed=1), 1 - 0.5 * picture(96, 96, seed=2)])
    networks.transform(last(picture(24, 24).expand(3, -1, -1, -1)), networks.inception(last(styles)))
    return networks


@pytest.fixture(scope="module")
def converted(published: Published) -> nn.ModuleDict:
    config, tensors = convert.from_magenta(published.state)
    assert config == ArbitraryStyleConfig()
    networks = nn.ModuleDict({"predictor": InceptionStyle(), "transformer": StyleTransformer(config)})
    networks.load_state_dict(tensors)
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    return networks.requires_grad_(False)


@pytest.mark.parametrize("sizes", [((96, 107), (32, 40)), ((43, 43), (16, 16)), ((120, 44), (36, 28))])
def test_a_checkpoint_describes_and_paints_the_same(
    published: Published, converted: nn.ModuleDict, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    styles = torch.cat([picture(*sizes[0], seed=1), 0.3 * picture(*sizes[0], seed=2) ** 2])
    contents = torch.cat([picture(*sizes[1], seed=seed) for seed in (3, 4)])
    published.largest.clear()
    vector = published.inception(last(styles))
    assert len(published.largest) == 70 and min(published.largest) > 6  # ReLU would give something else
    assert vector.std() > 0.1 and (vector[0] - vector[1]).abs().mean() > 0.02
    found = converted["predictor"](styles)
    torch.testing.assert_close(found, vector, rtol=0, atol=1e-4)

    expected = published.transform(last(contents), vector)
    assert 0.1 < expected.std() and ((expected > 0.02) & (expected < 0.98)).float().mean() > 0.8
    torch.testing.assert_close(last(converted["transformer"](contents, found)), expected, rtol=0, atol=1e-4)


def test_less_than_43_pixels_is_too_little(converted: nn.ModuleDict) -> None:
    predictor = converted["predictor"]
    assert predictor.requirements.minimum == 43
    for height, width in ((42, 96), (96, 42)):
        with pytest.raises(RuntimeError, match="(?i)kernel size|output size"):
            predictor(picture(height, width))
    assert predictor(picture(43, 43)).shape == (1, 100)


def test_sizes_are_those_published(published: Published, converted: nn.ModuleDict) -> None:
    """Scalars of the export for tfjs, see its weights_manifest.json, which also holds a few constants."""
    counts = {
        part: sum(value.numel() for value in converted[part].parameters()) for part in ("predictor", "transformer")
    }
    widths = {name: len(value) for name, value in published.state.items() if name.endswith("/beta")}
    predictor = [width for name, width in widths.items() if name.startswith("InceptionV3/")]
    transformer = [width for name, width in widths.items() if name.startswith("transformer/")]
    # Means and variances are folded; scales of 1 are constants there, shared by layers of the same width.
    assert (len(predictor), sum(predictor), sum(set(predictor))) == (70, 9408, 1184)
    assert counts["predictor"] + 2 * 9408 + 1184 + 3 == 9_053_351
    # 1,953,438 can be trained, counting these scales; 24 are sizes, paddings, axes and an epsilon.
    assert transformer == [32, 64, 128]
    assert counts["transformer"] + 224 == 1_953_438
    assert 1_953_438 + 2 * 224 + 24 == 1_953_910
    # Of the checkpoint's variables.
    inception = sum(value.numel() for name, value in published.state.items() if name.startswith(("Incep", "Conv/")))
    assert inception == 9_053_351 - 1184 - 3
    assert sum(value.numel() for value in published.state.values()) - inception == 1_953_910 - 224 - 24


# --- Checkpoints that do not fit


def test_what_only_training_needs_is_left_out(published: Published) -> None:
    training = {
        "global_step": torch.tensor(3_000_000),
        "beta1_power": torch.tensor(0.0),
        "beta2_power": torch.tensor(0.5),
        "Conv/weights/Adam": torch.ones(1, 1, 768, 100),
        "InceptionV3/Mixed_6e/Branch_0/Conv2d_0a_1x1/BatchNorm/beta/Adam_1": torch.full((192,), math.nan),
        "vgg_16/conv1/conv1_1/weights": torch.ones(3, 3, 3, 64),
    }
    expected = convert.from_magenta(published.state)[1]
    found = convert.from_magenta(published.state | training)[1]
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def without(state: State, *names: str, **more: Tensor) -> State:
    return {name: value for name, value in state.items() if name not in names} | more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "Conv/biases"), r"Magenta's .* with Inception-v3: 1 missing: Conv/biases\.$"),
        (lambda s: without(s, extra=torch.ones(1)), r"Inception-v3: 1 unexpected: extra\.$"),
        (lambda s: {}, r"359 missing: Conv/biases, Conv/weights, .* and 354 more\.$"),
        (
            lambda s: {name.replace("InceptionV3/", "MobilenetV2/"): value for name, value in s.items()},
            "280 missing: InceptionV3/.*; 280 unexpected: MobilenetV2/",
        ),
        (
            lambda s: (
                s | {"transformer/contract/conv2/weights": torch.ones(64, 32, 3, 3), "Conv/biases": torch.ones(5)}
            ),
            r"Conv/biases is \[5\], not \[100\]",
        ),
        (
            lambda s: s | {"transformer/contract/conv2/weights": torch.ones(64, 32, 3, 3)},
            r"transformer/contract/conv2/weights is \[64, 32, 3, 3\], not \[3, 3, 32, 64\]",
        ),
        (
            # Folded, an infinite variance would be a weight of 0.
            lambda s: s | {"transformer/contract/conv3/BatchNorm/moving_variance": torch.full((128,), math.inf)},
            "transformer/contract/conv3/BatchNorm/moving_variance hold values that are no numbers",
        ),
        (
            lambda s: s | {"transformer/contract/conv3/BatchNorm/moving_variance": -torch.ones(128)},
            r"transformer\.down\.2\.conv\.weight, transformer\.down\.2\.conv\.bias come out as no numbers",
        ),
        (
            lambda s: s | {"Conv/weights": torch.full((1, 1, 768, 100), 7e4)},
            r"predictor\.last\.weight come out as no numbers, or too large for float16",
        ),
    ],
)
def test_what_is_not_magentas_checkpoint_says_why(
    published: Published, change: Callable[[State], State], message: str
) -> None:
    with pytest.raises(WeightsMismatch, match=message):
        convert.from_magenta(change(published.state))


# --- Files


@pytest.mark.parametrize(
    ("name", "checkpoint"),
    [
        ("model.ckpt", "model.ckpt"),
        ("model.ckpt.index", "model.ckpt"),
        ("model.ckpt.meta", "model.ckpt"),
        ("model.ckpt.data-00000-of-00001", "model.ckpt"),
        ("model.data", "model"),
        ("arbitrary_style_transfer.tar.gz", "arbitrary_style_transfer/model.ckpt"),
        ("saved_model.pb", "arbitrary_style_transfer/model.ckpt"),
        ("variables.h5", "arbitrary_style_transfer/model.ckpt"),
    ],
)
def test_tensorflows_files_are_not_opened_and_the_line_that_converts_them_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: Published, name: str, checkpoint: str
) -> None:
    folder = tmp_path / "my models"
    (folder / "arbitrary_style_transfer").mkdir(parents=True)
    (folder / name).write_bytes(b"never read")
    with pytest.raises(UnsafeFormat, match="a file of TensorFlow's, which artmodels does not open") as caught:
        convert.read(folder / name)
    first, line, final = str(caught.value).splitlines()
    assert ("unpack Magenta's arbitrary_style_transfer.tar.gz in " in first) == ("/" in checkpoint)

    class Reader:
        def get_variable_to_shape_map(self) -> dict[str, list[int]]:
            return {"global_step": [], "Conv/weights": [1, 1, 768, 100], "transformer/contract/conv1/weights": []}

        def get_tensor(self, key: str) -> object:
            return published.state[key].numpy()

    opened = list[str]()
    train = types.SimpleNamespace(load_checkpoint=lambda path: opened.append(path) or Reader())
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(train=train))
    program, flag, code = shlex.split(line)
    assert (program, flag) == ("python", "-c")
    exec(code, {})
    assert opened == [str(folder / checkpoint)]
    made = (folder / checkpoint).with_suffix(".safetensors")
    assert final == f"and convert {made}."
    with pytest.raises(WeightsMismatch, match="Inception-v3: 357 missing: [^;]*$"):
        convert.read(made)


def test_other_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    for name, message in (
        ("a.tflite", r"a\.tflite is not \.safetensors"),
        ("a.safetensors", "damaged or not a safetens"),
    ):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(WeightsMismatch, match=message):
            convert.read(tmp_path / name)
    with pytest.raises(MissingWeights, match=r"There is no file .*gone\.safetensors"):
        convert.read(tmp_path / "gone.safetensors")


def test_the_command_writes_a_checkpoint(tmp_path: Path, published: Published, converted: nn.ModuleDict) -> None:
    source, out = tmp_path / "model.safetensors", tmp_path / "magenta"
    save_file(published.state, source)
    done = CliRunner().invoke(command.app, ["convert", "arbitrary_style", str(source), str(out)])
    assert done.exit_code == 0 and str(out) in done.output
    loaded = ArbitraryStyle.from_pretrained(out, device="cpu")
    assert loaded.config == ArbitraryStyleConfig()
    stored = {"predictor": loaded.companions["predictor"], "transformer": loaded.network}
    for part, network in stored.items():
        for key, value in network.state_dict().items():
            assert torch.equal(value, converted[part].state_dict()[key].half().float()), key
    assert "Converted from `model.safetensors`, sha256 " in (out / "README.md").read_text()

    again = CliRunner().invoke(command.app, ["convert", "arbitrary_style", str(source), str(out)])
    assert again.exit_code == 1 and "not an empty folder" in str(again.exception)
