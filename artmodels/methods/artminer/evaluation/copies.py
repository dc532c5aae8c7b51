"""A procedural benchmark of copied details: real paintings, and copies of which every pixel's origin is known.

Details cut from paintings are pasted into other paintings in the gradient domain (Pérez, Gangnet and Blake 2003), after
they were scaled, turned, mirrored, bent and recoloured; some of the pictures are then drawn as engravings. The
annotation has the layout of the Brueghel set, so that `brueghel.read_queries` reads it.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from annotated_types import Interval
from PIL import Image
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter

from artmodels import images as image_files
from artmodels.correspondence.redrawing import blended, engraved, matched, recoloured
from artmodels.errors import ConfigError, DatasetError
from artmodels.settings import Settings, Share

__all__ = ["DIFFICULTIES", "Difficulty", "Style", "make_benchmark"]

Floats = npt.NDArray[np.float64]
Random = np.random.Generator
Style = Callable[[Image.Image], Image.Image]

SHARE = (0.2, 0.32)  # of a picture's shorter side: the sides of a detail
PROPOSALS = 60  # places among which the richest becomes the detail
FRAME = 0.06  # share of a picture that may be its frame
CONTROL = 4  # points a side that bend a detail
TUNING = 0.25  # share of the categories that are in tuning.json


Factor = Annotated[float, Interval(gt=0, le=4)]


@dataclass(frozen=True, kw_only=True)
class Difficulty(Settings):
    """How far a copy is from its original."""

    scale: Annotated[
        tuple[Factor, Factor],
        "Least and largest factor of size. A copy that would not fit its picture is made smaller.",
    ] = (0.7, 1.4)
    rotation: Annotated[float, Interval(ge=0, le=180), "Most degrees that it is turned by, either way."] = 4.0
    mirrored: Annotated[Share, "Probability that it is mirrored."] = 0.25
    warp: Annotated[
        float,
        Interval(ge=0, le=0.1),
        "Deviation of the points that bend it by thin-plate splines, as a share of its size.",
    ] = 0.02
    colour: Annotated[Share, "How much colours and tones change: 0 not at all, 1 strongly."] = 0.5
    blend: Annotated[
        Share, "How far the seam is removed in the gradient domain: 0 leaves a pasted piece, 1 no seam at all."
    ] = 0.7
    engraved: Annotated[Share, "Probability that a picture is drawn as an engraving."] = 0.2
    restyled: Annotated[Share, "Probability that a picture goes through the `style` that the caller gives."] = 0.3

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.scale[0] > self.scale[1]:
            raise ConfigError(f"scale={self.scale} must rise: the least factor comes first")


EASY = Difficulty(scale=(0.85, 1.2), rotation=0, mirrored=0, warp=0, colour=0.15, blend=0.5, engraved=0, restyled=0)
HARD = Difficulty(
    scale=(0.5, 2.0), rotation=8, mirrored=0.5, warp=0.035, colour=0.9, blend=0.85, engraved=0.4, restyled=0.5
)
DIFFICULTIES: Mapping[str, Difficulty] = MappingProxyType({"easy": EASY, "medium": Difficulty(), "hard": HARD})


class _Detail(NamedTuple):
    """A piece of a picture."""

    picture: Floats  # [H, W, 3]
    centre: Floats  # px, across and down
    half: Floats  # half sides in px
    richness: float


def make_benchmark(
    images: Sequence[Path],
    folder: Path,
    *,
    categories: int = 8,
    copies: int = 6,
    distractors: int | None = None,
    difficulty: str | Difficulty = "medium",
    style: Style | None = None,
    size: tuple[int, int] = (480, 720),
    seed: int = 0,
) -> Path:
    """Write pictures with copied details, and their annotation, whose path is returned.

    The folder receives `images/*.png`; `queries.json`, of the Brueghel layout; `tuning.json` and `test.json`, the same
    in two parts without a common category; and `instances.json`, which says of each instance where it comes from: its
    `transform` is 3 x 3 and maps pixels (x, y, 1) of the original's picture to pixels of the copy's, but for the
    bending where `warp` is not 0. Each picture is used once. The first instance of each category is the untouched
    original. Distractors are engraved and restyled as often as copies are.

    Args:
        images: Paintings, categories * copies of them and the distractors at least.
        folder: Where to write; it must be empty or not exist.
        categories: How many details are copied.
        copies: Instances of each, with the original; at least 2.
        distractors: Pictures without any; None takes all images that remain.
        difficulty: A name of `DIFFICULTIES`, or knobs.
        style: Redraws a picture at its size, for example a network; without one nothing is restyled.
        size: Least and largest longer side of the pictures in pixels.
        seed: The same seed, images and settings give the same bytes.

    Raises:
        ConfigError: A setting is out of range, or `style` changes the size.
        DatasetError: There are too few images, one is listed twice, or the folder holds something.
        ImageError: An image cannot be read.
    """
    if isinstance(difficulty, str) and difficulty not in DIFFICULTIES:
        raise ConfigError(f"difficulty={difficulty!r} is none of {', '.join(DIFFICULTIES)}; or give a Difficulty")
    knobs = DIFFICULTIES[difficulty] if isinstance(difficulty, str) else difficulty
    if categories < 1 or copies < 2 or not 64 <= size[0] <= size[1]:
        raise ConfigError(f"categories={categories} must be 1 or more, copies={copies} 2 or more, size={size} from 64")
    needed = categories * copies + (distractors or 0)
    if len(set(images)) < len(images):
        raise DatasetError("an image is listed twice: its two pictures would match as a whole; give each once")
    if len(images) < needed:
        raise DatasetError(
            f"{len(images)} images are too few: {categories} categories of {copies} and {distractors or 0} distractors "
            f"need {needed}; give more, or ask for less"
        )
    if folder.exists() and any(folder.iterdir()):
        raise DatasetError(f"{folder} is not empty: name a new folder, so that no other picture is mixed in")
    total = len(images) if distractors is None else needed
    random = np.random.default_rng(seed)
    files = [images[index] for index in random.permutation(len(images))[:total]]
    # Neither the order of the names nor their neighbourhood tells who belongs together.
    names = [f"{number:04d}.png" for number in random.permutation(total)]
    draws = random.spawn(total)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    instances = list[dict[str, Any]]()
    for start in range(0, categories * copies, copies):
        group = slice(start, start + copies)
        sides = [int(draw.integers(size[0], size[1] + 1)) for draw in draws[group]]
        pictures = [_sized(file, side) for file, side in zip(files[group], sides, strict=True)]
        details = [_detail(picture, draw) for picture, draw in zip(pictures, draws[group], strict=True)]
        first = int(np.argmax([detail.richness for detail in details]))
        for number, (picture, name, draw) in enumerate(zip(pictures, names[group], draws[group], strict=True)):
            if number == first:
                made, medium, found = picture, "painting", _as_it_is(details[first])
            else:
                made, found = _copied(details[first], picture, knobs, draw)
                made, medium = _in_medium(made, knobs, style, draw)
            about = {"image": name, "category": f"detail-{start // copies}", "original": names[start + first]}
            instances.append(about | {"medium": medium} | found)
            image_files.save_png(_pil(made), folder / "images" / name)
        # In the file the original comes first.
        instances.insert(start, instances.pop(start + first))
    for file, name, draw in list(zip(files, names, draws, strict=True))[categories * copies :]:
        made, _ = _in_medium(_sized(file, int(draw.integers(size[0], size[1] + 1))), knobs, style, draw)
        image_files.save_png(_pil(made), folder / "images" / name)
    _write(folder, instances, {"seed": seed, "difficulty": repr(knobs), "distractors": total - len(instances)})
    return folder / "queries.json"


def _write(folder: Path, instances: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    layout = dict[str, list[dict[str, Any]]]()
    for one in instances:
        others = [other for other in instances if other["category"] == one["category"] and other is not one]
        entry = {"query": [one["image"], one["box"]], "gt": [[other["image"], other["box"]] for other in others]}
        layout.setdefault(str(one["category"]), []).append(entry)
    names = list(layout)
    tuned = names[: math.ceil(TUNING * len(names))] if len(names) > 1 else []
    parts = {
        "queries": layout,
        "tuning": {name: layout[name] for name in tuned},
        "test": {name: layout[name] for name in names if name not in tuned},
        "instances": {**about, "instances": list(instances)},
    }
    for part, content in parts.items():
        (folder / f"{part}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _sized(file: Path, longest: int) -> Floats:
    picture = image_files.load(file).pil()
    factor = longest / max(picture.size)
    width, height = (max(round(side * factor), 32) for side in picture.size)
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS), np.float64) / 255


def _pil(picture: Floats) -> Image.Image:
    return Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8))


# --- the detail and its copy


def _detail(picture: Floats, random: Random) -> _Detail:
    """The richest of some random places: it has corners everywhere, not only edges, and not only at one side."""
    size = np.array(picture.shape[1::-1])  # width and height
    shorter = min(picture.shape[:2])
    half_sides = random.uniform(*SHARE, (PROPOSALS, 2)) * shorter / 2
    room = size / 2 - FRAME * shorter - half_sides
    centres = size / 2 + random.uniform(-1, 1, (PROPOSALS, 2)) * room
    # The lesser eigenvalue of the structure tensor of a ninth of a detail, at nine places of it; the poorest decide.
    down, across = np.gradient(gaussian_filter(picture.mean(2), 1.0))
    ninth = max(round(shorter * sum(SHARE) / 6), 1)
    xx, yy, xy = (uniform_filter(product, ninth) for product in (across**2, down**2, across * down))
    corners = np.sqrt(((xx + yy) / 2 - np.hypot((xx - yy) / 2, xy)).clip(min=0))
    steps = np.array([(x, y) for y in (-2, 0, 2) for x in (-2, 0, 2)]) / 3
    at = centres[:, None] + steps * half_sides[:, None]  # [PROPOSALS, 9, 2]
    values = np.sort(corners[at[..., 1].astype(int), at[..., 0].astype(int)], axis=1)[:, :4].mean(1)
    best = int(values.argmax())
    return _Detail(picture, centres[best], half_sides[best], float(values[best]))


def _as_it_is(detail: _Detail) -> dict[str, Any]:
    box = _box(_weights(_inverse(np.eye(3), detail.picture), detail))
    found = {"box": box, "scale": 1.0, "mirrored": False, "rotation": 0.0, "warp": 0.0}
    return found | {"transform": np.eye(3).tolist()}


def _copied(detail: _Detail, picture: Floats, knobs: Difficulty, random: Random) -> tuple[Floats, dict[str, Any]]:
    """Paste a changed copy of a detail somewhere into a picture."""
    size = np.array(picture.shape[1::-1])  # width and height
    scale = float(np.exp(random.uniform(*np.log(knobs.scale))))
    angle = float(random.uniform(-knobs.rotation, knobs.rotation))
    mirrored = bool(random.random() < knobs.mirrored)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    reach = np.abs(turn) @ detail.half
    # It must leave a margin, from which the blending takes its colours.
    scale = min(scale, float((0.42 * size / reach).min()))
    reach = scale * reach * 1.08 + 2
    centre = size / 2 + random.uniform(-1, 1, 2) * (size / 2 - reach)
    transform = np.eye(3)
    transform[:2, :2] = scale * turn
    transform[:2, 2] = centre - scale * turn @ detail.centre
    points = _inverse(transform, picture)
    if knobs.warp:
        points = _bent(points, detail, knobs.warp, random)
    weights = _weights(points, detail)
    source = detail.picture
    if scale < 1:
        source = gaussian_filter(source, (0.5 / scale - 0.5, 0.5 / scale - 0.5, 0))
    at = [points[..., 1] - 0.5, points[..., 0] - 0.5]
    channels = [map_coordinates(source[..., channel], at, order=3, mode="nearest") for channel in range(3)]
    piece = np.stack(channels, axis=-1).clip(0, 1)
    piece = recoloured(matched(piece, picture, weights, knobs.colour), knobs.colour, random)
    made = blended(piece, picture, weights, seam=1 - knobs.blend)
    found = {"box": _box(weights), "scale": scale, "mirrored": mirrored, "rotation": angle, "warp": knobs.warp}
    return made, found | {"transform": transform.tolist()}


def _inverse(transform: Floats, picture: Floats) -> Floats:
    """Where each pixel of a picture comes from: [H, W, 2] across and down; the first pixel's centre is (0.5, 0.5)."""
    down, across = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    back = np.linalg.inv(transform)
    found: Floats = np.stack([across, down], -1) @ back[:2, :2].T + back[:2, 2]
    return found


