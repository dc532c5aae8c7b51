"""What methods that are one pass of a network have in common: weights, runtime, sizes, tiles and results.

A network states its demands as data: `requirements` (the sizes it accepts), `scale` (output over input size), `tiling`
and, where it may be tiled, `context` (pixels that an output pixel depends on, to each side). Everything else is here.

A method may have companions: further networks that are run by themselves, such as one that looks at a style and says
numbers. They share its checkpoint, whose keys then begin with their names, and have graphs of their own.
"""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels import hub, runtime
from artmodels.errors import ConfigError, HashMismatch, ImageTooLarge, MissingWeights
from artmodels.hub import catalogue
from artmodels.hub.outline import Outline
from artmodels.hub.pretrained import C
from artmodels.images.formats.origin import Origin
from artmodels.images.results import ImageResult
from artmodels.images.tiling import SizeRequirements, Tiling, fit_run, tiled
from artmodels.runtime import graphs

__all__ = ["FeedForward", "Graph", "doubled", "normalised", "rectified"]

EPSILON = 1e-5  # what is added to a variance


class Graph(nn.Module):
    """A feed-forward network with its demands. The first input is an image [N, C, H, W] in [0, 1], as is the output."""

    requirements: SizeRequirements = SizeRequirements()  # sizes that the first input may have
    scale: int = 1  # height and width of the output over those of the first input
    tiling: ClassVar[Tiling] = Tiling.INTERNAL
    context: int = 0  # pixels of the input, to each side, that a pixel of the output depends on; for tiling
    inputs: ClassVar[tuple[str, ...]] = ("image",)  # names, for graphs
    output: ClassVar[str] = "result"
    pictures: ClassVar[bool] = True  # whether the output is an image in [0, 1], or numbers of any size, [N, ...]

    def example(self, batch: int, height: int, width: int, *, seed: int = 0) -> tuple[Tensor, ...]:
        """Make inputs to export, check and time the network with: an image [N, 3, H, W] of soft shapes and grain.

        A network with further inputs overrides this and adds them.
        """
        if len(self.inputs) != 1 and type(self).example is Graph.example:
            raise ConfigError(
                f"{type(self).__name__} takes {', '.join(self.inputs)} and does not define example(), which says what "
                "they look like: it cannot be exported"
            )
        random = runtime.generator(seed)
        coarse = torch.rand(batch, 3, height // 8 + 2, width // 8 + 2, generator=random)
        soft = F.interpolate(coarse, size=(height, width), mode="bilinear")
        grain = torch.rand(batch, 3, height, width, generator=random)
        return (0.8 * soft + 0.2 * grain,)


def normalised(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise instances (Ulyanov et al. 2016), then scale and shift channels: [C], or [N, C] where images differ.

    Where float32 is inferred on the CPU, x is overwritten: at the size of pictures, memory that was never touched
    before costs more than the arithmetic.
    """
    if torch.is_inference_mode_enabled() and x.device.type == "cpu" and x.dtype == torch.float32:
        mean = x.mean((2, 3))
        scale = scale * (x.square().mean((2, 3)) - mean.square()).clamp_min(0).add(EPSILON).rsqrt()
        return torch.addcmul((shift - mean * scale)[..., None, None], x, scale[..., None, None], out=x)
    if scale.dim() == 1:
        return F.instance_norm(x, weight=scale, bias=shift, eps=EPSILON)
    return F.instance_norm(x, eps=EPSILON) * scale[..., None, None] + shift[..., None, None]


def rectified(x: Tensor) -> Tensor:
    """Rectify: in place where x is inferred, as no one else holds it."""
    return F.relu(x, inplace=torch.is_inference_mode_enabled())


def doubled(x: Tensor, weight: Tensor) -> Tensor:
    """Repeat pixels, reflect the border and convolve with [O, I, 3, 3], all at the smaller size: [N, O, 2H, 2W].

    Among repeated pixels the nine taps of each of the four outputs of a pixel fall on four inputs: their weights are
    added first, and the features are never copied at the larger size.
    """
    # Which neighbours (-1, 0, 1) the taps of an even and of an odd output fall on.
    falls = weight.new_tensor([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
    four = torch.einsum("pat,qbs,oits->opqiab", falls, falls, weight).reshape(-1, weight.shape[1], 3, 3)
    return F.pixel_shuffle(F.conv2d(F.pad(x, (1,) * 4, mode="replicate"), four), 2)


class FeedForward(hub.Pretrained[C]):
    """Base of the feed-forward methods. A subclass makes its network from its configuration, and calls `_infer`.

    One with companions makes these as well, in `_companions`, and calls `_companion`. `network` is the network in
    evaluation mode, or None where an exported graph computes instead; `runner` is what computes.
    """

    limit: ClassVar[int] = 12_000_000  # pixels that are run in one piece, by a network that may not be tiled
    tile: ClassVar[int] = 512
    main: ClassVar[str] = "network"  # where there are companions, what the keys of the network itself begin with

    def __init__(
        self,
        config: C | None = None,
        *,
        network: Graph | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        runner: runtime.Runner | None = None,
        companions: Mapping[str, Graph] | None = None,
        companion_runners: Mapping[str, runtime.Runner] | None = None,
    ) -> None:
        """Put it together; `from_pretrained` is the usual way.

        Args:
            config: Settings; None takes the defaults.
            network: With the weights it is to have; None makes one with random weights.
            device: Where to compute; None picks CUDA, then MPS, then CPU.
            dtype: What to compute in; None picks float16 on CUDA and float32 elsewhere.
            runner: Computes instead of the network: a graph.
            companions: Further networks, with the weights they are to have; None makes them with random weights.
            companion_runners: Compute instead of them: graphs.
        """
        self.config = config or self.config_class()
        self.device = runtime.pick_device(device)
        self.dtype = self._computed(self.config, self.device, dtype)
        if network is None:
            with Outline() if runner else contextlib.nullcontext():  # a graph has the weights
                network = self._network(self.config)
        self.graph = network
        self.network = None if runner else network
        self.runner = runner or self._runner(network)
        self.companions = dict(self._companions(self.config) if companions is None else companions)
        self.companion_runners = companion_runners or {
            name: self._runner(part) for name, part in self.companions.items()
        }

    @property
    def largest(self) -> int:
        """Pixels that it takes of a picture whose own size is kept."""
        return super().largest if self.graph.tiling is Tiling.SUPPORTED else self.limit

    def _runner(self, network: Graph) -> runtime.Runner:
        return runtime.TorchRunner(network.requires_grad_(False), device=self.device, dtype=self.dtype)

    @classmethod
    def _computed(cls, config: C, device: torch.device | str | None, dtype: torch.dtype | None) -> torch.dtype:
        """What to compute in: what is asked for, or float16 on CUDA and float32 elsewhere."""
        place = runtime.pick_device(device)
        usual = torch.float16 if place.type == "cuda" else None
        return runtime.pick_dtype(place, dtype or usual)

    @classmethod
    def _network(cls, config: C) -> Graph:
        """Make the network that a configuration describes, with random weights."""
        raise NotImplementedError

    @classmethod
    def _companions(cls, config: C) -> Mapping[str, Graph]:
        """Make the companions that a configuration describes, with random weights; most methods have none."""
        return {}

    @classmethod
    def _stored(cls, network: Graph, companions: Mapping[str, Graph]) -> nn.Module:
        """What a checkpoint holds: the network, or by name the network and its companions."""
        return nn.ModuleDict({cls.main: network, **companions}) if companions else network

    @classmethod
    def _build(cls, config: C, resolved: hub.Resolved, placement: hub.Placement) -> Self:
        network, companions = resolved.fill(
            lambda: (cls._network(config), cls._companions(config)),
            lambda parts: cls._stored(*parts),
            dtype=cls._computed(config, placement.device, placement.dtype),
        )
        return cls(config, network=network, companions=companions, device=placement.device, dtype=placement.dtype)

    @classmethod
    def _from_graph(
        cls, name_or_path: str | os.PathLike[str] | None, runtime: str, *, fixed: dict[str, object], **place: Any
    ) -> Self:
        """Load a graph; `place` is the device and the provider that are asked for."""
        if runtime != "onnx":
            raise ConfigError(f"runtime={runtime!r} is not one of 'torch', 'onnx'")
        name = os.fspath(catalogue.default(cls.method).name if name_or_path is None else name_or_path)
        folder = Path(name).expanduser()
        if not (folder / graphs.SIDECAR).is_file():
            raise ConfigError(
                f"{name!r} is not a folder with an exported graph: write one with `python -m export {name} --out DIR` "
                f"in a checkout of artmodels, and load {Path('DIR', folder.name).as_posix()!r}; or use runtime='torch'."
            )
        if fixed:
            raise ConfigError(
                f"{', '.join(fixed)} cannot be chosen for a graph, in which all is fixed: leave it out, or export the "
                "checkpoint as it should be (--fp16 for half precision)."
            )
        stored = hub.read_config(folder)
        cls._check_method(name, stored.get("method"))
        runner = graphs.OnnxRunner(folder, **place)
        source = runner.exported.source
        if "part" in source:
            raise ConfigError(
                f"{name} is the {source['part']} of a model, without the rest: load the folder beside it, of the same "
                f"name without -{source['part']}, which finds this one."
            )
        config = cls._configured(stored, {}, folder)
        with Outline():
            companions = cls._companions(config)
        model = cls(
            config,
            device=runner.device,
            dtype=runner.dtype,
            runner=runner,
            companions=companions,
            companion_runners={part: _companion_graph(folder, part, source, **place) for part in companions},
        )
        for entry in catalogue.list_models():
            if entry.weights is not None and source == {"name": entry.name, "sha256": entry.weights.sha256}:
                model._entry = entry
        return model

    def _tensors(self) -> dict[str, Tensor]:
        if self.network is None:
            raise ConfigError("A graph has no weights to save: load the checkpoint with runtime='torch'.")
        stored = self._stored(self.network, self.companions)
        return {key: value.half() if value.is_floating_point() else value for key, value in stored.state_dict().items()}

    def _companion(self, name: str, *inputs: Tensor) -> Tensor:
        """Run a companion once, on inputs that it accepts; its output as it is, float32 on the CPU."""
        return self.companion_runners[name](*inputs).float().cpu()

    def _infer(self, x: Tensor, *extras: Tensor, tile: int | None = None) -> Tensor:
        """Run the network on an image [1, C, H, W] in [0, 1] of any size; `extras` are its further inputs.

        A network that may be tiled runs in tiles of side `tile`; None tiles only what is larger than twice the usual
        tile; any other takes `limit` pixels. The result is [1, C', H * scale, W * scale] in [0, 1], float32 on the CPU.
        """
        network = self.graph

        def run(piece: Tensor) -> Tensor:
            return self.runner(piece, *extras).float()

        height, width = x.shape[-2:]
        side = tile or self.tile
        if network.tiling is Tiling.SUPPORTED and max(height, width) > (tile or 2 * side):
            multiple = network.requirements.multiple_of
            overlap = 4 * network.context
            side = max(side, 2 * overlap)
            side = -(-side // multiple) * multiple
            result = tiled(run, x, tile=side, overlap=overlap, scale=network.scale, multiple_of=multiple)
        else:
            if height * width > self.limit:
                raise ImageTooLarge(
                    f"the image has {height * width / 1e6:.1f} megapixels, and {type(self).__name__} needs it whole, "
                    f"which is limited to {self.limit / 1e6:g}: pass size= for a smaller result, or reduce the image"
                )
            requirements = network.requirements
            if network.tiling is Tiling.SUPPORTED:
                # Not where statistics of the whole image matter: they would take in the padding.
                multiple = math.lcm(requirements.multiple_of, self.runner.bucket)
                requirements = dataclasses.replace(requirements, multiple_of=multiple)
            result = fit_run(run, x, requirements, network.scale)
        return result.clamp(0, 1).cpu()

    def _result(
        self,
        tensor: Tensor,
        *,
        options: Mapping[str, object],
        start: float,
        notes: Sequence[str] = (),
        origin: Origin | None = None,
    ) -> ImageResult:
        """Wrap what `_infer` gave, with what it takes to make it again, and the origin of the picture behind it."""
        settings = self._record({"model": self._name, **options, **dataclasses.asdict(self.config)})
        seconds = time.perf_counter() - start
        return ImageResult(tensor=tensor, settings=settings, seconds=seconds, notes=tuple(notes), origin=origin)


def _companion_graph(folder: Path, part: str, source: Mapping[str, object], **place: Any) -> graphs.OnnxRunner:
    """Open the graph of a companion, which must have been exported from the same weights."""
    beside = graphs.companion_folder(folder.resolve(), part)
    again = f"export both again, with `python -m export {source.get('name', 'NAME')} --out {beside.parent}`."
    if not (beside / graphs.SIDECAR).is_file():
        raise MissingWeights(f"{folder} needs its {part}, which is not in {beside}: {again}")
    runner = graphs.OnnxRunner(beside, **place)
    theirs = runner.exported.source
    if theirs.get("part") != part:
        raise ConfigError(f"{beside} is not the {part} of a model, which {folder} needs: {again}")
    if theirs.get("sha256") != source.get("sha256"):
        raise HashMismatch(
            f"{beside} was made from weights with sha256 {theirs.get('sha256')}, and {folder} from "
            f"{source.get('sha256')}: {again}"
        )
    return runner
