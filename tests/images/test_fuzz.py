"""Damaged files: whatever the bytes, `load` gives an image or raises ImageError, and nothing else."""

import functools
import io
import random
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image, ImageCms

from artmodels.errors import ImageError
from artmodels.images.loading import LoadedImage, load

LIMIT = 4_000_000  # a header that claims more is refused, and one that claims this much is still quick
BATCH = 500
MOST_CALLS = 100_000  # for one file: an ordinary one takes 900, the worst of the 2 000 here 12 000


def encoded(image: Image.Image, format: str, frames: int = 1, **options) -> bytes:
    out = io.BytesIO()
    # Copies, because Pillow leaves the settings of a save as JPEG on the image.
    more = {"save_all": True, "append_images": [image.rotate(90 * i) for i in range(1, frames)]} if frames > 1 else {}
    image.copy().save(out, format, **more, **options)
    return out.getvalue()


def tiff(values: np.ndarray, **options) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, values, metadata=None, **options)
    return out.getvalue()


@functools.cache
def seeds() -> list[bytes]:
    """Small valid files that reach the different decoders, colour types and metadata parsers."""
    noise = np.random.default_rng(0).integers(0, 256, (18, 24, 4), np.uint8)
    noise[6:, 8:] = 90
    rgb, rgba = Image.fromarray(noise[..., :3].copy()), Image.fromarray(noise)
    cmyk, grey = rgba.copy().convert("RGB").convert("CMYK"), rgb.convert("L")
    deep = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    palette = rgb.quantize(16)
    palette.info["transparency"] = bytes(range(0, 256, 16))
    pillow_heif.register_heif_opener()
    exif = Image.Exif()
    exif[274], exif[0x010F], exif[0x010E] = 6, "maker", "a description"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged = {"exif": exif, "icc_profile": icc}
    return [
        encoded(rgb, "PNG", **tagged),
        encoded(rgba, "PNG"),
        encoded(palette, "PNG"),
        encoded(deep, "PNG"),
        encoded(grey.convert("1"), "PNG"),
        encoded(rgb, "PNG", frames=3),
        encoded(rgb, "JPEG", **tagged),
        encoded(grey, "JPEG"),
        encoded(cmyk, "JPEG", progressive=True, icc_profile=icc),
        encoded(rgb, "MPO", frames=3),
        encoded(rgb, "WEBP", **tagged),
        encoded(rgba, "WEBP", lossless=True),
        encoded(rgb, "WEBP", frames=3),
        encoded(rgb, "TIFF", **tagged),
        encoded(rgba, "TIFF", compression="tiff_lzw"),
        encoded(rgb, "TIFF", compression="jpeg"),
        encoded(deep, "TIFF", compression="tiff_adobe_deflate"),
        encoded(Image.fromarray(noise[..., 0] / np.float32(255)), "TIFF"),
        encoded(cmyk, "TIFF", compression="packbits"),
        encoded(grey.convert("1"), "TIFF", compression="group4"),
        encoded(rgb, "TIFF", frames=3),
        encoded(rgb, "HEIF", exif=exif.tobytes()),
        encoded(rgba, "AVIF", icc_profile=icc, speed=10),
        encoded(rgb, "JPEG2000"),
        encoded(deep, "JPEG2000", no_jp2=True, tile_size=(16, 16)),
        tiff(noise[..., :3] / np.float32(255), photometric="rgb", compression="zlib", tile=(16, 16)),
        tiff(noise[..., :3].copy(), photometric="rgb", compression="jpeg2000", tile=(16, 16)),
        tiff(noise[..., :2].astype(np.uint16), photometric="minisblack", extrasamples=["unassalpha"], bigtiff=True),
        tiff(noise[..., :3].copy(), photometric="rgb", planarconfig="contig", subfiletype=1, compression="lzw"),
    ]


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8, 40))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 4, 100)))


def delete(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 4, 100))]


def edit_header(data: bytearray, rng: random.Random) -> None:
    """Put a number that breaks sums where sizes, counts and offsets are kept."""
    number = rng.choice((0, 1, 2, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1))
    packed = number.to_bytes(rng.choice((1, 2, 4)) if number < 256 else 4, rng.choice(("little", "big")))
    at = rng.randrange(min(len(data), 300))
    if data[:2] in (b"II", b"MM") and rng.random() < 0.7:  # TIFF keeps its directory at the end
        at = rng.randrange(max(0, len(data) - 300), len(data))
    data[at : at + len(packed)] = packed


