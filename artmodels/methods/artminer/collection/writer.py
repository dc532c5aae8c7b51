"""Appends to the files of a collection; whatever fails, they end with the last complete image."""

import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from artmodels.correspondence.cells import Pyramid
from artmodels.correspondence.views import sideways
from artmodels.errors import ArtModelsError, DatasetError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.artminer.collection.log import Layout, Log, line_of
from artmodels.methods.artminer.collection.regions import describe_regions

__all__ = ["CollectionDescriber", "Writer", "numbers_of"]


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


class Writer:
    """Open files of one generation, inside a `with` block."""

    def __init__(self, folder: Path, layout: Layout, log: Log, cut: Callable[[], None]) -> None:
        """Append to these files, note it in the log, and call `cut` when that fails."""
        self.folder, self.names, self.log, self.cut = folder, layout.names, log, cut
        self.open = list[BinaryIO]()

    def __enter__(self) -> Self:
        """Open them."""
        self.open = [(self.folder / name).open("ab", buffering=0) for name in self.names]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        for file in self.open:
            file.close()

    def image(self, entry: Mapping[str, Any], parts: Sequence[Iterable[bytes]]) -> None:
        """Write the numbers of an image, block by block, for each file; then its line.

        Raises:
            ArtModelsError: The disk is full or fails.
        """
        self._write(dict(enumerate(parts)))
        self.entries([entry])

    def file(self, name: str, sha: str, path: Path) -> None:
        """Note whose image a file holds, if that is new.

        Raises:
            DatasetError: Another picture of that name is there: of two folders, the second must not take the place of
                the first unnoticed.
        """
        known, before = self.log.files.get(name), Path(self.log.paths.get(name, ""))
        other = known is not None and self.log.images[known].image != sha and before != path.resolve()
        if other and before.is_file():
            raise DatasetError(
                f"{name} is {before} in the collection, and {path} is another picture of that name: add the folder "
                "that holds both, or remove the first."
            )
        number, where = self.log.number[sha], str(path.resolve())
        if (self.log.files.get(name), self.log.paths.get(name)) != (number, where):
            self.entries([{"file": name, "image": sha, "path": where}])

    def skip(self, name: str, reason: str) -> None:
        """Note why a file is passed over, if that is new."""
        if self.log.skipped.get(name) != reason:
            self.entries([{"file": name, "skipped": reason}])

    def entries(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Append lines to the log, at once.

        Raises:
            ArtModelsError: The disk is full or fails.
        """
        lines = [line_of(entry) for entry in entries]
        self._write({len(self.open) - 1: lines})
        for entry, line in zip(entries, lines, strict=True):
            self.log.take(entry, len(line))

    def _write(self, parts: Mapping[int, Iterable[bytes]]) -> None:
        try:
            for which, blocks in parts.items():
                for block in blocks:
                    rest = memoryview(block)
                    while rest:
                        rest = rest[self.open[which].write(rest) :]
            for which in parts:
                os.fsync(self.open[which].fileno())
        except OSError as error:
            self.cut()
            raise ArtModelsError(
                f"The collection {self.folder} cannot be written to: {error.strerror}. Its {len(self.log.images)} "
                "images are complete: free some space and make the same call again, which goes on from there."
            ) from error


def numbers_of(
    name: str, found: Mapping[str, Pyramid], size: tuple[int, int], layout: Layout
) -> tuple[dict[str, Any], list[bytes]]:
    """What the log says of an image, and its bytes for each file: maps, descriptors, windows.

    Args:
        name: Of the file, for messages.
        found: A pyramid of each view.
        size: Width and height of the picture as it is.
        layout: Of the collection.

    Raises:
        DatasetError: They are not as the describer promised, or not finite in float16.
    """
    cells = _promised(name, found, size, layout)
    maps, tables, descriptors = list[Tensor](), list[Tensor](), list[Tensor]()
    for number, view in enumerate(layout.views):
        regions = describe_regions(found[view], layout.regions, view=number)
        maps += [part.half().flatten() for part in found[view].maps]
        descriptors.append(regions.descriptors.half())
        tables.append(regions.table)
    parts = [torch.cat(each).cpu().numpy() for each in (maps, descriptors, tables)]
    if not all(np.isfinite(part).all() for part in parts):
        raise DatasetError(f"The features of {name} are not finite in float16: check the weights of the describer.")
    data, crc = [part.tobytes() for part in parts], 0
    for each in data:
        crc = zlib.crc32(each, crc)
    return {"size": size, "cells": cells, "count": len(parts[2]), "crc": crc}, data


def _promised(name: str, found: Mapping[str, Pyramid], size: tuple[int, int], layout: Layout) -> list[tuple[int, int]]:
    """Rows and columns of the maps as they are, if all are as they have to be."""
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
