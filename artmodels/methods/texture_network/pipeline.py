"""Any amount of a texture, in a fraction of a second, that tiles without a seam."""

import time
from typing import Literal, overload

import torch
from torch import Tensor

from artmodels.errors import ConfigError
from artmodels.images.resampling import resized
from artmodels.images.results import ImageResult
from artmodels.methods.texture_network.model import NOISE, PyramidGenerator, TextureNetworkConfig
from artmodels.runtime.devices import generator
from artmodels.runtime.feedforward import FeedForward, Graph

__all__ = ["TextureNetwork"]

SMALLEST, LARGEST = 8, 4096  # px
MOST = 64  # textures a call
SEEDS = 2**63


class TextureNetwork(FeedForward[TextureNetworkConfig]):
    """Make new samples of the one texture that the weights were trained on.

    Ulyanov et al. 2016, "Texture Networks: Feed-forward Synthesis of Textures and Stylized Images" (arXiv:1603.03417),
    trained with the sliced Wasserstein loss of Heitz et al. 2021 (arXiv:2006.07229).

        >>> gravel = TextureNetwork.from_pretrained("gravel")
        >>> gravel(size=(256, 512), seed=3).save("gravel.png")
    """

    method = "texture_network"
    config_class = TextureNetworkConfig
    tile = 1024

    @classmethod
    def _network(cls, config: TextureNetworkConfig) -> Graph:
        return PyramidGenerator(config)

    @overload
    def __call__(
        self, *, size: tuple[int, int] = ..., seed: int = ..., tileable: bool = ..., count: Literal[1] = ...
    ) -> ImageResult: ...
    @overload
    def __call__(
        self, *, size: tuple[int, int] = ..., seed: int = ..., tileable: bool = ..., count: int
    ) -> ImageResult | list[ImageResult]: ...
    def __call__(
        self, *, size: tuple[int, int] = (512, 512), seed: int = 0, tileable: bool = True, count: int = 1
    ) -> ImageResult | list[ImageResult]:
        """Make one texture, or several.

        Args:
            size: (height, width), 8 to 4096 px each.
            seed: Of the noise; other noise gives another sample.
            tileable: Whether copies side by side show no seam. Textures tile whose sides are multiples of 32; for other
                sizes the nearest such texture is resampled, so that its grain becomes larger or smaller by at most
                16 px over the side, and much smaller below 32 px. False cuts the size asked for out of a larger
                texture instead, at the true grain.
            count: How many, from 1 to 64; the first has the seed given, the others those that follow.

        Returns:
            One result, or a list of them where `count` is above 1.

        Raises:
            ConfigError: `size`, `seed`, `tileable` or `count` is out of range.
        """
        sides = tuple(size) if isinstance(size, tuple | list) else ()
        if len(sides) != 2 or not all(_is_int_between(side, SMALLEST, LARGEST) for side in sides):
            raise ConfigError(f"size={size!r} must be (height, width) of {SMALLEST} to {LARGEST} px each")
        if not isinstance(tileable, bool):
            raise ConfigError(f"tileable={tileable!r} must be True or False")
        if not _is_int_between(count, 1, MOST):
            raise ConfigError(f"count={count!r} must be a whole number from 1 to {MOST}")
        generator(seed)  # refuses what is no seed, before its successors are counted
        if seed + count > SEEDS:
            raise ConfigError(f"seed={seed} leaves no seeds for count={count}: use one below {SEEDS - count + 1}")
        results = [self._run_one(sides, number, tileable) for number in range(seed, seed + count)]
        return results if count > 1 else results[0]

    def _run_one(self, size: tuple[int, int], seed: int, tileable: bool) -> ImageResult:
        start = time.perf_counter()
        multiple = self.graph.requirements.multiple_of
        if tileable:
            made = tuple(max(multiple, multiple * ((side + multiple // 2) // multiple)) for side in size)
        else:
            made = self.graph.requirements.size(*size)
        texture = self.texture_of(torch.rand(1, NOISE, *made, generator=generator(seed)))
        notes = []
        if tileable and made != size:
            texture = resized(texture, size, circular=True).clamp(0, 1)
            notes.append(
                f"made at {made[1]} x {made[0]} px, which tile, and resampled to {size[1]} x {size[0]}: for the true "
                f"grain use multiples of {multiple}, or tileable=False"
            )
        texture = texture[..., : size[0], : size[1]].contiguous()
        options = {"size": list(size), "seed": seed, "tileable": tileable}
        return self._result(texture, options=options, start=start, notes=notes)

    def texture_of(self, noise: Tensor) -> Tensor:
        """Make the texture of given noise, in pieces where it is large; the pieces fit exactly.

        The noise [1, 3, H, W] is uniform in [0, 1], both sides multiples of 32; another shape is a ConfigError. The
        texture [1, 3, H, W] is in [0, 1], float32 on the CPU.
        """
        multiple = self.graph.requirements.multiple_of
        fits = noise.dim() == 4 and noise.shape[:2] == (1, NOISE) and noise.numel()
        if not fits or any(side % multiple for side in noise.shape[-2:]):
            raise ConfigError(
                f"the noise has shape {tuple(noise.shape)}; give [1, {NOISE}, H, W], both sides multiples of {multiple}"
            )
        height, width = noise.shape[-2:]
        margin = multiple * -(-self.graph.context // multiple)
        if max(height, width) <= self.tile + 2 * margin:
            return self._infer(noise)
        texture = torch.empty(1, 3, height, width)
        for top in range(0, height, self.tile):
            for left in range(0, width, self.tile):
                bottom, right = min(top + self.tile, height), min(left + self.tile, width)
                rows = torch.arange(top - margin, bottom + margin) % height
                columns = torch.arange(left - margin, right + margin) % width
                piece = self._infer(noise[..., rows, :][..., columns])
                texture[..., top:bottom, left:right] = piece[..., margin:-margin, margin:-margin]
        return texture


def _is_int_between(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
