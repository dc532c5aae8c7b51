"""Texture network: any amount of a learnt texture from a number alone, in one pass of a network."""

from collections.abc import Iterator

import gradio as gr
from PIL import Image

from artmodels import ui
from artmodels.hub.catalogue import Entry
from artmodels.images.results import ImageResult
from artmodels.ui.widgets.wall import TILE, tiles, wall

SHORTEST = 32  # px: below it, the grain of a seamless texture would shrink
MOST = 16  # textures of a batch
COPIES = 1600  # px: longest side of the picture of four copies


def make(texture: str, width: int, height: int, seamless: bool, seed: int) -> ImageResult:
    """Make one texture."""
    result: ImageResult = ui.MODELS(texture)(size=(height, width), seed=seed, tileable=seamless)
    return result


def texture_network_run(texture: str, width: int, height: int, seamless: bool, seed: int) -> Iterator[ui.Update]:
    """Make a texture that a network has learnt.

    Args:
        texture: Name of the model, as in the catalogue, such as "texture-network-wood".
        width: Of the result, in pixels.
        height: Of the result, in pixels.
        seamless: Whether copies of the result laid side by side show no seam.
        seed: The same seed and settings give the same picture.

    Returns:
        The picture (PNG), its settings, and the PNG file with the settings inside.
    """
    name = f"{texture}-{width}x{height}-seed{seed}"
    yield from ui.show_pass(lambda: make(texture, width, height, seamless, seed), name=name, second=four)


def texture_network_batch(
    texture: str, width: int, height: int, seamless: bool, seed: int, count: int
) -> Iterator[ui.Update]:
    """Make several different samples of a texture that a network has learnt.

    Args:
        texture: Name of the model, as in the catalogue, such as "texture-network-wood".
        width: Of the results, in pixels.
        height: Of the results, in pixels.
        seamless: Whether copies of a result laid side by side show no seam.
        seed: Of the first; the others have those that follow.
        count: How many.

    Returns:
        A ZIP file of the results (PNG, with the settings inside) and, for each, its settings.
    """
    seeds = {f"seed{number}.png": number for number in range(seed, seed + count)}

    def one(name: str) -> ImageResult:
        return make(texture, width, height, seamless, seeds[name])

    yield from ui.show_batch(one, list(seeds), name=texture)


def four(image: Image.Image) -> Image.Image:
    """Lay two by two copies side by side, reduced to what a page can show."""
    width, height = image.size
    copies = Image.new("RGB", (2 * width, 2 * height))
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        copies.paste(image, corner)
    copies.thumbnail((COPIES, COPIES), Image.Resampling.LANCZOS)
    return copies


def caption(entry: Entry) -> tuple[str, str]:
    """Part "wood (source)" into the title and where the picture that was learnt from comes from."""
    title, source = str(entry.config["texture"]).removesuffix(")").split(" (")
    return f"{title[0].upper()}{title[1:]}", f"learnt from one picture ({source})"


CHECKS = {
    "texture": ui.model_of("texture_network"),
    "width": ui.pixels("Width", SHORTEST, ui.LONGEST),
    "height": ui.pixels("Height", SHORTEST, ui.LONGEST),
    "seed": ui.whole_number("Seed", 0, ui.SEEDS),
    "count": ui.whole_number("Count", 1, MOST, "For more, run again with another seed."),
}

with ui.blocks("Texture network") as demo:
    gr.Markdown(
        "# Texture network\n"
        "Make any amount of a material, without a picture of it: each network here has learnt one texture from one "
        "picture, and makes another sample of it for each seed. The wall shows what each makes of the seed 0, not what "
        "it has learnt from."
    )
    blank = Image.new("RGB", (TILE, TILE), "#d9d2c5")
    with gr.Row():
        with ui.given_column():
            made = tiles("texture_network", caption, blank, lambda model, _: model(size=(TILE, TILE)))
            texture = wall("Texture", made)
            with gr.Row():
                info = f"{SHORTEST} to {ui.LONGEST} pixels"
                width = ui.number("Width", 512, info, min_width=120)
                height = ui.number("Height", 512, info, min_width=120)
            info = "Copies laid side by side will show no seam. Multiples of 32 pixels keep the true grain."
            seamless = gr.Checkbox(True, label="Seamless tile", info=info)
            seed = ui.number("Seed", 0, "Another number gives another sample of the same texture.")
        with ui.acting_column(), gr.Tabs():
            inputs = [texture, width, height, seamless, seed]
            with gr.Tab("One texture"):
                copies = gr.Image(
                    label="Two by two copies side by side", format="jpeg", interactive=False, height=480,
                    buttons=["fullscreen"], render=False,
                )  # fmt: skip
                ui.connect(texture_network_run, inputs, ui.results(steps=False, second=("Four copies", copies)), CHECKS)
            with gr.Tab("Several textures"):
                count = ui.number("Count", 4, f"1 to {MOST} samples: the first has the seed given.")
                ui.connect(texture_network_batch, [*inputs, count], ui.batch_results(), CHECKS)

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
