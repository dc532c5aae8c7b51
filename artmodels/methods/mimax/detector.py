"""Detectors that learn from labels of whole images: images in, boxes out."""

import dataclasses
import math
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, overload

import numpy as np
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from torch import Tensor
from tqdm.auto import tqdm

from artmodels import hub, images
from artmodels.data.bags import Bags
from artmodels.data.labelled import LabelledSet
from artmodels.data.reading import Extraction, listed
from artmodels.detections import drawing
from artmodels.detections.annotations import Detections, plain
from artmodels.detections.boxes import clip, nms_per_class
from artmodels.errors import ConfigError, DatasetError, WeightsError
from artmodels.images.resampling import list_or_none
from artmodels.images.results import ImageResult
from artmodels.methods.mimax.labels import folds_of
from artmodels.methods.mimax.pipeline import MIMax, MIMaxConfig, MIMaxStep
from artmodels.methods.region_features import FeatureStore, RegionFeatures, Regions
from artmodels.progress import Progress, result_of

__all__ = ["Detected", "Detector", "detect_together"]

THRESHOLD = 0.5  # to look at; the published code keeps all above 0.05, as average precision wants it
OVERLAP, LIMIT = 0.3, 100  # the published code's
FAINT = 0.05  # a highest score below this is not shown in full heat
FOLDS = 3  # of the calibration
UNNAMED = "image"

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Labels = Mapping[str, Iterable[str]]
Threshold = float | Mapping[str, float]  # for all classes, or by class


@dataclass(frozen=True, kw_only=True, eq=False)
class Detected(ImageResult):
    """What a detector says about one image; as a picture, the image with its boxes, of the same size.

    Attributes:
        found: Boxes above the threshold, in pixels of the image, best first.
        image_scores: For each class, the score of the best region, in (-1, 1); above 0 the image shows it.
        probabilities: For each class, that the image shows it, in [0, 1]; empty unless the detector is calibrated.
        regions: All regions that were looked at.
        scores: [K, C] score of each of them for each class.
        picture: The image without boxes, upright.
    """

    found: Detections
    image_scores: Mapping[str, float]
    probabilities: Mapping[str, float]
    regions: Regions
    scores: Tensor
    picture: Image.Image

    def heat(self, label: str) -> Image.Image:
        """The picture under the positive scores of all regions for one class.

        Raises:
            ConfigError: There is no such class.
        """
        classes = list(self.image_scores)
        if label not in classes:
            raise ConfigError(f"{label!r} is not one of the classes {', '.join(classes)}")
        scores = self.scores[:, classes.index(label)].numpy()
        heat = drawing.score_map(self.regions.boxes.numpy(), scores, self.picture.width, self.picture.height)
        return drawing.heat_over(self.picture, heat, low=0.0, high=max(float(heat.max()), FAINT))


