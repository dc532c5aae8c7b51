"""The folder of an exported model, written whole or not at all, and checked again later."""

import dataclasses
import hashlib
import json
import shutil
import uuid
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import onnx

import artmodels
from artmodels import catalogue, hub
from artmodels.checkpoints import CONFIG
from artmodels.errors import ConfigError, WeightsError
from artmodels.feedforward import FeedForward, Graph
from artmodels.fetching import is_checkpoint_folder
from artmodels.graphs import FORMAT, MODEL, SIDECAR, Exported, OnnxRunner
from export import triton
from export.convert import OPSET, convert
from export.half import literal_session, to_half
from export.parity import Measured, accept, measure

__all__ = ["Measured", "check", "export", "has_graph", "load"]

_TYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}


def has_graph(method: object) -> bool:
    """Whether a method is one pass of a network."""
    if method not in artmodels.METHODS:
        return False
    return issubclass(_class(str(method)), FeedForward)


def _class(method: str) -> Any:  # noqa: ANN401 - each method has a class of its own
    return getattr(import_module(f"artmodels.{method}"), artmodels.METHODS[method])


def load(name: str) -> tuple[FeedForward, dict[str, str]]:
    """Load a checkpoint to export, by a name of the catalogue, a folder or `owner/name`, in float32 on the CPU.

    Returns:
        The model, and its source: name and sha256 of the weights.

    Raises:
        ConfigError: Its method has no graph, or the folder is an export itself.
        WeightsError: It cannot be loaded.
    """
    entry = next((entry for entry in catalogue.ENTRIES if entry.name == name), None)
    if entry is not None and not is_checkpoint_folder(name):
        method: object = entry.method
        _require_graph(name, method)  # before anything is fetched
    resolved = hub.resolve(name)
    if resolved.folder is not None and (resolved.folder / SIDECAR).exists():
        raise ConfigError(f"{name} is an exported graph already: export the checkpoint that it was made from")
    method = resolved.entry.method if resolved.entry else resolved.config().get("method")
    _require_graph(name, method)
    model: FeedForward = _class(str(method)).from_pretrained(name, device="cpu")
    return model, {"name": name, "sha256": hashlib.sha256(resolved.weights_file.read_bytes()).hexdigest()}


def _require_graph(name: str, method: object) -> None:
    if has_graph(method):
        return
    if method == "features":
        reason = "features are a part of other methods, with taps instead of an image as their result"
    elif method in artmodels.METHODS:
        reason = f"{method} is an optimisation, not one pass of a network"
    else:
        reason = f"this version of artmodels has no method {method!r}"
    raise ConfigError(f"{name} has no graph to export: {reason}")


def export(name: str, out: Path, *, half: bool = False, uint8: bool = False) -> tuple[Path, list[Measured]]:
    """Export a checkpoint, check it against PyTorch, and write its folder: all of it, or nothing.

    An older export in the same place is replaced at the end; anything else there is left alone.

    Args:
        name: What `load` takes; the last part of it names the folder.
        out: The folder to write it in, which is a Triton model repository.
        half: Compute in float16.
        uint8: Bytes in and out, instead of floats in [0, 1].

    Returns:
        The folder written, and how far its graph is from PyTorch.

    Raises:
        ConfigError: The method has no graph, the graph is not close enough, or something else is in the place.
        WeightsError: The checkpoint cannot be loaded, or the folder cannot be written.
    """
    target = (out / _short(name)).absolute()
    if target.exists() and not (target / SIDECAR).is_file() and not _is_empty_folder(target):
        raise ConfigError(f"{target} exists and is not an export: choose another --out, or remove it")
    model, source = load(name)
    graph = model.demands
    proto = convert(graph, uint8=uint8)
    if half:
        proto = to_half(proto)
    # Beside the target, because a rename is atomic only within a file system.
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        _write(draft, model, proto, source, half=half)
        runner = _runner(draft)
        rows = measure(runner, graph)
        accept(name, rows, half=half)
        facts = dict(runner.exported.facts) | {"parity": [row.as_dict() for row in rows]}
        _write_sidecar(draft, facts)
        _replace(draft, target)
    except OSError as error:
        raise WeightsError(f"{target} cannot be written: {error}. Nothing was left there.") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target, rows


def _short(name: str) -> str:
    return Path(name).expanduser().resolve().name


def _runner(folder: Path) -> OnnxRunner:
    runner = OnnxRunner(folder, provider="cpu")
    if runner.exported.precision == "float16":
        runner.session = literal_session(onnx.load_from_string(runner.exported.verified(MODEL)))
    return runner


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _replace(draft: Path, target: Path) -> None:
    if not target.exists():
        draft.rename(target)
        return
    # A folder that is not empty cannot be renamed onto: there is a moment with neither, but never one with half.
    old = target.with_name(draft.name + ".old")
    target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _write(folder: Path, model: FeedForward, proto: onnx.ModelProto, source: dict[str, str], *, half: bool) -> None:
    (folder / MODEL).parent.mkdir(parents=True)
    settings = {"method": model.method, "artmodels_version": artmodels.__version__}
    text = json.dumps(settings | dataclasses.asdict(model.config), indent=2, allow_nan=False) + "\n"
    data = proto.SerializeToString(deterministic=True)
    (folder / MODEL).write_bytes(data)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    graph = model.demands
    facts = {
        "format": FORMAT,
        "source": source,
        "method": model.method,
        "precision": "float16" if half else "float32",
        "opset": OPSET,
        "inputs": [_port(value) for value in proto.graph.input],
        "outputs": [_port(value) for value in proto.graph.output],
        "scale": graph.scale,
        "minimum": graph.requirements.minimum,
        "multiple_of": graph.requirements.multiple_of,
        "files": {
            MODEL: hashlib.sha256(data).hexdigest(),
            CONFIG: hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest(),
        },
        "versions": {"artmodels": artmodels.__version__}
        | {package: metadata.version(package) for package in ("torch", "onnx", "onnxscript")}
        | {"onnxruntime": import_module("onnxruntime").__version__},
    }
    _write_sidecar(folder, facts)
    exported = Exported.read(folder)
    served = triton.config(_short(source["name"]), graph, exported.inputs, exported.output)
    (folder / "config.pbtxt").write_text(served, encoding="utf-8")


def _write_sidecar(folder: Path, facts: dict[str, object]) -> None:
    (folder / SIDECAR).write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _port(value: onnx.ValueInfoProto) -> dict[str, object]:
    tensor = value.type.tensor_type
    dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return {"name": value.name, "type": _TYPES[tensor.elem_type], "dims": dims}


def check(folder: Path) -> list[Measured]:
    """Check an exported folder again: its hashes, and its graph against the checkpoint that it was made from.

    Returns:
        What was measured now.

    Raises:
        ConfigError: The graph is not close enough, or its checkpoint is another one now.
        WeightsError: The folder is damaged, or its checkpoint is not here.
    """
    runner = _runner(folder)
    facts = runner.exported.facts
    source = facts.get("source")
    if not isinstance(source, dict) or "name" not in source:
        raise WeightsError(f"{folder / SIDECAR} names no source: export the model again")
    model, now = load(source["name"])
    if now != source:
        raise ConfigError(
            f"{folder} was made from weights with sha256 {source.get('sha256')}, and {source['name']} has "
            f"{now['sha256']} now: export it again"
        )
    graph: Graph = model.demands
    rows = measure(runner, graph)
    accept(str(folder), rows, half=runner.exported.precision == "float16")
    return rows
