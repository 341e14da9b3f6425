"""Rows and the things they stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from instar.jobs.model import Attempt, Claim, Ending, Event, Job, JobState, OnLost, Submission

#: Fields of a submission that nobody searches for: one document in the column `work`.
_WORK: Final = ("command", "target", "args", "kwargs", "params", "env", "cwd")
_TIMES: Final = ("timeout", "kill_timeout", "backoff", "backoff_limit")
#: Those that have a column of their own.
_WISHES: Final = ("kind", "handler", "pool", "tag", "destination", "user", "priority", "max_attempts", "dedupe_key")

#: Columns of both the latest attempt, in `instar_job`, and of the earlier ones, in `instar_job_attempt`.
ATTEMPT: Final = (
    "attempt",
    "began_by",
    "began_epoch",
    "ran_at",
    "runner",
    "external_id",
    "data",
    "let_go",
    "dispatched_at",
    "started_at",
    "finished_at",
    "ending",
    "exit_code",
    "signal",
    "error",
)
JOB: Final = (
    "id",
    "state",
    "work",
    "kind",
    "handler",
    "pool",
    "tag",
    "destination",
    "user_name",
    "priority",
    "run_at",
    "max_attempts",
    "on_lost",
    "dedupe_key",
    "created_at",
    "cancel_requested_at",
    "holder",
    "uncounted",
    "progress",
    "result",
    *ATTEMPT,
)
JOB_COLUMNS: Final = ", ".join(JOB)
ATTEMPT_COLUMNS: Final = ", ".join(ATTEMPT)
EVENT: Final = ("id", "job_id", "at", "what", "handler", "epoch", "attempt", "data")
EVENT_COLUMNS: Final = ", ".join(EVENT)

INSERT: Final = (
    "INSERT INTO instar_job (work, kind, handler, pool, tag, destination, user_name, priority, run_at, max_attempts,"
    " on_lost, dedupe_key, created_at) VALUES (:work, :kind, :handler, :pool, :tag, :destination, :user, :priority,"
    " coalesce(:run_at, {now}), :max_attempts, :on_lost, :dedupe_key, {now})"
    " ON CONFLICT (dedupe_key) DO NOTHING RETURNING id"
)


def to_values(submission: Submission) -> dict[str, object]:
    """Values for INSERT."""
    work = {name: getattr(submission, name) for name in _TIMES}
    work.update({name: value for name in _WORK if (value := getattr(submission, name))})
    values: dict[str, object] = {name: getattr(submission, name) for name in _WISHES}
    return {
        **values,
        "work": json.dumps(work, separators=(",", ":"), default=_plain),
        "run_at": submission.run_at,
        "on_lost": str(submission.on_lost),
    }


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def to_job(row: tuple[Any, ...]) -> Job:
    """A row of JOB_COLUMNS."""
    cells = dict(zip(JOB, row, strict=True))
    return Job(
        id=cells["id"],
        state=JobState(cells["state"]),
        submission=_submission(cells),
        created_at=cells["created_at"],
        run_at=cells["run_at"],
        holder=cells["holder"],
        attempt=cells["attempt"],
        uncounted=cells["uncounted"],
        cancel_requested_at=cells["cancel_requested_at"],
        progress=from_json(cells["progress"]),
        result=from_json(cells["result"]),
        error=cells["error"],
        exit_code=cells["exit_code"],
        signal=cells["signal"],
        started_at=cells["started_at"],
        finished_at=cells["finished_at"],
    )


def _submission(cells: Mapping[str, Any]) -> Submission:
    # What a later release has added is unknown here, and none of our business.
    work = {name: value for name, value in json.loads(cells["work"]).items() if name in (*_WORK, *_TIMES)}
    for name in ("command", "args"):
        work[name] = tuple(work.get(name, ()))
    wishes = {name: cells["user_name" if name == "user" else name] for name in _WISHES}
    return Submission(**work, **wishes, run_at=cells["run_at"], on_lost=OnLost(cells["on_lost"]))


def to_claim(row: tuple[Any, ...], site: str) -> Claim:
    """A row of JOB_COLUMNS of a job that has an attempt."""
    cells = dict(zip(JOB, row, strict=True))
    return Claim(to_job(row), to_attempt(cells["id"], tuple(cells[name] for name in ATTEMPT), site))


def to_attempt(job_id: int, row: tuple[Any, ...], site: str) -> Attempt:
    """A row of ATTEMPT_COLUMNS."""
    cells = dict(zip(ATTEMPT, row, strict=True))
    number = cells["attempt"]
    return Attempt(
        job_id=job_id,
        number=number,
        dispatch_key=f"{site}-{job_id}-a{number}",
        handler=cells["began_by"] or "",
        epoch=cells["began_epoch"] or 0,
        destination=cells["ran_at"],
        runner=cells["runner"],
        external_id=cells["external_id"],
        data=from_json(cells["data"]),
        dispatched_at=cells["dispatched_at"],
        started_at=cells["started_at"],
        finished_at=cells["finished_at"],
        let_go=bool(cells["let_go"]),
        ending=Ending(cells["ending"]) if cells["ending"] else None,
        exit_code=cells["exit_code"],
        signal=cells["signal"],
        error=cells["error"],
    )


def to_event(row: tuple[Any, ...]) -> Event:
    """A row of EVENT_COLUMNS."""
    cells = dict(zip(EVENT, row, strict=True))
    return Event(**{**cells, "data": json.loads(cells["data"])})


def to_json(value: object) -> str | None:
    """None stays nothing."""
    return None if value is None else json.dumps(value, separators=(",", ":"))


def from_json(text: str | None) -> Any:
    """The opposite of `to_json`."""
    return None if text is None else json.loads(text)
