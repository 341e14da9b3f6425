"""What runners on this host have in common: an attempt is found by its folder, and watched by a pidfd."""

from __future__ import annotations

import functools
import logging
import os
import signal
import threading
from typing import Any, Final

from instar.jobs.folder import Folder, Ticket, make_home, sweep
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
from instar.jobs.runners.watch import Watcher
from instar.jobs.shim import END, END_NOW
from instar.system import System

logger = logging.getLogger("instar.jobs")

#: Seconds between two rounds over what an attempt has left that nobody is responsible for.
_KILL_AGAIN: Final = 0.02
#: Seconds between two looks at such an attempt.
_LOOK: Final = 0.5


class FolderRunner(Runner):
    """The ticket in the folder decides whether an attempt begins, and the lock beside it tells whether it goes on.

    Pids are only used to wait and to signal. See `instar.jobs.folder`.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.watcher = Watcher(f"instar-{setup.name}")
        self.sink: Sink = _nobody
        self._watched: set[str] = set()
        self._guard = threading.Lock()
        self._since = 0.0

    def open(self, sink: Sink) -> None:
        """Begin to watch."""
        self.sink = sink
        try:
            # What wasn't on the disk when the power went is lost as well.
            self._since = max(make_home(self.setup.folder), traces.booted())
            sweep(self.setup.folder)
            self.prepare()
        except OSError as error:
            raise RunnerError(
                f"cannot run jobs in {self.setup.folder}: {error.strerror}; check the folder's owner and space"
            ) from error
        self.watcher.start()

    def prepare(self) -> None:
        """What else has to be there before the first start. Raises OSError."""

    def recover(self, assignment: Assignment) -> Notice:
        """Look into the folder, and go on watching what runs."""
        folder = self.folder(assignment)
        try:
            notice = traces.settle(assignment, folder, self._since)
            ticket = folder.ticket()
        except (OSError, ValueError, TypeError) as error:
            raise UnavailableError(f"cannot look after job {assignment.job_id} in {folder.path}: {error}") from error
        if notice.phase is Phase.RUNNING and ticket is not None:
            self.watch(assignment, ticket)
        return notice

    def cancel(self, assignment: Assignment, *, now: bool = False) -> None:
        """Signal who is responsible; what has not begun never will."""
        folder = self.folder(assignment)
        try:
            ticket = folder.ticket()
            if ticket is None:
                if folder.void():
                    self.sink(Notice(assignment.key, Phase.NEVER))
                    return
                ticket = folder.ticket()
            if ticket is None or ticket.void:
                return
            if folder.responsible():
                self.ask_to_end(assignment, ticket, now)
            elif traces.still_runs(folder):
                self._end_rest(assignment, folder, now)
        except (OSError, ValueError, TypeError) as error:
            raise UnavailableError(f"cannot cancel job {assignment.job_id} in {folder.path}: {error}") from error

    def ask_to_end(self, assignment: Assignment, ticket: Ticket, now: bool) -> None:
        """Reach the process that is responsible. Raises OSError."""
        traces.signal_process(ticket.pid, ticket.start, END_NOW if now else END)

    def progress(self, assignment: Assignment) -> Any:
        """The last line of its file `progress`."""
        return self.folder(assignment).progress()

    def discard(self, assignment: Assignment) -> None:
        """Delete its folder."""
        self.folder(assignment).remove()

    def close(self) -> None:
        """Stop watching; what runs goes on."""
        if self.sink is not _nobody:
            self.watcher.close()

    def folder(self, assignment: Assignment) -> Folder:
        """Where its files are."""
        return Folder(self.setup.folder / assignment.key)

    def write_order(self, assignment: Assignment, order: dict[str, Any]) -> Folder:
        """Make the folder with what is to be run. Raises RefusedError, UnavailableError."""
        texts = (*assignment.argv, *assignment.env, *assignment.env.values(), assignment.cwd)
        if any("\0" in text for text in texts):
            raise RefusedError(f"cannot run job {assignment.job_id}: its command or environment has a zero byte in it")
        folder = self.folder(assignment)
        try:
            folder.order(order)
        except OSError as error:
            raise UnavailableError(
                f"cannot prepare job {assignment.job_id} in {folder.path}: {error.strerror}"
            ) from error
        return folder

    # --- watch --------------------------------------------------------------------------------------

    def watch(self, assignment: Assignment, ticket: Ticket) -> None:
        """Report its end to the sink, once."""
        with self._guard:
            if assignment.key in self._watched:
                return
            self._watched.add(assignment.key)
        look = functools.partial(self._look, assignment)
        try:
            pidfd = os.pidfd_open(ticket.pid)
        except OSError:
            # Gone. (Or no descriptor is left; then we look from time to time.)
            self._look_later(assignment)
            return
        if System().start_time(ticket.pid) == ticket.start:
            self.watcher.at_end(pidfd, look)
        else:
            os.close(pidfd)
            self._look_later(assignment)

    def _look_later(self, assignment: Assignment) -> None:
        pause = _LOOK if self.folder(assignment).responsible() else 0.0
        self.watcher.later(pause, functools.partial(self._look, assignment))

    def _look(self, assignment: Assignment) -> None:
        """In the watcher's thread: something has happened to it, or time has passed."""
        try:
            notice = traces.look(assignment.key, self.folder(assignment))
        except (OSError, ValueError, TypeError) as error:
            logger.warning("cannot look after job %s: %s", assignment.job_id, error)
            notice = None
        if notice is None or not notice.phase.final:
            self.watcher.later(_LOOK, functools.partial(self._look, assignment))
            return
        with self._guard:
            self._watched.discard(assignment.key)
        self.sink(notice)

    def _end_rest(self, assignment: Assignment, folder: Folder, now: bool) -> None:
        if now:
            self._kill_rest(folder)
            return
        traces.signal_rest(folder, signal.SIGTERM)
        self.watcher.later(assignment.kill_timeout, functools.partial(self._kill_rest, folder))

    def _kill_rest(self, folder: Folder) -> None:
        """Again and again: what was just being forked has escaped."""
        if traces.still_runs(folder) and not folder.responsible():
            traces.signal_rest(folder, signal.SIGKILL)
            self.watcher.later(_KILL_AGAIN, functools.partial(self._kill_rest, folder))


def _nobody(_: Notice) -> None:
    """The sink before `open`."""
