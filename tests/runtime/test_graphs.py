"""Exported graphs behind the runner: providers, hashes, shapes, sessions. The graphs are made by hand here."""

import gc
import hashlib
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from toys import Tinter

from artmodels import runtime
from artmodels.errors import ConfigError, DeviceError, HashMismatch, MissingWeights, WeightsError
from artmodels.images.tiling import SizeRequirements, Tiling
from artmodels.methods.fast_style import FastStyle
from artmodels.runtime import graphs
from artmodels.runtime.feedforward import FeedForward, Graph
from artmodels.runtime.graphs import PROVIDERS, Exported, OnnxRunner

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
FLOAT, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
CPU = PROVIDERS["cpu"]


def write(
    folder: Path,
    *,
    kind: str = "float32",
    value: float = 1.0,
    extra: bool = False,
    means: tuple[str | int, ...] = (),
    **facts: object,
) -> Path:
    """A graph that gives `value - image`, plus a second input where there is one; bytes are given back as they are.

    With `means`, the shape of the result, it gives the mean colour instead.
    """
    image = onnx.helper.make_tensor_value_info("image", UINT8 if kind == "uint8" else FLOAT, ["N", 3, "H", "W"])
    result = onnx.helper.make_tensor_value_info("result", UINT8 if kind == "uint8" else FLOAT, ["N", 3, "H", "W"])
    inputs, ports = [image], [{"name": "image", "type": kind, "dims": ["N", 3, "H", "W"]}]
    one = onnx.numpy_helper.from_array(np.array(value, np.float32), "one")
    if means:
        result = onnx.helper.make_tensor_value_info("result", FLOAT, means)
        over = onnx.numpy_helper.from_array(np.array([2, 3]), "over")
        keep = int(len(means) == 4)
        nodes = [
            onnx.helper.make_node("Constant", [], ["over"], value=over),
            onnx.helper.make_node("ReduceMean", ["image", "over"], ["result"], keepdims=keep),
        ]
    elif kind == "uint8":
        nodes = [onnx.helper.make_node("Identity", ["image"], ["result"])]
    elif extra:
        inputs.append(onnx.helper.make_tensor_value_info("shift", FLOAT, ["N", 3, 1, 1]))
        ports.append({"name": "shift", "type": "float32", "dims": ["N", 3, 1, 1]})
        nodes = [
            onnx.helper.make_node("Sub", ["one", "image"], ["inner"]),
            onnx.helper.make_node("Add", ["inner", "shift"], ["result"]),
        ]
    else:
        nodes = [onnx.helper.make_node("Sub", ["one", "image"], ["result"])]
    graph = onnx.helper.make_graph(nodes, "toy", inputs, [result], [one])
    opset = [onnx.helper.make_opsetid("", 20)]
    data = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    config = json.dumps({"method": "fast_style", "widths": [4, 4, 4], "blocks": 1}).encode()
    (folder / "1").mkdir(parents=True)
    (folder / graphs.MODEL).write_bytes(data)
    (folder / "config.json").write_bytes(config)
    sidecar = {
        "format": graphs.FORMAT,
        "source": {"name": "toy", "sha256": "0" * 64},
        "precision": "float32",
        "scale": 1,
        "inputs": ports,
        "outputs": [{"name": "result", "type": kind, "dims": means or ["N", 3, "H", "W"]}],
        "files": {
            graphs.MODEL: hashlib.sha256(data).hexdigest(),
            "config.json": hashlib.sha256(config).hexdigest(),
        },
    }
    (folder / graphs.SIDECAR).write_text(json.dumps(sidecar | facts))
    return folder


# --- running


def test_it_runs_and_says_on_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="artmodels.runtime.graphs"):
        runner = OnnxRunner(write(tmp_path / "toy"))
    assert f"{tmp_path / 'toy'}: ONNX Runtime {onnxruntime.__version__}, {CPU}" in caplog.text
    assert (runner.provider, runner.device, runner.dtype, runner.bucket) == (
        "cpu",
        torch.device("cpu"),
        torch.float32,
        1,
    )
    for shape in ((1, 3, 5, 7), (2, 3, 64, 31)):
        image = torch.rand(shape)
        result = runner(image.to(memory_format=torch.channels_last))
        assert torch.equal(result, 1 - image)
        assert result.dtype == torch.float32 and result.device.type == "cpu"
    half = torch.rand(1, 3, 4, 4).half()
    assert torch.equal(runner(half), 1 - half.float())


