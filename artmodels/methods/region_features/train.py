"""Train the head of art-regions: what an object looks like, from a few annotated icons and from composites.

The backbone is frozen. Anchors are matched as Ren et al. 2015 do (arXiv:1506.01497). What is learnt of a box is how
well it fits an object: the objectness of a good anchor is the IoU that its box reaches, as Kim et al. 2022 advise for
objects of kinds that were never seen ("Learning Open-World Object Proposals without Learning to Classify",
arXiv:2108.06753). All anchors take part, those that are already right hardly (the quality focal loss of Li et al. 2020,
arXiv:2006.04388, eq. 6), and boxes are moved by the loss 1 - GIoU (Rezatofighi et al. 2019, arXiv:1902.09630).
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from artmodels import features
from artmodels.data import folders
from artmodels.data.folders import Crops, ImageSet
from artmodels.detections import boxes as box_ops
from artmodels.methods.region_features.model import ArtRegions, RegionFeaturesConfig, decoded
from artmodels.methods.region_features.scenes import Annotated, Composites, Scene, annotated_crop
from artmodels.runtime.devices import generator
from artmodels.training import Recipe, Sources

__all__ = ["ArtRegionsRecipe", "ArtRegionsSettings", "recall", "targets"]

ICONS, BOXES = "icons/valid", "icons/annotations/valid"
THINGS = ("paintings", "photos")
GROUNDS = ("paintings", "photos", "textures")
GOOD, BAD = 0.5, 0.3  # IoU from which an anchor is an object's, and below which it is none's
COUNTS = (10, 50, 100, 300)  # of proposals, for the report


@dataclass(frozen=True, kw_only=True)
class ArtRegionsSettings:
    """What the recipe can be told.

    Attributes:
        network: Fields of `RegionFeaturesConfig`.
        crop: Side of a scene in pixels, a multiple of 16.
        composites: Share of the scenes that are composites.
        batch: Scenes a step.
        zoom: Least and greatest factor by which annotated images are enlarged.
        unlabelled: Weight of the anchors of composites that show no piece: the ground may show objects, too.
        box_weight: Weight of the boxes' term beside that of objectness, which is 1.
    """

    network: RegionFeaturesConfig = RegionFeaturesConfig()
    crop: int = 384
    composites: float = 0.5
    batch: int = 2
    zoom: tuple[float, float] = (0.6, 1.5)
    unlabelled: float = 0.3
    box_weight: float = 1.0


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

    def __init__(self, settings: ArtRegionsSettings, sources: Sources, *, seed: int) -> None:
        """Read the images and the backbone, draw the head's weights.

        Half of the icons are held out, by a hash of their names: `folders.split(files, held_out=2)`.
        """
        self.settings = settings
        icons, self.held_out = folders.split(folders.image_files(sources.data, [ICONS]), held_out=2)
        self.annotations = sources.data / BOXES
        self.annotated = Annotated.load(icons, self.annotations)
        things, _ = folders.split(folders.image_files(sources.data, THINGS))
        grounds, _ = folders.split(folders.image_files(sources.data, GROUNDS))
        self._files = icons + sorted({*things, *grounds})
        self.composites = Composites(
            things=ImageSet.load(things, side=400), grounds=ImageSet.load(grounds, side=400), size=settings.crop
        )
        self.detector = ArtRegions(settings.network, features.load(_place(sources, settings.network.backbone)))
        self.network = self.detector.head
        draw = generator(seed)
        for name, value in self.network.named_parameters():
            if value.dim() == 4:
                torch.nn.init.kaiming_normal_(value, generator=draw)
                if name.startswith(("objectness", "deltas")):
                    value.data *= 0.1
            else:
                value.data.zero_()
        # The head expects features of mean square 1, whatever the backbone's are.
        with torch.no_grad():
            taps = self.detector.taps(Crops(size=settings.crop)(self.composites.things, 8, generator(1)))
        for name, tap in zip(("fine", "coarse"), taps, strict=True):
            self.network.get_parameter(f"{name}.weight").data /= tap.square().mean().sqrt()
        self.network.get_parameter("objectness.bias").data.fill_(-4.0)  # few anchors show anything

    def files(self) -> list[Path]:
        """The images that are trained on."""
        return self._files

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """Objectness and boxes on annotated crops and composites."""
        settings = self.settings
        count = round(settings.composites * settings.batch)
        scenes = [self.composites(rng) for _ in range(count)]
        scenes += [
            annotated_crop(self.annotated, settings.crop, settings.zoom, rng) for _ in range(settings.batch - count)
        ]
        with torch.no_grad():
            taps = self.detector.taps(torch.stack([scene.picture for scene in scenes]))
        levels = self.network(*taps)
        anchors = torch.cat([level[2] for level in levels])
        logits = torch.cat([level[0] for level in levels], 1)
        deltas = torch.cat([level[1] for level in levels], 1)
        grounds = [settings.unlabelled] * count + [1.0] * (settings.batch - count)
        parts = [self._loss(*each, anchors) for each in zip(scenes, grounds, logits, deltas, strict=True)]
        objectness, boxes = (torch.stack(terms).mean() for terms in zip(*parts, strict=True))
        return {"objectness": objectness, "boxes": settings.box_weight * boxes}

    def _loss(
        self, scene: Scene, ground: float, logits: Tensor, deltas: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor]:
        number, kind = targets(anchors, scene.boxes)
        good = (kind == 1).nonzero()[:, 0]
        wanted = scene.boxes[number[good]]
        found = decoded(deltas[good], anchors[good])
        aim = torch.zeros_like(logits).index_put((good,), box_ops.paired_iou(found.detach(), wanted))
        weight = torch.where(kind == 1, 1.0, torch.where(kind == 0, ground, 0.0))
        weight = weight * (aim - logits.detach().sigmoid()).square()
        objectness = F.binary_cross_entropy_with_logits(logits, aim, weight, reduction="sum")
        boxes = generalized_box_iou_loss(found, wanted, reduction="sum")
        return objectness / max(1, len(good)), boxes / max(1, len(good))

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The head in half precision."""
        config = {"method": "region_features"} | dataclasses.asdict(self.settings.network)
        return config, {key: value.half() for key, value in self.network.state_dict().items()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Recall of the boxes of the held-out icons by the best 10 to 300 proposals."""
        unseen = Annotated.load(self.held_out, self.annotations)
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


def _place(sources: Sources, backbone: str) -> str:
    """The folder of a backbone beside the recipe's own, where there is one, or its name."""
    folder = sources.weights / backbone
    return str(folder) if folder.is_dir() else backbone
