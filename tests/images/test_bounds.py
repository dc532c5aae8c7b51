"""Files of a few bytes that ask for much: refused by counting, before a decoder sees them; ordinary ones pass."""

import io
import struct
import zlib

import numpy as np
import pytest
from imagefiles import chunk, photo, png_of, saved, swapped_profile, tiff_of
from PIL import Image

from artmodels import images
from artmodels.errors import ImageTooLarge, UndecodableImage
from artmodels.images.formats import bounds
from artmodels.images.formats.bounds import (
    DATA_CHUNKS,
    OTHER_CHUNKS,
    PIECES,
    PROFILES,
    SCANS,
    SEGMENTS,
    check_structure,
)
from artmodels.images.loading import load

DAMAGED_EXIF = "Its EXIF data is damaged and was ignored."


class CountingFile(io.BytesIO):
    """Counts what is read from it."""

    reads = taken = 0

    def read(self, size=-1, /):
        data = super().read(size)
        self.reads += 1
        self.taken += len(data)
        return data


def jpeg(size=(64, 64), mode="RGB", **options) -> bytes:
    return saved(Image.new(mode, size), "JPEG", **options)


def with_scans(data: bytes, more: int) -> bytes:
    """Repeat the last scan of a progressive JPEG."""
    start, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[start:end] * more + data[end:]


def resized(data: bytes, width: int, height: int) -> bytes:
    """Claim another size in the frame header of a progressive JPEG."""
    at = data.index(b"\xff\xc2") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def png_with(extra: bytes) -> bytes:
    data = saved(Image.new("RGB", (4, 4)), "PNG")
    return data[:33] + extra + data[33:]


def directory(tags, order="<") -> bytes:
    """Pack tags (number, type, count, value or offset), the last directory of its file."""
    return (
        struct.pack(f"{order}H", len(tags))
        + b"".join(struct.pack(f"{order}HHII", *tag) for tag in sorted(tags))
        + bytes(4)
    )


def shared_tags(count: int, size: int) -> bytes:
    """EXIF of so many tags that all hold the same bytes of it."""
    tags = [(30_000 + i, 7, size, 8 + 2 + 12 * count + 4) for i in range(count)]
    return b"II*\0\x08\0\0\0" + directory(tags) + bytes(size)


def tiff_with(*tags, sub=(), behind=b"") -> bytes:
    """A TIFF of 8 x 8 pixels with more tags, and with those of `sub` in its EXIF directory."""
    data = tiff_of(np.zeros((8, 8, 3), np.uint8), photometric=2)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    own = [struct.unpack_from("<HHII", data, at + 2 + 12 * i) for i in range(count)]
    second = len(data)
    exif = directory(sub)
    all_tags = [tag for tag in own if tag[0] not in {t[0] for t in tags}] + [*tags, (34665, 4, 1, second)]
    start = second + len(exif)
    return data[:4] + struct.pack("<I", start) + data[8:] + exif + directory(all_tags) + behind


