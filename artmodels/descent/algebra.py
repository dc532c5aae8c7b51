"""Losses as an algebra: `Gram() + 0.1 * Spectrum()`, or "gram + 0.1 * spectrum" as text.

A term describes a loss; `bind` fixes it to an exemplar, which gives a function of the image. By default every term is
relative to the exemplar: about 1 where the image shares nothing with it, 0 where the statistic agrees, so that the
factors in a sum mean the same for every feature network.
"""

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, NamedTuple

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional as F

from artmodels.errors import ConfigError, suggest
from artmodels.settings import Settings, config_from

__all__ = [
    "Bound",
    "Context",
    "FeatureTerm",
    "Features",
    "Loss",
    "Moments",
    "PyramidLoss",
    "Sampled",
    "Sum",
    "Taps",
    "Term",
    "parse",
    "shrunk",
]

LONGEST = 2000  # characters of a loss as text; far more nesting than fits would exhaust the stack

Taps = tuple[str, ...] | None
Features = Mapping[str, Tensor]  # tap -> [1, C, h, w]


class Moments(NamedTuple):
    """First and second moments of features over the pixels, which are sums and so can be gathered tile by tile."""

    mean: Tensor  # [C]
    second: Tensor  # [C, C], F F^T / M: the Gram matrix divided by the number of pixels

    @property
    def covariance(self) -> Tensor:
        """[C, C]."""
        return self.second - torch.outer(self.mean, self.mean)

    @classmethod
    def of(cls, features: Tensor, region: Tensor | None = None) -> "Moments":
        """Moments of [1, C, h, w], its pixels weighted by a region [1, 1, H, W] of the image it was read from."""
        rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])  # [M, C]
        if region is None:
            return cls(rows.mean(dim=0), rows.T @ rows / rows.shape[0])
        weights = shrunk(region, features.shape[-2:]).flatten()
        weighted = rows * (weights / weights.sum())[:, None]
        return cls(weighted.sum(dim=0), weighted.T @ rows)


def shrunk(region: Tensor, size: tuple[int, ...]) -> Tensor:
    """A region [1, 1, H, W] on the coarser grid of a feature map: each value the mean of the pixels it stands for."""
    return F.interpolate(region, tuple(size), mode="area")


Bound = Callable[[Tensor, Features, Mapping[str, Moments]], Tensor]
"""A term fixed to an exemplar: the scalar loss of an image [1, 3, H, W], its features and their moments."""


