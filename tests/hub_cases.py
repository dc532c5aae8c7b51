"""What the tests against a Hub run in child processes: the client reads its settings when it is imported.

The functions marked `@case` run there, each once and in this order; `child` reports what they did.
"""

import json
import logging
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from unittest import mock

from huggingface_hub import constants
from safetensors.torch import save
from toys import GOOD, OTHER, Toy, entries, pinned, same

from artmodels import hub
from artmodels.errors import ArtModelsError

ROOT = Path(__file__).parents[1]
CASES = {"live": [], "dead": [], "offline": []}


def case(group):
    return lambda function: CASES[group].append(function) or function


def requests():
    if "DEAD" in os.environ:
        return []
    with urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/_log") as answer:
        return json.load(answer)


def child(group):
    """Run the cases of a group and print, as JSON, what each returned or raised, logged and requested."""
    pause = time.sleep
    time.sleep = lambda seconds: pause(min(seconds, 0.01))  # the client's waits between its tries
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(f"{record.levelname} {record.getMessage()}")
    logging.getLogger("artmodels").addHandler(handler)
    logging.getLogger("artmodels").setLevel(logging.INFO)
    report = {}
    for function in CASES[group]:
        records.clear()
        before = len(requests())
        result = {"value": None, "error": None, "text": ""}
        try:
            result["value"] = function()
        except ArtModelsError as error:
            # Private subclasses are an implementation detail: report the public one.
            names = (kind.__name__ for kind in type(error).__mro__)
            result |= {"error": next(n for n in names if not n.startswith("_")), "text": str(error)}
        result |= {"log": list(records), "requests": requests()[before:]}
        report[function.__name__] = result
    sys.stdout.write(json.dumps(report))


