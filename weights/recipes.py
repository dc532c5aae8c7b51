"""A checkpoint's `recipe.toml`: read it, train what it says, and replace the checkpoint's folder as a whole."""

import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import tomlkit
import torch
from safetensors.torch import save
from tomlkit.items import Table
from torch import Tensor

from artmodels.data.folders import fingerprint
from artmodels.errors import ConfigError, MissingWeights, WeightsError, suggest
from artmodels.files import put_back, replacing, write_whole
from artmodels.hub.checkpoints import CONFIG, WEIGHTS
from artmodels.settings import config_from
from artmodels.training import STATE, Recipe, Sources, TrainingConfig, TrainingProgress, fit
from weights import cards
from weights.cards import Card

__all__ = [
    "FILES",
    "LARGEST",
    "RecipeFile",
    "Result",
    "built",
    "find",
    "first_steps",
    "names",
    "read",
    "recover",
    "stream_build",
    "threads",
    "write_card",
]

ROOT = Path(__file__).parent
RECIPE = "recipe.toml"
FILES = ("README.md", CONFIG, WEIGHTS, RECIPE)
NOTE = "---- What follows was found by `python -m weights build`, which writes it anew each time. ----"
FIRST_STEPS = 20
LARGEST = 12_000_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a build found.

    Attributes:
        sha256: Of model.safetensors.
        recipe_sha256: Of the parts of recipe.toml that decide the weights, see `RecipeFile.sha256`.
        data_sha256: Of names and contents of the images that were trained on, see `artmodels.data.folders.fingerprint`.
        data_files: How many they were.
        first_steps_sha256: Of all trained parameters after the first 20 steps on the CPU, see `first_steps`.
        torch: Version of PyTorch.
        cpu: Instructions that PyTorch used, such as "AVX2"; other ones round differently.
    """

    sha256: str
    recipe_sha256: str
    data_sha256: str
    data_files: int
    first_steps_sha256: str
    torch: str
    cpu: str


@dataclass(frozen=True, kw_only=True)
class RecipeFile:
    """A `recipe.toml`.

    Attributes:
        recipe: "module:class", below `artmodels.methods`, of a subclass of `artmodels.training.Recipe`.
        training: Fields of `TrainingConfig`.
        settings: Fields of the recipe's own settings.
        card: For the model card.
        threads: PyTorch's threads: sums over more of them round differently.
        result: What the last build found; None before the first.
        metrics: What the recipe's evaluation found.
    """

    recipe: str
    training: Mapping[str, Any]
    card: Card
    settings: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    result: Result | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the values."""
        if self.threads < 1:
            raise ConfigError(f"threads={self.threads} must be at least 1")
        config_from(TrainingConfig, self.training)

    @property
    def schedule(self) -> TrainingConfig:
        """How long and how fast."""
        return config_from(TrainingConfig, self.training)

    @property
    def sha256(self) -> str:
        """Of what decides the weights, as it is written: recipe, threads, training and settings, not the card."""
        parts = [self.recipe, self.threads, self.training, self.settings]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def shortened(self, steps: int) -> "RecipeFile":
        """The same with another number of steps, for a trial."""
        return replace(self, training={**self.training, "steps": steps})

    def make(self, sources: Sources) -> Recipe:
        """Load the data and make the network; nothing is trained yet.

        Raises:
            ConfigError: There is no such recipe, or it has no such setting.
            DatasetError: The data is not there.
            WeightsError: A network to learn from, or to start from, is not there.
        """
        module, _, name = self.recipe.partition(":")
        try:
            found = getattr(import_module(f"artmodels.methods.{module}"), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f'recipe = "{self.recipe}" cannot be found as "module:class": {error}.') from error
        if not (isinstance(found, type) and issubclass(found, Recipe)):
            raise ConfigError(f'recipe = "{self.recipe}" is not a subclass of artmodels.training.Recipe.')
        recipe: Recipe = found(config_from(found.settings_class, self.settings), sources, seed=self.schedule.seed)
        return recipe


