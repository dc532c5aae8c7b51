"""Photographs in the manner of one painting, in a fraction of a second."""

import time
from typing import overload

from artmodels import images
from artmodels.errors import ConfigError
from artmodels.images.resampling import at_size, check_size, one_or_each, picture
from artmodels.images.results import ImageResult
from artmodels.methods.fast_style.model import FastStyleConfig, TransformerNet
from artmodels.runtime.feedforward import FeedForward, Graph

__all__ = ["FastStyle"]


class FastStyle(FeedForward[FastStyleConfig]):
    """Repaint pictures in the manner of the painting that the weights were trained on.

    Johnson, Alahi and Fei-Fei 2016, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution"
    (arXiv:1603.08155), with the instance normalisation of Ulyanov et al. 2016 (arXiv:1607.08022).

        >>> style = FastStyle.from_pretrained("starry-night")
        >>> style("photo.jpg").save("night.png")
        >>> [result.image.size for result in style(["photo.jpg", "brick.png"], strength=0.5)]
        [(128, 96), (128, 96)]
    """

    method = "fast_style"
    config_class = FastStyleConfig

    @classmethod
    def _network(cls, config: FastStyleConfig) -> Graph:
        return TransformerNet(config)

    @overload
    def __call__(
        self, image: list[images.Source], *, strength: float = ..., size: tuple[int, int] | None = ...,
        progress: bool = ...,
    ) -> list[ImageResult]: ...  # fmt: skip
    @overload
    def __call__(
        self, image: images.Source, *, strength: float = ..., size: tuple[int, int] | None = ..., progress: bool = ...
    ) -> ImageResult: ...
    def __call__(
        self,
        image: images.Source | list[images.Source],
        *,
        strength: float = 1.0,
        size: tuple[int, int] | None = None,
        progress: bool = False,
    ) -> ImageResult | list[ImageResult]:
        """Stylise one picture, or each of a list: one result a picture.

        Args:
            image: What `artmodels.images.load` reads, or a list of such.
            strength: 1 is all style, 0 the picture itself; in between, pixels are blended.
            size: (height, width) of the result; None keeps the picture's own. Strokes keep their size in pixels, so a
                smaller picture has larger strokes.
            progress: Show a bar, for lists.

        Raises:
            ConfigError: `strength` or `size` is out of range.
            ImageError: The picture cannot be read, or is smaller than 8 pixels.
            ImageTooLarge: It has more pixels than `FastStyle.limit`.
        """
        if not isinstance(strength, int | float) or not 0 <= strength <= 1:
            raise ConfigError(f"strength={strength!r} must be from 0 (the picture itself) to 1 (all style)")
        check_size(size)
        return one_or_each(image, lambda source: self._run_one(source, strength, size), progress=progress)

    def _run_one(self, source: images.Source, strength: float, size: tuple[int, int] | None) -> ImageResult:
        start = time.perf_counter()
        loaded = picture(source)
        content = at_size(loaded, size)
        result = content.lerp(self._infer(content), strength) if strength else content
        options = {"strength": strength, "size": list(content.shape[-2:])}
        return self._result(result, options=options, start=start, notes=loaded.notes, origin=loaded.origin)
