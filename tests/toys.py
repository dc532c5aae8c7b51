"""Toy methods and checkpoints for the tests of hub.py and the two files below it, and for those of graphs."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal
from unittest import mock

import torch
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import nn

from artmodels import hub
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Entry, Method, Weights
from artmodels.images.tiling import SizeRequirements
from artmodels.runtime.feedforward import FeedForward, Graph
from artmodels.settings import Count, Settings


@dataclass(frozen=True, kw_only=True)
class Sizes:
    height: int = 2


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Settings):
    width: Annotated[Count, "Channels."] = 4
    gain: float = 1.0
    exact: bool = False
    mode: Literal["soft", "hard"] = "soft"
    title: str | None = None
    layers: tuple[str, ...] = ("first", "second")
    span: tuple[int, float] = (1, 2.0)
    scores: Mapping[str, float] = field(default_factory=dict)
    sizes: Sizes = Sizes()


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
    def _build(cls, config, resolved, placement):
        return cls(config, resolved.load(shapes(config.width)), placement.device)

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
    def _build(cls, config, resolved, placement):
        return cls(config, resolved)


@dataclass(frozen=True, kw_only=True)
class TintConfig:
    colours: int = 5


class Palette(Graph):
    """Says numbers of a picture, most of them outside [0, 1]."""

    requirements = SizeRequirements(minimum=8)
    inputs: ClassVar = ("picture",)
    output = "colours"
    pictures = False

    def __init__(self, config):
        super().__init__()
        self.last = nn.Linear(6, config.colours)

    def forward(self, x):
        return 9 * self.last(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)) - 2


class Tint(Graph):
    requirements = SizeRequirements(multiple_of=4)
    inputs: ClassVar = ("image", "colours")

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.first = nn.Linear(config.colours, 6)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def example(self, batch, height, width, *, seed=0):
        colours = torch.randn(batch, self.config.colours, generator=torch.Generator().manual_seed(seed))
        return (*super().example(batch, height, width, seed=seed), colours)

    def forward(self, x, colours):
        scale, shift = self.first(colours)[:, :, None, None].chunk(2, 1)
        return torch.sigmoid(self.conv(x) * scale + shift)


class Tinter(FeedForward):
    """A feed-forward method with a companion."""

    method = "toy_tint"
    config_class = TintConfig
    main = "tint"

    @classmethod
    def _network(cls, config):
        return Tint(config)

    @classmethod
    def _companions(cls, config):
        return {"palette": Palette(config)}

    def __call__(self, image, like):
        return self._infer(image, self._companion("palette", like))


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
def catalogued(*methods):
    """The catalogue with these methods before its own."""
    read = catalogue.read
    with mock.patch.object(catalogue, "read", lambda: (*methods, *read())):
        yield


def entries(*added):
    return catalogued(Method(id="toy", class_name="Toy", models=added))