def test_bytes_are_the_graph_s_affair(tmp_path: Path) -> None:
    runner = OnnxRunner(write(tmp_path / "toy", kind="uint8"))
    image = torch.tensor([0.0, 0.3, 0.5, 1.0]).repeat(3, 1)[None, :, None, :]
    assert torch.equal(runner(image), (image * 255).round() / 255)


@pytest.mark.parametrize("dims", [("N", 3), ("N", 3, 1, 1)])
def test_numbers_come_out_in_a_shape_of_their_own(tmp_path: Path, dims: tuple[str | int, ...]) -> None:
    runner = OnnxRunner(write(tmp_path / "toy", means=dims))
    image = 300 * torch.rand(2, 3, 5, 7) - 200
    result = runner(image)
    assert result.shape == (2, *dims[1:])
    torch.testing.assert_close(result.flatten(1), image.mean((2, 3)))


def test_wrong_inputs_are_told_with_their_shape(tmp_path: Path) -> None:
    runner = OnnxRunner(write(tmp_path / "toy", extra=True))
    image = torch.rand(2, 3, 4, 4)
    shift = torch.rand(2, 3, 1, 1)
    assert torch.allclose(runner(image, shift), 1 - image + shift)
    with pytest.raises(ConfigError, match="takes 2 inputs, and 1 were given"):
        runner(image)
    with pytest.raises(ConfigError, match=r"input 'image' is \[N, 3, H, W\], and what was given \[2, 1, 4, 4\]"):
        runner(image[:, :1], shift)
    with pytest.raises(ConfigError, match=r"input 'shift' is \[N, 3, 1, 1\], and what was given \[2, 3\]"):
        runner(image, shift[..., 0, 0])


def test_what_lies_right_is_bound_where_it_lies(tmp_path: Path) -> None:
    """No copy between two graphs: the address that is bound is the tensor's own."""
    bound: dict[str, tuple[object, ...]] = {}
    binding = SimpleNamespace(
        bind_input=lambda name, *rest: bound.update({name: rest}),
        bind_output=lambda name, *rest: bound.update({name: rest}),
        synchronize_outputs=lambda: None,
    )
    runner = OnnxRunner(write(tmp_path / "toy"))
    runner.session = SimpleNamespace(io_binding=lambda: binding, run_with_iobinding=lambda given: None)
    image = torch.rand(1, 3, 4, 6)
    result = runner(image)
    assert bound["image"] == ("cpu", 0, np.float32, (1, 3, 4, 6), image.data_ptr())
    assert bound["result"] == ("cpu", 0, np.float32, (1, 3, 4, 6), result.data_ptr())


def test_a_session_is_shared_while_it_is_used_and_no_longer(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", value=0.75)
    first, second = OnnxRunner(folder), OnnxRunner(folder)
    assert first.session is second.session
    assert first.session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    digest = first.exported.files[graphs.MODEL]
    assert sum(key[0] == digest for key in graphs._sessions) == 1
    del first, second
    gc.collect()
    assert not any(key[0] == digest for key in graphs._sessions)


# --- what is opened is what was exported


def test_changed_files_are_not_opened(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy")
    with (folder / graphs.MODEL).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(HashMismatch, match=r"model\.onnx is not the file that was exported.*export the model again"):
        OnnxRunner(folder)
    (folder / graphs.MODEL).unlink()
    with pytest.raises(MissingWeights, match=r"has no 1/model\.onnx"):
        OnnxRunner(folder)
    other = write(tmp_path / "other")
    (other / "config.json").write_text("{}")
    with pytest.raises(HashMismatch, match=r"config\.json is not the file"):
        OnnxRunner(other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 1}', "damaged.*inputs"),
        ('{"format": 2}', "of format 2, and this artmodels reads 1"),
    ],
)
def test_a_damaged_sidecar_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / graphs.SIDECAR).write_text(text)
    with pytest.raises(WeightsError, match=message):
        Exported.read(tmp_path)


def test_no_sidecar_and_no_graph(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"has no export\.json"):
        OnnxRunner(tmp_path)
    junk = write(tmp_path / "junk")
    (junk / graphs.MODEL).write_bytes(b"no graph")
    facts = json.loads((junk / graphs.SIDECAR).read_text())
    facts["files"][graphs.MODEL] = hashlib.sha256(b"no graph").hexdigest()
    (junk / graphs.SIDECAR).write_text(json.dumps(facts))
    with pytest.raises(WeightsError, match="cannot open .*model.onnx"):
        OnnxRunner(junk)


# --- providers

ALL = list(PROVIDERS.values())


