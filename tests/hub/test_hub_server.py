"""Pulling and pushing, with the real client against a Hub on localhost: what `hub_cases` did and reported."""

import hashlib
import json
import socket

import pytest
import yaml
from fakehub import FakeHub, Fault
from hub_cases import finish, start
from safetensors.torch import save
from toys import CHECKPOINT, CONFIG, GOOD, OTHER, Toy

import artmodels
from artmodels.errors import ConfigError, HashMismatch, MissingWeights, UnsafeFormat, WeightsError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Run all children against one server: (server, report by case, folder of the Hub's cache)."""
    home = tmp_path_factory.mktemp("home")
    with FakeHub() as server, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        made = {
            name: server.add(name, CHECKPOINT)
            for name in (
                "ok/toy ok/unpinned ok/readme ok/gated ok/forbidden ok/portal ok/flaky ok/broken ok/slow "
                "ok/broken-off ok/cut-short ok/moved ok/wrong-etag museum/ours up/second up/toy"
            ).split()
        }
        made["ok/no-config"] = server.add("ok/no-config", {"model.safetensors": GOOD, "notes.txt": b""})
        made["ok/no-weights"] = server.add("ok/no-weights", {"config.json": CONFIG})
        server.add("ok/pickle", {"config.json": CONFIG, "pytorch_model.bin": b"boom"})
        server.add("ok/bare-pickle", {"weights.pth": b"boom"})
        server.add("ok/stranger", {"config.json": b'{"model_type": "bert"}', "model.safetensors": GOOD})
        server.add("museum/mirrored", {"model.safetensors": GOOD})
        server.add("museum/altered", {"model.safetensors": OTHER})
        server.faults += [
            Fault("(HEAD|GET) /ok/gated/resolve", status=403, code="GatedRepo"),
            Fault("(HEAD|GET) /ok/forbidden/resolve", status=403),
            Fault("GET /ok/moved/resolve/main", skip=1, keep=10),
            Fault("HEAD /ok/portal/resolve", status=204),
            Fault("HEAD /ok/flaky/.*config", status=500, times=2),
            Fault("GET /ok/flaky/.*safetensors", status=503, times=2),
            Fault("/ok/broken/", status=500),
            Fault("/ok/slow/", delay=0.8),
            Fault("GET /ok/broken-off/.*safetensors", keep=100, times=6),
            Fault("GET /ok/cut-short/.*safetensors", keep=100, honest=True, times=1),
            Fault("/ok/wrong-etag/.*safetensors", etag="0" * 64),
            Fault("POST /api/models/forbidden/toy/", status=403),
        ]
        common = {
            "HF_HOME": str(home),
            "HF_ENDPOINT": server.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": "x",
            "REFS": json.dumps(made),
            "cwd": home,
        }
        code = "import hub_cases; hub_cases.child({!r})"
        report = finish(start(code.format("live"), **common))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            start(code.format("dead"), **common | {"HF_ENDPOINT": nobody, "DEAD": "1"}) as dead,
            start(code.format("offline"), **common | {"HF_HUB_OFFLINE": "1"}) as offline,
        ):
            report |= finish(dead) | finish(offline)
        yield server, report, made


def value(world, name):
    result = world[1][name]
    assert result["error"] is None, result
    return result["value"]


def failed(world, name, error, *parts):
    """Check that a case failed with this error and that its message has these parts, in order."""
    result = world[1][name]
    assert result["error"] == error.__name__, result
    position = 0
    for part in parts:
        position = result["text"].find(part, position)
        assert position >= 0, (part, result["text"])


# --- Push and pull


def test_push_then_pull(world):
    server, _, _ = world
    result = value(world, "push_then_pull")
    assert result["tensors"]
    assert result["config"]
    files = server.repos["me/toy"].commits[result["commit"]]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert files["model.safetensors"] == save(Toy.random(width=3).tensors, metadata={"format": "pt"})
    config = json.loads(files["config.json"])
    assert (config["method"], config["artmodels_version"]) == ("toy", artmodels.__version__)
    assert config["layers"] == ["a"]
    card = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert card == {"license": "unknown", "library_name": "artmodels", "tags": ["artmodels", "toy"]}
    assert "POST /api/validate-yaml" in world[1]["push_then_pull"]["requests"]
    assert any("artmodels/" + artmodels.__version__ in agent for agent in server.agents)


def test_pinned_second_load_makes_no_request(world):
    assert value(world, "pinned_second_load") == {"requests": [], "origin": "cache"}


def test_unpinned_load_asks_once_and_warns(world):
    result = value(world, "unpinned")
    assert result == {
        "first": "hub",
        "second": "cache",
        "revision": world[2]["ok/unpinned"],
        "requests": ["HEAD /ok/unpinned/resolve/main/config.json"],
    }
    log = world[1]["unpinned"]["log"]
    assert "WARNING ok/unpinned is not pinned" in log[0]
    assert log[1].startswith("INFO ok/unpinned: hub, ")
    assert not any("not pinned" in line for line in world[1]["pinned_second_load"]["log"])


def test_push_never_overwrites_a_readme(world):
    files = world[0].repos["ok/readme"].commits[value(world, "push_keeps_readme")]
    assert files["README.md"] == CHECKPOINT["README.md"]
    assert files["model.safetensors"] == save(Toy.random(seed=5).tensors, metadata={"format": "pt"})


def test_push_to_a_branch(world):
    repo = world[0].repos["me/branched"]
    assert repo.refs["trial"] == value(world, "push_to_branch")
    assert repo.refs["main"] is None


def test_push_refused(world):
    failed(world, "push_refused", WeightsError, "forbidden/toy could not be pushed", "403", "hf auth login")
    failed(world, "push_to_dead_port", WeightsError, "me/toy could not be pushed to http://127.0.0.1")