def _bent(points: Floats, detail: _Detail, strength: float, random: Random) -> Floats:
    """Move points by a thin-plate spline that has no affine part."""
    knots = np.stack(np.meshgrid(*[np.linspace(-1, 1, CONTROL)] * 2), -1).reshape(-1, 2)
    moves = random.normal(0, strength * 2 * detail.half.mean(), knots.shape)
    affine = np.column_stack([np.ones(len(knots)), knots])
    moves -= affine @ np.linalg.lstsq(affine, moves, rcond=None)[0]
    spline = RBFInterpolator(knots, moves, kernel="thin_plate_spline")
    local = (points - detail.centre) / detail.half
    near = (np.abs(local) < 1.5).all(-1)  # far away a spline runs off
    moved = points.copy()
    moved[near] += spline(local[near])
    return moved


def _weights(points: Floats, detail: _Detail) -> Floats:
    """A mask [H, W] in [0, 1]: a soft superellipse around the detail, nearly its rectangle."""
    radius = (((points - detail.centre) / detail.half) ** 4).sum(-1) ** 0.25
    made: Floats = ((1 - radius) / (4 / detail.half.min()) + 0.5).clip(0, 1)
    return made


def _box(weights: Floats) -> list[float]:
    """The bounds of what is more the detail than the ground, left, top, right, bottom in pixels."""
    inside = weights > 0.5
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return [float(side) for side in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


def _in_medium(picture: Floats, knobs: Difficulty, style: Style | None, random: Random) -> tuple[Floats, str]:
    """Another hand's picture: recoloured, perhaps restyled or engraved."""
    drawn, restyled = random.random(2)
    picture = recoloured(picture, 0.5 * knobs.colour, random)
    if style is not None and restyled < knobs.restyled:
        made = style(_pil(picture))
        if made.size != picture.shape[1::-1]:
            raise ConfigError(f"the style made {made.size} of {picture.shape[1::-1]} px: boxes would be wrong; keep it")
        return np.asarray(made.convert("RGB"), np.float64) / 255, "restyled"
    if drawn < knobs.engraved:
        return engraved(picture, random), "engraving"
    return picture, "painting"
