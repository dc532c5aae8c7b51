"""What outlives a click: inputs after a reload, a result at an address, and how to make it again elsewhere.

Inputs stay in the visitor's browser, as text; files are named there, and taken back only if they are still on the
server. Results lie beside their files, in the folder of the run, which nobody can guess and an hour deletes.
"""

import contextlib
import inspect
import json
import os
import re
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np
from gradio.context import Context
from gradio.utils import get_upload_folder
from PIL import Image
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from artmodels.errors import ArtModelsError
from artmodels.hub import catalogue
from artmodels.images.formats.origin import texts_of
from artmodels.images.loading import LARGEST, load
from artmodels.images.writing import LONGEST, encode, read_metadata
from artmodels.methods import class_of
from artmodels.ui.controls import MODELS
from artmodels.ui.server.files import uploaded

__all__ = [
    "GONE", "HOUR", "ROUTE", "again", "brought_back", "folder_of", "keep", "keep_in_browser", "kept", "kept_values",
    "on_load", "other_kinds", "recipe", "remember",
]  # fmt: skip

HOUR = 3600  # seconds
GONE = "This result was deleted, as everything is after an hour: run again."
_TOKEN = re.compile(r"run-[a-z0-9_]{6,16}")
_KEPT = "kept.json"
_KINDS = {".jpg": "JPEG", ".webp": "WebP"}
# Text, in which no check of files looks for any: what was deleted meanwhile must not be an error.
_SAVE = "(...values) => JSON.stringify({ at: Date.now() / 1000, values })"


def on_load(function: Any, inputs: Sequence[Any], outputs: Sequence[Any], js: str | None = None) -> None:
    """Call a function whenever the page that is being made is opened."""
    page: Any = Context.root_block
    page.load(function, [*inputs], [*outputs], js=js, api_visibility="private", queue=False, show_progress="hidden")


# --- inputs, in the browser


def remember(name: str, inputs: Sequence[Any]) -> None:
    """Keep the values of some controls in the browser, for an hour, and bring them back when the page is opened."""
    keep_in_browser(name, inputs, lambda text: brought_back(text, inputs), [], inputs)


def keep_in_browser(
    name: str, controls: Sequence[Any], bring: Any, inputs: Sequence[Any], outputs: Sequence[Any], js: str = _SAVE
) -> None:
    """Keep the values of some controls in the browser, and call `bring` with their text when the page is opened.

    Its other arguments are `inputs`, and what it gives goes to `outputs`; `kept_values` reads the text.
    """
    saved = gr.BrowserState("", storage_key=f"artmodels-{name}", secret=name.ljust(16, "-")[:16])
    changed = [control.change for control in controls if hasattr(control, "change")]
    gr.on(changed, None, [*controls], saved, js=js, api_visibility="private", show_progress="hidden")
    on_load(bring, [saved, *inputs], outputs)


def kept_values(text: object) -> list[Any]:
    """Read the values that a browser kept; none where they are older than an hour, or no such text."""
    try:
        saved = json.loads(text) if isinstance(text, str) and text else {}
        values = saved.get("values", []) if time.time() - float(saved.get("at", 0)) < HOUR else []
    except (ValueError, TypeError, AttributeError):
        return []
    return values if isinstance(values, list) else []


def brought_back(text: object, controls: Sequence[Any]) -> Any:
    """Give an update for each control from what a browser kept; none where it is old, or no value of the control."""
    nothing = [gr.skip()] * len(controls)
    values = kept_values(text)
    if len(values) != len(controls):
        return nothing if len(nothing) != 1 else nothing[0]
    found = [_value(control, value) for control, value in zip(controls, values, strict=True)]
    return found if len(found) != 1 else found[0]


