"""Work that reports as it goes, while somebody watches a page."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["live"]


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """Ends the thread that works for a page that no longer waits."""


def live(work: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """Run in a thread what reports by a call, and give its reports; closing this ends it at the next one.

    The thread goes on only while its reports are taken, so that whoever takes them can hold it up.
    """
    reports: queue.SimpleQueue[Any] = queue.SimpleQueue()
    taken = threading.Semaphore(1)
    closed = threading.Event()

    def report(item: object) -> None:
        taken.acquire()
        if closed.is_set():
            raise Stopped
        reports.put((item, None))

    def run() -> None:
        try:
            work(report)
            reports.put((None, None))
        except BaseException as error:
            reports.put((None, error))

    thread = threading.Thread(target=run, name="artmodels-page", daemon=True)
    thread.start()
    try:
        while True:
            item, error = reports.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
            taken.release()
    finally:
        closed.set()
        taken.release()
        thread.join()
