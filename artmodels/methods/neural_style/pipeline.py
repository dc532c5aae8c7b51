"""Neural style: a content image and one or more styles in, the content repainted out."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from artmodels import images
from artmodels.descent import algebra
from artmodels.descent.algebra import Taps, shrunk
from artmodels.descent.method import FeatureMatching, MatchingConfig, Steps, checked_size, run_to_the_end
from artmodels.descent.objective import MatchingObjective, Target
from artmodels.descent.optimise import SMALLEST, CoarseToFine, Deadline, Level, Step, coloured_noise, levels, scaled
from artmodels.descent.terms import TERMS, TotalVariation
from artmodels.errors import ConfigError, ImageError
from artmodels.images.colour import linearly_matched, luminance, with_chroma
from artmodels.images.resampling import picture, resized
from artmodels.images.results import ImageResult
from artmodels.methods.neural_style.model import CONTENT_TERMS, histogram_matched, palette_matched, shares
from artmodels.settings import Positive, Weight

__all__ = ["NeuralStyle", "StyleConfig"]

MATCHES = {"transfer": linearly_matched, "histogram": histogram_matched}
CONTENT_LAYERS = (("relu4_2",), ("layer3",))  # Gatys et al. 2016; the ResNet layer of the same stride


@dataclass(frozen=True, kw_only=True)
class StyleConfig(MatchingConfig):
    """Settings of neural style. The defaults are those of patches; the catalogue's entries set others."""

    loss: Annotated[str, "How style is measured: any loss of texture synthesis, or a sum of some."] = (
        "patch_nearest(wrap=False) + 0.2 * patch_sliced_wasserstein(octaves=1, wrap=False)"
    )
    content_loss: Annotated[
        str, "How content is measured: content (of features), pixels(octave=n) of n halvings, or a sum."
    ] = "0.25 * pixels + pixels(octave=1)"
    style_weight: Annotated[Weight, "Weight of the style. Only its ratio to the other weights matters."] = 1.0
    content_weight: Annotated[Weight, "Weight of the content: more keeps the subject, less lets the style in."] = 0.4
    tv_weight: Annotated[Weight, "Weight of total variation: more is smoother."] = 0.02
    colour: Annotated[
        Literal["none", "luminance", "transfer", "histogram"],
        "Whose colours: none (the style's), luminance (the content's, exactly), transfer or histogram (a style "
        "recoloured like the content first).",
    ] = "none"
    palette: Annotated[bool, "Compare with the content in the style's colours, which frees colour from content."] = True
    init: Annotated[Literal["content", "noise"], "Start from the content or from noise."] = "content"
    style_scale: Annotated[Positive, "Size of the style's strokes: 1 fits the style to the result's longer side."] = 1.0
    content_layers: Annotated[Taps, "Taps for content terms that name none."] = None
    steps: Steps = 10
    first_level: Annotated[Positive, "Times as many steps at the coarsest level, where they cost least."] = 1.0
    coarsest: Annotated[
        int, Ge(SMALLEST), "Longer side of the coarsest level, about. Smaller lets the style move larger forms."
    ] = 64

    def __post_init__(self) -> None:
        """Check what can be checked without loading anything."""
        super().__post_init__()
        algebra.parse(self.loss, TERMS)
        algebra.parse(self.content_loss, CONTENT_TERMS)
        if self.style_weight + self.content_weight == 0:
            raise ConfigError("style_weight and content_weight are both 0: nothing is left to paint")


