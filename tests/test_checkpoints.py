"""Strict reading of a checkpoint's tensors and configuration."""

import hashlib
import json
from dataclasses import asdict, dataclass

import pytest
import torch
from safetensors.torch import save
from toys import GOOD, Sizes, Toy, ToyConfig, shapes

from artmodels import hub
from artmodels.errors import ConfigError, HashMismatch, MissingWeights, UnsafeFormat, WeightsMismatch

# --- Strict tensors


def write(path, tensors):
    path.write_bytes(save(tensors))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("first.bias"), r"1 missing: first\.bias\. Load"),
        (lambda t: t.update(third=torch.zeros(1)), r"1 unexpected: third\. Load"),
        (
            lambda t: t.update({"first.bias": torch.zeros(5)}),
            r"1 of the wrong shape: first\.bias is \[5\], not \[4\]",
        ),
        (lambda t: t.update({f"x{i}": torch.zeros(1) for i in range(9)}), "9 unexpected: x0.*x4 and 4 more"),
        (
            lambda t: (t.clear(), t.update(other=torch.zeros(1))),
            r"4 missing: first\.bias, .*; 1 unexpected: other",
        ),
    ],
    ids=["missing", "extra", "shape", "many", "another"],
)
def test_keys_and_shapes(tmp_path, change, message):
    tensors = dict(Toy.random().tensors)
    change(tensors)
    with pytest.raises(WeightsMismatch, match=message):
        hub.load_tensors(write(tmp_path / "m.safetensors", tensors), expected=shapes())


def test_wanted_reads_only_these(tmp_path):
    file = write(tmp_path / "m.safetensors", Toy.random().tensors)
    loaded = hub.load_tensors(file, expected=shapes(), wanted=lambda key: key.startswith("first."))
    assert sorted(loaded) == ["first.bias", "first.weight"]
    assert torch.equal(loaded["first.bias"], Toy.random().tensors["first.bias"])


def test_unwanted_keys_are_checked_all_the_same(tmp_path):
    tensors = {key: value for key, value in Toy.random().tensors.items() if key != "second.bias"}
    with pytest.raises(WeightsMismatch, match=r"missing: second\.bias"):
        hub.load_tensors(
            write(tmp_path / "m.safetensors", tensors), expected=shapes(), wanted=lambda key: "first" in key
        )


def test_hash(tmp_path):
    file = write(tmp_path / "m.safetensors", Toy.random().tensors)
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert hub.load_tensors(file, expected=shapes(), sha256=right).keys() == shapes().keys()
    with pytest.raises(HashMismatch, match=f"is {right}, not {'f' * 64}.*delete {file}"):
        hub.load_tensors(file, expected=shapes(), sha256="f" * 64)


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: b"\xff" * 99, lambda d: d[:40]])
def test_damaged_file(tmp_path, damage):
    file = tmp_path / "m.safetensors"
    file.write_bytes(damage(GOOD))
    with pytest.raises(WeightsMismatch, match="is damaged or not a safetensors file"):
        hub.load_tensors(file, expected=shapes())


def test_other_files(tmp_path):
    (tmp_path / "m.pth").write_bytes(GOOD)
    with pytest.raises(UnsafeFormat, match=r"m\.pth"):
        hub.load_tensors(tmp_path / "m.pth", expected=shapes())
    with pytest.raises(MissingWeights, match="There is no file"):
        hub.load_tensors(tmp_path / "m.safetensors", expected=shapes())


# --- Configuration


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
    assert hub.config_from(ToyConfig, json.loads(json.dumps(asdict(config)))) == config
    assert hub.config_from(ToyConfig, {}) == ToyConfig()
    assert type(hub.config_from(ToyConfig, {"gain": 2}).gain) is float


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
        ({"width": 0}, "width must be at least 1"),
    ],
)
def test_config_errors(mapping, message):
    with pytest.raises(ConfigError, match=message):
        hub.config_from(ToyConfig, mapping)


def test_config_needs_what_has_no_default():
    @dataclass(frozen=True)
    class Needy:
        size: int

    with pytest.raises(ConfigError, match="Needy needs a value for 'size'"):
        hub.config_from(Needy, {})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, MissingWeights, "has no config.json"),
        (b"{", ConfigError, r"config\.json is not valid JSON: .*line 1"),
        (b"\xff", ConfigError, "is not valid JSON"),
        (b'{"gain": NaN}', ConfigError, "NaN is not a JSON number"),
        (b"[1]", ConfigError, "must hold a JSON object, not a list"),
    ],
)
def test_read_config(tmp_path, text, error, message):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(error, match=message):
        hub.read_config(tmp_path)
