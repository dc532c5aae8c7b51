"""How long work says where it is: a stream of steps whose last item is the result."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from tqdm.auto import tqdm

__all__ = ["Progress", "result_of"]

R = TypeVar("R")


@dataclass(frozen=True)
class Progress:
    """Where some work is."""

    done: int  # steps
    total: int  # as far as is known
    what: str = ""  # what the last step was about, such as the name of a file; the bar shows its first 40 characters


def result_of(stream: Iterable[Progress | R], *, progress: bool = False, unit: str = "step") -> R:
    """Run a stream, which gives `Progress` after each step, to its result; a bar on stderr may count `unit`s."""
    bar: tqdm[object] | None = None
    try:
        for item in stream:
            if not isinstance(item, Progress):
                return item
            if bar is None:  # not before the first step, so that an error about the input stands alone
                bar = tqdm(total=item.total, disable=not progress, unit=unit)
            bar.total = item.total  # the next phase may have another
            bar.set_postfix_str(item.what[:40], refresh=False)
            bar.update(item.done - bar.n)
    finally:
        if bar is not None:
            bar.close()
    raise AssertionError("a stream ends with its result")
