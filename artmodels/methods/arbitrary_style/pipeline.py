"""Pictures in the manner of any other picture, in one pass."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from artmodels import images
from artmodels.errors import ConfigError, one_of
from artmodels.images.colour import linearly_matched, luminance, with_chroma
from artmodels.images.resampling import at_size, check_size, one_or_each, picture, resized
from artmodels.images.results import ImageResult
from artmodels.methods.arbitrary_style.inception import InceptionStyle
from artmodels.methods.arbitrary_style.model import ArbitraryStyleConfig, StyleStatistics, StyleTransformer
from artmodels.runtime.feedforward import FeedForward, Graph

__all__ = ["ArbitraryStyle", "StyleCode"]

STYLES = 4  # that may be blended
STYLE_SIZES = (32, 1024)  # px
PREDICTOR = "predictor"

Colour = Literal["none", "luminance", "transfer"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StyleCode:
    """What a model says of a style: some 100 numbers that stand for it, so that it need be looked at only once.

    Attributes:
        vector: float32 [description].
        model: Checkpoint that understands the numbers; None is one that is not of the catalogue.
    """

    vector: Tensor = field(repr=False)
    model: str | None


Style = images.Source | StyleCode
Seen = images.LoadedImage | StyleCode


class ArbitraryStyle(FeedForward[ArbitraryStyleConfig]):
    """Repaint pictures in the manner of any other picture, or of a blend of several.

    Ghiasi, Lee, Kudlur, Dumoulin and Shlens 2017, "Exploring the structure of a real-time, arbitrary neural artistic
    stylization network" (arXiv:1705.06830).

        >>> stylise = ArbitraryStyle.from_pretrained()
        >>> stylise("photo.jpg", "style.jpg").save("out.png")
        >>> blend = stylise("photo.jpg", ["style.jpg", "brick.png"], style_weights=[0.7, 0.3], strength=0.8)
        >>> blend.settings["style_weights"]
        [0.7, 0.3]
    """

    method = "arbitrary_style"
    main = "transformer"
    config_class = ArbitraryStyleConfig

    @classmethod
    def _network(cls, config: ArbitraryStyleConfig) -> Graph:
        return StyleTransformer(config)

    @classmethod
    def _companions(cls, config: ArbitraryStyleConfig) -> Mapping[str, Graph]:
        if config.predictor == "inception":
            return {PREDICTOR: InceptionStyle(config.bottleneck)}
        return {PREDICTOR: StyleStatistics(config)}

    def describe(self, style: images.Source, *, style_size: int = 256) -> StyleCode:
        """Look at a style once, for calls of this model on many pictures; they explain `style_size` and the errors."""
        _check_style_size(style_size)
        return self._code(picture(style, "style").tensor(), style_size)

    # A text, which is a path, would be a sequence of texts too; it never comes here as one.
    @overload
    def __call__(
        self, image: list[images.Source], styles: Style | Sequence[Style], *,
        style_weights: Sequence[float] | None = ..., strength: float = ..., colour: Colour = ...,
        style_size: int = ..., size: tuple[int, int] | None = ..., progress: bool = ...,
    ) -> list[ImageResult]: ...  # fmt: skip
    @overload
    def __call__(
        self, image: images.Source, styles: Style | Sequence[Style], *,
        style_weights: Sequence[float] | None = ..., strength: float = ..., colour: Colour = ...,
        style_size: int = ..., size: tuple[int, int] | None = ..., progress: bool = ...,
    ) -> ImageResult: ...  # fmt: skip
    def __call__(
        self,
        image: images.Source | list[images.Source],
        styles: Style | Sequence[Style],
        *,
        style_weights: Sequence[float] | None = None,
        strength: float = 1.0,
        colour: Colour = "none",
        style_size: int = 256,
        size: tuple[int, int] | None = None,
        progress: bool = False,
    ) -> ImageResult | list[ImageResult]:
        """Stylise one picture, or each of a list: one result a picture.

        Args:
            image: What `artmodels.images.load` reads, or a list of such.
            styles: A picture to paint like, or what `describe` said of one; or up to four of them, which are blended.
            style_weights: Shares of the styles, 0 or more; None gives all the same.
            strength: Where between the picture's own style (0) and the style asked for (1) to paint; 0 is nearly the
                picture itself (section 3.5 of the paper).
            colour: "none" takes the style's colours; "luminance" keeps the picture's own exactly; "transfer" gives the
                style the picture's colours before it is looked at, which a `StyleCode` no longer allows.
            style_size: Side in pixels, 32 to 1024, of the square that has the area to which a style is reduced before
                it is looked at: larger gives broader strokes. Styles are never enlarged.
            size: (height, width) of the result; None keeps the picture's own. Strokes keep their size in pixels, so a
                smaller picture has larger strokes.
            progress: Show a bar, for lists.

        Raises:
            ConfigError: A setting is out of range, or a `StyleCode` is of another model.
            ImageError: A picture cannot be read, or is smaller than 8 pixels.
            ImageTooLarge: The picture has more pixels than `ArbitraryStyle.limit`.
        """
        if not isinstance(strength, int | float) or not 0 <= strength <= 1:
            raise ConfigError(f"strength={strength!r} must be from 0 (the picture's own style) to 1 (the style)")
        one_of("colour", colour, get_args(Colour))
        _check_style_size(style_size)
        check_size(size)
        asked: list[Style] = list(styles) if isinstance(styles, list | tuple) else [styles]  # type: ignore[list-item]
        shares = _shares(style_weights, len(asked))
        seen: list[Seen] = []
        for number, style in enumerate(asked, start=1):
            if isinstance(style, StyleCode):
                self._check_code(style, colour)
                seen.append(style)
            else:
                seen.append(picture(style, "style" if len(asked) == 1 else f"style {number}"))
        options: dict[str, Any] = {"style_weights": shares, "strength": strength, "colour": colour}
        options |= {"style_size": style_size, "size": size}
        blend = None if colour == "transfer" else self._blend(seen, shares, style_size)
        return one_or_each(image, lambda source: self._run_one(source, seen, blend, options), progress=progress)

    def _run_one(
        self, source: images.Source, styles: list[Seen], blend: Tensor | None, options: dict[str, Any]
    ) -> ImageResult:
        start = time.perf_counter()
        loaded = picture(source)
        content = at_size(loaded, options["size"])
        vector = blend
        if vector is None:
            vector = self._blend(styles, options["style_weights"], options["style_size"], like=content)
        if options["strength"] < 1:
            own = self._code(content, options["style_size"]).vector
            vector = own.lerp(vector, options["strength"])
        result = self._infer(content, vector[None])
        if options["colour"] == "luminance":
            result = with_chroma(luminance(result), content)
        notes = list(loaded.notes)
        for number, style in enumerate(styles, start=1):
            if isinstance(style, images.LoadedImage):
                notes += [f"Style {number}: {note}" for note in style.notes]
        made = options | {"size": list(content.shape[-2:])}
        return self._result(result, options=made, start=start, notes=notes, origin=loaded.origin)

    def _blend(self, styles: list[Seen], shares: list[float], style_size: int, *, like: Tensor | None = None) -> Tensor:
        """Give the mean [description] of what stands for styles, recoloured like a picture where one is given."""
        vectors = []
        for style in styles:
            if isinstance(style, StyleCode):
                vectors.append(style.vector)
                continue
            pixels = style.tensor()
            if like is not None:
                pixels = linearly_matched(_bounded(pixels, style_size), like).clamp(0, 1)
            vectors.append(self._code(pixels, style_size).vector)
        return torch.tensor(shares) @ torch.stack(vectors)

    def _code(self, pixels: Tensor, style_size: int) -> StyleCode:
        # A small picture is padded to what the predictor takes.
        reduced = self.companions[PREDICTOR].requirements.pad(_bounded(pixels, style_size))
        vector = self._companion(PREDICTOR, reduced)[0]
        return StyleCode(vector=vector, model=self._name)

    def _check_code(self, code: StyleCode, colour: Colour) -> None:
        if code.model != self._name or tuple(code.vector.shape) != (self.config.description,):
            raise ConfigError(
                f"the StyleCode is of the model {code.model!r} with {code.vector.numel()} numbers, and this one is "
                f"{self._name!r} with {self.config.description}: let this one describe the style again"
            )
        if colour == "transfer":
            raise ConfigError(
                "colour='transfer' recolours a style before it is looked at: give its picture, not a StyleCode"
            )


def _bounded(pixels: Tensor, side: int) -> Tensor:
    """Reduce [1, 3, H, W] to the area of a square of `side` pixels."""
    height, width = pixels.shape[-2:]
    ratio = side / math.sqrt(height * width)
    if ratio >= 1:
        return pixels
    return resized(pixels, (max(1, round(height * ratio)), max(1, round(width * ratio)))).clamp(0, 1)


def _check_style_size(style_size: object) -> None:
    least, most = STYLE_SIZES
    if not isinstance(style_size, int) or not least <= style_size <= most:
        raise ConfigError(f"style_size={style_size!r} must be a whole number of pixels from {least} to {most}")


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of styles, made to sum to 1."""
    if not 1 <= count <= STYLES:
        raise ConfigError(f"there are {count} styles: give 1 to {STYLES}")
    if weights is None:
        return [1 / count] * count
    given = [float(weight) for weight in weights]
    if len(given) != count or not all(0 <= weight < math.inf for weight in given) or not sum(given) > 0:
        raise ConfigError(
            f"style_weights={list(weights)} must be {count} numbers of 0 or more, not all 0: one for each style"
        )
    return [weight / sum(given) for weight in given]
