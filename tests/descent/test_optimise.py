import itertools
import math

import pytest
import torch
from torch import Tensor

from artmodels.descent.optimise import FAILURES, Deadline, DescentConfig, levels, minimise
from artmodels.errors import ArtModelsError, ConfigError, DeadlineExceeded

OPTIMISERS = {
    "momentum": DescentConfig(optimiser="momentum", rate=1.0, rate_end=1.0, momentum=0.5),
    "adam": DescentConfig(optimiser="adam", rate=0.1, rate_end=0.01, momentum=0.9),
    "lbfgs": DescentConfig(optimiser="lbfgs", rate=0.1, rate_end=1.0),
}


class Quadratic:
    """Half the squared distance to a target, times a stiffness for each pixel; other targets in other rounds."""

    natural_step = 1.0

    def __init__(self, target: Tensor, *, stiffness: Tensor | float = 1.0, random: bool = False) -> None:
        self.target, self.stiffness, self.random = target, stiffness, random
        self.round, self.rounds, self.points = -1, [], []

    def refresh(self, round_: int) -> None:
        self.rounds.append(round_)
        if self.random:
            self.round = round_

    def value_and_grad(self, x: Tensor) -> tuple[float, Tensor]:
        self.points.append(x.clone())
        shift = 0.01 * (self.round % 2) if self.random else 0.0
        gradient = self.stiffness * (x - self.target - shift)
        return float((gradient * (x - self.target - shift)).sum() / 2), gradient


class Cliff(Quadratic):
    """A quadratic that is not a number where any pixel is above an edge."""

    edge = 0.5

    def value_and_grad(self, x: Tensor) -> tuple[float, Tensor]:
        loss, gradient = super().value_and_grad(x)
        return (math.nan, gradient * math.nan) if float(x.max()) > self.edge else (loss, gradient)


def image(value: float | None = None, seed: int = 0) -> Tensor:
    if value is not None:
        return torch.full((1, 3, 4, 5), value)
    return torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def run(objective: Quadratic, start: Tensor, **options: object) -> list[tuple[float, Tensor]]:
    return [(loss, x.clone()) for loss, x in minimise(objective, start, **options)]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_optimiser_reaches_the_minimum_of_an_uneven_quadratic(name: str) -> None:
    stiffness = torch.linspace(0.1, 1, 60).view(1, 3, 4, 5)
    objective = Quadratic(image(), stiffness=stiffness)
    trace = run(objective, image(0.0), settings=OPTIMISERS[name], steps=200)
    assert len(trace) == 200
    assert torch.allclose(trace[-1][1], image(), atol=2e-3)
    assert trace[-1][0] < 1e-4 * trace[0][0]


def test_momentum_of_rate_one_lands_on_the_projection_in_one_step() -> None:
    objective = Quadratic(image(), stiffness=4.0)
    objective.natural_step = 0.25
    (_, x), *_ = run(objective, image(0.3), settings=OPTIMISERS["momentum"], steps=1)
    assert torch.allclose(x, image(), atol=1e-6)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_bounds_hold_and_the_bounded_minimum_is_found(name: str) -> None:
    target = 3 * image() - 1
    bounds = torch.tensor(0.0), torch.full((1, 3, 1, 1), 0.8)
    trace = run(Quadratic(target), image(0.4), settings=OPTIMISERS[name], steps=150, bounds=bounds)
    if name == "lbfgs":  # for which they are soft: the caller clamps what comes out
        assert (trace[-1][1] - target).abs().max() < (target.clamp(0, 0.8) - target).abs().max()
    else:
        assert all(x.min() >= 0 and x.max() <= 0.8 for _, x in trace)
    assert torch.allclose(trace[-1][1].clamp(*bounds), target.clamp(0, 0.8), atol=5e-3)


def test_the_start_is_left_alone() -> None:
    start = image(0.25)
    run(Quadratic(image()), start, settings=OPTIMISERS["momentum"], steps=3)
    assert torch.equal(start, image(0.25))


def test_the_rate_falls_geometrically() -> None:
    objective = Quadratic(image(), stiffness=0.0)
    objective.value_and_grad = lambda x: (0.0, torch.ones_like(x))
    optimiser = DescentConfig(optimiser="momentum", rate=0.1, rate_end=0.01, momentum=0.0)
    xs = [image(0.0), *(x for _, x in run(objective, image(0.0), settings=optimiser, steps=3))]
    moves = [float((a - b).mean()) for a, b in itertools.pairwise(xs)]
    assert moves == pytest.approx([0.1, 0.01, 0.001], rel=1e-4)


def test_the_average_weighs_the_past_and_is_not_drawn_to_zero() -> None:
    plain = DescentConfig(optimiser="momentum", rate=0.3, rate_end=1.0, momentum=0.0)
    averaged = DescentConfig(optimiser="momentum", rate=0.3, rate_end=1.0, momentum=0.0, average=0.9)
    xs = [x for _, x in run(Quadratic(image()), image(0.9), settings=plain, steps=5)]
    shown = [x for _, x in run(Quadratic(image()), image(0.9), settings=averaged, steps=5)]
    for count in range(1, 6):
        weights = [0.9 ** (count - 1 - i) for i in range(count)]
        expected = sum(w * x for w, x in zip(weights, xs, strict=False)) / sum(weights)
        assert torch.allclose(shown[count - 1], expected, atol=1e-6)


