"""The annotation files of Pascal VOC: one XML file an image, read and written.

Source: Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge", and its development kit.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from artmodels.errors import DatasetError, suggest
from artmodels.files import text_of

__all__ = ["Annotation", "Box", "Reader", "to_xml"]

LIMIT = 4 * 2**20  # bytes; ten thousand objects fit
SIDES = ("xmin", "ymin", "xmax", "ymax")
SOMEWHERE = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Box:
    """One object in an image.

    VOC files count pixels from 1: all four sides are one less than in the file, so that right and bottom are the last
    pixels inside (`plus_one` of `boxes.iou`).
    """

    xyxy: tuple[float, float, float, float]  # left, top, right, bottom in pixels, the first pixel at 0
    label: str  # its class
    difficult: bool = False  # whether neither finding it nor missing it counts


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """What one file says of an image; without one it shows nothing."""

    labels: frozenset[str] = frozenset()  # the classes that it shows
    boxes: tuple[Box, ...] = ()  # where they are
    boxed: bool = True  # whether all boxes are known; if not, there may be objects, but nobody has drawn them
    size: tuple[int, int] | None = None  # width and height in pixels


class Reader:
    """Reads files of one collection, whose classes are the same throughout."""

    def __init__(self, classes: Sequence[str] | None, ignored: Iterable[str], *, clip: bool) -> None:
        """Expect some classes, in any case of letters, or whatever comes (None); pass over the objects of others.

        With `clip`, boxes that leave the image are cut back; otherwise they are an error.
        """
        self._classes = None if classes is None else tuple(classes)
        self._known = {name.casefold(): name for name in classes or ()}
        self._ignored = {name.casefold() for name in ignored}
        self._clip = clip
        self._seen = set[str]()

    @property
    def classes(self) -> tuple[str, ...]:
        """The expected classes in their order, or those that occurred, sorted."""
        return tuple(sorted(self._seen)) if self._classes is None else self._classes

    def read(self, file: Path) -> Annotation:
        """Read one file.

        The box 1, 1, 1, 1 stands for "somewhere", as Inoue et al. 2018 write it: the class counts, the box does not.
        A DatasetError says that the file is missing, malformed, too large or declares entities, that a class is
        unknown, or that a box lies outside the image.
        """
        root = _parsed(file)
        size = _size(root)
        labels, boxes, boxed = set[str](), list[Box](), True
        for number, element in enumerate(root.findall("object"), 1):
            where = f"{file}, object {number}"
            label = self._label(element, where)
            if label is None:
                continue
            labels.add(label)
            where = f"{where} ({label})"
            corners = _corners(element, where)
            if corners == SOMEWHERE:
                boxed = False
            else:
                xyxy = self._inside(corners, size, where)
                boxes.append(Box(xyxy, label, _child(element, "difficult") == "1"))
        return Annotation(labels=frozenset(labels), boxes=tuple(boxes), boxed=boxed, size=size)

    def _label(self, element: ElementTree.Element, where: str) -> str | None:
        label = _child(element, "name")
        if not label:
            raise DatasetError(f"{where}: there is no <name>; each object names its class.")
        if label.casefold() in self._ignored:
            return None
        if self._classes is None:
            self._seen.add(label)
            return label
        if label.casefold() not in self._known:
            raise DatasetError(
                f"{where}: the class {label!r} is unknown.{suggest(label, self._classes)} The classes are "
                f"{', '.join(self._classes)}; add it to classes, or to ignored."
            )
        return self._known[label.casefold()]

    def _inside(
        self, corners: Sequence[float], size: tuple[int, int] | None, where: str
    ) -> tuple[float, float, float, float]:
        left, top, right, bottom = (value - 1 for value in corners)
        width, height = map(float, size or (math.inf, math.inf))
        # One pixel more on each side: some programs count from 0, some write where the box ends.
        outside = left < -1 or top < -1 or right > width or bottom > height
        if left > right or top > bottom or right < 0 or bottom < 0 or left >= width or top >= height:
            raise DatasetError(
                f"{where}: the box {_numbers(corners)} is inside out or lies outside the image "
                f"({width:g} x {height:g}); correct the file."
            )
        if outside and not self._clip:
            raise DatasetError(
                f"{where}: the box {_numbers(corners)} leaves the image ({width:g} x {height:g}); correct the file, or "
                "have boxes cut back with clip=True."
            )
        return max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)


def to_xml(image: str, width: int, height: int, boxes: Sequence[Box], scores: Sequence[float]) -> str:
    """Give an annotation file; each object has a `<confidence>`, which readers of VOC pass over."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = image
    size = ElementTree.SubElement(root, "size")
    for name, pixels in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, name).text = str(pixels)
    ElementTree.SubElement(root, "segmented").text = "0"
    for box, score in zip(boxes, scores, strict=True):
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = box.label
        for name, flag in (("truncated", False), ("difficult", box.difficult)):
            ElementTree.SubElement(element, name).text = str(int(flag))
        ElementTree.SubElement(element, "confidence").text = str(score)
        corners = ElementTree.SubElement(element, "bndbox")
        for side, value in zip(SIDES, box.xyxy, strict=True):
            ElementTree.SubElement(corners, side).text = f"{value + 1:.10g}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _parsed(file: Path) -> ElementTree.Element:
    text = text_of(file, LIMIT)
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise DatasetError(f"{file} declares a document type or entities; annotations need none, and it is not read.")
    try:
        # Entities are what makes XML of strangers unsafe to parse; a file that declares any was refused above.
        root = ElementTree.fromstring(text)  # noqa: S314
    except ElementTree.ParseError as error:
        raise DatasetError(f"{file} is not well-formed XML: {error}. Correct or remove it.") from error
    if root.tag != "annotation":
        raise DatasetError(f"{file} is a <{root.tag}> file; Pascal VOC's begin with <annotation>.")
    return root


def _child(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = (int(float(_child(root, f"size/{side}"))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None  # some tools write 0 for "not known"


def _corners(element: ElementTree.Element, where: str) -> tuple[float, ...]:
    texts = [_child(element, f"bndbox/{side}") for side in SIDES]
    try:
        corners = tuple(float(text) for text in texts)
    except ValueError:
        corners = (math.nan,)
    if not all(map(math.isfinite, corners)):
        pairs = ", ".join(f"{side} {text!r}" for side, text in zip(SIDES, texts, strict=True))
        raise DatasetError(f"{where}: {pairs} are not the four sides of a box in pixels.")
    return corners


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
