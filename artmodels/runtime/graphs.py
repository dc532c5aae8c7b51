"""Exported graphs behind `artmodels.runtime.Runner`, computed by ONNX Runtime.

A folder that `python -m export` wrote is a Triton model: `config.pbtxt`, `1/model.onnx`, and beside them `config.json`
and `export.json`, which says what went in, what comes out, and what the files hash to. ONNX Runtime is imported here,
and by a recipe that asks a teacher, when the first graph is opened.
"""

import contextlib
import functools
import hashlib
import io
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal
from weakref import WeakValueDictionary

import numpy as np
import torch
from annotated_types import Interval
from torch import Tensor

from artmodels.errors import ConfigError, DeviceError, HashMismatch, MissingWeights, WeightsError
from artmodels.files import read_object
from artmodels.hub.checkpoints import CONFIG
from artmodels.runtime.devices import pick_device
from artmodels.settings import Settings, config_from

__all__ = ["MODEL", "PROVIDERS", "SIDECAR", "Exported", "OnnxRunner", "Port", "companion_folder"]

logger = logging.getLogger(__name__)

SIDECAR = "export.json"
MODEL = "1/model.onnx"
FILES = (MODEL, CONFIG)
FORMAT = 1
BUCKET = 64  # px: few different sizes, because cuDNN chooses its algorithms anew for each

# Each falls back on those before it.
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}

