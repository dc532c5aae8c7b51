"""Tune a backbone to a collection, without labels: details that look alike in different hands are brought together.

Shen, Efros and Aubry 2019, "Discovering Visual Patterns in Art Collections with Spatially-Consistent Feature Learning"
(arXiv:1903.02678), section 3 and its released code. Pairs of places are mined with the features as they are
(`tuning.mining`). Of each pair only the corners of a square are trained on that is larger than the region that was
verified: what is easy to match is known, and what lies beside it is to become so.

Our extensions. A small collection has few repeated details, so part of the pairs are copies: a crop, and the same
crop in another manner, worn, turned or mirrored, whose correspondence is known and not guessed. An expert's "no" is a
hard negative, and never a positive (`tuning.rejected`). Statistics of normalisation, which the original goes on
estimating, are folded into the weights. The original trains 15 000 updates.
"""

import dataclasses
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval, MinLen
from torch import Tensor, nn

from artmodels import features
from artmodels.correspondence.cells import Describer, Pyramid, grid
from artmodels.correspondence.views import VIEWS, check_views
from artmodels.data.folders import Crops, ImageSet, image_files, split
from artmodels.errors import ConfigError, DatasetError
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.stages import Convolution
from artmodels.methods.art_resnet.retrieval import recall, squares, stylised
from artmodels.methods.art_resnet.train import SEEN_STYLES, UNSEEN_STYLES
from artmodels.methods.art_resnet.views import Views
from artmodels.methods.artminer.evidence.verdicts import Verdict
from artmodels.methods.artminer.pipeline import ArtMinerConfig
from artmodels.methods.artminer.tuning.mining import MiningConfig, Pairs, corners, mine
from artmodels.methods.artminer.tuning.objective import contrast, principal
from artmodels.methods.artminer.tuning.rejected import cells_inside, find_rejected, is_rejected, rejected_hinge
from artmodels.methods.fast_style import FastStyle
from artmodels.runtime.devices import generator
from artmodels.settings import Count, Settings, Share
from artmodels.training import Recipe, Sources

__all__ = ["ArtMinerRecipe", "ArtMinerSettings"]

BLOCK = 8  # px: views are made of pictures whose sides are multiples
COMPARED = (16, 256)  # held-out pictures and their side in pixels, for the report
VERIFIED = 50  # pairs of held-out pictures, for the report


@dataclass(frozen=True, kw_only=True)
class ArtMinerSettings(Settings):
    """Settings of the recipe. The defaults are for some hundred pictures on one core of a CPU."""

    backbone: Annotated[str, "Checkpoint to start from, a name that `artmodels.features` knows."] = "art-resnet"
    tap: Annotated[str, "Tap of the backbone, whose positions are the cells."] = "layer3"
    padding: Annotated[str, "Padding of the backbone, see `FeatureExtractor`."] = "reflect"
    dims: Annotated[Count, "Numbers of a cell after the projection that is published with the weights."] = 64
    folders: Annotated[tuple[str, ...], "Folders of the data that hold the pictures."] = ("paintings",)
    side: Annotated[int, "Shorter side in pixels to which pictures are reduced when they are read."] = 480
    scales: Annotated[
        tuple[int, ...],
        MinLen(1),
        "Cells of the longer side of the maps that are searched, largest first. The paper has `SCALES`.",
    ] = (40, 34, 28, 20)
    mining: Annotated[MiningConfig, "How pairs are mined."] = MiningConfig(proposals=1000, sides=(34, 28), least=9)
    searched: Annotated[Count, "Pictures that are mined at a time, drawn anew each time. The paper has 2000."] = 200
    described: Annotated[Count, "Pictures that the projection is found from."] = 40
    begin: Annotated[
        int, Ge(0), "Update before which pairs are mined first; copies alone are trained on until then."
    ] = 60
    every: Annotated[Count, "Updates after which they are mined again. The paper has 50."] = 90
    batch: Annotated[Count, "Pairs an update."] = 4
    copies: Annotated[Share, "Share of the pairs that are copies. The paper has 0."] = 0.75
    cells: Annotated[int, Ge(4), "Side of a copy."] = 20
    anchors: Annotated[Count, "Cells of a copy that are trained on."] = 32
    styles: Annotated[tuple[str, ...], "Checkpoints of fast style that copies are made with."] = SEEN_STYLES
    judges: Annotated[tuple[str, ...], "Others, for the report."] = UNSEEN_STYLES
    stylised: Annotated[
        Share, "Share of the copies that are stylised; the others are worn as photographs and scans are."
    ] = 0.7
    arbitrary: Annotated[
        Share, "Share of the stylised copies that `arbitrary-style` makes, from the collection's own pictures."
    ] = 0.5
    turned: Annotated[Share, "Share of the copies that are turned or mirrored, too."] = 0.3
    views: Annotated[tuple[str, ...], "How, see `artmodels.correspondence.views.VIEWS`."] = tuple(filter(None, VIEWS))
    negatives: Annotated[Count, "K, cells that count as the most similar wrong ones."] = 10
    threshold: Annotated[
        float, Interval(gt=0.5, lt=1), "lambda: positives are to be above it, negatives below 1 - lambda."
    ] = 0.8
    masked: Annotated[
        bool, "Whether the cells around the right one are left out of the negatives. The released code has them in."
    ] = True
    judged: Annotated[Count, "Pairs an update that an expert rejected, where verdicts are given."] = 1
    shown_from: Annotated[
        float, "`ArtMinerConfig.threshold` of what is published; measured afterwards, it decides no weights."
    ] = ArtMinerConfig.threshold
    linked_from: Annotated[float, "`ArtMinerConfig.pair_threshold` of the same."] = ArtMinerConfig.pair_threshold

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_views(self.views)
        if not set(self.mining.sides) <= set(self.scales):
            raise ConfigError(f"mining.sides={self.mining.sides} must be some of scales={self.scales}")


