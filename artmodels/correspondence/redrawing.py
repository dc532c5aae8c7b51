"""What another hand does to a detail: it blends in, changes colours, and may become an engraving."""

import math

import numpy as np
import numpy.typing as npt
from scipy.fft import dstn, idstn
from scipy.ndimage import gaussian_filter

__all__ = ["blended", "engraved", "matched", "recoloured"]

Floats = npt.NDArray[np.float64]
Random = np.random.Generator


def blended(piece: Floats, ground: Floats, weights: Floats, *, seam: float = 0.0) -> Floats:
    """Put a piece on a ground in the gradient domain.

    The gradient of the plain composite w p + (1 - w) g is w grad p + (1 - w) grad g + (p - g) grad w, and the last
    term is the seam, of which `seam`, in [0, 1], says how much stays. The Poisson equation is solved on the rectangle
    around the piece, a margin included, whose border keeps the ground: exactly, by sine transforms. Piece, ground and
    result are [H, W, 3] in [0, 1]; w is `weights`, [H, W] in [0, 1], 0 outside the piece.
    """
    rows, columns = np.flatnonzero((weights > 0).any(1)), np.flatnonzero((weights > 0).any(0))
    if not len(rows):
        return ground.copy()
    margin = max(8, round(0.15 * max(len(rows), len(columns))))
    window = (
        slice(max(rows[0] - margin, 0), rows[-1] + 1 + margin),
        slice(max(columns[0] - margin, 0), columns[-1] + 1 + margin),
    )
    parts = piece[window], ground[window], weights[window][..., None]
    right = np.zeros((parts[0].shape[0] - 2, parts[0].shape[1] - 2, 3))
    for axis in (0, 1):
        p, g, w = (part.swapaxes(0, axis) for part in parts)
        mean = (w[1:] + w[:-1]) / 2
        field = mean * np.diff(p, axis=0) + (1 - mean) * np.diff(g, axis=0)
        field += seam * np.diff(w, axis=0) * (p[1:] + p[:-1] - g[1:] - g[:-1]) / 2
        right += np.diff(field[:, 1:-1], axis=0).swapaxes(0, axis)
    # What is solved for is the difference from the ground, which is 0 on the border.
    g = parts[1]
    right -= np.diff(g[:, 1:-1], n=2, axis=0) + np.diff(g[1:-1], n=2, axis=1)
    waves = [2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) - 2 for n in right.shape[:2]]
    spectrum = dstn(right, type=1, axes=(0, 1)) / (waves[0][:, None] + waves[1])[..., None]
    made = ground.copy()
    made[window][1:-1, 1:-1] += idstn(spectrum, type=1, axes=(0, 1))
    return np.clip(made, 0, 1)


def matched(piece: Floats, ground: Floats, weights: Floats, strength: float) -> Floats:
    """Move a piece's mean and spread of colour towards its new ground's."""
    inside = weights > 0.5
    mean, spread = piece[inside].mean(0), piece[inside].std(0) + 0.02
    target, wide = ground.mean((0, 1)), ground.std((0, 1)) + 0.02
    moved = (piece - mean) * np.sqrt((wide / spread).clip(0.5, 2)) + target
    share = 0.6 * strength
    mixed: Floats = ((1 - share) * piece + share * moved).clip(0, 1)
    return mixed


def recoloured(picture: Floats, strength: float, random: Random) -> Floats:
    """Another palette, with a tone curve: opponent colours turned and scaled, luminance to a power."""
    light = picture @ np.array([0.299, 0.587, 0.114])
    red, blue = picture[..., 0] - light, picture[..., 2] - light
    turn, chroma, gamma, warm, contrast = random.uniform(-1, 1, 5) * strength
    cos, sin = math.cos(1.2 * turn), math.sin(1.2 * turn)
    chroma = 2.0**chroma
    red, blue = chroma * (cos * red - sin * blue) + 0.05 * warm, chroma * (sin * red + cos * blue) - 0.05 * warm
    toned = light ** (2.0 ** (0.8 * gamma))
    toned = toned + 0.5 * contrast * (toned - toned.mean())
    green = -(0.299 * red + 0.114 * blue) / 0.587
    made: Floats = (toned[..., None] + np.stack([red, green, blue], -1)).clip(0, 1)
    return made


def engraved(picture: Floats, random: Random) -> Floats:
    """Draw a picture [H, W, 3] in [0, 1] as an engraving: contours, and up to three layers of hatching for its tones.

    Angle, pitch, paper and ink are random.
    """
    light = picture.mean(2)
    # As a draughtsman does, tones are judged by their surroundings rather than by the whole.
    local = gaussian_filter(light, 0.08 * min(light.shape))
    spread = np.sqrt(gaussian_filter((light - local) ** 2, 0.08 * min(light.shape))) + 0.04
    tone = 0.2 + 0.8 / (1 + np.exp(-1.6 * (gaussian_filter(light, 0.8) - local) / spread - 3 * (local - 0.3)))
    down, across = np.mgrid[: light.shape[0], : light.shape[1]].astype(np.float64)
    pitch = float(random.uniform(3.2, 4.4))
    angle = float(random.uniform(0.2, 0.6)) * math.pi
    bend = 2.5 * gaussian_filter(light, 3.0)  # lines curve with the forms
    ink = np.zeros(light.shape)
    for layer, turn in enumerate((0.0, 1.0, 0.5)):
        direction = angle + turn
        phase = 2 * math.pi * (across * math.cos(direction) + down * math.sin(direction)) / pitch + bend * math.pi
        width = (0.85 - 0.27 * layer - tone).clip(0, 0.7)  # thick where it is dark, none where it is light
        line = (width - np.abs((phase / (2 * math.pi)) % 1 - 0.5) * 1.6) * pitch
        ink = np.maximum(ink, 0.85 * line.clip(0, 1))
    edges = gaussian_filter(light, 1.0) - 0.98 * gaussian_filter(light, 1.6)
    ink = np.maximum(ink, 1 / (1 + np.exp(220 * (edges + 0.004))))
    paper = np.array([0.95, 0.91, 0.82]) + random.uniform(-0.04, 0.04, 3)
    black = np.array([0.13, 0.1, 0.08]) + random.uniform(0, 0.08, 3)
    drawn: Floats = (paper + gaussian_filter(ink, 0.45)[..., None] * (black - paper)).clip(0, 1)
    return drawn
