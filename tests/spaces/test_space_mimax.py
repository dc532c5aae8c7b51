"""The page that finds things in a collection: its handlers, and its endpoints as a program calls them."""

import csv
import itertools
import json
import re
import time
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gradio as gr
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from PIL import Image
from support import ROOT, load_script

import artmodels
from artmodels import images, ui
from artmodels.data.reading import Extraction
from artmodels.errors import ConfigError, DatasetError, WeightsError
from artmodels.methods.mimax import Detector, MIMax, MIMaxStep
from artmodels.ui import running, uploads
from artmodels.ui.events import answered

SPACE = ROOT / "spaces" / "mimax"
EXAMPLES = SPACE / "examples"


@pytest.fixture(scope="module")
def app() -> ModuleType:
    return load_script(SPACE / "app.py")


def last(steps):
    *_, final = steps
    return final


def small(path: Path, colour: str = "red", size: tuple[int, int] = (60, 40)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


# --- what comes in


def test_pictures_and_archives_come_in_and_the_rest_is_told(app: ModuleType, tmp_path: Path) -> None:
    small(tmp_path / "a.png")
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(small(tmp_path / "b.jpg"), "deep/../../../a.png")
        archive.write(tmp_path / "b.jpg", "b.jpg")
        archive.writestr("__MACOSX/._b.jpg", b"not a picture")
        archive.writestr("notes.txt", "not a picture")
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04 and no more")
    paths = [str(tmp_path / name) for name in ("a.png", "broken.jpg", "more.zip", "bad.zip")]
    made = last(app.collection(paths))
    assert made.files == ["a.png", "b.jpg"]
    assert sorted(path.name for path in made.pictures.iterdir()) == ["a.png", "b.jpg"]
    assert not (tmp_path.parent / "a.png").exists(), "nothing is written outside"
    assert set(made.skipped) == {"broken.jpg", "bad.zip", "../../a.png", "notes.txt"}
    assert str(tmp_path) not in made.left_out()
    with Image.open(made.thumbnail("b.jpg")) as thumbnail:
        assert thumbnail.size == (60, 40)


def test_too_many_or_no_pictures_are_refused(app: ModuleType, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="no picture that can be used.*\n- x.png"):
        last(app.collection([str(tmp_path / "x.png")]))
    monkeypatch.setattr(app, "FILES", 1)
    paths = [str(small(tmp_path / f"{n}.png")) for n in range(2)]
    with pytest.raises(DatasetError, match="more than 1 pictures"):
        last(app.collection(paths))
    monkeypatch.setattr(uploads, "LARGEST", 10)
    with zipfile.ZipFile(tmp_path / "big.zip", "w") as archive:
        archive.write(tmp_path / "0.png")
    with pytest.raises(DatasetError, match="more than 0 MB inside big.zip"):
        last(app.collection([str(tmp_path / "big.zip")]))


# --- the page


def sent(label: str, yes: list[str], no: list[str], *others: dict) -> dict:
    """What the page sends."""
    return {"label": label, "marks": [*others, {"label": label, "yes": yes, "no": no}]}


def test_a_visitor_labels_trains_corrects_and_exports(app: ModuleType) -> None:
    work, wall, _, status = last(app.example())
    assert wall["names"] == work.files and len(work.files) == 36 and "36 seascapes" in status
    for number, name in enumerate(work.files):
        assert Path(wall["folder"], f"{number:04}.jpg") == work.thumbnail(name)
    marks = wall["value"]
    assert marks["label"] == "ship" and [each["label"] for each in marks["marks"]] == ["ship", "tower", "bird"]
    ship = marks["marks"][0]
    assert sorted(ship["yes"] + ship["no"]) == work.files[:12] and ship["yes"] and ship["no"]

    updates = list(app.train(work, marks, 0.05))
    texts = [update[-1] for update in updates]
    assert texts[0].startswith("Looking at picture") and any("Training" in text for text in texts)
    assert re.search(
        rf"Finished after .* s, “ship”, learnt from {len(ship['yes'])} ✓ and {len(ship['no'])} ✗:", texts[-1]
    )
    assert work.learnt["ship"] == app.marking.read_marks(marks, work.files).current
    found = updates[-1][0]["value"]
    names = [tile["name"] for tile in found["tiles"]]
    assert found["label"] == "ship" and len(names) > 5 and len(set(names)) == len(names)
    truth = json.loads((EXAMPLES / "boxes.json").read_text())
    assert sum("ship" in truth[name] for name in names[:5]) >= 4, names[:5]
    scores = [tile["score"] for tile in found["tiles"]]
    assert scores == sorted(scores, reverse=True)
    ((fewer, text),) = app.browse(work, marks, 0.9)
    assert len(fewer["value"]["tiles"]) < len(names) and "places in" in text

    download, text = last(app.export(work, marks, 0.05, "COCO"))
    assert text.endswith(f"learnt from {len(ship['yes'])} ✓ and {len(ship['no'])} ✗.")
    with zipfile.ZipFile(download["value"]) as archive:
        inside = archive.namelist()
        coco = json.loads(archive.read("coco.json"))
    assert len(coco["images"]) == 36 and {each["name"] for each in coco["categories"]} == {"ship"}
    assert {"classifier-ship/config.json", "classifier-ship/model.safetensors"} <= set(inside)
    ship["yes"].append(next(name for name in names if name not in ship["yes"] + ship["no"]))
    assert "marks have changed since: train again" in last(app.export(work, marks, 0.05, "JSON"))[-1]

    found, text = last(app.choose(work, marks | {"label": "  my   thing "}, 0.05))
    assert found["value"] == {"label": "my thing", "tiles": []} and text == "Looking for “my thing”."
    found, text = last(app.choose(work, marks, 0.05))
    assert len(found["value"]["tiles"]) == len(names) and "learnt from" in text


@pytest.mark.parametrize(
    ("handler", "arguments", "message"),
    [
        ("take", (None,), "There are no pictures"),
        ("train", (None, sent("ship", [], []), 0.05), "There is no collection yet"),
        ("export", (None, sent("ship", [], []), 0.05, "JSON"), "There is no collection yet"),
    ],
)
def test_what_cannot_be_done_yet_is_said(app: ModuleType, handler: str, arguments: tuple, message: str) -> None:
    updates = answered(getattr(app, handler), outputs=3)(*arguments)
    told = []
    with pytest.raises(gr.Error, match=message):
        told.extend(updates)
    with pytest.raises(gr.Error):
        for update in answered(getattr(app, handler), outputs=3)(*arguments):
            assert update[-1].startswith(f"**It did not work:** {message}")


def test_a_collection_that_was_deleted_or_has_no_labels_says_so(app: ModuleType, tmp_path: Path) -> None:
    work = last(app.collection([str(small(tmp_path / "a.png"))]))
    with pytest.raises(DatasetError, match="marked “✓ yes” for “ship”"):
        list(app.train(work, sent("ship", [], []), 0.05))
    with pytest.raises(DatasetError, match="marked “✗ no” for “ship”"):
        list(app.train(work, sent("ship", ["a.png"], []), 0.05))
    with pytest.raises(artmodels.ConfigError, match="Name what you look for"):
        list(app.train(work, {"label": "", "marks": []}, 0.05))
    with pytest.raises(artmodels.ConfigError, match="Nothing has been learnt"):
        list(app.export(work, sent("ship", [], []), 0.05, "JSON"))
    work.pictures.rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match="deleted, as everything is after an hour"):
        list(app.train(work, sent("ship", [], []), 0.05))


