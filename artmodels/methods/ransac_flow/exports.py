"""An alignment, or a group of them, as values for JSON and as files to take home."""

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artmodels.errors import ConfigError, short
from artmodels.methods.ransac_flow.groups import Group
from artmodels.methods.ransac_flow.results.alignment import Alignment

__all__ = ["TRUSTED", "checked_points", "correspondences", "group_summary", "pack_group", "summary"]

LATTICE = 16  # correspondences along a side in a summary
TRUSTED = 0.5  # matchability of those
MOST_POINTS = 10_000  # that are looked up at a time


def summary(alignment: Alignment) -> dict[str, Any]:
    """Everything there is to say of a pair: whether it was found, transforms, correspondences, settings.

    The `correspondences` are places evenly over the target that can be matched, see `correspondences`.
    """
    lattice = list[dict[str, Any]]()
    if alignment.found:
        steps = (np.arange(LATTICE) + 0.5) / LATTICE
        points = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2) * alignment.sizes[1]
        found = correspondences(alignment, points.tolist())
        lattice = [point for point in found if point["inside"] and point["matchability"] >= TRUSTED]
    return _facts(alignment) | {
        "source_size": list(alignment.sizes[0]),
        "target_size": list(alignment.sizes[1]),
        "correspondences": lattice,
        "notes": list(alignment.notes),
        "settings": alignment.settings,
    }


def correspondences(alignment: Alignment, points: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Find points (x, y) of the target, in its pixels, in the source.

    Of each there is `target` and `source` (x and y in pixels of each), `matchability`, and whether it is `inside` the
    source.

    Raises:
        ConfigError: There is no alignment, or a point is outside the target.
    """
    given = torch.tensor(points, dtype=torch.float64).reshape(-1, 2)
    found = alignment.places(given)
    rows = zip(given.tolist(), found.source.tolist(), found.matchability.tolist(), found.inside.tolist(), strict=True)
    return [
        {
            "target": [round(value, 2) for value in target],
            "source": [round(value, 2) for value in source],
            "matchability": round(trust, 3),
            "inside": inside,
        }
        for target, source, trust, inside in rows
    ]


def checked_points(given: Sequence[Sequence[float]] | None) -> list[tuple[float, float]]:
    """Take points that somebody sent as JSON: a list of [x, y], or None for no points.

    Raises:
        ConfigError: It is anything else, a number is not finite, or there are more than `MOST_POINTS`.
    """
    try:
        points = [(float(x), float(y)) for x, y in (given or ())[: MOST_POINTS + 1]]
        finite = all(map(math.isfinite, chain(*points)))
    except (TypeError, ValueError, OverflowError, KeyError):
        finite = False
    if not finite:
        raise ConfigError(f"points={short(given)} must be a list of [x, y] in pixels of the target")
    if len(points) > MOST_POINTS:
        raise ConfigError(f"There are more than {MOST_POINTS} points: look them up in several calls.")
    return points


def group_summary(group: Group) -> dict[str, Any]:
    """Everything there is to say of a group: reference, sharpness of the means, what was left out, each alignment."""
    return {
        "reference": group.reference,
        "sharpness": {stage: mean.sharpness for stage, mean in group.means.items()} if group.aligned else {},
        "left_out": list(group.left_out),
        "alignments": {name: _facts(alignment) for name, alignment in group.alignments.items()},
    }


def pack_group(group: Group, archive: Path, about: Mapping[str, object]) -> None:
    """Write the means, every aligned picture, and `about` as `group.json` into a ZIP file."""
    pictures = {f"mean-{stage}.png": mean.image for stage, mean in group.means.items()} if group.aligned else {}
    pictures |= {f"aligned/{name}.png": each.image for name, each in group.aligned.items()}
    with zipfile.ZipFile(archive, "w") as packed:  # stored: PNG is compressed already
        packed.writestr("group.json", json.dumps(about, indent=1))
        for name, picture in pictures.items():
            with packed.open(name, "w") as file:
                picture.save(file, "PNG", compress_level=3)


def _facts(alignment: Alignment) -> dict[str, Any]:
    return {
        "found": alignment.found,
        "score": round(alignment.score, 4),
        "reason": alignment.reason,
        "view": alignment.view,
        "inliers": alignment.inliers,
        "matches": alignment.matches,
        "homographies": alignment.matrices.tolist() if alignment.found else [],
    }
