"""Detections as files that other tools read: plain JSON, Pascal VOC, COCO, and annotation pages of IIIF and the W3C.

A file is written whole or not at all.
"""

import json
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from artmodels.data import voc as voc_xml
from artmodels.detections.boxes import SIDES, as_boxes
from artmodels.errors import ConfigError, DatasetError, some
from artmodels.files import write_whole
from artmodels.images.decoding import Array
from artmodels.images.results import Tabular

__all__ = ["Detections", "coco", "iiif_page", "plain", "save", "save_voc", "voc"]

IIIF_CONTEXT = "http://iiif.io/api/presentation/3/context.json"
_DIGITS = 3  # of a pixel, in COCO


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections(Tabular):
    """What was found in one image; arrays, tensors and lists are taken as they come.

    Raises:
        DatasetError: Lengths differ, a value is not finite, a box is none or lies outside the image, or a class has no
            name that can be written.
    """

    image: str  # name of its file; folders in it are kept
    width: int  # px of the image
    height: int
    boxes: Array  # [N, 4] float32: left, top, right, bottom in pixels
    scores: Array  # [N] float32
    labels: tuple[str, ...]  # N names of classes

    def __post_init__(self) -> None:
        """Check, and convert."""
        boxes = as_boxes(self.boxes).detach().cpu().numpy().astype(np.float32)
        scores = np.asarray(self.scores, np.float32).reshape(-1)
        labels = tuple(self.labels)
        if not len(boxes) == len(scores) == len(labels):
            raise DatasetError(f"{self.image}: {len(boxes)} boxes, {len(scores)} scores, {len(labels)} labels")
        if not np.isfinite(scores).all():
            raise DatasetError(f"{self.image}: {int((~np.isfinite(scores)).sum())} scores are not finite")
        if self.width < 1 or self.height < 1:
            raise DatasetError(f"{self.image} has {self.width} x {self.height} pixels; give its size")
        outside = (boxes < 0).any(1) | (boxes > [self.width, self.height, self.width, self.height]).any(1)
        if outside.any():
            first = boxes[outside][0].tolist()
            raise DatasetError(
                f"{self.image}: the box {first} leaves the image ({self.width} x {self.height}); use boxes.clip"
            )
        for name in {self.image, *labels}:
            if not name.strip() or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
                raise DatasetError(f"{name!r} is no name of a file or class; give one without control characters")
        for field, value in (("boxes", boxes), ("scores", scores), ("labels", labels)):
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        """How many objects."""
        return len(self.labels)

    def _table(self) -> tuple[str, Sequence[str], Iterable[Sequence[object]]]:
        boxes = self.boxes.round().astype(int).tolist()
        rows = ([label, float(score), *box] for label, score, box in zip(self.labels, self.scores, boxes, strict=True))
        title = f"{self.image}, {self.width} x {self.height} pixels: {len(self)} found"
        return title, ("class", "score", *SIDES), rows

    def above(self, threshold: float) -> "Detections":
        """Keep those whose score is above a threshold."""
        kept = np.flatnonzero(self.scores > threshold)
        labels = tuple(self.labels[number] for number in kept)
        return replace(self, boxes=self.boxes[kept], scores=self.scores[kept], labels=labels)


# --- the formats


def plain(detections: Sequence[Detections]) -> dict[str, Any]:
    """Give plain JSON: a list of images, each with its size and its objects `{label, score, box}`, all digits kept."""
    return {
        "images": [
            {
                "image": found.image,
                "width": found.width,
                "height": found.height,
                "objects": [{"label": label, "score": score, "box": box} for label, score, box in _objects(found)],
            }
            for found in detections
        ]
    }


def voc(found: Detections) -> str:
    """Give a Pascal VOC file, coordinates counted from 1 and kept to a fraction, scores as `<confidence>`.

    `labelled.voc` and `labelled.annotated_folder` read the same boxes from it.
    """
    boxes = [voc_xml.Box((left, top, right, bottom), label) for label, _, (left, top, right, bottom) in _objects(found)]
    return voc_xml.to_xml(found.image, found.width, found.height, boxes, _exact(found.scores))


