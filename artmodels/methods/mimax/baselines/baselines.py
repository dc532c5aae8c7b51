"""Linear baselines of MI-max: MAX, MAXA, MI-SVM and mi-SVM, for all classes and restarts at once.

MI-SVM and mi-SVM: S. Andrews, I. Tsochantaridis and T. Hofmann, Support Vector Machines for Multiple-Instance
Learning, NIPS 2002. MAX and MAXA, and what the four are compared with: N. Gonthier et al., Multiple instance learning
on deep features for weakly supervised object detection with extreme domain shifts, 2020 (arXiv:2008.01178).
"""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Interval
from sklearn.metrics import average_precision_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from artmodels.data.bags import Bags
from artmodels.errors import ConfigError
from artmodels.methods.mimax.baselines.primal import BLOCK, Rows, State, Transform, solve
from artmodels.methods.mimax.labels import Baseline, folds_of
from artmodels.methods.mimax.pipeline import MIMax
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Positive

__all__ = ["GRID", "MAX", "MAXA", "MISVM", "miSVM"]

log = logging.getLogger(__name__)

GRID = tuple(float(value) for value in np.logspace(-5, 3, 9))  # the C that "cv" chooses from
Cost = Annotated[
    Positive | Literal["cv", "scale"],
    "Cost of an example as in scikit-learn's LinearSVC, not divided by their number, with balanced classes. "
    '"scale" is one over the mean squared length of the training instances, the default of SVM-light; the code of the '
    'MI-max papers has 1.0 for MI-SVM, which overfits features that are long. "cv" chooses for each class the best of '
    "logspace(-5, 3, 9) by the average precision of held-out bags, without restarts.",
]


class _Trained(NamedTuple):
    """P classifiers."""

    weights: Tensor  # [P, D + 1]
    objective: Tensor  # [P]
    iterations: Tensor  # [P] SVMs that were fitted one after the other
    settled: Tensor  # [P] whether nothing would change any more


