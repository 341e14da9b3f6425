"""Programs on this host, and callables in programs of their own. They outlive the handler and the supervisor.

A successor finds them by their folder. See `instar.jobs.shim` and `instar.jobs.launcher`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

from instar.jobs import launcher
from instar.jobs.callee import command
from instar.jobs.folder import Folder, Ticket
from instar.jobs.launcher import OwnLauncher
from instar.jobs.runners.base import Assignment, Notice, Phase, RefusedError, Setup, UnavailableError
from instar.jobs.runners.environment import job_environment
from instar.jobs.runners.folders import FolderRunner

#: A launcher that was killed is back within this time (seconds).
_PATIENCE: Final = 5.0
#: Seconds between two tries to reach it.
_AGAIN: Final = 0.01


class LocalRunner(FolderRunner):
    """Runs argv, or a callable in a fresh interpreter, under a shim."""

    runs_callables = True
    threads = 4

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._own: OwnLauncher | None = None
        if setup.launcher is None:
            self._own = OwnLauncher(setup.folder / f".launcher-{os.getpid()}")

    def prepare(self) -> None:
        """Start a launcher if the supervisor keeps none."""
        if self._own:
            self._own.ensure()

    def start(self, assignment: Assignment) -> Notice:
        """Have the launcher fork a shim for it."""
        folder = self.write_order(assignment, self._order(assignment))
        answer = self._ask(assignment, folder)
        if answer.get("begun"):
            ticket = Ticket(pid=int(answer["pid"]), start=int(answer["start"]))
            self.watch(assignment, ticket)
            name = f"{ticket.pid}@{ticket.start}"
            return Notice(assignment.key, Phase.RUNNING, name, started_at=float(answer["at"]))
        if "error" in answer and folder.void():
            raise RefusedError(f"cannot start job {assignment.job_id}: {answer['error']}")
        # Somebody was faster, or the answer was lost: the folder knows.
        return self.recover(assignment)

    def close(self) -> None:
        """Stop watching. The shims go on."""
        super().close()
        if self._own:
            self._own.close()

    def _order(self, assignment: Assignment) -> dict[str, Any]:
        order = {
            "argv": list(assignment.argv),
            "env": job_environment(assignment, self.folder(assignment)),
            "cwd": assignment.cwd,
            "timeout": assignment.timeout,
            "kill_timeout": assignment.kill_timeout,
        }
        if assignment.argv:
            return order
        if not assignment.target:
            raise RefusedError(f"cannot run job {assignment.job_id}: it has neither a command nor a callable")
        call = {"target": assignment.target, "args": list(assignment.args), "kwargs": dict(assignment.kwargs)}
        cwd = assignment.cwd or str(Path.cwd())
        return {**order, **call, "argv": command("once"), "cwd": cwd, "path": sys.path}

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
