"""What art-regions with a second stage learns from, and how: boxes that others drew, a teacher's, and its own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from artmodels import features
from artmodels.detections import boxes as box_ops
from artmodels.errors import ConfigError, MissingWeights
from artmodels.methods.region_features import RegionFeatures, RegionFeaturesConfig, extent, teacher
from artmodels.methods.region_features import train as train_module
from artmodels.methods.region_features.extent import (
    ANYTHING,
    UNSURE,
    KnownPictures,
    Shown,
    WholeRegionsRecipe,
    WholeRegionsSettings,
    coco_pictures,
    placed,
)
from artmodels.methods.region_features.teacher import Answers, decoded_answers
from artmodels.methods.region_features.train import Anchored, BoxedPicture
from artmodels.runtime.devices import generator
from artmodels.training import Sources, TrainingConfig, fit

SMALL = RegionFeaturesConfig(width=8, embedding=32, regions=20, shorter=64, longer=128, overlap=0.5)
SETTINGS = WholeRegionsSettings(network=SMALL, crop=64, proposals=10, good=6, bad=6, school=1)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- what the teacher says


def test_answers_of_the_teacher_are_decoded() -> None:
    raw = torch.zeros(3549, 85)
    # Position (x 3, y 2) of the map of stride 16, 26 columns, after 52 * 52 of stride 8.
    row = 52 * 52 + 2 * 26 + 3
    raw[row, :4] = torch.tensor([0.5, 0.25, np.log(4), np.log(2)])
    raw[row, 4], raw[row, 5 + 17] = 0.9, 0.8
    raw[row + 1] = raw[row]  # the same again, one step to the right and less sure: suppressed
    raw[row + 1, :4] = torch.tensor([-0.4, 0.25, np.log(4), np.log(2)])
    raw[row + 1, 4] = 0.7
    raw[0, 4], raw[0, 5] = 0.3, 0.3  # not sure enough
    found = decoded_answers(raw, ratio=0.5, height=100, width=150)
    # Centre (56, 36), sides 64 x 32 in the frame: (24, 20) to (88, 52), twice that in the picture, 150 wide.
    torch.testing.assert_close(found.boxes, torch.tensor([[48.0, 40, 150, 100]]))
    assert found.kinds.tolist() == [17] and float(found.scores) == pytest.approx(0.72)


def test_a_teacher_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="holds the teachers"):
        teacher.ask((), tmp_path / teacher.YOLOX)


# --- what is known of pictures


def test_cocos_pictures_have_their_boxes_and_kinds(tmp_path: Path) -> None:
    box = {"image_id": 5, "bbox": [10, 20, 30, 40], "iscrowd": 0}
    table = {
        "images": [{"id": 5, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}],
        "categories": [{"id": 9, "name": "boat"}, {"id": 1, "name": "person"}],
        "annotations": [box | {"category_id": 9}, box | {"category_id": 1, "iscrowd": 1}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(table))
    found = coco_pictures(tmp_path, named=True)
    assert [file.name for file in found.files] == ["a.png", "b.png"]
    assert found.shown[0].boxes.shape == (0, 4)
    assert found.shown[1].boxes.tolist() == [[10, 20, 40, 60]] * 2 and found.shown[1].kinds.tolist() == [1, UNSURE]
    assert coco_pictures(tmp_path, named=False).shown[1].kinds.tolist() == [ANYTHING, UNSURE]


def test_views_keep_boxes_on_what_they_framed() -> None:
    picture = torch.zeros(3, 100, 160)
    picture[0, 30:70, 50:110] = 1
    scene = BoxedPicture(picture, torch.tensor([[50.0, 30, 110, 70], [0, 0, 4, 4]]))
    mirrored = 0
    for seed in range(12):
        found, kept = placed(scene, 96, (0.6, 1.6), generator(seed))
        assert found.picture.shape == (3, 96, 96)
        for box, number in zip(found.boxes.round().long().tolist(), kept.tolist(), strict=True):
            if number == 0:
                left, top, right, bottom = box
                red = found.picture[0]
                assert float(red[top:bottom, left:right].mean()) > 0.93 and float(red.sum()) > 0
                assert float(red.sum() - red[top:bottom, left:right].sum()) < 0.12 * float(red.sum())
                mirrored += 1
    assert mirrored > 6


def test_a_whole_picture_that_is_small_is_filled_up_with_its_border() -> None:
    picture = torch.rand(3, 50, 100, generator=generator(0))
    found, kept = placed(BoxedPicture(picture, torch.tensor([[0.0, 0, 100, 50]])), 80, (0.8, 0.8), generator(2))
    assert kept.tolist() == [0] and sorted((found.boxes[0, 2:] - found.boxes[0, :2]).tolist()) == [32, 64]
    assert torch.equal(found.picture[:, 32:], found.picture[:, 31:32].expand(-1, 48, -1))


def test_the_same_painting_under_another_name_is_left_out(tmp_path: Path) -> None:
    for name, seed, side in (("held", 0, 60), ("other", 1, 60), ("again", 0, 60)):
        picture = Image.fromarray(noise(8, 8, seed)).resize((side * 2, side), Image.Resampling.BICUBIC)
        picture.resize((50, 50) if name == "again" else picture.size).save(tmp_path / f"{name}.png")  # squashed
    held, other, again = (tmp_path / f"{name}.png" for name in ("held", "other", "again"))
    assert extent.unlike([other, again], [held]) == [other]


# --- the recipe


def answers(files: tuple[Path, ...], _: Path) -> tuple[Answers, ...]:
    """A sure and an unsure box in each picture."""
    boxes = torch.tensor([[5.0, 5, 40, 50], [30, 10, 60, 40]])
    return tuple(Answers(boxes, torch.tensor([0.9, 0.3]), torch.tensor([0, 16])) for _ in files)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A few small pictures in the layout of the data."""
    root = tmp_path_factory.mktemp("regions")
    places = ("paintings", "photos", "textures", "schools", "icons/valid", "icons/annotations/valid")
    for folder in (*places, *extent.COCO, *extent.OUTLINED):
        (root / folder).mkdir(parents=True)
    for number in range(6):
        for folder in ("paintings", "photos", "textures", "schools"):
            Image.fromarray(noise(60, 70, number + len(folder))).save(root / folder / f"{folder}{number}.png")
        Image.fromarray(noise(90, 80, number)).save(root / "icons/valid" / f"icon{number}.png")
        (root / "icons/annotations/valid" / f"icon{number}.xml").write_text(
            "<annotation><size><width>80</width><height>90</height></size><object><name>saint</name><bndbox>"
            "<xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox></object></annotation>"
        )
    for folder in (*extent.COCO, *extent.OUTLINED):
        names = [f"{Path(folder).name}{number}.png" for number in range(6)]
        for number, name in enumerate(names):
            Image.fromarray(noise(70, 60, number)).save(root / folder / name)
        table = {
            "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
            "categories": [{"id": number, "name": str(number)} for number in range(80)],
            "annotations": [
                {"image_id": number, "category_id": number, "bbox": [8, 8, 40, 30], "iscrowd": 0} for number in range(6)
            ],
        }
        (root / folder / "instances.json").write_text(json.dumps(table))
    return Sources(data=root, teachers=root, weights=root)


