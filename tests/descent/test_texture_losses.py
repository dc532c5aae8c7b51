import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.descent import sliced, spectral
from artmodels.descent.algebra import Context, Moments, PyramidLoss, Sampled, Sum, parse
from artmodels.descent.spectral import Autocorrelation, Spectrum
from artmodels.descent.terms import (
    TERMS,
    GaussianWasserstein,
    Gram,
    PatchNearest,
    PatchSlicedWasserstein,
    SlicedWasserstein,
    TotalVariation,
)
from artmodels.errors import ConfigError

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=dtype)


def bound(term, exemplar: Tensor, features: dict[str, Tensor] | None = None, *, size=None, circular=False, round_=0):
    """A function of (image, features): the term fixed to an exemplar, its random parts drawn."""
    features = features or {}
    context = Context(size=size or tuple(exemplar.shape[-2:]), layers=tuple(features), circular=circular)
    moments = {tap: Moments.of(maps) for tap, maps in features.items()}
    fixed = term.bind(exemplar, features, moments, context)
    if isinstance(fixed, Sampled):
        fixed.refresh(generator(7), round_)

    def loss(x: Tensor, maps: dict[str, Tensor] | None = None) -> Tensor:
        return fixed(x, maps or {}, {tap: Moments.of(value) for tap, value in (maps or {}).items()})

    return loss


def directional(
    loss: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor, step: float = 1e-6
) -> tuple[float, float]:
    """The slope of a loss along a direction: by its gradient, and by central differences."""
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    differences = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    return float((gradient * direction).sum()), float(differences)


# Spectrum


@pytest.mark.parametrize("size", [(12, 10), (11, 9)])
def test_the_spectrum_loss_is_half_the_distance_to_the_projection(size: tuple[int, int]) -> None:
    x, target = (noise(1, 3, *size, seed=seed, dtype=torch.float64) for seed in (1, 2))
    moduli = [torch.fft.fft2(image).abs() for image in (x, target)]
    projection = spectral.spectrum_projection(x, torch.fft.rfft2(target), common_phase=False)
    by_moduli = (moduli[0] - moduli[1]).square().sum() / (2 * size[0] * size[1])
    assert float((x - projection).square().sum() / 2) == pytest.approx(float(by_moduli), rel=1e-10)
    assert torch.allclose(torch.fft.fft2(projection).abs(), moduli[1], atol=1e-10)


def test_the_common_phase_projection_is_the_nearest_rotation_of_the_exemplar() -> None:
    x, target = (noise(1, 3, 9, 8, seed=seed, dtype=torch.float64) for seed in (1, 2))
    projection = spectral.spectrum_projection(x, torch.fft.rfft2(target), common_phase=True)
    cross = [torch.fft.fft2(image)[:, 0] * torch.fft.fft2(image)[:, 2].conj() for image in (projection, target)]
    assert torch.allclose(cross[0], cross[1], atol=1e-9), "relations between the channels are the exemplar's"
    # |x - p|^2 over phase rotations is |X|^2 + |I|^2 - 2 |sum_c X_c conj I_c| at each frequency.
    found, wanted = torch.fft.fft2(x), torch.fft.fft2(target)
    overlap = (found * wanted.conj()).sum(1).abs()
    least = (found.abs().square().sum(1) + wanted.abs().square().sum(1) - 2 * overlap).sum() / 72
    assert float((x - projection).square().sum()) == pytest.approx(float(least), rel=1e-10)


@pytest.mark.parametrize("common_phase", [True, False])
def test_the_spectrum_gradient_is_exact_with_the_projection_held_constant(common_phase: bool) -> None:
    x, target, direction = (noise(1, 3, 10, 13, seed=seed, dtype=torch.float64) for seed in range(3))
    loss = bound(Spectrum(common_phase=common_phase), target)
    by_gradient, by_differences = directional(loss, x, direction - 0.5)
    assert by_gradient == pytest.approx(by_differences, rel=1e-7)


def test_the_spectrum_loss_is_relative_and_ignores_shifts() -> None:
    exemplar = noise(1, 3, 24, 20)
    loss = bound(Spectrum(periodic=False), exemplar)
    assert float(loss(exemplar)) == pytest.approx(0, abs=1e-9)
    assert float(loss(exemplar.roll((5, 3), (2, 3)))) == pytest.approx(0, abs=1e-9)
    assert float(loss(exemplar.mean(dim=(2, 3), keepdim=True).expand_as(exemplar))) == pytest.approx(1, rel=1e-4)
    x = noise(1, 3, 24, 20, seed=1)
    assert float(loss(x.roll((7, 2), (2, 3)))) == pytest.approx(float(loss(x)), rel=1e-4)
    assert float(loss(x)) > 0.05


