"""How far this process has to go in sending its clients away, and what it serves meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from instar.runtime.scoreboard import Column, Drain, Scoreboard
from instar.runtime.survey import Peer

#: Seconds between two looks at the drain level while somebody waits for it.
POLL = 0.1

logger = logging.getLogger("instar.drain")


class DrainState:
    """The drain level of one process, and the accounting of its requests.

    The level is the larger of what is asked of the whole generation (scoreboard header) and of this
    process alone (its row). Reading it costs two memory loads and no system call.
    """

    def __init__(self, board: Scoreboard, row: int) -> None:
        self.board = board
        self.row = row
        self.header = board.bytes
        self.words = board.words
        self.drain_word = board.word(row, Column.DRAIN)
        self.event = DrainEvent(self)
        #: Start (`time.monotonic_ns`) of each running request but long-lived ones. Dicts keep insertion order,
        #: so the first is the oldest.
        self.running: dict[int, int] = {}
        #: Clients that have spoken HTTP/2; the watch thread takes out those that have gone.
        self.http2_peers: set[Peer] = set()
        self._index = {column: board.word(row, column) for column in Column}
        self._polled = Drain.LIVE
        self._poll_lock = threading.Lock()

    @property
    def level(self) -> Drain:
        """The level that counts now."""
        return Drain(max(self.header[0], self.words[self.drain_word]))

    @property
    def closing(self) -> bool:
        """Whether each HTTP/1 response has to close its connection."""
        return bool(self.header[0] or self.words[self.drain_word])

    @property
    def ending(self) -> bool:
        """Whether long-lived streams have to end."""
        return self.header[0] >= Drain.END_STREAMS or self.words[self.drain_word] >= Drain.END_STREAMS

    def index(self, column: Column) -> int:
        """Index into `words` of one of this process's counters."""
        return self._index[column]

    def add(self, column: Column, amount: int = 1) -> None:
        """Change a counter. Callers with threads hold their own lock around it: this is not atomic."""
        self.words[self._index[column]] += amount

    def oldest(self) -> int:
        """Start of the oldest running request (`time.monotonic_ns`), 0 when there is none.

        Safe to call from any thread.
        """
        while True:
            # Another thread may insert between the two steps: look again.
            with contextlib.suppress(RuntimeError):
                return next(iter(self.running.values()), 0)

    def beat_loop(self) -> None:
        """Record that the event loop turns."""
        self.words[self._index[Column.LOOP_BEAT]] = time.monotonic_ns()

    def poll(self) -> Drain:
        """Tell the application about a new level (its `on_drain` callbacks) and return the level.

        Any thread may call it, as often as it likes; the callbacks run once.
        """
        level = self.level
        if level > self._polled:
            with self._poll_lock:
                first, self._polled = self._polled is Drain.LIVE, level
            if first:
                self.event.notify()
        return level


class DrainEvent:
    """Set as soon as this worker has to send its clients away: the application should finish what it does.

    Reading it is live: it looks at shared memory, nothing has to run in the background.
    """

    def __init__(self, state: DrainState) -> None:
        self._state = state
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._notified = False

    def is_set(self) -> bool:
        """Whether the worker drains."""
        return self._state.closing

    def __bool__(self) -> bool:
        return self._state.closing

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until the worker drains or `timeout` seconds are over; whether it drains."""
        for pause in _pauses(timeout):
            if self._state.closing:
                return True
            time.sleep(pause)
        return self._state.closing

    async def wait_async(self, timeout: float | None = None) -> bool:
        """The same for an event loop."""
        for pause in _pauses(timeout):
            if self._state.closing:
                return True
            await asyncio.sleep(pause)
        return self._state.closing

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Call `callback()` once when draining starts (at once if it has), from a thread or the event loop.

        It must be short and thread-safe; what it raises is logged.
        """
        with self._lock:
            if not self._notified:
                self._callbacks.append(callback)
                return
        _run(callback)

    def notify(self) -> None:
        """Run the callbacks; only the first call does."""
        with self._lock:
            if self._notified:
                return
            self._notified = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            _run(callback)


def _run(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("an on_drain callback failed")


def _pauses(timeout: float | None) -> Iterator[float]:
    if timeout is None:
        while True:
            yield POLL
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0:
        yield min(left, POLL)
