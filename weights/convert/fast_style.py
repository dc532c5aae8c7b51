"""Published checkpoints of Johnson et al. 2016 as checkpoints of `FastStyle`.

    python -m weights convert fast_style FILE.safetensors OUT --style "Mosaic"
    python -m weights convert fast_style FILE.onnx OUT --style "Candy"

Three families, told apart by the file:

- PyTorch's examples (`fast_neural_style`), as safetensors with the keys of its `TransformerNet`: conv1.conv2d.weight,
  in1.weight (in1.scale and in1.shift in older files), res1.conv1.conv2d.weight, …, deconv3.conv2d.bias. Of its older
  normalisation only the epsilon differs, 1e-9 for 1e-5.
- The ONNX model zoo (mosaic, candy, rain-princess, udnie and pointilism, -8 and -9), which are exports of that network.
- The authors' own for Torch7 (`jcjohnson/fast-neural-style`, its folder `instance_norm`), as safetensors with the keys
  0, 1, 2, …: the tensors of `model:parameters()` in their order. Any reader of `.t7` files gives them: go through the
  modules depth first, and take the weight and then the bias of each that has them. The nets of the folder `eccv16` have
  batch normalisation, which `FastStyle` has not: they have the same keys, and would give wrong pictures.

Pickle-based files are never opened; the error says how to make safetensors of one. The mapping is exact but for the
rounding to float16: biases before an instance normalisation have no effect and are left out, and pixel scale and
channel order go into the first and the last convolution.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from artmodels.errors import ConfigError, MissingWeights, UnsafeFormat, WeightsMismatch, some
from artmodels.hub.checkpoints import PICKLES, read_tensors
from artmodels.methods.fast_style.model import FastStyleConfig, Layout, TransformerNet
from artmodels.methods.fast_style.pipeline import FastStyle
from weights.convert.files import save

__all__ = ["convert_file", "from_onnx", "from_pytorch", "from_torch7", "read"]

Converted = tuple[FastStyleConfig, dict[str, Tensor]]
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of old files; instance normalisation has none


class Part(NamedTuple):
    """A convolution or normalisation, as a file has it."""

    name: str
    weight: Tensor
    bias: Tensor


def from_pytorch(state: Mapping[str, Tensor], *, style: str = "") -> Converted:
    """Map a state dict of the `TransformerNet` in PyTorch's examples.

    Args:
        state: Tensor by key.
        style: What the network paints like, for people.

    Returns:
        Config and tensors, float32, of the same network in `FastStyle`.

    Raises:
        WeightsMismatch: Keys or shapes are not that network's.
    """
    renamed = {}
    for key, value in state.items():
        if not key.endswith(STATISTICS):
            renamed[re.sub(r"(in\d)\.scale$", r"\1.weight", re.sub(r"(in\d)\.shift$", r"\1.bias", key))] = value
    blocks = len({key.split(".")[0] for key in renamed if re.match(r"res\d+\.", key)})
    modules = [module for i in (1, 2, 3) for module in (f"conv{i}.conv2d", f"in{i}")]
    for block in range(1, blocks + 1):
        modules += [f"res{block}.{name}" for name in ("conv1.conv2d", "in1", "conv2.conv2d", "in2")]
    modules += ["deconv1.conv2d", "in4", "deconv2.conv2d", "in5", "deconv3.conv2d"]
    keys = [f"{module}.{name}" for module in modules for name in ("weight", "bias")]
    _check_keys(renamed, keys, "the TransformerNet of PyTorch's examples")
    parts = [Part(module, renamed[f"{module}.weight"], renamed[f"{module}.bias"]) for module in modules]
    return _assembled(parts, "resize", style)


def from_torch7(state: Mapping[str, Tensor], *, style: str = "") -> Converted:
    """Map the tensors of `model:parameters()` of a Torch7 net c9s1-N,dN,dN,RN,…,uN,uN,c9s1-3.

    Args:
        state: Tensor by its place in that list: "0", "1", …
        style: What the network paints like, for people.

    Returns:
        Config and tensors, float32, of the same network in `FastStyle`.

    Raises:
        WeightsMismatch: Keys or shapes are not that network's.
    """
    count = len(state)
    _check_keys(state, [str(i) for i in range(count)], "a list of a Torch7 net's parameters")
    if count % 2:
        raise WeightsMismatch(f"There are {count} tensors, an odd number: each module has a weight and a bias.")
    parts = [Part(f"{i} and {i + 1}", state[str(i)], state[str(i + 1)]) for i in range(0, count, 2)]
    return _assembled(parts, "torch7", style)


def from_onnx(data: bytes, *, style: str = "") -> Converted:
    """Map an ONNX export of the `TransformerNet` in PyTorch's examples, by the order of its nodes.

    Exporters keep names or number them anew; the order of convolutions and normalisations is always the network's.

    Args:
        data: The file.
        style: What the network paints like, for people.

    Returns:
        Config and tensors, float32, of the same network in `FastStyle`.

    Raises:
        WeightsMismatch: It is not ONNX, or not an export of that network.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ConfigError("Reading ONNX files needs more packages: pip install 'artmodels[export]'.") from error
    try:
        graph = onnx.load_from_string(data).graph
    except DecodeError as error:
        raise WeightsMismatch(f"The file is damaged or not ONNX ({error}): fetch it again.") from error
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            stored.update((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")
    parts = list[Part]()
    for node in graph.node:
        if node.op_type not in {"Conv", "InstanceNormalization"}:
            continue
        label = f"{node.op_type} {node.name or node.output[0]}"
        tensors = [stored[name] for name in node.input[1:] if name in stored]
        # Never what lies outside the file: its path would be the file's own choice.
        if len(tensors) != 2 or any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
            raise WeightsMismatch(
                f"{label} has no weight and bias of its own in the file: this is no plain export of the TransformerNet "
                "of PyTorch's examples in a single file."
            )
        weight, bias = (torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy()) for tensor in tensors)
        parts.append(Part(label, weight, bias))
    return _assembled(parts, "resize", style)


def read(file: Path, *, style: str = "") -> Converted:
    """Read a checkpoint file of one of the three families; see the module.

    Args:
        file: Safetensors or ONNX.
        style: What the network paints like, for people.

    Raises:
        MissingWeights: There is no such file.
        UnsafeFormat: A pickle-based or Torch7 file; the message says how to make safetensors of it.
        WeightsMismatch: Another format or another network.
    """
    suffix = file.suffix.lower()
    if suffix == ".t7":
        raise UnsafeFormat(
            f"{file} is a Torch7 file, which artmodels does not open: with a reader of your choice save the tensors of "
            "model:parameters() as safetensors with the keys 0, 1, 2, …; see weights/convert/fast_style.py."
        )
    if suffix in {*PICKLES, ".model"}:
        made = file.with_suffix(".safetensors")
        raise UnsafeFormat(
            f"{file} is pickle-based and can run code when opened, so artmodels never opens it. If you trust it, run\n"
            f'python -c "import torch, safetensors.torch as s; s.save_file({{k: v.contiguous() for k, v in '
            f"torch.load(r'{file}', map_location='cpu', weights_only=True).items()}}, r'{made}')\"\n"
            f"and convert {made}."
        )
    if not file.is_file():
        raise MissingWeights(f"There is no file {file}.")
    if suffix == ".onnx":
        return from_onnx(file.read_bytes(), style=style)
    if suffix != ".safetensors":
        raise WeightsMismatch(f"{file} is neither .safetensors nor .onnx: those can be converted.")
    state = read_tensors(file)
    family = from_torch7 if state and all(key.isdecimal() for key in state) else from_pytorch
    return family(state, style=style)


def _assembled(parts: list[Part], layout: Layout, style: str) -> Converted:
    """Name the parts of a network, which come in the order of its modules, and fold scale and channel order in."""
    blocks, rest = divmod(len(parts) - 11, 4)
    if blocks < 1 or rest:
        raise WeightsMismatch(
            f"There are {len(parts)} convolutions and normalisations; the network of Johnson et al. has 11, "
            "and 4 in each residual block."
        )
    modules = [f"down.{i}" for i in range(3)]
    modules += [f"blocks.{i}.{name}" for i in range(blocks) for name in ("first", "second")]
    modules += [f"up.{i}" for i in range(2)]
    tensors, sources = dict[str, Tensor](), dict[str, str]()
    for i, module in enumerate(modules):
        conv, norm = parts[2 * i], parts[2 * i + 1]
        # Without the convolution's bias: the normalisation takes any constant away.
        tensors[f"{module}.conv.weight"] = conv.weight
        tensors[f"{module}.norm.weight"], tensors[f"{module}.norm.bias"] = norm.weight, norm.bias
        sources |= {f"{module}.conv.weight": conv.name}
        sources |= {f"{module}.norm.weight": norm.name, f"{module}.norm.bias": norm.name}
    tensors["last.weight"], tensors["last.bias"] = parts[-1].weight, parts[-1].bias
    sources |= {"last.weight": parts[-1].name, "last.bias": parts[-1].name}
    tensors = {key: value.float() for key, value in tensors.items()}

    config = _config(tensors, blocks, layout, style)
    with torch.device("meta"):
        expected = TransformerNet(config).state_dict()
    wrong = [
        f"{sources[key]} is {list(tensors[key].shape)}, not {list(value.shape)}"
        for key, value in expected.items()
        if tensors[key].shape != value.shape
    ]
    if wrong:
        raise WeightsMismatch(f"Tensors do not fit the network of Johnson et al.: {some(wrong)}.")

    first, last, bias = tensors["down.0.conv.weight"], tensors["last.weight"], tensors["last.bias"]
    if layout == "resize":
        # Theirs reads x = 255 i, which is 127.5 (2 i - 1) and a constant that the normalisation takes away.
        scaled = {"down.0.conv.weight": 127.5 * first, "last.weight": last / 255, "last.bias": bias / 255}
    else:
        # Theirs reads and writes blue first, and reads a scale of 255.
        scaled = {"down.0.conv.weight": 255 * first.flip(1), "last.weight": last.flip(0), "last.bias": bias.flip(0)}
    tensors |= scaled
    bad = [sources[key] for key, value in tensors.items() if not bool(value.half().isfinite().all())]
    if bad:
        raise WeightsMismatch(f"{some(bad)} hold values that are no numbers, or too large for float16.")
    return config, tensors


def _config(tensors: Mapping[str, Tensor], blocks: int, layout: Layout, style: str) -> FastStyleConfig:
    shapes = [tuple(tensors[f"down.{i}.conv.weight"].shape) for i in range(3)]
    if any(len(shape) != 4 for shape in shapes):
        raise WeightsMismatch(f"The first three convolutions have the shapes {shapes}: each should have four sides.")
    try:
        return FastStyleConfig(
            style=style,
            widths=(shapes[0][0], shapes[1][0], shapes[2][0]),
            kernel=shapes[0][-1],
            blocks=blocks,
            layout=layout,
            output="linear" if layout == "resize" else "tanh",
        )
    except ConfigError as error:
        raise WeightsMismatch(f"The tensors are not of the network of Johnson et al.: {error}.") from error


def _check_keys(state: Mapping[str, Tensor], keys: list[str], what: str) -> None:
    missing = [key for key in keys if key not in state]
    unexpected = sorted(state.keys() - set(keys))
    faults = [
        f"{len(names)} {label}: {some(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if faults:
        raise WeightsMismatch(f"The keys are not those of {what}: {'; '.join(faults)}.")


def convert_file(file: Path, folder: Path, *, style: str = "") -> None:
    """Convert a published checkpoint of fast style transfer into a folder for FastStyle.from_pretrained.

    Args:
        file: See `read`.
        folder: New or empty.
        style: What it paints like: a title and an artist.

    Raises:
        ArtModelsError: See `read`, and `files.save`.
    """
    config, tensors = read(file, style=style)
    network = TransformerNet(config)
    network.load_state_dict(tensors)
    save(FastStyle(config, network=network, device="cpu"), file, folder, title=style)
