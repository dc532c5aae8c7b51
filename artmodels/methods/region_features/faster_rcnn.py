"""Faster R-CNN as a source of regions: torchvision's with ResNet-50, and the paper's with ResNet-152.

torchvision throws the objectness of proposals away and moves its boxes once more; here its parts are run one by one,
and the proposals are the result. Source: Ren et al. 2015 (arXiv:1506.01497); Lin et al. 2017 (arXiv:1612.03144) for the
pyramid; Gonthier et al. 2018 (arXiv:1810.02569), section 3.1, for the descriptor of a region.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FasterRCNN, fasterrcnn_resnet50_fpn_v2
from torchvision.ops import FrozenBatchNorm2d

from artmodels.methods.region_features.model import (
    CELLS,
    RATIOS,
    Anchors,
    FoundRegions,
    RegionFeaturesConfig,
    RegionNetwork,
    by_anchor,
    decoded,
    select,
    unscaled,
)

__all__ = ["C4", "PUBLISHED", "FPNDetector", "caffe_anchor_shapes", "crop_and_resize"]

PUBLISHED = {
    "fasterrcnn_resnet50_fpn": "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "fasterrcnn_resnet50_fpn_v2": "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
}
"""Where torchvision publishes the weights; the name ends with the first digits of the file's sha256."""
CLASSES = 91  # COCO's as torchvision counts them, background and gaps included
UNITS = (3, 8, 36, 3)  # blocks of a ResNet-152
SCALES = (4, 8, 16, 32)
STRIDE = 16
MEANS = (102.9801, 115.9465, 122.7717)  # blue, green, red: of the published checkpoint


class FPNDetector(RegionNetwork):
    """torchvision's Faster R-CNN with ResNet-50 and a feature pyramid, v1 or v2; 1024 numbers a region.

    Its keys and shapes are exactly those of torchvision's networks; nothing here is fetched. Descriptors are what the
    second stage computes before it classifies: RoIAlign, then the layers of the box head, rectified.
    """

    def __init__(self, config: RegionFeaturesConfig) -> None:
        """Make it with random weights."""
        super().__init__()
        self.config = config
        sides = {"min_size": config.shorter, "max_size": config.longer}
        if config.network == "fasterrcnn_resnet50_fpn_v2":
            self.detector = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, **sides)
        else:
            # As v1 was trained and is published, with frozen statistics and no epsilon; torchvision's own function
            # gives it batch normalisation where it has no weights.
            backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
            self.detector = FasterRCNN(backbone, CLASSES, **sides)
            for module in self.detector.modules():
                if isinstance(module, FrozenBatchNorm2d):
                    module.eps = 0.0
        self.features = 1024

    @property
    def stored(self) -> nn.Module:
        """All of torchvision's network, the classifier that is not used here included."""
        detector: nn.Module = self.detector
        return detector

    def forward(self, images: Sequence[Tensor]) -> list[FoundRegions]:
        """See `RegionNetwork`."""
        detector = self.detector
        pictures, _ = detector.transform([image[0] for image in images])
        maps = detector.backbone(pictures.tensors)
        logits, deltas = detector.rpn.head(list(maps.values()))
        anchors = detector.rpn.anchor_generator(pictures, list(maps.values()))
        levels = [by_anchor(*level) for level in zip(logits, deltas, strict=True)]
        found = []
        for number, (image, size) in enumerate(zip(images, pictures.image_sizes, strict=True)):
            scores = [logit[number].sigmoid() for logit, _ in levels]
            places = anchors[number].split([len(score) for score in scores])
            boxes = [decoded(delta[number], place) for (_, delta), place in zip(levels, places, strict=True)]
            chosen, objectness = select(boxes, scores, height=size[0], width=size[1], config=self.config)
            own = {name: level[number : number + 1] for name, level in maps.items()}
            regions = detector.roi_heads.box_roi_pool(own, [chosen], [size])
            features = detector.roi_heads.box_head(regions)
            found.append(FoundRegions(unscaled(chosen, image, size), objectness, features))
        return found

    def size(self, height: int, width: int) -> tuple[int, int]:
        """See `RegionNetwork`: torchvision rounds down."""
        ratio = min(self.config.shorter / min(height, width), self.config.longer / max(height, width))
        return math.floor(height * ratio), math.floor(width * ratio)


# --- The paper's network


