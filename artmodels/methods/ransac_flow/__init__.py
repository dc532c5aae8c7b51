"""Dense alignment of pictures of the same thing, coarse to fine."""

from artmodels.methods.ransac_flow.groups import Group, align_group, stream_align_group
from artmodels.methods.ransac_flow.model import FineConfig, FineNetwork
from artmodels.methods.ransac_flow.pipeline import Prepared, RansacFlow, RansacFlowConfig
from artmodels.methods.ransac_flow.results.alignment import Alignment, Warp
from artmodels.methods.ransac_flow.results.evidence import Changes, changes, transferred

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
    "changes",
    "stream_align_group",
    "transferred",
]
