"""Reads what the holders of names have left in their files (bench/apps/beats.py)."""

from __future__ import annotations

import dataclasses
import itertools
import struct
import time
from pathlib import Path

from bench.common.process import ServerError


@dataclasses.dataclass(frozen=True)
class Holder:
    """One process that had a name; times in seconds on the monotonic clock."""

    name: str
    pid: int
    first: float
    last: float


def holders(folder: Path, name: str) -> list[Holder]:
    """Who has had a name, in order."""
    found = []
    for path in folder.glob(f"{name}~*"):
        # A process that has just begun has not sized its file yet.
        first, last = struct.unpack("qq", path.read_bytes().ljust(16, b"\0"))
        if first:
            found.append(Holder(name, int(path.name.rpartition("~")[2]), first / 1e9, last / 1e9))
    return sorted(found, key=lambda holder: holder.first)


def wait_for_holder(folder: Path, name: str, count: int, limit: float = 30.0) -> Holder:
    """Wait until a name has had `count` holders and the last one works. Raises ServerError."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found = holders(folder, name)
        if len(found) >= count and found[-1].last > found[-1].first:
            return found[-1]
        time.sleep(0.005)
    raise ServerError(f"{name} got no holder number {count} within {limit:.0f} s")


def gaps(found: list[Holder]) -> list[float]:
    """Seconds from the last beat of each holder to the first of the next; negative where two were at work."""
    return [after.first - before.last for before, after in itertools.pairwise(found)]