class Sampled(ABC):
    """A bound term that samples the image: along directions or at places that are drawn anew each round."""

    @abstractmethod
    def refresh(self, generator: torch.Generator, round_: int) -> None:
        """Draw for this round."""

    @abstractmethod
    def __call__(self, x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
        """See `Bound`."""


@dataclass(frozen=True)
class Context:
    """What a term may know when it is bound."""

    size: tuple[int, int]  # of the image to make
    layers: tuple[str, ...]  # the extractor's recommended taps
    circular: bool
    region: Tensor | None = None  # [1, 1, H, W] in [0, 1], the pixels that must agree with the exemplar; None: all


class Loss(ABC):
    """Any sum of weighted terms."""

    @abstractmethod
    def terms(self) -> Iterator[tuple[float, int, "Term"]]:
        """Yield (weight, octave, term); octave n sees the image reduced n times by two."""

    def __add__(self, other: "Loss") -> "Sum":
        """Sum of two losses."""
        return Sum(_parts(self) + _parts(other))

    def __mul__(self, factor: float) -> "Sum":
        """Loss times a number."""
        parts = tuple((float(factor) * weight, part) for weight, part in _parts(self))
        for weight, part in parts:
            if not math.isfinite(weight):
                raise ConfigError(f"the loss {part} cannot be weighted by {weight}; use a finite number")
        return Sum(parts)

    __rmul__ = __mul__


def _parts(loss: Loss) -> tuple[tuple[float, Loss], ...]:
    return loss.parts if isinstance(loss, Sum) else ((1.0, loss),)


@dataclass(frozen=True)
class Sum(Loss):
    """Weighted sum of losses, flat: sums and products of sums are expanded."""

    parts: tuple[tuple[float, Loss], ...]

    def terms(self) -> Iterator[tuple[float, int, "Term"]]:
        """Yield the terms of all parts, their weights multiplied."""
        for factor, part in self.parts:
            for weight, octave, term in part.terms():
                yield factor * weight, octave, term

    def __str__(self) -> str:
        """The sum as `parse` reads it."""
        alone = len(self.parts) == 1
        return " + ".join(
            f"{part}" if factor == 1 and not alone else f"{factor!r} * {part}" for factor, part in self.parts
        )


@dataclass(frozen=True, kw_only=True)
class Term(Loss, Settings):
    """One loss."""

    name: ClassVar[str]  # in text
    needs_maps: ClassVar[bool] = True  # False where the moments of the features suffice
    needs_whole: ClassVar[bool] = False  # True where a region of the image cannot be measured by itself

    def terms(self) -> Iterator[tuple[float, int, "Term"]]:
        """Yield itself."""
        yield 1.0, 0, self

    def taps(self, context: Context) -> tuple[str, ...]:
        """Taps whose features it needs."""
        return ()

    @abstractmethod
    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Fix the term to an exemplar [1, 3, h, w], its features and their moments."""

    def __str__(self) -> str:
        """The term as `parse` reads it: only settings that differ from the default."""
        changed = [
            f"{setting.name}={getattr(self, setting.name)!r}"
            for setting in fields(self)
            if getattr(self, setting.name) != setting.default
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name


@dataclass(frozen=True, kw_only=True)
class FeatureTerm(Term):
    """A loss of features."""

    layers: Annotated[Taps, "Taps; None for those that the extractor recommends for texture."] = None

    def taps(self, context: Context) -> tuple[str, ...]:
        """The layers."""
        chosen = context.layers if self.layers is None else self.layers
        if not chosen:
            raise ConfigError(
                f"{self.name} needs features, and raw patches have none: choose features='random-filters' or 'vgg19', "
                "or the loss patch_sliced_wasserstein"
            )
        return chosen


@dataclass(frozen=True, kw_only=True)
class PyramidLoss(Loss, Settings):
    """A loss at every octave of a Gaussian pyramid (Snelgrove 2017): shallow features then see large patterns."""

    loss: Annotated[Loss, "What is measured at each octave."]
    octaves: Annotated[
        int,
        Interval(ge=1, le=12),  # a side of 4096 px is then reduced to 2
        "Their number, the full image included: a pyramid ends anyway where an octave is too small.",
    ] = 4

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if any(octave for _, octave, _ in self.loss.terms()):
            raise ConfigError("a pyramid of pyramids is not supported; add their octaves up in one")

    def terms(self) -> Iterator[tuple[float, int, Term]]:
        """Yield the inner terms once an octave."""
        for shift in range(self.octaves):
            for weight, octave, term in self.loss.terms():
                yield weight, octave + shift, term

    def __str__(self) -> str:
        """The pyramid as `parse` reads it."""
        return f"pyramid({self.loss}, octaves={self.octaves})"


_Terms = Mapping[str, type[Term]]  # by the names in text


def parse(text: str, terms: _Terms) -> Loss:
    """Read a loss from text such as `"gram + 0.1 * spectrum(common_phase=False)"` or `"pyramid(gram, octaves=3)"`.

    `str` of a loss is text that reads back as an equal loss. Only sums, numbers, and calls of the known terms with
    literal settings are understood; nothing is executed. Anything else is a ConfigError, which names near misses.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"the loss is {len(text)} characters long; write at most {LONGEST}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ConfigError(f"the loss {text!r} cannot be read; write a sum such as 'gram + 0.1 * spectrum'") from None
    try:
        loss = _read(tree, text, terms)
    except (RecursionError, OverflowError):
        raise ConfigError(
            f"the loss {text[:40]!r}... is nested too deeply or has too large a number; write a plain sum of terms"
        ) from None
    if not isinstance(loss, Loss):
        raise ConfigError(f"the loss {text!r} is a number; it needs at least one of {', '.join(terms)}")
    return loss


def _read(node: ast.expr, text: str, terms: _Terms) -> Loss | float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -float(number)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _read(left, text, terms), _read(right, text, terms)
            if isinstance(first, Loss) and isinstance(second, Loss):
                return first + second
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            first, second = _read(left, text, terms), _read(right, text, terms)
            if isinstance(first, Loss) != isinstance(second, Loss):
                return first * second  # type: ignore[operator]  # one is a Loss, the other a number
        case ast.Name(id=name):
            return _make(name, {}, terms)
        case ast.Call(func=ast.Name(id="pyramid"), args=[inner], keywords=keywords):
            loss = _read(inner, text, terms)
            if isinstance(loss, Loss):
                return config_from(PyramidLoss, _settings(keywords, text) | {"loss": loss})
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
            return _make(name, _settings(keywords, text), terms)
    raise ConfigError(
        f"{ast.unparse(node)!r} in the loss {text!r} is not a sum, a product with a number, or one of "
        f"{', '.join([*terms, 'pyramid'])}"
    )


def _settings(keywords: list[ast.keyword], text: str) -> dict[str, object]:
    try:
        return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
    except (ValueError, TypeError):
        raise ConfigError(f"a setting in the loss {text!r} is not a plain number, text or tuple") from None


def _make(name: str, settings: dict[str, object], terms: _Terms) -> Loss:
    if name not in terms:
        raise ConfigError(f"no loss is called {name!r}.{suggest(name, terms)} There are: {', '.join(terms)}, pyramid.")
    return config_from(terms[name], settings)
