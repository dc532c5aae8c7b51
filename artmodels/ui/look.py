"""How a Space is served and how it looks.

The look is paper, ink and one dark red, in fonts that are already on the visitor's machine.
"""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.route_utils import CustomCORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from artmodels import runtime
from artmodels.ui import keeping, uploads
from artmodels.ui.server import pictures
from artmodels.ui.server.guard import Guard, allowed_hosts
from artmodels.ui.server.prepared import PreparedAnswers
from artmodels.ui.server.sessions import Sessions

__all__ = ["CSS", "SCRIPT", "health", "launch_options", "theme"]

CSS = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
_PAPER = gr.themes.Color(
    *("#fdfcfa", "#f7f4ee", "#ebe6dc", "#d9d2c5", "#b4ab9b", "#847b6d", "#665e52", "#4b453c", "#2f2b26"),
    *("#211e1a", "#171512"),
    name="paper",
)
_RED = gr.themes.Color(
    *("#fbf3f1", "#f5e2dd", "#ebc7be", "#dba295", "#c67565", "#a8503f", "#8a3526", "#722b20", "#5c251d"),
    *("#45201b", "#2a1311"),
    name="red",
)

# In light, and in dark.
_COLOURS = {
    "body_background_fill": ("*neutral_100", "*neutral_950"),
    "body_text_color": ("*neutral_900", "*neutral_200"),
    "body_text_color_subdued": ("*neutral_600", "*neutral_400"),
    "block_background_fill": ("*neutral_50", "*neutral_900"),
    "block_info_text_color": ("*neutral_600", "*neutral_400"),
    "block_label_text_color": ("*neutral_700", "*neutral_300"),
    "block_title_text_color": ("*neutral_800", "*neutral_200"),
    "border_color_primary": ("*neutral_300", "*neutral_800"),
    "input_border_color": ("*neutral_300", "*neutral_700"),
    "input_background_fill": ("white", "*neutral_950"),
    "button_primary_background_fill": ("*primary_700", "*primary_600"),
    "button_primary_background_fill_hover": ("*primary_800", "*primary_700"),
    "button_primary_text_color": ("white", "white"),
    "button_secondary_background_fill": ("*neutral_200", "*neutral_800"),
    "link_text_color": ("*primary_700", "*primary_300"),
    "slider_color": ("*primary_700", "*primary_400"),
}


def theme() -> gr.themes.Base:
    """Make the theme; it fetches no font and no style sheet."""
    light = {name: colours[0] for name, colours in _COLOURS.items()}
    dark = {f"{name}_dark": colours[1] for name, colours in _COLOURS.items()}
    return gr.themes.Base(
        primary_hue=_RED,
        secondary_hue=_PAPER,
        neutral_hue=_PAPER,
        radius_size=gr.themes.sizes.radius_sm,
        font=["Seravek", "Gill Sans Nova", "Ubuntu", "Calibri", "Segoe UI", "DejaVu Sans", "sans-serif"],
        font_mono=["Cascadia Code", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"],
    ).set(input_border_width="1px", **light, **dark)


def launch_options(**changes: Any) -> dict[str, Any]:
    """Say how a Space is served: hardened, in our look, with `/health`.

    The environment may change the address: `GRADIO_SERVER_NAME` (127.0.0.1), and `GRADIO_SERVER_PORT` or `PORT` (the
    first free one from 7860), and the names by which it is asked: see `artmodels.ui.server.guard.allowed_hosts`.

    Raises:
        ConfigError: `ARTMODELS_ALLOWED_HOSTS` names what is not a host.
    """
    port = os.environ.get("GRADIO_SERVER_PORT") or os.environ.get("PORT")
    server_name = str(changes.get("server_name") or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1")
    return {
        "server_name": server_name,
        "server_port": int(port) if port else None,
        "share": False,
        "show_error": False,
        "max_file_size": "40mb",
        "allowed_paths": [],
        "enable_monitoring": False,
        "run_history": False,
        "footer_links": ["api"],
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "app_kwargs": {
            "routes": [
                Route("/health", health),
                Route("/look.js", script),
                pictures.ROUTE,
                keeping.ROUTE,
                uploads.ROUTE,
            ],
            "lifespan": _served(allowed_hosts(server_name)),
        },
        "theme": theme(),
        "css": CSS,
        "head": '<script src="look.js"></script>',
    } | changes


def _served(hosts: frozenset[str]) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.state_holder = Sessions(app.get_blocks())
        # Around everything: FastAPI's `middleware` would stand inside gradio's own, which answers some requests itself.
        prepared = PreparedAnswers(_watching(app.middleware_stack, app.state_holder), app)
        app.middleware_stack = Guard(CustomCORSMiddleware(prepared), hosts)  # what is prepared has no such headers
        yield

    return lifespan


def _watching(inner: ASGIApp, sessions: Sessions) -> ASGIApp:
    """Tell the sessions which pages are open: a page keeps a connection whose address ends with its session."""

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        before, _, session_id = scope.get("path", "").rpartition("/")
        if before.endswith("/gradio_api/heartbeat"):
            with sessions.watched(session_id):
                await inner(scope, receive, send)
        else:
            await inner(scope, receive, send)

    return watch


def script(_: Request) -> Response:
    """Give the script of the pages: a file, since the policy of our pages allows no script that gradio writes later."""
    return Response(SCRIPT, media_type="text/javascript", headers={"Cache-Control": "no-cache"})


def health(_: Request) -> JSONResponse:
    """Answer that the server lives, and what it computes with."""
    return JSONResponse({"ok": True, **runtime.versions()})
