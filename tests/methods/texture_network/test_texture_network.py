import copy
import json
import tomllib
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from artmodels import images, training
from artmodels.errors import ArtModelsError, ConfigError, WeightsMismatch
from artmodels.hub import catalogue
from artmodels.methods.texture_network import TextureNetwork, TextureNetworkConfig, train
from artmodels.methods.texture_network.model import PyramidGenerator
from artmodels.methods.texture_network.train import (
    TextureNetworkObjective,
    TextureNetworkRecipe,
    TextureNetworkSettings,
    calibrated,
)
from artmodels.runtime.devices import generator
from artmodels.settings import config_from
from artmodels.training import Sources, TrainingConfig

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared"
RECIPES = sorted((ROOT / "weights").glob("texture-network-*/recipe.toml"))
SMALL = TextureNetworkConfig(texture="a test", widths=(6, 5, 5, 4, 4, 4), noise_width=3)

needs_teacher = pytest.mark.skipif(
    not (SHARED / "teachers" / "vgg19_compressed.safetensors").is_file(),
    reason="../shared/teachers is not beside the repository",
)


@cache
def network() -> PyramidGenerator:
    """A small generator with random weights, calibrated, in evaluation mode."""
    made = PyramidGenerator(SMALL)
    draw = generator(0)
    for value in made.parameters():
        # Strong enough that every scale shows in the result.
        torch.nn.init.normal_(value, std=0.5, generator=draw)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return calibrated(made)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=generator(seed))


@pytest.fixture(scope="module")
def model() -> TextureNetwork:
    return TextureNetwork(SMALL, network=copy.deepcopy(network()), device="cpu")


@pytest.fixture(autouse=True)
def quick_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CALIBRATION", (8, 96))


# Network


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (8, 8)}, r"widths=\(8, 8\) must be 6 values"),
        ({"widths": (8, 8, 8, 0, 8, 8)}, r"widths=.* must be values of which each is at least 1"),
        ({"noise_width": 0}, "noise_width=0 must be at least 1"),
    ],
)
def test_widths_that_make_no_network_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextureNetworkConfig(**settings)


def test_weights_of_the_default_stay_under_a_megabyte() -> None:
    values = PyramidGenerator(TextureNetworkConfig()).state_dict().values()
    assert 2 * sum(value.numel() for value in values) < 1_000_000


@torch.no_grad()
def test_rolling_the_noise_rolls_the_texture() -> None:
    made, source = network(), noise(96, 160)
    plain = made(source)
    for shift in ((32, 0), (0, 64), (-64, 96)):
        rolled = made(source.roll(shift, (2, 3)))
        assert torch.allclose(rolled, plain.roll(shift, (2, 3)), atol=1e-5)
    assert float(plain.std()) > 0.05, "a constant would roll as well"
    # What is promised holds for multiples of 32 alone: the coarsest scale sees other means otherwise.
    assert float((made(source.roll(16, 3)) - plain.roll(16, 3)).abs().max()) > 1e-3


@torch.no_grad()
def test_every_scale_sees_noise_of_variance_one() -> None:
    made, seen = network(), []
    blocks = [made.first, *made.noise]
    hooks = [block.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for block in blocks]
    made(noise(512, 512))
    for hook in hooks:
        hook.remove()
    assert [tuple(x.shape[-2:]) for x in seen] == [(16 << k, 16 << k) for k in range(6)]
    for x in seen:
        assert float(x.mean()) == pytest.approx(0, abs=0.1) and float(x.std()) == pytest.approx(1, abs=0.05)


@torch.no_grad()
def test_a_pixel_depends_on_its_context_and_nothing_else() -> None:
    made, source = network(), noise(32, 512)
    changed = source.clone()
    changed[..., 255] = 1 - changed[..., 255]
    moved = (made(changed) - made(source)).abs().amax((0, 1, 2)) > 1e-6
    reached = moved.nonzero().flatten()
    left, right = 255 - int(reached.min()), int(reached.max()) - 255
    assert max(left, right) <= made.context == 157
    assert max(left, right) > made.context - 32, "the context is larger than it need be"


# Pipeline


@pytest.mark.parametrize(
    ("size", "tileable"), [((64, 96), True), ((41, 8), True), ((41, 8), False), ((100, 333), False)]
)
def test_any_size_in_range(model: TextureNetwork, size: tuple[int, int], tileable: bool) -> None:
    result = model(size=size, tileable=tileable)
    assert result.tensor.shape == (1, 3, *size) and result.tensor.dtype == torch.float32
    assert 0 <= float(result.tensor.min()) and float(result.tensor.max()) <= 1
    resampled = tileable and size != (64, 96)
    assert bool(result.notes) == resampled
    if resampled:
        assert "made at 32 x 32 px" in result.notes[0] and "tileable=False" in result.notes[0]


def test_what_does_not_tile_is_cut_from_what_does(model: TextureNetwork) -> None:
    whole = model(size=(64, 96), seed=4).tensor
    assert torch.equal(model(size=(40, 70), seed=4, tileable=False).tensor, whole[..., :40, :70])


