"""ArtMiner's pair discovery: the score against a literal one, what it finds and does not, consensus, bad input."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import load_script
from torch.nn import functional as F

from artmodels.correspondence.geometry import SAMPLE, minimal
from artmodels.correspondence.ransac import draw
from artmodels.errors import ConfigError
from artmodels.methods.artminer import discovery
from artmodels.methods.artminer.consensus import Matches, best_of_each, plausible, scores, surviving
from artmodels.methods.artminer.discovery import (
    PUBLISHED,
    DiscoveryConfig,
    discover,
    discover_many,
    inner_saliency,
)

literal = load_script(Path(__file__).parents[3] / "benchmarks" / "artminer_literal.py")
FIXED = (17, 14, 11)  # longer sides of the small targets


def field(rows: int, columns: int, *, dims: int = 16, seed: int) -> torch.Tensor:
    """Features of unit length, smooth, [D, rows, columns]."""
    noise = torch.randn(1, dims, rows + 2, columns + 2, generator=torch.Generator().manual_seed(seed))
    return F.normalize(F.avg_pool2d(noise, 3, 1)[0], dim=0)


def brought(features: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The same features on another grid."""
    return F.normalize(F.interpolate(features[None], (rows, columns), mode="bilinear")[0], dim=0)


def planted(seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A small reference, and a target of three scales, one or more of which shows a piece of it, with noise."""
    random = np.random.default_rng(seed)
    rows, columns = random.integers(9, 14, 2)
    reference, target = field(rows, columns, seed=seed), []
    for number, longest in enumerate(FIXED):
        height, width = int(longest * random.uniform(0.6, 1)), longest
        features = field(height, width, seed=1000 * seed + number + 7)
        if number == seed % 3 or random.random() < 0.4:
            most = height, width
            size = [min(int(side * random.uniform(0.7, 1.1)), m) for side, m in zip((rows, columns), most, strict=True)]
            piece = brought(reference, *size)[:, size[0] // 4 :, : max(4, 3 * size[1] // 4)]
            top, left = (random.integers(0, m - side + 1) for m, side in zip(most, piece.shape[1:], strict=True))
            features[:, top : top + piece.shape[1], left : left + piece.shape[2]] = piece
        noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(seed)) / 40
        target.append(F.normalize(features + noise, dim=0))
    return reference, target


def pyramid(features: torch.Tensor, longest: tuple[int, ...] = (48, 40, 36, 28, 20)) -> list[torch.Tensor]:
    rows, columns = features.shape[1:]
    return [brought(features, round(side * rows / max(rows, columns)), side) for side in longest]


# --- the score against the literal one


@pytest.mark.parametrize("published", [False, True])
def test_score_equals_the_literal_one_on_50_pairs(published: bool) -> None:
    found = 0
    for seed in range(50):
        reference, target = planted(seed)
        model = "affine" if seed < 35 else ("scaling", "similarity", "homography")[seed % 3]
        options = {"margin": seed % 3, "model": model, "isotropic": not published, "gates": not published}
        options |= {"saliency": seed % 5 > 0}
        match = discover(reference, target, DiscoveryConfig(iterations=100, seed=seed, **options))
        expected = literal.discovery_score(
            reference.double().numpy(),
            [features.double().numpy() for features in target],
            lambda count, size=SAMPLE[model], seed=seed: draw(count, size, 100, seed).numpy(),
            **options,
        )
        assert match.score == pytest.approx(expected.score, abs=1e-5), (seed, match.reason)
        assert (match.reason == "") == (match.score > 0)
        if match.score:
            found += 1
            cells = zip(match.reference_cells.tolist(), match.target_cells.tolist(), strict=True)
            assert {(tuple(a), tuple(b)) for a, b in cells} == set(expected.pairs), seed
            assert match.target_shape == expected.grid
    assert 40 <= found <= 50


def test_saliency_by_hand() -> None:
    features = torch.zeros(2, 3, 4)
    features[0] = 1
    features[:, 1, 1] = torch.tensor([0.6, 0.8])
    expected = torch.zeros(3, 4)
    expected[1, 1] = 1 - 0.6  # all four neighbours have cosine 0.6
    expected[1, 2] = 1 - (0.6 + 3) / 4
    torch.testing.assert_close(inner_saliency(features), expected)
    assert inner_saliency(torch.ones(2, 1, 1)).tolist() == [[0.0]] and inner_saliency(torch.ones(2, 1, 5)).shape == (
        1,
        5,
    )


def test_mutual_neighbours_in_blocks_are_those_of_both_argmaxes(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, target = torch.randn(31, 8), torch.randn(8, 57)
    reference[7] = reference[3]  # the first of equal cells is the nearest
    similarity = reference @ target
    forth, back = similarity.argmax(1), similarity.argmax(0)
    expected = [i for i in range(31) if back[forth[i]] == i]
    for size in (2**20, 4 * 31 * 10, 1):
        monkeypatch.setattr(discovery, "REUSED", size)
        nearest, found = discovery._mutual(reference, target)
        assert found.nonzero()[:, 0].tolist() == expected and 5 < len(expected) < 31
        assert nearest[expected].tolist() == forth[expected].tolist()
        torch.testing.assert_close(found[expected], similarity.amax(1)[expected])


def test_float16_maps_and_many_targets_give_what_each_gives() -> None:
    pairs = [planted(seed) for seed in (0, 1, 2)]
    reference, targets = pairs[0][0].half(), [[features.half() for features in target] for _, target in pairs]
    together = discover_many(reference, targets, DiscoveryConfig(margin=1))
    for target, match in zip(targets, together, strict=True):
        for other in (
            discover(reference, target, DiscoveryConfig(margin=1)),
            discover(reference.float(), [features.float() for features in target], DiscoveryConfig(margin=1)),
        ):
            assert match.score == other.score and torch.equal(match.transform, other.transform)
            assert torch.equal(match.reference_cells, other.reference_cells)
            assert torch.equal(match.similarity, other.similarity)
    assert together[0].score > 0 and discover_many(reference, []) == []


# --- what is found


@pytest.mark.parametrize("config", [DiscoveryConfig(), PUBLISHED], ids=["ours", "published"])
def test_a_picture_is_found_in_itself(config: DiscoveryConfig) -> None:
    features = field(30, 40, dims=64, seed=1)
    match = discover(features, [features], config)
    torch.testing.assert_close(match.transform, torch.eye(3), atol=1e-5, rtol=0)
    assert match.target_shape == match.reference_shape == (30, 40)
    # A few cells are nearer to a neighbour that is more salient.
    assert len(match.reference_cells) > 0.98 * 24 * 34 and torch.equal(match.reference_cells, match.target_cells)
    weight = inner_saliency(features)[match.reference_cells[:, 0], match.reference_cells[:, 1]]
    torch.testing.assert_close(match.similarity, weight)
    assert match.score == pytest.approx(float(weight.sum()) / (24 * 34))
    plain = discover(features, [features], replace(config, saliency=False))
    assert plain.score == pytest.approx(1) and len(plain.similarity) == 24 * 34
    mask = match.reference_mask(300, 400)
    assert mask.shape == (300, 400) and mask.dtype == np.float32
    assert (mask[30:-30, 30:-30] == 1).all() and (mask[:10] == 0).all()


def test_a_picture_is_found_in_a_copy_at_half_the_size() -> None:
    """The copy fills the upper left quarter of the target: relative coordinates double."""
    features = field(30, 40, dims=64, seed=2)
    target = []
    for longest in (80, 60, 40):
        around = field(longest * 3 // 4, longest, dims=64, seed=longest)
        copy = brought(features, longest * 3 // 8, longest // 2)
        around[:, : copy.shape[1], : copy.shape[2]] = copy
        target.append(around)
    match = discover(features, target, DiscoveryConfig(saliency=False))
    assert match.score > 0.5 and len(match.reference_cells) > 0.9 * 24 * 34
    expected = torch.diag(torch.tensor([2.0, 2.0, 1.0]))
    torch.testing.assert_close(match.transform, expected, atol=0.03, rtol=0)
    mask = match.target_mask(75, 100)
    assert mask[8:30, 10:42].min() > 0.95 and mask[45:].max() == 0 and mask[:, 60:].max() == 0


def test_a_picture_is_found_in_a_crop_of_it() -> None:
    features = field(30, 40, dims=64, seed=3)
    crop = features[:, 6:24, 10:34]  # 18 x 24 cells: the same shape
    match = discover(features, pyramid(crop, (40, 32, 24, 20)), DiscoveryConfig(saliency=False))
    expected = torch.tensor([[0.6, 0, 0.25], [0, 0.6, 0.2], [0, 0, 1]])
    torch.testing.assert_close(match.transform, expected, atol=0.02, rtol=0)
    rows, columns = match.reference_cells.T
    assert len(rows) > 0.9 * 18 * 24 and rows.min() >= 6 and rows.max() < 24 and columns.min() >= 10


def test_a_mirrored_copy_needs_the_mirror_view() -> None:
    features = field(30, 40, dims=64, seed=4)
    mirrored = features.flip(2)
    straight = discover(features, pyramid(features)).score
    assert discover(features, pyramid(mirrored)).score < 0.02 * straight
    assert discover(features, pyramid(mirrored.flip(2))).score == straight > 0.1


def test_noise_gives_next_to_nothing() -> None:
    found = [discover(field(30, 40, dims=64, seed=a), pyramid(field(30, 40, dims=64, seed=a + 50))) for a in range(5)]
    assert max(match.score for match in found) < 0.005


# --- consensus


@pytest.mark.parametrize("model", list(SAMPLE))
def test_models_are_solved_exactly_and_degenerate_samples_refused(model: str) -> None:
    truth = {
        "affine": [[1.2, 0.3, 4], [-0.2, 0.9, -1], [0, 0, 1]],
        "scaling": [[1.5, 0, 2], [0, 0.7, 3], [0, 0, 1]],
        "similarity": [[0.8, -0.6, 1], [0.6, 0.8, 2], [0, 0, 1]],
        "homography": [[1.1, 0.1, 2], [0.2, 0.9, 1], [0.004, -0.003, 1]],
    }[model]
    second = torch.rand(200, SAMPLE[model], 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 40
    moved = torch.cat([second, torch.ones_like(second[..., :1])], 2) @ torch.tensor(truth, dtype=torch.float64).T
    first = moved[..., :2] / moved[..., 2:]
    second[0, 1:] = second[0, :1]  # all the same point
    transforms, sound = minimal(second, first, model, least=1e-6 * 40**2, turned=True)
    assert not sound[0] and torch.equal(transforms[0], torch.eye(3, dtype=torch.float64)) and sound[1:].sum() > 190
    expected = torch.tensor(truth, dtype=torch.float64).expand(int(sound.sum()), 3, 3)
    torch.testing.assert_close(transforms[sound], expected, atol=1e-4, rtol=1e-4)


def matches_of(first: torch.Tensor, second: torch.Tensor, cell: torch.Tensor, similarity: torch.Tensor) -> Matches:
    extent = (40.0, 30.0)
    return Matches(cell, first.double(), second.double(), similarity, extent, (1.0, 1.0), (1.0, 1.0), 2.0)


def test_a_planted_affine_is_recovered_under_70_percent_outliers() -> None:
    truth = torch.tensor([[0.9, 0.15, 3.0], [-0.1, 1.1, 1.0], [0, 0, 1]], dtype=torch.float64)
    recovered = 0
    for seed in range(100):
        random = torch.Generator().manual_seed(seed)
        second = torch.rand(300, 2, dtype=torch.float64, generator=random) * torch.tensor([40, 30])
        second = torch.cat([second, torch.ones(300, 1)], 1)
        first = (second @ truth.T)[:, :2] + torch.rand(300, 2, generator=random) * 2 - 1  # up to a cell along each axis
        first[90:] = torch.rand(210, 2, dtype=torch.float64, generator=random) * torch.tensor([40, 30])
        matches = matches_of(first, second[:, :2], torch.arange(300), torch.ones(300))
        samples = draw(300, 3, 1000, seed)
        transforms, sound = minimal(matches.second[samples], first[samples], "affine", least=1e-6 * 40**2, turned=True)
        transforms = transforms[sound & plausible(transforms, matches)]
        best = transforms[scores(transforms, matches).argmax()]
        recovered += bool((second[:90] @ (best - truth).T).norm(dim=1).mean() < 1.5)
    assert recovered > 99


@pytest.mark.parametrize("projective", [False, True])
def test_scores_equal_a_loop(projective: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    cell = torch.cat([torch.randperm(40, generator=random)[:25] for _ in range(4)])
    second = torch.rand(100, 2, generator=random) * 20
    first, similarity = second + torch.randn(100, 2, generator=random) * 2, torch.rand(100, generator=random)
    transforms = torch.eye(3, dtype=torch.float64) + torch.randn(60, 3, 3, generator=random) * 0.05
    transforms[:, 2] = torch.tensor([0.0, 0, 1])
    if projective:
        transforms[:, 2, :2] = torch.randn(60, 2, generator=random) * 0.05  # the horizon crosses the points
    matches = matches_of(first, second, cell, similarity)
    expected = []
    for matrix in transforms.numpy():
        best: dict[int, float] = {}
        for number in range(100):
            x, y, depth = matrix @ [*second[number].tolist(), 1]
            if depth > 1e-6:
                square = ((x / depth - first[number, 0]) ** 2 + (y / depth - first[number, 1]) ** 2) / 4
                value = float(similarity[number] * math.exp(-square)) if square < 1 - 1e-4 else 0.0
                best[int(cell[number])] = max(best.get(int(cell[number]), 0.0), value)
        expected.append(sum(best.values()))
    assert min(expected) < max(expected) > 5
    for size in (2**20, 4 * 100 * 7):
        monkeypatch.setattr("artmodels.methods.artminer.consensus.REUSED", size)
        np.testing.assert_allclose(scores(transforms, matches).numpy(), expected, atol=2e-5)


def test_plausible_transforms_by_hand() -> None:
    turn = math.radians(30)
    cases = {
        (1, 0, 0, 1): True,
        (0.26, 0, 0, 0.26): True,
        (0.24, 0, 0, 0.24): False,
        (3.9, 0, 0, 3.9): True,
        (4.1, 0, 0, 4.1): False,
        (2.9, 0, 0, 1): True,
        (3.1, 0, 0, 1): False,
        (-1, 0, 0, 1): False,  # mirrored
        (-1, 0, 0, -1): True,  # turned by 180 degrees
        (math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn)): True,
        (1, math.tan(0.49), 0, 1): True,
        (1, math.tan(0.51), 0, 1): False,
    }
    transforms = torch.eye(3, dtype=torch.float64).repeat(len(cases), 1, 1)
    transforms[:, :2, :2] = torch.tensor(list(cases), dtype=torch.float64).view(-1, 2, 2)
    matches = matches_of(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1).long(), torch.ones(1))
    assert plausible(transforms, matches).tolist() == list(cases.values())
    horizon = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    horizon[:, 2, 0] = torch.tensor([0.005, -1 / 39])  # the second passes through the target, which is 40 wide
    assert plausible(horizon, matches).tolist() == [True, False]


def test_clean_up_by_hand() -> None:
    """Identity on a 5 x 6 grid: doubles, an outlier, two cells by themselves and a patch of three."""
    entries = [  # reference cell, target (row, column), similarity
        ((0, 0), (0, 0), 0.5),
        ((0, 1), (0, 1), 0.4),
        ((1, 0), (1, 0), 0.3),
        ((0, 0), (0, 1), 0.45),  # a second match of a reference cell: the better one counts
        ((1, 1), (1, 0), 0.2),  # a second of a target cell
        ((4, 4), (4, 4), 0.9),  # two that touch are too few
        ((4, 5), (4, 5), 0.9),
        ((2, 1), (4, 3), 0.9),  # further than 2 cells
    ]
    cell = torch.tensor([row * 6 + column for (row, column), _, _ in entries])
    first = torch.tensor([[column + 0.5, row + 0.5] for (row, column), _, _ in entries], dtype=torch.float64)
    second = torch.tensor([[column + 0.5, row + 0.5] for _, (row, column), _ in entries], dtype=torch.float64)
    strength = torch.tensor([value for _, _, value in entries])
    matches = Matches(cell, first, second, strength, (6.0, 5.0), (1.0, 1.0), (1.0, 1.0), 2.0)
    identity = torch.eye(3, dtype=torch.float64)
    kept, place, grid, reason = surviving(identity, matches, (5, 6), 3)
    assert kept.tolist() == [0, 1, 2] and place.tolist() == [[0, 0], [0, 1], [1, 0]] and grid == (5, 6) and not reason
    assert sorted(surviving(identity, matches, (5, 6), 2)[0].tolist()) == [0, 1, 2, 5, 6]
    kept, _, _, reason = surviving(identity, matches, (5, 6), 4)
    assert len(kept) == 0 and reason == "no patch of 4 cells that touch agrees with the transform"
    for factor, size in ((200.0, "1e+03 x 1.2e+03"), (0.05, "0.25 x 0.3")):
        scaled = torch.diag(torch.tensor([factor, factor, 1], dtype=torch.float64))
        assert surviving(scaled, matches, (5, 6), 3)[3] == f"the transform makes the target {size} cells"


def test_best_of_each_keeps_the_first_of_equal_ones() -> None:
    key, value = np.array([2, 1, 2, 1, 0]), np.array([1, 3, 1, 4, 0], np.float32)
    assert best_of_each(key, value).tolist() == [4, 3, 0]


def test_votes_of_translations_by_hand() -> None:
    """Two scales: five votes scattered around (2, 1) beat four at one place; equal peaks: the first scale."""
    steps = torch.tensor([[0, 0]] * 3 + [[2, 1], [2, 2], [2, 1], [1, 1], [2, -2]])
    scale = torch.tensor([0] * 3 + [1] * 5)
    assert discovery._agreeing(steps, scale, 2.0).tolist() == [3, 4, 5, 6]
    assert discovery._agreeing(torch.tensor([[9, -3]] * 4), torch.tensor([1, 0, 0, 1]), 2.0).tolist() == [1, 2]


# --- bad input


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"margin": -1}, "margin=-1 must be at least 0 and at most 100"),
        ({"margin": 1.5}, "margin=1.5 must be a whole number"),
        ({"iterations": 0}, "iterations=0 must be at least 1 and at most 100000"),
        ({"iterations": True}, "iterations=True must be a whole number"),
        ({"least_component": 0}, "least_component=0 must be at least 1"),
        ({"tolerance": 0}, "tolerance=0 must be above 0 and at most 16"),
        ({"tolerance": math.nan}, "tolerance=nan must be"),
        ({"tolerance": "2"}, "tolerance='2' must be"),
        ({"model": "rigid"}, "model='rigid' must be one of 'homography', 'affine', 'similarity', 'scaling'"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_bad_settings_are_refused(setting: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DiscoveryConfig(**setting)
    assert str(caught.value).startswith(message)


def test_bad_maps_are_refused() -> None:
    good = field(8, 8, seed=0)
    for reference, targets, message in (
        (good[0], [[good]], "the reference is torch.float32 (8, 8): give floating [D, rows, columns], none of them 0"),
        (good, [[good], []], "target 1 has no maps: give one or more scales"),
        (good, [[good.long()]], "a map of target 0 is torch.int64"),
        (good, [[good[:, :0]]], "a map of target 0 is torch.float32 (16, 0, 8)"),
        (good, [[good[:9]]], "a map of target 0 has 9 features for each cell and the reference 16: use one describer"),
    ):
        with pytest.raises(ConfigError) as caught:
            discover_many(reference, targets)
        assert str(caught.value).startswith(message)


def test_nothing_found_has_a_reason() -> None:
    cell, features = field(1, 1, seed=0), field(12, 12, seed=1)
    far = field(12, 12, dims=64, seed=2)
    blank = F.normalize(torch.ones(16, 12, 12), dim=0)
    only_noise = DiscoveryConfig(margin=0, least_component=1000)
    for reference, target, config, message in (
        (cell, [features], DiscoveryConfig(), "no cell of (1, 1) is inside a margin of 3"),
        (features, [features], DiscoveryConfig(margin=6), "no cell of (12, 12) is inside a margin of 6"),
        (blank, [features], DiscoveryConfig(), "no cells are each other's nearest neighbours"),
        (torch.zeros(16, 12, 12), [features], DiscoveryConfig(), "no cells are each other's nearest neighbours"),
        (features, [cell], DiscoveryConfig(), "1 matches agree on a translation, fewer than 4"),
        (features, [features[:, :, 4:5]], DiscoveryConfig(), "of 20 hypotheses, 20 degenerate and 0 implausible"),
        (far, [far], only_noise, "no patch of 1000 cells that touch agrees with the transform"),
    ):
        match = discover(reference, target, config)
        assert match.score == 0 and match.reason == message and match.similarity.shape == (0,)
        assert match.reference_cells.shape == match.target_cells.shape == (0, 2)
        assert torch.equal(match.transform, torch.eye(3)) and match.target_shape == tuple(target[0].shape[1:])
        assert (match.reference_mask(20, 30) == 0).all() and match.target_mask(7, 9).shape == (7, 9)
    mirror = discover(features, [features.flip(2)[:, :, 4:8]], DiscoveryConfig(margin=0, tolerance=16))
    assert mirror.score == 0 or mirror.reason == ""
