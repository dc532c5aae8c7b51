"""Controls of a page: what takes pictures and choices, what shows results, and the models behind them."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from artmodels.hub import catalogue
from artmodels.images.examples import example
from artmodels.methods import load
from artmodels.runtime.devices import pick_device
from artmodels.ui.server.components import Choice, Picture
from artmodels.ui.server.files import Page
from artmodels.ui.server.lanes import Lane
from artmodels.ui.server.modelcache import ModelCache

__all__ = [
    "LARGEST",
    "MODELS",
    "QUALITIES",
    "QUEUE",
    "SEEDS",
    "Panel",
    "Update",
    "acting_column",
    "blocks",
    "download_button",
    "example_file",
    "examples",
    "given_column",
    "model_choice",
    "models",
    "number",
    "offered",
    "one_or_several",
    "quality",
    "repeating",
    "results",
    "run_and_stop",
    "run_folder",
    "status_line",
    "status_lines",
    "time_limit",
    "upload",
]

QUEUE = {"max_size": 16, "default_concurrency_limit": 1}
LARGEST = 2048 if pick_device().type == "cuda" else 1024  # px: side of what is optimised
SEEDS = 2**31 - 1
QUALITIES = {"Draft": 0.3, "Normal": 1.0, "Fine": 2.5}  # times the method's own number of steps

Update = tuple[Any, ...]
"""One value for each output of a handler, in their order; the last is the status."""


# --- models

MODELS = ModelCache(load)


def models(method: str) -> list[catalogue.Entry]:
    """Return a method's models, those that need no download first and the default before them."""
    entries = catalogue.list_models(method)
    return sorted(entries, key=lambda entry: (catalogue.download(entry) is not None, not entry.default))


def model_choice(method: str, label: str, **options: Any) -> Any:
    """Add a choice among a method's models, which needs the check `model_of`."""
    choices = [(entry.summary, entry.name) for entry in models(method)]
    return Choice(choices, value=choices[0][1], label=label, elem_classes="stacked", **options)


# --- the page and its inputs


def blocks(title: str) -> Any:
    """Open a page that keeps no statistics and deletes its files after an hour."""
    return Page(title=title, analytics_enabled=False, delete_cache=(3600, 3600))


def given_column() -> Any:
    """Open the column of what a visitor gives: the photograph first."""
    return gr.Column(scale=2, min_width=320)


def acting_column() -> Any:
    """Open the column of Run and what comes out of it, which stays in sight while the other one scrolls."""
    return gr.Column(scale=3, min_width=320, elem_classes="acting")


def one_or_several(tabs: tuple[Any, Any], panels: tuple[Any, Any]) -> None:
    """Show, of two columns, the one that belongs to the tab that is open."""
    for index, tab in enumerate(tabs):
        shown = [gr.update(visible=place == index) for place in range(2)]
        tab.select(
            lambda shown=shown: shown, None, [*panels], api_visibility="private", queue=False, show_progress="hidden"
        )


def upload(label: str, **options: Any) -> Any:
    """Add a control for a picture, whose file reaches us as it is: 16 bits, alpha and profile included.

    The camera is offered only where `ARTMODELS_WEBCAM=1` is set: a public page has no business with it.
    """
    camera = os.environ.get("ARTMODELS_WEBCAM") == "1"
    return Picture(
        **{"label": label, "type": "filepath", "image_mode": None, "format": "png", "height": 220} | options,
        sources=["upload", "clipboard", "webcam"] if camera else ["upload", "clipboard"],
        buttons=["fullscreen"],
    )


def examples(rows: Sequence[Sequence[str]], inputs: Sequence[Any]) -> None:
    """Add examples to click: in each row, a file for each of the inputs."""
    gr.Examples([*map(list, rows)], [*inputs], label="Examples", cache_examples=False, api_visibility="private")


def quality() -> Any:
    """Add the choice of `QUALITIES`."""
    return gr.Radio(list(QUALITIES), value="Normal", label="Quality", info="Finer takes longer: try a draft first.")


def number(label: str, value: int, info: str, **options: Any) -> Any:
    """Add a whole number."""
    return gr.Number(value, label=label, info=info, precision=0, **options)


