"""Train the head of art-regions: what an object looks like, from a few annotated icons and from composites.

The backbone is frozen. Anchors are matched as Ren et al. 2015 do (arXiv:1506.01497). What is learnt of a box is how
well it fits an object: the objectness of a good anchor is the IoU that its box reaches, as Kim et al. 2022 advise for
objects of kinds that were never seen ("Learning Open-World Object Proposals without Learning to Classify",
arXiv:2108.06753). All anchors take part, those that are already right hardly (the quality focal loss of Li et al. 2020,
arXiv:2006.04388, eq. 6), and boxes are moved by the loss 1 - GIoU (Rezatofighi et al. 2019, arXiv:1902.09630).
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Gt, MultipleOf
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from artmodels import features, images
from artmodels.data import folders
from artmodels.data.folders import Crops, ImageSet
from artmodels.data.labelled import annotated_folder
from artmodels.detections import boxes as box_ops
from artmodels.errors import DatasetError
from artmodels.methods.region_features.model import ArtRegions, RegionFeaturesConfig, decoded
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Positive, Settings, Share, Weight
from artmodels.training import Recipe, Sources

__all__ = ["AnnotatedImages", "ArtRegionsRecipe", "ArtRegionsSettings", "recall"]

ICONS, BOXES = "icons/valid", "icons/annotations/valid"
THINGS = ("paintings", "photos")
GROUNDS = ("paintings", "photos", "textures")
GOOD, BAD = 0.5, 0.3  # IoU from which an anchor is an object's, and below which it is none's
COUNTS = (10, 50, 100, 300)  # of proposals, for the report
VISIBLE = 0.5  # share of a box or object that must be seen for it to count
OUTPUTS = ("objectness", "deltas", "fit", "kinds")  # layers that begin with small weights
TINY = 6.0  # px: objects below this are not counted


# --- pictures with known boxes: crops of annotated images, and composites of what has no annotation


class BoxedPicture(NamedTuple):
    """A picture [3, H, W] in [0, 1] and the boxes [N, 4] of what it shows, in its pixels."""

    picture: Tensor
    boxes: Tensor


class Anchored(NamedTuple):
    """What the first stage makes of a picture."""

    logits: Tensor  # [A]
    deltas: Tensor  # [A, 4]
    anchors: Tensor  # [A, 4]


@dataclass(frozen=True)
class AnnotatedImages:
    """Images in memory, uint8 [3, H, W], and the boxes of each, [N, 4]."""

    images: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]

    @classmethod
    def load(cls, files: Sequence[Path], annotations: Path) -> "AnnotatedImages":
        """Read images, and the VOC files of their names; a DatasetError or ImageError names what is wrong."""
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


def cropped(scene: BoxedPicture, left: int, top: int, side: int, size: int) -> BoxedPicture:
    """A square of a scene, resized to `size` pixels; boxes of which too little remains are dropped."""
    window = scene.picture[None, :, top : top + side, left : left + side]
    picture = F.interpolate(window, (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
    shifted = scene.boxes - scene.boxes.new_tensor([left, top, left, top])
    boxes = box_ops.clip(shifted, side, side)
    whole, seen = (((b[:, 2:] - b[:, :2]).clamp(min=0)).prod(1) for b in (shifted, boxes))
    boxes = boxes * (size / side)
    kept = (seen > VISIBLE * whole) & ((boxes[:, 2:] - boxes[:, :2]) >= TINY).all(1)
    return BoxedPicture(picture, boxes[kept])


def annotated_crop(
    annotated: AnnotatedImages, size: int, zoom: tuple[float, float], rng: torch.Generator
) -> BoxedPicture:
    """A random square of a random annotated image, zoomed by a factor between the two, mirrored half of the time."""
    index = int(torch.randint(len(annotated.images), (), generator=rng))
    pixels = annotated.images[index]
    scale, across, down, mirror, light, contrast, colour = torch.rand(7, generator=rng).tolist()
    factor = zoom[0] * (zoom[1] / zoom[0]) ** scale
    side = min(*pixels.shape[1:], round(size / factor))
    top, left = (round(share * (length - side)) for share, length in zip((down, across), pixels.shape[1:], strict=True))
    scene = cropped(BoxedPicture(pixels / 255, annotated.boxes[index]), left, top, side, size)
    picture, boxes = _jittered(scene.picture, light, contrast, colour), scene.boxes
    if mirror < 0.5:
        picture = picture.flip(-1)
        boxes = boxes.new_tensor([size, 0, size, 0]) + boxes[:, [2, 1, 0, 3]] * boxes.new_tensor([-1, 1, -1, 1])
    return BoxedPicture(picture, boxes)


def _jittered(picture: Tensor, light: float, contrast: float, colour: float) -> Tensor:
    grey = picture.mean(0, keepdim=True)
    picture = grey + (picture - grey) * (0.5 + colour)
    mean = picture.mean()
    return ((picture - mean) * (0.7 + 0.6 * contrast) + mean + 0.3 * (light - 0.5)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Composites:
    """Pieces of pictures with soft irregular outlines, pasted on other pictures."""

    things: ImageSet  # that pieces are cut from
    grounds: ImageSet  # that they are pasted on
    size: int  # of the scene's side, in pixels
    most: int = 10  # pieces in a scene

    def __call__(self, rng: torch.Generator) -> BoxedPicture:
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
        return BoxedPicture(picture, torch.tensor(boxes)[kept])


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


# --- the recipe


@dataclass(frozen=True, kw_only=True)
class ArtRegionsSettings(Settings):
    """Settings of the recipe."""

    network: RegionFeaturesConfig = RegionFeaturesConfig()
    crop: Annotated[int, Gt(0), MultipleOf(16), "Side of a scene in pixels."] = 384
    composites: Annotated[Share, "Share of the scenes that are composites."] = 0.5
    batch: Annotated[Count, "Scenes a step."] = 2
    zoom: Annotated[tuple[Positive, Positive], "Least and greatest enlargement of annotated images."] = (0.6, 1.5)
    unlabelled: Annotated[
        Weight, "Weight of the anchors of composites that show no piece: the ground may show objects, too."
    ] = 0.3
    box_weight: Annotated[Weight, "Weight of the boxes' term; that of objectness is 1."] = 1.0


def targets(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Which box each anchor [A, 4] is to become, of [N, 4]: (numbers [A], kinds [A]), kind 1 good, 0 bad, -1 between.

    The best anchors of a box are good however little they overlap it, so that no box is without.
    """
    if not len(boxes):
        return torch.zeros(len(anchors), dtype=torch.int64), torch.zeros(len(anchors), dtype=torch.int64)
    overlap = box_ops.iou(anchors, boxes)  # [A, N]
    best, number = overlap.max(1)
    kind = torch.where(best >= GOOD, 1, torch.where(best < BAD, 0, -1))
    most = overlap.max(0).values
    forced = ((overlap == most) & (most > 0.1)).nonzero()
    number[forced[:, 0]], kind[forced[:, 0]] = forced[:, 1], 1
    return number, kind


