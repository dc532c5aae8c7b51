"""Networks that ours learn from: read from a folder of the user's, never part of the package.

`vgg19_compressed` (collaborative distillation, Wang et al. 2020, arXiv:2003.08436) has 16 times fewer weights than
VGG-19; its taps "aux1_1" … "aux5_1" map its features to VGG-19's own widths. `vgg19_normalised_to_conv3_1` is VGG-19
itself up to relu3_1, rescaled so that activations have mean 1 (Gatys et al. 2015). `resnet50v2_stages1to3_fp16` is a
ResNet-50 with pre-activation (He et al. 2016, arXiv:1603.05027), without its last stage.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from artmodels.errors import ConfigError, MissingWeights
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.networks import NONE, TORCHVISION, Node, convolutions, layout
from artmodels.features.stages import NORM_EPSILON, Convolution, Pool, Pooling, Residual, Stage, Window
from artmodels.hub.checkpoints import load_tensors

__all__ = ["COMPRESSED", "NORMALISED", "RESNET", "load"]

COMPRESSED = "vgg19_compressed"
NORMALISED = "vgg19_normalised_to_conv3_1"
RESNET = "resnet50v2_stages1to3_fp16"

# Widths of the convolutions, block by block; and the width of VGG-19 that an auxiliary layer maps to.
_WIDTHS: dict[str, tuple[tuple[int, ...], ...]] = {
    COMPRESSED: ((16,) * 2, (32,) * 2, (64,) * 4, (128,) * 4, (128,)),
    NORMALISED: ((64,) * 2, (128,) * 2, (256,)),
}
_VGG19 = (64, 128, 256, 512, 512)
_RESNET_BLOCKS = (3, 4, 6)
# The parts of a batch normalisation: in PyTorch, and in the file of the ResNet.
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}


def load(name: str, folder: Path, *, pooling: Pooling = "max") -> FeatureExtractor:
    """One of the three as an extractor.

    A VGG has reflected borders and max pooling, as it was trained, unless `pooling` says otherwise, and taps "relu1_1",
    …; the ResNet has borders of zeros, as it was trained, and the sums after its stages, signed, as "layer1", "layer2"
    and "layer3" (256, 512 and 1024 channels at strides 4, 8 and 16).

    Another name is a ConfigError, a folder that does not hold it MissingWeights, another network's file a WeightsError.
    """
    if name not in (*_WIDTHS, RESNET):
        raise ConfigError(f"There is no teacher {name!r}: choose one of {', '.join((*_WIDTHS, RESNET))}.")
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        raise MissingWeights(f"{file} is missing: name the folder that holds the teachers.")
    return _resnet(file) if name == RESNET else _vgg(file, name, pooling)


def _vgg(file: Path, name: str, pooling: Pooling) -> FeatureExtractor:
    nodes = [Node(Convolution(3, 3, 1, relu=False, key="conv0"), (), -1)]
    inputs, last = 3, 0
    for block, row in enumerate(_WIDTHS[name], start=1):
        if block > 1:
            nodes.append(Node(Pool(inputs, Window(2, 2, 0), pooling), (), last))
            last = len(nodes) - 1
        for index, width in enumerate(row, start=1):
            key = f"conv{block}_{index}"
            nodes.append(Node(Convolution(inputs, width, 3, key=key), (f"relu{block}_{index}",), last))
            inputs, last = width, len(nodes) - 1
            if name == COMPRESSED and index == 1:
                aux = Convolution(width, _VGG19[block - 1], 1, key=f"{key}_aux")
                nodes.append(Node(aux, (f"aux{block}_1",), last))
    layers = list(convolutions(nodes))
    tensors = load_tensors(file, expected=layout(layers), dtype=torch.float32)
    for layer in layers:
        layer.assign(tensors)
    return FeatureExtractor(name, nodes, preprocessing=NONE, padding="reflect")


class _Normalisation(Stage):
    """Batch normalisation that stands before a convolution, where it cannot be folded: gain, shift, ReLU or none."""

    ends_block = False

    def __init__(self, channels: int, *, key: str, relu: bool = True) -> None:
        super().__init__()
        self.windows = ()
        self.channels, self.key, self.relu = channels, key, relu
        self.register_buffer("gain", torch.ones(1, channels, 1, 1))
        self.register_buffer("shift", torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, padding: str) -> Tensor:
        y = torch.addcmul(self.get_buffer("shift"), x, self.get_buffer("gain"))
        return torch.relu(y) if self.relu else y

    def assign(self, tensors: Mapping[str, Tensor]) -> None:
        scale, shift, mean, variance = (tensors[f"{self.key}.{name}"].double() for name in _NORM)
        gain = scale / (variance + NORM_EPSILON).sqrt()
        self.get_buffer("gain").copy_(gain.view(1, -1, 1, 1))
        self.get_buffer("shift").copy_((shift - mean * gain).view(1, -1, 1, 1))


class _PreActivated(Residual):
    """A bottleneck of He et al. 2016 (arXiv:1603.05027, fig. 4e): what is added to the shortcut is not rectified."""

    def __init__(self, norm: _Normalisation, path: Sequence[Convolution], shortcut: Convolution | None) -> None:
        super().__init__(path, shortcut)
        self.norm = norm

    def forward(self, x: Tensor, padding: str) -> Tensor:
        active: Tensor = self.norm(x, padding)
        y = active
        for conv in self.convolutions:
            y = conv(y, padding)
        if padding == "valid":
            # Of the path only the 3 x 3 convolution loses a border, one wide.
            x, active = x[..., 1:-1, 1:-1], active[..., 1:-1, 1:-1]
        carried: Tensor = x if self.shortcut is None else self.shortcut(active, padding)
        return carried.add(y)


def _resnet(file: Path) -> FeatureExtractor:
    stem = Convolution(3, 64, 7, stride=2, key="conv0", norm="batchnorm1")
    nodes = [
        Node(_Normalisation(3, key="batchnorm0", relu=False), (), -1),
        Node(stem, ("stem",), 0),
        Node(Pool(64, Window(3, 2, 1), "max"), (), 1),
    ]
    inputs = 64
    for stage, blocks in enumerate(_RESNET_BLOCKS, start=1):
        # The file numbers convolutions and normalisations by their order in the stage.
        conv = map(f"stage{stage}_conv{{}}".format, count())
        norm = map(f"stage{stage}_batchnorm{{}}".format, count())
        width = 32 << stage
        for block in range(blocks):
            stride = 2 if stage > 1 and block == 0 else 1
            first = _Normalisation(inputs, key=next(norm))
            path = [
                Convolution(inputs, width, 1, key=next(conv), norm=next(norm)),
                Convolution(width, width, 3, stride=stride, key=next(conv), norm=next(norm)),
                Convolution(width, 4 * width, 1, relu=False, bias=False, key=next(conv)),
            ]
            shortcut = None
            if block == 0:
                shortcut = Convolution(inputs, 4 * width, 1, stride=stride, relu=False, bias=False, key=next(conv))
            taps = (f"layer{stage}",) if block == blocks - 1 else ()
            nodes.append(Node(_PreActivated(first, path, shortcut), taps, len(nodes) - 1))
            inputs = 4 * width
    layers = list(convolutions(nodes))
    norms = [m for node in nodes for m in node.stage.modules() if isinstance(m, _Normalisation)]
    shapes = layout(layers) | {f"{norm.key}.{part}": (norm.channels,) for norm in norms for part in _NORM}
    keys = {key: _key_in_file(key) for key in shapes}
    found = load_tensors(file, expected={keys[key]: shape for key, shape in shapes.items()}, dtype=torch.float32)
    tensors = {key: found[theirs] for key, theirs in keys.items()}
    for first in norms:
        first.assign(tensors)
    for layer in layers:
        layer.assign(tensors)
    return FeatureExtractor(RESNET, nodes, preprocessing=TORCHVISION, padding="zeros")


def _key_in_file(key: str) -> str:
    """What the file of the ResNet calls a tensor that PyTorch calls "stage1_batchnorm0.weight"."""
    layer, _, part = key.partition(".")
    return f"{layer}_{_NORM[part] if 'batchnorm' in layer else part}"
