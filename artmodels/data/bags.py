"""Ragged bags of instances: the only input of the multiple-instance estimators.

A bag is an image, an instance one of its regions. The instances of all bags lie one after the other in one tensor: a
linear classifier is one matrix product then, and a store of features in a memory-mapped file is used as it is.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Union, overload

import numpy as np
import torch
from torch import Tensor

from artmodels.errors import DatasetError

__all__ = ["Bags", "BagsError"]

BLOCK = 2**22  # values: what is checked at a time


class BagsError(DatasetError, ValueError):
    """Bags, objectness or labels that nothing can be learnt from; a ValueError, because scikit-learn promises one."""


class Bags:
    """Bags of instances with the same number of features, one after the other.

        >>> bags = Bags.of([np.zeros((3, 8)), np.ones((2, 8))])
        >>> len(bags), bags.sizes.tolist(), list(bags.instances.shape)
        (2, [3, 2], [5, 8])

    Attributes:
        instances: [T, M] float32 or float16; may be memory-mapped, and is never written to.
        sizes: [B] int64, how many instances each bag has, at least 1; they add up to T.
        objectness: [T] float32 in [0, 1], how likely an instance shows an object at all; None if unknown.
    """

    def __init__(self, instances: Tensor, sizes: Tensor, objectness: Tensor | None = None) -> None:
        """Take tensors that have these shapes already; `of` takes anything else.

        Raises:
            BagsError: A bag is empty or has values that are not finite, or the shapes do not fit; a DatasetError.
        """
        if instances.dim() != 2 or instances.dtype not in (torch.float32, torch.float16):
            raise BagsError(f"instances are {_described(instances)}; give [T, M] of float32 or float16, or use Bags.of")
        sizes = torch.as_tensor(sizes)
        if sizes.dim() != 1 or sizes.is_floating_point() or int(sizes.sum()) != len(instances):
            raise BagsError(
                f"sizes ({_described(sizes)}) must be [B] whole numbers that add up to the {len(instances)} instances"
            )
        self.instances, self.sizes, self.objectness = instances, sizes.to("cpu", torch.int64), objectness
        self._check()

    def _part(self, rows: slice | Tensor, sizes: Tensor) -> "Bags":
        """Some of the instances as bags of these sizes, which are not checked again."""
        part = Bags.__new__(Bags)
        part.instances, part.sizes = self.instances[rows], sizes
        part.objectness = None if self.objectness is None else self.objectness[rows]
        return part

    @cached_property
    def offsets(self) -> Tensor:
        """[B + 1] int64, where each bag begins; the last is T."""
        return torch.cat([self.sizes.new_zeros(1), self.sizes.cumsum(0)])

    @cached_property
    def bag_of(self) -> Tensor:
        """[T] int64, the number of the bag that each instance is in."""
        return torch.arange(len(self)).repeat_interleave(self.sizes)

    def _check(self) -> None:
        count, width = len(self.sizes), self.instances.shape[1]
        if not count:
            raise BagsError("there are no bags, 0 sample(s) while a minimum of 1 is required: give at least one")
        if not width:
            raise BagsError(
                f"the instances have 0 feature(s) (shape=({count}, 0)) while a minimum of 1 is required: give [K, M]"
            )
        empty = (self.sizes < 1).nonzero()
        if len(empty):
            raise BagsError(f"bag {int(empty[0])} has no instance: leave it out, or give it at least one")
        for start in range(0, len(self.instances), max(1, BLOCK // width)):
            block = self.instances[start : start + max(1, BLOCK // width)]
            if not torch.isfinite(block).all():
                place = self._place(start + int((~torch.isfinite(block)).any(1).nonzero()[0]))
                raise BagsError(
                    f"{place} has values that are not finite (NaN or infinity, inf, or too large for float32): mend "
                    "the features or leave the instance out"
                )
        if self.objectness is None:
            return
        if self.objectness.shape != (len(self.instances),):
            raise BagsError(
                f"objectness has shape {tuple(self.objectness.shape)}, and there are {len(self.instances)} instances: "
                "give one number for each"
            )
        self.objectness = self.objectness.float()
        wrong = (~((self.objectness >= 0) & (self.objectness <= 1))).nonzero()
        if len(wrong):
            place, value = self._place(int(wrong[0])), float(self.objectness[wrong[0]])
            raise BagsError(f"the objectness of {place} is {value:g}: it must be in [0, 1]")

    def _place(self, row: int) -> str:
        bag = int(torch.searchsorted(self.offsets, row, right=True)) - 1
        return f"bag {bag}, instance {row - int(self.offsets[bag])}"

    @classmethod
    def of(cls, bags: object, objectness: object = None, mask: object = None) -> "Bags":
        """Make bags of arrays.

        Args:
            bags: Bags, which are returned as they are; a sequence of arrays [K_i, M]; an array [B, K, M], of which
                `mask` says what is no padding; or an array [B, M], bags of one instance each. Tensors or anything that
                NumPy understands. A float32 or float16 array [B, K, M] without mask is not copied.
            objectness: In [0, 1], in the layout of the bags: a sequence of [K_i], or [B, K]; or one [T].
            mask: Boolean [B, K] for an array [B, K, M]; False is padding, whatever its values are.

        Raises:
            BagsError: No bags, an empty bag, differing widths, values that are not finite, or what does not fit; the
                message names the bag. It is a DatasetError and a ValueError.
        """
        if isinstance(bags, Bags):
            if objectness is not None or mask is not None:
                raise BagsError("Bags have their objectness and no padding already: give neither objectness nor mask")
            return bags
        if hasattr(bags, "toarray") and hasattr(bags, "tocsr"):
            raise BagsError("Sparse data was passed: bags must be dense; use .toarray()")
        if isinstance(bags, np.ndarray | Tensor):
            dense = _tensor(bags, "the bags")
            if dense.dim() == 2:
                dense = dense[:, None]
            if dense.dim() != 3:
                raise BagsError(
                    f"the bags have shape {tuple(dense.shape)}: give a list of [K, M], or [B, K, M]. Reshape your data"
                )
            return cls._dense(dense, objectness, mask)
        if mask is not None:
            raise BagsError("a mask is for one array [B, K, M]; a sequence of bags needs none: leave it out")
        if not isinstance(bags, Sequence) or isinstance(bags, str | bytes):
            array = np.empty(())
            with suppress(TypeError, ValueError):
                array = np.asarray(bags)
            if array.dtype == object or array.ndim == 0:
                raise BagsError(f"bags cannot be a {type(bags).__name__}: give a list of arrays [K, M]")
            return cls.of(array, objectness)
        parts = [_tensor(bag, f"bag {number}") for number, bag in enumerate(bags)]
        if parts and all(part.dim() == 1 for part in parts) and len({len(part) for part in parts}) == 1:
            return cls._dense(torch.stack([part.float() for part in parts])[:, None], objectness, None)
        for number, part in enumerate(parts):
            if part.dim() != 2:
                raise BagsError(f"bag {number} has shape {tuple(part.shape)}: give [K, M], one row an instance")
            if part.shape[1] != parts[0].shape[1]:
                raise BagsError(
                    f"bag {number} has {part.shape[1]} features and bag 0 has {parts[0].shape[1]}: they must have the "
                    "same number"
                )
        if not parts:
            raise BagsError("there are no bags, 0 sample(s) while a minimum of 1 is required: give at least one")
        sizes = torch.tensor([len(part) for part in parts])
        return cls(torch.cat(parts), sizes, _flat_objectness(objectness, sizes))

    @classmethod
    def _dense(cls, dense: Tensor, objectness: object, mask: object) -> "Bags":
        count, most = dense.shape[:2]
        scores = None if objectness is None else _tensor(objectness, "objectness").float()
        if scores is not None and scores.numel() != count * most:
            raise BagsError(f"objectness has shape {tuple(scores.shape)}, and the bags {count} x {most}: give [B, K]")
        flat = dense.reshape(count * most, dense.shape[2])
        scores = None if scores is None else scores.reshape(-1)
        if mask is None:
            return cls(flat, torch.full((count,), most), scores)
        kept = torch.as_tensor(mask)
        if kept.dtype != torch.bool or kept.shape != (count, most):
            raise BagsError(f"the mask is {_described(kept)}, and the bags need a boolean [{count}, {most}]")
        rows = kept.reshape(-1)
        return cls(flat[rows], kept.sum(1), None if scores is None else scores[rows])

    # --- As a sequence

    def __len__(self) -> int:
        """How many bags there are."""
        return len(self.sizes)

    def __repr__(self) -> str:
        """A short description, without values."""
        scored = "" if self.objectness is None else ", with objectness"
        return f"Bags({len(self)} bags, {len(self.instances)} instances, {self.features} features{scored})"

    def __iter__(self) -> Iterator[Tensor]:
        """Each bag, [K_i, M]."""
        for number in range(len(self)):
            yield self[number]

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: Any) -> Union[Tensor, "Bags"]: ...  # noqa: ANN401 - what NumPy takes as an index
    def __getitem__(self, index: Any) -> Union[Tensor, "Bags"]:
        """One bag [K_i, M], or the Bags of a slice, of numbers or of a boolean array.

        Bags that follow each other are a view; others are copied.
        """
        if isinstance(index, tuple):  # scikit-learn asks for array[numbers, ...]
            if len(index) != 2 or index[1] is not Ellipsis:
                raise IndexError(f"bags have one axis: {index!r} has too many indices")
            index = index[0]
        if isinstance(index, int | np.integer):
            number = range(len(self))[int(index)]
            return self.instances[self.offsets[number] : self.offsets[number + 1]]
        if isinstance(index, slice):
            return self.take(torch.tensor(range(len(self))[index], dtype=torch.int64))
        which = torch.as_tensor(index)
        which = which.long() if not which.numel() else which
        if which.is_floating_point() or which.dim() != 1:
            raise IndexError(f"bags are indexed with whole numbers or booleans, not with {_described(which)}")
        return self.take(torch.arange(len(self))[which])

    def take(self, chosen: Tensor) -> "Bags":
        """The bags with the numbers [N]: a view if they follow each other, otherwise copied."""
        if len(chosen) and bool((chosen[1:] - chosen[:-1] == 1).all()):
            return self._span(int(chosen[0]), int(chosen[-1]) + 1)
        sizes = self.sizes[chosen]
        ends = sizes.cumsum(0)
        rows = torch.arange(int(sizes.sum())) + (self.offsets[:-1][chosen] - ends + sizes).repeat_interleave(sizes)
        return self._part(rows, sizes)

    def _span(self, start: int, end: int) -> "Bags":
        """The bags from one to before another, as views."""
        return self._part(slice(int(self.offsets[start]), int(self.offsets[end])), self.sizes[start:end])

    def subset(self, kept: Tensor) -> "Bags":
        """The same bags with some of their instances, copied: `kept`, [T] boolean, has one or more of each bag."""
        sizes = self.sum(kept.long())
        if not bool(sizes.all()):
            raise BagsError(f"bag {int((sizes == 0).nonzero()[0])} would keep no instance: keep at least one")
        return self._part(kept, sizes)

    @property
    def shape(self) -> tuple[int]:
        """(B,): an array of bags, as far as scikit-learn is concerned."""
        return (len(self),)

    @property
    def features(self) -> int:
        """M, how many numbers describe an instance."""
        return self.instances.shape[1]

    def chunks(self, rows: int, chosen: Tensor | None = None) -> Iterator[tuple[int, "Bags"]]:
        """Walk through the bags in order, at most `rows` instances at a time, or one bag if it has more.

        `chosen`, [N], are the numbers of the bags to walk through; None is all, which are not copied. With the bags
        comes the place of the first one among those walked through.
        """
        offsets = self.offsets
        if chosen is not None:
            offsets = torch.cat([offsets.new_zeros(1), self.sizes[chosen].cumsum(0)])
        start, count = 0, len(offsets) - 1
        while start < count:
            end = int(torch.searchsorted(offsets, offsets[start] + rows, right=True)) - 1
            end = max(end, start + 1)
            yield start, self._span(start, end) if chosen is None else self.take(chosen[start:end])
            start = end

    # --- Over the instances of each bag

    def _even(self) -> int:
        """The common size of all bags, or 0: then an axis does what otherwise takes a scatter."""
        first = int(self.sizes[0]) if len(self) else 0
        return first if bool((self.sizes == first).all()) else 0

    def max(self, scores: Tensor) -> Tensor:
        """The largest score in each bag: [T, ...] -> [B, ...], -inf for none."""
        if size := self._even():
            return scores.reshape(len(self), size, *scores.shape[1:]).amax(1)
        low = scores.new_full((len(self), *scores.shape[1:]), -torch.inf)
        return low.scatter_reduce_(0, self._spread(scores), scores, "amax")

    def argmax(self, scores: Tensor) -> Tensor:
        """The number, among all T, of the first instance with the largest score in each bag: [T, ...] -> [B, ...]."""
        trailing = (1,) * (scores.dim() - 1)
        if size := self._even():
            starts = self.offsets[:-1].to(scores.device).view(-1, *trailing)
            return scores.reshape(len(self), size, *scores.shape[1:]).argmax(1) + starts
        spread = self._spread(scores)
        best = self.max(scores).gather(0, spread)
        rows = torch.arange(len(scores), device=scores.device).view(-1, *trailing).expand_as(scores)
        rows = torch.where((scores == best) | scores.isnan(), rows, len(scores))  # NaN is the largest, as in max
        first = rows.new_full((len(self), *scores.shape[1:]), len(scores))
        return first.scatter_reduce_(0, spread, rows, "amin")

    def sum(self, values: Tensor) -> Tensor:
        """The sum over each bag: [T, ...] -> [B, ...]."""
        total = values.new_zeros((len(self), *values.shape[1:]))
        return total.index_add_(0, self.bag_of.to(values.device), values)

    def _spread(self, scores: Tensor) -> Tensor:
        return self.bag_of.to(scores.device).view(-1, *(1,) * (scores.dim() - 1)).expand_as(scores)


def _tensor(values: object, what: str) -> Tensor:
    """Make float32, or keep float16; a read-only array is shared all the same, since nothing writes to it."""
    if not isinstance(values, Tensor):
        try:
            array = np.asarray(values)
            if array.dtype.kind == "c":
                raise BagsError(f"Complex data not supported: {what} has {array.dtype}")
            if array.dtype != np.float16:
                with np.errstate(over="ignore"):  # infinities are reported later, with the bag's number
                    array = array.astype(np.float32, copy=False)
        except BagsError:
            raise
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else BagsError
            raise kind(f"{what} cannot be read as an array of numbers: {error}") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # not writable
            values = torch.from_numpy(array)
    if values.is_complex():
        raise BagsError(f"Complex data not supported: {what} has {values.dtype}")
    return values.detach() if values.dtype in (torch.float16, torch.float32) else values.detach().float()


def _flat_objectness(objectness: object, sizes: Tensor) -> Tensor | None:
    """Objectness [T] from a sequence of [K_i], or from one array."""
    if objectness is None:
        return None
    if isinstance(objectness, Tensor | np.ndarray) and objectness.ndim == 1:
        return _tensor(objectness, "objectness").float()
    if not isinstance(objectness, Sequence) or len(objectness) != len(sizes):
        raise BagsError(f"objectness must be {len(sizes)} arrays, one for each bag, or one number for each instance")
    parts = [_tensor(part, f"the objectness of bag {number}").float() for number, part in enumerate(objectness)]
    for number, (part, size) in enumerate(zip(parts, sizes.tolist(), strict=True)):
        if part.shape != (size,):
            raise BagsError(f"bag {number} has {size} instances, and objectness of shape {tuple(part.shape)}")
    return torch.cat(parts)


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
