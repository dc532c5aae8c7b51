"""Networks that ours learn from: read from a folder of the user's, never part of the package.

`vgg19_compressed` (collaborative distillation, Wang et al. 2020, arXiv:2003.08436) has 16 times fewer weights than
VGG-19; its taps "aux1_1" … "aux5_1" map its features to VGG-19's own widths. `vgg19_normalised_to_conv3_1` is VGG-19
itself up to relu3_1, rescaled so that activations have mean 1 (Gatys et al. 2015).
"""

from pathlib import Path

from artmodels.checkpoints import load_tensors
from artmodels.errors import ConfigError, MissingWeights
from artmodels.features import FeatureExtractor
from artmodels.networks import NONE, Node, convolutions, layout
from artmodels.stages import Convolution, Pool, Window

__all__ = ["COMPRESSED", "NORMALISED", "load"]

COMPRESSED = "vgg19_compressed"
NORMALISED = "vgg19_normalised_to_conv3_1"

# Widths of the convolutions, block by block; and the width of VGG-19 that an auxiliary layer maps to.
_WIDTHS: dict[str, tuple[tuple[int, ...], ...]] = {
    COMPRESSED: ((16,) * 2, (32,) * 2, (64,) * 4, (128,) * 4, (128,)),
    NORMALISED: ((64,) * 2, (128,) * 2, (256,)),
}
_VGG19 = (64, 128, 256, 512, 512)


def load(name: str, folder: Path) -> FeatureExtractor:
    """One of the two as an extractor with max pooling and reflected borders, as it was trained.

    Raises:
        ConfigError: Another name.
        MissingWeights: The folder does not hold it.
        WeightsError: The file is another network's.
    """
    if name not in _WIDTHS:
        raise ConfigError(f"There is no teacher {name!r}: choose one of {', '.join(_WIDTHS)}.")
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        raise MissingWeights(f"{file} is missing: name the folder that holds the teachers.")
    nodes = [Node(Convolution(3, 3, 1, relu=False, key="conv0"), (), -1)]
    inputs, last = 3, 0
    for block, row in enumerate(_WIDTHS[name], start=1):
        if block > 1:
            nodes.append(Node(Pool(inputs, Window(2, 2, 0), "max"), (), last))
            last = len(nodes) - 1
        for index, width in enumerate(row, start=1):
            key = f"conv{block}_{index}"
            nodes.append(Node(Convolution(inputs, width, 3, key=key), (f"relu{block}_{index}",), last))
            inputs, last = width, len(nodes) - 1
            if name == COMPRESSED and index == 1:
                aux = Convolution(width, _VGG19[block - 1], 1, key=f"{key}_aux")
                nodes.append(Node(aux, (f"aux{block}_1",), last))
    layers = list(convolutions(nodes))
    tensors = load_tensors(file, expected=layout(layers))
    for layer in layers:
        layer.assign(tensors)
    return FeatureExtractor(name, nodes, preprocessing=NONE, padding="reflect")
