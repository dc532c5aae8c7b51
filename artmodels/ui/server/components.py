"""Components that hand on what was sent as it is: gradio would open it, or refuse it, before our checks see it."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from artmodels.ui.server.patches import without_stub_files

__all__ = ["Choice", "Files", "Picture"]

with without_stub_files():

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

    class Choice(gr.Radio):
        """Radio buttons that leave a wrong value to our checks; gradio would answer it with "400 Bad Request"."""

        is_template = True

        def preprocess(self, payload: Any) -> Any:
            """Give what was sent."""
            return payload
