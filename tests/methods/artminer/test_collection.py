import contextlib
import dataclasses
import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from artmodels.correspondence.cells import Pyramid, grid, saliency
from artmodels.data.store import Store
from artmodels.errors import ArtModelsError, ConfigError, DatasetError, ImageError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.artminer.collection.collection import Collection
from artmodels.methods.artminer.collection.regions import RegionConfig, describe_regions
from artmodels.methods.artminer.collection.shortlist import candidates, index_regions, region_index
from artmodels.search.index import ExactIndex, FaissConfig, FaissIndex, WhitenedIndex, Whitening

ROOT = Path(__file__).parents[3]
ARRAYS = ("maps.0000.f16", "regions.0000.f16", "windows.0000.f32")
REGIONS = RegionConfig(scales=(12, 8), sizes=(3, 5), most=60)
TURNS = {"": 0, "90": 1, "180": 2, "270": 3}


class Toy:
    """Numbers of a cell that follow from the 16 pixels there; counts what it described."""

    dims = 12

    def __init__(
        self, *, fingerprint: str = "toy", views: tuple[str, ...] = ("", "mirror"), scales=(40, 12, 8)
    ) -> None:
        self.fingerprint, self.views, self.scales, self.seen = fingerprint, views, scales, 0
        self.weights = torch.randn(48, 12, generator=torch.Generator().manual_seed(0))

    def pyramids(self, loaded: LoadedImage) -> dict[str, Pyramid]:
        self.seen += 1
        if loaded.width == 7:
            raise ImageError("the picture is 7 pixels wide: give another")
        found = {}
        for view in self.views:
            image = loaded.tensor()
            image = image.flip(-1) if view == "mirror" else torch.rot90(image, TURNS[view], (-2, -1))
            found[view] = self.pyramid(image)
        return found

    def pyramid(self, image: Tensor) -> Pyramid:
        height, width = image.shape[-2:]
        maps = []
        for scale in self.scales:
            rows, columns = grid(height, width, scale)
            pixels = F.interpolate(image, (4 * rows, 4 * columns), mode="bilinear", antialias=True)
            cells = F.unfold(pixels, 4, stride=4)[0].T - 0.5
            maps.append(F.normalize(cells @ self.weights, dim=1).T.reshape(12, rows, columns))
        return Pyramid(tuple(maps), width, height)


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(5):
        picture(tmp_path / "images" / "sub" / f"{seed}.png", seed)
    return tmp_path / "images"


def made(folder: Path, store: Path, toy: Toy | None = None) -> Collection:
    toy = toy or Toy()
    collection = Collection.create(store, toy, regions=REGIONS)
    collection.add(folder, toy)
    return collection


def content(store: Path) -> dict[str, object]:
    """All that is kept."""
    with contextlib.closing(sqlite3.connect(store / "store.db")) as database:
        rows = [*database.iterdump()]
    return {"rows": rows} | {path.name: path.read_bytes() for path in store.iterdir() if "store.db" not in path.name}


def right(collection: Collection, name: str, path: Path) -> bool:
    """Whether everything that is kept of an image is what the toy gives, to float16."""
    with Image.open(path) as image:
        wanted = Toy(views=collection.layout.views).pyramids(LoadedImage(np.array(image)))
    regions = [describe_regions(pyramid, REGIONS, view=number) for number, pyramid in enumerate(wanted.values())]
    found = collection.regions(name)
    return (
        all(
            len(pyramid.maps) == len(collection.pyramid(name, view).maps)
            and all(
                torch.equal(a, b.half()) for a, b in zip(collection.pyramid(name, view).maps, pyramid.maps, strict=True)
            )
            and (collection.pyramid(name, view).width, collection.pyramid(name, view).height)
            == (pyramid.width, pyramid.height)
            for view, pyramid in wanted.items()
        )
        and torch.equal(found.descriptors, torch.cat([each.descriptors for each in regions]).half())
        and torch.equal(found.table, torch.cat([each.table for each in regions]))
    )


# --- The store


