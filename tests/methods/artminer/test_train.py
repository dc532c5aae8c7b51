"""ArtMiner's tuning: what is mined, what is minimised, and runs that repeat and go on to the same bits."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

import artmodels
from artmodels import features
from artmodels.correspondence.cells import Describer, Pyramid, grid
from artmodels.correspondence.views import VIEWS
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.artminer.oneshot import window_cosine
from artmodels.methods.artminer.tuning import mining, objective, train
from artmodels.methods.artminer.tuning.mining import MiningConfig, Pairs, PatchMatches, PatchPlaces
from artmodels.methods.artminer.tuning.objective import contrast, principal
from artmodels.methods.artminer.tuning.train import ArtMinerRecipe, ArtMinerSettings
from artmodels.methods.artminer.tuning.tune import stream_tune, tune, with_shipped_styles
from artmodels.runtime.devices import generator
from artmodels.training import Sources, TrainingConfig, fit
from weights import recipes

WEIGHTS = Path(__file__).parents[3] / "weights"
# Tiny maps: a margin of 2, so that regions reach from -1 to 2 and corners from -2 to 3.
SMALL = MiningConfig(proposals=40, sides=(10, 9), margin=2, keep=3, draws=30, region=4, corners=6, pairs=8)
CONFIG = TrainingConfig(steps=5, rate=1e-4, momentum=0.5, warmup=1)
NAMES = [f"{number:02}.png" for number in (*range(12), 14)]  # `datasets.split` holds out 14


def unit(*shape: int, seed: int = 0, dim: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator(seed)), dim=dim)


def noise(count: int, sizes=((10, 9), (8, 7)), dims: int = 16) -> list[Pyramid]:
    """Pyramids of random cells, each picture's own."""
    return [
        Pyramid(tuple(unit(dims, *size, seed=100 * i + k) for k, size in enumerate(sizes)), 90, 100)
        for i in range(count)
    ]


def rows(places: PatchPlaces) -> list[tuple[int, ...]]:
    both = [getattr(places, field.name).flatten().tolist() for field in dataclasses.fields(PatchPlaces)]
    return list(zip(*both, strict=True))


# --- the cosine of windows


def test_windows_by_convolution_are_those_by_hand() -> None:
    kernels, found = torch.randn(5, 8, 2, 3, generator=generator(1)), torch.randn(8, 6, 7, generator=generator(2))
    cosines = window_cosine(found, kernels)
    assert cosines.shape == (5, 5, 5)
    for p, r, c in itertools.product(range(5), range(5), range(5)):
        one, other = kernels[p].double().numpy().ravel(), found[:, r : r + 2, c : c + 3].double().numpy().ravel()
        expected = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert float(cosines[p, r, c]) == pytest.approx(expected, abs=1e-5)


def test_a_window_is_found_at_its_own_place() -> None:
    found = unit(16, 12, 11)
    cosines = window_cosine(found, found[None, :, 4:6, 7:9])[0]
    assert float(cosines[4, 7]) == pytest.approx(1.0, abs=1e-5)
    assert int(cosines.argmax()) == 4 * 10 + 7
    assert not window_cosine(torch.zeros(16, 3, 3), found[None, :, :2, :2]).any()


# --- mining


def test_a_region_has_36_outermost_cells_and_corners_beyond_them() -> None:
    cells = {tuple(row) for row in mining.perimeter(10).tolist()}
    assert len(cells) == 36 == len(mining.perimeter(10))
    assert cells == {(r, c) for r in range(-4, 6) for c in range(-4, 6) if {r, c} & {-4, 5}}
    assert mining.corners(12).tolist() == [[-5, -5], [-5, 6], [6, -5], [6, 6]]


