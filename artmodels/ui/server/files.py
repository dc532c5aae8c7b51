"""Which files a visitor may name: those below the upload cache, and no other, whatever asks for one.

A page is a `Page`: it looks through all that is sent before any component does. gradio 6.31 checks only what comes with
a key `meta`, and the value of a `gr.Image` needs none.
"""

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from artmodels.errors import ConfigError

__all__ = ["REFUSED", "Page", "check_files", "uploaded"]

REFUSED = "This file was not uploaded here, or was deleted since: upload it, and send the path that the upload answers."
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


class Page(gr.Blocks):
    """A page that takes no file but what was uploaded to it, whichever of its endpoints is called."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False) -> Any:
        """Check what was sent, see `check_files`, then go on as gradio does."""
        if not explicit_call:
            try:
                for component, value in zip(block_fn.inputs, inputs, strict=False):
                    if isinstance(component, _FILES) and isinstance(value, str):
                        raise ConfigError(REFUSED)
                    if not component.stateful:
                        check_files(value)
            except ConfigError as error:
                raise gr.Error(str(error), print_exception=False) from None
        return await super().preprocess_data(block_fn, inputs, state, explicit_call)
