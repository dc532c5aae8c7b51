"""Training the fine stage: its stages, what they let learn, runs that repeat and go on, and that it gets better."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels import features
from artmodels.correspondence.geometry import identity
from artmodels.correspondence.redrawing import engraved
from artmodels.errors import ConfigError
from artmodels.methods.ransac_flow.model import FineConfig, FineNetwork
from artmodels.methods.ransac_flow.training import train
from artmodels.methods.ransac_flow.training.synthetic import WarpConfig, WarpedPairs, Warper, make_pairs
from artmodels.methods.ransac_flow.training.train import (
    PUBLISHED,
    SMOOTH,
    Hands,
    RansacFlowRecipe,
    RansacFlowSettings,
    TrainingStage,
)
from artmodels.runtime.devices import generator
from artmodels.training import Sources, TrainingConfig, fit
from weights import recipes

WEIGHTS = Path(__file__).parents[3] / "weights"
CONFIG = TrainingConfig(steps=4, rate=1e-3, momentum=0.5, warmup=1)
TINY = FineConfig(encoder="published", width=4, heads=(6, 6, 6))
SETTINGS = RansacFlowSettings(
    fine=TINY,
    backbone="",
    # One update each: a run goes through the truth and all published stages.
    stages=(
        TrainingStage(updates=1, truth=1.0, seen=0.5),
        *(dataclasses.replace(stage, updates=1) for stage in PUBLISHED),
    ),
    folders=("paintings",),
    side=80,
    size=64,
    margin=12,
    batch=2,
    styles=(),
    stylised=0.0,
    arbitrary=0.0,
)


def soft(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Shapes of three sizes: [count, 3, size, size]."""
    made = torch.zeros(count, 3, size, size)
    for cell, share in ((16, 0.5), (8, 0.3), (4, 0.2)):
        coarse = torch.rand(count, 3, size // cell + 1, size // cell + 1, generator=rng)
        made += share * F.interpolate(coarse, (size, size), mode="bicubic")
    return made.clamp(0, 1)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    root = tmp_path_factory.mktemp("ransac-flow")
    (root / "paintings").mkdir()
    for number, image in enumerate(soft(15, 96, generator(7))):
        picture = Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())
        picture.save(root / "paintings" / f"{number:02}.png")  # `datasets.split` holds out 14
    return Sources(data=root, teachers=root, weights=WEIGHTS)


def run(sources: Sources, config: TrainingConfig = CONFIG, settings: RansacFlowSettings = SETTINGS, **options):
    recipe = RansacFlowRecipe(settings, sources, seed=0)
    return recipe, [dict(step.losses) for step in fit(recipe, config, **options)]


@pytest.fixture(scope="module")
def trained(sources: Sources):
    return run(sources)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- runs


def test_the_same_seed_gives_the_same_bytes(sources: Sources, trained) -> None:
    recipe, losses = run(sources)
    assert losses == trained[1]
    assert same(recipe.checkpoint()[1], trained[0].checkpoint()[1])
    assert run(sources, dataclasses.replace(CONFIG, seed=1), until=1)[1] != losses[:1]


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(sources: Sources, trained, tmp_path, stop: int) -> None:
    """It also goes on in the stage where it was."""
    run(sources, folder=tmp_path, until=stop)
    recipe, losses = run(sources, folder=tmp_path)
    assert losses == trained[1][stop:]
    assert same(recipe.checkpoint()[1], trained[0].checkpoint()[1])


def test_each_stage_has_its_terms(trained) -> None:
    assert [set(losses) for losses in trained[1]] == [
        {"truth", "seen"},
        {"reconstruction"},
        {"reconstruction", "cycle"},
        {"reconstruction", "cycle", "matchability"},
    ]


def test_stages_come_in_their_order_and_the_last_goes_on(sources: Sources) -> None:
    recipe = RansacFlowRecipe(dataclasses.replace(SETTINGS, stages=PUBLISHED), sources, seed=0)
    for updates, number in ((0, 0), (199, 0), (200, 1), (249, 1), (250, 2), (299, 2), (10_000, 2)):
        recipe.network.updates.fill_(updates)
        assert recipe.stage() == PUBLISHED[number]
    recipe.network.updates.fill_(7)
    recipe.losses(generator(1))
    assert int(recipe.network.updates) == 8


