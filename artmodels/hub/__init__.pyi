from .checkpoints import load_tensors, read_config
from .pretrained import Pretrained, config_from
from .resolving import Resolved, resolve

__all__ = [
    "Pretrained",
    "Resolved",
    "config_from",
    "load_tensors",
    "read_config",
    "resolve",
]
