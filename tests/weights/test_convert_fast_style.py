"""Published checkpoints of fast style: each network written down anew paints as the converted one does."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner
from verbs import picture

from artmodels.errors import MissingWeights, UnsafeFormat, WeightsMismatch
from artmodels.methods.fast_style import FastStyle, FastStyleConfig
from artmodels.methods.fast_style.model import TransformerNet
from weights import __main__ as command
from weights.convert import fast_style as convert

PAPER = (32, 64, 128)
SMALL = (4, 6, 8)
ODD = [(45, 42), (64, 51)]  # at least 41, which five blocks of the authors' layout need
State = dict[str, Tensor]


# --- The published networks, written down anew


def random_parts(widths: tuple[int, int, int], blocks: int, *, transposed: bool) -> list[Tensor]:
    """Weight and bias of every module in order: convolution, normalisation, …, convolution."""
    rng = torch.Generator().manual_seed(sum(widths) + blocks)
    low, middle, high = widths
    layers = [(3, low, 9), (low, middle, 3), (middle, high, 3), *[(high, high, 3)] * (2 * blocks)]
    layers += [(high, middle, 3), (middle, low, 3)]
    parts = []
    for i, (inputs, outputs, kernel) in enumerate(layers):
        sides = (inputs, outputs) if transposed and i >= len(layers) - 2 else (outputs, inputs)
        parts += [
            torch.randn(*sides, kernel, kernel, generator=rng) / (inputs * kernel**2) ** 0.5,
            torch.randn(outputs, generator=rng),
            0.5 + torch.rand(outputs, generator=rng),
            0.5 * torch.randn(outputs, generator=rng),
        ]
    return [*parts, torch.randn(3, low, 9, 9, generator=rng) / (9 * low**0.5), torch.randn(3, generator=rng)]


def normalised(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().mean((2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]


def pytorch_state(widths: tuple[int, int, int] = SMALL, blocks: int = 2) -> State:
    names = [name for i in "123" for name in (f"conv{i}.conv2d", f"in{i}")]
    for i in range(1, blocks + 1):
        names += [f"res{i}.conv1.conv2d", f"res{i}.in1", f"res{i}.conv2.conv2d", f"res{i}.in2"]
    names += ["deconv1.conv2d", "in4", "deconv2.conv2d", "in5", "deconv3.conv2d"]
    keys = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    state = dict(zip(keys, random_parts(widths, blocks, transposed=False), strict=True))
    # It writes a scale of 255.
    state["deconv3.conv2d.weight"] *= 20
    state["deconv3.conv2d.bias"] += 127
    return state


def pytorch_net(state: State, image: Tensor) -> Tensor:
    """TransformerNet of PyTorch's examples, from [0, 255] to whatever it gives."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv2d.weight"]
        x = F.pad(x, [weight.shape[-1] // 2] * 4, mode="reflect")
        return F.conv2d(x, weight, state[f"{name}.conv2d.bias"], stride=stride)

    def norm(x: Tensor, name: str) -> Tensor:
        return normalised(x, state[f"{name}.weight"], state[f"{name}.bias"])

    y = norm(conv(image, "conv1"), "in1").relu()
    y = norm(conv(y, "conv2", 2), "in2").relu()
    y = norm(conv(y, "conv3", 2), "in3").relu()
    block = 1
    while f"res{block}.in1.weight" in state:
        inner = norm(conv(y, f"res{block}.conv1"), f"res{block}.in1").relu()
        y = norm(conv(inner, f"res{block}.conv2"), f"res{block}.in2") + y
        block += 1
    y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    y = norm(conv(y, "deconv1"), "in4").relu()
    y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    y = norm(conv(y, "deconv2"), "in5").relu()
    return conv(y, "deconv3")


def torch7_state(widths: tuple[int, int, int] = SMALL, blocks: int = 2) -> State:
    parts = random_parts(widths, blocks, transposed=True)
    parts[-2:] = [0.4 * parts[-2], 0.2 * parts[-1]]  # so that the result is seldom cut
    return {str(i): value for i, value in enumerate(parts)}


def torch7_net(state: State, image: Tensor) -> Tensor:
    """c9s1-N,dN,dN,RN,…,uN,uN,c9s1-3 of fast-neural-style, between RGB in [0, 1] on both sides."""
    parameters = [state[str(i)] for i in range(len(state))][::-1]
    mean = torch.tensor([103.939, 116.779, 123.68])[:, None, None]

    def norm(x: Tensor) -> Tensor:
        return normalised(x, parameters.pop(), parameters.pop())

    blocks = (len(state) - 22) // 8
    y = image[:, [2, 1, 0]] * 255 - mean
    y = F.pad(y, [8 * blocks] * 4, mode="reflect")
    y = norm(F.conv2d(y, parameters.pop(), parameters.pop(), padding=4)).relu()
    y = norm(F.conv2d(y, parameters.pop(), parameters.pop(), stride=2, padding=1)).relu()
    y = norm(F.conv2d(y, parameters.pop(), parameters.pop(), stride=2, padding=1)).relu()
    for _ in range(blocks):
        inner = norm(F.conv2d(y, parameters.pop(), parameters.pop())).relu()
        y = norm(F.conv2d(inner, parameters.pop(), parameters.pop())) + y[:, :, 2:-2, 2:-2]
    for _ in range(2):
        weight, bias = parameters.pop(), parameters.pop()
        y = norm(F.conv_transpose2d(y, weight, bias, stride=2, padding=1, output_padding=1)).relu()
    y = 150 * F.conv2d(y, parameters.pop(), parameters.pop(), padding=4).tanh()
    assert not parameters
    return ((y + mean) / 255)[:, [2, 1, 0]]


def padded(image: Tensor) -> Tensor:
    """Reflected at the bottom and right to multiples of 4."""
    return F.pad(image, (0, -image.shape[3] % 4, 0, -image.shape[2] % 4), mode="reflect")


def style_of(converted: tuple[FastStyleConfig, State]) -> FastStyle:
    config, tensors = converted
    network = TransformerNet(config)
    network.load_state_dict(tensors)
    return FastStyle(config, network=network, device="cpu")


def same(found: Tensor, expected: Tensor) -> None:
    """Equal within the images' range, which most of the expected picture is in: else there is little to compare."""
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.8
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected.clamp(0, 1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize(("widths", "blocks"), [(SMALL, 2), (PAPER, 5)])
def test_a_checkpoint_of_pytorchs_examples_paints_the_same(
    size: tuple[int, int], widths: tuple[int, int, int], blocks: int
) -> None:
    state, image = pytorch_state(widths, blocks), picture(*size)
    converted = convert.from_pytorch(state, style="Mosaic")
    assert converted[0] == FastStyleConfig(style="Mosaic", widths=widths, blocks=blocks, output="linear")
    expected = pytorch_net(state, 255 * padded(image)) / 255
    same(style_of(converted)(image).tensor, expected[..., : size[0], : size[1]])


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize(("widths", "blocks"), [(SMALL, 2), (PAPER, 5)])
def test_a_checkpoint_of_the_authors_paints_the_same(
    size: tuple[int, int], widths: tuple[int, int, int], blocks: int
) -> None:
    state, image = torch7_state(widths, blocks), picture(*size)
    converted = convert.from_torch7(state)
    assert converted[0] == FastStyleConfig(widths=widths, blocks=blocks, layout="torch7", output="tanh")
    same(style_of(converted)(image).tensor, torch7_net(state, padded(image))[..., : size[0], : size[1]])


def onnx_file(state: State, *, named: bool, constants: bool = False) -> bytes:
    """An export as the zoo's are: the network's nodes in order, its tensors by name or by number."""
    nodes, initialisers = [], []
    keys, value = list(state), "image"
    for number, (weight, bias) in enumerate(zip(keys[::2], keys[1::2], strict=True)):
        inputs = [weight, bias] if named else [f"t{2 * number}", f"t{2 * number + 1}"]
        for name, key in zip(inputs, (weight, bias), strict=True):
            tensor = onnx.numpy_helper.from_array(state[key].numpy(), name)
            if constants:
                nodes.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
            else:
                initialisers.insert(0, tensor)  # their order means nothing
        kind = "Conv" if state[weight].dim() == 4 else "InstanceNormalization"
        nodes.append(onnx.helper.make_node(kind, [value, *inputs], [f"v{number}"], name=f"{kind}_{number}"))
        nodes.append(onnx.helper.make_node("Relu", [f"v{number}"], [f"r{number}"]))
        value = f"r{number}"
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("image", value)]
    graph = onnx.helper.make_graph(nodes, "style", shape[:1], shape[1:], initialisers)
    return onnx.helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize("options", [{"named": True}, {"named": False}, {"named": False, "constants": True}])
def test_an_onnx_export_is_the_same_checkpoint(options: dict[str, bool]) -> None:
    state = pytorch_state(blocks=5)
    config, tensors = convert.from_onnx(onnx_file(state, **options), style="Candy")
    expected_config, expected = convert.from_pytorch(state, style="Candy")
    assert config == expected_config
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[key], value) for key, value in expected.items())