@pytest.fixture
def no_decoder(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the file was given to a decoder")

    monkeypatch.setattr(Image, "open", refuse)


# --- JPEG -------------------------------------------------------------------------------------------


def test_more_scans_than_encoders_write_are_refused_unseen(no_decoder):
    bomb = resized(with_scans(jpeg(progressive=True), 30), 8000, 5000)
    assert len(bomb) < 5_000
    message = "is a JPEG of 40 scans over 40.2 megapixels, which would take too long to decode; save it again, as base"
    with pytest.raises(ImageTooLarge, match=message):
        load(bomb)


def test_the_bound_is_pixels_times_scans():
    data = with_scans(jpeg(progressive=True), 3)  # 13 scans
    check_structure(io.BytesIO(resized(data, 8000, 5000)), "it", 40_000_000)
    check_structure(io.BytesIO(with_scans(data, 3000)), "it", 40_000_000)  # small: it may have many
    assert load(with_scans(data, 300)).width == 64
    most = 40_000_000 * SCANS // 4096**2
    large = resized(data, 4096, 4096)
    check_structure(io.BytesIO(with_scans(large, most - 13)), "it", 40_000_000)
    with pytest.raises(ImageTooLarge, match=f"{most + 1} scans over 16.8 megapixels"):
        check_structure(io.BytesIO(with_scans(large, most - 12)), "it", 40_000_000)


def test_thin_pictures_count_with_the_blocks_they_are_coded_in():
    data = with_scans(resized(jpeg(progressive=True), 65_535, 1), 990)
    with pytest.raises(ImageTooLarge, match="1000 scans over 2.1 megapixels"):
        check_structure(io.BytesIO(data), "it", 40_000_000)


@pytest.mark.parametrize("mode,most", [("L", 6), ("RGB", 10), ("CMYK", 18)])
def test_ordinary_progressive_files_of_the_largest_size_pass(mode, most):
    data = jpeg(mode=mode, progressive=True)
    assert data.count(b"\xff\xda") <= most < SCANS
    check_structure(io.BytesIO(resized(data, 8000, 5000)), "it", 40_000_000)


def test_progressive_file_just_as_large_as_its_limit_passes():
    for width, height in ((1, 1), (24, 36), (700, 3)):
        data = jpeg((width, height), progressive=True)
        assert load(data, max_pixels=width * height).width == width


def test_scans_of_thumbnails_second_pictures_and_what_follows_do_not_count():
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 100
    whole = jpeg(progressive=True)
    thumbnail = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + scan)
    data = resized(whole[:2] + thumbnail + whole[2:], 8000, 5000)
    check_structure(io.BytesIO(data + scan * 1000), "it", 40_000_000)
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    many = saved(frames[0], "MPO", save_all=True, append_images=frames[1:] * 20, progressive=True)
    assert many.count(b"\xff\xda") > SCANS
    check_structure(io.BytesIO(resized(many, 8000, 5000)), "it", 40_000_000)


def test_markers_are_found_across_blocks_behind_padding_and_restarts():
    picture = jpeg(progressive=True)
    base, scan = resized(picture, 8000, 5000)[:-2], b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    for filler in (
        b"\xff" * 3,
        b"\xff\0" * 5,
        b"\xff\xd3" * 70_000,
        bytes(2**16),
        bytes(2**16 - len(base) % 2**16 - 1),
    ):
        with pytest.raises(ImageTooLarge, match="40 scans"):
            check_structure(io.BytesIO(base + (filler + scan) * 30 + b"\xff\xd9"), "it", 40_000_000)


def test_tiny_segments_are_refused_unseen(no_decoder):
    data = jpeg()
    assert SEGMENTS < 11_000
    with pytest.raises(ImageTooLarge, match="is a JPEG of more than 10000 segments; save it again"):
        load(data[:2] + b"\xff\xfe\0\2" * 11_000 + data[2:])


def test_ordinary_metadata_passes():
    data = jpeg(icc_profile=swapped_profile())
    padded = data[:2] + segment(0xED, bytes(60_000)) * 300 + data[2:]
    assert load(padded).notes[0].startswith("Colours were converted")


def test_bytes_between_segments_are_refused_unseen(no_decoder):
    data = jpeg()
    assert data[2:20] == segment(0xE0, data[6:20])
    with pytest.raises(UndecodableImage, match="its segments do not follow each other"):
        load(data[:20] + bytes(2_000_000) + data[20:])


def test_a_jpeg_is_read_about_once():
    scans = CountingFile(with_scans(jpeg((512, 512), progressive=True, quality=95), 2_000))
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    long = CountingFile(saved(Image.fromarray(noise), "JPEG", quality=95))
    for file, segments in ((scans, 4_100), (long, 20)):
        check_structure(file, "it", 40_000_000)
        assert file.tell() == 0
        assert file.taken <= len(file.getvalue()) + segments * (2**16 + 7)
        assert file.reads <= 2 * segments + len(file.getvalue()) / 2**15


def test_exif_whose_tags_share_bytes():
    data = jpeg()
    bomb = data[:2] + segment(0xE1, b"Exif\0\0" + shared_tags(2_500, 32_000)) + data[2:]
    with pytest.raises(ImageTooLarge, match="EXIF data whose tags take more than the data; save it without metadata"):
        load(bomb)


