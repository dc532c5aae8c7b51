import dataclasses
import hashlib
import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import detection
from typer.testing import CliRunner

from artmodels import features, hub
from artmodels.data import folders
from artmodels.errors import (
    ConfigError,
    DatasetError,
    HashMismatch,
    ImageError,
    ImageTooLarge,
    MissingWeights,
    UnsafeFormat,
    WeightsMismatch,
)
from artmodels.methods.region_features import FeatureStore, RegionFeatures, RegionFeaturesConfig
from artmodels.methods.region_features import pipeline as pipeline_module
from artmodels.methods.region_features import train as train_module
from artmodels.methods.region_features.faster_rcnn import (
    C4,
    PUBLISHED,
    FPNDetector,
    caffe_anchor_shapes,
    crop_and_resize,
)
from artmodels.methods.region_features.model import (
    STEP,
    Anchors,
    ArtRegions,
    Head,
    SecondStage,
    anchor_shapes,
    decoded,
    region_means,
    scaled_size,
    select,
    spread,
)
from artmodels.methods.region_features.train import (
    AnnotatedImages,
    ArtRegionsRecipe,
    ArtRegionsSettings,
    BoxedPicture,
    Composites,
    annotated_crop,
    cropped,
    outline,
    recall,
    targets,
)
from artmodels.runtime.devices import generator
from artmodels.training import Sources, TrainingConfig, fit

convert = importlib.import_module("weights.convert.region_features")
command = importlib.import_module("weights.__main__")

ROOT = Path(__file__).parents[3]
DATA = ROOT.parent / "shared" / "data"
SMALL = RegionFeaturesConfig(width=8, regions=20, shorter=64, longer=128)
TINY = {"units": (1, 2, 1, 1), "width": 4, "hidden": 8}


def backbone(seed: int = 0) -> features.FeatureExtractor:
    return features.build("resnet18", until="layer3", seed=seed)


@pytest.fixture(scope="module")
def frozen() -> features.FeatureExtractor:
    return backbone()


def network(frozen: features.FeatureExtractor, config: RegionFeaturesConfig = SMALL) -> ArtRegions:
    made = ArtRegions(config, frozen)
    draw = generator(3)
    for value in made.head.parameters():
        torch.nn.init.normal_(value, std=0.1, generator=draw)
    return made


@pytest.fixture
def model(frozen: features.FeatureExtractor) -> RegionFeatures:
    return RegionFeatures(network=network(frozen), device="cpu")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- The rule


