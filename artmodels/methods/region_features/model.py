"""Regions of an image that may show an object: the configuration, the choice among boxes, and our own small network.

A detector turns an image into boxes, their objectness and a descriptor of each. `ArtRegions` is ours and works offline;
`artmodels.methods.region_features.faster_rcnn` holds those of the literature. All choose by the rule of Ren et al. 2015
(arXiv:1506.01497), which Gonthier et al. 2018 (arXiv:1810.02569) use with K = 300: the best 6000 boxes, non-maximum
suppression at IoU 0.7, the best K that remain. The box that was proposed is the detection: no second stage moves it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms, roi_align

from artmodels.detections import boxes as box_ops
from artmodels.errors import ConfigError, at_most, one_of
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.networks import WIDEST
from artmodels.images.resampling import resized

__all__ = [
    "Anchors",
    "ArtRegions",
    "RegionNetwork",
    "FoundRegions",
    "Head",
    "RegionFeaturesConfig",
    "anchor_shapes",
    "decoded",
    "encoded",
    "region_means",
    "scaled_size",
    "select",
    "spread",
    "unscaled",
]

Network = Literal["art-regions", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet152_c4"]

TAPS = ("layer2", "layer3")
STRIDES = (8, 16, 32, 64, 128)  # of the head's levels: the two taps, and three halvings of the second
RATIOS = (0.5, 1.0, 2.0)  # height over width
SIZES = (2.5, 3.75)  # of anchors, in strides: 20 to 480 px over all levels
LARGEST = math.log(1000 / 16)  # of the factor by which a side may change, as Faster R-CNN bounds it
MANY, SURE, LARGE = 300, 0.1, 36  # of `spread`: regions to choose from, objectness, px
LEAST = 1e-3  # px: narrower boxes are none
SMALLEST = 64  # px that a side is padded to at least, so that every border has pixels to copy
MOST_BOXES = 10**6
CELLS, SAMPLES = 7, 2  # of a region, to each side, and of a cell


@dataclass(frozen=True, kw_only=True)
class RegionFeaturesConfig:
    """Which network proposes, and the rule by which boxes are kept: the paper's values by default.

    Attributes:
        network: "art-regions", ours; or Faster R-CNN with ResNet-50 and a feature pyramid, v1 or v2, or with
            ResNet-152 as in the paper ("c4").
        backbone: Of "art-regions": a name or folder that `artmodels.features.load` takes, with layer2 and layer3.
        width: Channels of the head of "art-regions".
        regions: K, the most regions of an image.
        spread: Choose those K of the paper's 300 by its authors' rule for fewer, see `spread`.
        before: Best boxes that non-maximum suppression looks at; of each level, where there are several.
        overlap: IoU above which of two boxes the lesser goes.
        least: Objectness below which a box is none, from 0 to 1.
        shorter: Pixels that the shorter side is brought to,
        longer: unless the longer one would exceed these.
    """

    network: Network = "art-regions"
    backbone: str = "art-resnet"
    width: int = 96
    regions: int = 300
    spread: bool = False
    before: int = 6000
    overlap: float = 0.7
    least: float = 0.0
    shorter: int = 600
    longer: int = 1000

    def __post_init__(self) -> None:
        """Check the values."""
        one_of("network", self.network, get_args(Network))
        if min(self.regions, self.before, self.width) < 1:
            raise ConfigError(f"regions={self.regions}, before={self.before} and width={self.width} must be at least 1")
        if not 0 <= self.overlap <= 1 or not 0 <= self.least <= 1:
            raise ConfigError(f"overlap={self.overlap} and least={self.least} must be from 0 to 1")
        if not 16 <= self.shorter <= self.longer:
            raise ConfigError(f"shorter={self.shorter} must be at least 16, and longer={self.longer} no less than it")
        at_most(WIDEST, width=self.width, longer=self.longer)
        at_most(MOST_BOXES, regions=self.regions, before=self.before)


class FoundRegions(NamedTuple):
    """Regions of one image: boxes [K, 4] in its pixels, objectness [K] in [0, 1], descending, features [K, M]."""

    boxes: Tensor
    objectness: Tensor
    features: Tensor


class RegionNetwork(nn.Module):
    """A network that finds regions. It computes in float32.

    Attributes:
        config: Its settings.
        features: M, the length of a descriptor.
    """

    config: RegionFeaturesConfig
    features: int

    def forward(self, images: Sequence[Tensor]) -> list[FoundRegions]:
        """Find the regions of images [1, 3, H, W] in [0, 1]; where there is none, the whole image is one.

        They go through the network together: `size` must be the same for all.
        """
        raise NotImplementedError

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image is brought to."""
        return scaled_size(height, width, shorter=self.config.shorter, longer=self.config.longer)

    @property
    def stored(self) -> nn.Module:
        """What a checkpoint holds."""
        return self


# --- Boxes


