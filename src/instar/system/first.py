"""Being process 1 of a PID namespace, as in a container (pid_namespaces(7))."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Final

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def end_by_signals() -> None:
    """Let SIGTERM, SIGINT and SIGQUIT end this process with 128 + n, if it is process 1, until others handle them.

    The kernel withholds a signal from process 1 that has no handler of its own: a container that is stopped while it
    starts would not notice, and be killed after a while. Elsewhere the default action does the same.
    """
    if os.getpid() == 1:
        for number in _ENDING:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
