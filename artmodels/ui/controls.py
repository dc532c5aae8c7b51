"""What the Spaces share: one look, one model cache, one way to check input, stream previews and stop.

A Space builds its controls, and hands a generator of steps to `follow` and its controls to `connect`. What is one
pass of a network has its own counterpart of `follow` in `artmodels.ui.batches`. Needs gradio, which the extra `demo`
installs.
"""

import contextlib
import importlib.util
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from html import escape
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from artmodels.errors import ConfigError

try:
    # Read when gradio is imported: it would send statistics home, and sum up its last 10 000 calls at each new one.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "50")
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
    import gradio as gr
    import pandas as pd  # type: ignore[import-untyped]
except ImportError as error:
    raise ConfigError(
        f"The demos need gradio, and {error.name} is not installed: pip install 'artmodels[demo]'"
    ) from error

from PIL import Image, ImageOps

from artmodels import images
from artmodels.descent.optimise import Step
from artmodels.errors import ArtModelsError, HashMismatch
from artmodels.hub import catalogue
from artmodels.images.examples import example
from artmodels.methods import load
from artmodels.runtime.devices import pick_device
from artmodels.ui.checks import Check, read, validator
from artmodels.ui.lanes import LANES, Lane
from artmodels.ui.modelcache import ModelCache
from artmodels.ui.server.files import Page, Picture
from artmodels.ui.uploads import markdown

__all__ = [
    "LARGEST",
    "MODELS",
    "NEXT",
    "QUEUE",
    "SEEDS",
    "Panel",
    "Update",
    "beside",
    "blocks",
    "connect",
    "example_file",
    "explained",
    "finish",
    "follow",
    "model_choices",
    "models",
    "results",
    "run_folder",
    "told",
    "unrouted",
    "upload",
]

_log = logging.getLogger(__name__)

QUEUE = {"max_size": 16, "default_concurrency_limit": 1}
LARGEST = 2048 if pick_device().type == "cuda" else 1024  # side of a result in pixels
SEEDS = 2**31 - 1
# A click on Run while it works counts, and this answers in the browser at once. Other clicks are answered by the style
# of a line that waits.
NEXT = "(was) => /^(Step|Training|Next)|…$/m.test(was) ? 'Next: what is set now.' : was"
NAMED = 80  # characters of a name that are shown
PREVIEW_SIDE = 512
PREVIEW_PAUSE = 0.7  # seconds
POINTS = 200  # of the loss curve

Update = tuple[Any, ...]  # one value for each of Panel.outputs, in their order


# --- models


MODELS = ModelCache(load)


def models(method: str) -> list[catalogue.Entry]:
    """Return a method's models, those that need no download first and the default before them."""
    entries = catalogue.list_models(method)
    return sorted(entries, key=lambda entry: (catalogue.download(entry) is not None, not entry.default))


def model_choices(method: str) -> list[tuple[str, str]]:
    """Pair the summary and the name of a method's models, as `models` sorts them."""
    return [(entry.summary, entry.name) for entry in models(method)]


