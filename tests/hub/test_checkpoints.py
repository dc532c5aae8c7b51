"""Strict reading of a checkpoint's tensors and configuration."""

import hashlib
import json
import os
import shutil
import struct

import pytest
import torch
from safetensors.torch import save
from toys import GOOD, Toy, shapes

from artmodels import hub
from artmodels.errors import ConfigError, HashMismatch, MissingWeights, UnsafeFormat, WeightsMismatch
from artmodels.hub.checkpoints import fault_of, read_tensors

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


# --- config.json


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (None, MissingWeights, "has no config.json"),
        (b"{", ConfigError, r"config\.json is not valid JSON: .*line 1"),
        (b"\xff", ConfigError, "is not valid JSON"),
        (b'{"gain": NaN}', ConfigError, "'NaN' is not a finite number"),
        (b"[1]", ConfigError, "must hold a JSON object, not a list"),
    ],
)
def test_read_config(tmp_path, text, error, message):
    if text is not None:
        (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(error, match=message):
        hub.read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": "' + b"x" * 2**20 + b'"}', "larger than 1048576 bytes"),
        (b'{"a": ' + b"[" * 500_000 + b"]" * 500_000 + b"}", "nested more than 16 deep"),
        (b'{"a": ' + b"[" * 17 + b"]" * 17 + b"}", "nested more than 16 deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "does not fit 64 bits"),
        (b'{"a": 9223372036854775808}', "'9223372036854775808' does not fit 64 bits"),
        (b'{"a": 1e999}', "'1e999' is not a finite number"),
        (b'{"a": -Infinity}', "'-Infinity' is not a finite number"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' is there twice"),
        (b'{"a": {"b": 1, "b": 1}}', "'b' is there twice"),
        (b'{"a": [' + b"1," * 50_000 + b"1]}", "a list in it has 50001 members"),
        (b'{"a": "' + b"x" * 50_001 + b'"}', "a str in it has 50001 members"),
        (rb'{"a": "\ud800"}', "surrogates not allowed"),
        (rb'{"a": "b\u0000"}', "holds a zero byte"),
        ('{"a": "é"}'.encode("latin-1"), "can't decode byte"),
        ('{"a": 1}'.encode("utf-16"), "can't decode byte"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b"", "Expecting value"),
        (b"null", "must hold a JSON object, not a NoneType"),
    ],
)
def test_hostile_configurations(tmp_path, text, message):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ConfigError, match=message) as caught:
        hub.read_config(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'} ") and len(str(caught.value)) < 500


def test_only_regular_files_are_read_as_configuration(tmp_path):
    file = tmp_path / "folder" / "config.json"
    file.mkdir(parents=True)
    with pytest.raises(ConfigError, match="it is not a regular file"):
        hub.read_config(file.parent)
    file.rmdir()
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    if hasattr(os, "mkfifo"):
        os.mkfifo(file)  # opened plainly, it would wait for a writer
        shutil.copy(tmp_path / "model.safetensors", file.parent)
        with pytest.raises(ConfigError, match="it is not a regular file"):
            Toy.from_pretrained(file.parent)
        file.unlink()
        file.symlink_to("/dev/zero")
        with pytest.raises(ConfigError, match="is a link to a file elsewhere"):
            hub.read_config(file.parent)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_of_a_configuration_stay_within_its_folder_or_the_cache(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.json").write_text('{"token": 1}')
    (folder / "config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ConfigError, match="is a link to a file elsewhere: put a copy"):
        hub.read_config(folder)
    (folder / "real.json").write_text('{"width": 1}')
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("real.json")
    assert hub.read_config(folder) == {"width": 1}
    # The cache's own layout, in which a blob may lie in a store elsewhere.
    snapshot = tmp_path / "cache" / "models--a--b" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to(tmp_path / "secret.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert hub.read_config(snapshot) == {"token": 1}
    # A link to the folder itself is the user's own.
    (tmp_path / "alias").symlink_to(folder)
    assert hub.read_config(tmp_path / "alias") == {"width": 1}


def test_an_error_in_a_configuration_names_the_file(tmp_path):
    folder = Toy.random(seed=1).save_pretrained(tmp_path / "toy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"width": 0}))
    with pytest.raises(ConfigError, match=r"toy/config\.json does not do: width=0 must be at least 1"):
        Toy.from_pretrained(folder)
    assert Toy.from_pretrained(folder, width=4).config.width == 4
    with pytest.raises(ConfigError, match=r"^width=-1 must be at least 1"):
        Toy.from_pretrained(folder, width=-1)


# --- Hostile files of tensors


def header(text, length=None):
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "data",
    [
        header(b"{}", 2**62),
        header(b"{}", 2**22 + 1) + b" " * 2**22,
        header(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        header(json.dumps({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}).encode()) + bytes(4),
        header(json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()) + bytes(4),
        header(json.dumps({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}).encode()) + bytes(4),
        header(json.dumps({"a": {"dtype": "NO", "shape": [1], "data_offsets": [0, 4]}}).encode()) + bytes(4),
        header(b"[]"),
        header(b"\xff\xfe"),
    ],
)
def test_hostile_headers(tmp_path, data):
    file = tmp_path / "m.safetensors"
    file.write_bytes(data)
    for read in (lambda: hub.load_tensors(file, expected={"a": (1,)}), lambda: read_tensors(file)):
        with pytest.raises(WeightsMismatch, match=r"m\.safetensors is damaged or not a safetensors file") as caught:
            read()
        assert len(str(caught.value)) < 1000


def test_long_names_are_cut_in_messages(tmp_path):
    file = write(tmp_path / "m.safetensors", {"x" * 100_000: torch.zeros(1)})
    with pytest.raises(WeightsMismatch, match="1 unexpected: xxx") as caught:
        hub.load_tensors(file, expected=shapes())
    assert len(str(caught.value)) < 1000


def test_a_pipe_is_no_file_of_tensors(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes")
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(MissingWeights, match="is not a regular file"):
        hub.load_tensors(tmp_path / "m.safetensors", expected=shapes())


def test_the_extremes_tell_whether_all_is_finite():
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        for value in (float("nan"), float("inf"), -float("inf")):
            for place in (0, 4999, 9999):
                tensor = torch.randn(10_000).to(kind)
                assert fault_of({"a": tensor}, torch.float32) is None
                tensor[place] = value
                assert fault_of({"a": tensor}) == "a holds values that are not finite"
    assert fault_of({"a": torch.zeros(0), "b": torch.tensor(1.0), "c": torch.zeros(2, dtype=torch.int64)}) is None
    assert fault_of({"a": torch.tensor([65519.0])}, torch.float16) is None  # which rounds to the largest
    assert fault_of({"a": torch.tensor([-65520.0])}, torch.float16) == "a has values up to 65520, too large for float16"
