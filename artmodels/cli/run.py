"""`artmodels run METHOD`: its options are the arguments of the method's call and its settings, in their own words."""

import inspect
import json
import os
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from artmodels import images
from artmodels.errors import ArtModelsError, ImageError, suggest
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Method
from artmodels.methods import class_of
from artmodels.settings import helps

__all__ = ["Methods"]

# One run writes one result for each file, and shows its progress.
LEFT_OUT = ("progress", "count")
PANEL = "Settings, which are by default those of the model"


class Methods(TyperGroup):
    """A command for each method that has a page; nothing of a method is imported before it is chosen."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer's own context
        """Name the methods."""
        return sorted(method.id for method in catalogue.methods())

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand:  # noqa: ANN401
        """Find the command of a method."""
        known = self.list_commands(ctx)
        if cmd_name not in known:
            hint = suggest(cmd_name, known)
            raise typer.BadParameter(f"{cmd_name!r} is not one of {', '.join(known)}.{hint}", param_hint="METHOD")
        return _Deferred(cmd_name)


class _Deferred(TyperCommand):
    """What lists show of a command, which is made when it is run."""

    def __init__(self, name: str) -> None:
        self.method = next(method for method in catalogue.methods() if method.id == name)
        super().__init__(name, help=f"{self.method.title}: {self.method.text}")

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:  # noqa: ANN401
        return _command(self.method).make_context(info_name, args, parent, **extra)


def _command(method: Method) -> Any:  # noqa: ANN401 - typer's own command
    model_class = class_of(method.id)
    call = model_class.__call__
    if method.command:
        module, _, name = method.command.partition(":")
        call = getattr(import_module(f"artmodels.methods.{method.id}.{module}"), name)
    signature = inspect.signature(call, eval_str=True)
    _, *arguments = signature.parameters.values()
    arguments = [item for item in arguments if item.kind is not item.VAR_KEYWORD and item.name not in LEFT_OUT]
    formats = getattr(signature.return_annotation, "formats", model_class.formats)
    texts = _described(inspect.getdoc(call) or "")
    parameters = list[inspect.Parameter]()
    pictures = ""
    for item in arguments:
        if item.kind is item.POSITIONAL_OR_KEYWORD and not pictures:
            pictures = item.name
            words = typer.Argument(help=f"{escape(texts.get(item.name, ''))} Several are worked on one by one.")
            parameters.append(_parameter(pictures, list[Path], words))
        else:
            parameters.append(_option(item.name, item.annotation, item.default, texts.get(item.name, "")))
    styles = _styles(method.id) if "styles" not in signature.parameters else {}
    if styles:
        words = typer.Option("--style", help=f"What to paint like: {', '.join(styles)}.")
        parameters.append(_parameter("style", list[str] | None, words, None))
    parameters += _common(method.id, formats)
    names = {parameter.name for parameter in parameters}
    hints, settings = typing.get_type_hints(model_class.config_class), helps(model_class.config_class)
    settings = {name: text for name, text in settings.items() if name not in names}
    # Without a default to show: each model has its own.
    parameters += [_option(name, hints[name], None, text, panel=PANEL) for name, text in settings.items()]

    def run(**given: Any) -> None:
        given = {name: value for name, value in given.items() if value is not None}
        knobs = dict(given.pop("knobs", ()))
        knobs |= {name: given.pop(name) for name in settings if name in given}
        output, sources = given.pop("output"), given.pop(pictures, [])
        name, device = given.pop("name", None), given.pop("device", None)
        if "style" in given:
            name = _styled(method.id, given.pop("style"), name, styles)
        others = [path for value in given.values() for path in (value if isinstance(value, list) else [value])]
        jobs = _jobs(output, sources, [path for path in others if isinstance(path, Path)], formats)
        # A knob of the call is one of this run, not of the model.
        given |= {item.name: knobs.pop(item.name) for item in arguments if item.name in knobs}
        if "progress" in signature.parameters:
            given["progress"] = True
        model = model_class.from_pretrained(name, device=device, **knobs)
        saving = {"quality": given.pop("quality")} if "quality" in given else {}
        most = images.LIMIT if "size" in given else model.largest
        given = {key: _reduced(value, images.LIMIT) for key, value in given.items()}
        _work(partial(call, model), jobs, given, most, saving)

    # typer reads both.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(method.id, help=f"{method.title}: {method.text}")(run)
    return typer.main.get_command(app)


def _common(method: str, formats: Sequence[str]) -> list[inspect.Parameter]:
    """The options that every method has."""
    kinds = _kinds(formats)
    output = typer.Option("--output", "-o", help=f"The {kinds} file to write; for several pictures, a folder.")
    # A report may have the method's name: it is made again at will, and no picture is overwritten by it.
    report = inspect.Parameter.empty if ".png" in formats else Path(f"{method}{formats[0]}")
    name = typer.Option("--name", help="A name that `artmodels list` shows, or a folder; by default the method's own.")
    device = typer.Option("--device", help="cpu, cuda or mps; the fastest by default.")
    knobs = typer.Option(
        "--set", metavar="KEY=VALUE", parser=_setting, help="Any knob of the README's tables; repeat for more."
    )
    quality = typer.Option("--quality", min=1, max=100, help="Of JPEG and WebP; 92 by default.")
    return [
        _parameter("output", Path, output, report),
        *([_parameter("quality", int | None, quality, None)] if ".jpg" in formats else ()),
        _parameter("name", str | None, name, None),
        _parameter("device", str | None, device, None),
        _parameter("knobs", list[str] | None, knobs, None),
    ]


# --- From Python's arguments to options


def _parameter(name: str, kind: Any, words: Any, default: object = inspect.Parameter.empty) -> inspect.Parameter:  # noqa: ANN401
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, words], default=default)


def _option(name: str, hint: Any, default: object, text: str, *, panel: str | None = None) -> inspect.Parameter:  # noqa: ANN401
    """The option of an argument or setting; None, its value where it is not given, leaves Python's own default."""
    kinds = {kind for kind in _alternatives(hint) if kind is not types.NoneType}
    several = any(
        _is_path(item) for kind in kinds for argument in typing.get_args(kind) for item in _alternatives(argument)
    )
    flag = {"target": "onto"}.get(name, name.removesuffix("s") if several else name).replace("_", "-")
    required = default is inspect.Parameter.empty
    if not required and default is not None:
        text += f" [default: {default if isinstance(default, str) else json.dumps(default, default=str)}]"
    words: dict[str, Any] = {"help": escape(text), "rich_help_panel": panel, "show_default": False}
    kind: Any = str
    if several:
        kind = list[Path]
    elif any(map(_is_path, kinds)):
        kind = Path
    elif name in WRITTEN:
        words |= WRITTEN[name]
    elif kinds == {bool}:
        kind, flag = bool, f"{flag}/--no-{flag}"
    elif len(kinds) == 1 and kinds < {int, float, str}:
        (kind,) = kinds
    elif typing.get_origin(hint) is Literal:
        words["metavar"] = "|".join(map(str, typing.get_args(hint)))
    else:
        words |= {"metavar": "JSON", "parser": _value}
    option = typer.Option(f"--{flag}", **words)
    return _parameter(name, kind, option) if required else _parameter(name, kind | None, option, None)


