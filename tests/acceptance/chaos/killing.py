"""SIGKILL for a process, with the exact list of the connections that die with it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import time
from pathlib import Path

from harness.processes import alive, stopped
from harness.waiting import wait_for

_SOCKET = re.compile(r"socket:\[(\d+)\]")
#: TCP_LISTEN of include/net/tcp_states.h, as /proc/net/tcp writes it.
_LISTEN = "0A"


@dataclasses.dataclass(frozen=True)
class Killed:
    """A process that was killed, and the clients' ends of the connections that it had accepted."""

    what: str
    pid: int
    at: float
    ports: frozenset[int]


def kill(pid: int, what: str) -> Killed:
    """Stop the process, read what it holds (a stopped process accepts nothing more), and kill it."""
    ports: frozenset[int] = frozenset()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        wait_for(f"{what} {pid} has stopped", lambda: stopped(pid) or not alive(pid))
        # It may have left by itself.
        with contextlib.suppress(FileNotFoundError):
            ports = connections(pid)
    at = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return Killed(what, pid, at, ports)


def connections(pid: int) -> frozenset[int]:
    """The remote ports of a process's TCP connections (proc(5): /proc/net/tcp)."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if match := _SOCKET.fullmatch(str(entry.readlink())):
                inodes.add(match[1])
    found = set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = row.split()
            if fields[9] in inodes and fields[3] != _LISTEN:
                found.add(int(fields[2].rpartition(":")[2], 16))
    return frozenset(found)
