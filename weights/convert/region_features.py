"""Published detectors as checkpoints of `RegionFeatures`.

    python -m weights convert region_features fasterrcnn_resnet50_fpn_coco-258fb6c6.safetensors my-fasterrcnn
    python -m weights convert region_features res152.safetensors my-resnet152

Two families, told apart by the names that a file holds:

- torchvision's Faster R-CNN with ResNet-50 and a feature pyramid, v1 and v2, trained on COCO. The names are kept but
  for those of layers that torchvision has since put into a sequence: rpn.head.conv.weight became
  rpn.head.conv.0.0.weight, backbone.fpn.inner_blocks.0.weight became backbone.fpn.inner_blocks.0.0.weight.
- The Faster R-CNN with ResNet-152 of TensorFlow (`res152_faster_rcnn_iter_1190000` of endernewton/tf-faster-rcnn),
  which Gonthier et al. 2018 use. Below the scope resnet_v1_152, for a block B and a unit U counted from 1:

      blockB/unit_U/bottleneck_v1/convN     blocks.(B - 1).(U - 1).convN and normN
      blockB/unit_U/bottleneck_v1/shortcut  blocks.(B - 1).(U - 1).shortcut and shortcut_norm
      conv1                                 conv1 and norm1
      rpn_conv/3x3                          proposals
      rpn_cls_score                         objectness: that of an object less that of none, which the sigmoid wants
      rpn_bbox_pred                         deltas

  with weights of height, width, inputs, outputs. The classifier of the second stage is left out.

Both are published in formats that artmodels does not open: called with such a file, this checks what it can and prints
the command that makes safetensors of it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from artmodels.errors import HashMismatch, MissingWeights, UnsafeFormat
from artmodels.files import sha256_of
from artmodels.hub.checkpoints import PICKLES, read_tensors
from artmodels.methods.region_features.faster_rcnn import C4, PUBLISHED, SCALES
from artmodels.methods.region_features.model import RATIOS, RegionFeaturesConfig
from artmodels.methods.region_features.pipeline import RegionFeatures, make_network
from weights.convert.files import check, save

__all__ = ["convert_file", "from_tensorflow", "from_torchvision", "read"]

Converted = tuple[RegionFeaturesConfig, dict[str, Tensor]]
SCOPE = "resnet_v1_152/"
COMMAND = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    'save_file({{k: v.clone() for k, v in d.items()}}, sys.argv[2])" {file} {made}'
)
TENSORFLOW = (
    'python -c "import sys, tensorflow as tf, safetensors.numpy as s; r = tf.train.load_checkpoint(sys.argv[1]); '
    "s.save_file({{k: r.get_tensor(k) for k in r.get_variable_to_shape_map() if '/' in k and 'Momentum' not in k}}, "
    'sys.argv[2])" {file} {made}'
)
_SEQUENCES = (
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
)
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_UNUSED = ("cls_score/", "bbox_pred/")  # of the second stage


def from_torchvision(state: Mapping[str, Tensor]) -> Converted:
    """Map a state dict of torchvision's Faster R-CNN with ResNet-50 and a feature pyramid.

    Raises:
        WeightsMismatch: Names or shapes are neither v1's nor v2's.
    """
    renamed = {}
    for key, value in state.items():
        for pattern, instead in _SEQUENCES:
            key = pattern.sub(instead, key)
        renamed[key] = value
    second = any(key.startswith("rpn.head.conv.1.") for key in renamed)
    config = RegionFeaturesConfig(network="fasterrcnn_resnet50_fpn_v2" if second else "fasterrcnn_resnet50_fpn")
    with torch.device("meta"):
        wanted = make_network(config).stored.state_dict()
    check(renamed, {key: tuple(value.shape) for key, value in wanted.items()}, f"torchvision's {config.network}")
    return config, renamed


def from_tensorflow(state: Mapping[str, Tensor], *, network: C4 | None = None) -> Converted:
    """Map the variables of TensorFlow's Faster R-CNN with ResNet-152.

    Args:
        state: Variable by name.
        network: Whose keys are wanted; that of the paper if None.

    Raises:
        WeightsMismatch: Names or shapes are not that network's.
    """
    config = RegionFeaturesConfig(network="fasterrcnn_resnet152_c4")
    if network is None:
        with torch.device("meta"):
            network = C4(config)
    names = {key: _variable(key) for key in network.state_dict()}
    shapes = {}
    for key, value in network.state_dict().items():
        shape = tuple(value.shape)
        if key.startswith("objectness."):
            shape = (2 * len(RATIOS) * len(SCALES), *shape[1:])
        shapes[names[key]] = (*shape[2:], *shape[1::-1]) if len(shape) == 4 else shape
    used = {key: value for key, value in state.items() if not key.removeprefix(SCOPE).startswith(_UNUSED)}
    check(used, shapes, "the Faster R-CNN with ResNet-152 of TensorFlow")
    tensors = {}
    for key, name in names.items():
        value = state[name]
        if value.dim() == 4:
            value = value.permute(3, 2, 0, 1)
        if key.startswith("objectness."):
            none, some = value.chunk(2)
            value = some - none
        tensors[key] = value.float().contiguous()
    return config, tensors


def _variable(key: str) -> str:
    """TensorFlow's name of one of our tensors."""
    module, _, kind = key.rpartition(".")
    heads = {"proposals": "rpn_conv/3x3", "objectness": "rpn_cls_score", "deltas": "rpn_bbox_pred"}
    if module in heads:
        return f"{SCOPE}{heads[module]}/{'weights' if kind == 'weight' else 'biases'}"
    parts = module.split(".")
    prefix = SCOPE
    if parts[0] == "blocks":
        prefix += f"block{int(parts[1]) + 1}/unit_{int(parts[2]) + 1}/bottleneck_v1/"
    if "norm" in parts[-1]:
        layer = "shortcut" if parts[-1] == "shortcut_norm" else parts[-1].replace("norm", "conv")
        return f"{prefix}{layer}/BatchNorm/{_NORM[kind]}"
    return f"{prefix}{parts[-1]}/weights"


