"""Other pictures of the same content: in the manner of paintings, and degraded as photographs and scans are.

Every position of a view shows what the same position of the original shows.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.data.folders import Crops, ImageSet
from artmodels.errors import ConfigError
from artmodels.methods.arbitrary_style import ArbitraryStyle
from artmodels.methods.fast_style import FastStyle

__all__ = ["Views", "degraded"]

BLOCK = 8  # px: side of the blocks of a JPEG
PAINTING = 160  # px: side of what arbitrary style looks at
WIDEST = 2.0  # px: deviation of the strongest blur
CHANCE = 0.3  # of each degradation but the colours'


class Views:
    """Draws a view of each of a batch: stylised or degraded, or both."""

    def __init__(
        self, weights: Path, styles: Sequence[str], *, stylised: float, arbitrary: float, paintings: ImageSet
    ) -> None:
        """Read networks of fast style by name from a folder of checkpoints, and the `arbitrary-style` of their time.

        A share of the views is `stylised`; of these `arbitrary-style` paints a share, like crops of `paintings`.
        """
        if not (0 <= stylised <= 1 and 0 <= arbitrary <= 1):
            raise ConfigError(f"stylised={stylised} and arbitrary={arbitrary} are shares, from 0 to 1")
        if stylised and arbitrary < 1 and not styles:
            raise ConfigError("styles=() leaves nothing to stylise with: name fast styles, or set stylised=0")
        self.stylised, self.share, self.paintings = stylised, arbitrary, paintings
        self.fast = [FastStyle.from_pretrained(weights / name, device="cpu") for name in styles]
        self.arbitrary = (
            ArbitraryStyle.from_pretrained(weights / "earlier" / "arbitrary-style", device="cpu") if arbitrary else None
        )
        self.crops = Crops(size=PAINTING, smallest=0.4)

    @torch.no_grad()
    def __call__(self, batch: Tensor, rng: torch.Generator) -> Tensor:
        """A view of each image [N, 3, H, W], sides multiples of 8. A third of the stylised views are degraded too."""
        painted = torch.rand(len(batch), generator=rng) < self.stylised
        worn = ~painted | (torch.rand(len(batch), generator=rng) < 1 / 3)
        views = batch.clone()
        for index in painted.nonzero()[:, 0].tolist():
            views[index] = self._painted(batch[index], rng)
        return torch.where(worn[:, None, None, None], degraded(views, rng), views)

    def _painted(self, image: Tensor, rng: torch.Generator) -> Tensor:
        strength = 0.5 + 0.5 * float(torch.rand((), generator=rng))
        if self.arbitrary is not None and float(torch.rand((), generator=rng)) < self.share:
            style = self.crops(self.paintings, 1, rng)
            result = self.arbitrary(images.to_pil(image[None]), images.to_pil(style)).tensor
        else:
            number = int(torch.randint(len(self.fast), (), generator=rng))
            result = self.fast[number](images.to_pil(image[None])).tensor
        return image.lerp(result[0], strength)


def degraded(batch: Tensor, rng: torch.Generator) -> Tensor:
    """Change colours of images [N, 3, H, W], sides multiples of 8; make some grey, blurred, noisy, or blocky."""

    def draw(channels: int = 1) -> Tensor:
        """Numbers in [0, 1), [N, channels, 1, 1]."""
        return torch.rand(len(batch), channels, 1, 1, generator=rng)

    mean = batch.mean((1, 2, 3), keepdim=True)
    x = (batch - mean) * (0.5 + draw()) + mean * (0.6 + 0.8 * draw())
    x = x * (0.75 + 0.5 * draw(3))
    grey = x.mean(1, keepdim=True)
    colour = torch.where(draw() < CHANCE, 0.0, 1.5 * draw())
    x = (grey + (x - grey) * colour).clamp(0, 1)
    x = torch.where(draw() < CHANCE, _blurred(x, 0.3 + (WIDEST - 0.3) * draw()), x)
    x = torch.where(draw() < CHANCE, x + 0.1 * draw() * torch.randn(x.shape, generator=rng), x).clamp(0, 1)
    return torch.where(draw() < CHANCE, _blocky(x, 0.5 + 2.5 * draw()), x)


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of each image by its own deviation in pixels, [N, 1, 1, 1]."""
    reach = math.ceil(3 * WIDEST)
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-offsets.square() / (2 * sigma.flatten()[:, None].square()))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)  # [N * 3, taps]
    flat = F.pad(x, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))
    return F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel)).view(x.shape)


def _blocky(x: Tensor, strength: Tensor) -> Tensor:
    """Round the cosine transform of 8 x 8 blocks, more coarsely for higher frequencies, as a JPEG does.

    At strength 1 the steps run from 16/255 for the mean of a block to 100/255, about those of a JPEG of quality 50.
    """
    n = torch.arange(BLOCK)
    transform = torch.cos(math.pi / BLOCK * (n + 0.5) * n[:, None]) * (2 / BLOCK) ** 0.5
    transform[0] /= 2**0.5
    count, colours, height, width = x.shape
    blocks = x.reshape(count, colours, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    spectrum = torch.einsum("ui,nchiwj,vj->nchuwv", transform, blocks, transform)
    step = strength[..., None, None] * ((16 + 6 * (n[:, None] + n)) / 255)[:, None, :]
    spectrum = (spectrum / step).round() * step
    return torch.einsum("ui,nchuwv,vj->nchiwj", transform, spectrum, transform).reshape(x.shape).clamp(0, 1)
