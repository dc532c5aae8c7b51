"""What a visitor works on, and what a page shows of work while it goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from artmodels.errors import ConfigError, DatasetError
from artmodels.progress import Progress
from artmodels.ui.running import calm
from artmodels.ui.visitors import VisitorPictures, Works, present
from artmodels.ui.widgets.canvas import corners


def brought(folder: Path, **options: object) -> VisitorPictures:
    for name, colour in (("a.png", "red"), ("b.png", "blue"), ("twin.png", "red")):
        Image.new("RGB", (900, 600), colour).save(folder / name)
    paths = [str(folder / name) for name in ("a.png", "twin.png", "b.png")]
    *texts, made = VisitorPictures(folder / "made").collect(paths, most=3, **options)
    assert texts == ["0 of 3 pictures…", "1 of 3 pictures…", "2 of 3 pictures…"]
    return made


def test_pictures_come_in_with_small_versions(tmp_path: Path) -> None:
    made = brought(tmp_path)
    assert (made.files, made.twins) == (["a.png", "b.png"], {"twin.png": "a.png"})
    assert made.sizes == {"a.png": (900, 600), "b.png": (900, 600)}
    made.files.remove("a.png")
    with Image.open(made.thumbnail("b.png")) as small:
        assert small.size == (480, 320), "the small version stays that of its picture"
    assert made.left_out() == "\n- twin.png is left out: it has the same bytes as a.png"
    assert [made.named(name) for name in ("b.png", "1", " 1 ")] == ["b.png"] * 3
    for name in ("0", "2", "², nothing", None):
        with pytest.raises(ConfigError, match="is none of the pictures: give a number from 1 to 1, or one of b.png"):
            made.named(name)


def test_a_picture_may_come_twice(tmp_path: Path) -> None:
    made = brought(tmp_path, repeated=True)
    assert made.files == ["a.png", "twin.png", "b.png"] and made.left_out() == ""


def test_work_is_there_or_the_reason_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There is no collection yet"):
        present(None)
    made = brought(tmp_path)
    assert present(made) is made
    made.folder.rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match="begin again"):
        present(made, deleted="begin again")


def test_steps_that_come_too_soon_are_left_out_and_the_result_is_not() -> None:
    def steps() -> Iterator[object]:
        yield from (Progress(number, 9) for number in range(9))
        yield "result"

    assert list(calm(steps(), pause=60)) == [Progress(0, 9), "result"]
    assert len(list(calm(steps(), pause=0))) == 10
    inner = steps()
    outer = calm(inner)
    next(outer)
    outer.close()
    assert list(inner) == [], "closed with what shows it"


def test_numbers_of_a_box_are_its_corners() -> None:
    assert corners((10, 20, 30, 40), (100, 100)) == (10, 20, 40, 60)
    assert corners((-5, 20, 30, 400), (100, 100)) == (-5, 20, 25, 420)
    with pytest.raises(ConfigError, match="lies outside the picture"):
        corners((99, 20, 30, 40), (100, 100))


def test_works_are_found_again_until_their_files_are_deleted(tmp_path: Path) -> None:
    works, folders = Works(most=2), [tmp_path / name for name in "abc"]
    for folder in folders:
        (folder / "pictures").mkdir(parents=True)
        works.add(folder.name, VisitorPictures(folder))
    assert works.get("a") is None
    assert works.get("c").folder == folders[2]
    (folders[2] / "pictures").rmdir()
    assert [works.get(name) for name in ("c", "", None, ["b"])] == [None] * 4
    assert works.get("b").folder == folders[1]
