"""Images of noise for the tests of features."""

import torch
from torch import Tensor


def image(height: int, width: int | None = None, *, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width or height, generator=torch.Generator().manual_seed(seed))
