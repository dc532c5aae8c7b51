"""The folders of an exported model, written whole or not at all, and checked again later.

A model whose method has companions has one folder for itself and one for each of these, beside it.
"""

import dataclasses
import hashlib
import json
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import onnx

from artmodels import hub
from artmodels._version import __version__
from artmodels.errors import ConfigError, WeightsError
from artmodels.files import replacing, sha256_of
from artmodels.hub import catalogue
from artmodels.hub.checkpoints import CONFIG
from artmodels.methods import class_of
from artmodels.runtime.feedforward import FeedForward, Graph
from artmodels.runtime.graphs import FORMAT, MODEL, SIDECAR, Exported, OnnxRunner, companion_folder
from export import triton
from export.convert import OPSET, convert
from export.half import literal_session, to_half
from export.parity import Measured, accept, measure

__all__ = ["Measured", "check", "export", "has_graph", "load", "with_companions"]

_TYPES: dict[int, str] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.UINT8: "uint8"}


def has_graph(method: object) -> bool:
    """Whether a method is one pass of a network."""
    known = catalogue.find_method(method)
    return known is not None and known.no_graph is None


def load(name: str) -> tuple[FeedForward[Any], dict[str, str]]:
    """Load a checkpoint to export, by a name of the catalogue, a folder or `owner/name`, in float32 on the CPU.

    Returns:
        The model, and its source: name and sha256 of the weights.

    Raises:
        ConfigError: Its method has no graph, or the folder is an export itself.
        WeightsError: It cannot be loaded.
    """
    resolved = hub.resolve(name, accept=_require_graph)
    if resolved.folder is not None and (resolved.folder / SIDECAR).exists():
        raise ConfigError(f"{name} is an exported graph already: export the checkpoint that it was made from")
    model = class_of(str(resolved.method)).from_resolved(resolved, hub.Placement(device="cpu"))
    return model, {"name": name, "sha256": sha256_of(resolved.weights_file)}


def _require_graph(name: str, method: object) -> None:
    known = catalogue.find_method(method)
    reason = known.no_graph if known else f"this version of artmodels has no method {method!r}"
    if reason is not None:
        raise ConfigError(f"{name} has no graph to export: {reason}")


def export(name: str, out: Path, *, half: bool = False, uint8: bool = False) -> dict[Path, list[Measured]]:
    """Export a checkpoint, check it against PyTorch, and write its folders: all of them, or nothing.

    Older exports in the same places are replaced at the end; anything else there is left alone.

    Args:
        name: What `load` takes; the last part of it names the folder, and with `-COMPANION` those of companions.
        out: The folder to write them in, which is a Triton model repository.
        half: Compute in float16.
        uint8: Bytes in and out, instead of floats in [0, 1].

    Returns:
        The folders written, first that of the model itself, and how far their graphs are from PyTorch.

    Raises:
        ConfigError: The method has no graph, a graph is not close enough, or something else is in a place.
        WeightsError: The checkpoint cannot be loaded, or a folder cannot be written.
    """
    target = out.absolute() / _short(name)
    _require_place(target)
    model, source = load(name)
    parts = ["", *model.companions]
    targets = [companion_folder(target, part) if part else target for part in parts]
    for place in targets:
        _require_place(place)
    rows: dict[Path, list[Measured]] = {}
    # The model itself is put in place last: where it is whole, so are its companions.
    with replacing(*reversed(targets), error=WeightsError) as drafts:
        for part, place, draft in zip(parts, targets, reversed(drafts), strict=True):
            proto = convert(_graph(model, part), uint8=uint8)
            if half:
                proto = to_half(proto)
            _write(draft, model, proto, _source(source, part), title=place.name, half=half)
            runner = _runner(draft)
            rows[place] = measure(runner, _graph(model, part))
            accept(place.name, rows[place], half=half)
            facts = dict(runner.exported.facts) | {"parity": [row.as_dict() for row in rows[place]]}
            _write_sidecar(draft, facts)
    return rows


def _graph(model: FeedForward[Any], part: str) -> Graph:
    return model.companions[part] if part else model.graph


def _source(source: dict[str, str], part: str) -> dict[str, str]:
    return source | {"part": part} if part else source


def _require_place(target: Path) -> None:
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not (target / SIDECAR).is_file() and not empty:
        raise ConfigError(f"{target} exists and is not an export: choose another --out, or remove it")


def _short(name: str) -> str:
    return Path(name).expanduser().resolve().name


def _runner(folder: Path) -> OnnxRunner:
    runner = OnnxRunner(folder, provider="cpu")
    if runner.exported.precision == "float16":
        runner.session = literal_session(onnx.load_from_string(runner.exported.verified(MODEL)))
    return runner


def _write(
    folder: Path, model: FeedForward[Any], proto: onnx.ModelProto, source: dict[str, str], *, title: str, half: bool
) -> None:
    (folder / MODEL).parent.mkdir(parents=True)
    settings = {"method": model.method, "artmodels_version": __version__}
    text = json.dumps(settings | dataclasses.asdict(model.config), indent=2, allow_nan=False) + "\n"
    data = proto.SerializeToString(deterministic=True)
    (folder / MODEL).write_bytes(data)
    (folder / CONFIG).write_text(text, encoding="utf-8")
    part = source.get("part", "")
    graph = _graph(model, part)
    facts = {
        "format": FORMAT,
        "source": source,
        "method": model.method,
        "companions": [] if part else list(model.companions),
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
        "versions": {"artmodels": __version__}
        | {package: metadata.version(package) for package in ("torch", "onnx", "onnxscript")}
        | {"onnxruntime": import_module("onnxruntime").__version__},
    }
    _write_sidecar(folder, facts)
    exported = Exported.read(folder)
    served = triton.config(title, graph, exported.inputs, exported.output)
    (folder / "config.pbtxt").write_text(served, encoding="utf-8")


def _write_sidecar(folder: Path, facts: dict[str, object]) -> None:
    (folder / SIDECAR).write_text(json.dumps(facts, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _port(value: onnx.ValueInfoProto) -> dict[str, object]:
    tensor = value.type.tensor_type
    dims = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    return {"name": value.name, "type": _TYPES[tensor.elem_type], "dims": dims}


def with_companions(folder: Path) -> list[Path]:
    """Name an exported folder and those of the companions that it was exported with; one that is damaged, alone."""
    try:
        parts = Exported.read(folder).facts.get("companions", [])
    except WeightsError:
        parts = []
    return [folder, *(companion_folder(folder, part) for part in parts)]


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
    part = source.get("part", "")
    if part and part not in model.companions:
        raise ConfigError(f"{folder} is a {part}, and {source['name']} has none now: remove it, and export again")
    if _source(now, part) != source:
        raise ConfigError(
            f"{folder} was made from weights with sha256 {source.get('sha256')}, and {source['name']} has "
            f"{now['sha256']} now: export it again"
        )
    rows = measure(runner, _graph(model, part))
    accept(str(folder), rows, half=runner.exported.precision == "float16")
    return rows
