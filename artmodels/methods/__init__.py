"""The methods: a folder each, with its class, its network, its training and its evaluation."""

from importlib import import_module
from typing import Any

from artmodels.errors import ConfigError, short
from artmodels.hub import catalogue

__all__ = ["class_of", "load"]


def class_of(method: str) -> Any:  # noqa: ANN401 - each method has a class of its own
    """The class of a method, by the method's id in the catalogue and in config.json."""
    known = catalogue.find_method(method)
    if known is None or not known.class_name:
        raise ConfigError(f"artmodels has no method {short(method)}")
    return getattr(import_module(f"artmodels.methods.{method}"), known.class_name)


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
    method = catalogue.get(name).method
    if method == "features":
        from artmodels import features

        return features.load(name, **options)
    return class_of(method).from_pretrained(name, **options)
