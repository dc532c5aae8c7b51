"""Two pictures in, an alignment out."""

import dataclasses
import math
import time
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import torch
from annotated_types import Interval, Len
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from artmodels import features, hub, images, runtime
from artmodels.correspondence import geometry
from artmodels.correspondence.ransac import log_nfa
from artmodels.correspondence.views import VIEWS
from artmodels.errors import MissingWeights
from artmodels.images.decoding import LoadedImage
from artmodels.images.resampling import picture
from artmodels.methods.ransac_flow.coarse import Coarse, CoarseConfig, CoarseFit, DescribedPicture, Views, cells_of
from artmodels.methods.ransac_flow.fine import Fine, Moved
from artmodels.methods.ransac_flow.model import STRIDE, FineConfig, FineNetwork
from artmodels.methods.ransac_flow.results.alignment import PALE, Alignment, Warp
from artmodels.runtime.feedforward import FeedForward
from artmodels.settings import Share

__all__ = ["Prepared", "RansacFlow", "RansacFlowConfig"]

EXPLAINED = 0.5  # share of a cell that is matched, above which it is left out of the next transform
MOST = 8.0  # times the working size, and such a part of it, at which the fine stage works
LEFT = 0.05  # share of the cells that must be left for another transform to be looked for
PARTS = 4  # of a cell's side: squares in which the source is used up


