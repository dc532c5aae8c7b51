"""Features of an image at named points ("taps") of a frozen network, or of no network at all.

An extractor is a list of stages, each reading the image or an earlier stage; the taps are names of stages. A
forward runs the stages that the asked taps need and no other. All geometry (stride, receptive field, smallest
image) is computed from that list.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as checkpointed

from artmodels import hub
from artmodels.errors import ConfigError, ImageError, listing, one_of, short, suggest
from artmodels.features.networks import (
    NONE,
    TRAINED,
    WEIGHT_FREE,
    Node,
    Preprocessing,
    checkpoint_layout,
    convolutions,
    named_nodes,
    randomise,
)
from artmodels.features.stages import Padding, Pooling, Window
from artmodels.hub.checkpoints import check_numbers
from artmodels.runtime.devices import generator, pick_device
from artmodels.settings import config_from

__all__ = ["FeatureExtractor", "build", "load", "moments"]


class FeatureExtractor(nn.Module):
    """A frozen network read at named taps. Made by `build` or `load`.

    It has no trainable parameter and is always in evaluation mode; gradients flow to the image.
    """

    gain: Tensor
    offset: Tensor

    def __init__(
        self,
        name: str,
        nodes: Sequence[Node],
        *,
        preprocessing: Preprocessing = NONE,
        padding: str = "reflect",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Put stages together, each after the one it reads; messages call them `name`.

        The preprocessing is applied inside the forward, and `padding` is its default. The stages compute in `dtype`:
        bfloat16 pays only on hardware that multiplies in it.
        """
        super().__init__()
        self.name = name
        self.padding = one_of("padding", padding, get_args(Padding))
        self.preprocessing = preprocessing
        self.dtype = dtype
        self.stages = nn.ModuleList(node.stage for node in nodes)
        self.sources = tuple(node.source for node in nodes)
        self.index = {tap: i for i, node in enumerate(nodes) for tap in node.taps}
        self._paths = list[tuple[Window, ...]]()  # per stage, the windows between the image and its output
        for node in nodes:
            before = self._paths[node.source] if node.source >= 0 else ()
            self._paths.append((*before, *node.stage.windows))
        self._channels = tuple(node.stage.channels for node in nodes)
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.register_buffer("gain", (preprocessing.scale / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (mean / std).view(1, 3, 1, 1), persistent=False)
        self.stages.to(dtype).to(memory_format=torch.channels_last)
        self.requires_grad_(False)
        self.eval()

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of all taps, shallow to deep."""
        return tuple(self.index)

    def forward(
        self, x: Tensor, taps: Sequence[str], *, padding: str | None = None, checkpoint: bool = False
    ) -> dict[str, Tensor]:
        """Features at the taps asked.

        With circular padding and sides that are multiples of `stride(tap)`, rolling the image by such a
        multiple rolls the features and changes nothing else.

        Args:
            x: [N, 3, H, W], RGB in [0, 1]; values outside are taken as they are.
            taps: Names from `taps`. Stages deeper than these, or beside them, do not run.
            padding: "reflect", "zeros" (as the networks were trained), "circular", "replicate" or "valid"
                (none); None takes the extractor's own.
            checkpoint: Keep activations only between blocks and compute the rest again in the backward: the
                same gradient for less memory and one more forward.

        Returns:
            Tap to float32 [N, channels(tap), H', W'], in the order asked; in channels-last layout except for
            "patches", so that `f.permute(0, 2, 3, 1).reshape(N, -1, C)` is a view.

        Raises:
            ConfigError: A tap or padding mode that does not exist; no tap.
            ImageError: Not a float [N, 3, H, W], or smaller than `minimum_size` of a tap.
        """
        mode = self._mode(padding)
        self._check(x, taps, mode)
        asked = {self._find(tap) for tap in taps}
        x = self._preprocess(x)

        segments = self._segments(asked)
        heads = [self.sources[segment[0]] for segment in segments]
        kept = asked.union(heads)
        outputs: dict[int, Tensor] = {-1: x}
        del x
        for n, segment in enumerate(segments):
            run: Callable[..., tuple[Tensor, ...]] = self._run
            arguments = (outputs[heads[n]], segment, kept, mode)
            if checkpoint and torch.is_grad_enabled():
                results = checkpointed(run, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                results = run(*arguments)
            del arguments
            if heads[n] not in asked and heads[n] not in heads[n + 1 :]:
                del outputs[heads[n]]
            outputs.update(zip((i for i in segment if i in kept), results, strict=True))
        return {tap: outputs[self.index[tap]].float() for tap in taps}

    def stride(self, tap: str) -> int:
        """Pixels of the image between neighbouring features."""
        return math.prod(window.stride for window in self._path(tap))

    def receptive_field(self, tap: str) -> int:
        """Side in pixels of the square of the image that one feature sees (theoretical, borders aside)."""
        size, jump = 1, 1
        for window in self._path(tap):
            size += (window.kernel - 1) * jump
            jump *= window.stride
        return size

    def channels(self, tap: str) -> int:
        """Number of feature maps at the tap."""
        return self._channels[self._find(tap)]

    def minimum_size(self, tap: str, *, padding: str | None = None) -> int:
        """Smallest side in pixels for which the tap has a feature and every padding has pixels to copy."""
        mode = self._mode(padding)
        size = 1
        for window in reversed(self._path(tap)):
            pad = 0 if mode == "valid" else window.padding
            size = max(1, (size - 1) * window.stride + window.kernel - 2 * pad)
            if pad and mode == "reflect":
                size = max(size, pad + 1)
            elif pad and mode == "circular":
                size = max(size, pad)
        return size

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Stay in evaluation mode: there is nothing to train."""
        return super().train(False)

    def extra_repr(self) -> str:
        """One line for `print`."""
        return f"{self.name}, padding={self.padding}, {self.preprocessing}"

    def _run(self, x: Tensor, segment: Sequence[int], kept: set[int], padding: str) -> tuple[Tensor, ...]:
        results = []
        for i in segment:
            x = self.stages[i](x, padding)
            if i in kept:
                results.append(x)
        return tuple(results)

    def _segments(self, asked: set[int]) -> list[list[int]]:
        """The stages that `asked` needs, in order, cut where a block ends or another branch begins."""
        needed: set[int] = set()
        for i in asked:
            while i >= 0 and i not in needed:
                needed.add(i)
                i = self.sources[i]
        segments: list[list[int]] = []
        for i in sorted(needed):
            last = segments[-1][-1] if segments else -1
            if segments and self.sources[i] == last and not self.stages[last].ends_block:
                segments[-1].append(i)
            else:
                segments.append([i])
        return segments

    def _preprocess(self, x: Tensor) -> Tensor:
        if self.preprocessing.bgr:
            x = x.flip(1)
        if self.preprocessing != NONE:
            x = x * self.gain - self.offset
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last)

    def _check(self, x: Tensor, taps: Sequence[str], padding: str) -> None:
        if isinstance(taps, str) or not taps:
            raise ConfigError(f"taps must be a list of at least one of {listing(self.taps)}, not {taps!r}.")
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ImageError(
                f"{self.name} reads a floating-point tensor [N, 3, H, W] in [0, 1], not {x.dtype} {list(x.shape)}."
            )
        height, width = x.shape[-2:]
        tap = max(taps, key=lambda tap: self.minimum_size(tap, padding=padding))
        size = self.minimum_size(tap, padding=padding)
        if min(height, width) < size:
            raise ImageError(
                f"The image is {width} x {height} pixels, but {self.name} at {tap!r} with {padding} padding "
                f"needs at least {size} x {size}. Give a larger image or a shallower tap."
            )

    def _mode(self, padding: str | None) -> str:
        return self.padding if padding is None else one_of("padding", padding, get_args(Padding))

    def _find(self, tap: str) -> int:
        if tap not in self.index:
            raise ConfigError(
                f"{self.name} has no tap {tap!r}.{suggest(str(tap), self.taps)} Choose from {listing(self.taps)}."
            )
        return self.index[tap]

    def _path(self, tap: str) -> tuple[Window, ...]:
        """The windows between the image and the tap, first to last."""
        return self._paths[self._find(tap)]


