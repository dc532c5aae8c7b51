"""The named networks: how their stages are put together, what their weights expect and how a file holds them.

Sources: VGG (Simonyan & Zisserman 2015) and ResNet (He et al. 2016) as torchvision builds them; random filters after
Ustyuzhaninov et al. 2016, "Texture Synthesis Using Shallow Convolutional Networks with Random Filters".
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, get_args

import torch
from annotated_types import Interval
from torch import Tensor, nn

from artmodels.errors import ConfigError, one_of
from artmodels.features.stages import (
    Convolution,
    Halving,
    Patches,
    Pool,
    Pooling,
    RandomFilters,
    Residual,
    Stage,
    Window,
)
from artmodels.settings import Positive, Settings

__all__ = [
    "CAFFE",
    "CENTRED",
    "Depth",
    "MOST_BLOCKS",
    "NONE",
    "TORCHVISION",
    "TRAINED",
    "WEIGHT_FREE",
    "ART_RESNET_TAPS",
    "ART_VGG_TAPS",
    "Node",
    "Preprocessing",
    "WIDEST",
    "Width",
    "art_resnet_nodes",
    "art_vgg_nodes",
    "checkpoint_layout",
    "convolutions",
    "folded",
    "layout",
    "named_nodes",
    "randomise",
    "resnet_nodes",
    "vgg_nodes",
]


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Settings):
    """What one family of weights expects: `(image * scale - mean) / std`, channels in the network's order."""

    bgr: Annotated[bool, "Whether the network reads blue, green, red."] = False
    scale: Annotated[float, "Largest pixel value that the network was trained with: 1 or 255."] = 1.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)


NONE = Preprocessing()
TORCHVISION = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CAFFE = Preprocessing(bgr=True, scale=255.0, mean=(103.939, 116.779, 123.68))
CENTRED = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@dataclass(frozen=True)
class Node:
    """A stage in its place: the taps that name it, and the index of the stage it reads (-1: the image)."""

    stage: Stage
    taps: tuple[str, ...]
    source: int


VGG_WIDTHS = {
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
RESNET_BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}
PATCH_SIZES = (3, 5, 7, 11)
# The paper's filter size: (kernel, halvings of the image before it), which spans kernel * 2^halvings pixels.
FILTER_SIZES = {
    3: (3, 0), 5: (5, 0), 7: (7, 0), 11: (11, 0), 15: (7, 1), 23: (11, 1), 37: (9, 2), 55: (7, 3)
}  # fmt: skip

WIDEST = 2**14  # channels of a layer that a configuration may ask for: networks have some thousands
Width = Annotated[int, Interval(ge=1, le=WIDEST)]
MOST_BLOCKS = 128  # of a network, likewise
Depth = Annotated[int, Interval(ge=1, le=MOST_BLOCKS)]

ART_VGG = "art-vgg"
ART_VGG_WIDTHS = ((16, 16), (32, 32), (64, 64, 64), (128, 128, 128), (128,))
ART_VGG_TAPS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")

ART_RESNET = "art-resnet"
ART_RESNET_BLOCKS = (2, 2, 2)
ART_RESNET_TAPS = ("layer1", "layer2", "layer3")

TRAINED = (*VGG_WIDTHS, *RESNET_BLOCKS, ART_VGG, ART_RESNET)
WEIGHT_FREE = ("random-filters", "patches")
NETWORKS = (*TRAINED, *WEIGHT_FREE)
# torchvision's classifier -> timm's, which applies it as convolutions over a grid of features
VGG_HEAD = {
    "classifier.0": ("pre_logits.fc1", (7, 7)),
    "classifier.3": ("pre_logits.fc2", (1, 1)),
    "classifier.6": ("head.fc", ()),
}


def vgg_nodes(widths: Sequence[Sequence[int]], pooling: str) -> list[Node]:
    """A VGG of any widths, one row a block: taps relu1_1, relu1_2, …, pool1, …; torchvision's keys."""
    nodes: list[Node] = []
    inputs, position = 3, 0
    for block, row in enumerate(widths, start=1):
        for layer, width in enumerate(row, start=1):
            conv = Convolution(inputs, width, 3, key=f"features.{position}")
            nodes.append(Node(conv, (f"relu{block}_{layer}",), len(nodes) - 1))
            inputs, position = width, position + 2
        nodes.append(Node(Pool(inputs, Window(2, 2, 0), pooling), (f"pool{block}",), len(nodes) - 1))
        position += 1
    return nodes


