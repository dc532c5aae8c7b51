"""The loss of MI-max, its gradient in closed form, the descent, the search for C, and the scores: tensors in and out.

Gonthier, Gousseau, Ladjal and Bonfait 2018, "Weakly Supervised Object Detection in Artworks" (arXiv:1810.02569), and
Gonthier, Ladjal and Gousseau 2020, "Multiple instance learning on deep features for weakly supervised object detection
with extreme domain shifts" (arXiv:2008.01178).

A problem is what is minimised for itself: one class and one restart (and, in a search, one fold and one C). All P
problems share each pass over the instances: scores are one matrix product [T, M] x [M, P * J], where J is the number of
hyper-planes of a problem, 1 for the linear kind. Of each bag only the instance with the largest score has a gradient.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from artmodels.data.bags import Bags, BagsError
from artmodels.errors import ConfigError
from artmodels.methods.mimax.labels import folds_of
from artmodels.runtime.devices import generator

__all__ = ["Descent", "MIMaxObjective", "Scaling", "ScoringHead", "Search", "balanced", "descend", "initial", "score"]

LossName = Literal["tanh", "hinge"]
OptimiserName = Literal["gd", "momentum", "adam"]
MEMORY = 2**30  # bytes
CHUNKS = 4  # a chunk of instances may take this part of the memory: 1 / CHUNKS
GRID = tuple(round(0.1 * tenths, 1) for tenths in range(5, 15))  # of C="cv": that of MI-max-C
REUSED = 2**22  # bytes of a chunk on a CPU: larger blocks are given back to the system, and each costs page faults anew
REMEMBERED = 3  # full passes whose best instances stay among those that are looked at in between


def at_once(row_bytes: int, memory: int | None, device: torch.device) -> int:
    """How many instances to look at together, at least 1; `memory` in bytes, None for 1 GiB."""
    chunk = (memory or MEMORY) // CHUNKS
    return max(1, (min(chunk, REUSED) if device.type == "cpu" else chunk) // row_bytes)


def balanced(labels: Tensor) -> Tensor:
    """The weight of each bag in the loss: -1/n+ for a positive bag, 1/n- for a negative one, 0 for one left out.

    Labels [B, P] of 1, -1 and 0 give [B, P] float32. Without tanh or hinge, the data term of eq. 1 is its inner product
    with the bags' scores.
    """
    positive, negative = labels > 0, labels < 0
    return negative / negative.sum(0) - positive / positive.sum(0)


@dataclass(frozen=True)
class Scaling:
    """How instances are seen by the classifiers: (x - shift) / scale. The descent and the regulariser work on these."""

    shift: Tensor  # [M]
    scale: Tensor  # [M]
    norm: float  # root mean square length of the instances then: for the length of steps and of first vectors

    @classmethod
    def of(cls, bags: Bags, *, standardize: bool, memory: int | None = None) -> "Scaling":
        """Measure instances: with `standardize`, to mean 0 and variance 1 for each feature; otherwise as they are."""
        width, total = bags.features, len(bags.instances)
        rows = at_once(16 * width, memory, bags.instances.device)
        mean, square = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        for start in range(0, total, rows):
            block = bags.instances[start : start + rows].double()
            mean += block.sum(0).cpu() / total
            square += block.square().sum(0).cpu() / total
        if not standardize:
            norm = float(square.sum().sqrt())
            return cls(torch.zeros(width), torch.ones(width), norm or 1.0)
        variance = (square - mean.square()).clamp(min=0)
        # A feature that is constant, up to rounding, says nothing: it is left as it is, at 0.
        varies = variance > 1e-10 * square
        deviation = torch.where(varies, variance.sqrt(), 1.0)
        return cls(mean.float(), deviation.float(), max(1.0, float(varies.sum()) ** 0.5))

    def fold(self, vectors: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The same classifiers for instances as they come: vectors [..., M] and bias [...]."""
        weights = vectors / self.scale
        return weights, bias - weights @ self.shift.to(weights.dtype)

    def unfold(self, weights: Tensor, bias: Tensor) -> Tensor:
        """Turn a gradient for folded vectors [..., M] and bias [...] into that for the vectors themselves."""
        return (weights - bias[..., None] * self.shift) / self.scale


