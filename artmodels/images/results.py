"""What a method that makes an image returns."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from artmodels import images

__all__ = ["ImageResult"]


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """An image and how it came about.

    Attributes:
        tensor: [1, 3, H, W] in [0, 1], on the CPU.
        settings: Everything needed to make it again, ready for JSON.
        losses: Value of the objective at each step; empty for feed-forward methods.
        seconds: Time it took.
        complete: False when a deadline ended it early.
        notes: What a user should know, in plain sentences: how an input was read, what was changed or cut short.
    """

    tensor: Tensor = field(repr=False)
    settings: Mapping[str, Any]
    losses: tuple[float, ...] = field(default=(), repr=False)
    seconds: float
    complete: bool = True
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The image as 8-bit RGB."""
        return images.to_pil(self.tensor)

    @property
    def metadata(self) -> dict[str, str]:
        """What `save` writes into the file: the seed on its own, if there is one, and all settings as JSON."""
        seed = {"seed": str(self.settings["seed"])} if "seed" in self.settings else {}
        return seed | {"artmodels": json.dumps(self.settings, sort_keys=True)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a PNG that carries its settings as text; the file appears whole or not at all."""
        images.save_png(self.image, path, metadata=self.metadata)
