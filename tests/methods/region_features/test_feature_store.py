import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.region_features import FeatureStore, Regions
from artmodels.methods.region_features import store as feature_store

ROOT = Path(__file__).parents[3]
ARRAYS = ("features.0000.f16", "regions.0000.f32")


class Toy:
    """Regions that follow from the pixels: as many as the first red value says, and seven numbers each."""

    features = 7

    def __init__(self, fingerprint: str = "toy", fail: bool = False, batch: int = 1) -> None:
        self.fingerprint, self.fail, self.batch = fingerprint, fail, batch
        self.seen, self.together = list[int](), list[int]()

    def __call__(self, images: list[LoadedImage]) -> list[Regions]:
        self.together.append(len(images))
        return [self.one(image) for image in images]

    def one(self, image: LoadedImage) -> Regions:
        red = int(image.pixels[0, 0, 0])
        self.seen.append(red)
        draw = torch.Generator().manual_seed(red)
        count = 1 + red % 5
        corners = torch.rand(count, 2, generator=draw)
        features = torch.randn(count, 7, generator=draw) * (1e6 if self.fail else 1)
        objectness = torch.rand(count, generator=draw).sort(descending=True).values
        return Regions(
            torch.cat([corners, corners + 1], 1), objectness, features, image.width, image.height, image.notes
        )


def picture(path: Path, red: int, size: tuple[int, int] = (9, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 0, 0)).save(path)
    return path


def content(store: Path) -> list[object]:
    """All that is kept."""
    with contextlib.closing(sqlite3.connect(store / "store.db")) as database:
        return [*database.iterdump(), *((store / name).read_bytes() for name in ARRAYS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for red in range(6):
        picture(tmp_path / "images" / "sub" / f"{red}.png", red)
    return tmp_path / "images"


def same(store: FeatureStore, name: str, red: int) -> bool:
    """Whether what is stored for a file is what the toy gives, to float16."""
    found, wanted = store.regions(name), Toy().one(LoadedImage(np.full((5, 9, 3), red, np.uint8)))
    return (
        torch.equal(found.boxes, wanted.boxes)
        and torch.equal(found.objectness, wanted.objectness)
        and torch.equal(found.features, wanted.features.half().float())
        and (found.width, found.height) == (9, 5)
    )


def test_what_goes_in_comes_out(folder: Path, tmp_path: Path) -> None:
    *steps, store = FeatureStore.stream_extract(folder, Toy(), tmp_path / "store")
    assert store.files == tuple(f"sub/{red}.png" for red in range(6)) and len(store) == 6
    assert all(same(FeatureStore.open(tmp_path / "store"), f"sub/{red}.png", red) for red in range(6))
    assert [(each.done, each.total, each.skipped) for each in steps] == [(n, 6, 0) for n in range(1, 7)]
    assert steps[2].what == "sub/2.png"
    assert torch.equal(store.regions(-1).boxes, store.regions("sub/5.png").boxes)
    with pytest.raises(IndexError):
        store.regions(6)


def test_images_that_are_computed_together_are_stored_as_if_one_by_one(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "sub" / "1.png", folder / "sub" / "2 again.png")  # in one group with its original
    (folder / "sub" / "0.jpg").write_bytes(b"no picture")
    toy = Toy(batch=4)
    *steps, _ = FeatureStore.stream_extract(folder, toy, tmp_path / "four")
    FeatureStore.extract(folder, Toy(), tmp_path / "one")
    assert content(tmp_path / "four") == content(tmp_path / "one")
    assert sorted(toy.seen) == [0, 1, 2, 3, 4, 5] and toy.together == [3, 3]
    assert [each.done for each in steps] == list(range(1, 9)) and steps[-1].skipped == 1
    again = Toy(batch=4)
    FeatureStore.extract(folder, again, tmp_path / "four")
    assert again.together == []


def test_large_images_are_not_held_in_numbers(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "PIXELS", 2 * 45)
    toy = Toy(batch=4)
    FeatureStore.extract(folder, toy, tmp_path / "store")
    assert toy.together == [2, 2, 2]


def test_bags_are_views_of_the_file(folder: Path, tmp_path: Path) -> None:
    store = FeatureStore.extract(folder, Toy(), tmp_path / "store")
    bags = store.bags()
    assert bags.sizes.tolist() == [1, 2, 3, 4, 5, 1] and bags.instances.dtype == torch.float16
    raw = np.fromfile(tmp_path / "store" / ARRAYS[0], np.float16).reshape(-1, 7)
    assert np.array_equal(bags.instances.numpy(), raw)
    table = np.fromfile(tmp_path / "store" / ARRAYS[1], np.float32).reshape(-1, 5)
    assert np.array_equal(bags.objectness.numpy(), table[:, 4])
    # The very file: what changes there shows, and what is written here does not reach it.
    with (tmp_path / "store" / ARRAYS[0]).open("r+b") as file:
        file.write(np.float16(42).tobytes())
    assert float(bags.instances[0, 0]) == 42
    bags.instances[1, 1] = 13
    assert np.fromfile(tmp_path / "store" / ARRAYS[0], np.float16)[8] != 13

    numbers = store.index_of(["sub/4.png", "sub/1.png"])
    assert numbers.tolist() == [4, 1] and bags[numbers].sizes.tolist() == [5, 2]
    with pytest.raises(DatasetError, match=r"no regions of 4\.png, which is not in it"):
        store.index_of(["4.png"])


def test_the_same_content_is_computed_once(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "sub" / "1.png", folder / "again.png")
    shutil.copy(folder / "sub" / "1.png", folder / "sub" / "renamed.png")
    toy = Toy()
    store = FeatureStore.extract(folder, toy, tmp_path / "store")
    assert sorted(toy.seen) == [0, 1, 2, 3, 4, 5] and len(store) == 6 and len(store.files) == 8
    assert len(set(store.index_of(["again.png", "sub/1.png", "sub/renamed.png"]).tolist())) == 1
    # A file whose content changes is another image; one that is renamed is not.
    picture(folder / "again.png", 40)
    (folder / "sub" / "0.png").rename(folder / "sub" / "zero.png")
    store = FeatureStore.extract(folder, toy, tmp_path / "store")
    assert toy.seen[6:] == [40] and same(store, "sub/zero.png", 0) and same(store, "again.png", 40)


def test_a_second_run_computes_nothing_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    FeatureStore.extract(folder, Toy(), tmp_path / "store")
    before = {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()}
    assert set(before) == {"store.db", "lock", *ARRAYS}
    toy = Toy()
    FeatureStore.extract(folder, toy, tmp_path / "store")
    assert toy.seen == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "store").iterdir()} == before


