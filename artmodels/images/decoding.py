"""From encoded pixels to sRGB ones: limits, upright rows, depth, colour profiles and alpha.

The size is read from the header before anything is decoded. Conversion goes strip by strip, so that a decode
at the default limit stays under 512 MB, but for 750 MB of JPEG 2000, and `LoadedImage.notes` says what was done.
"""

import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from artmodels.errors import ArtModelsError, ImageError, ImageTooLarge, UndecodableImage
from artmodels.images.formats import tiff
from artmodels.images.formats.bounds import undecodable, usable_exif
from artmodels.images.formats.origin import Origin, origin_of, origin_of_image
from artmodels.images.formats.samples import FLOATS, to_uint16

if TYPE_CHECKING:
    import torch

__all__ = [
    "ACCEPTED",
    "LARGEST",
    "Array",
    "LoadedImage",
    "check_pixels",
    "composed",
    "decode",
    "decode_tiff",
    "decoding",
]

ACCEPTED = "PNG, JPEG, WebP, TIFF, HEIC, AVIF and JPEG 2000"

LARGEST = 160_000_000  # pixels of a file that `load` reduces to its limit, if it shall
STRIP_PIXELS = 2**20

_WEBP_SHARE = 0.7  # its decoder takes 16 bytes a pixel, the others at most 12: same memory, fewer pixels
_MOST = {"JPEG2000": 80_000_000, "HEIF": 100_000_000, "AVIF": 100_000_000}  # pixels that fit a decoding process
_ORIENTATION = 0x0112
_RAW_EXIF = "Raw profile type exif"  # of a PNG: hexadecimal text after three lines, as ImageMagick writes it
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_LENGTH = 258, 262, 277, 284, 322, 323
_YCBCR = 6
_PROFILE_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_NOT_APPLIED = "The embedded colour profile was not applied, to keep the full range of the grey."
_REDUCED = "The file has 16 bits a channel; colour was reduced to 8 bits."
_GREY16 = ("I;16", "I;16B", "I;16L", "I;16N")
_SIGNATURES = (
    (rb"GIF8", "a GIF file"),
    (rb"BM", "a BMP file"),
    (rb"%PDF", "a PDF document"),
    (rb"8BPS", "a Photoshop document"),
    (rb"(?s).{4}ftyp(heic|heix|hevc|mif1|msf1|avif|avis)", "a damaged HEIC or AVIF file"),
    (rb"(?s).{4}ftypcr", "a camera's raw file"),
    (rb"(?s).{4}ftyp", "a video file"),
    (rb"\xff\x0a|(?s:.{4})JXL ", "a JPEG XL file"),
    (rb"(?s:.{4})jP  |\xff\x4f\xff\x51", "a damaged JPEG 2000 file"),
    (rb"(?s)(\xef\xbb\xbf)?\s*(<\?xml.*|<!--.*|<!DOCTYPE svg.*)?<svg", "an SVG drawing, not pixels"),
    (rb"(?s)[\t\n\r -~\x80-\xff]+$", "text, not pixels"),
)

Array: TypeAlias = npt.NDArray[Any]
Depth: TypeAlias = type[np.uint8] | type[np.uint16]
Colour: TypeAlias = tuple[int, int, int]
Strip: TypeAlias = tuple[Array, Array | None]  # colour [h, W, 1|3] and alpha [h, W] of some rows
Rows: TypeAlias = Callable[[int, int], Strip]  # from the first row to the last, which is exclusive
Reader: TypeAlias = Callable[[Image.Image], Strip]


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """Pixels that are ready to use, and what was done to get them.

    Attributes:
        pixels: `[H, W, 3]` sRGB, uint8 (0 to 255) or uint16 (0 to 65535); alpha is already composited, but where
            `background` is None.
        alpha: `[H, W]` of the same type, 0 transparent; None where the source had no alpha.
        format: "PNG", "JPEG", "WEBP", "TIFF", "HEIF", "AVIF", "JPEG2000", another PIL format for a PIL image, or None.
        notes: What was done to the image, in plain sentences.
        background: sRGB colour, 0 to 255, that transparent pixels were composited on; None where they were not, and
            have the colours that the source stores.
        origin: Author, rights, date and size in print, as far as the source says them; None where it says nothing.
    """

    pixels: Array
    alpha: Array | None = None
    format: str | None = None
    notes: tuple[str, ...] = ()
    background: Colour | None = (255, 255, 255)
    origin: Origin | None = None

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.pixels.shape[1])

    def tensor(self) -> "torch.Tensor":
        """Give the pixels as a float32 tensor `[1, 3, H, W]` in [0, 1]."""
        import torch  # here, because what only decodes does without

        out = torch.empty(1, 3, self.height, self.width)
        out[0].copy_(torch.from_numpy(self.pixels).permute(2, 0, 1))
        return out.div_(np.iinfo(self.pixels.dtype).max)

    def pil(self) -> Image.Image:
        """Give the pixels as an 8-bit RGB PIL image; 16-bit values are rounded."""
        if self.pixels.dtype == np.uint8:
            return Image.fromarray(self.pixels)
        out = np.empty(self.pixels.shape, np.uint8)
        for top, bottom in strips(self.height, self.width):
            out[top:bottom] = (self.pixels[top:bottom].astype(np.uint32) + 128) // 257
        return Image.fromarray(out)


