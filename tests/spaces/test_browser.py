"""The gallery as a visitor meets it: in Chromium, at the width of a desk and of a telephone."""

import contextlib
import json
import re
import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from PIL import Image
from support import IN_BROWSER, overflow

import artmodels
from artmodels import images, ui
from artmodels.images.examples import example

pytestmark = IN_BROWSER
PAGES = ("fast_style", "arbitrary_style", "super_resolution", "texture_synthesis", "texture_network", "neural_style")


@pytest.fixture
def site(gallery_url: str) -> str:
    return gallery_url


def open_page(page, site: str, name: str) -> None:
    page.goto(f"{site}{name}")
    page.get_by_role("button", name="Run", exact=True).wait_for()


def upload(page, index: int, path: Path) -> None:
    page.locator("input[type=file]").nth(index).set_input_files(path)
    page.locator(".image-container img, .image-frame img").nth(index).wait_for()


def result_image(page):
    return page.locator(".results").get_by_role("tabpanel").locator("img").first


def set_number(page, label: str, value: int) -> None:
    field = page.get_by_label(label, exact=True)
    field.fill(str(value))
    field.press("Tab")


def run_to_the_end(page, seconds: int = 120) -> None:
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Finished after").wait_for(timeout=seconds * 1000)


def check_result(page, tmp_path: Path, size: tuple[int, int], *, steps: bool = True) -> dict[str, object]:
    """Look at what a run leaves: the picture, the slider, the curve, the file and the settings, which it returns."""
    result_image(page).wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download PNG").click()
    file = tmp_path / "result.png"
    download.value.save_as(file)
    with Image.open(file) as image:
        assert (image.format, image.size) == ("PNG", size)
    settings = json.loads(images.read_metadata(file)["artmodels"])
    assert settings["size"] == [size[1], size[0]]

    page.get_by_role("tab", name="Compare").click()
    slider = page.locator(".results").get_by_role("tabpanel").locator(".image-container").first
    slider.wait_for()
    before = slider.screenshot()
    box = slider.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - box["width"] / 4, middle[1], steps=4)
    page.mouse.up()
    assert slider.screenshot() != before

    if steps:
        page.get_by_role("tab", name="Loss").click()
        page.locator(".vega-embed .marks").first.wait_for()
    page.get_by_role("tab", name="Settings").click()
    page.get_by_text("artmodels_version").first.wait_for()
    return settings


def test_landing_leads_to_every_page(page, site: str) -> None:
    page.goto(site)
    for name in PAGES:
        card = page.locator(f".cards a[href='{name}']")
        assert card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
        assert overflow(page) <= 0
        card.click()
        page.get_by_role("button", name="Run", exact=True).wait_for()
        assert page.url == site + name
        assert overflow(page) <= 0
        page.go_back()
        card.wait_for()
    page.get_by_role("link", name="State of the server").click()
    assert json.loads(page.locator("pre").inner_text())["ok"] is True


def test_texture_from_upload_to_download(page, site: str, tmp_path: Path) -> None:
    open_page(page, site, "texture_synthesis")
    path = tmp_path / "brick.png"
    example("bricks").resize((64, 64)).save(path)
    upload(page, 0, path)
    set_number(page, "Width", 96)
    set_number(page, "Height", 64)
    page.get_by_label("Draft").check()
    run_to_the_end(page)
    check_result(page, tmp_path, (96, 64))
    assert overflow(page) <= 0


def test_style_from_upload_to_download(page, site: str, tmp_path: Path) -> None:
    open_page(page, site, "neural_style")
    for index, name in enumerate(("bricks", "marbling")):
        path = tmp_path / f"{name}.png"
        example(name).resize((64, 64)).save(path)
        upload(page, index, path)
    set_number(page, "Longest side", 64)
    page.get_by_label("Draft").check()
    run_to_the_end(page)
    check_result(page, tmp_path, (64, 64))
    assert overflow(page) <= 0


def choose(page, title: str) -> None:
    """Click a tile of the wall, whose radio button must follow."""
    page.locator(".wall label", has_text=title).click()
    assert page.get_by_role("radio", name=title).is_checked()


def test_photograph_from_the_wall_to_the_download(page, site: str, tmp_path: Path) -> None:
    open_page(page, site, "fast_style")
    tiles = page.locator(".wall label")
    look = "tile => getComputedStyle(tile, '::before').backgroundImage"
    assert tiles.count() == len(artmodels.list_models("fast_style"))
    for tile in tiles.all():
        assert tile.evaluate(look).startswith(f'url("{site}pictures/')
        assert tile.bounding_box()["width"] > 60
    choose(page, "The Scream")
    path = tmp_path / "photo.png"
    example("astronaut").resize((96, 64)).save(path)
    upload(page, 0, path)
    run_to_the_end(page)
    settings = check_result(page, tmp_path, (96, 64), steps=False)
    assert settings["model"] == "fast-style-scream"
    assert not page.get_by_role("button", name="Stop").is_visible()
    assert overflow(page) <= 0


