"""The page that aligns pictures: its handlers, and its endpoints as a program calls them."""

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from PIL import Image
from support import ROOT, launched, load_script

import artmodels
from artmodels import ui
from artmodels.errors import ConfigError, DatasetError, ImageError
from artmodels.methods.ransac_flow.exports import checked_points
from artmodels.ui.events import answered

SPACE = ROOT / "spaces" / "ransac_flow"
EXAMPLES = SPACE / "examples"
PAINTING, ENGRAVING, STRANGER = (str(EXAMPLES / f"{name}.jpg") for name in ("painting", "engraving", "stranger"))


@pytest.fixture(scope="module")
def app() -> ModuleType:
    return load_script(SPACE / "app.py")


@pytest.fixture(scope="module", autouse=True)
def quick(app: ModuleType) -> Iterator[artmodels.RansacFlow]:
    """The trained networks on smaller pictures, at fewer scales: under a second a pair."""
    views = ("", "mirror")
    model = artmodels.RansacFlow.from_pretrained(side=240, steps=1, hypotheses=2000, views=views, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ui, "MODELS", lambda _: model)
        yield model


@pytest.fixture(scope="module")
def looked(app: ModuleType) -> tuple:
    """What the page shows of the engraving: the first update with results, and the last with files."""
    *_, first, last = app.align(ENGRAVING, PAINTING)
    *_, files = last
    assert files.startswith("**Aligned**")
    return first, last


def last(steps: Iterator):
    *_, final = steps
    return final