@pytest.mark.parametrize(("widths", "count"), [(PAPER, 1_679_235), ((16, 32, 64), 424_899)])
def test_parameters_are_those_published_less_the_biases_that_do_nothing(
    widths: tuple[int, int, int], count: int
) -> None:
    assert sum(value.numel() for value in torch7_state(widths, 5).values()) == count
    low, middle, high = widths
    idle = 2 * low + 2 * middle + high + 10 * high
    for layout in ("resize", "torch7"):
        network = TransformerNet(FastStyleConfig(widths=widths, layout=layout))
        assert sum(value.numel() for value in network.parameters()) == count - idle


# --- Checkpoints that do not fit


def test_older_names_and_running_statistics_are_understood() -> None:
    state = pytorch_state()
    older = {}
    for key, value in state.items():
        if value.dim() == 1 and ".conv2d" not in f".{key}":
            older[key.replace(".weight", ".scale").replace(".bias", ".shift")] = value
        else:
            older[key] = value
    older["res1.in2.running_mean"] = older["in1.running_var"] = torch.ones(4)
    older["in1.num_batches_tracked"] = torch.tensor(7)
    assert "in1.scale" in older and "res2.in1.shift" in older and "in1.weight" not in older
    expected = convert.from_pytorch(state)[1]
    found = convert.from_pytorch(older)[1]
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def without(state: State, *keys: str, **more: Tensor) -> State:
    return {key: value for key, value in state.items() if key not in keys} | more


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "in3.bias"), r"not those of the TransformerNet of PyTorch's examples: 1 missing: in3\.b"),
        (lambda s: without(s, extra=torch.ones(1)), "1 unexpected: extra"),
        (lambda s: without(s, *[key for key in s if key.startswith("res")]), "11 convolutions and normalisations; the"),
        (lambda s: {}, r"22 missing: conv1\.conv2d\.weight, .* and 17 more"),
        (
            lambda s: s | {"res2.conv1.conv2d.weight": torch.ones(8, 7, 3, 3), "in4.bias": torch.ones(5)},
            r"res2\.conv1\.conv2d is \[8, 7, 3, 3\], not \[8, 8, 3, 3\], in4 is \[5\], not \[6\]",
        ),
        (lambda s: s | {"conv2.conv2d.weight": torch.ones(6)}, r"\(6,\), \(8, 6, 3, 3\)\]: each should have four"),
        (lambda s: s | {"conv1.conv2d.weight": torch.ones(4, 3, 8, 8)}, "Johnson et al.: kernel=8 must be .*odd"),
        (lambda s: s | {"in2.weight": torch.full((6,), math.nan)}, "in2 hold values that are no numbers, or too large"),
        (lambda s: s | {"conv1.conv2d.weight": 600 * torch.ones(4, 3, 9, 9)}, "conv1.conv2d hold values"),
    ],
)
def test_what_is_not_a_checkpoint_of_pytorchs_examples_says_why(change: Callable[[State], State], message: str) -> None:
    with pytest.raises(WeightsMismatch, match=message):
        convert.from_pytorch(change(pytorch_state()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "37"), "There are 37 tensors, an odd number"),
        (lambda s: without(s, "3"), "a list of a Torch7 net's parameters: 1 missing: 3; 1 unexpected: 37"),
        (lambda s: without(s, "36", "37"), "There are 18 convolutions and normalisations"),
        (lambda s: s | {"28": torch.ones(6, 8, 3, 3)}, r"28 and 29 is \[6, 8, 3, 3\], not \[8, 6, 3, 3\]"),
    ],
)
def test_what_is_not_a_checkpoint_of_the_authors_says_why(change: Callable[[State], State], message: str) -> None:
    state = torch7_state()
    assert len(state) == 38
    with pytest.raises(WeightsMismatch, match=message):
        convert.from_torch7(change(state))


