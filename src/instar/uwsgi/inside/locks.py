"""`uwsgi.lock` and its relatives: numbered locks that all processes and threads of an instance share.

Each number is one byte of a file, locked with open file description locks (fcntl(2), F_OFD_SETLK): they are free as
soon as their process has ended, however it ends, and they don't go away when the process closes some other descriptor
of the file. Threads of one process share its description, so a lock of theirs stands before each byte.

A mule that has to leave must not wait long for a lock that another mule holds while it listens to their farm: the wait
ends with an error then.
"""

from __future__ import annotations

import contextlib
import fcntl
import operator
import os
import struct
import threading
from pathlib import Path

from instar.errors import InstarError
from instar.uwsgi.inside.leaving import Leaving

#: struct flock: l_type, l_whence, l_start, l_len, l_pid, and the padding to the next word.
_FLOCK = struct.Struct("@hhqqi0q")


#: Seconds that a leaving mule still waits: a holder that leaves as well gives the lock back by then.
PATIENCE = 2.0


class LeavingError(InstarError):
    """The lock was not taken: its holder may keep it for long, and this process has to leave."""


class Locks:
    """`count` locks in the file at `path`. Opened on first use, in each process anew."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._count = count
        #: Set in a mule.
        self.leaving: Leaving | None = None
        self._fd = -1
        self._opening = threading.Lock()
        self._thread_locks = [threading.Lock() for _ in range(count)]
        os.register_at_fork(after_in_child=self._forget)

    def lock(self, number: int) -> None:
        """Wait until the lock is ours. Raises ValueError for an unknown number, LeavingError."""
        if self.leaving is None:
            self._take(number)
        elif not self._try(number):
            _Wait(self, number).for_it(self.leaving)

    def _take(self, number: int) -> None:
        thread_lock = self._thread_lock(number)
        thread_lock.acquire()
        try:
            self._call(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, number)
        except BaseException:
            thread_lock.release()
            raise

    def _try(self, number: int) -> bool:
        thread_lock = self._thread_lock(number)
        if not thread_lock.acquire(blocking=False):
            return False
        try:
            self._call(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, number)
        except BlockingIOError:
            thread_lock.release()
            return False
        except BaseException:
            thread_lock.release()
            raise
        return True

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


class _Wait:
    """One wait for a lock that can be given up. fcntl(2) can't, so a thread of its own is inside it."""

    def __init__(self, locks: Locks, number: int) -> None:
        self._locks = locks
        self._number = number
        #: Set when the lock is ours; `_over` also when the mule has to leave.
        self._have = threading.Event()
        self._over = threading.Event()
        self._guard = threading.Lock()
        self._given_up = False
        self._taken = False

    def for_it(self, leaving: Leaving) -> None:
        """Raises LeavingError."""
        threading.Thread(target=self._take, name="uwsgi-lock", daemon=True).start()
        try:
            with leaving.watched_by(self._over):
                self._over.wait()
            self._have.wait(PATIENCE)
        except BaseException:
            # A signal handler may raise, also when the lock has come at the same moment.
            if not self._give_up():
                self._locks.unlock(self._number)
            raise
        if self._give_up():
            raise LeavingError(f"cannot wait for lock {self._number} of uwsgi: this mule has to leave")

    def _give_up(self) -> bool:
        """False: the lock is ours already."""
        with self._guard:
            self._given_up = not self._taken
            return self._given_up

    def _take(self) -> None:
        self._locks._take(self._number)
        with self._guard:
            self._taken = not self._given_up
        if self._taken:
            self._have.set()
            self._over.set()
        else:
            self._locks.unlock(self._number)
