"""Where log lines go besides the store: standard output and a file of the user's choice.

Each outlet has a thread and a bounded queue of its own: a terminal that is stopped with Ctrl-S, or a pipe that nobody
reads, delays neither the supervisor nor the other outlets.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from collections.abc import Callable
from pathlib import Path

from instar.supervisor.logrecord import LogRecord
from instar.supervisor.rotating import RotatingFile

#: Records that may wait; more are dropped and counted.
QUEUE = 10_000

Format = Callable[[LogRecord], str]


def formatter(name: str, *, colours: bool = False) -> Format:
    """`text` or `json` as a function from record to line."""
    if name == "json":
        return LogRecord.to_json
    return lambda record: record.to_text(colours=colours)


class Outlet:
    """Writes records with `write` in a thread. A write that raises OSError loses that line, not the outlet."""

    def __init__(
        self, name: str, write: Callable[[str], None], format_record: Format, *, file: RotatingFile | None = None
    ) -> None:
        """`file`: what `write` writes to, if it can be opened anew."""
        self._write = write
        self._file = file
        self._renew: Callable[[], None] | None = None
        self._format = format_record
        self._queue: queue.Queue[LogRecord | None] = queue.Queue(QUEUE)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name=f"log-{name}", daemon=True)
        self._thread.start()

    def put(self, record: LogRecord) -> None:
        """Queue a record; never blocks."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def reopen(self, *, rotate: bool) -> None:
        """Before the next line, open the file anew (somebody has moved it away), or move it away first."""
        if self._file is not None:
            self._renew = self._file.rotate if rotate else self._file.close

    def close(self, timeout: float = 1.0) -> None:
        """Wait at most `timeout` seconds for the queue to empty; a stuck reader is left behind."""
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _run(self) -> None:
        reported = 0
        while (record := self._queue.get()) is not None:
            self._write_line(self._format(record))
            if self.dropped > reported:
                lost, reported = self.dropped - reported, self.dropped
                note = f"{lost} lines left out: the reader is too slow (all of them are in `instar logs`)"
                self._write_line(self._format(LogRecord(record.time, None, "supervisor", note)))

    def _write_line(self, line: str) -> None:
        try:
            # In this thread: nobody else touches the file.
            if renew := self._renew:
                self._renew = None
                renew()
            self._write(line)
        except OSError:  # EPIPE, ENOSPC, EIO of a terminal that is gone
            self.dropped += 1


def stream_outlet(fd: int, format_record: Format, *, name: str = "stdout") -> Outlet:
    """An outlet to an open descriptor, which stays the caller's."""
    return Outlet(name, lambda line: _write_all(fd, f"{line}\n".encode("utf-8", "backslashreplace")), format_record)


def file_outlet(path: Path, format_record: Format, *, max_bytes: int, backups: int) -> Outlet:
    """An outlet to a file with rotation. Raises OSError when it can't be opened."""
    file = RotatingFile(path, max_bytes=max_bytes, backups=backups)
    file.open()
    return Outlet(path.name, file.write, format_record, file=file)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:  # whoever shares the open file made it non-blocking
            select.select([], [fd], [])
