"""The pyramid generator of Ulyanov et al. 2016 (arXiv:1603.03417, section 3.2), with widths for CPUs.

Noise goes in at every scale; from the coarsest on, features are doubled in size by repeating pixels, joined with the
noise of the next scale, and convolved. The paper draws its noise scale by scale. Here all scales are means of one noise
image, so that a graph has one input, and a piece of a large texture can be computed from a piece of the noise.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels.features.networks import Width
from artmodels.images.tiling import SizeRequirements, Tiling
from artmodels.runtime.feedforward import Graph
from artmodels.settings import Settings

__all__ = ["PyramidGenerator", "TextureNetworkConfig"]

NOISE = 3  # channels, as in the paper
SCALES = 6  # as in the paper
COARSEST = 1 << (SCALES - 1)  # px of the texture that a pixel of the coarsest scale covers


@dataclass(frozen=True, kw_only=True)
class TextureNetworkConfig(Settings):
    """Widths of a generator."""

    texture: Annotated[str, "What it makes, for people."] = ""
    # The paper has 8 channels more at each finer scale; we have fewer there instead, where a channel costs most.
    widths: Annotated[
        tuple[Width, Width, Width, Width, Width, Width],
        "Channels at each of the paper's six scales, the coarsest first.",
    ] = (64, 64, 48, 32, 24, 16)
    noise_width: Annotated[Width, "Channels that the noise of a scale is given before it is joined; the paper's 8."] = 8


class _Layer(nn.Module):
    """Convolve on the torus, normalise, rectify."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        # Without a bias: the normalisation would take it away again.
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, padding_mode="circular", bias=False)
        # Of a batch and not of an instance: once trained, a pixel depends on the noise around it and nothing else.
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.01)


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_Layer(inputs, outputs, 3), _Layer(outputs, outputs, 3), _Layer(outputs, outputs, 1))


class PyramidGenerator(Graph):
    """Noise [N, 3, H, W], uniform in [0, 1], to a texture of the same shape in (0, 1).

    H and W are multiples of 32. Both images are on a torus: rolling the noise by such multiples rolls the texture, so
    the texture tiles.
    """

    requirements = SizeRequirements(minimum=COARSEST, multiple_of=COARSEST)
    tiling = Tiling.INTERNAL
    # Two convolutions a scale reach 2 of its pixels to each side, 4 COARSEST - 2 in all; and a pixel may lie at either
    # end of the coarsest pixel that covers it.
    context = 5 * COARSEST - 3
    inputs = ("noise",)

    def __init__(self, config: TextureNetworkConfig) -> None:
        """Make it with PyTorch's own random weights."""
        super().__init__()
        coarsest, *finer = config.widths
        self.first = _block(NOISE, coarsest)
        self.noise = nn.ModuleList(_block(NOISE, config.noise_width) for _ in finer)
        self.join = nn.ModuleList(
            _block(below + config.noise_width, width) for below, width in zip(config.widths[:-1], finer, strict=True)
        )
        self.last = nn.Conv2d(config.widths[-1], 3, 1)

    def forward(self, noise: Tensor) -> Tensor:
        """Make a texture of the size of the noise."""
        pyramid = [(noise - 0.5) * 12**0.5]  # of variance 1
        for _ in range(SCALES - 1):
            pyramid.append(2 * F.avg_pool2d(pyramid[-1], 2))  # the mean of four halves the deviation
        y = self.first(pyramid.pop())
        for noise_block, join in zip(self.noise, self.join, strict=True):
            fine = noise_block(pyramid.pop())
            y = join(torch.cat([F.interpolate(y, scale_factor=2.0, mode="nearest"), fine], 1))
        return torch.sigmoid(self.last(y))
