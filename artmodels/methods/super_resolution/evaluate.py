"""How much better than bicubic: PSNR and SSIM of the luma on reduced pictures, seams of tiles, and false grids.

The protocol is that of the field since Timofte et al. 2014: reduce by antialiased bicubic interpolation, enlarge, and
compare the luma, without `scale` pixels at each border. Both pictures are rounded to 8 bits, as files are.
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import scipy.ndimage
import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.errors import DatasetError, ImageError

__all__ = [
    "WORN",
    "Reduce",
    "bicubic",
    "compressed",
    "evaluate",
    "grid_score",
    "luma",
    "psnr",
    "reduced",
    "seam_score",
    "ssim",
]

Enlarge = Callable[[Tensor], Tensor]
"""[1, 3, H, W] in [0, 1] to [1, 3, H * scale, W * scale]."""

Reduce = Callable[[Tensor, int], Tensor]
"""[1, 3, H, W] in [0, 1] and a scale to [1, 3, H / scale, W / scale], as the network gets it."""

WINDOW, SIGMA = 11, 1.5  # of SSIM
TONES = (0.02, 0.2, 0.5, 0.8, 0.98)


def luma(image: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in its range of 16 to 235, from [N, 3, H, W] in [0, 1]: [N, 1, H, W], float64."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64)
    return 16 + torch.einsum("nchw,c->nhw", image.double(), weights)[:, None]


def psnr(first: Tensor, second: Tensor) -> float:
    """Peak signal to noise in dB of two pictures with values up to 255; infinite for equal ones."""
    error = float((first - second).square().mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(first: Tensor, second: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of two [1, 1, H, W] with values up to 255, H and W at least 11.

    Gaussian window of 11 pixels, standard deviation 1.5, only where it fits.
    """
    ramp = torch.exp(-((torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    ramp = ramp / ramp.sum()

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, ramp.view(1, 1, -1, 1)), ramp.view(1, 1, 1, -1))

    x, y = first.double(), second.double()
    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mx * my + c1) * (2 * both + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float(similarity.mean())


def reduced(image: Tensor, scale: int) -> Tensor:
    """A picture [N, 3, H, W] at 1 / scale of its size by antialiased bicubic interpolation, as an 8-bit file has it."""
    size = [length // scale for length in image.shape[-2:]]
    return _rounded(F.interpolate(image, size, mode="bicubic", antialias=True))


def bicubic(image: Tensor, scale: int) -> Tensor:
    """A picture enlarged with the same kernel, a = -0.5: what a network must beat."""
    size = [length * scale for length in image.shape[-2:]]
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


# --- Worn scans, made by other means than those of `wear.py`, on which networks are trained: Pillow's JPEG, SciPy's
# Gaussian, round dots with hard edges where that has soft diamonds.


def compressed(image: Tensor, quality: int) -> Tensor:
    """A picture [1, 3, H, W] through JPEG and back."""
    file = io.BytesIO()
    images.to_pil(image).save(file, "JPEG", quality=quality)
    return images.load(file.getvalue()).tensor()


def _blurred(image: Tensor, deviation: float) -> Tensor:
    return torch.from_numpy(scipy.ndimage.gaussian_filter(image.numpy(), (0, 0, deviation, deviation)))


def _noisy(image: Tensor, levels: float) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return _rounded(image + noise * levels / 255)


def _printed(image: Tensor, scale: int, period: float) -> Tensor:
    """Reduce, printed in four inks with round dots so many pixels of the small picture apart, and scanned."""
    size = [length // scale for length in image.shape[-2:]]
    fine = F.interpolate(image, [4 * length for length in size], mode="bicubic", antialias=True).clamp(0, 1)
    key = 1 - fine.amax(1, keepdim=True)
    inks = torch.cat([1 - fine / (1 - key).clamp_min(1e-4), key], 1)  # [1, 4, 4 H / scale, 4 W / scale]
    angle = torch.deg2rad(torch.tensor([15.0, 75.0, 0.0, 45.0])).view(4, 1, 1)
    y, x = (torch.arange(length).float() for length in fine.shape[-2:])
    y, x = y[:, None], x[None, :]
    turn = 2 * math.pi / (4 * period)
    spots = ((x * angle.cos() + y * angle.sin()) * turn).cos() + ((y * angle.cos() - x * angle.sin()) * turn).cos()
    # The share of a period that is brighter than a spot: the ink that it takes to reach it.
    wave = torch.linspace(0, 2 * math.pi, 65)[:-1].cos()
    ranks = (-(wave[:, None] + wave).flatten()).sort().values
    level = torch.searchsorted(ranks, -spots.contiguous()) / ranks.numel()
    covered = (level < inks[0]).float()[None]
    paper = (1 - covered[:, :3]) * (1 - covered[:, 3:])
    return _rounded(_blurred(F.avg_pool2d(paper, 4), 0.5))


def _worn(image: Tensor, scale: int) -> Tensor:
    return compressed(_noisy(_blurred(reduced(image, scale), 0.7), 6), 60)


WORN: Mapping[str, Reduce] = {
    "blur": lambda image, scale: _rounded(_blurred(reduced(image, scale), 1.0)),
    "noise": lambda image, scale: _noisy(reduced(image, scale), 10),
    "JPEG 40": lambda image, scale: compressed(reduced(image, scale), 40),
    "print": lambda image, scale: _printed(image, scale, 3.7),
    "print and JPEG": lambda image, scale: compressed(_printed(image, scale, 4.6), 70),
    "blur, noise and JPEG": _worn,
}
"""Blur of 1 pixel; noise of 10 grey levels; JPEG of quality 40; dots 3.7 pixels apart; dots 4.6 pixels apart and JPEG
of quality 70; blur of 0.7 pixels, noise of 6 levels and JPEG of quality 60."""


def evaluate(enlarge: Enlarge, files: Sequence[Path], *, scale: int, reduce: Reduce = reduced) -> dict[str, float]:
    """Means over pictures in full size: "psnr" in dB and "ssim", the same of bicubic, and the "gain" in dB.

    The network's input is `reduce(picture, scale)`, of a picture whose sides are cut to multiples of `scale`. A
    DatasetError says that there is no picture, or that one is too small or cannot be read.
    """
    if not files:
        raise DatasetError("There is no picture to evaluate on: name a folder that holds some.")
    sums = dict.fromkeys(("psnr", "psnr of bicubic", "ssim", "ssim of bicubic"), 0.0)
    for path in files:
        try:
            picture = images.load(path).tensor()
        except ImageError as error:
            raise DatasetError(f"{path} cannot be evaluated on: {error}") from error
        height, width = (length // scale * scale for length in picture.shape[-2:])
        if min(height, width) < WINDOW + 2 * scale:
            raise DatasetError(
                f"{path} is {width} x {height} px: evaluate on pictures of {WINDOW + 2 * scale} or more."
            )
        picture = picture[..., :height, :width]
        small = reduce(picture, scale)
        wanted = _compared(picture, scale)
        for label, result in (("", enlarge(small)), (" of bicubic", bicubic(small, scale))):
            found = _compared(_rounded(result), scale)
            sums["psnr" + label] += psnr(found, wanted)
            sums["ssim" + label] += ssim(found, wanted)
    means = {name: total / len(files) for name, total in sums.items()}
    return means | {"gain": means["psnr"] - means["psnr of bicubic"]}


def seam_score(whole: Tensor, pieces: Tensor) -> float:
    """Greatest difference of a picture run in tiles from the same run whole, in grey levels of 255."""
    return float((whole - pieces).abs().max()) * 255


def grid_score(enlarge: Enlarge, scale: int) -> float:
    """How much of a grid a network draws on even colours: the greatest standard deviation, in grey levels of 255.

    Eleven colours are tried; their borders, which a network may take for edges, are left out.
    """
    pure = [colour for colour in itertools.product((0.15, 0.85), repeat=3) if len(set(colour)) > 1]
    worst = 0.0
    for colour in [*((tone,) * 3 for tone in TONES), *pure]:
        result = enlarge(torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 64, 64).contiguous())
        inner = result[0, :, 16 * scale : -16 * scale, 16 * scale : -16 * scale]
        worst = max(worst, float(inner.flatten(1).std(1).max()) * 255)
    return worst


def _rounded(image: Tensor) -> Tensor:
    return image.clamp(0, 1).mul(255).round().div(255)


def _compared(image: Tensor, border: int) -> Tensor:
    return luma(image)[..., border:-border, border:-border]
