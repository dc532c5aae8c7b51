"""The pair discovery score as it is written down, step by step: what the library's is compared with.

Shen, Efros and Aubry 2019 (arXiv:1903.02678), section 5, and the settings of its authors' programs. Loops in Python
over scales, cells, hypotheses and matches; NumPy for the similarities of a scale, and for the distances of all matches
under one hypothesis. Nothing here is shared with `artmodels.methods.artminer`, except that a caller hands over the
samples.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

Array = np.ndarray
SAMPLE = {"affine": 3, "scaling": 2, "similarity": 2, "homography": 4}


class Pair(NamedTuple):
    """A mutual match: cells (row, column), places (x, y), the weighted similarity and the scale's number."""

    reference_cell: tuple[int, int]
    target_cell: tuple[int, int]
    first: tuple[float, float]
    second: tuple[float, float]
    similarity: float
    scale: int


class Outcome(NamedTuple):
    """The score, and where it is not 0 the transform [3, 3] and the pairs of cells that survive."""

    score: float
    transform: Array | None = None
    pairs: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = ()
    grid: tuple[int, int] = (0, 0)


def weighted(reference: Array) -> Array:
    """Step 1: each cell times 1 - the mean cosine with its four neighbours; cells at the border times 0."""
    _, rows, columns = reference.shape
    result = np.zeros_like(reference)
    for r in range(1, rows - 1):
        for c in range(1, columns - 1):
            cell = reference[:, r, c]
            around = [reference[:, r - 1, c], reference[:, r + 1, c], reference[:, r, c - 1], reference[:, r, c + 1]]
            result[:, r, c] = (1 - sum(float(cell @ other) for other in around) / 4) * cell
    return result


def mutual(reference: Array, target: Array) -> list[tuple[int, int, float]]:
    """Step 2: (reference cell, target cell, similarity) of those that are each other's nearest, of [D, n1], [D, n2]."""
    similarity = target.T @ reference  # [n2, n1]
    found = []
    for i in range(similarity.shape[1]):
        j = int(similarity[:, i].argmax())
        if int(similarity[j].argmax()) == i and similarity[j, i] > 1e-6:
            found.append((i, j, float(similarity[j, i])))
    return found


def candidates(pairs: list[Pair], shape: tuple[int, int], shapes: list[tuple[int, int]], tau: float) -> list[int]:
    """Step 3: the pairs, of the best scale, within tau of the translation with most votes."""
    radius = int(tau)
    best, peak = 0.0, (0, 0, 0)
    for scale, (rows, columns) in enumerate(shapes):
        votes = np.zeros((shape[0] + rows + 1, shape[1] + columns + 1))
        for pair in pairs:
            if pair.scale == scale:
                dr, dc = pair.reference_cell[0] - pair.target_cell[0], pair.reference_cell[1] - pair.target_cell[1]
                votes[dr + rows, dc + columns] += 1
        kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
        for a in range(-radius, radius + 1):
            for b in range(-radius, radius + 1):
                kernel[a + radius, b + radius] = math.exp(-(a * a + b * b) / tau**2)
        smooth = ndimage.convolve(votes, kernel, mode="constant")
        # Rounded, so that peaks that are equal but for rounding are equal: the first then wins.
        where = np.unravel_index(int(smooth.round(10).argmax()), smooth.shape)
        if smooth[where] > best + 1e-9:
            best, peak = float(smooth[where]), (scale, int(where[0]) - rows, int(where[1]) - columns)
    chosen = []
    for number, pair in enumerate(pairs):
        dr, dc = pair.reference_cell[0] - pair.target_cell[0], pair.reference_cell[1] - pair.target_cell[1]
        if pair.scale == peak[0] and abs(dr - peak[1]) <= radius and abs(dc - peak[2]) <= radius:
            chosen.append(number)
    return chosen


def twice_area(p: Array, q: Array, r: Array) -> float:
    """|Twice the area| of a triangle."""
    return float(abs((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])))