def time_limit(seconds: int) -> Any:
    """Add the number of seconds that an optimisation may take."""
    info = "Then the best so far is kept."
    return gr.Slider(5, 600, seconds, step=5, label="Time limit in seconds", info=info)


# --- results


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The buttons of a run, and the components that show what comes out of it."""

    run: Any
    stop: Any = None  # where a run is one pass, nothing can stop it
    outputs: tuple[Any, ...]  # in the order of an `Update`: those that a program gets too come first, the status last
    public: int  # how many a program gets
    kinds: Any = None  # links to the result as other kinds of file
    made: Any  # says from what the result was made: pictures, model, and settings that are not the page's own
    again: Any  # how to make it again elsewhere, and its address
    lane: Lane  # runs of one lane wait for each other


def run_and_stop(label: str, widths: tuple[int, int] = (120, 120), *, steps: bool = True) -> tuple[Any, Any]:
    """Add the button that starts work and, where it takes steps, the one that stops it; least widths in pixels."""
    with gr.Row(elem_classes="actions"):
        run = gr.Button(label, variant="primary", min_width=widths[0])
        return run, gr.Button("Stop", min_width=widths[1]) if steps else None


def status_line(text: str = "Nothing has run yet.") -> Any:
    """Add the line that says what is going on."""
    return gr.Markdown(text, elem_classes="status")


def status_lines() -> tuple[Any, Any]:
    """Add the line that says what is going on, and the one that says from what the result is made."""
    return status_line(), gr.HTML("", elem_classes="made", padding=False)


def repeating() -> Any:
    """Add the lines that say how to make a result again in Python and on the command line, and its address."""
    return gr.Markdown("", elem_classes="again")


def download_button(label: str, **options: Any) -> Any:
    """Add a button to download a file, which `offered` gives it."""
    return gr.DownloadButton(label, interactive=False, elem_classes="download", **options)


def offered(file: Path | None) -> Any:
    """Give a button a file to download, or none; for one use, since gradio takes the value out of an update."""
    return gr.update(value=file and str(file), interactive=file is not None)


def results(before: str = "", *, steps: bool = True, second: tuple[str, Any] | None = None) -> Panel:
    """Add the buttons, and what shows progress, the result, another picture, and the settings.

    Args:
        before: What a slider compares the result with, for people.
        steps: Whether the method takes steps: then it can be stopped, and has a loss curve.
        second: Title of the second tab, and the component in it instead of the slider, made with `render=False`.
    """
    looks: dict[str, Any] = {"format": "png", "interactive": False, "buttons": ["fullscreen"]}
    slider = gr.ImageSlider(label=f"{before} | result", max_height=480, render=False, **looks)
    title, other = second or ("Compare", slider)
    run, stop = run_and_stop("Run", steps=steps)
    status, made = status_lines()
    with gr.Tabs(elem_classes="results"):
        with gr.Tab("Result"):
            image = Picture(label="Result", height=480, **looks)  # whose file Stop finds again
        with gr.Tab(title):
            other.render()
        curve = []
        if steps:
            with gr.Tab("Loss"):
                label = "Loss at each step: lower is closer"
                curve = [gr.LinePlot(x="step", y="loss", label=label, height=320, buttons=[])]
        with gr.Tab("Settings"):
            settings = gr.JSON(label="Settings: enough to repeat the result", buttons=["copy"])
    with gr.Row(elem_classes="downloads"):
        download = download_button("Download PNG")
        kinds = gr.HTML("", elem_classes="kinds", padding=False)
    outputs = (image, settings, download, other, *curve, status)
    lane: Lane = "compute" if steps else "passes"
    return Panel(run=run, stop=stop, outputs=outputs, public=3, kinds=kinds, made=made, again=repeating(), lane=lane)


# --- files


@cache
def example_file(name: str, side: int = 384) -> str:
    """Write an example picture to a file, once: gradio copies files, but would encode a picture twice."""
    file = run_folder() / f"{name}.png"
    example(name, side).save(file, compress_level=1)
    return str(file)


def run_folder() -> Path:
    """Make a folder of its own for a run, in gradio's cache: what is there is served, and deleted after an hour."""
    cache = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    cache.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=cache)).resolve()
