from ._version import __version__
from .errors import (
    ArtModelsError,
    ConfigError,
    DatasetError,
    DeadlineExceeded,
    DeviceError,
    HashMismatch,
    ImageError,
    ImageTooLarge,
    MissingWeights,
    UndecodableImage,
    UnsafeFormat,
    WeightsError,
    WeightsMismatch,
)
from .hub.catalogue import list_models
from .methods import load
from .methods.arbitrary_style import ArbitraryStyle
from .methods.artminer import ArtMiner
from .methods.fast_style import FastStyle
from .methods.interpret import FeatureVisualizer
from .methods.mimax import Detector, MIMax
from .methods.neural_style import NeuralStyle
from .methods.ransac_flow import RansacFlow
from .methods.region_features import RegionFeatures
from .methods.super_resolution import SuperResolution
from .methods.texture_network import TextureNetwork
from .methods.texture_synthesis import TextureSynthesizer

__all__ = [
    "ArbitraryStyle",
    "ArtMiner",
    "ArtModelsError",
    "ConfigError",
    "DatasetError",
    "DeadlineExceeded",
    "Detector",
    "DeviceError",
    "FastStyle",
    "FeatureVisualizer",
    "HashMismatch",
    "ImageError",
    "ImageTooLarge",
    "MIMax",
    "MissingWeights",
    "NeuralStyle",
    "RansacFlow",
    "RegionFeatures",
    "SuperResolution",
    "TextureNetwork",
    "TextureSynthesizer",
    "UndecodableImage",
    "UnsafeFormat",
    "WeightsError",
    "WeightsMismatch",
    "__version__",
    "list_models",
    "load",
]
