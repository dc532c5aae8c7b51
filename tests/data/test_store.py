import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from artmodels.data import store as module
from artmodels.data.store import Store, StoreKind
from artmodels.errors import ArtModelsError, ConfigError, DatasetError

ROOT = Path(__file__).parents[2]
KIND = StoreKind(name="toy store", content="numbers", verb="add")
ARRAYS = {"small": ("float16", 3), "large": ("float32", 5)}


def parts(number: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(number)
    return {"small": draw.random((1 + number % 3, 3)).astype("f2"), "large": draw.random((number % 4, 5)).astype("f4")}


def sha(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def begun(folder: Path) -> Store:
    return Store.create(folder, KIND, ARRAYS, {"made by": "hand"})


def fill(store: Store, numbers: Iterator[int]) -> None:
    with store.writing() as writer:
        for number in numbers:
            writer.add(f"{number}.png", sha(number), path=f"/{number}.png", parts=parts(number), about={"is": number})


def right(store: Store, numbers: Iterator[int]) -> bool:
    """Whether a store holds these images, in this order, and nothing else."""
    store.verify(numbers=True)
    return [image.details["is"] for image in store.images] == [*numbers] and all(
        np.array_equal(store.map(array, *image.span(array)), part)
        for image in store.images
        for array, part in parts(image.details["is"]).items()
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = begun(tmp_path / "store")
    fill(made, range(6))
    with made.writing() as writer:
        writer.skip("bad.png", "it is no picture")
    return made


def test_what_goes_in_comes_out(store: Store) -> None:
    again = Store(store.folder, KIND)
    for each in (store, again):
        assert right(each, range(6)) and each.checked and each.about["made by"] == "hand"
        assert each.held == {f"{n}.png": n for n in range(6)} and each.skipped == {"bad.png": "it is no picture"}
        assert each.image("3.png").number == 3 and each.files["3.png"].path == "/3.png"
    assert again.images == store.images and again.files == store.files
    assert {path.name for path in store.folder.iterdir()} >= {"store.db", "small.0000.f16", "large.0000.f32"}
    assert store.map("large", 1, 2).shape == (2, 5) and store.map("large", 0, 0).shape == (0, 5)
    whole = store.map("small")
    whole[:] = 7
    assert right(Store(store.folder, KIND), range(6)), "what is written to a map does not reach the file"
    with pytest.raises(DatasetError, match="has no numbers of bad.png, which was skipped: it is no picture"):
        store.image("bad.png")
    with pytest.raises(DatasetError, match="has no numbers of new.png, which is not in it: add the folder that has it"):
        store.image("new.png")


def test_files_keep_their_places(store: Store) -> None:
    with store.writing() as writer:
        writer.skip("1.png", "gone bad")
        writer.add("bad.png", sha(2))
        writer.add("2.png", sha(0))
        writer.remove(["4.png"])
        writer.add("4.png", sha(4))
    for each in (store, Store(store.folder, KIND)):
        assert [*each.files] == ["0.png", "1.png", "2.png", "3.png", "5.png", "bad.png", "4.png"]
        assert each.held == {"0.png": 0, "2.png": 0, "3.png": 3, "5.png": 5, "bad.png": 2, "4.png": 4}
        assert each.skipped == {"1.png": "gone bad"}


def test_compaction_keeps_what_is_named(store: Store) -> None:
    reader = Store(store.folder, KIND)
    with store.writing() as writer:
        writer.remove(["0.png", "3.png"])
        writer.compact([store.images[number] for number in (1, 2, 4, 5)], more=1)
    for each in (store, Store(store.folder, KIND)):
        assert right(each, (1, 2, 4, 5)) and each.about["more"] == 1 and each.image("4.png").number == 2
    assert {path.name for path in store.folder.iterdir() if "0000" in path.name} == set()
    with pytest.raises(DatasetError, match="compacted meanwhile, open it again"):
        reader.map("small")
    fill(reader, [9])
    assert right(reader, (1, 2, 4, 5, 9))


KILLED = textwrap.dedent(
    """
    import os, shutil, signal, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_store import KIND, Store, begun, fill, right

    def killed(job, line):
        # Whether the job was killed at that line of the writer, counted as they are run.
        child = os.fork()
        if child:
            return os.waitpid(child, 0)[1] == signal.SIGKILL
        left = [line]
        def trace(frame, event, argument):
            if not frame.f_code.co_qualname.startswith("StoreWriter"):
                return None
            left[0] -= event == "line"
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
        sys.settrace(trace)
        job()
        os._exit(0)

    def add():
        fill(Store(folder, KIND), (2, 3))

    def compact():
        store = Store(folder, KIND)
        with store.writing() as writer:
            writer.compact(store.images[1:])

    os.fsync = lambda descriptor: None  # a process that dies takes nothing along that the system has
    whole, folder = Path(sys.argv[2]), Path(sys.argv[3])
    begun(whole)
    fill(Store(whole, KIND), (0, 1))
    for job, states in ((add, [(0, 1), (0, 1, 2), (0, 1, 2, 3)]), (compact, [(0, 1), (1,)])):
        line, seen = 1, set()
        while True:
            shutil.copytree(whole, folder)
            ended = not killed(job, line)
            (state,) = [state for state in states if right(Store(folder, KIND), state)]
            fill(Store(folder, KIND), (3, 4))
            rest = [number for number in (3, 4) if number not in state]
            assert right(Store(folder, KIND), (*state, *rest)), line
            assert len([*folder.glob("*.f*")]) == 2, line
            seen.add(state)
            shutil.rmtree(folder)
            if ended:
                break
            line += 1
        print(job.__name__, line, seen == set(states))
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that split")
def test_killed_at_any_line_it_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "whole"), str(tmp_path / "one")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    (add, lines, seen), (compact, others, both) = map(str.split, done.stdout.splitlines())
    assert (add, compact, seen, both) == ("add", "compact", "True", "True") and int(lines) > 100 and int(others) > 100


def test_a_flipped_byte_in_the_database_is_noticed(store: Store) -> None:
    file = store.folder / "store.db"
    data = file.read_bytes()
    noticed = 0
    for position in range(0, len(data), 7):
        spoiled = bytearray(data)
        spoiled[position] ^= 0x15
        file.write_bytes(spoiled)
        try:
            found = Store(store.folder, KIND)
        except DatasetError as error:
            noticed += 1
            assert any(way in str(error) for way in ("remove that folder", "Check the path", "cannot be read"))
        else:  # where nothing is written
            assert (found.about, found.images, found.files) == (store.about, store.images, store.files)
        for extra in store.folder.glob("store.db-*"):
            extra.unlink()
    assert noticed > 100


def test_many_read_while_one_writes(store: Store) -> None:
    over, errors, seen = threading.Event(), list[BaseException](), set[int]()

    def read() -> None:
        try:
            while not over.is_set():
                found = Store(store.folder, KIND)
                assert right(found, range(len(found.images)))
                seen.add(len(found.images))
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for each in readers:
        each.start()
    try:
        for number in range(6, 40):  # each ends with the log of writes gone into the database
            fill(store, [number])
    finally:
        over.set()
        for each in readers:
            each.join()
    assert not errors and len(seen) > 1 and right(Store(store.folder, KIND), range(40))


def test_the_log_of_a_writer_may_go_at_any_moment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path, **more: path.name.endswith("-wal") or there(path, **more))
    assert right(Store(store.folder, KIND), range(6))


def test_another_thread_goes_on_with_the_writing(store: Store) -> None:
    writing = store.writing()
    writers = list[object]()
    for step in (
        lambda: writers.append(writing.__enter__()),
        lambda: writers[0].add("6.png", sha(6), parts=parts(6), about={"is": 6}),
        lambda: writing.__exit__(None, None, None),
    ):
        thread = threading.Thread(target=step)
        thread.start()
        thread.join()
    assert right(Store(store.folder, KIND), range(7))


def test_one_writes_at_a_time(store: Store) -> None:
    with store.writing(), pytest.raises(ConfigError, match="Another process is writing to the toy store .*: wait"):
        fill(Store(store.folder, KIND), [9])


def test_a_full_database_keeps_what_is_complete(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = module._connect

    def small(path: Path, options: str) -> sqlite3.Connection:
        database = connect(path, options)
        database.execute("PRAGMA max_page_count=5")
        return database

    monkeypatch.setattr(module, "_connect", small)
    with pytest.raises(ArtModelsError, match="cannot be written to: database or disk is full. Its [0-9]+ images are"):
        fill(store, range(6, 200))
    monkeypatch.undo()
    kept = len(store.images)
    assert 6 < kept < 200 and right(Store(store.folder, KIND), range(kept))
    assert (store.folder / "small.0000.f16").stat().st_size == 6 * store.rows("small")
    fill(store, range(6, 200))
    assert right(Store(store.folder, KIND), range(200))


def test_nothing_is_made_in_a_folder_that_may_not_be_written_to(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(path.name for path in store.folder.iterdir())
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert right(Store(store.folder, KIND), range(6))
    assert sorted(path.name for path in store.folder.iterdir()) == before


def test_a_file_system_without_shared_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Database:
        def execute(self, statement: str) -> list[tuple[str]]:
            return [("delete",)]

        def close(self) -> None:
            pass

    monkeypatch.setattr(module, "_connect", lambda path, options: Database())
    with pytest.raises(ConfigError, match="cannot be in .*: SQLite needs a file system with locks and shared memory"):
        begun(tmp_path / "store")


def test_what_is_no_store_of_this_kind_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is no map that this version reads: it is a toy store of format 2"):
        Store(store.folder, StoreKind(name="map", content="maps", verb="draw"))
    with pytest.raises(DatasetError, match="is no toy store: it has no store.db"):
        Store(tmp_path / "nowhere", KIND)
    with contextlib.closing(sqlite3.connect(store.folder / "store.db", isolation_level=None)) as database:
        database.execute("""UPDATE store SET about = replace(about, '"format": 2', '"format": 9')""")
    with pytest.raises(DatasetError, match="it is a toy store of format 9"):
        Store(store.folder, KIND)
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "store.json").write_text("{}")
    assert Store.exists(tmp_path / "earlier") and not Store.exists(tmp_path / "nowhere")
    with pytest.raises(
        DatasetError, match="is of an earlier version, and this one does not read it; remove that folder"
    ):
        Store(tmp_path / "earlier", KIND)
    shutil.rmtree(store.folder)
