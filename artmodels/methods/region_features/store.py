"""Regions of a whole collection in one folder: extracted once, resumed after anything, read without copying.

    store.json      format, length of a descriptor, fingerprint of what extracts
    features.f16    [T, M] float16, image after image
    regions.f32     [T, 5] float32: left, top, right, bottom, objectness
    index.log       a line for each image, and for each file that has been looked at

An image counts once its line is in the index. The line is written after the numbers are on the disk, and begins with
a checksum of its own: what a crash leaves behind is an end that does not count, which the next run writes anew.
"""

import json
import logging
import mmap
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np
import torch
from torch import Tensor

from artmodels.data.reading import Extraction, listed, name_of, read_ahead
from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.files import FileLock
from artmodels.images.decoding import LoadedImage
from artmodels.methods.region_features.extraction import Extractor, grouped
from artmodels.methods.region_features.pipeline import Regions
from artmodels.methods.region_features.storelog import (
    AGAIN,
    COLUMNS,
    FEATURES,
    HEADER,
    INDEX,
    REGIONS,
    Index,
    data_bytes,
    data_sizes,
    read_header,
    read_index,
    write_header,
)
from artmodels.progress import result_of

__all__ = ["FeatureStore"]

LOCK = "lock"
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # in Python from 3.12 on
BLOCK = 2**24  # bytes that a checksum reads at a time

if TYPE_CHECKING:
    from artmodels.data.bags import Bags

logger = logging.getLogger(__name__)


