"""`python -m export`: graphs for ONNX Runtime and Triton, checked; `python -m export bench`: how fast they are."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from artmodels.errors import ArtModelsError
from artmodels.hub import catalogue
from artmodels.runtime.graphs import SIDECAR
from export import bench, folder

app = typer.Typer(name="python -m export", add_completion=False, pretty_exceptions_enable=False)
timing = typer.Typer(name="python -m export bench", add_completion=False, pretty_exceptions_enable=False)
Names = Annotated[list[str] | None, typer.Argument(help="Names of the catalogue, or folders of checkpoints.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the folders go; it is a Triton model repository.")]


@app.command(epilog="`python -m export bench NAME...` measures how fast they are.")
def main(
    names: Names = None,
    out: Out = Path("build/export"),
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16; refused below 45 dB.")] = False,
    uint8: Annotated[bool, typer.Option("--uint8", help="Bytes in and out instead of floats in [0, 1].")] = False,
    every: Annotated[bool, typer.Option("--all", help="Everything in the catalogue that has a graph.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check what lies in --out again, or NAMES in it.")] = False,
) -> None:
    """Export checkpoints to ONNX, each checked against PyTorch and written whole or not at all."""
    chosen = list(names or [])
    if bool(chosen) + every > 1 or not (chosen or every or check):
        raise typer.BadParameter("give names, or --all for all of the catalogue.", param_hint="NAMES")
    if check:
        folders = [out / name for name in chosen] or sorted(path.parent for path in out.glob(f"[!.]*/{SIDECAR}"))
        if not folders:
            raise typer.BadParameter(f"there is no exported folder in {out}.", param_hint="--out")
        whole = dict.fromkeys(path for main in folders for path in folder.with_companions(main))
        done = [_report(str(path), partial(_checked, path)) for path in whole]
        raise typer.Exit(0 if all(done) else 1)
    if every:
        for entry in catalogue.list_models():
            if not folder.has_graph(entry.method):
                typer.echo(f"{entry.name}: has no graph ({entry.method})")
        chosen = [entry.name for entry in catalogue.list_models() if folder.has_graph(entry.method)]
    done = [_report(name, partial(folder.export, name, out, half=fp16, uint8=uint8)) for name in chosen]
    raise typer.Exit(0 if all(done) else 1)


def _checked(path: Path) -> dict[Path, list[folder.Measured]]:
    return {path: folder.check(path)}


def _report(name: str, action: Callable[[], dict[Path, list[folder.Measured]]]) -> bool:
    """Do one of several, and say how it went, so that a failure does not keep the others from their turn."""
    try:
        written = action()
    except ArtModelsError as error:
        typer.echo(f"{name}: {error}", err=True)
        return False
    for path, rows in written.items():
        largest, least = max(row.max_abs for row in rows), min(row.psnr for row in rows)
        typer.echo(f"{path}: largest difference from PyTorch {largest:.1e}, PSNR {least:.0f} dB at least")
    return True


@timing.command()
def time(
    names: Names = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes, one run: does it work?")] = False,
) -> None:
    """Time checkpoints with PyTorch and ONNX Runtime, beside the fastest that this machine multiplies."""
    if not names:
        raise typer.BadParameter("give at least one.", param_hint="NAMES")
    console = Console()
    for name in names:
        try:
            tables = bench.run(name, quick=quick)
        except ArtModelsError as error:
            typer.echo(f"{name}: {error}", err=True)
            raise typer.Exit(1) from None
        for title, rows in tables.items():
            table = Table(title=title, box=None, padding=(0, 2, 0, 0))
            for column in bench.COLUMNS:
                table.add_column(column, justify="left" if column in ("runtime", "note") else "right", no_wrap=True)
            for row in rows:
                table.add_row(*row.cells())
            console.print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["bench"]:
        timing(sys.argv[2:])
    app()