def test_lbfgs_evaluates_no_point_twice() -> None:
    stiffness = torch.logspace(-3, 0, 60).view(1, 3, 4, 5)
    objective = Quadratic(image(), stiffness=stiffness)
    # A step of L-BFGS that is accepted at once costs one evaluation; bounds move some points, which are then new.
    run(objective, image(0.5), settings=OPTIMISERS["lbfgs"], steps=12, bounds=(torch.tensor(0.0), torch.tensor(0.6)))
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(objective.points, 2))
    plain = Quadratic(image())
    run(plain, image(0.5), settings=OPTIMISERS["lbfgs"], steps=2)
    assert len(plain.points) <= 4


def test_lbfgs_shows_the_best_point_it_has_seen_with_its_loss() -> None:
    objective = Quadratic(3 * image() - 1, stiffness=torch.logspace(-2, 0, 60).view(1, 3, 4, 5))
    trace = run(objective, image(0.4), settings=OPTIMISERS["lbfgs"], steps=30)
    shown = [objective.value_and_grad(x)[0] for _, x in trace]
    assert shown == sorted(shown, reverse=True)
    assert shown == pytest.approx(list(itertools.accumulate((loss for loss, _ in trace), min)))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_round_draws_once_and_rounds_continue_over_levels(name: str) -> None:
    optimiser = DescentConfig(optimiser=name, rate=0.1, rate_end=1.0, momentum=0.9, refresh_every=3)
    objective = Quadratic(image(), random=True)
    run(objective, image(0.0), settings=optimiser, steps=8, first_round=100)
    assert objective.rounds == [100, 103, 106]


def test_lbfgs_forgets_the_best_of_another_draw() -> None:
    objective = Quadratic(image(), random=True)
    optimiser = DescentConfig(optimiser="lbfgs", rate=0.1, rate_end=1.0, refresh_every=5)
    trace = run(objective, image(0.0), settings=optimiser, steps=10, first_round=0)
    assert torch.allclose(trace[4][1], image(), atol=1e-4)
    assert torch.allclose(trace[9][1], image() + 0.01, atol=1e-4)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_step_over_the_edge_is_undone_and_shortened(name: str) -> None:
    # The minimum is safe, but a first step of twice the natural length lands beyond the edge.
    optimiser = DescentConfig(optimiser=name, rate=2.0 if name == "momentum" else 0.6, rate_end=0.1, momentum=0.0)
    objective = Cliff(image(0.4))
    trace = run(objective, image(0.0), settings=optimiser, steps=60)
    assert any(float(x.max()) > 0.5 for x in objective.points)
    assert torch.allclose(trace[-1][1], image(0.4), atol=0.02)
    assert all(math.isfinite(loss) for loss, _ in trace)
    assert torch.equal(trace[1][1], image(0.0)), "the start is the best that is known to be finite"


def test_lbfgs_backs_off_the_edge() -> None:
    trace = run(
        Cliff(image(0.4)), image(0.0), settings=DescentConfig(optimiser="lbfgs", rate=3.0, rate_end=1.0), steps=30
    )
    assert torch.allclose(trace[-1][1], image(0.4), atol=0.02)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_loss_that_stays_non_finite_is_given_up_with_advice(name: str) -> None:
    descent = minimise(Cliff(image(0.4)), image(0.9), settings=OPTIMISERS[name], steps=100)
    shown = list(itertools.islice(descent, FAILURES - 1))
    assert all(torch.equal(x, image(0.9)) for _, x in shown)
    with pytest.raises(ArtModelsError, match=f"non-finite after {FAILURES} restarts.*optimiser='adam'"):
        next(descent)


def test_closing_the_descent_stops_it_at_once() -> None:
    objective = Quadratic(image())
    descent = minimise(objective, image(0.0), settings=OPTIMISERS["adam"], steps=1000)
    next(descent)
    next(descent)
    descent.close()
    assert len(objective.points) == 2


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"optimiser": "sgd"}, "optimiser='sgd' must be one of 'momentum', 'adam', 'lbfgs'"),
        ({"rate": 0.0}, "rate=0.0 must be above 0"),
        ({"rate": math.nan}, "rate=nan must be above 0"),
        ({"rate_end": 1.5}, "rate_end=1.5"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"average": -0.1}, "average=-0.1"),
        ({"refresh_every": 0}, "refresh_every=0 must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(setting: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DescentConfig(**setting)


def test_levels_of_the_paper() -> None:
    assert levels(1024, 768, 2) == [(256, 192), (512, 384), (1024, 768)]
    assert levels(1023, 767, 2) == [(255, 191), (511, 383), (1023, 767)]
    assert levels(100, 60, 0) == [(100, 60)]
    assert levels(8, 2, 3) == [(1, 1), (2, 1), (4, 1), (8, 2)]


def test_levels_between_octaves() -> None:
    assert levels(1024, 512, 1, 2) == [(512, 256), (724, 362), (1024, 512)]


def test_deadline(ticking: list[int]) -> None:
    limit = Deadline(2.5)
    limit.require("anything")
    assert not limit.over  # at 2 s
    assert limit.over
    assert limit.elapsed == 4
    with pytest.raises(DeadlineExceeded, match=r"2\.5 s passed before the first step; allow more time"):
        limit.require("the first step")
    assert not Deadline(None).over
    for wrong in (0, -1, math.nan):
        with pytest.raises(ConfigError, match="above 0, or None for no limit"):
            Deadline(wrong)
