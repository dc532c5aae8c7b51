import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from artmodels import features
from artmodels.errors import ArtModelsError, ConfigError, DatasetError, ImageError
from artmodels.methods.texture_synthesis import evaluate as protocol
from artmodels.methods.texture_synthesis import metrics
from artmodels.methods.texture_synthesis.metrics import displacement_score, nearest_patches


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """White noise that is 8-bit exact, [1, 3, height, width]."""
    levels = np.random.default_rng(seed).integers(0, 256, (1, 3, height, width))
    return torch.from_numpy(levels / 255).float()


def identity_map(height: int, width: int) -> Tensor:
    return torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1)


# Generalised Gaussians and wavelet KL


def test_kl_oracle() -> None:
    assert float(metrics.generalised_gaussian_kl(1.3, 0.8, 0.9, 1.2)) == pytest.approx(0.278687, abs=5e-7)


def test_kl_is_the_integral() -> None:
    x = torch.linspace(-80, 80, 800_001, dtype=torch.float64)

    def log_density(beta: float, alpha: float) -> Tensor:
        return math.log(beta / (2 * alpha)) - math.lgamma(1 / beta) - (x.abs() / alpha) ** beta

    p, q = log_density(0.9, 1.2), log_density(1.3, 0.8)
    by_quadrature = torch.trapezoid(p.exp() * (p - q), x)
    assert float(metrics.generalised_gaussian_kl(0.9, 1.2, 1.3, 0.8)) == pytest.approx(float(by_quadrature), rel=1e-6)


def test_kl_of_a_law_with_itself_is_zero_and_of_peaked_laws_is_finite() -> None:
    beta, alpha = torch.tensor([0.2, 1.0, 2.0, 10.0]), torch.tensor([1e-4, 0.1, 1.0, 3.0])
    divergences = metrics.generalised_gaussian_kl(beta, alpha, beta, alpha)
    assert divergences.abs().max() < 1e-12
    assert metrics.generalised_gaussian_kl(beta, 1.0, beta.flip(0), 1e-4).isfinite().all()


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 4.0])
def test_fit_recovers_the_law(beta: float) -> None:
    random = np.random.default_rng(0)
    # |x / alpha|^beta follows a Gamma law of shape 1 / beta.
    size = random.gamma(1 / beta, size=(2, 200_000)) ** (1 / beta)
    x = torch.from_numpy(size * random.choice([-1, 1], size.shape)) * torch.tensor([[0.3], [2.0]])
    shape, scale = metrics.fit_generalised_gaussian(x + 5)
    assert shape.tolist() == pytest.approx([beta, beta], rel=0.05)
    assert scale.tolist() == pytest.approx([0.3, 2.0], rel=0.06)


def test_fit_of_constant_and_extreme_rows() -> None:
    two_points = torch.tensor([-1.0, 1.0]).repeat(50)
    one_spike = torch.zeros(100)
    one_spike[0] = 1000.0
    shape, scale = metrics.fit_generalised_gaussian(torch.stack([torch.full((100,), 3.0), two_points, one_spike]))
    assert shape.tolist() == pytest.approx([2.0, 10.0, 0.2])
    assert scale[0] == pytest.approx(1e-4 * math.sqrt(2))
    assert scale.isfinite().all()


def test_wavelet_kl_is_zero_at_identity_and_orders_blur() -> None:
    exemplar = noise(128, 96)
    slight = 0.9 * exemplar + 0.05
    strong = 0.3 * exemplar + 0.35
    assert metrics.wavelet_kl(exemplar, exemplar) == pytest.approx(0, abs=1e-12)
    assert 0 < metrics.wavelet_kl(slight, exemplar) < metrics.wavelet_kl(strong, exemplar)


