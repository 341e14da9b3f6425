"""The runners of one handler, and the threads in which it calls them."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from instar.errors import ConfigError, InstarError
from instar.jobs.model import Attempt, Job
from instar.jobs.plan import Destination, JobPlan, RunnerPlan
from instar.jobs.runners import load
from instar.jobs.runners.base import Assignment, Runner, Setup, Sink
from instar.jobs.store.wanted import Place

logger = logging.getLogger("instar.jobs")

#: Attempts at a time where the plan says nothing: a program is expected to use a core, a callable in a thread to wait,
#: and a cluster has its own queue.
_WORKERS: Final[Mapping[str, Callable[[], int]]] = {
    "local": lambda: os.cpu_count() or 1,
    "process": lambda: os.cpu_count() or 1,
    "thread": lambda: 8,
}
_MANY: Final = 10_000


@dataclasses.dataclass
class Member:
    """One runner at work."""

    plan: RunnerPlan
    runner: Runner
    threads: concurrent.futures.ThreadPoolExecutor
    #: Attempts that it has at a time.
    workers: int
    open: bool = False


class Crew:
    """Runners by name. Raises RunnerError or ConfigError when one of them can't be made from its plan."""

    def __init__(self, plan: JobPlan, handler: str, find: Callable[[str], type[Runner]] = load) -> None:
        mine = next((item.runners for item in plan.handlers if item.name == handler), ())
        self._places = {place.name: place for place in plan.destinations}
        made = {item.name: _member(item, plan, find) for item in plan.runners if not mine or item.name in mine}
        self.members = {name: member for name, member in made.items() if member}

    def open(self, sink: Sink) -> None:
        """Let the runners begin; one that can't is tried again with the next call, and has no room until then."""
        for member in self.members.values():
            if member.open:
                continue
            try:
                member.runner.open(sink)
                member.open = True
            except InstarError as error:
                logger.error("%s", error, extra={"action": "runner_open_failed"})

    def places(self) -> dict[str, Place]:
        """The destinations that can be served."""
        return {
            # What isn't durable is begun by nobody but us, at once: one transaction less.
            name: Place(place.runner, place.limit, place.user_limit, not self.members[place.runner].runner.durable)
            for name, place in self._places.items()
            if place.runner in self.members
        }

    def get(self, runner: str) -> Member | None:
        """A runner that is at work."""
        member = self.members.get(runner)
        return member if member and member.open else None

    def assignment(self, job: Job, attempt: Attempt) -> Assignment:
        """What a runner is told of an attempt."""
        place = self._places.get(attempt.destination, Destination("", ""))
        given = job.submission
        return Assignment(
            key=attempt.dispatch_key,
            job_id=job.id,
            attempt=attempt.number,
            argv=given.command,
            target=given.target,
            args=given.args,
            kwargs=given.kwargs,
            env={**place.env, **given.env},
            cwd=given.cwd,
            timeout=given.timeout or place.timeout,
            kill_timeout=given.kill_timeout,
            params={**place.params, **given.params},
            title=given.kind,
            external_id=attempt.external_id or "",
            dispatched_at=attempt.dispatched_at or 0.0,
        )

    def close(self) -> None:
        """Stop watching; what is durable goes on."""
        for member in self.members.values():
            member.threads.shutdown(wait=False, cancel_futures=True)
            if member.open:
                member.runner.close()


def _member(plan: RunnerPlan, whole: JobPlan, find: Callable[[str], type[Runner]]) -> Member | None:
    try:
        kind = find(plan.kind)
    except ConfigError as error:
        if not plan.optional:
            raise
        logger.error("%s; jobs for %s wait", error, plan.name, extra={"action": "runner_missing"})
        return None
    workers = plan.workers or _WORKERS.get(plan.kind, lambda: _MANY)()
    launcher = Path(whole.launcher) if whole.launcher else None
    runner = kind(Setup(plan.name, plan.options, Path(whole.folder), launcher, workers))
    threads = concurrent.futures.ThreadPoolExecutor(kind.threads, thread_name_prefix=f"instar-{plan.name}")
    return Member(plan, runner, threads, workers)
