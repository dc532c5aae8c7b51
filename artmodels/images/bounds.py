"""What a file asks of its decoder, counted from its structure before anything is decoded.

A few bytes can ask for much: a scan of a JPEG is decoded over the whole picture, each chunk of a PNG, segment of a
JPEG and strip of a TIFF is handled by itself, and tags may all point to the same megabytes. Each count here is
linear in the file, and bounded; the bounds are several times what encoders write.
"""

import io
import re
import struct
from typing import BinaryIO

from artmodels.errors import ImageTooLarge, UndecodableImage

__all__ = ["check_structure", "undecodable", "usable_exif"]

SCANS = 32  # of a JPEG of `max_pixels`, and as many more of a smaller one; encoders write 10 to 18
SEGMENTS = 10_000  # of a JPEG: tables, scans, and metadata of at most 64 kB each
DATA_CHUNKS = 2**17  # of a PNG: 1 GB of pixels in the usual 8 kB, or two a row of the tallest picture
OTHER_CHUNKS = 1024  # of a PNG, that hold anything but pixels
PROFILES = 8  # of a PNG, each of which is inflated; only one is allowed
NUMBERS = 2**20  # in the tags of a TIFF or of EXIF: twice the offsets and sizes of its strips or tiles, mostly
PIECES = 2**18  # strips or tiles of a TIFF: 40 megapixels in the smallest tiles, 16 x 16, are 156 250
FRACTIONS = 2**14  # those of the numbers that are fractions, each of which becomes an object
SHARED_BYTES = 2**26  # of tags beyond those that the file has: where tags share them

_BLOCK = 2**16
_STRAY = 2**20  # bytes before the pixels of a JPEG that belong to no segment: looked at one by one
_SMALL = 2**22  # no shape of fewer pixels costs more than this, blocks rounded up
_MCU = 32  # the largest block in which a JPEG is coded: four by four blocks of 8 x 8
# A marker that starts a segment or ends the picture; of the others, neither padding nor restarts mean anything here.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_SOI, _EOI, _SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PNG_DATA = (b"IDAT", b"fdAT", b"fcTL")
# Bytes of a value by TIFF field type; Pillow skips all others.
_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_BYTES, _FRACTIONS = (1, 2, 7), (5, 10)
_PIECES = (273, 279, 324, 325)  # offsets and sizes of strips and tiles
_DIRECTORIES = (34665, 34853, 40965)  # tags that point to further tags: EXIF, GPS, interoperability
_DEPTH = 3