class Detector(hub.Pretrained[MIMaxConfig]):
    """Draw boxes around what images show, after learning from labels of whole images alone.

    Gonthier et al. 2018, "Weakly Supervised Object Detection in Artworks" (arXiv:1810.02569): the regions of an image
    are a bag, MI-max learns from bags, and the regions that score are the detections.

        >>> detector = Detector(RegionFeatures.from_pretrained())
        >>> trained = detector.fit(".", {"photo.jpg": ["person"], "brick.png": []})  # what is not named teaches nothing
        >>> found = detector("style.jpg")
        >>> list(found.image_scores)
        ['person']
        >>> found.save("boxes.png")

    Attributes:
        regions: What proposes and describes regions.
        classifier: What scores them.
        classes: Names of the classes, in the order of scores.
        files: What it was fitted on, labelled or not.
        skipped: Files that could not be read, and why.
    """

    method: ClassVar[str] = "mimax"
    config_class: ClassVar[type] = MIMaxConfig

    def __init__(self, regions: RegionFeatures, classifier: MIMax | None = None) -> None:
        """Put regions, from `RegionFeatures.from_pretrained`, and a classifier with its settings together.

        None takes the settings of `MIMax`, but standardizes: whatever the scale of the features, C = 1 then leaves
        scores above the usual threshold.
        """
        self.regions, self.classifier = regions, MIMax(standardize=True) if classifier is None else classifier
        self.classes: tuple[str, ...] = ()
        self.files: tuple[str, ...] = ()
        self.skipped: Mapping[str, str] = {}
        self._calibration: tuple[tuple[float, float], ...] = ()
        self._store: FeatureStore | None = None
        self._labels: dict[str, frozenset[str]] = {}

    # --- Training

    def fit(
        self,
        source: LabelledSet | Files,
        labels: Labels | None = None,
        *,
        classes: Sequence[str] | None = None,
        store: str | os.PathLike[str] | None = None,
        calibrate: bool = False,
        progress: bool = False,
    ) -> Self:
        """Extract the regions of a collection, and learn.

        Args:
            source: A collection that `artmodels.data.labelled` reads; or a folder, or files.
            labels: The classes that a file shows, by its name: the path inside the folder, or the path as it is given.
                An empty list says that it shows none of them; a file that is left out is not learnt from. None for a
                collection, which has its own.
            classes: Their names; None takes all in `labels`, sorted, or the collection's.
            store: Folder that keeps the regions, for the next time; None keeps them as long as the detector lives.
            calibrate: Also learn `probabilities`, by Platt's method on the scores of images held out in turn: fits
                three times more.
            progress: Show a bar.

        Raises:
            DatasetError: A class has no positive or no negative image, a label is of no file, or no file can be read.
            ConfigError: A setting is out of range, or the store was made by other regions.
        """
        stream = self.stream_fit(source, labels, classes=classes, store=store, calibrate=calibrate)
        return result_of(stream, progress=progress)

    def stream_fit(
        self,
        source: LabelledSet | Files,
        labels: Labels | None = None,
        *,
        classes: Sequence[str] | None = None,
        store: str | os.PathLike[str] | None = None,
        calibrate: bool = False,
    ) -> Iterator[Extraction | MIMaxStep | Self]:
        """Do what `fit` does, file by file and step by step: yield where it is, and the detector last.

        Closed before its end, it leaves the detector as it was; the regions extracted so far stay in `store`.
        """
        if isinstance(source, LabelledSet):
            if labels is not None or classes is not None:
                raise ConfigError("a labelled collection has its own labels and classes: leave both out")
            files: Files = [item.path for item in source.items]
            labels = {item.path.as_posix(): item.labels for item in source.items}
            classes = source.classes
        elif labels is None:
            raise ConfigError("labels are missing: say for some files which classes they show, {file: [class, ...]}")
        else:
            files = source
        chosen = _checked_labels(labels, [name for name, _ in listed(files)], classes)
        names, extracted, usable = yield from self._stream_regions(files, store)
        yield from self._stream_learn(extracted, usable, *chosen, calibrate=calibrate)
        self._holds(names, extracted, usable)
        yield self

    def take(self, files: Files, *, store: str | os.PathLike[str] | None = None, progress: bool = False) -> Self:
        """Extract the regions of a collection that `collection` is to look at, and learn nothing from it.

        A detector that was loaded finds there what it knows:

            detector = Detector.from_pretrained("mimax-seascapes")
            detector.take("photos/").collection()

        Args:
            files: A folder, or files.
            store: Folder that keeps the regions, for the next time; None keeps them as long as the detector lives.
            progress: Show a bar.

        Raises:
            DatasetError: No file can be read.
            ConfigError: The store was made by other regions.
        """
        return result_of(self.stream_take(files, store=store), progress=progress)

    def stream_take(self, files: Files, *, store: str | os.PathLike[str] | None = None) -> Iterator[Extraction | Self]:
        """Do what `take` does, file by file: yield where it is, and the detector last."""
        self._holds(*(yield from self._stream_regions(files, store)))
        self._labels = {}
        yield self

    def _stream_regions(
        self, files: Files, store: str | os.PathLike[str] | None
    ) -> Generator[Extraction, None, tuple[list[str], FeatureStore, tuple[str, ...]]]:
        """Extract regions; return the names of the files, the store, and the names of those that can be read."""
        names = [name for name, _ in listed(files)]
        if store is None:
            store = tempfile.mkdtemp(prefix="artmodels-regions-")
            weakref.finalize(self, shutil.rmtree, store, ignore_errors=True)
        for step in FeatureStore.stream_extract(files, self.regions, store):
            if isinstance(step, Progress):
                yield step
            else:
                extracted = step
        readable = set(extracted.files)
        return names, extracted, tuple(name for name in names if name in readable)

    def _holds(self, names: Iterable[str], store: FeatureStore, usable: tuple[str, ...]) -> None:
        """Note which collection it looks at."""
        known = set(names)
        self._store, self.files = store, usable
        self.skipped = {name: reason for name, reason in store.skipped.items() if name in known}

    def correct(self, labels: Labels, *, calibrate: bool = False, progress: bool = False) -> Self:
        """Change labels of some files, or give new ones, and learn again; no image is looked at anew.

        Arguments and errors are those of `fit`; the classes stay. A detector that was loaded, not fitted, is a
        ConfigError.
        """
        return result_of(self.stream_correct(labels, calibrate=calibrate), progress=progress)

    def stream_correct(self, labels: Labels, *, calibrate: bool = False) -> Iterator[MIMaxStep | Self]:
        """Do what `correct` does, step by step: yield where it is, and the detector last.

        Closed before its end, it leaves the detector as it was.
        """
        if self._store is None:
            raise ConfigError("there is no collection to learn from again: this detector was loaded; call fit first")
        changed, _ = _checked_labels(labels, self.files, self.classes)
        yield from self._stream_learn(
            self._store, self.files, self._labels | changed, self.classes, calibrate=calibrate
        )
        yield self

    def _stream_learn(
        self,
        store: FeatureStore,
        files: tuple[str, ...],
        labels: dict[str, frozenset[str]],
        classes: tuple[str, ...],
        *,
        calibrate: bool,
    ) -> Iterator[MIMaxStep]:
        """Learn from regions that are extracted; the detector changes all at once, after the last step."""
        known = set(files)
        used = [name for name in labels if name in known]
        shown = np.array([[name in labels[file] for name in classes] for file in used], np.int64)
        truth = shown.reshape(-1, len(classes))  # where there is no file, too
        for name, column in zip(classes, truth.T, strict=True):
            for wanted, kind in ((1, f"shows {name!r}"), (0, f"does not show {name!r}")):
                if not (column == wanted).any():
                    raise DatasetError(
                        f"none of the {len(used)} labelled images {kind}: label at least one that does, and one that "
                        "does not"
                    )
        bags = store.bags().take(store.index_of(used))
        target = truth[:, 0] if len(classes) == 1 else truth
        classifier: MIMax = clone(self.classifier)
        for step in classifier.stream_fit(bags, target):
            if isinstance(step, Progress):
                yield step
        self._calibration = _platt(classifier, bags, truth) if calibrate else ()
        self.classifier, self.classes, self._labels = classifier, classes, labels

    @property
    def labels(self) -> Mapping[str, frozenset[str]]:
        """What it learnt from: the classes of each labelled file."""
        return dict(self._labels)

    # --- Use

    @overload
    def __call__(
        self, image: list[images.Source], *, threshold: Threshold = ..., overlap: float = ...,
        limit: int = ..., progress: bool = ...,
    ) -> list[Detected]: ...  # fmt: skip
    @overload
    def __call__(
        self, image: images.Source, *, threshold: Threshold = ..., overlap: float = ...,
        limit: int = ..., progress: bool = ...,
    ) -> Detected: ...  # fmt: skip
    def __call__(
        self,
        image: images.Source | list[images.Source],
        *,
        threshold: Threshold = THRESHOLD,
        overlap: float = OVERLAP,
        limit: int = LIMIT,
        progress: bool = False,
    ) -> Detected | list[Detected]:
        """Detect the classes in one image, or in each of a list.

        Args:
            image: What `artmodels.images.load` reads, or a list of such.
            threshold: Score in (-1, 1) that a box must exceed, for all classes or by class.
            overlap: Of two boxes of a class with a larger intersection over union, in [0, 1], the better one stays.
            limit: Boxes of an image, at most.
            progress: Show a bar, for lists.

        Raises:
            ConfigError: The detector is not fitted, or a setting is out of range.
            ImageError: The image cannot be read.
        """
        many = list_or_none(image)
        if many is None:
            return self._detect_one(image, threshold, overlap, limit)  # type: ignore[arg-type]
        return [
            self._detect_one(source, threshold, overlap, limit)
            for source in tqdm(many, disable=not progress, unit="image")
        ]

    def _detect_one(self, source: images.Source, threshold: Threshold, overlap: float, limit: int) -> Detected:
        start = time.perf_counter()
        loaded = images.load(source)
        (regions,) = self.regions([loaded])
        name = Path(source).name if isinstance(source, str | os.PathLike) else UNNAMED
        scores = self._scores(regions)
        found = self._found(regions, scores, name, threshold, overlap, limit)
        best = dict(zip(self.classes, scores.amax(0).tolist(), strict=True))
        chances = {
            label: 1 / (1 + math.exp(-slope * best[label] - offset))
            for label, (slope, offset) in zip(self.classes, self._calibration, strict=False)
        }
        picture = loaded.pil()
        drawn = drawing.boxes_over(picture, found, classes=self.classes)
        settings = {
            "model": self._name,
            "threshold": dict(threshold) if isinstance(threshold, Mapping) else threshold,
            "overlap": overlap,
            "limit": limit,
            "objects": plain([found])["images"][0]["objects"],
        }
        return Detected(
            tensor=images.load(drawn).tensor(),
            settings=self._record(settings),
            seconds=time.perf_counter() - start,
            notes=regions.notes,
            origin=loaded.origin,
            found=found,
            image_scores=best,
            probabilities=chances,
            regions=regions,
            scores=scores,
            picture=picture,
        )

    def collection(
        self, *, threshold: Threshold = THRESHOLD, overlap: float = OVERLAP, limit: int = LIMIT
    ) -> list[Detections]:
        """Detect in every image of `files`, labelled or not, from the regions that are kept; see `__call__`.

        Raises:
            ConfigError: The detector was loaded, not fitted, or a setting is out of range.
        """
        if self._store is None:
            raise ConfigError("there is no collection: this detector was loaded; call it with images, or call take")
        found = []
        for name in self.files:
            regions = self._store.regions(name)
            found.append(self._found(regions, self._scores(regions), name, threshold, overlap, limit))
        return found

    def _scores(self, regions: Regions) -> Tensor:
        """[K, C] float64."""
        if not self.classes:
            raise ConfigError("the detector has not learnt anything yet: call fit, or load one with from_pretrained")
        bag = Bags(regions.features, torch.tensor([len(regions)]), regions.objectness)
        return torch.from_numpy(self.classifier.instance_scores(bag)).view(len(regions), len(self.classes))

    def _found(
        self, regions: Regions, scores: Tensor, name: str, threshold: Threshold, overlap: float, limit: int
    ) -> Detections:
        if limit < 1:
            raise ConfigError(f"limit={limit} must be at least 1")
        least = _thresholds(threshold, self.classes)
        region, label = (scores > torch.tensor(least, dtype=scores.dtype)).nonzero(as_tuple=True)
        boxes, values = clip(regions.boxes[region], regions.width, regions.height), scores[region, label]
        kept = nms_per_class(boxes, values, label, iou=overlap)[:limit]
        return Detections(
            image=name,
            width=regions.width,
            height=regions.height,
            boxes=boxes[kept].numpy(),
            scores=values[kept].numpy(),
            labels=tuple(self.classes[number] for number in label[kept].tolist()),
        )

    # --- Storage

    @property
    def config(self) -> MIMaxConfig:  # type: ignore[override]  # fitting changes it
        """The classifier's, with the names of the classes and the regions that it needs."""
        return dataclasses.replace(
            self.classifier.config,
            names=self.classes,
            regions=self.regions._name or "",
            regions_sha256=self.regions.fingerprint,
            calibration=self._calibration,
        )

    def _tensors(self) -> dict[str, Tensor]:
        return self.classifier._tensors()

    @classmethod
    def _build(cls, config: MIMaxConfig, resolved: hub.Resolved, placement: hub.Placement) -> Self:
        if not config.names or not config.regions:
            raise ConfigError(
                f"{resolved.name} does not say what its classes and regions are: load it with artmodels.MIMax, or make "
                "a Detector of your RegionFeatures and fit it"
            )
        classifier = MIMax._build(config, resolved, placement)
        regions = RegionFeatures.from_pretrained(
            config.regions, device=placement.device, local_files_only=placement.local_files_only
        )
        if regions.fingerprint != config.regions_sha256:
            raise WeightsError(
                f"{resolved.name} was trained on other weights of {config.regions!r} than these: train it again"
            )
        detector = cls(regions, classifier)
        detector.classes, detector._calibration = config.names, config.calibration
        return detector


