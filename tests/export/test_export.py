"""`python -m export`: the graph computes what PyTorch does, and the folder is whole, checked, or not there."""

import dataclasses
import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import toys
from torch import Tensor, nn
from torch.nn import functional as F
from typer.testing import CliRunner

from artmodels.errors import ConfigError, HashMismatch, MissingWeights, WeightsError
from artmodels.hub import catalogue, resolving
from artmodels.images.tiling import SizeRequirements
from artmodels.methods.fast_style import FastStyle, FastStyleConfig
from artmodels.runtime.feedforward import Graph
from artmodels.runtime.graphs import Exported, OnnxRunner, Port

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format  # noqa: E402

from export import __main__ as command  # noqa: E402
from export import bench, convert, folder, half, parity, triton  # noqa: E402

helper = onnx.helper
CONFIG = FastStyleConfig(style="toy", widths=(4, 6, 8), kernel=3, blocks=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return FastStyle(CONFIG, device="cpu").save_pretrained(tmp_path_factory.mktemp("checkpoints") / "toy-style")


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Path:
    (path,) = folder.export(str(checkpoint), checkpoint.parent / "repository")
    return path


@pytest.fixture
def quick(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter takes seconds: where another part is tested, it gives the graph that it has given before."""
    proto = onnx.load(exported / "1" / "model.onnx")
    monkeypatch.setattr(folder, "convert", lambda graph, uint8: proto)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def changed_sidecar(path: Path, **facts: object) -> None:
    file = path / "export.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


# --- the folder


def test_the_sidecar_says_what_there_is(exported: Path, checkpoint: Path) -> None:
    assert set(contents(exported)) == {"1/model.onnx", "config.json", "config.pbtxt", "export.json"}
    facts = json.loads((exported / "export.json").read_text())
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert facts["source"] == {"name": str(checkpoint), "sha256": digest}
    assert facts["files"]["1/model.onnx"] == hashlib.sha256((exported / "1/model.onnx").read_bytes()).hexdigest()
    assert set(facts["versions"]) == {"artmodels", "torch", "onnx", "onnxscript", "onnxruntime"}
    assert facts["opset"] == 20 and facts["precision"] == "float32"
    assert facts["inputs"] == [{"name": "image", "type": "float32", "dims": ["N", 3, "4*h", "4*w"]}]
    assert facts["outputs"] == [{"name": "result", "type": "float32", "dims": ["N", 3, "4*h", "4*w"]}]
    assert [row["shape"] for row in facts["parity"]] == [[1, 3, 64, 64], [2, 3, 108, 84], [3, 3, 44, 132]]
    assert all(0 < row["max_abs"] <= 1e-4 and row["psnr"] > 100 for row in facts["parity"])
    config = json.loads((exported / "config.json").read_text())
    assert config["method"] == "fast_style" and config["widths"] == [4, 6, 8]


def test_the_graph_stands_alone(exported: Path) -> None:
    data = (exported / "1" / "model.onnx").read_bytes()
    model = onnx.load_from_string(data)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 20)]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    # No paths of the machine that it was made on.
    assert b".py" not in data and str(Path.home()).encode() not in data


def test_it_loads_without_pytorch_s_weights(exported: Path, checkpoint: Path) -> None:
    image = torch.rand(1, 3, 61, 83, generator=torch.Generator().manual_seed(1))
    wanted = FastStyle.from_pretrained(checkpoint, device="cpu")(image, strength=0.7)
    graph = FastStyle.from_pretrained(exported, runtime="onnx", device="cpu")
    assert graph.network is None and graph.config == CONFIG and graph.runner.provider == "cpu"
    result = graph(image, strength=0.7)
    assert result.tensor.shape == (1, 3, 61, 83)
    assert (result.tensor - wanted.tensor).abs().max() < 1e-4
    assert result.settings == wanted.settings and result.settings["model"] is None

    # Exported from what the catalogue pins, the result names its model.
    source = json.loads((exported / "export.json").read_text())["source"]
    pin = catalogue.Weights(repo="a/b", revision="0" * 40, sha256=source["sha256"], size_mb=1)
    entry = catalogue.Entry(name=source["name"], method="fast_style", summary="", source="", licence="MIT", weights=pin)
    with toys.catalogued(catalogue.Method(id="others", models=(entry,))):
        again = FastStyle.from_pretrained(exported, runtime="onnx", device="cpu")
    assert again(image).settings["model"] == source["name"]


@pytest.mark.usefixtures("quick")
def test_exporting_again_replaces_an_export_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    (first,) = folder.export(str(checkpoint), tmp_path)
    before = contents(first)
    (first / "config.pbtxt").write_text("edited")
    (second,) = folder.export(str(checkpoint), tmp_path)
    assert second == first and contents(first) == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy-style"]
    (tmp_path / "mine" / "toy-style").mkdir(parents=True)
    (tmp_path / "mine" / "toy-style" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not an export"):
        folder.export(str(checkpoint), tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"toy-style/notes.txt": b"mine"}


def test_a_name_is_resolved_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, from_folder = [], resolving._from_folder
    monkeypatch.setattr(resolving, "_from_folder", lambda *given: found.append(given) or from_folder(*given))
    folder.load(str(checkpoint))
    assert len(found) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", ["full disk", "interrupt", "parity"])
def test_what_fails_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (older,) = folder.export(str(checkpoint), tmp_path)
    before = contents(older)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device") if fault == "full disk" else KeyboardInterrupt

    if fault == "parity":
        monkeypatch.setattr(parity, "LARGEST_ERROR", 1e-9)
        with pytest.raises(ConfigError, match=r"differs from PyTorch by .* at \[.*\], and at most 1e-09 is allowed"):
            folder.export(str(checkpoint), tmp_path)
    else:
        monkeypatch.setattr(folder, "measure", fail)
        expected = WeightsError if fault == "full disk" else KeyboardInterrupt
        with pytest.raises(expected) as caught:
            folder.export(str(checkpoint), tmp_path)
        assert fault != "full disk" or "No space left on device; free some space" in str(caught.value)
    assert contents(tmp_path) == {f"toy-style/{name}": data for name, data in before.items()}
    assert len(list(tmp_path.iterdir())) == 1


# --- companions


@pytest.fixture(scope="module")
def tint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint of a method with a companion; both are known as if they were artmodels' own."""
    torch.manual_seed(0)
    known = catalogue.Method(id="toy_tint", class_name="Tinter")
    with pytest.MonkeyPatch.context() as patch, toys.catalogued(known):
        patch.setitem(sys.modules, "artmodels.methods.toy_tint", toys)
        yield toys.Tinter(device="cpu").save_pretrained(tmp_path_factory.mktemp("checkpoints") / "tint")


@pytest.fixture(scope="module")
def tinted(tint: Path) -> Path:
    """Where both of its graphs are."""
    return next(iter(folder.export(str(tint), tint.parent / "repository")))


@pytest.fixture
def quick_tint(tinted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `quick`, for both graphs."""
    found = {toys.Tint: tinted, toys.Palette: tinted.with_name("tint-palette")}
    protos = {kind: onnx.load(path / "1" / "model.onnx") for kind, path in found.items()}
    monkeypatch.setattr(folder, "convert", lambda graph, uint8: protos[type(graph)])


@pytest.fixture
def copied(tinted: Path, tmp_path: Path) -> Path:
    """Both graphs, to be tampered with."""
    shutil.copytree(tinted.parent, tmp_path / "models")
    return tmp_path / "models" / "tint"


def colourful(seed: int = 1) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(1, 3, 37, 50, generator=random), torch.rand(1, 3, 19, 23, generator=random)


def test_a_companion_is_a_model_beside(tinted: Path, tint: Path) -> None:
    beside = tinted.with_name("tint-palette")
    assert sorted(path.name for path in tinted.parent.iterdir()) == ["tint", "tint-palette"]
    assert (
        set(contents(beside))
        == set(contents(tinted))
        == {
            *("1/model.onnx", "config.json", "config.pbtxt", "export.json"),
        }
    )
    main, facts = (json.loads((path / "export.json").read_text()) for path in (tinted, beside))
    digest = hashlib.sha256((tint / "model.safetensors").read_bytes()).hexdigest()
    assert main["source"] == {"name": str(tint), "sha256": digest} and main["companions"] == ["palette"]
    assert facts["source"] == main["source"] | {"part": "palette"} and facts["companions"] == []
    assert main["inputs"][1] == {"name": "colours", "type": "float32", "dims": ["N", 5]}
    assert facts["inputs"] == [{"name": "picture", "type": "float32", "dims": ["N", 3, "H", "W"]}]
    assert facts["outputs"] == [{"name": "colours", "type": "float32", "dims": ["N", 5]}]
    assert [row["shape"] for row in facts["parity"]] == [[1, 3, 64, 64], [2, 3, 101, 77], [3, 3, 41, 131]]
    config = text_format.Parse((beside / "config.pbtxt").read_text(), schema()())
    assert config.name == "tint-palette" and list(config.output[0].dims) == [5] and config.max_batch_size == 8


def test_graphs_with_companions_give_what_pytorch_gives(tinted: Path, tint: Path) -> None:
    image, like = colourful()
    model = toys.Tinter.from_pretrained(tint, device="cpu")
    graph = toys.Tinter.from_pretrained(tinted, runtime="onnx", device="cpu")
    assert graph.network is None
    assert all(isinstance(runner, OnnxRunner) for runner in (graph.runner, *graph.companion_runners.values()))
    numbers = graph._companion("palette", like)
    assert numbers.min() < 0 or numbers.max() > 1, "clamped as if it were an image"
    torch.testing.assert_close(numbers, model._companion("palette", like), atol=1e-4, rtol=0)
    torch.testing.assert_close(graph(image, like), model(image, like), atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="A graph has no weights to save"):
        graph.save_pretrained(tinted.parent / "saved")


def test_a_companion_must_be_there_and_of_the_same_weights(copied: Path, tint: Path) -> None:
    beside = copied.with_name("tint-palette")
    again = rf"export both again, with `python -m export {tint} --out {copied.parent}`"
    source = json.loads((beside / "export.json").read_text())["source"]

    def refused(error: type[Exception], message: str, path: Path = copied) -> None:
        with pytest.raises(error, match=message):
            toys.Tinter.from_pretrained(path, runtime="onnx", device="cpu")

    refused(ConfigError, "tint-palette is the palette of a model, without the rest", beside)
    changed_sidecar(beside, source=source | {"sha256": "1" * 64})
    refused(HashMismatch, f"with sha256 {'1' * 64}, and {copied} from {source['sha256']}: {again}")
    changed_sidecar(beside, source=source | {"part": "frame"})
    refused(ConfigError, f"tint-palette is not the palette of a model, which {copied} needs: {again}")
    changed_sidecar(beside, source=source)
    (beside / "1" / "model.onnx").write_bytes(b"")
    refused(HashMismatch, r"tint-palette.*is not the file that was exported")
    shutil.rmtree(beside)
    refused(MissingWeights, f"{copied} needs its palette, which is not in {beside}: {again}")


def test_numbers_in_half_precision_from_bytes(tint: Path, tmp_path: Path) -> None:
    path, beside = folder.export(str(tint), tmp_path, half=True, uint8=True)
    assert (path.name, beside.name) == ("tint", "tint-palette")
    facts = json.loads((beside / "export.json").read_text())
    assert facts["precision"] == "float16"
    assert (facts["inputs"][0]["type"], facts["outputs"][0]["type"]) == ("uint8", "float32")
    main = json.loads((path / "export.json").read_text())
    assert [port["type"] for port in (*main["inputs"], *main["outputs"])] == ["uint8", "float32", "uint8"]
    assert all(45 <= row["psnr"] < 100 for row in facts["parity"])
    image, like = ((picture * 255).round() / 255 for picture in colourful())
    model = toys.Tinter.from_pretrained(tint, device="cpu")
    graph = toys.Tinter.from_pretrained(path, runtime="onnx", device="cpu")
    wanted = model._companion("palette", like)
    difference = (graph._companion("palette", like) - wanted).abs().max()
    assert 0 < difference < 0.01 * wanted.abs().max()
    assert (graph(image, like) - model(image, like)).abs().max() < 0.02


def test_what_is_served_is_not_clamped_where_it_is_no_picture() -> None:
    palette = toys.Palette(toys.TintConfig()).eval()
    image = torch.randint(256, (2, 3, 8, 9), dtype=torch.uint8)
    wanted = palette(image / 255)
    assert wanted.min() < 0
    assert torch.equal(convert.Served(palette, uint8=True)(image), wanted)
    assert torch.equal(convert.Served(palette, uint8=False)(image / 255), wanted)


@pytest.mark.usefixtures("quick_tint")
@pytest.mark.parametrize("older", [False, True], ids=["first", "replaced"])
@pytest.mark.parametrize("fault", ["second write", "second parity", "second rename"])
def test_both_are_written_or_neither(
    tint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, older: bool
) -> None:
    if older:
        for path in folder.export(str(tint), tmp_path):
            (path / "config.pbtxt").write_text("older")
    before = contents(tmp_path)
    calls = []

    def second(name: str) -> bool:
        calls.append(name)
        return len(calls) == 2

    if fault == "second write":
        write = folder._write

        def broken(*given: object, **more: object) -> None:
            write(*given, **more)
            if second("write"):
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(folder, "_write", broken)
    elif fault == "second parity":
        accept = folder.accept

        def refuse(*given: object, half: bool) -> None:
            accept(*given, half=half)
            if second("parity"):
                raise ConfigError("too far")

        monkeypatch.setattr(folder, "accept", refuse)
    else:
        rename = Path.rename

        def stuck(self: Path, target: Path) -> Path:
            # Only drafts that are moved to their places; what is put back is let through.
            if self.suffix == ".tmp" and not target.name.startswith(".") and second("rename"):
                raise OSError(errno.EACCES, "Permission denied")
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", stuck)
    with pytest.raises((WeightsError, ConfigError), match="What was there is as it was|too far"):
        folder.export(str(tint), tmp_path)
    assert len(calls) == 2
    assert contents(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == (["tint", "tint-palette"] if older else [])


@pytest.mark.usefixtures("quick_tint")
def test_the_companion_is_in_place_before_the_model(
    tint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, rename = [], Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, target: moved.append(target.name) or rename(self, target))
    folder.export(str(tint), tmp_path)
    assert moved == ["tint-palette", "tint"]
    (tmp_path / "other" / "tint-palette").mkdir(parents=True)
    (tmp_path / "other" / "tint-palette" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="tint-palette exists and is not an export"):
        folder.export(str(tint), tmp_path / "other")
    assert contents(tmp_path / "other") == {"tint-palette/notes.txt": b"mine"}


def test_companions_are_checked_again(copied: Path) -> None:
    def check(*names: str) -> tuple[int, list[str], str]:
        done = CliRunner().invoke(command.app, ["--check", "--out", str(copied.parent), *names])
        return done.exit_code, [line.split(":")[0] for line in done.stdout.splitlines()], done.stderr

    beside = copied.with_name("tint-palette")
    assert check() == check("tint") == (0, [str(copied), str(beside)], "")
    assert check("tint-palette") == (0, [str(beside)], "")
    source = json.loads((beside / "export.json").read_text())["source"]
    changed_sidecar(beside, source=source | {"sha256": "1" * 64})
    code, passed, errors = check("tint")
    assert (code, passed) == (1, [str(copied)]) and f"{beside} was made from weights with sha256 1111" in errors
    changed_sidecar(beside, source=source | {"part": "frame"})
    assert f"{beside} is a frame, and {source['name']} has none now" in check("tint-palette")[2]
    shutil.rmtree(beside)
    code, passed, errors = check()
    assert (code, passed) == (1, [str(copied)]) and "tint-palette has no export.json" in errors


@pytest.mark.usefixtures("quick_tint")
def test_bench_times_companions_too(tint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "pick_device", lambda: torch.device("cpu"))
    tables = bench.run(str(tint), quick=True)
    assert list(tables) == [str(tint), f"{tint}-palette"]
    for rows in tables.values():
        assert [row.runtime for row in rows] == ["PyTorch cpu float32"] * 2 + ["ONNX Runtime cpu float32"] * 2
        assert all(row.seconds is not None for row in rows), rows
    # One linear map from 6 to 5 numbers, and a multiplication with an addition is two.
    assert {flop / row.batch for row in tables[f"{tint}-palette"] for flop, _ in row.demands} == {2 * 6 * 5}


# --- what cannot be exported


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("texture-patches", "texture_synthesis is an optimisation, not one pass of a network"),
        ("style-vgg19", "neural_style is an optimisation"),  # without fetching anything
        ("vgg19", "features are a part of other methods"),
    ],
)
def test_methods_without_a_graph_are_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} has no graph to export: {reason}"):
        folder.export(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_checkpoints_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is an exported graph already"):
        folder.load(str(exported))
    (tmp_path / "config.json").write_text('{"method": "cubism"}')
    with pytest.raises(ConfigError, match="has no method 'cubism'"):
        folder.load(str(tmp_path))


class Toy(Graph):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Branches(Toy):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0.5 else 1 - x


class OneImage(Toy):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] != 1:
            raise ValueError("one image, please")
        return x * x


class Styled(Toy):
    """A vector beside the image, a map of half its size, and twice the size out."""

    requirements = SizeRequirements(multiple_of=2, minimum=6)
    inputs: ClassVar[tuple[str, ...]] = ("image", "style", "noise")
    scale = 2

    def example(self, batch: int, height: int, width: int, *, seed: int = 0) -> tuple[Tensor, ...]:
        random = torch.Generator().manual_seed(seed)
        shapes = ((batch, 3, height, width), (batch, 3), (batch, 1, height // 2, width // 2))
        return tuple(torch.rand(shape, generator=random) for shape in shapes)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        return F.interpolate(x * style[:, :, None, None] + F.interpolate(noise, scale_factor=2.0), scale_factor=2.0)


def test_a_network_that_cannot_be_traced_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"Branches cannot be exported: .*\w"):
        convert.convert(Branches().eval())


def test_the_batch_is_fixed_where_the_network_takes_one_image() -> None:
    model = convert.convert(OneImage().eval())
    dims = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 3, "H", "W"]


def test_axes_follow_batch_height_and_width() -> None:
    def names(graph: Graph, **more: bool) -> list[Mapping[int, str]]:
        return [{axis: dim.__name__ for axis, dim in found.items()} for found in convert.axes(graph, **more)]

    assert names(Toy()) == [{0: "N", 2: "H", 3: "W"}]
    assert names(Toy(), batch=False) == [{2: "H", 3: "W"}]
    assert names(Styled()) == [{0: "N", 2: "2*h", 3: "2*w"}, {0: "N"}, {0: "N", 2: "h", 3: "w"}]

    class Square(Toy):
        requirements = SizeRequirements(square=True)

    assert names(Square()) == [{0: "N", 2: "H", 3: "H"}]

    class Tangled(Styled):
        def example(self, batch: int, height: int, width: int, *, seed: int = 0) -> tuple[Tensor, ...]:
            return *super().example(batch, height, width)[:2], torch.rand(batch, height * width)

    with pytest.raises(ConfigError, match="axis 1 of the input 'noise' of Tangled is no whole multiple"):
        convert.axes(Tangled())


def test_several_inputs_and_another_size_out(tmp_path: Path) -> None:
    graph = Styled().eval()
    model = convert.convert(graph, uint8=True)
    facts = {"format": 1, "precision": "float32", "scale": 2, "files": {}}
    facts |= {"inputs": [folder._port(value) for value in model.graph.input]}
    facts |= {"outputs": [folder._port(value) for value in model.graph.output]}
    data = {"1/model.onnx": model.SerializeToString(), "config.json": b"{}"}
    (tmp_path / "1").mkdir()
    for name, value in data.items():
        (tmp_path / name).write_bytes(value)
        facts["files"][name] = hashlib.sha256(value).hexdigest()
    (tmp_path / "export.json").write_text(json.dumps(facts))
    runner = OnnxRunner(tmp_path, provider="cpu")
    assert [port.dims for port in runner.exported.inputs] == [
        ("N", 3, "2*h", "2*w"),
        ("N", 3),
        ("N", 1, "h", "w"),
    ]
    assert [port.type for port in runner.exported.inputs] == ["uint8", "float32", "float32"]
    rows = parity.measure(runner, graph)
    assert [row.shape for row in rows] == [(1, 3, 64, 64), (2, 3, 102, 78), (3, 3, 42, 134)]
    # Bytes come out: what is left beyond their rounding is next to nothing, and the rounding itself is seen.
    assert all(row.max_abs < 1e-6 and 50 < row.psnr < 70 for row in rows)


# --- parity


def test_shapes_are_accepted_sizes_with_odd_multiples() -> None:
    assert parity.shapes(Toy(), batched=True) == [(1, 64, 64), (2, 101, 77), (3, 41, 131)]
    assert parity.shapes(Styled(), batched=False) == [(1, 64, 64), (1, 102, 78), (1, 42, 134)]


@pytest.mark.parametrize(
    ("max_abs", "psnr", "is_half", "message"),
    [
        (1.1e-4, 99, False, r"differs from PyTorch by 0.00011 at \[1, 3, 8, 8\]"),
        (0.5, 44.9, True, r"in float16 is 44.9 dB from PyTorch's float32 at \[1, 3, 8, 8\], and at least 45 dB"),
        (float("inf"), 0.0, False, "differs from PyTorch by inf"),
        (1e-4, 60, False, None),
        (0.5, 45, True, None),
    ],
)
def test_limits(max_abs: float, psnr: float, is_half: bool, message: str | None) -> None:
    rows = [parity.Measured(shape=(1, 3, 4, 4), max_abs=0, psnr=200)]
    rows.append(parity.Measured(shape=(1, 3, 8, 8), max_abs=max_abs, psnr=psnr))
    if message is None:
        parity.accept("toy", rows, half=is_half)
        return
    with pytest.raises(ConfigError, match=message):
        parity.accept("toy", rows, half=is_half)


@pytest.mark.parametrize(("wrong", "psnr"), [(0.01, 40.0), (float("nan"), 0.0)])
def test_errors_are_measured(exported: Path, wrong: float, psnr: float) -> None:
    class Off:
        exported: ClassVar[Exported]

        def __call__(self, x: Tensor) -> Tensor:
            return x + wrong

    Off.exported = Exported.read(exported)

    class Dark(Toy):
        def example(self, batch: int, height: int, width: int, *, seed: int = 0) -> tuple[Tensor, ...]:
            return (torch.zeros(batch, 3, height, width),)

    for row in parity.measure(Off(), Dark()):
        assert row.psnr == pytest.approx(psnr, abs=1e-4)
        assert row.max_abs == pytest.approx(0.01) if wrong == wrong else row.max_abs == float("inf")


@pytest.mark.parametrize(("size", "largest"), [(200.0, 1e-4), (0.5, 0.02)])
def test_errors_of_numbers_are_relative_to_the_largest(tinted: Path, size: float, largest: float) -> None:
    class Off:
        exported = Exported.read(tinted.with_name("tint-palette"))

        def __call__(self, x: Tensor) -> Tensor:
            return Numbers()(x) + 0.02

    class Numbers(Toy):
        pictures = False

        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([-size, size / 2]).expand(len(x), 2)

    for row in parity.measure(Off(), Numbers()):
        assert row.max_abs == pytest.approx(largest, rel=1e-2)
        assert row.psnr == pytest.approx(-20 * np.log10(largest), abs=0.1)


# --- float16


def types(model: object) -> dict[str, set[int]]:
    """The float types that each kind of operator computes in."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    kinds |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    found: dict[str, set[int]] = {}
    for node in graph.node:
        if node.op_type != "Cast":
            found.setdefault(f"{node.op_type}", set()).add(kinds[node.input[0]])
    return found


def by_hand(weight: float = 0.5) -> object:
    """Conv, InstanceNormalization, Resize that repeats, Resize that interpolates, ReLU twice: an output used within."""

    def tensor(name: str, value: object) -> object:
        return onnx.numpy_helper.from_array(np.array(value, np.float32), name)

    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 1, "H", "W"])
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 1, None, None]) for name in ("a", "b")]
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"]),
        helper.make_node("InstanceNormalization", ["c", "one", "zero"], ["n"]),
        helper.make_node("Resize", ["n", "", "scales"], ["r"], mode="nearest"),
        helper.make_node("Relu", ["r"], ["a"]),
        helper.make_node("Resize", ["a", "", "scales"], ["l"], mode="linear"),
        helper.make_node("Sigmoid", ["l"], ["b"]),
    ]
    weights = [
        tensor("w", [[[[weight]]]]),
        tensor("one", [1.0]),
        tensor("zero", [0.25]),
        tensor("scales", [1, 1, 2, 2]),
    ]
    graph = helper.make_graph(nodes, "toy", [image], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_half_precision_spares_what_it_would_break() -> None:
    model = by_hand()
    converted = half.to_half(model)
    single, short = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert types(converted) == {
        "Conv": {short},
        "InstanceNormalization": {single},
        "Resize": {short, single},
        "Relu": {short},
        "Sigmoid": {short},
    }
    assert types(model)["Conv"] == {single}, "the model given was changed"
    kinds = {tensor.name: tensor.data_type for tensor in converted.graph.initializer}
    assert kinds == {"w_float16": short, "one": single, "zero": single, "scales": single}
    image = np.random.default_rng(0).random((2, 1, 6, 5), np.float32)
    results = [half.literal_session(item).run(None, {"image": image}) for item in (model, converted)]
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == np.float32 and rounded.shape == exact.shape
        # Every value was rounded: those that come out are numbers of float16, and not those of float32.
        assert np.array_equal(rounded, rounded.astype(np.float16))
        assert 0 < np.abs(exact - rounded).max() < 5e-3


def test_weights_beyond_half_precision_are_refused() -> None:
    with pytest.raises(ConfigError, match="weights 'w' are too large for float16"):
        half.to_half(by_hand(weight=1e5))


# --- Triton


def schema() -> type:
    """As much of Triton's model configuration as we write, so that protobuf itself parses it, strictly."""
    field = descriptor_pb2.FieldDescriptorProto
    scalars = {"string": field.TYPE_STRING, "int32": field.TYPE_INT32, "int64": field.TYPE_INT64}
    scalars |= {"uint64": field.TYPE_UINT64, "uint32": field.TYPE_UINT32, "bool": field.TYPE_BOOL}
    enums = {"DataType": ["TYPE_INVALID", "TYPE_UINT8", "TYPE_FP32"], "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU"]}
    # An asterisk marks what may come several times.
    messages = {
        "Tensor": {"name": "string", "data_type": "DataType", "dims": "int64*"},
        "Group": {"kind": "Kind", "count": "int32"},
        "Latest": {"num_versions": "uint32"},
        "Policy": {"latest": "Latest"},
        "Batching": {"preferred_batch_size": "int32*", "max_queue_delay_microseconds": "uint64"},
        "WarmInput": {"data_type": "DataType", "dims": "int64*", "zero_data": "bool"},
        "WarmEntry": {"key": "string", "value": "WarmInput"},
        "Warmup": {"name": "string", "batch_size": "uint32", "inputs": "WarmEntry*"},
        "Parameter": {"string_value": "string"},
        "ParameterEntry": {"key": "string", "value": "Parameter"},
        "ModelConfig": {
            **{"name": "string", "backend": "string", "max_batch_size": "int32", "input": "Tensor*"},
            **{"output": "Tensor*", "instance_group": "Group*", "version_policy": "Policy"},
            **{"dynamic_batching": "Batching", "model_warmup": "Warmup*", "parameters": "ParameterEntry*"},
        },
    }
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="triton", syntax="proto3")
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (key, kind) in enumerate(fields.items(), 1):
            label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            kind = kind.removesuffix("*")
            added = message.field.add(name=key, number=number, label=label)
            if kind in scalars:
                added.type = scalars[kind]
            else:
                added.type = field.TYPE_ENUM if kind in enums else field.TYPE_MESSAGE
                added.type_name = f".triton.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("triton.ModelConfig"))


