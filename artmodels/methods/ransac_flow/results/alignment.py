"""Two pictures brought onto each other: where each pixel of the one is in the other, and how sure that is."""

import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.correspondence import geometry
from artmodels.errors import ArtModelsError, ConfigError
from artmodels.files import write_whole
from artmodels.images.decoding import LoadedImage
from artmodels.images.resampling import resized
from artmodels.images.results import ImageResult

__all__ = ["Alignment", "Places", "Warp", "animated", "opencv", "save_data"]

STRIP = 2**20  # pixels that are warped at a time
OCTAVE_STEPS = 2  # sizes of the source per halving, of which the next larger is read
ANIMATED = 1000  # px: longest side of a moving picture, which is large in bytes
SECONDS, LOOPS = 0.5, 4  # that each of two pictures is shown, and how often in a video
VIDEO = ("mp4v", 20.0)  # codec, pictures a second
PALE = 0.25  # of the target's strength where there is nothing to show


@dataclass(frozen=True, eq=False)
class Warp:
    """Where the target's pixels are in the source, whatever their number: transforms, and what to add before them.

    Attributes:
        matrices: [K, 3, 3] float64, from relative target to relative source coordinates, in the order found.
        which: [h, w] int64, the transform of each place.
        displacement: [2, h, w], added to the relative target coordinates before the transform; 0 in the coarse warp.
    """

    matrices: Tensor
    which: Tensor
    displacement: Tensor

    @classmethod
    def of(cls, matrix: Tensor, height: int, width: int) -> "Warp":
        """One transform and nothing else, at a working size."""
        return cls(matrix[None], torch.zeros(height, width, dtype=torch.int64), torch.zeros(2, height, width))

    def at(self, places: Tensor) -> Tensor:
        """Places [..., 2] of the target, relative, to those of the source."""
        flat = places.reshape(1, -1, 1, 2).float()
        moved = F.grid_sample(self.displacement[None], flat, padding_mode="border", align_corners=False)[0, :, :, 0].T
        kept = self.which[None, None].float()
        which = F.grid_sample(kept, flat, mode="nearest", padding_mode="border", align_corners=False).flatten()
        inner = (flat[0, :, 0] + moved).clamp(-1, 1)
        found = geometry.apply(self.matrices[0].float(), inner)
        for number in range(1, len(self.matrices)):
            found = torch.where((which == number)[:, None], geometry.apply(self.matrices[number].float(), inner), found)
        return found.view(places.shape)

    def strips(self, height: int, width: int) -> Iterator[tuple[slice, Tensor]]:
        """Grids [rows, width, 2] for a target of any size, some rows at a time."""
        step = max(1, STRIP // width)
        for top in range(0, height, step):
            rows = slice(top, top + step)
            yield rows, self.at(geometry.identity(height, width, rows))

    def grid(self, height: int, width: int) -> Tensor:
        """The whole grid [height, width, 2]."""
        return torch.cat([grid for _, grid in self.strips(height, width)])

    def scale(self, height: int, width: int, source: tuple[int, int]) -> float:
        """Pixels of the source, (width, height), per pixel of a target of that size, along a side, at the centre."""
        matrix = geometry.to_pixels(self.matrices[0], (width, height), source)
        centre = matrix.new_tensor([width, height]) / 2
        ends = geometry.apply(matrix, matrix.new_tensor([[0.0, 0.0], [1, 0], [0, 1]]) + centre)
        (a, b), (c, d) = (ends[1:] - ends[:1]).tolist()
        return math.sqrt(abs(a * d - b * c))

    def read(self, source: Tensor, height: int, width: int, *, cubic: bool = True) -> tuple[Tensor, Tensor]:
        """Read a source [1, C, H, W] at the pixels of a target of any size, some rows at a time.

        What is reduced much is filtered first, so that nothing is skipped.

        Returns:
            [1, C, height, width], white outside the source, and [height, width] bool, where it is inside.
        """
        octaves = torch.tensor(max(self.scale(height, width, (source.shape[3], source.shape[2])), 1.0)).log2()
        factor = 2.0 ** (-float((octaves * OCTAVE_STEPS).floor()) / OCTAVE_STEPS)
        if factor < 1:
            source = resized(source, (max(1, round(source.shape[2] * factor)), max(1, round(source.shape[3] * factor))))
        made = source.new_empty(1, source.shape[1], height, width)
        within = torch.empty(height, width, dtype=torch.bool)
        mode = "bicubic" if cubic else "bilinear"
        for rows, grid in self.strips(height, width):
            inside = geometry.inside(grid)
            read = F.grid_sample(source, grid[None], mode=mode, padding_mode="border", align_corners=False)
            made[:, :, rows] = torch.where(inside, read.clamp_(0, 1), 1.0)
            within[rows] = inside
        return made, within


@dataclass(frozen=True, eq=False)
class Places:
    """Where points of the target are in the source."""

    source: Tensor  # [n, 2], pixels of the source; the centre of its first pixel is (0.5, 0.5)
    matchability: Tensor  # [n] in [0, 1]
    inside: Tensor  # [n] bool, whether the source reaches there


@dataclass(frozen=True, kw_only=True)
class Alignment(ImageResult):
    """The source, warped onto the target; or, where none was found, the pale target, and `reason` says why.

    Attributes:
        pictures: Source and target, as they were read.
        view: How the source had to be turned to look like the target, "" for not at all.
        warp: None where no alignment was found.
        matchability: [h, w] in [0, 1] at the working size: how far a place can be matched; 0 outside the source.
        error: [h, w], distance in pixels of the working target between a place and where it comes back to, from target
            to source and back.
        inliers: Matches that agree on the first transform.
        matches: Of all cells.
        certainty: Minus the decimal logarithm of how many transforms that fit so well are to be expected by chance.
        reason: Why there is no alignment, or "".
    """

    pictures: tuple[LoadedImage, LoadedImage] = field(repr=False)
    view: str = ""
    warp: Warp | None = field(default=None, repr=False)
    matchability: Tensor = field(repr=False)
    error: Tensor = field(repr=False)
    inliers: int = 0
    matches: int = 0
    certainty: float = -math.inf
    reason: str = ""

    @property
    def found(self) -> bool:
        """Whether the pictures could be aligned."""
        return self.warp is not None

    @property
    def score(self) -> float:
        """Share of the matches that agree, in [0, 1]."""
        return self.inliers / self.matches if self.matches else 0.0

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(width, height) of source and target."""
        source, target = self.pictures
        return (source.width, source.height), (target.width, target.height)

    @property
    def matrices(self) -> Tensor:
        """Homographies [K, 3, 3] from pixels of the target to those of the source, centres of pixels being integers."""
        return geometry.to_pixels(self.sound.matrices, self.sizes[1], self.sizes[0])

    @property
    def sound(self) -> Warp:
        """The warp.

        Raises:
            ConfigError: There is no alignment.
        """
        if self.warp is None:
            raise ConfigError(f"there is no alignment to use ({self.reason}): look at `found` first")
        return self.warp

    def save(self, path: str | os.PathLike[str], *, quality: int | None = None) -> None:
        """Write the warped source (.png, .jpg, .webp), its flow (.npz), or target and source in turn (.gif, .mp4).

        `quality`, 1 to 100, is that of JPEG and WebP; None is 92.

        Raises:
            ArtModelsError: It cannot be written, or there is no alignment: then nothing is.
            ConfigError: The name has another ending.
        """
        target = Path(path)
        if not self.found:
            raise ArtModelsError(f"no alignment was found, and nothing is written: {self.reason}")
        match target.suffix.lower():
            case ".png" | ".jpg" | ".jpeg" | ".webp":
                super().save(target, quality=quality)
            case ".npz":
                save_data(self, target)
            case ".gif" | ".mp4":
                animated(self, target)
            case _:
                raise ConfigError(f"{str(target)!r} does not end in .png, .jpg, .webp, .npz, .gif or .mp4")

    @cached_property
    def coarse(self) -> "Image.Image":
        """The source moved by the transforms alone."""
        warp = self.sound
        plain = replace(warp, displacement=torch.zeros_like(warp.displacement))
        source, target = self.pictures
        return images.to_pil(plain.read(source.tensor(), target.height, target.width)[0])

    def without_pixels(self) -> "Alignment":
        """The same without the pixels of its pictures: small enough to be kept, and enough for sizes and `places`."""
        blank = (LoadedImage(np.broadcast_to(np.uint8(0), (height, width, 3))) for width, height in self.sizes)
        return replace(self, pictures=(next(blank), next(blank)), tensor=self.tensor[..., :1, :1].clone())

    def grid(self, height: int | None = None, width: int | None = None) -> Tensor:
        """Relative source coordinates [H, W, 2] of each pixel of a target of any size; None takes its own."""
        return self.sound.grid(height or self.sizes[1][1], width or self.sizes[1][0])

    def flow(self, height: int | None = None, width: int | None = None) -> Tensor:
        """What is to be added to a target's pixel to be at its place in the source, [H, W, 2], in pixels of each."""
        grid = self.grid(height, width)
        rows, columns = grid.shape[:2]
        here = geometry.identity(rows, columns) + 1
        return (grid + 1) / 2 * torch.tensor(self.sizes[0]) - here / 2 * torch.tensor([columns, rows])

    def places(self, points: Tensor) -> Places:
        """Find points of the target in the source.

        Args:
            points: [n, 2], x and y in pixels of the target; the centre of its first pixel is (0.5, 0.5).

        Raises:
            ConfigError: There is no alignment, or a point is outside the target.
        """
        warp, size = self.sound, torch.tensor(self.sizes[1])
        points = torch.as_tensor(points, dtype=torch.float32).reshape(-1, 2)
        if bool(((points < 0) | (points > size)).any()):
            bounds = f"x from 0 to {size[0]} and y from 0 to {size[1]}"
            raise ConfigError(f"A point lies outside the target: give {bounds}, in pixels of the target.")
        relative = points / size * 2 - 1
        found = warp.at(relative)
        trust = F.grid_sample(
            self.matchability[None, None], relative[None, None], padding_mode="border", align_corners=False
        )
        return Places((found + 1) / 2 * torch.tensor(self.sizes[0]), trust.flatten(), geometry.inside(found))


# --- as files


def save_data(alignment: Alignment, path: Path) -> None:
    """Write the alignment as numbers, whole or not at all: a compressed .npz.

    `flow` [H, W, 2] float32 is to be added to a pixel (x, y) of the target for its place in the source, in pixels;
    `inside` [H, W] bool says whether the source reaches there; `matchability` and `error` [h, w] float32 are at the
    working size; `homographies` [K, 3, 3] float64 go from pixels of the target to pixels of the source; `which` [h, w]
    uint8 is the one that holds at each place; `source_size` and `target_size` are width and height.

    Raises:
        ArtModelsError: It cannot be written.
        ConfigError: There is no alignment.
    """
    out = io.BytesIO()
    np.savez_compressed(
        out,
        allow_pickle=False,
        flow=alignment.flow().numpy(),
        inside=geometry.inside(alignment.grid()).numpy(),
        matchability=alignment.matchability.numpy(),
        error=alignment.error.numpy(),
        homographies=alignment.matrices.numpy(),
        which=alignment.sound.which.numpy().astype(np.uint8),
        source_size=np.array(alignment.sizes[0]),
        target_size=np.array(alignment.sizes[1]),
    )
    write_whole({path: out.getvalue()})


def animated(alignment: Alignment, path: Path) -> None:
    """Write target and source in turn, which shows the eye what differs.

    The path ends in .gif, which goes on for ever, or in .mp4, which needs OpenCV and is much smaller.

    Raises:
        ArtModelsError: It cannot be written.
        ConfigError: There is no alignment, or OpenCV is missing.
    """
    _ = alignment.sound
    frames = [alignment.pictures[1].pil(), alignment.image]
    for frame in frames:
        frame.thumbnail((ANIMATED, ANIMATED))
    if path.suffix.lower() == ".mp4":
        _video(frames * LOOPS, path)
        return
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 * SECONDS), loop=0)
    write_whole({path: out.getvalue()})


def _video(frames: Sequence[Image.Image], path: Path) -> None:
    cv2 = opencv("an .mp4, unlike a .gif, needs")
    codec, rate = VIDEO
    size = frames[0].width // 2 * 2, frames[0].height // 2 * 2  # as the codec wants
    temporary = path.with_name(f".{path.stem}.tmp.mp4")
    try:
        writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*codec), rate, size)
        if not writer.isOpened():
            raise ConfigError(f"{path} cannot be written: check that the folder exists, or write a .gif")
        for frame in frames:
            pixels = np.asarray(frame.resize(size))[..., ::-1]
            for _ in range(round(SECONDS * rate)):
                writer.write(pixels)
        writer.release()
        write_whole({path: temporary.read_bytes()})
    finally:
        temporary.unlink(missing_ok=True)


def opencv(what: str) -> ModuleType:
    """OpenCV, which is not installed with the package.

    Raises:
        ConfigError: It is missing; `what` is how the message begins, such as "KITTI's flow needs".
    """
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(f"{what} OpenCV: pip install 'artmodels[align]'") from error
    module: ModuleType = cv2
    return module
