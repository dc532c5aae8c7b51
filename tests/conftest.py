"""What every test stands on: no network, no cache of the user's, small pictures, running apps, and a browser."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import CHROMIUM, ROOT, WIDTHS, launched, load_script

SCRATCH = Path(tempfile.mkdtemp(prefix="artmodels-tests-"))

# huggingface_hub and gradio read these once, when they are imported: set them before any test module is.
# Port 9 is the discard service: what a test forgets to point elsewhere fails at once, far from the Hub.
os.environ |= {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_TEMP_DIR": str(SCRATCH / "gradio"),
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HF_HOME": str(SCRATCH / "huggingface"),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
}
# Threads that wait for each other on a busy machine take ten times as long as one that does not.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in (
    *("ARTMODELS_NAMESPACE", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT"),
    *("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HUGGINGFACE_HUB_CACHE"),
):
    os.environ.pop(name, None)


@cache
def group(module: str) -> str:
    """Name the tests that one worker of several gets: a module's, or of all modules that talk to the same page."""
    text = (ROOT / module).read_text(encoding="utf-8")
    if "gallery_url" in text and "IN_BROWSER" in text:
        return "gallery in a browser"  # a second gallery is cheaper than a worker that has all its tests
    return next((server for server in ("gallery_url", "artminer_url", "IN_BROWSER") if server in text), module)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let workers begin with the long groups, so that none is left alone with one at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (group(module := item.nodeid.split("::")[0]) == module, group(module)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep each `group` on one worker; pytest-xdist 3.8 finds no groups of its own in the test ids of pytest 9.2."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid.split("::")[0])

    return Groups(config, log)


def pytest_unconfigure() -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection that would leave this machine."""
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in {"127.0.0.1", "::1", "localhost"}:
            raise ConnectionRefusedError(f"a test tried to reach {host}; tests use servers of their own")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random weights, whichever tests ran before it."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A clock for deadlines that is a second later whenever it is read, and lists the seconds: the same everywhere."""
    read: list[int] = []

    def monotonic() -> float:
        read.append(len(read))
        return float(read[-1])

    monkeypatch.setattr("artmodels.descent.optimise.time", SimpleNamespace(monotonic=monotonic))
    return read


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and the current one for the test, with the files that the README's examples name."""
    from PIL import Image
    from skimage import data

    for name, image in {
        "brick.png": data.brick(),
        "photo.jpg": data.astronaut(),
        "style.jpg": data.coffee(),
    }.items():
        Image.fromarray(image).convert("RGB").resize((128, 96)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def gallery_url() -> Iterator[str]:
    """The address of `spaces/gallery/app.py`."""
    from artmodels import ui

    app = load_script(ROOT / "spaces" / "gallery" / "app.py")
    with launched(app.demo, ui.launch_options()) as url:
        yield url


@pytest.fixture(scope="session")
def artminer_url() -> Iterator[str]:
    """The address of `spaces/artminer/app.py`, alone."""
    from artmodels import ui

    app = load_script(ROOT / "spaces" / "artminer" / "app.py")
    with launched(app.demo.queue(**ui.QUEUE), ui.launch_options()) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium; a module's, since its event loop must not run under the tests of others."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # A container has no sandbox of its own to give, and little shared memory.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Any, site: str, tmp_path: Path) -> Iterator[Any]:
    """A page that must not complain, fail a request or leave the `site`, an address that the module's fixture gives."""
    width, height = WIDTHS[request.param]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)  # how long a test that fails may take, as everywhere
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda r: None if "ERR_ABORTED" in (r.failure or "") else faults.append(r.url))
    page.on(
        "request",
        lambda r: None if r.url.startswith((site, "data:", "blob:")) else faults.append(f"external: {r.url}"),
    )
    page.on("response", lambda r: faults.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.faults = faults
    yield page
    folder = Path(os.environ.get("ARTMODELS_SCREENSHOTS", tmp_path))
    page.screenshot(path=folder / f"{request.node.name}.png", full_page=True)
    page.close()
    assert faults == []
