"""Lanes: work waits only for work of its own kind, and what takes minutes gives way to what takes moments."""

import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, Literal, TypeAlias

from gradio.context import LocalContext

__all__ = ["LANES", "Lane", "Lanes", "awaited"]

Lane: TypeAlias = Literal["passes", "compute", "collections"]
"""One pass of a network; an optimisation of one picture; trainings, batches and all that reads many pictures."""

PATIENCE = 2.0  # seconds that a step of a collection waits at most: it is slowed down, never stopped


class Lanes:
    """Counts the quicker work that is going on, and lets collections wait for it between two steps."""

    def __init__(self, patience: float = PATIENCE) -> None:
        """Start with nothing going on."""
        self.patience = patience
        self._changed = threading.Condition()
        self._quick = 0

    @property
    def quick(self) -> int:
        """How many passes and optimisations are going on."""
        return self._quick

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._changed:
            self._quick += 1
        try:
            yield
        finally:
            with self._changed:
                self._quick -= 1
                self._changed.notify_all()

    def run(self, steps: Iterator[Any], lane: Lane) -> Generator[Any, None, None]:
        """Pass the steps of some work on; those of a collection wait for quicker work, `patience` seconds at most."""
        with closing(steps):  # type: ignore[type-var]
            if lane != "collections":
                with self._at_work():
                    yield from steps
                return
            for step in steps:
                yield step
                with self._changed:
                    self._changed.wait_for(lambda: not self._quick, self.patience)


LANES = Lanes()


def awaited(lane: Lane) -> bool:
    """Whether somebody waits in a lane for the work that asks: what nobody has asked for ends then."""
    blocks: Any = LocalContext.blocks.get(None)
    waiting = blocks and blocks._queue.event_queue_per_concurrency_id.get(lane)
    return bool(waiting and waiting.queue)