def test_what_is_not_an_onnx_export_says_why() -> None:
    with pytest.raises(WeightsMismatch, match="damaged or not ONNX"):
        convert.from_onnx(b"no protocol buffer")
    with pytest.raises(WeightsMismatch, match="There are 0 convolutions"):
        convert.from_onnx(b"")
    whole = onnx.load_from_string(onnx_file(pytorch_state(), named=True))
    whole.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(WeightsMismatch, match="Conv_18 has no weight and bias of its own in the file"):
        convert.from_onnx(whole.SerializeToString())
    del whole.graph.initializer[:]
    with pytest.raises(WeightsMismatch, match="Conv_0 has no weight and bias of its own in the file"):
        convert.from_onnx(whole.SerializeToString())


# --- Files


def test_a_pickle_is_not_opened_and_the_line_that_converts_it_works(tmp_path: Path) -> None:
    state, file = pytorch_state(), tmp_path / "my candy.pth"
    torch.save(state, file)
    with pytest.raises(UnsafeFormat, match="never opens it") as caught:
        convert.read(file)
    program, flag, code = shlex.split(str(caught.value).splitlines()[1])
    assert (program, flag) == ("python", "-c")
    exec(code)
    config, tensors = convert.read(tmp_path / "my candy.safetensors")
    assert torch.equal(tensors["last.weight"], state["deconv3.conv2d.weight"] / 255)


