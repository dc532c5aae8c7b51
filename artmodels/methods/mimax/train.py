"""Train a detector that is published: MI-max in the common training loop, on a collection that comes with the project.

What a user labels is learnt by `MIMax.fit`, within seconds; the loop here gives a checkpoint what every other one has:
a recipe that anyone repeats to the bit, and numbers on images that were held out.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from artmodels.data import folders
from artmodels.data.bags import Bags
from artmodels.data.labelled import Box, LabelledSet, labelled_csv
from artmodels.errors import DatasetError
from artmodels.files import read_json
from artmodels.methods.mimax.detector import Detector
from artmodels.methods.mimax.evaluation.evaluate import classification_scores, detection_scores
from artmodels.methods.mimax.model import Scaling, balanced, initial
from artmodels.methods.mimax.pipeline import FIRST, MIMax, MIMaxConfig
from artmodels.methods.region_features import RegionFeatures
from artmodels.settings import Count, Settings, Weight
from artmodels.training import Recipe, Sources

__all__ = ["DetectorRecipe", "DetectorSettings"]

LABELS, BOXES = "labels.csv", "boxes.json"


@dataclass(frozen=True, kw_only=True)
class DetectorSettings(Settings):
    """Settings of the recipe."""

    collection: Annotated[
        str, "Folder of images with labels.csv and, for the report, boxes.json; below the project's own folder."
    ]
    regions: Annotated[str, "Checkpoint of region features."] = "art-regions"
    restarts: Annotated[int, Ge(0), "First vectors beyond one, for each class."] = 11
    C: Annotated[Weight, "Strength of the regulariser."] = 1.0
    epsilon: Annotated[Weight, "Added to the objectness."] = 0.01
    held_out: Annotated[Count, "About one image in so many is not learnt from."] = 3


class DetectorRecipe(Recipe):
    """See the module."""

    settings_class = DetectorSettings

    def __init__(self, settings: DetectorSettings, sources: Sources, *, seed: int) -> None:
        """Read the collection, extract its regions, draw the first vectors."""
        self.settings, self.seed = settings, seed
        folder = sources.weights.parent / settings.collection
        everything = labelled_csv(folder / LABELS, folder)
        train, held_out = folders.split([item.path for item in everything.items], settings.held_out)
        self.classes = everything.classes
        self.train = _part(everything, train)
        self.files = [item.path for item in self.train.items]
        self.held_out = _part(_boxed(everything, folder / BOXES), held_out)
        self.regions = RegionFeatures.from_pretrained(sources.weights / settings.regions, device="cpu")
        found = [self.regions(item.path) for item in self.train.items]
        bags = Bags.of([one.features for one in found], [one.objectness for one in found])
        self.scaling = Scaling.of(bags, standardize=True)
        signs = torch.from_numpy(self.train.labels().astype(np.int64)) * 2 - 1  # [B, C]
        for name, column in zip(self.classes, signs.T, strict=True):
            if column.unique().numel() < 2:
                raise DatasetError(f"all images of {folder} that are learnt from have one label for {name!r}")
        starts = settings.restarts + 1
        self.coefficients = balanced(signs.repeat_interleave(starts, 1))  # [B, P]
        self.bags = Bags((bags.instances - self.scaling.shift) / self.scaling.scale, bags.sizes, bags.objectness)
        deviation = FIRST / self.scaling.norm
        vectors, bias = initial(signs.shape[1] * starts, 1, bags.features, deviation=deviation, seed=seed)
        self.vectors, self.bias = nn.Parameter(vectors[:, 0]), nn.Parameter(bias[:, 0])
        self.network = nn.ParameterDict({"vectors": self.vectors, "bias": self.bias})

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """Eq. 2 for all classes and restarts on all images: its data term, and the regulariser."""
        return {"data": self._data().sum(), "decay": self.settings.C * self.vectors.square().sum()}

    def _data(self) -> Tensor:
        """The data term of each class and restart, [P]."""
        assert self.bags.objectness is not None  # noqa: S101 - for the type checker
        scores = self.bags.instances @ self.vectors.T + self.bias
        best = self.bags.max((self.bags.objectness + self.settings.epsilon)[:, None] * scores)
        return (self.coefficients * best.tanh()).sum(0)

    @torch.no_grad()
    def _detector(self) -> Detector:
        """With the best restart of each class."""
        settings, count = self.settings, len(self.classes)
        starts = settings.restarts + 1
        chosen = self._data().view(count, starts).argmin(1) + starts * torch.arange(count)
        vectors, bias = self.vectors.detach()[chosen], self.bias.detach()[chosen]
        weights, offset = self.scaling.fold(vectors[:, None], bias[:, None])
        model = MIMax(
            restarts=settings.restarts, C=settings.C, epsilon=settings.epsilon, standardize=True, seed=self.seed
        )
        classes = np.array([False, True]) if count == 1 else None
        model._fitted(weights, offset, classes, uses=True)
        detector = Detector(self.regions, model)
        detector.classes = self.classes
        return detector

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The classifiers, in float32: they are small."""
        detector = self._detector()
        config: MIMaxConfig = dataclasses.replace(detector.config, regions=self.settings.regions)
        return {"method": Detector.method} | dataclasses.asdict(config), detector._tensors()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Average precision of boxes and of images, on held-out images."""
        detector = self._detector()
        results = [detector(item.path, threshold=-1.0) for item in self.held_out.items]
        boxes = detection_scores([result.found for result in results], self.held_out, ious=(0.5, 0.3))
        scores = np.array([[result.image_scores[name] for name in self.classes] for result in results])
        whole = classification_scores(self.held_out.labels(), scores, self.classes)
        report = {"images held out": float(len(results))}
        for number, iou in enumerate(boxes.ious):
            report[f"mean AP of boxes at IoU {iou}"] = float(boxes.mean[number])
        return report | {"mean AP of images": whole.mean_ap}


def _part(whole: LabelledSet, paths: list[Path]) -> LabelledSet:
    kept = set(paths)
    return dataclasses.replace(whole, items=tuple(item for item in whole.items if item.path in kept))


def _boxed(whole: LabelledSet, file: Path) -> LabelledSet:
    """The same images with their boxes."""
    known = read_json(file)
    items = []
    for item in whole.items:
        boxes = tuple(Box(label=label, xyxy=tuple(corners)) for label, corners in known[item.path.name].items())
        items.append(dataclasses.replace(item, boxes=boxes, boxed=True))
    return dataclasses.replace(whole, items=tuple(items))
