"""Train art-resnet: distil a ResNet-50's features into a ResNet-18, and keep them when the style changes.

The teacher is a ResNet-50 with pre-activation (He et al. 2016, arXiv:1603.05027). Our network sees a crop as it is,
and a view of it: stylised, or degraded. For both it is to give the teacher's features of the original, and cosines
between details of the view and of the crop are to be distributed as the teacher's between details of the crop
(relational distillation, Park et al. 2019, arXiv:1904.05068, as a divergence).

Borders are reflected: zeros make features tell how far the border is, which is no property of what is shown. The
teacher, trained with zeros, sees `margin` more pixels on each side than our network, which so need not learn its
borders.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, MultipleOf
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels.data import folders
from artmodels.data.folders import Crops, ImageSet
from artmodels.features import teachers
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.networks import ART_RESNET_TAPS, CENTRED, art_resnet_nodes, convolutions, folded, randomise
from artmodels.features.stages import NORM_EPSILON, Convolution, padded
from artmodels.methods.art_resnet import retrieval
from artmodels.methods.art_resnet.retrieval import EVERY, Standard, local_features
from artmodels.methods.art_resnet.views import Views
from artmodels.methods.fast_style import FastStyle
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Positive, Settings, Share, Weight
from artmodels.training import Recipe, Sources

__all__ = ["UNSEEN_STYLES", "ArtResNetRecipe", "ArtResNetSettings"]

FOLDERS = ("paintings", "photos", "textures", "icons")
# All have been trained anew since; what was made with the earlier ones can be made again with those only.
SEEN_STYLES = (
    "earlier/fast-style-starry-night",
    "earlier/fast-style-salamander",
    "earlier/fast-style-adele",
    "earlier/fast-style-city-rises",
    "earlier/fast-style-haymaking",
)
UNSEEN_STYLES = ("earlier/fast-style-scream", "earlier/fast-style-ink")
MOMENTUM = 0.03  # of the running statistics
FAINT = 0.1  # mean square of a standardised feature below which errors no longer count in proportion
COMPARED = (16, 256)  # images and their side in pixels, for the report
PAIRS = 1024  # details whose cosines are correlated


@dataclass(frozen=True, kw_only=True)
class ArtResNetSettings(Settings):
    """What the recipe can be told."""

    batch: Annotated[Count, "Crops a step; our network sees twice as many pictures, the teacher as many."] = 3
    crop: Annotated[Count, MultipleOf(EVERY), "Side in pixels of what our network sees."] = 128
    margin: Annotated[int, Ge(0), MultipleOf(EVERY), "Pixels that the teacher sees beyond that on each side."] = 16
    side: Annotated[Count, "Shorter side to which images are reduced when they are read."] = 400
    styles: Annotated[tuple[str, ...], "Checkpoints of fast style whose views are trained on."] = SEEN_STYLES
    stylised: Annotated[Share, "Of the views that are stylised; the others are degraded."] = 0.6
    arbitrary: Annotated[
        Share, "Of the stylised views that `arbitrary-style` makes, from paintings of the training set."
    ] = 0.0
    match_weight: Annotated[Weight, "Weight of the cosines' term beside that of features, which is 1."] = 0.2
    temperature: Annotated[Positive, "Of the distributions of cosines: low ones look at the nearest only."] = 0.1


class Normalised(Convolution):
    """A convolution with batch normalisation: by the batch while gradients are on, by running statistics otherwise."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, inputs: int, channels: int, kernel: int, **options: Any) -> None:
        """See `Convolution`."""
        super().__init__(inputs, channels, kernel, **options)
        self.gain = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, padding: str) -> Tensor:
        """Pad, convolve, normalise, rectify."""
        _, stride, pad = self.windows[0]
        y = F.conv2d(padded(x, pad, padding), self.weight, stride=stride)
        learning = torch.is_grad_enabled()
        statistics = (self.running_mean, self.running_var)
        y = F.batch_norm(y, *statistics, self.gain, self.bias, learning, MOMENTUM, NORM_EPSILON)
        return y.relu_() if self.relu else y

    def stored(self) -> dict[str, Tensor]:
        """What `Convolution.assign` reads. Statistics keep all their digits: half precision could lose small ones."""
        values = (self.weight.half(), self.gain, self.bias, self.running_mean, self.running_var)
        return {key: value.detach().clone() for key, value in zip(self.keys(), values, strict=True)}


