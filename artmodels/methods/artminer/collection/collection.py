"""The images of a folder with their features in one place on the disk: added once, resumed after anything.

It is an `artmodels.data.store` with three arrays: `maps` float16, which are maps [D, R, C], image after image, view
after view, scale after scale; `regions` [T, D] float16, descriptors of regions; and `windows` [T, 5] float32, where
these are, see `CellRegions`.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

import numpy as np
import torch
from annotated_types import MinLen, Predicate
from torch import Tensor

from artmodels.correspondence.cells import Pyramid
from artmodels.correspondence.views import check_views, sideways
from artmodels.data.reading import Extraction, listed, name_of, read_ahead
from artmodels.data.store import ImageRow, Store, StoreKind, StoreWriter
from artmodels.errors import ConfigError, DatasetError, ImageError
from artmodels.files import sha256_of
from artmodels.images import Source
from artmodels.images.decoding import LoadedImage
from artmodels.methods.artminer.collection.regions import COLUMNS, CellRegions, RegionConfig, describe_regions
from artmodels.progress import result_of
from artmodels.search.index import Array
from artmodels.settings import Count, Settings, config_from, distinct

__all__ = ["Collection", "CollectionDescriber", "Described", "InMemory", "Layout"]

KIND = StoreKind(name="collection", content="features", verb="add")
MAPS, DESCRIPTORS, WINDOWS = "maps", "regions", "windows"
REFERENCE = 40  # cells of the longer side of the map that others are compared with

File = str | os.PathLike[str]

logger = logging.getLogger(__name__)


class CollectionDescriber(Protocol):
    """What a collection is filled by."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the numbers would."""

    @property
    def dims(self) -> int:
        """D, numbers of a cell."""

    @property
    def scales(self) -> tuple[int, ...]:
        """Cells of the longer side of each map."""

    @property
    def views(self) -> tuple[str, ...]:
        """Ways in which the picture is turned: "" and any others of `artmodels.correspondence.views.VIEWS`."""

    def pyramids(self, loaded: LoadedImage) -> dict[str, Pyramid]:
        """A pyramid of each view, computed on the turned picture; an ImageError has the file skipped."""


class Described(Protocol):
    """Pictures by name, with their features: a `Collection`, or what `ArtMiner.describe` returns."""

    @property
    def names(self) -> Sequence[str]:
        """Of all pictures."""

    def size(self, name: str) -> tuple[int, int]:
        """Width and height in pixels."""

    def pyramid(self, name: str, view: str = "") -> Pyramid:
        """Features of one."""

    def picture(self, name: str) -> Source | None:
        """The picture itself, to be looked at again; None where it is no longer there as it was described."""


class InMemory:
    """A few described pictures."""

    def __init__(
        self, pictures: Mapping[str, Mapping[str, Pyramid]], sources: Mapping[str, Source] | None = None
    ) -> None:
        """Take the views of each, and the pictures themselves if they may be looked at again."""
        self._pictures, self._sources = pictures, sources or {}

    @property
    def names(self) -> Sequence[str]:
        """Of all pictures."""
        return tuple(self._pictures)

    def size(self, name: str) -> tuple[int, int]:
        """Width and height in pixels."""
        upright = self._pictures[name][""]
        return upright.width, upright.height

    def pyramid(self, name: str, view: str = "") -> Pyramid:
        """Features of one."""
        return self._pictures[name][view]

    def picture(self, name: str) -> Source | None:
        """The picture itself, or None where only its features were given."""
        return self._sources.get(name)


@dataclass(frozen=True, kw_only=True)
class Layout(Settings):
    """What a collection was begun with."""

    fingerprint: str  # of what described its images
    dims: Count  # D, numbers of a cell
    scales: Annotated[tuple[Count, ...], MinLen(1), Predicate(distinct)]  # cells of the longer side of each map
    views: tuple[str, ...]  # ways in which each picture was turned before it was described
    regions: RegionConfig  # how regions were chosen

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if "" not in check_views(self.views):
            raise ConfigError(f"views={self.views!r} must include '', the picture as it is")
        missing = [scale for scale in self.regions.scales if scale not in self.scales]
        if missing:
            there = ", ".join(map(str, self.scales))
            raise ConfigError(f"regions are to come from {missing[0]} cells and there are {there}: choose among these")


