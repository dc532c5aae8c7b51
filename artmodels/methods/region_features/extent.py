"""Train art-regions with a second stage, so that boxes are of whole objects: of a person, not of the head.

The first stage and its loss are those of `train`. New are the second stage, which learns from the first one's proposals
as Ren et al. 2015 do (arXiv:1506.01497), and many more boxes: those that people drew in COCO, outlines of Caltech's
photographs, and a detector's answers on paintings and photographs; half of the pictures are painted over or worn.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from artmodels import images
from artmodels.data import folders
from artmodels.data.folders import ImageSet
from artmodels.detections import boxes as box_ops
from artmodels.errors import ConfigError
from artmodels.files import read_object
from artmodels.methods.art_resnet.train import SEEN_STYLES
from artmodels.methods.art_resnet.views import Views
from artmodels.methods.region_features.model import KINDS, decoded, select
from artmodels.methods.region_features.teacher import YOLOX, ask
from artmodels.methods.region_features.train import (
    GOOD,
    THINGS,
    TINY,
    VISIBLE,
    Anchored,
    ArtRegionsRecipe,
    ArtRegionsSettings,
    BoxedPicture,
    recall,
)
from artmodels.settings import Count, Positive, Share, Weight
from artmodels.training import Sources

__all__ = ["KnownPictures", "WholeRegionsRecipe", "WholeRegionsSettings", "coco_pictures", "placed"]

COCO, OUTLINED, SCHOOLS = ("objects/coco_ccby", "objects/coco_more"), ("objects/caltech_outlines",), ("schools",)
# What a box is beside COCO's kinds: nothing, a thing of any kind, perhaps one.
NONE, ANYTHING, UNSURE = KINDS - 1, -1, -2
CERTAIN = 0.5  # score of the teacher from which its box is an object
SHIFT, STRETCH = 0.12, 0.2  # deviations by which known boxes are moved, in sides, and stretched, as a logarithm
SHAKEN = 4  # such boxes of each
THUMBNAIL, ALIKE = 16, 0.9  # px, and the correlation from which two small pictures are of one painting
CHECKED = (50, 100, 300)  # proposals, for the report


# --- pictures of which boxes are known


class Shown(NamedTuple):
    """Objects of a picture."""

    boxes: Tensor  # [N, 4] in pixels
    kinds: Tensor  # [N] int64: COCO's, 0 to 79, ANYTHING or UNSURE


@dataclass(frozen=True)
class KnownPictures:
    """Files and what is known to be in them."""

    files: tuple[Path, ...]
    shown: tuple[Shown, ...]

    def draw(self, size: int, zoom: tuple[float, float], rng: torch.Generator) -> tuple[BoxedPicture, Tensor]:
        """A view of one of them, `size` pixels to each side, and the kinds of its boxes; see `placed`."""
        number = int(torch.randint(len(self.files), (), generator=rng))
        scene = BoxedPicture(images.load(self.files[number]).tensor()[0], self.shown[number].boxes)
        found, kept = placed(scene, size, zoom, rng)
        return found, self.shown[number].kinds[kept]

    def where(self, files: set[Path]) -> "KnownPictures":
        """Those of some files."""
        kept = [row for row in zip(self.files, self.shown, strict=True) if row[0] in files]
        return KnownPictures(tuple(file for file, _ in kept), tuple(shown for _, shown in kept))


def placed(
    scene: BoxedPicture, size: int, zoom: tuple[float, float], rng: torch.Generator
) -> tuple[BoxedPicture, Tensor]:
    """A scene whose longer side is `size` times a factor between the two, cut or filled up to a square of `size`.

    What lies beyond the picture repeats its last pixels; half of the views are mirrored. Boxes of which too little is
    left are dropped: the second result [N'] numbers those that stay.
    """
    height, width = scene.picture.shape[1:]
    share, across, down, mirror = torch.rand(4, generator=rng).tolist()
    ratio = size * zoom[0] * (zoom[1] / zoom[0]) ** share / max(height, width)
    sides = [max(1, round(side * ratio)) for side in (height, width)]
    picture = F.interpolate(scene.picture[None], sides, mode="bilinear", antialias=True).clamp(0, 1)
    top, left = (round(part * max(0, side - size)) for part, side in zip((down, across), sides, strict=True))
    picture = picture[..., top : top + size, left : left + size]
    seen_height, seen_width = picture.shape[2:]
    picture = F.pad(picture, (0, size - seen_width, 0, size - seen_height), mode="replicate")[0]
    scale = scene.boxes.new_tensor([sides[1] / width, sides[0] / height] * 2)
    shifted = scene.boxes * scale - scene.boxes.new_tensor([left, top] * 2)
    boxes = box_ops.clip(shifted, seen_width, seen_height)
    whole, seen = (((b[:, 2:] - b[:, :2]).clamp(min=0)).prod(1) for b in (shifted, boxes))
    kept = ((seen > VISIBLE * whole) & ((boxes[:, 2:] - boxes[:, :2]) >= TINY).all(1)).nonzero()[:, 0]
    boxes = boxes[kept]
    if mirror < 0.5:
        picture = picture.flip(-1)
        boxes = boxes.new_tensor([size, 0, size, 0]) + boxes[:, [2, 1, 0, 3]] * boxes.new_tensor([-1, 1, -1, 1])
    return BoxedPicture(picture, boxes), kept


def coco_pictures(folder: Path, *, named: bool) -> KnownPictures:
    """The pictures of a folder with COCO's `instances.json`; crowds are UNSURE.

    `named` says that its categories are COCO's 80, in the order of their numbers; otherwise objects are ANYTHING.
    """
    table = read_object(folder / "instances.json")
    order = {each["id"]: number for number, each in enumerate(sorted(table["categories"], key=lambda row: row["id"]))}
    found = dict[int, tuple[Path, list[list[float]], list[int]]]()
    for each in table["images"]:
        found[each["id"]] = (folder / each["file_name"], [], [])
    for each in table["annotations"]:
        _, boxes, kinds = found[each["image_id"]]
        left, top, width, height = each["bbox"]
        boxes.append([left, top, left + width, top + height])
        kinds.append(UNSURE if each["iscrowd"] else order[each["category_id"]] if named else ANYTHING)
    rows = sorted(found.values(), key=lambda row: row[0])
    shown = tuple(Shown(box_ops.as_boxes(boxes), torch.tensor(kinds, dtype=torch.int64)) for _, boxes, kinds in rows)
    return KnownPictures(tuple(file for file, _, _ in rows), shown)


def answered(files: list[Path], teacher: Path) -> KnownPictures:
    """Pictures in which the teacher is certain of something; of what else it names it is UNSURE."""
    kept, shown = [], []
    for file, (boxes, scores, kinds) in zip(files, ask(tuple(files), teacher), strict=True):
        if bool((scores >= CERTAIN).any()):
            kept.append(file)
            shown.append(Shown(boxes, torch.where(scores >= CERTAIN, kinds, UNSURE)))
    return KnownPictures(tuple(kept), tuple(shown))


def unlike(files: list[Path], others: list[Path]) -> list[Path]:
    """Those of the files that show none of the other pictures: the same painting may be there under another name."""

    def small(path: Path) -> Tensor:
        grey = images.load(path).tensor().mean(1, keepdim=True)
        flat = F.interpolate(grey, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True).flatten()
        return F.normalize(flat - flat.mean(), dim=0)

    known = torch.stack([small(path) for path in others])
    return [path for path in files if float((known @ small(path)).max()) < ALIKE]


# --- the recipe


@dataclass(frozen=True, kw_only=True)
class WholeRegionsSettings(ArtRegionsSettings):
    """Settings of the recipe."""

    composites: Annotated[Share, "Share of the scenes that are composites."] = 0.1
    icons: Annotated[Share, "Share of the scenes that are icons."] = 0.15
    drawn: Annotated[Share, "Share of the scenes that are photographs of COCO."] = 0.2
    outlined: Annotated[
        Share, "Share of the scenes that are photographs with one outline; all others are the teacher's."
    ] = 0.1
    school: Annotated[Count, "Of so many paintings of the schools one is learnt from."] = 3
    scale: Annotated[
        tuple[Positive, Positive], "Least and greatest length of a picture's longer side, in sides of a scene."
    ] = (0.8, 1.8)
    painted: Annotated[Share, "Share of the scenes that a fast style paints over; the others are worn."] = 0.4
    proposals: Annotated[Count, "Proposals that the second stage looks at."] = 60
    good: Annotated[Count, "Of these, known boxes included, at most so many over objects are learnt from, ..."] = 24
    bad: Annotated[Count, "... and so many others."] = 24
    kinds_weight: Annotated[Weight, "Weight of what the object is."] = 0.5


class WholeRegionsRecipe(ArtRegionsRecipe):
    """See the module."""

    settings_class = WholeRegionsSettings
    one_in = 5
    settings: WholeRegionsSettings

    def __init__(self, settings: WholeRegionsSettings, sources: Sources, *, seed: int) -> None:
        """Read what is known of pictures, ask the teacher about the others, draw the weights.

        Held out are half of the icons, and a fifth of the paintings, of the photographs and of COCO's pictures, by a
        hash of their names; and paintings of the schools that show one of these.
        """
        if not settings.network.embedding:
            raise ConfigError("network.embedding=0 is no second stage: give it a length, such as 256")
        if settings.composites + settings.icons + settings.drawn + settings.outlined > 1:
            raise ConfigError("composites, icons, drawn and outlined are shares of the scenes: together at most 1")
        super().__init__(settings, sources, seed=seed)
        teacher, data = sources.teachers / YOLOX, sources.data
        things, self.unseen = folders.split(folders.image_files(data, THINGS), self.one_in)
        schools = folders.split(folders.image_files(data, SCHOOLS), settings.school)[1]
        self.answered = answered(things + unlike(schools, self.unseen), teacher)
        coco = [coco_pictures(data / folder, named=True) for folder in COCO]
        drawn = KnownPictures(*(sum(parts, ()) for parts in zip(*((p.files, p.shown) for p in coco), strict=True)))
        seen, self.unseen_drawn = folders.split(list(drawn.files), self.one_in)
        self.drawn, self.judged = drawn.where(set(seen)), drawn.where(set(self.unseen_drawn))
        self.outlined = coco_pictures(data / OUTLINED[0], named=False)
        kinds = [torch.full((len(boxes),), ANYTHING) for boxes in self.annotated.boxes]
        self.icons = KnownPictures(tuple(self.files[: len(kinds)]), tuple(map(Shown, self.annotated.boxes, kinds)))
        known = {*self.files, *self.answered.files, *self.drawn.files, *self.outlined.files}
        self.teacher, self.files = teacher, sorted(known)
        self.views = Views(
            sources.weights, SEEN_STYLES, stylised=settings.painted, arbitrary=0.0, paintings=ImageSet(())
        )

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """The terms of both stages."""
        settings = self.settings
        scenes = [self._scene(rng) for _ in range(settings.batch)]
        with torch.no_grad():
            taps = self.detector.taps(self.views(torch.stack([scene.picture for scene, _, _ in scenes]), rng))
        levels = self.detector.head.levels(*taps)
        logits, deltas, anchors = self.detector.head(levels)
        terms = []
        for number, (scene, kinds, ground) in enumerate(scenes):
            first = Anchored(logits[number], deltas[number], anchors)
            sure, unsure = scene.boxes[kinds != UNSURE], scene.boxes[kinds == UNSURE]
            pyramid = [level[number : number + 1] for level in levels]
            second = self._second(pyramid, first, Shown(sure, kinds[kinds != UNSURE]), unsure, ground, rng)
            terms.append((*self._loss(sure, ground, first, unsure), *second))
        means = [torch.stack(part).mean() for part in zip(*terms, strict=True)]
        weights = (1.0, settings.box_weight, settings.box_weight, 1.0, settings.kinds_weight)
        names = ("objectness", "boxes", "moved", "fit", "kinds")
        return {name: weight * mean for name, weight, mean in zip(names, weights, means, strict=True)}

    def _scene(self, rng: torch.Generator) -> tuple[BoxedPicture, Tensor, float]:
        """A scene, the kinds of its boxes, and the weight of what has no box in it."""
        settings = self.settings
        shares = [settings.composites, settings.icons, settings.drawn, settings.outlined]
        number = int(torch.multinomial(torch.tensor([*shares, 1 - sum(shares)]), 1, generator=rng))
        ground = settings.unlabelled if number in (0, 3) else 1.0
        if number == 0:
            scene = self.composites(rng)
            return scene, torch.full((len(scene.boxes),), ANYTHING), ground
        pictures = (self.icons, self.drawn, self.outlined, self.answered)[number - 1]
        return *pictures.draw(settings.crop, settings.scale, rng), ground

    def _second(
        self,
        levels: list[Tensor],
        first: Anchored,
        shown: Shown,
        unsure: Tensor,
        ground: float,
        rng: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The terms of the second stage in one picture: where boxes are moved, how well they fit, what they show."""
        second, size = self.detector.head.second, (self.settings.crop, self.settings.crop)
        assert second is not None  # noqa: S101 - for the type checker
        boxes, owner, overlap = self._candidates(first, shown.boxes, unsure, rng)
        found = second(levels, boxes, size)
        good = overlap >= GOOD
        weight = torch.where(good, 1.0, ground)
        count = max(1.0, float(weight.sum()))
        fit = F.binary_cross_entropy_with_logits(found.fit, overlap, weight, reduction="sum") / count
        # A thing of any kind: whichever it is, it is something.
        kinds = torch.full_like(owner, NONE)
        kinds[good] = shown.kinds[owner[good]]
        log = found.kinds.log_softmax(1)
        something = torch.log1p(-log[:, NONE].exp().clamp(max=1 - 1e-6))
        named = log.gather(1, kinds.clamp(min=0)[:, None])[:, 0]
        told = -(weight * torch.where(kinds == ANYTHING, something, named)).sum() / count
        if not bool(good.any()):
            return found.deltas.sum() * 0, fit, told
        moved = decoded(found.deltas[good], boxes[good])
        return generalized_box_iou_loss(moved, shown.boxes[owner[good]], reduction="mean"), fit, told

    @torch.no_grad()
    def _candidates(
        self, first: Anchored, known: Tensor, unsure: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [K, 4] to look at: the number of the known one [K] that each has most in common with, and the IoU [K].

        They are the first stage's, and known ones that are moved and stretched a little.
        """
        settings, side = self.settings, self.settings.crop
        config = replace(settings.network, regions=settings.proposals)
        moved, scores = decoded(first.deltas, first.anchors), first.logits.sigmoid()
        boxes, _ = select([moved], [scores], height=side, width=side, config=config)
        if len(known):
            noise = torch.randn(SHAKEN, *known.shape, generator=rng) * torch.tensor([SHIFT, SHIFT, STRETCH, STRETCH])
            shaken = decoded(noise.flatten(0, 1), known.repeat(SHAKEN, 1))
            boxes = torch.cat([boxes, box_ops.clip(shaken, side, side)])
            boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)]
            overlap, owner = box_ops.iou(boxes, known).max(1)
        else:
            overlap, owner = torch.zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64)
        good, bad = overlap >= GOOD, overlap < GOOD
        if len(unsure):
            bad &= box_ops.iou(boxes, unsure).amax(1) < GOOD
        rows = [
            part.nonzero()[:, 0][torch.randperm(int(part.sum()), generator=rng)[:most]]
            for part, most in ((good, settings.good), (bad, settings.bad))
        ]
        chosen = torch.cat(rows)
        return boxes[chosen], owner[chosen], overlap[chosen]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Recall of held-out boxes: of icons, of COCO's pictures painted over, and the teacher's on paintings."""
        report = super().evaluate()
        answers = answered(self.unseen, self.teacher)
        drawn = self.judged.files, self.judged.shown
        for name, files, shown, painted in (
            ("paintings", answers.files, answers.shown, False),
            ("painted COCO", *drawn, True),
        ):
            proposals = []
            for number, file in enumerate(files):
                picture = images.load(file).tensor()
                if painted:
                    picture = self._painted(picture, number)
                proposals.append(self.detector([picture])[0].boxes)
            wanted = tuple(each.boxes[each.kinds != UNSURE] for each in shown)
            for threshold in (0.5, 0.7):
                for count in CHECKED:
                    found = recall(proposals, wanted, count, threshold)
                    report[f"{name}: recall@{count} at IoU {threshold}"] = found
        return report

    def _painted(self, picture: Tensor, number: int) -> Tensor:
        """A picture [1, 3, H, W] in the hand of one of the styles."""
        style = self.views.fast[number % len(self.views.fast)]
        found: Tensor = style(images.to_pil(picture)).tensor
        return found