def test_proposals_keep_their_distance_and_take_turns() -> None:
    pyramids = noise(7)
    places = mining.proposals(pyramids, SMALL, generator(3))
    counts = torch.bincount(places.image, minlength=7)
    assert counts.sum() == 40 and counts.max() - counts.min() <= 1
    assert set(places.scale.tolist()) == {0}  # the other one's longer side has 8 cells
    assert set(places.row.tolist()) == set(range(2, 7)) and set(places.column.tolist()) == set(range(2, 6))
    again = mining.proposals(pyramids, SMALL, generator(3))
    assert rows(again) == rows(places) != rows(mining.proposals(pyramids, SMALL, generator(4)))


def test_pictures_without_room_are_passed_over_and_named_if_all_are() -> None:
    flat = Pyramid((unit(16, 10, 5), unit(16, 8, 4)), 90, 40)
    places = mining.proposals([flat, *noise(1)], SMALL, generator(3))
    assert set(places.image.tolist()) == {1}
    with pytest.raises(DatasetError, match="None of 1 pictures has a map of 10 or 9 cells with room for a patch of 2"):
        mining.proposals([flat], SMALL, generator(3))


@pytest.mark.parametrize(("merged", "memory"), [(64, 2**26), (2, 400)])
def test_candidates_are_those_of_literal_loops(monkeypatch, merged, memory) -> None:
    monkeypatch.setattr(mining, "MERGED", merged)
    pyramids = noise(6)
    config = dataclasses.replace(SMALL, proposals=9, memory=memory)
    patches = mining.proposals(pyramids, config, generator(5))
    found = mining.candidates(pyramids, patches, config)
    for p, (image, scale, row, column) in enumerate(rows(patches)):
        patch = pyramids[image].maps[scale][:, row : row + 2, column : column + 2].flatten()
        best = []
        for i, pyramid in enumerate(pyramids):
            places = []
            for s, cells in enumerate(pyramid.maps):
                for r, c in itertools.product(range(2, cells.shape[1] - 3), range(2, cells.shape[2] - 3)):
                    window = cells[:, r : r + 2, c : c + 2].flatten()
                    places.append((float(F.cosine_similarity(patch, window, dim=0)), i, s, r, c))
            if i != image:
                best.append(max(places))
        best = sorted(best, reverse=True)[:3]
        assert rows(found.places[torch.tensor(p),]) == [place[1:] for place in best]
        assert found.scores[p].tolist() == pytest.approx([place[0] for place in best], abs=1e-5)


def test_half_precision_is_searched_as_single() -> None:
    pyramids = [Pyramid(tuple(cells.half() for cells in one.maps), 90, 100) for one in noise(4)]
    wide = [Pyramid(tuple(cells.float() for cells in one.maps), 90, 100) for one in pyramids]
    tables = [mining.mine(some, SMALL, generator(1)).table() for some in (pyramids, wide)]
    assert torch.equal(*tables)


@pytest.mark.parametrize("memory", [2**26, 1000])
def test_votes_are_those_of_literal_loops(memory) -> None:
    pyramids = planted(noise(4))
    config = dataclasses.replace(SMALL, memory=memory)
    first = PatchPlaces(*torch.tensor([(0, 0, 3, 3), (0, 0, 3, 3), (2, 1, 2, 3), (1, 0, 4, 3), (3, 0, 4, 4)]).T)
    second = PatchPlaces(*torch.tensor([(1, 0, 4, 3), (2, 0, 4, 3), (0, 0, 4, 5), (0, 0, 3, 4), (2, 1, 3, 2)]).T)
    counts = mining.votes(pyramids, first, second, config)
    for (i, s, r, c), (j, t, r2, c2), count in zip(rows(first), rows(second), counts.tolist(), strict=True):
        target, expected = pyramids[j].maps[t], 0
        for a, b in itertools.product(range(-1, 3), range(-1, 3)):
            if {a, b} & {-1, 2}:
                scores = torch.einsum("d,dhw->hw", pyramids[i].maps[s][:, r + a, c + b], target)
                at = divmod(int(scores.argmax()), target.shape[2])
                expected += abs(at[0] - r2 - a) <= 1 and abs(at[1] - c2 - b) <= 1
        assert count == expected
    assert counts[0] == counts[3] == 12  # as many as there are: a cell off is near enough


