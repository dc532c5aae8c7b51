"""Which pictures of a collection excite each channel most, and what these have in common.

Source: Gonthier et al. 2020, "An analysis of the transfer learning of convolutional neural networks for artistic
images": the response of a picture is the mean over positions of the rectified map, and only responses above 0 count.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from annotated_types import Ge
from torch import Tensor

from artmodels.data.reading import Extraction, listed, read_ahead
from artmodels.errors import ConfigError, DatasetError, one_of, some
from artmodels.images import LoadedImage
from artmodels.images.resampling import resized
from artmodels.methods.interpret.taps import TappedNetwork, check_taps
from artmodels.progress import Progress, result_of
from artmodels.settings import Count, Settings

__all__ = [
    "BoxStatistics",
    "Files",
    "Labels",
    "Overlap",
    "Ranking",
    "Reading",
    "TopActivations",
    "TopPictures",
    "box_statistics",
    "class_entropy",
    "class_gini",
    "device_of",
    "folder_labels",
    "labels_of",
    "overlap",
    "prepared",
    "stream_batches",
    "stream_top_activations",
    "top_activations",
]

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Statistic = Literal["mean", "max"]
BLOCK = 64  # channels whose pairs of pictures are compared at once, some 100 x 100 a channel


@dataclass(frozen=True, kw_only=True)
class Reading(Settings):
    """How the pictures of a collection are brought to one size, and how many are taken at a time."""

    side: Annotated[int, Ge(16), "Pixels of a side of what the networks see."] = 224
    resize: Annotated[
        Literal["crop", "squash"], "crop: the shorter side is brought to size and the middle is cut out; squash: both."
    ] = "crop"
    batch: Annotated[Count, "Pictures at a time."] = 16


def prepared(image: LoadedImage, reading: Reading) -> Tensor:
    """A picture as the networks see it, [1, 3, side, side] in [0, 1]."""
    pixels, side = image.tensor(), reading.side
    if reading.resize == "crop":
        shorter = min(pixels.shape[-2:])
        size = [max(side, round(length * side / shorter)) for length in pixels.shape[-2:]]
        pixels = resized(pixels, (size[0], size[1]))
        top, left = ((length - side) // 2 for length in pixels.shape[-2:])
        pixels = pixels[..., top : top + side, left : left + side]
    return resized(pixels, (side, side)).clamp(0, 1)


def stream_batches(
    source: Files, reading: Reading, skipped: dict[str, str]
) -> Iterator[tuple[Extraction, list[str], Tensor]]:
    """Read each picture once, in order: how far it is, the names of a batch, and the batch [N, 3, side, side].

    What cannot be read goes into `skipped`, its reason by its name. Of a folder, names are paths inside it.
    """
    files = listed(source)
    names, batch = list[str](), list[Tensor]()
    for number, (name, _, image) in enumerate(read_ahead(files, ()), start=1):
        if isinstance(image, LoadedImage):
            names.append(name)
            batch.append(prepared(image, reading))
        else:
            skipped[name] = str(image)
        if len(batch) == reading.batch or (batch and number == len(files)):
            yield Extraction(done=number, total=len(files), what=name, skipped=len(skipped)), names, torch.cat(batch)
            names, batch = [], []


def folder_labels(names: Sequence[str]) -> dict[str, str] | None:
    """The first folder of each picture's name as its label; None where some picture is in no folder, or all in one."""
    found = {name: Path(name).parts[0] for name in names if len(Path(name).parts) > 1}
    return found if len(found) == len(names) and len(set(found.values())) > 1 else None


@dataclass(frozen=True, kw_only=True)
class TopPictures:
    """The pictures that excite each of C channels of one layer most, best first, k at most."""

    values: Tensor = field(repr=False)  # [C, k], the responses; 0 where there are fewer pictures with one above 0
    pictures: Tensor = field(repr=False)  # [C, k], numbers of pictures; -1 there
    places: Tensor = field(repr=False)  # [C, k, 2], x and y of the maximum, from 0 to 1 of what the network saw
    positive: Tensor = field(repr=False)  # [C], how many pictures of the collection had a response above 0

    @property
    def counts(self) -> Tensor:
        """How many pictures each channel has here, [C]."""
        return (self.pictures >= 0).sum(1)


