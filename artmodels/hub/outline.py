"""Networks without memory: only names, shapes and types, to be compared with what a file holds."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Outline"]

SMALL = 4096  # numbers of a constant, which other constants are computed from


class Outline(TorchFunctionMode):
    """Inside a `with` block of this, what layers make for their weights lies on the meta device, and stays unset.

    Unlike `with torch.device("meta")`, small constants are real and computed as usual: arithmetic on the meta device
    would import some 900 modules of PyTorch's, which takes longer than to load most checkpoints.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        """Make it on the meta device, leave it unset, or just do it."""
        options = dict(kwargs or {})
        if func is torch.empty and options.get("device") is None:
            return func(*args, **options | {"device": "meta"})
        if func in (torch.zeros, torch.ones) and options.get("device") is None:
            found = func(*args, **options | {"device": "meta"})
            return found if found.numel() > SMALL else func(*args, **options)
        name = getattr(func, "__name__", "")
        target = args[0] if args else options.get("tensor")
        if isinstance(target, Tensor) and target.is_meta and _in_place(name):
            return target
        return func(*args, **options)


def _in_place(name: str) -> bool:
    """Whether a function changes the numbers of its first argument: `normal_`, `kaiming_uniform_`, `__itruediv__`."""
    if name.startswith("__"):
        return name in ("__iadd__", "__isub__", "__imul__", "__itruediv__")
    return name.endswith("_") and name != "requires_grad_"
