"""The best pictures of channels against a plain sort of everything; entropy, Gini, overlap and box plots by hand."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from artmodels.errors import ConfigError, DatasetError
from artmodels.features import build
from artmodels.methods.interpret import activations
from artmodels.methods.interpret.activations import (
    Labels,
    Ranking,
    Reading,
    TopPictures,
    box_statistics,
    class_entropy,
    class_gini,
    folder_labels,
    labels_of,
    overlap,
    stream_top_activations,
    top_activations,
)
from artmodels.methods.interpret.taps import HookedNetwork


class Colours:
    """A network whose three channels are the colours less 0.5, and their halves one layer up."""

    taps = ("colour", "half")

    def __call__(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        return {tap: (x - 0.5) * (0.5 if tap == "half" else 1) for tap in taps}


def paint(path: Path, colour: tuple[int, int, int], spot: tuple[int, int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (16, 16), colour)
    if spot:
        image.putpixel(spot, (255, 255, 255))
    image.save(path)


def test_ranking_is_a_sort_of_everything() -> None:
    features = torch.randn(50, 7, 3, 4, generator=torch.Generator().manual_seed(0)) - 0.3
    features[:, 6] = -1
    features[20:, 5] = -1
    features[3] = features[2]  # equals: the earlier first
    for statistic in ("mean", "max"):
        ranking = Ranking(12, statistic)
        for start in range(0, 50, 16):
            ranking.update(features[start : start + 16], start)
        top = ranking.top()
        rectified = features.relu()
        scores = rectified.mean((2, 3)) if statistic == "mean" else rectified.amax((2, 3))
        for channel in range(7):
            order = sorted(range(50), key=lambda i, c=channel: (-float(scores[i, c]), i))
            wanted = [i for i in order if scores[i, channel] > 0][:12]
            assert top.pictures[channel].tolist() == wanted + [-1] * (12 - len(wanted))
            assert torch.equal(top.values[channel, : len(wanted)], scores[wanted, channel])
            assert int(top.positive[channel]) == int((scores[:, channel] > 0).sum())
            for rank, i in enumerate(wanted):
                place = int(rectified[i, channel].argmax())
                expected = [(place % 4 + 0.5) / 4, (place // 4 + 0.5) / 3]
                assert top.places[channel, rank].tolist() == pytest.approx(expected)
        assert top.counts[6] == 0 and top.values[6].eq(0).all()


def test_a_collection_in_one_pass(tmp_path: Path) -> None:
    paint(tmp_path / "red/a.png", (255, 0, 0))
    paint(tmp_path / "red/b.png", (200, 0, 0), spot=(12, 3))
    paint(tmp_path / "blue/c.png", (0, 0, 255))
    paint(tmp_path / "grey/d.png", (100, 100, 100))
    (tmp_path / "grey/broken.png").write_bytes(b"\x89PNG no picture")
    *steps, found = stream_top_activations(Colours(), tmp_path, count=3, reading=Reading(side=16, batch=2))
    assert [step.done for step in steps] == [4, 5] or [step.done for step in steps][-1] == 5
    assert found.names == ("blue/c.png", "grey/d.png", "red/a.png", "red/b.png")
    assert list(found.skipped) == ["grey/broken.png"]
    assert found.best("colour", 0) == [
        ("red/a.png", 0.5),
        ("red/b.png", pytest.approx((255 * 200 + 255) / 255 / 256 - 0.5)),
    ]
    assert [name for name, _ in found.best("half", 2)] == ["blue/c.png", "red/b.png"]
    assert found.layers["colour"].places[2, 1].tolist() == pytest.approx([12.5 / 16, 3.5 / 16])
    assert folder_labels(found.names) == {name: name.split("/")[0] for name in found.names}
    again = top_activations(Colours(), tmp_path, taps=["colour"], count=1, reading=Reading(side=16))
    assert again.layers["colour"].pictures.tolist() == [[2], [3], [0]]
    assert again.layers["colour"].positive.tolist() == [2, 1, 2]


def test_the_middle_is_cut_out_or_all_is_squashed(tmp_path: Path) -> None:
    wide = Image.new("RGB", (48, 16), (0, 0, 0))
    wide.paste((255, 0, 0), (16, 0, 32, 16))
    wide.save(tmp_path / "wide.png")
    for resize, mean in (("crop", 0.5), ("squash", None)):
        found = top_activations(Colours(), tmp_path, taps=["colour"], reading=Reading(side=16, resize=resize))
        value = float(found.layers["colour"].values[0, 0])
        assert value == pytest.approx(mean) if mean else 0.1 < value < 0.25


def test_memory_is_bounded_by_the_channels() -> None:
    ranking = Ranking(5)
    for start in range(0, 600, 30):
        ranking.update(torch.rand(30, 4, 2, 2), start)
        assert ranking.top().values.shape == (4, 5)
    assert int(ranking.top().positive[0]) == 600


def test_networks_of_the_house_and_of_torchvision(tmp_path: Path) -> None:
    for i in range(3):
        paint(tmp_path / f"{i}.png", (40 * i, 80, 20 * i), spot=(i, i))
    reading = Reading(side=64)
    found = top_activations(build("art-resnet"), tmp_path, count=2, reading=reading)
    assert {tap: tuple(layer.pictures.shape) for tap, layer in found.layers.items()} == {
        "layer1": (64, 2),
        "layer2": (128, 2),
        "layer3": (256, 2),
    }
    assert folder_labels(found.names) is None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        googlenet = torchvision.models.googlenet(weights=None, init_weights=False)
    hooked = HookedNetwork(googlenet, {"mixed3a": "inception3a", "mixed4a": "inception4a"})
    found = top_activations(hooked, tmp_path, count=2, reading=reading)
    assert tuple(found.layers["mixed4a"].pictures.shape) == (512, 2)


def test_a_hook_sees_the_map_before_a_relu_in_place() -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(inplace=True))
    hooked = HookedNetwork(network, {"pre": "0", "post": "1"})
    found = hooked(torch.rand(1, 3, 4, 4), ["pre", "post"])
    assert found["pre"].min() < 0 and torch.equal(found["pre"].relu(), found["post"])
    assert not network[0]._forward_hooks
    with pytest.raises(ConfigError, match="no module '2'"):
        HookedNetwork(network, {"x": "2"})
    with pytest.raises(ConfigError, match="no tap 'pos'. Did you mean 'post'"):
        hooked(torch.rand(1, 3, 4, 4), ["pos"])


def top(*rows: list[int]) -> TopPictures:
    pictures = torch.tensor(rows)
    return TopPictures(
        values=(pictures >= 0).float(),
        pictures=pictures,
        places=torch.zeros(*pictures.shape, 2),
        positive=(pictures >= 0).sum(1),
    )


def test_entropy_and_gini() -> None:
    labels = Labels(tuple(map(str, range(25))), torch.arange(100) % 25)
    one_class, uniform = [0, 25, 50, 75] * 25, list(range(100))
    found = top(one_class, uniform, [0, 1] * 50, [-1] * 100, [0, 1, 2, 3] + [-1] * 96)
    assert class_entropy(found, labels).tolist()[:3] == pytest.approx([0, 4.643856, 1], abs=1e-6)
    assert class_gini(found, labels).tolist()[:3] == pytest.approx([0, 0.96, 0.5])
    assert class_entropy(found, labels)[3].isnan() and class_gini(found, labels)[3].isnan()
    assert float(class_entropy(found, labels)[4]) == pytest.approx(2)
    assert labels_of(["b", "a"], {"a": "x", "b": "y"}).numbers.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="1 of 2 pictures have no label: c"):
        labels_of(["a", "c"], {"a": "x"})


def test_overlap_by_both_measures() -> None:
    before = top([1, 2, 3, 4], [1, 2, -1, -1], [-1] * 4)
    after = top([4, 9, 8, 1], [2, 7, 6, 5], [1, 2, 3, 4])
    found = overlap(before, after)
    assert found.shared.tolist() == [2, 1, 0]
    assert found.smaller.tolist() == [4, 2, 0]
    assert found.of_smaller.tolist() == [0.5, 0.5, 0]
    assert found.of_count.tolist() == [0.5, 0.25, 0]
    with pytest.raises(ConfigError, match="compare layers of one size"):
        overlap(before, top([1, 2]))


def test_box_plot_statistics() -> None:
    values = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 30, math.nan])
    found = box_statistics(values)
    assert found is not None
    assert (found.count, found.median, found.lower, found.upper) == (9, 5, 3, 7)
    assert found.mean == pytest.approx(66 / 9)
    assert found.whiskers == (1, 8) and found.outliers == (30,)
    assert box_statistics(torch.tensor([math.nan])) is None


def test_what_does_not_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no image"):
        top_activations(Colours(), tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    with pytest.raises(DatasetError, match="no picture could be read: broken.png"):
        top_activations(Colours(), tmp_path)
    paint(tmp_path / "a.png", (1, 2, 3))
    with pytest.raises(ConfigError, match="no tap 'color'. Did you mean 'colour'"):
        top_activations(Colours(), tmp_path, taps=["color"])
    with pytest.raises(ConfigError, match="taps must be a list"):
        top_activations(Colours(), tmp_path, taps="colour")
    with pytest.raises(ConfigError, match="count=0 must be at least 1"):
        top_activations(Colours(), tmp_path, count=0)
    with pytest.raises(ConfigError, match="Unknown statistic 'median'"):
        top_activations(Colours(), tmp_path, statistic="median")
    found = top_activations(Colours(), tmp_path)
    with pytest.raises(ConfigError, match="there is no channel 3 of 'colour'"):
        found.best("colour", 3)
    assert activations.Reading().side == 224
