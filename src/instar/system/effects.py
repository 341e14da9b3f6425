"""The `System` object: processes, signals, clocks and files."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from instar.system.rights import Rights, bounded

#: prctl(2).
_PR_SET_CHILD_SUBREAPER = 36


class System:
    """Each method is one effect. Errors are those of the system call (OSError)."""

    def __init__(self) -> None:
        #: Children that somebody here waits for.
        self._spawned: set[int] = set()

    def monotonic(self) -> float:
        """Seconds on CLOCK_MONOTONIC; the same in all processes of the host."""
        return time.monotonic()

    def time(self) -> float:
        """Seconds since the epoch, for people only."""
        return time.time()

    def fork(self) -> int:
        """fork(2)."""
        return os.fork()

    def kill(self, pid: int, sig: int) -> bool:
        """Signal a child that has not been reaped; False when it is gone."""
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return False
        return True

    def reap(self, pid: int) -> int | None:
        """Exit status of our child (negative: the signal), or None while it lives.

        A child that somebody else reaped counts as ended with status 255, as in asyncio.
        """
        try:
            got, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return 255
        return None if got == 0 else os.waitstatus_to_exitcode(status)

    def pidfd_open(self, pid: int) -> int:
        """A descriptor that stands for the process and becomes readable at its end (pidfd_open(2))."""
        return os.pidfd_open(pid)

    def pidfd_signal(self, pidfd: int, sig: int) -> bool:
        """Signal through a pidfd, which never reaches a stranger with a reused pid; False when it is gone."""
        try:
            signal.pidfd_send_signal(pidfd, sig)
        except ProcessLookupError:
            return False
        return True

    def start_time(self, pid: int) -> int:
        """Start of the process in clock ticks since boot; 0 when it is gone (proc_pid_stat(5), field 22)."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return 0
        # The command name may hold spaces and brackets: count from its last bracket.
        return int(stat.rpartition(")")[2].split()[19])

    def children(self) -> list[int]:
        """Pids of our children, zombies included (proc_tid_children(5))."""
        pids: list[int] = []
        for task in os.listdir("/proc/self/task"):
            # A thread may end between the listing and the read.
            with contextlib.suppress(OSError):
                pids += map(int, Path(f"/proc/self/task/{task}/children").read_text().split())
        return pids

    def become_subreaper(self) -> None:
        """Orphans below us become our children instead of init's (prctl(2), PR_SET_CHILD_SUBREAPER)."""
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        output: int,
        pass_fds: Sequence[int] = (),
        rights: Rights | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in its own session, with its output appended to the descriptor `output`."""
        who = rights or Rights()

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,
                user=who.uid,
                group=who.gid,
                extra_groups=who.groups,
                umask=-1 if who.umask is None else who.umask,
            )

        process = bounded(start) if who.no_new_privs else start()
        self._spawned.add(process.pid)
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a process from `spawn` and forget it; its exit status (negative: the signal)."""
        status = process.wait()
        self._spawned.discard(process.pid)
        return status

    def spawned(self, pid: int) -> bool:
        """Whether `finish` will be called for this child."""
        return pid in self._spawned

    def expect(self, pid: int) -> None:
        """`last_status` will be called for this process, which may be a child from before an exec."""
        self._spawned.add(pid)

    def is_zombie(self, pid: int) -> bool:
        """Whether the process has ended and waits to be reaped (proc_pid_stat(5), field 3)."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return False

    def last_status(self, pid: int) -> int | None:
        """Exit status of a process that has just ended, ours or not (negative: the signal); None when it is too late.

        A zombie tells it to its own user and to root (proc_pid_stat(5), field 52).
        """
        self._spawned.discard(pid)
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] != "Z":
            return None
        status = os.waitstatus_to_exitcode(int(fields[49]))
        self.reap(pid)
        return status

    def set_priority(self, pid: int, nice: int) -> None:
        """Set the nice value of every thread of a process (setpriority(2) acts on one thread)."""
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(task), nice)

    def open_append(self, path: Path) -> int:
        """A descriptor that appends, for the output of a process; the caller closes it."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def append(self, fd: int, data: bytes) -> None:
        """Append a record with a single write, so that it is there whole or not at all after a SIGKILL."""
        written = os.write(fd, data)
        if written != len(data):
            # Of a regular file, only when there is no room for the rest (write(2)).
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def describe_status(status: int) -> str:
    """An exit status (negative: a signal) in words."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
