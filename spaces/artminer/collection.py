"""What a visitor of the page works on: pictures, what was found in them, and what the visitor says of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artmodels.ui.visitors import VisitorPictures

if TYPE_CHECKING:
    from artmodels.methods.artminer.evidence.verdicts import VerdictFile
    from artmodels.methods.artminer.groups.clusters import Pair
    from artmodels.methods.artminer.oneshot import Hit, Searched

FILES = 100  # pictures of a collection: some 2 s of a core each

Box = tuple[float, float, float, float]


@dataclass(eq=False)
class Work(VisitorPictures):
    """One visitor's.

    Attributes:
        store: The folder of the features, which may be one that others read, too.
        features: The `Collection` with the features of all; None before they are computed.
        open: Name of the picture that is looked at.
        searched: What the last search found.
        shown: Those of its hits that the page shows.
        pairs: Of pictures that show the same, the best first; None before they are looked for.
        judging: What a verdict is about: a hit, a pair, or nothing.
        scores: Of each detail (picture and box) in each picture where it was found: what verdicts calibrate.
    """

    store: Path = Path()
    features: Any = None
    open: str = ""
    searched: "Searched | None" = None
    shown: "list[Hit]" = field(default_factory=list)
    pairs: "list[Pair] | None" = None
    judging: "Hit | Pair | None" = None
    scores: dict[tuple[str, str, Box], float] = field(default_factory=dict)

    @property
    def verdicts(self) -> "VerdictFile":
        """What the visitor said."""
        from artmodels.methods.artminer.evidence.verdicts import VerdictFile

        return VerdictFile(self.folder / "verdicts.jsonl")

    def __post_init__(self) -> None:
        """Keep the features with the pictures, unless they are elsewhere."""
        if self.store == Path():
            self.store = self.folder / "features"

    def verdict_on(self, first: str, second: str, box: Box | None = None) -> str:
        """The last verdict on two pictures, or on a detail of the first in the second; "" for none."""
        subject = tuple(sorted((first, second))) if box is None else (first, second, box)
        found = {verdict.subject: verdict.verdict for verdict in self.verdicts.current()}
        return found.get(subject, "")
