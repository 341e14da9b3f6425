"""When a holder of a name was at work: the first and the last beat of each, in files that outlive it.

`BENCH_BEATS` is the folder. Each holder maps a file of its own, so a beat costs no system call and survives SIGKILL.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

#: Seconds between two beats: how precisely a gap is known.
PERIOD = 0.0005


class Beats:
    """Of one process. Make it before the name is there: only `beat` is on the way."""

    def __init__(self, name: str) -> None:
        path = Path(os.environ["BENCH_BEATS"]) / f"{name}~{time.monotonic_ns()}~{os.getpid()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, 16)
        self._times = memoryview(mmap.mmap(fd, 16)).cast("q")
        os.close(fd)

    def beat(self) -> None:
        """At work."""
        now = time.monotonic_ns()
        self._times[1] = now
        if not self._times[0]:
            self._times[0] = now


def count_boot() -> None:
    """Called where the application is loaded."""
    with (Path(os.environ["BENCH_BEATS"]) / "boots").open("a") as boots:
        boots.write(f"{os.getpid()}\n")