class _Tuned(nn.Module):
    """What is trained, and what a run that goes on must know beside it: the pairs mined last, and when."""

    mined: Tensor
    updates: Tensor

    def __init__(self, backbone: FeatureExtractor, pairs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mined", torch.full((pairs, 9), -1))  # rows of `Pairs.table`, -1 where there is none
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))


class ArtMinerRecipe(Recipe):
    """See the module."""

    settings_class = ArtMinerSettings
    network: _Tuned

    def __init__(
        self, settings: ArtMinerSettings, sources: Sources, *, seed: int, verdicts: Sequence[Verdict] = ()
    ) -> None:
        """Read backbone, styles and pictures; nothing is drawn, so the seed is only that of the batches.

        Verdicts are on pictures named by their path inside `sources.data`.

        Raises:
            ConfigError: The backbone has no such tap, or fewer channels than `dims`.
            DatasetError: There are fewer than two pictures to train on, or verdicts "no", and none is about these.
            WeightsError: The backbone or a style is not there.
        """
        self.settings, self.sources = settings, sources
        self.files, self._held_out = split(image_files(sources.data, settings.folders))
        if len(self.files) < 2:
            raise DatasetError(
                f"{sources.data} leaves {len(self.files)} pictures to train on, {len(self._held_out)} being held "
                "out: details repeat among two or more."
            )
        backbone = features.load(
            sources.checkpoint(settings.backbone), padding=settings.padding, until=settings.tap, device="cpu"
        )
        self.describer = Describer(backbone, settings.tap)
        if settings.dims > self.describer.dims:
            raise ConfigError(f"dims={settings.dims} is more than the {self.describer.dims} of {settings.tap!r}")
        if settings.cells * self.describer.stride % BLOCK:
            raise ConfigError(
                f"cells={settings.cells} of {self.describer.stride} pixels must make a multiple of {BLOCK}"
            )
        self.images = ImageSet.load(self.files, side=settings.side)
        self.rejected = find_rejected(verdicts, sources.data, self.files, read=len(self.images.images))
        self.views = Views(
            sources.weights,
            settings.styles,
            stylised=settings.stylised,
            arbitrary=settings.arbitrary,
            paintings=self.images,
        )
        self.crops = Crops(size=settings.cells * self.describer.stride, smallest=0.4)
        self.before = Describer(deepcopy(backbone), settings.tap)
        _let_learn(backbone, settings.tap)
        self.network = _Tuned(backbone, settings.mining.pairs)

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.network.updates.device

    def losses(self, rng: torch.Generator) -> dict[str, Tensor]:
        """Both terms of the hinge on copies and on mined pairs, which are mined first where it is time."""
        settings = self.settings
        updates = int(self.network.updates) - settings.begin
        if updates >= 0 and updates % settings.every == 0:
            self._mine(rng)
        self.network.updates += 1
        known = self.network.mined[self.network.mined[:, 0] >= 0].cpu()
        copies = round(settings.copies * settings.batch) if len(known) else settings.batch
        chosen = torch.randint(max(1, len(known)), (settings.batch - copies,), generator=rng)
        terms = [self._copy(rng) for _ in range(copies)]
        terms += [self._mined(Pairs.of(known[row : row + 1])) for row in chosen.tolist()]
        alike, wrong = zip(*terms, strict=True)
        if self.rejected:
            wrong += tuple(self._judged(rng) for _ in range(settings.judged))
        return {"alike": torch.stack(alike).mean(), "apart": torch.stack(wrong).mean()}

    def _contrast(self, *pair: Tensor) -> tuple[Tensor, Tensor]:
        settings = self.settings
        return contrast(*pair, negatives=settings.negatives, threshold=settings.threshold, masked=settings.masked)

    def _copy(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The loss of a crop and a view of it."""
        settings = self.settings
        picture = self.crops(self.images, 1, rng)
        view = self.views(picture, rng)
        turn = ""
        if float(torch.rand((), generator=rng)) < settings.turned:
            turn = settings.views[int(torch.randint(len(settings.views), (), generator=rng))]
        # The first and the last cell are then centred on the first and the last pixel, and cells are turned to cells.
        edge = (settings.cells - 1) * self.describer.stride + 1
        both = torch.cat([picture[..., :edge, :edge], _turned(view[..., :edge, :edge], turn)])
        maps = self.describer.of_pixels(both.to(self.device))
        number = torch.randperm(settings.cells**2, generator=rng)[: settings.anchors]
        grid_there = _turned(torch.arange(settings.cells**2).view(settings.cells, -1), turn).flatten().argsort()
        at, there = (
            torch.stack([cells // settings.cells, cells % settings.cells], 1) for cells in (number, grid_there[number])
        )
        return self._contrast(*maps, at, there)

    def _mined(self, pair: Pairs) -> tuple[Tensor, Tensor]:
        """The loss of one mined pair: both pictures whole, at the scale of each place."""
        places = (pair.first, pair.second)
        first, second = (self._described(int(place.image), int(place.scale)) for place in places)
        square = corners(self.settings.mining.corners)
        at, there = (torch.stack([place.row, place.column], 1) + square for place in places)
        return self._contrast(first, second, at, there)

    def _judged(self, rng: torch.Generator) -> Tensor:
        """The loss of one pair that an expert rejected, each picture at a scale of its own."""
        settings = self.settings
        pair = self.rejected[int(torch.randint(len(self.rejected), (), generator=rng))]
        first, second = (
            self._described(number, int(torch.randint(len(settings.scales), (), generator=rng)))
            for number in (pair.first, pair.second)
        )
        return rejected_hinge(
            first,
            second,
            cells_inside(pair.box, first.shape[1:]),
            hardest=settings.anchors,
            negatives=settings.negatives,
            threshold=settings.threshold,
        )

    def _picture(self, number: int) -> Tensor:
        return self.images.images[number][None].to(self.device).float() / 255

    def _described(self, number: int, scale: int) -> Tensor:
        """The map [D, R, C] of a picture at one of the scales."""
        picture, settings = self._picture(number), self.settings
        height, width = picture.shape[2:]
        size = grid(height, width, settings.scales[scale], least=settings.mining.smallest)
        return self.describer(picture, *size)

    @torch.no_grad()
    def _mine(self, rng: torch.Generator) -> None:
        """Replace the mined pairs."""
        settings = self.settings
        count = len(self.images.images)
        chosen = torch.randperm(count, generator=rng)[: settings.searched]
        describer = Describer(self.network.backbone, settings.tap, self._projection())
        pyramids = [self._pyramid(describer, self._picture(number)) for number in chosen.tolist()]
        pairs = mine(pyramids, settings.mining, rng)
        first, second = (
            dataclasses.replace(places, image=chosen[places.image]) for places in (pairs.first, pairs.second)
        )
        right = ~is_rejected(pairs, chosen, pyramids, settings.mining.patch, self.rejected)
        table = Pairs(first, second, pairs.votes).table()[right]
        self.network.mined.fill_(-1)
        self.network.mined[: len(table)] = table.to(self.device)

    def _pyramid(self, describer: Describer, picture: Tensor) -> Pyramid:
        found = describer.pyramid(picture, self.settings.scales, least=self.settings.mining.smallest)
        return Pyramid(tuple(value.half() for value in found.maps), found.width, found.height)

    @torch.no_grad()
    def _projection(self) -> Tensor:
        """[C, dims] for the backbone as it is, on its device."""
        count = len(self.images.images)
        used = min(self.settings.described, count)
        pictures = [self._picture(index * count // used) for index in range(used)]
        return principal(self.describer, pictures, self.settings.scales[0], self.settings.dims).to(self.device)

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The backbone's tensors as an extractor up to the tap has them, and `projection` [C, dims]."""
        tensors = {key: value.detach().half() for key, value in self.network.backbone.state_dict().items()}
        chosen = {name: getattr(self.settings, name) for name in ("backbone", "tap", "padding", "dims")}
        chosen |= {"threshold": self.settings.shown_from, "pair_threshold": self.settings.linked_from}
        return {"method": "artminer", **chosen, "tuned": True}, tensors | {"projection": self._projection().half()}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Numbers on held-out pictures, after and before; none where nothing is held out.

        Recall is the share of the cells of stylised, or turned, squares whose nearest cell of all originals is the
        right one. Votes are those of the best pairs mined from the held-out pictures, of at most 36.
        """
        if not self._held_out:
            return {}
        settings = self.settings
        tuned, reduced = self.describer, Describer(self.network.backbone, settings.tap, self._projection())
        self.before.backbone.to(self.device)
        describers = {"": tuned, f", {settings.dims} dimensions": reduced, ", before": self.before}
        report = {}
        for what, batches in self._queries().items():
            for who, describer in describers.items():
                base = _cells(describer, batches[0][0], "")
                shares = [recall(_cells(describer, *batch), base) for batch in batches[1:]]
                report[f"recall, {what}{who}"] = sum(shares) / len(shares)
        held_out = ImageSet.load(self._held_out, side=settings.side).images
        if len(held_out) > settings.mining.keep:
            kept = dataclasses.replace(settings.mining, pairs=VERIFIED, least=0)
            for who in ("", ", before"):
                pictures = (value[None].to(self.device).float() / 255 for value in held_out)
                pyramids = [self._pyramid(describers[who], picture) for picture in pictures]
                votes = mine(pyramids, kept, generator(3)).votes
                report[f"votes of verified pairs{who}"] = float(votes.double().mean())
        return report

    def _queries(self) -> dict[str, list[tuple[Tensor, str]]]:
        """For each kind of change the originals, then changed ones, each with the view that it shows."""
        count, size = COMPARED
        originals = squares(self._held_out, count, size, generator(2))
        unseen = tuple(name for name in self.settings.judges if name not in self.settings.styles)
        edge = size - self.describer.stride + 1  # cells are then turned to cells

        def changed(names: tuple[str, ...]) -> list[tuple[Tensor, str]]:
            styles = (FastStyle.from_pretrained(self.sources.weights / name, device="cpu") for name in names)
            return [(originals, ""), *((stylised(originals, style), "") for style in styles)]

        found = {"seen styles": changed(self.settings.styles), "unseen styles": changed(unseen)}
        inner = originals[..., :edge, :edge]
        found["turned"] = [(inner, ""), *((_turned(inner, view), view) for view in self.settings.views)]
        return {what: batches for what, batches in found.items() if len(batches) > 1}


def _let_learn(backbone: FeatureExtractor, tap: str) -> None:
    """Train the layers that lead to a tap; maps of shallower taps stay as they are."""
    number = backbone.index[tap]
    while number >= 0:
        for module in backbone.stages[number].modules():
            if isinstance(module, Convolution):
                module.weight.requires_grad_(True)
                module.bias.requires_grad_(module.biased)
        number = backbone.sources[number]


def _turned(x: Tensor, view: str) -> Tensor:
    """[…, H, W] as a view shows it."""
    mirrored, quarters = VIEWS[view]
    return torch.rot90(x.flip(-1) if mirrored else x, quarters, (-2, -1))


def _cells(describer: Describer, batch: Tensor, view: str) -> Tensor:
    """Unit features [N R C, D] of pictures that a view shows, in the order of the pictures themselves; on the CPU."""
    device = next(describer.backbone.parameters()).device
    maps = torch.cat([describer.of_pixels(picture[None].to(device)).cpu() for picture in batch])
    where = _turned(torch.arange(maps[0, 0].numel()).view(maps.shape[2:]), view).flatten().argsort()
    return maps.flatten(2)[:, :, where].transpose(1, 2).flatten(0, 1)