A, B = "a.png", "b.png"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "The marks were not sent"),
        ("ship", "The marks were not sent"),
        ({"label": "ship"}, "The marks were not sent"),
        ({"label": "ship", "marks": {"ship": {A: True}}}, "The marks were not sent"),
        ({"label": "ship", "marks": ["ship"]}, "must be its label, and the files"),
        ({"label": 5, "marks": []}, "Name what you look for in at most 80 letters"),
        ({"label": "x" * 81, "marks": []}, "Name what you look for in at most 80 letters"),
        ({"label": "a\0b", "marks": []}, "Name what you look for in at most 80 letters"),
        (sent("ship", A, []), "marked yes for “ship” must be a list"),
        (sent("ship", [], None), "marked no for “ship” must be a list"),
        (sent("ship", [A] * 3, []), "marked yes for “ship” must be a list"),
        (sent("ship", [A], [A]), "a.png is marked twice"),
        (sent("ship", [A, A], []), "a.png is marked twice"),
        (sent("ship", ["c.png"], []), "no picture of this collection"),
        (sent("ship", [["a.png"]], []), "no picture of this collection"),
        (sent("", [A], []), "needs a name of its own"),
        (sent("ship", [], [], {"label": " ship", "yes": [], "no": []}), "needs a name of its own"),
        ({"label": "", "marks": [{"label": str(n), "yes": [], "no": []} for n in range(51)]}, "51 things have marks"),
    ],
)
def test_marks_that_no_page_sends_are_refused(app: ModuleType, value: object, message: str) -> None:
    with pytest.raises(artmodels.ArtModelsError, match=message):
        app.marking.read_marks(value, [A, B])


