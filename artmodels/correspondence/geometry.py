"""Plane geometry of an alignment: transforms in closed form, grids of places to read, and backward warps.

Coordinates are relative: x and y in [-1, 1], the centre of pixel i of W at (2 i + 1) / W - 1 (align_corners=False), so
that nothing here depends on a resolution. A matrix maps places of the target to places of the source; a grid holds, for
each pixel of the target, the place of the source that is read there.

Shen, Darmon, Efros and Aubry 2020, "RANSAC-Flow: generic two-stage image alignment" (arXiv:2004.01526), section 3.1.
The four points are solved by the projective bases of Hartley and Zisserman, "Multiple View Geometry", section 2.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "SAMPLE",
    "Model",
    "apply",
    "corner_error",
    "from_pixels",
    "grid_of",
    "identity",
    "inside",
    "least_squares",
    "minimal",
    "plausible",
    "sample",
    "to_pixels",
]

Model = Literal["homography", "affine", "similarity", "scaling"]
# Points that fix a model. A scaling has a factor and a shift for each axis.
SAMPLE: dict[str, int] = {"homography": 4, "affine": 3, "similarity": 2, "scaling": 2}
PERSPECTIVE = 0.3  # below 0.5 for both axes, so that the horizon is outside the picture
AREA = 8.0
DEGENERATE = 1e-3  # least twice the area of a triangle; the picture's is 4
HORIZON = 1e-6  # least depth of a point that is in front
CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))


def identity(height: int, width: int, rows: slice = slice(None)) -> Tensor:
    """The grid [height, width, 2] that reads each pixel at its own place, or some rows of it."""
    x, y = ((2 * torch.arange(length, dtype=torch.float64) + 1) / length - 1 for length in (width, height))
    return torch.stack(torch.meshgrid(x, y[rows], indexing="xy"), 2).float()


def apply(matrix: Tensor, points: Tensor) -> Tensor:
    """Points [..., n, 2] moved by matrices [..., 3, 3], in the points' own precision.

    A point that is behind the horizon or on it has no image; it goes far outside, and is finite.
    """
    moved = points @ matrix[..., :2].mT.to(points) + matrix[..., None, :, 2].to(points)
    return moved[..., :2] / moved[..., 2:].clamp(min=HORIZON)


def grid_of(matrix: Tensor, height: int, width: int) -> Tensor:
    """The grids [..., height, width, 2] float32 of matrices [..., 3, 3], for targets of that size."""
    points = identity(height, width).view(-1, 2).to(matrix.device)
    moved = apply(matrix, points.double().expand(*matrix.shape[:-2], -1, 2))
    return moved.view(*matrix.shape[:-2], height, width, 2).float()


def inside(grid: Tensor) -> Tensor:
    """Which places of a grid [..., 2] are in the picture: [...] bool."""
    return (grid.abs() <= 1).all(-1)


def sample(image: Tensor, grid: Tensor) -> Tensor:
    """Read images [N, C, H, W] at grids [N, h, w, 2] or [h, w, 2], bilinear: [N, C, h, w], zero outside."""
    if grid.ndim == 3:
        grid = grid.expand(len(image), -1, -1, -1)
    found = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found * inside(grid)[:, None]


def _areas(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Twice the signed areas of triangles with corners [..., 2]: [...]."""
    u, v = b - a, c - a
    return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]


def _triangles(points: Sequence[Tensor]) -> Tensor:
    """Of four points [..., 2] the areas of the triangles with the last one in place of each other: [..., 4].

    These are the coordinates of the last point in the basis of the others; the last number is that basis' own area.
    """
    a, b, c, d = points
    return torch.stack([_areas(d, b, c), _areas(a, d, c), _areas(a, b, d), _areas(a, b, c)], -1)


