"""Follows jobs in Slurm: one squeue for all of them, the files in their folders in between."""

from __future__ import annotations

import dataclasses
import logging
import signal
import threading
import time
from typing import Final

from instar.jobs.folder import Folder, Ticket
from instar.jobs.runners import traces
from instar.jobs.runners.base import Assignment, Notice, Phase, RunnerError, Sink
from instar.jobs.runners.slurm.commands import Commands

logger = logging.getLogger("instar.jobs")

#: Seconds between two looks at the folders.
_LOOK: Final = 0.5
#: Good answers without a job, at the least, before it is gone.
_TIMES: Final = 2
#: squeue(1), "JOB STATE CODES": those of jobs that have ended.
#: Of the first ones, nobody can tell how far the work has come.
_LOST: Final = frozenset({"BOOT_FAIL", "NODE_FAIL", "PREEMPTED", "REVOKED"})
_TIMED_OUT: Final = frozenset({"DEADLINE", "TIMEOUT"})
_ENDED: Final = _LOST | _TIMED_OUT | {"CANCELLED", "COMPLETED", "FAILED", "OUT_OF_MEMORY"}
#: States in which the program runs.
_RUNNING: Final = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "STAGE_OUT", "SIGNALING"})

#: (number, state, reason) of jobs.
Jobs = list[tuple[str, str, str]]


@dataclasses.dataclass
class _Watched:
    assignment: Assignment
    folder: Folder
    phase: Phase | None = None
    #: Since when no job of it goes on (monotonic), and in how many answers of Slurm.
    gone_since: float | None = None
    gone_times: int = 0
    stopped: bool = False


class Poller:
    """A thread. Nothing but an answer of Slurm or a file in the folder ever counts as knowledge."""

    def __init__(self, commands: Commands, *, shortest: float, longest: float, grace: float) -> None:
        """`shortest` and `longest`: seconds between two squeues; `grace`: seconds until a job that is gone is lost."""
        self._commands = commands
        self._shortest, self._longest, self._grace = shortest, longest, grace
        self._sink: Sink = lambda _: None
        self._watched: dict[str, _Watched] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._pause = shortest
        self._poll_at = 0.0
        self._thread = threading.Thread(target=self._run, name="instar-slurm", daemon=True)

    def start(self, sink: Sink) -> None:
        """Begin."""
        self._sink = sink
        self._thread.start()

    def watch(self, assignment: Assignment, folder: Folder, phase: Phase | None = None) -> None:
        """Report what becomes of it. `phase`: what the manager knows already."""
        with self._changed:
            self._watched.setdefault(assignment.key, _Watched(assignment, folder, phase))
        self.hurry()

    def hurry(self) -> None:
        """Something is about to change: ask soon."""
        with self._changed:
            self._pause = self._shortest
            self._poll_at = min(self._poll_at, time.monotonic() + self._pause)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    # --- the thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._watched)
                self._changed.wait_for(lambda: self._closed, _LOOK)
                if self._closed:
                    return
                watched = list(self._watched.values())
            answer = self._ask() if watched and time.monotonic() >= self._poll_at else None
            for item in watched:
                try:
                    self._look(item, answer)
                except (OSError, ValueError, TypeError, RunnerError) as error:
                    logger.warning("cannot look after job %s: %s", item.assignment.job_id, error)
                except Exception:
                    logger.exception("cannot follow job %s", item.assignment.job_id)

    def _ask(self) -> dict[str, Jobs] | None:
        """All jobs by name, or None if Slurm doesn't answer."""
        # Longer and longer, as long as nothing happens.
        pause, self._pause = self._pause, min(self._pause * 1.5, self._longest)
        self._poll_at = time.monotonic() + pause
        try:
            return self._commands.states()
        except RunnerError as error:
            logger.warning("%s; jobs there stay as they are", error, extra={"action": "slurm_unavailable"})
            return None

    def _look(self, item: _Watched, answer: dict[str, Jobs] | None) -> None:
        if end := ended(item.assignment.key, item.folder):
            self._finish(item, end)
            return
        if answer is None:
            return
        jobs = answer.get(item.assignment.key, [])
        live = [job for job in jobs if job[1] not in _ENDED]
        if live:
            item.gone_since, item.gone_times = None, 0
            self._goes_on(item, live)
            return
        if item.gone_since is None:
            item.gone_since = time.monotonic()
        item.gone_times += 1
        # A file that was just written on a node may take a while to be seen here.
        if item.gone_times >= _TIMES and time.monotonic() - item.gone_since >= self._grace:
            self._finish(item, self._gone(item, jobs))

    def _goes_on(self, item: _Watched, live: Jobs) -> None:
        ticket = item.folder.ticket()
        running = (ticket is not None and not ticket.void) or any(job[1] in _RUNNING for job in live)
        phase = Phase.RUNNING if running else Phase.QUEUED
        if phase is not item.phase:
            item.phase = phase
            number = (ticket.slurm if ticket else "") or live[-1][0]
            at = ticket.at if ticket else None
            self._sink(Notice(item.assignment.key, phase, number, started_at=at))
        if ticket is not None:
            self._keep_time(item, ticket)

    def _keep_time(self, item: _Watched, ticket: Ticket) -> None:
        limit = item.assignment.timeout
        if limit and ticket.at and time.time() > ticket.at + limit and not item.stopped:
            item.folder.timed_out.touch()
            self._commands.cancel(item.assignment.key)
            item.stopped = True
            self.hurry()

    def _gone(self, item: _Watched, jobs: Jobs) -> Notice | None:
        """What to say of an attempt that Slurm doesn't run any more and that has written no end; None: not yet."""
        key, folder = item.assignment.key, item.folder
        ticket = folder.ticket()
        if ticket is None and not folder.void():
            return None
        if ticket is None or ticket.void:
            # Removed from the queue by somebody, perhaps: to begin it anew would be to disregard that.
            why = ", ".join(f"{state} ({reason})" for _, state, reason in jobs if state not in _LOST)
            return Notice(key, Phase.ENDED, error=f"it never began: {why}") if why else Notice(key, Phase.NEVER)
        found = self._commands.ended(ticket.slurm)
        if found is None or found[0] in _LOST:
            why = f"Slurm says {found[0]}" if found else "Slurm doesn't know it any more, and it has written no end"
            said = folder.progress()
            return Notice(key, Phase.LOST, ticket.slurm, started_at=ticket.at, error=why, progress=said)
        state, code, sig = found
        if state not in _ENDED:
            return None
        by_signal = sig or (int(signal.SIGKILL) if not code and state != "COMPLETED" else None)
        return Notice(
            key,
            Phase.ENDED,
            ticket.slurm,
            exit_code=None if by_signal else code,
            signal=by_signal,
            timed_out=state in _TIMED_OUT or folder.timed_out.exists(),
            started_at=ticket.at,
            error="" if state in ("COMPLETED", "FAILED") else f"Slurm says {state}",
            progress=folder.progress(),
        )

    def _finish(self, item: _Watched, notice: Notice | None) -> None:
        if notice is None:
            return
        with self._changed:
            self._watched.pop(item.assignment.key, None)
        self._sink(notice)


def ended(key: str, folder: Folder) -> Notice | None:
    """The notice of an end that was written down."""
    end = folder.exit()
    if end is None:
        return None
    ticket = folder.ticket()
    notice = traces.ended(key, folder, end, ticket.slurm if ticket else "")
    return dataclasses.replace(notice, timed_out=bool(end.code) and folder.timed_out.exists())
