"""Images found by optimisation: one loop under texture synthesis, neural style and feature visualisation.

`minimise` is a generator that takes one step at a time, so that a caller can show progress, stop, or keep to a
deadline without threads or callbacks. `CoarseToFine` runs it on a pyramid of sizes.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import torch
from annotated_types import Interval
from torch import Tensor

from artmodels.errors import ArtModelsError, ConfigError, DeadlineExceeded
from artmodels.images.formats.origin import Origin
from artmodels.images.results import ImageResult
from artmodels.progress import Progress
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Positive, Settings

__all__ = [
    "SMALLEST",
    "CoarseToFine",
    "Deadline",
    "DescentConfig",
    "Level",
    "Objective",
    "Step",
    "coloured_noise",
    "levels",
    "minimise",
    "scaled",
]

Rule = Literal["momentum", "adam", "lbfgs"]
Memory = Annotated[float, Interval(ge=0, lt=1)]
Bounds = tuple[Tensor, Tensor] | None  # least and greatest value, broadcastable to the image

SMALLEST = 8  # px: fewer hold no picture
FAILURES = 5  # non-finite losses in a row before giving up


class Objective(Protocol):
    """A loss over images that knows its own gradient."""

    natural_step: float  # the step length that reaches the minimum of half a squared distance scaled like this loss
    round: int  # number of the current draw; it stays the same where nothing is drawn

    def refresh(self, round_: int) -> None:
        """Draw the random parts (directions, patch positions) for this round; the same round, the same draw."""

    def value_and_grad(self, x: Tensor) -> tuple[float, Tensor]:
        """Loss at x [1, 3, H, W] and its gradient, of x's shape."""


@dataclass(frozen=True, kw_only=True)
class DescentConfig(Settings):
    """How to descend; the defaults are those of patches.

    The rate is a multiple of the objective's natural step for "momentum" (heavy ball: a rate of 1 lands on the
    projection when the loss is half a squared distance), the change of a pixel for "adam" (Kingma & Ba 2015), and that
    of the first trial step for "lbfgs" (20 pairs, strong Wolfe line search).
    """

    optimiser: Annotated[Rule, "momentum for patches, adam for sampled losses, lbfgs for exact ones."] = "momentum"
    rate: Annotated[Positive, "Step length: natural steps for momentum, grey levels (0 to 1) for the others."] = 0.9
    rate_end: Annotated[
        float, Interval(gt=0, le=1), "What remains of the rate at the end of a level; small values remove noise."
    ] = 0.2
    momentum: Annotated[Memory, "Share of the last step carried on."] = 0.0
    average: Annotated[Memory, "Weight of the past in the average that is shown; 0 shows the last iterate."] = 0.0
    refresh_every: Annotated[Count, "Steps that share random directions; lbfgs needs 20 or more on sliced losses."] = 1


@dataclass(frozen=True, kw_only=True)
class Step(Progress):
    """What an iterative method yields after each step; `done` and `total` count over all levels."""

    level: int  # of the image pyramid, from 0, the coarsest
    levels: int  # how many there are
    loss: float
    image: Tensor = field(repr=False)  # [1, 3, h, w] in [0, 1]; later steps change it: clone it to keep it
    seconds: float  # since the start

    @property
    def index(self) -> int:
        """The number of this step, from 1: `done`."""
        return self.done


class Deadline:
    """A time limit, checked between steps: nothing is ever interrupted half-way."""

    def __init__(self, seconds: float | None) -> None:
        """Start the clock: `seconds` from now, None for no limit. A number that is not above 0 is a ConfigError."""
        if seconds is not None and not seconds > 0:
            raise ConfigError(f"deadline={seconds} must be a number of seconds above 0, or None for no limit")
        self.seconds = seconds
        self.start = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.seconds is not None and self.elapsed >= self.seconds

    def require(self, what: str) -> None:
        """Raise `DeadlineExceeded` when the time is up before `what`."""
        if self.over:
            raise DeadlineExceeded(
                f"the deadline of {self.seconds:g} s passed before {what}; "
                "allow more time, ask for a smaller size, or fewer steps"
            )


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    settings: DescentConfig,
    steps: int,
    bounds: Bounds = None,
    first_round: int = 0,
) -> Iterator[tuple[float, Tensor]]:
    """Descend from `start` [1, 3, H, W], yielding (loss, presentable image) after each step.

    The presentable image is the moving average of the iterates where one is kept, the best iterate for L-BFGS, and
    the current iterate otherwise. A step with a non-finite loss or gradient is undone: the best finite iterate is
    restored, the memory cleared and the rate halved; an ArtModelsError says that the loss stayed non-finite.

    Iterates are clamped to the bounds after each step, except those of L-BFGS, whose model of the loss a clamp would
    break: there, the squared excess is penalised. `first_round` is the number of the first random draw, so that levels
    do not share their draws.
    """
    rule = {"momentum": _momentum, "adam": _adam, "lbfgs": _lbfgs}[settings.optimiser]
    x = start.detach().clone()
    best, before, best_loss, last = x.clone(), x.clone(), math.inf, math.inf
    average: Tensor | None = None
    weight = 0.0
    rate, failures = settings.rate, 0
    advance = rule(objective, x, settings, bounds)
    for index in range(steps):
        if index % settings.refresh_every == 0:
            draw = objective.round
            objective.refresh(first_round + index)
            if objective.round != draw:
                best_loss = math.inf  # losses of different draws do not compare
        before.copy_(x)
        loss = advance(rate * settings.rate_end ** (index / max(steps - 1, 1)))
        if not math.isfinite(loss) or not bool(torch.isfinite(x).all()):
            failures += 1
            if failures == FAILURES:
                raise ArtModelsError(
                    f"the loss stayed non-finite after {FAILURES} restarts at step {index + 1}; use optimiser='adam', "
                    "a smaller rate, or look for a constant or damaged input"
                )
            x.copy_(best)
            rate /= 2
            advance = rule(objective, x, settings, bounds)
            yield last, best
            continue
        failures, last = 0, loss
        if loss < best_loss:
            best_loss = loss
            best.copy_(x if settings.optimiser == "lbfgs" else before)
        if settings.average:
            weight = settings.average * weight + 1 - settings.average
            average = x * (1 - settings.average) if average is None else average.lerp_(x, 1 - settings.average)
            yield loss, average / weight
        else:
            yield loss, best if settings.optimiser == "lbfgs" else x


