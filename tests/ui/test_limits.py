"""What a server keeps, sends and refuses: sessions, the size of its pages, and who may ask for them."""

import asyncio
import base64
import contextlib
import gc
import gzip
import hashlib
import io
import json
import re
import sys
import threading
import tracemalloc
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio import route_utils
from gradio_client import Client
from PIL import Image
from support import IN_BROWSER, launched

import artmodels
from artmodels import ui
from artmodels.errors import ConfigError
from artmodels.hub import catalogue
from artmodels.ui.look import launch_options
from artmodels.ui.server import guard
from artmodels.ui.server.guard import Guard, allowed_hosts, hostname
from artmodels.ui.server.pictures import picture_url
from artmodels.ui.server.sessions import BARE, CAPACITY, KEPT, Sessions, _has_values
from artmodels.ui.widgets.wall import Tile, wall

NETWORK = "texture_network_run"
SAMPLE = ["texture-network-wood", 64, 64, True, 0]
PAGES = ("", *sorted(method.id for method in catalogue.methods()))


@pytest.fixture(scope="module")
def gate() -> threading.Event:
    """Lets the second step of the small app go on."""
    return threading.Event()


@pytest.fixture(scope="module")
def small(gate: threading.Event) -> Iterator[tuple[str, gr.Blocks]]:
    """A page with a wall, a visitor's value and work in steps; its address, and itself."""
    colours = [
        Tile(value=name, title=name, text="plain", picture=Image.new("RGB", (224, 224), name))
        for name in ("red", "blue")
    ]

    def steps() -> Iterator[str]:
        yield "one"
        gate.wait(30)
        yield "two"

    with ui.blocks("small") as demo:
        wall("Colour", colours)
        kept, text = gr.State(None, time_to_live=3600), gr.Textbox()
        gr.on([], lambda said, _: said, [text, kept], kept, api_name="keep")
        gr.on([], lambda held: held or "nothing", kept, text, api_name="tell")
        gr.on([], steps, None, text, api_name="steps")
    with launched(demo.queue(**ui.QUEUE), launch_options()) as url:
        yield url, demo


def call(url: str, name: str, data: list[object], session: str = "") -> str:
    """Call an endpoint in a session of its own, or the one that is named; give the lines of its answer."""
    body = {"data": data, "session_hash": session or uuid.uuid4().hex}
    address = f"{url}gradio_api/call/{name}"
    event = httpx.post(address, json=body, timeout=60).raise_for_status().json()["event_id"]
    return httpx.get(f"{address}/{event}", timeout=60).text


def gallery() -> gr.Blocks:
    return sys.modules["spaces_gallery_app"].demo


# --- sessions


def test_sessions_with_results_keep_next_to_nothing(gallery_url: str) -> None:
    call(gallery_url, NETWORK, SAMPLE)
    sessions = gallery().app.state_holder.session_data
    names = [uuid.uuid4().hex for _ in range(20)]
    gc.collect()
    tracemalloc.start()
    try:
        for name in names:
            assert "event: complete" in call(gallery_url, NETWORK, SAMPLE, name)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert set(names) <= set(sessions)
    assert held / len(names) < 80_000  # bytes; 750 000 with gradio's own
    assert all(not session.config_values for session in sessions.values())


def test_sessions_of_their_own_do_not_pile_up(gallery_url: str) -> None:
    holder, queue = gallery().app.state_holder, gallery()._queue
    for _ in range(BARE + 40):
        call(gallery_url, NETWORK, SAMPLE)
    holder.delete_all_expired_state()
    # Others may have left values, which are kept for an hour; one session may be new.
    valued = sum(map(_has_values, holder.session_data.values()))
    assert len(holder.session_data) <= BARE + valued + 1
    assert holder.time_last_used.keys() == holder.session_data.keys()
    assert len(queue.pending_event_ids_session) <= BARE + valued + 1
    assert len(queue.pending_messages_per_session) <= BARE + valued + 1


