"""The benchmark of copied details: what it says of every copy is true, to the pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import center_of_mass, gaussian_filter, label

from artmodels.correspondence.redrawing import blended, engraved, matched, recoloured
from artmodels.errors import ConfigError, DatasetError
from artmodels.methods.artminer.evaluation.brueghel import leaks, read_queries
from artmodels.methods.artminer.evaluation.copies import DIFFICULTIES, Difficulty, make_benchmark

PLAIN = Difficulty(scale=(0.6, 1.6), rotation=10, mirrored=0.5, warp=0, colour=0, blend=0, engraved=0, restyled=0)
SIDE = (320, 240)


def smooth(seed: int, height: int = SIDE[1], width: int = SIDE[0], sigma: float = 8.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (height, width, 3))
    field = gaussian_filter(noise, (sigma, sigma, 0))
    return 0.5 + 0.12 * field / field.std()


def save(picture: np.ndarray, path: Path) -> Path:
    Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def paintings(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("paintings")
    return [save(smooth(number, sigma=1.5 + number % 5), folder / f"{number}.png") for number in range(10)]


def make(images: list[Path], folder: Path, **settings) -> Path:
    return make_benchmark(images, folder, **({"categories": 2, "copies": 3, "size": (160, 240)} | settings))


def instances(file: Path) -> list[dict]:
    return json.loads((file.parent / "instances.json").read_text())["instances"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, np.float64) / 255


# --- the set


@pytest.mark.parametrize("difficulty", list(DIFFICULTIES))
def test_the_files_are_read_back(paintings, tmp_path, difficulty):
    file = make(paintings, tmp_path / "set", difficulty=difficulty)
    queries = read_queries(file, tmp_path / "set" / "images")
    assert (len(queries.queries), len(queries.categories), len(queries.images)) == (6, 2, 6)
    assert {len(query.truth) for query in queries.queries} == {2}
    assert len(list((tmp_path / "set" / "images").iterdir())) == len(paintings)  # all others are distractors
    tuning, test = (read_queries(file.with_name(f"{part}.json")) for part in ("tuning", "test"))
    assert len(tuning.queries) + len(test.queries) == 6
    assert not leaks(test, tuning).categories
    by_image = {one["image"]: one for one in instances(file)}
    for query in queries.queries:
        left, top, right, bottom = query.instance.box
        height, width = pixels(tmp_path / "set" / "images" / query.instance.image).shape[:2]
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert 160 <= max(width, height) <= 240
        assert by_image[query.instance.image]["category"] == query.category
        assert tuple(by_image[query.instance.image]["box"]) == query.instance.box
        assert sum(place.image == query.instance.image for place in query.truth) == 0


def test_the_same_seed_gives_the_same_bytes(paintings, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        make(paintings, tmp_path / name, difficulty="hard", seed=seed, distractors=1)
    first, second, other = (contents(tmp_path / name) for name in "abc")
    assert first == second
    assert len(first) == 4 + 7
    assert first["queries.json"] != other["queries.json"]


def test_the_original_is_untouched(paintings, tmp_path):
    file = make(paintings, tmp_path / "set", difficulty="hard", size=(320, 320))
    originals = [one for one in instances(file) if one["original"] == one["image"]]
    assert [one["category"] for one in originals] == ["detail-0", "detail-1"]
    sources = [pixels(path) for path in paintings]
    for one in originals:
        made = pixels(tmp_path / "set" / "images" / one["image"])
        assert any(np.array_equal(made, source) for source in sources)
        assert (one["transform"], one["medium"], one["mirrored"]) == (np.eye(3).tolist(), "painting", False)


def dots(picture: np.ndarray) -> np.ndarray:
    """Centres (x, y) of red dots, weighted by their redness."""
    red = (picture[..., 0] - picture[..., 1:].max(-1)).clip(0)
    marks, count = label(red > 0.1)
    return np.array(center_of_mass(red, marks, range(1, count + 1)))[:, ::-1] + 0.5


def test_planted_dots_go_through_the_transform(tmp_path):
    source = np.repeat(smooth(0).mean(2, keepdims=True), 3, axis=2)
    down, across = np.mgrid[: SIDE[1], : SIDE[0]] + 0.5
    planted = np.array([(x, y) for y in range(10, SIDE[1], 13) for x in range(10, SIDE[0], 13)], float)
    for x, y in planted:
        weight = np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * 2.0**2))[..., None]
        source += weight * (np.array([1.0, 0.0, 0.0]) - source)
    files = [save(source, tmp_path / "dots.png")]
    for number in range(1, 5):  # grey and smooth: without dots, and so never chosen as the original
        grey = np.repeat(smooth(number, sigma=20).mean(2, keepdims=True), 3, axis=2)
        files.append(save(grey, tmp_path / f"{number}.png"))
    file = make(files, tmp_path / "set", categories=1, copies=5, difficulty=PLAIN, size=(320, 320), seed=2)
    made = [one for one in instances(file) if one["original"] != one["image"]]
    assert {one["mirrored"] for one in made} == {True, False}
    for one in made:
        transform = np.array(one["transform"])
        assert abs(np.linalg.det(transform)) == pytest.approx(one["scale"] ** 2)
        assert (np.linalg.det(transform) < 0) == one["mirrored"]
        expected = planted @ transform[:2, :2].T + transform[:2, 2]
        left, top, right, bottom = one["box"]
        rim = 7 * one["scale"]  # dots on the rim are cut
        inner = (expected > [left + rim, top + rim]).all(1) & (expected < [right - rim, bottom - rim]).all(1)
        middle = np.array([left + right, top + bottom]) / 2
        radius = (((expected - middle) / ([(right - left) / 2, (bottom - top) / 2])) ** 2).sum(1)
        inner &= radius < 0.8
        found = dots(pixels(tmp_path / "set" / "images" / one["image"]))
        assert inner.sum() >= 4
        distances = np.linalg.norm(expected[inner, None] - found[None], axis=2).min(1)
        assert distances.max() < 1


def test_the_box_bounds_what_was_pasted(tmp_path):
    # The original is noise and white, everything else black: what is not black was pasted.
    bright = np.random.default_rng(0).uniform(0.4, 1, (*SIDE[::-1], 3))
    files = [save(bright, tmp_path / "0.png")]
    for number in range(1, 4):
        black = np.zeros_like(bright)
        black[:, number] = 1 / 255  # no two files are the same
        files.append(save(black, tmp_path / f"{number}.png"))
    knobs = Difficulty(scale=(0.7, 1.3), rotation=8, warp=0.03, colour=0, blend=0, engraved=0)
    file = make(files, tmp_path / "set", categories=1, copies=4, difficulty=knobs, size=(320, 320))
    for one in instances(file)[1:]:
        inside = pixels(tmp_path / "set" / "images" / one["image"]).max(-1) > 0.25  # half the weight of the piece
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        bounds = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(np.array(bounds) - one["box"]).max() <= 3


def test_every_knob_is_recorded(paintings, tmp_path):
    knobs = Difficulty(scale=(1.1, 1.1), rotation=0, mirrored=1, warp=0.02, engraved=1)
    file = make(paintings, tmp_path / "set", difficulty=knobs)
    for one in instances(file):
        copied = one["image"] != one["original"]
        assert (one["mirrored"], one["warp"]) == (copied, 0.02 if copied else 0)
        assert one["medium"] == ("engraving" if copied else "painting")
        assert one["scale"] == pytest.approx(1.1 if copied else 1)
    assert json.loads(file.with_name("instances.json").read_text())["difficulty"] == repr(knobs)


def test_the_style_of_the_caller_redraws(paintings, tmp_path):
    sizes = []

    def inverted(picture: Image.Image) -> Image.Image:
        sizes.append(picture.size)
        return Image.eval(picture, lambda value: 255 - value)

    knobs = Difficulty(restyled=1, engraved=1)
    file = make(paintings, tmp_path / "set", difficulty=knobs, style=inverted)
    assert len(sizes) == len(paintings) - 2  # all but the two originals
    assert [one["medium"] for one in instances(file)] == ["painting", "restyled", "restyled"] * 2
    with pytest.raises(ConfigError, match="boxes would be wrong"):
        make(paintings, tmp_path / "other", difficulty=knobs, style=lambda picture: picture.resize((9, 9)))


def test_wrong_settings_are_refused(paintings, tmp_path):
    with pytest.raises(DatasetError, match="10 images are too few: 3 categories of 3 and 2 distractors need 11"):
        make(paintings, tmp_path / "set", categories=3, distractors=2)
    with pytest.raises(DatasetError, match="listed twice"):
        make([*paintings, paintings[0]], tmp_path / "set")
    with pytest.raises(ConfigError, match="difficulty='cruel' is none of easy, medium, hard"):
        make(paintings, tmp_path / "set", difficulty="cruel")
    with pytest.raises(ConfigError, match="copies=1 2 or more"):
        make(paintings, tmp_path / "set", copies=1)
    for knobs, message in (
        ({"mirrored": 1.5}, "mirrored=1.5 must be at least 0 and at most 1"),
        ({"scale": (2, 1)}, "rise"),
        ({"warp": 0.5}, "warp"),
    ):
        with pytest.raises(ConfigError, match=message):
            Difficulty(**knobs)
    assert not (tmp_path / "set").exists()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old.png").touch()
    with pytest.raises(DatasetError, match="is not empty"):
        make(paintings, tmp_path / "set")


# --- redrawing


def disc(height: int, width: int, radius: float) -> np.ndarray:
    down, across = np.mgrid[:height, :width]
    return (radius + 0.5 - np.hypot(down - height / 2, across - width / 2)).clip(0, 1)


def test_with_the_whole_seam_blending_is_the_plain_composite():
    piece, ground, weights = smooth(1, 60, 80), smooth(2, 60, 80), disc(60, 80, 15)
    composite = weights[..., None] * piece + (1 - weights[..., None]) * ground
    np.testing.assert_allclose(blended(piece, ground, weights, seam=1), composite, atol=1e-12)


def test_a_piece_that_differs_by_a_constant_disappears():
    ground = smooth(3, 60, 80)
    np.testing.assert_allclose(blended(ground + 0.2, ground, disc(60, 80, 15)), ground, atol=1e-12)


def test_blending_solves_the_poisson_equation():
    height, width = 18, 20  # less than the margin: the window is the picture
    piece, ground, weights = smooth(4, height, width, 2.0), smooth(5, height, width, 2.0), disc(height, width, 4)
    inner = [(row, column) for row in range(1, height - 1) for column in range(1, width - 1)]
    number = {place: index for index, place in enumerate(inner)}
    matrix, right = np.zeros((len(inner), len(inner))), np.zeros((len(inner), 3))
    for place, index in number.items():
        for step in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            other = place[0] + step[0], place[1] + step[1]
            share = (weights[place] + weights[other]) / 2
            right[index] += share * (piece[place] - piece[other]) + (1 - share) * (ground[place] - ground[other])
            matrix[index, index] += 1
            if other in number:
                matrix[index, number[other]] -= 1
            else:
                right[index] += ground[other]
    expected = ground.copy()
    for place, values in zip(inner, np.linalg.solve(matrix, right), strict=True):
        expected[place] = values
    assert np.abs(expected - ground).max() > 0.05
    np.testing.assert_allclose(blended(piece, ground, weights), expected.clip(0, 1), atol=1e-9)


def test_blending_leaves_the_rest_alone():
    piece, ground, weights = smooth(6, 120, 160), smooth(7, 120, 160), disc(120, 160, 12)
    changed = np.abs(blended(piece, ground, weights) - ground).max(-1) > 0
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert rows[0] >= 60 - 13 - 8 and rows[-1] <= 60 + 13 + 8
    assert columns[0] >= 80 - 13 - 8 and columns[-1] <= 80 + 13 + 8
    assert np.array_equal(blended(piece, ground, np.zeros((120, 160))), ground)


def test_no_strength_changes_no_colour():
    picture = smooth(8, 30, 40).clip(0, 1)
    np.testing.assert_allclose(recoloured(picture, 0.0, np.random.default_rng(0)), picture, atol=1e-12)
    assert np.abs(recoloured(picture, 1.0, np.random.default_rng(0)) - picture).mean() > 0.03
    weights = np.ones((30, 40))
    ground = np.broadcast_to([0.9, 0.1, 0.1], (30, 40, 3))
    assert np.array_equal(matched(picture, ground, weights, 0.0), picture)
    nearer = matched(picture, ground, weights, 1.0).mean((0, 1))
    np.testing.assert_allclose(nearer, 0.4 * picture.mean((0, 1)) + 0.6 * ground[0, 0], atol=0.01)


def test_an_engraving_has_two_inks_and_keeps_the_tones():
    # A ramp from dark to light: less ink to the right; paper and ink are of one hue each.
    ramp = np.broadcast_to(np.linspace(0, 1, 200)[None, :, None], (160, 200, 3))
    drawn = engraved(ramp, np.random.default_rng(0))
    means = drawn.mean((0, 2)).reshape(4, 50).mean(1)
    assert (np.diff(means) > 0.02).all()
    # All colours lie on the line between paper and ink.
    values = np.linalg.svd(drawn.reshape(-1, 3) - drawn.reshape(-1, 3).mean(0), compute_uv=False)
    assert values[1] < 1e-6 * values[0]