# A session lives as long as a runner uses it: the same graph opened twice is held once.
_sessions: WeakValueDictionary[tuple[object, ...], Any] = WeakValueDictionary()
_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output of a graph."""

    name: str
    type: Literal["float32", "uint8"]  # bytes are images in 0 to 255
    dims: tuple[int | str, ...]  # symbols such as "N" or "4*h" are axes of any length

    def check(self, tensor: Tensor) -> None:
        """Refuse, by a ConfigError, a tensor of another rank or of other lengths along fixed axes."""
        fits = tensor.dim() == len(self.dims) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(self.dims, tensor.shape, strict=True)
        )
        if not fits:
            shown = ", ".join(map(str, self.dims))
            raise ConfigError(f"the graph's input {self.name!r} is [{shown}], and what was given {list(tensor.shape)}")


@dataclass(frozen=True, kw_only=True)
class Exported(Settings):
    """What a sidecar, `export.json`, says."""

    folder: Path  # where it lies
    files: Mapping[str, str]  # sha256 by path within the folder
    inputs: tuple[Port, ...]  # the first is the image
    output: Port  # an image, or numbers
    scale: Annotated[int, Interval(ge=1, le=16)]  # height and width of the output over those of the first input
    precision: Literal["float32", "float16"]  # what is computed in
    facts: Mapping[str, Any]  # all that the file holds

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Exported":
        """Read the sidecar in a folder; one that is missing, damaged or of another version is a WeightsError."""
        folder = Path(folder).expanduser()
        file = folder / SIDECAR
        try:
            facts = read_object(file)
            if facts["format"] != FORMAT:
                raise WeightsError(
                    f"{file} is of format {facts['format']!r}, and this artmodels reads {FORMAT}: export the model "
                    "again."
                )
            checked = {key: facts[key] for key in ("inputs", "scale", "precision")}
            checked |= {"output": facts["outputs"][0], "files": {name: facts["files"][name] for name in FILES}}
            return config_from(cls, {"folder": folder, "facts": facts} | checked)
        except FileNotFoundError:
            raise MissingWeights(f"{folder} has no {SIDECAR}: `python -m export NAME` writes such folders.") from None
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise WeightsError(f"{file} is damaged ({error!r}): export the model again.") from error

    @property
    def source(self) -> Mapping[str, object]:
        """What it was exported from: name and sha256 of the weights, and `part` where it is a companion."""
        source = self.facts.get("source")
        return source if isinstance(source, dict) else {}

    def verified(self, name: str) -> bytes:
        """Return the bytes of one of `files`, if it is there and is the one that was exported."""
        file = self.folder / name
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise MissingWeights(f"{self.folder} has no {name}: export the model again.") from None
        actual = hashlib.sha256(data).hexdigest()
        if actual != self.files[name]:
            raise HashMismatch(
                f"{file} is not the file that was exported: its sha256 is {actual}, not {self.files[name]}. Do not use "
                "it; export the model again."
            )
        return data


def companion_folder(folder: Path, part: str) -> Path:
    """Name the folder of a companion: it lies beside that of the graph which it belongs to."""
    return folder.with_name(f"{folder.name}-{part}")


class OnnxRunner:
    """A graph that `python -m export` wrote, behind the `Runner` protocol.

    Inputs and output are bound where they lie, so that on CUDA the output of one graph is the input of the next without
    leaving the device. The tests run this on the CPU only; on CUDA and TensorRT it has not been run. `provider` is what
    computes in fact, `device` where the output lies, `dtype` what is computed in.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, device: torch.device | str | None = None, provider: str | None = None
    ) -> None:
        """Open a folder that `python -m export` wrote.

        `provider` is "cpu", "cuda" or, only when asked for, "tensorrt"; None goes by the device, which by default is
        CUDA where this ONNX Runtime has it, else the CPU. One that fails to start is a warning, and the CPU computes.

        Raises:
            ConfigError: ONNX Runtime is not installed, or `provider` is unknown or contradicts `device`.
            DeviceError: The device is not on this machine, or this ONNX Runtime was built without it.
            WeightsError: The files are missing, damaged, or not those that were exported.
        """
        self.exported = Exported.read(folder)
        asked = None if device is None else pick_device(device)
        onnxruntime = _import()
        wanted = _choose_provider(provider, asked, onnxruntime.get_available_providers())
        index = (asked.index if asked else None) or 0
        self.session, self.provider = _open(onnxruntime, self.exported, wanted, index)
        # Where PyTorch has no CUDA, ONNX Runtime copies to the device and back.
        on_cuda = self.provider != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda", index) if on_cuda else torch.device("cpu")
        self.dtype: torch.dtype = getattr(torch, self.exported.precision)
        self.bucket = 1 if self.provider == "cpu" else BUCKET
        logger.info("%s: ONNX Runtime %s, %s", folder, onnxruntime.__version__, PROVIDERS[self.provider])

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Run the graph once on floats, which for images are in [0, 1], also where the graph itself takes bytes.

        The result is float32 on `device`: the image [N, C, H * scale, W * scale] in [0, 1], or numbers of the shape
        that the sidecar says. A wrong number of inputs, or a wrong shape of one, is a ConfigError.
        """
        if len(inputs) != len(self.exported.inputs):
            raise ConfigError(f"the graph takes {len(self.exported.inputs)} inputs, and {len(inputs)} were given")
        binding = self.session.io_binding()
        held = []  # what is bound must outlive the run
        for port, tensor in zip(self.exported.inputs, inputs, strict=True):
            port.check(tensor)
            own = (tensor * 255).round() if port.type == "uint8" else tensor
            held.append(own.detach().to(self.device, getattr(torch, port.type)).contiguous())
            self._bind(binding.bind_input, port, held[-1])
        batch, _, height, width = inputs[0].shape
        port, scale = self.exported.output, self.exported.scale
        # Numbers have no height and width, or fixed ones.
        sizes = (batch, 0, height * scale, width * scale)
        shape = [size if isinstance(dim, str) else dim for dim, size in zip(port.dims, sizes, strict=False)]
        output = torch.empty(shape, dtype=getattr(torch, port.type), device=self.device)
        self._bind(binding.bind_output, port, output)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # ONNX Runtime has a stream of its own
        self.session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return output / 255 if port.type == "uint8" else output

    def _bind(self, bind: Any, port: Port, tensor: Tensor) -> None:  # noqa: ANN401 - a method of ONNX Runtime
        place = self.device.type, self.device.index or 0
        bind(port.name, *place, getattr(np, port.type), tuple(tensor.shape), tensor.data_ptr())


def _import() -> ModuleType:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(
            f"runtime='onnx' needs ONNX Runtime, which cannot be imported ({error}): pip install 'artmodels[onnx]', or "
            "'artmodels[onnx-gpu]' for CUDA, never both"
        ) from error


def _choose_provider(provider: str | None, device: torch.device | None, available: Sequence[str]) -> str:
    """Name the provider that is asked for, or the best that is built in."""
    here = [name for name in PROVIDERS if PROVIDERS[name] in available]
    if provider is None and device is None:
        if "cuda" not in here and torch.cuda.is_available():
            _warn_once(
                "this ONNX Runtime was built without CUDA, so graphs run on the CPU: for CUDA, pip uninstall "
                "onnxruntime and pip install 'artmodels[onnx-gpu]'"
            )
        return "cuda" if "cuda" in here else "cpu"
    wanted = provider or (device.type if device else "")
    if wanted not in PROVIDERS:
        raise ConfigError(f"ONNX Runtime is not used here with {wanted!r}: give {', '.join(PROVIDERS)}")
    if device is not None and (device.type == "cpu") != (wanted == "cpu"):
        raise ConfigError(f"provider={wanted!r} does not run on device {str(device)!r}: leave one of them out")
    if wanted not in here:
        raise DeviceError(
            f"this ONNX Runtime was built without {wanted}; it has {', '.join(here)}: pip uninstall onnxruntime and "
            "pip install 'artmodels[onnx-gpu]', or use the CPU"
        )
    return wanted


def _open(onnxruntime: ModuleType, exported: Exported, wanted: str, index: int) -> tuple[Any, str]:
    """Return a session and the provider that it runs on: the one wanted, or what still works, with a warning."""
    data = exported.verified(MODEL)
    exported.verified(CONFIG)
    threads = torch.get_num_threads()
    key = (exported.files[MODEL], wanted, index, threads)
    with _lock:
        session = _sessions.get(key)
        if session is None:
            session = _sessions[key] = _start(onnxruntime, exported, data, wanted, index, threads)
    first = session.get_providers()[0]
    return session, next(name for name, full in PROVIDERS.items() if full == first)


def _start(onnxruntime: ModuleType, exported: Exported, data: bytes, wanted: str, index: int, threads: int) -> Any:  # noqa: ANN401
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: what we have to say about providers is said below, once
    settings: dict[str, dict[str, object]] = {
        "cpu": {},
        # EXHAUSTIVE, the default, tries every algorithm for every new size.
        "cuda": {
            "device_id": index,
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        },
        "tensorrt": {
            "device_id": index,
            "trt_fp16_enable": exported.precision == "float16",
            "trt_engine_cache_enable": True,
            "trt_timing_cache_enable": True,
            "trt_engine_cache_path": str(exported.folder / "tensorrt"),
            "trt_timing_cache_path": str(exported.folder / "tensorrt"),
        },
    }
    if wanted != "cpu":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            onnxruntime.preload_dlls()  # finds CUDA and cuDNN in the wheels that PyTorch depends on
        logger.debug("preload_dlls: %s", printed.getvalue())
    reason = "its libraries could not be loaded"
    names = list(PROVIDERS)
    for last in range(names.index(wanted), -1, -1):
        providers = [(PROVIDERS[name], settings[name]) for name in names[last::-1]]
        try:
            # Without its own fall-back, which prints.
            session = onnxruntime.InferenceSession(data, options, providers=providers, enable_fallback=0)
        except Exception as error:  # ONNX Runtime's own errors derive from nothing narrower
            if names[last] == "cpu":
                raise WeightsError(
                    f"ONNX Runtime {onnxruntime.__version__} cannot open {exported.folder / MODEL}: {error}. Export "
                    "the model again, or install a newer onnxruntime."
                ) from error
            reason = str(error).strip().splitlines()[0]
            continue
        got = session.get_providers()[0]
        if got != PROVIDERS[wanted]:
            _warn_once(f"{PROVIDERS[wanted]} does not start ({reason}); graphs run on {got} instead")
        return session
    raise AssertionError("the CPU is the last to be tried")


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning(text)
