"""What the methods that match features by descent share: common settings, and how they are put together."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, Self, TypeVar

import torch

from artmodels import features, hub, runtime
from artmodels.descent.algebra import Taps
from artmodels.descent.optimise import SMALLEST, DescentConfig, Step
from artmodels.errors import ConfigError
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.stages import Padding, Pooling
from artmodels.hub import catalogue
from artmodels.images.results import ImageResult
from artmodels.progress import result_of
from artmodels.settings import Count

__all__ = ["LARGEST", "LAYERS", "FeatureMatching", "MatchingConfig", "Steps", "checked_size", "run_to_the_end"]

P = ParamSpec("P")

FIXED = ("features", "pooling", "padding")  # what the extractor is made with
PATCHES = "patches"  # features that need no extractor
LAYERS = {
    "vgg": ("relu1_1", "pool1", "pool2", "pool3", "pool4"),  # Gatys et al. 2015
    "resnet": ("stem", "layer1", "layer2", "layer3"),
}

LARGEST = 4096  # px: what the methods were tried up to

Steps = Annotated[Count, "Steps at each level. Time grows in proportion."]


def checked_size(size: object) -> tuple[int, int]:
    """(height, width) as a caller asks for it, or a ConfigError."""
    sides = tuple(size) if isinstance(size, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and SMALLEST <= side <= LARGEST for side in sides):
        raise ConfigError(f"size={size!r} must be (height, width) of {SMALLEST} to {LARGEST} px each")
    return sides


def run_to_the_end(stream: Callable[P, Iterator[Step | ImageResult]]) -> Callable[P, ImageResult]:
    """Make a method's `__call__` of its `stream`, which ends with `**overrides`.

    It takes the same and `progress`, and gives the result alone.
    """

    @functools.wraps(stream, assigned=("__module__", "__doc__"))
    def call(*args: P.args, **options: P.kwargs) -> ImageResult:
        progress = bool(options.pop("progress", False))
        return result_of(stream(*args, **options), progress=progress)

    *named, overrides = inspect.signature(stream).parameters.values()
    progress = inspect.Parameter("progress", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=bool)
    shown = inspect.Signature([*named, progress, overrides], return_annotation=ImageResult)
    call.__signature__ = shown  # type: ignore[attr-defined]  # inspect's own protocol
    return call


@dataclass(frozen=True, kw_only=True)
class MatchingConfig(DescentConfig):
    """Settings that every such method has."""

    features: Annotated[str, "What the loss looks at: patches (no network), random-filters, vgg19, ..."] = PATCHES
    layers: Annotated[Taps, "Taps for terms that name none; None: those of the features' paper."] = None
    steps: Steps
    per_octave: Annotated[Count, "Levels per halving of the size; 1 is the paper's, 2 keeps structure better."] = 2
    pooling: Annotated[Pooling, "avg or max, for VGG. Averages give smoother textures (Gatys et al. 2015)."] = "avg"
    padding: Annotated[Padding, "How networks see borders: reflect, zeros, replicate, circular."] = "reflect"
    checkpoint: Annotated[bool, "Compute activations twice, to keep fewer: less memory, a third slower."] = False


M = TypeVar("M", bound=MatchingConfig)


class FeatureMatching(hub.Pretrained[M]):
    """Base of the methods: a configuration, a device, and an extractor unless raw patches are enough."""

    def __init__(
        self,
        config: M | None = None,
        *,
        extractor: FeatureExtractor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Put it together, with features of one's own or those that `config.features` names.

        Features that have weights to load are a ConfigError: only `from_pretrained` loads them. The device None picks
        CUDA, then MPS, then CPU.
        """
        self.config = config or self.config_class()
        self.device = runtime.pick_device(device)
        if extractor is None and self.config.features != PATCHES:
            if catalogue.get(self.config.features).weights is not None:
                raise ConfigError(
                    f"features={self.config.features!r} have weights: use {type(self).__name__}.from_pretrained, which "
                    "loads them, or pass extractor="
                )
            extractor = features.build(
                self.config.features, pooling=self.config.pooling, padding=self.config.padding, device=self.device
            )
        self.extractor = extractor.to(self.device) if extractor is not None else None

    @classmethod
    def _build(cls, config: M, resolved: hub.Resolved, placement: hub.Placement) -> Self:
        device = runtime.pick_device(placement.device)
        extractor = None
        if config.features != PATCHES:
            extractor = features.load(
                config.features,
                local_files_only=placement.local_files_only,
                pooling=config.pooling,
                padding=config.padding,
                dtype=runtime.pick_dtype(device, placement.dtype),
                device=device,
            )
        return cls(config, extractor=extractor, device=device)

    def _overridden(self, overrides: dict[str, object]) -> M:
        """The configuration with some fields replaced for one call."""
        for name in FIXED:
            if name in overrides and overrides[name] != getattr(self.config, name):
                kind = type(self).__name__
                value = f"{name}={overrides[name]!r}"
                raise ConfigError(f"{name} is fixed when a {kind} is made: use {kind}.from_pretrained(..., {value})")
        config: M = hub.config_from(self.config_class, {**dataclasses.asdict(self.config), **overrides})
        return config

    def _layers(self, given: Taps, usual: Iterable[tuple[str, ...]] = LAYERS.values()) -> tuple[str, ...]:
        """The taps for terms that name none: those given, or the first usual ones that the extractor has, or all."""
        if given is not None or self.extractor is None:
            return given or ()
        return next((taps for taps in usual if set(taps) <= set(self.extractor.taps)), self.extractor.taps)

    def _settings(self, config: M, seed: int, size: tuple[int, int]) -> dict[str, Any]:
        """What a result records, so that it can be made again."""
        return self._record({"seed": seed, "size": list(size), **dataclasses.asdict(config)})
