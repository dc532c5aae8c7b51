"""The small files of a collection: its header, and the log that says what counts."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from artmodels.correspondence.views import check_views
from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.files import read_object
from artmodels.methods.artminer.collection.regions import COLUMNS, RegionConfig

__all__ = ["Layout", "Log", "Record", "line_of", "read_layout", "read_log", "write_layout"]

HEADER, LOCK = "collection.json", "lock"
FORMAT = 1
AGAIN = "remove that folder, or name another one, and add the images again"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a collection was begun with.

    Attributes:
        fingerprint: Of what described its images.
        dims: D, numbers of a cell.
        scales: Cells of the longer side of each map.
        views: Ways in which each picture was turned before it was described.
        regions: How regions were chosen.
        generation: How often it was compacted; part of the names of its files.
    """

    fingerprint: str
    dims: int
    scales: tuple[int, ...]
    views: tuple[str, ...]
    regions: RegionConfig
    generation: int = 0

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: Values that no collection can have.
        """
        if "" not in check_views(self.views):
            raise ConfigError(f"views={self.views!r} must include '', the picture as it is")
        if not self.scales or min(self.scales) < 1 or len(set(self.scales)) < len(self.scales) or self.dims < 1:
            raise ConfigError(f"scales={self.scales}, dims={self.dims}: give different scales and dims above 0")
        self.regions.at(self.scales)

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Files of the maps, the descriptors of regions, where these are, and the log."""
        end = f"{self.generation:04d}"
        return f"maps.{end}.f16", f"regions.{end}.f16", f"windows.{end}.f32", f"log.{end}"

    def bytes(self, cells: int, rows: int) -> tuple[int, int, int]:
        """How long the files of numbers are with so many cells and regions."""
        return cells * self.dims * 2, rows * self.dims * 2, rows * COLUMNS * 4


@dataclass(frozen=True, slots=True)
class Record:
    """One different image.

    Attributes:
        image: sha256 of its bytes.
        size: Its width and height in pixels.
        cells: Rows and columns of its maps as it is.
        first: Number of its first region; numbers are never given twice.
        count: Its regions, of all views.
        crc: Checksum of its numbers in all files.
        start: Cells of all views before it in the file of maps.
        row: Regions before it in theirs.
    """

    image: str
    size: tuple[int, int]
    cells: tuple[tuple[int, int], ...]
    first: int
    count: int
    crc: int
    start: int
    row: int

    def entry(self) -> dict[str, Any]:
        """Its line in the log; where it starts follows from the lines before."""
        return {
            "image": self.image,
            "size": self.size,
            "cells": self.cells,
            "first": self.first,
            "count": self.count,
            "crc": self.crc,
        }

    def total(self, views: int) -> int:
        """Cells of all its maps."""
        return views * sum(rows * columns for rows, columns in self.cells)


@dataclass
class Log:
    """What the log says.

    Attributes:
        views: How many the collection has.
        images: Records in the order of their numbers on the disk.
        number: Of an image, by its sha256.
        files: Number of the image by name of a file.
        paths: Where a file was found.
        skipped: Reason by name of a file.
        last: Bytes of the log before the last image.
        bytes: Of the log that count.
        cells: That the maps have.
        rows: Regions that there are, and
        next: the number that the next one gets.
    """

    views: int
    images: list[Record] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    last: int = 0
    bytes: int = 0
    cells: int = 0
    rows: int = 0
    next: int = 0

    def take(self, entry: Mapping[str, Any], length: int) -> None:
        """Apply an entry whose line has so many bytes; KeyError or ValueError where it cannot be one."""
        if "crc" in entry:
            width, height = entry["size"]
            shapes = tuple((rows, columns) for rows, columns in entry["cells"])
            where = {"start": self.cells, "row": self.rows}
            numbers = {name: entry[name] for name in ("first", "count", "crc")}
            record = Record(image=entry["image"], size=(width, height), cells=shapes, **numbers, **where)
            if record.first < self.next or record.count < 0:
                raise ValueError
            self.number[record.image] = len(self.images)
            self.images.append(record)
            self.last = self.bytes
            self.cells += record.total(self.views)
            self.rows += record.count
            self.next = record.first + record.count
        elif "next" in entry:
            self.next = int(entry["next"])
        else:
            name = entry["file"]
            image = self.number[entry["image"]] if "image" in entry else None  # a file's image comes before it
            self.skipped.pop(name, None)
            if image is None:
                self.files.pop(name, None)
                self.paths.pop(name, None)
                if "skipped" in entry:
                    self.skipped[name] = entry["skipped"]
            else:
                self.files[name], self.paths[name] = image, entry["path"]
        self.bytes += length


