"""Feature visualisation: parts by hand and by finite differences; a planted filter is found again."""

import json
import math
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import artmodels
from artmodels import images
from artmodels.descent.algebra import Sum
from artmodels.descent.terms import Gram
from artmodels.errors import ConfigError, DeadlineExceeded, ImageError
from artmodels.features import build
from artmodels.features.networks import NONE
from artmodels.methods.interpret import FeatureVisualizer, HookedNetwork, VisualizerConfig
from artmodels.methods.interpret.visualisation import spectrum, transforms
from artmodels.methods.interpret.visualisation.objectives import (
    Channel,
    Direction,
    Diversity,
    Layer,
    Neuron,
    as_objective,
    weighted_objectives,
)
from artmodels.methods.interpret.visualisation.parametrisation import (
    COLOURS,
    Fourier,
    Phase,
    frequencies,
    natural_magnitude,
)
from artmodels.methods.interpret.visualisation.redirection import RedirectedReLU


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- objectives


def test_objectives_by_hand() -> None:
    maps = torch.arange(24.0).view(2, 3, 2, 2)
    assert float(Channel(tap="t", channel=1).value(maps)) == 5.5 + 17.5
    assert float(Neuron(tap="t", channel=2).value(maps)) == 11 + 23
    assert float(Neuron(tap="t", channel=2, y=0.0, x=1.0).value(maps)) == 9 + 21
    assert float(Direction(tap="t", vector=(1.0, 0.0, -2.0)).value(maps)) == (1.5 - 19) + (13.5 - 43)
    assert float(Layer(tap="t").value(maps)) == pytest.approx(sum(i * i for i in range(24)) / 12)
    same = torch.ones(3, 2, 4, 4)
    assert float(Diversity(tap="t").value(same)) == pytest.approx(-2)
    apart = torch.zeros(2, 2, 4, 4)
    apart[0, 0], apart[1, 1] = 1, 5
    assert float(Diversity(tap="t").value(apart)) == 0
    assert float(Channel(tap="t", channel=0).bind(maps, {}, {}, None)(maps, {"t": maps}, {})) == -(1.5 + 13.5)


def test_objectives_add_up_and_are_read_again() -> None:
    mixed = Channel(tap="layer3", channel=5) + 0.5 * (Layer(tap="layer2") + -2.0 * Diversity(tap="layer3"))
    assert isinstance(mixed, Sum)
    assert [(weight, term.name) for weight, term in weighted_objectives(mixed)] == [
        (1.0, "channel"),
        (0.5, "layer"),
        (-1.0, "diversity"),
    ]
    assert as_objective(str(mixed)) == mixed
    assert as_objective(" mixed4b_3x3_bottleneck_pre_relu:35 ") == Channel(
        tap="mixed4b_3x3_bottleneck_pre_relu", channel=35
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("chanel(tap='a', channel=1)", "Did you mean 'channel'"),
        ("channel(tap='a')", "needs a value for 'channel'"),
        ("2.0", "is a number"),
        ("pyramid(layer(tap='a'))", "no octaves"),
        ("layer3:x", "cannot be read"),
    ],
)
def test_wrong_objectives_are_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        as_objective(text)


def test_parts_that_are_not_there_are_refused() -> None:
    maps = torch.ones(1, 3, 2, 2)
    for wrong, says in (
        (Channel(tap="t", channel=3), "channel=3 is not one of the 3 of 't'"),
        (Neuron(tap="t", channel=-1), "channel=-1"),
        (Direction(tap="t", vector=(1.0,)), "vector has 1 numbers for the 3 channels"),
        (Diversity(tap="t"), "count=2"),
    ):
        with pytest.raises(ConfigError, match=says):
            wrong.value(maps)
    with pytest.raises(ConfigError, match="is no sum of channel"):
        as_objective(Channel(tap="t", channel=0) + Gram())


# --- parametrisations


