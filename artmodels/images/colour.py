"""Colour of pictures, where it is wanted from one and light from another.

Source: Gatys et al. 2016, "Preserving color in neural artistic style transfer" (arXiv:1606.05897).
"""

import torch
from torch import Tensor

__all__ = ["linearly_matched", "luminance", "with_chroma"]

LUMA = (0.299, 0.587, 0.114)  # Y of YIQ and YCbCr (Rec. 601)


def luminance(image: Tensor) -> Tensor:
    """Y of [1, 3, H, W], as [1, 1, H, W]."""
    return (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def with_chroma(bright: Tensor, content: Tensor) -> Tensor:
    """An image with the luminance of one and the chroma of another (Gatys et al. 2016, "Preserving color", sec. 3.2).

    The luminance is [1, 1, H, W], the image [1, 3, H, W] in [0, 1]. Y enters red, green and blue alike, so that chroma
    is kept by adding the change of Y to all three. Where the sum would leave [0, 1], Y stops at the last value that
    does not: chroma is exact, always.
    """
    offset = content - luminance(content)
    least, greatest = -offset.amin(dim=1, keepdim=True), 1 - offset.amax(dim=1, keepdim=True)
    return offset + torch.maximum(least, torch.minimum(greatest, bright))


def linearly_matched(image: Tensor, reference: Tensor) -> Tensor:
    """Give an image the mean colour and colour covariance of another by the optimal linear map between Gaussians.

    Source: Gatys et al. 2016, "Preserving color", sec. 3.1, with the symmetric map A = Si^-1/2 (Si^1/2 Sr Si^1/2)^1/2
    Si^-1/2 of Pitie & Kokaram 2007, which moves colours least. Colours that the image does not vary in stay constant.
    The images are [1, 3, H, W] and [1, 3, h, w]; the result is not clamped to [0, 1].
    """
    mean, covariance = _colour_moments(image)
    wanted, target = _colour_moments(reference)
    root, inverse = _root(covariance), _root(covariance, inverse=True)
    map_ = inverse @ _root(root @ target @ root) @ inverse
    rows = image[0].flatten(1).double()
    result: Tensor = (map_ @ (rows - mean) + wanted).to(image.dtype).view_as(image)
    return result


def _colour_moments(image: Tensor) -> tuple[Tensor, Tensor]:
    rows = image[0].flatten(1).double()  # [3, M]
    mean = rows.mean(dim=1, keepdim=True)
    return mean, (rows - mean) @ (rows - mean).T / rows.shape[1]


def _root(matrix: Tensor, *, inverse: bool = False) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.cpu())
    floor = max(1e-8, 1e-6 * float(values[-1]))  # below: no variation, but for rounding
    roots = values.clamp_min(0).sqrt()
    if inverse:
        roots = torch.where(values > floor, 1 / values.clamp_min(floor).sqrt(), torch.zeros_like(values))
    root: Tensor = (vectors * roots) @ vectors.T
    return root.to(matrix.device)
