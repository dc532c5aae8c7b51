"""Settings: frozen dataclasses whose fields say what they mean and what they may be, checked in this one place.

    @dataclass(frozen=True, kw_only=True)
    class Descent(Settings):
        steps: Annotated[Count, "Steps at each size."] = 300
        rate: Annotated[float, Gt(0), "Length of a step."] = 1.0
        blend: Annotated[Share, "How much of the last picture is kept."] = 0.5

In `Annotated`, a text is the help that READMEs and the command line show; the rest are constraints that
`annotated_types` defines.
`Descent(steps=0)` raises a ConfigError, "steps=0 must be at least 1"; so does `config_from(Descent, {"stpes": 3})`.
"""

import dataclasses
import inspect
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain, repeat
from numbers import Integral, Real
from typing import Annotated, Any, Literal, TypeVar, Union

from annotated_types import (
    Ge,
    GroupedMetadata,
    Gt,
    Interval,
    Le,
    Lt,
    MaxLen,
    MinLen,
    MultipleOf,
    Predicate,
)

from artmodels.errors import ConfigError, listing, short, suggest

__all__ = [
    "Count",
    "Positive",
    "Settings",
    "Share",
    "Weight",
    "check",
    "config_from",
    "distinct",
    "finite",
    "helps",
    "odd",
]

Config = TypeVar("Config")


def finite(value: float) -> bool:
    """For `Predicate`: whether a number is one."""
    return math.isfinite(value)


def odd(value: int) -> bool:
    """For `Predicate`: whether a number is odd."""
    return value % 2 == 1


def distinct(values: Sequence[object]) -> bool:
    """For `Predicate`: whether no value is there twice."""
    return len(set(values)) == len(values)


Count = Annotated[int, Ge(1)]
Share = Annotated[float, Interval(ge=0, le=1)]
Positive = Annotated[float, Gt(0), Predicate(finite)]
Weight = Annotated[float, Ge(0), Predicate(finite)]


