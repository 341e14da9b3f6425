"""What is done to many jobs at once: counting, giving those of a lost name to others, deleting old ones."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Final

from instar.jobs.checks import anyone_is_none
from instar.jobs.errors import JobError
from instar.jobs.model import ENDED, JobState
from instar.jobs.store.backend import Transaction
from instar.jobs.store.turn import LIVE_SQL, add_event

#: Jobs that one transaction deletes, so that others need not wait long.
_BATCH: Final = 500
#: Takes the name away from whoever has it, if anybody does: `instar.handlers.fence` finds a later owner there.
_DEPOSE: Final = "UPDATE instar_lease SET epoch = epoch + 1, owner = 'jobs reassigned' WHERE name = :name"


@dataclasses.dataclass(frozen=True)
class Stats:
    """Numbers of jobs. Times in seconds."""

    states: dict[str, int]
    #: Waiting jobs by the handler that alone may take them; `""` for those that anyone may take.
    waiting: dict[str, int]
    #: Live jobs by handler.
    live: dict[str, int]
    #: Live jobs by destination.
    destinations: dict[str, int]
    #: How long the oldest job has waited that may run now.
    oldest_wait: float | None


@dataclasses.dataclass(frozen=True)
class Reassigned:
    """What `reassign` has moved."""

    waiting: int
    live: int


class Upkeep(abc.ABC):
    """The part of a store that its owner needs."""

    @abc.abstractmethod
    def _writing(self) -> contextlib.AbstractContextManager[Transaction]: ...

    @abc.abstractmethod
    def _reading(self) -> contextlib.AbstractContextManager[Transaction]: ...

    @property
    @abc.abstractmethod
    def site(self) -> str:
        """What every dispatch key of this store begins with."""

    def stats(self) -> Stats:
        """How many jobs there are, and where."""

        def counts(do: Transaction, what: str, where: str = "1 = 1") -> dict[str, int]:
            rows = do.all(f"SELECT {what}, count(*) FROM instar_job WHERE {where} GROUP BY 1 ORDER BY 1")
            return {row[0]: row[1] for row in rows}

        with self._reading() as do:
            oldest = do.one("SELECT {now} - min(run_at) FROM instar_job WHERE state = 'new' AND run_at <= {now}")
            return Stats(
                states=counts(do, "state"),
                waiting=counts(do, "coalesce(handler, '')", "state = 'new'"),
                live=counts(do, "holder", LIVE_SQL),
                destinations=counts(do, "ran_at", LIVE_SQL),
                oldest_wait=max(0.0, oldest[0]) if oldest and oldest[0] is not None else None,
            )

    def reassign(self, name: str, to: str | None = None, *, live: bool = False) -> Reassigned:
        """Give the jobs that wait for one handler to another, or (None) to anyone.

        With `live` also those that it has in hand: its name is taken from it, so that it can't write any more if it
        should live after all, and `to` (which must be a name then) finds out what became of their attempts. Only for
        a handler that is gone for good, with all that it ran in its own process. Raises JobError.
        """
        to = anyone_is_none(to)
        if live and to is None:
            raise JobError(
                f"cannot reassign the running jobs of {name} to anyone: somebody has to look after them; name a handler"
            )
        if to == name:
            raise JobError(f"cannot reassign the jobs of {name} to {name}: they are there already")
        with self._writing() as do:
            waiting = do.all(
                "UPDATE instar_job SET handler = :to WHERE handler = :name AND state IN ('new', 'held') RETURNING id",
                to=to,
                name=name,
            )
            moved = self._move_live(do, name, to) if live and to else []
            for job in [*(row[0] for row in waiting), *moved]:
                add_event(do, job, "reassigned", data={"from": name, "to": to})
            do.ring(to)
        return Reassigned(len(waiting), len(moved))

    @staticmethod
    def _move_live(do: Transaction, name: str, to: str) -> list[int]:
        if do.backend.has_table(do.connection, "instar_lease"):
            do.all(_DEPOSE, name=name)
        rows = do.all(
            "UPDATE instar_job SET holder = :to, handler = CASE WHEN handler = :name THEN :to ELSE handler END"
            f" WHERE holder = :name AND {LIVE_SQL} RETURNING id",
            to=to,
            name=name,
        )
        return [row[0] for row in rows]

    def free(self, *, after: float) -> int:
        """Let anyone take the jobs that have waited `after` seconds for a handler that wasn't there meanwhile.

        Gives their number.
        """
        with self._writing() as do:
            rows = do.all(
                "UPDATE instar_job SET handler = NULL WHERE state = 'new' AND handler IS NOT NULL"
                " AND run_at <= {now} - :after AND NOT EXISTS (SELECT 1 FROM instar_job_handler seen"
                " WHERE seen.name = handler AND seen.seen_at > {now} - :after) RETURNING id",
                after=after,
            )
            for row in rows:
                add_event(do, row[0], "freed")
            if rows:
                do.ring(None)
        return len(rows)

    def handlers(self) -> dict[str, float]:
        """Who has looked after jobs, and how many seconds ago (each says so several times a minute)."""
        with self._reading() as do:
            return dict(do.all("SELECT name, {now} - seen_at FROM instar_job_handler ORDER BY name"))

    def purge(self, *, older: float, states: Iterable[JobState | str] = ENDED) -> list[str]:
        """Delete jobs that ended more than `older` seconds ago. Gives the keys of their attempts.

        Raises JobError for a state that isn't the end of a job.
        """
        wanted = {JobState(state) for state in states}
        if not wanted <= ENDED:
            raise JobError(f"cannot purge jobs that are {', '.join(sorted(wanted - ENDED))}: they have not ended")
        keys: list[str] = []
        while True:
            with self._writing() as do:
                found = self._purge_some(do, older, wanted)
            keys += found
            if not found:
                return keys

    def _purge_some(self, do: Transaction, older: float, states: set[JobState]) -> list[str]:
        chosen = ", ".join(f"'{state.value}'" for state in sorted(states))
        rows = do.all(
            "DELETE FROM instar_job WHERE id IN (SELECT id FROM instar_job WHERE finished_at < {now} - :older"
            f" AND state IN ({chosen}) ORDER BY finished_at LIMIT {_BATCH}) RETURNING id, attempt",
            older=older,
        )
        return [f"{self.site}-{job}-a{number}" for job, last in rows for number in range(1, max(last, 1) + 1)]
