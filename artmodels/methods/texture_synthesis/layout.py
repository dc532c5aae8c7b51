"""Ruled textures: the periods of tiles, wicker or brickwork, and a first picture that keeps them.

A descent from noise decides the layout piece by piece, and pieces of a ruled one rarely fit. So its periods are read
from the autocorrelation, and the first picture is made of pieces of the exemplar that lie whole periods apart
(near-regular textures: Liu, Lin and Hays 2004). Positions and periods are (y, x) in pixels.
"""

import itertools
import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from artmodels.runtime.devices import generator

__all__ = ["canvas", "fitted_to_torus", "periods", "shifted_pieces"]

SEARCHED = 256  # px: periods are looked for in an exemplar of this side at most
SHORTEST = 4  # px there: anything shorter fits in one patch, and needs no help
STRONG = 0.28  # the correlation of an exemplar with itself, moved by a period, from which it counts as ruled
DIP = 0.25  # and how much lower it must fall on the way: smooth pictures are like themselves, moved a little
AS_STRONG = 0.7  # of the strongest peak: among such ones the shortest is the period, longer ones are its multiples
SKEW = 0.5  # sine of the smallest angle between two periods
PIECE = 6  # pieces along the exemplar's shorter side, if a period is not longer
BLEND = 0.25  # of a piece: how far neighbours overlap
PHASES = 16  # bins a period, to find where copies agree best


