"""Work waits for its own kind only, collections give way, and a page says whose turn it is and what made a result."""

import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path

import gradio as gr
import pytest
import torch
from gradio_client import Client, handle_file

from artmodels import ui
from artmodels.images.examples import example
from artmodels.images.results import ImageResult
from artmodels.ui.events import describe_inputs
from artmodels.ui.server.components import Files, Picture
from artmodels.ui.server.lanes import LANES, Lanes


def counting(taken: list[int], until: int = 10**6):
    for number in range(until):
        taken.append(number)
        yield number


def test_a_collection_waits_while_something_quick_is_going_on() -> None:
    lanes, taken = Lanes(patience=60), []
    quick, collection = lanes.run(counting([]), "passes"), lanes.run(counting(taken), "collections")
    assert (next(collection), lanes.quick) == (0, 0)
    next(quick)
    assert lanes.quick == 1
    thread = threading.Thread(target=next, args=(collection,))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    assert taken == [0]
    quick.close()
    thread.join(30)
    assert (taken, lanes.quick) == ([0, 1], 0)


def test_a_collection_is_slowed_down_never_stopped() -> None:
    lanes, taken = Lanes(patience=0.01), []
    with lanes._at_work():
        assert list(lanes.run(counting(taken, until=3), "collections")) == [0, 1, 2]


@pytest.mark.parametrize("lane", ["passes", "compute", "collections"])
def test_closing_ends_the_work_and_is_counted(lane) -> None:
    lanes, closed = Lanes(), []

    def work():
        try:
            yield from counting([])
        finally:
            closed.append(True)

    run = lanes.run(work(), lane)
    next(run)
    run.close()
    assert (closed, lanes.quick) == ([True], 0)
    failing = lanes.run((1 / number for number in (1, 0)), lane)
    with pytest.raises(ZeroDivisionError):
        list(failing)
    assert lanes.quick == 0


QUICK = {"fast_style_run", "arbitrary_style_run", "super_resolution_run", "texture_network_run", "mimax_run"}
STEPS = {"texture_synthesis_run", "neural_style_run", "ransac_flow_run"}


def test_every_endpoint_is_in_the_lane_of_its_kind(gallery_url: str) -> None:
    demo = sys.modules["spaces_gallery_app"].demo
    lanes = {f.api_name: f.concurrency_id for f in demo.fns.values() if f.api_visibility == "public"}
    expected = {name: "passes" if name in QUICK else "compute" if name in STEPS else "collections" for name in lanes}
    assert lanes == expected
    # People's own buttons: nothing that takes minutes waits with what takes moments.
    for function in demo.fns.values():
        if function.name in {"take", "example", "offer_names"}:
            assert function.concurrency_id == "collections"
    assert {f.concurrency_id for f in demo.fns.values()} - {str(id(f.fn)) for f in demo.fns.values()} >= set(
        expected.values()
    )


class Waiting:
    """A method that waits for a gate."""

    def __init__(self) -> None:
        self.gate, self.seen = threading.Event(), 0

    def __call__(self, picture, **options):
        self.seen += 1
        assert self.gate.wait(60)
        return ImageResult(tensor=torch.full((1, 3, 8, 8), 0.5), settings=options, seconds=0.0)


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch):
    method = Waiting()
    real = ui.MODELS.load
    monkeypatch.setattr(ui.MODELS, "_models", OrderedDict())
    monkeypatch.setattr(ui.MODELS, "load", lambda name: method if name.startswith("fast") else real(name))
    yield method
    method.gate.set()


def test_a_batch_holds_up_no_texture(gallery_url: str, tmp_path: Path, waiting: Waiting) -> None:
    example("bricks").resize((64, 64)).save(tmp_path / "brick.png")
    brick = handle_file(tmp_path / "brick.png")
    client = Client(gallery_url, verbose=False, download_files=False, analytics_enabled=False)
    job = client.submit([brick], api_name="/fast_style_batch")
    while not waiting.seen:
        time.sleep(0.02)
    client.predict(brick, width=64, height=64, quality="Draft", seconds=5, api_name="/texture_synthesis_run")
    client.predict(width=64, height=64, api_name="/texture_network_run")
    assert not job.done()
    waiting.gate.set()
    job.result(timeout=60)
    client.close()
    assert LANES.quick == 0


# --- what made a result


def test_a_result_says_from_what_it_was_made() -> None:
    with gr.Blocks():
        controls = [
            Picture(label="Exemplar: a picture of the texture"),
            Files(label="Pictures"),
            gr.Radio([("The Scream", "scream"), ("Ink", "ink")], value="ink", label="Painting"),
            gr.Slider(0, 1, 1, label="Strength"),
            gr.Number(0, label="Longest side"),
            gr.Checkbox(True, label="Seamless"),
            gr.File(label="Labels: a CSV file", type="filepath"),
        ]
    values = ["/cache/x/a<b>.png", ["/c/1.png", "/c/2.png"], "scream", 1, 1, False, "/c/labels.csv"]
    assert describe_inputs(controls, values) == (
        "<p>Exemplar: <b>a&lt;b&gt;.png</b> · Pictures: <b>2 files</b> · Painting: <b>The Scream</b> · "
        "Longest side: <b>1</b> · Seamless: <b>no</b> · Labels: <b>labels.csv</b></p>"
    )
    assert describe_inputs(controls, [None, ["/c/1.png"], "?", 1, None, True, None]) == (
        "<p>Pictures: <b>1.png</b> · Painting: <b>?</b> · Seamless: <b>yes</b></p>"
    )
    assert len(describe_inputs(controls[:1], ["/c/" + "x" * 9000])) < 200
