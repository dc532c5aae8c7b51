"""The page that aligns pictures, as a visitor meets it: in Chromium, at the width of a desk and of a telephone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from support import IN_BROWSER, ROOT, launched, load_script, overflow

import artmodels
from artmodels import ui

pytestmark = IN_BROWSER


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    app = load_script(ROOT / "spaces" / "ransac_flow" / "app.py")
    views = ("", "mirror")
    model = artmodels.RansacFlow.from_pretrained(side=240, steps=1, hypotheses=2000, views=views, device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ui, "MODELS", lambda _: model)
        with launched(app.demo.queue(**ui.QUEUE), ui.launch_options()) as url:
            yield url


def align(page, number: int) -> None:
    page.locator(".samples button").nth(number).click()
    page.get_by_text("An example is ready").wait_for()
    page.get_by_role("button", name="Align", exact=True).click()


def opacity(page) -> str:
    return page.locator(".overlay .over").evaluate("image => getComputedStyle(image).opacity")


def test_an_engraving_is_compared_clicked_and_taken_home(page, site: str, tmp_path: Path) -> None:
    page.goto(site)
    assert not page.get_by_role("tab", name="Swipe").is_visible(), "there is nothing to show yet"
    align(page, 0)
    page.get_by_text("The source is mirrored").wait_for(timeout=120_000)
    slider = page.locator(".aligned").get_by_role("tabpanel").locator(".image-container").first
    slider.wait_for()
    assert overflow(page) <= 0

    page.get_by_text("Writing files").wait_for(state="hidden")  # what comes after must not undo what came before
    page.get_by_role("tab", name="Overlay").click()
    page.wait_for_function("document.querySelector('.overlay .over')?.naturalWidth > 100")
    assert opacity(page) == "0.5"
    page.get_by_label("Opacity of the source").fill("20")
    assert opacity(page) == "0.2"
    fine = page.locator(".overlay .over").get_attribute("src")
    page.get_by_label("Coarse").check()
    page.wait_for_function("old => document.querySelector('.overlay .over').src !== old", arg=fine)
    assert opacity(page) == "0.2", "the opacity stays"
    page.get_by_label("Flicker").check()
    assert page.locator(".overlay .over").evaluate("image => image.getAnimations().length") == 1

    page.get_by_role("tab", name="Points").click()
    target = page.locator(".points .target .picture")
    target.scroll_into_view_if_needed()
    area = target.bounding_box()
    target.click(position={"x": area["width"] * 228 / 640, "y": area["height"] * 130 / 480})
    page.locator(".points .source .mark").wait_for()
    assert page.locator(".points .target .mark").count() == 1
    left = page.locator(".points .source .mark").evaluate("mark => parseFloat(mark.style.left)")
    assert 60 < left < 70, "the bird looks the other way"
    page.get_by_label("Target x").fill("5")
    page.get_by_label("Target y").fill("900")
    page.get_by_role("button", name="Look up").click()
    page.get_by_text("It did not work: A point lies outside the target").wait_for()
    assert overflow(page) <= 0

    page.get_by_role("tab", name="Maps").click()
    shown = page.locator(".figures img:visible")
    shown.first.wait_for()
    assert shown.count() == 7
    assert shown.evaluate_all("all => all.every((one) => one.complete && one.naturalWidth > 100)")
    assert overflow(page) <= 0

    page.get_by_role("tab", name="Files").click()
    with page.expect_download() as download:
        page.get_by_text("Matches (JSON)").click()
    download.value.save_as(tmp_path / "matches.json")
    listed = json.loads((tmp_path / "matches.json").read_text())
    assert listed["found"] and len(listed["points"]) == 1
    with page.expect_download() as download:
        page.get_by_text("Picture (PNG)").click()
    download.value.save_as(tmp_path / "aligned.png")
    with Image.open(tmp_path / "aligned.png") as image:
        assert (image.format, image.size) == ("PNG", (640, 480))
    assert overflow(page) <= 0


def test_strangers_are_refused(page, site: str) -> None:
    page.goto(site)
    align(page, 4)
    page.get_by_text("No alignment was found.").wait_for(timeout=120_000)
    assert page.get_by_text("crop frames, margins and colour charts").is_visible()
    assert not page.get_by_role("tab", name="Swipe").is_visible()
    assert overflow(page) <= 0


def test_the_example_group_is_averaged(page, site: str) -> None:
    page.goto(site)
    page.get_by_role("tab", name="Several pictures").click()
    page.get_by_role("button", name="Take the example group").click()
    page.get_by_text("6 pictures.").wait_for()
    page.get_by_label("Reference").click()
    page.get_by_role("option", name="painting.jpg").click()
    page.get_by_role("button", name="Align all").click()
    page.get_by_text("5 of 6 pictures are aligned").wait_for(timeout=120_000)
    assert page.get_by_text("stranger.jpg is left out").is_visible()
    assert page.locator(".figures img:visible").count() == 7
    assert overflow(page) <= 0

    page.reload()
    page.get_by_role("tab", name="Several pictures").click()
    page.get_by_text("6 pictures.").wait_for()  # they are there again
