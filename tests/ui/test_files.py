"""No visitor reads a file of the server: every endpoint, every control, whatever a path looks like."""

import io
import os
import sys
from pathlib import Path

import gradio as gr
import httpx
import pytest
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from gradio_client.exceptions import ValidationError
from PIL import Image

from artmodels import ui
from artmodels.errors import ConfigError
from artmodels.ui.server import components
from artmodels.ui.server.files import REFUSED, check_files, uploaded

META = {"meta": {"_type": "gradio.FileData"}}
KINDS = (components.Picture, components.Files, gr.Image, gr.File)


@pytest.fixture
def cache() -> Path:
    folder = Path(get_upload_folder())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def secrets(tmp_path: Path, cache: Path) -> list[str]:
    """Paths that nobody uploaded: a picture, a file, a folder, nothing, and ways to each."""
    picture = tmp_path / "secret.png"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(picture)
    link, loop = cache / f"link-{tmp_path.name}.png", cache / f"loop-{tmp_path.name}"
    link.symlink_to(picture)
    loop.symlink_to(loop)
    beside = cache.with_name(f"{cache.name}-beside")
    beside.mkdir(exist_ok=True)
    (beside / "x.png").write_bytes(picture.read_bytes())
    up = os.path.relpath(picture, cache)
    return [
        *(str(picture), "/etc/passwd", "/etc", "/nowhere/x.png", "", ".", "pyproject.toml", "x\0.png"),
        *(str(link), str(loop), str(cache), str(cache / up), str(beside / "x.png"), "~/x.png", f"file://{picture}"),
        *("http://127.0.0.1:9/x.png", f"{cache}/../{beside.name}/x.png", "x" * 5000),
    ]


def test_only_files_below_the_cache_count(tmp_path: Path, cache: Path) -> None:
    assert not any(uploaded(path) for path in secrets(tmp_path, cache))
    assert not any(map(uploaded, (None, 5, ["x"])))
    file = cache / "mine" / "a b.png"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x")
    assert uploaded(str(file))
    assert uploaded(f"{cache}/mine/../mine/a b.png")


@pytest.mark.parametrize("wrap", [lambda f: f, lambda f: [f], lambda f: {"a": [{"b": f}]}, lambda f: [[f, None]]])
@pytest.mark.parametrize("meta", [{}, META])
def test_a_file_is_found_however_deep(wrap, meta: dict) -> None:
    for file in ({"path": "/etc/passwd"}, {"path": None, "url": "http://x"}, {"url": "/etc/passwd"}):
        with pytest.raises(ConfigError, match="was not uploaded here"):
            check_files(wrap(file | meta))
    check_files(wrap({"path": {"a": 1}, "x": "/etc/passwd"}))  # no file: something has the name "path"
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    check_files(nested)


def post(url: str, data: list, api_name: str) -> str:
    answer = httpx.post(f"{url}gradio_api/call{api_name}", json={"data": data}, timeout=60)
    if answer.status_code != 200:
        return answer.text
    event = answer.json()["event_id"]
    return httpx.get(f"{url}gradio_api/call{api_name}/{event}", timeout=60).text


def filled(parameters: list[dict], file: object) -> tuple[list, int]:
    """Give each parameter its default, and `file` to those that take files; also how many these are."""
    values, count = [], 0
    for each in parameters:
        kind = each["python_type"]["type"]
        if "filepath" in kind:
            count += 1
            values.append([file] if kind.startswith("list") else file)
        else:
            values.append(each["parameter_default"] if each["parameter_has_default"] else None)
    return values, count


@pytest.mark.parametrize("meta", [{}, META], ids=["plain", "meta"])
def test_no_endpoint_takes_a_file_that_was_not_uploaded(
    gallery_url: str, tmp_path: Path, cache: Path, meta: dict
) -> None:
    endpoints = httpx.get(f"{gallery_url}gradio_api/info").json()["named_endpoints"]
    taking = [name for name, each in endpoints.items() if filled(each["parameters"], None)[1]]
    assert len(taking) >= 12
    for path in secrets(tmp_path, cache):
        # Every path to one endpoint, one path to every endpoint: the gate is the same for all.
        for name in taking if path.endswith("secret.png") else taking[:2]:
            values, _ = filled(endpoints[name]["parameters"], {"path": path} | meta)
            answer = post(gallery_url, values, name)
            assert REFUSED in answer, (name, path, answer)
            assert "complete" not in answer, (name, path, answer)


