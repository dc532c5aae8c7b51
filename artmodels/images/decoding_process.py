"""Decoding in a process of its own, which can be killed: for files that strangers send.

`DecodingProcesses.load` gives what `artmodels.images.load` gives, pixel for pixel, or raises the same error. The file
is decoded in a worker that is started once and reused; one that takes too long or too much memory ends, and the next
file gets a new one. Nothing is unpickled: an answer is a line of JSON and the raw pixels, and both are checked, because
a process that decodes hostile data may have been taken over by it.

The worker imports neither PyTorch nor the program that started it.
"""

import atexit
import contextlib
import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any, Self, TypeVar, cast

import numpy as np

from artmodels import errors, images
from artmodels.errors import ArtModelsError, ImageError, ImageTooLarge
from artmodels.images.decoding import Array, LoadedImage
from artmodels.images.formats.bounds import undecodable
from artmodels.images.formats.origin import Origin

__all__ = ["CPU_SECONDS", "DecodingProcesses"]

CPU_SECONDS = 60.0  # of the processor, for one file: several times what an ordinary one at the default limit takes
WALL_SECONDS = 600.0  # of the clock: far more, so that a busy machine refuses nothing wrongly
_MEMORY = 2**30  # of address space, for the interpreter and the libraries
_MEMORY_PER_PIXEL = 32  # bytes of the limit: decoding takes at most 19, and the file itself at most 8
_HEADER = struct.Struct(">I")
_LONGEST = 2**16  # bytes of a header: a few notes, or a message
_FORMATS = (None, "PNG", "JPEG", "WEBP", "TIFF", "HEIF", "AVIF", "JPEG2000")
_KINDS = ("ImageError", "ImageTooLarge", "UndecodableImage", "ConfigError")
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

Room = TypeVar("Room", bytearray, Array)


class DecodingProcesses:
    """Some worker processes, each of which decodes one file at a time.

    A worker starts with the first file that finds none idle. Use it as a context manager, or `close` it; what is left
    at exit is closed then, and a worker whose parent was killed ends by itself.

    Example:
        >>> with DecodingProcesses() as processes:  # doctest: +SKIP
        ...     picture = processes.load("upload.jpg")
    """

    def __init__(self, count: int = 2, *, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = WALL_SECONDS) -> None:
        """Make it for at most `count` workers, with the time that one file may take in each."""
        self._cpu_seconds, self._wall_seconds = cpu_seconds, wall_seconds
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        self._count = count
        self._live: set[_Worker] = set()
        for _ in range(count):
            self._idle.put(None)
        atexit.register(self.close)

    def load(
        self,
        path: str | os.PathLike[str],
        *,
        max_pixels: int = images.LIMIT,
        background: tuple[int, int, int] | None = (255, 255, 255),
        shrink: bool = False,
    ) -> LoadedImage:
        """Load an image file as `artmodels.images.load` does; waits while all workers are busy.

        Besides what that raises, ImageTooLarge says that the file takes longer than its time, UndecodableImage that the
        decoder broke down over it.
        """
        request = {
            "folder": os.getcwd(),  # to which a path may be relative; a program may move after the worker started
            "path": os.fspath(path),
            "max_pixels": max_pixels,
            "background": background,
            "shrink": shrink,
            "cpu_seconds": self._cpu_seconds,
        }
        worker = self._idle.get()
        try:
            if worker is not None and worker.process.poll() is not None:  # it has ended meanwhile
                self._end(worker)
                worker = None
            if worker is None:
                worker = _Worker()
                self._live.add(worker)
            return worker.ask(request, self._wall_seconds)
        finally:
            # Whatever happened, a worker that is not ready for the next file is replaced by none.
            if worker is not None and not worker.ready:
                self._end(worker)
                worker = None
            self._idle.put(worker)

    def close(self) -> None:
        """End the workers at once, whatever they do; a later `load` starts new ones."""
        slots = 0
        while slots < self._count:  # those at work come back when their processes are gone
            for worker in tuple(self._live):
                worker.process.kill()
            with contextlib.suppress(queue.Empty):
                idle = self._idle.get(timeout=0.1)
                slots += 1
                if idle is not None:
                    self._end(idle)
        for _ in range(slots):
            self._idle.put(None)

    def _end(self, worker: "_Worker") -> None:
        self._live.discard(worker)
        worker.close()

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        atexit.unregister(self.close)
        self.close()


