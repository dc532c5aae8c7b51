"""The predictor of Ghiasi et al. 2017 (arXiv:1705.06830): Inception-v3 (arXiv:1512.00567) up to Mixed_6e, and a map.

As TF-slim builds it and Magenta trained it: with ReLU6 for ReLU, and pixels in [0, 1] as they are. Batch normalisation
is folded into the weight and the bias of the convolution before it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels.images.tiling import SizeRequirements
from artmodels.runtime.feedforward import Graph

__all__ = ["InceptionStyle"]

Layer = tuple[int, int | tuple[int, int]]  # channels and kernel

FEATURES = 768
ROW, COLUMN = (1, 7), (7, 1)


class _Convolution(nn.Conv2d):
    """Convolve, then ReLU6."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(super().forward(x))


class _Mixed(nn.Module):
    """Branches that read the same maps; what they say is put together."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def _branch(inputs: int, *layers: Layer, pool: bool = False) -> nn.Sequential:
    """Convolutions that keep the size; with a pool that averages, at the border, what is there."""
    modules: list[nn.Module] = [nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)] if pool else []
    for outputs, kernel in layers:
        modules.append(_Convolution(inputs, outputs, kernel, padding="same"))
        inputs = outputs
    return nn.Sequential(*modules)


def _square(inputs: int, pooled: int) -> _Mixed:
    """Mixed_5b to Mixed_5d; `pooled` are the channels of the last branch."""
    return _Mixed(
        _branch(inputs, (64, 1)),
        _branch(inputs, (48, 1), (64, 5)),
        _branch(inputs, (64, 1), (96, 3), (96, 3)),
        _branch(inputs, (pooled, 1), pool=True),
    )


def _halving(inputs: int) -> _Mixed:
    """Mixed_6a."""
    return _Mixed(
        _Convolution(inputs, 384, 3, stride=2),
        nn.Sequential(*_branch(inputs, (64, 1), (96, 3)), _Convolution(96, 96, 3, stride=2)),
        nn.MaxPool2d(3, stride=2),
    )


def _crossed(width: int) -> _Mixed:
    """Mixed_6b to Mixed_6e: rows and columns of seven; `width` are the channels within."""
    return _Mixed(
        _branch(FEATURES, (192, 1)),
        _branch(FEATURES, (width, 1), (width, ROW), (192, COLUMN)),
        _branch(FEATURES, (width, 1), (width, COLUMN), (width, ROW), (width, COLUMN), (192, ROW)),
        _branch(FEATURES, (192, 1), pool=True),
    )


class InceptionStyle(Graph):
    """A style [N, 3, H, W] in [0, 1], at least 43 px a side, to what describes it, [N, bottleneck]."""

    # Six layers without padding, four of which halve the size, leave one pixel of 43; Mixed_6a is the last of them.
    requirements = SizeRequirements(minimum=43)
    inputs = ("style",)
    output = "description"
    pictures = False

    def __init__(self, bottleneck: int = 100) -> None:
        """Make it with PyTorch's own random weights; a style becomes `bottleneck` numbers."""
        super().__init__()
        self.stem = nn.Sequential(
            _Convolution(3, 32, 3, stride=2),
            _Convolution(32, 32, 3),
            _Convolution(32, 64, 3, padding="same"),
            nn.MaxPool2d(3, stride=2),
            _Convolution(64, 80, 1),
            _Convolution(80, 192, 3),
            nn.MaxPool2d(3, stride=2),
        )
        squares = (_square(192, 32), _square(256, 64), _square(288, 64))
        self.mixed = nn.Sequential(*squares, _halving(288), *map(_crossed, (128, 160, 160, 192)))
        self.last = nn.Linear(FEATURES, bottleneck)

    def forward(self, style: Tensor) -> Tensor:
        """Describe styles."""
        result: Tensor = self.last(self.mixed(self.stem(style)).mean((2, 3)))
        return result
