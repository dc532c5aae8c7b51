"""Turned and mirrored views of a picture: prints are often mirror images of the painting that they copy."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from artmodels.detections.boxes import Box
from artmodels.errors import ConfigError
from artmodels.images.decoding import LoadedImage

__all__ = ["IN_WORDS", "VIEWS", "check_views", "from_view", "sideways", "turned", "turned_box", "unturned"]

# Whether it is mirrored first, and by how many quarters it is then turned anticlockwise.
VIEWS = {"": (False, 0), "mirror": (True, 0)} | {
    f"{prefix}{90 * quarters}": (bool(prefix), quarters) for prefix in ("", "mirror ") for quarters in (1, 2, 3)
}
IN_WORDS = {
    view: " and ".join(["mirrored"] * mirrored + [f"turned by {90 * quarters}°"] * bool(quarters)) or "as it is"
    for view, (mirrored, quarters) in VIEWS.items()
}


def check_views(views: tuple[str, ...]) -> tuple[str, ...]:
    """The views, if all are known and none is there twice.

    Raises:
        ConfigError: One is unknown, or there is none.
    """
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views or len(set(views)) < len(views):
        known = ", ".join(repr(view) for view in VIEWS)
        raise ConfigError(f"views={views!r} must be some of {known}, each once")
    return views


def sideways(view: str) -> bool:
    """Whether the width of a view is the height of the picture."""
    return VIEWS[view][1] % 2 == 1


def turned(image: LoadedImage, view: str) -> LoadedImage:
    """A picture as a view shows it."""
    mirrored, quarters = VIEWS[view]
    pixels = image.pixels[:, ::-1] if mirrored else image.pixels
    return dataclasses.replace(image, pixels=np.ascontiguousarray(np.rot90(pixels, quarters)), alpha=None)


def from_view(view: str) -> Tensor:
    """The matrix [3, 3] that takes relative coordinates (x, y, 1) of a view to those of the picture itself."""
    mirrored, quarters = VIEWS[view]
    # A quarter anticlockwise brings the right side up: what is at (x, y) of the view was at (1 - y, x).
    quarter = torch.tensor([[0.0, -1, 1], [1, 0, 0], [0, 0, 1]])
    mirror = torch.tensor([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]])
    back = torch.linalg.matrix_power(quarter, quarters)
    found: Tensor = mirror @ back if mirrored else back
    return found


def unturned(box: Box, view: str, width: int, height: int) -> Box:
    """A box in pixels of a view, in those of the picture itself, which is `width` x `height` px."""
    seen = (height, width) if sideways(view) else (width, height)
    return _moved(box, from_view(view), seen, (width, height))


def turned_box(box: Box, view: str, width: int, height: int) -> Box:
    """A box in pixels of a picture of `width` x `height` px, in those of a view of it: the inverse of `unturned`."""
    seen = (height, width) if sideways(view) else (width, height)
    return _moved(box, torch.linalg.inv(from_view(view).double()), (width, height), seen)


def _moved(box: Box, matrix: Tensor, size: tuple[int, int], other: tuple[int, int]) -> Box:
    """A box in pixels of a picture of one size, moved by a matrix of relative coordinates into one of another size."""
    (left, right), (top, bottom) = ((box[axis] / size[axis], box[axis + 2] / size[axis]) for axis in (0, 1))
    corners = torch.tensor([[left, top, 1.0], [right, bottom, 1.0]], dtype=torch.float64)
    x, y = (matrix.double() @ corners.T)[:2]
    return float(x.min()) * other[0], float(y.min()) * other[1], float(x.max()) * other[0], float(y.max()) * other[1]