def _alternatives(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401 - an annotation can be any object
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_path(hint: Any) -> bool:  # noqa: ANN401
    kind = typing.get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, os.PathLike)


def _described(doc: str) -> dict[str, str]:
    """What a docstring says of each argument."""
    section = re.search(r"^Args:\n((?: {4}.*\n?|\n)*)", doc, re.MULTILINE)
    found = re.findall(r"^ {4}\**(\w+): ((?:.*\n?)(?: {8}.*\n?)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT, such as 512x384.")
    return int(match[2]), int(match[1])


def _box(text: str) -> tuple[float, float, float, float]:
    match = re.fullmatch(r"([\d.]+),([\d.]+),([\d.]+),([\d.]+)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not X,Y,W,H, such as 120,40,140,160.")
    left, top, width, height = map(float, match.groups())
    return left, top, left + width, top + height


# Arguments that have a way of their own to be written, whatever the method.
WRITTEN: Mapping[str, Mapping[str, Any]] = {
    "size": {"metavar": "WxH", "parser": _size, "help": "Width and height of the result in pixels."},
    "box": {"metavar": "X,Y,W,H", "parser": _box, "help": "Where, in pixels from the top left corner."},
}


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE, such as steps=200.")
    return key, _value(value)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


# --- Models that are styles


