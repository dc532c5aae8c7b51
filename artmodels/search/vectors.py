"""What the indexes share: numbers of vectors, order of results, whitening, and their folders."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.errors import ConfigError

__all__ = ["BLOCK", "HEADER", "Array", "Numbers", "Whitening", "begin", "ordered", "tensor_of"]

Array: TypeAlias = npt.NDArray[Any]

BLOCK = 2**14  # vectors that are handled at a time
HEADER = "index.json"
SAMPLE = 100_000  # vectors from which a whitening is estimated


class Numbers:
    """Which number each position has, and which positions still count."""

    def __init__(self, dims: int, ids: Array | None = None) -> None:
        """For vectors of so many numbers, of which these are there; -1 stands for one that was removed."""
        if dims < 1:
            raise ConfigError(f"dims={dims}: vectors have at least one number")
        self.dims = dims
        self.all = np.empty(0, np.int64) if ids is None else ids
        self.live = self.all >= 0

    @property
    def ids(self) -> Array:
        """Those that count."""
        return np.asarray(self.all[self.live])

    def checked(self, ids: Array, vectors: Tensor | Array) -> Array:
        """The numbers of vectors that may be added."""
        numbers = np.asarray(ids, np.int64)
        if tuple(vectors.shape) != (len(numbers), self.dims):
            raise ConfigError(
                f"vectors of shape {tuple(vectors.shape)} came with {len(numbers)} numbers, and this index takes "
                f"[N, {self.dims}]: give one number for each vector of that length"
            )
        for start in range(0, len(vectors), BLOCK):
            block = tensor_of(vectors[start : start + BLOCK])
            if not bool(torch.isfinite(block).all()):
                raise ConfigError("a vector that is to be added is not finite: check what made it")
        if len(numbers) and numbers.min() < 0:
            raise ConfigError(f"a vector has number {numbers.min()}: numbers are 0 or more")
        highest = int(self.all.max()) if len(self.all) and len(numbers) else -1
        again = numbers[np.isin(numbers, self.ids)] if len(numbers) and numbers.min() <= highest else numbers[:0]
        if len(again) or len(np.unique(numbers)) < len(numbers):
            which = int(again[0]) if len(again) else "one of those given"
            raise ConfigError(f"number {which} would be there twice: remove it first, or give another")
        return numbers

    def append(self, numbers: Array) -> None:
        """Take numbers that were checked."""
        self.all = np.concatenate([self.all, numbers])
        self.live = np.concatenate([self.live, np.ones(len(numbers), bool)])

    def remove(self, ids: Array) -> None:
        """Let numbers count no more."""
        self.live &= ~np.isin(self.all, np.asarray(ids, np.int64))

    def queries(self, queries: Tensor | Array, k: int) -> Tensor:
        """Queries [Q, D] float32 that can be answered."""
        found = tensor_of(queries)
        if found.ndim != 2 or found.shape[1] != self.dims or not bool(torch.isfinite(found).all()):
            raise ConfigError(
                f"queries of shape {tuple(found.shape)} cannot be searched for: give finite ones [Q, {self.dims}]"
            )
        if k < 1:
            raise ConfigError(f"k={k}: ask for at least one vector")
        return found


@dataclass(frozen=True, eq=False)
class Whitening:
    """Centres vectors, keeps their main directions at even variance, and scales them to length 1.

    Features after a ReLU all point into one corner of space: without their mean they differ more (Jegou and Chum 2012,
    "Negative evidences and co-occurrences in image retrieval").

    Attributes:
        mean: [D].
        projection: [D, d].
    """

    mean: Tensor
    projection: Tensor

    @classmethod
    def fit(cls, vectors: Tensor | Array, dims: int, *, power: float = 0.5) -> "Whitening":
        """Estimate it from vectors [N, D], of which at most 100 000 evenly spread ones are used.

        Args:
            vectors: From which.
            dims: d, directions that are kept.
            power: Each is divided by its variance to this power: 0.5 is full whitening, 0 none.

        Raises:
            ConfigError: More directions than the vectors span.
        """
        chosen = tensor_of(vectors[:: -(-len(vectors) // SAMPLE) or 1]).double()
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
        return F.normalize((tensor_of(vectors) - self.mean) @ self.projection, dim=1)


def tensor_of(values: Tensor | Array) -> Tensor:
    """Float32; of what is memory-mapped, a copy."""
    return values.float() if isinstance(values, Tensor) else torch.from_numpy(values.astype(np.float32))


def ordered(scores: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Rows by falling score, and equal scores by rising number."""
    ids, order = ids.sort(1)
    scores, second = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, ids.gather(1, second).masked_fill(scores == -math.inf, -1)


def begin(folder: str | os.PathLike[str], about: dict[str, Any]) -> tuple[Path, str]:
    """A folder to write into, and its header, which is written last: an index without one does not count."""
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    (root / HEADER).unlink(missing_ok=True)
    return root, json.dumps(about, indent=2) + "\n"
