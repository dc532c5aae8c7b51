"""PNG files of 16 bits a channel in colour (ISO/IEC 15948), which Pillow reads at half the depth and does not write."""

import struct
import zlib
from collections.abc import Mapping

import numpy as np

from artmodels.images.decoding import Array

__all__ = ["encode"]

_COLOUR_TYPES = {3: 2, 4: 6}  # by channels


def encode(pixels: Array, metadata: Mapping[str, str]) -> bytes:
    """Encode uint16 [H, W, 3 or 4], with text chunks of checked keywords and texts."""
    height, width, channels = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(height, -1)
    # Filter 2, the difference to the row above, suits pictures that are smooth, as enlarged ones are.
    differences = np.concatenate([rows[:1], rows[1:] - rows[:-1]])
    lines = np.concatenate([np.full((height, 1), 2, np.uint8), differences], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    texts = [(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + text.encode("utf-8")) for key, text in metadata.items()]
    chunks = [(b"IHDR", header), *texts, (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    return b"".join(parts)
