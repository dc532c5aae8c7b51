"""The recipe of art-resnet and its teacher: distilled, folded, and measured across styles."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
import torchvision
from PIL import Image
from random_teachers import REAL
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from artmodels import features
from artmodels.data.folders import ImageSet
from artmodels.errors import ConfigError, WeightsMismatch
from artmodels.features import teachers
from artmodels.features.networks import ART_RESNET_TAPS, art_resnet_nodes, checkpoint_layout, convolutions
from artmodels.methods.art_resnet import retrieval, train, views
from artmodels.methods.art_resnet.retrieval import Standard, local_features, pair_correlation, recall
from artmodels.methods.art_resnet.train import ArtResNetRecipe, ArtResNetSettings
from artmodels.methods.art_resnet.views import Views, degraded
from artmodels.training import Sources, TrainingConfig, fit

WEIGHTS = Path(__file__).parents[3] / "weights"
# Some of these names are held out by `datasets.split`, and most are not.
NAMES = [f"{number:02}.png" for number in range(24)]
TAPS = ("layer1", "layer2", "layer3")
STRIDES = dict(zip(TAPS, (4, 8, 16), strict=True))
CONFIG = TrainingConfig(steps=3, warmup=1)


def pictures(count: int, size: int = 64) -> Tensor:
    """Soft shapes and grain, [count, 3, size, size]."""
    rng = torch.Generator().manual_seed(7)
    coarse = F.interpolate(torch.rand(count, 3, size // 8, size // 8, generator=rng), size=size, mode="bilinear")
    return (0.8 * coarse + 0.2 * torch.rand(count, 3, size, size, generator=rng)).clamp(0, 1)


def random_resnet(folder: Path) -> dict[str, Tensor]:
    """Write a ResNet-50 v2 of random weights into a folder, under the teacher's name."""
    rng = torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}

    def conv(key: str, inputs: int, outputs: int, kernel: int) -> None:
        weight = torch.randn(outputs, inputs, kernel, kernel, generator=rng) * (2 / (inputs * kernel**2)) ** 0.5
        tensors[f"{key}_weight"] = weight.half()

    def norm(key: str, width: int) -> None:
        for name, low, high in (("gamma", 0.5, 1.5), ("beta", -0.3, 0.3), ("mean", -0.3, 0.3), ("var", 0.5, 2)):
            full = f"{key}_running_{name}" if name in ("mean", "var") else f"{key}_{name}"
            tensors[full] = torch.empty(width).uniform_(low, high, generator=rng)

    norm("batchnorm0", 3)
    conv("conv0", 3, 64, 7)
    norm("batchnorm1", 64)
    inputs = 64
    for stage, count in ((1, 3), (2, 4), (3, 6)):
        width, number = 32 << stage, 0
        for block in range(count):
            for offset, channels in enumerate((inputs, width, width)):
                norm(f"stage{stage}_batchnorm{3 * block + offset}", channels)
            plan = [(inputs, width, 1), (width, width, 3), (width, 4 * width, 1)]
            for row in [*plan, (inputs, 4 * width, 1)] if block == 0 else plan:
                conv(f"stage{stage}_conv{number}", *row)
                number += 1
            inputs = 4 * width
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / f"{teachers.RESNET}.safetensors")
    return tensors


