"""The settings of MI-max."""

from dataclasses import dataclass
from typing import Literal, get_args

from artmodels.errors import ConfigError
from artmodels.methods.mimax.model import Descent, LossName, OptimiserName

__all__ = ["Init", "Kind", "MIMaxConfig", "Select"]

Kind = Literal["linear", "polyhedral"]
Init = Literal["scaled", "reference"]
Select = Literal["full", "reference"]

RATES = {"gd": 0.01, "momentum": 1.0, "adam": 0.1}
STOCHASTIC = 0.3  # share of the rate with mini-batches, whose gradients are noisy
SCAN_EVERY = 10
EXACT = 10**9  # multiplications of a pass up to which each one looks at everything: 300 take some ten seconds


@dataclass(frozen=True, kw_only=True)
class MIMaxConfig:
    """The settings of `MIMax`, which explains them, and what it was fitted to."""

    kind: Kind = "linear"
    restarts: int = 11
    C: float | str = 1.0
    epsilon: float = 0.01
    objectness: bool | None = None
    loss: LossName = "tanh"
    # Not the paper's N(0, 1): it saturates tanh, and a polyhedral model then learns little in 300 iterations.
    init: Init = "scaled"
    # Not the published code's first mini-batch without tanh, which the paper does not have either.
    select: Select = "full"
    standardize: bool = False
    # Not the paper's plain descent: fewer passes reach the same loss; see benchmarks/mimax_speed.py.
    optimiser: OptimiserName = "momentum"
    learning_rate: float | None = None
    iterations: int = 300
    batch_size: int | None = None
    scan_every: int | None = None
    folds: int = 3
    seed: int = 0
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
        """Check the ranges."""
        for name, choices in (
            ("kind", get_args(Kind)),
            ("loss", get_args(LossName)),
            ("init", get_args(Init)),
            ("select", get_args(Select)),
            ("optimiser", get_args(OptimiserName)),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name, least in (("restarts", 0), ("iterations", 1), ("batch_size", 1), ("scan_every", 1), ("folds", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name}={value} must be at least {least}")
        if isinstance(self.C, str) and self.C != "cv":
            raise ConfigError(f"C={self.C!r} must be a number of at least 0, or 'cv' to search for it")
        if not isinstance(self.C, str) and not 0 <= self.C < float("inf"):
            raise ConfigError(f"C={self.C} must be a number of at least 0, or 'cv' to search for it")
        if not 0 <= self.epsilon < float("inf"):
            raise ConfigError(f"epsilon={self.epsilon} must be at least 0")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate={self.learning_rate} must be above 0, or None for the optimiser's own")
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

    def descent(self, work: int) -> Descent:
        """How to descend, where a pass over all instances takes `work` multiplications."""
        scan_every = SCAN_EVERY if work > EXACT else 1
        usual = RATES[self.optimiser] * (1 if self.batch_size is None else STOCHASTIC)
        return Descent(
            optimiser=self.optimiser,
            rate=usual if self.learning_rate is None else self.learning_rate,
            rate_end=1.0 if self.optimiser == "gd" else 0.1,
            iterations=self.iterations,
            batch_size=self.batch_size,
            scan_every=scan_every if self.scan_every is None else self.scan_every,
            seed=self.seed,
        )
