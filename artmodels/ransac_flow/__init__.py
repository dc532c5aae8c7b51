"""Dense alignment of pictures of the same thing, coarse to fine."""

from artmodels.ransac_flow.alignment import Alignment, Warp
from artmodels.ransac_flow.changes import Changes
from artmodels.ransac_flow.groups import Group, align_group
from artmodels.ransac_flow.model import FineConfig, FineNetwork
from artmodels.ransac_flow.pipeline import Prepared, RansacFlow, RansacFlowConfig
from artmodels.ransac_flow.transfer import transferred

__all__ = [
    "Alignment",
    "Changes",
    "FineConfig",
    "FineNetwork",
    "Group",
    "Prepared",
    "RansacFlow",
    "RansacFlowConfig",
    "Warp",
    "align_group",
    "transferred",
]
