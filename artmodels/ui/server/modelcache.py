"""Models kept between requests, by the bytes that they take."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["ModelCache", "size_in_bytes"]


class ModelCache:
    """Models by name, the least recently used dropped when they take more than `limit` bytes together.

    Safe to use from several threads: a model is loaded once, and callers of other models do not wait for it.
    """

    def __init__(self, load: Callable[[str], Any], *, limit: int = 4 * 2**30) -> None:
        """Start empty."""
        self.load, self.limit = load, limit
        self._models: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._loading: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def __call__(self, name: str) -> Any:
        """Return the model, loading it if it is not here."""
        with self._lock:
            mine = self._loading.setdefault(name, threading.Lock())
        with mine:
            with self._lock:
                if name in self._models:
                    self._models.move_to_end(name)
                    return self._models[name][0]
            model = self.load(name)
            with self._lock:
                self._models[name] = model, size_in_bytes(model)
                while self.bytes > self.limit and len(self._models) > 1:
                    dropped, _ = self._models.popitem(last=False)
                    self._loading.pop(dropped, None)
            return model

    @property
    def bytes(self) -> int:
        """What the models take together."""
        return sum(size for _, size in self._models.values())

    @property
    def names(self) -> tuple[str, ...]:
        """What is here, the least recently used first."""
        return tuple(self._models)


def size_in_bytes(model: object) -> int:
    """Count the bytes of a model's parameters and buffers, its own or those of the networks that it holds."""
    parts = [model] if isinstance(model, torch.nn.Module) else list(vars(model).values())
    tensors = {
        tensor.data_ptr(): tensor.nbytes
        for part in parts
        for tensor in ([*part.parameters(), *part.buffers()] if isinstance(part, torch.nn.Module) else [part])
        if isinstance(tensor, torch.Tensor)
    }
    return sum(tensors.values())