class Collection:
    """Images with their features, memory-mapped. Begun by `create`, opened again by `open`, filled by `add`.

    Images are known by the sha256 of their bytes: a file that is there twice, or was renamed, is computed once. Each
    different image is called by the first of its files that was looked at; files are called by their path inside the
    folder that was added, or as they were given.

    Whoever asks for a file that is not in the collection, or was skipped, gets a DatasetError; whoever writes while
    another process does, a ConfigError; and where the disk is full or fails, an ArtModelsError.

        >>> miner = ArtMiner.from_pretrained(views=("",))
        >>> collection = Collection.create("features", miner).add(["photo.jpg", "brick.png"], miner)
        >>> [hit.image for hit in miner.search("photo.jpg", (20, 10, 80, 70), Collection.open("features")).ranked[:1]]
        ['photo.jpg']

    Attributes:
        folder: Where it is.
        layout: What it was begun with.
        names: What each different image is called, in the order in which they were first looked at.
    """

    names: tuple[str, ...]

    def __init__(self, store: Store, *, verify: bool | None = None) -> None:
        """Use `open` or `create`."""
        self._store, self._verify = store, verify
        self.folder, self.layout = store.folder, config_from(Layout, store.about["layout"])
        self._note_files()

    def __repr__(self) -> str:
        """Where it is, how many images it has, and what is compared with checksums."""
        return f"<Collection of {len(self)} images in {self.folder}, {self.verified}>"

    @classmethod
    def create(cls, folder: File, describe: CollectionDescriber, *, regions: RegionConfig | None = None) -> Self:
        """Begin a collection in a new or empty folder, whose images `describe`, such as an `ArtMiner`, is to describe.

        Their regions, which the shortlist is made from, are by default the usual ones: see `RegionConfig.of`.

        Raises:
            ConfigError: The folder holds something or cannot be written to, or the describer lacks a scale of the
                regions.
        """
        layout = Layout(
            fingerprint=describe.fingerprint,
            dims=describe.dims,
            scales=tuple(describe.scales),
            views=tuple(describe.views),
            regions=regions or RegionConfig.of(describe.scales),
        )
        arrays = {MAPS: ("float16", layout.dims), DESCRIPTORS: ("float16", layout.dims), WINDOWS: ("float32", COLUMNS)}
        about = {"layout": asdict(layout), "next": 0}  # `next` is of use after a compaction only
        return cls(Store.create(Path(folder).expanduser(), KIND, arrays, about))

    @classmethod
    def open(cls, folder: File, *, verify: bool | None = None) -> Self:
        """Open a collection; one that is being written to shows what is complete so far.

        By default the numbers of an image are compared with their checksum when `pyramid`, `reference` or `regions`
        first reads them. Those of `descriptors` and `windows`, which are of all images together, are not: the log and
        `verified` say so. With `verify=True` all are compared now, which reads every byte once; with False none, ever.

        Raises:
            DatasetError: There is none, it is of another version, or it is damaged; the message says what to do.
        """
        found = cls(Store(Path(folder).expanduser(), KIND), verify=verify)
        found._store.verify(numbers=bool(verify))
        logger.log(logging.WARNING if verify is False else logging.INFO, "%r", found)
        return found

    @classmethod
    def open_or_create(cls, folder: File, describe: CollectionDescriber) -> Self:
        """Open the collection of a folder, or begin one there; see `open` and `create`, also for errors."""
        return cls.open(folder) if Store.exists(Path(folder).expanduser()) else cls.create(folder, describe)

    # --- Reading

    def __len__(self) -> int:
        """How many different images there are."""
        return len(self.names)

    @property
    def verified(self) -> str:
        """In words, which numbers are compared with their checksums; see `open`."""
        if self._verify is False:
            return "whose numbers are not compared with their checksums"
        if self._store.checked:
            return "whose numbers were compared with their checksums"
        return (
            "whose numbers are compared with their checksums image by image when first read, but not those of "
            "descriptors and windows"
        )

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that have features."""
        return tuple(self._store.held)

    @property
    def skipped(self) -> Mapping[str, str]:
        """Files that could not be read, and why."""
        return self._store.skipped

    def name_of_bytes(self, file: File) -> str | None:
        """The name of the image that a file, anywhere, holds; None if it is not in the collection.

        Raises:
            OSError: The file cannot be read.
        """
        image = self._store.number.get(sha256_of(Path(file)))
        return self._holders[image][0] if image in self._holders else None

    def duplicates(self) -> list[tuple[str, ...]]:
        """Names of files that have the same bytes, a group for each such image."""
        return [names for names in self._holders.values() if len(names) > 1]

    def size(self, name: File) -> tuple[int, int]:
        """Width and height in pixels of the image of a file."""
        width, height = self._store.image(name_of(name)).details["size"]
        return width, height

    def path(self, name: File) -> Path:
        """Where a file was when it was added, as an absolute path."""
        self._store.image(name_of(name))
        return Path(self._store.files[name_of(name)].path)

    def picture(self, name: File) -> Path | None:
        """The file of an image; None where it is gone, or holds other bytes than when it was added."""
        path = self.path(name)
        try:
            return path if sha256_of(path) == self._store.files[name_of(name)].sha256 else None
        except OSError:
            return None

    def pyramid(self, name: File, view: str = "") -> Pyramid:
        """The maps of an image in one view: float16, read from their file as they are needed.

        Raises:
            DatasetError: The numbers are damaged, or the collection was compacted since it was opened.
            ConfigError: It has no such view.
        """
        image, dims = self._image(name), self.layout.dims
        if view not in self.layout.views:
            have = ", ".join(map(repr, self.layout.views))
            raise ConfigError(f"the collection has no view {view!r}: it has {have}; create one with a describer of it")
        shapes, (width, height) = image.details["cells"], image.details["size"]
        if sideways(view):
            shapes, width, height = [(columns, rows) for rows, columns in shapes], height, width
        start, count = image.span(MAPS)
        total = count // len(self.layout.views)
        # Each image is mapped by itself: systems refuse to map more than they have memory for, copy on write.
        numbers = torch.from_numpy(self._store.map(MAPS, start + self.layout.views.index(view) * total, total))
        parts = torch.split(numbers, [rows * columns for rows, columns in shapes])
        maps = tuple(part.view(dims, *shape) for part, shape in zip(parts, shapes, strict=True))
        return Pyramid(maps, width, height)

    def reference(self, name: File) -> Tensor:
        """The map [D, R, C] of an image as it is whose longer side has 40 cells; errors are those of `pyramid`."""
        return self.pyramid(name).at(REFERENCE)

    def regions(self, name: File) -> CellRegions:
        """The regions of an image, of all its views; errors are those of `pyramid`."""
        image = self._image(name)
        found = [torch.from_numpy(self._store.map(array, *image.span(array))) for array in (DESCRIPTORS, WINDOWS)]
        return CellRegions(*found)

    def spans(self) -> Array:
        """For each of `names`, number of its first region, row of that in `descriptors`, and count: [N, 3] int64."""
        images = [self._store.images[number] for number in self._holders]
        spans = [(image.details["first"], *image.span(DESCRIPTORS)) for image in images]
        return np.array(spans, np.int64).reshape(-1, 3)

    def descriptors(self) -> Array:
        """Descriptors [T, D] float16 of all regions that are on the disk, memory-mapped; see `open` for checksums."""
        return self._store.map(DESCRIPTORS)

    def windows(self) -> Array:
        """Where they are, [T, 5] float32; see `CellRegions`, and `open` for checksums."""
        return self._store.map(WINDOWS)

    def _image(self, name: File) -> ImageRow:
        """The row of an image whose numbers are going to be read."""
        image = self._store.image(name_of(name))
        return image if self._verify is False else self._store.check(image)

    def _note_files(self) -> None:
        """Note which files each image has."""
        holders = defaultdict[int, list[str]](list)
        for name, image in self._store.held.items():
            holders[image].append(name)
        self._holders = {image: tuple(holders[image]) for image in sorted(holders)}
        self.names = tuple(names[0] for names in self._holders.values())

    # --- Writing

    def add(self, source: File | Sequence[File], describer: CollectionDescriber, *, progress: bool = False) -> Self:
        """Add the images of a folder, or files; what is in the collection already is not computed again.

        A file whose bytes have changed is another image from then on. The call may be interrupted at any moment, by a
        full disk too: everything complete is kept, and the same call goes on. What cannot be read is in `skipped`.

        Raises:
            ConfigError: The describer is not the one that the collection was created with, or its equal.
            DatasetError: No images; two different files of one name; a damaged collection; features that are not as the
                describer promised.
        """
        return result_of(self.stream_add(source, describer), progress=progress, unit="image")

    def stream_add(self, source: File | Sequence[File], describer: CollectionDescriber) -> Iterator[Extraction | Self]:
        """As `add`, as a stream: a step for each file, which has been kept by then, and this collection last."""
        files = listed(source)
        self._check_describer(describer)
        store, skipped = self._store, 0
        with self._writing() as writer:
            found = read_ahead(files, store.number)
            for done, ((_, path), (name, sha, loaded)) in enumerate(zip(files, found, strict=True), 1):
                try:
                    if isinstance(loaded, str):
                        raise ImageError(loaded)
                    kept = {} if loaded is None or sha in store.number else self._described(name, loaded, describer)
                    self._check_name(name, sha, path)
                    writer.add(name, sha, path=str(path.resolve()), **kept)
                except ImageError as error:
                    writer.skip(name, str(error))
                    skipped += 1
                yield Extraction(done, len(files), name, skipped)
        yield self

    def remove(self, names: Iterable[File]) -> None:
        """Forget files, all or none; an image whose last file goes is gone, and its numbers with the next `compact`."""
        with self._writing() as writer:
            called = list(dict.fromkeys(map(name_of, names)))
            for name in called:
                if name not in self._store.files:
                    self._store.image(name)  # says so
            writer.remove(called)

    def compact(self) -> None:
        """Write the numbers of the images that have files into new files, and delete the old ones.

        Until the new ones are complete the old ones count, so it takes the room of both. Regions keep their numbers: an
        index stays as it is. Collections that were opened before have to be opened again.
        """
        with self._writing() as writer:
            writer.compact([self._store.images[number] for number in self._holders], next=self._next)

    @contextmanager
    def _writing(self) -> Iterator[StoreWriter]:
        """Write to the store, and take up what it holds before and after."""
        try:
            with self._store.writing() as writer:
                self._note_files()
                yield writer
        finally:
            self._note_files()

    @property
    def _next(self) -> int:
        """The number of the next region: none is given twice."""
        ends = [image.details["first"] + image.span(DESCRIPTORS)[1] for image in self._store.images[-1:]]
        return int(max([*ends, self._store.about["next"]]))

    def _described(self, name: str, loaded: LoadedImage, describer: CollectionDescriber) -> dict[str, Any]:
        """What is kept of a new image, as `StoreWriter.add` takes it."""
        pyramids, size, layout = describer.pyramids(loaded), (loaded.width, loaded.height), self.layout
        cells = _promised(name, pyramids, size, layout)
        views = [pyramids[view] for view in layout.views]
        regions = [describe_regions(pyramid, layout.regions, view=number) for number, pyramid in enumerate(views)]
        found = {
            MAPS: [part.half().reshape(-1, layout.dims) for pyramid in views for part in pyramid.maps],
            DESCRIPTORS: [each.descriptors.half() for each in regions],
            WINDOWS: [each.table for each in regions],
        }
        parts = {array: torch.cat(each).cpu().numpy() for array, each in found.items()}
        if not all(np.isfinite(part).all() for part in parts.values()):
            raise DatasetError(f"The features of {name} are not finite in float16: check the weights of the describer.")
        return {"parts": parts, "about": {"size": size, "cells": cells, "first": self._next}}

    def _check_name(self, name: str, sha: str, path: Path) -> None:
        """Check that a file does not take the place of another one of its name: of two folders, the second might."""
        known = self._store.files.get(name)
        other = known is not None and known.sha256 not in (None, sha) and Path(known.path) != path.resolve()
        if known is not None and other and Path(known.path).is_file():
            raise DatasetError(
                f"{name} is {known.path} in the collection, and {path} is another picture of that name: add the folder "
                "that holds both, or remove the first."
            )

    def _check_describer(self, describer: CollectionDescriber) -> None:
        ours = (self.layout.fingerprint, self.layout.dims, self.layout.scales, self.layout.views)
        theirs = (describer.fingerprint, describer.dims, tuple(describer.scales), tuple(describer.views))
        if ours != theirs:
            raise ConfigError(
                f"The collection {self.folder} was made by other weights or settings ({ours[0][:12]}, {ours[1:]}; "
                f"these are {theirs[0][:12]}, {theirs[1:]}): create another in another folder."
            )


def _promised(name: str, found: Mapping[str, Pyramid], size: tuple[int, int], layout: Layout) -> list[tuple[int, int]]:
    """Rows and columns of the maps of the upright view, if those of all views are as the describer promised."""
    if set(found) != set(layout.views):
        raise DatasetError(f"The describer gave views {sorted(found)} of {name}, not {sorted(layout.views)}.")
    shapes = [(int(part.shape[-2]), int(part.shape[-1])) for part in found[""].maps]
    for view, pyramid in found.items():
        turned = sideways(view)
        wanted = [(layout.dims, *(shape[::-1] if turned else shape)) for shape in shapes]
        given = [tuple(part.shape) for part in pyramid.maps]
        scales = tuple(max(shape[1:]) for shape in wanted)
        wide = (pyramid.width, pyramid.height)
        if given != wanted or scales != layout.scales or wide != (size[::-1] if turned else size):
            raise DatasetError(
                f"The describer gave maps {given} of {wide[0]} x {wide[1]} pixels for view {view!r} of {name}: "
                f"{layout.dims} numbers a cell, scales {layout.scales} and the turned size were promised."
            )
    return shapes