def test_what_goes_in_comes_out(folder: Path, tmp_path: Path) -> None:
    toy = Toy(views=("", "mirror", "90", "180", "270"))
    picture(folder / "tall.png", 9, (16, 41))
    collection = Collection.create(tmp_path / "store", toy, regions=REGIONS)
    assert len(collection) == 0 and collection.names == ()
    *steps, result = collection.stream_add(folder, toy)
    assert result is collection
    for each in (collection, Collection.open(tmp_path / "store", verify=True)):
        assert each.names == (*(f"sub/{n}.png" for n in range(5)), "tall.png") and len(each) == 6
        assert all(right(each, name, folder / name) for name in each.names)
        assert each.size("tall.png") == (16, 41) and each.path("tall.png") == (folder / "tall.png").resolve()
    assert collection.pyramid("tall.png").at(12).dtype == torch.float16
    assert collection.pyramid("tall.png", "90").at(12).shape == (12, 5, 12)
    assert torch.equal(collection.reference("tall.png"), collection.pyramid("tall.png").at(40))
    assert [(each.done, each.total, each.skipped) for each in steps] == [(n, 6, 0) for n in range(1, 7)]
    assert [each.what for each in steps] == [*collection.names]
    with pytest.raises(ConfigError, match="no view 'up': it has '', 'mirror', '90'"):
        collection.pyramid("tall.png", "up")
    with pytest.raises(DatasetError, match=r"no features of tall, which is not in it: add the folder"):
        collection.size("tall")


def test_a_second_call_computes_and_changes_nothing(folder: Path, tmp_path: Path) -> None:
    collection = made(folder, tmp_path / "store")
    before, toy = content(tmp_path / "store"), Toy()
    collection.add(folder, toy)
    Collection.open(tmp_path / "store").add(folder, toy)
    assert toy.seen == 0 and content(tmp_path / "store") == before


def test_same_bytes_twice(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "sub" / "1.png", folder / "again.png")
    toy = Toy()
    collection = made(folder, tmp_path / "store", toy)
    assert toy.seen == 5 and len(collection) == 5 and len(collection.files) == 6
    assert collection.names[0] == "again.png" and "sub/1.png" not in collection.names
    assert collection.duplicates() == [("again.png", "sub/1.png")]
    assert torch.equal(collection.reference("sub/1.png"), collection.reference("again.png"))
    with pytest.raises(ConfigError, match=r"sub/1.png has the bytes of an earlier file"):
        candidates(collection, names=["sub/1.png"])


def test_unreadable_files_are_reported_and_skipped(folder: Path, tmp_path: Path) -> None:
    (folder / "sub" / "2.png").write_bytes(b"no picture")
    picture(folder / "narrow.png", 3, (7, 9))  # which the describer refuses
    collection = made(folder, tmp_path / "store")
    assert set(collection.skipped) == {"narrow.png", "sub/2.png"} and len(collection) == 4
    assert collection.skipped["narrow.png"] == "the picture is 7 pixels wide: give another"
    with pytest.raises(DatasetError, match=r"2\.png, which was skipped: "):
        collection.pyramid("sub/2.png")
    picture(folder / "sub" / "2.png", 2)
    collection.add(folder, Toy())
    assert set(Collection.open(tmp_path / "store").skipped) == {"narrow.png"} and len(collection) == 5


def test_blank_tiny_and_only_images(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40), (90, 120, 30)).save(tmp_path / "blank.png")
    picture(tmp_path / "small.png", 0, (10, 10))
    picture(tmp_path / "line.png", 1, (200, 1))
    one = made([tmp_path / "small.png"], tmp_path / "one")
    assert len(one) == 1 and len(candidates(one)) == 0
    index = ExactIndex(12)
    index_regions(one, index)
    assert len(candidates(one, index, exhaustive=0)) == 0
    collection = made(tmp_path, tmp_path / "store")
    assert collection.names == ("blank.png", "line.png", "small.png")
    assert len(collection.regions("blank.png").table) == 0 and len(collection.regions("line.png").table) > 0
    assert collection.pyramid("line.png").at(12).shape == (12, 1, 12)
    index = ExactIndex(12)
    index_regions(collection, index)
    assert all("blank.png" not in pair for pair in candidates(collection, index, exhaustive=0))
    empty = made([tmp_path / "blank.png"], tmp_path / "empty")
    index = ExactIndex(12)
    index_regions(empty, index)
    assert len(index) == 0 and len(candidates(empty, index, exhaustive=0)) == 0


