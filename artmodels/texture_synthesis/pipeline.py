"""Texture synthesis: an image in, a new image of the same stuff out, of any size."""

import dataclasses
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

import artmodels
from artmodels import features, hub, images, runtime
from artmodels.errors import ConfigError, ImageError
from artmodels.features import FeatureExtractor
from artmodels.multiscale import Level, Progress, coarse_to_fine, coloured_noise, drained, resized
from artmodels.optimise import Deadline, Optimiser, OptimiserName, Step, levels
from artmodels.results import ImageResult
from artmodels.texture_synthesis import algebra
from artmodels.texture_synthesis.model import TERMS
from artmodels.texture_synthesis.objective import TextureObjective

__all__ = ["TextureConfig", "TextureSynthesizer"]

logger = logging.getLogger(__name__)

SMALLEST = 8  # px: fewer hold no texture
LARGEST = 4096  # px: what the methods were tried up to
# The coarsest level is where the layout of a texture is decided, so it must be small against the features.
COARSEST_PATCHES = 16
COARSEST_FEATURES = 64
LAYERS = {
    "vgg": ("relu1_1", "pool1", "pool2", "pool3", "pool4"),  # Gatys et al. 2015
    "resnet": ("stem", "layer1", "layer2", "layer3"),
}


def _knob(default: Any, help_: str) -> Any:  # noqa: ANN401 - as dataclasses.field itself
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, kw_only=True)
class TextureConfig:
    """Settings of texture synthesis. The defaults are those of patches; the catalogue's entries set others."""

    features: str = _knob("patches", "What the loss looks at: patches (no network), random-filters, vgg19, ...")
    loss: str = _knob(
        "patch_sliced_wasserstein", "What must agree, as a sum: gram + 0.1 * spectrum. Names in the table below."
    )
    layers: tuple[str, ...] | None = _knob(None, "Taps for terms that name none; None: those of the features' paper.")
    optimiser: OptimiserName = _knob("momentum", "momentum for patches, adam for sampled losses, lbfgs for exact ones.")
    steps: int = _knob(120, "Steps at each level. Time grows in proportion.")
    rate: float = _knob(1.0, "Step length: in natural steps for momentum, in grey levels (0 to 1) for adam.")
    rate_end: float = _knob(0.1, "What remains of the rate at the end of a level; small values remove noise.")
    momentum: float = _knob(0.8, "Share of the last step carried on.")
    average: float = _knob(0.0, "Weight of the past in the average of iterates that is shown; 0 shows the last one.")
    refresh_every: int = _knob(1, "Steps that share random directions; lbfgs needs 20 or more on sliced losses.")
    halvings: int | None = _knob(None, "K of multi-resolution: K halvings, coarse to fine. None: from the size.")
    per_octave: int = _knob(2, "Levels per halving; 1 is the paper's, 2 keeps structure better and costs twice.")
    exemplar_side: int | None = _knob(
        1024, "An exemplar with a longer side is reduced to it, and the result says so. None: never."
    )
    tileable: bool = _knob(False, "Make the result repeat without a seam (patches always do).")
    pooling: str = _knob("avg", "avg or max, for VGG. Averages give smoother textures (Gatys et al. 2015).")
    padding: str = _knob("reflect", "How networks see borders: reflect, zeros, replicate, circular.")
    tile: int | None = _knob(1024, "Images larger than this are measured tile by tile, exactly, in bounded memory.")
    checkpoint: bool = _knob(False, "Compute activations twice instead of keeping them: less memory, a third slower.")

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        algebra.parse(self.loss, TERMS)
        self.descent()
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps} must be at least 1")
        if self.halvings is not None and self.halvings < 0:
            raise ConfigError(f"halvings={self.halvings} must be 0 or more, or None to choose from the size")
        if self.exemplar_side is not None and self.exemplar_side < SMALLEST:
            raise ConfigError(f"exemplar_side={self.exemplar_side} must be at least {SMALLEST}, or None")
        if self.per_octave < 1:
            raise ConfigError(f"per_octave={self.per_octave} must be at least 1")
        if self.tile is not None and self.tile < SMALLEST:
            raise ConfigError(f"tile={self.tile} must be at least {SMALLEST} px, better 512, or None for no tiles")

    def descent(self) -> Optimiser:
        """The optimiser these settings describe."""
        return Optimiser(
            name=self.optimiser,
            rate=self.rate,
            rate_end=self.rate_end,
            momentum=self.momentum,
            average=self.average,
            refresh_every=self.refresh_every,
        )