def test_a_check_describes_no_components(gallery_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, described = type(gallery().default_config), []
    monkeypatch.setattr(config, "config_for_block", staticmethod(lambda *each: described.append(each) or {}))
    answer = httpx.post(f"{gallery_url}gradio_api/call/{NETWORK}", json={"data": ["", 1, 1, True, 0]})
    assert answer.status_code == 422
    assert described == []  # 460 with gradio's own


def test_a_visitor_keeps_what_a_program_would_push_out(small) -> None:
    url, demo = small
    assert "event: complete" in call(url, "keep", ["a collection", None], "visitor")
    for _ in range(BARE + 20):
        call(url, "tell", [None])
    assert len(demo.app.state_holder.session_data) <= BARE + 2
    assert '["a collection"]' in call(url, "tell", [None], "visitor")


def test_an_open_page_is_known_until_it_is_closed(small) -> None:
    url, demo = small
    holder = demo.app.state_holder
    with httpx.stream("GET", f"{url}gradio_api/heartbeat/visitor", timeout=20) as stream:
        texts = stream.iter_text()  # held: where nobody holds it, the connection closes
        assert next(texts) == "data: ALIVE\n\n"
        assert holder._open == {"visitor": 1}
    wait_until(lambda: holder._open == {})


def wait_until(done, tries: int = 600) -> None:
    pause = threading.Event()
    while not done() and tries:
        pause.wait(0.05)
        tries -= 1
    assert done()


class Clock:
    def __init__(self) -> None:
        self.time = datetime.now()

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def demo() -> gr.Blocks:
    with gr.Blocks() as demo:
        demo.kept = gr.State(None, time_to_live=float("inf"))
    demo.queue()
    return demo


@pytest.fixture
def sessions(demo: gr.Blocks, clock: Clock) -> Sessions:
    return Sessions(demo, clock)


def test_a_session_is_the_same_until_it_goes(demo: gr.Blocks, sessions: Sessions) -> None:
    first = sessions["a"]
    first[demo.kept._id] = "work"
    assert sessions["a"] is first
    assert sessions["a"][demo.kept._id] == "work"
    assert sessions["b"][demo.kept._id] is None
    assert list(first.components) == []  # what a deep link would be made of


def test_those_with_nothing_to_lose_go_first(demo: gr.Blocks, sessions: Sessions) -> None:
    sessions["work"][demo.kept._id] = "work"
    for number in range(500):
        sessions[str(number)]
        assert len(sessions.session_data) <= BARE + 2
    assert sessions["work"][demo.kept._id] == "work"
    assert list(sessions.session_data)[:2] == [str(499 - BARE), str(500 - BARE)]


def test_open_pages_go_last(demo: gr.Blocks, sessions: Sessions) -> None:
    with sessions.watched("page"):
        sessions["page"][demo.kept._id] = "work"
        for number in range(2 * CAPACITY):
            sessions[str(number)][demo.kept._id] = "a program's"
        assert len(sessions.session_data) == CAPACITY
        assert sessions["page"][demo.kept._id] == "work"
        assert "0" not in sessions and str(2 * CAPACITY - 1) in sessions
    with contextlib.ExitStack() as stack:
        for number in range(CAPACITY + 5):
            stack.enter_context(sessions.watched(f"page {number}"))
            sessions[f"page {number}"][demo.kept._id] = "work"
        assert len(sessions.session_data) == CAPACITY  # pages have a limit, too
        assert "page 4" not in sessions and "page 5" in sessions
    assert sessions._open == {}


def test_nothing_goes_while_its_work_is_under_way(demo: gr.Blocks, sessions: Sessions, clock: Clock) -> None:
    running = sessions["busy"]
    demo._queue.event_ids_to_events["event"] = SimpleNamespace(session_hash="busy")
    for number in range(2 * BARE):
        sessions[str(number)]
    clock.time += 2 * KEPT
    sessions.delete_all_expired_state()
    assert list(sessions.session_data) == ["busy"]
    assert sessions["busy"] is running
    demo._queue.event_ids_to_events.clear()


def test_an_hour_after_the_last_sign_of_life_a_session_is_over(
    demo: gr.Blocks, sessions: Sessions, clock: Clock
) -> None:
    with sessions.watched("page"):
        for name in ("page", "program"):
            sessions[name][demo.kept._id] = "work"
        clock.time += KEPT - timedelta(seconds=1)
        sessions.delete_all_expired_state()
        assert list(sessions.session_data) == ["page", "program"]
        clock.time += timedelta(seconds=2)
        sessions.delete_all_expired_state()
        assert list(sessions.session_data) == ["page"]
    clock.time += KEPT - timedelta(seconds=1)
    sessions.delete_all_expired_state()
    assert sessions["page"][demo.kept._id] == "work"  # who comes back within the hour
    clock.time += KEPT + timedelta(seconds=1)
    sessions.delete_all_expired_state()
    assert list(sessions.session_data) == []
    assert sessions.time_last_used == {}


def test_values_are_told_that_they_go(clock: Clock) -> None:
    told = []
    with gr.Blocks() as demo:
        kept = gr.State(None, delete_callback=told.append)
    demo.queue()
    sessions = Sessions(demo, clock)
    sessions["a"][kept._id] = "work"
    clock.time += 2 * KEPT
    sessions.delete_all_expired_state()
    assert told == ["work"]


def test_the_queue_keeps_what_is_still_to_be_told(demo: gr.Blocks, sessions: Sessions) -> None:
    queue = demo._queue
    told, untold = SimpleNamespace(empty=lambda: True), SimpleNamespace(empty=lambda: False)
    queue.pending_messages_per_session = OrderedDict(told=told, untold=untold, taken=told)
    queue.pending_event_ids_session = {"told": set(), "untold": {"1"}, "taken": {"2"}, "lost": {"3"}}
    sessions.delete_all_expired_state()
    assert queue.pending_event_ids_session == {"untold": {"1"}, "taken": {"2"}}
    assert list(queue.pending_messages_per_session) == ["untold", "taken"]


# --- small pages


def test_pages_hold_no_pictures(gallery_url: str) -> None:
    config = httpx.get(f"{gallery_url}config")
    assert "data:image" not in config.text
    assert len(config.content) < 900_000  # bytes; half a million more with its pictures
    shown = set[str]()
    for page in PAGES:
        answer = httpx.get(f"{gallery_url}{page}")
        assert "data:image" not in answer.text
        assert len(answer.content) < 250_000
        shown |= set(re.findall(r"pictures/\w+\.jpg", answer.text))
    assert shown == set(re.findall(r"pictures/\w+\.jpg", config.text))
    assert len(shown) >= len(catalogue.methods()) + len(artmodels.list_models("fast_style"))
    for address in shown:
        answer = httpx.get(f"{gallery_url}{address}")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert address == f"pictures/{hashlib.sha256(answer.content).hexdigest()[:32]}.jpg"
        with Image.open(io.BytesIO(answer.content)) as picture:
            picture.load()


@pytest.mark.parametrize("name", ["0.jpg", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "../config", "."])
def test_no_other_file_is_a_picture(gallery_url: str, name: str) -> None:
    answer = httpx.get(f"{gallery_url}pictures/{name}")
    assert answer.status_code == 404 or answer.url.path == "/config"
    assert "root:" not in answer.text


def test_the_same_picture_has_the_same_address(tmp_path) -> None:
    red = Image.new("RGB", (9, 9), "red")
    red.save(tmp_path / "red.jpg", "JPEG", quality=82, optimize=True)
    assert picture_url(red) == picture_url(red.copy()) == picture_url(tmp_path / "red.jpg")
    assert picture_url(red) != picture_url(Image.new("RGB", (9, 9), "blue"))


@pytest.mark.parametrize(("path", "limit"), [("config", 70_000), ("", 12_000), ("artminer", 25_000)])
def test_pages_are_compressed(gallery_url: str, path: str, limit: int) -> None:
    with httpx.stream("GET", f"{gallery_url}{path}", headers={"accept-encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert len(packed) == int(answer.headers["content-length"]) < limit
    plain = httpx.get(f"{gallery_url}{path}", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == gzip.decompress(packed)
    assert plain.headers["content-type"] == answer.headers["content-type"]


def test_many_who_come_at_once_are_given_what_was_made_once(gallery_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, update = [], route_utils.update_root_in_config
    monkeypatch.setattr(route_utils, "update_root_in_config", lambda *each: made.append(1) or update(*each))

    def visit(number: int) -> tuple[int, str]:
        # Nobody has asked for this address before.
        answer = httpx.get(f"{gallery_url}config?visitor={number}", headers={"host": "192.0.2.7:80"}, timeout=60)
        return answer.status_code, answer.json()["root"]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(visit, range(50)))
    assert answers == [(200, "http://192.0.2.7:80")] * 50 or answers == [(200, "http://192.0.2.7")] * 50
    assert made == [1]


def test_pages_keep_apart_what_differs(gallery_url: str) -> None:
    def config(query: str = "", **headers: str) -> dict:
        return httpx.get(f"{gallery_url}config{query}", headers=headers).json()

    assert config()["root"] == gallery_url.rstrip("/")
    assert config(host="localhost:7")["root"] == "http://localhost:7"
    forwarded = {"x-forwarded-host": "localhost", "x-forwarded-proto": "https"}
    assert config(**forwarded)["root"] == "https://localhost"
    assert config()["root"] == gallery_url.rstrip("/")
    one, whole = config("?page=fast_style"), config()
    assert one["current_page"] == "fast_style"
    assert 0 < len(one["components"]) < len(whole["components"]) / 4
    assert config("?deep_link=nonsense")["deep_link_state"] == "invalid"
    assert "deep_link_state" not in config()
    info = f"{gallery_url}gradio_api/info"
    assert "http://[::1]:7" in httpx.get(info, headers={"host": "[::1]:7"}).text
    assert "[::1]" not in httpx.get(info).text


def test_answers_that_are_kept_have_a_limit(gallery_url: str) -> None:
    for number in range(70):
        httpx.get(f"{gallery_url}?page={number}")
    prepared = gallery().app.middleware_stack.app.app
    assert len(prepared.made) <= 64


def test_steps_arrive_one_by_one(small, gate: threading.Event) -> None:
    url, _ = small
    gate.clear()
    address = f"{url}gradio_api/call/steps"
    event = httpx.post(address, json={"data": []}).json()["event_id"]
    with httpx.stream("GET", f"{address}/{event}", headers={"accept-encoding": "gzip, br"}, timeout=20) as answer:
        assert "content-encoding" not in answer.headers
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith("data")) == 'data: ["one"]'
        gate.set()  # only now does the second step begin
        assert next(line for line in lines if line.startswith("data")) == 'data: ["two"]'


# --- who may ask


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST.:7860", "localhost"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:7860", "::1"),
        ("art.example.org:443", "art.example.org"),
        *((wrong, "") for wrong in ("", "a b", "a/b", "user@host", "a:b:c", "::1", "host:123456", "é.org")),
    ],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert hostname(host) == name


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (None, 200),
        ("localhost:7860", 200),
        ("[::1]:7860", 200),
        ("192.168.1.20:7860", 200),  # nobody can point an address elsewhere
        ("evil.example", 421),
        ("evil.example:7860", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("2130706433", 421),
        ("evil example", 400),
    ],
)
@pytest.mark.parametrize("path", ["", "config", "health", "gradio_api/heartbeat/x", "gradio_api/upload"])
def test_strange_names_are_refused(small, host: str | None, status: int, path: str) -> None:
    url, _ = small
    method = "POST" if path.endswith("upload") else "GET"
    files = {"files": ("a.png", b"a")} if method == "POST" else None
    headers = {} if host is None else {"host": host}
    with httpx.stream(method, f"{url}{path}", headers=headers, files=files, timeout=20) as answer:
        assert answer.status_code == status
        if status == 421:
            assert f"ARTMODELS_ALLOWED_HOSTS={host.split(':')[0]} " in answer.read().decode()


