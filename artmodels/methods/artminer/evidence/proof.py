"""Why two places are said to show the same: pictures of one size, cells that correspond, and what there is to say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from artmodels.correspondence.views import IN_WORDS, from_view, turned
from artmodels.detections.boxes import Box
from artmodels.images.decoding import Array, LoadedImage
from artmodels.methods.artminer.evidence.exports import pair_boxes
from artmodels.methods.artminer.evidence.report import agrees, aligned, fitted
from artmodels.methods.artminer.groups.clusters import Cluster, Pair, Propagated
from artmodels.methods.artminer.oneshot import Hit

__all__ = ["Proof", "cluster_rows", "counterpart", "facts", "hit_of_pair", "link_rows", "proof"]

SIDE, WHOLE, LIT = 440, 900, 300  # px: longest side of a detail, of a whole picture, and of one in a row of a cluster
RED, WHITE, CELL = (178, 34, 40), (255, 255, 255), (255, 214, 64)


Row = tuple[str, list[tuple[str, Image.Image]]]
"""Words, and the names and pictures that they are about."""


@dataclass(frozen=True, eq=False)
class Proof:
    """What one has to see to judge a hit, or a pair of pictures.

    `found` is the place that was found, as large as the detail, and warped onto it where the match agrees with the box.
    `wholes` are names and pictures, with the place framed and the cells that correspond in yellow: of the place that
    was found, and before it of the first of a pair.
    """

    detail: Image.Image  # or the first of the pair
    found: Image.Image
    how: str  # how `found` is shown, in words: "aligned with it", "as it is", "mirrored", ...
    wholes: tuple[tuple[str, Image.Image], ...]
    cells: bool  # whether any cell is marked


def proof(query: LoadedImage, box: Box | None, image: LoadedImage, hit: Hit, *, name: str) -> Proof:
    """Make the pictures that show why.

    `query` is the picture with the detail, or the first of a pair, and `name` its name; `box` is the detail in its
    pixels, or None for a pair of whole pictures. `image` is the picture of the hit; of a pair see `hit_of_pair`.
    """
    place = box or (0, 0, query.width, query.height)
    frame = fitted((place[2] - place[0], place[3] - place[1]), SIDE)
    found, warped = counterpart(image, hit, frame, trust=box is None)
    match = hit.match
    cells, shape = (None, (1, 1)) if match is None else (match.target_cells, match.target_shape)
    wholes = [(hit.image, _marked(image, hit.box, cells, shape, hit.view))]
    if box is None and match is not None:
        wholes.insert(0, (name, _marked(query, None, match.reference_cells, match.reference_shape)))
    detail = _crop(query, place).resize(frame, Image.Resampling.LANCZOS)
    how = "aligned with it" if warped else IN_WORDS[hit.view]
    return Proof(detail, found, how, tuple(wholes), cells is not None and len(cells) > 0)


def counterpart(
    image: LoadedImage, hit: Hit, frame: tuple[int, int], *, trust: bool = False
) -> tuple[Image.Image, bool]:
    """The place of a hit, to be seen beside the detail, and whether it is warped into the detail's frame.

    It is where the match agrees with the box, or with `trust` whatever the box is, as for two whole pictures. The
    picture has the width and height of the frame.
    """
    if (trust or agrees(image, hit)) and (warped := aligned(image, hit, frame)) is not None:
        return warped, True
    return _crop(image, hit.box, hit.view).resize(frame, Image.Resampling.LANCZOS), False


def hit_of_pair(pair: Pair, sizes: Mapping[str, tuple[int, int]]) -> Hit:
    """The second picture of a pair, which has at least one cell, as a hit for the whole of the first."""
    _, box = pair_boxes(pair, sizes)
    return Hit(pair.second, box, pair.match.score, pair.view, pair.match)


def facts(hit: Hit, *, pair: bool = False) -> dict[str, str]:
    """What there is to say of a hit, or of a pair of pictures, in words and numbers."""
    match = hit.match
    closely = "quickly and closely" if hit.closer else "quickly only: a closer look may raise the score"
    found = {} if pair else {"Score": f"{hit.score:.3f}", "Looked at": closely}
    if match is None:
        found["Correspondences"] = "not looked into: this picture has a better place"
    elif len(match.reference_cells):
        found["Discovery score"] = f"{match.score:.4f}"
        found["Correspondences"] = f"{len(match.reference_cells)} cells"
    else:
        found["Correspondences"] = f"none: {match.reason}"
    box = ", ".join(f"{value:.0f}" for value in hit.box)
    return found | {"Box": f"{box} px", "Compared": IN_WORDS[hit.view]}


def cluster_rows(groups: Sequence[Cluster], picture: Callable[[str], Image.Image]) -> list[Row]:
    """Each cluster as a heading, and its pictures, small, dark and grey where nothing is shared.

    `picture` gives the picture of a name, of any size.
    """
    rows = []
    for number, group in enumerate(groups, 1):
        masks = group.masks()
        heading = f"{number}. {len(group.images)} pictures, mean score {group.score:.4f}"
        rows.append((heading, [(name, _lit(picture(name), masks[name])) for name in group.images]))
    return rows


def link_rows(links: Sequence[Propagated], picture: Callable[[str], Image.Image]) -> list[Row]:
    """Each propagated link as a sentence, and what it is about of both pictures."""
    rows = []
    for link in links:
        parts = []
        for name, box in ((link.first, link.first_box), (link.second, link.second_box)):
            whole = picture(name)
            left, top, right, bottom = (value * side for value, side in zip(box, whole.size * 2, strict=True))
            large = (right - left) * (bottom - top) >= 4
            part = whole.crop((round(left), round(top), round(right), round(bottom))) if large else whole
            parts.append((name, part.resize(fitted(part.size, LIT), Image.Resampling.LANCZOS)))
        rows.append((f"via {link.via}, score {link.score:.4f}: a proposal, to be judged by looking", parts))
    return rows


def _lit(picture: Image.Image, mask: Array) -> Image.Image:
    """A small picture, dark and grey where a mask [R, C] is low."""
    small = picture.resize(fitted(picture.size, LIT), Image.Resampling.LANCZOS)
    light = Image.fromarray((np.clip(mask / max(float(mask.max()), 1e-6), 0, 1) * 255).astype(np.uint8))
    dark = Image.blend(small.convert("L").convert("RGB"), Image.new("RGB", small.size), 0.55)
    return Image.composite(small, dark, light.resize(small.size, Image.Resampling.BILINEAR))


def _crop(image: LoadedImage, box: Sequence[float], view: str = "") -> Image.Image:
    """What is inside a box, turned as a view shows it."""
    left, top, right, bottom = (round(value) for value in box)
    edges = max(left, 0), max(top, 0), min(max(right, left + 1), image.width), min(max(bottom, top + 1), image.height)
    return turned(LoadedImage(np.asarray(image.pil().crop(edges))), view).pil()


def _marked(
    image: LoadedImage, box: Box | None, cells: Tensor | None, shape: tuple[int, int], view: str = ""
) -> Image.Image:
    """A whole picture with the cells [n, 2] of a view of it that correspond, and a box, drawn on it."""
    longest = max(image.width, image.height)
    size = fitted((image.width, image.height), min(WHOLE, longest))
    picture = image.pil().resize(size, Image.Resampling.LANCZOS)
    if cells is not None and len(cells):
        low = cells.double().numpy()[:, ::-1] / (shape[1], shape[0])
        ends = np.stack([low, low + (1 / shape[1], 1 / shape[0])], 1)  # [n, 2, 2] relative, of the view
        ends = np.concatenate([ends, np.ones((*ends.shape[:2], 1))], 2) @ from_view(view).double().numpy().T
        glass = Image.new("L", size)
        draw = ImageDraw.Draw(glass)
        for corners in ends[..., :2] * size:
            draw.rectangle((*corners.min(0), *corners.max(0)), fill=105)
        picture.paste(CELL, mask=glass)
    if box is not None:
        left, top, right, bottom = (value * min(1, WHOLE / longest) for value in box)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left, top, right, bottom), outline=WHITE, width=5)
        draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=RED, width=3)
    return picture