def test_the_periodic_component_solves_poissons_equation_on_the_torus() -> None:
    u = noise(1, 2, 9, 12, dtype=torch.float64)
    periodic = spectral.periodic_component(u)
    wrapped = sum(periodic.roll(step, dim) - periodic for dim in (2, 3) for step in (1, -1))
    inner = torch.zeros_like(u)  # the Laplacian of u that sees no neighbour beyond the border
    for dim in (2, 3):
        steps = u.diff(dim=dim)
        inner += torch.cat([steps, torch.zeros_like(u.narrow(dim, 0, 1))], dim)
        inner -= torch.cat([torch.zeros_like(u.narrow(dim, 0, 1)), steps], dim)
    assert torch.allclose(wrapped, inner, atol=1e-12)
    assert torch.allclose(periodic.mean(dim=(2, 3)), u.mean(dim=(2, 3)))
    ramp = torch.linspace(0, 1, 32, dtype=torch.float64).expand(1, 1, 32, 32)
    flat = spectral.periodic_component(ramp)
    assert (flat[..., 0] - flat[..., -1]).abs().max() < 0.1 < (ramp[..., 0] - ramp[..., -1]).abs().max()


@pytest.mark.parametrize("size", [(40, 50), (16, 20), (10, 50), (21, 13)])
def test_a_texton_of_another_size_keeps_mean_and_variance(size: tuple[int, int]) -> None:
    image = noise(1, 3, 21, 20)
    other = spectral.resized_texton(image, size)
    assert other.shape == (1, 3, *size)
    if size[0] >= 21 and size[1] >= 20:
        assert torch.allclose(other.mean(dim=(2, 3)), image.mean(dim=(2, 3)), atol=1e-5)
        assert torch.allclose(other.var(dim=(2, 3), correction=0), image.var(dim=(2, 3), correction=0), rtol=1e-4)
    x = noise(1, 3, *size, seed=1)
    assert 0.05 < float(bound(Spectrum(), image, size=size)(x)) < 3


# Autocorrelation


