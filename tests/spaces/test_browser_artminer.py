"""The page that finds a detail, as a visitor meets it: in Chromium, at the width of a desk and of a telephone."""

import csv
import io
import json
import zipfile
from pathlib import Path

import pytest
from support import IN_BROWSER, ROOT, overflow

pytestmark = IN_BROWSER
TRUTH = json.loads((ROOT / "spaces" / "artminer" / "examples" / "boxes.json").read_text(encoding="utf-8"))


@pytest.fixture
def site(artminer_url: str) -> str:
    return artminer_url


def numbers(page) -> list[str]:
    return [page.get_by_label(name, exact=True).input_value() for name in ("x", "y", "width", "height")]


def drag(page, box: tuple[float, float, float, float], size: tuple[int, int]) -> None:
    """Draw a box, given in pixels of a picture of some size, from its lower right to its upper left."""
    picture = page.locator(".artminer-canvas .picture")
    picture.scroll_into_view_if_needed()
    area = picture.bounding_box()
    left, right = (area["x"] + area["width"] * value / size[0] for value in (box[0], box[2]))
    top, bottom = (area["y"] + area["height"] * value / size[1] for value in (box[1], box[3]))
    page.mouse.move(right, bottom)
    page.mouse.down()
    page.mouse.move((left + right) / 2, (top + bottom) / 2, steps=3)
    page.mouse.move(left, top, steps=3)
    page.mouse.up()


def test_a_detail_is_drawn_found_judged_and_taken_home(page, site: str, tmp_path: Path) -> None:
    page.goto(site)
    page.get_by_role("button", name="Take the example collection").click()
    page.get_by_text("A box is around the bird").wait_for()
    page.wait_for_function("document.querySelector('.artminer-canvas .box.drawn')")
    assert numbers(page) == ["175", "59", "310", "302"]
    assert not page.get_by_role("button", name="✓ Same").first.is_visible(), "nothing is shown yet"

    page.locator(".collection button:has(img)").nth(2).click()
    page.get_by_text("chart.jpg: draw a box").wait_for()
    page.wait_for_function("!document.querySelector('.artminer-canvas .box.drawn')")
    wanted = TRUTH["chart.jpg"]["compass"]
    drag(page, wanted, (640, 480))
    page.wait_for_function("[...document.querySelectorAll('input[type=number]')].some((one) => one.value > 300)")
    x, y, width, height = map(int, numbers(page))
    for given, drawn in zip(wanted, (x, y, x + width, y + height), strict=True):
        assert abs(given - drawn) <= 4

    frame = page.locator(".artminer-canvas .box")
    before = frame.bounding_box()["width"]
    field = page.get_by_label("width", exact=True)
    field.fill(str(width // 2))
    field.press("Tab")
    page.wait_for_function(f"document.querySelector('.artminer-canvas .box').offsetWidth < {0.6 * before}")
    field.fill(str(width))
    field.press("Tab")

    page.get_by_role("button", name="Find it elsewhere").click()
    page.get_by_text("Finished after").first.wait_for(timeout=120_000)  # features are computed once
    found = page.locator(".found button:has(img)")
    found.first.wait_for()
    assert "table.jpg" in found.first.inner_text()
    found.first.click()
    page.get_by_text("Does it show the same detail?").wait_for()
    shown = page.locator(".evidence img")
    shown.nth(4).wait_for(state="attached")
    assert shown.count() == 5
    assert shown.evaluate_all("all => all.every((one) => one.complete && one.naturalWidth > 100)")
    assert page.locator(".evidence .over").first.evaluate("one => one.getAnimations().length") == 1, "both by turns"
    assert page.get_by_text("Correspondences").is_visible()
    page.get_by_role("button", name="✓ Same").first.click()
    page.get_by_text("1 verdict so far").wait_for()
    found.first.get_by_text("✓ 0.").wait_for()
    assert overflow(page) <= 0

    page.get_by_role("tab", name="Take home").click()
    page.get_by_role("button", name="Export what was found").click()
    page.get_by_text("artminer.zip has").wait_for()
    with page.expect_download() as download:
        page.get_by_text("Download ZIP").click()
    download.value.save_as(tmp_path / "result.zip")
    with zipfile.ZipFile(tmp_path / "result.zip") as packed:
        rows = list(csv.DictReader(io.StringIO(packed.read("detail/hits.csv").decode())))
        verdict = json.loads(packed.read("verdicts.jsonl"))
        assert "detail/report.html" in packed.namelist()
    assert rows[0]["image"] == "table.jpg"
    assert (verdict["first"], verdict["second"], verdict["verdict"]) == ("chart.jpg", "table.jpg", "same")
    assert overflow(page) <= 0
