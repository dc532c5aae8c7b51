"""Pictures two or four times as large."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.errors import ConfigError, ImageTooLarge
from artmodels.images.decoding import Array
from artmodels.images.resampling import one_or_each
from artmodels.images.results import ImageResult
from artmodels.methods.super_resolution.condition import LUMA, paper_of, yellow_of
from artmodels.methods.super_resolution.model import SuperResolutionConfig, make_network
from artmodels.runtime.feedforward import FeedForward, Graph

__all__ = ["SuperResolution", "Upscaled"]

logger = logging.getLogger(__name__)

LARGEST = 200_000_000  # pixels of a result: a scan of 6000 x 8000 twice as large
TILES = (32, 2048)  # px: smaller ones are all border, larger ones need gigabytes
SURE = 8 / 255  # alpha below which 8 bits tell a colour too coarsely to count whole
LEAST = 1e-6  # alpha or weight that is above 0
LEAST_YELLOW = 3.0  # b* of paper that is white
RRDB_TILE = 256  # px: sixteen times as many at its last layers, of 64 channels each


@dataclass(frozen=True, kw_only=True)
class Upscaled(ImageResult):
    """An enlarged picture, with the transparency and the depth of the one that it was made from.

    Attributes:
        alpha: [1, 1, H, W] in [0, 1], 0 transparent, where the picture had transparency; `tensor` is on white.
        colour: [1, 3, H, W] in [0, 1], what `tensor` was before it lay on white.
        bits: 16 where the picture was read with 16 bits a channel, otherwise 8.
    """

    alpha: Tensor | None = field(default=None, repr=False)
    colour: Tensor | None = field(default=None, repr=False)
    bits: int = 8

    @property
    def image(self) -> Image.Image:
        """The picture as 8-bit RGB, or RGBA where it has transparency."""
        return Image.fromarray(self._pixels(8))

    def save(self, path: str | os.PathLike[str], *, quality: int | None = None, bits: int | None = None) -> None:
        """Write a file that carries its settings and notes; it appears whole or not at all.

        What a format does not hold is lost, and the log says so: JPEG has no transparency, and the picture lies on
        white; JPEG and WebP have 8 bits a channel.

        Args:
            path: File to write, which ends in `.png`, `.jpg`, `.jpeg` or `.webp`, in a folder that exists.
            quality: 1 to 100, of JPEG and WebP; a WebP of 100 is without loss. None is 92.
            bits: 8 or 16 a channel; None keeps those of the picture. Grey pictures are stored as grey if 16.

        Raises:
            ConfigError: `bits` or `quality` is another number, or the path has another ending.
            ArtModelsError: The file could not be written.
        """
        png, jpeg = Path(path).suffix.lower() == ".png", Path(path).suffix.lower() in (".jpg", ".jpeg")
        bits = self.bits if bits is None and png else bits or 8
        if bits not in (8, 16) or (bits == 16 and not png):
            raise ConfigError(f"bits={bits!r} must be 8, or 16 for a .png")
        if not png and self.bits == 16:
            logger.warning("%s has 8 bits a channel, of the 16 that there are: .png keeps them", path)
        pixels = self._pixels(bits)
        if jpeg and self.alpha is not None:
            logger.warning("%s has no transparency, and the picture lies on white: .png and .webp keep it", path)
            pixels = np.asarray(super().image)
        grey = bits == 16 and pixels.shape[2] == 3 and bool((pixels == pixels[..., :1]).all())
        deep_colour = bits == 16 and not grey
        image = pixels if deep_colour else Image.fromarray(pixels[..., 0] if grey else pixels)
        images.save(image, path, metadata=self.metadata, origin=self.origin, quality=quality)

    def _pixels(self, bits: int) -> Array:
        """[H, W, 3 or 4] of 8 or 16 bits; colours of transparent pixels are those before they lay on white."""
        colour = self.tensor[0]
        if self.alpha is not None and self.colour is not None:
            colour = torch.cat([self.colour[0], self.alpha[0]])
        most = 2**bits - 1
        whole = colour.clamp(0, 1).mul(most).round().to(torch.int32).permute(1, 2, 0).contiguous().numpy()
        return whole.astype(np.uint8 if bits == 8 else np.uint16)


class SuperResolution(FeedForward[SuperResolutionConfig]):
    """Enlarge pictures by the factor of the checkpoint.

    SRVGG of Wang et al. 2021, "Real-ESRGAN" (arXiv:2107.10833), or RRDB of Wang et al. 2018, "ESRGAN"
    (arXiv:1809.00219).

        >>> upscale = SuperResolution.from_pretrained("x2")
        >>> large = upscale("photo.jpg")
        >>> large.image.size
        (256, 192)
        >>> large.save("large.png")
    """

    method = "super_resolution"
    config_class = SuperResolutionConfig

    @classmethod
    def _computed(
        cls, config: SuperResolutionConfig, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> torch.dtype:
        """As for every feed-forward method, but RRDB's activations may pass what float16 can hold: all black."""
        usual = torch.float32 if config.architecture == "rrdb" else None
        return super()._computed(config, device, dtype or usual)

    @property
    def largest(self) -> int:
        """Pixels that it takes of a picture."""
        return LARGEST // self.config.scale**2

    @classmethod
    def _network(cls, config: SuperResolutionConfig) -> Graph:
        return make_network(config)

    # A text, which is a path, would be a sequence of texts too; it never comes here as one.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, image: Sequence[images.Source], *, tile: int | None = ..., neutral: float = ..., progress: bool = ...
    ) -> list[Upscaled]: ...
    @overload
    def __call__(
        self, image: images.Source, *, tile: int | None = ..., neutral: float = ..., progress: bool = ...
    ) -> Upscaled: ...
    def __call__(
        self,
        image: images.Source | Sequence[images.Source],
        *,
        tile: int | None = None,
        neutral: float = 0.0,
        progress: bool = False,
    ) -> Upscaled | list[Upscaled]:
        """Enlarge one picture, or each of a list, to `scale` times the height and the width.

        Grey pictures stay grey; transparency is enlarged by the same network; 16 bits a channel are kept.

        Args:
            image: What `artmodels.images.load` reads, or a list of such.
            tile: Side in pixels of the squares that a large picture is cut into, 32 to 2048; a smaller one needs less
                memory, and none shows. Tiles that could not hold the overlap twice are made larger. None picks.
            neutral: How much of the yellow of old paper is taken off, from 0, which keeps all colours, to 1. The paper
                is what is brightest: leave a painting as it is, nothing tells its ochre from yellowed white.
            progress: Show a bar, for lists.

        Raises:
            ConfigError: `tile` or `neutral` is out of range.
            ImageError: The picture cannot be read.
            ImageTooLarge: The result would have more than 200 megapixels.
        """
        if tile is not None and (not isinstance(tile, int) or not TILES[0] <= tile <= TILES[1]):
            raise ConfigError(f"tile={tile!r} must be a whole number from {TILES[0]} to {TILES[1]}")
        if not isinstance(neutral, int | float) or not 0 <= neutral <= 1:
            raise ConfigError(f"neutral={neutral!r} must be at least 0 and at most 1")
        return one_or_each(image, lambda source: self._run_one(source, tile, neutral), progress=progress)

    def _run_one(self, source: images.Source, tile: int | None, neutral: float) -> Upscaled:
        start = time.perf_counter()
        loaded = images.load(source, max_pixels=max(images.LIMIT, self.largest), background=None)
        scale = self.config.scale
        height, width = loaded.height * scale, loaded.width * scale
        if height * width > LARGEST:
            raise ImageTooLarge(
                f"the result would have {width} x {height} = {height * width / 1e6:.1f} megapixels and the limit is "
                f"{LARGEST / 1e6:g}: enlarge a part of the picture, or reduce it to {LARGEST / scale**2 / 1e6:g} "
                "megapixels first"
            )
        notes = list(loaded.notes)
        deep = loaded.pixels.dtype == np.uint16
        if deep and self.dtype in (torch.float16, torch.bfloat16):
            name = str(self.dtype).removeprefix("torch.")
            notes.append(f"It was computed in {name}, coarser than its 16 bits: pass dtype=torch.float32 to keep them.")
        if tile is None and self.config.architecture == "rrdb":
            tile = RRDB_TILE
        alpha, colour, seen = None, None, loaded.pixels
        picture = loaded.tensor()
        if loaded.alpha is not None:
            small = torch.from_numpy(loaded.alpha.astype(np.float32) / np.iinfo(loaded.alpha.dtype).max)[None, None]
            seen = loaded.pixels[loaded.alpha > 0]
            picture = _spread(_straight(picture, small, loaded.background), small)
            alpha = self._alpha(small, tile)
        tensor = self._infer(picture, tile=tile)
        if neutral:
            tensor, note = _neutralised(tensor, picture, neutral)
            notes.append(note)
        if bool((seen == seen[..., :1]).all()):
            tensor = tensor.mean(1, keepdim=True).expand(-1, 3, -1, -1)
        if alpha is not None:
            colour = tensor
            tensor = colour * alpha + (1 - alpha)
        result = self._result(
            tensor, options={"tile": tile, "neutral": neutral}, start=start, notes=notes, origin=loaded.origin
        )
        return Upscaled(**vars(result), alpha=alpha, colour=colour, bits=16 if deep else 8)

    def _alpha(self, alpha: Tensor, tile: int | None) -> Tensor:
        """Enlarge [1, 1, H, W] in [0, 1] to [1, 1, H * scale, W * scale], as a grey picture."""
        # A network overshoots beside edges: what is opaque or transparent all around stays so, to the last bit.
        least, most = (
            F.interpolate(sign * F.max_pool2d(sign * alpha, 3, 1, 1), scale_factor=self.config.scale, mode="nearest")
            for sign in (-1, 1)
        )
        if torch.equal(least, most):
            return least
        found = self._infer(alpha.expand(-1, 3, -1, -1), tile=tile).mean(1, keepdim=True)
        return found.clamp(least, most)