@dataclass(frozen=True)
class Evaluation:
    """A pass over all bags."""

    values: Tensor  # [B, P] the largest score of each bag, (s + epsilon) f, before tanh
    rows: Tensor  # [B, P] the instance that has it, among all T that were looked at
    data: Tensor  # [P] the data term; in [-2, 2] with tanh
    total: Tensor  # [P] with the regulariser
    vectors: Tensor  # [P, J, M] gradient of `total`
    bias: Tensor  # [P, J] gradient of `total`


class MIMaxObjective:
    """Eq. 1, 2 and 4 on given bags, for P problems at once.

    L(w, b) = sum_i c_i tanh(max_k (s_ik + epsilon) max_j (w_j . x_ik + b_j)) + C mean_j |w_j|^2
    """

    def __init__(
        self,
        bags: Bags,  # those in float16 are converted a chunk at a time
        coefficients: Tensor,  # [B, P], see `balanced`
        strength: Tensor,  # [P], C
        *,
        scaling: Scaling,
        epsilon: float | None = None,  # added to the objectness, a factor of scores; None leaves it out (eq. 1)
        loss: LossName = "tanh",  # or "hinge": sum_i |c_i| max(0, 1 - y_i max_k ...)
        device: torch.device | str = "cpu",
        memory: int | None = None,  # bytes that may be taken beside the bags; None for 1 GiB. A bag at a time always is
    ) -> None:
        """Describe the problems."""
        if epsilon is not None and bags.objectness is None:
            raise BagsError("the bags have no objectness: give it to Bags.of, or set objectness=False")
        self.bags, self.loss, self.epsilon = bags, loss, epsilon
        self.device, self.memory = torch.device(device), memory or MEMORY
        self.chosen: Tensor | None = None  # [B'] the numbers of those bags that count, of all if None
        self.coefficients, self.strength = coefficients.to(device), strength.to(device)
        self.scaling = Scaling(scaling.shift.to(device), scaling.scale.to(device), scaling.norm)

    def on(self, bags: Bags) -> "MIMaxObjective":
        """The same problems on other bags, such as those with the instances that matter."""
        other = copy(self)
        other.bags, other.chosen = bags, None
        return other

    def batch(self, chosen: Tensor) -> "MIMaxObjective":
        """The same problems on some of the bags [B'], which stand for all: the regulariser keeps its weight."""
        other = copy(self)
        other.coefficients = self.coefficients[chosen.to(self.device)] * (len(self.bags) / len(chosen))
        other.chosen = chosen
        return other

    def data_term(self, values: Tensor, coefficients: Tensor | None = None) -> Tensor:
        """The data term of each bag: [B, P] of values to [B, P]."""
        signed = self.coefficients if coefficients is None else coefficients
        if self.loss == "tanh":
            return signed * values.tanh()
        return (signed.abs() + signed * values).relu()

    def _slope(self, values: Tensor, signed: Tensor) -> Tensor:
        if self.loss == "tanh":
            return signed * (1 - values.tanh().square())
        return signed * (signed.abs() + signed * values > 0)

    def __call__(self, vectors: Tensor, bias: Tensor) -> Evaluation:
        """Loss and (sub)gradient at vectors [P, J, M] and bias [P, J]; at ties the first instance of a bag counts."""
        problems, planes, width = vectors.shape
        weights, offset = self.scaling.fold(vectors, bias)
        flat, offset = weights.reshape(problems * planes, width), offset.reshape(-1)
        count = len(self.coefficients)
        values = torch.empty(count, problems, dtype=vectors.dtype, device=self.device)
        rows = torch.empty(count, problems, dtype=torch.int64, device=self.device)
        to_weights, to_offset = torch.zeros_like(flat), torch.zeros_like(offset)
        # Of each instance: its features as float32, its scores, their product with objectness, and temporaries.
        row_bytes = 4 * (width + 3 * problems * planes)
        seen = 0
        for start, part in self.bags.chunks(at_once(row_bytes, self.memory, self.device), self.chosen):
            x = part.instances.to(self.device, vectors.dtype)
            scores = torch.addmm(offset, x, flat.T)  # [t, P * J]
            plane = None
            if planes > 1:
                scores, plane = scores.view(-1, problems, planes).max(2)
            factor = None
            if self.epsilon is not None and part.objectness is not None:
                factor = part.objectness.to(self.device, vectors.dtype) + self.epsilon
                scores = scores * factor[:, None]
            best = part.argmax(scores)  # [b, P]
            span = slice(start, start + len(part))
            values[span] = scores.gather(0, best)
            rows[span] = best + seen
            seen += len(x)
            slope = self._slope(values[span], self.coefficients[span])
            if factor is not None:
                slope = slope * factor[best]
            # Only instances that are the best of some problem have a gradient: few rows, shared by the problems.
            used = slope != 0
            matters = torch.zeros(len(x), dtype=torch.bool, device=self.device)
            matters[best[used]] = True
            place = matters.cumsum(0) - 1
            column = torch.arange(problems, device=self.device).expand_as(best)
            if plane is not None:
                column = column * planes + plane.gather(0, best)
            share = x.new_zeros(int(matters.sum()), problems * planes)
            share[place[best[used]], column[used]] = slope[used]  # a bag has instances of its own: no pair twice
            to_weights += share.T @ x[matters]
            to_offset += share.sum(0)
        to_weights, to_offset = to_weights.view_as(vectors), to_offset.view_as(bias)
        data = self.data_term(values).sum(0)
        decay = self.strength[:, None, None]
        return Evaluation(
            values=values,
            rows=rows,
            data=data,
            total=data + decay[:, 0, 0] * vectors.square().sum(2).mean(1),
            vectors=self.scaling.unfold(to_weights, to_offset) + 2 * decay / planes * vectors,
            bias=to_offset,
        )