class _Worker:
    """A process that decodes, seen from outside; it is `ready` once it has answered all that it was asked."""

    def __init__(self) -> None:
        """Start it: this interpreter, with this very package, whatever folder the program stands in."""
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([root, *(path for path in sys.path if path)])
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "artmodels.images.decoding_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_THREADS, "PYTHONPATH": paths},
        )
        self._send = cast(IO[bytes], self.process.stdin)
        self._receive = cast(IO[bytes], self.process.stdout)
        self.ready = False

    def ask(self, request: dict[str, Any], wall_seconds: float) -> LoadedImage:
        """Send a request and wait for its answer; where it takes too long or is none, `load` says what is raised."""
        name = repr(request["path"])
        self.ready = False
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(wall_seconds, end)
        timer.daemon = True
        timer.start()
        try:
            _write(self._send, request)
            answer = _answer(self._receive, request["max_pixels"], request["background"])
        except (OSError, EOFError):
            code = self.process.wait()
            if late.is_set() or code == -getattr(signal, "SIGPROF", 0):
                raise ImageTooLarge(
                    f"{name} takes too long to decode, more than {request['cpu_seconds']:g} seconds; save it again, as "
                    "PNG or baseline JPEG, or make it smaller"
                ) from None
            raise undecodable(name, f"its decoder ended with code {code}") from None
        except ValueError:
            raise undecodable(name, "its decoder gave no proper answer") from None
        finally:
            timer.cancel()
            timer.join()  # it may kill the process until then, and must not later
        self.ready = not late.is_set()
        if isinstance(answer, ArtModelsError):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, and leave nothing of it."""
        self.process.kill()
        for pipe in (self._send, self._receive):
            with contextlib.suppress(OSError):  # it has ended with a request in the pipe
                pipe.close()
        self.process.wait()


def _write(file: IO[bytes], header: dict[str, Any]) -> None:
    data = json.dumps(header).encode()
    file.write(_HEADER.pack(len(data)) + data)
    file.flush()


def _read(file: IO[bytes]) -> dict[str, Any]:
    """Read a header; raise EOFError where the other side has ended, ValueError where it is none."""
    (length,) = _HEADER.unpack(_exactly(file, bytearray(_HEADER.size)))
    if not 0 < length <= _LONGEST:
        raise ValueError("no header is of that length")
    try:
        header = json.loads(_exactly(file, bytearray(length)))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("not an object")
    return header


def _answer(
    file: IO[bytes], max_pixels: int, background: tuple[int, int, int] | None = (255, 255, 255)
) -> LoadedImage | ArtModelsError:
    """Read an answer, and believe nothing of it; raise what `_read` does."""
    header = _read(file)
    kind, message = header.get("error"), header.get("message")
    if kind is not None:
        if kind not in _KINDS or not isinstance(message, str):
            raise ValueError("no such error")
        error: ArtModelsError = getattr(errors, kind)(message)
        return error
    size, depth, format, notes = (header.get(key) for key in ("size", "depth", "format", "notes"))
    if not (
        isinstance(size, list)
        and len(size) == 2
        and all(type(side) is int and side > 0 for side in size)
        and size[0] * size[1] <= max_pixels
        and depth in (8, 16)
        and format in _FORMATS
        and isinstance(notes, list)
        and all(isinstance(note, str) for note in notes)
    ):
        raise ValueError("not an image")
    origin = Origin.checked(header.get("origin"))
    dtype = np.uint8 if depth == 8 else np.uint16
    pixels = _exactly(file, np.empty((*size, 3), dtype))
    alpha = _exactly(file, np.empty(size, dtype)) if header.get("alpha") is True else None
    return LoadedImage(pixels, alpha, format, tuple(notes), background, origin)


def _exactly(file: IO[bytes], room: Room) -> Room:
    """Fill an array or a buffer from a file that waits for all bytes; raise EOFError where it ends before."""
    data = memoryview(room.data if isinstance(room, np.ndarray) else room).cast("B")
    if file.readinto(data) < len(data):  # type: ignore[attr-defined]
        raise EOFError
    return room


# --- the worker -----------------------------------------------------------------------------------


def _decode(request: dict[str, Any], answers: IO[bytes]) -> None:
    """Answer one request; nothing of it is kept."""
    with contextlib.suppress(OSError):
        os.chdir(request["folder"])
    background = None if request["background"] is None else tuple(request["background"])
    arrays = list[Array]()
    _limit(request["cpu_seconds"], request["max_pixels"])
    try:
        loaded = images.load(
            request["path"], max_pixels=request["max_pixels"], background=background, shrink=request["shrink"]
        )
        arrays = [loaded.pixels] if loaded.alpha is None else [loaded.pixels, loaded.alpha]
        header = {
            "size": [loaded.height, loaded.width],
            "depth": 8 * loaded.pixels.itemsize,
            "format": loaded.format,
            "notes": loaded.notes,
            "alpha": loaded.alpha is not None,
            "origin": None if loaded.origin is None else loaded.origin.plain(),
        }
    except (ImageError, errors.ConfigError) as error:
        header = {"error": type(error).__name__, "message": str(error)[: _LONGEST // 8]}
    _limit(0, request["max_pixels"])
    _write(answers, header)
    for values in arrays:
        answers.write(np.ascontiguousarray(values).data.cast("B"))
    answers.flush()


def _limit(cpu_seconds: float, max_pixels: int) -> None:
    """Let the process end after so much more time of the processor, or never for 0, and bound its memory."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, whatever a decoder is doing
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows; refused by some systems
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = _MEMORY + _MEMORY_PER_PIXEL * max_pixels
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main() -> None:
    """Serve the process that started this one, through standard input and output, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that closes the pipe
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    with requests, answers, contextlib.suppress(BrokenPipeError, EOFError):
        while True:
            _decode(_read(requests), answers)


if __name__ == "__main__":
    main()
