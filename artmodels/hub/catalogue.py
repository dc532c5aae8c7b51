"""What methods and checkpoints exist: names, sources, licences and, where there are weights, the exact bytes.

The catalogue is data: a `method.toml` in each method's folder, and `features/models.toml` for what describes pictures.
Their keys are the fields of `Method`, and in each table of `[[models]]` those of `Entry` and `Weights`; only `class`
is called `class_name` here. `python -m weights build` writes sha256, size and configuration of what this project
trained. Listing is instant, since nothing heavy is imported. A commit and a sha256 are pinned for each file, so that a
name always means the same bytes, whoever serves them.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import dropwhile
from pathlib import Path
from typing import Any

from artmodels.errors import ConfigError, MissingWeights, short, suggest

__all__ = [
    "Entry",
    "Method",
    "Weights",
    "default",
    "download",
    "find",
    "find_method",
    "get",
    "list_models",
    "manifest",
    "methods",
    "parse",
    "read",
    "require_method",
]

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One pinned file in a Hub repository."""

    repo: str  # `owner/name` on the Hub
    revision: str  # commit, 40 hexadecimal digits; "main" for what is embedded, whose hash is the promise
    sha256: str  # of the file, 64 hexadecimal digits; nothing else ever loads under the entry's name
    size_mb: float  # in megabytes (10^6 bytes), for people deciding whether to download
    filename: str = "model.safetensors"  # at the top of the repository


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name that `from_pretrained` accepts."""

    name: str  # unique, lower case, no slash
    method: str  # its method's id, e.g. "neural_style"; "features" for feature extractors
    summary: str  # one sentence for people choosing
    source: str  # paper or page that describes it
    licence: str  # SPDX identifier of the weights, or of our code where there are none
    # Fields of the method's config dataclass; those that it does not name have their defaults.
    config: Mapping[str, object] = field(default_factory=dict)
    weights: Weights | None = None  # the pinned file; None where the checkpoint is only a configuration
    embedded: bool = False  # whether the folder travels inside the package
    converted: bool = False  # whether the user converts published weights, which are never opened here
    default: bool = False  # whether `from_pretrained()` without a name picks it; one entry a method
    needs: tuple[str, ...] = ()  # names of other entries that it loads; those of its method, unless it has its own
    order: int = 0  # where in lists; that of its method, unless it has its own

    @property
    def short(self) -> str:
        """Its name without the words of its method: `scream` of `fast-style-scream`; else the name."""
        words = self.name.split("-")
        own = list(dropwhile(self.method.split("_").__contains__, words))
        return "-".join(own or words)


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method, or a part of methods that has no page of its own, with its models."""

    id: str  # name of its folder, e.g. "neural_style"; "features" for feature extractors
    class_name: str = ""  # its class, which its package exports; empty for "features"
    title: str = ""  # heading of its page; empty if it has none
    text: str = ""  # what it does, for people choosing among the pages
    source: str = ""  # paper and year, and what was made of it here
    place: int = 0  # where among the pages
    no_graph: str | None = None  # why it has no ONNX graph; None if it has one
    needs: tuple[str, ...] = ()  # names of the entries that its models load, but for those that have their own
    command: str = ""  # `module:function` in its package that `artmodels run` calls; empty for the call of its class
    example: str = 'model("photo.jpg").save("result.png")'  # lines of Python that use a `model` of it, for model cards
    models: tuple[Entry, ...] = ()
    test: Mapping[str, Any] = field(default_factory=dict)  # how the tests call it quickly, see `tests/verbs.py`


def manifest(method: str) -> Path:
    """The file that describes a method, by its id."""
    return PACKAGE / ("features/models.toml" if method == "features" else f"methods/{method}/method.toml")


@cache
def read() -> tuple[Method, ...]:
    """Everything that the manifests say; a test that adds a method replaces this function."""
    methods = (path.parent.name for path in (PACKAGE / "methods").glob("*/method.toml"))
    return tuple(parse(manifest(method)) for method in ("features", *sorted(methods)))