class Ranking:
    """The best k pictures of each channel, as batches come: [C, k] tensors however many pictures there are."""

    def __init__(self, count: int, statistic: Statistic = "mean") -> None:
        """Keep `count` pictures a channel by the "mean" over positions of the rectified map, or by its "max"."""
        if count < 1:
            raise ConfigError(f"count={count} must be at least 1: the pictures to keep for each channel")
        self.count, self.statistic = count, one_of("statistic", statistic, get_args(Statistic))
        self._best: tuple[Tensor, Tensor, Tensor] | None = None
        self._positive = torch.zeros(0, dtype=torch.long)

    def update(self, features: Tensor, first: int) -> None:
        """Add features [N, C, H, W] of the pictures with the numbers from `first` on."""
        rectified = features.detach().relu()
        height, width = rectified.shape[-2:]
        peak, place = rectified.flatten(2).max(2)  # [N, C]
        values = (rectified.mean((2, 3)) if self.statistic == "mean" else peak).T.float().cpu()
        place = place.T.cpu()
        x, y = (place % width + 0.5) / width, (place.div(width, rounding_mode="floor") + 0.5) / height
        numbers = torch.arange(first, first + len(features)).expand_as(values)
        numbers = numbers.where(values > 0, -1)
        new = values, numbers, torch.stack([x, y], -1)
        if self._best is None:
            self._positive = torch.zeros(len(values), dtype=torch.long)
        else:
            new = tuple(torch.cat(pair, 1) for pair in zip(self._best, new, strict=True))  # type: ignore[assignment]
        self._positive += (values > 0).sum(1)
        # Stable: of equals, the earlier picture stays before the later one.
        order = new[0].sort(dim=1, descending=True, stable=True)[1][:, : self.count]
        self._best = (
            new[0].gather(1, order),
            new[1].gather(1, order),
            new[2].gather(1, order[..., None].expand(-1, -1, 2)),
        )

    def top(self) -> TopPictures:
        """The best pictures so far; a DatasetError where there was none."""
        if self._best is None:
            raise DatasetError("there was no picture that could be read")
        values, pictures, places = self._best
        return TopPictures(values=values, pictures=pictures, places=places, positive=self._positive)


@dataclass(frozen=True, kw_only=True)
class TopActivations:
    """What a collection excites in a network, layer by layer."""

    layers: Mapping[str, TopPictures] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)  # of all pictures, by their numbers
    skipped: Mapping[str, str] = field(default_factory=dict, repr=False)  # what could not be read, with the reason

    def best(self, tap: str, channel: int) -> list[tuple[str, float]]:
        """Names and responses of the pictures that excite a channel most, best first."""
        if tap not in self.layers or not 0 <= channel < len(self.layers[tap].values):
            raise ConfigError(f"there is no channel {channel} of {tap!r} among {some(self.layers)}")
        layer = self.layers[tap]
        found = zip(layer.pictures[channel].tolist(), layer.values[channel].tolist(), strict=True)
        return [(self.names[number], value) for number, value in found if number >= 0]


def top_activations(
    network: TappedNetwork,
    source: Files,
    *,
    taps: Sequence[str] | None = None,
    count: int = 100,
    statistic: Statistic = "mean",
    reading: Reading | None = None,
    progress: bool = False,
) -> TopActivations:
    """Find the pictures of a collection that excite each channel of some layers most, in one pass.

    Memory depends on the channels and on `count`, not on the number of pictures, whose names alone are kept.

    Args:
        network: A `FeatureExtractor`, or another network with named taps.
        source: A folder of pictures, whose names are then paths inside it, or files.
        taps: Layers; None takes all.
        count: Pictures to keep for each channel.
        statistic: What ranks them: the "mean" over positions of the rectified map, or its "max".
        reading: Size and batch; None takes the defaults.
        progress: Show a bar.

    Raises:
        ConfigError: A setting or tap is wrong.
        DatasetError: There is no picture, or none that can be read.
    """
    stream = stream_top_activations(network, source, taps=taps, count=count, statistic=statistic, reading=reading)
    return result_of(stream, progress=progress, unit="picture")


def stream_top_activations(
    network: TappedNetwork,
    source: Files,
    *,
    taps: Sequence[str] | None = None,
    count: int = 100,
    statistic: Statistic = "mean",
    reading: Reading | None = None,
) -> Iterator[Progress | TopActivations]:
    """The stream of `top_activations`: an `Extraction` after each batch, the result last."""
    asked = check_taps(network, taps)
    rankings = {tap: Ranking(count, statistic) for tap in asked}
    names, skipped = list[str](), dict[str, str]()
    for step, added, batch in stream_batches(source, reading or Reading(), skipped):
        with torch.inference_mode():
            for tap, features in network(batch.to(device_of(network)), asked).items():
                rankings[tap].update(features, len(names))
        names += added
        yield step
    if not names:
        raise DatasetError(f"no picture could be read: {some(f'{name}: {why}' for name, why in skipped.items())}")
    layers = {tap: ranking.top() for tap, ranking in rankings.items()}
    yield TopActivations(layers=layers, names=tuple(names), skipped=skipped)


