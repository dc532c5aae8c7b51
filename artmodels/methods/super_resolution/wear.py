"""What scans of worn pictures have: a print screen, blur, noise, JPEG, and yellowed paper; drawn for whole batches.

The steps follow a picture's way into a file: printed with halftone dots (AM screening with one angle an ink), paper
that yellows, the optics and the sensor of a scanner, JPEG. Blur, noise and JPEG are those of Real-ESRGAN (Wang et al.
2021, arXiv:2107.10833, section 3), once. All numbers of a batch come from one generator.

Yellowing is drawn, but not undone: the picture that is to be learnt has the same tone. Nothing in a picture tells aged
paper from ochre, and a network that has learnt to bleach the one bleaches the other.
"""

import io
import math
from dataclasses import dataclass
from functools import cache
from typing import Annotated

import scipy.fft
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from artmodels.errors import ConfigError
from artmodels.methods.super_resolution.condition import LUMA
from artmodels.settings import Settings, Share

__all__ = ["MARGIN", "Wear", "jpeg", "screened", "worn"]

MARGIN = 8  # px of the small picture that `worn` cuts off in all: blocks of JPEG begin anywhere in what remains
ANGLES = (15.0, 75.0, 0.0, 45.0)  # degrees of the screens of cyan, magenta, yellow and black
YELLOW = (0.04, 0.12, 0.45)  # of red, green and blue, that the yellowest paper takes away
REACH = 5  # px of a kernel to each side
SHARPEST = 0.05  # px: standard deviation of a Gaussian that changes nothing


@dataclass(frozen=True, kw_only=True)
class Wear(Settings):
    """How worn pictures are; each range is drawn from evenly, in pixels of the small picture."""

    blur: Annotated[tuple[float, float], "Standard deviations of the scanner's Gaussian, along two random axes."] = (
        0.3,
        1.4,
    )
    blurred: Annotated[Share, "Of the pictures that are blurred; those with a print screen all are."] = 0.6
    noise: Annotated[tuple[float, float], "Standard deviations of noise in grey levels of 255."] = (1.0, 16.0)
    grain: Annotated[tuple[float, float], "Standard deviations of a Gaussian that makes noise coarse."] = (0.05, 0.7)
    noisy: Annotated[Share, "Of the pictures with noise; half of them have the same in all channels."] = 0.6
    jpeg: Annotated[tuple[float, float], "Qualities of JPEG, with colour at half size."] = (30.0, 90.0)
    compressed: Annotated[Share, "Of the pictures with JPEG."] = 0.6
    period: Annotated[tuple[float, float], "Distances of the dots of a print screen."] = (2.6, 6.0)
    printed: Annotated[Share, "Of the pictures with a print screen."] = 0.25
    yellowed: Annotated[Share, "Of the pictures on yellowed paper."] = 0.4
    grey: Annotated[Share, "Of the pictures without colour, before the paper yellows."] = 0.2
    clean: Annotated[Share, "Of the pictures to which nothing of this is done."] = 0.1

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        for name, least, most in (
            *(("blur", 0, REACH / 2.5), ("noise", 0, 50), ("grain", 0, REACH / 2.5)),
            *(("jpeg", 1, 100), ("period", 2, 16)),
        ):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ConfigError(f"{name}=({low}, {high}) must be a range within {least} to {most}")


