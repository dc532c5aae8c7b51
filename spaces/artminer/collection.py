"""What a visitor of the page works on: pictures, what was found in them, and what the visitor says of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from artmodels.errors import DatasetError
from artmodels.ui.uploads import listing, take_in

if TYPE_CHECKING:
    from artmodels.methods.artminer.evidence.verdicts import VerdictFile
    from artmodels.methods.artminer.groups.clusters import Pair
    from artmodels.methods.artminer.oneshot import Hit, Searched

FILES = 100  # pictures of a collection: some 2 s of a core each
THUMBNAIL = 480  # px: longest side of what the page shows

Box = tuple[float, float, float, float]


@dataclass(eq=False)
class Work:
    """One visitor's.

    Attributes:
        folder: Where it is, until the server deletes it.
        store: The folder of the features, which may be one that others read, too.
        files: Names of the pictures, each with other bytes.
        sizes: Width and height of each, upright.
        skipped: Files that cannot be used, and why.
        twins: Files with the bytes of one that came before, and its name.
        features: The `Collection` with the features of all; None before they are computed.
        open: Name of the picture that is looked at.
        searched: What the last search found.
        shown: Those of its hits that the page shows.
        pairs: Of pictures that show the same, the best first; None before they are looked for.
        judging: What a verdict is about: a hit, a pair, or nothing.
        scores: Of each detail (picture and box) in each picture where it was found: what verdicts calibrate.
    """

    folder: Path
    store: Path
    files: list[str] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    features: Any = None
    open: str = ""
    searched: "Searched | None" = None
    shown: "list[Hit]" = field(default_factory=list)
    pairs: "list[Pair] | None" = None
    judging: "Hit | Pair | None" = None
    scores: dict[tuple[str, str, Box], float] = field(default_factory=dict)

    @property
    def pictures(self) -> Path:
        """The folder of the files as they came."""
        return self.folder / "pictures"

    @property
    def verdicts(self) -> "VerdictFile":
        """What the visitor said."""
        from artmodels.methods.artminer.evidence.verdicts import VerdictFile

        return VerdictFile(self.folder / "verdicts.jsonl")

    def thumbnail(self, name: str) -> Path:
        """The file of a small version."""
        return self.folder / "small" / f"{list(self.sizes).index(name):04}.jpg"

    def verdict_on(self, first: str, second: str, box: Box | None = None) -> str:
        """The last verdict on two pictures, or on a detail of the first in the second; "" for none."""
        subject = tuple(sorted((first, second))) if box is None else (first, second, box)
        found = {verdict.subject: verdict.verdict for verdict in self.verdicts.current()}
        return found.get(subject, "")


def collect(paths: Sequence[str], folder: Path, *, store: Path | None = None) -> Iterator[str | Work]:
    """Take pictures, and those inside ZIP files; what cannot be used is left out, with the reason.

    Args:
        paths: The files.
        folder: A new one, for everything.
        store: Where the features are or will be; None for inside the folder.

    Yields:
        How far it is, and the work, last; closing this ends it.

    Raises:
        DatasetError: Nothing can be used, or there is too much.
    """
    made = Work(folder, store or folder / "features")
    made.pictures.mkdir(parents=True)
    (folder / "small").mkdir()
    for taken in take_in(paths, made.pictures, made.skipped, most=FILES, twins=made.twins):
        if isinstance(taken, str):
            yield taken
            continue
        made.files.append(taken.name)
        # Of every file that ever was in the list: their order numbers the thumbnails.
        made.sizes[taken.name] = taken.picture.size
        taken.picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
        taken.picture.save(made.thumbnail(taken.name), quality=85)
    if not made.files:
        raise DatasetError(
            "There is no picture that can be used: give PNG, JPEG, WebP or TIFF files." + listing(made.skipped.items())
        )
    yield made
