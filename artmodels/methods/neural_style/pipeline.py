"""Neural style: a content image and one or more styles in, the content repainted out."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from artmodels import images
from artmodels.descent import algebra
from artmodels.descent.algebra import Loss, shrunk
from artmodels.descent.method import FeatureMatching, run_to_the_end
from artmodels.descent.multiscale import DescentState, Level, coarse_to_fine, coloured_noise
from artmodels.descent.objective import MatchingObjective, Target
from artmodels.descent.optimise import Deadline, Step, levels
from artmodels.descent.terms import TERMS, TotalVariation
from artmodels.errors import ConfigError, ImageError
from artmodels.images.colour import linearly_matched, luminance, with_chroma
from artmodels.images.resampling import resized
from artmodels.images.results import ImageResult
from artmodels.methods.neural_style.config import SMALLEST, StyleConfig
from artmodels.methods.neural_style.model import CONTENT_TERMS, histogram_matched, palette_matched, shares
from artmodels.methods.texture_synthesis.pipeline import recommended_layers

__all__ = ["NeuralStyle", "StyleConfig"]

LARGEST = 4096  # px: what the methods were tried up to
USUAL = {"cpu": 1024}  # px, longer side of the result when no size is asked for
USUAL_ELSEWHERE = 2048
CONTENT_LAYERS = ("relu4_2", "layer3")  # Gatys et al. 2016; the ResNet layer of the same stride


class NeuralStyle(FeatureMatching[StyleConfig]):
    """Repaint a picture in the style of others by descending a content and a style loss (Gatys et al. 2016).

    The losses of texture synthesis measure style; `neural_style.model` has those of content. The default needs no
    network: patches like the style's, held to the content in the style's colours.
    """

    method: ClassVar[str] = "neural_style"
    config_class: ClassVar[type] = StyleConfig

    def stream(
        self,
        content: images.Source,
        styles: images.Source | Sequence[images.Source],
        *,
        style_weights: Sequence[float] | None = None,
        masks: Sequence[images.Source | None] | None = None,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        deadline: float | None = None,
        **overrides: object,
    ) -> Iterator[Step | ImageResult]:
        """Repaint `content`.

        Closing the iterator stops the work. Calling the object itself takes the same and `progress`, True for a bar on
        stderr, and returns the result alone.

        Args:
            content: Path, bytes, PIL image, array or tensor.
            styles: One image, or a list of several.
            style_weights: Shares of the styles, above 0; None for equal ones. Only their ratios matter.
            masks: One for each style, of the content's size: white where the style goes, black where not, grey for
                soft edges; None in the list for everywhere. Where masks overlap the styles mix; what no mask covers
                keeps the content's pixels.
            size: (height, width) of the result; None for the content's own, up to 1024 px for the longer side on a
                CPU and 2048 px on a GPU: larger ones are reduced to that, and a note says so.
            seed: Same seed, inputs and device: same bytes, on a CPU.
            deadline: Seconds after which the best image so far is returned, marked incomplete.
            **overrides: Fields of `StyleConfig` for this call only.

        Yields:
            A `Step` after each step; last an `ImageResult`, the image and how it came about.

        Raises:
            ImageError: An image or mask cannot be used.
            ConfigError: A setting, a weight or the size is wrong.
            DeadlineExceeded: The time passed before the first step.
        """
        config = self._overridden(overrides)
        limit = Deadline(deadline)
        loaded = images.load(content)
        sources: list[images.Source] = list(styles) if isinstance(styles, list | tuple) else [styles]  # type: ignore[list-item]
        weights = _weights(style_weights, len(sources))
        pictures = [images.load(source) for source in sources]
        notes = list(loaded.notes)
        for number, picture in enumerate(pictures, start=1):
            notes += [f"Style {number}: {note}" for note in picture.notes]
        original = loaded.tensor().to(self.device)
        size = self._size(original, size, notes)
        whole_masks = _masks(masks, len(sources), original)
        subject = resized(original, size).clamp(0, 1)
        targets = [self._fitted(picture.tensor().to(self.device), size, config) for picture in pictures]
        if config.colour == "luminance":
            source = luminance(subject).expand(1, 3, -1, -1)
            targets = [_bright(target, source) for target in targets]
        else:
            source = subject
            match = {"transfer": linearly_matched, "histogram": histogram_matched}.get(config.colour)
            targets = [match(target, subject).clamp(0, 1) for target in targets] if match else targets
        regions, coverage = shares([shrunk(mask.to(self.device), size) for mask in whole_masks], weights)
        form = palette_matched(source, targets, regions, coverage) if config.palette else source

        plan = self._plan(size, config)
        level = self._levels(config, plan, source, form, targets, regions, coverage, seed)
        steps = [round(config.steps * config.first_level), *[config.steps] * (len(plan) - 1)]
        reached = DescentState(image=resized(form, plan[0]))
        for step in coarse_to_fine(
            reached, level, steps=[max(1, count) for count in steps], optimiser=config.descent(), limit=limit
        ):
            yield dataclasses.replace(step, image=self._presentable(step.image, subject, config))
        if not reached.complete:
            notes.append(reached.cut_short(limit))
        settings = self._settings(config, seed, size) | {"style_weights": weights, "masks": masks is not None}
        image = resized(reached.image, size).clamp(*_bounds(source, coverage))
        yield ImageResult(
            tensor=self._presentable(image, subject, config).cpu(),
            settings=settings,
            losses=tuple(reached.losses),
            seconds=limit.elapsed,
            complete=reached.complete,
            notes=tuple(notes),
        )

    __call__ = run_to_the_end(stream)

    def _levels(
        self,
        config: StyleConfig,
        plan: list[tuple[int, int]],
        source: Tensor,
        form: Tensor,
        styles: list[Tensor],
        regions: list[Tensor],
        coverage: Tensor,
        seed: int,
    ) -> Callable[[int, Tensor], Level]:
        loss, content = algebra.parse(config.loss, TERMS), algebra.parse(config.content_loss, CONTENT_TERMS)
        layers = recommended_layers(self.extractor) if config.layers is None else config.layers

        def level(number: int, image: Tensor) -> Level:
            size = plan[number]
            ratio = max(size) / max(plan[-1])
            here = resized(form, size)
            targets = []
            for style, region in zip(styles, regions, strict=True):
                reduced = max(SMALLEST, round(style.shape[2] * ratio)), max(SMALLEST, round(style.shape[3] * ratio))
                share = shrunk(region, size)
                part, weight = (
                    (share, config.style_weight)
                    if float(share.std()) > 0
                    else (None, config.style_weight * float(share.mean()))
                )
                targets.append(
                    Target(loss=loss, exemplar=resized(style, reduced).clamp(0, 1), weight=weight, region=part)
                )
            extras: list[tuple[float, Loss]] = [(config.content_weight, content), (config.tv_weight, TotalVariation())]
            targets += [
                Target(loss=term, exemplar=here, weight=weight, layers=self._content_layers(config))
                for weight, term in extras
                if weight
            ]
            objective = MatchingObjective(
                [target for target in targets if target.weight],
                extractor=self.extractor,
                layers=layers,
                size=size,
                seed=seed,
                tile=None,
                checkpoint=config.checkpoint,
            )
            if number == 0 and config.init == "noise":
                image = coloured_noise(here, size, seed)
            bounds = _bounds(resized(source, size), shrunk(coverage, size))
            return Level(objective, resized(image, size).clamp(*bounds), bounds)

        return level

    def _presentable(self, image: Tensor, subject: Tensor, config: StyleConfig) -> Tensor:
        if config.colour != "luminance":
            return image
        return with_chroma(luminance(image), resized(subject, (image.shape[2], image.shape[3])).clamp(0, 1))

    def _content_layers(self, config: StyleConfig) -> tuple[str, ...]:
        if config.content_layers is not None or self.extractor is None:
            return config.content_layers or ()
        known = tuple(tap for tap in CONTENT_LAYERS if tap in self.extractor.taps)
        return known or self.extractor.taps

    def _size(self, content: Tensor, size: tuple[int, int] | None, notes: list[str]) -> tuple[int, int]:
        height, width = content.shape[-2:]
        if min(height, width) < SMALLEST:
            raise ImageError(
                f"the content is {width} x {height} px, too small to repaint: use one of at least {SMALLEST} px on "
                "each side, better 256"
            )
        if size is None:
            usual = USUAL.get(self.device.type, USUAL_ELSEWHERE)
            scale = min(1.0, usual / max(height, width))
            size = max(SMALLEST, round(height * scale)), max(SMALLEST, round(width * scale))
            if scale < 1:
                notes.append(
                    f"Painted at {size[1]} x {size[0]} px, where the content has {width} x {height}; "
                    "pass size= for more."
                )
        if not all(isinstance(side, int) and SMALLEST <= side <= LARGEST for side in size):
            raise ConfigError(f"size={size} must be (height, width) of {SMALLEST} to {LARGEST} px each")
        return size

    def _fitted(self, style: Tensor, size: tuple[int, int], config: StyleConfig) -> Tensor:
        """The style at the size that goes with the full size of the result; only `style_scale` > 1 enlarges it."""
        height, width = style.shape[-2:]
        if min(height, width) < SMALLEST:
            raise ImageError(
                f"a style is {width} x {height} px, too small to show a manner: use one of at least {SMALLEST} px on "
                "each side, better 256"
            )
        scale = min(config.style_scale * max(size) / max(height, width), max(1.0, config.style_scale))
        return resized(style, (max(SMALLEST, round(height * scale)), max(SMALLEST, round(width * scale)))).clamp(0, 1)

    def _plan(self, size: tuple[int, int], config: StyleConfig) -> list[tuple[int, int]]:
        """Size of each level, coarse to fine."""
        halvings = max(0, round(math.log2(max(size) / config.coarsest)))
        halvings = min(halvings, math.floor(math.log2(min(size) / SMALLEST)))
        return levels(*size, halvings, config.per_octave)


def _weights(weights: Sequence[float] | None, count: int) -> list[float]:
    if count == 0:
        raise ConfigError("no style was given; give at least one image")
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count:
        raise ConfigError(f"{len(given)} style weights for {count} styles; give one for each")
    if not all(0 < weight < math.inf for weight in given):
        raise ConfigError(f"style_weights={given} must all be above 0; leave out a style that should not count")
    return [weight / math.fsum(given) for weight in given]


def _masks(masks: Sequence[images.Source | None] | None, count: int, content: Tensor) -> list[Tensor]:
    """Masks [1, 1, H, W] in [0, 1] at the content's size."""
    height, width = content.shape[-2:]
    everywhere = torch.ones(1, 1, height, width)
    if masks is None:
        return [everywhere] * count
    if len(masks) != count:
        raise ConfigError(
            f"{len(masks)} masks for {count} styles; give one for each, None for a style that goes everywhere"
        )
    read = []
    for number, mask in enumerate(masks, start=1):
        if mask is None:
            read.append(everywhere)
            continue
        values = luminance(images.load(mask).tensor())
        if values.shape[-2:] != (height, width):
            raise ImageError(
                f"mask {number} is {values.shape[3]} x {values.shape[2]} px and the content is {width} x {height}: "
                "paint the mask over a copy of the content and keep its size"
            )
        if not bool((values > 0.5 / 255).any()):
            raise ImageError(
                f"mask {number} is black all over: paint white where its style goes, or leave the style out"
            )
        read.append(values)
    return read


def _bright(style: Tensor, source: Tensor) -> Tensor:
    """The luminance of a style, with the mean and deviation of the content's, in three equal channels."""
    grey, wanted = luminance(style), source[:, :1]
    scaled = (grey - grey.mean()) * (wanted.std() / grey.std().clamp_min(1e-6)) + wanted.mean()
    return scaled.clamp(0, 1).expand(1, 3, -1, -1)


def _bounds(source: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor]:
    """Where painted, [0, 1]; where not, the content itself; between, as far from it as the coverage lets."""
    return source * (1 - coverage), source * (1 - coverage) + coverage
