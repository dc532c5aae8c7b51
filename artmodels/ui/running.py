"""What runs behind the button of a `Panel`: an optimisation that shows its steps, or one pass of a network.

Each gives updates, the status last; `artmodels.ui.events` brings them to the page, and says there what went wrong.
"""

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
import pandas as pd  # type: ignore[import-untyped]
from PIL import Image, ImageOps

from artmodels import images
from artmodels.descent.optimise import Step
from artmodels.images.loading import LoadedImage
from artmodels.images.results import ImageResult
from artmodels.runtime.devices import pick_device
from artmodels.ui.checks import read
from artmodels.ui.controls import Update, offered, run_folder

__all__ = ["LONGEST", "TimeLeft", "at_size", "calm", "show_pass", "show_steps", "stopped_picture"]

LONGEST = 3072 if pick_device().type == "cuda" else 2048  # px: side of what is run in one piece
PREVIEW_SIDE = 512  # px
PREVIEW_PAUSE = 0.7  # seconds
POINTS = 200  # of the loss curve
PACE = 10.0  # seconds, the last ones, whose steps say how long the rest takes
STOPPED = "stopped.png"  # the picture so far

S = TypeVar("S")

Second = str | Callable[[Image.Image], Image.Image]
"""What the second tab shows: the result beside this file, or what this makes of the result."""


def show_steps(start: Callable[[], Iterator[Any]], *, name: str, before: str) -> Generator[Update, None, None]:
    """Show each step of an optimisation on the panel of `results`, so that Stop acts within one.

    Args:
        start: Starts it: a generator of `Step`s and, last, the method's result.
        name: Of the file to download, without ending.
        before: File of the picture to compare the result with.
    """
    skip = gr.skip()
    losses: list[float] = []
    next_preview = 0.0
    folder = run_folder()
    latest: Step | None = None
    yield None, None, offered(None), None, None, "Preparing…"
    with _kept_when_stopped(lambda: latest, folder), contextlib.closing(start()) as steps:  # type: ignore[type-var]
        for item in steps:
            if not isinstance(item, Step):
                *shown, status = _finish(item, folder / f"{name}.png", before, steps=len(losses))
                yield *shown, _curve(losses), status
                return
            latest = item
            losses.append(item.loss)
            began = time.monotonic()
            if began < next_preview:
                yield (skip,) * 6
                continue
            update = _preview(item, folder), skip, skip, skip, _curve(losses), _progress(item)
            # Previews take a twentieth of the time at most, whatever they cost.
            next_preview = began + max(PREVIEW_PAUSE, 20 * (time.monotonic() - began))
            yield update


@contextlib.contextmanager
def _kept_when_stopped(latest: Callable[[], Step | None], folder: Path) -> Iterator[None]:
    """Write the newest step at its full size where the work inside is closed before its end."""
    try:
        yield
    except GeneratorExit:
        step = latest()
        if step is not None:
            about = json.dumps({"stopped_at_step": step.index, "of": step.total})
            images.save_png(step.image.detach().cpu(), folder / STOPPED, metadata={"artmodels": about})
        raise


def stopped_picture(folder: Path | None, patience: float = 30.0) -> Path | None:
    """Find the file that a stopped run leaves in its folder, which may take a step to come."""
    if folder is None:
        return None
    file, until = folder / STOPPED, time.monotonic() + patience
    while not file.is_file() and time.monotonic() < until:
        time.sleep(0.05)
    return file if file.is_file() else None


def show_pass(run: Callable[[], ImageResult], *, name: str, second: Second) -> Generator[Update, None, None]:
    """Show one pass of a network on the panel of `results(..., steps=False)`; the file to download has this name."""
    yield None, None, offered(None), None, "Working…"
    yield _finish(run(), run_folder() / f"{name}.png", second)


