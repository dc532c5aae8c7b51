"""The README keeps its word: its code runs, its tables are current, what it names exists."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from artmodels.cli import commands as cli

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
GALLERY = "http://127.0.0.1:7860"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


def test_there_are_both_examples_of_six_lines() -> None:
    assert len(blocks("python")) == 2
    assert all(len(block.strip().splitlines()) <= 6 for block in blocks("python"))
    assert [GALLERY in block for block in blocks("python")] == [False, True]


def run(code: str) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("code", [block for block in blocks("python") if GALLERY not in block])
def test_python_example(code: str, pictures: Path) -> None:
    run(code)
    written = {path.name for path in pictures.iterdir()} - {"brick.png", "photo.jpg", "style.jpg"}
    assert written == set(re.findall(r"save\(\"(.+?)\"\)", code))


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("code", [block for block in blocks("python") if GALLERY in block])
def test_client_example(code: str, gallery_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = run(code.replace(GALLERY, gallery_url))["gallery"]
    client.close()
    assert ".png" in capsys.readouterr().out


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = {command[1] for command in commands() if command[0] == "make"}
    assert used == {"gallery", "test"}
    assert used <= targets


@pytest.mark.parametrize(
    "arguments",
    [command[1:] for command in commands() if command[0] == "artmodels"],
    ids=lambda words: words[0],
)
def test_command_lines(arguments: list[str], pictures: Path) -> None:
    if "texture_synthesis" in arguments:
        arguments = [*arguments, "--set", "steps=4", "--set", "finish_steps=4"]  # the defaults take half a minute
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    if "-o" in arguments:
        assert (pictures / arguments[arguments.index("-o") + 1]).read_bytes().startswith(b"\x89PNG")


def test_links_and_pictures_exist() -> None:
    targets = [target for target in re.findall(r"\]\((.+?)\)", TEXT) if "://" not in target]
    assert targets
    assert [target for target in targets if not (ROOT / target.split("#")[0]).exists()] == []


def test_generated_tables_are_current() -> None:
    from benchmarks.readme import SECTIONS, render

    assert set(SECTIONS) == set(re.findall(r"<!-- generated: (\w+) -->", TEXT))
    assert render(TEXT) == TEXT, "README.md is not current: run `make readme`"
    with pytest.raises(ValueError, match="generated sections"):
        render(TEXT.replace("<!-- generated: methods -->", ""))


def test_every_setting_of_the_tables_is_explained() -> None:
    for table in re.findall(r"<!-- generated: \w+ -->\n(.*?)<!-- end -->", TEXT, flags=re.DOTALL):
        rows = table.strip().splitlines()[2:]
        assert rows
        assert all(cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)[1:-1])
