"""A lock between processes that the system gives back when its holder ends, however it ends."""

import errno
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from artmodels.errors import ConfigError

__all__ = ["FileLock"]

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
