"""The command line: what it prints, its exit codes, and that nothing is overwritten or left half-written."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import artmodels
from artmodels import images
from artmodels.cli import commands as cli
from artmodels.cli import run
from artmodels.cli.options import options_of, text_of
from artmodels.errors import ConfigError
from artmodels.hub import catalogue

QUICK = ["--set", "steps=2"]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run `artmodels` as the installed command does; returns exit code, stdout and stderr."""

    def call(*arguments: object) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["artmodels", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        out, err = capsys.readouterr()
        return SimpleNamespace(code=done.value.code or 0, out=out, err=" ".join(err.replace("│", " ").split()))

    return call


def test_list_shows_every_name(invoke) -> None:
    done = invoke("list")
    assert done.code == 0
    for entry in artmodels.list_models():
        assert entry.name in done.out


def test_list_says_what_must_be_fetched(invoke) -> None:
    lines = {line.split()[0]: line for line in invoke("list").out.splitlines() if line.strip()}
    assert "575 MB" in lines["texture-vgg19"]
    assert "none needed" in lines["texture-patches"]


def test_list_fits_a_terminal(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = invoke("list").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert max(lines.count(entry.method) for entry in artmodels.list_models()) == 1  # headings
    # Summaries are read in two to five lines, not in columns of one word.
    assert len(lines) < 4 * len(artmodels.list_models())


def test_version(invoke) -> None:
    done = invoke("--version")
    assert (done.code, done.out) == (0, f"artmodels {artmodels.__version__}\n")


def test_list_json_of_one_method(invoke) -> None:
    done = invoke("list", "--method", "texture_synthesis", "--json")
    assert done.code == 0
    entries = json.loads(done.out)
    assert [entry["name"] for entry in entries] == [entry.name for entry in artmodels.list_models("texture_synthesis")]
    assert {"name", "method", "summary", "source", "licence", "config", "weights"} <= set(entries[0])


def test_list_of_an_unknown_method(invoke) -> None:
    done = invoke("list", "--method", "texture_sinthesis")
    assert done.code == 1
    assert done.err.startswith("artmodels: ")
    assert "'texture_synthesis'" in done.err
    assert "Traceback" not in done.err


def test_info(invoke) -> None:
    done = invoke("info")
    assert done.code == 0
    facts = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert facts["artmodels"] == artmodels.__version__
    assert facts["device"]
    assert facts["cache"].startswith(os.environ["HF_HOME"])
    assert facts["hub"] == os.environ["HF_ENDPOINT"]
    assert Path(facts["weights"]).is_dir()


def test_usage_errors_exit_with_2(invoke) -> None:
    assert invoke("paint").code == 2
    assert invoke("run", "texture_synthesis").code == 2
    assert invoke().code == 2


def test_texture(invoke, pictures: Path) -> None:
    arguments = ("run", "texture_synthesis", "brick.png", "--size", "96x64", "--seed", 1, *QUICK)
    done = invoke(*arguments, "-o", "wall.png")
    assert done.code == 0, done.err
    assert done.out == "wall.png: 96x64\n"
    with Image.open(pictures / "wall.png") as image:
        assert (image.size, image.mode) == ((96, 64), "RGB")
    assert images.read_metadata(pictures / "wall.png")["seed"] == "1"
    assert invoke(*arguments, "-o", "again.png").code == 0
    assert (pictures / "wall.png").read_bytes() == (pictures / "again.png").read_bytes()


def test_notes_are_shown_and_kept_and_the_ending_says_the_format(invoke, pictures: Path) -> None:
    two = [Image.new("RGB", (48, 32), colour) for colour in ("red", "blue")]
    two[0].save(pictures / "pages.tif", save_all=True, append_images=two[1:], dpi=(300, 300))
    note = "The file holds several images; only number 1 was used."
    for name, options in (("m.png", ()), ("m.webp", ()), ("m.jpg", ("--quality", 60))):
        done = invoke("run", "super_resolution", "pages.tif", "-o", name, *options)
        assert (done.code, done.out, done.err) == (0, f"{name}: 96x64\n", f"artmodels: {note}")
        assert images.read_metadata(pictures / name)["notes"] == note
        assert images.load(pictures / name).origin.dpi(96, 64) == pytest.approx((600, 600), rel=1e-3)


def test_pictures_beyond_what_a_method_takes_are_reduced(invoke, pictures: Path, monkeypatch) -> None:
    monkeypatch.setattr(artmodels.FastStyle, "limit", 40 * 30)
    done = invoke("run", "fast_style", "photo.jpg", "--style", "scream", "-o", "out.png")
    assert done.code == 0, done.err
    assert "It was reduced from 128 x 96 to 40 x 30 pixels: the limit here is 0.0012 megapixels." in done.err
    assert done.out == "out.png: 40x30\n"


def test_a_texture_made_from_nothing(invoke, pictures: Path) -> None:
    arguments = ("run", "texture_network", "--name", "texture-network-gravel", "--size", "96x64", "--seed", 1)
    done = invoke(*arguments, "-o", "gravel.png")
    assert (done.code, done.out) == (0, "gravel.png: 96x64\n"), done.err
    stored = json.loads(images.read_metadata(pictures / "gravel.png")["artmodels"])
    assert (stored["model"], stored["seed"]) == ("texture-network-gravel", 1)
    done = invoke(*arguments, "--set", "count=2", "-o", "gravel.png")
    assert done.code == 1 and "'count'" in done.err


def test_any_style_and_several(invoke, pictures: Path) -> None:
    styles = ("--style", "style.jpg", "--style", "brick.png", "--set", "style_weights=[3, 1]")
    (pictures / "out").mkdir()
    done = invoke("run", "arbitrary_style", "photo.jpg", "brick.png", *styles, "-o", "out")
    assert done.code == 0, done.err
    stored = [
        json.loads(images.read_metadata(pictures / "out" / name)["artmodels"]) for name in ("photo.png", "brick.png")
    ]
    assert all(settings["style_weights"] == [0.75, 0.25] for settings in stored)


def test_style(invoke, pictures: Path) -> None:
    done = invoke("run", "neural_style", "photo.jpg", "--style", "style.jpg", "-o", "styled.png", *QUICK)
    assert done.code == 0, done.err
    with Image.open(pictures / "styled.png") as image:
        assert image.size == (128, 96)


@pytest.mark.parametrize("style", ["scream", "fast-style-scream"])
def test_fast_style_takes_the_name_of_a_style(invoke, pictures: Path, style: str) -> None:
    arguments = ["--style", style, "--set", "strength=0.5", "--size", "96x72"]
    done = invoke("run", "fast_style", "photo.jpg", *arguments, "-o", "out.png")
    assert done.code == 0, done.err
    assert done.out == "out.png: 96x72\n"
    settings = json.loads(images.read_metadata(pictures / "out.png")["artmodels"])
    assert settings.items() >= {"model": "fast-style-scream", "strength": 0.5, "size": [72, 96]}.items()


def test_help_is_the_words_of_the_call_and_of_the_settings(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    done = invoke("run", "arbitrary_style", "--help")
    assert done.code == 0
    for words in ("--style ", "--strength", "Where between the picture's own style (0)", "none|luminance|transfer"):
        assert words in done.out
    assert "--kernel" in done.out.partition("Settings")[2]
    assert "--progress" not in done.out and "--seed" not in done.out


def test_options_of_the_call_and_of_the_settings_reach_them(invoke, pictures: Path) -> None:
    done = invoke("run", "texture_network", "--size", "50x40", "--no-tileable", "--texture", "toast", "-o", "a.png")
    assert (done.code, done.out) == (0, "a.png: 50x40\n"), done.err
    stored = json.loads(images.read_metadata(pictures / "a.png")["artmodels"])
    assert (stored["tileable"], stored["texture"]) == (False, "toast")
    done = invoke("run", "fast_style", "photo.jpg", "--kernel", "4", "-o", "b.png")
    assert (done.code, done.err) == (1, "artmodels: kernel=4 must be at least 3, at most 128 and odd")


def test_several_images_go_into_a_folder(invoke, pictures: Path) -> None:
    (pictures / "letter.txt").write_text("not a picture")
    done = invoke("run", "fast_style", "brick.png", "letter.txt", "photo.jpg", "-o", "out")
    assert done.code == 1
    assert "artmodels: letter.txt: 'letter.txt' is text, not pixels" in done.err
    assert done.out == f"{Path('out/brick.png')}: 128x96\n{Path('out/photo.png')}: 128x96\n"
    assert sorted(path.name for path in (pictures / "out").iterdir()) == ["brick.png", "photo.png"]
    expected = artmodels.FastStyle.from_pretrained()(pictures / "photo.jpg").image
    with Image.open(pictures / "out" / "photo.png") as image:
        assert image.tobytes() == expected.tobytes()


def test_a_folder_is_worked_on_one_by_one(invoke, pictures: Path) -> None:
    works = pictures / "works" / "sub"
    works.mkdir(parents=True)
    (pictures / "photo.jpg").rename(works / "photo.jpg")
    (pictures / "brick.png").rename(works.parent / "a.png")
    (pictures / "style.jpg").rename(works.parent / "a.jpg")
    (works.parent / "b.jpg").write_text("not a picture")
    small = ("--name", "scream", "--size", "64x48")
    done = invoke("run", "fast_style", "works", "-o", "works/out/", *small)
    made = ["a.jpg.png", "a.png.png", "sub/photo.png"]
    out = works.parent / "out"
    assert (done.code, done.out) == (1, "".join(f"{Path('works/out', name)}: 64x48\n" for name in made)), done.err
    assert "b.jpg' is text, not pixels" in done.err
    assert "4/4" in done.err and "artmodels: 3 of 4 pictures made in" in done.err and "1 failed" in done.err
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png")) == made
    before = (out / "a.jpg.png").read_bytes()
    settings = json.loads(images.read_metadata(out / "a.jpg.png")["artmodels"])
    assert settings["model"] == "fast-style-scream"
    # What is there stays, what is missing is made, and results are no inputs.
    (works.parent / "b.jpg").unlink()
    (out / "sub" / "photo.png").unlink()
    done = invoke("run", "fast_style", "works", "-o", "works/out", "--style", "woodcut", "--size", "64x48")
    assert (done.code, done.out) == (0, f"{Path('works/out/sub/photo.png')}: 64x48\n")
    assert "1 of 3 pictures made in" in done.err and "2 were there already (--overwrite" in done.err
    assert (out / "a.jpg.png").read_bytes() == before
    done = invoke("run", "fast_style", "works", "-o", "works/out", "--style", "woodcut", "--overwrite", *small[2:])
    assert done.code == 0 and len(done.out.splitlines()) == 3
    assert (out / "a.jpg.png").read_bytes() != before


def test_the_kind_of_the_files_in_a_folder_is_chosen(invoke, pictures: Path) -> None:
    (pictures / "out").mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "out" / "brick.jpg")
    asked = ("run", "fast_style", "brick.png", "photo.jpg", "-o", "out", "--style", "scream", "--size", "64x48")
    for form, kind, made in (("jpg", "JPEG", ["photo"]), ("WebP", "WEBP", ["brick", "photo"])):
        done = invoke(*asked, "--format", form, "--quality", 70)
        files = [Path("out", f"{name}.{form.lower()}") for name in made]
        assert (done.code, done.out) == (0, "".join(f"{file}: 64x48\n" for file in files)), done.err
        assert ("1 were there already" in done.err) == (form == "jpg")
        for file in files:
            with Image.open(file) as image:
                assert (image.format, image.size) == (kind, (64, 48))
            assert json.loads(images.read_metadata(file)["artmodels"])["model"] == "fast-style-scream"
        done = invoke(*asked, "--format", form)
        assert (done.code, done.out) == (0, "") and "2 were there already" in done.err
    before = {file: file.read_bytes() for file in (pictures / "out").iterdir()}
    assert invoke(*asked).code == 0
    assert {file.name for file in (pictures / "out").glob("*.png")} == {"brick.png", "photo.png"}
    assert {file: file.read_bytes() for file in before} == before


def test_a_setting_that_no_picture_can_do_with_is_said_once(invoke, pictures: Path) -> None:
    done = invoke("run", "fast_style", "photo.jpg", "brick.png", "-o", "out", "--strength", "2")
    assert (done.code, done.out) == (1, "")
    assert done.err.count("strength=2") == 1 and "2 are left" not in done.err
    assert not (pictures / "out").exists()


def test_an_interrupted_folder_says_what_is_left(invoke, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def interrupted(self: object, source: Path, **_: object) -> SimpleNamespace:
        calls.append(source)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return SimpleNamespace(save=Path.touch, notes=(), image=Image.new("RGB", (3, 2)))

    monkeypatch.setattr(artmodels.FastStyle, "__call__", interrupted)
    done = invoke("run", "fast_style", "photo.jpg", "brick.png", "style.jpg", "-o", "out")
    assert done.code == 130
    assert "1 of 3 pictures made" in done.err and "2 are left (the same command goes on)" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ["fast_style", "pohto.jpg", "-o", "out.png"],
        ["arbitrary_style", "photo.jpg", "--style", "stile.jpg", "-o", "out.png"],
        ["fast_style", "photo.jpg", "--name", "screem", "-o", "out.png"],
        ["fast_style", "photo.jpg", "--name", "style-patches", "-o", "out.png"],
        ["fast_style", "photo.jpg", "--style", "screem", "-o", "out.png"],
        ["fast_style", "photo.jpg", "--set", "strenght=1", "-o", "out.png"],
        ["fast_style", "photo.jpg", "--strenght", "1", "-o", "out.png"],
        ["fast_style", "photo.jpg", "-o", "no/out.png"],
        ["fast_style", "--help"],
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_found_before_torch_is_loaded(words: list[str], pictures: Path) -> None:
    """The promise is a second; what is imported says the same on every machine."""
    code = f"import sys; sys.argv = ['artmodels', 'run', *{words}]\nimport artmodels.cli as c\ntry: c.main()\n"
    code += "finally: sys.stderr.write('LOADED' if {'torch', 'numpy', 'PIL'} & {*sys.modules} else 'LIGHT')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=pictures)
    assert done.stderr.endswith("LIGHT"), done.stderr
    assert done.returncode == (0 if "--help" in words else 2 if "Error" in done.stderr else 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pohto.jpg"], "there is no file 'pohto.jpg'; check the path. Did you mean 'photo.jpg'?"),
        (["a.jpg", "b.jpg"], "2 files are not there: a.jpg, b.jpg; check the paths"),
        (["photo.jpg", "--name", "screem"], "Did you mean 'fast-style-scream'?"),
        (["photo.jpg", "--name", "Starry Nigth"], "Did you mean 'fast-style-starry-night'?"),
        (["photo.jpg", "--name", "style-patches"], "style-patches is a checkpoint of 'neural_style', not of FastStyle"),
        (["photo.jpg", "--set", "strenght=1"], "fast_style has no knob 'strenght'. Did you mean 'strength'?"),
    ],
)
def test_near_misses_are_named(invoke, pictures: Path, words: list[str], says: str) -> None:
    done = invoke("run", "fast_style", *words, "-o", "out" if len(words) > 1 and words[1][0] != "-" else "out.png")
    assert done.code == 1 and says in done.err
    assert not (pictures / "out").exists()


@pytest.mark.parametrize("method", catalogue.methods(), ids=lambda method: method.id)
def test_options_that_are_kept_are_those_of_the_code(method: catalogue.Method) -> None:
    file, text = text_of(method)
    assert file.read_text(encoding="utf-8") == text, f"{file} is not current: run `make readme`"


def test_options_of_a_method_without_a_file_are_read_off_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    (method,) = (method for method in catalogue.methods() if method.id == "fast_style")
    kept = options_of(method)
    monkeypatch.setattr(Path, "is_file", lambda self: self.name != "options.json")
    assert options_of(method) == kept


def test_an_unknown_style_names_those_that_there_are(invoke, pictures: Path) -> None:
    done = invoke("run", "fast_style", "photo.jpg", "--style", "stary-night", "-o", "out.png")
    assert done.code == 2
    names = [entry.name.removeprefix("fast-style-") for entry in artmodels.list_models("fast_style")]
    assert f"'stary-night' is not a style of fast_style: {', '.join(names)}. Did you mean 'starry-night'?" in done.err


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (
            ["texture", "brick.png", "-o", "out.png"],
            f"'texture' is not one of {', '.join(sorted(method.id for method in catalogue.methods()))}",
        ),
        (["texture_synthesis", "-o", "out.png"], "Missing argument 'exemplar'"),
        (["texture_network", "brick.png", "-o", "out.png"], "Got unexpected extra argument"),
        (["texture_network", "-o", "out.gif"], "'out.gif' does not end in .png"),
        (["arbitrary_style", "photo.jpg", "-o", "out.png"], "Missing option '--style'"),
        (["arbitrary_style", "photo.jpg", "--style", "brick.png", "-o", "brick.png"], "is an input"),
        (["texture_network", "-o", "."], ". is a folder"),
        (["texture_synthesis", "brick.png", "-o", "."], "brick.png is an input"),
        (["fast_style", ".", "-o", "."], ". holds the images"),
        (["fast_style", ".", "-o", "out.png"], "for a folder of images, out.png must be a folder"),
        (["fast_style", ".", "-o", "style.jpg"], "for a folder of images, style.jpg must be a folder"),
        (["texture_synthesis", "brick.png", "-o", "out.gif"], "'out.gif' does not end in .png"),
        (["texture_synthesis", "brick.png", "-o", "no/out.png"], "there is no folder no"),
        (["texture_synthesis", "brick.png", "-o", "../{here}/brick.png"], "is an input"),
        (["neural_style", "photo.jpg", "--style", "brick.png", "-o", "brick.png"], "is an input"),
        (["neural_style", "photo.jpg", "-o", "out.png"], "Missing option '--style'"),
        (
            ["texture_synthesis", "brick.png", "--style", "style.jpg", "-o", "out.png"],
            "No such option: --style",
        ),
        (["fast_style", "photo.jpg", "--seed", "1", "-o", "out.png"], "No such option: --seed"),
        (["fast_style", "photo.jpg", "--deadline", "1", "-o", "out.png"], "No such option: --deadline"),
        (["fast_style", "a.jpg", "--style", "woodcut", "--style", "mosaic", "-o", "out.png"], "one style at a time"),
        (
            ["fast_style", "photo.jpg", "--style", "woodcut", "--name", "fast-style-mosaic", "-o", "out.png"],
            "--name fast-style-mosaic says already which model",
        ),
        (["fast_style", "photo.jpg", "style.jpg", "-o", "out.png"], "for 2 images, out.png must be a folder"),
        (["fast_style", ".", "-o", "out", "--format", "gif"], "'gif' is not one of png, jpg, jpeg, webp"),
        (["fast_style", ".", "-o", "out", "--quality", "80"], "add --format jpg"),
        (["fast_style", "photo.jpg", "-o", "a.png", "--quality", "80"], "only JPEG and WebP have one"),
        (["fast_style", "photo.jpg", "-o", "a.png", "--format", "jpg"], "'a.png' says already which"),
        (["texture_network", "-o", "a.png", "--format", "jpg"], "No such option: --format"),
        (["fast_style", "photo.jpg", "../{here}/photo.jpg", "-o", "."], "two of the images have the same name"),
        (["fast_style", "photo.jpg", "brick.png", "-o", "."], "brick.png is an input"),
        (["texture_synthesis", "brick.png", "-o", "out.png", "--size", "512"], "'512' is not WIDTHxHEIGHT"),
        (["texture_synthesis", "brick.png", "-o", "out.png", "--set", "steps"], "'steps' is not KEY=VALUE"),
    ],
)
def test_refused_before_any_work(invoke, pictures: Path, arguments: list[str], fault: str) -> None:
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    done = invoke("run", *(argument.format(here=pictures.name) for argument in arguments))
    assert done.code == 2
    assert fault in done.err
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["missing.png"], "missing.png"),
        (["brick.png", "--name", "texture-patch"], "'texture-patches'"),
        (["brick.png", "--name", "style-random-filters"], "style-random-filters"),
        (["brick.png", "--set", "stepps=3"], "'steps'"),
        (["brick.png", "--set", "steps=many"], "'many'"),
        (["brick.png", "--device", "tpu"], "device 'tpu' is not on this machine"),
        (["brick.png", "--seed", "-1"], "seed=-1"),
    ],
)
def test_explained_errors_exit_with_1(invoke, pictures: Path, arguments: list[str], fault: str) -> None:
    done = invoke("run", "texture_synthesis", *arguments, "-o", "out.png")
    assert done.code == 1
    assert done.err.startswith("artmodels: ")
    assert fault in done.err
    assert "Traceback" not in done.err
    assert not (pictures / "out.png").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=3", 3), ("a=0.5", 0.5), ("a=true", True), ("a=False", False), ("a=null", None), ("a=vgg19", "vgg19")]
    + [("a=[1, 2]", [1, 2]), ("a=b=c", "b=c"), ("a=", "")],
)
def test_settings_are_typed(text: str, value: object) -> None:
    key, parsed = run._setting(text)
    assert (key, parsed, type(parsed)) == ("a", value, type(value))


