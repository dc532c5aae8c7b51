"""`python -m weights`: build, verify and push this project's own checkpoints, and convert those of others.

Exit codes: 0 done; 1 an error that is explained, or a check that failed; 2 wrong usage.
"""

import inspect
import os
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from huggingface_hub import HfApi, constants
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # the client's own, whichever it is
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from artmodels import runtime
from artmodels.errors import ArtModelsError, ConfigError, WeightsError, suggest
from artmodels.hub import catalogue
from artmodels.hub.resolving import LIBRARY, REPO
from artmodels.methods import class_of
from artmodels.training import Sources, TrainingProgress
from weights import checks, manifest, recipes

app = typer.Typer(
    name="weights",
    help="Build, verify and push this project's own checkpoints; convert those of others.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COLOURS = {"passed": "green", "failed": "bold red", "skipped": "yellow"}

Data = Annotated[Path, typer.Option(help="Folder of images.")]
Teachers = Annotated[Path, typer.Option(help="Folder of networks to learn from.")]
DATA, TEACHERS, WORK = Path("../shared/data"), Path("../shared/teachers"), Path(".weights-work")


@app.callback()
def _recover() -> None:
    recipes.recover()


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="A folder here that has a recipe.toml.")],
    data: Data = DATA,
    teachers: Teachers = TEACHERS,
    steps: Annotated[int | None, typer.Option(min=1, help="Fewer steps, for a trial; needs --out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write, instead of the recipe's own.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Where an interrupted build is kept; .weights-work/NAME by default.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to train; the CPU is what can be repeated bit by bit.")] = "cpu",
) -> None:
    """Train what a recipe says, or go on with it, and write the checkpoint."""
    origin = recipes.find(name)
    if steps is not None and out is None:
        raise typer.BadParameter("a trial must not replace the checkpoint: name a folder for it.", param_hint="--out")
    if out is not None and out.resolve().is_relative_to(recipes.ROOT.resolve()):
        raise typer.BadParameter(f"{out} is among the published checkpoints: choose another.", param_hint="--out")
    place = runtime.pick_device(device)
    target = out.resolve() if out else origin
    with _bar() as bar:
        task = bar.add_task(name, losses="starting", total=None)
        for step in recipes.stream_build(
            origin,
            target,
            Sources(data, teachers, recipes.ROOT),
            steps=steps,
            work=work or WORK / (name if steps is None else f"{name}-{steps}"),
            device=place,
        ):
            if isinstance(step, TrainingProgress):
                losses = " ".join(f"{key} {value:.3g}" for key, value in step.losses.items())
                bar.update(task, completed=step.done, total=step.total, losses=losses)
    metrics = recipes.built(target)[0].metrics
    typer.echo(f"{target}: {', '.join(f'{key} {value:.4g}' for key, value in metrics.items())}")
    found = manifest.facts(target)
    typer.echo(f"sha256 {found['sha256']}, {found['size_mb']:.2f} MB")
    if target == origin:
        typer.echo(f"They are in {manifest.record(target)} now")


@app.command()
def card(names: Annotated[list[str], typer.Argument(help="Checkpoints that have been built.")]) -> None:
    """Write model cards, and entries in the catalogue, again, after their recipes' words have changed."""
    for name in names:
        folder = recipes.find(name)
        recipes.write_card(folder)
        manifest.record(folder)


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Which; all by default.")] = None,
    data: Data = DATA,
    teachers: Teachers = TEACHERS,
    rerun: Annotated[bool, typer.Option(help="Run the first 20 steps of each recipe again.")] = True,
) -> None:
    """Check cards, configurations, bytes and catalogue, and that recipes still give the same first steps."""
    console = Console(markup=False, highlight=False)
    with console.status("") as status:
        done = checks.verify(
            names or (),
            sources=Sources(data, teachers, recipes.ROOT),
            rerun=rerun,
            begin=lambda name, what: status.update(f"{name}: {what}"),
        )
    table = Table("checkpoint", "check", "", "", box=None, padding=(0, 2, 0, 0))
    for check in done:
        table.add_row(check.name, check.what, Text(check.state, COLOURS[check.state]), check.text)
    console.print(table)
    count = {state: sum(check.state == state for check in done) for state in COLOURS}
    console.print(", ".join(f"{number} {state}" for state, number in count.items()))
    if count["failed"]:
        raise typer.Exit(1)


@app.command()
def convert(
    name: Annotated[str, typer.Argument(help='A method, or one of its names that say "converted by you".')],
    file: Annotated[Path, typer.Argument(help="Your download; of one that is never opened, this says what to do.")],
    out: Annotated[Path, typer.Argument(help="Where to write the checkpoint: a new or empty folder.")],
    style: Annotated[str, typer.Option(help="For fast_style, what it paints like: a title and an artist.")] = "",
) -> None:
    """Turn a checkpoint that others published into a folder that loads here."""
    entry = catalogue.find(name)
    method = entry.method if entry else name
    known = sorted(path.stem for path in (recipes.ROOT / "convert").glob("*.py") if catalogue.find_method(path.stem))
    if method not in known:
        hint = suggest(method, known)
        raise typer.BadParameter(f"nothing is converted for {name!r}, only for {', '.join(known)}.{hint}")
    converter = import_module(f"weights.convert.{method}")
    options = {"style": style} if style else {}
    if options.keys() - inspect.signature(converter.convert_file).parameters.keys():
        raise typer.BadParameter(f"{method} takes none.", param_hint="--style")
    converter.convert_file(file, out, **options)
    typer.echo(f'{out}: load it with artmodels.{class_of(method).__name__}.from_pretrained(r"{out}")')


@app.command()
def push(
    name: Annotated[str, typer.Argument(help="A checkpoint that has been built.")],
    repo: Annotated[
        str | None, typer.Option(help="owner/name on the Hub; artmodels/NAME by default, or ARTMODELS_NAMESPACE's.")
    ] = None,
) -> None:
    """Upload a checkpoint's four files to the Hub and print the commit."""
    repo = repo or f"{os.environ.get('ARTMODELS_NAMESPACE', 'artmodels')}/{name}"
    if not REPO.fullmatch(repo):
        raise ConfigError(f"{repo!r} is not 'owner/name'.")
    folder = recipes.find(name)
    found = checks.verify([name], sources=Sources(DATA, TEACHERS, recipes.ROOT), rerun=False)
    faults = [f"{check.what}: {check.text}" for check in found if check.state == "failed"]
    if faults:
        raise WeightsError(f"{name} is not pushed, because python -m weights verify fails: {'; '.join(faults)}")
    api = HfApi(**LIBRARY)
    try:
        api.create_repo(repo, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=list(recipes.FILES),
            commit_message=f"{name} as built by its recipe",
        )
    except (OSError, httpx.HTTPError, RuntimeError) as error:  # the client wraps failed uploads
        raise WeightsError(
            f"{repo} could not be pushed to {constants.ENDPOINT}: {error.__cause__ or error}. Check that you are "
            "logged in (`hf auth login`) with a token that may write there."
        ) from error
    typer.echo(f"{repo} is at {commit.oid}")


def _bar() -> Bar:
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}", markup=False),
        console=Console(stderr=True),
    )


def main() -> None:
    """Run the command line."""
    try:
        app()
    except ArtModelsError as error:
        typer.echo(f"weights: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
