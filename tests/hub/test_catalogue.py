"""The catalogue: every entry well formed, every lookup helpful."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from artmodels.errors import ConfigError, MissingWeights
from artmodels.hub import catalogue


def test_names_are_unique_and_never_look_like_repositories():
    names = [entry.name for entry in catalogue.list_models()]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


def test_each_method_has_a_class_and_at_most_one_default():
    for method in catalogue.read():
        assert bool(method.class_name) == (method.id != "features")
        assert sum(entry.default for entry in method.models) == bool(method.class_name)


def test_what_an_entry_needs_is_there_and_what_its_settings_name_is_needed():
    for entry in catalogue.list_models():
        assert all(catalogue.get(name) for name in entry.needs)
        named = {entry.config.get(key) for key in ("features", "backbone", "regions")} - {None}
        assert named & {other.name for other in catalogue.list_models()} <= set(entry.needs), entry.name


def test_each_page_has_its_own_place_and_says_what_it_is():
    methods = catalogue.methods()
    assert [method.id for method in methods][:3] == ["fast_style", "arbitrary_style", "super_resolution"]
    assert len({method.place for method in methods}) == len(methods)
    assert all(method.title and method.text.endswith(".") and method.source for method in methods)
    pageless = {method.id for method in catalogue.read() if method not in methods}
    assert pageless == {"features", "interpret", "region_features"}


def test_lists_are_in_the_order_of_the_readme():
    methods = dict.fromkeys(entry.method for entry in catalogue.list_models())
    assert [*methods][:3] == ["features", "texture_synthesis", "fast_style"]
    assert catalogue.list_models()[-1].name == "ransac-flow-megadepth"


def test_a_manifest_with_an_unknown_key_is_refused(tmp_path):
    file = tmp_path / "toy" / "method.toml"
    file.parent.mkdir()
    for text in ('class = "Toy"\ntitel = "Toy"\nmodels = []', '[[models]]\nname = "a"\nsumary = "b"'):
        file.write_text(text)
        with pytest.raises(TypeError, match="titel|sumary"):
            catalogue.parse(file)


def test_defaults_need_no_network():
    for entry in catalogue.list_models():
        if entry.default:
            assert catalogue.download(entry) is None
    assert catalogue.download(catalogue.get("texture-vgg19")) is catalogue.get("vgg19").weights


@pytest.mark.parametrize("entry", [e for e in catalogue.list_models() if e.weights], ids=lambda e: e.name)
def test_weights_are_pinned_and_safe(entry):
    weights = entry.weights
    assert re.fullmatch(r"[0-9a-f]{40}", weights.revision) or (entry.embedded and weights.revision == "main")
    assert re.fullmatch(r"[0-9a-f]{64}", weights.sha256)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", weights.repo)
    assert weights.filename.endswith(".safetensors")
    assert "/" not in weights.filename
    assert weights.size_mb > 0


def test_pins_are_not_shared_between_entries():
    pins = [entry.weights.sha256 for entry in catalogue.list_models() if entry.weights]
    assert len(set(pins)) == len(pins)


def test_get():
    assert catalogue.get("vgg19").weights.repo == "timm/vgg19.tv_in1k"
    assert catalogue.get("patches").weights is None


def test_get_names_near_misses_and_how_to_list():
    with pytest.raises(MissingWeights, match=r"'vgg91' is not in the catalogue.*'vgg19'.*list_models\(\)"):
        catalogue.get("vgg91")


@pytest.mark.parametrize(
    ("name", "method", "full"),
    [
        ("scream", None, "fast-style-scream"),
        ("scream", "fast_style", "fast-style-scream"),
        ("gravel", None, "texture-network-gravel"),
        ("x2", None, "super-resolution-x2"),
        ("seascapes", None, "mimax-seascapes"),
        ("megadepth", "ransac_flow", "ransac-flow-megadepth"),
        ("vgg19", "neural_style", "vgg19"),  # a full name comes first
        ("arbitrary-style", "arbitrary_style", "arbitrary-style"),
    ],
)
def test_short_names(name, method, full):
    assert catalogue.find(name, method) is catalogue.get(name, method) is catalogue.find(full)


def test_a_short_name_that_two_methods_have_stands_for_none(monkeypatch):
    entry = replace(catalogue.get("fast-style-scream"), name="texture-network-scream", method="texture_network")
    known = catalogue.read()
    monkeypatch.setattr(catalogue, "read", lambda: (*known, replace(known[0], models=(entry,))))
    assert catalogue.find("scream") is None
    assert catalogue.find("scream", "texture_network") == entry
    with pytest.raises(MissingWeights, match="-scream'"):
        catalogue.get("scream")


def test_no_two_models_of_a_method_share_a_short_name():
    short = [(entry.method, entry.short) for entry in catalogue.list_models()]
    assert len(set(short)) == len(short)


@pytest.mark.parametrize("name", ["screem", "fast-style-screem", "The Scream", "fast_style_scream"])
def test_near_misses_of_short_names_are_named_in_full(name):
    with pytest.raises(MissingWeights, match="Did you mean 'fast-style-scream'"):
        catalogue.get(name)


def test_get_does_not_guess_from_nothing():
    with pytest.raises(MissingWeights) as caught:
        catalogue.get("zzzzzz")
    assert "Did you mean" not in str(caught.value)


def test_default():
    assert catalogue.default("texture_synthesis").name == "texture-patches"
    assert catalogue.default("neural_style").name == "style-art-vgg"
    with pytest.raises(ConfigError, match="no default checkpoint: pass one of art-vgg, vgg19, vgg16"):
        catalogue.default("features")


def test_list_models():
    assert len(catalogue.list_models()) == sum(len(method.models) for method in catalogue.read())
    names = ["style-art-vgg", "style-patches", "style-random-filters", "style-vgg19"]
    assert [e.name for e in catalogue.list_models("neural_style")] == names
    with pytest.raises(ConfigError, match="'nueral_style'.*Did you mean 'neural_style'"):
        catalogue.list_models("nueral_style")


def test_entries_are_frozen():
    with pytest.raises(AttributeError):
        catalogue.get("vgg19").name = "other"


def test_imports_nothing_heavy():
    code = (
        "import sys, artmodels.hub.catalogue\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'gradio', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
