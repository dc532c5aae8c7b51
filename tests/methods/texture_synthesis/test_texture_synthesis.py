import dataclasses
import inspect
import itertools
import json

import numpy as np
import pytest
import torch
from torch import Tensor

import artmodels
from artmodels import features, images
from artmodels.descent.optimise import Step, coloured_noise
from artmodels.errors import ConfigError, DeadlineExceeded, ImageError
from artmodels.images import examples
from artmodels.images.resampling import resized
from artmodels.images.results import ImageResult
from artmodels.methods.texture_synthesis import TextureConfig, TextureSynthesizer, metrics
from artmodels.methods.texture_synthesis.metrics import displacement_score, nearest_patches
from tests.verbs import picture

GRAM = {"loss": "gram", "optimiser": "lbfgs", "rate": 0.1, "rate_end": 1.0, "per_octave": 1}


@pytest.fixture(scope="module")
def patches() -> TextureSynthesizer:
    return TextureSynthesizer.from_pretrained("texture-patches", device="cpu")


@pytest.fixture(scope="module")
def filters() -> TextureSynthesizer:
    """Gram matrices of few random filters: all that the larger networks do, in little time."""
    extractor = features.build("random-filters", maps=6)
    return TextureSynthesizer(
        TextureConfig(layers=("filters3", "filters5", "filters11"), **GRAM), extractor=extractor, device="cpu"
    )


@pytest.fixture(scope="module")
def vgg() -> TextureSynthesizer:
    extractor = features.build("vgg19", until="pool1")
    return TextureSynthesizer(TextureConfig(layers=("relu1_1", "pool1"), **GRAM), extractor=extractor, device="cpu")


def photograph(name: str) -> Tensor:
    """A corner of a photograph of 256 pixels, [1, 3, 64, 64]."""
    pixels = np.asarray(examples.example(name, 256), np.float32)[:64, :64] / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


RAMP = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)


def jump(image: Tensor, dim: int) -> tuple[float, float]:
    """Mean step across the wrapped border along `dim`, and the 99th percentile of that across each line inside."""
    wrapped = (image.select(dim, 0) - image.select(dim, -1)).abs().mean()
    inside = image.diff(dim=dim).abs().mean(dim=[d for d in (1, 2, 3) if d != dim]).flatten()
    return float(wrapped), float(inside.quantile(0.99))


def tiles(image: Tensor) -> bool:
    return all(wrapped <= inside for wrapped, inside in (jump(image, 2), jump(image, 3)))


# What it makes


@pytest.mark.parametrize("name", ["brick", "gravel", "grass"])
def test_patches_bring_the_result_close_to_the_exemplar(patches: TextureSynthesizer, name: str) -> None:
    exemplar = photograph(name)
    noise = coloured_noise(exemplar, (64, 64), 1).clamp(0, 1)
    before = metrics.sliced_wasserstein_distance(noise, exemplar)
    # Nearest patches copy pieces, at this small size large ones; sliced distances copy nothing as it stands.
    for loss, innovation in ((patches.config.loss, 0.08), ("patch_sliced_wasserstein", 0.3)):
        result = patches(exemplar, size=(64, 64), steps=40, per_octave=1, seed=1, loss=loss, momentum=0.6).tensor
        assert metrics.sliced_wasserstein_distance(result, exemplar) < 0.55 * before
        assert displacement_score(nearest_patches(result, exemplar)) > innovation, "not a plain copy"


@pytest.mark.parametrize(("model", "share"), [("filters", 0.85), ("vgg", 0.5)])
def test_features_lower_their_loss_and_the_distance(model: str, share: float, request: pytest.FixtureRequest) -> None:
    exemplar = photograph("gravel")
    result = request.getfixturevalue(model)(exemplar, size=(64, 64), steps=20)
    assert result.losses[-1] < 0.2 * result.losses[0]
    noise = coloured_noise(exemplar, (64, 64), 0).clamp(0, 1)
    before, after = (metrics.sliced_wasserstein_distance(x, exemplar) for x in (noise, result.tensor))
    assert after < share * before


@pytest.mark.parametrize("optimiser", ["adam", "momentum", "lbfgs"])
@pytest.mark.parametrize("loss", ["gram + 0.1 * spectrum", "patch_sliced_wasserstein + 0.1 * total_variation"])
def test_losses_and_optimisers_combine(filters: TextureSynthesizer, loss: str, optimiser: str) -> None:
    rate = {"adam": 0.05, "momentum": 0.3, "lbfgs": 0.1}[optimiser]
    settings = {"loss": loss, "optimiser": optimiser, "rate": rate, "refresh_every": 6, "average": 0.5}
    result = filters(picture(40, 48), size=(37, 50), steps=6, **settings)
    assert result.tensor.shape == (1, 3, 37, 50)
    assert result.losses[-1] < result.losses[0]