def test_other_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    for name, error, message in (
        ("candy.t7", UnsafeFormat, r"Torch7 file.*model:parameters\(\) as safetensors with the keys 0, 1, 2"),
        ("candy.model", UnsafeFormat, "never opens it"),
        ("candy.tflite", WeightsMismatch, r"candy\.tflite is neither \.safetensors nor \.onnx"),
        ("candy.safetensors", WeightsMismatch, "damaged or not a safetensors file"),
        ("candy.onnx", WeightsMismatch, "damaged or not ONNX"),
    ):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(error, match=message):
            convert.read(tmp_path / name)
    with pytest.raises(MissingWeights, match=r"There is no file .*gone\.onnx"):
        convert.read(tmp_path / "gone.onnx")


def test_the_command_writes_a_checkpoint(tmp_path: Path) -> None:
    save_file(torch7_state(), tmp_path / "muse.safetensors")
    (tmp_path / "candy.onnx").write_bytes(onnx_file(pytorch_state(), named=False))
    image = picture(47, 50)
    for source, family in (("muse.safetensors", "torch7"), ("candy.onnx", "resize")):
        out = tmp_path / f"fast-style-{family}"
        arguments = [str(tmp_path / source), str(out), "--style", "La Muse"]
        done = CliRunner().invoke(command.app, ["convert", "fast_style", *arguments])
        assert done.exit_code == 0 and str(out) in done.output
        loaded = FastStyle.from_pretrained(out, device="cpu")
        assert (loaded.config.style, loaded.config.layout) == ("La Muse", family)
        exact = style_of(convert.read(tmp_path / source))
        torch.testing.assert_close(loaded(image).tensor, exact(image).tensor, rtol=0, atol=0.02)  # float16
        assert f"Converted from `{source}`, sha256 " in (out / "README.md").read_text()

        again = CliRunner().invoke(command.app, ["convert", "fast_style", *arguments])
        assert again.exit_code == 1 and "not an empty folder" in str(again.exception)