class TextureSynthesizer(hub.Pretrained):
    """Synthesise textures from an exemplar by matching its statistics.

    Source: Gatys et al. 2015 and its successors; see `texture_synthesis.model` for the losses and
    `optimise` for the descent. The default needs no network: sliced Wasserstein matching of patches.
    """

    method: ClassVar[str] = "texture_synthesis"
    config_class: ClassVar[type] = TextureConfig

    def __init__(
        self,
        config: TextureConfig | None = None,
        *,
        extractor: FeatureExtractor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Put a synthesizer together.

        Args:
            config: Settings.
            extractor: Features to use instead of those that `config.features` names, with any weights.
            device: Where to compute; None picks CUDA, then MPS, then CPU.
        """
        self.config = config or TextureConfig()
        self.device = runtime.pick_device(device)
        if extractor is None and self.config.features != "patches":
            extractor = features.build(
                self.config.features, pooling=self.config.pooling, padding=self.config.padding, device=self.device
            )
        self.extractor = extractor.to(self.device) if extractor is not None else None

    @classmethod
    def _build(
        cls,
        config: TextureConfig,
        resolved: hub.Resolved,
        *,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        local_files_only: bool,
    ) -> Self:
        chosen = runtime.pick_device(device)
        extractor = None
        if config.features != "patches":
            extractor = features.load(
                config.features,
                local_files_only=local_files_only,
                pooling=config.pooling,
                padding=config.padding,
                dtype=runtime.pick_dtype(chosen, dtype),
                device=chosen,
            )
        return cls(config, extractor=extractor, device=chosen)

    def __call__(
        self,
        exemplar: images.Source,
        *,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        deadline: float | None = None,
        progress: bool = False,
        **overrides: object,
    ) -> ImageResult:
        """Synthesise a texture.

        Args:
            exemplar: Path, bytes, PIL image, array or tensor.
            size: (height, width) of the result; None for the default, 512 px on a CPU and 1024 px on a GPU for the
                longer side, in the exemplar's proportions.
            seed: Same seed, input and device: same bytes, on a CPU.
            deadline: Seconds after which the best image so far is returned, marked incomplete.
            progress: Show a progress bar on stderr.
            **overrides: Fields of `TextureConfig` for this call only.

        Returns:
            The image and how it came about.

        Raises:
            ImageError: The exemplar cannot be used.
            ConfigError: A setting or the size is wrong.
            DeadlineExceeded: The time passed before the first step.
        """
        return drained(self.stream(exemplar, size=size, seed=seed, deadline=deadline, **overrides), progress=progress)

    def stream(
        self,
        exemplar: images.Source,
        *,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        deadline: float | None = None,
        **overrides: object,
    ) -> Iterator[Step | ImageResult]:
        """As calling, but yields a `Step` after each step and the result last. Closing the iterator stops the work."""
        config = self._overridden(overrides)
        limit = Deadline(deadline)
        loaded = images.load(exemplar)
        target = loaded.tensor().to(self.device)
        notes = list(loaded.notes)
        if config.exemplar_side is not None and max(target.shape[-2:]) > config.exemplar_side:
            height, width = target.shape[-2:]
            scale = config.exemplar_side / max(height, width)
            target = resized(target, (max(1, round(height * scale)), max(1, round(width * scale)))).clamp(0, 1)
            notes.append(
                f"The exemplar was reduced from {width} x {height} to {target.shape[3]} x {target.shape[2]} px, so its "
                "pattern is that much smaller in the result; exemplar_side=None keeps it, in more time and memory."
            )
        size = self._size(target, size)
        loss = algebra.parse(config.loss, TERMS)
        layers = recommended_layers(self.extractor) if config.layers is None else config.layers
        plan = self._plan(target, size, config, loss)
        torus = config.tileable or self.extractor is None
        bounds = target.amin(dim=(2, 3), keepdim=True), target.amax(dim=(2, 3), keepdim=True)

        def level(number: int, image: Tensor) -> Level:
            reference_size, image_size = plan[number]
            objective = TextureObjective(
                loss,
                resized(target, reference_size),
                extractor=self.extractor,
                layers=layers,
                size=image_size,
                circular=config.tileable,
                seed=seed,
                tile=config.tile,
                checkpoint=config.checkpoint,
            )
            return Level(objective, resized(image, image_size, circular=torus).clamp(*bounds), bounds)

        reached = Progress(image=coloured_noise(target, plan[0][1], seed))
        yield from coarse_to_fine(
            reached, level, steps=[config.steps] * len(plan), optimiser=config.descent(), limit=limit
        )
        if not reached.complete:
            notes.append(reached.cut_short(limit))
        image = resized(reached.image, size, circular=torus).clamp(*bounds)
        settings: dict[str, Any] = {
            "method": self.method,
            "artmodels_version": artmodels.__version__,
            "seed": seed,
            "size": list(size),
            **dataclasses.asdict(config),
        }
        yield ImageResult(
            tensor=image.cpu(),
            settings=settings,
            losses=tuple(reached.losses),
            seconds=limit.elapsed,
            complete=reached.complete,
            notes=tuple(notes),
        )

    def _overridden(self, overrides: dict[str, object]) -> TextureConfig:
        for name in ("features", "pooling", "padding"):
            if name in overrides and overrides[name] != getattr(self.config, name):
                raise ConfigError(
                    f"{name} is fixed when a synthesizer is made: use TextureSynthesizer.from_pretrained(..., "
                    f"{name}={overrides[name]!r})"
                )
        return hub.config_from(TextureConfig, {**dataclasses.asdict(self.config), **overrides})

    def _size(self, target: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
        height, width = target.shape[-2:]
        if min(height, width) < SMALLEST:
            raise ImageError(
                f"the exemplar is {width} x {height} px, too small to hold a texture: use one of at least "
                f"{SMALLEST} px on each side, better 128"
            )
        if size is None:
            scale = (512 if self.device.type == "cpu" else 1024) / max(height, width)
            size = max(SMALLEST, round(height * scale)), max(SMALLEST, round(width * scale))
        sides = tuple(size) if isinstance(size, tuple | list) else ()
        if len(sides) != 2 or not all(isinstance(side, int) and SMALLEST <= side <= LARGEST for side in sides):
            raise ConfigError(f"size={size!r} must be (height, width) of {SMALLEST} to {LARGEST} px each")
        return sides

    def _plan(
        self, target: Tensor, size: tuple[int, int], config: TextureConfig, loss: algebra.Loss
    ) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """(exemplar size, image size) of each level, coarse to fine."""
        height, width = target.shape[-2:]
        shortest = min(height, width, *size)
        halvings = config.halvings
        if halvings is None:
            coarsest = COARSEST_PATCHES if self.extractor is None else COARSEST_FEATURES
            halvings = max(0, math.floor(math.log2(shortest / coarsest)))
        if halvings > math.log2(shortest / SMALLEST):
            raise ConfigError(
                f"halvings={halvings} would begin with less than {SMALLEST} px, as the shortest side of exemplar and "
                f"result is {shortest} px: use at most {math.floor(math.log2(shortest / SMALLEST))}, or None"
            )
        step = 1
        if config.tileable and self.extractor is not None:
            layers = recommended_layers(self.extractor) if config.layers is None else config.layers
            context = algebra.Context(size=size, layers=layers, circular=True)
            taps = {tap for _, _, term in loss.terms() for tap in term.taps(context) + term.moment_taps(context)}
            step = max(map(self.extractor.stride, taps), default=1)
            if size[0] % step or size[1] % step:
                near = [max(step, round(side / step) * step) for side in size]
                raise ConfigError(
                    f"a seamless texture on these features needs sides that are multiples of {step} px: "
                    f"ask for size=({near[0]}, {near[1]})"
                )
        plan = zip(
            levels(height, width, halvings, config.per_octave),
            levels(*size, halvings, config.per_octave),
            strict=True,
        )
        rounded = [
            (reference, (max(step, h // step * step), max(step, w // step * step))) for reference, (h, w) in plan
        ]
        return rounded


def recommended_layers(extractor: FeatureExtractor | None) -> tuple[str, ...]:
    """Taps that suit texture: those of Gatys et al. for VGG, all of them for random filters."""
    if extractor is None:
        return ()
    for layers in LAYERS.values():
        if set(layers) <= set(extractor.taps):
            return layers
    return extractor.taps
