"""From pairs to clusters, communities and propagated matches."""

import itertools

import numpy as np
import pytest
import torch

from artmodels.correspondence.views import VIEWS, from_view
from artmodels.errors import ConfigError
from artmodels.methods.artminer.discovery import Match
from artmodels.methods.artminer.groups.clusters import (
    Pair,
    communities,
    image_clusters,
    propagate,
    region_clusters,
    support,
)
from artmodels.methods.artminer.groups.pairtable import PairTable, components, mapped, triangles

LEFT, RIGHT = (0.1, 0.1, 0.4, 0.5), (0.6, 0.5, 0.9, 0.9)
SHAPE = (40, 30)


def box_matrix(box):
    """From the unit square to a box, in relative coordinates."""
    return np.array([[box[2] - box[0], 0, box[0]], [0, box[3] - box[1], box[1]], [0, 0, 1.0]])


def cells_in(box, shape):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    x, y = (columns + 0.5) / shape[1], (rows + 0.5) / shape[0]
    inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
    return torch.from_numpy(np.stack([rows[inside], columns[inside]], 1))


def pair(
    first, second, one=LEFT, other=LEFT, *, score=0.1, shift=(0.0, 0.0), view="", verdict="", shapes=(SHAPE, SHAPE)
):
    """A pair whose transform takes the box `other` of the second, as the view shows it, to the box `one`."""
    transform = box_matrix(one) @ np.linalg.inv(box_matrix(other))
    transform[:2, 2] += shift
    found = Match(
        score=score,
        transform=torch.from_numpy(transform).float(),
        reference_cells=cells_in(one, shapes[0]),
        target_cells=cells_in(other, shapes[1]),
        similarity=torch.ones(1),
        reference_shape=shapes[0],
        target_shape=shapes[1],
    )
    return Pair(first, second, found, view, verdict)


def tight(names, **options):
    return [pair(one, other, **options) for one, other in itertools.combinations(names, 2)]


def sets(clusters):
    return [set(cluster.images) for cluster in clusters]


# --- Clusters of pictures


def test_components_are_numbered_by_their_first_node() -> None:
    assert components(6, np.array([3, 5]), np.array([1, 3])).tolist() == [0, 1, 2, 1, 4, 1]
    assert components(0, np.array([], int), np.array([], int)).tolist() == []


def test_image_clusters_are_connected_components_above_the_threshold() -> None:
    pairs = [pair("a", "b"), pair("c", "b"), pair("d", "e"), pair("e", "f", score=0.015), pair("x", "y", score=0.02)]
    assert sets(image_clusters(pairs)) == [{"a", "b", "c"}], "0.015 is not above 0.015"
    assert sets(image_clusters(pairs, threshold=0.01)) == [{"a", "b", "c"}, {"d", "e", "f"}]
    assert sets(image_clusters(pairs, least=2)) == [{"a", "b", "c"}, {"d", "e"}, {"x", "y"}]
    assert image_clusters(pairs, threshold=0.05, least=4) == [] == image_clusters([])


def test_verdicts_overrule_scores() -> None:
    pairs = [pair("a", "b", score=0.0, verdict="same"), pair("b", "c", score=0.9, verdict="no"), pair("b", "d")]
    pairs += [pair("d", "e", score=0.001, verdict="similar")]
    assert sets(image_clusters(pairs)) == [{"a", "b", "d"}]


def test_the_mask_of_a_picture_is_the_mean_of_its_pairs() -> None:
    (cluster,) = image_clusters(
        [pair("a", "b", LEFT, RIGHT), pair("a", "c", RIGHT, RIGHT), pair("b", "c", RIGHT, RIGHT)]
    )
    masks = cluster.masks()
    assert set(masks) == {"a", "b", "c"} and masks["a"].shape == SHAPE and masks["a"].dtype == np.float32
    # A reference that dilates by a loop.
    expected = np.zeros(SHAPE)
    for box in (LEFT, RIGHT):
        one = np.zeros(SHAPE, bool)
        for row, column in cells_in(box, SHAPE).tolist():
            one[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
        expected += one / 2
    assert np.array_equal(masks["a"], expected.astype(np.float32)) and set(np.unique(masks["a"])) == {0, 0.5}
    assert set(np.unique(masks["b"])) == {0, 1}
    assert cluster.score == pytest.approx(0.1)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [(40, 30), (80, 60), (20, 15)])
