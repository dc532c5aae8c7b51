"""Vector search behind one small protocol: exact with PyTorch, approximate with FAISS.

Scores are inner products; vectors of length 1 make them cosines. Each vector has a number of the caller's, and what is
not found is number -1 at a score of minus infinity. The same calls give the same results; vectors at exactly the same
score come in the order of their numbers, but which of them are among the k is the library's choice.
"""

import importlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from artmodels.errors import ConfigError, DatasetError
from artmodels.files import read_object, replacing
from artmodels.settings import Count, Settings

__all__ = ["Array", "ExactIndex", "FaissConfig", "FaissIndex", "Index", "WhitenedIndex", "Whitening", "load_index"]

Array: TypeAlias = npt.NDArray[Any]

BLOCK = 2**14  # vectors that are handled at a time
QUERIES = 2**10  # that are compared with a block at a time: 64 MB of scores
SAMPLE = 100_000  # vectors from which a whitening is estimated
HEADER, IDS, VECTORS, GRAPH = "index.json", "ids.npy", "vectors.npy", "index.faiss"
WHITENING, INNER = "whitening.npz", "whitened"


class Index(Protocol):
    """Vectors with numbers, searched by inner product.

    What is of another shape or not finite, a number that is negative or there already, and k below 1 are a ConfigError.
    """

    @property
    def dims(self) -> int:
        """D, the length of a vector."""

    @property
    def ids(self) -> Array:
        """The numbers [M] int64 that it holds, in the order in which they were added."""

    def __len__(self) -> int:
        """M."""

    def prepare(self, sample: Tensor, total: int) -> None:
        """Learn what has to be learned before the first vector: from a sample [N, D] of about `total` vectors."""

    def add(self, ids: Array, vectors: Tensor | Array) -> None:
        """Add vectors [N, D], float32 or float16, under numbers [N], 0 or more, that it does not hold."""

    def remove(self, ids: Array) -> None:
        """Forget the vectors of these numbers; those that it does not hold are passed over."""

    def search(self, queries: Tensor | Array, k: int) -> tuple[Tensor, Tensor]:
        """The k vectors with the highest scores for each of [Q, D]: scores [Q, k] float32, numbers [Q, k] int64."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it into a folder, from which `load_index` reads it."""


def load_index(folder: str | os.PathLike[str]) -> Index:
    """Read an index of any kind.

    Raises:
        DatasetError: There is none, or it is damaged.
        ConfigError: It is one of FAISS, which is not installed.
    """
    kinds: dict[str, Any] = {"exact": ExactIndex, "faiss": FaissIndex, "whitened": WhitenedIndex}
    root = Path(folder)
    try:
        about = read_object(root / HEADER)
        found: Index = kinds[about["kind"]]._read(root, about)
    except OSError as error:
        raise DatasetError(f"{root} holds no index: it lacks {error.filename}. Check the path, or build it.") from error
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error.__cause__, ImportError):  # of FAISS: the index may well be whole
            raise
        raise DatasetError(f"The index {root} is damaged ({error}): remove that folder and build it again.") from error
    return found