@pytest.mark.parametrize("size", [(70, 90), (32, 100), (9, 64)])
def test_other_sizes_are_one_period_of_an_endless_texture(model: TextureNetwork, size: tuple[int, int]) -> None:
    height, width = size
    made = tuple(max(32, 32 * round(side / 32)) for side in size)
    copies = model(size=made, seed=2).tensor.repeat(1, 1, 3, 3)
    resampled = F.interpolate(copies, (3 * height, 3 * width), mode="bicubic", antialias=True)
    expected = resampled[..., height : 2 * height, width : 2 * width].clamp(0, 1)
    assert torch.allclose(model(size=size, seed=2).tensor, expected, atol=1e-4)


def test_large_textures_in_pieces_are_the_whole(model: TextureNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    source = noise(64, 448)
    whole = model.texture_of(source)
    pieces = []
    monkeypatch.setattr(model, "tile", 64)
    infer = model._infer
    monkeypatch.setattr(model, "_infer", lambda x: pieces.append(x.shape) or infer(x))
    assert torch.allclose(model.texture_of(source), whole, atol=1e-5)
    assert pieces == [(1, 3, 384, 384)] * 7


def test_the_seed_decides_and_nothing_else_is_disturbed(model: TextureNetwork) -> None:
    torch.manual_seed(5)
    first = model(size=(64, 64), seed=1).tensor
    drawn = torch.rand(1)
    torch.manual_seed(6)
    assert torch.equal(model(size=(64, 64), seed=1).tensor, first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)
    several = model(size=(64, 64), seed=0, count=3)
    assert [result.settings["seed"] for result in several] == [0, 1, 2]
    assert torch.equal(several[1].tensor, first)
    assert not torch.equal(several[0].tensor, first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (7, 64)}, r"size=\(7, 64\) must be \(height, width\) of 8 to 4096 px"),
        ({"size": (64, 4097)}, "of 8 to 4096 px"),
        ({"size": (64.0, 64)}, r"size=\(64\.0, 64\)"),
        ({"size": 64}, "size=64 must be"),
        ({"size": (64, 64, 3)}, r"size=\(64, 64, 3\)"),
        ({"count": 0}, "count=0 must be a whole number from 1 to 64"),
        ({"count": True}, "count=True"),
        ({"count": 65}, "count=65"),
        ({"seed": -1}, "seed=-1 is not an integer from 0 to"),
        ({"seed": 1.5}, r"seed=1\.5 is not an integer"),
        ({"seed": 2**63 - 1, "count": 2}, "leaves no seeds for count=2"),
        ({"tileable": "no"}, "tileable='no' must be True or False"),
    ],
)
def test_settings_out_of_range_are_refused(model: TextureNetwork, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model(**options)


@pytest.mark.parametrize("shape", [(1, 3, 33, 64), (1, 1, 64, 64), (2, 3, 64, 64), (3, 64, 64), (1, 3, 0, 32)])
def test_noise_of_another_shape_is_refused(model: TextureNetwork, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"give \[1, 3, H, W\], both sides multiples of 32"):
        model.texture_of(torch.zeros(shape))


def test_saved_and_loaded_it_makes_the_same(model: TextureNetwork, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "saved")
    first = TextureNetwork.from_pretrained(folder, device="cpu")
    assert first.config == SMALL
    again = TextureNetwork.from_pretrained(first.save_pretrained(tmp_path / "again"), device="cpu")
    assert torch.equal(first(size=(64, 64)).tensor, again(size=(64, 64)).tensor)
    # Half precision loses less than one of 255 grey levels.
    assert float((first(size=(64, 64)).tensor - model(size=(64, 64)).tensor).abs().mean()) < 1 / 255
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"noise_width": 4}))
    with pytest.raises(WeightsMismatch):
        TextureNetwork.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("name", [entry.name for entry in catalogue.list_models("texture_network")])
def test_published_textures_are_varied_and_have_no_seam(name: str) -> None:
    model = TextureNetwork.from_pretrained(name, device="cpu")
    first, second = (result.tensor[0] for result in model(size=(64, 96), count=2))
    assert float(first.std()) > 0.02 and float((first - second).abs().mean()) > 0.01
    assert float((first - second).mean((1, 2)).abs().max()) < 0.1, "two samples of one texture have its colour"
    for axis in (1, 2):
        steps = (first - first.roll(1, axis)).abs().mean(0).mean(2 - axis)  # the first is across the border
        assert float(steps[0]) <= 1.25 * float(steps[1:].max())


# Training


def sources(folder: Path) -> Sources:
    """A data folder with one small texture: grains of two colours."""
    (folder / "data").mkdir(exist_ok=True)
    grains = F.interpolate(noise(48, 64, seed=3)[:, :1], scale_factor=2.0, mode="bilinear")
    colours = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1)
    images.save_png(images.to_pil((grains > 0.5) * colours + 0.05), folder / "data" / "grains.png")
    return Sources(data=folder / "data", teachers=SHARED / "teachers", weights=folder)


