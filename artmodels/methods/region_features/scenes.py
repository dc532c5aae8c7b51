"""Pictures with known boxes to train on: crops of annotated images, and composites made of what has no annotation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.data.folders import Crops, ImageSet
from artmodels.data.labelled import annotated_folder
from artmodels.detections import boxes as box_ops
from artmodels.errors import DatasetError

__all__ = ["Annotated", "Composites", "Scene", "cropped"]

VISIBLE = 0.5  # share of a box or object that must be seen for it to count
TINY = 6.0  # px: objects below this are not counted


class Scene(NamedTuple):
    """A picture [3, H, W] in [0, 1] and the boxes [N, 4] of what it shows, in its pixels."""

    picture: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Annotated:
    """Images in memory, uint8 [3, H, W], and the boxes of each, [N, 4]."""

    images: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]

    @classmethod
    def load(cls, files: Sequence[Path], annotations: Path) -> "Annotated":
        """Read images, and the VOC files of their names in a folder.

        Raises:
            DatasetError: A folder or file is missing or malformed.
            ImageError: An image cannot be read.
        """
        items = {item.path: item for item in annotated_folder(files[0].parent, annotations, clip=True).items}
        missing = [path for path in files if path not in items]
        if missing:
            raise DatasetError(f"{missing[0]} is not one of the images of {files[0].parent}: name files of one folder.")
        pictures, found = [], []
        for path in files:
            pictures.append((images.load(path).tensor()[0] * 255).round().to(torch.uint8))
            # VOC's right and bottom are the last pixels inside: a box ends one further.
            corners = [(*box.xyxy[:2], *(side + 1 for side in box.xyxy[2:])) for box in items[path].boxes]
            boxes = box_ops.as_boxes(corners)
            found.append(box_ops.clip(boxes, pictures[-1].shape[2], pictures[-1].shape[1]))
        return cls(tuple(pictures), tuple(found))


def cropped(scene: Scene, left: int, top: int, side: int, size: int) -> Scene:
    """A square of a scene, resized to `size` pixels; boxes of which too little remains are dropped."""
    window = scene.picture[None, :, top : top + side, left : left + side]
    picture = F.interpolate(window, (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
    shifted = scene.boxes - scene.boxes.new_tensor([left, top, left, top])
    boxes = box_ops.clip(shifted, side, side)
    whole, seen = (((b[:, 2:] - b[:, :2]).clamp(min=0)).prod(1) for b in (shifted, boxes))
    boxes = boxes * (size / side)
    kept = (seen > VISIBLE * whole) & ((boxes[:, 2:] - boxes[:, :2]) >= TINY).all(1)
    return Scene(picture, boxes[kept])


def annotated_crop(annotated: Annotated, size: int, zoom: tuple[float, float], rng: torch.Generator) -> Scene:
    """A random square of a random annotated image, zoomed by a factor between the two, mirrored half of the time."""
    index = int(torch.randint(len(annotated.images), (), generator=rng))
    pixels = annotated.images[index]
    scale, across, down, mirror, light, contrast, colour = torch.rand(7, generator=rng).tolist()
    factor = zoom[0] * (zoom[1] / zoom[0]) ** scale
    side = min(*pixels.shape[1:], round(size / factor))
    top, left = (round(share * (length - side)) for share, length in zip((down, across), pixels.shape[1:], strict=True))
    scene = cropped(Scene(pixels / 255, annotated.boxes[index]), left, top, side, size)
    picture, boxes = _jittered(scene.picture, light, contrast, colour), scene.boxes
    if mirror < 0.5:
        picture = picture.flip(-1)
        boxes = boxes.new_tensor([size, 0, size, 0]) + boxes[:, [2, 1, 0, 3]] * boxes.new_tensor([-1, 1, -1, 1])
    return Scene(picture, boxes)


def _jittered(picture: Tensor, light: float, contrast: float, colour: float) -> Tensor:
    grey = picture.mean(0, keepdim=True)
    picture = grey + (picture - grey) * (0.5 + colour)
    mean = picture.mean()
    return ((picture - mean) * (0.7 + 0.6 * contrast) + mean + 0.3 * (light - 0.5)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Composites:
    """Pieces of pictures with soft irregular outlines, pasted on other pictures.

    Attributes:
        things: What pieces are cut from.
        grounds: What they are pasted on.
        size: Side of the scene in pixels.
        most: Most pieces in a scene.
    """

    things: ImageSet
    grounds: ImageSet
    size: int
    most: int = 10

    def __call__(self, rng: torch.Generator) -> Scene:
        """Draw a scene: larger pieces first, so that smaller ones lie on them."""
        size = self.size
        picture = Crops(size=size, smallest=0.3, jitter=0.3)(self.grounds, 1, rng)[0]
        count = 1 + int(torch.randint(self.most, (), generator=rng))
        sides = 12 * (0.9 * size / 12) ** torch.rand(count, generator=rng)
        owner = torch.full((size, size), -1)
        areas, boxes = [], []
        for number, side in enumerate(sides.sort(descending=True).values.tolist()):
            stretch = 2 ** (1.4 * float(torch.rand((), generator=rng)) - 0.7)
            height, width = (min(size, max(8, round(side * f))) for f in (stretch**0.5, stretch**-0.5))
            top, left = (int(torch.randint(size - n + 1, (), generator=rng)) for n in (height, width))
            piece = Crops(size=max(height, width), smallest=0.1, jitter=0.4)(self.things, 1, rng)[0, :, :height, :width]
            mask = outline(height, width, rng)
            window = (slice(top, top + height), slice(left, left + width))
            picture[:, *window] = picture[:, *window].lerp(piece, mask)
            solid = mask > 0.5
            owner[window][solid] = number
            rows, columns = solid.any(1).nonzero()[:, 0], solid.any(0).nonzero()[:, 0]
            areas.append(int(solid.sum()))
            corners = (columns[0] + left, rows[0] + top, columns[-1] + left + 1, rows[-1] + top + 1)
            boxes.append([float(corner) for corner in corners])
        seen = torch.bincount(owner[owner >= 0], minlength=count)
        kept = seen > VISIBLE * torch.tensor(areas)
        return Scene(picture, torch.tensor(boxes)[kept])


def outline(height: int, width: int, rng: torch.Generator) -> Tensor:
    """A soft mask [H, W] in [0, 1] of one blob: an ellipse to a rectangle, its radius wavering with the direction."""
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    power = 1.5 + 4 * float(torch.rand((), generator=rng)) ** 2  # 2 is an ellipse, 5.5 nearly a rectangle
    angle = torch.atan2(y.expand(height, width), x.expand(height, width))
    waver = torch.zeros(height, width)
    for wave in range(2, 7):
        amount, phase = torch.rand(2, generator=rng).tolist()
        waver += 0.35 * amount / wave * torch.cos(wave * angle + 2 * math.pi * phase)
    radius = (x.abs() ** power + y.abs() ** power) ** (1 / power)
    soft = 3 / min(height, width)
    mask = ((0.9 + waver - radius) / soft + 0.5).clamp(0, 1)
    # A blob that wavers away to nothing is none.
    return mask if bool((mask > 0.5).any()) else (radius < 0.9).float()
