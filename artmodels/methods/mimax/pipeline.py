"""MI-max as a scikit-learn estimator: bags and labels in, classifiers of instances and of bags out."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from annotated_types import Ge
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from artmodels import hub, runtime
from artmodels.data.bags import Bags, BagsError
from artmodels.errors import ConfigError
from artmodels.methods.mimax.labels import BagClassifier, read_labels
from artmodels.methods.mimax.model import (
    DescentPlan,
    LossName,
    MIMaxObjective,
    OptimiserName,
    Scaling,
    ScoringHead,
    Search,
    balanced,
    descend,
    initial,
    score,
)
from artmodels.progress import Progress, result_of
from artmodels.settings import Count, Positive, Settings, Weight

__all__ = ["MIMax", "MIMaxConfig", "MIMaxStep"]

Kind = Literal["linear", "polyhedral"]
Init = Literal["scaled", "reference"]
Select = Literal["full", "reference"]

RATES = {"gd": 0.01, "momentum": 1.0, "adam": 0.1}
STOCHASTIC = 0.3  # share of the rate with mini-batches, whose gradients are noisy
SCAN_EVERY = 10
EXACT = 10**9  # multiplications of a pass up to which each one looks at everything: 300 take some ten seconds
FIRST = 0.03  # typical score of the first vectors
REFERENCE_BAGS = 500  # the published code chooses restarts by its first mini-batch


@dataclass(frozen=True, kw_only=True)
class MIMaxConfig(Settings):
    """The settings of `MIMax`, and what it was fitted to."""

    kind: Annotated[Kind, '"linear", one vector a class; or "polyhedral", the maximum of several.'] = "linear"
    restarts: Annotated[
        int,
        Ge(0),
        "First vectors beyond one: of as many linear models the best is kept; a polyhedral model consists of as many "
        "hyper-planes.",
    ] = 11
    C: Annotated[
        Weight | Literal["cv"],
        'Strength of the regulariser C |w|^2; "cv" takes for each class that of 0.5, 0.6 ... 1.4 with the lowest data '
        "term on held-out bags, where each fold keeps its own best restart.",
    ] = 1.0
    epsilon: Annotated[Weight, "Added to the objectness."] = 0.01
    objectness: Annotated[
        bool | None, "Whether scores are multiplied with the objectness of instances. None: if the bags have it."
    ] = None
    loss: Annotated[LossName, '"tanh", or "hinge".'] = "tanh"
    # The paper's start saturates tanh, and a polyhedral model then learns little in 300 iterations.
    init: Annotated[
        Init,
        '"scaled": first vectors from N(0, (0.03 / n)^2), n the root mean square length of instances: even the largest '
        'of many scores then is small, where tanh has a slope. "reference": N(0, 1), as published.',
    ] = "scaled"
    select: Annotated[
        Select,
        'Which restart is kept. "full": that of the lowest data term on all bags. "reference": on the first 500 bags, '
        "without tanh, as the published code does it, but not the paper.",
    ] = "full"
    standardize: Annotated[
        bool, "Whether features are brought to mean 0 and variance 1; the regulariser then works on those."
    ] = False
    # Not the paper's plain descent: fewer passes reach the same loss; see benchmarks/mimax_speed.py.
    optimiser: Annotated[OptimiserName, '"gd" as in the paper, "momentum" or "adam"; see `DescentPlan`.'] = "momentum"
    learning_rate: Annotated[
        Positive | None,
        'None takes 0.01 for "gd", 1 for "momentum" and 0.1 for "adam", with mini-batches 0.3 of it; the last two fall '
        "to a tenth.",
    ] = None
    iterations: Annotated[Count, "Passes over the bags."] = 300
    batch_size: Annotated[
        Count | None,
        "Bags a step; None for all of them. Large collections need fewer passes with mini-batches: 20, with a tenth of "
        "the bags a step, instead of 300. See benchmarks/mimax_speed.py.",
    ] = None
    scan_every: Annotated[
        Count | None,
        "With full batches, of so many passes one looks at all instances, the others at the recent best of each bag; "
        "see `DescentPlan`. 1 is exact; None takes 1 where a pass is at most 10^9 multiplications, else 10. The last "
        "pass, which selects, is always full.",
    ] = None
    folds: Annotated[int, Ge(2), "Of the search for C."] = 3
    seed: Annotated[int, "Same seed, bags and settings: same bytes, on a CPU."] = 0
    # What it was fitted to:
    classes: tuple[bool | int | float | str, ...] = ()
    multilabel: bool = False
    n_features: int = 0
    uses_objectness: bool = False
    # What a Detector adds: names of the classes, the regions that it looks at, and Platt's slopes and offsets.
    names: tuple[str, ...] = ()
    regions: str = ""
    regions_sha256: str = ""
    calibration: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.batch_size is not None and self.scan_every is not None:
            raise ConfigError("scan_every is for full batches: leave it out, or batch_size")

    @property
    def starts(self) -> int:
        """R, models that are trained for each class, of which the best is kept."""
        return self.restarts + 1 if self.kind == "linear" else 1

    @property
    def planes(self) -> int:
        """J, hyper-planes of a model: a polyhedral one keeps all its vectors."""
        return 1 if self.kind == "linear" else self.restarts + 1

    def descent(self, work: int) -> DescentPlan:
        """How to descend, where a pass over all instances takes `work` multiplications."""
        scan_every = SCAN_EVERY if work > EXACT else 1
        usual = RATES[self.optimiser] * (1 if self.batch_size is None else STOCHASTIC)
        return DescentPlan(
            optimiser=self.optimiser,
            rate=usual if self.learning_rate is None else self.learning_rate,
            rate_end=1.0 if self.optimiser == "gd" else 0.1,
            iterations=self.iterations,
            batch_size=self.batch_size,
            scan_every=scan_every if self.scan_every is None else self.scan_every,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class MIMaxStep(Progress):
    """A step of training; `total` counts those of a search for C, too."""

    searching: bool
    """Whether this is a step of a search for C."""
    loss: float
    """Loss before the step, mean over classes of the best restart; of the instances that were looked at."""


@dataclass(eq=False, repr=False)
class MIMax(BagClassifier, hub.Pretrained[MIMaxConfig]):
    """Learn what the positive bags have in common and the negative ones lack; then point at it.

    Gonthier et al. 2018 (arXiv:1810.02569), linear, and 2020 (arXiv:2008.01178), polyhedral.

        >>> bags = [np.eye(3)[[0, 1]], np.eye(3)[[1]], np.eye(3)[[0, 2]], np.eye(3)[[2, 1]]]  # arrays [K, M]
        >>> model = MIMax().fit(bags, [1, 0, 1, 0])  # the bags that hold (1, 0, 0)
        >>> (model.decision_function(bags) > 0).tolist()
        [True, False, True, False]
        >>> (model.instance_scores(bags[:1]) > 0).tolist()
        [True, False]

    Bags are what `Bags.of` takes; labels are [B] of two kinds, or [B, C] of 0 and 1, for C classes at once. All classes
    and restarts are trained together. A score S = tanh(max_j (s + epsilon)(w_j . x + b_j)) is in (-1, 1), eq. 3, or
    without tanh for the hinge loss; the paper shows detections above 0.05. A bag has the largest S of its instances.

    `MIMaxConfig` explains the settings; none is checked before `fit`, as in scikit-learn.

    Attributes:
        classes_: The two labels, or the numbers of the columns.
        coef_: [C, J, M] vectors for instances as they come; C is 1 for two labels, J is 1 for the linear kind.
        intercept_: [C, J].
        C_: [C] strength of the regulariser, found or given.
        restarts_: [C] which restart was kept, from 0.
        data_term_: [C] data term of it on all training bags, in [-2, 2] with tanh.
        losses_: The loss of each step; those of a search for C are left out.
        n_features_in_: M.
    """

    method: ClassVar[str] = "mimax"
    config_class: ClassVar[type] = MIMaxConfig

    kind: Kind = "linear"
    _: KW_ONLY
    restarts: int = 11
    C: float | Literal["cv"] = 1.0
    epsilon: float = 0.01
    objectness: bool | None = None
    loss: LossName = "tanh"
    init: Init = "scaled"
    select: Select = "full"
    standardize: bool = False
    optimiser: OptimiserName = "momentum"
    learning_rate: float | None = None
    iterations: int = 300
    batch_size: int | None = None
    scan_every: int | None = None
    folds: int = 3
    seed: int = 0
    device: Annotated[torch.device | str | None, "Where to compute; None picks CUDA, then MPS, then CPU."] = None
    memory: Annotated[
        int | None,
        "Bytes to use beside the bags; None for 1 GiB. On CUDA the bags are kept there if they fit into half of what "
        "is free.",
    ] = None

    def __sklearn_tags__(self) -> Tags:
        """What scikit-learn may expect: two classes, or several columns."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # --- Training

    def fit(self, bags: object, y: object) -> Self:
        """Train on bags and labels; of two kinds of labels the later in order is positive.

        Raises:
            ConfigError: A setting is out of range, or the descent diverged.
            BagsError: The bags cannot be used, or a class has no positive or no negative bag; a DatasetError.
            DeviceError: The device is not there.
        """
        return result_of(self.stream_fit(bags, y))

    def stream_fit(self, bags: object, y: object) -> Iterator[MIMaxStep | Self]:
        """Do what `fit` does, step by step: yield where it is, and the estimator last.

        Closed before its end, it leaves the estimator as it was.
        """
        settings = self._checked()
        if self.memory is not None and self.memory < 1:
            raise ConfigError(f"memory={self.memory} must be a number of bytes above 0, or None for 1 GiB")
        device = runtime.pick_device(self.device)
        bags = Bags.of(bags)
        labels, classes = read_labels(y, len(bags))
        signs = labels.T.contiguous()  # [B, C]
        uses = settings.objectness if settings.objectness is not None else bags.objectness is not None
        scaling = Scaling.of(bags, standardize=settings.standardize, memory=self.memory)
        bags = _resident(bags, device)
        outputs, starts, planes = signs.shape[1], settings.starts, settings.planes
        deviation = 1.0 if settings.init == "reference" else FIRST / scaling.norm
        vectors, bias = initial(outputs * starts, planes, bags.features, deviation=deviation, seed=settings.seed)
        vectors, bias = vectors.to(device), bias.to(device)
        plan = settings.descent(bags.instances.numel() * outputs * starts * planes)
        objective = partial(
            MIMaxObjective,
            bags,
            scaling=scaling,
            epsilon=settings.epsilon if uses else None,
            loss=settings.loss,
            device=device,
            memory=self.memory,
        )
        total, done = plan.steps(len(bags)), 0
        if settings.C == "cv":
            total *= 2
            search = Search(signs, starts, folds=settings.folds, seed=settings.seed)
            problem = objective(balanced(search.labels), search.strength)
            found = search.expand(vectors), search.expand(bias)
            for losses in descend(problem, *found, plan):
                done += 1
                mean = float(losses.view(-1, outputs, starts).amin(2).mean())
                yield MIMaxStep(done, total, searching=True, loss=mean)
            strength = search.best(problem, problem(*found).values)
        else:
            strength = torch.full((outputs,), float(settings.C))
        problem = objective(balanced(signs.repeat_interleave(starts, 1)), strength.repeat_interleave(starts))
        history = list[float]()
        for losses in descend(problem, vectors, bias, plan):
            history.append(float(losses.view(outputs, starts).amin(1).mean()))
            done += 1
            yield MIMaxStep(done, total, searching=False, loss=history[-1])
        last = problem(vectors, bias)
        rank = last.data if settings.select == "full" else (problem.coefficients * last.values)[:REFERENCE_BAGS].sum(0)
        kept = rank.view(outputs, starts).argmin(1)
        chosen = kept + starts * torch.arange(outputs, device=device)
        weights, offset = problem.scaling.fold(vectors[chosen], bias[chosen])
        self._fitted(weights, offset, classes, uses)
        self.C_ = strength.numpy()
        self.restarts_ = kept.cpu().numpy()
        self.data_term_ = last.data[chosen].cpu().numpy()
        self.losses_ = tuple(history)
        yield self

    def _checked(self) -> MIMaxConfig:
        names = {field.name for field in fields(MIMaxConfig)}
        return hub.config_from(MIMaxConfig, {key: value for key, value in self._settings().items() if key in names})

    def _fitted(self, weights: Tensor, bias: Tensor, classes: np.ndarray[Any, Any] | None, uses: bool) -> None:
        self.coef_, self.intercept_ = weights.cpu().numpy(), bias.cpu().numpy()
        self._set_classes(classes, len(weights), weights.shape[2])
        self._uses_objectness = uses

    # --- Use

    def head(self) -> ScoringHead:
        """The classifiers as a network, for padded bags; `torch.onnx.export(..., dynamo=True)` takes it."""
        check_is_fitted(self)
        return ScoringHead(
            torch.from_numpy(self.coef_),
            torch.from_numpy(self.intercept_),
            epsilon=self.epsilon if self._uses_objectness else None,
            squash=self.loss == "tanh",
        ).eval()

    def _read(self, bags: object) -> Bags:
        bags = super()._read(bags)
        if self._uses_objectness and bags.objectness is None:
            raise BagsError("MIMax was fitted with objectness, which these bags lack: give it to Bags.of")
        return bags

    def _scores(self, bags: Bags) -> Tensor:
        device = runtime.pick_device(self.device)
        weights, bias = torch.from_numpy(self.coef_).to(device), torch.from_numpy(self.intercept_).to(device)
        epsilon = self.epsilon if self._uses_objectness else None
        scores = score(bags, weights, bias, epsilon=epsilon, memory=self.memory).double()
        # In float32 scores above 9 would all be 1, and no longer in order.
        return scores.tanh() if self.loss == "tanh" else scores

    # --- Storage

    @property
    def config(self) -> MIMaxConfig:  # type: ignore[override]  # fitting changes it
        """Settings and what it was fitted to, as `save_pretrained` writes them."""
        check_is_fitted(self)
        return replace(
            self._checked(),
            classes=tuple(self.classes_.tolist()),
            multilabel=not self._binary,
            n_features=self.n_features_in_,
            uses_objectness=self._uses_objectness,
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {"weights": torch.from_numpy(self.coef_), "bias": torch.from_numpy(self.intercept_)}

    @classmethod
    def _build(cls, config: MIMaxConfig, resolved: hub.Resolved, placement: hub.Placement) -> Self:
        placement.require_float32(cls.__name__)
        outputs = len(config.classes) if config.multilabel else 1
        shape = (outputs, config.planes)
        tensors = resolved.load({"weights": (*shape, config.n_features), "bias": shape}, dtype=torch.float32)
        settings = {name: getattr(config, name) for name in cls().get_params() if hasattr(config, name)}
        model = cls(**settings | {"device": placement.device})
        classes = None if config.multilabel else np.asarray(config.classes)
        model._fitted(tensors["weights"].float(), tensors["bias"].float(), classes, config.uses_objectness)
        return model


def _resident(bags: Bags, device: torch.device) -> Bags:
    """The bags on a GPU, if they fit there; otherwise they travel at each pass."""
    if device.type != "cuda":
        return bags
    free, _ = torch.cuda.mem_get_info(device)
    if bags.instances.numel() * bags.instances.element_size() > free // 2:
        return bags
    return Bags(bags.instances.to(device), bags.sizes, None if bags.objectness is None else bags.objectness.to(device))
