"""Decoding in another process: the same images and errors, an end to what takes too long, and nothing left behind."""

import contextlib
import errno
import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from imagefiles import cmyk_profile, photo, png_of, saved, swapped_profile, tiff_of
from PIL import Image

from artmodels import errors, images
from artmodels.errors import ConfigError, ImageError, ImageTooLarge, UndecodableImage
from artmodels.images import decoding_process
from artmodels.images.decoding_process import DecodingProcesses
from artmodels.ui import checks

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the processes here are told apart by POSIX signals")


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[274] = orientation
    return made


RGBA = Image.fromarray(np.dstack([photo(), photo()[..., 0]]))
FILES = {
    "plain.png": saved(Image.fromarray(photo()), "PNG"),
    "alpha.webp": saved(RGBA, "WEBP", lossless=True),
    "deep.png": png_of(photo()[..., 0].astype(np.uint16) * 200, 0),
    "turned.jpg": saved(Image.fromarray(photo()), "JPEG", exif=exif(6), icc_profile=swapped_profile()),
    "floats.tif": tiff_of(photo().astype(np.float32) / 255, photometric=2, sample_format=3),
    "scan.tif": saved(Image.fromarray(photo()), "TIFF", dpi=(300, 300), tiffinfo={315: "A. Painter"}),
    "museum.jp2": saved(Image.fromarray(photo()), "JPEG2000"),
    "phone.avif": saved(Image.fromarray(photo()), "AVIF", exif=exif(6).tobytes()),
    "press.tif": saved(Image.fromarray(photo()).convert("CMYK"), "TIFF", icc_profile=cmyk_profile()),
    "name with \u00e9 and \udcff.png": saved(Image.new("L", (3, 2), 7), "PNG"),
}


@pytest.fixture(scope="module")
def processes():
    with DecodingProcesses(1) as made:
        yield made


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def stand_in(monkeypatch, body: str) -> None:
    """Let new workers run `body` in place of `images.load`."""
    code = "import sys, time, os\nfrom artmodels import errors, images\n"
    code += "from artmodels.images import decoding, decoding_process\n"
    code += f"def load(path, **options):\n    {body}\nimages.load = load\ndecoding_process.main()\n"
    start = subprocess.Popen

    def started(command, **options):
        assert command == [sys.executable, "-P", "-m", "artmodels.images.decoding_process"]
        return start([sys.executable, "-P", "-c", code], **options)

    monkeypatch.setattr(decoding_process.subprocess, "Popen", started)


# --- the same -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_images_are_those_of_this_process(name, processes, tmp_path):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    small = {"max_pixels": 400, "shrink": True}
    for options in ({}, {"background": None}, {"background": (1, 2, 3), "max_pixels": 10_000}, small):
        here, there = images.load(path, **options), processes.load(path, **options)
        assert there.pixels.dtype == here.pixels.dtype
        assert np.array_equal(there.pixels, here.pixels)
        assert (there.format, there.notes, there.background) == (here.format, here.notes, here.background)
        assert there.origin == here.origin
        assert (there.alpha is None) == (here.alpha is None)
        if here.alpha is not None:
            assert there.alpha.dtype == here.alpha.dtype
            assert np.array_equal(there.alpha, here.alpha)
    there.pixels[:] = 0  # they may be written to


@pytest.mark.parametrize("data,options", [
    (b"", {}), (b"words", {}), (None, {}), (FILES["plain.png"][:60], {}), (FILES["plain.png"], {"max_pixels": 5}),
    (FILES["plain.png"], {"max_pixels": 0}), (FILES["plain.png"], {"background": (0, 0, 256)}),
], ids=["empty", "text", "none", "cut", "large", "pixels", "background"])  # fmt: skip
def test_errors_are_those_of_this_process(data, options, processes, tmp_path):
    path = tmp_path / "a.png"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises((ImageError, ConfigError)) as here:
        images.load(path, **options)
    with pytest.raises((ImageError, ConfigError)) as there:
        processes.load(path, **options)
    assert (type(there.value), str(there.value)) == (type(here.value), str(here.value))


def test_relative_paths_follow_the_program(processes, tmp_path, monkeypatch):
    for name, size in (("a", 3), ("b", 5)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (size, 1)).save(tmp_path / name / "picture.png")
        monkeypatch.chdir(tmp_path / name)
        assert processes.load("picture.png").width == size


