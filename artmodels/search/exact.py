"""Vector search behind one small protocol: exact with PyTorch, approximate with FAISS.

Scores are inner products; vectors of length 1 make them cosines. Each vector has a number of the caller's, and what is
not found is number -1 at a score of minus infinity. The same calls give the same results; vectors at exactly the same
score come in the order of their numbers, but which of them are among the k is the library's choice.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from artmodels.errors import ConfigError, DatasetError
from artmodels.files import read_object, replacing
from artmodels.search.faiss_index import FaissConfig, FaissIndex
from artmodels.search.vectors import BLOCK, HEADER, Array, Numbers, Whitening, begin, ordered, tensor_of

__all__ = ["ExactIndex", "FaissConfig", "FaissIndex", "Index", "WhitenedIndex", "Whitening", "load_index"]

QUERIES = 2**10  # that are compared with a block at a time: 64 MB of scores
IDS, VECTORS, WHITENING, INNER = "ids.npy", "vectors.npy", "whitening.npz", "whitened"


class Index(Protocol):
    """Vectors with numbers, searched by inner product."""

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
        raise DatasetError(f"The index {root} is damaged ({error}): remove that folder and build it again.") from error
    return found


class ExactIndex:
    """Compares with every vector, block by block: exact, linear in their number, and of bounded memory.

    Vectors that are memory-mapped stay in their file. Removed ones are passed over, and left out by `save`.
    """

    def __init__(self, dims: int, *, device: torch.device | str = "cpu") -> None:
        """Begin an empty one for vectors of so many numbers, compared on a device.

        Raises:
            ConfigError: Less than one.
        """
        self._numbers, self._parts, self.device = Numbers(dims), list[Array](), torch.device(device)

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
        """Nothing has to be learned."""

    def add(self, ids: Array, vectors: Tensor | Array) -> None:
        """Add vectors [N, D] under numbers [N].

        Raises:
            ConfigError: Another shape, values that are not finite, or a number that is there already.
        """
        numbers = self._numbers.checked(ids, vectors)
        if len(numbers):
            self._parts.append(vectors.detach().cpu().numpy() if isinstance(vectors, Tensor) else vectors)
            self._numbers.append(numbers)

    def remove(self, ids: Array) -> None:
        """Forget the vectors of these numbers."""
        self._numbers.remove(ids)

    def search(self, queries: Tensor | Array, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest of each query [Q, D]: scores [Q, k], numbers [Q, k].

        Raises:
            ConfigError: Queries of another shape or not finite, or k below 1.
        """
        asked = self._numbers.queries(queries, k)
        scores = torch.full((len(asked), k), -math.inf)
        ids = torch.full((len(asked), k), -1)
        for start, block in self._blocks():
            vectors = block.to(self.device)
            stop = start + len(block)
            numbers = torch.from_numpy(self._numbers.all[start:stop])
            dead = torch.from_numpy(~self._numbers.live[start:stop]).to(self.device)
            for first in range(0, len(asked), QUERIES):
                part = slice(first, first + QUERIES)
                found = (asked[part].to(self.device) @ vectors.T).masked_fill_(dead, -math.inf)
                best = found.topk(min(k, len(block)), dim=1)
                both = torch.cat([scores[part], best.values.cpu()], 1)
                named = torch.cat([ids[part], numbers[best.indices.cpu()]], 1)
                scores[part], chosen = both.topk(k, dim=1)
                ids[part] = named.gather(1, chosen)
        return ordered(scores, ids)

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Vectors as float32, at most so many at a time; cut at the same places however they were added."""
        waiting, held, start = list[Array](), 0, 0
        for part in self._parts:
            first = 0
            while first < len(part):
                piece = part[first : first + BLOCK - held]
                waiting.append(piece)
                first, held = first + len(piece), held + len(piece)
                if held == BLOCK:
                    yield start, torch.cat([tensor_of(each) for each in waiting])
                    waiting, held, start = [], 0, start + BLOCK
        if held:
            yield start, torch.cat([tensor_of(each) for each in waiting])

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write it into a folder."""
        root, header = begin(folder, {"kind": "exact", "dims": self.dims})
        half = bool(self._parts) and all(part.dtype == np.float16 for part in self._parts)
        kind = np.float16 if half else np.float32
        # A new file, because the old one may be where the vectors are.
        with replacing(root / VECTORS) as (draft,), draft.open("wb") as file:
            about = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, about | {"shape": (len(self), self.dims)})
            for start, block in self._blocks():
                live = self._numbers.live[start : start + len(block)]
                file.write(block.numpy()[live].astype(kind).tobytes())
        np.save(root / IDS, self.ids)
        (root / HEADER).write_text(header, encoding="utf-8")

    @classmethod
    def _read(cls, root: Path, about: dict[str, Any]) -> Self:
        found = cls(about["dims"])
        found._numbers = Numbers(about["dims"], np.load(root / IDS))
        # What is empty cannot be mapped.
        part = np.load(root / VECTORS, mmap_mode="r" if len(found) else None)
        if part.shape != (len(found), found.dims):
            raise ValueError(f"{part.shape} vectors for {len(found)} numbers")
        found._parts = [part] if len(found) else []
        return found


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
        root, header = begin(folder, {"kind": "whitened"})
        np.savez(root / WHITENING, mean=self.whitening.mean.numpy(), projection=self.whitening.projection.numpy())
        self.inner.save(root / INNER)
        (root / HEADER).write_text(header, encoding="utf-8")

    @classmethod
    def _read(cls, root: Path, about: dict[str, Any]) -> Self:
        with np.load(root / WHITENING) as stored:
            whitening = Whitening(torch.from_numpy(stored["mean"]), torch.from_numpy(stored["projection"]))
        return cls(load_index(root / INNER), whitening)
