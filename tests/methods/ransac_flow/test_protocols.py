"""Readers of published benchmarks on imitations of their folders, with errors that are worked by hand."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artmodels.correspondence.geometry import from_pixels
from artmodels.errors import ArtModelsError, ConfigError, DatasetError
from artmodels.images.writing import encode_png16
from artmodels.methods.ransac_flow.evaluation.evaluate import evaluate
from artmodels.methods.ransac_flow.evaluation.protocols import (
    SPARSE_LIMITS,
    read_flow,
    read_hpatches,
    read_kitti,
    read_poses,
    read_sparse,
    scaled,
)
from artmodels.methods.ransac_flow.results.alignment import Alignment, Warp


def draw(path: Path, width: int, height: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 30)).save(path)
    return path


class Known:
    """An aligner that always gives one transform of pixels, from the target's to the source's."""

    def __init__(self, matrix: list[list[float]]) -> None:
        self.matrix = torch.tensor(matrix, dtype=torch.float64)

    def __call__(self, source, target) -> Alignment:
        matrix = from_pixels(self.matrix, (target.width, target.height), (source.width, source.height))
        return Alignment(
            tensor=torch.zeros(1, 3, 8, 8),
            settings={},
            seconds=0,
            notes=(),
            pictures=(source, target),
            warp=Warp(matrix[None], torch.zeros(8, 8, dtype=torch.int64), torch.zeros(2, 8, 8)),
            matchability=torch.ones(8, 8),
            error=torch.zeros(8, 8),
        )


SAME = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]

# --- HPatches


@pytest.fixture
def hpatches(tmp_path: Path) -> Path:
    """Two sequences of another viewpoint, shifted by 5 px to the right and 3 up for each number, and one of light."""
    for name in ("v_wall", "v_bird", "i_lamp"):
        for number in range(1, 7):
            draw(tmp_path / name / f"{number}.ppm", 60, 40)
            step = number - 1
            (tmp_path / name / f"H_1_{number}").write_text(f"1 0 {5 * step}\n0 1 {-3 * step}\n0 0 1\n")
    return tmp_path


def test_hpatches_has_five_difficulties(hpatches: Path) -> None:
    pairs = read_hpatches(hpatches)
    assert [(pair.sequence, pair.number) for pair in pairs] == [
        (name, number) for name in ("v_bird", "v_wall") for number in range(2, 7)
    ]
    assert pairs[0].source.name == "1.ppm"
    assert [pair.sequence for pair in read_hpatches(hpatches, kind="i")] == ["i_lamp"] * 5
    # What stays where it is, is off by the shift, in px of 240 x 240.
    scores = evaluate(Known(SAME), (pair.example() for pair in pairs))
    for step, level in enumerate(("I", "II", "III", "IV", "V"), start=1):
        off = math.hypot(5 * step * 240 / 60, 3 * step * 240 / 40)
        np.testing.assert_allclose(scores[level].errors, [off, off], rtol=1e-5)
    # Only where picture 1 shows it: what it lost to the left, and below.
    assert scores["I"].places.tolist() == [(240 - 20) * (240 - 18)] * 2


def test_hpatches_is_read_from_the_other_picture_to_the_first(hpatches: Path) -> None:
    pairs = [pair for pair in read_hpatches(hpatches) if pair.number == 3]
    right = Known([[1, 0, -10], [0, 1, 6], [0, 0, 1]])
    assert evaluate(right, (pair.example() for pair in pairs))["II"].aepe < 1e-4


def test_hpatches_with_pictures_of_two_sizes(hpatches: Path) -> None:
    draw(hpatches / "v_bird" / "2.ppm", 90, 80)
    matrix = np.array([[1.4, 0.1, 3], [0.05, 1.8, -2], [0.001, 0.002, 1]])
    (hpatches / "v_bird" / "H_1_2").write_text(" ".join(map(str, matrix.ravel())))
    truth = read_hpatches(hpatches)[0].example(24).truth
    back = np.linalg.inv(matrix)
    for index in (0, 100, 333, 575):
        # Places in cells of 24 x 24, in pixels of the target, in pixels of the source, and relative.
        x, y = (index % 24 + 0.5) / 24 * 90 - 0.5, (index // 24 + 0.5) / 24 * 80 - 0.5
        u, v, w = back @ [x, y, 1]
        expected = [(2 * u / w + 1) / 60 - 1, (2 * v / w + 1) / 40 - 1]
        np.testing.assert_allclose(truth.source[index], expected, atol=1e-6)
        assert bool(truth.groups["I"][index]) == (max(map(abs, expected)) <= 1)


def test_what_hpatches_may_lack(hpatches: Path) -> None:
    with pytest.raises(DatasetError, match="there is no folder x_NAME"):
        read_hpatches(hpatches, kind="x")
    (hpatches / "v_wall" / "4.ppm").unlink()
    with pytest.raises(DatasetError, match=r"1 of 22 files are not in .*v_wall/4.ppm"):
        read_hpatches(hpatches)


@pytest.mark.parametrize("text", ["1 0 0 0 1 0", "1 0 0 0 1 0 0 0 one", "1 0 0 1 0 0 0 0 1", "nan 0 0 0 1 0 0 0 1"])
def test_a_homography_that_is_none(hpatches: Path, text: str) -> None:
    (hpatches / "v_wall" / "H_1_3").write_text(text)
    with pytest.raises(DatasetError, match=r"H_1_3 is (not 3 x 3 numbers|not finite|a matrix without an inverse)"):
        read_hpatches(hpatches)


def test_a_ppm_that_is_none(hpatches: Path) -> None:
    (hpatches / "v_bird" / "1.ppm").write_bytes(b"P6 no picture")
    with pytest.raises(ArtModelsError, match=r"1\.ppm"):
        read_hpatches(hpatches)[0].example()


# --- KITTI


def flow_file(path: Path, flow: np.ndarray, known: np.ndarray) -> None:
    """Red and green are the flow, blue whether it is known."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.concatenate([np.where(known[..., None], flow * 64 + 2**15, 0), known[..., None]], 2)
    path.write_bytes(encode_png16(pixels.round().astype(np.uint16), {}))


