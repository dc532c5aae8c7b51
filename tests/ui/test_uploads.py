"""What visitors upload, archives above all: taken in within bounds, and what cannot be used is said."""

import contextlib
import importlib.util
import io
import struct
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient
from support import ROOT, launched

from artmodels import images, ui
from artmodels.errors import DatasetError, ImageError
from artmodels.ui import uploads
from artmodels.ui.batches import show_batch
from artmodels.ui.controls import run_folder
from artmodels.ui.events import explain_errors
from artmodels.ui.uploads import PREVIEW, ROUTE, Names, Taken, bullets, markdown, take_in

PICTURE = 36  # bytes of what `stored` packs


def pixels(kind: str = "PNG", size: tuple[int, int] = (8, 8), colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def noise() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((80, 60), 50).save(file, "TIFF")
    return file.getvalue()


def pack(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            archive.writestr(info, content)
    return path


def changed(path: Path, change: Callable[[bytearray, zipfile.ZipInfo, int], None], name: str = "b.png") -> Path:
    """Change the bytes of an archive, given an entry and the place of its record in the table of contents."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        place = archive.start_dir
        for info in archive.infolist():
            if info.filename == name:
                change(content, info, place)
            place += 46 + sum(struct.unpack_from("<3H", content, place + 28))
    path.write_bytes(content)
    return path


def taken(tmp_path: Path, *paths: Path, most: int = 10) -> tuple[list[str], dict[str, str]]:
    """Names of what is used, and what is left out."""
    folder, left_out = tmp_path / "taken", dict[str, str]()
    folder.mkdir()
    found = [each for each in take_in(list(map(str, paths)), folder, left_out, most=most) if isinstance(each, Taken)]
    names = [each.name for each in found]
    assert sorted(file.name for file in folder.iterdir()) == sorted(names), "nothing else stays, or is outside"
    for each in found:
        assert each.file == folder / each.name and each.picture.width >= 8
    assert not any(str(tmp_path) in reason for reason in left_out.values())
    return names, left_out


# --- what is left out, and why


def test_a_damaged_member_leaves_the_others(tmp_path: Path) -> None:
    """Case 3."""
    packed = pack(tmp_path / "bad.zip", {f"p{number}.tif": noise() for number in range(3)})

    def damage(content: bytearray, info: zipfile.ZipInfo, _: int) -> None:
        content[info.header_offset + 36 : info.header_offset + 76] = b"\xff" * 40

    names, left_out = taken(tmp_path, changed(packed, damage, "p1.tif"))
    assert names == ["p0.tif", "p2.tif"]
    assert list(left_out) == ["p1.tif"] and "damaged inside bad.zip: Error -3 while decompressing" in left_out["p1.tif"]


def put(format_: str, at_record: int, at_file: int, value: int) -> Callable[[bytearray, zipfile.ZipInfo, int], None]:
    """Write a field of an entry, in the table of contents and in front of the file."""

    def change(content: bytearray, info: zipfile.ZipInfo, place: int) -> None:
        struct.pack_into(format_, content, place + at_record, value)
        if at_file >= 0:
            struct.pack_into(format_, content, info.header_offset + at_file, value)

    return change


def misnamed(content: bytearray, info: zipfile.ZipInfo, place: int) -> None:
    """Say that a name which is not UTF-8 is."""
    for flags, name in ((place + 8, place + 46), (info.header_offset + 6, info.header_offset + 30)):
        struct.pack_into("<H", content, flags, 0x800)
        content[name] = 0xFF


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (put("<H", 8, 6, 0x1), "b.png", "it is encrypted: pack it without a password"),
        (put("<H", 8, 6, 0x41), "b.png", "it is encrypted"),
        (put("<H", 8, 6, 0x20), "b.png", "damaged inside a.zip: compressed patched data"),
        (put("<H", 10, 8, 9), "b.png", "packed by Deflate64, which is not unpacked here"),
        (put("<H", 10, 8, 12), "b.png", "packed by BZIP2"),
        (put("<H", 10, 8, 14), "b.png", "packed by LZMA"),
        (put("<H", 10, 8, 77), "b.png", "packed by method 77"),
        (put("<I", 16, 14, 5), "b.png", "damaged inside a.zip: Bad CRC-32"),
        (put("<I", 24, 22, 20), "b.png", "damaged inside a.zip: Bad CRC-32"),  # says that it is small
        (put("<I", 24, 22, 2**31), "b.png", "more than 256 MB inside a.zip"),
        (put("<I", 42, -1, 2**31), "b.png", "damaged inside a.zip: Truncated file header"),
        (put("<I", 42, -1, 7), "b.png", "damaged inside a.zip: Bad magic number"),
        (misnamed, "\u00a0.png", "its name is not the UTF-8 that it says it is"),
    ],
)
def test_an_entry_that_cannot_be_read_leaves_the_others(tmp_path: Path, change, name: str, reason: str) -> None:
    packed = pack(tmp_path / "a.zip", dict.fromkeys(("a.png", "b.png", "c.png"), pixels()))
    names, left_out = taken(tmp_path, changed(packed, change))
    assert names == ["a.png", "c.png"]
    assert list(left_out) == [name] and reason in left_out[name]


def test_an_entry_of_a_newer_version_is_read_if_it_can_be(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", dict.fromkeys(("a.png", "b.png"), pixels()))
    assert taken(tmp_path, changed(packed, put("<B", 6, 4, 99))) == (["a.png", "b.png"], {})


@pytest.mark.parametrize(
    ("name", "shown", "reason"),
    [
        ("/etc/b.png", "/etc/b.png", "leads out of the archive"),
        ("x/../../b.png", "x/../../b.png", "leads out of the archive"),
        ("x\\..\\..\\b.png", "x/../../b.png", "leads out of the archive"),
        ("C:\\b.png", "b.png", "leads out of the archive"),
        ("line\nbreak.png", "line\ufffdbreak.png", "characters that control lines"),
        ("gnp.\u202egpj.png", "gnp.\ufffdgpj.png", "the direction of text"),
        ("é" * 110 + ".png", "é" * 60 + "…" + "é" * 15 + ".png", "more than 200 bytes"),
        (".hidden.png", ".hidden.png", "it is hidden"),
        (".cache/b.png", "b.png", "hidden folder"),
        ("b.bmp", "b.bmp", "“.bmp”, and PNG, JPEG, WebP, TIFF, HEIC, AVIF and JPEG 2000 files are read"),
        ("b", "b", "no ending"),
        ("deep/b.zip", "b.zip", "an archive in an archive"),
        ("b.jpg", "b.jpg", "is text, not pixels"),
    ],
)
def test_what_is_no_picture_is_said(tmp_path: Path, name: str, shown: str, reason: str) -> None:
    content = b"no picture" if name == "b.jpg" else pixels()
    packed = pack(tmp_path / "a.zip", {"a.png": pixels(), name: content, "deep/c.png": pixels()})
    names, left_out = taken(tmp_path, packed)
    assert names == ["a.png", "c.png"]
    assert list(left_out) == [shown] and reason in left_out[shown]


def test_every_ending_of_a_picture_counts_and_nobody_is_told_of_systems(tmp_path: Path) -> None:
    """Case 4, of archives."""
    jpegs = ("a.jpg", "b.jfif", "d.jpe", "x/e.JPEG")
    system = ("__MACOSX/._a.jpg", "._a.jpg", ".DS_Store", "x/Thumbs.db", "@eaDir/thumb.jpg", "x/@eaDir/a/b.jpg", "x/")
    packed = pack(tmp_path / "a.zip", {**dict.fromkeys(jpegs, pixels("JPEG")), **dict.fromkeys(system, b"")})
    assert taken(tmp_path, packed) == (["a.jpg", "b.jfif", "d.jpe", "e.JPEG"], {})


def test_files_beside_archives_are_taken_and_what_is_none_is_said(tmp_path: Path) -> None:
    files = {"a.png": pixels(), "b.zip": b"PK\3\4 and no more", "c.zip": pixels(), "A.png": pixels(), "d.png": b"x"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    names, left_out = taken(tmp_path, *(tmp_path / name for name in (*files, "gone.png", "gone.zip")))
    assert names == ["a.png", "A-2.png"]
    assert list(left_out) == ["b.zip", "c.zip", "gone.zip", "d.png", "gone.png"]
    assert left_out["b.zip"] == left_out["c.zip"] == "the archive cannot be read: File is not a zip file"
    assert left_out["gone.zip"] == "the archive cannot be read: No such file or directory"


def test_equal_pictures_are_found_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, decoded = uploads.read, list[str]()
    monkeypatch.setattr(uploads, "read", lambda path: decoded.append(Path(path).name) or read(path))
    packed = pack(tmp_path / "a.zip", [("a.png", pixels()), ("b.png", pixels()), ("c.png", b"x"), ("d.png", b"x")])
    (tmp_path / "t").mkdir()
    left_out, twins = {}, {}
    found = list(take_in([str(packed)], tmp_path / "t", left_out, most=9, twins=twins))
    assert [each.name for each in found if isinstance(each, Taken)] == ["a.png"] and decoded == ["a.png", "c.png"]
    assert twins == {"b.png": "a.png"} and list(left_out) == ["c.png", "d.png"], "what is bad is no twin"


# --- bounds


def test_names_are_counted_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    class Counted(set):
        def __contains__(self, name: object) -> bool:
            nonlocal looked
            looked += 1
            return super().__contains__(name)

    names = Names()
    names._taken = Counted()
    given = [names.unused(("a.png", "A.PNG", "a-2.png")[number % 3]) for number in range(3000)]
    assert len({name.casefold() for name in given}) == 3000
    assert given[:5] == ["a.png", "A-2.PNG", "a-2-2.png", "a-3.png", "A-4.PNG"]
    assert looked < 4 * 3000


def test_a_long_table_of_contents_is_never_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = pack(tmp_path / "many.zip", [(f"{number:05}{'x' * 60}.png", b"") for number in range(3000)], 0)
    monkeypatch.setattr(uploads, "DIRECTORY", 2**18)
    made = list[str]()
    init = zipfile.ZipInfo.__init__
    monkeypatch.setattr(
        zipfile.ZipInfo, "__init__", lambda self, *given, **more: made.append("") or init(self, *given, **more)
    )
    small = pack(tmp_path / "small.zip", {"a.png": pixels()})
    made.clear()
    names, left_out = taken(tmp_path, many, small)
    assert names == ["a.png"] and len(made) == 1
    assert left_out == {"many.zip": "the archive cannot be read: its table of contents has more than 0 MB"}


def test_entries_and_archives_are_bounded_and_the_others_are_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(uploads, "ENTRIES", 5)
    monkeypatch.setattr(uploads, "ARCHIVES", 3)
    many = pack(tmp_path / "many.zip", {f"{number}.png": pixels() for number in range(6)})
    few = [pack(tmp_path / f"few{number}.zip", {f"{number}.png": pixels()}) for number in range(3)]
    names, left_out = taken(tmp_path, many, *few)
    assert names == ["0.png", "1.png"]
    assert "more than 5 files are in the archives" in left_out["many.zip"]
    assert "more than 3 archives" in left_out["few2.zip"]


def test_what_comes_out_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the header says, of one file and of all."""
    monkeypatch.setattr(uploads, "LARGEST", 2**20)
    monkeypatch.setattr(uploads, "INFLATED", 3 * 2**20)
    monkeypatch.setattr(uploads, "CHUNK", 2**16)
    inflated, read = [0], zipfile.ZipExtFile.read

    def counted(self: zipfile.ZipExtFile, size: int | None = -1) -> bytes:
        content = read(self, size)
        inflated[0] += len(content)
        return content

    monkeypatch.setattr(zipfile.ZipExtFile, "read", counted)
    bomb = pack(tmp_path / "bomb.zip", {"a.png": pixels(), **{f"{n}.png": bytes(9 * 2**20) for n in range(9)}})

    def small(content: bytearray, info: zipfile.ZipInfo, place: int) -> None:
        struct.pack_into("<I", content, place + 24, 2**20)

    for number in range(9):
        changed(bomb, small, f"{number}.png")
    big = pack(tmp_path / "big.zip", {"big.png": bytes(2**21), "last.png": pixels()})
    (tmp_path / "plain.png").write_bytes(pixels())
    names, left_out = taken(tmp_path, bomb, big, tmp_path / "plain.png", most=10)
    assert names == ["a.png", "plain.png"]
    assert inflated[0] <= 4 * 2**20 + 2**16
    assert left_out["8.png"] == left_out["last.png"] == "more than 3 MB came out of the archives before it"
    assert left_out["big.png"] == "it has more than 1 MB inside big.zip"


def test_an_entry_that_is_larger_than_it_says_ends_at_the_bound(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(uploads, "LARGEST", 2**16)
    packed = pack(tmp_path / "a.zip", {"a.png": pixels(), "b.png": bytes(2**20)})
    lying = zipfile.ZipFile.open

    def larger(self: zipfile.ZipFile, entry: zipfile.ZipInfo, *given: object) -> object:
        entry.file_size = 2**20  # as if `zipfile` did not stop where the header says
        return lying(self, entry, *given)

    changed(packed, put("<I", 24, 22, 100))
    monkeypatch.setattr(zipfile.ZipFile, "open", larger)
    names, left_out = taken(tmp_path, packed)
    assert names == ["a.png"]
    assert left_out["b.png"] == "it has more than 0 MB inside a.zip"


def test_too_many_pictures_are_refused_and_too_many_bad_ones_are_not_looked_at(tmp_path: Path, monkeypatch) -> None:
    packed = pack(tmp_path / "a.zip", {f"{number}.png": pixels() for number in range(3)})
    with pytest.raises(DatasetError, match="more than 2 pictures: give fewer"):
        taken(tmp_path, packed, most=2)
    looked, read = list[str](), uploads.read
    monkeypatch.setattr(uploads, "read", lambda path: looked.append(path) or read(path))
    packed = pack(tmp_path / "b.zip", {f"{number}.png": b"x" for number in range(9)})
    (tmp_path / "b").mkdir()
    names, left_out = taken(tmp_path / "b", packed, most=4)
    assert names == [] and len(looked) == 4 and len(left_out) == 9
    assert left_out["8.png"] == "nobody looked at it: 4 before it cannot be used"


# --- what people are told


def test_reasons_are_bounded() -> None:
    text = bullets([(f"{number}.png", "it is bad") for number in range(4341)], " is left out")
    assert text.startswith("\n- 0.png is left out: it is bad\n- 1.png")
    assert text.count("\n") == 21 and text.endswith("\n- 19.png is left out: it is bad\n- and 4 321 more")
    assert bullets([]) == "" and "more" not in bullets([("a.png", "it is bad")] * 20)


def test_markdown_shows_names_as_they_are() -> None:
    name = "<img src=//x.org/y>![a](http://x.org) **b** `c` www.x.org a@x.org $$d$$ # &lt; ~~e~~ a_b_c.png"
    text = markdown(f"Left out:\n- {name}\n- and 3 more")
    lines = text.split("\n")
    assert lines[0] == "Left out:" and lines[2] == "- and 3 more"
    for bad in ("<img", "![a](", "](http", "**b", "`c`", "www.x", "a@x", "$$", "# ", "&lt", "~~", "http://"):
        assert bad not in lines[1].replace("\\" + bad[0], "")
    assert lines[1][2:].replace("\\", "") == name


def space(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"uploads_of_{name}", ROOT / "spaces" / name / "app.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["mimax", "artminer", "ransac_flow"])
def app(request: pytest.FixtureRequest) -> ModuleType:
    made = space(request.param)
    made.name = request.param
    return made


EVIL = "<img src=x>![x](y)*.png"
SAFE = r"\<img src=x\>!\[x\](y)\*.png"


def handlers_of(app: ModuleType) -> Callable[[list[str]], Iterator]:
    """What takes files on the page."""
    return app.offer_names if app.name == "ransac_flow" else app.take


def test_a_page_shows_names_of_visitors_as_text_and_few_of_them(app: ModuleType, tmp_path: Path) -> None:
    good = {"a.png": pixels(size=(40, 40)), "b.png": pixels(size=(40, 40), colour="blue")}
    packed = pack(tmp_path / "a.zip", {**good, EVIL: b"x", **{f"{n}.txt": b"" for n in range(30)}})
    *_, (*_, status) = handlers_of(app)([str(packed)])
    assert "**2 pictures.**" in status and SAFE in status.replace("&", "") and EVIL not in status
    assert status.endswith("- and 11 more") and status.count("\n") == 21

    torn = pack(tmp_path / "b.zip", {EVIL: b"x"})
    told = []
    with pytest.raises(gr.Error) as caught:
        told.extend(update[-1] for update in explain_errors(handlers_of(app)([str(torn)]), outputs=2))
    assert "&lt;img src=x&gt;" in str(caught.value) and "<img" not in str(caught.value)


def test_a_batch_shows_names_of_visitors_as_text_and_few_of_them(tmp_path: Path) -> None:
    def run(path: str) -> None:
        raise ImageError("it is bad")

    told = []
    with pytest.raises(gr.Error, match="None of the files gave a result"):
        steps = show_batch(run, [f"{EVIL}-{number}" for number in range(25)], name="x")
        told.extend(explain_errors(steps, outputs=4))
    assert all(EVIL not in update[-1] and update[-1].count("\n") <= 21 for update in told)
    assert SAFE in told[2][-1] and told[-1][-1].endswith("- and 5 more")


# --- stopping


def test_closing_what_takes_in_ends_the_work(app: ModuleType, tmp_path: Path, monkeypatch) -> None:
    looked, read = list[str](), uploads.read
    monkeypatch.setattr(uploads, "read", lambda path: looked.append(path) or read(path))
    packed = pack(tmp_path / "a.zip", {f"{number}.png": pixels(size=(40, 40 + number)) for number in range(9)})
    steps = handlers_of(app)([str(packed)])
    texts = [next(steps)[-1] for _ in range(4)]
    assert texts == ["Opening a.zip…", "0 of 9 pictures…", "1 of 9 pictures…", "2 of 9 pictures…"]
    steps.close()
    assert len(looked) == 2
    assert list(steps) == []


ENDPOINTS = {
    "mimax": {"/mimax_batch": lambda photos, tmp: (photos, handle_file(tmp / "labels.csv"), 0.5)},
    "artminer": {
        "/artminer_search": lambda photos, _: (photos, "1", 1, 1, 20, 20, 0.5),
        "/artminer_pairs": lambda photos, _: (photos, 0.1),
    },
    "ransac_flow": {"/ransac_flow_group": lambda photos, _: (photos, "")},
}


@contextlib.contextmanager
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[str], threading.Semaphore, threading.Event]]:
    """Hold each picture until the test lets it go: what was begun, the lock, and whether one has begun."""
    begun, go, started, read = list[str](), threading.Semaphore(0), threading.Event(), uploads.read

    def wait(path: str) -> object:
        begun.append(path)
        started.set()
        assert go.acquire(timeout=30)
        return read(path)

    monkeypatch.setattr(uploads, "read", wait)
    try:
        yield begun, go, started
    finally:
        go.release(1000)


def test_a_program_that_cancels_ends_the_work(app: ModuleType, tmp_path: Path, monkeypatch) -> None:
    """The picture that is being read is the last one, on every endpoint that takes archives."""
    packed = pack(tmp_path / "a.zip", {f"{number}.png": pixels(size=(40, 40 + number)) for number in range(9)})
    (tmp_path / "labels.csv").write_text("file,ship\n0.png,1\n1.png,0\n", encoding="utf-8")
    with launched(app.demo.queue(**ui.QUEUE), ui.launch_options()) as url:
        client = Client(url, verbose=False, download_files=False, analytics_enabled=False)
        for name, values in ENDPOINTS[app.name].items():
            with held(monkeypatch) as (begun, go, started):
                job = client.submit(*values([handle_file(packed)], tmp_path), api_name=name)
                assert started.wait(30)
                canceller = threading.Thread(target=job.cancel)
                canceller.start()
                # It waits for the picture that is being read, which goes on when the server has heard of it.
                canceller.join(1)
                go.release()
                canceller.join(30)
                wait_until(lambda: not any(app.demo._queue.active_jobs))
                count = len(begun)
                go.release(1000)
                assert not canceller.is_alive() and count == len(begun) < 9, name
        client.close()


def wait_until(done: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    pause = threading.Event()
    for _ in range(600):
        if done():
            return
        pause.wait(0.05)
    raise AssertionError("it never came")


def test_what_is_too_large_is_reduced_for_all_that_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (80, 60)).save(tmp_path / "large.png")
    monkeypatch.setattr(uploads, "read", lambda path: images.load(path, max_pixels=1200, shrink=True))
    (tmp_path / "taken").mkdir()
    said = list(take_in([str(tmp_path / "large.png")], tmp_path / "taken", {}, most=1))
    assert "large.png was reduced to 40 x 30 pixels…" in said
    assert said[-1].picture.size == (40, 30)
    with Image.open(said[-1].file) as kept:
        assert kept.size == (40, 30)


def test_a_picture_that_browsers_do_not_show_is_seen_as_a_small_jpeg(tmp_path: Path) -> None:
    page, folder = TestClient(Starlette(routes=[ROUTE])), run_folder()
    for kind in ("TIFF", "JPEG2000", "PNG"):
        file = folder / f"a {kind} +&%.bin"
        file.write_bytes(pixels(kind, (2 * PREVIEW, 10)))
        answer = page.get("preview", params={"file": str(file)})
        shown = images.load(answer.content)
        assert (shown.format, shown.width, shown.height) == ("JPEG", PREVIEW, 5), kind
        assert shown.pixels[2, 2].tolist() == pytest.approx([255, 0, 0], abs=3)
    (folder / "letter.txt").write_text("not a picture")
    answer = page.get("preview", params={"file": str(folder / "letter.txt")})
    assert (answer.status_code, answer.text.split(";")[0]) == (422, "'letter.txt' is text, not pixels")
    (tmp_path / "secret.png").write_bytes(pixels())
    for path in (tmp_path / "secret.png", folder / ".." / "no.png", folder, "", "/etc/passwd"):
        assert page.get("preview", params={"file": str(path)}).status_code == 404, path