def reference(tensors: dict[str, Tensor], image: Tensor) -> dict[str, Tensor]:
    """The network as the description of the file has it, one operation after the other."""
    t = {key: value.float() for key, value in tensors.items()}

    def norm(x: Tensor, key: str) -> Tensor:
        statistics = (t[f"{key}_running_mean"], t[f"{key}_running_var"], t[f"{key}_gamma"], t[f"{key}_beta"])
        return F.batch_norm(x, *statistics, eps=1e-5)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = norm((image - mean[:, None, None]) / std[:, None, None], "batchnorm0")
    x = norm(F.conv2d(x, t["conv0_weight"], stride=2, padding=3), "batchnorm1").relu()
    x = F.max_pool2d(x, 3, 2, 1)
    found = {}
    for stage, count in ((1, 3), (2, 4), (3, 6)):
        number = 0
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            y = active = norm(x, f"stage{stage}_batchnorm{3 * block}").relu()
            y = F.conv2d(y, t[f"stage{stage}_conv{number}_weight"])
            y = norm(y, f"stage{stage}_batchnorm{3 * block + 1}").relu()
            y = F.conv2d(y, t[f"stage{stage}_conv{number + 1}_weight"], stride=stride, padding=1)
            y = norm(y, f"stage{stage}_batchnorm{3 * block + 2}").relu()
            y = F.conv2d(y, t[f"stage{stage}_conv{number + 2}_weight"])
            if block == 0:
                x = F.conv2d(active, t[f"stage{stage}_conv{number + 3}_weight"], stride=stride)
            x = x + y
            number += 4 if block == 0 else 3
        found[f"layer{stage}"] = x
    return found


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Pictures made here, a teacher of random weights, and the real fast styles."""
    root = tmp_path_factory.mktemp("art-resnet")
    for i, (name, image) in enumerate(zip(NAMES, pictures(len(NAMES)), strict=True)):
        folder = root / "data" / train.FOLDERS[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.permute(1, 2, 0) * 255).to(torch.uint8).numpy()).save(folder / name)
    random_resnet(root / "teachers")
    return Sources(data=root / "data", teachers=root / "teachers", weights=WEIGHTS)


def recipe_of(sources: Sources) -> ArtResNetRecipe:
    styles = ("earlier/fast-style-adele", "earlier/fast-style-ink")
    return ArtResNetRecipe(ArtResNetSettings(batch=2, crop=32, margin=16, side=64, styles=styles), sources, seed=3)


@pytest.fixture(scope="module")
def trained(sources: Sources) -> tuple[ArtResNetRecipe, list[dict[str, float]], dict[str, Tensor]]:
    """A recipe after three steps, the losses of each, and the weights before."""
    recipe = recipe_of(sources)
    before = {name: value.detach().clone() for name, value in recipe.network.named_parameters()}
    losses = [dict(step.losses) for step in fit(recipe, CONFIG)]
    return recipe, losses, before


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `checkpoint` gives."""
    config, tensors = trained[0].checkpoint()
    folder = tmp_path_factory.mktemp("published")
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    return folder


# --- the teacher -----------------------------------------------------------------------------------


def test_the_teacher_is_what_the_description_of_the_file_says(sources: Sources) -> None:
    tensors = load_file(sources.teachers / f"{teachers.RESNET}.safetensors")
    extractor = teachers.load(teachers.RESNET, sources.teachers)
    image = torch.rand(2, 3, 70, 53, generator=torch.Generator().manual_seed(1))
    found, expected = extractor(image, TAPS), reference(tensors, image)
    for tap, value in expected.items():
        torch.testing.assert_close(found[tap], value, rtol=1e-3, atol=1e-3 * float(value.std()))
        assert extractor.stride(tap) == STRIDES[tap] and extractor.channels(tap) == 64 * STRIDES[tap]


def test_without_padding_the_teacher_sees_the_inside_as_ever(sources: Sources) -> None:
    """A feature of the unpadded network is that of a padded one whose borders are far away."""
    extractor = teachers.load(teachers.RESNET, sources.teachers)
    image = torch.rand(1, 3, 192, 192, generator=torch.Generator().manual_seed(2))
    inner = extractor(image, ["layer1"], padding="valid")["layer1"]
    # The unpadded feature k is centred at pixel 17 + 4k (3 for conv0, 2 for the pool, 4 for each of three blocks), the
    # padded feature j at pixel 4j.
    whole = extractor(F.pad(image, (3, 0, 3, 0)), ["layer1"])["layer1"]
    assert inner.shape[-1] == 40
    torch.testing.assert_close(inner, whole[..., 5:45, 5:45], rtol=1e-3, atol=1e-3 * float(inner.std()))


