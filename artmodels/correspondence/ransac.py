"""RANSAC with all hypotheses in one batch: which matches of two pictures agree on one transform.

Fischler and Bolles 1981, "Random sample consensus"; the refits are the local optimisation of Chum, Matas and Kittler
2003, "Locally optimized RANSAC"; samples and tolerance are those of Shen, Darmon, Efros and Aubry 2020
(arXiv:2004.01526), section 3.1. Where they count inliers, an inlier counts for less towards the tolerance (MSAC: Torr
and Zisserman 2000, "MLESAC"), which tells good hypotheses from middling ones. Samples that no plausible transform
explains are dropped before anything is scored, which of samples with wrong matches are most.
"""

import math
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence.geometry import SAMPLE, Model, apply, least_squares, minimal, plausible
from artmodels.runtime.devices import generator
from artmodels.settings import Settings, Share

__all__ = ["Fit", "RansacConfig", "draw", "log_nfa", "ransac"]

BLOCK = 2**12  # samples that are solved at once: what they need stays in a core's cache
REUSED = 2**19  # bytes of a block of residuals: a few of these stay in a core's cache
KEPT = 4  # hypotheses that are refined
FEW = 50  # with fewer candidates, samples are distinct


@dataclass(frozen=True, kw_only=True)
class RansacConfig(Settings):
    """How a transform is looked for."""

    model: Annotated[
        Model,
        "Kind of each transform; a scaling has a factor and a shift for each axis, and a similarity is one of pixels.",
    ] = "homography"
    hypotheses: Annotated[int, Interval(ge=1, le=10**7), "Samples that are drawn for each transform."] = 10_000
    tolerance: Annotated[
        float, Interval(gt=0, le=2), "Distance of an inlier in relative units, 0.05 is 2.5 % of a side."
    ] = 0.05
    least: Annotated[int, Ge(0), "Inliers of the first transform below which there is no alignment."] = 8
    share: Annotated[Share, "Share of the matches that must be inliers."] = 0.05
    seed: Annotated[int, Ge(0), "Of the samples."] = 0


@dataclass(frozen=True, eq=False)
class Fit:
    """What RANSAC found, or why it found nothing."""

    matrix: Tensor | None  # [3, 3] float64 from relative target to relative source coordinates, 1 in its last place
    inliers: Tensor  # [m] bool, the matches that agree; none where nothing was found
    score: float = 0.0  # sum of the weights of the inliers of the best hypothesis, also where nothing was found
    hypotheses: int = 0  # samples that were sound and scored
    reason: str = ""  # why nothing was found, in a sentence


def draw(candidates: int, size: int, samples: int, seed: int, *, repeated: bool = False) -> Tensor:
    """Samples of `size` candidates each, by number: int64 [n, size]. The same arguments give the same samples.

    Below 50 candidates no two samples are alike, and there are C(candidates, size) at most. Where they may be
    `repeated`, two samples may be alike and one may have a candidate twice, however few there are: it is quicker.
    """
    source = generator(seed)
    if candidates < FEW and not repeated:
        total = math.comb(candidates, size)
        flat = np.fromiter(chain.from_iterable(combinations(range(candidates), size)), np.int64, total * size)
        table = torch.from_numpy(flat.reshape(total, size))
        return table if total <= samples else table[torch.randperm(total, generator=source)[:samples]]
    uniform = torch.rand(samples, size, generator=source, dtype=torch.float64)
    if repeated:
        return (uniform * candidates).long()
    drawn = (uniform * (candidates - torch.arange(size))).long()
    for position in range(1, size):  # a number among those that are left becomes one among all
        for earlier in drawn[:, :position].sort(1).values.T:
            drawn[:, position] += drawn[:, position] >= earlier
    return drawn


