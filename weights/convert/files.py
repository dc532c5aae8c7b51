"""What every converter does with files: opening what a user made of a published one, and saving what it became."""

import hashlib
from pathlib import Path

from torch import Tensor

from artmodels.errors import MissingWeights, UnsafeFormat
from artmodels.hub.checkpoints import read_tensors
from artmodels.hub.pretrained import Pretrained

__all__ = ["save", "tensors_of"]


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


def save(model: Pretrained, source: Path, folder: Path, *, title: str = "") -> None:
    """Save a model that was made of a file, with a card that says so.

    Raises:
        ConfigError: The folder is not empty.
        WeightsError: It cannot be written.
    """
    with source.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    words = f"Converted from `{source.name}`, sha256 {digest}, by `python -m weights convert {model.method}`."
    model.save_pretrained(folder, card=f"# {title or folder.name}\n\n{words}\n")
