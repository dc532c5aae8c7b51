"""How alike two networks are: linear CKA of their features, and distances of their weights.

Source: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited" (CKA); Song et al. 2012,
"Feature Selection via Dependence Maximization", eq. 5 (unbiased HSIC); Nguyen et al. 2021, "Do Wide and Deep Networks
Learn the Same Things?", eq. 5 (minibatch). Everything is summed in float64 and in one pass: memory depends on the
number of channels alone, not on the number of pictures.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from artmodels.errors import ConfigError, one_of, some

__all__ = ["CKA", "Estimator", "WeightDistance", "cka", "weight_distances"]

logger = logging.getLogger(__name__)

Estimator = Literal["biased", "debiased", "minibatch"]
FEWEST = 4  # examples: the unbiased HSIC divides by n - 3


class CKA:
    """Linear CKA between each layer of one network and each of another, of features that come batch by batch.

        >>> features = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
        >>> similarity = CKA(["layer1"], ["layer1"])
        >>> similarity.update({"layer1": features}, {"layer1": 3 * features})
        >>> round(float(similarity.matrix()), 6)
        1.0

    It is 1 where the features are the same up to rotation, scale and shift, and, debiased, about 0 where they are
    independent. The biased estimate of few examples with many channels is large whatever the features are.
    """

    def __init__(self, rows: Sequence[str], columns: Sequence[str]) -> None:
        """Name the layers of the first network, `rows`, and of the second, `columns`."""
        self.rows, self.columns = tuple(rows), tuple(columns)
        self._sums = [_Sums(), _Sums()]  # of the rows' features, and of the columns'
        self._cross = torch.zeros(0)  # [D, E], sum of outer products of all layers of the one and all of the other
        self._weighted = [
            torch.zeros(0),
            torch.zeros(0),
        ]  # [E, L]: sums of y |x|^2 for each layer of x; [D, M]: x |y|^2
        self._norms = torch.zeros(0)  # [L, M], sum of |x|^2 |y|^2
        self._batches = torch.zeros(3, len(self.rows), len(self.columns), dtype=torch.float64)  # HSIC of xy, xx, yy
        self.left_out = 0  # examples in batches of fewer than four, which "minibatch" cannot use

    @property
    def count(self) -> int:
        """How many examples it has seen."""
        return self._sums[0].count

    def update(self, rows: Mapping[str, Tensor], columns: Mapping[str, Tensor]) -> None:
        """Add a batch: for each layer [N, C], the features of the same N examples; [N, C, H, W] are averaged first.

        Raises:
            ConfigError: A layer is missing, or layers have different numbers of examples or not finite values.
        """
        x, y = (
            [_pooled(found, name) for name in names] for found, names in ((rows, self.rows), (columns, self.columns))
        )
        if len({len(part) for part in (*x, *y)}) > 1:
            raise ConfigError("each layer must have the features of the same examples, in the same order")
        if not len(x[0]):
            return
        self._add_to_minibatches(x, y)
        x, y = (sums.shifted(parts) for sums, parts in zip(self._sums, (x, y), strict=True))
        all_x, all_y = torch.cat(x, 1), torch.cat(y, 1)
        norms = [torch.stack([part.square().sum(1) for part in parts], 1) for parts in (x, y)]  # [N, L], [N, M]
        if not self._cross.numel():
            zeros = torch.float64
            self._cross = torch.zeros(all_x.shape[1], all_y.shape[1], dtype=zeros)
            self._weighted = [
                torch.zeros(all_y.shape[1], len(x), dtype=zeros),
                torch.zeros(all_x.shape[1], len(y), dtype=zeros),
            ]
            self._norms = torch.zeros(len(x), len(y), dtype=zeros)
        self._cross.addmm_(all_x.T, all_y)
        self._weighted[0].addmm_(all_y.T, norms[0])
        self._weighted[1].addmm_(all_x.T, norms[1])
        self._norms.addmm_(norms[0].T, norms[1])

    def matrix(self, estimator: Estimator = "debiased") -> Tensor:
        """CKA of each pair, float64 [rows, columns]; nan, which the log explains, where a layer does not vary.

        Args:
            estimator: "biased" (Kornblith et al. 2019, eq. 3), from 0 to 1; "debiased", of unbiased estimates of HSIC,
                which is about 0 for independent features and may be a little below; or "minibatch", the mean of these
                over the batches before the ratio is taken.

        Raises:
            ConfigError: There are too few examples: two for "biased", four for the others, in one batch for
                "minibatch".
        """
        one_of("estimator", estimator, get_args(Estimator))
        least = 2 if estimator == "biased" else FEWEST
        if self.count - (self.left_out if estimator == "minibatch" else 0) < least:
            raise ConfigError(
                f"{estimator} CKA needs at least {least} examples"
                f"{' in a batch' if estimator == 'minibatch' else ''}: give more pictures or larger batches"
            )
        if estimator == "minibatch":
            both, first, second = self._batches
        elif estimator == "biased":
            both, first, second = self._biased()
        else:
            both, first, second = self._debiased()
        still = [name for name, value in zip(self.rows, first[:, 0], strict=True) if not value > 0]
        still += [name for name, value in zip(self.columns, second[0], strict=True) if not value > 0]
        if still:
            logger.warning("CKA is nan for %s: there, features do not vary more than by chance", some(still))
        product = torch.where((first > 0) & (second > 0), first * second, torch.nan)
        ratio: Tensor = both / product.sqrt()
        return ratio

    def _biased(self) -> tuple[Tensor, Tensor, Tensor]:
        means = [sums.total / sums.count for sums in self._sums]
        centred = self._cross - self.count * torch.outer(*means)
        rows, columns = (sums.slices for sums in self._sums)
        both = torch.stack([torch.stack([centred[a, b].square().sum() for b in columns]) for a in rows])
        first, second = (sums.centred() for sums in self._sums)
        return both, *_grid(first, second)

    def _debiased(self) -> tuple[Tensor, Tensor, Tensor]:
        rows, columns = self._sums
        both = torch.empty_like(self._norms)
        for i, a in enumerate(rows.slices):
            for j, b in enumerate(columns.slices):
                block = self._cross[a, b]
                both[i, j] = _unbiased(
                    self.count,
                    block.square().sum(),
                    self._norms[i, j],
                    (rows.total[a], columns.total[b]),
                    (rows.trace[i], columns.trace[j]),
                    rows.total[a] @ block @ columns.total[b],
                    (self._weighted[0][b, i] @ columns.total[b], self._weighted[1][a, j] @ rows.total[a]),
                )
        return both, *_grid(rows.unbiased(), columns.unbiased())

    def _add_to_minibatches(self, x: Sequence[Tensor], y: Sequence[Tensor]) -> None:
        count = len(x[0])
        if count < FEWEST:
            self.left_out += count
            return
        k, l = ([_centred_kernel(part) for part in parts] for parts in (x, y))  # noqa: E741 - the paper's K and L
        kernels = torch.stack(k).flatten(1), torch.stack(l).flatten(1)
        own = [kernel.square().sum(1) for kernel in kernels]
        self._batches += torch.stack([kernels[0] @ kernels[1].T, *_grid(*own)]) / (count * (count - 3))


class _Sums:
    """What is summed of one network's features: per layer, and per layer with itself."""

    def __init__(self) -> None:
        self.count = 0
        self.widths: list[int] = []
        self.slices: list[slice] = []
        self.shift = self.total = self.trace = self.squares = torch.zeros(0)
        self.own: list[Tensor] = []  # [C, C] a layer, of outer products
        self.weighted: list[Tensor] = []  # [C] a layer, of x |x|^2

    def shifted(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Add a batch; it is given less the means of the first batch, which keeps the digits of features far from 0."""
        if not self.count:
            self.widths = [part.shape[1] for part in parts]
            ends = torch.tensor(self.widths).cumsum(0).tolist()
            self.slices = [slice(end - width, end) for end, width in zip(ends, self.widths, strict=True)]
            self.shift = torch.cat([part.mean(0) for part in parts])
            self.total = torch.zeros_like(self.shift)
            self.trace, self.squares = torch.zeros(2, len(parts), dtype=torch.float64)
            self.own = [torch.zeros(width, width, dtype=torch.float64) for width in self.widths]
            self.weighted = [torch.zeros(width, dtype=torch.float64) for width in self.widths]
        elif [part.shape[1] for part in parts] != self.widths:
            raise ConfigError(f"the layers have {[part.shape[1] for part in parts]} channels, and had {self.widths}")
        moved = [part - self.shift[place] for part, place in zip(parts, self.slices, strict=True)]
        self.count += len(moved[0])
        self.total += torch.cat([part.sum(0) for part in moved])
        for i, part in enumerate(moved):
            norms = part.square().sum(1)
            self.trace[i] += norms.sum()
            self.squares[i] += norms.square().sum()
            self.own[i].addmm_(part.T, part)
            self.weighted[i] += part.T @ norms
        return moved

    def centred(self) -> Tensor:
        """Squared norms of the centred second moments, [L]."""
        means = [self.total[place] / self.count for place in self.slices]
        parts = [own - self.count * torch.outer(mean, mean) for own, mean in zip(self.own, means, strict=True)]
        return torch.stack([part.square().sum() for part in parts])

    def unbiased(self) -> Tensor:
        """Unbiased HSIC of each layer with itself, [L]."""
        found = []
        for i, place in enumerate(self.slices):
            total, bent = self.total[place], self.weighted[i] @ self.total[place]
            found.append(
                _unbiased(
                    self.count,
                    self.own[i].square().sum(),
                    self.squares[i],
                    (total, total),
                    (self.trace[i], self.trace[i]),
                    total @ self.own[i] @ total,
                    (bent, bent),
                )
            )
        return torch.stack(found)


def _unbiased(
    n: int,
    cross: Tensor,
    norms: Tensor,
    totals: tuple[Tensor, Tensor],
    traces: tuple[Tensor, Tensor],
    bilinear: Tensor,
    bent: tuple[Tensor, Tensor],
) -> Tensor:
    """Unbiased HSIC of n examples (Song et al. 2012, eq. 5) out of sums over examples.

    With K = X Xᵀ and L = Y Yᵀ without their diagonals: tr(K L) = |XᵀY|² - sum |x|² |y|²; 1ᵀK1 = |sum x|² - tr; and
    1ᵀKL1 = sum (x · sum x - |x|²) (y · sum y - |y|²), multiplied out.
    """
    both = cross - norms
    sums = (totals[0].square().sum() - traces[0]) * (totals[1].square().sum() - traces[1])
    mixed = bilinear - bent[0] - bent[1] + norms
    found: Tensor = (both + sums / ((n - 1) * (n - 2)) - 2 * mixed / (n - 2)) / (n * (n - 3))
    return found


def _centred_kernel(features: Tensor) -> Tensor:
    """K of a batch [N, C], U-centred: tr(K L) / (n (n - 3)) is the unbiased HSIC (Székely & Rizzo 2014)."""
    n = len(features)
    features = features - features.mean(0)  # which changes nothing but rounding
    kernel = (features @ features.T).fill_diagonal_(0)
    rows = kernel.sum(1)
    kernel = kernel - (rows[:, None] + rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return kernel.fill_diagonal_(0)


def _grid(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return first[:, None].expand(-1, len(second)), second.expand(len(first), -1)


def _pooled(found: Mapping[str, Tensor], name: str) -> Tensor:
    """One layer's features as float64 [N, C]."""
    if name not in found:
        raise ConfigError(f"there are no features of {name!r}, only of {some(found)}")
    features = found[name].detach()
    if features.ndim == 4:
        features = features.mean((2, 3))
    if features.ndim != 2 or not bool(features.isfinite().all()):
        raise ConfigError(f"the features of {name!r} must be finite [N, C] or [N, C, H, W], not {list(features.shape)}")
    return features.cpu().double()


def cka(x: Tensor, y: Tensor, *, estimator: Estimator = "debiased", batch: int | None = None) -> float:
    """Linear CKA of features [N, C] and [N, D] of the same N examples.

    Args:
        x: Of the one network; any floating type.
        y: Of the other.
        estimator: See `CKA.matrix`.
        batch: Examples at a time, which only "minibatch" depends on; None takes all at once.

    Raises:
        ConfigError: The shapes do not fit, or there are too few examples.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ConfigError(f"cka compares [N, C] with [N, D], not {list(x.shape)} with {list(y.shape)}")
    similarity = CKA(["x"], ["y"])
    for start in range(0, len(x), batch or max(1, len(x))):
        stop = start + (batch or len(x))
        similarity.update({"x": x[start:stop]}, {"y": y[start:stop]})
    return float(similarity.matrix(estimator))


@dataclass(frozen=True, kw_only=True)
class WeightDistance:
    """How far training moved the kernel of one layer."""

    layer: str
    frobenius: float  # norm of the difference
    relative: float  # that, divided by the norm of the first network's kernel
    correlation: Tensor = field(repr=False)  # [C], Pearson's of each filter with itself; nan where one is constant


def weight_distances(before: nn.Module, after: nn.Module) -> tuple[WeightDistance, ...]:
    """Compare the kernels, tensors of two or more axes, that two networks have by the same name and shape.

    Source: Gonthier et al. 2020, which takes the norm and the correlation for each layer of two InceptionV1.

    Raises:
        ConfigError: They have no kernel in common.
    """
    theirs = dict(after.named_parameters())
    found = []
    for name, first in before.named_parameters():
        second = theirs.get(name)
        if first.ndim < 2 or second is None or second.shape != first.shape:
            continue
        a, b = (tensor.detach().cpu().double().flatten(1) for tensor in (first, second))
        centred = [rows - rows.mean(1, keepdim=True) for rows in (a, b)]
        lengths = [rows.norm(dim=1) for rows in centred]
        product = torch.where((lengths[0] > 0) & (lengths[1] > 0), lengths[0] * lengths[1], torch.nan)
        moved, size = float((a - b).norm()), float(a.norm())
        found.append(
            WeightDistance(
                layer=name,
                frobenius=moved,
                relative=moved / size if size else float("nan"),
                correlation=((centred[0] * centred[1]).sum(1) / product).float(),
            )
        )
    if not found:
        raise ConfigError("the two networks have no kernel of the same name and shape: compare two of one architecture")
    return tuple(found)
