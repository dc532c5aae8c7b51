"""Where in a picture a network looks: VisualBackProp, of whatever excites it, and Grad-CAM, of one class.

Source: Bojarski et al. 2016, "VisualBackProp: efficient visualization of CNNs"; Selvaraju et al. 2017, "Grad-CAM:
Visual Explanations from Deep Networks via Gradient-based Localization".
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from artmodels.errors import ConfigError
from artmodels.features.extractor import FeatureExtractor
from artmodels.features.stages import Residual, Window
from artmodels.methods.interpret.taps import TappedNetwork, check_taps

__all__ = ["grad_cam", "overlaid", "visual_backprop"]


def visual_backprop(extractor: FeatureExtractor, images: Tensor, *, tap: str | None = None) -> Tensor:
    """Where the rectified maps of all layers up to a tap agree that something is, without any gradient.

    From the deepest layer to the picture, the sum over channels of each rectified map is multiplied by what came from
    the layers behind it, and brought to the size of the layer before by a transposed convolution with ones, of the
    layer's own kernel, stride and padding. Of branches, what arrives where they part is added up. A residual block
    counts as one map, that after its sum; what lies inside is undone by the windows of its longest path.

    Args:
        extractor: The network.
        images: [N, 3, H, W] in [0, 1].
        tap: The deepest layer; None takes the last tap.

    Returns:
        [N, 1, H, W] on the CPU, from 0 to 1 in each picture; 0 everywhere where no map is above 0. Strides show in it
        as a fine grid.

    Raises:
        ConfigError: The extractor has no such tap, or no rectified map before it.
    """
    tap = extractor.taps[-1] if tap is None else tap
    (tap,) = check_taps(extractor, [tap])
    needed, waiting = set[int](), [extractor.index[tap]]
    while waiting:
        number = waiting.pop()
        if number >= 0 and number not in needed:
            needed.add(number)
            waiting += _sources(extractor, number)
    maps = _sums_of_channels(extractor, images, tap, needed)
    sizes = {number: found.shape[-2:] for number, found in maps.items()} | {-1: images.shape[-2:]}
    arrived: dict[int, list[_Mask]] = {number: [] for number in (-1, *needed)}
    for number in sorted(needed, reverse=True):  # each stage stands after those it reads
        stage = extractor.stages[number]
        mask = _Mask.added(arrived[number])
        if _rectifies(stage):
            own = _Mask.of(maps[number])
            mask = own if mask is None else _Mask.of(mask.values * own.values).times(mask.scale + own.scale)
        if mask is None:  # behind the last rectified map
            continue
        for source in _sources(extractor, number):
            spread = _spread(stage, mask.values, sizes[source], extractor.padding)
            arrived[source].append(_Mask.of(spread).times(mask.scale))
    final = _Mask.added(arrived[-1])
    if final is None:
        raise ConfigError(f"{extractor.name} has no rectified map up to {tap!r}: VisualBackProp needs some")
    return _from_0_to_1(final.values)


class _Mask(NamedTuple):
    """A mask of each picture: products of many maps would leave the range of the numbers, and this does not."""

    values: Tensor  # [N, 1, h, w], from 0 to 1 in each picture
    scale: Tensor  # [N, 1, 1, 1], logarithm of what they are to be multiplied by

    @classmethod
    def of(cls, values: Tensor) -> "_Mask":
        greatest = values.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        return cls(values / greatest, greatest.double().log())

    def times(self, scale: Tensor) -> "_Mask":
        return _Mask(self.values, self.scale + scale)

    @classmethod
    def added(cls, masks: "Sequence[_Mask]") -> "_Mask | None":
        """The sum; None of none."""
        if not masks:
            return None
        greatest = torch.stack([mask.scale for mask in masks]).amax(0)
        total = sum(
            (mask.values * (mask.scale - greatest).exp().to(mask.values) for mask in masks), start=torch.zeros(1)
        )
        return cls.of(total).times(greatest)


def _sources(extractor: FeatureExtractor, number: int) -> tuple[int, ...]:
    """What a stage reads: one stage or several."""
    sources: int | tuple[int, ...] = extractor.sources[number]
    return (sources,) if isinstance(sources, int) else sources


def _sums_of_channels(
    extractor: FeatureExtractor, images: Tensor, tap: str, needed: Iterable[int]
) -> dict[int, Tensor]:
    """What some stages give on the way to a tap, summed over channels: [N, 1, h, w] each."""
    found = dict[int, Tensor]()

    def keep(number: int) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _, __, output: found.update({number: output.float().sum(1, keepdim=True).cpu()})

    handles = [extractor.stages[number].register_forward_hook(keep(number)) for number in needed]
    try:
        with torch.no_grad():
            extractor(images, [tap])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _rectifies(stage: nn.Module) -> bool:
    """Whether what a stage gives was rectified by the stage itself."""
    return isinstance(stage, Residual) or bool(getattr(stage, "relu", False))


def _spread(stage: nn.Module, mask: Tensor, size: Sequence[int], padding: str) -> Tensor:
    """Spread [N, 1, h, w] over what the sliding windows of a stage read it from: [N, 1, *size]."""
    windows: Sequence[Window] = stage.windows  # type: ignore[assignment]  # a Stage has them
    if padding == "valid":
        windows = [window._replace(padding=0) for window in windows]
    if not windows:  # a stage that works on each position by itself
        return mask
    sizes = [tuple(size)]
    for kernel, stride, pad in windows[:-1]:
        sizes.append(tuple((side + 2 * pad - kernel) // stride + 1 for side in sizes[-1]))
    for window, before in zip(reversed(windows), reversed(sizes), strict=True):
        ones = mask.new_ones(1, 1, window.kernel, window.kernel)
        full = F.conv_transpose2d(mask, ones, stride=window.stride)
        top, left = (_first(stage, window, side, padding) for side in before)
        # What lies in the padding is cut off; what the last stride did not reach, at the right and below, gets 0.
        rest = [side + first - length for side, first, length in zip(before, (top, left), full.shape[-2:], strict=True)]
        mask = F.pad(full, (-left, rest[1], -top, rest[0]))
    return mask


def _first(stage: nn.Module, window: Window, side: int, padding: str) -> int:
    """Pixels of padding before the first one of a side."""
    border = getattr(stage, "border", "same" if getattr(stage, "same", False) else "centred")
    if padding != "zeros" or border == "centred":
        return window.padding
    if border == "ceil":
        return 0
    return max(0, (-(-side // window.stride) - 1) * window.stride + window.kernel - side) // 2


def _from_0_to_1(mask: Tensor) -> Tensor:
    """Each picture's least value brought to 0 and its greatest to 1."""
    mask = mask - mask.amin((1, 2, 3), keepdim=True)
    greatest = mask.amax((1, 2, 3), keepdim=True)
    return mask / greatest.where(greatest > 0, 1)


