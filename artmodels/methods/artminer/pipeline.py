"""Collections in, repeated details out."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, combinations
from typing import Annotated, Self

import numpy as np
import torch
from annotated_types import Ge, Interval, MinLen, Predicate
from PIL import Image
from torch import Tensor

from artmodels import features, hub, images, runtime
from artmodels.correspondence.cells import Describer, Pyramid
from artmodels.correspondence.views import VIEWS, check_views, turned, turned_box, unturned
from artmodels.detections.boxes import Box
from artmodels.detections.drawing import in_a_row
from artmodels.errors import ConfigError, ImageError
from artmodels.features.networks import Width
from artmodels.hub.checkpoints import fingerprint
from artmodels.images.decoding import LoadedImage
from artmodels.images.results import ImageResult
from artmodels.methods.artminer.chance import chance_level
from artmodels.methods.artminer.collection import shortlist
from artmodels.methods.artminer.collection.collection import Collection, Described, InMemory
from artmodels.methods.artminer.discovery import MOST_HYPOTHESES, DiscoveryConfig, Match, discover
from artmodels.methods.artminer.groups.pairtable import THRESHOLD, Pair
from artmodels.methods.artminer.oneshot import CELLS, Hit, Ranked, Searched, check_box, detail, found_in, look_closer
from artmodels.progress import Progress, result_of
from artmodels.search.index import Index
from artmodels.settings import Settings, Share, distinct

__all__ = ["ArtMiner", "ArtMinerConfig", "Compared", "PairProgress", "SearchProgress"]

# A detail is few cells, which suits a model of few parameters; chosen on benchmarks/artminer.py --seed 0.
REGION = DiscoveryConfig(margin=0, tolerance=1.0, saliency=False, model="similarity")
OUTSIDE = 100 / 255  # of the strength of what is not shared; the rest is white, as in the released code
MOST_CELLS = 1000  # of the longer side of a picture: 16 000 px at a stride of 16

Cells = Annotated[int, Interval(ge=CELLS, le=MOST_CELLS)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtMinerConfig(Settings):
    """What describes cells, and how pictures are looked at."""

    backbone: Annotated[str, "A name that `artmodels.features` knows."] = "art-resnet"
    tap: Annotated[str, "Of the backbone, at a stride of 16 in the paper."] = "layer3"
    dims: Annotated[
        Width | None, "D, numbers of a cell after a projection that the checkpoint holds; None keeps all of the tap."
    ] = None
    tuned: Annotated[
        bool, "Whether the checkpoint holds the backbone's weights; otherwise they are those of its name."
    ] = False
    padding: Annotated[str, 'Of the backbone: "reflect", or "zeros" as published networks were trained.'] = "reflect"
    scales: Annotated[
        tuple[Cells, ...],
        MinLen(1),
        Predicate(distinct),
        "Cells of the longer side of a picture in which something is looked for. The paper's seven, 80, 74, 68, 60, "
        "49, 36 and 20, take four times as long; a search looks at its best places again in other sizes instead.",
    ] = (49, 36, 28, 20)
    reference: Annotated[Cells, "Cells of the longer side of a picture that others are compared with."] = 40
    views: Annotated[
        tuple[str, ...],
        "How pictures are turned before they are compared, see `artmodels.correspondence.views.VIEWS`. The paper only "
        'has "", the picture as it is.',
    ] = ("", "mirror")
    iterations: Annotated[int, Interval(ge=1, le=MOST_HYPOTHESES), "Most hypotheses of a comparison."] = 1000
    seed: Annotated[int, Ge(0), "Of the choice of hypotheses."] = 0
    threshold: Annotated[
        float,
        Interval(ge=-1, le=1),
        "Score of a search from which a place is shown to people. What a checkpoint has was measured by `python "
        "benchmarks/artminer_thresholds.py`; -1, for features that were not, shows all. A search raises it for a "
        "detail that is like much else in the collection, see `chance_level`, and ranks everything.",
    ] = -1.0
    pair_threshold: Annotated[
        Share, "Discovery score above which two pictures are linked, measured by the same; else the paper's."
    ] = THRESHOLD

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if "" not in check_views(self.views):
            raise ConfigError(f"views={self.views!r} must include '', the picture as it is")

    @property
    def discovery(self) -> DiscoveryConfig:
        """How pairs of whole pictures are scored."""
        return DiscoveryConfig(iterations=self.iterations, seed=self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared(ImageResult):
    """The first of two pictures, pale where the second shows nothing of it.

    Attributes:
        pair: The evidence; its names are "first" and "second".
        pictures: Both, as they were read.
    """

    pair: Pair
    pictures: tuple[LoadedImage, LoadedImage] = dataclasses.field(repr=False)

    @property
    def score(self) -> float:
        """How well they agree, see `Match`."""
        return self.pair.match.score

    @property
    def other(self) -> Image.Image:
        """The second picture, pale where the first shows nothing of it."""
        return images.to_pil(_pale(self.pictures[1], self.pair, "second"))

    def side_by_side(self) -> Image.Image:
        """Both, on white, aligned at the top."""
        return in_a_row([self.image, self.other])


@dataclasses.dataclass(frozen=True)
class PairProgress(Progress):
    """Two pictures have been compared: `pair` is None where they share nothing, or less than was asked for."""

    pair: Pair | None = None


@dataclasses.dataclass(frozen=True)
class SearchProgress(Progress):
    """A picture has been searched, or looked at more closely: `so_far` gives what the search has found by then.

    The threshold is as of the pictures that were searched: what a detail scores by chance is known of five or more.
    """

    so_far: Callable[[], Searched] = dataclasses.field(kw_only=True, repr=False)


class ArtMiner(hub.Pretrained[ArtMinerConfig]):
    """Find a detail in other pictures, or whatever pictures of a collection share, unprompted.

    Shen, Efros and Aubry 2019, "Discovering Visual Patterns in Art Collections with Spatially-Consistent Feature
    Learning" (arXiv:1903.02678).

        >>> miner = ArtMiner.from_pretrained(views=("",))  # nothing is mirrored: half the time
        >>> miner("photo.jpg", "style.jpg").save("compared.png")
        >>> described = miner.describe({"a photograph": "photo.jpg", "a cup": "style.jpg"})
        >>> found = miner.search("photo.jpg", (20, 10, 80, 70), described)
        >>> found.ranked[0].image
        'a photograph'
        >>> pairs = miner.pairs(described)

    Attributes:
        scales: Cells of the longer side of each map of a pyramid: those of the settings, then that of a reference, if
            it is none of them.
    """

    method = "artminer"
    config_class = ArtMinerConfig

    def __init__(
        self,
        config: ArtMinerConfig | None = None,
        *,
        backbone: features.FeatureExtractor,
        projection: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        """Put it together; `from_pretrained` is the usual way.

        The backbone has the weights that it is to have, and the projection is [C, D], see `Describer`. By default
        settings are those of `ArtMinerConfig()`, and the device is CUDA, then MPS, then the CPU.

        Raises:
            ConfigError: The projection does not fit the settings or the backbone.
        """
        self.config = config or ArtMinerConfig()
        self.device = runtime.pick_device(device)
        channels = backbone.channels(self.config.tap)
        wanted = None if self.config.dims is None else (channels, self.config.dims)
        if (None if projection is None else tuple(projection.shape)) != wanted:
            given = "there is none" if projection is None else f"it has {tuple(projection.shape)}"
            raise ConfigError(f"dims={self.config.dims} needs a projection of shape {wanted}, and {given}")
        self.backbone = backbone.to(self.device)
        self.projection = None if projection is None else projection.float().to(self.device)
        self.describer = Describer(self.backbone, self.config.tap, self.projection)
        extra = () if self.config.reference in self.config.scales else (self.config.reference,)
        self.scales, self.views = (*self.config.scales, *extra), self.config.views

    @classmethod
    def _build(cls, config: ArtMinerConfig, resolved: hub.Resolved, placement: hub.Placement) -> Self:
        placement.require_float32(cls.__name__)
        if not config.tuned:
            if config.dims is not None:
                raise ConfigError(f"dims={config.dims} is for tuned checkpoints, which hold a projection: leave it out")
            backbone = features.load(
                config.backbone, local_files_only=placement.local_files_only, padding=config.padding, until=config.tap
            )
            return cls(config, backbone=backbone, device=placement.device)
        backbone = features.build(config.backbone, padding=config.padding, until=config.tap)
        expected = backbone.state_dict()  # of a network that we name: no configuration makes it large
        if config.dims is not None:
            expected["projection"] = torch.empty(backbone.channels(config.tap), config.dims, device="meta")
        tensors = resolved.load(expected)
        projection = tensors.pop("projection", None)
        backbone.load_state_dict(tensors)
        return cls(config, backbone=backbone, projection=projection, device=placement.device)

    def _tensors(self) -> dict[str, Tensor]:
        if not self.config.tuned:
            return {}
        stored = {key: value.half() for key, value in self.backbone.state_dict().items()}
        return stored if self.projection is None else stored | {"projection": self.projection.half()}

    def __call__(self, image: images.Source, other: images.Source) -> Compared:
        """Compare two pictures, each anything that `artmodels.images.load` reads.

        Returns:
            The first picture, pale where the second shows nothing of it; with the score, and both masks and maps of
            cells. Where they share nothing, all of it is pale, and a note says why.

        Raises:
            ImageError: One cannot be read.
        """
        start = time.perf_counter()
        pictures = images.load(image), images.load(other)
        described = self.describe(dict(zip(("first", "second"), pictures, strict=True)))
        (pair,) = self.compare("first", ["second"], described)
        nothing = (f"Nothing is found that both show: {pair.match.reason}.",) if pair.match.reason else ()
        about: dict[str, object] = {"model": self._name, "score": pair.match.score, "view": pair.view}
        return Compared(
            tensor=_pale(pictures[0], pair, "first"),
            settings=self._record(dataclasses.asdict(self.config) | about),
            seconds=time.perf_counter() - start,
            notes=(*pictures[0].notes, *pictures[1].notes, *nothing),
            pair=pair,
            pictures=pictures,
        )

    # --- Describing

    @property
    def dims(self) -> int:
        """D, numbers of a cell."""
        return self.describer.dims

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of what decides the features: settings and weights. The same one, the same features."""
        chosen = {name: getattr(self.config, name) for name in ("backbone", "tap", "dims", "padding")}
        tensors = self.backbone.state_dict() | ({} if self.projection is None else {"projection": self.projection})
        return fingerprint(chosen | {"scales": self.scales}, tensors)

    @torch.inference_mode()
    def pyramids(self, image: images.Source) -> dict[str, Pyramid]:
        """Describe one picture: for each of `views`, maps [D, R, C] at `scales`, float32 on the CPU.

        Raises:
            ImageError: `artmodels.images.load` cannot read it.
        """
        loaded = images.load(image)
        found = {}
        for view in self.views:
            picture = turned(loaded, view).tensor().to(self.device)
            # Where a detail is looked for, no side has fewer cells than a detail: long strips are stretched.
            searched = self.describer.pyramid(picture, self.config.scales, least=CELLS)
            more = self.scales[len(self.config.scales) :]
            maps = *searched.maps, *self.describer.pyramid(picture, more).maps
            found[view] = dataclasses.replace(searched, maps=tuple(cells.cpu() for cells in maps))
        return found

    def describe(self, pictures: Mapping[str, images.Source]) -> InMemory:
        """Describe a few pictures, which are kept in memory; a `Collection` keeps many on the disk."""
        return InMemory({name: self.pyramids(source) for name, source in pictures.items()}, pictures)

    # --- A detail

    @torch.inference_mode()
    def kernel(self, image: images.Source, box: Sequence[float]) -> Tensor:
        """Features [D, a, b] of a detail, of which the longer side has 8 cells; see `search` for what it raises."""
        loaded = images.load(image)
        return detail(self.describer, loaded, check_box(box, loaded.width, loaded.height)).cpu()

    @torch.inference_mode()
    def stream_search(
        self,
        image: images.Source,
        box: Sequence[float],
        among: Described,
        *,
        query: str = "",
        count: int = 1000,
        verify: int = 20,
        by: Ranked = "verified",
        names: Iterable[str] | None = None,
    ) -> Iterator[SearchProgress | Searched]:
        """As `search`, as a stream: a step for each picture, another if it is looked at more closely; then the hits.

        Pictures are searched as their `names` come, all of them by default: these may be described while the next one
        is asked for.
        """
        loaded = images.load(image)
        place = check_box(box, loaded.width, loaded.height)
        kernel = self.kernel(loaded, place)
        found = dict[str, list[Hit]]()
        # Measured for verified places only.
        measured = by == "verified" and self.config.threshold > -1

        def chance_so_far() -> float:
            return chance_level([[hit.score for hit in hits] for hits in found.values()]) if measured else -math.inf

        def so_far(chance: float) -> Searched:
            return Searched(
                ranked=tuple(sorted(chain.from_iterable(found.values()), key=lambda hit: -hit.score)[:count]),
                query=query,
                box=place,
                cells=(kernel.shape[1], kernel.shape[2]),
                model=self.fingerprint,
                threshold=max(self.config.threshold if measured else -1.0, chance),
                chance=chance,
            )

        total = len(among.names) - (query in among.names)  # as far as they are described
        for name in among.names if names is None else names:
            if name != query:
                found[name] = self.places(name, among, kernel[None], by=by)[0]
                yield SearchProgress(len(found), max(len(found), total), name, so_far=lambda: so_far(chance_so_far()))
        found = {name: found[name] for name in among.names if name in found}  # whatever came first
        chance = chance_so_far()
        for name in sorted(filter(found.get, found), key=lambda name: -found[name][0].score)[:verify]:
            best, *rest = self._closer(found[name], among, kernel, by)
            match = self._region(kernel, among.pyramid(name, best.view))
            found[name] = [dataclasses.replace(best, match=match), *rest]
            yield SearchProgress(len(found), len(found), name, so_far=lambda: so_far(chance))
        yield so_far(chance)

    def search(
        self,
        image: images.Source,
        box: Sequence[float],
        among: Described,
        *,
        query: str = "",
        count: int = 1000,
        verify: int = 20,
        by: Ranked = "verified",
        progress: bool = False,
    ) -> Searched:
        """Find a detail in other pictures: `hits` from the threshold on, and those that are more likely chance `below`.

        Args:
            image: The picture that shows it.
            box: Left, top, right, bottom of it, in pixels.
            among: Where to look.
            query: Name of the picture among those, which is then left out.
            count: Most hits.
            verify: Best pictures whose best place is looked at more closely. It is described again in cells of other
                sizes, see `oneshot.look_closer`, unless the picture is no longer there; scores only rise, so that other
                pictures, whose places say `closer=False`, stay behind these. And it is compared cell by cell: its
                `match` says which part of the picture corresponds to which of the detail, and how well.
            by: What ranks places: the mean of their cosine and of the discovery score of the detail and the place, see
                `oneshot.agreement`; or "cosine", as published, that alone.
            progress: Show a bar.

        Raises:
            ConfigError: The box is no box inside the picture.
            ImageError: The picture cannot be read.
        """
        steps = self.stream_search(image, box, among, query=query, count=count, verify=verify, by=by)
        return result_of(steps, progress=progress, unit="picture")

    def places(self, name: str, among: Described, kernels: Tensor, *, by: Ranked = "verified") -> list[list[Hit]]:
        """Where one picture of those looks like details [Q, D, a, b] of one size; for `by`, see `search`.

        For each detail gives its hits in all views, best first; of two that overlap the lesser goes.
        """
        size = among.size(name)
        found: list[list[Hit]] = [[] for _ in kernels]
        for view in self.views:
            pyramid = among.pyramid(name, view)
            maps, verified = self._searched(pyramid), by == "verified"
            places = found_in(maps, kernels, width=pyramid.width, height=pyramid.height, verified=verified)
            for hits, (boxes, scores) in zip(found, places, strict=True):
                for box, score in zip(boxes.tolist(), scores.tolist(), strict=True):
                    hits.append(Hit(name, unturned(tuple(box), view, *size), score, view))
        return [_without_overlaps(hits) for hits in found]

    def _closer(self, hits: list[Hit], among: Described, kernel: Tensor, by: Ranked) -> list[Hit]:
        """The hits of one picture, best first, after a closer look at the best, if the picture is still there."""
        hit, *others = hits
        source, size = among.picture(hit.image), among.size(hit.image)
        try:
            loaded = None if source is None else images.load(source)
        except ImageError:
            loaded = None  # it was there when it was described
        if loaded is None or (loaded.width, loaded.height) != size:
            return hits
        place = turned_box(hit.box, hit.view, *size)
        better = look_closer(self.describer, turned(loaded, hit.view), kernel, place, verified=by == "verified")
        if better is not None and better[1] > hit.score:
            hit = dataclasses.replace(hit, box=unturned(better[0], hit.view, *size), score=better[1])
        return _without_overlaps([dataclasses.replace(hit, closer=True), *others])

    def correspondences(self, name: str, among: Described, kernel: Tensor) -> list[Hit]:
        """Where one picture of those holds a detail [D, a, b] cell by cell: their discovery score.

        For each view in which there is one, gives the place that the transform takes the detail to, best first.
        """
        hits = list[Hit]()
        for view in self.views:
            pyramid = among.pyramid(name, view)
            match = self._region(kernel, pyramid)
            if match.score > 0:
                # The detail's corners, in the view: its transform goes the other way.
                corners = torch.tensor([[0.0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=torch.float64)
                there = torch.linalg.solve(match.transform.double(), corners)
                x, y = there[0] / there[2] * pyramid.width, there[1] / there[2] * pyramid.height
                box = float(x.min()), float(y.min()), float(x.max()), float(y.max())
                hits.append(Hit(name, unturned(box, view, *among.size(name)), match.score, view, match))
        return _without_overlaps(hits)

    def _region(self, kernel: Tensor, pyramid: Pyramid) -> Match:
        return discover(kernel, self._searched(pyramid), dataclasses.replace(REGION, seed=self.config.seed))

    # --- Whatever pictures share

    @torch.inference_mode()
    def compare(self, first: str, others: Sequence[str], among: Described) -> list[Pair]:
        """Compare one picture with others, in both directions and all views; the best of each is kept."""
        return [max(self._both_ways(first, other, among), key=lambda pair: pair.match.score) for other in others]

    def _both_ways(self, first: str, second: str, among: Described) -> Iterator[Pair]:
        for view in self.views:
            for reference, target in ((first, second), (second, first)):
                cells = among.pyramid(reference).at(self.config.reference).float()
                match = discover(cells, self._searched(among.pyramid(target, view)), self.config.discovery)
                yield Pair(first=reference, second=target, match=match, view=view)

    def _searched(self, pyramid: Pyramid) -> tuple[Tensor, ...]:
        return pyramid.maps[: len(self.config.scales)]

    def stream_pairs(
        self,
        among: Described,
        candidates: Iterable[Sequence[str]] | None = None,
        *,
        index: Index | None = None,
        keep: int = 100,
        exhaustive: int = shortlist.EXHAUSTIVE,
        least: float = 0.0,
    ) -> Iterator[PairProgress | list[Pair]]:
        """As `pairs`, as a stream: a step for each two pictures, with what they share; then all pairs."""
        if candidates is None and isinstance(among, Collection) and len(among) >= exhaustive:
            if index is None:
                index = shortlist.region_index(among)
            else:
                shortlist.index_regions(among, index)
            candidates = shortlist.candidates(among, index, keep=keep, exhaustive=exhaustive)
        chosen: Iterable[tuple[str, str]] = combinations(among.names, 2)
        total = math.comb(len(among.names), 2)
        if candidates is not None:
            once = dict[frozenset[str], tuple[str, str]]()
            for first, second, *_ in candidates:
                once.setdefault(frozenset((first, second)), (first, second))
            chosen, total = once.values(), len(once)
        found = list[Pair]()
        for done, (first, second) in enumerate(chosen, 1):
            better = [pair for pair in self.compare(first, [second], among) if 0 < pair.match.score >= least]
            found += better
            yield PairProgress(done, total, f"{first} and {second}", *better)
        yield found

    def pairs(
        self,
        among: Described,
        candidates: Iterable[Sequence[str]] | None = None,
        *,
        index: Index | None = None,
        keep: int = 100,
        exhaustive: int = shortlist.EXHAUSTIVE,
        least: float = 0.0,
        progress: bool = False,
    ) -> list[Pair]:
        """Score pairs of pictures, each once: all of them, or in a large `Collection` those of a shortlist.

        Args:
            among: The pictures.
            candidates: Which pairs, as first and second name, such as `shortlist.candidates` gives; all views are
                compared. None chooses by `exhaustive`.
            index: For the shortlist, brought up to date first; None makes one by `shortlist.region_index`.
            keep: For the shortlist, pictures and views that are compared with each.
            exhaustive: All pairs of fewer pictures than this, and of what is no `Collection`, are compared; their
                number grows with the square of the pictures'. `len(among.names) + 1` compares all in any case.
            least: Pairs with a lower score are left out, as are all that score 0.
            progress: Show a bar.

        Raises:
            ConfigError: FAISS is not installed, or the index takes other vectors.
        """
        steps = self.stream_pairs(among, candidates, index=index, keep=keep, exhaustive=exhaustive, least=least)
        return result_of(steps, progress=progress, unit="pair")


def _without_overlaps(hits: list[Hit]) -> list[Hit]:
    """Those of which none overlaps a better one; best first."""
    kept = list[Hit]()
    for hit in sorted(hits, key=lambda hit: -hit.score):
        if not any(_overlap(hit.box, better.box) for better in kept):
            kept.append(hit)
    return kept


def _overlap(one: Box, other: Box) -> bool:
    return min(one[2], other[2]) > max(one[0], other[0]) and min(one[3], other[3]) > max(one[1], other[1])


def _pale(picture: LoadedImage, pair: Pair, name: str) -> Tensor:
    """One picture of a pair [1, 3, H, W], pale where the other shows nothing of it."""
    height, width = picture.height, picture.width
    if name == pair.first:
        mask = pair.match.reference_mask(height, width)
    else:
        mirrored, quarters = VIEWS[pair.view]
        seen = pair.match.target_mask(*((width, height) if quarters % 2 else (height, width)))
        mask = np.rot90(seen, -quarters)
        mask = mask[:, ::-1] if mirrored else mask
    strength = OUTSIDE + (1 - OUTSIDE) * torch.from_numpy(np.ascontiguousarray(mask, np.float32))
    return 1 - strength * (1 - picture.tensor())
