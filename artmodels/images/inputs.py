"""What methods ask of the images they are given: how many, how large, at which size."""

from torch import Tensor

from artmodels.errors import ConfigError, ImageError
from artmodels.images.loading import LoadedImage, Source, load
from artmodels.images.resampling import resized

__all__ = ["at_size", "check_size", "each", "picture"]

SMALLEST = 8  # px: fewer hold no picture


def picture(source: Source, what: str = "picture") -> LoadedImage:
    """Load a picture to repaint, or to paint like.

    Raises:
        ImageError: It cannot be read, or is smaller than 8 pixels; the message calls it `what`.
    """
    loaded = load(source)
    if min(loaded.height, loaded.width) < SMALLEST:
        raise ImageError(
            f"the {what} is {loaded.width} x {loaded.height} px, too small: use one of at least {SMALLEST} px on each "
            "side, better 256"
        )
    return loaded


def at_size(loaded: LoadedImage, size: tuple[int, int] | None) -> Tensor:
    """Give a picture as [1, 3, height, width] in [0, 1], of its own size if `size` is None."""
    content = loaded.tensor()
    return content if size is None else resized(content, size).clamp(0, 1)


def check_size(size: tuple[int, int] | None) -> None:
    """Check what a caller asks for.

    Raises:
        ConfigError: Not (height, width) of at least 8 pixels each.
    """
    if size is not None and not all(isinstance(side, int) and side >= SMALLEST for side in size):
        raise ConfigError(f"size={size} must be (height, width) of at least {SMALLEST} px each")


def each(sources: object) -> list[Source] | None:
    """The images of a list or tuple of them; None for a single one."""
    return list(sources) if isinstance(sources, list | tuple) else None