@pytest.mark.parametrize(("exemplar", "size"), [((24, 80), (90, 40)), ((8, 8), (40, 72)), ((64, 64), (8, 100))])
def test_the_result_may_be_larger_and_of_other_proportions(
    patches: TextureSynthesizer, exemplar: tuple[int, int], size: tuple[int, int]
) -> None:
    source = picture(*exemplar)
    result = patches(source, size=size, steps=6)
    assert result.tensor.shape == (1, 3, *size)
    assert torch.allclose(result.tensor.mean(dim=(2, 3)), source.mean(dim=(2, 3)), atol=0.08)
    assert (result.tensor.amin(dim=(2, 3)) >= source.amin(dim=(2, 3))).all()
    assert (result.tensor.amax(dim=(2, 3)) <= source.amax(dim=(2, 3))).all()


def test_the_default_size_keeps_the_proportions(patches: TextureSynthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert patches._size(picture(30, 60), None) == (256, 512)
    assert patches._size(picture(8, 4000), None) == (8, 512)


# Borders


def test_patches_always_tile_and_a_ramp_does_not(patches: TextureSynthesizer) -> None:
    assert not tiles(RAMP), "the check sees a seam"
    assert tiles(patches(RAMP, size=(64, 64), steps=15).tensor)


def test_features_tile_when_asked_and_only_then(filters: TextureSynthesizer) -> None:
    seamless = filters(RAMP, size=(64, 64), steps=12, tileable=True)
    assert tiles(seamless.tensor)
    assert seamless.settings["tileable"] is True
    assert not tiles(filters(RAMP, size=(64, 64), steps=12).tensor)


def test_a_size_that_cannot_tile_is_refused_with_one_that_can(vgg: TextureSynthesizer) -> None:
    with pytest.raises(ConfigError, match=r"multiples of 2 px: ask for size=\(40, 52\)"):
        vgg(picture(32, 32), size=(41, 51), tileable=True, steps=1)
    result = vgg(picture(32, 32), size=(41, 51), tileable=True, steps=1, loss="gram(layers=('relu1_1',))")
    assert result.tensor.shape == (1, 3, 41, 51)


# Degenerate inputs


@pytest.mark.parametrize("model", ["patches", "filters"])
@pytest.mark.parametrize("colour", [(0.0, 0.0, 0.0), (0.2, 0.6, 1.0)])
def test_a_constant_exemplar_gives_a_constant(
    model: str, colour: tuple[float, ...], request: pytest.FixtureRequest
) -> None:
    exemplar = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 40, 40)
    result = request.getfixturevalue(model)(exemplar, size=(33, 50), steps=3)
    assert (result.tensor - exemplar[..., :1, :1]).abs().max() < 1 / 255
    assert np.isfinite(result.losses).all()


@pytest.mark.parametrize("model", ["patches", "filters"])
def test_a_grey_exemplar_gives_a_grey_result(model: str, request: pytest.FixtureRequest) -> None:
    grey = photograph("brick")
    assert torch.equal(grey[:, 0], grey[:, 1])
    result = request.getfixturevalue(model)(grey, size=(48, 40), steps=10).tensor
    assert (result - result.mean(dim=1, keepdim=True)).abs().max() <= 1 / 255


def test_one_channel_may_be_constant(patches: TextureSynthesizer) -> None:
    exemplar = picture(32, 32)
    exemplar[:, 1] = 0.25
    result = patches(exemplar, size=(32, 32), steps=5).tensor
    assert (result[:, 1] - 0.25).abs().max() < 1 / 255
    assert result[:, 0].std() > 0.05


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 64), (7, 64)])
def test_tiny_exemplars_are_refused(patches: TextureSynthesizer, height: int, width: int) -> None:
    with pytest.raises(ImageError, match=f"the exemplar is {width} x {height} px.*at least 8 px on each side"):
        patches(picture(height, width), size=(32, 32))


def test_an_exemplar_of_eight_pixels_is_enough_for_patches_only(
    patches: TextureSynthesizer, filters: TextureSynthesizer
) -> None:
    assert patches(picture(8, 8), size=(16, 24), steps=2).tensor.shape == (1, 3, 16, 24)
    with pytest.raises(ImageError, match="8 x 8 pixels.*needs at least"):
        filters(picture(8, 8), size=(16, 24), steps=2, loss="gram(layers=('filters55',))")


# Settings


