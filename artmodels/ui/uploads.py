"""Files that somebody uploaded, archives among them: taken in one after the other, and never more than is bearable.

What cannot be used is left out under its name, with the reason, and the rest is used. What an archive says of its own
sizes is not believed: the bytes that come out of it are counted.
"""

import contextlib
import hashlib
import io
import itertools
import re
import shutil
import struct
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from artmodels.data.folders import SUFFIXES, is_hidden, of_a_system
from artmodels.errors import DatasetError, ImageError
from artmodels.images.decoding import ACCEPTED
from artmodels.images.loading import REDUCED
from artmodels.images.writing import encode_png
from artmodels.ui.checks import read
from artmodels.ui.server.files import REFUSED, uploaded
from artmodels.ui.server.pictures import jpeg

__all__ = ["ROUTE", "Names", "Taken", "bullets", "markdown", "reported", "take_in"]

ARCHIVES = 32  # open at a time
ENTRIES = 10_000  # in all archives
DIRECTORY = 4 * 2**20  # bytes of an archive's table of contents, which is read into memory
LARGEST = 256 * 2**20  # bytes of one file inside an archive: a scan of 40 megapixels of 16 bits
INFLATED = 2 * 2**30  # bytes that come out of all archives
NAME = 200  # bytes of a name: file systems take 255, and numbers and endings are added
SHOWN = 20  # reasons on a page
PREVIEW = 1024  # px: longest side of what is shown of a picture that browsers do not show
CHUNK = 2**18  # bytes inflated at a time

_METHODS = {9: "Deflate64", 12: "BZIP2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
_CONTROL = {"Cc", "Cs", "Zl", "Zp"}  # categories of characters
_DIRECTION = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # their bidirectional classes
# What begins emphasis, code, a link, a picture, HTML, an entity, a heading, a table, a formula, or is made a link.
_SPECIAL = re.compile(r"[\\`*_\[\]<>&#|~$+@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_UTF8 = 0x800  # flag of an entry: its name is UTF-8
_ENCRYPTED = 0x41  # flags of an entry: encrypted, or strongly so
_NEWEST = 63  # version of the format that `zipfile` knows: 6.3
_FAULTS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(RuntimeError, ValueError, OverflowError),  # encrypted or not implemented; a name; a place far outside the file
)


@dataclass(frozen=True)
class Taken:
    """A picture that can be used."""

    name: str  # no other's, by letters of either case
    file: Path  # its bytes as they came; those of a PNG where it was reduced to fit
    picture: Image.Image  # upright


class _Waiting(NamedTuple):
    """What may be a picture: a file, or an entry of an archive."""

    name: str
    path: Path
    archive: zipfile.ZipFile | None = None
    entry: zipfile.ZipInfo | None = None


class Names:
    """Gives names that nobody has: a.jpg, a-2.jpg, a-3.jpg; in a time that grows with their number, not its square."""

    def __init__(self, *used: str) -> None:
        """Begin with names that are used."""
        self._used = {name.casefold() for name in used}  # as Windows and macOS compare them
        self._numbers = defaultdict[str, Iterator[int]](lambda: itertools.count(2))

    def unused(self, name: str) -> str:
        """Give the name, numbered where it was given before."""
        given, numbers = name, self._numbers[name.casefold()]
        while given.casefold() in self._used:
            given = f"{Path(name).stem}-{next(numbers)}{Path(name).suffix}"
        self._used.add(given.casefold())
        return given


def take_in(
    paths: Sequence[str],
    folder: Path,
    left_out: MutableMapping[str, str],
    *,
    most: int,
    twins: MutableMapping[str, str] | None = None,
) -> Iterator[str | Taken]:
    """Take pictures, and those inside ZIP files; closing this between two of them ends the work.

    Args:
        paths: Pictures and ZIP files.
        folder: Receives the pictures as they came.
        left_out: Receives the names of what cannot be used, and why; neither is safe for HTML: see `markdown`.
        most: Pictures at most; also how many may prove unusable before the rest is left out unseen.
        twins: Receives the files with the bytes of one that came before, and its name; None takes them, too.

    Yields:
        How far it is, as Markdown, before each picture; and each picture that can be used.

    Raises:
        DatasetError: More than `most` pictures can be used.
    """
    known = dict[str, str]()  # the first file with these bytes
    inflated = count = unusable = 0
    with contextlib.ExitStack() as stack:
        waiting, useless = yield from _listed(paths, left_out, stack)
        for number, (name, path, archive, entry) in enumerate(waiting):
            yield f"{number} of {len(waiting)} pictures…"
            if unusable == most:
                left_out[name] = f"nobody looked at it: {most} before it cannot be used"
                continue
            target = folder / name
            try:
                if archive is None or entry is None:
                    shutil.copyfile(path, target)
                elif inflated >= INFLATED:
                    left_out[name] = f"more than {INFLATED >> 20} MB came out of the archives before it"
                    continue
                else:
                    with archive.open(entry) as source, target.open("wb") as file:
                        size = 0
                        while size <= LARGEST and (chunk := source.read(CHUNK)):
                            file.write(chunk)
                            size += len(chunk)
                            inflated += len(chunk)
                    if size > LARGEST:
                        raise ImageError(_too_large(path))
                if twins is not None:
                    with target.open("rb") as file:
                        first = known.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), name)
                    if first != name:
                        target.unlink()
                        if first in left_out:
                            left_out[name] = left_out[first]
                        else:
                            twins[name] = first
                        continue
                loaded = read(str(target))  # in a process of its own; nothing of the file is parsed here
                picture = loaded.pil()
                if any(note.startswith(REDUCED) for note in loaded.notes):  # for all that read the file later
                    target.write_bytes(encode_png(picture))
                    yield f"{markdown(name)} was reduced to {picture.width} x {picture.height} pixels…"
            except (ImageError, *_FAULTS) as error:
                damaged = entry and not isinstance(error, ImageError | OSError)
                left_out[name] = (f"it is damaged inside {path.name}: " if damaged else "") + _one_line(error)
                target.unlink(missing_ok=True)
                unusable += 1
                continue
            if count == most:
                raise DatasetError(f"There are more than {most} pictures: give fewer here; Python has no such limit.")
            count += 1
            yield Taken(name, target, picture)
    left_out.update(useless)  # last: a picture that is damaged is missed more than a text


