"""Where and how a network runs: device, number type, random numbers, and the seam for other runtimes."""

import logging
import platform
from importlib import metadata
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor, nn

from artmodels._version import __version__
from artmodels.errors import ConfigError, DeviceError

__all__ = ["Runner", "TorchRunner", "bf16_is_fast", "generator", "pick_device", "pick_dtype", "versions"]

logger = logging.getLogger(__name__)


def pick_device(device: torch.device | str | None = None) -> torch.device:
    """Choose where to compute: what is asked for, or the fastest of CUDA, MPS and CPU.

    Raises:
        DeviceError: The device asked for is not on this machine.
    """
    there = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    there += ["mps", "cpu"] if torch.backends.mps.is_available() else ["cpu"]
    if device is None:
        return torch.device(there[0].split(":")[0])
    try:
        asked = torch.device(device)
    except RuntimeError:
        asked = None
    # "cuda" and "mps:0" are as good as "cuda:0" and "mps".
    if asked is None or not {str(asked), f"{asked.type}:{asked.index or 0}", asked.type} & set(there):
        raise DeviceError(f"device {str(device)!r} is not on this machine; it has {', '.join(there)}")
    return asked


def pick_dtype(device: torch.device, dtype: torch.dtype | str | None = None) -> torch.dtype:
    """Choose the number type: what is asked for, or float32, which methods that optimise pixels need.

    Raises:
        ConfigError: Not the name of a floating type.
        DeviceError: The device cannot compute in that type.
    """
    if dtype is None:
        return torch.float32
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if chosen not in {torch.float32, torch.bfloat16, torch.float16, torch.float64}:
        raise ConfigError(f"dtype {dtype!r} is not one of float32, bfloat16, float16, float64")
    if chosen is torch.float64 and device.type == "mps":
        raise DeviceError("mps cannot compute in float64; use float32, or device='cpu'")
    if chosen is torch.bfloat16 and device.type == "cpu" and not bf16_is_fast():
        logger.warning("this CPU has no bfloat16 instructions: bfloat16 will be slower than float32 here")
    return chosen


def bf16_is_fast() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX)."""
    # The public torch.cpu.get_capabilities is younger than the oldest PyTorch we support.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random number generator of its own, so that no result depends on what ran before.

    Raises:
        ConfigError: The seed is not an integer from 0 to 2**63 - 1.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ConfigError(f"seed={seed!r} is not an integer from 0 to 2**63 - 1")
    return torch.Generator(device).manual_seed(seed)


def versions() -> dict[str, str]:
    """What computes here: versions and device, for `artmodels info` and the gallery's `/health`."""
    device = pick_device()
    return {
        "artmodels": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gradio": metadata.version("gradio") if find_spec("gradio") else "not installed",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "provider": "torch",
    }


class Runner(Protocol):
    """A feed-forward network behind one call, whatever computes it: `TorchRunner`, or `graphs.OnnxRunner`."""

    bucket: int
    """Sides that are multiples of this run faster, because few sizes recur; 1 where that makes no difference."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run the network once, without gradients, on tensors whose first axis is the batch."""


class TorchRunner:
    """A network behind the `Runner` protocol, in a number type, on the device that is asked for or the fastest."""

    bucket = 1

    def __init__(
        self, network: nn.Module, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        """Move the network there; a device that is not on this machine is a DeviceError."""
        self.device, self.dtype = pick_device(device), dtype
        self.network = network.to(self.device, dtype).to(memory_format=torch.channels_last).eval()

    @torch.inference_mode()
    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run the network once."""
        output: Tensor = self.network(*(tensor.to(self.device, self.dtype) for tensor in inputs))
        return output
