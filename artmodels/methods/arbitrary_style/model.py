"""The networks of Ghiasi et al. 2017 (arXiv:1705.06830), at the paper's size and at one for CPUs.

A predictor looks at a style and says 100 numbers; a transformer repaints a picture as these numbers tell it, by the
scales and shifts after its normalisations (conditional instance normalisation, Dumoulin et al. 2017). The paper's
predictor is Inception-v3 up to Mixed_6e, see `artmodels.methods.arbitrary_style.inception`. Ours reads means and
deviations of art-vgg's features instead: they are what a style loss compares, so that hundreds of paintings are enough
to learn from.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, cast

import torch
from annotated_types import Interval, Predicate
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels import runtime
from artmodels.errors import ConfigError
from artmodels.features.extractor import moments
from artmodels.features.networks import ART_VGG_WIDTHS, CENTRED, MOST_BLOCKS, Depth, Width
from artmodels.images.tiling import SizeRequirements, Tiling
from artmodels.runtime.feedforward import Graph
from artmodels.settings import Settings, odd

__all__ = ["ArbitraryStyleConfig", "StyleStatistics", "StyleTransformer"]

Predictor = Literal["statistics", "inception"]

UP = 2  # layers that double the size
COLOUR = 9  # mean and covariance of red, green and blue: 3 + 6
EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class ArbitraryStyleConfig(Settings):
    """Shape of the two networks: the paper's by default."""

    predictor: Annotated[Predictor, '"inception" as in the paper, or "statistics" of features.'] = "inception"
    bottleneck: Annotated[Width, "Numbers that a style becomes."] = 100
    hidden: Annotated[Width, 'Width of the predictor "statistics" before them.'] = 256
    widths: Annotated[
        tuple[Width, Width, Width],
        "Channels after the first, second and third convolution; the last is also that of the blocks.",
    ] = (32, 64, 128)
    kernel: Annotated[int, Interval(ge=3, le=MOST_BLOCKS), Predicate(odd), "Side of the first and last kernel."] = 9
    blocks: Annotated[Depth, "Residual blocks."] = 5
    early: Annotated[
        bool, "Whether the first convolution halves the size already, and the third is left out: a quarter of the work."
    ] = False
    separable: Annotated[
        bool,
        "Whether the 3 x 3 convolutions after the first three are done channel by channel and then pixel by pixel: a "
        "third of the weights.",
    ] = False
    palette: Annotated[
        bool,
        "Whether the result is given the very mean and covariance of the style's colours, which then follow the "
        "bottleneck's numbers, where the paper learns a scale and a shift for each channel and ends with a sigmoid.",
    ] = False

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.palette and self.predictor == "inception":
            raise ConfigError("palette=True goes with predictor='statistics', which measures colours")

    @property
    def description(self) -> int:
        """How many numbers stand for a style."""
        return self.bottleneck + (COLOUR if self.palette else 0)


class _Contract(nn.Module):
    """Reflect, convolve, rectify. The paper's batch normalisation is folded into weight and bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.pad = kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(F.pad(x, (self.pad,) * 4, mode="reflect")))


class _Conditional(nn.Module):
    """Reflect, convolve, normalise each image, then scale and shift as the style tells."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, separable: bool = False) -> None:
        super().__init__()
        self.pad, self.outputs = kernel // 2, outputs
        # Without a bias: the normalisation would take it away again.
        if separable:
            each = nn.Conv2d(inputs, inputs, kernel, groups=inputs, bias=False)
            self.conv: nn.Module = nn.Sequential(each, nn.Conv2d(inputs, outputs, 1, bias=False))
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, bias=False)
        self.norm = nn.InstanceNorm2d(outputs)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(F.pad(x, (self.pad,) * 4, mode="reflect")))
        return y * scale[..., None, None] + shift[..., None, None]


class StyleTransformer(Graph):
    """A picture [N, 3, H, W] and styles [N, description] to pictures; H and W are multiples of 4."""

    tiling = Tiling.DISCOURAGED
    requirements = SizeRequirements(minimum=16, multiple_of=4)
    inputs = ("image", "style")

    def __init__(self, config: ArbitraryStyleConfig) -> None:
        """Make it with PyTorch's own random weights."""
        super().__init__()
        self.bottleneck, self.description = config.bottleneck, config.description
        low, middle, high = config.widths
        down = [(3, middle, config.kernel, 2)] if config.early else [(3, low, config.kernel, 1), (low, middle, 3, 2)]
        down.append((middle, high, 3, 2))
        self.down = nn.Sequential(*(_Contract(*shape) for shape in down))
        layers = [_Conditional(high, high, separable=config.separable) for _ in range(2 * config.blocks)]
        layers += [_Conditional(*pair, separable=config.separable) for pair in ((high, middle), (middle, low))]
        if not config.palette:
            layers.append(_Conditional(low, 3, config.kernel))
        self.layers = nn.ModuleList(layers)
        self.blocks = config.blocks
        self.pad = config.kernel // 2
        self.last = nn.Conv2d(low, 3, config.kernel, bias=False) if config.palette else None
        # One linear map for all scales and shifts: the paper's heads side by side, scales first.
        self.channels = [layer.outputs for layer in layers]
        self.heads = nn.Linear(config.bottleneck, 2 * sum(self.channels))

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        """Repaint; the result is in (0, 1)."""
        numbers, colours = style[:, : self.bottleneck], style[:, self.bottleneck :]
        scales, shifts = (torch.split(part, self.channels, 1) for part in self.heads(numbers).chunk(2, 1))
        steps = iter(zip(self.layers, scales, shifts, strict=True))

        def conditioned(x: Tensor) -> Tensor:
            layer, scale, shift = next(steps)
            result: Tensor = layer(x, scale, shift)
            return result

        y = self.down(image)
        for _ in range(self.blocks):
            y = y + conditioned(F.relu(conditioned(y)))
        for _ in range(UP):
            y = F.relu(conditioned(F.interpolate(y, scale_factor=2.0, mode="nearest")))
        if self.last is None:
            return torch.sigmoid(conditioned(y))
        y = coloured(self.last(F.pad(y, (self.pad,) * 4, mode="reflect")), colours)
        # Where it is trained, what is cut off must still learn.
        return y + (y.clamp(0, 1) - y).detach() if self.training else y.clamp(0, 1)

    def example(self, batch: int, height: int, width: int, *, seed: int = 0) -> tuple[Tensor, ...]:
        """An image, and numbers for a style: normal ones, and of middling colours."""
        random = runtime.generator(seed)
        style = torch.randn(batch, self.bottleneck, generator=random)
        if self.last is not None:
            style = torch.cat([style, torch.rand(batch, COLOUR, generator=random) * 0.2 + 0.1], 1)
        return (*super().example(batch, height, width, seed=seed), style)


