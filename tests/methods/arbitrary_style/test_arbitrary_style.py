"""Arbitrary style: the networks, what the class does with pictures and styles, and its training."""

import math
import re
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from PIL import Image
from random_teachers import random_teacher
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from verbs import picture

from artmodels.errors import ConfigError, ImageError, ImageTooLarge
from artmodels.features import teachers
from artmodels.features.extractor import moments
from artmodels.features.networks import art_vgg_nodes, convolutions, layout
from artmodels.methods.arbitrary_style import ArbitraryStyle, ArbitraryStyleConfig, StyleCode
from artmodels.methods.arbitrary_style.model import StyleStatistics, StyleTransformer, cholesky, coloured
from artmodels.methods.arbitrary_style.train import ArbitraryStyleRecipe, ArbitraryStyleSettings
from artmodels.settings import config_from
from artmodels.training import Sources, TrainingConfig, fit

TINY = {"predictor": "statistics", "bottleneck": 5, "hidden": 7, "widths": (4, 6, 8), "kernel": 3, "blocks": 1}


def seeded(seed: int = 0, **settings: object) -> ArbitraryStyle:
    torch.manual_seed(seed)
    return ArbitraryStyle(ArbitraryStyleConfig(**TINY | settings), device="cpu")


@pytest.fixture(scope="module")
def stylise() -> ArbitraryStyle:
    return seeded()


def style_of(seed: int, height: int = 40, width: int = 36) -> Tensor:
    """Pictures that differ in colour and contrast."""
    return (0.2 * seed + (0.2 + 0.3 * (seed % 2)) * picture(height, width, seed=seed)).clamp(0, 1)


# --- The networks


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictor": "vgg"}, "predictor='vgg' must be one of 'statistics', 'inception'"),
        ({"widths": (4, 8)}, "must be 3 values"),
        ({"kernel": 4}, "kernel=4 must be at least 3, at most 128 and odd"),
        ({"blocks": 0}, "blocks=0 must be at least 1"),
        ({"bottleneck": 0}, "bottleneck=0 must be at least 1"),
        ({"hidden": 0}, "hidden=0 must be at least 1"),
        ({"palette": True}, "palette=True goes with predictor='statistics'"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ArbitraryStyleConfig(**settings)


def test_the_papers_transformer_has_1379_channels_that_a_style_moves() -> None:
    network = StyleTransformer(ArbitraryStyleConfig())
    assert sum(network.channels) == 1379
    assert network.heads.weight.shape == (2758, 100)
    separable = StyleTransformer(ArbitraryStyleConfig(separable=True))
    count = sum(value.numel() for value in separable.parameters())
    assert count < 0.4 * sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize("settings", [{}, {"early": True}, {"separable": True}, {"blocks": 3, "kernel": 9}])
def test_the_transformer_is_the_papers_formula(settings: dict[str, object]) -> None:
    """Layer by layer, with the heads read one by one: scales of all layers first, then shifts."""
    torch.manual_seed(1)
    config = ArbitraryStyleConfig(**TINY | settings)
    network = StyleTransformer(config).eval()
    image, style = torch.rand(2, 3, 24, 32), torch.randn(2, 5)

    def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, groups: int = 1) -> Tensor:
        pad = weight.shape[-1] // 2
        return F.conv2d(F.pad(x, (pad,) * 4, mode="reflect"), weight, bias, stride=stride, groups=groups)

    numbers = style @ network.heads.weight.T + network.heads.bias
    place, total = 0, sum(network.channels)

    def conditioned(x: Tensor, index: int) -> Tensor:
        nonlocal place
        conv = network.layers[index].conv
        if config.separable and index < len(network.layers) - 1:
            y = F.conv2d(convolved(x, conv[0].weight, groups=x.shape[1]), conv[1].weight)
        else:
            y = convolved(x, conv.weight)
        mean, variance = y.mean((2, 3), keepdim=True), y.var((2, 3), unbiased=False, keepdim=True)
        scale, shift = (numbers[:, start : start + y.shape[1], None, None] for start in (place, total + place))
        place += y.shape[1]
        return (y - mean) / (variance + 1e-5).sqrt() * scale + shift

    y = image
    for layer, stride in zip(network.down, (2, 2) if config.early else (1, 2, 2), strict=True):
        y = convolved(y, layer.conv.weight, layer.conv.bias, stride).relu()
    for block in range(config.blocks):
        y = y + conditioned(conditioned(y, 2 * block).relu(), 2 * block + 1)
    for index in (2 * config.blocks, 2 * config.blocks + 1):
        y = conditioned(y.repeat_interleave(2, 2).repeat_interleave(2, 3), index).relu()
    wanted = conditioned(y, 2 * config.blocks + 2).sigmoid()
    torch.testing.assert_close(network(image, style), wanted, rtol=1e-4, atol=1e-5)


