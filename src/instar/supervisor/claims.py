"""Checks what a process of the application says of processes and descriptors, by asking the kernel."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path


class ClaimError(ValueError):
    """What was said is not true."""


def check_process(pidfd: int, pid: int, uid: int) -> None:
    """Make sure that a descriptor is a pidfd of that process, and that it runs as `uid`. Raises ClaimError.

    One that has ended is believed: nothing can be done to it any more.
    """
    said = _field(Path(f"/proc/self/fdinfo/{pidfd}"), "Pid:")
    if said is None:
        raise ClaimError(f"the descriptor for process {pid} stands for no process")
    if said == "-1":
        return
    if said != str(pid):
        raise ClaimError(f"the descriptor for process {pid} stands for process {said}")
    uids = _field(Path(f"/proc/{pid}/status"), "Uid:")
    if uids is not None and uids.split()[0] != str(uid):
        raise ClaimError(f"process {pid} runs as uid {uids.split()[0]}, not {uid}")


def check_pipe(fd: int) -> None:
    """Make sure that writing to a descriptor can do no harm: the write end of a pipe. Raises ClaimError."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY:
        raise ClaimError("a descriptor to command a handler with is no pipe")


def _field(path: Path, name: str) -> str | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((line.removeprefix(name).strip() for line in lines if line.startswith(name)), None)
