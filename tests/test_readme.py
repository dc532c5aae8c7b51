"""The READMEs keep their word: their code runs, their tables are current, what they name exists."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import artmodels
from artmodels.cli import commands as cli
from artmodels.hub import catalogue

ROOT = Path(__file__).parent.parent
FRONT = ROOT / "README.md"
METHODS = {path.parent.name: path for path in sorted(ROOT.glob("artmodels/methods/*/README.md"))}
NAMES = {FRONT: "front", **{path: name for name, path in METHODS.items()}}
GALLERY = "http://127.0.0.1:7860"


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


PYTHON = {path: blocks(path, "python") for path in NAMES}


def test_there_are_short_examples() -> None:
    assert [GALLERY in block for block in PYTHON[FRONT]] == [False, True]
    assert all(len(block.strip().splitlines()) <= 6 for found in PYTHON.values() for block in found)
    assert {path for path, found in PYTHON.items() if not found} <= {METHODS["texture_synthesis"]}  # in the front one


def run(code: str) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize(
    "code",
    [pytest.param(block, id=NAMES[path]) for path, found in PYTHON.items() for block in found if GALLERY not in block],
)
def test_python_example(code: str, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(code)
    written = {path.name for path in pictures.iterdir()} - {"brick.png", "photo.jpg", "style.jpg"}
    assert written == set(re.findall(r"save\(\"(.+?)\"\)", code))
    assert bool(capsys.readouterr().out) == ("print(" in code)
    assert written or "print(" in code


@pytest.mark.usefixtures("pictures")
def test_client_example(gallery_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    client = run(PYTHON[FRONT][1].replace(GALLERY, gallery_url))["gallery"]
    client.close()
    assert ".png" in capsys.readouterr().out


def commands() -> list[tuple[str, ...]]:
    """Every command of the READMEs, once."""
    lines = "".join(block for path in PYTHON for block in blocks(path, "bash")).splitlines()
    return list(dict.fromkeys(tuple(shlex.split(line, comments=True)) for line in lines if line.strip()))


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = {command[1] for command in commands() if command[0] == "make"}
    assert used == {"gallery", "test"}
    assert used <= targets


@pytest.mark.parametrize(
    "arguments",
    [command[1:] for command in commands() if command[0] == "artmodels"],
    ids=lambda words: "-".join(words[:2]),
)
def test_command_lines(arguments: tuple[str, ...], pictures: Path) -> None:
    if "texture_synthesis" in arguments:  # the defaults take half a minute
        arguments = (*arguments, "--size", "128x96", "--set", "steps=4", "--set", "finish_steps=4")
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    if "-o" in arguments:
        assert (pictures / arguments[arguments.index("-o") + 1]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", PYTHON, ids=NAMES.get)
def test_links_and_pictures_exist(path: Path) -> None:
    targets = [target for target in re.findall(r"\]\((.+?)\)", path.read_text(encoding="utf-8")) if "://" not in target]
    assert targets
    assert [target for target in targets if not (path.parent / target.split("#")[0]).exists()] == []


def test_the_front_readme_leads_to_every_method() -> None:
    text = FRONT.read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[`(\w+)`\]\((.+?)\) \| (.+?) \| (.+?) \| (.+?) \|$", text, flags=re.MULTILINE)
    assert sorted((name, ROOT / link) for name, link, *_ in rows) == sorted(METHODS.items())
    for name, _, _, figure, command in rows:
        assert re.search(r"\d", figure), f"{name} has no figure"
        assert re.fullmatch(r"`(benchmarks/\w+\.py.*|python -m weights build .+)`", command), command
    assert {entry.method for entry in catalogue.list_models()} - {"features"} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_generated_tables_are_current(method: str) -> None:
    from benchmarks.readme import TABLE, render

    text = METHODS[method].read_text(encoding="utf-8")
    assert render(text, method) == text, f"{METHODS[method]} is not current: run `make readme`"
    tables = TABLE.findall(text)
    assert {"models", "citations"} <= {kind for _, kind, *_ in tables}
    assert len(tables) == text.count("<!-- generated:") == text.count("<!-- end -->")
    for match in TABLE.finditer(text):
        if match[2] == "citations":
            assert "@" in match[0]
            continue
        cells = [re.split(r"(?<!\\)\|", row)[1:-1] for row in match[0].splitlines() if row.startswith("|")]
        assert len(cells) > 2
        if match[2] != "published":
            assert all(cell.strip() for row in cells for cell in row), "an entry or a setting is not explained"


def test_generated_tables_say_what_the_code_says() -> None:
    from artmodels.descent.terms import TERMS
    from benchmarks.readme import TABLE, render

    text = "".join(path.read_text(encoding="utf-8") for path in METHODS.values())
    assert [entry.name for entry in catalogue.list_models() if f"| `{entry.name}`" not in text] == []
    assert [name for name in TERMS if f"| `{name}`" not in text] == []
    knobs = "".join(match[0] for match in TABLE.finditer(METHODS["super_resolution"].read_text(encoding="utf-8")))
    assert "| `tile` | `None` | Side in pixels of the squares that a large picture is cut into" in knobs
    with pytest.raises(ValueError, match="generated tables"):
        render("<!-- generated: nonsense -->\n<!-- end -->", "mimax")


def test_whatever_a_model_is_built_on_can_be_cited() -> None:
    text = (ROOT / "artmodels" / "methods" / "references.bib").read_text(encoding="utf-8")
    keys, known = re.findall(r"^@\w+{(\w+),$", text, re.MULTILINE), set(re.findall(r"(?:eprint|doi) = {(.+)}", text))
    assert keys == sorted(set(keys)) and len(keys) == len(known) == text.count("\n}")
    sources = " ".join(entry.source for entry in catalogue.list_models())
    named = set(re.findall(r"(?:arXiv|doi):([\w./]+\w)", sources))
    assert named and named - known == set()
    shown = "".join(path.read_text(encoding="utf-8") for path in METHODS.values())
    assert [key for key in keys if f"{{{key}," not in shown] == []


def test_the_project_can_be_cited() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == artmodels.__version__
    assert (cited["cff-version"], cited["type"], cited["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert cited["message"] and cited["title"] and cited["authors"]
