"""Whether committed checkpoints are what they say: card, configuration, bytes, catalogue, and recipe."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from artmodels import features
from artmodels.data.folders import fingerprint
from artmodels.errors import (
    ArtModelsError,
    ConfigError,
    DatasetError,
    HashMismatch,
    MissingWeights,
    UnsafeFormat,
    WeightsError,
)
from artmodels.features.networks import TRAINED
from artmodels.files import sha256_of
from artmodels.hub import catalogue
from artmodels.hub.checkpoints import WEIGHTS, read_config
from artmodels.methods import class_of
from artmodels.settings import config_from
from artmodels.training import Sources
from weights import cards, manifest, recipes
from weights.recipes import RecipeFile, Result

__all__ = ["Check", "verify"]

TOTAL = 64_000_000  # bytes


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: "passed", "failed", or "skipped" because it could not be.

    Attributes:
        name: Of the checkpoint.
        what: Was looked at.
        state: What came of it.
        text: What was found, or why not.
    """

    name: str
    what: str
    state: str
    text: str


class _Skipped(Exception):  # noqa: N818 - nothing went wrong
    """The check could not be made, for this reason."""


def verify(
    names: Sequence[str] = (),
    *,
    sources: Sources,
    rerun: bool = True,
    begin: Callable[[str, str], None] = lambda name, what: None,
) -> list[Check]:
    """Check checkpoints, all of them by default.

    Args:
        names: Which.
        sources: Where data and teachers are, to run the first steps of the recipes again.
        rerun: Whether to do so.
        begin: Called before each check with the name of the checkpoint and of the check.

    Returns:
        Every check, those of a checkpoint together; last, their size in all.

    Raises:
        MissingWeights: There is no checkpoint of a name.
    """
    folders = [recipes.find(name) for name in names or recipes.names()]
    done = list[Check]()

    def run(name: str, what: str, check: Callable[[], str]) -> None:
        begin(name, what)
        try:
            done.append(Check(name, what, "passed", check()))
        except _Skipped as reason:
            done.append(Check(name, what, "skipped", str(reason)))
        except ArtModelsError as error:
            done.append(Check(name, what, "failed", str(error)))
        except Exception as error:  # a recipe's own code, or a file that nobody thought of: the next ones count too
            done.append(Check(name, what, "failed", f"{type(error).__name__}: {error}"))

    known = {entry.name for entry in catalogue.list_models()}
    for folder in folders:
        if not names and folder.name not in known and not (folder / WEIGHTS).exists():
            # A recipe may wait for its training; what the catalogue promises, or what was asked for by name, may not.
            done.append(Check(folder.name, "weights", "skipped", f"not built: python -m weights build {folder.name}"))
            continue
        checkpoint = _Checkpoint(folder, sources)
        for what, check in checkpoint.checks().items():
            if what != "first steps" or rerun:
                run(folder.name, what, check)
            else:
                done.append(Check(folder.name, what, "skipped", "--no-rerun"))
    run("all", "size", _total)
    return done


