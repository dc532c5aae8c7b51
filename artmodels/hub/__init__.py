"""From a name or a path to a verified folder, its config and its tensors; the catalogue."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
