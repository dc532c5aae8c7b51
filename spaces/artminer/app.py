"""Find a detail in a whole collection, or whatever repeats in it, with the evidence for each place."""

from pathlib import Path

import gradio as gr

from artmodels import ui
from artmodels.ui.batches import upload_files
from artmodels.ui.controls import beside
from artmodels.ui.events import on, working
from artmodels.ui.look import launch_options
from artmodels.ui.widgets.canvas import box_canvas

HERE = Path(__file__).parent
VERDICTS = {"same": "✓ Same", "similar": "≈ Similar", "no": "✗ No"}
# Nobody can judge what is not shown; and gradio keeps its columns on a telephone.
STYLE = """
.judging:not(:has(.sides)) .verdicts { display: none; }
.collection .grid-wrap, .found .grid-wrap, .pairs .grid-wrap { padding-top: 2.4rem !important; }
.collection .grid-container { grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)) !important; }
.pairs .grid-container { grid-template-columns: repeat(auto-fill, minmax(min(100%, 200px), 1fr)) !important; }
"""
SCROLL = """() => {
  const all = [...document.querySelectorAll('.evidence .sides')];
  all.find((one) => one.offsetParent)?.scrollIntoView({ behavior: 'smooth', block: 'center' });
}"""
INTRODUCTION = (
    "# Find a detail elsewhere\n"
    "1. Upload pictures, or take the example collection.\n"
    "2. Click a picture to open it, and **draw a box** around a detail: every other picture is searched for it, at any "
    "size and mirrored.\n"
    "3. Or let the page find **whatever repeats**, without asking for anything.\n"
    "4. Look at the evidence, say what you think of it, and take everything home."
)


collections, searching = (beside(__file__, name, space="artminer") for name in ("collection", "searching"))
evidence, programs = (beside(__file__, name, space="artminer") for name in ("evidence", "programs"))
handlers = beside(__file__, "handlers", space="artminer")


# --- the page