def test_several_photographs_come_back_as_an_archive(page, site: str, tmp_path: Path) -> None:
    open_page(page, site, "fast_style")
    choose(page, "The City Rises")
    page.get_by_role("tab", name="Several pictures").click()
    for name in ("astronaut", "coffee"):
        example(name).resize((96, 64)).save(tmp_path / f"{name}.png")
    (tmp_path / "letter.txt").write_text("not a picture")
    files = [tmp_path / name for name in ("astronaut.png", "letter.txt", "coffee.png")]
    page.locator(".batch input[type=file]").set_input_files(files)
    page.get_by_text("letter").first.wait_for()
    page.get_by_role("button", name="Run all").click()
    page.get_by_text("Finished: 2 of 3 pictures").wait_for(timeout=120_000)
    assert page.get_by_text("'letter.txt' is text, not pixels").is_visible()
    assert page.locator(".batch-results img").count() == 2
    with page.expect_download() as download:
        page.get_by_text("Download ZIP").click()
    download.value.save_as(tmp_path / "result.zip")
    with zipfile.ZipFile(tmp_path / "result.zip") as packed:
        assert packed.namelist() == ["astronaut.png", "coffee.png", "report.json"]
    assert overflow(page) <= 0


def test_any_picture_is_a_style(page, site: str, tmp_path: Path) -> None:
    open_page(page, site, "arbitrary_style")
    for label, name in (("Photograph", "astronaut"), ("Style", "marbling")):
        path = tmp_path / f"{name}.png"
        example(name).resize((96, 64)).save(path)
        control = page.locator(".block", has=page.get_by_text(label, exact=True)).filter(
            has=page.locator("input[type=file]")
        )
        control.locator("input[type=file]").first.set_input_files(path)
        page.locator(f"img[src*='{name}.png']").first.wait_for()
    run_to_the_end(page)
    settings = check_result(page, tmp_path, (96, 64), steps=False)
    assert (settings["model"], settings["style_weights"]) == ("arbitrary-style", [1.0])
    page.get_by_text("More styles").click()
    page.get_by_text("Weight of style 4").wait_for()
    assert overflow(page) <= 0


def test_samples_of_texture_network_from_the_wall_to_the_downloads(page, site: str, tmp_path: Path) -> None:
    open_page(page, site, "texture_network")
    assert page.locator(".wall label").count() == len(artmodels.list_models("texture_network"))
    choose(page, "Gravel")
    set_number(page, "Width", 96)
    set_number(page, "Height", 64)
    run_to_the_end(page)
    result_image(page).wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download PNG").click()
    download.value.save_as(tmp_path / "gravel.png")
    settings = json.loads(images.read_metadata(tmp_path / "gravel.png")["artmodels"])
    assert (settings["model"], settings["size"]) == ("texture-network-gravel", [64, 96])
    page.get_by_role("tab", name="Four copies").click()
    copies = page.locator(".results img:visible")
    copies.wait_for()
    assert copies.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [192, 128]

    page.get_by_role("tab", name="Several textures").click()
    set_number(page, "Count", 3)
    page.get_by_role("button", name="Run all").click()
    page.get_by_text("Finished: 3 of 3 pictures").wait_for(timeout=120_000)
    assert page.locator(".batch-results img").count() == 3
    with page.expect_download() as download:
        page.get_by_text("Download ZIP").click()
    download.value.save_as(tmp_path / "result.zip")
    with zipfile.ZipFile(tmp_path / "result.zip") as packed:
        assert packed.namelist() == ["seed0.png", "seed1.png", "seed2.png", "report.json"]
    assert overflow(page) <= 0


def test_things_are_found_in_a_collection_by_clicking(page, site: str, tmp_path: Path) -> None:
    """Nine seascapes, towers in five of them: mark two with and the rest without, train, correct, and take it home."""
    page.goto(f"{site}mimax")
    examples = Path(__file__).parents[2] / "spaces" / "mimax" / "examples"
    files = [examples / f"seascape-{number:02}.jpg" for number in range(9)]  # towers in 0, 1, 3, 5 and 8
    page.locator("input[type=file]").first.set_input_files(files)
    page.get_by_text("9 pictures. Name what you look for").wait_for()
    field = page.get_by_label("What are you looking for?")
    field.fill("tower")
    field.press("Enter")
    page.get_by_text("Looking for “tower”").wait_for()
    wall = page.locator(".mimax-wall .tile")
    for number in (0, 1, 3):
        wall.nth(number).click()
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("No picture is marked “✗ no” for “tower”").first.wait_for()
    for number in (2, 4, 6, 7):
        wall.nth(number).click()
        wall.nth(number).click()
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("“tower”, learnt from 3 ✓ and 4 ✗:").wait_for(timeout=120_000)
    found = page.locator(".mimax-found .tile")
    found.first.wait_for()
    assert found.count() >= 3
    names = found.all_inner_texts()
    assert sum(any(f"seascape-{n:02}" in name for n in (0, 1, 3, 5, 8)) for name in names[:3]) >= 2, names
    page.get_by_role("button", name="Export boxes and classifier").click()
    page.get_by_text("has the boxes and the classifier").wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download ZIP").first.click()
    download.value.save_as(tmp_path / "tower.zip")
    with zipfile.ZipFile(tmp_path / "tower.zip") as packed:
        assert len(json.loads(packed.read("detections.json"))["images"]) == 9
        assert "classifier-tower/model.safetensors" in packed.namelist()
    assert overflow(page) <= 0
    # The message about what is missing is an error on purpose.
    page.faults[:] = [fault for fault in page.faults if "422" not in fault]


