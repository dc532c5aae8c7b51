"""A Space's folder runs alone: `pip install -r requirements.txt && python app.py`, with our wheel, offline."""

import os
import shutil
import socket
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from packaging.requirements import Requirement
from PIL import Image
from support import ROOT

SPACE = ROOT / "spaces" / "mimax"  # the one that brings files of its own, and needs most


def install(requirement: Requirement, site: Path, done: set[str]) -> None:
    """Do as pip does, for what the running environment has: link it and all that it requires.

    A distribution that is already in the folder, as ours, is only checked.
    """
    if f"{requirement.name}{sorted(requirement.extras)}" in done:
        return
    done.add(f"{requirement.name}{sorted(requirement.extras)}")
    there: Distribution | None = next(iter(distributions(name=requirement.name, path=[str(site)])), None)
    found = there or distribution(requirement.name)
    assert requirement.specifier.contains(found.version, prereleases=True), f"{requirement}: {found.version} is here"
    if there is None:
        for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(found.locate_file(name))
    environments = [{"extra": extra} for extra in requirement.extras or {""}]
    for needed in map(Requirement, found.requires or ()):
        if needed.marker is None or any(map(needed.marker.evaluate, environments)):
            install(needed, site, done)


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The interpreter of an environment that has our wheel, and nothing but what the Space requires."""
    from hatchling.build import build_wheel

    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build_wheel(str(tmp_path))
    venv.create(tmp_path / "environment", symlinks=True)
    (site,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    done = set[str]()
    for line in (SPACE / "requirements.txt").read_text(encoding="utf-8").split():
        install(Requirement(line), site, done)
    return tmp_path / "environment" / "bin" / "python"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The Space's folder, elsewhere."""
    return Path(shutil.copytree(SPACE, tmp_path / "elsewhere", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables of a machine without network, and without anything of this checkout."""
    kept = {name: os.environ[name] for name in ("PATH", "HF_ENDPOINT", "OMP_NUM_THREADS")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return kept | {"HOME": str(tmp_path), "GRADIO_TEMP_DIR": str(tmp_path / "cache"), "GRADIO_SERVER_PORT": port}


@pytest.fixture
def client(python: Path, folder: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[Client]:
    url = f"http://127.0.0.1:{environment['GRADIO_SERVER_PORT']}"
    with open(tmp_path / "log.txt", "w+") as log, subprocess.Popen(
        [python, "app.py"], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
    ) as server:  # fmt: skip
        try:
            while not answers(url):
                assert server.poll() is None, Path(log.name).read_text()
            client = Client(url, verbose=False, download_files=tmp_path / "got", analytics_enabled=False)
            yield client
            client.close()
        finally:
            server.terminate()
            sys.stdout.write(Path(log.name).read_text())  # shown where the test fails


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=30).status_code == 200
    except httpx.ConnectError:
        return False


def test_a_folder_runs_alone(python: Path, folder: Path, environment: dict[str, str], client: Client) -> None:
    code = "import sys, artmodels; print(artmodels.__file__, *sys.path, sep='\\n')"
    done = subprocess.run([python, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    module, *places = done.stdout.splitlines()
    assert Path(module).is_relative_to(python.parents[1])
    assert str(ROOT) not in places
    code = "import pytest"
    assert subprocess.run([python, "-c", code], cwd=folder, env=environment, capture_output=True).returncode == 1

    photo = folder / "examples" / "seascape-09.jpg"
    image, settings, _ = client.predict(handle_file(photo), "mimax-seascapes", 0.3, api_name="/mimax_run")
    assert settings["objects"]
    with Image.open(image) as shown, Image.open(photo) as given:
        assert shown.size == given.size