def hypothesis(model: str, second: Array, first: Array, unit: float) -> Array | None:
    """Step 4: the transform [3, 3] that takes points [k, 2] of the target to the reference's; None if degenerate."""
    least = 1e-6 * unit**2
    transform = np.eye(3)
    if model == "affine":
        if twice_area(*second) <= least:
            return None
        transform[:2] = np.linalg.solve(np.c_[second, np.ones(3)], first).T
    elif model == "scaling":
        for axis in (0, 1):
            step = second[1, axis] - second[0, axis]
            if abs(step) <= math.sqrt(least):
                return None
            transform[axis, axis] = (first[1, axis] - first[0, axis]) / step
            transform[axis, 2] = first[0, axis] - transform[axis, axis] * second[0, axis]
    elif model == "similarity":
        a, b = (complex(*second[0]), complex(*second[1])), (complex(*first[0]), complex(*first[1]))
        if abs(a[1] - a[0]) ** 2 <= least:
            return None
        turn = (b[1] - b[0]) / (a[1] - a[0])
        shift = b[0] - turn * a[0]
        transform[:2] = [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]]
    else:
        for points in (second, first):
            for left in range(4):
                if twice_area(*np.delete(points, left, 0)) <= least:
                    return None
        system, known = [], []
        for (x, y), (u, v) in zip(second, first, strict=True):
            system += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
            known += [u, v]
        try:
            transform = np.append(np.linalg.solve(system, known), 1).reshape(3, 3)
        except np.linalg.LinAlgError:
            return None
    return transform


def sane(transform: Array, extent: tuple[float, float], cells: Array, target_cells: Array) -> bool:
    """Our bounds: scale in [1/4, 4], anisotropy < 3, shear < 0.5 rad, no mirror; at the middle of the target."""
    width, height = extent
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        if transform[2] @ (*corner, 1) <= 1e-6:
            return False
    x, y, depth = transform @ (width / 2, height / 2, 1)
    slope = np.array(
        [
            [(transform[0, k] * depth - x * transform[2, k]) / depth**2 for k in (0, 1)],
            [(transform[1, k] * depth - y * transform[2, k]) / depth**2 for k in (0, 1)],
        ]
    )
    slope = np.diag(cells) @ slope @ np.diag(1 / target_cells)
    determinant = np.linalg.det(slope)
    if determinant <= 0 or not 1 / 4 - 1e-6 <= math.sqrt(determinant) <= 4 + 1e-6:
        return False
    stretches = np.linalg.svd(slope, compute_uv=False)
    cosine = slope[:, 0] @ slope[:, 1] / (np.linalg.norm(slope[:, 0]) * np.linalg.norm(slope[:, 1]))
    return bool(stretches[0] < (3 - 1e-6) * stretches[1] and abs(math.asin(np.clip(cosine, -1, 1))) < 0.5)


def residuals(transform: Array, first: Array, second: Array) -> Array:
    """Distances [m] of points [m, 2] of the reference from those of the target, transformed."""
    moved = np.c_[second, np.ones(len(second))] @ transform.T
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.linalg.norm(first - moved[:, :2] / moved[:, 2:], axis=1)
    return np.where(moved[:, 2] > 1e-6, distance, np.inf)


def inside(distance: Array, tolerance: float) -> Array:
    """Which are closer than the tolerance; what is at it, but for rounding, is not."""
    return np.flatnonzero(distance**2 < tolerance**2 * (1 - 1e-4))


def support(transform: Array, pairs: list[Pair], first: Array, second: Array, tolerance: float) -> float:
    """Step 5: the score of a hypothesis over all pairs of all scales."""
    distance = residuals(transform, first, second)
    best: dict[tuple[int, int], float] = {}
    for number in inside(distance, tolerance):
        pair = pairs[number]
        value = pair.similarity * math.exp(-float(distance[number] ** 2) / tolerance**2)
        best[pair.reference_cell] = max(best.get(pair.reference_cell, 0.0), value)
    return sum(best.values())


def whole(value: float) -> int:
    """The integer part; what is a whole number but for rounding is that number."""
    return math.floor(value + 1e-6)


def in_parts(cells: list[tuple[int, int]], shape: tuple[int, int], least: int) -> list[bool]:
    """Which cells are in 8-connected components of at least so many."""
    mask = np.zeros(shape, bool)
    for r, c in cells:
        mask[r, c] = True
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = [int((labels == number).sum()) for number in range(count + 1)]
    return [sizes[labels[r, c]] >= least for r, c in cells]