with ui.blocks("Find a detail elsewhere") as demo:
    gr.Markdown(INTRODUCTION)
    state = gr.State(None, time_to_live=3600)
    with gr.Row(equal_height=False):
        with gr.Column(scale=1, min_width=300):
            files = upload_files(f"Pictures or ZIP files, up to {collections.FILES} pictures")
            sample = gr.Button("Take the example collection")
        with gr.Column(scale=2, min_width=320):
            pictures = gr.Gallery(
                label="Click a picture to open it", columns=6, height=300, allow_preview=False, format="jpeg",
                interactive=False, buttons=[], elem_classes="collection",
            )  # fmt: skip
    status = gr.Markdown("There is no collection yet.", elem_classes="status")
    with gr.Tabs():
        with gr.Tab("A detail"):
            with gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=320):
                    page, box = box_canvas()
                    with gr.Row():
                        run = gr.Button("Find it elsewhere", variant="primary", size="lg", min_width=180)
                        stop = gr.Button("Stop", size="lg", min_width=90)
                    told_of_search = gr.Markdown("", elem_classes="status")
                with gr.Column(scale=1, min_width=320):
                    threshold = gr.Slider(
                        -1, 1, searching.THRESHOLD, step=0.01, label="Show places with a score of at least",
                        info=handlers.MEASURED,
                    )  # fmt: skip
                    hits = gr.Gallery(
                        label="Found, best first: click one to see why", columns=3, height=560, allow_preview=False,
                        format="jpeg", interactive=False, buttons=[], elem_classes="found", object_fit="contain",
                    )  # fmt: skip
            with gr.Column(elem_classes="judging"):
                why = gr.HTML(
                    "", css_template=evidence.STYLE, js_on_load=None, elem_classes="evidence", apply_default_css=False
                )
                with gr.Row(elem_classes="verdicts"):
                    verdicts = [gr.Button(words, min_width=100) for words in VERDICTS.values()]
                told_of_verdict = gr.Markdown("", elem_classes="status")
        with gr.Tab("Repeats"):
            with gr.Row():
                run_all = gr.Button("Find whatever repeats", variant="primary", size="lg", min_width=180)
                stop_all = gr.Button("Stop", size="lg", min_width=90)
            told_of_pairs = gr.Markdown(
                f"All pairs of up to {searching.ALL_PAIRS} pictures are compared; of more, those that share similar "
                "regions.",
                elem_classes="status",
            )
            least = gr.Slider(
                0, handlers.STRICTEST, searching.PAIR_THRESHOLD, step=0.001,
                label="Link pictures with a discovery score above", info=handlers.MEASURED,
            )  # fmt: skip
            rows = gr.HTML(
                "", css_template=evidence.ROWS, js_on_load=None, elem_classes="clusters", apply_default_css=False
            )
            pairs = gr.Gallery(
                label="Pairs, best first: click one to see why", columns=4, height=420, allow_preview=False,
                format="jpeg", interactive=False, buttons=[], elem_classes="pairs", object_fit="contain",
            )  # fmt: skip
            with gr.Column(elem_classes="judging"):
                why_pair = gr.HTML(
                    "", css_template=evidence.STYLE, js_on_load=None, elem_classes="evidence", apply_default_css=False
                )
                with gr.Row(elem_classes="verdicts"):
                    pair_verdicts = [gr.Button(words, min_width=100) for words in VERDICTS.values()]
                told_of_pair = gr.Markdown("", elem_classes="status")
        with gr.Tab("Take home"):
            gr.Markdown(
                "Verdicts calibrate the thresholds, decide which pictures are linked, and are examples to learn from: "
                "take the file with you, and bring it again. To tune the network to your pictures, with every “no” as "
                "a hard negative: `python -m artmodels.methods.artminer.tuning.tune PICTURES TUNED "
                "--verdicts verdicts.jsonl`"
            )
            with gr.Row(equal_height=False):
                with gr.Column(min_width=300):
                    weigh = gr.Button("Calibrate thresholds from verdicts")
                    save_verdicts = gr.Button("Write verdicts")
                    verdict_file = gr.DownloadButton("Download verdicts", interactive=False, elem_classes="download")
                    brought = gr.File(label="Verdicts from before (.jsonl)", type="filepath", height=120)
                with gr.Column(min_width=300):
                    save = gr.Button("Export what was found")
                    download = gr.DownloadButton("Download ZIP", interactive=False, elem_classes="download", size="lg")
                    gr.Markdown(
                        "Tables (CSV), everything (JSON), a graph for Gephi or Cytoscape (GraphML), IIIF annotations "
                        "of each picture, and a report (HTML) that opens anywhere."
                    )
            told_of_files = gr.Markdown("", elem_classes="status")

    gr.HTML(f"<style>{STYLE}</style>", padding=False)

    everything = [
        state, pictures, page, *box, hits, why, told_of_search, pairs, rows, why_pair, told_of_verdict, told_of_pair,
        download, threshold, least, status,
    ]  # fmt: skip
    collecting = [
        on(files.upload, handlers.take, [files], everything, lane="collections"),
        on(sample.click, handlers.example, [], everything, lane="collections"),
    ]
    on(pictures.select, handlers.choose, [state], [page, *box, status], event=True)

    running = working(
        run, handlers.find, [state, *box, threshold], [hits, why, told_of_search], lane="collections"
    )  # fmt: skip
    on(threshold.change, handlers.browse, [state, threshold], [hits, told_of_search], trigger_mode="always_last")
    explaining = on(hits.select, handlers.explain, [state], [why, told_of_verdict], event=True)
    comparing = working(
        run_all, handlers.repeat, [state, least], [rows, pairs, why_pair, told_of_pairs], lane="collections"
    )
    on(least.change, handlers.regroup, [state, least], [rows, pairs, told_of_pairs], trigger_mode="always_last")
    explaining_pair = on(pairs.select, handlers.explain_pair, [state], [why_pair, told_of_pair], event=True)
    for event in (explaining, explaining_pair):
        event.then(None, None, None, js=SCROLL, api_visibility="private")
    for value, button, pair_button in zip(VERDICTS, verdicts, pair_verdicts, strict=True):
        what = gr.State(value)
        on(button.click, handlers.said, [state, what, threshold], [hits, why, told_of_verdict])
        on(pair_button.click, handlers.said_of_pair, [state, what, least], [rows, pairs, why_pair, told_of_pair])
    on(weigh.click, handlers.calibrate, [state], [threshold, least, told_of_files])
    on(save_verdicts.click, handlers.keep, [state], [verdict_file, told_of_files])
    on(brought.upload, handlers.bring, [state, brought], [brought, told_of_files])
    on(save.click, handlers.export, [state, threshold, least], [download, told_of_files])
    for button, event, text in ((stop, running, told_of_search), (stop_all, comparing, told_of_pairs)):
        button.click(
            lambda: "Stopped. Start again to go on: pictures that were looked at are not looked at again.",
            outputs=text, cancels=[event, *collecting], api_visibility="private", queue=False,
        )  # fmt: skip

    programs.add(collections, searching, handlers.shown)

LAUNCH = launch_options()

if __name__ == "__main__":
    demo.queue(**ui.QUEUE).launch(**LAUNCH)
