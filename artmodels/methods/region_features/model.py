"""Regions of an image that may show an object: the configuration, the choice among boxes, and our own small network.

A detector turns an image into boxes, their objectness and a descriptor of each. `ArtRegions` is ours and works offline;
`artmodels.methods.region_features.faster_rcnn` holds those of the literature. All choose by the rule of Ren et al. 2015
(arXiv:1506.01497), which Gonthier et al. 2018 (arXiv:1810.02569) use with K = 300: the best 6000 boxes, non-maximum
suppression at IoU 0.7, the best K that remain. In theirs the box that was proposed is the detection; `ArtRegions` may
have a `SecondStage`, which moves it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Interval, Le
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign, batched_nms, nms, roi_align
from torchvision.ops.poolers import LevelMapper

from artmodels.detections import boxes as box_ops
from artmodels.errors import ConfigError
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.networks import WIDEST, Width
from artmodels.images.resampling import resized
from artmodels.settings import Settings, Share

__all__ = [
    "Anchors",
    "ArtRegions",
    "RegionNetwork",
    "FoundRegions",
    "Head",
    "RegionFeaturesConfig",
    "SecondStage",
    "anchor_shapes",
    "by_anchor",
    "decoded",
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
CELLS, SAMPLES = 7, 2  # of a region, to each side, and of a cell
INSIDE, RING = 6, 2  # cells of the second stage to each side of a box, and of the ring round it
STEP = 0.2  # of a side: what the second stage moves boxes by for an output of 1, as Faster R-CNN scales its outputs
KINDS = 81  # what the second stage tells apart: COCO's 80 kinds of objects, and last none
BoxCount = Annotated[int, Interval(ge=1, le=10**6)]


@dataclass(frozen=True, kw_only=True)
class RegionFeaturesConfig(Settings):
    """Which network proposes, and the rule by which boxes are kept: the paper's values by default."""

    network: Annotated[
        Network,
        '"art-regions", ours; or Faster R-CNN with ResNet-50 and a feature pyramid, v1 or v2, or with ResNet-152 as in '
        'the paper ("c4").',
    ] = "art-regions"
    backbone: Annotated[
        str, 'Of "art-regions": a name or folder that `artmodels.features.load` takes, with layer2 and layer3.'
    ] = "art-resnet"
    width: Annotated[Width, 'Channels of the head of "art-regions".'] = 96
    embedding: Annotated[
        int,
        Interval(ge=0, le=WIDEST),
        'Numbers that the second stage of "art-regions" adds to a descriptor: it looks at a box and at a ring round '
        "it, brings the box to the whole of an object, and says how well it fits. 0 for none, as the first versions.",
    ] = 0
    regions: Annotated[BoxCount, "K, the most regions of an image."] = 300
    spread: Annotated[bool, "Choose those K of the paper's 300 by its authors' rule for fewer, see `spread`."] = False
    before: Annotated[
        BoxCount, "Best boxes that non-maximum suppression looks at; of each level, where there are several."
    ] = 6000
    overlap: Annotated[Share, "IoU above which of two boxes the lesser goes."] = 0.7
    least: Annotated[Share, "Objectness below which a box is none."] = 0.0
    shorter: Annotated[int, Ge(16), "Pixels that the shorter side of an image is brought to."] = 600
    longer: Annotated[int, Le(WIDEST), "Pixels of the longer side at most; the shorter one may have fewer then."] = 1000

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.shorter > self.longer:
            raise ConfigError(f"longer={self.longer} must be no less than shorter={self.shorter}")


class FoundRegions(NamedTuple):
    """Regions of one image: boxes [K, 4] in its pixels, objectness [K] in [0, 1], descending, features [K, M]."""

    boxes: Tensor
    objectness: Tensor
    features: Tensor


class RegionNetwork(nn.Module):
    """A network that finds regions. It computes in float32."""

    config: RegionFeaturesConfig
    features: int  # M, the length of a descriptor

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


