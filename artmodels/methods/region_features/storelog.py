"""The small files of a store of features: its header, and the log that says what counts."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.files import read_object

__all__ = ["Index", "data_bytes", "data_sizes", "read_header", "read_index", "write_header"]

HEADER, FEATURES, REGIONS, INDEX = "store.json", "features.f16", "regions.f32", "index.log"
FORMAT = 1
COLUMNS = 5
AGAIN = "remove that folder, or name another one, and extract again"


@dataclass
class Index:
    """What the log says.

    Attributes:
        images: Records in the order of their rows: image (its sha256), first, count, crc, width, height, notes.
        starts: Bytes of the log before each of these.
        number: Of an image, by its sha256.
        files: sha256 by name of a file.
        skipped: Reason by name of a file.
        bytes: Of the log that count.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    bytes: int = 0

    @property
    def rows(self) -> int:
        """T, the regions of all images."""
        return int(self.images[-1]["first"] + self.images[-1]["count"]) if self.images else 0

    def take(self, record: dict[str, Any], length: int) -> None:
        """Apply a record whose line has so many bytes; KeyError or ValueError where it cannot be one."""
        if "first" in record:
            if record["first"] != self.rows or record["count"] < 1:
                raise ValueError
            self.number[record["image"]] = len(self.images)
            self.images.append(record)
            self.starts.append(self.bytes)
        elif "skipped" in record:
            self.files.pop(record["file"], None)
            self.skipped[record["file"]] = record["skipped"]
        else:
            self.number[record["image"]]  # a file's image comes before it
            self.skipped.pop(record["file"], None)
            self.files[record["file"]] = record["image"]
        self.bytes += length


def write_header(root: Path, others: Sequence[str], *, features: int, fingerprint: str) -> None:
    """Begin a store in a folder that has nothing in it but `others`, or what a beginning cut short has left.

    Raises:
        ConfigError: There is something else.
        ArtModelsError: It cannot be written.
    """
    draft = root / f"{HEADER}.tmp"
    ours = [name for name in (FEATURES, REGIONS, INDEX) if (root / name).is_file() and not (root / name).stat().st_size]
    found = sorted(path.name for path in root.iterdir() if path.name not in (*others, *ours, draft.name))
    if found:
        raise ConfigError(f"{root} holds {found[0]} and is no store of features: name a new or empty folder.")
    about = {"format": FORMAT, "features": features, "fingerprint": fingerprint}
    try:
        for name in (FEATURES, REGIONS, INDEX):
            (root / name).touch()
        draft.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        draft.replace(root / HEADER)
    except OSError as error:
        raise ArtModelsError(f"No store can be begun in {root}: {error.strerror}. Free some space there.") from error


def read_header(root: Path) -> tuple[int, str]:
    """The length of a descriptor, and the fingerprint of what made them.

    Raises:
        DatasetError: There is no store, of this version, or it is damaged.
    """
    try:
        about = read_object(root / HEADER)
        if about["format"] != FORMAT:
            raise DatasetError(
                f"The store {root} has format {about['format']} and this version reads {FORMAT}: open it with the "
                "version that made it, or extract again into another folder."
            )
        return int(about["features"]), str(about["fingerprint"])
    except OSError as error:
        raise DatasetError(
            f"{root} is no store of features: it has no {HEADER}. Check the path, or extract."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{root / HEADER} is damaged ({error}): {AGAIN}.") from error


def data_bytes(rows: int, width: int) -> dict[str, int]:
    """How long the files of numbers are with so many regions."""
    return {FEATURES: rows * width * 2, REGIONS: rows * COLUMNS * 4}


def data_sizes(root: Path) -> dict[str, int]:
    """How long they are.

    Raises:
        DatasetError: One is missing.
    """
    try:
        return {name: (root / name).stat().st_size for name in (FEATURES, REGIONS)}
    except OSError as error:
        raise DatasetError(f"The store {root} lacks {error.filename}: {AGAIN}.") from error


def read_index(root: Path, *, until: int | None = None) -> Index:
    """Read the log, or its first `until` bytes, up to its last line that is whole.

    Raises:
        DatasetError: It is not there, or a line before the last is not whole.
    """
    index = Index()
    try:
        data = (root / INDEX).read_bytes()[:until]
    except OSError as error:
        raise DatasetError(f"The store {root} lacks {error.filename}: {AGAIN}.") from error
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            crc, text = line[:8], line[9:-1]
            if not line.endswith(b"\n") or int(crc, 16) != zlib.crc32(text):
                raise ValueError
            index.take(json.loads(text), len(line))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) - 1:
                break
            raise DatasetError(f"Line {number + 1} of {root / INDEX} is damaged: {AGAIN}.") from error
    return index
