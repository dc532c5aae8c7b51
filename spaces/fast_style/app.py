"""Fast style: a photograph repainted in the manner of one painting, in one pass of a network."""

from collections.abc import Callable, Iterator
from functools import partial

import gradio as gr

from artmodels import ui
from artmodels.hub.catalogue import Entry
from artmodels.images.examples import example
from artmodels.images.results import ImageResult
from artmodels.ui.widgets.wall import tiles, wall


def painter(style: str, strength: float, size: int) -> Callable[[str], ImageResult]:
    """Return what repaints a file."""
    return lambda path: ui.at_size(ui.MODELS(style), ui.read(path), size, strength=strength)


def fast_style_run(photo: str, style: str, strength: float, size: int = 0) -> Iterator[ui.Update]:
    """Repaint a picture in the manner of one painting.

    Args:
        photo: Picture to repaint: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000, at least 8 pixels a side.
        style: Name of the model, as in the catalogue, such as "fast-style-starry-night".
        strength: 1 is all style, 0 the picture itself.
        size: Longest side of the result, in pixels; 0 is the picture's own.

    Returns:
        The picture (PNG), its settings, and the PNG file with the settings inside.
    """
    yield from ui.show_pass(partial(painter(style, strength, size), photo), name=style, second=photo)


def fast_style_batch(photos: list[str], style: str, strength: float, size: int = 0) -> Iterator[ui.Update]:
    """Repaint several pictures in the manner of one painting; what cannot be read is reported, the rest is done.

    Args:
        photos: Pictures to repaint: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000, at least 8 pixels a side.
        style: Name of the model, as in the catalogue, such as "fast-style-starry-night".
        strength: 1 is all style, 0 the pictures themselves.
        size: Longest side of the results, in pixels; 0 is each picture's own.

    Returns:
        A ZIP file of the results (PNG, with the settings inside) and, for each file, its settings or its error.
    """
    yield from ui.show_batch(painter(style, strength, size), photos, name=style)


def caption(entry: Entry) -> tuple[str, str]:
    """Part "title, artist, year" into the title and the rest."""
    title, artist, year = str(entry.config["style"]).rsplit(", ", 2)
    return title, f"{artist[0].upper()}{artist[1:]}, {year}"


CHECKS = {
    "photo": ui.picture("the picture to repaint", smallest=8),
    "photos": ui.file_list(ui.FILES),
    "style": ui.model_of("fast_style"),
    "size": ui.pixels("Longest side", 64, ui.LONGEST, or_zero=True),
}

with ui.blocks("Fast style") as demo:
    gr.Markdown(
        "# Fast style\n"
        "Repaint a photograph in the manner of a painting, in one pass of a network that has learnt it. The wall "
        "shows what each makes of the same photograph."
    )
    style = wall("Painting", tiles("fast_style", caption, example("chelsea")))
    with gr.Row():
        strength = gr.Slider(0, 1, 1, step=0.05, label="Style strength", info="1: all style. 0: the picture itself.")
        info = f"64 to {ui.LONGEST} pixels, or 0: the picture's own. Smaller pictures get broader strokes."
        size = ui.number("Longest side", 0, info)
    with gr.Tabs():
        with gr.Tab("One picture"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                photo = ui.upload("Photograph")
                names = ("astronaut", "coffee", "rocket", "chelsea")
                ui.examples([[ui.example_file(name)] for name in names], [photo])
            with gr.Column(scale=3, min_width=320):
                panel = ui.results("Photograph", steps=False)
                ui.connect(fast_style_run, [photo, style, strength, size], panel, CHECKS)
        with gr.Tab("Several pictures"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                photos = ui.upload_files(f"Photographs, up to {ui.FILES}")
            with gr.Column(scale=3, min_width=320):
                ui.connect(fast_style_batch, [photos, style, strength, size], ui.batch_results(), CHECKS)

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