def grad_cam(
    network: TappedNetwork, images: Tensor, score: Callable[[Tensor], Tensor], *, tap: str, of: str | None = None
) -> Tensor:
    """Where a score, such as that of a class, finds its evidence.

    The maps at a tap are summed with weights, the mean gradients of the score by each, and what is negative is cut off.

    Args:
        network: With named taps.
        images: [N, 3, H, W] in [0, 1].
        score: Gives a number for each picture, [N], of the features at `of`; such as a head's logit of a class.
        tap: Whose maps are summed.
        of: What the score is of, `tap` or a deeper one; None takes `tap`.

    Returns:
        [N, 1, H, W], from 0 to 1 in each picture; 0 everywhere where nothing speaks for the score.

    Raises:
        ConfigError: There is no such tap, or the score does not depend on the maps at `tap`, or is not [N].
    """
    taps = check_taps(network, list(dict.fromkeys([tap, of or tap])))
    with torch.enable_grad():
        # So that there are gradients at all: the network is frozen.
        found = network(images.detach().requires_grad_(True), taps)
        maps = found[tap]
        value = score(found[of or tap])
        if value.shape != (len(images),):
            raise ConfigError(f"score must give one number for each of {len(images)} pictures, not {list(value.shape)}")
        (gradient,) = torch.autograd.grad(value.sum(), maps, allow_unused=True)
    if gradient is None:
        raise ConfigError(f"the score does not depend on the maps at {tap!r}: name a tap before {of!r}, in float32")
    summed = (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True).relu()
    summed = F.interpolate(summed, images.shape[-2:], mode="bilinear", align_corners=False)
    greatest = summed.amax((1, 2, 3), keepdim=True)
    return summed / greatest.where(greatest > 0, 1)


def overlaid(images: Tensor, mask: Tensor) -> Tensor:
    """Pictures [N, 3, H, W] with a mask [N, 1, H, W] in red: it is added to red, and taken from green and blue."""
    signs = images.new_tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    return (images + signs * mask.to(images)).clamp(0, 1)
