"""The shim: the process that is responsible for one local attempt, and outlives whoever asked for it.

It is forked by the launcher, has no threads, and needs nobody: it takes the ticket, starts the program, keeps its time
limit, ends all that the program has left behind, and writes down how it ended. A signal is how others reach it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any, Final, NoReturn

from instar.handlers.tree import ProcessGroup, descendants
from instar.jobs.folder import Exit, Folder
from instar.jobs.spawn import Groups, fork_into, set_name
from instar.system import System

#: Asks for the end: SIGTERM to the program, SIGKILL to all that is left after `kill_timeout`.
END: Final = signal.SIGTERM
#: SIGKILL to all at once.
END_NOW: Final = signal.SIGQUIT
#: Exit status of a shim whose attempt somebody else has begun, or has declared void.
TURNED_AWAY: Final = 122
#: Seconds in which a request has to arrive.
_PATIENCE: Final = 5.0
#: Longest request and answer (bytes).
MOST: Final = 16384
#: Exit statuses of a shell: not executable, not found.
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127
#: Seconds between two rounds over a tree that isn't gone yet.
_PAUSE: Final = 0.002
#: Seconds between two tries to write down the end.
_AGAIN: Final = 1.0
#: More processes than this in a tree: it grows while it is killed.
_MANY: Final = 50


def serve(connection: socket.socket, groups: Groups) -> int:
    """Read the request, see the attempt through, and return the exit status; in a process forked for it."""
    os.setsid()
    set_name("instar-job")
    connection.settimeout(_PATIENCE)
    try:
        request = json.loads(connection.recv(MOST))
        shim = Shim(Folder(Path(request["folder"])), groups)
    except (OSError, ValueError, KeyError, TypeError):
        return 1
    try:
        answer = shim.begin()
    except (OSError, ValueError, KeyError, TypeError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    with contextlib.suppress(OSError):
        # The manager may be gone; the attempt goes on.
        connection.send(json.dumps(answer).encode()[:MOST])
    connection.close()
    return shim.see_through() if answer.get("begun") else TURNED_AWAY


class Shim:
    """One attempt, from its ticket to its exit file."""

    def __init__(self, folder: Folder, groups: Groups) -> None:
        self._folder = folder
        self._groups = groups
        self._lock = -1
        self._program = 0
        self._status: int | None = None
        self._error = ""
        self._began = 0.0
        self._ended = 0.0
        self._timed_out = False
        self._asked: set[int] = set()
        self._ending = False
        self._kill_at: float | None = None
        self._timeout_at: float | None = None
        self._kill_timeout = 10.0
        self._group: ProcessGroup | None = None
        # Signals arrive as bytes on a pipe, so that they can be waited for together with the rest.
        self._wake, self._wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def begin(self) -> dict[str, Any]:
        """Take the ticket and start the program; `begun` and who we are, or why not. Raises OSError, ValueError."""
        # Before the ticket: whoever finds a ticket and no lock knows that we are gone. Held to our end.
        lock = self._folder.hold()
        if lock is None:
            return {"turned_away": True}
        self._lock = lock
        order = self._folder.read_order()
        self._kill_timeout, limit = float(order["kill_timeout"]), float(order["timeout"])
        argv, env, cwd = list(order["argv"]), dict(order["env"]), str(order["cwd"])
        for sig in (END, END_NOW, signal.SIGCHLD):
            signal.signal(sig, lambda *_: None)
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        System().become_subreaper()
        if not self._folder.take_ticket():
            return {"turned_away": True}
        # From here on it has begun, whatever happens.
        try:
            self._start(argv, env, cwd)
        except OSError as error:
            self._error = f"cannot start {argv[0]}: {error.strerror}"
        if limit:
            self._timeout_at = time.monotonic() + limit
        return {"begun": True, "pid": os.getpid(), "start": System().start_time(os.getpid()), "at": self._began}

    def see_through(self) -> int:
        """Wait for the program and its whole tree, and write down how it ended; returns our exit status."""
        while self._program and self._reap():
            self._wait()
            self._press()
        if self._group is not None:
            self._group.remove()
        while not self._written(self._exit()):
            # A full disk, perhaps: an end that nobody learns of would be a loss.
            time.sleep(_AGAIN)
        return 0

    # --- start --------------------------------------------------------------------------------------

    def _start(self, argv: list[str], env: dict[str, str], cwd: str) -> None:
        self._began = time.time()
        self._group = self._groups.create(f"instar-job-{self._folder.path.name}")
        if not cwd:
            self._folder.work.mkdir(mode=0o700, exist_ok=True)
            cwd = str(self._folder.work)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        out = os.open(self._folder.out, flags, 0o600)
        err = os.open(self._folder.err, flags, 0o600)
        tree = self._folder.hold_tree()
        # A signal between fork and exec would run our handler in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, (END, END_NOW))
        self._program = fork_into(self._group)
        if self._program == 0:
            self._become(argv, env, cwd, (out, err, tree))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (END, END_NOW))
        for fd in (out, err, tree):
            if fd is not None:
                os.close(fd)
        with contextlib.suppress(OSError):
            # Only for those who have to do with the tree when we are gone.
            group = str(self._group.folder) if self._group else ""
            self._folder.write_started(self._lock, pid=self._program, at=self._began, group=group)

    def _become(self, argv: list[str], env: dict[str, str], cwd: str, fds: tuple[int, int, int | None]) -> NoReturn:
        """In the child: everything that must be done before the program can start a process, then exec."""
        out, err, tree = fds
        status = _CANNOT_EXECUTE
        try:
            signal.set_wakeup_fd(-1)
            for sig in (END, END_NOW, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
                signal.signal(sig, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.setsid()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
            if tree is not None:
                # All that it starts and that keeps its descriptors holds this lock.
                os.set_inheritable(tree, True)
            os.chdir(cwd)
            os.execvpe(argv[0], argv, env)  # noqa: S606
        except FileNotFoundError as error:
            status = _NOT_FOUND
            _complain(argv, cwd, error)
        except BaseException as error:
            _complain(argv, cwd, error)
        os._exit(status)

    # --- wait ---------------------------------------------------------------------------------------

    def _reap(self) -> bool:
        """Collect ended processes; whether any is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._asked.discard(pid)
            if pid == self._program:
                self._status = os.waitstatus_to_exitcode(status)
                self._ended = time.time()
                # What it has left behind has no work any more; the next attempt must not meet it.
                self._end()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        times = [at for at in (self._kill_at, self._timeout_at) if at is not None]
        poll.poll(max(0.0, min(times) - time.monotonic()) * 1000 if times else None)
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._wake, 512):
                if number == END:
                    self._end()
                elif number == END_NOW:
                    self._end()
                    self._kill_at = time.monotonic()

    def _press(self) -> None:
        now = time.monotonic()
        if self._timeout_at is not None and now >= self._timeout_at:
            self._timeout_at = None
            if self._status is None:
                self._timed_out = True
                self._end()
        if self._kill_at is not None and now >= self._kill_at:
            self._kill()

    def _end(self) -> None:
        """SIGTERM, once, to each process of the tree; SIGKILL later."""
        if not self._ending:
            self._ending = True
            self._kill_at = time.monotonic() + self._kill_timeout
        if self._status is None and self._program not in self._asked:
            # The group first: at once, so that a shell doesn't start the next command meanwhile.
            _send(-self._program, signal.SIGTERM)
            self._asked.update(pid for pid in descendants(os.getpid()) if _group_of(pid) == self._program)
        for pid in descendants(os.getpid()) - self._asked:
            self._asked.add(pid)
            _send(pid, signal.SIGTERM)

    def _kill(self) -> None:
        """SIGKILL until nothing is left; each is reaped here, so that the program's own status isn't lost."""
        while self._reap():
            if self._group is not None:
                # Reaches those that are just being forked as well.
                with contextlib.suppress(OSError):
                    self._group.kill()
            # No walk with SIGSTOP, as in instar.handlers.tree: a process with a pending SIGKILL can't fork.
            pids = descendants(os.getpid())
            for pid in pids:
                _send(pid, signal.SIGKILL)
            if len(pids) < _MANY:
                time.sleep(_PAUSE)

    def _written(self, value: Exit) -> bool:
        try:
            self._folder.write_exit(value)
        except OSError:
            return not self._folder.path.is_dir()
        return True

    # --- end ----------------------------------------------------------------------------------------

    def _exit(self) -> Exit:
        status = self._status
        if not self._program:
            # It was not even forked, for want of processes or files.
            return Exit(code=_CANNOT_EXECUTE, started_at=self._began, finished_at=time.time(), error=self._error)
        return Exit(
            code=status if status is not None and status >= 0 else None,
            signal=-status if status is not None and status < 0 else None,
            timed_out=self._timed_out,
            started_at=self._began,
            finished_at=self._ended or time.time(),
        )


def _send(pid: int, sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, sig)


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def _complain(argv: list[str], cwd: str, error: BaseException) -> None:
    """To the program's own error output: that is where people look."""
    reason = error.strerror if isinstance(error, OSError) else error
    where = f" in {cwd}" if isinstance(error, OSError) and error.filename == cwd else ""
    os.write(2, f"cannot start {argv[0]}{where}: {reason}\n".encode(errors="replace"))