def test_triton_s_configuration_parses(exported: Path) -> None:
    text = (exported / "config.pbtxt").read_text()
    config = text_format.Parse(text, schema()())
    assert config.name == exported.name and config.backend == "onnxruntime" and config.max_batch_size == 8
    (image,), (result,) = config.input, config.output
    types = type(config).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    assert (image.name, list(image.dims), image.data_type) == ("image", [3, -1, -1], types["TYPE_FP32"].number)
    assert (result.name, list(result.dims)) == ("result", [3, -1, -1])
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert [list(warm.inputs[0].value.dims) for warm in config.model_warmup] == [
        [3, 512, 512],
        [3, 768, 768],
        [3, 1024, 1024],
    ]
    assert all(warm.batch_size == 1 and warm.inputs[0].key == "image" for warm in config.model_warmup)
    assert all(warm.inputs[0].value.zero_data for warm in config.model_warmup)
    assert {item.key: item.value.string_value for item in config.parameters}["cudnn_conv_algo_search"] == "1"
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text + "unknown: 1", schema()())


def test_triton_s_configuration_of_one_image_of_bytes() -> None:
    image = Port(name="image", type="uint8", dims=(1, 3, "H", "W"))
    config = text_format.Parse(triton.config("toy", OneImage(), (image,), image), schema()())
    assert config.max_batch_size == 0 and not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [1, 3, -1, -1]
    assert list(config.model_warmup[0].inputs[0].value.dims) == [1, 3, 512, 512]


