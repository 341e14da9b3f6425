"""Ending a process with everything that it has started, daemons included."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: Seconds between two rounds over a tree that isn't gone yet.
_PAUSE: Final = 0.002
#: More processes than this were seen: the tree grows while it is killed.
_MANY: Final = 50


def children(pid: int) -> list[int]:
    """Pids of the children of a process, zombies included; empty when it is gone (proc_tid_children(5))."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            # A thread may end between the listing and the read.
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def descendants(*roots: int) -> set[int]:
    """Pids of all processes below the roots, without these. Daemons are below the nearest subreaper."""
    todo, seen = list(roots), set[int]()
    while todo:
        fresh = [pid for pid in children(todo.pop()) if pid not in seen]
        seen.update(fresh)
        todo += fresh
    return seen - set(roots)


def kill_tree(root: int, *, patience: float = 5.0) -> bool:
    """SIGKILL a child with all its descendants; whether they were gone within `patience` seconds.

    With our own pid: everything below us, which is reaped, too; we live on, and must be a subreaper. Otherwise the
    child itself is left to its owner to reap, and what falls to us, if we are a subreaper, is taken for the child's
    only if it was seen below it or is in a session or group of such a one. A `ProcessGroup` has no such doubts.

    No walk with SIGSTOP: that never catches up with a process that forks without pause. A process with a pending
    SIGKILL can't fork, so killing what is seen, again and again, comes to an end.
    """
    killing = _Killing(root)
    deadline = time.monotonic() + patience
    if root != os.getpid():
        # It alone is stopped, so that it can't start more; it stays the parent of what is below it.
        _signal([root], signal.SIGSTOP)
        killing.until_empty(deadline)
        _signal([root], signal.SIGKILL)
        while not _dead(root) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        return killing.until_empty(deadline) and _dead(root)
    return killing.until_empty(deadline)


class _Killing:
    """Rounds over one tree."""

    def __init__(self, root: int) -> None:
        self._me = os.getpid()
        self._root = root
        self._before = set() if root == self._me else set(children(self._me))
        self._seen = {root}

    def until_empty(self, deadline: float) -> bool:
        """Go round until nothing is alive; False if something still is at the deadline."""
        quiet = 0
        # Twice: a child may have fallen to us after we had listed ours, and before its parent was seen dead.
        while quiet < 2:
            quiet = 0 if self._round() else quiet + 1
            if time.monotonic() > deadline:
                return False
            # A fork bomb gains more in a pause than we save.
            if not quiet and len(self._seen) < _MANY:
                time.sleep(_PAUSE)
        return True

    def _round(self) -> bool:
        """Kill what is seen of the tree and reap what has fallen to us; whether something was alive."""
        fallen = {pid for pid in children(self._me) if pid not in self._before and self._ours(pid)} - {self._root}
        below = (descendants(self._root, *fallen) | fallen) - {self._me, self._root}
        self._seen |= below
        alive = [pid for pid in below if not _dead(pid)]
        _signal(alive, signal.SIGKILL)
        for pid in fallen:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return bool(alive)

    def _ours(self, pid: int) -> bool:
        if self._root == self._me or pid in self._seen:
            return True
        try:
            return os.getsid(pid) in self._seen or os.getpgid(pid) in self._seen
        except OSError:
            return False


def _signal(pids: Iterable[int], sig: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, sig)


def _dead(pid: int) -> bool:
    """Whether a process has ended, reaped or not (proc_pid_stat(5), field 3)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


#: Length in microseconds of the period that cpu.max counts in (cgroups(7)).
_PERIOD = 100_000


class ProcessGroup:
    """A cgroup (v2) of our own: nobody leaves it by becoming a daemon, and the kernel kills it as a whole.

    See cgroups(7). `create` gives None where none can be made; `kill_tree` has to do then.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Whether the kernel took a limit of the memory.
        self.memory_limited = False

    @classmethod
    def create(cls, name: str, parent: Path | None = None) -> ProcessGroup | None:
        """A new, empty group below `parent` (default: the group we are in), or None."""
        parent = parent or own_group()
        if parent is None:
            return None
        group = cls(parent / re.sub(r"[^\w.-]", "_", name))
        try:
            group.folder.mkdir()
        except OSError:
            return None
        if group._usable():
            return group
        group.remove()
        return None

    def limit(self, *, memory: int, cores: float) -> list[str]:
        """Set the most memory (bytes) and processor time (cores) that its processes may use together; 0: no limit.

        Returns a sentence for each limit that the kernel does not take: the controller has to be delegated.
        """
        problems = []
        settings = {
            "memory.max": str(memory) if memory else "",
            "cpu.max": f"{int(cores * _PERIOD)} {_PERIOD}" if cores else "",
        }
        for file, value in settings.items():
            if value:
                try:
                    (self.folder / file).write_text(value)
                    self.memory_limited |= file == "memory.max"
                except OSError as error:
                    problems.append(f"cannot set {file} of {self.folder.name}: {error.strerror}")
        return problems

    def enter(self) -> bool:
        """Move this process in, and with it all that it starts from now on; False where the kernel refuses."""
        try:
            (self.folder / "cgroup.procs").write_text("0")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL every process in it at once, those that are just being forked as well. Raises OSError."""
        (self.folder / "cgroup.kill").write_text("1")

    def populated(self) -> bool:
        """Whether a process is in it that hasn't ended."""
        try:
            return "populated 1" in (self.folder / "cgroup.events").read_text()
        except OSError:
            return False

    def pids(self) -> list[int]:
        """Pids of the processes in it."""
        try:
            return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def kill_and_wait(self, patience: float = 5.0) -> bool:
        """`kill`, then wait; whether it was empty within `patience` seconds. Raises OSError."""
        self.kill()
        deadline = time.monotonic() + patience
        while self.populated():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
        return True

    def remove(self) -> bool:
        """Remove it; whether that worked (it doesn't while a process is in it)."""
        try:
            self.folder.rmdir()
        except OSError:
            return False
        return True

    def _usable(self) -> bool:
        return (
            os.access(self.folder / "cgroup.procs", os.W_OK)
            and os.access(self.folder / "cgroup.kill", os.W_OK)
            # To move a process needs the right to write where it comes from, too.
            and os.access(self.folder.parent / "cgroup.procs", os.W_OK)
        )


def own_group() -> Path | None:
    """Folder of the cgroup v2 that this process is in, wherever it is mounted; None if there is none."""
    mount = next((fields[4] for fields in _mounts() if fields[-3] == "cgroup2"), None)
    if mount is None:
        return None
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::/")), None)
    folder = Path(mount + (path or ""))
    return folder if path and folder.is_dir() else None


def _mounts() -> Iterable[list[str]]:
    """Fields of each mount (proc_pid_mountinfo(5)): the type is the third from the end, after optional ones."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            yield line.split()
