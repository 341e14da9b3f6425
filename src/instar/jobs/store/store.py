"""The store of jobs, as those see it who submit and look; what handlers do is in `turn`, what admins do in `upkeep`."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from instar.jobs.checks import checked
from instar.jobs.errors import JobError, NoSuchJobError, WaitTimeoutError
from instar.jobs.model import Attempt, Event, Job, JobState, Submission
from instar.jobs.store.backend import Bell, Connections, Transaction
from instar.jobs.store.open import backend_for, prepare
from instar.jobs.store.rows import (
    ATTEMPT,
    ATTEMPT_COLUMNS,
    EVENT_COLUMNS,
    INSERT,
    JOB,
    JOB_COLUMNS,
    to_attempt,
    to_event,
    to_job,
    to_json,
    to_values,
)
from instar.jobs.store.turn import KEEP_ATTEMPT, LIVE_SQL, Holder, Turn, add_event
from instar.jobs.store.upkeep import Upkeep
from instar.jobs.store.wanted import Waiting, Wanted, waiting

#: Seconds between two looks of `wait`: from, to.
_LOOKS = (0.005, 0.25)


class JobStore(Upkeep):
    """Jobs in one database. Any thread may use it, also in children forked later; nothing is connected until then.

    Every method may raise StoreError when the database can't be used.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`url` is `postgresql://…`, `sqlite:///PATH` or a path."""
        self.url = url
        self._backend = backend_for(url)
        self._connections = Connections(self._backend, clock)
        self._site = ""

    @classmethod
    def open(cls, url: str) -> Self:
        """A store that is known to work: it was connected to, and its tables are up to date. Raises StoreError."""
        store = cls(url)
        store.prepare()
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections; a later use connects again."""
        self._connections.close()

    def prepare(self) -> None:
        """Create the tables or bring them up to date."""
        with self._connections.transaction() as do:
            self._site = prepare(do)
        # So that a process which forks after it has none.
        self._connections.close()

    @property
    def site(self) -> str:
        """What every dispatch key of this store begins with."""
        if not self._site:
            self.prepare()
        return self._site

    # Submitting.

    def submit(self, submission: Submission) -> int:
        """Store a job; its id. When this returns, the job is on the disk. Raises SubmissionError."""
        return self.submit_many([submission])[0]

    def submit_many(self, submissions: Iterable[Submission]) -> list[int]:
        """Store jobs, all of them or none; their ids in the same order. Raises SubmissionError."""
        wanted = [checked(submission) for submission in submissions]
        with self._writing() as do:
            rows = do.each(INSERT, [to_values(submission) for submission in wanted])
            pairs = zip(wanted, rows, strict=True)
            ids = [found[0][0] if found else self._earlier(do, submission) for submission, found in pairs]
            do.ring(*{submission.handler for submission in wanted})
        return ids

    @staticmethod
    def _earlier(do: Transaction, submission: Submission) -> int:
        row = do.one("SELECT id FROM instar_job WHERE dedupe_key = :key", key=submission.dedupe_key)
        if row is None:
            raise JobError(
                f"cannot submit the job: the earlier one with the key {submission.dedupe_key!r} has just been deleted; "
                "submit it again"
            )
        return int(row[0])

    # Looking.

    def get(self, job_id: int) -> Job:
        """A job as it is now. Raises NoSuchJobError."""
        with self._reading() as do:
            return self._get(do, job_id)

    @staticmethod
    def _get(do: Transaction, job_id: int) -> Job:
        row = do.one(f"SELECT {JOB_COLUMNS} FROM instar_job WHERE id = :id", id=job_id)
        if row is None:
            raise NoSuchJobError(f"cannot find the job {job_id}: there is none, or it was purged")
        return to_job(row)

    def find(
        self,
        *,
        states: Iterable[JobState | str] = (),
        handler: str | None = None,
        kind: str | None = None,
        user: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Job]:
        """Jobs, the newest first: those with an id below `before`. `handler`: who has it, had it, or may take it."""
        names = {f"state_{chr(97 + index)}": JobState(state).value for index, state in enumerate(states)}
        conditions = {
            f"state IN ({', '.join(f':{name}' for name in names)})": bool(names),
            "coalesce(holder, handler) = :handler": handler is not None,
            "kind = :kind": kind is not None,
            "user_name = :user": user is not None,
            "id < :before": before is not None,
        }
        where = " AND ".join(condition for condition, wanted in conditions.items() if wanted) or "1 = 1"
        values = {"handler": handler, "kind": kind, "user": user, "before": before}
        sql = f"SELECT {JOB_COLUMNS} FROM instar_job WHERE {where} ORDER BY id DESC LIMIT :limit"
        with self._reading() as do:
            return [to_job(row) for row in do.all(sql, **values, **names, limit=limit)]

    def attempts(self, job_id: int) -> list[Attempt]:
        """The attempts of a job, the first one first. Raises NoSuchJobError."""
        sql = f"SELECT {ATTEMPT_COLUMNS} FROM instar_job_attempt WHERE job_id = :id ORDER BY attempt"
        with self._reading() as do:
            earlier = do.all(sql, id=job_id)
            row = do.one(f"SELECT {JOB_COLUMNS} FROM instar_job WHERE id = :id", id=job_id)
        if row is None:
            raise NoSuchJobError(f"cannot find the job {job_id}: there is none, or it was purged")
        latest = row[len(JOB) - len(ATTEMPT) :]
        # One that waits again has moved its latest attempt to the earlier ones.
        rows = [*earlier, latest] if latest[0] > (earlier[-1][0] if earlier else 0) else earlier
        return [to_attempt(job_id, attempt, self.site) for attempt in rows]

    def events(self, job_id: int, *, after: int = 0) -> list[Event]:
        """What happened to a job besides its attempts, in order: those with an id above `after`."""
        sql = f"SELECT {EVENT_COLUMNS} FROM instar_job_event WHERE job_id = :id AND id > :after ORDER BY id"
        with self._reading() as do:
            return [to_event(row) for row in do.all(sql, id=job_id, after=after)]

    def wait(
        self,
        job_id: int,
        timeout: float | None = None,
        *,
        watch: Callable[[Job], object] | None = None,
        stop: threading.Event | None = None,
    ) -> Job:
        """The job as soon as it has ended. Raises NoSuchJobError; WaitTimeoutError when `timeout` seconds are over.

        `watch` gets the job whenever it was looked at, for its progress. `stop` ends the waiting early: then the job is
        given as it is.
        """
        end = None if timeout is None else time.monotonic() + timeout
        pause, longest = _LOOKS
        while True:
            job = self.get(job_id)
            if watch:
                watch(job)
            left = None if end is None else end - time.monotonic()
            if job.state.ended or (stop and stop.is_set()):
                return job
            if left is not None and left <= 0:
                raise WaitTimeoutError(
                    f"cannot wait longer for the job {job_id}: it is {job.state} after {timeout:g} s"
                )
            nap = pause * random.uniform(0.8, 1.2)  # noqa: S311 - so that many don't look at the same time
            nap = nap if left is None else min(nap, left)
            if stop:
                stop.wait(nap)
            else:
                time.sleep(nap)
            pause = min(pause * 1.5, longest)

    # Changing a job from outside.

    def cancel(self, job_id: int) -> Job:
        """Make a job end: one that waits ends at once, one that runs is asked to. Raises NoSuchJobError.

        Gives the job as it is then; one that has ended before stays as it is.
        """
        with self._writing() as do:
            do.all(
                "UPDATE instar_job SET state = 'cancelled', cancel_requested_at = {now}, finished_at = {now}"
                " WHERE id = :id AND state IN ('new', 'held')",
                id=job_id,
            )
            asked = do.all(
                "UPDATE instar_job SET cancel_requested_at = {now}"
                f" WHERE id = :id AND {LIVE_SQL} AND cancel_requested_at IS NULL RETURNING holder",
                id=job_id,
            )
            if asked:
                add_event(do, job_id, "cancel requested")
                do.ring(asked[0][0])
            return self._get(do, job_id)

    def retry(self, job_id: int) -> Job:
        """Let a job that did not end well, or is held, be tried once more, now. Raises NoSuchJobError, JobError."""
        with self._writing() as do:
            job = self._get(do, job_id)
            if job.state in (JobState.OK, JobState.NEW) or job.state.live:
                raise JobError(f"cannot retry the job {job_id}: it is {job.state}")
            do.all(KEEP_ATTEMPT, id=job_id, attempt=job.attempt)
            do.all(
                "UPDATE instar_job SET state = 'new', run_at = {now}, cancel_requested_at = NULL, holder = NULL,"
                " external_id = NULL, data = NULL, let_go = 0, started_at = NULL, finished_at = NULL, ending = NULL,"
                " exit_code = NULL, signal = NULL, progress = NULL, result = NULL,"
                " max_attempts = CASE WHEN max_attempts > attempt - uncounted THEN max_attempts"
                " ELSE attempt - uncounted + 1 END WHERE id = :id",
                id=job_id,
            )
            add_event(do, job_id, "retry", attempt=job.attempt)
            do.ring(job.submission.handler)
            return self._get(do, job_id)

    def set_progress(self, job_id: int, progress: Any, *, attempt: int | None = None) -> bool:
        """Tell how far a running job is (JSON). False if it isn't running, or not in this attempt any more."""
        with self._writing() as do:
            rows = do.all(
                f"UPDATE instar_job SET progress = :progress WHERE id = :id AND {LIVE_SQL}"
                " AND attempt = coalesce(:attempt, attempt) RETURNING id",
                progress=to_json(progress),
                id=job_id,
                attempt=attempt,
            )
        return bool(rows)

    # For handlers.

    @contextlib.contextmanager
    def turn(self, holder: Holder) -> Iterator[Turn]:
        """A transaction as the holder of a name. Raises Fenced when it isn't any more: nothing is written then."""
        site = self.site
        with self._connections.transaction() as do:
            yield Turn(do, holder, site)

    def waiting(self, name: str, wanted: Wanted) -> Waiting:
        """What waits that a handler may take, whether it has room or not; without a lock."""
        with self._reading() as do:
            return waiting(do, name, wanted)

    def in_hand(self, name: str) -> dict[int, bool]:
        """Ids of the live jobs of a handler, and whether somebody wants them to end."""
        sql = f"SELECT id, cancel_requested_at IS NOT NULL FROM instar_job WHERE holder = :name AND {LIVE_SQL}"
        with self._reading() as do:
            return {row[0]: bool(row[1]) for row in do.all(sql, name=name)}

    def bell(self, name: str) -> Bell:
        """What rings when there may be something for a handler to do. It may miss a ring: look now and then as well."""
        return self._backend.bell(name)

    def ring(self, *handlers: str | None) -> None:
        """Wake handlers (None: all)."""
        with self._writing() as do:
            do.ring(*handlers)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Transaction]:
        if not self._site:
            self.prepare()
        with self._connections.transaction() as do:
            yield do

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Transaction]:
        if not self._site:
            self.prepare()
        with self._connections.alone() as do:
            yield do
