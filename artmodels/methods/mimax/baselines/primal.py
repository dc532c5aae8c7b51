"""Linear support-vector machines with the squared hinge, many at once, by Newton steps on the weights themselves.

A problem is a class, a restart, a fold or a value of C. All problems read the same instances, and an instance that a
problem leaves out costs nothing there: one matrix product then serves them all. Source: O. Chapelle, Training a
support vector machine in the primal, Neural Computation 19 (2007).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Rows", "State", "Transform", "balanced", "solve"]

HELD = 2**26  # values: instances up to this size are kept in float64, larger ones are read in blocks of float32
BLOCK = 2**22  # values of a block, and of the products inside a Hessian
TOGETHER = 2**25  # instances x problems that are solved at once
DIRECT = 512  # features up to which the Hessian is formed; above, conjugate gradients need only products with it
STEPS = 200  # Newton steps: each lowers a convex function, some ten are usual
HALVINGS = 40  # of one step
GRADIENTS = 250  # conjugate gradients inside one Newton step


@dataclass(frozen=True, kw_only=True)
class Transform:
    """An affine map of the features: z = ((x - mean) * scale) @ components, in float64."""

    mean: Tensor  # [M]
    scale: Tensor  # [M]
    components: Tensor | None = None  # [M, D], orthonormal columns; None keeps all M features

    @classmethod
    def of(cls, instances: Tensor, *, standardize: bool, variance: float | None) -> "Transform":
        """Fit it to instances [T, M]: unit variance if `standardize`; the principal axes that hold `variance`.

        A feature that is constant is only centred. Without either, the map is the identity.
        """
        width = instances.shape[1]
        identity = cls(mean=torch.zeros(width, dtype=torch.float64), scale=torch.ones(width, dtype=torch.float64))
        if not standardize and variance is None:
            return identity
        blocks = torch.split(instances, max(1, BLOCK // width))
        count = len(instances)
        mean = torch.stack([block.double().sum(0) for block in blocks]).sum(0) / count
        deviation = (torch.stack([(block.double() - mean).square().sum(0) for block in blocks]).sum(0) / count).sqrt()
        # Rounding leaves a constant feature a deviation of some last digits.
        constant = deviation <= 1e-7 * mean.abs().clamp_min(1e-30)
        scale = torch.where(constant, 1.0, 1 / deviation) if standardize else identity.scale
        centred = cls(mean=mean, scale=scale)
        if variance is None:
            return centred
        covariance = torch.zeros(width, width, dtype=torch.float64)
        for block in blocks:
            z = centred(block.double())
            covariance.addmm_(z.T, z)
        values, vectors = torch.linalg.eigh(covariance)
        share = values.flip(0).clamp_min(0).cumsum(0) / values.clamp_min(0).sum().clamp_min(1e-300)
        kept = min(width, int((share < variance).sum()) + 1)
        return cls(mean=mean, scale=scale, components=vectors.flip(1)[:, :kept])

    def __call__(self, x: Tensor) -> Tensor:
        """Map [n, M] to [n, D], in the type of `x`."""
        z = (x - self.mean.to(x.dtype)) * self.scale.to(x.dtype)
        return z if self.components is None else z @ self.components.to(x.dtype)

    def fold(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Turn weights [P, D + 1] on z into coefficients [P, M] and intercepts [P] on x."""
        weights = weights.double()
        coefficients = weights[:, :-1] if self.components is None else weights[:, :-1] @ self.components.T
        coefficients = coefficients * self.scale
        return coefficients, weights[:, -1] - coefficients @ self.mean


