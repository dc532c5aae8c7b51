"""Train the fine stage: on pairs made here, of which the truth is known, or without labels as published.

Shen, Darmon, Efros and Aubry 2020 (arXiv:2004.01526), sections 3.2 and 3.3: similarity of the pictures first, then
consistency there and back, then matchability with both. `PUBLISHED` are these three stages, and `SMOOTH` the fourth of
the released code, for pictures to look at. Our own stage minimises the distance from the truth and the cross entropy
of what can be seen; the similarity of pixels says little about a painting and its engraving.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Ge, MinLen, MultipleOf
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels import features
from artmodels.correspondence import geometry
from artmodels.correspondence.redrawing import engraved
from artmodels.data.folders import Crops, ImageSet, image_files, split
from artmodels.errors import ConfigError
from artmodels.features.stages import Convolution
from artmodels.methods.art_resnet.train import SEEN_STYLES, UNSEEN_STYLES
from artmodels.methods.art_resnet.views import Views
from artmodels.methods.ransac_flow.model import STRIDE, FineConfig, FineNetwork, enlarged
from artmodels.methods.ransac_flow.training import losses
from artmodels.methods.ransac_flow.training.synthetic import WarpConfig, WarpedPairs, Warper, closer, make_pairs
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Settings, Share, Weight
from artmodels.training import Recipe, Sources

__all__ = ["PUBLISHED", "SMOOTH", "RansacFlowRecipe", "RansacFlowSettings", "TrainingStage", "unlabelled"]

THRESHOLDS = (1, 3, 5)  # px: of the share of pixels that are at most so far off
HELD_OUT = 24  # pairs for the report
LESS = 4.0  # times, that pairs are moved less which are shown at twice the size


@dataclass(frozen=True, kw_only=True)
class TrainingStage(Settings):
    """What counts for how long."""

    updates: Annotated[Count, "Of the weights; the last stage of a recipe goes on to the end whatever it says."]
    truth: Annotated[Weight, "Weight of the distance from the truth, in cells."] = 0.0
    seen: Annotated[Weight, "Weight of the cross entropy of the matchability with the truth."] = 0.0
    reconstruction: Annotated[Weight, "Weight of 1 - SSIM between the warped source and the target."] = 0.0
    cycle: Annotated[Weight, "mu, weight of the distance there and back."] = 0.0
    matchability: Annotated[Weight, "lambda, weight of what is not matchable; 0 leaves the matchability alone."] = 0.0
    smooth: Annotated[Weight, "Weight of changes of the flow where it cannot be matched."] = 0.0
    only_flow: Annotated[bool, "Whether nothing but the head of the flow learns, in a stage without truth."] = False

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if not (self.truth or self.seen or self.unlabelled):
            raise ConfigError(f"{self}: give weights that are not all 0")
        if self.only_flow and (self.truth or self.seen):
            raise ConfigError(f"{self}: only_flow=True is for terms without truth: set truth=0 and seen=0")

    @property
    def unlabelled(self) -> bool:
        """Whether a term needs no truth."""
        return any((self.reconstruction, self.cycle, self.matchability, self.smooth))


PUBLISHED = (
    TrainingStage(updates=200, reconstruction=1.0),
    TrainingStage(updates=50, reconstruction=1.0, cycle=1.0),
    TrainingStage(updates=50, reconstruction=1.0, cycle=1.0, matchability=0.01),
)
"""The paper's stages; there, updates are epochs of 20 000 pairs, 16 at a time."""
SMOOTH = TrainingStage(updates=50, reconstruction=1.0, cycle=1.0, smooth=1.0, only_flow=True)