def scaled_size(height: int, width: int, *, shorter: int, longer: int) -> tuple[int, int]:
    """The (height, width) at which the shorter side is `shorter`, or the longer one `longer` if that is less."""
    ratio = min(shorter / min(height, width), longer / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def unscaled(boxes: Tensor, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [K, 4] in the pixels of an image [..., H, W] which was brought to this (height, width) when they were."""
    height, width = image.shape[-2:]
    ratio = boxes.new_tensor([width / size[1], height / size[0]]).repeat(2)
    return box_ops.clip(boxes * ratio, width, height)


def anchor_shapes(size: float, ratios: Sequence[float] = RATIOS) -> Tensor:
    """Boxes [R, 4] round the origin, each with the area size², one a ratio of height over width."""
    heights = size * torch.tensor(ratios).sqrt()
    widths = size * size / heights
    return torch.stack([-widths, -heights, widths, heights], 1) / 2


class Anchors:
    """Anchors round every position of a feature map, [H * W * A, 4], position by position."""

    def __init__(self, shapes: Tensor, stride: int, *, centre: float = 0.5) -> None:
        """Repeat shapes [A, 4] every `stride` pixels; the first position is that of pixel `centre` on both axes."""
        self.shapes, self.stride, self.centre = shapes, stride, centre

    def __call__(self, features: Tensor) -> Tensor:
        """Those of a map [N, C, H, W]."""
        rows, columns = (
            torch.arange(n, device=features.device) * float(self.stride) + self.centre for n in features.shape[-2:]
        )
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        centres = torch.stack([x, y, x, y], -1).view(-1, 1, 4)
        return (centres + self.shapes.to(features.device)).view(-1, 4)


def decoded(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [N, 4] that deltas (dx, dy, dw, dh) make of anchors [N, 4]; Ren et al. 2015, eq. 2."""
    sides = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + sides / 2 + deltas[:, :2] * sides
    half = deltas[:, 2:].clamp(max=LARGEST).exp() * sides / 2
    return torch.cat([centres - half, centres + half], 1)


def encoded(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas [N, 4] that make these boxes [N, 4] of anchors [N, 4]: the inverse of `decoded`."""
    sides, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + wanted / 2 - anchors[:, :2] - sides / 2) / sides
    return torch.cat([shift, (wanted / sides).log()], 1)


def select(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], *, height: float, width: float, config: RegionFeaturesConfig
) -> tuple[Tensor, Tensor]:
    """The regions of an image: the paper's rule, level by level as torchvision applies it.

    Args:
        boxes: [N, 4] of each level, in pixels.
        scores: Objectness [N] of each level, in [0, 1]; NaN is refused like an empty box.
        height: Of the image that boxes are cut to.
        width: Of it.
        config: The rule. `before` and `overlap` hold within a level, `regions` over all.

    Returns:
        Boxes [K, 4] and their objectness [K], descending. The whole image, with objectness 0, where none is left.
    """
    best = [score.topk(min(config.before, len(score))).indices for score in scores]
    kept = torch.cat([level[index] for level, index in zip(boxes, best, strict=True)])
    objectness = torch.cat([level[index] for level, index in zip(scores, best, strict=True)])
    levels = torch.cat([torch.full_like(index, number) for number, index in enumerate(best)])
    kept = box_ops.clip(kept, width, height)
    usable = ((kept[:, 2:] - kept[:, :2]) >= LEAST).all(1) & (objectness >= config.least)
    kept, objectness, levels = kept[usable], objectness[usable], levels[usable]
    # Its order among equals is not promised: sorted anew.
    rows = batched_nms(kept, objectness, levels, config.overlap).sort().values
    rows = rows[objectness[rows].sort(descending=True, stable=True).indices]
    rows = rows[: MANY if config.spread else config.regions]
    if not len(rows):
        return kept.new_tensor([[0.0, 0.0, width, height]]), objectness.new_zeros(1)
    if config.spread:
        rows = rows[spread(kept[rows], objectness[rows], config.regions)]
    return kept[rows], objectness[rows]


def spread(boxes: Tensor, objectness: Tensor, count: int) -> Tensor:
    """Which of the best regions to keep where fewer are wanted: the rule of the research code of Gonthier et al.

    Of those with an objectness above 0.1 that are larger than 36 x 36 px, none may overlap; if that leaves fewer than
    `count`, IoU up to 0.1 is allowed, and so on up to 0.6. Bags may differ in size: none is repeated to fill one up.

    Args:
        boxes: [N, 4] in pixels of the scaled image, best first.
        objectness: [N], descending.
        count: K.

    Returns:
        [K'] rows, K' <= K, ascending; the first where none is sure and large enough.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    usable = ((objectness > SURE) & (sides.prod(1) > LARGE**2)).nonzero()[:, 0]
    if not len(usable):
        return usable.new_zeros(1)
    for tenths in range(7):
        rows = usable[nms(boxes[usable], objectness[usable], tenths / 10)].sort().values
        if len(rows) >= count:
            break
    return rows[:count]


# --- Our network


class Head(nn.Module):
    """Objectness and deltas of anchors on five levels, of features at strides 8 and 16.

    The coarse tap is added to the fine one (Lin et al. 2017, "Feature Pyramid Networks", arXiv:1612.03144), and halved
    three times for larger objects; the last layers are the same on all levels.
    """

    def __init__(self, fine: int, coarse: int, width: int) -> None:
        """Make it for taps of so many channels."""
        super().__init__()
        count = len(RATIOS) * len(SIZES)
        self.fine = nn.Conv2d(fine, width, 1)
        self.coarse = nn.Conv2d(coarse, width, 1)
        self.merge = nn.Conv2d(width, width, 3, padding=1)
        self.halve = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in STRIDES[2:])
        self.shared = nn.Conv2d(width, width, 3, padding=1)
        self.objectness = nn.Conv2d(width, count, 1)
        self.deltas = nn.Conv2d(width, 4 * count, 1)
        self.anchors = [Anchors(torch.cat([anchor_shapes(s * stride) for s in SIZES]), stride) for stride in STRIDES]

    def forward(self, fine: Tensor, coarse: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each level: logits [N, A], deltas [N, A, 4] and anchors [A, 4], of [N, C, H, W] at strides 8 and 16."""
        high = F.relu(self.coarse(coarse))
        near = F.interpolate(high, scale_factor=2.0, mode="nearest")[..., : fine.shape[2], : fine.shape[3]]
        levels = [F.relu(self.merge(F.relu(self.fine(fine) + near))), high]
        for halve in self.halve:
            levels.append(F.relu(halve(levels[-1])))
        found = []
        for level, anchors in zip(levels, self.anchors, strict=True):
            y = F.relu(self.shared(level))
            logits = self.objectness(y).permute(0, 2, 3, 1).flatten(1)
            deltas = self.deltas(y).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
            found.append((logits, deltas, anchors(level)))
        return found


def region_means(features: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """Mean of [1, C, H, W] over boxes [K, 4] in pixels: [K, C]. RoIAlign (He et al. 2017, arXiv:1703.06870).

    A feature stands at the middle of the pixel `stride` times its number; a box counts as one feature wide at least.
    """
    cells: Tensor = roi_align(features, [boxes - 0.5], CELLS, 1 / stride, SAMPLES, aligned=False)
    return cells.mean((2, 3))


class ArtRegions(RegionNetwork):
    """Proposals and descriptors on a frozen backbone of ours, without any detector's weights.

    A descriptor is the mean of each tap over the box, each scaled to length 1: layer2's 128 channels and layer3's 256.
    """

    def __init__(self, config: RegionFeaturesConfig, backbone: FeatureExtractor) -> None:
        """Put a head with random weights on a backbone.

        Raises:
            ConfigError: The backbone has no layer2 and layer3 at strides 8 and 16.
        """
        super().__init__()
        if not set(TAPS) <= set(backbone.taps) or [backbone.stride(tap) for tap in TAPS] != list(STRIDES[:2]):
            raise ConfigError(
                f"backbone={config.backbone!r} does not do: choose one with layer2 and layer3 at strides 8 and 16, "
                "such as 'art-resnet' or 'resnet18'"
            )
        self.config, self.backbone = config, backbone
        fine, coarse = (backbone.channels(tap) for tap in TAPS)
        self.features = fine + coarse
        self.head = Head(fine, coarse, config.width)

    @property
    def stored(self) -> nn.Module:
        """The head: the backbone has a checkpoint of its own."""
        return self.head

    def taps(self, picture: Tensor) -> list[Tensor]:
        """What the head reads of pictures [N, 3, H, W] in [0, 1], of at least 64 px a side."""
        found = self.backbone(picture, TAPS)
        return [found[tap] for tap in TAPS]

    def forward(self, images: Sequence[Tensor]) -> list[FoundRegions]:
        """See `RegionNetwork`."""
        size = self.size(*images[0].shape[-2:])
        pictures = torch.cat([resized(image, size).clamp(0, 1) for image in images])
        below, right = (-(-max(SMALLEST, side) // STRIDES[1]) * STRIDES[1] - side for side in size)
        taps = self.taps(F.pad(pictures, (0, right, 0, below), mode="replicate"))
        levels = self.head(*taps)
        return [self._one(image, size, taps, levels, number) for number, image in enumerate(images)]

    def _one(
        self,
        image: Tensor,
        size: tuple[int, int],
        taps: list[Tensor],
        levels: list[tuple[Tensor, Tensor, Tensor]],
        number: int,
    ) -> FoundRegions:
        boxes = [decoded(deltas[number], anchors) for _, deltas, anchors in levels]
        scores = [logits[number].sigmoid() for logits, _, _ in levels]
        # An object may be found on two levels: here they are one.
        chosen, objectness = select(
            [torch.cat(boxes)], [torch.cat(scores)], height=size[0], width=size[1], config=self.config
        )
        maps = [tap[number : number + 1] for tap in taps]
        means = [region_means(tap, chosen, stride) for tap, stride in zip(maps, STRIDES, strict=False)]
        features = torch.cat([F.normalize(mean, dim=1) for mean in means], 1)
        return FoundRegions(unscaled(chosen, image, size), objectness, features)
