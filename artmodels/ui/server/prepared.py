"""Pages, and descriptions of them, that are the same for all visitors: made once and sent compressed.

gradio makes them anew for every request, from thousands of objects, and does not compress them. They differ by the
address that is asked for. What depends on the visitor, and everything that streams, is passed on.
"""

import asyncio
import base64
import gzip
import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artmodels.ui.server.guard import content_policy

__all__ = ["PreparedAnswers"]

KEPT = 64  # answers, some 30 kB each; a gallery has one a page and three more, for each of its addresses
_MEANING = {"page", "all_endpoints", "deep_link"}  # the parameters that change an answer
_ADDRESS = ("host", "x-forwarded-host", "x-forwarded-proto")  # what gradio makes its own address of
_SCRIPT = re.compile(rb"<script\b(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class _Answer:
    status: int
    media_type: str
    policy: str  # "" for the usual one
    packed: bytes

    def response(self, *, packed: bool) -> Response:
        headers = {"Vary": "Accept-Encoding"}
        if packed:
            headers["Content-Encoding"] = "gzip"
        if self.policy:
            headers["Content-Security-Policy"] = self.policy
        content = self.packed if packed else gzip.decompress(self.packed)
        return Response(content, self.status, headers, self.media_type)


class PreparedAnswers:
    """Answers for the pages and descriptions of a gradio app from what it made before."""

    def __init__(self, inner: ASGIApp, app: Any) -> None:
        """Stand before what answers what is not there yet, inside gradio's app, whose pages these are."""
        self.inner, self.app = inner, app
        pages = {f"/{page}" for page, *_ in app.get_blocks().pages}
        # gradio gives all pages the title of the first.
        title = app.get_blocks().title
        self.titles = {
            f"/{page}": (title, f"{name} · {title.partition(':')[0]}")
            for page, name, *_ in app.get_blocks().pages
            if page
        }
        self.paths = pages | {"/", "/config", "/gradio_api/info", "/theme.css", "/gradio_api/theme.css"}
        self.made = OrderedDict[tuple[Any, ...], _Answer]()
        self._making = asyncio.Lock()  # one at a time: many who come at once wait for the first one's

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        path = scope.get("path", "").removeprefix(scope.get("root_path", "")) or "/"
        if scope["type"] != "http" or scope["method"] != "GET" or path not in self.paths:
            await self.inner(scope, receive, send)
            return
        headers = Headers(scope=scope)
        query = tuple(pair for pair in parse_qsl(scope["query_string"].decode("latin-1")) if pair[0] in _MEANING)
        address = tuple(headers.get(name, "") for name in _ADDRESS)
        key = (path, query, scope["scheme"], address, scope["path"], scope.get("root_path", ""))
        answer = self.made.get(key)
        if answer is None:
            async with self._making:
                answer = self.made.get(key) or await self._make(scope, receive)
                shared = self.app.auth is None and self.app.auth_dependency is None
                if shared and answer.status == 200 and not any(name == "deep_link" for name, _ in query):
                    self.made[key] = answer
                    if len(self.made) > KEPT:
                        self.made.popitem(last=False)
        else:
            self.made.move_to_end(key)
        packed = "gzip" in headers.get("accept-encoding", "")
        await answer.response(packed=packed)(scope, receive, send)

    async def _make(self, scope: Scope, receive: Receive) -> _Answer:
        self.app.api_info = None  # it holds the address by which it was first asked for
        start: Message = {}
        parts: list[bytes] = []

        async def take(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await self.inner({**scope, "headers": plain}, receive, take)
        content = b"".join(parts)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        for shared, own in filter(None, [self.titles.get(path)]):
            content = content.replace(shared.encode(), own.encode())
        media_type = MutableHeaders(raw=start["headers"]).get("content-type", "text/plain")
        policy = ""
        if media_type.startswith("text/html"):
            scripts = (hashlib.sha256(script).digest() for script in _SCRIPT.findall(content))
            policy = content_policy([base64.b64encode(digest).decode() for digest in scripts])
        packed = await asyncio.to_thread(gzip.compress, content, 6, mtime=0)
        return _Answer(start["status"], media_type, policy, packed)