def test_an_example_previews_and_stops(page, site: str) -> None:
    open_page(page, site, "texture_synthesis")
    page.locator("button.gallery-item").first.click()
    page.locator(".image-container img, .image-frame img").first.wait_for()
    page.get_by_label("Fine", exact=True).check()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Step 1 of").or_(page.get_by_text("scale 1 of")).first.wait_for()
    result_image(page).wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("Stopped.").wait_for()
    page.wait_for_timeout(1500)
    assert page.get_by_text("Stopped.").is_visible()
    assert not page.locator(".status span.error").is_visible()


def test_messages_stand_beside_their_controls(page, site: str, tmp_path: Path) -> None:
    open_page(page, site, "texture_synthesis")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("There is no picture: upload a picture of the texture").first.wait_for()
    path = tmp_path / "one.png"
    Image.new("RGB", (1, 1)).save(path)
    upload(page, 0, path)
    set_number(page, "Width", 5000)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("This picture is 1 x 1 pixels").first.wait_for()
    page.get_by_text("Width is 5000: give 64 to 1024.").first.wait_for()
    # The server answers 422, which the browser notes as an error of its own.
    page.faults[:] = [fault for fault in page.faults if "422" not in fault]


def test_a_click_during_a_run_counts_and_each_result_names_what_made_it(
    page, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, asked = threading.Event(), []
    model = ui.MODELS("fast-style-scream")

    def wait(picture, **options):
        asked.append(picture.width)
        assert gate.wait(60)
        gate.clear()
        return model(picture, **options)

    monkeypatch.setattr(ui.MODELS, "_models", OrderedDict())
    monkeypatch.setattr(ui.MODELS, "load", lambda name: wait)
    open_page(page, site, "fast_style")
    page.locator("button.gallery-item").first.click()
    page.locator(".image-container img, .image-frame img").first.wait_for()
    made = page.locator(".made").first
    run = page.get_by_role("button", name="Run", exact=True)
    run.click()
    page.get_by_text("Working…").first.wait_for()
    page.get_by_text("The City Rises").click()
    run.click()
    page.get_by_text("Next: what is set now.").first.wait_for()
    assert "The Starry Night" in made.inner_text()
    gate.set()
    page.get_by_text("Painting: The City Rises").wait_for()
    gate.set()
    page.get_by_text("Finished after").first.wait_for()
    assert made.inner_text() == "Photograph: astronaut.png · Painting: The City Rises"
    assert len(asked) == 2


def test_whoever_waits_sees_it_and_what_is_refused_leaves_the_last_status(
    page, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, asked, brick = threading.Event(), threading.Event(), tmp_path / "brick.png"
    example("bricks").resize((64, 64)).save(brick)
    model = ui.MODELS("fast-style-scream")

    def wait(picture, **options):
        asked.set()
        assert gate.wait(60)
        return model(picture, **options)

    monkeypatch.setattr(ui.MODELS, "_models", OrderedDict())
    monkeypatch.setattr(ui.MODELS, "load", lambda name: wait)
    open_page(page, site, "fast_style")
    run = page.get_by_role("button", name="Run", exact=True)
    run.click()  # there is no picture
    page.get_by_text("There is no picture").first.wait_for()
    assert page.locator(".status").first.inner_text() == "Nothing has run yet."
    assert page.faults
    page.faults.clear()
    page.locator("button.gallery-item").first.click()
    page.locator(".image-container img, .image-frame img").first.wait_for()
    other = Client(site, verbose=False, download_files=False, analytics_enabled=False)
    with contextlib.closing(other):
        job = other.submit(handle_file(brick), api_name="/fast_style_run")
        assert asked.wait(60)
        run.click()
        pending = page.locator(".status .pending .md").first
        pending.wait_for()
        words = pending.evaluate("line => getComputedStyle(line, '::before').content")
        turn = r'"(Waiting|1 before you(, about 1 second|, about \d+ seconds)?: waiting) for the machine…"'
        assert re.fullmatch(turn, words)
        page.wait_for_function(
            "document.querySelector('.block.status').style.getPropertyValue('--turn').includes('1 before you')"
        )
        gate.set()
        page.get_by_text("Finished after").first.wait_for()
        job.result(timeout=60)
