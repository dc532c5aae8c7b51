"""Pictures as something that is easier to descend in than pixels: Fourier coefficients, or phases alone.

Source: Olah et al. 2017, "Feature Visualization" (Fourier coefficients that are scaled as natural pictures fall off,
and decorrelated colours), with the numbers of its library, Lucid; Fel et al. 2023, "Unlocking Feature Visualization for
Deeper Networks with MAgnitude Constrained Optimization" (phases; the magnitude is that of natural pictures).
"""

import json
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["COLOURS", "Fourier", "NODES", "Parametrisation", "Phase", "frequencies", "natural_magnitude", "recoloured"]

# Square root of the covariance of the colours of ImageNet's pictures; a row is R, G or B (Lucid).
_ROOT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
COLOURS = torch.tensor(_ROOT) / torch.tensor(_ROOT).norm(dim=0).max()

SPECTRUM = Path(__file__).with_name("spectrum.json")
NODES = 17  # of the stored spectrum along each axis: at frequencies 0.5 (i / 16)², close together where it is steep
EPSILON = 1e-5


class Parametrisation(Protocol):
    """Pictures as functions of a tensor of real numbers."""

    def start(self, generator: torch.Generator) -> Tensor:
        """Draw the numbers of pictures to begin with."""

    def image(self, parameter: Tensor) -> Tensor:
        """Pictures [N, 3, h, w] in [0, 1]."""


def frequencies(height: int, width: int) -> Tensor:
    """Cycles per pixel of each coefficient of `torch.fft.rfft2`, [h, w // 2 + 1]."""
    return torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width))


def recoloured(decorrelated: Tensor) -> Tensor:
    """Colours [N, 3, h, w] of which each channel varies by itself, as they go together in natural pictures."""
    return torch.einsum("ij,njhw->nihw", COLOURS.to(decorrelated), decorrelated)


class Fourier:
    """Real and imaginary parts of coefficients, which are scaled by one over their frequency."""

    def __init__(self, count: int, size: tuple[int, int], device: torch.device | None = None) -> None:
        """Of `count` pictures of (height, width)."""
        self.count, self.size = count, size
        floor = 1 / max(size)
        self.scale = (1 / frequencies(*size).clamp_min(floor)).to(device)[..., None]

    def start(self, generator: torch.Generator) -> Tensor:
        """Nearly grey noise: [N, 3, h, w // 2 + 1, 2], of deviation 0.01."""
        shape = (self.count, 3, *self.scale.shape[:2], 2)
        return (0.01 * torch.randn(shape, generator=generator)).to(self.scale.device)

    def image(self, parameter: Tensor) -> Tensor:
        """See `Parametrisation`. The transform is unitary, so that one rate does for all sizes; the 4 is Lucid's."""
        spectrum = torch.view_as_complex((parameter * self.scale).contiguous())
        return torch.sigmoid(recoloured(torch.fft.irfft2(spectrum, s=self.size, norm="ortho") / 4))


class Phase:
    """Phases of coefficients whose magnitudes are those of natural pictures."""

    def __init__(self, count: int, size: tuple[int, int], device: torch.device | None = None) -> None:
        """Of `count` pictures of (height, width)."""
        self.count, self.size = count, size
        self.magnitude = natural_magnitude(*size).to(device)

    def start(self, generator: torch.Generator) -> Tensor:
        """Random phases in radians, [N, 3, h, w // 2 + 1], of deviation 1."""
        return torch.randn((self.count, *self.magnitude.shape), generator=generator).to(self.magnitude.device)

    def image(self, parameter: Tensor) -> Tensor:
        """See `Parametrisation`; the phases of a picture, and its values before colour, have mean 0 and deviation 1."""
        spectrum = torch.polar(self.magnitude.expand_as(parameter), _standardised(parameter))
        values = _standardised(torch.fft.irfft2(spectrum, s=self.size))
        return torch.sigmoid(recoloured(values))


def _standardised(x: Tensor) -> Tensor:
    """Each of [N, ...] brought to mean 0 and deviation 1."""
    axes = tuple(range(1, x.ndim))
    x = x - x.mean(axes, keepdim=True)
    return x / (x.square().mean(axes, keepdim=True).sqrt() + EPSILON)


def natural_magnitude(height: int, width: int) -> Tensor:
    """Magnitudes of the coefficients of natural pictures in decorrelated colours, [3, h, w // 2 + 1], up to a factor.

    `python -m artmodels.methods.interpret.visualisation.spectrum` measured them. Stored is frequency times magnitude,
    which is nearly flat, on a coarse grid of positive frequencies: a picture and its mirror image are as natural.
    """
    table = _stored()
    # grid_sample counts from -1 to 1; a frequency of 0.5 (i / 16)² is node i.
    down = (8 * torch.fft.fftfreq(height).abs()).sqrt() - 1
    across = (8 * torch.fft.rfftfreq(width)).sqrt() - 1
    grid = torch.stack([across.expand(height, -1), down[:, None].expand(-1, len(across))], -1)
    flat = F.grid_sample(table[None], grid[None], align_corners=True, padding_mode="border")[0]
    return flat / frequencies(height, width).clamp_min(1 / max(height, width))


@cache
def _stored() -> Tensor:
    """[3, 17, 17]: frequency times magnitude, by rows and columns of nodes."""
    stored = json.loads(SPECTRUM.read_text(encoding="utf-8"))
    return torch.tensor(stored["flat"]).view(3, NODES, NODES)