def test_files_that_cannot_be_read_are_named_and_tried_again(folder: Path, tmp_path: Path) -> None:
    (folder / "sub" / "2.png").write_bytes(b"no picture")
    files = [folder / "sub" / "1.png", folder / "sub" / "2.png", folder / "gone.png"]
    *_, last, store = FeatureStore.stream_extract(files, Toy(), tmp_path / "store")
    assert set(store.skipped) == {files[1].as_posix(), files[2].as_posix()} and last.skipped == 2
    assert "there is no file" in store.skipped[files[2].as_posix()] and len(store) == 1
    assert FeatureStore.open(tmp_path / "store").skipped == store.skipped
    with pytest.raises(DatasetError, match=r"2\.png, which was skipped: "):
        store.index_of([files[1]])
    picture(files[1], 2)
    store = FeatureStore.extract(files, Toy(), tmp_path / "store")
    assert set(store.skipped) == {files[2].as_posix()} and same(store, files[1].as_posix(), 2)


def test_nothing_to_extract_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no image"):
        FeatureStore.extract(tmp_path / "empty", Toy(), tmp_path / "store")
    with pytest.raises(DatasetError, match="There are no files"):
        FeatureStore.extract([], Toy(), tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(DatasetError, match="is no store of features"):
        FeatureStore.open(tmp_path / "store")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    store = FeatureStore.extract([tmp_path / "bad.png"], Toy(), tmp_path / "store")
    with pytest.raises(DatasetError, match="holds no image: extract a folder into it first"):
        store.bags()


CHILD = textwrap.dedent(
    """
    import sys, time
    sys.path.insert(0, sys.argv[1])
    from test_feature_store import FeatureStore, Toy

    for step in FeatureStore.stream_extract(sys.argv[2], Toy(), sys.argv[3]):
        print(step.done, flush=True)
        if step.done == int(sys.argv[4]):
            time.sleep(60)
    """
)


@contextlib.contextmanager
def child(folder: Path, store: Path, pause_at: int) -> Iterator[None]:
    """A process that extracts, and pauses after some files; it is killed when the block ends."""
    arguments = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), str(store), str(pause_at)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            while (line := process.stdout.readline()).strip() != str(pause_at):
                assert line, "the child ended early"
            yield
        finally:
            process.kill()


