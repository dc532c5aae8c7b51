"""Every kind of source that `load` takes, and writing: the pixels that must come out, and the messages."""

import errno
import io
import os
import stat

import numpy as np
import pytest
import torch
from imagefiles import cmyk_profile, photo, saved
from PIL import Image, ImageOps

from artmodels.errors import ArtModelsError, ConfigError, ImageError, ImageTooLarge, UndecodableImage
from artmodels.images import decoding
from artmodels.images.loading import LoadedImage, load, to_pil
from artmodels.images.writing import encode_png, read_metadata, save_png

# --- plain files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_lossless_formats_are_exact(format):
    got = load(saved(Image.fromarray(photo()), format, **({"lossless": True} if format == "WEBP" else {})))
    assert np.array_equal(got.pixels, photo())
    assert (got.format, got.alpha, got.notes, got.height, got.width) == (format, None, (), 24, 36)


def test_jpeg_is_close_and_named():
    got = load(saved(Image.fromarray(photo()), "JPEG", quality=95, subsampling=0))
    assert np.abs(got.pixels.astype(int) - photo()).max() < 16
    assert (got.format, got.notes, got.pixels.dtype) == ("JPEG", (), np.uint8)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("as_path", [False, True])
def test_compressed_tiff(compression, as_path, tmp_path):
    data = saved(Image.fromarray(photo()), "TIFF", compression=compression)
    (tmp_path / "a.tif").write_bytes(data)
    assert np.array_equal(load(tmp_path / "a.tif" if as_path else data).pixels, photo())


def test_all_kinds_of_source_agree(tmp_path):
    data = saved(Image.fromarray(photo()), "PNG")
    path = tmp_path / "näme with space.png"
    path.write_bytes(data)
    for source in (
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        Image.open(io.BytesIO(data)),
        photo(),
    ):
        assert np.array_equal(load(source).pixels, photo()), type(source)
    tensor = torch.from_numpy(photo()).permute(2, 0, 1).float() / 255
    assert np.array_equal(load(tensor).pil(), photo())
    done = load(path)
    assert load(done) is done
    with pytest.raises(ImageTooLarge, match=r"36 x 24"):
        load(done, max_pixels=800)


def test_the_content_decides_and_not_the_name(tmp_path):
    path = tmp_path / "really.jpg"
    path.write_bytes(saved(Image.fromarray(photo()), "PNG"))
    assert load(path).format == "PNG"


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_thin_images(shape, format):
    values = np.full((*shape, 3), 200, np.uint8)
    got = load(saved(Image.fromarray(values), format))
    assert got.pixels.shape == values.shape
    assert np.abs(got.pixels.astype(int) - 200).max() <= 1
    assert got.tensor().shape == (1, 3, *shape)


def test_more_than_one_strip(monkeypatch):
    monkeypatch.setattr(decoding, "STRIP_PIXELS", 5 * 36)
    data = saved(Image.fromarray(photo()), "PNG")
    assert np.array_equal(load(data).pixels, photo())
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[274] = orientation
        turned = load(saved(Image.fromarray(photo()), "PNG", exif=exif)).pixels
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(saved(Image.fromarray(photo()), "PNG", exif=exif))))
        assert np.array_equal(turned, upright), orientation


# --- arrays and tensors -----------------------------------------------------------------------------


def test_arrays():
    grey = photo()[..., 0]
    for source in (grey, grey[..., None]):
        assert np.array_equal(load(source).pixels, np.repeat(grey[..., None], 3, -1))
    got = load(photo().astype(np.float64) / 255)
    assert np.array_equal(got.pixels, photo().astype(np.uint16) * 257)
    assert got.notes == ("Float values in [0, 1] became 16-bit.",)
    assert load(grey > 100).pixels[..., 1].tolist() == ((grey > 100) * 255).tolist()
    assert np.array_equal(load(photo()[::-1, ::2]).pixels, photo()[::-1, ::2])
    assert load(np.float16([[0.5, 1]])).pixels[0, :, 0].tolist() == [32768, 65535]