def test_other_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    collection = made(folder, tmp_path / "store")
    for other in (Toy(fingerprint="other"), Toy(views=("",)), Toy(scales=(12, 8))):
        with pytest.raises(ConfigError, match="made by other weights or settings .*: create another in another folder"):
            collection.add(folder, other)
    with pytest.raises(ConfigError, match="holds maps.0000.f16: name a new or empty folder"):
        Collection.create(tmp_path / "store", Toy(), regions=REGIONS)
    with pytest.raises(ConfigError, match="regions are to come from 36 cells and there are 40, 12, 8"):
        Collection.create(tmp_path / "new", Toy(), regions=RegionConfig())
    with pytest.raises(ConfigError, match="views="):
        Collection.create(tmp_path / "new", Toy(views=("mirror",)), regions=REGIONS)
    assert not (tmp_path / "new").exists()
    assert Collection.create(tmp_path / "new", Toy()).layout.regions.scales == (40, 12)  # nearest to 36 and 20


def test_a_describer_that_breaks_its_promise_is_found_out(folder: Path, tmp_path: Path) -> None:
    class Broken(Toy):
        def pyramids(self, loaded: LoadedImage) -> dict[str, Pyramid]:
            return self.change(super().pyramids(loaded))

    cases = {
        r"gave views \[''\] of sub/0.png, not": lambda found: {"": found[""]},
        "scales .* were promised": lambda found: found | {"": Pyramid(found[""].maps[:2], 40, 30)},
        "of 30 x 40 pixels": lambda found: found | {"mirror": Pyramid(found[""].maps, 30, 40)},
        "not finite in float16": lambda found: {
            view: Pyramid(tuple(part * 1e6 for part in each.maps), 40, 30) for view, each in found.items()
        },
    }
    for number, (message, change) in enumerate(cases.items()):
        broken = Broken()
        broken.change = change
        collection = Collection.create(tmp_path / str(number), broken, regions=REGIONS)
        with pytest.raises(DatasetError, match=message):
            collection.add(folder, broken)
        assert len(Collection.open(tmp_path / str(number))) == 0


def test_delete_replace_and_compact(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "sub" / "1.png", folder / "twin.png")
    toy = Toy()
    collection = made(folder, tmp_path / "store", toy)
    index = ExactIndex(12)
    index_regions(collection, index)
    with pytest.raises(DatasetError, match="no features of gone.png"):
        collection.remove(["sub/0.png", "gone.png"])
    assert len(collection) == 5
    collection.remove(["sub/0.png", "sub/1.png"])
    assert collection.names == ("twin.png", "sub/2.png", "sub/3.png", "sub/4.png")
    assert right(collection, "twin.png", folder / "twin.png")
    # What was removed and comes back is not computed again, as long as it is there.
    collection.add([folder / "sub" / "0.png"], toy)
    assert toy.seen == 5 and len(collection) == 5
    collection.remove([folder / "sub" / "0.png"])
    picture(folder / "sub" / "3.png", 33)
    collection.add([*folder.glob("sub/3.png")], toy)
    collection.remove(["sub/3.png"])
    assert toy.seen == 6 and len(collection) == 4
    before = {name: collection.regions(name).descriptors.clone() for name in collection.names}
    wanted, sizes = collection.spans(), content(tmp_path / "store")
    kept = collection.pyramid("twin.png").maps[0].clone()
    reader = Collection.open(tmp_path / "store")
    collection.compact()
    for each in (collection, Collection.open(tmp_path / "store", verify=True)):
        assert each.names == tuple(before) and torch.equal(each.pyramid("twin.png").maps[0], kept)
        assert all(torch.equal(each.regions(name).descriptors, before[name]) for name in before)
        assert np.array_equal(each.spans()[:, [0, 2]], wanted[:, [0, 2]])
    assert sum(map(len, content(tmp_path / "store").values())) < 0.8 * sum(map(len, sizes.values()))
    with pytest.raises(DatasetError, match="compacted meanwhile, open it again"):
        reader.pyramid("twin.png")
    # Numbers of regions are never given twice, not even those of the last image.
    last = (folder / "sub" / "3.png").as_posix()
    assert last in collection.names
    used = int(collection.spans()[-1, 0] + collection.spans()[-1, 2])
    collection.remove([last])
    collection.compact()
    collection.add([folder / "sub" / "0.png"], toy)
    assert toy.seen == 7 and collection.spans()[-1, 0] == used
    index_regions(collection, index)
    everything = ExactIndex(12)
    index_regions(collection, everything)
    assert sorted(index.ids) == sorted(everything.ids) and len(index) == collection.spans()[:, 2].sum()


