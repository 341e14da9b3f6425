"""Waits that a signal ends: Python itself goes on waiting after it has run a handler (PEP 475), uWSGI doesn't."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


class Interrupts:
    """Owner of a pipe that is readable when a signal has come. One for each process: made after the fork."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    @contextlib.contextmanager
    def heard(self) -> Iterator[int]:
        """While this lasts, signals that have a Python handler make the descriptor readable.

        -1 outside the main thread: only there are handlers run.
        """
        if threading.current_thread() is not threading.main_thread():
            yield -1
            return
        before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        try:
            yield self._read
        finally:
            signal.set_wakeup_fd(before, warn_on_full_buffer=False)
            self._pass_on(before)

    def _pass_on(self, to: int) -> None:
        # An event loop that this wait blocks was to hear of them.
        with contextlib.suppress(BlockingIOError):
            numbers = os.read(self._read, 512)
            if to >= 0:
                os.write(to, numbers)
