"""Coarse to fine: the descent of `optimise` on a pyramid of sizes, and the resampling between them.

Texture synthesis and neural style run on this loop; they differ in what they descend and from where they start.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from artmodels.descent.optimise import Deadline, Objective, Optimiser, Step, minimise
from artmodels.runtime.devices import generator

__all__ = ["Level", "DescentState", "coarse_to_fine", "coloured_noise"]


def coloured_noise(exemplar: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    """White noise [1, 3, h, w] with the exemplar's mean colour and colour covariance."""
    mean = exemplar.mean(dim=(2, 3), keepdim=True)
    pixels = (exemplar - mean)[0].flatten(1).cpu().double()  # [3, M]
    values, axes = torch.linalg.eigh(pixels @ pixels.T / pixels.shape[1])
    root = (axes * values.clamp_min(0).sqrt()).float()
    noise = torch.randn(3, size[0] * size[1], generator=generator(seed))
    result: Tensor = mean + (root @ noise).view(1, 3, *size).to(exemplar.device)
    return result


class Level(NamedTuple):
    """What to descend at one size."""

    objective: Objective
    start: Tensor  # [1, 3, h, w]
    bounds: tuple[Tensor, Tensor]  # least and greatest value, broadcastable to the image


@dataclass
class DescentState:
    """What `coarse_to_fine` has reached, for whoever reads it after or between its steps.

    Attributes:
        image: [1, 3, h, w], at the size of the level reached.
        losses: Value of the objective at each step so far.
        total: Steps planned.
    """

    image: Tensor
    losses: list[float] = field(default_factory=list)
    total: int = 0

    @property
    def complete(self) -> bool:
        """Whether all steps were taken."""
        return len(self.losses) == self.total

    def cut_short(self, limit: Deadline) -> str:
        """Say in a sentence for users that the deadline ended the work."""
        height, width = self.image.shape[-2:]
        return (
            f"Stopped by the deadline of {limit.seconds:g} s after {len(self.losses)} of {self.total} steps, at "
            f"{width} x {height} px; allow more time for a finer result."
        )


def coarse_to_fine(
    progress: DescentState,
    level: Callable[[int, Tensor], Level],
    *,
    steps: Sequence[int],
    optimiser: Optimiser,
    limit: Deadline,
) -> Iterator[Step]:
    """Descend level after level, each from the result of the one before, until the time is up.

    Args:
        progress: Where to start; updated before each step is yielded.
        level: From the number of a level and the result of the one before, the level.
        steps: Steps at each level.
        optimiser: How to descend.
        limit: Checked before the first step and after each.

    Raises:
        DeadlineExceeded: The time passed before the first step.
    """
    progress.total = sum(steps)
    for number, count in enumerate(steps):
        objective, start, bounds = level(number, progress.image)
        if not progress.losses:
            limit.require("the first step")
        descent = minimise(
            objective, start, optimiser=optimiser, steps=count, bounds=bounds, first_round=len(progress.losses)
        )
        for loss, image in descent:
            progress.image = image.clamp(*bounds)  # soft for L-BFGS, and an average may round beyond them
            progress.losses.append(loss)
            height, width = progress.image.shape[-2:]
            yield Step(
                done=len(progress.losses),
                total=progress.total,
                what=f"loss {loss:.3g}, {width}x{height}",
                level=number,
                levels=len(steps),
                loss=loss,
                image=progress.image,
                seconds=limit.elapsed,
            )
            if limit.over:
                return