class _Quiet:
    """Silences Pillow's warnings while any thread decodes: callers who turn them into errors get the same images.

    Our own limits decide what they are about. `warnings.catch_warnings` alone would leave its filter behind when two
    threads interleave: the first one in sets it, and the last one out restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_quiet = _Quiet()


@contextmanager
def decoding(name: str, head: bytes = b"") -> Iterator[None]:
    """Turn all that a decoder raises into an ImageError about `name`, a file that starts with `head`."""
    try:
        with _quiet:
            yield
    except ArtModelsError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{name} is too large to decode safely ({error}); make it smaller") from error
    except MemoryError as error:
        raise ImageTooLarge(f"{name} needs more memory than there is; make it smaller") from error
    except UnidentifiedImageError as error:
        kind = next((kind for magic, kind in _SIGNATURES if re.match(magic, head)), None)
        kind = kind or "damaged at its start, or not an image"
        raise UndecodableImage(f"{name} is {kind}; {ACCEPTED} are accepted") from error
    except Exception as error:  # decoders raise nearly every built-in type, SyntaxError included
        raise undecodable(name, str(error) or type(error).__name__) from error


def check_pixels(
    width: int,
    height: int,
    most: float,
    name: str,
    limit: str = "",
    advice: str = "",
) -> None:
    """Raise ImageTooLarge, or ImageError for an empty image; `name` is what messages call it."""
    if not advice:
        reducible = width * height <= LARGEST and most < LARGEST
        advice = "make it smaller" + (", or load it with shrink=True, which does that" if reducible else "")
    if width < 1 or height < 1:
        raise ImageError(f"{name} is empty: {width} x {height} pixels; give at least 1 x 1")
    if width * height > most:
        raise ImageTooLarge(
            f"{name} has {width} x {height} = {width * height / 1e6:.1f} megapixels and the limit{limit} is "
            f"{most / 1e6:.1f}; {advice}"
        )


# View the upright picture in the row order of a file with this EXIF orientation (EXIF 2.3, tag 0x0112).
_TURNS: dict[int, Callable[[Array], Array]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


def composed(
    size: tuple[int, int], dtype: Depth, read: Rows, background: Colour | None, notes: list[str], orientation: int = 1
) -> LoadedImage:
    """Put a picture together from strips: turned upright, composited on the background if there is one.

    `size` is (width, height) in the file's order, and `read` gives what is between two of its rows.
    """
    width, height = size
    shape = (height, width) if orientation < 5 else size
    pixels, alpha, transparent = np.empty((*shape, 3), dtype), None, False
    turn, full = _TURNS[orientation], int(np.iinfo(dtype).max)
    for top, bottom in strips(height, width):
        colour, opacity = read(top, bottom)
        if opacity is not None:
            if alpha is None:
                alpha = np.empty(shape, dtype)
            turn(alpha)[top:bottom] = opacity
            if background is not None and int(opacity.min()) < full:
                transparent = True
                # 65535 * 65535 + 32767 still fits uint32.
                weight = opacity[..., None].astype(np.uint32)
                behind = np.array(background, np.uint32) * (full // 255)
                colour = (colour * weight + behind * (full - weight) + full // 2) // full
        turn(pixels)[top:bottom] = colour
    if transparent:
        notes.append("Transparent pixels were composited on the background.")
    return LoadedImage(pixels, alpha, None, tuple(notes), background)


def strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Give first and last row (exclusive) of strips of some `STRIP_PIXELS` each."""
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def decode(
    image: Image.Image,
    name: str,
    max_pixels: int,
    background: Colour | None,
    *,
    notes: list[str] | None = None,
) -> LoadedImage:
    """Check the header, decode, and convert strip by strip. Notes say which of several images this is, if given."""
    check_pixels(*image.size, max_pixels, name)
    if image.format == "WEBP":
        limit = " for WebP, which takes more memory,"
        check_pixels(*image.size, _WEBP_SHARE * max_pixels, name, limit, "save it as PNG or JPEG")
    if image.format in _MOST:
        limit = f" for {image.format}, which takes more memory,"
        check_pixels(*image.size, min(max_pixels, _MOST[image.format]), name, limit, "save it as TIFF, PNG or JPEG")
    if isinstance(image, TiffImageFile):
        _check_tiff(image, name, max_pixels)
    if notes is None:
        notes = []
        if getattr(image, "is_animated", False):
            notes.append(f"The file holds several images; only number {image.tell() + 1} was used.")
    raw = _raw_mode(image)
    stored = _orientation(image, notes)
    image.load()
    check_pixels(*image.size, max_pixels, name)  # those of a HEIC may change
    # TIFF is turned by Pillow while loading; PNG may state its orientation after the pixels.
    orientation = _orientation(image, notes)
    if max(stored, orientation) > 1:
        notes.append(f"It was turned upright (EXIF orientation {max(stored, orientation)}).")
    origin = origin_of_image(image, _exif(image, notes))
    dtype, read = _reader(image, raw, name, notes)

    def rows(top: int, bottom: int) -> Strip:
        return read(image.crop((0, top, image.width, bottom)))

    loaded = composed(image.size, dtype, rows, background, notes, orientation)
    if origin is not None and orientation >= 5:
        origin = origin.turned()
    return replace(loaded, format="JPEG" if image.format == "MPO" else image.format, origin=origin)


