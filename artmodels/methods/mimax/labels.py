"""Labels of bags in, decisions about bags out, the same for every estimator."""

from abc import abstractmethod
from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d
from torch import Tensor

from artmodels.data.bags import Bags, BagsError
from artmodels.runtime.devices import generator
from artmodels.settings import check, config_from

__all__ = ["BagClassifier", "Baseline", "folds_of", "read_labels"]


def read_labels(y: object, count: int) -> tuple[Tensor, np.ndarray | None]:
    """Read the labels of `count` bags: [B] of two kinds, or [B, C] of 0 and 1 (also booleans), one column a class.

    Returns [C, B] int8 of +1 and -1, and the two labels sorted, the positive one last, or None for [B, C]. A BagsError
    says what is wrong with the shape or the values, or which class has no positive or no negative bag.
    """
    if y is None:
        raise BagsError("requires y to be passed, but the target y is None: give one label a bag")
    values = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    given = len(np.atleast_1d(values))
    if given != count:
        raise BagsError(f"y has {given} labels for {count} bags: inconsistent numbers of samples")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise BagsError("y has labels that are NaN or inf: give every bag a label")
    if values.ndim == 2 and values.shape[1] > 1:
        if not np.isin(values, (0, 1)).all():
            raise BagsError(
                f"y [B, {values.shape[1]}] has values other than 0 and 1: give one column of 0 and 1 a class"
            )
        positive, classes = values.astype(bool), None
    else:
        flat = column_or_1d(values, warn=True)
        check_classification_targets(flat)
        classes = np.unique(flat)
        if len(classes) != 2:
            hint = "Only binary classification is supported; give [B, C] of 0 and 1 for C classes"
            raise BagsError(f"y has {len(classes)} class(es), where two are needed. {hint}")
        positive = (flat == classes[1])[:, None]
    for number, column in enumerate(positive.T):
        if column.all() or not column.any():
            missing = "negative" if column.all() else "positive"
            raise BagsError(f"class {number} has no {missing} bag among {count}: add one, or leave the class out")
    return torch.from_numpy(np.where(positive.T, 1, -1).astype(np.int8)), classes


def folds_of(labels: Tensor, folds: int, seed: int) -> Tensor:
    """The fold that each bag is held out in, [C, B] int64, of labels [C, B] of +1 and -1.

    For each class its positive and its negative bags are dealt evenly, in an order that is the same for all classes. A
    class with fewer of either than folds is a BagsError.
    """
    positive = labels > 0
    least = torch.minimum(positive.sum(1), (~positive).sum(1))
    if (least < folds).any():
        worst = int(least.argmin())
        raise BagsError(
            f"class {worst} has {int(least[worst])} bags of one label, too few for {folds} folds: give C a number, or "
            "lower folds"
        )
    order = torch.randperm(labels.shape[1], generator=generator(seed))
    dealt = positive[:, order]
    rank = torch.where(dealt, dealt.cumsum(1), (~dealt).cumsum(1)) - 1
    return torch.empty_like(rank).scatter_(1, order.expand_as(rank), rank % folds)


class BagClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What a fitted estimator says about bags. A subclass is a dataclass of its settings and scores instances."""

    classes_: np.ndarray
    n_features_in_: int

    def _settings(self) -> dict[str, object]:
        """The settings, with NumPy's numbers, which a search over settings gives, as Python's own."""
        return {
            name: value.item() if isinstance(value, np.generic) else value for name, value in self.get_params().items()
        }

    def _set_classes(self, classes: np.ndarray | None, columns: int, features: int) -> None:
        self.classes_ = np.arange(columns) if classes is None else classes
        self._binary = classes is not None
        self.n_features_in_ = features

    @abstractmethod
    def _scores(self, bags: Bags) -> Tensor:
        """Scores of instances, [T, C]."""

    def _bag_scores(self, bags: Bags) -> Tensor:
        """Scores of bags, [B, C]: those of their best instances."""
        return bags.max(self._scores(bags))

    def _read(self, bags: object) -> Bags:
        check_is_fitted(self)
        bags = Bags.of(bags)
        if bags.features != self.n_features_in_:
            raise BagsError(
                f"X has {bags.features} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input: describe instances as for fit"
            )
        return bags

    def instance_scores(self, bags: object) -> np.ndarray:
        """Score instances: [T], or [T, C] where y had columns; above 0 is positive."""
        scores = self._scores(self._read(bags)).numpy()
        return scores[:, 0] if self._binary else scores

    def decision_function(self, bags: object) -> np.ndarray:
        """Score bags: [B], positive for `classes_[1]`, or [B, C] where y had columns."""
        scores = self._bag_scores(self._read(bags)).numpy()
        return scores[:, 0] if self._binary else scores

    def predict(self, bags: object) -> np.ndarray:
        """Decide: [B] of the two labels, or [B, C] of 0 and 1."""
        positive = (self.decision_function(bags) > 0).astype(np.int64)
        return self.classes_[positive] if self._binary else positive

    def __sklearn_tags__(self) -> Tags:
        """Describe the estimator to scikit-learn: two labels, or several columns of them."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class Baseline(BagClassifier):
    """What MI-max is compared with. A subclass learns; its settings say in their annotations what they may be."""

    def fit(self, bags: object, y: object) -> Self:
        """Train on bags, see `Bags.of`, and labels: [B] of two kinds, or [B, C] of 0 and 1, one column a class.

        Of two kinds the later in order is positive.

        Raises:
            ConfigError: A setting is out of range, or the training diverged.
            DatasetError: Nothing can be learnt from the bags or the labels.
        """
        check(config_from(type(self), self._settings()))
        bags = Bags.of(bags)
        labels, classes = read_labels(y, len(bags))
        self._learn(bags, labels)
        self._set_classes(classes, len(labels), bags.features)
        return self

    @abstractmethod
    def _learn(self, bags: Bags, labels: Tensor) -> None:
        """Train on labels [C, B] of +1 and -1, with settings that are in range."""