def test_what_is_looked_at_is_statistics() -> None:
    torch.manual_seed(2)
    network = StyleStatistics(ArbitraryStyleConfig(**TINY)).eval()
    style = torch.rand(2, 3, 32, 48)
    found = network.statistics(style)
    assert found.shape == (2, 9 + 2 * (16 + 32 + 64 + 128 + 128))
    pixels = style[0].flatten(1) - 0.5
    torch.testing.assert_close(found[0, :3], pixels.mean(1))
    covariance = torch.cov(pixels, correction=0)
    torch.testing.assert_close(found[0, 3:9], covariance[torch.triu_indices(3, 3).unbind()])
    first = network.blocks[0][0]
    features = F.conv2d(F.pad(4 * style - 2, (1,) * 4, mode="reflect"), first.weight, first.bias).relu()[0].flatten(1)
    torch.testing.assert_close(found[0, 9:25], features.mean(1))
    torch.testing.assert_close(found[0, 25:41], (features.var(1, unbiased=False) + 1e-4).sqrt().log())
    # Standardised as the checkpoint says.
    network.centre.copy_(found[0])
    assert torch.equal(network(style)[0], network.last(network.hidden.bias.relu()))
    assert network(torch.full((1, 3, 32, 32), 0.5)).isfinite().all()