# --- PNG --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind,body,most", [
    (b"teSt", b"", OTHER_CHUNKS), (b"tEXt", b"a\0b", OTHER_CHUNKS), (b"IDAT", b"", DATA_CHUNKS),
    (b"iCCP", b"a\0\0" + zlib.compress(bytes(10**6), 9), PROFILES),
])  # fmt: skip
def test_tiny_chunks_are_refused_unseen(kind, body, most, no_decoder):
    with pytest.raises(ImageTooLarge, match="is a PNG of too many small chunks .* save it again, without metadata"):
        load(png_with(chunk(kind, body) * (most + 1)))


def test_the_most_chunks_pass():
    pixels = chunk(b"IDAT", b"") * (DATA_CHUNKS - 1)
    data = png_with(chunk(b"teSt", b"") * (OTHER_CHUNKS - 1))
    end = data.index(b"IDAT") - 4
    assert load(data[:end] + pixels + data[end:]).width == 4


def test_small_data_chunks_of_a_large_file_pass():
    assert DATA_CHUNKS * 8192 > 8 * images.LIMIT  # whatever its depth
    values = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    whole = png_of(values, 2)
    start = whole.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">I", whole, start)
    body = whole[start + 8 : start + 8 + length]
    parts = b"".join(chunk(b"IDAT", body[i : i + 64]) for i in range(0, length, 64))
    assert np.array_equal(load(whole[:start] + parts + whole[start + 12 + length :]).pixels, values)


def test_what_follows_the_end_of_a_png_does_not_count():
    data = saved(Image.new("RGB", (4, 4)), "PNG")
    file = CountingFile(data + bytes(12 * 2 * DATA_CHUNKS))
    check_structure(file, "it", 100)
    assert file.reads < 10
    assert load(file.getvalue()).width == 4


def test_reading_metadata_is_bounded_too(no_decoder):
    with pytest.raises(ImageTooLarge, match="too many small chunks"):
        images.read_metadata(png_with(chunk(b"teSt", b"") * 2_000))


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_exif_whose_tags_share_megabytes_is_ignored(format, monkeypatch):
    exif = shared_tags(200, 1_000_000)  # 200 MB; with 60 000 tags of 4 MB each it would be 240 GB
    if format == "PNG":
        data = png_with(chunk(b"eXIf", exif))
    else:
        data = saved(Image.new("RGB", (4, 4)), "WEBP", exif=b"Exif\0\0" + exif)
    monkeypatch.setattr(Image.Exif, "load", lambda *_: pytest.fail("the EXIF data was parsed"))
    got = load(data)
    assert got.notes == (DAMAGED_EXIF,)
    assert got.pixels.shape == (4, 4, 3)


def test_exif_as_text_whose_tags_share_bytes_is_ignored():
    text = "\nexif\n9\n" + shared_tags(2_000, 100_000).hex()
    data = png_with(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text.encode("latin-1"))))
    assert load(data).notes == (DAMAGED_EXIF,)


# --- TIFF -------------------------------------------------------------------------------------------

STRUCTURE = "is a TIFF of more than 262144 strips or tiles, or its tags take more than the file itself; save it again"


def test_tiff_helper_makes_a_sound_file():
    assert load(tiff_with((40_000, 7, 100, 8), sub=[(40_001, 7, 100, 8)])).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize("data", [
    tiff_with(*((40_000 + i, 7, 10**6, 8) for i in range(100)), behind=bytes(10**6)),
    tiff_with(sub=[(40_000 + i, 7, 10**6, 8) for i in range(100)], behind=bytes(10**6)),
    tiff_with((273, 4, PIECES + 1, 8), behind=bytes(4 * PIECES + 4)),
    tiff_with((282, 5, 20_000, 8), behind=bytes(160_000)),
    tiff_with((40_000, 3, 2**21, 8), behind=bytes(2**22)),
], ids=["tags", "exif", "strips", "fractions", "numbers"])  # fmt: skip
def test_tags_that_ask_for_too_much_are_refused_unseen(data, no_decoder):
    with pytest.raises(ImageTooLarge, match=STRUCTURE):
        load(data)


