"""What training changed in a network, of one collection in one pass: the analysis of Gonthier et al. 2020.

Source: Gonthier et al. 2020, "An analysis of the transfer learning of convolutional neural networks for artistic
images": CKA of each layer, the pictures that excite each channel most before and after, and how alike these are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from artmodels.errors import ConfigError, DatasetError, listing, some
from artmodels.methods.interpret.activations import (
    Files,
    Labels,
    Overlap,
    Ranking,
    Reading,
    Statistic,
    TopActivations,
    TopPictures,
    class_entropy,
    class_gini,
    device_of,
    folder_labels,
    labels_of,
    overlap,
    stream_batches,
)
from artmodels.methods.interpret.similarity import CKA, Estimator, WeightDistance, weight_distances
from artmodels.methods.interpret.taps import TappedNetwork, check_taps
from artmodels.progress import Progress, result_of

__all__ = ["Comparison", "compare", "stream_compare", "usual_taps"]

_MIXED = ("mixed3a", "mixed3b", "mixed4a", "mixed4b", "mixed4c", "mixed4d", "mixed4e", "mixed5a", "mixed5b")
# The layers that are compared of a network that has them all: first those of the paper.
_LAYERS = (
    ("conv2d0", "conv2d1", "conv2d2", *_MIXED),
    ("stem", "layer1", "layer2", "layer3", "layer4"),
    ("layer1", "layer2", "layer3"),
    ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
)


def usual_taps(network: TappedNetwork) -> tuple[str, ...]:
    """The layers of the paper, or those that stand for them in a VGG or ResNet; all taps of another network."""
    return next((taps for taps in _LAYERS if set(taps) <= set(network.taps)), network.taps)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two networks on one collection."""

    before: TopActivations
    after: TopActivations
    cka: Mapping[Estimator, Tensor] = field(repr=False)  # float64 [layers before, layers after]
    labels: Labels | None = field(repr=False)  # of the pictures, by their numbers
    weights: tuple[WeightDistance, ...] = field(repr=False)  # of kernels that both have; none if they share none

    @property
    def shared(self) -> tuple[str, ...]:
        """Layers that both networks have, with as many channels."""
        theirs = self.after.layers
        return tuple(
            tap
            for tap, top in self.before.layers.items()
            if tap in theirs and theirs[tap].pictures.shape == top.pictures.shape
        )

    def overlaps(self) -> dict[str, Overlap]:
        """How many of its best pictures each channel of a shared layer kept."""
        return {tap: overlap(self.before.layers[tap], self.after.layers[tap]) for tap in self.shared}

    def entropies(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Class entropy in bits of each channel's best pictures, before and after; a ConfigError without labels."""
        return self._by_layer(class_entropy)

    def impurities(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gini impurity of the same."""
        return self._by_layer(class_gini)

    def _by_layer(
        self, measure: Callable[[TopPictures, Labels], Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        labels = self.labels
        if labels is None:
            raise ConfigError(
                "the pictures have no labels: put those of a class in a folder of its own, or give labels"
            )
        first, second = (
            {tap: measure(top, labels) for tap, top in tops.layers.items()} for tops in (self.before, self.after)
        )
        return first, second


def compare(
    before: TappedNetwork,
    after: TappedNetwork,
    source: Files,
    *,
    taps: Sequence[str] | None = None,
    count: int = 100,
    statistic: Statistic = "mean",
    reading: Reading | None = None,
    labels: Mapping[str, str] | None = None,
    progress: bool = False,
) -> Comparison:
    """Compare two networks on a collection, which is read once.

    Memory depends on channels and on `count`: float64 numbers for each pair of channels of the two networks, 270 MB for
    two InceptionV1.

    Args:
        before: The one network, such as one that was trained on photographs.
        after: The other, such as the same after fine-tuning on art.
        source: A folder of pictures, or files.
        taps: Layers, of which each network needs some; None takes `usual_taps` of each.
        count: Pictures to keep for each channel.
        statistic: What ranks them: "mean" or "max".
        reading: Size and batch; None takes the defaults.
        labels: A class for each picture, by its name; None takes the first folder of each, if all are in folders.
        progress: Show a bar.

    Raises:
        ConfigError: A setting or tap is wrong, or a picture has no label.
        DatasetError: There are no pictures, or fewer than four that can be read.
    """
    stream = stream_compare(
        before, after, source, taps=taps, count=count, statistic=statistic, reading=reading, labels=labels
    )
    return result_of(stream, progress=progress, unit="picture")


def stream_compare(
    before: TappedNetwork,
    after: TappedNetwork,
    source: Files,
    *,
    taps: Sequence[str] | None = None,
    count: int = 100,
    statistic: Statistic = "mean",
    reading: Reading | None = None,
    labels: Mapping[str, str] | None = None,
) -> Iterator[Progress | Comparison]:
    """The stream of `compare`: an `Extraction` after each batch, the result last."""
    networks = (before, after)
    layers = tuple(_taps_of(network, taps) for network in networks)
    rankings = tuple({tap: Ranking(count, statistic) for tap in found} for found in layers)
    similarity = CKA(*layers)
    names, skipped = list[str](), dict[str, str]()
    for step, added, batch in stream_batches(source, reading or Reading(), skipped):
        pooled = []
        for network, asked, ranks in zip(networks, layers, rankings, strict=True):
            with torch.inference_mode():
                features = network(batch.to(device_of(network)), asked)
                for tap, maps in features.items():
                    ranks[tap].update(maps, len(names))
                pooled.append({tap: maps.mean((2, 3)) for tap, maps in features.items()})
        similarity.update(*pooled)
        names += added
        yield step
    if len(names) < 4:
        raise DatasetError(f"CKA needs four pictures, and {len(names)} could be read; {some(skipped)} could not")
    given = folder_labels(names) if labels is None else labels
    both = (before, after) if isinstance(before, nn.Module) and isinstance(after, nn.Module) else None
    try:
        weights = weight_distances(*both) if both else ()
    except ConfigError:  # of different architectures, whose features can be compared nevertheless
        weights = ()
    first, second = (
        TopActivations(
            layers={tap: ranking.top() for tap, ranking in ranks.items()}, names=tuple(names), skipped=skipped
        )
        for ranks in rankings
    )
    estimators: tuple[Estimator, ...] = ("biased", "debiased")
    if similarity.count - similarity.left_out >= 4:
        estimators += ("minibatch",)
    yield Comparison(
        before=first,
        after=second,
        cka={estimator: similarity.matrix(estimator) for estimator in estimators},
        labels=None if given is None else labels_of(names, given),
        weights=weights,
    )


def _taps_of(network: TappedNetwork, taps: Sequence[str] | None) -> tuple[str, ...]:
    """The layers of one of the networks."""
    if taps is None:
        return usual_taps(network)
    found = [tap for tap in taps if tap in network.taps]
    if not found and taps:
        raise ConfigError(f"one of the networks has none of the taps {listing(taps)}; it has {listing(network.taps)}")
    return check_taps(network, found)
