"""Bring a picture onto another of the same thing, see how they differ, and take the alignment home as data."""

from pathlib import Path

import gradio as gr

from artmodels import ui
from artmodels.ui.batches import upload_files
from artmodels.ui.controls import beside
from artmodels.ui.events import on, working
from artmodels.ui.look import launch_options
from artmodels.ui.widgets import viewers

HERE = Path(__file__).parent
INTRODUCTION = (
    "# Align two pictures\n"
    "A painting and its engraving, a copy, an X-ray, an old photograph: give two pictures of the same thing, and the "
    "one is brought onto the other, pixel by pixel. Swipe between them, click a place to see its match, see what "
    "differs, and take the alignment home as data. Mirror images and quarter turns are recognised."
)
FILES = {
    "png": (
        "Picture (PNG)",
        "the source as the target shows it, at the target's full size, with the settings inside.",
    ),
    "npz": (
        "Flow (NPZ)",
        "for NumPy: the flow of every pixel, where the source reaches, matchability, error there and back, and the "
        "homographies.",
    ),
    "gif": ("Flicker (GIF)", "both by turns, at most 1000 pixels a side."),
    "mp4": ("Flicker (MP4)", "the same as a film."),
    "json": (
        "Matches (JSON)",
        "score, homographies, correspondences on a lattice, the points that you clicked, and the settings.",
    ),
}
# The buttons stand beside the fields, not beside their labels; all tabs fit on a telephone.
STYLE = """
.typed { align-items: end; }
.typed button { flex: 0 1 140px; }
@media (max-width: 640px) { .aligned .tab-container button { padding: .5rem .5rem !important; } }
"""


aligning, grouping = (beside(__file__, name, space="ransac_flow") for name in ("aligning", "grouping"))
handlers, programs = (beside(__file__, name, space="ransac_flow") for name in ("handlers", "programs"))


with ui.blocks("Align two pictures") as demo:
    gr.Markdown(INTRODUCTION)
    state = gr.State(None, time_to_live=3600)
    with gr.Tabs():
        with gr.Tab("Two pictures"):
            with gr.Row(equal_height=False):
                source = ui.upload("Source: the picture that is moved", min_width=280)
                target = ui.upload("Target: the picture it is brought onto", min_width=280)
            samples = viewers.choices(handlers.tiles())
            run = gr.Button("Align", variant="primary", size="lg")
            status = gr.Markdown("Nothing has been aligned yet.", elem_classes="status")
            with gr.Column(visible=False, elem_classes="aligned") as results:
                stage = gr.Radio(
                    list(handlers.STAGES.items()), value="fine", label="Show the source as it was moved",
                    info="For the eye and the PNG file; points, maps and the other files are of the fine stage.",
                )  # fmt: skip
                with gr.Tabs():
                    with gr.Tab("Swipe"):
                        slider = gr.ImageSlider(
                            label="Target | source", interactive=False, max_height=560, buttons=["fullscreen"]
                        )
                    with gr.Tab("Overlay"):
                        overlay = viewers.overlay()
                    with gr.Tab("Points"):
                        points = viewers.points()
                        with gr.Row(elem_classes="typed"):
                            place = [gr.Number(None, label=f"Target {name}", min_width=90) for name in "xy"]
                            look = gr.Button("Look up", min_width=100)
                            clear = gr.Button("Clear", min_width=100)
                        table = viewers.html(viewers.TABLE_STYLE, viewers.NO_POINTS)
                    with gr.Tab("Maps"):
                        maps = viewers.html(viewers.FIGURES_STYLE)
                    with gr.Tab("Files"):
                        with gr.Row():
                            downloads = [
                                gr.DownloadButton(
                                    FILES[kind][0], interactive=False, elem_classes="download", min_width=150
                                )
                                for kind in aligning.KINDS
                            ]
                        gr.Markdown("\n".join(f"- **{kind.upper()}**: {FILES[kind][1]}" for kind in aligning.KINDS))
        with gr.Tab("Several pictures"):
            gr.Markdown(
                "Give several pictures of one thing: all are brought onto one of them, and averaged. The sharper the "
                "mean (the variance of its Laplacian, times 10 000), the better they fit; what cannot be aligned is "
                "left out, and named."
            )
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=300):
                    photos = upload_files(f"Pictures or ZIP files, 2 to {grouping.PICTURES} pictures")
                with gr.Column(scale=1, min_width=280):
                    sample = gr.Button("Take the example group")
                    reference = gr.Dropdown(
                        [("Let the page choose", handlers.CHOOSE)], value=handlers.CHOOSE, label="Reference",
                        info=f"The page chooses among {grouping.CHOOSING} pictures at most: all pairs are compared.",
                    )  # fmt: skip
                    with gr.Row():
                        run_all = gr.Button("Align all", variant="primary", size="lg", min_width=120)
                        stop = gr.Button("Stop", size="lg", min_width=90)
            told_of_group = gr.Markdown("There are no pictures yet.", elem_classes="status")
            means = viewers.html(viewers.FIGURES_STYLE)
            archive = gr.DownloadButton("Download ZIP", interactive=False, elem_classes="download", size="lg")

    gr.HTML(f"<style>{STYLE}</style>", padding=False)

    everything = [state, results, stage, slider, overlay, points, table, maps, *downloads, status]
    working(run, handlers.align, [source, target], everything, lane="compute")
    on(stage.input, handlers.restage, [state, stage], [slider, overlay, downloads[0], status])
    on(samples.chosen, handlers.example, [], [source, target, status], event=True)
    on(points.picked, handlers.picked, [state], [*place, points, table, status], event=True, trigger_mode="multiple")
    on(look.click, handlers.look_up, [state, *place], [points, table, status])
    on(clear.click, handlers.clear, [state], [points, table, status])

    naming = on(photos.change, handlers.name_them, [photos], [reference, told_of_group], lane="collections")
    sample.click(handlers.example_group, None, photos, api_visibility="private", show_progress="hidden")
    running = working(run_all, handlers.group, [photos, reference], [means, archive, told_of_group], lane="collections")
    stop.click(
        lambda: "Stopped. Nothing is kept of what was not finished.",
        outputs=told_of_group, cancels=[running, naming], api_visibility="private", queue=False,
    )  # fmt: skip

    programs.add(aligning, grouping, handlers)

LAUNCH = launch_options()

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**LAUNCH)