def decode_tiff(file: BinaryIO, name: str, max_pixels: int, background: Colour | None) -> LoadedImage:
    """Decode the picture of a TIFF file, by Pillow where that reads its layout rightly, otherwise by tifffile."""
    pages = tiff.directories(file)
    page, notes = tiff.picture_of(pages), list[str]()
    if page is None:
        raise undecodable(name, "there is no image in it")
    check_pixels(page.value(tiff.WIDTH), page.value(tiff.LENGTH), max_pixels, name)
    others = [other for other in tiff.wholes(pages) if other.number]
    if page.reduced:
        notes.append("The file says that it is a smaller copy of a picture, which is not in it.")
    elif len(others) > 1 and page.number:
        notes.append(f"The file holds several images; only number {page.number} was used.")
    if page is pages[0] and not tiff.beyond_pillow(page):
        file.seek(0)
        try:
            image = Image.open(file, formats=("TIFF",))
        except (UnidentifiedImageError, KeyError):
            pass
        else:
            with image:
                return decode(image, name, max_pixels, background, notes=notes)
    return _by_tifffile(page, pages[0], name, max_pixels, background, notes)


def _by_tifffile(
    page: tiff.Directory, first: tiff.Directory, name: str, max_pixels: int, background: Colour | None, notes: list[str]
) -> LoadedImage:
    def said(tag: int) -> tuple[Any, ...]:
        return page.values(tag) or first.values(tag)

    found = tiff.pixels_of(page, name, max_pixels)
    colour, alpha = found.colour, found.alpha
    turned = said(tiff.ORIENTATION)[:1]
    orientation: int = turned[0] if turned in {(number,) for number in _TURNS} else 1
    if orientation > 1:
        notes.append(f"It was turned upright (EXIF orientation {orientation}).")
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[colour.shape[2]]
    deep = colour.dtype == np.uint16
    probe = Image.new(mode, (1, 1))
    probe.info["icc_profile"] = page.data(tiff.PROFILE) or first.data(tiff.PROFILE)
    profile = None
    if deep and mode == "L":
        if probe.info["icc_profile"]:
            notes.append(_NOT_APPLIED)
    else:
        profile = _profile(probe, notes)
    reduced = deep and (profile is not None or mode == "CMYK")
    if reduced:
        notes.append(_REDUCED)
    elif found.floats:
        notes.append(FLOATS)

    def read(top: int, bottom: int) -> Strip:
        strip, opacity = colour[top:bottom], None if alpha is None else alpha[top:bottom]
        if reduced:
            strip, opacity = (strip >> 8).astype(np.uint8), None if opacity is None else (opacity >> 8).astype(np.uint8)
        if profile is None and mode != "CMYK":
            return strip, opacity
        image = Image.fromarray(np.ascontiguousarray(strip[..., 0] if mode == "L" else strip), mode)
        if profile is None:
            return np.asarray(image.convert("RGB")), opacity
        return np.asarray(ImageCms.applyTransform(image.convert(profile[0]), profile[1])), opacity

    dtype = np.uint16 if deep and not reduced else np.uint8
    loaded = composed(colour.shape[1::-1], dtype, read, background, notes, orientation)
    origin = origin_of(colour.shape[1::-1], exif=tiff.texts_of(page, first), xmp=page.data(700) or first.data(700))
    if origin is not None and orientation >= 5:
        origin = origin.turned()
    return replace(loaded, format="TIFF", origin=origin)


