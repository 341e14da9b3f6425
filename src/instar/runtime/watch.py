"""A worker's watch thread: signs of life, memory, the age of the oldest request, open connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from instar.runtime.scoreboard import Column, Drain, Scoreboard
from instar.runtime.survey import Counted

#: Seconds between two signs of life; shorter while draining, when each round also counts the connections.
BEAT_EVERY = 0.25
#: Seconds between two looks at the private memory: with a limit, and without.
MEMORY_EVERY, MEMORY_RARELY = 1.0, 10.0
SURVEY_EVERY = 0.1


class Watch(threading.Thread):
    """Writes one row of the scoreboard. Shows only that the process runs; event loops beat by themselves."""

    def __init__(
        self,
        board: Scoreboard,
        row: int,
        *,
        oldest: Callable[[], int],
        drain: Callable[[], Drain],
        survey: Callable[[], Counted],
        memory_every: float,
    ) -> None:
        super().__init__(name="instar-watch", daemon=True)
        self._board = board
        self._row = row
        self._oldest = oldest
        self._drain = drain
        self._survey = survey
        self._memory_every = memory_every
        self._surveys = 0

    def run(self) -> None:
        """Go on until the process ends."""
        memory_due = 0.0
        while True:
            now = time.monotonic()
            if now >= memory_due:
                # Reading smaps walks all page tables: milliseconds for a large process.
                memory_due = now + self._memory_every
                self._board.set(self._row, Column.MEMORY, private_memory())
                # Also forgets the HTTP/2 clients that have gone.
                self._board.set(self._row, Column.CONNECTIONS, self._survey().connections)
            self._board.set(self._row, Column.BEAT, time.monotonic_ns())
            self._board.set(self._row, Column.OLDEST, self._oldest())
            draining = self._drain() is not Drain.LIVE
            if draining:
                connections, http2 = self._survey()
                self._board.set(self._row, Column.CONNECTIONS, connections)
                self._board.set(self._row, Column.HTTP2_CONNECTIONS, http2)
                self._surveys += 1
                # Last, so that a reader who sees a new number also sees the count that belongs to it.
                self._board.set(self._row, Column.SURVEYS, self._surveys)
            time.sleep(SURVEY_EVERY if draining else BEAT_EVERY)


def private_memory() -> int:
    """Private bytes of this process: what a fork does not share (proc_pid_smaps_rollup(5))."""
    total = 0
    try:
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                total += int(line.split()[1]) * 1024
    except OSError:
        return 0
    return total