def planted(pyramids: list[Pyramid]) -> list[Pyramid]:
    """The same with a piece that the first shows at rows 1 to 7 shown by the second a row below."""
    pyramids[1].maps[0][:, 2:9, 1:8] = pyramids[0].maps[0][:, 1:8, 1:8]
    return pyramids


def test_a_shared_piece_is_mined_and_noise_is_not() -> None:
    """12 x 12 cells that two of eight pictures share: the best pairs are its, at the right offset, with full votes."""
    config = MiningConfig(proposals=300, sides=(30,), draws=600, keep=4, pairs=10, least=18)
    pyramids = noise(8, sizes=((30, 24), (20, 16)), dims=32)
    assert not len(mining.mine(pyramids, config, generator(2)).votes)
    pyramids[5].maps[0][:, 10:24, 6:20] = pyramids[2].maps[0][:, 6:20, 8:22]
    # A third picture shows it with some noise, so that a patch of any of them has two places where it is found.
    other = pyramids[2].maps[0][:, 6:20, 8:22] + 0.5 * unit(32, 14, 14, seed=9)
    pyramids[7].maps[0][:, 8:22, 5:19] = F.normalize(other, dim=0)
    found = mining.mine(pyramids, config, generator(2))
    corner = {2: (6, 8), 5: (10, 6), 7: (8, 5)}
    assert len(found.votes) == 10 and (found.votes.diff() <= 0).all() and found.votes[-1] >= 30
    for first, second in zip(rows(found.first), rows(found.second), strict=True):
        assert first[0] != second[0] and {first[0], second[0]} <= {2, 5, 7}
        places = [(r - corner[i][0], c - corner[i][1]) for i, _, r, c in (first, second)]
        assert places[0] == places[1]


def test_patches_found_in_one_picture_only_make_no_pair() -> None:
    pyramids = noise(2)
    found = mining.candidates(pyramids, mining.proposals(pyramids, SMALL, generator(1)), SMALL)
    assert found.scores.shape == (40, 2) and (found.scores[:, 1] == -math.inf).all()
    assert mining.validated(pyramids, found, SMALL, generator(1)).table().shape == (0, 9)


def test_both_places_of_a_pair_are_hits_of_one_patch_in_two_pictures() -> None:
    image = torch.tensor([[0, 1, 2], [3, 4, 5]])
    places = PatchPlaces(image, torch.zeros_like(image), torch.full_like(image, 3), torch.full_like(image, 4))
    scores = torch.tensor([[0.9, 0.8, 0.7], [0.5, 0.4, -math.inf]])
    config = dataclasses.replace(SMALL, draws=200, pairs=200)
    pairs = mining.validated(noise(6), PatchMatches(places, scores), config, generator(0))
    drawn = set(zip(pairs.first.image.tolist(), pairs.second.image.tolist(), strict=True))
    assert drawn == {(a, b) for a, b in itertools.product(range(3), range(3)) if a != b} | {(3, 4), (4, 3)}
    assert torch.equal(Pairs.of(pairs.table()).table(), pairs.table())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"proposals": 0}, "proposals=0"),
        ({"keep": 1}, "keep=1 must be at least 2"),
        ({"region": 9}, "region=9 must be at least 2 and a multiple of 2"),
        ({"corners": 14}, "corners=14 reaches beyond the picture"),
        ({"margin": 4}, "corners=12 reaches beyond the picture"),
    ],
)
def test_wrong_mining_is_named(fields, text) -> None:
    with pytest.raises(ConfigError, match=text):
        MiningConfig(**fields)


