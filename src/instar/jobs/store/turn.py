"""What a handler does in one transaction: all of it as the holder of its name, or nothing."""

from __future__ import annotations

import dataclasses
import json
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from instar.jobs.model import Claim, Ending, JobState, Outcome, Submission
from instar.jobs.policy import Verdict, judge
from instar.jobs.store.backend import Transaction
from instar.jobs.store.rows import ATTEMPT_COLUMNS, JOB_COLUMNS, to_claim, to_job, to_json, to_values
from instar.jobs.store.wanted import Place, Wanted, eligible, waiting

#: Jobs without a destination that are given one in a transaction.
ROUTED: Final = 200
#: The very words of the index.
LIVE_SQL: Final = "state IN ('dispatching', 'queued', 'running')"
_OURS: Final = f"id = :id AND attempt = :attempt AND holder = :holder AND {LIVE_SQL}"
_OURS_TYPES: Final = {"id": "number", "attempt": "number", "holder": "text"}
_NOTE_TYPES: Final = {
    **_OURS_TYPES,
    "state": "text",
    "external_id": "text",
    "data": "text",
    "started_at": "real",
    "progress": "text",
    "let_go": "number",
}
_END_TYPES: Final = {
    **_OURS_TYPES,
    "state": "text",
    "ending": "text",
    "exit_code": "number",
    "signal": "number",
    "error": "text",
    "started_at": "real",
    "finished_at": "real",
    "result": "text",
    "progress": "text",
    "uncounted": "number",
}
#: What is no more when a job waits again.
_NO_ATTEMPT: Final = (
    "runner = '', external_id = NULL, data = NULL, let_go = 0, started_at = NULL, finished_at = NULL, ending = NULL,"
    " exit_code = NULL, signal = NULL, progress = NULL, result = NULL"
)
KEEP_ATTEMPT: Final = (
    f"INSERT INTO instar_job_attempt (job_id, {ATTEMPT_COLUMNS}) SELECT id, {ATTEMPT_COLUMNS} FROM instar_job"
    " WHERE id = :id AND attempt = :attempt AND ending IS NOT NULL ON CONFLICT (job_id, attempt) DO NOTHING"
)


