"""How much of a texture is copied from its exemplar: where each patch comes from, and whether its neighbours do too.

Source: displacement score, Gonthier, Gousseau and Ladjal 2022, "High resolution neural texture synthesis with long
range constraints", JMIV.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.descent.nearest import first_minimum
from artmodels.errors import ConfigError, ImageError
from artmodels.methods.texture_synthesis.metrics import checked

__all__ = ["displacement_score", "nearest_patches"]


def nearest_patches(result: Tensor, exemplar: Tensor, *, size: int = 5, chunk: int = 4096) -> Tensor:
    """Where in the exemplar each patch of the result has its exact nearest neighbour.

    Both images are first rounded to 8 bits, as saved pictures are. Squared distances are then integers that
    float32 holds without error, so the search is exact, and the same on every device and for every `chunk`.

    Args:
        result: Synthesised image [1, 3, H, W] in [0, 1].
        exemplar: Reference image [1, 3, H', W'] in [0, 1]; the search runs on its device.
        size: Side of the square patches, in pixels.
        chunk: How many patches of each image are compared at a time; memory grows with its square.

    Returns:
        int64 [H - size + 1, W - size + 1, 2]: (y, x) of the top left corner of the nearest patch of the
        exemplar in the L2 norm; of equally near ones, the first in reading order.

    Raises:
        ImageError: An image is smaller than a patch, or the tensor is not an image.
        ConfigError: `size` or `chunk` is not positive.
    """
    if size < 1 or chunk < 1:
        raise ConfigError(f"nearest_patches: size and chunk must be at least 1, not {size} and {chunk}.")
    result, exemplar = checked(result, exemplar, minimum=size, measure="nearest_patches")
    # |b|^2 - 2ab of values within 128 stays a float32 integer up to this many terms.
    exact = torch.float32 if 9 * size**2 * 128**2 <= 2**24 else torch.float64
    queries, keys = ((image.clamp(0, 1) * 255).round().sub(128).to(exact) for image in (result, exemplar))
    width = keys.shape[-1] - size + 1
    found = [_search(band, keys, size, chunk) for _, band in _bands(queries, size, chunk)]
    index = torch.cat(found).reshape(queries.shape[-2] - size + 1, queries.shape[-1] - size + 1)
    return torch.stack((index // width, index % width), -1)


def _bands(image: Tensor, size: int, chunk: int) -> list[tuple[int, Tensor]]:
    """Bands of rows that hold about `chunk` patches each, with the index of the first patch of each."""
    width = image.shape[-1] - size + 1
    rows = max(1, chunk // width)
    starts = range(0, image.shape[-2] - size + 1, rows)
    return [(start * width, image[..., start : start + rows + size - 1, :]) for start in starts]


def _search(queries: Tensor, keys: Tensor, size: int, chunk: int) -> Tensor:
    """Index of the nearest patch of `keys` for each patch of `queries`, [Q]."""
    a = F.unfold(queries, size)[0].T.contiguous()  # [Q, 3 size^2]
    best = torch.full((a.shape[0],), torch.inf, dtype=a.dtype, device=a.device)
    index = torch.zeros_like(best, dtype=torch.int64)
    for start, band in _bands(keys, size, chunk):
        b = F.unfold(band, size)[0]  # [3 size^2, K]
        scores = torch.addmm(b.square().sum(0, keepdim=True), a, b, alpha=-2)  # |a - b|^2 - |a|^2
        first = first_minimum(scores)
        value = scores.gather(1, first[:, None])[:, 0]
        closer = value < best  # Strictly, so that the first of equals is kept.
        best, index = torch.where(closer, value, best), torch.where(closer, first + start, index)
    return index


def displacement_score(matches: Tensor, *, distance: int = 1, reference_slip: bool = False) -> float:
    """How little is copied verbatim: 0 for a copy, 1 where no two neighbours come from one place.

    Inside a copied piece the match of the pixel to the right is the pixel to the right of the match, that is,
    the displacement (match minus own position) is constant. A pair of vertical or horizontal neighbours
    counts as copied when their displacements differ by at most `distance` in y and in x. The score is 1 minus
    the copied share, averaged over the two directions. A pure shift scores 0, whatever `distance`; unrelated
    positions score 1 - (2 distance + 1)^2 / (number of patches), near 1.

    Args:
        matches: Integer map [H, W, 2] of (y, x) positions, from `nearest_patches`.
        distance: Largest difference that still counts as copied, in pixels.
        reference_slip: True tests y only, as the authors' released evaluation does by a slip. Published means
            were presumably computed that way; a map with constant y and random x then scores 0 instead of
            near 1.

    Returns:
        The score in [0, 1].

    Raises:
        ImageError: The map has fewer than 2 rows or columns, so it has no neighbours.
        ConfigError: `distance` is negative.
    """
    if matches.ndim != 3 or matches.shape[-1] != 2 or min(matches.shape[:2]) < 2:
        raise ImageError(
            f"displacement_score needs a map [H, W, 2] with H and W at least 2, not {tuple(matches.shape)}; "
            "use a larger image or smaller patches."
        )
    if distance < 0:
        raise ConfigError(f"displacement_score: distance must be 0 or more, not {distance}.")
    rows, columns = (torch.arange(n) for n in matches.shape[:2])
    displacement = matches.cpu().long() - torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
    tested = displacement[..., :1] if reference_slip else displacement
    shares = [(tested.diff(dim=axis).abs() <= distance).all(-1).double().mean() for axis in (0, 1)]
    return 1.0 - float(shares[0] + shares[1]) / 2
