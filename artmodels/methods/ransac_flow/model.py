"""The fine stage: how a picture that is roughly in place still has to move, and where the two can be matched at all.

Shen, Darmon, Efros and Aubry 2020, "RANSAC-Flow: generic two-stage image alignment" (arXiv:2004.01526), section 3.2.
Features at stride 8, their cosines within 7 x 7 cells, and two heads: one weighs the 49 shifts, the other says how far
the place can be matched. The published network is here as it is, weight for weight; see
`weights/convert/ransac_flow.py`. Ours reads the first layers of art-resnet instead, which the coarse stage needs
anyway, and has heads of half the width.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Interval, Predicate
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels import features
from artmodels.features.networks import Width
from artmodels.images.tiling import SizeRequirements
from artmodels.runtime.devices import generator
from artmodels.runtime.feedforward import Graph
from artmodels.settings import Settings, odd

__all__ = ["STRIDE", "FineConfig", "FineNetwork", "correlation", "enlarged"]

STRIDE = 8
TAP = "layer2"  # of art-resnet, at that stride
LARGEST = 31  # cells of the side of a window: half of a small picture


@dataclass(frozen=True, kw_only=True)
class FineConfig(Settings):
    """Which network the fine stage is; the published one is `encoder="published"`, 512/256/128, `corners=True`."""

    encoder: Annotated[
        Literal["art-resnet", "published"],
        '"art-resnet" (up to layer2) or "published": a ResNet-18 without a stride in its first layer.',
    ] = "art-resnet"
    width: Annotated[
        Width, "Channels of the first layer of the published encoder; the last has four times as many."
    ] = 64
    heads: Annotated[tuple[Width, Width, Width], "Channels of the hidden layers of each head."] = (256, 128, 64)
    window: Annotated[
        int,
        Interval(ge=3, le=LARGEST),
        Predicate(odd),
        "Cells of the side of the window in which cosines are computed. A place can move by half of it.",
    ] = 7
    corners: Annotated[
        bool,
        "Whether -1 and 1 are the centres of the first and last pixel, as for the published weights, which were "
        "trained so, rather than their outer edges.",
    ] = False


def correlation(target: Tensor, source: Tensor, window: int) -> Tensor:
    """Cosines of each cell of the target with the cells of a window around the same place of the source.

    Of cells [N, C, R, S] of unit length they are [N, window², R, S], row by row; cells outside are 0.
    """
    reach, (rows, columns) = window // 2, target.shape[2:]
    around = F.pad(source, (reach,) * 4)
    cosines = [
        (target * around[:, :, down : down + rows, across : across + columns]).sum(1)
        for down in range(window)
        for across in range(window)
    ]
    return torch.stack(cosines, 1)


class FineNetwork(Graph):
    """A source that lies roughly on its target, both [N, 3, H, W] in [0, 1], to [N, 6, H, W].

    The first two channels say where the target's pixels are in the source: x and y, as what is to be added to their
    relative coordinates, which run from -1 to 1 between the outer edges of the picture. The third is the matchability,
    in [0, 1]. The other three say the same of the source's pixels. H and W are multiples of 8.

        >>> network = FineNetwork()  # untrained; that of `RansacFlow.from_pretrained()` is trained
        >>> list(network.eval()(torch.rand(1, 3, 64, 48), torch.rand(1, 3, 64, 48)).shape)
        [1, 6, 64, 48]
    """

    requirements = SizeRequirements(minimum=32, multiple_of=STRIDE)
    inputs: ClassVar[tuple[str, ...]] = ("source", "target")
    output: ClassVar[str] = "alignment"
    pictures: ClassVar[bool] = False

    def __init__(self, config: FineConfig | None = None, *, seed: int = 0) -> None:
        """Make it with seeded random weights: shifts are then 0 on average and the matchability is a half."""
        super().__init__()
        self.config = config or FineConfig()
        cells = self.config.window**2
        self.encoder: nn.Module
        if self.config.encoder == "published":
            self.encoder = _Encoder(self.config.width)
        else:
            self.encoder = features.build("art-resnet", until=TAP, padding="zeros", seed=seed)
        self.flow = _Head(cells, self.config.heads, cells)
        self.matchability = _Head(cells, self.config.heads, 1)
        offsets = torch.arange(self.config.window) - self.config.window // 2.0
        shifts = torch.stack([offsets.repeat(self.config.window), offsets.repeat_interleave(self.config.window)])
        self.shifts: Tensor
        self.register_buffer("shifts", shifts, persistent=False)  # [2, window²], x and y in cells
        self._randomise(generator(seed))

    def _randomise(self, rng: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=rng)
        # So that the matchability begins at a half everywhere.
        nn.init.normal_(self.matchability.conv4.weight, std=1e-4, generator=rng)

    def example(self, batch: int, height: int, width: int, *, seed: int = 0) -> tuple[Tensor, ...]:
        """A picture, and the same moved by a few pixels; see `Graph.example`."""
        (image,) = super().example(batch, height, width, seed=seed)
        return image, image.roll((3, -2), (2, 3))

    def encode(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] to cells of unit length, [N, C, H / 8, W / 8]."""
        ours = isinstance(self.encoder, features.FeatureExtractor)
        return F.normalize(self.encoder(images, [TAP])[TAP] if ours else self.encoder(images), dim=1)

    def weights_of_shifts(self, cosines: Tensor) -> Tensor:
        """[N, window², R, S], how much each shift counts; they sum to 1."""
        shares: Tensor = self.flow(cosines).softmax(1)
        return shares

    def displacement(self, shares: Tensor) -> Tensor:
        """The mean shift of each cell, [N, 2, R, S], in relative coordinates."""
        rows, columns = shares.shape[2:]
        cells = torch.einsum("nkrs,ck->ncrs", shares, self.shifts)
        extent = torch.tensor([columns, rows], dtype=cells.dtype, device=cells.device).view(1, 2, 1, 1)
        moved = cells * 2 / extent
        if self.config.corners:
            # A step of 2 spans W - 1 pixels there, and W here.
            pixels = extent * STRIDE
            moved = moved * (pixels - 1) / pixels
        return moved

    def match(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """From features of both, [N, C, R, S]: displacement [N, 2, R, S] and matchability [N, 1, R, S]."""
        cosines = correlation(target, source, self.config.window)
        return self.displacement(self.weights_of_shifts(cosines)), self.matchability(cosines).sigmoid()

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        one, other = self.encode(source), self.encode(target)
        return enlarged(torch.cat([*self.match(one, other), *self.match(other, one)], 1))

    def one_way(self, source: Tensor, target: Tensor) -> Tensor:
        """Displacement and matchability of the target's pixels alone, [N, 3, H, W]."""
        return enlarged(torch.cat(self.match(self.encode(source), self.encode(target)), 1))


def enlarged(cells: Tensor) -> Tensor:
    """From cells [N, C, R, S] to pixels [N, C, 8 R, 8 S]."""
    return F.interpolate(cells, scale_factor=STRIDE, mode="bilinear", align_corners=False)


class _Head(nn.Module):
    """Four 3 x 3 convolutions, normalised and rectified but for the last; the names are the published ones."""

    def __init__(self, inputs: int, hidden: tuple[int, int, int], outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, hidden[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden[0])
        self.conv2 = nn.Conv2d(hidden[0], hidden[1], 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden[1])
        self.conv3 = nn.Conv2d(hidden[1], hidden[2], 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(hidden[2])
        self.conv4 = nn.Conv2d(hidden[2], outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        x = self.bn3(self.conv3(x)).relu_()
        y: Tensor = self.conv4(x)
        return y


class _Blur(nn.Module):
    """Halve with the binomial filter 1 2 1 in each direction (Zhang 2019, arXiv:1904.11486); borders are reflected."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.kernel: Tensor
        self.register_buffer("kernel", (line[:, None] * line).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1,) * 4, mode="reflect"), self.kernel, stride=2, groups=len(self.kernel))


class _Block(nn.Module):
    """A residual block whose shortcut is blurred where it is halved."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=1 + halve, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if halve:
            self.downsample = nn.Sequential(
                _Blur(inputs), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        both: Tensor = y + self.downsample(x)
        return both.relu()


class _Encoder(nn.Module):
    """The published one: [N, 3, H, W] to [N, 4 width, H / 8, W / 8]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.blur = _Blur(width)
        self.layer1 = nn.Sequential(_Block(width, width, halve=False), _Block(width, width, halve=False))
        self.layer2 = nn.Sequential(_Block(width, 2 * width, halve=True), _Block(2 * width, 2 * width, halve=False))
        self.layer3 = nn.Sequential(_Block(2 * width, 4 * width, halve=True), _Block(4 * width, 4 * width, halve=False))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu_(), 2, stride=1)
        y: Tensor = self.layer3(self.layer2(self.layer1(self.blur(x))))
        return y
