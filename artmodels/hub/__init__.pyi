from .checkpoints import load_tensors, read_config
from .pretrained import Pretrained, config_from
from .resolving import Placement, Resolved, resolve

__all__ = ["Placement", "Pretrained", "Resolved", "config_from", "load_tensors", "read_config", "resolve"]