@pytest.fixture
def kitti(tmp_path: Path) -> Path:
    """A pair of 12 x 8: everything goes 3 px right and 4 down, and what goes outside is hidden."""
    pytest.importorskip("cv2")
    for end in ("10", "11"):
        draw(tmp_path / "image_2" / f"000007_{end}.png", 12, 8)
    flow = np.zeros((8, 12, 2)) + [3, 4]
    flow[0, 0] = [-1.25, 0.5]
    known = np.ones((8, 12), bool)
    known[7] = False
    flow_file(tmp_path / "flow_occ" / "000007_10.png", flow, known)
    shown = known & (np.arange(8) < 4)[:, None] & (np.arange(12) < 9)
    flow_file(tmp_path / "flow_noc" / "000007_10.png", flow, shown)
    return tmp_path


def test_a_flow_is_read_exactly(kitti: Path) -> None:
    flow, known = read_flow(kitti / "flow_occ" / "000007_10.png")
    assert flow.shape == (8, 12, 2)
    assert flow[0, 0].tolist() == [-1.25, 0.5]
    assert flow[3, 5].tolist() == [3, 4]
    assert known[:7].all()
    assert not known[7].any()


def test_kitti_by_hand(kitti: Path) -> None:
    (pair,) = read_kitti(kitti)
    assert (pair.source.name, pair.target.name) == ("000007_11.png", "000007_10.png")
    # What stays is off by 5 px, but for the one pixel by sqrt(1.25^2 + 0.5^2).
    one = math.hypot(1.25, 0.5)
    still = evaluate(Known(SAME), [pair.example()])
    assert still["occ"].aepe == pytest.approx((83 * 5 + one) / 84)
    assert still["noc"].aepe == pytest.approx((35 * 5 + one) / 36)
    right = evaluate(Known([[1, 0, 3], [0, 1, 4], [0, 0, 1]]), [pair.example()])
    assert right["occ"].aepe == pytest.approx(math.hypot(4.25, 3.5) / 84, abs=1e-5)
    assert right["occ"].pck == {1: 83 / 84, 3: 83 / 84, 5: 83 / 84}


