"""Regions of a whole collection in one folder: extracted once, resumed after anything, read without copying.

It is an `artmodels.data.store` with two arrays: `features` [T, M] float16, and `regions` [T, 5] float32, which are
left, top, right, bottom and objectness.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from artmodels import images
from artmodels.data.bags import Bags
from artmodels.data.reading import Extraction, Read, listed, name_of, read_ahead
from artmodels.data.store import Store, StoreKind
from artmodels.errors import ConfigError, DatasetError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.region_features.pipeline import Regions
from artmodels.progress import result_of

__all__ = ["Extractor", "FeatureStore"]

KIND = StoreKind(name="store of features", content="regions", verb="extract")
FEATURES, REGIONS = "features", "regions"
PIXELS = 2**28  # of images that are held at a time: 0.8 GB

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

logger = logging.getLogger(__name__)


class Extractor(Protocol):
    """What a store is filled by: `RegionFeatures`, or anything with these."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the numbers would."""

    @property
    def features(self) -> int:
        """M, the length of a descriptor."""

    @property
    def batch(self) -> int:
        """How many images it likes to have at a time."""

    def __call__(self, image: list[images.Source]) -> list[Regions]:
        """The regions of each image."""


class FeatureStore:
    """The regions of a collection, memory-mapped. Made by `extract`, opened again by `open`.

    A file that is not in it, or was skipped, has none: to ask for them is a DatasetError.

        >>> store = FeatureStore.extract(["photo.jpg", "brick.png"], RegionFeatures.from_pretrained(), "features")
        >>> regions = FeatureStore.open("features").regions("photo.jpg")
        >>> len(regions.boxes) == len(regions.features)
        True

    Images are known by the sha256 of their bytes: a file that is there twice, or was renamed, is computed once. 300
    regions of 2048 numbers take 1.2 MB an image, and those of 384 numbers a fifth of that.
    """

    verified = False
    """Whether all numbers were compared with their checksums when it was opened."""

    def __init__(self, store: Store) -> None:
        """Use `open` or `extract`."""
        self._store, self.folder = store, store.folder
        self.features, self.fingerprint = int(store.about["features"]), str(store.about["fingerprint"])

    def __repr__(self) -> str:
        """Where it is, how many images it has, and whether they were compared with their checksums."""
        state = "" if self.verified else "not "
        return f"<FeatureStore of {len(self)} images in {self.folder}, {state}compared with their checksums>"

    # --- Reading

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> "FeatureStore":
        """Open a store to read; one that is being written to shows what is complete so far.

        `verify` compares all numbers with their checksums, which reads every byte once.

        Raises:
            DatasetError: There is no store, it is of another version, or it is damaged; the message says what to do.
        """
        found = cls(Store(Path(folder).expanduser(), KIND))
        found._store.verify(numbers=verify)
        found.verified = verify
        if not verify:
            logger.warning("%r", found)
        return found

    def __len__(self) -> int:
        """How many different images there are."""
        return len(self._store.images)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that have regions, in the order in which they were first looked at."""
        return tuple(self._store.held)

    @property
    def skipped(self) -> Mapping[str, str]:
        """Files that could not be read, and why."""
        return self._store.skipped

    def index_of(self, files: Sequence[str | os.PathLike[str]]) -> Tensor:
        """The numbers [N] int64 of the images that files hold: `store.bags()[store.index_of(files)]` are their bags.

        Files are named as in `files`; those of the same content have the same number.
        """
        return torch.tensor([self._store.image(name_of(name)).number for name in files], dtype=torch.int64)

    def bags(self) -> Bags:
        """All images as bags, with objectness; the features stay in their file, and are read as they are needed.

        Raises:
            DatasetError: There is no image yet, or a value is not finite.
        """
        if not len(self):
            raise DatasetError(f"The store {self.folder} holds no image: extract a folder into it first.")
        sizes = torch.tensor([image.span(FEATURES)[1] for image in self._store.images])
        objectness = torch.from_numpy(self._store.map(REGIONS)[:, 4].copy())
        return Bags(torch.from_numpy(self._store.map(FEATURES)), sizes, objectness)

    def regions(self, which: int | str | os.PathLike[str]) -> Regions:
        """The regions of one image, by its number or the name of a file; features are rounded to float16.

        Raises:
            IndexError: There is no image of that number.
        """
        image = self._store.images[which] if isinstance(which, int) else self._store.image(name_of(which))
        table, features = (self._store.map(name, *image.span(name)).astype(np.float32) for name in (REGIONS, FEATURES))
        boxes, objectness = torch.from_numpy(table[:, :4].copy()), torch.from_numpy(table[:, 4].copy())
        about: dict[str, Any] = image.details | {"notes": tuple(image.details["notes"])}
        return Regions(boxes, objectness, torch.from_numpy(features), **about)

    # --- Writing

    @classmethod
    def extract(
        cls, source: Files, extractor: Extractor, folder: str | os.PathLike[str], *, progress: bool = False
    ) -> "FeatureStore":
        """Extract the regions of a folder of images, or of files, into a store; what is in it already is not redone.

        It may be interrupted at any moment, by a full disk too: everything complete is kept, and the same call goes on.
        What cannot be read is in `skipped` of the store.

        Args:
            source: A folder, whose files are named by their path inside it; or files, named as they are given.
            extractor: Usually a `RegionFeatures`.
            folder: Of the store: a new or empty one, or one that the same extractor made.
            progress: Show a bar.

        Raises:
            ConfigError: The store was made by another extractor, or another process is writing to it.
            DatasetError: No images; a damaged store; features that are not finite in float16.
            ArtModelsError: The disk is full or fails.
        """
        return result_of(cls.stream_extract(source, extractor, folder), progress=progress, unit="image")

    @classmethod
    def stream_extract(
        cls, source: Files, extractor: Extractor, folder: str | os.PathLike[str]
    ) -> "Iterator[Extraction | FeatureStore]":
        """Do what `extract` does, file by file: yield where it is after each file, and the store last.

        Closed before its end, it keeps what was yielded.
        """
        files = listed(source)
        found = cls._begun(Path(folder).expanduser(), extractor)
        with found._store.writing() as writer:
            done, skipped = 0, 0
            for group in _grouped(read_ahead(files, found._store.number), extractor.batch):
                new = {sha: image for _, sha, image in group if isinstance(image, LoadedImage)}
                regions = dict(zip(new, extractor([*new.values()]), strict=True)) if new else {}
                for name, sha, image in group:
                    if isinstance(image, str):
                        writer.skip(name, image)
                    elif sha in found._store.number:
                        writer.add(name, sha)
                    else:
                        writer.add(name, sha, **found._as_row(name, regions[sha]))
                # Only now: what was given has been kept.
                for name, _, image in group:
                    done, skipped = done + 1, skipped + isinstance(image, str)
                    yield Extraction(done, len(files), name, skipped)
        yield found

    @classmethod
    def _begun(cls, root: Path, extractor: Extractor) -> "FeatureStore":
        """The store of an extractor, new or as it is."""
        fingerprint, width = extractor.fingerprint, extractor.features
        if Store.exists(root):
            found = cls(Store(root, KIND))
        else:
            arrays = {FEATURES: ("float16", width), REGIONS: ("float32", 5)}
            found = cls(Store.create(root, KIND, arrays, {"features": width, "fingerprint": fingerprint}))
        if (found.fingerprint, found.features) != (fingerprint, width):
            raise ConfigError(
                f"The store {root} was made by other weights or settings ({found.fingerprint[:12]}, {found.features} "
                f"numbers a region; these are {fingerprint[:12]} and {width}): name another folder."
            )
        return found

    def _as_row(self, name: str, regions: Regions) -> dict[str, Any]:
        """What is kept of an image, as `StoreWriter.add` takes it."""
        features = regions.features.half().numpy()
        if features.shape != (len(regions), self.features) or not len(regions):
            raise DatasetError(
                f"The extractor gave {features.shape} numbers for {name}, and [K, {self.features}] were promised."
            )
        table = torch.cat([regions.boxes, regions.objectness[:, None]], 1).numpy()
        if not np.isfinite(features).all() or not np.isfinite(table).all():
            raise DatasetError(
                f"The features of {name} are not finite, or above float16's 65504: check the weights of the extractor."
            )
        about = {"width": regions.width, "height": regions.height, "notes": regions.notes}
        return {"parts": {FEATURES: features, REGIONS: table}, "about": about}


def _grouped(files: Iterable[Read], count: int) -> Iterator[list[Read]]:
    """Files in order, as many at a time as hold `count` new images, or fewer where those are large or there is none."""
    group, images_held, pixels = list[Read](), 0, 0
    for each in files:
        group.append(each)
        if isinstance(each[2], LoadedImage):
            images_held, pixels = images_held + 1, pixels + each[2].width * each[2].height
        if not images_held or images_held >= count or pixels >= PIXELS:
            yield group
            group, images_held, pixels = [], 0, 0
    if group:
        yield group
