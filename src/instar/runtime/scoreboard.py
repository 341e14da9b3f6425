"""Shared memory with each worker's state and counters.

A memfd holds a 64-byte header and one 128-byte row for each worker process. Each row has one writer
(its process), with one exception: `DRAIN`, which the zygote writes to ask a single worker to drain.
Values are stored through `memoryview.cast`, one aligned machine word at a time: `struct.pack_into`
zeroes the field first, so that a reader (or a SIGKILL) between the two stores would see a zero.
"""

from __future__ import annotations

import enum
import fcntl
import mmap
import os

HEADER = 64
ROW = 128
_WORDS = ROW // 8


class State(enum.IntEnum):
    """What a worker process says of itself."""

    EMPTY = 0
    STARTING = 1
    READY = 2
    STOPPING = 3


class Drain(enum.IntEnum):
    """How far a process has to go in sending its clients away."""

    LIVE = 0
    #: Answer each open HTTP/1 connection once more, with `Connection: close`.
    CLOSE = 1
    #: Also end long-lived streams: WebSockets get 1012, event streams their last chunk.
    END_STREAMS = 2


class Column(enum.IntEnum):
    """The words of a row. Times are `time.monotonic_ns()`, which all processes of a host share."""

    PID = 0
    STATE = 1
    IN_FLIGHT = 2
    REQUESTS = 3
    #: Responses with status 500 and above, and requests that ended in an exception.
    ERRORS = 4
    #: Open WebSockets and event streams.
    LONG_LIVED = 5
    #: Last sign of life of the process (its watch thread).
    BEAT = 6
    #: Last sign of life of the event loop; 0 when the worker has none.
    LOOP_BEAT = 7
    #: Start of the oldest request still running; 0 when there is none.
    OLDEST = 8
    #: Established client connections; counted only while draining.
    CONNECTIONS = 9
    #: HTTP/2 requests so far: `Connection: close` can't reach those clients, only GOAWAY can.
    HTTP2 = 10
    #: `Drain` level asked of this process alone (recycling).
    DRAIN = 11
    #: Requests that can run at once (threads); 0 when unlimited.
    CAPACITY = 12
    #: Private memory in bytes, from the last look.
    MEMORY = 13
    #: Counts the connection surveys, so that a reader can tell a fresh count from a stale one.
    SURVEYS = 14
    #: Those of `CONNECTIONS` that are known to speak HTTP/2.
    HTTP2_CONNECTIONS = 15


class Scoreboard:
    """Rows of counters that the whole generation shares. Layout: see the module."""

    def __init__(self, fd: int, rows: int) -> None:
        self.fd = fd
        self.rows = rows
        self._map = mmap.mmap(fd, HEADER + ROW * rows)
        self.bytes = memoryview(self._map)
        self.words = self.bytes.cast("Q")

    @classmethod
    def create(cls, rows: int) -> Scoreboard:
        """A new one on a memfd that is closed on exec; the caller owns `fd`."""
        fd = os.memfd_create("instar-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, HEADER + ROW * rows)
        # Nobody who has it may shrink it under our feet (SIGBUS).
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(fd, rows)

    @classmethod
    def is_whole(cls, fd: int, rows: int) -> bool:
        """Whether a descriptor that somebody else gave is a scoreboard that can't be cut short."""
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError:
            return False
        return bool(seals & fcntl.F_SEAL_SHRINK) and os.fstat(fd).st_size >= HEADER + ROW * rows

    @property
    def drain(self) -> Drain:
        """The level asked of the whole generation."""
        level = self.bytes[0]
        return Drain(level) if level <= max(Drain) else Drain.LIVE

    @drain.setter
    def drain(self, level: Drain) -> None:
        self.bytes[0] = level

    @staticmethod
    def word(row: int, column: Column) -> int:
        """Index into `words`, for hot paths that keep it."""
        return HEADER // 8 + row * _WORDS + column

    def get(self, row: int, column: Column) -> int:
        """One counter."""
        return int(self.words[self.word(row, column)])

    def set(self, row: int, column: Column, value: int) -> None:
        """Store one counter; only the row's owner may (`DRAIN`: the zygote)."""
        self.words[self.word(row, column)] = value

    def total(self, column: Column) -> int:
        """Sum over all rows."""
        return sum(self.get(row, column) for row in range(self.rows))

    def has_clients(self, row: int, *, besides_http2: bool = False) -> bool:
        """Whether the last survey found clients, or a request runs. `besides_http2`: only those of HTTP/1 count."""
        if self.get(row, Column.IN_FLIGHT):
            return True
        return self.get(row, Column.CONNECTIONS) > (self.get(row, Column.HTTP2_CONNECTIONS) if besides_http2 else 0)

    def clear(self, row: int) -> None:
        """Make a row ready for a new process."""
        for column in Column:
            self.set(row, column, 0)

    def close(self) -> None:
        """Unmap and close the descriptor."""
        self.words.release()
        self.bytes.release()
        self._map.close()
        os.close(self.fd)
