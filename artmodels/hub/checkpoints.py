"""What a checkpoint folder holds, read strictly: `config.json` to a config dataclass, safetensors to tensors.

Keys, shapes, types and hashes are exactly the expected ones and all values finite, or there is an error. Pickle-based
files are never opened. Every reader of weights goes through here; what comes from the catalogue is no exception, since
a look at the numbers costs less than the hash of their bytes.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from torch import Tensor

from artmodels.errors import ConfigError, HashMismatch, MissingWeights, UnsafeFormat, WeightsMismatch, clipped, some
from artmodels.files import read_object

__all__ = [
    "CONFIG",
    "PICKLES",
    "WEIGHTS",
    "Expected",
    "check_numbers",
    "fault_of",
    "fingerprint",
    "load_tensors",
    "missing_file",
    "pickle_text",
    "read_config",
    "read_tensors",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PICKLES = (".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle")

Expected: TypeAlias = Mapping[str, tuple[int, ...]] | Mapping[str, Tensor]
"""By key, what a file must hold: a shape, or a tensor of that shape, whose type is wanted too and its numbers not."""

_HEADER = 2**22  # bytes: room for some 40 000 tensors
_FLOATS = ("F16", "BF16", "F32", "F64")
_COUNTER = "num_batches_tracked"  # of batch normalisation, which does without when it is not trained

# --- Configuration


def read_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the object in a checkpoint's `config.json`.

    MissingWeights says that the file is not there, a ConfigError that it is not a regular file within the folder, too
    large, or not a plain JSON object.
    """
    file = Path(folder) / CONFIG
    if not _stays(file):
        raise ConfigError(f"{file} is a link to a file elsewhere: put a copy of that file in its place.")
    try:
        return read_object(file)
    except FileNotFoundError:
        raise MissingWeights(f"{folder} has no {CONFIG}: it is not a checkpoint of artmodels.") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}. Mend it or fetch it again.") from None
    except ValueError as error:  # also UnicodeDecodeError
        raise ConfigError(f"{file} is not valid JSON: {error}. Mend it or fetch it again.") from None


def _stays(file: Path) -> bool:
    """Whether a file is in its folder, following links; the Hub's cache is made of links, its client's own."""
    cache, folder = Path(constants.HF_HUB_CACHE).resolve(), file.parent.resolve()
    target = file.resolve()
    return folder.is_relative_to(cache) or target.is_relative_to(folder) or target.is_relative_to(cache)


# --- Tensors


