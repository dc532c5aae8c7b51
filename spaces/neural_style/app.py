"""Neural style: a picture repainted in the manner of up to four others."""

from collections.abc import Iterator

import gradio as gr

from artmodels import ui

COLOURS = {
    "From the style": "none",
    "Keep the content's colours": "luminance",
    "Style recoloured like the content": "transfer",
    "Style matched to the content's histogram": "histogram",
}
STYLES = 4


def neural_style_run(
    content: str,
    style_1: str,
    model: str,
    size: int,
    quality: str,
    strength: float,
    smoothness: float,
    colour: str,
    seed: int,
    seconds: float,
    weight_1: float,
    mask_1: str | None = None,
    style_2: str | None = None,
    weight_2: float = 1.0,
    mask_2: str | None = None,
    style_3: str | None = None,
    weight_3: float = 1.0,
    mask_3: str | None = None,
    style_4: str | None = None,
    weight_4: float = 1.0,
    mask_4: str | None = None,
) -> Iterator[ui.Update]:
    """Repaint a picture in the style of up to four others.

    Args:
        content: Picture to repaint: PNG, JPEG, WebP, TIFF, HEIC, AVIF or JPEG 2000.
        style_1: Picture to take the style from.
        model: Name of the method, as in the catalogue, such as "style-random-filters".
        size: Longest side of the result, in pixels.
        quality: "Draft", "Normal" or "Fine": how many steps to take.
        strength: How much style, against how much content: 1 is the method's own balance.
        smoothness: Higher is smoother: 1 is the method's own.
        colour: "none", "luminance", "transfer" or "histogram": where the colours come from.
        seed: The same seed and settings give the same picture.
        seconds: Stop there with the best result so far.
        weight_1: Share of the first style.
        mask_1: Where the first style goes: a picture of the content's size, white there, black elsewhere.
        style_2: A second style, or nothing.
        weight_2: Its share.
        mask_2: Its place.
        style_3: A third style, or nothing.
        weight_3: Its share.
        mask_3: Its place.
        style_4: A fourth style, or nothing.
        weight_4: Its share.
        mask_4: Its place.

    Returns:
        The picture (PNG), its settings, and the PNG file with the settings inside.
    """
    styles, weights = (style_1, style_2, style_3, style_4), (weight_1, weight_2, weight_3, weight_4)
    places = (mask_1, mask_2, mask_3, mask_4)
    slots = [
        (style, weight, mask) for style, weight, mask in zip(styles, weights, places, strict=True) if style is not None
    ]

    def start() -> Iterator[object]:
        image = ui.read(content)
        styler = ui.MODELS(model)
        ratio = size / max(image.height, image.width)
        masks = [mask and ui.read(mask) for _, _, mask in slots]
        yield from styler.stream(
            image,
            [ui.read(style) for style, _, _ in slots],
            style_weights=[weight for _, weight, _ in slots],
            masks=masks if any(masks) else None,
            size=(max(1, round(image.height * ratio)), max(1, round(image.width * ratio))),
            seed=seed,
            deadline=seconds,
            steps=round(styler.config.steps * ui.QUALITIES[quality]),
            style_weight=styler.config.style_weight * strength,
            tv_weight=styler.config.tv_weight * smoothness,
            colour=colour,
        )

    yield from ui.show_steps(start, name=f"styled-seed{seed}", before=content)


MASK_ADVICE = "Paint the mask over a copy of the content, white where the style goes, and keep its size."
CHECKS = {
    "content": ui.picture("the picture to repaint", smallest=16),
    "model": ui.model_of("neural_style"),
    "style_1": ui.picture("a picture to take the style from", smallest=16),
    "size": ui.pixels("Longest side", 64, ui.LARGEST),
    "seed": ui.whole_number("Seed", 0, ui.SEEDS),
    **{f"style_{i}": ui.picture("a style", smallest=16, optional=True) for i in range(2, STYLES + 1)},
    **{f"mask_{i}": ui.same_size_as("content", MASK_ADVICE) for i in range(1, STYLES + 1)},
}
PAIRS = (("chelsea", "marbling"), ("rocket", "terrazzo"), ("astronaut", "weave"), ("coffee", "bricks"))

with ui.blocks("Neural style") as demo:
    gr.Markdown(
        "# Neural style\n"
        "Repaint one picture in the manner of another: its colours, strokes and grain, laid over your composition. Mix "
        "up to four styles, and give each a place with a mask."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                content = ui.upload("Content", height=220, min_width=120)
                style = ui.upload("Style", height=220, min_width=120)
            ui.examples([[*map(ui.example_file, pair)] for pair in PAIRS], [content, style])
            model = ui.model_choice("neural_style", "Method")
            strength = gr.Slider(
                0.1, 10, 1, step=0.1, label="Style strength", info="Higher: more style, less of the content."
            )
            colour = gr.Dropdown(list(COLOURS.items()), value="none", label="Colours")
            size = ui.number("Longest side", 384, f"64 to {ui.LARGEST} pixels")
            quality = ui.quality()
            slots = []
            with gr.Accordion("More styles, weights and masks", open=False):
                gr.Markdown(
                    "A mask is a picture of the content's size: white where its style goes, black elsewhere. "
                    "A style without a mask goes everywhere."
                )
                for i in range(1, STYLES + 1):
                    with gr.Row():
                        picked = [ui.upload(f"Style {i}", height=170, min_width=120)] if i > 1 else []
                        mask = ui.upload(f"Mask of style {i}", height=170, min_width=120)
                    weight = gr.Slider(0.1, 5, 1, step=0.1, label=f"Weight of style {i}")
                    slots += [*picked, weight, mask]
            with gr.Accordion("More", open=False):
                smoothness = gr.Slider(
                    0, 10, 1, step=0.1, label="Smoothness", info="Higher removes grain, and detail with it."
                )
                seed = ui.number("Seed", 0, "The same seed gives the same picture.")
                seconds = ui.time_limit(180)
        with gr.Column(scale=3, min_width=320):
            inputs = [content, style, model, size, quality, strength, smoothness, colour, seed, seconds, *slots]
            ui.connect(neural_style_run, inputs, ui.results("Content"), CHECKS)

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**ui.launch_options())