def minimal(
    target: Tensor, source: Tensor, model: Model, *, least: float = DEGENERATE, turned: bool = False
) -> tuple[Tensor, Tensor]:
    """The transforms that take few points exactly to their partners.

    A homography maps the basis of the target's points to that of the source's: with areas l and m of triangles, it is
    the sum over i of m_i / l_i q_i (p_j x p_k)^T, which takes no decomposition.

    Args:
        target: [..., k, 2] float64; k is `SAMPLE[model]`.
        source: Of the same shape.
        model: Which kind.
        least: What twice the area of each triangle of the points must be above; of a similarity the squared distance of
            the points, of a scaling its squares along both axes.
        turned: Whether transforms that turn the triangles over are wanted too, and, but for homographies, those that
            map the points onto a line.

    Returns:
        [..., 3, 3] float64 with 1 in its last place, and [...] bool: whether the points are apart, no three are nearly
        collinear, and nothing is turned over unless that is wanted. The others are the identity.
    """
    target, source = target.double(), source.double()
    before, after = _extents(target, model), _extents(source, model)
    sound = before.abs() > least
    if model == "homography" or not turned:
        sound = sound & (after.abs() > least)
    if not turned:  # what keeps its orientation on all triangles has no horizon between the points
        sound = sound & (before * after > 0)
    sound = sound.all(-1)
    matrix = torch.eye(3, dtype=torch.float64, device=target.device).repeat(*sound.shape, 1, 1)
    # Of samples with wrong matches few are left.
    if model == "homography":
        matrix[sound] = _bases(target[sound], source[sound], before[sound], after[sound])
    else:
        matrix[sound] = _linear(target[sound], source[sound], before[sound], model)
    return matrix, sound


def _extents(points: Tensor, model: Model) -> Tensor:
    """What must not be 0, so that points [..., k, 2] fix a model: [..., n].

    Twice the areas of the triangles of three points or more, with a sign; of two points their squared distance, or for
    a scaling its squares along both axes, with the sign of the step.
    """
    corners = points.unbind(-2)
    if model == "homography":
        return _triangles(corners)
    if model == "affine":
        return _areas(*corners)[..., None]
    step = corners[1] - corners[0]
    return step * step.abs() if model == "scaling" else step.square().sum(-1, keepdim=True)