def test_two_processes_take_turns_and_a_killed_one_is_taken_up(folder: Path, tmp_path: Path) -> None:
    with child(folder, tmp_path / "store", 3):
        with pytest.raises(ConfigError, match="Another process is writing to the store of .*: wait until it has ended"):
            FeatureStore.extract(folder, Toy(), tmp_path / "store")
        # Readers see what is complete.
        assert len(FeatureStore.open(tmp_path / "store")) == 3
    # As if it had died inside a write: numbers without a row, and a commit without its end.
    for name in (*ARRAYS, "store.db-wal"):
        with (tmp_path / "store" / name).open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"torn")
    assert len(FeatureStore.open(tmp_path / "store")) == 3
    toy = Toy()
    store = FeatureStore.extract(folder, toy, tmp_path / "store")
    assert toy.seen == [3, 4, 5] and all(same(store, f"sub/{red}.png", red) for red in range(6))
    whole = FeatureStore.extract(folder, Toy(), tmp_path / "whole")
    assert content(tmp_path / "store") == content(whole.folder)


def test_an_exception_inside_leaves_a_valid_store(folder: Path, tmp_path: Path) -> None:
    class Stopped(Toy):
        def one(self, image: LoadedImage) -> Regions:
            if len(self.seen) == 2:
                raise KeyboardInterrupt
            return super().one(image)

    with pytest.raises(KeyboardInterrupt):
        FeatureStore.extract(folder, Stopped(), tmp_path / "store")
    assert len(FeatureStore.open(tmp_path / "store")) == 2
    toy = Toy()
    FeatureStore.extract(folder, toy, tmp_path / "store")  # and the lock was given back
    assert toy.seen == [2, 3, 4, 5]


def test_who_stops_taking_steps_ends_it_and_what_was_given_is_kept(folder: Path, tmp_path: Path) -> None:
    for step in FeatureStore.stream_extract(folder, Toy(), tmp_path / "store"):
        if step.done == 2:
            break
    assert len(FeatureStore.open(tmp_path / "store")) == 2
    toy = Toy()
    FeatureStore.extract(folder, toy, tmp_path / "store")
    assert toy.seen == [2, 3, 4, 5]


class Wide(Toy):
    """Whose numbers are longer than what SQLite writes."""

    features = 28_000

    def one(self, image: LoadedImage) -> Regions:
        found = super().one(image)
        return replace(found, features=found.features.repeat(1, 4000))


