"""Train a texture network with the sliced Wasserstein loss of Heitz et al. 2021 (arXiv:2006.07229).

That distance is zero only where whole distributions of features agree, where Ulyanov et al. 2016 compare their Gram
matrices. Patches of raw pixels are compared as well (Elnekave and Weiss 2022). The published weights learn from the
compressed VGG-19 of Wang et al. 2020 (arXiv:2003.08436).
"""

import copy
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Annotated, Any

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn

from artmodels import images
from artmodels.descent.algebra import Context
from artmodels.descent.terms import PatchSlicedWasserstein, SlicedWasserstein
from artmodels.features import teachers
from artmodels.features.extractor import FeatureExtractor
from artmodels.images.resampling import resized
from artmodels.methods.texture_network.model import COARSEST, NOISE, PyramidGenerator, TextureNetworkConfig
from artmodels.methods.texture_synthesis.metrics import sliced_wasserstein_distance
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Settings, Weight
from artmodels.training import Recipe, Sources

__all__ = ["TextureNetworkObjective", "TextureNetworkSettings", "TextureNetworkRecipe"]

TAPS = ("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_4", "relu4_1")
CALIBRATION = 16, 256  # textures, and their side in px, that the normalisation is measured on
SAMPLES = 4  # textures that are judged


@dataclass(frozen=True, kw_only=True)
class TextureNetworkSettings(Settings):
    """What the recipe can be told."""

    exemplar: Annotated[str, "The texture, a picture below the folder of data."]
    title: Annotated[str, "What to call it."]
    side: Annotated[Count, "Shorter side to which it is reduced: it sets the size of the grain in the results."] = 256
    network: TextureNetworkConfig = TextureNetworkConfig()
    batch: Annotated[Count, "Textures a step."] = 2
    crop: Annotated[int, Ge(COARSEST), MultipleOf(COARSEST), "Their side in pixels."] = 160
    directions: Annotated[Count, "Random directions a layer and step."] = 32
    samples: Annotated[Count, "Most positions of a layer compared in a step."] = 16384
    patch_weight: Annotated[Weight, "Of the distance between patches, against 1 for features."] = 1.0


class TextureNetworkObjective:
    """Distance of textures to an exemplar, of features and of patches, each relative to the exemplar's variance."""

    def __init__(self, extractor: FeatureExtractor, exemplar: Tensor, settings: TextureNetworkSettings) -> None:
        """Measure the exemplar, [1, 3, H, W]."""
        self.extractor = extractor
        with torch.no_grad():
            found = extractor(exemplar, TAPS)
        context = Context(size=(settings.crop, settings.crop), layers=TAPS, circular=True)
        features = SlicedWasserstein(layers=TAPS, directions=settings.directions, samples=settings.samples)
        patches = PatchSlicedWasserstein(directions=settings.directions)
        self.features = features.bind(exemplar, found, {}, context)
        self.patches = patches.bind(exemplar, {}, {}, context)

    def __call__(self, textures: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
        """The two terms, unweighted, for textures [N, 3, H, W], along directions drawn from `rng`."""
        round_ = int(torch.randint(1 << 16, (), generator=rng))
        self.features.refresh(rng, round_)
        self.patches.refresh(rng, round_)
        found = self.extractor(textures, TAPS, padding="circular")
        # All textures are one sample of the features: none need show all of the exemplar by itself.
        pooled = {tap: value.transpose(0, 1).flatten(1)[None, :, :, None] for tap, value in found.items()}
        patches = torch.stack([self.patches(texture, {}, {}) for texture in textures[:, None]]).mean()
        return {"features": self.features(textures, pooled, {}), "patches": patches}


class TextureNetworkRecipe(Recipe):
    """See the module."""

    settings_class = TextureNetworkSettings
    network: PyramidGenerator

    def __init__(self, settings: TextureNetworkSettings, sources: Sources, *, seed: int) -> None:
        """Read the loss network and the exemplar; draw the first weights."""
        self.settings = settings
        self.files = [sources.data / settings.exemplar]
        exemplar = images.load(self.files[0]).tensor()
        ratio = min(1.0, settings.side / min(exemplar.shape[-2:]))
        height, width = (round(length * ratio) for length in exemplar.shape[-2:])
        self.exemplar = resized(exemplar, (height, width)).clamp(0, 1)
        teacher = teachers.load(teachers.COMPRESSED, sources.teachers)
        self.objective = TextureNetworkObjective(teacher, self.exemplar, settings)
        self.network = PyramidGenerator(settings.network)
        draw = generator(seed)
        for name, value in self.network.named_parameters():
            if value.dim() == 4:
                nn.init.kaiming_normal_(value, generator=draw)
            elif name == "last.bias":
                # The mean colour from the start: on a faint texture any other is many deviations away.
                value.data.copy_(self.exemplar.mean((0, 2, 3)).logit(0.02))

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """Features and patches of new textures."""
        settings = self.settings
        noise = torch.rand(settings.batch, NOISE, settings.crop, settings.crop, generator=rng)
        terms = self.objective(self.network(noise), rng)
        return {"features": terms["features"], "patches": settings.patch_weight * terms["patches"]}

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The calibrated network in half precision."""
        network = self.settings.network
        config = asdict(network) | {"method": "texture_network", "texture": self.settings.title}
        config["widths"] = list(network.widths)
        return config, {key: value.half() for key, value in calibrated(self.network).state_dict().items()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """How near new textures are to the exemplar and how far from each other, beside the exemplar's own halves."""
        network = calibrated(self.network)
        height, width = (COARSEST * max(2, length // COARSEST) for length in self.exemplar.shape[-2:])
        draws = (generator(seed) for seed in range(SAMPLES))
        textures = [network(torch.rand(1, NOISE, height, width, generator=draw)) for draw in draws]
        half = self.exemplar.shape[-1] // 2
        left, right = self.exemplar[..., :half], self.exemplar[..., -half:]
        distances = [sliced_wasserstein_distance(texture, self.exemplar) for texture in textures]
        differences = [float((a - b).abs().mean()) for a, b in pairwise(textures)]
        return {
            "sliced Wasserstein distance": sum(distances) / SAMPLES,
            "sliced Wasserstein distance of the exemplar's halves": sliced_wasserstein_distance(left, right),
            "mean difference of two textures": sum(differences) / len(differences),
            "mean difference of the exemplar's halves": float((left - right).abs().mean()),
        }


@torch.no_grad()
def calibrated(network: PyramidGenerator) -> PyramidGenerator:
    """A copy in evaluation mode, whose normalisation has the means and variances of many textures.

    Those that accumulate in training lag behind the weights, and know nothing of the average of weights.
    """
    network = copy.deepcopy(network).train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    draw = generator(0)
    count, side = CALIBRATION
    for _ in range(count // 2):
        network(torch.rand(2, NOISE, side, side, generator=draw).to(network.last.weight.device))
    return network.eval()
