"""Pixels to files: PNG, JPEG and WebP, written whole or not at all, with texts, author, rights and size in print."""

import io
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from artmodels.errors import ConfigError
from artmodels.files import write_whole
from artmodels.images.decoding import Array, check_pixels, decoding
from artmodels.images.formats.bounds import check_structure
from artmodels.images.formats.origin import Origin, exif_of, texts_of, texts_of_xmp, xmp_of
from artmodels.images.loading import LIMIT, File, Picture, is_tensor, load, opened, to_pil

__all__ = ["ENDINGS", "LONGEST", "QUALITY", "encode", "encode_png", "encode_png16", "read_metadata", "save", "save_png"]

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
QUALITY = 92  # of JPEG and WebP, 1 to 100

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_PILLOW_LIMIT = Image.MAX_IMAGE_PIXELS or LIMIT
_ANY_SIZE = 2**62  # what is in memory already may also be written
LONGEST = {"JPEG": 65_500, "WEBP": 16_383}  # px a side
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_MODES = {"JPEG": ("L", "RGB"), "WEBP": ("RGB", "RGBA")}
_COLOUR_TYPES = {3: 2, 4: 6}  # of a PNG, by channels
_TEXT_LIMIT = 2**20  # what Pillow agrees to read back
_XMP_LIMIT = 65_000  # bytes that a JPEG holds
_XMP_KEY = "XML:com.adobe.xmp"
_FINE = 90  # quality from which colours keep their full resolution
_METRE = 0.0254  # of an inch


def encode_png(image: Picture, *, metadata: Mapping[str, str] | None = None, origin: Origin | None = None) -> bytes:
    """Encode an image as PNG bytes, with text chunks that `read_metadata` reads back.

    Args:
        image: A PIL image (written in its own mode where PNG has it, otherwise as sRGB), or anything that
            `load` or `to_pil` takes as array or tensor (written as 8-bit RGB, but uint16 [H, W, 3 or 4] as it is).
        metadata: Text by keyword. Keywords are 1 to 79 Latin-1 characters; texts are any Unicode up to 1 MB.
        origin: Author, rights, date and size in print, which are written as text, EXIF and XMP.

    Raises:
        ImageError: The image has no usable values.
        ConfigError: A keyword or text cannot be stored.
    """
    texts = texts_of(origin) | dict(metadata or {})
    for key, text in texts.items():
        _check_text(key, text)
    if isinstance(image, np.ndarray) and image.dtype == np.uint16 and image.shape[2:] in ((3,), (4,)) and image.size:
        return encode_png16(image, texts, origin)
    if is_tensor(image):
        picture = to_pil(image)
    elif isinstance(image, Image.Image) and image.mode in _PNG_MODES:
        picture = image
    else:
        picture = load(image, max_pixels=_ANY_SIZE).pil()
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    xmp, exif = xmp_of(origin, {}), exif_of(origin, *picture.size)
    dpi = None if origin is None else origin.dpi(*picture.size)
    if xmp:
        chunks.add_itxt(_XMP_KEY, xmp.decode())
    out = io.BytesIO()
    options = {"exif": exif} if exif else {}
    picture.save(out, "PNG", pnginfo=chunks, **options, **({} if dpi is None else {"dpi": dpi}))
    return out.getvalue()


def encode(
    image: Picture,
    format: str,
    *,
    metadata: Mapping[str, str] | None = None,
    origin: Origin | None = None,
    quality: int | None = None,
) -> bytes:
    """Encode an image, with texts that `read_metadata` reads back.

    Args:
        image: As for `encode_png`; a JPEG holds neither transparency nor 16 bits, a WebP no 16 bits.
        format: "PNG", "JPEG" or "WEBP".
        metadata: Text by keyword; of JPEG and WebP it is kept in XMP.
        origin: Author, rights, date and size in print, for EXIF and XMP.
        quality: 1 to 100, of JPEG and WebP; a WebP of 100 is without loss. None is 92.

    Raises:
        ImageError: The image has no usable values.
        ConfigError: The format cannot hold it, or `quality` is out of range.
    """
    if quality is not None and not (isinstance(quality, int) and 1 <= quality <= 100):
        raise ConfigError(f"quality={quality!r} must be a whole number from 1 to 100")
    if format == "PNG":
        if quality is not None:
            raise ConfigError("a PNG is without loss and has no quality: leave it out, or write a JPEG or WebP")
        return encode_png(image, metadata=metadata, origin=origin)
    if is_tensor(image):
        picture = to_pil(image)
    elif isinstance(image, Image.Image) and image.mode in _MODES[format]:
        picture = image
    else:
        picture = load(image, max_pixels=_ANY_SIZE).pil()
    if max(picture.size) > LONGEST[format]:
        raise ConfigError(f"a {format} has at most {LONGEST[format]} pixels a side, not {max(picture.size)}: use .png")
    xmp = xmp_of(origin, metadata or {})
    if format == "JPEG" and len(xmp) > _XMP_LIMIT:
        raise ConfigError("a JPEG holds at most 64 kB of settings: use .png or .webp")
    value = QUALITY if quality is None else quality
    options: dict[str, Any] = (
        {"subsampling": 0 if value >= _FINE else 2, "optimize": True}
        if format == "JPEG"
        else {"lossless": value == 100, "method": 4}
    )
    dpi = None if origin is None else origin.dpi(*picture.size)
    if dpi is not None and format == "JPEG":
        options["dpi"] = tuple(max(1, round(side)) for side in dpi)
    out = io.BytesIO()
    picture.save(out, format, quality=value, exif=exif_of(origin, *picture.size), xmp=xmp, **options)
    return out.getvalue()


