"""ArtMiner's self-supervised tuning on a user's own pictures."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save

from artmodels import datasets
from artmodels.artminer.train import ArtMinerRecipe, Settings
from artmodels.checkpoints import CONFIG, WEIGHTS
from artmodels.errors import ConfigError
from artmodels.runtime import pick_device
from artmodels.training import Progress, Sources, TrainingConfig, fit

__all__ = ["tune"]

NOTE = "tuning.json"
RATE = 3e-4  # the paper's 1e-5 is for 15 000 updates
MOMENTUM = 0.5  # the paper's
WARMUP = 10


def tune(
    folder: Path,
    out: Path,
    *,
    steps: int = 300,
    settings: Settings | None = None,
    seed: int = 0,
    work: Path | None = None,
    device: torch.device | str | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> dict[str, float]:
    """Tune a backbone to the pictures of a folder, and write a checkpoint that `ArtMiner.from_pretrained` reads.

    About every tenth picture is held out and measured on. A tuning that was interrupted goes on when it is called
    again.

    Args:
        folder: Of pictures, those in its sub-folders included.
        out: Folder of the checkpoint; files of an earlier one are replaced.
        steps: Updates.
        settings: How; None takes the defaults. `folders` is not used.
        seed: Of all that is drawn.
        work: Where the state is kept between calls; None takes a hidden folder beside `out`.
        device: Where to compute; None picks CUDA, then MPS, then CPU.
        report: Called after each update.

    Returns:
        What `ArtMinerRecipe.evaluate` found.

    Raises:
        ConfigError: A setting is wrong, or `work` holds a tuning of other pictures or settings.
        DatasetError: There are too few pictures, or none in which a detail could be looked for.
        WeightsError: The backbone, or the state in `work`, cannot be read.
    """
    chosen = dataclasses.replace(settings or Settings(), folders=(".",))
    config = TrainingConfig(steps=steps, seed=seed, rate=RATE, momentum=MOMENTUM, warmup=WARMUP)
    # Checkpoints are found by their names.
    recipe = ArtMinerRecipe(chosen, Sources(data=folder, teachers=Path(), weights=Path()), seed=seed)
    work = work or out.with_name(f".{out.name}.tuning")
    identity = {"settings": dataclasses.asdict(chosen), "data_sha256": datasets.fingerprint(recipe.files())}
    _claim(work, json.dumps(identity, sort_keys=True))
    for progress in fit(recipe, config, folder=work, device=pick_device(device)):
        report(progress)
    fields, tensors = recipe.checkpoint()
    found = recipe.evaluate()
    out.mkdir(parents=True, exist_ok=True)
    stored = {key: value.cpu().contiguous() for key, value in tensors.items()}
    _replace(out / WEIGHTS, save(stored, metadata={"format": "pt"}))
    _replace(out / CONFIG, (json.dumps(fields, indent=2) + "\n").encode())
    return found


def _claim(work: Path, identity: str) -> None:
    """Mark a work folder, or see that its mark is this one."""
    work.mkdir(parents=True, exist_ok=True)
    note = work / NOTE
    if note.exists() and note.read_text(encoding="utf-8") != identity:
        raise ConfigError(f"{work} belongs to a tuning of other pictures or settings: remove it, or name another.")
    _replace(note, identity.encode())


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_bytes(data)
    draft.replace(path)
