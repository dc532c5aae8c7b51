"""What a visitor of the page works on: pictures, labels of whole pictures, and what was learnt from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from artmodels.detections import drawing
from artmodels.detections.annotations import Detections
from artmodels.errors import DatasetError
from artmodels.ui.uploads import listing, take_in

if TYPE_CHECKING:
    from artmodels.methods.mimax import Detector

FILES = 400  # pictures of a collection
THUMBNAIL = 480  # px: longest side of what the page shows
SHOWN, DRAWN = 60, 3  # pictures with detections on the page, and boxes on each; an export has all


@dataclass(eq=False)
class Collection:
    """One visitor's.

    Attributes:
        folder: Where it is, until the server deletes it.
        files: Names of the pictures.
        sizes: Width and height of each, upright.
        skipped: Files that cannot be used, and why.
        detectors: What was learnt, for each class.
        learnt: What it was learnt from: for each class, whether a picture shows it.
    """

    folder: Path
    files: list[str] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    detectors: "dict[str, Detector]" = field(default_factory=dict)
    learnt: dict[str, dict[str, bool]] = field(default_factory=dict)

    @property
    def pictures(self) -> Path:
        """The folder of the files as they came."""
        return self.folder / "pictures"

    @property
    def store(self) -> Path:
        """The folder of their regions."""
        return self.folder / "regions"

    @property
    def small(self) -> Path:
        """The folder of small versions."""
        return self.folder / "small"

    def thumbnail(self, name: str) -> Path:
        """The file of a small version."""
        return self.small / f"{self.files.index(name):04}.jpg"

    def found(self, label: str, threshold: float) -> list[Detections]:
        """Give the pictures in which something was found, the highest score first."""
        detector = self.detectors.get(label)
        if detector is None:
            return []
        kept = [found for found in detector.collection(threshold=threshold) if len(found)]
        return sorted(kept, key=lambda found: -float(found.scores[0]))

    def overlay(self, found: Detections) -> Image.Image:
        """Draw the best boxes over the small version of a picture."""
        with Image.open(self.thumbnail(found.image)) as small:
            picture = small.convert("RGB")
        scale = picture.width / found.width, picture.height / found.height
        reduced = Detections(
            image=found.image,
            width=picture.width,
            height=picture.height,
            boxes=np.clip(found.boxes[:DRAWN] * (scale * 2), 0, picture.size * 2),
            scores=found.scores[:DRAWN],
            labels=found.labels[:DRAWN],
        )
        return drawing.boxes_over(picture, reduced)


def collect(paths: Sequence[str], folder: Path) -> Iterator[str | Collection]:
    """Take pictures, and those inside ZIP files; what cannot be used is left out, with the reason.

    Yields:
        How far it is, and the collection, last; closing this ends the work.

    Raises:
        DatasetError: Nothing can be used, or there is too much.
    """
    made = Collection(folder)
    made.pictures.mkdir(parents=True)
    made.small.mkdir()
    for taken in take_in(paths, made.pictures, made.skipped, most=FILES):
        if isinstance(taken, str):
            yield taken
            continue
        made.files.append(taken.name)
        made.sizes[taken.name] = taken.picture.size
        taken.picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
        taken.picture.save(made.thumbnail(taken.name), quality=85)
    if not made.files:
        raise DatasetError(
            "There is no picture that can be used: give PNG, JPEG, WebP or TIFF files." + listing(made.skipped.items())
        )
    yield made
