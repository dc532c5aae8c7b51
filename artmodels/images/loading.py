"""Bytes to pixels: the only place that decodes, guards and orients images.

Every image enters through `load`: PNG, JPEG, WebP, TIFF, HEIC, AVIF and JPEG 2000 files, PIL images, arrays and
tensors. The size is read from the header before anything is decoded, EXIF orientation is applied, colours become sRGB,
16-bit grey keeps its range, alpha is composited and kept beside, and `LoadedImage.notes` says what was done.
"""

import io
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard, Union

import numpy as np
from PIL import Image
from typing_extensions import TypeAliasType

from artmodels.errors import ConfigError, ImageError, ImageTooLarge, UndecodableImage
from artmodels.images.decoding import LARGEST, Array, LoadedImage, check_pixels, composed, decode, decode_tiff, decoding
from artmodels.images.formats.bounds import check_structure
from artmodels.images.formats.samples import FLOATS, to_uint16
from artmodels.images.formats.tiff import directories, is_tiff, picture_of

if TYPE_CHECKING:
    import torch

__all__ = [
    "LARGEST",
    "LIMIT",
    "REDUCED",
    "File",
    "LoadedImage",
    "Picture",
    "Source",
    "is_tensor",
    "load",
    "opened",
    "pixels_in",
    "to_pil",
]

REDUCED = "It was reduced from"  # how the note of a picture begins that was reduced to fit
LIMIT = 40_000_000  # pixels that `load` accepts by default

_FORMATS = ("PNG", "JPEG", "WEBP", "JPEG2000")
_HEIF = ("AVIF", "HEIF")  # both may have the same first bytes
_BYTES_PER_PIXEL = 8  # 16-bit RGBA, uncompressed: no accepted file needs more
_METADATA_ALLOWANCE = 16 * 2**20

# Of this type, help of functions shows the name and not all that it stands for.
File = TypeAliasType("File", str | os.PathLike[str] | bytes | bytearray | memoryview)
Picture = TypeAliasType("Picture", Union[Image.Image, "torch.Tensor", Array, LoadedImage])
Source = TypeAliasType("Source", File | Picture)


def load(
    source: Source,
    *,
    max_pixels: int = LIMIT,
    background: tuple[int, int, int] | None = (255, 255, 255),
    shrink: bool = False,
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
        shrink: Reduce a larger picture, of up to 160 megapixels, to `max_pixels`; the notes say so. It is decoded
            whole, which takes up to four times the memory.

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
    if shrink:
        return _reduced(load(source, max_pixels=max(max_pixels, LARGEST), background=background), max_pixels)
    if isinstance(source, LoadedImage):
        check_pixels(source.width, source.height, max_pixels, "the image")
        return source
    if isinstance(source, Image.Image):
        with decoding("the PIL image"):
            return decode(source, "the PIL image", max_pixels, background)
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels, background)
    if is_tensor(source):
        return _from_tensor(source, max_pixels)
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        kind = type(source).__name__
        raise ImageError(f"a {kind} is not an image; give a path, bytes, PIL image, array or tensor")
    with _examined(source, max_pixels) as (name, file, head):
        if is_tiff(head):
            return decode_tiff(file, name, max_pixels, background)
        with Image.open(file, formats=_formats_of(head)) as image:
            return decode(image, name, max_pixels, background)


def _reduced(loaded: LoadedImage, max_pixels: int) -> LoadedImage:
    """Reduce a picture to so many pixels at most, if it has more."""
    width, height = loaded.width, loaded.height
    ratio = (max_pixels / (width * height)) ** 0.5
    if ratio >= 1:
        return loaded
    size = max(1, int(width * ratio)), max(1, int(height * ratio))
    note = (
        f"{REDUCED} {width} x {height} to {size[0]} x {size[1]} pixels: the limit here is "
        f"{max_pixels / 1e6:g} megapixels."
    )
    if loaded.pixels.dtype == np.uint8:
        pixels = _resized(loaded.pixels, size)
    else:
        pixels = np.stack([_resized(loaded.pixels[..., channel], size) for channel in range(3)], -1)
    alpha = None if loaded.alpha is None else _resized(loaded.alpha, size)
    return replace(loaded, pixels=pixels, alpha=alpha, notes=(*loaded.notes, note))


def _resized(plane: Array, size: tuple[int, int]) -> Array:
    """Reduce [H, W] of 8 or 16 bits, or [H, W, 3] of 8, by averages over the area."""
    image = Image.fromarray(plane if plane.dtype == np.uint8 else plane.astype(np.float32))
    small = np.array(image.resize(size, Image.Resampling.HAMMING, reducing_gap=3.0))
    return small if plane.dtype == np.uint8 else np.rint(small.clip(0, 65535)).astype(np.uint16)


@contextmanager
def _examined(source: File, max_pixels: int) -> Iterator[tuple[str, io.BufferedReader | io.BytesIO, bytes]]:
    """Open a file whose structure keeps the bounds: its name, itself, and its first bytes. Errors are ours."""
    name, file = opened(source, max_pixels)
    with file:
        head = file.read(512)
        check_structure(file, name, max_pixels)
        with decoding(name, head):
            yield name, file, head


def _formats_of(head: bytes) -> tuple[str, ...]:
    """The formats that a file may have, by its first bytes."""
    if head[4:8] != b"ftyp":
        return _FORMATS
    import pi_heif  # here, because few files need it

    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    return _HEIF


def pixels_in(source: File) -> int:
    """Count the pixels of a file, by its header alone; errors are those of `load`, but for a picture that is large."""
    with _examined(source, LARGEST) as (_, file, head):
        if is_tiff(head):
            page = picture_of(directories(file))
            return page.pixels if page else 0
        with Image.open(file, formats=_formats_of(head)) as image:
            return image.width * image.height


def to_pil(tensor: "torch.Tensor") -> Image.Image:
    """Turn a float tensor `[3, H, W]` or `[1, 3, H, W]` into an 8-bit RGB image; clamps to [0, 1] and rounds.

    An ImageError says that the shape or type is another, or that values are not finite.
    """
    import torch

    values = _single(tensor).to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise ImageError("the tensor holds NaN or infinity, so there is no picture to make of it")
    return Image.fromarray(values.clamp(0, 1).mul_(255).round_().to(torch.uint8).permute(1, 2, 0).numpy())


# --- files ----------------------------------------------------------------------------------------


def opened(source: File, max_pixels: int) -> tuple[str, io.BufferedReader | io.BytesIO]:
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


def is_tensor(source: object) -> "TypeGuard[torch.Tensor]":
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
