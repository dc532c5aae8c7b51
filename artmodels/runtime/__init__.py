"""Devices and number types, ONNX Runtime, and the base class of feed-forward methods."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