class FeatureStore:
    """The regions of a collection, memory-mapped. Made by `extract`, opened again by `open`.

    Images are known by the sha256 of their bytes: a file that is there twice, or was renamed, is computed once. 300
    regions of 2048 numbers take 1.2 MB an image, and those of 384 numbers a fifth of that.
    """

    verified = False
    """Whether all numbers were compared with their checksums when it was opened."""

    def __init__(self, folder: Path, width: int, fingerprint: str, index: Index) -> None:
        """Use `open` or `extract`."""
        self.folder, self.features, self.fingerprint, self._index = folder, width, fingerprint, index

    def __repr__(self) -> str:
        """Where it is, how many images it has, and whether they were compared with their checksums."""
        state = "" if self.verified else "not "
        return f"<FeatureStore of {len(self)} images in {self.folder}, {state}compared with their checksums>"

    # --- Reading

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> "FeatureStore":
        """Open a store to read; one that is being written to shows what is complete so far.

        Args:
            folder: Where it is.
            verify: Compare all numbers with their checksums, which reads every byte once.

        Raises:
            DatasetError: There is no store, it is of another version, or it is damaged; the message says what to do.
        """
        root = Path(folder).expanduser()
        store = cls(root, *read_header(root), read_index(root))
        store._check_sizes()
        if verify:
            for number, record in enumerate(store._index.images):
                if store._checksum(record) != record["crc"]:
                    raise DatasetError(
                        f"The numbers of image {number} ({store._named(record['image'])}) in {root} are not those that "
                        f"were written: the store is damaged; {AGAIN}."
                    )
            store.verified = True
        else:
            logger.warning("%r", store)
        return store

    def __len__(self) -> int:
        """How many different images there are."""
        return len(self._index.images)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that have regions, in the order in which they were first looked at."""
        return tuple(self._index.files)

    @property
    def skipped(self) -> Mapping[str, str]:
        """Files that could not be read, and why."""
        return dict(self._index.skipped)

    def index_of(self, files: Sequence[str | os.PathLike[str]]) -> Tensor:
        """The numbers [N] int64 of the images that files hold: `store.bags()[store.index_of(files)]` are their bags.

        Args:
            files: Names as in `files`. Files of the same content have the same number.

        Raises:
            DatasetError: One is not in the store, or was skipped.
        """
        numbers = []
        for name in map(name_of, files):
            if name not in self._index.files:
                reason = self._index.skipped.get(name)
                why = f"was skipped: {reason}" if reason else "is not in it: extract the folder that has it"
                raise DatasetError(f"The store {self.folder} has no regions of {name}, which {why}")
            numbers.append(self._index.number[self._index.files[name]])
        return torch.tensor(numbers, dtype=torch.int64)

    def bags(self) -> "Bags":
        """All images as bags, with objectness; the features stay in their file, and are read as they are needed.

        Raises:
            DatasetError: There is no image yet, or a value is not finite.
        """
        from artmodels.data.bags import Bags  # whose package imports this one

        if not self._index.images:
            raise DatasetError(f"The store {self.folder} holds no image: extract a folder into it first.")
        sizes = torch.tensor([record["count"] for record in self._index.images])
        objectness = torch.from_numpy(self._map(REGIONS)[:, 4].copy())
        return Bags(torch.from_numpy(self._map(FEATURES)), sizes, objectness)

    def regions(self, which: int | str | os.PathLike[str]) -> Regions:
        """The regions of one image, by its number or the name of a file; features are rounded to float16.

        Raises:
            DatasetError: See `index_of`.
            IndexError: There is no image of that number.
        """
        number = range(len(self))[which] if isinstance(which, int) else int(self.index_of([which])[0])
        record = self._index.images[number]
        rows = slice(record["first"], record["first"] + record["count"])
        table = torch.from_numpy(self._map(REGIONS)[rows].copy())
        features = torch.from_numpy(self._map(FEATURES)[rows].astype(np.float32))
        size = {"width": record["width"], "height": record["height"]}
        return Regions(
            table[:, :4].contiguous(), table[:, 4].contiguous(), features, **size, notes=tuple(record["notes"])
        )

    def _map(self, name: str) -> Any:  # noqa: ANN401 - a memory map of either type
        width, kind = (self.features, np.float16) if name == FEATURES else (COLUMNS, np.float32)
        with (self.folder / name).open("rb") as file:
            # Private pages: PyTorch wants memory that may be written to, and the file must not be. No space is set
            # aside for them, or a store larger than the memory could not be mapped.
            length = self._bytes(self._index.rows)[name]
            if sys.platform == "win32":
                mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_COPY)
            else:
                protection = mmap.PROT_READ | mmap.PROT_WRITE
                mapped = mmap.mmap(file.fileno(), length, flags=mmap.MAP_PRIVATE | NORESERVE, prot=protection)
        return np.frombuffer(mapped, kind).reshape(self._index.rows, width)

    def _bytes(self, rows: int) -> dict[str, int]:
        return data_bytes(rows, self.features)

    def _check_sizes(self) -> None:
        for name, size in data_sizes(self.folder).items():
            wanted = self._bytes(self._index.rows)[name]
            if size < wanted:
                raise DatasetError(
                    f"{self.folder / name} has {size} bytes and {wanted} are in its index: it is damaged; {AGAIN}."
                )

    def _checksum(self, record: Mapping[str, Any]) -> int:
        crc = 0
        for name, start in self._bytes(record["first"]).items():
            left = self._bytes(record["count"])[name]
            with (self.folder / name).open("rb") as file:
                file.seek(start)
                while left and (block := file.read(min(left, BLOCK))):
                    crc = zlib.crc32(block, crc)
                    left -= len(block)
        return crc

    def _named(self, image: str) -> str:
        return next((name for name, sha in self._index.files.items() if sha == image), "of no file")

    # --- Writing

    @classmethod
    def extract(
        cls,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        extractor: Extractor,
        folder: str | os.PathLike[str],
        *,
        progress: bool = False,
    ) -> "FeatureStore":
        """Extract the regions of a folder of images, or of files, into a store; what is in it already is not redone.

        It may be interrupted at any moment, by a full disk too: everything complete is kept, and the same call goes on.

        Args:
            source: A folder, whose files are named by their path inside it; or files, named as they are given.
            extractor: Usually a `RegionFeatures`.
            folder: Of the store: a new or empty one, or one that the same extractor made.
            progress: Show a bar.

        Returns:
            The store, with what could not be read in `skipped`.

        Raises:
            ConfigError: The store was made by another extractor, or another process is writing to it.
            DatasetError: No images; a damaged store; features that are not finite in float16.
            ArtModelsError: The disk is full or fails.
        """
        return result_of(cls.stream_extract(source, extractor, folder), progress=progress, unit="image")

    @classmethod
    def stream_extract(
        cls,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        extractor: Extractor,
        folder: str | os.PathLike[str],
    ) -> "Iterator[Extraction | FeatureStore]":
        """As `extract`, file by file: gives where it is after each file, and the store last.

        Whoever stops taking steps ends it: what was given before has been kept.
        """
        files = listed(source)
        root = Path(folder).expanduser()
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"The store cannot be in {root}: {error.strerror}. Name another folder.") from error
        with FileLock(root / LOCK, f"the store {root}"):
            store = cls._prepared(root, extractor)
            with _Writer(store) as writer:
                done, skipped = 0, 0
                for group in grouped(read_ahead(files, store._index.number), extractor.batch):
                    new = {sha: image for _, sha, image in group if isinstance(image, LoadedImage)}
                    regions = dict(zip(new, extractor([*new.values()]), strict=True)) if new else {}
                    for name, sha, image in group:
                        writer.take(name, sha, image if isinstance(image, str) else None, regions.get(sha))
                    # Only now: what was given has been kept.
                    for name, _, image in group:
                        done, skipped = done + 1, skipped + isinstance(image, str)
                        yield Extraction(done, len(files), name, skipped)
        yield store

    @classmethod
    def _prepared(cls, root: Path, extractor: Extractor) -> "FeatureStore":
        """Open or begin a store to write, and cut off what does not count."""
        if not (root / HEADER).exists():
            write_header(root, (LOCK,), features=extractor.features, fingerprint=extractor.fingerprint)
        width, fingerprint = read_header(root)
        if (width, fingerprint) != (extractor.features, extractor.fingerprint):
            raise ConfigError(
                f"The store {root} was made by other weights or settings ({fingerprint[:12]}, {width} numbers a "
                f"region; these are {extractor.fingerprint[:12]} and {extractor.features}): name another folder."
            )
        store = cls(root, width, fingerprint, read_index(root))
        last = store._index.images[-1:]
        if last and store._checksum(last[0]) != last[0]["crc"]:
            logger.warning("The last image in %s was not written completely: it is extracted again.", root)
            store._index = read_index(root, until=store._index.starts[-1])
        store._check_sizes()
        store._cut()
        return store

    def _cut(self) -> None:
        """End the files where what counts ends."""
        for name, size in (self._bytes(self._index.rows) | {INDEX: self._index.bytes}).items():
            os.truncate(self.folder / name, size)


class _Writer:
    """Appends to the files of a store; whatever fails, they end with the last complete image."""

    def __init__(self, store: FeatureStore) -> None:
        self.store, self.index = store, store._index
        self.open = dict[str, BinaryIO]()

    def __enter__(self) -> Self:
        for name in (FEATURES, REGIONS, INDEX):
            self.open[name] = (self.store.folder / name).open("ab", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self.open.values():
            file.close()

    def take(self, name: str, sha: str, reason: str | None, regions: Regions | None) -> None:
        """Record a file, and its image if that is new; or the reason why it is skipped."""
        if reason is not None:
            if self.index.skipped.get(name) != reason:
                self._append({"file": name, "skipped": reason})
            return
        if regions is not None and sha not in self.index.number:
            self._add(name, sha, regions)
        if self.index.files.get(name) != sha:
            self._append({"file": name, "image": sha})

    def _add(self, name: str, sha: str, regions: Regions) -> None:
        features = regions.features.half().numpy()
        if features.shape != (len(regions), self.store.features) or not len(regions):
            raise DatasetError(
                f"The extractor gave {features.shape} numbers for {name}, and [K, {self.store.features}] were promised."
            )
        table = torch.cat([regions.boxes, regions.objectness[:, None]], 1).numpy()
        if not np.isfinite(features).all() or not np.isfinite(table).all():
            raise DatasetError(
                f"The features of {name} are not finite, or above float16's 65504: check the weights of the extractor."
            )
        parts = {FEATURES: features.tobytes(), REGIONS: table.tobytes()}
        crc = 0
        for part in parts.values():
            crc = zlib.crc32(part, crc)
        self._write(parts)
        self._append(
            {
                "image": sha,
                "first": self.index.rows,
                "count": len(regions),
                "crc": crc,
                "width": regions.width,
                "height": regions.height,
                "notes": list(regions.notes),
            }
        )

    def _append(self, record: dict[str, Any]) -> None:
        text = json.dumps(record)
        line = f"{zlib.crc32(text.encode()):08x} {text}\n".encode()
        self._write({INDEX: line})
        self.index.take(record, len(line))

    def _write(self, parts: Mapping[str, bytes]) -> None:
        try:
            for name, data in parts.items():
                rest = memoryview(data)
                while rest:
                    rest = rest[self.open[name].write(rest) :]
            for name in parts:
                os.fsync(self.open[name].fileno())
        except OSError as error:
            self.store._cut()
            raise ArtModelsError(
                f"The store {self.store.folder} cannot be written to: {error.strerror}. Its {len(self.index.images)} "
                "images are complete: free some space and make the same call again, which goes on from there."
            ) from error
