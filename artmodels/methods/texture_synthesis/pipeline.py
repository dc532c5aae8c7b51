"""Texture synthesis: an image in, a new image of the same stuff out, of any size."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Interval
from torch import Tensor

from artmodels import images
from artmodels.descent import algebra
from artmodels.descent.method import FeatureMatching, MatchingConfig, Steps, checked_size, run_to_the_end
from artmodels.descent.objective import TextureObjective
from artmodels.descent.optimise import SMALLEST, CoarseToFine, Deadline, Level, Step, coloured_noise, levels, scaled
from artmodels.descent.terms import TERMS
from artmodels.errors import ConfigError, ImageError
from artmodels.images.resampling import resized
from artmodels.images.results import ImageResult
from artmodels.methods.texture_synthesis.layout import canvas, fitted_to_torus, periods, shifted_pieces
from artmodels.methods.texture_synthesis.metrics import verbatim_share
from artmodels.settings import Count

__all__ = ["TextureConfig", "TextureSynthesizer"]

# The coarsest level is where the layout of a texture is decided, so it must be small against the features.
COARSEST_PATCHES = 16
COARSEST_FEATURES = 64
SHORTEST_PERIOD = 16  # px: at coarser levels a patch sees too much at once, and pulls a ruled layout apart


@dataclass(frozen=True, kw_only=True)
class TextureConfig(MatchingConfig):
    """Settings of texture synthesis. The defaults are those of patches; the catalogue's entries set others."""

    # Nearest patches alone blur and repeat; sliced Wasserstein alone mixes what belongs together.
    loss: Annotated[str, "What must agree: a loss, or a sum such as gram + 0.1 * spectrum."] = (
        "0.5 * patch_nearest(sizes=(8,), variety=20.0, refine=True) + 0.5 * patch_sliced_wasserstein"
    )
    finish: Annotated[
        str | None, "Loss of some last steps at full size: texture-patches sharpens with patch_sliced_wasserstein."
    ] = None
    finish_steps: Annotated[Count, "How many those are."] = 40
    finish_rate_end: Annotated[
        float, Interval(gt=0, le=1), "What remains of the rate at their end: more keeps fine grain, and noise."
    ] = 0.6
    steps: Steps = 8
    halvings: Annotated[
        int | None, Ge(0), "How often the size is halved to start (the papers' K). None: from the size."
    ] = None
    exemplar_side: Annotated[
        int | None, Ge(SMALLEST), "A larger exemplar is reduced to this side, and the result says so. None: never."
    ] = 1024
    layout: Annotated[
        Literal["auto", "noise"],
        "auto: tiles, wicker and the like start from pieces of the exemplar, periods apart; noise: nothing does.",
    ] = "auto"
    tileable: Annotated[bool, "Make the result repeat without a seam (patches do, unless the exemplar is ruled)."] = (
        False
    )
    tile: Annotated[
        int | None, Ge(SMALLEST), "Images larger than this are measured tile by tile, exactly, in bounded memory."
    ] = 1024

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        super().__post_init__()
        algebra.parse(self.loss, TERMS)
        if self.finish is not None:
            algebra.parse(self.finish, TERMS)