class _Numbered(ABC):
    """The numbers of an index: which position has which, and which positions count. A subclass keeps the vectors."""

    def __init__(self, dims: int) -> None:
        if dims < 1:
            raise ConfigError(f"dims={dims}: vectors have at least one number")
        self.dims = dims
        self._take(np.empty(0, np.int64))

    def _take(self, numbers: Array) -> None:
        """Replace the numbers; -1 stands for one that was removed."""
        self._all, self._live = numbers, numbers >= 0

    @property
    def ids(self) -> Array:
        """The numbers [M] int64 that it holds."""
        return np.asarray(self._all[self._live])

    def __len__(self) -> int:
        return int(self._live.sum())

    def add(self, ids: Array, vectors: Tensor | Array) -> None:
        """Add vectors [N, D] under numbers [N]."""
        numbers = np.asarray(ids, np.int64)
        if tuple(vectors.shape) != (len(numbers), self.dims):
            raise ConfigError(
                f"vectors of shape {tuple(vectors.shape)} came with {len(numbers)} numbers, and this index takes "
                f"[N, {self.dims}]: give one number for each vector of that length"
            )
        if not len(numbers):
            return
        if not all(bool(block.isfinite().all()) for block in _blocks_of(vectors)):
            raise ConfigError("a vector that is to be added is not finite: check what made it")
        if numbers.min() < 0:
            raise ConfigError(f"a vector has number {numbers.min()}: numbers are 0 or more")
        # Numbers mostly rise, and then none has to be looked up.
        again = numbers[np.isin(numbers, self.ids)] if numbers.min() <= self._all.max(initial=-1) else numbers[:0]
        if len(again) or len(np.unique(numbers)) < len(numbers):
            which = int(again[0]) if len(again) else "one of those given"
            raise ConfigError(f"number {which} would be there twice: remove it first, or give another")
        self._store(vectors)
        self._all = np.concatenate([self._all, numbers])
        self._live = np.concatenate([self._live, np.ones(len(numbers), bool)])

    def remove(self, ids: Array) -> None:
        """Pass over the vectors of these numbers from now on."""
        self._live &= ~np.isin(self._all, np.asarray(ids, np.int64))

    def search(self, queries: Tensor | Array, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest of each query [Q, D]: scores [Q, k], numbers [Q, k]."""
        asked = _tensor_of(queries)
        if asked.ndim != 2 or asked.shape[1] != self.dims or not bool(asked.isfinite().all()):
            raise ConfigError(
                f"queries of shape {tuple(asked.shape)} cannot be searched for: give finite ones [Q, {self.dims}]"
            )
        if k < 1:
            raise ConfigError(f"k={k}: ask for at least one vector")
        scores, ids = self._nearest(asked, k)
        ids, order = ids.sort(1)  # equal scores come by rising number
        scores, second = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
        return scores, ids.gather(1, second).masked_fill(scores == -math.inf, -1)

    @abstractmethod
    def _store(self, vectors: Tensor | Array) -> None:
        """Keep vectors that were checked, at the next positions."""

    @abstractmethod
    def _nearest(self, asked: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores and numbers of the k best that count, in any order."""


class ExactIndex(_Numbered):
    """Compares with every vector, block by block: exact, linear in their number, and of bounded memory.

    Vectors that are memory-mapped stay in their file. Removed ones are passed over, and left out by `save`.
    """

    def __init__(self, dims: int, *, device: torch.device | str = "cpu") -> None:
        """Begin an empty one for vectors of so many numbers, at least one, compared on a device."""
        super().__init__(dims)
        self._parts, self.device = list[Array](), torch.device(device)

    def prepare(self, sample: Tensor, total: int) -> None:
        """Nothing has to be learned."""

    def _store(self, vectors: Tensor | Array) -> None:
        self._parts.append(vectors.detach().cpu().numpy() if isinstance(vectors, Tensor) else vectors)

    def _nearest(self, asked: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores, ids = torch.full((len(asked), k), -math.inf), torch.full((len(asked), k), -1)
        for start, block in self._blocks():
            vectors = block.to(self.device)
            numbers = torch.from_numpy(self._all[start : start + len(block)])
            dead = torch.from_numpy(~self._live[start : start + len(block)]).to(self.device)
            for first in range(0, len(asked), QUERIES):
                part = slice(first, first + QUERIES)
                found = (asked[part].to(self.device) @ vectors.T).masked_fill_(dead, -math.inf)
                best = found.topk(min(k, len(block)), dim=1)
                both = torch.cat([scores[part], best.values.cpu()], 1)
                named = torch.cat([ids[part], numbers[best.indices.cpu()]], 1)
                scores[part], chosen = both.topk(k, dim=1)
                ids[part] = named.gather(1, chosen)
        return scores, ids

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Position of the first, and vectors as float32; cut at the same places however they were added."""
        starts = np.cumsum([0, *map(len, self._parts)])
        for start in range(0, int(starts[-1]), BLOCK):
            stop = start + BLOCK
            inside = slice(np.searchsorted(starts, start, "right") - 1, np.searchsorted(starts[:-1], stop))
            parts = zip(starts[inside].tolist(), self._parts[inside], strict=True)
            yield start, torch.cat([_tensor_of(part[max(0, start - first) : stop - first]) for first, part in parts])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it into a folder."""
        half = bool(self._parts) and all(part.dtype == np.float16 for part in self._parts)
        kind = np.float16 if half else np.float32
        with _header_last(folder, {"kind": "exact", "dims": self.dims}) as root:
            # A new file, because the old one may be where the vectors are.
            with replacing(root / VECTORS) as (draft,), draft.open("wb") as file:
                about = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, about | {"shape": (len(self), self.dims)})
                for start, block in self._blocks():
                    file.write(block.numpy()[self._live[start : start + len(block)]].astype(kind).tobytes())
            np.save(root / IDS, self.ids)

    @classmethod
    def _read(cls, root: Path, about: dict[str, Any]) -> Self:
        found = cls(about["dims"])
        found._take(np.load(root / IDS))
        # What is empty cannot be mapped.
        part = np.load(root / VECTORS, mmap_mode="r" if len(found) else None)
        if part.shape != (len(found), found.dims):
            raise ValueError(f"{part.shape} vectors for {len(found)} numbers")
        found._parts = [part] if len(found) else []
        return found


@dataclass(frozen=True, kw_only=True)
class FaissConfig(Settings):
    """How FAISS searches."""

    kind: Annotated[
        Literal["ivf", "hnsw"],
        '"ivf": k-means cells, of which the nearest are searched; "hnsw": a graph of neighbours.',
    ] = "ivf"
    lists: Annotated[int, Ge(0), 'Cells of "ivf"; 0 takes 4 sqrt(M) for the M vectors that it was prepared for.'] = 0
    probes: Annotated[Count, "Cells that are searched."] = 16
    codes: Annotated[
        int, Ge(0), 'Bytes of a product code in which "ivf" keeps a vector; 0 keeps the vector, 4 D bytes.'
    ] = 0
    links: Annotated[int, Ge(2), 'Neighbours of a node of "hnsw" (M of Malkov and Yashunin 2018).'] = 32
    construction: Annotated[Count, "Nodes that are considered as neighbours of a new one."] = 80
    breadth: Annotated[Count, "Nodes that a search keeps in view."] = 128
    seed: Annotated[int, "Of k-means."] = 0

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.codes and self.kind == "hnsw":
            raise ConfigError('codes belong to kind="ivf": set codes=0, or take that kind')


class FaissIndex(_Numbered):
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
        super().__init__(dims)
        self.config, self._faiss = config or FaissConfig(), _faiss()
        if self.config.codes and dims % self.config.codes:
            raise ConfigError(f"codes={self.config.codes} does not divide vectors of {dims} numbers: give a divisor")
        self._index: Any = None

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

    def _store(self, vectors: Tensor | Array) -> None:
        if self._index is None:
            self.prepare(_tensor_of(vectors), len(vectors))
        threads = self._faiss.omp_get_max_threads()
        try:
            if self.config.kind == "hnsw":
                self._faiss.omp_set_num_threads(1)
            for block in _blocks_of(vectors):
                self._index.add(block.contiguous().numpy())
        finally:
            self._faiss.omp_set_num_threads(threads)

    def _nearest(self, asked: Tensor, k: int) -> tuple[Tensor, Tensor]:
        if not len(self):
            return torch.full((len(asked), k), -math.inf), torch.full((len(asked), k), -1)
        faiss = self._faiss
        options: dict[str, Any] = {}
        live = np.packbits(self._live, bitorder="little")
        if len(self) < len(self._all):
            options["sel"] = faiss.IDSelectorBitmap(len(live), faiss.swig_ptr(live))
        if self.config.kind == "hnsw":
            settings = faiss.SearchParametersHNSW(efSearch=max(self.config.breadth, k), **options)
        else:
            settings = faiss.SearchParametersIVF(nprobe=self.config.probes, **options)
        scores, places = self._index.search(asked.contiguous().numpy(), k, params=settings)
        found = torch.from_numpy(np.where(places >= 0, self._all[places], -1))
        return torch.from_numpy(scores).masked_fill(found < 0, -math.inf), found

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it into a folder.

        Raises:
            ConfigError: Nothing was ever added to it.
        """
        if self._index is None:
            raise ConfigError("the index is empty: add vectors before it is saved")
        with _header_last(folder, {"kind": "faiss", "dims": self.dims, "config": asdict(self.config)}) as root:
            self._faiss.write_index(self._index, str(root / GRAPH))
            np.save(root / IDS, np.where(self._live, self._all, -1))

    @classmethod
    def _read(cls, root: Path, about: dict[str, Any]) -> Self:
        found = cls(about["dims"], FaissConfig(**about["config"]))
        found._index = found._faiss.read_index(str(root / GRAPH))
        found._take(np.load(root / IDS))
        if (found._index.ntotal, found._index.d) != (len(found._all), found.dims):
            raise ValueError(f"{found._index.ntotal} vectors for {len(found._all)} numbers")
        return found


@dataclass(frozen=True, eq=False)
class Whitening:
    """Centres vectors, keeps their main directions at even variance, and scales them to length 1.

    Features after a ReLU all point into one corner of space: without their mean they differ more (Jegou and Chum 2012,
    "Negative evidences and co-occurrences in image retrieval").
    """

    mean: Tensor  # [D]
    projection: Tensor  # [D, d]

    @classmethod
    def fit(cls, vectors: Tensor | Array, dims: int, *, power: float = 0.5) -> "Whitening":
        """Estimate it from vectors [N, D], of which at most 100 000 evenly spread ones are used.

        Of their directions `dims` are kept, each divided by its variance to a power: 0.5 is full whitening, 0 none.

        Raises:
            ConfigError: More directions than the vectors span.
        """
        chosen = _tensor_of(vectors[:: -(-len(vectors) // SAMPLE) or 1]).double()
        if not 1 <= dims <= min(chosen.shape[1], len(chosen) - 1):
            raise ConfigError(
                f"dims={dims} directions cannot be estimated from vectors {list(chosen.shape)}: give fewer"
            )
        mean = chosen.mean(0)
        centred = chosen - mean
        values, directions = torch.linalg.eigh(centred.T @ centred / (len(chosen) - 1))
        values, directions = values.flip(0)[:dims], directions.flip(1)[:, :dims]
        if float(values[-1]) <= 1e-9 * float(values[0]):
            raise ConfigError(f"dims={dims}: the vectors span fewer directions; give fewer, or more vectors")
        return cls(mean.float(), (directions * values.pow(-power)).float())

    def __call__(self, vectors: Tensor | Array) -> Tensor:
        """Vectors [N, d] of length 1 for those [N, D]."""
        return F.normalize((_tensor_of(vectors) - self.mean) @ self.projection, dim=1)


class WhitenedIndex:
    """An index that centres, projects and scales what is added and what is asked for by a `Whitening`."""

    def __init__(self, inner: Index, whitening: Whitening) -> None:
        """Wrap an index of vectors of d numbers.

        Raises:
            ConfigError: It takes vectors of another length.
        """
        if whitening.projection.shape[1] != inner.dims:
            raise ConfigError(
                f"the whitening gives vectors of {whitening.projection.shape[1]} numbers and the index takes "
                f"{inner.dims}: make both with the same dims"
            )
        self.inner, self.whitening = inner, whitening

    @property
    def dims(self) -> int:
        """D, before the projection."""
        return len(self.whitening.mean)

    @property
    def ids(self) -> Array:
        """The numbers [M] int64 that it holds."""
        return self.inner.ids

    def __len__(self) -> int:
        """M."""
        return len(self.inner)

    def prepare(self, sample: Tensor, total: int) -> None:
        """As the index inside, which gets projected vectors."""
        self.inner.prepare(self.whitening(sample), total)

    def add(self, ids: Array, vectors: Tensor | Array) -> None:
        """Project vectors [N, D], and add them under numbers [N]."""
        for start in range(0, len(vectors), BLOCK):
            self.inner.add(ids[start : start + BLOCK], self.whitening(vectors[start : start + BLOCK]).half())

    def remove(self, ids: Array) -> None:
        """Forget the vectors of these numbers."""
        self.inner.remove(ids)

    def search(self, queries: Tensor | Array, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest of each query [Q, D], after projection."""
        return self.inner.search(self.whitening(queries), k)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it into a folder."""
        mean, projection = self.whitening.mean.numpy(), self.whitening.projection.numpy()
        with _header_last(folder, {"kind": "whitened"}) as root:
            np.savez(root / WHITENING, mean=mean, projection=projection)
            self.inner.save(root / INNER)

    @classmethod
    def _read(cls, root: Path, about: dict[str, Any]) -> Self:
        with np.load(root / WHITENING) as stored:
            whitening = Whitening(torch.from_numpy(stored["mean"]), torch.from_numpy(stored["projection"]))
        return cls(load_index(root / INNER), whitening)


def _faiss() -> ModuleType:
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ConfigError(
            "FaissIndex needs FAISS, which is not installed: pip install 'artmodels[search]', or use ExactIndex"
        ) from error


def _tensor_of(values: Tensor | Array) -> Tensor:
    """Float32; of what is memory-mapped, a copy."""
    return values.float() if isinstance(values, Tensor) else torch.from_numpy(values.astype(np.float32))


def _blocks_of(vectors: Tensor | Array) -> Iterator[Tensor]:
    return (_tensor_of(vectors[start : start + BLOCK]) for start in range(0, len(vectors), BLOCK))


@contextmanager
def _header_last(folder: str | os.PathLike[str], about: dict[str, Any]) -> Iterator[Path]:
    """A folder to write into. Its header is written last: an index without one does not count."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    (root / HEADER).unlink(missing_ok=True)
    yield root
    (root / HEADER).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