def test_another_networks_file_is_refused_by_the_resnet_loader(tmp_path: Path) -> None:
    tensors = random_resnet(tmp_path)
    del tensors["stage2_conv3_weight"]
    save_file(tensors, tmp_path / f"{teachers.RESNET}.safetensors")
    with pytest.raises(WeightsMismatch, match="missing: stage2_conv3_weight"):
        teachers.load(teachers.RESNET, tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the teachers are not at hand in {REAL}")
def test_the_real_teacher_agrees_with_the_reference_and_knows_photographs_from_noise() -> None:
    from skimage import data

    photo = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None, :, 40:232, 100:292].float() / 255
    found = teachers.load(teachers.RESNET, REAL)(photo, TAPS)
    expected = reference(load_file(REAL / f"{teachers.RESNET}.safetensors"), photo)
    for tap in TAPS:
        assert found[tap].isfinite().all() and 0.05 < float(found[tap].std()) < 1
        torch.testing.assert_close(found[tap], expected[tap], rtol=1e-3, atol=1e-4)


# --- the recipe ------------------------------------------------------------------------------------


def test_each_tap_has_a_loss_of_features_and_one_of_cosines(trained) -> None:
    _, losses, _ = trained
    assert all(list(step) == [name for tap in TAPS for name in (tap, f"match {tap}")] for step in losses)
    assert all(0 < value < float("inf") for step in losses for value in step.values())


def test_layers_and_heads_are_trained_and_nothing_else(trained) -> None:
    recipe, _, before = trained
    changed = {n for n, value in recipe.network.named_parameters() if not torch.equal(value, before[n])}
    assert changed == {n for n, value in recipe.network.named_parameters() if value.requires_grad}
    # What stays is the maps of the taps, which are ones while the heads are learned.
    frozen = set(before) - changed
    maps = [before[name] for name in frozen if before[name].dim() == 4]
    assert len(frozen) == 6 and len(maps) == 3
    assert all(torch.equal(value[:, :, 0, 0], torch.eye(len(value))) for value in maps)
    assert not any(value.requires_grad for value in recipe.teacher.parameters())


def test_an_interrupted_training_ends_as_an_uninterrupted_one(sources: Sources, trained, tmp_path: Path) -> None:
    for end in (2, 3):
        recipe = recipe_of(sources)
        losses = [dict(step.losses) for step in fit(recipe, CONFIG, folder=tmp_path, until=end)]
    assert losses == trained[1][2:]
    expected = trained[0].checkpoint()[1]
    for key, value in recipe.checkpoint()[1].items():
        assert torch.equal(value, expected[key]), key


def test_held_out_images_are_not_trained_on(trained) -> None:
    recipe, _, _ = trained
    assert recipe.files and recipe._held_out
    assert sorted(path.name for path in [*recipe.files, *recipe._held_out]) == NAMES


def test_the_target_of_a_view_is_the_teachers_feature_of_the_original(sources: Sources, trained) -> None:
    """Whatever the views show, targets are standardised features of the crop, without the margin."""
    recipe = trained[0]
    wide = pictures(2, 64)
    plain = recipe.teacher(wide, TAPS)
    for tap, value in recipe._targets(wide).items():
        mean, deviation = recipe.standard.statistics[tap]
        edge = 16 // STRIDES[tap]
        torch.testing.assert_close(value, ((plain[tap] - mean) / deviation)[..., edge:-edge, edge:-edge])


# --- what is published -----------------------------------------------------------------------------