def coco(detections: Sequence[Detections], classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Give a COCO data set: images, categories and annotations with `bbox` [left, top, width, height] and `score`.

    `classes` are the categories 1, 2, ... in this order; by default the classes found, sorted.
    Source: the data format of COCO, https://cocodataset.org/#format-data.

    Raises:
        DatasetError: A class that was found is not in `classes`, or two images have one name.
    """
    found_classes = {label for found in detections for label in found.labels}
    names = sorted(found_classes) if classes is None else list(classes)
    if found_classes - set(names):
        raise DatasetError(f"{some(sorted(found_classes - set(names)))} are not among the classes given")
    if len({found.image for found in detections}) < len(detections):
        raise DatasetError("two images have the same name; give each one of its own")
    annotations = list[dict[str, Any]]()
    for image, found in enumerate(detections, 1):
        for label, score, box in _objects(found):
            width, height = box[2] - box[0], box[3] - box[1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": names.index(label) + 1,
                    "bbox": [round(value, _DIGITS) for value in (box[0], box[1], width, height)],
                    "area": round(width * height, _DIGITS),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    return {
        "images": [
            {"id": number, "file_name": found.image, "width": found.width, "height": found.height}
            for number, found in enumerate(detections, 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": annotations,
    }


def iiif_page(
    found: Detections, *, canvas: str, page: str, canvas_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Give an annotation page (IIIF Presentation 3, W3C Web Annotation): a tag on each region, its score beside it.

    Regions are fragments `#xywh=` of the canvas in whole pixels that cover the box; the score is a second body whose
    purpose is "assessing", because neither standard has a word for it.

    `canvas` is the URI of the canvas, or of the image where there is no manifest, and `canvas_size` its width and
    height where its coordinates are not the image's pixels. The page will be found under the URI `page`; those of the
    annotations are fragments of it.

    Source: https://iiif.io/api/presentation/3.0/#55-annotation-page, https://www.w3.org/TR/annotation-model/,
    https://www.w3.org/TR/media-frags/#naming-space.

    Raises:
        ConfigError: A URI is not absolute or has a fragment, or the size is not positive.
    """
    for name, uri in (("canvas", canvas), ("page", page)):
        if "://" not in uri or "#" in uri or any(letter.isspace() for letter in uri):
            raise ConfigError(f"{name} is {uri!r}; give an absolute URI without fragment, such as https://museum.org/1")
    width, height = canvas_size or (found.width, found.height)
    if width < 1 or height < 1:
        raise ConfigError(f"canvas_size is {canvas_size}; give the width and height of the canvas")
    across, down = width / found.width, height / found.height
    items = list[dict[str, Any]]()
    for number, (label, score, box) in enumerate(_objects(found), 1):
        left, top = min(math.floor(box[0] * across), width - 1), min(math.floor(box[1] * down), height - 1)
        right, bottom = max(left + 1, math.ceil(box[2] * across)), max(top + 1, math.ceil(box[3] * down))
        texts = {"tagging": label, "assessing": f"score {score:.4g}"}
        items.append(
            {
                "id": f"{page}#{number}",
                "type": "Annotation",
                "motivation": "tagging",
                "body": [
                    {"type": "TextualBody", "purpose": purpose, "value": text, "format": "text/plain"}
                    for purpose, text in texts.items()
                ],
                "target": f"{canvas}#xywh={left},{top},{right - left},{bottom - top}",
            }
        )
    return {"@context": IIIF_CONTEXT, "id": page, "type": "AnnotationPage", "items": items}


# --- files


def save(document: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write one of the JSON documents, whole or not at all: an older file stays until the new one is complete.

    Raises:
        ArtModelsError: The file could not be written.
        ConfigError: The path does not end in `.json`.
    """
    target = Path(path)
    if target.suffix.lower() != ".json":
        raise ConfigError(f"{str(target)!r} does not end in .json")
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)
    write_whole({target: text + "\n"})


def save_voc(detections: Sequence[Detections], folder: str | os.PathLike[str]) -> list[Path]:
    """Write one Pascal VOC file an image, named like it, into a folder that exists; all of them or none.

    Raises:
        ArtModelsError: The files could not be written.
        DatasetError: Two images would have one file, or an image's name leads out of the folder.
    """
    texts = dict[Path, str]()
    for found in detections:
        name = PurePath(found.image)
        target = Path(folder) / name.with_suffix(".xml")
        if name.is_absolute() or ".." in name.parts:
            raise DatasetError(f"{found.image!r} leads out of {str(folder)!r}; give the name of a file below it")
        if target in texts:
            raise DatasetError(f"two images would be written to {target}; give each a name of its own")
        texts[target] = voc(found)
    write_whole(texts)
    return list(texts)


def _objects(found: Detections) -> Iterator[tuple[str, float, list[float]]]:
    """Label, score and box of each object."""
    return zip(found.labels, _exact(found.scores), _exact(found.boxes), strict=True)


def _exact(values: Array) -> list[Any]:
    """Floats of 32 bits as the shortest decimals that give them back: 0.9, not 0.8999999761581421."""
    if values.ndim > 1:
        return [_exact(row) for row in values]
    return [float(str(value)) for value in values]