def worn(large: Tensor, scale: int, wear: Wear, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Wear pictures out on their way down.

    Args:
        large: [N, 3, H, W] in [0, 1]; `scale` * 16 divides H and W.
        scale: Size of the pictures over that of the small ones.
        wear: What is done.
        rng: On the CPU.

    Returns:
        The small pictures, [N, 3, H / scale - 8, W / scale - 8] of 8 bits in [0, 1], and what they are to become,
        [N, 3, H - 8 * scale, W - 8 * scale]: as sharp as they were, on paper of the same tone.
    """
    count, _, height, width = large.shape
    small = height // scale, width // scale

    def share() -> Tensor:
        return torch.rand(count, 1, 1, 1, generator=rng)

    def drawn(span: tuple[float, float]) -> Tensor:
        return span[0] + (span[1] - span[0]) * share()

    used = share() >= wear.clean
    luma = (large * large.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    grey = used & (share() < wear.grey)
    wanted = torch.where(grey, luma, large)

    printed = (used & (share() < wear.printed)).flatten()
    period, turn = scale * drawn(wear.period), 90 * share()
    black = torch.where(grey, torch.ones(()), 0.5 + 0.5 * share())
    y = wanted.clone()
    if bool(printed.any()):
        y[printed] = screened(wanted[printed], period[printed], turn[printed], black[printed])
    y = F.interpolate(y, small, mode="bicubic", antialias=True)

    fade = torch.where(used & (share() < wear.yellowed), share(), torch.zeros(()))
    paper = 1 - fade * large.new_tensor(YELLOW).view(1, 3, 1, 1)
    y, wanted = y * paper, wanted * paper

    blurred = used & (share() < wear.blurred) | printed.view(-1, 1, 1, 1)
    along, across = (torch.where(blurred, drawn(wear.blur), torch.full((), SHARPEST)) for _ in range(2))
    y = _blurred(y, along, across, math.pi * share())

    noise = torch.randn(count, 3, *small, generator=rng)
    noise = torch.where(share() < 0.5, noise[:, :1], noise)
    grain = drawn(wear.grain)
    noise = _blurred(noise, grain, grain, grain)
    noise = noise / noise.std((1, 2, 3), keepdim=True)
    strength = torch.where(used & (share() < wear.noisy), drawn(wear.noise), torch.zeros(())) / 255
    y = (y + strength * noise).clamp(0, 1)

    coded = jpeg(y, drawn(wear.jpeg).flatten())
    y = torch.where(used & (share() < wear.compressed), coded, y).mul(255).round().div(255)
    top, left = torch.randint(MARGIN + 1, (2,), generator=rng).tolist()
    return _cut(y, top, left, 1), _cut(wanted, top, left, scale)


def screened(image: Tensor, period: Tensor, turn: Tensor, black: Tensor) -> Tensor:
    """Print pictures [N, 3, H, W] with a screen of dots for each ink, which keeps the mean of every even tone.

    Args:
        image: In [0, 1].
        period: [N, 1, 1, 1], distance of the dots in pixels.
        turn: [N, 1, 1, 1], degrees by which all screens are turned beyond their usual angles.
        black: [N, 1, 1, 1] in [0, 1], how much of what three inks have in common is printed in black.
    """
    key = black * (1 - image.amax(1, keepdim=True))
    colour = 1 - image / (1 - key).clamp_min(1e-4)
    inks = torch.cat([colour, key], 1).clamp(0, 1)  # [N, 4, H, W]
    angle = torch.deg2rad(turn + image.new_tensor(ANGLES).view(1, 4, 1, 1))
    down, across = (torch.arange(side, dtype=image.dtype) for side in image.shape[-2:])
    down, across = down.view(1, 1, -1, 1), across.view(1, 1, 1, -1)
    u = (across * angle.cos() + down * angle.sin()) / period
    v = (down * angle.cos() - across * angle.sin()) / period
    # Diamonds: the sum of two even distances has a known distribution, so that a dot's area is its ink.
    far = (u - u.round()).abs() + (v - v.round()).abs()  # [N, 4, H, W] in [0, 1]
    level = torch.where(far < 0.5, 2 * far**2, 1 - 2 * (1 - far) ** 2)
    # Edges of dots are slopes of a pixel, 2 `half` of the levels; near no ink and full ink a slope would be cut off.
    half = (1.4 / period).clamp(max=0.5)
    centre = torch.where(inks < half, 2 * (inks * half).sqrt() - half, inks)
    centre = torch.where(inks > 1 - half, 1 + half - 2 * ((1 - inks) * half).sqrt(), centre)
    covered = ((centre - level) / (2 * half) + 0.5).clamp(0, 1)
    return (1 - covered[:, :3]) * (1 - covered[:, 3:])


def jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Give pictures [N, 3, H, W] in [0, 1], H and W multiples of 16, the losses of JPEG of a `quality` [N], 1 to 100.

    Colour is stored at half size, as is usual. Nothing is rounded but the coefficients (ITU-T T.81).
    """
    ycc = torch.einsum("nchw,kc->nkhw", image * 255, _colours(image.dtype)) - 128 * _first(image.dtype)
    factor = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(-1, 1, 1, 1, 1, 1)
    light, colour = (((table * factor + 50) / 100).floor().clamp(1, 255) for table in _tables(image.dtype))
    luma = _quantised(ycc[:, :1], light)
    chroma = _quantised(F.avg_pool2d(ycc[:, 1:], 2), colour)
    chroma = F.interpolate(chroma, scale_factor=2.0, mode="bilinear")
    ycc = torch.cat([luma, chroma], 1) + 128 * _first(image.dtype)
    inverse = torch.linalg.inv(_colours(image.dtype))
    return (torch.einsum("nchw,kc->nkhw", ycc, inverse) / 255).clamp(0, 1)


def _quantised(plane: Tensor, table: Tensor) -> Tensor:
    """Round the cosine transforms of squares of 8 pixels of [N, C, H, W] to multiples of [N, 1, 1, 1, 8, 8]."""
    count, channels, height, width = plane.shape
    basis = torch.from_numpy(scipy.fft.dct(torch.eye(8).numpy(), axis=0, norm="ortho")).to(plane)
    squares = plane.view(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    found = ((basis @ squares @ basis.T) / table).round() * table
    return (basis.T @ found @ basis).transpose(3, 4).reshape(plane.shape)


@cache
def _tables(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The steps of luma and chroma at quality 50, as every JPEG library has them: [8, 8] each."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=50)
    with Image.open(file) as stored:
        tables = stored.quantization  # type: ignore[attr-defined]
    light, colour = (torch.tensor(tables[index], dtype=dtype).view(8, 8) for index in (0, 1))
    return light, colour


def _colours(dtype: torch.dtype) -> Tensor:
    """RGB to Y, Cb and Cr without their offsets (ITU-T T.871)."""
    rows = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
    return torch.tensor(rows, dtype=dtype)


def _first(dtype: torch.dtype) -> Tensor:
    return torch.tensor([1, 0, 0], dtype=dtype).view(1, 3, 1, 1)


def _blurred(image: Tensor, along: Tensor, across: Tensor, angle: Tensor) -> Tensor:
    """Convolve each of [N, 3, H, W] with a Gaussian of its own, of deviations [N, 1, 1, 1] along turned axes."""
    count, channels, *size = image.shape
    axis = torch.arange(-REACH, REACH + 1, dtype=image.dtype)
    x, y = axis.view(1, 1, 1, -1), axis.view(1, 1, -1, 1)
    u, v = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    kernel = torch.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))  # [N, 1, K, K]
    kernel = (kernel / kernel.sum((2, 3), keepdim=True)).repeat_interleave(channels, 0)
    padded = F.pad(image, (REACH,) * 4, mode="reflect").view(1, count * channels, *(n + 2 * REACH for n in size))
    return F.conv2d(padded, kernel, groups=count * channels).view(image.shape)


def _cut(image: Tensor, top: int, left: int, scale: int) -> Tensor:
    height, width = image.shape[-2:]
    top, left, off = top * scale, left * scale, MARGIN * scale
    return image[..., top : top + height - off, left : left + width - off]
