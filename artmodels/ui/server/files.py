"""Which files a visitor may name: those below the upload cache, and no other, whatever asks for one.

A page is a `Page`: it looks through all that is sent before any component does. gradio 6.31 checks only what comes with
a key `meta`, and the value of a `gr.Image` needs none.
"""

import sys
import types
from copy import copy
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from artmodels.errors import ConfigError, short

__all__ = ["REFUSED", "Fault", "Page", "check_files", "uploaded"]

REFUSED = (
    "This file was not uploaded here, or was deleted since: upload it, and send the path that the upload answers; in "
    "Python, gradio_client.handle_file(path) does both."
)
_FILES = (gr.Image, gr.File)


def uploaded(path: object) -> bool:
    """Whether a path is that of a file below the upload cache, wherever links and `..` lead."""
    if not isinstance(path, str) or not path:
        return False
    try:
        file = Path(path).resolve(strict=True)
        return file.is_file() and file.is_relative_to(Path(get_upload_folder()).resolve())
    except (OSError, ValueError, RuntimeError):  # it is not there, holds a NUL, or goes round in circles
        return False


def check_files(value: object) -> None:
    """Look for files in what was sent, however deep, and refuse those that were not uploaded.

    One message for all: it must not tell a file of the server from a folder, or from nothing.

    Raises:
        ConfigError: A file is not below the upload cache, or is an address, which nobody here fetches.
    """
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, dict):
            path, address = item.get("path"), item.get("url")
            if isinstance(path, str) or (path is None and isinstance(address, str)):
                if not uploaded(path):
                    raise ConfigError(REFUSED)
            else:
                rest.extend(item.values())
        elif isinstance(item, list | tuple):
            rest.extend(item)


class Fault(str):
    """What is wrong with a value, or nothing: it comes to a check in the value's place."""


class Page(gr.Blocks):
    """A page that takes no file but what was uploaded to it, whichever of its endpoints is called.

    What gradio refuses before our checks see it comes to them as a `Fault`: else programs would be told "400 Bad
    Request" and nothing more, since gradio's client reads no reason from that.
    """

    def launch(self, **options: Any) -> Any:  # type: ignore[override]  # nobody gives its sixty options by position
        """Serve, and say where when it answers; gradio would advise to share a page that is for this machine."""
        quiet, at_once = options.get("quiet", False), options.get("prevent_thread_lock", False)
        started = super().launch(**options | {"quiet": True, "prevent_thread_lock": True})
        if not quiet:
            sys.stdout.write(f"Ready: {self.local_url} answers (Ctrl-C stops it)\n")
            sys.stdout.flush()
        if not at_once:
            self.block_thread()
        return started

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False) -> Any:
        """Check what was sent, see `check_files`, then go on as gradio does."""
        pairs = list(zip(block_fn.inputs, inputs, strict=False))
        faults = [] if explicit_call else [_refused(component, value) for component, value in pairs]
        if any(faults) and not block_fn.is_validator_function:
            raise gr.Error(REFUSED, print_exception=False)
        if not any(faults):
            try:
                return await super().preprocess_data(block_fn, inputs, state, explicit_call)
            except Exception:
                if not block_fn.is_validator_function:
                    raise
            faults = [await self._fault(block_fn, component, value, state) for component, value in pairs]
        missing = len(block_fn.inputs) - len(faults)
        return [*faults, *[Fault(f"There are too few values: {missing} more are needed.")] * missing]

    async def _fault(self, block_fn: Any, component: Any, value: Any, state: Any) -> Fault:
        """What gradio has against one of the values."""
        alone = copy(block_fn)
        alone.inputs, alone.component_prop_inputs = [component], []
        try:
            await super().preprocess_data(alone, [value], state)
        except gr.Error as error:
            return Fault(error.message)
        except Exception:  # whatever gradio's components stumble over; their words are for programmers of gradio
            kind = component.api_info().get("type", "other kind")
            return Fault(f"{short(value)} is not a value of this type: {kind}.")
        return Fault()


def _refused(component: Any, value: Any) -> Fault:
    """What is wrong with the files of a value."""
    if component.stateful:
        return Fault()
    try:
        if isinstance(component, _FILES) and not isinstance(value, dict | list | types.NoneType):
            raise ConfigError(REFUSED)
        check_files(value)
    except ConfigError as error:
        return Fault(error)
    return Fault()