def test_a_knob_reaches_the_call_or_the_configuration(invoke, pictures: Path) -> None:
    done = invoke("run", "fast_style", "photo.jpg", "--set", "strength=2", "-o", "out.png")
    assert (done.code, done.err) == (1, "artmodels: strength=2 must be from 0 (the picture itself) to 1 (all style)")
    done = invoke("run", "fast_style", "photo.jpg", "--set", "strenght=1", "-o", "out.png")
    assert done.code == 1
    assert "strenght" in done.err
    assert not (pictures / "out.png").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_leaves_nothing_behind(pictures: Path) -> None:
    before = sorted(pictures.iterdir())
    # A shell starts what it puts in the background with interrupts ignored, and children inherit that.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; from artmodels.cli import main; main()", "run", "texture_synthesis"]
    endless = ["brick.png", "-o", "out.png", "--size", "512x512", "--set", "steps=100000"]
    with subprocess.Popen([*command, *endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            first = process.stderr.read(1)  # the progress bar: the optimisation has begun
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in first + err
    assert sorted(pictures.iterdir()) == before


def test_gallery_runs_the_app_where_it_was_asked_to(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr("runpy.run_path", lambda path, run_name: ran.append((Path(path).parts[-3:], run_name)))
    for variable in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT"):
        monkeypatch.setenv(variable, "to be put back")
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        done = invoke("gallery", "--host", "127.0.0.2", "--port", port)
    assert (done.code, ran) == (1, [])
    assert f"127.0.0.2:{port} is in use, perhaps by another gallery" in done.err
    done = invoke("gallery", "--host", "127.0.0.2", "--port", port)
    assert done.code == 0
    assert ran == [(("spaces", "gallery", "app.py"), "__main__")]
    assert (os.environ["GRADIO_SERVER_NAME"], os.environ["GRADIO_SERVER_PORT"]) == ("127.0.0.2", str(port))
    assert done.out.startswith("Loading PyTorch and the pages")
    done = invoke("gallery", "--host", "no.such.host.invalid")
    assert done.code == 1 and "cannot be had" in done.err


def test_gallery_without_gradio_says_what_to_install(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None)
    done = invoke("gallery")
    assert done.code == 1
    assert "pip install 'artmodels[demo]'" in done.err


def test_unexpected_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(method: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("artmodels.hub.catalogue.list_models", fail)
    assert isinstance(CliRunner().invoke(cli.app, ["list"]).exception, ZeroDivisionError)
    assert not issubclass(ZeroDivisionError, ConfigError)


# --- a detail in a folder


def collage(path: Path, seed: int, detail: Image.Image | None = None, at: tuple[int, int] = (0, 0)) -> Image.Image:
    """Blots of colour, with a detail pasted in."""
    rng = np.random.default_rng(seed)
    blots = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
        (240, 180), Image.Resampling.BICUBIC
    )
    made = Image.fromarray((np.asarray(blots) + rng.integers(-25, 26, (180, 240, 3))).clip(0, 255).astype(np.uint8))
    if detail is not None:
        made.paste(detail, at)
    made.save(path)
    return made


MINE = ["--set", "scales=[30, 20]", "--set", 'views=[""]', "--set", "threshold=-1.0"]


def test_a_picture_is_brought_onto_another(invoke, pictures: Path) -> None:
    examples = Path(__file__).parents[2] / "spaces" / "artminer" / "examples"
    whole = Image.open(examples / "tapestry.jpg").resize((320, 240))
    whole.save(pictures / "whole.png")
    whole.crop((20, 10, 310, 230)).save(pictures / "part.png")
    Image.effect_noise((200, 200), 60).convert("RGB").save(pictures / "noise.png")
    quick = ("--set", "side=160", "--set", "hypotheses=500", "--set", 'views=[""]')
    for suffix in ("png", "npz", "gif"):
        done = invoke("run", "ransac_flow", "part.png", "--onto", "whole.png", "-o", f"aligned.{suffix}", *quick)
        assert (done.code, done.out) == (0, f"aligned.{suffix}: 320x240\n"), done.err
        assert (pictures / f"aligned.{suffix}").stat().st_size > 1000
    done = invoke("run", "ransac_flow", "noise.png", "--onto", "whole.png", "-o", "nothing.png", *quick)
    assert done.code == 1 and "no alignment was found, and nothing is written" in done.err
    assert not (pictures / "nothing.png").exists()
    for arguments, says in (
        (("run", "ransac_flow", "part.png", "-o", "out.png"), "Missing option '--onto'"),
        (("run", "fast_style", "part.png", "--onto", "whole.png", "-o", "out.png"), "No such option: --onto"),
        (("run", "ransac_flow", "part.png", "--onto", "whole.png", "-o", "out.tif"), "PNG or JPEG or WebP or NPZ or"),
    ):
        done = invoke(*arguments)
        assert done.code == 2 and says in " ".join(done.err.replace("│", " ").split()), done.err


def test_a_detail_is_looked_for_in_a_folder(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "works").mkdir()
    first = collage(tmp_path / "works" / "first.png", 0)
    collage(tmp_path / "works" / "second.png", 1, first.crop((40, 30, 120, 100)), (100, 60))
    collage(tmp_path / "works" / "third.png", 2)
    (tmp_path / "works" / "broken.png").write_bytes(b"no picture")
    asked = ["--query", tmp_path / "works" / "first.png", "--box", "40,30,80,70", "--collection", tmp_path / "works"]
    report = tmp_path / "found.html"
    done = invoke("run", "artminer", *asked, "-o", report, *MINE)
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0][-5:] == [lines[0][-5], "places", "in", "3", "pictures"]
    assert lines[1] == ["rank", "picture", "x,y,w,h", "score", "cells", "turned"]
    assert lines[2][:2] == ["1", "second.png"] and float(lines[2][3]) > 0.4 and "first.png" not in done.out
    assert "broken.png was skipped" in done.err and str(report) in done.out
    page = report.read_text(encoding="utf-8")
    assert "second.png" in page and page.count("data:image/") >= 3
    # Features are kept, and what is gone from the folder is gone from the results.
    (tmp_path / "works" / "second.png").unlink()
    again = invoke("run", "artminer", *asked, "-o", report, *MINE)
    assert again.code == 0 and "second.png" not in again.out and "third.png" in again.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--box", "1,2,3,4", "--collection", "."], "Missing option '--query'"),
        (["--query", "a.png", "--box", "1,2,3", "--collection", "."], "is not X,Y,W,H"),
        (
            ["--query", "a.png", "--box", "1,2,3,4", "--collection", ".", "-o", "found.png"],
            "results are HTML or HTM",
        ),
        (["--query", "a.png", "--box", "1,2,3,4", "--collection", ".", "--size", "3x4"], "No such option: --size"),
    ],
)
def test_a_search_that_cannot_be(invoke, arguments: list[str], says: str) -> None:
    done = invoke("run", "artminer", *arguments)
    assert done.code == 2 and says in done.err


def test_other_methods_take_no_collection(invoke, tmp_path: Path) -> None:
    done = invoke("run", "fast_style", "a.png", "-o", tmp_path / "b.png", "--collection", tmp_path)
    assert done.code == 2 and "No such option: --collection" in done.err
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    asked = ("run", "artminer", "--query", tmp_path / "a.png", "--box", "1,2,3,4", "--collection")
    done = invoke(*asked, tmp_path / "none")
    assert done.code == 1 and "there is no file" in done.err
    done = invoke(*asked, tmp_path / "a.png")
    assert done.code == 1 and "is not a folder: name one with pictures" in done.err