def by_anchor(logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [N, A, H, W] and [N, 4 * A, H, W] as [N, H * W * A] and [N, H * W * A, 4], in the order of `Anchors`."""
    return logits.permute(0, 2, 3, 1).flatten(1), deltas.permute(0, 2, 3, 1).reshape(len(deltas), -1, 4)


def select(
    boxes: Sequence[Tensor], scores: Sequence[Tensor], *, height: float, width: float, config: RegionFeaturesConfig
) -> tuple[Tensor, Tensor]:
    """The regions of an image, boxes [K, 4] and their objectness [K], descending, by the paper's rule.

    Of each level there are boxes [N, 4], which are cut to the image, and scores [N] in [0, 1]; NaN is refused like an
    empty box. As in torchvision, `before` and `overlap` hold within a level, `regions` over all. Where none is left,
    the whole image is one, with objectness 0.
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
    Boxes [N, 4] are in pixels of the scaled image, best first. At most `count` rows are returned, ascending: the first
    alone where none is sure and large enough.
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

    def __init__(self, fine: int, coarse: int, width: int, embedding: int = 0) -> None:
        """Make it for taps of so many channels, with a second stage if that is to add numbers to a descriptor."""
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
        self.second = SecondStage(width, embedding) if embedding else None

    def levels(self, fine: Tensor, coarse: Tensor) -> list[Tensor]:
        """The pyramid [N, width, H, W] at all strides, of [N, C, H, W] at strides 8 and 16."""
        high = F.relu(self.coarse(coarse))
        near = F.interpolate(high, scale_factor=2.0, mode="nearest")[..., : fine.shape[2], : fine.shape[3]]
        levels = [F.relu(self.merge(F.relu(self.fine(fine) + near))), high]
        for halve in self.halve:
            levels.append(F.relu(halve(levels[-1])))
        return levels

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [N, A], deltas [N, A, 4] and anchors [A, 4] of all levels."""
        shared = [F.relu(self.shared(level)) for level in levels]
        logits, deltas = zip(*(by_anchor(self.objectness(y), self.deltas(y)) for y in shared), strict=True)
        anchors = [place(level) for place, level in zip(self.anchors, levels, strict=True)]
        return torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors)


class Seen(NamedTuple):
    """What the second stage says of K boxes."""

    embedding: Tensor  # [K, E], at least 0
    deltas: Tensor  # [K, 4], as `decoded` takes them
    fit: Tensor  # [K] logit of the IoU that the box, as it was given, has with an object
    kinds: Tensor  # [K, 81] logits of what the object is; last, that it is none


class SecondStage(nn.Module):
    """Look at boxes again: where the object ends that a box is a part of, how well the box fits it, what it is.

    The mean over a box, a first stage's descriptor, is much the same for a head and for the person. Here cells keep
    their places, and those of a ring round the box show whether the object goes on: the second stage of Ren et al. 2015
    (arXiv:1506.01497) with context round the box (Gidaris and Komodakis 2015, arXiv:1505.01749). That the fit is learnt
    as an IoU is of Jiang et al. 2018 (arXiv:1807.11590).
    """

    def __init__(self, width: int, embedding: int) -> None:
        """Make it for a pyramid of so many channels."""
        super().__init__()
        side = INSIDE + 2 * RING
        self.pool = MultiScaleRoIAlign([str(stride) for stride in STRIDES], side, SAMPLES)
        # Left to itself it keeps what it measures on its first picture, and is wrong where that is tiny.
        self.pool.scales = [1 / stride for stride in STRIDES]
        self.pool.map_levels = LevelMapper(*(stride.bit_length() - 1 for stride in (STRIDES[0], STRIDES[-1])))
        self.mix = nn.Conv2d(width, width // 2, 3)
        self.embed = nn.Linear(width // 2 * (side - 2) ** 2, embedding)
        self.deltas = nn.Linear(embedding, 4)
        self.fit = nn.Linear(embedding, 1)
        self.kinds = nn.Linear(embedding, KINDS)

    def forward(self, levels: Sequence[Tensor], boxes: Tensor, size: tuple[int, int]) -> Seen:
        """Look at boxes [K, 4] of a picture of this (height, width), whose pyramid is [1, width, H, W] each."""
        ring = (boxes[:, 2:] - boxes[:, :2]) * (RING / INSIDE)
        around = torch.cat([boxes[:, :2] - ring, boxes[:, 2:] + ring], 1) - 0.5
        maps = {str(stride): level for stride, level in zip(STRIDES, levels, strict=True)}
        cells = F.relu(self.mix(self.pool(maps, [around], [size])))  # [K, width / 2, 8, 8]
        embedding = F.relu(self.embed(cells.flatten(1)))
        return Seen(embedding, STEP * self.deltas(embedding), self.fit(embedding)[:, 0], self.kinds(embedding))


def region_means(features: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """Mean of [1, C, H, W] over boxes [K, 4] in pixels: [K, C]. RoIAlign (He et al. 2017, arXiv:1703.06870).

    A feature stands at the middle of the pixel `stride` times its number; a box counts as one feature wide at least.
    """
    cells: Tensor = roi_align(features, [boxes - 0.5], CELLS, 1 / stride, SAMPLES, aligned=False)
    return cells.mean((2, 3))


class ArtRegions(RegionNetwork):
    """Proposals and descriptors on a frozen backbone of ours, without any detector's weights.

    A descriptor is the mean of each tap over the box, each scaled to length 1: layer2's 128 channels and layer3's 256;
    and, scaled likewise, the embedding of the second stage, where there is one.
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
        self.features = fine + coarse + config.embedding
        self.head = Head(fine, coarse, config.width, config.embedding)

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
        levels = self.head.levels(*taps)
        logits, deltas, anchors = self.head(levels)
        found = []
        for number, image in enumerate(images):
            # An object may be found on two levels: here they are one.
            boxes, scores = decoded(deltas[number], anchors), logits[number].sigmoid()
            chosen, objectness = select([boxes], [scores], height=size[0], width=size[1], config=self.config)
            maps, pyramid = ([level[number : number + 1] for level in part] for part in (taps, levels))
            embeddings = []
            if self.head.second is not None:
                chosen, objectness, embedding = self._again(pyramid, chosen, objectness, size)
                embeddings.append(F.normalize(embedding, dim=1))
            means = [region_means(level, chosen, stride) for level, stride in zip(maps, STRIDES, strict=False)]
            features = torch.cat([*(F.normalize(mean, dim=1) for mean in means), *embeddings], 1)
            found.append(FoundRegions(unscaled(chosen, image, size), objectness, features))
        return found

    def _again(
        self, levels: Sequence[Tensor], boxes: Tensor, objectness: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [K', 4] that the second stage made of proposals [K, 4], their objectness [K'] and embeddings [K', E].

        It moves each box, then looks at it where it is now. Objectness is the geometric mean of the proposal's and of
        the fit.
        """
        second = self.head.second
        assert second is not None  # noqa: S101 - for the type checker
        moved = box_ops.clip(decoded(second(levels, boxes, size).deltas, boxes), size[1], size[0])
        usable = ((moved[:, 2:] - moved[:, :2]) >= LEAST).all(1)
        boxes = torch.where(usable[:, None], moved, boxes)
        seen = second(levels, boxes, size)
        objectness = (objectness * seen.fit.sigmoid()).sqrt()
        rows = nms(boxes, objectness, self.config.overlap).sort().values
        rows = rows[objectness[rows].sort(descending=True, stable=True).indices]
        return boxes[rows], objectness[rows], seen.embedding[rows]