class Rows:
    """Instances as the solver reads them: mapped, with a feature that is always 1 at the end, block by block.

    Up to `HELD` values are kept in float64. More are read from where they lie, in float32, at every pass; if they are
    projected they are kept in float32, since that costs more than reading.
    """

    def __init__(self, instances: Tensor, transform: Transform) -> None:
        """Read instances [T, M] through the map."""
        components = transform.components
        self.count = len(instances)  # T
        self.width = (instances.shape[1] if components is None else components.shape[1]) + 1  # D + 1
        self._read = max(1, BLOCK // self.width)
        self._transform: Transform | None = transform
        self._stored = instances
        held = self.count * self.width <= HELD
        self.dtype = torch.float64 if held else torch.float32
        if held or components is not None:
            self._stored = torch.cat(list(self.blocks()))
            self._transform = None
            self._read = self.count if held else self._read

    def blocks(self) -> Iterator[Tensor]:
        """Walk through them: [n, D + 1] each."""
        return map(self._mapped, torch.split(self._stored, self._read))

    def take(self, numbers: Tensor) -> Tensor:
        """Rows by number: [...] -> [..., D + 1]."""
        return self._mapped(self._stored[numbers])

    def _mapped(self, stored: Tensor) -> Tensor:
        if self._transform is None:
            return stored
        z = self._transform(stored.to(self.dtype))
        return torch.cat([z, z.new_ones(*z.shape[:-1], 1)], -1)

    def scores(self, weights: Tensor) -> Tensor:
        """[P, D + 1] -> [P, T]."""
        return torch.cat([weights @ block.T for block in self.blocks()], 1)

    def adjoint(self, residuals: Tensor) -> Tensor:
        """[P, T] -> [P, D + 1], the sum of the instances, each times its residual."""
        total = residuals.new_zeros(len(residuals), self.width)
        for block, part in zip(self.blocks(), torch.split(residuals, self._read, 1), strict=True):
            total.addmm_(part, block)
        return total

    def power(self) -> float:
        """Mean squared length of the rows without their constant feature; 1 where all are zero."""
        return sum(float(block.square().sum(dtype=torch.float64)) for block in self.blocks()) / self.count - 1 or 1.0


class State(NamedTuple):
    """Where the solver stands with P problems; it starts again from here when only some labels have changed."""

    weights: Tensor  # [P, D + 1], the intercept last
    scores: Tensor  # [P, N], what the weights give each example
    objective: Tensor  # [P], the least value that was reached
    inside: Tensor  # [P, T] int8, the label of the shared examples inside the margin, 0 for the others
    # [P, 2, D + 1, D + 1], the sum of z z' over the positive and over the negative ones of `inside`; without content
    # where the Hessian is not formed.
    grams: Tensor

    def take(self, problems: Tensor | slice) -> "State":
        """The state of some of the problems."""
        return State(*(tensor[problems] for tensor in self))

    def put(self, problems: Tensor, state: "State") -> None:
        """Overwrite the state of some of the problems."""
        for mine, theirs in zip(self, state, strict=True):
            mine[problems] = theirs

    @classmethod
    def cat(cls, states: list["State"]) -> "State":
        """Join problems."""
        return states[0] if len(states) == 1 else cls(*map(torch.cat, zip(*states, strict=True)))


def balanced(signs: Tensor, cost: Tensor) -> Tensor:
    """What a positive and a negative example cost, [P, 2]: C n / (2 n_label), the balanced weights of scikit-learn.

    Signs [P, N] are +1, -1, or 0 for an example that the problem leaves out; C is [P].
    """
    counts = torch.stack([(signs > 0).sum(1), (signs < 0).sum(1)], 1).to(cost.dtype)
    return cost[:, None] * counts.sum(1, keepdim=True) / (2 * counts.clamp_min(1))


def solve(
    rows: Rows,  # T instances that all problems share
    signs: Tensor,  # [P, T + E]: +1, -1, or 0 for what a problem leaves out
    cost: Tensor,  # [P], C
    *,
    own: Tensor | None = None,  # [R, E, D + 1], examples that not all problems share, after the shared ones
    whose: Tensor | None = None,  # [P], which of the R sets of own examples a problem has
    start: State | None = None,  # of the same problems on the same rows, from other signs or another C; None is zero
    tolerance: float = 1e-6,  # it stops where the gradient's norm is this part of the one at zero weights
    direct: int = DIRECT,  # features up to which the Hessian is formed
) -> State:
    """Minimise |v|^2 / 2 + C sum_i c_i max(0, 1 - signs_i (v . z_i))^2 for every problem, with balanced c_i.

    This is the objective of scikit-learn's `LinearSVC(loss="squared_hinge", class_weight="balanced")`, whose C is the
    cost of an example: it is not divided by the number of examples, and the intercept, the last of v, is regularised
    with the rest. It is strictly convex, hence the start only decides how long it takes.
    """
    problems, forms = len(signs), rows.width <= direct + 1
    if start is None:
        start = State(
            torch.zeros(problems, rows.width, dtype=rows.dtype),
            torch.zeros(problems, rows.count, dtype=rows.dtype),
            torch.zeros(problems, dtype=rows.dtype),
            torch.zeros(problems, rows.count if forms else 0, dtype=torch.int8),
            torch.zeros(problems, 2, rows.width if forms else 0, rows.width, dtype=rows.dtype),
        )
    values = signs.shape[1] + (0 if own is None else own.shape[1] * rows.width) + start.grams[0].numel()
    count = max(1, TOGETHER // values)
    parts = []
    for first in range(0, problems, count):
        group = slice(first, first + count)
        mine = own[whose[group]] if own is not None and whose is not None else None
        y, costs = signs[group].to(rows.dtype), cost[group].to(rows.dtype)
        parts.append(_newton(rows, y, costs, mine, start.take(group), tolerance))
    return State.cat(parts)


def _newton(rows: Rows, y: Tensor, cost: Tensor, own: Tensor | None, start: State, tolerance: float) -> State:
    if rows.dtype == torch.float32:
        tolerance = max(tolerance, 1e-4)  # what its digits allow

    def with_own(shared: Tensor, weights: Tensor) -> Tensor:  # the scores of shared examples, and those of own ones
        return shared if own is None else torch.cat([shared, (own @ weights[:, :, None])[:, :, 0]], 1)

    def scores_of(weights: Tensor) -> Tensor:
        return with_own(rows.scores(weights), weights)

    def adjoint(residuals: Tensor) -> Tensor:
        total = rows.adjoint(residuals[:, : rows.count])
        return total if own is None else total + (residuals[:, None, rows.count :] @ own)[:, 0]

    def curved(factors: Tensor, v: Tensor) -> Tensor:  # the Hessian times v
        return v + adjoint(factors * scores_of(v))

    costs = balanced(y, cost)
    c = torch.where(y > 0, costs[:, :1], torch.where(y < 0, costs[:, 1:], 0))
    weights, inside, grams = start.weights, start.inside, start.grams
    f = with_own(start.scores[:, : rows.count], weights)
    level = 2 * adjoint(c * y).norm(dim=1)
    value = _objective(weights, y, c, f)
    solved = State(*(tensor.clone() for tensor in (weights, f, value, inside, grams)))
    live = torch.arange(len(y))  # problems that are not solved yet
    for _ in range(STEPS):
        slack = (1 - y * f).clamp_min_(0)
        gradient = weights - 2 * adjoint(c * y * slack)
        unsolved = gradient.norm(dim=1) > tolerance * level
        if not unsolved.all():
            state = State(weights, f, value, inside, grams)
            solved.put(live, state)
            if not unsolved.any():
                return solved
            live, gradient, slack, level = live[unsolved], gradient[unsolved], slack[unsolved], level[unsolved]
            y, c, costs, own = y[unsolved], c[unsolved], costs[unsolved], None if own is None else own[unsolved]
            weights, f, value, inside, grams = state.take(unsolved)
        if grams.numel():
            grams, inside = _updated(rows, grams, inside, (y * (slack > 0))[:, : rows.count].to(torch.int8))
            hessian = (2 * costs[:, :, None, None] * grams).sum(1)
            if own is not None:
                factors = torch.where(slack > 0, 2 * c, 0)[:, rows.count :, None]
                hessian.baddbmm_((own * factors).mT, own)
            hessian.diagonal(dim1=1, dim2=2).add_(1)
            # Cholesky: the least eigenvalue is 1, since the intercept is regularised too.
            step = -torch.cholesky_solve(gradient[:, :, None], torch.linalg.cholesky(hessian))[:, :, 0]
        else:
            factors = torch.where(slack > 0, 2 * c, 0)
            step = -_conjugate_gradients(partial(curved, factors), gradient, level)
        move = scores_of(step)
        slope = (gradient * step).sum(1)
        size, lower = torch.ones_like(value), value
        for _ in range(HALVINGS):
            lower = _objective(weights + size[:, None] * step, y, c, f + size[:, None] * move)
            worse = lower > value + 1e-4 * size * slope
            if not worse.any():
                break
            size = torch.where(worse, size / 2, size)
        still = lower < value
        size = torch.where(still, size, 0)
        weights, f = weights + size[:, None] * step, f + size[:, None] * move
        value = torch.where(still, lower, value)
        level = torch.where(still, level, torch.inf)  # no step lowers it: it is at the end of its digits, and solved
    solved.put(live, State(weights, f, value, inside, grams))
    return solved


def _updated(rows: Rows, grams: Tensor, inside: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Bring the Gram matrices from the examples of `inside` [P, T] to those of `now`: few rows change at a step."""
    changed = now != inside
    most = int(changed.sum(1).max())
    # The changed rows of each problem, padded with unchanged ones, whose factors are 0.
    numbers = changed.to(torch.int8).argsort(dim=1, descending=True)[:, :most]
    new, old = now.gather(1, numbers), inside.gather(1, numbers)
    factors = torch.stack([(new > 0).long() - (old > 0).long(), (new < 0).long() - (old < 0).long()], 2)
    step = max(1, BLOCK // (2 * len(grams) * rows.width))
    for first in range(0, most, step):
        some, part = numbers[:, first : first + step], factors[:, first : first + step]
        z = rows.take(some)  # [P, n, D + 1]
        both = (z[:, :, None] * part[..., None].to(z.dtype)).flatten(2)  # [P, n, 2 (D + 1)]
        grams = grams + (both.mT @ z).view_as(grams)
    return grams, now


def _objective(weights: Tensor, signs: Tensor, costs: Tensor, scores: Tensor) -> Tensor:
    return weights.square().sum(1) / 2 + (costs * (1 - signs * scores).clamp_min(0).square()).sum(1)


def _conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, level: Tensor) -> Tensor:
    """Solve H x = right for every problem, the more exactly the smaller the gradient is."""
    x, residual = torch.zeros_like(right), right
    direction, square = right, right.square().sum(1)
    norm = square.sqrt()
    aim = (norm * (norm / level).sqrt().clamp(max=0.1)).square()
    for _ in range(GRADIENTS):
        going = square > aim
        if not going.any():
            break
        curved = product(direction)
        length = torch.where(going, square / (direction * curved).sum(1), 0)
        x, residual = x + length[:, None] * direction, residual - length[:, None] * curved
        previous, square = square, residual.square().sum(1)
        direction = residual + (square / previous.clamp_min(1e-300))[:, None] * direction
    return x
