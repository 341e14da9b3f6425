"""What goes wrong with jobs."""

from __future__ import annotations

from instar.errors import ExitCode, InstarError


class JobError(InstarError):
    """Something about a job cannot be done."""


class SubmissionError(JobError):
    """What was submitted cannot be a job; nothing was stored."""

    exit_code = ExitCode.USAGE


class NoSuchJobError(JobError):
    """The store has no job of that id."""

    exit_code = ExitCode.USAGE


class StoreError(JobError):
    """The store cannot be used."""


class JobFailedError(JobError):
    """The job has ended, and not well."""

    exit_code = ExitCode.JOB_FAILED


class WaitTimeoutError(JobError):
    """The job had not ended when the time was over; it goes on."""