@dataclass(frozen=True, kw_only=True)
class RansacFlowSettings(Settings):
    """Settings of the recipe; the defaults are for one core of a CPU."""

    fine: Annotated[FineConfig, "The network. The paper's is the published one."] = FineConfig()
    backbone: Annotated[
        str,
        'Checkpoint whose first layers the encoder starts from, "" for random weights. "art-resnet" fits the encoder '
        "of that name only.",
    ] = "art-resnet"
    frozen: Annotated[int, "Blocks of that encoder, from the first on, that stay as they are."] = 4
    stages: Annotated[tuple[TrainingStage, ...], MinLen(1), "In their order."] = (
        TrainingStage(updates=1, truth=1.0, seen=0.5),
    )
    folders: Annotated[tuple[str, ...], "Of the data, that hold the pictures."] = ("paintings", "photos")
    side: Annotated[int, "Shorter side in pixels to which pictures are reduced when they are read."] = 400
    size: Annotated[int, MultipleOf(STRIDE), "Side of what is trained on, in pixels. The paper has 224."] = 192
    margin: Annotated[
        int, Ge(0), "Pixels at each edge that the terms without truth leave out. The paper has 88 of 224."
    ] = 40
    batch: Annotated[int, Ge(2), "Pairs an update. The paper has 16."] = 6
    warp: Annotated[WarpConfig, "How pairs are made."] = WarpConfig()
    closer: Annotated[
        Share,
        "Chance that the pairs of an update are moved by a quarter only and shown at twice the size, as a pass at that "
        "size sees them after the others; 0 in the paper.",
    ] = 0.3
    styles: Annotated[tuple[str, ...], "Checkpoints of fast style that pictures are made with."] = SEEN_STYLES
    stylised: Annotated[Share, "Share of the changed pictures that are in another hand; the others are worn."] = 0.6
    arbitrary: Annotated[Share, "Share of these that `arbitrary-style` makes."] = 0.5
    engraved: Annotated[Share, "Chance that a changed picture is drawn as an engraving instead."] = 0.2
    negative: Annotated[
        Share, "Chance that a changed picture is then grey and inverted, as dark paint is bright in an X-ray."
    ] = 0.1

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.size < 2 * self.margin + STRIDE:
            raise ConfigError(f"size={self.size} must be more than twice margin={self.margin}")
        if self.backbone and self.fine.encoder != "art-resnet":
            raise ConfigError(f'backbone={self.backbone!r} fits encoder="art-resnet" only: leave it empty')


class Hands:
    """Draws what a picture becomes in another hand: painted, engraved, worn, or X-rayed."""

    def __init__(self, views: Views, engraved: float, negative: float) -> None:
        """With chances of an engraving, and of a negative."""
        self.views, self.engraved, self.negative = views, engraved, negative

    def __call__(self, pictures: Tensor, rng: torch.Generator) -> Tensor:
        """[N, 3, H, W] in [0, 1], sides multiples of 8, to the same shape and range."""
        made = self.views(pictures, rng)
        drawn, inverted = torch.rand(2, len(pictures), generator=rng)
        for number in (drawn < self.engraved).nonzero()[:, 0].tolist():
            seed = int(torch.randint(2**31, (), generator=rng))
            picture = pictures[number].permute(1, 2, 0).double().numpy()
            made[number] = torch.from_numpy(engraved(picture, np.random.default_rng(seed))).permute(2, 0, 1)
        negative = 1 - made.mean(1, keepdim=True)
        return torch.where((inverted < self.negative).view(-1, 1, 1, 1), negative, made)


class _Learning(nn.Module):
    """What is trained, and the updates that a run which goes on has to know of."""

    updates: Tensor

    def __init__(self, fine: FineNetwork) -> None:
        super().__init__()
        self.fine = fine
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))