def test_no_private_control_takes_one_either(gallery_url: str, tmp_path: Path, cache: Path) -> None:
    demo = sys.modules["spaces_gallery_app"].demo
    secret = secrets(tmp_path, cache)[0]
    tried = 0
    for number, function in demo.fns.items():
        if not any(isinstance(each, KINDS) for each in function.inputs):
            continue
        data = [{"path": secret} if isinstance(each, KINDS) else None for each in function.inputs]
        session = f"private{number}"
        sent = {"fn_index": number, "data": data, "session_hash": session}
        joined = httpx.post(f"{gallery_url}gradio_api/queue/join", json=sent)
        tried += 1
        if joined.status_code != 200:
            assert REFUSED in joined.text, (number, function.name)
            continue
        with httpx.stream("GET", f"{gallery_url}gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
            messages = [line for line in stream.iter_lines() if "process_completed" in line]
        assert REFUSED in messages[0], (number, function.name, messages)
    assert tried >= 20


def test_what_was_uploaded_counts_for_whoever_knows_its_path(gallery_url: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (9, 8, 7)).save(file, "PNG")
    (path,) = httpx.post(f"{gallery_url}gradio_api/upload", files={"files": ("a.png", file.getvalue())}).json()
    for meta in ({}, META):
        answer = post(gallery_url, [{"path": path} | meta, "fast-style-woodcut", 0, 0], "/fast_style_run")
        assert "event: complete" in answer
        assert "event: error" not in answer
    # The folder's name is a hash of what the file holds: another visitor's can only be named by who has the file.
    other = Path(path).parent.with_name("0" * 64) / "a.png"
    for wrong in (other, Path(path).parent, Path(path).with_name("b.png")):
        answer = post(gallery_url, [{"path": str(wrong)}, "fast-style-woodcut", 0, 0], "/fast_style_run")
        assert REFUSED in answer


def test_programs_are_told_what_is_wrong(gallery_url: str, tmp_path: Path) -> None:
    """gradio's client knows nothing of an answer "400 Bad Request" but that."""
    file = tmp_path / "a.png"
    Image.new("RGB", (32, 24)).save(file)
    client = Client(gallery_url, verbose=False, analytics_enabled=False)
    sent = handle_file(file)
    for values, says in (
        ([str(file)], "photo: This file was not uploaded here"),
        (["nothing.png"], "gradio_client.handle_file"),
        ([5], "photo: This file was not uploaded here"),
        ([None], "photo: There is no picture"),
        ([sent, "fast-style-screem"], "Did you mean 'fast-style-scream'"),
        ([sent, "fast-style-scream", 7], "strength: Value 7 is greater than maximum value 1"),
        ([sent, "fast-style-scream", 1, "many"], "size: 'many' is not a value of this type: integer."),
        ([sent, "fast-style-scream", "much", 0], "strength: 'much' is not a value of this type: number."),
    ):
        with pytest.raises(ValidationError, match="1 parameter") as caught:
            client.predict(*values, api_name="/fast_style_run")
        assert says in str(caught.value)
    client.close()
    answer = httpx.post(f"{gallery_url}gradio_api/call/fast_style_run", json={"data": []})
    assert answer.status_code == 422 and "There are too few values: 4 more are needed." in answer.text


def test_a_server_says_when_it_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with ui.blocks("A page") as demo:
        gr.Markdown("text")
    try:
        demo.launch(prevent_thread_lock=True, inbrowser=False)
        assert capsys.readouterr().out == f"Ready: {demo.local_url} answers (Ctrl-C stops it)\n"
        assert httpx.get(demo.local_url).status_code == 200
    finally:
        demo.close()