# --- the command


@pytest.mark.usefixtures("quick")
def test_half_precision_and_checked_again(checkpoint: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(command.app, [str(checkpoint), "texture-patches", "--fp16", "--out", str(tmp_path)])
    assert done.exit_code == 1, done.output
    assert "texture-patches has no graph to export" in done.stderr
    assert "toy-style: largest difference from PyTorch" in done.stdout
    path = tmp_path / "toy-style"
    facts = json.loads((path / "export.json").read_text())
    assert facts["precision"] == "float16" and facts["inputs"][0]["type"] == facts["outputs"][0]["type"] == "float32"
    assert all(45 <= row["psnr"] < 90 for row in facts["parity"])
    image = torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(1))
    model = FastStyle.from_pretrained(path, runtime="onnx", device="cpu")
    assert model.dtype == torch.float16
    wanted = FastStyle.from_pretrained(checkpoint, device="cpu")(image).tensor
    assert (model(image).tensor - wanted).abs().max() < 0.02

    check = ["--check", "--out", str(tmp_path)]
    again = run(command.app, check)
    assert again.exit_code == 0 and f"{path}: largest difference" in again.stdout, again.output
    changed_sidecar(path, source=facts["source"] | {"sha256": "0" * 64})
    other = run(command.app, check)
    assert other.exit_code == 1 and "now: export it again" in other.stderr
    changed_sidecar(path, source={"name": str(tmp_path / "gone"), "sha256": "0" * 64})
    assert run(command.app, [*check, "toy-style"]).exit_code == 1
    (path / "1" / "model.onnx").write_bytes(b"")
    assert "is not the file that was exported" in run(command.app, check).stderr


