"""Two views of something that is not flat: the geometry of two cameras from an alignment, through OpenCV.

Shen, Darmon, Efros and Aubry 2020 (arXiv:2004.01526), section 4.3. Pixels' centres are integers here, as in OpenCV.
It is a ConfigError if OpenCV is missing, if there is no alignment, or if the matches are too few or fit nothing.
"""

import math
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch

from artmodels.correspondence import geometry
from artmodels.errors import ConfigError
from artmodels.images.decoding import Array
from artmodels.methods.ransac_flow.results.alignment import Alignment, opencv

__all__ = ["Pose", "correspondences", "epipolar_error", "fundamental", "pose_accuracy", "pose_error", "relative_pose"]

MATCHED = 0.95  # matchability from which the paper takes matches


@dataclass(frozen=True, eq=False)
class Pose:
    """Where the source's camera stands to the target's."""

    rotation: Array  # [3, 3], from the target camera's axes to the source's
    translation: Array  # [3], of unit length: its true length does not show in pictures
    essential: Array  # [3, 3], E with x_source^T E x_target = 0
    inliers: Array  # [n] bool, matches that agree


def correspondences(alignment: Alignment, *, matchable: float = MATCHED, step: int = 4) -> tuple[Array, Array]:
    """Matches of an alignment, at every so many pixels of the working size where it can be trusted.

    They are pixels (x, y) of the target and of the source, [n, 2] float64 each.
    """
    if not 0 <= matchable <= 1 or step < 1:
        raise ConfigError(f"matchable={matchable} must be from 0 to 1, and step={step} at least 1")
    warp = alignment.sound
    height, width = warp.which.shape
    places = geometry.identity(height, width)[step // 2 :: step, step // 2 :: step].flatten(0, 1)
    trust = alignment.matchability[step // 2 :: step, step // 2 :: step].flatten()
    places = places[trust >= matchable]
    source, target = (
        ((relative.double() + 1) / 2 * torch.tensor(size) - 0.5).numpy()
        for relative, size in zip((warp.at(places), places), alignment.sizes, strict=True)
    )
    return target, source


def fundamental(target: Array, source: Array, *, threshold: float = 1.0, seed: int = 0) -> tuple[Array, Array]:
    """The fundamental matrix [3, 3] of matches in pixels [n, 2], with x_source^T F x_target = 0, and inliers [n]."""
    cv2 = _opencv_for(target, source, 8, seed)
    found, inliers = cv2.findFundamentalMat(target, source, cv2.USAC_ACCURATE, threshold, 0.9999, 10_000)
    if found is None:
        raise ConfigError("no fundamental matrix fits the matches: the pictures may not show the same thing")
    return found, inliers.ravel().astype(bool)


def relative_pose(
    target: Array, source: Array, target_camera: Array, source_camera: Array, *, threshold: float = 5e-4, seed: int = 0
) -> Pose:
    """How two cameras stand to each other, by the essential matrix of matches in pixels [n, 2].

    The cameras are intrinsic matrices [3, 3]. The threshold is the distance of an inlier in focal lengths, the paper's.
    """
    cv2 = _opencv_for(target, source, 5, seed)
    normal = [
        cv2.undistortPoints(np.ascontiguousarray(points, np.float64)[:, None], camera, None)[:, 0]
        for points, camera in ((target, target_camera), (source, source_camera))
    ]
    found, inliers = cv2.findEssentialMat(*normal, np.eye(3), method=cv2.RANSAC, prob=0.9999, threshold=threshold)
    if found is None or found.shape != (3, 3):
        raise ConfigError("no essential matrix fits the matches: the pictures may not show the same thing")
    _, rotation, translation, kept = cv2.recoverPose(found, *normal, np.eye(3), mask=inliers)
    return Pose(rotation, translation.ravel(), found, kept.ravel() > 0)


def epipolar_error(matrix: Array, target: Array, source: Array) -> Array:
    """Mean of both distances of matches [n, 2] from each other's epipolar lines, by a fundamental matrix: [n] in px."""
    one, other = (np.c_[points, np.ones(len(points))] for points in (target, source))
    there, back = one @ matrix.T, other @ matrix  # lines in the source, in the target
    product = np.abs((other * there).sum(1))
    lengths = (np.maximum(np.hypot(line[:, 0], line[:, 1]), 1e-12) for line in (there, back))
    error: Array = sum(product / length for length in lengths) / 2
    return error


def pose_error(pose: Pose, rotation: Array, translation: Array) -> float:
    """The larger of the angles between rotations and between directions of translation, in degrees, as released."""
    cosine = (np.trace(pose.rotation.T @ rotation) - 1) / 2
    turned = math.degrees(math.acos(float(np.clip(cosine, -1, 1))))
    along = float(pose.translation @ translation) / max(float(np.linalg.norm(translation)), 1e-12)
    return max(turned, math.degrees(math.acos(float(np.clip(along, -1, 1)))))


def pose_accuracy(errors: Array, limits: tuple[int, ...] = (5, 10, 15, 20)) -> float:
    """Mean over limits, in degrees, of the share of pose errors [n] below it: the paper's "mAP" at the last one."""
    if not len(errors):
        raise ConfigError("there are no pose errors to count")
    return float(np.mean([np.mean(np.asarray(errors) < limit) for limit in limits]))


def _opencv_for(target: Array, source: Array, least: int, seed: int) -> ModuleType:
    """OpenCV with that seed, if there are enough matches."""
    cv2 = opencv("two-view geometry needs")
    if target.shape != source.shape or target.ndim != 2 or target.shape[1] != 2 or len(target) < least:
        raise ConfigError(
            f"matches of shapes {target.shape} and {source.shape}: give two arrays [n, 2] of at least {least} matches"
        )
    cv2.setRNGSeed(seed)
    return cv2
