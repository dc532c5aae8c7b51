from .loading import LIMIT, LoadedImage, Source, load, read_metadata, save_png, to_pil

__all__ = ["LIMIT", "LoadedImage", "Source", "load", "read_metadata", "save_png", "to_pil"]