class ArtResNetRecipe(Recipe):
    """See the module."""

    settings_class = ArtResNetSettings

    def __init__(self, settings: ArtResNetSettings, sources: Sources, *, seed: int) -> None:
        """Read teacher, styles and images, draw the weights."""
        self.settings, self.sources = settings, sources
        self.teacher = teachers.load(teachers.RESNET, sources.teachers)
        self.files, self._held_out = folders.split(folders.image_files(sources.data, FOLDERS))
        self.images = ImageSet.load(self.files, side=settings.side)
        self.views = Views(
            sources.weights,
            settings.styles,
            stylised=settings.stylised,
            arbitrary=settings.arbitrary,
            paintings=self.images,
        )
        self.crops = Crops(size=settings.crop + 2 * settings.margin, smallest=0.3)

        nodes = art_resnet_nodes(Normalised)
        draw = generator(seed)
        randomise(nodes, draw)
        self.layers = [conv for conv in convolutions(nodes) if isinstance(conv, Normalised)]
        # While it is trained a tap is the stage itself, and a head maps it to the teacher's width.
        for node in nodes:
            if isinstance(node.stage, Convolution) and set(node.taps) & set(ART_RESNET_TAPS):
                node.stage.weight.data.copy_(torch.eye(node.stage.channels)[:, :, None, None])
        self.student = FeatureExtractor("art-resnet", nodes, preprocessing=CENTRED, padding="reflect")
        with torch.no_grad():
            sample = self.teacher(self.crops(self.images, 32, generator(1)), ART_RESNET_TAPS)
        self.standard = Standard.of(sample)
        self.heads = nn.ModuleDict()
        for tap, value in sample.items():
            inputs = self.student.channels(tap)
            head = nn.Conv2d(inputs, value.shape[1], 1, bias=False)
            # Small: the first errors are then those of an answer of zeros, not of a wrong one.
            head.weight.data.normal_(0, 0.1 * inputs**-0.5, generator=draw)
            self.heads[tap] = head
        for layer in self.layers:
            layer.requires_grad_(True)
        self.network = nn.ModuleDict({"stages": self.student.stages, "heads": self.heads})

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """Relative squared error of features, and divergence of cosines, one term a tap."""
        settings = self.settings
        wide = self.crops(self.images, settings.batch, rng)
        with torch.no_grad():
            targets = self._targets(wide)
        crop = _inner(wide, settings.margin)
        found = self.student(torch.cat([crop, self.views(crop, rng)]), ART_RESNET_TAPS)
        terms = {}
        for tap in ART_RESNET_TAPS:
            answer = self.heads[tap](found[tap]).unflatten(0, (2, -1))  # original and view, batch, channels, …
            error = (answer - targets[tap]).square().mean(2)
            terms[tap] = (error / targets[tap].square().mean(1).clamp_min(FAINT)).mean()
            stride = self.student.stride(tap)
            wanted = local_features(targets[tap], stride)
            original, view = (local_features(part, stride) for part in answer)
            aim = F.log_softmax(wanted @ wanted.T / settings.temperature, 1)
            cosines = F.log_softmax(view @ original.T / settings.temperature, 1)
            divergence = F.kl_div(cosines, aim, reduction="batchmean", log_target=True)
            terms[f"match {tap}"] = settings.match_weight * divergence
        return terms

    def _targets(self, wide: Tensor) -> dict[str, Tensor]:
        """Standardised features of the teacher without their margin."""
        found = self.standard(self.teacher(wide, ART_RESNET_TAPS))
        return {tap: _inner(value, self.settings.margin // self.teacher.stride(tap)) for tap, value in found.items()}

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Layers as they are; heads folded."""
        tensors: dict[str, Tensor] = {}
        for layer in self.layers:
            tensors |= layer.stored()
        for tap in ART_RESNET_TAPS:
            tensors[f"{tap.replace('layer', 'head')}.weight"] = folded(self.heads[tap])
        return {"architecture": "art-resnet"}, tensors

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Agreement with the teacher, and recall of details across styles, ours and the teacher's, on held-out images.

        Cosines are of features of head and teacher at the same place, and "pair correlation" is that of the cosines
        between details. Recall is the share of the details of stylised images, one every 16 pixels, whose nearest
        detail of all originals is the right one.
        """
        count, size = COMPARED
        originals = retrieval.squares(self._held_out, count, size, generator(2))
        ours, theirs = self._both(originals)
        report = {}
        local = {}
        for tap in ART_RESNET_TAPS:
            stride = self.student.stride(tap)
            report[f"feature cosine {tap}"] = float(F.cosine_similarity(ours[tap], theirs[tap]).mean())
            local[tap] = (local_features(ours[tap], stride), local_features(theirs[tap], stride))
            spread = torch.linspace(0, len(local[tap][0]) - 1, min(PAIRS, len(local[tap][0]))).long()
            report[f"pair correlation {tap}"] = retrieval.pair_correlation(*(part[spread] for part in local[tap]))
        for kind, names in (("seen", self.settings.styles), ("unseen", UNSEEN_STYLES)):
            for name in names:
                style = FastStyle.from_pretrained(self.sources.weights / name, device="cpu")
                both = self._both(retrieval.stylised(originals, style))
                for tap in ART_RESNET_TAPS:
                    stride = self.student.stride(tap)
                    for who, found, base in zip(("", ", teacher"), both, local[tap], strict=True):
                        key = f"recall {tap}, {kind} styles{who}"
                        part = retrieval.recall(local_features(found[tap], stride), base) / len(names)
                        report[key] = report.get(key, 0.0) + part
        return report

    def _both(self, batch: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        found = retrieval.features_of(self.student, batch, ART_RESNET_TAPS)
        ours = {tap: self.heads[tap](value) for tap, value in found.items()}
        return ours, self.standard(retrieval.features_of(self.teacher, batch, ART_RESNET_TAPS))


def _inner(x: Tensor, margin: int) -> Tensor:
    return x[..., margin : x.shape[-2] - margin, margin : x.shape[-1] - margin]