class _Checkpoint:
    """A folder and the checks of it; each returns what it found, raises an error, or `_Skipped`."""

    def __init__(self, folder: Path, sources: Sources) -> None:
        self.folder, self.sources = folder, sources

    def checks(self) -> dict[str, Callable[[], str]]:
        return {
            "recipe": self.recipe,
            "card": self.card,
            "config": self.config,
            "weights": self.weights,
            "sha256": self.sha256,
            "catalogue": self.catalogue,
            "first steps": self.first_steps,
        }

    def _known(self) -> tuple[RecipeFile, Result]:
        """The recipe, for checks that need it where another one has already said that it is wrong."""
        try:
            return recipes.built(self.folder)
        except ArtModelsError:
            raise _Skipped("the recipe is not in order") from None

    def recipe(self) -> str:
        file, result = recipes.built(self.folder)
        if file.sha256 != result.recipe_sha256:
            raise ConfigError("recipe, threads, training or settings were changed after the build: build again")
        if not file.metrics:
            raise ConfigError("[metrics] is empty: nothing was measured on what was held out")
        other = sorted({path.name for path in self.folder.iterdir()} - set(recipes.FILES))
        if other:
            raise ConfigError(
                f"the folder is the Hub's repository and has more than its four files: {', '.join(other)}"
            )
        return f"{file.schedule.steps} steps of {file.recipe}"

    def card(self) -> str:
        try:
            method = cards.method_of(read_config(self.folder))
        except ArtModelsError:
            raise _Skipped("config.json is not in order") from None
        return cards.check(self.folder / "README.md", method)

    def config(self) -> str:
        config = read_config(self.folder)
        method = cards.method_of(config)
        if method == "features":
            if config.get("architecture") not in TRAINED:
                raise ConfigError(f"architecture {config.get('architecture')!r} is none of {', '.join(TRAINED)}")
            return f"features of {config['architecture']}"
        config_from(class_of(method).config_class, {key: value for key, value in config.items() if key != "method"})
        return method

    def weights(self) -> str:
        path = self.folder / WEIGHTS
        if not path.is_file():
            raise MissingWeights(f"{WEIGHTS} is missing: python -m weights build {self.folder.name}")
        size = path.stat().st_size
        if size > recipes.LARGEST:
            raise WeightsError(f"{WEIGHTS} has {size / 1e6:.1f} MB, more than {recipes.LARGEST / 1e6:g}")
        try:
            with safe_open(path, "pt") as tensors:
                kinds = {key: tensors.get_slice(key).get_dtype() for key in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise WeightsError(f"{WEIGHTS} cannot be opened: {error}") from None
        wrong = [f"{key} is {kind}" for key, kind in kinds.items() if kind not in ("F16", "F32")]
        if wrong:
            raise UnsafeFormat(f"only F16 and F32 are published: {', '.join(wrong)}")
        self._load()
        return f"{size / 1e6:.2f} MB, {', '.join(sorted(set(kinds.values())))}"

    def _load(self) -> None:
        """Load them as a user would, which checks keys and shapes."""
        try:
            method = cards.method_of(read_config(self.folder))
        except ArtModelsError:
            raise _Skipped("config.json is not in order") from None
        if method == "features":
            features.load(str(self.folder), device="cpu")
        else:
            class_of(method).from_pretrained(self.folder, device="cpu")

    def sha256(self) -> str:
        _, result = self._known()
        actual = self._actual()
        if actual != result.sha256:
            raise HashMismatch(f"{WEIGHTS} is {actual}, and the recipe's result {result.sha256}")
        return actual

    def _actual(self) -> str:
        path = self.folder / WEIGHTS
        if not path.is_file():
            raise _Skipped(f"there is no {WEIGHTS}")
        return sha256_of(path)

    def catalogue(self) -> str:
        entry = catalogue.find(self.folder.name)
        if entry is None or entry.weights is None:
            raise MissingWeights(f"in no manifest with its weights: python -m weights card {self.folder.name}")
        self._actual()
        found = manifest.facts(self.folder)
        found |= found.pop("config")
        found |= {"licence": self._known()[0].card.licence.lower(), "method": cards.method_of(read_config(self.folder))}
        says = dict(entry.config) | {"licence": entry.licence.lower(), "method": entry.method}
        says |= {"sha256": entry.weights.sha256, "size_mb": entry.weights.size_mb}

        def text(value: object) -> str:  # as JSON, where a tuple is a list
            return json.dumps(value) if value is not None else "nothing"

        pairs = {key: (text(says.get(key)), text(found.get(key))) for key in says.keys() | found.keys()}
        differing = [f"{key} {said}, not {value}" for key, (said, value) in sorted(pairs.items()) if said != value]
        if differing:
            raise ConfigError(
                f"the catalogue differs from the folder, {'; '.join(differing)}: python -m weights card {entry.name}"
            )
        return "same bytes, configuration and licence"

    def first_steps(self) -> str:
        file, result = self._known()
        for folder in (self.sources.data, self.sources.teachers):
            if not folder.is_dir():
                raise _Skipped(f"there is no {folder}")
        with recipes.threads(file.threads):
            try:
                recipe = file.make(self.sources)
            except (DatasetError, MissingWeights) as error:
                raise _Skipped(str(error)) from None
            if fingerprint(recipe.files) != result.data_sha256:
                raise _Skipped(f"{self.sources.data} is not the data that it was trained on")
            first = recipes.first_steps(file, recipe)
            there, here = (result.torch, result.cpu), (torch.__version__, torch.backends.cpu.get_cpu_capability())
            if there == here:
                if first != result.first_steps_sha256:
                    raise HashMismatch(f"{first}, and the build had {result.first_steps_sha256}")
                return "as in the build, bit for bit"
            if first != recipes.first_steps(file, file.make(self.sources)):
                raise HashMismatch("two runs here differ: something in the recipe does not follow from its seed")
            return f"two runs here agree bit for bit; built on {' '.join(there)}, this is {' '.join(here)}"


def _total() -> str:
    size = sum(file.stat().st_size for file in recipes.ROOT.rglob(WEIGHTS))
    if size > TOTAL:
        raise WeightsError(f"all committed weights have {size / 1e6:.1f} MB, more than {TOTAL / 1e6:g}")
    return f"{size / 1e6:.2f} MB of {TOTAL / 1e6:g}"