def test_pictures_with_other_scales_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pictures have \[1, 2\] scales"):
        mining.mine([*noise(2), *noise(1, sizes=((10, 9),))], SMALL, generator(0))


# --- the objective


@pytest.mark.parametrize("masked", [False, True])
def test_the_hinge_is_that_of_literal_loops_and_of_the_paper(masked) -> None:
    # Smooth maps, so that cosines lie on both sides of the thresholds.
    first, second = (
        F.normalize(F.avg_pool2d(torch.randn(1, 4, 11, 10, generator=generator(i)), 3, stride=1)[0] + 0.2, dim=0)
        for i in (1, 2)
    )
    second[:, 2:5, 3:6] = first[:, 3:6, 2:5]
    at, there = torch.tensor([[4, 3], [0, 0], [8, 7]]), torch.tensor([[3, 4], [1, 0], [7, 7]])
    alike, apart = contrast(first, second, at, there, negatives=10, threshold=0.8, masked=masked)
    paper, terms = 0.0, [0.0, 0.0]
    for (r, c), (r2, c2) in zip(at.tolist(), there.tolist(), strict=True):
        near = lambda y, x, r, c: abs(y - r) <= 1 and abs(x - c) <= 1  # noqa: E731
        places = list(itertools.product(range(9), range(8)))
        forth = {place: float(first[:, r, c] @ second[:, *place]) for place in places}
        back = {place: float(second[:, r2, c2] @ first[:, *place]) for place in places}
        p = max(cosine for place, cosine in forth.items() if near(*place, r2, c2))
        wrong = []
        for cosines, centre in ((forth, (r2, c2)), (back, (r, c))):
            left = [cosine for place, cosine in cosines.items() if not (masked and near(*place, *centre))]
            wrong.append(sum(sorted(left)[-10:]) / 10)
        n = max(wrong)
        terms[0] += max(0.8 - p, 0) / 3
        terms[1] += max(n - 0.2, 0) / 3
        paper += (max(n, 1 - 0.8) - min(p, 0.8)) / 3
    assert [float(alike), float(apart)] == pytest.approx(terms, abs=1e-5)
    assert terms[0] > 0 and terms[1] > 0
    assert float(alike + apart) == pytest.approx(paper - (1 - 2 * 0.8), abs=1e-5)


def test_a_perfect_match_among_strangers_costs_nothing() -> None:
    cells = torch.eye(36).view(36, 6, 6)
    at = torch.tensor([[1, 1], [4, 2]])
    options = {"negatives": 10, "threshold": 0.8}
    assert [float(term) for term in contrast(cells, cells, at, at, masked=False, **options)] == [0, 0]
    # Unmasked, the right cell counts among the K: of one, it is all.
    _, apart = contrast(cells, cells, at, at, masked=False, negatives=1, threshold=0.8)
    assert float(apart) == pytest.approx(0.8)
    _, apart = contrast(cells, cells, at, at, masked=True, negatives=1, threshold=0.8)
    assert float(apart) == 0


def test_the_projection_is_that_of_numpy_with_fixed_signs() -> None:
    describer = Describer(features.build("resnet18", until="layer3", seed=0), "layer3")
    images = [torch.rand(1, 3, 120, 90, generator=generator(i)) for i in range(2)]
    basis = principal(describer, images, 8, 5)
    cells = np.concatenate([describer(image, *grid(120, 90, 8)).flatten(1).T.double().numpy() for image in images])
    right = np.linalg.svd(cells)[2][:5].T
    assert torch.allclose(basis.T @ basis, torch.eye(5), atol=1e-5)
    assert np.abs(np.einsum("cd,cd->d", right, basis.numpy())) == pytest.approx(np.ones(5), abs=1e-3)
    assert (basis.gather(0, basis.abs().argmax(0, keepdim=True)) > 0).all()
    with pytest.raises(ConfigError, match="dims=257 is more than the 256 channels of 'layer3'"):
        principal(describer, images, 8, 257)


