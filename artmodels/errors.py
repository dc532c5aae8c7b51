"""The exceptions that artmodels raises on purpose.

ArtModelsError
├── ConfigError (also a ValueError), DatasetError, DeviceError, DeadlineExceeded (also a TimeoutError)
├── WeightsError: MissingWeights, HashMismatch, WeightsMismatch, UnsafeFormat
└── ImageError: ImageTooLarge, UndecodableImage

Each message says what was wrong, with what, and what to do; the functions at the end help to say it.
"""

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence

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


# --- the words of messages

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlong = 40


def short(value: object) -> str:
    """The `repr` of a value, cut where it is long."""
    return _short.repr(value)


def clipped(text: str) -> str:
    """A text, cut where it is long."""
    return text if len(text) <= 200 else f"{text[:200]}…"


def listing(names: Iterable[str]) -> str:
    """The names, quoted."""
    return ", ".join(map(repr, names))


def some(names: Iterable[str], most: int = 5) -> str:
    """The first names, each cut where it is long, and how many more there are."""
    every = list(names)
    return ", ".join(map(clipped, every[:most])) + (f" and {len(every) - most} more" if len(every) > most else "")


def suggest(word: str, choices: Iterable[str], *, called: Mapping[str, str] | None = None) -> str:
    """The question " Did you mean 'x'?" about the choices nearest to `word`; empty where none is near.

    A choice that has another name in `called` is named by it.
    """
    near = difflib.get_close_matches(word, list(choices), n=3)
    names = dict.fromkeys((called or {}).get(choice, choice) for choice in near)
    return f" Did you mean {' or '.join(map(repr, names))}?" if names else ""


def one_of(what: str, value: str, choices: Sequence[str]) -> str:
    """Return `value` if it is one of the choices, else raise ConfigError with the near misses."""
    if value not in choices:
        raise ConfigError(f"Unknown {what} {value!r}.{suggest(str(value), choices)} Choose one of {listing(choices)}.")
    return value
