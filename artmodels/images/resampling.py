"""Images at the sizes that methods work at: resampled, large enough, one or several."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from artmodels.errors import ConfigError, ImageError
from artmodels.images.loading import LoadedImage, Source, load

__all__ = ["at_size", "check_size", "list_or_none", "one_or_each", "picture", "resized"]

SMALLEST = 8  # px: fewer hold no picture
R = TypeVar("R")


def resized(image: Tensor, size: tuple[int, int], *, circular: bool = False) -> Tensor:
    """Resample [1, C, h, w] by antialiased bicubic interpolation, optionally as a torus."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    for dim, length in ((2, size[0]), (3, size[1])):
        if image.shape[dim] == length:
            continue
        repeats = 3 if circular else 1  # the middle of three copies has wrapped neighbours on both sides
        wide = torch.cat([image] * repeats, dim=dim)
        shape = [length * repeats, wide.shape[3]] if dim == 2 else [wide.shape[2], length * repeats]
        wide = F.interpolate(wide, shape, mode="bicubic", antialias=True)
        image = wide.narrow(dim, length, length) if circular else wide
    return image


def picture(source: Source, what: str = "picture") -> LoadedImage:
    """Load a picture to repaint, or to paint like; an ImageError about `what` says that it is below 8 pixels."""
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
    """Raise a ConfigError unless a caller asks for (height, width) of at least 8 pixels each, or for nothing."""
    if size is not None and not all(isinstance(side, int) and side >= SMALLEST for side in size):
        raise ConfigError(f"size={size} must be (height, width) of at least {SMALLEST} px each")


def list_or_none(sources: object) -> list[Source] | None:
    """The images of a list or tuple of them; None for a single one."""
    return list(sources) if isinstance(sources, list | tuple) else None


def one_or_each(image: Source | Sequence[Source], run: Callable[[Source], R], *, progress: bool) -> R | list[R]:
    """What `run` makes of an image, or of each of a list or tuple of them; a bar shows how far it is, if `progress`."""
    many = list_or_none(image)
    if many is None:
        return run(image)  # type: ignore[arg-type]
    return [run(source) for source in tqdm(many, disable=not progress, unit="image")]
