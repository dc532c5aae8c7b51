"""The coarse stage: features of cells at several scales, their mutual matches, and the transform that most agree on.

Shen, Darmon, Efros and Aubry 2020, "RANSAC-Flow: generic two-stage image alignment" (arXiv:2004.01526), section 3.1:
the target is described at one scale, the source at seven, and a cell of the target matches at most one of all the
source's. Where the original resamples without a filter, antialiased bicubic interpolation is used here.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence.cells import Describer, grid, side
from artmodels.correspondence.geometry import apply, identity
from artmodels.correspondence.ransac import Fit, RansacConfig, ransac
from artmodels.correspondence.views import VIEWS, check_views, from_view, sideways
from artmodels.errors import ConfigError, ImageError
from artmodels.features.extractor import FeatureExtractor
from artmodels.images.resampling import resized
from artmodels.methods.ransac_flow.results.alignment import Warp

__all__ = ["CellMatches", "Coarse", "CoarseConfig", "CoarseFit", "DescribedPicture", "Views", "cells_of", "scales"]

LONGEST = 4.0  # times the shorter side that the longer is at most; a longer picture is described at less than `side`
BLOCK = 2**24  # bytes of similarities that are held at once
HALF, ALMOST, HYPOTHESES = 0.5, 0.7, 2000  # of how views are chosen
AGAIN = (1.2, 1.0, 0.83)  # scales of the second look
REACHED = 0.5  # share of a cell that the moved source shows, from which it is looked at again
NEAR = 1.4  # times larger or smaller: scales that are looked at first
LEAST = 1e-6  # similarity that is above 0, whatever the rounding


def scales(reach: float, steps: int) -> tuple[float, ...]:
    """Sizes of the source, largest first, by that of the target: reach to 1 in equal steps, then 1 to 1 / reach."""
    above = [1 + (reach - 1) * k / steps for k in range(steps, 0, -1)]
    return (*above, 1.0, *(1 - (1 - 1 / reach) * k / steps for k in range(1, steps + 1)))


Views = Annotated[
    tuple[str, ...],
    'Ways in which the source is turned; the one that fits best is taken. The paper has "" only, but prints are often '
    "mirror images of what they copy.",
]


@dataclass(frozen=True, kw_only=True)
class CoarseConfig(RansacConfig):
    """How two pictures are brought together coarsely, and how each transform is fitted."""

    side: Annotated[
        int,
        Interval(ge=16, le=2**13),
        "Pixels of the target's shorter side at which both stages work, as in the paper's benchmarks.",
    ] = 480
    reach: Annotated[
        float, Interval(ge=1, le=8), "The source is tried at sizes from 1 / reach to reach times the target's."
    ] = 2.0
    steps: Annotated[
        int, Interval(ge=0, le=8), "How many sizes above 1 are tried, and as many below: 3 make the paper's 7."
    ] = 3
    views: Views = ("",)
    eager: Annotated[
        float,
        Interval(gt=0, le=1),
        "If this share of the matches agrees at scales near 1, the others are not tried; 1 tries all.",
    ] = 0.3
    looks: Annotated[
        int,
        Interval(ge=1, le=3),
        "How often the coarse stage matches the pictures, the second time with the source moved as the first "
        "transform says; the paper has 1.",
    ] = 2

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        check_views(self.views)


@dataclass(frozen=True, eq=False)
class CellMatches:
    """Mutual matches of two pictures, in relative coordinates."""

    target: Tensor  # [m, 2] float64, (x, y) of cells of the target, each once at most
    source: Tensor  # [m, 2] float64, of their partners in the source as it is, whatever the view
    similarity: Tensor  # [m] float32, cosine, above 0
    cells: tuple[int, int]  # rows and columns of the target

    def among(self, unused: Tensor) -> "CellMatches":
        """Those whose place in the source is in some parts of it, [rows, columns] bool of any size."""
        kept = unused[cells_of(self.source, (unused.shape[0], unused.shape[1])).unbind(1)]
        return CellMatches(self.target[kept], self.source[kept], self.similarity[kept], self.cells)


@dataclass(frozen=True, eq=False)
class CoarseFit:
    """What the coarse stage found."""

    fit: Fit  # its matrix takes places of the target to places of the source as it is, whatever the view
    view: str  # how the source must be turned to look like the target
    matches: CellMatches  # that it was fitted to
    factors: tuple[float, ...]  # scales of the source that were looked at


@dataclass(frozen=True, eq=False)
class DescribedPicture:
    """One picture, of so many pixels, and the features that were asked of it so far; made by `Coarse.describe`."""

    image: Tensor  # [1, 3, H, W] float32, at the size of the largest scale, or its own if that is smaller
    width: int
    height: int
    maps: dict[tuple[str, float], Tensor] = field(default_factory=dict, repr=False)  # [D, rows, columns], unit length


class Coarse:
    """The coarse stage with its backbone: describe pictures once, then match and fit any two of them."""

    def __init__(self, backbone: FeatureExtractor, tap: str = "layer3", config: CoarseConfig | None = None) -> None:
        """Take a backbone, on the device that is to be used, and the tap whose positions are the cells."""
        self.config = config or CoarseConfig()
        self.describer = Describer(backbone, tap)
        self.factors = scales(self.config.reach, self.config.steps)
        self.near = tuple(factor for factor in self.factors if 1 / NEAR <= factor <= NEAR)

    def cells(self, width: int, height: int, factor: float = 1.0) -> tuple[int, int]:
        """Rows and columns of a picture at a scale."""
        shorter, longer = sorted((width, height))
        # The shorter side has so many cells, or fewer where the longer one would have too many.
        long = min(self.config.side * longer / shorter, self.config.side * LONGEST) * factor
        return grid(height, width, max(1, round(long / self.describer.stride)))

    def describe(self, image: Tensor) -> DescribedPicture:
        """Take a picture [1, 3, H, W] in [0, 1]; its features are computed when they are first needed, and kept.

        Raises:
            ImageError: It has another shape, or values that are not finite.
        """
        if image.ndim != 4 or image.shape[:2] != (1, 3) or 0 in image.shape or not image.is_floating_point():
            raise ImageError(f"a picture is a float tensor [1, 3, H, W], not {image.dtype} {list(image.shape)}")
        if not image.isfinite().all():
            raise ImageError("the picture has values that are not finite: give RGB in [0, 1]")
        height, width = image.shape[2:]
        largest = [side(cells, self.describer.stride) for cells in self.cells(width, height, max(self.factors))]
        size = min(height, largest[0]), min(width, largest[1])
        return DescribedPicture(resized(image.float(), size).clamp(0, 1).to(self.describer.device), width, height)

    @torch.no_grad()
    def map(self, picture: DescribedPicture, view: str = "", factor: float = 1.0) -> Tensor:
        """Unit-length features [D, rows, columns] of a picture turned as a view shows it, at a scale."""
        if (view, factor) not in picture.maps:
            rows, columns = self.cells(picture.width, picture.height, factor)
            size = (columns, rows) if sideways(view) else (rows, columns)
            picture.maps[view, factor] = self.describer(_shown(picture.image, view), *size)
        return picture.maps[view, factor]

    @torch.no_grad()
    def matches(
        self,
        source: DescribedPicture,
        target: DescribedPicture,
        unexplained: Tensor | None = None,
        unused: Tensor | None = None,
        *,
        view: str = "",
        factors: Sequence[float] | None = None,
        size: float = 1.0,
    ) -> CellMatches:
        """Cells of the two that are each other's nearest.

        It is the target that is turned, the other way, because it has one scale and the source has seven.

        Args:
            source: The picture that is moved.
            target: The one that it is brought onto.
            unexplained: [rows, columns] bool, the cells of the target that may match; None for all.
            unused: [rows, columns] bool of any size, the parts of the source that may; None for all.
            view: How the source would be turned to look like the target.
            factors: Scales of the source; None for all.
            size: Scale of the target.
        """
        back = inverse(view)
        seen = self.map(target, back, size)
        places = apply(_relative(back), _places(*seen.shape[1:]))  # of the target as it is
        cells = self.cells(target.width, target.height, size)
        if unexplained is None:
            unexplained = torch.ones(cells, dtype=torch.bool)
        elif unexplained.shape != cells or unexplained.dtype != torch.bool:
            raise ConfigError(
                f"unexplained is {unexplained.dtype} {list(unexplained.shape)}: give bool {list(cells)}, one for each "
                "cell of the target"
            )
        wanted = _shown(unexplained.to(seen.device), back).flatten()
        maps = [self.map(source, "", factor) for factor in factors or self.factors]
        first, second, similarity = mutual([cells.flatten(1) for cells in maps], seen.flatten(1)[:, wanted])
        every = torch.cat([_places(*cells.shape[1:]) for cells in maps])
        found = CellMatches(places[wanted.cpu()][second.cpu()], every[first.cpu()], similarity.cpu(), cells)
        return found if unused is None else found.among(unused)

    def fit(
        self,
        source: DescribedPicture,
        target: DescribedPicture,
        unexplained: Tensor | None = None,
        unused: Tensor | None = None,
        *,
        views: Sequence[str] | None = None,
        factors: tuple[float, ...] | None = None,
    ) -> CoarseFit:
        """The transform that most matches agree on, in the view that has most; for the arguments see `matches`.

        For several transforms in turn, `unexplained` and `unused` are what the last ones left: what a picture has once
        is not found twice. The views are by default those of the settings, and the scales those next to 1, or all if
        these are not enough.
        """
        views = self._likely(source, target, views or self.config.views)

        def best(factors: tuple[float, ...]) -> CoarseFit:
            found = list[CoarseFit]()
            for view in views:
                matches = self.matches(source, target, unexplained, unused, view=view, factors=factors)
                found.append(CoarseFit(self._transform(source, target, matches, view), view, matches, factors))
            return max(found, key=lambda each: (each.fit.matrix is not None, each.fit.score))

        found = None
        if factors is None and self.config.eager < 1 and self.near != self.factors:
            found = best(self.near)
            if found.fit.matrix is None or found.fit.inliers.float().mean() < self.config.eager:
                found = None
        found = found or best(factors or self.factors)
        for _ in range(self.config.looks - 1):
            found = self.again(source, target, found, unexplained, unused)
        return found

    def again(
        self,
        source: DescribedPicture,
        target: DescribedPicture,
        found: CoarseFit,
        unexplained: Tensor | None = None,
        unused: Tensor | None = None,
    ) -> CoarseFit:
        """Match and fit once more, with the source as the transform found before shows it, if there is one.

        It is looked at in three sizes, because cells of one size only would fall on those of the target, and any
        transform would confirm itself.
        """
        matrix = found.fit.matrix
        if matrix is None:
            return found
        cells = self.cells(target.width, target.height)
        height, width = (side(count, self.describer.stride) for count in cells)
        moved, within = Warp.of(matrix, height, width).read(source.image.cpu(), height, width, cubic=False)
        reached = F.adaptive_avg_pool2d(within.float()[None], cells)[0] > REACHED
        wanted = reached if unexplained is None else reached & unexplained.cpu()
        matches = self.matches(self.describe(moved), target, wanted, factors=AGAIN)
        matches = dataclasses.replace(matches, source=apply(matrix, matches.source))
        if unused is not None:
            matches = matches.among(unused)
        return dataclasses.replace(found, fit=self._transform(source, target, matches, found.view), matches=matches)

    def _likely(self, source: DescribedPicture, target: DescribedPicture, views: Sequence[str]) -> Sequence[str]:
        """The views in which pictures of half the size agree about as well as in the best."""
        if len(views) == 1:
            return views
        scores = []
        for view in views:
            factors = [HALF * factor for factor in self.near]
            matches = self.matches(source, target, view=view, factors=factors, size=HALF)
            scores.append(self._transform(source, target, matches, view, HYPOTHESES).score)
        least = ALMOST * max(scores)
        # The first is what is usual, and not given up for a glance.
        return [view for number, view in enumerate(views) if not number or scores[number] >= least]

    def _transform(
        self,
        source: DescribedPicture,
        target: DescribedPicture,
        matches: CellMatches,
        view: str,
        hypotheses: int | None = None,
    ) -> Fit:
        turn = _relative(view)  # samples keep their orientation, so that a mirrored source is mirrored first
        seen = apply(torch.linalg.inv(turn), matches.source)
        aspects = target.width / target.height, source.width / source.height
        if sideways(view):
            aspects = aspects[0], 1 / aspects[1]
        config = dataclasses.replace(self.config, hypotheses=hypotheses or self.config.hypotheses)
        fit = ransac(matches.target, seen, config, aspects=aspects)
        return fit if fit.matrix is None else dataclasses.replace(fit, matrix=turn @ fit.matrix)


def mutual(source: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs that are each other's nearest, by cosine, among unit-length features [D, n_k] of each scale and [D, m].

    Gives positions among all n of the source, those among the m, both int64, and their cosines, which are above 0; in
    the order of the m.
    """
    count = target.shape[1]
    best, nearest = target.new_zeros(count), torch.zeros(count, dtype=torch.int64, device=target.device)
    second, partner, start = torch.arange(count, device=target.device), list[Tensor](), 0
    if not count:
        return nearest, second, best
    for block in (part for cells in source for part in torch.split(cells, max(1, BLOCK // (4 * count)), 1)):
        similarity = block.T @ target  # [b, m]
        partner.append(similarity.argmax(1))
        value, row = similarity.max(0)
        nearest = torch.where(value > best, row + start, nearest)
        best = torch.maximum(value, best)
        start += block.shape[1]
    second = second[(torch.cat(partner)[nearest] == second) & (best > LEAST)]
    return nearest[second], second, best[second]


def _shown(maps: Tensor, view: str) -> Tensor:
    """Maps [..., H, W] as a view shows them."""
    mirrored, quarters = VIEWS[view]
    return (maps.flip(-1) if mirrored else maps).rot90(quarters, (-2, -1))


def _places(rows: int, columns: int) -> Tensor:
    """Relative places (x, y) of the centres of cells, row by row: [rows * columns, 2] float64."""
    return identity(rows, columns).view(-1, 2).double()


def cells_of(places: Tensor, size: tuple[int, int]) -> Tensor:
    """Rows and columns [n, 2] int64 of the cells, of so many rows and columns, that relative places [n, 2] are in."""
    extent = torch.tensor([size[1], size[0]], dtype=places.dtype)
    return ((places + 1) / 2 * extent).floor().clamp(torch.zeros_like(extent), extent - 1).long().flip(1)


def _relative(view: str) -> Tensor:
    """The matrix [3, 3] float64 from relative coordinates of a view to those of the picture."""
    centred = torch.tensor([[2.0, 0, -1], [0, 2, -1], [0, 0, 1]], dtype=torch.float64)
    found: Tensor = centred @ from_view(view).double() @ torch.linalg.inv(centred)
    return found


def inverse(view: str) -> str:
    """The view that undoes a view: a mirrored one undoes itself, and turns are turned back."""
    mirrored, quarters = VIEWS[view]
    undone = (mirrored, quarters if mirrored else -quarters % 4)
    return next(name for name, found in VIEWS.items() if found == undone)