# --- the recipe


@pytest.fixture(autouse=True)
def small_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "COMPARED", (2, 96))


def pictures() -> list[Tensor]:
    """Soft shapes [3, 160, 144]; the first and second, third and fourth, … share a piece of 96 px."""
    rng = generator(7)
    found = []
    for number in range(len(NAMES)):
        coarse = F.interpolate(torch.rand(1, 3, 20, 18, generator=rng), scale_factor=8, mode="bicubic")[0]
        if number % 2:
            coarse[:, 32:128, 24:120] = found[-1][:, 24:120, 32:128]
        found.append(coarse.clamp(0, 1))
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    root = tmp_path_factory.mktemp("artminer")
    (root / "paintings").mkdir()
    for name, image in zip(NAMES, pictures(), strict=True):
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(root / "paintings" / name)
    return Sources(data=root, teachers=root, weights=WEIGHTS)


SETTINGS = ArtMinerSettings(
    dims=16,
    side=144,
    scales=(9,),
    searched=10,
    mining=dataclasses.replace(SMALL, sides=(9,), keep=4, draws=60, pairs=12, least=3),
    described=2,
    begin=1,
    every=3,
    batch=2,
    cells=6,
    anchors=8,
    styles=(),
    stylised=0.0,
    arbitrary=0.0,
)


def run(sources: Sources, config: TrainingConfig = CONFIG, settings: ArtMinerSettings = SETTINGS, **options):
    recipe = ArtMinerRecipe(settings, sources, seed=0)
    return recipe, [dict(step.losses) for step in fit(recipe, config, **options)]


@pytest.fixture(scope="module")
def trained(sources: Sources):
    return run(sources)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_same_seed_gives_the_same_bytes(sources, trained) -> None:
    recipe, losses = run(sources)
    assert losses == trained[1]
    assert same(recipe.checkpoint()[1], trained[0].checkpoint()[1])
    assert run(sources, dataclasses.replace(CONFIG, seed=1), until=1)[1] != losses[:1]


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_tuning_ends_as_an_uninterrupted_one(sources, trained, tmp_path, stop) -> None:
    """Before the first mining and between two: pairs that were mined before the interruption are still there."""
    run(sources, folder=tmp_path, until=stop)
    recipe, losses = run(sources, folder=tmp_path)
    assert losses == trained[1][stop:]
    assert torch.equal(recipe.network.mined, trained[0].network.mined)
    assert same(recipe.checkpoint()[1], trained[0].checkpoint()[1])


def test_pairs_are_mined_where_it_is_time(sources, monkeypatch) -> None:
    recipe = ArtMinerRecipe(SETTINGS, sources, seed=0)
    at, copies = [], []
    monkeypatch.setattr(recipe, "_mine", lambda rng: at.append(int(recipe.network.updates)))
    copy = recipe._copy
    monkeypatch.setattr(recipe, "_copy", lambda rng: copies.append(int(recipe.network.updates)) or copy(rng))
    for _ in range(9):
        recipe.losses(generator(1))
    assert at == [1, 4, 7]
    assert len(copies) == 18  # nothing was found: copies take the place of pairs


def test_mined_pairs_are_of_training_pictures_that_share_a_piece(trained) -> None:
    recipe, _ = trained
    pairs = recipe.network.mined[recipe.network.mined[:, 0] >= 0]
    assert 3 <= len(pairs) and (pairs[:, 8] >= 3).all()
    numbers = [int(path.stem) for path in recipe.files]
    best = pairs[0]
    assert numbers[best[0]] // 2 == numbers[best[4]] // 2 and numbers[best[0]] != numbers[best[4]]