def line_of(entry: Mapping[str, Any]) -> bytes:
    """A line of the log, which begins with a checksum of its own."""
    text = json.dumps(entry, separators=(",", ":"))
    return f"{zlib.crc32(text.encode()):08x} {text}\n".encode()


def read_log(root: Path, layout: Layout, *, until: int | None = None) -> Log:
    """Read the log, or its first `until` bytes, up to its last line that is whole.

    Raises:
        DatasetError: It is not there, or a line before the last is not whole.
    """
    log, path = Log(len(layout.views)), root / layout.names[3]
    try:
        lines = path.read_bytes()[:until].splitlines(keepends=True)
    except OSError as error:
        raise DatasetError(f"The collection {root} lacks {path.name}: {AGAIN}.") from error
    for number, line in enumerate(lines):
        try:
            if not line.endswith(b"\n") or int(line[:8], 16) != zlib.crc32(line[9:-1]):
                raise ValueError
            log.take(json.loads(line[9:-1]), len(line))
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines) - 1:
                break
            raise DatasetError(f"Line {number + 1} of {path} is damaged: {AGAIN}.") from error
    return log


def write_layout(root: Path, layout: Layout, *, fresh: bool = False) -> None:
    """Write the header, whole or not at all; a fresh one into a folder that holds nothing else.

    Raises:
        ConfigError: It does.
        ArtModelsError: It cannot be written.
    """
    draft = root / f"{HEADER}.tmp"
    try:
        if fresh:
            root.mkdir(parents=True, exist_ok=True)
            ours = [name for name in layout.names if (root / name).is_file() and not (root / name).stat().st_size]
            found = sorted(path.name for path in root.iterdir() if path.name not in (*ours, LOCK, draft.name))
            if found:
                raise ConfigError(f"{root} holds {found[0]}: name a new or empty folder, or open the collection in it.")
            for name in layout.names:
                (root / name).touch()
        text = json.dumps({"format": FORMAT} | asdict(layout), indent=2)
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(root / HEADER)
    except OSError as error:
        raise ArtModelsError(f"No collection can be in {root}: {error.strerror}. Name another folder.") from error


def read_layout(root: Path) -> Layout:
    """Read the header.

    Raises:
        DatasetError: There is no collection, of this version, or it is damaged.
    """

    def whole(values: Sequence[int]) -> tuple[int, ...]:
        return tuple(int(value) for value in values)

    try:
        about = read_object(root / HEADER)
        if about["format"] != FORMAT:
            raise DatasetError(
                f"The collection {root} has format {about['format']} and this version reads {FORMAT}: open it with the "
                "version that made it, or add the images to another folder."
            )
        chosen = about["regions"] | {name: whole(about["regions"][name]) for name in ("scales", "sizes")}
        return Layout(
            fingerprint=str(about["fingerprint"]),
            dims=int(about["dims"]),
            scales=whole(about["scales"]),
            views=tuple(about["views"]),
            regions=RegionConfig(**chosen),
            generation=int(about["generation"]),
        )
    except OSError as error:
        raise DatasetError(f"{root} is no collection: it has no {HEADER}. Check the path, or create it.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{root / HEADER} is damaged ({error}): {AGAIN}.") from error