@pytest.mark.parametrize("size", [(9, 12), (16, 7), (9, 7), (12, 14)])
def test_the_autocorrelation_is_the_sum_of_shifted_products(size: tuple[int, int]) -> None:
    maps = noise(1, 2, *size, dtype=torch.float64)
    target = noise(1, 2, 9, 12, seed=1, dtype=torch.float64)

    def correlation(f: Tensor, dy: int, dx: int) -> Tensor:
        return (f * f.roll((-dy, -dx), (2, 3))).mean(dim=(2, 3))

    h, w = min(size[0], 9), min(size[1], 12)
    lags = [(dy, dx) for dy in range(-(h // 2), h - h // 2) for dx in range(-(w // 2), w - w // 2)]
    square = sum((correlation(maps, *lag) - correlation(target, *lag)).square().sum() for lag in lags)
    scale = sum(correlation(target, *lag).square().sum() for lag in lags)
    loss = bound(Autocorrelation(), noise(1, 3, 9, 12), {"f": target})
    assert float(loss(maps, {"f": maps})) == pytest.approx(float(square / scale), rel=1e-10)


def test_the_autocorrelation_ignores_shifts_and_has_the_papers_scale() -> None:
    target, maps = noise(1, 4, 8, 10, dtype=torch.float64), noise(1, 4, 8, 10, seed=1, dtype=torch.float64)
    loss = bound(Autocorrelation(normalisation="gonthier"), target, {"f": target})
    spectra = [(torch.fft.fft2(f).abs() ** 2 / 80**2) for f in (maps, target)]
    assert float(loss(maps, {"f": maps})) == pytest.approx(
        float((spectra[0] - spectra[1]).square().sum() / (4 * 4**2)), rel=1e-10
    )
    rolled = target.roll((3, 4), (2, 3))
    assert float(loss(rolled, {"f": rolled})) == pytest.approx(0, abs=1e-20)


# Gram and Gaussians


def test_gram_normalisations() -> None:
    a, b = noise(1, 4, 6, 7), noise(1, 4, 5, 9, seed=1)
    grams = [torch.einsum("cij,dij->cd", f[0], f[0]) / f[0, 0].numel() for f in (a, b)]
    square = float((grams[0] - grams[1]).square().sum())
    relative, paper = (bound(Gram(normalisation=n), a, {"f": a})(b, {"f": b}) for n in ("relative", "gatys"))
    assert float(relative) == pytest.approx(square / float(grams[0].square().sum()), rel=1e-5)
    assert float(paper) == pytest.approx(square / (4 * 4**2), rel=1e-5)
    assert float(bound(Gram(), a, {"f": a})(a, {"f": 0 * a})) == pytest.approx(1)


@pytest.mark.parametrize("term", [Gram(), GaussianWasserstein(), SlicedWasserstein()])
def test_statistics_of_features_ignore_where_the_pixels_are(term) -> None:
    maps = noise(1, 5, 8, 9)
    shuffled = maps.flatten(2)[..., torch.randperm(72, generator=generator())].view(1, 5, 8, 9)
    loss = bound(term, maps, {"f": maps})
    assert float(loss(maps, {"f": shuffled})) == pytest.approx(0, abs=1e-6)
    assert float(loss(maps, {"f": maps.flip(1)})) > 1e-3


def test_layer_weights() -> None:
    first, second, x = (noise(1, 3, 8, 8, seed=seed) for seed in range(3))
    features = {"a": first, "b": second}
    alone = [float(bound(Gram(layers=(tap,)), first, features)(x, {"a": x, "b": x})) for tap in "ab"]
    assert float(bound(Gram(), first, features)(x, {"a": x, "b": x})) == pytest.approx(sum(alone) / 2, rel=1e-5)
    weighted = bound(Gram(weights=(0.1, 2.0)), first, features)
    assert float(weighted(x, {"a": x, "b": x})) == pytest.approx(0.1 * alone[0] + 2 * alone[1], rel=1e-5)
    with pytest.raises(ConfigError, match="gram has 1 weights for 2 layers; give one for each"):
        bound(Gram(weights=(1.0,)), first, features)


def gaussian_distance(a: Tensor, b: Tensor) -> float:
    """The squared Wasserstein distance of the Gaussians fitted to features a and b, relative to the spread of b."""
    (m1, s1), (m2, s2) = (
        (rows.mean(1), np.cov(rows, bias=True)) for rows in (f[0].flatten(1).double().numpy() for f in (a, b))
    )
    root = scipy.linalg.sqrtm(s2)
    cross = np.real(scipy.linalg.sqrtm(root @ s1 @ root))
    return (np.sum((m1 - m2) ** 2) + np.trace(s1 + s2 - 2 * cross)) / np.trace(s2)


def test_the_gaussian_distance_is_scipys() -> None:
    a, b = noise(1, 6, 12, 13), noise(1, 6, 9, 14, seed=1) ** 2
    assert float(bound(GaussianWasserstein(), b, {"f": b})(a, {"f": a})) == pytest.approx(
        gaussian_distance(a, b), rel=1e-4
    )


def test_the_gaussian_distance_of_scaled_features_is_known_in_closed_form() -> None:
    maps = noise(1, 3, 16, 16)
    mean, spread = maps.mean(dim=(2, 3)), float(maps.var(dim=(2, 3), correction=0).sum())
    expected = (float((mean * 0.5).square().sum()) + 0.25 * spread) / spread
    assert float(bound(GaussianWasserstein(), maps, {"f": maps})(maps, {"f": 1.5 * maps})) == pytest.approx(
        expected, rel=1e-4
    )


def test_dead_directions_do_not_add_up() -> None:
    # 96 channels that move in 4 directions only: 92 eigenvalues are rounding errors, whose square roots are not small.
    mixing = torch.randn(96, 4, generator=generator(3))
    maps = torch.einsum("cd,ndhw->nchw", mixing, torch.randn(1, 4, 20, 20, generator=generator(4)))
    loss = bound(GaussianWasserstein(), maps, {"f": maps})
    assert float(loss(maps, {"f": maps})) == pytest.approx(0, abs=1e-5)
    leaf = maps.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(leaf, {"f": leaf}), leaf)
    (typical,) = torch.autograd.grad(loss(leaf, {"f": 1.2 * leaf}), leaf)
    assert gradient.norm() < 2e-2 * typical.norm()


@pytest.mark.parametrize("term", [Gram(), Gram(normalisation="gatys"), Autocorrelation()])
def test_gradients_of_smooth_terms(term) -> None:
    target, x, direction = (noise(1, 4, 7, 6, seed=seed, dtype=torch.float64) for seed in range(3))
    fixed = bound(term, target, {"f": target})
    by_gradient, by_differences = directional(lambda f: fixed(f, {"f": f}), x, direction - 0.5)
    assert by_gradient == pytest.approx(by_differences, rel=1e-6)


def test_gradient_of_the_gaussian_distance() -> None:
    target, x, direction = (noise(1, 4, 7, 6, seed=seed) for seed in range(3))
    fixed = bound(GaussianWasserstein(), target, {"f": target})
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(fixed(leaf, {"f": leaf}), leaf)
    step = 1e-4
    by_scipy = [gaussian_distance(x.double() + sign * step * (direction - 0.5).double(), target) for sign in (1, -1)]
    assert float((gradient * (direction - 0.5)).sum()) == pytest.approx(
        (by_scipy[0] - by_scipy[1]) / (2 * step), rel=1e-3
    )


@pytest.mark.parametrize("circular", [True, False])
def test_total_variation(circular: bool) -> None:
    x = torch.zeros(1, 3, 4, 4)
    x[..., 0, 0] = 1.0
    loss = bound(TotalVariation(), x, circular=circular)
    # One pixel differs from two neighbours, four on a torus, out of 12, or 16, pairs each way.
    assert float(loss(x)) == pytest.approx(4 / 16 if circular else 2 / 12)
    y, direction = noise(1, 3, 4, 4, dtype=torch.float64), noise(1, 3, 4, 4, seed=1, dtype=torch.float64)
    assert directional(loss, y, direction)[0] == pytest.approx(directional(loss, y, direction)[1], rel=1e-6)
    one = torch.ones(1, 3, 1, 1, requires_grad=True)
    assert float(torch.autograd.grad(loss(one), one)[0].abs().sum()) == 0


# Sliced Wasserstein


def test_directions_are_orthonormal_in_blocks_and_even() -> None:
    directions = sliced.orthonormal_directions(12, 5, generator(), CPU)
    assert directions.shape == (12, 5)
    for block in directions.split(5):
        assert torch.allclose(block @ block.T, torch.eye(len(block)), atol=1e-5)
    many = torch.cat([sliced.orthonormal_directions(3, 4, generator(seed), CPU) for seed in range(800)])
    assert torch.allclose(many.T @ many / len(many), torch.eye(4) / 4, atol=0.015)
    assert many.mean(0).abs().max() < 0.03, "without a sign that is more likely"
    assert torch.equal(sliced.orthonormal_directions(1, 1, generator(), CPU).abs(), torch.ones(1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_transport_matches_sorted_values(dtype: torch.dtype) -> None:
    x = torch.tensor([[0.3, -2.0, 5.0, -0.0, 0.0], [1.0, 1.0, -1e-30, -3e38, 3e38]], dtype=dtype)
    ascending = sliced.sorted_values(torch.arange(10, dtype=dtype).view(2, 5).flip(1))
    assert ascending.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert sliced.transported(x, ascending).tolist() == [[3, 0, 4, 1, 2], [7, 8, 6, 5, 9]]


@pytest.mark.parametrize("threads", [1, 3])
def test_sorting_is_numpys_at_any_number_of_threads(threads: int) -> None:
    x = torch.randn(7, 1000, generator=generator())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ascending = sliced.sorted_values(x)
        moved = sliced.transported(x, ascending)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ascending, x.sort(dim=-1).values)
    assert torch.equal(moved, x)


def test_quantiles_of_unequal_counts() -> None:
    ascending = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert sliced.quantiles(ascending, 4) is ascending
    assert sliced.quantiles(ascending, 2).tolist() == [[0.5, 2.5]]
    assert sliced.quantiles(ascending, 8).tolist() == [[0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]]
    assert sliced.quantiles(torch.tensor([[5.0]]), 3).tolist() == [[5, 5, 5]]


def test_one_channel_gives_the_exact_distance() -> None:
    a, b = noise(1, 1, 6, 8), noise(1, 1, 6, 8, seed=1) ** 2
    exact = (a.flatten().sort().values - b.flatten().sort().values).square().mean() / b.var(correction=0)
    assert float(bound(SlicedWasserstein(), b, {"f": b})(a, {"f": a})) == pytest.approx(float(exact), rel=1e-5)


def test_unequal_counts_are_like_tiling() -> None:
    a, b = noise(1, 4, 20, 30), noise(1, 4, 20, 30, seed=1) ** 2
    tiled = a.repeat(1, 1, 3, 2)
    once, often = (bound(SlicedWasserstein(), b, {"f": b})(a, {"f": f}) for f in (a, tiled))
    assert float(often) == pytest.approx(float(once), rel=2e-3)
    assert float(bound(SlicedWasserstein(), a, {"f": a})(a, {"f": tiled})) < 1e-4


def test_the_sliced_distance_is_unbiased_over_directions() -> None:
    # Shifted by a vector v, features move by |v|^2 / C along a mean direction.
    maps = noise(1, 6, 10, 10)
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0, 0.0]).view(1, 6, 1, 1)
    features = {"f": maps}
    fixed = SlicedWasserstein(directions=4).bind(
        maps, features, {}, Context(size=(10, 10), layers=("f",), circular=False)
    )
    values = []
    for seed in range(300):
        fixed.refresh(generator(seed), 0)
        values.append(float(fixed(maps, {"f": maps + shift}, {})))
    expected = 5.25 / 6 / float(maps[0].flatten(1).var(dim=1, correction=0).mean())
    deviation = np.std(values) / math.sqrt(len(values))
    assert abs(np.mean(values) - expected) < 4 * deviation
    assert np.std(values) > 0.01 * expected, "rounds differ"


def test_samples_bound_the_work_and_stay_fair() -> None:
    a, b = noise(1, 4, 60, 60), noise(1, 4, 50, 40, seed=1) ** 2
    whole = float(bound(SlicedWasserstein(), b, {"f": b})(a, {"f": a}))
    assert float(bound(SlicedWasserstein(samples=1500), b, {"f": b})(a, {"f": a})) == pytest.approx(whole, rel=0.1)
    assert float(bound(SlicedWasserstein(samples=3000), b, {"f": b})(a, {"f": a})) == pytest.approx(whole, rel=0.1)


def test_gradient_of_the_sliced_distance_of_patches() -> None:
    target, x = noise(1, 3, 12, 11), noise(1, 3, 12, 11, seed=1)
    loss = bound(PatchSlicedWasserstein(), target)
    by_gradient, by_differences = directional(loss, x, 1 + x.square(), step=1e-2)
    assert by_gradient == pytest.approx(by_differences, rel=5e-3)


def test_patches_of_one_pixel_only_count_colours() -> None:
    exemplar = noise(1, 3, 16, 14)
    shuffled = exemplar.flatten(2)[..., torch.randperm(224, generator=generator())].view_as(exemplar)
    assert float(bound(PatchSlicedWasserstein(sizes=(1,)), exemplar)(shuffled)) == pytest.approx(0, abs=1e-6)
    smooth = torch.linspace(0, 1, 14).expand(1, 3, 16, 14)
    scattered = smooth.flatten(2)[..., torch.randperm(224, generator=generator())].view_as(smooth)
    assert float(bound(PatchSlicedWasserstein(sizes=(3,)), smooth)(scattered)) > 0.1


def test_a_step_of_the_natural_length_puts_pixels_where_they_belong() -> None:
    # With every direction of single pixels seen, and colours that differ in mean only, one step is the projection.
    exemplar, x = noise(1, 3, 16, 14), noise(1, 3, 16, 14) + 0.1
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(bound(PatchSlicedWasserstein(sizes=(1,)), exemplar)(leaf), leaf)
    variance = float(exemplar.var(dim=(2, 3), correction=0).sum())
    assert torch.allclose(x - gradient * 16 * 14 * variance / 2, exemplar, atol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "exemplar", "size"),
    [
        ((3, 5, 7), (8, 8), (64, 8)),
        ((9,), (8, 8), (16, 16)),
        ((32,), (32, 40), (300, 300)),
        ((7, 31), (33, 32), (256, 512)),
    ],
)
def test_patches_of_any_size_fit(sizes: tuple[int, ...], exemplar: tuple[int, int], size: tuple[int, int]) -> None:
    x = noise(1, 3, *size)
    for round_ in range(len(sizes)):
        loss = bound(PatchSlicedWasserstein(sizes=sizes), noise(1, 3, *exemplar, seed=1), size=size, round_=round_)
        assert 0 <= float(loss(x)) < 10


