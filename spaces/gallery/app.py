"""The gallery: every Space as a page, one queue and one model cache for all."""

import importlib.util
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import ModuleType

import gradio as gr

import artmodels
from artmodels import ui
from artmodels.ui.server.patches import build_routes_once
from artmodels.ui.server.pictures import picture_url

HERE = Path(__file__).parent
# Beside this folder in a checkout; inside the package where this one is a Space on the Hub.
PLACES = (HERE.parent, Path(artmodels.__file__).parent / "_spaces")


@dataclass(frozen=True)
class Card:
    """A method on the landing page; its folder, its page and its thumbnail have its id."""

    method: str
    title: str
    text: str
    source: str


CARDS = (
    Card(
        "fast_style",
        "Fast style",
        "A photograph repainted in the manner of a painting within moments, or many of them in one go.",
        "Johnson 2016, one small network for each painting",
    ),
    Card(
        "arbitrary_style",
        "Arbitrary style",
        "A photograph repainted in the manner of any picture that you upload, or of a blend of four, within moments.",
        "Ghiasi 2017, one small network for all styles",
    ),
    Card(
        "super_resolution",
        "Super-resolution",
        "A scan or a photograph two or four times as large: sharper than plain enlargement, and nothing invented.",
        "Wang 2021, small networks of our own",
    ),
    Card(
        "texture_synthesis",
        "Texture synthesis",
        "More of a material, at any size, from one picture of it: cloth, stone, wallpaper, brushwork.",
        "Gatys 2015, Gonthier 2022, nearest and sliced patches",
    ),
    Card(
        "texture_network",
        "Texture network",
        "Wood, gravel or sand without a picture of it: any size, any number of samples, without a seam.",
        "Ulyanov 2016, one small network for each texture",
    ),
    Card(
        "neural_style",
        "Neural style",
        "A picture repainted with the colours, strokes and grain of up to four others, each where you want it.",
        "Gatys 2016, with masks, colour control and several scales",
    ),
    Card(
        "mimax",
        "Find things",
        "Say of some pictures whether they show a thing, and see where it is in the whole collection.",
        "Gonthier 2018, MI-max on regions of our own",
    ),
    Card(
        "artminer",
        "Find a detail",
        "Draw a box around a detail, and see every picture that shows it too; or let the page find what repeats.",
        "Shen 2019, ArtMiner on features of our own",
    ),
    Card(
        "ransac_flow",
        "Align pictures",
        "A painting and its engraving, copy or X-ray, laid on each other pixel by pixel: swipe, and see what differs.",
        "Shen 2020, RANSAC-Flow on networks of our own",
    ),
)


def space(method: str) -> ModuleType:
    """Load a sibling Space by its path: on the Hub each is a repository of its own, not a package."""
    file = next(place / method / "app.py" for place in PLACES if (place / method / "app.py").is_file())
    spec = importlib.util.spec_from_file_location(f"gallery_{method}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} cannot be loaded: install artmodels again.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def card(item: Card) -> str:
    """Write one card."""
    return (
        f'<a href="{item.method}"><img src="{picture_url(HERE / f"{item.method}.jpg")}" alt="">'
        f"<h2>{escape(item.title)}</h2><p>{escape(item.text)}</p>"
        f'<p class="source">{escape(item.source)}</p></a>'
    )


with build_routes_once():
    # Loaded before any page is open, or their components would land on it.
    SPACES = {item.method: space(item.method) for item in CARDS}

    with ui.blocks("artmodels: a gallery of methods") as demo:
        gr.HTML(
            '<div class="gallery-head"><h1>A gallery of methods</h1><p>Computer vision for art, ready to use: choose a '
            "method, upload a picture, and take the result home with the settings and the seed that made it. "
            "Everything runs on this machine; pictures are deleted after an hour.</p></div>"
            f'<div class="cards">{"".join(map(card, CARDS))}</div>'
            "<p>Every page can be called from a program: see “Use via API” below. "
            '<a href="health">State of the server</a></p>',
            padding=False,
        )

    for item in CARDS:
        with demo.route(item.title, f"/{item.method}"):
            SPACES[item.method].demo.render()

demo.queue(**ui.QUEUE)
LAUNCH = ui.launch_options()

if __name__ == "__main__":
    demo.launch(**LAUNCH)
