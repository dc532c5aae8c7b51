"""The three places where gradio itself is changed, and why: what it has no setting for."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import gradio as gr
from gradio import component_meta, route_utils

from artmodels.ui.server.sessions import Session

__all__ = ["build_routes_once", "without_stub_files"]

# gradio makes a session in passing for each check of a call that names none: 0.03 s of CPU that nobody needs.
route_utils.SessionState = Session  # type: ignore[attr-defined]


@contextmanager
def without_stub_files() -> Iterator[None]:
    """Define subclasses of components inside: gradio would write type hints of each into a file beside ours."""
    with patch.object(component_meta, "create_or_modify_pyi", lambda *_: None):
        yield


@contextmanager
def build_routes_once() -> Iterator[None]:
    """Put pages together inside, for a gallery whose `queue` or `launch` builds the routes afterwards.

    gradio builds all routes whenever a page is begun, ended or queued, each time for nothing but the last.
    """
    with patch.object(gr.routes.App, "create_app", lambda *_, **__: None):
        yield