def _listed(
    paths: Sequence[str], left_out: MutableMapping[str, str], stack: contextlib.ExitStack
) -> Generator[str, None, tuple[list[_Waiting], dict[str, str]]]:
    """Look into archives, and say how far it is; return what is to be read, and what is useless without, and why."""
    names, waiting, useless = Names(), list[_Waiting](), dict[str, str]()
    archives = entries = 0
    for path in map(Path, paths):
        if path.suffix.lower() != ".zip":
            if of_a_system(PurePosixPath(path.name)):
                continue
            if fault := _odd(path.name):
                left_out[names.unused(_printable(path.name))] = fault
            else:
                waiting.append(_Waiting(names.unused(path.name), path))
            continue
        yield f"Opening {markdown(_printable(path.name))}…"
        archives += 1
        try:
            if archives > ARCHIVES:
                raise zipfile.BadZipFile(f"more than {ARCHIVES} archives are not opened at a time")
            file = stack.enter_context(_Bounded(path))
            archive = zipfile.ZipFile(file)
            file.listed = True
            if entries + len(archive.infolist()) > ENTRIES:  # it is not kept, and its long list neither
                raise zipfile.BadZipFile(f"more than {ENTRIES} files are in the archives: give parts of it")
            entries += len(stack.enter_context(archive).infolist())
        except _FAULTS as error:
            left_out[names.unused(_printable(path.name))] = f"the archive cannot be read: {_one_line(error)}"
            continue
        for number, entry in enumerate(archive.infolist()):
            inside = PurePosixPath(entry.orig_filename.replace("\\", "/"))
            if entry.orig_filename.endswith(("/", "\\")) or of_a_system(inside):
                continue
            if fault := _useless(entry, inside, path, decodable=number not in file.undecodable):
                shown = str(inside) if inside.is_absolute() or ".." in inside.parts else inside.name
                useless[names.unused(_printable(shown))] = fault
            else:
                waiting.append(_Waiting(names.unused(inside.name), path, archive, entry))
    return waiting, useless


class _Bounded(io.BufferedReader):
    """The file of an archive, which gives at most `DIRECTORY` bytes at once: `zipfile` reads the list of entries whole.

    A name that is not the UTF-8 that it says it is, or an entry of a newer version, would make `zipfile` refuse the
    whole archive: the list is mended while it is read, and such names are kept in `undecodable`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.undecodable = set[int]()
        self.listed = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as any file."""
        if size is not None and size > DIRECTORY:
            raise zipfile.BadZipFile(f"its table of contents has more than {DIRECTORY >> 20} MB")
        content = super().read(size)
        return content if self.listed or not content.startswith(b"PK\1\2") else self._mended(content)

    def _mended(self, content: bytes) -> bytes:
        """Change the table of contents: 4.3.12 of PKWARE's APPNOTE."""
        table, place, number = bytearray(content), 0, 0
        while place + 46 <= len(table):
            table[place + 6] = min(table[place + 6], _NEWEST)
            (flags,) = struct.unpack_from("<H", table, place + 8)
            name, extra, comment = struct.unpack_from("<3H", table, place + 28)
            try:
                if flags & _UTF8:
                    table[place + 46 : place + 46 + name].decode()
            except UnicodeDecodeError:
                struct.pack_into("<H", table, place + 8, flags & ~_UTF8)
                self.undecodable.add(number)
            place += 46 + name + extra + comment
            number += 1
        return bytes(table)


