"""Gradients through rectifiers that nothing excites yet.

Source: Lucid's redirected gradient of ReLU, after Olah et al. 2017: where no gradient at all would come through for a
picture, let through what raises an input below 0. Lucid does so in the first 16 steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["RedirectedReLU"]


class _Redirected(torch.autograd.Function):
    """ReLU, with the other gradient for pictures that the usual one does not reach."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - torch gives the context no public type
        ctx.save_for_backward(x)
        return x.clamp_min(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        usual = gradient.where(x > 0, 0)
        # What is minimised falls as x rises where the gradient is negative.
        upwards = gradient.where((x > 0) | (gradient < 0), 0)
        reached = usual.flatten(1).any(1).view(-1, *[1] * (x.ndim - 1))
        return usual.where(reached, upwards)


_RELUS: frozenset[object] = frozenset({torch.relu, torch.relu_, F.relu, F.relu_, Tensor.relu, Tensor.relu_})


class RedirectedReLU(TorchFunctionMode):
    """Redirect the gradients of all rectifiers that are called inside `with RedirectedReLU():`, in any network.

    A rectifier in place then works on a copy, which takes more memory.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function gives
        """Replace ReLU, and nothing else."""
        if func in _RELUS and torch.is_grad_enabled():
            return _Redirected.apply(args[0])
        return func(*args, **(kwargs or {}))
