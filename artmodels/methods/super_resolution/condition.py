"""What a scan has suffered, told from its pixels alone; and which checkpoint suits it.

Five measures, each of a known physical thing, four of them on squares of the luma spread evenly over the picture:

- noise: the deviation of the Laplacian's residue (Immerkær 1996, "Fast noise variance estimation") where it is least;
- blur: how much softer edges become by a known Gaussian (Zhuo and Sim 2011, "Defocus map estimation", equation 4);
- blocks of JPEG: how much rougher the picture is across a grid of 8 pixels than beside it;
- a print screen: peaks of the power spectrum that have a twin at a right angle, as a square lattice of dots has;
- the tone of what is brightest, which in a scan of a page is its paper.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import skimage.color
import torch
from torch import Tensor

from artmodels import images
from artmodels.hub import catalogue

__all__ = ["WORN", "Condition", "checkpoint_for", "examine", "paper_of", "yellow_of"]

Floats = npt.NDArray[np.float64]

WORN = "-worn"  # how the names of checkpoints end that restore
# Where clean pictures end: `benchmarks/super_resolution.py --condition` prints how often each is passed.
NOISE, BLUR, BLOCKS, SCREEN = 4.5, 0.7, 0.45, 12.0
STRONG = 0.75  # of blocks: milder ones a restoring network takes off only with as much detail
YELLOW = 15.0

LUMA = (0.299, 0.587, 0.114)
TILE, TILES = 128, 6  # px: side of the squares, a multiple of 8; most of them along each side of the picture
LEAST = 64  # px: no smaller picture is judged
FLAT = 16  # px: side of the squares in which noise is looked for
DARK = 16  # grey levels: nearer to black or white, noise is cut off
QUIETEST = 10  # per cent of them that count
BASE, REBLUR = 0.7, 1.0  # px: Gaussians; the first keeps pixels of noise from being the sharpest edges
STEEP = 2.0  # grey levels a pixel: a gradient below it is no edge
EDGES, SHARPEST = 95, 25  # per cent: gradients above the one are edges; the sharpest ones below the other count
PERIODS = (2.1, 8.3)  # px: of print screens that are looked for
OFF = 0.03  # cycles a pixel: the lattice of a screen lies off the axes, those of JPEG and of canvas on them
BRIGHT = (80, 97)  # per cent: luma of paper; what is brighter may be a gap of the scanner's lid


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What was measured.

    Attributes:
        noise: Standard deviation in grey levels of 255.
        blur: Standard deviation in pixels of the Gaussian that would make the sharpest edges of steps.
        blocks: How much larger the jumps on the borders of 8 x 8 pixels are than elsewhere: 0.2 is a fifth.
        screen: How far a print screen stands out of the spectrum, in dB.
        period: Distance of its dots in pixels.
        paper: sRGB of what is brightest, in [0, 1].
    """

    noise: float
    blur: float
    blocks: float
    screen: float
    period: float
    paper: tuple[float, float, float]

    @property
    def faults(self) -> tuple[str, ...]:
        """What it has suffered, in words; empty for a clean picture."""
        found = {
            f"print dots {self.period:.1f} pixels apart": self.screen > SCREEN,
            f"{'strong ' * (self.blocks > STRONG)}blocks of JPEG": self.blocks > BLOCKS,
            f"noise of {self.noise:.0f} grey levels": self.noise > NOISE and self.screen <= SCREEN,  # dots are no noise
            f"edges blurred by {self.blur:.1f} pixels": self.blur > BLUR,
        }
        return tuple(words for words, there in found.items() if there)

    @property
    def restorable(self) -> bool:
        """Whether a restoring network makes more of it: with mild blocks of JPEG alone, it takes as much detail off."""
        return self.screen > SCREEN or self.noise > NOISE or self.blur > BLUR or self.blocks > STRONG

    @property
    def yellow(self) -> float:
        """How yellow the brightest part is, see `yellow_of`."""
        return yellow_of(self.paper)

    @property
    def yellowed(self) -> bool:
        """Whether it looks like old paper, or like a painting that has no white."""
        return self.yellow > YELLOW


def examine(image: images.Source) -> Condition:
    """Measure what a picture has suffered.

    Of a picture with a side below 64 pixels nothing but the tone is told: all else is 0.

    Args:
        image: What `artmodels.images.load` reads.

    Raises:
        ImageError: The picture cannot be read.
    """
    picture = images.load(image).tensor()
    paper = paper_of(picture)
    if min(picture.shape[-2:]) < LEAST:
        return Condition(noise=0, blur=0, blocks=0, screen=0, period=0, paper=paper)
    tiles = _tiles(_luma(picture))
    screen, period = _screen(tiles)
    return Condition(
        noise=_noise(tiles), blur=_blur(tiles), blocks=_blocks(tiles), screen=screen, period=period, paper=paper
    )


