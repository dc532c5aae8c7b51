from .extractor import FeatureExtractor, build, load

__all__ = [
    "FeatureExtractor",
    "build",
    "load",
]
