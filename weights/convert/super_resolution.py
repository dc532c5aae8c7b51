"""Published weights of ESRGAN and Real-ESRGAN, turned into checkpoints of `SuperResolution`.

Three layouts of RRDBNet are known, and one of SRVGGNetCompact; they are told apart by the names they hold.

    Real-ESRGAN          ESRGAN                    ESRGAN, older               here
    conv_first           conv_first                model.0                     first
    body.I.rdbJ.convK    RRDB_trunk.I.RDBJ.convK   model.1.sub.I.RDBJ.convK.0  blocks.I.dense.(J - 1).convs.(K - 1)
    conv_body            trunk_conv                model.1.sub.(blocks)        trunk
    conv_up1, conv_up2   upconv1, upconv2          model.3, model.6            up.0, up.1
    conv_hr              HRconv                    model.8                     fine
    conv_last            conv_last                 model.10                    last

    SRVGGNetCompact      here
    body.(2 I)           layers.I.conv
    body.(2 I + 1)       layers.I.activation
    the last of body     last

The files are published as `.pth`, which can run code when opened, so that this never opens them: called with one, it
prints the command that makes safetensors of a download of your own. Then, in a checkout:

    python -m weights convert super_resolution x4plus.safetensors my-x4plus
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from artmodels.errors import WeightsMismatch
from artmodels.methods.super_resolution import SuperResolution, SuperResolutionConfig
from artmodels.methods.super_resolution.model import make_network
from weights.convert.files import save, tensors_of

COMMAND = (
    'python -c "import sys, torch; from safetensors.torch import save_file; '
    "d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); d = d.get('params_ema', d.get('params', d)); "
    'save_file({k: v.clone() for k, v in d.items()}, sys.argv[2])"'
)
"""With two file names, makes safetensors of a file of tensors; refuses one that holds anything else."""

_RRDB = (
    (r"conv_first|model\.0", "first"),
    (r"conv_body|trunk_conv", "trunk"),
    (r"conv_up1|upconv1|model\.3", "up.0"),
    (r"conv_up2|upconv2|model\.6", "up.1"),
    (r"conv_hr|HRconv|model\.8", "fine"),
    (r"conv_last|model\.10", "last"),
)
_DENSE = re.compile(r"(?:body|RRDB_trunk|model\.1\.sub)\.(\d+)\.(?:rdb|RDB)([123])\.conv([1-5])(?:\.0)?")
_OLDER_TRUNK = re.compile(r"model\.1\.sub\.(\d+)")
_COMPACT = re.compile(r"body\.(\d+)")


def convert(state: Mapping[str, Tensor]) -> tuple[SuperResolutionConfig, dict[str, Tensor]]:
    """The configuration that published weights imply, and the tensors under our names.

    Args:
        state: The tensors of the published file, by its own names.

    Raises:
        WeightsMismatch: They are of no network that is known here, or not complete.
    """
    compact = any(re.fullmatch(r"body\.\d+\.weight", key) for key in state)
    renamed = {}
    last = max((int(layer[1]) for key in state if (layer := _COMPACT.match(key))), default=0)
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        name = _compact_name(module, last) if compact else _rrdb_name(module)
        if name is None:
            raise WeightsMismatch(f"{key!r} is no weight of RRDBNet or SRVGGNetCompact: only those can be converted.")
        renamed[f"{name}.{kind}"] = value
    try:
        config = _compact_config(renamed, last) if compact else _rrdb_config(renamed)
    except (KeyError, ValueError):
        raise WeightsMismatch("The file is not complete, or of another network: fetch it again.") from None
    wanted = {key: tuple(value.shape) for key, value in make_network(config).state_dict().items()}
    found = {key: tuple(value.shape) for key, value in renamed.items()}
    if wanted != found:
        faults = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        raise WeightsMismatch(
            f"The file does not hold {config.architecture} as published: {len(faults)} tensors are missing or of "
            f"another shape, the first becomes {faults[0]!r}. Fetch the file again."
        )
    return config, renamed


def _compact_name(module: str, last: int) -> str | None:
    found = _COMPACT.fullmatch(module)
    if found is None:
        return None
    number = int(found[1])
    return "last" if number == last else f"layers.{number // 2}.{'activation' if number % 2 else 'conv'}"


def _rrdb_name(module: str) -> str | None:
    if found := _DENSE.fullmatch(module):
        block, dense, conv = map(int, found.groups())
        return f"blocks.{block}.dense.{dense - 1}.convs.{conv - 1}"
    if _OLDER_TRUNK.fullmatch(module):
        return "trunk"
    return next((name for pattern, name in _RRDB if re.fullmatch(pattern, module)), None)


def _compact_config(tensors: Mapping[str, Tensor], last: int) -> SuperResolutionConfig:
    outputs, channels = tensors["last.weight"].shape[:2]
    return SuperResolutionConfig(
        architecture="srvgg",
        scale=_scale(math.isqrt(outputs // 3)),
        channels=channels,
        convs=last // 2 - 1,
        base="nearest",
    )


def _rrdb_config(tensors: Mapping[str, Tensor]) -> SuperResolutionConfig:
    channels, inputs = tensors["first.weight"].shape[:2]
    return SuperResolutionConfig(
        architecture="rrdb",
        # A network for a smaller scale starts by turning squares of pixels into channels.
        scale=_scale(4 // max(1, math.isqrt(inputs // 3))),
        channels=channels,
        blocks=len({key.split(".")[1] for key in tensors if key.startswith("blocks.")}),
        growth=tensors["blocks.0.dense.0.convs.0.weight"].shape[0],
    )


def _scale(scale: int) -> Literal[2, 4]:
    if scale == 2:
        return 2
    if scale == 4:
        return 4
    raise WeightsMismatch(f"The file enlarges by {scale}; only 2 and 4 are supported.")


def convert_file(source: Path, folder: Path) -> None:
    """Convert a `.safetensors` file into a checkpoint folder, which `SuperResolution.from_pretrained` loads.

    Raises:
        UnsafeFormat: The file is not safetensors by name; the message says how to make one of it.
        MissingWeights: There is no such file.
        WeightsMismatch: The file is damaged, or of another network.
        ConfigError: The folder is not empty.
    """
    state = tensors_of(source, COMMAND)
    config, tensors = convert(state)
    network = make_network(config)
    network.load_state_dict({key: value.float() for key, value in tensors.items()})
    save(SuperResolution(config, network=network, device="cpu"), source, folder)
