"""`python -m weights`: a toy checkpoint built, verified, tampered with, interrupted, and pushed to a local Hub."""

import hashlib
import json
import os
import shutil
import sys
import tomllib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from fakehub import FakeHub, Fault
from huggingface_hub import HfApi
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load, save
from torch import nn
from typer.testing import CliRunner

from artmodels.data import folders
from artmodels.data.folders import Crops, ImageSet
from artmodels.errors import UnsafeFormat
from artmodels.hub import catalogue
from artmodels.progress import result_of
from artmodels.runtime.devices import generator
from artmodels.runtime.feedforward import FeedForward, Graph
from artmodels.training import Recipe, Sources, fit
from weights import __main__ as command
from weights import checks, manifest, recipes

# Where a recipe's class is looked for: below `artmodels.methods`.
sys.modules["artmodels.methods.toy"] = sys.modules["artmodels.methods.toy.train"] = sys.modules[__name__]

HANDWRITTEN = """# How toy is made.\r
recipe = "toy.train:ToyRecipe"   # a comment that stays

[training]
steps = 25
rate = 1e-2

[settings]
crop = 8
[settings.network]
width = 3

[card]
title = "Toy: \\"two\\" layers"
summary = "Copies a picture, nearly."
licence = "apache-2.0"
source = "nobody"
tags = ["image-to-image"]
limits = "All."
"""


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    width: int = 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    crop: int = 16
    network: ToyConfig = ToyConfig()
    huge: bool = False
    metric: float = 1.0


class Net(Graph):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, config.width, 3, padding=1), nn.Conv2d(config.width, 3, 1))

    def forward(self, x):
        return self.layers(x).sigmoid()


class Toy(FeedForward):
    method = "toy"
    config_class = ToyConfig

    @classmethod
    def _network(cls, config):
        return Net(config)


class ToyRecipe(Recipe):
    settings_class = Settings
    unseeded = False

    def __init__(self, settings, sources, *, seed):
        self.settings = settings
        self.files, self.unseen = folders.split(folders.image_files(sources.data), held_out=3)
        self.images, self.crops = ImageSet.load(self.files, side=16), Crops(size=settings.crop)
        self.network = Net(settings.network)
        draw = None if self.unseeded else generator(seed)
        for value in self.network.parameters():
            value.data.normal_(0, 0.1, generator=draw)

    def losses(self, rng):
        batch = self.crops(self.images, 2, rng)
        return {"copy": (self.network(batch) - batch).square().mean()}

    def checkpoint(self):
        tensors = {key: value.half() for key, value in self.network.state_dict().items()}
        if self.settings.huge:
            tensors["huge"] = torch.zeros(6_000_000, dtype=torch.half)
        return {"method": "toy", "width": self.settings.network.width}, tensors

    @torch.no_grad()
    def evaluate(self):
        picture = ImageSet.load(self.unseen, side=16).images[0][None] / 255
        error = (self.network(picture) - picture).square().mean()
        return {"squared error": float(error), "constant": self.settings.metric}


