"""What must survive on the disk: rows in SQLite, numbers in memory-mapped arrays, and commits that make both count.

    store.db                  what the store was begun with; a row for each image, and for each file that was looked at
    NAME.NNNN.f16, .f32       [T, width] numbers of all images, one image behind the other; a file for each array

NNNN counts compactions. An image counts once its row is committed, which happens after its numbers are on the disk.
What a crash leaves behind the last of these does not count, and the next writer writes over it. One checksum covers all
rows, and each image has one for its numbers.

One process writes at a time. Whoever opens a store has all rows in memory, as they were at one moment, and keeps no
connection to the database: any number of threads may read, while another process writes.
"""

import json
import logging
import mmap
import os
import sqlite3
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.files import locked

__all__ = ["FileRow", "ImageRow", "Store", "StoreKind", "StoreWriter"]

FILE, LOCK = "store.db", "lock"
FORMAT = 2
EARLIER = ("collection.json", "store.json")  # of format 1, which had logs of its own instead of SQLite
BLOCK = 2**24  # bytes that are copied or summed at a time
WAIT = 30.0  # seconds for another process that has the database for a moment
SUFFIXES = {"float16": "f16", "float32": "f32"}
NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # in Python from 3.12 on
# Private pages: PyTorch wants memory that may be written to, and the file must not be. No space is set aside for them,
# or a store larger than the memory could not be mapped.
PRIVATE = {"access": mmap.ACCESS_COPY} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | NORESERVE}
SCHEMA = """
    CREATE TABLE store (about TEXT NOT NULL, total INTEGER NOT NULL);
    CREATE TABLE images (number INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, crc INTEGER NOT NULL, spans TEXT NOT NULL,
        about TEXT NOT NULL);
    CREATE TABLE files (number INTEGER PRIMARY KEY, name TEXT NOT NULL, sha256 TEXT, path TEXT NOT NULL, skipped TEXT);
"""

logger = logging.getLogger(__name__)


class StoreKind(NamedTuple):
    """Words for messages."""

    name: str  # what the store is, such as "collection"
    content: str  # what it has of an image, such as "features"
    verb: str  # how it gets that, such as "add"


class ImageRow(NamedTuple):
    """One different image."""

    number: int  # its place among the images
    sha256: str  # of its bytes
    crc: int  # checksum of its numbers in all arrays
    spans: str  # JSON: for each array, the rows before it and its own
    about: str  # JSON: what else is known of it

    def span(self, array: str) -> tuple[int, int]:
        """Rows of an array before this image, and its own."""
        start, count = json.loads(self.spans)[array]
        return start, count

    @property
    def details(self) -> Any:  # noqa: ANN401 - an object of JSON
        """What is known of it besides numbers."""
        return json.loads(self.about)


class FileRow(NamedTuple):
    """One file that was looked at."""

    number: int  # its place among the files
    name: str
    sha256: str | None  # of the image that it holds; None where it was skipped
    path: str = ""  # where it was, if that is of interest
    skipped: str | None = None  # why


INSERT = {ImageRow: "INSERT INTO images VALUES (?, ?, ?, ?, ?)", FileRow: "INSERT INTO files VALUES (?, ?, ?, ?, ?)"}
DELETE = {ImageRow: "DELETE FROM images WHERE number = ?", FileRow: "DELETE FROM files WHERE number = ?"}


