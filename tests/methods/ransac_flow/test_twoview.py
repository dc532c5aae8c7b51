"""Two views of a scene whose cameras are known, and figures worked by hand."""

import math
import sys

import numpy as np
import pytest
import torch

from artmodels.correspondence.geometry import identity
from artmodels.errors import ConfigError
from artmodels.images.decoding import LoadedImage
from artmodels.methods.ransac_flow.evaluation.evaluate import PosePair, evaluate_poses, stream_evaluate_poses
from artmodels.methods.ransac_flow.evaluation.twoview import (
    Pose,
    correspondences,
    epipolar_error,
    fundamental,
    pose_accuracy,
    pose_error,
    relative_pose,
)
from artmodels.methods.ransac_flow.results.alignment import Alignment, Warp
from artmodels.progress import Progress

SIZE = WIDTH, HEIGHT = 160, 120
CAMERA = np.array([[180.0, 0, 79.5], [0, 180, 59.5], [0, 0, 1]])
OTHER = np.array([[150.0, 0, 79.5], [0, 150, 59.5], [0, 0, 1]])


def turn(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    """Rodrigues' formula."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


ROTATION, TRANSLATION = turn(9, (0.2, 1, 0.1)), np.array([-0.6, 0.1, 0.15])


def projected(target: np.ndarray) -> np.ndarray:
    """Where the source sees what the target sees at pixels [n, 2]: a wavy relief, 4 to 6 away."""
    x, y = target.T
    depth = 5 + np.sin(x / 23) * np.cos(y / 17)
    rays = np.c_[target, np.ones(len(target))] @ np.linalg.inv(CAMERA).T
    seen = (rays * depth[:, None]) @ ROTATION.T + TRANSLATION
    pixels = seen @ OTHER.T
    return pixels[:, :2] / pixels[:, 2:]


def every_pixel() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.c_[x.ravel(), y.ravel()].astype(float)


def alignment(found: np.ndarray, trust: np.ndarray, *, reason: str = "", size: tuple[int, int] = SIZE) -> Alignment:
    """One whose working size is that of the target, with the source's pixel of each pixel."""
    moved = torch.from_numpy((2 * found + 1) / np.array(size) - 1).float().view(HEIGHT, WIDTH, 2)
    warp = Warp(
        torch.eye(3, dtype=torch.float64)[None],
        torch.zeros(HEIGHT, WIDTH, dtype=torch.int64),
        (moved - identity(HEIGHT, WIDTH)).permute(2, 0, 1),
    )
    sizes = (size, SIZE)
    return Alignment(
        tensor=torch.zeros(1, 3, HEIGHT, WIDTH),
        settings={},
        seconds=0,
        notes=(),
        pictures=tuple(LoadedImage(np.zeros((height, width, 3), np.uint8)) for width, height in sizes),
        warp=None if reason else warp,
        matchability=torch.from_numpy(trust).float().view(HEIGHT, WIDTH),
        error=torch.zeros(HEIGHT, WIDTH),
        reason=reason,
    )


def scene() -> Alignment:
    found = projected(every_pixel())
    inside = ((found > -0.5) & (found < np.array(SIZE) - 0.5)).all(1)
    return alignment(found, inside.astype(float))


# --- matches


def test_matches_are_pixels_whose_centres_are_integers() -> None:
    target, source = correspondences(alignment(every_pixel(), np.ones(WIDTH * HEIGHT)), step=40)
    places = [[x, y] for y in (20, 60, 100) for x in (20, 60, 100, 140)]
    np.testing.assert_allclose(target, places, atol=1e-4)
    np.testing.assert_allclose(source, places, atol=1e-4)


def test_the_source_may_have_another_size() -> None:
    # Each place lies at the same share of both; the edges of a pixel, not its centre, are what is scaled.
    found = every_pixel() * 2 + 0.5
    target, source = correspondences(
        alignment(found, np.ones(WIDTH * HEIGHT), size=(2 * WIDTH, 2 * HEIGHT)), matchable=0, step=7
    )
    np.testing.assert_allclose(source, 2 * target + 0.5, atol=1e-4)


def test_only_what_can_be_trusted_is_a_match() -> None:
    trust = (every_pixel()[:, 0] >= 80) * 0.5
    target, _ = correspondences(alignment(every_pixel(), trust), matchable=0.5, step=1)
    assert len(target) == HEIGHT * 80
    assert target[:, 0].min() == pytest.approx(80, abs=1e-4)
    assert len(correspondences(alignment(every_pixel(), trust), step=1)[0]) == 0


def test_no_matches_without_an_alignment() -> None:
    with pytest.raises(ConfigError, match=r"there is no alignment to use \(nothing alike\)"):
        correspondences(alignment(every_pixel(), np.ones(WIDTH * HEIGHT), reason="nothing alike"))


@pytest.mark.parametrize("wrong", [{"matchable": 1.5}, {"step": 0}])
def test_numbers_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be from 0 to 1, and step="):
        correspondences(scene(), **wrong)


# --- lines


def test_an_epipolar_error_by_hand() -> None:
    # A camera that moves to the side: a place stays in its row.
    sideways = np.array([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    target, source = np.array([[10.0, 20], [5, 5]]), np.array([[3.0, 23], [90, 5]])
    np.testing.assert_allclose(epipolar_error(sideways, target, source), [3, 0], atol=1e-12)
    # Lines of 45 degrees in the target, of a row in the source: distances 4 / sqrt(2) and 4.
    slanted = np.array([[0.0, 0, 0], [0, 0, -1], [1, 1, 0]])
    there = epipolar_error(slanted, np.array([[3.0, 4]]), np.array([[0.0, 11]]))
    line_there = slanted @ [3, 4, 1]
    line_back = slanted.T @ [0, 11, 1]
    by_hand = abs(np.array([0, 11, 1]) @ line_there) / math.hypot(*line_there[:2])
    back = abs(np.array([3, 4, 1]) @ line_back) / math.hypot(*line_back[:2])
    assert there == pytest.approx([(by_hand + back) / 2])
    assert by_hand == pytest.approx(4)
    assert back == pytest.approx(4 / math.sqrt(2))


def test_the_fundamental_matrix_of_a_scene() -> None:
    pytest.importorskip("cv2")
    target, source = correspondences(scene())
    found, inliers = fundamental(target, source)
    assert inliers.mean() > 0.99
    assert epipolar_error(found, target, source).max() < 0.02
    # The direction is the documented one: transposed, lines are elsewhere.
    assert np.median(epipolar_error(found.T, target, source)) > 1
    # It is the one of the cameras.
    x, y, z = TRANSLATION
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    truth = np.linalg.inv(OTHER).T @ cross @ ROTATION @ np.linalg.inv(CAMERA)
    assert epipolar_error(truth, target, source).max() < 1e-3
    again, _ = fundamental(target, source)
    np.testing.assert_array_equal(found, again)


def test_wrong_matches_are_told() -> None:
    pytest.importorskip("cv2")
    target, source = correspondences(scene())
    wrong = np.random.default_rng(0).random(len(target)) < 0.3
    source[wrong] = np.random.default_rng(1).random((wrong.sum(), 2)) * SIZE
    found, inliers = fundamental(target, source)
    assert inliers[~wrong].mean() > 0.99
    assert inliers[wrong].mean() < 0.1  # some lie on their line by chance
    assert np.median(epipolar_error(found, target[~wrong], source[~wrong])) < 0.1


# --- poses


def test_the_pose_of_a_scene() -> None:
    pytest.importorskip("cv2")
    target, source = correspondences(scene())
    pose = relative_pose(target, source, CAMERA, OTHER)
    assert pose_error(pose, ROTATION, TRANSLATION) < 0.5
    assert pose_error(pose, ROTATION.T, TRANSLATION) > 15
    # Of both directions the one that has the scene in front.
    assert pose.translation @ TRANSLATION > 0
    assert np.linalg.norm(pose.translation) == pytest.approx(1)
    assert pose.inliers.mean() > 0.99


def test_wrong_intrinsics_give_a_wrong_pose() -> None:
    pytest.importorskip("cv2")
    target, source = correspondences(scene())
    assert pose_error(relative_pose(target, source, CAMERA, 3 * OTHER), ROTATION, TRANSLATION) > 2


def test_a_pose_error_by_hand() -> None:
    def pose(rotation: np.ndarray, translation: tuple[float, float, float]) -> Pose:
        return Pose(rotation, np.array(translation), np.eye(3), np.ones(5, bool))

    along = np.array([0.0, 0, 7])
    assert pose_error(pose(turn(10, (1, 2, 3)), (0, 0, 1)), np.eye(3), along) == pytest.approx(10)
    assert pose_error(pose(np.eye(3), (0, 1, 0)), np.eye(3), along) == pytest.approx(90)
    assert pose_error(pose(np.eye(3), (0, 0, -1)), np.eye(3), along) == pytest.approx(180)
    sixty = (0, math.sin(math.radians(60)), math.cos(math.radians(60)))
    assert pose_error(pose(turn(10, (1, 2, 3)), sixty), np.eye(3), along) == pytest.approx(60)


def test_the_accuracy_of_poses_by_hand() -> None:
    errors = np.array([1.0, 6, 11, 180])
    assert pose_accuracy(errors) == pytest.approx((1 / 4 + 2 / 4 + 3 / 4 + 3 / 4) / 4)
    assert pose_accuracy(errors, (5, 10)) == pytest.approx(3 / 8)
    assert pose_accuracy(np.array([5.0]), (5,)) == 0  # it must be below
    with pytest.raises(ConfigError, match="no pose errors"):
        pose_accuracy(np.array([]))


def test_too_few_matches() -> None:
    pytest.importorskip("cv2")
    few = np.zeros((4, 2))
    with pytest.raises(ConfigError, match="at least 5 matches"):
        relative_pose(few, few, CAMERA, OTHER)
    with pytest.raises(ConfigError, match="at least 8 matches"):
        fundamental(few, few)
    with pytest.raises(ConfigError, match=r"shapes \(9, 2\) and \(8, 2\)"):
        fundamental(np.zeros((9, 2)), np.zeros((8, 2)))


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"needs OpenCV: pip install 'artmodels\[align\]'"):
        fundamental(np.zeros((9, 2)), np.zeros((9, 2)))
    with pytest.raises(ConfigError, match=r"need OpenCV: pip install 'artmodels\[align\]'"):
        evaluate_poses(lambda source, target: scene(), [])


def test_poses_of_pairs() -> None:
    pytest.importorskip("cv2")
    pair = PosePair("a", "b", OTHER, CAMERA, ROTATION, 3 * TRANSLATION)
    nothing = alignment(every_pixel(), np.ones(WIDTH * HEIGHT), reason="nothing alike")
    untrusted = alignment(every_pixel(), np.zeros(WIDTH * HEIGHT))
    answers = iter([scene(), nothing, untrusted])
    asked = list[tuple[object, object]]()

    def aligner(source: object, target: object) -> Alignment:
        asked.append((source, target))
        return next(answers)

    *steps, errors = stream_evaluate_poses(aligner, [pair] * 3)
    assert errors[0] < 0.5
    assert errors[1:].tolist() == [180, 180]
    assert asked == [("a", "b")] * 3
    assert steps == [Progress(n, 3) for n in (1, 2, 3)]
