"""How well features find the same detail in another style: the yardstick of art-resnet and of its teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.data.folders import Crops, ImageSet
from artmodels.features.extractor import FeatureExtractor
from artmodels.methods.fast_style import FastStyle

__all__ = ["EVERY", "Standard", "features_of", "local_features", "pair_correlation", "recall", "squares", "stylised"]

EVERY = 16  # px between the details that are compared
ROWS = 1024  # compared at once


@dataclass(frozen=True)
class Standard:
    """Mean and deviation [1, C, 1, 1] of each channel at each tap, by which features are centred and scaled.

    Features of a pre-activated network are sums that nothing has centred: their mean would be part of every cosine.
    """

    statistics: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, features: Mapping[str, Tensor]) -> "Standard":
        """From features [N, C, H, W] by tap; channels that never change are left alone."""
        return cls(
            {
                tap: (value.mean((0, 2, 3), keepdim=True), value.std((0, 2, 3), keepdim=True).clamp_min(1e-6))
                for tap, value in features.items()
            }
        )

    def __call__(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Centre and scale."""
        found = {}
        for tap, value in features.items():
            mean, deviation = self.statistics[tap]
            found[tap] = (value - mean) / deviation
        return found


def squares(files: Sequence[Path], count: int, size: int, rng: torch.Generator) -> Tensor:
    """One square of each of `count` files spread over `files`, as large as it can be: [count, 3, size, size]."""
    count = min(count, len(files))
    chosen = [files[index * len(files) // count] for index in range(count)]
    crops = Crops(size=size, smallest=1.0, flips=False)
    return torch.cat([crops(ImageSet.load([file], side=size), 1, rng) for file in chosen])


def stylised(batch: Tensor, style: FastStyle) -> Tensor:
    """Each image of [N, 3, H, W] in a style, rounded to 8 bits."""
    return torch.cat([style(images.to_pil(image[None])).tensor for image in batch])


def local_features(features: Tensor, stride: int) -> Tensor:
    """The features every 16 pixels of [N, C, H, W], of length 1: [N · positions, C]."""
    step = EVERY // stride
    grid = features[..., step // 2 :: step, step // 2 :: step]
    return F.normalize(grid.permute(0, 2, 3, 1).flatten(0, 2), dim=1)


def recall(queries: Tensor, base: Tensor) -> float:
    """Share of the rows of `queries` whose nearest row of `base`, by cosine, is the one of the same number.

    Both are [P, C], of rows of length 1.
    """
    right = 0
    for start in range(0, len(queries), ROWS):
        nearest = (queries[start : start + ROWS] @ base.T).argmax(1)
        right += int((nearest == torch.arange(start, start + len(nearest))).sum())
    return right / len(queries)


def pair_correlation(ours: Tensor, theirs: Tensor) -> float:
    """Correlation of the cosines that two networks give to the same pairs of details, which are rows of length 1."""
    pairs = torch.triu_indices(len(ours), len(ours), 1)
    both = torch.stack([(rows @ rows.T)[pairs[0], pairs[1]] for rows in (ours, theirs)])
    return float(torch.corrcoef(both)[0, 1])


@torch.no_grad()
def features_of(extractor: FeatureExtractor, batch: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
    """Features of a batch, one image at a time: memory does not grow with it."""
    parts = [extractor(image[None], taps) for image in batch]
    return {tap: torch.cat([part[tap] for part in parts]) for tap in taps}
