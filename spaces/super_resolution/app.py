"""Super-resolution: pictures two or four times as large, by a network that suits their condition."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from artmodels import ui
from artmodels.errors import ImageTooLarge, suggest
from artmodels.hub import catalogue
from artmodels.images.loading import LoadedImage
from artmodels.images.results import ImageResult
from artmodels.methods.super_resolution import SuperResolutionConfig, checkpoint_for, examine
from artmodels.methods.super_resolution.condition import WORN
from artmodels.runtime.devices import pick_device
from artmodels.ui.checks import Check
from artmodels.ui.server.components import Choice

LARGEST = 64_000_000 if pick_device().type == "cuda" else 16_000_000  # pixels of a result
LONGEST = 32_767  # px: side of a result; browsers show nothing longer
# The page itself chooses between these and their siblings that restore.
SCALES = {
    entry.name: SuperResolutionConfig(**dict[str, Any](entry.config)).scale
    for entry in catalogue.list_models("super_resolution")
    if not entry.name.endswith(WORN)
}
RESTORE = {
    "automatic": "If the picture looks worn",
    "always": "Always",
    "never": "Never: keep its grain, dots and blocks",
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


def restoring(model: str) -> str:
    """The name of the checkpoint that enlarges worn pictures as `model` does others; nothing if there is none."""
    return f"{model}{WORN}" if catalogue.find(f"{model}{WORN}") else ""


def suited(image: LoadedImage, model: str, restore: str, neutral: float) -> tuple[str, str]:
    """The name of the checkpoint for a picture, and a sentence that says what was seen and what follows."""
    if restore == "never":
        return model, ""
    if restore == "always":
        return restoring(model), ""
    condition = examine(image)
    name, faults = checkpoint_for(condition, SCALES[model]), ", ".join(condition.faults)
    if not faults:
        seen = f"It looks clean: {name} was taken."
    elif not condition.restorable:
        seen = f"It has {faults}: {name} was taken, since to take these off would take fine detail, too."
    elif name == model:
        seen = f"It looks worn ({faults}), but no weights for that enlarge as much: {model} was taken."
    else:
        seen = f"It looks worn ({faults}): {name} takes that off. Choose Never to keep grain and brush strokes."
    yellow = condition.yellowed and not neutral
    return name, seen + f" Its lightest part is yellow (b* {condition.yellow:.0f}), which is kept." * yellow


def enlarger(model: str, restore: str, neutral: float) -> Callable[[str], ImageResult]:
    """Return what enlarges a file."""

    def enlarge(path: str) -> ImageResult:
        image = ui.read(path, background=None)  # composited, colours of little alpha would be coarse
        if fault := too_large(image, model):
            raise ImageTooLarge(fault)
        name, seen = suited(image, model, restore, neutral)
        result: ImageResult = ui.MODELS(name)(image, neutral=neutral)
        return replace(result, notes=(*result.notes, seen)) if seen else result

    return enlarge


def super_resolution_run(photo: str, model: str, restore: str, neutral: float) -> Iterator[ui.Update]:
    """Enlarge a picture.

    Args:
        photo: Picture to enlarge: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000.
        model: Name of the model, as in the catalogue, such as "super-resolution-x2".
        restore: When its restoring sibling is taken instead: "automatic", "always" or "never".
        neutral: How much of the yellow of paper is taken off, from 0 to 1.

    Returns:
        The picture (PNG), its settings, and the PNG file with the settings inside.
    """
    yield from ui.show_pass(partial(enlarger(model, restore, neutral), photo), name=model, second=photo)


def super_resolution_batch(photos: list[str], model: str, restore: str, neutral: float) -> Iterator[ui.Update]:
    """Enlarge several pictures; what cannot be read is reported, the rest is done.

    Args:
        photos: Pictures to enlarge: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000.
        model: Name of the model, as in the catalogue, such as "super-resolution-x2".
        restore: When its restoring sibling is taken instead: "automatic", "always" or "never".
        neutral: How much of the yellow of paper is taken off, from 0 to 1.

    Returns:
        A ZIP file of the results (PNG, with the settings inside) and, for each file, its settings or its error.
    """
    yield from ui.show_batch(enlarger(model, restore, neutral), photos, name=model)


def small_enough(path: str | None, given: Mapping[str, Any]) -> str:
    """Check that there is a usable picture, and that its result is not too large."""
    fault = ui.picture("the picture to enlarge")(path, given)
    if fault or path is None or given["model"] not in SCALES:
        return fault
    return too_large(ui.read(path), given["model"])


def offered(name: str, _: Mapping[str, Any]) -> str:
    """Check that a model is one of those that the page offers."""
    return "" if name in SCALES else f"{name!r} is not one of {', '.join(SCALES)}.{suggest(str(name), SCALES)}"


def restores(chosen: str, given: Mapping[str, Any]) -> str:
    """Check that what is asked for is known, and that there are weights for it."""
    if chosen not in RESTORE:
        return f"{chosen!r} is not one of {', '.join(RESTORE)}."
    if chosen == "always" and given["model"] in SCALES and not restoring(given["model"]):
        return f"There are no weights that restore beside {given['model']}: choose automatic or never."
    return ""


def share(value: float | None, _: Mapping[str, Any]) -> str:
    """Check that a number is between 0 and 1."""
    return "" if value is not None and 0 <= value <= 1 else f"The share is {value}: give a number from 0 to 1."


CHECKS: dict[str, Check] = {
    "photo": small_enough,
    "photos": ui.file_list(ui.FILES),
    "model": offered,
    "restore": restores,
    "neutral": share,
}

with ui.blocks("Super-resolution") as demo:
    gr.Markdown(
        "# Super-resolution\n"
        "Enlarge a scan or a photograph. Transparency, grey, and 16 bits of grey are kept. The line above the result "
        "says what condition the picture is in, and what was therefore taken. The slider of the tab Compare shows what "
        "the network adds to plain enlargement."
    )
    limits = (
        f"{LARGEST / scale**2 / 1e6:g} for the picture if enlarged {scale} times"
        for scale in sorted(set(SCALES.values()))
    )
    info = f"The limit of this machine is {LARGEST / 1e6:g} megapixels for the result: {', '.join(limits)}."
    choices = [(entry.summary, entry.name) for entry in ui.models("super_resolution") if entry.name in SCALES]
    with gr.Row():
        with ui.given_column():
            with gr.Tabs():
                with gr.Tab("One picture") as one:
                    photo = ui.upload("Picture")
                    names = ("chelsea", "coffee", "page", "astronaut")
                    ui.examples([[ui.example_file(name, 240)] for name in names], [photo])
                with gr.Tab("Several pictures") as several:
                    photos = ui.upload_files(f"Pictures, up to {ui.FILES}")
            model = Choice(choices, value=choices[0][1], label="Model", elem_classes="stacked", info=info)
            with gr.Accordion("Worn scans and old paper", open=False):
                restore = Choice(
                    [(words, name) for name, words in RESTORE.items()],
                    value="automatic",
                    label="Restore",
                    info="Blur, noise, blocks of JPEG, dots of print; where there are weights for that.",
                    visible=any(map(restoring, SCALES)),
                )
                tone = "0 keeps all colours. What is brightest is taken for paper: leave a painting as it is."
                neutral = gr.Slider(0, 1, 0, step=0.1, label="Take off the yellow of old paper", info=tone)
            inputs = [model, restore, neutral]
        with ui.acting_column():
            with gr.Column() as first:
                panel = ui.results("Plain enlargement", steps=False)
                ui.connect(super_resolution_run, [photo, *inputs], panel, CHECKS)
            with gr.Column(visible=False) as second:
                ui.connect(super_resolution_batch, [photos, *inputs], ui.batch_results(), CHECKS)
    ui.one_or_several((one, several), (first, second))

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
