"""Waits for processes that are not our children, and for moments: one thread for all attempts of a runner."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("instar.jobs")


class Watcher:
    """Owner of the pidfds that it is given. Calls back in its own thread; callbacks are short."""

    def __init__(self, name: str) -> None:
        self._poll = select.epoll()
        self._ends: dict[int, Callable[[], None]] = {}
        self._moments: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._guard = threading.Lock()
        self._closed = threading.Event()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def at_end(self, pidfd: int, call: Callable[[], None]) -> None:
        """Call once when the process has ended; the descriptor is ours from now on."""
        with self._guard:
            self._ends[pidfd] = call
            self._poll.register(pidfd, select.EPOLLIN)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call once in so many seconds."""
        with self._guard:
            heapq.heappush(self._moments, (time.monotonic() + seconds, next(self._count), call))
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """Stop; nothing is called any more when this returns (unless a callback calls it)."""
        self._closed.set()
        os.eventfd_write(self._wake, 1)
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._poll.close()
            for fd in (*self._ends, self._wake):
                os.close(fd)
            self._ends.clear()

    def _run(self) -> None:
        while not self._closed.is_set():
            ready = {fd for fd, _ in self._poll.poll(self._pause())}
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            for call in (*self._ended(ready), *self._due()):
                if self._closed.is_set():
                    return
                try:
                    call()
                except Exception:
                    # One attempt's trouble must not end the watch over the others.
                    logger.exception("cannot follow a job")

    def _pause(self) -> float | None:
        with self._guard:
            return max(0.0, self._moments[0][0] - time.monotonic()) if self._moments else None

    def _ended(self, ready: set[int]) -> list[Callable[[], None]]:
        calls = []
        with self._guard:
            for fd in ready:
                if call := self._ends.pop(fd, None):
                    self._poll.unregister(fd)
                    os.close(fd)
                    calls.append(call)
        return calls

    def _due(self) -> list[Callable[[], None]]:
        calls, now = [], time.monotonic()
        with self._guard:
            while self._moments and self._moments[0][0] <= now:
                calls.append(heapq.heappop(self._moments)[2])
        return calls
