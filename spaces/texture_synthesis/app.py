"""Texture synthesis: more of a material, at any size, from one picture of it."""

from collections.abc import Iterator

import gradio as gr

from artmodels import ui
from artmodels.ui.checks import picture, read, whole_number
from artmodels.ui.controls import LARGEST, MODELS, SEEDS, Update
from artmodels.ui.look import launch_options

QUALITIES = {"Draft": 0.3, "Normal": 1.0, "Fine": 2.5}  # times the method's own number of steps
SIZE_ADVICE = f"The limit of this machine is {LARGEST} pixels a side."


def texture_synthesis_run(
    exemplar: str,
    model: str,
    width: int,
    height: int,
    quality: str,
    seamless: bool,
    seed: int,
    seconds: float,
) -> Iterator[Update]:
    """Synthesise more of a texture from one picture of it.

    Args:
        exemplar: Picture of the texture: PNG, JPEG, WebP or TIFF, at least 16 pixels a side.
        model: Name of the method, as in the catalogue, such as "texture-patches".
        width: Of the result, in pixels.
        height: Of the result, in pixels.
        quality: "Draft", "Normal" or "Fine": how many steps to take.
        seamless: Whether copies of the result laid side by side show no seam.
        seed: The same seed and settings give the same picture.
        seconds: Stop there with the best result so far.

    Returns:
        The picture (PNG), its settings, and the PNG file with the settings inside.
    """

    def start() -> Iterator[object]:
        synthesizer = MODELS(model)
        return synthesizer.stream(
            read(exemplar),
            size=(height, width),
            seed=seed,
            deadline=seconds,
            steps=round(synthesizer.config.steps * QUALITIES[quality]),
            tileable=seamless,
        )

    yield from ui.follow(start, name=f"texture-{width}x{height}-seed{seed}", before=exemplar)


CHECKS = {
    "exemplar": picture("a picture of the texture", smallest=16),
    "width": whole_number("Width", 64, LARGEST, SIZE_ADVICE),
    "height": whole_number("Height", 64, LARGEST, SIZE_ADVICE),
    "seed": whole_number("Seed", 0, SEEDS, ""),
}

with ui.blocks("Texture synthesis") as demo:
    gr.Markdown(
        "# Texture synthesis\n"
        "Give a picture of a material, such as cloth, stone, wallpaper or brushwork, and get more of it: any size, any "
        "proportions, new in every detail. Even light and one material work best."
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            exemplar = ui.upload("Exemplar: a picture of the texture")
            gr.Examples(
                [[ui.example_file(name)] for name in ("weave", "terrazzo", "bricks", "brick", "gravel", "grass")],
                exemplar,
                label="Examples",
                cache_examples=False,
                api_visibility="private",
            )
            choices = ui.model_choices("texture_synthesis")
            model = gr.Radio(choices, value=choices[0][1], label="Method", elem_classes="stacked")
            with gr.Row():
                width = gr.Number(256, label="Width", info=f"64 to {LARGEST} pixels", precision=0, min_width=120)
                height = gr.Number(256, label="Height", info=f"64 to {LARGEST} pixels", precision=0, min_width=120)
            quality = gr.Radio(
                list(QUALITIES), value="Normal", label="Quality", info="Finer takes longer: try a draft first."
            )
            seamless = gr.Checkbox(False, label="Seamless tile", info="Copies laid side by side will show no seam.")
            with gr.Accordion("More", open=False):
                seed = gr.Number(
                    0, label="Seed", info="Another number gives another picture of the same texture.", precision=0
                )
                seconds = gr.Slider(
                    5, 600, 120, step=5, label="Time limit in seconds", info="Then the best so far is kept."
                )
        with gr.Column(scale=3, min_width=320):
            panel = ui.results("Exemplar")
            inputs = [exemplar, model, width, height, quality, seamless, seed, seconds]
            ui.connect(texture_synthesis_run, inputs, panel, CHECKS)

LAUNCH = launch_options()

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**LAUNCH)
