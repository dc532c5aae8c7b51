"""How far alignments are from a known truth: endpoint errors, shares of right places, errors of camera poses.

Shen, Darmon, Efros and Aubry 2020 (arXiv:2004.01526), section 4. What is measured on is read by `protocols`.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import length_hint
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from artmodels import images
from artmodels.errors import ConfigError
from artmodels.methods.ransac_flow.evaluation.twoview import MATCHED, correspondences, pose_error, relative_pose
from artmodels.methods.ransac_flow.results.alignment import Alignment, opencv
from artmodels.progress import Progress, result_of

__all__ = [
    "LIMITS",
    "Example",
    "PosePair",
    "AlignmentScores",
    "Truth",
    "endpoint_errors",
    "evaluate",
    "evaluate_poses",
    "stream_evaluate",
    "stream_evaluate_poses",
]

Aligner = Callable[[images.Source, images.Source], Alignment]
Floats = npt.NDArray[np.float64]
LIMITS = (1, 3, 5)
WRONG = 180.0  # degrees, the error of a pose that was not found


@dataclass(frozen=True, eq=False)
class Truth:
    """Where places of the target are in the source."""

    target: Tensor  # [n, 2] relative
    source: Tensor  # [n, 2] relative, float64
    size: tuple[int, int]  # width and height of the source in the pixels that errors are counted in
    groups: Mapping[str, Tensor]  # which of the places count for what figure: [n] bool by name


class Example(NamedTuple):
    """A pair of pictures and what is known of it."""

    source: images.Source
    target: images.Source
    truth: Truth


Pair = tuple[images.Source, images.Source, Truth]


class PosePair(NamedTuple):
    """A pair of pictures by known cameras: how does the source's stand to the target's?"""

    source: images.Source
    target: images.Source
    source_camera: Floats  # [3, 3], the intrinsic matrix; centres of pixels are integers
    target_camera: Floats
    rotation: Floats  # [3, 3], from the target camera's axes to the source's
    translation: Floats  # [3] of the same; its length does not count


@dataclass(frozen=True, eq=False)
class AlignmentScores:
    """Of P pairs."""

    limits: tuple[float, ...]  # T distances in pixels
    errors: Floats  # [P], the mean endpoint error of each, in pixels
    hits: npt.NDArray[np.int64] = field(repr=False)  # [P, T], places of each that are at most so far off
    places: npt.NDArray[np.int64] = field(repr=False)  # [P], those that were measured
    found: npt.NDArray[np.bool_] = field(repr=False)  # [P], whether there is an alignment
    seconds: Floats = field(repr=False)  # [P], of the clock

    @property
    def aepe(self) -> float:
        """Mean over pairs of their mean endpoint errors."""
        return float(self.errors.mean())

    @property
    def median(self) -> float:
        """Median over pairs of their mean endpoint errors."""
        return float(np.median(self.errors))

    @property
    def pck(self) -> Mapping[float, float]:
        """Share of all places that are right, by limit: a pair with more places counts for more."""
        return dict(zip(self.limits, (self.hits.sum(0) / self.places.sum()).tolist(), strict=True))

    @property
    def pair_pck(self) -> Mapping[float, float]:
        """Mean over pairs of the share of their places that are right, by limit."""
        return dict(zip(self.limits, (self.hits / self.places[:, None]).mean(0).tolist(), strict=True))


def endpoint_errors(found: Tensor, truth: Tensor, size: tuple[int, int]) -> Tensor:
    """Distances of relative places [..., 2] in pixels of a picture of (width, height): [...] float64."""
    unit = torch.tensor(size, dtype=torch.float64) / 2
    distances: Tensor = ((found.double() - truth.double()) * unit).norm(dim=-1)
    return distances


def evaluate(
    aligner: Aligner, pairs: Iterable[Pair], *, progress: bool = False, **options: Any
) -> dict[str, AlignmentScores]:
    """The scores that `stream_evaluate` gives last; `progress` shows a bar."""
    return result_of(stream_evaluate(aligner, pairs, **options), progress=progress, unit="pair")


@torch.inference_mode()
def stream_evaluate(
    aligner: Aligner,
    pairs: Iterable[Pair],
    *,
    limits: tuple[float, ...] = LIMITS,
    unfound: Literal["identity", "wrong"] = "identity",
) -> Iterator[Progress | dict[str, AlignmentScores]]:
    """Align pairs and measure how far places are off.

    Args:
        aligner: Takes source and target: a `RansacFlow`, or what wraps one.
        pairs: What `protocols` reads, or any (source, target, truth).
        limits: Distances in pixels for the share of right places.
        unfound: What counts where no alignment was found: that each place stays where it is, as the paper does on
            HPatches; or that all places are wrong, infinitely far off, as it does on MegaDepth.

    Yields:
        Where it is, after each pair; last, the scores by the names of the truth's groups. A group without a place in a
        pair leaves the pair out.

    Raises:
        ConfigError: No pair has a place that counts.
    """
    rows = defaultdict[str, list[tuple[Any, ...]]](list)
    total = length_hint(pairs)
    for done, (source, target, truth) in enumerate(pairs, start=1):
        start = time.perf_counter()
        result = aligner(source, target)
        seconds = time.perf_counter() - start
        if result.warp is None and unfound == "wrong":
            errors = torch.full((len(truth.target),), math.inf, dtype=torch.float64)
        else:
            found = truth.target if result.warp is None else result.warp.at(truth.target)
            errors = endpoint_errors(found, truth.source, truth.size)
        for name, counted in truth.groups.items():
            part = errors[counted]
            if len(part):
                hits = [int((part <= limit).sum()) for limit in limits]
                rows[name].append((float(part.mean()), hits, len(part), result.warp is not None, seconds))
        yield Progress(done, max(done, total))
    if not rows:
        raise ConfigError("there is nothing to measure: no pair has a place whose truth is known")
    yield {name: AlignmentScores(limits, *map(np.array, zip(*values, strict=True))) for name, values in rows.items()}


def evaluate_poses(aligner: Aligner, pairs: Iterable[PosePair], *, progress: bool = False, **options: Any) -> Floats:
    """The errors that `stream_evaluate_poses` gives last; `progress` shows a bar."""
    return result_of(stream_evaluate_poses(aligner, pairs, **options), progress=progress, unit="pair")


@torch.inference_mode()
def stream_evaluate_poses(
    aligner: Aligner, pairs: Iterable[PosePair], *, matchable: float = MATCHED, step: int = 4, seed: int = 0
) -> Iterator[Progress | Floats]:
    """Align pairs and measure the poses of cameras that follow; for `twoview.pose_accuracy`.

    Args:
        aligner: Takes source and target. The paper tries the target at four turns: give views "", "90", "180", "270".
        pairs: What `protocols.read_poses` reads.
        matchable: Matchability from which a place counts as a match.
        step: Every so many pixels of the working size are matched; the paper takes all.
        seed: Of RANSAC.

    Yields:
        Where it is, after each pair; last, [P] errors in degrees, see `twoview.pose_error`, 180 where there is no
        alignment or no pose.

    Raises:
        ConfigError: OpenCV is missing.
    """
    opencv("poses of cameras need")  # below, that it is missing would look like a pose that cannot be found
    errors = list[float]()
    total = length_hint(pairs)
    for done, pair in enumerate(pairs, start=1):
        errors.append(_pose_error(aligner(pair.source, pair.target), pair, matchable, step, seed))
        yield Progress(done, max(done, total))
    yield np.array(errors)


def _pose_error(result: Alignment, pair: PosePair, matchable: float, step: int, seed: int) -> float:
    if result.warp is None:
        return WRONG
    target, source = correspondences(result, matchable=matchable, step=step)
    try:
        pose = relative_pose(target, source, pair.target_camera, pair.source_camera, seed=seed)
    except ConfigError:  # there are too few matches, or no essential matrix fits
        return WRONG
    return pose_error(pose, pair.rotation, pair.translation)
