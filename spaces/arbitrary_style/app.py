"""Arbitrary style: a photograph repainted in the manner of any other picture, in one pass."""

from collections.abc import Callable, Iterator
from functools import partial

import gradio as gr

from artmodels import ui
from artmodels.hub import catalogue
from artmodels.images.results import ImageResult

COLOURS = {
    "From the style": "none",
    "Keep the photograph's colours": "luminance",
    "Style recoloured like the photograph": "transfer",
}
STYLES = 4
MODEL = catalogue.default("arbitrary_style").name

Slots = tuple[tuple[str | None, float], ...]


def painter(slots: Slots, strength: float, colour: str, style_size: int, size: int) -> Callable[[str], ImageResult]:
    """Return what repaints a file in the manner of the styles that were given."""
    given = [(path, weight) for path, weight in slots if path is not None]
    weights = [weight for _, weight in given]

    def run(path: str) -> ImageResult:
        styles = [ui.read(style) for style, _ in given]
        options = {"style_weights": weights, "strength": strength, "colour": colour, "style_size": style_size}
        return ui.at_size(partial(ui.MODELS(MODEL), styles=styles), ui.read(path), size, **options)

    return run


def arbitrary_style_run(
    photo: str,
    style_1: str,
    strength: float = 1.0,
    colour: str = "none",
    style_size: int = 256,
    size: int = 0,
    weight_1: float = 1.0,
    style_2: str | None = None,
    weight_2: float = 1.0,
    style_3: str | None = None,
    weight_3: float = 1.0,
    style_4: str | None = None,
    weight_4: float = 1.0,
) -> Iterator[ui.Update]:
    """Repaint a picture in the manner of another, or of a blend of up to four.

    Args:
        photo: Picture to repaint: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000, at least 8 pixels a side.
        style_1: Picture to take the style from.
        strength: 1 is the style, 0 the picture's own.
        colour: "none" takes the style's colours, "luminance" keeps the picture's, "transfer" recolours the style first.
        style_size: Size in pixels at which styles are looked at, 32 to 1024: larger gives broader strokes.
        size: Longest side of the result, in pixels; 0 is the picture's own.
        weight_1: Share of the first style.
        style_2: A second style, or nothing.
        weight_2: Its share.
        style_3: A third style, or nothing.
        weight_3: Its share.
        style_4: A fourth style, or nothing.
        weight_4: Its share.

    Returns:
        The picture (PNG), its settings, and the PNG file with the settings inside.
    """
    slots = ((style_1, weight_1), (style_2, weight_2), (style_3, weight_3), (style_4, weight_4))
    run = painter(slots, strength, colour, style_size, size)
    yield from ui.show_pass(partial(run, photo), name="arbitrary-style", second=photo)


def arbitrary_style_batch(
    photos: list[str],
    style_1: str,
    strength: float = 1.0,
    colour: str = "none",
    style_size: int = 256,
    size: int = 0,
    weight_1: float = 1.0,
    style_2: str | None = None,
    weight_2: float = 1.0,
    style_3: str | None = None,
    weight_3: float = 1.0,
    style_4: str | None = None,
    weight_4: float = 1.0,
) -> Iterator[ui.Update]:
    """Repaint several pictures in one manner; what cannot be read is reported, the rest is done.

    Args:
        photos: Pictures to repaint: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000, at least 8 pixels a side.
        style_1: Picture to take the style from.
        strength: 1 is the style, 0 each picture's own.
        colour: "none" takes the style's colours, "luminance" keeps the picture's, "transfer" recolours the style first.
        style_size: Size in pixels at which styles are looked at, 32 to 1024: larger gives broader strokes.
        size: Longest side of the results, in pixels; 0 is each picture's own.
        weight_1: Share of the first style.
        style_2: A second style, or nothing.
        weight_2: Its share.
        style_3: A third style, or nothing.
        weight_3: Its share.
        style_4: A fourth style, or nothing.
        weight_4: Its share.

    Returns:
        A ZIP file of the results (PNG, with the settings inside) and, for each file, its settings or its error.
    """
    slots = ((style_1, weight_1), (style_2, weight_2), (style_3, weight_3), (style_4, weight_4))
    yield from ui.show_batch(painter(slots, strength, colour, style_size, size), photos, name="arbitrary-style")


CHECKS = {
    "photo": ui.picture("the picture to repaint", smallest=8),
    "photos": ui.file_list(ui.FILES),
    "style_1": ui.picture("a picture to take the style from", smallest=8),
    "style_size": ui.whole_number("Stroke size", 32, 1024),
    "size": ui.pixels("Longest side", 64, ui.LONGEST, or_zero=True),
    **{f"style_{i}": ui.picture("a style", smallest=8, optional=True) for i in range(2, STYLES + 1)},
}
PAIRS = (("chelsea", "marbling"), ("rocket", "terrazzo"), ("astronaut", "weave"), ("coffee", "bricks"))

with ui.blocks("Arbitrary style") as demo:
    gr.Markdown(
        "# Arbitrary style\n"
        "Repaint a photograph in the manner of any other picture, in one pass. Blend up to four styles, and set how "
        "strong they are and how broad their strokes."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=320) as left:
            style = ui.upload("Style", height=220)
            strength = gr.Slider(0, 1, 1, step=0.05, label="Style strength", info="0: nearly the photograph itself.")
            colour = gr.Dropdown(list(COLOURS.items()), value="none", label="Colours")
            style_size = ui.number("Stroke size", 256, "32 to 1024: larger gives broader strokes.")
            size = ui.number("Longest side", 0, f"64 to {ui.LONGEST} pixels, or 0: the picture's own.")
            slots = []
            with gr.Accordion("More styles", open=False):
                for i in range(1, STYLES + 1):
                    picked = [ui.upload(f"Style {i}", height=170)] if i > 1 else []
                    slots += [*picked, gr.Slider(0.1, 5, 1, step=0.1, label=f"Weight of style {i}")]
            controls = [style, strength, colour, style_size, size, *slots]
        with gr.Column(scale=3, min_width=320), gr.Tabs():
            with gr.Tab("One picture"):
                photo = ui.upload("Photograph", height=220)
                ui.connect(arbitrary_style_run, [photo, *controls], ui.results("Photograph", steps=False), CHECKS)
            with gr.Tab("Several pictures"):
                photos = ui.upload_files(f"Photographs, up to {ui.FILES}")
                ui.connect(arbitrary_style_batch, [photos, *controls], ui.batch_results(), CHECKS)
    with left:
        ui.examples([[*map(ui.example_file, pair)] for pair in PAIRS], [photo, style])

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