def _odd(name: str) -> str:
    """Say what is wrong with a name, if anything is."""
    if not name:
        return "it has no name"
    if any(map(_unprintable, name)):
        return "its name has characters that control lines or the direction of text"
    if len(name.encode()) > NAME:
        return f"its name has more than {NAME} bytes"
    return ""


def _useless(entry: zipfile.ZipInfo, inside: PurePosixPath, path: Path, *, decodable: bool) -> str:
    """Say why an entry is left out before it is opened, if it is."""
    suffix = inside.suffix.lower()
    if not decodable:
        return "its name is not the UTF-8 that it says it is"
    if fault := _odd(inside.name):
        return fault
    if inside.is_absolute() or ".." in inside.parts or re.match("[A-Za-z]:", str(inside)):
        return "its name leads out of the archive"
    if is_hidden(inside):
        return "it is hidden, or in a hidden folder"
    if suffix == ".zip":
        return "it is an archive in an archive: give it as a file of its own"
    if suffix not in SUFFIXES:
        kind = f"“{suffix}”" if suffix else "no ending"
        return f"it has {kind}, and {ACCEPTED} files are read"
    if entry.flag_bits & _ENCRYPTED:
        return "it is encrypted: pack it without a password"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # `zipfile` would inflate these whole, whatever comes out: a kilobyte of BZIP2 is a gigabyte of memory.
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        return f"it is packed by {method}, which is not unpacked here: pack it as usual, by Deflate"
    return _too_large(path) if entry.file_size > LARGEST else ""


def _too_large(archive: Path) -> str:
    return f"it has more than {LARGEST >> 20} MB inside {archive.name}"


def _unprintable(character: str) -> bool:
    """Whether a character controls lines or the direction of text, and so what people take a name for."""
    return unicodedata.category(character) in _CONTROL or unicodedata.bidirectional(character) in _DIRECTION


def _printable(name: str) -> str:
    """Make a name one that can be shown."""
    text = "".join("\ufffd" if _unprintable(character) else character for character in name[: 2 * NAME])
    return text if len(text) <= 80 else f"{text[:60]}…{text[-19:]}"


def _one_line(error: Exception) -> str:
    """Give the message of an error in one line, without the paths of the server."""
    text = (error.strerror or "it cannot be read") if isinstance(error, OSError) else str(error) or "it ends too early"
    text = " ".join(_printable(part) for part in text.split())
    return text if len(text) <= 300 else f"{text[:299]}…"


# --- what the page shows of it


def reported(steps: Iterator[Any], *, others: int) -> Generator[tuple[Any, ...], None, Any]:
    """Show the texts of some steps as the status, and leave `others` outputs as they are; return the last step."""
    made = None
    with contextlib.closing(steps):  # type: ignore[type-var]
        for step in steps:
            if isinstance(step, str):
                yield *[gr.skip()] * others, step
            else:
                made = step
    return made


def _preview(request: Request) -> Response:
    path = request.query_params.get("file", "")
    if not uploaded(path):
        return PlainTextResponse(REFUSED, 404)
    try:
        picture = read(path).pil()
    except ImageError as error:
        return PlainTextResponse(str(error), 422)
    picture.thumbnail((PREVIEW, PREVIEW))
    return Response(jpeg(picture, quality=85), media_type="image/jpeg", headers={"Cache-Control": "no-store"})


ROUTE = Route("/preview", _preview)
"""What is shown of an uploaded `file`, as look.js asks, where a browser cannot show it, such as HEIC: a small JPEG."""


def bullets(left_out: Iterable[tuple[str, str]], words: str = "") -> str:
    """List names and reasons, with the words between, the first `SHOWN`; not safe for HTML: see `markdown`."""
    pairs = list(left_out)
    lines = [f"\n- {name}{words}: {reason}" for name, reason in pairs[:SHOWN]]
    more = len(pairs) - len(lines)
    return "".join(lines) + (f"\n- and {more:,} more".replace(",", " ") if more else "")


def markdown(text: str) -> str:
    """Make text Markdown that shows it as it is: no link, picture, heading or HTML, but its lines and lists."""
    return _SPECIAL.sub(r"\\\g<0>", text)
