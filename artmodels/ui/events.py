"""What a control does: handlers behind buttons, endpoints for programs, and errors that say what to do.

A handler is a generator of updates, the status last, which tells of errors.
"""

import contextlib
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import wraps
from html import escape
from inspect import signature
from pathlib import Path
from typing import Any

import gradio as gr

from artmodels.errors import ArtModelsError, HashMismatch
from artmodels.ui.checks import Check, validator
from artmodels.ui.controls import Panel, Update, offered
from artmodels.ui.keeping import GONE, HOUR, again, folder_of, keep, kept, on_load, other_kinds, remember
from artmodels.ui.running import stopped_picture
from artmodels.ui.server.lanes import LANES, Lane
from artmodels.ui.uploads import markdown

__all__ = [
    "answered",
    "check_at_once",
    "connect",
    "describe_inputs",
    "endpoint",
    "explain_errors",
    "on",
    "stop_button",
    "working",
]

# A click on Run while it works counts, and this answers in the browser at once. Other clicks are answered by the style
# of a line that waits.
# On a telephone the status, below the button that floats, comes into sight.
NEXT = """(was) => {
  const bar = [...document.querySelectorAll('.actions')].find((one) => one.getClientRects().length);
  const line = bar && bar.nextElementSibling, top = line ? line.getBoundingClientRect().top : 0;
  if (line && (top < 0 || top > innerHeight - 160)) {
    line.style.scrollMarginTop = '1rem';
    line.scrollIntoView({ behavior: 'smooth', block: 'start' });
  }
  return /^(Step|Training|Next)|…$/m.test(was) ? 'Next: what is set now.' : was;
}"""
NAMED = 80  # characters of a name that are shown

Controls = Sequence[Any]
Handler = Callable[..., Iterator[Update]]

_log = logging.getLogger(__name__)


# --- a page with one thing to do


def connect(function: Handler, inputs: Controls, panel: Panel, checks: Mapping[str, Check]) -> None:
    """Make the buttons of a panel work, and add the public endpoint, which is called as the function is.

    People see everything stream; a program gets the panel's public outputs.
    """
    name = function.__name__
    *others, status = panel.outputs
    kinds = [] if panel.kinds is None else [panel.kinds]
    outputs = [*others, *kinds, panel.made, panel.again, status]
    # The server's own, for Stop: what a browser says of the picture that it shows is not always a file.
    at_work = gr.State(None, time_to_live=HOUR)

    def page(*values: Any) -> Generator[Update, None, None]:
        made: Any = describe_inputs(inputs, values)
        lines: Any = ""
        links: Any = [""] * len(kinds)
        at: Any = None
        with contextlib.closing(function(*values)) as updates:  # type: ignore[type-var]
            for *shown, text in updates:
                settings, folder = shown[1], folder_of(shown)
                if isinstance(settings, list | Mapping) and "__type__" not in settings:  # the result is there
                    lines = again(settings, inputs, values, folder)
                    links = [other_kinds(shown[0])] * len(kinds)
                    if folder is not None:
                        keep(name, folder, [*shown, *links, describe_inputs(inputs, values), lines, text])
                yield *shown, *links, made, lines, folder or at, text
                made = lines = at = gr.skip()
                links = [gr.skip()] * len(kinds)

    def bring(token: object) -> Any:
        """Show a result that was made in the last hour."""
        shown = kept(token, name)
        if shown and len(shown) == len(outputs):
            return [gr.skip() if value is None else _as_shown(value) for value in shown]
        return [*[gr.skip()] * (len(outputs) - 1), gr.skip() if shown is None else GONE]

    checked = validator(function, checks)
    running = working(panel.run, page, inputs, [*outputs[:-1], at_work, status], panel.lane, validator=checked)
    if panel.stop is not None:
        text = "Stopped. What is shown is as far as it came; run again for a full result."
        so_far = (at_work, panel.outputs[2], panel.kinds) if kinds else None
        stop_button(panel.stop, [running], status, text, so_far)
    check_at_once(function, inputs, checks)
    remember(name, inputs)
    asked = gr.Textbox("", visible=False)
    on_load(bring, [asked], outputs, js="() => [new URLSearchParams(location.search).get('result') || '']")
    endpoint(function, inputs, panel.outputs[: panel.public], checks, panel.lane)


def _as_shown(value: Any) -> Any:
    """Make a pair of files, which JSON has made a list, what a slider takes."""
    pair = isinstance(value, list) and len(value) == 2 and all(isinstance(path, str) for path in value)
    return tuple(value) if pair else value