def names() -> list[str]:
    """The checkpoints that have a folder here, built or not."""
    return sorted(
        folder.name
        for folder in ROOT.iterdir()
        if not folder.name.startswith(".") and any((folder / file).is_file() for file in (RECIPE, WEIGHTS))
    )


def find(name: str) -> Path:
    """The folder of a checkpoint.

    Raises:
        MissingWeights: There is none of that name.
    """
    if name not in names():
        raise MissingWeights(
            f"{ROOT} has no recipe for {name!r}.{suggest(name, names())} Write {Path(ROOT.name, name, RECIPE)} first."
        )
    return ROOT / name


def read(folder: Path) -> RecipeFile:
    """The recipe of a folder.

    Raises:
        ConfigError: It is not there, not TOML, or has a key that is unknown, missing or of a wrong type.
    """
    path = folder / RECIPE
    try:
        return config_from(RecipeFile, tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: a checkpoint comes with the recipe that made it.") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except ValueError as error:  # of tomllib, and of the decoding
        raise ConfigError(f"{path} is not valid TOML: {error}. Mend it.") from None


def built(folder: Path) -> tuple[RecipeFile, Result]:
    """The recipe of a checkpoint that has been built, and what was found.

    Raises:
        ConfigError: See `read`.
        MissingWeights: It has not been built.
    """
    file = read(folder)
    if file.result is None:
        raise MissingWeights(f"{folder.name} was never built: python -m weights build {folder.name}")
    return file, file.result


def write_card(folder: Path) -> None:
    """Write the card of a checkpoint from its recipe and what its build found.

    Raises:
        ConfigError: See `read`.
        MissingWeights: It has not been built.
    """
    file, result = built(folder)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    write_whole({folder / "README.md": cards.render(folder.name, file, result, config)})


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def first_steps(file: RecipeFile, recipe: Recipe) -> str:
    """Train a fresh recipe for 20 steps on the CPU; the sha256 of its float32 parameters, sorted by name."""
    for _ in fit(recipe, file.schedule, until=FIRST_STEPS):
        pass
    total = hashlib.sha256()
    for _, value in sorted(recipe.network.named_parameters()):
        if value.requires_grad:
            total.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()


def packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as a safetensors file.

    Raises:
        WeightsError: It is too large, or a tensor is not fp16 or fp32, or not finite.
    """
    for key, value in tensors.items():
        if value.dtype not in (torch.float16, torch.float32):
            raise WeightsError(f"{key} is {value.dtype}: publish weights as float16 or float32.")
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(f"{key} is not finite as {value.dtype}: train at a lower rate, or publish float32.")
    data = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata={"format": "pt"})
    if len(data) > LARGEST:
        raise WeightsError(
            f"{WEIGHTS} would be {len(data) / 1e6:.1f} MB, and {LARGEST / 1e6:g} is the limit: make a smaller network."
        )
    return data


def stream_build(
    origin: Path,
    target: Path,
    sources: Sources,
    *,
    steps: int | None = None,
    work: Path,
    device: torch.device | str = "cpu",
) -> Iterator[TrainingProgress | Result]:
    """Train the recipe of `origin` and write the four files of a checkpoint to `target`, all of them or none.

    Args:
        origin: Folder of the recipe.
        target: Folder of the checkpoint: `origin`, or another one, new, empty or a checkpoint's.
        sources: Where data, teachers and checkpoints are.
        steps: Instead of the recipe's own, for a trial.
        work: Where the state of the training is kept: an interrupted build goes on from there.
        device: Where to train; the first steps are always made on the CPU.

    Yields:
        A `TrainingProgress` after each step; last what was found, when the files are written.

    Raises:
        ConfigError: The recipe is wrong, or `work` or `target` hold something else.
        DatasetError: The data is not there, or the loss is no longer a number.
        WeightsError: The result cannot be published, or not be written.
    """
    file = _planned(origin, steps)
    _check_target(target)
    with threads(file.threads):
        recipe = file.make(sources)
        files = recipe.files
        data = fingerprint(files)
        _claim(work, {"recipe_sha256": file.sha256, "data_sha256": data})
        first = first_steps(file, recipe)
        # Too large is too large before the training, too.
        packed(recipe.checkpoint()[1])
        recipe = file.make(sources)
        yield from fit(recipe, file.schedule, folder=work, device=device)
        config, tensors = recipe.checkpoint()
        metrics = {name: float(f"{value:.6g}") for name, value in recipe.evaluate().items()}
    weights = packed(tensors)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise WeightsError(f"The metric {name!r} is {value}: this is not published. Look at {work}.")
    result = Result(
        sha256=hashlib.sha256(weights).hexdigest(),
        recipe_sha256=file.sha256,
        data_sha256=data,
        data_files=len(files),
        first_steps_sha256=first,
        torch=torch.__version__,
        cpu=torch.backends.cpu.get_cpu_capability(),
    )
    # The card may have been edited meanwhile, which is welcome; the rest not.
    now = _planned(origin, steps)
    if now.sha256 != file.sha256:
        raise ConfigError(f"{origin / RECIPE} was changed while it was trained: build again, with an empty {work}.")
    recipe_text = (origin / RECIPE).read_bytes().decode()  # its line ends stay as they are
    contents = {
        "README.md": cards.render(origin.name, replace(now, metrics=metrics), result, config).encode(),
        CONFIG: (json.dumps(config, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode(),
        WEIGHTS: weights,
        RECIPE: _with_found(recipe_text, result, metrics).encode(),
    }
    with replacing(target, error=WeightsError) as (draft,):
        draft.mkdir(parents=True)
        for name, content in contents.items():
            (draft / name).write_bytes(content)
    yield result


def _planned(origin: Path, steps: int | None) -> RecipeFile:
    file = read(origin)
    return file if steps is None else file.shortened(steps)


def _check_target(target: Path) -> None:
    """Refuse, before any work, a folder whose replacement would lose something."""
    there = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    other = [name for name in there if name not in FILES]
    if target.exists() and (not target.is_dir() or other or (there and RECIPE not in there)):
        what = f"holds {', '.join(other or there)}" if there else "is a file"
        raise ConfigError(f"{target} {what}, and is replaced by {', '.join(FILES)}: move it away, or choose another.")


def _claim(work: Path, identity: Mapping[str, str]) -> None:
    """Mark a work folder as this recipe's, on these images; one without a mark is taken for it."""
    note = work / "recipe.json"
    marked = (work / STATE).exists() and note.exists()
    if marked and json.loads(note.read_text(encoding="utf-8")) != identity:
        raise ConfigError(
            f"{work} belongs to a training with other settings or other images: remove it, or choose another with "
            "--work."
        )
    work.mkdir(parents=True, exist_ok=True)
    write_whole({note: json.dumps(identity)})


def _with_found(recipe: str, result: Result, metrics: Mapping[str, float]) -> str:
    """A recipe with the tables of what a build found, new or in the place of older ones; all else stays as it is."""
    document = tomlkit.parse(recipe)
    if "result" not in document:
        document.add(tomlkit.nl())
        document.add(tomlkit.comment(NOTE))
        document.add(tomlkit.nl())
        document.add("result", tomlkit.table())
    if "metrics" not in document:
        document.add("metrics", tomlkit.table())
    for name, found in (("result", asdict(result)), ("metrics", metrics)):
        table = cast(Table, document[name])
        for gone in set(table) - set(found):
            del table[gone]
        table.update(found)
    return tomlkit.dumps(document)


def recover() -> None:
    """Put back the folders that a build had put aside when it was killed."""
    for old in ROOT.glob(".*.old"):
        put_back(ROOT / old.name.removeprefix(".").removesuffix(".old"))
