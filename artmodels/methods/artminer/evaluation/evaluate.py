"""The one-shot protocol: every query of a benchmark, looked for in all its pictures."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import torch

from artmodels.methods.artminer.collection.collection import Described
from artmodels.methods.artminer.evaluation.protocols import OneShotScores, OneShotSet, score
from artmodels.methods.artminer.oneshot import Hit
from artmodels.methods.artminer.pipeline import ArtMiner
from artmodels.progress import Progress

__all__ = ["By", "stream_one_shot"]

By = Literal["cosine", "verified", "discovery"]


@torch.inference_mode()
def stream_one_shot(
    miner: ArtMiner,
    queries: OneShotSet,
    among: Described,
    path: Callable[[str], Path],
    *,
    by: By = "cosine",
) -> Iterator[Progress | OneShotScores]:
    """Evaluate the search for details, section 5.1 of the paper.

    Args:
        miner: What describes the queries, and described the pictures.
        queries: See `artmodels.methods.artminer.evaluation.protocols.read_queries`.
        among: All pictures, distractors too, by the names of the benchmark.
        path: Gives the file of a picture.
        by: What ranks places: the cosine of stacked cells; the mean of it and the discovery score of the detail and
            the place, see `ArtMiner.search`; or the discovery score of the detail and the whole picture.

    Yields:
        A step after each picture, then the average precision of each query.
    """
    kernels = [miner.kernel(path(query.instance.image), query.instance.box) for query in queries.queries]
    sizes = defaultdict[torch.Size, list[int]](list)
    for number, kernel in enumerate(kernels):
        sizes[kernel.shape].append(number)
    found: list[list[Hit]] = [[] for _ in kernels]
    for done, name in enumerate(among.names, start=1):
        if by != "discovery":
            for numbers in sizes.values():
                together = torch.stack([kernels[number] for number in numbers])
                places = miner.places(name, among, together, by=by)
                for number, hits in zip(numbers, places, strict=True):
                    found[number] += hits
        else:
            for number, kernel in enumerate(kernels):
                if queries.queries[number].instance.image != name:
                    found[number] += miner.correspondences(name, among, kernel)
        yield Progress(done, len(among.names), name)
    yield score(queries, found)