def save(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def told(handler, outputs: int, *values) -> str:
    """The status with which a handler ends in an error."""
    updates = []
    with pytest.raises(gr.Error) as caught:
        for update in handler(*values):
            updates.append(update)
    assert len(updates[-1]) == outputs and str(caught.value.message) in updates[-1][-1]
    return updates[-1][-1]


# --- two pictures


def test_an_engraving_is_laid_on_its_painting(looked: tuple) -> None:
    first, final = looked
    work, shown, stage, slider, overlay, points, table, maps, *_, status = first
    assert shown["visible"] is True and stage == "fine" and "mirrored" in status and "Writing files" in status
    with Image.open(slider[0]) as target, Image.open(slider[1]) as moved:
        assert target.size == moved.size == (640, 480)
        difference = np.abs(np.asarray(target.convert("L"), float) - np.asarray(moved.convert("L"), float))
    assert difference.std() > 1, "the source, not the target again"
    assert all(overlay["value"][name].startswith("data:image/jpeg") for name in ("under", "over"))
    assert points["value"]["target_size"] == [640, 480] and points["marks"] == []
    assert "No point yet" in table
    for title in ("What differs", "Matchability", "Flow", "Fine flow", "There and back", "The wheel"):
        assert f"<b>{title}</b>" in maps
    files = [update["value"] for update in final[8:13]]
    assert [Path(file).suffix for file in files] == [".png", ".npz", ".gif", ".mp4", ".json"]
    with Image.open(files[0]) as picture, Image.open(files[2]) as flicker:
        assert picture.size == (640, 480) and "artmodels" in picture.info
        assert flicker.n_frames == 2
    with np.load(files[1]) as data:
        assert data["flow"].shape == (480, 640, 2)
    assert b"ftyp" in Path(files[3]).read_bytes()[:16]
    listed = json.loads(Path(files[4]).read_text())
    assert listed["found"] and listed["view"] == "mirror" and len(listed["correspondences"]) > 50
    assert work.alignment.sizes == ((640, 480), (640, 480))
    assert work.alignment.tensor.numel() == 3, "large pictures are kept as files only"


def test_the_coarse_stage_can_be_looked_at(app: ModuleType, looked: tuple) -> None:
    work = looked[0][0]
    slider, overlay, download, _ = last(app.restage(work, "coarse"))
    assert Path(slider[1]).name == "coarse.jpg" and Path(download["value"]).name == "aligned-coarse.png"
    fine = app.layers(work, "fine")
    overlay, fine = overlay["value"], fine[1]["value"]
    assert overlay["under"] == fine["under"] and overlay["over"] != fine["over"]


def test_a_click_finds_its_match(app: ModuleType, looked: tuple) -> None:
    work = looked[0][0]
    x, y, points, table, _ = last(app.pick(SimpleNamespace(x=228.04, y=130.0), work))
    assert (x, y) == (228.0, 130.0)
    (mark,) = points["marks"]
    # The bird's eye, which looks the other way in the engraving.
    assert mark["sure"] and mark["source"][0] == pytest.approx(415, abs=30) and mark["source"][1] < 240
    assert "sure" in table and "228.0" in table
    points, table, _ = last(app.look_up(work, 0, 0))
    assert len(points["marks"]) == 2 and table.count("<tr>") == 3
    kept = json.loads((work.folder / "alignment.json").read_text())
    assert [each["target"] for each in kept["points"]] == [[228.0, 130.0], [0.0, 0.0]]
    with pytest.raises(ConfigError, match="outside the target: give x from 0 to 640 and y from 0 to 480"):
        list(app.look_up(work, 641, 3))
    assert len(work.points) == 2, "what was refused is not kept"
    points, table, _ = last(app.forget(work))
    assert points["marks"] == [] and "No point yet" in table
    with pytest.raises(ConfigError, match="There is no point: click"):
        list(app.look_up(work, None, 5))
    with pytest.raises(DatasetError, match="Nothing is aligned yet"):
        list(app.look_up(None, 1, 1))


def test_points_are_in_pixels_of_what_was_uploaded(app: ModuleType, quick, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    Image.open(PAINTING).resize((1920, 1440), Image.Resampling.BICUBIC).save(large)
    source, target = app.loaded(PAINTING, str(large))
    result = quick(source, target)
    (mark,) = last(app.look_up(app.kept(result), 960.0, 720.0))[0]["marks"]
    there = result.places(torch.tensor([[960.0, 720.0]])).source[0].tolist()
    assert mark["target"] == [960.0, 720.0]
    assert mark["source"] == pytest.approx(there, abs=0.1) and there == pytest.approx([320, 240], abs=8)


# --- what cannot be aligned


def test_strangers_are_refused_without_a_picture(app: ModuleType) -> None:
    work, shown, *others, status = last(app.align(STRANGER, PAINTING))
    assert work is None and shown["visible"] is False
    assert all(each["value"] is None for each in others[6:]), "no file"
    assert status.startswith("**No alignment was found.** Score 0.") and "two pictures of the same thing" in status


def test_a_blank_picture_has_fewer_matches_than_a_homography_needs(app: ModuleType, tmp_path: Path) -> None:
    blank = save(tmp_path / "blank.png", np.full((200, 300, 3), 128, np.uint8))
    status = last(app.align(blank, PAINTING))[-1]
    assert "a transform (homography) needs 4" in status and "The source is blank" in status
    assert "Both pictures are blank" in last(app.align(blank, blank))[-1]


def test_a_picture_that_is_fifty_times_smaller_is_told(app: ModuleType, tmp_path: Path) -> None:
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.open(STRANGER).resize((24, 18)).save(small)
    Image.open(PAINTING).resize((1200, 900)).save(large)
    status = last(app.align(str(small), str(large)))[-1]
    assert "The source is 50 times smaller" in status and "upload a larger scan" in status


def test_a_single_channel_of_sixteen_bits_is_aligned(app: ModuleType, tmp_path: Path) -> None:
    grey = np.asarray(Image.open(PAINTING).convert("L")).astype(np.uint16) * 200 + 3000
    first = list(app.align(save(tmp_path / "xray.png", grey), PAINTING))[1]
    assert first[-1].startswith("**Aligned**")


def test_missing_and_broken_pictures_are_told(app: ModuleType, tmp_path: Path) -> None:
    align = answered(app.align, outputs=14)
    assert "Target: There is no picture: upload the target" in told(align, 14, PAINTING, None)
    assert "Source: There is no picture: upload the source" in told(align, 14, None, PAINTING)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    text = told(align, 14, PAINTING, str(broken))
    assert "broken.jpg" in text and str(tmp_path) not in text
    tiny = save(tmp_path / "tiny.png", np.zeros((5, 90, 3), np.uint8))
    assert "90 x 5 pixels" in told(align, 14, tiny, PAINTING)


# --- several pictures


def test_a_group_is_averaged_and_the_stranger_left_out(app: ModuleType, tmp_path: Path) -> None:
    archive = tmp_path / "group.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for name in ("painting", "engraving", "stranger"):
            packed.write(EXAMPLES / f"{name}.jpg", f"{name}.jpg")
        packed.writestr("torn.png", b"nothing")
    reference, status = last(app.offer_names([str(archive)]))
    assert reference["value"] == "" and [value for _, value in reference["choices"]][1] == "painting.jpg"
    assert "**3 pictures.**" in status and "torn.png cannot be used" in status
    first, *steps, final = app.align_all([str(archive)], "painting.jpg")
    assert first[-1] == "Preparing…" and "2 of 4 pictures…" in [step[-1] for step in steps]
    assert steps[-1][-1].startswith("Comparing pair") and "of 2" in steps[-1][-1]
    figures, download, status = final
    assert "**2 of 3 pictures are aligned** with painting.jpg" in status
    assert "stranger.jpg is left out, score 0." in status and "torn.png cannot be used" in status
    for title in ("Unaligned: sharpness", "Coarse: sharpness", "Fine: sharpness", "<b>engraving.jpg</b>"):
        assert title in figures
    assert "stranger.jpg" not in figures
    with zipfile.ZipFile(download["value"]) as packed:
        listed = json.loads(packed.read("group.json"))
        names = set(packed.namelist())
    stages = ("unaligned", "coarse", "fine")
    assert names == {"group.json", "aligned/engraving.jpg.png", *(f"mean-{stage}.png" for stage in stages)}
    assert listed["left_out"] == ["stranger.jpg"] and list(listed["sharpness"]) == list(stages)


def test_a_group_of_strangers_has_no_mean(app: ModuleType) -> None:
    figures, _, status = last(app.align_all([STRANGER, PAINTING], "painting.jpg"))
    assert "**No alignment was found**: none of the others fits painting.jpg" in status
    assert "<figure" not in figures


def test_groups_that_are_none_are_told(app: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match="upload two or more"):
        list(app.align_all([], ""))
    with pytest.raises(DatasetError, match="one picture: a group needs two or more"):
        last(app.gather([PAINTING]))
    with pytest.raises(ConfigError, match="'no.jpg' is none of the pictures: choose one of painting.jpg, strang"):
        next(app.aligned(last(app.gather([PAINTING, STRANGER])), "no.jpg"))
    monkeypatch.setattr(app, "CHOOSING", 1)
    with pytest.raises(ConfigError, match="Of more than 1 pictures the page does not look for the reference"):
        next(app.aligned(last(app.gather([PAINTING, STRANGER])), ""))
    assert last(app.offer_names([PAINTING, STRANGER]))[0]["value"] == "painting.jpg"
    monkeypatch.setattr(app, "PICTURES", 1)
    with pytest.raises(DatasetError, match="more than 1 pictures"):
        last(app.gather([PAINTING, STRANGER]))


def test_stopping_a_group_ends_its_work(app: ModuleType) -> None:
    steps = app.aligned(last(app.gather([PAINTING, ENGRAVING])), "painting.jpg")
    assert next(steps) == "Looking at each picture…"
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)


# --- programs


@pytest.fixture(scope="module")
def client(app: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("downloads")
    with launched(app.demo.queue(**ui.QUEUE), ui.launch_options()) as url:
        client = Client(url, verbose=False, download_files=folder, analytics_enabled=False)
        yield client
        client.close()


def test_a_program_aligns_a_pair(client: Client) -> None:
    pair = handle_file(ENGRAVING), handle_file(PAINTING)
    picture, found, files = client.predict(*pair, True, [[228, 130]], api_name="/ransac_flow_run")
    with Image.open(picture) as image:
        assert (image.format, image.size) == ("PNG", (640, 480))
    assert found["found"] and found["view"] == "mirror" and found["settings"]["fine"] is True
    assert np.array(found["homographies"]).shape[1:] == (3, 3)
    assert found["points"][0]["target"] == [228.0, 130.0] and found["points"][0]["inside"]
    assert sorted(Path(file).suffix for file in files) == [".gif", ".json", ".mp4", ".npz", ".png"]


def test_a_program_is_told_of_strangers(client: Client) -> None:
    pair = handle_file(STRANGER), handle_file(PAINTING)
    picture, found, files = client.predict(*pair, api_name="/ransac_flow_run")
    assert picture is None and not files
    assert found["found"] is False and found["reason"] and found["score"] < 0.3 and found["homographies"] == []


def test_a_program_aligns_a_group(client: Client) -> None:
    photos = [handle_file(path) for path in (PAINTING, ENGRAVING)]
    found, archive = client.predict(photos, api_name="/ransac_flow_group")
    assert found["reference"] in ("painting.jpg", "engraving.jpg") and found["left_out"] == []
    assert zipfile.is_zipfile(archive)


BAD_POINTS = ([["a"]], [1], [[1]], {"a": 1}, 5, [[math.nan, 1]], [[1, math.inf]], [[10**400, 1]])


@pytest.mark.parametrize("points", BAD_POINTS, ids=range(len(BAD_POINTS)))
def test_points_are_pairs_of_finite_numbers(points: object) -> None:
    with pytest.raises(ConfigError, match="must be a list of") as caught:
        checked_points(points)
    assert len(str(caught.value)) < 200


def test_wrong_input_is_explained(client: Client) -> None:
    with pytest.raises((AppError, ValidationError), match="There is no picture: upload the target"):
        client.predict(handle_file(PAINTING), None, api_name="/ransac_flow_run")
    pair = handle_file(PAINTING), handle_file(PAINTING)
    with pytest.raises(AppError, match="must be a list of"):
        client.predict(*pair, True, [["a"]], api_name="/ransac_flow_run")
    with pytest.raises(AppError, match="There are more than 10000 points"):
        client.predict(*pair, True, [[1, 1]] * 10_001, api_name="/ransac_flow_run")
    with pytest.raises(AppError, match="lies outside the target"):
        client.predict(*pair, False, [[-4, 0]], api_name="/ransac_flow_run")
    with pytest.raises((AppError, ValidationError), match="There are no pictures"):
        client.predict([], api_name="/ransac_flow_group")


def test_the_endpoints_are_the_ones_that_were_promised(client: Client) -> None:
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/ransac_flow_run", "/ransac_flow_group"}
