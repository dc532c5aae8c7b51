"""Image files made by hand: the kinds that no encoder writes on request, and colour profiles of our own."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, colour_type, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG of unfiltered `rows`, each of which starts with its filter byte 0."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_of(values: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    big = values.astype(values.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    return png(values.shape[1], values.shape[0], 8 * values.itemsize, colour_type, rows, extra)


def tiff_of(values: np.ndarray, *, photometric: int, sample_format: int = 1, extra=(), order: str = "<") -> bytes:
    """An uncompressed single-strip TIFF of `[H, W]` or `[H, W, C]`."""
    samples = 1 if values.ndim == 2 else values.shape[2]
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    short, long = 3, 4
    tags = [
        (256, long, values.shape[1]),
        (257, long, values.shape[0]),
        (258, short, 8 * values.itemsize),
        (259, short, 1),
        (262, short, photometric),
        (273, long, 8),
        (277, short, samples),
        (278, long, values.shape[0]),
        (279, long, len(data)),
        (339, short, sample_format),
        *extra,
    ]
    if samples > 1:  # one number a channel, behind the pixels
        tags = [(t, k, v) if t not in (258, 339) else (t, k, (v,) * samples) for t, k, v in tags]
    tail, offset, entries = b"", 8 + len(data), b""
    for tag, kind, value in sorted(tags):
        if isinstance(value, tuple):
            packed = struct.pack(f"{order}{len(value)}H", *value)
            entries += struct.pack(f"{order}HHII", tag, kind, len(value), offset + len(tail))
            tail += packed
        else:
            entries += struct.pack(f"{order}HHI", tag, kind, 1)
            entries += struct.pack(
                f"{order}{'HH' if kind == short else 'I'}", *((value, 0) if kind == short else (value,))
            )
    start = struct.pack(f"{order}2sHI", b"II" if order == "<" else b"MM", 42, offset + len(tail))
    return start + data + tail + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def saved(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def xyz(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(v * 65536)) for v in values)


def cmyk_profile() -> bytes:
    """A press of two grid points an ink: no ink is white, cyan alone is L* = 50 grey, all else is black."""
    white, grey, black = bytes((255, 128, 128)), bytes((128, 128, 128)), bytes((0, 128, 128))
    corners = [black] * 16  # cyan is the slowest of the four
    corners[0], corners[8] = white, grey
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + xyz(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table += ramp * 4 + b"".join(corners) + ramp * 3
    name = b"test press\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(8 + 3 + 67),
        b"wtpt": b"XYZ " + bytes(4) + xyz(0.9642, 1.0, 0.8249),
        b"A2B0": table,
    }
    directory, body, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for key, data in tags.items():
        directory += key + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", offset + len(body), bytes(4), 0x02100000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H4s", 2020, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + xyz(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + directory + body


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """SRGB with the red and blue primaries exchanged: red in the file is blue to the eye."""
    return srgb_profile().replace(b"rXYZ", b"!!!!").replace(b"bXYZ", b"rXYZ").replace(b"!!!!", b"bXYZ")


def photo(height=24, width=36) -> np.ndarray:
    """A smooth picture without symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x * y) * 255 // (width * height)], -1).astype(np.uint8)
