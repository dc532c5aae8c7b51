import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor
from torch.nn import functional as F

from artmodels import features
from artmodels.descent.algebra import Context, Moments, parse
from artmodels.descent.objective import MatchingObjective, Target
from artmodels.descent.optimise import Step
from artmodels.descent.terms import TERMS, Gram, PatchNearest, PatchSlicedWasserstein, SlicedWasserstein
from artmodels.errors import ConfigError, DeadlineExceeded, ImageError
from artmodels.images.colour import linearly_matched, luminance
from artmodels.images.results import ImageResult
from artmodels.methods.neural_style import NeuralStyle, StyleConfig, model
from artmodels.settings import helps

SW = "patch_sliced_wasserstein(wrap=False)"
QUICK = {"steps": 12, "coarsest": 32}


def photograph(array: np.ndarray, height: int = 48, width: int = 64) -> Tensor:
    image = torch.from_numpy(array[..., :3].copy()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image, (height, width), mode="area")


@pytest.fixture(scope="module")
def cat() -> Tensor:
    return photograph(data.chelsea())


@pytest.fixture(scope="module")
def coffee() -> Tensor:
    return photograph(data.coffee(), 60, 56)


@pytest.fixture(scope="module")
def rocket() -> Tensor:
    return photograph(data.rocket(), 52, 52)


def plain(red: float, green: float, blue: float, height: int = 32, width: int = 32) -> Tensor:
    """Nearly one colour: a little noise, so that there is something to match."""
    noise = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)) - 0.5
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1) + 0.04 * noise


def left_half(height: int = 48, width: int = 64) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    return mask


def moments(image: Tensor) -> tuple[Tensor, Tensor]:
    rows = image[0].flatten(1).double()
    return rows.mean(dim=1), torch.cov(rows, correction=0)


def style_distance(image: Tensor, style: Tensor) -> float:
    """Patch distance to the style, on directions that no run has drawn."""
    objective = MatchingObjective(
        [Target(loss=parse(SW, TERMS), exemplar=style)],
        extractor=None,
        layers=(),
        size=tuple(image.shape[-2:]),
        seed=991,
    )
    values = []
    for round_ in range(6):
        objective.refresh(round_)
        values.append(objective.value_and_grad(image)[0])
    return float(np.mean(values))


# What comes out


def test_style_comes_closer_and_content_stays(cat: Tensor, coffee: Tensor) -> None:
    result = NeuralStyle()(cat, coffee, **QUICK)
    assert isinstance(result, ImageResult) and result.complete
    assert result.tensor.shape == cat.shape
    assert result.notes == ("Float values in [0, 1] became 16-bit.", "Style 1: Float values in [0, 1] became 16-bit.")
    assert 0 <= float(result.tensor.min()) and float(result.tensor.max()) <= 1
    assert style_distance(result.tensor, coffee) < 0.5 * style_distance(cat, coffee)
    bright, before = (luminance(x).flatten() for x in (result.tensor, cat))
    assert float(torch.corrcoef(torch.stack([bright, before]))[0, 1]) > 0.7
    json.dumps(dict(result.settings))
    assert result.settings["size"] == [48, 64] and result.settings["style_weights"] == [1.0]


def test_more_content_weight_stays_nearer_to_the_content(cat: Tensor, coffee: Tensor) -> None:
    distances = [
        float(
            (NeuralStyle()(cat, coffee, content_weight=w, palette=False, loss=SW, **QUICK).tensor - cat).square().mean()
        )
        for w in (0.01, 1.0, 100.0)
    ]
    assert distances[0] > 1.5 * distances[1] > 3 * distances[2]


def test_more_variation_weight_is_smoother(cat: Tensor, coffee: Tensor) -> None:
    def roughness(weight: float) -> float:
        image = NeuralStyle()(cat, coffee, tv_weight=weight, **QUICK).tensor
        return float(image.diff(dim=2).square().mean() + image.diff(dim=3).square().mean())

    assert roughness(0) > 1.1 * roughness(0.7)