def test_bounds_hold_for_big_endian_and_bigtiff():
    for order, mark in (("<", b"II"), (">", b"MM")):
        tags = [(40_000 + i, 7, 10**6, 8) for i in range(100)]
        data = mark + struct.pack(f"{order}HI", 42, 8) + directory(tags, order) + bytes(10**6)
        with pytest.raises(ImageTooLarge, match=STRUCTURE):
            load(data)
    tags = b"".join(struct.pack("<HHQQ", 40_000 + i, 7, 10**6, 16) for i in range(100))
    data = b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, 100) + tags + bytes(10**6)
    with pytest.raises(ImageTooLarge, match=STRUCTURE):
        load(data)


def test_directories_that_point_to_themselves_end():
    data = tiff_with(sub=[(34665, 4, 1, 200), (40965, 4, 1, 200)])
    (at,) = struct.unpack_from("<I", data, 4)
    looped = data.replace(struct.pack("<HHII", 40965, 4, 1, 200), struct.pack("<HHII", 40965, 4, 1, at))
    file = CountingFile(looped)
    check_structure(file, "it", 100)
    assert file.reads < 50


def test_layered_tiff_with_large_metadata_passes():
    body = bytes(3 * 10**6)
    data = tiff_with((37724, 7, len(body), 0))
    data = data.replace(
        struct.pack("<HHII", 37724, 7, len(body), 0), struct.pack("<HHII", 37724, 7, len(body), len(data))
    )
    assert load(data + body).pixels.shape == (8, 8, 3)


def test_tiles_that_reach_far_over_the_picture():
    # 1000 x 1 pixels in tiles of 16 x 500 000: each tile is below the limit, all together are 500 megapixels.
    tags = ((322, 4, 16), (323, 4, 500_000))
    with pytest.raises(ImageTooLarge, match="tiles of 16 x 500000 pixels, above the limit; save it without tiles"):
        load(tiff_of(np.zeros((1, 1000), np.uint8), photometric=1, extra=tags))


def test_bounds_are_what_the_module_promises():
    assert bounds.SCANS >= 18 * 1.5  # of CMYK, by the usual script
    assert PIECES > 40_000_000 / 256  # tiles of 16 x 16
    assert photo().shape == (24, 36, 3)


# --- JPEG 2000 --------------------------------------------------------------------------------------


def j2k(**options) -> bytes:
    return saved(Image.fromarray(photo(64, 64)), "JPEG2000", no_jp2=True, **options)


def claimed(data: bytes, width: int, height: int, **tile) -> bytes:
    """Claim another size, and tiles of another, in the marker SIZ of a codestream."""
    at = data.index(b"\xff\x51") + 6
    right, bottom = struct.pack(">I", width), struct.pack(">I", height)
    across, down = (struct.pack(">I", tile.get(side, size)) for side, size in (("across", width), ("down", height)))
    return data[:at] + right + bottom + data[at + 8 : at + 16] + across + down + data[at + 24 :]


def test_jpeg_2000_of_more_than_encoders_make_is_refused_unseen(no_decoder):
    sound = j2k()
    check_structure(io.BytesIO(claimed(sound, 8000, 5000)), "it", 40_000_000)
    check_structure(io.BytesIO(claimed(sound, 8000, 5000, across=256, down=256)), "it", 40_000_000)
    small = j2k(precinct_size=(256, 256), codeblock_size=(32, 32), quality_layers=[80, 40, 20, 10, 5, 1])
    check_structure(io.BytesIO(claimed(small, 8000, 5000)), "it", 40_000_000)
    for data in (
        claimed(sound, 8000, 5000, across=16, down=16),
        claimed(j2k(codeblock_size=(4, 4)), 8000, 5000),
        claimed(j2k(precinct_size=(16, 16), codeblock_size=(8, 8), quality_layers=[5, 4, 3, 2]), 8000, 5000),
    ):
        with pytest.raises(ImageTooLarge, match=r"JPEG 2000 of \d+ tiles, \d+ packets and \d+ blocks"):
            load(data)


def test_jpeg_2000_larger_than_its_box_says():
    data = saved(Image.fromarray(photo(64, 64)), "JPEG2000")
    with pytest.raises(ImageTooLarge, match="90000 x 90000 pixels and the limit is 40000000; make it smaller"):
        load(claimed(data, 90_000, 90_000))