def device_of(network: object) -> torch.device:
    """Where the network computes."""
    tensors = (*network.parameters(), *network.buffers()) if isinstance(network, torch.nn.Module) else ()
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


# --- What the pictures of a channel have in common


@dataclass(frozen=True)
class Labels:
    """A class for each picture: `numbers` [n] point into `classes`."""

    classes: tuple[str, ...]
    numbers: Tensor = field(repr=False)


def labels_of(names: Sequence[str], labels: Mapping[str, str]) -> Labels:
    """The labels of pictures by their names; a ConfigError where one has none."""
    if missing := [name for name in names if name not in labels]:
        raise ConfigError(f"{len(missing)} of {len(names)} pictures have no label: {some(missing)}")
    classes = tuple(sorted({labels[name] for name in names}))
    places = {label: number for number, label in enumerate(classes)}
    return Labels(classes, torch.tensor([places[labels[name]] for name in names]))


def _proportions(top: TopPictures, labels: Labels) -> Tensor:
    """The share of each class among the pictures of a channel, float64 [C, K]; nan where it has none."""
    there = top.pictures >= 0
    classes = labels.numbers[top.pictures.clamp_min(0)]
    counts = torch.zeros(len(classes), len(labels.classes), dtype=torch.float64)
    counts.scatter_add_(1, classes, there.double())
    return counts / counts.sum(1, keepdim=True)


def class_entropy(top: TopPictures, labels: Labels) -> Tensor:
    """Entropy in bits of the classes among the best pictures of each channel, float64 [C].

    It is 0 where all are of one class, and log2 K where K classes have as many each. It is nan for a channel that no
    picture excites.
    """
    shares = _proportions(top, labels)
    nats: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return nats / math.log(2)


def class_gini(top: TopPictures, labels: Labels) -> Tensor:
    """Gini impurity of the classes among the best pictures of each channel, float64 [C]; nan as for `class_entropy`."""
    return 1 - _proportions(top, labels).square().sum(1)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How many of the best pictures of each of C channels two networks share."""

    shared: Tensor = field(repr=False)  # [C]
    smaller: Tensor = field(repr=False)  # [C], n: how many pictures the network has that has fewer
    of_smaller: Tensor = field(repr=False)  # [C], shared / n; 0 where n is
    of_count: Tensor = field(repr=False)  # [C], shared / k, as published: too small where n is below k


def overlap(before: TopPictures, after: TopPictures) -> Overlap:
    """Compare the best pictures of two networks, channel by channel; both of the same collection.

    Raises:
        ConfigError: They have different numbers of channels, or of pictures that are kept.
    """
    if before.pictures.shape != after.pictures.shape:
        shapes = [list(top.pictures.shape) for top in (before, after)]
        raise ConfigError(f"the best pictures are {shapes[0]} and {shapes[1]}: compare layers of one size")
    blocks = []
    for start in range(0, len(before.pictures), BLOCK):
        a, b = (top.pictures[start : start + BLOCK] for top in (before, after))
        blocks.append(((a[:, :, None] == b[:, None]) & (a >= 0)[:, :, None]).sum((1, 2)))
    shared = torch.cat(blocks)
    smaller = torch.minimum(before.counts, after.counts)
    return Overlap(
        shared=shared,
        smaller=smaller,
        of_smaller=shared / smaller.clamp_min(1),
        of_count=shared / before.pictures.shape[1],
    )


@dataclass(frozen=True, kw_only=True)
class BoxStatistics:
    """What a box plot shows: whiskers reach to the last values within 1.5 times the box's height of it."""

    count: int
    mean: float
    median: float
    lower: float  # quartile
    upper: float
    whiskers: tuple[float, float]
    outliers: tuple[float, ...] = field(repr=False)


def box_statistics(values: Tensor) -> BoxStatistics | None:
    """Summarise values [C], those that are nan left out; None where there is no other."""
    values = values.double()[~values.isnan()].sort()[0]
    if not len(values):
        return None
    lower, median, upper = torch.quantile(values, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    reach = 1.5 * (upper - lower)
    within = values[(values >= lower - reach) & (values <= upper + reach)]
    outside = values[(values < lower - reach) | (values > upper + reach)]
    return BoxStatistics(
        count=len(values),
        mean=float(values.mean()),
        median=median,
        lower=lower,
        upper=upper,
        whiskers=(float(within[0]), float(within[-1])),
        outliers=tuple(outside.tolist()),
    )
