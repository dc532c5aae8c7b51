"""The page that finds things, as a visitor meets it: marks are the browser's, whatever the server is busy with."""

import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from support import IN_BROWSER, ROOT, launched, load_script, overflow

from artmodels import ui

pytestmark = IN_BROWSER


@pytest.fixture(scope="module")
def app() -> ModuleType:
    return load_script(ROOT / "spaces" / "mimax" / "app.py")


@pytest.fixture(scope="module")
def site(app: ModuleType) -> Iterator[str]:
    with launched(app.demo.queue(**ui.QUEUE), ui.launch_options()) as url:
        yield url


class Training:
    """Takes the place of a training, which is as slow as the test wants."""

    def __init__(self) -> None:
        self.given: list[dict[str, dict[str, bool]]] = []
        self.go = threading.Semaphore(0)

    def __call__(self, work: Any, marks: dict[str, dict[str, bool]]) -> Iterator[str]:
        self.given.append(marks)
        yield "Training…"
        assert self.go.acquire(timeout=60)
        for label, answers in marks.items():
            work.learnt[label] = dict(answers)


@pytest.fixture
def training(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Training]:
    made = Training()
    monkeypatch.setattr(app, "train_on", made)

    def shown(work: Any, label: str, _: float) -> tuple[Any, str]:
        """The first two pictures, with any training."""
        if work is None or label not in work.learnt:
            return app.marking.found_update(label, []), ""
        tiles = [(name, work.thumbnail(name), 0.5) for name in work.files[:2]]
        return app.marking.found_update(label, tiles), "**2 places**."

    monkeypatch.setattr(app, "shown", shown)
    yield made
    made.go.release(100)


def marks_of(page) -> dict[str, bool]:
    """What the wall shows, as it is read out."""
    said = page.locator(".mimax-wall .tile").evaluate_all(
        "all => all.map((one) => [one.getAttribute('aria-label'), one.getAttribute('aria-pressed')])"
    )
    pressed = {"yes": "true", "no": "false", "unknown": "mixed"}
    pairs = [(*label.rsplit(": ", 1), state) for label, state in said]
    assert all(pressed[word] == state for _, word, state in pairs)
    return {name: word == "yes" for name, word, _ in pairs if word != "unknown"}


def begin(page, site: str) -> Any:
    page.goto(site)
    page.get_by_role("button", name="Take the example collection").click()
    page.get_by_text("a third of them labelled").wait_for()
    tiles = page.locator(".mimax-wall .tile")
    tiles.nth(35).wait_for(state="attached")
    return tiles


def look(page, label: str) -> None:
    field = page.get_by_label("What are you looking for?")
    field.fill(label)
    field.press("Enter")
    page.wait_for_function(
        "label => document.querySelector('.mimax-wall .count').textContent.includes(label)",
        arg="“" + " ".join(label.split()) + "”",
    )


def test_clicks_while_the_server_is_busy_all_count(page, site: str, training: Training) -> None:
    tiles = begin(page, site)
    train = page.get_by_role("button", name="Train", exact=True)
    before = marks_of(page)
    assert len(before) == 12
    train.click()
    page.get_by_text("Training…").wait_for()

    # One and the same click thirty times in a moment, as no hand can, while the training keeps the server.
    page.evaluate("[...document.querySelectorAll('.mimax-wall .tile')].slice(12, 27).forEach((one) => one.click())")
    page.evaluate("[...document.querySelectorAll('.mimax-wall .tile')].slice(20, 27).forEach((one) => one.click())")
    tiles.nth(27).click()
    tiles.nth(28).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    names = [f"seascape-{number:02}.jpg" for number in range(36)]
    clicked = dict.fromkeys(names[12:20], True) | dict.fromkeys(names[20:27], False)
    clicked |= {names[27]: True, names[28]: False}
    assert marks_of(page) == before | clicked
    assert page.locator(".mimax-wall .tile:focus").get_attribute("aria-label") == f"{names[28]}: no"

    training.go.release()
    yes, no = list(before.values()).count(True), list(before.values()).count(False)
    page.get_by_text(f"“ship”, learnt from {yes} ✓ and {no} ✗").wait_for()
    assert training.given == [{"ship": before}], "those of the moment when it began"
    assert marks_of(page) == before | clicked, "what was clicked meanwhile is kept"

    training.go.release()
    train.click()
    page.get_by_text(f"learnt from {yes + 9} ✓ and {no + 8} ✗").wait_for()
    assert training.given[1] == {"ship": before | clicked}, "and counts for the next"
    assert overflow(page) <= 0


def test_marks_outlive_a_change_of_class_and_what_is_found_marks_the_same(page, site: str, training: Training) -> None:
    tiles = begin(page, site)
    ship = marks_of(page)
    training.go.release(10)
    page.get_by_role("button", name="Train", exact=True).click()
    found = page.locator(".mimax-found .tile")
    found.nth(1).wait_for()
    first = found.first.get_attribute("aria-label")
    assert first == tiles.first.get_attribute("aria-label")
    found.first.click()
    assert found.first.get_attribute("aria-label") == tiles.first.get_attribute("aria-label") != first
    ship = marks_of(page)

    look(page, "  a <b>wave</b>   ")
    assert marks_of(page) == {}
    tiles.nth(3).click()
    page.get_by_role("button", name="Mark all others ✗ no").click()
    wave = {f"seascape-{number:02}.jpg": number == 3 for number in range(36)}
    assert marks_of(page) == wave
    assert page.locator(".mimax-wall b").count() == 0, "a name is text"
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("learnt from 1 ✓ and 35 ✗").wait_for()
    page.locator(".classes button", has_text="ship").click()
    assert marks_of(page) == ship
    page.get_by_role("button", name="Train", exact=True).click()
    page.get_by_text("“ship”, learnt from").first.wait_for()
    assert [list(given) for given in training.given] == [["ship"], ["a <b>wave</b>"], ["ship"]]
    assert training.given[1:] == [{"a <b>wave</b>": wave}, {"ship": ship}]
    assert overflow(page) <= 0


def test_a_wall_is_light(page, site: str) -> None:
    """Pictures are files, fetched when they come into sight; nothing is marked without a name."""
    fetched = set[str]()
    page.on("request", lambda request: fetched.add(request.url) if "/file=" in request.url else None)
    tiles = begin(page, site)
    page.wait_for_function("document.querySelector('.mimax-wall img').naturalWidth > 100")
    sources = page.locator(".mimax-wall img").evaluate_all("all => all.map((one) => [one.src, one.loading])")
    assert len({source for source, _ in sources}) == 36
    assert all(source.startswith(f"{site}gradio_api/file=") and lazy == "lazy" for source, lazy in sources)
    assert fetched <= {source for source, _ in sources}
    assert len(page.content()) < 400_000
    look_at = page.get_by_label("What are you looking for?")
    look_at.fill("")
    look_at.press("Enter")
    page.get_by_text("Name what you look for.").wait_for()
    tiles.first.click()
    page.get_by_text("Name what you look for first.").wait_for()
    assert marks_of(page) == {} and look_at.evaluate("one => one === document.activeElement")
