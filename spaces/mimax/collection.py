"""What a visitor of the page works on: pictures, labels of whole pictures, and what was learnt from them."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from artmodels import drawing
from artmodels.annotations import Detections
from artmodels.errors import DatasetError, ImageError
from artmodels.serving_checks import read
from artmodels.serving_uploads import pictures_in

if TYPE_CHECKING:
    from artmodels.mimax import Detector

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
        labels: For each class, whether a picture shows it; a picture that is not named is not learnt from.
        detectors: What was learnt, for each class.
    """

    folder: Path
    files: list[str] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    labels: dict[str, dict[str, bool]] = field(default_factory=dict)
    detectors: "dict[str, Detector]" = field(default_factory=dict)

    @property
    def pictures(self) -> Path:
        """The folder of the files as they came."""
        return self.folder / "pictures"

    @property
    def store(self) -> Path:
        """The folder of their regions."""
        return self.folder / "regions"

    def thumbnail(self, name: str) -> Path:
        """The file of a small version."""
        return self.folder / "small" / f"{self.files.index(name):04}.jpg"

    def answer(self, label: str, name: str) -> str:
        """Give the label of a picture: "yes", "no" or "?"."""
        return {True: "yes", False: "no", None: "?"}[self.labels.get(label, {}).get(name)]

    def turn(self, label: str, name: str) -> None:
        """Change the label of a picture, from ? to yes, to no, and back to ?."""
        known = self.labels.setdefault(label, {})
        if name not in known:
            known[name] = True
        elif known[name]:
            known[name] = False
        else:
            del known[name]

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


def collect(paths: Sequence[str], folder: Path) -> Collection:
    """Take pictures, and those inside ZIP files; what cannot be used is left out, with the reason.

    Raises:
        DatasetError: Nothing can be used, or there is too much.
    """
    made = Collection(folder)
    made.pictures.mkdir(parents=True)
    (folder / "small").mkdir()
    for name, source in pictures_in(paths, made.skipped):
        if len(made.files) == FILES:
            raise DatasetError(f"The collection has more than {FILES} pictures: give fewer at a time.")
        target = made.pictures / name
        if isinstance(source, Path):
            shutil.copyfile(source, target)
        else:
            target.write_bytes(source)
        try:
            picture = read(str(target)).pil()
        except ImageError as error:
            made.skipped[name] = str(error)
            target.unlink()
            continue
        made.files.append(name)
        made.sizes[name] = picture.size
        picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
        picture.save(made.thumbnail(name), quality=85)
    if not made.files:
        reasons = "".join(f"\n- {name}: {reason}" for name, reason in made.skipped.items())
        raise DatasetError(f"There is no picture that can be used: give PNG, JPEG, WebP or TIFF files.{reasons}")
    return made