@pytest.mark.parametrize(
    ("provider", "device", "available", "wanted"),
    [
        (None, None, [CPU], "cpu"),
        (None, None, ALL, "cuda"),  # never TensorRT unasked: it takes minutes to start
        (None, "cpu", ALL, "cpu"),
        (None, "cuda", ALL, "cuda"),
        ("tensorrt", None, ALL, "tensorrt"),
        ("tensorrt", "cuda:1", ALL, "tensorrt"),
        ("cpu", None, ALL, "cpu"),
    ],
)
def test_the_provider_follows_what_is_asked(
    provider: str | None, device: str | None, available: list[str], wanted: str
) -> None:
    assert graphs._choose_provider(provider, torch.device(device) if device else None, available) == wanted


@pytest.mark.parametrize(
    ("provider", "device", "error", "message"),
    [
        ("cuda", None, DeviceError, r"built without cuda; it has cpu: .*artmodels\[onnx-gpu\]"),
        (None, "cuda", DeviceError, "built without cuda"),
        ("quantum", None, ConfigError, "'quantum': give cpu, cuda, tensorrt"),
        (None, "mps", ConfigError, "'mps': give cpu, cuda, tensorrt"),
        ("cpu", "cuda", ConfigError, "provider='cpu' does not run on device 'cuda'"),
        ("cuda", "cpu", ConfigError, "provider='cuda' does not run on device 'cpu'"),
    ],
)
def test_a_provider_that_cannot_be_is_refused(
    provider: str | None, device: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        graphs._choose_provider(provider, torch.device(device) if device else None, [CPU])


def test_cuda_that_only_pytorch_has_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    graphs._warn_once.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [graphs._choose_provider(None, None, [CPU]) for _ in range(3)] == ["cpu"] * 3
    assert len(caplog.messages) == 1 and "built without CUDA" in caplog.text


class BrokenCuda:
    """An ONNX Runtime that has CUDA built in and cannot start it: silently, or with an error."""

    def __init__(self, *, raises: bool) -> None:
        self.raises, self.tried = raises, []
        self.__version__, self.SessionOptions = onnxruntime.__version__, onnxruntime.SessionOptions

    def get_available_providers(self) -> list[str]:
        return ALL

    def preload_dlls(self) -> None:
        print("Failed to load libcudnn")  # noqa: T201 - as the real one does

    def InferenceSession(self, data: bytes, options: object, *, providers: list, enable_fallback: int) -> object:  # noqa: N802
        self.tried.append(providers)
        assert enable_fallback == 0
        if self.raises and providers[0][0] != CPU:
            raise RuntimeError("libcublas.so.13: cannot open shared object file\nmore lines")
        return onnxruntime.InferenceSession(data, options, providers=[CPU])


@pytest.mark.parametrize("raises", [False, True])
def test_cuda_that_does_not_start_is_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    raises: bool,
) -> None:
    graphs._warn_once.cache_clear()
    broken = BrokenCuda(raises=raises)
    monkeypatch.setattr(graphs, "_import", lambda: broken)
    runners = [OnnxRunner(write(tmp_path / str(index), value=index)) for index in range(3)]
    assert [runner.provider for runner in runners] == ["cpu"] * 3
    assert [runner.bucket for runner in runners] == [1] * 3
    assert torch.equal(runners[2](torch.zeros(1, 3, 2, 2)), torch.full((1, 3, 2, 2), 2.0))
    reason = "libcublas.so.13: cannot open shared object file" if raises else "its libraries could not be loaded"
    assert caplog.messages == [f"CUDAExecutionProvider does not start ({reason}); graphs run on {CPU} instead"]
    assert capfd.readouterr() == ("", "")
    name, settings = broken.tried[0][0]
    assert name == PROVIDERS["cuda"] and [given for given, _ in broken.tried[0]] == [name, CPU]
    assert settings["cudnn_conv_algo_search"] == "HEURISTIC"


def test_without_onnx_runtime_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'artmodels\[onnx\]'.*never both"):
        OnnxRunner(write(tmp_path / "toy"))


# --- feed-forward methods


def test_from_pretrained_needs_an_exported_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="'fast-style-woodcut' is not a folder .*python -m export fast-style-woodcut --out DIR"
    ):
        FastStyle.from_pretrained("fast-style-woodcut", runtime="onnx")
    with pytest.raises(ConfigError, match="runtime='jax' is not one of 'torch', 'onnx'"):
        FastStyle.from_pretrained(write(tmp_path / "toy"), runtime="jax")
    with pytest.raises(ConfigError, match="provider='cpu' is for runtime='onnx'"):
        FastStyle.from_pretrained("fast-style-woodcut", provider="cpu")
    with pytest.raises(ConfigError, match="blocks, dtype cannot be chosen for a graph"):
        FastStyle.from_pretrained(tmp_path / "toy", runtime="onnx", blocks=2, dtype=torch.float16)