def test_from_noise_the_content_appears(cat: Tensor, coffee: Tensor) -> None:
    slow = next(iter(NeuralStyle().stream(cat, coffee, init="noise", content_weight=1.0, rate=1e-3, **QUICK)))
    result = NeuralStyle()(cat, coffee, init="noise", content_weight=1.0, **QUICK)
    bright = [luminance(x).flatten() for x in (result.tensor, cat)]
    assert float(torch.corrcoef(torch.stack(bright))[0, 1]) > 0.6
    small = F.interpolate(cat, slow.image.shape[-2:], mode="area")
    early = [luminance(x).flatten() for x in (slow.image, small)]
    assert abs(float(torch.corrcoef(torch.stack(early))[0, 1])) < 0.5


def test_two_styles_interpolate(cat: Tensor) -> None:
    red, blue = plain(0.8, 0.2, 0.2), plain(0.2, 0.2, 0.8)
    means = [
        NeuralStyle()(cat, [red, blue], style_weights=[w, 4 - w], content_weight=0.01, **QUICK).tensor.mean(dim=(2, 3))[
            0
        ]
        for w in (1, 2, 3)
    ]
    reds = [float(mean[0]) for mean in means]
    assert 0.25 < reds[0] < reds[1] - 0.08 < reds[2] - 0.16 < 0.7
    assert torch.allclose(means[1][0], means[1][2], atol=0.05)


