"""The files of a collection, read one ahead of what is done with them."""

import os
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from artmodels import images
from artmodels.data import folders
from artmodels.errors import DatasetError, ImageError
from artmodels.files import sha256_of
from artmodels.images.decoding import LoadedImage
from artmodels.progress import Progress

__all__ = ["Extraction", "Read", "listed", "name_of", "read_ahead"]

Read = tuple[str, str, LoadedImage | str | None]


@dataclass(frozen=True)
class Extraction(Progress):
    """Where an extraction is: `done` files of `total` were looked at, and `what` is the name of the last one."""

    skipped: int = 0
    """Files so far that cannot be read."""


def listed(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[tuple[str, Path]]:
    """Names and paths of the files of a folder, whose names are their paths inside it, or of those given.

    A DatasetError says that there is none, or no such folder.
    """
    if isinstance(source, str | os.PathLike):
        root = Path(source).expanduser()
        return [(path.relative_to(root).as_posix(), path) for path in folders.image_files(root)]
    files = [(name_of(path), Path(path).expanduser()) for path in source]
    if not files:
        raise DatasetError("There are no files to extract from: give at least one.")
    return files


def name_of(path: str | os.PathLike[str]) -> str:
    """What a file is called in a store: its path as it is given, with slashes."""
    return Path(path).as_posix()


def read_ahead(files: Sequence[tuple[str, Path]], known: Container[str]) -> Iterator[Read]:
    """Each file's name, sha256, and image; None for an image that is known, or the reason why there is none.

    One file ahead is read while the last one is computed.
    """

    def load(path: Path) -> tuple[str, LoadedImage | str | None]:
        sha = ""
        try:
            if path.is_file():  # else `load` says what it is; opening a pipe would wait for ever
                sha = sha256_of(path)
            return (sha, None) if sha in known else (sha, images.load(path))
        except OSError as error:
            return sha, f"it cannot be read: {error.strerror}"
        except ImageError as error:
            return sha, str(error)

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(load, files[0][1])
        for (name, _), following in zip(files, [*files[1:], None], strict=True):
            sha, loaded = ahead.result()
            if following is not None:
                ahead = pool.submit(load, following[1])
            yield name, sha, loaded
