"""Computer-vision methods for art: verified weights, honest errors, and a gallery that anyone can use.

The method classes load on first use, so that `import artmodels` stays instant: PyTorch, Pillow and NumPy are
imported with the first of them, not before.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from artmodels.errors import (
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

if TYPE_CHECKING:
    from artmodels.arbitrary_style import ArbitraryStyle
    from artmodels.artminer import ArtMiner
    from artmodels.catalogue import list_models
    from artmodels.fast_style import FastStyle
    from artmodels.mimax import Detector, MIMax
    from artmodels.neural_style import NeuralStyle
    from artmodels.ransac_flow import RansacFlow
    from artmodels.region_features import RegionFeatures
    from artmodels.super_resolution import SuperResolution
    from artmodels.texture_network import TextureNetwork
    from artmodels.texture_synthesis import TextureSynthesizer

__version__ = "0.1.0"

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

# Method id, as in the catalogue and in config.json -> its class, which its package of the same name exports.
METHODS = {
    "arbitrary_style": "ArbitraryStyle",
    "artminer": "ArtMiner",
    "fast_style": "FastStyle",
    "mimax": "Detector",
    "neural_style": "NeuralStyle",
    "ransac_flow": "RansacFlow",
    "super_resolution": "SuperResolution",
    "texture_network": "TextureNetwork",
    "texture_synthesis": "TextureSynthesizer",
}

# The same for what methods are made of, which has no page of its own.
PARTS = {"region_features": "RegionFeatures"}

_LAZY = {"list_models": "catalogue", "MIMax": "mimax"} | {name: key for key, name in (METHODS | PARTS).items()}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute can be anything
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"artmodels.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


def load(name: str, **options: Any) -> Any:  # noqa: ANN401 - each method has a class of its own
    """Load anything in the catalogue by its name alone, whatever its method.

    Args:
        name: A name that `list_models()` shows, such as `"texture-patches"`.
        **options: Passed on to `from_pretrained`: `revision`, `device`, `dtype`, `local_files_only`.

    Returns:
        An instance of the method's class; for the method `"features"`, a `FeatureExtractor`. Load a folder
        or repository of your own with its class's `from_pretrained`: only a catalogue name tells the method.

    Raises:
        MissingWeights: No such name in the catalogue, or its weights cannot be fetched now.
        WeightsError: The weights are not the ones that the catalogue pins.
        DeviceError: The device asked for is not there.
    """
    from artmodels import catalogue

    method = catalogue.get(name).method
    if method == "features":
        from artmodels import features

        return features.load(name, **options)
    return __getattr__((METHODS | PARTS)[method]).from_pretrained(name, **options)
