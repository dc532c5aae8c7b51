"""Files that somebody uploaded, archives among them."""

import zipfile
from collections.abc import Iterator, MutableMapping, Sequence
from pathlib import Path, PurePosixPath

from artmodels.datasets import SUFFIXES

__all__ = ["pictures_in"]

LARGEST = 64 * 2**20  # bytes of one file inside an archive


def pictures_in(paths: Sequence[str], skipped: MutableMapping[str, str]) -> Iterator[tuple[str, Path | bytes]]:
    """Every picture with a name of its own, archives opened.

    Args:
        paths: Pictures and ZIP files.
        skipped: Receives the names of what cannot be used, and why.

    Yields:
        A name, and the file or what it holds.
    """
    taken = set[str]()
    for path in map(Path, paths):
        if path.suffix.lower() != ".zip":
            yield _unused(path.name, taken), path
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    name = PurePosixPath(entry.filename.replace("\\", "/")).name
                    # macOS adds files of its own, whose names begin so.
                    if entry.is_dir() or name.startswith(".") or Path(name).suffix.lower() not in SUFFIXES:
                        continue
                    if entry.file_size > LARGEST:
                        skipped[name] = f"it has more than {LARGEST >> 20} MB inside {path.name}"
                        continue
                    with archive.open(entry) as file:
                        yield _unused(name, taken), file.read(LARGEST + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
            skipped[path.name] = f"the archive cannot be read: {error}"


def _unused(name: str, taken: set[str]) -> str:
    stem, suffix = Path(name).stem, Path(name).suffix
    number = 1
    while name.lower() in taken:
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.lower())
    return name
