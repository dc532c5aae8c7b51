"""Collections of images to train on: found, split and cut the same way everywhere.

Nothing here depends on the order in which a file system lists its files, or on what ran before: a split follows from
the names of the files, and a batch from its generator.
"""

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.errors import DatasetError, ImageError, some
from artmodels.images.decoding import ACCEPTED

__all__ = ["Crops", "ImageSet", "fingerprint", "image_files", "is_hidden", "of_a_system", "split"]

logger = logging.getLogger(__name__)

SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".btf", ".tf8", ".heic", ".heif", ".hif")
    + (".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx")
)
# Pictures of kinds that are not read, which somebody may miss.
_OTHERS = frozenset(
    (".bmp", ".gif", ".psd", ".psb", ".svg", ".pdf", ".eps", ".ai", ".jxl", ".jxr", ".exr", ".hdr", ".tga", ".ico")
    + (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".djvu", ".xcf", ".ppm", ".pgm")
)
# What systems, storage boxes and programs add by themselves: nobody misses it.
_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "@eadir", "#recycle", "$recycle.bin", "@recycle", "@recently-snapshot", "#snapshot", "lost+found"}
    | {"system volume information", ".trash", ".trashes", ".thumbnails"}
)
_SYSTEM_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini", "ehthumbs.db"})
_HEAD = 16  # bytes that tell a picture without an ending
_HEADS = re.compile(
    rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|II[*+]\0|MM\0[*+]|....ftyp(hei|hev|mif1|avi)|....jP  ", re.DOTALL
)


def of_a_system(path: PurePath) -> bool:
    """Tell whether a file, by its path inside a collection, was added by a system: a thumbnail, trash, a twin."""
    parts, name = {part.casefold() for part in path.parts}, path.name.casefold()
    return bool(_SYSTEM_FOLDERS & parts) or name in _SYSTEM_FILES or name.startswith("._")


def is_hidden(path: PurePath) -> bool:
    """Tell whether a file, by its path inside a collection, is hidden or in a hidden folder."""
    return any(part.startswith(".") and part != ".." for part in path.parts)


def image_files(root: Path, folders: Iterable[str] = (".",)) -> list[Path]:
    """Every image file below some folders of `root`, sorted by its path; a DatasetError where there is none.

    A file without an ending counts if it begins as a picture does. What systems add does not count, nor does what is
    hidden; the log names pictures of kinds that are not read.
    """
    found, others = set[Path](), set[Path]()
    for name in folders:
        folder = root / name
        if not folder.is_dir():
            raise DatasetError(f"There is no folder {folder}: name the folder that holds the images.")
        for path in folder.rglob("*"):
            inside, suffix = path.relative_to(folder), path.suffix.lower()
            if of_a_system(inside) or is_hidden(inside) or not path.is_file():
                continue
            if suffix in SUFFIXES or (not suffix and _looks_like_one(path)):
                found.add(path)
            elif suffix in _OTHERS:
                others.add(path)
    if others:
        names = sorted(str(path.relative_to(root)) for path in others)
        logger.warning("%s: left out, because their kind is not read: %s", root, some(names))
    if not found:
        raise DatasetError(f"{root} holds no image in {', '.join(folders)}: {ACCEPTED} are read.")
    return sorted(found)


