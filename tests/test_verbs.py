"""Every checkpoint of the catalogue that needs no download passes the same verbs."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import artmodels
import artmodels.methods
from artmodels.cli import commands as cli
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Entry
from export import folder as exporting
from tests import verbs


@pytest.fixture(scope="module", params=verbs.OFFLINE, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param


@pytest.fixture(scope="module")
def model(entry: Entry) -> Any:
    return artmodels.load(entry.name, device="cpu", **verbs.loaded(entry))


def test_every_method_has_a_model_that_is_here() -> None:
    assert {method.id for method in catalogue.methods()} == {entry.method for entry in verbs.OFFLINE}


def test_loads(entry: Entry, tmp_path: Path) -> None:
    verbs.loads(entry, tmp_path)


@pytest.mark.parametrize("size", [(33, 57), (64, 40), (67, 90)], ids=["odd", "upright", "larger than the input"])
def test_fits(model: Any, entry: Entry, size: tuple[int, int]) -> None:
    verbs.fits(model, entry, size)


def test_is_deterministic(model: Any, entry: Entry) -> None:
    verbs.is_deterministic(model, entry)


def test_exports_or_says_why_not(entry: Entry) -> None:
    verbs.exports_or_says_why_not(entry)


def test_serves(model: Any, entry: Entry, tmp_path: Path) -> None:
    verbs.serves(model, entry, tmp_path)


# --- A new method is its folder

MANIFEST = """
class = "Inverter"
title = "Invert"
text = "A picture with its brightness turned around."
source = "a toy"
place = 1

[[models]]
name = "toy-invert"
summary = "White becomes black."
source = "nobody"
licence = "Apache-2.0"
default = true
config = { gain = 0.9 }
"""
CODE = '''
from dataclasses import dataclass
from typing import Annotated

import torch

from artmodels import images
from artmodels.images.results import ImageResult
from artmodels.images.tiling import SizeRequirements
from artmodels.runtime.feedforward import FeedForward, Graph
from artmodels.settings import Positive, Settings


@dataclass(frozen=True, kw_only=True)
class InverterConfig(Settings):
    """How."""

    gain: Annotated[Positive, "Contrast of the result."] = 1.0


class Net(Graph):
    def __init__(self, config):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor([config.gain]))

    def forward(self, image):
        return (1 - image) * self.gain


class Inverter(FeedForward):
    method = "toy_invert"
    config_class = InverterConfig

    @classmethod
    def _network(cls, config):
        return Net(config)

    @classmethod
    def _build(cls, config, resolved, placement):
        return cls(config, device=placement.device, dtype=placement.dtype)

    def __call__(self, image: images.Source, *, strength: float = 1.0) -> ImageResult:
        """Invert a picture.

        Args:
            image: What `artmodels.images.load` reads.
            strength: How much of the result, from 0 to 1.
        """
        x = images.load(image).tensor()
        y = self._infer(x) * strength + x * (1 - strength)
        settings = {"method": self.method, "artmodels_version": VERSION, "strength": strength, **vars(self.config)}
        return ImageResult(tensor=y, settings=settings, seconds=0.0)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """The model of a method that has come with a folder, and with nothing else."""
    folder = tmp_path / "methods" / "toy_invert"
    folder.mkdir(parents=True)
    (folder / "method.toml").write_text(MANIFEST)
    (folder / "__init__.py").write_text(f"VERSION = {artmodels.__version__!r}\n{CODE}")
    monkeypatch.setattr(artmodels.methods, "__path__", [*artmodels.methods.__path__, str(folder.parent)])
    known = catalogue.read()
    monkeypatch.setattr(catalogue, "read", lambda: (*known, catalogue.parse(folder / "method.toml")))
    yield catalogue.get("toy-invert")
    sys.modules.pop("artmodels.methods.toy_invert", None)


def test_a_folder_is_all_that_a_new_method_takes(toy: Entry, tmp_path: Path) -> None:
    assert catalogue.methods()[0].title == "Invert"
    model = artmodels.load("toy-invert", device="cpu")
    verbs.loads(toy, tmp_path)
    verbs.fits(model, toy, (33, 57))
    verbs.is_deterministic(model, toy)
    verbs.exports_or_says_why_not(toy)
    verbs.serves(model, toy, tmp_path)

    Image.new("RGB", (16, 12), "white").save(tmp_path / "white.png")
    runner = CliRunner(env={"COLUMNS": "200"})
    words = runner.invoke(cli.app, ["run", "toy_invert", "--help"]).output
    assert "How much of the result, from 0 to 1." in words and "Contrast of the result." in words
    files = [str(tmp_path / name) for name in ("white.png", "black.png")]
    done = runner.invoke(cli.app, ["run", "toy_invert", files[0], "-o", files[1], "--strength", "0.5"])
    assert done.exit_code == 0, done.output
    assert Image.open(files[1]).getpixel((0, 0)) == (128, 128, 128)
    assert "toy-invert" in runner.invoke(cli.app, ["list", "--method", "toy_invert"]).output
    (exported,) = exporting.export(str(tmp_path / "saved"), tmp_path / "graphs")
    assert torch.allclose(
        type(model).from_pretrained(exported, runtime="onnx")(files[0]).tensor, torch.zeros(1), atol=0.02
    )