def test_a_file_that_changes_is_another_image(folder: Path, tmp_path: Path) -> None:
    collection = made(folder, tmp_path / "store")
    picture(folder / "sub" / "2.png", 22)
    (folder / "sub" / "0.png").rename(folder / "zero.png")
    toy = Toy()
    collection.add(folder, toy)
    assert toy.seen == 1 and right(collection, "sub/2.png", folder / "sub" / "2.png")
    assert collection.duplicates() == [("sub/0.png", "zero.png")]  # files that are gone are removed by `remove` only
    other = picture(tmp_path / "others" / "sub" / "2.png", 222)
    with pytest.raises(DatasetError, match=r"sub/2.png is .*images/sub/2.png in the collection, and .* is another"):
        collection.add(other.parent.parent, toy)
    assert right(collection, "sub/2.png", folder / "sub" / "2.png")


CHILD = textwrap.dedent(
    """
    import sys, time
    sys.path.insert(0, sys.argv[1])
    from test_collection import Collection, Toy

    for step in Collection.open(sys.argv[3]).stream_add(sys.argv[2], Toy()):
        print(step.done, flush=True)
        if step.done == 3:
            time.sleep(60)
    """
)


def test_a_killed_build_is_taken_up(folder: Path, tmp_path: Path) -> None:
    store = Collection.create(tmp_path / "store", Toy(), regions=REGIONS).folder
    arguments = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), str(store)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        while (line := process.stdout.readline()).strip() != "3":
            assert line, "the child ended early"
        with pytest.raises(
            ConfigError, match="Another process is writing to the collection .*: wait until it has ended"
        ):
            Collection.open(store).add(folder, Toy())
        assert len(Collection.open(store)) == 3  # readers see what is complete
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    # As if it had died inside a write: numbers without a row, a commit without its end, half a compaction.
    for name in (*ARRAYS, "store.db-wal"):
        with (store / name).open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"torn")
    (store / "maps.0001.f16").write_bytes(b"torn")
    assert len(Collection.open(store)) == 3
    toy, collection = Toy(), Collection.open(store)
    collection.add(folder, toy)
    assert toy.seen == 2
    made(folder, tmp_path / "whole")
    assert content(store) == content(tmp_path / "whole")


def test_who_stops_taking_steps_ends_it_and_what_was_given_is_kept(folder: Path, tmp_path: Path) -> None:
    collection = Collection.create(tmp_path / "store", Toy(), regions=REGIONS)
    for step in collection.stream_add(folder, Toy()):
        if step.done == 2:
            break
    assert len(collection) == len(Collection.open(tmp_path / "store")) == 2
    toy = Toy()
    assert collection.add(folder, toy) is collection and toy.seen == 3  # and the lock was given back


@pytest.mark.parametrize("name", ARRAYS)
def test_the_last_image_is_redone_if_its_numbers_did_not_reach_the_disk(
    folder: Path, tmp_path: Path, name: str
) -> None:
    collection = made(folder, tmp_path / "store")
    before = content(tmp_path / "store")
    for cut in (lambda path: os.truncate(path, path.stat().st_size - 8), spoil):
        cut(tmp_path / "store" / name)
        toy = Toy()
        collection.add(folder, toy)
        assert toy.seen == 1 and content(tmp_path / "store") == before


def spoil(path: Path, position: int = -3) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize("room", [1, 3000, 24000])
def test_a_full_disk_leaves_what_is_complete(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    resource = pytest.importorskip("resource")
    collection = made([folder / "sub" / "0.png"], tmp_path / "store")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "store" / "maps.0000.f16").stat().st_size + room, usual[1]))
    try:
        with pytest.raises(ArtModelsError, match="cannot be written to: File too large.* free some space"):
            collection.add(folder, Toy())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert len(Collection.open(tmp_path / "store", verify=True)) == len(collection) < 5
    collection.add(folder, Toy())
    assert all(right(collection, f"sub/{n}.png", folder / "sub" / f"{n}.png") for n in range(1, 5))


def test_damage_is_refused_and_the_way_out_said(folder: Path, tmp_path: Path) -> None:
    whole, store = tmp_path / "whole", tmp_path / "store"
    made(folder, whole)

    def afresh() -> Path:
        shutil.rmtree(store, ignore_errors=True)
        return Path(shutil.copytree(whole, store))

    spoil(afresh() / "maps.0000.f16", 20)
    with pytest.raises(DatasetError, match=r"are not those that were written: the collection is damaged; remove"):
        Collection.open(store, verify=True)
    spoil(afresh() / "store.db", (store / "store.db").read_bytes().rindex(b"sub/1.png"))
    with pytest.raises(DatasetError, match=r"store.db is damaged: its rows are not those .*; remove that folder"):
        Collection.open(store)
    os.truncate(afresh() / "regions.0000.f16", 50)
    with pytest.raises(DatasetError, match="has 50 bytes, and .* are in store.db"):
        Collection.open(store)
    (afresh() / "store.db").write_text("{" * 1000)
    with pytest.raises(DatasetError, match=r"store.db is damaged \(file is not a database\); remove that folder"):
        Collection.open(store)
    with pytest.raises(DatasetError, match="is no collection: it has no store.db"):
        Collection.open(tmp_path)


