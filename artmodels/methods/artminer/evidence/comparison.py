"""Two pictures beside each other: what they share, and how well."""

from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from artmodels import images
from artmodels.correspondence.views import VIEWS
from artmodels.images.decoding import Array, LoadedImage
from artmodels.images.results import ImageResult
from artmodels.methods.artminer.groups.pairtable import Pair

__all__ = ["Compared", "pale", "shared_part"]

OUTSIDE = 100 / 255  # of the strength of what is not shared; the rest is white, as in the released code
GAP = 8  # px between two pictures


@dataclass(frozen=True, kw_only=True)
class Compared(ImageResult):
    """The first of two pictures, pale where the second shows nothing of it.

    Attributes:
        pair: The evidence; its names are "first" and "second".
        pictures: Both, as they were read.
    """

    pair: Pair
    pictures: tuple[LoadedImage, LoadedImage] = field(repr=False)

    @property
    def score(self) -> float:
        """How well they agree, see `Match`."""
        return self.pair.match.score

    @property
    def other(self) -> Image.Image:
        """The second picture, pale where the first shows nothing of it."""
        return images.to_pil(pale(self.pictures[1], shared_part(self.pair, "second", self.pictures[1])))

    def side_by_side(self) -> Image.Image:
        """Both, on white, aligned at the top."""
        one, other = self.image, self.other
        sheet = Image.new("RGB", (one.width + GAP + other.width, max(one.height, other.height)), "white")
        sheet.paste(one, (0, 0))
        sheet.paste(other, (one.width + GAP, 0))
        return sheet


def shared_part(pair: Pair, name: str, picture: LoadedImage) -> Array:
    """Where one of a pair's pictures shows what both do: [H, W] in [0, 1], soft at edges, 0 where nothing is shared."""
    if name == pair.first:
        return pair.match.reference_mask(picture.height, picture.width)
    mirrored, quarters = VIEWS[pair.view]
    size = (picture.width, picture.height) if quarters % 2 else (picture.height, picture.width)
    seen = np.rot90(pair.match.target_mask(*size), -quarters)
    return seen[:, ::-1] if mirrored else seen


def pale(picture: LoadedImage, mask: Array) -> torch.Tensor:
    """A picture [1, 3, H, W] that is pale where a mask is 0."""
    strength = OUTSIDE + (1 - OUTSIDE) * torch.from_numpy(np.ascontiguousarray(mask, np.float32))
    return 1 - strength * (1 - picture.tensor())
