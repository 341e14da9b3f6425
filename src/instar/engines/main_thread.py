"""Waiting in the main thread of a process whose other threads may catch its signals."""

from __future__ import annotations

import os
import select
import signal


class MainThreadEvent:
    """Waiting for it always lets signal handlers run.

    The kernel may hand a signal to any of a server's threads. Python then runs the handler in the main thread,
    but only once that does something: a lock would never wake up (seen with two signals in a row).
    """

    def __init__(self) -> None:
        self._set = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def set(self) -> None:
        """From any thread."""
        self._set = True
        os.write(self._write, b"\0")

    def wait(self) -> None:
        """In the main thread."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        while not self._set:
            poll.poll()
            os.read(self._read, 4096)
