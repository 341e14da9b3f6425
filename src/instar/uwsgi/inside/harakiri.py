"""`uwsgi.set_user_harakiri`: a process that kills itself when its own deadline passes."""

from __future__ import annotations

import os
import signal
import threading


class Harakiri:
    """One deadline for the process, as uWSGI keeps it."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def arm(self, seconds: int) -> None:
        """SIGKILL for this process in so many seconds; 0 takes the deadline back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds > 0:
            self._timer = threading.Timer(seconds, _die, (seconds,))
            self._timer.daemon = True
            self._timer.start()


def _die(seconds: int) -> None:
    # Past Python's buffers: their locks may be what the process hangs on.
    os.write(2, f"*** HARAKIRI: the process set itself a deadline of {seconds} s and is over it ***\n".encode())
    os.kill(os.getpid(), signal.SIGKILL)