@pytest.mark.parametrize("name", ARRAYS)
def test_a_flipped_byte_is_noticed_when_it_is_first_read(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    made(folder, tmp_path / "store")
    spoil(tmp_path / "store" / name, 20)  # of the first image
    with caplog.at_level("INFO", "artmodels"):
        collection = Collection.open(tmp_path / "store")
    said = (
        "whose numbers are compared with their checksums image by image when first read, but not those of descriptors"
    )
    assert said in caplog.text and said in repr(collection) and collection.verified.startswith(said)
    for read in (collection.pyramid, collection.reference, collection.regions):
        with pytest.raises(DatasetError, match=r"are not those that were written: the collection is damaged; remove"):
            read("sub/0.png")
        assert right(collection, "sub/1.png", folder / "sub" / "1.png")
    with pytest.raises(DatasetError, match="the collection is damaged"):
        Collection.open(tmp_path / "store", verify=True)


def test_what_is_not_compared_is_said(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(folder, tmp_path / "store")
    assert (
        Collection.open(tmp_path / "store", verify=True).verified == "whose numbers were compared with their checksums"
    )
    assert caplog.text == ""
    spoil(tmp_path / "store" / "maps.0000.f16", 20)
    collection = Collection.open(tmp_path / "store", verify=False)
    collection.pyramid("sub/0.png")
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "5 images in" in record.getMessage()
    assert record.getMessage().endswith("whose numbers are not compared with their checksums>")


def test_after_a_compaction_numbers_are_compared_anew(folder: Path, tmp_path: Path) -> None:
    collection = made(folder, tmp_path / "store")
    reader = Collection.open(tmp_path / "store")
    for each in (collection, reader):
        assert all(right(each, name, folder / name) for name in each.names)
        assert each.verified == "whose numbers were compared with their checksums"
    collection.remove(["sub/4.png"])
    collection.compact()
    spoil(tmp_path / "store" / "maps.0001.f16", 20)
    reader.add([folder / "sub" / "1.png"], Toy())  # takes the new files up
    for each in (collection, reader):
        with pytest.raises(DatasetError, match="the collection is damaged"):
            each.pyramid("sub/0.png")


def test_a_call_that_fails_takes_up_what_another_process_has_changed(folder: Path, tmp_path: Path) -> None:
    collection = made(folder, tmp_path / "store")
    other = Collection.open(tmp_path / "store")
    other.remove(["sub/0.png", "sub/2.png"])
    other.compact()
    with pytest.raises(DatasetError, match="no features of gone.png"):
        collection.remove(["gone.png"])
    assert collection.names == other.names and np.array_equal(collection.spans(), other.spans())
    assert all(right(collection, name, folder / name) for name in collection.names)


def test_a_collection_of_an_earlier_version_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "collection.json").write_text('{"format": 1}')
    for begin in (Collection.open, lambda store: Collection.open_or_create(store, Toy())):
        with pytest.raises(DatasetError, match="of an earlier version, .*; remove that folder, or name another one"):
            begin(tmp_path / "old")


def test_opening_reads_the_rows_once_and_no_numbers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = made(folder, tmp_path / "store")
    store, count = collection._store, 30_000
    template, file = store.images[-1], store.files["sub/4.png"]
    spans = {array: template.span(array)[1] for array in store.about["arrays"]}
    images, files = store.images[:], [*store.files.values()]
    for number in range(5, count):
        sha = f"{number:064x}"
        spans_here = json.dumps({array: (number * rows, rows) for array, rows in spans.items()})
        images.append(template._replace(number=number, sha256=sha, spans=spans_here))
        files.append(file._replace(number=number, name=f"{number}.png", sha256=sha))
    with store.writing() as writer:
        writer._commit([*images[5:], *files[5:]], [])
    for array in spans:  # sparse: what is not read takes no room
        os.truncate(store.path(array), store._bytes(array, count * spans[array]))
    work: dict[str, int] = defaultdict(int)
    blocks, opened, connect = Store._blocks, Path.open, sqlite3.connect

    def counted_blocks(*arguments: object) -> Iterator[bytes]:
        for block in blocks(*arguments):
            work["bytes of numbers"] += len(block)
            yield block

    def counted_open(self: Path, *arguments: object, **options: object) -> object:
        work[f"opened {self.name}"] += 1
        return opened(self, *arguments, **options)

    def counted_connect(*arguments: object, **options: object) -> object:
        work["connections"] += 1
        database = connect(*arguments, **options)
        database.set_trace_callback(lambda statement: work.update({statement: work[statement] + 1}))
        return database

    monkeypatch.setattr(Store, "_blocks", counted_blocks)
    monkeypatch.setattr(Path, "open", counted_open)
    monkeypatch.setattr(sqlite3, "connect", counted_connect)
    large = Collection.open(tmp_path / "store")
    assert len(large) == count
    assert work.pop("connections") == 1 and all(times == 1 for times in work.values())
    assert sorted(work) == [
        *("BEGIN", "COMMIT", "SELECT * FROM files ORDER BY number", "SELECT * FROM images ORDER BY number"),
        "SELECT about, total FROM store",
    ]
    # Reading compares the numbers of that image, once.
    for _ in range(2):
        assert right(large, "sub/4.png", folder / "sub" / "4.png")
    assert work["bytes of numbers"] == sum(store._bytes(array, rows) for array, rows in spans.items())
    with pytest.raises(DatasetError, match="the collection is damaged"):
        large.pyramid("29999.png")  # which are all 0 here
    plain = Collection.open(tmp_path / "store", verify=False)
    assert not plain.pyramid("29999.png", "mirror").maps[2].any()


# --- Regions


def test_saliency_is_that_of_a_loop() -> None:
    cells = F.normalize(torch.randn(6, 4, 5), dim=0)
    for row in range(4):
        for column in range(5):
            near = [(row + a, column + b) for a, b in ((0, 1), (1, 0), (0, -1), (-1, 0))]
            cosines = [float(cells[:, row, column] @ cells[:, r, c]) for r, c in near if 0 <= r < 4 and 0 <= c < 5]
            assert float(saliency(cells)[row, column]) == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-5)
    assert saliency(cells[:, :1, :1]).tolist() == [[1.0]]