def test_a_graph_takes_the_place_of_the_network(tmp_path: Path) -> None:
    model = FastStyle.from_pretrained(write(tmp_path / "toy"), runtime="onnx", provider="cpu", device="cpu")
    assert model.network is None
    assert model.config.widths == (4, 4, 4) and model.config.blocks == 1
    assert model.runner.provider == "cpu"
    image = torch.rand(1, 3, 33, 45)
    image = (image * 255).round() / 255
    assert torch.equal(model(image).tensor, 1 - image)
    with pytest.raises(ConfigError, match="A graph has no weights to save"):
        model.save_pretrained(tmp_path / "saved")
    wrong = write(tmp_path / "wrong")
    (wrong / "config.json").write_text('{"method": "neural_style"}')
    with pytest.raises(ConfigError, match="is a checkpoint of 'neural_style', not of FastStyle"):
        FastStyle.from_pretrained(wrong, runtime="onnx")


def test_companions_share_the_checkpoint(tmp_path: Path) -> None:
    model = Tinter(device="cpu")
    image, like = torch.rand(1, 3, 21, 34), torch.rand(1, 3, 9, 11)
    numbers = model._companion("palette", like)
    assert torch.equal(numbers, model.companions["palette"](like)) and not numbers.requires_grad
    assert numbers.min() < 0 or numbers.max() > 1, "clamped as if it were an image"
    assert not torch.equal(model(image, like), model(image, 1 - like))

    saved = model.save_pretrained(tmp_path / "saved")
    tensors = load_file(saved / "model.safetensors")
    layers = ("palette.last", "tint.conv", "tint.first")
    assert set(tensors) == {f"{layer}.{part}" for layer in layers for part in ("bias", "weight")}
    again = Tinter.from_pretrained(saved, device="cpu")
    torch.testing.assert_close(again(image, like), model(image, like), atol=0.02, rtol=0)
    assert torch.equal(again.companions["palette"].last.weight.half(), tensors["palette.last.weight"])
    assert (again.save_pretrained(tmp_path / "again") / "model.safetensors").read_bytes() == (
        saved / "model.safetensors"
    ).read_bytes()

    save_file({key: value for key, value in tensors.items() if key != "palette.last.bias"}, saved / "model.safetensors")
    with pytest.raises(WeightsError, match=r"palette\.last\.bias"):
        Tinter.from_pretrained(saved, device="cpu")


class Invert(Graph):
    requirements = SizeRequirements(multiple_of=4)
    tiling = Tiling.SUPPORTED

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 - self.gain * x


class Whole(Invert):
    tiling = Tiling.DISCOURAGED


@pytest.mark.parametrize(
    ("network", "bucket", "seen"), [(Invert, 1, (36, 100)), (Invert, 64, (64, 128)), (Whole, 64, (36, 100))]
)
def test_sizes_are_rounded_up_where_that_changes_nothing(
    network: type[Graph], bucket: int, seen: tuple[int, int]
) -> None:
    shapes = []

    class Recorder:
        def __init__(self) -> None:
            self.bucket = bucket

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            shapes.append(tuple(x.shape[-2:]))
            return 1 - x

    method = FeedForward(SimpleNamespace(), network=network(), device="cpu", runner=Recorder())
    image = torch.rand(1, 3, 33, 98)
    assert torch.equal(method._infer(image), 1 - image)
    assert shapes == [seen]


def test_pytorch_has_no_favourite_sizes() -> None:
    assert runtime.TorchRunner(Invert(), device="cpu").bucket == 1


def test_example_inputs_are_images_or_told_to_be_missing() -> None:
    (image,) = Invert().example(2, 20, 33)
    assert image.shape == (2, 3, 20, 33) and 0 <= image.min() and image.max() <= 1
    assert torch.equal(image, *Invert().example(2, 20, 33))
    assert not torch.equal(image, *Invert().example(2, 20, 33, seed=1))

    class Two(Invert):
        inputs: ClassVar[tuple[str, ...]] = ("image", "style")

    with pytest.raises(ConfigError, match=r"Two takes image, style and does not define example\(\)"):
        Two().example(1, 8, 8)
