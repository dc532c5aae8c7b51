"""The published weights of RANSAC-Flow, turned into a checkpoint of its fine stage.

A published file holds four state dicts, one of them empty.

    published                               here
    netFeatCoarse.NAME                      encoder.NAME
    netFlowCoarse.NAME                      flow.NAME
    netMatch.NAME                           matchability.NAME
    netFeatCoarse.maxpool.1.filt            - the binomial filter, which the network makes itself
    netFeatCoarse.layerN.0.downsample.0.filt

The files are published as `.pth`, which can run code when opened, so that this never opens them: called with one, it
prints the command that makes safetensors of a download of your own. Then, in a checkout:

    python -m weights convert ransac_flow MegaDepth_Theta1_Eta001_Grad0_0.807.safetensors my-megadepth
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from artmodels.errors import ConfigError, WeightsMismatch
from artmodels.hub.checkpoints import CONFIG, WEIGHTS
from artmodels.methods.ransac_flow.model import FineConfig, FineNetwork
from weights.convert.files import check, tensors_of

__all__ = ["COMMAND", "PUBLISHED", "convert", "convert_file"]

COMMAND = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "save_file({f'{n}.{k}': v.clone() for n, s in d.items() for k, v in s.items()}, sys.argv[2])\""
)
"""With two file names, makes safetensors of a file of state dicts; refuses one that holds anything else."""
PUBLISHED = FineConfig(encoder="published", width=64, heads=(512, 256, 128), corners=True)
PARTS = {"netFeatCoarse": "encoder", "netFlowCoarse": "flow", "netMatch": "matchability"}
FILTERS = {"maxpool.1.filt": 64, "layer2.0.downsample.0.filt": 64, "layer3.0.downsample.0.filt": 128}  # channels


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `FineNetwork(PUBLISHED)` by its own names, less how many batches it was trained on.

    Args:
        state: The tensors of a published file, by the names of its state dicts and their own.

    Raises:
        WeightsMismatch: They are of another network, or not complete, or no numbers.
    """
    with torch.device("meta"):
        network = FineNetwork(PUBLISHED)
    names = {ours: theirs for theirs, ours in PARTS.items()}
    wanted = {}
    for key, value in network.state_dict().items():
        part, _, rest = key.partition(".")
        wanted[f"{names[part]}.{rest}"] = tuple(value.shape)
    filters = {f"netFeatCoarse.{key}": (channels, 1, 3, 3) for key, channels in FILTERS.items()}
    wanted |= filters
    check(state, wanted, "the network of RANSAC-Flow as published")
    line = torch.tensor([1.0, 2.0, 1.0]) / 4
    for key in filters:
        if not torch.equal(state[key].float(), (line[:, None] * line).expand(filters[key])):
            raise WeightsMismatch(f"{key} is not the binomial filter 1 2 1 of the published network: fetch it again.")
    renamed = {}
    for key, value in state.items():
        if key not in filters and value.is_floating_point():
            part, _, rest = key.partition(".")
            renamed[f"{PARTS[part]}.{rest}"] = value.float()
    return renamed


def convert_file(source: Path, folder: Path) -> None:
    """Convert a `.safetensors` file into a checkpoint folder: config.json and model.safetensors.

    Raises:
        UnsafeFormat: The file is not safetensors by name; the message says how to make one of it.
        MissingWeights: There is no such file.
        WeightsMismatch: The file is damaged, or of another network.
        ConfigError: The folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder: choose another, or remove it first.")
    state = tensors_of(source, COMMAND)
    tensors = convert(state)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    config = {"method": "ransac_flow", **dataclasses.asdict(PUBLISHED)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
