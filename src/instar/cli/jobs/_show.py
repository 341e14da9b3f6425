"""How jobs are shown, to people and to scripts."""

from __future__ import annotations

import json
import shlex
import signal
import time
from typing import TYPE_CHECKING, Any

from instar.cli._format import escaped, moment, seconds

if TYPE_CHECKING:
    from rich.table import Table

    from instar.jobs.model import Attempt, Event, Job

_STYLES = {
    "ok": "green",
    "running": "yellow",
    "queued": "yellow",
    "dispatching": "yellow",
    "held": "magenta",
    "error": "red",
    "lost": "red",
    "cancelled": "dim",
}


def job_object(job: Job) -> dict[str, Any]:
    """A job for scripts; keys are only ever added."""
    given = job.submission
    return {
        "id": job.id,
        "state": str(job.state),
        "handler": job.handler,
        "exit_code": job.exit_code,
        "signal": job.signal,
        "attempt": job.attempt,
        "progress": job.progress,
        "result": job.result,
        "error": job.error,
        "cancelling": job.cancelling,
        "kind": given.kind,
        "command": list(given.command),
        "target": given.target,
        "args": list(given.args),
        "kwargs": dict(given.kwargs),
        "pool": given.pool,
        "tag": given.tag,
        "destination": given.destination,
        "user": given.user,
        "priority": given.priority,
        "max_attempts": given.max_attempts,
        "on_lost": str(given.on_lost),
        "dedupe_key": given.dedupe_key,
        "created_at": job.created_at,
        "run_at": job.run_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def attempt_object(attempt: Attempt) -> dict[str, Any]:
    """An attempt for scripts."""
    return {
        "attempt": attempt.number,
        "key": attempt.dispatch_key,
        "handler": attempt.handler,
        "epoch": attempt.epoch,
        "destination": attempt.destination,
        "runner": attempt.runner,
        "external_id": attempt.external_id,
        "ending": str(attempt.ending) if attempt.ending else None,
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "error": attempt.error,
        "dispatched_at": attempt.dispatched_at,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
    }


def event_object(event: Event) -> dict[str, Any]:
    """An event for scripts."""
    return {
        "at": event.at,
        "what": event.what,
        "handler": event.handler,
        "epoch": event.epoch,
        "attempt": event.attempt,
        "data": dict(event.data),
    }


def job_table(jobs: list[Job]) -> Table:
    """One line for each job."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("job", "state", "handler", "age", "ran", "progress", "work"):
        table.add_column(
            column, justify="right" if column in ("job", "age", "ran") else "left", no_wrap=column != "work"
        )
    now = time.time()
    for job in jobs:
        table.add_row(
            str(job.id),
            state_text(job),
            escaped(job.handler or "anyone"),
            seconds(max(0.0, now - job.created_at)),
            _ran(job, now),
            escaped(progress_text(job.progress)),
            escaped(_shortened(work_text(job), 60)),
        )
    return table


def state_text(job: Job) -> str:
    """The state as console markup, with what ended it."""
    state = str(job.state)
    text = f"[{_STYLES[state]}]{state}[/]" if state in _STYLES else state
    if job.cancelling:
        text += " (cancelling)"
    if job.signal is not None:
        return f"{text} {signal_name(job.signal)}"
    return f"{text} {job.exit_code}" if job.exit_code else text


def signal_name(number: int) -> str:
    """`SIGKILL`, or the number of a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def work_text(job: Job) -> str:
    """The command, or the call."""
    given = job.submission
    if given.command:
        return shlex.join(given.command)
    words = [json.dumps(item) for item in given.args]
    words += [f"{name}={json.dumps(value)}" for name, value in given.kwargs.items()]
    return f"{given.target}({', '.join(words)})"


def progress_text(progress: Any) -> str:
    """What a job says of itself, in a few words."""
    if progress is None:
        return ""
    if not isinstance(progress, dict):
        return _shortened(progress if isinstance(progress, str) else json.dumps(progress), 40)
    done, total = progress.get("done"), progress.get("total")
    text = "" if done is None else f"{done}" if total is None else f"{done}/{total}"
    said = str(progress.get("text", "")) if done is not None or "text" in progress else json.dumps(progress)
    return _shortened(" ".join(filter(None, (text, said))), 40)


def fraction(progress: Any) -> float | None:
    """How much is done, from 0 to 1; None when the job doesn't say."""
    if isinstance(progress, int | float) and not isinstance(progress, bool) and 0 <= progress <= 1:
        return float(progress)
    if not isinstance(progress, dict):
        return None
    done, total = progress.get("done"), progress.get("total")
    if isinstance(done, int | float) and isinstance(total, int | float) and total > 0:
        return min(1.0, max(0.0, done / total))
    return None


def job_details(job: Job, attempts: list[Attempt], events: list[Event]) -> Table:
    """Everything about one job."""
    from rich.table import Table

    given, table = job.submission, Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    rows = {
        "job": str(job.id),
        "state": state_text(job),
        "work": escaped(work_text(job)),
        "handler": escaped(job.handler or "anyone"),
        "pool, tag": escaped(", ".join(filter(None, (given.pool, given.tag)))),
        "destination": escaped(given.destination or ""),
        "progress": escaped(progress_text(job.progress)),
        "result": "" if job.result is None else escaped(_shortened(json.dumps(job.result), 400)),
        "error": f"[red]{escaped(job.error)}[/]" if job.error else "",
        "user": escaped(given.user),
        "submitted": moment(job.created_at),
        "runs from": moment(job.run_at) if job.run_at > job.created_at + 1 else "",
        "started": moment(job.started_at) if job.started_at else "",
        "finished": moment(job.finished_at) if job.finished_at else "",
    }
    for label, text in rows.items():
        if text:
            table.add_row(f"[bold]{label}[/]", text)
    for attempt in attempts:
        table.add_row(f"[bold]attempt {attempt.number}[/]", escaped(_attempt_text(attempt)))
    for event in events:
        who = f" by {event.handler}" if event.handler else ""
        table.add_row(moment(event.at), escaped(f"{event.what}{who}"))
    return table


def _attempt_text(attempt: Attempt) -> str:
    parts = [f"by {attempt.handler}", f"epoch {attempt.epoch}"]
    if attempt.runner:
        parts.append(f"in {attempt.destination or attempt.runner}")
    if attempt.external_id:
        parts.append(attempt.external_id)
    if attempt.ending:
        how = str(attempt.ending)
        if attempt.signal is not None:
            how += f" by {signal_name(attempt.signal)}"
        elif attempt.exit_code is not None:
            how += f" with status {attempt.exit_code}"
        parts.append(how)
    if attempt.started_at and attempt.finished_at:
        parts.append(f"after {seconds(attempt.finished_at - attempt.started_at)}")
    if attempt.error:
        parts.append(attempt.error)
    return ", ".join(parts)


def _ran(job: Job, now: float) -> str:
    if job.started_at is None:
        return "-"
    return seconds(max(0.0, (job.finished_at or now) - job.started_at))


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
