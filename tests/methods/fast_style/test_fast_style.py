"""Fast style: the networks, what the class does with pictures, and its training."""

import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from random_teachers import random_teacher
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from verbs import picture

from artmodels.errors import ConfigError, ImageError, ImageTooLarge, MissingWeights, WeightsMismatch
from artmodels.features import teachers
from artmodels.methods.fast_style import FastStyle, FastStyleConfig
from artmodels.methods.fast_style.model import TransformerNet
from artmodels.methods.fast_style.train import (
    CONTENT,
    CONTENTS,
    STYLE,
    FastStyleRecipe,
    FastStyleSettings,
    StyleObjective,
    blotches,
    flatness,
    tones,
)
from artmodels.runtime.feedforward import doubled, normalised
from artmodels.settings import config_from
from artmodels.training import Sources, TrainingConfig, fit

SMALL = (4, 6, 8)


# --- The networks


def seeded(seed: int = 0, **settings: object) -> FastStyle:
    config = FastStyleConfig(**{"widths": SMALL, "kernel": 3, "blocks": 1} | settings)
    torch.manual_seed(seed)
    return FastStyle(config, device="cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (4, 8)}, "must be 3 values"),
        ({"widths": (4, 0, 8)}, "must be values of which each is at least 1"),
        ({"kernel": 4}, "kernel=4 must be at least 3, at most 128 and odd"),
        ({"kernel": 1}, "kernel=1 must be at least 3"),
        ({"blocks": 0}, "blocks=0 must be at least 1"),
        ({"layout": "torch"}, "layout='torch' must be one of 'resize', 'torch7'.* Did you mean 'torch7'"),
        ({"output": "relu"}, "output='relu' must be one of .*'sigmoid', 'linear', 'tanh'"),
        ({"layout": "torch7", "early": True}, "early=True goes with layout='resize' only"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FastStyleConfig(**settings)


def test_a_config_survives_json() -> None:
    config = FastStyleConfig(style="Udnie", widths=(1, 2, 3), layout="torch7", output="tanh")
    assert config_from(FastStyleConfig, asdict(config) | {"widths": [1, 2, 3]}) == config


def test_the_keys_of_the_weights_that_are_published_stay() -> None:
    """A checkpoint is found by these names: changing one makes every file unreadable."""
    state = TransformerNet(FastStyleConfig(widths=(12, 24, 48), kernel=7, early=True)).state_dict()
    layers = ["down.0", "down.1", *[f"blocks.{i}.{part}" for i in range(5) for part in ("first", "second")]]
    layers += ["up.0", "up.1"]
    keys = [f"{layer}.{key}" for layer in layers for key in ("conv.weight", "norm.weight", "norm.bias")]
    assert list(state) == [*keys, "last.weight", "last.bias"]
    assert state["down.0.conv.weight"].shape == (24, 3, 7, 7) and state["last.weight"].shape == (3, 12, 7, 7)


@pytest.mark.parametrize(("blocks", "least"), [(1, 16), (2, 20), (5, 44)])
def test_the_smallest_image_of_the_authors_layout_follows_from_its_blocks(blocks: int, least: int) -> None:
    network = TransformerNet(FastStyleConfig(widths=SMALL, blocks=blocks, layout="torch7"))
    assert (network.requirements.minimum, network.requirements.multiple_of) == (least, 4)
    assert network(torch.rand(1, 3, least, least)).shape == (1, 3, least, least)


@pytest.mark.parametrize("output", ["sigmoid", "linear", "tanh"])
@pytest.mark.parametrize("layout", ["resize", "torch7"])
def test_results_are_images_whatever_the_weights(layout: str, output: str) -> None:
    style = seeded(layout=layout, output=output)
    style.network.last.weight.data *= 50
    result = style(picture(33, 46)).tensor
    assert result.shape == (1, 3, 33, 46) and result.isfinite().all()
    assert result.min() >= 0 and result.max() <= 1 and result.std() > 0.1


# --- What the class does with pictures


def test_strength_goes_from_the_picture_itself_to_all_style() -> None:
    style, image = seeded(), picture(21, 34)
    whole = style(image).tensor
    assert torch.equal(style(image, strength=1).tensor, whole)
    assert torch.equal(style(image, strength=0).tensor, image)
    torch.testing.assert_close(style(image, strength=0.5).tensor, (image + whole) / 2)
    assert (whole - image).abs().max() > 0.1
    for wrong in (-0.1, 1.5, math.nan):
        with pytest.raises(ConfigError, match="must be from 0 .the picture itself. to 1"):
            style(image, strength=wrong)


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (40, 17)])
def test_a_result_has_the_size_asked_for(size: tuple[int, int]) -> None:
    style, image = seeded(), picture(24, 30)
    result = style(image, size=size)
    assert result.tensor.shape == (1, 3, *size)
    assert result.settings["size"] == list(size) and result.image.size == size[::-1]
    assert style(image).tensor.shape == image.shape
    assert torch.equal(style(image, size=(24, 30)).tensor, style(image).tensor)
    assert style(image, size=size, strength=0).tensor.shape == (1, 3, *size)