class ArtRegionsRecipe(Recipe):
    """See the module."""

    settings_class = ArtRegionsSettings
    one_in = 10  # of so many paintings, photographs and textures one is held out

    def __init__(self, settings: ArtRegionsSettings, sources: Sources, *, seed: int) -> None:
        """Read the images and the backbone, draw the head's weights.

        Half of the icons are held out, by a hash of their names: `folders.split(files, held_out=2)`.
        """
        self.settings = settings
        icons, self.held_out = folders.split(folders.image_files(sources.data, [ICONS]), held_out=2)
        self.annotations = sources.data / BOXES
        self.annotated = AnnotatedImages.load(icons, self.annotations)
        things, grounds = (
            folders.split(folders.image_files(sources.data, part), self.one_in)[0] for part in (THINGS, GROUNDS)
        )
        self.files = icons + sorted({*things, *grounds})
        pieces, backs = (ImageSet.load(part, side=400) for part in (things, grounds))
        self.composites = Composites(things=pieces, grounds=backs, size=settings.crop)
        self.detector = ArtRegions(settings.network, features.load(sources.checkpoint(settings.network.backbone)))
        self.network = self.detector.head
        draw = generator(seed)
        for name, value in self.network.named_parameters():
            if value.dim() > 1:
                torch.nn.init.kaiming_normal_(value, generator=draw)
                if name.removeprefix("second.").startswith(OUTPUTS):
                    value.data *= 0.1
            else:
                value.data.zero_()
        # The head expects features of mean square 1, whatever the backbone's are.
        with torch.no_grad():
            taps = self.detector.taps(Crops(size=settings.crop)(self.composites.things, 8, generator(1)))
        for name, tap in zip(("fine", "coarse"), taps, strict=True):
            self.network.get_parameter(f"{name}.weight").data /= tap.square().mean().sqrt()
        self.network.get_parameter("objectness.bias").data.fill_(-4.0)  # few anchors show anything

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """Objectness and boxes on annotated crops and composites."""
        settings = self.settings
        count = round(settings.composites * settings.batch)
        scenes = [self.composites(rng) for _ in range(count)]
        while len(scenes) < settings.batch:
            scenes.append(annotated_crop(self.annotated, settings.crop, settings.zoom, rng))
        with torch.no_grad():
            taps = self.detector.taps(torch.stack([scene.picture for scene in scenes]))
        logits, deltas, anchors = self.detector.head(self.detector.head.levels(*taps))
        grounds = [settings.unlabelled] * count + [1.0] * (settings.batch - count)
        parts = [
            self._loss(scene.boxes, ground, Anchored(logit, delta, anchors))
            for scene, ground, logit, delta in zip(scenes, grounds, logits, deltas, strict=True)
        ]
        objectness, boxes = (torch.stack(terms).mean() for terms in zip(*parts, strict=True))
        return {"objectness": objectness, "boxes": settings.box_weight * boxes}

    def _loss(
        self, boxes: Tensor, ground: float, first: Anchored, unsure: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Terms of a picture with objects at boxes [N, 4]; anchors over `unsure` boxes [U, 4] are not taken for none's.

        `ground` is the weight of anchors that are none's.
        """
        logits, deltas, anchors = first
        number, kind = targets(anchors, boxes)
        if unsure is not None and len(unsure):
            kind = torch.where((kind == 0) & (box_ops.iou(anchors, unsure).amax(1) >= BAD), -1, kind)
        good = (kind == 1).nonzero()[:, 0]
        wanted = boxes[number[good]]
        found = decoded(deltas[good], anchors[good])
        aim = torch.zeros_like(logits).index_put((good,), box_ops.paired_iou(found.detach(), wanted))
        weight = torch.where(kind == 1, 1.0, torch.where(kind == 0, ground, 0.0))
        weight = weight * (aim - logits.detach().sigmoid()).square()
        objectness = F.binary_cross_entropy_with_logits(logits, aim, weight, reduction="sum")
        moved = generalized_box_iou_loss(found, wanted, reduction="sum")
        return objectness / max(1, len(good)), moved / max(1, len(good))

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The head in half precision."""
        config = {"method": "region_features"} | dataclasses.asdict(self.settings.network)
        return config, {key: value.half() for key, value in self.network.state_dict().items()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Recall of the boxes of the held-out icons by the best 10 to 300 proposals."""
        unseen = AnnotatedImages.load(self.held_out, self.annotations)
        proposals = [self.detector([pixels[None] / 255])[0].boxes for pixels in unseen.images]
        return {
            f"recall@{count} at IoU {threshold}": recall(proposals, unseen.boxes, count, threshold)
            for threshold in (0.5, 0.7)
            for count in COUNTS
        }


def recall(proposals: list[Tensor], boxes: tuple[Tensor, ...], count: int, threshold: float) -> float:
    """Share of all boxes that one of the first `count` proposals of their image overlaps by at least `threshold`."""
    hits = [
        box_ops.iou(wanted, found[:count]).amax(1) >= threshold
        for found, wanted in zip(proposals, boxes, strict=True)
        if len(wanted)
    ]
    return float(torch.cat(hits).float().mean())
