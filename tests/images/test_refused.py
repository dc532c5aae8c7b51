"""What `load` refuses: bombs, damaged files, other formats, addresses, and what decoders raise."""

import io
import os
import queue
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from imagefiles import chunk, cmyk_profile, photo, png, saved, swapped_profile, tiff_of
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from artmodels import images
from artmodels.errors import ConfigError, ImageError, ImageTooLarge, UndecodableImage
from artmodels.images import loading
from artmodels.images.loading import load


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """144 megapixels of zeros in 140 kB."""
    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(bytes(12001)) for _ in range(12000)) + pack.flush()
    head = struct.pack(">IIBBBBB", 12000, 12000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_bomb_is_refused_from_its_header(bomb, tmp_path, monkeypatch):
    assert 130_000 < len(bomb) < 150_000
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb)
    files = []

    class CountingFile(io.BytesIO):
        taken = 0

        def read(self, size=-1, /):
            data = super().read(size)
            self.taken += len(data)
            return data

    def opened(source, max_pixels):
        name, file = original(source, max_pixels)
        with file:
            files.append(CountingFile(file.read()))
        return name, files[-1]

    original = loading.opened
    monkeypatch.setattr(loading, "opened", opened)
    monkeypatch.setattr("PIL.Image._getdecoder", lambda *_: pytest.fail("a decoder was made"))
    for source in (bomb, path):
        with pytest.raises(ImageTooLarge, match=r"12000 x 12000 = 144\.0 megapixels and the limit is 40\.0; make it"):
            load(source)
    assert [file.taken < 2_000 for file in files] == [True, True]
    monkeypatch.undo()
    monkeypatch.setattr("PIL.Image._getdecoder", lambda *_: 1 / 0)
    with pytest.raises(UndecodableImage, match="division by zero"):
        load(saved(Image.new("RGB", (1, 1)), "PNG"))  # what is not refused does make one


MEASURE = """
import io, re, sys, warnings
warnings.simplefilter("error")
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
from artmodels.errors import ImageTooLarge
from artmodels.images import load
from PIL import Image
for format in ("PNG", "JPEG", "WEBP", "TIFF"):
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, format)
    load(out.getvalue())
before = status("VmRSS")
try:
    size = load(sys.argv[1]).pixels.nbytes / 2**20
except ImageTooLarge:
    size = 0
sys.stdout.write(f"{size} {status('VmHWM') - before}")
"""