def start(code, **environment):
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return subprocess.Popen(
        # The ignored one is raised inside the client when it uploads a large file.
        [sys.executable, "-W", "error", "-W", "ignore:Use 'content=:DeprecationWarning", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=environment.pop("cwd"),
        env=os.environ | {"PYTHONPATH": path, "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environment,
    )


def finish(process):
    with process:
        try:
            out, err = process.communicate(timeout=250)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return json.loads(out)


def refs():
    return json.loads(os.environ["REFS"])  # commits that the parent made, by repository


@case("live")
def push_then_pull():
    model = Toy.random(width=3, gain=0.1, title="é", layers=("a",), scores={"x": 1.5})
    commit = model.push_to_hub("me/toy")
    loaded = Toy.from_pretrained("me/toy", revision=commit)
    return {
        "commit": commit,
        "tensors": same(loaded, save(model.tensors)),
        "config": loaded.config == model.config,
    }


@case("live")
def pinned_second_load():
    Toy.from_pretrained("ok/toy", revision=refs()["ok/toy"])
    before = len(requests())
    found = hub.resolve("ok/toy", revision=refs()["ok/toy"])
    Toy.from_pretrained("ok/toy", revision=refs()["ok/toy"])
    return {"requests": requests()[before:], "origin": found.origin}


@case("live")
def unpinned():
    first = hub.resolve("ok/unpinned")
    before = len(requests())
    second = hub.resolve("ok/unpinned")
    return {
        "first": first.origin,
        "second": second.origin,
        "revision": first.revision,
        "requests": requests()[before:],
    }


@case("live")
def push_keeps_readme():
    return Toy.random(seed=5).push_to_hub("ok/readme", card="---\nlicense: mit\n---\nmine")


@case("live")
def push_to_branch():
    return Toy.random().push_to_hub("me/branched", revision="trial", commit_message="Try")


@case("live")
def push_refused():
    Toy.random().push_to_hub("forbidden/toy")


@case("live")
def missing_repo():
    Toy.from_pretrained("no/such", revision="main")


@case("live")
def missing_revision():
    Toy.from_pretrained("ok/toy", revision="v9")


@case("live")
def missing_config():
    Toy.from_pretrained("ok/no-config")


@case("live")
def missing_weights():
    Toy.from_pretrained("ok/no-weights")


@case("live")
def missing_weights_again():
    Toy.from_pretrained("ok/no-weights", revision=refs()["ok/no-weights"])


@case("live")
def pickle_only():
    Toy.from_pretrained("ok/pickle")


@case("live")
def pickle_without_config():
    Toy.from_pretrained("ok/bare-pickle")


@case("live")
def gated():
    Toy.from_pretrained("ok/gated")


@case("live")
def forbidden():
    Toy.from_pretrained("ok/forbidden")


@case("live")
def not_a_hub():
    Toy.from_pretrained("ok/portal")


@case("live")
def server_error_twice():
    return same(Toy.from_pretrained("ok/flaky"), GOOD)


@case("live")
def server_error_always():
    Toy.from_pretrained("ok/broken")


@case("live")
def slow():
    with mock.patch.object(constants, "HF_HUB_ETAG_TIMEOUT", 0.2):
        Toy.from_pretrained("ok/slow")


@case("live")
def broken_off():
    Toy.from_pretrained("ok/broken-off")


@case("live")
def broken_off_then_local():
    Toy.from_pretrained("ok/broken-off", revision=refs()["ok/broken-off"], local_files_only=True)


@case("live")
def broken_off_then_whole():
    return same(Toy.from_pretrained("ok/broken-off"), GOOD)


@case("live")
def cut_short():
    Toy.from_pretrained("ok/cut-short")


@case("live")
def cut_short_then_whole():
    return same(Toy.from_pretrained("ok/cut-short"), GOOD)


@case("live")
def broken_off_update():
    hub.resolve("ok/moved")
    Toy.random(gain=9).push_to_hub("ok/moved")
    hub.resolve("ok/moved")


@case("live")
def wrong_etag():
    Toy.from_pretrained("ok/wrong-etag", revision=refs()["ok/wrong-etag"])


@case("live")
def stranger():
    Toy.from_pretrained("ok/stranger")


@case("live")
def catalogue_name():
    with entries(pinned(revision=refs()["up/toy"])):
        first, second = hub.resolve("toy-pinned"), hub.resolve("toy-pinned")
        loaded = Toy.from_pretrained("toy-pinned", gain=3)
    return {
        "origins": [first.origin, second.origin],
        "tensors": same(loaded, GOOD),
        "gain": loaded.config.gain,
        "width": loaded.config.width,
    }


@case("live")
def catalogue_name_of_altered_file():
    with entries(pinned(revision=refs()["up/toy"], data=OTHER)):
        Toy.from_pretrained("toy-pinned")


@case("live")
def mirror():
    with entries(pinned("mirrored", "up/none")), mock.patch.dict(os.environ, ARTMODELS_NAMESPACE="museum"):
        found = hub.resolve("mirrored")
        return {
            "origin": found.origin,
            "repo": found.repo,
            "tensors": same(Toy.from_pretrained("mirrored"), GOOD),
        }


@case("live")
def mirror_of_altered_file():
    entry = pinned("altered", "up/none")
    with entries(entry), mock.patch.dict(os.environ, ARTMODELS_NAMESPACE="museum"):
        Toy.from_pretrained("altered")


@case("live")
def mirror_that_lacks_it():
    entry = pinned("lacking", "up/second", refs()["up/second"])
    with entries(entry), mock.patch.dict(os.environ, ARTMODELS_NAMESPACE="museum"):
        return hub.resolve("lacking").origin


@case("live")
def bare_name_in_namespace():
    with mock.patch.dict(os.environ, ARTMODELS_NAMESPACE="museum"):
        return same(Toy.from_pretrained("ours"), GOOD)


@case("dead")
def dead_port_pinned_and_cached():
    return same(Toy.from_pretrained("ok/toy", revision=refs()["ok/toy"]), GOOD)


@case("dead")
def dead_port_unpinned_and_cached():
    return hub.resolve("ok/unpinned").origin


@case("dead")
def dead_port_not_cached():
    Toy.from_pretrained("ok/never-loaded")


@case("dead")
def dead_port_pinned_not_cached():
    Toy.from_pretrained("ok/never-loaded", revision="1" * 40)


@case("dead")
def local_only_cached():
    return hub.resolve("ok/unpinned", local_files_only=True).origin


@case("dead")
def local_only_not_cached():
    Toy.from_pretrained("ok/never-loaded", local_files_only=True)


@case("dead")
def push_to_dead_port():
    Toy.random().push_to_hub("me/toy")


@case("offline")
def offline_cached():
    return hub.resolve("ok/unpinned").origin


@case("offline")
def offline_not_cached():
    Toy.from_pretrained("ok/never-loaded")