def art_vgg_nodes() -> list[Node]:
    """Our own small VGG: taps relu1_1, relu2_1, relu3_1, relu4_1, relu4_2 and relu5_1, average pooling.

    A tap is a square 1 x 1 map of its layer, R with RᵀR in proportion to HᵀH for the head H that maps the layer to
    VGG-19's own width. Distances between features, and between Gram matrices, are then in proportion to those of H's
    many channels at the price of the layer's few: ‖R G Rᵀ‖ ~ ‖H G Hᵀ‖ in the Frobenius norm. See
    `artmodels.methods.art_vgg`.
    """
    nodes: list[Node] = []
    inputs, last = 3, -1
    for block, row in enumerate(ART_VGG_WIDTHS, start=1):
        if block > 1:
            nodes.append(Node(Pool(inputs, Window(2, 2, 0), "avg"), (), last))
            last = len(nodes) - 1
        for layer, width in enumerate(row, start=1):
            nodes.append(Node(Convolution(inputs, width, 3, key=f"conv{block}_{layer}"), (), last))
            inputs, last = width, len(nodes) - 1
            if (tap := f"relu{block}_{layer}") in ART_VGG_TAPS:
                head = Convolution(width, width, 1, relu=False, bias=False, key=f"head{block}_{layer}")
                nodes.append(Node(head, (tap,), last))
    return nodes


def resnet_nodes(
    blocks: Sequence[int], *, bottleneck: bool, layer_class: type[Convolution] = Convolution
) -> list[Node]:
    """A ResNet: taps stem, maxpool, layer1.0, layer1.1, …; "layer1" is another name of its last block."""
    stem = layer_class(3, 64, 7, stride=2, key="conv1", norm="bn1")
    nodes = [Node(stem, ("stem",), -1), Node(Pool(64, Window(3, 2, 1), "max"), ("maxpool",), 0)]
    inputs = 64
    for layer, count in enumerate(blocks, start=1):
        for block in range(count):
            width, name = 32 << layer, f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            # Kernel, width and stride along the path; the stride sits on the 3 x 3, as torchvision has it.
            plan = [(3, width, stride), (3, width, 1)]
            if bottleneck:
                plan = [(1, width, 1), (3, width, stride), (1, 4 * width, 1)]
            path, channels = list[Convolution](), inputs
            for i, (kernel, outputs, step) in enumerate(plan, start=1):
                key, norm, relu = f"{name}.conv{i}", f"{name}.bn{i}", i < len(plan)
                path.append(layer_class(channels, outputs, kernel, stride=step, relu=relu, key=key, norm=norm))
                channels = outputs
            shortcut = None
            if stride > 1 or channels != inputs:
                key, norm = f"{name}.downsample.0", f"{name}.downsample.1"
                shortcut = layer_class(inputs, channels, 1, stride=stride, relu=False, key=key, norm=norm)
            taps = (name, f"layer{layer}") if block == count - 1 else (name,)
            nodes.append(Node(Residual(path, shortcut), taps, len(nodes) - 1))
            inputs = channels
    return nodes


def art_resnet_nodes(layer_class: type[Convolution] = Convolution) -> list[Node]:
    """Our own backbone: ResNet-18 without its last stage; taps layer1, layer2 and layer3, at strides 4, 8 and 16.

    A tap is a square 1 x 1 map of its stage, R with RᵀR in proportion to HᵀH for the head H that maps the stage to the
    teacher's channels: inner products and cosines between features are those of H's many channels, but for one factor.
    See `artmodels.methods.art_resnet`. `layer_class` is what the convolutions of the stages are made of: training has
    one that normalises.
    """
    nodes: list[Node] = []
    last = -1
    for node in resnet_nodes(ART_RESNET_BLOCKS, bottleneck=False, layer_class=layer_class):
        nodes.append(Node(node.stage, (), last))
        last = len(nodes) - 1
        width = node.stage.channels
        for tap in set(node.taps).intersection(ART_RESNET_TAPS):
            head = Convolution(width, width, 1, relu=False, bias=False, key=tap.replace("layer", "head"))
            nodes.append(Node(head, (tap,), last))
    return nodes


