"""Boxes [N, 4]: left, top, right, bottom (xyxy) in pixels of the original image."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from artmodels.errors import ConfigError, DatasetError

__all__ = ["SIDES", "Box", "as_boxes", "clip", "iou", "nms_per_class", "paired_iou"]

SIDES = ("left", "top", "right", "bottom")
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the original image."""


def as_boxes(values: Any) -> Tensor:  # noqa: ANN401 - lists, arrays and tensors
    """Give boxes as a tensor [N, 4] of float32, or float64 where they are that already; none is [0, 4].

    Raises:
        DatasetError: Another shape, values that are not finite, or a box whose right or bottom is before its other
            side; the message names the first.
    """
    boxes = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    if boxes.dtype != torch.float64 or not isinstance(values, Tensor | np.ndarray):
        boxes = boxes.to(torch.float32)
    if boxes.numel() == 0 and boxes.dim() <= 2:
        boxes = boxes.reshape(0, 4)
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise DatasetError(f"boxes have the shape {list(boxes.shape)}; give [N, 4]: left, top, right, bottom")
    wrong = ~(boxes.isfinite().all(1) & (boxes[:, 2:] >= boxes[:, :2]).all(1))
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        raise DatasetError(
            f"box {first} is {boxes[first].tolist()}, one of {int(wrong.sum())} that are no boxes; give finite "
            "left <= right and top <= bottom, in this order: left, top, right, bottom"
        )
    return boxes


def clip(boxes: Tensor, width: float, height: float) -> Tensor:
    """Cut boxes [N, 4] back to an image; a box outside it becomes empty on the edge."""
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def paired_iou(a: Tensor, b: Tensor, *, plus_one: bool = False) -> Tensor:
    """Intersection over union of boxes side by side: [..., 4] and [..., 4], which broadcast, to [...] in [0, 1].

    It is 0 where both boxes are empty. With `plus_one` right and bottom are the numbers of the last pixels inside, as
    in Pascal VOC, and a side is longer by one; otherwise they are where the box ends.
    """
    extra = 1.0 if plus_one else 0.0

    def area(corners: Tensor, other: Tensor) -> Tensor:
        return (other - corners + extra).clamp(min=0).prod(-1)

    common = area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    union = area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - common
    return torch.where(union > 0, common / union, 0.0)


def iou(a: Tensor, b: Tensor, *, plus_one: bool = False) -> Tensor:
    """Intersection over union of every box of [N, 4] with every box of [M, 4]: [N, M] in [0, 1], as `paired_iou`."""
    return paired_iou(a[:, None], b[None], plus_one=plus_one)


def nms_per_class(boxes: Tensor, scores: Tensor, labels: Tensor, *, iou: float = 0.3) -> Tensor:
    """Greedy non-maximum suppression among the boxes [N, 4] of each class, by scores [N] and numbers of classes [N].

    A box goes when it overlaps a better one of its class by more than `iou`, in [0, 1]; 0.3 is the paper's. The numbers
    of the boxes that stay are returned, by falling score; among equal scores the first comes first.

    Raises:
        ConfigError: `iou` is out of range.
        DatasetError: The lengths differ, a score is not finite, or a box is none.
    """
    if not 0 <= iou <= 1:
        raise ConfigError(f"the overlap at which boxes are dropped is {iou}; give a value in [0, 1]")
    boxes = as_boxes(boxes)
    if scores.shape != boxes.shape[:1] or labels.shape != boxes.shape[:1]:
        raise DatasetError(
            f"{len(boxes)} boxes have scores {list(scores.shape)} and labels {list(labels.shape)}; give [{len(boxes)}]"
        )
    if not bool(scores.isfinite().all()):
        raise DatasetError(f"{int((~scores.isfinite()).sum())} of {len(scores)} scores are not finite")
    from torchvision.ops import batched_nms  # as slow to import as PyTorch itself

    # Its order among equal scores is not promised.
    kept: Tensor = batched_nms(boxes, scores.to(boxes.dtype), labels, iou).sort().values
    return kept[scores[kept].sort(descending=True, stable=True).indices]
