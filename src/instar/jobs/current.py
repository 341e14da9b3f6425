"""What a job can ask about itself, and say: for callables, and for Python programs that are run as jobs."""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from instar.jobs.errors import JobError

#: Progress is written at most so often (seconds between two); the last value is never left out.
_PACE: Final = 0.1


class NotAJobError(JobError):
    """This code does not run in a job."""


class HandBack(JobError):
    """A callable raises it to give the work back: another attempt does it, and this one doesn't count.

    For a callable in a handler that has to leave (`current_job().releasing`). Elsewhere it is an ordinary error.
    """


class CurrentJob:
    """The attempt that runs the caller. Every method may be called from any thread."""

    def __init__(self, job_id: int, attempt: int, key: str, report: Callable[[Any], object]) -> None:
        #: Number of the job, and of the attempt, from 1.
        self.id = job_id
        self.attempt = attempt
        #: Never used for another attempt: a name for what the job makes elsewhere.
        self.key = key
        # Few jobs ask for them, and they cost more than the rest of it.
        self._cancelled: threading.Event | None = None
        self._releasing: threading.Event | None = None
        self._report = report
        self._latest: Any = None
        self._told = True
        self._told_at = float("-inf")
        # A signal handler may come in between.
        self._guard = threading.RLock()
        self._on_cancel: list[Callable[[], object]] = []

    @property
    def cancelled(self) -> threading.Event:
        """Set when somebody wants it to end, or its time is over."""
        with self._guard:
            if self._cancelled is None:
                self._cancelled = threading.Event()
            return self._cancelled

    @property
    def releasing(self) -> threading.Event:
        """Set when the handler that runs it has to leave. Who is soon done goes on; others may raise `HandBack`."""
        with self._guard:
            if self._releasing is None:
                self._releasing = threading.Event()
            return self._releasing

    @property
    def wanted(self) -> bool:
        """Whether nobody has asked for its end yet."""
        return self._cancelled is None or not self._cancelled.is_set()

    def progress(
        self, value: Any = None, *, done: float | None = None, total: float | None = None, text: str | None = None
    ) -> None:
        """Say how far it is: any JSON, or an object of `done`, `total` and `text`, which tools show as a bar."""
        if value is None:
            parts = {"done": done, "total": total, "text": text}
            value = {name: part for name, part in parts.items() if part is not None}
        with self._guard:
            self._latest, self._told = value, False
            if time.monotonic() - self._told_at < _PACE:
                return
        self.flush()

    def flush(self) -> None:
        """Write the latest progress down now. Done by itself at the end."""
        with self._guard:
            if self._told:
                return
            self._told, self._told_at = True, time.monotonic()
            # Progress that can't be written must not end the work.
            with contextlib.suppress(OSError):
                self._report(self._latest)

    def on_cancel(self, call: Callable[[], object]) -> None:
        """Call once when the job is cancelled; at once if it is already. It must be short and thread-safe."""
        with self._guard:
            if self.wanted:
                self._on_cancel.append(call)
                return
        call()

    @property
    def has_callbacks(self) -> bool:
        """Whether somebody has asked to be called at a cancel."""
        return bool(self._on_cancel)

    def cancel(self) -> None:
        """What happens when somebody wants it to end: `cancelled` is set, callbacks run."""
        with self._guard:
            self.cancelled.set()
            calls, self._on_cancel = self._on_cancel, []
        for call in calls:
            call()


_in_context: contextvars.ContextVar[CurrentJob | None] = contextvars.ContextVar("instar_job", default=None)
_of_process: CurrentJob | None = None


def current_job() -> CurrentJob:
    """The job that this code runs in: of the thread, or of the whole process. Raises NotAJobError outside one."""
    global _of_process
    if found := _in_context.get():
        return found
    if _of_process is None:
        _of_process = _from_environment()
    return _of_process


def install(job: CurrentJob | None, *, process: bool = False) -> None:
    """Say which job runs here; runners call it."""
    global _of_process
    _in_context.set(job)
    if process:
        _of_process = job


def file_report(path: Path) -> Callable[[Any], object]:
    """Writes progress to a file, which is always whole."""

    def report(value: Any) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
        temporary.write_text(json.dumps(value) + "\n")
        temporary.replace(path)

    return report


def _from_environment() -> CurrentJob:
    try:
        job_id, attempt = int(os.environ["INSTAR_JOB_ID"]), int(os.environ["INSTAR_JOB_ATTEMPT"])
        key, path = os.environ["INSTAR_JOB_KEY"], Path(os.environ["INSTAR_JOB_PROGRESS"])
    except (KeyError, ValueError):
        raise NotAJobError(
            "cannot tell the current job: this code does not run in one; call it from a job's callable (in the thread "
            "that it was called in), or from a program that was submitted"
        ) from None
    import atexit

    job = CurrentJob(job_id, attempt, key, file_report(path))
    atexit.register(job.flush)
    return job
