"""The `artmodels` command: list what there is, run a method on files, start the gallery.

Exit codes: 0 done; 1 an error that artmodels explains; 2 wrong usage; 130 interrupted, nothing half-written.
"""

import dataclasses
import errno
import json
import os
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from artmodels._version import __version__
from artmodels.cli.run import Methods
from artmodels.errors import ArtModelsError, ConfigError
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Entry

__all__ = ["main", "weights_text"]

app = typer.Typer(
    name="artmodels",
    help="Computer-vision methods for art.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PACKAGE = Path(__file__).parents[1]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"artmodels {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="Show it.")] = False,
) -> None:
    """Computer-vision methods for art."""


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
    console = Console()
    widest = max(len(entry.name) for entry in entries)
    for number, known in enumerate(dict.fromkeys(entry.method for entry in entries)):
        columns = [Column(width=widest, no_wrap=True), Column(width=14, no_wrap=True)]
        table = Table(*columns, Column(overflow="fold"), box=None, padding=(0, 2, 0, 0), show_header=False)
        for entry in entries:
            if entry.method == known:
                table.add_row(entry.name, weights_text(entry), entry.summary)
        console.print(("\n" if number else "") + known, style="bold", highlight=False)
        console.print(table)


@app.command()
def info() -> None:
    """Show versions, the device, and where weights are looked for."""
    from huggingface_hub import constants

    from artmodels import runtime

    facts = runtime.versions() | {
        "package": str(_PACKAGE),
        "weights": str(_folder_of("weights") or "none in this install"),
        "cache": constants.HF_HUB_CACHE,
        "hub": constants.ENDPOINT,
        "namespace": os.environ.get("ARTMODELS_NAMESPACE", "not set"),
    }
    for name, value in facts.items():
        typer.echo(f"{name:<10} {value}")


app.add_typer(
    typer.Typer(cls=Methods, pretty_exceptions_enable=False),
    name="run",
    no_args_is_help=True,
    subcommand_metavar="METHOD [FILES] [OPTIONS]",
    help="""Run a method on image files; `artmodels run METHOD --help` shows its options.

    artmodels run texture_synthesis brick.png -o wall.png --size 512x384 --seed 1

    artmodels run neural_style photo.jpg --style painting.jpg -o styled.png

    artmodels run fast_style photo.jpg --style starry-night -o night.png

    artmodels run texture_network --name texture-network-gravel --size 1024x512 -o gravel.png

    artmodels run artminer --query painting.jpg --box 120,40,140,160 --collection pictures -o found.html

    artmodels run ransac_flow engraving.jpg --onto painting.jpg -o aligned.png""",
)


@app.command()
def gallery(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
) -> None:
    """Start the gallery: every method as a page in the browser."""
    import runpy

    if find_spec("gradio") is None:
        raise ConfigError("The gallery needs gradio, which is not installed: pip install 'artmodels[demo]'")
    spaces = _folder_of("spaces")
    if spaces is None:
        raise ConfigError(f"The Spaces are missing from {_PACKAGE}: install artmodels again.")
    _check_address(host, port)
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SERVER_NAME": host, "GRADIO_SERVER_PORT": str(port)}
    typer.echo("Loading PyTorch and the pages: some ten seconds, the first time up to a minute…")
    runpy.run_path(str(spaces / "gallery" / "app.py"), run_name="__main__")


def _check_address(host: str, port: int) -> None:
    """Raise ConfigError where nothing could listen there, before anything is loaded."""
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        fault = "is in use, perhaps by another gallery: stop that, or take" if used else f"cannot be had ({error}): try"
        raise ConfigError(f"{host}:{port} {fault} another (--port, --host; with make PORT=, HOST=).") from None


def weights_text(entry: Entry) -> str:
    """Say what must be fetched before an entry can run, itself or the features that it names."""
    fetched = catalogue.download(entry)
    if fetched is not None:
        return f"{fetched.size_mb:g} MB"
    if entry.embedded:
        return "in the package"
    return "converted by you" if entry.converted else "none needed"


def _folder_of(folder: str) -> Path | None:
    """Find a folder that a checkout has beside the package, and a wheel inside it."""
    checkout = _PACKAGE.parent
    # Installed, the parent is site-packages, whose "spaces" would be someone else's.
    places = [_PACKAGE / f"_{folder}"]
    if (checkout / "pyproject.toml").is_file():
        places.append(checkout / folder)
    return next((place for place in places if place.is_dir()), None)


def main() -> None:
    """Run the command line; the entry point of `artmodels`."""
    try:
        app()
    except ArtModelsError as error:
        typer.echo(f"artmodels: {error}", err=True)
        raise SystemExit(1) from None
