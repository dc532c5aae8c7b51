"""What several detectors, each of one thing, find in the collection that they were fitted on."""

from collections.abc import Sequence

from artmodels.detections.annotations import Detections
from artmodels.methods.mimax.detector import Detector

__all__ = ["detect_together"]


def detect_together(detectors: Sequence[Detector], *, threshold: float) -> list[Detections]:
    """Detect with all of them in every image, from the regions that are kept.

    Args:
        detectors: Fitted on the same files, each for classes of its own.
        threshold: Score in (-1, 1) that a box must exceed.

    Returns:
        One an image, in the order of the files, with the boxes of the first detector first.

    Raises:
        ConfigError: A detector was loaded, not fitted, or the threshold is out of range.
    """
    return [
        Detections(
            image=parts[0].image,
            width=parts[0].width,
            height=parts[0].height,
            boxes=[box for part in parts for box in part.boxes.tolist()],  # type: ignore[arg-type]  # any numbers
            scores=[score for part in parts for score in part.scores.tolist()],  # type: ignore[arg-type]
            labels=tuple(label for part in parts for label in part.labels),
        )
        for parts in zip(*(detector.collection(threshold=threshold) for detector in detectors), strict=True)
    ]
