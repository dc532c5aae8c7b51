"""Detections as files: read back where we read the format, and taken apart where others do."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from artmodels.data.labelled import annotated_folder
from artmodels.detections import annotations
from artmodels.detections.annotations import Detections, coco, iiif_page, plain, save, save_voc, voc
from artmodels.errors import ArtModelsError, ConfigError, DatasetError


def detections(image: str = "in/a.jpg", seed: int = 0, count: int = 5) -> Detections:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, [[60, 40], [60, 40]], (count, 2, 2)), axis=1).reshape(count, 4)
    labels = tuple(rng.choice(["Saint Sébastien", "ruins & <arches>", "ange"], count))
    return Detections(image=image, width=60, height=40, boxes=corners, scores=rng.normal(size=count), labels=labels)


def test_detections_take_lists_arrays_and_tensors() -> None:
    found = Detections(
        image="a.jpg", width=9, height=9, boxes=torch.tensor([[0, 1, 2, 3]]), scores=torch.tensor([0.5]), labels=["x"]
    )
    assert (found.boxes.dtype, found.scores.dtype, found.labels) == (np.float32, np.float32, ("x",))
    nothing = Detections(image="a.jpg", width=9, height=9, boxes=[], scores=[], labels=())
    assert (len(nothing), nothing.boxes.shape) == (0, (0, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [0.5]}, "2 boxes, 1 scores, 2 labels"),
        ({"labels": ("a",)}, "2 boxes, 2 scores, 1 labels"),
        ({"scores": [0.5, float("nan")]}, "1 scores are not finite"),
        (
            {"boxes": [[0, 0, 10, 10], [0, 0, 10, 10.5]]},
            r"the box \[0.0, 0.0, 10.0, 10.5\] leaves the image \(10 x 10\)",
        ),
        ({"boxes": [[0, 0, 10, 10], [5, 0, 4, 10]]}, "box 1 is"),
        ({"labels": ("a", "b\n")}, r"'b\\n' is no name"),
        ({"labels": ("a", " ")}, "' ' is no name"),
        ({"image": "\ud800"}, "is no name"),
        ({"width": 0}, "has 0 x 10 pixels"),
    ],
)
def test_what_cannot_be_written_is_refused(changes, message) -> None:
    values = {"image": "a.jpg", "width": 10, "height": 10, "boxes": [[0, 0, 10, 10]] * 2, "scores": [1, 2]}
    with pytest.raises(DatasetError, match=message):
        Detections(**(values | {"labels": ("a", "b")} | changes))


def test_above_keeps_what_scores_more() -> None:
    found = Detections(
        image="a",
        width=9,
        height=9,
        boxes=[[0, 0, n, n] for n in range(4)],
        scores=[3, 1, 2, 2.5],
        labels=tuple("abcd"),
    )
    kept = found.above(2)
    assert (kept.labels, kept.scores.tolist()) == (("a", "d"), [3, 2.5])
    assert kept.boxes.tolist() == [[0, 0, 0, 0], [0, 0, 3, 3]]


def test_voc_comes_back_through_the_reader(tmp_path) -> None:
    every = [detections("in/a.jpg"), detections("b.v2.png", seed=1, count=30), detections("c.jpg", count=0)]
    (tmp_path / "xml" / "in").mkdir(parents=True)
    for found in every:
        (tmp_path / "images" / found.image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / found.image).touch()
    assert save_voc(every, tmp_path / "xml") == [tmp_path / "xml" / name for name in ("in/a.xml", "b.v2.xml", "c.xml")]
    read = annotated_folder(tmp_path / "images", tmp_path / "xml")
    items = {item.path.relative_to(tmp_path / "images").as_posix(): item for item in read.items}
    for found in every:
        item = items[found.image]
        assert item.size == (60, 40)
        assert tuple(box.label for box in item.boxes) == found.labels
        # To the last bit: what is measured on a file is what was measured without.
        boxes = np.array([box.xyxy for box in item.boxes], np.float32).reshape(-1, 4)
        np.testing.assert_allclose(boxes, found.boxes, rtol=0, atol=1e-6)
    assert "<confidence>" in voc(every[0])


def test_plain_json_keeps_every_digit(tmp_path) -> None:
    found = detections()
    save(plain([found]), tmp_path / "found.json")
    image = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))["images"][0]
    assert (image["image"], image["width"], image["height"]) == ("in/a.jpg", 60, 40)
    assert np.array_equal(np.array([one["box"] for one in image["objects"]], np.float32), found.boxes)
    assert np.array_equal(np.array([one["score"] for one in image["objects"]], np.float32), found.scores)
    assert tuple(one["label"] for one in image["objects"]) == found.labels
    assert "Sébastien" in (tmp_path / "found.json").read_text(encoding="utf-8")


def test_coco() -> None:
    every = [detections(), detections("b.jpg", seed=1), detections("c.jpg", count=0)]
    document = json.loads(json.dumps(coco(every)))
    assert [image["id"] for image in document["images"]] == [1, 2, 3]
    assert document["images"][1] == {"id": 2, "file_name": "b.jpg", "width": 60, "height": 40}
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert list(names.values()) == sorted(set(every[0].labels + every[1].labels))
    assert [one["id"] for one in document["annotations"]] == list(range(1, 11))
    for image, found in enumerate(every, 1):
        mine = [one for one in document["annotations"] if one["image_id"] == image]
        assert tuple(names[one["category_id"]] for one in mine) == found.labels
        assert np.array_equal(np.array([one["score"] for one in mine], np.float32), found.scores)
        for one, (left, top, right, bottom) in zip(mine, found.boxes, strict=True):
            assert one["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=1e-3)
            assert one["area"] == pytest.approx((right - left) * (bottom - top), abs=1e-2)
            assert one["iscrowd"] == 0
    ordered = coco(every, ["turban", *sorted(set(every[0].labels + every[1].labels))])
    assert ordered["categories"][0] == {"id": 1, "name": "turban"}
    with pytest.raises(DatasetError, match="ange, ruins & <arches> are not among the classes"):
        coco(
            [
                Detections(
                    image="a",
                    width=9,
                    height=9,
                    boxes=[[0, 0, 1, 1]] * 2,
                    scores=[1, 1],
                    labels=("ange", "ruins & <arches>"),
                )
            ],
            ["x"],
        )
    with pytest.raises(DatasetError, match="same name"):
        coco([detections(), detections()])


CANVAS, PAGE = "https://museum.org/1/canvas", "https://museum.org/1/page.json"


def test_iiif_annotation_page() -> None:
    boxes = [[1.2, 2.9, 10, 20.1], [60, 40, 60, 40], [0, 0, 60, 40]]
    found = Detections(
        image="a.jpg", width=60, height=40, boxes=boxes, scores=[0.87654, -1, 0.5], labels=("x", "y", "z")
    )
    page = iiif_page(found, canvas=CANVAS, page=PAGE)
    assert list(page) == ["@context", "id", "type", "items"]
    assert page["@context"] == "http://iiif.io/api/presentation/3/context.json"
    assert (page["id"], page["type"]) == (PAGE, "AnnotationPage")
    assert page["items"][0] == {
        "id": f"{PAGE}#1",
        "type": "Annotation",
        "motivation": "tagging",
        "body": [
            {"type": "TextualBody", "purpose": "tagging", "value": "x", "format": "text/plain"},
            {"type": "TextualBody", "purpose": "assessing", "value": "score 0.8765", "format": "text/plain"},
        ],
        "target": f"{CANVAS}#xywh=1,2,9,19",
    }
    # Never empty, never outside; whole pixels only.
    assert [item["target"].split("#")[1] for item in page["items"][1:]] == ["xywh=59,39,1,1", "xywh=0,0,60,40"]
    assert len({item["id"] for item in page["items"]}) == 3


def test_iiif_canvases_of_another_size() -> None:
    found = Detections(image="a.jpg", width=60, height=40, boxes=[[3, 4, 30, 40]], scores=[1], labels=("x",))
    page = iiif_page(found, canvas=CANVAS, page=PAGE, canvas_size=(6000, 2000))
    assert page["items"][0]["target"] == f"{CANVAS}#xywh=300,200,2700,1800"
    for wrong in ("canvas.json", f"{CANVAS}#xywh=1,2,3,4", "https://museum.org/a b"):
        with pytest.raises(ConfigError, match="give an absolute URI"):
            iiif_page(found, canvas=wrong, page=PAGE)
        with pytest.raises(ConfigError, match="page is "):
            iiif_page(found, canvas=CANVAS, page=wrong)
    with pytest.raises(ConfigError, match="canvas_size is"):
        iiif_page(found, canvas=CANVAS, page=PAGE, canvas_size=(0, 5))


# --- whole or not at all


def test_an_older_file_stays_when_writing_fails(tmp_path, monkeypatch) -> None:
    target = tmp_path / "found.json"
    save(plain([detections()]), target)
    before = target.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ArtModelsError, match="could not write .*No space left"):
            save(plain([]), target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_all_voc_files_or_none(tmp_path) -> None:
    every = [detections("a.jpg"), detections("b.jpg"), detections("c.jpg")]
    (tmp_path / "b.xml").mkdir()
    with pytest.raises(ArtModelsError, match=r"could not write .*b\.xml': a folder of that name"):
        save_voc(every, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b.xml"]
    with pytest.raises(ArtModelsError, match="could not write .*No such file"):
        save_voc(every, tmp_path / "none")
    with pytest.raises(DatasetError, match="two images would be written"):
        save_voc([detections("a.jpg"), detections("a.png")], tmp_path)
    for name in ("../a.jpg", str(Path("/a.jpg"))):
        with pytest.raises(DatasetError, match="leads out of"):
            save_voc([detections(name)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["b.xml"]


def test_json_ends_in_json(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"does not end in \.json"):
        annotations.save({}, tmp_path / "a.txt")
    with pytest.raises(ValueError, match="not JSON compliant"):
        annotations.save({"score": float("nan")}, tmp_path / "a.json")
    assert not list(tmp_path.iterdir())
