"""The coarse stage: features of cells at several scales, their mutual matches, and the transform that most agree on.

Shen, Darmon, Efros and Aubry 2020, "RANSAC-Flow: generic two-stage image alignment" (arXiv:2004.01526), section 3.1:
the target is described at one scale, the source at seven, and a cell of the target matches at most one of all the
source's. Where the original resamples without a filter, antialiased bicubic interpolation is used here.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
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

__all__ = ["Coarse", "CoarseConfig", "CoarseFit", "DescribedPicture", "CellMatches", "cells_of", "scales"]

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


@dataclass(frozen=True, kw_only=True)
class CoarseConfig:
    """How two pictures are brought together coarsely.

    Attributes:
        side: Pixels of the target's shorter side; what is no multiple of the stride is rounded to one.
        longest: Times the shorter side that the longer is at most; a longer picture is described at less than `side`.
        reach: R: the source is described from R times to 1 / R times the size of the target.
        steps: Scales above 1, and as many below: 3 make 7.
        views: Ways that the source may be turned to look like the target, see `artmodels.correspondence.views`.
        eager: Share of the matches from which a transform is taken that was found at the scales next to 1, without
            looking at the others; 1 looks at all, as the paper does.
        looks: How often the two are matched. The second time the source is moved as the first transform says, so that
            cells of both show the same, and far more of them agree; the paper has 1.
        ransac: How each is fitted.
    """

    side: int = 480
    longest: float = 4.0
    reach: float = 2.0
    steps: int = 3
    views: tuple[str, ...] = ("",)
    eager: float = 0.3
    looks: int = 2
    ransac: RansacConfig = field(default_factory=RansacConfig)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: One is unknown or out of range.
        """
        check_views(self.views)
        if self.side < 16 or not 1 <= self.longest <= 100 or not 0 < self.eager <= 1:
            raise ConfigError(
                f"side={self.side} must be at least 16 px, longest={self.longest} in [1, 100], and eager={self.eager} "
                "in (0, 1]"
            )
        if not 1 <= self.reach <= 8 or not 0 <= self.steps <= 8 or not 1 <= self.looks <= 3:
            raise ConfigError(
                f"reach={self.reach} must be in [1, 8], steps={self.steps} in 0 ... 8, looks={self.looks} in 1 ... 3"
            )


@dataclass(frozen=True, eq=False)
class CellMatches:
    """Mutual matches of two pictures, in relative coordinates.

    Attributes:
        target: [m, 2] float64, (x, y) of cells of the target, each once at most.
        source: [m, 2] float64, of their partners in the source as it is, whatever the view.
        similarity: [m] float32, cosine, above 0.
        cells: (rows, columns) of the target.
    """

    target: Tensor
    source: Tensor
    similarity: Tensor
    cells: tuple[int, int]

    def among(self, unused: Tensor) -> "CellMatches":
        """Those whose place in the source is in some parts of it, [rows, columns] bool of any size."""
        kept = unused[cells_of(self.source, (unused.shape[0], unused.shape[1])).unbind(1)]
        return CellMatches(self.target[kept], self.source[kept], self.similarity[kept], self.cells)


@dataclass(frozen=True, eq=False)
class CoarseFit:
    """What the coarse stage found.

    Attributes:
        fit: Its matrix takes places of the target to places of the source as it is, whatever the view.
        view: How the source must be turned to look like the target; "" for not at all.
        matches: That it was fitted to.
        factors: Scales of the source that were looked at.
    """

    fit: Fit
    view: str
    matches: CellMatches
    factors: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class DescribedPicture:
    """One picture, and the features that were asked of it so far; made by `Coarse.describe`.

    Attributes:
        image: [1, 3, H, W] float32, at the size of the largest scale, or its own if that is smaller.
        width: Of the picture, in pixels.
        height: Of it.
        maps: Unit-length features [D, rows, columns] by view and scale, as far as they were needed.
    """

    image: Tensor
    width: int
    height: int
    maps: dict[tuple[str, float], Tensor] = field(default_factory=dict, repr=False)