def build(
    name: str,
    *,
    pooling: str = "avg",
    padding: str = "reflect",
    seed: int = 0,
    maps: int = 32,
    until: str | None = None,
    preprocessing: Preprocessing | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> FeatureExtractor:
    """An extractor with seeded random weights (He), or one that has none.

    Args:
        name: "art-vgg", "art-resnet", "vgg16", "vgg19", "resnet18", "resnet50", "random-filters" or "patches".
        pooling: "avg" or "max": the pools of a VGG. Average gives better textures (Gatys et al. 2015); the networks
            were trained with max. A ResNet, art-resnet and art-vgg keep their own.
        padding: Default padding mode; see `FeatureExtractor.forward`.
        seed: Seed of the weights; the same seed gives the same weights.
        maps: Feature maps per size of "random-filters" (the paper has 128).
        until: Leave out the stages after this tap.
        preprocessing: Colour order, scale, mean and deviation; None takes the name's own.
        dtype: See `FeatureExtractor`; features are float32 whatever it is.
        device: Where to put it; None leaves it on the CPU.

    Raises:
        ConfigError: An unknown name, pooling, padding or tap.
    """
    nodes, usual = named_nodes(name, pooling=pooling, until=until, maps=maps)
    randomise(nodes, generator(seed))
    extractor = FeatureExtractor(name, nodes, preprocessing=preprocessing or usual, padding=padding, dtype=dtype)
    return extractor if device is None else extractor.to(pick_device(device))


def load(
    name: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    pooling: str = "avg",
    padding: str = "reflect",
    until: str | None = None,
    preprocessing: Preprocessing | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> FeatureExtractor:
    """An extractor with trained weights; a name that has no weights is built as by `build`.

    The whole layout of the file is checked, and only the tensors of the stages up to `until` are read.

    Args:
        name: As for `build`; or a folder or Hub repository (`owner/name`) whose config.json names one of them
            as its "architecture", as timm's do.
        revision: Commit, tag or branch on the Hub; None takes the one that the catalogue pins.
        local_files_only: Never use the network.
        pooling: See `build`.
        padding: See `build`.
        until: See `build`.
        preprocessing: What the weights expect, such as `CAFFE` for weights converted from Caffe. None takes
            the mean and deviation in config.json (timm's "pretrained_cfg"), or else the architecture's.
        dtype: See `build`.
        device: See `build`.

    Raises:
        ConfigError: An unknown name, pooling, padding or tap.
        WeightsError: The weights are not there, or are not this architecture's.
    """
    # Before anything is fetched.
    one_of("pooling", pooling, get_args(Pooling))
    one_of("padding", padding, get_args(Padding))
    place = pick_device(device or "cpu")
    resolved = hub.resolve(name, revision=revision, local_files_only=local_files_only)
    if name in WEIGHT_FREE:
        return build(name, padding=padding, until=until, preprocessing=preprocessing, dtype=dtype, device=device)
    config: Mapping[str, Any] = {"architecture": name} if name in TRAINED else resolved.config()
    architecture = config.get("architecture")
    if architecture not in TRAINED:
        raise ConfigError(
            f'The config.json of {name} says "architecture": {short(architecture)}, and features can be read from '
            f"{listing(TRAINED)} only."
        )
    nodes, usual = named_nodes(architecture, pooling=pooling, until=until)
    layers = list(convolutions(nodes))
    wanted = {key for conv in layers for key in conv.keys()}  # noqa: SIM118 - a method, not a dict's
    tensors = resolved.load(checkpoint_layout(architecture), wanted=wanted.__contains__, dtype=torch.float32)
    for conv in layers:
        conv.assign(tensors)
        # Normalisation is folded in, which small variances make large.
        check_numbers(resolved.weights_file, {f"{conv.key}.weight": conv.weight, f"{conv.key}.bias": conv.bias}, dtype)
    stated = config.get("pretrained_cfg")
    if preprocessing is None and isinstance(stated, dict) and {"mean", "std"} <= stated.keys():
        try:
            preprocessing = config_from(Preprocessing, {key: stated[key] for key in ("mean", "std")})
        except ConfigError as error:
            raise ConfigError(f"The pretrained_cfg in the config.json of {name} does not do: {error}") from None
    extractor = FeatureExtractor(name, nodes, preprocessing=preprocessing or usual, padding=padding, dtype=dtype)
    return extractor.to(place)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Means [N, C] and covariances [N, C, C] of features [N, C, H, W] over positions."""
    flat = features.flatten(2)
    mean = flat.mean(2, keepdim=True)
    flat = flat - mean
    return mean[:, :, 0], flat @ flat.transpose(1, 2) / flat.shape[2]
