"""Matches that follow from others: cycle consistency fills in what was not found, and says so."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from artmodels.images.decoding import Array
from artmodels.methods.artminer.consensus import best_of_each
from artmodels.methods.artminer.groups.pairtable import IOU_CELLS, THRESHOLD, Pair, PairTable, check, mapped

__all__ = ["Propagated", "propagate"]

BLOCK = 1024  # masks that are compared with all others of a picture at a time
ROWS = 2**20  # proposals that are collected before the best are chosen


@dataclass(frozen=True, kw_only=True, eq=False)
class Propagated:
    """A match of two pictures that was not found but follows from two that were; only ever a proposal."""

    first: str
    second: str
    via: str  # the third picture, which both match in the same place
    score: float  # the smaller one of the two pairs, times the share of the smaller region that both have in `via`
    transform: Array  # [3, 3] float64, relative coordinates of the second to those of the first
    first_box: tuple[float, float, float, float]  # relative left, top, right, bottom of the region, cut at the border
    second_box: tuple[float, float, float, float]  # the same in the second
    sources: tuple[Pair, Pair]  # of first and `via`, `via` and second
    propagated: bool = True  # a `Pair` has no such attribute


def propagate(pairs: Sequence[Pair], *, threshold: float = THRESHOLD, overlap: float = 0.3) -> list[Propagated]:
    """What follows by composing: A matches B and B matches C in the same region, but A and C were not found to match.

    Arguments and errors are those of `region_clusters`; two pictures judged "no" are never proposed. Gives the best of
    each two pictures, by falling score; names are in alphabetical order.
    """
    check(threshold=threshold, overlap=overlap)
    table = PairTable(pairs, threshold)
    count = len(table.names)
    place = {name: number for number, name in enumerate(table.names)}
    no = [(place[p.first], place[p.second]) for p in pairs if p.accepted is False and {p.first, p.second} <= set(place)]
    settled = np.concatenate([table.ends, np.array(no, np.int64).reshape(-1, 2)])
    known = np.unique(settled.min(1, initial=count) * count + settled.max(1, initial=0))
    # Rows: key of the two pictures, score, B, entry of A's pair in B, entry of C's.
    best, waiting = np.zeros((0, 5)), list[Array]()
    for picture in range(count):
        entries = table.entries(picture)
        if len(entries) < 2:
            continue
        masks = table.masks(picture, entries, IOU_CELLS).reshape(len(entries), -1)
        masks = masks[:, masks.any(0)].astype(np.float32)
        areas = masks.sum(1)
        far = table.ends[entries // 2, 1 - entries % 2]
        for start in range(0, len(masks), BLOCK):
            part = slice(start, start + BLOCK)
            common = masks[part] @ masks.T
            one, other = np.nonzero(common > overlap * (areas[part, None] + areas - common))
            shared = common[one, other]
            one += start
            a, c = far[one], far[other]
            keys = a * count + c
            spot = np.searchsorted(known, keys).clip(max=len(known) - 1)
            kept = (a < c) & (known[spot] != keys) & (a != picture) & (c != picture)
            one, other, shared, keys = one[kept], other[kept], shared[kept], keys[kept]
            score = np.minimum(table.scores[entries[one] // 2], table.scores[entries[other] // 2])
            score = score * shared / np.minimum(areas[one], areas[other])
            rows = np.stack([keys, score, np.full(len(keys), picture), entries[one], entries[other]], 1)
            waiting.append(_best(rows))
            # Seldom, because each time sorts everything.
            if sum(map(len, waiting)) > max(len(best), ROWS):
                best, waiting = _best(np.concatenate([best, *waiting])), []
    best = _best(np.concatenate([best, *waiting]))
    return _proposals(table, best[np.argsort(-best[:, 1], kind="stable")])


def _best(rows: Array) -> Array:
    """Of rows with the same first number the first one with the largest second number."""
    return rows[best_of_each(rows[:, 0], rows[:, 1])]


def _proposals(table: PairTable, rows: Array) -> list[Propagated]:
    found = dict[int, Propagated]()
    whole = rows[:, 2:].astype(np.int64)
    order = np.argsort(whole[:, 0], kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(whole[order, 0])) + 1):
        for start in range(0, len(group), 1024):
            numbers = group[start : start + 1024]
            picture = int(whole[numbers[0], 0])
            wanted, inverse = np.unique(whole[numbers, 1:], return_inverse=True)
            both: Array = table.masks(picture, wanted, IOU_CELLS)[inverse.reshape(-1, 2)]
            corners = _corners(both[:, 0] & both[:, 1])
            to_a, to_c = (_outward(table, whole[numbers, side]) for side in (1, 2))
            boxes = [
                np.concatenate([at.min(1), at.max(1)], 1).clip(0, 1)
                for at in (mapped(to_a, corners), mapped(to_c, corners))
            ]
            transforms = to_a @ np.linalg.inv(to_c)
            for n, transform, left, right in zip(numbers.tolist(), transforms, *boxes, strict=True):
                one, other = whole[n, 1:].tolist()
                a, c = (table.ends[entry // 2, 1 - entry % 2] for entry in (one, other))
                found[n] = Propagated(
                    first=table.names[a],
                    second=table.names[c],
                    via=table.names[picture],
                    score=float(rows[n, 1]),
                    transform=transform / transform[2, 2],
                    first_box=tuple(left.tolist()),
                    second_box=tuple(right.tolist()),
                    sources=(table.pairs[one // 2], table.pairs[other // 2]),
                )
    return [found[n] for n in range(len(rows))]


def _outward(table: PairTable, entries: Array) -> Array:
    """Matrices [n, 3, 3] from the picture of each entry to the other one of its pair."""
    matrices = table.transforms[entries // 2]
    found: Array = np.where((entries % 2 == 1)[:, None, None], matrices, np.linalg.inv(matrices))
    return found


def _corners(masks: Array) -> Array:
    """The four corners of what masks [n, R, C] cover, relative: [n, 4, 2]."""
    rows: Array = masks.max(2)
    columns: Array = masks.max(1)
    top, left = rows.argmax(1) / rows.shape[1], columns.argmax(1) / columns.shape[1]
    bottom, right = 1 - rows[:, ::-1].argmax(1) / rows.shape[1], 1 - columns[:, ::-1].argmax(1) / columns.shape[1]
    return np.stack([np.stack(corner, 1) for corner in ((left, top), (right, top), (right, bottom), (left, bottom))], 1)
