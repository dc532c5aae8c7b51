"""A reload loses nothing that the server still has, and a result says how to make it again."""

import json
import os
import re
import shlex
import time
from pathlib import Path
from urllib.parse import quote

import gradio as gr
import pytest
import torch
from gradio.utils import get_upload_folder
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

import artmodels
from artmodels import images, ui
from artmodels.descent.optimise import Step
from artmodels.images.examples import example
from artmodels.images.results import ImageResult
from artmodels.ui.controls import run_folder
from artmodels.ui.keeping import ROUTE, brought_back, folder_of, keep, kept, other_kinds, recipe
from artmodels.ui.running import STOPPED, stopped_picture
from artmodels.ui.server.components import Choice, Files, Picture

SKIP = gr.skip()


@pytest.fixture
def controls() -> list:
    with gr.Blocks():
        return [
            Picture(label="Photograph"),
            Files(label="Pictures", file_count="multiple"),
            Choice([("The Scream", "fast-style-scream"), ("Ink", "ink")], value="ink", label="Painting"),
            gr.Slider(0, 1, 1, label="Strength"),
            gr.Number(0, label="Longest side"),
            gr.Checkbox(False, label="Seamless"),
        ]


def saved(values: list, age: float = 0) -> str:
    return json.dumps({"at": time.time() - age, "values": values})


def test_inputs_come_back_if_the_server_still_has_them(controls: list) -> None:
    folder = Path(get_upload_folder()) / "here"
    folder.mkdir(parents=True, exist_ok=True)
    example("bricks").resize((8, 8)).save(folder / "a.png")
    there, gone, secret = ({"path": str(path)} for path in (folder / "a.png", folder / "b.png", Path("/etc/passwd")))
    values = [there, [there, gone, secret], "fast-style-scream", 0.5, 64, True]
    path = there["path"]
    assert brought_back(saved(values), controls) == [path, [path], "fast-style-scream", 0.5, 64, True]
    assert brought_back(saved([gone, [secret], "other", 7, 0, False]), controls) == [SKIP] * 6
    for text in ("", "nonsense", "[]", None, saved(values, age=3700), saved(values[:2]), '{"at": "x", "values": []}'):
        assert brought_back(text, controls) == [SKIP] * 6, text


def test_a_result_is_read_again_only_by_the_name_of_its_folder() -> None:
    folder = run_folder()
    (folder / "a.png").write_bytes(b"x")
    shown = [str(folder / "a.png"), {"seed": 1}, ui.offered(folder / "a.png"), object(), "Finished"]
    assert folder_of([None, *shown]) == folder
    assert folder_of([{"seed": 1}, "/etc/run-abcdefgh/passwd", str(folder)]) is None
    keep("one_run", folder, shown)
    assert kept(folder.name, "one_run") == [*shown[:3], None, "Finished"]
    assert kept(folder.name, "another_run") is None
    assert kept("run-00000000", "one_run") == []
    for token in ("", None, "..", f"../{folder.name}", f"{folder.name}/.."):
        assert kept(token, "one_run") is None


def test_what_was_shown_is_deleted_after_an_hour() -> None:
    folder, other = run_folder(), run_folder()
    keep("one_run", folder, ["Finished"])
    old = time.time() - 3601
    os.utime(folder / "kept.json", (old, old))
    assert kept(folder.name, "one_run") == []
    keep("one_run", other, ["Finished"])
    assert not folder.exists()
    assert kept(other.name, "one_run") == ["Finished"]


def test_a_result_comes_as_another_kind_of_file_with_all_that_it_says(tmp_path: Path) -> None:
    origin = images.Origin(author="A. Painter", rights="CC BY 4.0", inches=(0.5, 0.25))
    pixels = torch.rand(1, 3, 32, 64)
    settings = {"method": "fast_style", "seed": 3}
    result = ImageResult(tensor=pixels, settings=settings, seconds=1.0, notes=("One note.",), origin=origin)
    file = run_folder() / "a b.png"
    result.save(file)
    page = TestClient(Starlette(routes=[ROUTE]))
    links = re.findall(r'href="(.*?)".*?>(\w+)<', other_kinds(str(file)))
    assert [kind for _, kind in links] == ["JPEG", "WebP"]
    for address, kind in links:
        answer = page.get(address)
        name = f"a b{'.jpg' if kind == 'JPEG' else '.webp'}"
        assert answer.headers["content-disposition"].endswith(quote(name))
        result.save(tmp_path / name)
        assert images.read_metadata(answer.content) == images.read_metadata(tmp_path / name)
        shown, expected = images.load(answer.content), images.load(tmp_path / name)
        assert (shown.format, shown.origin.author, shown.origin.rights) == (kind.upper(), "A. Painter", "CC BY 4.0")
        assert shown.origin.inches == pytest.approx((0.5, 0.25), rel=1e-3)
        assert (shown.pixels == expected.pixels).all()
    assert sorted(path.name for path in file.parent.iterdir()) == ["a b.png"]
    gone = [address.replace(file.parent.name, other) for address, _ in links for other in ("run-00000000", "..", "x")]
    for address in [*gone, links[0][0].replace(".jpg", ".png"), links[0][0].replace("a%20b", "b")]:
        assert page.get(address).status_code == 404, address
    assert other_kinds(None) == other_kinds(str(tmp_path / name)) == other_kinds(gr.skip()) == ""


