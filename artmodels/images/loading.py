"""Bytes to pixels and back: the only place that decodes, guards, orients and encodes images.

Every image enters through `load`: PNG, JPEG, WebP and TIFF files, PIL images, arrays and tensors. The size
is read from the header before anything is decoded, EXIF orientation is applied, colours become sRGB, 16-bit
grey keeps its range, alpha is composited and kept beside, and `LoadedImage.notes` says what was done.
"""

import io
import os
import re
import stat
import struct
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Union

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from typing_extensions import TypeAliasType

from artmodels.errors import ConfigError, ImageError, ImageTooLarge, UndecodableImage
from artmodels.files import write_whole
from artmodels.images.bounds import check_structure
from artmodels.images.decoding import FLOATS, Array, LoadedImage, check_pixels, composed, decode, decoding, to_uint16

if TYPE_CHECKING:
    import torch

__all__ = ["LIMIT", "LoadedImage", "Source", "encode_png", "load", "read_metadata", "save_png", "to_pil"]

LIMIT = 40_000_000  # pixels that `load` accepts by default

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
_BYTES_PER_PIXEL = 8  # 16-bit RGBA, uncompressed: no accepted file needs more
_METADATA_ALLOWANCE = 16 * 2**20
_PILLOW_LIMIT = Image.MAX_IMAGE_PIXELS or LIMIT
_ANY_SIZE = 2**62  # what is in memory already may also be written
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_COLOUR_TYPES = {3: 2, 4: 6}  # of a PNG, by channels
_TEXT_LIMIT = 2**20  # what Pillow agrees to read back

# Of this type, help of functions shows the name and not all that it stands for.
File = TypeAliasType("File", str | os.PathLike[str] | bytes | bytearray | memoryview)
Picture = TypeAliasType("Picture", Union[Image.Image, "torch.Tensor", Array, LoadedImage])
Source = TypeAliasType("Source", File | Picture)


def load(
    source: Source, *, max_pixels: int = LIMIT, background: tuple[int, int, int] | None = (255, 255, 255)
) -> LoadedImage:
    """Load an image from wherever it is; nothing is ever fetched from the network.

    Args:
        source: A path, the bytes of a file, a PIL image of any mode, an array `[H, W]` or `[H, W, 1|3|4]`
            (bool, uint8, uint16, or float in [0, 1]), a float tensor `[3, H, W]` or `[1, 3, H, W]` in [0, 1],
            or a LoadedImage, which is returned as it is. Float values become uint16.
        max_pixels: Most pixels that are accepted. WebP is held to seven tenths of it, because its decoder
            needs more memory a pixel. Files above Pillow's own limit, some 179 megapixels, are refused
            whatever this says.
        background: sRGB colour, 0 to 255, under transparent pixels; None leaves the colours as they are stored.

    Returns:
        The pixels in sRGB, upright, composited on the background.

    Raises:
        ImageTooLarge: More pixels or bytes than the limit allows; found in the header, before decoding.
        UndecodableImage: Not an image, damaged, or of a format that is not accepted.
        ImageError: No such file, or values that are no image (wrong shape, range, NaN, empty).
        ConfigError: `max_pixels` or `background` is out of range.
    """
    if max_pixels < 1:
        raise ConfigError(f"max_pixels is {max_pixels}; give 1 or more")
    if background is not None and (
        len(background) != 3 or not all(isinstance(v, int | np.integer) and 0 <= v <= 255 for v in background)
    ):
        raise ConfigError(f"background is {background!r}; give three whole numbers from 0 to 255, or None")
    if isinstance(source, LoadedImage):
        check_pixels(source.width, source.height, max_pixels, "the image")
        return source
    if isinstance(source, Image.Image):
        with decoding("the PIL image"):
            return decode(source, "the PIL image", max_pixels, background)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels, background)
    if _is_tensor(source):
        return _from_tensor(source, max_pixels)
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        kind = type(source).__name__
        raise ImageError(f"a {kind} is not an image; give a path, bytes, PIL image, array or tensor")
    name, file = _open(source, max_pixels)
    with file:
        head = file.read(512)
        check_structure(file, name, max_pixels)
        with decoding(name, head), Image.open(file, formats=_FORMATS) as image:
            return decode(image, name, max_pixels, background)


