"""`artmodels run METHOD`: a command made of the method's options; what is typed is checked before PyTorch is loaded."""

import inspect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from artmodels.cli import jobs
from artmodels.cli.options import Option, Options, call_of, options_of
from artmodels.errors import ConfigError, suggest
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Method
from artmodels.methods import class_of

__all__ = ["Methods"]

PANEL = "Settings, which are by default those of the model"


class Methods(TyperGroup):
    """A command for each method that has a page; nothing of a method is imported before its command is run."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer's own context
        """Name the methods."""
        return sorted(method.id for method in catalogue.methods())

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand:  # noqa: ANN401
        """Find the command of a method; hyphens do for underscores."""
        known, name = self.list_commands(ctx), cmd_name.replace("-", "_")
        if name not in known:
            hint = suggest(name, known)
            raise typer.BadParameter(f"{cmd_name!r} is not one of {', '.join(known)}.{hint}", param_hint="METHOD")
        return _Deferred(name)


class _Deferred(TyperCommand):
    """What lists show of a command, which is made when it is run."""

    def __init__(self, name: str) -> None:
        self.method = next(method for method in catalogue.methods() if method.id == name)
        super().__init__(name, help=f"{self.method.title}: {self.method.text}")

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:  # noqa: ANN401
        return _command(self.method).make_context(info_name, args, parent, **extra)


def _command(method: Method) -> Any:  # noqa: ANN401 - typer's own command
    options = options_of(method)
    parameters = list[inspect.Parameter]()
    if options.pictures:
        text = f"{escape(options.pictures_help)} Several, or a folder, are worked on one by one."
        parameters.append(_parameter(options.pictures, list[Path], typer.Argument(help=text)))
    parameters += map(_option, options.call)
    styles = {} if options.styled else _styles(method.id)
    if styles:
        words = typer.Option("--style", help=f"What to paint like: {', '.join(styles)}.")
        parameters.append(_parameter("style", list[str] | None, words, None))
    parameters += _common(method.id, options)
    parameters += [_option(option, panel=PANEL) for option in options.settings]

    def run(**given: Any) -> None:
        given = {name: value for name, value in given.items() if value is not None}
        knobs = dict(given.pop("knobs", ()))
        for key in knobs:
            if key not in options.knobs:
                hint, known = suggest(key, options.knobs), ", ".join(options.knobs)
                raise ConfigError(f"{method.id} has no knob {key!r}.{hint} It has: {known}.")
        knobs |= {option.name: given.pop(option.name) for option in options.settings if option.name in given}
        output, sources = given.pop("output"), given.pop(options.pictures, [])
        name, device, again = given.pop("name", None), given.pop("device", None), given.pop("overwrite", False)
        if "style" in given and styles:
            name = _styled(method.id, given.pop("style"), name, styles)
        _check_name(name, method)
        others = [path for value in given.values() for path in (value if isinstance(value, list) else [value])]
        others = [path for path in others if isinstance(path, Path)]
        kind, lossy = given.pop("format", None), "quality" in given
        todo = jobs.plan(output, sources, others, options.formats, kind=kind, lossy=lossy, again=again)
        # A knob of the call is one of this run, not of the model.
        given |= {name: knobs.pop(name) for name in options.arguments if name in knobs}
        if options.progress:
            given["progress"] = True
        saving = {"quality": given.pop("quality")} if "quality" in given else {}
        jobs.work(lambda: _caller(method, name, device, knobs, given), todo, saving)

    # typer reads both.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(method.id, help=f"{method.title}: {method.text}")(run)
    return typer.main.get_command(app)


def _caller(
    method: Method, name: str | None, device: str | None, settings: Mapping[str, object], given: Mapping[str, Any]
) -> Callable[..., Any]:
    """Load the model; what is returned runs it on pictures, which it reduces first if they are too large."""
    from artmodels import images

    model = class_of(method.id).from_pretrained(name, device=device, **settings)
    call, most = partial(call_of(method), model), images.LIMIT if "size" in given else model.largest
    options = {key: jobs.reduced(value, images.LIMIT) for key, value in given.items()}
    return lambda *sources: call(*(jobs.reduced(source, most) for source in sources), **options)


def _common(method: str, options: Options) -> list[inspect.Parameter]:
    """The options that every method has."""
    kinds = jobs.kinds(options.formats)
    where = "; for several pictures, a folder, which is made" if options.pictures else ""
    output = typer.Option("--output", "-o", help=f"The {kinds} file to write{where}.")
    # A report may have the method's name: it is made again at will, and no picture is overwritten by it.
    report = inspect.Parameter.empty if ".png" in options.formats else Path(f"{method}{options.formats[0]}")
    overwrite = typer.Option(
        "--overwrite", help="Of several pictures, make those again whose results are in the folder already."
    )
    name = typer.Option(
        "--name", help="A name that `artmodels list` shows, in full or short, or a folder; by default the method's own."
    )
    device = typer.Option("--device", help="cpu, cuda or mps; the fastest by default.")
    knobs = typer.Option(
        "--set", metavar="KEY=VALUE", parser=_setting, help="Any knob of the README's tables; repeat for more."
    )
    form = typer.Option(
        "--format",
        metavar="|".join(ending[1:] for ending in options.formats),
        parser=partial(_ending, options.formats),
        help=f"Of several pictures, the kind of file; by default {options.formats[0][1:]}. Those of another kind that "
        "are in the folder stay, and do not count as made.",
    )
    quality = typer.Option("--quality", min=1, max=100, help="Of JPEG and WebP; 92 by default.")
    return [
        _parameter("output", Path, output, report),
        *([_parameter("overwrite", bool, overwrite, False)] if options.pictures else []),
        *([_parameter("format", str | None, form, None)] if options.pictures and len(options.formats) > 1 else []),
        *([_parameter("quality", int | None, quality, None)] if ".jpg" in options.formats else []),
        _parameter("name", str | None, name, None),
        _parameter("device", str | None, device, None),
        _parameter("knobs", list[str] | None, knobs, None),
    ]


# --- From options to what typer reads


def _parameter(name: str, kind: Any, words: Any, default: object = inspect.Parameter.empty) -> inspect.Parameter:  # noqa: ANN401
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, words], default=default)


def _option(option: Option, *, panel: str | None = None) -> inspect.Parameter:
    """The parameter of an option; None, its value where it is not given, leaves Python's own default."""
    words: dict[str, Any] = {"help": escape(option.help), "rich_help_panel": panel, "show_default": False}
    words |= WRITTEN.get(option.kind, {})
    if option.metavar:
        words["metavar"] = option.metavar
    flag = f"--{option.flag}/--no-{option.flag}" if option.kind == "bool" else f"--{option.flag}"
    kind = KINDS.get(option.kind, str)
    made = typer.Option(flag, **words)
    return _parameter(option.name, kind, made) if option.required else _parameter(option.name, kind | None, made, None)


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


