"""From pairs of pictures to groups of pictures that show the same thing.

Shen, Efros and Aubry 2019 (arXiv:1903.02678), section 5.3: pictures, or regions of them, are nodes of a graph that
pairs link, and its connected components are clusters. One false pair joins two components, so `communities` asks for
more: cores of pairs whose triangles of pictures agree, as the 3-cycles of Shen 2021 (arXiv:2110.15904) do, to which
other pairs add regions but which they never join.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree
from sklearn.isotonic import IsotonicRegression

from artmodels.images.decoding import Array
from artmodels.images.results import Tabular
from artmodels.methods.artminer.consensus import best_of_each
from artmodels.methods.artminer.groups.pairtable import (
    MASK_CELLS,
    THRESHOLD,
    Pair,
    PairTable,
    check,
    components,
    mapped,
    overlapping,
    triangles,
)
from artmodels.methods.artminer.groups.propagation import Propagated, propagate

__all__ = ["Cluster", "Pair", "Propagated", "communities", "image_clusters", "propagate", "region_clusters", "support"]

SAMPLES = 8  # cells of a pair that are followed around a triangle
SIGMA = 2.0  # cells, of 40, by which a way around a triangle may miss
CONFIRMED = 0.5  # support of a pair that a triangle confirms
LEAST = 10  # pairs of each kind, below which what scores tell would be chance
BELIEF = 0.8  # probability from which a pair is trusted; chosen on seed 0 of the planted groups in the tests
FIRM = 4.0  # weight of a link that makes a core; of masks that overlap it is at most 2, of pairs 1
ROWS = 2**21  # links that are held before they are thinned to a forest


@dataclass(frozen=True, kw_only=True, eq=False)
class Cluster(Tabular):
    """Pictures that show the same thing.

    Attributes:
        images: Their names, sorted.
        pairs: What links them, the best first.
        support: Of each picture, in [0, 1]: how well a triangle confirms the best of its pairs, see `support`. Where it
            is below 0.5 the picture hangs on scores alone.
    """

    images: tuple[str, ...]
    pairs: tuple[Pair, ...]
    support: tuple[float, ...]

    def _table(self) -> tuple[str, Sequence[str], Iterable[Sequence[object]]]:
        title = f"{len(self.images)} pictures, {len(self.pairs)} pairs, score {self.score:.3f}"
        return title, ("picture", "support"), zip(self.images, self.support, strict=True)

    @property
    def score(self) -> float:
        """Mean score of its pairs."""
        return float(np.mean([pair.match.score for pair in self.pairs]))

    def masks(self, cells: int = MASK_CELLS) -> dict[str, Array]:
        """Which part of each picture, as it is, is meant: the mean of the masks of its pairs, whatever their views.

        A mask is [R, C] float32 in [0, 1], with so many cells on its longer side.
        """
        table = PairTable([Pair(p.first, p.second, p.match, p.view, "same") for p in self.pairs], 0.0)
        return {
            name: table.masks(number, table.entries(number), cells).mean(0, dtype=np.float32)
            for number, name in enumerate(table.names)
        }


def image_clusters(pairs: Sequence[Pair], *, threshold: float = THRESHOLD, least: int = 3) -> list[Cluster]:
    """Connected components of the graph of pictures, the largest first.

    Args:
        pairs: In any order. One judged "same" is a link, one judged "no" is none, whatever their scores.
        threshold: A pair is a link if its score is above this.
        least: Pictures that make a cluster.

    Raises:
        ConfigError: A setting is out of range.
    """
    check(threshold=threshold, least=least)
    table = PairTable(pairs, threshold)
    picture = components(len(table.names), *table.ends.T)
    return _clusters(table, picture[table.ends[:, 0]], _support(table, SIGMA), least_images=least, least_pairs=1)


def region_clusters(
    pairs: Sequence[Pair],
    *,
    threshold: float = THRESHOLD,
    overlap: float = 0.3,
    least: int = 4,
    least_images: int = 4,
) -> list[Cluster]:
    """Connected components of pairs that cover the same region of a picture that they share, the largest first.

    Two pairs are linked if the intersection over union of their masks, on a grid of 100 cells on the longer side, is
    above `overlap`, which is in [0, 1). It takes `least` pairs and `least_images` pictures to make a cluster, and a
    picture with two patterns may be in two. Pairs, threshold and errors are those of `image_clusters`.
    """
    check(threshold=threshold, least=least, least_images=least_images, overlap=overlap)
    table = PairTable(pairs, threshold)
    every = np.ones(len(table), bool)
    labels = _held_together(table, every, every, overlap)
    return _clusters(table, labels, _support(table, SIGMA), least_images=least_images, least_pairs=least)


def communities(
    pairs: Sequence[Pair],
    *,
    threshold: float = THRESHOLD,
    overlap: float = 0.3,
    least: int = 3,
    sigma: float = SIGMA,
    confirmed: bool = False,
) -> list[Cluster]:
    """Groups of regions that hold together, not merely hang together by a false link.

    A pair is sure if a triangle confirms it, see `support`, or an expert said "same". Sure pairs that cover the same
    region of a picture make a core. A pair that no triangle confirms is trusted if its score says that it is true with
    a probability of 0.8: Elkan and Noto 2008 tell that from scores of pairs of which some are known to be true, which
    are those that triangles confirm. Trusted pairs add regions to cores and make groups without one, the best first,
    and never join two cores. A collection with less than 10 confirmed or 10 other pairs says nothing of scores: there
    the best pairs make groups, and a lesser one adds a region to one of them, and never joins two.

    With `confirmed` only sure pairs count. It takes `least` pictures to make a cluster; sigma is that of `support`, the
    overlap that of `region_clusters`, and pairs, threshold and errors are those of `image_clusters`.

    Returns:
        Clusters, the largest first; their `support` tells what hangs on a score alone. Other pairs are in none.
    """
    check(threshold=threshold, least=least, overlap=overlap, sigma=sigma)
    table = PairTable(pairs, threshold)
    supported = _support(table, sigma)
    judged = np.array([pair.verdict == "same" for pair in table.pairs], bool)
    sure = judged | (supported >= CONFIRMED)
    known = min(int(sure.sum()), int((~sure).sum())) >= LEAST
    if confirmed:
        trusted = np.zeros(len(table), bool)
    else:
        trusted = _believed(table.scores, sure) if known else np.ones(len(table), bool)
    labels = _held_together(table, sure, trusted, overlap, scores_known=known)
    return _clusters(table, labels, supported, least_images=least, least_pairs=1)


def support(
    pairs: Sequence[Pair], *, threshold: float = THRESHOLD, sigma: float = SIGMA
) -> dict[tuple[str, str], float]:
    """How well other pairs confirm each: the best of its triangles.

    In a triangle u, v, w the matched cells of u are followed to w, on to v and back. Where each comes home, the pairs
    are consistent: mean over cells of exp(-distance / sigma), the weight of a 3-cycle in Shen 2021 for known matches.
    Sigma is in cells of a grid of 40 on the longer side; pairs, threshold and errors are those of `image_clusters`.
    Gives by names of first and second a value in [0, 1], 0 for a pair in no triangle.
    """
    check(threshold=threshold, sigma=sigma)
    table = PairTable(pairs, threshold)
    found = _support(table, sigma).tolist()
    return {(pair.first, pair.second): value for pair, value in zip(table.pairs, found, strict=True)}


def _believed(scores: Array, sure: Array) -> Array:
    """Which pairs are to be trusted for their scores: [n] bool.

    Elkan and Noto 2008, "Learning classifiers from only positive and unlabeled data", equation 4: the probability that
    a pair which was not confirmed is true, from that of being confirmed at its score and the mean of it over true
    pairs.
    """
    share = IsotonicRegression().fit_transform(scores, sure)
    mean = share[sure].mean()
    # (1 - mean) / mean * share / (1 - share), which has no value where all are confirmed.
    believed: Array = (1 - mean) * share >= BELIEF * mean * (1 - share)
    return believed


def _held_together(
    table: PairTable, sure: Array, trusted: Array, overlap: float, *, scores_known: bool = True
) -> Array:
    """Numbers of the groups that pairs are in: [n] int64, -1 for none.

    Nodes are entries. Links are pairs, and masks that overlap; among those of sure pairs they make cores. The rest is a
    maximum spanning forest: a root that all cores hang on, by links above all others, keeps them in different trees.
    Where too little is known of scores, see `_added`.
    """
    count = 2 * len(table)
    kept = np.flatnonzero(sure | trusted)
    firm = np.repeat(sure, 2)
    # Pairs weigh their score; masks that overlap more than any pair; what makes a core more than all.
    weights = np.where(sure[kept], FIRM, table.scores[kept].clip(1e-6, 1))
    waiting = [np.stack([2 * kept, 2 * kept + 1, weights], 1)]
    for links in overlapping(table, np.stack([2 * kept, 2 * kept + 1], 1).reshape(-1), overlap):
        both = firm[links[:, :2].astype(np.int64)].all(1)
        links[:, 2] = np.where(both, FIRM, 1 + links[:, 2])
        waiting.append(links)
        if sum(map(len, waiting)) > ROWS:
            waiting = [_forest(count, np.concatenate(waiting))]
    links = np.concatenate(waiting)
    strong = links[links[:, 2] == FIRM, :2].astype(np.int64)
    core = components(count, *strong.T)
    if scores_known:
        roots = np.unique(core[firm])
        hung = np.stack([roots, np.full(len(roots), count), np.full(len(roots), 2 * FIRM)], 1)
        tree = _forest(count + 1, np.concatenate([links, hung]))
        groups = components(count, *tree[tree[:, 1] < count, :2].astype(np.int64).T)
    else:
        groups = _added(core, firm, links[links[:, 2] < FIRM])
    ends = groups.reshape(-1, 2)
    # A trusted pair between two groups is in none.
    return np.where((sure | trusted) & (ends[:, 0] == ends[:, 1]), ends[:, 0], -1)


def _added(core: Array, firm: Array, links: Array) -> Array:
    """Groups of nodes [n] to which links (node, node, weight) have added what is in none, the best first."""
    sets = DisjointSet(np.unique(core).tolist())
    grouped = set(core[firm].tolist())
    for one, other in core[links[np.argsort(-links[:, 2], kind="stable"), :2].astype(np.int64)].tolist():
        one, other = sets[one], sets[other]
        if one != other and not {one, other} <= grouped:
            sets.merge(one, other)
            grouped.add(sets[one])
    return np.array([sets[node] for node in core.tolist()], np.int64)


def _forest(count: int, links: Array) -> Array:
    """Those of links (node, larger node, weight) in a spanning forest of most weight."""
    ends = links[:, :2].astype(np.int64)
    graph = coo_array((-links[:, 2], (ends[:, 0], ends[:, 1])), shape=(count, count))
    tree = minimum_spanning_tree(graph).tocoo()
    return np.stack([tree.row, tree.col, -tree.data], 1)


def _support(table: PairTable, sigma: float) -> Array:
    """The consistency of the best triangle of each pair: [n] in [0, 1]."""
    result = np.zeros(len(table))
    count = len(table.names)
    low, high = table.ends.min(1, initial=count), table.ends.max(1, initial=0)
    keys = low * count + high
    # Two pictures may have several pairs, of different views: the best is their edge.
    edges = best_of_each(keys, table.scores)
    edges = edges[low[edges] != high[edges]]
    edges = edges[np.abs(np.linalg.det(table.transforms[edges])) > 1e-12]
    if len(edges) < 3:
        return result
    points = table.points(SAMPLES).reshape(-1, 2, SAMPLES, 2)
    forward = table.transforms
    backward = np.zeros_like(forward)
    backward[edges] = np.linalg.inv(forward[edges])
    cells = table.shapes / table.shapes.max(1, keepdims=True) * MASK_CELLS

    def between(edge: Array, to: Array) -> Array:
        """Matrices that take the other end of edges to `to`."""
        return np.where((table.ends[edge, 0] == to)[:, None, None], forward[edge], backward[edge])

    for found in triangles(low[edges], high[edges], count):
        uv, vw, uw = edges[found].T
        u = np.where((table.ends[uv] == table.ends[uw, :1]).any(1), table.ends[uw, 0], table.ends[uw, 1])
        v, w = (table.ends[edge].sum(1) - u for edge in (uv, uw))
        around = between(uv, u) @ between(vw, v) @ between(uw, w)
        start = np.concatenate([points[edge, (table.ends[edge, 1] == u).astype(int)] for edge in (uv, uw)], 1)
        steps = (mapped(around, start) - start) * cells[u][:, None, ::-1]
        distance = np.nan_to_num(np.hypot(steps[..., 0], steps[..., 1]), nan=np.inf)
        consistency = np.exp(-distance / sigma).mean(1)
        for edge in (uv, vw, uw):
            np.maximum.at(result, edge, consistency)
    return result


def _clusters(
    table: PairTable, labels: Array, supported: Array, *, least_images: int, least_pairs: int
) -> list[Cluster]:
    """Pairs with the same label as clusters; -1 is none."""
    order = np.lexsort((-table.scores, labels))
    order = order[labels[order] >= 0]
    found = list[Cluster]()
    for group in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        pictures, place = np.unique(table.ends[group], return_inverse=True)
        if len(group) >= least_pairs and len(pictures) >= least_images:
            best = np.zeros(len(pictures))
            np.maximum.at(best, place.reshape(-1), np.repeat(supported[group], 2))
            names = tuple(table.names[number] for number in pictures)
            chosen = tuple(table.pairs[number] for number in group)
            found.append(Cluster(images=names, pairs=chosen, support=tuple(best.tolist())))
    return sorted(found, key=lambda cluster: (-len(cluster.images), -len(cluster.pairs), cluster.images))
