"""What fills a store of features, and how many images it is given at a time."""

from collections.abc import Iterable, Iterator
from typing import Protocol

from artmodels import images
from artmodels.data.reading import Read
from artmodels.images.decoding import LoadedImage
from artmodels.methods.region_features.pipeline import Regions

__all__ = ["Extractor", "grouped"]

PIXELS = 2**28  # of images that are held at a time: 0.8 GB


class Extractor(Protocol):
    """What a store is filled by: `RegionFeatures`, or anything with these."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the numbers would."""

    @property
    def features(self) -> int:
        """M, the length of a descriptor."""

    @property
    def batch(self) -> int:
        """How many images it likes to have at a time."""

    def __call__(self, image: list[images.Source]) -> list[Regions]:
        """The regions of each image."""


def grouped(files: Iterable[Read], count: int) -> Iterator[list[Read]]:
    """Files in order, as many at a time as hold `count` new images, or fewer where those are large or there is none."""
    group, images_held, pixels = list[Read](), 0, 0
    for each in files:
        group.append(each)
        if isinstance(each[2], LoadedImage):
            images_held, pixels = images_held + 1, pixels + each[2].width * each[2].height
        if not images_held or images_held >= count or pixels >= PIXELS:
            yield group
            group, images_held, pixels = [], 0, 0
    if group:
        yield group
