"""Coarse to fine: the descent of `optimise` on a pyramid of sizes, and the resampling between them.

Texture synthesis and neural style run on this loop; they differ in what they descend and from where they start.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from artmodels.descent.optimise import Deadline, Descent, Objective, Step, minimise
from artmodels.errors import ConfigError
from artmodels.images.results import ImageResult
from artmodels.runtime.devices import generator

__all__ = ["LARGEST", "SMALLEST", "CoarseToFine", "Level", "checked_size", "coloured_noise", "scaled"]

SMALLEST = 8  # px: fewer hold no picture
LARGEST = 4096  # px: what the methods were tried up to


def checked_size(size: object) -> tuple[int, int]:
    """(height, width) as a caller asks for it, or a ConfigError."""
    sides = tuple(size) if isinstance(size, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and SMALLEST <= side <= LARGEST for side in sides):
        raise ConfigError(f"size={size!r} must be (height, width) of {SMALLEST} to {LARGEST} px each")
    return sides


def scaled(size: Sequence[int], factor: float) -> tuple[int, int]:
    """(height, width) times a factor, each side at least `SMALLEST`."""
    height, width = (max(SMALLEST, round(side * factor)) for side in size)
    return height, width


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


class CoarseToFine:
    """A descent on levels of growing size, each from the result of the one before, until the time is up.

    `image` [1, 3, h, w] is the result so far, at the size of its level; `losses` are the objective's values so far.
    """

    def __init__(self, start: Tensor, limit: Deadline) -> None:
        """Begin with an image [1, 3, h, w]."""
        self.image = start
        self.limit = limit
        self.losses = list[float]()
        self.total = 0

    def stream(
        self, level: Callable[[int, Tensor], Level], *, steps: Sequence[int], settings: Descent
    ) -> Iterator[Step]:
        """Take `steps` steps at each level, which `level` makes from its number and the result of the one before.

        The time is checked before the first step, where a DeadlineExceeded says that it is up, and after each.
        """
        self.total = sum(steps)
        for number, count in enumerate(steps):
            objective, start, bounds = level(number, self.image)
            if not self.losses:
                self.limit.require("the first step")
            descent = minimise(
                objective, start, settings=settings, steps=count, bounds=bounds, first_round=len(self.losses)
            )
            for loss, image in descent:
                self.image = image.clamp(*bounds)  # soft for L-BFGS, and an average may round beyond them
                self.losses.append(loss)
                height, width = self.image.shape[-2:]
                yield Step(
                    done=len(self.losses),
                    total=self.total,
                    what=f"loss {loss:.3g}, {width}x{height}",
                    level=number,
                    levels=len(steps),
                    loss=loss,
                    image=self.image,
                    seconds=self.limit.elapsed,
                )
                if self.limit.over:
                    return

    def result(self, image: Tensor, settings: Mapping[str, Any], notes: Iterable[str]) -> ImageResult:
        """What a method returns: the final image, its settings, and what a user should know of how it came about."""
        complete = len(self.losses) == self.total
        if not complete:
            height, width = self.image.shape[-2:]
            notes = [
                *notes,
                f"Stopped by the deadline of {self.limit.seconds:g} s after {len(self.losses)} of {self.total} steps, "
                f"at {width} x {height} px; allow more time for a finer result.",
            ]
        return ImageResult(
            tensor=image.cpu(),
            settings=settings,
            losses=tuple(self.losses),
            seconds=self.limit.elapsed,
            complete=complete,
            notes=tuple(notes),
        )