def _bases(target: Tensor, source: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Homographies [n, 3, 3] of four points [n, 4, 2], whose last depth is 1, with the areas [n, 4] of `_triangles`."""
    points, images = (F.pad(corners[:, :3], (0, 1), value=1.0) for corners in (target, source))
    crossed = torch.linalg.cross(points.roll(-1, 1), points.roll(-2, 1))  # p_j x p_k, [n, 3, 3]
    matrix = (images * (after / before)[:, :3, None]).mT @ crossed
    last, largest = matrix[:, 2:, 2:], matrix.abs().amax((1, 2), keepdim=True)
    # That the middle of the picture is on the horizon is for `plausible` to refuse.
    scaled: Tensor = matrix / torch.where(last.abs() > HORIZON * largest, last, HORIZON * largest)
    return scaled


def _linear(target: Tensor, source: Tensor, before: Tensor, model: Model) -> Tensor:
    """Transforms [n, 3, 3] of three or two points, of another model than a homography; `before` is of `_extents`."""
    u, b = target[:, 1] - target[:, 0], source[:, 1] - source[:, 0]
    if model == "affine":
        v, c = target[:, 2] - target[:, 0], source[:, 2] - source[:, 0]
        adjugate = torch.stack([v[:, 1], -v[:, 0], -u[:, 1], u[:, 0]], 1).view(-1, 2, 2)
        linear = torch.stack([b, c], 2) @ adjugate / before[..., None]  # [b c] [u v]^-1
    elif model == "scaling":
        linear = torch.diag_embed(b / u)
    else:
        cosine, sine = (u * b).sum(1), u[:, 0] * b[:, 1] - u[:, 1] * b[:, 0]
        linear = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2) / before[..., None]
    return _affine(linear, source[:, 0] - (linear @ target[:, 0, :, None])[..., 0])


def _affine(linear: Tensor, shift: Tensor) -> Tensor:
    """[..., 2, 2] and [..., 2] in one matrix [..., 3, 3]."""
    matrix = F.pad(torch.cat([linear, shift[..., None]], -1), (0, 0, 0, 1))
    matrix[..., 2, 2] = 1
    return matrix


def least_squares(target: Tensor, source: Tensor, weights: Tensor, model: Model) -> Tensor:
    """The transforms that take points nearest to their partners: the least weighted sum of squared distances.

    For a homography the equations are linear once each is divided by its point's depth, which is taken from the
    solution before; two solutions are enough where the perspective is moderate.

    Of places [..., m, 2] and weights [..., m], at least 0, they are [..., 3, 3] float64, finite whatever the points
    are; of points that do not fix the model, the smallest of the solutions.
    """
    target, source, weights = target.double(), source.double(), weights.double()
    nought = 0 * (weights + target[..., 0] + source[..., 0])  # of the shape that they have together
    weights, target, source = weights + nought, target + nought[..., None], source + nought[..., None]
    (x, y), one = target.unbind(-1), nought + 1
    if model == "similarity":
        rows = [torch.stack([x, -y, one, nought], -1), torch.stack([y, x, nought, one], -1)]
    elif model == "scaling":
        rows = [torch.stack([x, nought, one, nought], -1), torch.stack([nought, y, nought, one], -1)]
    else:
        row = torch.stack([x, y, one], -1)
        rows = [F.pad(row, (0, 3)), F.pad(row, (3, 0))]
        if model == "homography":
            perspective = [-target * value[..., None] for value in source.unbind(-1)]
            rows = [torch.cat(parts, -1) for parts in zip(rows, perspective, strict=True)]
    equations, known = torch.cat(rows, -2), torch.cat([*source.unbind(-1)], -1)
    root = weights.sqrt()
    found = _solved(equations, known, root)
    if model == "similarity":
        a, b = found[..., :2].unbind(-1)
        return _affine(torch.stack([a, -b, b, a], -1).view(*a.shape, 2, 2), found[..., 2:])
    if model == "scaling":
        return _affine(torch.diag_embed(found[..., :2]), found[..., 2:])
    if model == "affine":
        found = found.view(*found.shape[:-1], 2, 3)
        return _affine(found[..., :2], found[..., 2])
    depth = (target @ found[..., 6:, None])[..., 0] + 1
    found = _solved(equations, known, root / depth.clamp(min=0.1))
    return F.pad(found, (0, 1), value=1.0).view(*found.shape[:-1], 3, 3)


def _solved(equations: Tensor, known: Tensor, root: Tensor) -> Tensor:
    """Least squares of [..., 2 m, p] and [..., 2 m] with square roots of weights [..., m] for both halves: [..., p]."""
    root = torch.cat([root, root], -1)
    equations = equations * root[..., None]
    # A pseudo-inverse of the normal equations, which are small, is finite whatever their rank.
    squared = equations.mT @ equations
    inverse = torch.linalg.pinv(squared, hermitian=True, rtol=1e-12)
    solution: Tensor = (inverse @ (equations.mT @ (known * root)[..., None]))[..., 0]
    return solution


def plausible(matrix: Tensor, *, perspective: float = PERSPECTIVE, area: float = AREA) -> Tensor:
    """Which transforms [..., 3, 3] can be those of a copy or another view: [...] bool.

    Their perspective is small, so that the horizon is outside the target; they do not turn it over; and the source's
    part that it shows is at least 1 / area of the source and at most area times as large. `perspective`, below 0.5,
    bounds |h31| and |h32| where h33 is 1.
    """
    last = matrix[..., 2, 2]
    sound = matrix.isfinite().all(-1).all(-1) & (last.abs() > HORIZON * matrix.abs().amax((-1, -2)))
    scaled = matrix / torch.where(sound, last, 1.0)[..., None, None]
    sound = sound & (scaled[..., 2, :2].abs() < perspective).all(-1)
    corners = apply(scaled, matrix.new_tensor(CORNERS).expand(*matrix.shape[:-2], 4, 2))
    one, two, three, four = corners.unbind(-2)
    ratio = (_areas(one, two, three) + _areas(one, three, four)) / 8
    sound = sound & (torch.linalg.det(scaled.where(sound[..., None, None], 0.0)) > 0)
    fits: Tensor = sound & (ratio >= 1 / area) & (ratio <= area)
    return fits


def _pixels(size: tuple[int, int], matrix: Tensor) -> Tensor:
    """The matrix [3, 3] from relative coordinates to pixels, whose centres are integers; size is (width, height)."""
    width, height = size
    return matrix.new_tensor([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2], [0, 0, 1]])


def to_pixels(matrix: Tensor, target_size: tuple[int, int], source_size: tuple[int, int]) -> Tensor:
    """A matrix [..., 3, 3] between relative coordinates as one between pixels, of pictures of (width, height) each."""
    found: Tensor = _pixels(source_size, matrix) @ matrix @ torch.linalg.inv(_pixels(target_size, matrix))
    return found


def from_pixels(matrix: Tensor, target_size: tuple[int, int], source_size: tuple[int, int]) -> Tensor:
    """What `to_pixels` makes, back."""
    found: Tensor = torch.linalg.inv(_pixels(source_size, matrix)) @ matrix @ _pixels(target_size, matrix)
    return found


def corner_error(matrix: Tensor, truth: Tensor, size: tuple[int, int]) -> float:
    """Mean distance of the target's corners, moved by two matrices [3, 3], in pixels of a source of (width, height)."""
    corners = torch.tensor(CORNERS, dtype=torch.float64)
    off = apply(matrix.cpu().double(), corners) - apply(truth.cpu().double(), corners)
    return float((off * torch.tensor(size) / 2).norm(dim=1).mean())
