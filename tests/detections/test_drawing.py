"""Boxes and heat over images."""

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from artmodels.detections.annotations import Detections
from artmodels.detections.drawing import boxes_over, class_colour, heat_colours, heat_over, score_map
from artmodels.errors import ConfigError, ImageError

GREY = Image.new("RGB", (300, 200), (128, 128, 128))


def detections(*rows, width: int = 300, height: int = 200) -> Detections:
    """Each row is left, top, right, bottom, score, label."""
    return Detections(
        image="a.jpg",
        width=width,
        height=height,
        boxes=[row[:4] for row in rows],
        scores=[row[4] for row in rows],
        labels=tuple(row[5] for row in rows),
    )


def letters(picture: Image.Image) -> np.ndarray:
    """The pixels that are nearly black, as only letters are here."""
    return (np.asarray(picture) < 60).all(-1)


def changed(picture: Image.Image, before: Image.Image = GREY) -> np.ndarray:
    return (np.asarray(picture) != np.asarray(before)).any(-1)


# --- boxes


def test_a_box_and_its_caption_are_drawn_and_nothing_else() -> None:
    picture = boxes_over(GREY, detections((100, 60, 180, 140, 0.5, "angel")))
    assert picture.size == GREY.size
    assert GREY.getpixel((100, 60)) == (128, 128, 128)  # the original stays
    colour = class_colour("angel")
    for corner in ((100, 60), (180, 140), (180, 60), (100, 140)):
        assert picture.getpixel(corner) == colour
    touched = changed(picture)
    assert not touched[63:138, 103:178].any()
    # The caption lies above, from the left side on; it has the class's colour, and black letters.
    caption = np.asarray(picture)[40:59, 100:180][touched[40:59, 100:180]]
    assert (caption == colour).all(-1).mean() > 0.3
    assert letters(picture)[40:59, 100:180].sum() > 20
    touched[40:142, 100:181] = False
    assert not touched.any()


@pytest.mark.parametrize(
    "box", [(0, 0, 300, 200), (290, 0, 300, 5), (0, 190, 3, 200), (300, 200, 300, 200), (299, 90, 300, 91)]
)
def test_captions_stay_inside_the_image(box) -> None:
    # As many dark pixels as in a caption that has room on all sides: none is cut off.
    middle = letters(boxes_over(GREY, detections((100, 100, 150, 150, 0.5, "ruins")))).sum()
    assert letters(boxes_over(GREY, detections((*box, 0.5, "ruins")))).sum() == middle > 20


def test_only_scores_above_the_threshold_are_drawn_and_the_highest_lies_on_top() -> None:
    low, high = (50, 60, 150, 160, 0.2, "low"), (50, 60, 150, 160, 0.9, "high")
    for rows in ((low, high), (high, low)):
        assert boxes_over(GREY, detections(*rows)).getpixel((150, 160)) == class_colour("high")
    assert boxes_over(GREY, detections(low, high), threshold=0.9).tobytes() == GREY.tobytes()
    alone = boxes_over(GREY, detections(high))
    assert boxes_over(GREY, detections(low, high), threshold=0.2).tobytes() == alone.tobytes()


def test_lines_and_letters_grow_with_the_image() -> None:
    def ink(scale: int) -> float:
        image = Image.new("RGB", (300 * scale, 200 * scale), (128, 128, 128))
        box = tuple(scale * value for value in (100, 60, 180, 140))
        picture = boxes_over(image, detections((*box, 0.5, "angel"), width=300 * scale, height=200 * scale))
        return letters(picture).mean()

    assert ink(6) == pytest.approx(ink(3), rel=0.25)


def test_boxes_belong_to_an_image_of_their_size() -> None:
    with pytest.raises(ImageError, match=r"300 x 200 pixels, the detections in 'a.jpg' were made at 301 x 200"):
        boxes_over(GREY, detections(width=301))


def test_colours_are_stable_and_apart() -> None:
    # Recorded once: a class keeps its colour from one version to the next.
    assert class_colour("angel") == (143, 168, 52)
    classes = [f"class {number}" for number in range(12)]
    lab = rgb2lab(np.array([class_colour(name, classes) for name in classes])[None] / 255)[0]
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 1000 * np.eye(12)
    assert apart.min() > 12  # ten times what an eye can just tell apart
    assert np.ptp(lab[:, 0]) < 6
    assert class_colour("other", classes) == class_colour("other")


# --- heat


def test_heat_colours_rise_evenly_in_lightness() -> None:
    colours = heat_colours()
    assert (colours.shape, colours.dtype) == ((256, 3), np.uint8)
    lightness = rgb2lab(colours[None] / 255)[0, :, 0]
    assert (np.diff(lightness) > 0).all()
    assert np.abs(lightness - np.linspace(lightness[0], lightness[-1], 256)).max() < 1
    assert lightness[0] < 10 < 90 < lightness[-1]


def test_heat_is_where_the_score_is() -> None:
    scores = np.zeros((4, 6))
    scores[1:3, 4:6] = 2
    picture = np.asarray(heat_over(GREY, scores))
    assert picture.shape == (200, 300, 3)
    assert (picture[:, :150] == 128).all()
    # The middle of its cell has 70 % of the highest colour.
    expected = 0.3 * 128 + 0.7 * heat_colours()[-1].astype(float)
    assert np.abs(picture[75, 225] - expected).max() <= 2
    assert (
        np.abs(np.asarray(heat_over(GREY, scores, strength=1))[75, 225] - heat_colours()[-1].astype(float)).max() <= 2
    )


def test_heat_follows_its_range() -> None:
    scores = np.array([[-5.0, 0, 1, 9]])
    clipped = heat_over(GREY, np.array([[0.0, 0, 1, 1]]), low=0, high=1)
    assert heat_over(GREY, scores, low=0, high=1).tobytes() == clipped.tobytes()
    assert heat_over(GREY, np.full((3, 3), 7.0)).tobytes() == GREY.tobytes()


def test_heat_refuses_what_is_no_map() -> None:
    for wrong in (np.zeros(3), np.zeros((0, 4)), np.array([[np.nan]])):
        with pytest.raises(ImageError, match=r"give finite \[h, w\]"):
            heat_over(GREY, wrong)
    for strength in (0, 1.1):
        with pytest.raises(ConfigError, match=r"value in \(0, 1\]"):
            heat_over(GREY, np.zeros((2, 2)), strength=strength)
    with pytest.raises(ConfigError, match="low is 2, high 1"):
        heat_over(GREY, np.zeros((2, 2)), low=2, high=1)


def test_score_map_is_the_highest_score_over_each_pixel() -> None:
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(0, 20, (30, 2, 2)), axis=1).reshape(30, 4)
    scores = rng.normal(size=30)
    expected = np.zeros((16, 20), np.float32)
    for y in range(16):
        for x in range(20):
            over = [
                s for (a, b, c, d), s in zip(boxes, scores, strict=True) if a < x + 1 and x < c and b < y + 1 and y < d
            ]
            expected[y, x] = max([0, *over])
    assert np.array_equal(score_map(boxes, scores, 20, 16), expected)
    assert np.array_equal(score_map(boxes[:0], scores[:0], 3, 2, background=-1), np.full((2, 3), -1))
