"""The layers of the networks that features are read from, and how far each of them sees.

A `Stage` turns [N, C, H, W] into [N, channels, H', W'] under any padding mode and states its sliding windows,
from which all geometry follows. Stages are frozen: gradients flow to their input only.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Convolution",
    "Halving",
    "Padding",
    "Patches",
    "Pool",
    "Pooling",
    "RandomFilters",
    "Residual",
    "Stage",
    "Window",
    "padded",
]

Padding = Literal["reflect", "zeros", "circular", "replicate", "valid"]
Pooling = Literal["avg", "max"]

NORM_EPSILON = 1e-5  # torchvision's batch normalisation
BINOMIAL = (1, 4, 6, 4, 1)


class Window(NamedTuple):
    """One sliding window along a side: all that a stage's geometry depends on."""

    kernel: int
    stride: int
    padding: int


class _CircularPad(torch.autograd.Function):
    """`F.pad(mode="circular")`, which costs as much as the convolution after it, made cheap on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: int) -> Tensor:  # noqa: ANN401 - torch gives the context no public type
        ctx.pad = pad
        n, c, h, w = x.shape
        out = torch.empty(
            (n, c, h + 2 * pad, w + 2 * pad), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
        )
        out[..., pad:-pad, pad:-pad] = x
        out[..., pad:-pad, :pad] = x[..., -pad:]
        out[..., pad:-pad, -pad:] = x[..., :pad]
        out[..., :pad, :] = out[..., h : h + pad, :]
        out[..., -pad:, :] = out[..., pad : 2 * pad, :]
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        pad = ctx.pad
        rows = gradient[..., pad:-pad, :].clone()
        rows[..., :pad, :] += gradient[..., -pad:, :]
        rows[..., -pad:, :] += gradient[..., :pad, :]
        inner = rows[..., pad:-pad].clone()
        inner[..., :pad] += rows[..., -pad:]
        inner[..., -pad:] += rows[..., :pad]
        return inner, None


def padded(x: Tensor, pad: int, padding: str) -> Tensor:
    """Widen [N, C, H, W] by `pad` on each side; "zeros" is included, "valid" adds nothing."""
    if pad == 0 or padding == "valid":
        return x
    if padding == "circular":
        return _CircularPad.apply(x, pad)  # type: ignore[no-any-return]
    return F.pad(x, (pad,) * 4, mode="constant" if padding == "zeros" else padding)


class Stage(nn.Module):
    """One step of an extractor. `windows` are the sliding windows of its longest path, first to last."""

    windows: tuple[Window, ...]
    channels: int
    ends_block = True  # with checkpointing, activations are kept only at the ends of blocks

    def forward(self, x: Tensor, padding: str) -> Tensor:
        """[N, C, H, W] to [N, channels, H', W']; `padding` is one of `Padding`."""
        raise NotImplementedError


class Convolution(Stage):
    """A frozen convolution, then ReLU. Batch normalisation between the two is folded into weight and bias."""

    ends_block = False

    def __init__(
        self,
        inputs: int,
        channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
        bias: bool = True,
        key: str = "",
        norm: str = "",
    ) -> None:
        """Make it without weights: `randomise` or `assign` gives them. The kernel is odd.

        In a checkpoint, `key` is its name and `norm` that of the batch normalisation after it, empty if there is none.
        Where the checkpoint holds no bias, it stays 0.
        """
        super().__init__()
        self.windows = (Window(kernel, stride, kernel // 2),)
        self.channels, self.groups, self.relu = channels, groups, relu
        self.key, self.norm, self.biased = key, norm, bias
        self.weight = nn.Parameter(torch.zeros(channels, inputs // groups, kernel, kernel), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(channels), requires_grad=False)

    def forward(self, x: Tensor, padding: str) -> Tensor:
        """Pad, convolve, rectify."""
        _, stride, pad = self.windows[0]
        native = pad if padding == "zeros" else 0
        if not native:
            x = padded(x, pad, padding)
        y = F.conv2d(x, self.weight, self.bias, stride=stride, padding=native, groups=self.groups)
        return y.relu_() if self.relu else y

    def keys(self) -> list[str]:
        """Names of the tensors that `assign` reads from a checkpoint."""
        if not self.biased:
            return [f"{self.key}.weight"]
        if not self.norm:
            return [f"{self.key}.weight", f"{self.key}.bias"]
        names = ("weight", "bias", "running_mean", "running_var")
        return [f"{self.key}.weight", *(f"{self.norm}.{name}" for name in names)]

    def assign(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the weights in, normalisation folded (in float64: the fold itself then costs no accuracy)."""
        weight, *rest = (tensors[key].double() for key in self.keys())
        bias = rest[0] if rest else torch.zeros(self.channels)
        if self.norm:
            scale, shift, mean, variance = rest
            gain = scale / (variance + NORM_EPSILON).sqrt()
            weight, bias = weight * gain[:, None, None, None], shift - mean * gain
        self.weight.data.copy_(weight)
        self.bias.data.copy_(bias)

    def randomise(self, generator: torch.Generator) -> None:
        """He et al. 2015, eq. 10: weights of variance 2 / fan-in, no bias."""
        self.weight.data.normal_(0.0, math.sqrt(2 / self.weight[0].numel()), generator=generator)
        self.bias.data.zero_()