def test_a_palette_is_the_very_mean_and_covariance_of_the_style() -> None:
    torch.manual_seed(3)
    y, style = torch.randn(2, 3, 20, 24, dtype=torch.float64), torch.rand(2, 3, 18, 30, dtype=torch.float64)
    style[1] = style[1, :1]  # grey
    mean, covariance = moments(style)
    result = coloured(y, torch.cat([mean, *cholesky(covariance)], 1))
    for ours, theirs in zip(moments(result.double()), (mean, covariance), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    lower = torch.linalg.cholesky(covariance[0])
    torch.testing.assert_close(
        torch.cat(cholesky(covariance), 1)[0], lower[torch.tril_indices(3, 3).unbind()], atol=1e-3, rtol=0
    )
    assert coloured(torch.full((1, 3, 8, 8), 0.3), torch.rand(1, 9)).isfinite().all()


def test_a_result_has_the_colours_of_the_style() -> None:
    model = seeded(palette=True)
    assert model.config.description == 14
    style = 0.35 + 0.3 * picture(60, 50, seed=4)
    result = model(picture(64, 80), style).tensor
    for ours, theirs in zip(moments(result), moments(style), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)


# --- What the class does with pictures and styles


def test_a_style_can_be_looked_at_once(stylise: ArbitraryStyle) -> None:
    image, style = picture(24, 31), style_of(1)
    code = stylise.describe(style)
    assert code.vector.shape == (5,) and code.model is None
    assert torch.equal(stylise(image, code).tensor, stylise(image, style).tensor)
    assert not torch.equal(stylise(image, style_of(2)).tensor, stylise(image, style).tensor)
    assert not torch.equal(stylise.describe(style_of(1, 90, 80), style_size=40).vector, code.vector)


def test_a_code_of_another_model_is_refused(stylise: ArbitraryStyle) -> None:
    code = stylise.describe(style_of(1))
    for wrong in (StyleCode(vector=code.vector, model="arbitrary-style"), StyleCode(vector=torch.zeros(6), model=None)):
        with pytest.raises(ConfigError, match="is of the model .* let this one describe the style again"):
            stylise(picture(24, 31), wrong)


def test_styles_are_blended_by_their_shares(stylise: ArbitraryStyle) -> None:
    image, styles = picture(24, 31), [style_of(1), style_of(2)]
    vectors = [stylise.describe(style).vector for style in styles]
    blend = StyleCode(vector=0.25 * vectors[0] + 0.75 * vectors[1], model=None)
    result = stylise(image, styles, style_weights=[1, 3])
    torch.testing.assert_close(result.tensor, stylise(image, blend).tensor)
    assert result.settings["style_weights"] == [0.25, 0.75]
    assert torch.equal(stylise(image, styles, style_weights=[2, 0]).tensor, stylise(image, styles[0]).tensor)
    assert stylise(image, styles).settings["style_weights"] == [0.5, 0.5]


def test_strength_goes_from_the_pictures_own_style(stylise: ArbitraryStyle) -> None:
    image, style = picture(24, 31), style_of(3)
    assert torch.equal(stylise(image, style, strength=0).tensor, stylise(image, image).tensor)
    own, theirs = stylise.describe(image).vector, stylise.describe(style).vector
    half = stylise(image, StyleCode(vector=(own + theirs) / 2, model=None)).tensor
    torch.testing.assert_close(stylise(image, style, strength=0.5).tensor, half)


def test_colours_can_be_kept(stylise: ArbitraryStyle) -> None:
    image, style = picture(24, 31), style_of(1)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)

    def chroma(x: Tensor) -> Tensor:
        return x - (x * luma).sum(1, keepdim=True)

    kept = stylise(image, style, colour="luminance").tensor
    torch.testing.assert_close(chroma(kept), chroma(image), rtol=0, atol=1e-5)
    assert not torch.equal(stylise(image, style, colour="transfer").tensor, stylise(image, style).tensor)
    # A style that has the picture's colours already stays as it is.
    torch.testing.assert_close(
        stylise(image, image, colour="transfer").tensor, stylise(image, image).tensor, rtol=0, atol=1e-3
    )
    with pytest.raises(ConfigError, match="recolours a style before it is looked at: give its picture"):
        stylise(image, stylise.describe(style), colour="transfer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.1}, "strength=1.1 must be from 0"),
        ({"strength": math.nan}, "strength=nan must be from 0"),
        ({"colour": "sepia"}, "Unknown colour 'sepia'.*'none', 'luminance', 'transfer'"),
        ({"style_size": 31}, "style_size=31 must be a whole number of pixels from 32 to 1024"),
        ({"style_size": 64.5}, "style_size=64.5 must be a whole number"),
        ({"size": (7, 40)}, r"size=\(7, 40\) must be \(height, width\) of at least 8 px each"),
        ({"style_weights": [1, 2]}, r"style_weights=\[1, 2\] must be 1 numbers of 0 or more"),
        ({"style_weights": [0]}, "must be 1 numbers of 0 or more, not all 0"),
        ({"style_weights": [-1]}, "must be 1 numbers of 0 or more"),
        ({"style_weights": [math.nan]}, "must be 1 numbers of 0 or more"),
    ],
)
def test_options_are_checked(stylise: ArbitraryStyle, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        stylise(picture(24, 31), style_of(1), **options)


@pytest.mark.parametrize("count", [0, 5])
def test_one_to_four_styles_are_blended(stylise: ArbitraryStyle, count: int) -> None:
    with pytest.raises(ConfigError, match=f"there are {count} styles: give 1 to 4"):
        stylise(picture(24, 31), [style_of(1)] * count)


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (40, 17)])
def test_a_result_has_the_size_asked_for(stylise: ArbitraryStyle, size: tuple[int, int]) -> None:
    result = stylise(picture(24, 30), style_of(1), size=size)
    assert result.tensor.shape == (1, 3, *size) and result.settings["size"] == list(size)
    assert result.tensor.min() >= 0 and result.tensor.max() <= 1


@pytest.mark.parametrize("size", [(8, 8), (8, 700), (300, 9)])
def test_any_shape_of_style_does(stylise: ArbitraryStyle, size: tuple[int, int]) -> None:
    assert stylise(picture(24, 30), style_of(1, *size), style_size=32).tensor.isfinite().all()


def test_pictures_too_small_are_refused_and_named(stylise: ArbitraryStyle) -> None:
    with pytest.raises(ImageError, match=r"the picture is 40 x 3 px, too small: use one of at least 8 px"):
        stylise(picture(3, 40), style_of(1))
    with pytest.raises(ImageError, match=r"the style is 40 x 3 px, too small"):
        stylise(picture(40, 40), picture(3, 40))
    with pytest.raises(ImageError, match=r"the style 2 is 7 x 9 px, too small"):
        stylise(picture(40, 40), [style_of(1), picture(9, 7)])
    with pytest.raises(ImageError, match=r"the style is 7 x 9 px, too small"):
        stylise.describe(picture(9, 7))


