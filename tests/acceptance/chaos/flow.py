"""Jobs that are submitted all the time, and what each run of one writes down."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.project import Project
from harness.waiting import wait_for

from instar.jobs import JobStore

JOB_HANDLERS = ("test.jobs.1", "test.jobs.2")
#: One line by one write(2): number, job, attempt.
_SCRIPT = 'echo "$1 $INSTAR_JOB_ID $INSTAR_JOB_ATTEMPT" >>"$2"; exit "$3"'
_WISHES = (None, "", "_null_", *JOB_HANDLERS)


class Flow:
    """Submits until it is told to stop."""

    def __init__(self, project: Project, seed: int, pause: float = 0.1) -> None:
        self._url = str(project.config["jobs"]["store"])
        self._runs = project.root / "runs"
        self._chance = random.Random(seed)
        self._pause = pause
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        #: Job by number.
        self.jobs: dict[int, int] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Submit no more."""
        self._stop.set()
        self._thread.join(30.0)

    def _work(self) -> None:
        try:
            with JobStore.open(self._url) as store:
                while not self._stop.wait(self._chance.random() * 2 * self._pause):
                    number = len(self.jobs)
                    self.jobs[number] = self._submit(store, number)
        except BaseException as error:
            self._error = error
            raise

    def _submit(self, store: JobStore, number: int) -> int:
        from instar.jobs.model import Submission

        words = ("sh", "-c", _SCRIPT, "job", str(number), str(self._runs), str(number % 3))
        return int(store.submit(Submission(command=words, handler=self._chance.choice(_WISHES))))

    def check(self, limit: float = 60.0) -> None:
        """Every job has ended once, by the only run that it had, with its own exit code."""
        assert self._error is None, self._error
        with JobStore.open(self._url) as store:
            wait_for("the end of all jobs", lambda: self._ended(store) == len(self.jobs), limit, 0.2)
            lines = [tuple(map(int, line.split())) for line in Path(self._runs).read_text().splitlines()]
            assert sorted(number for number, _, _ in lines) == list(range(len(self.jobs)))
            for number, job, attempt in lines:
                found = store.get(job)
                assert self.jobs[number] == job, (number, found)
                assert (found.exit_code, found.signal) == (number % 3, None), found
                assert (found.attempt, found.attempt - found.uncounted) == (attempt, 1), found

    @staticmethod
    def _ended(store: JobStore) -> int:
        states = store.stats().states
        return sum(states.get(name, 0) for name in ("ok", "error", "lost", "cancelled"))