def test_what_a_proxy_says_is_believed_only_of_known_names(small) -> None:
    url, _ = small
    assert httpx.get(f"{url}config", headers={"x-forwarded-host": "evil.example"}).status_code == 421
    answer = httpx.get(f"{url}config", headers={"x-gradio-server": "http://evil.example"})
    assert answer.status_code == 200
    assert "evil" not in answer.text


@pytest.mark.parametrize(
    ("setting", "bound", "space", "names"),
    [
        ("", "127.0.0.1", "", set()),
        ("", "0.0.0.0", "", {"0.0.0.0"}),  # noqa: S104 - what an operator may say
        ("", "atelier.local", "", {"atelier.local"}),
        ("art.example.org, Museum.example:8080", "127.0.0.1", "", {"art.example.org", "museum.example"}),
        (" * ", "127.0.0.1", "", {"*"}),
        ("", "0.0.0.0", "me-gallery.hf.space", {"0.0.0.0", "me-gallery.hf.space"}),  # noqa: S104
    ],
)
def test_hosts_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, setting: str, bound: str, space: str, names: set[str]
) -> None:
    monkeypatch.setenv("ARTMODELS_ALLOWED_HOSTS", setting)
    monkeypatch.setenv("SPACE_HOST", space)
    assert allowed_hosts(bound) == {"localhost", "127.0.0.1", "::1"} | names


