"""A reload loses nothing that the server still has, and a result says how to make it again."""

import json
import re
import shlex
import time
from pathlib import Path

import gradio as gr
import pytest
import torch
from gradio.utils import get_upload_folder

import artmodels
from artmodels import images, ui
from artmodels.descent.optimise import Step
from artmodels.images.examples import example
from artmodels.ui.controls import run_folder
from artmodels.ui.keeping import brought_back, folder_of, keep, kept, recipe
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
