"""Detectors of colours: their regions are tiles of the image, described by their mean colour."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artmodels.data.labelled import Item, LabelledSet
from artmodels.data.reading import Extraction
from artmodels.errors import ArtModelsError, ConfigError, DatasetError, WeightsError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.mimax import Detector, MIMax
from artmodels.methods.mimax import detector as module
from artmodels.methods.mimax.pipeline import MIMaxStep
from artmodels.methods.region_features import Regions

SIDE, TILE = 96, 24
COLOURS = {"red": (220, 30, 30), "blue": (30, 40, 220)}


class Tiles:
    """Regions for tests: tiles in a grid, with mean colours; counts the images that it looked at."""

    features = 3
    fingerprint = hashlib.sha256(b"tiles").hexdigest()
    batch = 3
    _name = None

    def __init__(self) -> None:
        self.looked = 0

    def __call__(self, images: list[LoadedImage]) -> list[Regions]:
        self.looked += len(images)
        return [self.tiles(image) for image in images]

    def tiles(self, image: LoadedImage) -> Regions:
        pixels = image.tensor()
        means = torch.nn.functional.avg_pool2d(pixels, TILE)[0].flatten(1).T.contiguous()
        rows, columns = torch.meshgrid(*(torch.arange(0, side, TILE) for side in pixels.shape[-2:]), indexing="ij")
        corner = torch.stack([columns.flatten(), rows.flatten()], 1).float()
        boxes = torch.cat([corner, corner + TILE], 1)
        return Regions(boxes, torch.full((len(boxes),), 0.5), means, width=image.width, height=image.height)


def painted(number: int, shows: tuple[str, ...]) -> tuple[Image.Image, dict[str, tuple[int, int]]]:
    """A dull picture, with a bright tile for each colour that it shows."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(90, 140, (SIDE, SIDE, 1)).repeat(3, 2) + rng.integers(-10, 10, (SIDE, SIDE, 3))
    places = rng.permutation(16)[: len(shows)]
    corners = {}
    for place, name in zip(places, shows, strict=True):
        top, left = int(place) // 4 * TILE, int(place) % 4 * TILE
        pixels[top : top + TILE, left : left + TILE] = COLOURS[name]
        corners[name] = (left, top)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), corners


