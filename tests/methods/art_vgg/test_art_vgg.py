"""The recipe of art-vgg: what it trains, how heads are folded, and the textures that it makes up."""

import json

import pytest
import torch
from PIL import Image
from random_teachers import REAL, random_teacher
from safetensors.torch import save_file
from torch import Tensor

from artmodels import features
from artmodels.data.folders import Crops
from artmodels.features import teachers
from artmodels.features.networks import ART_VGG_TAPS
from artmodels.methods.art_vgg import train
from artmodels.methods.art_vgg.train import ArtVGGRecipe, ArtVGGSettings, grainy, gram, synthetic
from artmodels.training import Sources, TrainingConfig, fit

# Some of these names are held out by `datasets.split`, and most are not.
NAMES = [f"{number:02}.png" for number in range(24)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Pictures made here, and teachers of random weights: enough for everything but quality."""
    root = tmp_path_factory.mktemp("art-vgg")
    rng = torch.Generator().manual_seed(0)
    for i, name in enumerate(NAMES):
        folder = root / "data" / train.FOLDERS[i % 4]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (synthetic(1, 40, rng)[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / name)
    random_teacher(root / "teachers", teachers.COMPRESSED)
    return Sources(data=root / "data", teachers=root / "teachers", weights=root)


def recipe_of(sources: Sources) -> ArtVGGRecipe:
    return ArtVGGRecipe(ArtVGGSettings(batch=2, crop=32, synthetic=0.5), sources, seed=3)


@pytest.fixture(scope="module")
def trained(sources: Sources) -> tuple[ArtVGGRecipe, list[dict[str, float]], dict[str, Tensor]]:
    """A recipe after three steps, the losses of each, and the weights before."""
    recipe = recipe_of(sources)
    before = {name: value.detach().clone() for name, value in recipe.network.named_parameters()}
    losses = [dict(step.losses) for step in fit(recipe, TrainingConfig(steps=3, warmup=1))]
    return recipe, losses, before


def test_each_tap_has_a_loss_of_features_and_one_of_gram_matrices(trained) -> None:
    _, losses, _ = trained
    assert all(list(step) == [name for tap in ART_VGG_TAPS for name in (tap, f"gram {tap}")] for step in losses)
    assert all(0 < value < float("inf") for step in losses for value in step.values())


def test_layers_and_heads_are_trained_and_nothing_else(trained) -> None:
    recipe, _, before = trained
    assert {name.split(".")[0] for name in before} == {"layers", "heads"}
    assert not any(torch.equal(value, before[name]) for name, value in recipe.network.named_parameters())
    assert not any(value.requires_grad for value in recipe.teacher.parameters())


def test_the_same_seed_gives_the_same_first_step(sources: Sources, trained) -> None:
    config = TrainingConfig(steps=3, warmup=1)
    assert [dict(step.losses) for step in fit(recipe_of(sources), config, until=1)] == trained[1][:1]


def test_held_out_images_are_not_trained_on(trained) -> None:
    recipe, _, _ = trained
    assert recipe.files and recipe._held_out
    assert sorted(path.name for path in [*recipe.files, *recipe._held_out]) == NAMES


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory: pytest.TempPathFactory) -> features.FeatureExtractor:
    """What `checkpoint` gives, read by `features.load` from a folder."""
    config, tensors = trained[0].checkpoint()
    folder = tmp_path_factory.mktemp("published")
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")
    return features.load(str(folder))


@pytest.mark.parametrize("tap", ART_VGG_TAPS)
def test_a_folded_head_keeps_every_distance(trained, published: features.FeatureExtractor, tap: str) -> None:
    """‖R f‖² / k = ‖H f‖² / m and ‖R G Rᵀ‖ / k = ‖H G Hᵀ‖ / m, for k channels of ours and m of the teacher's.

    So a tap has the mean square of its head, and distances of Gram matrices are the teacher's but for one factor.
    """
    recipe, _, _ = trained
    rng = torch.Generator().manual_seed(5)
    head = recipe.heads[tap].weight.detach()[:, :, 0, 0].double()
    folded = published.stages[published.index[tap]].weight[:, :, 0, 0].double()
    wide, narrow = head.shape
    assert folded.shape == (narrow, narrow) and narrow <= wide
    assert torch.equal(folded, folded.triu()) and bool((folded.diagonal() > 0).all())

    def gap() -> Tensor:
        """The difference of two Gram matrices, which need not be positive."""
        first, second = torch.randn(2, narrow, 2 * narrow, generator=rng, dtype=torch.float64)
        return first @ first.T - second @ second.T

    for _ in range(5):
        difference = gap()
        ours = (folded @ difference @ folded.T).norm() / narrow
        torch.testing.assert_close(ours, (head @ difference @ head.T).norm() / wide, rtol=2e-3, atol=0)

    image = synthetic(1, 64, rng)
    answer = recipe.heads[tap](recipe.student(image, [tap])[tap])
    found = published(image, [tap], padding="reflect")[tap]
    torch.testing.assert_close(found.square().mean(1), answer.square().mean(1).detach(), rtol=2e-2, atol=1e-4)


def test_gram_matrices_are_means_of_products() -> None:
    value = torch.rand(2, 3, 4, 5)
    expected = sum(torch.einsum("ni,nj->nij", value[:, :, y, x], value[:, :, y, x]) for y in range(4) for x in range(5))
    torch.testing.assert_close(gram(value), expected / 20)


def test_the_report_has_a_cosine_a_tap_and_kind(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "Crops", lambda *, size, smallest: Crops(size=min(size, 32), smallest=smallest))
    report = trained[0].evaluate()
    assert set(report) == {f"{kind} cosine {tap}" for kind in ("feature", "gram") for tap in ART_VGG_TAPS}
    assert all(-1 <= value <= 1 for value in report.values())


def test_synthetic_textures_are_images_and_differ() -> None:
    batch = synthetic(16, 48, torch.Generator().manual_seed(0))
    assert batch.shape == (16, 3, 48, 48) and batch.isfinite().all()
    assert 0 <= batch.min() and batch.max() <= 1
    assert len({tuple(image.flatten()[:50].tolist()) for image in batch}) == 16
    assert torch.equal(batch, synthetic(16, 48, torch.Generator().manual_seed(0)))
    # Those that are cut have few colours, one on each side of the median; the others have thousands.
    colours = [len(image.flatten(1).T.unique(dim=0)) for image in batch]
    assert 2 <= sum(count <= 3 for count in colours) <= 14
    assert all(count <= 3 or count > 500 for count in colours)
    # Smooth and rough ones: neighbours from nearly alike to unrelated.
    centred = batch - batch.mean((2, 3), keepdim=True)
    alike = (centred[..., 1:] * centred[..., :-1]).mean((1, 2, 3)) / centred.square().mean((1, 2, 3)).clamp_min(1e-9)
    assert alike.min() < 0.3 and alike.max() > 0.8


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the teachers are not at hand in {REAL}")
def test_a_step_against_the_real_teachers(sources: Sources) -> None:
    real = Sources(data=sources.data, teachers=REAL, weights=sources.weights)
    recipe = ArtVGGRecipe(ArtVGGSettings(batch=1, crop=32, synthetic=1.0), real, seed=0)
    (step,) = fit(recipe, TrainingConfig(steps=2), until=1)
    assert all(0 < value < float("inf") for value in step.losses.values())


def test_grain_is_on_its_share_of_the_images_and_differs() -> None:
    batch = torch.full((40, 3, 16, 16), 0.5)
    found = grainy(batch, 0.5, torch.Generator().manual_seed(0))
    assert 0 <= found.min() and found.max() <= 1
    spread = found.std((2, 3)).mean(1)
    assert 10 <= int((spread == 0).sum()) <= 30 and spread.max() > 0.1
    grey = (found == found[:, :1]).all(3).all(2).all(1) & (spread > 0)
    assert 2 <= int(grey.sum()) <= 18
    assert torch.equal(grainy(batch, 0.0, torch.Generator().manual_seed(0)), batch)
