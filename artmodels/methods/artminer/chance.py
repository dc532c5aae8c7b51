"""What a detail scores where it is not: a box on a sky, a wall or a border is like much of any collection.

A search brings its own null model, the collection, like the cohorts by which speaker recognition normalises its scores
(Auckenthaler, Carey and Lloyd-Thomas 2000, "Score normalization for text-independent speaker verification systems").
Most of its pictures do not show the detail; and where all do, as where copies of one composition are compared, the best
place of each does, and the others do not. So the second best places say what the detail scores by chance, and their
median and median absolute deviation are not moved by what a few pictures show twice.
"""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["LEAST", "chance_level"]

LEAST = 5  # pictures with two places or more, below which they say little
DEVIATIONS = 6.0  # chosen on one draw of benchmarks/artminer_thresholds.py, measured on others
NORMAL = 1.4826  # standard deviations of a normal distribution for its median absolute deviation
# The deviation of few pictures is chance itself: it is averaged with that of so many more, a usual share of the median.
PRIOR, SHARE = 10, 0.15


def chance_level(scores: Sequence[Sequence[float]]) -> float:
    """The score that a detail hardly reaches in pictures that do not show it.

    The scores are, of each picture of a collection, those of its places, which do not overlap, best first. The level is
    six robust standard deviations above the median of the second best ones; minus infinity where fewer than five
    pictures have any.
    """
    second = np.array([places[1] for places in scores if len(places) > 1])
    if len(second) < LEAST:
        return -math.inf
    middle = float(np.median(second))
    deviation = NORMAL * float(np.median(np.abs(second - middle)))
    deviation = (len(second) * deviation + PRIOR * SHARE * middle) / (len(second) + PRIOR)
    return middle + DEVIATIONS * deviation