def test_marks_are_read_whole(app: ModuleType) -> None:
    other = {"label": "__proto__ path", "yes": [], "no": [B]}
    marks = app.marking.read_marks(sent("ship  of  war", [A], [B], other), [A, B])
    assert marks.label == "ship of war" and marks.current == {A: True, B: False}
    assert marks.answers == {"ship of war": {A: True, B: False}, "__proto__ path": {B: False}}


@pytest.mark.parametrize(("label", "name"), [("../../x y", "x-y"), ("/etc/passwd", "etc-passwd"), ("..", "thing")])
def test_a_name_of_a_thing_is_no_path(app: ModuleType, label: str, name: str) -> None:
    assert app.plain_name(label) == name


def test_leaving_ends_the_training_and_nothing_is_learnt(app: ModuleType) -> None:
    work, wall, *_ = last(app.example())
    marks = app.marking.read_marks(wall["value"], work.files)
    steps = app.train_on(work, {"ship": marks.current})
    assert next(steps).startswith("Looking at picture 1 of 36")
    steps.close()
    assert work.detectors == work.learnt == {}


# --- programs


@pytest.fixture
def client(gallery_url: str, tmp_path: Path):
    client = Client(gallery_url, verbose=False, download_files=tmp_path / "downloads", analytics_enabled=False)
    yield client
    client.close()


def test_one_picture_is_searched(client: Client) -> None:
    photo = EXAMPLES / "seascape-09.jpg"
    image, settings, file = client.predict(handle_file(photo), "mimax-seascapes", 0.3, api_name="/mimax_run")
    found = artmodels.load("mimax-seascapes", device="cpu")(photo, threshold=0.3).found
    assert [each["label"] for each in settings["objects"]] == list(found.labels) != []
    assert settings["objects"][0]["box"] == pytest.approx(found.boxes[0].tolist())
    assert json.loads(images.read_metadata(file)["artmodels"]) == settings
    with Image.open(image) as shown:
        assert shown.size == (384, 288)


