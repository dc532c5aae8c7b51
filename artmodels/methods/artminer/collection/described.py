"""Pictures by name, with their features."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from artmodels.correspondence.cells import Pyramid

__all__ = ["Described", "InMemory", "Views"]

Views = Mapping[str, Pyramid]


class Described(Protocol):
    """Pictures by name, with their features: a `Collection`, or what `ArtMiner.describe` returns."""

    @property
    def names(self) -> Sequence[str]:
        """Of all pictures."""

    def size(self, name: str) -> tuple[int, int]:
        """Width and height in pixels."""

    def pyramid(self, name: str, view: str = "") -> Pyramid:
        """Features of one."""


class InMemory:
    """A few described pictures."""

    def __init__(self, pictures: Mapping[str, tuple[tuple[int, int], Views]]) -> None:
        """Take the size and the views of each."""
        self._pictures = pictures

    @property
    def names(self) -> Sequence[str]:
        """Of all pictures."""
        return tuple(self._pictures)

    def size(self, name: str) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._pictures[name][0]

    def pyramid(self, name: str, view: str = "") -> Pyramid:
        """Features of one."""
        return self._pictures[name][1][view]
