"""ArtMiner's self-supervised tuning on a user's own pictures.

python -m artmodels.methods.artminer.tuning.tune PICTURES TUNED --verdicts verdicts.jsonl
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import save

from artmodels.data import folders
from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.files import write_whole
from artmodels.hub import catalogue
from artmodels.hub.checkpoints import CONFIG, WEIGHTS
from artmodels.methods.artminer.evidence.verdicts import Verdict, VerdictFile
from artmodels.methods.artminer.tuning.train import ArtMinerRecipe, ArtMinerSettings
from artmodels.progress import result_of
from artmodels.runtime.devices import pick_device
from artmodels.training import Sources, TrainingConfig, TrainingProgress, fit

__all__ = ["stream_tune", "tune"]

NOTE = "tuning.json"
RATE = 3e-4  # the paper's 1e-5 is for 15 000 updates
MOMENTUM = 0.5  # the paper's
WARMUP = 10


def stream_tune(
    folder: Path,
    out: Path,
    *,
    steps: int = 300,
    settings: ArtMinerSettings | None = None,
    verdicts: str | os.PathLike[str] | None = None,
    seed: int = 0,
    work: Path | None = None,
    device: torch.device | str | None = None,
) -> Iterator[TrainingProgress | dict[str, float]]:
    """Do what `tune` does as a stream: a step after each update, then what was found."""
    chosen = with_shipped_styles(dataclasses.replace(settings or ArtMinerSettings(), folders=(".",)))
    config = TrainingConfig(steps=steps, seed=seed, rate=RATE, momentum=MOMENTUM, warmup=WARMUP)
    given = list[Verdict]()
    if verdicts is not None:
        if not Path(verdicts).is_file():
            raise DatasetError(f"There is no file of verdicts {verdicts}: name one that the page Find a detail gave.")
        given = VerdictFile(verdicts).history()
    # Checkpoints are found by their names.
    recipe = ArtMinerRecipe(chosen, Sources(data=folder, teachers=Path(), weights=Path()), seed=seed, verdicts=given)
    work = work or out.with_name(f".{out.name}.tuning")
    data = folders.fingerprint(recipe.files)
    identity: dict[str, object] = {"settings": dataclasses.asdict(chosen), "data_sha256": data}
    if recipe.rejected:
        identity["rejected"] = [dataclasses.asdict(pair) for pair in recipe.rejected]
    _claim(work, json.dumps(identity, sort_keys=True))
    yield from fit(recipe, config, folder=work, device=pick_device(device))
    fields, tensors = recipe.checkpoint()
    found = recipe.evaluate()
    out.mkdir(parents=True, exist_ok=True)
    stored = {key: value.cpu().contiguous() for key, value in tensors.items()}
    config_text = json.dumps(fields, indent=2) + "\n"
    write_whole({out / WEIGHTS: save(stored, metadata={"format": "pt"}), out / CONFIG: config_text})
    yield found


def with_shipped_styles(settings: ArtMinerSettings) -> ArtMinerSettings:
    """Settings whose default styles are those of the package: what our own checkpoint learnt from is in no wheel."""
    names = tuple(entry.name for entry in catalogue.list_models("fast_style"))
    if settings.styles == ArtMinerSettings.styles:
        settings = dataclasses.replace(settings, styles=names[2:])
    if settings.judges == ArtMinerSettings.judges:
        settings = dataclasses.replace(settings, judges=names[:2])
    return settings


def tune(
    folder: Path,
    out: Path,
    *,
    steps: int = 300,
    settings: ArtMinerSettings | None = None,
    verdicts: str | os.PathLike[str] | None = None,
    seed: int = 0,
    work: Path | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> dict[str, float]:
    """Tune a backbone to the pictures of a folder, and write a checkpoint that `ArtMiner.from_pretrained` reads.

    About every tenth picture is held out; what `ArtMinerRecipe.evaluate` finds on these is returned. A tuning that was
    interrupted goes on when it is called again.

    Args:
        folder: Of pictures, those in its sub-folders included.
        out: Folder of the checkpoint; files of an earlier one are replaced.
        steps: Updates.
        settings: How; None takes the defaults. `folders` is not used.
        verdicts: A file of them, such as the page Find a detail gives, on pictures named by their path inside `folder`.
            What was judged "no" is a hard negative, and never a positive.
        seed: Of all that is drawn.
        work: Where the state is kept between calls; None takes a hidden folder beside `out`.
        device: Where to compute; None picks CUDA, then MPS, then CPU.
        progress: Show a bar.

    Raises:
        ConfigError: A setting is wrong, or `work` holds a tuning of other pictures, settings or verdicts.
        DatasetError: There are too few pictures, or none in which a detail could be looked for; there is no such file
            of verdicts, it is damaged, or no "no" in it is about two of the pictures.
        WeightsError: The backbone, or the state in `work`, cannot be read.
        ArtModelsError: The checkpoint cannot be written.
    """
    stream = stream_tune(
        folder, out, steps=steps, settings=settings, verdicts=verdicts, seed=seed, work=work, device=device
    )
    return result_of(stream, progress=progress, unit="update")


def _claim(work: Path, identity: str) -> None:
    """Mark a work folder, or see that its mark is this one."""
    work.mkdir(parents=True, exist_ok=True)
    note = work / NOTE
    if note.exists() and note.read_text(encoding="utf-8") != identity:
        raise ConfigError(
            f"{work} belongs to a tuning of other pictures, settings or verdicts: remove it, or name another."
        )
    write_whole({note: identity})


def main(
    folder: Annotated[Path, typer.Argument(help="Of pictures, those in its sub-folders included.")],
    out: Annotated[Path, typer.Argument(help="Folder of the checkpoint.")],
    verdicts: Annotated[
        Path | None, typer.Option(help="Of experts, as the page Find a detail gives them: “no” is a hard negative.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Updates.")] = 300,
    seed: Annotated[int, typer.Option(help="The same seed gives the same weights on a CPU.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or mps; the fastest by default.")] = None,
) -> None:
    """Tune ArtMiner to a folder of pictures; what was interrupted goes on."""
    try:
        found = tune(folder, out, verdicts=verdicts, steps=steps, seed=seed, device=device, progress=True)
    except ArtModelsError as error:
        typer.echo(f"artmodels: {error}", err=True)
        raise typer.Exit(1) from error
    for name, value in found.items():
        typer.echo(f"{name}: {value:.4g}")
    typer.echo(f"{out}: load it with artmodels.ArtMiner.from_pretrained({str(out)!r})")


if __name__ == "__main__":
    typer.run(main)