def _value(control: Any, value: Any) -> Any:
    if isinstance(control, gr.Image | gr.File):
        sent = value if isinstance(value, list) else [value]
        paths = [item.get("path") for item in sent if isinstance(item, dict)]
        paths = [path for path in paths if uploaded(path)]
        if not paths:
            return gr.skip()
        return paths if isinstance(value, list) else paths[0]
    if isinstance(control, gr.Radio | gr.Dropdown):
        known = isinstance(value, str | int | float) and value in [choice for _, choice in control.choices]
        return value if known and value != control.value else gr.skip()
    if isinstance(control, gr.Slider) and isinstance(value, int | float):
        return value if control.minimum <= value <= control.maximum else gr.skip()
    # A value that the page itself begins with needs no update.
    return value if isinstance(value, bool | int | float) and value != control.value else gr.skip()


# --- results, beside their files


def folder_of(update: Sequence[Any]) -> Path | None:
    """Find the folder of a run in what it shows."""
    for value in update:
        value = value.get("value") if isinstance(value, dict) and "__type__" in value else value
        if isinstance(value, str) and _TOKEN.fullmatch(Path(value).parent.name) and uploaded(value):
            return Path(value).parent
    return None


def keep(name: str, folder: Path, shown: Sequence[Any]) -> None:
    """Write what a page shows of a result, which `kept` reads; curves are left out.

    Those of an hour ago are deleted: gradio deletes only the files that it knows.
    """
    for old in Path(get_upload_folder()).glob(f"run-*/{_KEPT}"):
        with contextlib.suppress(OSError):  # another run has just deleted it, or its folder holds something else
            if _is_old(old):
                old.unlink()
                old.parent.rmdir()
    values = [value if _plain(value) else None for value in shown]
    (folder / _KEPT).write_text(json.dumps({"of": name, "shown": values}), encoding="utf-8")


def kept(token: object, name: str) -> list[Any] | None:
    """Read what was shown of a run by its folder's name; None where it is another's, and [] where it is deleted."""
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return None
    file = Path(get_upload_folder()) / token / _KEPT
    try:
        found = {} if _is_old(file) else json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return []
    if not found:
        return []
    shown: list[Any] = found["shown"]
    return shown if found["of"] == name else None


def _is_old(file: Path) -> bool:
    return time.time() - file.stat().st_mtime > HOUR


def _plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


# --- results, as other kinds of file


def other_kinds(file: object) -> str:
    """Write, as HTML, links to a result, a PNG in the folder of its run, as other kinds of file; "" where it is none.

    They are made when a link is followed, and not kept: see `ROUTE`.
    """
    if not isinstance(file, str) or folder_of([file]) is None or Path(file).suffix != ".png":
        return ""
    path = Path(file)
    with Image.open(path) as image:
        longest = max(image.size)
    address = f"results/{path.parent.name}/{quote(path.stem)}"
    links = [
        f'<a href="{address}{ending}" aria-label="Download {kind}" download>{kind}</a>'
        for ending, kind in _KINDS.items()
        if longest <= LONGEST[kind.upper()]
    ]
    return f"<span>or as</span> {' '.join(links)}" if links else ""


