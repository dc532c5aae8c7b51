"""Magenta's checkpoint of Ghiasi et al. 2017 as a checkpoint of `ArbitraryStyle`.

    python -m weights convert arbitrary_style FILE.safetensors OUT

The file has the variables of `arbitrary_style_transfer.tar.gz` (magenta, `models/arbitrary_image_stylization`) under
their own names: InceptionV3/Conv2d_1a_3x3/weights, …, Conv/weights, style_params/transformer/…/StyleNorm/Conv/weights,
transformer/contract/conv1/weights, …. TensorFlow files are never opened; the error says how to make safetensors of one.
What only training needs may be in the file, and is left out. The mapping is exact but for the rounding to float16:
batch normalisation, which has no scale of its own there, goes into the convolution before it.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from artmodels.errors import MissingWeights, UnsafeFormat, WeightsMismatch, some
from artmodels.hub.checkpoints import read_tensors
from artmodels.methods.arbitrary_style.inception import InceptionStyle
from artmodels.methods.arbitrary_style.model import ArbitraryStyleConfig, StyleTransformer
from artmodels.methods.arbitrary_style.pipeline import ArbitraryStyle
from weights.convert.files import save

__all__ = ["convert_file", "from_magenta", "read"]

Converted = tuple[ArbitraryStyleConfig, dict[str, Tensor]]

EPSILON = 1e-3  # of batch normalisation
# Adam's own variables and the loss network.
TRAINING = re.compile(r"global_step|beta[12]_power|.*/Adam(_1)?|vgg_16/.*")
PART = re.compile(r"\.(index|meta|data(-\d+-of-\d+)?)")
TENSORFLOW = re.compile(rf"\.(ckpt|gz|tgz|tar|h5|pb)|{PART.pattern}")

# --- Names of TF-slim, in the order of our modules

STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
SQUARE = (
    ("Conv2d_0a_1x1",),
    ("Conv2d_0a_1x1", "Conv2d_0b_5x5"),
    ("Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_0c_3x3"),
    ("Conv2d_0b_1x1",),
)
CROSSED = (
    ("Conv2d_0a_1x1",),
    ("Conv2d_0a_1x1", "Conv2d_0b_1x7", "Conv2d_0c_7x1"),
    ("Conv2d_0a_1x1", "Conv2d_0b_7x1", "Conv2d_0c_1x7", "Conv2d_0d_7x1", "Conv2d_0e_1x7"),
    ("Conv2d_0b_1x1",),
)
MIXED = {
    "5b": SQUARE,
    "5c": (SQUARE[0], ("Conv2d_0b_1x1", "Conv_1_0c_5x5"), *SQUARE[2:]),  # as published
    "5d": SQUARE,
    "6a": (("Conv2d_1a_1x1",), ("Conv2d_0a_1x1", "Conv2d_0b_3x3", "Conv2d_1a_1x1")),  # both 1a are 3 x 3
    **dict.fromkeys(("6b", "6c", "6d", "6e"), CROSSED),
}


def _inception() -> Iterator[str]:
    for name in STEM:
        yield f"InceptionV3/{name}"
    for block, branches in MIXED.items():
        for index, names in enumerate(branches):
            for name in names:
                yield f"InceptionV3/Mixed_{block}/Branch_{index}/{name}"


CONDITIONED = (
    *(f"transformer/residual/residual{block}/conv{layer}" for block in range(1, 6) for layer in (1, 2)),
    *(f"transformer/expand/conv{layer}/conv" for layer in (1, 2, 3)),
)


class _Variables:
    """A checkpoint's variables, in float64 and in our order of axes; notes what is wrong with them."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = {name: value for name, value in state.items() if not TRAINING.fullmatch(name)}
        self.used = set[str]()
        self.misshapen, self.infinite = list[str](), list[str]()

    def take(self, name: str, *shape: int) -> Tensor:
        """A variable of this shape; zeros where it is not so."""
        self.used.add(name)
        found = self.state.get(name)
        if found is not None and tuple(found.shape) == shape:
            if not bool(found.isfinite().all()):
                self.infinite.append(name)
            return found.double()
        if found is not None:
            self.misshapen.append(f"{name} is {list(found.shape)}, not {list(shape)}")
        return torch.zeros(shape, dtype=torch.float64)

    def weight(self, scope: str, like: Tensor) -> Tensor:
        """Of a convolution: height, width, inputs, outputs becomes outputs, inputs, height, width."""
        outputs, inputs, height, width = like.shape
        return self.take(f"{scope}/weights", height, width, inputs, outputs).permute(3, 2, 0, 1)

    def normalised(self, scope: str, like: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution with the batch normalisation after it."""
        weight = self.weight(scope, like)
        shift, mean, variance = (
            self.take(f"{scope}/BatchNorm/{name}", len(like)) for name in ("beta", "moving_mean", "moving_variance")
        )
        scale = (variance + EPSILON).rsqrt()
        return weight * scale[:, None, None, None], shift - mean * scale

    def linear(self, scope: str, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of a convolution of single pixels."""
        return self.take(f"{scope}/weights", 1, 1, inputs, outputs)[0, 0].T, self.take(f"{scope}/biases", outputs)

    def check(self) -> None:
        """Refuse what was not there, was not asked for, or is no number."""
        missing, unexpected = sorted(self.used - self.state.keys()), sorted(self.state.keys() - self.used)
        faults = [
            f"{len(names)} {label}: {some(names)}"
            for label, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        if faults:
            raise WeightsMismatch(
                f"The names are not those of Magenta's arbitrary style transfer with Inception-v3: {'; '.join(faults)}."
            )
        if self.misshapen:
            raise WeightsMismatch(f"Variables do not fit the networks of Ghiasi et al.: {some(self.misshapen)}.")
        if self.infinite:
            raise WeightsMismatch(f"{some(self.infinite)} hold values that are no numbers: fetch the checkpoint again.")


def from_magenta(state: Mapping[str, Tensor]) -> Converted:
    """Map the variables of Magenta's arbitrary style transfer with Inception-v3.

    Args:
        state: Variable by its TensorFlow name.

    Returns:
        Config, and tensors, float32, with the keys of `predictor` (`InceptionStyle`) and `transformer`
        (`StyleTransformer`).

    Raises:
        WeightsMismatch: Names or shapes are not those networks', or values are no numbers or too large for float16.
    """
    config = ArbitraryStyleConfig()
    with torch.device("meta"):
        predictor, transformer = InceptionStyle(config.bottleneck), StyleTransformer(config)
    shapes = nn.ModuleDict({"predictor": predictor, "transformer": transformer}).state_dict()
    variables, tensors = _Variables(state), dict[str, Tensor]()

    convolutions = [name for name, part in predictor.named_modules() if isinstance(part, nn.Conv2d)]
    folded = {f"predictor.{name}": scope for name, scope in zip(convolutions, _inception(), strict=True)}
    folded |= {f"transformer.down.{i}.conv": f"transformer/contract/conv{i + 1}" for i in range(3)}
    for name, scope in folded.items():
        weight, bias = variables.normalised(scope, shapes[f"{name}.weight"])
        tensors |= {f"{name}.weight": weight, f"{name}.bias": bias}
    for i, scope in enumerate(CONDITIONED):
        key = f"transformer.layers.{i}.conv.weight"
        tensors[key] = variables.weight(scope, shapes[key])

    weight, bias = variables.linear("Conv", *reversed(shapes["predictor.last.weight"].shape))
    tensors |= {"predictor.last.weight": weight, "predictor.last.bias": bias}
    # Of the maps in each layer's scope the first is for its shifts, the second for its scales.
    heads = [
        variables.linear(f"style_params/{scope}/StyleNorm/{name}", config.bottleneck, channels)
        for name in ("Conv_1", "Conv")
        for scope, channels in zip(CONDITIONED, transformer.channels, strict=True)
    ]
    weights, biases = zip(*heads, strict=True)
    tensors |= {"transformer.heads.weight": torch.cat(weights), "transformer.heads.bias": torch.cat(biases)}

    variables.check()
    bad = [key for key, value in tensors.items() if not bool(value.half().isfinite().all())]
    if bad:
        raise WeightsMismatch(f"{some(bad)} come out as no numbers, or too large for float16: make the file again.")
    return config, {key: value.float().contiguous() for key, value in tensors.items()}


def read(file: Path) -> Converted:
    """Read a checkpoint file; see the module.

    Args:
        file: Safetensors.

    Raises:
        MissingWeights: There is no such file.
        UnsafeFormat: A file of TensorFlow's; the message says how to make safetensors of it.
        WeightsMismatch: Another format or another network.
    """
    suffix = file.suffix.lower()
    if TENSORFLOW.fullmatch(suffix):
        raise UnsafeFormat(_how_to_convert(file))
    if not file.is_file():
        raise MissingWeights(f"There is no file {file}.")
    if suffix != ".safetensors":
        raise WeightsMismatch(f"{file} is not .safetensors: that can be converted.")
    state = read_tensors(file, unused=lambda key: TRAINING.fullmatch(key) is not None)
    return from_magenta(state)


def _how_to_convert(file: Path) -> str:
    suffix, unpack = file.suffix.lower(), ""
    if suffix == ".ckpt":
        checkpoint = file
    elif PART.fullmatch(suffix):
        checkpoint = file.with_suffix("")
    else:
        checkpoint = file.parent / "arbitrary_style_transfer" / "model.ckpt"
        unpack = f"unpack Magenta's arbitrary_style_transfer.tar.gz in {file.parent}, and "
    made = checkpoint.with_suffix(".safetensors")
    return (
        f"{file} is a file of TensorFlow's, which artmodels does not open: {unpack}where TensorFlow is installed run\n"
        'python -c "import tensorflow as tf, safetensors.numpy as s; '
        f"r = tf.train.load_checkpoint(r'{checkpoint}'); "
        f"s.save_file({{k: r.get_tensor(k) for k in r.get_variable_to_shape_map() if '/' in k}}, r'{made}')\"\n"
        f"and convert {made}."
    )


def convert_file(file: Path, folder: Path) -> None:
    """Convert Magenta's checkpoint of arbitrary style into a folder for ArbitraryStyle.from_pretrained.

    Raises:
        ArtModelsError: See `read`, and `files.save`.
    """
    config, tensors = read(file)
    predictor, transformer = InceptionStyle(config.bottleneck), StyleTransformer(config)
    nn.ModuleDict({"predictor": predictor, "transformer": transformer}).load_state_dict(tensors)
    model = ArbitraryStyle(config, network=transformer, companions={"predictor": predictor}, device="cpu")
    save(model, file, folder)