def test_patches_that_barely_fit_are_read_at_any_phase() -> None:
    context = Context(size=(400, 400), layers=(), circular=False)
    fixed = PatchSlicedWasserstein(sizes=(32,), octaves=2).bind(noise(1, 3, 66, 66), {}, {}, context)
    for round_ in range(24):
        fixed.refresh(generator(round_), round_)
        assert all(target.isfinite().all() for target in fixed.target)


def test_the_lattice_of_patches_pulls_all_pixels_alike() -> None:
    # Patches of 3 pixels every second one: at any one phase some pixels lie in four patches, others in one.
    exemplar, x = noise(1, 3, 32, 32), (noise(1, 3, 160, 160, seed=1) + 1).requires_grad_(True)
    context = Context(size=(160, 160), layers=(), circular=False)
    fixed = PatchSlicedWasserstein(sizes=(3,), octaves=1).bind(exemplar, {}, {}, context)
    pulls = torch.zeros(2, 2)
    for round_ in range(40):
        fixed.refresh(generator(round_), round_)
        assert fixed.stride == 2
        (gradient,) = torch.autograd.grad(fixed(x, {}, {}), x)
        pulls += gradient.sum(dim=(0, 1)).view(80, 2, 80, 2).sum(dim=(0, 2))
    assert pulls.max() / pulls.min() < 2, "one fixed phase gives 4"