def test_colours_are_those_of_lucid() -> None:
    longest = math.sqrt(0.26**2 + 0.27**2 + 0.27**2)
    assert COLOURS[1].tolist() == pytest.approx([0.27 / longest, 0, -0.05 / longest])
    assert float(COLOURS.norm(dim=0).max()) == pytest.approx(1)


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
def test_a_coefficient_is_a_wave_of_its_frequency(size: tuple[int, int]) -> None:
    pictures = Fourier(1, size)
    parameter = torch.zeros_like(pictures.start(rng()))
    parameter[0, 0, 1, 2, 0] = 0.3
    height, width = size
    y, x = torch.arange(height)[:, None], torch.arange(width)
    wave = torch.cos(2 * math.pi * (y / height + 2 * x / width))
    frequency = math.hypot(1 / height, 2 / width)
    expected = 0.3 / frequency * 2 * wave / math.sqrt(height * width) / 4
    found = torch.logit(pictures.image(parameter))[0]
    assert torch.allclose(found, COLOURS[:, 0, None, None] * expected, atol=1e-5)
    assert torch.allclose(pictures.image(torch.zeros_like(parameter)), torch.tensor(0.5))
    # The lowest frequencies are scaled like the first one of the longer side.
    assert float(pictures.scale.max()) == max(size)


def test_the_start_is_drawn_with_the_deviation_of_the_paper() -> None:
    assert float(Fourier(2, (64, 64)).start(rng()).std()) == pytest.approx(0.01, rel=0.02)
    assert float(Phase(2, (64, 64)).start(rng()).std()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("kind", [Fourier, Phase])
def test_gradients_are_those_of_finite_differences(kind: type[Fourier] | type[Phase]) -> None:
    pictures = kind(2, (8, 10))
    for name in ("scale", "magnitude"):
        if hasattr(pictures, name):
            setattr(pictures, name, getattr(pictures, name).double())
    parameter = 3 * pictures.start(rng(1)).double()
    weights = torch.randn(2, 3, 8, 10, generator=rng(2), dtype=torch.float64)

    def value(at: Tensor) -> Tensor:
        return (pictures.image(at) * weights).sum()

    leaf = parameter.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(value(leaf), leaf)
    assert float(gradient.abs().max()) > 1e-3
    for seed in range(5):
        direction = torch.randn(parameter.shape, generator=rng(seed), dtype=torch.float64)
        step = 1e-5 * direction
        difference = (value(parameter + step) - value(parameter - step)) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=1e-6, abs=1e-8)


def test_phases_change_nothing_else() -> None:
    pictures = Phase(1, (32, 48))
    spectra = []
    for seed in (0, 1):
        image = pictures.image(pictures.start(rng(seed)))
        plain = torch.einsum("ij,njhw->nihw", torch.linalg.inv(COLOURS), torch.logit(image))
        assert float(plain.mean()) == pytest.approx(0, abs=1e-3) and float(plain.std()) == pytest.approx(1, rel=1e-2)
        spectra.append(torch.fft.rfft2(plain)[..., 1:-1].abs())  # the first and last column are not free
    ratio = spectra[0] / spectra[1]
    assert float(ratio.std() / ratio.mean()) < 1e-3
    wanted = natural_magnitude(32, 48)[..., 1:-1]
    ratio = spectra[0][0] / wanted
    assert float(ratio.std() / ratio.mean()) < 1e-3


def test_the_magnitude_is_that_of_natural_pictures() -> None:
    magnitude = natural_magnitude(128, 128)
    assert magnitude.shape == (3, 128, 65) and magnitude.isfinite().all() and (magnitude > 0).all()
    ring = frequencies(128, 128)
    rings = [(ring > f * 0.9) & (ring < f * 1.1) for f in (1 / 32, 1 / 16, 1 / 8, 1 / 4)]
    means = torch.stack([magnitude[:, place].mean(1) for place in rings])
    slopes = torch.log2(means[:-1] / means[1:])  # [3, 3]: an octave, a channel
    assert ((slopes[:, 0] > 1.0) & (slopes[:, 0] < 1.6)).all()  # amplitudes fall off about as 1 / f
    assert (slopes[2, 1:] > slopes[2, 0]).all()  # colour, of which JPEG and the eye keep less, faster where it is fine
    assert magnitude.mean((1, 2)).max() < 2 * magnitude.mean((1, 2)).min()  # decorrelated, they vary about alike
    assert torch.equal(magnitude[:, 1:], magnitude[:, 1:].flip(1))


def test_a_measured_spectrum_comes_back() -> None:
    flat = 1 + 0.5 * torch.rand(3, 1, 1, generator=rng())
    side = 64
    ring = frequencies(side, side)
    magnitude = flat / ring.clamp_min(1 / side)
    nodes = spectrum.on_nodes(magnitude)
    assert nodes.shape == (3, 17, 17)
    assert torch.allclose(nodes, flat.expand_as(nodes), rtol=1e-4)


