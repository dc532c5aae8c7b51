import gc
import weakref
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels import features
from artmodels.descent.algebra import parse
from artmodels.descent.objective import TextureObjective, gaussian_reduced
from artmodels.descent.terms import TERMS
from artmodels.errors import ConfigError, ImageError
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.networks import randomise, resnet_nodes, vgg_nodes
from tests.noise import image

VGG_LAYERS = ("relu1_1", "pool1", "pool2")


def slim_vgg(padding: str = "reflect") -> FeatureExtractor:
    nodes = vgg_nodes([(4, 4), (6, 6), (8,)], "avg")
    randomise(nodes, torch.Generator().manual_seed(0))
    return FeatureExtractor("slim", nodes, padding=padding)


def objective(text: str, exemplar: Tensor, **options: object) -> TextureObjective:
    given = {"extractor": None, "layers": (), "size": tuple(exemplar.shape[-2:])} | options
    return TextureObjective(parse(text, TERMS), exemplar, **given)


def on_vgg(text: str, exemplar: Tensor, **options: object) -> TextureObjective:
    return objective(text, exemplar, **{"extractor": slim_vgg(), "layers": VGG_LAYERS} | options)


NETWORKS = {
    "vgg19": (cache(lambda: features.build("vgg19", until="pool3")), ("relu1_1", "pool1", "pool2", "pool3")),
    "random-filters": (cache(lambda: features.build("random-filters", maps=4)), ("filters3", "filters11", "filters23")),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", TERMS)
def test_each_term_runs_on_each_network_at_another_size(name: str, network: str) -> None:
    build, layers = NETWORKS[network]
    bound = objective(name, image(40, 48), extractor=build(), layers=layers, size=(45, 37))
    x = image(45, 37, seed=1)
    loss, gradient = bound.value_and_grad(x)
    assert 0 < loss < 100
    assert gradient.shape == x.shape and gradient.isfinite().all() and gradient.abs().max() > 0
    lower, _ = bound.value_and_grad(x - 1e-3 * gradient / gradient.abs().max())
    assert lower < loss


@pytest.mark.parametrize(
    "text",
    ["gram", "gaussian_wasserstein", "sliced_wasserstein", "autocorrelation", "spectrum(periodic=False)"],
)
def test_the_exemplar_itself_has_no_loss(text: str) -> None:
    loss, gradient = on_vgg(text, image(33, 40)).value_and_grad(image(33, 40))
    assert loss == pytest.approx(0, abs=1e-6)
    other, typical = on_vgg(text, image(33, 40)).value_and_grad(image(33, 40, seed=1))
    assert other > 1e-3
    assert gradient.norm() < 1e-2 * typical.norm()


def test_a_periodic_exemplar_has_nearly_no_patch_loss() -> None:
    tile = F.interpolate(image(12), scale_factor=4, mode="bicubic").clamp(0, 1)
    periodic = tile.repeat(1, 1, 2, 2)
    same, other = (
        objective("patch_sliced_wasserstein", periodic, size=(48, 48)).value_and_grad(x)[0]
        for x in (tile.roll((5, 9), (2, 3)), image(48))
    )
    assert same < 0.01 < 0.1 < other


def test_value_and_gradient_are_the_weighted_sums() -> None:
    exemplar, x = image(24, 28), image(24, 28, seed=1)
    parts = [on_vgg(text, exemplar).value_and_grad(x) for text in ("gram", "spectrum", "total_variation")]
    total, gradient = on_vgg("0.5 * (gram + 2 * spectrum) + 3 * total_variation", exemplar).value_and_grad(x)
    weights = (0.5, 1.0, 3.0)
    assert total == pytest.approx(sum(w * value for w, (value, _) in zip(weights, parts, strict=True)), rel=1e-5)
    expected = sum(w * slope for w, (_, slope) in zip(weights, parts, strict=True))
    assert torch.allclose(gradient, expected, atol=1e-6 * float(expected.abs().max()) + 1e-9)


def test_the_natural_step_reaches_the_projection_whatever_the_weight() -> None:
    exemplar, x = image(32), image(32, seed=1)
    landed = []
    one = "spectrum(periodic=False)"
    for text in (one, f"7 * {one}", f"{one} + 3 * {one}"):
        bound = objective(text, exemplar)
        y = x - bound.natural_step * bound.value_and_grad(x)[1]
        landed.append(bound.value_and_grad(y)[0])
    assert max(landed) < 1e-6


def test_rounds() -> None:
    exemplar, x = image(24), image(24, seed=1)
    bound, again, other = (objective("patch_sliced_wasserstein", exemplar, seed=seed) for seed in (3, 3, 4))

    def value(which: TextureObjective, round_: int) -> float:
        which.refresh(round_)
        return which.value_and_grad(x)[0]

    assert [value(bound, r) for r in (0, 1, 2, 3)] == [value(again, r) for r in (0, 1, 2, 3)]
    assert value(bound, 3) != value(other, 3)
    assert value(bound, 3) != value(bound, 0), "the same patch size, other directions"
    assert objective("patch_sliced_wasserstein", exemplar, seed=2**63 - 1).value_and_grad(x)[0] > 0


def test_a_loss_that_draws_nothing_stays_in_its_round() -> None:
    bound = objective("spectrum + total_variation", image(24))
    before = bound.round
    bound.refresh(7)
    assert bound.round == before
    drawing = objective("spectrum + patch_sliced_wasserstein", image(24))
    drawing.refresh(7)
    assert drawing.round == 7


# Pyramids


@pytest.mark.parametrize("circular", [True, False])
def test_an_octave_keeps_constants_and_halves_sizes(circular: bool) -> None:
    assert torch.allclose(gaussian_reduced(torch.full((1, 3, 9, 12), 0.3), circular=circular), torch.tensor(0.3))
    assert gaussian_reduced(image(9, 12), circular=circular).shape == (1, 3, 5, 6)
    impulse = torch.zeros(1, 1, 16, 16)
    impulse[..., 8, 8] = 1
    kernel = torch.tensor([0.05, 0.4, 0.05])
    assert torch.allclose(gaussian_reduced(impulse, circular=circular)[0, 0, 3:6, 3:6], torch.outer(kernel, kernel))
    rolled = gaussian_reduced(image(16).roll(4, 3), circular=True)
    assert torch.allclose(rolled, gaussian_reduced(image(16), circular=True).roll(2, 3))


def test_a_pyramid_adds_up_the_losses_of_its_octaves() -> None:
    exemplar, x = image(48, 40), image(48, 40, seed=1)
    total, gradient = on_vgg("pyramid(gram, octaves=2)", exemplar).value_and_grad(x)
    fine = on_vgg("gram", exemplar).value_and_grad(x)
    reduced = gaussian_reduced(exemplar, circular=False), gaussian_reduced(x, circular=False)
    coarse, slope = on_vgg("gram", reduced[0]).value_and_grad(reduced[1])
    leaf = x.clone().requires_grad_(True)
    (pulled,) = torch.autograd.grad(gaussian_reduced(leaf, circular=False), leaf, slope)
    assert total == pytest.approx(fine[0] + coarse, rel=1e-5)
    assert torch.allclose(gradient, fine[1] + pulled, atol=1e-5 * float(gradient.abs().max()))


def test_a_pyramid_ends_where_the_features_no_longer_fit() -> None:
    bound = on_vgg("pyramid(gram, octaves=12)", image(40), size=(64, 40))
    assert 2 <= len(bound.octaves) <= 4
    assert len(objective("pyramid(spectrum, octaves=12)", image(40)).octaves) == 6  # 40, 20, 10, 5, 3, 2


# Borders


def rolled_gradient_error(bound: TextureObjective, x: Tensor, shift: tuple[int, int]) -> float:
    """How far the gradient of a rolled image is from the rolled gradient, relative to it."""
    gradient = bound.value_and_grad(x)[1].roll(shift, (2, 3))
    return float((bound.value_and_grad(x.roll(shift, (2, 3)))[1] - gradient).norm() / gradient.norm())


@pytest.mark.parametrize("text", ["gram", "sliced_wasserstein", "gaussian_wasserstein", "autocorrelation"])
def test_circular_features_have_no_border(text: str) -> None:
    exemplar, x = image(32), image(48, 40, seed=1)
    errors = [
        rolled_gradient_error(on_vgg(text, exemplar, size=(48, 40), circular=circular), x, (8, -4))
        for circular in (True, False)
    ]
    assert errors[0] < 1e-3 < 1e-2 < errors[1]


@pytest.mark.parametrize("text", ["patch_sliced_wasserstein", "spectrum", "pyramid(total_variation, octaves=2)"])
def test_images_have_no_border_either(text: str) -> None:
    bound = objective(text, image(32), size=(48, 40), circular=True)
    assert rolled_gradient_error(bound, image(48, 40, seed=1), (8, -4)) < 1e-3


def test_a_grey_exemplar_keeps_a_grey_image_grey() -> None:
    grey, x = (image(40, seed=seed).mean(dim=1, keepdim=True).repeat(1, 3, 1, 1) for seed in (0, 1))
    _, gradient = on_vgg("gram", grey).value_and_grad(x)
    assert (gradient - gradient[:, :1]).abs().max() == 0 < gradient.abs().max()
    _, gradient = on_vgg("gram", image(40)).value_and_grad(x)
    assert (gradient - gradient[:, :1]).abs().max() > 0


# Tiles


def compare(
    text: str,
    x: Tensor,
    exemplar: Tensor,
    *,
    tile: int,
    extractor: FeatureExtractor,
    layers: tuple[str, ...],
    circular: bool,
) -> None:
    options = {"extractor": extractor, "layers": layers, "size": tuple(x.shape[-2:]), "circular": circular}
    whole = objective(text, exemplar, tile=None, **options).value_and_grad(x)
    tiled = objective(text, exemplar, tile=tile, **options).value_and_grad(x)
    assert tiled[0] == pytest.approx(whole[0], rel=1e-5)
    assert (tiled[1] - whole[1]).norm() < 1e-5 * whole[1].norm()


@pytest.mark.parametrize(
    "text", ["gram", "gaussian_wasserstein", "gram + 0.1 * gaussian_wasserstein(layers=('relu2_1',)) + 0.1 * spectrum"]
)
@pytest.mark.parametrize(
    ("size", "circular", "padding"),
    [
        ((67, 93), False, "reflect"),
        ((64, 150), False, "zeros"),
        ((97, 40), False, "replicate"),
        ((72, 104), True, "reflect"),
        ((40, 56), False, "circular"),
    ],
)
def test_tiles_are_exact(text: str, size: tuple[int, int], circular: bool, padding: str) -> None:
    compare(
        text,
        image(*size),
        image(50, 60, seed=1) ** 2,
        tile=48,
        extractor=slim_vgg(padding),
        layers=VGG_LAYERS,
        circular=circular,
    )


def test_tiles_are_exact_on_circular_images_of_odd_size_where_the_features_are() -> None:
    # Behind a stride a torus of odd size has no whole number of features, so only layers before it can agree.
    compare(
        "gram",
        image(51, 67),
        image(40) ** 2,
        tile=48,
        extractor=slim_vgg(),
        layers=("relu1_1", "relu1_2"),
        circular=True,
    )


@pytest.mark.parametrize("circular", [False, True])
def test_tiles_are_exact_on_random_filters(circular: bool) -> None:
    extractor = features.build("random-filters", maps=3)
    size = (72, 104) if circular else (67, 109)
    compare(
        "gram",
        image(*size),
        image(64, seed=1) ** 2,
        tile=112,
        extractor=extractor,
        layers=extractor.taps,
        circular=circular,
    )


def test_tiles_are_exact_on_residual_networks() -> None:
    nodes = resnet_nodes((1, 1), bottleneck=False)
    randomise(nodes, torch.Generator().manual_seed(0))
    extractor = FeatureExtractor("slim resnet", nodes)
    compare(
        "gram",
        image(75, 121),
        image(64, seed=1) ** 2,
        tile=112,
        extractor=extractor,
        layers=("stem", "layer2"),
        circular=False,
    )


def test_an_image_smaller_than_the_tile_is_not_tiled_and_one_larger_is(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = FeatureExtractor.forward

    def watched(self, x, *args, **kwargs):
        sizes.append(tuple(x.shape[-2:]))
        return original(self, x, *args, **kwargs)

    monkeypatch.setattr(FeatureExtractor, "forward", watched)
    bound = on_vgg("gram", image(40), size=(40, 200), tile=48)
    bound.value_and_grad(image(40, 200))
    assert max(width for _, width in sizes[1:]) < 140
    sizes.clear()
    bound.tile = 200
    bound.value_and_grad(image(40, 200))
    assert sizes == [(40, 200)]


def test_losses_that_cannot_be_tiled_say_what_to_do() -> None:
    for text in ("gram + sliced_wasserstein", "pyramid(gram, octaves=2)"):
        bound = on_vgg(text, image(64), size=(160, 64), tile=48)
        with pytest.raises(ConfigError, match=r"tile by tile: use those, or a size of at most 48 px, or tile=None"):
            bound.value_and_grad(image(160, 64))
    assert objective("spectrum", image(64), tile=16).value_and_grad(image(64, seed=1))[0] > 0


def kept_bytes(bound: TextureObjective, x: Tensor) -> int:
    """Most bytes of distinct tensors that the graph holds for the backward at any one time."""
    held: dict[int, int] = {}
    peak = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal peak
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key not in held:
            held[key] = storage.nbytes()
            weakref.finalize(storage, held.pop, key, None)
        peak = max(peak, sum(held.values()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        bound.value_and_grad(x)
    gc.collect()
    return peak


def test_tiles_bound_the_memory() -> None:
    sides = (64, 192)
    peaks = {
        tile: [
            kept_bytes(on_vgg("gram(layers=('pool1',))", image(48), size=(side, side), tile=tile), image(side))
            for side in sides
        ]
        for tile in (48, None)
    }
    assert peaks[None][1] > 8 * peaks[None][0], "the measure sees memory grow with the area"
    assert peaks[48][1] < 1.6 * peaks[48][0]
    assert peaks[48][1] < peaks[None][1] / 4


def test_checkpointing_gives_the_same_and_keeps_less() -> None:
    x = image(64)
    plain, thrifty = (on_vgg("gram", image(40), size=(64, 64), checkpoint=flag) for flag in (False, True))
    assert plain.value_and_grad(x)[0] == thrifty.value_and_grad(x)[0]
    assert torch.equal(plain.value_and_grad(x)[1], thrifty.value_and_grad(x)[1])
    assert kept_bytes(thrifty, x) < kept_bytes(plain, x)


# Errors


def test_features_are_needed_and_named() -> None:
    with pytest.raises(ConfigError, match="gram needs features, and raw patches have none"):
        objective("gram", image(24))
    with pytest.raises(ConfigError, match="there is no feature extractor"):
        objective("gram(layers=('relu1_1',))", image(24))
    with pytest.raises(ConfigError, match="no tap 'relu1_9'. Did you mean"):
        on_vgg("gram(layers=('relu1_9',))", image(24))
    with pytest.raises(ImageError, match="is 3 x 3 pixels, but slim at 'pool2'"):
        on_vgg("gram", image(3), size=(64, 64))
