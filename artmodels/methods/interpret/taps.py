"""Networks that features are read from: what the analyses need of one, and any PyTorch module made such a one."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from artmodels.errors import ConfigError, listing, suggest
from artmodels.features.networks import TORCHVISION, Preprocessing

__all__ = ["HookedNetwork", "TappedNetwork", "check_taps"]


class TappedNetwork(Protocol):
    """A frozen network with named taps, such as a `FeatureExtractor` or a `HookedNetwork`."""

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of all taps."""

    def __call__(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Features [N, C, H', W'] at some taps of images [N, 3, H, W] in [0, 1] RGB."""


def check_taps(network: TappedNetwork, taps: Sequence[str] | None) -> tuple[str, ...]:
    """The taps asked for, or all for None; a ConfigError where one does not exist, or none is asked for."""
    asked = network.taps if taps is None else tuple(taps)
    if isinstance(taps, str) or not asked:
        raise ConfigError(f"taps must be a list of some of {listing(network.taps)}, not {taps!r}")
    for tap in asked:
        if tap not in network.taps:
            raise ConfigError(
                f"the network has no tap {tap!r}.{suggest(str(tap), network.taps)} It has {listing(network.taps)}."
            )
    return asked


class HookedNetwork(nn.Module):
    """Any PyTorch network, read at the outputs of some of its modules, such as one of torchvision's.

    It is frozen and in evaluation mode; gradients flow to the image.

        >>> network = HookedNetwork(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), {"relu": "1"})
        >>> network(torch.rand(1, 3, 16, 16), ["relu"])["relu"].shape
        torch.Size([1, 8, 14, 14])
    """

    gain: Tensor
    offset: Tensor

    def __init__(
        self, network: nn.Module, taps: Mapping[str, str], *, preprocessing: Preprocessing = TORCHVISION
    ) -> None:
        """Wrap a network, which is frozen by that.

        Args:
            network: Takes [N, 3, H, W] and gives anything.
            taps: The names of taps, shallow to deep, with those of modules as `network.named_modules()` has them. Each
                gives a tensor [N, C, H', W'].
            preprocessing: What the network's weights expect.

        Raises:
            ConfigError: There is no such module.
        """
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        modules = dict(network.named_modules())
        for module in taps.values():
            if module not in modules:
                raise ConfigError(f"the network has no module {module!r}.{suggest(module, modules)}")
        self._modules_of = dict(taps)
        self.preprocessing = preprocessing
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        self.register_buffer("gain", (preprocessing.scale / std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", (mean / std).view(1, 3, 1, 1), persistent=False)

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of all taps."""
        return tuple(self._modules_of)

    def train(self, mode: bool = True) -> "HookedNetwork":
        """Stay in evaluation mode: there is nothing to train."""
        return super().train(False)

    def forward(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Features at some taps of images [N, 3, H, W] in [0, 1] RGB; a ConfigError where a tap does not exist."""
        found = dict[str, Tensor]()
        modules = dict(self.network.named_modules())

        def keep(tap: str) -> object:
            def hook(_: nn.Module, __: object, output: Tensor) -> None:
                found[tap] = output.clone()  # a ReLU after it may work in place

            return modules[self._modules_of[tap]].register_forward_hook(hook)

        handles = [keep(tap) for tap in check_taps(self, taps)]
        try:
            self.network((x.flip(1) if self.preprocessing.bgr else x) * self.gain - self.offset)
        finally:
            for handle in handles:
                handle.remove()  # type: ignore[attr-defined]  # torch's own kind of handle
        return {tap: found[tap] for tap in taps}