@pytest.fixture
def recipe(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> WholeRegionsRecipe:
    def backbone(name: str, **options: object) -> features.FeatureExtractor:
        return features.build("resnet18", until="layer3", seed=0)

    class Views:
        """Leaves pictures as they are."""

        fast = ()

        def __init__(self, *_: object, **options: object) -> None:
            pass

        def __call__(self, batch: Tensor, rng: torch.Generator) -> Tensor:
            return batch

    monkeypatch.setattr(train_module.features, "load", backbone)
    monkeypatch.setattr(extent, "Views", Views)
    monkeypatch.setattr(extent, "ask", answers)
    return WholeRegionsRecipe(SETTINGS, sources, seed=0)


def test_both_stages_learn_and_what_is_published_loads(recipe: WholeRegionsRecipe, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in recipe.detector.state_dict().items()}
    steps = list(fit(recipe, TrainingConfig(steps=4, rate=1e-3, warmup=0)))
    assert set(steps[0].losses) == {"objectness", "boxes", "moved", "fit", "kinds"}
    assert all(0 <= value < float("inf") for step in steps for value in step.losses.values())
    changed = {key for key, value in recipe.detector.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"head.{key}" for key in recipe.network.state_dict()}
    config, tensors = recipe.checkpoint()
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors")
    model = RegionFeatures.from_pretrained(tmp_path, device="cpu")
    assert model.config == SMALL and model(noise(50, 70)).features.shape[1] == 416


def test_nothing_that_is_measured_on_is_learnt_from(
    recipe: WholeRegionsRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen = {*recipe.held_out, *recipe.unseen, *recipe.unseen_drawn}
    assert recipe.unseen and recipe.unseen_drawn and not unseen & set(recipe.files)
    learnt = {*recipe.answered.files, *recipe.drawn.files, *recipe.icons.files, *recipe.outlined.files}
    assert not unseen & learnt and learnt <= set(recipe.files)
    assert {path.parent.name for path in recipe.answered.files} == {"paintings", "photos", "schools"}
    monkeypatch.setattr(recipe, "_painted", lambda picture, number: picture)
    report = recipe.evaluate()
    assert {"recall@100 at IoU 0.7", "paintings: recall@100 at IoU 0.7", "painted COCO: recall@50 at IoU 0.5"} <= set(
        report
    )
    assert all(0 <= value <= 1 for value in report.values())


def test_a_box_that_the_teacher_is_unsure_of_is_neither(recipe: WholeRegionsRecipe) -> None:
    known, unsure = torch.tensor([[4.0, 4, 24, 24]]), torch.tensor([[34.0, 34, 60, 60]])
    anchors = torch.cat([known, unsure, torch.tensor([[4.0, 40, 24, 60]])])
    first = Anchored(torch.full((3,), 3.0), torch.zeros(3, 4), anchors)
    boxes, owner, overlap = recipe._candidates(first, known, unsure, generator(0))
    assert float(box_ops.iou(boxes, unsure).max()) < 0.5 and bool((owner == 0).all())
    assert float(overlap.max()) == 1 and float(overlap.min()) == 0
    assert (overlap >= 0.5).sum() == 5, "the proposal, and the known box, shaken four times"
    boxes, _, _ = recipe._candidates(first, known, unsure[:0], generator(0))
    assert float(box_ops.iou(boxes, unsure).max()) == 1, "learnt as none where the teacher says nothing"
    logits = first.logits.clone().requires_grad_()
    recipe._loss(known, 1.0, first._replace(logits=logits), unsure)[0].backward()
    assert logits.grad is not None and (logits.grad != 0).tolist() == [True, False, True]


def test_the_second_stage_learns_where_an_object_ends(recipe: WholeRegionsRecipe) -> None:
    """One picture, one object, proposals of a quarter of it: after some steps they are brought to the whole."""
    picture = torch.rand(1, 3, 64, 64, generator=generator(0))
    known = Shown(torch.tensor([[8.0, 8, 56, 56]]), torch.tensor([3]))
    taps = recipe.detector.taps(picture)
    optimiser = torch.optim.Adam(recipe.network.parameters(), lr=2e-3)
    for step in range(60):
        optimiser.zero_grad()
        levels = recipe.detector.head.levels(*taps)
        found = recipe.detector.head(levels)
        first = Anchored(found[0][0], found[1][0], found[2])
        terms = recipe._second(levels, first, known, torch.zeros(0, 4), 1.0, generator(step))
        sum(terms).backward()
        torch.nn.utils.clip_grad_norm_(recipe.network.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        second = recipe.detector.head.second
        assert second is not None
        part = torch.tensor([[8.0, 8, 50, 44]])
        seen = second(recipe.detector.head.levels(*taps), part, (64, 64))
        moved = extent.decoded(seen.deltas, part)
    assert float(box_ops.iou(moved, known.boxes)) > max(0.8, float(box_ops.iou(part, known.boxes)))
    assert int(seen.kinds.argmax()) == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"network": replace(SMALL, embedding=0)}, "embedding=0 is no second"), ({"drawn": 0.9}, "together at most 1")],
)
def test_settings_that_cannot_be_trained_are_refused(sources: Sources, wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WholeRegionsRecipe(replace(SETTINGS, **wrong), sources, seed=0)


def test_pictures_are_drawn_evenly(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        Image.fromarray(np.full((40, 40, 3), 80 * number, np.uint8)).save(file)
    shown = tuple(Shown(torch.tensor([[0.0, 0, 30, 30]]), torch.tensor([number])) for number in range(3))
    known = KnownPictures(tuple(files), shown)
    seen = set()
    for seed in range(20):
        scene, kinds = known.draw(32, (1.0, 1.0), generator(seed))
        assert float(scene.picture.mean()) == pytest.approx(80 * int(kinds) / 255, abs=1e-3)
        seen.add(int(kinds))
    assert seen == {0, 1, 2}
    assert known.where({files[1]}).files == (files[1],)
