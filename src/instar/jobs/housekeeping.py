"""What a manager does now and then: say that it is there, set free what waits for nobody, delete what is old."""

from __future__ import annotations

import logging
import random
import time
from typing import Final

from instar.jobs.crew import Crew
from instar.jobs.plan import JobPlan
from instar.jobs.runners.base import Assignment, Runner
from instar.jobs.store import JobStore

logger = logging.getLogger("instar.jobs")

#: Seconds between two signs of life in the store.
BEAT = 10.0
_ROUND: Final = 60.0


class Housekeeping:
    """Belongs to the manager's thread."""

    def __init__(self, plan: JobPlan, store: JobStore, crew: Crew) -> None:
        self._plan = plan
        self._store = store
        self._crew = crew
        self._beat_at = 0.0
        # Not all handlers at the same time, and not at the start, when there is more to do.
        self._round_at = time.monotonic() + min(_ROUND, plan.free_after or _ROUND) * random.uniform(0.5, 1.5)  # noqa: S311

    def beat_due(self) -> bool:
        """Whether the next transaction has to say that we are there."""
        return time.monotonic() >= self._beat_at

    def has_beaten(self) -> None:
        """It has."""
        self._beat_at = time.monotonic() + BEAT

    def run(self) -> None:
        """Do what is due. Raises StoreError."""
        if time.monotonic() < self._round_at:
            return
        self._round_at = time.monotonic() + min(_ROUND, self._plan.free_after or _ROUND)
        if self._plan.free_after:
            freed = self._store.free(after=max(self._plan.free_after, 3 * BEAT))
            if freed:
                logger.warning("%d jobs waited for handlers that are gone; anyone may take them", freed)
        if self._plan.keep:
            keys = self._store.purge(older=self._plan.keep)
            for member in self._crew.members.values():
                if keys and member.open:
                    member.threads.submit(discard, member.runner, keys)


def discard(runner: Runner, keys: list[str]) -> None:
    """Delete what a runner has kept of purged attempts, whether they were its own or not."""
    for key in keys:
        job, _, attempt = key.rpartition("-a")
        try:
            runner.discard(Assignment(key, int(job.rpartition("-")[2]), int(attempt)))
        except Exception:
            logger.warning("cannot delete what is left of %s", key, exc_info=True)