class Store:
    """The rows of a store, and its arrays as memory maps.

    All methods raise a DatasetError where the store is damaged; the message says what to do.
    """

    def __init__(self, folder: Path, kind: StoreKind) -> None:
        """Read the rows of a store; a DatasetError where there is none, or one of another kind or version."""
        self.folder, self.kind = folder, kind
        self.about = dict[str, Any]()  # what it was begun with
        self.images = list[ImageRow]()  # each different image, in the order of the arrays
        self.number = dict[str, int]()  # place among these of an image, by its sha256
        self.files = dict[str, FileRow]()  # each file that was looked at, by its name
        self._total = 0  # checksum of all rows
        self._sound = set[str]()  # sha256 of the images whose numbers were compared with their checksums
        if not (folder / FILE).is_file():
            if self.exists(folder):
                raise self._damaged(f"{folder} is of an earlier version, and this one does not read it")
            raise DatasetError(f"{folder} is no {kind.name}: it has no {FILE}. Check the path, or begin one there.")
        # SQLite makes files of its own to read beside a writer. Where none can be made (a full disk, a folder that may
        # not be written to) nobody writes either: unless a writer was interrupted, the database alone says all.
        try:
            complete = not (folder / f"{FILE}-wal").stat().st_size
        except FileNotFoundError:  # it may also go between two looks, when the last writer ends
            complete = True
        try:
            self._read(alone=complete and not os.access(folder, os.W_OK))
        except DatasetError as error:
            if not complete or not isinstance(error.__cause__, sqlite3.OperationalError):
                raise
            self._read(alone=True)

    @classmethod
    def create(
        cls, folder: Path, kind: StoreKind, arrays: Mapping[str, tuple[str, int]], about: dict[str, Any]
    ) -> "Store":
        """Begin a store in a new or empty folder, of arrays of "float16" or "float32" and so many numbers a row.

        `about` is what else it is begun with, for JSON. A ConfigError says that the folder holds something or cannot be
        written to, or that another process writes there.
        """
        begun = {"format": FORMAT, "kind": kind.name, "arrays": arrays, "generation": 0}
        text, draft = json.dumps(begun | about), folder / f"{FILE}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / LOCK, f"the {kind.name} {folder}"):
                for path in folder.glob(f"{draft.name}*"):  # of a beginning that was cut short
                    path.unlink()
                found = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
                if found:
                    raise ConfigError(f"{folder} holds {found[0]}: name a new or empty folder, or open what is in it.")
                with closing(_connect(draft, "mode=rwc")) as database:
                    ((mode,),) = database.execute("PRAGMA journal_mode=WAL")
                    if mode != "wal":
                        raise sqlite3.OperationalError("SQLite needs a file system with locks and shared memory")
                    database.executescript(SCHEMA)
                    database.execute("INSERT INTO store VALUES (?, ?)", (text, _crc(text)))
                draft.replace(folder / FILE)
        except (OSError, sqlite3.Error) as error:
            why = getattr(error, "strerror", error)
            raise ConfigError(f"The {kind.name} cannot be in {folder}: {why}. Name another folder.") from error
        return cls(folder, kind)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether a store was begun in a folder."""
        return any((folder / name).is_file() for name in (FILE, *EARLIER))

    # --- Rows

    @property
    def skipped(self) -> Mapping[str, str]:
        """Files that could not be read, and why."""
        return {row.name: row.skipped for row in self.files.values() if row.skipped is not None}

    @property
    def held(self) -> Mapping[str, int]:
        """Files whose image is here, and its number."""
        return {row.name: self.number[row.sha256] for row in self.files.values() if row.sha256 is not None}

    def image(self, name: str) -> ImageRow:
        """The image that a file holds; a DatasetError where the file was skipped, or was never looked at."""
        row = self.files.get(name)
        if row is None or row.sha256 is None:
            why = f"was skipped: {row.skipped}" if row else f"is not in it: {self.kind.verb} the folder that has it"
            raise DatasetError(f"The {self.kind.name} {self.folder} has no {self.kind.content} of {name}, which {why}")
        return self.images[self.number[row.sha256]]

    def _load(self, database: sqlite3.Connection) -> None:
        """Read all rows, as they are at one moment."""
        try:
            database.execute("BEGIN")
            ((text, total),) = database.execute("SELECT about, total FROM store")
            about = json.loads(text)
            if (about["format"], about["kind"]) != (FORMAT, self.kind.name):
                raise DatasetError(
                    f"{self.folder} is no {self.kind.name} that this version reads: it is a {about['kind']} of format "
                    f"{about['format']}. Check the path, or open it with the version that made it."
                )
            images = [ImageRow(*row) for row in database.execute("SELECT * FROM images ORDER BY number")]
            files = [FileRow(*row) for row in database.execute("SELECT * FROM files ORDER BY number")]
            database.execute("COMMIT")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise self._damaged(f"{self.folder / FILE} is damaged ({error})") from error
        if total != _crc(text) + sum(map(_crc, images)) + sum(map(_crc, files)):
            raise self._damaged(f"{self.folder / FILE} is damaged: its rows are not those that were written")
        if about["generation"] != self.about.get("generation"):  # the numbers lie in other files
            self._sound.clear()
        self.about, self._total, self.images = about, total, images
        self.number = {row.sha256: row.number for row in images}
        self.files = {row.name: row for row in files}

    def _read(self, *, alone: bool) -> None:
        """Read the rows from the database and what is beside it, or from the database alone."""
        with self._database(f"mode=ro{'&immutable=1' if alone else ''}") as database:
            self._load(database)

    @contextmanager
    def _database(self, options: str) -> Iterator[sqlite3.Connection]:
        try:
            with closing(_connect(self.folder / FILE, options)) as database:
                yield database
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in (0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise self._damaged(f"{self.folder / FILE} is damaged ({error})") from error
            if options == "mode=rw":
                raise self._unwritten(error) from error
            raise DatasetError(
                f"{self.folder / FILE} cannot be read: {error}. If a writer was interrupted there and the folder may "
                "not be written to now, copy it to where it may be."
            ) from error

    def _damaged(self, what: str) -> DatasetError:
        return DatasetError(f"{what}; remove that folder, or name another one, and {self.kind.verb} the images again.")

    def _unwritten(self, error: OSError | sqlite3.Error) -> ArtModelsError:
        return ArtModelsError(
            f"The {self.kind.name} {self.folder} cannot be written to: {getattr(error, 'strerror', error)}. Its "
            f"{len(self.images)} images are complete: free some space and make the same call again, which goes on from "
            "there."
        )

    # --- Numbers

    def rows(self, array: str) -> int:
        """T, rows of an array that count."""
        return sum(self.images[-1].span(array)) if self.images else 0

    def map(self, array: str, start: int = 0, count: int | None = None) -> npt.NDArray[Any]:
        """Rows [count, width] of an array, memory-mapped: all or some; what is written there does not reach the file.

        A DatasetError says that the store was compacted since it was opened.
        """
        kind, width = self.about["arrays"][array]
        shape = (self.rows(array) - start if count is None else count, width)
        length, offset = self._bytes(array, shape[0]), self._bytes(array, start)
        if not length:  # which cannot be mapped
            return np.empty(shape, kind)
        before = offset % mmap.ALLOCATIONGRANULARITY
        with self._opened(array) as file:
            mapped = mmap.mmap(file.fileno(), before + length, **PRIVATE, offset=offset - before)
        return np.frombuffer(mapped, kind, shape[0] * width, before).reshape(shape)

    def verify(self, *, numbers: bool) -> None:
        """Check that the arrays hold all that is in the rows; and, if wanted, the numbers of all images."""
        for array in self.about["arrays"]:
            path, wanted = self.path(array), self._bytes(array, self.rows(array))
            size = path.stat().st_size if path.is_file() else 0
            if size < wanted:
                raise self._damaged(f"{path} is damaged: it has {size} bytes, and {wanted} are in {FILE}")
        for image in self.images if numbers else ():
            self.check(image)

    def check(self, image: ImageRow) -> ImageRow:
        """Return an image whose numbers are those that were written: once they were compared, they are not again."""
        if image.sha256 not in self._sound:
            if not self._intact(image):
                name = next((row.name for row in self.files.values() if row.sha256 == image.sha256), "of no file")
                raise self._damaged(
                    f"The numbers of image {image.number} ({name}) in {self.folder} are not those that were written: "
                    f"the {self.kind.name} is damaged"
                )
            self._sound.add(image.sha256)
        return image

    @property
    def checked(self) -> bool:
        """Whether the numbers of all images were compared with their checksums."""
        return self._sound.issuperset(self.number)

    def path(self, array: str, *, later: int = 0) -> Path:
        """The file of an array, after so many more compactions."""
        kind, _ = self.about["arrays"][array]
        return self.folder / f"{array}.{self.about['generation'] + later:04d}.{SUFFIXES[kind]}"

    def _intact(self, image: ImageRow) -> bool:
        crc = 0
        for array in self.about["arrays"]:
            for block in self._blocks(image, array):
                crc = zlib.crc32(block, crc)
        return crc == image.crc

    def _blocks(self, image: ImageRow, array: str) -> Iterator[bytes]:
        """The bytes of an image in an array, some at a time; fewer where the file ends before."""
        start, left = (self._bytes(array, rows) for rows in image.span(array))
        with self._opened(array) as file:
            file.seek(start)
            while left and (block := file.read(min(left, BLOCK))):
                yield block
                left -= len(block)

    def _bytes(self, array: str, rows: int) -> int:
        kind, width = self.about["arrays"][array]
        return int(rows * width * np.dtype(kind).itemsize)

    @contextmanager
    def _opened(self, array: str) -> Iterator[BinaryIO]:
        path = self.path(array)
        try:
            with path.open("rb") as file:
                yield file
        except (OSError, ValueError) as error:  # the latter of a map that goes beyond the end
            raise DatasetError(
                f"{path} cannot be read: {error}. If the {self.kind.name} was compacted meanwhile, open it again."
            ) from error

    # --- Writing

    @contextmanager
    def writing(self) -> Iterator["StoreWriter"]:
        """Read what is on the disk now, and write to it inside a `with` block.

        A ConfigError says that another process is writing.
        """
        lock = locked(self.folder / LOCK, f"the {self.kind.name} {self.folder}")
        with lock, self._database("mode=rw") as database:
            database.execute("PRAGMA synchronous=FULL")
            self._load(database)
            yield StoreWriter(self, database)


class StoreWriter:
    """Appends to a store; whatever fails, it ends with the last image that is complete.

    All methods raise an ArtModelsError where the disk is full or fails.
    """

    def __init__(self, store: Store, database: sqlite3.Connection) -> None:
        """Use `Store.writing`."""
        self._store, self._database = store, database
        last = store.images[-1] if store.images else None
        if last and not store._intact(last):
            logger.warning("The last image in %s was not written completely: it is computed again.", store.folder)
            self._commit([], [last, *(row for row in store.files.values() if row.sha256 == last.sha256)])
            store._load(database)
        store.verify(numbers=False)
        self._tidy()

    def add(
        self,
        name: str,
        sha256: str,
        *,
        path: str = "",
        parts: Mapping[str, npt.NDArray[Any]] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Say which image a file holds; nothing happens where that is known.

        An image that is not here yet comes with its `parts`, numbers [n, width] for each array, and with what else is
        known `about` it, for JSON.
        """
        store, images = self._store, list[ImageRow]()
        if sha256 not in store.number:
            crc, spans = 0, dict[str, tuple[int, int]]()
            for array in store.about["arrays"]:
                part = (parts or {})[array]
                spans[array], data = (store.rows(array), len(part)), part.tobytes()
                crc = zlib.crc32(data, crc)
                self._append(store.path(array), [data])
            images.append(ImageRow(len(store.images), sha256, crc, json.dumps(spans), json.dumps(about or {})))
        self._put(FileRow(0, name, sha256, path), images)

    def skip(self, name: str, reason: str) -> None:
        """Say why a file is passed over."""
        self._put(FileRow(0, name, None, "", reason), [])

    def remove(self, names: Iterable[str]) -> None:
        """Forget files; the images stay until the store is compacted."""
        self._commit([], [self._store.files[name] for name in names])

    def compact(self, images: Sequence[ImageRow], **about: Any) -> None:
        """Write the numbers of these images into new files, and forget all others; until then the old files count.

        `about` is what changes in `Store.about`.
        """
        store, moved = self._store, list[ImageRow]()
        ends = dict.fromkeys(store.about["arrays"], 0)
        for image in images:
            spans = {array: (end, image.span(array)[1]) for array, end in ends.items()}
            ends = {array: sum(span) for array, span in spans.items()}
            moved.append(image._replace(number=len(moved), spans=json.dumps(spans)))
        for array in ends:
            blocks = (block for image in images for block in store._blocks(image, array))
            self._append(store.path(array, later=1), blocks)
        self._commit(moved, store.images, generation=store.about["generation"] + 1, **about)
        store._load(self._database)
        self._tidy()

    def _put(self, file: FileRow, images: Sequence[ImageRow]) -> None:
        """Commit the row of a file, at the place that it has or at the end, with that of its image if this is new."""
        files = self._store.files
        before = files.get(file.name)
        number = before.number if before else files[next(reversed(files))].number + 1 if files else 0
        file = file._replace(number=number)
        if images or file != before:
            self._commit([*images, file], [before] if before else [])

    def _commit(self, new: Sequence[ImageRow | FileRow], gone: Sequence[ImageRow | FileRow], **about: Any) -> None:
        """Delete rows and insert others, all or none of them; change what is said about the store."""
        store = self._store
        texts = json.dumps(store.about), json.dumps(store.about | about)
        total = store._total + sum(map(_crc, [*new, texts[1]])) - sum(map(_crc, [*gone, texts[0]]))
        with self._rolled_back_on_failure():
            self._database.execute("BEGIN IMMEDIATE")
            for row in gone:
                self._database.execute(DELETE[type(row)], row[:1])
            for row in new:
                self._database.execute(INSERT[type(row)], row)
            self._database.execute("UPDATE store SET about = ?, total = ?", (texts[1], total))
            self._database.execute("COMMIT")
        store._total = total
        for row in new:
            if isinstance(row, ImageRow):
                store.number[row.sha256] = row.number
                store.images.append(row)
            else:
                store.files[row.name] = row
        for row in gone:
            if isinstance(row, FileRow) and store.files[row.name] is row:  # and has not been replaced
                del store.files[row.name]

    def _append(self, path: Path, blocks: Iterable[bytes]) -> None:
        with self._rolled_back_on_failure(), path.open("ab", buffering=0) as file:
            for block in blocks:
                rest = memoryview(block)
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())

    @contextmanager
    def _rolled_back_on_failure(self) -> Iterator[None]:
        """Whatever fails inside, what was complete before stays, and nothing else."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._tidy()
            raise self._store._unwritten(error) from error

    def _tidy(self) -> None:
        """End the files where what counts ends, and delete those of other generations."""
        for array in self._store.about["arrays"]:
            current = self._store.path(array)
            if current.exists():
                os.truncate(current, self._store._bytes(array, self._store.rows(array)))
            for path in self._store.folder.glob(f"{array}.[0-9]*{current.suffix}"):
                if path != current:
                    try:
                        path.unlink()
                    except OSError as error:  # Windows keeps what somebody still reads
                        logger.info("%s is not deleted yet: %s", path, error.strerror)


def _connect(path: Path, options: str) -> sqlite3.Connection:
    # The thread that takes the next step of a stream need not be the one that took the last.
    address = f"{path.resolve().as_uri()}?{options}"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT)


def _crc(row: str | ImageRow | FileRow) -> int:
    return zlib.crc32(repr(row if isinstance(row, str) else tuple(row)).encode())