@dataclass(eq=False, repr=False, kw_only=True)
class _Linear(Baseline):
    """What the four share: the map of the features, the search for C, the choice among restarts."""

    C: Cost = "cv"
    standardize: Annotated[bool, "Whether features are brought to unit variance over the training instances."] = False
    variance: Annotated[
        float | None,
        Interval(gt=0, le=1),
        "Share of the variance that is kept by PCA, 0.9 in the paper's code; None for no PCA.",
    ] = None
    folds: Annotated[int, Ge(2), "Of the cross-validation."] = 3
    seed: Annotated[int, "Of folds and restarts."] = 0

    def _learn(self, bags: Bags, labels: Tensor) -> None:
        bags = self._training(bags)
        transform = Transform.of(bags.instances, standardize=self.standardize, variance=self.variance)
        rows = Rows(bags.instances, transform)
        if self.C == "cv":
            cost = self._search(rows, bags, labels)
        else:
            cost = torch.full((len(labels),), 1 / rows.power() if self.C == "scale" else self.C, dtype=torch.float64)
        runs = 1 + getattr(self, "restarts", 0)
        restart = torch.arange(runs).repeat(len(labels))
        number = torch.arange(len(labels)).repeat_interleave(runs)  # of the class
        found = self._train(rows, bags, labels[number], cost[number], restart)
        # The first of the least: a restart that is only as good changes nothing.
        best = found.objective.view(-1, runs).argmin(1) + torch.arange(len(labels)) * runs
        coefficients, intercepts = transform.fold(found.weights[best])
        self.coef_, self.intercept_ = coefficients.numpy(), intercepts.numpy()
        self.loss_ = found.objective[best].double().numpy()
        self.C_ = cost.double().numpy()
        self._settle(int(found.iterations[best].max()), int((~found.settled[best]).sum()))

    def as_mimax(self) -> MIMax:
        """The same classifiers as a `MIMax`, which can be saved, published on the Hub, and exported to ONNX.

        Its scores are the same, and predictions of the same sign; what it was fitted by is not kept.
        """
        check_is_fitted(self)
        model = MIMax("linear", restarts=0, loss="hinge", objectness=False)  # hinge: scores do not pass through tanh
        weights, bias = torch.from_numpy(self.coef_).float(), torch.from_numpy(self.intercept_).float()
        model._fitted(weights[:, None], bias[:, None], self.classes_ if self._binary else None, False)
        return model

    def _training(self, bags: Bags) -> Bags:
        """The bags whose instances the solver sees."""
        return bags

    def _settle(self, iterations: int, unsettled: int) -> None:
        """Keep and report how the alternation ended, where there is one."""

    @abstractmethod
    def _train(self, rows: Rows, bags: Bags, labels: Tensor, cost: Tensor, restart: Tensor) -> _Trained:
        """Train P problems: labels [P, B] of +1, -1 and 0 for a bag left out, C [P], number of the restart [P]."""

    def _search(self, rows: Rows, bags: Bags, labels: Tensor) -> Tensor:
        """The C of each class with the best mean average precision of held-out bags; the least of equals."""
        fold = folds_of(labels, self.folds, self.seed)  # [C, B]
        held = fold[:, None] == torch.arange(self.folds)[:, None]  # [C, F, B]
        kept = torch.where(held, 0, labels[:, None]).flatten(0, 1)
        quality = np.zeros((len(GRID), len(labels)))
        for place, cost in enumerate(GRID):
            restart = torch.zeros(len(kept), dtype=torch.int64)
            found = self._train(rows, bags, kept, torch.full((len(kept),), cost, dtype=torch.float64), restart)
            scores = bags.max(rows.scores(found.weights).T).T.view(*held.shape)
            for number, truth in enumerate(labels):
                quality[place, number] = np.mean(
                    [
                        average_precision_score(truth[mask].numpy() > 0, part[mask].numpy())
                        for mask, part in zip(held[number], scores[number], strict=True)
                    ]
                )
        return torch.tensor(GRID, dtype=torch.float64)[torch.from_numpy(quality.argmax(0))]

    def _scores(self, bags: Bags) -> Tensor:
        weights, offset = torch.from_numpy(self.coef_), torch.from_numpy(self.intercept_)
        blocks = torch.split(bags.instances, max(1, BLOCK // bags.features))
        return torch.cat([torch.addmm(offset, block.double(), weights.T) for block in blocks])


class MAX(_Linear):
    """The region of highest objectness is taken for the object, in positive and negative images alike.

        >>> arrays = [np.eye(3)[[0, 1]], np.eye(3)[[1, 2]]] * 3
        >>> bags = Bags.of(arrays, [[0.9, 0.1]] * 6)  # the first instances are most like objects
        >>> MAX(C=1.0).fit(bags, [1, 0] * 3).predict(bags[:2]).tolist()
        [1, 0]

    Attributes:
        classes_: The two labels, the positive one last; or the numbers of the columns of y.
        coef_: [C, M], of the features as they are given; C is 1 for two labels.
        intercept_: [C].
        C_: [C].
        loss_: [C], the objective at the end; of the run that was kept, where there are restarts.
    """

    @staticmethod
    def _top(bags: Bags) -> Tensor:
        if bags.objectness is None:
            raise ConfigError(
                "MAX and MAXA need the objectness of the instances: give it with Bags.of(bags, objectness)"
            )
        return bags.argmax(bags.objectness)

    def _training(self, bags: Bags) -> Bags:
        return Bags(bags.instances[self._top(bags)], torch.ones(len(bags), dtype=torch.int64))

    def _train(self, rows: Rows, bags: Bags, labels: Tensor, cost: Tensor, restart: Tensor) -> _Trained:
        state = solve(rows, self._signs(bags, labels), cost)
        once = torch.ones(len(labels), dtype=torch.int64)
        return _Trained(state.weights, state.objective, once, once > 0)

    def _signs(self, bags: Bags, labels: Tensor) -> Tensor:
        return labels


class MAXA(MAX):
    """As MAX, with all regions of the negative images as negative examples.

    >>> bags = Bags.of([np.eye(3)[[0, 1]], np.eye(3)[[1, 2]]] * 3, [[0.9, 0.1]] * 6)
    >>> MAXA(C=1.0).fit(bags, [1, 0] * 3).predict(bags[:2]).tolist()
    [1, 0]
    """

    def _training(self, bags: Bags) -> Bags:
        self._top(bags)
        return bags

    def _signs(self, bags: Bags, labels: Tensor) -> Tensor:
        top = torch.zeros(len(bags.instances), dtype=torch.bool)
        top[self._top(bags)] = True
        signs = labels[:, bags.bag_of]
        return torch.where(top | (signs < 0), signs, 0)


@dataclass(eq=False, repr=False, kw_only=True)
class _Alternating(_Linear):
    """Fit an SVM, choose instances or labels with it, and again, until nothing changes."""

    C: Cost = "scale"
    restarts: Annotated[int, Ge(0), "Runs after the first; 10 in the paper's code."] = 0
    max_iter: Annotated[Count, "SVMs that are fitted one after the other at most."] = 50

    @abstractmethod
    def _first(self, rows: Rows, bags: Bags, labels: Tensor, restart: Tensor) -> tuple[Tensor, Tensor | None]:
        """Signs [P, T] to begin with, and vectors [R, B, D + 1] that stand for the bags then, if any."""

    @abstractmethod
    def _again(self, bags: Bags, labels: Tensor, scores: Tensor) -> Tensor:
        """Signs [P, T] that follow from the scores [P, T]."""

    def _random(self, bags: Bags, restart: Tensor) -> Tensor:
        """Numbers in (0, 1) [R, T] for restarts 0 to the last; the same for every class, alone or with others."""
        drawn = torch.rand(int(restart.max()) + 1, len(bags.instances), generator=generator(self.seed))
        return drawn.clamp_min(1e-6)

    def _train(self, rows: Rows, bags: Bags, labels: Tensor, cost: Tensor, restart: Tensor) -> _Trained:
        signs, own = self._first(rows, bags, labels, restart)
        live = torch.arange(len(labels))
        weights = torch.zeros(len(labels), rows.width, dtype=rows.dtype)
        objective = torch.zeros(len(labels), dtype=rows.dtype)
        iterations, settled = torch.zeros_like(live), torch.zeros_like(live, dtype=torch.bool)
        state: State | None = None
        for _ in range(self.max_iter):
            if own is None:
                state = solve(rows, signs, cost[live], start=state)
            else:
                state = solve(rows, torch.cat([signs, labels.clamp_min(0)], 1), cost[live], own=own, whose=restart)
                own = None
            following = self._again(bags, labels[live], state.scores[:, : rows.count])
            weights[live], objective[live] = state.weights, state.objective
            iterations[live] += 1
            changed = (following != signs).any(1)
            settled[live] = ~changed
            if not changed.any():
                break
            live, signs, state = live[changed], following[changed], state.take(changed)
        return _Trained(weights, objective, iterations, settled)

    def _settle(self, iterations: int, unsettled: int) -> None:
        self.n_iter_ = iterations
        if unsettled:
            log.warning(
                "%s did not settle for %d of %d classes within max_iter=%d iterations: raise max_iter or lower C",
                type(self).__name__,
                unsettled,
                len(self.coef_),
                self.max_iter,
            )


class MISVM(_Alternating):
    """MI-SVM: one instance stands for each positive bag, the one with the highest score.

    Begins with the mean of each positive bag; a restart begins with a random convex combination of its instances. All
    instances of negative bags are negative examples. The run with the least objective, regulariser and squared hinge
    together, is kept.

        >>> bags = [np.eye(3)[[0, 1]], np.eye(3)[[1, 2]]] * 3
        >>> model = MISVM().fit(bags, [1, 0] * 3)
        >>> (model.instance_scores(bags[:1]) > 0).tolist()
        [True, False]

    Attributes are those of MAX, and `n_iter_`: SVMs that it took, the most over the classes.
    """

    def _first(self, rows: Rows, bags: Bags, labels: Tensor, restart: Tensor) -> tuple[Tensor, Tensor | None]:
        shares = self._random(bags, restart).T.to(rows.dtype)  # [T, R]
        shares[:, 0] = 1
        shares /= bags.sum(shares)[bags.bag_of]
        vectors = torch.zeros(len(bags), shares.shape[1], rows.width, dtype=rows.dtype)
        step = max(1, BLOCK // vectors[0].numel())
        for part in torch.split(torch.arange(rows.count), step):
            vectors.index_add_(0, bags.bag_of[part], shares[part, :, None] * rows.take(part)[:, None])
        return labels[:, bags.bag_of].clamp_max(0), vectors.transpose(0, 1)

    def _again(self, bags: Bags, labels: Tensor, scores: Tensor) -> Tensor:
        signs = labels[:, bags.bag_of]
        best = torch.zeros_like(signs, dtype=torch.bool).scatter_(1, bags.argmax(scores.T).T, True)
        return torch.where(best | (signs < 0), signs, 0)


class miSVM(_Alternating):  # noqa: N801 - its name in the literature
    """mi-SVM: every instance of a positive bag has a label of its own, at least one of them positive.

    Begins with all of them positive, a restart with random labels. They become what the SVM says; where it calls a
    whole positive bag negative, its highest instance stays positive. Attributes are those of MISVM.

        >>> bags = [np.eye(3)[[0, 1]], np.eye(3)[[1, 2]], np.eye(3)[[1, 1]]] * 2
        >>> miSVM().fit(bags, [1, 0, 0] * 2).predict(bags[:3]).tolist()
        [1, 0, 0]
    """

    def _first(self, rows: Rows, bags: Bags, labels: Tensor, restart: Tensor) -> tuple[Tensor, Tensor | None]:
        drawn = self._random(bags, restart) - 0.5
        drawn[0] = 1
        return self._again(bags, labels, drawn[restart]), None

    def _again(self, bags: Bags, labels: Tensor, scores: Tensor) -> Tensor:
        signs = labels[:, bags.bag_of]
        positive = (scores > 0).scatter_(1, bags.argmax(scores.T).T, True)
        return torch.where(positive | (signs <= 0), signs, -signs)