def test_wavelet_kl_of_a_contrast_change_is_the_closed_form() -> None:
    exemplar = noise(128, 128)
    result = 0.5 * exemplar  # Same shapes beta, all scales halved.
    fits = metrics._sub_band_laws(exemplar)[0]
    assert fits.shape == (9, 3)
    forward = (math.log(2) + 0.5**fits / fits - 1 / fits).sum()
    backward = (math.log(0.5) + 2**fits / fits - 1 / fits).sum()
    assert metrics.wavelet_kl(result, exemplar) == pytest.approx(float(forward), rel=1e-6)
    assert metrics.wavelet_kl(result, exemplar, reverse=True) == pytest.approx(float(backward), rel=1e-6)
    assert backward > forward


def test_wavelet_kl_of_flat_images() -> None:
    flat = torch.full((1, 3, 64, 64), 0.5)
    assert metrics.wavelet_kl(flat, torch.full((1, 3, 70, 60), 0.2)) == pytest.approx(0, abs=1e-9)
    assert math.isfinite(metrics.wavelet_kl(flat, noise(64, 64)))


# Nearest patches and displacement score


@pytest.mark.parametrize("chunk", [1, 7, 50, 100_000])
def test_nearest_patches_is_the_brute_force_search(chunk: int) -> None:
    random = np.random.default_rng(3)
    # Two grey levels make many exact ties.
    result = torch.from_numpy(random.integers(0, 2, (1, 3, 9, 13)) * 0.2).float()
    exemplar = torch.from_numpy(random.integers(0, 2, (1, 3, 11, 8)) * 0.2).float()
    a = (result * 255).round().unfold(2, 2, 1).unfold(3, 2, 1)[0].permute(1, 2, 0, 3, 4).reshape(8 * 12, -1)
    b = (exemplar * 255).round().unfold(2, 2, 1).unfold(3, 2, 1)[0].permute(1, 2, 0, 3, 4).reshape(10 * 7, -1)
    distances = (a[:, None] - b[None]).square().sum(-1).numpy()
    assert (distances == distances.min(1, keepdims=True)).sum() > 2 * len(a)
    expected = np.stack(np.unravel_index(distances.argmin(1), (10, 7)), -1).reshape(8, 12, 2)
    found = nearest_patches(result, exemplar, size=2, chunk=chunk)
    assert found.dtype == torch.int64
    assert found.tolist() == expected.tolist()


def test_nearest_patches_of_large_patches_stay_exact() -> None:
    exemplar = noise(20, 20)
    assert torch.equal(nearest_patches(exemplar, exemplar, size=13), identity_map(8, 8))


def test_nearest_patches_of_a_crop_is_the_shift() -> None:
    exemplar = noise(24, 30)
    found = nearest_patches(exemplar[..., 5:20, 9:25], exemplar)
    assert torch.equal(found, identity_map(11, 12) + torch.tensor([5, 9]))
    assert displacement_score(found) == 0


def test_nearest_patches_refuses_bad_settings() -> None:
    with pytest.raises(ConfigError, match="size and chunk must be at least 1, not 0 and 4096"):
        nearest_patches(noise(8, 8), noise(8, 8), size=0)


@pytest.mark.parametrize("distance", [0, 1, 3])
@pytest.mark.parametrize("slip", [False, True])
def test_displacement_score_of_copies_is_zero(distance: int, slip: bool) -> None:
    verbatim = identity_map(20, 30)
    for matches in (verbatim, verbatim + torch.tensor([7, -4])):
        assert displacement_score(matches, distance=distance, reference_slip=slip) == 0


def test_displacement_score_of_random_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    matches = torch.randint(0, 200, (200, 200, 2), generator=generator)
    assert displacement_score(matches) == pytest.approx(1 - 9 / 200**2, abs=1e-3)
    assert displacement_score(matches, reference_slip=True) == pytest.approx(1 - 3 / 200, abs=5e-3)


def test_displacement_score_shows_the_slip_of_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    constant_offset = identity_map(100, 200)
    constant_offset[..., 1] = torch.randint(0, 200, (100, 200), generator=generator)
    constant_row = constant_offset.clone()
    constant_row[..., 0] = 17
    for matches in (constant_offset, constant_row):
        assert displacement_score(matches, reference_slip=True) == 0
        assert displacement_score(matches) > 0.97
    # The other coordinate is the one that the slip does test.
    assert displacement_score(constant_offset.flip(-1), reference_slip=True) > 0.97


