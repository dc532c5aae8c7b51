"""Method classes: loading, saving and pushing, as far as no Hub is needed."""

import signal
from unittest import mock

import pytest
import yaml
from hub_cases import start
from toys import GOOD, Plain, PlainConfig, Toy, ToyConfig, same

import artmodels
from artmodels.errors import ConfigError, WeightsError
from artmodels.hub import catalogue, pretrained


@pytest.fixture
def folder(tmp_path):
    return Toy.random(seed=1).save_pretrained(tmp_path / "toy")


def test_default_entry_and_overrides():
    plain = Plain.from_pretrained()
    assert plain.resolved.name == "texture-patches"
    stored = catalogue.get("texture-patches").config
    assert plain.config == PlainConfig(**stored)
    assert Plain.from_pretrained("texture-patches", steps=3).config == PlainConfig(**stored, steps=3)
    with pytest.raises(ConfigError, match="no setting 'step'. Did you mean 'steps'"):
        Plain.from_pretrained(step=3)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("kernal", "Did you mean 'kernel'? It has"),
        ("strenght", "Did you mean 'strength'? That is an argument of the call"),
        ("strength", "Did you mean 'strength'? That is an argument of the call"),
        ("revison", "Did you mean 'revision'? That is an argument of from_pretrained"),
    ],
)
def test_near_misses_of_arguments_are_named(key: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="FastStyleConfig has no setting") as caught:
        artmodels.FastStyle.from_pretrained("scream", **{key: 1})
    assert hint in str(caught.value)


def test_name_of_another_method(folder):
    with pytest.raises(ConfigError, match=r"style-vgg19 is.*load it with artmodels\.NeuralStyle"):
        Plain.from_pretrained("style-vgg19")
    with pytest.raises(ConfigError, match=r"vgg19 is a checkpoint of 'features'.*artmodels\.features\.load"):
        Plain.from_pretrained("vgg19")
    with pytest.raises(ConfigError, match="is a checkpoint of 'toy', not of Plain: this version of artmodels"):
        Plain.from_pretrained(folder)


def test_other_runtimes():
    with pytest.raises(ConfigError, match="runtime='onnx' is not available for Plain"):
        Plain.from_pretrained(runtime="onnx")


def test_save_round_trip(folder):
    model = Toy.from_pretrained(folder, device="cpu", gain=0.5)
    assert same(model, GOOD)
    assert model.config == ToyConfig(gain=0.5)
    assert model.device == "cpu"
    second = model.save_pretrained(folder.with_name("second"))
    assert (second / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert Toy.from_pretrained(second).config == ToyConfig(gain=0.5)
    modes = {file.stat().st_mode & 0o777 for file in second.iterdir()}
    assert len(modes) == 1  # the weights are as readable as the rest


def test_save_without_weights(tmp_path):
    folder = Plain.from_pretrained().save_pretrained(tmp_path / "plain")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json"]
    assert Plain.from_pretrained(folder).config == PlainConfig(**catalogue.get("texture-patches").config)
    card = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    assert card["license"] == "apache-2.0"
    assert card["tags"] == ["artmodels", "texture-synthesis"]


def test_card(tmp_path):
    given = "---\nlicense: mit\ntags:\n- waves\n---\n# Hokusai\n"
    folder = Toy.random().save_pretrained(tmp_path / "toy", card=given)
    _, front, body = (folder / "README.md").read_text().split("---\n")
    assert yaml.safe_load(front) == {
        "license": "mit",
        "library_name": "artmodels",
        "tags": ["waves", "artmodels", "toy"],
    }
    assert body == "# Hokusai\n"
    plain = Toy.random().save_pretrained(tmp_path / "plain", card="# No front matter")
    _, front, body = (plain / "README.md").read_text().split("---\n")
    assert yaml.safe_load(front)["license"] == "unknown"
    assert body == "# No front matter"
    with pytest.raises(ConfigError, match="front matter is not valid"):
        Toy.random().save_pretrained(tmp_path / "bad", card="---\n[: ]:\n---\n")
    assert not (tmp_path / "bad").exists()


def test_save_never_overwrites(folder):
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        Toy.random(seed=9).save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    empty = folder.with_name("empty")
    empty.mkdir()
    assert same(Toy.from_pretrained(Toy.random(seed=1).save_pretrained(empty)), GOOD)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_interrupted_save_leaves_nothing(tmp_path, error):
    raised = WeightsError if isinstance(error, OSError) else error
    with mock.patch.object(pretrained, "save", side_effect=error), pytest.raises(raised):
        Toy.random().save_pretrained(tmp_path / "toy")
    assert list(tmp_path.iterdir()) == []


def test_killed_save_leaves_no_checkpoint(tmp_path):
    code = (
        "import os, signal, toys\n"
        "class Killed(toys.Toy):\n"
        "    def _tensors(self):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "Killed.random().save_pretrained('toy')\n"
    )
    with start(code, cwd=tmp_path) as process:
        assert process.communicate()[0] == ""
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "toy").exists()
    assert [path.name[:5] for path in tmp_path.iterdir()] == [".toy."]
    Toy.random().save_pretrained(tmp_path / "toy")  # what was left is in nobody's way


def test_push_checks_the_name_first():
    with pytest.raises(ConfigError, match="'toy' is not 'owner/name'"):
        Toy.random().push_to_hub("toy")