@pytest.mark.parametrize("size", [(7, 40), (40, 0), (20.5, 20)])
def test_a_size_that_cannot_be_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"must be \(height, width\) of at least 8 px each"):
        seeded()(picture(20, 20), size=size)


def test_a_list_gives_a_list() -> None:
    style = seeded()
    pictures = [picture(20, 24), picture(33, 17, seed=1)]
    results = style(pictures)
    assert isinstance(results, list) and len(results) == 2
    assert all(torch.equal(one.tensor, style(image).tensor) for one, image in zip(results, pictures, strict=True))
    assert len(style(tuple(pictures), strength=0.2)) == 2
    assert style([]) == []


def test_a_result_says_what_made_it() -> None:
    settings = seeded(style="Udnie")(picture(20, 24), strength=0.25).settings
    assert settings["method"] == "fast_style" and settings["style"] == "Udnie"
    assert settings["strength"] == 0.25 and settings["widths"] == SMALL


def test_the_same_picture_gives_the_same_bytes() -> None:
    first, second = seeded()(picture(20, 24)).tensor, seeded()(picture(20, 24)).tensor
    assert torch.equal(first, second)
    assert not torch.equal(first, seeded(seed=1)(picture(20, 24)).tensor)


@pytest.mark.parametrize("size", [(3, 40), (40, 3), (7, 7)])
def test_a_picture_too_small_is_refused(size: tuple[int, int]) -> None:
    height, width = size
    with pytest.raises(ImageError, match=f"is {width} x {height} px, too small: use one of at least 8 px"):
        seeded()(picture(height, width))


def test_a_picture_too_large_is_refused_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FastStyle.limit == 12_000_000
    monkeypatch.setattr(FastStyle, "limit", 200_000)
    message = r"has 0\.3 megapixels, and FastStyle needs it whole, which is limited to 0\.2: pass size= for a smaller"
    style, image = seeded(), picture(500, 600)
    with pytest.raises(ImageTooLarge, match=message):
        style(image)
    assert style(image, size=(100, 120)).tensor.shape == (1, 3, 100, 120)


def test_an_unknown_style_is_answered_with_the_nearest() -> None:
    with pytest.raises(MissingWeights, match=r"not in the catalogue\. Did you mean '?.*'fast-style-starry-night'"):
        FastStyle.from_pretrained("fast-style-stary-nigth")


def test_weights_of_another_method_are_named() -> None:
    with pytest.raises(ConfigError, match="style-patches is a checkpoint of 'neural_style', not of FastStyle: load it"):
        FastStyle.from_pretrained("style-patches")


def test_a_saved_style_loads_and_paints_alike(tmp_path: Path) -> None:
    style = seeded(style="Udnie", early=True)
    loaded = FastStyle.from_pretrained(style.save_pretrained(tmp_path / "udnie"), device="cpu")
    assert loaded.config == style.config
    assert all(value.dtype == torch.float16 for value in load_file(tmp_path / "udnie" / "model.safetensors").values())
    torch.testing.assert_close(loaded(picture(20, 24)).tensor, style(picture(20, 24)).tensor, rtol=0, atol=5e-3)


def test_weights_of_another_width_are_refused(tmp_path: Path) -> None:
    folder = seeded().save_pretrained(tmp_path / "style")
    with pytest.raises(WeightsMismatch, match=r"does not fit this architecture: .*down\.0\.conv\.weight is \[4, 3, 3"):
        FastStyle.from_pretrained(folder, widths=(5, 6, 8))
    with pytest.raises(ConfigError, match=r"no setting 'width'\. Did you mean 'widths'"):
        FastStyle.from_pretrained(folder, width=(5, 6, 8))


# --- Training


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    root = tmp_path_factory.mktemp("fast-style")
    names = [name for group in CONTENTS for name in group[0]]
    for i in range(4 * len(names)):
        folder = root / "data" / names[i % len(names)]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (picture(64, 80, seed=i)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    random_teacher(root / "teachers", teachers.COMPRESSED)
    return Sources(data=root / "data", teachers=root / "teachers", weights=root)


def recipe_of(sources: Sources, **settings: object) -> FastStyleRecipe:
    network = FastStyleConfig(widths=SMALL, kernel=3, blocks=1, early=True)
    small = {"style": "photos/0.png", "title": "Noise", "style_side": 64, "crop": 64, "batch": 1, "network": network}
    return FastStyleRecipe(FastStyleSettings(**small | settings), sources, seed=2)


def test_a_trained_style_is_a_checkpoint(sources: Sources, tmp_path: Path) -> None:
    recipe = recipe_of(sources)
    steps = list(fit(recipe, TrainingConfig(steps=2, warmup=1)))
    assert all(list(step.losses) == ["content", "style", "flatness", "tones"] for step in steps)
    assert all(0 < value < math.inf for step in steps for value in step.losses.values())
    config, tensors = recipe.checkpoint()
    assert config.pop("method") == "fast_style"
    read = config_from(FastStyleConfig, config)
    assert read == FastStyleConfig(style="Noise", widths=SMALL, kernel=3, blocks=1, early=True)
    assert all(value.dtype == torch.float16 for value in tensors.values())
    TransformerNet(read).load_state_dict(tensors)

    again = recipe_of(sources)
    assert next(fit(again, TrainingConfig(steps=2, warmup=1))).losses == steps[0].losses
    weighted = recipe_of(sources, style_weight=9.0, tv_weight=0.0)
    first = next(fit(weighted, TrainingConfig(steps=2, warmup=1))).losses
    assert first["style"] == pytest.approx(3 * steps[0].losses["style"]) and first["flatness"] == 0

    # Another style may start from these weights.
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "model.safetensors")
    heir = recipe_of(Sources(sources.data, sources.teachers, tmp_path.parent), start=tmp_path.name)
    assert torch.equal(heir.network.last.weight, tensors["last.weight"].float())