@pytest.mark.parametrize("entry", ["http://art.example.org", "art.example.org/gallery", "*.example.org", "a b"])
def test_a_wrong_list_of_hosts_is_explained(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setenv("ARTMODELS_ALLOWED_HOSTS", f"localhost,{entry}")
    with pytest.raises(ConfigError, match=f"ARTMODELS_ALLOWED_HOSTS names '{re.escape(entry)}', which is not a host"):
        launch_options()


@pytest.mark.parametrize(
    ("hosts", "host", "origin", "status"),
    [
        ({"localhost"}, "10.0.0.5:7860", None, 200),  # a program
        ({"localhost"}, "10.0.0.5:7860", "http://10.0.0.5:7860", 200),
        ({"localhost"}, "10.0.0.5:7860", "http://10.0.0.6:7860", 403),
        ({"localhost"}, "10.0.0.5:7860", "https://evil.example", 403),
        ({"localhost"}, "10.0.0.5:7860", "null", 403),
        ({"localhost"}, "10.0.0.5:7860", "", 403),
        ({"localhost"}, "localhost:7860", "http://localhost.evil.example", 403),
        ({"art.example"}, "127.0.0.1:7860", "https://art.example", 200),  # a proxy that keeps the name to itself
        ({"*"}, "art.example", "https://art.example", 200),
        ({"*"}, "art.example", "https://evil.example", 403),
        ({"localhost"}, "10.0.0.5", "https://localhost", 200),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_pages_of_other_sites_change_nothing(
    hosts: set[str], host: str, origin: str | None, status: int, kind: str
) -> None:
    reached, sent = [], []

    async def app(scope, receive, send) -> None:
        reached.append(scope)

    async def send(message) -> None:
        sent.append(message)

    headers = [(b"host", host.encode())] + ([] if origin is None else [(b"origin", origin.encode())])
    scope = {"type": kind, "method": "POST", "path": "/gradio_api/upload", "headers": headers}
    asyncio.run(Guard(app, hosts)(scope, None, send))
    assert len(reached) == (status == 200)
    if status != 200:
        assert sent[0] == ({"type": "websocket.close", "code": 1008} if kind == "websocket" else sent[0])
        assert sent[0].get("status", status) == status


def test_forms_and_scripts_of_other_sites_are_refused(small) -> None:
    url, demo = small
    before = set(demo.app.state_holder.session_data)
    body = json.dumps({"data": ["planted", None], "session_hash": "planted"})
    foreign = {"origin": "https://evil.example", "content-type": "text/plain"}
    for path in ("call/keep", "queue/join", "run/keep", "cancel", "reset", "component_server"):
        answer = httpx.post(f"{url}gradio_api/{path}", content=body, headers=foreign)
        assert answer.status_code == 403
        assert "A page of another site (evil.example) may not use this server" in answer.text
    uploads = list(demo.upload_file_set)
    files = {"files": ("a.png", b"a")}
    answer = httpx.post(f"{url}gradio_api/upload", files=files, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert list(demo.upload_file_set) == uploads
    assert set(demo.app.state_holder.session_data) == before
    own = {"origin": url.rstrip("/")}
    assert httpx.post(f"{url}gradio_api/upload", files=files, headers=own).status_code == 200


@pytest.mark.parametrize("path", ["config", "health"])
@pytest.mark.parametrize(("origin", "readable"), [("http://localhost:5173", True), ("https://evil.example", False)])
def test_pages_of_other_sites_read_nothing(small, path: str, origin: str, readable: bool) -> None:
    url, _ = small
    answer = httpx.get(f"{url}{path}", headers={"origin": origin})
    assert answer.headers.get("access-control-allow-origin") == (origin if readable else None)


# --- headers


def policy_of(answer: httpx.Response) -> dict[str, list[str]]:
    parts = [part.split() for part in answer.headers["content-security-policy"].split(";")]
    return {name: values for name, *values in parts}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "", {}, 200),
        ("HEAD", "", {}, 200),
        ("GET", "config", {}, 200),
        ("GET", "config", {"accept-encoding": "identity"}, 200),
        ("GET", "health", {}, 200),
        ("GET", "theme.css", {}, 200),
        ("GET", "nowhere", {}, 404),
        ("GET", "pictures/nothing.jpg", {}, 404),
        ("GET", "gradio_api/file=/etc/passwd", {}, 403),
        ("GET", "gradio_api/heartbeat/x", {}, 200),
        ("POST", "gradio_api/call/keep", {}, 422),
        ("POST", "gradio_api/upload", {"origin": "null"}, 403),
        ("OPTIONS", "config", {"origin": "http://localhost", "access-control-request-method": "GET"}, 200),
        ("GET", "config", {"host": "evil.example"}, 421),
        ("GET", "config", {"host": "?"}, 400),
    ],
)
def test_every_answer_has_the_headers(small, method: str, path: str, headers: dict, status: int) -> None:
    url, _ = small
    with httpx.stream(method, f"{url}{path}", headers=headers, timeout=20) as answer:
        assert answer.status_code == status
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["permissions-policy"].startswith("camera=(), microphone=(), ")
        policy = policy_of(answer)
    assert policy["default-src"] == policy["connect-src"] == policy["base-uri"] == policy["form-action"] == ["'self'"]
    assert (policy["object-src"], policy["frame-ancestors"]) == (["'none'"], ["'self'"])
    assert policy["img-src"] == ["'self'", "data:", "blob:"]
    assert policy["script-src"][:2] == ["'self'", "'unsafe-eval'"]
    assert "'unsafe-inline'" not in policy["script-src"]
    assert not any(source.startswith("http") or source == "*" for each in policy.values() for source in each)


@pytest.mark.parametrize("page", ["", "artminer", "?__theme=dark", "?deep_link=x"])
def test_the_policy_names_the_scripts_of_the_page(gallery_url: str, page: str) -> None:
    answer = httpx.get(f"{gallery_url}{page}")
    scripts = re.findall(r"<script(?: data-gradio-mode)?>(.+?)</script>", answer.text, re.DOTALL)
    assert len(scripts) >= 3
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy_of(answer)["script-src"][2:] == [f"'sha256-{digest}'" for digest in digests]


def test_a_space_may_be_shown_inside_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "me/gallery")
    headers = guard.security_headers()
    frames = "frame-ancestors 'self' https://huggingface.co https://*.hf.space"
    assert headers["Content-Security-Policy"].endswith(frames)
    assert "X-Frame-Options" not in headers


