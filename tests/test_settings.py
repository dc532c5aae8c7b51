"""Settings: what a field may be, its help, and settings from JSON."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import pytest
from annotated_types import Gt, Interval, Len, MultipleOf, Predicate
from toys import Sizes, ToyConfig

from artmodels.errors import ConfigError
from artmodels.settings import Count, Positive, Settings, Share, Weight, config_from, distinct, helps, odd


@dataclass(frozen=True, kw_only=True)
class Every(Settings):
    """A field of each kind."""

    steps: Annotated[Count, "Steps."] = 3
    kernel: Annotated[int, Interval(ge=3, le=9), Predicate(odd), "Side of the kernel."] = 3
    share: Share = 0.5
    rate: Positive = 1.0
    weight: Weight = 0.0
    clip: Annotated[float, Gt(0)] = math.inf
    side: Annotated[int | None, MultipleOf(16), "Pixels."] = None
    either: Annotated[int, Interval(ge=1)] | Literal["all"] = "all"
    mode: Annotated[Literal["soft", "hard"], "How."] = "soft"
    scale: Literal[2, 4] = 2
    widths: Annotated[tuple[Count, ...], Len(1, 3), Predicate(distinct)] = (1, 2)
    span: tuple[Share, Positive] = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class More(Every):
    """Settings that add to others, and change one."""

    steps: Annotated[int, Interval(ge=5), "More steps."] = 5
    plain: int = 0


@pytest.mark.parametrize(
    "right",
    [
        {"steps": 1, "kernel": 9, "share": 0, "weight": 0, "clip": math.inf},
        {"side": 32, "either": 1, "mode": "hard", "scale": 4, "widths": (3,), "span": (1.0, 2.0)},
        {"side": None, "either": "all"},
    ],
)
def test_right_values_pass(right):
    assert {name: getattr(Every(**right), name) for name in right} == right


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": "3"}, "steps='3' must be at least 1"),
        ({"steps": None}, "steps=None must be a value, not None"),
        ({"either": None}, "either=None must be a value, not None"),
        ({"steps": 2.5}, r"steps=2\.5 must be a whole number"),
        ({"steps": True}, "steps=True must be a whole number"),
        ({"clip": True}, "clip=True must be a number"),
        ({"side": 32.0}, r"side=32\.0 must be a whole number"),
        ({"widths": (1, 2.0)}, r"widths=\(1, 2\.0\) must be values of which each is a whole number"),
        ({"kernel": 4}, "kernel=4 must be at least 3, at most 9 and odd"),
        ({"kernel": 11}, "kernel=11 must be at least 3, at most 9"),
        ({"share": 1.5}, "share=1.5 must be at least 0 and at most 1"),
        ({"share": math.nan}, "share=nan must be at least 0"),
        ({"rate": 0.0}, "rate=0.0 must be above 0 and finite"),
        ({"rate": math.inf}, "rate=inf must be above 0 and finite"),
        ({"weight": -1.0}, "weight=-1.0 must be at least 0"),
        ({"clip": math.nan}, "clip=nan must be above 0"),
        ({"side": 17}, "side=17 must be a multiple of 16"),
        ({"either": 0}, "either=0 must be at least 1"),
        ({"mode": "sfot"}, "mode='sfot' must be one of 'soft', 'hard'. Did you mean 'soft'"),
        ({"scale": 3}, "scale=3 must be one of 2, 4"),
        ({"widths": ()}, r"widths=\(\) must be 1 or more values"),
        ({"widths": (1, 2, 3, 4)}, "must be .*3 or fewer values"),
        ({"widths": (1, 1)}, "must be .*distinct"),
        ({"widths": (1, 0)}, r"widths=\(1, 0\) must be values of which each is at least 1"),
        ({"span": (0.0,)}, r"span=\(0.0,\) must be 2 values"),
        ({"span": (0.0, 0.0)}, "must be values of which each is above 0"),
        ({"steps": 10**400 * -1}, "steps=-1000.*must be at least 1"),
    ],
)
def test_wrong_values_are_named(wrong, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Every(**wrong)
    assert len(str(caught.value)) < 300


def test_a_subclass_has_all_fields_and_its_own_ranges():
    with pytest.raises(ConfigError, match="steps=3 must be at least 5"):
        More(steps=3)
    with pytest.raises(ConfigError, match="share=2 must be"):
        More(share=2)


def test_helps_say_what_a_field_may_be():
    assert helps(Every) == {
        "steps": "Steps. At least 1.",
        "kernel": "Side of the kernel. At least 3, at most 9 and odd.",
        "side": "Pixels. A multiple of 16.",
        "mode": "How.",
    }
    assert helps(More)["steps"] == "More steps. At least 5."


def test_config_from_json():
    config = ToyConfig(
        width=2,
        gain=3.0,
        title="t",
        layers=("a", "b"),
        scores={"k": 1.0},
        sizes=Sizes(height=9),
        span=(4, 5.0),
    )
    assert config_from(ToyConfig, json.loads(json.dumps(asdict(config)))) == config
    assert config_from(ToyConfig, {}) == ToyConfig()
    assert type(config_from(ToyConfig, {"gain": 2}).gain) is float


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"widht": 3}, "ToyConfig has no setting 'widht'. Did you mean 'width'"),
        ({"width": "3"}, "ToyConfig.width must be int, not '3'"),
        ({"width": True}, "ToyConfig.width must be int, not True"),
        ({"width": 3.0}, "ToyConfig.width must be int, not 3.0"),
        ({"gain": "x"}, "ToyConfig.gain must be float, not 'x'"),
        ({"gain": None}, "ToyConfig.gain must be float, not None"),
        ({"exact": 1}, "ToyConfig.exact must be bool, not 1"),
        ({"mode": "loud"}, r"ToyConfig.mode must be Literal\['soft', 'hard'\], not 'loud'"),
        ({"title": 3}, r"ToyConfig.title must be str \| None, not 3"),
        ({"layers": "first"}, r"ToyConfig.layers must be tuple\[str, \.\.\.\], not 'first'"),
        ({"layers": ["a", 1]}, r"ToyConfig.layers must be"),
        ({"span": [1]}, r"ToyConfig.span must be tuple\[int, float\], not \[1\]"),
        ({"scores": {"a": "b"}}, r"ToyConfig.scores must be .*Mapping\[str, float\]"),
        ({"sizes": {"hieght": 1}}, "Sizes has no setting 'hieght'. Did you mean 'height'"),
        ({"sizes": 3}, "ToyConfig.sizes must be"),
        ({"width": 0}, "width=0 must be at least 1"),
    ],
)
def test_config_errors(mapping, message):
    with pytest.raises(ConfigError, match=message):
        config_from(ToyConfig, mapping)


def test_config_needs_what_has_no_default():
    @dataclass(frozen=True)
    class Needy:
        size: int

    with pytest.raises(ConfigError, match="Needy needs a value for 'size'"):
        config_from(Needy, {})