def ransac(
    target: Tensor,
    source: Tensor,
    config: RansacConfig | None = None,
    weights: Tensor | None = None,
    *,
    aspects: tuple[float, float] = (1.0, 1.0),
    isotropic: bool = False,
    refinements: int = 4,
) -> Fit:
    """Find the transform that most matches agree on; samples do not depend on the device.

    Args:
        target: [m, 2] relative places in the target.
        source: [m, 2] of their partners in the source.
        config: Settings.
        weights: [m], what each match counts for in scores and refits; None for 1.
        aspects: Width by height of the target and of the source: only a similarity and `isotropic` need them.
        isotropic: Measure residuals alike along both axes, with the mean of the sides as the unit; otherwise each in
            its own side, as the paper does.
        refinements: How often the best hypotheses are fitted again to their inliers; the paper's program never does.
    """
    config = config or RansacConfig()
    count, size = len(target), SAMPLE[config.model]

    def nothing(why: str, score: float = 0.0, hypotheses: int = 0) -> Fit:
        none = torch.zeros(count, dtype=torch.bool, device=target.device)
        return Fit(None, none, score, hypotheses, f"{why}: the pictures may not show the same thing")

    if count < size:
        few = "is only 1 match" if count == 1 else f"are only {count} matches"
        return nothing(f"there {few}, and a transform ({config.model}) needs {size}")
    weights = torch.ones(count, device=target.device) if weights is None else weights.float()

    # Where a unit is the same along both axes. The others change nothing but rounding, and stay as they are.
    same = isotropic or config.model == "similarity"
    units = [target.new_tensor([a**0.5, a**-0.5] if same else [1.0, 1.0], dtype=torch.float64) for a in aspects]
    target, source = target.double() * units[0], source.double() * units[1]
    to_relative = F.pad(units[0], (0, 1), value=1.0) / F.pad(units[1], (0, 1), value=1.0)[:, None]

    # What is drawn twice is degenerate.
    samples = draw(count, size, config.hypotheses, config.seed, repeated=True).to(target.device)
    parts = list[Tensor]()
    for block in torch.split(samples, BLOCK):
        solved, sound = minimal(target[block], source[block], config.model)
        solved = solved[sound]
        parts.append(solved[plausible(solved * to_relative)])
    matrices = torch.cat(parts)
    if not len(matrices):
        return nothing(f"no {size} of the {count} matches fit a plausible transform ({config.model})")

    residuals = _Residuals(target, source, weights, config.tolerance)
    order = residuals.scores(matrices).sort(descending=True, stable=True).indices[:KEPT]
    best = matrices[order]
    values, rounds = [residuals.scores(best)], [best]
    for _ in range(refinements):
        best = least_squares(target, source, residuals.influence(best), config.model)
        values.append(residuals.scores(best).where(plausible(best * to_relative), -1.0))
        rounds.append(best)
    matrix = torch.cat(rounds)[torch.cat(values).argmax()]
    inliers = residuals.squared(matrix) < 1
    score, agreeing = float(weights[inliers].sum()), int(inliers.sum())
    needed = max(config.least, config.share * count)
    if agreeing < needed:
        few = f"only {agreeing} of {count} matches agree on a transform ({config.model})"
        return nothing(f"{few}, of {math.ceil(needed)} needed", score, len(matrices))
    return Fit(matrix * to_relative, inliers, score, len(matrices))


class _Residuals:
    """Squared distances of matches under hypotheses, in units of the tolerance."""

    def __init__(self, target: Tensor, source: Tensor, weights: Tensor, tolerance: float) -> None:
        self.target, self.source, self.weights, self.tolerance = target, source, weights, tolerance
        points = F.pad(target, (0, 1), value=1.0).T  # [3, m]
        # h1 p - x (h3 p) is linear in h1 and h3: both axes are products of one kind, and nothing is divided.
        self.products = [torch.cat([points, -value * points]).float() for value in source.T]  # [6, m]
        self.points = points.float() * tolerance

    def squared(self, matrix: Tensor) -> Tensor:
        """Of one hypothesis [3, 3]: [m] float64."""
        return (apply(matrix, self.target) - self.source).square().sum(1) / self.tolerance**2

    def influence(self, matrices: Tensor) -> Tensor:
        """Weights [n, m] float64 of a refit: those of the inliers, less towards the tolerance (Tukey's biweight)."""
        off = apply(matrices, self.target.expand(len(matrices), -1, 2)) - self.source
        return self.weights * (1 - off.square().sum(2) / self.tolerance**2).clamp(min=0).square()

    def scores(self, matrices: Tensor) -> Tensor:
        """Of hypotheses [n, 3, 3] whose horizon is outside: the inliers' sum of 1 - e^2 / t^2 (MSAC), [n] float32."""
        matrices = matrices.float()
        rows = torch.cat([matrices[:, :2], matrices[:, 2:].expand(-1, 2, -1)], 2)  # [n, 2, 6]
        found = matrices.new_empty(len(matrices))
        bound = REUSED if found.device.type == "cpu" else REUSED * 2**8
        step = max(1, bound // (4 * len(self.weights)))
        for start in range(0, len(found), step):
            part = slice(start, start + step)
            x, y = (rows[part, axis] @ self.products[axis] for axis in (0, 1))
            depth = (matrices[part, 2] @ self.points).square_()
            squared = x.square_().addcmul_(y, y)
            torch.mv(squared.div_(depth).neg_().add_(1).clamp_(min=0), self.weights, out=found[part])
        return found


def log_nfa(matches: int, inliers: int, tolerance: float) -> float:
    """Decimal logarithm of the number of false alarms: of homographies that fit so well by chance, how many to expect.

    Moisan and Stival 2004, "A probabilistic criterion to detect rigid point matches between two images": with m
    matches, of which k agree, (m - 4) C(m, k) C(k, 4) alpha^(k - 4), where alpha is the chance that a place anywhere in
    the source, 2 x 2 in relative units, is within the tolerance. Below 0 the matches are hardly chance; it is infinite
    where k is not above 4, which any four matches reach.
    """
    if inliers <= 4:
        return math.inf
    chance = math.pi * tolerance**2 / 4
    ways = _log_choose(matches, inliers) + _log_choose(inliers, 4)
    return math.log10(matches - 4) + (ways / math.log(10)) + (inliers - 4) * math.log10(chance)


def _log_choose(count: int, chosen: int) -> float:
    return math.lgamma(count + 1) - math.lgamma(chosen + 1) - math.lgamma(count - chosen + 1)
