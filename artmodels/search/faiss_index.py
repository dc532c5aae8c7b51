"""Approximate vector search with FAISS, as one of the kinds of `artmodels.search.exact`."""

import importlib
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from artmodels.errors import ConfigError
from artmodels.search.vectors import BLOCK, HEADER, Array, Numbers, begin, ordered, tensor_of

__all__ = ["FaissConfig", "FaissIndex"]

GRAPH, IDS = "index.faiss", "ids.npy"


@dataclass(frozen=True, kw_only=True)
class FaissConfig:
    """How FAISS searches.

    Attributes:
        kind: "ivf": k-means cells, of which the nearest are searched; "hnsw": a graph of neighbours.
        lists: Cells of "ivf"; 0 takes 4 sqrt(M) for the M vectors that it was prepared for.
        probes: Cells that are searched.
        codes: Bytes of a product code in which "ivf" keeps a vector; 0 keeps the vector, 4 D bytes.
        links: Neighbours of a node of "hnsw" (M of Malkov and Yashunin 2018).
        construction: Nodes that are considered as neighbours of a new one.
        breadth: Nodes that a search keeps in view.
        seed: Of k-means.
    """

    kind: Literal["ivf", "hnsw"] = "ivf"
    lists: int = 0
    probes: int = 16
    codes: int = 0
    links: int = 32
    construction: int = 80
    breadth: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        """Check.

        Raises:
            ConfigError: A value out of range.
        """
        if self.kind not in ("ivf", "hnsw"):
            raise ConfigError(f"kind={self.kind!r} is not one of ivf, hnsw")
        for name, least in {"lists": 0, "probes": 1, "codes": 0, "links": 2, "construction": 1, "breadth": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: give {least} or more")
        if self.codes and self.kind == "hnsw":
            raise ConfigError('codes belong to kind="ivf": set codes=0, or take that kind')


def _faiss() -> ModuleType:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ConfigError(
            "FaissIndex needs FAISS, which is not installed: pip install 'artmodels[search]', or use ExactIndex"
        ) from error


class FaissIndex:
    """Approximate search with FAISS (Douze et al. 2024, arXiv:2401.08281), for more than about a million vectors.

    Removed vectors of either kind are masked when it is searched and keep their memory: a graph of neighbours loses its
    paths with its nodes. Build it anew once many are gone. Graphs are built on one thread, because the order decides
    which edges there are.
    """

    def __init__(self, dims: int, config: FaissConfig | None = None) -> None:
        """Begin an empty one.

        Raises:
            ConfigError: FAISS is not installed, or the codes do not divide D.
        """
        self.config, self._numbers, self._faiss = config or FaissConfig(), Numbers(dims), _faiss()
        if self.config.codes and dims % self.config.codes:
            raise ConfigError(f"codes={self.config.codes} does not divide vectors of {dims} numbers: give a divisor")
        self._index: Any = None

    @property
    def dims(self) -> int:
        """D."""
        return self._numbers.dims

    @property
    def ids(self) -> Array:
        """The numbers [M] int64 that it holds."""
        return self._numbers.ids

    def __len__(self) -> int:
        """M."""
        return int(self._numbers.live.sum())

    def prepare(self, sample: Tensor, total: int) -> None:
        """Find the cells from a sample [N, D], for about `total` vectors; the first `add` does so by itself.

        Raises:
            ConfigError: It was prepared already, or the sample is too small for product codes.
        """
        faiss, config = self._faiss, self.config
        if self._index is not None:
            raise ConfigError("the index has its cells already: begin another to choose them anew")
        inner = faiss.METRIC_INNER_PRODUCT
        if config.kind == "hnsw":
            self._index = faiss.IndexHNSWFlat(self.dims, config.links, inner)
            self._index.hnsw.efConstruction = config.construction
            return
        if config.codes and len(sample) < 256:
            raise ConfigError(f"product codes are learned from 256 vectors or more, not {len(sample)}: set codes=0")
        lists = max(1, min(config.lists or round(4 * math.sqrt(total)), len(sample)))
        cells = faiss.IndexFlatIP(self.dims)
        if config.codes:
            index = faiss.IndexIVFPQ(cells, self.dims, lists, config.codes, 8, inner)
            index.pq.cp.seed = config.seed + 1
            index.pq.cp.min_points_per_centroid, index.pq.cp.max_points_per_centroid = 1, 64
            index.pq.cp.niter = 10
        else:
            index = faiss.IndexIVFFlat(cells, self.dims, lists, inner)
        # FAISS prints a warning below 39 vectors a cell, which small collections have.
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 32
        index.cp.niter, index.cp.seed, index.cp.spherical = 10, config.seed + 1, True
        index.train(sample.float().contiguous().numpy())
        self._index = index

    def add(self, ids: Array, vectors: Tensor | Array) -> None:
        """Add vectors [N, D] under numbers [N].

        Raises:
            ConfigError: Another shape, values that are not finite, or a number that is there already.
        """
        numbers = self._numbers.checked(ids, vectors)
        if not len(numbers):
            return
        if self._index is None:
            self.prepare(tensor_of(vectors), len(vectors))
        threads = self._faiss.omp_get_max_threads()
        try:
            if self.config.kind == "hnsw":
                self._faiss.omp_set_num_threads(1)
            for start in range(0, len(vectors), BLOCK):
                self._index.add(tensor_of(vectors[start : start + BLOCK]).contiguous().numpy())
        finally:
            self._faiss.omp_set_num_threads(threads)
        self._numbers.append(numbers)

    def remove(self, ids: Array) -> None:
        """Mask the vectors of these numbers."""
        self._numbers.remove(ids)

    def search(self, queries: Tensor | Array, k: int) -> tuple[Tensor, Tensor]:
        """About the k nearest of each query [Q, D]: scores [Q, k], numbers [Q, k].

        Raises:
            ConfigError: Queries of another shape or not finite, or k below 1.
        """
        asked = self._numbers.queries(queries, k).contiguous().numpy()
        if not len(self):
            return torch.full((len(asked), k), -math.inf), torch.full((len(asked), k), -1)
        faiss = self._faiss
        options: dict[str, Any] = {}
        live = np.packbits(self._numbers.live, bitorder="little")
        if len(self) < len(self._numbers.all):
            options["sel"] = faiss.IDSelectorBitmap(len(live), faiss.swig_ptr(live))
        if self.config.kind == "hnsw":
            settings = faiss.SearchParametersHNSW(efSearch=max(self.config.breadth, k), **options)
        else:
            settings = faiss.SearchParametersIVF(nprobe=self.config.probes, **options)
        scores, places = self._index.search(asked, k, params=settings)
        found = torch.from_numpy(np.where(places >= 0, self._numbers.all[places], -1))
        return ordered(torch.from_numpy(scores).masked_fill(found < 0, -math.inf), found)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it into a folder.

        Raises:
            ConfigError: Nothing was ever added to it.
        """
        if self._index is None:
            raise ConfigError("the index is empty: add vectors before it is saved")
        root, header = begin(folder, {"kind": "faiss", "dims": self.dims, "config": asdict(self.config)})
        self._faiss.write_index(self._index, str(root / GRAPH))
        np.save(root / IDS, np.where(self._numbers.live, self._numbers.all, -1))
        (root / HEADER).write_text(header, encoding="utf-8")

    @classmethod
    def _read(cls, root: Path, about: dict[str, Any]) -> Self:
        found = cls(about["dims"], FaissConfig(**about["config"]))
        found._index = found._faiss.read_index(str(root / GRAPH))
        found._numbers = Numbers(about["dims"], np.load(root / IDS))
        if (found._index.ntotal, found._index.d) != (len(found._numbers.all), found.dims):
            raise ValueError(f"{found._index.ntotal} vectors for {len(found._numbers.all)} numbers")
        return found