QUICK = TextureNetworkSettings(
    exemplar="grains.png", title="grains", side=96, network=SMALL, crop=64, directions=8, samples=1024
)


def trained(recipe: TextureNetworkRecipe, steps: int, **options: object) -> list[float]:
    config = TrainingConfig(steps=steps, rate=2e-2, warmup=1)
    return [sum(step.losses.values()) for step in training.fit(recipe, config, **options)]


@needs_teacher
def test_training_lowers_the_distance_and_goes_on_after_an_interruption(tmp_path: Path) -> None:
    given = sources(tmp_path)
    recipe = TextureNetworkRecipe(QUICK, given, seed=0)
    assert recipe.files == [given.data / "grains.png"]
    before = recipe.evaluate()
    losses = trained(recipe, 10)
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])

    after = recipe.evaluate()
    assert set(after) == {
        "sliced Wasserstein distance",
        "sliced Wasserstein distance of the exemplar's halves",
        "mean difference of two textures",
        "mean difference of the exemplar's halves",
    }
    assert after["sliced Wasserstein distance"] < before["sliced Wasserstein distance"]
    assert after["mean difference of two textures"] > 0.01

    halted = TextureNetworkRecipe(QUICK, given, seed=0)
    trained(halted, 10, folder=tmp_path / "run", until=7)
    resumed = TextureNetworkRecipe(QUICK, given, seed=0)
    assert trained(resumed, 10, folder=tmp_path / "run") == losses[7:]
    config, tensors = resumed.checkpoint()
    assert all(torch.equal(value, tensors[key]) for key, value in recipe.checkpoint()[1].items())

    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "made" / "model.safetensors")
    loaded = TextureNetwork.from_pretrained(tmp_path / "made", device="cpu")
    assert loaded.config.texture == "grains"
    with torch.no_grad():
        expected = calibrated(recipe.network)(noise(64, 64))
    assert float((loaded.texture_of(noise(64, 64)) - expected).abs().mean()) < 1 / 255


@needs_teacher
@torch.no_grad()
def test_the_objective_is_about_nothing_for_the_exemplar_itself(tmp_path: Path) -> None:
    recipe = TextureNetworkRecipe(QUICK, sources(tmp_path), seed=0)
    objective, exemplar = recipe.objective, recipe.exemplar
    assert isinstance(objective, TextureNetworkObjective)
    same = objective(exemplar, generator(1))
    # Placement costs nothing: the two halves of the exemplar exchanged are as near as the exemplar.
    rolled = objective(exemplar.roll(48, 3), generator(1))
    pale = objective(exemplar * 0.5 + 0.25, generator(1))
    assert float(same["features"]) < 0.02 and float(rolled["features"]) < 0.02 < float(pale["features"]) / 10
    # The exemplar is no torus, so its patches across the border are not its own: but no more of them when rolled.
    assert float(rolled["patches"]) == pytest.approx(float(same["patches"]), rel=1e-3)
    assert float(pale["patches"]) > 3 * float(same["patches"])
    assert objective(exemplar, generator(1)) == same
    assert objective(exemplar, generator(2)) != same


def test_calibration_measures_the_normalisation_and_leaves_the_network_alone() -> None:
    made = PyramidGenerator(SMALL).train()
    stored = {key: value.clone() for key, value in made.state_dict().items()}
    done, again = calibrated(made), calibrated(made)
    assert made.training and not done.training
    assert all(torch.equal(value, stored[key]) for key, value in made.state_dict().items())
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in done.state_dict().items())
    with torch.no_grad():
        # A batch normalised by itself is near what was measured on others; the initial values are far from both.
        source = noise(256, 256, seed=9)
        by_itself, measured = made(source), done(source)
        untouched = made.eval()(source)
    assert float((by_itself - measured).abs().mean()) < 0.5 * float((by_itself - untouched).abs().mean())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_recipes_are_complete(path: Path) -> None:
    recipe = tomllib.loads(path.read_text())
    assert recipe["recipe"] == "texture_network.train:TextureNetworkRecipe"
    assert TrainingConfig(**recipe["training"]).steps >= 500
    settings = config_from(TextureNetworkSettings, recipe["settings"])
    assert settings.crop % 32 == 0
    assert set(recipe["card"]) == {"title", "summary", "licence", "source", "tags", "limits", "measured"}
    if (SHARED / "data").is_dir():
        assert (SHARED / "data" / settings.exemplar).is_file()


def test_three_textures_have_recipes() -> None:
    settings = [tomllib.loads(path.read_text())["settings"] for path in RECIPES]
    assert len({each["exemplar"] for each in settings}) == len(RECIPES) >= 3


def test_a_missing_exemplar_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ArtModelsError, match="grains.png"):
        TextureNetworkRecipe(QUICK, Sources(data=tmp_path, teachers=tmp_path, weights=tmp_path), seed=0)
