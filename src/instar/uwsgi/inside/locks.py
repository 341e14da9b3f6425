"""`uwsgi.lock` and its relatives: numbered locks that all processes and threads of an instance share.

Each number is one byte of a file, locked with open file description locks (fcntl(2), F_OFD_SETLK): they are free as
soon as their process has ended, however it ends, and they don't go away when the process closes some other descriptor
of the file. Threads of one process share its description, so a lock of theirs stands before each byte.
"""

from __future__ import annotations

import contextlib
import fcntl
import operator
import os
import struct
import threading
from pathlib import Path

#: struct flock: l_type, l_whence, l_start, l_len, l_pid, and the padding to the next word.
_FLOCK = struct.Struct("@hhqqi0q")


class Locks:
    """`count` locks in the file at `path`. Opened on first use, in each process anew."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        self._fd = -1
        self._opening = threading.Lock()
        self._thread_locks = [threading.Lock() for _ in range(count)]
        os.register_at_fork(after_in_child=self._forget)

    def lock(self, number: int) -> None:
        """Wait until the lock is ours. Raises ValueError for an unknown number."""
        thread_lock = self._thread_lock(number)
        thread_lock.acquire()
        try:
            self._call(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, number)
        except BaseException:
            thread_lock.release()
            raise

    def unlock(self, number: int) -> None:
        """Give the lock back; any thread of its process may. Nothing happens when it isn't held."""
        thread_lock = self._thread_lock(number)
        if thread_lock.locked():
            self._call(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, number)
            with contextlib.suppress(RuntimeError):
                thread_lock.release()

    def is_locked(self, number: int) -> bool:
        """Whether anybody holds the lock, the caller included."""
        if self._thread_lock(number).locked():
            return True
        answer = _FLOCK.unpack(self._call(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, number))
        return bool(answer[0] != fcntl.F_UNLCK)

    def _thread_lock(self, number: int) -> threading.Lock:
        number = operator.index(number)
        if not 0 <= number < self._count:
            raise ValueError("Invalid lock number")
        return self._thread_locks[number]

    def _call(self, command: int, kind: int, number: int) -> bytes:
        return fcntl.fcntl(self._open(), command, _FLOCK.pack(kind, os.SEEK_SET, number, 1, 0))

    def _open(self) -> int:
        with self._opening:
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            return self._fd

    def _forget(self) -> None:
        # What the parent holds is the parent's: a copy of its description would keep that locked beyond its end.
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._opening = threading.Lock()
        self._thread_locks = [threading.Lock() for _ in range(self._count)]