def growth(path: Path) -> tuple[float, float]:
    """MB of pixels and of growth of the process's peak while `path` loads."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    root = Path(images.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], cwd=root, capture_output=True, text=True, check=True
    )
    size, grown = map(float, done.stdout.split())
    return size, grown


def test_bomb_takes_no_memory(bomb, tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb)
    size, grown = growth(tmp_path / "bomb.png")
    assert size == 0
    assert grown < 8


@pytest.mark.slow
@pytest.mark.parametrize("case", ["png-rgba", "png-16", "jpeg-progressive", "jpeg-cmyk", "webp", "tiff-lzw", "tiff-16"])
def test_largest_decode_stays_under_512_mb(case, tmp_path):
    path = tmp_path / "large"
    side = (8000, 5000)
    if case == "png-rgba":
        exif = Image.Exif()
        exif[274] = 6
        Image.new("RGBA", side, (1, 2, 3, 100)).save(path, "PNG", exif=exif, compress_level=1)
    elif case == "png-16":
        Image.new("I;16", side, 4000).save(path, "PNG", compress_level=1)
    elif case == "jpeg-progressive":
        Image.new("RGB", side, (9, 99, 200)).save(
            path, "JPEG", progressive=True, subsampling=0, icc_profile=swapped_profile()
        )
    elif case == "jpeg-cmyk":
        Image.new("CMYK", side, (9, 99, 200, 4)).save(path, "JPEG", progressive=True, icc_profile=cmyk_profile())
    elif case == "webp":
        Image.new("RGBA", (6000, 4666), (1, 2, 3, 100)).save(path, "WEBP", lossless=True, method=0)
    elif case == "tiff-lzw":
        exif = Image.Exif()
        exif[274] = 6
        Image.new("RGB", side, (9, 99, 200)).save(path, "TIFF", compression="tiff_lzw", exif=exif)
    else:
        path.write_bytes(tiff_of(np.zeros((5000, 8000, 3), np.uint16), photometric=2))
    size, grown = growth(path)
    assert size > 60
    assert grown < 512e6 / 2**20


def test_webp_has_a_lower_limit():
    data = saved(Image.new("RGB", (100, 80)), "WEBP")
    assert load(data, max_pixels=11_430).width == 100
    with pytest.raises(ImageTooLarge, match=r"limit for WebP, which takes more memory, is 0\.0; save it as PNG"):
        load(data, max_pixels=11_420)


def test_beyond_pillows_own_limits_is_ours_to_report():
    for width, height in (
        (10_000, 10_000),
        (20_000, 10_000),
    ):  # Pillow would warn at the first, refuse the second
        data = png(width, height, 8, 0, b"")
        with pytest.raises(ImageTooLarge, match="make it smaller"):
            load(data)
    with pytest.raises(ImageTooLarge, match="200000000 pixels"):
        load(png(20_000, 10_000, 8, 0, b""), max_pixels=10**9)


def test_limit_is_inclusive():
    data = saved(Image.fromarray(photo()), "PNG")
    assert load(data, max_pixels=24 * 36).width == 36
    with pytest.raises(ImageTooLarge, match="make it smaller, or load it with shrink=True, which does that$"):
        load(data, max_pixels=24 * 36 - 1)


def test_too_many_bytes(tmp_path):
    path = tmp_path / "long.png"
    with open(path, "wb") as file:
        file.truncate(400_000_000)  # sparse
    with pytest.raises(ImageTooLarge, match=r"400\.0 MB and the limit is 336\.8 MB"):
        load(path)
    with pytest.raises(ImageTooLarge, match=r"17\.0 MB and the limit is 16\.8 MB"):
        load(memoryview(np.zeros(8_500_000, np.uint16)), max_pixels=10)


def test_tile_that_is_larger_than_its_image():
    tags = ((322, 4, 60_000), (323, 4, 60_000))
    with pytest.raises(ImageTooLarge, match="tiles of 60000 x 60000 pixels"):
        load(tiff_of(np.zeros((4, 4), np.uint8), photometric=1, extra=tags))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.9])
def test_truncated(format, keep, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = saved(noise, format)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * keep)])
    for source in (path, path.read_bytes()):
        with pytest.raises(UndecodableImage, match="damaged"):
            load(source)


@pytest.mark.parametrize("data,message", [
    (b"", "is empty: 0 bytes; save or download it again"),
    (b"just a few words, renamed to .png\n", "is text, not pixels; PNG, JPEG, WebP, TIFF, HEIC, AVIF and JPEG 2000"),
    (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing, not pixels; PNG"),
    (b'<?xml version="1.0"?>\n<!-- c -->\n<svg width="9"/>', "is an SVG drawing"),
    (saved(Image.new("L", (2, 2)), "GIF"), "is a GIF file"),
    (saved(Image.new("L", (2, 2)), "BMP"), "is a BMP file"),
    (b"%PDF-1.7\n\x00", "is a PDF document"),
    (b"8BPS\x00\x01", "is a Photoshop document"),
    (b"\x00\x00\x00\x1cftypavif", "is a damaged HEIC or AVIF file"),
    (b"\x00\x00\x00\x1cftypisom", "is a video file"),
    (b"\x00\x00\x00\x18ftypcrx ", "is a camera's raw file"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "cannot be decoded .* it is damaged or incomplete"),
    (b"\x89PNG\r\n\x1a\n" + bytes(40), "is damaged at its start, or not an image"),
    (bytes(1000), "is damaged at its start, or not an image"),
])  # fmt: skip
def test_not_an_image(data, message, tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    for source, name in ((path, "picture.png"), (data, "the image")):
        with pytest.raises(UndecodableImage, match=message) as caught:
            load(source)
        assert name in str(caught.value)


def test_paths_that_hold_no_file(tmp_path):
    with pytest.raises(ImageError, match="there is no file .*nowhere.png'; check the path"):
        load(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="is a folder; give the path of one image file"):
        load(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(ImageError, match="there is no file"):
        load(tmp_path / "file" / "a.png")
    with pytest.raises(ImageError, match="null byte"):
        load("a\0b.png")
    with pytest.raises(ImageError, match="File name too long"):
        load("a" * 5000)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="is not an ordinary file"):
        load(tmp_path / "pipe")


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:1/a.png", "HTTPS://example.org/a.png", "ftp://h/a", "file:///etc/passwd",
    "data:image/png;base64,AA",
])  # fmt: skip
def test_addresses_are_never_fetched(url, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(ImageError, match="is an address and nothing is ever fetched; download it"):
        load(url)


@pytest.mark.parametrize("source", [None, 5, ["a.png"], {}])
def test_other_types_are_refused(source):
    with pytest.raises(ImageError, match=f"a {type(source).__name__} is not an image; give a path"):
        load(source)


@pytest.mark.parametrize("error", [
    SyntaxError("broken"), struct.error("x"), ValueError(), MemoryError(), RecursionError(), KeyError(1),
    OSError(5, "I/O"), Image.DecompressionBombError("big"), ZeroDivisionError(),
], ids=lambda e: type(e).__name__)  # fmt: skip
def test_whatever_a_decoder_raises_becomes_an_image_error(error, monkeypatch):
    def fail(self):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    expected = ImageTooLarge if isinstance(error, MemoryError | Image.DecompressionBombError) else UndecodableImage
    with pytest.raises(expected, match="the image") as caught:
        load(saved(Image.new("L", (2, 2)), "PNG"))
    assert caught.value.__cause__ is error


def test_interrupts_pass(monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", stop)
    with pytest.raises(KeyboardInterrupt):
        load(saved(Image.new("L", (2, 2)), "PNG"))


def test_closed_and_empty_pil_images():
    image = Image.open(io.BytesIO(saved(Image.new("RGB", (2, 2)), "PNG")))
    image.close()
    with pytest.raises(UndecodableImage, match="the PIL image cannot be decoded"):
        load(image)
    with pytest.raises(ImageError, match="the PIL image is empty: 0 x 5 pixels"):
        load(Image.new("RGB", (0, 5)))


def test_pil_modes():
    for mode in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F"):
        got = load(Image.new(mode, (3, 2)))
        assert got.pixels.shape == (2, 3, 3), mode
        assert got.alpha is None


def test_warnings_of_pillow_never_decide():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageTooLarge, match="9500 x 9500"):
            load(png(9_500, 9_500, 8, 0, b""))  # above Pillow's limit for a warning


def test_overlapping_decodes_leave_no_warning_filter_behind(monkeypatch):
    data = saved(Image.fromarray(photo()), "PNG")
    original = PngImageFile.load
    entered, go_on = queue.Queue(), {}

    def wait(self):
        name = threading.current_thread().name
        if name in go_on and not go_on[name].is_set():
            entered.put(name)
            assert go_on[name].wait(30)
        return original(self)

    monkeypatch.setattr(PngImageFile, "load", wait)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        threads = []
        for name in ("first", "second"):  # both are inside before the first one leaves
            go_on[name] = threading.Event()
            threads.append(threading.Thread(target=load, args=(data,), name=name))
            threads[-1].start()
            assert entered.get(timeout=30) == name
        assert list(warnings.filters) != before
        for thread in threads:
            go_on[thread.name].set()
            thread.join(30)
        assert list(warnings.filters) == before


@pytest.mark.parametrize("settings,message", [
    ({"max_pixels": 0}, "max_pixels is 0; give 1 or more"),
    ({"background": (0, 0)}, "three whole numbers"),
    ({"background": (0, 0, 256)}, "three whole numbers"),
    ({"background": (0, 0.5, 1)}, "three whole numbers"),
])  # fmt: skip
def test_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        load(photo(), **settings)
