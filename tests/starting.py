"""Start Spaces by their paths, as `python spaces/NAME/app.py` does, one after the other, each in a process of its own.

    python tests/starting.py FOLDER PORT APP [PORT APP ...]

They share what takes longest, the import of torch and gradio: each process is a copy of one that has imported nothing
else (where the system can copy one). A line on standard input ends one and starts the next. FOLDER/PORT.log is what
APP prints, FOLDER/PORT.json the work of its start, counted so that the numbers are the same on every machine.
"""

import json
import multiprocessing
import os
import runpy
import sys
from collections import Counter
from pathlib import Path

import gradio as gr
import torch
from torch.utils.flop_counter import FlopCounterMode


def start(app: str, port: str, folder: Path) -> None:
    """Run a file as Python runs a program, and report the work when it has begun to serve."""
    with (folder / f"{port}.log").open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
    os.environ["GRADIO_SERVER_PORT"] = port
    sys.argv, sys.path[0] = [app], str(Path(app).parent)
    calls, checkpoints = Counter[str](), Counter[str]()

    def count(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def counted(*args: object, **options: object) -> object:
            calls[name] += 1
            return original(*args, **options)

        setattr(owner, name, counted)

    def opened(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and str(args[0]).endswith(".safetensors"):
            checkpoints[Path(str(args[0])).parent.name] += 1

    def report(work: dict[str, object]) -> None:
        sys.stdout.flush()
        (folder / "unfinished").write_text(json.dumps(work), encoding="utf-8")
        (folder / "unfinished").replace(folder / f"{port}.json")

    def serving(self: gr.Blocks) -> None:
        work = {"pages": calls["__exit__"], "routes": calls["create_app"], "checkpoints": checkpoints}
        report(work | {"flops": flops.get_total_flops(), "modules": sorted(sys.modules)})
        wait(self)

    count(gr.Blocks, "__exit__")
    count(gr.routes.App, "create_app")
    sys.addaudithook(opened)
    wait, gr.Blocks.block_thread = gr.Blocks.block_thread, serving
    torch.manual_seed(0)
    try:
        with FlopCounterMode(display=False) as flops:
            runpy.run_path(app, run_name="__main__")
    except BaseException:
        report({})  # what happened is on standard error
        raise


if __name__ == "__main__":
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    folder, *rest = sys.argv[1:]
    for port, app in zip(rest[::2], rest[1::2], strict=True):
        process = context.Process(target=start, args=(app, port, Path(folder)))
        process.start()
        line = sys.stdin.readline()
        process.terminate()
        process.join()
        if not line:
            break