def filter_nodes(maps: int) -> list[Node]:
    """One layer of random filters of eight sizes: taps filters3, filters5, …, filters55.

    A variant of Ustyuzhaninov et al. 2016, whose kernels of up to 55 pixels cost 0.27 TFLOP on a 256² image:
    filters larger than 11 pixels are filters of 7 to 11 pixels on a Gaussian pyramid, so that "filters15" and
    "filters23" have stride 2, "filters37" stride 4 and "filters55" stride 8. That takes half the time of FFT
    convolution with the full kernels, and leaves fewer positions to whatever statistic follows.
    """
    if maps < 1:
        raise ConfigError(f"maps must be at least 1, not {maps}.")
    nodes: list[Node] = []
    levels = {0: -1}  # halvings -> index of the stage that holds the image halved so often
    for size, (kernel, halvings) in FILTER_SIZES.items():
        if halvings not in levels:
            nodes.append(Node(Halving(), (), levels[halvings - 1]))
            levels[halvings] = len(nodes) - 1
        nodes.append(Node(RandomFilters(3, maps, kernel), (f"filters{size}",), levels[halvings]))
    return nodes


def randomise(nodes: Sequence[Node], generator: torch.Generator) -> None:
    """Draw random weights under which features keep their scale however deep the network is."""
    for conv in convolutions(nodes):
        conv.randomise(generator)
    blocks = [node.stage for node in nodes if isinstance(node.stage, Residual)]
    for block in blocks:
        # Without normalisation the variance would double with each block (Zhang et al. 2019, "Fixup").
        block.convolutions[-1].get_parameter("weight").data /= math.sqrt(len(blocks))


def folded(head: nn.Module) -> Tensor:
    """A linear head to a teacher's C' channels as a square kernel [C, C, 1, 1] with the same inner products.

    It is scaled so that a tap has mean square 1 over its channels.
    """
    matrix = head.get_parameter("weight").detach()[:, :, 0, 0].double()  # [C', C]
    upper: Tensor = torch.linalg.qr(matrix, mode="r")[1]
    # Signs of the rows are the library's choice: make the diagonal positive.
    upper = upper * upper.diagonal().sign()[:, None]
    upper *= (matrix.shape[1] / matrix.shape[0]) ** 0.5
    return upper[:, :, None, None].half()


def checkpoint_layout(name: str) -> dict[str, tuple[int, ...]]:
    """Every key and shape of the published file of a network: torchvision's, with timm's head for a VGG."""
    if name in (ART_VGG, ART_RESNET):
        return layout(convolutions(named_nodes(name, pooling="avg", until=None)[0]))
    import torchvision  # as slow to import as PyTorch itself, and nothing else here needs it

    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    if name in VGG_WIDTHS:
        for theirs, (ours, grid) in VGG_HEAD.items():
            weight, bias = shapes.pop(f"{theirs}.weight"), shapes.pop(f"{theirs}.bias")
            shapes[f"{ours}.weight"] = (weight[0], weight[1] // math.prod(grid), *grid)
            shapes[f"{ours}.bias"] = bias
    return shapes


def layout(layers: Iterable[Convolution]) -> dict[str, tuple[int, ...]]:
    """Key and shape of each tensor that layers read from a checkpoint: a weight, and as many numbers as channels."""
    return {
        key: tuple((layer.bias if number else layer.weight).shape)
        for layer in layers
        for number, key in enumerate(layer.keys())
    }


def named_nodes(name: str, *, pooling: str, until: str | None, maps: int = 1) -> tuple[list[Node], Preprocessing]:
    """The stages of one of `NETWORKS`, up to a tap, and the preprocessing that its usual weights expect.

    `pooling` is for a VGG, `maps` a size for "random-filters". An unknown name, pooling or tap is a ConfigError.
    """
    one_of("feature extractor", name, NETWORKS)
    one_of("pooling", pooling, get_args(Pooling))
    preprocessing = TORCHVISION
    if name in VGG_WIDTHS:
        nodes = vgg_nodes(VGG_WIDTHS[name], pooling)
    elif name in RESNET_BLOCKS:
        nodes = resnet_nodes(RESNET_BLOCKS[name], bottleneck=name == "resnet50")
    elif name == ART_VGG:
        nodes, preprocessing = art_vgg_nodes(), CENTRED
    elif name == ART_RESNET:
        nodes, preprocessing = art_resnet_nodes(), CENTRED
    elif name == "random-filters":
        nodes, preprocessing = filter_nodes(maps), CENTRED
    else:
        nodes, preprocessing = [Node(Patches(size), (f"patches{size}",), -1) for size in PATCH_SIZES], NONE
    if until is not None:
        taps = [tap for node in nodes for tap in node.taps]
        one_of("tap", until, taps)
        nodes = nodes[: next(i for i, node in enumerate(nodes, start=1) if until in node.taps)]
    return nodes, preprocessing


def convolutions(nodes: Sequence[Node]) -> Iterator[Convolution]:
    """Every convolution of the stages, those inside blocks included."""
    for node in nodes:
        yield from (module for module in node.stage.modules() if isinstance(module, Convolution))
