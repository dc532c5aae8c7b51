"""Toy methods and checkpoints for the tests of hub.py and the two files below it."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from unittest import mock

import torch
from safetensors.torch import load as parse
from safetensors.torch import save

from artmodels import catalogue, hub
from artmodels.catalogue import Entry, Weights
from artmodels.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sizes:
    height: int = 2


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    width: int = 4
    gain: float = 1.0
    exact: bool = False
    mode: Literal["soft", "hard"] = "soft"
    title: str | None = None
    layers: tuple[str, ...] = ("first", "second")
    span: tuple[int, float] = (1, 2.0)
    scores: Mapping[str, float] = field(default_factory=dict)
    sizes: Sizes = Sizes()

    def __post_init__(self):
        if self.width < 1:
            raise ConfigError(f"width must be at least 1, not {self.width}.")


def shapes(width=4):
    return {
        "first.weight": (width, 3, 3, 3),
        "first.bias": (width,),
        "second.weight": (3, width, 3, 3),
        "second.bias": (3,),
    }


class Toy(hub.Pretrained):
    method = "toy"
    config_class = ToyConfig

    def __init__(self, config, tensors, device=None):
        self.config, self.tensors, self.device = config, tensors, device

    @classmethod
    def random(cls, seed=0, **settings):
        config = ToyConfig(**settings)
        generator = torch.Generator().manual_seed(seed)
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in shapes(config.width).items()}
        return cls(config, tensors)

    @classmethod
    def _build(cls, config, resolved, *, device, dtype, local_files_only):
        return cls(config, resolved.load(shapes(config.width)), device)

    def _tensors(self):
        return self.tensors


@dataclass(frozen=True, kw_only=True)
class PlainConfig:
    features: str = ""
    finish: str | None = None
    steps: int = 10


class Plain(hub.Pretrained):
    """A method without weights of its own."""

    method = "texture_synthesis"
    config_class = PlainConfig

    def __init__(self, config, resolved):
        self.config, self.resolved = config, resolved

    @classmethod
    def _build(cls, config, resolved, *, device, dtype, local_files_only):
        return cls(config, resolved)


CONFIG = json.dumps({"method": "toy", "artmodels_version": "0", "width": 4}).encode()
GOOD = save(Toy.random(seed=1).tensors)
OTHER = save(Toy.random(seed=2).tensors)
CHECKPOINT = {"config.json": CONFIG, "model.safetensors": GOOD, "README.md": b"---\nlicense: mit\n---\n"}


def pinned(name="toy-pinned", repo="up/toy", revision="0" * 40, data=GOOD, **more):
    weights = Weights(repo=repo, revision=revision, sha256=hashlib.sha256(data).hexdigest(), size_mb=0.01)
    return Entry(name=name, method="toy", summary="", source="", licence="MIT", weights=weights, **more)


def same(model, data):
    expected = parse(data)
    return model.tensors.keys() == expected.keys() and all(
        torch.equal(model.tensors[key], value) for key, value in expected.items()
    )


@contextlib.contextmanager
def entries(*added):
    with mock.patch.object(catalogue, "ENTRIES", (*added, *catalogue.ENTRIES)):
        yield
