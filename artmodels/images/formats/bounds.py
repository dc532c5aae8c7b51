"""What a file asks of its decoder, counted from its structure before anything is decoded.

A few bytes can ask for much: a scan of a JPEG is decoded over the whole picture, each chunk of a PNG, segment of a
JPEG and strip of a TIFF is handled by itself, and tags may all point to the same megabytes. Each count here is
linear in the file, and bounded; the bounds are several times what encoders write.
"""

import io
import re
import struct
from typing import BinaryIO, NamedTuple

from artmodels.errors import ImageTooLarge, UndecodableImage

__all__ = ["PIECES", "check_codestream", "check_structure", "tags_fit", "undecodable", "usable_exif"]

SCANS = 32  # of a JPEG of `max_pixels`, and as many more of a smaller one; encoders write 10 to 18
SEGMENTS = 10_000  # of a JPEG: tables, scans, and metadata of at most 64 kB each
DATA_CHUNKS = 2**17  # of a PNG: 1 GB of pixels in the usual 8 kB, or two a row of the tallest picture
OTHER_CHUNKS = 1024  # of a PNG, that hold anything but pixels
PROFILES = 8  # of a PNG, each of which is inflated; only one is allowed
NUMBERS = 2**20  # in the tags of a TIFF or of EXIF: twice the offsets and sizes of its strips or tiles, mostly
PACKETS = 2**20  # of a JPEG 2000: 40 megapixels in precincts of 256 x 256, of 3 channels and 20 layers, are 50 000
TILES = 2**16  # of a JPEG 2000, which the format allows; by far fewer are usual
BLOCKS = 2**21  # of a JPEG 2000: of 64 x 64 pixels usually, 40 megapixels of 3 channels in 16 x 16 are 470 000
MARKERS = 2**18  # of a JPEG 2000, two a part of a tile at least
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
_SOC, _SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9  # of JPEG 2000
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PNG_DATA = (b"IDAT", b"fdAT", b"fcTL")
# Bytes of a value by TIFF field type; Pillow skips all others.
_TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_BYTES, _FRACTIONS = (1, 2, 7), (5, 10)
_PIECES = (273, 279, 324, 325)  # offsets and sizes of strips and tiles
_DIRECTORIES = (34665, 34853, 40965)  # tags that point to further tags: EXIF, GPS, interoperability
_DEPTH = 3


