"""Controls and endpoints of a page that has more than one thing to do.

A handler is a generator of updates, the status last, which tells of errors.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any

import gradio as gr

from artmodels.ui.checks import Check, validator
from artmodels.ui.controls import NEXT, Update, explained
from artmodels.ui.lanes import LANES, Lane

__all__ = ["answered", "endpoint", "on", "working"]

Handler = Callable[..., Generator[Update, None, None]]


def answered(handler: Handler, *, outputs: int, event: bool = False) -> Handler:
    """Make errors of a handler the last of its outputs, the status; see `artmodels.ui.controls.explained`.

    Args:
        handler: A generator of updates.
        outputs: How many each has.
        event: Whether the handler also takes what happened, before the values: the place of a click, or a number.
    """

    def clicked(what: gr.EventData, *values: Any) -> Generator[Update, None, None]:
        yield from explained(handler(what, *values), outputs=outputs)

    def run(*values: Any) -> Generator[Update, None, None]:
        yield from explained(handler(*values), outputs=outputs)

    return clicked if event else run


def on(
    listener: Any,
    handler: Handler,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    event: bool = False,
    lane: Lane | None = None,
    **more: Any,
) -> Any:
    """Connect a control of a page, which programs do not see; the status, the last output, tells of errors.

    Args:
        listener: Of the control, such as `button.click`.
        handler: A generator of updates.
        inputs: Controls whose values it takes.
        outputs: Controls that it updates.
        event: See `answered`.
        lane: Where it waits, and the status shows how many wait before; None for what takes no time.
        more: What the listener takes beside.
    """
    options: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    if lane is not None:
        options |= {"concurrency_id": lane, "concurrency_limit": 1}
        options |= {"show_progress": "minimal", "show_progress_on": outputs[-1]}
        handler = _in_lane(handler, lane)
    made = answered(handler, outputs=len(outputs), event=event)
    return listener(made, inputs, outputs, **options | more)


def working(button: Any, handler: Handler, inputs: Sequence[Any], outputs: Sequence[Any], lane: Lane) -> Any:
    """Connect a button that starts work, see `on`; a click while it works counts, once, and the status says so."""
    button.click(None, outputs[-1], outputs[-1], js=NEXT, api_visibility="private")
    return on(button.click, handler, inputs, outputs, lane=lane, trigger_mode="always_last")


def _in_lane(handler: Handler, lane: Lane) -> Handler:
    def run(*values: Any) -> Generator[Update, None, None]:
        yield from LANES.run(handler(*values), lane)

    return run


def endpoint(
    function: Handler, inputs: Sequence[Any], outputs: Sequence[Any], checks: Mapping[str, Check], lane: Lane
) -> None:
    """Add an endpoint for programs, which is called as the function is; they get all of an update but the status.

    Args:
        function: A generator of updates, the status last.
        inputs: Components that say what it takes.
        outputs: Components that say what it gives.
        checks: Of what is sent, by the names of the function's arguments.
        lane: Where it waits.
    """

    @wraps(function)
    def called(*values: Any) -> Iterator[Update]:
        updates = explained(LANES.run(function(*values), lane), outputs=len(outputs) + 1)
        with contextlib.closing(updates):
            for update in updates:
                yield update[:-1]

    gr.on(
        [], called, inputs, outputs, api_name=function.__name__, concurrency_id=lane, concurrency_limit=1,
        validator=validator(function, checks),
    )  # fmt: skip
