"""The options of `artmodels run METHOD`: the arguments of the method's call, and its settings, in their own words.

`describe` reads them off the code, which imports PyTorch; `make readme` keeps what it gives in the `options.json` of
the method's folder. So the command line knows, without PyTorch, what may be typed and what may not.
"""

import dataclasses
import inspect
import json
import os
import re
import types
import typing
from collections.abc import Callable
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypeAliasType

from artmodels.hub import catalogue
from artmodels.hub.catalogue import Method
from artmodels.methods import class_of
from artmodels.settings import config_from, helps

__all__ = ["Option", "Options", "call_of", "describe", "options_of", "text_of"]

# One run writes one result for each file, and shows its progress.
LEFT_OUT = ("progress", "count")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """One option."""

    name: str  # of the argument or setting
    flag: str  # without hyphens before it
    kind: str  # "path", "paths", "size", "box", "bool", "int", "float", "str", or "json"
    help: str
    metavar: str | None = None  # what may be given, where help shows another word than the kind's
    required: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What can be asked of a method."""

    formats: tuple[str, ...]  # endings of the files that its results write
    pictures: str  # the argument that takes the files that are worked on one by one; empty if there is none
    pictures_help: str
    progress: bool  # whether its call can show how far it is
    styled: bool  # whether its styles are pictures, and not models
    arguments: tuple[str, ...]  # of the call, `pictures` left out
    call: tuple[Option, ...]
    settings: tuple[Option, ...]
    knobs: tuple[str, ...]  # every setting and argument that `--set` may name


def options_of(method: Method) -> Options:
    """What the method's `options.json` says, or the code where there is no such file."""
    file = _file(method)
    if not file.is_file():
        return describe(method)
    return config_from(Options, json.loads(file.read_text(encoding="utf-8")))


def text_of(method: Method) -> tuple[Path, str]:
    """The `options.json` of a method and what it is to hold."""
    return _file(method), json.dumps(dataclasses.asdict(describe(method)), indent=1, ensure_ascii=False) + "\n"


def _file(method: Method) -> Path:
    return catalogue.manifest(method.id).with_name("options.json")


def call_of(method: Method) -> Callable[..., Any]:
    """What `artmodels run` calls: a function of a model and what is typed."""
    if method.command:
        module, _, name = method.command.partition(":")
        return typing.cast(Callable[..., Any], getattr(import_module(f"artmodels.methods.{method.id}.{module}"), name))
    return typing.cast(Callable[..., Any], class_of(method.id).__call__)


def describe(method: Method) -> Options:
    """Read the options of a method off its code."""
    model_class, call = class_of(method.id), call_of(method)
    signature = inspect.signature(call, eval_str=True)
    _, *arguments = signature.parameters.values()
    arguments = [item for item in arguments if item.kind is not item.VAR_KEYWORD and item.name not in LEFT_OUT]
    texts = _described(inspect.getdoc(call) or "")
    pictures = next((item.name for item in arguments if item.kind is item.POSITIONAL_OR_KEYWORD), "")
    arguments = [item for item in arguments if item.name != pictures]
    asked = [_option(item.name, item.annotation, item.default, texts.get(item.name, "")) for item in arguments]
    names = [item.name for item in arguments]
    hints, texts_of_settings = typing.get_type_hints(model_class.config_class), helps(model_class.config_class)
    # Without a default to show: each model has its own. What `_common` of the command adds hides a setting of its name.
    hidden = {*names, pictures, "output", "name", "device", "style"}
    settings = [
        _option(name, hints[name], None, text) for name, text in texts_of_settings.items() if name not in hidden
    ]
    fields = [field.name for field in dataclasses.fields(model_class.config_class) if field.init]
    return Options(
        formats=getattr(signature.return_annotation, "formats", model_class.formats),
        pictures=pictures,
        pictures_help=texts.get(pictures, ""),
        progress="progress" in signature.parameters,
        styled="styles" in names,
        arguments=tuple(names),
        call=tuple(asked),
        settings=tuple(settings),
        knobs=tuple(dict.fromkeys([*names, *fields])),
    )


def _option(name: str, hint: Any, default: object, text: str) -> Option:  # noqa: ANN401
    """The option of an argument or setting."""
    kinds = {kind for kind in _alternatives(hint) if kind is not types.NoneType}
    several = any(
        _is_path(item) for kind in kinds for argument in typing.get_args(kind) for item in _alternatives(argument)
    )
    required = default is inspect.Parameter.empty
    if not required and default is not None:
        text += f" [default: {default if isinstance(default, str) else json.dumps(default, default=str)}]"
    kind, metavar = "str", None
    if several:
        kind = "paths"
    elif any(map(_is_path, kinds)):
        kind = "path"
    elif name in ("size", "box"):
        kind = name
    elif len(kinds) == 1 and kinds < {bool, int, float, str}:
        (plain,) = kinds
        kind = plain.__name__
    elif typing.get_origin(hint) is Literal:
        metavar = "|".join(map(str, typing.get_args(hint)))
    else:
        kind = "json"
    flag = {"target": "onto"}.get(name, name.removesuffix("s") if several else name).replace("_", "-")
    return Option(name=name, flag=flag, kind=kind, help=text, metavar=metavar, required=required)


def _alternatives(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401 - an annotation can be any object
    if isinstance(hint, TypeAliasType):
        return _alternatives(hint.__value__)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(chain.from_iterable(map(_alternatives, typing.get_args(hint))))
    return (hint,)


def _is_path(hint: Any) -> bool:  # noqa: ANN401
    kind = typing.get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, os.PathLike)


def _described(doc: str) -> dict[str, str]:
    """What a docstring says of each argument."""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)*)", doc, re.MULTILINE)
    found = re.findall(r"^ {4}\**(\w+): ((?:.*\n?)(?: {8}.*\n?)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}