def _styles(method: str) -> dict[str, str]:
    """The models of a method that has one for each style, by short names."""
    names = [entry.name for entry in catalogue.list_models(method) if "style" in entry.config]
    return {name.removeprefix(f"{method.replace('_', '-')}-"): name for name in names}


def _styled(method: str, style: list[str], name: str | None, styles: dict[str, str]) -> str:
    models = {full: full for full in styles.values()} | styles
    if len(style) > 1:
        fault = f"{method} takes one style at a time."
    elif name is not None:
        fault = f"--name {name} says already which model: give one of the two."
    elif style[0] not in models:
        fault = f"{style[0]!r} is not a style of {method}: {', '.join(styles)}.{suggest(style[0], styles)}"
    else:
        return models[style[0]]
    raise typer.BadParameter(fault, param_hint="--style")


# --- Files


def _work(
    call: Callable[..., Any],
    jobs: Mapping[Path, list[Path]],
    options: Mapping[str, Any],
    most: int,
    saving: Mapping[str, Any],
) -> None:
    """Write each file; of several, one that fails does not keep the others from their turn.

    Pictures of more than `most` pixels are reduced to that; their notes say so.
    """
    failed = False
    for file, sources in jobs.items():
        try:
            result = call(*(_reduced(source, most) for source in sources), **options)
            result.save(file, **saving)
        except ArtModelsError as error:
            if len(jobs) == 1:
                raise
            typer.echo(f"artmodels: {sources[0]}: {error}", err=True)
            failed = True
            continue
        for note in result.notes:
            typer.echo(f"artmodels: {note}", err=True)
        about = result.summary if hasattr(result, "summary") else f"{result.image.width}x{result.image.height}"
        typer.echo(f"{file}: {about}")
    if failed:
        raise typer.Exit(1)


def _reduced(value: Any, most: int) -> Any:  # noqa: ANN401 - whatever an option gives
    """Load a picture of more pixels than that, reduced; leave anything else as it is."""
    if isinstance(value, list):
        return [_reduced(item, most) for item in value]
    if not isinstance(value, Path) or not value.is_file():
        return value
    try:
        large = images.pixels_in(value) > most
    except ImageError:
        return value  # the method says what is wrong
    return images.load(value, max_pixels=most, shrink=True) if large else value


def _kinds(formats: Sequence[str]) -> str:
    names = dict.fromkeys({".jpg": "JPEG", ".webp": "WebP"}.get(form, form[1:].upper()) for form in formats)
    return " or ".join(names)


def _jobs(output: Path, sources: list[Path], others: list[Path], formats: Sequence[str]) -> dict[Path, list[Path]]:
    """Return, for each file to write, the image it is made of, if any; refuse, before any work, what must not be."""
    if len(sources) < 2:
        jobs = {output: sources}
    else:
        if not output.is_dir():
            raise typer.BadParameter(f"for {len(sources)} images, {output} must be a folder.", param_hint="--output")
        jobs = {output / f"{source.stem}.png": [source] for source in sources}
        if len({str(target).lower() for target in jobs}) < len(sources):
            raise typer.BadParameter("two of the images have the same name.", param_hint="--output")
    for target in jobs:
        _check_output(target, [*sources, *others], formats)
    return jobs


def _check_output(output: Path, inputs: list[Path], formats: Sequence[str]) -> None:
    """Refuse, before any work, an output that could not or must not be written."""
    if output.is_dir():
        fault = f"{output} is a folder: name the file to write in it."
    elif output.suffix.lower() not in formats:
        fault = f"results are {_kinds(formats)}, and {output.name!r} does not end in {' or '.join(formats)}."
    elif not output.parent.is_dir():
        fault = f"there is no folder {output.parent}."
    elif output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
        fault = f"{output} is an input: it would be overwritten."
    else:
        return
    raise typer.BadParameter(fault, param_hint="--output")