def parse(file: Path) -> Method:
    """Read one manifest, which describes the method of its folder's name."""
    stored = _tuples(tomllib.loads(file.read_text(encoding="utf-8")))
    name = file.parent.name
    common = {"method": name, "needs": stored.get("needs", ()), "order": stored.pop("order", 0)}
    models = tuple(_entry(common | model) for model in stored.pop("models", ()))
    return Method(id=name, class_name=stored.pop("class", ""), models=models, **stored)


def _entry(table: dict[str, Any]) -> Entry:
    pins = {item.name: table.pop(item.name) for item in fields(Weights) if item.name in table}
    if pins and table.get("embedded"):  # it travels inside the package, and is mirrored under its own name on the Hub
        pins = {"repo": f"artmodels/{table['name']}", "revision": "main"} | pins
    return Entry(**table, weights=Weights(**pins) if pins else None)


def _tuples(value: Any) -> Any:  # noqa: ANN401 - whatever TOML holds
    """The same with tuples for lists, as configurations have them."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def methods() -> list[Method]:
    """The methods that have a page, in the order of the pages."""
    return sorted((method for method in read() if method.title), key=lambda method: method.place)


def find_method(method: object) -> Method | None:
    """The method or part with this id, if there is one."""
    return next((found for found in read() if found.id == method), None)


def download(entry: Entry) -> Weights | None:
    """Return what must be fetched before an entry can run, its own weights or those it needs; None if nothing."""
    parts = [entry, *map(get, entry.needs)]
    return next((part.weights for part in parts if part.weights and not part.embedded), None)


def find(name: object, method: str | None = None) -> Entry | None:
    """Return the entry that a name stands for, or None.

    That is a full name, or else the short one of an entry of `method`, or of any, such as `scream`; a short name that
    two methods have stands for none.
    """
    entries = list_models()
    own = [entry for entry in entries if entry.method == method]
    for among, key in ((entries, "name"), (own, "short"), (entries, "short")):
        found = [entry for entry in among if getattr(entry, key) == name]
        if len(found) == 1:
            return found[0]
    return None


def get(name: str, method: str | None = None) -> Entry:
    """Return the entry that `find` gives; MissingWeights names near misses, and how to list what there is."""
    if entry := find(name, method):
        return entry
    among = list_models(method)
    spelled = re.sub(r"[\s_]+", "-", name.strip().lower())
    names = {entry.short: entry.name for entry in among} | {entry.name: entry.name for entry in among}
    hint = suggest(spelled, names, called=names)
    raise MissingWeights(
        f"{name!r} is not in the catalogue.{hint} List what there is with artmodels.list_models() or "
        "`artmodels list`; a repository of the Hub is named 'owner/name', a folder by its path."
    )


def require_method(name: str, found: str, method: str, class_name: str) -> None:
    """Raise ConfigError where a checkpoint is of the method `found`, and `class_name` takes those of `method`."""
    if found == method:
        return
    if found == "features":
        right = "load it with artmodels.features.load"
    elif (known := find_method(found)) is not None:
        right = f"load it with artmodels.{known.class_name}.from_pretrained"
    else:
        right = "this version of artmodels does not have that method"
    raise ConfigError(f"{name} is a checkpoint of {short(found)}, not of {class_name}: {right}.")


def default(method: str) -> Entry:
    """Return the entry that a method loads when no name is given; a ConfigError where there is none."""
    for entry in list_models(method):
        if entry.default:
            return entry
    names = ", ".join(entry.name for entry in list_models(method))
    raise ConfigError(f"Method {method!r} has no default checkpoint: pass one of {names}.")


def list_models(method: str | None = None) -> list[Entry]:
    """Return the catalogue's entries in its order: all, or only those of one method, e.g. `"texture_synthesis"`.

    Hyphens do for underscores. A ConfigError says that no entry has this method, and names near misses.
    """
    method = method and str(method).replace("-", "_")
    entries = sorted((entry for known in read() for entry in known.models), key=lambda entry: entry.order)
    found = [entry for entry in entries if method in (None, entry.method)]
    if not found:
        names = sorted({entry.method for entry in entries})
        hint = suggest(str(method), names)
        raise ConfigError(f"No method is called {method!r}.{hint} There are: {', '.join(names)}.")
    return found