def read(file: Path) -> Converted:
    """Read a file; see the module.

    Raises:
        MissingWeights: There is no such file.
        UnsafeFormat: It is of a format that is never opened; the message says how to make safetensors of it.
        HashMismatch: It has the name of a published file, and not its content.
        WeightsMismatch: Another format or another network.
    """
    if ".ckpt" in file.name or file.suffix in (".meta", ".index"):
        start = re.sub(r"(\.ckpt).*$", r"\1", str(file))
        command = TENSORFLOW.format(file=start, made=f"{start.removesuffix('.ckpt')}.safetensors")
        raise UnsafeFormat(
            f"{file} is a file of TensorFlow's, which artmodels does not open: where it is installed, run\n{command}"
        )
    if not file.is_file():
        raise MissingWeights(f"There is no file {file}.")
    if file.suffix in PICKLES:
        _check_published(file)
        raise UnsafeFormat(
            f"{file} is pickle-based, and artmodels never opens those. This makes safetensors of it, and refuses a "
            f"file that holds anything but tensors:\n{COMMAND.format(file=file, made=file.with_suffix('.safetensors'))}"
        )
    state = read_tensors(file, unused=lambda key: key.removeprefix(SCOPE).startswith(_UNUSED))
    return from_tensorflow(state) if any(key.startswith(SCOPE) for key in state) else from_torchvision(state)


def _check_published(file: Path) -> None:
    for url in PUBLISHED.values():
        name = url.rpartition("/")[2]
        digits = name.removesuffix(".pth").rpartition("-")[2]
        if file.name == name:
            actual = sha256_of(file)
            if not actual.startswith(digits):
                raise HashMismatch(
                    f"{file} is not the published file: its sha256 is {actual} and should begin with {digits}. Delete "
                    f"it, and download {url} again."
                )


def convert_file(file: Path, folder: Path) -> None:
    """Convert a published detector into a folder for RegionFeatures.from_pretrained.

    Raises:
        ArtModelsError: See `read`, and `files.save`.
    """
    config, tensors = read(file)
    network = make_network(config)
    network.stored.load_state_dict(tensors)
    save(RegionFeatures(config, network=network, device="cpu"), file, folder)
