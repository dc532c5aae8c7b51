"""The base of the method classes, which load from a name or path to verified weights, save them and push them.

A checkpoint is a folder with `config.json` and, where the method has weights, `model.safetensors`: the Hub's own
layout. `artmodels.hub.resolving` resolves names, `artmodels.hub.checkpoints` reads folders strictly.
"""

import dataclasses
import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, cast

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, constants
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client's own, whichever it is
from safetensors.torch import save

from artmodels._version import __version__
from artmodels.errors import ConfigError, WeightsError, short, suggest
from artmodels.files import replacing
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Entry
from artmodels.hub.checkpoints import CONFIG, WEIGHTS, fault_of, load_tensors, read_config
from artmodels.hub.resolving import LIBRARY, REPO, Placement, Resolved, resolve
from artmodels.settings import config_from

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Placement", "Pretrained", "Resolved", "config_from", "load_tensors", "read_config", "resolve"]

CARD = "README.md"

C = TypeVar("C", bound="DataclassInstance")


class Pretrained(ABC, Generic[C]):
    """Base of the method classes: load, save and push in the Hub's layout.

    A subclass names its configuration, a frozen dataclass, in brackets and as `config_class`. It sets `method`, keeps
    its configuration in `self.config`, and supplies `_build` and, if it has weights, `_tensors`.
    """

    method: ClassVar[str]
    config_class: ClassVar[type[Any]]
    formats: ClassVar[tuple[str, ...]] = (".png", ".jpg", ".jpeg", ".webp")
    """What `save` of a result writes, by the ending of the file."""
    config: C
    _entry: Entry | None = None

    @property
    def largest(self) -> int:
        """Pixels that it takes of a picture whose own size is kept; the command line reduces larger ones to that."""
        return 40_000_000  # what `artmodels.images.load` accepts

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        runtime: str = "torch",
        provider: str | None = None,
        local_files_only: bool = False,
        **overrides: object,
    ) -> Self:
        """Load a checkpoint by name or path.

        Args:
            name_or_path: A folder, a catalogue name, in full or short (`"scream"`), or `owner/name` on the Hub; None is
                the method's default.
            revision: Branch, tag or commit, for `owner/name`. Pin a commit so that others can repeat results.
            device: Where to run; None picks CUDA, then MPS, then CPU.
            dtype: What to compute in; None picks what is fast and exact enough on the device.
            runtime: `"torch"`, or `"onnx"` for a folder that `python -m export` wrote; methods that are not one pass
                of a network have no such graphs.
            provider: For `"onnx"`, what computes: `"cpu"`, `"cuda"` or `"tensorrt"`; None goes by the device.
            local_files_only: Never use the network.
            **overrides: Settings that replace those of the checkpoint's configuration.

        Raises:
            ConfigError: A setting is unknown or wrong, or the checkpoint is another method's.
            WeightsError: The checkpoint is missing, unsafe or not the promised one; see the subclasses.
        """
        if runtime != "torch":
            asked = overrides | {"revision": revision, "dtype": dtype}
            fixed = {key: value for key, value in asked.items() if value is not None}
            return cls._from_graph(name_or_path, runtime, device=device, provider=provider, fixed=fixed)
        if provider is not None:
            raise ConfigError(f"provider={provider!r} is for runtime='onnx'; with PyTorch, device= says where to run.")
        name = catalogue.default(cls.method).name if name_or_path is None else name_or_path
        resolved = resolve(
            name,
            method=cls.method,
            revision=revision,
            local_files_only=local_files_only,
            accept=cls._check_method,
        )
        placement = Placement(device=device, dtype=dtype, local_files_only=local_files_only)
        return cls.from_resolved(resolved, placement, **overrides)

    @classmethod
    def from_resolved(cls, resolved: Resolved, placement: Placement, **overrides: object) -> Self:
        """Load a checkpoint of this method that has been found; see `from_pretrained`."""
        config = cls._configured(resolved.config(), overrides, None if resolved.entry else resolved.folder)
        model = cls._build(config, resolved, placement)
        model._entry = resolved.entry
        return model

    @classmethod
    def _configured(cls, stored: dict[str, Any], overrides: dict[str, object], folder: Path | None) -> C:
        """The configuration of a checkpoint with some settings replaced; an error names the file whose fault it is."""
        fields = {field.name for field in dataclasses.fields(cls.config_class) if field.init}
        for key in overrides.keys() - fields:
            cls._explain(key, fields)
        stored = {key: value for key, value in stored.items() if key not in ("method", "artmodels_version")}
        try:
            config: C = config_from(cls.config_class, stored | overrides)
            return config
        except ConfigError as error:
            kept = {key: value for key, value in stored.items() if key not in overrides}
            if folder is None or not kept or str(error).startswith(str(folder)):
                raise
            try:
                config_from(cls.config_class, kept)
            except ConfigError as own:
                raise ConfigError(f"{folder / CONFIG} does not do: {own}") from None
            raise

    @classmethod
    def _explain(cls, key: str, fields: Collection[str]) -> None:
        """Raise ConfigError where an unknown setting is, or is nearly, an argument of loading or of the call."""
        for name, place in {"__call__": "the call", "from_pretrained": "from_pretrained"}.items():
            arguments = list(signature(getattr(cls, name)).parameters)
            if (hint := suggest(key, arguments)) and not suggest(key, fields):
                raise ConfigError(
                    f"{cls.config_class.__name__} has no setting {short(key)}.{hint} That is an argument of {place}."
                )

    @classmethod
    def _from_graph(
        cls, name_or_path: str | os.PathLike[str] | None, runtime: str, *, fixed: dict[str, object], **place: Any
    ) -> Self:
        """Load an exported graph, if the method has any; `fixed` is what was asked for that a graph cannot change."""
        raise ConfigError(
            f"runtime={runtime!r} is not available for {cls.__name__}, which has no ONNX graph: use runtime='torch'."
        )

    @classmethod
    def _check_method(cls, name: str, method: object) -> None:
        if not isinstance(method, str):
            raise ConfigError(f"The {CONFIG} of {name} names no method: it was not saved by artmodels.")
        catalogue.require_method(name, method, cls.method, cls.__name__)

    @classmethod
    @abstractmethod
    def _build(cls, config: C, resolved: Resolved, placement: Placement) -> Self:
        """Return an instance; `resolved.fill` or `resolved.load` give the weights of a method that has some."""

    @property
    def _name(self) -> str | None:
        """What the catalogue calls the checkpoint; None if it is none of the catalogue's."""
        return self._entry.name if self._entry else None

    def _record(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings as checkpoints and results keep them: with the method and the version."""
        return {"method": self.method, "artmodels_version": __version__} | settings

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Return what `model.safetensors` holds; nothing for a method that is only a configuration."""
        return {}

    def save_pretrained(self, folder: str | os.PathLike[str], *, card: str | None = None) -> Path:
        """Write `config.json`, `model.safetensors` (where there are weights) and `README.md`, all or nothing.

        The folder, which is returned, is new or empty: what is there is never overwritten. `card` is the Markdown of
        the model card, whose front matter is completed where it lacks something; None writes a short one.

        Raises:
            ConfigError: The folder is not empty, or the card's front matter is not valid.
            WeightsError: The files cannot be written.
        """
        target = Path(folder).expanduser().resolve()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"{target} exists and is not an empty folder: choose another, or remove it first.")
        text = self._card(target.name, card)
        with replacing(target, error=WeightsError) as (draft,):
            draft.mkdir(parents=True)
            self._write(draft, text)
            if target.exists():
                target.rmdir()  # it is still empty: what somebody else has written meanwhile is not replaced
        return target

    def _write(self, folder: Path, card: str) -> None:
        config = self._record(dataclasses.asdict(self.config))
        (folder / CONFIG).write_text(json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (folder / CARD).write_text(card, encoding="utf-8")
        tensors = {key: value.detach().cpu().contiguous() for key, value in self._tensors().items()}
        if fault := fault_of(tensors):
            raise WeightsError(
                f"{type(self).__name__} is not saved, since it would not load again: its tensor {fault}."
            )
        if tensors:
            (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))

    def _card(self, name: str, card: str | None) -> str:
        entry = self._entry
        if card is None:
            source = f"Made from `{entry.name}`: {entry.source}.\n\n" if entry else ""
            card = (
                f"\n# {name}\n\nA checkpoint of `{self.method}` for artmodels {__version__}.\n\n{source}"
                f"```python\nimport artmodels\n\n"
                f"model = artmodels.{type(self).__name__}.from_pretrained({name!r})\n```\n"
            )
        try:
            parsed = ModelCard(card if card.lstrip().startswith("---") else f"---\n\n---\n{card}")
            data = cast(ModelCardData, parsed.data)
            # The Hub's identifiers are SPDX in lower case.
            data.license = data.license or (entry.licence.lower() if entry else "unknown")
            data.library_name = data.library_name or "artmodels"
            data.tags = list(dict.fromkeys([*(data.tags or []), "artmodels", self.method.replace("_", "-")]))
            return str(parsed)
        except Exception as error:  # the parser raises YAML's own errors, ValueError and TypeError
            raise ConfigError(f"The card's front matter is not valid: {error}") from error

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        card: str | None = None,
    ) -> str:
        """Upload the checkpoint to a Hub repository `owner/name`.

        It is made if it does not exist, `private` or not. A README that is there already is left as it is; for `card`
        see `save_pretrained`. The commit goes to the branch `revision`, made if needed, or to the main one. The access
        token needs write permission; None takes the one of `hf auth login` or HF_TOKEN.

        Returns:
            The commit: pass it as `revision=` to load exactly this.

        Raises:
            ConfigError: `repo_id` or the card is not valid.
            WeightsError: The Hub refused or did not answer.
        """
        if not REPO.fullmatch(repo_id):
            raise ConfigError(f"{repo_id!r} is not 'owner/name'.")
        api = HfApi(token=token, **LIBRARY)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, repo_id)
            folder.mkdir(parents=True)
            self._write(folder, self._card(repo_id, card))
            try:
                api.create_repo(repo_id, private=private, exist_ok=True)
                if revision is not None:
                    api.create_branch(repo_id, branch=revision, exist_ok=True)
                has_card = api.file_exists(repo_id, CARD, revision=revision)
                commit = api.upload_folder(
                    repo_id=repo_id,
                    folder_path=folder,
                    revision=revision,
                    commit_message=commit_message or f"Upload {self.method} checkpoint",
                    ignore_patterns=[CARD] if has_card else None,
                )
            except (OSError, httpx.HTTPError, RuntimeError) as error:  # the client wraps failed uploads
                raise WeightsError(
                    f"{repo_id} could not be pushed to {constants.ENDPOINT}: {error.__cause__ or error}. "
                    "Check that you are logged in (`hf auth login`) with a token that may write there."
                ) from error
        return commit.oid
