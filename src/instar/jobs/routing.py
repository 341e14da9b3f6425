"""Where a job goes: what its submission leaves open is filled in from the plan."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from typing import Final

from instar.jobs.errors import SubmissionError
from instar.jobs.model import Submission
from instar.jobs.plan import Destination, JobPlan, RunnerPlan

#: Runners of ours to which callables go only when asked. Those that others add may run them.
_COMMANDS: Final = frozenset({"local", "slurm"})
#: For callables where the plan has no place for them.
THREAD: Final = "thread"


def completed(plan: JobPlan) -> JobPlan:
    """The plan with a place for callables."""
    calling = _calling(plan)
    if any(place.runner in calling for place in plan.destinations):
        return plan
    # A name that is taken by something else is left to that.
    if any(runner.name == THREAD for runner in plan.runners) or any(
        place.name == THREAD for place in plan.destinations
    ):
        return plan
    return dataclasses.replace(
        plan,
        runners=(*plan.runners, RunnerPlan(THREAD, THREAD)),
        destinations=(*plan.destinations, Destination(THREAD, THREAD)),
    )


def _calling(plan: JobPlan) -> frozenset[str]:
    """Names of the runners that callables are given to. One that may be missing has to be asked for."""
    return frozenset(item.name for item in plan.runners if item.kind not in _COMMANDS and not item.optional)


class Router:
    """The decisions of one plan."""

    def __init__(self, plan: JobPlan) -> None:
        self._plan = completed(plan)
        self._rules = {rule.kind: rule for rule in self._plan.rules}
        self._calling = _calling(self._plan)
        self._handlers = {handler.name for handler in self._plan.handlers}

    def route(self, given: Submission) -> Submission:
        """The submission with a handler (or tag), a destination and parameters. No destination: there is none."""
        rule = self._rules.get(given.kind)
        params: Mapping[str, object] = {**rule.params, **given.params} if rule else given.params
        who = (rule.handler if rule else "") or self._plan.default_handler
        if given.handler or given.tag or given.pool:
            who = ""
        # A handler counts its own name among its tags, so a name that the plan doesn't list is found as well.
        named = who in self._handlers
        wish = given.destination or (rule.destination if rule else "")
        destination = self._destination(wish, given) if wish else self._default(given)
        return dataclasses.replace(
            given,
            handler=who if who and named else given.handler,
            tag=who if who and not named else given.tag,
            params=params,
            destination=destination,
        )

    def check(self, given: Submission) -> None:
        """Raise SubmissionError for a destination that isn't there: nobody would ever take the job."""
        if given.destination and self._destination(given.destination, given) is None:
            known = ", ".join(place.name for place in self._plan.destinations)
            raise SubmissionError(
                f"cannot submit the job: there is no destination {given.destination!r} here; known are {known}"
            )

    def _default(self, given: Submission) -> str | None:
        found = self._destination(self._plan.default_destination, given)
        if not given.target or (found and self._runs_callables(found)):
            return found
        return next((place.name for place in self._plan.destinations if self._runs_callables(place.name)), None)

    def _destination(self, wish: str, given: Submission) -> str | None:
        """The one of that name, or one that has the tag."""
        names = [place.name for place in self._plan.destinations]
        if wish in names:
            return wish
        tagged = [place.name for place in self._plan.destinations if wish in place.tags]
        if given.target:
            tagged = [name for name in tagged if self._runs_callables(name)] or tagged
        return random.choice(tagged) if tagged else None  # noqa: S311 - spreads the load

    def _runs_callables(self, destination: str) -> bool:
        place = next(place for place in self._plan.destinations if place.name == destination)
        return place.runner in self._calling
