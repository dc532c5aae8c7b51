"""Texture network: any amount of a learnt texture from a number alone, in one pass of a network."""

import logging
from collections.abc import Iterator

import gradio as gr
from PIL import Image

from artmodels import ui
from artmodels.errors import ArtModelsError
from artmodels.hub.catalogue import Entry
from artmodels.images.results import ImageResult
from artmodels.ui.batches import LONGEST, TILE, Tile, batch, batch_results, wall
from artmodels.ui.checks import model_of, whole_number
from artmodels.ui.controls import MODELS, SEEDS, Panel, Update, explained, models, run_folder, told
from artmodels.ui.look import launch_options

SHORTEST = 32  # px: below it, the grain of a seamless texture would shrink
MOST = 16  # textures of a batch
COPIES = 1600  # px: longest side of the picture of four copies

_log = logging.getLogger(__name__)


def make(texture: str, width: int, height: int, seamless: bool, seed: int) -> ImageResult:
    """Make one texture."""
    return MODELS(texture)(size=(height, width), seed=seed, tileable=seamless)


def texture_network_run(texture: str, width: int, height: int, seamless: bool, seed: int) -> Iterator[Update]:
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

    def updates() -> Iterator[Update]:
        yield None, None, gr.update(value=None, interactive=False), None, "Working…"
        result = make(texture, width, height, seamless, seed)
        folder = run_folder()
        file, copies = folder / f"{texture}-{width}x{height}-seed{seed}.png", folder / "copies.jpg"
        result.save(file)
        four(result.image).save(copies, quality=90)
        status = f"**Finished after {result.seconds:.1f} s, {width} x {height} pixels.**"
        download = gr.update(value=str(file), interactive=True)
        yield str(file), result.settings, download, str(copies), "  \n".join([status, *result.notes])

    yield from explained(updates(), outputs=5)


def texture_network_batch(
    texture: str, width: int, height: int, seamless: bool, seed: int, count: int
) -> Iterator[Update]:
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
    seeds = {f"seed{each}.png": each for each in range(seed, seed + count)}
    yield from batch(lambda name: make(texture, width, height, seamless, seeds[name]), list(seeds), name=texture)


def four(image: Image.Image) -> Image.Image:
    """Lay two by two copies side by side, reduced to what a page can show."""
    width, height = image.size
    copies = Image.new("RGB", (2 * width, 2 * height))
    for corner in ((0, 0), (width, 0), (0, height), (width, height)):
        copies.paste(image, corner)
    copies.thumbnail((COPIES, COPIES), Image.Resampling.LANCZOS)
    return copies


def sample(entry: Entry) -> Tile:
    """Show what a network makes of the seed 0, beside the name and the source of what it has learnt."""
    picture = Image.new("RGB", (TILE, TILE), "#d9d2c5")
    try:
        picture = make(entry.name, TILE, TILE, True, 0).image
    except ArtModelsError as error:  # whoever chooses it is told; the others are not kept from opening
        _log.warning("no tile for %s: %s", entry.name, error)
    title, source = str(entry.config["texture"]).removesuffix(")").split(" (")
    return Tile(
        value=entry.name,
        title=f"{title[0].upper()}{title[1:]}",
        text=f"learnt from one picture ({source})",
        picture=picture,
    )


def results() -> Panel:
    """Add the button, and what shows the texture, its copies side by side, and its settings."""
    run = gr.Button("Run", variant="primary", size="lg", min_width=120)
    status, made = told()
    with gr.Tabs(elem_classes="results"):
        with gr.Tab("Result"):
            image = gr.Image(label="Result", format="png", interactive=False, height=480, buttons=["fullscreen"])
        with gr.Tab("Four copies"):
            copies = gr.Image(
                label="Two by two copies side by side",
                format="jpeg",
                interactive=False,
                height=480,
                buttons=["fullscreen"],
            )
        with gr.Tab("Settings"):
            settings = gr.JSON(label="Settings: enough to repeat the result", buttons=["copy"])
    download = gr.DownloadButton("Download PNG", interactive=False, elem_classes="download", size="lg")
    return Panel(run=run, outputs=(image, settings, download, copies, status), public=3, made=made, lane="passes")


ADVICE = f"The limit of this machine is {LONGEST} pixels a side."
CHECKS = {
    "texture": model_of("texture_network"),
    "width": whole_number("Width", SHORTEST, LONGEST, ADVICE),
    "height": whole_number("Height", SHORTEST, LONGEST, ADVICE),
    "seed": whole_number("Seed", 0, SEEDS, ""),
}

with ui.blocks("Texture network") as demo:
    gr.Markdown(
        "# Texture network\n"
        "Make any amount of a material, without a picture of it: each network here has learnt one texture from one "
        "picture, and makes another sample of it for each seed. The wall shows what each makes of the seed 0, not what "
        "it has learnt from."
    )
    texture = wall("Texture", [sample(entry) for entry in models("texture_network")])
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                info = f"{SHORTEST} to {LONGEST} pixels"
                width = gr.Number(512, label="Width", info=info, precision=0, min_width=120)
                height = gr.Number(512, label="Height", info=info, precision=0, min_width=120)
            seamless = gr.Checkbox(
                True,
                label="Seamless tile",
                info="Copies laid side by side will show no seam. Multiples of 32 pixels keep the true grain.",
            )
            seed = gr.Number(
                0, label="Seed", info="Another number gives another sample of the same texture.", precision=0
            )
        with gr.Column(scale=3, min_width=320), gr.Tabs():
            inputs = [texture, width, height, seamless, seed]
            with gr.Tab("One texture"):
                ui.connect(texture_network_run, inputs, results(), CHECKS)
            with gr.Tab("Several textures"):
                count = gr.Number(
                    4, label="Count", info=f"1 to {MOST} samples: the first has the seed given.", precision=0
                )
                panel = batch_results()
                checks = CHECKS | {"count": whole_number("Count", 1, MOST, "For more, run again with another seed.")}
                ui.connect(texture_network_batch, [*inputs, count], panel, checks)

LAUNCH = launch_options()

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**LAUNCH)
