"""Programs on this host. They outlive the handler and the supervisor; a successor finds them by their folder.

The ticket in the folder decides whether an attempt begins, and the lock beside it tells whether its shim lives; pids
are only used to wait and to signal. See `instar.jobs.folder`, `instar.jobs.shim` and `instar.jobs.launcher`.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Final

from instar.jobs import launcher
from instar.jobs.folder import Folder, Ticket, make_home, sweep
from instar.jobs.launcher import OwnLauncher
from instar.jobs.runners import traces
from instar.jobs.runners.base import (
    Assignment,
    Notice,
    Phase,
    RefusedError,
    Runner,
    RunnerError,
    Setup,
    Sink,
    UnavailableError,
)
from instar.jobs.runners.environment import job_environment
from instar.jobs.runners.watch import Watcher
from instar.jobs.shim import END, END_NOW
from instar.system import System

logger = logging.getLogger("instar.jobs")

#: A launcher that was killed is back within this time (seconds).
_PATIENCE: Final = 5.0
#: Seconds between two tries to reach it.
_AGAIN: Final = 0.05
#: Seconds between two rounds over what such an attempt has left.
_KILL_AGAIN: Final = 0.02
#: Seconds between two looks at an attempt whose shim is gone.
_LOOK: Final = 0.5


class LocalRunner(Runner):
    """Runs argv under a shim."""

    threads = 4

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._watcher = Watcher(f"instar-{setup.name}")
        self._watched: set[str] = set()
        self._guard = threading.Lock()
        self._sink: Sink = _nobody
        self._since = 0.0
        self._own: OwnLauncher | None = None
        if setup.launcher is None:
            self._own = OwnLauncher(setup.folder / f".launcher-{os.getpid()}")

    def open(self, sink: Sink) -> None:
        """Begin to watch; starts a launcher if the supervisor keeps none."""
        self._sink = sink
        try:
            self._since = make_home(self.setup.folder)
            sweep(self.setup.folder)
            if self._own:
                self._own.ensure()
        except OSError as error:
            raise RunnerError(
                f"cannot run jobs in {self.setup.folder}: {error.strerror}; check the folder's owner and space"
            ) from error
        self._watcher.start()

    def start(self, assignment: Assignment) -> Notice:
        """Have the launcher fork a shim for it."""
        folder = self._folder(assignment)
        self._write_order(assignment, folder)
        answer = self._ask(assignment, folder)
        if answer.get("begun"):
            ticket = Ticket(pid=int(answer["pid"]), start=int(answer["start"]))
            self._watch(assignment, ticket)
            name = f"{ticket.pid}@{ticket.start}"
            return Notice(assignment.key, Phase.RUNNING, name, started_at=float(answer["at"]))
        if "error" in answer and folder.void():
            raise RefusedError(f"cannot start {assignment.argv[0]}: {answer['error']}")
        # Somebody was faster, or the answer was lost: the folder knows.
        return self.recover(assignment)

    def recover(self, assignment: Assignment) -> Notice:
        """Look into the folder, and go on watching what runs."""
        folder = self._folder(assignment)
        try:
            notice = traces.settle(assignment, folder, self._since)
            ticket = folder.ticket()
        except (OSError, ValueError, TypeError) as error:
            raise UnavailableError(f"cannot look after job {assignment.job_id} in {folder.path}: {error}") from error
        if notice.phase is Phase.RUNNING and ticket is not None:
            self._watch(assignment, ticket)
        return notice

    def cancel(self, assignment: Assignment, *, now: bool = False) -> None:
        """Signal the shim; what has not begun never will."""
        folder = self._folder(assignment)
        try:
            ticket = folder.ticket()
            if ticket is None:
                if folder.void():
                    self._sink(Notice(assignment.key, Phase.NEVER))
                    return
                ticket = folder.ticket()
            if ticket is None or ticket.void:
                return
            if folder.responsible():
                traces.signal_process(ticket.pid, ticket.start, END_NOW if now else END)
            elif traces.still_runs(folder):
                self._end_rest(assignment, folder, now)
        except (OSError, ValueError, TypeError) as error:
            raise UnavailableError(f"cannot cancel job {assignment.job_id} in {folder.path}: {error}") from error

    def progress(self, assignment: Assignment) -> Any:
        """The last line of its file `progress`."""
        return self._folder(assignment).progress()

    def discard(self, assignment: Assignment) -> None:
        """Delete its folder."""
        self._folder(assignment).remove()

    def close(self) -> None:
        """Stop watching. The shims go on."""
        if self._sink is not _nobody:
            self._watcher.close()
        if self._own:
            self._own.close()

    # --- start --------------------------------------------------------------------------------------

    def _folder(self, assignment: Assignment) -> Folder:
        return Folder(self.setup.folder / assignment.key)

    def _write_order(self, assignment: Assignment, folder: Folder) -> None:
        if not assignment.argv:
            raise RefusedError(f"cannot run job {assignment.job_id} locally: it has no command")
        if any("\0" in text for text in (*assignment.argv, *assignment.env, *assignment.env.values(), assignment.cwd)):
            raise RefusedError(f"cannot run job {assignment.job_id}: its command or environment has a zero byte in it")
        order = {
            "argv": list(assignment.argv),
            "env": job_environment(assignment, folder),
            "cwd": assignment.cwd,
            "timeout": assignment.timeout,
            "kill_timeout": assignment.kill_timeout,
        }
        try:
            folder.order(order)
        except OSError as error:
            raise UnavailableError(
                f"cannot prepare job {assignment.job_id} in {folder.path}: {error.strerror}"
            ) from error

    def _ask(self, assignment: Assignment, folder: Folder) -> dict[str, Any]:
        """The launcher's answer; empty if none came."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                if self._own:
                    self._own.ensure()
                return launcher.ask(self._launcher(), folder.path) or {}
            except OSError as error:
                # It is being started again, or its queue is full.
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"cannot start job {assignment.job_id}: the launcher at {self._launcher()} can't be reached "
                        f"({error.strerror}); see `instar logs`"
                    ) from error
            time.sleep(_AGAIN)

    def _launcher(self) -> Path:
        if self._own:
            return self._own.path
        assert self.setup.launcher is not None  # noqa: S101 - for the type checker
        return self.setup.launcher

    # --- watch --------------------------------------------------------------------------------------

    def _watch(self, assignment: Assignment, ticket: Ticket) -> None:
        with self._guard:
            if assignment.key in self._watched:
                return
            self._watched.add(assignment.key)
        self._wait(assignment, ticket)

    def _wait(self, assignment: Assignment, ticket: Ticket) -> None:
        look = functools.partial(self._look, assignment)
        try:
            pidfd = os.pidfd_open(ticket.pid)
        except OSError:
            # Gone. (Or no descriptor is left; then we look from time to time.)
            self._watcher.later(0.0 if not self._folder(assignment).responsible() else _LOOK, look)
            return
        if System().start_time(ticket.pid) == ticket.start:
            self._watcher.at_end(pidfd, look)
        else:
            os.close(pidfd)
            self._watcher.later(0.0 if not self._folder(assignment).responsible() else _LOOK, look)

    def _look(self, assignment: Assignment) -> None:
        """In the watcher's thread: something has happened to it, or time has passed."""
        try:
            notice = traces.look(assignment.key, self._folder(assignment))
        except (OSError, ValueError, TypeError) as error:
            logger.warning("cannot look after job %s: %s", assignment.job_id, error)
            notice = None
        if notice is None or not notice.phase.final:
            self._watcher.later(_LOOK, functools.partial(self._look, assignment))
            return
        with self._guard:
            self._watched.discard(assignment.key)
        self._sink(notice)

    def _end_rest(self, assignment: Assignment, folder: Folder, now: bool) -> None:
        if now:
            self._kill_rest(folder)
            return
        traces.signal_rest(folder, signal.SIGTERM)
        self._watcher.later(assignment.kill_timeout, functools.partial(self._kill_rest, folder))

    def _kill_rest(self, folder: Folder) -> None:
        """Again and again: what was just being forked has escaped."""
        if traces.still_runs(folder) and not folder.responsible():
            traces.signal_rest(folder, signal.SIGKILL)
            self._watcher.later(_KILL_AGAIN, functools.partial(self._kill_rest, folder))


def _nobody(_: Notice) -> None:
    """The sink before `open`."""