class _Signature:
    """What help shows of a class of settings: its fields with their types, without constraints and texts."""

    def __get__(self, instance: object, owner: type) -> inspect.Signature:
        hints = typing.get_type_hints(owner)
        return inspect.Signature(
            [
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default if field.default is not dataclasses.MISSING else inspect.Parameter.empty,
                    annotation=hints[field.name],
                )
                for field in dataclasses.fields(owner)
                if field.init
            ]
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of settings: a field whose value breaks a constraint of its annotation is a ConfigError.

    A subclass whose fields depend on each other checks that in a `__post_init__` of its own, after this one.
    """

    __signature__ = _Signature()

    def __post_init__(self) -> None:
        """Check each field."""
        check(self)


def check(settings: Any) -> None:  # noqa: ANN401 - any dataclass
    """Raise ConfigError unless each field of a dataclass is what its annotation says."""
    cls: Any = type(settings)
    for name, hint in _hints(cls).items():
        value = getattr(settings, name)
        if wanted := _fault(value, hint):
            raise ConfigError(f"{name}={short(value)} must be {wanted}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotations of the fields, with their constraints."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@cache
def helps(cls: type) -> dict[str, str]:
    """The help of each field that has one, with what it may be."""
    found = dict[str, str]()
    for name, hint in _hints(cls).items():
        texts = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, str)]
        if texts:
            wanted = _words(_constraints(hint))
            found[name] = " ".join([*texts, f"{wanted.capitalize()}."] if wanted else texts)
    return found


# --- Constraints: for each, whether a value keeps it, and what a value must be

RULES: Mapping[type, tuple[Callable[[Any, Any], bool], str]] = {
    Ge: (operator.ge, "at least {}"),
    Gt: (operator.gt, "above {}"),
    Le: (operator.le, "at most {}"),
    Lt: (operator.lt, "below {}"),
    MultipleOf: (lambda value, number: value % number == 0, "a multiple of {}"),
    MinLen: (lambda value, length: len(value) >= length, "{} or more values"),
    MaxLen: (lambda value, length: len(value) <= length, "{} or fewer values"),
    Predicate: (lambda value, holds: holds(value), "{.__name__}"),
}

NUMBERS: Mapping[Any, tuple[type, str]] = {int: (Integral, "a whole number"), float: (Real, "a number")}


def _constraints(hint: Any) -> list[tuple[type, Any]]:  # noqa: ANN401 - an annotation can be any object
    """Kind and argument of each constraint of an annotation."""
    parts: tuple[Any, ...] = getattr(hint, "__metadata__", ())
    single = chain.from_iterable(part if isinstance(part, GroupedMetadata) else [part] for part in parts)
    return [(type(part), dataclasses.astuple(part)[0]) for part in single if not isinstance(part, str)]


def _words(constraints: Iterable[tuple[type, Any]]) -> str:
    *most, last = [RULES[kind][1].format(argument) for kind, argument in constraints] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _fault(value: Any, hint: Any) -> str:  # noqa: ANN401
    """What a value must be that breaks a constraint of its annotation, or of a part of it; "" of one that keeps all."""
    if value is None:
        return "" if _may_be_none(hint) else "a value, not None"
    constraints = _constraints(hint)
    try:
        kept = all(RULES[kind][0](value, argument) for kind, argument in constraints)
    except TypeError:  # of another type than the annotation says
        kept = False
    if not kept:
        return _words(constraints)
    hint = hint.__origin__ if typing.get_origin(hint) is Annotated else hint
    if hint in NUMBERS and (isinstance(value, bool) or not isinstance(value, NUMBERS[hint][0])):
        return NUMBERS[hint][1]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        faults = [_fault(value, argument) for argument in arguments if argument is not types.NoneType]
        return "" if "" in faults else faults[0]
    if origin is Literal and value not in arguments:
        return f"one of {listing(arguments)}.{suggest(str(value), map(str, arguments))}"
    if origin is tuple and isinstance(value, Sequence):
        alike = arguments[1:] == (...,)
        if not alike and len(value) != len(arguments):
            return f"{len(arguments)} values"
        kinds = repeat(arguments[0]) if alike else arguments
        fault = next(filter(None, map(_fault, value, kinds)), "")
        return fault and f"values of which each is {fault}"
    return ""


def _may_be_none(hint: Any) -> bool:  # noqa: ANN401
    if typing.get_origin(hint) is Annotated:
        return _may_be_none(hint.__origin__)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return any(map(_may_be_none, typing.get_args(hint)))
    return hint in (types.NoneType, Any)


# --- From JSON


def config_from(cls: type[Config], mapping: Mapping[str, object]) -> Config:
    """Build a config dataclass from a JSON object, strictly.

    Args:
        cls: A dataclass whose fields are annotated with int, float, bool, str, None, Literal, tuple, Mapping,
            unions of these, or other such dataclasses.
        mapping: Values by field name; JSON lists become tuples, integers are accepted as floats.

    Raises:
        ConfigError: A key is unknown (near misses are named), a field is missing or a type is wrong.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            hint = suggest(key, fields)
            raise ConfigError(f"{cls.__name__} has no setting {short(key)}.{hint} It has: {', '.join(fields)}.")
    for name, field in fields.items():
        if (
            name not in mapping
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ):
            raise ConfigError(f"{cls.__name__} needs a value for {name!r}.")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in mapping.items():
        try:
            values[key] = _typed(value, hints[key])
        except (TypeError, OverflowError):  # of an integer that is no float
            wanted = re.sub(r"\btyping\.|<class '(\w+)'>", r"\1", str(hints[key]))
            raise ConfigError(f"{cls.__name__}.{key} must be {wanted}, not {short(value)}.") from None
    return cls(**values)


def _typed(value: object, hint: Any) -> object:  # noqa: ANN401 - an annotation can be any object
    """Return `value` as the annotation asks, or raise TypeError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        for argument in arguments:
            try:
                return _typed(value, argument)
            except TypeError:
                continue
    elif origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return tuple(_typed(item, kind) for item, kind in zip(value, kinds, strict=True))
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {_typed(key, arguments[0]): _typed(item, arguments[1]) for key, item in value.items()}
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return config_from(hint, value)
    elif hint is float and type(value) in (int, float):
        return float(typing.cast(float, value))
    elif hint in (int, bool, str, types.NoneType) and type(value) is hint:  # bool is an int: no isinstance
        return value
    elif isinstance(hint, type) and hint not in (int, float, bool, str) and isinstance(value, hint):
        return value
    raise TypeError