class TextureSynthesizer(FeatureMatching[TextureConfig]):
    """Synthesise textures from an exemplar by matching its statistics.

    Source: Gatys et al. 2015 and its successors; `artmodels.descent.terms` has the losses. The default, patches, needs
    no network.

        >>> textures = TextureSynthesizer.from_pretrained(steps=2)  # a draft
        >>> wall = textures("brick.png", size=(64, 96), seed=1)
        >>> wall.image.size
        (96, 64)
        >>> wall.save("wall.png")
    """

    method: ClassVar[str] = "texture_synthesis"
    config_class: ClassVar[type] = TextureConfig

    def stream(
        self,
        exemplar: images.Source,
        *,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        deadline: float | None = None,
        **overrides: object,
    ) -> Iterator[Step | ImageResult]:
        """Synthesise a texture.

        Closing the iterator stops the work. Calling the object itself takes the same and `progress`, True for a bar on
        stderr, and returns the result alone.

        Args:
            exemplar: Path, bytes, PIL image, array or tensor.
            size: (height, width) of the result; None for the default, 512 px on a CPU and 1024 px on a GPU for the
                longer side, in the exemplar's proportions.
            seed: Same seed, input and device: same bytes, on a CPU.
            deadline: Seconds after which the best image so far is returned, marked incomplete.
            **overrides: Fields of `TextureConfig` for this call only.

        Yields:
            A `Step` after each step; last an `ImageResult`, the image and how it came about.

        Raises:
            ImageError: The exemplar cannot be used.
            ConfigError: A setting or the size is wrong.
            DeadlineExceeded: The time passed before the first step.
        """
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
        finish = None if config.finish is None else algebra.parse(config.finish, TERMS)
        layers = self._layers(config.layers)
        ruled = None if config.layout == "noise" else periods(target)
        room, given = size, target  # `room` is what is worked on
        if ruled is not None and config.tileable:
            target, ruled = fitted_to_torus(target, ruled, size)
            notes.append("The pattern was stretched a little, so that the seamless result holds whole periods.")
        elif ruled is not None:
            room = canvas(size, ruled)
        plan = self._plan(target, room, config, loss)
        if ruled is None:
            start = coloured_noise(target, plan[0][1], seed)
        else:
            start = shifted_pieces(target, ruled, room, seed)
            shortest = float(np.hypot(*ruled.T).min()) / min(target.shape[-2:])
            plan = [level for level in plan[:-1] if shortest * min(level[0]) >= SHORTEST_PERIOD] + plan[-1:]
        torus = config.tileable or self.extractor is None
        bounds = target.amin(dim=(2, 3), keepdim=True), target.amax(dim=(2, 3), keepdim=True)

        def level(number: int, image: Tensor) -> Level:
            reference_size, image_size = plan[min(number, len(plan) - 1)]
            wanted, reference, own = loss, resized(target, reference_size), config
            if finish is not None and number == len(plan):
                wanted, reference = finish, given  # which no stretching has softened
                own = dataclasses.replace(config, rate_end=config.finish_rate_end)
            objective = TextureObjective(
                wanted,
                reference,
                extractor=self.extractor,
                layers=layers,
                size=image_size,
                circular=config.tileable,
                seed=seed,
                tile=config.tile,
                checkpoint=config.checkpoint,
            )
            return Level(objective, resized(image, image_size, circular=torus).clamp(*bounds), bounds, own)

        descent = CoarseToFine(start, limit)
        steps = [config.steps] * len(plan) + ([] if finish is None else [config.finish_steps])
        yield from descent.stream(level, steps=steps, settings=config)
        image = resized(descent.image, room, circular=torus).clamp(*bounds)
        top, left = ((whole - side) // 2 for whole, side in zip(room, size, strict=True))
        image = image[..., top : top + size[0], left : left + size[1]]
        if ruled is not None:
            across, along = np.hypot(*ruled.T)
            notes.append(
                f"The exemplar repeats every {across:.0f} and {along:.0f} px, so the result began as pieces of it; "
                f"{verbatim_share(image, target):.0%} of the result is copied from it as it stands."
            )
        origin = loaded.origin and loaded.origin.scaled(size[1] / given.shape[3], size[0] / given.shape[2])
        yield descent.result(image, self._settings(config, seed, size), notes, origin)

    __call__ = run_to_the_end(stream)

    def _size(self, target: Tensor, size: tuple[int, int] | None) -> tuple[int, int]:
        height, width = target.shape[-2:]
        if min(height, width) < SMALLEST:
            raise ImageError(
                f"the exemplar is {width} x {height} px, too small to hold a texture: use one of at least "
                f"{SMALLEST} px on each side, better 128"
            )
        if size is None:
            size = scaled((height, width), (512 if self.device.type == "cpu" else 1024) / max(height, width))
        return checked_size(size)

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
            context = algebra.Context(size=size, layers=self._layers(config.layers), circular=True)
            taps = {tap for _, _, term in loss.terms() for tap in term.taps(context)}
            step = max(map(self.extractor.stride, taps), default=1)
            if size[0] % step or size[1] % step:
                near = [max(step, round(side / step) * step) for side in size]
                raise ConfigError(
                    f"a seamless texture on these features needs sides that are multiples of {step} px: "
                    f"ask for size=({near[0]}, {near[1]})"
                )
        references = levels(height, width, halvings, config.per_octave)
        sizes = levels(*size, halvings, config.per_octave)
        return [
            (reference, (max(step, h // step * step), max(step, w // step * step)))
            for reference, (h, w) in zip(references, sizes, strict=True)
        ]
