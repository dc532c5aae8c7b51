"""Resolution without a Hub: names, folders, the package, and their order."""

import logging
from pathlib import Path

import pytest
from toys import CONFIG, GOOD, OTHER, Toy, entries, pinned, same

from artmodels import hub
from artmodels.errors import ConfigError, HashMismatch, MissingWeights, UnsafeFormat
from artmodels.hub import resolving
from artmodels.hub.catalogue import Entry


def test_revision_of_a_catalogue_name():
    with entries(pinned()), pytest.raises(ConfigError, match="decides the revision.*'up/toy'"):
        hub.resolve("toy-pinned", revision="main")
    with pytest.raises(ConfigError, match="decides the revision of 'patches'; leave"):
        hub.resolve("patches", revision="main")


def test_bad_namespace(monkeypatch):
    monkeypatch.setenv("ARTMODELS_NAMESPACE", "../up")
    with pytest.raises(ConfigError, match=r"ARTMODELS_NAMESPACE='../up'"):
        hub.resolve("vgg19")


def test_unknown_names_ask_nobody(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARTMODELS_NAMESPACE", raising=False)
    with pytest.raises(MissingWeights, match="'vgg18'.*Did you mean 'vgg19'"):
        hub.resolve("vgg18")
    for name in ("./nowhere", "/no/such/folder", "a/b/c", "..//x"):
        with pytest.raises(MissingWeights, match="neither an existing folder nor 'owner/name'"):
            hub.resolve(name)


def test_built_in():
    found = hub.resolve("texture-patches")
    assert (found.origin, found.folder, found.config()) == ("built-in", None, dict(found.entry.config))
    assert found.config()["features"] == "patches"
    with pytest.raises(MissingWeights, match="texture-patches is built in"):
        _ = found.weights_file


def test_folder_beats_package_beats_hub(tmp_path, monkeypatch, caplog):
    folder = Toy.random(seed=1).save_pretrained(tmp_path / "toy")
    package = tmp_path / "package"
    embedded = package / "_weights" / "both"
    Toy.random(seed=2).save_pretrained(embedded)
    monkeypatch.setattr(resolving, "PACKAGE", package)
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "artmodels")
    data = (embedded / "model.safetensors").read_bytes()
    with entries(pinned("both", data=data, embedded=True)):
        found = hub.resolve("both")
        assert (found.origin, found.folder) == ("package", embedded)
        assert same(Toy.from_pretrained("both"), OTHER)
        folder.rename("both")
        assert hub.resolve("both").origin == "folder"
        assert same(Toy.from_pretrained("both"), GOOD)
    assert "both: package, " in caplog.text
    assert "both: folder, both" in caplog.text
    assert "hides the catalogue's checkpoint" in caplog.text


def test_embedded_weights_are_hashed_too(tmp_path, monkeypatch):
    Toy.random(seed=2).save_pretrained(tmp_path / "_weights" / "toy-pinned")
    monkeypatch.setattr(resolving, "PACKAGE", tmp_path)
    with entries(pinned(embedded=True)), pytest.raises(HashMismatch):
        Toy.from_pretrained("toy-pinned")


def test_package_without_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(resolving, "PACKAGE", tmp_path)
    entry = Entry(name="gone", method="toy", summary="", source="", licence="MIT", embedded=True)
    with entries(entry), pytest.raises(MissingWeights, match="gone should be inside the package"):
        hub.resolve("gone")


def test_weights_of_a_checkout_only_beside_its_pyproject(tmp_path, monkeypatch):
    weights = Toy.random().save_pretrained(tmp_path / "weights" / "toy-pinned")
    monkeypatch.setattr(resolving, "PACKAGE", tmp_path / "artmodels")
    with entries(pinned(embedded=True)):
        with pytest.raises(MissingWeights, match="local_files_only=True forbids"):
            hub.resolve("toy-pinned", local_files_only=True)
        (tmp_path / "pyproject.toml").touch()
        found = hub.resolve("toy-pinned", local_files_only=True)
    assert (found.origin, found.folder) == ("package", weights)


def test_a_stray_folder_does_not_hide_the_catalogue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("patches").mkdir()
    assert hub.resolve("patches").origin == "built-in"


def test_folder_without_a_checkpoint(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(MissingWeights, match=r"has no config\.json\. It has: photo\.jpg"):
        hub.resolve(tmp_path)


def test_folder_has_no_revision(tmp_path):
    folder = Toy.random().save_pretrained(tmp_path / "toy")
    with pytest.raises(ConfigError, match="local folder, which has no revisions"):
        hub.resolve(folder, revision="main")


def test_folder_with_only_pickles(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"boom")
    with pytest.raises(UnsafeFormat, match=r"only pickle-based weights \(model\.ckpt\)"):
        hub.resolve(tmp_path)
    (tmp_path / "config.json").write_bytes(CONFIG)
    with pytest.raises(UnsafeFormat, match=r"only pickle-based weights \(model\.ckpt\)"):
        Toy.from_pretrained(tmp_path)
    with pytest.raises(UnsafeFormat, match="never opens"):
        hub.resolve(tmp_path / "model.ckpt")


def test_file_instead_of_folder(tmp_path):
    folder = Toy.random().save_pretrained(tmp_path / "toy")
    with pytest.raises(ConfigError, match="is a file: give the folder"):
        hub.resolve(folder / "model.safetensors")
