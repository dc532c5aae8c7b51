"""What was found, in files that other tools read: CSV, JSON, GraphML, and annotation pages of IIIF and the W3C.

Whatever is written says how it was made: the parameters, a config or names and values, and the fingerprint of the model
that described the pictures. What was only propagated is marked "propagated" in every format. Boxes are in pixels. A
picture whose size is not given, a pair of which no cell survived, and what cannot be written as JSON are a ConfigError.
Tables are CSV (RFC 4180); in these, texts that a spreadsheet would run as a formula, because they start with = + - @ or
a tab, follow an apostrophe.
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

import networkx as nx
import numpy as np
import torch

from artmodels.correspondence.views import from_view
from artmodels.detections.annotations import Detections, iiif_page
from artmodels.detections.boxes import Box, clip
from artmodels.errors import ConfigError
from artmodels.images.decoding import Array
from artmodels.methods.artminer.discovery import Match
from artmodels.methods.artminer.groups.clusters import Cluster
from artmodels.methods.artminer.groups.pairtable import Pair, mapped
from artmodels.methods.artminer.groups.propagation import Propagated
from artmodels.methods.artminer.oneshot import Hit

__all__ = [
    "clusters_csv",
    "hits_annotations",
    "hits_csv",
    "hits_json",
    "pair_boxes",
    "pairs_annotations",
    "pairs_csv",
    "pairs_graphml",
    "pairs_json",
    "values_of",
]

AnyPair = Pair | Propagated
Sizes = Mapping[str, tuple[int, int]]  # width and height of each picture in pixels
Address = Callable[[str], str]  # gives a URI from the name of a picture
Pages = dict[str, dict[str, Any]]  # by names of pictures
Notes = list[tuple[str, Box, float]]  # label, box in pixels and score of what is on a picture

HIT_COLUMNS = ("rank", "image", "left", "top", "right", "bottom", "score", "view", "closer")
PAIR_COLUMNS = (
    *("first", "second", "score", "view", "verdict", "origin", "via", "cells"),
    *(f"{which}_{side}" for which in ("first", "second") for side in ("left", "top", "right", "bottom")),
    *(f"transform_{row}{column}" for row in range(3) for column in range(3)),
)


# --- Hits of a search


def hits_csv(hits: Sequence[Hit]) -> str:
    """A table with one row a hit, best first: `HIT_COLUMNS`, all digits kept; for `closer` see `Hit`."""
    rows = [(rank, hit.image, *hit.box, hit.score, hit.view, hit.closer) for rank, hit in enumerate(hits, 1)]
    return _table(HIT_COLUMNS, rows)


def hits_json(
    hits: Sequence[Hit],
    *,
    query: str,
    box: Box,
    model: str,
    parameters: object = None,
    below: Sequence[Hit] | None = None,
) -> dict[str, Any]:
    """A document for `artmodels.detections.annotations.save`, of hits, best first, for a detail in the picture `query`.

    A hit that has a `match` keeps its transform and its cells. Places `below` the threshold, if they are given, are a
    list of their own, "below_threshold", which goes on counting.
    """
    listed = [
        {"rank": rank, "image": hit.image, "box": list(hit.box), "score": hit.score, "view": hit.view}
        | {"closer": hit.closer}
        | ({} if hit.match is None else {"match": _evidence(hit.match)})
        for rank, hit in enumerate([*hits, *(below or ())], 1)
    ]
    found = {"query": {"image": query, "box": list(box)}, "hits": listed[: len(hits)]}
    if below is not None:
        found["below_threshold"] = listed[len(hits) :]
    return _document(found, model, parameters)


def hits_annotations(hits: Sequence[Hit], sizes: Sizes, *, label: str, canvas: Address, page: Address) -> Pages:
    """An annotation page (IIIF Presentation 3, W3C Web Annotation) for each picture, with a tag on each hit.

    `label` says what is on the places that were found. `canvas` gives the URI of a picture's canvas, `page` that of its
    page.

    Raises:
        ConfigError: A URI is not absolute.
        DatasetError: A box is none, or the label cannot be written.
    """
    notes = defaultdict[str, Notes](list)
    for hit in hits:
        notes[hit.image].append((label, hit.box, hit.score))
    return _pages(notes, sizes, canvas, page)


# --- Pairs


def pair_boxes(pair: AnyPair, sizes: Sizes) -> tuple[Box, Box]:
    """What of each picture takes part: around the surviving cells, or the shared region."""
    if isinstance(pair, Propagated):
        relative = np.array([pair.first_box, pair.second_box])
    else:
        match = pair.match
        first = _around(pair, match.reference_cells, match.reference_shape, "")
        second = _around(pair, match.target_cells, match.target_shape, pair.view)
        relative = np.stack([first, second])
    first, second = relative * np.array([_size(name, sizes) * 2 for name in (pair.first, pair.second)], np.float64)
    return tuple(first.tolist()), tuple(second.tolist())


def pairs_csv(pairs: Sequence[AnyPair], sizes: Sizes) -> str:
    """A table with one row a pair: `PAIR_COLUMNS`.

    The transform takes relative coordinates of the second picture, as it is, to those of the first. `origin` is "found"
    or "propagated"; then `via` is the picture in between.
    """
    rows = []
    for pair in pairs:
        first, second = pair_boxes(pair, sizes)
        numbers = (*first, *second, *pair.transform.reshape(-1).tolist())
        rows.append((pair.first, pair.second, *_facts(pair).values(), *numbers))
    return _table(PAIR_COLUMNS, rows)


def pairs_json(pairs: Sequence[AnyPair], sizes: Sizes, *, model: str, parameters: object = None) -> dict[str, Any]:
    """A document for `artmodels.detections.annotations.save`; found pairs also keep their cells."""
    found = []
    for pair in pairs:
        first, second = pair_boxes(pair, sizes)
        ends = [{"image": pair.first, "box": list(first)}, {"image": pair.second, "box": list(second)}]
        entry = {"first": ends[0], "second": ends[1], **_facts(pair), "transform": pair.transform.tolist()}
        if isinstance(pair, Pair):
            entry["match"] = _evidence(pair.match)
        found.append(entry)
    images = {name: {"width": width, "height": height} for name, (width, height) in sizes.items()}
    return _document({"images": images, "pairs": found}, model, parameters)


def pairs_graphml(
    pairs: Sequence[AnyPair], *, model: str, parameters: object = None, clusters: Mapping[str, int] | None = None
) -> str:
    """A graph of pictures for Gephi, Cytoscape or networkx: an edge a pair, with its facts; `weight` is the score.

    Two pictures may have several edges. Characters that XML has no place for become U+FFFD. `clusters` are numbers of
    pictures, kept as `cluster` of the nodes.
    """
    head = _document({}, model, parameters)
    graph = nx.MultiGraph(model=model, parameters=_xml(json.dumps(head["parameters"], sort_keys=True)))
    for pair in pairs:
        for name in (pair.first, pair.second):
            number = (clusters or {}).get(name)
            graph.add_node(_xml(name), **({} if number is None else {"cluster": int(number)}))
        facts = {key: _xml(value) if isinstance(value, str) else value for key, value in _facts(pair).items()}
        graph.add_edge(_xml(pair.first), _xml(pair.second), weight=_score(pair), **facts)
    return "\n".join(nx.generate_graphml(graph)) + "\n"


def pairs_annotations(pairs: Sequence[AnyPair], sizes: Sizes, *, canvas: Address, page: Address) -> Pages:
    """An annotation page for each picture: on each region the name of the other picture. As `hits_annotations`."""
    notes = defaultdict[str, Notes](list)
    for pair in pairs:
        note = "" if isinstance(pair, Pair) else f" (propagated via {pair.via})"
        first, second = pair_boxes(pair, sizes)
        notes[pair.first].append((pair.second + note, first, _score(pair)))
        notes[pair.second].append((pair.first + note, second, _score(pair)))
    return _pages(notes, sizes, canvas, page)


def clusters_csv(clusters: Sequence[Cluster]) -> str:
    """A table with one row a picture of a cluster: the number of the cluster, from 1, and the picture."""
    return _table(("cluster", "image"), [(n, name) for n, group in enumerate(clusters, 1) for name in group.images])


def values_of(parameters: object) -> dict[str, object]:
    """A config, or names and values, or None, as names and values."""
    if is_dataclass(parameters) and not isinstance(parameters, type):
        return asdict(parameters)
    return dict(parameters) if isinstance(parameters, Mapping) else {}


# --- Parts


def _score(pair: AnyPair) -> float:
    return float(pair.match.score if isinstance(pair, Pair) else pair.score)


def _facts(pair: AnyPair) -> dict[str, Any]:
    facts = {"score": _score(pair), "view": "", "verdict": "", "origin": "propagated", "via": "", "cells": 0}
    if isinstance(pair, Propagated):
        return facts | {"via": pair.via}
    found = {"view": pair.view, "verdict": pair.verdict, "origin": "found", "cells": len(pair.match.reference_cells)}
    return facts | found


def _evidence(match: Match) -> dict[str, Any]:
    return {
        "score": float(match.score),
        "transform": match.transform.tolist(),
        "reference_shape": list(match.reference_shape),
        "target_shape": list(match.target_shape),
        "reference_cells": match.reference_cells.tolist(),
        "target_cells": match.target_cells.tolist(),
        "similarity": [float(str(value)) for value in match.similarity.float().numpy()],  # the shortest decimals
    }


def _around(pair: Pair, cells: torch.Tensor, shape: tuple[int, int], view: str) -> Array:
    """The box around cells of a picture in a view, in relative coordinates of the picture as it is: [4]."""
    if not len(cells):
        raise ConfigError(
            f"no cell of {pair.first!r} and {pair.second!r} survived ({pair.match.reason or 'score 0'}): "
            "export pairs whose score is above 0"
        )
    low, high = cells.min(0).values.numpy() / shape, (cells.max(0).values.numpy() + 1) / shape
    corners = mapped(from_view(view).double().numpy(), np.stack([low[::-1], high[::-1]]))
    box: Array = np.concatenate([corners.min(0), corners.max(0)])
    return box


def _size(name: str, sizes: Sizes) -> tuple[int, int]:
    if name not in sizes:
        raise ConfigError(f"the size of {name!r} is not known; give width and height of every picture")
    width, height = sizes[name]
    return int(width), int(height)


def _pages(notes: Mapping[str, Notes], sizes: Sizes, canvas: Address, page: Address) -> Pages:
    pages = {}
    for name, entries in notes.items():
        width, height = _size(name, sizes)
        labels, boxes, scores = zip(*entries, strict=True)
        inside = clip(torch.tensor(boxes, dtype=torch.float32), width, height)
        found = Detections(
            image=name, width=width, height=height, boxes=inside.numpy(), scores=np.array(scores), labels=labels
        )
        pages[name] = iiif_page(found, canvas=canvas(name), page=page(name))
    return pages


def _document(content: dict[str, Any], model: str, parameters: object) -> dict[str, Any]:
    document = {"model": model, "parameters": values_of(parameters)} | content
    try:
        json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"this cannot be written as JSON: {error}. Give finite numbers and texts.") from error
    return document


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_inert(value) for value in row] for row in rows)
    return text.getvalue()


def _inert(value: object) -> object:
    """A text that no spreadsheet runs as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _xml(text: str) -> str:
    """The text without the characters that XML has no place for."""
    return re.sub("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
