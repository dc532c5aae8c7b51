"""The large files of a collection: maps, descriptors of regions and where these are; read, checked, cut and cleared."""

import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from artmodels.errors import DatasetError
from artmodels.methods.artminer.collection.log import AGAIN, Layout, Log, Record
from artmodels.search.vectors import Array

__all__ = ["DESCRIPTORS", "MAPS", "WINDOWS", "Numbers"]

MAPS, DESCRIPTORS, WINDOWS = range(3)  # as in `Layout.names`
KINDS: tuple[Any, ...] = (np.float16, np.float16, np.float32)
BLOCK = 2**24  # bytes that are copied or summed at a time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Numbers:
    """The files of one generation in a folder.

    Attributes:
        folder: Where.
        layout: What the collection was begun with.
    """

    folder: Path
    layout: Layout

    def map(self, which: int, start: int, shape: tuple[int, ...], *, mode: Any) -> Array:  # noqa: ANN401 - a Literal
        """Numbers of a file, from the one at `start` on, memory-mapped in one of numpy's modes.

        Raises:
            DatasetError: The collection was compacted since it was opened.
        """
        kind, path = KINDS[which], self.folder / self.layout.names[which]
        if 0 in shape:  # which cannot be mapped
            return np.empty(shape, kind)
        try:
            return np.memmap(path, dtype=kind, mode=mode, offset=start * np.dtype(kind).itemsize, shape=shape)
        except OSError as error:
            raise _unreadable(path, error) from error

    def blocks(self, record: Record) -> list[Iterator[bytes]]:
        """The bytes of an image in each file, some at a time; fewer where the file ends before.

        Raises:
            DatasetError: While they are read: the collection was compacted since it was opened.
        """
        starts = self.layout.bytes(record.start, record.row)
        lengths = self.layout.bytes(record.total(len(self.layout.views)), record.count)
        return [
            _blocks(self.folder / name, start, length)
            for name, start, length in zip(self.layout.names[:3], starts, lengths, strict=True)
        ]

    def intact(self, record: Record) -> bool:
        """Whether the numbers of an image are those that were written."""
        crc = 0
        for blocks in self.blocks(record):
            for block in blocks:
                crc = zlib.crc32(block, crc)
        return crc == record.crc

    def check_sizes(self, log: Log) -> None:
        """Check that the files hold all that is in the log.

        Raises:
            DatasetError: One is too short.
        """
        for name, wanted in zip(self.layout.names[:3], self.layout.bytes(log.cells, log.rows), strict=True):
            path = self.folder / name
            size = path.stat().st_size if path.is_file() else 0
            if size < wanted:
                raise DatasetError(f"{path} has {size} bytes and {wanted} are in the log: it is damaged; {AGAIN}.")

    def cut(self, log: Log) -> None:
        """End the files, the log's own too, where what counts ends."""
        ends = (*self.layout.bytes(log.cells, log.rows), log.bytes)
        for name, size in zip(self.layout.names, ends, strict=True):
            os.truncate(self.folder / name, size)

    def clear(self) -> None:
        """Delete the files of other generations."""
        begins = {name.split(".")[0] for name in self.layout.names}
        for path in self.folder.iterdir():
            if path.name not in self.layout.names and path.name.split(".")[0] in begins:
                try:
                    path.unlink()
                except OSError as error:  # Windows keeps what somebody still reads
                    logger.info("%s is not deleted yet: %s", path, error.strerror)


def _blocks(path: Path, start: int, length: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(start)
            while length and (block := file.read(min(length, BLOCK))):
                yield block
                length -= len(block)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read: {error.strerror}. If the collection was compacted meanwhile, open it again."
    )