def test_the_file_is_torchvisions_resnet18_with_a_map_at_each_tap(trained, published: Path) -> None:
    tensors = load_file(published / "model.safetensors")
    assert {key: tuple(value.shape) for key, value in tensors.items()} == checkpoint_layout("art-resnet")
    theirs = torchvision.models.resnet18().eval()
    unknown = theirs.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)
    assert set(unknown.unexpected_keys) == {f"head{n}.weight" for n in (1, 2, 3)}
    assert all(key.startswith(("layer4", "fc")) or key.endswith("tracked") for key in unknown.missing_keys)
    ours = features.load(str(published))
    image = pictures(2, 80)
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1((image - 0.5) / 0.25))))
        for number, stage in enumerate((theirs.layer1, theirs.layer2, theirs.layer3), start=1):
            x = stage(x)
            expected = F.conv2d(x, tensors[f"head{number}.weight"].float())
            found = ours(image, [f"layer{number}"], padding="zeros")[f"layer{number}"]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("tap", TAPS)
def test_a_folded_head_keeps_cosines(trained, published: Path, tap: str) -> None:
    recipe = trained[0]
    ours = features.load(str(published))
    assert ours.stride(tap) == STRIDES[tap] and ours.channels(tap) == 16 * STRIDES[tap]
    image = pictures(1, 64)
    with torch.no_grad():
        wide = local_features(recipe.heads[tap](recipe.student(image, [tap])[tap]), STRIDES[tap])
        narrow = local_features(ours(image, [tap])[tap], STRIDES[tap])
    torch.testing.assert_close(narrow @ narrow.T, wide @ wide.T, rtol=0, atol=5e-3)


def test_until_leaves_out_deeper_stages_and_all_fit_into_8_mb() -> None:
    assert features.build("art-resnet", until="layer2").taps == ("layer1", "layer2")
    assert 5.5e6 < sum(2 * conv.weight.numel() for conv in convolutions(art_resnet_nodes())) < 8e6


def test_the_report_compares_ours_with_the_teacher(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "COMPARED", (2, 64))
    monkeypatch.setattr(train, "UNSEEN_STYLES", ("earlier/fast-style-scream",))
    report = trained[0].evaluate()
    kinds = [f"{kind} styles{who}" for kind in ("seen", "unseen") for who in ("", ", teacher")]
    expected = {f"{what} {tap}" for what in ("feature cosine", "pair correlation") for tap in TAPS}
    assert set(report) == expected | {f"recall {tap}, {kind}" for tap in TAPS for kind in kinds}
    assert all(0 <= value <= 1 for key, value in report.items() if key.startswith("recall"))
    assert max(value for key, value in report.items() if key.startswith("recall")) > 2 / 32


# --- views -----------------------------------------------------------------------------------------


def test_degraded_views_are_images_that_follow_from_the_seed() -> None:
    batch = pictures(24, 32)
    found = degraded(batch, torch.Generator().manual_seed(0))
    assert found.shape == batch.shape and 0 <= found.min() and found.max() <= 1
    assert torch.equal(found, degraded(batch, torch.Generator().manual_seed(0)))
    grey = (found.std(1).amax((1, 2)) < 1e-3).sum()
    assert 1 <= grey <= 20
    # What is where stays: a shape of the original is found at its own place.
    original, view = (v.mean(1).flatten(1) for v in (batch, found))
    original, view = (v - v.mean(1, keepdim=True) for v in (original, view))
    assert (F.normalize(view, dim=1) @ F.normalize(original, dim=1).T).argmax(1).tolist() == list(range(24))


def test_blur_is_gaussian_with_a_deviation_of_its_own_for_each_image() -> None:
    batch = pictures(2, 32)
    found = views._blurred(batch, torch.tensor([0.7, 2.0]).view(2, 1, 1, 1))
    for image, sigma, result in zip(batch, (0.7, 2.0), found, strict=True):
        expected = [scipy.ndimage.gaussian_filter(c.numpy(), sigma, mode="mirror", radius=6) for c in image]
        np.testing.assert_allclose(result.numpy(), np.stack(expected), atol=1e-5)