class Holder(Protocol):
    """Who acts: an `instar.Handler`, or whatever else can prove that it holds a name."""

    @property
    def name(self) -> str:
        """The name."""

    @property
    def epoch(self) -> int:
        """Grows with each holder of the name."""

    def fence(self, connection: Any) -> int:
        """Raise Fenced unless the name is ours, and make sure that it is until the transaction has ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """Something new about an attempt that goes on; None: nothing new."""

    claim: Claim
    state: JobState | None = None
    external_id: str | None = None
    data: Any = None
    started_at: float | None = None
    progress: Any = None
    let_go: bool = False


class Turn:
    """A fenced transaction of a handler. Made by `JobStore.turn`."""

    def __init__(self, transaction: Transaction, holder: Holder, site: str) -> None:
        self._do = transaction
        self._site = site
        self._name = holder.name
        self._epoch = holder.fence(transaction.connection)
        transaction.backend.fenced(transaction.connection)

    def claim(self, wanted: Wanted) -> list[Claim]:
        """Take waiting jobs. Each has a new attempt, which must be seen through: it is written down from here on."""
        seen = wanted.waiting or waiting(self._do, self._name, wanted)
        if wanted.route and seen.unrouted:
            self._route(wanted, wanted.route)
        if wanted.user_limit or any(place.limit or place.user_limit for place in wanted.places.values()):
            # What is counted must not change before we have added to it.
            self._do.backend.guard_limits(self._do.connection)
        fair = bool(wanted.user_limit) or seen.several
        left, rooms = wanted.grab or sys.maxsize, dict(wanted.rooms)
        rows: list[tuple[Any, ...]] = []
        for destination, place in wanted.places.items():
            free = min(rooms.get(place.runner, 0), left)
            if destination not in seen.places and not seen.unrouted:
                continue
            if free > 0 and place.limit:
                free = min(free, place.limit - self._running(destination))
            if free > 0:
                found = self._claim_for(destination, place, free, wanted, fair=fair or bool(place.user_limit))
                left -= len(found)
                rooms[place.runner] -= len(found)
                rows += found
        claims = [to_claim(row, self._site) for row in rows]
        claims.sort(key=lambda claim: (-claim.job.submission.priority, claim.job.id))
        return claims

    def _claim_for(
        self, destination: str, place: Place, free: int, wanted: Wanted, *, fair: bool
    ) -> list[tuple[Any, ...]]:
        where, values = eligible(self._name, wanted, "destination = :destination")
        values |= {
            "destination": destination,
            "runner": place.runner,
            "state": (JobState.RUNNING if place.immediate else JobState.DISPATCHING).value,
            "epoch": self._epoch,
            "limit": free,
            "window": min(wanted.window or free, free),
            "user_limit": wanted.user_limit or sys.maxsize,
            "user_limit_here": place.user_limit or sys.maxsize,
        }
        started = ", started_at = {now}" if place.immediate else ""
        change = (
            "state = :state, holder = :holder, epoch = :epoch, attempt = attempt + 1, began_by = :holder,"
            " began_epoch = :epoch, ran_at = :destination, runner = :runner, dispatched_at = {now}, error = ''"
            + started
        )
        return self._do.take(change, where, values, fair=fair, giving=JOB_COLUMNS)

    def _running(self, destination: str) -> int:
        row = self._do.one(
            f"SELECT count(*) FROM instar_job WHERE {LIVE_SQL} AND ran_at = :destination", destination=destination
        )
        return int(row[0]) if row else 0

    def _route(self, wanted: Wanted, route: Callable[[Submission], Submission]) -> None:
        where, values = eligible(self._name, wanted, "destination IS NULL")
        rows = self._do.all(
            f"SELECT {JOB_COLUMNS} FROM instar_job WHERE {where} ORDER BY priority DESC, id LIMIT {ROUTED}", **values
        )
        found = [(job.id, route(job.submission)) for job in map(to_job, rows)]
        given = [
            {"id": job, "destination": routed.destination, "handler": routed.handler, "tag": routed.tag, "work": work}
            for job, routed in found
            if routed.destination and (work := to_values(routed)["work"])
        ]
        change = "work = :work, handler = :handler, tag = :tag, destination = :destination"
        types = {"id": "number", "work": "text", "handler": "text", "tag": "text", "destination": "text"}
        self._do.change_each(change, "id = :id AND state = 'new'", given, types)

    def adopt(self) -> list[Claim]:
        """All jobs that an earlier holder of the name was responsible for, or that were reassigned to us."""
        rows = self._do.all(
            f"UPDATE instar_job SET epoch = :epoch WHERE holder = :holder AND {LIVE_SQL} RETURNING {JOB_COLUMNS}",
            epoch=self._epoch,
            holder=self._name,
        )
        claims = [to_claim(row, self._site) for row in rows]
        for claim in claims:
            self._event(claim, "adopted")
        return sorted(claims, key=lambda claim: claim.job.id)

    def note(self, notes: Iterable[Note]) -> None:
        """Write down what is new. What isn't ours any more is left alone."""
        self._do.change_each(
            "state = coalesce(:state, state), external_id = coalesce(:external_id, external_id),"
            " data = coalesce(:data, data), started_at = coalesce(started_at, :started_at),"
            " progress = coalesce(:progress, progress), let_go = let_go + :let_go",
            _OURS,
            [self._note_values(note) for note in notes],
            _NOTE_TYPES,
        )

    def _note_values(self, note: Note) -> dict[str, object]:
        return {
            **self._ours(note.claim),
            "state": note.state and note.state.value,
            "external_id": note.external_id,
            "data": to_json(note.data),
            "started_at": note.started_at,
            "progress": to_json(note.progress),
            "let_go": int(note.let_go),
        }

    def finish(self, ends: Sequence[tuple[Claim, Outcome]]) -> dict[int, JobState]:
        """Write down how attempts ended, and what follows for their jobs: the new state of each.

        A job that isn't in the answer wasn't ours any more; nothing was written for it.
        """
        return self.send_ends(ends)()

    def send_ends(self, ends: Sequence[tuple[Claim, Outcome]]) -> Callable[[], dict[int, JobState]]:
        """`finish` whose answer is asked for when something else has been sent as well: one wait for both."""
        verdicts = [(claim, outcome, judge(claim.job, claim.attempt, outcome)) for claim, outcome in ends]
        rows = self._do.send_change_each(
            "state = CASE WHEN cancel_requested_at IS NOT NULL AND :state <> 'ok' THEN 'cancelled' ELSE :state END,"
            " ending = :ending, exit_code = :exit_code, signal = :signal, error = :error,"
            " started_at = coalesce(:started_at, started_at), finished_at = coalesce(:finished_at, {now}),"
            " result = coalesce(:result, result), progress = coalesce(:progress, progress),"
            " uncounted = uncounted + :uncounted",
            _OURS,
            [self._end_values(claim, outcome, verdict) for claim, outcome, verdict in verdicts],
            _END_TYPES,
            giving="id, state",
        )
        if any(verdict.state is JobState.NEW for _, _, verdict in verdicts):
            # Before anybody takes it again.
            states = self._ended(verdicts, rows())
            return lambda: states
        return lambda: self._ended(verdicts, rows())

    def _ended(
        self, verdicts: Sequence[tuple[Claim, Outcome, Verdict]], rows: Iterable[tuple[Any, ...]]
    ) -> dict[int, JobState]:
        states = {job: JobState(state) for job, state in rows}
        self._wait_again([(claim, verdict) for claim, _, verdict in verdicts if states.get(claim.job.id) == "new"])
        for claim, outcome, _ in verdicts:
            if outcome.ending is Ending.LOST and claim.job.id in states:
                self._event(claim, "lost", state=states[claim.job.id], error=outcome.error)
        return states

    def _end_values(self, claim: Claim, outcome: Outcome, verdict: Verdict) -> dict[str, object]:
        return {
            **self._ours(claim),
            "state": verdict.state.value,
            "ending": outcome.ending.value,
            "exit_code": outcome.exit_code,
            "signal": outcome.signal,
            "error": outcome.error,
            "started_at": outcome.started_at,
            "finished_at": outcome.finished_at,
            "result": to_json(outcome.result),
            "progress": to_json(outcome.progress),
            "uncounted": int(not verdict.counted),
        }

    def _wait_again(self, again: Sequence[tuple[Claim, Verdict]]) -> None:
        """The attempt goes to the earlier ones, and the job to those that wait."""
        keys = [{"id": claim.job.id, "attempt": claim.attempt.number} for claim, _ in again]
        self._do.each(KEEP_ATTEMPT, keys)
        self._do.each(
            f"UPDATE instar_job SET run_at = {{now}} + :delay, holder = NULL, {_NO_ATTEMPT} WHERE id = :id",
            [{"id": claim.job.id, "delay": verdict.delay} for claim, verdict in again],
        )
        if any(not verdict.delay for _, verdict in again):
            self._do.ring(None)

    def beat(self) -> None:
        """Say that the handler is there; see `JobStore.free`."""
        self._do.all(
            "INSERT INTO instar_job_handler (name, epoch, host, seen_at) VALUES (:name, :epoch, :host, {now})"
            " ON CONFLICT (name) DO UPDATE SET epoch = :epoch, host = :host, seen_at = {now}",
            name=self._name,
            epoch=self._epoch,
            host=socket.gethostname(),
        )

    def _ours(self, claim: Claim) -> dict[str, object]:
        return {"id": claim.job.id, "attempt": claim.attempt.number, "holder": self._name}

    def _event(self, claim: Claim, what: str, **data: object) -> None:
        add_event(self._do, claim.job.id, what, (self._name, self._epoch), claim.attempt.number, data)


def add_event(
    do: Transaction,
    job: int,
    what: str,
    who: tuple[str, int] | None = None,
    attempt: int | None = None,
    data: Mapping[str, object] | None = None,
) -> None:
    """Write down that something happened."""
    do.all(
        "INSERT INTO instar_job_event (job_id, at, what, handler, epoch, attempt, data)"
        " VALUES (:job, {now}, :what, :handler, :epoch, :attempt, :data)",
        job=job,
        what=what,
        handler=who[0] if who else None,
        epoch=who[1] if who else None,
        attempt=attempt,
        data=json.dumps(data or {}),
    )