@pytest.mark.parametrize(
    ("extractor", "room"), [(Wide, 1), (Wide, 1000), (Wide, 200_000), (Toy, 1), (Toy, 20_000), (Toy, 60_000)]
)
def test_a_full_disk_leaves_a_valid_store(folder: Path, tmp_path: Path, extractor: type[Toy], room: int) -> None:
    resource = pytest.importorskip("resource")
    store = tmp_path / "store"
    FeatureStore.extract([folder / "sub" / "0.png"], extractor(), store)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses bytes beyond this, in the middle of a write: of the features, or of SQLite.
    resource.setrlimit(resource.RLIMIT_FSIZE, ((store / ARRAYS[0]).stat().st_size + room, usual[1]))
    reason = "File too large" if extractor is Wide else "disk I/O error"
    try:
        with pytest.raises(ArtModelsError, match=f"cannot be written to: {reason}.* images are complete: free"):
            FeatureStore.extract(folder, extractor(), store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    kept = FeatureStore.open(store)
    assert 1 <= len(kept) < 6
    assert (store / ARRAYS[0]).stat().st_size == 2 * extractor.features * int(kept.bags().sizes.sum())
    toy = extractor()
    done = FeatureStore.extract(folder, toy, store)
    assert len(toy.seen) == 6 - len(kept) and len(FeatureStore.open(store)) == 6
    assert extractor is Wide or all(same(done, f"sub/{red}.png", red) for red in range(6))


def spoil(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


def test_damage_is_refused_and_the_way_out_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = tmp_path / "store"
    FeatureStore.extract(folder, Toy(), store)
    whole = tmp_path / "whole"
    shutil.copytree(store, whole)

    def afresh() -> None:
        shutil.rmtree(store)
        shutil.copytree(whole, store)

    spoil(store / ARRAYS[0], 20)
    with pytest.raises(DatasetError, match=r"image 1 \(sub/1.png\) .* damaged; remove that folder"):
        FeatureStore.open(store)
    caplog.clear()
    unseen = FeatureStore.open(store, verify=False)
    assert len(unseen) == 6 and not unseen.verified and repr(unseen).endswith(", not compared with their checksums>")
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [("WARNING", repr(unseen))]
    afresh()
    spoil(store / ARRAYS[1], 30)
    with pytest.raises(DatasetError, match="are not those that were written"):
        FeatureStore.open(store)
    afresh()
    spoil(store / "store.db", (store / "store.db").read_bytes().rindex(b"sub/1.png"))
    for call in (lambda: FeatureStore.open(store), lambda: FeatureStore.extract(folder, Toy(), store)):
        with pytest.raises(DatasetError, match=r"store.db is damaged: its rows are not those .*; remove that folder"):
            call()
    afresh()
    os.truncate(store / ARRAYS[0], 50)
    for call in (lambda: FeatureStore.open(store), lambda: FeatureStore.extract(folder, Toy(), store)):
        with pytest.raises(DatasetError, match="has 50 bytes, and .* are in store.db"):
            call()
    afresh()
    (store / ARRAYS[1]).unlink()
    with pytest.raises(DatasetError, match=r"regions.0000.f32 is damaged: it has 0 bytes, and 320 are in store.db"):
        FeatureStore.open(store)
    (store / "store.db").write_text("{" * 1000)
    with pytest.raises(DatasetError, match=r"store.db is damaged \(file is not a database\); remove that folder"):
        FeatureStore.open(store)


def test_the_last_image_is_redone_if_its_numbers_did_not_reach_the_disk(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    FeatureStore.extract(folder, Toy(), store)
    for spoiled in (lambda: spoil(store / ARRAYS[0], -3), lambda: os.truncate(store / ARRAYS[0], 14 * 15)):
        spoiled()
        toy = Toy()
        again = FeatureStore.extract(folder, toy, store)
        assert toy.seen == [5] and same(again, "sub/5.png", 5) and len(again) == 6
        assert len(FeatureStore.open(store)) == 6


def test_another_extractor_is_refused(folder: Path, tmp_path: Path) -> None:
    FeatureStore.extract(folder, Toy(), tmp_path / "store")
    with pytest.raises(ConfigError, match=r"made by other weights or settings \(toy, 7 numbers.*these are other and 7"):
        FeatureStore.extract(folder, Toy("other"), tmp_path / "store")
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "thesis.doc").write_text("precious")
    with pytest.raises(ConfigError, match=r"holds thesis.doc: name a new or empty folder"):
        FeatureStore.extract(folder, Toy(), tmp_path / "occupied")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "store.json").write_text("{}")
    with pytest.raises(DatasetError, match="of an earlier version, .*, and extract the images again"):
        FeatureStore.extract(folder, Toy(), tmp_path / "old")
    with pytest.raises(ConfigError, match="The store of features cannot be in .*thesis.doc: File exists"):
        FeatureStore.extract(folder, Toy(), tmp_path / "occupied" / "thesis.doc")


def test_a_beginning_cut_short_is_begun_again(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for name in ("store.db.tmp", "store.db.tmp-wal", "lock"):
        (tmp_path / "store" / name).touch()
    assert len(FeatureStore.extract(folder, Toy(), tmp_path / "store")) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="needs sparse files and the memory's size")
def test_a_store_larger_than_the_memory_is_opened(folder: Path, tmp_path: Path) -> None:
    store = FeatureStore.extract(folder, Toy(), tmp_path / "store")
    total = 4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rows = total // (2 * store.features)
    try:
        os.truncate(tmp_path / "store" / ARRAYS[0], 2 * store.features * rows)
    except OSError:
        pytest.skip("this file system holds no file of that size")
    mapped = store._store.map("features", 0, rows)
    assert mapped.shape == (rows, 7) and float(mapped[-1, -1]) == 0


def test_numbers_that_float16_cannot_hold_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"sub/0.png are not finite, or above float16's 65504"):
        FeatureStore.extract(folder, Toy(fail=True), tmp_path / "store")
    assert len(FeatureStore.open(tmp_path / "store")) == 0

    class Wrong(Toy):
        features = 8

    with pytest.raises(DatasetError, match=r"gave \(1, 7\) numbers for sub/0.png, and \[K, 8\] were promised"):
        FeatureStore.extract(folder, Wrong(), tmp_path / "wrong")


def test_notes_of_loading_are_kept(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 5), (3, 0, 0, 128)).save(tmp_path / "glass.png")
    store = FeatureStore.extract([tmp_path / "glass.png"], Toy(), tmp_path / "store")
    (note,) = FeatureStore.open(tmp_path / "store").regions(0).notes
    assert "ackground" in note or "alpha" in note.lower() or "ransparen" in note
    assert store.regions(0).notes == (note,)


def test_bags_stay_as_they_were_while_the_store_grows(folder: Path, tmp_path: Path) -> None:
    FeatureStore.extract([folder / "sub" / "1.png"], Toy(), tmp_path / "store")
    bags = FeatureStore.open(tmp_path / "store").bags()
    before = bags.instances.clone()
    FeatureStore.extract(folder, Toy(), tmp_path / "store")
    assert torch.equal(bags.instances, before) and len(FeatureStore.open(tmp_path / "store").bags()) == 6


def test_what_is_no_ordinary_file_is_skipped(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    store = FeatureStore.extract([tmp_path / "pipe.png", folder], Toy(), tmp_path / "store")
    reasons = list(store.skipped.values())
    assert "not an ordinary file" in reasons[0] and "is a folder" in reasons[1] and len(store) == 0