MANIFEST = 'class = "Toy"  # as everywhere\n'


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A place where `toy` has been built, to be copied."""
    root = tmp_path_factory.mktemp("template")
    (root / "data").mkdir()
    draw = generator(0)
    for number in range(6):
        pixels = torch.randint(0, 256, (12, 18, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(root / "data" / f"{number}.png")
    (root / "teachers").mkdir()
    folder = root / "weights" / "toy"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_bytes(HANDWRITTEN.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "read", lambda: (catalogue.Method(id="toy", class_name="Toy"),))
        sources = Sources(root / "data", root / "teachers", root / "weights")
        result_of(recipes.stream_build(folder, folder, sources, work=root / ".weights-work" / "toy"))
    return root


@pytest.fixture
def place(template, tmp_path, monkeypatch):
    """A folder with data, teachers and the recipe of `toy`, and methods that know it."""
    shutil.copytree(template / "data", tmp_path / "data")
    (tmp_path / "teachers").mkdir()
    (tmp_path / "weights" / "toy").mkdir(parents=True)
    (tmp_path / "weights" / "toy" / "recipe.toml").write_bytes(HANDWRITTEN.encode())
    monkeypatch.setattr(recipes, "ROOT", tmp_path / "weights")
    monkeypatch.setattr(catalogue, "PACKAGE", tmp_path)
    method = tmp_path / "methods" / "toy" / "method.toml"
    method.parent.mkdir(parents=True)
    method.write_text(MANIFEST)
    monkeypatch.setattr(catalogue, "read", lambda: (catalogue.parse(method),))
    monkeypatch.setitem(sys.modules, "artmodels.methods.toy", SimpleNamespace(Toy=Toy))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def invoke(place, monkeypatch, capsys):
    """Run `python -m weights`; returns exit code, stdout and stderr, white space made single."""

    def call(*arguments):
        options = [] if arguments[0] == "push" else ["--data", "data", "--teachers", "teachers"]
        monkeypatch.setattr(sys, "argv", ["weights", *map(str, arguments), *options])
        monkeypatch.setenv("COLUMNS", "400")
        with pytest.raises(SystemExit) as done:
            command.main()
        out, err = capsys.readouterr()
        return SimpleNamespace(code=done.value.code or 0, out=" ".join(out.split()), err=" ".join(err.split()))

    return call


def enter(monkeypatch, folder, **changes) -> None:
    """Put a toy checkpoint into the catalogue."""
    manifest.record(folder)
    method = catalogue.parse(catalogue.manifest("toy"))
    models = (replace(method.models[0], **changes),)
    monkeypatch.setattr(catalogue, "read", lambda: (replace(method, models=models),))


@pytest.fixture
def toy(place, template, monkeypatch):
    """The folder of `toy`, built and in the catalogue."""
    for folder in ("weights", ".weights-work"):
        shutil.copytree(template / folder, place / folder, dirs_exist_ok=True)
    enter(monkeypatch, place / "weights" / "toy")
    return place / "weights" / "toy"


def spoil(place) -> None:
    """Replace an image that was trained on."""
    train, _ = folders.split(folders.image_files(place / "data"), held_out=3)
    Image.new("RGB", (9, 9)).save(train[0])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def states(done):
    """State and text of each check that `verify` found, by its name."""
    return {check.what: (check.state, check.text) for check in done}


def verified(place, **options):
    sources = Sources(place / "data", place / "teachers", place / "weights")
    return states(checks.verify(sources=sources, **options))


# --- build


def test_build_writes_the_four_files_of_a_hub_repository(place, invoke) -> None:
    done = invoke("build", "toy")
    folder = place / "weights" / "toy"
    assert done.code == 0, done.err
    assert sorted(contents(folder)) == ["README.md", "config.json", "model.safetensors", "recipe.toml"]
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]

    weights = (folder / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    assert f"sha256 {digest}, 0.01 MB" in done.out
    (entry,) = catalogue.list_models("toy")
    assert (entry.name, entry.weights.sha256, entry.weights.size_mb) == ("toy", digest, 0.01)
    assert (entry.config, entry.embedded, entry.licence) == ({"width": 3}, True, "apache-2.0")
    assert catalogue.manifest("toy").read_text().startswith(MANIFEST)
    assert {key: value.dtype for key, value in load(weights).items()} == {
        f"layers.{layer}.{part}": torch.float16 for layer in (0, 1) for part in ("weight", "bias")
    }
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert json.loads((folder / "config.json").read_text()) == {"method": "toy", "width": 3}
    assert Toy.from_pretrained(folder, device="cpu").config == ToyConfig(width=3)

    text = (folder / "recipe.toml").read_bytes()
    assert text.startswith(HANDWRITTEN.encode())
    table = tomllib.loads(text.decode())
    train, unseen = folders.split(folders.image_files(place / "data"), held_out=3)
    assert table["result"] | {"first_steps_sha256": "", "recipe_sha256": ""} == {
        "sha256": digest,
        "recipe_sha256": "",
        "data_sha256": folders.fingerprint(train),
        "data_files": len(train),
        "first_steps_sha256": "",
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    assert table["metrics"].keys() == {"squared error", "constant"}
    assert len(unseen) == 6 - len(train) > 0


def test_comments_survive_a_build(place, toy, invoke) -> None:
    path = toy / "recipe.toml"
    before = path.read_bytes() + b"# Better than the last time.\n"
    path.write_bytes(before)
    assert invoke("build", "toy").code == 0
    assert path.read_bytes() == before


def test_the_first_steps_are_the_parameters_after_20_steps(place, toy) -> None:
    file = recipes.read(toy)
    recipe = file.make(Sources(place / "data", place / "teachers", place / "weights"))
    list(fit(recipe, file.schedule, until=20))
    parameters = dict(recipe.network.named_parameters())
    bytes_ = b"".join(parameters[name].detach().numpy().tobytes() for name in sorted(parameters))
    assert file.result.first_steps_sha256 == hashlib.sha256(bytes_).hexdigest()
    assert file.result.sha256 != file.result.first_steps_sha256


def test_the_card_is_valid_and_says_what_was_measured(toy) -> None:
    text = (toy / "README.md").read_text()
    _, matter, body = text.split("---\n", 2)
    assert yaml.safe_load(matter) == {
        "license": "apache-2.0",
        "library_name": "artmodels",
        "tags": ["artmodels", "toy", "image-to-image"],
    }
    assert body.startswith('\n# Toy: "two" layers\n\nCopies a picture, nearly.\n')
    file = recipes.read(toy)
    assert f"| squared error | {file.metrics['squared error']:.4g} |" in body
    assert "| constant | 1 |" in body
    assert 'artmodels.Toy.from_pretrained("toy")' in body
    assert f"in 25 steps on {file.result.data_files} images" in body
    assert "python -m weights build toy" in body
    assert "1 thread on" in body
    assert body.endswith("## Limits\n\nAll.\n")


def test_building_again_changes_nothing(toy, invoke, place) -> None:
    before = contents(toy)
    assert invoke("build", "toy").code == 0  # goes on from the work folder, which is complete
    assert contents(toy) == before
    shutil.rmtree(place / ".weights-work")
    assert invoke("build", "toy").code == 0
    assert contents(toy) == before


def test_an_interrupted_build_goes_on_to_the_same_files(toy, invoke, place, monkeypatch) -> None:
    before = contents(toy)
    shutil.rmtree(place / ".weights-work")
    monkeypatch.setattr("artmodels.training.SAVE_SECONDS", 0.0)

    def interrupt(self, rng):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 23:  # the first 20 steps are done by then, as a run of their own
            raise KeyboardInterrupt
        return losses(self, rng)

    losses = ToyRecipe.losses
    with monkeypatch.context() as patch:
        patch.setattr(ToyRecipe, "losses", interrupt)
        assert invoke("build", "toy").code == 130
    assert contents(toy) == before
    metrics = place / ".weights-work" / "toy" / "metrics.jsonl"
    assert len(metrics.read_text().splitlines()) == 22
    assert invoke("build", "toy").code == 0
    assert len(metrics.read_text().splitlines()) == 25
    assert contents(toy) == before


def edited(folder, old, new):
    path = folder / "recipe.toml"
    text = path.read_bytes()
    assert old.encode() in text
    path.write_bytes(text.replace(old.encode(), new.encode()))


def test_a_work_folder_of_another_recipe_or_other_images_is_refused(toy, invoke, place) -> None:
    before = contents(toy)
    edited(toy, "crop = 8", "crop = 9")
    done = invoke("build", "toy")
    assert done.code == 1
    assert "toy belongs to a training with other settings or other images: remove it" in done.err
    edited(toy, "crop = 9", "crop = 8")
    spoil(place)
    assert "other images" in invoke("build", "toy").err
    assert contents(toy) == before


def test_a_trial_never_replaces_the_checkpoint(toy, invoke, place) -> None:
    before = contents(toy)
    done = invoke("build", "toy", "--steps", 3)
    assert done.code == 2
    assert "a trial must not replace the checkpoint" in done.err
    for out in ("weights/toy", "weights/other", "weights"):
        done = invoke("build", "toy", "--steps", 3, "--out", out)
        assert done.code == 2
        assert "among the published checkpoints" in done.err
    done = invoke("build", "toy", "--steps", 3, "--out", "trial")
    assert done.code == 0, done.err
    assert "catalogue" not in done.out
    assert sorted(contents(place / "trial")) == sorted(before)
    assert "in 3 steps" in (place / "trial" / "README.md").read_text()
    assert (place / "trial" / "model.safetensors").read_bytes() != before["model.safetensors"]
    # What a trial made does not pass for the checkpoint.
    assert recipes.read(place / "trial").sha256 != recipes.read(place / "trial").result.recipe_sha256
    assert contents(toy) == before


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("steps = 25", "stepz = 25", ["TrainingConfig has no setting 'stepz'. Did you mean 'steps'?"]),
        ("[training]", "[trainings]", ["RecipeFile has no setting 'trainings'. Did you mean 'training'"]),
        ("width = 3", "widht = 3", ["ToyConfig has no setting 'widht'. Did you mean 'width'?"]),
        ("crop = 8", "crop = '8'", ["Settings.crop must be int, not '8'"]),
        ("limits =", "limit =", ["Card has no setting 'limit'. Did you mean 'limits'?"]),
        ('limits = "All."', 'limits = " "', ["[card] says nothing under limits"]),
        ("steps = 25", "steps = 0", ["steps=0 must be at least 1"]),
        ("[training]", "threads = 0\n[training]", ["threads=0 must be at least 1"]),
        ("[training]", "[training", ["recipe.toml is not valid TOML"]),
        ("toy.train:", "no_such_module:", ["no_such_module", "cannot be found"]),
        ("ToyRecipe", "Toyrecipe", ["toy.train:Toyrecipe", "cannot be found"]),
        ("ToyRecipe", "Toy", ["toy.train:Toy", "is not a subclass of artmodels.training.Recipe"]),
    ],
)
def test_a_wrong_recipe_is_explained(place, invoke, old, new, parts) -> None:
    edited(place / "weights" / "toy", old, new)
    done = invoke("build", "toy")
    assert done.code == 1
    for part in parts:
        assert part in done.err
    assert sorted(contents(place / "weights" / "toy")) == ["recipe.toml"]


def test_an_unknown_name_is_explained(invoke) -> None:
    for verb in ("build", "verify", "push"):
        done = invoke(verb, "toi")
        assert done.code == 1
        assert "no recipe for 'toi'. Did you mean 'toy'?" in done.err
    assert invoke("build", "../weights/toy").code == 1


def test_what_cannot_be_published_is_refused(place, invoke, monkeypatch) -> None:
    folder = place / "weights" / "toy"
    edited(folder, "crop = 8", "crop = 8\nhuge = true")
    assert "model.safetensors would be 12.0 MB, and 12 is the limit" in invoke("build", "toy").err
    assert not list(place.glob(".weights-work/toy/training*"))  # found out before the training
    edited(folder, "huge = true", "metric = nan")
    assert "The metric 'constant' is nan" in invoke("build", "toy", "--work", "other").err
    edited(folder, "metric = nan", "metric = 1.0")
    with monkeypatch.context() as patch:
        patch.setattr(ToyRecipe, "checkpoint", lambda self: ({}, {"a": torch.ones(2) * torch.inf}))
        assert "a is not finite as torch.float32" in invoke("build", "toy").err
        patch.setattr(ToyRecipe, "checkpoint", lambda self: ({}, {"a": torch.ones(2).double()}))
        assert "a is torch.float64: publish weights as float16 or float32" in invoke("build", "toy").err
    assert sorted(contents(folder)) == ["recipe.toml"]


def test_what_is_not_ours_is_never_replaced(place, toy, invoke) -> None:
    (toy / "notes.txt").write_text("mine")
    assert "toy holds notes.txt, and is replaced by" in invoke("build", "toy").err
    (place / "photos").mkdir()
    (place / "photos" / "README.md").write_text("mine")
    assert "photos holds README.md" in invoke("build", "toy", "--out", "photos").err
    (place / "file").write_text("mine")
    assert "file is a file" in invoke("build", "toy", "--out", "file").err
    assert (place / "photos" / "README.md").read_text() == (toy / "notes.txt").read_text() == "mine"


# --- all or nothing


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def killing(function, after):
    """`function`, but its call number `after` is the last thing that the process does, before it does it."""
    calls = []

    def call(*arguments, **options):
        calls.append(arguments)
        if len(calls) > after:
            raise Killed
        return function(*arguments, **options)

    return call


@pytest.mark.parametrize(
    ("where", "what", "after"),
    [("os.fsync", "fsync", count) for count in range(5)]
    + [("pathlib.Path.rename", "rename", count) for count in (0, 1)],
)
def test_a_kill_while_writing_leaves_the_old_checkpoint(place, toy, invoke, monkeypatch, where, what, after) -> None:
    before = contents(toy)
    edited(toy, "All.", "Many.")  # a card that differs
    before["recipe.toml"] = (toy / "recipe.toml").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(where, killing(getattr(Path if what == "rename" else os, what), after))
        with pytest.raises(Killed):
            command.build("toy", data=place / "data", teachers=place / "teachers")
    # Either it is there as before, or not at all; never in part.
    assert not toy.exists() or contents(toy) == before
    assert toy.exists() or after == 1
    assert invoke("verify", "toy", "--no-rerun").code == 0
    assert contents(toy) == before
    assert invoke("build", "toy").code == 0
    assert "Many." in (toy / "README.md").read_text()
    assert [path.name for path in toy.parent.iterdir()] == ["toy"]


def test_a_kill_after_the_exchange_leaves_the_new_checkpoint(place, toy, invoke, monkeypatch) -> None:
    edited(toy, "All.", "Many.")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killing(shutil.rmtree, 1))
        with pytest.raises(Killed):
            command.build("toy", data=place / "data", teachers=place / "teachers")
    assert "Many." in (toy / "README.md").read_text()
    assert invoke("verify", "toy", "--no-rerun").code == 0
    assert [path.name for path in toy.parent.iterdir()] == ["toy"]


def test_a_full_disk_leaves_the_old_checkpoint(toy, invoke, monkeypatch) -> None:
    before = contents(toy)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = invoke("build", "toy")
    assert done.code == 1
    assert "No space left on device" in done.err
    assert contents(toy) == before
    assert [path.name for path in toy.parent.iterdir()] == ["toy"]


# --- verify


def test_verify_passes_what_build_made(toy, place, invoke) -> None:
    done = invoke("verify")
    assert done.code == 0, done.out
    assert "8 passed, 0 failed, 0 skipped" in done.out
    found = verified(place)
    assert list(found) == ["recipe", "card", "config", "weights", "sha256", "catalogue", "first steps", "size"]
    assert found["first steps"] == ("passed", "as in the build, bit for bit")
    assert found["card"] == ("passed", "complete, apache-2.0")


def rewritten(folder, change):
    tensors = load((folder / "model.safetensors").read_bytes())
    change(tensors)
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def write(name, old, new):
    def tamper(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return tamper


TAMPERED = {
    "no front matter": (write("README.md", "---\nlibrary", "library"), "card", "README.md has no front matter"),
    "broken yaml": (write("README.md", "license: ", "license: ["), "card", "front matter of README.md is not valid"),
    "no licence": (write("README.md", "license: apache-2.0\n", ""), "card", "has no license"),
    "other library": (write("README.md", "library_name: artmodels", "library_name: timm"), "card", "'timm'"),
    "no tag": (write("README.md", "- toy\n", ""), "card", "lacks the tags toy"),
    "no limits": (write("README.md", "## Limits", "## Praise"), "card", "lacks the sections Limits"),
    "no card": (lambda folder: (folder / "README.md").unlink(), "card", "README.md is missing"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config", "has no config.json"),
    "unknown setting": (write("config.json", "width", "widht"), "config", "Did you mean 'width'?"),
    "unknown method": (write("config.json", '"toy"', '"toi"'), "config", "artmodels has no method 'toi'"),
    "other architecture": (write("config.json", '"method"', '"architecture"'), "config", "'toy' is none of vgg16"),
    "other settings": (write("config.json", "3", "4"), "catalogue", "differs from the folder, width 3, not 4"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "weights", "is missing: python -m weights"),
    "damaged": (lambda folder: (folder / "model.safetensors").write_bytes(b"12"), "weights", "cannot be opened"),
    "too large": (
        lambda folder: rewritten(folder, lambda tensors: tensors.update(a=torch.zeros(6_100_000).half())),
        "weights",
        "has 12.2 MB, more than 12",
    ),
    "other type": (
        lambda folder: rewritten(folder, lambda tensors: tensors.update(a=torch.zeros(2, dtype=torch.int64))),
        "weights",
        "only F16 and F32 are published: a is I64",
    ),
    "other key": (
        lambda folder: rewritten(folder, lambda tensors: tensors.update(a=torch.zeros(2))),
        "weights",
        "1 unexpected: a",
    ),
    "one bit": (
        lambda folder: rewritten(folder, lambda tensors: tensors["layers.1.bias"].add_(1)),
        "sha256",
        "and the recipe's result",
    ),
    "edited recipe": (write("recipe.toml", "crop = 8", "crop = 9"), "recipe", "were changed after the build"),
    "unknown key": (write("recipe.toml", "data_files", "data_file"), "recipe", "Did you mean 'data_files'?"),
    "no metrics": (write("recipe.toml", "[metrics]", "[metrics.nothing]"), "recipe", "RecipeFile.metrics must be"),
    "not measured": (
        lambda folder: (folder / "recipe.toml").write_text((folder / "recipe.toml").read_text().split('"squared')[0]),
        "recipe",
        "[metrics] is empty",
    ),
    "never built": (
        lambda folder: (folder / "recipe.toml").write_text(HANDWRITTEN),
        "recipe",
        "toy was never built",
    ),
    "fifth file": (lambda folder: (folder / "extra.png").touch(), "recipe", "more than its four files: extra.png"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_verify_finds_what_was_tampered_with(toy, place, case) -> None:
    tamper, what, text = TAMPERED[case]
    tamper(toy)
    found = verified(place, rerun=False)
    assert found[what][0] == "failed", found
    assert text in found[what][1]
    assert "passed" not in {found[other][0] for other in ("first steps",)}


def test_every_fault_has_a_text_of_its_own() -> None:
    texts = [text for _, _, text in TAMPERED.values()]
    assert len(set(texts)) == len(texts)


def test_a_failed_check_is_exit_code_1(toy, invoke) -> None:
    rewritten(toy, lambda tensors: tensors["layers.1.bias"].add_(1))
    done = invoke("verify")
    assert done.code == 1
    assert "2 failed" in done.out  # the recipe's result and the catalogue's pin
    assert "the catalogue differs from the folder, sha256" in done.out


def test_the_catalogue_is_compared(toy, place, monkeypatch) -> None:
    for changes, text in (
        ({"licence": "MIT"}, 'licence "mit", not "apache-2.0"'),
        ({"config": {}}, "differs from the folder, width nothing, not 3"),
        ({"method": "fast_style"}, 'method "fast_style", not "toy"'),
        ({"name": "other"}, "in no manifest with its weights"),
        ({"weights": None}, "in no manifest with its weights: python -m weights card toy"),
    ):
        enter(monkeypatch, toy, **changes)
        state, found = verified(place, rerun=False)["catalogue"]
        assert state == "failed"
        assert text in found


def test_all_weights_together_are_limited(toy, place, monkeypatch) -> None:
    monkeypatch.setattr(checks, "TOTAL", 500)
    assert verified(place, rerun=False)["size"][0] == "failed"


def test_first_steps_that_differ_fail(toy, place, invoke, monkeypatch) -> None:
    losses = ToyRecipe.losses
    monkeypatch.setattr(ToyRecipe, "losses", lambda self, rng: {"copy": losses(self, rng)["copy"] * 1.001})
    state, text = verified(place)["first steps"]
    assert state == "failed"
    assert text.endswith(f", and the build had {recipes.read(toy).result.first_steps_sha256}")
    assert invoke("verify").code == 1


def test_elsewhere_the_first_steps_must_agree_with_themselves(toy, place, monkeypatch) -> None:
    recorded = f'torch = "{torch.__version__}"'
    edited(toy, recorded, 'torch = "1.0"')
    edited(toy, "first_steps_sha256 = ", 'first_steps_sha256 = "0"  # ')
    state, text = verified(place)["first steps"]
    assert state == "passed"
    assert text.startswith("two runs here agree bit for bit; built on 1.0 ")
    monkeypatch.setattr(ToyRecipe, "unseeded", True)
    state, text = verified(place)["first steps"]
    assert state == "failed"
    assert text.startswith("two runs here differ")


def test_what_cannot_be_checked_is_skipped_with_the_reason(toy, place, invoke) -> None:
    done = invoke("verify", "--no-rerun")
    assert done.code == 0
    assert "7 passed, 0 failed, 1 skipped" in done.out
    assert "first steps skipped --no-rerun" in done.out
    spoil(place)
    assert verified(place)["first steps"] == (
        "skipped",
        f"{place / 'data'} is not the data that it was trained on",
    )
    shutil.rmtree(place / "data")
    assert verified(place)["first steps"] == ("skipped", f"there is no {place / 'data'}")
    (place / "data").mkdir()
    state, text = verified(place)["first steps"]
    assert state == "skipped"
    assert "holds no image" in text


# --- push


@pytest.fixture
def hub(monkeypatch):
    with FakeHub() as server:
        monkeypatch.setattr(command, "HfApi", partial(HfApi, endpoint=server.url, token="x"))
        yield server


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # raised inside the client
def test_push_uploads_the_four_files(toy, invoke, hub) -> None:
    (toy / ".cache").mkdir()
    done = invoke("push", "toy")
    assert done.code == 1
    assert "more than its four files: .cache" in done.err
    assert not hub.repos
    (toy / ".cache").rmdir()
    done = invoke("push", "toy", "--repo", "museum/toy")
    assert done.code == 0, done.err
    commit = hub.repos["museum/toy"].refs["main"]
    assert done.out == f"museum/toy is at {commit}"
    assert hub.repos["museum/toy"].commits[commit] == contents(toy)


def test_push_refuses_what_does_not_verify(toy, invoke, hub) -> None:
    rewritten(toy, lambda tensors: tensors["layers.1.bias"].add_(1))
    done = invoke("push", "toy")
    assert done.code == 1
    assert "toy is not pushed, because python -m weights verify fails: sha256: " in done.err
    assert invoke("push", "toy", "--repo", "no-owner").err == "weights: 'no-owner' is not 'owner/name'."
    assert not hub.repos


def test_a_refused_push_is_explained(toy, invoke, hub) -> None:
    hub.faults.append(Fault("POST /api/repos/create", status=403))
    done = invoke("push", "toy")
    assert done.code == 1
    assert "artmodels/toy could not be pushed to" in done.err
    assert "403" in done.err
    assert "hf auth login" in done.err


def test_a_recipe_that_waits_for_its_training_is_skipped_unless_asked_for(toy, place) -> None:
    waiting = toy.with_name("waiting")
    waiting.mkdir()
    (waiting / "recipe.toml").write_bytes((toy / "recipe.toml").read_bytes())
    sources = Sources(place / "data", place / "teachers", place / "weights")
    rows = [check for check in checks.verify(sources=sources) if check.name == "waiting"]
    assert [(row.what, row.state) for row in rows] == [("weights", "skipped")]
    assert rows[0].text == "not built: python -m weights build waiting"


# --- convert


def test_what_is_not_converted_names_what_is(tmp_path) -> None:
    known = "arbitrary_style, fast_style, ransac_flow, region_features, super_resolution"
    for arguments, says in (
        (["fast_stile", "a.pth", "out"], f"nothing is converted for 'fast_stile', only for {known}. Did you mean"),
        (["texture-patches", "a.pth", "out"], "nothing is converted for 'texture-patches'"),
        (["super_resolution", "a.pth", "out", "--style", "ink"], "super_resolution takes none"),
    ):
        done = CliRunner(env={"COLUMNS": "400"}).invoke(command.app, ["convert", *arguments])
        assert done.exit_code == 2 and says in done.output, done.output
    done = CliRunner().invoke(command.app, ["convert", "ransac-flow-megadepth", "a.pth", "out"])
    assert isinstance(done.exception, UnsafeFormat) and "nothing else is ever opened" in str(done.exception)
