"""The training loop: schedule, averages, and runs that are interrupted and go on to the same bits."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from artmodels.errors import ArtModelsError, ConfigError, DatasetError, WeightsError
from artmodels.runtime.devices import generator
from artmodels.training import METRICS, STATE, Recipe, TrainingConfig, fit

CONFIG = TrainingConfig(steps=12, rate=0.05, warmup=3, average=0.8)


class Line(Recipe):
    """Fit y = 2x + 1 by a network whose normalisation keeps running statistics."""

    files = ()

    def __init__(self, width=3, break_at=None):
        self.network = nn.Sequential(nn.Linear(1, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
        draw = generator(0)
        for value in self.network.parameters():
            value.data.normal_(generator=draw)
        self.break_at, self.calls = break_at, 0

    def losses(self, rng):
        self.calls += 1
        x = torch.rand(8, 1, generator=rng)
        loss = (self.network(x) - (2 * x + 1)).square().mean()
        return {"fit": loss, "decay": 1e-4 * self.network[0].weight.square().sum() / (self.calls != self.break_at)}

    def checkpoint(self):
        return {}, dict(self.network.state_dict())

    def evaluate(self):
        return {}


def run(folder=None, config=CONFIG, recipe=None, **options):
    recipe = recipe or Line()
    steps = list(fit(recipe, config, folder=folder, **options))
    return steps, {key: value.clone() for key, value in recipe.network.state_dict().items()}


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def steps_in(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / METRICS).read_text().splitlines()]


# --- schedule


def test_rate_rises_then_falls_on_a_cosine() -> None:
    config = TrainingConfig(steps=101, rate=1.0, rate_end=0.1, warmup=10)
    rates = [config.rate_at(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[4] == pytest.approx(0.5, rel=0.01)
    assert rates[50] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert max(rates) == max(rates[9:11])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"steps": 0}, "steps=0"),
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"rate_end": 1.5}, "rate_end=1.5"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"warmup": -1}, "warmup=-1"),
        ({"average": 1.0}, "average=1.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
    ],
)
def test_wrong_settings_are_named(fields, text) -> None:
    with pytest.raises(ConfigError, match=text):
        TrainingConfig(**{"steps": 1, **fields})


# --- the loop


def test_training_learns_and_reports_every_step(tmp_path) -> None:
    steps, _ = run(tmp_path, TrainingConfig(steps=150, rate=0.05, warmup=3))
    assert [progress.done for progress in steps] == list(range(1, 151)) == steps_in(tmp_path)
    assert steps[-1].losses["fit"] < 0.1 * steps[0].losses["fit"]
    assert steps[0].losses.keys() == {"fit", "decay"}
    assert steps[-1].seconds >= steps[0].seconds > 0


def test_the_result_is_the_average_of_weights() -> None:
    recipe, means = Line(), None
    iterator = fit(recipe, CONFIG)
    for step, _ in enumerate(iterator):
        now = {key: value.detach().clone() for key, value in recipe.network.named_parameters()}
        means = means or {key: value.clone() for key, value in Line().network.named_parameters()}
        weight = min(CONFIG.average, (step + 1) / (step + 10))
        means = {key: weight * means[key] + (1 - weight) * now[key] for key in now}
    for key, value in recipe.network.named_parameters():
        torch.testing.assert_close(value.detach(), means[key].detach())
        assert not torch.equal(value, now[key])


def test_seeds_differ_and_the_same_one_repeats() -> None:
    other = TrainingConfig(steps=12, rate=0.05, warmup=3, average=0.8, seed=1)
    assert equal(run()[1], run()[1])
    assert not equal(run()[1], run(config=other)[1])


def test_a_loss_that_is_no_number_stops_the_training(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no longer a number at step 5"):
        run(tmp_path, recipe=Line(break_at=5))


# --- going on


@pytest.mark.parametrize("average", [0.0, 0.8])
@pytest.mark.parametrize("stops", [(1,), (5,), (3, 4, 11), (12,)])
def test_an_interrupted_run_gives_the_same_bits(tmp_path, stops, average) -> None:
    config = TrainingConfig(steps=12, rate=0.05, warmup=3, average=average)
    for stop in stops:
        run(tmp_path, config, until=stop)
    rest, weights = run(tmp_path, config)
    assert len(rest) == 12 - stops[-1]
    assert steps_in(tmp_path) == list(range(1, 13))
    assert equal(weights, run(config=config)[1])


def test_a_killed_run_gives_the_same_bits(tmp_path) -> None:
    code = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from pathlib import Path
    from artmodels import training
    from test_training import CONFIG, Line
    training.SAVE_SECONDS = 0.0
    for progress in training.fit(Line(), CONFIG, folder=Path({str(tmp_path)!r})):
        if progress.done == 7:
            print("seven", flush=True)
            import time; time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    with process:
        try:
            assert process.stdout.readline() == b"seven\n"
        finally:
            process.kill()
    with (tmp_path / METRICS).open("a") as metrics:
        metrics.write('{"step": 8, "fi')  # what a kill in the middle of a line leaves
    rest, weights = run(tmp_path)
    assert [progress.done for progress in rest] == [8, 9, 10, 11, 12]
    assert steps_in(tmp_path) == list(range(1, 13))
    assert equal(weights, run()[1])


def test_a_write_that_fails_leaves_the_state_before(tmp_path, monkeypatch) -> None:
    run(tmp_path, until=4)
    before = (tmp_path / STATE).read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ArtModelsError, match="No space left"):
        patch.setattr(os, "fsync", full)
        run(tmp_path)
    assert (tmp_path / STATE).read_bytes() == before
    assert equal(run(tmp_path)[1], run()[1])


def test_the_state_of_another_training_is_refused(tmp_path) -> None:
    run(tmp_path, until=2)
    with pytest.raises(ConfigError, match="other settings"):
        run(tmp_path, TrainingConfig(steps=13, rate=0.05, warmup=3, average=0.8))
    with pytest.raises(ConfigError, match="another network"):
        run(tmp_path, recipe=Line(width=4))
    (tmp_path / STATE).write_bytes(b"not a state")
    with pytest.raises(WeightsError, match="is damaged"):
        run(tmp_path)
