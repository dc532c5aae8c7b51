"""The repository itself: what may lie where, what is pinned, who imports whom, what is never committed."""

import ast
import pkgutil
import re
import socket
import subprocess
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from artmodels.hub import catalogue

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def files() -> list[Path]:
    """What is committed or would be: everything that git does not ignore."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return sorted(path for path in map(Path, listed.split("\0")) if path.name and (ROOT / path).is_file())


def sources() -> dict[Path, str]:
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in files() if path.suffix == ".py"}


# --- layout


def test_top_level_is_fixed() -> None:
    folders = {"artmodels", "benchmarks", "examples", "export", "spaces", "tests", "weights", ".ci"}
    single = {
        *(".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE"),
        *("Makefile", "README.md", "constraints.txt", "pyproject.toml"),
    }
    top = {path.parts[0] for path in files()}
    assert top <= folders | single
    assert single <= top


def test_the_front_readme_is_a_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_method_says_what_it_does() -> None:
    methods = {path.parent for path in ROOT.glob("artmodels/methods/*/__init__.py")}
    assert methods
    assert [folder.name for folder in methods if not (folder / "README.md").is_file()] == []


def test_folders_are_small() -> None:
    """A folder with more than ten modules has rooms to be found in it; `__init__.py` counts."""
    folders = Counter(path.parent for path in sources() if path.parts[0] in ("artmodels", "spaces"))
    assert {str(folder): count for folder, count in folders.items() if count > 10} == {}


def test_a_public_class_name_means_one_thing() -> None:
    named: defaultdict[str, list[str]] = defaultdict(list)
    for path, text in sources().items():
        if path.parts[0] in ("artmodels", "spaces"):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    named[node.name].append(f"{path}:{node.lineno}")
    assert {name: places for name, places in named.items() if len(places) > 1} == {}


def test_what_the_documents_name_is_there() -> None:
    """Paths from the top of the repository, modules, and links, outside the changelog, which also names what was."""
    only_in_a_wheel = {"artmodels/_weights", "artmodels/_spaces"}
    missing = []
    for path in (path for path in files() if path.suffix == ".md" and path.name != "CHANGELOG.md"):
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(
            r"(?<![\w./-])(?:artmodels|benchmarks|export|spaces|tests|weights)(?:/[\w.*<>-]+)+/?", text
        ):
            if "<" not in name and name not in only_in_a_wheel and not any(ROOT.glob(name.rstrip("/."))):
                missing.append(f"{path}: {name}")
        for name in re.findall(r"(?<![\w./-])artmodels(?:\.\w+)+", text):
            try:
                pkgutil.resolve_name(name)
            except (ImportError, AttributeError):
                missing.append(f"{path}: {name}")
        for target in re.findall(r"\]\((.+?)\)", text):
            if "://" not in target and not (ROOT / path.parent / target.partition("#")[0]).exists():
                missing.append(f"{path}: {target}")
    assert missing == []


def test_no_pickles_are_committed() -> None:
    forbidden = {
        ".bin",
        ".ckpt",
        ".joblib",
        ".npy",
        ".npz",
        ".onnx",
        ".pickle",
        ".pkl",
        ".pt",
        ".pth",
        ".tflite",
    }
    found = files()
    assert len(found) > 10
    assert [path for path in found if path.suffix in forbidden] == []
    # torch.save writes a zip archive that holds data.pkl, whatever the file is called.
    assert [path for path in found if b"data.pkl" in (ROOT / path).read_bytes() and path.suffix != ".py"] == []


def test_committed_weights_are_small() -> None:
    sizes = {path: (ROOT / path).stat().st_size for path in files() if path.suffix == ".safetensors"}
    assert {path: size for path, size in sizes.items() if size > 8_000_000} == {}
    assert sum(sizes.values()) <= 40_000_000


def test_the_ci_script_and_make_agree() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[-2:] == ["make lint", "make test"]
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):.*##", made, flags=re.MULTILINE))
    assert targets == {"help", "gallery", "test", "test-slow", "lint", "bench", "readme", "clean"}
    assert targets == set(re.findall(r"^\.PHONY: ([\w-]+)", made, flags=re.MULTILINE))


def test_the_changelog_collects_what_comes_next() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, flags=re.MULTILINE)
    assert headings[0] == "Unreleased"


# --- dependencies


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line and not line.startswith("#")]
    assert found == sorted(found)
    # Names and versions only: no addresses, no files, no options.
    parts = [re.fullmatch(r"([a-z0-9][a-z0-9-]*)==([0-9][a-z0-9.]*)", line) for line in found]
    assert [line for line, part in zip(found, parts, strict=True) if part is None] == []
    return {part[1]: part[2] for part in parts}


def test_constraints_pin_everything_that_make_installs() -> None:
    exact = pins()
    assert "artmodels" not in exact
    assert [name for name in exact if name.startswith(("nvidia-", "cuda-", "triton"))] == []
    for text in PROJECT["dependencies"] + EXTRAS["demo"] + EXTRAS["dev"]:
        requirement = Requirement(text)
        version = exact[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text} excludes the pinned {version}"


def test_ranges_have_a_floor_and_a_ceiling() -> None:
    assert set(EXTRAS) == {"onnx", "onnx-gpu", "export", "demo", "batch", "train", "search", "align", "dev"}
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]:
        operators = {specifier.operator for specifier in Requirement(text).specifier}
        assert operators == {">=", "<"}, text


def test_no_test_tool_is_a_runtime_dependency() -> None:
    runtime = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    tools = {canonicalize_name(Requirement(text).name) for text in EXTRAS["dev"]}
    assert not runtime & tools
    assert not runtime & {"gradio", "ray", "onnxruntime", "transformers"}


# --- imports


def imported(path: Path, text: str) -> set[str]:
    """Every module that a file names in an import statement, at any depth, by its full name."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            folders = path.parent.parts
            package = folders[: len(folders) + 1 - node.level] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def test_imports_point_one_way() -> None:
    above = {"benchmarks", "export", "spaces", "tests", "weights"}
    wrong = {
        f"{path}: {name}"
        for path, text in sources().items()
        for name in imported(path, text)
        if (path.parts[0] == "artmodels" and name.split(".")[0] in above)
        or (path.parts[0] != "spaces" and name.split(".")[0] == "spaces")
    }
    assert wrong == set()


