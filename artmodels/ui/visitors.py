"""What a visitor works on: pictures that came in, with small versions, in a folder that is deleted after an hour."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self, TypeVar

from PIL import Image

from artmodels.errors import ConfigError, DatasetError
from artmodels.images.decoding import ACCEPTED, LoadedImage
from artmodels.ui.checks import read
from artmodels.ui.uploads import bullets, markdown, take_in

__all__ = ["VisitorPictures", "present"]

THUMBNAIL = 480  # px: longest side of what the page shows


class _Kept(Protocol):
    def exists(self) -> bool:
        """Whether its files are still there."""


W = TypeVar("W", bound=_Kept)


@dataclass(eq=False)
class VisitorPictures:
    """One visitor's pictures; a Space adds what it knows of them in a class of its own."""

    folder: Path  # until the server deletes it
    files: list[str] = field(default_factory=list)
    # Width and height of each picture that came in, upright; their order numbers the small versions.
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # files that cannot be used, and why
    twins: dict[str, str] = field(default_factory=dict)  # files with the bytes of one that came before, and its name

    @property
    def pictures(self) -> Path:
        """The folder of the files as they came."""
        return self.folder / "pictures"

    @property
    def small(self) -> Path:
        """The folder of the small versions: `0000.jpg`, `0001.jpg`, ..."""
        return self.folder / "small"

    def picture(self, name: str) -> Path:
        """The file of a picture as it came."""
        return self.pictures / name

    def thumbnail(self, name: str) -> Path:
        """The file of a small version."""
        return self.small / f"{list(self.sizes).index(name):04}.jpg"

    def opened(self, name: str) -> LoadedImage:
        """A picture, loaded."""
        return read(str(self.picture(name)))

    def opened_small(self, name: str) -> Image.Image:
        """A small version, loaded."""
        with Image.open(self.thumbnail(name)) as picture:
            return picture.convert("RGB")

    def collect(self, paths: Sequence[str] | None, *, most: int, repeated: bool = False) -> Iterator[str | Self]:
        """Take pictures, `most` at most, and those inside ZIP files; what cannot be used is left out, with the reason.

        A file with the bytes of another one is taken if it may be `repeated`, and otherwise one of the `twins`.

        Yields:
            Texts that say how far it is, and this object last; closing the generator ends the work.

        Raises:
            DatasetError: Nothing can be used, or there is too much.
        """
        if not paths:
            raise DatasetError("There are no pictures: upload some, or a ZIP file of them.")
        self.pictures.mkdir(parents=True)
        self.small.mkdir()
        for taken in take_in(paths, self.pictures, self.skipped, most=most, twins=None if repeated else self.twins):
            if isinstance(taken, str):
                yield taken
                continue
            self.files.append(taken.name)
            self.sizes[taken.name] = taken.picture.size
            taken.picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
            taken.picture.save(self.thumbnail(taken.name), quality=85)
        if not self.files:
            reasons = bullets(self.skipped.items())
            raise DatasetError(f"There is no picture that can be used: {ACCEPTED} files are read.{reasons}")
        yield self

    def exists(self) -> bool:
        """Whether the files are still there."""
        return self.pictures.is_dir()

    def named(self, picture: str) -> str:
        """Find the picture that a program means by a name, or by a number from 1.

        Raises:
            ConfigError: There is none.
        """
        given, count = str(picture or "").strip(), len(self.files)
        given = self.twins.get(given, given)
        if given in self.files:
            return given
        if given.isdecimal() and 1 <= int(given) <= count:
            return self.files[int(given) - 1]
        names = ", ".join(self.files[:10]) + (", …" if count > 10 else "")
        raise ConfigError(f"{given!r} is none of the pictures: give a number from 1 to {count}, or one of {names}")

    def left_out(self) -> str:
        """List, as Markdown, the files that are not among the pictures, and why; "" where all are."""
        twins = [(name, f"it has the same bytes as {first}") for name, first in self.twins.items()]
        return markdown(bullets([*self.skipped.items(), *twins], " is left out"))


def present(
    work: W | None,
    missing: str = "There is no collection yet: upload pictures, or take the example collection.",
    deleted: str = "The collection was deleted, as everything is after an hour: upload it again.",
) -> W:
    """Give what a visitor works on.

    Raises:
        DatasetError: There is nothing yet, or its files are gone; with one of the two texts.
    """
    if work is None:
        raise DatasetError(missing)
    if not work.exists():
        raise DatasetError(deleted)
    return work
