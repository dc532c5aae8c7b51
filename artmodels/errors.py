"""The exceptions that artmodels raises on purpose.

ArtModelsError
├── ConfigError          a setting is unknown, out of range or contradicts another (also a ValueError)
├── WeightsError         a checkpoint cannot be used
│   ├── MissingWeights   no such name, revision or file, or it cannot be fetched now
│   ├── HashMismatch     the bytes are not the ones the catalogue pins
│   ├── WeightsMismatch  keys or shapes differ from the architecture's, or numbers are no finite floats
│   └── UnsafeFormat     only a pickle-based file is there; it is never opened
├── ImageError           an image cannot be used
│   ├── ImageTooLarge    more pixels than the limit, refused from the header
│   └── UndecodableImage not an image, damaged, or of a format that is not accepted
├── DeadlineExceeded     the time given ran out before the first usable result (also a TimeoutError)
├── DeviceError          the device asked for is not there or too small
└── DatasetError         a folder or table of images does not have the promised layout

Each message says what was wrong, with what, and what to do.
"""

__all__ = [
    "ArtModelsError",
    "ConfigError",
    "DatasetError",
    "DeadlineExceeded",
    "DeviceError",
    "HashMismatch",
    "ImageError",
    "ImageTooLarge",
    "MissingWeights",
    "UndecodableImage",
    "UnsafeFormat",
    "WeightsError",
    "WeightsMismatch",
]


class ArtModelsError(Exception):
    """Base of every error that artmodels raises on purpose."""


class ConfigError(ArtModelsError, ValueError):
    """A setting is unknown, out of range or contradicts another."""


class WeightsError(ArtModelsError):
    """A checkpoint cannot be used."""


class MissingWeights(WeightsError):
    """No such name, revision or file, or it cannot be fetched now."""


class HashMismatch(WeightsError):
    """The bytes of a file are not the ones that the catalogue pins."""


class WeightsMismatch(WeightsError):
    """The keys or shapes of a checkpoint differ from the architecture's, or its numbers are no finite floats."""


class UnsafeFormat(WeightsError):
    """Only a pickle-based file is there; artmodels never opens those."""


class ImageError(ArtModelsError):
    """An image cannot be used."""


class ImageTooLarge(ImageError):
    """The image has more pixels than the limit; refused from its header."""


class UndecodableImage(ImageError):
    """The bytes are not an image, are damaged, or are of a format that is not accepted."""


class DeadlineExceeded(ArtModelsError, TimeoutError):
    """The time given ran out before the first usable result."""


class DeviceError(ArtModelsError):
    """The device asked for is not there, or has too little memory."""


class DatasetError(ArtModelsError):
    """A folder or table of images does not have the promised layout."""
