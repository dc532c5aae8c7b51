"""One-shot detection: the cells of a detail, slid over every scale of every picture.

Shen, Efros and Aubry 2019 (arXiv:1903.02678), section 5.1. The detail is brought to 8 cells on its longer side and
described with some of its surroundings, which are cut off again: what a cell looks like depends on its neighbours.

The cosine of stacked cells compares each cell with exactly one. `agreement` also asks whether the cells find each other
among those around the place: the discovery score of section 5, of the detail and the place alone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence.cells import EPSILON, Describer, grid, side
from artmodels.detections.boxes import SIDES, Box
from artmodels.errors import ConfigError
from artmodels.images.decoding import LoadedImage
from artmodels.images.results import Tabular
from artmodels.methods.artminer.discovery import Match

__all__ = [
    "CELLS",
    "Hit",
    "Ranked",
    "Searched",
    "agreement",
    "check_box",
    "detail",
    "found_in",
    "look_closer",
    "window_cosine",
]

Ranked = Literal["cosine", "verified"]

CELLS, MARGIN = 8, 5
PER_SCALE, PER_IMAGE = 8, 40  # best places of a scale, and of a picture
# Of a closer look: how many times as fine its cells are, between two scales or beyond; of a place's sides, around it.
FINER, AROUND = (0.87, 1.15, 1.6), 0.25
RING, TOLERANCE = 1, 1.5  # cells: around a place, and that a match may be off; for benchmarks/artminer.py --seed 0


@dataclass(frozen=True)
class Hit:
    """A place that looks like the detail.

    Attributes:
        image: Name of the picture.
        box: Left, top, right, bottom in its pixels.
        score: What ranks it, 1 is the detail itself: the cosine in [-1, 1], or the mean of it and the agreement.
        view: How the picture was turned before it was compared: "" for not at all, see `views`.
        match: Which cells of the turned picture correspond to which of the detail, where that was looked into.
        closer: Whether it was looked at again in cells of other sizes, see `look_closer`. Otherwise its score is that
            of the collection's scales alone: of a detail in a size between them, or below, it is too low.
    """

    image: str
    box: Box
    score: float
    view: str = ""
    match: Match | None = None
    closer: bool = False


@dataclass(frozen=True, eq=False)
class Searched(Tabular):
    """What a search found.

    Attributes:
        ranked: All places, best first, those that say nothing too.
        query: Name of the picture that the detail is from, "" if it is not in the collection.
        box: Of the detail, in its pixels.
        cells: Rows and columns that the detail was brought to.
        model: Fingerprint of what described it.
        threshold: Score from which a place is shown to people: the `threshold` of the settings, or `chance`, whichever
            is higher.
        chance: Score that pictures of this collection that do not show the detail hardly reach, see `chance_level`: a
            detail that is like much else, a sky or a wall, has a high one. Minus infinity where it was not measured.
    """

    ranked: tuple[Hit, ...]
    query: str
    box: Box
    cells: tuple[int, int]
    model: str
    threshold: float = -1.0
    chance: float = -math.inf

    @property
    def hits(self) -> tuple[Hit, ...]:
        """Places with a score of at least the threshold, best first."""
        return tuple(hit for hit in self.ranked if hit.score >= self.threshold)

    @property
    def below(self) -> tuple[Hit, ...]:
        """Places below the threshold, best first: more likely chance than the detail."""
        return tuple(hit for hit in self.ranked if hit.score < self.threshold)

    def _table(self) -> tuple[str, Sequence[str], Iterable[Sequence[object]]]:
        rows = ([hit.image, hit.score, *map(round, hit.box), hit.view] for hit in self.hits)
        title = f"{len(self.hits)} places with a score of {self.threshold:.3f} or more, {len(self.below)} below"
        return title, ("picture", "score", *SIDES, "turned"), rows

    @property
    def raised(self) -> bool:
        """Whether it is `chance` that makes the threshold."""
        return self.threshold == self.chance

    def from_score(self, least: float) -> "Searched":
        """The same with another threshold, unless `chance` is higher."""
        return replace(self, threshold=max(least, self.chance))


def check_box(box: Sequence[float], width: int, height: int) -> Box:
    """The part of a box (left, top, right, bottom in pixels) that is inside a picture.

    Raises:
        ConfigError: It is no box, lies outside, or is less than 2 px wide or high.
    """
    if len(box) != 4:
        raise ConfigError(f"a box is left, top, right, bottom: {tuple(box)} has {len(box)} numbers")
    left, top, right, bottom = (float(value) for value in box)
    # Comparisons that NaN fails too.
    if not (right > left and bottom > top):
        raise ConfigError(f"the box {tuple(box)} has no area: give left, top, right, bottom with left < right")
    inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        raise ConfigError(f"the box {tuple(box)} lies outside the picture of {width} x {height} px: draw it inside")
    if inside[2] - inside[0] < 2 or inside[3] - inside[1] < 2:
        raise ConfigError(f"the box {tuple(box)} is less than 2 px wide or high: draw a larger one")
    return inside


def detail(describer: Describer, image: LoadedImage, box: Box, *, cells: int = CELLS, margin: int = MARGIN) -> Tensor:
    """Features [D, a, b] of a box, whose longer side has so many cells and whose shape is kept up to cells.

    So many cells of margin, fewer where the picture ends, are described and cut off.
    """
    left, top, right, bottom = box
    rows, columns = grid(bottom - top, right - left, cells)
    tall, wide = (bottom - top) / rows, (right - left) / columns  # of a cell, in pixels
    before = min(margin, int(left / wide)), min(margin, int(top / tall))
    after = min(margin, int((image.width - right) / wide)), min(margin, int((image.height - bottom) / tall))
    around = (left - before[0] * wide, top - before[1] * tall, right + after[0] * wide, bottom + after[1] * tall)
    shape = rows + before[1] + after[1], columns + before[0] + after[0]
    size = side(shape[1], describer.stride), side(shape[0], describer.stride)
    # Pillow cuts at fractions of pixels, which for a small box are not small.
    piece = LoadedImage(np.array(image.pil().resize(size, Image.Resampling.BICUBIC, box=around)))
    found = describer.of_pixels(piece.tensor().to(describer.device))[0]
    return found[:, before[1] : before[1] + rows, before[0] : before[0] + columns]


def window_cosine(target: Tensor, kernels: Tensor) -> Tensor:
    """Cosine of details [Q, D, a, b] with every window of their size in a map [D, R, C], where a <= R and b <= C.

    Gives [Q, R - a + 1, C - b + 1] in [-1, 1]; 0 where a window is all zeros.
    """
    products = F.conv2d(target[None], kernels)[0] / kernels.flatten(1).norm(dim=1).clamp_min(EPSILON)[:, None, None]
    # The sum of squares over channels first: one plane is convolved, not D.
    energy = F.conv2d(target.square().sum(0)[None, None], target.new_ones(1, 1, *kernels.shape[2:]))[0, 0]
    cosines: Tensor = products / energy.clamp_min(0).sqrt().clamp_min(EPSILON)
    return cosines


def agreement(target: Tensor, kernels: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """The discovery score of details and places that were found for them, each place by itself: [Q, K] in [0, 1].

    As in `discovery`, cells that are each other's nearest neighbours match, and those near where the transform puts
    them count s exp(-e^2 / t^2), over the number of the detail's cells. But here the place is the transform, and only
    its own cells and those around it take part: a cell of a small detail need not be the nearest in a whole picture.

    The map is [D, R, C] and details are [Q, D, a, b], of cells of length 1; places begin at rows and columns [Q, K]. A
    score of 1 is the detail itself.
    """
    a, b = kernels.shape[2:]
    rows = top[..., None] + torch.arange(a + 2 * RING, device=top.device)  # [Q, K, A]
    columns = left[..., None] + torch.arange(b + 2 * RING, device=top.device)  # [Q, K, B]
    around = F.pad(target, (RING,) * 4)[:, rows[..., :, None], columns[..., None, :]]  # [D, Q, K, A, B]
    similarity = torch.einsum("qdn,dqkm->qknm", kernels.flatten(2), around.flatten(3))
    value, nearest = similarity.max(3)  # [Q, K, n]
    own = torch.arange(a * b, device=top.device)
    mutual = similarity.argmax(2).gather(2, nearest) == own
    down = nearest // (b + 2 * RING) - RING - own // b
    across = nearest % (b + 2 * RING) - RING - own % b
    square = (down.square() + across.square()) / TOLERANCE**2
    counted = value.clamp(min=0) * (-square).exp() * (mutual & (square < 1))
    return counted.sum(2) / (a * b)


def found_in(
    maps: Sequence[Tensor], kernels: Tensor, *, width: float, height: float, verified: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """The best places of one picture, given as maps [D, R_k, C_k] at all scales, for details [Q, D, a, b].

    The eight places of each scale with the largest cosine are pooled, forty are kept, and of two that overlap at all
    the lesser goes. If verified, the forty are scored by the mean of their cosine and their `agreement`, which is not
    published. Gives for each detail boxes [N, 4] in pixels and scores [N], descending; none where all maps are smaller.
    """
    a, b = kernels.shape[2:]
    boxes, scores, ranks = list[Tensor](), list[Tensor](), list[Tensor]()
    for level in maps:
        rows, columns = level.shape[1:]
        if rows < a or columns < b:
            continue
        level = level.float()
        cosine = window_cosine(level, kernels).flatten(1)
        best = cosine.topk(min(PER_SCALE, cosine.shape[1]), dim=1)
        top, left = best.indices // (columns - b + 1), best.indices % (columns - b + 1)
        corners = torch.stack([left / columns, top / rows, (left + b) / columns, (top + a) / rows], 2)
        boxes.append(corners * corners.new_tensor([width, height, width, height]))
        scores.append(best.values)
        ranks.append((best.values + agreement(level, kernels, top, left)) / 2 if verified else best.values)
    if not boxes:
        return [(kernels.new_zeros(0, 4), kernels.new_zeros(0)) for _ in kernels]
    pooled = torch.cat(scores, 1)
    chosen = pooled.topk(min(PER_IMAGE, pooled.shape[1]), dim=1).indices
    rank, order = torch.cat(ranks, 1).gather(1, chosen).sort(dim=1, descending=True, stable=True)
    places = torch.cat(boxes, 1).gather(1, chosen.gather(1, order)[:, :, None].expand(-1, -1, 4))
    kept = _without_overlaps(places)
    return [(place[keep], score[keep]) for place, score, keep in zip(places, rank, kept, strict=True)]


def look_closer(
    describer: Describer, image: LoadedImage, kernel: Tensor, box: Box, *, verified: bool = False
) -> tuple[Box, float] | None:
    """The best place for a detail [D, a, b] in and around a box of a picture, in cells of other sizes; None: none fits.

    The box is a place that `found_in` found. A detail that is shown in a size between two scales, or smaller than all
    of them, scores more here, for a twentieth of what the paper's maps of the whole picture would cost.
    """
    left, top, right, bottom = box
    wide, high = AROUND * (right - left), AROUND * (bottom - top)
    around = max(left - wide, 0), max(top - high, 0), min(right + wide, image.width), min(bottom + high, image.height)
    size = around[2] - around[0], around[3] - around[1]
    cells = [round(factor * CELLS * max(size) / max(right - left, bottom - top)) for factor in FINER]
    maps = [detail(describer, image, around, cells=longest).cpu() for longest in cells]
    boxes, scores = found_in(maps, kernel[None], width=size[0], height=size[1], verified=verified)[0]
    if not len(boxes):
        return None
    x, y, across, down = boxes[0].tolist()
    return (around[0] + x, around[1] + y, around[0] + across, around[1] + down), float(scores[0])


def _without_overlaps(boxes: Tensor) -> Tensor:
    """Which of boxes [Q, N, 4], best first, overlap none that is kept: [Q, N]."""
    low = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    overlap = (high - low > 1e-6 * boxes.abs().amax().clamp(min=1)).all(3)
    kept = torch.ones(boxes.shape[:2], dtype=torch.bool, device=boxes.device)
    for number in range(1, boxes.shape[1]):  # forty at most, for all details at once
        kept[:, number] = ~(overlap[:, number, :number] & kept[:, :number]).any(1)
    return kept
