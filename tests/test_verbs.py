"""Every checkpoint of the catalogue that needs no download passes the same verbs."""

from pathlib import Path
from typing import Any

import pytest

import artmodels
from artmodels.hub import catalogue
from artmodels.hub.catalogue import Entry
from tests import verbs


@pytest.fixture(scope="module", params=verbs.OFFLINE, ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param


@pytest.fixture(scope="module")
def model(entry: Entry) -> Any:
    return artmodels.load(entry.name, device="cpu", **verbs.CASES[entry.method].loaded)


def test_every_method_has_a_case_and_an_entry() -> None:
    assert (
        verbs.CASES.keys() == {method.id for method in catalogue.methods()} == {entry.method for entry in verbs.OFFLINE}
    )


def test_loads(entry: Entry, tmp_path: Path) -> None:
    verbs.loads(entry, tmp_path)


@pytest.mark.parametrize("size", [(33, 57), (64, 40), (67, 90)], ids=["odd", "upright", "larger than the input"])
def test_fits(model: Any, entry: Entry, size: tuple[int, int]) -> None:
    verbs.fits(model, entry, size)


def test_is_deterministic(model: Any, entry: Entry) -> None:
    verbs.is_deterministic(model, entry)


def test_exports_or_says_why_not(entry: Entry) -> None:
    verbs.exports_or_says_why_not(entry)


def test_serves(model: Any, entry: Entry, tmp_path: Path) -> None:
    verbs.serves(model, entry, tmp_path)
