"""The image transformation network of Johnson et al. 2016 (arXiv:1603.08155), a slim one for CPUs, and their layouts.

All are: convolutions that halve the size twice, residual blocks, and back up. Where the paper uses transposed
convolutions, whose uneven overlap leaves a checkerboard (Odena et al. 2016), the layout "resize" repeats pixels and
then convolves; where the paper pads the image by 40 pixels once, every convolution reflects its own border. So does the
network of PyTorch's examples. The layout "torch7" is the paper's own, for its authors' checkpoints. Both use instance
normalisation (Ulyanov et al. 2016, arXiv:1607.08022) instead of batch normalisation, as all later work does.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from annotated_types import Interval, Predicate
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels.errors import ConfigError
from artmodels.features.networks import CAFFE, MOST_BLOCKS, Depth, Width
from artmodels.images.tiling import SizeRequirements, Tiling
from artmodels.runtime.feedforward import Graph, doubled, normalised, rectified
from artmodels.settings import Settings, odd

__all__ = ["FastStyleConfig", "TransformerNet"]

Layout = Literal["resize", "torch7"]
Padding = Literal["reflect", "zeros", "valid"]


@dataclass(frozen=True, kw_only=True)
class FastStyleConfig(Settings):
    """Shape of a network: the paper's widths by default."""

    style: Annotated[str, "What the network paints like, for people: a title and an artist."] = ""
    widths: Annotated[
        tuple[Width, Width, Width],
        "Channels after the first, second and third convolution; the last is also that of the blocks.",
    ] = (32, 64, 128)
    kernel: Annotated[int, Interval(ge=3, le=MOST_BLOCKS), Predicate(odd), "Side of the first and last kernel."] = 9
    blocks: Annotated[Depth, "Residual blocks."] = 5
    early: Annotated[
        bool, "Whether the first convolution halves the size already, and the third is left out: a quarter of the work."
    ] = False
    layout: Annotated[
        Layout,
        '"resize" as described above; "torch7" reflects the border of the image once, takes Caffe\'s mean colour off, '
        "and has zero-padded and transposed convolutions, and blocks without padding.",
    ] = "resize"
    output: Annotated[
        Literal["sigmoid", "linear", "tanh"],
        'What the last convolution\'s y becomes: "sigmoid" of it, itself ("linear"), or 150 tanh(y) plus Caffe\'s mean '
        'colour on a scale of 255 ("tanh"); the last two cut to the range of images.',
    ] = "sigmoid"

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.early and self.layout == "torch7":
            raise ConfigError("early=True goes with layout='resize' only: leave one of the two out")


class _Layer(nn.Module):
    """Pad, convolve, normalise, rectify. `double`: of pixels that are repeated first."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        relu: bool = True,
        padding: Padding = "reflect",
        double: bool = False,
    ) -> None:
        super().__init__()
        self.enlarging = double and padding == "reflect"
        self.pad = kernel // 2 if padding == "reflect" else 0
        zeros = kernel // 2 if padding == "zeros" else 0
        # Without a bias: the normalisation would take it away again.
        self.conv: nn.Module
        if double and not self.enlarging:
            self.conv = nn.ConvTranspose2d(inputs, outputs, kernel, 2, zeros, output_padding=1, bias=False)
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=zeros, bias=False)
        self.norm = nn.InstanceNorm2d(outputs, affine=True)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        if self.enlarging:
            y = doubled(x, cast("nn.Conv2d", self.conv).weight)
        else:
            y = self.conv(F.pad(x, (self.pad,) * 4, mode="reflect") if self.pad else x)
        y = normalised(y, self.norm.weight, self.norm.bias)
        return rectified(y) if self.relu else y


class _Residual(nn.Module):
    """Two layers beside the identity; no ReLU after the sum (Gross & Wilber 2016), as in the paper."""

    def __init__(self, width: int, padding: Padding) -> None:
        super().__init__()
        self.first = _Layer(width, width, 3, padding=padding)
        self.second = _Layer(width, width, 3, relu=False, padding=padding)
        self.crop = 2 if padding == "valid" else 0  # what two 3 x 3 convolutions eat of each border

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        if self.crop:
            x = x[..., self.crop : -self.crop, self.crop : -self.crop]
        return x + y


class TransformerNet(Graph):
    """[N, 3, H, W] in [0, 1] to the same, H and W multiples of 4; strokes are of a fixed size in pixels."""

    tiling = Tiling.DISCOURAGED
    mean: Tensor

    def __init__(self, config: FastStyleConfig) -> None:
        """Make it with PyTorch's own random weights."""
        super().__init__()
        self.config = config
        self.torch7 = config.layout == "torch7"
        # Each block without padding eats 4 of the quarter-size pixels of a side: 40 of the image for the paper's five.
        self.margin = 8 * config.blocks if self.torch7 else 0
        # A reflected border is narrower than the image.
        self.requirements = SizeRequirements(minimum=max(16, self.margin + 4), multiple_of=4)
        low, middle, high = config.widths
        padding: Padding = "zeros" if self.torch7 else "reflect"
        # Early, there are layers at half and quarter size only; the way up ends with `low` channels at full size.
        down = [(3, middle, config.kernel, 2)] if config.early else [(3, low, config.kernel, 1), (low, middle, 3, 2)]
        down.append((middle, high, 3, 2))
        self.down = nn.Sequential(*(_Layer(*shape, stride=stride, padding=padding) for *shape, stride in down))
        within: Padding = "valid" if self.torch7 else "reflect"
        self.blocks = nn.Sequential(*(_Residual(high, within) for _ in range(config.blocks)))
        self.up = nn.Sequential(
            *(_Layer(*pair, 3, padding=padding, double=True) for pair in ((high, middle), (middle, low)))
        )
        self.pad = config.kernel // 2
        self.last = nn.Conv2d(low, 3, config.kernel)
        mean = torch.tensor(CAFFE.mean[::-1]).view(1, 3, 1, 1) / CAFFE.scale
        self.register_buffer("mean", mean, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Stylise; the result is in [0, 1]."""
        y = F.pad(x, (self.margin,) * 4, mode="reflect") - self.mean if self.torch7 else 2 * x - 1
        y = self.up(self.blocks(self.down(y)))
        y = self.last(F.pad(y, (self.pad,) * 4, mode="constant" if self.torch7 else "reflect"))
        if self.config.output == "sigmoid":
            return torch.sigmoid(y)
        if self.config.output == "tanh":
            y = 150 / CAFFE.scale * torch.tanh(y) + self.mean
        return y.clamp(0, 1)
