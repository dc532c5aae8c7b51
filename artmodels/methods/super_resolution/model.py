"""Two networks that enlarge images: the compact SRVGG for every day, and RRDB for those who have its weights.

SRVGG (Real-ESRGAN's compact network, Wang et al. 2021, arXiv:2107.10833) does all its work at the size of the input and
ends with a pixel shuffle (Shi et al. 2016, arXiv:1609.05158); what it computes is added to the input enlarged plainly.
RRDB (ESRGAN, Wang et al. 2018, arXiv:1809.00219) is some 30 times as large. Both are the published networks, weight for
weight; `weights/convert/super_resolution.py` maps their names. Ours to choose is `base`: adding to a bicubic
enlargement instead of repeated pixels, a small network need not learn to interpolate first.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels.features.networks import Depth, Width
from artmodels.images.tiling import SizeRequirements, Tiling
from artmodels.runtime.feedforward import Graph
from artmodels.settings import Settings

__all__ = ["RRDB", "SRVGG", "SuperResolutionConfig", "make_network"]

FARTHEST = 32  # px that tiles of RRDB see to each side, see RRDB


@dataclass(frozen=True, kw_only=True)
class SuperResolutionConfig(Settings):
    """Which network, and how large: the published compact one by default."""

    architecture: Annotated[Literal["srvgg", "rrdb"], '"srvgg" or "rrdb".'] = "srvgg"
    scale: Annotated[Literal[2, 4], "Height and width of the result over those of the picture: 2 or 4."] = 4
    channels: Annotated[Width, "Width of the layers."] = 64
    convs: Annotated[Depth, "Hidden convolutions of SRVGG, without the first and the last."] = 16
    base: Annotated[
        Literal["nearest", "bicubic"],
        'What SRVGG adds to: the picture with repeated pixels ("nearest", as published), or enlarged by the cubic '
        'kernel of Keys 1981 with a = -0.5 ("bicubic").',
    ] = "nearest"
    blocks: Annotated[Depth, "Residual-in-residual dense blocks of RRDB."] = 23
    growth: Annotated[Width, "Channels that each layer of a dense block adds."] = 32


def make_network(config: SuperResolutionConfig) -> "SRVGG | RRDB":
    """Make the network that a configuration describes; an SRVGG enlarges as its `base` does until it is trained."""
    return SRVGG(config) if config.architecture == "srvgg" else RRDB(config)


class _Layer(nn.Module):
    """Convolve 3 x 3; rectify with a slope of its own for each channel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.activation = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.conv(x))
        return y


class SRVGG(Graph):
    """[N, 3, H, W] in [0, 1] to [N, 3, H * scale, W * scale]: `convs` + 2 convolutions at the size of the input."""

    tiling = Tiling.SUPPORTED

    def __init__(self, config: SuperResolutionConfig) -> None:
        """Make it with PyTorch's own random weights, save that the last layer is zero: nothing is added yet."""
        super().__init__()
        self.scale = config.scale
        widths = [3, *[config.channels] * (config.convs + 1)]
        self.layers = nn.Sequential(*(_Layer(*pair) for pair in zip(widths, widths[1:], strict=False)))
        self.last = nn.Conv2d(config.channels, 3 * config.scale**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]
        kernel = bicubic_kernel(config.scale) if config.base == "bicubic" else torch.ones(config.scale**2, 1, 1, 1)
        self.kernel: Tensor
        # Not saved: it follows from the configuration.
        self.register_buffer("kernel", kernel.repeat(3, 1, 1, 1), persistent=False)
        # Pixels of the input, to each side, that a pixel of the output depends on.
        self.context = self.radius = max(config.convs + 2, kernel.shape[-1] // 2)

    def randomise(self, rng: torch.Generator) -> None:
        """Draw the weights of all layers but the last, which stays zero, so that rectifying keeps their scale."""
        for layer in self.layers.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25, generator=rng)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def unclamped(self, x: Tensor) -> Tensor:
        """The enlarged image, which may leave [0, 1]; for training."""
        reach = self.kernel.shape[-1] // 2
        plain = F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), self.kernel, groups=3)  # [N, 3 scale², H, W]
        return F.pixel_shuffle(plain + self.last(self.layers(x)), self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge; the result is in [0, 1]."""
        return self.unclamped(x).clamp(0, 1)


def bicubic_kernel(scale: int) -> Tensor:
    """Weights [scale², 1, 5, 5] that compute the pixels of a bicubic enlargement, a = -0.5 (Keys 1981), row by row.

    Convolved with a picture whose border is repeated, and shuffled, they enlarge as image editors do; as a convolution
    it runs in every runtime.
    """
    offsets = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5  # of the new pixels from the old one
    distance = (torch.arange(-2, 3) - offsets[:, None]).abs()  # [scale, 5]
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    row = torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))
    return torch.einsum("ak,bl->abkl", row, row).reshape(scale**2, 1, 5, 5).float()


class _Dense(nn.Module):
    """Five convolutions, each of which sees all before it; a fifth of what comes out is added to the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        outputs = [growth] * 4 + [channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(channels + index * growth, width, 3, padding=1) for index, width in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for conv in self.convs:
            y = conv(torch.cat(seen, 1))
            seen.append(F.leaky_relu(y, 0.2))
        result: Tensor = x + 0.2 * y  # the last one is not rectified
        return result


class _Block(nn.Module):
    """Three dense blocks; a fifth of what comes out is added to the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*(_Dense(channels, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + 0.2 * self.dense(x)
        return y


class RRDB(Graph):
    """[N, 3, H, W] in [0, 1] to [N, 3, H * scale, W * scale].

    All its layers enlarge by 4: for twice the size, what was halved by turning 2 x 2 pixels into channels.
    A chain of residual branches, each scaled down by 0.2 twice, depends hardly on what is far off: tiles see at most 32
    pixels beyond what is kept of them, although the layers reach `radius`, which for 23 blocks is 349.
    """

    tiling = Tiling.SUPPORTED

    def __init__(self, config: SuperResolutionConfig) -> None:
        """Make it with PyTorch's own random weights."""
        super().__init__()
        self.scale, self.inner = config.scale, 4 // config.scale  # side of the squares that become channels
        self.requirements = SizeRequirements(multiple_of=self.inner)
        width = config.channels
        self.first = nn.Conv2d(3 * self.inner**2, width, 3, padding=1)
        self.blocks = nn.Sequential(*(_Block(width, config.growth) for _ in range(config.blocks)))
        self.trunk = nn.Conv2d(width, width, 3, padding=1)
        self.up = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.fine = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        # First and trunk, 15 a block, and the four at larger sizes, which together reach 2 pixels.
        self.radius = self.inner * (15 * config.blocks + 4)
        self.context = min(self.radius, FARTHEST)

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge; the result is in [0, 1]."""
        x = F.pixel_unshuffle(x, self.inner) if self.inner > 1 else x
        y = self.first(x)
        y = y + self.trunk(self.blocks(y))
        for conv in self.up:
            y = F.leaky_relu(conv(F.interpolate(y, scale_factor=2.0, mode="nearest")), 0.2)
        image: Tensor = self.last(F.leaky_relu(self.fine(y), 0.2))
        return image.clamp(0, 1)
