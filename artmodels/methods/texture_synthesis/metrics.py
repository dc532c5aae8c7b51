"""How far a synthesised texture is from its exemplar: tensors in, numbers out.

Images are float tensors [1, 3, H, W] in [0, 1]; the result and the exemplar may differ in size. Another tensor, one
that is not finite or one that is too small is an ImageError. No measure needs the network that made the result, so that
a method cannot win by being judged on what it optimised.
Sources: wavelet KL and displacement score, Gonthier, Gousseau and Ladjal 2022, "High resolution neural texture
synthesis with long range constraints", JMIV; generalised Gaussians, Mallat 1989, Do and Vetterli 2002; periodic plus
smooth decomposition, Moisan 2011; sliced Wasserstein, Rabin 2011, Heitz 2021.
"""

import math
from collections.abc import Sequence

import numpy as np
import pywt
import torch
from torch import Tensor
from torch.nn import functional as F

from artmodels.descent.sliced import sorted_values
from artmodels.descent.terms import first_minimum
from artmodels.errors import ConfigError, ImageError
from artmodels.features.extractor import FeatureExtractor

__all__ = [
    "displacement_score",
    "feature_sliced_wasserstein_distance",
    "fit_generalised_gaussian",
    "generalised_gaussian_kl",
    "nearest_patches",
    "sliced_wasserstein_distance",
    "spectrum_error",
    "verbatim_share",
    "wavelet_kl",
]

# Far under the noise of 8-bit rounding, 1.1e-3: a sub-band this flat is constant, and all such are equal.
_FLAT = 1e-4
_SHAPES = (0.2, 10.0)
_LEVELS = 3
_GREY_LEVEL = 1 / 255
# numpy's generator, not torch's: a synthesiser that draws with the same seed still gets other directions.
_HELD_OUT = 20_221_118


def generalised_gaussian_kl(
    beta1: Tensor | float, alpha1: Tensor | float, beta2: Tensor | float, alpha2: Tensor | float
) -> Tensor:
    """Kullback-Leibler divergence KL(1 || 2) of two centred generalised Gaussians.

    The density is proportional to exp(-(|x| / alpha)^beta), of shape beta > 0 and scale alpha > 0; the expectation is
    taken under the first law. Arguments broadcast. The divergence is in nats, float64, >= 0 (Do and Vetterli 2002).
    """
    b1, a1, b2, a2 = (torch.as_tensor(v, dtype=torch.float64) for v in (beta1, alpha1, beta2, alpha2))
    log_mass1, log_mass2 = torch.lgamma(1 / b1), torch.lgamma(1 / b2)
    log_ratio = (b1 / b2).log() + (a2 / a1).log() + log_mass2 - log_mass1
    # In logarithms: the Gamma functions alone overflow for very peaked laws.
    moment = (b2 * (a1 / a2).log() + torch.lgamma((b2 + 1) / b1) - log_mass1).exp()
    return log_ratio + moment - 1 / b1


def fit_generalised_gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    """Fit generalised Gaussians to samples [..., N] by matching the first two absolute moments (Mallat 1989).

    Each row is fitted on its own, after its mean is taken off. The results are (beta, alpha), float64 [...]: shapes,
    held within [0.2, 10], and scales in the unit of `x`. A row whose standard deviation is under 1e-4 is taken as a
    Gaussian of that deviation, so that constant rows stay comparable.
    """
    x = x.detach().to("cpu", torch.float64)
    x = x - x.mean(-1, keepdim=True)
    deviation = x.square().mean(-1).sqrt()
    flat = deviation < _FLAT
    deviation = deviation.clamp_min(_FLAT)
    ratio = x.abs().mean(-1) / deviation
    low, high = (torch.full_like(ratio, shape) for shape in _SHAPES)
    for _ in range(50):  # The moment ratio grows with the shape, so bisection cannot miss.
        middle = (low + high) / 2
        too_small = _moment_ratio(middle) < ratio
        low, high = torch.where(too_small, middle, low), torch.where(too_small, high, middle)
    beta = torch.where(flat, 2.0, (low + high) / 2)
    alpha = deviation * ((torch.lgamma(1 / beta) - torch.lgamma(3 / beta)) / 2).exp()
    return beta, alpha


def _moment_ratio(beta: Tensor) -> Tensor:
    """E|x| / sqrt(E x^2) of a generalised Gaussian of shape `beta`."""
    return (torch.lgamma(2 / beta) - (torch.lgamma(1 / beta) + torch.lgamma(3 / beta)) / 2).exp()


