"""What files say of a picture's origin, kept from input to output; JPEG and WebP; pictures that are reduced to fit."""

import io
import json

import numpy as np
import pytest
import torch
from imagefiles import photo, saved
from PIL import Image

from artmodels import images
from artmodels.errors import ConfigError, ImageTooLarge
from artmodels.images.formats.origin import Origin, origin_of
from artmodels.images.results import ImageResult
from artmodels.images.writing import encode

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
ORIGIN = Origin(inches=(2.0, 1.5), author="Ané Ōtani; B", rights="© Museum <&> 2020", date="2020:01:02 03:04:05")


def result(origin: Origin | None = None, **settings) -> ImageResult:
    tensor = torch.from_numpy(photo(24, 32)).permute(2, 0, 1)[None].float() / 255
    return ImageResult(
        tensor=tensor, settings=settings, seconds=1.0, notes=("It was turned – upright.",), origin=origin
    )


@pytest.mark.parametrize("ending", FORMATS)
def test_origin_settings_and_notes_come_back(ending, tmp_path):
    file = tmp_path / f"a{ending}"
    result(ORIGIN, seed=7, loss="gram(\u2028\U0001f600)").save(file)
    stored = images.read_metadata(file)
    assert json.loads(stored["artmodels"]) == {"seed": 7, "loss": "gram(\u2028\U0001f600)"}
    assert (stored["seed"], stored["notes"]) == ("7", "It was turned – upright.")
    got = images.load(file)
    assert got.format == FORMATS[ending]
    assert got.origin.inches == pytest.approx(ORIGIN.inches, rel=1e-3)
    assert (got.origin.author, got.origin.rights, got.origin.date) == (ORIGIN.author, ORIGIN.rights, ORIGIN.date)
    with Image.open(file) as image:
        exif = image.getexif()
        assert exif[282] == pytest.approx(16, rel=0.01) and exif[33432].encode("latin-1").decode() == ORIGIN.rights
        if ending != ".webp":
            assert image.info["dpi"] == pytest.approx((16, 16), rel=0.01)
    result().save(file)
    assert images.load(file).origin is None


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
def test_origin_is_read_from_exif(format):
    exif = Image.Exif()
    exif[282], exif[283], exif[296], exif[274] = 300.0, 300.0, 2, 6
    exif[315], exif[33432] = "A. Painter", "Museum"
    exif.get_ifd(34665)[36867] = "2020:01:02 03:04:05"
    options = {} if format in ("WEBP", "AVIF") else {"dpi": (300, 300)}
    got = images.load(saved(Image.fromarray(photo(24, 36)), format, exif=exif.tobytes(), **options))
    assert got.pixels.shape == (36, 24, 3)
    assert got.origin.inches == pytest.approx((24 / 300, 36 / 300), rel=1e-3)
    assert (got.origin.author, got.origin.rights, got.origin.date) == ("A. Painter", "Museum", "2020:01:02 03:04:05")


def test_xmp_goes_before_exif_and_hostile_packets_are_left():
    packet = encode(photo(), "JPEG", origin=ORIGIN)
    xmp = Image.open(io.BytesIO(packet)).info["xmp"]
    assert origin_of((1, 1), xmp=xmp, exif={315: "other"}).author == ORIGIN.author
    bomb = b'<!DOCTYPE a [<!ENTITY b "x">]>' + xmp
    for bad in (bomb, xmp[:-20], b"\0" * 50, xmp + b" " * 2**18, 5, "<a>" * 1000):
        assert origin_of((1, 1), xmp=bad) is None
    assert origin_of((1, 1), exif={315: "a\x00\n\tb\x1b" + "c" * 5000}).author.startswith("a b c")
    for dpi in ((0, 0), (float("nan"), 1), (-3, 4), ("a", "b"), 5, (1e9, 1e9)):
        assert origin_of((9, 9), dpi=dpi) is None


