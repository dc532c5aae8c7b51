"""Bringing pictures onto each other, and writing what comes of it: for the page, and to take home."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from artmodels.errors import ConfigError
from artmodels.hub import catalogue
from artmodels.ui.controls import MODELS, run_folder

if TYPE_CHECKING:
    from artmodels.images.loading import LoadedImage
    from artmodels.methods.ransac_flow import Alignment

MODEL = catalogue.default("ransac_flow").name
SHOWN = 1200  # px: longest side of what the page gets; what is taken home has the target's own size
LATTICE = 16  # correspondences along a side in the JSON file
TRUSTED = 0.5  # matchability of those
BLANK = 0.015  # standard deviation of a picture in [0, 1] below which it shows nothing
APART = 8  # times one picture is as large as the other, from which its lack of detail may be the reason
# A film is offered where OpenCV is there to write it, as the extra `demo` installs it.
KINDS = tuple(kind for kind in ("png", "npz", "gif", "mp4", "json") if kind != "mp4" or find_spec("cv2"))
WORDS = {"": "", "mirror": "mirrored", "180": "turned by 180°", "90": "turned by 90°", "270": "turned by 270°"}

Point = tuple[float, float]


@dataclass(eq=False)
class Work:
    """What a visitor looks at, small enough to be kept for an hour.

    Attributes:
        folder: Of the files.
        sizes: (width, height) of source and target.
        small: The alignment of the pictures as the page shows them: where points are looked up.
        summary: What there is to say of the alignment, see `summary`.
        points: That were clicked, in pixels of the target.
    """

    folder: Path
    sizes: tuple[tuple[int, int], tuple[int, int]]
    small: "Alignment"
    summary: dict[str, Any]
    points: list[Point] = field(default_factory=list)

    def exists(self) -> bool:
        """Whether the files are still there."""
        return self.folder.is_dir()


def align(source: "LoadedImage", target: "LoadedImage", *, fine: bool = True) -> "Alignment":
    """Align two pictures with the networks that all pages share."""
    return MODELS(MODEL)(source, target, fine=fine)


def refusal(result: "Alignment") -> str:
    """Say that nothing was found, how far it was from being found, and what to do."""
    lines = [f"**No alignment was found.** Score {result.score:.2f}: {result.reason}."]
    names = ("The source", "The target")
    blank = [name for name, each in zip(names, result.pictures, strict=True) if float(each.tensor().std()) < BLANK]
    sides = [max(size) for size in result.sizes]
    if blank:
        which = "Both pictures are" if len(blank) == 2 else f"{blank[0]} is"
        lines.append(f"{which} blank, or nearly so: upload a picture that shows something.")
    elif max(sides) >= APART * min(sides):
        small = names[sides.index(min(sides))]
        lines.append(
            f"{small} is {max(sides) / min(sides):.0f} times smaller than the other picture, and may lack the detail "
            "to be recognised: upload a larger scan of it."
        )
    else:
        lines.append(
            "Give two pictures of the same thing, of which both show a good part; crop frames, margins and colour "
            "charts. Mirror images and quarter turns need no preparation: the page tries them."
        )
    return "  \n".join(lines)


def verdict(result: "Alignment") -> str:
    """Say in a line how well the pictures fit."""
    covered = float((result.matchability >= TRUSTED).float().mean())
    turned = f" The source is **{WORDS[result.view]}**." if result.view else ""
    planes = "one homography" if len(result.matrices) == 1 else f"{len(result.matrices)} homographies"
    return (
        f"**Aligned** after {result.seconds:.1f} s.{turned} Score {result.score:.2f}: {result.inliers} of "
        f"{result.matches} matches agree; {planes}; {covered:.0%} of the target can be matched."
    )


# --- what is kept and written


def display(picture: Image.Image) -> Image.Image:
    """A copy as large as the page shows it."""
    small = picture.convert("RGB")
    small.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    return small


def keep(result: "Alignment", folder: Path) -> Work:
    """Keep what a visitor goes on to ask about; the pictures themselves only as files.

    Raises:
        ConfigError: There is no alignment.
    """
    _ = result.sound
    small = reduced(result)
    return Work(folder, result.sizes, replace(small, tensor=small.tensor[..., :1, :1].clone()), summary(result))


def reduced(result: "Alignment") -> "Alignment":
    """The alignment of the pictures as large as the page shows them."""
    from artmodels import images

    source, target = (images.load(display(each.pil())) for each in result.pictures)
    return replace(result, pictures=(source, target), tensor=images.load(display(result.image)).tensor())


def pictures(result: "Alignment", folder: Path) -> dict[str, Path]:
    """Write what the page shows, as JPEGs: source, target, and the source on the target, finely and coarsely."""
    shown = {
        "source": result.pictures[0].pil(),
        "target": result.pictures[1].pil(),
        "fine": result.image,
        "coarse": result.coarse,
    }
    result.save(folder / "aligned.png")
    shown["coarse"].save(folder / "aligned-coarse.png", compress_level=3)
    made = {}
    for name, picture in shown.items():
        made[name] = folder / f"{name}.jpg"
        display(picture).save(made[name], quality=88)
    return made


def maps(result: "Alignment") -> list[tuple[str, Image.Image, str]]:
    """Title, picture and explanation of everything that is known of each place."""
    from artmodels import images
    from artmodels.methods.ransac_flow import changes, transferred
    from artmodels.methods.ransac_flow.results import evidence

    height = min(result.sizes[1][1], 640)
    differs = changes(result)
    count = len(differs.boxes)
    regions = "1 region differs" if count == 1 else f"{count} regions differ"
    return [
        (
            "What differs",
            display(differs.image),
            f"{regions}: something is lost, added or drawn otherwise, or cannot be matched. Other colours and "
            "another exposure do not count.",
        ),
        (
            "Its colours",
            images.to_pil(transferred(reduced(result))),
            "The target with the colours of the source, where it can be matched: for an old photograph.",
        ),
        (
            "Matchability",
            display(evidence.heat(result)),
            "How sure each place is: bright where the source shows it, bare where it does not.",
        ),
        (
            "There and back",
            display(evidence.heat(result, "error")),
            "How far a place ends from where it began, going to the source and back: bright from 8 pixels.",
        ),
        (
            "Flow",
            evidence.flow_picture(result, height=height),
            "Where each pixel comes from: the hue is the direction, the strength the distance, as on the wheel.",
        ),
        (
            "Fine flow",
            evidence.flow_picture(result, fine=True, height=height),
            "What the fine stage adds to the homographies, as on the wheel.",
        ),
        ("The wheel", evidence.flow_wheel(200), "The colour at a place is that of a flow from the centre to it."),
    ]


def files(result: "Alignment", work: Work) -> Iterator[tuple[str, Path]]:
    """Write what is taken home, and give kind and file one after the other."""
    for kind in KINDS:
        path = work.folder / f"{'alignment' if kind in ('npz', 'json') else 'aligned'}.{kind}"
        if kind == "json":
            write_summary(work, [])
        elif kind != "png":  # which is there already
            result.save(path)
        yield kind, path


def summary(result: "Alignment") -> dict[str, Any]:
    """Everything there is to say of a pair, as JSON: whether it was found, transforms, correspondences, settings."""
    made: dict[str, Any] = {
        "found": result.found,
        "score": round(result.score, 4),
        "reason": result.reason,
        "view": result.view,
        "inliers": result.inliers,
        "matches": result.matches,
        "source_size": list(result.sizes[0]),
        "target_size": list(result.sizes[1]),
        "homographies": [],
        "correspondences": [],
        "notes": list(result.notes),
        "settings": result.settings,
    }
    if result.found:
        made["homographies"] = result.matrices.tolist()
        made["correspondences"] = _lattice(result)
    return made


def _lattice(result: "Alignment") -> list[dict[str, Any]]:
    """Places evenly over the target that can be matched."""
    steps = (np.arange(LATTICE) + 0.5) / LATTICE
    across, down = np.meshgrid(steps, steps)
    points = torch.from_numpy(np.stack([across, down], -1).reshape(-1, 2) * result.sizes[1])
    return [each for each in _looked_up(result, points) if each["inside"] and each["matchability"] >= TRUSTED]


def _looked_up(result: "Alignment", points: torch.Tensor) -> list[dict[str, Any]]:
    found = result.places(points)
    rows = zip(points.tolist(), found.source.tolist(), found.matchability.tolist(), found.inside.tolist(), strict=True)
    return [
        {
            "target": [round(value, 2) for value in target],
            "source": [round(value, 2) for value in source],
            "matchability": round(trust, 3),
            "inside": inside,
        }
        for target, source, trust, inside in rows
    ]


def looked_up(work: Work, points: Sequence[Point]) -> list[dict[str, Any]]:
    """Find points of the target in the source.

    Args:
        work: What is looked at.
        points: x and y in pixels of the target.

    Returns:
        For each `target` and `source` (x and y in pixels), `matchability`, and whether it is `inside` the source.

    Raises:
        ConfigError: A point is outside the target.
    """
    size, scales = torch.tensor(work.sizes[1]), []
    given = torch.tensor(list(points), dtype=torch.float64).reshape(-1, 2)
    if bool(((given < 0) | (given > size)).any()):
        bounds = f"x from 0 to {size[0]} and y from 0 to {size[1]}"
        raise ConfigError(f"A point lies outside the target: give {bounds}, in pixels of the target.")
    for full, shown in zip(work.sizes, work.small.sizes, strict=True):
        scales.append([a / b for a, b in zip(full, shown, strict=True)])
    found = _looked_up(work.small, given / torch.tensor(scales[1]))
    for each, target in zip(found, given.tolist(), strict=True):
        each["target"] = [round(value, 2) for value in target]
        each["source"] = [round(value * scale, 2) for value, scale in zip(each["source"], scales[0], strict=True)]
    return found


def write_summary(work: Work, points: list[dict[str, Any]]) -> Path:
    """Write the JSON file, with the points that somebody asked for."""
    path = work.folder / "alignment.json"
    path.write_text(json.dumps(work.summary | {"points": points}, indent=1), encoding="utf-8")
    return path


def pair(
    source: "LoadedImage", target: "LoadedImage", *, fine: bool = True, points: Sequence[Point] = ()
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Align two pictures for a program: the JSON, and the files by kind, none where there is no alignment."""
    result = align(source, target, fine=fine)
    if not result.found:
        return summary(result) | {"points": []}, {}
    folder = run_folder()
    work = keep(result, folder)
    found = looked_up(work, points)
    result.save(folder / "aligned.png")
    written = dict(files(result, work))
    write_summary(work, found)
    return work.summary | {"points": found}, written
