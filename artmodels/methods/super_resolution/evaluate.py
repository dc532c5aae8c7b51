"""How much better than bicubic: PSNR and SSIM of the luma on reduced pictures, seams of tiles, and false grids.

The protocol is that of the field since Timofte et al. 2014: reduce by antialiased bicubic interpolation, enlarge, and
compare the luma, without `scale` pixels at each border. Both pictures are rounded to 8 bits, as files are.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.errors import DatasetError, ImageError

__all__ = ["bicubic", "evaluate", "grid_score", "luma", "psnr", "reduced", "seam_score", "ssim"]

Enlarge = Callable[[Tensor], Tensor]
"""[1, 3, H, W] in [0, 1] to [1, 3, H * scale, W * scale]."""

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


def evaluate(
    enlarge: Enlarge, files: Sequence[Path], *, scale: int, reduce: Callable[[Tensor, int], Tensor] = reduced
) -> dict[str, float]:
    """Means over pictures in full size: "psnr" in dB and "ssim", the same of bicubic, and the "gain" in dB.

    The network's input is `reduce(picture, scale)`, of a picture whose sides are cut to multiples of `scale`.

    Raises:
        DatasetError: There is no picture, or one is too small or cannot be read.
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
