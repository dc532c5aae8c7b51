"""Fit images to what a network accepts, and run large images in overlapping tiles.

A network says what it accepts as data (`SizeRequirements`, `Tiling`); padding, cropping back and tiling are done here
and nowhere else. Tensors are `[N, C, H, W]`.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import torch
import torch.nn.functional as F

from artmodels.errors import ConfigError
from artmodels.settings import Count, Settings

__all__ = ["SizeRequirements", "Tiling", "fit_run", "tiled"]

ImageFunction = Callable[[torch.Tensor], torch.Tensor]


class Tiling(StrEnum):
    """Whether a network may be run tile by tile."""

    SUPPORTED = "supported"  # each output pixel depends on its surroundings only
    DISCOURAGED = "discouraged"  # statistics of the whole image matter: tiles may differ in tone
    INTERNAL = "internal"  # it splits the image itself, or needs it whole: never tile it from outside


@dataclass(frozen=True, kw_only=True)
class SizeRequirements(Settings):
    """The input sizes that a network accepts."""

    minimum: Annotated[Count, "Least height and width in pixels."] = 1
    multiple_of: Annotated[Count, "What height and width are multiples of."] = 1
    square: Annotated[bool, "Whether height equals width."] = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Give the smallest accepted (height, width) that holds an image of this size."""
        if self.square:
            height = width = max(height, width)
        return self._side(height), self._side(width)

    def _side(self, length: int) -> int:
        return -(-max(length, self.minimum) // self.multiple_of) * self.multiple_of

    def pad(self, x: torch.Tensor) -> torch.Tensor:
        """Pad a non-empty `[N, C, H, W]` at the bottom and right to an accepted size, or give it back if it has one.

        Pixels are reflected; along an axis where the padding is as long as the image or longer, the last row
        or column is repeated instead, because there is not enough to reflect.
        """
        if x.dim() != 4 or x.numel() == 0:
            raise ConfigError(f"the input has shape {tuple(x.shape)}; give a non-empty [N, C, H, W]")
        height, width = self.size(*x.shape[2:])
        for axis, more in ((3, width - x.shape[3]), (2, height - x.shape[2])):
            if more > 0:
                mode = "reflect" if more < x.shape[axis] else "replicate"
                x = F.pad(x, (0, more, 0, 0) if axis == 3 else (0, 0, 0, more), mode=mode)
        return x


def fit_run(fn: ImageFunction, x: torch.Tensor, requirements: SizeRequirements, scale: int = 1) -> torch.Tensor:
    """Run `fn` on any image size: pad to what it accepts, run, and crop back.

    `fn` takes `[N, C, H, W]` of the sizes that the requirements name, and gives `[N, C', H * scale, W * scale]`; what
    is returned is that for the size of `x` itself. A ConfigError says that `x` has no such shape, that `scale` is below
    1, or that `fn` returned another size.
    """
    _at_least(1, scale=scale)
    return _cropped(_run(fn, requirements.pad(x), scale), x, scale)


def tiled(
    fn: ImageFunction, x: torch.Tensor, *, tile: int, overlap: int, scale: int = 1, multiple_of: int = 1
) -> torch.Tensor:
    """Run `fn` on overlapping tiles and blend them with raised-cosine ramps.

    Along each axis two neighbouring tiles share at least `overlap` pixels. The hand-over from one to the
    other is a ramp of `overlap / 2` pixels in the middle of what they share; the weights of all tiles sum to
    one everywhere, and are zero within `overlap / 4` pixels of a cut. Tiles end where the image ends, and
    start at multiples of `multiple_of`. This guarantees, up to float rounding:

    - a pointwise `fn` gives what it gives on the whole image;
    - so does a local `fn` (convolutions, also strided ones where `multiple_of` is a multiple of the stride)
      whose receptive field reaches at most `overlap // 4` pixels to each side, borders included, because a
      tile that touches the border of the image is padded by `fn` as the whole image would be;
    - where the sides of `x` are no multiples of `multiple_of`, the above holds for `x` padded as
      `SizeRequirements` pads it.

    A wider receptive field gives a smooth transition, not equality. Memory is that of one tile inside `fn`,
    plus the input and the output; run it under `torch.inference_mode()`, because autograd would keep every
    tile.

    `fn` is as in `fit_run` and called once a tile, in reading order; the result has the type of what it returns. A tile
    has `tile` input pixels a side, or as many as a smaller image; heights and widths that `fn` accepts are multiples of
    `multiple_of`.

    Raises:
        ConfigError: An argument is out of range, or `fn` returned whole numbers, another size, or not always
            the same number of channels.
    """
    _at_least(1, tile=tile, scale=scale, multiple_of=multiple_of)
    _at_least(0, overlap=overlap)
    if tile % multiple_of:
        raise ConfigError(f"tile is {tile}, which is no multiple of {multiple_of}; give a multiple of it")
    if overlap > tile - multiple_of:
        raise ConfigError(f"overlap is {overlap}; give at most tile - multiple_of = {tile - multiple_of}")
    padded = SizeRequirements(multiple_of=multiple_of).pad(x)
    rows = _axis(padded.shape[2], tile, overlap, multiple_of, scale)
    columns = _axis(padded.shape[3], tile, overlap, multiple_of, scale)
    out: torch.Tensor | None = None
    for row, column in itertools.product(rows, columns):
        y = _run(fn, padded[..., row.source, column.source], scale)
        if not y.is_floating_point():
            raise ConfigError(f"fn gave a tensor of type {y.dtype}, which cannot be blended; give float")
        if out is None:
            out = y.new_zeros(*y.shape[:2], padded.shape[2] * scale, padded.shape[3] * scale)
        if y.shape[1] != out.shape[1]:
            raise ConfigError(f"fn gave {y.shape[1]} channels for one tile and {out.shape[1]} for another")
        weight = (row.weight[:, None] * column.weight).to(y.dtype).to(y.device)
        out[..., row.target, column.target].addcmul_(y[..., row.used, column.used], weight)
    if out is None:  # `pad` refuses empty images
        raise AssertionError("no tile was run")
    return _cropped(out, x, scale)


@dataclass(frozen=True)
class _Span:
    """One tile along one axis, and the part of its result whose weight is above zero."""

    source: slice  # of the input
    used: slice  # of the tile's result
    target: slice  # of the output
    weight: torch.Tensor  # float64, as long as `used`


def _axis(size: int, tile: int, overlap: int, multiple_of: int, scale: int) -> list[_Span]:
    """Cut one axis into tiles.

    With the hand-overs at the middle m_i of what tiles i and i + 1 share, and R the raised-cosine step of
    width overlap / 2, tile i weighs R(p - m_{i-1}) - R(p - m_i). That is never negative because the m_i
    increase, and the sum telescopes to one however far the last tile had to be moved back to end with the
    image.
    """
    length = min(tile, size)
    step = (tile - overlap) // multiple_of * multiple_of
    count = 1 + math.ceil((size - length) / step)
    starts = [min(i * step, size - length) for i in range(count)]
    middles = [(start + following + length) / 2 for start, following in zip(starts, starts[1:], strict=False)]
    spans = []
    for i, start in enumerate(starts):
        pixels = start + (torch.arange(length * scale, dtype=torch.float64) + 0.5) / scale
        rise = _step(pixels - middles[i - 1], overlap / 2) if i > 0 else torch.ones_like(pixels)
        fall = _step(pixels - middles[i], overlap / 2) if i < count - 1 else torch.zeros_like(pixels)
        used = (rise > fall).nonzero().flatten()
        first, end = int(used[0]), int(used[-1]) + 1
        target = slice(start * scale + first, start * scale + end)
        weight = (rise - fall)[first:end]
        spans.append(_Span(slice(start, start + length), slice(first, end), target, weight))
    return spans


def _step(distance: torch.Tensor, width: float) -> torch.Tensor:
    """Rise from 0 to 1 as a raised cosine of this width around 0."""
    if width == 0:
        return (distance > 0).to(distance.dtype)
    return 0.5 - 0.5 * torch.cos(math.pi * (distance / width + 0.5).clamp(0, 1))


def _run(fn: ImageFunction, x: torch.Tensor, scale: int) -> torch.Tensor:
    y = fn(x)
    expected = (x.shape[0], x.shape[2] * scale, x.shape[3] * scale)
    if y.dim() != 4 or (y.shape[0], y.shape[2], y.shape[3]) != expected:
        raise ConfigError(
            f"fn gave {tuple(y.shape)} for {tuple(x.shape)}; with scale {scale} it must give "
            f"({expected[0]}, channels, {expected[1]}, {expected[2]})"
        )
    return y


def _cropped(y: torch.Tensor, x: torch.Tensor, scale: int) -> torch.Tensor:
    """The part of a result that stands for `x`, without its padding."""
    return y[..., : x.shape[2] * scale, : x.shape[3] * scale]


def _at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} is {value!r}; give a whole number of at least {least}")