# --- transforms


def test_padding_and_jitter() -> None:
    x = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    padded = transforms.padded_grey(x, 2)
    assert padded.shape == (2, 3, 8, 9) and torch.equal(padded[..., 2:-2, 2:-2], x)
    assert padded[..., :2, :].eq(0.5).all() and padded[..., -2:].eq(0.5).all()
    seen = set()
    for seed in range(40):
        moved = transforms.jittered(x, 2, rng(seed))
        assert moved.shape == (2, 3, 2, 3)
        top, left = divmod(int(moved[0, 0, 0, 0]), 5)
        assert torch.equal(moved, x[..., top : top + 2, left : left + 3])
        seen.add((top, left))
    assert seen == {(a, b) for a in range(3) for b in range(3)}


def test_scale_and_rotation() -> None:
    x = torch.rand(1, 3, 10, 10, generator=rng())
    assert transforms.scaled_by(x, 1.1).shape == (1, 3, 11, 11)
    assert transforms.scaled_by(x, 0.98).shape == (1, 3, 9, 9)
    assert torch.allclose(transforms.scaled_by(x, 0.5), F.avg_pool2d(x, 2))
    assert transforms.rotated(x, 0) is x
    assert torch.allclose(transforms.rotated(x, 90), torch.rot90(x, 1, (2, 3)), atol=1e-5)
    wide = torch.rand(1, 3, 6, 12, generator=rng())
    assert torch.allclose(transforms.rotated(wide, 180), wide.flip(2, 3), atol=1e-5)
    turned = transforms.rotated(torch.ones(1, 3, 20, 20), 45)
    assert turned[0, 0, 0, 0] == 0.5 and turned[0, 0, 10, 10] == 1
    dot = torch.zeros(1, 3, 9, 21)
    dot[..., 4, 18] = 9
    found = transforms.rotated(dot, 20)[0, 0]
    row, column = divmod(int(found.argmax()), 21)  # 8 px from the middle, 20 degrees up
    assert (row, column) == (round(4 - 8 * math.sin(math.radians(20))), round(10 + 8 * math.cos(math.radians(20))))


def test_crops_and_noise() -> None:
    square = torch.rand(1, 3, 8, 8, generator=rng())
    whole, quarter, beyond = transforms.cropped(
        square, torch.tensor([[0.5, 0.5], [0.25, 0.75], [2.0, 2.0]]), torch.tensor([1.0, 0.5, 0.5]), 4
    )
    assert torch.allclose(quarter, square[0, :, 4:, :4], atol=1e-6)
    assert torch.allclose(beyond, torch.full((3, 4, 4), 0.5))
    assert transforms.random_crops(torch.rand(2, 3, 8, 8), 5, 0.5, 16, rng()).shape == (10, 3, 16, 16)
    assert whole.shape == (3, 4, 4)
    noise = transforms.with_noise(torch.zeros(1, 3, 200, 200), 0.08, rng())
    assert float(noise.var()) == pytest.approx(0.08**2 * (1 + 1 / 12), rel=0.02)


# --- redirected gradients


@pytest.mark.parametrize("call", [torch.relu, F.relu, Tensor.relu_, nn.ReLU(), nn.ReLU(inplace=True)])
def test_dead_rectifiers_pass_what_raises_them(call: object) -> None:
    x = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, 2.0, -3.0]], requires_grad=True)
    weights = torch.tensor([[1.0, -1.0, 2.0], [1.0, 1.0, 1.0]])
    with RedirectedReLU():
        y = call(x * 1)
        loss = -(y * weights).sum()
    assert torch.equal(y, x.clamp_min(0))
    (gradient,) = torch.autograd.grad(loss, x)
    # Nothing reaches the first picture: what is to rise passes. The second has a gradient of its own.
    assert gradient.tolist() == [[-1, 0, -2], [0, -1, 0]]
    (usual,) = torch.autograd.grad(-(torch.relu(x) * weights).sum(), x)
    assert usual.tolist() == [[0, 0, 0], [0, -1, 0]]


def test_a_dead_channel_comes_alive() -> None:
    conv = nn.Conv2d(3, 1, 3)
    conv.weight.data.fill_(0.1)
    conv.bias.data.fill_(-2.0)
    network = HookedNetwork(nn.Sequential(conv, nn.ReLU()), {"relu": "1"}, preprocessing=NONE)
    visualizer = FeatureVisualizer(VisualizerConfig(steps=60, rate=0.3, redirect=40), network=network, device="cpu")
    asleep = visualizer(objective="relu:0", size=(24, 24), redirect=0)
    awake = visualizer(objective="relu:0", size=(24, 24))
    assert {-loss for loss in asleep.losses} == {0.0}
    assert -awake.losses[-1] > 0.1