@pytest.mark.parametrize(
    "size", [(7, 64), (64, 4097), (64,), (64, 64, 64), 64, (64.0, 64), "64x64", (True, 64), (-64, 64)]
)
def test_wrong_sizes_are_refused(patches: TextureSynthesizer, size: object) -> None:
    with pytest.raises(ConfigError, match=r"must be \(height, width\) of 8 to 4096 px each"):
        patches(picture(16, 16), size=size)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"stpes": 3}, "no setting 'stpes'. Did you mean 'steps'"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": "10"}, "steps must be int"),
        ({"loss": "gramm"}, "no loss is called 'gramm'. Did you mean 'gram'"),
        ({"loss": "gram"}, "gram needs features, and raw patches have none"),
        ({"optimiser": "lbgfs"}, "optimiser"),
        ({"rate": -1.0}, "rate=-1.0"),
        ({"halvings": -1}, "halvings=-1 must be at least 0"),
        ({"halvings": 3}, "halvings=3 would begin with less than 8 px.*shortest side.* is 32 px: use at most 2"),
        ({"halvings": 10**6}, "use at most 2"),
        ({"per_octave": 0}, "per_octave=0"),
        ({"tile": 0}, "tile=0 must be at least 8"),
        ({"features": "vgg19"}, "features is fixed.*from_pretrained.*features='vgg19'"),
        ({"pooling": "max"}, "pooling is fixed"),
        ({"deadline": 0}, "deadline=0 must be a number of seconds above 0"),
    ],
)
def test_wrong_settings_are_refused(patches: TextureSynthesizer, setting: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        patches(picture(32, 40), size=(32, 40), **setting)


def test_overrides_hold_for_one_call(patches: TextureSynthesizer) -> None:
    before = patches.config
    result = patches(picture(16, 16), size=(16, 16), steps=2, finish=None, features="patches")
    assert patches.config == before
    assert result.settings["steps"] == 2 and len(result.losses) == 2
    assert TextureSynthesizer.from_pretrained("texture-patches", steps=7).config.steps == 7


def test_settings_are_json_and_make_the_same_again(filters: TextureSynthesizer) -> None:
    first = filters(picture(40, 40), size=(36, 44), steps=3, seed=2**40, average=0.5)
    settings = json.loads(json.dumps(first.settings))
    assert settings.pop("method") == "texture_synthesis"
    assert settings.pop("artmodels_version") == artmodels.__version__
    assert {"seed", "size", *(field.name for field in dataclasses.fields(TextureConfig))} == settings.keys()
    assert torch.equal(filters(picture(40, 40), **settings).tensor, first.tensor)


def test_what_was_done_to_the_exemplar_is_told(patches: TextureSynthesizer) -> None:
    plain = images.to_pil(picture(24, 24))
    half = plain.copy()
    half.putalpha(128)
    assert patches(plain, size=(16, 16), steps=1).notes == ()
    (note,) = patches(half, size=(16, 16), steps=1).notes
    assert "ransparen" in note or "lpha" in note


# The stream


def test_steps_go_from_coarse_to_fine(patches: TextureSynthesizer) -> None:
    *steps, result = patches.stream(picture(64, 80), size=(70, 64), steps=2, halvings=2, per_octave=1, finish=None)
    assert [tuple(step.image.shape[-2:]) for step in steps] == [(17, 16)] * 2 + [(35, 32)] * 2 + [(70, 64)] * 2
    assert [(step.level, step.levels, step.index, step.total) for step in steps] == [
        (number // 2, 3, number + 1, 6) for number in range(6)
    ]
    assert [step.seconds for step in steps] == sorted(step.seconds for step in steps)
    assert isinstance(result, ImageResult) and torch.equal(result.tensor, steps[-1].image)


def test_the_finish_adds_steps_at_full_size_with_its_own_loss(patches: TextureSynthesizer) -> None:
    *steps, _ = patches.stream(picture(64, 64), size=(64, 64), steps=2, halvings=1, per_octave=1, finish_steps=5)
    assert [step.image.shape[-1] for step in steps] == [32] * 2 + [64] * 7
    plain = patches(picture(64, 64), size=(64, 64), steps=2, halvings=1, per_octave=1, finish=None)
    assert len(plain.losses) == 4
    with pytest.raises(ConfigError, match="finish_steps=0 must be at least 1"):
        patches(picture(64, 64), size=(64, 64), finish_steps=0)


def test_the_finish_has_a_rate_of_its_own(patches: TextureSynthesizer) -> None:
    options = {"size": (32, 32), "steps": 2, "halvings": 0, "finish_steps": 4}
    runs = [
        [
            step.image.clone()
            for step in patches.stream(picture(32, 32), finish_rate_end=end, **options)
            if isinstance(step, Step)
        ]
        for end in (0.1, 1.0)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*(run[:3] for run in runs), strict=True)), "up to the first of them"
    moved = [float((run[-1] - run[-2]).abs().mean()) for run in runs]
    assert moved[0] < 0.5 * moved[1]


def test_calling_takes_what_the_stream_takes_and_a_bar(
    patches: TextureSynthesizer, capsys: pytest.CaptureFixture
) -> None:
    names = list(inspect.signature(patches.stream).parameters)
    assert list(inspect.signature(patches).parameters) == [*names[:-1], "progress", "overrides"]
    options = {"size": (32, 32), "steps": 1, "halvings": 0, "finish": None}
    quiet = patches(picture(32, 32), **options)
    assert capsys.readouterr().err == ""
    told = patches(picture(32, 32), progress=True, **options)
    assert "1/1" in capsys.readouterr().err
    assert torch.equal(told.tensor, quiet.tensor) and "progress" not in told.settings


def test_closing_the_stream_stops_within_a_step(patches: TextureSynthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    from artmodels.descent.objective import TextureObjective

    calls = []
    original = TextureObjective.value_and_grad
    monkeypatch.setattr(TextureObjective, "value_and_grad", lambda self, x: (calls.append(1), original(self, x))[1])
    stream = patches.stream(picture(32, 32), size=(32, 32), steps=1000)
    taken = list(itertools.islice(stream, 3))
    stream.close()
    assert all(isinstance(step, Step) for step in taken)
    assert len(calls) == 3
    with pytest.raises(StopIteration):
        next(stream)


def test_a_deadline_gives_the_best_so_far_at_full_size(patches: TextureSynthesizer, ticking: list[int]) -> None:
    result = patches(images.to_pil(picture(64, 64)), size=(128, 96), steps=100_000, deadline=9)
    assert not result.complete
    assert result.tensor.shape == (1, 3, 128, 96)
    assert 0 < len(result.losses) < 9
    (note,) = result.notes
    assert note.startswith(f"Stopped by the deadline of 9 s after {len(result.losses)} of ")
    assert 9 <= result.seconds <= ticking[-1] < 9 + 3  # no step begins after it


def test_a_deadline_that_is_met_changes_nothing(patches: TextureSynthesizer) -> None:
    result = patches(picture(16, 16), size=(16, 16), steps=2, deadline=600)
    assert result.complete and not any("deadline" in note for note in result.notes)
    assert torch.equal(result.tensor, patches(picture(16, 16), size=(16, 16), steps=2).tensor)


def test_a_deadline_before_the_first_step_is_an_error(patches: TextureSynthesizer) -> None:
    with pytest.raises(DeadlineExceeded, match="passed before the first step; allow more time"):
        patches(picture(64, 64), size=(64, 64), deadline=1e-9)


def test_progress_is_shown_on_stderr_only_if_asked(patches: TextureSynthesizer, capsys: pytest.CaptureFixture) -> None:
    patches(picture(16, 16), size=(16, 16), steps=2)
    assert capsys.readouterr() == ("", "")
    patches(picture(16, 16), size=(16, 16), steps=2, finish=None, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "2/2" in shown.err and "16x16" in shown.err


# Resampling


def test_resampling_keeps_the_mean_and_rolls_with_a_torus() -> None:
    image = picture(24, 36)
    assert resized(image, (24, 36)) is image
    for size in [(48, 72), (12, 18), (17, 50)]:
        wrapped = resized(image, size, circular=True)
        assert wrapped.shape == (1, 3, *size)
        assert torch.allclose(wrapped.mean(dim=(2, 3)), image.mean(dim=(2, 3)), atol=5e-3)
    rolled = resized(image.roll((4, 6), (2, 3)), (12, 18), circular=True)
    assert torch.allclose(rolled, resized(image, (12, 18), circular=True).roll((2, 3), (2, 3)), atol=1e-5)
    assert not torch.allclose(resized(image, (12, 18)), resized(image, (12, 18), circular=True), atol=1e-3)


def test_the_first_noise_has_the_exemplars_colours() -> None:
    exemplar = picture(50, 40)
    exemplar[:, 2] = 0.5 * exemplar[:, 0] + 0.1
    noise = coloured_noise(exemplar, (200, 150), 0)
    found, wanted = (torch.cov(x[0].flatten(1)) for x in (noise, exemplar))
    assert torch.allclose(noise.mean(dim=(2, 3)), exemplar.mean(dim=(2, 3)), atol=5e-3)
    assert torch.allclose(found, wanted, atol=0.03 * float(wanted.max()))
    assert torch.allclose(noise[:, 2], 0.5 * noise[:, 0] + 0.1, atol=1e-4)


def test_large_exemplars_are_reduced_and_the_result_says_so() -> None:
    exemplar = torch.rand(1, 3, 40, 80)
    synthesizer = TextureSynthesizer(TextureConfig(steps=1, exemplar_side=40))
    result = synthesizer(exemplar, size=(16, 16))
    assert any("reduced from 80 x 40 to 40 x 20 px" in note for note in result.notes)
    kept = synthesizer(exemplar, size=(16, 16), exemplar_side=None)
    assert not any("reduced" in note for note in kept.notes)