def chunks_of(data: bytes) -> list[bytes]:
    """Cut at PNG chunks, RIFF chunks or JPEG markers; other files into eight equal parts."""
    cuts = [0]
    if data[:4] == b"\x89PNG":
        at = 8
        while at + 8 <= len(data):
            cuts.append(at)
            at += 12 + struct.unpack_from(">I", data, at)[0]
    elif data[:4] == b"RIFF":
        at = 12
        while at + 8 <= len(data):
            cuts.append(at)
            length = struct.unpack_from("<I", data, at + 4)[0]
            at += 8 + length + length % 2
    elif data[:2] == b"\xff\xd8":
        cuts += [i for i in range(2, len(data) - 1) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)]
    else:
        cuts = [len(data) * i // 8 for i in range(8)]
    return [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]


def swap_chunks(data: bytearray, rng: random.Random) -> None:
    """Exchange, repeat or drop whole chunks."""
    parts = chunks_of(bytes(data))
    a, b = rng.randrange(len(parts)), rng.randrange(len(parts))
    kind = rng.randrange(3)
    if kind == 0:
        parts[a], parts[b] = parts[b], parts[a]
    elif kind == 1:
        parts.insert(a, parts[b])
    else:
        del parts[a]
    data[:] = b"".join(parts)


def splice(data: bytearray, rng: random.Random) -> None:
    """Go on as another file."""
    other = rng.choice(seeds())
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


MUTATIONS = (flip_bits, flip_bits, truncate, insert, delete, edit_header, edit_header, swap_chunks, splice)


def with_valid_sums(data: bytes) -> bytes:
    """Mend the checksums of a PNG, so that the damage gets past them to the decoder."""
    parts = chunks_of(data)
    for i, part in enumerate(parts[1:], start=1):
        if len(part) >= 12:
            parts[i] = part[:-4] + struct.pack(">I", zlib.crc32(part[4:-4]))
    return b"".join(parts)


def mutated(index: int) -> bytes:
    """Give file number `index`: always the same bytes."""
    rng = random.Random(index)
    data = bytearray(seeds()[index % len(seeds())])
    for _ in range(rng.choice((1, 1, 2, 4))):
        if data:
            rng.choice(MUTATIONS)(data, rng)
    if data[:8] == b"\x89PNG\r\n\x1a\n" and rng.random() < 0.7:
        return with_valid_sums(bytes(data))
    return bytes(data)


class Work:
    """Counts the calls of Python and C functions of this thread: a loop that a file drives shows there."""

    calls = 0

    def _count(self, frame, event, argument):
        if event in ("call", "c_call"):
            self.calls += 1

    def __enter__(self):
        sys.setprofile(self._count)

    def __exit__(self, *_):
        sys.setprofile(None)


def test_work_counts_what_a_file_asks_for():
    ordinary, long = Work(), Work()
    data = seeds()[0]
    with ordinary:
        load(data, max_pixels=LIMIT)
    chunks = b"".join(struct.pack(">I4sI", 0, b"teSt", zlib.crc32(b"teSt")) for _ in range(1000))
    with long:
        load(data[:33] + chunks + data[33:], max_pixels=LIMIT)
    assert ordinary.calls < MOST_CALLS / 10
    assert long.calls > ordinary.calls + 4 * 1000


def outcome(index: int, folder: Path) -> str:
    """Load file number `index`, from memory or from disk, and check what comes of it."""
    data = mutated(index)
    source: bytes | Path = data
    if index % 3 == 0:  # libtiff reads a file by its descriptor, another path through the decoder
        source = folder / "file"
        source.write_bytes(data)
    work = Work()
    try:
        with work:
            got = load(source, max_pixels=LIMIT)
    except ImageError as error:
        assert str(error).startswith(("the image", repr(str(source)))), f"file {index}: {error}"
        return type(error).__name__
    finally:
        assert work.calls < MOST_CALLS, f"file {index} takes {work.calls} calls"
    assert isinstance(got, LoadedImage)
    assert got.pixels.dtype in (np.uint8, np.uint16), f"file {index}"
    assert got.pixels.shape == (got.height, got.width, 3), f"file {index}"
    assert 1 <= got.height * got.width <= LIMIT, f"file {index}"
    if got.alpha is not None:
        assert got.alpha.shape == got.pixels.shape[:2], f"file {index}"
        assert got.alpha.dtype == got.pixels.dtype, f"file {index}"
    assert all(isinstance(note, str) and note.endswith(".") for note in got.notes), f"file {index}"
    return "decoded"


def test_seeds_are_valid():
    for data in seeds():
        assert (load(data).height, load(data).width) in ((18, 24), (24, 18))


@pytest.mark.parametrize("start", range(0, 2_000, BATCH))
def test_mutated_files(start, tmp_path):
    counts = Counter(outcome(index, tmp_path) for index in range(start, start + BATCH))
    # A fuzzer that always or never gets through tests nothing.
    assert counts["decoded"] > BATCH // 10, counts
    assert counts["UndecodableImage"] > BATCH // 10, counts


@pytest.mark.slow
@pytest.mark.parametrize("start", range(2_000, 52_000, 5_000))
def test_many_mutated_files(start, tmp_path):
    counts = Counter(outcome(index, tmp_path) for index in range(start, start + 5_000))
    assert set(counts) >= {"decoded", "UndecodableImage", "ImageTooLarge"}, counts