def _ending(formats: Sequence[str], text: str) -> str:
    ending = f".{text.lower().removeprefix('.')}"
    if ending not in formats:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(known[1:] for known in formats)}.")
    return ending


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


KINDS: Mapping[str, Any] = {"bool": bool, "int": int, "float": float, "path": Path, "paths": list[Path]}
WRITTEN: Mapping[str, Mapping[str, Any]] = {
    "size": {"metavar": "WxH", "parser": _size, "help": "Width and height of the result in pixels."},
    "box": {"metavar": "X,Y,W,H", "parser": _box, "help": "Where, in pixels from the top left corner."},
    "json": {"metavar": "JSON", "parser": _value},
}


# --- Names


def _check_name(name: str | None, method: Method) -> None:
    """Refuse a name that no model of the method has; folders and repositories are looked at when they are loaded."""
    if name is None or "/" in name or os.sep in name or Path(name).expanduser().is_dir():
        return
    if not os.environ.get("ARTMODELS_NAMESPACE"):
        catalogue.require_method(name, catalogue.get(name, method.id).method, method.id, method.class_name)


def _styles(method: str) -> dict[str, str]:
    """The models of a method that has one for each style, by short names."""
    return {entry.short: entry.name for entry in catalogue.list_models(method) if "style" in entry.config}


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