def test_regions_are_weighted_means_of_windows() -> None:
    cells = F.normalize(torch.randn(6, 4, 8), dim=0)
    config = RegionConfig(scales=(8,), sizes=(3, 6), saliency=0.0)
    found = describe_regions(Pyramid((cells,), 80, 40), config, view=2)
    weight, wanted = saliency(cells), []
    for size, rows, columns in ((3, (0, 1), (0, 2, 4, 5)), (6, (0,), (0, 2))):
        height = min(size, 4)
        for row in rows:
            for column in columns:
                part = slice(row, row + height), slice(column, column + size)
                mean = (cells * weight)[:, *part].sum((1, 2))
                centre = ((column + size / 2) / 8, (row + height / 2) / 4)
                wanted.append((float(weight[part].mean()), centre, size / 8, mean / mean.norm()))
    wanted.sort(key=lambda each: -each[0])
    assert torch.allclose(found.descriptors, torch.stack([each[3] for each in wanted]), atol=1e-5)
    table = torch.tensor([(2, *centre, share, weight) for weight, centre, share, _ in wanted])
    assert torch.allclose(found.table, table, atol=1e-5)
    least = float(found.table[3, 4])
    some = describe_regions(Pyramid((cells,), 80, 40), RegionConfig(scales=(8,), sizes=(3, 6), saliency=least))
    assert len(some.table) == 4


def test_each_part_scale_and_size_gives_its_share_of_the_regions() -> None:
    # A busy corner, which alone would fill the list, and a quiet rest.
    random = torch.Generator().manual_seed(4)
    cells = torch.ones(6, 32, 32) + 0.2 * torch.randn(6, 32, 32, generator=random)
    cells[:, :10, :10] = torch.randn(6, 10, 10, generator=random)
    pyramid = Pyramid((F.normalize(cells, dim=0),), 320, 320)
    config = RegionConfig(scales=(32,), sizes=(3, 5), saliency=0.0, most=90)
    every = describe_regions(pyramid, dataclasses.replace(config, most=10_000)).table
    found = describe_regions(pyramid, config).table
    assert len(found) == 90 and bool((found[1:, 4] <= found[:-1, 4]).all())
    assert every[:20, 1:3].max() < 0.4, "the most salient of all are in the corner"

    def kinds(table: Tensor) -> dict[tuple[int, ...], list[float]]:
        grouped: dict[tuple[int, ...], list[float]] = {}
        for _, x, y, side, weight in table.tolist():
            grouped.setdefault((int(4 * x), int(4 * y), round(side * 32)), []).append(weight)
        return grouped

    kept, whole = kinds(found), kinds(every)
    assert len(kept) == len(whole) == 2 * 16
    for kind, weights in whole.items():
        assert kept[kind] == weights[: len(kept[kind])], "the most salient of its kind"
        assert abs(len(kept[kind]) - len(weights) * 90 / len(every)) <= 1