def test_sizes_are_the_papers() -> None:
    assert scaled_size(640, 640, shorter=600, longer=1000) == (600, 600)
    assert scaled_size(300, 400, shorter=600, longer=1000) == (600, 800)
    assert scaled_size(2000, 500, shorter=600, longer=1000) == (1000, 250)
    assert scaled_size(1, 5000, shorter=600, longer=1000) == (1, 1000)
    config = RegionFeaturesConfig()
    assert (config.regions, config.before, config.overlap) == (300, 6000, 0.7)
    assert (config.shorter, config.longer) == (600, 1000)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "yolo"}, "network='yolo' must be one of"),
        ({"regions": 0}, "regions=0"),
        ({"overlap": 1.1}, "overlap=1.1"),
        ({"least": -0.1}, "least=-0.1"),
        ({"shorter": 8}, "shorter=8"),
        ({"longer": 500}, "longer=500"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RegionFeaturesConfig(**wrong)


def encoded(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `decoded`: deltas that make these boxes of anchors."""
    sides, wanted = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + wanted / 2 - anchors[:, :2] - sides / 2) / sides
    return torch.cat([shift, (wanted / sides).log()], 1)


def test_deltas_move_and_stretch_anchors() -> None:
    anchors = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    moved = decoded(torch.tensor([[0.5, -0.25, math.log(2), math.log(0.5)]]), anchors)
    # Centre (20, 40) + (0.5 * 20, -0.25 * 40) = (30, 30); sides 40 and 20.
    torch.testing.assert_close(moved, torch.tensor([[10.0, 20.0, 50.0, 40.0]]))
    rng = generator(0)
    corners = 100 * torch.rand(50, 2, generator=rng)
    boxes = torch.cat([corners, corners + 1 + 50 * torch.rand(50, 2, generator=rng)], 1)
    torch.testing.assert_close(decoded(encoded(boxes, boxes.roll(1, 0)), boxes.roll(1, 0)), boxes, rtol=1e-4, atol=1e-3)
    # A side grows by no more than 1000 / 16.
    huge = decoded(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), anchors)
    assert float(huge[0, 2] - huge[0, 0]) == pytest.approx(20 * 62.5)


def greedy(boxes: np.ndarray, scores: np.ndarray, config: RegionFeaturesConfig) -> list[int]:
    """The rule as a loop over boxes of one level."""
    order = [int(i) for i in np.argsort(-scores, kind="stable")][: config.before]
    kept: list[int] = []
    for i in order:
        for j in kept:
            a, b = boxes[i], boxes[j]
            common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
            area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
            if common / (area - common) > config.overlap:
                break
        else:
            kept.append(i)
    return kept


@pytest.mark.parametrize("overlap", [0.3, 0.7])
@pytest.mark.parametrize("before", [40, 1000])
def test_regions_are_chosen_as_a_loop_would(before: int, overlap: float) -> None:
    config = RegionFeaturesConfig(before=before, overlap=overlap, regions=30)
    rng = np.random.default_rng(before)
    sets = []
    for _ in range(2):
        corners = rng.uniform(0, 60, (200, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (200, 2))], 1)
        sets.append((boxes.astype(np.float32), rng.permutation(200).astype(np.float32) / 200))
    tensors = [[torch.from_numpy(part) for part in each] for each in zip(*sets, strict=True)]
    found, objectness = select(*tensors, height=1000, width=1000, config=config)
    # Levels do not suppress each other; K is over all of them.
    wanted = [(score[i], box[i]) for box, score in sets for i in greedy(box, score, config)]
    wanted.sort(key=lambda pair: -pair[0])
    assert len(found) == min(30, len(wanted)) == 30
    assert objectness.tolist() == [float(score) for score, _ in wanted[:30]]
    assert bool((objectness[1:] <= objectness[:-1]).all())


def test_boxes_are_cut_to_the_image_and_empty_or_unlikely_ones_go() -> None:
    boxes = torch.tensor([[-5.0, -5, 20, 20], [30, 30, 40, 40], [2, 2, 2, 9], [1, 1, 4, 4], [0, 8, 4, torch.nan]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    found, objectness = select([boxes], [scores], height=10, width=12, config=RegionFeaturesConfig())
    assert found.tolist() == [[0, 0, 12, 10], [1, 1, 4, 4]]
    assert objectness.tolist() == scores[[0, 3]].tolist()
    found, _ = select([boxes], [scores], height=10, width=12, config=RegionFeaturesConfig(least=0.7))
    assert found.tolist() == [[0, 0, 12, 10]]
    # Nothing at all: the whole image, which no one took for an object.
    for none in (select([boxes], [scores], height=10, width=12, config=RegionFeaturesConfig(least=1.0)),
                 select([boxes[:0]], [scores[:0]], height=10, width=12, config=RegionFeaturesConfig())):  # fmt: skip
        assert none[0].tolist() == [[0, 0, 12, 10]] and none[1].tolist() == [0]


def test_anchors_stand_on_their_positions() -> None:
    shapes = anchor_shapes(20)
    sides = shapes[:, 2:] - shapes[:, :2]
    torch.testing.assert_close(sides.prod(1), torch.full((3,), 400.0))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2]))
    anchors = Anchors(shapes, 8)(torch.zeros(1, 5, 2, 3))
    assert anchors.shape == (18, 4)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    torch.testing.assert_close(centres[::3], torch.tensor([[x, y] for y in (0.5, 8.5) for x in (0.5, 8.5, 16.5)]))


# --- Our network


def test_descriptors_are_means_over_the_box() -> None:
    # A map whose values are where its positions are: the mean over a box is its centre.
    stride = 8
    y, x = torch.meshgrid(torch.arange(30.0) * stride + 0.5, torch.arange(40.0) * stride + 0.5, indexing="ij")
    boxes = torch.tensor([[20.0, 30, 90, 75], [100, 80, 116, 144], [8, 8, 60, 200.5]])
    means = region_means(torch.stack([x, y])[None], boxes, stride)
    torch.testing.assert_close(means, (boxes[:, :2] + boxes[:, 2:]) / 2, rtol=1e-4, atol=0.01)


def test_each_tap_of_a_descriptor_has_length_one(model: RegionFeatures) -> None:
    found = model(noise(80, 100))
    assert found.features.shape == (20, 384) and model.features == 384
    for part in found.features.split([128, 256], 1):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(20))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 121), (333, 70)])
def test_boxes_are_in_pixels_of_the_original(frozen: features.FeatureExtractor, height: int, width: int) -> None:
    config = dataclasses.replace(SMALL, regions=2000, before=2000, overlap=0.95, shorter=96)
    detector = network(frozen, config)
    for value in detector.head.deltas.parameters():
        value.data.zero_()
    with torch.no_grad():
        (found,) = detector([torch.from_numpy(noise(height, width)).permute(2, 0, 1)[None] / 255])
    # Boxes that nothing moves are the anchors, cut to the picture and brought back to the original's size.
    low, wide = scaled_size(height, width, shorter=96, longer=128)
    wanted = []
    fine = [-(-max(64, side) // 16) * 2 for side in (low, wide)]
    for level in range(5):
        stride = 8 << level
        rows, columns = (-(-side // (1 << level)) for side in fine)
        places = [[x * stride + 0.5, y * stride + 0.5] * 2 for y in range(rows) for x in range(columns)]
        for scale in (2.5, 3.75):
            wanted.append(np.array(places)[:, None] + anchor_shapes(scale * stride).numpy())
    wanted = np.concatenate([part.reshape(-1, 4) for part in wanted])
    wanted = wanted.clip(0, [wide, low, wide, low]) * [width / wide, height / low, width / wide, height / low]
    far = np.abs(found.boxes.numpy()[:, None] - wanted).max(2).min(1)
    assert len(found.boxes) > 100 and far.max() < 1e-3


def test_a_turned_photograph_has_the_boxes_of_the_upright_one(model: RegionFeatures, tmp_path: Path) -> None:
    upright = Image.fromarray(noise(71, 103))
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned.save(tmp_path / "turned.png", exif=exif)
    found, wanted = model(tmp_path / "turned.png"), model(upright)
    assert torch.equal(found.boxes, wanted.boxes) and torch.equal(found.features, wanted.features)
    assert (found.width, found.height) == (103, 71)
    assert any("upright" in note.lower() or "orient" in note.lower() or "EXIF" in note for note in found.notes)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (2000, 3), (97, 41), (700, 900)])
def test_pictures_of_any_size_have_regions_inside_them(model: RegionFeatures, shape: tuple[int, int]) -> None:
    found = model(noise(*shape))
    height, width = shape
    assert 1 <= len(found) <= 20 and found.features.shape == (len(found), 384)
    assert bool(((found.boxes >= 0) & (found.boxes <= torch.tensor([width, height, width, height]))).all())
    assert bool((found.boxes[:, 2:] > found.boxes[:, :2]).all())
    assert bool(((found.objectness >= 0) & (found.objectness <= 1)).all())
    assert bool((found.objectness[1:] <= found.objectness[:-1]).all()) and bool(found.features.isfinite().all())


def test_the_second_stage_sees_the_ring_round_a_box() -> None:
    second = SecondStage(4, 3)
    for value in second.parameters():
        torch.nn.init.normal_(value, std=0.3, generator=generator(int(value.numel())))
    levels = [torch.zeros(1, 4, 256 // stride, 256 // stride) for stride in (8, 16, 32, 64, 128)]
    box = torch.tensor([[96.0, 96, 144, 144]])  # small enough for the first level alone; its ring is 16 px wide
    nothing = second(levels, box, (256, 256))
    for far, seen in ((1, True), (5, False)):
        levels[0][..., 18 + far, 14] = 9.0  # below the box: within the ring, and beyond it
        found = second(levels, box, (256, 256))
        assert torch.equal(found.embedding, nothing.embedding) is not seen
        levels[0].zero_()
    assert nothing.kinds.shape == (1, 81) and nothing.deltas.shape == (1, 4) and nothing.fit.shape == (1,)


def test_the_second_stage_moves_boxes_judges_them_and_describes_them(frozen: features.FeatureExtractor) -> None:
    config = dataclasses.replace(SMALL, embedding=6, overlap=0.5)
    detector = network(frozen, config)
    second = detector.head.second
    assert second is not None
    plain = network(frozen, dataclasses.replace(SMALL, overlap=0.5))
    plain.head.load_state_dict(detector.head.state_dict(), strict=False)
    picture = noise(90, 120)
    for value in (*second.deltas.parameters(), *second.fit.parameters()):
        value.data.zero_()
    with torch.no_grad():
        still = RegionFeatures(network=detector, device="cpu")(picture)
        first = RegionFeatures(network=plain, device="cpu")(picture)
        # Nothing is moved, and everything fits by half: the same boxes, sqrt(objectness / 2), and a longer descriptor.
        torch.testing.assert_close(still.boxes, first.boxes, rtol=0, atol=1e-3)
        torch.testing.assert_close(still.objectness, (first.objectness / 2).sqrt())
        assert still.features.shape == (len(first), 390)
        torch.testing.assert_close(still.features[:, :384], first.features, rtol=0, atol=1e-3)
        torch.testing.assert_close(still.features[:, 384:].norm(dim=1), torch.ones(len(first)))
        second.deltas.bias.data = torch.tensor([0.0, 0.0, -0.7, -0.7]) / STEP
        smaller = RegionFeatures(network=detector, device="cpu")(picture)
        torch.testing.assert_close(areas(smaller.boxes).max() / areas(first.boxes).max(), torch.tensor(math.exp(-1.4)))
        # Boxes that shrink to nothing stay what they were.
        second.deltas.bias.data = torch.tensor([0.0, 0.0, -50.0, -50.0]) / STEP
        vanished = RegionFeatures(network=detector, device="cpu")(picture)
        torch.testing.assert_close(vanished.boxes, first.boxes, rtol=0, atol=1e-3)
    assert bool((still.objectness[1:] <= still.objectness[:-1]).all())


def test_the_second_stage_does_not_depend_on_the_picture_before() -> None:
    second = SecondStage(4, 3)
    for value in second.parameters():
        torch.nn.init.normal_(value, std=0.3, generator=generator(int(value.numel())))
    tiny, large = (
        [torch.zeros(1, 4, *[-(-side // stride)] * 2) for stride in (8, 16, 32, 64, 128)] for side in (64, 2048)
    )
    second(tiny, torch.tensor([[8.0, 8, 40, 40]]), (64, 64))  # the two coarsest levels have one position each
    box = torch.tensor([[400.0, 400, 1600, 1600]])  # so large that the coarsest level shows it
    nothing = second(large, box, (2048, 2048)).embedding
    large[4][..., 8, 8] = 9.0
    assert not torch.equal(second(large, box, (2048, 2048)).embedding, nothing)


def areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def test_a_checkpoint_without_a_second_stage_is_what_it_was(frozen: features.FeatureExtractor) -> None:
    # Settings of later versions are left out of the fingerprint while they are the default.
    assert "second" not in " ".join(network(frozen).head.state_dict())
    assert RegionFeaturesConfig().embedding == 0
    published = json.loads((ROOT / "weights" / "art-regions" / "config.json").read_text())
    assert "embedding" not in published or published["embedding"] == 0


def test_a_flat_picture_has_regions(model: RegionFeatures) -> None:
    found = model(np.zeros((60, 60, 3), np.uint8))
    assert len(found) >= 1 and bool(found.features.isfinite().all())


def test_pictures_that_are_none_are_refused(model: RegionFeatures) -> None:
    with pytest.raises(ImageTooLarge):
        model(np.broadcast_to(np.uint8(0), (7000, 7000)))
    with pytest.raises(ImageError, match="no file"):
        model("nowhere.jpg")
    with pytest.raises(ImageError):
        model(np.zeros((0, 5, 3), np.uint8))


def test_a_picture_without_proposals_is_one_region(frozen: features.FeatureExtractor) -> None:
    detector = network(frozen, dataclasses.replace(SMALL, least=1.0))
    found = RegionFeatures(network=detector, device="cpu")(noise(50, 80))
    assert found.boxes.tolist() == [[0, 0, 80, 50]] and found.objectness.tolist() == [0] and len(found) == 1
    assert found.features.shape == (1, 384)


def test_the_same_picture_has_the_same_regions(frozen: features.FeatureExtractor, model: RegionFeatures) -> None:
    pictures = [noise(70, 90), noise(50, 64, 1)]
    first, second = model(pictures)
    again = RegionFeatures(network=network(backbone()), device="cpu")
    for picture, found in zip(pictures, (first, second), strict=True):
        other = again(picture)
        for name in ("boxes", "objectness", "features"):
            assert torch.equal(getattr(found, name), getattr(other, name))
    # Results may be learnt from, though they were computed without gradients.
    weight = torch.ones(384, requires_grad=True)
    (first.features @ weight).sum().backward()
    assert again.fingerprint == model.fingerprint
    other = RegionFeatures(network=network(frozen, dataclasses.replace(SMALL, regions=19)), device="cpu")
    assert other.fingerprint != model.fingerprint and len(other(pictures[0])) == 19
    assert RegionFeatures(network=network(backbone(1)), device="cpu").fingerprint != model.fingerprint


def pair(*, height: int = 70, width: int = 90) -> list[Tensor]:
    return [torch.from_numpy(noise(height, width, seed)).permute(2, 0, 1)[None] / 255 for seed in (0, 1)]


@pytest.mark.parametrize("kind", ["ours", "pyramid", "c4"])
def test_together_as_one_by_one(kind: str, frozen: features.FeatureExtractor) -> None:
    if kind == "ours":
        made: torch.nn.Module = network(frozen)
    elif kind == "c4":
        made = tiny_c4()
    else:
        made = FPNDetector(
            RegionFeaturesConfig(network="fasterrcnn_resnet50_fpn", regions=9, shorter=64, longer=96)
        ).eval()
        head = made.detector.rpn.head
        temper(made, pair()[0], head.conv, head.cls_logits, head.bbox_pred)
    with torch.no_grad():
        both = made(pair())
        alone = [made([image])[0] for image in pair()]
    assert not torch.equal(alone[0].boxes, alone[1].boxes)
    for one, other in zip(both, alone, strict=True):
        for got, wanted in zip(one, other, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4 * max(1, float(wanted.abs().max())))


def test_pictures_of_one_size_go_together(model: RegionFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [noise(*size, seed) for seed, size in enumerate([(70, 90), (50, 80), (70, 90), (140, 180), (70, 90)])]
    alone = model(pictures)
    seen, forward = [], model.network.forward
    monkeypatch.setattr(model.network, "forward", lambda images: seen.append(len(images)) or forward(images))
    model.batch = 4
    for found, wanted, picture in zip(model(pictures), alone, pictures, strict=True):
        assert (found.height, found.width) == picture.shape[:2]
        torch.testing.assert_close(found.boxes, wanted.boxes, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(found.features, wanted.features, rtol=1e-3, atol=1e-4)
    assert sorted(seen) == [1, 1, 3]  # 140 x 180 is brought to the size of 70 x 90; the fifth is the next group's


def test_few_regions_are_spread() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 100, 100],
            [0, 0, 100, 90],
            [300, 0, 400, 100],
            [60, 0, 160, 100],
            [500, 0, 530, 30],
            [0, 300, 99, 399],
        ]
    )
    objectness = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.09])
    # No overlap allowed; the fifth is smaller than 36 px, the sixth is not sure.
    assert spread(boxes, objectness, 2).tolist() == [0, 2]
    assert spread(boxes, objectness, 1).tolist() == [0]
    # IoU of the first and the fourth is 0.25; the second is never allowed beside the first.
    assert spread(boxes, objectness, 3).tolist() == [0, 2, 3] == spread(boxes, objectness, 9).tolist()
    assert spread(boxes[4:], objectness[4:], 3).tolist() == [0], "no bag is empty"


def test_the_rule_for_few_regions_is_a_setting(frozen: features.FeatureExtractor) -> None:
    usual, few = (
        RegionFeatures(
            network=network(frozen, dataclasses.replace(SMALL, shorter=200, longer=400, **given)), device="cpu"
        )
        for given in ({"regions": 300}, {"regions": 5, "spread": True})
    )
    picture = noise(100, 150)
    every, chosen = usual(picture), few(picture)
    rows = spread(2 * every.boxes, every.objectness, 5)
    assert len(rows) == 5 and rows.tolist() != list(range(5))
    torch.testing.assert_close(chosen.boxes, every.boxes[rows], rtol=1e-4, atol=1e-3)
    assert torch.equal(chosen.objectness, every.objectness[rows])


def test_a_backbone_that_does_not_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="backbone='vgg16' does not do"):
        ArtRegions(dataclasses.replace(SMALL, backbone="vgg16"), features.build("vgg16", until="relu2_1"))


def test_saved_and_loaded(model: RegionFeatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module.features, "load", lambda name, **options: backbone())
    for value in model.network.head.parameters():
        value.data = value.data.half().float()
    folder = model.save_pretrained(tmp_path / "saved")
    stored = load_file(folder / "model.safetensors")
    assert set(stored) == set(Head(128, 256, 8).state_dict())
    assert all(value.dtype == torch.float16 for value in stored.values())
    again = RegionFeatures.from_pretrained(folder, device="cpu")
    assert again.config == SMALL and again.fingerprint == RegionFeatures(network=model.network).fingerprint
    assert torch.equal(again(noise(70, 90)).boxes, model(noise(70, 90)).boxes)
    fewer = RegionFeatures.from_pretrained(folder, device="cpu", regions=5)
    assert torch.equal(fewer(noise(70, 90)).boxes, model(noise(70, 90)).boxes[:5])
    with pytest.raises(WeightsMismatch):
        RegionFeatures.from_pretrained(folder, device="cpu", width=9)
    with pytest.raises(ConfigError, match="computes in float32"):
        RegionFeatures.from_pretrained(folder, dtype=torch.float16)


def test_the_published_head_is_small() -> None:
    size = 2 * sum(value.numel() for value in Head(128, 256, RegionFeaturesConfig().width).state_dict().values())
    assert size < 1_500_000


def test_regions_go_into_a_store(model: RegionFeatures, tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(noise(40, 60, number)).save(tmp_path / f"{number}.png")
    store = FeatureStore.extract(tmp_path, model, tmp_path / "store")
    found, wanted = store.regions("1.png"), model(tmp_path / "1.png")
    assert torch.equal(found.boxes, wanted.boxes) and torch.equal(found.features, wanted.features.half().float())
    bags = store.bags()
    assert len(bags) == 3 and bags.features == 384 and bags.objectness is not None
    with pytest.raises(ConfigError, match="made by other weights or settings"):
        FeatureStore.extract(tmp_path, RegionFeatures(network=network(backbone(1))), tmp_path / "store")


# --- Faster R-CNN


def temper(
    made: torch.nn.Module, image: Tensor, layer: torch.nn.Module, logits: torch.nn.Module, deltas: torch.nn.Module
) -> None:
    """Draw weights under which objectness is neither all 0 nor all 1, and boxes do not all cover the image."""
    seen = []
    hook = layer.register_forward_hook(lambda module, inputs, output: seen.append(float(output.square().mean())))
    with torch.no_grad():
        made([image])
        hook.remove()
        for part, strength in ((logits, 2.0), (deltas, 0.3)):
            part.weight.normal_(0, strength / math.sqrt(max(seen) * part.weight.shape[1]), generator=generator(2))


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_torchvisions_network_layer_by_layer(name: str) -> None:
    config = RegionFeaturesConfig(network=name, regions=12, before=50, shorter=64, longer=96)
    ours = FPNDetector(config).eval()
    state = ours.stored.state_dict()
    draw = generator(1)
    for key, value in state.items():
        if ("bn" in key or "running" in key) and value.is_floating_point():
            value.uniform_(0.5, 1.5, generator=draw)
    # torchvision's own, put together by its own function, without drawing its weights.
    with torch.device("meta"):
        knobs = {"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 12, "min_size": 64, "max_size": 96}
        theirs = getattr(detection, name)(weights=None, weights_backbone=None, **knobs)
    # Built without weights, v1 counts batches in its normalisation; as published it does not.
    counters = {key for key in theirs.state_dict() if key.endswith("num_batches_tracked")}
    second = name.endswith("v2")
    shapes = {k: v.shape for k, v in theirs.state_dict().items() if second or k not in counters}
    assert {k: v.shape for k, v in state.items()} == shapes
    theirs.load_state_dict(state, strict=second, assign=True)
    theirs.rpn.anchor_generator = detection.faster_rcnn._default_anchorgen()
    assert all(module.eps == (1e-5 if second else 0.0) for module in ours.modules() if hasattr(module, "eps"))
    for module in (*ours.modules(), *theirs.modules()):
        if hasattr(module, "eps"):
            module.eps = 1e-5  # torch has no batch normalisation without one
    theirs.eval()

    assert all(
        ours.size(*size) == ours.detector.transform([torch.zeros(3, *size)])[0].image_sizes[0]
        for size in ((90, 120), (71, 33), (500, 41), (64, 96))
    )
    image = torch.from_numpy(noise(90, 120)).permute(2, 0, 1)[None] / 255
    head = ours.detector.rpn.head
    temper(ours, image, head.conv, head.cls_logits, head.bbox_pred)
    with torch.no_grad():
        (found,) = ours([image])
        pictures, _ = theirs.transform([image[0]])
        maps = theirs.backbone(pictures.tensors)
        logits, deltas = theirs.rpn.head(list(maps.values()))
        anchors = theirs.rpn.anchor_generator(pictures, list(maps.values()))
        counts = [level[0].numel() for level in logits]
        logits, deltas = detection.rpn.concat_box_prediction_layers(logits, deltas)
        proposals = theirs.rpn.box_coder.decode(deltas, anchors).view(1, -1, 4)
        boxes, scores = theirs.rpn.filter_proposals(proposals, logits, pictures.image_sizes, counts)
        assert torch.equal(boxes[0], theirs.rpn(pictures, maps)[0][0])
        regions = theirs.roi_heads.box_roi_pool(maps, boxes, pictures.image_sizes)
        descriptors = theirs.roi_heads.box_head(regions)
    height, width = pictures.image_sizes[0]
    scale = torch.tensor([120 / width, 90 / height, 120 / width, 90 / height])
    assert len(found.boxes) == 12 and found.features.shape == (12, 1024)
    torch.testing.assert_close(found.objectness, scores[0])
    torch.testing.assert_close(found.boxes, boxes[0] * scale, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.features, descriptors, rtol=1e-3, atol=1e-5 * float(descriptors.max()))
    assert float(found.objectness[0] - found.objectness[-1]) > 1e-3 and float(found.features.std()) > 0


def test_anchors_of_2015() -> None:
    # What py-faster-rcnn's README prints for scales 8, 16 and 32, with the last pixel inside and the first at 0.
    published = [
        [-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199],
        [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263],
        [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359],
    ]  # fmt: skip
    shapes = Anchors(caffe_anchor_shapes(), 16, centre=8)(torch.zeros(1, 1, 1, 1)).view(3, 4, 4)[:, 1:]
    assert (shapes.reshape(9, 4) - torch.tensor([0.0, 0, 1, 1])).tolist() == published


def test_crop_and_resize_as_tensorflow_does() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((3, 6, 9))
    boxes = np.array([[0.0, 0, 8, 5], [1.3, 2.1, 4.9, 4.2], [6.5, 3.5, 8.4, 5.3], [2, 2, 2, 2]])
    wanted = np.zeros((4, 3, 7, 7))
    for k, (left, top, right, bottom) in enumerate(boxes):
        for i in range(7):
            for j in range(7):
                y, x = top + i / 6 * (bottom - top), left + j / 6 * (right - left)
                if y < 0 or y > 5 or x < 0 or x > 8:
                    continue  # TensorFlow's extrapolation value
                y0, x0 = min(int(y), 4), min(int(x), 7)
                a, b = y - y0, x - x0
                wanted[k, :, i, j] = (1 - a) * ((1 - b) * values[:, y0, x0] + b * values[:, y0, x0 + 1]) + a * (
                    (1 - b) * values[:, y0 + 1, x0] + b * values[:, y0 + 1, x0 + 1]
                )
    found = crop_and_resize(torch.from_numpy(values)[None].float(), torch.from_numpy(boxes).float(), 7)
    torch.testing.assert_close(found, torch.from_numpy(wanted).float(), rtol=1e-4, atol=1e-5)


def tiny_c4() -> C4:
    config = RegionFeaturesConfig(network="fasterrcnn_resnet152_c4", regions=9, shorter=64, longer=96)
    made = C4(config, **TINY).eval().requires_grad_(False)
    draw = generator(5)
    for key, value in made.state_dict().items():
        value.uniform_(0.5, 1.5, generator=draw) if "norm" in key else value.normal_(0, 0.2, generator=draw)
    temper(made, torch.rand(1, 3, 64, 64, generator=draw), made.proposals, made.objectness, made.deltas)
    return made


def test_the_papers_network() -> None:
    made = tiny_c4()
    assert C4.__init__.__kwdefaults__["units"] == (3, 8, 36, 3)
    (found,) = made([torch.from_numpy(noise(100, 75)).permute(2, 0, 1)[None] / 255])
    assert found.features.shape == (9, 128) and float(found.features.min()) >= 0 and float(found.features.std()) > 0
    assert bool((found.boxes <= torch.tensor([75.0, 100, 75, 100])).all()) and bool((found.boxes >= 0).all())
    assert bool((found.objectness[1:] <= found.objectness[:-1]).all())
    # Blocks halve in their last unit, but the last two.
    strides = [[unit.stride for unit in block] for block in made.blocks]
    assert strides == [[2], [1, 2], [1], [1]]
    # Blue first, on a scale of 255, less Caffe's means.
    seen = []
    made.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    colour = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    made([colour])
    wanted = [229.5 - 102.9801, 127.5 - 115.9465, 25.5 - 122.7717]
    torch.testing.assert_close(seen[0][0, :, 5, 5], torch.tensor(wanted))


def test_the_papers_network_has_2048_numbers_a_region() -> None:
    with torch.device("meta"):
        made = C4(RegionFeaturesConfig(network="fasterrcnn_resnet152_c4"))
    assert made.features == 2048 and made.deltas.weight.shape == (48, 512, 1, 1)


# --- Published weights


def tensorflow_variables(made: C4) -> dict[str, Tensor]:
    """The checkpoint that would convert to this network, by names written out independently of the converter."""
    scope, found = "resnet_v1_152", {}

    def layer(name: str, conv: torch.nn.Conv2d, norm: torch.nn.Module) -> None:
        found[f"{scope}/{name}/weights"] = conv.weight.permute(2, 3, 1, 0)
        for theirs, value in {
            "gamma": norm.weight, "beta": norm.bias,
            "moving_mean": norm.running_mean, "moving_variance": norm.running_var,
        }.items():  # fmt: skip
            found[f"{scope}/{name}/BatchNorm/{theirs}"] = value

    layer("conv1", made.conv1, made.norm1)
    for b, block in enumerate(made.blocks, start=1):
        for u, unit in enumerate(block, start=1):
            place = f"block{b}/unit_{u}/bottleneck_v1"
            for n in (1, 2, 3):
                layer(f"{place}/conv{n}", getattr(unit, f"conv{n}"), getattr(unit, f"norm{n}"))
            if unit.shortcut is not None:
                layer(f"{place}/shortcut", unit.shortcut, unit.shortcut_norm)
    heads = {"rpn_conv/3x3": made.proposals, "rpn_bbox_pred": made.deltas}
    for name, conv in heads.items():
        found[f"{scope}/{name}/weights"] = conv.weight.permute(2, 3, 1, 0)
        found[f"{scope}/{name}/biases"] = conv.bias
    # Logits of "none" for all anchors, then of "an object"; only their difference counts.
    none_weight, none_bias = torch.randn_like(made.objectness.weight), torch.randn_like(made.objectness.bias)
    weight = torch.cat([none_weight, none_weight + made.objectness.weight])
    found[f"{scope}/rpn_cls_score/weights"] = weight.permute(2, 3, 1, 0)
    found[f"{scope}/rpn_cls_score/biases"] = torch.cat([none_bias, none_bias + made.objectness.bias])
    found[f"{scope}/cls_score/weights"] = torch.zeros(128, 81)
    found[f"{scope}/bbox_pred/biases"] = torch.zeros(324)
    return {key: value.detach().clone() for key, value in found.items()}


def test_tensorflows_variables_become_the_papers_network() -> None:
    made = tiny_c4()
    config, tensors = convert.from_tensorflow(tensorflow_variables(made), network=C4(made.config, **TINY))
    assert config.network == "fasterrcnn_resnet152_c4"
    again = C4(made.config, **TINY).eval().requires_grad_(False)
    again.load_state_dict(tensors)
    image = torch.from_numpy(noise(64, 96)).permute(2, 0, 1)[None] / 255
    for ours, theirs in zip(again([image])[0], made([image])[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    variables = tensorflow_variables(made)
    del variables["resnet_v1_152/block2/unit_2/bottleneck_v1/conv3/weights"]
    with pytest.raises(WeightsMismatch, match="block2/unit_2/bottleneck_v1/conv3/weights"):
        convert.from_tensorflow(variables, network=C4(made.config, **TINY))


def published_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names in torchvision's file of v1, which is older than its sequences of layers."""
    renamed = {}
    for key, value in state.items():
        if key.startswith(("rpn.head.conv.0.0.", "backbone.fpn.inner_blocks", "backbone.fpn.layer_blocks")):
            kind = key.rpartition(".")[2]
            key = f"rpn.head.conv.{kind}" if key.startswith("rpn") else key.replace(f".0.{kind}", f".{kind}")
        renamed[key] = value
    return renamed


def test_torchvisions_file_becomes_a_checkpoint(tmp_path: Path) -> None:
    ours = FPNDetector(RegionFeaturesConfig(network="fasterrcnn_resnet50_fpn"))
    state = published_names(ours.stored.state_dict())
    assert "rpn.head.conv.weight" in state and "backbone.fpn.inner_blocks.0.weight" in state
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "v1.safetensors")
    result = CliRunner().invoke(
        command.app, ["convert", "region_features", str(tmp_path / "v1.safetensors"), str(tmp_path / "made")]
    )
    assert result.exit_code == 0, result.output
    model = RegionFeatures.from_pretrained(tmp_path / "made", device="cpu", regions=3, shorter=64, longer=64)
    image = torch.from_numpy(noise(64, 64)).permute(2, 0, 1)[None] / 255
    ours.config = model.config
    ours.detector.transform.min_size, ours.detector.transform.max_size = (64,), 64
    with torch.no_grad():
        (wanted,) = ours.eval()([image])
    assert torch.equal(model(image).features, wanted.features)
    state.pop("roi_heads.box_head.fc6.bias")
    with pytest.raises(WeightsMismatch, match=r"torchvision's fasterrcnn_resnet50_fpn:.* roi_heads.box_head.fc6.bias"):
        convert.from_torchvision(state)


def test_pickles_are_never_opened_but_checked(tmp_path: Path) -> None:
    name = PUBLISHED["fasterrcnn_resnet50_fpn"].rpartition("/")[2]
    (tmp_path / name).write_bytes(b"not what was published")
    digest = hashlib.sha256(b"not what was published").hexdigest()
    with pytest.raises(HashMismatch, match=f"{digest} and should begin with 258fb6c6"):
        convert.read(tmp_path / name)
    (tmp_path / "own.pth").write_bytes(b"cos\nsystem\n(S'touch /nowhere'\ntR.")
    with pytest.raises(UnsafeFormat, match=r"weights_only=True(.|\n)*own\.safetensors"):
        convert.read(tmp_path / "own.pth")
    with pytest.raises(UnsafeFormat, match=r"res152\.ckpt .*res152\.safetensors"):
        convert.read(tmp_path / "res152.ckpt.data-00000-of-00001")
    with pytest.raises(MissingWeights):
        convert.read(tmp_path / "gone.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"bad")
    with pytest.raises(WeightsMismatch, match="damaged"):
        convert.read(tmp_path / "bad.safetensors")


def test_a_name_without_weights_says_where_they_are() -> None:
    config = RegionFeaturesConfig(network="fasterrcnn_resnet50_fpn_v2")
    resolved = hub.Resolved(name="fasterrcnn-resnet50-fpn-v2", origin="built-in")
    with pytest.raises(
        MissingWeights, match=r"fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth(.|\n)*weights convert region_feat"
    ):
        RegionFeatures._build(config, resolved, hub.Placement(local_files_only=True))


# --- Training


def test_scenes_are_cut_with_their_boxes() -> None:
    picture = torch.zeros(3, 100, 80)
    boxes = torch.tensor([[20.0, 30, 40, 50], [0, 0, 12, 90], [60, 80, 80, 100]])
    found = cropped(BoxedPicture(picture, boxes), 10, 20, 60, 120)
    # The first is twice as large and shifted; of the second 2 of 12 columns are left; of the third a corner, all gone.
    assert found.picture.shape == (3, 120, 120) and found.boxes.tolist() == [[20, 20, 60, 60]]


def test_annotated_crops_frame_what_they_framed() -> None:
    picture = torch.zeros(3, 200, 200, dtype=torch.uint8)
    picture[0, 60:110, 120:160] = 255
    annotated = AnnotatedImages((picture,), (torch.tensor([[120.0, 60, 160, 110]]),))
    seen = 0
    for seed in range(12):
        scene = annotated_crop(annotated, 96, (0.6, 1.2), generator(seed))
        for box in scene.boxes.round().long().tolist():
            red = scene.picture[0] - scene.picture[1]
            inside = red[box[1] : box[3], box[0] : box[2]]
            assert float(inside.median()) > 0.1 > float(red.sum() - inside.sum()) / max(1, red.numel())
            seen += 1
    assert seen > 6


def test_composites_say_where_their_pieces_are() -> None:
    things = train_module.ImageSet((torch.full((3, 90, 90), 255, dtype=torch.uint8),))
    grounds = train_module.ImageSet((torch.zeros(3, 120, 120, dtype=torch.uint8),))
    make = Composites(things=things, grounds=grounds, size=96, most=1)
    for seed in range(10):
        scene = make(generator(seed))
        (box,) = scene.boxes.tolist()
        solid = (scene.picture.mean(0) > 0.5 * scene.picture.max()).nonzero()
        rows, columns = solid[:, 0], solid[:, 1]
        found = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        assert np.abs(np.array(found) - box).max() <= 1
    many = Composites(things=things, grounds=grounds, size=96, most=10)
    assert torch.equal(many(generator(3)).picture, many(generator(3)).picture)
    scenes = [many(generator(seed)) for seed in range(20)]
    assert len({len(scene.boxes) for scene in scenes}) > 3
    for scene in scenes:
        assert bool((scene.boxes >= 0).all()) and bool((scene.boxes <= 96).all())
        assert bool((scene.boxes[:, 2:] > scene.boxes[:, :2]).all())
    for seed in range(10):
        mask = outline(30, 50, generator(seed))
        assert bool((mask > 0.5).any()) and 0 <= float(mask.min()) and float(mask.max()) <= 1


def test_anchors_are_given_to_what_they_overlap() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60], [0, 0, 10, 25], [31, 0, 41, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [30, 0, 90, 10]])
    number, kind = targets(anchors, boxes)
    # IoU 1, 0.5, 0, 0.4 with the first; 10 / 60 with the second, whose best anchor counts all the same.
    assert kind.tolist() == [1, 1, 0, -1, 1] and number[[0, 1, 4]].tolist() == [0, 0, 1]
    number, kind = targets(anchors, boxes[:0])
    assert kind.tolist() == [0] * 5