def test_the_loss_falls(sources) -> None:
    """On the same copies and pairs, before and after 8 updates at a high rate."""
    settings = dataclasses.replace(SETTINGS, begin=0, every=100)
    recipe = ArtMinerRecipe(settings, sources, seed=0)

    def loss() -> float:
        with torch.no_grad():
            return sum(float(sum(recipe.losses(generator(seed)).values())) for seed in range(90, 93))

    before = loss()
    mined = recipe.network.mined.clone()
    recipe.network.updates.fill_(1)  # not to be mined again
    for _ in fit(recipe, TrainingConfig(steps=8, rate=1e-4, momentum=0.5, warmup=1)):
        pass
    assert torch.equal(recipe.network.mined, mined) and (mined[:, 0] >= 0).any()
    assert loss() < 0.9 * before


def test_layers_on_the_path_learn_and_nothing_else_changes(sources, trained) -> None:
    recipe, fresh = trained[0], ArtMinerRecipe(SETTINGS, sources, seed=0)
    before = fresh.network.backbone.state_dict()
    after = recipe.network.backbone.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    # The maps of the taps layer1 and layer2 are beside the path, and the map of layer3 has no bias.
    heads = {
        f"stages.{i}.{name}"
        for i, stage in enumerate(recipe.network.backbone.stages)
        for name in ("weight", "bias")
        if getattr(stage, "key", "") in ("head1", "head2") or (getattr(stage, "key", "") == "head3" and name == "bias")
    }
    assert len(heads) == 5 and changed == set(before) - heads
    assert not any("running" in key for key in before)
    untouched = recipe.before.backbone.state_dict()
    assert all(torch.equal(untouched[key], before[key]) for key in before)


@pytest.mark.parametrize("view", VIEWS)
def test_cells_of_a_turned_copy_are_known(sources, monkeypatch, view) -> None:
    """With features that are the colours of pixels every cell of the copy equals its like, exactly there."""
    settings = dataclasses.replace(SETTINGS, turned=float(bool(view)), views=(view or "mirror",), anchors=36)
    recipe = ArtMinerRecipe(settings, sources, seed=0)
    monkeypatch.setattr(objective, "REACH", 0)
    monkeypatch.setattr(recipe, "views", lambda picture, rng: picture)
    seen = []

    def colours(batch: Tensor) -> Tensor:
        seen.append(batch)
        return F.normalize(batch[:, :, ::16, ::16] - 0.5, dim=1)

    monkeypatch.setattr(recipe.describer, "of_pixels", colours)
    alike, apart = recipe._copy(generator(2))
    assert seen[0].shape == (2, 3, 81, 81) and colours(seen[0]).shape[2:] == (6, 6)
    assert torch.equal(seen[0][0], seen[0][1]) == (view == "")
    assert float(alike) == 0 and float(apart) > 0


def test_held_out_pictures_are_not_trained_on_and_are_measured(trained) -> None:
    recipe, _ = trained
    held_out = {path.name for path in recipe._held_out}
    assert held_out and held_out.isdisjoint(path.name for path in recipe.files)
    report = recipe.evaluate()
    whos = ("", ", 16 dimensions", ", before")
    assert set(report) == {f"recall, {what}{who}" for what in ("unseen styles", "turned") for who in whos}
    assert all(0 < share <= 1 for share in report.values())


def test_cells_of_a_view_are_told_in_the_order_of_the_picture() -> None:
    describer = Describer(features.build("resnet18", until="layer3", seed=0), "layer3")
    describer.of_pixels = lambda batch: batch  # type: ignore[method-assign]
    batch = torch.rand(2, 3, 5, 5, generator=generator(1))
    for view in VIEWS:
        assert torch.equal(
            train._cells(describer, train._turned(batch, view), view), train._cells(describer, batch, "")
        )