def to_pil(tensor: "torch.Tensor") -> Image.Image:
    """Turn a float tensor `[3, H, W]` or `[1, 3, H, W]` into an 8-bit RGB image; clamps to [0, 1] and rounds.

    An ImageError says that the shape or type is another, or that values are not finite.
    """
    import torch

    values = _single(tensor).to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise ImageError("the tensor holds NaN or infinity, so there is no picture to make of it")
    return Image.fromarray(values.clamp(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0).numpy())


def encode_png(image: Picture, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Encode an image as PNG bytes, with text chunks that `read_metadata` reads back.

    Args:
        image: A PIL image (written in its own mode where PNG has it, otherwise as sRGB), or anything that
            `load` or `to_pil` takes as array or tensor (written as 8-bit RGB, but uint16 [H, W, 3 or 4] as it is).
        metadata: Text by keyword. Keywords are 1 to 79 Latin-1 characters; texts are any Unicode up to 1 MB.

    Raises:
        ImageError: The image has no usable values.
        ConfigError: A keyword or text cannot be stored.
    """
    texts = dict(metadata or {})
    for key, text in texts.items():
        _check_text(key, text)
    if isinstance(image, np.ndarray) and image.dtype == np.uint16 and image.shape[2:] in ((3,), (4,)) and image.size:
        return encode_png16(image, texts)
    if _is_tensor(image):
        picture = to_pil(image)
    elif isinstance(image, Image.Image) and image.mode in _PNG_MODES:
        picture = image
    else:
        picture = load(image, max_pixels=_ANY_SIZE).pil()
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    out = io.BytesIO()
    picture.save(out, "PNG", pnginfo=chunks)
    return out.getvalue()


def save_png(image: Picture, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write an image as a PNG file, whole or not at all: an older file stays until the new one is complete.

    The path must end in `.png`. An ArtModelsError says that the file could not be written (no space, no such folder, no
    permission); the rest is as in `encode_png`.
    """
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ConfigError(f"{str(target)!r} does not end in .png; only PNG is written, without loss")
    write_whole({target: encode_png(image, metadata=metadata)})


def read_metadata(png: File) -> dict[str, str]:
    """Read the text chunks of a PNG file or of its bytes, as `encode_png` wrote them; an ImageError if it is none."""
    name, file = _open(png, _PILLOW_LIMIT)
    with file:
        check_structure(file, name, _PILLOW_LIMIT)
        with decoding(name), Image.open(file, formats=("PNG",)) as image:
            check_pixels(*image.size, _PILLOW_LIMIT, name)
            return {key: str(text) for key, text in image.text.items()} if isinstance(image, PngImageFile) else {}


def _check_text(key: str, text: str) -> None:
    if not isinstance(key, str) or not isinstance(text, str):
        raise ConfigError(f"metadata {key!r} is a {type(text).__name__}; give text for keyword and value")
    printable = all(" " <= c <= "~" or "\xa1" <= c <= "\xff" for c in key)
    if not 1 <= len(key) <= 79 or not printable or key != key.strip():
        raise ConfigError(f"metadata keyword {key[:90]!r} must be 1 to 79 printable Latin-1 characters")
    if "\0" in text or len(text.encode("utf-8", "replace")) > _TEXT_LIMIT:
        raise ConfigError(f"metadata {key!r} must be at most 1 MB of text without NUL characters")


def encode_png16(pixels: Array, metadata: Mapping[str, str]) -> bytes:
    """Encode uint16 [H, W, 3 or 4] (ISO/IEC 15948), with text chunks of checked keywords and texts.

    Pillow reads colour of 16 bits a channel at half the depth, and does not write it.
    """
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


# --- files ----------------------------------------------------------------------------------------


def _open(source: File, max_pixels: int) -> tuple[str, io.BufferedReader | io.BytesIO]:
    """Give the name of a file for messages, and the file, opened, with its size in bytes checked."""
    if isinstance(source, bytes | bytearray | memoryview):
        _check_bytes(memoryview(source).nbytes, max_pixels, "the image")
        return "the image", io.BytesIO(source)
    text = os.fspath(source)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", text):
        raise ImageError(
            f"{text[:80]!r} is an address and nothing is ever fetched; download it and give the file's path"
        )
    name = repr(text)
    try:
        status = os.stat(text)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not an ordinary file"
            raise ImageError(f"{name} is {kind}; give the path of one image file")
        _check_bytes(status.st_size, max_pixels, name)
        return name, open(text, "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"there is no file {name}; check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{name} cannot be read: {reason}; check the path and its permissions") from error


def _check_bytes(count: int, max_pixels: int, name: str) -> None:
    if count == 0:
        raise UndecodableImage(f"{name} is empty: 0 bytes; save or download it again")
    most = _BYTES_PER_PIXEL * max_pixels + _METADATA_ALLOWANCE
    if count > most:
        raise ImageTooLarge(
            f"{name} has {count / 1e6:.1f} MB and the limit is {most / 1e6:.1f} MB; save it compressed or smaller"
        )


# --- arrays and tensors ---------------------------------------------------------------------------


def _is_tensor(source: object) -> "TypeGuard[torch.Tensor]":
    """Tell whether it is a tensor; nobody has one before PyTorch is imported, so that files are read without it."""
    module = sys.modules.get("torch")
    return module is not None and isinstance(source, module.Tensor)


def _from_array(array: Array, max_pixels: int, background: tuple[int, int, int] | None) -> LoadedImage:
    values = array[..., None] if array.ndim == 2 else array
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = ": channels come last, use array.transpose(1, 2, 0)" if first else ""
        raise ImageError(f"the array has shape {array.shape}; give [H, W] or [H, W, 1, 3 or 4]{hint}")
    height, width = array.shape[:2]
    check_pixels(width, height, max_pixels, "the array")
    kind, depth = array.dtype.kind, array.dtype.itemsize
    floats = kind == "f"
    if not floats and kind != "b" and not (kind == "u" and depth <= 2):
        raise ImageError(f"the array is of type {array.dtype}; give uint8, uint16, or float in [0, 1]")
    dtype = np.uint16 if floats or depth == 2 else np.uint8

    def read(top: int, bottom: int) -> tuple[Array, Array | None]:
        strip = values[top:bottom]
        if floats:
            strip = to_uint16(strip, "the array")
        elif kind == "b":
            strip = strip.astype(np.uint8) * 255
        return strip[..., :3], strip[..., 3] if strip.shape[2] == 4 else None

    return composed((width, height), dtype, read, background, [FLOATS] if floats else [])


def _from_tensor(tensor: "torch.Tensor", max_pixels: int) -> LoadedImage:
    values = _single(tensor).permute(1, 2, 0)
    height, width = values.shape[:2]
    check_pixels(width, height, max_pixels, "the tensor")

    def read(top: int, bottom: int) -> tuple[Array, Array | None]:
        return to_uint16(values[top:bottom].to("cpu").float().numpy(), "the tensor"), None

    return composed((width, height), np.uint16, read, (255, 255, 255), [FLOATS])


def _single(tensor: "torch.Tensor") -> "torch.Tensor":
    """Check for one float image and give it as `[3, H, W]` without gradient."""
    shape = tuple(tensor.shape)
    if len(shape) == 4 and shape[0] > 1:
        raise ImageError(f"the tensor is a batch of {shape[0]} images; give them one at a time")
    image = tensor.detach()[0] if len(shape) == 4 and shape[0] == 1 else tensor.detach()
    if image.dim() != 3 or image.shape[0] != 3:
        last = image.dim() == 3 and image.shape[2] == 3
        hint = ": channels come first, use tensor.permute(2, 0, 1)" if last else ""
        raise ImageError(f"the tensor has shape {shape}; give [3, H, W] or [1, 3, H, W]{hint}")
    if not image.is_floating_point():
        raise ImageError(f"the tensor is of type {tensor.dtype}; give float in [0, 1]: tensor.float() / 255")
    if image.numel() == 0:
        raise ImageError(f"the tensor has shape {shape}: it is empty; give at least 1 x 1 pixels")
    return image
