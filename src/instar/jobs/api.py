"""What applications use: submit jobs, wait for them, cancel them; from any process, inside instar or outside.

import instar.jobs

job = instar.jobs.submit(["convert", "in.png", "out.jpg"], user="ann")
job = instar.jobs.submit("mysite.mail:send_letter", 17, priority=5)
instar.jobs.wait(job, timeout=60).result
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from instar.jobs.checks import checked
from instar.jobs.errors import JobError, JobFailedError, SubmissionError
from instar.jobs.model import Job, JobState, Submission
from instar.jobs.plan import JobPlan
from instar.jobs.routing import Router
from instar.jobs.store import JobStore

#: Names the document with the plan, in every process of an application that has `[jobs]`.
VARIABLE: Final = "INSTAR_JOBS"

_guard = threading.Lock()
_stores: dict[str, JobStore] = {}


def current_plan() -> JobPlan:
    """How jobs are run in this application. Raises JobError outside one that has `[jobs]`."""
    path = os.environ.get(VARIABLE)
    if not path:
        raise JobError(
            f"cannot tell where jobs are kept: {VARIABLE} is not set; call it in a process of an application that has "
            "[jobs], or give the store, as in submit(…, store=JobStore.open(URL))"
        )
    return _read_plan(path)


@functools.lru_cache(maxsize=4)
def _read_plan(name: str) -> JobPlan:
    path = Path(name)
    try:
        # A job may have been started by a generation that is gone, with its document: then it is the next one's.
        if not path.exists():
            path = max(path.parent.glob("jobs-*.json"), key=lambda each: each.stat().st_mtime, default=path)
        return JobPlan.from_json(path.read_text())
    except (OSError, ValueError, TypeError) as error:
        raise JobError(f"cannot read how jobs are run from {path}: {error}") from error


def current_store() -> JobStore:
    """The store of this application. Raises JobError outside one that has `[jobs]`."""
    url = current_plan().store
    with _guard:
        if url not in _stores:
            _stores[url] = JobStore(url)
        return _stores[url]


def submission(
    work: str | Sequence[str] | Callable[..., object],
    *args: Any,
    delay: float = 0.0,
    **wishes: Any,
) -> Submission:
    """A submission from what `submit` takes. Raises SubmissionError."""
    if delay:
        wishes["run_at"] = time.time() + delay
    try:
        if isinstance(work, str):
            return Submission(target=work, args=args, **wishes)
        if callable(work):
            return Submission(target=_target(work), args=args, **wishes)
        if args:
            raise SubmissionError("cannot submit the job: the arguments of a command are part of its list of words")
        return Submission(command=tuple(work), **wishes)
    except TypeError as error:
        raise SubmissionError(f"cannot submit the job: {error}") from error


def submit(
    work: str | Sequence[str] | Callable[..., object],
    *args: Any,
    store: JobStore | None = None,
    delay: float = 0.0,
    **wishes: Any,
) -> int:
    """Store a job, and return its id at once; it is on the disk then, and will be run once.

    `work` is a list of words (program and arguments, without a shell), or a callable with JSON arguments: a function
    of a module, or its name as `module:function`. `delay`: not before so many seconds. `wishes` are the fields of
    `instar.jobs.model.Submission`: `handler`, `pool`, `tag`, `destination`, `params`, `user`, `priority`, `run_at`,
    `max_attempts`, `backoff`, `on_lost`, `dedupe_key`, `kwargs`, `env`, `cwd`, `timeout`, `kill_timeout`, `kind`.
    Raises SubmissionError when that is no job, StoreError when it can't be stored.
    """
    given = submission(work, *args, delay=delay, **wishes)
    if store is None:
        given = routed(given)
        store = current_store()
    return store.submit(given)


def routed(given: Submission) -> Submission:
    """The submission with what the plan adds, if this application has one; else a handler adds it later.

    Raises SubmissionError.
    """
    if not os.environ.get(VARIABLE):
        return given
    router, given = _router(os.environ[VARIABLE]), checked(given)
    router.check(given)
    return router.route(given)


@functools.lru_cache(maxsize=4)
def _router(path: str) -> Router:
    return Router(_read_plan(path))


def _target(function: Callable[..., object]) -> str:
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not module or not name or "<" in name or module == "__main__":
        raise SubmissionError(
            f"cannot submit {function!r}: other processes can't import it; use a function of a module, by its name"
        )
    return f"{module}:{name}"


def get(job_id: int, *, store: JobStore | None = None) -> Job:
    """A job as it is now. Raises NoSuchJobError."""
    return (store or current_store()).get(job_id)


def wait(job_id: int, timeout: float | None = None, *, check: bool = False, store: JobStore | None = None) -> Job:
    """The job as soon as it has ended, well or not. Raises WaitTimeoutError; with `check` also JobFailedError."""
    job = (store or current_store()).wait(job_id, timeout)
    if check and job.state is not JobState.OK:
        raise JobFailedError(f"the job {job.id} is {job.state}" + (f": {job.error}" if job.error else ""))
    return job


def cancel(job_id: int, *, store: JobStore | None = None) -> Job:
    """Make a job end; one that runs is asked to, see `Submission.kill_timeout`. Raises NoSuchJobError."""
    return (store or current_store()).cancel(job_id)


async def submit_async(work: str | Sequence[str] | Callable[..., object], *args: Any, **options: Any) -> int:
    """`submit` for an event loop, which isn't held up meanwhile."""
    return await asyncio.to_thread(submit, work, *args, **options)


async def wait_async(job_id: int, timeout: float | None = None, **options: Any) -> Job:
    """`wait` for an event loop. A cancelled call goes on looking in its thread until the job has ended."""
    return await asyncio.to_thread(wait, job_id, timeout, **options)