def gradients(recipe: RansacFlowRecipe) -> dict[str, bool]:
    """Which parts have any, after one batch."""
    sum(recipe.losses(generator(1)).values()).backward()
    fine = recipe.network.fine
    return {
        name: any(value.grad is not None and bool(value.grad.any()) for value in getattr(fine, name).parameters())
        for name in ("encoder", "flow", "matchability")
    }


@pytest.mark.parametrize(
    ("stage", "learn"),
    [
        (TrainingStage(updates=1, truth=1.0), {"encoder", "flow"}),
        (TrainingStage(updates=1, truth=1.0, seen=1.0), {"encoder", "flow", "matchability"}),
        (PUBLISHED[0], {"encoder", "flow"}),
        (PUBLISHED[1], {"encoder", "flow"}),
        (PUBLISHED[2], {"encoder", "flow", "matchability"}),
        (SMOOTH, {"flow"}),
    ],
)
def test_what_learns_in_each_stage(sources: Sources, stage: TrainingStage, learn: set[str]) -> None:
    recipe = RansacFlowRecipe(dataclasses.replace(SETTINGS, stages=(stage,)), sources, seed=0)
    assert {name for name, some in gradients(recipe).items() if some} == learn


def test_where_only_the_flow_learns_nothing_else_changes(sources: Sources) -> None:
    settings = dataclasses.replace(SETTINGS, stages=(SMOOTH,))
    before = {key: value.clone() for key, value in FineNetwork(TINY, seed=0).state_dict().items()}
    recipe, _ = run(sources, dataclasses.replace(CONFIG, steps=2), settings)
    after = recipe.network.fine.state_dict()
    changed = {key.partition(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"flow"}
    assert not torch.equal(before["flow.bn1.running_mean"], after["flow.bn1.running_mean"])


# --- terms


class Known(nn.Module):
    """Knows that the first half of the cells lies so many pixels from the second, and the other way round."""

    def __init__(self, across: float, matchable: float = 1.0) -> None:
        super().__init__()
        self.across, self.matchable = across, matchable

    def encode(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 8)

    def match(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        count, _, rows, columns = source.shape
        moved = torch.zeros(count, 2, rows, columns)
        moved[: count // 2, 0], moved[count // 2 :, 0] = self.across, -self.across
        return moved * 2 / (8 * columns), torch.full((count, 1, rows, columns), self.matchable)


def terms(network: nn.Module, stage: TrainingStage, size: int = 96) -> dict[str, float]:
    """Of a target that shows what is 6 px further right in the source."""
    whole = soft(2, 112, generator(3))
    source, target = whole[..., 8 : size + 8, 2 : size + 2], whole[..., 8 : size + 8, 8 : size + 8]
    found = train.unlabelled(network, source, target, stage, margin=16)
    return {name: float(value) for name, value in found.items()}


def test_both_directions_are_brought_onto_each_other() -> None:
    right, wrong, none = (terms(Known(across), PUBLISHED[1]) for across in (6, -6, 0))
    assert right["reconstruction"] == pytest.approx(0, abs=1e-4) and right["cycle"] == pytest.approx(0, abs=1e-5)
    assert wrong["reconstruction"] > none["reconstruction"] > 0.1
    assert [each["cycle"] for each in (wrong, none)] == pytest.approx([0, 0], abs=1e-5)  # they agree, wrong or not


def test_the_matchability_counts_there_and_back() -> None:
    stage = dataclasses.replace(PUBLISHED[2], smooth=1.0)
    found = terms(Known(0, 0.8), stage)
    assert found["matchability"] == pytest.approx(0.01 * (1 - 0.8**2), rel=1e-3)
    assert found["smooth"] == pytest.approx(0, abs=2e-6)
    # What lies outside the margin after it has moved by 6 px does not count: 6 of 64 columns.
    moved = terms(Known(6, 1.0), stage)["matchability"]
    assert moved == pytest.approx(0.01 * 6 / 64, rel=0.05)


class Told(nn.Module):
    """Gives what it was told, whatever the pictures."""

    def __init__(self, result: Tensor) -> None:
        super().__init__()
        self.result = result

    def one_way(self, source: Tensor, target: Tensor) -> Tensor:
        return self.result


def test_the_truth_costs_nothing_where_it_is_seen() -> None:
    grid = identity(16, 24)[None] + 0.1
    seen = torch.ones(1, 1, 16, 24)
    seen[..., 12:] = 0
    pairs = WarpedPairs(torch.zeros(1, 3, 16, 24), torch.zeros(1, 3, 16, 24), grid, seen)
    found = torch.cat([torch.full((1, 2, 16, 24), 0.1), seen], 1)
    found[:, :2, :, 12:] = 5  # unseen: whatever
    right = train.labelled(Told(found), pairs, TrainingStage(updates=1, truth=2.0, seen=0.5))
    assert float(right["truth"]) == pytest.approx(2 * 0.01, rel=1e-2) and float(right["seen"]) < 1e-4
    still = train.labelled(Told(torch.zeros(1, 3, 16, 24)), pairs, TrainingStage(updates=1, truth=2.0))
    # 0.1 of 24 and of 16 px, halved, in units of 8 px.
    assert set(still) == {"truth"} and float(still["truth"]) == pytest.approx(2 * np.hypot(1.2, 0.8) / 8, rel=1e-2)


# --- hands, the report and the checkpoint


class Unchanged:
    def __call__(self, pictures: Tensor, rng: torch.Generator) -> Tensor:
        return pictures.clone()


def test_hands_engrave_and_invert_by_chance() -> None:
    pictures = soft(3, 64, generator(2))
    negative = Hands(Unchanged(), 0.0, 1.0)(pictures, generator(1))
    torch.testing.assert_close(negative, 1 - pictures.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    assert torch.equal(Hands(Unchanged(), 0.0, 0.0)(pictures, generator(1)), pictures)
    drawn = Hands(Unchanged(), 1.0, 0.0)(pictures, generator(1))
    rng = generator(1)
    torch.rand(2, 3, generator=rng)
    seed = int(torch.randint(2**31, (), generator=rng))
    wanted = engraved(pictures[0].permute(1, 2, 0).double().numpy(), np.random.default_rng(seed))
    np.testing.assert_allclose(drawn[0].permute(1, 2, 0).numpy(), wanted, atol=1e-6)
    some = Hands(Unchanged(), 0.5, 0.0)(soft(20, 16, generator(2)), generator(1)) != soft(20, 16, generator(2))
    assert 3 < int(some.flatten(1).any(1).sum()) < 17


def test_the_report_is_of_held_out_pictures_before_and_after(sources: Sources, trained, monkeypatch) -> None:
    recipe = trained[0]
    assert [path.name for path in recipe._held_out] == ["14.png"]
    assert "14.png" not in {path.name for path in recipe.files} and len(recipe.files) == 14
    monkeypatch.setattr(train, "UNSEEN_STYLES", train.UNSEEN_STYLES[:1])
    monkeypatch.setattr(train, "HELD_OUT", 8)
    report = recipe.evaluate()
    kinds = ("as they are", "unseen styles", "unseen styles, closer")
    names = ("px off before", "px off", "within 1 px", "within 3 px", "within 5 px", "seen is told")
    assert set(report) == {f"{name}, {what}" for name in names for what in kinds}
    assert report["px off before, as they are"] > 1
    assert (
        report["within 1 px, as they are"] <= report["within 3 px, as they are"] <= report["within 5 px, as they are"]
    )
    assert recipe.network.fine.training
    # A network that moves nothing and matches all is as far off as before.
    pairs = make_pairs(soft(2, 64, generator(1)), soft(2, 64, generator(2)), recipe.warper, generator(3))
    still = torch.cat([torch.zeros(2, 2, 64, 64), torch.ones(2, 1, 64, 64)], 1)
    found = recipe._report(Told(still), [pairs])
    assert found["px off"] == found["px off before"]
    assert found["seen is told"] == pytest.approx(float(pairs.seen.mean()))
    exact = torch.cat([train.displacement(pairs.grid), pairs.seen], 1)
    found = recipe._report(Told(exact), [pairs])
    assert found["px off"] == 0 and found["within 1 px"] == found["seen is told"] == 1


def test_the_checkpoint_is_the_network_in_half_precision(trained) -> None:
    fields, tensors = trained[0].checkpoint()
    assert fields == {"method": "ransac_flow", **dataclasses.asdict(TINY)}
    state = trained[0].network.fine.state_dict()
    assert tensors.keys() == {key for key, value in state.items() if value.is_floating_point()}
    assert all(value.dtype == torch.float16 for value in tensors.values())
    network = FineNetwork(TINY)
    network.load_state_dict({key: value.float() for key, value in tensors.items()})
    assert len(recipes.packed(tensors)) < recipes.LARGEST


def test_the_encoder_starts_from_the_backbone_and_its_first_blocks_stay(sources: Sources) -> None:
    settings = dataclasses.replace(SETTINGS, fine=FineConfig(heads=(6, 6, 6)), backbone="art-resnet", frozen=4)
    recipe = RansacFlowRecipe(settings, sources, seed=0)
    encoder = recipe.network.fine.encoder
    started = features.load(str(WEIGHTS / "art-resnet"), until="layer2").state_dict()
    assert same(dict(encoder.state_dict()), dict(started))
    learns = {name for name, value in encoder.named_parameters() if value.requires_grad}
    numbers = {int(name.split(".")[1]) for name in learns}
    assert numbers and min(numbers) >= 4 and len(learns) < len(list(encoder.named_parameters()))
    assert any(name.endswith("weight") for name in learns)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"size": 100}, "size=100 must be a multiple of 8"),
        ({"size": 64, "margin": 30}, "more than twice margin=30"),
        ({"margin": -1}, "margin=-1 must be at least 0"),
        ({"batch": 1}, "batch=1 must be at least 2"),
        ({"stages": ()}, r"stages=\(\) must be 1 values or more"),
        ({"closer": 1.5}, "closer=1.5 must be at least 0 and at most 1"),
        ({"fine": TINY}, "backbone='art-resnet' fits encoder=\"art-resnet\" only"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        RansacFlowSettings(**fields)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"updates": 0, "truth": 1.0}, "updates=0 must be at least 1"),
        ({"updates": 1}, "not all 0"),
        ({"updates": 1, "cycle": -1.0, "truth": 1.0}, "cycle=-1.0 must be at least 0"),
        ({"updates": 1, "truth": 1.0, "only_flow": True}, "only_flow=True is for terms without truth"),
    ],
)
def test_wrong_stages_are_named(fields: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        TrainingStage(**fields)


def test_the_recipe_of_ransac_flow_is_in_order() -> None:
    assert recipes.read(WEIGHTS / "ransac-flow").recipe == "ransac_flow.training.train:RansacFlowRecipe"


@pytest.mark.slow
def test_learning_without_labels_brings_pictures_closer() -> None:
    """F12: 200 updates of the published stages, 100, 50 and 50; a homography alone would leave all of it."""
    size, margin = 64, 12
    warper = Warper(WarpConfig(bend=4, ripple=0.5, corners=4, covered=0, apart=0), size, size)
    network = FineNetwork(FineConfig(encoder="published", width=8, heads=(16, 16, 16)), seed=0).train()
    optimiser = torch.optim.Adam(network.parameters(), 2e-3, betas=(0.5, 0.999))
    stages = [stage for stage, count in zip(PUBLISHED, (100, 50, 50), strict=True) for _ in range(count)]
    for step, stage in enumerate(stages):
        rng = generator(1000 + step)
        pictures = soft(4, size, rng)
        pairs = make_pairs(pictures, pictures, warper, rng)
        optimiser.zero_grad()
        sum(train.unlabelled(network, pairs.source, pairs.target, stage, margin=margin).values()).backward()
        optimiser.step()
    rng = generator(5)
    pictures = soft(24, size, rng)
    pairs = make_pairs(pictures, pictures, warper, rng)
    with torch.no_grad():
        found = network.eval()(pairs.source, pairs.target)
    truth = train.displacement(pairs.grid)
    counted = F.pad(pairs.seen[:, 0, margin:-margin, margin:-margin], (margin,) * 4) > 0.5
    before, after = (each.norm(dim=1)[counted].mean() * size / 2 for each in (truth, found[:, :2] - truth))
    assert float(before) > 2 and float(after) < 0.75 * float(before)
    assert found[:, 2].mean() > 0.6
