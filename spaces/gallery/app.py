"""The gallery: every Space as a page, one queue and one model cache for all."""

import runpy
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

import artmodels
from artmodels import ui
from artmodels.hub import catalogue
from artmodels.ui.server.patches import build_routes_once
from artmodels.ui.server.pictures import picture_url

HERE = Path(__file__).parent
# Beside this folder in a checkout; inside the package where this one is a Space on the Hub.
PLACES = (HERE.parent, Path(artmodels.__file__).parent / "_spaces")


def space(method: str) -> dict[str, Any]:
    """Run the file of a sibling Space, and give its names: on the Hub a Space is a repository, not a package."""
    file = next(place / method / "app.py" for place in PLACES if (place / method / "app.py").is_file())
    return runpy.run_path(str(file), run_name=f"gallery_{method}")


def card(method: catalogue.Method) -> str:
    """Write the card of a method, which leads to its page; the page and the thumbnail have the method's id."""
    return (
        f'<a href="{method.id}"><img src="{picture_url(HERE / f"{method.id}.jpg")}" alt="">'
        f"<h2>{escape(method.title)}</h2><p>{escape(method.text)}</p>"
        f'<p class="source">{escape(method.source)}</p></a>'
    )


METHODS = catalogue.methods()

with build_routes_once():
    # Loaded before any page is open, or their components would land on it.
    SPACES = {method.id: space(method.id) for method in METHODS}

    with ui.blocks("artmodels: a gallery of methods") as demo:
        gr.HTML(
            '<div class="gallery-head"><h1>A gallery of methods</h1><p>Computer vision for art, ready to use: choose a '
            "method, upload a picture, and take the result home with the settings and the seed that made it. "
            "Everything runs on this machine; pictures are deleted after an hour.</p></div>"
            f'<div class="cards">{"".join(map(card, METHODS))}</div>'
            "<p>Every page can be called from a program: see “Use via API” below. "
            '<a href="health">State of the server</a></p>',
            padding=False,
        )

    for method in METHODS:
        with demo.route(method.title, f"/{method.id}"):
            SPACES[method.id]["demo"].render()

demo.queue(**ui.QUEUE)
if __name__ == "__main__":
    demo.launch(**ui.launch_options())
