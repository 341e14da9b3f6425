"""The ledger of the handlers, and the proof that their names were held once and hardly ever not.

A line is `TIME NAME EPOCH PID WHAT`, appended with one write, so the order of the lines is the order of the events in
all processes: overlaps are found without trusting a clock. WHAT is `enter`, `beat`, `exit`, `fenced`, or what the test
itself adds: `begin:BOUND` and `end`, between which a name may be unheld for BOUND seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

#: Stands for all names in the test's own lines.
ALL = "*"


@dataclasses.dataclass(frozen=True)
class Line:
    """One event."""

    time: float
    name: str
    epoch: int
    pid: int
    what: str


@dataclasses.dataclass(frozen=True)
class Gap:
    """Time that a name was unheld, as far as the ledger shows: from the last sign of one epoch to the first of the
    next."""

    name: str
    epoch: int
    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.begin


class Ledger:
    """The file, seen by the test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger"
        self.store = folder / "store.sqlite3"
        connection = sqlite3.connect(self.store)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE written (id INTEGER PRIMARY KEY, name TEXT, epoch INTEGER, pid INTEGER)")
        connection.close()
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def environment(self) -> dict[str, str]:
        """What the handlers need."""
        return {"TEST_LEDGER": str(self.path), "TEST_STORE": str(self.store)}

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)

    def write(self, name: str, what: str) -> None:
        """A line of the test's own."""
        os.write(self._fd, f"{time.monotonic():.6f} {name} 0 {os.getpid()} {what}\n".encode())

    @contextlib.contextmanager
    def bound(self, name: str, seconds: float) -> Iterator[None]:
        """Something happens to a name (ALL: to all) for which it may be unheld this long."""
        self.write(name, f"begin:{seconds}")
        try:
            yield
        finally:
            self.write(name, "end")

    def lines(self) -> list[Line]:
        """All lines; the last may be half of one when a process was killed, and is not: writes are whole."""
        found = []
        for text in self.path.read_text().splitlines():
            moment, name, epoch, pid, what = text.split()
            found.append(Line(float(moment), name, int(epoch), int(pid), what))
        return found

    def newest(self, name: str) -> Line | None:
        """The last sign of a name's holder."""
        return next((line for line in reversed(self.lines()) if line.name == name and line.epoch), None)


@dataclasses.dataclass(frozen=True)
class Window:
    """A time in which a longer gap is allowed."""

    name: str
    begin: float
    end: float
    bound: float

    def allows(self, gap: Gap) -> bool:
        """Whether it belongs to the gap, and is long enough."""
        near = self.begin <= gap.end and self.end >= gap.begin
        return near and self.name in (ALL, gap.name) and gap.seconds <= self.bound


def windows(lines: list[Line]) -> list[Window]:
    """The test's own lines, in pairs."""
    found: list[Window] = []
    opened: dict[str, list[Line]] = {}
    for line in lines:
        if line.what.startswith("begin:"):
            opened.setdefault(line.name, []).append(line)
        elif line.what == "end":
            begin = opened[line.name].pop()
            found.append(Window(line.name, begin.time, line.time, float(begin.what.partition(":")[2])))
    return found


def gaps(lines: list[Line]) -> list[Gap]:
    """Every change of epoch."""
    last: dict[str, Line] = {}
    found = []
    for line in lines:
        if not line.epoch or line.what == "fenced":
            continue
        before = last.get(line.name)
        if before is not None and before.epoch != line.epoch:
            found.append(Gap(line.name, line.epoch, before.time, line.time))
        last[line.name] = line
    return found


def breaches(lines: list[Line], usual_bound: float) -> list[str]:
    """What is wrong; empty when every promise was kept."""
    found: list[str] = []
    highest: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.epoch or line.what == "fenced":
            continue
        top = highest.get(line.name, 0)
        if line.what == "enter" and line.epoch <= top:
            found.append(f"line {number}: {line.name} was entered with epoch {line.epoch} after {top}")
        elif line.what != "enter" and line.epoch != top:
            found.append(f"line {number}: {line.name} of epoch {line.epoch} was at work while {top} held the name")
        highest[line.name] = max(top, line.epoch)
    allowed = windows(lines)
    for gap in gaps(lines):
        if gap.seconds > usual_bound and not any(window.allows(gap) for window in allowed):
            found.append(f"{gap.name} was unheld for {gap.seconds:.3f} s before epoch {gap.epoch}")
    return found


def stale_rows(store: Path) -> list[str]:
    """Rows that a former holder has written into the database after a later one; empty when the fence held."""
    connection = sqlite3.connect(store)
    rows = connection.execute("SELECT name, epoch, pid FROM written ORDER BY id").fetchall()
    connection.close()
    highest: dict[str, tuple[int, int]] = {}
    found = []
    for name, epoch, pid in rows:
        top, owner = highest.get(name, (0, 0))
        if epoch < top or (epoch == top and owner != pid):
            found.append(f"{name}: pid {pid} wrote with epoch {epoch} after {owner} with {top}")
        else:
            highest[name] = (epoch, pid)
    return found