def _checked_labels(
    labels: Labels, files: Iterable[str], classes: Sequence[str] | None
) -> tuple[dict[str, frozenset[str]], tuple[str, ...]]:
    """Labels as sets, and the classes; every name is known, or an error says which is not."""
    known = set(files)
    strays = [name for name in labels if name not in known]
    if strays:
        raise DatasetError(f"labels are given for {strays[0]!r} ({len(strays)} such), which is not among the files")
    for name, shown in labels.items():
        if isinstance(shown, str):
            raise DatasetError(f"the label of {name!r} is the text {shown!r}: give a list of classes, [{shown!r}]")
    given = {name: frozenset(shown) for name, shown in labels.items()}
    everything = frozenset[str]().union(*given.values())
    names = tuple(sorted(everything)) if classes is None else tuple(classes)
    unknown = sorted(everything - set(names))
    if unknown:
        raise DatasetError(f"{unknown[0]!r} is not one of the classes {', '.join(names)}")
    if not names:
        raise DatasetError("no file shows anything: label at least one image with a class, and one without it")
    return given, names


def _thresholds(threshold: Threshold, classes: Sequence[str]) -> list[float]:
    by_class = threshold if isinstance(threshold, Mapping) else dict.fromkeys(classes, threshold)
    wrong = sorted(set(by_class) ^ set(classes))
    if wrong:
        raise ConfigError(f"threshold must name each of {', '.join(classes)} and no other; see {wrong[0]!r}")
    for value in by_class.values():
        if not -1 <= value <= 1:
            raise ConfigError(f"threshold={value} must be from -1 to 1")
    return [by_class[name] for name in classes]