def test_displacement_score_of_a_patchwork() -> None:
    matches = identity_map(10, 20)
    matches[:, 10:] += torch.tensor([3, 50])  # One seam: 1 of 19 horizontal pairs is broken in each row.
    assert displacement_score(matches) == pytest.approx(1 / 19 / 2)
    assert displacement_score(matches, distance=50) == 0
    assert displacement_score(matches, reference_slip=True, distance=3) == 0


def test_displacement_score_refuses() -> None:
    with pytest.raises(ImageError, match="at least 2"):
        displacement_score(identity_map(1, 9))
    with pytest.raises(ConfigError, match="distance must be 0 or more, not -1"):
        displacement_score(identity_map(3, 3), distance=-1)


# Spectrum


def test_spectrum_error_identity_shift_and_contrast() -> None:
    exemplar = noise(40, 33)
    assert metrics.spectrum_error(exemplar, exemplar) == 0
    shifted = exemplar.roll((7, -5), (2, 3))
    assert metrics.spectrum_error(shifted, exemplar, periodic=True) == pytest.approx(0, abs=1e-12)
    assert metrics.spectrum_error(shifted, exemplar) > 0.01
    assert metrics.spectrum_error(0.25 * exemplar + 0.5, exemplar) == pytest.approx(0.75, abs=1e-6)


@pytest.mark.parametrize("periodic", [False, True])
def test_spectrum_error_of_independent_noise(periodic: bool) -> None:
    # Rayleigh moduli: E (a - b)^2 / E a^2 = 2 - pi / 2.
    error = metrics.spectrum_error(noise(128, 128, 1), noise(128, 128, 2), periodic=periodic)
    assert error == pytest.approx(math.sqrt(2 - math.pi / 2), abs=0.02)


@pytest.mark.parametrize("repeats", [(2, 2), (1, 3), (3, 2)])
def test_spectrum_error_of_a_tiling_is_zero_in_both_orders(repeats: tuple[int, int]) -> None:
    exemplar = noise(16, 21)
    tiled = exemplar.repeat(1, 1, *repeats)
    assert metrics.spectrum_error(tiled, exemplar, periodic=True) == pytest.approx(0, abs=1e-7)
    assert metrics.spectrum_error(exemplar, tiled, periodic=True) == pytest.approx(0, abs=1e-7)


def test_spectrum_grid_keeps_the_energy() -> None:
    image = noise(31, 50)
    for height, width in ((31, 50), (17, 50), (12, 19)):
        energy = metrics._energy(image, height, width, periodic=True)
        assert energy.shape == (3, height, width)
        assert float(energy.sum()) == pytest.approx(float(image.double().var((2, 3), correction=0).sum()))


def test_spectrum_of_a_ramp_is_all_border() -> None:
    # A linear ramp is harmonic: Moisan's smooth component takes it; the plain spectrum sees a saw tooth.
    ramp = (torch.linspace(0, 1, 32)[:, None] * 0.5 + torch.linspace(0, 1, 40) * 0.5).expand(1, 3, 32, 40)
    plain, inner = (metrics._energy(ramp, 32, 40, periodic=periodic).sum() for periodic in (True, False))
    assert inner < 2e-3 * plain


def test_spectrum_error_of_flat_images_is_finite() -> None:
    flat = torch.full((1, 3, 32, 40), 0.3)
    assert metrics.spectrum_error(flat, noise(32, 40)) == pytest.approx(1)
    assert metrics.spectrum_error(flat, flat) == 0
    assert 0 < metrics.spectrum_error(noise(32, 40), flat) < math.inf


# Sliced Wasserstein


