"""What every converter does with files: opening what a user made of a published one, and saving what it became."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from artmodels.errors import MissingWeights, UnsafeFormat, WeightsMismatch, some
from artmodels.files import sha256_of
from artmodels.hub.checkpoints import read_tensors
from artmodels.hub.pretrained import Pretrained

__all__ = ["check", "save", "tensors_of"]


def tensors_of(source: Path, command: str) -> dict[str, Tensor]:
    """Read a `.safetensors` file.

    Args:
        source: The file.
        command: That makes one of a published file, which is its first argument; the second is what it makes.

    Raises:
        UnsafeFormat: The file is not safetensors by name; the message says how to make one of it.
        MissingWeights: There is no such file.
        WeightsMismatch: The file is damaged, or its tensors are no finite floats.
    """
    if source.suffix != ".safetensors":
        raise UnsafeFormat(
            f"{source} is not .safetensors, and nothing else is ever opened. Make one of it yourself:\n"
            f"{command} {source} {source.with_suffix('.safetensors')}"
        )
    if not source.is_file():
        raise MissingWeights(f"There is no file {source}: check the path.")
    return read_tensors(source)


def check(state: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Refuse tensors that are not those of a network.

    Args:
        state: Tensor by name.
        wanted: Shape by name.
        what: The network, for the message.

    Raises:
        WeightsMismatch: Names or shapes differ, or values are no numbers.
    """
    found = {key: tuple(value.shape) for key, value in state.items()}
    faults = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if faults:
        raise WeightsMismatch(
            f"The file does not hold {what}: missing, unexpected or of another shape are {some(faults)}. Fetch the "
            "published file, and make .safetensors of all of it."
        )
    bad = [key for key, value in state.items() if not bool(value.isfinite().all())]
    if bad:
        raise WeightsMismatch(f"{some(bad)} hold values that are no numbers: fetch the file again.")


def save(model: Pretrained[Any], source: Path, folder: Path, *, title: str = "") -> None:
    """Save a model that was made of a file, with a card that says so.

    Raises:
        ConfigError: The folder is not empty.
        WeightsError: It cannot be written.
    """
    made_by = f"`python -m weights convert {model.method}`"
    words = f"Converted from `{source.name}`, sha256 {sha256_of(source)}, by {made_by}."
    model.save_pretrained(folder, card=f"# {title or folder.name}\n\n{words}\n")
