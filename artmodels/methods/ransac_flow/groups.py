"""Several pictures of one thing brought onto one of them, and their mean: the sharper it is, the better they fit.

Shen, Darmon, Efros and Aubry 2020 (arXiv:2004.01526), section 4.4, averages details of paintings found by ArtMiner.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import torch
from PIL import Image
from scipy.ndimage import laplace
from torch import Tensor

from artmodels import images
from artmodels.errors import ConfigError
from artmodels.images.colour import luminance
from artmodels.images.resampling import resized
from artmodels.methods.ransac_flow.pipeline import Prepared, RansacFlow
from artmodels.methods.ransac_flow.results.alignment import Alignment, Warp
from artmodels.progress import Progress, result_of

__all__ = ["Group", "Mean", "Stage", "align_group", "sharpness", "stream_align_group"]

Stage = Literal["unaligned", "coarse", "fine"]
STAGES: tuple[Stage, ...] = ("unaligned", "coarse", "fine")
GAMMA = 2.2  # light adds, and pixel values are about its root
FAINT = 1e-3  # weight below which nothing counts


@dataclass(frozen=True, eq=False)
class Mean:
    """The mean of several pictures, and how sharp it is, see `sharpness`."""

    tensor: Tensor  # [1, 3, H, W] in [0, 1]; the mean of light, not of pixel values
    deviation: Tensor  # [H, W], how far the pictures' lightness differs at each place, of [0, 1]
    sharpness: float

    @property
    def image(self) -> Image.Image:
        """As 8-bit RGB."""
        return images.to_pil(self.tensor)


@dataclass(frozen=True, eq=False)
class Group:
    """Pictures that were brought onto one of them.

    Attributes:
        reference: Name of that one.
        alignments: Of the others by name; those that were not `found` are in no mean.
        means: Of all pictures that were aligned, the reference included: "unaligned", that is resized only, "coarse"
            and "fine". The last weighs pixels by their matchability.
    """

    reference: str
    alignments: Mapping[str, Alignment]
    means: Mapping[Stage, Mean]

    @property
    def aligned(self) -> dict[str, Alignment]:
        """The alignments that were found."""
        return {name: alignment for name, alignment in self.alignments.items() if alignment.found}

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the pictures that could not be aligned."""
        return tuple(name for name, alignment in self.alignments.items() if not alignment.found)


class _Sum:
    """Sums that grow picture by picture, so that a group of any size takes the memory of a few pictures."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.light = torch.zeros(1, 3, *size)
        self.square, self.tone, self.weight = torch.zeros(3, *size)

    def add(self, picture: Tensor, weight: Tensor) -> None:
        """A picture [1, 3, H, W], and what each pixel [H, W] counts for."""
        tone = luminance(picture)[0, 0]
        self.light += picture**GAMMA * weight
        self.tone += tone * weight
        self.square += tone.square() * weight
        self.weight += weight

    def mean(self) -> Mean:
        """Of what was added; white where nothing counts."""
        weight = self.weight.clamp_min(FAINT)
        tone = self.tone / weight
        variance = self.square / weight - tone.square()
        light = torch.where(self.weight > FAINT, self.light / weight, 1.0)
        mean = light.clamp(0, 1) ** (1 / GAMMA)
        return Mean(mean, variance.clamp_min(0).sqrt(), sharpness(mean))


def sharpness(image: Tensor) -> float:
    """Variance of the Laplacian of the luminance of [1, 3, H, W] in [0, 1]; the higher, the sharper."""
    return float(laplace(luminance(image)[0, 0].double().numpy(), mode="nearest").var())


def align_group(
    aligner: RansacFlow,
    pictures: Mapping[str, images.Source],
    *,
    reference: str | None = None,
    progress: bool = False,
) -> Group:
    """Bring pictures onto one of them, and average them.

    Args:
        aligner: What aligns.
        pictures: By name, two or more.
        reference: Name of the one that the others are brought onto; None takes the one that shows something of most
            others, of equals the most, for which all pairs are compared coarsely.
        progress: Show a bar.

    Raises:
        ConfigError: There are fewer than two pictures, or none has that name.
        ImageError: One cannot be read.
    """
    return result_of(stream_align_group(aligner, pictures, reference=reference), progress=progress, unit="pair")


def stream_align_group(
    aligner: RansacFlow, pictures: Mapping[str, images.Source], *, reference: str | None = None
) -> Iterator[Progress | Group]:
    """Do what `align_group` does, and say after each pair where it is; the group comes last."""
    if len(pictures) < 2:
        raise ConfigError(f"there are {len(pictures)} pictures: a group needs two or more")
    if reference is not None and reference not in pictures:
        raise ConfigError(f"no picture is called {reference!r}: choose one of {', '.join(pictures)}")
    prepared = {name: aligner.prepare(picture) for name, picture in pictures.items()}
    names = list(prepared)
    total = len(names) - 1 + (0 if reference else len(names) * (len(names) - 1))
    done = 0
    if reference is None:
        agreeing = {name: list[int]() for name in names}
        for done, (one, other) in enumerate(permutations(names, 2), start=1):
            agreeing[one].append(aligner.agreeing(prepared[one], prepared[other]))
            yield Progress(done, total, one)
        reference = max(names, key=lambda name: (sum(map(bool, agreeing[name])), sum(agreeing[name])))
    target = prepared[reference]
    size = target.picture.height, target.picture.width
    sums = {stage: _Sum(size) for stage in STAGES}
    for stage_sum in sums.values():
        stage_sum.add(target.picture.tensor(), torch.ones(size))
    alignments = {}
    for name in names:
        if name == reference:
            continue
        alignments[name] = aligner(prepared[name], target)
        if alignments[name].found:
            _add(sums, prepared[name], alignments[name], size)
        done += 1
        yield Progress(done, total, name)
    yield Group(reference, alignments, {stage: stage_sum.mean() for stage, stage_sum in sums.items()})


def _add(sums: Mapping[Stage, _Sum], source: Prepared, alignment: Alignment, size: tuple[int, int]) -> None:
    picture = source.picture.tensor()
    sums["unaligned"].add(resized(picture, size).clamp(0, 1), torch.ones(size))
    warp = alignment.sound
    moved, inside = Warp.of(warp.matrices[0], *warp.which.shape).read(picture, *size)
    sums["coarse"].add(moved, inside.float())
    moved, inside = warp.read(picture, *size)
    trust = resized(alignment.matchability[None, None], size)[0, 0].clamp(0, 1)
    sums["fine"].add(moved, trust * inside)
