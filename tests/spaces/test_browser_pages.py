"""What every page owes its visitors: all in sight, nothing lost, and no barrier."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from support import IN_BROWSER, overflow

from artmodels import images
from artmodels.hub import catalogue
from artmodels.images.examples import example

pytestmark = IN_BROWSER
METHODS = [method.id for method in catalogue.methods()]
BUTTONS = {"mimax": "Train", "artminer": "Find it elsewhere", "ransac_flow": "Align"}


@pytest.fixture
def site(gallery_url: str) -> str:
    return gallery_url


@pytest.fixture
def desk(browser, site: str) -> Iterator:
    with contextlib.closing(browser.new_page(viewport={"width": 1280, "height": 900})) as page:
        yield page


@pytest.mark.parametrize("name", ["", *METHODS])
def test_axe_finds_nothing_serious(desk, site: str, name: str) -> None:
    desk.goto(site + name)
    desk.locator("h1").first.wait_for()
    desk.wait_for_timeout(500)  # names of thumbnails are given a moment after they come
    found = Axe().run(desk, options={"resultTypes": ["violations"]}).response["violations"]
    serious = {
        fault["id"]: [node["html"][:200] for node in fault["nodes"]]
        for fault in found
        if fault["impact"] in {"serious", "critical"}
    }
    assert serious == {}


def test_run_is_in_sight_and_pages_have_their_own_titles(page, site: str) -> None:
    titles = set()
    for name in METHODS:
        page.goto(site + name)
        run = page.get_by_role("button", name=BUTTONS.get(name, "Run"), exact=True)
        run.wait_for()
        height = page.viewport_size["height"]
        box = run.bounding_box()
        assert box["y"] + box["height"] <= height, name
        assert page.locator(".nav-holder").bounding_box()["height"] < 60
        here = page.locator(".nav-holder a.active").bounding_box()
        page.locator(".nav-holder a[aria-current=page]").wait_for()
        assert here["x"] >= 0
        assert overflow(page) <= 0, name
        if page.viewport_size["width"] > 640 and name not in BUTTONS:
            assert page.locator(".results").first.bounding_box()["y"] < height / 2, name
        titles.add(page.title())
    assert len(titles) == len(METHODS)
    assert "Fast style · artmodels" in titles


def test_a_bad_file_is_refused_at_upload_and_the_message_goes_with_it(page, site: str, tmp_path: Path) -> None:
    page.goto(f"{site}fast_style")
    page.get_by_role("button", name="Run", exact=True).wait_for()
    (tmp_path / "letter.png").write_text("not a picture")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "letter.png")
    message = page.get_by_text("'letter.png' is text, not pixels").first
    message.wait_for()
    page.locator("button.gallery-item").first.click()
    message.wait_for(state="hidden")
    page.faults[:] = [fault for fault in page.faults if "422" not in fault]


def test_reload_brings_pictures_settings_and_the_result_again(page, site: str, tmp_path: Path) -> None:
    page.goto(f"{site}fast_style")
    run = page.get_by_role("button", name="Run", exact=True)
    run.wait_for()
    example("astronaut").resize((96, 64)).save(tmp_path / "photo.png")
    page.locator("input[type=file]").first.set_input_files(tmp_path / "photo.png")
    page.locator(".image-container img, .image-frame img").first.wait_for()
    page.locator(".wall label", has_text="The Scream").click()
    run.click()
    page.get_by_text("Finished after").wait_for()
    page.wait_for_url("**/fast_style?result=run-*")
    if page.viewport_size["width"] < 640:  # the page has moved to it
        assert page.locator(".status").first.bounding_box()["y"] < page.viewport_size["height"]
    address = page.url
    page.reload()
    page.get_by_text("Finished after").wait_for()
    assert page.get_by_text("Painting: The Scream").is_visible()
    page.locator(".results img").first.wait_for()
    page.get_by_text("artmodels run fast_style photo.png --name fast-style-scream").first.wait_for()
    with page.expect_download():
        page.get_by_text("Download PNG").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download JPEG").click()
    download.value.save_as(tmp_path / "painted.jpg")
    assert download.value.suggested_filename == "fast-style-scream.jpg"
    assert images.load(tmp_path / "painted.jpg").format == "JPEG"
    assert json.loads(images.read_metadata(tmp_path / "painted.jpg")["artmodels"])["model"] == "fast-style-scream"
    page.wait_for_function("document.querySelector('.image-frame img, .image-container img').src.includes('photo.png')")
    page.get_by_role("radio", name="The Scream", checked=True).wait_for(state="attached")

    other = page.context.browser.new_page()  # whoever gets the address
    with contextlib.closing(other):
        other.goto(address)
        other.get_by_text("Finished after").wait_for()
        other.goto(address[:-8] + "00000000")
        other.get_by_text("This result was deleted").first.wait_for()


def test_a_picture_that_browsers_do_not_show_is_seen_and_reaches_the_method_as_it_is(
    page, site: str, tmp_path: Path
) -> None:
    page.goto(f"{site}fast_style")
    run = page.get_by_role("button", name="Run", exact=True)
    run.wait_for()
    file = tmp_path / "scan of 1890.tif"
    example("astronaut").resize((96, 64)).save(file, dpi=(300, 300))
    page.locator("input[type=file]").first.set_input_files(file)
    seen = "() => [...document.querySelectorAll('.image-frame img')].some((image) => image.naturalWidth === 96)"
    page.wait_for_function(seen)
    run.click()
    page.get_by_text("Finished after").wait_for()
    assert page.get_by_text("Photograph: scan of 1890.tif").is_visible()
    with page.expect_download() as download:
        page.get_by_text("Download PNG").click()
    download.value.save_as(tmp_path / "made.png")
    assert images.load(tmp_path / "made.png").origin.dpi(96, 64) == pytest.approx((300, 300), rel=1e-3)
    page.reload()
    page.wait_for_function(seen)
    page.get_by_text("Finished after").wait_for()


def test_stop_leaves_the_picture_so_far(page, site: str) -> None:
    page.goto(f"{site}texture_synthesis")
    page.get_by_role("button", name="Run", exact=True).wait_for()
    page.locator("button.gallery-item[aria-label='Example: weave']").click()
    page.locator(".image-container img, .image-frame img").first.wait_for()
    page.get_by_label("Fine", exact=True).check()
    page.get_by_role("button", name="Run", exact=True).click()
    page.locator(".results img").first.wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("Stopped.").wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download PNG").click()
    assert download.value.suggested_filename == "stopped.png"
    with page.expect_download() as download:
        page.get_by_role("link", name="Download WebP").click()
    assert download.value.suggested_filename == "stopped.webp"
