"""What files hold, each made here, with the pixels that must come out: orientation, colour, depth, alpha."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
import tifffile
import torch
from imagefiles import chunk, cmyk_profile, photo, png, png_of, saved, srgb_profile, swapped_profile, tiff_of
from PIL import Image, ImageOps

from artmodels.errors import ImageError, UndecodableImage
from artmodels.images.loading import load

# --- orientation ------------------------------------------------------------------------------------

# Where the upright picture's top left lies in the stored picture, and whether the sides are exchanged.
ORIENTATIONS = {
    1: ((0, 0), False),
    2: ((0, -1), False),
    3: ((-1, -1), False),
    4: ((-1, 0), False),
    5: ((0, 0), True),
    6: ((-1, 0), True),
    7: ((-1, -1), True),
    8: ((0, -1), True),
}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation(format, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"PNG": {}, "TIFF": {}, "JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = saved(Image.fromarray(photo()), format, exif=exif, **options[format])
    got = load(data)
    corner, exchanged = ORIENTATIONS[orientation]
    assert got.pixels.shape == ((36, 24, 3) if exchanged else (24, 36, 3))
    assert np.abs(got.pixels[0, 0].astype(int) - photo()[corner]).max() <= (4 if format == "JPEG" else 0)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(got.pixels, upright)
    expected = () if orientation == 1 else (f"It was turned upright (EXIF orientation {orientation}).",)
    assert got.notes == expected


def test_orientation_of_a_pil_image_and_of_alpha():
    exif = Image.Exif()
    exif[274] = 6
    rgba = np.dstack([photo(), photo()[..., 0]])
    got = load(Image.open(io.BytesIO(saved(Image.fromarray(rgba), "PNG", exif=exif))))
    assert np.array_equal(got.alpha, np.rot90(rgba[..., 3], -1))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_impossible_orientation_is_ignored(value):
    exif = Image.Exif()
    exif[274] = value
    got = load(saved(Image.fromarray(photo()), "JPEG", exif=exif))
    assert got.pixels.shape == (24, 36, 3)
    assert got.notes == ()


def test_damaged_exif_keeps_the_picture():
    data = saved(Image.fromarray(photo()), "PNG")
    broken = data[:33] + chunk(b"eXIf", b"Exif\0\0MM") + data[33:]
    got = load(broken)
    assert np.array_equal(got.pixels, photo())
    assert got.notes == ("Its EXIF data is damaged and was ignored.",)


# --- colour -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_rgb_profile_is_applied(format):
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    got = load(saved(red, format, icc_profile=swapped_profile(), **options))
    assert np.abs(got.pixels.astype(int) - (0, 0, 255)).max() <= 2
    assert got.notes == ("Colours were converted to sRGB from the embedded profile (sRGB built-in).",)


def test_rgb_profile_with_alpha_and_palette():
    rgba = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    got = load(saved(rgba, "PNG", icc_profile=swapped_profile()), background=(0, 0, 0))
    assert np.abs(got.pixels.astype(int) - (0, 0, 128)).max() <= 1
    assert (got.alpha == 128).all()
    palette = Image.new("RGB", (4, 4), (255, 0, 0)).quantize(4)
    got = load(saved(palette, "PNG", icc_profile=swapped_profile()))
    assert np.abs(got.pixels.astype(int) - (0, 0, 255)).max() <= 1


def test_srgb_profile_changes_nothing():
    got = load(saved(Image.fromarray(photo()), "PNG", icc_profile=srgb_profile()))
    assert np.array_equal(got.pixels, photo())
    assert got.notes == ()


def test_grey_with_an_rgb_profile():
    grey = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    got = load(saved(grey, "PNG", icc_profile=srgb_profile()))
    assert np.array_equal(got.pixels[0, :, 1], np.arange(256))


@pytest.mark.parametrize("profile", [b"nonsense", b"", srgb_profile()[:200], cmyk_profile()])
def test_profile_that_does_not_fit_is_ignored_with_a_note(profile):
    got = load(saved(Image.fromarray(photo()), "PNG", icc_profile=profile))
    assert np.array_equal(got.pixels, photo())
    note = "The embedded colour profile is damaged or does not fit and was ignored: colours were taken as sRGB."
    assert got.notes == ((note,) if profile else ())


@pytest.mark.parametrize("format", ["TIFF", "JPEG"])
def test_cmyk_uses_its_profile(format):
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    image.paste((0, 0, 0, 0), (0, 0, 8, 16))
    got = load(saved(image, format, icc_profile=cmyk_profile(), **({"quality": 100} if format == "JPEG" else {})))
    assert np.abs(got.pixels[8, 2].astype(int) - 255).max() <= 2
    assert np.abs(got.pixels[8, 13].astype(int) - 119).max() <= 3  # L* = 50.2 is sRGB 119; plain: (0, 255, 255)
    assert got.notes == ("Colours were converted to sRGB from the embedded profile (test press).",)


def test_cmyk_without_a_usable_profile_says_so():
    image = Image.new("CMYK", (4, 4), (255, 0, 0, 0))
    plain = "CMYK was converted by the plain formula, so colours are approximate."
    got = load(saved(image, "TIFF"))
    assert (got.pixels == (0, 255, 255)).all()
    assert got.notes == (f"There is no colour profile: {plain}",)
    got = load(saved(image, "TIFF", icc_profile=srgb_profile()))
    assert (got.pixels == (0, 255, 255)).all()
    assert got.notes == (f"The embedded colour profile is damaged or does not fit and was ignored: {plain}",)


def test_cielab():
    lab = Image.merge("LAB", [Image.new("L", (4, 4), v) for v in (255, 128, 128)])
    got = load(saved(lab, "TIFF"))
    assert (got.pixels >= 254).all()
    assert got.notes == ("CIELAB was converted to sRGB.",)


# --- depth ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda v: png_of(v, 0),
    lambda v: tiff_of(v, photometric=1),
    lambda v: tiff_of(v, photometric=1, order=">"),
    lambda v: saved(Image.fromarray(v), "TIFF", compression="tiff_lzw"),
    lambda v: tiff_of(v.astype(np.uint32), photometric=1),
    lambda v: Image.fromarray(v),
    lambda v: Image.fromarray(v.astype(np.int32)),
    lambda v: v,
    lambda v: v.astype(">u2"),
], ids=["png", "tiff", "tiff-be", "tiff-lzw", "tiff-32", "pil", "pil-I", "array", "array-be"])  # fmt: skip
def test_16_bit_grey_keeps_its_range(make):
    values = np.arange(65536, dtype=np.uint16)[::97].reshape(26, 26)
    got = load(make(values))
    assert got.pixels.dtype == np.uint16
    assert all(np.array_equal(got.pixels[..., c], values) for c in range(3))
    assert got.notes == ()
    assert torch.allclose(got.tensor()[0, 1], torch.from_numpy(values.astype(np.float32)) / 65535, atol=1e-7)
    assert np.array_equal(np.asarray(got.pil())[..., 2], np.rint(values / 257.0))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_16_bit_grey_modes_of_pil(mode):
    order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (3, 1), np.array([0, 40000, 65535], order).tobytes())
    assert load(image).pixels[0, :, 0].tolist() == [0, 40000, 65535]


def test_16_bit_grey_with_profile_says_that_it_is_not_applied():
    values = np.full((2, 2), 40000, np.uint16)
    got = load(saved(Image.fromarray(values), "PNG", icc_profile=srgb_profile()))
    assert (got.pixels == 40000).all()
    assert got.notes == ("The embedded colour profile was not applied, to keep the full range of the grey.",)


def test_16_bit_grey_where_white_is_zero():
    got = load(tiff_of(np.array([[0, 1000, 65535]], np.uint16), photometric=0))
    assert got.pixels[0, :, 0].tolist() == [65535, 64535, 0]


def test_32_bit_grey_beyond_16_bits_is_refused():
    with pytest.raises(ImageError, match="grey values from 0 to 70000; save it as 16-bit grey"):
        load(Image.fromarray(np.array([[0, 70000]], np.int32)))
    with pytest.raises(ImageError, match="grey values from -1 to 5"):
        load(tiff_of(np.array([[-1, 5]], np.int16), photometric=1, sample_format=2))


@pytest.mark.parametrize("make", [
    lambda v: png_of(v, 2),
    lambda v: tiff_of(v, photometric=2),
    lambda v: tiff_of(v, photometric=2, order=">"),
], ids=["png", "tiff", "tiff-be"])  # fmt: skip
def test_16_bit_colour_is_reduced_and_says_so(make):
    values = photo().astype(np.uint16) * 256 + 77
    got = load(make(values))
    assert np.array_equal(got.pixels, photo())
    assert got.notes == ("The file has 16 bits a channel; colour was reduced to 8 bits.",)


def test_16_bit_colour_array_keeps_16_bits():
    values = photo().astype(np.uint16) * 200
    got = load(values)
    assert np.array_equal(got.pixels, values)
    assert got.notes == ()


def test_float_tiff():
    values = np.array([[0.0, 0.25, 1.0]], np.float32)
    got = load(tiff_of(values, photometric=1, sample_format=3))
    assert got.pixels[0, :, 0].tolist() == [0, 16384, 65535]
    assert got.notes == ("Float values in [0, 1] became 16-bit.",)
    with pytest.raises(ImageError, match=r"float values from 0 to 255; they must be in \[0, 1\]: divide by 255"):
        load(tiff_of(values * 255, photometric=1, sample_format=3))
    with pytest.raises(ImageError, match="NaN"):
        load(tiff_of(values * np.nan, photometric=1, sample_format=3))


@pytest.mark.parametrize("bits,top", [(1, 1), (2, 3), (4, 15)])
def test_low_depth_grey(bits, top):
    row = int("".join(format(v, f"0{bits}b") for v in (0, top) * (4 // bits)), 2)
    got = load(png(8 // bits, 1, bits, 0, bytes((0, row))))
    assert got.pixels[0, :2, 0].tolist() == [0, 255]


def test_1_bit_and_palette_pil_images():
    assert load(Image.new("1", (2, 2), 1)).pixels.tolist() == [[[255] * 3] * 2] * 2
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    assert load(saved(palette, "PNG")).pixels.tolist() == [[[10, 20, 30], [200, 100, 50]]]


# --- alpha ------------------------------------------------------------------------------------------

COMPOSITED = "Transparent pixels were composited on the background."


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_composited_on_white_and_kept(format):
    image = Image.new("RGBA", (3, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (0, 100, 200, 128))
    image.putpixel((2, 0), (1, 2, 3, 255))
    got = load(saved(image, format, **({"lossless": True, "exact": True} if format == "WEBP" else {})))
    assert got.pixels.tolist() == [[[255, 255, 255], [127, 177, 227], [1, 2, 3]]]
    assert got.alpha.tolist() == [[0, 128, 255]]
    assert got.alpha.dtype == np.uint8
    assert got.notes == (COMPOSITED,)


def test_background_is_used():
    got = load(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), background=(0, 10, 100))
    assert got.pixels.tolist() == [[[51, 8, 80]]]


def test_compositing_is_exact_rounding():
    values = np.random.default_rng(0).integers(0, 256, (40, 40, 4), np.uint8)
    alpha = values[..., 3:] / 255.0
    expected = np.floor(values[..., :3] * alpha + np.array((9, 130, 250)) * (1 - alpha) + 0.5 - 1e-9)
    assert np.abs(load(values, background=(9, 130, 250)).pixels - expected).max() == 0


def test_without_a_background_colours_are_those_stored():
    values = np.array([[[200, 30, 30, 1], [9, 8, 7, 0], [1, 2, 3, 255]]], np.uint8)
    for source in (values, Image.fromarray(values)):
        got = load(source, background=None)
        assert np.array_equal(np.dstack([got.pixels, got.alpha]), values)
        assert got.background is None and got.notes == ()
    assert load(values, background=(1, 2, 3)).background == (1, 2, 3)


def test_16_bit_alpha_array():
    values = np.array([[[65535, 0, 0, 32768], [65535, 65535, 65535, 65535]]], np.uint16)
    got = load(values, background=(0, 0, 255))
    assert got.pixels.tolist() == [[[32768, 0, 32767], [65535, 65535, 65535]]]
    assert got.alpha.tolist() == [[32768, 65535]]


def test_opaque_alpha_needs_no_note():
    got = load(Image.new("RGBA", (2, 2), (1, 2, 3, 255)))
    assert (got.alpha == 255).all()
    assert got.notes == ()


@pytest.mark.parametrize(
    "mode,colour", [("LA", (100, 51)), ("La", (20, 51)), ("PA", (0, 51)), ("RGBa", (20, 20, 20, 51))]
)
def test_other_alpha_modes(mode, colour):
    if mode == "PA":
        image = Image.new("P", (1, 1))
        image.putpalette([100, 100, 100])
        image = image.convert("PA")
        image.putalpha(51)
    else:
        image = Image.new(mode, (1, 1), colour)
    got = load(image, background=(0, 0, 0))
    assert got.pixels.tolist() == [[[20, 20, 20]]]
    assert got.alpha.tolist() == [[51]]


def test_grey_alpha_png_of_8_and_16_bits():
    got = load(png_of(np.array([[[100, 51]]], np.uint8), 4), background=(0, 0, 0))
    assert (got.pixels.tolist(), got.alpha.tolist()) == ([[[20, 20, 20]]], [[51]])
    got = load(png_of(np.array([[[100 * 257, 51 * 257]]], np.uint16), 4), background=(0, 0, 0))
    assert (got.pixels.tolist(), got.alpha.tolist()) == ([[[20, 20, 20]]], [[51]])
    assert got.notes == ("The file has 16 bits a channel; colour was reduced to 8 bits.", COMPOSITED)


def test_palette_transparency():
    palette = chunk(b"PLTE", bytes((255, 0, 0, 0, 255, 0, 0, 0, 255)))
    for trns, alpha in ((bytes((0, 128)), [0, 128, 255]), (bytes((255, 0)), [255, 0, 255])):
        got = load(png(3, 1, 8, 3, bytes((0, 0, 1, 2)), palette + chunk(b"tRNS", trns)))
        assert got.alpha.tolist() == [alpha]
        assert got.pixels[0, alpha.index(0)].tolist() == [255, 255, 255]
        assert got.pixels[0, 2].tolist() == [0, 0, 255]


@pytest.mark.parametrize("bits,colour_type,row,key", [
    (1, 0, (0b01000000,), (1,)),
    (2, 0, (0b00100000,), (2,)),
    (4, 0, (0x09,), (9,)),
    (8, 0, (0, 9), (9,)),
    (16, 0, (0, 0, 0x12, 0x34), (0x1234,)),
    (8, 2, (0, 0, 0, 1, 2, 3), (1, 2, 3)),
    (16, 2, (0,) * 6 + (0x12, 0x34, 0x56, 0x78, 0x9A, 0xBC), (0x1234, 0x5678, 0x9ABC)),
], ids=["grey1", "grey2", "grey4", "grey8", "grey16", "rgb8", "rgb16"])  # fmt: skip
def test_colour_key_transparency(bits, colour_type, row, key):
    trns = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    got = load(png(2, 1, bits, colour_type, bytes((0, *row)), trns))
    full = 65535 if (bits, colour_type) == (16, 0) else 255
    assert got.alpha.tolist() == [[full, 0]]
    assert got.pixels.tolist() == [[[0, 0, 0], [full, full, full]]]


# --- several images ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "MPO"])
def test_first_frame_with_a_note(format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"WEBP": {"lossless": True}, "MPO": {"quality": 100}}.get(format, {})
    got = load(saved(frames[0], format, save_all=True, append_images=frames[1:], **options))
    assert np.abs(got.pixels.astype(int) - (255, 0, 0)).max() <= 2
    assert got.notes == ("The file holds several images; only number 1 was used.",)
    assert got.format == {"MPO": "JPEG"}.get(format, format)


def test_frame_of_a_pil_image():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    image = Image.open(io.BytesIO(saved(frames[0], "TIFF", save_all=True, append_images=frames[1:])))
    image.seek(1)
    got = load(image)
    assert got.pixels[0, 0].tolist() == [0, 255, 0]
    assert got.notes == ("The file holds several images; only number 2 was used.",)


# --- TIFF that stores each channel by itself --------------------------------------------------------

CHANNELS = {
    "rgb": ("rgb", 3, None),
    "rgba": ("rgb", 4, "unassalpha"),
    "premultiplied": ("rgb", 4, "assocalpha"),
    "rgbx": ("rgb", 4, "unspecified"),
    "cmyk": ("separated", 4, None),
}


def lzw(data: bytes) -> bytes:
    """LZW as TIFF has it, of single bytes only: a clear code in time keeps every code at 9 bits."""
    codes = [256]
    for i in range(0, len(data), 250):
        codes += [*data[i : i + 250], 256]
    bits = "".join(format(code, "09b") for code in [*codes, 257])
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def packbits(data: bytes) -> bytes:
    return b"".join(bytes((len(data[i : i + 128]) - 1,)) + data[i : i + 128] for i in range(0, len(data), 128))


def planar_tiff(values: np.ndarray, kind: str, compression: str, tile, order: str) -> bytes:
    """A TIFF of `[H, W, C]` by tifffile, channel by channel, in strips of 7 rows or in tiles."""
    photometric, _, extra = CHANNELS[kind]
    own = {"lzw": (5, lzw), "packbits": (32773, packbits)}.get(compression)
    out = io.BytesIO()
    with tifffile.TiffWriter(out, byteorder=order) as file:
        options = {"photometric": photometric, "planarconfig": "separate", "extrasamples": extra and [extra]}
        planes = np.moveaxis(values, -1, 0).copy()
        options |= {"tile": tile} if tile else {"rowsperstrip": 7}
        if own is None:
            name, predictor = compression.partition("+")[::2]
            chosen = None if name == "none" else name
            file.write(planes, **options, compression=chosen, predictor=2 if predictor else None)
        else:  # tifffile compresses neither without further libraries; what is compressed already it takes as zlib
            ready = (own[1](piece) for piece in pieces(planes.astype(planes.dtype.newbyteorder(order)), tile))
            file.write(ready, shape=planes.shape, dtype=planes.dtype, **options, compression="zlib")
    if own is not None:
        out.seek(0)
        with tifffile.TiffFile(out, mode="r+b") as written:
            written.pages[0].tags["Compression"].overwrite(own[0])
    return out.getvalue()


def pieces(planes: np.ndarray, tile):
    """The bytes of each strip or tile, in the order of the file."""
    down, across = tile or (7, planes.shape[2])
    for plane in planes:
        for top in range(0, plane.shape[0], down):
            for left in range(0, plane.shape[1], across):
                part = plane[top : top + down, left : left + across]
                if tile:
                    part = np.pad(part, ((0, down - part.shape[0]), (0, across - part.shape[1])))
                yield part.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 32)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", ["none", "zlib", "zlib+predictor", "lzma", "lzw", "packbits"])
@pytest.mark.parametrize("kind", CHANNELS)
@pytest.mark.parametrize("depth", [8, 16])
def test_channels_stored_apart(depth, kind, compression, tile, order, tmp_path):
    _, count, extra = CHANNELS[kind]
    values = np.random.default_rng(0).integers(0, 2**depth, (40, 50, count)).astype(f"u{depth // 8}")
    if extra == "assocalpha":
        values[..., :3] = np.minimum(values[..., :3], values[..., 3:])
    data = planar_tiff(values, kind, compression, tile, order)
    if compression not in ("lzw", "packbits"):
        assert np.array_equal(np.moveaxis(tifffile.imread(io.BytesIO(data)), 0, -1), values)
    high = (values >> depth - 8).astype(int)
    alpha = high[..., 3:]
    if kind == "cmyk":
        expected = np.asarray(Image.fromarray(high.astype(np.uint8), "CMYK").convert("RGB")).astype(int)
    elif extra == "unassalpha":
        expected = (high[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    elif extra == "assocalpha":
        expected = high[..., :3] + 255 - alpha
    else:
        expected = high[..., :3]
    (tmp_path / "planes.tif").write_bytes(data)
    for source in (data, tmp_path / "planes.tif"):
        got = load(source)
        # Premultiplied colours are divided by alpha and multiplied again, with rounding.
        assert np.abs(got.pixels - expected).max() <= (1 if extra == "assocalpha" else 0)
        reduced = "The file has 16 bits a channel; colour was reduced to 8 bits."
        assert (reduced in got.notes) == (depth == 16)
        assert (got.alpha is None) == (extra not in ("unassalpha", "assocalpha"))
        if got.alpha is not None:
            assert np.array_equal(got.alpha, alpha[..., 0])


# --- layouts that Pillow does not read, or reads wrongly ----------------------------------------------


def tiff(values: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


RGB16 = photo(40, 50).astype(np.uint16) * 257
GREY16 = RGB16[..., 0]
FLOATS = "Float values in [0, 1] became 16-bit."


@pytest.mark.parametrize("tile", [None, (16, 16)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("stored,options", [
    (RGB16.astype(np.float32) / 65535, {"photometric": "rgb"}),
    (np.moveaxis(RGB16.astype(np.float32) / 65535, -1, 0).copy(), {"photometric": "rgb", "planarconfig": "separate"}),
    (RGB16.astype(np.float64) / 65535, {"photometric": "rgb"}),
    (GREY16.astype(np.float64) / 65535, {"photometric": "minisblack"}),
    (1 - GREY16.astype(np.float64) / 65535, {"photometric": "miniswhite"}),
    (np.dstack([GREY16, GREY16 * 0 + 65535]), {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
    (np.stack([GREY16, GREY16 * 0 + 65535]), {
        "photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "separate"
    }),
], ids=["rgb32", "planar32", "rgb64", "grey64", "white64", "alpha", "alpha-planar"])  # fmt: skip
def test_tiff_of_16_bits_or_floats(stored, options, compression, tile):
    for order in "<>":
        got = load(tiff(stored, compression=compression, tile=tile, byteorder=order, **options))
        expected = RGB16 if options["photometric"] == "rgb" else np.repeat(GREY16[..., None], 3, -1)
        assert got.pixels.dtype == np.uint16
        assert np.array_equal(got.pixels, expected)
        assert got.notes == ((FLOATS,) if stored.dtype.kind == "f" else ())
        assert (got.alpha is None) == ("extrasamples" not in options)


def test_tiff_of_half_floats_and_of_odd_depths():
    got = load(tiff(np.float16([[0, 0.25, 1]]), photometric="minisblack"))
    assert got.pixels[0, :, 0].tolist() == [0, 16384, 65535]
    for bits in (6, 10, 14):
        most = 2**bits - 1
        values = np.linspace(0, most, 24).round().astype(np.uint16 if bits > 8 else np.uint8).reshape(4, 6)
        got = load(tiff(values, photometric="minisblack", bitspersample=bits))
        full = 255 if bits < 8 else 65535
        assert np.abs(got.pixels[..., 1] - values * (full / most)).max() <= 1


def test_grey_with_alpha_of_16_bits_is_composited():
    values = np.array([[[65535, 65535], [40000, 32768], [1, 0]]], np.uint16)
    got = load(tiff(values, photometric="minisblack", extrasamples=["unassalpha"]), background=(0, 0, 0))
    assert got.pixels[0, :, 0].tolist() == [65535, 20000, 0]
    assert got.alpha.tolist() == [[65535, 32768, 0]] and got.notes == (COMPOSITED,)
    associated = np.array([[[65535, 65535], [20000, 32768], [0, 0]]], np.uint16)
    made = load(tiff(associated, photometric="minisblack", extrasamples=["assocalpha"]), background=None)
    assert np.abs(made.pixels[0, :, 0] - np.array([65535, 40000, 0])).max() <= 1


@pytest.mark.parametrize("compression", ["jpeg2000", "webp", "zstd", "jpeg"])
def test_compressions_of_tiles(compression):
    options = {"jpeg": {"level": 100}, "webp": {"lossless": True}}.get(compression)
    data = tiff(photo(40, 50), photometric="rgb", tile=(16, 32), compression=compression, compressionargs=options)
    error = np.abs(load(data).pixels.astype(int) - photo(40, 50))
    assert error.mean() < 4 if compression == "jpeg" else error.max() == 0  # a JPEG smears over the edges of tiles
    cut = data[: len(data) // 2]
    with pytest.raises(UndecodableImage):
        load(cut)


def test_a_profile_of_16_bit_floats_is_applied_in_8_bits():
    red = np.zeros((4, 4, 3), np.float32)
    red[..., 0] = 1
    got = load(tiff(red, photometric="rgb", iccprofile=swapped_profile()))
    assert np.abs(got.pixels.astype(int) - (0, 0, 255)).max() <= 2 and got.pixels.dtype == np.uint8
    assert got.notes[0].startswith("Colours were converted to sRGB") and "reduced to 8 bits" in got.notes[1]


@pytest.mark.parametrize("stored,options,words", [
    (np.zeros((8, 8, 3), np.uint32), {"photometric": "rgb"}, "RGB, 3 channels of 32-bit whole numbers, compression 1"),
    (np.zeros((8, 8, 3), np.int16), {"photometric": "rgb"}, "RGB, 3 channels of 16-bit signed whole numbers"),
    (np.zeros((3, 8, 8), np.uint8), {"photometric": "cielab", "planarconfig": "separate"}, "each channel by itself"),
    (np.zeros((8, 8, 3), np.uint8), {"photometric": "rgb", "compression": "jpegxl"}, "compression 50002"),
])  # fmt: skip
def test_layouts_that_are_not_read_say_so(stored, options, words):
    with pytest.raises(UndecodableImage, match=f"is a TIFF of a layout that is not read .*{words}.*; save it as grey"):
        load(tiff(stored, **options))


def test_raw_files_of_cameras_are_no_pictures():
    for extra in ([(50706, 1, 4, (1, 4, 0, 0), True)], []):
        data = tiff(np.zeros((8, 8), np.uint16), photometric=1 if extra else "cfa", extratags=extra)
        with pytest.raises(UndecodableImage, match="is a camera's raw file; develop it"):
            load(data)


# --- several images of which one is the picture -------------------------------------------------------


def pages(*parts, bigtiff=False) -> bytes:
    out = io.BytesIO()
    with tifffile.TiffWriter(out, bigtiff=bigtiff) as file:
        for values, options in parts:
            file.write(values, photometric="rgb", metadata=None, **options)
    return out.getvalue()


@pytest.mark.parametrize("bigtiff", [False, True])
def test_the_whole_picture_and_not_its_thumbnail(bigtiff):
    whole, small = photo(48, 64), photo(48, 64)[::4, ::4].copy()
    got = load(pages((small, {"subfiletype": 1}), (whole, {"subfiletype": 0}), bigtiff=bigtiff))
    assert np.array_equal(got.pixels, whole) and got.notes == ()
    both = pages((small, {"subfiletype": 1}), (small, {}), (whole, {}), bigtiff=bigtiff)
    assert load(both).notes == ("The file holds several images; only number 3 was used.",)
    pyramid = {"tile": (16, 16), "compression": "jpeg2000"}
    data = pages((whole, {"subifds": 1, **pyramid}), (small, {"subfiletype": 1, **pyramid}), bigtiff=bigtiff)
    assert np.array_equal(load(data).pixels, whole) and load(data).notes == ()
    data = pages((whole, pyramid), (small, {"subfiletype": 1, **pyramid}), bigtiff=bigtiff)
    assert np.array_equal(load(data).pixels, whole) and load(data).notes == ()
    inside = pages((small, {"subfiletype": 1, "subifds": 1}), (whole, {"subfiletype": 0}), bigtiff=bigtiff)
    assert np.array_equal(load(inside).pixels, whole)


def test_a_thumbnail_alone_says_what_it_is():
    got = load(pages((photo(), {"subfiletype": 1})))
    assert np.array_equal(got.pixels, photo())
    assert got.notes == ("The file says that it is a smaller copy of a picture, which is not in it.",)


# --- HEIC, AVIF, JPEG 2000 ----------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["HEIF", "AVIF", "JPEG2000"])
def test_what_telephones_and_museums_write(format):
    pillow_heif.register_heif_opener()
    options = {"JPEG2000": {}, "AVIF": {"quality": 95}, "HEIF": {"quality": 95}}[format]
    got = load(saved(Image.fromarray(photo(48, 64)), format, **options))
    assert (got.format, got.notes, got.pixels.dtype) == (format, (), np.uint8)
    assert np.abs(got.pixels.astype(int) - photo(48, 64)).max() <= (0 if format == "JPEG2000" else 16)
    rgba = np.dstack([photo(48, 64), photo(48, 64)[..., 0]])
    alpha = load(saved(Image.fromarray(rgba), format, **options)).alpha
    assert np.abs(alpha.astype(int) - rgba[..., 3]).max() <= (0 if format == "JPEG2000" else 8)


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_they_are_upright(format, orientation):
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[274] = orientation
    values = np.zeros((32, 48, 3), np.uint8)
    values[:16, :24] = 255
    got = load(saved(Image.fromarray(values), format, exif=exif.tobytes()))
    upright = (
        Image.fromarray(values).transpose(
            {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90}[orientation]
        )
        if orientation > 1
        else values
    )
    assert np.abs(got.pixels.astype(int) - np.asarray(upright)).mean() < 8


def test_jpeg_2000_of_16_bits_and_without_a_box():
    got = load(saved(Image.fromarray(GREY16), "JPEG2000"))
    assert np.array_equal(got.pixels[..., 0], GREY16)
    assert np.array_equal(load(saved(Image.fromarray(photo()), "JPEG2000", no_jp2=True)).pixels, photo())


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)], ids=["strips", "tiles"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_ycbcr_of_full_resolution(compression, tile, planar):
    values = np.asarray(Image.fromarray(photo(40, 50)).convert("YCbCr"))
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0).copy()
    out = io.BytesIO()
    tifffile.imwrite(
        out, stored, photometric="ycbcr", planarconfig=planar, compression=compression, tile=tile, rowsperstrip=None
    )
    expected = np.asarray(Image.fromarray(values, "YCbCr").convert("RGB")).astype(int)
    assert np.abs(load(out.getvalue()).pixels - expected).max() <= 1
