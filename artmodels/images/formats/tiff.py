"""The images of a TIFF file, of which one is the picture, and pixels of layouts that Pillow does not read, by tifffile.

Of a file that anybody may have written, tifffile sees nothing but the tags that describe pixels, and its segments one
after the other, each checked: it knows the private tags of dozens of instruments, and would believe them.
Source: Adobe, "TIFF, revision 6.0"; BigTIFF and its compressions as libtiff has them.
"""

import io
import logging
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from artmodels.errors import ImageTooLarge, UndecodableImage
from artmodels.images.formats.bounds import PIECES, check_codestream, tags_fit, undecodable
from artmodels.images.formats.samples import to_uint16

__all__ = [
    "Directory",
    "Decoded",
    "beyond_pillow",
    "check_tiles",
    "directories",
    "is_tiff",
    "picture_of",
    "pixels_of",
    "texts_of",
    "wholes",
]

Array: TypeAlias = npt.NDArray[Any]

PAGES = 64  # that are looked at for the picture
CHILDREN = 16  # further images that one page may point to
LARGEST = 2**24  # bytes of a tag that is read: a profile, a packet of XMP
EXCESS = 4  # times the limit that the tiles of a picture may cover: those at its edges reach over them
SMALL = 2**20  # pixels that are always allowed

SUBFILE, OLD_SUBFILE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 256, 257, 258, 259, 262
STRIPS, ORIENTATION, SAMPLES, ROWS, STRIP_BYTES, PLANAR, PREDICTOR = 273, 274, 277, 278, 279, 284, 317
COLOURS, TILE_WIDTH, TILE_LENGTH, TILES, TILE_BYTES, CHILD_OFFSETS = 320, 322, 323, 324, 325, 330
EXTRA, FORMAT, JPEG_TABLES, SUBSAMPLING, PROFILE, DNG = 338, 339, 347, 530, 34675, 50706
_PIXEL_TAGS = (
    *(WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, 266, STRIPS, SAMPLES, ROWS, STRIP_BYTES, PLANAR, PREDICTOR),
    *(COLOURS, TILE_WIDTH, TILE_LENGTH, TILES, TILE_BYTES, EXTRA, FORMAT, JPEG_TABLES, SUBSAMPLING),
)
_REDUCED, _MASK = 1, 4  # bits of SUBFILE
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_RAW = (32803, 34892)  # photometric interpretations of cameras
_UNSIGNED, _FLOAT = 1, 3
_ASSOCIATED, _UNASSOCIATED = 1, 2  # kinds of EXTRA
_JPEG, _JPEG2000, _WEBP = 7, (33003, 33004, 33005, 34712), 50001
_COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000, _JPEG, *_JPEG2000, _WEBP)
BY_TIFFFILE = (*_JPEG2000, _WEBP)
"""Compressions that Pillow does not undo."""
# Bytes of a value by type, and how `struct` unpacks it.
_TYPES = {1: "B", 2: "c", 3: "H", 4: "I", 5: "II", 6: "b", 7: "c", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d", 13: "I",
          16: "Q", 17: "q", 18: "Q"}  # fmt: skip

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it says more of a damaged file than anybody needs


@dataclass(frozen=True)
class Directory:
    """One image of a file.

    Attributes:
        offset: Where in the file its tags are.
        number: Which image of the file it is, from 1; 0 for one that only another image points to.
        entries: Type, number of values, and the values or their place in the file, by tag.
    """

    file: BinaryIO
    order: str
    offset: int
    number: int
    entries: Mapping[int, tuple[int, int, bytes | int]]

    def data(self, tag: int) -> bytes:
        """The bytes of a tag's values; none where it is not there or too long."""
        kind, count, value = self.entries.get(tag, (1, 0, b""))
        length = count * struct.calcsize("=" + _TYPES[kind])
        if isinstance(value, bytes):
            return value[:length]
        if length > LARGEST:
            return b""
        self.file.seek(value)
        return self.file.read(length)

    def values(self, tag: int) -> tuple[Any, ...]:
        """The values of a tag; fractions are numerator and denominator. None where it is not there or cut short."""
        kind, count, _ = self.entries.get(tag, (1, 0, b""))
        data = self.data(tag)
        form = "=" + _TYPES[kind]
        if len(data) < count * struct.calcsize(form):
            return ()
        return tuple(value for unit in struct.iter_unpack(self.order + _TYPES[kind], data) for value in unit)

    def value(self, tag: int, default: int = 0) -> int:
        """The first value of a tag, as a whole number."""
        found = self.values(tag)[:1] if self.entries.get(tag, (0, 0, 0))[1] <= PIECES else ()
        return found[0] if found and isinstance(found[0], int) else default

    @property
    def reduced(self) -> bool:
        """Whether it says that it is a smaller copy of another image, or a mask."""
        return bool(self.value(SUBFILE) & (_REDUCED | _MASK)) or self.value(OLD_SUBFILE) == 2

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.value(WIDTH) * self.value(LENGTH)


