"""The `artmodels` command: list what there is, run a method on files, start the gallery.

Exit codes: 0 done; 1 an error that artmodels explains; 2 wrong usage; 130 interrupted, nothing half-written.
"""

import dataclasses
import inspect
import json
import os
import re
from collections.abc import Container, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from artmodels.errors import ArtModelsError, ConfigError, suggest
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Entry
from artmodels.methods import class_of

__all__ = ["main", "weights_text"]

app = typer.Typer(
    name="artmodels",
    help="Computer-vision methods for art.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PACKAGE = Path(__file__).parents[1]
METHODS = sorted(method.id for method in catalogue.methods())


@app.command("list")
def list_command(
    method: Annotated[str | None, typer.Option("--method", "-m", help="Only this method.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: one JSON array.")] = False,
) -> None:
    """List the models of the catalogue."""
    entries = catalogue.list_models(method)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("name", "method", "weights"):
        table.add_column(column, no_wrap=True)
    table.add_column("what it is")
    for entry in entries:
        table.add_row(entry.name, entry.method, weights_text(entry), entry.summary)
    Console().print(table)


@app.command()
def info() -> None:
    """Show versions, the device, and where weights are looked for."""
    from huggingface_hub import constants

    from artmodels import runtime

    facts = runtime.versions() | {
        "package": str(_PACKAGE),
        "weights": str(_beside("weights") or "none in this install"),
        "cache": constants.HF_HUB_CACHE,
        "hub": constants.ENDPOINT,
        "namespace": os.environ.get("ARTMODELS_NAMESPACE", "not set"),
    }
    for name, value in facts.items():
        typer.echo(f"{name:<10} {value}")


@app.command()
def run(
    method: Annotated[str, typer.Argument(help=" or ".join(METHODS))],
    image: Annotated[
        list[Path] | None,
        typer.Argument(help="The exemplar of a texture, or the picture to work on; several, one by one."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The PNG file to write; for several images, a folder.")
    ] = None,
    style: Annotated[
        list[str] | None,
        typer.Option(help="A picture to take the style from; repeat to mix. For fast_style: a style's name."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="A name that `artmodels list` shows, or a folder.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size of the result.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same picture; 0 by default.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A knob of the README's tables; repeat for more."),
    ] = None,
    deadline: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Stop there with the best result so far.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the fastest by default.")] = None,
    query: Annotated[Path | None, typer.Option(help="For artminer: the picture that shows a detail.")] = None,
    box: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="For artminer: where, in pixels from the top left corner.")
    ] = None,
    collection: Annotated[Path | None, typer.Option(help="For artminer: the folder to look for it in.")] = None,
    onto: Annotated[Path | None, typer.Option(help="For ransac_flow: the picture to bring the image onto.")] = None,
) -> None:
    """Run a method on image files.

    artmodels run texture_synthesis brick.png -o wall.png --size 512x384 --seed 1

    artmodels run neural_style photo.jpg --style painting.jpg -o styled.png

    artmodels run fast_style photo.jpg --style starry-night -o night.png

    artmodels run texture_network --name texture-network-gravel --size 1024x512 -o gravel.png

    artmodels run artminer --query painting.jpg --box 120,40,140,160 --collection pictures -o found.html

    artmodels run ransac_flow engraving.jpg --onto painting.jpg -o aligned.png
    """
    if method not in METHODS:
        hint = suggest(method, METHODS)
        raise typer.BadParameter(f"{method!r} is not one of {', '.join(METHODS)}.{hint}", param_hint="METHOD")
    knobs = dict(map(_setting, settings or []))
    if method == "artminer":
        unused = {
            "IMAGE": image,
            "--style": style,
            "--size": size,
            "--seed": seed,
            "--deadline": deadline,
            "--onto": onto,
        }
        for option, value in unused.items():
            if value is not None:
                raise typer.BadParameter(
                    "artminer takes none: give --query, --box and --collection.", param_hint=option
                )
        _mine(query, box, collection, output or Path("artminer.html"), name=name, device=device, knobs=knobs)
        return
    for option, found in {"--query": query, "--box": box, "--collection": collection}.items():
        if found is not None:
            raise typer.BadParameter(f"{method} takes none: it is for artminer.", param_hint=option)
    if output is None:
        raise typer.BadParameter("name the PNG file to write.", param_hint="--output")
    given = {"seed": seed, "deadline": deadline, "size": None if size is None else _size(size)}

    model_class = class_of(method)
    # What a method can be told is data of the method: the signature of its call.
    parameters = list(inspect.signature(model_class.__call__).parameters.values())
    takes = {parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
    pictured = any(parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for parameter in parameters[1:])
    if pictured != bool(image):
        fault = f"{method} needs a picture." if pictured else f"{method} takes no pictures."
        raise typer.BadParameter(fault, param_hint="IMAGE")
    target = any(parameter.name == "target" for parameter in parameters)
    if target != bool(onto):
        fault = f"{method} needs a picture." if target else f"{method} takes none: it is for ransac_flow."
        raise typer.BadParameter(fault, param_hint="--onto")
    others = [Path(path) for path in style or []] + ([onto] if onto else [])
    jobs = _jobs(output, image or [], others, model_class.formats)
    options = _options(method, takes, given)
    # A file is one result: no lists of them, and no bar for each.
    options |= {key: knobs.pop(key) for key in (takes - given.keys() - {"progress", "count"}) & knobs.keys()}
    if any(parameter.name == "styles" for parameter in parameters):
        if not style:
            raise typer.BadParameter(f"{method} needs at least one picture.", param_hint="--style")
        options["styles"] = style
    elif style:
        name = _styled(method, style, name)

    if "progress" in takes:
        options["progress"] = True
    model = model_class.from_pretrained(name, device=device, **knobs)
    failed = False
    for file, sources in jobs.items():
        try:
            result = model(*sources, *([onto] if onto else []), **options)
            result.save(file)
            typer.echo(f"{file}: {result.image.width}x{result.image.height}")
        except ArtModelsError as error:
            if len(jobs) == 1:
                raise
            typer.echo(f"artmodels: {sources[0]}: {error}", err=True)
            failed = True
    if failed:
        raise typer.Exit(1)


@app.command()
def gallery(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
) -> None:
    """Start the gallery: every method as a page in the browser."""
    import runpy

    if find_spec("gradio") is None:
        raise ConfigError("The gallery needs gradio, which is not installed: pip install 'artmodels[demo]'")
    spaces = _beside("spaces")
    if spaces is None:
        raise ConfigError(f"The Spaces are missing from {_PACKAGE}: install artmodels again.")
    os.environ |= {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_NAME": host,
        "GRADIO_SERVER_PORT": str(port),
    }
    typer.echo(f"The gallery starts on http://{host}:{port} (Ctrl-C stops it)")
    runpy.run_path(str(spaces / "gallery" / "app.py"), run_name="__main__")


def _mine(
    query: Path | None,
    box: str | None,
    collection: Path | None,
    output: Path,
    *,
    name: str | None,
    device: str | None,
    knobs: dict[str, Any],
) -> None:
    """Look for a detail in a folder, print what was found, and write it as a page."""
    for option, value in {"--query": query, "--box": box, "--collection": collection}.items():
        if value is None:
            raise typer.BadParameter("artminer needs it.", param_hint=option)
    assert query is not None and box is not None and collection is not None  # noqa: S101 - for the type checker
    numbers = re.fullmatch(r"([\d.]+),([\d.]+),([\d.]+),([\d.]+)", box)
    if numbers is None:
        raise typer.BadParameter(f"{box!r} is not X,Y,W,H, such as 120,40,140,160.", param_hint="--box")
    if output.suffix.lower() not in (".html", ".htm") or not output.parent.is_dir():
        raise typer.BadParameter(
            f"the report is an HTML file in a folder that exists, not {output}.", param_hint="--output"
        )
    left, top, width, height = (float(number) for number in numbers.groups())

    command = import_module("artmodels.methods.artminer.command")  # other commands are to start at once
    miner = class_of("artminer").from_pretrained(name, device=device, **knobs)
    held = command.collection_of(collection, miner, progress=True)
    for file, reason in held.skipped.items():
        typer.echo(f"artmodels: {file} was skipped: {reason}", err=True)
    found = command.search_folder(query, (left, top, width, height), held, miner)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("rank", "picture", "x,y,w,h", "score", "cells", "turned"):
        table.add_column(column, justify="right" if column in ("rank", "score", "cells") else "left")
    for rank, hit in enumerate(found.hits[:20], start=1):
        x, y, right, bottom = hit.box
        cells = "" if hit.match is None else str(len(hit.match.similarity))
        place = f"{x:.0f},{y:.0f},{right - x:.0f},{bottom - y:.0f}"
        table.add_row(str(rank), hit.image, place, f"{hit.score:.3f}", cells, hit.view)
    Console().print(table)
    command.write_report(output, query, found, held, miner)
    typer.echo(f"{output}: {min(len(found.hits), 50)} of {len(found.hits)} places in {len(held)} pictures")


def weights_text(entry: Entry) -> str:
    """Say what must be fetched before an entry can run, itself or the features that it names."""
    fetched = catalogue.download(entry)
    if fetched is not None:
        return f"{fetched.size_mb:g} MB"
    if entry.embedded:
        return "in the package"
    return "converted by you" if entry.converted else "none needed"


def _beside(folder: str) -> Path | None:
    """Find a folder that a checkout has beside the package, and a wheel inside it."""
    checkout = _PACKAGE.parent
    # Installed, the parent is site-packages, whose "spaces" would be someone else's.
    places = [
        _PACKAGE / f"_{folder}",
        *([checkout / folder] if (checkout / "pyproject.toml").is_file() else []),
    ]
    return next((place for place in places if place.is_dir()), None)


def _styled(method: str, style: list[str], name: str | None) -> str:
    """Return the model of a method that has one for each style."""
    prefix = method.replace("_", "-") + "-"
    short = [entry.name.removeprefix(prefix) for entry in catalogue.list_models(method) if "style" in entry.config]
    if not short:
        fault = f"{method} takes none."
    elif len(style) > 1:
        fault = f"{method} takes one style at a time."
    elif name is not None:
        fault = f"--name {name} says already which model: give one of the two."
    elif style[0].removeprefix(prefix) not in short:
        hint = suggest(style[0], short)
        fault = f"{style[0]!r} is not a style of {method}: {', '.join(short)}.{hint}"
    else:
        return prefix + style[0].removeprefix(prefix)
    raise typer.BadParameter(fault, param_hint="--style")


def _options(method: str, takes: Container[str], given: Mapping[str, object]) -> dict[str, object]:
    """Return the options that were given, all of which the method takes."""
    options = {key: value for key, value in given.items() if value is not None}
    for key in options:
        if key not in takes:
            raise typer.BadParameter(f"{method} takes none.", param_hint=f"--{key}")
    return options


def _jobs(output: Path, sources: list[Path], others: list[Path], formats: tuple[str, ...]) -> dict[Path, list[Path]]:
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


def _check_output(output: Path, inputs: list[Path], formats: tuple[str, ...]) -> None:
    """Refuse, before any work, an output that could not or must not be written."""
    if output.is_dir():
        fault = f"{output} is a folder: name the file to write in it."
    elif output.suffix.lower() not in formats:
        kinds = " or ".join(form[1:].upper() for form in formats)
        fault = f"results are {kinds}, and {output.name!r} does not end in {' or '.join(formats)}."
    elif not output.parent.is_dir():
        fault = f"there is no folder {output.parent}."
    elif output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
        fault = f"{output} is an input: it would be overwritten."
    else:
        return
    raise typer.BadParameter(fault, param_hint="--output")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT, such as 512x384.", param_hint="--size")
    return int(match[2]), int(match[1])


def _setting(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE, such as steps=200.", param_hint="--set")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, {"True": True, "False": False, "None": None}.get(value, value)


def main() -> None:
    """Run the command line; the entry point of `artmodels`."""
    try:
        app()
    except ArtModelsError as error:
        typer.echo(f"artmodels: {error}", err=True)
        raise SystemExit(1) from None