def _check_tiff(image: TiffImageFile, name: str, max_pixels: int) -> None:
    """Check the sizes of tiles; let libtiff read what Pillow alone does not."""
    tags = image.tag_v2
    across, down = tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0)
    if isinstance(across, int) and isinstance(down, int):
        tiff.check_tiles(across, down, *image.size, name, max_pixels)
    planar = tags.get(_PLANAR) == 2 and tags.get(_SAMPLES, 1) != 1
    if planar and image.mode not in ("RGB", "RGBA", "CMYK"):  # of a PIL image: files are read by tifffile
        raise UndecodableImage(
            f"{name} is a TIFF that stores its {image.mode} channels one after the other, which is read for RGB, RGBA "
            "and CMYK only; save it with interleaved channels"
        )
    ycbcr = tags.get(_PHOTOMETRIC) == _YCBCR
    if image.tile and not image.use_load_libtiff and (planar or ycbcr):
        # Without compression Pillow reads these itself: planes of 16 bits as if they had 8, and YCbCr as RGB.
        bits = tags.get(_BITS, 8)
        deep = 16 in (bits if isinstance(bits, tuple) else (bits,))
        mode = "RGBX" if ycbcr else f"{image.mode};16N" if deep else image.mode
        whole = (0, 0, image.width, image.height)
        arguments = (mode, "raw", False, tags.offset)
        image.tile = [image.tile[0]._replace(codec_name="libtiff", extents=whole, offset=0, args=arguments)]
        image.use_load_libtiff = True


def _raw_mode(image: Image.Image) -> str:
    """Name the file's own sample layout, such as "RGB;16B"; empty where the image is loaded already."""
    tiles = getattr(image, "tile", ())
    arguments = tiles[0].args if tiles else ""
    layout = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return layout if isinstance(layout, str) else ""


def _exif(image: Image.Image, notes: list[str]) -> Image.Exif:
    """The EXIF data of an image; none, and a note, where they cannot be used."""
    try:
        data = image.info.get("exif") or bytes.fromhex("".join(image.info.get(_RAW_EXIF, "").split("\n")[3:]))
        if not usable_exif(data):
            raise ValueError("its tags take far more than its bytes")
        exif = image.getexif()
        exif.get(_ORIENTATION)  # parsed only now
    except Exception:  # the EXIF parser raises as freely as the decoders, and the picture may be whole
        note = "Its EXIF data is damaged and was ignored."
        if note not in notes:
            notes.append(note)
        return Image.Exif()
    return exif


