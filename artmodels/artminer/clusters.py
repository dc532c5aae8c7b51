"""From pairs of pictures to groups of pictures that show the same thing.

Shen, Efros and Aubry 2019 (arXiv:1903.02678), section 5.3: pictures, or regions of them, are nodes of a graph that
pairs link, and its connected components are clusters. One false pair joins two components, so `communities` asks for
more: it weighs pairs by whether triangles of pictures agree, as the 3-cycles of Shen 2021 (arXiv:2110.15904) do, and
cuts the graph where it hardly holds together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np

from artmodels.artminer.pairtable import (
    IOU_CELLS,
    MASK_CELLS,
    THRESHOLD,
    Pair,
    PairTable,
    check,
    components,
    mapped,
    overlaps,
    triangles,
)
from artmodels.artminer.propagation import Propagated, propagate
from artmodels.decoding import Array

__all__ = ["Cluster", "Pair", "Propagated", "communities", "image_clusters", "propagate", "region_clusters", "support"]

SAMPLES = 8  # cells of a pair that are followed around a triangle
UNSUPPORTED = 0.1  # share of its score that counts for a pair in no consistent triangle
CONFIRMED = 0.5  # support of a pair that a triangle confirms
SPLIT = 0.3  # modularity from which a division is one: Newman and Girvan 2004 find 0.3 to 0.7 where there is structure


@dataclass(frozen=True, kw_only=True, eq=False)
class Cluster:
    """Pictures that show the same thing.

    Attributes:
        images: Their names, sorted.
        pairs: What links them, the best first.
    """

    images: tuple[str, ...]
    pairs: tuple[Pair, ...]

    @property
    def score(self) -> float:
        """Mean score of its pairs."""
        return float(np.mean([pair.match.score for pair in self.pairs]))

    def masks(self, cells: int = MASK_CELLS) -> dict[str, Array]:
        """Which part of each picture is meant: the mean of the masks of its pairs.

        Args:
            cells: Of the longer side of a mask.

        Returns:
            [R, C] float32 in [0, 1] of each picture, as it is, whatever view a pair needed.
        """
        table = PairTable([Pair(p.first, p.second, p.match, p.view, "same") for p in self.pairs], 0.0)
        return {
            name: table.masks(number, table.entries(number), cells).mean(0, dtype=np.float32)
            for number, name in enumerate(table.names)
        }


def image_clusters(pairs: Sequence[Pair], *, threshold: float = THRESHOLD, least: int = 3) -> list[Cluster]:
    """Connected components of the graph of pictures.

    Args:
        pairs: In any order. One judged "same" is a link, one judged "no" is none, whatever their scores.
        threshold: A pair is a link if its score is above this.
        least: Pictures that make a cluster.

    Returns:
        Clusters, the largest first.

    Raises:
        ConfigError: A setting is out of range.
    """
    check(threshold=threshold, least=least)
    table = PairTable(pairs, threshold)
    picture = components(len(table.names), *table.ends.T)
    return _clusters(table, picture[table.ends[:, 0]], least_images=least, least_pairs=1)


def region_clusters(
    pairs: Sequence[Pair],
    *,
    threshold: float = THRESHOLD,
    overlap: float = 0.3,
    least: int = 4,
    least_images: int = 4,
) -> list[Cluster]:
    """Connected components of pairs that cover the same region of a picture that they share.

    A picture with two patterns may be in two clusters. Masks are compared on a grid of 100 cells on the longer side.

    Args:
        pairs: As in `image_clusters`.
        threshold: As there.
        overlap: Two pairs are linked if the intersection over union of their masks is above this.
        least: Pairs that make a cluster.
        least_images: Pictures that make one.

    Returns:
        Clusters, the largest first.

    Raises:
        ConfigError: A setting is out of range.
    """
    check(threshold=threshold, least=least, least_images=least_images, overlap=overlap)
    table = PairTable(pairs, threshold)
    regions = _regions(table, overlap)
    node = components(2 * len(table), *regions.T)
    return _clusters(table, node[regions[:, 0]], least_images=least_images, least_pairs=least)


def communities(
    pairs: Sequence[Pair],
    *,
    threshold: float = THRESHOLD,
    overlap: float = 0.3,
    least: int = 3,
    sigma: float = 2.0,
    confirmed: bool = False,
    seed: int = 0,
) -> list[Cluster]:
    """Groups of regions that hold together, not merely hang together by a false link.

    Nodes are regions: masks of one picture that overlap. A pair links two with a weight that is its score if a triangle
    confirms it, see `support`, and a tenth of that if none does. Each component is divided by the Louvain method, and
    each part again, as long as the modularity of the division reaches 0.3; dividing parts by themselves finds small
    groups in large graphs, which one division of everything does not.

    Args:
        pairs: As in `image_clusters`.
        threshold: As there.
        overlap: As in `region_clusters`.
        least: Pictures that make a cluster.
        sigma: Of `support`.
        confirmed: Whether only pairs with a support of 0.5 or more count in the end. A picture that only one other is
            matched with is then in no group, be the match true or false.
        seed: Of the order in which nodes are visited.

    Returns:
        Clusters, the largest first. Pairs between two of them are in none.

    Raises:
        ConfigError: A setting is out of range.
    """
    check(threshold=threshold, least=least, overlap=overlap, sigma=sigma)
    table = PairTable(pairs, threshold)
    regions = _regions(table, overlap)
    supported = _support(table, sigma)
    weights = table.scores.clip(min=1e-6) * (UNSUPPORTED + (1 - UNSUPPORTED) * supported)
    graph = nx.Graph()
    for (one, other), weight in zip(regions.tolist(), weights.tolist(), strict=True):
        known = graph[one][other]["weight"] if graph.has_edge(one, other) else 0.0
        graph.add_edge(one, other, weight=max(weight, known))
    labels = np.arange(2 * len(table))
    waiting = [sorted(part) for part in nx.connected_components(graph)]
    while waiting:
        nodes = waiting.pop()
        parts = _divided(graph, nodes, seed)
        if len(parts) > 1:
            waiting += parts
        else:
            labels[nodes] = nodes[0]
    ends = labels[regions]
    inside = ends[:, 0] == ends[:, 1]
    if confirmed:
        inside &= supported >= CONFIRMED
    return _clusters(table, np.where(inside, ends[:, 0], -1), least_images=least, least_pairs=1)


def support(pairs: Sequence[Pair], *, threshold: float = THRESHOLD, sigma: float = 2.0) -> dict[tuple[str, str], float]:
    """How well other pairs confirm each: the best of its triangles.

    In a triangle u, v, w the matched cells of u are followed to w, on to v and back. Where each comes home, the pairs
    are consistent: mean over cells of exp(-distance / sigma), the weight of a 3-cycle in Shen 2021 for known matches.

    Args:
        pairs: As in `image_clusters`.
        threshold: As there.
        sigma: In cells of a grid of 40 on the longer side.

    Returns:
        By names of first and second: a value in [0, 1], 0 for a pair in no triangle.

    Raises:
        ConfigError: A setting is out of range.
    """
    check(threshold=threshold, sigma=sigma)
    table = PairTable(pairs, threshold)
    found = _support(table, sigma).tolist()
    return {(pair.first, pair.second): value for pair, value in zip(table.pairs, found, strict=True)}


def _regions(table: PairTable, overlap: float) -> Array:
    """The region of each end of each pair, by the number of its first entry: [n, 2] int64."""
    regions = np.arange(2 * len(table))
    for picture in range(len(table.names)):
        entries = table.entries(picture)
        if len(entries) < 2:
            continue
        masks = table.masks(picture, entries, IOU_CELLS)
        labels = np.arange(len(entries))
        for part, common, union in overlaps(masks.reshape(len(entries), -1)):
            one, other = np.nonzero(common > overlap * union)
            # What is known already is kept as one link a mask, so that there are never more than a block's.
            ends = np.concatenate([np.arange(len(labels)), one + part.start]), np.concatenate([labels, other])
            labels = components(len(labels), *ends)
        regions[entries] = entries[labels]
    return regions.reshape(-1, 2)


def _support(table: PairTable, sigma: float) -> Array:
    """The consistency of the best triangle of each pair: [n] in [0, 1]."""
    result = np.zeros(len(table))
    count = len(table.names)
    low, high = table.ends.min(1, initial=count), table.ends.max(1, initial=0)
    keys = low * count + high
    # Two pictures may have several pairs, of different views: the best is their edge.
    order = np.lexsort((-table.scores, keys))
    edges = order[np.unique(keys[order], return_index=True)[1]]
    edges = edges[low[edges] != high[edges]]
    usable = np.abs(np.linalg.det(table.transforms[edges])) > 1e-12
    edges = edges[usable]
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


def _divided(graph: "nx.Graph[int]", nodes: list[int], seed: int) -> list[list[int]]:
    """Connected nodes in parts, if there is a division that is one; otherwise together."""
    if len(nodes) < 4:
        return [nodes]
    part = graph.subgraph(nodes)
    parts = nx.community.louvain_communities(part, weight="weight", seed=seed)
    if len(parts) < 2 or nx.community.modularity(part, parts, weight="weight") < SPLIT:
        return [nodes]
    return sorted(sorted(each) for each in parts)


def _clusters(table: PairTable, labels: Array, *, least_images: int, least_pairs: int) -> list[Cluster]:
    """Pairs with the same label as clusters; -1 is none."""
    order = np.lexsort((-table.scores, labels))
    order = order[labels[order] >= 0]
    found = list[Cluster]()
    for group in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        pictures = np.unique(table.ends[group])
        if len(group) >= least_pairs and len(pictures) >= least_images:
            names = tuple(table.names[number] for number in pictures)
            found.append(Cluster(images=names, pairs=tuple(table.pairs[number] for number in group)))
    return sorted(found, key=lambda cluster: (-len(cluster.images), -len(cluster.pairs), cluster.images))