def test_one_dimensional_distance_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(1, 200, generator=generator, dtype=torch.float64)
    b = torch.rand(1, 200, generator=generator, dtype=torch.float64) ** 2
    exact = (a.sort().values - b.sort().values).square().mean()
    assert metrics._w2_sum(a, b) == pytest.approx(float(exact), rel=1e-12)
    assert metrics._w2_sum(a, a[:, torch.randperm(200, generator=generator)]) == 0


@pytest.mark.parametrize(("n", "m"), [(30, 45), (7, 1), (5, 20), (13, 11)])
def test_unequal_sizes_equal_the_tiled_samples(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(n)
    a = torch.rand(2, n, generator=generator, dtype=torch.float64)
    b = torch.rand(2, m, generator=generator, dtype=torch.float64)
    common = math.lcm(n, m)
    tiled = metrics._w2_sum(a.repeat(1, common // n), b.repeat(1, common // m))
    assert metrics._w2_sum(a, b) == pytest.approx(tiled, rel=1e-12)
    assert metrics._w2_sum(b, a) == pytest.approx(tiled, rel=1e-12)


def test_single_pixel_patches_see_only_the_multiset() -> None:
    exemplar = noise(32, 32)
    shuffled = exemplar.flatten(2)[..., torch.randperm(1024, generator=torch.Generator().manual_seed(0))]
    shuffled = shuffled.reshape_as(exemplar)
    assert metrics.sliced_wasserstein_distance(shuffled, exemplar, size=1, scales=1) == pytest.approx(0, abs=1e-7)
    assert metrics.sliced_wasserstein_distance(shuffled, exemplar, size=1, scales=2) > 1e-3
    assert metrics.sliced_wasserstein_distance(
        exemplar.repeat(1, 1, 1, 2), exemplar, size=1, scales=3
    ) == pytest.approx(0, abs=1e-7)


def test_distance_is_in_grey_levels() -> None:
    exemplar = 0.8 * noise(48, 40)
    assert metrics.sliced_wasserstein_distance(exemplar, exemplar) == 0
    step = metrics.sliced_wasserstein_distance(exemplar + 0.1, exemplar, directions=4000, scales=2)
    assert step == pytest.approx(0.1, rel=0.03)


def test_distance_sees_the_arrangement_not_the_phase() -> None:
    def stripes(phase: int) -> Tensor:  # 70 - 7 + 1 positions of a patch are 8 whole periods.
        return ((torch.arange(70) + phase) // 4 % 2).float().expand(1, 3, 70, 70)

    shuffled = stripes(0).flatten(2)[..., torch.randperm(4900, generator=torch.Generator().manual_seed(0))]
    shuffled = shuffled.reshape(1, 3, 70, 70)  # Same histogram, other patches.
    assert metrics.sliced_wasserstein_distance(stripes(3), stripes(0), scales=1) < 1e-6
    assert metrics.sliced_wasserstein_distance(shuffled, stripes(0), scales=1) > 0.2


def test_seed_changes_directions_slightly_and_repeats_exactly() -> None:
    a, b = noise(40, 40, 1), 0.5 * noise(40, 44, 2)
    values = [metrics.sliced_wasserstein_distance(a, b, seed=seed) for seed in (0, 0, 1, 2)]
    assert values[0] == values[1]
    assert len(set(values)) == 3
    assert max(values) / min(values) < 1.1


def test_directions_are_not_those_of_a_synthesiser() -> None:
    held_out = metrics._directions(147, 128, 0)[0].float()
    assert held_out.norm(dim=1).sub(1).abs().max() < 1e-6
    drawn = torch.randn(128, 147, generator=torch.Generator().manual_seed(0))
    drawn = drawn / drawn.norm(dim=1, keepdim=True)
    assert (held_out @ drawn.T).abs().max() < 0.6


def test_float64_images_are_measured_in_float64() -> None:
    a = noise(40, 40).double()
    distance = metrics.sliced_wasserstein_distance(a + 1e-9, a, directions=64)
    assert distance == pytest.approx(1e-9, rel=0.2)


def test_distance_refuses_bad_settings() -> None:
    a = noise(32, 32)
    with pytest.raises(ConfigError, match="size 7 and scales 0"):
        metrics.sliced_wasserstein_distance(a, a, scales=0)
    with pytest.raises(ConfigError, match="directions must be at least 1"):
        metrics.sliced_wasserstein_distance(a, a, directions=0)
    with pytest.raises(ConfigError, match="seed at least 0, not 128 and -1"):
        metrics.sliced_wasserstein_distance(a, a, seed=-1)


def test_feature_distance() -> None:
    extractor = features.build("random-filters")
    taps = extractor.taps[:2]
    exemplar, other = noise(96, 96, 1), 0.5 * noise(96, 110, 2)
    same_kind = noise(96, 96, 3)

    def distance(image: Tensor) -> float:
        return metrics.feature_sliced_wasserstein_distance(image, exemplar, extractor, taps)

    assert distance(exemplar) == 0
    assert 0 < distance(same_kind) < 0.5 * distance(other)
    assert distance(other) == distance(other)
    with pytest.raises(ConfigError, match="needs a tap"):
        metrics.feature_sliced_wasserstein_distance(other, exemplar, extractor, [])


def test_feature_distance_is_relative_to_the_exemplar() -> None:
    class Thousandfold:
        def minimum_size(self, tap: str) -> int:
            return 3

        def __call__(self, x: Tensor, taps: list[str]) -> dict[str, Tensor]:
            return dict.fromkeys(taps, 1000 * x)

    exemplar = noise(20, 20)
    spread = float(exemplar.var((2, 3), correction=0).mean().sqrt())
    result = metrics.feature_sliced_wasserstein_distance(
        exemplar + spread, exemplar, Thousandfold(), ["a", "b"], directions=4000
    )
    assert result == pytest.approx(1, rel=0.03)
    with pytest.raises(ImageError, match="the result is 9x2 pixels; each side must be at least 3"):
        metrics.feature_sliced_wasserstein_distance(exemplar[..., :2, :9], exemplar, Thousandfold(), ["a"])


# What every measure refuses

MEASURES = [
    (metrics.wavelet_kl, 56),
    (nearest_patches, 5),
    (metrics.spectrum_error, 2),
    (metrics.sliced_wasserstein_distance, 28),
]


@pytest.mark.parametrize(("measure", "minimum"), MEASURES)
def test_measures_refuse_small_images(measure: Callable[[Tensor, Tensor], object], minimum: int) -> None:
    exact, small = noise(minimum, minimum), noise(minimum, minimum - 1)
    measure(exact, exact)
    message = f"{measure.__name__}: the {{}} is {minimum - 1}x{minimum} pixels; each side must be at least"
    message += f" {minimum}"
    with pytest.raises(ImageError, match=message.format("exemplar")):
        measure(exact, small)
    with pytest.raises(ImageError, match=message.format("result")):
        measure(small, exact)


@pytest.mark.parametrize("measure", [measure for measure, _ in MEASURES])
def test_measures_refuse_what_is_no_image(measure: Callable[[Tensor, Tensor], object]) -> None:
    good = noise(64, 64)
    with pytest.raises(ImageError, match=r"must be a float tensor \[1, 3, H, W\].*not torch.float32 \[3x64x64\]"):
        measure(good[0], good)
    with pytest.raises(ImageError, match="not torch.uint8"):
        measure(good, (good * 255).byte())
    diverged = good.clone()
    diverged[0, 0, 0, 0] = math.nan
    with pytest.raises(ImageError, match="the result has pixels that are not finite"):
        measure(diverged, good)


class Numbers(TorchDispatchMode):
    """Counts the numbers that torch writes: work that is the same on every machine."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.written += result.numel() if isinstance(result, Tensor) else 0
        return result


def test_measures_do_not_work_more_than_they_must() -> None:
    a, b = noise(512, 512, 1), noise(512, 512, 2)
    with Numbers() as numbers:
        metrics.wavelet_kl(a, b)
    assert numbers.written < 20 * (a.numel() + b.numel())  # the bisection runs over laws, not over pixels
    with Numbers() as numbers, FlopCounterMode(display=False) as flops:
        nearest_patches(a[..., :128, :128], b[..., :128, :128])
    pairs = (128 - 5 + 1) ** 4
    assert flops.get_total_flops() == pairs * 2 * 3 * 5**2  # each pair of patches is multiplied once
    assert numbers.written < 3 * pairs


# The protocol


def copying(exemplar: Tensor, seed: int) -> Tensor:
    return exemplar.clone()


def save(path: Path, image: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "exemplars"
    save(folder / "b.png", noise(60, 64, 1))
    save(folder / "deep" / "a.PNG", noise(120, 180, 2))
    (folder / "c.jpg").write_bytes(b"not an image")
    save(folder / "d.png", noise(30, 64, 3))
    (folder / "notes.txt").write_text("not an exemplar")
    return folder


def test_evaluate_a_copy() -> None:
    seeds = []

    def synthesise(exemplar: Tensor, seed: int) -> Tensor:
        seeds.append(seed)
        return exemplar

    row = protocol.evaluate(synthesise, "brick", noise(60, 64), seed=5)
    assert (row.name, row.height, row.width, row.seed, seeds) == ("brick", 60, 64, 5, [5])
    assert row.displacement_score == row.displacement_score_y == row.spectrum_error == 0
    assert row.sliced_wasserstein == 0
    assert row.wavelet_kl == pytest.approx(0, abs=1e-12)


def test_evaluate_refuses_an_exemplar_that_is_too_small() -> None:
    with pytest.raises(ImageError, match="20x20"):
        protocol.evaluate(copying, "small", noise(20, 20))


def test_table_prints_means_beside_the_published_ones() -> None:
    numbers = {"wavelet_kl": 1.0, "spectrum_error": 0.5, "sliced_wasserstein": 0.01, "seconds": 2.0}
    rows = [
        protocol.TextureScores(
            name=name, height=9, width=7, seed=0, displacement_score=d, displacement_score_y=d / 2, **numbers
        )
        for name, d in (("brick.png", 0.5), ("a longer name.png", 0.7))
    ]
    lines = protocol.table(rows).splitlines()
    assert lines[1].split() == ["brick.png", "7x9", "1.000", "0.500", "0.250", "0.500", "0.0100", "2.0"]
    assert lines[3].split() == ["mean", "of", "2", "1.000", "0.600", "0.300", "0.500", "0.0100", "2.0"]
    assert len({len(line) for line in lines[:4]}) == 1
    found = {line.rsplit(maxsplit=1)[0].strip(): float(line.split()[-1]) for line in lines[7:] if line.strip()}
    assert found == {"this run, y and x": 0.6, "this run, y only": 0.3, **protocol.PUBLISHED}
    assert len(protocol.PUBLISHED) == 11
    assert any("Exemplars differ" in line for line in lines)
    with pytest.raises(DatasetError, match="no scores"):
        protocol.table([])


def test_folder_skips_bad_files_and_goes_on(folder: Path) -> None:
    seen: list[tuple[int, ...]] = []

    def synthesise(exemplar: Tensor, seed: int) -> Tensor:
        seen.append(tuple(exemplar.shape))
        return exemplar

    *steps, rows = protocol.stream_evaluate_folder(synthesise, folder, name="copy", size=60)
    assert [(step.done, step.total) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [row.name for row in rows] == ["b.png", "deep/a.PNG"]
    assert seen == [(1, 3, 60, 60), (1, 3, 30, 30), (1, 3, 60, 60)]
    skipped = [step.what for step in steps if "skipped" in step.what]
    assert [line.split(":")[0] for line in skipped] == ["c.jpg", "d.png"]
    assert "each side must be at least 56" in skipped[1]


def test_central_square_averages_areas() -> None:
    image = noise(8, 12)
    square = protocol._central_square(image, 4)
    expected = torch.nn.functional.avg_pool2d(image, 2)[..., 1:5]
    assert torch.allclose(square, expected)
    assert torch.equal(protocol._central_square(image, 100), image[..., 2:10])


def test_folder_resumes_from_its_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    calls: list[int] = []

    def stopped(exemplar: Tensor, seed: int) -> Tensor:
        if calls:
            raise KeyboardInterrupt
        calls.append(seed)
        return exemplar

    with pytest.raises(KeyboardInterrupt):
        protocol.evaluate_folder(stopped, folder, name="copy", size=60, json_file=file)
    assert [row["name"] for row in json.loads(file.read_text())["rows"]] == ["b.png"]

    synthesised: list[Tensor] = []

    def synthesise(exemplar: Tensor, seed: int) -> Tensor:
        synthesised.append(exemplar)
        return exemplar

    def run() -> list[protocol.TextureScores]:
        synthesised.clear()
        return protocol.evaluate_folder(synthesise, folder, name="copy", size=60, json_file=file)

    first = run()
    assert [row.name for row in first] == ["b.png", "deep/a.PNG"]
    assert len(synthesised) == 2  # a.PNG and the one that is too small, not b.png again
    assert run() == first
    assert len(synthesised) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exemplars", "scores.json"]


def test_file_of_scores_of_other_settings_or_damaged(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.json"

    def run(**settings: object) -> None:
        options = {"name": "copy", "size": 60} | settings
        protocol.evaluate_folder(copying, folder, json_file=file, **options)

    run()
    before = file.read_bytes()
    for other in ({"name": "gram"}, {"size": 64}, {"seed": 1}):
        with pytest.raises(ConfigError, match="give another file"):
            run(**other)
    assert file.read_bytes() == before
    for damaged in ("{", "[]", '{"settings": {}, "rows": [{"name": "x"}]}', "\udcff"):
        file.write_text(damaged, errors="surrogateescape")
        with pytest.raises(DatasetError, match="is not a file of scores"):
            run()


def test_file_of_scores_that_cannot_be_written_is_known_before_the_work(folder: Path, tmp_path: Path) -> None:
    def never(exemplar: Tensor, seed: int) -> Tensor:
        raise AssertionError("synthesised although the scores cannot be kept")

    with pytest.raises(ArtModelsError, match="could not write"):
        next(protocol.stream_evaluate_folder(never, folder, name="copy", json_file=tmp_path / "absent" / "scores.json"))


def test_folders_without_usable_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="There is no folder"):
        next(protocol.stream_evaluate_folder(copying, tmp_path / "absent", name="copy"))
    with pytest.raises(DatasetError, match="holds no image"):
        next(protocol.stream_evaluate_folder(copying, tmp_path, name="copy"))
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DatasetError, match="None of the 1 images"):
        protocol.evaluate_folder(copying, tmp_path, name="copy")


class FakeSynthesizer:
    @classmethod
    def from_pretrained(cls, name: str, *, device: str) -> "FakeSynthesizer":
        assert (name, device) == ("texture-patches", "cpu")
        return cls()

    def __call__(self, exemplar: Tensor, *, size: tuple[int, int], seed: int) -> SimpleNamespace:
        assert size == tuple(exemplar.shape[-2:])
        return SimpleNamespace(tensor=exemplar.flip(3))


@pytest.fixture
def fake_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("artmodels.methods.texture_synthesis.pipeline")
    module.TextureSynthesizer = FakeSynthesizer
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_main_prints_the_table(
    folder: Path, tmp_path: Path, fake_pipeline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scores.json"
    with pytest.raises(SystemExit) as stop:
        protocol.main([str(folder), "--size", "60", "--json", str(file)])
    assert stop.value.code == 0
    told = capsys.readouterr()
    assert "mean of 2" in told.out
    assert "Efros-Freeman" in told.out
    assert "c.jpg: skipped" in told.err
    assert len(json.loads(file.read_text())["rows"]) == 2


def test_main_says_what_is_wrong(tmp_path: Path, fake_pipeline: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        protocol.main([str(tmp_path)])
    assert stop.value.code == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert "holds no image" in told.err