def autocorrelation(image: Tensor) -> np.ndarray:
    """Correlation in [-1, 1] of an image [1, 3, h, w] with itself, moved by (y, x): [h + 1, w + 1], no move central.

    Moves go to half a side. Each is normalised over the pixels that overlap, after slow changes of light are taken off.
    """
    h, w = image.shape[-2:]
    pixels = image[0].cpu().double().numpy()
    pixels = pixels - ndimage.gaussian_filter(pixels, (0, min(h, w) / 8, min(h, w) / 8))
    values = torch.from_numpy(pixels)
    values = values - values.mean(dim=(1, 2), keepdim=True)
    shape = (2 * h, 2 * w)
    spectrum, energy = torch.fft.rfft2(values, shape), torch.fft.rfft2(values.square().sum(0), shape)
    ones = torch.fft.rfft2(torch.ones(h, w, dtype=torch.float64), shape)
    product = torch.fft.irfft2((spectrum.conj() * spectrum).sum(0), shape)
    here = torch.fft.irfft2(energy.conj() * ones, shape).clamp_min(0)
    there = torch.fft.irfft2(ones.conj() * energy, shape).clamp_min(0)
    found = product / (here * there).sqrt().clamp_min(1e-9 + 1e-4 * float(here[0, 0]))
    centred = torch.fft.fftshift(found)[h - h // 2 : h + h // 2 + 1, w - w // 2 : w + w // 2 + 1]
    result: np.ndarray = centred.numpy()
    return result


def periods(exemplar: Tensor) -> np.ndarray | None:
    """The two shortest moves (y, x) that bring an exemplar [1, 3, H, W] back on itself, [2, 2] pixels, or None.

    None means that it is not ruled: its autocorrelation has no two strong peaks apart from no move at all.
    """
    height, width = exemplar.shape[-2:]
    scale = max(1.0, max(height, width) / SEARCHED)
    small = F.interpolate(exemplar, (round(height / scale), round(width / scale)), mode="area")
    if min(small.shape[-2:]) < 4 * SHORTEST or float(small.std(dim=(2, 3)).max()) < 1 / 255:
        return None
    found = autocorrelation(small)
    centre = np.array(found.shape) // 2
    smooth = ndimage.gaussian_filter(found, 0.7)
    peaks = np.argwhere((ndimage.maximum_filter(smooth, 5) == smooth) & (smooth > STRONG)) - centre
    peaks = peaks[(np.hypot(*peaks.T) >= SHORTEST) & ((peaks[:, 0] > 0) | ((peaks[:, 0] == 0) & (peaks[:, 1] > 0)))]
    if not len(peaks):
        return None
    # The lowest value on the way there, and as far to both sides of it as the way is long.
    way = np.linspace(0, 1, 33)[:, None, None] * peaks + centre
    lowest = ndimage.map_coordinates(smooth, way.transpose(2, 0, 1), order=1).min(axis=0)
    heights = smooth[tuple((peaks + centre).T)]
    kept = heights - lowest > DIP
    peaks, heights = peaks[kept], heights[kept]
    if not len(peaks):
        return None
    strong = peaks[heights > AS_STRONG * heights.max()]
    first, *others = strong[np.argsort(np.hypot(*strong.T), kind="stable")]
    length = np.hypot(*first)
    second = next((p for p in others if abs(first[0] * p[1] - first[1] * p[0]) > SKEW * length * np.hypot(*p)), None)
    if second is None:
        return None
    return _refined(smooth, np.stack([first, second]).astype(float)) * scale


def _refined(correlation: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Periods [2, 2] fitted to all the peaks of whole multiples: a multiple tells a period that much more finely."""
    centre = np.array(correlation.shape) // 2
    reach = max(1, round(min(np.hypot(*basis.T)) / 4))
    for most in (1, 2, 4):
        counts = np.array([n for n in itertools.product(range(-most, most + 1), repeat=2) if any(n)])
        expected = counts @ basis + centre
        inside = ((expected >= reach) & (expected < np.array(correlation.shape) - reach - 1)).all(axis=1)
        counts, expected = counts[inside], expected[inside]
        if len(counts) < 4:
            break
        span = np.arange(-reach, reach + 1)
        window = np.stack(np.meshgrid(span, span, indexing="ij"), -1).reshape(-1, 2)  # [R, 2]
        places = np.rint(expected).astype(int)[:, None] + window
        values = correlation[places[..., 0], places[..., 1]].clip(0)  # [N, R]
        values = np.where(values > 0.9 * values.max(axis=1, keepdims=True), values, 0) + 1e-9
        weights = values / values.sum(axis=1, keepdims=True)
        peaks = (weights[..., None] * places).sum(axis=1) - centre
        trust = np.sqrt(values.max(axis=1))[:, None]
        basis = np.linalg.lstsq(counts * trust, peaks * trust, rcond=None)[0]
    return basis


def shifted_pieces(exemplar: Tensor, basis: np.ndarray, size: tuple[int, int], seed: int) -> Tensor:
    """A picture [1, 3, *size] made of pieces of the exemplar [1, 3, H, W] that lie whole periods apart.

    Pieces are some periods long, blended where copies of the exemplar agree best, and each is drawn from a place of its
    own, so that the order of the exemplar's tiles is not repeated.
    """
    height, width = exemplar.shape[-2:]
    lengths = np.hypot(*basis.T)
    piece = basis * np.maximum(1, np.rint(min(height, width) / PIECE / lengths))[:, None]
    reach = (0.5 + BLEND / 2) * np.abs(piece).sum(axis=0)  # of a piece from its middle, down and across
    first = _calmest(exemplar, basis)
    room = np.array([height, width]) - 1 - reach
    most = math.ceil(max(height, width) / lengths.min()) + 2
    counts = np.array(list(itertools.product(range(-most, most + 1), repeat=2)))
    places = first + counts @ basis
    inside = ((places >= reach) & (places <= room)).all(axis=1)
    if not inside.any():  # hardly two periods: then any piece is cut short, and the exemplar is reflected
        middle = np.array([height, width]) / 2
        inside = np.abs(places - middle).sum(axis=1) <= np.abs(places - middle).sum(axis=1).min() + 1e-9
    places = places[inside]

    draws = generator(seed)
    y, x = (torch.arange(side, dtype=torch.float64) for side in size)
    pixels = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)  # [h, w, 2]
    origin = torch.from_numpy(np.array([float(torch.rand((), generator=draws)) for _ in "yx"]) @ basis)
    across = (pixels - origin) @ torch.from_numpy(np.linalg.inv(piece))  # in pieces
    low = across.floor()
    share = ((across - low - 0.5) / BLEND + 0.5).clamp(0, 1)  # of the next piece
    low = low.long()
    least = low.flatten(0, 1).amin(0)
    rows, columns = (low.flatten(0, 1).amax(0) - least + 2).tolist()
    drawn = torch.from_numpy(places)[torch.randint(len(places), (rows, columns), generator=draws)]
    numbers = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1) + least
    moves = (drawn - origin - numbers.double() @ torch.from_numpy(piece)).round().long()  # [rows, columns, 2]
    result = torch.zeros(3, *size)
    source = exemplar[0].cpu().float()
    for down, right in itertools.product((0, 1), repeat=2):
        corner = low - least + torch.tensor([down, right])
        weight = torch.where(torch.tensor([down, right]) == 1, share, 1 - share).prod(-1)
        at = pixels.long() + moves[corner[..., 0], corner[..., 1]]
        row, column = (_reflected(at[..., i], side) for i, side in enumerate((height, width)))
        result += weight.float() * source[:, row, column]
    return result[None].to(exemplar.device)


def _reflected(at: Tensor, side: int) -> Tensor:
    """Positions beyond the borders of `side` pixels, reflected into them."""
    at = at % (2 * side)
    return torch.minimum(at, 2 * side - 1 - at)


def _calmest(exemplar: Tensor, basis: np.ndarray) -> np.ndarray:
    """The middle (y, x) of a piece whose borders lie where the exemplar differs least from itself, periods away."""
    height, width = exemplar.shape[-2:]
    y, x = np.mgrid[:height, :width]
    phases = (np.stack([y, x], -1) @ np.linalg.inv(basis)) % 1 * PHASES
    bins = (np.floor(phases).astype(int) % PHASES) @ [PHASES, 1]
    pixels = exemplar[0].cpu().double().numpy()
    count = np.bincount(bins.ravel(), minlength=PHASES**2).clip(1)
    means = [
        [np.bincount(bins.ravel(), channel.ravel() ** power, minlength=PHASES**2) / count for power in (1, 2)]
        for channel in pixels
    ]
    spread = sum(square - mean**2 for mean, square in means).reshape(PHASES, PHASES)
    calm = np.array([spread.mean(axis=1).argmin(), spread.mean(axis=0).argmin()])
    middle: np.ndarray = ((calm + 0.5) / PHASES + 0.5) @ basis
    return middle


def canvas(size: tuple[int, int], basis: np.ndarray) -> tuple[int, int]:
    """A larger size, to work at and to cut `size` from: a torus on which the layout breaks least, and that outside."""
    longest = np.hypot(*basis.T).max()
    sides = []
    for axis, side in enumerate(size):
        choices = side + np.arange(math.ceil(longest / 2), math.ceil(1.5 * longest) + 1)
        moves = np.zeros((len(choices), 2))
        moves[:, axis] = choices
        counts = moves @ np.linalg.inv(basis)
        off = np.hypot(*((counts - np.rint(counts)) @ basis).T)
        sides.append(int(choices[off.argmin()]))
    return sides[0], sides[1]


def fitted_to_torus(exemplar: Tensor, basis: np.ndarray, size: tuple[int, int]) -> tuple[Tensor, np.ndarray]:
    """The exemplar, stretched so that a torus of `size` holds whole periods, and its periods then."""
    torus = np.diag(size).astype(float)
    counts = np.rint(torus @ np.linalg.inv(basis))
    if abs(np.linalg.det(counts)) < 0.5:
        return exemplar, basis
    fitted = np.linalg.inv(counts) @ torus
    back = np.linalg.inv(fitted) @ basis  # from positions in the stretched exemplar to the given one
    sides = np.array(exemplar.shape[-2:], float)
    reach = sides / (np.abs(sides @ np.abs(back)) / sides).max()
    height, width = (max(8, math.floor(side)) for side in reach)
    y, x = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in (height, width))
    at = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1) @ torch.from_numpy(back)
    grid = (2 * at / torch.from_numpy(sides)).flip(-1).float().to(exemplar.device)
    warped = F.grid_sample(exemplar, grid[None], mode="bicubic", padding_mode="reflection", align_corners=False)
    return warped.clamp(0, 1), fitted