# Takes one step of the given rate in place; returns the loss before it, or after it for L-BFGS, which knows that too.
Advance = Callable[[float], float]


def _clamp(x: Tensor, bounds: Bounds) -> None:
    if bounds is not None:
        torch.clamp(x, *bounds, out=x)


def _momentum(objective: Objective, x: Tensor, settings: DescentConfig, bounds: Bounds) -> Advance:
    velocity = torch.zeros_like(x)

    def advance(rate: float) -> float:
        loss, gradient = objective.value_and_grad(x)
        velocity.mul_(settings.momentum).add_(gradient, alpha=objective.natural_step)
        x.sub_(velocity, alpha=rate)
        _clamp(x, bounds)
        return loss

    return advance


def _adam(objective: Objective, x: Tensor, settings: DescentConfig, bounds: Bounds) -> Advance:
    adam = torch.optim.Adam([x], betas=(settings.momentum, 0.99))

    def advance(rate: float) -> float:
        loss, x.grad = objective.value_and_grad(x)
        adam.param_groups[0]["lr"] = rate
        adam.step()
        _clamp(x, bounds)
        return loss

    return advance


def _lbfgs(objective: Objective, x: Tensor, settings: DescentConfig, bounds: Bounds) -> Advance:
    fresh = partial(
        torch.optim.LBFGS,
        [x],
        max_iter=1,
        max_eval=25,  # without it torch allows 1.25 evaluations an iteration: a line search of one
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )
    lbfgs = fresh()
    last: tuple[int, Tensor, float, Tensor] | None = None
    trial = 1.0

    def closure() -> float:
        nonlocal last
        # torch evaluates each point again where the last line search ended; remembering it saves half the work.
        if last is None or last[0] != objective.round or not torch.equal(last[1], x):
            loss, gradient = objective.value_and_grad(x)
            if bounds is not None:
                excess = x - x.clamp(*bounds)
                loss += excess.square().sum().item() / objective.natural_step
                gradient = gradient.add(excess, alpha=2 / objective.natural_step)
            last = objective.round, x.clone(), loss, gradient
        x.grad = last[3].clone()
        return last[2]

    def advance(rate: float) -> float:
        nonlocal lbfgs, trial
        before = closure()
        if not lbfgs.state and x.grad is not None:
            # torch tries a first step of length 1 / |g|_1, too short to change a float32 loss of so many pixels. One of
            # `rate` grey levels (root mean square) does; later ones start from L-BFGS's own unit step.
            typical = x.grad.square().mean().sqrt().clamp_min(1e-30)
            lbfgs.param_groups[0]["lr"] = float(trial * rate / typical * x.grad.abs().sum().clamp_min(1))
        lbfgs.step(closure)  # type: ignore[no-untyped-call]  # torch leaves LBFGS.step untyped
        lbfgs.param_groups[0]["lr"] = 1.0
        loss = closure()
        if loss >= before:  # a poisoned memory makes no progress ever after: forget it, and try a shorter step
            lbfgs, trial = fresh(), trial / 2
        return loss

    return advance


def levels(height: int, width: int, halvings: int, per_octave: int = 1) -> list[tuple[int, int]]:
    """Sizes from coarse to fine: floor(side / 2^(i / per_octave)), the last one exactly (height, width).

    Source: multi-resolution initialisation (Gonthier et al. 2022): K halvings give K + 1 levels.
    """
    scales = [2 ** (i / per_octave) for i in range(halvings * per_octave, -1, -1)]
    return [(max(1, math.floor(height / scale)), max(1, math.floor(width / scale))) for scale in scales]


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
    settings: DescentConfig | None = None  # None: those of the other levels


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
        self, level: Callable[[int, Tensor], Level], *, steps: Sequence[int], settings: DescentConfig
    ) -> Iterator[Step]:
        """Take `steps` steps at each level, which `level` makes from its number and the result of the one before.

        The time is checked before the first step, where a DeadlineExceeded says that it is up, and after each.
        """
        self.total = sum(steps)
        for number, count in enumerate(steps):
            objective, start, bounds, own = level(number, self.image)
            if not self.losses:
                self.limit.require("the first step")
            descent = minimise(
                objective, start, settings=own or settings, steps=count, bounds=bounds, first_round=len(self.losses)
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

    def result(
        self, image: Tensor, settings: Mapping[str, Any], notes: Iterable[str], origin: Origin | None = None
    ) -> ImageResult:
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
            origin=origin,
        )
