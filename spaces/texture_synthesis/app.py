"""Texture synthesis: more of a material, at any size, from one picture of it."""

from collections.abc import Iterator

import gradio as gr

from artmodels import ui


def texture_synthesis_run(
    exemplar: str,
    model: str,
    width: int,
    height: int,
    quality: str,
    seamless: bool,
    seed: int,
    seconds: float,
) -> Iterator[ui.Update]:
    """Synthesise more of a texture from one picture of it.

    Args:
        exemplar: Picture of the texture: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000, at least 16 pixels a side.
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
        synthesizer = ui.MODELS(model)
        yield from synthesizer.stream(
            ui.read(exemplar),
            size=(height, width),
            seed=seed,
            deadline=seconds,
            steps=round(synthesizer.config.steps * ui.QUALITIES[quality]),
            tileable=seamless,
        )

    yield from ui.show_steps(start, name=f"texture-{width}x{height}-seed{seed}", before=exemplar)


CHECKS = {
    "exemplar": ui.picture("a picture of the texture", smallest=16),
    "model": ui.model_of("texture_synthesis"),
    "width": ui.pixels("Width", 64, ui.LARGEST),
    "height": ui.pixels("Height", 64, ui.LARGEST),
    "seed": ui.whole_number("Seed", 0, ui.SEEDS),
}

with ui.blocks("Texture synthesis") as demo:
    gr.Markdown(
        "# Texture synthesis\n"
        "Give a picture of a material, such as cloth, stone, wallpaper or brushwork, and get more of it: any size, any "
        "proportions, new in every detail. Even light and one material work best."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            exemplar = ui.upload("Exemplar: a picture of the texture")
            materials = ("weave", "terrazzo", "bricks", "brick", "gravel", "grass")
            ui.examples([[ui.example_file(name)] for name in materials], [exemplar])
            model = ui.model_choice("texture_synthesis", "Method")
            with gr.Row():
                info = f"64 to {ui.LARGEST} pixels"
                width = ui.number("Width", 256, info, min_width=120)
                height = ui.number("Height", 256, info, min_width=120)
            quality = ui.quality()
            seamless = gr.Checkbox(False, label="Seamless tile", info="Copies laid side by side will show no seam.")
            with gr.Accordion("More", open=False):
                seed = ui.number("Seed", 0, "Another number gives another picture of the same texture.")
                seconds = ui.time_limit(120)
        with gr.Column(scale=3, min_width=320):
            inputs = [exemplar, model, width, height, quality, seamless, seed, seconds]
            ui.connect(texture_synthesis_run, inputs, ui.results("Exemplar"), CHECKS)

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
