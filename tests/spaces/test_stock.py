"""Every endpoint gives a result after README's own command, without what only the tests install."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stock
from gradio_client import Client, handle_file
from PIL import Image

from artmodels.images.examples import example

SPACES = stock.ROOT / "spaces"


def test_what_only_the_tests_install_is_absent() -> None:
    absent = stock.absent()
    assert absent >= {"pytest", "hypothesis", "accelerate", "faiss", "timm", "onnx", "onnxruntime", "playwright"}
    assert not absent & {"torch", "numpy", "gradio", "PIL", "cv2", "skimage", "sklearn", "artmodels"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("stock")
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "cache")}
    arguments = [sys.executable, str(stock.ROOT / "tests" / "stock.py"), "spaces/gallery/app.py"]
    with open(folder / "log.txt", "w+") as log, subprocess.Popen(
        arguments, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT
    ) as server:  # fmt: skip
        try:
            while not answers(port):
                assert server.poll() is None, Path(log.name).read_text()
            client = Client(
                f"http://127.0.0.1:{port}", verbose=False, download_files=folder / "got", analytics_enabled=False
            )
            yield client
            client.close()
        finally:
            server.terminate()
            sys.stdout.write(Path(log.name).read_text())  # shown where a test fails


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200
    except httpx.ConnectError:
        return False


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Arguments for every endpoint: small pictures, few steps."""
    folder = tmp_path_factory.mktemp("given")
    for name in ("astronaut", "bricks"):
        example(name).resize((64, 64)).save(folder / f"{name}.png")
    sea = sorted((SPACES / "mimax" / "examples").glob("*.jpg"))[:4]
    labels = folder / "labels.csv"
    rows = "".join(f"{path.name},{number % 2}\n" for number, path in enumerate(sea))
    labels.write_text(f"file,ship\n{rows}")
    drawn, pair = SPACES / "artminer" / "examples", SPACES / "ransac_flow" / "examples"
    for name in ("painting", "copy"):
        with Image.open(pair / f"{name}.jpg") as picture:
            picture.resize((320, 320 * picture.height // picture.width)).save(folder / f"{name}.jpg")
    photo, style = handle_file(folder / "astronaut.png"), handle_file(folder / "bricks.png")
    details = [handle_file(drawn / f"{name}.jpg") for name in ("chart", "orchard")]
    both = {"source": handle_file(folder / "copy.jpg"), "target": handle_file(folder / "painting.jpg")}
    sized = {"width": 64, "height": 64}
    return {
        "/fast_style_run": {"photo": photo},
        "/fast_style_batch": {"photos": [photo]},
        "/arbitrary_style_run": {"photo": photo, "style_1": style},
        "/arbitrary_style_batch": {"photos": [photo], "style_1": style},
        "/super_resolution_run": {"photo": photo},
        "/super_resolution_batch": {"photos": [photo]},
        "/texture_synthesis_run": {"exemplar": style, "quality": "Draft", "seconds": 5, **sized},
        "/texture_network_run": sized,
        "/texture_network_batch": {"count": 1, **sized},
        "/neural_style_run": {"content": photo, "style_1": style, "size": 64, "quality": "Draft", "seconds": 5},
        "/mimax_run": {"photo": handle_file(sea[0])},
        "/mimax_batch": {"photos": [handle_file(path) for path in sea], "table": handle_file(labels)},
        "/artminer_search": {
            "photos": details, "picture": "chart.jpg", "x": 25, "y": 77, "width": 150, "height": 146,
        },
        "/artminer_pairs": {"photos": details},
        "/ransac_flow_run": both,
        "/ransac_flow_group": {"photos": list(both.values())},
    }  # fmt: skip


def test_every_endpoint_gives_its_files(client: Client, calls: dict[str, dict[str, Any]]) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(calls) == set(endpoints)
    for name, given in calls.items():
        result = client.predict(**given, api_name=name)
        files = [Path(path) for each in result for path in (each if isinstance(each, list) else [each])
                 if isinstance(path, str)]  # fmt: skip
        assert files, name
        assert all(file.stat().st_size for file in files), name
        if name == "/ransac_flow_run":
            assert result[1]["found"]
            assert [file.suffix for file in files[1:]] == [".png", ".npz", ".gif", ".mp4", ".json"]