def check_at_once(function: Handler, inputs: Controls, checks: Mapping[str, Check]) -> None:
    """Say what is wrong with an input beside it when it changes, not only at Run; it goes with its cause.

    What is not there yet is not wrong yet.
    """
    names = list(signature(function).parameters)
    lenient = {
        name: lambda value, given, check=check: "" if value in (None, []) else check(value, given)
        for name, check in checks.items()
    }
    changed = [
        control.change
        for name, control in zip(names, inputs, strict=True)
        if name in checks and not isinstance(control, gr.Slider)
    ]
    if changed:
        gr.on(
            changed, lambda *_: None, [*inputs], None, validator=validator(function, lenient),
            api_visibility="private", show_progress="hidden", trigger_mode="always_last", concurrency_limit=None,
        )  # fmt: skip


def describe_inputs(controls: Controls, values: Sequence[Any]) -> str:
    """Say from what a result is made, as HTML, in the words of its controls: files, choices, and what was changed."""
    parts = []
    for control, value in zip(controls, values, strict=True):
        if isinstance(control, gr.Image | gr.File):
            files = [value] if isinstance(value, str) else value or []
            text = Path(files[0]).name if len(files) == 1 else f"{len(files)} files" if files else ""
        elif isinstance(control, gr.Radio | gr.Dropdown):
            text = next((str(words) for words, choice in control.choices if choice == value), str(value))
        elif isinstance(value, bool):
            text = ("no", "yes")[value]
        else:
            text = "" if value in (None, control.value) else f"{value}"
        if text:
            parts.append(f"{escape(str(control.label).partition(':')[0])}: <b>{escape(text[:NAMED])}</b>")
    return f"<p>{' · '.join(parts)}</p>"


# --- a page with more than one


def on(
    listener: Any, handler: Handler, inputs: Controls, outputs: Controls, lane: Lane | None = None, **more: Any
) -> Any:
    """Connect a listener of a control, such as `button.click`, which programs do not see; see `answered`.

    In a lane it waits, and the status, the last output, shows how many wait before it; what takes no time has none.
    """
    options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    if lane is not None:
        options |= {"concurrency_id": lane, "concurrency_limit": 1}
        options |= {"show_progress": "minimal", "show_progress_on": outputs[-1]}
    return listener(answered(handler, outputs=len(outputs), lane=lane), list(inputs), list(outputs), **options | more)


def working(button: Any, handler: Handler, inputs: Controls, outputs: Controls, lane: Lane, **more: Any) -> Any:
    """Connect a button that starts work, see `on`; a click while it works counts, once, and the status says so."""
    button.click(None, outputs[-1], outputs[-1], js=NEXT, api_visibility="private")
    return on(button.click, handler, inputs, outputs, lane=lane, trigger_mode="always_last", **more)


def stop_button(button: Any, running: Controls, status: Any, text: str, so_far: Controls | None = None) -> None:
    """Connect a button that stops what `working` or `on` has connected, within a step, and then says `text`.

    So far there may be a picture, of `show_steps`: the state that knows its folder, a button that offers its file, and
    what offers it as other kinds of file.
    """
    options: dict[str, Any] = {"cancels": list(running), "api_visibility": "private", "queue": False}
    stopped = button.click(lambda: text, outputs=status, **options)
    if so_far is not None:
        folder, *offers = so_far

        def offer(folder: Path | None) -> Any:
            file = stopped_picture(folder)
            return [gr.skip()] * 2 if file is None else [offered(file), other_kinds(str(file))]

        stopped.then(offer, folder, offers, api_visibility="private", queue=False, show_progress="hidden")


def endpoint(function: Handler, inputs: Controls, outputs: Controls, checks: Mapping[str, Check], lane: Lane) -> None:
    """Add an endpoint for programs, which is called as the function is, and gives its first values, one an output.

    The components say what it takes and gives; the checks are of what is sent, by the names of its parameters.
    """

    @wraps(function)
    def called(*values: Any) -> Iterator[Update]:
        updates = explain_errors(LANES.run(function(*values), lane), outputs=len(outputs) + 1)
        with contextlib.closing(updates):
            for update in updates:
                yield tuple(map(_value, update[: len(outputs)]))

    gr.on(
        [], called, list(inputs), list(outputs), api_name=function.__name__, concurrency_id=lane, concurrency_limit=1,
        validator=validator(function, checks),
    )  # fmt: skip


def _value(output: Any) -> Any:
    """Keep only the value of a button that is to change: programs have no buttons."""
    if isinstance(output, dict) and output.get("__type__") == "update":
        return output.get("value") or gr.skip()
    return output


# --- errors


def answered(handler: Handler, *, outputs: int, lane: Lane | None = None) -> Handler:
    """Make a handler that shows its errors as the status, the last of its outputs; see `explain_errors`."""

    @wraps(handler)  # gradio reads there whether it takes what happened, such as the place of a click
    def run(*values: Any) -> Generator[Update, None, None]:
        updates = handler(*values)
        yield from explain_errors(updates if lane is None else LANES.run(updates, lane), outputs=outputs)

    return run


def explain_errors(updates: Iterator[Update], *, outputs: int) -> Generator[Update, None, None]:
    """Pass updates on; where they end in an error, show it in the status, the last of the outputs.

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