def test_the_package_root_is_for_users() -> None:
    """Which imports may point where is in pyproject.toml, for import-linter; it has no word for the root itself."""
    wrong = [
        f"{path}: {node.lineno}"
        for path, text in sources().items()
        if path.parts[0] == "artmodels"
        for node in ast.walk(ast.parse(text))
        if (isinstance(node, ast.Import) and any(alias.name == "artmodels" for alias in node.names))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "artmodels"
            and not all(list((ROOT / "artmodels").glob(f"{alias.name}*")) for alias in node.names)
        )
    ]
    assert wrong == []


# --- habits


def test_every_suppression_names_its_rule() -> None:
    bare = re.compile(r"#\s*noqa(?!: ?[A-Z]+\d)|#\s*type:\s*ignore(?!\[)", re.IGNORECASE)
    found = [
        f"{path}:{number}"
        for path, text in sources().items()
        for number, line in enumerate(text.splitlines(), 1)
        if bare.search(line) and "re.compile" not in line
    ]
    assert found == []


def test_the_network_is_out_of_reach() -> None:
    with pytest.raises(ConnectionRefusedError, match=r"a test tried to reach 192\.0\.2\.1"):
        socket.create_connection(("192.0.2.1", 80), timeout=5)


# --- Spaces and cards

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


def front_matter(path: Path) -> dict[str, object]:
    match = re.match(r"---\n(.*?)\n---\n", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert match, f"{path} has no front matter"
    return yaml.safe_load(match[1])


def test_every_method_has_a_space() -> None:
    there = {path.parent.name for path in ROOT.glob("spaces/*/app.py")}
    assert there == {"gallery", *(method.id for method in catalogue.methods())}


@pytest.mark.parametrize(
    "folder", [app.parent for app in sorted(ROOT.glob("spaces/*/app.py"))], ids=lambda folder: folder.name
)
def test_space_is_complete(folder: Path) -> None:
    matter = front_matter(folder / "README.md")
    assert matter["sdk"] == "gradio"
    assert str(matter["sdk_version"]) == pins()["gradio"]
    assert str(matter["python_version"]) == "3.12"
    assert (folder / str(matter["app_file"])).is_file()
    assert {matter["colorFrom"], matter["colorTo"]} <= COLOURS
    assert matter["license"] == "apache-2.0"
    assert matter["title"]
    assert matter["emoji"]
    assert 0 < len(str(matter["short_description"])) <= 60
    ranges = [line for line in (folder / "requirements.txt").read_text(encoding="utf-8").splitlines() if line]
    assert ranges
    for line in ranges:
        operators = {specifier.operator for specifier in Requirement(line).specifier}
        assert operators == {">=", "<"}, f"{folder.name}: {line} is not a range"


def test_every_checkpoint_has_its_card_and_recipe() -> None:
    for config in ROOT.glob("weights/*/config.json"):
        matter = front_matter(config.parent / "README.md")
        assert matter["license"], config
        assert matter["library_name"] == "artmodels", config
        assert (config.parent / "recipe.toml").is_file(), config
