"""Several pictures of one thing: taken in, brought onto one of them, averaged, and packed."""

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from artmodels.errors import ConfigError, DatasetError
from artmodels.hub import catalogue
from artmodels.progress import Progress
from artmodels.ui.controls import MODELS, run_folder
from artmodels.ui.uploads import listing, markdown, take_in

if TYPE_CHECKING:
    from artmodels.methods.ransac_flow import Group

MODEL = catalogue.default("ransac_flow").name
PICTURES = 20  # of a group
CHOOSING = 8  # pictures up to which the page looks for the best reference, for which all pairs are compared
SIDE = 1200  # px: longest side of a picture of a group, all of which are in memory at a time
SMALLEST = 8  # px, as of what the method reads
STAGES = {
    "unaligned": ("Unaligned", "All of them only brought to one size."),
    "coarse": ("Coarse", "Moved by a homography each."),
    "fine": ("Fine", "Every pixel moved by itself, and weighed by its matchability."),
}


@dataclass(eq=False)
class Gathered:
    """A group before it is aligned.

    Attributes:
        pictures: By name, at most `SIDE` pixels a side.
        skipped: Files that cannot be used, and why.
        reduced: Whether some were larger.
    """

    pictures: dict[str, Image.Image] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    reduced: bool = False


def gather(paths: Sequence[str], folder: Path) -> Iterator[str | Gathered]:
    """Read pictures, and those inside ZIP files.

    Yields:
        How far it is, and the group, last; closing this ends the work.

    Raises:
        DatasetError: There are fewer than two, or too many.
    """
    made = Gathered()
    for taken in take_in(paths, folder, made.skipped, most=PICTURES):
        if isinstance(taken, str):
            yield taken
            continue
        taken.file.unlink()
        picture = taken.picture
        if min(picture.size) < SMALLEST:
            size = f"{picture.width} x {picture.height} px"
            made.skipped[taken.name] = f"it is {size}, and {SMALLEST} a side are needed"
            continue
        made.reduced |= max(picture.size) > SIDE
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        made.pictures[taken.name] = picture
    if len(made.pictures) < 2:
        have = "There is one picture" if made.pictures else "There is no picture that can be used"
        reasons = listing(made.skipped.items())
        raise DatasetError(f"{have}: a group needs two or more, as PNG, JPEG, WebP or TIFF files.{reasons}")
    yield made


def check_reference(gathered: Gathered, reference: str) -> str | None:
    """The name of the picture that the others are brought onto, or None where it is to be found.

    Raises:
        ConfigError: There is no such picture, or there are too many to look for one.
    """
    names = list(gathered.pictures)
    if reference in names:
        return reference
    if reference:
        raise ConfigError(f"{reference!r} is none of the pictures: choose one of {', '.join(names)}.")
    if len(names) > CHOOSING:
        raise ConfigError(
            f"Of more than {CHOOSING} pictures the page does not look for the reference, for which all pairs are "
            f"compared: choose one of {', '.join(names)}."
        )
    return None


def aligned(gathered: Gathered, reference: str | None) -> Iterator["str | Group"]:
    """Align a group: texts that say how far it is, and the group, last; closing this ends it after the next pair."""
    from artmodels.methods.ransac_flow import stream_align_group

    yield "Looking at each picture…"
    for step in stream_align_group(MODELS(MODEL), gathered.pictures, reference=reference):
        if isinstance(step, Progress):
            yield f"Comparing pair {min(step.done + 1, step.total)} of {step.total}…"
        else:
            yield step


def sentence(group: "Group", gathered: Gathered) -> str:
    """Say what came out."""
    left, count = group.left_out, len(gathered.pictures)
    means = group.means
    if len(left) == count - 1:
        head = f"**No alignment was found**: none of the others fits {markdown(group.reference)}, and there is no mean."
    else:
        gain = means["fine"].sharpness / max(means["unaligned"].sharpness, 1e-12)
        head = (
            f"**{count - len(left)} of {count} pictures are aligned** with {markdown(group.reference)}. The fine mean "
            f"is {gain:.1f} times as sharp as that of the unaligned pictures."
        )
    out = "".join(
        f"\n- {markdown(name)} is left out, score {group.alignments[name].score:.2f}: {group.alignments[name].reason}."
        for name in left
    )
    faults = markdown(listing(gathered.skipped.items(), " cannot be used"))
    note = f"\n- Pictures were reduced to {SIDE} pixels a side; in Python there is no such limit."
    return head + out + faults + (note if gathered.reduced else "")


def summary(group: "Group", gathered: Gathered) -> dict[str, Any]:
    """Everything there is to say of a group, as JSON."""
    return {
        "reference": group.reference,
        "sharpness": {stage: mean.sharpness for stage, mean in means(group).items()},
        "left_out": list(group.left_out),
        "skipped": gathered.skipped,
        "alignments": {
            name: {
                "found": each.found,
                "score": round(each.score, 4),
                "reason": each.reason,
                "view": each.view,
                "inliers": each.inliers,
                "matches": each.matches,
                "homographies": each.matrices.tolist() if each.found else [],
            }
            for name, each in group.alignments.items()
        },
    }


def means(group: "Group") -> dict[str, Any]:
    """The means by stage, none where nothing could be aligned."""
    return dict(group.means) if len(group.left_out) < len(group.alignments) else {}


def shown(group: "Group") -> list[tuple[str, Image.Image, str]]:
    """Title, picture and explanation of the means, and of what was brought onto the reference."""
    parts = [
        (f"{STAGES[stage][0]}: sharpness {1e4 * mean.sharpness:.1f}", mean.image, STAGES[stage][1])
        for stage, mean in means(group).items()
    ]
    return parts + [
        (name, each.image, f"On {group.reference}; score {each.score:.2f}.")
        for name, each in group.alignments.items()
        if each.found
    ]


def packed(group: "Group", gathered: Gathered) -> Path:
    """Write the means, every aligned picture and the JSON into a ZIP file."""
    folder = run_folder()
    archive = folder / "group.zip"
    with zipfile.ZipFile(archive, "w") as target:  # stored: PNG is compressed already
        target.writestr("group.json", json.dumps(summary(group, gathered), indent=1))
        pictures = {f"mean-{stage}.png": mean.image for stage, mean in means(group).items()}
        pictures |= {f"aligned/{name}.png": each.image for name, each in group.alignments.items() if each.found}
        for name, picture in pictures.items():
            picture.save(folder / "one.png", compress_level=3)
            target.write(folder / "one.png", name)
    return archive