@pytest.mark.parametrize(("setting", "camera"), [("1", "camera=(self)"), ("0", "camera=()")])
def test_the_camera_is_allowed_where_it_is_offered(monkeypatch: pytest.MonkeyPatch, setting: str, camera: str) -> None:
    monkeypatch.setenv("ARTMODELS_WEBCAM", setting)
    assert guard.security_headers()["Permissions-Policy"].split(", ")[0] == camera


def test_programs_use_the_server_as_before(gallery_url: str, tmp_path) -> None:
    client = Client(gallery_url, verbose=False, analytics_enabled=False, download_files=tmp_path)
    _, settings, file = client.predict(*SAMPLE, api_name=f"/{NETWORK}")
    client.close()
    assert settings["size"] == [64, 64]
    with Image.open(file) as picture:
        assert picture.size == (64, 64)


# --- in a browser


class TestBrowser:
    pytestmark = IN_BROWSER

    @pytest.fixture
    def site(self, gallery_url: str) -> str:
        return gallery_url

    def test_every_page_works_under_its_policy(self, page, site: str) -> None:
        for name in PAGES:
            page.goto(f"{site}{name}")
            page.locator("button.primary:visible" if name else ".cards a").first.wait_for()
            shown = page.locator("img[src*='pictures/']")
            assert shown.count() >= (len(catalogue.methods()) if not name else name == "ransac_flow")
            for picture in shown.all():
                assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0

    def test_scripts_that_were_not_there_do_not_run(self, page, site: str) -> None:
        page.goto(site)
        page.locator(".cards a").first.wait_for()
        page.evaluate(
            """() => {
                const image = new Image();
                image.setAttribute('onerror', 'window.planted = 1');
                image.src = 'data:image/png;base64,';
                document.body.append(image);
                const script = document.createElement('script');
                script.textContent = 'window.planted = 2';
                document.body.append(script);
            }"""
        )
        page.wait_for_timeout(300)
        assert page.evaluate("window.planted") is None
        assert sum("Content Security Policy" in fault for fault in page.faults) == 2
        page.faults.clear()  # they were asked for


