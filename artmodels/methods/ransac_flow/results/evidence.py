"""What an alignment shows: pictures to look at, what differs between the two, and the look of one on the other.

Where there is no alignment, or an argument is out of range, it is a ConfigError.
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.correspondence import geometry
from artmodels.detections.boxes import Box
from artmodels.detections.drawing import heat_over, in_a_row
from artmodels.errors import ConfigError, one_of
from artmodels.images.colour import luminance
from artmodels.images.resampling import resized
from artmodels.methods.ransac_flow.results.alignment import Alignment

__all__ = [
    "Changes",
    "changes",
    "chequered",
    "explained_maps",
    "flow_picture",
    "flow_wheel",
    "heat",
    "overlay",
    "side_by_side",
    "thumbnail",
    "transferred",
]

EVEN = 0.01  # deviation of lightness in a window below which there is no structure to compare
FLOW = 640  # px: height of the picture of a flow, which is smooth


def overlay(alignment: Alignment, opacity: float = 0.5) -> Image.Image:
    """The source on its target, as strong as `opacity` says, 0 to 1."""
    if not 0 <= opacity <= 1:
        raise ConfigError(f"opacity={opacity} must be from 0 to 1")
    _ = alignment.sound
    return Image.blend(alignment.pictures[1].pil(), alignment.image, opacity)


def chequered(alignment: Alignment, squares: int = 8) -> Image.Image:
    """Source and target in turn, as on a chess board with so many squares along the longer side."""
    if squares < 2:
        raise ConfigError(f"squares={squares} must be at least 2")
    _ = alignment.sound
    width, height = alignment.sizes[1]
    side = max(width, height) / squares
    odd = ((np.arange(height)[:, None] // side + np.arange(width) // side) % 2).astype(np.uint8) * 255
    return Image.composite(alignment.image, alignment.pictures[1].pil(), Image.fromarray(odd))


def side_by_side(alignment: Alignment, *, height: int = 480) -> Image.Image:
    """Source, target, the source on the target, and both in turn, on white, so many pixels high.

    Without an alignment only source and target are shown.
    """
    shown = [picture.pil() for picture in alignment.pictures]
    if alignment.found:
        shown += [alignment.image, chequered(alignment)]
    return in_a_row(shown, height=height)


def flow_picture(alignment: Alignment, *, fine: bool = False, height: int | None = None) -> Image.Image:
    """Where pixels come from, as colour: the hue is the direction, the strength is the distance; see `flow_wheel`.

    If `fine` it is only what the fine stage adds, rather than the whole flow. The height of the picture is by default
    that of the target.
    """
    from torchvision.utils import flow_to_image  # takes longer to import than all the rest

    warp, (width, full) = alignment.sound, alignment.sizes[1]
    rows = height or full
    columns = max(1, round(width * rows / full))
    if fine:
        flow = resized(warp.displacement[None], (rows, columns))[0] * torch.tensor([columns, rows]).view(2, 1, 1) / 2
    else:
        flow = alignment.flow(rows, columns).permute(2, 0, 1)
    picture = flow_to_image(flow.contiguous())
    inside = geometry.inside(alignment.grid(rows, columns))
    return images.to_pil(torch.where(inside, picture.float() / 255, 1.0))


def flow_wheel(side: int = 160) -> Image.Image:
    """What the colours of a flow mean: at each place the colour of the flow from the centre to it."""
    from torchvision.utils import flow_to_image

    if side < 8:
        raise ConfigError(f"side={side} must be at least 8 px")
    places = geometry.identity(side, side).permute(2, 0, 1)
    far = places.norm(dim=0)
    wheel = flow_to_image(torch.where(far <= 1, places, 0.0).contiguous()).float() / 255
    return images.to_pil(torch.where(far <= 1, wheel, 1.0))


def heat(alignment: Alignment, what: str = "matchability") -> Image.Image:
    """The target under one of two maps: "matchability", or "error", how far from where they began places come back to.

    The error is full at 8 pixels of the working size.
    """
    _ = alignment.sound
    maps = {"matchability": (alignment.matchability, 1.0), "error": (alignment.error, 8.0)}
    scores, high = maps[one_of("map", what, list(maps))]
    return heat_over(alignment.pictures[1], scores.numpy(), low=0.0, high=high)


# --- what differs


@dataclass(frozen=True, eq=False)
class Changes:
    """Where the aligned source differs from the target: losses, overpaintings, other hands.

    Attributes:
        tensor: [h, w] in [0, 1] at the working size: 0 where both show the same or nothing, 1 where they do not.
        inside: [h, w] bool, where the source reaches; elsewhere nothing is known, and `tensor` is 0.
        boxes: Regions that differ, in pixels of the target, the largest first: left, top, right, bottom.
        alignment: Of the two.
    """

    tensor: Tensor
    inside: Tensor
    boxes: tuple[Box, ...]
    alignment: Alignment

    @property
    def image(self) -> Image.Image:
        """The target under the map as heat."""
        return heat_over(self.alignment.pictures[1], self.tensor.numpy(), low=0.0, high=1.0)


def changes(alignment: Alignment, *, window: int = 17, threshold: float = 0.6, least: float = 0.0005) -> Changes:
    """Find where the aligned pictures differ.

    Lightness is compared within small windows, less its mean and spread, so that another exposure, fading or another
    technique is no change by itself. It is the structure term of SSIM (Wang et al. 2004). What cannot be matched counts
    as changed, too.

    Args:
        alignment: Of the two.
        window: Side of a window in pixels of the working size, odd.
        threshold: A place that differs by at least this much, in (0, 1), belongs to a region.
        least: Share of the target that a region covers at least.

    Raises:
        ConfigError: There is no alignment, or a number is out of range.
    """
    if window < 3 or window % 2 == 0 or not 0 < threshold < 1 or not 0 <= least < 1:
        raise ConfigError(
            f"window={window} must be odd and at least 3, threshold={threshold} in (0, 1), and least={least} in [0, 1)"
        )
    warp = alignment.sound
    size = warp.which.shape[0], warp.which.shape[1]
    moved, inside = warp.read(alignment.pictures[0].tensor(), *size, cubic=False)
    target = resized(alignment.pictures[1].tensor(), size).clamp(0, 1)
    unlike = _unlike(luminance(moved), luminance(target), window)
    unlike = torch.maximum(unlike, 1 - alignment.matchability) * inside
    labels, _ = ndimage.label((unlike >= threshold).numpy())
    high, wide = (full / working for full, working in zip(alignment.sizes[1][::-1], size, strict=True))
    areas, regions = np.bincount(labels.ravel())[1:], ndimage.find_objects(labels)
    boxes = list[Box]()
    for number in np.argsort(-areas, kind="stable"):
        if areas[number] >= least * labels.size:
            rows, columns = regions[number]
            boxes.append((columns.start * wide, rows.start * high, columns.stop * wide, rows.stop * high))
    return Changes(unlike, inside, tuple(boxes), alignment)


def _unlike(first: Tensor, second: Tensor, window: int) -> Tensor:
    """Half of 1 less the correlation of windows of [1, 1, H, W], so that a negative is full change: [H, W]."""

    def mean(x: Tensor) -> Tensor:
        padded = F.pad(x, (window // 2,) * 4, mode="replicate")
        return F.avg_pool2d(F.avg_pool2d(padded, (1, window), stride=1), (window, 1), stride=1)

    means = [mean(side) for side in (first, second)]
    spreads = [(mean(each**2) - m**2).clamp_min(0) for each, m in zip((first, second), means, strict=True)]
    together = mean(first * second) - means[0] * means[1]
    # Two even places are alike, an even one and a structured one are not.
    alike = (together + EVEN**2) / ((spreads[0] * spreads[1]).sqrt() + EVEN**2)
    much = torch.maximum(*(spread.sqrt() for spread in spreads))
    return ((1 - alike.clamp(-1, 1)) / 2 * (much / (much + 2 * EVEN)))[0, 0].clamp(0, 1)


# --- the look of one on the other


def transferred(
    alignment: Alignment, *, colours_only: bool = True, matchable: float = 0.5, feather: float = 12.0
) -> Tensor:
    """Lay the source on the target where the two can be matched: a painting's colours on an old photograph of it.

    Shen, Darmon, Efros and Aubry 2020 (arXiv:2004.01526), section 4.4, "texture transfer".

    Args:
        alignment: Of the picture whose look is wanted, the source, with the target, which is to have it.
        colours_only: Keep the target's lightness, CIELAB L, and take a and b; otherwise all is taken.
        matchable: Matchability from which a place is taken.
        feather: Pixels of the target over which the two blend, inwards from the border of what is taken.

    Returns:
        [1, 3, H, W] in [0, 1], of the target's size.

    Raises:
        ConfigError: There is no alignment, or a number is out of range.
    """
    if not 0 <= matchable <= 1 or feather < 0:
        raise ConfigError(f"matchable={matchable} must be from 0 to 1, and feather={feather} not below 0")
    _ = alignment.sound
    target, moved = alignment.pictures[1].tensor(), alignment.tensor
    if colours_only:
        light, colours = (rgb2lab(picture[0].permute(1, 2, 0).numpy()) for picture in (target, moved))
        made = np.concatenate([light[..., :1], colours[..., 1:]], -1)
        with warnings.catch_warnings():
            # Colours of a bright place at the lightness of a dark one may be none; they are clipped.
            warnings.filterwarnings("ignore", message="Conversion from CIE-LAB", category=UserWarning)
            moved = torch.from_numpy(lab2rgb(made).astype(np.float32)).permute(2, 0, 1)[None]
    matched = resized(alignment.matchability[None, None], (target.shape[2], target.shape[3]))[0, 0] >= matchable
    depth = ndimage.distance_transform_edt(matched.numpy())  # 0 where nothing is matched, and 1 or more elsewhere
    weight = torch.from_numpy(np.clip(depth / max(feather, 1e-6), 0, 1).astype(np.float32))
    return target.lerp(moved, weight).clamp(0, 1)


# --- everything together


def explained_maps(alignment: Alignment, longest: int) -> list[tuple[str, Image.Image, str]]:
    """Title, picture and explanation of each map; the longer side of a picture has at most `longest` pixels."""
    differs, height = changes(alignment), min(alignment.sizes[1][1], FLOW)
    count = len(differs.boxes)
    regions = "1 region differs" if count == 1 else f"{count} regions differ"
    source, target = (images.load(thumbnail(picture.pil(), longest)) for picture in alignment.pictures)
    small = images.load(thumbnail(alignment.image, longest)).tensor()
    coloured = transferred(replace(alignment, pictures=(source, target), tensor=small))
    return [
        (
            "What differs",
            thumbnail(differs.image, longest),
            f"{regions}: something is lost, added or drawn otherwise, or cannot be matched. Other colours and "
            "another exposure do not count.",
        ),
        (
            "Its colours",
            images.to_pil(coloured),
            "The target with the colours of the source, where it can be matched: for an old photograph.",
        ),
        (
            "Matchability",
            thumbnail(heat(alignment), longest),
            "How sure each place is: bright where the source shows it, bare where it does not.",
        ),
        (
            "There and back",
            thumbnail(heat(alignment, "error"), longest),
            "How far a place ends from where it began, going to the source and back: bright from 8 pixels.",
        ),
        (
            "Flow",
            flow_picture(alignment, height=height),
            "Where each pixel comes from: the hue is the direction, the strength the distance, as on the wheel.",
        ),
        (
            "Fine flow",
            flow_picture(alignment, fine=True, height=height),
            "What the fine stage adds to the homographies, as on the wheel.",
        ),
        ("The wheel", flow_wheel(200), "The colour at a place is that of a flow from the centre to it."),
    ]


def thumbnail(picture: Image.Image, longest: int) -> Image.Image:
    """A copy with at most so many pixels on the longer side."""
    small = picture.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return small
