"""What a file says of where a picture comes from and how large it is printed: read from EXIF, XMP, IPTC and PNG's text.

Files are written with the same: EXIF 2.32, XMP (ISO 16684-1), and the keywords of PNG (ISO/IEC 15948, 11.3.4.2).
"""

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any
from xml.etree import ElementTree

from PIL import Image, IptcImagePlugin

__all__ = ["Origin", "exif_of", "origin_of", "origin_of_image", "texts_of", "texts_of_xmp", "xmp_of"]

LONGEST = 2000  # characters of a text
LARGEST_XMP = 2**18  # bytes of a packet that is read for its origin
PER_INCH = (1.0, 100_000.0)  # dots that are believed

_MM_PER_INCH = 25.4
_ARTIST, _COPYRIGHT, _DATE, _X, _Y, _UNIT, _SUB, _TAKEN = 315, 33432, 306, 282, 283, 296, 34665, 36867
_BY_LINE, _CREATED, _NOTICE = (2, 80), (2, 55), (2, 116)  # of IPTC
_RDF, _DC = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "http://purl.org/dc/elements/1.1/"
_XMP, _PHOTOSHOP = "http://ns.adobe.com/xap/1.0/", "http://ns.adobe.com/photoshop/1.0/"
_OWN = "https://huggingface.co/artmodels/ns/1.0/"
_KEYWORDS = {"author": "Author", "rights": "Copyright", "date": "Creation Time"}  # of PNG
_META = "adobe:ns:meta/"
_PREFIXES = {"x": _META, "rdf": _RDF, "dc": _DC, "xmp": _XMP, "photoshop": _PHOTOSHOP, "artmodels": _OWN}
for _prefix, _space in _PREFIXES.items():
    ElementTree.register_namespace(_prefix, _space)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Who made a picture, when, whose it is, and its size in print. What a file does not say is empty.

    Nothing else of EXIF goes into results: not the place (GPS), which is private, nor the camera, which did not make
    them.

    Attributes:
        inches: Width and height in print of the upright picture.
        author: Its makers, by "; " if there are several.
        rights: The notice of copyright.
        date: When it was made, as the file writes it.
    """

    inches: tuple[float, float] | None = None
    author: str = ""
    rights: str = ""
    date: str = ""

    def dpi(self, width: int, height: int) -> tuple[float, float] | None:
        """Dots per inch that give a picture of so many pixels this size in print; None where it is not known."""
        if self.inches is None:
            return None
        return width / self.inches[0], height / self.inches[1]

    def scaled(self, across: float, down: float) -> "Origin":
        """The same of a picture that is so much wider and higher, at the same scale."""
        return self if self.inches is None else replace(self, inches=(self.inches[0] * across, self.inches[1] * down))

    def turned(self) -> "Origin":
        """The same with its sides exchanged."""
        return self if self.inches is None else replace(self, inches=self.inches[::-1])

    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    @classmethod
    def checked(cls, plain: object) -> "Origin | None":
        """What `plain` gave, from a source that is not to be believed; a ValueError if it is something else."""
        if plain is None:
            return None
        if not isinstance(plain, dict) or set(plain) != {field.name for field in fields(cls)}:
            raise ValueError("not an origin")
        inches, *texts = (plain[field.name] for field in fields(cls))
        if inches is not None and not (
            isinstance(inches, list) and len(inches) == 2 and all(type(side) is float and 0 < side for side in inches)
        ):
            raise ValueError("not a size in print")
        if not all(isinstance(text, str) and len(text) <= LONGEST for text in texts):
            raise ValueError("not texts")
        return cls(**{**plain, "inches": None if inches is None else (inches[0], inches[1])})


# --- reading


def origin_of(
    size: tuple[int, int],
    *,
    dpi: object = None,
    exif: Mapping[int, Any] | None = None,
    taken: object = None,
    xmp: object = None,
    texts: Mapping[str, object] | None = None,
    iptc: Mapping[Any, Any] | None = None,
) -> Origin | None:
    """Put together what a file of so many pixels, width and height, says of its origin; None where it says nothing.

    Args:
        size: In the order of the file.
        dpi: Dots per inch, across and down.
        exif: Values of EXIF or of a TIFF by tag.
        taken: Date of the photograph, of EXIF.
        xmp: A packet of XMP.
        texts: Texts of a PNG by keyword.
        iptc: Values of IPTC by record and data set.
    """
    exif, texts, iptc, said = exif or {}, texts or {}, iptc or {}, _said_by_xmp(xmp)
    author = said.get("author") or _text(exif.get(_ARTIST)) or _text(texts.get("Author")) or _text(iptc.get(_BY_LINE))
    rights = said.get("rights") or _text(exif.get(_COPYRIGHT)) or _text(texts.get("Copyright"))
    date = _text(taken) or said.get("date") or _text(texts.get("Creation Time")) or _text(iptc.get(_CREATED))
    found = Origin(
        inches=_inches(size, dpi) or _inches(size, _density(exif)),
        author=author,
        rights=rights or _text(iptc.get(_NOTICE)),
        date=date or _text(exif.get(_DATE)),
    )
    return None if found == Origin() else found


def origin_of_image(image: Image.Image, exif: Image.Exif | None) -> Origin | None:
    """What a PIL image says of its origin, with its EXIF data, if they can be used."""
    info = image.info
    taken, iptc, dpi = None, None, info.get("dpi")
    with contextlib.suppress(Exception):  # parsers raise as freely as decoders, and the picture is whole
        taken = exif.get_ifd(_SUB).get(_TAKEN) if exif else None
    if image.format in ("JPEG", "MPO", "TIFF"):
        with contextlib.suppress(Exception):
            iptc = IptcImagePlugin.getiptcinfo(image)  # type: ignore[arg-type]  # any image that was a file
    if image.format in ("JPEG", "MPO") and "jfif_density" not in info and not (exif and _X in exif):
        dpi = None  # Pillow's own guess
    texts = {key: text for key, text in info.items() if isinstance(key, str) and isinstance(text, str)}
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    return origin_of(image.size, dpi=dpi, exif=exif, taken=taken, xmp=xmp, texts=texts, iptc=iptc)


def _density(exif: Mapping[int, Any]) -> object:
    per_inch = {2: 1.0, 3: _MM_PER_INCH / 10}.get(exif.get(_UNIT, 2), math.nan)
    try:
        return float(exif[_X]) * per_inch, float(exif[_Y]) * per_inch
    except (KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None


def _inches(size: tuple[int, int], dpi: object) -> tuple[float, float] | None:
    try:
        across, down = map(float, dpi)  # type: ignore[call-overload]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    if not all(PER_INCH[0] <= value <= PER_INCH[1] for value in (across, down)):
        return None
    return size[0] / across, size[1] / down


def _text(value: object) -> str:
    """A text of a file in one line, whatever its encoding."""
    if isinstance(value, list | tuple):
        return "; ".join(filter(None, map(_text, value[:20])))[:LONGEST]
    if isinstance(value, str):
        with contextlib.suppress(UnicodeError):  # Pillow reads the bytes of EXIF as Latin-1
            value = value.encode("latin-1").decode("utf-8")
    elif isinstance(value, bytes):
        data = value
        try:
            value = data.decode("utf-8")
        except UnicodeError:
            value = data.decode("latin-1")
    else:
        return ""
    return re.sub(r"[\s\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]+", " ", value)[: LONGEST + 2].strip()[:LONGEST]


def _parsed(xmp: object) -> ElementTree.Element | None:
    text = str(xmp, "utf-8", "replace") if isinstance(xmp, bytes) else xmp
    if not isinstance(text, str) or "<!" in text or "\0" in text:  # a document type, with entities
        return None
    try:
        # Entities are what makes XML of strangers unsafe to parse; a packet that may declare any was left above.
        return ElementTree.fromstring(re.sub(r"<\?.*?\?>", "", text, flags=re.DOTALL).strip())  # noqa: S314
    except (ElementTree.ParseError, ValueError):
        return None


def _said_by_xmp(xmp: object) -> dict[str, str]:
    root = _parsed(xmp) if isinstance(xmp, bytes | str) and len(xmp) <= LARGEST_XMP else None
    if root is None:
        return {}
    descriptions = list(root.iter(f"{{{_RDF}}}Description"))

    def items(space: str, name: str) -> Iterator[str]:
        for description in descriptions:
            yield description.get(f"{{{space}}}{name}", "")
            for element in description.iterfind(f"{{{space}}}{name}"):
                yield element.text or ""
                for item in element.iter(f"{{{_RDF}}}li"):
                    yield item.text or ""

    def first(space: str, name: str) -> str:
        return next(filter(None, map(_text, items(space, name))), "")

    return {
        "author": "; ".join(dict.fromkeys(filter(None, map(_text, items(_DC, "creator")))))[:LONGEST],
        "rights": first(_DC, "rights"),
        "date": first(_PHOTOSHOP, "DateCreated") or first(_XMP, "CreateDate"),
    }


# --- writing


def exif_of(origin: Origin | None, width: int, height: int) -> bytes:
    """EXIF data for a picture of so many pixels; empty where there is nothing to say. Texts are UTF-8."""
    if origin is None:
        return b""
    exif, dpi = Image.Exif(), origin.dpi(width, height)
    if dpi is not None:
        exif[_X], exif[_Y], exif[_UNIT] = dpi[0], dpi[1], 2
    for tag, text in ((_ARTIST, origin.author), (_COPYRIGHT, origin.rights)):
        if text:
            exif[tag] = text.encode()
    if re.fullmatch(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", origin.date):
        exif.get_ifd(_SUB)[_TAKEN] = origin.date
    return exif.tobytes() if len(exif) or exif.get_ifd(_SUB) else b""


def texts_of(origin: Origin | None) -> dict[str, str]:
    """The texts of a PNG by keyword."""
    named = {} if origin is None else {word: getattr(origin, name) for name, word in _KEYWORDS.items()}
    return {word: text for word, text in named.items() if text}


def xmp_of(origin: Origin | None, texts: Mapping[str, str]) -> bytes:
    """A packet of XMP with the origin and further texts, which `texts_of_xmp` reads; empty for nothing."""
    root = ElementTree.Element(f"{{{_META}}}xmpmeta")
    description = ElementTree.SubElement(ElementTree.SubElement(root, f"{{{_RDF}}}RDF"), f"{{{_RDF}}}Description")
    description.set(f"{{{_RDF}}}about", "")

    def listed(name: str, kind: str, items: list[str], **attributes: str) -> None:
        container = ElementTree.SubElement(ElementTree.SubElement(description, f"{{{_DC}}}{name}"), f"{{{_RDF}}}{kind}")
        for item in items:
            ElementTree.SubElement(container, f"{{{_RDF}}}li", attributes).text = item

    if origin is not None and origin.author:
        listed("creator", "Seq", origin.author.split("; "))
    if origin is not None and origin.rights:
        listed("rights", "Alt", [origin.rights], **{"{http://www.w3.org/XML/1998/namespace}lang": "x-default"})
    if origin is not None and origin.date:
        date = re.sub(r"^(\d{4}):(\d\d):(\d\d) ", r"\1-\2-\3T", origin.date)  # from EXIF to ISO 8601
        ElementTree.SubElement(description, f"{{{_PHOTOSHOP}}}DateCreated").text = date
    if texts:
        # As JSON, whose escapes leave no character that XML cannot hold.
        ElementTree.SubElement(description, f"{{{_OWN}}}texts").text = json.dumps(dict(texts))
    return ElementTree.tostring(root) if len(description) else b""


def texts_of_xmp(xmp: object) -> dict[str, str]:
    """The texts that `xmp_of` was given; none of another packet."""
    root = _parsed(xmp)
    element = None if root is None else root.find(f".//{{{_OWN}}}texts")
    try:
        found = json.loads((element.text if element is not None else None) or "{}")
    except (ValueError, RecursionError):
        return {}
    return {key: text for key, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}
