"""Which requests the server answers, and what it tells browsers to allow: plain ASGI around gradio's app.

A page of another site must not use a server that listens on this machine or in this network: neither by a name of its
own that it points to the server's address (DNS rebinding), nor by a form or a script of its own (request forgery).
"""

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from artmodels.errors import ConfigError

__all__ = ["Guard", "allowed_hosts", "content_policy", "hostname", "security_headers"]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
ANY = "*"
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::[0-9]{1,5})?", re.IGNORECASE)
_UNUSED = ("microphone", "geolocation", "display-capture", "payment", "usb", "serial", "midi")


def hostname(host: str) -> str:
    """Take the name or address out of a `Host` header, in lower case; "" if it holds none."""
    found = _HOST.fullmatch(host.strip())
    return (found[1] or found[2]).lower().removesuffix(".") if found else ""


def allowed_hosts(server_name: str) -> frozenset[str]:
    """Names by which the server may be asked, besides any IP address, which nobody can point elsewhere.

    They are those of this machine to itself, the one that the server is bound to, the Space's (`SPACE_HOST`), and the
    comma list of `ARTMODELS_ALLOWED_HOSTS`, in which `*` is any.

    Raises:
        ConfigError: An entry of the list is not a host.
    """
    listed = list(filter(None, map(str.strip, os.environ.get("ARTMODELS_ALLOWED_HOSTS", "").split(","))))
    for entry in listed:
        if entry != ANY and not hostname(entry):
            raise ConfigError(
                f"ARTMODELS_ALLOWED_HOSTS names {entry!r}, which is not a host: give names such as art.example.org, "
                "with commas between them, or * for any."
            )
    named = hostname(server_name), hostname(os.environ.get("SPACE_HOST", ""))
    return LOOPBACK | {name for name in named if name} | {ANY if entry == ANY else hostname(entry) for entry in listed}


def content_policy(script_hashes: Sequence[str] = ()) -> str:
    """Write the Content-Security-Policy of our pages: nothing from other hosts, no script that was not there.

    The hashes are the SHA-256 of each script inside the page, in Base64.
    """
    # gradio compiles the templates and scripts of gr.HTML, and Vega its expressions; both style what they make.
    scripts = " ".join(["'self'", "'unsafe-eval'", *(f"'sha256-{digest}'" for digest in script_hashes)])
    # On the Hub a Space is shown inside a page of the Hub.
    frames = "'self' https://huggingface.co https://*.hf.space" if os.environ.get("SPACE_ID") else "'self'"
    return (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; connect-src 'self'; "
        f"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors {frames}"
    )


def security_headers() -> dict[str, str]:
    """Headers of every answer; the environment says where the server runs and whether it may ask for a camera."""
    camera = "(self)" if os.environ.get("ARTMODELS_WEBCAM") == "1" else "()"
    headers = {
        "Content-Security-Policy": content_policy(),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Permissions-Policy": ", ".join([f"camera={camera}", *(f"{feature}=()" for feature in _UNUSED)]),
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    # It cannot name other sites, and would keep a Space out of the Hub's page.
    return headers if os.environ.get("SPACE_ID") else headers | {"X-Frame-Options": "SAMEORIGIN"}


class Guard:
    """Refuses what comes under a strange name or from a strange page, and adds `security_headers` to every answer."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        """Stand before an app, which answers what is not refused; for the hosts see `allowed_hosts`."""
        self.app = app
        self.hosts = frozenset(hosts)
        self.headers = security_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            # gradio would believe whoever says to be its own front server, which ours does not have.
            headers = [(name, value) for name, value in scope["headers"] if name != b"x-gradio-server"]
            await self.app({**scope, "headers": headers}, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        given = headers.getlist("host")
        # gradio makes its addresses from the name that a proxy says it was asked by.
        forwarded = [value.split(",")[0] for value in headers.getlist("x-forwarded-host")]
        if len(given) != 1 or len(forwarded) > 1 or not all(map(hostname, given + forwarded)):
            return PlainTextResponse("This request does not say which host it is for (Host header).", 400)
        asked = [hostname(host) for host in given + forwarded]
        for name in asked:
            if not (self.hosts & {name, ANY} or _is_address(name)):
                return PlainTextResponse(
                    f"This server does not answer to the name {name}. If that is its name, start it with "
                    f"ARTMODELS_ALLOWED_HOSTS={name} (commas between several names, * for any).\n",
                    421,
                )
        if scope["type"] == "http" and scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            return None
        # Browsers name the page's site; programs name none.
        for origin in headers.getlist("origin"):
            site = hostname(urlsplit(origin).netloc) if "://" in origin else ""
            if not site or site not in {*asked, *self.hosts}:
                return PlainTextResponse(
                    f"A page of another site ({site or 'one without a name'}) may not use this server. If the site is "
                    "yours, start the server with its name in ARTMODELS_ALLOWED_HOSTS.\n",
                    403,
                )
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