@dataclass(frozen=True, kw_only=True)
class RansacFlowConfig(CoarseConfig, FineConfig):
    """The network of the fine stage, how the coarse stage works, and how both work together."""

    views: Views = tuple(VIEWS)
    backbone: Annotated[
        str, "A name that `artmodels.features` knows, for the coarse stage. The paper has a ResNet-50."
    ] = "art-resnet"
    tap: Annotated[str, "Of the backbone, at a stride of 16."] = "layer3"
    padding: Annotated[str, "Of the backbone."] = "reflect"
    most: Annotated[
        int,
        Interval(ge=1, le=100),
        "Most transforms that are fitted, one after the other. The paper has 11; most works of art are one plane.",
    ] = 3
    passes: Annotated[
        tuple[Annotated[float, Interval(ge=1 / MOST, le=MOST)], ...],
        Len(1, 100),
        "Sizes at which the fine stage works one after the other, as multiples of the working size; each begins with "
        "the result of the last. Small ones reach farther, large ones are more exact. The paper has (1,), and (0.5, 1) "
        "for KITTI.",
    ] = (0.5, 1.0, 2.0)
    accepted: Annotated[Share, "Share of the target that a transform must match, and a further one match anew."] = 0.01
    matchable: Annotated[Share, "Matchability from which a place counts as matched."] = 0.5
    certainty: Annotated[
        float,
        "Least certainty of each transform, of matches that no earlier one has used: minus the decimal logarithm of "
        "how many transforms that fit as well are expected by chance, see `ransac.log_nfa`. "
        "`python benchmarks/ransac_flow.py` shows what passes; after one look, 25 is enough.",
    ] = 45.0


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture as it was read, with what was computed of it for the coarse stage, to be aligned with several."""

    picture: LoadedImage
    described: DescribedPicture


class RansacFlow(FeedForward[RansacFlowConfig]):
    """Bring one picture of a thing onto another: transforms that most cells agree on, then each pixel by itself.

    Shen, Darmon, Efros and Aubry 2020, "RANSAC-Flow: generic two-stage image alignment" (arXiv:2004.01526).

        >>> aligner = RansacFlow.from_pretrained(hypotheses=1000)
        >>> result = aligner("photo.jpg", "photo.jpg")
        >>> result.found
        True
        >>> result.save("photo-on-itself.png")
        >>> result.places([[64, 48]]).source.round().tolist()
        [[64.0, 48.0]]
    """

    method = "ransac_flow"
    config_class = RansacFlowConfig
    formats = (*hub.Pretrained.formats, ".npz", ".gif", ".mp4")

    def __init__(
        self,
        config: RansacFlowConfig | None = None,
        *,
        network: FineNetwork | None = None,
        backbone: features.FeatureExtractor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        runner: runtime.Runner | None = None,
        **graphs: Any,
    ) -> None:
        """Put it together; `from_pretrained` is the usual way.

        The network is that of the fine stage. The backbone, of the coarse stage, is by default loaded as the settings
        name it. For the others see `FeedForward`.
        """
        super().__init__(config, network=network, device=device, dtype=dtype, runner=runner, **graphs)
        if backbone is None:
            backbone = features.load(self.config.backbone, padding=self.config.padding, until=self.config.tap)
        self._coarse = Coarse(backbone.to(self.device), self.config.tap, self.config)
        self._fine = Fine(self.runner, self.config.passes, self.config.matchable, self.graph.requirements)

    @classmethod
    def _network(cls, config: RansacFlowConfig) -> FineNetwork:
        return FineNetwork(config)

    @classmethod
    def _build(cls, config: RansacFlowConfig, resolved: hub.Resolved, placement: hub.Placement) -> Self:
        if resolved.origin == "built-in":
            raise MissingWeights(
                f"{resolved.name} is not fetched by itself: its authors publish it as a .pth, which can run code when "
                "opened, and artmodels never opens one. Download it, and in a checkout of artmodels run `python -m "
                f"weights convert ransac_flow MegaDepth_Theta1_Eta001_Grad0_0.807.pth my-{resolved.name}`, which says "
                "how to make safetensors of it and converts that; then load the folder "
                f"'my-{resolved.name}'. Without any download, 'ransac-flow' does the same."
            )
        network = resolved.fill(
            lambda: cls._network(config),
            lambda network: network,
            dtype=cls._computed(config, placement.device, placement.dtype),
            counters=False,
        )
        backbone = features.load(
            config.backbone, local_files_only=placement.local_files_only, padding=config.padding, until=config.tap
        )
        return cls(config, network=network, backbone=backbone, device=placement.device, dtype=placement.dtype)

    def _tensors(self) -> dict[str, Tensor]:
        # Without the counters of normalisation, which does without.
        return {key: value for key, value in super()._tensors().items() if value.is_floating_point()}

    def prepare(self, image: "images.Source | Prepared") -> Prepared:
        """Read a picture to align it with several; what is computed of it is kept.

        Raises:
            ImageError: It cannot be read, or is smaller than 8 pixels.
        """
        if isinstance(image, Prepared):
            return image
        loaded = picture(image)
        return Prepared(loaded, self._coarse.describe(loaded.tensor()))

    @torch.inference_mode()
    def __call__(
        self, source: "images.Source | Prepared", target: "images.Source | Prepared", *, fine: bool = True
    ) -> Alignment:
        """Bring a source onto a target.

        Args:
            source: The picture that is moved: what `artmodels.images.load` reads, or what `prepare` gave.
            target: The one that it is brought onto.
            fine: Whether each pixel is moved by itself after the transforms. Without, a place is matchable where the
                source reaches.

        Returns:
            The source as the target shows it, at the target's size. `found` says whether there is an alignment; where
            there is none, `reason` says why, and the picture is the target, pale.

        Raises:
            ImageError: One cannot be read, or is smaller than 8 pixels.
        """
        start = time.perf_counter()
        one, other = self.prepare(source), self.prepare(target)
        size = self._working_size(other.picture)
        first = self._coarse.fit(one.described, other.described)
        count, agreeing = len(first.matches.target), int(first.fit.inliers.sum())
        certainty = self._certainty(first)
        warp, matchable, error, reason = None, torch.zeros(size), torch.zeros(size), first.fit.reason
        if first.fit.matrix is not None and certainty < self.config.certainty:
            reason = (
                f"{agreeing} of {count} matches agree on a transform, as those of different things may: the "
                f"certainty is {certainty:.1f}, and {self.config.certainty:g} is needed"
            )
        elif first.fit.matrix is not None:
            warp, matchable, error = self._refined(one, other, first, size, fine=fine)
            if float((matchable >= self.config.matchable).float().mean()) < self.config.accepted:
                warp = None
                reason = f"{agreeing} of {count} matches agree on a transform, but no part of the pictures looks alike"
        if warp is None:
            made = 1 - PALE * (1 - other.picture.tensor())
        else:
            made, _ = warp.read(one.picture.tensor(), other.picture.height, other.picture.width)
        notes = (*one.picture.notes, *other.picture.notes)
        if reason:
            notes = (*notes, f"No alignment was found: {reason}. This is the target, pale.")
        about = {
            "model": self._name,
            "fine": fine,
            "view": first.view if warp else "",
            "found": warp is not None,
            "inliers": agreeing,
            "matches": count,
            "certainty_found": None if math.isinf(certainty) else certainty,
        }
        return Alignment(
            tensor=made,
            settings=self._record(dataclasses.asdict(self.config) | about),
            seconds=time.perf_counter() - start,
            notes=notes,
            origin=_placed(one.picture.origin, other.picture.origin) if warp else other.picture.origin,
            pictures=(one.picture, other.picture),
            view=first.view if warp else "",
            warp=warp,
            matchability=matchable,
            error=error,
            inliers=agreeing,
            matches=count,
            certainty=certainty,
            reason="" if warp else reason,
        )

    @torch.inference_mode()
    def agreeing(self, source: Prepared, target: Prepared) -> int:
        """How many cells of the target agree on a transform of the source, by the coarse stage alone; 0 for chance."""
        found = self._coarse.fit(source.described, target.described)
        return int(found.fit.inliers.sum()) if self._certainty(found) >= self.config.certainty else 0

    def _certainty(self, found: CoarseFit) -> float:
        return -log_nfa(len(found.matches.target), int(found.fit.inliers.sum()), self.config.tolerance)

    def _working_size(self, target: LoadedImage) -> tuple[int, int]:
        """Height and width that the fine stage sees: about those of the coarse stage, in multiples of its stride."""
        rows, columns = self._coarse.cells(target.width, target.height)
        least = self.graph.requirements.size
        stride = self._coarse.describer.stride // STRIDE * STRIDE
        return least(rows * stride, columns * stride)

    def _refined(
        self, source: Prepared, target: Prepared, first: CoarseFit, size: tuple[int, int], *, fine: bool
    ) -> tuple[Warp, Tensor, Tensor]:
        """All transforms in turn, each with what the fine stage adds: the warp, matchability and error [h, w].

        A place of the source serves once: it belongs to the first transform that matches it, which more matches agree
        on, and what a further one shows of it again is not matched.
        """
        moving = source.picture.tensor()
        targets = self._fine.targets(target.picture.tensor(), size) if fine else []
        matrices, fit = list[Tensor](), first
        which = torch.zeros(size, dtype=torch.int64)
        displacement, matchable, error = torch.zeros(2, *size), torch.zeros(size), torch.zeros(size)
        nothing = Moved(displacement, matchable, error)
        rows, columns = self._coarse.cells(source.picture.width, source.picture.height)
        unused = torch.ones(PARTS * rows, PARTS * columns, dtype=torch.bool)
        here = geometry.identity(*size)

        def parts(matrix: Tensor, moved: Moved) -> tuple[Tensor, ...]:
            """Rows and columns [h, w] of the parts of the source that a transform shows."""
            places = geometry.apply(matrix, here + moved.displacement.permute(1, 2, 0)).view(-1, 2)
            return cells_of(places, (unused.shape[0], unused.shape[1])).view(*size, 2).unbind(2)

        for number in range(self.config.most):
            matrix = fit.fit.matrix
            if matrix is None or (number and self._certainty(fit) < self.config.certainty):
                break
            moved, holds = nothing, torch.ones(size, dtype=torch.bool)
            for passes in (targets[:1], targets[1:]):
                moved = self._fine(moving, passes, matrix, size, moved)
                trust = moved.matchability if fine else geometry.inside(geometry.grid_of(matrix, *size)).float()
                shown = parts(matrix, moved)
                if number:  # the first holds wherever no other is better
                    new = (trust >= self.config.matchable) & (matchable < self.config.matchable) & unused[shown]
                    holds &= large(new, self.config.accepted)  # what is small is chance
                    if not holds.any():
                        break
            if not holds.any():
                break
            displacement = torch.where(holds, moved.displacement, displacement)
            matchable, error = torch.where(holds, trust, matchable), torch.where(holds, moved.error, error)
            which[holds] = number
            matrices.append(matrix)
            matched = matchable >= self.config.matchable
            left = F.adaptive_avg_pool2d(matched.float()[None], first.matches.cells)[0] < EXPLAINED
            if number + 1 == self.config.most or float(left.float().mean()) < LEFT:
                break
            row, column = shown
            unused[row[holds & matched], column[holds & matched]] = False
            fit = self._coarse.fit(
                source.described, target.described, left, unused, views=(first.view,), factors=first.factors
            )
        return Warp(torch.stack(matrices), which, displacement), matchable, error


def large(mask: Tensor, share: float) -> Tensor:
    """The connected parts of a mask [h, w] that have at least that share of it all."""
    labels, _ = ndimage.label(mask.numpy())
    kept = np.bincount(labels.ravel()) >= share * labels.size
    kept[0] = False
    return torch.from_numpy(kept[labels])


def _placed(source: images.Origin | None, target: images.Origin | None) -> images.Origin | None:
    """The origin of a source that lies where the target does, and is printed as large."""
    inches = target.inches if target else None
    return dataclasses.replace(source, inches=inches) if source else target and images.Origin(inches=inches)