class NeuralStyle(FeatureMatching[StyleConfig]):
    """Repaint a picture in the style of others by descending a content and a style loss (Gatys et al. 2016).

    The losses of texture synthesis measure style; `neural_style.model` has those of content. The default needs no
    network: patches like the style's, held to the content in the style's colours.

        >>> painter = NeuralStyle.from_pretrained(steps=2)  # a draft
        >>> painted = painter("photo.jpg", "style.jpg", seed=1)
        >>> painted.image.size
        (128, 96)
        >>> painted.save("painted.png")
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
        loaded = picture(content, "content")
        sources: list[images.Source] = list(styles) if isinstance(styles, list | tuple) else [styles]  # type: ignore[list-item]
        weights = _weights(style_weights, len(sources))
        pictures = [picture(source, "style") for source in sources]
        notes = list(loaded.notes)
        for number, style in enumerate(pictures, start=1):
            notes += [f"Style {number}: {note}" for note in style.notes]
        original = loaded.tensor().to(self.device)
        size = self._size(original, size, notes)
        whole_masks = _masks(masks, len(sources), original)
        subject = resized(original, size).clamp(0, 1)
        targets = [_fitted(style.tensor().to(self.device), size, config.style_scale) for style in pictures]
        source = subject
        if config.colour == "luminance":
            source = luminance(subject).expand(1, 3, -1, -1)
            targets = [_bright(target, source) for target in targets]
        elif config.colour in MATCHES:
            targets = [MATCHES[config.colour](target, subject).clamp(0, 1) for target in targets]
        regions, coverage = shares([shrunk(mask.to(self.device), size) for mask in whole_masks], weights)
        form = palette_matched(source, targets, regions, coverage) if config.palette else source

        halvings = max(0, round(math.log2(max(size) / config.coarsest)))
        halvings = min(halvings, math.floor(math.log2(min(size) / SMALLEST)))
        plan = levels(*size, halvings, config.per_octave)
        loss, content_loss = algebra.parse(config.loss, TERMS), algebra.parse(config.content_loss, CONTENT_TERMS)
        layers, content_layers = self._layers(config.layers), self._layers(config.content_layers, CONTENT_LAYERS)

        def level(number: int, image: Tensor) -> Level:
            level_size = plan[number]
            ratio = max(level_size) / max(size)
            goals = []
            for style, region in zip(targets, regions, strict=True):
                exemplar = resized(style, scaled(style.shape[-2:], ratio)).clamp(0, 1)
                share = shrunk(region, level_size)
                if float(share.std()) > 0:
                    goals.append(Target(loss=loss, exemplar=exemplar, weight=config.style_weight, region=share))
                else:
                    weight = config.style_weight * float(share.mean())
                    goals.append(Target(loss=loss, exemplar=exemplar, weight=weight))
            level_form = resized(form, level_size)
            for term, weight in ((content_loss, config.content_weight), (TotalVariation(), config.tv_weight)):
                goals.append(Target(loss=term, exemplar=level_form, weight=weight, layers=content_layers))
            objective = MatchingObjective(
                [goal for goal in goals if goal.weight],
                extractor=self.extractor,
                layers=layers,
                size=level_size,
                seed=seed,
                tile=None,
                checkpoint=config.checkpoint,
            )
            if number == 0 and config.init == "noise":
                image = coloured_noise(level_form, level_size, seed)
            bounds = _bounds(resized(source, level_size), shrunk(coverage, level_size))
            return Level(objective, resized(image, level_size).clamp(*bounds), bounds)

        def presentable(image: Tensor) -> Tensor:
            if config.colour != "luminance":
                return image
            return with_chroma(luminance(image), resized(subject, (image.shape[2], image.shape[3])).clamp(0, 1))

        descent = CoarseToFine(resized(form, plan[0]), limit)
        steps = [max(1, round(config.steps * config.first_level)), *[config.steps] * (len(plan) - 1)]
        for step in descent.stream(level, steps=steps, settings=config):
            yield dataclasses.replace(step, image=presentable(step.image))
        image = resized(descent.image, size).clamp(*_bounds(source, coverage))
        settings = self._settings(config, seed, size) | {"style_weights": weights, "masks": masks is not None}
        yield descent.result(presentable(image), settings, notes, loaded.origin)

    __call__ = run_to_the_end(stream)

    def _size(self, content: Tensor, size: tuple[int, int] | None, notes: list[str]) -> tuple[int, int]:
        height, width = content.shape[-2:]
        if size is None:
            scale = min(1.0, (1024 if self.device.type == "cpu" else 2048) / max(height, width))
            size = scaled((height, width), scale)
            if scale < 1:
                notes.append(
                    f"Painted at {size[1]} x {size[0]} px, where the content has {width} x {height}; "
                    "pass size= for more."
                )
        return checked_size(size)


def _fitted(style: Tensor, size: tuple[int, int], style_scale: float) -> Tensor:
    """The style at the size that goes with the full size of the result; only `style_scale` > 1 enlarges it."""
    longer = max(style.shape[-2:])
    scale = min(style_scale * max(size) / longer, max(1.0, style_scale))
    return resized(style, scaled(style.shape[-2:], scale)).clamp(0, 1)


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
    given = [None] * count if masks is None else masks
    if len(given) != count:
        raise ConfigError(f"{len(given)} masks for {count} styles; give one for each, None where it goes everywhere")
    read = []
    for number, mask in enumerate(given, start=1):
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
    matched = (grey - grey.mean()) * (wanted.std() / grey.std().clamp_min(1e-6)) + wanted.mean()
    return matched.clamp(0, 1).expand(1, 3, -1, -1)


def _bounds(source: Tensor, coverage: Tensor) -> tuple[Tensor, Tensor]:
    """Where painted, [0, 1]; where not, the content itself; between, as far from it as the coverage lets."""
    return source * (1 - coverage), source * (1 - coverage) + coverage
