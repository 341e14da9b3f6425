"""The keeper: holds a name for a program that knows nothing of instar, until its last process has ended.

Two guards, since each has a hole. The program inherits the lock's descriptor: the name stays held when the keeper
alone is killed. The keeper holds it too, as subreaper of all that the program starts: the name stays held when
the program's children close descriptors that they don't know, as Python's subprocess does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from instar.handlers.process import HandlerProcess
from instar.handlers.tree import ProcessGroup, children, descendants, kill_tree
from instar.system import System

#: Passed on to the program; SIGTERM and SIGINT also count as a request to leave.
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
#: Seconds between two looks at whether the lock file is still the locked one.
_LOOK: Final = 1.0
#: Exit statuses of a shell: not executable, not found.
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127


def run_keeper(
    process: HandlerProcess,
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    stop_timeout: float | None,
    *,
    group: ProcessGroup | None = None,
) -> int:
    """Take the name, run the program, wait for its whole tree; returns the exit status for the keeper's process.

    Call it in the forked child, in the main thread, without other threads; `process` is not to be started. A byte or
    end of file on `release_fd` sends SIGTERM; a second byte, or `stop_timeout` seconds after the first (None: never),
    SIGKILL to the tree. Raises HandlerError if the name can't be taken. A standby that was asked to leave returns 0.
    """
    System().become_subreaper()
    if not process.take_here():
        return 0
    return _Keeper(process, stop_timeout, group).run(argv, {**env, **identity(process)}, cwd)


def identity(process: HandlerProcess) -> dict[str, str]:
    """Environment variables that tell a program who it is; the epoch only once it is known."""
    names = {
        "INSTAR_HANDLER": process.name,
        "INSTAR_POOL": process.pool,
        "INSTAR_INDEX": str(process.index),
        "INSTAR_TAGS": ",".join(process.tags),
        "INSTAR_GENERATION": str(process.generation),
        # Two applications of a host may have the same names; no two names have the same lock.
        "INSTAR_LOCK": str(process.lock_path),
    }
    return names | ({"INSTAR_EPOCH": str(process.lease.epoch)} if process.active else {})


class _Keeper:
    def __init__(self, process: HandlerProcess, stop_timeout: float | None, group: ProcessGroup | None) -> None:
        self._process = process
        self._stop_timeout = stop_timeout
        self._group = group
        self._program = 0
        self._status: int | None = None
        self._releasing = False
        self._kill_at: float | None = None
        self._asked: set[int] = set()
        self._release_fd: int | None = process.release_fd
        # Signals arrive as bytes on a pipe, so that they can be waited for together with the rest.
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> int:
        for sig in (*_FORWARDED, signal.SIGCHLD):
            signal.signal(sig, lambda *_: None)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        self._start(argv, env, cwd)
        while self._reap():
            self._wait()
            self._press()
        return self._exit_status()

    def _start(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
        # The copy isn't known to the hook that closes locks in forked children: the program keeps it.
        shared = self._process.lease.lock.share()
        # A signal between fork and exec would run the keeper's handler in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        self._program = os.fork()
        if self._program == 0:
            self._become(argv, env, cwd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        os.close(shared)

    def _become(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> NoReturn:
        """In the child: everything that must be done before the program can start a process, then exec."""
        status = _CANNOT_EXECUTE
        try:
            signal.set_wakeup_fd(-1)
            for sig in (*_FORWARDED, signal.SIGCHLD, signal.SIGPIPE):
                signal.signal(sig, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.setsid()
            if self._group is not None:
                self._group.enter()
            os.chdir(cwd)
            os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606
        except FileNotFoundError as error:
            status = _NOT_FOUND
            _complain(argv, error)
        except BaseException as error:
            _complain(argv, error)
        os._exit(status)

    def _reap(self) -> bool:
        """Collect ended processes; whether any is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return self._group is not None and self._group.populated()
            if pid == 0:
                return True
            self._asked.discard(pid)
            if pid == self._program:
                self._status = os.waitstatus_to_exitcode(status)
                # Its leftovers hear of the release as well.
                self._terminate_leftovers()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._release_fd is not None:
            poll.register(self._release_fd, select.POLLIN)
        left = _LOOK if self._kill_at is None else min(_LOOK, max(0.0, self._kill_at - time.monotonic()))
        ready = {fd for fd, _ in poll.poll(left * 1000)}
        if self._wake in ready:
            for number in os.read(self._wake, 512):
                self._on_signal(number)
        if self._release_fd in ready:
            self._on_release()
        elif not self._process.check():
            # Somebody else may have the name already: there is no time to be polite.
            self._kill_at = time.monotonic()

    def _on_signal(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._release()
        elif number in _FORWARDED and self._status is None:
            os.kill(self._program, number)

    def _on_release(self) -> None:
        assert self._release_fd is not None  # noqa: S101 - for the type checker
        data = os.read(self._release_fd, 16)
        if not data:
            # The zygote is gone or has closed it: no second byte will come.
            self._release_fd = None
        if len(data) > 1 or (data and self._releasing):
            self._kill_at = time.monotonic()
        self._release()

    def _release(self) -> None:
        if self._releasing:
            return
        self._releasing = True
        if self._kill_at is None and self._stop_timeout is not None:
            self._kill_at = time.monotonic() + self._stop_timeout
        if self._status is None:
            os.kill(self._program, signal.SIGTERM)
        self._terminate_leftovers()

    def _terminate_leftovers(self) -> None:
        """While we are asked to leave and the program has ended: SIGTERM, once, to what it has left behind."""
        if not self._releasing or self._status is None:
            return
        for pid in descendants(os.getpid()) - self._asked:
            self._asked.add(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)

    def _press(self) -> None:
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            # Reaps what it kills, the program too, whose status is the signal then.
            if self._group is not None:
                with contextlib.suppress(OSError):
                    self._group.kill()
            kill_tree(os.getpid())
            self._kill_at = time.monotonic() + _LOOK if children(os.getpid()) else None

    def _exit_status(self) -> int:
        if self._status is None:
            return 128 + signal.SIGKILL
        return self._status if self._status >= 0 else 128 - self._status


def _complain(argv: Sequence[str], error: BaseException) -> None:
    reason = error.strerror if isinstance(error, OSError) else error
    print(f"cannot start {argv[0]}: {reason}", file=sys.stderr, flush=True)