def _orientation(image: Image.Image, notes: list[str]) -> int:
    value = _exif(image, notes).get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _reader(image: Image.Image, raw: str, name: str, notes: list[str]) -> tuple[Depth, Reader]:
    """Choose the output type and the function that turns a strip into colour and alpha."""
    if image.mode in _GREY16 or image.mode in ("I", "F"):
        if image.info.get("icc_profile"):
            notes.append(_NOT_APPLIED)
        if image.mode == "F":
            notes.append(FLOATS)
            return np.uint16, lambda strip: (to_uint16(np.asarray(strip), name)[..., None], None)
        return np.uint16, _grey16_reader(image, raw, name)
    if ";16" in raw:
        notes.append(_REDUCED)
    return np.uint8, _colour_reader(image, raw, notes)


def _grey16_reader(image: Image.Image, raw: str, name: str) -> Reader:
    # Pillow inverts "white is zero" for 8 bits only.
    inverted = image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    key = image.info.get("transparency")

    def read(strip: Image.Image) -> Strip:
        values = np.asarray(strip)
        if values.dtype.kind == "i" and (values.min() < 0 or values.max() > 65535):
            raise ImageError(
                f"{name} has grey values from {values.min()} to {values.max()}; save it as 16-bit grey, 0 to 65535"
            )
        values = values.astype(np.uint16)
        if raw == "I;12":
            values = values << 4 | values >> 8
        if inverted:
            values = 65535 - values
        alpha = np.where(values == key, 0, 65535).astype(np.uint16) if isinstance(key, int) else None
        return values[..., None], alpha

    return read


def _colour_reader(image: Image.Image, raw: str, notes: list[str]) -> Reader:
    transparent = image.has_transparency_data
    key = image.info.get("transparency")
    # A colour key counts in the file's own bit depth, while Pillow has scaled the pixels to 8 bits.
    if isinstance(key, tuple) and ";16" in raw:
        key = tuple(value >> 8 for value in key)
    elif isinstance(key, int) and raw in ("L;2", "L;4"):
        key *= {"L;2": 85, "L;4": 17}[raw]
    profile = _profile(image, notes)

    def read(strip: Image.Image) -> Strip:
        alpha = None
        if transparent:
            if key is not None:
                strip.info["transparency"] = key
            strip = (strip.convert("LA") if strip.mode == "La" else strip).convert("RGBA")
            alpha = np.asarray(strip.getchannel("A"))
        if profile is not None:
            mode, transform = profile
            return np.asarray(ImageCms.applyTransform(strip.convert(mode), transform)), alpha
        return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB")), alpha

    return read


def _profile(image: Image.Image, notes: list[str]) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Build the transform from the embedded profile to sRGB, with the mode it takes; None without one."""
    own = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK", "LAB": "LAB"}.get(image.mode, "RGB")
    if own == "LAB":
        notes.append("CIELAB was converted to sRGB.")
        return None
    data = image.info.get("icc_profile")
    plain = "CMYK was converted by the plain formula, so colours are approximate."
    if not data:
        if own == "CMYK":
            notes.append(f"There is no colour profile: {plain}")
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _PROFILE_MODES[profile.profile.xcolor_space.strip()]
        if mode != own and (mode, own) != ("RGB", "L"):
            raise ValueError("made for other channels")
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except Exception:  # damaged profiles raise several types, and the picture can still be shown
        rest = plain if own == "CMYK" else "colours were taken as sRGB."
        notes.append(f"The embedded colour profile is damaged or does not fit and was ignored: {rest}")
        return None
    if mode != "CMYK" and _is_srgb(mode, transform):
        return None
    description = re.sub(r"[^ -~]+", " ", profile.profile.profile_description or "").strip()[:60] or "no name"
    notes.append(f"Colours were converted to sRGB from the embedded profile ({description}).")
    return mode, transform


def _is_srgb(mode: str, transform: ImageCms.ImageCmsTransform) -> bool:
    """Try the transform on a grid of colours: a conversion from sRGB to itself would only add rounding."""
    if mode == "L":
        grid = np.arange(256, dtype=np.uint8)[None]
    else:
        steps = np.linspace(0, 255, 17).astype(np.uint8)
        grid = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    probe = Image.fromarray(grid)
    before = np.asarray(probe.convert("RGB"), np.int16)
    after = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
    return int(np.abs(after - before).max()) <= 1
