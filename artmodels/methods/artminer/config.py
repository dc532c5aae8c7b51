"""The settings of ArtMiner."""

from dataclasses import dataclass

from artmodels.correspondence.cells import SCALES
from artmodels.correspondence.views import check_views
from artmodels.errors import ConfigError, at_most
from artmodels.features.networks import WIDEST
from artmodels.methods.artminer.discovery import DiscoveryConfig
from artmodels.methods.artminer.groups.pairtable import THRESHOLD
from artmodels.methods.artminer.oneshot import CELLS

__all__ = ["ArtMinerConfig"]

MOST_CELLS = 1000  # of the longer side of a picture: 16 000 px at a stride of 16
MOST_HYPOTHESES = 10**7


@dataclass(frozen=True, kw_only=True)
class ArtMinerConfig:
    """What describes cells, and how pictures are looked at.

    Attributes:
        backbone: A name that `artmodels.features` knows.
        tap: Of it, at a stride of 16 in the paper.
        dims: D, numbers of a cell after a projection that the checkpoint holds; None keeps all that the tap has.
        tuned: Whether the checkpoint holds the backbone's weights; otherwise they are those of its name.
        padding: Of the backbone: "reflect", or "zeros" as published networks were trained.
        scales: Cells of the longer side of a picture in which something is looked for: the seven of the paper. Fewer
            are faster and find less that is small.
        reference: Cells of the longer side of a picture that others are compared with.
        views: How pictures are turned before they are compared, see `artmodels.correspondence.views.VIEWS`. The paper
            only has "", the picture as it is.
        iterations: Hypotheses of a comparison, at most.
        seed: Of their choice.
        threshold: Score of a search from which a place is shown to people. What a checkpoint has was measured by
            `python benchmarks/artminer_thresholds.py`; -1, for features that were not, shows all. Searches and
            evaluations rank everything: it is for whoever shows what they found.
        pair_threshold: Discovery score above which two pictures are linked, measured by the same; else the paper's.
    """

    backbone: str = "art-resnet"
    tap: str = "layer3"
    dims: int | None = None
    tuned: bool = False
    padding: str = "reflect"
    scales: tuple[int, ...] = SCALES
    reference: int = 40
    views: tuple[str, ...] = ("", "mirror")
    iterations: int = 1000
    seed: int = 0
    threshold: float = -1.0
    pair_threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        """Check the values."""
        if "" not in check_views(self.views):
            raise ConfigError(f"views={self.views!r} must include '', the picture as it is")
        if not (-1 <= self.threshold <= 1 and 0 <= self.pair_threshold <= 1):
            raise ConfigError(
                f"threshold={self.threshold} must be in [-1, 1], and pair_threshold={self.pair_threshold} a "
                "score in [0, 1]"
            )
        if self.dims is not None and self.dims < 1:
            raise ConfigError(f"dims={self.dims} must be at least 1, or None")
        if not self.scales or min(*self.scales, self.reference) < CELLS or len(set(self.scales)) < len(self.scales):
            raise ConfigError(
                f"scales={self.scales} and reference={self.reference} must be {CELLS} cells or more, each scale once"
            )
        at_most(WIDEST, dims=self.dims)
        at_most(MOST_CELLS, scales=self.scales, reference=self.reference)
        at_most(MOST_HYPOTHESES, iterations=self.iterations)

    @property
    def discovery(self) -> DiscoveryConfig:
        """How pairs of whole pictures are scored."""
        return DiscoveryConfig(iterations=self.iterations, seed=self.seed)