def wavelet_kl(result: Tensor, exemplar: Tensor, *, reverse: bool = False) -> float:
    """Divergence of the wavelet marginals: small for the same contrast at each scale and orientation.

    Each RGB channel is decomposed by the Daubechies wavelet with four vanishing moments (8 taps), three
    levels, symmetric borders; generalised Gaussians are fitted to the nine detail sub-bands, and the
    divergences KL(result || exemplar) are summed over the 9 x 3 pairs. The approximation band, with the mean colour, is
    left out. The reverse, KL(exemplar || result), punishes details that the result lacks far harder.

    The sum is in nats, >= 0; 0 for equal images. A side under 56 pixels is too small for three levels.
    """
    result, exemplar = _checked(result, exemplar, 7 * 2**_LEVELS, "wavelet_kl")
    laws = [_sub_band_laws(image) for image in (result, exemplar)]
    (beta1, alpha1), (beta2, alpha2) = reversed(laws) if reverse else laws
    return max(0.0, float(generalised_gaussian_kl(beta1, alpha1, beta2, alpha2).sum()))


def _sub_band_laws(image: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes and scales [9, 3] of the detail sub-bands."""
    pixels = image[0].cpu().double().numpy()
    levels = pywt.wavedec2(pixels, "db4", mode="symmetric", level=_LEVELS, axes=(-2, -1))[1:]
    fits = [fit_generalised_gaussian(torch.from_numpy(band).flatten(1)) for level in levels for band in level]
    return torch.stack([beta for beta, _ in fits]), torch.stack([alpha for _, alpha in fits])


def spectrum_error(result: Tensor, exemplar: Tensor, *, periodic: bool = False) -> float:
    """Relative L2 difference of the Fourier moduli.

    With M the moduli of the three channels without the mean, || M(result) - M(exemplar) || / || M(exemplar)
    ||, norms over channels and frequencies. Images of different sizes are compared on the frequency grid of
    the smaller side: each finer frequency cell gives its energy to the cells of that grid that it overlaps,
    which keeps the total and makes an exact tiling of the exemplar score 0 where both wrap around. Two
    independent samples of one Gaussian texture score about 0.65, not 0, as each periodogram is noisy.

    Of `periodic` images, which wrap around, the plain spectrum is taken, and a circular shift changes nothing;
    otherwise Moisan's periodic component, without the cross that borders draw. The error is >= 0; an exemplar fainter
    than one 8-bit grey level counts as of that contrast.
    """
    result, exemplar = _checked(result, exemplar, 2, "spectrum_error")
    height, width = (min(a, b) for a, b in zip(result.shape[-2:], exemplar.shape[-2:], strict=True))
    moduli = [_energy(image, height, width, periodic=periodic).sqrt() for image in (result, exemplar)]
    error, norm = torch.linalg.vector_norm(moduli[0] - moduli[1]), torch.linalg.vector_norm(moduli[1])
    return float(error / norm.clamp_min(_GREY_LEVEL))


def _energy(image: Tensor, height: int, width: int, *, periodic: bool) -> Tensor:
    """Share of the variance of each channel at each frequency, [3, height, width]."""
    pixels = image[0].cpu().double()
    spectrum = torch.fft.fft2(pixels)
    if not periodic:
        spectrum = spectrum - _smooth_spectrum(pixels)
    spectrum[..., 0, 0] = 0
    rows, columns = pixels.shape[-2:]
    energy = spectrum.abs().square() / (rows * columns) ** 2
    return torch.einsum("yh,chw,xw->cyx", _overlaps(height, rows), energy, _overlaps(width, columns))


def _smooth_spectrum(pixels: Tensor) -> Tensor:
    """Transform of the smooth component of [3, H, W] images (Moisan 2011)."""
    border = torch.zeros_like(pixels)
    across, along = pixels[:, -1] - pixels[:, 0], pixels[:, :, -1] - pixels[:, :, 0]
    border[:, 0] += across
    border[:, -1] -= across
    border[:, :, 0] += along
    border[:, :, -1] -= along
    y, x = (torch.cos(2 * torch.pi * torch.arange(n, dtype=torch.float64) / n) for n in pixels.shape[1:])
    laplacian = 2 * y[:, None] + 2 * x[None] - 4
    laplacian[0, 0] = 1  # The border image sums to 0, so this frequency is 0 whatever it is divided by.
    smooth: Tensor = torch.fft.fft2(border) / laplacian
    return smooth


def _overlaps(coarse: int, fine: int) -> Tensor:
    """Share of each fine frequency cell that lies in each coarse one, on the circle, [coarse, fine]."""
    start = torch.arange(coarse, dtype=torch.float64)[:, None]
    low = (torch.arange(fine, dtype=torch.float64) - 0.5) * (coarse / fine) + 0.5
    shares = torch.zeros(coarse, fine, dtype=torch.float64)
    for turn in (0, coarse):
        inside = torch.minimum(low + coarse / fine, start + turn + 1) - torch.maximum(low, start + turn)
        shares += inside.clamp_min(0)
    return shares * (fine / coarse)


def sliced_wasserstein_distance(
    result: Tensor, exemplar: Tensor, *, size: int = 7, scales: int = 3, directions: int = 128, seed: int = 0
) -> float:
    """Sliced Wasserstein-2 distance of the patches of two images over a pyramid of 2 x 2 averages.

    At each scale all patches are projected on random unit directions of R^(3 size^2); the squared 1-D
    Wasserstein distances, exact for any two sizes, are averaged over directions and scales, and the root is
    taken. An image that is brighter by d scores about d, so the unit is the grey level of [0, 1]. The
    directions are held out: they never are the ones that torch draws for a synthesiser with the same seed. The distance
    is 0 if both images have the same patches, in any order and number of repeats.

    Args:
        result: The image to judge; a side under size * 2^(scales - 1) pixels is too small.
        exemplar: What it is compared with.
        size: Side of the square patches, in pixels.
        scales: Number of pyramid levels, the full image included.
        directions: Number of directions at each scale.
        seed: Non-negative seed of the directions.
    """
    if size < 1 or scales < 1:
        raise ConfigError(f"sliced_wasserstein_distance: size {size} and scales {scales} must be at least 1.")
    result, exemplar = _checked(result, exemplar, size * 2 ** (scales - 1), "sliced_wasserstein_distance")
    total = 0.0
    for scale, drawn in enumerate(_directions(3 * size**2, directions, seed, repeats=scales)):
        if scale:
            result, exemplar = F.avg_pool2d(result, 2), F.avg_pool2d(exemplar, 2)
        filters = drawn.to(exemplar).reshape(-1, 3, size, size)
        for some in filters.split(16):  # Memory: 16 projections of all pixels at a time.
            total += _w2_sum(*(F.conv2d(image, some)[0].flatten(1) for image in (result, exemplar)))
    return math.sqrt(total / (directions * scales))


def feature_sliced_wasserstein_distance(
    result: Tensor,
    exemplar: Tensor,
    extractor: FeatureExtractor,
    taps: Sequence[str],
    *,
    directions: int = 128,
    seed: int = 0,
) -> float:
    """Sliced Wasserstein-2 distance of features, to judge a result by ones that it did not optimise.

    Per tap, features are projected on random unit directions of R^C, and the mean squared 1-D Wasserstein
    distance is divided by the mean variance of the exemplar's channels, so that taps weigh alike. The result is the
    root of the mean over taps: 1 means that the feature distributions are about one standard deviation apart. The
    extractor is on the images' device; each of the `directions` of a tap is held out, as above.
    """
    if not taps:
        raise ConfigError("feature_sliced_wasserstein_distance needs a tap at least: see extractor.taps.")
    minimum = max(extractor.minimum_size(tap) for tap in taps)
    result, exemplar = _checked(result, exemplar, minimum, "feature_sliced_wasserstein_distance")
    with torch.no_grad():
        ours, theirs = extractor(result, taps), extractor(exemplar, taps)
    total = 0.0
    for tap in taps:
        a, b = ours[tap][0].flatten(1), theirs[tap][0].flatten(1)  # [C, N], [C, N']
        (drawn,) = _directions(b.shape[0], directions, seed)
        distance = sum(_w2_sum(some @ a, some @ b) for some in drawn.to(b).split(16))
        total += distance / directions / float(b.var(-1, correction=0).mean().clamp_min(1e-12))
    return math.sqrt(total / len(taps))


def _directions(dimension: int, count: int, seed: int, *, repeats: int = 1) -> Tensor:
    """Random unit vectors [repeats, count, dimension]."""
    if count < 1 or seed < 0:
        raise ConfigError(f"directions must be at least 1 and seed at least 0, not {count} and {seed}.")
    drawn = np.random.default_rng((_HELD_OUT, seed)).standard_normal((repeats, count, dimension))
    return F.normalize(torch.from_numpy(drawn), dim=-1)


def _w2_sum(a: Tensor, b: Tensor) -> float:
    """Sum over the rows of [D, N] and [D, M] of the exact squared 1-D Wasserstein-2 distance."""
    a, b = sorted_values(a), sorted_values(b)
    n, m = a.shape[-1], b.shape[-1]
    if n == m:
        return float((a - b).square().mean(-1).sum())
    # Both quantile functions are steps: they are constant between the merged breakpoints i / n and j / m.
    merged = np.sort(np.concatenate((np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)))
    ends = torch.from_numpy(merged).to(a.device)
    widths = torch.from_numpy(np.diff(merged, prepend=0) / (n * m))
    gaps = a.index_select(1, (ends - 1) // m) - b.index_select(1, (ends - 1) // n)
    return float((gaps.square() @ widths.to(gaps)).sum())


def nearest_patches(result: Tensor, exemplar: Tensor, *, size: int = 5, chunk: int = 4096) -> Tensor:
    """Where in the exemplar each patch of the result has its exact nearest neighbour.

    Both images, [1, 3, H, W] and [1, 3, H', W'] in [0, 1], are first rounded to 8 bits, as saved pictures are. Squared
    distances are then integers that float32 holds without error, so the search is exact, and the same on every device
    and for every `chunk`: how many patches of each image, of `size` x `size` pixels, are compared at a time. Memory
    grows with its square. The search runs on the exemplar's device.

    Returns:
        int64 [H - size + 1, W - size + 1, 2]: (y, x) of the top left corner of the nearest patch of the
        exemplar in the L2 norm; of equally near ones, the first in reading order.
    """
    if size < 1 or chunk < 1:
        raise ConfigError(f"nearest_patches: size and chunk must be at least 1, not {size} and {chunk}.")
    result, exemplar = _checked(result, exemplar, size, "nearest_patches")
    # |b|^2 - 2ab of values within 128 stays a float32 integer up to this many terms.
    exact = torch.float32 if 9 * size**2 * 128**2 <= 2**24 else torch.float64
    queries, keys = ((image.clamp(0, 1) * 255).round().sub(128).to(exact) for image in (result, exemplar))
    width = keys.shape[-1] - size + 1
    found = [_search(band, keys, size, chunk) for _, band in _bands(queries, size, chunk)]
    index = torch.cat(found).reshape(queries.shape[-2] - size + 1, queries.shape[-1] - size + 1)
    return torch.stack((index // width, index % width), -1)


def verbatim_share(
    result: Tensor, exemplar: Tensor, *, size: int = 9, tolerance: float = 0.25, windows: int = 512, seed: int = 0
) -> float:
    """How much of a result is copied from the exemplar as it stands: 0 for nothing, 1 for all.

    It is the share of windows of `size` x `size` pixels, at most so many and drawn with the seed, that some place of
    the exemplar resembles to within `tolerance` of its contrast: the root mean square of their difference, over the
    exemplar's standard deviation, and at least a grey level. Unlike the displacement score it says how much a viewer
    would recognise, not whether neighbours come from one place, and it takes about a second.
    """
    result, exemplar = _checked(result, exemplar, size, "verbatim_share")
    rows, columns = (side - size + 1 for side in result.shape[-2:])
    count = min(windows, rows * columns)
    chosen = torch.from_numpy(np.random.default_rng(seed).choice(rows * columns, count, replace=False))
    reach = torch.arange(size)
    down = (chosen // columns)[:, None] + reach  # [W, size]
    across = (chosen % columns)[:, None] + reach
    windows_ = result[0][:, down[:, :, None], across[:, None, :]].transpose(0, 1).flatten(1)  # [W, 3 size^2]
    best = torch.full((count,), torch.inf)
    for _, band in _bands(exemplar, size, 16384):
        keys = F.unfold(band, size)[0]  # [3 size^2, K]
        table = torch.addmm(keys.square().sum(0, keepdim=True), windows_, keys, alpha=-2)
        best = torch.minimum(best, table.amin(1).cpu())
    squared = (best + windows_.square().sum(1).cpu()).clamp_min(0) / windows_.shape[1]
    contrast = float(exemplar.var(dim=(2, 3), correction=0).mean().sqrt())
    return float((squared.sqrt() <= max(tolerance * contrast, _GREY_LEVEL)).double().mean())


def _bands(image: Tensor, size: int, chunk: int) -> list[tuple[int, Tensor]]:
    """Bands of rows that hold about `chunk` patches each, with the index of the first patch of each."""
    width = image.shape[-1] - size + 1
    rows = max(1, chunk // width)
    starts = range(0, image.shape[-2] - size + 1, rows)
    return [(start * width, image[..., start : start + rows + size - 1, :]) for start in starts]


def _search(queries: Tensor, keys: Tensor, size: int, chunk: int) -> Tensor:
    """Index of the nearest patch of `keys` for each patch of `queries`, [Q]."""
    a = F.unfold(queries, size)[0].T.contiguous()  # [Q, 3 size^2]
    best = torch.full((a.shape[0],), torch.inf, dtype=a.dtype, device=a.device)
    index = torch.zeros_like(best, dtype=torch.int64)
    for start, band in _bands(keys, size, chunk):
        b = F.unfold(band, size)[0]  # [3 size^2, K]
        scores = torch.addmm(b.square().sum(0, keepdim=True), a, b, alpha=-2)  # |a - b|^2 - |a|^2
        first = first_minimum(scores)
        value = scores.gather(1, first[:, None])[:, 0]
        closer = value < best  # Strictly, so that the first of equals is kept.
        best, index = torch.where(closer, value, best), torch.where(closer, first + start, index)
    return index


def displacement_score(matches: Tensor, *, distance: int = 1, reference_slip: bool = False) -> float:
    """How little is copied verbatim: 0 for a copy, 1 where no two neighbours come from one place.

    Inside a copied piece the match of the pixel to the right is the pixel to the right of the match, that is,
    the displacement (match minus own position) is constant. A pair of vertical or horizontal neighbours
    counts as copied when their displacements differ by at most `distance` in y and in x. The score is 1 minus
    the copied share, averaged over the two directions. A pure shift scores 0, whatever `distance`; unrelated
    positions score 1 - (2 distance + 1)^2 / (number of patches), near 1.

    The matches are integer positions (y, x), [H, W, 2] with H and W at least 2, from `nearest_patches`.
    `reference_slip` tests y only, as the authors' released evaluation does by a slip. Published means were presumably
    computed that way; a map with constant y and random x then scores 0 instead of near 1.
    """
    if matches.ndim != 3 or matches.shape[-1] != 2 or min(matches.shape[:2]) < 2:
        raise ImageError(
            f"displacement_score needs a map [H, W, 2] with H and W at least 2, not {tuple(matches.shape)}; "
            "use a larger image or smaller patches."
        )
    if distance < 0:
        raise ConfigError(f"displacement_score: distance must be 0 or more, not {distance}.")
    rows, columns = (torch.arange(n) for n in matches.shape[:2])
    displacement = matches.cpu().long() - torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
    tested = displacement[..., :1] if reference_slip else displacement
    shares = [(tested.diff(dim=axis).abs() <= distance).all(-1).double().mean() for axis in (0, 1)]
    return 1.0 - float(shares[0] + shares[1]) / 2


def _checked(result: Tensor, exemplar: Tensor, minimum: int, measure: str) -> tuple[Tensor, Tensor]:
    """Both images with the exemplar's type and device, without gradient.

    One that is no finite image [1, 3, H, W], or has a side under `minimum` pixels, is an ImageError that names the
    `measure` and which of the two it is.
    """
    for name, image in (("result", result), ("exemplar", exemplar)):
        if image.ndim != 4 or image.shape[:2] != (1, 3) or not image.is_floating_point():
            shape = "x".join(map(str, image.shape))
            raise ImageError(
                f"{measure}: the {name} must be a float tensor [1, 3, H, W] in [0, 1], not {image.dtype} [{shape}]."
            )
        height, width = image.shape[-2:]
        if min(height, width) < minimum:
            raise ImageError(
                f"{measure}: the {name} is {width}x{height} pixels; each side must be at least {minimum}. "
                "Use a larger image."
            )
        if not bool(image.isfinite().all()):
            raise ImageError(f"{measure}: the {name} has pixels that are not finite; its synthesis diverged.")
    return result.detach().to(exemplar), exemplar.detach()