# --- What is not there


def test_missing_repo(world):
    failed(world, "missing_repo", MissingWeights, "no repository no/such on http://127.0.0.1", "spelling")


def test_missing_revision(world):
    failed(world, "missing_revision", MissingWeights, "ok/toy has no revision 'v9'", "/ok/toy/commits/main")


def test_missing_file(world):
    failed(
        world,
        "missing_config",
        MissingWeights,
        "ok/no-config at main has no config.json",
        "It has: model.safetensors, notes.txt",
    )
    at = f"ok/no-weights at {world[2]['ok/no-weights']}"
    failed(world, "missing_weights", MissingWeights, f"{at} has no model.safetensors", "It has: config.json")
    failed(world, "missing_weights_again", MissingWeights, f"{at} has no model.safetensors")


def test_pickle_only_is_never_fetched(world):
    for name, file in (("pickle_only", "pytorch_model.bin"), ("pickle_without_config", "weights.pth")):
        failed(world, name, UnsafeFormat, "only pickle-based weights", file, "never opens", "safetensors")
    assert not world[0].requests(".bin")
    assert not world[0].requests(".pth")


def test_gated(world):
    failed(world, "gated", MissingWeights, "ok/gated is gated", "accept its terms", "/ok/gated", "hf auth login")


def test_refused(world):
    failed(world, "forbidden", MissingWeights, "refused config.json of ok/forbidden at main with HTTP 403")


def test_something_that_is_not_a_hub(world):
    failed(world, "not_a_hub", MissingWeights, "does not answer like a Hub", "HF_ENDPOINT")


def test_another_librarys_repository(world):
    failed(world, "stranger", ConfigError, "config.json of ok/stranger names no method")


# --- A server in trouble


def test_server_error_twice_then_well(world):
    assert value(world, "server_error_twice") is True
    asked = world[1]["server_error_twice"]["requests"]
    assert asked.count("HEAD /ok/flaky/resolve/main/config.json") >= 3
    assert sum("GET" in line and "model.safetensors" in line for line in asked) == 3


def test_server_error_always(world):
    failed(world, "server_error_always", MissingWeights, "does not answer and config.json of ok/broken", "500")


def test_slow_server(world):
    failed(world, "slow", MissingWeights, "does not answer and config.json of ok/slow", "timed out")


def test_broken_off_download_leaves_nothing_that_passes_for_whole(world):
    failed(world, "broken_off", MissingWeights, "download of model.safetensors of ok/broken-off", "broke off")
    failed(world, "broken_off_then_local", MissingWeights, "model.safetensors", "local_files_only=True")
    assert value(world, "broken_off_then_whole") is True


def test_broken_off_update_does_not_fall_back_to_the_old_commit(world):
    failed(world, "broken_off_update", MissingWeights, "download of config.json of ok/moved at main broke off")


def test_consistently_short_download(world):
    failed(world, "cut_short", MissingWeights, "download of model.safetensors of ok/cut-short", "broke off")
    assert value(world, "cut_short_then_whole") is True


def test_wrong_etag(world):
    actual = hashlib.sha256(GOOD).hexdigest()
    failed(world, "wrong_etag", HashMismatch, f"its sha256 is {actual}, not {'0' * 64}", "delete", "blobs/000")


def test_dead_port_with_cache(world):
    assert value(world, "dead_port_pinned_and_cached") is True
    assert value(world, "dead_port_unpinned_and_cached") == "cache"
    stale = f"WARNING ok/unpinned at main: the Hub does not answer; using the cached {world[2]['ok/unpinned']}."
    assert stale in world[1]["dead_port_unpinned_and_cached"]["log"]


def test_dead_port_without_cache(world):
    for name in ("dead_port_not_cached", "dead_port_pinned_not_cached"):
        failed(
            world,
            name,
            MissingWeights,
            "does not answer",
            "config.json of ok/never-loaded",
            "not in the cache",
        )


def test_local_files_only(world):
    assert value(world, "local_only_cached") == "cache"
    failed(world, "local_only_not_cached", MissingWeights, "not in the cache", "local_files_only=True forbids")


def test_offline_mode(world):
    assert value(world, "offline_cached") == "cache"
    failed(world, "offline_not_cached", MissingWeights, "not in the cache", "HF_HUB_OFFLINE is set")
    assert world[1]["offline_cached"]["requests"] == []


# --- Catalogue names


def test_catalogue_name_comes_from_its_pinned_source(world):
    assert value(world, "catalogue_name") == {
        "origins": ["upstream", "cache"],
        "tensors": True,
        "gain": 3.0,
        "width": 4,
    }
    commit = world[2]["up/toy"]
    assert world[1]["catalogue_name"]["requests"] == [
        f"HEAD /up/toy/resolve/{commit}/model.safetensors",
        f"HEAD /up/toy/resolve/{commit}/model.safetensors",
        f"GET /up/toy/resolve/{commit}/model.safetensors",
    ]


def test_altered_bytes_under_a_catalogue_name(world):
    good, other = hashlib.sha256(GOOD).hexdigest(), hashlib.sha256(OTHER).hexdigest()
    failed(world, "catalogue_name_of_altered_file", HashMismatch, f"is {good}, not {other}", "delete", "blobs")
    failed(world, "mirror_of_altered_file", HashMismatch, f"is {other}, not {good}", "delete", "blobs")


def test_mirror(world):
    assert value(world, "mirror") == {"origin": "hub", "repo": "museum/mirrored", "tensors": True}
    assert value(world, "mirror_that_lacks_it") == "upstream"
    assert any("no mirror museum/lacking" in line for line in world[1]["mirror_that_lacks_it"]["log"])
    assert value(world, "bare_name_in_namespace") is True
