"""Finding the processes of one test, and only those, through a mark in their environment."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import time
from pathlib import Path

MARK = "INSTAR_TEST_ID"


@dataclasses.dataclass(frozen=True)
class Process:
    """A living process."""

    pid: int
    command: str


def marked(mark: str) -> list[Process]:
    """All living processes whose environment carries the mark (zombies have none)."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(Process(int(entry.name), command.strip()))
    return found


def kill_all(mark: str, limit: float = 10.0) -> list[Process]:
    """SIGKILL what carries the mark until nothing is left; returns what was found at first."""
    first = marked(mark)
    end = time.monotonic() + limit
    while (left := marked(mark)) and time.monotonic() < end:
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.02)
    return first


def alive(pid: int) -> bool:
    """Whether a process lives (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def stopped(pid: int) -> bool:
    """Whether SIGSTOP has reached every thread of a process."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return bool(stats) and all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
