"""What a checkpoint folder holds, read strictly: `config.json` to a config dataclass, safetensors to tensors.

Keys, shapes, types and hashes are exactly the expected ones, or there is an error. Pickle-based files are
never opened.
"""

import dataclasses
import hashlib
import json
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import torch
from safetensors import SafetensorError, safe_open

from artmodels.catalogue import suggest
from artmodels.errors import (
    ConfigError,
    HashMismatch,
    MissingWeights,
    UnsafeFormat,
    WeightsError,
    WeightsMismatch,
)

__all__ = [
    "CONFIG",
    "PICKLES",
    "WEIGHTS",
    "config_from",
    "load_tensors",
    "missing_file",
    "pickle_text",
    "read_config",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle")

_SHOWN = 5

_Config = TypeVar("_Config")


# --- Configuration


def config_from(cls: type[_Config], mapping: Mapping[str, object]) -> _Config:
    """Build a config dataclass from a JSON object, strictly.

    Args:
        cls: A dataclass whose fields are annotated with int, float, bool, str, None, Literal, tuple, Mapping,
            unions of these, or other such dataclasses.
        mapping: Values by field name; JSON lists become tuples, integers are accepted as floats.

    Raises:
        ConfigError: A key is unknown (near misses are named), a field is missing or a type is wrong.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            hint = suggest(key, fields)
            raise ConfigError(f"{cls.__name__} has no setting {key!r}.{hint} It has: {', '.join(fields)}.")
    for name, field in fields.items():
        if (
            name not in mapping
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ConfigError(f"{cls.__name__} needs a value for {name!r}.")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in mapping.items():
        try:
            values[key] = _typed(value, hints[key])
        except TypeError:
            wanted = re.sub(r"\btyping\.|<class '(\w+)'>", r"\1", str(hints[key]))
            raise ConfigError(f"{cls.__name__}.{key} must be {wanted}, not {value!r}.") from None
    return cls(**values)


def _typed(value: object, hint: Any) -> object:  # noqa: ANN401 - an annotation can be any object
    """Return `value` as the annotation asks, or raise TypeError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        for argument in arguments:
            try:
                return _typed(value, argument)
            except TypeError:
                continue
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return tuple(_typed(item, kind) for item, kind in zip(value, kinds, strict=True))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {_typed(key, arguments[0]): _typed(item, arguments[1]) for key, item in value.items()}
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return config_from(hint, value)
    elif hint is float and type(value) in (int, float):
        return float(typing.cast(float, value))
    elif hint in (int, bool, str, types.NoneType) and type(value) is hint:  # bool is an int: no isinstance
        return value
    elif isinstance(hint, type) and hint not in (int, float, bool, str) and isinstance(value, hint):
        return value
    raise TypeError


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the object in a checkpoint's `config.json`.

    Raises:
        MissingWeights: The file is not there.
        ConfigError: It is not a JSON object.
    """
    file = Path(folder) / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise MissingWeights(f"{folder} has no {CONFIG}: it is not a checkpoint of artmodels.") from None
    except ValueError as error:  # also UnicodeDecodeError
        raise ConfigError(f"{file} is not valid JSON: {error}. Mend it or fetch it again.") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{file} must hold a JSON object, not a {type(config).__name__}.")
    return config


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


# --- Tensors


def load_tensors(
    file: str | os.PathLike[str],
    *,
    expected: Mapping[str, tuple[int, ...]],
    sha256: str | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> dict[str, torch.Tensor]:
    """Load a safetensors file whose bytes, keys and shapes are exactly the expected ones.

    Args:
        file: The `.safetensors` file.
        expected: Shape by key of every tensor that the file must hold, and no other.
        sha256: What the file must hash to.
        wanted: Which of the keys to read; all by default. The others are checked but not read.

    Returns:
        Tensors on the CPU, in the file's own dtypes.

    Raises:
        MissingWeights: There is no such file.
        UnsafeFormat: The file is not a safetensors file by name.
        HashMismatch: The bytes differ from `sha256`.
        WeightsMismatch: Keys or shapes differ, or the file is damaged.
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise UnsafeFormat(pickle_text(str(file.parent), [file.name]))
    if not file.is_file():
        raise MissingWeights(f"There is no file {file}.")
    if sha256 is not None:
        with file.open("rb") as stream:
            actual = hashlib.file_digest(stream, "sha256").hexdigest()
        if actual != sha256:
            raise HashMismatch(
                f"{file} is not the file that was promised: its sha256 is {actual}, not {sha256}. Do not use "
                f"it; delete {file.resolve()} and load again to fetch a fresh copy."
            )
    try:
        with safe_open(file, framework="pt") as tensors:
            shapes = {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
            _check_shapes(file, shapes, expected)
            return {key: tensors.get_tensor(key) for key in expected if wanted is None or wanted(key)}
    except SafetensorError as error:
        raise WeightsMismatch(
            f"{file} is damaged or not a safetensors file ({error}): delete {file.resolve()} and fetch or "
            "save it again."
        ) from error


def _check_shapes(file: Path, actual: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    missing = sorted(expected.keys() - actual.keys())
    extra = sorted(actual.keys() - expected.keys())
    wrong = [
        f"{key} is {list(actual[key])}, not {list(expected[key])}"
        for key in sorted(expected.keys() & actual.keys())
        if actual[key] != tuple(expected[key])
    ]
    faults = [
        f"{len(items)} {title}: {_some(items)}"
        for title, items in (("missing", missing), ("unexpected", extra), ("of the wrong shape", wrong))
        if items
    ]
    if faults:
        raise WeightsMismatch(
            f"{file} does not fit this architecture: {'; '.join(faults)}. Load the checkpoint that was made "
            "for it, or change the config to match."
        )


# --- Messages


def missing_file(where: str, filename: str, names: Sequence[str]) -> WeightsError:
    """Return the error for a file that is not among `names`: UnsafeFormat if pickle-based weights are."""
    unsafe = [name for name in names if name.endswith(PICKLES)]
    if unsafe and not any(name.endswith(".safetensors") for name in names):
        return UnsafeFormat(pickle_text(where, unsafe))
    there = f" It has: {_some(names)}." if names else ""
    return MissingWeights(f"{where} has no {filename}.{there} Check the name, or save it with save_pretrained.")


def pickle_text(where: str, names: Sequence[str]) -> str:
    """Return the message of UnsafeFormat about the files called `names`."""
    return (
        f"{where} has only pickle-based weights ({_some(names)}), which can run code when opened, so "
        f"artmodels never opens them. Convert them to {WEIGHTS} with safetensors.torch.save_file, or choose "
        "another checkpoint."
    )


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
