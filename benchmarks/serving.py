"""What the gallery's server costs: bytes and CPU of its pages, fifty visitors at once, and memory of many sessions."""

import gc
import runpy
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated

import httpx
import psutil
import typer
from common import ROOT
from gradio_client import Client

from artmodels import ui

PATHS = ("config", "", "fast_style", "artminer", "gradio_api/info")
CALL = "gradio_api/call/texture_network_run"
SAMPLE = ["texture-network-wood", 64, 64, True, 0]


def main(
    calls: Annotated[int, typer.Option(help="Each in a session of its own.")] = 600,
    clients: Annotated[int, typer.Option(help="Who connect at once.")] = 50,
) -> None:
    """Print them all; server and clients share this process and its cores."""
    demo = runpy.run_path(str(ROOT / "spaces" / "gallery" / "app.py"))["demo"]
    _, url, _ = demo.launch(**ui.launch_options() | {"prevent_thread_lock": True, "quiet": True})
    with httpx.Client(base_url=url, timeout=120) as client:
        for path in PATHS:
            plain = sent(client, path, "identity")
            packed = sent(client, path, "gzip")
            seconds = cpu(partial(client.get, path)) / 20
            print(f"/{path}: {plain} bytes, {packed} with gzip, {1000 * seconds:.1f} ms of CPU a request")

        def connect(_: int) -> float:
            start = time.perf_counter()
            Client(url, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": 120}).close()
            return time.perf_counter() - start

        with ThreadPoolExecutor(clients) as pool:
            took = sorted(pool.map(connect, range(clients)))
        print(
            f"{clients} clients at once: connected after {took[len(took) // 2]:.2f} s (median), {took[-1]:.2f} s (last)"
        )

        memory = {}
        for number in range(1, calls + 1):
            event = client.post(CALL, json={"data": SAMPLE, "session_hash": uuid.uuid4().hex}).json()["event_id"]
            if "event: complete" not in client.get(f"{CALL}/{event}").text:
                raise RuntimeError("a call failed; see above")
            if number % 100 == 0:
                gc.collect()
                memory[number] = psutil.Process().memory_info().rss / 2**20
                print(f"after {number} calls in sessions of their own: {memory[number]:.1f} MiB")
    print(f"growth after the first 100: {memory[max(memory)] - memory[100]:.1f} MiB")
    demo.close()


def sent(client: httpx.Client, path: str, encoding: str) -> int:
    """Count the bytes of an answer as they are sent."""
    with client.stream("GET", path, headers={"accept-encoding": encoding}) as answer:
        return sum(map(len, answer.iter_raw()))


def cpu(run: Callable[[], object]) -> float:
    """Measure the seconds of CPU of twenty runs."""
    start = time.process_time()
    for _ in range(20):
        run()
    return time.process_time() - start


if __name__ == "__main__":
    typer.run(main)