def test_another_kind_of_file_keeps_transparency_and_says_what_it_cannot_hold() -> None:
    file = run_folder() / "a.png"
    Image.new("RGBA", (8, 4), (200, 0, 0, 100)).save(file)
    page = TestClient(Starlette(routes=[ROUTE]))
    jpeg, webp = (page.get(f"results/{file.parent.name}/a{ending}").content for ending in (".jpg", ".webp"))
    assert images.load(webp).alpha.max() == 100
    assert images.load(jpeg).pixels[0, 0].tolist() == pytest.approx([233, 155, 155], abs=3)
    Image.new("L", (20_000, 1)).save(file)
    assert "WebP" not in other_kinds(str(file)) and "JPEG" in other_kinds(str(file))
    answer = page.get(f"results/{file.parent.name}/a.webp")
    assert (answer.status_code, "at most 16383 pixels" in answer.text) == (422, True)


def test_what_a_result_says_makes_it_again(controls: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example("astronaut").resize((48, 32)).save("photo.png")
    result = artmodels.load("fast-style-scream")("photo.png", strength=0.5, size=(24, 36))
    text = recipe(result.settings, controls, ["/cache/x/photo.png", None, "fast-style-scream", 0.5, 36, False])
    python, command = re.findall(r"```(?:python|bash)\n(.*?)\n```", text, re.DOTALL)
    exec(compile(python, "recipe", "exec"), {})
    assert images.load("result.png").pil().tobytes() == result.image.tobytes()
    words = shlex.split(command)
    assert words[:6] == ["artmodels", "run", "fast_style", "photo.png", "--name", "fast-style-scream"]
    assert words[6:] == ["--size", "36x24", "--set", "strength=0.5", "-o", "result.png"]
    odd = recipe(result.settings, controls, ["/c/`a'\n;b.png", None, "fast-style-scream", 0.5, 36, False])
    assert odd.count("```") == 4
    assert "'_a___b.png'" in odd


def test_settings_of_an_optimisation_are_written_where_they_are_not_the_models_own(controls: list) -> None:
    own = artmodels.load("texture-patches").config
    settings = {"method": "texture_synthesis", "seed": 3, "size": [64, 96], "steps": own.steps, "tileable": True}
    values = ["/c/brick.png", None, "texture-patches", 1, 0, False]
    text = recipe(settings, controls, values)
    assert "model('brick.png', size=(64, 96), seed=3, tileable=True)" in text
    assert "steps" not in text
    assert "steps=9" in recipe(settings | {"steps": 9}, controls, values)
    assert recipe({}, controls, values) == recipe([], controls, values) == ""


def test_stop_keeps_the_picture_so_far_at_its_full_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    example("bricks").resize((16, 16)).save(tmp_path / "a.png")

    def start():
        for number in range(1, 9):
            image = torch.full((1, 3, 700, 600), number / 10)
            yield Step(done=number, total=9, level=0, levels=1, loss=1.0, image=image, seconds=0.0)

    run = ui.show_steps(start, name="x", before=str(tmp_path / "a.png"))
    next(run)
    folder = folder_of(next(run))
    next(run)
    assert stopped_picture(folder, patience=0) is None
    run.close()
    file = stopped_picture(folder)
    assert file is not None
    assert (file.name, file.parent) == (STOPPED, folder)
    with images.load(file).pil() as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((600, 700), (51, 51, 51))
    assert json.loads(images.read_metadata(file)["artmodels"]) == {"stopped_at_step": 2, "of": 9}
    assert stopped_picture(None) is None
