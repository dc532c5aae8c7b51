"""Teachers of random weights, under their real names."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from artmodels.features import teachers

REAL = Path(__file__).parents[2] / "shared" / "teachers"
# Each layer in order: its key, its width, and whether a maximum over 2 x 2 pixels comes before it.
LAYERS = {
    teachers.NORMALISED: [
        *[("conv1_1", 64, False), ("conv1_2", 64, False), ("conv2_1", 128, True), ("conv2_2", 128, False)],
        ("conv3_1", 256, True),
    ],
    teachers.COMPRESSED: [
        *[("conv1_1", 16, False), ("conv1_2", 16, False), ("conv2_1", 32, True), ("conv2_2", 32, False)],
        *[("conv3_1", 64, True), ("conv3_2", 64, False), ("conv3_3", 64, False), ("conv3_4", 64, False)],
        *[("conv4_1", 128, True), ("conv4_2", 128, False), ("conv4_3", 128, False), ("conv4_4", 128, False)],
        ("conv5_1", 128, True),
    ],
}
AUXILIARY = {"conv1_1": 64, "conv2_1": 128, "conv3_1": 256, "conv4_1": 512, "conv5_1": 512}


def random_teacher(folder: Path, name: str) -> dict[str, Tensor]:
    """Write a teacher of random weights into a folder, under its real name."""
    rng = torch.Generator().manual_seed(len(name))

    def layer(key: str, inputs: int, outputs: int, kernel: int) -> dict[str, Tensor]:
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=rng) * (2 / (inputs * kernel**2)) ** 0.5
        return {f"{key}.weight": weight, f"{key}.bias": 0.1 * torch.randn(outputs, generator=rng)}

    tensors, inputs = layer("conv0", 3, 3, 1), 3
    for key, width, _ in LAYERS[name]:
        tensors |= layer(key, inputs, width, 3)
        if name == teachers.COMPRESSED and key in AUXILIARY:
            tensors |= layer(f"{key}_aux", width, AUXILIARY[key], 1)
        inputs = width
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / f"{name}.safetensors")
    return tensors