def _platt(classifier: MIMax, bags: Bags, truth: np.ndarray[Any, Any]) -> tuple[tuple[float, float], ...]:
    """Slope and offset of a logistic curve for each class (Platt 1999), from scores of bags that were held out."""
    folds = folds_of(torch.from_numpy(np.where(truth.T, 1, -1)), FOLDS, classifier.seed).numpy()  # [C, B]
    curves = []
    for fold, column in zip(folds, truth.T, strict=True):
        parts = PredefinedSplit(fold)
        scores = cross_val_predict(classifier, bags, column, cv=parts, method="decision_function")
        curve = LogisticRegression(C=1e6).fit(scores[:, None], column)
        curves.append((float(curve.coef_[0, 0]), float(curve.intercept_[0])))
    return tuple(curves)


def detect_together(detectors: Sequence[Detector], *, threshold: float) -> list[Detections]:
    """What several detectors, fitted on the same files for classes of their own, find in each of these files.

    The boxes of the first detector come first. Errors are those of `Detector.collection`.
    """
    collections = (detector.collection(threshold=threshold) for detector in detectors)
    return [
        dataclasses.replace(
            parts[0],
            boxes=np.concatenate([part.boxes for part in parts]),
            scores=np.concatenate([part.scores for part in parts]),
            labels=tuple(label for part in parts for label in part.labels),
        )
        for parts in zip(*collections, strict=True)
    ]
