"""The look of one picture on another that shows the same: colours of a painting on an old photograph of it.

Shen, Darmon, Efros and Aubry 2020 (arXiv:2004.01526), section 4.4, "texture transfer".
"""

import warnings

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor

from artmodels.errors import ConfigError
from artmodels.images.resampling import resized
from artmodels.methods.ransac_flow.results.alignment import Alignment

__all__ = ["transferred"]


def transferred(
    alignment: Alignment, *, colours_only: bool = True, matchable: float = 0.5, feather: float = 12.0
) -> Tensor:
    """Lay the source on the target where the two can be matched.

    Args:
        alignment: Of the picture whose look is wanted, the source, with the one that is to have it.
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
        light, colours = (rgb2lab(each[0].permute(1, 2, 0).numpy()) for each in (target, moved))
        made = np.concatenate([light[..., :1], colours[..., 1:]], -1)
        with warnings.catch_warnings():
            # Colours of a bright place at the lightness of a dark one may be none; they are clipped.
            warnings.filterwarnings("ignore", message="Conversion from CIE-LAB", category=UserWarning)
            moved = torch.from_numpy(lab2rgb(made).astype(np.float32)).permute(2, 0, 1)[None]
    size = target.shape[2], target.shape[3]
    taken = resized(alignment.matchability[None, None], size)[0, 0] >= matchable
    # A frame of what is not taken: the border of the picture is none of the source's.
    depth = distance_transform_edt(taken.numpy())
    weight = (
        torch.from_numpy(np.clip(depth / max(feather, 1e-6), 0, 1).astype(np.float32)) if feather else taken.float()
    )
    return target.lerp(moved, weight).clamp(0, 1)
