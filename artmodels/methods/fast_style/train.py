"""Train a fast style: the perceptual losses of Johnson et al. 2016, section 3.2, each relative to its target.

Content is the squared distance of features, relative to their mean square; style that of the features' means and
covariances at five depths, relative to the style's own, so that no style needs weights of its own. A Gram matrix is
covariance + mean·meanᵀ, and the mean, which is colour and contrast, rules it: apart, brush strokes count as much. The
published weights learn from the compressed VGG-19 of Wang et al. 2020.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import images
from artmodels.data import folders
from artmodels.data.folders import Crops, ImageSet
from artmodels.features import teachers
from artmodels.features.extractor import FeatureExtractor, moments
from artmodels.hub.checkpoints import WEIGHTS, load_tensors
from artmodels.images.resampling import resized
from artmodels.methods.fast_style.model import FastStyleConfig, TransformerNet
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Settings, Weight
from artmodels.training import Recipe, Sources

__all__ = ["FastStyleRecipe", "StyleObjective", "FastStyleSettings", "Statistics", "reduced"]

Statistics = Mapping[str, tuple[Tensor, Tensor]]  # by tap

STYLE_TAPS = {"relu1_1": 0.5, "relu2_1": 1.0, "relu3_1": 1.5, "relu4_1": 1.5, "relu5_1": 0.5}


@dataclass(frozen=True, kw_only=True)
class FastStyleSettings(Settings):
    """What the recipe can be told."""

    style: Annotated[str, "The picture to paint like, below the folder of data."]
    title: Annotated[str, "What to call it."]
    style_side: Annotated[Count, "Shorter side to which it is reduced: larger gives larger strokes."] = 320
    start: Annotated[
        str, "Checkpoint to start from instead of random weights: a style is reached much sooner from another."
    ] = ""
    network: FastStyleConfig = FastStyleConfig(widths=(12, 24, 48), kernel=7, early=True)
    batch: Annotated[Count, "Crops a step."] = 2
    crop: Annotated[Count, "Side of a crop in pixels."] = 192
    style_weight: Annotated[Weight, "Against 1 for content."] = 1.0
    tv_weight: Annotated[Weight, "Of total variation where the content is flat: skies stay skies."] = 1.0


class StyleObjective:
    """Content, style and smoothness of stylised images."""

    def __init__(self, extractor: FeatureExtractor, *, content_tap: str = "relu3_3") -> None:
        """Measure with these features."""
        self.extractor, self.content_tap = extractor, content_tap
        self.floors = dict.fromkeys(STYLE_TAPS, (0.0, 0.0))

    def content_of(self, x: Tensor) -> Tensor:
        """Features that content is compared by."""
        features: Tensor = self.extractor(x, [self.content_tap])[self.content_tap]
        return features

    def style_of(self, x: Tensor) -> Statistics:
        """Means and covariances that style is compared by, for each of styles [N, 3, H, W]."""
        return {tap: moments(value) for tap, value in self.extractor(x, list(STYLE_TAPS)).items()}

    def set_floors(self, typical: Sequence[Statistics], share: float) -> None:
        """Measure distances relative to no less than a share of what is typical: a blank style has little of its own.

        Args:
            typical: Statistics of many styles.
            share: Of the mean square of theirs.
        """
        for tap in STYLE_TAPS:
            mean, covariance = (torch.cat([styles[tap][part] for styles in typical]) for part in (0, 1))
            self.floors[tap] = share * float(_square(mean).mean()), share * float(_square(covariance).mean())

    def __call__(
        self, output: Tensor, content: Tensor, styles: Statistics, wanted: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The three terms, unweighted, the mean of N images.

        Args:
            output: What the content became, [N, 3, H, W].
            content: [N, 3, H, W].
            styles: From `style_of`, of N styles or of one for all.
            wanted: The content's features, if they are at hand.
        """
        found = self.extractor(output, [*STYLE_TAPS, self.content_tap])
        if wanted is None:
            with torch.no_grad():
                wanted = self.content_of(content)
        error = (found[self.content_tap] - wanted).square().mean((1, 2, 3))
        style = output.new_zeros(())
        for tap, weight in STYLE_TAPS.items():
            for ours, theirs, floor in zip(moments(found[tap]), styles[tap], self.floors[tap], strict=True):
                distance = _square(ours - theirs) / _square(theirs).clamp_min(floor)
                style = style + weight * distance.mean() / (2 * sum(STYLE_TAPS.values()))
        return {
            "content": (error / wanted.square().mean((1, 2, 3)).clamp_min(1e-3)).mean(),
            "style": style,
            "flatness": flatness(output, content),
        }


