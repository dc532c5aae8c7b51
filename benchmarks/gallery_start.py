"""How long the gallery takes to start: seconds and CPU seconds from its command to its first answer.

Beside it, what importing torch and gradio takes alone, which no page can do without. Each number is the median of some
runs, after one that fills the caches of the disk. The tests bound the work of a start, not its time.

    python benchmarks/gallery_start.py
"""

import http.client
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

APP = Path(__file__).parent.parent / "spaces" / "gallery" / "app.py"


def cpu() -> float:
    """CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def answers(port: int) -> bool:
    """Whether a page comes from a port of this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except ConnectionError:
        return False
    finally:
        connection.close()


def gallery() -> tuple[float, float]:
    """Start the gallery and end it when it answers: seconds and CPU seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    before, start = cpu(), time.perf_counter()
    command = [sys.executable, str(APP)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:  # noqa: S603 - our own
        try:
            while not answers(port):
                if process.poll() is not None:
                    raise typer.Exit(1)
                time.sleep(0.05)
            seconds = time.perf_counter() - start
        finally:
            process.kill()
    return seconds, cpu() - before


def imports() -> tuple[float, float]:
    """Import what every page needs: seconds and CPU seconds."""
    before, start = cpu(), time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, gradio"], check=True)
    return time.perf_counter() - start, cpu() - before


def main(repeats: Annotated[int, typer.Option(min=1)] = 5) -> None:
    """Measure and print."""
    table = Table("what", "seconds", "CPU seconds", title=f"Medians of {repeats}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        for what, measure in (("the gallery, to its first answer", gallery), ("import torch, gradio", imports)):
            measure()
            columns = zip(*(measure() for _ in range(repeats)), strict=True)
            table.add_row(what, *(f"{statistics.median(column):.1f}" for column in columns))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
