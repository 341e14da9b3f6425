"""A manager in a thread, with a runner that does what the test says."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from instar.jobs.crew import Crew
from instar.jobs.manager import Manager
from instar.jobs.plan import Destination, JobPlan, RunnerPlan
from instar.jobs.routing import completed
from instar.jobs.runners.base import Assignment, Notice, Phase, Runner, Setup, Sink
from instar.jobs.store import JobStore
from instar.testing import fake_handler

LIMIT = 60.0


class World:
    """Where attempts of the fake runner are: it outlives any manager. Each attempt begins once or never."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.begun: list[str] = []
        self.phases: dict[str, Notice] = {}
        self.sinks: list[Sink] = []
        self.cancelled: list[str] = []
        self.discarded: list[str] = []
        self.assignments: dict[str, Assignment] = {}
        #: Raised by the next calls.
        self.trouble: dict[str, list[Exception]] = {"start": [], "recover": [], "cancel": []}
        #: What a job does by itself when it begins.
        self.script: Callable[[Assignment], Notice | None] = lambda assignment: None

    def start(self, assignment: Assignment) -> Notice:
        with self.guard:
            self.assignments[assignment.key] = assignment
            if assignment.key not in self.phases:
                self.begun.append(assignment.key)
                self.phases[assignment.key] = Notice(assignment.key, Phase.RUNNING, f"ext-{assignment.key}")
        end = self.script(assignment)
        if end:
            self.end(end)
        return self.phases[assignment.key]

    def recover(self, assignment: Assignment) -> Notice:
        with self.guard:
            self.assignments[assignment.key] = assignment
            return self.phases.setdefault(assignment.key, Notice(assignment.key, Phase.NEVER))

    def end(self, notice: Notice) -> None:
        with self.guard:
            self.phases[notice.key] = notice
        for sink in self.sinks:
            sink(notice)


class FakeRunner(Runner):
    world: World
    runs_callables = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.is_open = False

    def open(self, sink: Sink) -> None:
        self.world.sinks.append(sink)
        self.sink = sink

    def _trouble(self, what: str) -> None:
        if self.world.trouble[what]:
            raise self.world.trouble[what].pop(0)

    def start(self, assignment: Assignment) -> Notice:
        self._trouble("start")
        return self.world.start(assignment)

    def recover(self, assignment: Assignment) -> Notice:
        self._trouble("recover")
        return self.world.recover(assignment)

    def cancel(self, assignment: Assignment, *, now: bool = False) -> None:
        self._trouble("cancel")
        self.world.cancelled.append(assignment.key)
        self.world.end(Notice(assignment.key, Phase.ENDED, signal=15))

    def progress(self, assignment: Assignment) -> Any:
        return {"key": assignment.key}

    def discard(self, assignment: Assignment) -> None:
        self.world.discarded.append(assignment.key)

    def close(self) -> None:
        with contextlib.suppress(ValueError):
            self.world.sinks.remove(self.sink)


def a_plan(url: str, **changes: Any) -> JobPlan:
    values: dict[str, Any] = {
        "store": url,
        "folder": "",
        "runners": (RunnerPlan("fake", "fake", workers=4),),
        "destinations": (Destination("fake", "fake"),),
        "default_destination": "fake",
        "pool": "jobs",
        "poll": 0.2,
    }
    return completed(JobPlan(**{**values, **changes}))


@contextlib.contextmanager
def managing(
    plan: JobPlan,
    world: World,
    state: Path,
    *,
    name: str = "main.jobs.1",
    wait: bool = True,
    **options: Any,
) -> Iterator[Managed]:
    """A manager at work while the block runs; then it has to leave."""

    class Bound(FakeRunner):
        pass

    Bound.world = world
    with fake_handler(name, "jobs", state_dir=state) as fake, JobStore.open(plan.store) as store:
        fake.activate()
        crew = Crew(plan, name, options.pop("load", lambda kind: Bound))
        managed = Managed(Manager(plan, fake.handler, store, crew=crew, **options), fake)
        managed.thread.start()
        try:
            yield managed
        finally:
            fake.release()
            managed.thread.join(LIMIT)
            assert not managed.thread.is_alive(), "the manager does not leave"
        if managed.error:
            raise managed.error


class Managed:
    def __init__(self, manager: Manager, fake: Any) -> None:
        self.manager = manager
        self.fake = fake
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.manager.run()
        except BaseException as error:
            self.error = error


def until(condition: Callable[[], Any]) -> Any:
    """For what nobody reports."""
    end = time.monotonic() + LIMIT
    while not (value := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.005)
    return value