def test_one_process_does_it_all(tmp_path):
    (tmp_path / "a.png").write_bytes(FILES["plain.png"])
    (tmp_path / "bad.png").write_bytes(b"words")
    before = children()
    with DecodingProcesses(2) as processes:
        assert children() == before  # not before it is needed
        processes.load(tmp_path / "a.png")
        started = children() - before
        for _ in range(5):
            processes.load(tmp_path / "a.png")
            with pytest.raises(UndecodableImage):
                processes.load(tmp_path / "bad.png")
        assert len(started) == 1
        assert children() - before == started
    assert children() == before


def test_two_at_a_time_and_no_more(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(FILES["plain.png"])
    go = tmp_path / "go"
    os.mkfifo(go)
    stand_in(monkeypatch, f"open({str(go)!r}).close(); raise errors.ImageError('done')")
    before, done = children(), []
    with DecodingProcesses(2) as processes:

        def load():
            with pytest.raises(ImageError, match="done"):
                processes.load(tmp_path / "a.png")
            done.append(1)

        threads = [threading.Thread(target=load) for _ in range(5)]
        for thread in threads:
            thread.start()
        while len(children() - before) < 2:
            pass
        while any(thread.is_alive() for thread in threads):
            assert len(children() - before) <= 2
            try:  # let those in that wait now, if any
                os.close(os.open(go, os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                assert error.errno == errno.ENXIO
        for thread in threads:
            thread.join(60)
    assert done == [1] * 5


# --- an end ---------------------------------------------------------------------------------------------


def test_a_file_that_takes_too_much_processor_time_ends(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(FILES["plain.png"])
    stand_in(monkeypatch, "\n    while True: pass")
    before = children()
    with DecodingProcesses(1, cpu_seconds=0.2) as processes:
        for _ in range(2):
            message = "a.png' takes too long to decode, more than 0.2 seconds; save it again, as PNG or baseline JPEG"
            with pytest.raises(ImageTooLarge, match=message):
                processes.load(tmp_path / "a.png")
            assert children() == before
        monkeypatch.undo()
        assert processes.load(tmp_path / "a.png").width == 36  # by the next process


def test_waiting_takes_no_processor_time_but_ends_too(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(FILES["plain.png"])
    stand_in(monkeypatch, "time.sleep(3600)")
    with (
        DecodingProcesses(1, cpu_seconds=3000, wall_seconds=0.5) as processes,
        pytest.raises(ImageTooLarge, match="takes too long to decode"),
    ):
        processes.load(tmp_path / "a.png")


def test_the_time_is_that_of_each_file(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(FILES["plain.png"])
    used = "t = time.process_time()\n    while time.process_time() < t + 0.5: pass\n    raise errors.ImageError('used')"
    stand_in(monkeypatch, used)
    with DecodingProcesses(1, cpu_seconds=1.0) as processes:
        for _ in range(4):
            with pytest.raises(ImageError, match="used"):
                processes.load(tmp_path / "a.png")


def test_memory_is_bounded(tmp_path, monkeypatch):
    pytest.importorskip("resource")
    if sys.platform != "linux":
        pytest.skip("macOS does not hold processes to their address space")
    (tmp_path / "a.png").write_bytes(FILES["plain.png"])
    stand_in(monkeypatch, "\n    with decoding.decoding(repr(path)): bytearray(2**31)")
    with (
        DecodingProcesses(1) as processes,
        pytest.raises(ImageTooLarge, match="a.png' needs more memory than there is; make it smaller"),
    ):
        processes.load(tmp_path / "a.png", max_pixels=1000)


def test_a_process_that_breaks_down_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(FILES["plain.png"])
    with DecodingProcesses(1) as processes:
        processes.load(tmp_path / "a.png")
        (pid,) = {worker.process.pid for worker in processes._live}
        os.kill(pid, signal.SIGKILL)
        processes_seen = psutil.Process(pid)
        while processes_seen.status() != psutil.STATUS_ZOMBIE:
            pass
        assert processes.load(tmp_path / "a.png").width == 36
        stand_in(monkeypatch, "os.abort()")
    with (
        DecodingProcesses(1) as processes,
        pytest.raises(UndecodableImage, match="a.png' cannot be decoded .its decoder ended with code -6.; it is dam"),
    ):
        processes.load(tmp_path / "a.png")


GOOD = {"size": [2, 3], "depth": 8, "format": "PNG", "notes": [], "alpha": False}


@pytest.mark.parametrize("change", [
    {"size": [2**20, 2**20]}, {"size": [0, 3]}, {"size": [-2, -3]}, {"size": [True, 3]}, {"size": [2.0, 3]},
    {"size": "23"}, {"depth": 32}, {"format": "GIF"}, {"notes": "a"}, {"notes": [1]}, {"error": "SystemExit"},
    {"error": "ImageError", "message": 5}, {"error": "ArtModelsError", "message": "a"},
])  # fmt: skip
def test_answers_are_not_believed(change):
    def answer(header, body=bytes(18)):
        data = json.dumps(header).encode()
        return io.BytesIO(struct.pack(">I", len(data)) + data + body)

    assert decoding_process._answer(answer(GOOD), 100).pixels.shape == (2, 3, 3)
    with pytest.raises(ValueError):
        decoding_process._answer(answer(GOOD | change), 100)
    with pytest.raises(EOFError):
        decoding_process._answer(answer(GOOD, bytes(17)), 100)
    deep = struct.pack(">I", 60_000) + b"[" * 60_000
    for bad in (b"\xff" * 8, struct.pack(">I", 2) + b"[]", struct.pack(">I", 2) + b"{{", deep):
        with pytest.raises(ValueError):
            decoding_process._answer(io.BytesIO(bad), 100)


def test_errors_that_cross_are_those_of_loading():
    assert {getattr(errors, kind) for kind in decoding_process._KINDS} == {
        ImageError, ImageTooLarge, UndecodableImage, ConfigError
    }  # fmt: skip


# --- nothing left -----------------------------------------------------------------------------------------

PARENT = """
import sys
from artmodels.images.decoding_process import DecodingProcesses
processes = DecodingProcesses(2)
processes.load(sys.argv[1])
(worker,) = processes._live
print(worker.process.pid, "torch" in sys.modules, "gradio" in sys.modules, flush=True)
if len(sys.argv) > 2:
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_the_worker_ends_with_its_parent(killed, tmp_path):
    (tmp_path / "a.png").write_bytes(FILES["plain.png"])
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PARENT, str(tmp_path / "a.png"), *(["wait"] if killed else [])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(images.__file__).parents[2],
    ) as parent:  # fmt: skip
        pid, *imported = parent.stdout.readline().split()
        if killed:
            parent.kill()
        _, said = parent.communicate(timeout=120)
    assert said == ""
    assert imported == ["False", "False"]  # reading files needs neither
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(pid)).wait(120)


def test_the_worker_is_light_and_runs_nothing_of_the_program(tmp_path):
    (tmp_path / "a.png").write_bytes(FILES["plain.png"])
    (tmp_path / "json.py").write_text("raise SystemExit('the module of a stranger')")  # in the folder it starts in
    main = "import sys\nsys.path.pop(0)\nprint('main')\n" + PARENT
    (tmp_path / "app.py").write_text(main)
    root = str(Path(images.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "app.py", str(tmp_path / "a.png")], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": root}, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.count("main\n") == 1
    modules = "{'torch', 'gradio', 'scipy', 'skimage'}"
    code = f"import sys, artmodels.images.decoding_process\nprint({modules} & set(sys.modules))"
    light = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert light.stdout == "set()\n"


# --- the pages ----------------------------------------------------------------------------------------------


def test_pages_read_in_a_process(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(FILES["plain.png"])
    monkeypatch.setattr(images, "load", lambda *_, **__: pytest.fail("decoded in the server"))
    assert np.array_equal(checks.read(str(path)).pixels, photo())
    stand_in(monkeypatch, "\n    while True: pass")
    with DecodingProcesses(1, cpu_seconds=0.2) as processes:
        monkeypatch.setattr(checks, "_processes", processes)
        with pytest.raises(ImageTooLarge, match="^'a.png' takes too long to decode"):
            checks.read(str(path))
        assert "takes too long" in checks.picture("a picture")(str(path), {})
