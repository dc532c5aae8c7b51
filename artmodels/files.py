"""Files: written whole or not at all, read within bounds although anybody may have written them, hashed, locked."""

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from artmodels.errors import ArtModelsError, ConfigError, DatasetError, short

__all__ = [
    "LARGEST",
    "locked",
    "put_back",
    "read_json",
    "read_object",
    "replacing",
    "sha256_of",
    "text_of",
    "write_whole",
]

# --- writing


def write_whole(contents: Mapping[Path, str | bytes]) -> None:
    """Write files, all or none: an older file stays until all new ones are on the disk. Text is UTF-8."""
    with replacing(*contents) as drafts:
        for draft, content in zip(drafts, contents.values(), strict=True):
            draft.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(*targets: Path, error: type[ArtModelsError] = ArtModelsError) -> Iterator[list[Path]]:
    """Replace files or folders, all or none.

    The block writes to free names beside the targets, because a rename is atomic only within one file system. At its
    end they take, in order, the places of the targets, be these there already or not; if it fails, all is as it was.
    What cannot be written is an `error`.
    """
    drafts = [target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.tmp") for target in targets]
    try:
        yield drafts
        for draft, target in zip(drafts, targets, strict=True):
            for file in draft.rglob("*") if draft.is_dir() else [draft]:
                if file.is_file():
                    with file.open("rb+") as stream:
                        os.fsync(stream.fileno())  # a full disk may show only here
            if target.is_dir() and not draft.is_dir():
                raise IsADirectoryError(None, "a folder of that name is there", str(target))
        _move(drafts, targets)
    except OSError as fault:
        name = dict(zip(map(str, drafts), targets, strict=True)).get(str(fault.filename), fault.filename or targets[0])
        full = fault.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space and try again" if full else "check that the folder exists and may be written to"
        reason = fault.strerror or str(fault)
        raise error(f"could not write {str(name)!r}: {reason}; {advice}. What was there is as it was.") from fault
    finally:
        for draft in drafts:
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)


def _move(drafts: list[Path], targets: tuple[Path, ...]) -> None:
    moved = list[tuple[Path, Path]]()
    try:
        for draft, target in zip(drafts, targets, strict=True):
            if not draft.is_dir():
                os.replace(draft, target)
                continue
            put_back(target)
            # A folder cannot be renamed onto another: for a moment there is neither, but never a half.
            if target.is_dir():
                target.rename(_aside(target))
                moved.append((target, _aside(target)))
            draft.rename(target)
            moved.append((draft, target))
    except BaseException:
        for before, after in reversed(moved):
            after.rename(before)
        raise
    for _, aside in moved:
        if aside not in targets:
            shutil.rmtree(aside, ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def put_back(target: Path) -> None:
    """Put a folder back where it was, if a process was killed that was `replacing` it."""
    if _aside(target).is_dir() and not target.exists():
        _aside(target).rename(target)
    shutil.rmtree(_aside(target), ignore_errors=True)


# --- reading


def sha256_of(file: Path) -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def text_of(file: Path, limit: int = 64 * 2**20, *, encodings: Sequence[str] = ("utf-8-sig",)) -> str:
    """The text in a file of a data set, in the first of some encodings that it may have.

    UTF-16 is taken only with its mark. A DatasetError says that the file is not there, larger than `limit` bytes, or in
    none of the encodings.
    """
    try:
        if file.stat().st_size > limit:
            raise DatasetError(f"{file} has more than {limit / 2**20:g} MB; that is no list or annotation.")
        data = file.read_bytes()
    except OSError as error:
        raise DatasetError(f"{file} cannot be read: {error.strerror}. Check the collection's folder.") from error
    fault: UnicodeDecodeError | None = None
    for encoding in encodings:
        if encoding == "utf-16" and data[:2] not in (b"\xff\xfe", b"\xfe\xff"):
            continue
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            fault = fault or error
    reason = f" ({fault.reason} at byte {fault.start})" if fault else ""
    raise DatasetError(f"{file} is not text in UTF-8{reason}.") from fault


def read_json(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file of a data set; anything else is a DatasetError."""
    try:
        layout = json.loads(text_of(file))
    except json.JSONDecodeError as error:
        raise DatasetError(f"{file} is not JSON ({error.msg} in line {error.lineno}); check the download") from error
    if not isinstance(layout, dict):
        raise DatasetError(f"{file} holds a {type(layout).__name__} where an object is expected; check the download")
    return layout


LARGEST = 2**20  # bytes
DEEPEST = 16  # levels
LONGEST = 50_000  # characters of a text, members of a list or an object


def read_object(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file, strictly: UTF-8, no name twice, numbers that are finite and fit 64 bits.

    A file that cannot be read is an OSError. One that is not regular, larger than 1 MiB, nested more than 16 deep, or
    holds no such object is a ValueError.
    """
    data = _read(file)
    try:
        value = json.loads(
            data.decode(), parse_constant=_finite, parse_float=_finite, parse_int=_parse_int, object_pairs_hook=_once
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


def _parse_int(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"{short(digits)} does not fit 64 bits")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{short(text)} is not a finite number")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"{short(twice)} is there twice")
    return found


# --- locks


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Lock `what`, as messages call it, inside the `with` block, by a file that is made and left there.

    A ConfigError says that another process, or another thread of this one, has the lock, or that there cannot be one.
    """
    # A generator that holds the lock may be closed in another thread than the one that began it.
    lock = filelock.FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ConfigError(
            f"Another process is writing to {what}: wait until it has ended, or use another folder."
        ) from error
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{what} cannot be locked by {path}: {reason}. Use a folder that may be written to, on a file system with "
            "locks."
        ) from error
    try:
        yield
    finally:
        lock.release()
