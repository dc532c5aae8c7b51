"""What every method must be able to do, whichever it is: loads, fits any size, is deterministic, exports, serves.

The signature of its call says what it takes, and the `[test]` of its manifest how it is called quickly, and on what:

    size     Height and width of the first picture, instead of 33 x 45.
    crop     Rows and columns of it that the second one lacks, which is then the same; otherwise it is another one.
    quick    Options of a call that make it fast.
    loaded   Settings to load it with that make it fast.
"""

import inspect
import json
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
from artmodels.runtime.feedforward import FeedForward

# Checkpoints that are here, of methods that have a page.
OFFLINE = [
    entry
    for entry in catalogue.list_models()
    if catalogue.find_method(entry.method) in catalogue.methods()
    and catalogue.download(entry) is None
    and not entry.converted
]


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth coloured noise that is 8-bit exact, [1, 3, height, width]."""
    coarse = torch.rand(1, 3, height // 3 + 2, width // 3 + 2, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth * 255).round() / 255


def case(entry: Entry) -> dict[str, Any]:
    return dict(catalogue.find_method(entry.method).test)


def loaded(entry: Entry) -> dict[str, Any]:
    return case(entry).get("loaded", {})


def parameters(entry: Entry) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(class_of(entry.method).__call__).parameters)


def pictures_of(entry: Entry) -> list[str]:
    """The pictures that a method takes, by what its call calls them."""
    positional = [item.name for item in parameters(entry).values() if item.kind is item.POSITIONAL_OR_KEYWORD]
    return positional[1:]


def inputs(entry: Entry) -> list[Tensor]:
    facts = case(entry)
    first = picture(*facts.get("size", (33, 45)))
    rows, columns = facts.get("crop", (0, 0))
    second = first[..., rows:, columns:] if "crop" in facts else picture(40, 36, seed=1)
    return [first, second][: len(pictures_of(entry))]


def run(model: Any, entry: Entry, **changes: object) -> ImageResult:
    options = case(entry).get("quick", {}) | changes
    if "seed" not in parameters(entry):
        options.pop("seed", None)
    return model(*inputs(entry), **options)


def loads(entry: Entry, folder: Path) -> None:
    """By name, by `artmodels.load`, and from what it saved: the same method with the same settings and results."""
    method = class_of(entry.method)
    settings = loaded(entry)
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
    if "size" in parameters(entry):
        result = run(model, entry, size=size)
    else:
        given, names = inputs(entry), pictures_of(entry)
        given[names.index("target") if "target" in names else 0] = picture(*size)
        result = model(*given)
        scale = getattr(model.config, "scale", 1)
        size = size[0] * scale, size[1] * scale
    assert result.tensor.shape == (1, 3, *size)
    assert result.tensor.dtype == torch.float32 and result.tensor.isfinite().all()
    assert result.tensor.min() >= 0 and result.tensor.max() <= 1
    assert result.image.size == size[::-1] and result.image.mode == "RGB"
    assert result.complete


def is_deterministic(model: Any, entry: Entry) -> None:
    """The same bytes for the same seed, others for another; nothing else that draws numbers is disturbed."""
    torch.manual_seed(5)
    first = run(model, entry, seed=1)
    drawn = torch.rand(1)
    torch.manual_seed(6)
    assert torch.equal(run(model, entry, seed=1).tensor, first.tensor)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    if "seed" not in parameters(entry):
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
    takes = parameters(entry)
    own = settings.get("seed")  # where it is a setting of the model, not of a call
    assert stored.get("seed") == ("3" if "seed" in takes else None if own is None else str(own))
    assert settings["method"] == entry.method
    assert settings["artmodels_version"] == artmodels.__version__
    overrides = any(item.kind is item.VAR_KEYWORD for item in takes.values())
    known = (takes.keys() - {"masks", *pictures_of(entry)}) | (vars(model.config).keys() if overrides else set())
    rerun = {key: value for key, value in settings.items() if key in known}
    model(*inputs(entry), **rerun).save(folder / "again.png")
    assert (folder / "again.png").read_bytes() == (folder / "first.png").read_bytes()

    if not hasattr(model, "stream"):
        return
    *steps, last = model.stream(*inputs(entry), **case(entry)["quick"] | {"seed": 3})
    assert torch.equal(last.tensor, result.tensor)
    assert [step.index for step in steps] == list(range(1, steps[-1].total + 1))
    assert last.losses == tuple(step.loss for step in steps) == result.losses
    assert all(0 <= float(step.image.min()) and float(step.image.max()) <= 1 for step in steps)