def _other_kind(request: Request) -> Response:
    run, name = request.path_params["run"], Path(request.path_params["name"])
    file = Path(get_upload_folder()) / run / f"{name.stem}.png"
    if not _TOKEN.fullmatch(run) or name.suffix not in _KINDS or not uploaded(str(file)):
        return PlainTextResponse(GONE, 404)
    try:
        with _one_at_a_time:
            image = load(file, max_pixels=LARGEST, background=None)
            texts = {key: text for key, text in read_metadata(file).items() if key not in texts_of(image.origin)}
            picture = image.pil()
            if image.alpha is not None:
                step = np.iinfo(image.alpha.dtype).max // 255
                picture.putalpha(Image.fromarray((image.alpha // step).astype(np.uint8)))
            content = encode(picture, _KINDS[name.suffix].upper(), metadata=texts, origin=image.origin)
    except ArtModelsError as error:
        return PlainTextResponse(str(error).replace(str(file), file.name), 422)
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name.name)}", "Cache-Control": "no-store"}
    return Response(content, media_type=f"image/{_KINDS[name.suffix].lower()}", headers=headers)


_one_at_a_time = threading.Lock()  # a large picture takes seconds of a core, and a gigabyte
ROUTE = Route("/results/{run}/{name}", _other_kind)
"""A result as JPEG or WebP, with its settings and origin inside, made of its PNG while that is there."""


# --- the same elsewhere


def again(settings: Any, controls: Sequence[Any], values: Sequence[Any], folder: Path | None) -> str:
    """Write, as Markdown, the lines under a result: its address, and the same in Python and on the command line."""
    lines = []
    if folder is not None:
        address = f"?result={folder.name}"
        lines.append(f'<a class="permalink" href="{address}">Address of this result</a>, for an hour.')
    with contextlib.suppress(ArtModelsError):  # no model of ours made it
        lines.append(recipe(settings, controls, values))
    return "\n\n".join(filter(None, lines))


def recipe(settings: Any, controls: Sequence[Any], values: Sequence[Any]) -> str:
    """Write the call, in Python and on the command line, that gives a result with these settings again.

    Args:
        settings: Those of a result, or the report of a batch, whose first result's are taken.
        controls: Of the page.
        values: Of the controls.
    """
    batch = isinstance(settings, list)
    if batch:
        settings = next((row["settings"] for row in settings if "settings" in row), {})
    if not isinstance(settings, Mapping) or "method" not in settings:
        return ""
    names = [value for value in values if isinstance(value, str) and catalogue.find(value)]
    model = str(settings.get("model") or (names or [catalogue.default(settings["method"]).name])[0])
    if catalogue.find(model) is None:
        return ""
    call = inspect.signature(class_of(settings["method"]).__call__)
    files = _files(controls, values, batch=batch)
    first = [item.name for item in call.parameters.values() if item.kind is item.POSITIONAL_OR_KEYWORD][1:]
    options = _options(settings, call, model)
    size = options.pop("size", None)
    if batch:  # it is each picture's own
        size = None
    given = files[:1] if first else []
    styles = files[1:] if "styles" in first else []
    python = [*map(repr, given)]
    if styles:
        python.append(repr(styles[0] if len(styles) == 1 else styles))
    python += [f"size={tuple(size)}"] if size else []
    python += [f"{key}={value!r}" for key, value in options.items()]
    words = ["artmodels", "run", settings["method"], *given, "--name", model]
    words += [word for name in styles for word in ("--style", name)]
    words += ["--size", f"{size[1]}x{size[0]}"] if size else []
    words += [word for key, value in options.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    command = shlex.join([*words, "-o", "result.png"])
    return (
        "**The same in Python, or on the command line**\n\n"
        f'```python\nimport artmodels\n\nmodel = artmodels.load("{model}")\n'
        f'model({", ".join(python)}).save("result.png")\n```\n\n```bash\n{command}\n```'
    )


def _files(controls: Sequence[Any], values: Sequence[Any], *, batch: bool) -> list[str]:
    """Names of the pictures that were given, masks left out; of a batch's the first."""
    names = []
    for control, value in zip(controls, values, strict=True):
        path = value[0] if batch and isinstance(control, gr.File) and isinstance(value, list) and value else value
        if isinstance(control, gr.Image | gr.File) and isinstance(path, str) and "Mask" not in str(control.label):
            # They are the visitor's, and stand in Markdown.
            names.append(re.sub(r"[^\w.() -]", "_", os.path.basename(path)))
    return names


def _options(settings: Mapping[str, Any], call: inspect.Signature, model: str) -> dict[str, Any]:
    """The settings that are not what the call and the model have anyway."""
    normal = {
        name: item.default for name, item in call.parameters.items() if item.default is not inspect.Parameter.empty
    }
    if any(item.kind is item.VAR_KEYWORD for item in call.parameters.values()):  # it takes the model's own, too
        config = MODELS(model).config
        own = asdict(config) if is_dataclass(config) and not isinstance(config, type) else {}
        normal |= own
    found = {name: settings[name] for name, default in normal.items() if name in settings and settings[name] != default}
    found = {name: value for name, value in found.items() if json.loads(json.dumps(normal[name], default=str)) != value}
    if len(found.get("style_weights") or ()) < 2:
        found.pop("style_weights", None)
    found.pop("masks", None)
    return found
