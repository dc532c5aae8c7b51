"""Which files a visitor may name: those below the upload cache, and no other, whatever asks for one.

A page is a `Page`: it looks through all that is sent before any component does. gradio 6.31 checks only what comes with
a key `meta`, and the value of a `gr.Image` needs none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gradio as gr
from gradio import component_meta
from gradio.utils import get_upload_folder

from artmodels.errors import ConfigError

__all__ = ["REFUSED", "Files", "Page", "Picture", "check_files"]

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

    async def preprocess_data(
        self, block_fn: Any, inputs: list[Any], state: Any, explicit_call: bool = False
    ) -> list[Any]:  # fmt: skip
        """Check what was sent, then go on as gradio does.

        Raises:
            gr.Error: See `check_files`.
        """
        if not explicit_call:
            try:
                for component, value in zip(block_fn.inputs, inputs, strict=False):
                    if isinstance(component, _FILES) and isinstance(value, str):
                        raise ConfigError(REFUSED)
                    if not component.stateful:
                        check_files(value)
            except ConfigError as error:
                raise gr.Error(str(error), print_exception=False) from None
        processed: list[Any] = await super().preprocess_data(block_fn, inputs, state, explicit_call)
        return processed


# gradio would write type hints of each class into a file beside this one.
with patch.object(component_meta, "create_or_modify_pyi", lambda *_: None):

    class Picture(gr.Image):
        """A control for a picture, whose file reaches us as it is; gradio would open it with Pillow first."""

        is_template = True  # for gradio it is an Image

        def preprocess(self, payload: Any) -> str | None:
            """Give the file's path."""
            return None if payload is None else str(payload.path)

    class Files(gr.File):
        """A control for files, which reach us as they are; gradio would leave an empty file behind for each."""

        is_template = True

        def preprocess(self, payload: Any) -> list[str] | None:
            """Give the files' paths."""
            if payload is None:
                return None
            files: Sequence[Any] = getattr(payload, "root", [payload])
            return [str(file.path) for file in files]