def test_blocks_are_rounded_in_their_cosine_transform() -> None:
    image = pictures(1, 16)
    found = views._blocky(image, torch.full((1, 1, 1, 1), 2.0))
    steps = 2 * (16 + 6 * np.add.outer(np.arange(8), np.arange(8))) / 255
    for channel, result in zip(image[0].numpy(), found[0].numpy(), strict=True):
        for y in (0, 8):
            for x in (0, 8):
                spectrum = scipy.fft.dctn(channel[y : y + 8, x : x + 8], norm="ortho")
                block = scipy.fft.idctn((spectrum / steps).round() * steps, norm="ortho").clip(0, 1)
                np.testing.assert_allclose(result[y : y + 8, x : x + 8], block, atol=1e-5)


@pytest.mark.parametrize("arbitrary", [0.0, 1.0])
def test_stylised_views_are_painted(arbitrary: float) -> None:
    batch = pictures(2, 64)
    paintings = ImageSet(tuple((image * 255).to(torch.uint8) for image in pictures(2, 200)))
    make = Views(WEIGHTS, ("earlier/fast-style-ink",), stylised=1.0, arbitrary=arbitrary, paintings=paintings)
    found = make(batch, torch.Generator().manual_seed(4))
    assert found.shape == batch.shape and 0 <= found.min() and found.max() <= 1
    assert bool(((found - batch).abs().mean((1, 2, 3)) > 0.02).all())
    assert torch.equal(found, make(batch, torch.Generator().manual_seed(4)))


def test_settings_out_of_range_are_refused(sources: Sources) -> None:
    with pytest.raises(ConfigError, match="crop=100 must be at least 1 and a multiple of 16"):
        ArtResNetSettings(crop=100)
    with pytest.raises(ConfigError, match="temperature=0 must be above 0"):
        ArtResNetSettings(temperature=0)
    empty = ImageSet(())
    with pytest.raises(ConfigError, match=r"stylised=1\.5 and arbitrary=0 are shares"):
        Views(WEIGHTS, (), stylised=1.5, arbitrary=0, paintings=empty)
    with pytest.raises(ConfigError, match="leaves nothing to stylise with"):
        Views(WEIGHTS, (), stylised=0.5, arbitrary=0.5, paintings=empty)


# --- the yardstick ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_local_features_are_taken_every_16_pixels_and_have_length_1(stride: int) -> None:
    side = 32 // stride
    value = torch.randn(2, 3, side, side)
    found = local_features(value, stride)
    rows = [value[n, :, y // stride, x // stride] for n in range(2) for y in (8, 24) for x in (8, 24)]
    torch.testing.assert_close(found, torch.stack([row / row.norm() for row in rows]))


def test_recall_counts_the_right_row_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "ROWS", 2)
    base = torch.eye(5)
    queries = base[[0, 1, 3, 3, 4]]
    assert recall(queries, base) == pytest.approx(4 / 5)
    assert recall(base.flip(0), base) == pytest.approx(1 / 5)


def test_pair_correlation_is_that_of_all_pairs() -> None:
    first, second = (F.normalize(torch.randn(7, width), dim=1) for width in (3, 5))
    cosines = np.array([[float(rows[i] @ rows[j]) for i in range(7) for j in range(i)] for rows in (first, second)])
    assert pair_correlation(first, second) == pytest.approx(np.corrcoef(cosines)[0, 1], abs=1e-5)
    rotation = torch.linalg.qr(torch.randn(5, 5))[0]
    assert pair_correlation(second, second @ rotation) == pytest.approx(1, abs=1e-5)


def test_standard_features_have_mean_0_and_deviation_1() -> None:
    value = torch.randn(4, 3, 5, 6) * torch.tensor([1.0, 5.0, 0.0])[:, None, None] + 2
    found = Standard.of({"tap": value})({"tap": value})["tap"]
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-5)


def test_taps_are_those_of_the_contract() -> None:
    assert ART_RESNET_TAPS == TAPS
