"""What tests of several folders use: scripts by their path, running pages, and a browser.

It is no part of conftest.py, which pytest imports under another name than tests would: it would run twice.
"""

import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IN_BROWSER = [
    pytest.mark.browser,
    # gradio opens an example that is clicked, and leaves closing it to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium found: apt-get install chromium"),
]
WIDTHS = {"desk": (1280, 900), "telephone": (390, 844)}
ROOT = Path(__file__).parent.parent


def load_script(path: Path) -> ModuleType:
    """Import a file that belongs to no package, such as a Space's `app.py`, by its path."""
    name = "_".join(path.relative_to(ROOT).with_suffix("").parts)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@contextlib.contextmanager
def launched(demo: Any, options: dict[str, Any]) -> Iterator[str]:
    """Serve a page as its own file would do it, and give its address."""
    # anyio imports its parts when they are used, pytest rewrites them, and Python 3.11 must not parse in two threads.
    for name in dir(anyio):
        getattr(anyio, name)
    _, url, _ = demo.launch(**options | {"prevent_thread_lock": True, "quiet": True, "inbrowser": False})
    try:
        yield url
    finally:
        demo.close()


def overflow(page: Any) -> int:
    """Pixels by which a page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