def test_masks_lie_in_the_picture_as_it_is_whatever_the_view_and_the_scale(view: str, shape) -> None:
    box = (0.1, 0.2, 0.45, 0.4)
    mirrored, quarters = VIEWS[view]
    as_it_is = np.zeros(shape, bool)
    as_it_is[tuple(cells_in(box, shape).numpy().T)] = True
    seen = np.rot90(as_it_is[:, ::-1] if mirrored else as_it_is, quarters)
    found = Match(
        score=1.0,
        transform=torch.eye(3),
        reference_cells=torch.zeros(1, 2, dtype=torch.int64),
        target_cells=torch.from_numpy(np.argwhere(seen)),
        similarity=torch.ones(1),
        reference_shape=SHAPE,
        target_shape=seen.shape,
    )
    table = PairTable([Pair("a", "b", found, view)], 0.0)
    mask = table.masks(1, np.array([1]), 40)[0]
    # Nearest neighbour in the map, dilated by a loop.
    wide = np.zeros(shape, bool)
    for row, column in np.argwhere(as_it_is):
        wide[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
    rows, columns = (np.floor((np.arange(n) + 0.5) / n * m).astype(int) for n, m in zip((40, 30), shape, strict=True))
    assert np.array_equal(mask, wide[np.ix_(rows, columns)])
    # And the transform is undone alike: what the view shows of the box comes from the box.
    back = from_view(view).numpy()
    corner = mapped(table.transforms[0], mapped(back, np.array([[0.3, 0.7]])))
    assert np.allclose(corner, [[0.3, 0.7]])


# --- Regions


def test_region_clusters_part_two_patterns_of_one_picture() -> None:
    pairs = tight("abcd", one=LEFT, other=LEFT) + tight("dxyz", one=RIGHT, other=RIGHT)
    assert sets(image_clusters(pairs)) == [set("abcdxyz")]
    assert sets(region_clusters(pairs)) == [set("abcd"), set("dxyz")]
    assert [len(cluster.pairs) for cluster in region_clusters(pairs)] == [6, 6]
    shown = region_clusters(pairs)[0].masks()["d"]
    assert shown[:20, :10].mean() > 0.5 and shown[:, 15:].max() == 0, "only its own pattern"


def test_region_clusters_link_masks_above_the_overlap() -> None:
    # Masks from 0.1 to 0.5 and, d further on, of the width overlap by (0.4 - d) / (0.4 + d), dilated ones a bit more.
    def chain(shift):
        moved = (0.1 + shift, 0.1, 0.5 + shift, 0.5)
        return [pair("a", "b", (0.1, 0.1, 0.5, 0.5)), pair("a", "c", moved), pair("b", "d"), pair("c", "e")]

    options = {"least": 2, "least_images": 3}
    near, far = chain(0.1), chain(0.4)
    assert sets(region_clusters(near, **options))[0] == set("abcde")
    assert {frozenset(each) for each in sets(region_clusters(far, **options))} == {frozenset("abd"), frozenset("ace")}
    assert len(region_clusters(near, overlap=0.9, **options)) == 2
    assert sets(region_clusters(near)) == [set("abcde")] and region_clusters(near, least=5) == []
    assert region_clusters(near, least_images=6) == [] == region_clusters([]), (
        "fewer pictures or pairs than make a cluster"
    )


# --- Communities


def test_a_false_bridge_joins_components_but_not_communities() -> None:
    pairs = [*tight("abcde"), *tight("vwxyz"), pair("c", "x", score=0.5)]
    assert sets(image_clusters(pairs)) == [set("abcdevwxyz")] == sets(region_clusters(pairs))
    assert sets(communities(pairs)) == [set("abcde"), set("vwxyz")]
    assert [len(cluster.pairs) for cluster in communities(pairs)] == [10, 10], "the bridge is in neither"


def test_a_picture_that_one_match_holds_stays_unless_only_confirmed_ones_count() -> None:
    pairs = [*tight("abcd"), pair("d", "e")]
    assert sets(communities(pairs)) == [set("abcde")]
    assert sets(communities(pairs, confirmed=True)) == [set("abcd")]


def test_small_groups_are_found_in_large_graphs() -> None:
    # A ring of groups with a bridge between neighbours, where one Louvain division of everything joins some.
    groups = [[f"{number:03}{letter}" for letter in "abcd"] for number in range(150)]
    pairs = [each for names in groups for each in tight(names)]
    pairs += [pair(one[0], other[1]) for one, other in zip(groups, groups[1:] + groups[:1], strict=True)]
    assert len(image_clusters(pairs)) == 1
    assert sorted(map(sorted, sets(communities(pairs)))) == groups


def test_consistent_triangles_hold_what_inconsistent_ones_do_not() -> None:
    # The bridge is two pairs that form triangles with true ones, which do not agree with them.
    bridge = [pair("c", "x", score=0.3, shift=(0.3, 0.2)), pair("c", "y", score=0.3, shift=(-0.1, 0.4))]
    pairs = [*tight("abc"), *tight("xyz"), *bridge]
    found = support(pairs)
    assert found["a", "b"] == pytest.approx(1, abs=1e-4) and found["c", "x"] < 0.05 and found["c", "y"] < 0.05
    assert found["x", "y"] == pytest.approx(1, abs=1e-4), "the best triangle counts"
    assert sets(communities(pairs)) == [set("abc"), set("xyz")]
    agreeing = [*tight("abc"), *tight("xyz"), *(pair(one, other) for one in "abc" for other in "xyz")]
    assert sets(communities(agreeing)) == [set("abcxyz")]


def test_support_is_the_mean_over_cells_of_the_way_around() -> None:
    # A shift by 0.05 of the width and 0 of the height is 1.5 cells of 30, at every cell: exp(-1.5 / sigma).
    pairs = [pair("a", "b"), pair("b", "c"), pair("c", "a", shift=(0.05, 0))]
    for sigma in (1.0, 2.0):
        assert list(support(pairs, sigma=sigma).values()) == pytest.approx([np.exp(-1.5 / sigma)] * 3, rel=1e-4)
    assert set(support(pairs[:2]).values()) == {0}, "in no triangle"
    assert support([]) == {}


@pytest.mark.parametrize("swapped", list(itertools.product([False, True], repeat=3)))
def test_a_planted_patch_stands_out_whichever_pictures_pairs_share(swapped) -> None:
    """Pairs share a picture as first and first, first and second, second and first, second and second."""
    places = {"a": LEFT, "b": RIGHT, "c": (0.2, 0.4, 0.5, 0.8)}
    planted = []
    for (one, other), swap in zip((("a", "b"), ("b", "c"), ("a", "c")), swapped, strict=True):
        one, other = (other, one) if swap else (one, other)
        planted.append(pair(one, other, places[one], places[other]))
    random = np.random.default_rng(0)
    # As many pictures again with matches at random places, among themselves and with the three.
    for one, other in itertools.combinations("abcxyz", 2):
        if {one, other} <= set("abc"):
            continue
        left, top, there_left, there_top = random.uniform(0, 0.6, 4)
        here, there = (left, top, left + 0.3, top + 0.4), (there_left, there_top, there_left + 0.3, there_top + 0.4)
        planted.append(pair(one, other, here, there))
    found = support(planted)
    weights = np.array([value for names, value in found.items()])
    assert weights[:3].min() > 0.99 and weights[3:].max() < 0.1
    assert sets(communities(planted, confirmed=True)) == [set("abc")]
    masks = communities(planted, confirmed=True)[0].masks()
    for name, box in places.items():
        inside = cells_in(box, SHAPE).numpy()
        patch = np.zeros(SHAPE, bool)
        patch[
            max(inside[:, 0].min() - 1, 0) : inside[:, 0].max() + 2, inside[:, 1].min() - 1 : inside[:, 1].max() + 2
        ] = True
        assert masks[name][patch].sum() / masks[name].sum() > 0.9


def test_support_sees_through_views() -> None:
    box = (0.2, 0.1, 0.7, 0.4)
    corners = np.array([[box[0], box[1]], [box[2], box[3]]])
    pairs = [pair("a", "b", box, box), pair("a", "c", box, box)]
    for view in VIEWS:
        seen = mapped(np.linalg.inv(from_view(view).double().numpy()), corners)
        shown = (*seen.min(0), *seen.max(0))
        # In the view, the box is mirrored or turned within itself.
        to_view = np.linalg.inv(from_view(view).double().numpy())
        turned = pair("b", "c", box, shown, view=view, shapes=(SHAPE, SHAPE[::-1] if VIEWS[view][1] % 2 else SHAPE))
        matrix = torch.from_numpy(np.linalg.inv(to_view)).float()
        match = Match(**{**vars(turned.match), "transform": matrix})
        found = support([*pairs, Pair("b", "c", match, view)])
        assert min(found.values()) == pytest.approx(1, abs=1e-4), view


def test_triangles_are_all_found_once() -> None:
    random = np.random.default_rng(0)
    low, high = np.array(sorted(set(map(tuple, np.sort(random.integers(0, 30, (200, 2)), 1).tolist())))).T
    low, high = low[low != high], high[low != high]
    edges = {ends: number for number, ends in enumerate(zip(low.tolist(), high.tolist(), strict=True))}
    expected = {
        frozenset((edges[a, b], edges[b, c], edges[a, c]))
        for a, b, c in itertools.combinations(range(30), 3)
        if (a, b) in edges and (b, c) in edges and (a, c) in edges
    }
    found = np.concatenate(list(triangles(low, high, 30)))
    assert len(found) == len(expected) > 20 and set(map(frozenset, found.tolist())) == expected


def test_communities_are_the_same_in_any_order() -> None:
    random = np.random.default_rng(1)
    ends = sorted({tuple(sorted(each)) for each in random.integers(0, 40, (150, 2)).tolist()})
    pairs = [pair(f"{a:02}", f"{b:02}", score=0.02 + 0.001 * n) for n, (a, b) in enumerate(ends) if a != b]
    found = communities(pairs)
    assert found and sets(found) == sets(communities(pairs[::-1]))
    assert communities([]) == []


# --- Propagation


def test_propagation_composes_two_matches() -> None:
    pairs = [pair("b", "a", LEFT, RIGHT, score=0.3), pair("b", "c", LEFT, (0.2, 0.2, 0.4, 0.6), score=0.2)]
    (found,) = propagate(pairs)
    assert (found.first, found.second, found.via, found.propagated) == ("a", "c", "b", True)
    assert found.score == pytest.approx(0.2) and {each.second for each in found.sources} == {"a", "c"}
    expected = box_matrix(RIGHT) @ np.linalg.inv(box_matrix((0.2, 0.2, 0.4, 0.6)))
    assert np.allclose(found.transform, expected, atol=1e-6)
    # Masks are dilated by a cell, which is a thirtieth of the width in b.
    grown = 0.03 + 1 / 30
    assert np.allclose(found.first_box, RIGHT, atol=grown) and np.allclose(
        found.second_box, (0.2, 0.2, 0.4, 0.6), atol=grown
    )
    assert not any(hasattr(each, "propagated") for each in pairs)


def test_only_what_is_new_shared_and_not_refused_is_propagated() -> None:
    chain = [pair("a", "b"), pair("b", "c", score=0.2)]
    assert len(propagate(chain)) == 1
    assert propagate([*chain, pair("c", "a", score=0.02)]) == [], "found already"
    assert propagate([*chain, pair("a", "c", score=0.9, verdict="no")]) == [], "an expert said no"
    assert len(propagate([*chain, pair("a", "c", score=0.01)])) == 1, "below the threshold is not found"
    assert propagate([pair("a", "b"), pair("b", "c", RIGHT)]) == [], "other regions of b"
    assert propagate([pair("a", "b"), pair("b", "a")]) == [] == propagate([])
    part = propagate([pair("a", "b", score=0.4), pair("b", "c", (0.1, 0.1, 0.4, 0.3), (0.1, 0.1, 0.4, 0.3), score=0.3)])
    assert len(part) == 1 and part[0].score == pytest.approx(0.3), "the smaller region lies in the larger one"
    best = propagate([*chain, pair("a", "d", score=0.5), pair("d", "c", score=0.4)])
    assert [(each.first, each.second, each.via) for each in best] == [("a", "c", "d"), ("b", "d", "c")]
    assert [each.score for each in best] == pytest.approx([0.4, 0.2])


def test_settings_out_of_range_are_refused() -> None:
    for function, options, message in (
        (image_clusters, {"threshold": float("nan")}, "threshold=nan must be a score"),
        (image_clusters, {"least": 0}, "least=0"),
        (region_clusters, {"overlap": 1.0}, r"overlap=1.0 must be in \[0, 1\)"),
        (region_clusters, {"least_images": 1}, "least_images=1"),
        (communities, {"sigma": 0}, "sigma=0 must be"),
        (propagate, {"overlap": -0.1}, "overlap=-0.1"),
    ):
        with pytest.raises(ConfigError, match=message):
            function([], **options)