@pytest.fixture(scope="module")
def behind_a_proxy() -> Iterator[str]:
    """The address of a page with a wall behind a proxy that takes a prefix off."""
    tile = Tile(value="red", title="Red", text="plain", picture=Image.new("RGB", (224, 224), "red"))
    with ui.blocks("prefixed") as demo:
        wall("Colour", [tile])

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers["host"]
            path = self.path.removeprefix("/museum").removeprefix("/")
            answer = httpx.get(f"{inner}{path}", headers={"x-forwarded-host": host, "accept-encoding": "identity"})
            # gradio and the browser ask for these at the root, wherever the page is.
            found = self.path.startswith("/museum/") or self.path in {"/manifest.json", "/favicon.ico"}
            self.send_response(answer.status_code if found else 404)
            for name in ("content-type", "content-security-policy"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            self.wfile.write(answer.content if found else b"")

        def log_message(self, *args: object) -> None:
            pass

    options = launch_options() | {"root_path": "/museum"}
    with launched(demo, options) as inner, ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/museum/"
        server.shutdown()


class TestProxy:
    pytestmark = IN_BROWSER

    @pytest.fixture
    def site(self, behind_a_proxy: str) -> str:
        return behind_a_proxy

    def test_the_wall_is_there_behind_a_prefix(self, page, site: str) -> None:
        with page.expect_response(re.compile("/pictures/")) as picture:
            page.goto(site)
        assert picture.value.url.startswith(f"{site}pictures/")
        assert picture.value.headers["content-type"] == "image/jpeg"
        page.locator(".wall label").wait_for()