def checkpoint_for(condition: Condition, scale: int = 2) -> str:
    """The name of the checkpoint that enlarges such a picture by `scale`, 2 or 4.

    It is the one for worn pictures where the catalogue has one for this factor and the picture has print dots, noise,
    blur, or strong blocks of JPEG.
    """
    name = f"super-resolution-x{scale}"
    return name + WORN if condition.restorable and catalogue.find(name + WORN) else name


def paper_of(picture: Tensor) -> tuple[float, float, float]:
    """The sRGB colour of what is brightest in [1, 3, H, W] in [0, 1], which in a scan of a page is its paper."""
    luma = _luma(picture)
    low, high = np.percentile(luma, BRIGHT)
    found = picture[0].permute(1, 2, 0)[torch.from_numpy((luma >= low) & (luma <= high))]
    red, green, blue = found.median(0).values.tolist()
    return red, green, blue


def yellow_of(paper: tuple[float, float, float]) -> float:
    """b* (CIELAB) of an sRGB colour in [0, 1] whose hue is a yellow; 0 of others."""
    _, red, yellow = skimage.color.rgb2lab(np.array(paper))
    return float(yellow) if yellow > abs(red) else 0.0


def _luma(picture: Tensor) -> Floats:
    found: Floats = 255 * torch.einsum("chw,c->hw", picture[0].double(), torch.tensor(LUMA).double()).numpy()
    return found


def _tiles(luma: Floats) -> Floats:
    """Squares spread evenly over [H, W], whose corners lie on multiples of 8: [N, S, S]."""
    side = min(TILE, *(length // FLAT * FLAT for length in luma.shape))
    starts = [np.unique(np.linspace(0, length - side, TILES).astype(int) // 8 * 8) for length in luma.shape]
    windows = np.lib.stride_tricks.sliding_window_view(luma, (side, side))
    found: Floats = windows[np.ix_(*starts)].reshape(-1, side, side)
    return found


def _noise(tiles: Floats) -> float:
    residue = np.abs(np.diff(np.diff(tiles, 2, axis=1), 2, axis=2))  # by Immerkær's mask, [N, S - 2, S - 2]
    residue = np.pad(residue, ((0, 0), (0, 2), (0, 2)), mode="edge")
    count, parts = len(tiles), tiles.shape[-1] // FLAT
    level, tone = (each.reshape(count, parts, FLAT, parts, FLAT).mean((2, 4)) for each in (residue, tiles))
    usable = level[(tone > DARK) & (tone < 255 - DARK)]
    return float(np.percentile(usable, QUIETEST)) * math.sqrt(math.pi / 2) / 6 if usable.size else 0.0


def _blur(tiles: Floats) -> float:
    def gradient(sigma: float) -> Floats:
        parts = [
            scipy.ndimage.gaussian_filter(tiles, (0, sigma, sigma), order=order) for order in ((0, 0, 1), (0, 1, 0))
        ]
        steepness: Floats = np.hypot(*parts)[:, 4:-4, 4:-4]  # the border is reflected
        return steepness

    sharp, soft = gradient(BASE), gradient(math.hypot(BASE, REBLUR))
    edges = sharp >= max(np.percentile(sharp, EDGES), STEEP)
    if not edges.any():
        return 0.0
    ratio = float(np.percentile(sharp[edges] / np.maximum(soft[edges], 1e-6), 100 - SHARPEST))
    return math.sqrt(max(REBLUR**2 / max(ratio**2 - 1, 1e-6) - BASE**2, 0))


def _blocks(tiles: Floats) -> float:
    found = list[float]()
    for plane in (tiles, tiles.transpose(0, 2, 1)):
        jumps = np.abs(np.diff(plane, 3, axis=2))  # a ramp has none
        jumps = np.minimum(jumps, np.percentile(jumps, 90))  # edges of the picture count little
        profile = np.array([jumps[..., phase::8].mean() for phase in range(8)])
        top = int(profile.argmax())
        inside = np.delete(profile, [(top - 1) % 8, top, (top + 1) % 8])  # the mask is four pixels wide
        found.append(float(profile[top] / max(inside.mean(), 0.05) - 1))
    return min(found)


def _screen(tiles: Floats) -> tuple[float, float]:
    side = tiles.shape[-1]
    window = np.hanning(side)
    flat = (tiles - tiles.mean((1, 2), keepdims=True)) * window[:, None] * window
    power = (np.abs(np.fft.fft2(flat)) ** 2).mean(0)  # Welch's estimate
    level = 10 * np.log10(np.fft.fftshift(power)[1:, 1:] + 1e-3)  # odd: a quarter turn takes frequencies to frequencies
    above = level - scipy.ndimage.median_filter(level, 11)
    both = np.minimum(above, np.rot90(above))
    axis = np.arange(1 - side // 2, side // 2) / side
    radius = np.hypot(axis[:, None], axis)
    looked = (radius > 1 / PERIODS[1]) & (radius < 1 / PERIODS[0])
    looked &= np.minimum(np.abs(axis[:, None]), np.abs(axis)) > OFF
    best = np.unravel_index(np.where(looked, both, -np.inf).argmax(), both.shape)
    return float(both[best]), float(1 / radius[best])