def load_tensors(
    file: str | os.PathLike[str],
    *,
    expected: Expected,
    sha256: str | None = None,
    wanted: Callable[[str], bool] | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Load a safetensors file whose bytes, keys and shapes are exactly the expected ones, and its values finite.

    The header is compared before any tensor is read. Keys that are not `wanted` are checked but not read; `dtype` is
    what is to be computed in, and values must fit it, too. The tensors are on the CPU, in the types of `expected`, or
    in the file's own where that gives shapes only.

    Raises:
        MissingWeights: There is no such file.
        UnsafeFormat: The file is not a safetensors file by name.
        HashMismatch: The bytes differ from `sha256`.
        WeightsMismatch: Keys or shapes differ, a tensor is no floating one or not finite, or the file is damaged.
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise UnsafeFormat(pickle_text(str(file.parent), [file.name]))
    with _opened(file, sha256) as tensors:
        about = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118 - a method, not a dict's
        shapes = {key: tuple(value if isinstance(value, tuple) else value.shape) for key, value in expected.items()}
        _check_shapes(file, {key: tuple(part.get_shape()) for key, part in about.items()}, shapes)
        _check_kinds(file, {key: part.get_dtype() for key, part in about.items()})
        loaded = dict[str, Tensor]()
        for key, value in expected.items():
            if wanted is None or wanted(key):
                tensor = tensors.get_tensor(key)
                kind = tensor.dtype if isinstance(value, tuple) else value.dtype
                check_numbers(file, {key: tensor}, kind, dtype)
                loaded[key] = tensor.to(kind)
        return loaded


def fingerprint(settings: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of settings and weights: where it is the same, so are the results."""
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for key, value in sorted(tensors.items()):
        total.update(f"\0{key} {value.dtype} {tuple(value.shape)}\0".encode())
        total.update(value.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def read_tensors(file: str | os.PathLike[str], *, unused: Callable[[str], bool] | None = None) -> dict[str, Tensor]:
    """Read whatever a safetensors file holds, as converters do, which know the names later.

    Keys that are `unused` are left out, whatever they are. It raises what `load_tensors` does.
    """
    file = Path(file)
    with _opened(file) as tensors:
        keys = [key for key in tensors.keys() if unused is None or not unused(key)]  # noqa: SIM118
        _check_kinds(file, {key: tensors.get_slice(key).get_dtype() for key in keys})
        loaded = {key: tensors.get_tensor(key) for key in keys}
        check_numbers(file, loaded)
        return loaded


@contextlib.contextmanager
def _opened(file: Path, sha256: str | None = None) -> Iterator[Any]:
    """Open a safetensors file whose header is not too large; what is wrong with it is a WeightsError."""
    if not file.is_file():
        what = f"{file} is not a regular file" if file.exists() else f"There is no file {file}"
        raise MissingWeights(f"{what}.")
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            stream.seek(0)
            actual = sha256 and hashlib.file_digest(stream, "sha256").hexdigest()
        if actual != sha256:
            raise HashMismatch(
                f"{file} is not the file that was promised: its sha256 is {actual}, not {sha256}. Do not use "
                f"it; delete {file.resolve()} and load again to fetch a fresh copy."
            )
        if length > _HEADER:
            raise SafetensorError(f"its header would have {length} bytes, more than {_HEADER}")
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as error:
        raise WeightsMismatch(
            f"{file} is damaged or not a safetensors file ({clipped(str(error))}): delete {file.resolve()} and fetch "
            "or save it again."
        ) from error
    except OSError as error:
        raise WeightsMismatch(f"{file} cannot be read ({error}): fetch or save it again.") from error


def check_numbers(file: str | os.PathLike[str], tensors: Mapping[str, Tensor], *types: torch.dtype | None) -> None:
    """Raise WeightsMismatch about a file whose weights cannot be computed with, see `fault_of`."""
    fault = fault_of(tensors, *types)
    if fault is not None:
        raise WeightsMismatch(
            f"{file} cannot be used: its tensor {fault}. Fetch the file again, or load another checkpoint."
        )


def fault_of(tensors: Mapping[str, Tensor], *types: torch.dtype | None) -> str | None:
    """What is wrong with the first tensor that holds NaN, infinity or a negative variance; None if none does.

    One pass over each tensor, which is not copied: its extremes tell all, and NaN is both of them. `types` are what the
    tensors are then converted to, one after the other, and must fit; None changes nothing.
    """
    for key, tensor in tensors.items():
        if not tensor.numel() or not tensor.is_floating_point():
            continue
        name = clipped(key)
        extremes = torch.stack(torch.aminmax(tensor.detach()))
        if not bool(extremes.isfinite().all()):
            return f"{name} holds values that are not finite"
        # torchvision's name, and the end of MXNet's: the root of a negative one would be no number.
        if key.endswith("running_var") and extremes[0] < 0:
            return f"{name} holds a negative variance, {float(extremes[0]):g}"
        largest = float(extremes.abs().max())
        for kind in types:
            if kind is not None and kind.is_floating_point:
                extremes = extremes.to(kind)
                if not bool(extremes.isfinite().all()):
                    return f"{name} has values up to {largest:g}, too large for {str(kind).removeprefix('torch.')}"
    return None


def _check_kinds(file: Path, kinds: Mapping[str, str]) -> None:
    """Check that weights are of floating types that PyTorch computes in; counters may be integers."""
    wrong = [
        f"{clipped(key)} is {kind}"
        for key, kind in sorted(kinds.items())
        if kind not in _FLOATS and not (key.rpartition(".")[2] == _COUNTER and kind in ("I32", "I64"))
    ]
    if wrong:
        raise WeightsMismatch(
            f"{file} does not hold weights as {', '.join(_FLOATS)}: {some(wrong)}. Save them in one of these, or load "
            "another checkpoint."
        )


def _check_shapes(file: Path, actual: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    faults = {
        "missing": sorted(expected.keys() - actual.keys()),
        "unexpected": sorted(actual.keys() - expected.keys()),
        "of the wrong shape": [
            f"{clipped(key)} is {clipped(str(list(actual[key])))}, not {list(expected[key])}"
            for key in sorted(expected.keys() & actual.keys())
            if actual[key] != tuple(expected[key])
        ],
    }
    if any(faults.values()):
        found = "; ".join(f"{len(items)} {title}: {some(items)}" for title, items in faults.items() if items)
        raise WeightsMismatch(
            f"{file} does not fit this architecture: {found}. Load the checkpoint that was made for it, or change the "
            "config to match."
        )


# --- Messages


def missing_file(where: str, filename: str, names: Sequence[str]) -> UnsafeFormat | MissingWeights:
    """Return the error for a file that is not among `names`: UnsafeFormat if pickle-based weights are."""
    unsafe = [name for name in names if name.endswith(PICKLES)]
    if unsafe and not any(name.endswith(".safetensors") for name in names):
        return UnsafeFormat(pickle_text(where, unsafe))
    there = f" It has: {some(names)}." if names else ""
    return MissingWeights(f"{where} has no {filename}.{there} Check the name, or save it with save_pretrained.")


def pickle_text(where: str, names: Sequence[str]) -> str:
    """Return the message of UnsafeFormat about the files called `names`."""
    return (
        f"{where} has only pickle-based weights ({some(names)}), which can run code when opened, so "
        f"artmodels never opens them. Convert them to {WEIGHTS} with safetensors.torch.save_file, or choose "
        "another checkpoint."
    )
