"""Train art-vgg: distil VGG-19's features and Gram matrices into a network with 200 times fewer weights.

The teacher is the compressed VGG-19 of Wang et al. 2020 (arXiv:2003.08436) with average pooling, whose gradients leave
no grid in what is made with it (Gatys et al. 2015). Each of our layers gets a linear head to its teacher's; both are
trained by the relative error of features and, as texture is what they are for, of Gram matrices. The heads are then
folded into square ones, see `art_vgg_nodes`. A third of the crops are grainy: what descends a loss passes through
noise, and there too the network must say what its teacher says.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels.data import folders
from artmodels.data.folders import Crops, ImageSet
from artmodels.features import teachers
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.networks import ART_VGG_TAPS, CENTRED, art_vgg_nodes, convolutions, folded, randomise
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Settings, Share, Weight
from artmodels.training import Recipe, Sources

__all__ = ["ArtVGGRecipe", "ArtVGGSettings", "gram"]

FOLDERS = ("paintings", "photos", "textures", "icons")


@dataclass(frozen=True, kw_only=True)
class ArtVGGSettings(Settings):
    """What the recipe can be told."""

    batch: Annotated[Count, "Crops a step."] = 4
    crop: Annotated[Count, "Side of a crop in pixels."] = 128
    side: Annotated[Count, "Shorter side to which images are reduced when they are read."] = 400
    synthetic: Annotated[Share, "Of the crops replaced by textures: noise of random spectrum and colours."] = 0.15
    grain: Annotated[Share, "Of the crops that noise is added to, each of another strength and colour."] = 0.35
    gram_weight: Annotated[Weight, "Weight of the Gram term beside that of features, which is 1."] = 1.0


def gram(features: Tensor) -> Tensor:
    """Gram matrices [N, C, C] of [N, C, H, W], divided by the number of positions."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