# --- The descent


def initial(problems: int, planes: int, width: int, *, deviation: float, seed: int) -> tuple[Tensor, Tensor]:
    """First vectors [P, J, M] and bias [P, J], every number from N(0, deviation^2)."""
    drawn = deviation * torch.randn(problems, planes, width + 1, generator=generator(seed))
    return drawn[..., :width].contiguous(), drawn[..., width].contiguous()


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How to descend.

    The optimiser is "gd", plain gradient descent as in the paper, whose rate is in the units of the features; or
    "momentum" (heavy ball, 0.9) or "adam", whose rate is a change of scores on typical instances.
    """

    optimiser: OptimiserName
    rate: float  # length of the first step, which falls geometrically to
    rate_end: float = 1.0  # this part of it
    iterations: int  # passes over the bags
    batch_size: int | None = None  # bags a step, None for all; the order is drawn anew for each pass
    # Of so many passes one looks at all instances, the others only at those that were the best of their bag in one of
    # the last three full passes. With 1 every step is exact.
    scan_every: int = 1
    seed: int = 0  # of the order of mini-batches

    def steps(self, bags: int) -> int:
        """How many steps they are."""
        return self.iterations * (1 if self.batch_size is None else -(-bags // self.batch_size))


class _Optimiser:
    """Changes vectors and bias in place."""

    def __init__(self, plan: Descent, objective: "MIMaxObjective", parameters: tuple[Tensor, Tensor]) -> None:
        self.plan, self.parameters = plan, parameters
        # What is a step of 1 for the bias. The curvature of the data term grows with the square of the instances'
        # length; that of the regulariser, 2 C, must not make the steps of short instances too long.
        norm = objective.scaling.norm
        curvature = norm**2 + 2 * float(objective.strength.max())
        self.units = {"gd": (1.0, 1.0), "momentum": (1 / curvature, 1.0), "adam": (1 / norm, 1.0)}[plan.optimiser]
        self.first = [torch.zeros_like(value) for value in parameters]
        self.second = [torch.zeros_like(value) for value in parameters]
        self.count = 0

    def step(self, gradients: tuple[Tensor, Tensor], rate: float) -> None:
        self.count += 1
        for value, gradient, unit, first, second in zip(
            self.parameters, gradients, self.units, self.first, self.second, strict=True
        ):
            if self.plan.optimiser == "gd":
                value.sub_(gradient, alpha=rate)
            elif self.plan.optimiser == "momentum":
                first.mul_(0.9).add_(gradient)
                value.sub_(first, alpha=rate * unit)
            else:
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient.square(), 0.001)
                root = (second / (1 - 0.999**self.count)).sqrt_().add_(1e-12)
                value.addcdiv_(first, root, value=-rate * unit / (1 - 0.9**self.count))


def descend(objective: MIMaxObjective, vectors: Tensor, bias: Tensor, plan: Descent) -> Iterator[Tensor]:
    """Minimise all problems, changing vectors [P, J, M] and bias [P, J] in place.

    Yields [P], the loss before each step: of its mini-batch, or of the instances that were looked at. Too high a rate,
    after which a loss is not finite any more, is a ConfigError.
    """
    count = len(objective.bags)
    optimiser = _Optimiser(plan, objective, (vectors, bias))
    batch = plan.batch_size if plan.batch_size is not None and plan.batch_size < count else None
    total = plan.steps(count)
    random = generator(plan.seed)
    order = torch.empty(0, dtype=torch.int64)
    working, recent = None, deque[Tensor](maxlen=REMEMBERED)
    for number in range(total):
        if batch is not None:
            if not len(order):
                order = torch.randperm(count, generator=random)
            chosen, order = order[:batch].sort().values, order[batch:]
            part = objective.batch(chosen)
        elif working is None or number % plan.scan_every == 0:
            part = objective
        else:
            part = working
        reached = part(vectors, bias)
        if part is objective and plan.scan_every > 1:
            recent.append(reached.rows)
            working = _working(objective, recent)
        if not bool(torch.isfinite(reached.total).all()):
            raise ConfigError(
                f"the descent diverged at step {number + 1}, with optimiser={plan.optimiser!r} and learning_rate="
                f"{plan.rate:g}: use a lower learning_rate, or standardize=True"
            )
        yield reached.total
        optimiser.step((reached.vectors, reached.bias), plan.rate * plan.rate_end ** (number / total))


def _working(objective: MIMaxObjective, recent: Iterable[Tensor]) -> MIMaxObjective | None:
    """The objective on those instances that were the best of their bags; None if they would take too much memory."""
    bags = objective.bags
    kept = torch.zeros(len(bags.instances), dtype=torch.bool, device=objective.device)
    for rows in recent:
        kept[rows] = True
    if int(kept.sum()) * bags.features * bags.instances.element_size() > objective.memory:
        return None
    return objective.on(bags.subset(kept.to(bags.instances.device)))


# --- The search for C


class Search:
    """The problems of a search for C: folds x grid x classes x restarts, all descended at once."""

    def __init__(self, signs: Tensor, starts: int, *, folds: int, seed: int) -> None:
        """Lay the problems out: for signs [B, C] of 1 and -1, and `folds` that hold out their shares of the bags."""
        self.shape = (folds, len(GRID), signs.shape[1], starts)
        out = folds_of(signs.T, folds, seed).T[:, None] == torch.arange(folds)[:, None]  # [B, F, C]
        self.labels = self._spread(torch.where(out, 0, signs[:, None]))
        self.held_out = self._spread(torch.where(out, signs[:, None], 0))
        self.strength = torch.tensor(GRID)[None, :, None, None].expand(self.shape).reshape(-1)

    def _spread(self, labels: Tensor) -> Tensor:
        """[B, F, C] to [B, P]."""
        return labels[:, :, None, :, None].expand(-1, *self.shape).reshape(len(labels), -1)

    def expand(self, first: Tensor) -> Tensor:
        """The first vectors of all problems: folds and values of C begin alike."""
        trailing = first.shape[1:]
        wide = first.view(1, 1, *self.shape[2:], *trailing).expand(*self.shape, *trailing)
        return wide.reshape(-1, *trailing).clone()

    def best(self, problem: MIMaxObjective, values: Tensor) -> Tensor:
        """The value of C for each class [C]: lowest mean data term on the held-out bags, of the restarts kept."""
        trained = problem.data_term(values).sum(0).view(self.shape)
        held_out = balanced(self.held_out).to(values.device)
        tested = problem.data_term(values, held_out).sum(0).view(self.shape)
        kept = trained.argmin(3, keepdim=True)
        return torch.tensor(GRID)[tested.gather(3, kept)[..., 0].mean(0).argmin(0).cpu()]


# --- What was learnt, applied


def score(
    bags: Bags, weights: Tensor, bias: Tensor, *, epsilon: float | None = None, memory: int | None = None
) -> Tensor:
    """Scores [T, C] float32 on the CPU: (s + epsilon) max_j (w_j . x + b_j), eq. 3 before tanh.

    Weights [C, J, M] and bias [C, J] are for instances as they come; the rest is as in `MIMaxObjective`.
    """
    outputs, planes, width = weights.shape
    scores = []
    for _, part in bags.chunks(at_once(4 * (width + 2 * outputs * planes), memory, weights.device)):
        x = part.instances.to(weights.device, weights.dtype)
        values = torch.addmm(bias.reshape(-1), x, weights.reshape(-1, width).T)
        values = values.view(-1, outputs, planes).amax(2)
        if epsilon is not None and part.objectness is not None:
            values *= (part.objectness.to(values) + epsilon)[:, None]
        scores.append(values.cpu())
    return torch.cat(scores)


class ScoringHead(nn.Module):
    """The classifiers as a network that can be exported: scores of padded bags, eq. 3 and its maximum over regions."""

    def __init__(self, weights: Tensor, bias: Tensor, *, epsilon: float | None, squash: bool = True) -> None:
        """Take trained classifiers, weights [C, J, M] and bias [C, J].

        `epsilon` is added to the objectness; None leaves objectness out of the scores, though it stays an input.
        `squash` sends scores through tanh, into [-1, 1].
        """
        super().__init__()
        self.weights = nn.Parameter(weights.clone(), requires_grad=False)  # [C, J, M]
        self.bias = nn.Parameter(bias.clone(), requires_grad=False)  # [C, J]
        self.epsilon, self.squash = epsilon, squash

    def forward(self, features: Tensor, objectness: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of regions [N, K, C], and of images [N, C].

        Features are [N, K, M], objectness is [N, K] in [0, 1], and the mask [N, K] is false for padding, whose score is
        the lowest there is: -1, or -inf without tanh.
        """
        outputs, planes, width = self.weights.shape
        scores = features @ self.weights.reshape(outputs * planes, width).T + self.bias.reshape(-1)
        scores = torch.unflatten(scores, 2, (outputs, planes)).amax(3)  # [N, K, C]
        # Zero times the objectness keeps it among the inputs of a graph, which are the same for every checkpoint.
        factor = 1 + 0 * objectness if self.epsilon is None else objectness + self.epsilon
        scores = (scores * factor[..., None]).masked_fill(~mask[..., None], -torch.inf)
        if self.squash:
            scores = scores.tanh()
        return scores, scores.amax(1)
