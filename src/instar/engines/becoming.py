"""For engines whose worker process becomes another program: what it finds open, and where."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterable, Sequence

from instar.engines.base import ListenSocket

#: The first descriptor behind the standard streams (sd_listen_fds(3)).
FIRST = 3


def prepare(sockets: Sequence[ListenSocket], kept: Iterable[str]) -> list[int]:
    """Give the sockets the numbers from 3 on, and leave nothing else open across an exec.

    `kept`: environment variables that name further descriptors; they are set to their new numbers.
    """
    lowest = FIRST + len(sockets)
    sources = [_above(item.fd, lowest) for item in sockets]
    keep = set()
    for name in kept:
        if name in os.environ:
            fd = _above(int(os.environ[name]), lowest)
            os.environ[name] = str(fd)
            os.set_inheritable(fd, True)
            keep.add(fd)
    fds = [os.dup2(source, FIRST + place) for place, source in enumerate(sources)]
    _close_on_exec(keep | set(fds))
    # The worker's own signals mean nothing to a program, and their default action is death.
    for signum in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    return fds


def _above(fd: int, lowest: int) -> int:
    """A copy out of the way of the numbers that the sockets are going to take."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def _close_on_exec(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
