"""What a picture is to excite: `Channel(tap="layer3", channel=5) + 0.5 * Diversity(tap="layer3")`, or that as text.

Source: Olah et al. 2017, "Feature Visualization", and the objectives of its library, Lucid; the algebra is that of
`artmodels.descent.algebra`. As a loss, a term is the negative of what it measures: what is minimised excites.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor
from torch.nn import functional as F

from artmodels.descent.algebra import Bound, Context, Features, Loss, Moments, Term, parse
from artmodels.errors import ConfigError
from artmodels.settings import Share

__all__ = [
    "OBJECTIVES",
    "Channel",
    "Direction",
    "Diversity",
    "FeatureObjective",
    "Layer",
    "Neuron",
    "as_objective",
    "weighted_objectives",
]

Index = Annotated[int, "Its number, from 0."]
EPSILON = 1e-10


@dataclass(frozen=True, kw_only=True)
class FeatureObjective(Term):
    """Something at one tap that a picture excites more or less."""

    tap: Annotated[str, "Where in the network."]

    def taps(self, context: Context) -> tuple[str, ...]:
        """The tap."""
        return (self.tap,)

    @abstractmethod
    def value(self, features: Tensor) -> Tensor:
        """How much features [N, C, h, w] of N pictures excite it, a scalar; a ConfigError where there is no such part.

        The sum over the pictures, so that the step of each does not depend on how many there are.
        """

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """As a loss, which needs no exemplar."""
        return lambda x, features, moments: -self.value(features[self.tap])


@dataclass(frozen=True, kw_only=True)
class _OfAChannel(FeatureObjective):
    channel: Index

    def _map(self, features: Tensor) -> Tensor:
        """[N, h, w]."""
        if not 0 <= self.channel < features.shape[1]:
            raise ConfigError(
                f"channel={self.channel} is not one of the {features.shape[1]} of {self.tap!r}, from 0 on"
            )
        return features[:, self.channel]


@dataclass(frozen=True, kw_only=True)
class Channel(_OfAChannel):
    """The mean of a channel over all positions: a texture that it looks for."""

    name = "channel"

    def value(self, features: Tensor) -> Tensor:
        """See `FeatureObjective.value`."""
        return self._map(features).mean((1, 2)).sum()


@dataclass(frozen=True, kw_only=True)
class Neuron(_OfAChannel):
    """A channel at one position: one thing that it looks for, as large as its receptive field."""

    name = "neuron"
    y: Annotated[Share, "Where, from the top, as a share of the height."] = 0.5
    x: Annotated[Share, "Where, from the left, as a share of the width."] = 0.5

    def value(self, features: Tensor) -> Tensor:
        """See `FeatureObjective.value`."""
        height, width = features.shape[-2:]
        row, column = min(int(self.y * height), height - 1), min(int(self.x * width), width - 1)
        return self._map(features)[:, row, column].sum()


@dataclass(frozen=True, kw_only=True)
class Direction(FeatureObjective):
    """The mean over positions of the inner product with a vector: channels that go together."""

    name = "direction"
    vector: Annotated[tuple[float, ...], Len(1), "As many numbers as the tap has channels."]

    def value(self, features: Tensor) -> Tensor:
        """See `FeatureObjective.value`."""
        if len(self.vector) != features.shape[1]:
            raise ConfigError(
                f"vector has {len(self.vector)} numbers for the {features.shape[1]} channels of {self.tap!r}"
            )
        direction = torch.tensor(self.vector, dtype=features.dtype, device=features.device)
        return torch.einsum("nchw,c->nhw", features, direction).mean((1, 2)).sum()


@dataclass(frozen=True, kw_only=True)
class Layer(FeatureObjective):
    """The mean square of a whole layer (Mordvintsev et al. 2015, "DeepDream"): whatever excites it at all."""

    name = "layer"

    def value(self, features: Tensor) -> Tensor:
        """See `FeatureObjective.value`."""
        return features.square().mean((1, 2, 3)).sum()


@dataclass(frozen=True, kw_only=True)
class Diversity(FeatureObjective):
    """How much several pictures differ: minus the cosine of their Gram matrices, for each with all others."""

    name = "diversity"

    def value(self, features: Tensor) -> Tensor:
        """See `FeatureObjective.value`; one picture alone has none, which is a ConfigError."""
        if len(features) < 2:
            raise ConfigError("diversity compares pictures with each other: ask for count=2 or more, or leave it out")
        flat = features.flatten(2)
        grams = F.normalize((flat @ flat.mT).flatten(1), eps=EPSILON)
        cosines = grams @ grams.T
        return -(cosines.sum() - cosines.diagonal().sum()) / len(features)


OBJECTIVES: Mapping[str, type[Term]] = {term.name: term for term in (Channel, Neuron, Direction, Layer, Diversity)}


def as_objective(text: str | Loss) -> Loss:
    """Read an objective, such as "layer3:5", a channel, or "channel(tap='layer3', channel=5) + 2 * layer(...)".

    Raises:
        ConfigError: It cannot be read, or is no sum of objectives.
    """
    if isinstance(text, Loss):
        found = text
    elif short := re.fullmatch(r"\s*([\w./]+):(\d{1,9})\s*", text):
        found = Channel(tap=short[1], channel=int(short[2]))
    else:
        found = parse(text, OBJECTIVES)
    weighted_objectives(found)
    return found


def weighted_objectives(objective: Loss) -> list[tuple[float, FeatureObjective]]:
    """The terms of an objective with their weights; a ConfigError where one is a loss that needs an exemplar."""
    found = list[tuple[float, FeatureObjective]]()
    for weight, octave, term in objective.terms():
        if octave or not isinstance(term, FeatureObjective):
            raise ConfigError(f"{objective} is no sum of {', '.join(OBJECTIVES)}, which have no octaves")
        found.append((weight, term))
    return found