def test_loaded_pixels_do_not_alias_the_source():
    source = photo()
    got = load(source)
    source[:] = 0
    assert np.array_equal(got.pixels, photo())


def test_rounding_beyond_the_range_is_forgiven():
    assert load(np.array([[-1e-5, 1 + 1e-5]])).pixels[0, :, 0].tolist() == [0, 65535]


@pytest.mark.parametrize("array,message", [
    (np.zeros((0, 5, 3), np.uint8), "the array is empty: 5 x 0 pixels"),
    (np.zeros(5), r"shape \(5,\); give \[H, W\]"),
    (np.zeros((5, 6, 2)), r"shape \(5, 6, 2\)"),
    (np.zeros((3, 5, 6)), "channels come last, use array.transpose"),
    (np.zeros((1, 3, 5, 6)), "shape"),
    (np.zeros((2, 2), np.int64), "type int64; give uint8, uint16, or float"),
    (np.zeros((2, 2), complex), "type complex128"),
    (np.array([["a"]]), "type <U1"),
    (np.full((2, 2), np.nan), "NaN or infinity"),
    (np.array([[0, np.inf]]), "NaN or infinity"),
    (np.array([[0.0, 255.0]]), "from 0 to 255; .* divide by 255"),
    (np.array([[-1.0, 1.0]]), "from -1 to 1; .* scale or clip them"),
    (np.array([[0.0, 1.01]]), "from 0 to 1.01; .* scale or clip them"),
])  # fmt: skip
def test_arrays_that_are_no_image(array, message):
    with pytest.raises(ImageError, match=message):
        load(array)


def test_tensors():
    tensor = torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(0))
    for source in (tensor, tensor[None], tensor.double(), tensor.clone().requires_grad_()):
        got = load(source)
        assert got.pixels.shape == (7, 5, 3)
        assert got.tensor().is_contiguous()
        assert (got.tensor() - tensor).abs().max() <= 0.5 / 65535 + 1e-7
    assert (load(tensor.bfloat16()).tensor() - tensor).abs().max() < 1 / 256


@pytest.mark.parametrize("tensor,message", [
    (torch.zeros(2, 3, 4, 4), "a batch of 2 images; give them one at a time"),
    (torch.zeros(4, 5, 3), r"shape \(4, 5, 3\).*permute\(2, 0, 1\)"),
    (torch.zeros(4, 4), r"give \[3, H, W\] or \[1, 3, H, W\]"),
    (torch.zeros(1, 4, 4), r"give \[3, H, W\]"),
    (torch.zeros(3, 4, 4, dtype=torch.uint8), r"torch.uint8; give float in \[0, 1\]: tensor.float\(\) / 255"),
    (torch.zeros(3, 0, 4), "it is empty"),
    (torch.full((3, 2, 2), torch.nan), "NaN"),
    (torch.full((3, 2, 2), 200.0), "divide by 255"),
])  # fmt: skip
def test_tensors_that_are_no_image(tensor, message):
    with pytest.raises(ImageError, match=message):
        load(tensor)


def test_arrays_and_tensors_obey_the_limit():
    for source in (photo(), torch.zeros(3, 24, 36), Image.fromarray(photo())):
        with pytest.raises(ImageTooLarge, match="36 x 24"):
            load(source, max_pixels=100)


def test_to_pil_clamps_and_rounds():
    tensor = torch.tensor([-1.0, 0.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 1.0, 7.0]).expand(3, 1, 7)
    for source in (tensor, tensor[None]):
        assert np.asarray(to_pil(source))[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]
    for bad in (torch.nan, torch.inf):
        with pytest.raises(ImageError, match="NaN or infinity"):
            to_pil(torch.full((3, 2, 2), bad))
    with pytest.raises(ImageError, match="batch of 2"):
        to_pil(torch.zeros(2, 3, 2, 2))


