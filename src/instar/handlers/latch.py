"""An event that is set once, for threads and for event loops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("instar.handlers")


class Latch:
    """Set once, never cleared. Waiting costs nothing: no polling, in a thread or in an event loop."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.RLock()
        self._callbacks: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        """Whether it has been set."""
        return self._event.is_set()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Block this thread until it is set or `timeout` seconds are over; whether it is set."""
        return self._event.wait(timeout)

    async def wait_async(self, timeout: float | None = None) -> bool:
        """The same for an event loop."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def wake() -> None:
            # Runs in the setter's thread. The loop may be closed by then.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(finish)

        self.call(wake)
        try:
            await asyncio.wait([waiter], timeout=timeout)
        finally:
            waiter.cancel()
            with self._lock, contextlib.suppress(ValueError):
                self._callbacks.remove(wake)
        return self._event.is_set()

    def call(self, callback: Callable[[], object]) -> None:
        """Call `callback()` once when it is set, in the setter's thread; at once if it is set. Errors are logged."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        _run(callback)

    def set(self) -> None:
        """Set it, wake who waits, run the callbacks. Only the first call does."""
        with self._lock:
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            _run(callback)


def _run(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        logger.exception("a callback of a handler failed")
