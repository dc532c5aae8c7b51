"""Components of our own: the template, the style sheet and the script of each stand in `parts/`."""

from pathlib import Path
from typing import Any

import gradio as gr

__all__ = ["component", "html", "part"]


def part(name: str) -> str:
    """Read a template, a style sheet or a script."""
    return (Path(__file__).parent / "parts" / name).read_text(encoding="utf-8")


def component(name: str, value: Any = None, **options: Any) -> Any:
    """Add the component of `name.html`, `name.css` and `name.js`; the options are its own, or those of `gr.HTML`."""
    parts = {"html_template": f"{name}.html", "css_template": f"{name}.css", "js_on_load": f"{name}.js"}
    given: dict[str, Any] = {option: part(file) for option, file in parts.items() if option not in options}
    return gr.HTML(value, apply_default_css=False, **given, **options)


def html(style: str, value: str = "", *, name: str | None = None) -> Any:
    """Add a place for HTML that the server makes, with a style sheet of `parts/`, which reaches nothing else.

    The page's own style sheet finds it by its name.
    """
    css = part(f"{style}.css")
    return gr.HTML(value, css_template=css, js_on_load=None, apply_default_css=False, elem_classes=name)
