"""A log file that is replaced by a fresh one when it reaches its size."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


class RotatingFile:
    """Appends lines; `x.log` becomes `x.log.1`, `x.log.2` … up to `backups`. Every call may raise OSError."""

    def __init__(self, path: Path, *, max_bytes: int, backups: int, mode: int = 0o640) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._mode = mode
        self._fd = -1
        self._size = 0

    def write(self, line: str) -> None:
        """Append one line (without newline) completely or not at all."""
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        self.open()
        if self._size and self._max_bytes and self._size + len(data) > self._max_bytes:
            self.rotate()
        written = os.write(self._fd, data)
        if written < len(data):  # the disk is full: leave no half line
            os.ftruncate(self._fd, self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._size += written

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def paths(self) -> list[Path]:
        """The existing files, newest first."""
        names = [self.path, *(self._backup(number) for number in range(1, self._backups + 1))]
        return [path for path in names if path.exists()]

    def open(self) -> None:
        """Open the file now, to learn whether it can be written; `write` does it by itself."""
        if self._fd >= 0:
            return
        self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._mode)
        self._size = os.fstat(self._fd).st_size
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":  # cut off by a crash of the machine
            self._size += os.write(self._fd, b"\n")

    def rotate(self) -> None:
        """Begin a fresh file now."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            if self._backups < 1:
                self.path.unlink()
        for number in range(self._backups, 0, -1):
            older = self._backup(number - 1) if number > 1 else self.path
            with contextlib.suppress(FileNotFoundError):
                older.replace(self._backup(number))
        self.open()

    def _backup(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