def discovery_score(
    reference: Array,
    target: list[Array],
    draw: Callable[[int], Array],
    *,
    margin: int = 3,
    tau: float = 2.0,
    model: str = "affine",
    saliency: bool = True,
    isotropic: bool = True,
    gates: bool = True,
    least_component: int = 3,
) -> Outcome:
    """All steps.

    Args:
        reference: [D, R, C], of unit length for each cell, with its margin.
        target: [D, R_k, C_k] of each scale.
        draw: From the number of candidates to the samples [n, k] of them.
        margin: Cells.
        tau: Tolerance in cells.
        model: See `SAMPLE`.
        saliency: Whether step 1 is done.
        isotropic: Distances in cells of the reference; False: in shares of each axis, as published.
        gates: Whether `sane` is asked.
        least_component: Cells of a patch.
    """
    _, full_rows, full_columns = reference.shape
    longest = max(full_rows, full_columns)
    if saliency:
        reference = weighted(reference)
    reference = reference[:, margin : full_rows - margin, margin : full_columns - margin]
    _, rows, columns = reference.shape
    if rows * columns == 0:
        return Outcome(0.0)
    shapes = [(features.shape[1], features.shape[2]) for features in target]
    finest = max(shapes, key=max)
    height, width = (side * longest / max(finest) for side in finest)  # in cells of the reference
    if isotropic:
        tolerance, unit, extent = tau, float(longest), (width, height)
        cells = target_cells = np.ones(2)
    else:
        tolerance, unit, extent = tau / longest, 1.0, (1.0, 1.0)
        cells, target_cells = np.array([columns, rows]), np.array([width, height])

    pairs = []
    for scale, features in enumerate(target):
        _, rows2, columns2 = features.shape
        for i, j, similarity in mutual(reference.reshape(len(reference), -1), features.reshape(len(features), -1)):
            (r, c), (r2, c2) = divmod(i, columns), divmod(j, columns2)
            if isotropic:
                first = (c + margin + 0.5, r + margin + 0.5)
                second = ((c2 + 0.5) / columns2 * width, (r2 + 0.5) / rows2 * height)
            else:
                first, second = ((c + 0.49) / columns, (r + 0.49) / rows), ((c2 + 0.49) / columns2, (r2 + 0.49) / rows2)
            pairs.append(Pair((r, c), (r2, c2), first, second, similarity, scale))
    if not pairs:
        return Outcome(0.0)

    chosen = candidates(pairs, (rows, columns), shapes, tau)
    if len(chosen) < max(4, SAMPLE[model]):
        return Outcome(0.0)
    all_first, all_second = np.array([pair.first for pair in pairs]), np.array([pair.second for pair in pairs])
    best, transform = 0.0, None
    for sample in draw(len(chosen)):
        numbers = [chosen[position] for position in sample]
        tried = hypothesis(model, all_second[numbers], all_first[numbers], unit)
        if tried is None or (gates and not sane(tried, extent, cells, target_cells)):
            continue
        value = support(tried, pairs, all_first, all_second, tolerance)
        if value > best + 1e-6:  # samples of the same transform differ by rounding: the first counts
            best, transform = value, tried
    if transform is None:
        return Outcome(0.0)

    # Step 6: the best inlier of each reference cell, then of each cell of the target as large as the reference's.
    kept: dict[tuple[int, int], int] = {}
    for number in inside(residuals(transform, all_first, all_second), tolerance):
        cell = pairs[number].reference_cell
        if cell not in kept or pairs[number].similarity > pairs[kept[cell]].similarity:
            kept[cell] = int(number)
    corners = [transform @ (*corner, 1) for corner in ((0, 0), (extent[0], 0), (0, extent[1]))]
    corners = [corner[:2] / corner[2] * cells for corner in corners]
    down, across = (float(np.linalg.norm(corners[side] - corners[0])) for side in (2, 1))
    grid = whole(down + 0.5), whole(across + 0.5)
    if not (0 < grid[0] < 1000 and 0 < grid[1] < 1000):
        return Outcome(0.0)
    mine: dict[tuple[int, int], int] = {}
    for cell in sorted(kept):
        number = kept[cell]
        x, y = pairs[number].second
        place = min(whole(y / extent[1] * grid[0]), grid[0] - 1), min(whole(x / extent[0] * grid[1]), grid[1] - 1)
        if place not in mine or pairs[number].similarity > pairs[mine[place]].similarity:
            mine[place] = number
    left = [(pairs[number].reference_cell, place, pairs[number].similarity) for place, number in mine.items()]
    while left:
        here = in_parts([cell for cell, _, _ in left], (rows, columns), least_component)
        there = in_parts([place for _, place, _ in left], grid, least_component)
        if all(here) and all(there):
            break
        left = [entry for entry, a, b in zip(left, here, there, strict=True) if a and b]

    # Step 7.
    score = sum(similarity for _, _, similarity in left) / (rows * columns)
    moved = tuple(((r + margin, c + margin), place) for (r, c), place, _ in sorted(left))
    return Outcome(score, transform, moved, grid)
