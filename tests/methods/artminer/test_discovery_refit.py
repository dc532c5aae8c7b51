"""ArtMiner's pair discovery: the best transform, fitted again to the matches that agree with it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from artmodels.correspondence.geometry import SAMPLE, minimal
from artmodels.correspondence.ransac import draw
from artmodels.errors import ConfigError
from artmodels.methods.artminer.consensus import Matches, plausible, refitted, scores
from artmodels.methods.artminer.discovery import PUBLISHED, DiscoveryConfig, _Reference, discover

TRUTH = {
    "affine": [[1.2, 0.3, 4], [-0.2, 0.9, -1], [0, 0, 1]],
    "scaling": [[1.5, 0, 2], [0, 0.7, 3], [0, 0, 1]],
    "similarity": [[0.8, -0.6, 9], [0.6, 0.8, 2], [0, 0, 1]],
    "homography": [[1.1, 0.1, 2], [0.2, 0.9, 1], [0.004, -0.003, 1]],
}


def matches_of(transform: torch.Tensor, count: int, noise: float, *, seed: int, outliers: int = 0) -> Matches:
    """Matches of a target of 40 x 30 cells that agree with a transform but for noise, and some that do not."""
    random = torch.Generator().manual_seed(seed)
    second = torch.rand(count, 2, dtype=torch.float64, generator=random) * torch.tensor([40, 30])
    moved = torch.cat([second, torch.ones(count, 1)], 1) @ transform.T
    first = moved[:, :2] / moved[:, 2:] + noise * torch.randn(count, 2, dtype=torch.float64, generator=random)
    first[:outliers] = torch.rand(outliers, 2, dtype=torch.float64, generator=random) * torch.tensor([40, 30])
    similarity = 0.2 + 0.8 * torch.rand(count, generator=random)
    return Matches(torch.arange(count), first, second, similarity, (40.0, 30.0), (1.0, 1.0), (1.0, 1.0), 2.0)


@pytest.mark.parametrize("model", list(SAMPLE))
def test_exact_matches_give_the_exact_model(model: str) -> None:
    truth = torch.tensor(TRUTH[model], dtype=torch.float64)
    start = truth.clone()
    start[:2, 2] += torch.tensor([0.5, -0.4])
    found = refitted(model, start, matches_of(truth, 60, 0.0, seed=0))
    torch.testing.assert_close(found, truth, atol=1e-8, rtol=0)


def test_weights_are_those_of_the_score_by_hand() -> None:
    truth = torch.tensor(TRUTH["affine"], dtype=torch.float64)
    matches = matches_of(truth, 80, 0.7, seed=1, outliers=30)
    left, right, used = np.zeros((3, 3)), np.zeros((3, 2)), 0
    for (u, v), (x, y), similarity in zip(
        matches.first.tolist(), matches.second.tolist(), matches.similarity.tolist(), strict=True
    ):
        there = truth.numpy() @ [x, y, 1]
        square = ((there[0] - u) ** 2 + (there[1] - v) ** 2) / 4
        if square < 1:
            weight = similarity * math.exp(-square)
            left += weight * np.outer([x, y, 1], [x, y, 1])
            right += weight * np.outer([x, y, 1], [u, v])
            used += 1
    assert 40 < used < 60
    expected = np.linalg.solve(left, right).T
    np.testing.assert_allclose(refitted("affine", truth, matches)[:2].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("model", list(SAMPLE))
def test_a_second_fit_is_nearer_than_the_best_hypothesis(model: str) -> None:
    truth = torch.tensor(TRUTH[model], dtype=torch.float64)
    corners = torch.tensor([[5.0, 5, 1], [35, 5, 1], [5, 25, 1], [35, 25, 1]], dtype=torch.float64)

    def error(transform: torch.Tensor) -> float:
        there, wanted = corners @ transform.T, corners @ truth.T
        return float((there[:, :2] / there[:, 2:] - wanted[:, :2] / wanted[:, 2:]).norm(dim=1).mean())

    before, after = [], []
    for seed in range(20):
        matches = matches_of(truth, 120, 0.6, seed=seed, outliers=60)
        samples = draw(120, SAMPLE[model], 300, seed)
        transforms, sound = minimal(
            matches.second[samples], matches.first[samples], model, least=1e-6 * 40**2, turned=True
        )
        transforms = transforms[sound & plausible(transforms, matches)]
        best = transforms[scores(transforms, matches).argmax()]
        before.append(error(best))
        after.append(error(refitted(model, refitted(model, best, matches), matches)))
    assert np.mean(after) < 0.7 * np.mean(before)


def test_where_nothing_agrees_the_transform_stays() -> None:
    far = torch.eye(3, dtype=torch.float64)
    far[:2, 2] = 500
    matches = matches_of(torch.eye(3, dtype=torch.float64), 10, 0.0, seed=0)
    assert refitted("affine", far, matches) is far


def test_fits_that_score_less_or_are_refused_are_dropped() -> None:
    truth = torch.tensor(TRUTH["affine"], dtype=torch.float64)
    matches = matches_of(truth, 120, 0.6, seed=3, outliers=60)
    samples = draw(120, 3, 300, 3)
    transforms, _ = minimal(matches.second[samples], matches.first[samples], "affine", least=1e-6 * 40**2, turned=True)
    values = scores(transforms, matches)
    best, value = transforms[values.argmax()], float(values.max())
    prepared = _Reference(torch.ones(4, 9, 9), DiscoveryConfig(refits=2))
    found = prepared.refined(best, value, matches)
    once = refitted("affine", best, matches)
    assert torch.equal(found, refitted("affine", once, matches))
    assert float(scores(found[None], matches)) > float(scores(once[None], matches)) > value
    assert prepared.refined(best, 1e3, matches) is best
    mirrored = replace(matches, first=matches.first * torch.tensor([-1.0, 1.0]))
    turned = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64)) @ best
    assert prepared.refined(turned, value, mirrored) is turned
    plain = _Reference(torch.ones(4, 9, 9), DiscoveryConfig(refits=2, gates=False))
    assert float(scores(plain.refined(turned, value, mirrored)[None], mirrored)) > value
    assert _Reference(torch.ones(4, 9, 9), DiscoveryConfig()).refined(best, value, matches) is best


def test_a_picture_in_itself_stays_where_it_is() -> None:
    noise = torch.randn(16, 14, 16, generator=torch.Generator().manual_seed(0))
    features = F.normalize(noise, dim=0)
    match = discover(features, [features], DiscoveryConfig(margin=0, saliency=False, refits=2))
    torch.testing.assert_close(match.transform, torch.eye(3), atol=1e-5, rtol=0)
    assert match.score == pytest.approx(1)


def test_settings() -> None:
    assert PUBLISHED.refits == 0
    with pytest.raises(ConfigError, match="refits=-1 must be at least 0 and at most 100"):
        DiscoveryConfig(refits=-1)
    for wrong in (1.0, True):
        with pytest.raises(ConfigError, match=f"refits={wrong!r} must be a whole number"):
            DiscoveryConfig(refits=wrong)
