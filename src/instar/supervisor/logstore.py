"""Keeps every line as JSON Lines, and hands it to whoever follows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from instar.supervisor.logrecord import LogRecord
from instar.supervisor.outlets import Outlet
from instar.supervisor.rotating import RotatingFile

#: Lines that a slow follower may be behind before the oldest are left out for it.
FOLLOW_QUEUE = 2000
_BLOCK = 64 * 1024


class LogStore:
    """`instar.jsonl` with its backups in `folder`, plus outlets for people. Used from the event loop's thread only."""

    def __init__(self, folder: Path, *, max_bytes: int = 10_000_000, backups: int = 5) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = RotatingFile(folder / "instar.jsonl", max_bytes=max_bytes, backups=backups, mode=0o600)
        self._outlets: list[Outlet] = []
        self._followers: set[_Follower] = set()

    def add_outlet(self, outlet: Outlet) -> None:
        """Pass every record on to a file or stream; the store stops it at `close`."""
        self._outlets.append(outlet)

    def append(self, record: LogRecord) -> None:
        """Store one line. Raises OSError when the disk is full; nobody has seen the line then."""
        self._file.write(record.to_json())
        for outlet in self._outlets:
            outlet.put(record)
        for follower in self._followers:
            follower.put(record)

    def write(self, text: str, *, role: str = "supervisor", generation: int | None = None) -> None:
        """Store a message of the supervisor itself. A full disk doesn't disturb the caller: outlets show it anyway."""
        record = LogRecord(time.time(), generation, role, text)
        try:
            self.append(record)
        except OSError:
            for outlet in self._outlets:
                outlet.put(record)

    def tail(self, count: int, *, generation: int | None = None, role: str | None = None) -> list[LogRecord]:
        """The last `count` lines, oldest first, of one generation or role where given (`web` means every `web.N`)."""
        found: list[LogRecord] = []
        if count > 0:
            for record in self._backwards(generation):
                if _wanted(record, generation, role):
                    found.append(record)
                    if len(found) == count:
                        break
        return found[::-1]

    async def follow(
        self, *, lines: int = 0, generation: int | None = None, role: str | None = None
    ) -> AsyncIterator[LogRecord]:
        """The last `lines` lines, then every new one, without a gap between the two."""
        follower = _Follower(generation, role)
        self._followers.add(follower)
        try:
            # No await between subscribing and reading the past: nothing is missed, nothing comes twice.
            for record in self.tail(lines, generation=generation, role=role):
                yield record
            while True:
                yield await follower.get()
        finally:
            self._followers.discard(follower)

    def reopen(self, *, rotate: bool = False) -> None:
        """Have the log files of people opened anew; `rotate`: moved to their backups first."""
        for outlet in self._outlets:
            outlet.reopen(rotate=rotate)

    def close(self) -> None:
        """Close the file and give the outlets a moment to write what they have."""
        self._file.close()
        for outlet in self._outlets:
            outlet.close()

    def _backwards(self, generation: int | None) -> Iterator[LogRecord]:
        # Most lines of other generations are passed over without parsing them.
        needle = b"" if generation is None else f'"generation":{generation},'.encode()
        for path in self._file.paths():
            for line in _lines_backwards(path):
                if needle in line:
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        yield LogRecord.from_dict(json.loads(line))


class _Follower:
    """A bounded queue that drops its oldest records and says how many."""

    def __init__(self, generation: int | None, role: str | None) -> None:
        self._generation = generation
        self._role = role
        self._queue: asyncio.Queue[LogRecord] = asyncio.Queue(FOLLOW_QUEUE)
        self._lost = 0

    def put(self, record: LogRecord) -> None:
        if not _wanted(record, self._generation, self._role):
            return
        if self._queue.full():
            self._queue.get_nowait()
            self._lost += 1
        self._queue.put_nowait(record)

    async def get(self) -> LogRecord:
        if self._lost:
            lost, self._lost = self._lost, 0
            return LogRecord(time.time(), None, "supervisor", f"{lost} lines left out: the reader is too slow")
        return await self._queue.get()


def _wanted(record: LogRecord, generation: int | None, role: str | None) -> bool:
    if generation is not None and record.generation != generation:
        return False
    return not role or record.role == role or record.role.startswith(f"{role}.")


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """The complete lines of a file, last first."""
    try:
        file = path.open("rb")
    except FileNotFoundError:  # rotated away
        return
    with file:
        position = file.seek(0, os.SEEK_END)
        rest = b""
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            first, *lines = (file.read(size) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
            rest = first
        if rest:
            yield rest