def test_a_collection_and_a_table_make_an_archive(client: Client, tmp_path: Path) -> None:
    with open(EXAMPLES / "labels.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:12]
    table = tmp_path / "labels.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "ship", "tower"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[:10])
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for row in rows:
            archive.write(EXAMPLES / row["file"], row["file"])
        archive.writestr("torn.png", b"nothing")
    archive, report = client.predict(
        [handle_file(tmp_path / "pictures.zip")], handle_file(table), 0.05, api_name="/mimax_batch"
    )
    assert [each["image"] for each in report["images"]] == [row["file"] for row in rows], "unlabelled ones too"
    assert list(report["skipped"]) == ["torn.png"]
    labels = {each["label"] for image in report["images"] for each in image["objects"]}
    assert labels == {"ship", "tower"}
    with zipfile.ZipFile(archive) as packed:
        inside = set(packed.namelist())
    assert {"detections.json", "coco.json", "voc/seascape-00.xml", "iiif/seascape-00.jpg.json"} <= inside
    assert "classifier-tower/model.safetensors" in inside


def test_wrong_input_is_explained(client: Client, tmp_path: Path) -> None:
    photo = handle_file(EXAMPLES / "seascape-00.jpg")
    with pytest.raises((AppError, ValidationError), match="'mimax-seascape' is not one of"):
        client.predict(photo, "mimax-seascape", 0.3, api_name="/mimax_run")
    table = tmp_path / "labels.csv"
    table.write_text("file,ship\nmissing.jpg,1\n", encoding="utf-8")
    with pytest.raises(AppError, match="missing.jpg") as caught:
        client.predict([photo], handle_file(table), 0.05, api_name="/mimax_batch")
    assert "gradio" not in str(caught.value) and "run-" not in str(caught.value)


def test_marks_are_saved_and_brought_again_as_far_as_their_pictures_are_there(app: ModuleType, tmp_path: Path) -> None:
    files = [str(small(tmp_path / name, colour)) for name, colour in (("a.png", "red"), ("b.png", "blue"))]
    work, wall, _, _ = last(app.take(files))
    *_, (offered, text) = app.save_marks(work, sent("ship", ["a.png"], ["b.png"]))
    assert "2 marks" in text
    fewer, _, _, _ = last(app.take(files[:1]))
    *_, (wall, text) = app.bring_marks(fewer, offered["value"])
    assert wall["value"]["marks"] == [{"label": "ship", "yes": ["a.png"], "no": []}]
    assert "1 marks" in text
    (tmp_path / "other.json").write_text("[]")
    (tmp_path / "text.json").write_text("ship")
    for name, message in (("other.json", "The marks were not sent"), ("text.json", "This file has no marks")):
        with pytest.raises((ConfigError, DatasetError), match=message):
            last(app.bring_marks(work, str(tmp_path / name)))


def test_a_page_that_is_opened_again_has_its_collection_and_marks(app: ModuleType, tmp_path: Path) -> None:
    work, wall, _, _ = last(app.take([str(small(tmp_path / "a.png"))]))
    value = sent("ship", ["a.png"], []) | {"of": wall["value"]["of"]}
    kept = json.dumps({"at": time.time(), "values": [value]})
    again, wall, _, text = app.bring(kept, 0.5)
    assert again is work
    assert wall["value"]["marks"] == [{"label": "ship", "yes": ["a.png"], "no": []}]
    assert "1 pictures and their marks are here again" in text
    for other in (kept.replace(value["of"], "run-00000000"), "", json.dumps({"at": 0, "values": [value]})):
        assert app.bring(other, 0.5) == (gr.skip(),) * 4


def test_an_exported_classifier_is_loaded_and_nothing_else(app: ModuleType, tmp_path: Path) -> None:
    detector = ui.MODELS("mimax-seascapes")
    detector.save_pretrained(tmp_path / "own")
    with zipfile.ZipFile(tmp_path / "ship.zip", "w") as packed:
        for file in (tmp_path / "own").iterdir():
            packed.write(file, f"classifier-ship/{file.name}")
        packed.writestr("classifier-ship/../../evil.txt", "x")
    loaded = app.exported(str(tmp_path / "ship.zip"))
    assert loaded.classes == detector.classes
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as packed:
        packed.writestr("detections.json", "{}")
    (tmp_path / "text.zip").write_text("no archive")
    for name, message in (("none.zip", "holds no classifier"), ("text.zip", "no archive of this page")):
        with pytest.raises(WeightsError, match=message):
            app.exported(str(tmp_path / name))


def test_training_says_how_long_it_takes(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "time", SimpleNamespace(monotonic=itertools.count(0, 0.5).__next__))
    looks = [Extraction(done, 4, "a.png") for done in range(1, 5)]
    steps = [MIMaxStep(done, 300, searching=False, loss=0.5) for done in range(1, 301)]
    said = list(app.told(step for step in [*looks, *steps, object()]))
    assert re.fullmatch(r"Looking at picture 2 of 4, about \d seconds left…", said[1]), said[:5]
    assert said[4] == "Training: step 1 of 300, loss 0.500.", "its pace is not that of looking"
    left = [int(re.search(r"about (\d+) minutes left", text)[1]) for text in said[5:9]]
    assert all(4 <= minutes <= 12 for minutes in left), "a second or two a step, by that clock"
    assert "left" not in said[-1] and "300 of 300" in said[-1]


def test_a_classifier_from_before_looks_at_a_collection(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    work, wall, *_ = last(app.take([str(path) for path in sorted(EXAMPLES.glob("*.jpg"))[:6]]))
    marks = sent("bird", [work.files[0]], [work.files[1]])
    detector = Detector(ui.MODELS(app.REGIONS), MIMax(standardize=True, iterations=20))
    names = {name: ["ship"] if number < 3 else [] for number, name in enumerate(work.files)}
    detector.fit(work.pictures, names, store=work.regions)
    archive = ui.run_folder() / "ship.zip"
    work.detectors["ship"], work.learnt["ship"] = detector, {}
    app.pack(archive, work, work.detections(["ship"], 0), ["ship"], ["JSON"])

    other, *_ = last(app.take([str(work.picture(name)) for name in work.files]))
    monkeypatch.setattr(app, "SHOWN", 100)
    wall, text = last(app.bring_classifier(other, marks, str(archive)))
    assert wall["value"]["label"] == "ship" and "Looking for “ship”" in text
    assert wall["value"]["marks"] == marks["marks"], "marks are kept"
    assert other.detectors["ship"].regions is ui.MODELS(app.REGIONS), "one network for all"
    first, *_, (found, text) = app.use_classifier(other, wall["value"], -1)
    assert first[-1].startswith("Looking at picture 1 of 6")
    assert len(found["value"]["tiles"]) == 6 and "“ship”, found by a classifier from before: **" in text
    for one, wanted in zip(other.detections(["ship"], 0), work.detections(["ship"], 0), strict=True):
        assert one.image == wanted.image and one.scores[0] == pytest.approx(wanted.scores[0], abs=0.01)
    assert "train again" not in last(app.export(other, wall["value"], 0, "JSON"))[-1]
    for file, message in ((None, "There is no classifier"), (str(EXAMPLES / "labels.csv"), "no archive of this page")):
        with pytest.raises((ConfigError, WeightsError), match=message):
            last(app.bring_classifier(other, marks, file))
