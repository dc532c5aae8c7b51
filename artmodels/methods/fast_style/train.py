"""Train a fast style: the perceptual losses of Johnson et al. 2016, section 3.2, each relative to its target.

Content is the squared distance of features, relative to their mean square; style that of the features' means and
covariances, relative to the style's own, so that no style needs weights of its own. A Gram matrix is covariance +
mean·meanᵀ, and the mean, which is colour and contrast, rules it: apart, brush strokes count as much. Style is compared
at full, half and quarter size: features see some 100 px, and the smaller sizes hold the broad strokes. The lightness of
large areas must go up and down with the photograph's, whatever the palette. The published weights learn from the
compressed VGG-19 of Wang et al. 2020 with average pooling (Gatys et al. 2015): under maxima, and where shallow features
weigh more, the networks hatch all surfaces at a few pixels.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from artmodels.settings import Count, Settings, Share, Weight
from artmodels.training import Recipe, Sources

__all__ = ["Contents", "FastStyleRecipe", "FastStyleSettings", "Statistics", "StyleObjective", "reduced"]

Statistics = Mapping[tuple[int, str], tuple[Tensor, Tensor]]  # by how often the picture is halved, and the tap

CONTENT = {"relu3_3": 0.35, "relu4_1": 0.65}
STYLE = {
    **{(0, tap): share for tap, share in (("relu1_1", 0.15), ("relu2_1", 0.5), ("relu3_1", 1.5), ("relu4_1", 1.5))},
    **{(1, tap): share for tap, share in (("relu2_1", 0.7), ("relu3_1", 1.0), ("relu4_1", 1.0), ("relu5_1", 0.35))},
    **{(0, "relu5_1"): 0.5, (2, "relu3_1"): 0.45, (2, "relu4_1"): 0.45},
}
AREA = 16  # px: side of the areas whose lightness is compared, twice that of those whose colour is

# Where contents come from: folders, the shorter side that is kept, one of how many is held out, and how often.
CONTENTS = (
    (("photos",), 400, 3, 0.25),
    (("objects/coco_ccby", "objects/coco_more"), 400, 10, 0.2),
    (("landscapes",), 320, 10, 0.3),
    (("paintings",), 256, 10, 0.25),
)


@dataclass(frozen=True, kw_only=True)
class FastStyleSettings(Settings):
    """What the recipe can be told."""

    style: Annotated[str, "The picture to paint like, below the folder of data."]
    title: Annotated[str, "What to call it."]
    style_side: Annotated[Count, "Shorter side to which it is resized: larger gives larger strokes."] = 512
    start: Annotated[
        str, "Checkpoint to start from instead of random weights: a style is reached much sooner from another."
    ] = ""
    network: FastStyleConfig = FastStyleConfig(widths=(16, 32, 64), kernel=5)
    batch: Annotated[Count, "Crops a step."] = 2
    crop: Annotated[Count, "Side of a crop in pixels."] = 224
    grounds: Annotated[Share, "Of the crops that are given an even or graded ground."] = 0.2
    style_weight: Annotated[Weight, "Against 1 for content."] = 3.0
    tone_weight: Annotated[Weight, "Of the order of light and dark areas."] = 0.5
    tv_weight: Annotated[Weight, "Of total variation where the content is flat: skies stay skies."] = 2.0
    blotch_weight: Annotated[Weight, "Of large areas that change colour where the content's do not."] = 0.0


class StyleObjective:
    """Content, style, smoothness and tones of stylised images."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        *,
        content: Mapping[str, float] = CONTENT,
        style: Mapping[tuple[int, str], float] = STYLE,
    ) -> None:
        """Measure with these features: shares by tap, and by halvings and tap."""
        self.extractor, self.content, self.style = extractor, content, style
        self.floors = dict.fromkeys(style, (0.0, 0.0))

    def content_of(self, x: Tensor) -> Mapping[str, Tensor]:
        """Features that content is compared by."""
        features: Mapping[str, Tensor] = self.extractor(x, list(self.content))
        return features

    def style_of(self, x: Tensor) -> Statistics:
        """Means and covariances that style is compared by, for each of styles [N, 3, H, W]."""
        return self._measured(x)[0]

    def set_floors(self, typical: Sequence[Statistics], share: float) -> None:
        """Measure distances relative to no less than a share of the mean square of many styles' statistics.

        A blank style has little of its own.
        """
        for key in self.style:
            mean, covariance = (torch.cat([styles[key][part] for styles in typical]) for part in (0, 1))
            self.floors[key] = share * float(_square(mean).mean()), share * float(_square(covariance).mean())

    def __call__(
        self, output: Tensor, content: Tensor, styles: Statistics, wanted: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The five terms, unweighted, of what contents became, both [N, 3, H, W]: the mean of N images.

        Styles are from `style_of`, N or one for all; `wanted` are the contents' features, if they are at hand.
        """
        ours, found = self._measured(output, self.content)
        if wanted is None:
            with torch.no_grad():
                wanted = self.content_of(content)
        terms = {"content": output.new_zeros(()), "style": output.new_zeros(())}
        for tap, share in self.content.items():
            error = (found[tap] - wanted[tap]).square().mean((1, 2, 3))
            error = error / wanted[tap].square().mean((1, 2, 3)).clamp_min(1e-3)
            terms["content"] = terms["content"] + share * error.mean()
        for key, share in self.style.items():
            for mine, theirs, floor in zip(ours[key], styles[key], self.floors[key], strict=True):
                distance = _square(mine - theirs) / _square(theirs).clamp_min(floor)
                terms["style"] = terms["style"] + share * distance.mean() / (2 * sum(self.style.values()))
        evenness = {"flatness": flatness(output, content), "blotches": blotches(output, content)}
        return terms | evenness | {"tones": tones(output, content)}

    def _measured(self, x: Tensor, also: Iterable[str] = ()) -> tuple[Statistics, Mapping[str, Tensor]]:
        """Statistics of images at every size, and their features at some more taps, at full size."""
        statistics: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        whole: Mapping[str, Tensor] = {}
        for halvings in range(1 + max(key[0] for key in self.style)):
            asked = [tap for number, tap in self.style if number == halvings]
            taps = list(dict.fromkeys([*asked, *(also if not halvings else ())]))
            features = self.extractor(x, taps) if taps else {}
            statistics |= {(halvings, tap): moments(features[tap]) for tap in asked}
            whole = whole or features
            x = F.avg_pool2d(x, 2)
        return statistics, whole


def _square(x: Tensor) -> Tensor:
    """Squared length of each of N vectors or matrices."""
    return x.square().flatten(1).sum(1)


def flatness(output: Tensor, content: Tensor) -> Tensor:
    """Total variation of the output, counted where the lightness of the content has none."""
    smooth = F.avg_pool2d(F.pad(content.mean(1, keepdim=True), (2, 2, 2, 2), mode="reflect"), 5, 1)
    return _variation(output, smooth)


def blotches(output: Tensor, content: Tensor) -> Tensor:
    """Total variation of the output's colour over areas of 8 px, counted where the colour of the content has none."""
    return _variation(*(F.avg_pool2d(x - x.mean(1, keepdim=True), AREA // 2) for x in (output, content)))


def _variation(x: Tensor, guide: Tensor) -> Tensor:
    """Total variation of x, counted as e^(-24 |∇guide|) of it."""
    total = x.new_zeros(())
    for axis in (2, 3):
        edges = guide.diff(dim=axis).abs().sum(1, keepdim=True)
        total = total + (x.diff(dim=axis).abs() * torch.exp(-24 * edges)).mean()
    return total


def tones(output: Tensor, content: Tensor) -> Tensor:
    """One minus the correlation of lightness between images, [N, 3, H, W], over areas of 16 px; the mean of N."""
    ours, theirs = (F.avg_pool2d(x.mean(1), AREA).flatten(1) for x in (output, content))
    ours, theirs = ours - ours.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True)
    # What is all but even has no order of tones: a thousandth of variance counts as agreement.
    spread = ((ours.square().mean(1) + 1e-3) * (theirs.square().mean(1) + 1e-3)).sqrt()
    return 1 - (((ours * theirs).mean(1) + 1e-3) / spread).mean()


class Contents:
    """Pictures to repaint, in crops: photographs of things and people, landscapes, and paintings."""

    def __init__(self, data: Path, crops: Crops) -> None:
        """Read them; `unseen` are photographs that are held out."""
        self.crops = crops
        self.files, self.kinds = list[Path](), list[tuple[ImageSet, float]]()
        for names, side, one_in, share in CONTENTS:
            files, held_out = folders.split(folders.image_files(data, names), one_in)
            if "photos" in names:
                self.unseen = held_out
            self.files += files
            self.kinds.append((ImageSet.load(files, side=side), share))

    def __call__(self, count: int, rng: torch.Generator) -> Tensor:
        """Draw crops of one kind, [count, 3, size, size]."""
        kind = int(torch.multinomial(torch.tensor([share for _, share in self.kinds]), 1, generator=rng))
        return self.crops(self.kinds[kind][0], count, rng)


class FastStyleRecipe(Recipe):
    """See the module."""

    settings_class = FastStyleSettings

    def __init__(self, settings: FastStyleSettings, sources: Sources, *, seed: int) -> None:
        """Read the loss network, the images and the style; draw or read the first weights."""
        self.settings = settings
        extractor = teachers.load(teachers.COMPRESSED, sources.teachers, pooling="avg")
        self.contents = Contents(sources.data, Crops(size=settings.crop, smallest=0.4, grounds=settings.grounds))
        self.files, self.unseen = self.contents.files, self.contents.unseen
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
        """Content, style, flatness and tones."""
        batch = self.contents(self.settings.batch, rng)
        terms = self.objective(self.network(batch), batch, self.target)
        return {
            "content": terms["content"],
            "style": self.settings.style_weight * terms["style"],
            "flatness": self.settings.tv_weight * terms["flatness"] + self.settings.blotch_weight * terms["blotches"],
            "tones": self.settings.tone_weight * terms["tones"],
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