class Coarse:
    """The coarse stage with its backbone: describe pictures once, then match and fit any two of them."""

    def __init__(self, backbone: FeatureExtractor, tap: str = "layer3", config: CoarseConfig | None = None) -> None:
        """Take a backbone.

        Args:
            backbone: With this tap, on the device that is to be used.
            tap: Whose positions are the cells.
            config: Settings.
        """
        self.config = config or CoarseConfig()
        self.describer = Describer(backbone, tap)
        self.factors = scales(self.config.reach, self.config.steps)
        self.near = tuple(factor for factor in self.factors if 1 / NEAR <= factor <= NEAR)

    def cells(self, width: int, height: int, factor: float = 1.0) -> tuple[int, int]:
        """Rows and columns of a picture at a scale."""
        shorter, longer = sorted((width, height))
        # The shorter side has so many cells, or fewer where the longer one would have too many.
        long = min(self.config.side * longer / shorter, self.config.side * self.config.longest) * factor
        return grid(height, width, max(1, round(long / self.describer.stride)))

    def describe(self, image: Tensor) -> DescribedPicture:
        """Take a picture in; its features are computed when they are first needed, and kept.

        Args:
            image: [1, 3, H, W] float32 in [0, 1].

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
            mirrored, quarters = VIEWS[view]
            image = picture.image.flip(3) if mirrored else picture.image
            image = image.rot90(quarters, (2, 3))
            size = (columns, rows) if quarters % 2 else (rows, columns)
            picture.maps[view, factor] = self.describer(image, *size)
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
            target: That it is brought onto.
            unexplained: [rows, columns] bool, the cells of the target that may match; None for all.
            unused: [rows, columns] bool of any size, the parts of the source that may; None for all.
            view: How the source would be turned to look like the target.
            factors: Scales of the source; None for all.
            size: Scale of the target.
        """
        back = inverse(view)
        seen = self.map(target, back, size)
        places = apply(_relative(back), _places(*seen.shape[1:]))  # of the target as it is
        wanted = torch.ones(len(places), dtype=torch.bool, device=seen.device)
        cells = self.cells(target.width, target.height, size)
        if unexplained is not None:
            if unexplained.shape != cells or unexplained.dtype != torch.bool:
                raise ConfigError(
                    f"unexplained is {unexplained.dtype} {list(unexplained.shape)}: give bool {list(cells)}, one for "
                    "each cell of the target"
                )
            mirrored, quarters = VIEWS[back]
            mask = unexplained.to(seen.device)
            wanted = (mask.flip(1) if mirrored else mask).rot90(quarters, (0, 1)).flatten()
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
        """The transform that most matches agree on, in the view that has most.

        Args:
            source: The picture that is moved.
            target: That it is brought onto.
            unexplained: [rows, columns] bool, the cells of the target that may match; None for all. For several
                transforms in turn, hand over what the last ones left.
            unused: [rows, columns] bool of any size, the same of the source: what is there once is not found twice.
            views: Ways that the source may be turned; None for those of the settings.
            factors: Scales of the source; None for those next to 1, and if that is not enough, all.
        """
        views = self._likely(source, target, views or self.config.views)

        def best(factors: tuple[float, ...]) -> CoarseFit:
            found = [self._fit(source, target, unexplained, unused, view, factors) for view in views]
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
        """Match and fit once more, with the source as a transform shows it; where there is none, that stays so.

        It is looked at in three sizes, because cells of one size only would fall on those of the target, and any
        transform would confirm itself.

        Args:
            source: The picture that is moved.
            target: That it is brought onto.
            found: By the look before.
            unexplained: See `fit`.
            unused: See `fit`.
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
        fit = self._transform(source, target, matches, found.view, self.config.ransac.hypotheses)
        return CoarseFit(fit, found.view, matches, found.factors)

    def _likely(self, source: DescribedPicture, target: DescribedPicture, views: Sequence[str]) -> Sequence[str]:
        """The views in which pictures of half the size agree about as well as in the best."""
        if len(views) == 1:
            return views
        scores = []
        for view in views:
            matches = self.matches(
                source, target, view=view, factors=[HALF * factor for factor in self.near], size=HALF
            )
            scores.append(self._transform(source, target, matches, view, HYPOTHESES).score)
        least = ALMOST * max(scores)
        # The first is what is usual, and not given up for a glance.
        return [view for number, view in enumerate(views) if not number or scores[number] >= least]

    def _fit(
        self,
        source: DescribedPicture,
        target: DescribedPicture,
        unexplained: Tensor | None,
        unused: Tensor | None,
        view: str,
        factors: tuple[float, ...],
    ) -> CoarseFit:
        matches = self.matches(source, target, unexplained, unused, view=view, factors=factors)
        fit = self._transform(source, target, matches, view, self.config.ransac.hypotheses)
        return CoarseFit(fit, view, matches, factors)

    def _transform(
        self, source: DescribedPicture, target: DescribedPicture, matches: CellMatches, view: str, hypotheses: int
    ) -> Fit:
        turn = _relative(view)  # samples keep their orientation, so that a mirrored source is mirrored first
        seen = apply(torch.linalg.inv(turn), matches.source)
        aspects = target.width / target.height, source.width / source.height
        if sideways(view):
            aspects = aspects[0], 1 / aspects[1]
        config = dataclasses.replace(self.config.ransac, hypotheses=hypotheses)
        fit = ransac(matches.target, seen, config, aspects=aspects)
        return fit if fit.matrix is None else dataclasses.replace(fit, matrix=turn @ fit.matrix)


def mutual(source: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs that are each other's nearest, by cosine, which is above 0.

    Args:
        source: Unit-length features [D, n_k] of each scale.
        target: [D, m].

    Returns:
        Positions among all n of the source, those among the m, both int64, and their cosines; in the order of the m.
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