def test_recall_of_a_hand_made_case() -> None:
    wanted = (torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.zeros(0, 4), torch.tensor([[0.0, 0, 4, 4]]))
    proposals = [torch.tensor([[50.0, 50, 60, 60], [0, 0, 10, 8]]), torch.tensor([[0.0, 0, 1, 1]]), wanted[2]]
    assert recall(proposals, wanted, 1, 0.5) == pytest.approx(1 / 3)
    assert recall(proposals, wanted, 2, 0.5) == pytest.approx(2 / 3)
    assert recall(proposals, wanted, 2, 0.85) == pytest.approx(1 / 3)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """A few small pictures in the layout of the data."""
    root = tmp_path_factory.mktemp("regions")
    for folder in ("paintings", "photos", "textures", "icons/valid", "icons/annotations/valid"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        for folder in ("paintings", "photos", "textures"):
            Image.fromarray(noise(60, 70, number)).save(root / folder / f"{folder}{number}.png")
        Image.fromarray(noise(90, 80, number)).save(root / "icons/valid" / f"icon{number}.png")
        (root / "icons/annotations/valid" / f"icon{number}.xml").write_text(
            "<annotation><size><width>80</width><height>90</height></size><object><name>saint</name><bndbox>"
            "<xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax></bndbox></object></annotation>"
        )
    return Sources(data=root, teachers=root, weights=root)


def recipe(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> ArtRegionsRecipe:
    monkeypatch.setattr(train_module.features, "load", lambda name, **options: backbone())
    return ArtRegionsRecipe(ArtRegionsSettings(network=SMALL, crop=64), sources, seed=0)


def test_training_learns_the_head_alone_and_repeats_itself(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(sources, monkeypatch)
    before = {key: value.clone() for key, value in made.detector.state_dict().items()}
    steps = list(fit(made, TrainingConfig(steps=3, rate=1e-3, warmup=0)))
    assert set(steps[0].losses) == {"objectness", "boxes"}
    assert all(0 <= value < float("inf") for step in steps for value in step.losses.values())
    changed = {key for key, value in made.detector.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"head.{key}" for key in made.network.state_dict()}
    again = recipe(sources, monkeypatch)
    for _ in fit(again, TrainingConfig(steps=3, rate=1e-3, warmup=0)):
        pass
    for ours, theirs in zip(made.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_published_loads(sources: Sources, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = recipe(sources, monkeypatch)
    config, tensors = made.checkpoint()
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "model.safetensors")
    model = RegionFeatures.from_pretrained(tmp_path, device="cpu")
    assert model.config == SMALL and len(model(noise(50, 70))) >= 1
    report = made.evaluate()
    assert set(report) == {f"recall@{n} at IoU {t}" for t in (0.5, 0.7) for n in (10, 50, 100, 300)}
    assert all(0 <= value <= 1 for value in report.values())
    # Nothing that is measured on is trained on.
    assert made.held_out and not set(made.held_out) & set(made.files)
    assert {path.parent.name for path in made.files} == {"paintings", "photos", "textures", "valid"}


def test_boxes_of_files_end_after_the_last_pixel(sources: Sources) -> None:
    files = sorted((sources.data / "icons/valid").glob("*.png"))
    annotated = AnnotatedImages.load(files[:2], sources.data / "icons/annotations/valid")
    assert annotated.boxes[0].tolist() == [[10, 20, 40, 60]] and annotated.images[0].shape == (3, 90, 80)
    with pytest.raises(DatasetError, match="There is no folder"):
        AnnotatedImages.load(files, sources.data / "nowhere")


@pytest.mark.skipif(not (DATA / "icons").is_dir(), reason=f"the icons are not at hand in {DATA}")
def test_half_of_the_icons_are_held_out() -> None:
    files = folders.image_files(DATA, [train_module.ICONS])
    train, held_out = folders.split(files, held_out=2)
    counts = [sum(map(len, AnnotatedImages.load(part, DATA / train_module.BOXES).boxes)) for part in (train, held_out)]
    assert (len(train), len(held_out)) == (14, 12) and counts == [179, 190]