SHOWS = [
    ("red",),
    ("blue",),
    (),
    ("red", "blue"),
    ("red",),
    (),
    ("blue",),
    (),
    ("red", "blue"),
    ("blue",),
    ("red",),
    (),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    root.mkdir()
    for number, shows in enumerate(SHOWS):
        painted(number, shows)[0].save(root / f"{number:02}.png")
    return root


@pytest.fixture
def labels() -> dict[str, list[str]]:
    """Of the first eight; the others are not learnt from."""
    return {f"{number:02}.png": list(shows) for number, shows in enumerate(SHOWS[:8])}


@pytest.fixture
def fitted(folder: Path, labels: dict[str, list[str]]) -> Detector:
    return Detector(Tiles(), MIMax(standardize=True, iterations=100)).fit(folder, labels)


@pytest.mark.parametrize("number", [100, 101, 102])
def test_finds_where_what_the_labels_named_only(fitted: Detector, number: int) -> None:
    image, corners = painted(number, ("red", "blue"))
    result = fitted(image, threshold=0.2)
    best = dict(reversed(list(zip(result.found.labels, result.found.boxes.tolist(), strict=True))))
    assert best == {label: [left, top, left + TILE, top + TILE] for label, (left, top) in corners.items()}
    assert list(result.found.scores) == sorted(result.found.scores, reverse=True)
    assert min(result.image_scores.values()) > 0.2 and result.probabilities == {}
    assert result.image.size == (SIDE, SIDE) and result.image != image
    nothing = fitted(painted(number, ())[0])
    assert len(nothing.found) == 0 and max(nothing.image_scores.values()) < 0


def test_the_heat_is_where_the_class_is(fitted: Detector) -> None:
    image, corners = painted(100, ("red", "blue"))
    result = fitted(image)
    changed = np.abs(np.asarray(result.heat("red"), np.int16) - np.asarray(image, np.int16)).sum(2) > 30
    left, top = corners["red"]
    rows, columns = changed.nonzero()
    assert changed[top + 4 : top + TILE - 4, left + 4 : left + TILE - 4].mean() > 0.9
    assert abs(rows.mean() - (top + TILE / 2)) < 3 and abs(columns.mean() - (left + TILE / 2)) < 3
    with pytest.raises(ConfigError, match="'green' is not one of the classes blue, red"):
        result.heat("green")


def test_the_whole_collection_is_searched_labelled_or_not(fitted: Detector, folder: Path) -> None:
    assert fitted.classes == ("blue", "red") and fitted.files == tuple(f"{n:02}.png" for n in range(len(SHOWS)))
    looked = fitted.regions.looked
    found = fitted.collection(threshold=0.2)
    assert [tuple(sorted(one.labels)) for one in found] == [tuple(sorted(shows)) for shows in SHOWS]
    assert fitted.regions.looked == looked, "regions are kept"
    direct = fitted(folder / "08.png", threshold=0.2).found
    assert direct.image == "08.png" and direct.labels == found[8].labels
    assert np.allclose(direct.scores, found[8].scores, atol=5e-3), "kept features are rounded to float16"


def test_correcting_a_label_learns_again_without_looking_again(fitted: Detector, labels: dict[str, list[str]]) -> None:
    looked, before = fitted.regions.looked, fitted.classifier.coef_.copy()
    fitted.correct({"08.png": ["red", "blue"], "11.png": []})
    assert fitted.regions.looked == looked
    assert fitted.labels == {name: frozenset(shown) for name, shown in labels.items()} | {
        "08.png": {"red", "blue"},
        "11.png": frozenset(),
    }
    assert not np.array_equal(before, fitted.classifier.coef_)
    # Calling all red pictures blue and the others not must turn the blue detector to red.
    turned = {f"{n:02}.png": ["blue"] * ("red" in SHOWS[n]) + ["red"] * ("blue" in SHOWS[n]) for n in range(len(SHOWS))}
    fitted.correct(turned)
    image, corners = painted(100, ("red",))
    result = fitted(image, threshold=0.2)
    assert result.found.labels == ("blue",) and tuple(result.found.boxes[0, :2]) == corners["red"]


def test_one_class_and_a_labelled_collection(folder: Path) -> None:
    items = tuple(
        Item(path=folder / f"{n:02}.png", labels=frozenset({"red"} & set(shows)), boxed=False)
        for n, shows in enumerate(SHOWS)
    )
    detector = Detector(Tiles(), MIMax(standardize=True, iterations=100)).fit(LabelledSet("tiles", ("red",), items))
    image, corners = painted(100, ("red", "blue"))
    result = detector(image, threshold=0.2)
    assert result.found.labels == ("red",) and tuple(result.found.boxes[0, :2]) == corners["red"]
    with pytest.raises(ConfigError, match="its own labels"):
        detector.fit(LabelledSet("tiles", ("red",), items), {})


def test_thresholds_overlap_and_limit(fitted: Detector) -> None:
    image, _ = painted(100, ("red", "blue"))
    assert len(fitted(image, threshold=-1, limit=7).found) == 7
    assert len(fitted(image, threshold=-1).found) == 32, "tiles do not overlap: all stay, for both classes"
    assert set(fitted(image, threshold={"red": 0.2, "blue": 1.0}).found.labels) == {"red"}
    for wrong, message in (
        ({"threshold": 2.0}, "threshold=2.0 must be from -1 to 1"),
        ({"threshold": {"red": 0.1}}, "must name each of blue, red and no other; see 'blue'"),
        ({"limit": 0}, "limit=0 must be at least 1"),
        ({"overlap": 1.5}, "overlap at which boxes are dropped is 1.5"),
    ):
        with pytest.raises(ConfigError, match=message):
            fitted(image, **wrong)


def test_probabilities_follow_the_scores(folder: Path) -> None:
    labels = {f"{n:02}.png": list(shows) for n, shows in enumerate(SHOWS)}
    detector = Detector(Tiles(), MIMax(standardize=True, iterations=60)).fit(folder, labels, calibrate=True)
    there, absent = detector(painted(100, ("red",))[0]), detector(painted(101, ())[0])
    assert 0.6 < there.probabilities["red"] <= 1 and 0 <= absent.probabilities["red"] < 0.4
    assert there.probabilities["blue"] < there.probabilities["red"]


def test_same_seed_same_bytes_and_progress(folder: Path, labels: dict[str, list[str]]) -> None:
    *seen, one = Detector(Tiles(), MIMax(standardize=True, iterations=20)).stream_fit(folder, labels)
    two = Detector(Tiles(), MIMax(standardize=True, iterations=20)).fit(folder, labels)
    assert one.classifier.coef_.tobytes() == two.classifier.coef_.tobytes()
    kinds = [type(step) for step in seen]
    assert kinds == [Extraction] * len(SHOWS) + [MIMaxStep] * 20
    assert (seen[11].done, seen[11].total, seen[-1].done, seen[-1].total) == (12, 12, 20, 20)


def test_a_detector_that_was_loaded_takes_a_collection(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    loaded = Detector(fitted.regions, fitted.classifier)
    loaded.classes = fitted.classes
    with pytest.raises(ConfigError, match="call it with images, or call take"):
        loaded.collection()
    *steps, last = loaded.stream_take(folder, store=tmp_path / "store")
    assert last is loaded and [step.done for step in steps] == list(range(1, len(SHOWS) + 1))
    for one, other in zip(loaded.collection(), fitted.collection(), strict=True):
        assert one.image == other.image and one.labels == other.labels
        np.testing.assert_array_equal(one.boxes, other.boxes)
    assert loaded.take(folder, store=tmp_path / "store").files == fitted.files
    assert loaded.labels == {}


def test_a_closed_fit_keeps_what_was_extracted(folder: Path, labels: dict[str, list[str]], tmp_path: Path) -> None:
    tiles = Tiles()
    stream = Detector(tiles).stream_fit(folder, labels, store=tmp_path / "store")
    for _ in range(5):
        next(stream)
    stream.close()
    assert tiles.looked == 6  # two groups of three
    Detector(tiles, MIMax(standardize=True, iterations=5)).fit(folder, labels, store=tmp_path / "store")
    assert tiles.looked == len(SHOWS)


def test_a_closed_stream_leaves_the_detector_as_it_was(
    folder: Path, labels: dict[str, list[str]], tmp_path: Path
) -> None:
    detector = Detector(Tiles(), MIMax(standardize=True, iterations=5)).fit(folder, labels, store=tmp_path / "store")
    before = dict(vars(detector))
    others = tmp_path / "others"
    shutil.copytree(folder, others)
    (others / "11.png").unlink()
    for stream in (
        detector.stream_fit(others, labels, classes=["blue", "red"], calibrate=True),
        detector.stream_correct({"11.png": []}, calibrate=True),
    ):
        for step in stream:
            if isinstance(step, MIMaxStep) and step.done == 3:
                break
        stream.close()
        assert all(value is before[name] for name, value in vars(detector).items()) and len(before) == len(
            vars(detector)
        )
    assert detector.correct({"11.png": []}).labels["11.png"] == frozenset()


def test_a_bar_counts_the_files_and_then_the_steps(
    folder: Path, labels: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    Detector(Tiles(), MIMax(standardize=True, iterations=7)).fit(folder, labels, progress=True)
    bar = capsys.readouterr().err
    assert "/12" in bar and "7/7" in bar


def test_files_that_cannot_be_read_are_left_out(folder: Path, labels: dict[str, list[str]]) -> None:
    (folder / "00.png").write_bytes(b"no picture")
    detector = Detector(Tiles(), MIMax(standardize=True, iterations=20)).fit(folder, labels)
    assert list(detector.skipped) == ["00.png"] and "00.png" not in detector.files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"99.png": ["red"]}, "'99.png' \\(1 such\\), which is not among the files"),
        ({"00.png": "red"}, "the text 'red': give a list of classes, \\['red'\\]"),
        ({"00.png": [], "03.png": ["blue"], "04.png": []}, "none of the 8 labelled images shows 'red'"),
        ({f"{n:02}.png": ["red", "blue"] for n in range(8)}, "none of the 8 labelled images does not show 'red'"),
        ({"00.png": ["green"]}, "'green' is not one of the classes red, blue"),
    ],
)
def test_labels_that_teach_nothing(
    folder: Path, labels: dict[str, list[str]], change: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        Detector(Tiles(), MIMax(standardize=True, iterations=5)).fit(folder, labels | change, classes=["red", "blue"])


def test_other_wrong_uses(folder: Path) -> None:
    detector = Detector(Tiles())
    image, _ = painted(100, ())
    for call, message in (
        (lambda: detector(image), "has not learnt anything yet"),
        (detector.collection, "there is no collection"),
        (lambda: detector.correct({}), "no collection to learn from again"),
        (lambda: detector.fit(folder), "labels are missing"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    with pytest.raises(DatasetError, match="no file shows anything"):
        detector.fit(folder, {"00.png": []})
    with pytest.raises(ArtModelsError, match="no folder"):
        detector.fit(folder / "missing", {"00.png": ["red"]})


def test_saved_and_loaded_it_detects_the_same(
    fitted: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def regions(name: str, **_: object) -> Tiles:
        asked.append(name)
        return Tiles()

    monkeypatch.setattr(module.RegionFeatures, "from_pretrained", regions)
    fitted.regions._name = "tiles"
    fitted.save_pretrained(tmp_path / "saved")
    loaded = Detector.from_pretrained(tmp_path / "saved")
    image, _ = painted(100, ("red", "blue"))
    one, two = fitted(image), loaded(image)
    assert asked == ["tiles"] and loaded.classes == ("blue", "red")
    assert one.found.boxes.tobytes() == two.found.boxes.tobytes()
    assert one.found.scores.tobytes() == two.found.scores.tobytes()
    assert MIMax.from_pretrained(tmp_path / "saved").coef_.tobytes() == fitted.classifier.coef_.tobytes()
    with pytest.raises(ConfigError, match="no collection to learn from again"):
        loaded.correct({"00.png": []})

    monkeypatch.setattr(Tiles, "fingerprint", hashlib.sha256(b"others").hexdigest())
    with pytest.raises(WeightsError, match="trained on other weights of 'tiles'"):
        Detector.from_pretrained(tmp_path / "saved")
    fitted.classifier.save_pretrained(tmp_path / "bare")
    with pytest.raises(ConfigError, match="load it with artmodels.MIMax"):
        Detector.from_pretrained(tmp_path / "bare")


def test_results_are_saved_as_pictures_only(fitted: Detector, tmp_path: Path) -> None:
    result = fitted(painted(100, ("red",))[0])
    result.save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (SIDE, SIDE)
    with pytest.raises(ConfigError, match=".png"):
        result.save(tmp_path / "out.gif")
    assert dataclasses.is_dataclass(result)
