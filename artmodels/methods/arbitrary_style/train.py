"""Train arbitrary style: the losses of Ghiasi et al. 2017, section 2, with a style of its own for every picture.

Losses are those of `artmodels.methods.fast_style.train`. Styles are crops of paintings and textures with their colours
changed. For some pictures the style is the picture itself, which is then to come back unchanged: what lies between the
two descriptions is then a weaker style (the paper's section 3.5). The published weights learn from the compressed
VGG-19 of Wang et al. 2020.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from artmodels import images
from artmodels.data import folders
from artmodels.data.folders import Crops, ImageSet
from artmodels.errors import ConfigError
from artmodels.features import teachers
from artmodels.features.networks import ART_VGG_WIDTHS, art_vgg_nodes, convolutions, layout
from artmodels.hub.checkpoints import WEIGHTS, load_tensors
from artmodels.methods.arbitrary_style.model import ArbitraryStyleConfig, StyleStatistics, StyleTransformer
from artmodels.methods.fast_style.train import StyleObjective, reduced
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Settings, Share, Weight
from artmodels.training import Recipe, Sources

__all__ = ["ArbitraryStyleRecipe", "ArbitraryStyleSettings"]

ENCODER = "art-vgg"
STYLES = ("paintings", "schools", "textures", "icons")
MEASURED = 32, 8  # batches, and crops in each, that typical values are measured on
FLOOR = 0.2  # of what is typical
CONTENT = {"relu3_1": 0.6, "relu3_3": 0.4}
STYLE = {(0, "relu1_1"): 0.5, (0, "relu2_1"): 1.0, (0, "relu3_1"): 1.5, (0, "relu4_1"): 1.5, (0, "relu5_1"): 0.5}
PAIRS = 24  # held-out pairs that are judged


@dataclass(frozen=True, kw_only=True)
class ArbitraryStyleSettings(Settings):
    """What the recipe can be told."""

    network: ArbitraryStyleConfig = ArbitraryStyleConfig(
        predictor="statistics", widths=(16, 32, 64), kernel=7, early=True, palette=True
    )
    start: Annotated[str, "A checkpoint of the same shape to start from instead of random weights."] = ""
    batch: Annotated[Count, "Pairs a step."] = 6
    crop: Annotated[Count, "Side of a crop of the content in pixels."] = 128
    style_crop: Annotated[Count, "Of one of the style."] = 160
    style_weight: Annotated[Weight, "Against 1 for content."] = 3.0
    tv_weight: Annotated[Weight, "Of total variation where the content is flat: skies stay skies."] = 1.0
    blotch_weight: Annotated[Weight, "Of large areas that change colour where the content's do not."] = 2.0
    identity: Annotated[Share, "Of the pictures that are their own style."] = 0.1
    jitter: Annotated[Weight, "Changes of the styles' brightness, contrast and saturation."] = 0.3

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.network.predictor != "statistics":
            raise ConfigError("predictor='inception' is not trained here: settings.network has predictor='statistics'.")


class ArbitraryStyleRecipe(Recipe):
    """See the module."""

    settings_class = ArbitraryStyleSettings

    def __init__(self, settings: ArbitraryStyleSettings, sources: Sources, *, seed: int) -> None:
        """Read the loss network, art-vgg and the images; draw the first weights."""
        self.settings = settings
        extractor = teachers.load(teachers.COMPRESSED, sources.teachers)
        self.objective = StyleObjective(extractor, content=CONTENT, style=STYLE)
        photographs, self.unseen = folders.split(folders.image_files(sources.data, ["photos"]), held_out=3)
        styles, self.unseen_styles = folders.split(folders.image_files(sources.data, STYLES))
        self.files = photographs + styles
        self.photographs = ImageSet.load(photographs, side=400)
        self.styles = ImageSet.load(styles, side=400)
        self.content_crops = Crops(size=settings.crop, smallest=0.4)
        self.style_crops = Crops(size=settings.style_crop, smallest=0.4, jitter=settings.jitter)

        self.predictor, self.transformer = StyleStatistics(settings.network), StyleTransformer(settings.network)
        self.network = nn.ModuleDict({"predictor": self.predictor, "transformer": self.transformer})
        draw = generator(seed)
        for name, value in self.network.named_parameters():
            if value.dim() > 1:
                nn.init.kaiming_normal_(value, generator=draw)
            elif not name.startswith("predictor.blocks"):
                value.data.zero_()
        # All styles begin as plain normalisation, a little apart.
        heads = self.transformer.heads
        heads.weight.data.mul_(0.3)
        heads.bias.data[: len(heads.bias) // 2] = 1
        if settings.start:  # its encoder is the art-vgg of its time, and what it standardises by goes with that
            file = sources.weights / settings.start / WEIGHTS
            self.network.load_state_dict(load_tensors(file, expected=self.network.state_dict(), dtype=torch.float32))
        else:
            _copy_encoder(self.predictor, sources.weights / ENCODER / WEIGHTS)
        self.predictor.blocks.requires_grad_(False)
        self._measure(standardise=not settings.start)

    @torch.no_grad()
    def _measure(self, *, standardise: bool) -> None:
        """Find the typical statistics of styles: to standardise what the predictor sees, and to floor the losses."""
        rng = generator(1)
        count, size = MEASURED
        batches = [self.style_crops(self.styles, size, rng) for _ in range(count)]
        if standardise:
            found = torch.cat([self.predictor.statistics(batch) for batch in batches])
            self.predictor.centre.copy_(found.mean(0))
            self.predictor.spread.copy_(found.std(0).clamp_min(1e-3))
        self.objective.set_floors([self.objective.style_of(batch) for batch in batches], FLOOR)

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """Content, style and flatness; contents are photographs and, a third of the time, paintings."""
        settings = self.settings
        source = self.styles if float(torch.rand((), generator=rng)) < 1 / 3 else self.photographs
        content = self.content_crops(source, settings.batch, rng)
        style = self.style_crops(self.styles, settings.batch, rng)
        own = torch.rand(settings.batch, generator=rng) < settings.identity
        if own.any():
            style[own] = nn.functional.interpolate(content[own], style.shape[-2:], mode="bilinear")
        output = self.transformer(content, self.predictor(style))
        with torch.no_grad():
            targets = self.objective.style_of(style)
        terms = self.objective(output, content, targets)
        return {
            "content": terms["content"],
            "style": settings.style_weight * terms["style"],
            "flatness": settings.tv_weight * terms["flatness"] + settings.blotch_weight * terms["blotches"],
        }

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Both networks in half precision."""
        config = {"method": "arbitrary_style"} | asdict(self.settings.network)
        return config, {key: value.half() for key, value in self.network.state_dict().items()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The terms on held-out photographs and styles at 320 px, and those of the photographs themselves."""
        sums: dict[str, float] = {}
        for index in range(PAIRS):
            photograph = self.unseen[index % len(self.unseen)]
            painting = self.unseen_styles[index * len(self.unseen_styles) // PAIRS]
            content = reduced(images.load(photograph).tensor(), 320)
            style = reduced(images.load(painting).tensor(), 256)
            targets = self.objective.style_of(style)
            output = self.transformer(content, self.predictor(style))
            for label, picture in (("", output), (" of the photograph itself", content)):
                for name, value in self.objective(picture, content, targets).items():
                    sums[name + label] = sums.get(name + label, 0.0) + float(value) / PAIRS
        return sums


def _copy_encoder(predictor: StyleStatistics, file: Path) -> None:
    """Fill the predictor's convolutions with art-vgg's."""
    expected = layout(list(convolutions(art_vgg_nodes())))
    tensors = load_tensors(file, expected=expected, wanted=lambda key: key.startswith("conv"), dtype=torch.float32)
    for block, row in enumerate(ART_VGG_WIDTHS):
        for layer in range(len(row)):
            for part in ("weight", "bias"):
                value = tensors[f"conv{block + 1}_{layer + 1}.{part}"]
                predictor.blocks.get_parameter(f"{block}.{layer}.{part}").data.copy_(value)
