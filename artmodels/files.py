"""Files that anybody may have written, and files that several processes write: read within bounds, locked.

JSON is an object within bounds, or an error says what is wrong.
"""

import errno
import json
import math
import os
import reprlib
import stat
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from artmodels.errors import ConfigError

__all__ = ["LARGEST", "FileLock", "read_object", "short"]

LARGEST = 2**20  # bytes
DEEPEST = 16  # levels
LONGEST = 50_000  # characters of a text, members of a list or an object

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlong = 40


def short(value: object) -> str:
    """The `repr` of a value for a message, cut where it is long."""
    return _short.repr(value)


def read_object(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file, strictly: UTF-8, no name twice, numbers that are finite and fit 64 bits.

    Raises:
        OSError: The file is not there or cannot be read.
        ValueError: It is not a regular file, larger than 1 MiB, nested more than 16 deep, or not such an object.
    """
    data = _read(file)
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_constant=_refused,
            parse_int=_whole,
            parse_float=_finite,
            object_pairs_hook=_once,
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"it must hold a JSON object, not a {type(value).__name__}")
    _check(value)
    return value


def _read(file: Path) -> bytes:
    def opener(path: str, flags: int) -> int:
        # A pipe that nobody writes to would be waited for.
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    if file.exists() and not file.is_file():
        raise ValueError("it is not a regular file")
    with open(file, "rb", opener=opener) as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):  # it has changed since
            raise ValueError("it is not a regular file")
        data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    return data


def _check(value: object) -> None:
    """Check depth and lengths, without recursion."""
    level = [value]
    for _ in range(DEEPEST):
        below = list[object]()
        for item in level:
            if isinstance(item, dict | list | str) and len(item) > LONGEST:
                raise ValueError(f"a {type(item).__name__} in it has {len(item)} members, more than {LONGEST}")
            if isinstance(item, str):
                item.encode("utf-8")  # a half of a surrogate pair cannot be written or shown
                if "\0" in item:
                    raise ValueError("a text in it holds a zero byte")
            elif isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {DEEPEST} deep")


def _refused(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{short(digits)} does not fit 64 bits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{short(text)} is too large for a number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{short(twice)} is there twice")
    return found


# --- locks

TAKEN = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)


class FileLock:
    """Held inside a `with` block, by one process at a time."""

    def __init__(self, path: Path, what: str) -> None:
        """Lock `what`, as messages call it, by a file that is made and left there."""
        self.path, self.what = path, what

    def __enter__(self) -> Self:
        """Take it.

        Raises:
            ConfigError: Another process, or another thread of this one, has it; or there cannot be a lock.
        """
        descriptor = -1
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            _lock(descriptor)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            if descriptor >= 0 and error.errno in TAKEN:
                raise ConfigError(
                    f"Another process is writing to {self.what}: wait until it has ended, or use another folder."
                ) from error
            raise ConfigError(
                f"{self.what} cannot be locked by {self.path}: {error.strerror}. Use a folder that may be written to, "
                "on a file system with locks."
            ) from error
        self.descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        os.close(self.descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
