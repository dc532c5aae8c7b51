"""What every method must be able to do, whichever it is: loads, fits any size, is deterministic, exports, serves."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import artmodels
from artmodels import images
from artmodels.errors import ConfigError
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Entry
from artmodels.images.results import ImageResult
from artmodels.methods import class_of
from artmodels.methods.arbitrary_style import ArbitraryStyleConfig
from artmodels.methods.artminer import ArtMinerConfig
from artmodels.methods.fast_style import FastStyleConfig
from artmodels.methods.ransac_flow import RansacFlowConfig
from artmodels.methods.super_resolution import SuperResolutionConfig
from artmodels.methods.texture_network import TextureNetworkConfig
from artmodels.runtime.feedforward import FeedForward


@dataclass(frozen=True, kw_only=True)
class Case:
    """How to call a method on small inputs.

    Attributes:
        inputs: Its positional arguments.
        quick: Settings that make it fast.
        retold: Settings of a result that describe inputs, which a rerun is given anyway.
        seeded: Whether it draws random numbers.
        stepwise: Whether it works step by step, with something to show on the way.
        sized: Whether it can be asked for a size; otherwise the result is `scale` times its input.
        loaded: Settings to load it with that make it fast.
        like: Which of the inputs the result is as large as.
    """

    inputs: Callable[[], tuple[Any, ...]]
    quick: Mapping[str, object] = field(default_factory=dict)
    retold: frozenset[str] = frozenset()
    seeded: bool = True
    stepwise: bool = True
    sized: bool = True
    loaded: Mapping[str, object] = field(default_factory=dict)
    like: int = 0


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth coloured noise that is 8-bit exact, [1, 3, height, width]."""
    coarse = torch.rand(1, 3, height // 3 + 2, width // 3 + 2, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth * 255).round() / 255


CASES = {
    "arbitrary_style": Case(
        inputs=lambda: (picture(33, 45), picture(40, 36, seed=1)),
        retold=frozenset({"model", *(item.name for item in dataclasses.fields(ArbitraryStyleConfig))}),
        seeded=False,
        stepwise=False,
    ),
    "artminer": Case(
        inputs=lambda: (picture(33, 45), picture(40, 36, seed=1)),
        retold=frozenset({"model", "score", "view", *(item.name for item in dataclasses.fields(ArtMinerConfig))}),
        seeded=False,
        stepwise=False,
        sized=False,
        loaded={"scales": (20,), "reference": 20, "views": ("",)},
    ),
    "fast_style": Case(
        inputs=lambda: (picture(33, 45),),
        retold=frozenset({"model", *(item.name for item in dataclasses.fields(FastStyleConfig))}),
        seeded=False,
        stepwise=False,
    ),
    "mimax": Case(
        inputs=lambda: (picture(33, 45),),
        quick={"threshold": -0.99, "limit": 3},
        retold=frozenset({"model", "objects"}),
        seeded=False,
        stepwise=False,
        sized=False,
    ),
    "ransac_flow": Case(
        inputs=lambda: (picture(128, 160), picture(128, 160)[..., 4:, 6:]),
        retold=frozenset(
            {
                "model",
                "view",
                "found",
                "inliers",
                "matches",
                "certainty_found",
                *(item.name for item in dataclasses.fields(RansacFlowConfig)),
            }
        ),
        seeded=False,
        stepwise=False,
        sized=False,
        loaded={"side": 128, "hypotheses": 500, "views": ("",)},
        like=1,
    ),
    "super_resolution": Case(
        inputs=lambda: (picture(33, 45),),
        retold=frozenset({"model", *(item.name for item in dataclasses.fields(SuperResolutionConfig))}),
        seeded=False,
        stepwise=False,
        sized=False,
    ),
    "texture_network": Case(
        inputs=tuple,
        quick={"size": (32, 64)},
        retold=frozenset({"model", *(item.name for item in dataclasses.fields(TextureNetworkConfig))}),
        stepwise=False,
    ),
    "texture_synthesis": Case(inputs=lambda: (picture(33, 45),), quick={"steps": 2, "size": (32, 40)}),
    "neural_style": Case(
        inputs=lambda: (picture(33, 45), picture(40, 36, seed=1)),
        quick={"steps": 2, "size": (32, 40), "init": "noise"},
        retold=frozenset({"masks"}),
    ),
}

# Checkpoints that are here.
OFFLINE = [
    entry
    for entry in catalogue.list_models()
    if entry.method in CASES and catalogue.download(entry) is None and not entry.converted
]


def run(model: Any, entry: Entry, **changes: object) -> ImageResult:
    case = CASES[entry.method]
    if not case.seeded:
        changes.pop("seed", None)
    return model(*case.inputs(), **dict(case.quick) | changes)


def loads(entry: Entry, folder: Path) -> None:
    """By name, by `artmodels.load`, and from what it saved: the same method with the same settings and results."""
    method = class_of(entry.method)
    settings = CASES[entry.method].loaded
    model = method.from_pretrained(entry.name, device="cpu", **settings)
    assert isinstance(artmodels.load(entry.name, device="cpu"), method)
    assert all(getattr(model.config, key) == value for key, value in entry.config.items())
    saved = model.save_pretrained(folder / "saved")
    again = method.from_pretrained(saved, device="cpu")
    assert again.config == model.config
    assert torch.equal(run(again, entry).tensor, run(model, entry).tensor)
    if entry.default:
        assert method.from_pretrained(device="cpu", **settings).config == model.config


def fits(model: Any, entry: Entry, size: tuple[int, int]) -> None:
    """A result of exactly the size asked for, in range."""
    if CASES[entry.method].sized:
        result = run(model, entry, size=size)
    else:
        inputs = list(CASES[entry.method].inputs())
        inputs[CASES[entry.method].like] = picture(*size)
        result = model(*inputs)
        scale = getattr(model.config, "scale", 1)
        size = size[0] * scale, size[1] * scale
    assert result.tensor.shape == (1, 3, *size)
    assert result.tensor.dtype == torch.float32 and result.tensor.isfinite().all()
    assert result.tensor.min() >= 0 and result.tensor.max() <= 1
    assert result.image.size == size[::-1] and result.image.mode == "RGB"
    assert result.complete


def is_deterministic(model: Any, entry: Entry) -> None:
    """The same bytes for the same seed, others for another; nothing else that draws numbers is disturbed."""
    seeded = CASES[entry.method].seeded
    torch.manual_seed(5)
    first = run(model, entry, seed=1)
    drawn = torch.rand(1)
    torch.manual_seed(6)
    assert torch.equal(run(model, entry, seed=1).tensor, first.tensor)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    if not seeded:
        return
    assert not torch.equal(run(model, entry, seed=2).tensor, first.tensor)
    for wrong in (-1, 2**63, 1.5, True):
        with pytest.raises(ConfigError, match="is not an integer from 0 to"):
            run(model, entry, seed=wrong)


def exports_or_says_why_not(entry: Entry) -> None:
    """Without an exported folder, asking for a graph says how to make one, or that the method has none."""
    method = class_of(entry.method)
    graph = catalogue.find_method(entry.method).no_graph is None
    assert graph == issubclass(method, FeedForward)
    says = (
        "is not a folder with an exported graph.*python -m export"
        if graph
        else f"runtime='onnx' is not available for {method.__name__}.*runtime='torch'"
    )
    with pytest.raises(ConfigError, match=says):
        method.from_pretrained(entry.name, runtime="onnx")


def serves(model: Any, entry: Entry, folder: Path) -> None:
    """A PNG that carries what it takes to make it again, byte for byte; and steps to show on the way."""
    result = run(model, entry, seed=3)
    assert isinstance(result.image, Image.Image)
    result.save(folder / "first.png")
    stored = images.read_metadata(folder / "first.png")
    settings = json.loads(stored["artmodels"])
    case = CASES[entry.method]
    own = settings.get("seed")  # where it is a setting of the model, not of a call
    assert stored.get("seed") == ("3" if case.seeded else None if own is None else str(own))
    assert settings["method"] == entry.method
    assert settings["artmodels_version"] == artmodels.__version__
    rerun = {key: value for key, value in settings.items() if key not in {"method", "artmodels_version", *case.retold}}
    model(*case.inputs(), **rerun).save(folder / "again.png")
    assert (folder / "again.png").read_bytes() == (folder / "first.png").read_bytes()

    if not case.stepwise:
        return
    *steps, last = model.stream(*case.inputs(), **dict(case.quick) | {"seed": 3})
    assert torch.equal(last.tensor, result.tensor)
    assert [step.index for step in steps] == list(range(1, steps[-1].total + 1))
    assert last.losses == tuple(step.loss for step in steps) == result.losses
    assert all(0 <= float(step.image.min()) and float(step.image.max()) <= 1 for step in steps)
