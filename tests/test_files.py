"""Files and folders that are replaced whole or not at all, and locks."""

import os
import shutil
import threading
from pathlib import Path

import pytest

from artmodels.errors import ArtModelsError, ConfigError, DatasetError, WeightsError, clipped, some
from artmodels.files import locked, put_back, read_json, replacing, write_whole


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(draft, text):
    (draft / "deep").mkdir(parents=True)
    (draft / "deep" / "file").write_text(text)


def test_files_are_written_together_or_not_at_all(tmp_path, monkeypatch) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.bin"
    fill(tmp_path / ".a.txt.old", "somebody's own")
    write_whole({first: "ä", second: b"\0"})
    shutil.rmtree(tmp_path / ".a.txt.old")  # it was left alone
    assert contents(tmp_path) == {"a.txt": "ä".encode(), "b.bin": b"\0"}
    synced = []

    def full(descriptor) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtModelsError, match=r"could not write .*: No space left on device; free some space"):
        write_whole({first: "new", second: b"new"})
    assert contents(tmp_path) == {"a.txt": "ä".encode(), "b.bin": b"\0"}
    (tmp_path / "c").mkdir()
    with pytest.raises(ArtModelsError, match="c': a folder of that name is there"):
        write_whole({first: "new", tmp_path / "c": "new"})
    with pytest.raises(ArtModelsError, match="none.*: No such file.*check that the folder exists"):
        write_whole({tmp_path / "none" / "d": "new"})
    assert contents(tmp_path) == {"a.txt": "ä".encode(), "b.bin": b"\0"}


def test_a_long_name_can_be_written(tmp_path) -> None:
    write_whole({tmp_path / ("ö" * 127): "x"})
    assert len(contents(tmp_path)) == 1


def test_folders_are_replaced_together_or_not_at_all(tmp_path, monkeypatch) -> None:
    targets = tmp_path / "a", tmp_path / "b"
    for text in ("old", "new"):
        with replacing(*targets) as drafts:
            for draft in drafts:
                fill(draft, text)
        assert contents(tmp_path) == {"a/deep/file": text.encode(), "b/deep/file": text.encode()}
    with pytest.raises(WeightsError, match="b': it is full"), replacing(*targets, error=WeightsError) as drafts:
        fill(drafts[0], "newer")
        raise OSError(28, "it is full", str(drafts[1]))
    rename = Path.rename

    def stuck(path, target):
        if path.suffix == ".tmp" and target == targets[1]:  # the first has been moved
            raise OSError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", stuck)
    with pytest.raises(ArtModelsError, match="Permission denied"), replacing(*targets) as drafts:
        for draft in drafts:
            fill(draft, "newer")
    assert contents(tmp_path) == {"a/deep/file": b"new", "b/deep/file": b"new"}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_a_killed_process_put_aside_is_put_back(tmp_path) -> None:
    target = tmp_path / "a"
    fill(tmp_path / ".a.old", "old")
    put_back(target)
    assert contents(tmp_path) == {"a/deep/file": b"old"}
    fill(tmp_path / ".a.old", "older")  # it died before it could delete it
    with replacing(target) as (draft,):
        fill(draft, "new")
    assert contents(tmp_path) == {"a/deep/file": b"new"}


def test_a_lock_is_held_by_one_and_given_back_from_any_thread(tmp_path) -> None:
    lock = locked(tmp_path / "lock", "the store")
    lock.__enter__()
    with pytest.raises(ConfigError, match="Another process is writing to the store"):
        locked(tmp_path / "lock", "the store").__enter__()
    thread = threading.Thread(target=lock.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    with locked(tmp_path / "lock", "the store"):
        pass
    with (
        pytest.raises(ConfigError, match="the store cannot be locked by .*: Is a directory"),
        locked(tmp_path, "the store"),
    ):
        pass


def test_json_of_a_data_set_is_an_object(tmp_path) -> None:
    file = tmp_path / "a.json"
    file.write_text('\ufeff{"a": [1]}', encoding="utf-8")
    assert read_json(file) == {"a": [1]}
    for text, match in (("[1]", "holds a list"), ("{", "not JSON"), ("\udcff", "not text in UTF-8")):
        file.write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(DatasetError, match=match):
            read_json(file)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_json(tmp_path / "none.json")


def test_messages_name_some_and_count_the_rest() -> None:
    assert some(["a", "b"]) == "a, b" and some("abcdefg") == "a, b, c, d, e and 2 more"
    assert some("abc", most=1) == "a and 2 more"
    assert len(clipped("x" * 1000)) == 201 and clipped("x") == "x"