def test_a_picture_too_large_is_refused_with_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ArbitraryStyle, "limit", 200_000)
    with pytest.raises(ImageTooLarge, match=re.escape("has 0.3 megapixels, and ArbitraryStyle needs it whole")):
        seeded()(picture(500, 600), style_of(1))


def test_a_list_gives_a_list(stylise: ArbitraryStyle) -> None:
    pictures = [picture(20, 24), picture(33, 17, seed=1)]
    for colour in ("none", "transfer"):
        results = stylise(pictures, style_of(1), colour=colour)
        singles = [stylise(image, style_of(1), colour=colour) for image in pictures]
        assert all(torch.equal(one.tensor, other.tensor) for one, other in zip(results, singles, strict=True))
    assert stylise([], style_of(1)) == []


@pytest.mark.parametrize("settings", [{"early": True, "palette": True}, {"predictor": "inception", "separable": True}])
def test_a_saved_model_loads_and_paints_alike(settings: dict[str, object], tmp_path: Path) -> None:
    model = seeded(**settings)
    loaded = ArbitraryStyle.from_pretrained(model.save_pretrained(tmp_path / "saved"), device="cpu")
    assert loaded.config == model.config
    image, style = picture(20, 24), style_of(1, 96, 80)
    torch.testing.assert_close(loaded(image, style).tensor, model(image, style).tensor, rtol=0, atol=2e-2)


# --- Training


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    root = tmp_path_factory.mktemp("arbitrary-style")
    for i in range(24):
        folder = root / "data" / ("photos", "paintings", "schools", "textures", "icons")[i % 5]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (picture(48, 56, seed=i)[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    random_teacher(root / "teachers", teachers.COMPRESSED)
    shapes = layout(list(convolutions(art_vgg_nodes())))
    draw = torch.Generator().manual_seed(3)
    weights = {key: 0.1 * torch.randn(shape, generator=draw) for key, shape in shapes.items()}
    (root / "art-vgg").mkdir()
    save_file(weights, root / "art-vgg" / "model.safetensors")
    return Sources(data=root / "data", teachers=root / "teachers", weights=root)


def test_a_trained_model_is_a_checkpoint(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("artmodels.methods.arbitrary_style.train.MEASURED", (2, 2))
    monkeypatch.setattr("artmodels.methods.arbitrary_style.train.PAIRS", 1)

    def recipe_of(**settings: object) -> ArbitraryStyleRecipe:
        small = {"network": ArbitraryStyleConfig(**TINY), "batch": 2, "crop": 32, "style_crop": 32}
        return ArbitraryStyleRecipe(ArbitraryStyleSettings(**small | settings), sources, seed=2)

    recipe = recipe_of(identity=1.0)
    steps = list(fit(recipe, TrainingConfig(steps=2, warmup=1)))
    assert all(list(step.losses) == ["content", "style", "flatness"] for step in steps)
    assert all(0 < value < math.inf for step in steps for value in step.losses.values())
    again = recipe_of(identity=1.0)
    assert next(fit(again, TrainingConfig(steps=2, warmup=1))).losses == steps[0].losses

    config, tensors = recipe.checkpoint()
    assert config.pop("method") == "arbitrary_style"
    read = config_from(ArbitraryStyleConfig, config)
    assert asdict(read) == asdict(ArbitraryStyleConfig(**TINY))
    assert all(value.dtype == torch.float16 for value in tensors.values())
    # The encoder is art-vgg's, untouched.
    stored = load_file(sources.weights / "art-vgg" / "model.safetensors")
    assert torch.equal(tensors["predictor.blocks.1.0.weight"], stored["conv2_1.weight"].half())
    assert torch.equal(tensors["predictor.blocks.4.0.bias"], stored["conv5_1.bias"].half())
    found = recipe.evaluate()
    assert found["content of the photograph itself"] == 0 < found["content"]
    assert set(found) >= {"style", "flatness", "style of the photograph itself"}


def test_the_paper_s_predictor_is_not_trained_here(sources: Sources) -> None:
    with pytest.raises(ConfigError, match="predictor='inception' is not trained here"):
        ArbitraryStyleRecipe(ArbitraryStyleSettings(network=ArbitraryStyleConfig()), sources, seed=0)