def _looks_like_one(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _HEADS.match(file.read(_HEAD)) is not None
    except OSError:
        return False


def split(files: Sequence[Path], held_out: int = 10) -> tuple[list[Path], list[Path]]:
    """Put about one file in `held_out` aside, by a hash of its name: (to train on, held out).

    A file stays on its side when others come or go.
    """
    parts: tuple[list[Path], list[Path]] = ([], [])
    for path in files:
        digest = hashlib.sha256(path.name.encode()).digest()
        parts[int.from_bytes(digest[:4], "big") % held_out == 0].append(path)
    return parts


def fingerprint(files: Sequence[Path]) -> str:
    """The sha256 of the names and contents of files, in their order: what a recipe says it was trained on."""
    total = hashlib.sha256()
    for path in files:
        total.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@dataclass(frozen=True)
class ImageSet:
    """Decoded images in memory, uint8 [3, H, W] each, with their shorter side at most `side`."""

    images: tuple[Tensor, ...]

    @classmethod
    def load(cls, files: Sequence[Path], *, side: int) -> "ImageSet":
        """Decode and reduce files; what cannot be read is left out, and the log says so. Not all may be."""
        kept = list[Tensor]()
        for path in files:
            try:
                pixels = images.load(path).tensor()
            except ImageError as error:
                logger.warning("%s is left out: %s", path, error)
                continue
            ratio = side / min(pixels.shape[-2:])
            if ratio < 1:
                size = [max(side, round(length * ratio)) for length in pixels.shape[-2:]]
                pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
            kept.append((pixels[0] * 255).round().to(torch.uint8))
        if not kept:
            raise DatasetError(f"None of {len(files)} files could be read as an image.")
        return cls(tuple(kept))


@dataclass(frozen=True, kw_only=True)
class Crops:
    """How batches are cut from images."""

    size: int  # side of a crop in pixels
    smallest: float = 0.4  # least share of the shorter side that a crop covers; 1 takes it whole
    flips: bool = True  # whether half of the crops are mirrored
    jitter: float = 0.0  # range of the changes of brightness, contrast and saturation: 0.3 is up to 30 %
    grounds: float = 0.0  # share of crops whose upper part, or all, is an even or graded colour: a sky, a wall

    def __call__(self, images: ImageSet, count: int, rng: torch.Generator) -> Tensor:
        """Draw `count` crops, [count, 3, size, size] in [0, 1]."""
        return torch.cat([self._one(images, rng) for _ in range(count)])

    def _one(self, images: ImageSet, rng: torch.Generator) -> Tensor:
        index = int(torch.randint(len(images.images), (), generator=rng))
        pixels = images.images[index]
        share, across, down, mirror, light, contrast, colour = torch.rand(7, generator=rng).tolist()
        shorter = min(pixels.shape[-2:])
        # Evenly in the logarithm, as scales go; never so small that it would have to be enlarged, if that can be.
        least = min(shorter, max(self.size, round(self.smallest * shorter)))
        side = min(shorter, max(1, round(least * (shorter / least) ** share)))
        top = round(down * (pixels.shape[-2] - side))
        left = round(across * (pixels.shape[-1] - side))
        crop = pixels[None, :, top : top + side, left : left + side].float() / 255
        if side != self.size:
            crop = F.interpolate(crop, (self.size, self.size), mode="bilinear", antialias=True)
        if self.flips and mirror < 0.5:
            crop = crop.flip(-1)
        if self.jitter:
            grey = crop.mean(1, keepdim=True)
            crop = grey + (crop - grey) * (1 + self.jitter * (2 * colour - 1))
            mean = crop.mean()
            crop = (crop - mean) * (1 + self.jitter * (2 * contrast - 1)) + mean * (1 + self.jitter * (2 * light - 1))
            crop = crop.clamp(0, 1)
        if self.grounds and float(torch.rand((), generator=rng)) < self.grounds:
            crop = _with_ground(crop, rng)
        return crop


def _with_ground(crop: Tensor, rng: torch.Generator) -> Tensor:
    """A crop [1, 3, H, W] below an even or graded ground with a little noise, whose edge lies anywhere but on top."""
    top, bottom = torch.rand(2, 1, 3, 1, 1, generator=rng)
    grey, even, edge = torch.rand(3, generator=rng).tolist()
    if grey < 0.4:
        top, bottom = top.mean().expand_as(top), bottom.mean().expand_as(bottom)
    if even < 0.4:
        bottom = top
    down = torch.linspace(0, 1, crop.shape[-2]).view(1, 1, -1, 1)
    ground = torch.lerp(top, bottom, down) + 0.01 * torch.randn(crop.shape, generator=rng)
    return torch.lerp(ground, crop, torch.sigmoid((down - 0.3 - 0.7 * edge) * 60)).clamp(0, 1)