def test_the_checkpoint_is_an_extractor_with_a_projection_and_small(trained) -> None:
    fields, tensors = trained[0].checkpoint()
    assert fields == {
        "method": "artminer", "backbone": "art-resnet", "tap": "layer3", "padding": "reflect", "dims": 16,
        "tuned": True, "threshold": -1.0, "pair_threshold": 0.015,
    }  # fmt: skip
    projection = tensors.pop("projection")
    assert projection.shape == (256, 16) and projection.dtype == torch.float16
    torch.testing.assert_close(projection.float().T @ projection.float(), torch.eye(16), atol=2e-3, rtol=0)
    backbone = features.build(fields["backbone"], until=fields["tap"])
    backbone.load_state_dict({key: value.float() for key, value in tensors.items()})
    image = torch.rand(1, 3, 95, 95, generator=generator(1))
    found, wanted = (each(image, ["layer3"])["layer3"] for each in (backbone, trained[0].network.backbone))
    assert float(F.cosine_similarity(found, wanted).detach().min()) > 0.9999
    assert len(recipes.packed({**tensors, "projection": projection})) < recipes.LARGEST


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"threshold": 0.4}, "threshold=0.4"),
        ({"copies": 1.5}, "copies=1.5 must be at least 0 and at most 1"),
        ({"batch": 0}, "batch=0"),
        ({"scales": (40, 20)}, r"mining.sides=\(34, 28\) must be some of scales=\(40, 20\)"),
        ({"views": ("left",)}, "views="),
    ],
)
def test_wrong_settings_are_named(fields, text) -> None:
    with pytest.raises(ConfigError, match=text):
        ArtMinerSettings(**fields)


def test_a_collection_of_one_picture_and_too_many_dimensions_are_refused(sources, tmp_path) -> None:
    with pytest.raises(ConfigError, match="dims=300 is more than the 256 of 'layer3'"):
        ArtMinerRecipe(dataclasses.replace(SETTINGS, dims=300), sources, seed=0)
    Image.new("RGB", (64, 64)).save(tmp_path / "02.png")
    with pytest.raises(DatasetError, match="pictures to train on"):
        ArtMinerRecipe(dataclasses.replace(SETTINGS, folders=(".",)), Sources(tmp_path, tmp_path, WEIGHTS), seed=0)


def test_the_recipe_of_artminer_paintings_is_in_order() -> None:
    file = recipes.read(WEIGHTS / "artminer-paintings")
    assert file.recipe == "artminer.tuning.train:ArtMinerRecipe" and file.schedule.momentum == 0.5


# --- a user's own folder


def test_a_folder_is_tuned_with_the_styles_of_the_package() -> None:
    found = with_shipped_styles(ArtMinerSettings())
    shipped = {entry.name for entry in artmodels.list_models("fast_style")}
    assert {*found.styles, *found.judges} == shipped and not {*found.styles} & {*found.judges}
    mine = ArtMinerSettings(styles=("mine",), judges=("yours",))
    assert with_shipped_styles(mine) == mine


def test_tuning_a_folder_goes_on_where_it_was_stopped(sources, trained, tmp_path) -> None:
    folder = sources.data / "paintings"
    options = {"steps": 2, "settings": SETTINGS, "device": "cpu"}
    steps = stream_tune(folder, tmp_path / "mine", work=tmp_path / "work", **options)
    assert next(steps).done == 1
    steps.close()  # the user closes the window
    assert not (tmp_path / "mine").exists()
    *steps, metrics = stream_tune(folder, tmp_path / "mine", work=tmp_path / "work", **options)
    assert steps[-1].done == steps[-1].total == 2 and "recall, turned, before" in metrics
    other = tune(folder, tmp_path / "other", **options)
    assert other == metrics and (tmp_path / ".other.tuning").is_dir()
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("mine", "other"))
    assert same(one, two)
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config == trained[0].checkpoint()[0]
    with pytest.raises(ConfigError, match="belongs to a tuning of other pictures, settings or verdicts"):
        tune(
            folder,
            tmp_path / "mine",
            work=tmp_path / "work",
            steps=2,
            settings=dataclasses.replace(SETTINGS, batch=3),
            device="cpu",
        )
