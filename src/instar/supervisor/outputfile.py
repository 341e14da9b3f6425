"""One file that a process appends its output to, cut into lines."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from instar.supervisor.punch import punch, skip_hole

#: Longer lines are cut, with a marker in place of the rest; in bytes.
MAX_LINE = 64 * 1024
#: Read at most this much of one file at a time, so that a chatty process delays nobody; in bytes.
CHUNK = 64 * 1024
#: Free space in portions of this size at least, in bytes.
PUNCH_AFTER = 64 * 1024

Deliver = Callable[[str], None]


class OutputFile:
    """Follows one file. `offset` is the first byte not yet delivered; those before it are never needed again."""

    def __init__(self, fd: int, inode: int, *, offset: int, skipping: bool) -> None:
        self.fd = fd
        self.inode = inode
        self.offset = offset
        #: The head of a line longer than MAX_LINE has been delivered: drop the rest of it.
        self.skipping = skipping
        self._buffer = bytearray()
        #: The head of this line has been delivered as an unfinished one.
        self._continued = False
        self._punched = offset - offset % PUNCH_AFTER
        self._can_punch = True
        #: When the unfinished line last grew (the caller's clock); None when there is no unfinished line.
        self._partial_since: float | None = None

    @classmethod
    def open(cls, name: str, dir_fd: int, saved: dict[str, int] | None) -> OutputFile | None:
        """Open a file of a folder that the application's user owns; None when it is not ours to touch.

        Symbolic links, FIFOs and files with a second name are refused: whoever puts them there would make
        the supervisor (perhaps root) read, and punch holes into, a file of somebody else.
        """
        flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(name, os.O_RDWR | flags, dir_fd=dir_fd)
        except PermissionError:
            fd = os.open(name, os.O_RDONLY | flags, dir_fd=dir_fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            os.close(fd)
            return None
        offset, skipping = 0, False
        if saved is not None and saved.get("inode") == status.st_ino and saved["offset"] <= status.st_size:
            offset, skipping = saved["offset"], bool(saved.get("skipping"))
        # Holes are what a supervisor before us delivered and freed, perhaps without being able to save it.
        return cls(fd, status.st_ino, offset=skip_hole(fd, offset), skipping=skipping)

    def read(self, deliver: Deliver, now: float) -> bool:
        """Deliver the complete lines of the next chunk; True when there is more to read at once.

        An exception of `deliver` passes through; the line that it refused stays undelivered.
        """
        position = self.offset + len(self._buffer)
        if os.fstat(self.fd).st_size < position:  # somebody truncated it
            self._restart()
            position = 0
        data = os.pread(self.fd, CHUNK, position)
        if data:
            self._buffer += data
            self._partial_since = now
        self._deliver_lines(deliver)
        if not self._buffer:
            self._partial_since = None
        return len(data) == CHUNK

    def flush_partial(self, deliver: Deliver, *, before: float) -> None:
        """Deliver an unfinished line as it is, if it hasn't grown since `before`."""
        if self._partial_since is None or self._partial_since > before:
            return
        if not self.skipping:
            deliver(_decode(self._buffer))
            self._continued = True
        self._consume(len(self._buffer))
        self._partial_since = None

    def free(self) -> None:
        """Punch out what has been delivered; `offset` should have been saved before."""
        if self._can_punch and self.offset - self._punched >= PUNCH_AFTER:
            self._can_punch = punch(self.fd, self._punched, self.offset)
            self._punched = self.offset

    def close(self) -> None:
        """Close the descriptor; the file stays."""
        os.close(self.fd)

    def saved(self) -> dict[str, int]:
        """What `open` needs to go on here."""
        return {"inode": self.inode, "offset": self.offset, "skipping": int(self.skipping)}

    def _deliver_lines(self, deliver: Deliver) -> None:
        start = 0
        try:
            while (end := self._buffer.find(b"\n", start)) >= 0:
                if not self.skipping and not (self._continued and end == start):
                    deliver(_cut(self._buffer[start:end]))
                self.skipping = self._continued = False
                start = end + 1
            if self.skipping:
                start = len(self._buffer)
            elif len(self._buffer) - start > MAX_LINE:
                deliver(_cut(self._buffer[start:]))
                self.skipping = True
                start = len(self._buffer)
        finally:
            self._consume(start)

    def _consume(self, count: int) -> None:
        del self._buffer[:count]
        self.offset += count

    def _restart(self) -> None:
        self._buffer.clear()
        self._partial_since = None
        self.offset = self._punched = 0
        self.skipping = self._continued = False


def _cut(line: bytearray) -> str:
    if len(line) <= MAX_LINE:
        return _decode(line)
    return f"{_decode(line[:MAX_LINE])} … [instar: line cut after {MAX_LINE} bytes]"


def _decode(line: bytes | bytearray) -> str:
    return line.decode("utf-8", "backslashreplace").removesuffix("\r")
