"""Errors, shares of right places and chances, on numbers worked by hand; and what is published."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from artmodels.correspondence.ransac import log_nfa
from artmodels.errors import ConfigError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.ransac_flow.evaluation.evaluate import (
    Example,
    Truth,
    endpoint_errors,
    evaluate,
    stream_evaluate,
)
from artmodels.methods.ransac_flow.evaluation.published import BENCHMARKS, published_table
from artmodels.methods.ransac_flow.results.alignment import Alignment, Warp
from artmodels.progress import Progress

# What the specification has from memory alone.
REMEMBERED = "2.13 4.83 5.13 6.36 12.5 12.6 53.47 83.45 86.81 2.10 16.07 31.66 64.88 73.31 81.56".split()


def aligned(matrix: Tensor | None) -> Alignment:
    """What a transform of relative coordinates gives, or nothing."""
    warp = None
    if matrix is not None:
        warp = Warp(matrix[None], torch.zeros(8, 8, dtype=torch.int64), torch.zeros(2, 8, 8))
    picture = LoadedImage(np.zeros((8, 8, 3), np.uint8))
    return Alignment(
        tensor=torch.zeros(1, 3, 8, 8),
        settings={},
        seconds=0,
        notes=(),
        pictures=(picture, picture),
        warp=warp,
        matchability=torch.ones(8, 8),
        error=torch.zeros(8, 8),
    )


def shift(x: float, y: float) -> Tensor:
    return torch.tensor([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=torch.float64)


def always(matrix: Tensor | None) -> Callable[[object, object], Alignment]:
    return lambda source, target: aligned(matrix)


def truth(source: list[list[float]], size: tuple[int, int] = (200, 100), **groups: list[bool]) -> Truth:
    """All places of the target are its centre."""
    every = {name: torch.tensor(mask) for name, mask in groups.items()} or {"all": torch.ones(len(source)).bool()}
    return Truth(torch.zeros(len(source), 2), torch.tensor(source, dtype=torch.float64), size, every)


# --- numbers


def test_endpoint_errors_by_hand() -> None:
    found = torch.tensor([[0.1, 0], [0, 0.1], [0.3, 0.8], [0.5, 0.5]])
    errors = endpoint_errors(found, torch.tensor([[0.0, 0], [0, 0], [0, 0], [0.5, 0.5]]), (200, 100))
    torch.testing.assert_close(errors, torch.tensor([10, 5, 50, 0], dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_share_counts_what_is_at_the_limit() -> None:
    off = truth([[0.5, 0], [1.0, 0], [0, 1.0001], [0, 3.0], [7.0, 0]], size=(2, 2))  # whose unit is a pixel
    still = always(shift(0, 0))
    assert evaluate(still, [("a", "b", off)])["all"].pck == {1: 2 / 5, 3: 4 / 5, 5: 4 / 5}
    assert evaluate(still, [("a", "b", off)], limits=(7,))["all"].pck == {7: 1.0}


def test_scores_of_pairs_by_hand() -> None:
    # In px of 200 x 100 the warp goes to (+1, 0); the places should be at the centre, 1, 4 and 11 px to the right ...
    first = truth([[0, 0], [0.01, 0], [0.04, 0], [0.11, 0]])
    # ... and of the other pair 3 px below where it goes.
    second = truth([[0.01, 0.06]])
    pairs = [Example("a", "b", first), ("c", "d", second)]
    *steps, found = stream_evaluate(always(shift(0.01, 0)), pairs)
    scores = found["all"]
    np.testing.assert_allclose(scores.errors, [(1 + 0 + 3 + 10) / 4, 3], atol=1e-5)
    assert scores.aepe == pytest.approx(3.25, abs=1e-5)
    assert scores.median == pytest.approx(3.25, abs=1e-5)
    assert scores.places.tolist() == [4, 1]
    assert scores.found.tolist() == [True, True]
    assert (scores.seconds >= 0).all()
    assert steps == [Progress(1, 2), Progress(2, 2)]
    assert list(stream_evaluate(always(shift(0.01, 0)), iter(pairs)))[:2] == [Progress(1, 2), Progress(2, 2)]
    wide = evaluate(always(shift(0.01, 0)), pairs, limits=(1.01, 3.01))["all"]
    assert wide.hits.tolist() == [[2, 3], [0, 1]]
    assert wide.pck == {1.01: 2 / 5, 3.01: 4 / 5}
    assert wide.pair_pck == {1.01: 1 / 4, 3.01: 7 / 8}


def test_groups_count_by_themselves() -> None:
    pair = truth([[0.02, 0], [0.04, 0], [0.10, 0]], noc=[True, True, False], occ=[True] * 3)
    empty = truth([[0.5, 0]], noc=[False], occ=[True])
    found = evaluate(always(shift(0, 0)), [("a", "b", pair), ("a", "b", empty)])
    assert list(found) == ["noc", "occ"]
    np.testing.assert_allclose(found["noc"].errors, [3])  # the second pair has no place of the kind
    np.testing.assert_allclose(found["occ"].errors, [16 / 3, 50])


def test_where_nothing_is_found() -> None:
    pair = ("a", "b", truth([[0.02, 0], [0, 0]]))
    stays = evaluate(always(None), [pair])["all"]
    assert stays.errors.tolist() == pytest.approx([1])
    assert stays.found.tolist() == [False]
    wrong = evaluate(always(None), [pair], unfound="wrong", limits=(1, 1000))["all"]
    assert wrong.errors.tolist() == [math.inf]
    assert wrong.pck == {1: 0, 1000: 0}
    assert wrong.places.tolist() == [2]


def test_the_aligner_gets_source_and_target() -> None:
    def aligner(source: object, target: object) -> Alignment:
        assert (source, target) == ("moved", "kept")
        return aligned(shift(0, 0))

    assert evaluate(aligner, [("moved", "kept", truth([[0.0, 0]]))])["all"].aepe == 0


def test_there_must_be_something_to_measure() -> None:
    for pairs in ([], [("a", "b", truth([[0.0, 0]], all=[False]))]):
        with pytest.raises(ConfigError, match="no pair has a place whose truth is known"):
            evaluate(always(None), pairs)


@pytest.mark.parametrize("matches, inliers, tolerance", [(100, 12, 0.05), (30, 30, 0.1), (1000, 5, 0.02), (5, 5, 0.5)])
def test_the_number_of_false_alarms(matches: int, inliers: int, tolerance: float) -> None:
    chance = math.pi * tolerance**2 / 4
    exact = (matches - 4) * math.comb(matches, inliers) * math.comb(inliers, 4)
    expected = math.log10(exact) + (inliers - 4) * math.log10(chance)
    assert log_nfa(matches, inliers, tolerance) == pytest.approx(expected, abs=1e-9)


def test_more_that_agree_are_less_likely_chance() -> None:
    values = [log_nfa(200, inliers, 0.05) for inliers in range(5, 200)]
    assert values[0] > 0 > values[30]
    assert all(later < earlier for earlier, later in zip(values[10:], values[11:], strict=False))
    assert log_nfa(400, 40, 0.05) > log_nfa(200, 40, 0.05)
    assert log_nfa(200, 4, 0.05) == log_nfa(0, 0, 0.05) == math.inf


def test_chance_matches_hardly_ever_are_below_zero() -> None:
    """The best of many homographies on matches without any order."""
    from artmodels.correspondence.ransac import RansacConfig, ransac
    from artmodels.runtime.devices import generator

    config = RansacConfig(hypotheses=500, least=0, share=0, tolerance=0.05)
    scores = []
    for seed in range(20):
        target, source = torch.rand(2, 60, 2, generator=generator(seed), dtype=torch.float64) * 2 - 1
        scores.append(log_nfa(60, int(ransac(target, source, config).inliers.sum()), 0.05))
    assert sum(score < 0 for score in scores) <= 1
    moved = target + 0.01
    assert log_nfa(60, int(ransac(target, moved, config).inliers.sum()), 0.05) < -50


# --- what is published


def test_nothing_that_is_remembered_is_quoted() -> None:
    every = "".join(published_table(name) for name in BENCHMARKS)
    assert [figure for figure in REMEMBERED if figure in every] == []
    kept = {name: [row for row in known.rows if row.values is None] for name, known in BENCHMARKS.items()}
    with_some = {name for name, rows in kept.items() if rows}
    assert with_some == {"HPatches", "KITTI 2015 flow", "MegaDepth", "RobotCar", "YFCC100M"}
    assert all("from memory" in row.note for rows in kept.values() for row in rows)
    for known in BENCHMARKS.values():
        assert all(row.values is None or len(row.values) == len(known.columns) for row in known.rows)


def test_ours_stands_below() -> None:
    lines = published_table("HPatches", {"ransac-flow, coarse only": [1, 2, 3, 4.5, 5.4321]}).splitlines()
    assert lines[2] == "| method | I | II | III | IV | V | note |"
    assert lines[3] == "|---|---|---|---|---|---|---|"
    assert lines[4].startswith("| RANSAC-Flow, ImageNet features | 0.517 | 2.328 | 3.189 | 5.348 | 5.253 | a new run")
    assert lines[5] == "| RANSAC-Flow, MoCo features | - | - | - | - | - | from memory, unverified: not quoted |"
    assert lines[6:] == ["| ours: ransac-flow, coarse only | 1.000 | 2.000 | 3.000 | 4.500 | 5.432 | measured here |"]


def test_a_table_needs_a_benchmark_and_all_figures() -> None:
    with pytest.raises(ConfigError, match="nothing is published on 'Sintel'; name HPatches"):
        published_table("Sintel")
    with pytest.raises(ConfigError, match="mine: give 2 figures, for noc, occ"):
        published_table("KITTI 2015 flow", {"mine": [1.0]})
