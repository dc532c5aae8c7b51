"""Fourier statistics of textures: the periodic component, the spectrum constraint, autocorrelation.

Sources: Moisan 2011, "Periodic plus smooth image decomposition"; Liu et al. 2016 (spectrum constraint); Galerne et al.
2011 (texton extension); Gonthier et al. 2022 (both as synthesis losses).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from artmodels.descent.algebra import Bound, Context, Features, FeatureTerm, Moments, Term

__all__ = ["Autocorrelation", "Spectrum", "periodic_component", "resized_texton", "spectrum_projection"]

EPSILON = 1e-12


def periodic_component(image: Tensor) -> Tensor:
    """The part of an image that is smooth across its wrapped borders (Moisan 2011, eq. 5-8).

    Subtracts the harmonic image that explains the jumps between opposite borders, which otherwise put a cross of energy
    on the axes of the spectrum. The mean of the image [1, C, h, w] stays.
    """
    h, w = image.shape[-2:]
    jumps = torch.zeros_like(image)
    rows, columns = image[..., 0, :] - image[..., -1, :], image[..., :, 0] - image[..., :, -1]
    jumps[..., 0, :] += rows
    jumps[..., -1, :] -= rows
    jumps[..., :, 0] += columns
    jumps[..., :, -1] -= columns
    y = torch.arange(h, device=image.device, dtype=image.dtype) * (2 * math.pi / h)
    x = torch.arange(w // 2 + 1, device=image.device, dtype=image.dtype) * (2 * math.pi / w)
    laplacian = 4 - 2 * torch.cos(y)[:, None] - 2 * torch.cos(x)[None, :]
    laplacian[0, 0] = 1  # the jumps sum to zero, so the mean stays with the periodic part
    smooth = torch.fft.irfft2(torch.fft.rfft2(jumps) / laplacian, s=(h, w))
    result: Tensor = image - smooth
    return result


def resized_texton(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image of another size than [1, C, h, w] with the same mean, variance and autocorrelation near zero lag.

    A side that grows is padded by the mean and the contrast raised to keep the energy a pixel (Galerne et al. 2011,
    sec. IV); a side that shrinks is cropped in the middle.
    """
    (h, w), (height, width) = image.shape[-2:], size
    if (h, w) == (height, width):
        return image
    top, left = max(0, (h - height) // 2), max(0, (w - width) // 2)
    image = image[..., top : top + min(h, height), left : left + min(w, width)]
    h, w = image.shape[-2:]
    mean = image.mean(dim=(2, 3), keepdim=True)
    padded = mean.expand(-1, -1, height, width).clone()
    padded[..., :h, :w] += (image - mean) * math.sqrt(height * width / (h * w))
    return padded


def spectrum_projection(x: Tensor, transform: Tensor, *, common_phase: bool) -> Tensor:
    """The image nearest to x [1, C, H, W] among those with a given Fourier modulus.

    The modulus is that of the exemplar's `transform` by rfft2, [1, C, H, W // 2 + 1]. With a common phase, all channels
    take one phase shift, so that their relations stay the exemplar's; otherwise each has its own.
    """
    found = torch.fft.rfft2(x)
    phase = (found * transform.conj()).sum(dim=1, keepdim=True) if common_phase else found * transform.conj()
    size = phase.abs()
    unit = torch.where(size > EPSILON, phase / size.clamp_min(EPSILON), torch.ones_like(phase))
    result: Tensor = torch.fft.irfft2(transform * unit, s=x.shape[-2:])
    return result


@dataclass(frozen=True, kw_only=True)
class Spectrum(Term):
    """Distance of the image to the nearest one with the exemplar's Fourier modulus (Liu et al. 2016; Gonthier 2022).

    It is |x - p(x)|^2 over the exemplar's energy. The projection p is held constant in the gradient; this is exact.
    """

    name = "spectrum"
    needs_whole = True
    common_phase: Annotated[
        bool, "Whether the three channels take one phase shift, which keeps colours together, or each its own."
    ] = True
    periodic: Annotated[bool, "Take the exemplar's periodic component (Moisan 2011): borders then draw no cross."] = (
        True
    )

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the exemplar's transform, extended to the size of the image."""
        source = resized_texton(periodic_component(exemplar) if self.periodic else exemplar, context.size)
        transform = torch.fft.rfft2(source)
        energy = (source - source.mean(dim=(2, 3), keepdim=True)).square().sum().clamp_min(EPSILON)

        def loss(x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
            projection = spectrum_projection(x.detach(), transform, common_phase=self.common_phase)
            return (x - projection).square().sum() / energy

        return loss


@dataclass(frozen=True, kw_only=True)
class Autocorrelation(FeatureTerm):
    """Difference of the autocorrelations of each feature map (Gonthier et al. 2022, after Sendik & Cohen-Or 2017).

    They are circular, and compared over the lags that both images have.
    """

    name = "autocorrelation"
    needs_whole = True
    normalisation: Annotated[
        Literal["relative", "gonthier"],
        '"relative" to the exemplar\'s squared norm, or "gonthier": 1 / (4 N^2) as for the Gram matrix.',
    ] = "relative"

    def bind(self, exemplar: Tensor, features: Features, moments: Mapping[str, Moments], context: Context) -> Bound:
        """Keep the exemplar's autocorrelations."""
        targets = {tap: _autocorrelation(features[tap].detach()) for tap in self.taps(context)}

        def loss(x: Tensor, features: Features, moments: Mapping[str, Moments]) -> Tensor:
            losses = []
            for tap, target in targets.items():
                found = _autocorrelation(features[tap])
                h, w = (min(a, b) for a, b in zip(found.shape[-2:], target.shape[-2:], strict=True))
                a, b = _central_lags(found, h, w), _central_lags(target, h, w)
                relative = self.normalisation == "relative"
                scale = b.square().sum().clamp_min(EPSILON) if relative else 4 * target.shape[1] ** 2 * h * w
                losses.append((a - b).square().sum() / scale)
            return torch.stack(losses).mean()

        return loss


def _autocorrelation(maps: Tensor) -> Tensor:
    """[1, C, h, w] to the circular autocorrelation per pixel, lag (0, 0) first."""
    h, w = maps.shape[-2:]
    result: Tensor = torch.fft.irfft2(torch.view_as_real(torch.fft.rfft2(maps)).square().sum(-1), s=(h, w)) / (h * w)
    return result


def _central_lags(correlation: Tensor, h: int, w: int) -> Tensor:
    """The h x w lags nearest to zero."""
    if correlation.shape[-2:] == (h, w):
        return correlation
    centred = torch.fft.fftshift(correlation, dim=(2, 3))
    top, left = correlation.shape[-2] // 2 - h // 2, correlation.shape[-1] // 2 - w // 2
    result: Tensor = centred[..., top : top + h, left : left + w].roll((-(h // 2), -(w // 2)), dims=(2, 3))
    return result