def is_tiff(head: bytes) -> bool:
    """Tell from its first bytes whether a file is a TIFF or BigTIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def directories(file: BinaryIO) -> list[Directory]:
    """The first images of a file, and those that they point to; not those whose tags are beyond any bound."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    form = struct.Struct(order + ("HHQQ" if big else "HHII"))
    number = struct.Struct(order + ("Q" if big else "I"))
    found, seen = list[Directory](), set[int]()

    def read(offset: int, index: int) -> int:
        """Read one image; return where the next one is."""
        seen.add(offset)
        count_size = 8 if big else 2
        if not 0 < offset <= size - count_size or not tags_fit(file, size, offset):
            return 0
        file.seek(offset)
        count = int.from_bytes(file.read(count_size), "little" if order == "<" else "big")
        data = file.read(count * form.size)
        entries = dict[int, tuple[int, int, bytes | int]]()
        for start in range(0, len(data) // form.size * form.size, form.size):
            tag, kind, values, value = form.unpack_from(data, start)
            if kind in _TYPES:
                long = values * struct.calcsize("=" + _TYPES[kind]) > number.size
                inline = data[start + form.size - number.size : start + form.size]
                entries.setdefault(tag, (kind, values, value if long else inline))
        found.append(Directory(file, order, offset, index, entries))
        file.seek(offset + count_size + count * form.size)
        following = file.read(number.size)
        return number.unpack(following)[0] if len(following) == number.size else 0

    (offset,) = number.unpack_from(head, 8 if big else 4) if len(head) >= 16 else (0,)
    while offset and offset not in seen and len(found) < PAGES:
        offset = read(offset, len(found) + 1)
    for page in tuple(found):
        count = page.entries.get(CHILD_OFFSETS, (0, 0, 0))[1]
        for child in page.values(CHILD_OFFSETS) if count <= CHILDREN else ():
            if isinstance(child, int) and child not in seen:
                read(child, 0)
    return found


def wholes(pages: list[Directory]) -> list[Directory]:
    """Those images that are neither smaller copies of others nor masks."""
    return [page for page in pages if not page.reduced and page.pixels]


def picture_of(pages: list[Directory]) -> Directory | None:
    """The first image, or the largest whole one where the first is a smaller copy."""
    if not pages or not pages[0].reduced:
        return pages[0] if pages else None
    return max(wholes(pages), key=lambda page: page.pixels, default=pages[0])


def beyond_pillow(page: Directory) -> bool:
    """Whether Pillow reads the layout of an image wrongly, or opens it and then does not read it."""
    planar = page.value(PLANAR, 1) == 2 and page.value(SAMPLES, 1) > 1
    photometric = page.value(PHOTOMETRIC, -1)
    floats = page.value(FORMAT, _UNSIGNED) == _FLOAT
    return (
        page.value(COMPRESSION, 1) in BY_TIFFFILE
        or (planar and not (photometric in (_RGB, _CMYK, _YCBCR) and page.value(BITS) in (8, 16)))
        or (floats and photometric == _WHITE_IS_ZERO)
        or photometric in _RAW
        or DNG in page.entries
    )


def texts_of(page: Directory, first: Directory) -> dict[int, Any]:
    """Density, author, rights and date of an image, or else of the first one of its file, as EXIF has them."""
    found = dict[int, Any]()
    for tag in (282, 283, 296, 306, 315, 33432):
        source = page if tag in page.entries else first
        values = source.values(tag) if source.entries.get(tag, (0, LARGEST, 0))[1] <= PIECES else ()
        if source.entries.get(tag, (0,))[0] == 2:
            found[tag] = source.data(tag).rstrip(b"\0")
        elif source.entries.get(tag, (0,))[0] == 5 and len(values) == 2 and values[1]:
            found[tag] = values[0] / values[1]
        elif values:
            found[tag] = values[0]
    return found


@dataclass(frozen=True)
class Decoded:
    """What an image of a TIFF file holds.

    Attributes:
        colour: `[H, W, C]`, uint8 or uint16 over its full range; C is 1 for grey, 3 for RGB, 4 for CMYK.
        alpha: `[H, W]` of the same type, 0 transparent; None without.
        floats: Whether the file has floats.
    """

    colour: Array
    alpha: Array | None
    floats: bool


def pixels_of(page: Directory, name: str, max_pixels: int) -> Decoded:
    """Decode an image; `name` is what messages call the file.

    An ImageTooLarge says that it, or its tiles, are larger than `max_pixels`; an UndecodableImage that its layout is
    not read, or that it is damaged.
    """
    height, width = page.value(LENGTH), page.value(WIDTH)
    photometric, samples = page.value(PHOTOMETRIC, -1), page.value(SAMPLES, 1)
    bits, kinds = set(page.values(BITS)[:8]) or {1}, set(page.values(FORMAT)[:8]) or {_UNSIGNED}
    own = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}.get(photometric, 0)
    compression = page.value(COMPRESSION, 1)
    if photometric in _RAW or DNG in page.entries:
        raise UndecodableImage(f"{name} is a camera's raw file; develop it, and save it as TIFF, PNG or JPEG")
    floats = kinds == {_FLOAT} and bits <= {16, 32, 64}
    whole = kinds == {_UNSIGNED} and bits <= set(range(1, 17))
    depth = max(bits)
    if not (
        own
        and own <= samples <= own + 4
        and (floats or whole)
        and len(bits) == 1
        and compression in _COMPRESSIONS
        and (photometric != _PALETTE or (whole and depth <= 8))
    ):
        raise UndecodableImage(
            f"{name} is a TIFF of a layout that is not read ({_described(page)}); save it as grey, RGB or CMYK of 8 or "
            "16 bits a channel, uncompressed or by LZW, Deflate or JPEG"
        )
    check_tiles(page.value(TILE_WIDTH), page.value(TILE_LENGTH), width, height, name, max_pixels)
    kind = np.uint8 if whole and depth <= 8 else np.uint16
    made = np.empty((height, width, min(samples, own + 1)), kind)
    for segment, top, left, channel in _segments(page, name):
        if floats:
            segment = to_uint16(segment, name)
        elif photometric == _PALETTE:
            segment = segment.astype(np.uint8)
        elif depth not in (8, 16):
            segment = (segment.astype(np.uint32) * np.iinfo(kind).max // (2**depth - 1)).astype(kind)
        if segment.shape[2] > 1 or samples == 1:
            place = made[top : top + segment.shape[0], left : left + segment.shape[1]]
            place[...] = segment[: place.shape[0], : place.shape[1], : made.shape[2]]
        elif channel < made.shape[2]:
            plane = made[top : top + segment.shape[0], left : left + segment.shape[1], channel]
            plane[...] = segment[: plane.shape[0], : plane.shape[1], 0]
    colour, alpha = made[..., :own], None
    extra = page.values(EXTRA)[: samples - own]
    if samples > own and extra[:1] in ((_ASSOCIATED,), (_UNASSOCIATED,)):
        alpha = made[..., own]
    if photometric == _WHITE_IS_ZERO:
        np.subtract(np.iinfo(kind).max, colour, out=colour)
    if alpha is not None and extra[0] == _ASSOCIATED:
        _divide(colour, alpha)
    if photometric == _PALETTE:
        colour = _looked_up(page, colour[..., 0], 2**depth, name)
    if photometric == _YCBCR and compression != _JPEG:  # JPEG is decoded to RGB
        colour = _from_ycbcr(colour, name)
    return Decoded(colour, alpha, floats)


def check_tiles(across: int, down: int, width: int, height: int, name: str, max_pixels: int) -> None:
    """Raise ImageTooLarge for tiles far larger than the picture: a decoder allocates whole ones. 0 is no tile."""
    if across < 1 or down < 1:
        return
    stored = -(-width // across) * across * -(-height // down) * down
    if across * down > max_pixels or stored > EXCESS * max(max_pixels, SMALL):
        raise ImageTooLarge(
            f"{name} is stored in tiles of {across} x {down} pixels, above the limit; save it without tiles"
        )


def _segments(page: Directory, name: str) -> Iterator[tuple[Array, int, int, int]]:
    """Decode strip by strip or tile by tile: [h, w, c], top, left, and the channel if each is stored by itself."""
    import tifffile  # here, because few files need it

    with tifffile.TiffFile(io.BytesIO(_described_alone(page)), name="pixels", _multifile=False) as file:
        described = file.pages.first
        tables = page.data(JPEG_TABLES) or None
        offsets = page.values(TILES if TILES in page.entries else STRIPS)
        counts = page.values(TILE_BYTES if TILE_BYTES in page.entries else STRIP_BYTES)
        _, _, height, width, _ = described.shaped
        down, across = (
            (described.tilelength, described.tilewidth) if described.is_tiled else (described.rowsperstrip, width)
        )
        planes = described.shaped[0]
        expected = planes * math.ceil(height / max(down, 1)) * math.ceil(width / max(across, 1))
        if len(offsets) < expected or len(counts) < expected:
            raise undecodable(name, f"{min(len(offsets), len(counts))} of its {expected} strips or tiles are there")
        compression = page.value(COMPRESSION, 1)
        for index, (offset, count) in enumerate(zip(offsets[:expected], counts[:expected], strict=True)):
            page.file.seek(offset)
            data = page.file.read(count)
            if compression in (_JPEG, *_JPEG2000, _WEBP):
                _check_picture(data, across, down, name)
            segment, (plane, _, top, left, _), _ = described.decode(data, index, jpegtables=tables)
            if segment is None:
                raise undecodable(name, "a part of it is empty")
            yield segment[0], top, left, plane


def _check_picture(data: bytes, across: int, down: int, name: str) -> None:
    """Check what a segment says of itself that is a picture of a format of its own."""
    check_codestream(io.BytesIO(data), name, across * down)
    with Image.open(io.BytesIO(data), formats=("JPEG", "JPEG2000", "WEBP")) as segment:
        if segment.width > across or segment.height > down:
            raise undecodable(name, "a part of it is larger than its place")


def _described_alone(page: Directory) -> bytes:
    """A BigTIFF of no pixels, with the tags of a page that describe them."""
    order = page.order
    kept = [(tag, *page.entries[tag][:2], page.data(tag)) for tag in _PIXEL_TAGS if tag in page.entries]
    start = 16 + 8 + 20 * len(kept) + 8
    entries, tail = b"", b""
    for tag, kind, count, data in sorted(kept):
        if len(data) > 8:
            entries += struct.pack(f"{order}HHQQ", tag, kind, count, start + len(tail))
            tail += data
        else:
            entries += struct.pack(f"{order}HHQ", tag, kind, count) + data.ljust(8, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HHHQ", 43, 8, 0, 16)
    return head + struct.pack(f"{order}Q", len(kept)) + entries + bytes(8) + tail


def _described(page: Directory) -> str:
    """Say in a few words what layout it is."""
    bits, kinds = page.values(BITS)[:8] or (1,), page.values(FORMAT)[:8] or (1,)
    kind = {1: "whole numbers", 2: "signed whole numbers", 3: "floats"}.get(kinds[0], "numbers of another kind")
    names = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "CIELAB"}
    shown = names.get(page.value(PHOTOMETRIC, -1), "other")
    planar = ", each channel by itself" if page.value(PLANAR, 1) == 2 else ""
    return (
        f"{shown}, {page.value(SAMPLES, 1)} channels of {'/'.join(map(str, dict.fromkeys(bits)))}-bit {kind}{planar}, "
        f"compression {page.value(COMPRESSION, 1)}"
    )


def _divide(colour: Array, alpha: Array) -> None:
    """Undo, in place, that colours were multiplied by alpha; where nothing is seen they are black."""
    most = int(np.iinfo(colour.dtype).max)
    rows = max(1, SMALL // colour.shape[1])
    for top in range(0, len(colour), rows):
        part, weight = colour[top : top + rows], alpha[top : top + rows, :, None].astype(np.uint32)
        part[...] = np.minimum((part * np.uint32(most) + weight // 2) // np.maximum(weight, 1), most)


def _looked_up(page: Directory, indices: Array, entries: int, name: str) -> Array:
    table = np.array(page.values(COLOURS), np.uint32)
    if table.size < 3 * entries:
        raise undecodable(name, "its palette is too short")
    colours: Array = (table[: 3 * entries].reshape(3, entries).T >> 8).astype(np.uint8)[indices]
    return colours


def _from_ycbcr(colour: Array, name: str) -> Array:
    if colour.dtype != np.uint8:
        raise UndecodableImage(f"{name} is a TIFF of YCbCr with more than 8 bits, which is not read; save it as RGB")
    image = Image.frombytes("YCbCr", colour.shape[1::-1], np.ascontiguousarray(colour).tobytes())
    return np.asarray(image.convert("RGB"))