@pytest.mark.parametrize("plain", [
    5, {}, {"inches": [1, 2], "author": "", "rights": "", "date": ""}, ORIGIN.plain() | {"author": 5},
    ORIGIN.plain() | {"inches": [0.0, 1.0]}, ORIGIN.plain() | {"date": "x" * 3000},
])  # fmt: skip
def test_origins_of_other_processes_are_not_believed(plain):
    assert Origin.checked(json.loads(json.dumps(ORIGIN.plain()))) == ORIGIN
    with pytest.raises(ValueError):
        Origin.checked(plain)


def test_quality_of_jpeg_and_webp(tmp_path):
    sizes = []
    for quality in (30, None, 100):
        result().save(tmp_path / "a.webp", quality=quality)
        sizes.append((tmp_path / "a.webp").stat().st_size)
        result().save(tmp_path / "a.jpeg", quality=quality)
        assert np.abs(images.load(tmp_path / "a.jpeg").pixels.astype(int) - photo(24, 32)).mean() < 12
    assert sizes[0] < sizes[1]
    assert np.array_equal(images.load(tmp_path / "a.webp").pixels, photo(24, 32))
    for quality in (0, 101, 9.5, "9"):
        with pytest.raises(ConfigError, match="whole number from 1 to 100"):
            result().save(tmp_path / "b.jpg", quality=quality)
    with pytest.raises(ConfigError, match="without loss and has no quality"):
        result().save(tmp_path / "b.png", quality=9)
    with pytest.raises(ConfigError, match=r"does not end in \.png, \.jpg, \.jpeg, \.webp"):
        result().save(tmp_path / "b.gif")
    with pytest.raises(ConfigError, match="at most 64 kB of settings"):
        result(long="x" * 70_000).save(tmp_path / "b.jpg")
    with pytest.raises(ConfigError, match="at most 16383 pixels a side"):
        images.save(np.zeros((1, 17_000), np.uint8), tmp_path / "b.webp")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jpeg", "a.webp"]


# --- reduced to fit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_larger_pictures_are_reduced_and_say_so(dtype, tmp_path):
    values = np.zeros((80, 120, 4), dtype)
    values[..., :3], values[..., 3] = np.iinfo(dtype).max // 3, np.iinfo(dtype).max
    with pytest.raises(ImageTooLarge, match="load it with shrink=True"):
        images.load(values, max_pixels=2400)
    got = images.load(values, max_pixels=2400, shrink=True)
    assert got.pixels.shape == (40, 60, 3) and got.alpha.shape == (40, 60)
    assert got.pixels.dtype == got.alpha.dtype == dtype
    assert np.abs(got.pixels.astype(int) - int(values[0, 0, 0])).max() <= 1 and (got.alpha == values[0, 0, 3]).all()
    assert got.notes == ("It was reduced from 120 x 80 to 60 x 40 pixels: the limit here is 0.0024 megapixels.",)
    Image.fromarray(photo(80, 120)).save(tmp_path / "a.png", dpi=(300, 300))
    assert images.pixels_in(tmp_path / "a.png") == 9600
    small = images.load(tmp_path / "a.png", max_pixels=2400, shrink=True)
    assert small.origin.dpi(60, 40) == pytest.approx((150, 150), rel=1e-3)
    assert images.load(tmp_path / "a.png", shrink=True).notes == ()


@pytest.mark.parametrize("ending", FORMATS)
def test_the_place_and_the_camera_stay_out_of_results(tmp_path, ending):
    exif = Image.Exif()
    exif[271], exif[315] = "Maker", "A. Painter"
    exif.get_ifd(34853).update({1: "N", 2: (48.0, 51.0, 30.0)})
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg", exif=exif)
    with Image.open(tmp_path / "photo.jpg") as given:
        assert {271, 34853} < set(given.getexif())
    loaded = images.load(tmp_path / "photo.jpg")
    images.save(loaded, tmp_path / f"made{ending}", origin=loaded.origin)
    with Image.open(tmp_path / f"made{ending}") as made:
        assert set(made.getexif()) - {282, 283, 296} == {315}
    assert images.load(tmp_path / f"made{ending}").origin.author == "A. Painter"