class RansacFlowRecipe(Recipe):
    """See the module."""

    settings_class = RansacFlowSettings
    network: _Learning

    def __init__(self, settings: RansacFlowSettings, sources: Sources, *, seed: int) -> None:
        """Read pictures, styles and the backbone.

        Raises:
            ConfigError: The backbone is not one that the encoder can start from.
            WeightsError: The backbone or a style is not there.
        """
        self.settings, self.sources = settings, sources
        self.files, self._held_out = split(image_files(sources.data, settings.folders))
        self.images = ImageSet.load(self.files, side=settings.side)
        self.crops = Crops(size=settings.size, smallest=0.5)
        self.hands = self._hands(settings.styles, self.images)
        self.warper = Warper(settings.warp, settings.size, settings.size)
        little = {name: getattr(settings.warp, name) / LESS for name in ("bend", "ripple", "corners")}
        self.gentle = Warper(replace(settings.warp, **little), settings.size, settings.size)
        self.network = _Learning(FineNetwork(settings.fine, seed=seed)).train()
        if settings.backbone:
            backbone = features.load(sources.checkpoint(settings.backbone), until="layer2")
            self.network.fine.encoder.load_state_dict(backbone.state_dict())
        self.network.requires_grad_(True)
        if isinstance(self.network.fine.encoder, features.FeatureExtractor):
            _unfreeze(self.network.fine.encoder, settings.frozen)

    def _hands(self, styles: tuple[str, ...], paintings: ImageSet) -> Hands:
        shares = {"stylised": self.settings.stylised, "arbitrary": self.settings.arbitrary}
        views = Views(self.sources.weights, styles, **shares, paintings=paintings)
        return Hands(views, self.settings.engraved, self.settings.negative)

    def stage(self) -> TrainingStage:
        """The one that the next update belongs to."""
        done = int(self.network.updates)
        for stage in self.settings.stages:
            if done < stage.updates:
                return stage
            done -= stage.updates
        return self.settings.stages[-1]

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """The terms of the stage, on pairs that are made anew."""
        near = float(torch.rand((), generator=rng)) < self.settings.closer
        with torch.no_grad():
            pairs = self._pairs(self.images, self.settings.batch, rng, self.hands, near=near)
            pairs = pairs.to(self.network.updates.device)
        stage = self.stage()
        self.network.updates += 1
        # Running statistics do not learn either.
        for part in (self.network.fine.encoder, self.network.fine.matchability):
            part.train(not stage.only_flow)
        terms = dict[str, Tensor]()
        if stage.truth or stage.seen:
            terms |= labelled(self.network.fine, pairs, stage)
        if stage.unlabelled:
            terms |= unlabelled(self.network.fine, pairs.source, pairs.target, stage, margin=self.settings.margin)
        return terms

    def _pairs(
        self, images: ImageSet, count: int, rng: torch.Generator, restyle: Hands | None, *, near: bool
    ) -> WarpedPairs:
        pictures, others = (self.crops(images, count, rng) for _ in range(2))
        pairs = make_pairs(pictures, others, self.gentle if near else self.warper, rng, restyle=restyle)
        return closer(pairs, rng) if near else pairs

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The network's tensors in half precision, and how it is made."""
        state = self.network.fine.state_dict()
        tensors = {key: value.detach().half() for key, value in state.items() if value.is_floating_point()}
        return {"method": "ransac_flow", **asdict(self.settings.fine)}, tensors

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """On pairs of held-out pictures: endpoint error and PCK before and after, and how often visibility is right."""
        if not self._held_out:
            return {}
        network = self.network.fine.eval()
        pictures = ImageSet.load(self._held_out, side=self.settings.side)
        report = dict[str, float]()
        unseen = tuple(name for name in UNSEEN_STYLES if name not in self.settings.styles)
        for what, styles, near in (
            ("as they are", None, False),
            ("seen styles", self.settings.styles, False),
            ("unseen styles", unseen, False),
            ("unseen styles, closer", unseen, True),
        ):
            if styles is not None and not styles:
                continue
            rng = generator(11)
            restyle = None if styles is None else self._hands(styles, pictures)
            batches = [self._pairs(pictures, 8, rng, restyle, near=near) for _ in range(HELD_OUT // 8)]
            report |= {f"{name}, {what}": value for name, value in self._report(network, batches).items()}
        network.train()
        return report

    def _report(self, network: FineNetwork, batches: Sequence[WarpedPairs]) -> dict[str, float]:
        before, after, right = list[Tensor](), list[Tensor](), list[Tensor]()
        for pairs in batches:
            there = pairs.to(self.network.updates.device)
            found = network.one_way(there.source, there.target).cpu()
            truth = displacement(pairs.grid)
            seen = pairs.seen[:, 0] > 0.5
            half = self.settings.size / 2
            before.append((truth * half).norm(dim=1)[seen])
            after.append(((found[:, :2] - truth) * half).norm(dim=1)[seen])
            right.append(((found[:, 2] > 0.5) == seen).float().flatten())
        errors, off = torch.cat(after), torch.cat(before)
        report = {"px off before": float(off.mean()), "px off": float(errors.mean())}
        for limit in THRESHOLDS:
            report[f"within {limit} px"] = float((errors <= limit).float().mean())
        return report | {"seen is told": float(torch.cat(right).mean())}


def _unfreeze(encoder: features.FeatureExtractor, frozen: int) -> None:
    """Let all stages of an extractor learn but the first `frozen`."""
    encoder.requires_grad_(False)
    for stage in encoder.stages[frozen:]:
        for layer in stage.modules():
            if isinstance(layer, Convolution):
                layer.weight.requires_grad_(True)
                layer.bias.requires_grad_(layer.biased)


def displacement(grid: Tensor) -> Tensor:
    """Maps [N, H, W, 2] less where each pixel is: [N, 2, H, W]."""
    return (grid - geometry.identity(*grid.shape[1:3]).to(grid)).permute(0, 3, 1, 2)


def labelled(network: FineNetwork, pairs: WarpedPairs, stage: TrainingStage) -> dict[str, Tensor]:
    """The terms that need the truth."""
    found = network.one_way(pairs.source, pairs.target)
    truth = displacement(pairs.grid).to(found)
    terms = {"truth": stage.truth * losses.endpoint(found[:, :2], truth, pairs.seen, STRIDE)}
    if stage.seen:
        terms["seen"] = stage.seen * losses.visibility(found[:, 2:], pairs.seen)
    return terms


def unlabelled(
    network: FineNetwork, source: Tensor, target: Tensor, stage: TrainingStage, *, margin: int
) -> dict[str, Tensor]:
    """The published terms, on pictures [N, 3, H, W] that lie roughly on each other; both directions count."""
    count, _, height, width = source.shape
    both = torch.cat([source, target])
    cells = network.encode(both)
    other = cells.roll(count, 0)
    if stage.only_flow:
        cells, other = cells.detach(), other.detach()
    # The first half of the batch then is brought onto the second, and the second onto the first.
    moved, matchable = network.match(cells, other)
    up = enlarged(torch.cat([moved, matchable], 1))
    moved, matchable = up[:, :2], up[:, 2:].detach() if stage.only_flow else up[:, 2:]
    there = (geometry.identity(height, width).to(moved) + moved.permute(0, 2, 3, 1)).clamp(-1, 1)
    mask = F.pad(source.new_ones(1, 1, height - 2 * margin, width - 2 * margin), (margin,) * 4).expand(
        2 * count, -1, -1, -1
    )
    counted = mask
    if stage.matchability or stage.smooth:
        counted = matchable * mask * losses.sampled((matchable * mask).roll(count, 0), there)
    terms = dict[str, Tensor]()
    if stage.reconstruction:
        warped = losses.sampled(both, there)
        terms["reconstruction"] = stage.reconstruction * losses.ssim_loss(warped, both.roll(count, 0), counted)
    if stage.cycle:
        terms["cycle"] = stage.cycle * losses.cycle(there, there.roll(count, 0), counted)
    if stage.matchability:
        terms["matchability"] = stage.matchability * losses.masked_mean((1 - counted).abs(), mask)
    if stage.smooth:
        terms["smooth"] = stage.smooth * losses.smoothness(moved, (1 - counted) * mask)
    return terms