class _Unit(nn.Module):
    """A bottleneck of He et al. 2016; its stride, if any, is that of the 3 x 3 convolution and of the shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.norm3 = FrozenBatchNorm2d(4 * width)
        self.shortcut = nn.Conv2d(inputs, 4 * width, 1, stride=stride, bias=False) if project else None
        self.shortcut_norm = FrozenBatchNorm2d(4 * width) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.shortcut is None or self.shortcut_norm is None:
            return F.relu(y + x[..., :: self.stride, :: self.stride])
        return F.relu(y + self.shortcut_norm(self.shortcut(x)))


class C4(RegionNetwork):
    """Faster R-CNN with ResNet-152 on one map of stride 16, as TensorFlow's checkpoint of the paper has it; 2048-d.

    A block halves its map in its last unit, not in its first as torchvision's do. Regions are cut out of the map to
    7 x 7 and go through the fourth block; the descriptor is the mean over positions, all numbers at least 0.
    `weights/convert/region_features.py` says which of the checkpoint's names is which of ours.
    """

    means: Tensor

    def __init__(
        self, config: RegionFeaturesConfig, *, units: Sequence[int] = UNITS, width: int = 64, hidden: int = 512
    ) -> None:
        """Make it with random weights: so many units in each block, a bottleneck that each block doubles."""
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.norm1 = FrozenBatchNorm2d(width)
        blocks, inputs = [], width
        for number, count in enumerate(units):
            inner = width << number
            parts = []
            for unit in range(count):
                stride = 2 if number < 2 and unit == count - 1 else 1
                parts.append(_Unit(inputs, inner, stride, project=inputs != 4 * inner))
                inputs = 4 * inner
            blocks.append(nn.Sequential(*parts))
        self.blocks = nn.ModuleList(blocks)
        count = len(RATIOS) * len(SCALES)
        self.proposals = nn.Conv2d(inputs // 2, hidden, 3, padding=1)
        self.objectness = nn.Conv2d(hidden, count, 1)
        self.deltas = nn.Conv2d(hidden, 4 * count, 1)
        self.anchors = Anchors(caffe_anchor_shapes(), STRIDE, centre=STRIDE / 2)
        self.features = inputs
        self.register_buffer("means", torch.tensor(MEANS).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Sequence[Tensor]) -> list[FoundRegions]:
        """See `RegionNetwork`."""
        size = self.size(*images[0].shape[-2:])
        x = torch.cat([F.interpolate(255 * image.flip(1) - self.means, size, mode="bilinear") for image in images])
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
        for block in self.blocks[:3]:
            x = block(x)
        y = F.relu(self.proposals(x))
        logits, deltas = by_anchor(self.objectness(y), self.deltas(y))
        anchors = self.anchors(x)
        # Boxes end at the last pixel in the code of that time.
        right, bottom = (max(1, side - 1) for side in reversed(size))
        found = []
        for number, image in enumerate(images):
            boxes, scores = decoded(deltas[number], anchors), logits[number].sigmoid()
            chosen, objectness = select([boxes], [scores], height=bottom, width=right, config=self.config)
            regions = crop_and_resize(x[number : number + 1], chosen / STRIDE, CELLS)
            features = self.blocks[3](regions).mean((2, 3))
            found.append(FoundRegions(unscaled(chosen, image, size), objectness, features))
        return found


def caffe_anchor_shapes() -> Tensor:
    """The 12 anchors round their centre, [12, 4]: ratio by ratio, and scale by scale, with sides rounded as in 2015."""
    shapes = []
    for ratio in RATIOS:
        width = round((STRIDE * STRIDE / ratio) ** 0.5)
        height = round(width * ratio)
        shapes += [[-width * s / 2, -height * s / 2, width * s / 2, height * s / 2] for s in SCALES]
    return torch.tensor(shapes)


def crop_and_resize(features: Tensor, boxes: Tensor, cells: int) -> Tensor:
    """TensorFlow's operation of that name: of a map [1, C, H, W] and boxes [K, 4] in positions, [K, C, cells, cells].

    The first and the last sample lie on the box's sides; between positions values are interpolated, outside they are 0.
    """
    steps = torch.linspace(0, 1, cells, device=features.device)
    x = boxes[:, 0, None] + steps * (boxes[:, 2] - boxes[:, 0])[:, None]  # [K, cells]
    y = boxes[:, 1, None] + steps * (boxes[:, 3] - boxes[:, 1])[:, None]
    height, width = features.shape[-2:]
    inside = ((y >= 0) & (y <= height - 1))[:, :, None] & ((x >= 0) & (x <= width - 1))[:, None, :]
    across = (2 * x / max(1, width - 1) - 1)[:, None, :].expand(-1, cells, -1)
    down = (2 * y / max(1, height - 1) - 1)[:, :, None].expand(-1, -1, cells)
    grid = torch.stack([across, down], -1)
    # One tall grid: the map is not copied for each box.
    sampled = F.grid_sample(features, grid.reshape(1, -1, cells, 2), padding_mode="border", align_corners=True)
    pieces = sampled[0].view(features.shape[1], -1, cells, cells).transpose(0, 1)
    return pieces * inside[:, None]
