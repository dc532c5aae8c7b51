"""The images of a folder with their features in one place on the disk: added once, resumed after anything.

    collection.json    what the collection was begun with
    maps.NNNN.f16      maps [D, R_k, C_k] float16: image after image, view after view, scale after scale
    regions.NNNN.f16   [T, D] float16: descriptors of regions
    windows.NNNN.f32   [T, 5] float32: view, relative x and y of the centre, side, saliency
    log.NNNN           a line for each image, and for each file that has been looked at

NNNN counts compactions. An image counts once its line is in the log. The line is written after the numbers are on the
disk, and begins with a checksum of its own: what a crash leaves behind is an end that does not count, which the next
call writes anew.
"""

import hashlib
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from artmodels.correspondence.cells import Pyramid
from artmodels.correspondence.views import sideways
from artmodels.data.reading import Extraction, listed, name_of, read_ahead
from artmodels.errors import ConfigError, DatasetError, ImageError
from artmodels.files import FileLock
from artmodels.images.decoding import LoadedImage
from artmodels.methods.artminer.collection.log import (
    AGAIN,
    LOCK,
    Layout,
    Log,
    Record,
    read_layout,
    read_log,
    write_layout,
)
from artmodels.methods.artminer.collection.numbers import DESCRIPTORS, MAPS, WINDOWS, Numbers
from artmodels.methods.artminer.collection.regions import COLUMNS, CellRegions, RegionConfig
from artmodels.methods.artminer.collection.writer import CollectionDescriber, Writer, numbers_of
from artmodels.progress import result_of
from artmodels.search.vectors import Array

__all__ = ["Collection", "CollectionDescriber"]

REFERENCE = 40  # cells of the longer side of the map that others are compared with

logger = logging.getLogger(__name__)