def _neutralised(made: Tensor, picture: Tensor, share: float) -> tuple[Tensor, str]:
    """Take so much of the yellow of a picture's paper off what was made of it, [1, 3, H, W] each; and what was done.

    Channels are scaled so that the paper becomes grey of the same luma (von Kries 1902): black stays black.
    """
    paper = paper_of(picture)
    yellow = yellow_of(paper)
    if yellow <= LEAST_YELLOW:
        return made, "No yellow paper was found: the colours are as they were."
    tone = made.new_tensor(paper).clamp_min(LEAST)
    gain = ((tone * tone.new_tensor(LUMA)).sum() / tone) ** share
    note = f"The brightest part was taken for paper (b* {yellow:.0f}), and {share:.0%} of its yellow was taken off."
    return (made * gain.view(1, 3, 1, 1)).clamp(0, 1), note


def _straight(colour: Tensor, alpha: Tensor, background: tuple[int, int, int] | None) -> Tensor:
    """The colours [1, 3, H, W] before they lay on a background: of little alpha, less exact than stored ones."""
    if background is None or float(alpha.min()) == 1:
        return colour
    under = colour.new_tensor(background).view(1, 3, 1, 1) / 255
    over = (colour - (1 - alpha) * under) / alpha.clamp_min(LEAST)
    return over.clamp(0, 1)


def _spread(colour: Tensor, alpha: Tensor) -> Tensor:
    """Colours [1, 3, H, W] that go on where nothing is seen, so that what lies there cannot fringe what is seen.

    Pull and push of Gortler et al. 1996, "The Lumigraph", section 3.4: means of twice as large squares fill what has
    less than its full weight. Opaque colours stay as they are, and a constant one stays constant.
    """
    return _filled(colour, (alpha / SURE).clamp(max=1)) if float(alpha.max()) > 0 else colour


def _filled(colour: Tensor, weight: Tensor) -> Tensor:
    if float(weight.min()) == 1 or max(weight.shape[2:]) == 1:
        return colour
    known, share = (F.avg_pool2d(plane, 2, ceil_mode=True) for plane in (colour * weight, weight))
    coarse = _filled(known / share.clamp_min(LEAST), (4 * share).clamp(max=1))
    return torch.lerp(F.interpolate(coarse, weight.shape[2:], mode="bilinear"), colour, weight)