def test_the_style_itself_has_no_loss_of_style_and_content_none_of_content(sources: Sources) -> None:
    extractor = teachers.load(teachers.COMPRESSED, sources.teachers)
    style, content = picture(64, 64), picture(64, 80, seed=1)
    objective = StyleObjective(extractor)
    target = objective.style_of(style)
    assert set(target) == set(STYLE)
    assert float(objective(style, style, target)["style"]) < 1e-9
    assert float(objective(content, content, target)["content"]) == 0
    assert float(objective(content, content, target)["style"]) > 1e-3
    other = picture(64, 80, seed=2)
    assert float(objective(other, content, target)["content"]) > 1e-3
    assert objective(other, content, target, objective.content_of(content)) == objective(other, content, target)
    assert set(objective.content_of(content)) == set(CONTENT)
    # At half the size, strokes of twice the size are the style's.
    wide = F.interpolate(style, scale_factor=2.0, mode="nearest")
    whole = StyleObjective(extractor, style={(0, "relu2_1"): 1.0}).style_of(style)
    half = StyleObjective(extractor, style={(1, "relu2_1"): 1.0}).style_of(wide)
    torch.testing.assert_close(half[1, "relu2_1"], whole[0, "relu2_1"])


def test_flatness_counts_grain_in_the_sky_and_not_on_edges() -> None:
    grain, edges = picture(32, 32), picture(32, 32, seed=1).round()
    sky = torch.full((1, 3, 32, 32), 0.5)
    assert float(flatness(sky, sky)) == float(flatness(sky, edges)) == 0
    assert float(flatness(grain, edges)) < 0.5 * float(flatness(grain, sky))


def test_blotches_are_areas_of_another_colour_in_the_sky_and_neither_strokes_nor_what_the_content_has() -> None:
    sky = torch.full((1, 3, 64, 64), 0.5)
    red = sky.clone()
    red[:, 0, 16:48, 16:48] += 0.3
    strokes = sky + 0.3 * (torch.arange(64) % 4 < 2)
    assert float(blotches(sky, sky)) == 0 and float(blotches(strokes, sky)) < 1e-6
    assert float(blotches(red, red)) < 0.1 * float(blotches(red, sky))


def test_tones_ask_for_the_order_of_light_and_dark_and_not_for_the_palette() -> None:
    content = F.interpolate(picture(4, 4), scale_factor=16.0, mode="nearest")
    assert float(tones(content, content)) == pytest.approx(0, abs=1e-6)
    assert float(tones(0.2 + 0.5 * content.flip(1), content)) < 0.05
    assert float(tones(1 - content, content)) > 1
    sky = torch.full((1, 3, 64, 64), 0.7)
    assert float(tones(sky, sky)) == pytest.approx(0, abs=1e-6)
    assert float(tones(content, sky)) > 0.3


def test_repeated_pixels_convolved_at_the_smaller_size_are_the_same() -> None:
    x, weight = picture(7, 9), torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    wide = F.interpolate(x, scale_factor=2.0, mode="nearest")
    expected = F.conv2d(F.pad(wide, (1,) * 4, mode="reflect"), weight)
    torch.testing.assert_close(doubled(x, weight), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [(4,), (2, 4)], ids=["channels", "images and channels"])
def test_that_normalised_in_place_is_instance_normalisation(shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(3)
    x = 5 + torch.randn(2, 4, 40, 30, generator=draw)
    scale, shift = torch.randn(2, *shape, generator=draw)
    normal = F.instance_norm(x)
    expected = normal * scale.view(-1, 4, 1, 1) + shift.view(-1, 4, 1, 1)
    torch.testing.assert_close(normalised(x, scale, shift), expected, rtol=0, atol=3e-5)
    with torch.inference_mode():
        torch.testing.assert_close(normalised(x, scale, shift), expected, rtol=0, atol=3e-5)