def at_size(model: Callable[..., ImageResult], picture: LoadedImage, side: int, **options: object) -> ImageResult:
    """Run a method, with these options, on a picture whose longest side is to be `side` pixels.

    0 keeps the picture's own size up to `LONGEST`; a note of the result says where that made it smaller.
    """
    longest = max(picture.height, picture.width)
    target = side or min(longest, LONGEST)
    if target == longest:
        return model(picture, **options)
    width, height = _scaled(picture.width, picture.height, target)
    result = model(picture, size=(height, width), **options)
    if side:
        return result
    note = (
        f"The picture of {picture.width} x {picture.height} pixels was reduced to this server's limit of {LONGEST} a "
        "side; in Python there is no such limit."
    )
    return replace(result, notes=(*result.notes, note))


def _scaled(width: int, height: int, side: int) -> tuple[int, int]:
    """The size whose longer side is `side`."""
    longest = max(width, height)
    return max(1, round(width * side / longest)), max(1, round(height * side / longest))


def _finish(result: ImageResult, file: Path, second: Second, *, steps: int = 0) -> Update:
    """Write a result as PNG, and give its path, settings, download, the second picture, and the status."""
    image = result.image
    result.save(file)
    path = str(file)
    # Paths, and JPEG: gradio would spend longer on two more PNGs than a quick method takes.
    other = file.with_name("second.jpg")
    if callable(second):
        second(image).save(other, quality=90)
    else:
        ImageOps.fit(read(second).pil(), image.size, Image.Resampling.BICUBIC).save(other, quality=95)
    end = "Finished" if result.complete else "The time limit cut it short: the best so far,"
    counted = f"{steps} steps and " if steps else ""
    status = f"{end} after {counted}{result.seconds:.1f} s, {image.width} x {image.height} pixels."
    shown = str(other) if callable(second) else (str(other), path)
    return path, result.settings, offered(file), shown, "  \n".join([f"**{status}**", *result.notes])


def _preview(step: Step, folder: Path) -> str:
    """Write a small JPEG: there may be hundreds of them."""
    image = images.to_pil(step.image.detach().cpu())
    file = folder / f"step-{step.index}.jpg"
    image.resize(_scaled(*image.size, PREVIEW_SIDE), Image.Resampling.BILINEAR).save(file, quality=85)
    return str(file)


def _progress(step: Step) -> str:
    scale = f", scale {step.level + 1} of {step.levels}" if step.levels > 1 else ""
    return f"Step {step.index} of {step.total}{scale}, {step.seconds:.0f} s."


def _curve(losses: list[float]) -> pd.DataFrame:
    every = max(1, -(-len(losses) // POINTS))
    steps = range(0, len(losses), every)
    return pd.DataFrame({"step": [i + 1 for i in steps], "loss": [losses[i] for i in steps]})


# --- a stream of steps


def calm(steps: Iterator[S], pause: float = 0.4) -> Generator[S, None, None]:
    """Leave out steps that come within `pause` seconds of another of their kind: a page cannot show hundreds a second.

    The first of each type passes, and so does a result, which is of another type than the steps before it. Closing this
    closes the steps, too.
    """
    kind, following = None, 0.0
    with contextlib.closing(steps):  # type: ignore[type-var]
        for step in steps:
            if type(step) is not kind or time.monotonic() >= following:
                yield step
                kind, following = type(step), time.monotonic() + pause


class TimeLeft:
    """Says how long some work still takes, by the pace of its own last steps: ", about 20 seconds left", or nothing."""

    def __init__(self, done: int = 0) -> None:
        """Begin now, with so many steps done before, which say nothing of the pace."""
        self._steps = deque([(time.monotonic(), done)])

    def __call__(self, done: int, total: int) -> str:
        """Note that so many steps of `total` are done, and say what is left; call it after each step."""
        now, last = time.monotonic(), done
        self._steps.append((now, last))
        while len(self._steps) > 2 and now - self._steps[1][0] > PACE:
            self._steps.popleft()
        began, first = self._steps[0]
        if last <= first or last >= total:
            return ""
        seconds = (now - began) / (last - first) * (total - last)
        if seconds >= 100:
            return f", about {round(seconds / 60)} minutes left"
        whole = max(1, round(seconds) if seconds < 20 else 5 * round(seconds / 5))
        return f", about {whole} second{'' if whole == 1 else 's'} left"
