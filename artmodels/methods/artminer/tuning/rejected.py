"""What an expert's "no" teaches: two pictures, or a detail and a picture, that look alike and do not show the same.

Verdicts come from a file (`evidence.verdicts`). When a backbone is tuned (`tuning.tune`), such pairs are hard
negatives, and never positives. The paper has no verdicts: all of this is ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from artmodels import images
from artmodels.correspondence.cells import Pyramid
from artmodels.detections.boxes import Box
from artmodels.errors import DatasetError, ImageError
from artmodels.methods.artminer.evidence.verdicts import Verdict, hard_negatives
from artmodels.methods.artminer.tuning.mining import Pairs

__all__ = ["Rejected", "cells_inside", "find_rejected", "is_rejected", "rejected_hinge"]

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Rejected:
    """Two pictures that do not show the same."""

    first: int  # number of a picture
    second: int
    box: Box = WHOLE  # of the detail that was asked about, as shares of the first picture


def find_rejected(verdicts: Iterable[Verdict], root: Path, files: Sequence[Path], *, read: int) -> list[Rejected]:
    """Find the pairs, and details and pictures, that were judged "no" among the pictures of a folder.

    Verdicts, all that were given and in their order, name pictures by their path inside the folder `root`. The files
    are in the order of their numbers; `read` of them could be read, and the others have no number.

    Raises:
        DatasetError: There are verdicts "no", and all are about other pictures.
    """
    refused = hard_negatives(verdicts)
    if not refused:
        return []
    if read < len(files):
        files = [path for path in files if _size(path) is not None]
    numbers = {path.relative_to(root).as_posix(): number for number, path in enumerate(files)}
    known = [verdict for verdict in refused if verdict.first in numbers and verdict.second in numbers]
    if not known:
        raise DatasetError(
            f"None of {len(refused)} verdicts “no” is about two pictures that are trained on, such as the one on "
            f"{refused[0].first!r} and {refused[0].second!r}: verdicts name pictures by their path inside the folder, "
            "and about every tenth picture is held out."
        )
    found = list[Rejected]()
    for verdict in known:
        first, box = numbers[verdict.first], WHOLE
        if verdict.box is not None and (size := _size(files[first])) is not None:
            left, top, right, bottom = verdict.box
            box = (left / size[0], top / size[1], right / size[0], bottom / size[1])
        found.append(Rejected(first, numbers[verdict.second], box))
    return found


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels, or None of what cannot be read."""
    try:
        loaded = images.load(path)
    except ImageError:
        return None
    return loaded.width, loaded.height


def cells_inside(box: Box, shape: Sequence[int]) -> Tensor:
    """Numbers int64 [n] of the cells of a map of R x C whose centres are in a box; if none, of the nearest one."""
    rows, columns = shape
    y, x = (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns
    within = ((y >= box[1]) & (y <= box[3]))[:, None] & ((x >= box[0]) & (x <= box[2]))
    if not within.any():
        centre = (box[1] + box[3]) / 2, (box[0] + box[2]) / 2
        within[int((y - centre[0]).abs().argmin()), int((x - centre[1]).abs().argmin())] = True
    return within.flatten().nonzero()[:, 0]


def rejected_hinge(
    first: Tensor, second: Tensor, cells: Tensor, *, hardest: int, negatives: int, threshold: float
) -> Tensor:
    """How much cells, by their numbers in the first map, look like anything in a picture that does not show them.

    The mean of the term [n - (1 - lambda)]+ of `objective.contrast`, where every cell of the second map is a wrong one,
    over the cells that are most deceptive: the `hardest` with the greatest n.
    """
    cosines = first.flatten(1)[:, cells.to(first.device)].T @ second.flatten(1)
    wrong = cosines.topk(min(negatives, cosines.shape[1]), dim=1).values.mean(1)
    worst = wrong.topk(min(hardest, len(wrong))).values
    return (worst - (1 - threshold)).relu().mean()


def is_rejected(
    pairs: Pairs, numbers: Tensor, pyramids: Sequence[Pyramid], patch: int, refused: Iterable[Rejected]
) -> Tensor:
    """Which mined pairs, of patches with so many cells a side, are what an expert rejected: bool [n].

    Pairs are numbered as the pyramids are; `numbers` are those of the pyramids among all pictures, as in `refused`.
    """
    found = torch.zeros(len(pairs.votes), dtype=torch.bool)
    shapes = torch.tensor([[list(cells.shape[1:]) for cells in pyramid.maps] for pyramid in pyramids])
    for pair in refused:
        low, high = torch.tensor(pair.box).view(2, 2)
        for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
            centre = (torch.stack([one.row, one.column], 1) + patch / 2) / shapes[one.image, one.scale]
            within = ((centre.flip(1) >= low) & (centre.flip(1) <= high)).all(1)
            found |= (numbers[one.image] == pair.first) & (numbers[other.image] == pair.second) & within
    return found
