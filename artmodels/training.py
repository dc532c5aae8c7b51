"""The one training loop: Adam with a cosine schedule, averages of weights, resuming, and a metrics file.

A method's `train.py` defines a `Recipe`: what to train and what to minimise. `fit` does the rest. Step n draws its
batch from a generator seeded by (seed, n), so that a run that was interrupted goes on exactly as if it had not been.
"""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Interval
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from artmodels.errors import ConfigError, DatasetError, WeightsError
from artmodels.files import write_whole
from artmodels.hub.checkpoints import fault_of
from artmodels.progress import Progress
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Positive, Settings, Share

__all__ = ["TrainingProgress", "Recipe", "Sources", "TrainingConfig", "fit"]

STATE = "training.safetensors"
METRICS = "metrics.jsonl"
SAVE_SECONDS = 60.0

Memory = Annotated[float, Interval(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """How long and how fast."""

    steps: Annotated[Count, "Updates of the weights."]
    rate: Annotated[Positive, "Adam's learning rate after the warm-up."] = 1e-3
    rate_end: Annotated[Share, "What remains of it at the end, on a half cosine."] = 0.01
    warmup: Annotated[int, Ge(0), "Steps over which the rate rises from zero."] = 50
    momentum: Annotated[Memory, "Weight of the past in Adam's average of gradients."] = 0.9
    clip: Annotated[float, Gt(0), "Longest gradient, as a Euclidean norm over all weights."] = 1.0
    average: Annotated[
        Memory, "Weight of the past in the average of weights that is the result; 0 takes the last ones."
    ] = 0.0
    seed: Annotated[int, "Of the initial weights and of every batch."] = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        part = step / max(1, self.steps - 1)
        cosine = self.rate_end + (1 - self.rate_end) * (0.5 + 0.5 * math.cos(math.pi * part))
        return self.rate * cosine * min(1.0, (step + 1) / max(1, self.warmup))


@dataclass(frozen=True)
class Sources:
    """Where the images and the networks to learn from are."""

    data: Path  # folder of images
    teachers: Path  # folder of networks in safetensors
    weights: Path  # folder of this project's own checkpoints

    def checkpoint(self, name: str) -> str:
        """The folder of a checkpoint in `weights`, if it is there; else its name, which the catalogue may know."""
        folder = self.weights / name
        return str(folder) if folder.is_dir() else name


class Recipe(ABC):
    """What is trained, on what, to what end. A subclass is a method's whole training, less the loop.

    `settings_class` is a frozen dataclass of the recipe's own settings; those of the loop are `TrainingConfig`'s.
    """

    settings_class: ClassVar[type]
    network: nn.Module
    """Holds every parameter that is trained."""
    files: list[Path]
    """The images that are trained on, in order."""

    @abstractmethod
    def __init__(self, settings: Any, sources: Sources, *, seed: int) -> None:  # noqa: ANN401 - each has its own
        """Load the data and make the network, seeded; nothing is trained yet."""

    @abstractmethod
    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """The terms of the objective, weighted, on a batch drawn from `rng`; their sum is minimised."""

    @abstractmethod
    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What is published: the fields of config.json, and the tensors."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Numbers on what was held out, for the model card."""


@dataclass(frozen=True)
class TrainingProgress(Progress):
    """Where a training is."""

    losses: Mapping[str, float] = field(default_factory=dict)  # of the last step, by name
    seconds: float = 0.0  # that the training has taken, over all its runs


def fit(
    recipe: Recipe,
    config: TrainingConfig,
    *,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
    until: int | None = None,
) -> Iterator[TrainingProgress]:
    """Train `recipe.network`, step by step; when the iterator ends it holds the result.

    A folder keeps `metrics.jsonl` and the state, so that an interrupted run can be taken up again; the state is
    replaced whole or not at all. Training stops after step `until` of the schedule as if it was interrupted there.

    Raises:
        ConfigError: The folder holds the state of a training with other settings.
        WeightsError: The folder holds a state that is damaged.
        DatasetError: The loss is no longer a number.
        ArtModelsError: The folder cannot be written to.
    """
    from accelerate import Accelerator  # slow to import, and only training needs it

    accelerator = Accelerator(cpu=torch.device(device).type == "cpu")
    state = _State(recipe.network.to(torch.device(device)), config)
    first, spent = 0, 0.0
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE).exists():
            first, spent = state.load(folder / STATE)
        _forget_after(folder / METRICS, first)
    start = saved = time.monotonic()
    end = config.steps if until is None else min(until, config.steps)
    for step in range(first, end):
        for group in state.optimiser.param_groups:
            group["lr"] = config.rate_at(step)
        # Step n's batch depends on (seed, n) alone.
        rng = generator((config.seed * 1_000_003 + step) % 2**62)
        state.optimiser.zero_grad(set_to_none=True)
        with accelerator.autocast():
            terms = recipe.losses(rng)
        loss = torch.stack(list(terms.values())).sum()
        accelerator.backward(loss)
        norm = nn.utils.clip_grad_norm_(state.parameters.values(), config.clip)
        if not bool(torch.isfinite(norm)):
            raise DatasetError(f"The loss is no longer a number at step {step + 1}: lower the rate.")
        state.optimiser.step()
        for name, value in state.average.items():
            # Young averages forget the start sooner.
            value.lerp_(state.parameters[name].detach(), 1 - min(config.average, (step + 1) / (step + 10)))
        now = time.monotonic()
        progress = TrainingProgress(
            step + 1, config.steps, losses={k: float(v.detach()) for k, v in terms.items()}, seconds=spent + now - start
        )
        if folder is not None:
            with (folder / METRICS).open("a", encoding="utf-8") as metrics:
                metrics.write(json.dumps({"step": step + 1, **progress.losses}) + "\n")
            if now - saved > SAVE_SECONDS or step + 1 == end:
                state.save(folder / STATE, progress)
                saved = now
        yield progress
    for name, value in state.average.items():
        state.parameters[name].data.copy_(value)


class _State:
    """What changes while a network is trained."""

    def __init__(self, network: nn.Module, config: TrainingConfig) -> None:
        self.config = config
        self.parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
        # Running statistics are not trained, but a run that goes on without them is another run.
        kept = network.state_dict().keys()
        buffers = {name: value for name, value in network.named_buffers() if name in kept}
        self.weights: dict[str, Tensor] = {**self.parameters, **buffers}
        averaged = self.parameters if config.average else {}
        self.average = {name: value.detach().clone() for name, value in averaged.items()}
        self.optimiser = torch.optim.Adam(self.parameters.values(), lr=config.rate, betas=(config.momentum, 0.999))

    def save(self, path: Path, progress: TrainingProgress) -> None:
        tensors = {f"weights.{name}": value for name, value in self.weights.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for name, value in self.weights.items():
            for key, moment in self.optimiser.state.get(value, {}).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(moment)
        stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        config = json.dumps(asdict(self.config), sort_keys=True)
        about = {"step": str(progress.done), "seconds": str(progress.seconds), "config": config}
        write_whole({path: save(stored, metadata=about)})

    def load(self, path: Path) -> tuple[int, float]:
        """Take up what was saved; the steps done and the seconds spent."""
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - a method, not a dict's
            known = json.loads(about.get("config", "{}"))
        except (SafetensorError, ValueError, RecursionError) as error:
            raise WeightsError(f"{path} is damaged ({error}): remove it, and the training starts again.") from error
        if (fault := fault_of(tensors)) is not None:
            raise WeightsError(f"{path} cannot go on, its tensor {fault}: remove it, and the training starts again.")
        if known != asdict(self.config):
            raise ConfigError(f"{path} belongs to a training with other settings: remove it, or choose another folder.")
        shapes = {f"weights.{name}": value.shape for name, value in self.weights.items()}
        if {key: tensors[key].shape for key in tensors if key.startswith("weights.")} != shapes:
            raise ConfigError(f"{path} belongs to another network: remove it, or choose another folder.")
        for name, value in self.weights.items():
            value.data.copy_(tensors[f"weights.{name}"])
        for name, parameter in self.parameters.items():
            moments = {key: tensors.get(f"{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimiser.state[parameter] = {
                key: moment if key == "step" else moment.to(parameter.device)
                for key, moment in moments.items()
                if moment is not None
            }
        for name, mean in self.average.items():
            mean.copy_(tensors[f"average.{name}"])
        return int(about["step"]), float(about["seconds"])


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of a metrics file after a step: those of steps that are about to be done again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:step]
        write_whole({path: "".join(lines)})
