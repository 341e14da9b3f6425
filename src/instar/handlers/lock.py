"""The kernel lock on a handler's name: flock(2) on a file that is never unlinked.

The lock belongs to the open file description, so it is free when the last descriptor is closed: at the end of
the process, however it ends. Nothing here ever calls LOCK_UN: in a forked child that would unlock the parent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import threading
from pathlib import Path

from instar.handlers.errors import LockError
from instar.handlers.filesystem import unsafe_filesystem

#: Every lock of this process that has a descriptor, waiting ones too: a child forked while one waits would
#: become a holder as soon as the wait ends.
_open: set[NameLock] = set()
#: Held over open-and-register and over each fork, so that no fork comes between the two.
_registry = threading.RLock()


class NameLock:
    """The lock of one name. `acquire` from one thread only; `holds` from any."""

    def __init__(self, path: Path, *, any_filesystem: bool = False) -> None:
        """`any_filesystem` allows network file systems, where the kernel may lose the lock unnoticed."""
        self.path = path
        self._any_filesystem = any_filesystem
        self._fd: int | None = None
        self._held = False

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take the lock; False if somebody has it and `blocking` is off. Raises LockError if the file can't be used.

        A blocked call ends only with the lock or with the process: closing the descriptor wouldn't wake it.
        Waiters are served in the order of their arrival.
        """
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
            except BlockingIOError:
                self.close()
                return False
            except OSError as error:
                self.close()
                raise LockError(f"cannot lock {self.path}: {error.strerror}") from error
            # Somebody may have replaced the file while we waited: then this lock is one on nothing.
            if self._current(fd):
                self._held = True
                return True
            self.close()

    def holds(self) -> bool:
        """Whether this process has the lock and the file at the path is still the locked one."""
        fd = self._fd
        return fd is not None and self._held and self._current(fd)

    @property
    def fd(self) -> int:
        """The descriptor of the held lock, for reading and writing the file. Raises LockError without one."""
        if self._fd is None or not self._held:
            raise LockError(f"cannot use {self.path}: its lock isn't held by this process")
        return self._fd

    def share(self) -> int:
        """A second, inheritable descriptor of the same lock, for a program to be started; the caller closes it.

        The name stays held until every copy is closed.
        """
        fd = os.dup(self.fd)
        os.set_inheritable(fd, True)
        return fd

    def close(self) -> None:
        """Close the descriptor, which frees the lock unless a copy of it is left. For one that was not used yet:

        a holder keeps its lock to the end of its process, since a thread of it could still write.
        """
        with _registry:
            fd, self._fd, self._held = self._fd, None, False
            _open.discard(self)
            if fd is not None:
                os.close(fd)

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._refuse_network()
            with _registry:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                _open.add(self)
                return self._fd
        except OSError as error:
            raise LockError(f"cannot lock {self.path}: {error.strerror}") from error

    def _refuse_network(self) -> None:
        kind = None if self._any_filesystem else unsafe_filesystem(self.path.parent)
        if kind:
            raise LockError(
                f"cannot lock {self.path}: it lies on {kind}, where a lock can be lost while its holder runs on; "
                "put the state directory on a local file system"
            )

    def _current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.path.lstat())
        except OSError:
            return False

    def _forget(self) -> None:
        """In a forked child: the name is the parent's."""
        fd, self._fd, self._held = self._fd, None, False
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)


def holders(path: Path) -> list[int]:
    """Pids that have the lock open, as far as we may look (proc_pid_fdinfo(5)).

    /proc/locks would name the process that took it, which may have died and left it to a child.
    """
    try:
        inode = f":{path.stat().st_ino} "
    except OSError:
        return []
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _has_lock(pid, inode)]


@dataclasses.dataclass(frozen=True)
class Contest:
    """Who is recorded at a lock: pids that took it, and pids that are blocked in taking it."""

    taken: frozenset[int]
    waiting: frozenset[int]


def contest(path: Path) -> Contest:
    """A cheap look at a lock (proc_locks(5)). A taker may have died and left the lock to a child."""
    taken: set[int] = set()
    waiting: set[int] = set()
    with contextlib.suppress(OSError):
        inode = f":{path.stat().st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            blocked = words[1] == "->"
            kind, _, _, pid, where = words[1 + blocked : 6 + blocked]
            if kind == "FLOCK" and where.endswith(inode):
                (waiting if blocked else taken).add(int(pid))
    return Contest(frozenset(taken), frozenset(waiting))


def _has_lock(pid: int, inode: str) -> bool:
    # A process or a descriptor may go away while we look.
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fdinfo"):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text()
                if any(line.startswith("lock:") and "FLOCK" in line and inode in line for line in text.splitlines()):
                    return True
    return False


def _after_fork_in_child() -> None:
    for lock in _open:
        lock._forget()
    _open.clear()
    _registry.release()


os.register_at_fork(before=_registry.acquire, after_in_parent=_registry.release, after_in_child=_after_fork_in_child)