def save(
    image: Picture,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    origin: Origin | None = None,
    quality: int | None = None,
) -> None:
    """Write an image as a file, whole or not at all: an older file stays until the new one is complete.

    The ending of the path says the format: `.png`, `.jpg`, `.jpeg` or `.webp`. An ArtModelsError says that the file
    could not be written (no space, no such folder, no permission); the rest is as in `encode`.
    """
    target = Path(path)
    format = _FORMATS.get(target.suffix.lower())
    if format is None:
        raise ConfigError(f"{str(target)!r} does not end in {', '.join(ENDINGS)}, which are the formats written")
    write_whole({target: encode(image, format, metadata=metadata, origin=origin, quality=quality)})


def save_png(
    image: Picture,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    origin: Origin | None = None,
) -> None:
    """Write an image as `save` does, but only as a PNG file."""
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ConfigError(f"{str(target)!r} does not end in .png; only PNG is written, without loss")
    save(image, target, metadata=metadata, origin=origin)


def read_metadata(file: File) -> dict[str, str]:
    """Read the texts of a PNG, JPEG or WebP file or of its bytes, as `encode` wrote them; an ImageError if it is none.

    Of a PNG these are all its texts, whoever wrote them.
    """
    name, stream = opened(file, _PILLOW_LIMIT)
    with stream:
        check_structure(stream, name, _PILLOW_LIMIT)
        with decoding(name), Image.open(stream, formats=("PNG", "JPEG", "WEBP")) as image:
            check_pixels(*image.size, _PILLOW_LIMIT, name)
            if isinstance(image, PngImageFile):
                return {key: str(text) for key, text in image.text.items() if key != _XMP_KEY}
            return texts_of_xmp(image.info.get("xmp"))


def _check_text(key: str, text: str) -> None:
    if not isinstance(key, str) or not isinstance(text, str):
        raise ConfigError(f"metadata {key!r} is a {type(text).__name__}; give text for keyword and value")
    printable = all(" " <= c <= "~" or "\xa1" <= c <= "\xff" for c in key)
    if not 1 <= len(key) <= 79 or not printable or key != key.strip():
        raise ConfigError(f"metadata keyword {key[:90]!r} must be 1 to 79 printable Latin-1 characters")
    if "\0" in text or len(text.encode("utf-8", "replace")) > _TEXT_LIMIT:
        raise ConfigError(f"metadata {key!r} must be at most 1 MB of text without NUL characters")


def encode_png16(pixels: Array, metadata: Mapping[str, str], origin: Origin | None = None) -> bytes:
    """Encode uint16 [H, W, 3 or 4] (ISO/IEC 15948), with text chunks of checked keywords and texts.

    Pillow reads colour of 16 bits a channel at half the depth, and does not write it.
    """
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    # Filter 2, the difference to the row above, suits pictures that are smooth, as enlarged ones are.
    differences = np.concatenate([rows[:1], rows[1:] - rows[:-1]])
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), differences], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    xmp, exif = xmp_of(origin, {}), exif_of(origin, width, height)
    dpi = None if origin is None else origin.dpi(width, height)
    texts = {**metadata, **({_XMP_KEY: xmp.decode()} if xmp else {})}
    about = [(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8")) for key, text in texts.items()]
    if dpi is not None:
        about.append((b"pHYs", struct.pack(">IIB", *(round(side / _METRE) for side in dpi), 1)))
    if exif:
        about.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks = [(b"IHDR", header), *about, (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)