def check_structure(file: BinaryIO, name: str, max_pixels: int) -> None:
    """Check that a JPEG, PNG, TIFF or JPEG 2000 file does not ask for more work than any encoder's file of its kind.

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
    elif head[:4] == b"\xff\x4f\xff\x51" or head[4:] == b"jP  ":
        check_codestream(file, name, max_pixels)
    elif head[:2] in (b"II", b"MM") and len(head) == 8:
        file.seek(0)
        if not tags_fit(file, size):
            raise ImageTooLarge(
                f"{name} is a TIFF of more than {PIECES} strips or tiles, or its tags take more than the file itself; "
                "save it again, in larger strips and without metadata"
            )
    file.seek(0)


def check_codestream(file: BinaryIO, name: str, max_pixels: int) -> None:
    """Check that a JPEG 2000, as it is or in a JP2 file, has no more tiles, packets or blocks than encoders make.

    Nor more than `max_pixels`, whatever the JP2 file says.

    Source: ISO/IEC 15444-1, annex A and, for the boxes of JP2, annex I. Other files pass.
    """
    size = file.seek(0, io.SEEK_END)
    at = _codestream(file, size)
    image, styles, tile_end = _Grid(), list[tuple[int, int, int, bytes]](), 0
    for _ in range(MARKERS):
        file.seek(at)
        head = file.read(4)
        if len(head) < 4 or at >= size:
            break
        marker, length = struct.unpack(">HH", head)
        if marker == _SOC:
            at += 2
            continue
        if marker in (_SOD, _EOC):  # the data of a tile, which says itself where it ends
            if tile_end <= at:
                break
            at = tile_end
            continue
        body = file.read(max(length - 2, 0))
        if marker == _SIZ and len(body) >= 36:
            image = _Grid(*struct.unpack_from(">8IH", body, 2))
            if image.width * image.height > max_pixels:
                raise ImageTooLarge(
                    f"{name} has {image.width} x {image.height} pixels and the limit is {max_pixels}; make it smaller"
                )
        elif marker == _COD and len(body) >= 10:
            precincts = body[10:] if body[0] & 1 else b""
            styles.append((int.from_bytes(body[2:4], "big"), body[5], body[6] + body[7] + 4, precincts))
        elif marker == _COC and len(body) >= 7:
            own = body[1:] if image.channels < 257 else body[2:]
            precincts = own[6:] if own[0] & 1 else b""
            styles.append((styles[-1][0] if styles else 1, own[1], own[2] + own[3] + 4, precincts))
        elif marker == _SOT and len(body) >= 6:
            tile_end = at + int.from_bytes(body[2:6], "big")
        at += 2 + length
    else:
        raise ImageTooLarge(f"{name} is a JPEG 2000 of more than {MARKERS} parts; save it again, without tiles")
    for layers, levels, block, precincts in styles:
        packets = layers * image.channels * image.precincts(min(levels, 32), precincts)
        blocks = image.channels * image.width * image.height >> min(block, 32)
        if image.tiles > TILES or packets > PACKETS or blocks > BLOCKS:
            raise ImageTooLarge(
                f"{name} is a JPEG 2000 of {image.tiles} tiles, {packets} packets and {blocks} blocks, which would "
                "take too long to decode; save it again, in larger tiles and precincts"
            )


class _Grid(NamedTuple):
    """What the marker SIZ of a JPEG 2000 says."""

    right: int = 0
    bottom: int = 0
    left: int = 0
    top: int = 0
    across: int = 1
    down: int = 1
    tile_left: int = 0
    tile_top: int = 0
    channels: int = 1

    @property
    def width(self) -> int:
        return max(self.right - self.left, 0)

    @property
    def height(self) -> int:
        return max(self.bottom - self.top, 0)

    @property
    def tiles(self) -> int:
        if not (self.across and self.down):
            return 0  # decoders refuse it
        return -(-max(self.right - self.tile_left, 0) // self.across) * -(
            -max(self.bottom - self.tile_top, 0) // self.down
        )

    def precincts(self, levels: int, sizes: bytes) -> int:
        """How many there are of a channel, at all resolutions of all tiles; `sizes` are exponents, two a byte."""
        count = 0
        width, height = min(self.across, self.width), min(self.down, self.height)
        for level in range(levels + 1):
            exponents = sizes[level] if level < len(sizes) else 0xFF
            shrunk = levels - level
            columns, rows = (
                (side >> shrunk + exponent) + 1
                for side, exponent in ((width, exponents & 15), (height, exponents >> 4))
            )
            count += columns * rows
        return count * self.tiles


def _codestream(file: BinaryIO, size: int) -> int:
    """Where the codestream of a JPEG 2000 begins; the end of the file where there is none."""
    file.seek(0)
    if file.read(4) == b"\xff\x4f\xff\x51":
        return 0
    at = 0
    for _ in range(OTHER_CHUNKS):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            break
        length, start = int.from_bytes(head[:4], "big"), 8
        if length == 1:
            length, start = int.from_bytes(head[8:], "big"), 16
        if head[4:8] == b"jp2c":
            return at + start
        if length < start:
            break
        at += length
    return size


def undecodable(name: str, reason: object) -> UndecodableImage:
    """The error about a file that a decoder gives up, for a reason."""
    return UndecodableImage(
        f"{name} cannot be decoded ({reason}); it is damaged or incomplete: save or download it again"
    )


def usable_exif(data: bytes) -> bool:
    """Tell whether EXIF data, with or without its prefix, can be read with bounded work."""
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    return tags_fit(io.BytesIO(data), len(data))


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


def tags_fit(file: BinaryIO, size: int, at: int | None = None) -> bool:
    """Tell whether the tags of the first image of a TIFF, or of that at a place in it, keep the bounds.

    The TIFF begins where `file` stands, or at its start if a place is given.
    """
    start = file.seek(0) if at is not None else file.tell()
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:3] == b"\x2b"
    entry, most = (struct.Struct(f"{order}HHQQ"), 8) if big else (struct.Struct(f"{order}HHII"), 4)
    number = {2: f"{order}H", 4: f"{order}I", 8: f"{order}Q"}
    if len(head) < most + 4 + (4 if big else 0):
        return True  # decoders say what is wrong
    left = {"bytes": size + SHARED_BYTES, "numbers": NUMBERS, "fractions": FRACTIONS}
    directories = [(struct.unpack_from(number[most], head, 8 if big else 4)[0] if at is None else at, 0)]
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