class ArtVGGRecipe(Recipe):
    """See the module."""

    settings_class = ArtVGGSettings

    def __init__(self, settings: ArtVGGSettings, sources: Sources, *, seed: int) -> None:
        """Read teachers and images, draw the weights."""
        self.settings = settings
        self.teacher = teachers.load(teachers.COMPRESSED, sources.teachers, pooling="avg")
        # What ships is a checkpoint that anyone may repeat on CC0 and public-domain images alone.
        self.files, self._held_out = folders.split(folders.image_files(sources.data, FOLDERS))
        self.images = ImageSet.load(self.files, side=settings.side)
        self.unseen = ImageSet.load(self._held_out, side=settings.side)
        self.crops = Crops(size=settings.crop, smallest=0.3, jitter=0.3)

        nodes = art_vgg_nodes()
        draw = generator(seed)
        randomise(nodes, draw)
        # While it is trained a tap is the layer itself, and a head maps it to its teacher's width.
        self.plain = {conv.key: conv for conv in convolutions(nodes)}
        for tap in ART_VGG_TAPS:
            square = self.plain[tap.replace("relu", "head")]
            square.weight.data.copy_(torch.eye(square.channels)[:, :, None, None])
        self.student = FeatureExtractor("art-vgg", nodes, preprocessing=CENTRED, padding="reflect")
        with torch.no_grad():
            sample = self.teacher(self.crops(self.images, 32, generator(1)), ART_VGG_TAPS)
        self.scales = {tap: value.square().mean().sqrt() for tap, value in sample.items()}
        self.heads = nn.ModuleDict()
        for tap, value in sample.items():
            inputs = self.student.channels(tap)
            head = nn.Conv2d(inputs, value.shape[1], 1, bias=False)
            head.weight.data.normal_(0, inputs**-0.5, generator=draw)
            self.heads[tap] = head
        layers = nn.ModuleDict({key: conv for key, conv in self.plain.items() if not key.startswith("head")})
        layers.requires_grad_(True)
        self.network = nn.ModuleDict({"layers": layers, "heads": self.heads})

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """Relative squared error of features and of Gram matrices, one term a tap."""
        batch = self.crops(self.images, self.settings.batch, rng)
        fake = torch.rand(len(batch), generator=rng) < self.settings.synthetic
        if fake.any():
            batch[fake] = synthetic(int(fake.sum()), self.settings.crop, rng)
        batch = grainy(batch, self.settings.grain, rng)
        with torch.no_grad():
            targets = self.teacher(batch, ART_VGG_TAPS)
        found = self.student(batch, ART_VGG_TAPS)
        terms = {}
        for tap, features in found.items():
            target = targets[tap] / self.scales[tap]
            answer = self.heads[tap](features)
            # Relative to each image: noise has many times the activations of a painting, and would rule.
            error = (answer - target).square().mean((1, 2, 3)) / target.square().mean((1, 2, 3)).clamp_min(0.05)
            terms[tap] = error.mean()
            wanted = gram(target)
            error = (gram(answer) - wanted).square().sum((1, 2)) / wanted.square().sum((1, 2)).clamp_min(0.05)
            terms[f"gram {tap}"] = self.settings.gram_weight * error.mean()
        return terms

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Layers as they are; heads folded."""
        tensors: dict[str, Tensor] = {}
        for key, conv in self.plain.items():
            if not key.startswith("head"):
                tensors |= {f"{key}.weight": conv.weight.half(), f"{key}.bias": conv.bias.half()}
        for tap in ART_VGG_TAPS:
            tensors[f"{tap.replace('relu', 'head')}.weight"] = folded(self.heads[tap])
        return {"architecture": "art-vgg"}, tensors

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Mean cosine of features and of Gram matrices between head and teacher, per tap, on held-out images."""
        rng = generator(2)
        batches = [Crops(size=224, smallest=0.6)(self.unseen, 4, rng) for _ in range(12)]
        sums: dict[str, float] = {}
        for batch in batches:
            targets, found = self.teacher(batch, ART_VGG_TAPS), self.student(batch, ART_VGG_TAPS)
            for tap in ART_VGG_TAPS:
                answer = self.heads[tap](found[tap])
                pairs = {
                    f"feature cosine {tap}": (answer.flatten(1), targets[tap].flatten(1)),
                    f"gram cosine {tap}": (gram(answer).flatten(1), gram(targets[tap]).flatten(1)),
                }
                for name, (ours, theirs) in pairs.items():
                    sums[name] = sums.get(name, 0.0) + float(F.cosine_similarity(ours, theirs).mean()) / len(batches)
        return sums


def synthetic(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Textures of our own, [count, 3, size, size]: noise of spectrum 1/f^a, a from 0 to 2, in random colours, some cut.

    Half are cut at their median into two flat colours, whose edges no photograph has.
    """
    frequency = torch.fft.fftfreq(size)
    radius = (frequency[:, None] ** 2 + frequency**2).sqrt().clamp_min(1 / size)
    slope = 2 * torch.rand(count, 1, 1, 1, generator=rng)
    spectrum = torch.fft.fft2(torch.randn(count, 3, size, size, generator=rng)) * radius**-slope
    noise = torch.fft.ifft2(spectrum).real
    noise = (noise - noise.mean((2, 3), keepdim=True)) / noise.std((2, 3), keepdim=True).clamp_min(1e-6)
    cut = torch.rand(count, 1, 1, 1, generator=rng) < 0.5
    noise = torch.where(cut, noise[:, :1].sign().expand_as(noise), noise)
    mix = torch.randn(count, 3, 3, generator=rng) * 0.15
    centre = 0.2 + 0.6 * torch.rand(count, 3, 1, 1, generator=rng)
    return (torch.einsum("nij,njhw->nihw", mix, noise) + centre).clamp(0, 1)


def grainy(batch: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Some of the images [N, 3, H, W] with white noise of up to a quarter of the range, half of it grey."""
    count = len(batch)
    chosen, strength, grey = torch.rand(3, count, 1, 1, 1, generator=rng)
    noise = torch.randn(batch.shape, generator=rng)
    noise = torch.where(grey < 0.5, noise[:, :1].expand_as(noise), noise)
    return torch.where(chosen < share, batch + 0.25 * strength * noise, batch).clamp(0, 1)