# --- controls and results


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The buttons of a run, and the components that show what comes out of it.

    Attributes:
        run: The button that starts it.
        stop: The button that stops it; None where a run is one pass, which nothing can stop.
        outputs: In the order of an `Update`: those that a program gets too come first, the status last.
        public: How many of the outputs a program gets.
        made: Says from what the result was made: pictures, model, and settings that are not the page's own.
        lane: Runs of one lane wait for each other.
    """

    run: Any
    stop: Any = None
    outputs: tuple[Any, ...]
    public: int
    made: Any
    lane: Lane = "compute"

    @property
    def status(self) -> Any:
        """The line that says what is going on."""
        return self.outputs[-1]


def blocks(title: str) -> Any:
    """Open a page that keeps no statistics and deletes its files after an hour."""
    return Page(title=title, analytics_enabled=False, delete_cache=(3600, 3600))


def upload(label: str, **options: Any) -> Any:
    """Add a control for a picture, whose file reaches us as it is: 16 bits, alpha and profile included.

    The camera is offered only where `ARTMODELS_WEBCAM=1` is set: a public page has no business with it.
    """
    camera = os.environ.get("ARTMODELS_WEBCAM") == "1"
    return Picture(
        **{"label": label, "type": "filepath", "image_mode": None, "format": "png", "height": 260} | options,
        sources=["upload", "clipboard", "webcam"] if camera else ["upload", "clipboard"],
        buttons=["fullscreen"],
    )


def told() -> tuple[Any, Any]:
    """Add the line that says what is going on, and the one that says from what the result is made."""
    return gr.Markdown("Nothing has run yet.", elem_classes="status"), gr.HTML("", elem_classes="made", padding=False)


def results(before: str, *, steps: bool = True) -> Panel:
    """Add the buttons, and what shows progress, the result, its comparison with the input, and its settings.

    Args:
        before: What the result is compared with, for people.
        steps: Whether the method takes steps: then it can be stopped, and has a loss curve.
    """
    with gr.Row():
        run = gr.Button("Run", variant="primary", size="lg", min_width=120)
        stop = gr.Button("Stop", size="lg", min_width=120) if steps else None
    status, made = told()
    with gr.Tabs(elem_classes="results"):
        with gr.Tab("Result"):
            image = gr.Image(label="Result", format="png", interactive=False, height=480, buttons=["fullscreen"])
        with gr.Tab("Compare"):
            comparison = gr.ImageSlider(
                label=f"{before} | result", format="png", interactive=False, max_height=480, buttons=["fullscreen"]
            )
        if steps:
            with gr.Tab("Loss"):
                plot = gr.LinePlot(
                    x="step", y="loss", label="Loss at each step: lower is closer", height=320, buttons=[]
                )
        with gr.Tab("Settings"):
            settings = gr.JSON(label="Settings: enough to repeat the result", buttons=["copy"])
    download = gr.DownloadButton("Download PNG", interactive=False, elem_classes="download", size="lg")
    curve = (plot,) if steps else ()
    return Panel(
        run=run,
        stop=stop,
        outputs=(image, settings, download, comparison, *curve, status),
        public=3,
        made=made,
        lane="compute" if steps else "passes",
    )


def connect(
    function: Callable[..., Generator[Update, None, None]],
    inputs: Sequence[Any],
    panel: Panel,
    checks: Mapping[str, Check],
) -> None:
    """Make the buttons work, and add the public endpoint, which is called as the function is.

    People see everything stream; a program gets the panel's public outputs.
    """
    shared: dict[str, Any] = {
        "inputs": list(inputs),
        "validator": validator(function, checks),
        "concurrency_id": panel.lane,
        "concurrency_limit": 1,
    }

    def page(*values: Any) -> Iterator[Update]:
        made: Any = made_from(inputs, values)
        with contextlib.closing(LANES.run(function(*values), panel.lane)) as updates:
            for update in updates:
                yield *update, made
                made = gr.skip()

    panel.run.click(None, panel.status, panel.status, js=NEXT, api_visibility="private")
    running = panel.run.click(
        page,
        outputs=[*panel.outputs, panel.made],
        api_name=f"{function.__name__}_page",
        api_visibility="private",
        show_progress="minimal",
        show_progress_on=panel.status,
        trigger_mode="always_last",  # a click while it runs counts: what is set then comes next
        **shared,
    )
    if panel.stop is not None:
        panel.stop.click(_stopped, outputs=panel.status, cancels=[running], api_visibility="private", queue=False)

    @wraps(function)
    def endpoint(*values: Any) -> Iterator[Update]:
        with contextlib.closing(LANES.run(function(*values), panel.lane)) as updates:
            for update in updates:
                yield tuple(map(_value, update[: panel.public]))

    gr.on([], endpoint, outputs=list(panel.outputs[: panel.public]), api_name=function.__name__, **shared)


def made_from(controls: Sequence[Any], values: Sequence[Any]) -> str:
    """Say from what a result is made, as HTML, in the words of its controls: files, choices, and what was changed."""
    parts = []
    for control, value in zip(controls, values, strict=True):
        if isinstance(control, gr.Image | gr.File):
            files = [value] if isinstance(value, str) else value or []
            said = Path(files[0]).name if len(files) == 1 else f"{len(files)} files" if files else ""
        elif isinstance(control, gr.Radio | gr.Dropdown):
            said = next((str(text) for text, choice in control.choices if choice == value), str(value))
        elif isinstance(value, bool):
            said = ("no", "yes")[value]
        else:
            said = "" if value in (None, control.value) else f"{value}"
        if said:
            parts.append(f"{escape(str(control.label).partition(':')[0])}: <b>{escape(said[:NAMED])}</b>")
    return f"<p>{' · '.join(parts)}</p>"


def _value(output: Any) -> Any:
    """Keep only the value of a button that is to change: programs have no buttons."""
    if isinstance(output, dict) and output.get("__type__") == "update":
        return output.get("value") or gr.skip()
    return output


def _stopped() -> str:
    return "Stopped. What is shown is as far as it came; run again for a full result."


# --- running


def follow(start: Callable[[], Iterator[Any]], *, name: str, before: str) -> Generator[Update, None, None]:
    """Turn a method's steps into updates of the panel, one a step, so that Stop acts within one.

    Args:
        start: Starts the optimisation: a generator of `Step`s and, lastly, the method's result.
        name: Of the file to download, without ending.
        before: File of the picture to compare the result with.

    Raises:
        gr.Error: With the message of any error that artmodels explains.
    """
    yield from explained(_updates(start, name, before), outputs=6)


def explained(updates: Iterator[Update], *, outputs: int) -> Generator[Update, None, None]:
    """Pass updates on; where they end in an error, say so in the status, the last of the outputs.

    Raises:
        gr.Error: With the message of any error that artmodels explains.
    """
    others = (gr.skip(),) * (outputs - 1)
    try:
        yield from updates
    except HashMismatch as error:
        _log.error("%s", error)  # it tells where the server keeps its files
        text = "The weights of this model are not the promised ones; the server's log says more."
        yield *others, f"**It did not work:** {text}"
        raise gr.Error(text, print_exception=False) from error
    except ArtModelsError as error:
        # It may hold names of files, which are the visitor's, and the page would show as Markdown and as HTML.
        yield *others, f"**It did not work:** {markdown(str(error))}"
        raise gr.Error(escape(str(error), quote=False), print_exception=False) from error
    except Exception:  # whatever it is, the line above the result must not go on saying that work is under way
        yield *others, "**It did not work**, for a reason that the server's log tells."
        raise


def beside(app: str, name: str, *, space: str) -> ModuleType:
    """Load a file of a Space by its path: on the Hub a Space is a folder, not a package.

    Args:
        app: `__file__` of the Space's app.py.
        name: Of the file, without its ending.
        space: Of the Space, whatever its folder is called; the module is called `<space>_space_<name>`.
    """
    folder = Path(app).resolve().parent
    spec = importlib.util.spec_from_file_location(f"{space}_space_{name}", folder / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ConfigError(f"{folder / name}.py cannot be loaded: install artmodels again.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _updates(start: Callable[[], Iterator[Any]], name: str, before: str) -> Iterator[Update]:
    skip = gr.skip()
    losses: list[float] = []
    next_preview = 0.0
    folder = run_folder()
    yield None, None, gr.update(value=None, interactive=False), None, None, "Preparing…"
    with contextlib.closing(start()) as steps:  # type: ignore[type-var]
        for item in steps:
            if not isinstance(item, Step):
                *shown, status = finish(item, folder / f"{name}.png", before, steps=len(losses))
                yield *shown, _curve(losses), status
                return
            losses.append(item.loss)
            began = time.monotonic()
            if began < next_preview:
                yield skip, skip, skip, skip, skip, skip
                continue
            update = _preview(item, folder), skip, skip, skip, _curve(losses), _progress(item)
            # Previews take a twentieth of the time at most, whatever they cost.
            next_preview = began + max(PREVIEW_PAUSE, 20 * (time.monotonic() - began))
            yield update


def finish(result: Any, file: Path, before: str, *, steps: int = 0) -> Update:
    """Write a result as PNG, and return its path, settings, download, comparison with the input, and status."""
    image = result.image
    result.save(file)
    path = str(file)
    # A path and a JPEG of the input: gradio would spend longer on two more PNGs than a quick method takes.
    original = file.with_name("before.jpg")
    ImageOps.fit(read(before).pil(), image.size, Image.Resampling.BICUBIC).save(original, quality=95)
    end = "Finished" if result.complete else "The time limit cut it short: the best so far,"
    counted = f"{steps} steps and " if steps else ""
    status = f"{end} after {counted}{result.seconds:.1f} s, {image.width} x {image.height} pixels."
    return (
        path,
        result.settings,
        gr.update(value=path, interactive=True),
        (str(original), path),
        "  \n".join([f"**{status}**", *result.notes]),
    )


@contextlib.contextmanager
def unrouted() -> Iterator[None]:
    """Put pages together without routes, for a gallery that is given them by its own `queue` or `launch` at the end.

    gradio builds all routes whenever a page is begun, ended or queued, each time for nothing but the last.
    """
    with patch.object(gr.routes.App, "create_app", lambda *_, **__: None):
        yield


@cache
def example_file(name: str, side: int = 384) -> str:
    """Write what `patterns.example` gives to a file, once: gradio copies files, but would encode a picture twice."""
    file = run_folder() / f"{name}.png"
    example(name, side).save(file, compress_level=1)
    return str(file)


def run_folder() -> Path:
    """Make a folder of its own for a run, in gradio's cache: what is there is served, and deleted after an hour."""
    cache = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")
    cache.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="run-", dir=cache)).resolve()


def _preview(step: Step, folder: Path) -> str:
    """Write a small JPEG: there may be hundreds of them."""
    image = images.to_pil(step.image.detach().cpu())
    ratio = PREVIEW_SIDE / max(image.size)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    file = folder / f"step-{step.index}.jpg"
    image.resize(size, Image.Resampling.BILINEAR).save(file, quality=85)
    return str(file)


def _progress(step: Step) -> str:
    scale = f", scale {step.level + 1} of {step.levels}" if step.levels > 1 else ""
    return f"Step {step.index} of {step.total}{scale}, {step.seconds:.0f} s."


def _curve(losses: list[float]) -> pd.DataFrame:
    every = max(1, -(-len(losses) // POINTS))
    steps = range(0, len(losses), every)
    return pd.DataFrame({"step": [i + 1 for i in steps], "loss": [losses[i] for i in steps]})