# --- the whole


class Planted:
    """A network of one channel: how well each place agrees with a filter, a light disc on dark, 9 x 9 pixels.

    Of values in [0, 1], those that agree most with a filter of two values are that filter.
    """

    taps = ("match",)

    def __init__(self) -> None:
        y, x = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(9.0) - 4, indexing="ij")
        disc = torch.where(torch.hypot(x + 1, y) < 2.8, 1.0, -1.0)
        self.filter = torch.stack([disc, disc, disc])

    def __call__(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        return {"match": F.conv2d(x - 0.5, self.filter[None] / 243)}

    def agreement(self, image: Tensor) -> float:
        middle = image[0, :, 12:21, 12:21]
        return float(torch.corrcoef(torch.stack([middle.flatten(), self.filter.flatten()]))[0, 1])


def test_a_planted_filter_is_found() -> None:
    planted = Planted()
    visualizer = FeatureVisualizer(network=planted, device="cpu")
    options = {"objective": "neuron(tap='match', channel=0)", "size": (33, 33), "robust": False, "seed": 1}
    for pictures in (Fourier(1, (33, 33)), Phase(1, (33, 33))):
        assert abs(planted.agreement(pictures.image(pictures.start(rng(1))))) < 0.5
    assert planted.agreement(visualizer(**options, steps=100).tensor) > 0.95
    assert planted.agreement(visualizer(**options, steps=100, parametrisation="phase", rate=0.1).tensor) > 0.9


def test_a_planted_filter_is_found_whatever_the_changes() -> None:
    """Moved, scaled and turned pictures blur it, and the channel is excited all over: the best place agrees with it."""
    planted = Planted()
    visualizer = FeatureVisualizer(VisualizerConfig(steps=150), network=planted, device="cpu")
    found = visualizer(objective="neuron(tap='match', channel=0)", size=(33, 33), jitter=2, jitter_after=2, pad=2)
    patches = F.unfold(found.tensor, 9)[0]
    rows = torch.cat([planted.filter.flatten()[None], patches.T])
    assert float(torch.corrcoef(rows)[0, 1:].max()) > 0.8


def test_it_is_a_stream_with_previews_that_can_be_stopped() -> None:
    visualizer = FeatureVisualizer.from_pretrained(device="cpu", steps=3)
    stream = visualizer.stream(objective="layer1:3", size=(48, 56))
    first = next(stream)
    assert (first.index, first.total, first.levels) == (1, 3, 1)
    assert first.image.shape == (1, 3, 48, 56) and 0 <= first.image.min() and first.image.max() <= 1
    stream.close()
    *steps, last = visualizer.stream(objective="layer1:3", size=(48, 56))
    assert [step.done for step in steps] == [1, 2, 3]
    assert torch.equal(last.tensor, steps[-1].image) and last.complete
    assert last.losses == tuple(step.loss for step in steps)


def test_a_deadline_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    visualizer = FeatureVisualizer.from_pretrained(device="cpu", steps=3)
    clock = SimpleNamespace(monotonic=count().__next__)  # a second goes by whenever it is read
    monkeypatch.setattr("artmodels.descent.optimise.time", clock)
    early = visualizer(objective="layer1:3", size=(48, 56), deadline=3.5)
    assert not early.complete and len(early.losses) == 2
    assert early.notes == ("Stopped by the deadline of 3.5 s after 2 of 3 steps.",)
    with pytest.raises(DeadlineExceeded, match="before the first step"):
        visualizer(objective="layer1:3", size=(48, 56), deadline=0.5)


def test_the_same_seed_gives_the_same_bytes() -> None:
    visualizer = FeatureVisualizer(VisualizerConfig(features="art-resnet", steps=2), network=build("art-resnet"))
    options = {"objective": "layer1:0 ", "size": (48, 48)}
    first, again = visualizer(**options, seed=3), visualizer(**options, seed=3)
    assert torch.equal(first.tensor, again.tensor)
    assert not torch.equal(first.tensor, visualizer(**options, seed=4).tensor)
    assert first.settings["seed"] == 3 and first.settings["objective"] == "channel(tap='layer1', channel=0)"
    phase = visualizer(**options, seed=3, parametrisation="phase", crops=2, crop_side=48)
    assert torch.equal(
        phase.tensor, visualizer(**options, seed=3, parametrisation="phase", crops=2, crop_side=48).tensor
    )


def test_it_is_saved_and_loaded_again(tmp_path: Path) -> None:
    visualizer = FeatureVisualizer.from_pretrained("interpret-art-resnet-phase", device="cpu", steps=2, crops=2)
    assert visualizer.config.parametrisation == "phase"
    assert isinstance(artmodels.load("interpret-art-vgg", device="cpu"), FeatureVisualizer)
    again = FeatureVisualizer.from_pretrained(visualizer.save_pretrained(tmp_path / "saved"), device="cpu")
    assert again.config == visualizer.config
    options = {"objective": "layer1:0", "size": (48, 48), "seed": 5}
    assert torch.equal(again(**options).tensor, visualizer(**options).tensor)
    visualizer(**options).save(tmp_path / "channel.png")
    stored = json.loads(images.read_metadata(tmp_path / "channel.png")["artmodels"])
    rerun = {key: stored[key] for key in ("objective", "size", "count", "seed")}
    assert torch.equal(visualizer(**rerun).tensor, visualizer(**options).tensor)
    with pytest.raises(ConfigError, match="runtime='onnx' is not available for FeatureVisualizer"):
        FeatureVisualizer.from_pretrained(runtime="onnx")


def test_several_pictures_stand_side_by_side_and_differ() -> None:
    visualizer = FeatureVisualizer(VisualizerConfig(steps=12), network=build("art-resnet"), device="cpu")
    alone = "channel(tap='layer1', channel=2)"
    result = visualizer(objective=f"{alone} + 0.5 * diversity(tap='layer1')", size=(32, 40), count=2)
    assert result.image.size == (80, 32)
    images_ = result.tensor.split(40, dim=3)
    assert float((images_[0] - images_[1]).abs().mean()) > 0.01


def test_it_excites_what_it_is_asked_to() -> None:
    """On random weights: the objective rises, and more than that of another channel does."""
    network = build("art-vgg")
    visualizer = FeatureVisualizer(VisualizerConfig(steps=30), network=network, device="cpu")
    result = visualizer(objective="relu2_1:4", size=(48, 48))
    other = visualizer(objective="relu2_1:7", size=(48, 48))
    assert result.losses[-1] < result.losses[0]

    def of_channel(image: Tensor) -> float:
        return float(network(image, ["relu2_1"])["relu2_1"][0, 4].mean())

    grey = of_channel(torch.full((1, 3, 48, 48), 0.5))
    assert of_channel(result.tensor) - grey > 2 * abs(of_channel(other.tensor) - grey)


def test_wrong_calls_are_refused() -> None:
    visualizer = FeatureVisualizer(VisualizerConfig(steps=1), network=build("art-resnet"), device="cpu")
    for options, says in (
        ({"objective": "layer9:1"}, "no tap 'layer9'. Did you mean 'layer"),
        ({"objective": "layer1:999"}, "channel=999 is not one of the 64"),
        ({"objective": "layer1:1", "size": (4, 4)}, "must be \\(height, width\\)"),
        ({"objective": "layer1:1", "count": 0}, "number of pictures from 1 to 16"),
        ({"objective": "layer1:1", "stepz": 3}, "has no setting 'stepz'. Did you mean 'steps'"),
        ({"objective": "layer1:1", "features": "vgg19"}, "features is fixed"),
        ({"objective": "layer1:1", "rate": -1.0}, "must be above 0"),
        ({"objective": "layer1:1", "seed": -1}, "is not an integer from 0"),
    ):
        with pytest.raises(ConfigError, match=says):
            visualizer(**{"size": (48, 48), **options})
    with pytest.raises(ConfigError, match="have weights: use FeatureVisualizer.from_pretrained"):
        FeatureVisualizer()
    with pytest.raises(ConfigError, match="jitter=20 leaves nothing of 8 x 8 px"):
        visualizer(objective="layer1:1", size=(8, 8), pad=0, jitter=20)
    with pytest.raises(ImageError, match="needs at least"):
        FeatureVisualizer(network=build("vgg19"), device="cpu")(objective="relu5_1:1", size=(8, 8), pad=0, jitter=0)