def test_to_pil_leaves_its_input_alone():
    tensor = torch.tensor([0.25]).expand(3, 1, 1).clone()
    to_pil(tensor)
    assert (tensor == 0.25).all()


# --- writing ----------------------------------------------------------------------------------------

METADATA = {"Software": "artmodels", "seed": "7", "prompt": "été – 日本\nzwei", "empty": ""}


def test_png_round_trip_with_metadata(tmp_path):
    tensor = torch.from_numpy(photo()).permute(2, 0, 1).float() / 255
    for source in (Image.fromarray(photo()), photo(), tensor, load(photo())):
        data = encode_png(source, metadata=METADATA)
        assert np.array_equal(load(data).pixels, photo())
        assert read_metadata(data) == METADATA
    path = tmp_path / "a.png"
    save_png(photo(), path, metadata=METADATA)
    assert path.read_bytes() == encode_png(photo(), metadata=METADATA)
    assert read_metadata(path) == read_metadata(str(path)) == METADATA
    assert read_metadata(encode_png(photo())) == {}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_png_keeps_the_mode_of_a_pil_image(mode):
    image = Image.new(mode, (3, 2))
    assert Image.open(io.BytesIO(encode_png(image))).mode == mode


def test_png_of_other_modes_becomes_srgb():
    cmyk = Image.new("CMYK", (2, 2), (255, 0, 0, 0))
    cmyk.info["icc_profile"] = cmyk_profile()
    written = Image.open(io.BytesIO(encode_png(cmyk)))
    assert written.mode == "RGB"
    assert "icc_profile" not in written.info
    assert abs(written.getpixel((0, 0))[0] - 119) <= 3


@pytest.mark.parametrize("metadata", [
    {"": "x"}, {"k" * 80: "x"}, {" k": "x"}, {"日本": "x"}, {"k\0": "x"}, {"k": "a\0b"},
    {"k": "x" * (2**20 + 1)}, {"k": 5},
], ids=["empty", "long", "space", "unicode", "nul", "nul-text", "long-text", "number"])  # fmt: skip
def test_metadata_that_png_cannot_hold(metadata):
    with pytest.raises(ConfigError, match="metadata"):
        encode_png(photo(), metadata=metadata)


def test_longest_metadata_reads_back():
    metadata = {"k" * 79: "x" * 2**20}
    assert read_metadata(encode_png(photo(), metadata=metadata)) == metadata


def test_read_metadata_refuses_other_files(tmp_path):
    with pytest.raises(UndecodableImage):
        read_metadata(saved(Image.fromarray(photo()), "TIFF"))
    assert read_metadata(saved(Image.fromarray(photo()), "JPEG")) == {}
    with pytest.raises(ImageError, match="there is no file"):
        read_metadata(tmp_path / "no.png")


def test_save_overwrites_with_ordinary_permissions(tmp_path):
    path = tmp_path / "a.PNG"
    path.write_bytes(b"old")
    save_png(photo(), path)
    assert np.array_equal(load(path).pixels, photo())
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.PNG", "plain"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_png(photo(), path, metadata={"version": "old"})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(
        ArtModelsError,
        match=r"could not write .*a\.png': No space left on device; free some space and try again",
    ):
        save_png(photo()[::-1], path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert read_metadata(path) == {"version": "old"}


def test_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        save_png(photo(), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_save_where_it_cannot(tmp_path):
    with pytest.raises(ArtModelsError, match=r"No such file or directory; check that the folder exists"):
        save_png(photo(), tmp_path / "no" / "a.png")
    with pytest.raises(ConfigError, match=r"'.*a\.jpg' does not end in \.png; only PNG is written"):
        save_png(photo(), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_png_is_deterministic():
    assert encode_png(photo(), metadata=METADATA) == encode_png(photo(), metadata=METADATA)


def test_result_of_load_is_frozen():
    with pytest.raises(AttributeError):
        LoadedImage(photo()).format = "PNG"
