"""What the server remembers of its visitors: little of each, of a bounded number, and first of those with open pages.

gradio gives every session a copy of the description of all components (0.7 MB for the gallery), which only its deep
links need, and keeps the last 10 000 sessions, whoever they are. Its `state_session_capacity` alone would be no help: a
program that makes a session with each call would push out what people work on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

from gradio.state_holder import SessionState, StateHolder

__all__ = ["BARE", "CAPACITY", "KEPT", "Session", "Sessions"]

BARE = 64  # sessions without values: nothing is lost with them
CAPACITY = 256  # sessions in all
KEPT = timedelta(hours=1)  # without a sign of life, as the files and the `gr.State`s of our pages


class Session(SessionState):
    """A session without gradio's `config_values`, which deep links would be made of; our pages offer none."""

    def __init__(self, blocks: Any) -> None:
        """Begin a session of a page, a `gr.Blocks`."""
        bare: Any = SimpleNamespace(default_config=blocks.default_config, blocks=())
        super().__init__(bare)  # without blocks to describe, gradio describes none

    def __setitem__(self, key: int, value: Any) -> None:
        """Set a value of a `gr.State`, or a component that an update has changed."""
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class Sessions(StateHolder):
    """The sessions of a server.

    At most `BARE` of those without values are kept, and at most `CAPACITY` in all. The least recently used go first:
    those with nothing to lose, then those of programs and closed pages, then those of open pages. None goes while
    its work is waiting or running, and none is kept longer than `KEPT` after its page was closed or it was last used.
    """

    def __init__(self, blocks: Any, now: Callable[[], datetime] = datetime.now) -> None:
        """Begin with none; they will be those of a `gr.Blocks`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.set_blocks(blocks)
        self._now = now
        self._open = dict[str, int]()  # connections that tell that a page is open

    def __getitem__(self, session_id: str) -> SessionState:
        """Give a session, a new one for an unknown name."""
        with self.lock:
            session = self.session_data.get(session_id)
            new = session is None
            if session is None:
                session = self.session_data[session_id] = Session(self.blocks)
            self.session_data.move_to_end(session_id)
            self.time_last_used[session_id] = self._now()
            if new:
                self._make_room(session_id)
        return session

    @contextmanager
    def watched(self, session_id: str) -> Iterator[None]:
        """Count a page as open meanwhile."""
        self._open[session_id] = self._open.get(session_id, 0) + 1
        try:
            yield
        finally:
            self._open[session_id] -= 1
            if not self._open[session_id]:
                del self._open[session_id]
            if session_id in self.time_last_used:
                self.time_last_used[session_id] = self._now()  # the hour begins

    def delete_all_expired_state(self) -> None:
        """Forget values that have expired, and sessions that are over; gradio calls this every second."""
        super().delete_all_expired_state()  # type: ignore[no-untyped-call]
        with self.lock:
            busy, now = self._busy(), self._now()
            for session_id, used in list(self.time_last_used.items()):
                if now - used > KEPT and session_id not in self._open and session_id not in busy:
                    self._forget(session_id)
            self._make_room()
            self._tidy_queue(busy)

    def _make_room(self, newest: str = "") -> None:
        busy = self._busy() | {newest}
        others = [session_id for session_id in self.session_data if session_id not in busy]
        bare = [session_id for session_id in others if not _has_values(self.session_data[session_id])]
        for session_id in bare[: max(0, len(bare) - BARE)]:
            self._forget(session_id)
        excess = len(self.session_data) - CAPACITY
        if excess > 0:
            others = [session_id for session_id in others if session_id in self.session_data]
            others.sort(key=lambda name: (_has_values(self.session_data[name]), name in self._open))
            for session_id in others[:excess]:
                self._forget(session_id)

    def _forget(self, session_id: str) -> None:
        self.delete_state(session_id)
        self.session_data.pop(session_id, None)
        self.time_last_used.pop(session_id, None)

    def _busy(self) -> set[str]:
        """Sessions with work that waits or runs."""
        return {event.session_hash for event in self.blocks._queue.event_ids_to_events.values()}

    def _tidy_queue(self, busy: set[str]) -> None:
        """Drop what gradio's queue goes on keeping of a session: its empty queue of messages and set of events."""
        queue = self.blocks._queue
        unread, messages = queue.pending_event_ids_session, queue.pending_messages_per_session
        for session_id in {*unread, *messages} - busy - set(self.session_data):
            waiting = messages.get(session_id)
            # Without its queue of messages, the page would never hear of an event that is still under way.
            if waiting is None or (waiting.empty() and not unread.get(session_id)):
                unread.pop(session_id, None)
                messages.pop(session_id, None)


def _has_values(session: SessionState) -> bool:
    """Whether a handler has put a value into a `gr.State` that has not expired."""
    return any(key in session.state_data for key in session._state_ttl)