class Collection:
    """Images with their features, memory-mapped. Begun by `create`, opened again by `open`, filled by `add`.

    Images are known by the sha256 of their bytes: a file that is there twice, or was renamed, is computed once. Each
    different image is called by the first of its files that was looked at; files are called by their path inside the
    folder that was added, or as they were given.
    """

    def __init__(self, folder: Path, layout: Layout, log: Log, *, verify: bool | None = None) -> None:
        """Use `open` or `create`."""
        self.folder, self.layout = folder, layout
        self._verify, self._sound = verify, set[str]()
        self._take(log)

    def __repr__(self) -> str:
        """Where it is, how many images it has, and what is compared with checksums."""
        return f"<Collection of {len(self)} images in {self.folder}, {self.verified}>"

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], describe: CollectionDescriber, *, regions: RegionConfig | None = None
    ) -> "Collection":
        """Begin a collection in a new or empty folder.

        Args:
            folder: Where.
            describe: What is to describe its images.
            regions: Which regions are described for the shortlist; None for the usual ones, see `RegionConfig.of`.

        Raises:
            ConfigError: The folder holds something, or the describer lacks a scale of the regions.
            ArtModelsError: It cannot be written.
        """
        root = Path(folder).expanduser()
        layout = Layout(
            fingerprint=describe.fingerprint,
            dims=describe.dims,
            scales=tuple(describe.scales),
            views=tuple(describe.views),
            regions=regions or RegionConfig.of(describe.scales),
        )
        write_layout(root, layout, fresh=True)
        return cls.open(root)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool | None = None) -> "Collection":
        """Open a collection; one that is being written to shows what is complete so far.

        By default the numbers of an image are compared with their checksum when `pyramid`, `reference` or `regions`
        first reads them. Those of `descriptors` and `windows`, which are of all images together, are not: the log and
        `verified` say so.

        Args:
            folder: Where it is.
            verify: True compares all numbers now, which reads every byte once; False none, ever.

        Raises:
            DatasetError: There is none, it is of another version, or it is damaged; the message says what to do.
        """
        root = Path(folder).expanduser()
        layout = read_layout(root)
        found = cls(root, layout, read_log(root, layout), verify=verify)
        found._numbers.check_sizes(found._log)
        if verify:
            for record in found._log.images:
                found._compare(record)
        logger.log(logging.WARNING if verify is False else logging.INFO, "%r", found)
        return found

    # --- Reading

    def __len__(self) -> int:
        """How many different images there are."""
        return len(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """What each different image is called, in the order in which they were first looked at."""
        return self._names

    @property
    def verified(self) -> str:
        """In words, which numbers are compared with their checksums; see `open`."""
        if self._verify is False:
            return "whose numbers are not compared with their checksums"
        if all(record.image in self._sound for record in self._log.images):
            return "whose numbers were compared with their checksums"
        return (
            "whose numbers are compared with their checksums image by image when first read, but not those of "
            "descriptors and windows"
        )

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that have features."""
        return tuple(self._log.files)

    @property
    def skipped(self) -> Mapping[str, str]:
        """Files that could not be read, and why."""
        return dict(self._log.skipped)

    def name_of_bytes(self, file: str | os.PathLike[str]) -> str | None:
        """The name of the image that a file, anywhere, holds; None if it is not in the collection.

        Raises:
            OSError: The file cannot be read.
        """
        with Path(file).open("rb") as opened:
            image = self._log.number.get(hashlib.file_digest(opened, "sha256").hexdigest())
        return self._holders[image][0] if image in self._holders else None

    def duplicates(self) -> list[tuple[str, ...]]:
        """Names of files that have the same bytes, a group for each such image."""
        return [names for names in self._holders.values() if len(names) > 1]

    def size(self, name: str | os.PathLike[str]) -> tuple[int, int]:
        """Width and height in pixels of the image of a file.

        Raises:
            DatasetError: The file is not in the collection, or was skipped.
        """
        return self._record(name).size

    def path(self, name: str | os.PathLike[str]) -> Path:
        """Where a file was when it was added, as an absolute path.

        Raises:
            DatasetError: See `size`.
        """
        self._record(name)
        return Path(self._log.paths[name_of(name)])

    def pyramid(self, name: str | os.PathLike[str], view: str = "") -> Pyramid:
        """The maps of an image in one view: float16, read from their file as they are needed.

        Raises:
            DatasetError: See `size`; the numbers are damaged; or the collection was compacted since it was opened.
            ConfigError: It has no such view.
        """
        record = self._compare(self._record(name))
        if view not in self.layout.views:
            have = ", ".join(map(repr, self.layout.views))
            raise ConfigError(f"the collection has no view {view!r}: it has {have}; create one with a describer of it")
        shapes, (width, height) = record.cells, record.size
        if sideways(view):
            shapes, width, height = tuple((columns, rows) for rows, columns in shapes), height, width
        total, dims = record.total(1), self.layout.dims
        start = (record.start + self.layout.views.index(view) * total) * dims
        # Each image is mapped by itself: systems refuse to map more than they have memory for, copy on write.
        numbers = torch.from_numpy(self._numbers.map(MAPS, start, (total * dims,), mode="c"))
        parts = torch.split(numbers, [rows * columns * dims for rows, columns in shapes])
        maps = tuple(part.view(dims, *shape) for part, shape in zip(parts, shapes, strict=True))
        return Pyramid(maps, width, height)

    def reference(self, name: str | os.PathLike[str]) -> Tensor:
        """The map [D, R, C] of an image as it is whose longer side has 40 cells.

        Raises:
            DatasetError: See `size`.
            ConfigError: 40 is not among the scales.
        """
        return self.pyramid(name).at(REFERENCE)

    def regions(self, name: str | os.PathLike[str]) -> CellRegions:
        """The regions of an image, of all its views.

        Raises:
            DatasetError: See `pyramid`.
        """
        record = self._compare(self._record(name))
        shape, table = (record.count, self.layout.dims), (record.count, COLUMNS)
        return CellRegions(
            torch.from_numpy(self._numbers.map(DESCRIPTORS, record.row * shape[1], shape, mode="c")),
            torch.from_numpy(self._numbers.map(WINDOWS, record.row * COLUMNS, table, mode="c")),
        )

    def spans(self) -> Array:
        """For each of `names`, number of its first region, row of that in `descriptors`, and count: [N, 3] int64."""
        images = [self._log.images[number] for number in self._holders]
        return np.array([(each.first, each.row, each.count) for each in images], np.int64).reshape(-1, 3)

    def descriptors(self) -> Array:
        """Descriptors [T, D] float16 of all regions that are on the disk, memory-mapped; see `open` for checksums."""
        return self._numbers.map(DESCRIPTORS, 0, (self._log.rows, self.layout.dims), mode="r")

    def windows(self) -> Array:
        """Where they are, [T, 5] float32; see `CellRegions`, and `open` for checksums."""
        return self._numbers.map(WINDOWS, 0, (self._log.rows, COLUMNS), mode="r")

    @property
    def _numbers(self) -> Numbers:
        return Numbers(self.folder, self.layout)

    def _compare(self, record: Record) -> Record:
        """Return the record of an image whose numbers are those that were written: once read, they are not again."""
        if self._verify is not False and record.image not in self._sound:
            if not self._numbers.intact(record):
                raise DatasetError(
                    f"The numbers of an image (sha256 {record.image[:12]}) in {self.folder} are not those that were "
                    f"written: the collection is damaged; {AGAIN}."
                )
            self._sound.add(record.image)
        return record

    def _take(self, log: Log) -> None:
        """Use a log, and note which files each image has."""
        self._log = log
        holders = defaultdict[int, list[str]](list)
        for name, image in log.files.items():
            holders[image].append(name)
        self._holders = {image: tuple(holders[image]) for image in sorted(holders)}
        self._names = tuple(names[0] for names in self._holders.values())

    def _record(self, name: str | os.PathLike[str]) -> Record:
        called = name_of(name)
        if called not in self._log.files:
            reason = self._log.skipped.get(called)
            why = f"was skipped: {reason}" if reason else "is not in it: add the folder that has it"
            raise DatasetError(f"The collection {self.folder} has no features of {called}, which {why}")
        return self._log.images[self._log.files[called]]

    # --- Writing

    def add(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        describer: CollectionDescriber,
        *,
        progress: bool = False,
    ) -> Self:
        """Add the images of a folder, or files; what is in the collection already is not computed again.

        A file whose bytes have changed is another image from then on. The call may be interrupted at any moment, by a
        full disk too: everything complete is kept, and the same call goes on. What cannot be read is in `skipped`.

        Args:
            source: A folder, whose files are named by their path inside it; or files, named as they are given.
            describer: The one that the collection was created with, or its equal.
            progress: Show a bar.

        Returns:
            This collection.

        Raises:
            ConfigError: Another describer; another process is writing.
            DatasetError: No images; two different files of one name; a damaged collection; features that are not as the
                describer promised.
            ArtModelsError: The disk is full or fails.
        """
        return result_of(self.stream_add(source, describer), progress=progress, unit="image")

    def stream_add(
        self, source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], describer: CollectionDescriber
    ) -> Iterator[Extraction | Self]:
        """As `add`, file by file: gives where it is after each file, and this collection last.

        Whoever stops taking steps ends it: what was given before has been kept.
        """
        files = listed(source)
        self._check_describer(describer)
        with FileLock(self.folder / LOCK, f"the collection {self.folder}"):
            self._prepare()
            skipped = 0
            try:
                with Writer(self.folder, self.layout, self._log, self._cut) as writer:
                    found = read_ahead(files, self._log.number)
                    for done, ((_, path), (name, sha, loaded)) in enumerate(zip(files, found, strict=True), 1):
                        reason = (
                            loaded if isinstance(loaded, str) else self._describe(writer, name, sha, loaded, describer)
                        )
                        if reason is None:
                            writer.file(name, sha, path)
                        else:
                            writer.skip(name, reason)
                        skipped += reason is not None
                        yield Extraction(done, len(files), name, skipped)
            finally:
                self._take(self._log)
        yield self

    def remove(self, names: Iterable[str | os.PathLike[str]]) -> None:
        """Forget files; an image whose last file goes is gone, and its numbers with the next `compact`.

        Raises:
            DatasetError: One is not in the collection; then none is removed.
            ConfigError: Another process is writing.
        """
        with FileLock(self.folder / LOCK, f"the collection {self.folder}"):
            self._prepare()
            called = list(dict.fromkeys(map(name_of, names)))
            for name in called:
                if name not in self._log.skipped:
                    self._record(name)
            with Writer(self.folder, self.layout, self._log, self._cut) as writer:
                writer.entries([{"file": name} for name in called])
            self._take(self._log)

    def compact(self) -> None:
        """Write the numbers of the images that have files into new files, and delete the old ones.

        Until the new ones are complete the old ones count, so it takes the room of both. Regions keep their numbers: an
        index stays as it is. Collections that were opened before have to be opened again.

        Raises:
            ConfigError: Another process is writing.
            ArtModelsError: The disk is full or fails.
        """
        with FileLock(self.folder / LOCK, f"the collection {self.folder}"):
            self._prepare()
            layout = replace(self.layout, generation=self.layout.generation + 1)
            for name in layout.names:
                (self.folder / name).unlink(missing_ok=True)  # of a compaction that was cut short
            old, log = self._numbers, Log(len(layout.views))
            with Writer(self.folder, layout, log, lambda: None) as writer:
                for number in self._holders:
                    record = self._log.images[number]
                    writer.image(record.entry(), old.blocks(record))
                rest: list[dict[str, Any]] = [{"next": self._log.next}]
                for name, number in self._log.files.items():
                    rest.append({"file": name, "image": self._log.images[number].image, "path": self._log.paths[name]})
                rest += [{"file": name, "skipped": reason} for name, reason in self._log.skipped.items()]
                writer.entries(rest)
            write_layout(self.folder, layout)
            self.layout = layout
            self._sound.clear()
            self._take(log)
            self._numbers.clear()

    def _describe(
        self, writer: Writer, name: str, sha: str, loaded: LoadedImage | None, describer: CollectionDescriber
    ) -> str | None:
        """Write what describes a new image; or the reason why it cannot be described."""
        if loaded is None or sha in self._log.number:
            return None
        try:
            found = describer.pyramids(loaded)
        except ImageError as error:
            return str(error)
        about, parts = numbers_of(name, found, (loaded.width, loaded.height), self.layout)
        writer.image({"image": sha, "first": self._log.next} | about, [[part] for part in parts])
        return None

    def _check_describer(self, describer: CollectionDescriber) -> None:
        ours = (self.layout.fingerprint, self.layout.dims, self.layout.scales, self.layout.views)
        theirs = (describer.fingerprint, describer.dims, tuple(describer.scales), tuple(describer.views))
        if ours != theirs:
            raise ConfigError(
                f"The collection {self.folder} was made by other weights or settings ({ours[0][:12]}, {ours[1:]}; "
                f"these are {theirs[0][:12]}, {theirs[1:]}): create another in another folder."
            )

    def _prepare(self) -> None:
        """Take up what is on the disk now, and cut off what does not count."""
        layout = read_layout(self.folder)
        if layout != self.layout:  # compacted by another process: its numbers lie elsewhere
            self._sound.clear()
        self.layout = layout
        log = read_log(self.folder, self.layout)
        self._log = log
        if log.images and not self._numbers.intact(log.images[-1]):
            logger.warning("The last image in %s was not written completely: it is described again.", self.folder)
            log = read_log(self.folder, self.layout, until=log.last)
        self._take(log)
        self._numbers.check_sizes(log)
        self._cut()
        self._numbers.clear()

    def _cut(self) -> None:
        self._numbers.cut(self._log)