def test_all_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def export(name: str, out: Path, *, half: bool, uint8: bool) -> dict[Path, list[parity.Measured]]:
        assert uint8 and not half
        asked.append(name)
        return {out / name: [parity.Measured(shape=(1, 3, 4, 4), max_abs=1e-6, psnr=120.0)]}

    monkeypatch.setattr(folder, "export", export)
    done = CliRunner().invoke(command.app, ["--all", "--uint8"])
    assert done.exit_code == 0, done.output
    graphs = {entry.name for entry in catalogue.list_models() if folder.has_graph(entry.method)}
    assert set(asked) == graphs and any(name.startswith("fast-style") for name in graphs)
    assert "texture-patches: has no graph (texture_synthesis)" in done.stdout
    assert f"build/export/{asked[0]}: largest difference from PyTorch 1.0e-06, PSNR 120 dB at least" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["name", "--all"], ["--check", "--out", "nowhere"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(command.app, arguments).exit_code == 2


# --- timing


def test_operations_are_counted_and_the_peak_is_measured() -> None:
    class Conv(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    operations, moved = 2 * 2 * 8 * 10 * 5 * 3 * 9, 2 * 8 * 10 * (3 + 5) + 5 * 3 * 9 + 5
    assert bench.demands(Conv(), 2, 8, 10) == [(operations, moved)]
    found = bench.measured_peaks(torch.device("cpu"), quick=True)
    assert found.flop > 1e6 and found.bytes > 1e6 and found.size == 4

    peaks = bench.Peaks(flop=64e9, bytes=1e9, size=2)
    # The first is bound by what it computes, the second by what it moves.
    work = [(8e9, 1e6), (64e6, 5e7)]
    assert peaks.seconds(work) == pytest.approx(0.125 + 0.1)
    row = bench.Row(runtime="x", batch=4, height=8, width=16, seconds=0.9, demands=work, peaks=peaks)
    assert row.cells() == ["x", "16x8", "4", "900", "4.44", "2.02", "25.5", "25%", ""]
    failed = dataclasses.replace(row, seconds=None, note="no")
    assert failed.cells() == ["x", "16x8", "4", "", "", "2.02", "25.5", "", "no"]


@pytest.mark.usefixtures("quick")
def test_bench_prints_a_line_for_each_runtime_and_size(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "pick_device", lambda: torch.device("cpu"))
    monkeypatch.setenv("COLUMNS", "200")
    done = CliRunner().invoke(command.timing, [str(checkpoint), "--quick"])
    assert done.exit_code == 0, done.output
    for title in ("PyTorch cpu float32", "ONNX Runtime cpu float32"):
        rows = [line.split() for line in done.stdout.splitlines() if line.strip().startswith(title)]
        assert [row[len(title.split())] for row in rows] == ["64x64", "96x48"]
        assert all(row[-1].endswith("%") for row in rows), "something did not run"
    assert CliRunner().invoke(command.timing, ["texture-patches"]).exit_code == 1
    assert CliRunner().invoke(command.timing, []).exit_code == 2
