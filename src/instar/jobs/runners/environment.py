"""The environment of a job's processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from instar.jobs.folder import Folder
from instar.jobs.runners.base import Assignment

#: Of the handler, and not the job's business: descriptors that it doesn't have, a name that it doesn't hold.
_PRIVATE: Final = ("LISTEN_", "NOTIFY_", "WATCHDOG_", "INSTAR_")
#: Where `instar` in a job finds the supervisor and the store.
_KEPT: Final = ("INSTAR_STATE_DIR", "INSTAR_APP", "INSTAR_JOBS")


def job_environment(assignment: Assignment, folder: Folder, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The handler's environment without what is its own, then who the job is, then what it was submitted with.

    | | |
    |---|---|
    | `INSTAR_JOB_ID`, `INSTAR_JOB_ATTEMPT`, `INSTAR_JOB_KEY` | number of the job and of the attempt; its key |
    | `INSTAR_JOB_DIR` | the attempt's folder |
    | `INSTAR_JOB_PROGRESS` | file for lines of JSON; the last one is shown as the job's progress |
    | `INSTAR_JOB_RESULT` | file for one JSON value, the job's result |
    """
    inherited = os.environ if base is None else base
    kept = {name: text for name, text in inherited.items() if name in _KEPT or not name.startswith(_PRIVATE)}
    return {**kept, **job_variables(assignment, folder), **assignment.env}


def job_variables(assignment: Assignment, folder: Folder) -> dict[str, str]:
    """Who the job is."""
    return {
        "INSTAR_JOB_ID": str(assignment.job_id),
        "INSTAR_JOB_ATTEMPT": str(assignment.attempt),
        "INSTAR_JOB_KEY": assignment.key,
        "INSTAR_JOB_DIR": str(folder.path),
        "INSTAR_JOB_PROGRESS": str(folder.progress_file),
        "INSTAR_JOB_RESULT": str(folder.result_file),
    }
