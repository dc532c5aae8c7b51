from .formats.origin import Origin
from .loading import LIMIT, LoadedImage, Source, load, pixels_in, to_pil
from .writing import read_metadata, save, save_png

__all__ = [
    "LIMIT",
    "LoadedImage",
    "Origin",
    "Source",
    "load",
    "pixels_in",
    "read_metadata",
    "save",
    "save_png",
    "to_pil",
]
