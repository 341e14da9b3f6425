"""Where a process of a generation writes, and how tools call it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def redirect_output(folder: str, role: str) -> None:
    """Append standard output and error to `<role>.out`, which the supervisor follows; it outlives both sides."""
    path = Path(folder) / f"{role}.out"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
    show_as(role)


def show_as(name: str) -> None:
    """What `ps -o comm`, `top` and the kernel's report of a lack of memory call this process (proc_pid_comm(5)).

    The kernel keeps 15 bytes: of a longer name the end, which tells it from others.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_bytes(os.fsencode(name)[-15:])