# --- The shortlist


class Planted:
    """Smooth random maps, some of which share a piece: described by the number that the first pixel gives."""

    fingerprint, dims, scales = "planted", 24, (18, 12)

    def __init__(self, count: int, pairs: int, views: tuple[str, ...] = ("",)) -> None:
        random = torch.Generator().manual_seed(1)
        self.views = views
        self.maps = [self.smooth(18, 14, random) for _ in range(count)]
        self.pairs = [(2 * n, 2 * n + 1) for n in range(pairs)]
        for number, (one, other) in enumerate(self.pairs):
            piece = self.maps[one][:, 2 + number % 3 : 9 + number % 3, 3:10]
            if len(views) > 1:
                piece = piece.flip(-1)
            noise = torch.randn(piece.shape, generator=random) * 0.05
            self.maps[other][:, 9:16, 5:12] = F.normalize(piece + noise, dim=0)

    @staticmethod
    def smooth(rows: int, columns: int, random: torch.Generator) -> Tensor:
        coarse = torch.randn(1, 24, rows // 3, columns // 3, generator=random)
        return F.normalize(F.interpolate(coarse, (rows, columns), mode="bicubic")[0], dim=0)

    def pyramids(self, loaded: LoadedImage) -> dict[str, Pyramid]:
        whole = self.maps[256 * int(loaded.pixels[0, 0, 0]) + int(loaded.pixels[0, 0, 1])]
        small = F.normalize(F.interpolate(whole[None], (12, 9), mode="bilinear")[0], dim=0)
        turned = {"": lambda part: part, "mirror": lambda part: part.flip(-1)}
        return {view: Pyramid((turned[view](whole), turned[view](small)), 14, 18) for view in self.views}


def planted(tmp_path: Path, count: int, pairs: int, **options) -> tuple[Collection, Planted, list[Path]]:
    describer, files = Planted(count, pairs, **options), []
    (tmp_path / "numbered").mkdir()
    for number in range(count):
        files.append(tmp_path / "numbered" / f"{number:04d}.png")
        Image.new("RGB", (14, 18), (number // 256, number % 256, 0)).save(files[-1])
    config = RegionConfig(scales=(18, 12), sizes=(3, 5))
    return Collection.create(tmp_path / "planted", describer, regions=config), describer, files


def mutual(one: Tensor, other: Tensor) -> int:
    """How many mutual nearest neighbours of two maps agree on a shift, to a cell."""
    scores = one.flatten(1).T @ other.flatten(1)
    there, back = scores.argmax(1).numpy(), scores.argmax(0).numpy()
    cell = np.flatnonzero(back[there] == np.arange(len(there)))
    rows, columns = one.shape[1:]
    down, across = there[cell] // columns - cell // columns, there[cell] % columns - cell % columns
    shifts = np.zeros((2 * rows + 1, 2 * columns + 1), int)
    np.add.at(shifts, (down + rows, across + columns), 1)
    return int(np.lib.stride_tricks.sliding_window_view(shifts, (3, 3)).sum((2, 3)).max())


@functools.cache
def exhaustive(count: int, pairs: int) -> set[tuple[int, int]]:
    """The pairs that matching each image with each accepts."""
    maps = [part.half().float() for part in Planted(count, pairs).maps]
    return {(a, b) for a in range(count) for b in range(a + 1, count) if mutual(maps[a], maps[b]) >= 25}


def numbered(found) -> set[tuple[int, int]]:
    return {(int(Path(a).stem), int(Path(b).stem)) for a, b, _ in found}


@pytest.mark.parametrize("kind", ["exact", "ivf", "hnsw", "whitened"])
def test_the_shortlist_has_what_exhaustive_matching_finds(tmp_path: Path, kind: str) -> None:
    collection, describer, files = planted(tmp_path, 60, 20)
    collection.add(files, describer)
    accepted = exhaustive(60, 20)
    assert accepted == set(describer.pairs)  # it separates them
    index = {
        "exact": lambda: ExactIndex(24),
        "ivf": lambda: FaissIndex(24, FaissConfig(probes=8)),
        "hnsw": lambda: FaissIndex(24, FaissConfig(kind="hnsw")),
        "whitened": lambda: WhitenedIndex(ExactIndex(16), Whitening.fit(collection.descriptors(), 16)),
    }[kind]()
    index_regions(collection, index)
    found = candidates(collection, index, k=20, keep=3, exhaustive=0)
    assert len(found) <= 60 * 3
    assert len(accepted & numbered(found)) >= 0.95 * len(accepted)
    # And on top of it: the others share nothing.
    assert len(accepted & numbered([*found][: len(accepted)])) >= 0.95 * len(accepted)
    assert bool((found.votes[1:] <= found.votes[:-1]).all())


def test_the_index_that_is_made_for_a_collection_finds_the_pairs(tmp_path: Path) -> None:
    collection, describer, files = planted(tmp_path, 60, 20)
    collection.add(files, describer)
    index = region_index(collection, dims=16)
    assert index.dims == 24 and sorted(index.ids) == list(range(len(collection.windows())))
    assert isinstance(index, WhitenedIndex) and index.inner.dims == 16
    found = candidates(collection, index, keep=3, exhaustive=0)
    assert len(exhaustive(60, 20) & numbered(found)) >= 0.95 * 20
    nothing = Collection.create(tmp_path / "nothing", describer, regions=collection.layout.regions)
    assert len(candidates(nothing, region_index(nothing), exhaustive=0)) == 0


def test_mirrored_pieces_are_found_in_the_mirror_view_once(tmp_path: Path) -> None:
    collection, describer, files = planted(tmp_path, 30, 8, views=("", "mirror"))
    collection.add(files, describer)
    index = ExactIndex(24)
    index_regions(collection, index)
    found = [*candidates(collection, index, k=20, keep=2, exhaustive=0)]
    top = {(int(Path(a).stem), int(Path(b).stem), view) for a, b, view in found[:8]}
    assert top == {(a, b, "mirror") for a, b in describer.pairs}
    assert len({*found}) == len(found)


def test_all_pairs_below_the_limit(folder: Path, tmp_path: Path) -> None:
    collection = made(folder, tmp_path / "store")
    found = candidates(collection)
    wanted = [(f"sub/{a}.png", f"sub/{b}.png", v) for a in range(5) for b in range(a + 1, 5) for v in ("", "mirror")]
    assert [*found] == wanted and not found.votes.any()
    new = candidates(collection, names=["sub/3.png"])
    assert [*new] == [pair for pair in wanted if "sub/3.png" in pair]
    with pytest.raises(ConfigError, match="5 images need an index: make one by region_index"):
        candidates(collection, exhaustive=5)
    with pytest.raises(ConfigError, match="takes vectors of 7 numbers and the collection has 12"):
        index_regions(collection, ExactIndex(7))
    with pytest.raises(ConfigError, match="keep=0"):
        candidates(collection, keep=0)


def test_added_in_steps_is_as_at_once(tmp_path: Path) -> None:
    collection, describer, files = planted(tmp_path, 40, 10)
    index = ExactIndex(24)
    for start in (0, 25, 33):
        collection.add(files[start : {0: 25, 25: 33, 33: 40}[start]], describer)
        index_regions(collection, index)
    once = Collection.create(tmp_path / "once", describer, regions=collection.layout.regions)
    once.add(files, describer)
    whole = ExactIndex(24)
    index_regions(once, whole)
    options = {"k": 15, "keep": 4, "exhaustive": 0}
    first, second = candidates(collection, index, **options), candidates(once, whole, **options)
    assert [*first] == [*second] and torch.equal(first.votes, second.votes)
    # Those of new images alone are what these images vote for.
    new = candidates(collection, index, names=collection.names[33:], **options)
    assert len(new) and {*new} <= {*first} and all(max(numbered([pair]).pop()) >= 33 for pair in new)
    # An index that is behind is refused where it has too much.
    collection.remove([collection.names[3]])
    with pytest.raises(ConfigError, match="holds regions that the collection does not: call index_regions first"):
        candidates(collection, index, **options)
    index_regions(collection, index)
    assert all(3 not in pair for pair in numbered(candidates(collection, index, **options)))