def test_grey_exemplars_pull_colours_to_grey() -> None:
    grey = noise(1, 1, 16, 16).expand(1, 3, 16, 16)
    x = noise(1, 3, 16, 16, seed=1)
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(bound(PatchSlicedWasserstein(sizes=(1,)), grey)(leaf), leaf)
    stepped = x - gradient * 256 * float(grey.var(dim=(2, 3), correction=0).sum()) / 2
    assert (stepped - stepped.mean(dim=1, keepdim=True)).abs().max() < 1e-3


@pytest.mark.parametrize("patches", [1024, 256])
def test_a_match_between_the_lattice_of_patches_is_found_by_moving_on(patches: int) -> None:
    # Every second, or fourth, patch of the exemplar is looked at, and the image has those between.
    exemplar = F.interpolate(noise(1, 3, 9, 9), (64, 64), mode="bicubic", align_corners=False)
    for down, across in ((1, 1), (3, 2), (9, 15)):
        pulls = []
        for refine in (False, True):
            term = PatchNearest(sizes=(8,), patches=patches, variety=0.0, refine=refine, wrap=False)
            x = exemplar[..., down : down + 40, across : across + 40].clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(bound(term, exemplar, size=(40, 40))(x), x)
            pulls.append(float(gradient[..., 8:-8, 8:-8].abs().mean()))  # away from the reflected borders
        assert pulls[1] < 0.1 * pulls[0]


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("constant", ["exemplar", "image", "both"])
def test_constant_images_give_finite_losses_and_gradients(name: str, constant: str) -> None:
    flat, textured = torch.full((1, 3, 16, 16), 0.5), noise(1, 3, 16, 16)
    exemplar = flat if constant != "image" else textured
    x = (flat + 0.1 if constant != "exemplar" else textured).clone().requires_grad_(True)
    loss = bound(TERMS[name](), exemplar, {"f": exemplar})(x, {"f": x})
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite() and gradient.isfinite().all()


