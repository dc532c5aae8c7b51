"""Numbers of any kind become samples of 16 bits."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from artmodels.errors import ImageError

__all__ = ["FLOATS", "to_uint16"]

Array: TypeAlias = npt.NDArray[Any]

FLOATS = "Float values in [0, 1] became 16-bit."
_SLACK = 1e-4  # rounding in the caller's own resize is forgiven, a wrong range is not


def to_uint16(values: Array, name: str) -> Array:
    """Scale floats in [0, 1] to 16 bits."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low + high):
        raise ImageError(f"{name} holds NaN or infinity; give finite values, see numpy.nan_to_num")
    if low < -_SLACK or high > 1 + _SLACK:
        hint = "divide by 255" if low >= 0 and 2 <= high <= 255 else "scale or clip them"
        raise ImageError(f"{name} has float values from {low:g} to {high:g}; they must be in [0, 1]: {hint}")
    scaled: Array = np.rint(np.clip(values, 0, 1).astype(np.float32) * 65535).astype(np.uint16)
    return scaled
