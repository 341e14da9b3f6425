"""Durable jobs: commands and callables that are run once each, whatever is restarted meanwhile."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from instar.jobs.api import cancel, current_store, get, submit, submit_async, wait, wait_async
    from instar.jobs.current import CurrentJob, HandBack, current_job
    from instar.jobs.errors import (
        JobError,
        JobFailedError,
        NoSuchJobError,
        StoreError,
        SubmissionError,
        WaitTimeoutError,
    )
    from instar.jobs.manager import run
    from instar.jobs.model import Job, JobState, OnLost, Submission
    from instar.jobs.store.store import JobStore

__all__ = [
    "CurrentJob",
    "HandBack",
    "Job",
    "JobError",
    "JobFailedError",
    "JobState",
    "JobStore",
    "NoSuchJobError",
    "OnLost",
    "StoreError",
    "Submission",
    "SubmissionError",
    "WaitTimeoutError",
    "cancel",
    "current_job",
    "current_store",
    "get",
    "run",
    "submit",
    "submit_async",
    "wait",
    "wait_async",
]

_API = ("cancel", "current_store", "get", "submit", "submit_async", "wait", "wait_async")
_ERRORS = ("JobError", "JobFailedError", "NoSuchJobError", "StoreError", "SubmissionError", "WaitTimeoutError")
#: Imported when first used: shims and launchers need none of it.
_HOMES = {
    "instar.jobs.api": _API,
    "instar.jobs.current": ("CurrentJob", "HandBack", "current_job"),
    "instar.jobs.errors": _ERRORS,
    "instar.jobs.manager": ("run",),
    "instar.jobs.model": ("Job", "JobState", "OnLost", "Submission"),
    "instar.jobs.store.store": ("JobStore",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