# The algebra


TEXTS = [
    "gram",
    "gram + 0.1 * spectrum",
    "0.123456789 * gram + 1e-05 * spectrum",
    "-0.5 * total_variation + gram",
    "2 * (gram + 0.25 * spectrum) + total_variation",
    "gram + (spectrum + total_variation)",
    "1 * gram",
    "gram * 3",
    "gram(layers=('relu1_1', 'pool2'), weights=(1, 0.5), normalisation='gatys')",
    "pyramid(gram, octaves=3)",
    "0.5 * pyramid(gram + 0.1 * spectrum(common_phase=False)) + sliced_wasserstein(directions=8)",
    "patch_sliced_wasserstein(sizes=[3, 9])",
    "  autocorrelation  ",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_round_trip(text: str) -> None:
    loss = parse(text, TERMS)
    assert parse(str(loss), TERMS) == loss


def test_what_is_read() -> None:
    loss = parse("2 * (gram + 0.25 * spectrum(periodic=False)) + pyramid(total_variation, octaves=2)", TERMS)
    assert list(loss.terms()) == [
        (2.0, 0, Gram()),
        (0.5, 0, Spectrum(periodic=False)),
        (1.0, 0, TotalVariation()),
        (1.0, 1, TotalVariation()),
    ]
    assert loss == 2 * (Gram() + 0.25 * Spectrum(periodic=False)) + PyramidLoss(loss=TotalVariation(), octaves=2)
    assert str(Gram() + 0.1 * Spectrum()) == "gram + 0.1 * spectrum"
    assert isinstance(Gram() * 0.5, Sum)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gramm", "no loss is called 'gramm'. Did you mean 'gram'?"),
        ("gram(layer=('a',))", "no setting 'layer'. Did you mean 'layers'"),
        ("gram + 0.1", "'gram \\+ 0.1' in the loss .* is not a sum"),
        ("0.1", "is a number; it needs at least one of gram"),
        ("gram - spectrum", "is not a sum, a product"),
        ("gram * spectrum", "is not a sum, a product"),
        ("gram('relu1_1')", "is not a sum, a product"),
        ("gram(layers=relu1_1)", "not a plain number, text or tuple"),
        ("gram(layers={[]: 1})", "not a plain number, text or tuple"),
        ("gram(layers='relu1_1')", r"Gram.layers must be tuple\[str, ...\] | None"),
        ("patch_sliced_wasserstein(sizes=3)", "sizes must be tuple"),
        ("sliced_wasserstein(directions=1.5)", "directions must be int"),
        ("spectrum(common_phase='no')", "common_phase must be bool"),
        ("gram(normalisation='l2')", "normalisation"),
        ("gram(**{'layers': None})", "no setting 'None'"),
        ("pyramid(gram, octaves=0)", "octaves=0 must be at least 1 and at most 12"),
        ("pyramid(gram, octaves=1000000000)", "octaves=1000000000 must be at least 1 and at most 12"),
        ("pyramid(pyramid(gram))", "pyramid of pyramids"),
        ("pyramid(0.5)", "is not a sum"),
        ("pyramid(gram, octave=2)", "Did you mean 'octaves'"),
        ("pyramid", "no loss is called 'pyramid'"),
        ("1e999 * gram", "cannot be weighted by inf"),
        ("1e200 * (1e200 * gram)", "cannot be weighted by inf"),
        (f"{'9' * 400} * gram", "too large a number"),
        ("True * gram", "is not a sum"),
        ("", "cannot be read"),
        ("gram +", "cannot be read"),
        ("gram\0", "cannot be read"),
        ("gram; spectrum", "cannot be read"),
        ("__import__('os').system('echo')", "is not a sum"),
        ("gram.__class__", "is not a sum"),
        ("gram(layers=__import__('os'))", "not a plain number"),
        ("(lambda: gram)()", "is not a sum"),
        ("[gram for _ in (1,)]", "is not a sum"),
        ("(" * 900 + "gram" + ")" * 900, "cannot be read"),
        ("pyramid(" * 200 + "gram" + ")" * 200, "cannot be read|pyramid of pyramids|nested too deeply"),
        ("-" * 1900 + "gram", "cannot be read|is not a sum|nested too deeply"),
        ("gram+" * 5000 + "gram", "characters long; write at most"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(text, TERMS)


def test_a_long_sum_is_read() -> None:
    loss = parse("+".join(["gram"] * 250), TERMS)
    assert len(list(loss.terms())) == 250
    assert parse(str(loss), TERMS) == loss


def test_losses_of_features_need_layers() -> None:
    nothing = Context(size=(8, 8), layers=(), circular=False)
    for term in (Gram(), GaussianWasserstein(), SlicedWasserstein(), Autocorrelation()):
        with pytest.raises(ConfigError, match=f"{term.name} needs features.*random-filters.*patch_sliced_wasserstein"):
            term.taps(nothing)


def test_moments() -> None:
    maps = noise(1, 3, 5, 4)
    rows = maps[0].flatten(1).double().numpy()
    moments = Moments.of(maps)
    assert np.allclose(moments.mean, rows.mean(1))
    assert np.allclose(moments.second, rows @ rows.T / 20)
    assert np.allclose(moments.covariance, np.cov(rows, bias=True), atol=1e-6)
