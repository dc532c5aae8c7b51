"""Super-resolution: pictures two or four times as wide and high, in one pass of a network."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import gradio as gr

from artmodels import ui
from artmodels.errors import ImageTooLarge
from artmodels.hub import catalogue
from artmodels.images.loading import LoadedImage
from artmodels.images.results import ImageResult
from artmodels.methods.super_resolution import SuperResolutionConfig
from artmodels.runtime.devices import pick_device

LARGEST = 64_000_000 if pick_device().type == "cuda" else 16_000_000  # pixels of a result
LONGEST = 32_767  # px: side of a result; browsers show nothing longer
SCALES = {
    entry.name: SuperResolutionConfig(**dict[str, Any](entry.config)).scale
    for entry in catalogue.list_models("super_resolution")
}


def too_large(image: LoadedImage, model: str) -> str:
    """Say why a picture cannot be enlarged here; nothing if it can."""
    scale = SCALES[model]
    width, height = image.width * scale, image.height * scale
    if width * height <= LARGEST and max(width, height) <= LONGEST:
        return ""
    return (
        f"This picture is {image.width} x {image.height} pixels, and {scale} times that is more than the "
        f"{LARGEST / 1e6:g} megapixels, or the {LONGEST} pixels a side, that this machine gives: give a picture of at "
        f"most {LARGEST / scale**2 / 1e6:g} megapixels and {LONGEST // scale} pixels a side, or a part."
    )


def enlarger(model: str) -> Callable[[str], ImageResult]:
    """Return what enlarges a file."""

    def enlarge(path: str) -> ImageResult:
        image = ui.read(path, background=None)  # composited, colours of little alpha would be coarse
        if fault := too_large(image, model):
            raise ImageTooLarge(fault)
        result: ImageResult = ui.MODELS(model)(image)
        return result

    return enlarge


def super_resolution_run(photo: str, model: str) -> Iterator[ui.Update]:
    """Enlarge a picture.

    Args:
        photo: Picture to enlarge: PNG, JPEG, WebP or TIFF.
        model: Name of the model, as in the catalogue, such as "super-resolution-x2".

    Returns:
        The picture (PNG), its settings, and the PNG file with the settings inside.
    """
    yield from ui.show_pass(partial(enlarger(model), photo), name=model, second=photo)


def super_resolution_batch(photos: list[str], model: str) -> Iterator[ui.Update]:
    """Enlarge several pictures; what cannot be read is reported, the rest is done.

    Args:
        photos: Pictures to enlarge: PNG, JPEG, WebP or TIFF.
        model: Name of the model, as in the catalogue, such as "super-resolution-x2".

    Returns:
        A ZIP file of the results (PNG, with the settings inside) and, for each file, its settings or its error.
    """
    yield from ui.show_batch(enlarger(model), photos, name=model)


def small_enough(path: str | None, given: Mapping[str, Any]) -> str:
    """Check that there is a usable picture, and that its result is not too large."""
    fault = ui.picture("the picture to enlarge")(path, given)
    if fault or path is None or given["model"] not in SCALES:
        return fault
    return too_large(ui.read(path), given["model"])


CHECKS = {
    "photo": small_enough,
    "photos": ui.file_list(ui.FILES),
    "model": ui.model_of("super_resolution"),
}

with ui.blocks("Super-resolution") as demo:
    gr.Markdown(
        "# Super-resolution\n"
        "Enlarge a scan or a photograph. Transparency, grey, and 16 bits of grey are kept. The slider of the tab "
        "Compare shows what the network adds to plain enlargement."
    )
    limits = (
        f"{LARGEST / scale**2 / 1e6:g} for the picture if enlarged {scale} times"
        for scale in sorted(set(SCALES.values()))
    )
    info = f"The limit of this machine is {LARGEST / 1e6:g} megapixels for the result: {', '.join(limits)}."
    model = ui.model_choice("super_resolution", "Model", info=info)
    with gr.Tabs():
        with gr.Tab("One picture"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                photo = ui.upload("Picture")
                names = ("chelsea", "coffee", "page", "astronaut")
                ui.examples([[ui.example_file(name, 240)] for name in names], [photo])
            with gr.Column(scale=3, min_width=320):
                ui.connect(super_resolution_run, [photo, model], ui.results("Plain enlargement", steps=False), CHECKS)
        with gr.Tab("Several pictures"), gr.Row():
            with gr.Column(scale=2, min_width=320):
                photos = ui.upload_files(f"Pictures, up to {ui.FILES}")
            with gr.Column(scale=3, min_width=320):
                ui.connect(super_resolution_batch, [photos, model], ui.batch_results(), CHECKS)

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