class StyleStatistics(Graph):
    """A style [N, 3, H, W] in [0, 1], at least 32 px a side, to what describes it, [N, description].

    Means and log deviations of art-vgg's features at five depths, and mean and covariance of colours, standardised by
    those of the styles that it was trained on; then two linear maps with a ReLU between. For a palette, the mean
    of the colours and the Cholesky factor of their covariance follow as they are.
    """

    requirements = SizeRequirements(minimum=32)  # at the deepest features two pixels, which can be reflected
    inputs = ("style",)
    output = "description"
    pictures = False
    centre: Tensor
    spread: Tensor

    def __init__(self, config: ArbitraryStyleConfig) -> None:
        """Make it with PyTorch's own random weights."""
        super().__init__()
        self.palette = config.palette
        self.blocks = nn.ModuleList()
        inputs = 3
        for row in ART_VGG_WIDTHS:
            pairs = zip((inputs, *row), row, strict=False)
            self.blocks.append(nn.ModuleList(nn.Conv2d(*pair, 3) for pair in pairs))
            inputs = row[-1]
        self.features = COLOUR + 2 * sum(row[0] for row in ART_VGG_WIDTHS)
        self.register_buffer("centre", torch.zeros(self.features))
        self.register_buffer("spread", torch.ones(self.features))
        self.hidden = nn.Linear(self.features, config.hidden)
        self.last = nn.Linear(config.hidden, config.bottleneck)

    def statistics(self, x: Tensor) -> Tensor:
        """What is looked at, not yet standardised, [N, features]."""
        # Relative to mid-grey, as colours are; the others in the logarithm, which contrast only shifts.
        mean, covariance = moments(x - 0.5)
        rows, columns = torch.triu_indices(3, 3, device=x.device)
        found = [mean, covariance[:, rows, columns]]
        x = (x - CENTRED.mean[0]) / CENTRED.std[0]
        for index, block in enumerate(self.blocks):
            if index:
                x = F.avg_pool2d(x, 2)
            for layer, conv in enumerate(cast("nn.ModuleList", block)):
                x = F.relu(conv(F.pad(x, (1,) * 4, mode="reflect")))
                if not layer:
                    flat = x.flatten(2)
                    found += [flat.mean(2), 0.5 * (flat.var(2, unbiased=False) + 1e-4).log()]
        return torch.cat(found, 1)

    def forward(self, style: Tensor) -> Tensor:
        """Describe styles."""
        standard = (self.statistics(style) - self.centre) / self.spread
        result: Tensor = self.last(F.relu(self.hidden(standard.clamp(-4, 4))))
        if self.palette:
            mean, covariance = moments(style.float())
            result = torch.cat([result.float(), mean, *cholesky(covariance)], 1)
        return result


def cholesky(covariance: Tensor) -> tuple[Tensor, ...]:
    """The factor L of 3 x 3 matrices [N, 3, 3] = L Lᵀ, row by row: l11, l21, l22, l31, l32, l33, each [N, 1].

    Written out, because graphs have no such operator.
    """
    a, b, c, d, e, f = (covariance[:, row, column, None] for row in range(3) for column in range(row + 1))
    l11 = (a + EPSILON).sqrt()
    l21, l31 = b / l11, d / l11
    l22 = (c + EPSILON - l21 * l21).clamp_min(EPSILON).sqrt()
    l32 = (e - l31 * l21) / l22
    l33 = (f + EPSILON - l31 * l31 - l32 * l32).clamp_min(EPSILON).sqrt()
    return l11, l21, l22, l31, l32, l33


def coloured(y: Tensor, colours: Tensor) -> Tensor:
    """Give images [N, 3, H, W] a mean colour and a covariance, [N, 9]: mean, and L row by row."""
    y, colours = y.float(), colours.float()  # small variances, which float16 would round away
    mean, covariance = moments(y)
    l11, l21, l22, l31, l32, l33 = (part[..., None, None] for part in cholesky(covariance))
    first, second, third = torch.split(y - mean[..., None, None], 1, 1)
    first = first / l11
    second = (second - l21 * first) / l22
    third = (third - l31 * first - l32 * second) / l33
    r, g, b, m11, m21, m22, m31, m32, m33 = torch.split(colours[..., None, None], 1, 1)
    return torch.cat([r + m11 * first, g + m21 * first + m22 * second, b + m31 * first + m32 * second + m33 * third], 1)