def check_structure(file: BinaryIO, name: str, max_pixels: int) -> None:
    """Check that a JPEG, PNG or TIFF file does not ask for more work than any encoder's file of its kind.

    The picture itself has to keep `max_pixels`. Other formats pass; the file is left at its start.

    Raises:
        ImageTooLarge: It asks for more.
        UndecodableImage: It is damaged so that decoders would search it byte by byte.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(8)
    if head.startswith(b"\xff\xd8\xff"):
        _check_jpeg(file, name, max_pixels)
    elif head == b"\x89PNG\r\n\x1a\n":
        _check_png(file, name)
    elif head[:2] in (b"II", b"MM") and len(head) == 8:
        file.seek(0)
        if not _tags_fit(file, size):
            raise ImageTooLarge(
                f"{name} is a TIFF of more than {PIECES} strips or tiles, or its tags take more than the file itself; "
                "save it again, in larger strips and without metadata"
            )
    file.seek(0)


def undecodable(name: str, reason: object) -> UndecodableImage:
    """The error about a file that a decoder gives up, for a reason."""
    return UndecodableImage(
        f"{name} cannot be decoded ({reason}); it is damaged or incomplete: save or download it again"
    )


def usable_exif(data: bytes) -> bool:
    """Tell whether EXIF data, with or without its prefix, can be read with bounded work."""
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    return _tags_fit(io.BytesIO(data), len(data))


def _check_jpeg(file: BinaryIO, name: str, max_pixels: int) -> None:
    """Follow the segments (ITU-T T.81, annex B) as decoders do: to the end of the first picture."""
    at, stray, segments, scans, pixels, exif = 2, 0, 0, 0, 0, bytearray()
    while True:
        file.seek(at)
        block = file.read(_BLOCK)
        found = _MARKER.search(block)
        if scans == 0:
            stray += found.start() if found else len(block)
            if stray > _STRAY:
                raise undecodable(name, "its segments do not follow each other")
        if not found:
            if len(block) < _BLOCK:
                break
            at += len(block) - 1  # the last byte may be the first of a marker
            continue
        marker = found[1][0]
        at += found.end()
        if marker == _EOI:
            break
        if marker == _SOI:
            continue
        segments += 1
        if segments > SEGMENTS:
            raise ImageTooLarge(
                f"{name} is a JPEG of more than {SEGMENTS} segments; save it again, as baseline JPEG without metadata"
            )
        file.seek(at)
        body = file.read(7)
        length = int.from_bytes(body[:2], "big")
        if marker == _SOS:
            scans += 1
        elif marker in _FRAMES and len(body) == 7:
            height, width = struct.unpack_from(">HH", body, 3)
            pixels = max(pixels, -(-height // _MCU) * -(-width // _MCU) * _MCU**2)
        elif marker == _APP1:
            file.seek(at + 2)
            data = file.read(max(length - 2, 0))
            if data.startswith(b"Exif\0\0"):
                exif += data[6:]  # decoders join them
        at += max(length, 2)
    if scans * pixels > SCANS * max(max_pixels, _SMALL):
        raise ImageTooLarge(
            f"{name} is a JPEG of {scans} scans over {pixels / 1e6:.1f} megapixels, which would take too long to "
            "decode; save it again, as baseline JPEG or PNG"
        )
    if not usable_exif(bytes(exif)):
        raise ImageTooLarge(f"{name} has EXIF data whose tags take more than the data; save it without metadata")


def _check_png(file: BinaryIO, name: str) -> None:
    left = {"data": DATA_CHUNKS, "other": OTHER_CHUNKS, "profile": PROFILES}
    at = 8
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        kind = "data" if head[4:] in _PNG_DATA else "profile" if head[4:] == b"iCCP" else "other"
        left[kind] -= 1
        if left[kind] < 0:
            raise ImageTooLarge(
                f"{name} is a PNG of too many small chunks (the limit is {DATA_CHUNKS} of pixels, {OTHER_CHUNKS} of "
                f"anything else, {PROFILES} colour profiles); save it again, without metadata"
            )
        at += 12 + int.from_bytes(head[:4], "big")


def _tags_fit(file: BinaryIO, size: int) -> bool:
    """Tell whether the tags of the first image of a TIFF, from where `file` stands, keep the bounds."""
    start = file.tell()
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:3] == b"\x2b"
    entry, most = (struct.Struct(f"{order}HHQQ"), 8) if big else (struct.Struct(f"{order}HHII"), 4)
    number = {2: f"{order}H", 4: f"{order}I", 8: f"{order}Q"}
    if len(head) < most + 4 + (4 if big else 0):
        return True  # decoders say what is wrong
    left = {"bytes": size + SHARED_BYTES, "numbers": NUMBERS, "fractions": FRACTIONS}
    directories = [(struct.unpack_from(number[most], head, 8 if big else 4)[0], 0)]
    for offset, depth in directories:
        width = 8 if big else 2
        if offset + width > size:
            continue
        file.seek(start + offset)
        (count,) = struct.unpack(number[width], file.read(width))
        left["numbers"] -= count
        if left["numbers"] < 0:
            return False
        entries = file.read(count * entry.size)
        for tag, kind, values, value in entry.iter_unpack(entries[: len(entries) // entry.size * entry.size]):
            length = values * _TYPES.get(kind, 0)
            if length > most:
                if value + length > size:
                    continue  # decoders read nothing of it
                left["bytes"] -= length
            if kind not in _BYTES and kind in _TYPES:
                left["numbers"] -= values
            if kind in _FRACTIONS:
                left["fractions"] -= values
            if min(left.values()) < 0 or (tag in _PIECES and values > PIECES):
                return False
            if tag in _DIRECTORIES and depth < _DEPTH and values == 1 and 0 < length <= most:
                # A value that is shorter than its field stands at the start of it.
                value = value & (1 << 8 * length) - 1 if order == "<" else value >> 8 * (most - length)
                directories.append((value, depth + 1))
    return True