def test_same_seed_same_bytes(cat: Tensor, coffee: Tensor) -> None:
    quick = QUICK | {"steps": 4, "init": "noise"}
    first, again, other = (NeuralStyle()(cat, coffee, seed=seed, **quick).tensor for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("loss", ["gram", "gaussian_wasserstein", "sliced_wasserstein", "gram + 0.1 * spectrum"])
def test_any_texture_loss_is_a_style_loss(loss: str, cat: Tensor, coffee: Tensor) -> None:
    extractor = features.build("random-filters", maps=8, until="filters11")
    style = NeuralStyle(StyleConfig(loss=loss, features="random-filters"), extractor=extractor)
    result = style(cat, coffee, optimiser="adam", rate=0.02, momentum=0.9, palette=False, **QUICK)
    at_the_end = len(result.losses) // 2  # two halvings of time: losses of one level compare
    level = result.losses[-QUICK["steps"] :]
    assert level[-1] < 0.95 * level[0] and at_the_end > 0


def test_vgg_with_an_extractor_of_ones_own(cat: Tensor, coffee: Tensor) -> None:
    extractor = features.build("vgg19", until="relu4_2")
    config = StyleConfig(
        features="vgg19",
        loss="gaussian_wasserstein(layers=('relu1_1', 'relu2_1'))",
        content_loss="content",
        palette=False,
        optimiser="adam",
        rate=0.03,
    )
    style = NeuralStyle(config, extractor=extractor)
    result = style(cat, coffee, steps=4, coarsest=64)
    assert result.losses[-1] < result.losses[0]
    with pytest.raises(ImageError, match="at least"):
        style(cat[..., :9, :], coffee, steps=1, content_layers=("relu4_1",))


# Levels, deadlines, previews


def test_levels_grow_and_steps_are_counted(cat: Tensor, coffee: Tensor) -> None:
    *steps, result = NeuralStyle().stream(cat, coffee, steps=2, first_level=2.0, coarsest=16, per_octave=1)
    assert all(isinstance(step, Step) for step in steps)
    sizes = [size for size, _ in itertools.groupby(tuple(step.image.shape[-2:]) for step in steps)]
    assert sizes == [(12, 16), (24, 32), (48, 64)]
    assert [step.index for step in steps] == list(range(1, 9)) and {step.total for step in steps} == {8}
    assert [step.level for step in steps] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert result.losses == tuple(step.loss for step in steps)
    assert all(0 <= float(step.image.min()) and float(step.image.max()) <= 1 for step in steps)


def test_deadline_gives_what_there_is(cat: Tensor, coffee: Tensor, ticking: list[int]) -> None:
    result = NeuralStyle()(cat, coffee, deadline=9, steps=100_000)
    assert not result.complete and result.tensor.shape == cat.shape and 0 < len(result.losses) < 9
    assert "deadline of 9 s" in result.notes[-1]
    assert 9 <= result.seconds <= ticking[-1] < 9 + 3
    with pytest.raises(DeadlineExceeded, match="before the first step"):
        NeuralStyle()(cat, coffee, deadline=1e-9)


def test_closing_the_stream_stops(cat: Tensor, coffee: Tensor) -> None:
    stream = NeuralStyle().stream(cat, coffee, steps=100_000)
    assert next(stream).index == 1
    stream.close()
    assert list(stream) == []


def test_size(cat: Tensor, coffee: Tensor) -> None:
    assert NeuralStyle()(cat, coffee, steps=1, size=(40, 30)).tensor.shape == (1, 3, 40, 30)
    long = F.interpolate(cat, (9, 1100))
    result = NeuralStyle(device="cpu")(long, coffee, steps=1, coarsest=1024, loss=SW)
    assert result.tensor.shape == (1, 3, 8, 1024)
    assert result.notes[-1:] == ("Painted at 1024 x 8 px, where the content has 1100 x 9; pass size= for more.",)


def test_grey_and_transparent_inputs(coffee: Tensor) -> None:
    grey = Image.fromarray(data.camera()).resize((48, 40))
    clear = Image.new("RGBA", (40, 40), (200, 30, 30, 0))
    result = NeuralStyle()(grey, [coffee, clear], steps=2)
    assert result.tensor.shape == (1, 3, 40, 48)
    assert any(note.startswith("Style 2: ") and "ackground" in note for note in result.notes), result.notes


def test_style_scale_sets_the_size_of_the_pattern() -> None:
    rows = torch.arange(64).view(1, 1, 64, 1).expand(1, 3, 64, 64)
    stripes = 0.2 + 0.6 * (rows // 4 % 2).float()
    grey = plain(0.5, 0.5, 0.5, 64, 64)

    def changes(scale: float) -> float:
        image = NeuralStyle()(
            grey, stripes, style_scale=scale, content_weight=0.0, init="noise", loss=SW, steps=60
        ).tensor
        return float(luminance(image).diff(dim=2).abs().mean())

    assert changes(0.5) > 1.2 * changes(1.0)


# Masks


def test_masks_confine_styles(cat: Tensor) -> None:
    red, blue = plain(0.8, 0.2, 0.2), plain(0.2, 0.2, 0.8)
    left = left_half()
    image = NeuralStyle()(cat, [red, blue], masks=[left, 255 - left], content_weight=0.01, **QUICK).tensor
    assert torch.allclose(image[0, :, :, :30].mean(dim=(1, 2)), torch.tensor([0.8, 0.2, 0.2]), atol=0.08)
    assert torch.allclose(image[0, :, :, 34:].mean(dim=(1, 2)), torch.tensor([0.2, 0.2, 0.8]), atol=0.08)


@pytest.mark.parametrize("init", ["content", "noise"])
@pytest.mark.parametrize("colour", ["none", "luminance"])
def test_what_no_mask_covers_keeps_its_pixels(init: str, colour: str, cat: Tensor, coffee: Tensor) -> None:
    image = NeuralStyle()(cat, coffee, masks=[left_half()], init=init, colour=colour, **QUICK).tensor
    assert torch.allclose(image[..., 32:], cat[..., 32:], atol=1e-5)
    assert float((image[..., :32] - cat[..., :32]).abs().mean()) > 0.01


def test_no_mask_means_everywhere(cat: Tensor, coffee: Tensor, rocket: Tensor) -> None:
    white = np.full((48, 64), 255, np.uint8)
    quick = QUICK | {"steps": 3}
    free = NeuralStyle()(cat, [coffee, rocket], **quick).tensor
    for masks in ([white, white], [None, None], [None, white]):
        assert torch.equal(NeuralStyle()(cat, [coffee, rocket], masks=masks, **quick).tensor, free)


def test_soft_masks_mix() -> None:
    left = torch.linspace(1, 0, 5).view(1, 1, 1, 5)
    (first, second), coverage = model.shares([left, 1 - left], [1.0, 3.0])
    assert torch.allclose(first + second, coverage)
    assert torch.allclose(coverage, torch.maximum(left, 1 - left))
    assert torch.allclose(first[0, 0, 0, 2] * 3, second[0, 0, 0, 2])  # 0.5 and 0.5: by weight
    (alone,), coverage = model.shares([left], [1.0])
    assert torch.allclose(alone, left) and torch.allclose(coverage, left)


def test_region_statistics_are_those_of_the_region(cat: Tensor) -> None:
    region = torch.zeros(1, 1, 48, 64)
    region[..., :32] = 1
    inside, whole = Moments.of(cat[..., :32]), Moments.of(cat, region)
    assert torch.allclose(inside.mean, whole.mean, atol=1e-6)
    assert torch.allclose(inside.second, whole.second, atol=1e-6)


@pytest.mark.parametrize(
    "term",
    [
        Gram(),
        SlicedWasserstein(directions=8),
        PatchSlicedWasserstein(wrap=False, sizes=(5,)),
        PatchNearest(wrap=False, sizes=(5,)),
    ],
)
def test_a_region_pulls_only_there(term, cat: Tensor, coffee: Tensor) -> None:
    region = torch.zeros(1, 1, 48, 64)
    region[..., :24] = 1
    objective = MatchingObjective(
        [Target(loss=term, exemplar=coffee, region=region)],
        extractor=features.build("random-filters", maps=4, until="filters5"),
        layers=("filters3", "filters5"),
        size=(48, 64),
    )
    _, gradient = objective.value_and_grad(cat)
    assert float(gradient[..., :24].abs().mean()) > 0
    assert float(gradient[..., 32:].abs().max()) == 0


def test_weighted_transport_counts_copies_as_weights() -> None:
    from artmodels.descent.sliced import transported

    generator = torch.Generator().manual_seed(0)
    x, ascending = torch.rand(2, 4, generator=generator), torch.rand(2, 8, generator=generator).sort().values
    weighted = transported(x, ascending, torch.tensor([1.0, 2.0, 1.0, 4.0]))
    for row in range(2):
        order, position = x[row].argsort(), 0.0
        for index in order.tolist():
            weight = [1, 2, 1, 4][index]
            middle = position + weight / 2 - 0.5  # in ranks of the 8 targets
            low = int(middle)
            wanted = ascending[row, low] + (middle - low) * (ascending[row, min(low + 1, 7)] - ascending[row, low])
            assert float(weighted[row, index]) == pytest.approx(float(wanted), abs=1e-6)
            position += weight


def test_whole_image_terms_refuse_masks(cat: Tensor, coffee: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"spectrum measures the image as a whole.*leave out the masks"):
        NeuralStyle()(cat, coffee, masks=[left_half()], loss="spectrum")


# Colour


def test_luminance_mode_keeps_chroma_exactly(cat: Tensor, coffee: Tensor) -> None:
    *steps, result = NeuralStyle().stream(cat, coffee, colour="luminance", **QUICK)
    chroma = [x - luminance(x) for x in (result.tensor, cat)]
    assert torch.allclose(*chroma, atol=2e-5)  # 16-bit reading included
    assert 0 <= float(result.tensor.min()) + 1e-6 and float(result.tensor.max()) <= 1 + 1e-6
    assert float((luminance(result.tensor) - luminance(cat)).abs().mean()) > 0.01
    at_level = F.interpolate(cat, steps[0].image.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
    previewed = [x - luminance(x) for x in (steps[0].image, at_level)]
    assert torch.allclose(*previewed, atol=1e-4)


def test_linear_transfer_matches_moments(cat: Tensor, coffee: Tensor) -> None:
    matched = linearly_matched(coffee, cat)
    for found, wanted in zip(moments(matched), moments(cat), strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(linearly_matched(cat, cat), cat, atol=1e-5)
    grey = luminance(coffee).expand(1, 3, -1, -1)
    assert torch.isfinite(linearly_matched(grey, cat)).all()
    assert torch.allclose(moments(linearly_matched(torch.full((1, 3, 9, 9), 0.5), cat))[0], moments(cat)[0])


def test_histogram_match_is_scikit_images(cat: Tensor) -> None:
    from skimage.exposure import match_histograms

    other = photograph(data.coffee(), 48, 64)
    found = model.histogram_matched(other, cat)
    assert torch.equal(found[0].flatten(1).sort().values, cat[0].flatten(1).sort().values)
    wanted = match_histograms(other[0].numpy(), cat[0].numpy(), channel_axis=0)
    assert np.allclose(found[0].numpy(), wanted, atol=0.01)


@pytest.mark.parametrize("colour", ["transfer", "histogram"])
def test_recoloured_styles_bring_the_contents_colours(colour: str, cat: Tensor) -> None:
    blue = torch.stack(
        [channel * scale for channel, scale in zip(photograph(data.coffee())[0], (0.2, 0.3, 1.0), strict=True)]
    )[None]
    own = NeuralStyle()(cat, blue, **QUICK).tensor.mean(dim=(2, 3))
    kept = NeuralStyle()(cat, blue, colour=colour, **QUICK).tensor.mean(dim=(2, 3))
    assert float((kept - cat.mean(dim=(2, 3))).abs().max()) < 0.04
    assert float((own - cat.mean(dim=(2, 3))).abs().max()) > 0.1


# The formulae


def test_gatys_style_loss_is_the_corrected_formula(cat: Tensor, coffee: Tensor) -> None:
    extractor = features.build("vgg19", until="relu2_1")
    layers = ("relu1_1", "relu2_1")
    coffee = F.interpolate(coffee, cat.shape[-2:])  # the same M_l for both
    gram = Gram(layers=layers, normalisation="gatys")
    objective = MatchingObjective(
        [Target(loss=gram, exemplar=coffee)], extractor=extractor, layers=(), size=tuple(cat.shape[-2:])
    )
    literal = 0.0
    for layer in layers:
        f, a = (extractor(x, [layer])[layer][0].double() for x in (cat, coffee))
        n, m = f.shape[0], f.shape[1] * f.shape[2]
        f, a = f.reshape(n, m), a.reshape(n, m)
        literal += 0.5 / (4 * n**2 * m**2) * float(((f @ f.T - a @ a.T) ** 2).sum())
    assert objective.value_and_grad(cat)[0] == pytest.approx(literal, rel=1e-4)


def test_gatys_content_loss_and_its_gradient(cat: Tensor, coffee: Tensor) -> None:
    extractor = features.build("vgg19", until="relu1_2")
    content = photograph(data.coffee())
    literal = 0.5 * float(
        (extractor(cat, ["relu1_2"])["relu1_2"] - extractor(content, ["relu1_2"])["relu1_2"]).square().sum()
    )
    values = {}
    for normalisation in ("gatys", "relative"):
        term = model.Content(layers=("relu1_2",), normalisation=normalisation)
        objective = MatchingObjective(
            [Target(loss=term, exemplar=content)], extractor=extractor, layers=(), size=(48, 64)
        )
        value, gradient = objective.value_and_grad(cat)
        values[normalisation] = value
        step = gradient / gradient.abs().max() * 0.01
        ahead, behind = (objective.value_and_grad(cat + sign * step)[0] for sign in (1, -1))
        assert (ahead - behind) / 2 == pytest.approx(float((gradient * step).sum()), rel=0.02)
    assert values["gatys"] == pytest.approx(literal, rel=1e-4)
    assert values["relative"] != pytest.approx(values["gatys"], rel=0.1)


def test_pixels_are_relative_and_coarse(cat: Tensor) -> None:
    context = Context(size=(48, 64), layers=(), circular=False)
    bound = model.Pixels().bind(cat, {}, {}, context)
    assert float(bound(cat, {}, {})) == 0
    flat = cat.mean(dim=(2, 3), keepdim=True).expand_as(cat)
    assert float(bound(flat, {}, {})) == pytest.approx(1, rel=1e-5)
    checkers = 0.05 * (torch.arange(48)[:, None] + torch.arange(64)).remainder(2).mul(2).sub(1)
    values = []
    for octave in (0, 2):
        loss = parse(f"pixels(octave={octave})", model.CONTENT_TERMS)
        objective = MatchingObjective([Target(loss=loss, exemplar=cat)], extractor=None, layers=(), size=(48, 64))
        values.append(objective.value_and_grad(cat + checkers)[0])
    assert values[1] < 0.01 * values[0]


def test_nearest_patches(coffee: Tensor) -> None:
    context = Context(size=(30, 30), layers=(), circular=False)
    bound = PatchNearest(wrap=False, sizes=(5,), components=75, variety=0.0).bind(coffee, {}, {}, context)
    bound.refresh(torch.Generator().manual_seed(0), 0)
    crop = coffee[..., 10:40, 10:40].clone()
    inside = torch.nn.functional.unfold(crop, 5)[0].T
    assert float((bound._nearest(inside) - inside).abs().max()) == 0  # each of these patches is in the exemplar
    moved = inside + 1e-3
    literal = torch.cdist(moved.double(), F.unfold(coffee, 5)[0].T.double()).min(dim=1).values
    assert torch.allclose((bound._nearest(moved) - moved).square().sum(dim=1).sqrt().double(), literal, atol=1e-5)


def test_variety_spreads_the_choice_of_patches(cat: Tensor, coffee: Tensor) -> None:
    context = Context(size=(48, 64), layers=(), circular=False)
    wanted = F.unfold(cat, 6, stride=3)[0].T
    used = []
    for variety in (0.0, 3.0):
        bound = PatchNearest(wrap=False, sizes=(6,), variety=variety).bind(coffee, {}, {}, context)
        bound.refresh(torch.Generator().manual_seed(0), 0)
        used.append(len(bound._nearest(wanted).unique(dim=0)))
    assert used[1] > 1.3 * used[0]


# Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"masks": [np.zeros((48, 64), np.uint8)]}, ImageError, "mask 1 is black all over: paint white"),
        (
            {"masks": [left_half(48, 60)]},
            ImageError,
            "mask 1 is 60 x 48 px and the content is 64 x 48: paint",
        ),
        ({"masks": [left_half()] * 2}, ConfigError, "2 masks for 1 styles"),
        ({"style_weights": [1, 2]}, ConfigError, "2 style weights for 1 styles"),
        ({"style_weights": [0]}, ConfigError, "must all be above 0"),
        ({"size": (4, 64)}, ConfigError, r"size=\(4, 64\) must be .*8 to 4096"),
        ({"content_wieght": 1.0}, ConfigError, "Did you mean 'content_weight'"),
        ({"colour": "sepia"}, ConfigError, "colour must be|colour='sepia'"),
        ({"loss": "grem"}, ConfigError, "no loss is called 'grem'. Did you mean 'gram'"),
        ({"loss": "gram"}, ConfigError, "gram needs features"),
        ({"content_loss": "content"}, ConfigError, "content needs features"),
        ({"style_weight": -1.0}, ConfigError, "style_weight=-1.0 must be at least 0"),
        ({"style_weight": 0.0, "content_weight": 0.0}, ConfigError, "nothing is left to paint"),
        ({"style_scale": 0.0}, ConfigError, "style_scale=0.0 must be above 0"),
        ({"steps": 0}, ConfigError, "steps=0 must be at least 1"),
        ({"coarsest": 4}, ConfigError, "coarsest=4 must be at least 8"),
        ({"features": "vgg19"}, ConfigError, r"features is fixed.*from_pretrained\(..., features='vgg19'\)"),
        ({"seed": -1, "init": "noise"}, ConfigError, "seed=-1"),
    ],
)
def test_errors(options, error, message: str, cat: Tensor, coffee: Tensor) -> None:
    with pytest.raises(error, match=message):
        NeuralStyle()(cat, coffee, **{"steps": 1} | options)


def test_too_small_and_too_few(cat: Tensor, coffee: Tensor) -> None:
    with pytest.raises(ImageError, match="the content is 1 x 1 px, too small: use one of at least 8 px"):
        NeuralStyle()(torch.zeros(1, 3, 1, 1), coffee)
    with pytest.raises(ImageError, match="the style is 1 x 1 px, too small"):
        NeuralStyle()(cat, torch.zeros(1, 3, 1, 1))
    with pytest.raises(ConfigError, match="no style was given"):
        NeuralStyle()(cat, [])


def test_flat_images_do_not_break(coffee: Tensor) -> None:
    flat = torch.full((1, 3, 32, 32), 0.5)
    for content, style in ((flat, coffee), (coffee, flat), (flat, flat)):
        result = NeuralStyle()(content, style, steps=4)
        assert torch.isfinite(result.tensor).all()


def test_every_knob_has_help() -> None:
    assert helps(StyleConfig).keys() == {setting.name for setting in dataclasses.fields(StyleConfig)}
