"""Train super-resolution on pictures that are reduced, and in part damaged as old scans and web images are.

The damage is one pass of what Real-ESRGAN (Wang et al. 2021, arXiv:2107.10833, section 3) does twice: blur, resize,
noise and JPEG, all milder than there, because strong damage teaches a network to remove brush strokes and canvas. The
loss is that of Charbonnier (Lai et al. 2017, arXiv:1704.03915), a smooth absolute difference: no network here invents
detail. A recipe with `wear` learns from what `wear.py` makes instead: scans of worn pictures.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels.data.folders import ImageSet, image_files, split
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.super_resolution.evaluate import WORN, Reduce, compressed, evaluate, grid_score, reduced
from artmodels.methods.super_resolution.model import SRVGG, SuperResolutionConfig
from artmodels.methods.super_resolution.pipeline import SuperResolution
from artmodels.methods.super_resolution.wear import MARGIN, Wear, worn
from artmodels.runtime.devices import generator
from artmodels.runtime.feedforward import Graph
from artmodels.settings import Count, Settings, Share
from artmodels.training import Recipe, Sources

__all__ = ["Damage", "SuperResolutionSettings", "SuperResolutionRecipe", "damaged"]

NATIVE = 100_000  # px: no image has a shorter side than this, so none is reduced
EPSILON = 1e-3  # of the Charbonnier loss: differences below it count as squares
WEB_QUALITY = 75  # of JPEG, in the held-out test


@dataclass(frozen=True, kw_only=True)
class Damage(Settings):
    """What is done to a picture on its way down; each range is drawn from evenly."""

    blur: Annotated[
        tuple[float, float],
        "Standard deviations of a Gaussian before reducing, in pixels of the small picture, along two random axes.",
    ] = (0.1, 0.7)
    resize: Annotated[
        tuple[float, float], "Sizes, relative to the final one, that a picture passes through half of the time."
    ] = (0.7, 1.5)
    noise: Annotated[
        tuple[float, float],
        "Standard deviations of Gaussian noise in grey levels of 255; the same in all channels half of the time.",
    ] = (0.0, 6.0)
    jpeg: Annotated[tuple[int, int], "Qualities of JPEG."] = (55, 95)
    uncompressed: Annotated[Share, "Of the pictures without JPEG."] = 0.2

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        for name, least, most in (("blur", 0, 4), ("resize", 0.3, 4), ("noise", 0, 50), ("jpeg", 10, 100)):
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ConfigError(f"{name}=({low}, {high}) must be a range within {least} to {most}")


@dataclass(frozen=True, kw_only=True)
class SuperResolutionSettings(Settings):
    """What the recipe can be told."""

    network: SuperResolutionConfig = SuperResolutionConfig(scale=2, channels=32, convs=6, base="bicubic")
    folders: Annotated[tuple[str, ...], "Where to look for pictures, below the folder of data."] = (
        "photos",
        "paintings",
    )
    clean: Annotated[Share, "Of the crops that are only reduced; 1 trains for clean scans."] = 1.0
    damage: Annotated[Damage, "What is done to the others."] = Damage()
    wear: Annotated[Wear | None, "How the pictures are worn; then `clean` and `damage` do not count."] = None
    start: Annotated[
        str, "Checkpoint of the same scale, width and base that the network computes as at first; empty for none."
    ] = ""
    batch: Annotated[Count, "Crops a step."] = 8
    crop: Annotated[Count, "Side of the small crops in pixels."] = 48

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.network.architecture != "srvgg":
            raise ConfigError(
                "Only SRVGG is trained here: set architecture='srvgg', or convert published RRDB weights."
            )
        if self.wear is not None and (self.crop + MARGIN) % 16:
            raise ConfigError(f"crop={self.crop} must be {MARGIN} less than a multiple of 16 where pictures are worn")


def damaged(image: Tensor, scale: int, damage: Damage, rng: torch.Generator) -> Tensor:
    """Reduce [1, 3, H, W], with sides that `scale` divides, and damage it: [1, 3, H / scale, W / scale] in [0, 1]."""
    draw = torch.rand(8, generator=rng).tolist()
    height, width = (length // scale for length in image.shape[-2:])
    along, across = (scale * _between(damage.blur, value) for value in draw[:2])
    y = _blurred(image, along, across, math.pi * draw[2])
    if draw[3] < 0.5:
        share = _between(damage.resize, draw[4])
        y = F.interpolate(y, [max(1, round(n * share)) for n in (height, width)], mode="bilinear", antialias=True)
    y = F.interpolate(y, [height, width], mode="bicubic", antialias=True)
    channels = 1 if draw[5] < 0.5 else 3
    noise = torch.randn(1, channels, height, width, generator=rng)
    y = (y + noise * _between(damage.noise, draw[6]) / 255).clamp(0, 1)
    if draw[7] < damage.uncompressed:
        return y.mul(255).round().div(255)
    low, high = damage.jpeg
    return compressed(y, int(torch.randint(low, high + 1, (), generator=rng)))


class SuperResolutionRecipe(Recipe):
    """See the module."""

    settings_class = SuperResolutionSettings
    network: SRVGG

    def __init__(self, settings: SuperResolutionSettings, sources: Sources, *, seed: int) -> None:
        """Read the images and draw the first weights."""
        self.settings = settings
        self.data = sources.data
        self.files, self.unseen = split(image_files(sources.data, settings.folders))
        self.images = ImageSet.load(self.files, side=NATIVE)
        self.side = (settings.crop + (MARGIN if settings.wear else 0)) * settings.network.scale
        self.usable = [pixels for pixels in self.images.images if min(pixels.shape[-2:]) >= self.side]
        if not self.usable:
            raise DatasetError(f"No image is as large as a crop, {self.side} px: use larger images or a smaller crop.")
        self.network = SRVGG(settings.network)
        self.network.randomise(generator(seed))
        if settings.start:
            path = sources.checkpoint(settings.start)
            _deepen(self.network, SuperResolution.from_pretrained(path, device="cpu", dtype=torch.float32).graph)

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """The Charbonnier loss of a batch of crops; of worn ones the mean of its logarithm, as PSNR counts.

        A print screen is ten times as far from its picture as a clean reduction: in a plain mean, only it would count.
        """
        large = torch.cat([self._crop(rng) for _ in range(self.settings.batch)])
        small, wanted = self._pairs(large, rng)
        device = next(self.network.parameters()).device
        difference = self.network.unclamped(small.to(device)) - wanted.to(device)
        loss = (difference.square() + EPSILON**2).sqrt()
        if self.settings.wear is not None:
            return {"log charbonnier": loss.mean((1, 2, 3)).log().mean()}
        return {"charbonnier": loss.mean()}

    def _pairs(self, large: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the network is given, and what it is to make of it."""
        scale = self.settings.network.scale
        if self.settings.wear is not None:
            return worn(large, scale, self.settings.wear, rng)
        small = [
            reduced(crop, scale)
            if float(torch.rand((), generator=rng)) < self.settings.clean
            else damaged(crop, scale, self.settings.damage, rng)
            for crop in torch.split(large, 1)
        ]
        return torch.cat(small), large

    def _crop(self, rng: torch.Generator) -> Tensor:
        """A square of an image at its own resolution, turned and mirrored at random."""
        pixels = self.usable[int(torch.randint(len(self.usable), (), generator=rng))]
        down, across, mirror, turn = torch.rand(4, generator=rng).tolist()
        height, width = pixels.shape[-2:]
        top, left = int(down * (height - self.side + 1)), int(across * (width - self.side + 1))
        crop = pixels[None, :, top : top + self.side, left : left + self.side].float() / 255
        crop = crop.flip(-1) if mirror < 0.5 else crop
        return crop.transpose(-1, -2) if turn < 0.5 else crop

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The network in half precision."""
        config = {"method": "super_resolution", **dataclasses.asdict(self.settings.network)}
        return config, {key: value.half() for key, value in self.network.state_dict().items()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """PSNR and SSIM against bicubic on held-out pictures by folder, clean and as JPEG; worn, gains; false grids."""
        scale = self.settings.network.scale
        device = next(self.network.parameters()).device

        def enlarge(x: Tensor) -> Tensor:
            result: Tensor = self.network(x.to(device)).cpu()
            return result

        report: dict[str, float] = {}
        for folder in self.settings.folders:
            files = [path for path in self.unseen if self.data / folder in path.parents]
            if not files:
                continue
            inputs: dict[str, Reduce] = {folder: reduced, f"{folder}, JPEG": web_copy}
            if self.settings.wear is not None:
                inputs |= {f"{folder}, {name}": reduce for name, reduce in WORN.items()}
            for group, reduce in inputs.items():
                found = evaluate(enlarge, files, scale=scale, reduce=reduce)
                told = ["gain"] if reduce in WORN.values() else found
                report |= {f"{name} ({group})": found[name] for name in told}
        return report | {"false grid": grid_score(enlarge, scale)}


@torch.no_grad()
def _deepen(network: SRVGG, shallow: Graph) -> None:
    """Let a network compute what one with fewer layers does: the others change nothing (Chen 2016, Net2Net)."""
    if not isinstance(shallow, SRVGG) or len(shallow.layers) > len(network.layers):
        raise ConfigError("A training starts from an SRVGG with at most as many layers as the new one.")
    if not torch.equal(shallow.kernel, network.kernel):
        raise ConfigError("A training starts from an SRVGG of the same scale and base.")
    more = list(network.layers)[len(shallow.layers) :]
    try:
        for layer, known in zip(network.layers, shallow.layers, strict=False):
            layer.load_state_dict(known.state_dict())
        network.last.load_state_dict(shallow.last.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"A training starts from an SRVGG of the same width: {error}") from error
    for layer in more:
        for part in layer.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.dirac_(part.weight)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]
            elif isinstance(part, nn.PReLU):
                nn.init.ones_(part.weight)


def web_copy(image: Tensor, scale: int) -> Tensor:
    """A picture reduced and compressed as JPEG of quality 75, as found on the web."""
    return compressed(reduced(image, scale), WEB_QUALITY)


def _between(span: tuple[float, float], share: float) -> float:
    return span[0] + share * (span[1] - span[0])


def _blurred(image: Tensor, along: float, across: float, angle: float) -> Tensor:
    """Convolve with a Gaussian whose standard deviations are `along` and `across` an axis at `angle` to the rows."""
    reach = max(1, math.ceil(3 * max(along, across)))
    if min(image.shape[-2:]) <= reach or min(along, across) < 1e-3:
        return image
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    x, y = axis[None, :], axis[:, None]
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = torch.exp(-0.5 * ((u / along) ** 2 + (v / across) ** 2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1, -1)
    return F.conv2d(F.pad(image, (reach,) * 4, mode="reflect"), kernel, groups=3)
