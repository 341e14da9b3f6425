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
_AT: Final = {name: position for position, name in enumerate(ATTEMPT)}
_DOCUMENT: Final[Mapping[str, tuple[type, ...]]] = {
    "command": (list,),
    "target": (str,),
    "args": (list,),
    "kwargs": (dict,),
    "params": (dict,),
    "env": (dict,),
    "cwd": (str,),
    **dict.fromkeys(_TIMES, (int, float)),
}
_ON_LOST: Final = {choice.value: choice for choice in OnLost}
_STATES: Final = {state.value: state for state in JobState}
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
    # By position, as fast as it gets: this runs for every job that is looked at.
    job, state, work, kind, handler, pool, tag, destination, user, priority, run_at, *row_rest = row
    max_attempts, on_lost, dedupe_key, created_at, cancel_at, holder, uncounted, progress, result, *latest = row_rest
    submission = Submission(
        **_work(work),
        kind=kind,
        handler=handler,
        pool=pool,
        tag=tag,
        destination=destination,
        user=user,
        priority=priority,
        run_at=run_at,
        max_attempts=max_attempts,
        on_lost=_ON_LOST.get(on_lost, OnLost.FAIL),
        dedupe_key=dedupe_key,
    )
    return Job(
        id=job,
        state=_STATES[state],
        submission=submission,
        created_at=created_at,
        run_at=run_at,
        holder=holder,
        attempt=latest[_AT["attempt"]],
        uncounted=uncounted,
        cancel_requested_at=cancel_at,
        progress=from_json(progress),
        result=from_json(result),
        error=latest[_AT["error"]],
        exit_code=latest[_AT["exit_code"]],
        signal=latest[_AT["signal"]],
        started_at=latest[_AT["started_at"]],
        finished_at=latest[_AT["finished_at"]],
    )


def _work(text: str) -> dict[str, Any]:
    """The document, as far as it is one: what somebody else has put there must not stop those who read it.

    What a later release has added is unknown here, and none of our business. Without a command and a target, no runner
    will take the job.
    """
    try:
        given = json.loads(text).items()
    except (ValueError, AttributeError):
        return {}
    work: dict[str, Any] = {name: value for name, value in given if isinstance(value, _DOCUMENT.get(name, ()))}
    for name in ("command", "args"):
        if name in work:
            work[name] = tuple(work[name])
    return work


def to_claim(row: tuple[Any, ...], site: str) -> Claim:
    """A row of JOB_COLUMNS of a job that has an attempt."""
    return Claim(to_job(row), to_attempt(row[0], row[len(JOB) - len(ATTEMPT) :], site))


def to_attempt(job_id: int, row: tuple[Any, ...], site: str) -> Attempt:
    """A row of ATTEMPT_COLUMNS."""
    number, began_by, began_epoch, ran_at, runner, external_id, data, let_go, *times_and_end = row
    dispatched_at, started_at, finished_at, ending, exit_code, signal, error = times_and_end
    return Attempt(
        job_id=job_id,
        number=number,
        dispatch_key=f"{site}-{job_id}-a{number}",
        handler=began_by or "",
        epoch=began_epoch or 0,
        destination=ran_at,
        runner=runner,
        external_id=external_id,
        data=from_json(data),
        dispatched_at=dispatched_at,
        started_at=started_at,
        finished_at=finished_at,
        let_go=bool(let_go),
        ending=Ending(ending) if ending else None,
        exit_code=exit_code,
        signal=signal,
        error=error,
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