class RandomFilters(Convolution):
    """A bank of random zero-mean filters, scaled for images rather than for white noise."""

    def randomise(self, generator: torch.Generator) -> None:
        """Draw the filters; on a grey image of variance 1 their responses have variance 2, so E[relu²] = 1.

        He's scaling assumes white input. The power of images falls as 1/f², of which a small zero-mean filter
        sees little: by fan-in alone the 3 x 3 responses would be far weaker than the 11 x 11 ones.
        """
        super().randomise(generator)
        weight = self.weight.data
        weight -= weight.mean((1, 2, 3), keepdim=True)
        side = 64
        frequency = torch.fft.fftfreq(side)
        power = 1 / (frequency[:, None] ** 2 + frequency**2).clamp_min(1 / side**2)
        power[0, 0] = 0
        response = torch.fft.fft2(weight.sum(1), s=(side, side)).abs() ** 2  # [maps, side, side]
        variance = (response * power / power.sum()).sum((1, 2)).mean()
        weight *= (2 / variance).sqrt()


class Halving(Convolution):
    """One step of a Gaussian pyramid (Burt & Adelson 1983) on each colour: 5 x 5 binomial blur, stride 2."""

    def __init__(self) -> None:
        """Make it for RGB."""
        super().__init__(3, 3, 5, stride=2, groups=3, relu=False)
        kernel = torch.tensor(BINOMIAL) / sum(BINOMIAL)
        self.weight.data.copy_(kernel[:, None] * kernel)

    def randomise(self, generator: torch.Generator) -> None:
        """Nothing here is random."""


class Pool(Stage):
    """Average or maximum over a square window. Padding follows the mode asked where it can matter."""

    def __init__(self, channels: int, window: Window, kind: str) -> None:
        """Make it of `kind` "avg" or "max"."""
        super().__init__()
        self.windows = (window,)
        self.channels, self.kind = channels, kind

    def forward(self, x: Tensor, padding: str) -> Tensor:
        """Pool; sizes are rounded down."""
        kernel, stride, pad = self.windows[0]
        if pad and padding in ("circular", "valid"):
            # Under a maximum over 3 pixels, reflect and replicate equal torchvision's -inf; these two do not.
            x, pad = padded(x, pad, padding), 0
        pool = F.max_pool2d if self.kind == "max" else F.avg_pool2d
        return pool(x, kernel, stride, pad)


class Residual(Stage):
    """Convolutions beside a shortcut (He et al. 2016, fig. 2 and 5), ReLU after the sum."""

    def __init__(self, convolutions: Sequence[Convolution], shortcut: Convolution | None) -> None:
        """Put a path together, beside a shortcut or, for None, the identity."""
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.shortcut = shortcut
        self.windows = tuple(window for conv in convolutions for window in conv.windows)
        self.channels = convolutions[-1].channels

    def forward(self, x: Tensor, padding: str) -> Tensor:
        """Both paths, summed and rectified."""
        y = x
        for conv in self.convolutions:
            y = conv(y, padding)
        if padding == "valid":
            x = _crop_like_unpadded(x, self.windows)
        if self.shortcut is not None:
            x = self.shortcut(x, padding)
        return y.add_(x).relu_()


def _crop_like_unpadded(x: Tensor, windows: Sequence[Window]) -> Tensor:
    """Drop from a shortcut the border that the unpadded windows beside it lose, so that both stay aligned."""
    border, jump = 0, 1
    for window in windows:
        border += window.padding * jump
        jump *= window.stride
    return x[..., border : x.shape[-2] - border, border : x.shape[-1] - border]


class Patches(Stage):
    """Every k x k patch as one vector of 3·k² channels, ordered colour, row, column."""

    def __init__(self, size: int) -> None:
        """Make it for patches of `size` x `size` pixels, odd."""
        super().__init__()
        self.windows = (Window(size, 1, size // 2),)
        self.channels = 3 * size**2

    def forward(self, x: Tensor, padding: str) -> Tensor:
        """[N, 3, H, W] to [N, 3·k², H', W']."""
        size, _, pad = self.windows[0]
        x = padded(x, pad, padding)
        height, width = x.shape[-2] - size + 1, x.shape[-1] - size + 1
        return F.unfold(x, size).view(x.shape[0], self.channels, height, width)