def _square(x: Tensor) -> Tensor:
    """Squared length of each of N vectors or matrices."""
    return x.square().flatten(1).sum(1)


def flatness(output: Tensor, content: Tensor) -> Tensor:
    """Total variation of the output, counted where the content has none: e^(-24 |∇content|) of it elsewhere."""
    total = output.new_zeros(())
    smooth = F.avg_pool2d(F.pad(content.mean(1, keepdim=True), (2, 2, 2, 2), mode="reflect"), 5, 1)
    for axis in (2, 3):
        edges = smooth.diff(dim=axis).abs()
        total = total + (output.diff(dim=axis).abs() * torch.exp(-24 * edges)).mean()
    return total


class FastStyleRecipe(Recipe):
    """See the module."""

    settings_class = FastStyleSettings

    def __init__(self, settings: FastStyleSettings, sources: Sources, *, seed: int) -> None:
        """Read the loss network, the images and the style; draw or read the first weights."""
        self.settings = settings
        extractor = teachers.load(teachers.COMPRESSED, sources.teachers)
        photographs, self.unseen = folders.split(folders.image_files(sources.data, ["photos"]), held_out=3)
        paintings, _ = folders.split(folders.image_files(sources.data, ["paintings"]))
        self.files = photographs + paintings
        self.photographs = ImageSet.load(photographs, side=400)
        self.paintings = ImageSet.load(paintings, side=256)
        self.crops = Crops(size=settings.crop, smallest=0.4)
        style = images.load(sources.data / settings.style).tensor()
        self.style = reduced(style, settings.style_side)
        self.objective = StyleObjective(extractor)
        with torch.no_grad():
            self.target = self.objective.style_of(self.style)
        self.network = TransformerNet(settings.network)
        if settings.start:
            file = sources.weights / settings.start / WEIGHTS
            self.network.load_state_dict(load_tensors(file, expected=self.network.state_dict()))
        else:
            draw = generator(seed)
            for name, value in self.network.named_parameters():
                if value.dim() == 4:
                    torch.nn.init.kaiming_normal_(value, generator=draw)
                elif name == "last.bias":
                    value.data.zero_()

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """Content, style and flatness on photographs and, a third of the time, paintings."""
        source = self.paintings if float(torch.rand((), generator=rng)) < 1 / 3 else self.photographs
        batch = self.crops(source, self.settings.batch, rng)
        terms = self.objective(self.network(batch), batch, self.target)
        return {
            "content": terms["content"],
            "style": self.settings.style_weight * terms["style"],
            "flatness": self.settings.tv_weight * terms["flatness"],
        }

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The network in half precision."""
        network = dataclasses.replace(self.settings.network, style=self.settings.title)
        config = {"method": "fast_style"} | dataclasses.asdict(network)
        return config, {key: value.half() for key, value in self.network.state_dict().items()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The terms on held-out photographs at 384 px, and those of the photographs themselves."""
        sums: dict[str, float] = {}
        for path in self.unseen:
            content = reduced(images.load(path).tensor(), 384)
            for label, output in (("", self.network(content)), (" of the photograph itself", content)):
                for name, value in self.objective(output, content, self.target).items():
                    sums[name + label] = sums.get(name + label, 0.0) + float(value) / len(self.unseen)
        return sums


def reduced(picture: Tensor, side: int) -> Tensor:
    """The shorter side made `side`, both multiples of 4."""
    ratio = side / min(picture.shape[-2:])
    height, width = (max(4, 4 * round(length * ratio / 4)) for length in picture.shape[-2:])
    return resized(picture, (height, width)).clamp(0, 1)