def test_what_kitti_may_lack(kitti: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatasetError, match=r"there is no flow_occ/NUMBER_10\.png"):
        read_kitti(tmp_path / "image_2")
    draw(tmp_path / "eight.png", 12, 8)
    for file in ("eight.png", "none.png"):
        with pytest.raises(DatasetError, match="is not a PNG of three channels of 16 bits"):
            read_flow(tmp_path / file)
    (pair,) = read_kitti(kitti)
    draw(pair.target, 12, 9)
    with pytest.raises(DatasetError, match="must be of 12 x 9 px"):
        pair.example()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"needs OpenCV: pip install 'artmodels\[align\]'"):
        read_flow(pair.occ)
    pair.noc.unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 files are not in .*flow_noc/000007_10\.png"):
        read_kitti(kitti)


# --- sparse correspondences


@pytest.mark.parametrize(
    "size, expected",
    [((1000, 750), (640, 480)), ((486, 640), (480, 624)), ((480, 480), (480, 480)), ((100, 210), (480, 1008))],
)
def test_sizes_are_floored_to_cells(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled(*size) == expected


HEADER = "scene,source_image,target_image,XA,YA,XB,YB"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw(tmp_path / "imgs" / "0015" / "a.jpg", 960, 960)
    draw(tmp_path / "imgs" / "0015" / "b.jpg", 480, 480)
    draw(tmp_path / "imgs" / "c.png", 480, 640)
    return tmp_path


def test_sparse_by_hand(pictures: Path) -> None:
    # The source is twice as large as the target; 480 px of the target are 480 of the source as it is measured.
    table = pictures / "pairs.csv"
    rows = [
        "0015,a.jpg,b.jpg,200;204;240;-3;500,200;200;200;100;500,100;100;100;100;481,100;100;100;100;100",
        "/,c.png,c.png,10;20.5,10;30,10;20.5,46;30",
    ]
    table.write_text("\n".join([HEADER, *rows, ""]))
    first, second = read_sparse(table, pictures / "imgs")
    assert first.source == pictures / "imgs" / "0015" / "a.jpg"
    assert second.target == pictures / "imgs" / "c.png"
    # Twice, but for the centres of pixels: target 100 is at 200.5 of the source. Two points are outside a picture.
    twice = [[2.0, 0, 0.5], [0, 2, 0.5], [0, 0, 1]]
    scores = evaluate(Known(twice), [first.example()], limits=SPARSE_LIMITS)["all"]
    off = [math.hypot(0.5, 0.5), math.hypot(3.5, 0.5), math.hypot(39.5, 0.5)]
    assert scores.errors[0] == pytest.approx(sum(off) / 2 / 3, abs=1e-3)
    assert scores.hits.tolist() == [[1, 2, 2, 2, 2, 2, 3, 3]]
    # The second has 36 px of difference, exactly at the last limit, at its own size.
    other = evaluate(Known(SAME), [second.example()], limits=SPARSE_LIMITS)["all"]
    assert other.errors[0] == pytest.approx(18, abs=1e-3)
    assert other.places.tolist() == [2]


def test_columns_may_be_in_any_order_and_long(pictures: Path) -> None:
    table = pictures / "pairs.csv"
    many = ";".join(["12.25"] * 60_000)  # more than the csv module takes in a field
    table.write_text(
        f"YB,XB,YA,XA,target_image,source_image,scene,note\n{many},{many},{many},{many},b.jpg,a.jpg,0015,x\n"
    )
    (pair,) = read_sparse(table, pictures / "imgs")
    assert pair.source_points.shape == (60_000, 2)
    assert pair.source.name == "a.jpg"


@pytest.mark.parametrize(
    "text, message",
    [
        ("scene,source_image,target_image,XA,YA,XB", "has no column YB"),
        (f"{HEADER}\n0015,a.jpg,b.jpg,1;2,1;2,1;2,1", "line 2: XA, YA, XB and YB must be as many numbers each"),
        (f"{HEADER}\n0015,a.jpg,b.jpg,1,inf,1,1", "line 2: XA, YA, XB and YB must be as many numbers each, and finite"),
        (f"{HEADER}\n\n0015,a.jpg,b.jpg,1,x,1,1", "line 3 lacks a column, or holds something else than numbers"),
        (f"{HEADER}\n0015,a.jpg,b.jpg,1", "line 2 lacks a column"),
        (f"{HEADER}\n/,a.jpg,c.png,1,1,1,1", "1 of 2 files are not in .*: a.jpg"),
    ],
)
def test_tables_that_are_laid_out_otherwise(pictures: Path, text: str, message: str) -> None:
    table = pictures / "pairs.csv"
    table.write_text(text)
    with pytest.raises(DatasetError, match=message):
        list(read_sparse(table, pictures / "imgs"))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.csv cannot be read: No such file"):
        next(read_sparse(tmp_path / "none.csv", tmp_path))


# --- poses


def cameras() -> dict:
    turn = [[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]
    camera = [[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]
    return {
        "images": {
            "a.png": {"camera": camera, "rotation": turn, "translation": [1, 2, 3]},
            "b.png": {"camera": SAME, "rotation": SAME, "translation": [0, 0, 1]},
        },
        "pairs": [["a.png", "b.png"], ["b.png", "a.png"]],
    }


def test_poses_are_of_one_camera_to_the_other(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, 8, 8)
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps(cameras()))
    first, second = read_poses(file, tmp_path)
    assert first.source == tmp_path / "a.png"
    assert first.source_camera[0, 2] == 50
    assert first.target_camera[0, 2] == 0
    # A place X of the world, as each camera has it: the pose takes the target's axes to the source's.
    place = np.array([0.3, -0.7, 2])
    at_a = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]) @ place + [1, 2, 3]
    at_b = place + [0, 0, 1]
    np.testing.assert_allclose(first.rotation @ at_b + first.translation, at_a, atol=1e-12)
    np.testing.assert_allclose(second.rotation @ at_a + second.translation, at_b, atol=1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda layout: layout.pop("pairs"), 'needs "images"'),
        (lambda layout: layout["pairs"].append(["a.png", "z.png"]), r"pair 2: \['a.png', 'z.png'\] is not two names"),
        (lambda layout: layout["pairs"].append([1, 2]), "pair 2: .* is not two names"),
        (lambda layout: layout["images"]["b.png"].pop("camera"), "image 'b.png' needs a camera"),
        (lambda layout: layout["images"]["b.png"].update(rotation=[[2, 0, 0], [0, 1, 0], [0, 0, 1]]), "is not one"),
        (lambda layout: layout["images"]["b.png"].update(rotation=[[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), "is not one"),
        (lambda layout: layout["images"]["b.png"].update(rotation=[1, 2]), "rotation is not 3 x 3 numbers"),
        (lambda layout: layout["images"]["b.png"].update(translation=[1, 2]), "translation is not 3 numbers"),
        (lambda layout: layout["images"]["b.png"].update(translation=[1, 2, math.nan]), "translation is not finite"),
    ],
)
def test_poses_that_are_laid_out_otherwise(tmp_path: Path, change, message: str) -> None:
    layout = cameras()
    change(layout)
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps(layout))
    with pytest.raises(DatasetError, match=message):
        read_poses(file, tmp_path)


def test_pictures_of_poses_must_be_there(tmp_path: Path) -> None:
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps(cameras()))
    draw(tmp_path / "a.png", 8, 8)
    with pytest.raises(DatasetError, match=r"files are not in .*b\.png"):
        read_poses(file, tmp_path)


def test_a_pickle_is_no_list_of_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.pkl"
    file.write_bytes(b"\x80\x03]q\x00.")
    with pytest.raises(DatasetError, match="not text in UTF-8"):
        read_poses(file, tmp_path)
