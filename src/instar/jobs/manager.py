"""The job manager: runs in a named handler, takes jobs from the store and sees their attempts through.

One thread owns all that is in hand; runners are called in others and answer through the inbox. The order in which an
attempt comes about is written down before it is acted on, so that whoever takes the name next knows where to look:

| point | what has just happened |
|---|---|
| `claimed` | the attempt and its key are in the store |
| `starting` | the runner is about to be called |
| `started` | the runner has answered |
| `recorded` | what it said is in the store |
| `ended` | the runner has reported the end |
| `finished` | the end is in the store |
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from instar.handlers.current import current_handler
from instar.handlers.errors import Fenced
from instar.jobs.api import current_plan
from instar.jobs.calls import Calls
from instar.jobs.crew import Crew
from instar.jobs.errors import StoreError
from instar.jobs.hand import Hand, Hands
from instar.jobs.housekeeping import Housekeeping
from instar.jobs.inbox import Ear, Inbox
from instar.jobs.model import Claim, JobState
from instar.jobs.plan import JobPlan
from instar.jobs.routing import Router, completed
from instar.jobs.store import JobStore
from instar.jobs.store.turn import ROUTED, Holder, Turn
from instar.jobs.store.wanted import Waiting, Wanted

logger = logging.getLogger("instar.jobs")

#: Seconds after a wake-up at which the store is looked at once more: senders leave out rings that follow closely.
_ECHO: Final = 0.01
#: Seconds that the end of one attempt waits for those of others, if the last was written down less than `_FLOW` ago.
_GATHER: Final = 0.001
_FLOW: Final = 0.005
#: Pause after a failure of the store or a runner that can't tell: from, to.
_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
#: Of a handler's `stop_timeout`, what jobs in its own process get to finish; the rest is for writing it down.
_SHARE: Final = 0.8
_STOP_TIMEOUT: Final = 30.0
#: Seconds to write down what became of them, if the store is slow. Whoever is impatient sends SIGTERM.
_WRITE: Final = 5.0


class Worker(Holder, Protocol):
    """What a manager has to know of its handler (`instar.Handler`)."""

    @property
    def pool(self) -> str:
        """Its pool."""

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of its pool."""

    @property
    def releasing(self) -> Any:
        """Set when the handler has to leave."""

    def on_release(self, callback: Callable[[], object]) -> None:
        """Call once when the handler has to leave."""


class Manager:
    """Everything that one handler does for jobs. `run` returns when the handler has to leave.

    `patience`: seconds that attempts in this very process may take to finish then. `at` is called with the name of each
    point of the table above and the dispatch key, in the thread where it happens.
    """

    def __init__(
        self,
        plan: JobPlan,
        handler: Worker,
        store: JobStore,
        *,
        crew: Crew | None = None,
        patience: float = 25.0,
        at: Callable[[str, str], object] = lambda point, key: None,
    ) -> None:
        self.plan = completed(plan)
        self.handler = handler
        self.store = store
        self.crew = crew or Crew(self.plan, handler.name)
        self.hands = Hands()
        self._at = at
        self._patience = patience
        self._inbox = Inbox()
        self._ear = Ear(store, handler.name)
        self.calls = Calls(self.crew, self.hands, self._inbox, at)
        self._route = Router(self.plan).route
        self._house = Housekeeping(self.plan, store, self.crew)
        mine = next((item for item in self.plan.handlers if item.name == handler.name), None)
        self._grab = (mine.max_grab if mine else 0) or self.plan.max_grab
        # Its own name is one of its tags: then a job can be sent to either in the same way.
        self._tags = tuple(dict.fromkeys((*handler.tags, *(mine.tags if mine else ()), handler.name)))
        #: When the store is looked at next, at the latest, and whether it has to be asked for everything.
        self._look_at = 0.0
        self._turn_at = 0.0
        self._pause = _PAUSE
        self._leaving_until: float | None = None
        self._turns = 0
        self._turned_at = 0.0
        self._waiting = Waiting()
        places = self.plan.destinations
        self._limited = bool(self.plan.user_limit) or any(place.limit or place.user_limit for place in places)

    def run(self) -> None:
        """Work until the handler has to leave. Raises Fenced when its name is lost: what is durable goes on."""
        self.handler.on_release(lambda: self._inbox.put(None))
        try:
            self.crew.open(self._inbox.put)
            while not self._may_leave():
                self._step()
        finally:
            self._ear.close()
            self.crew.close()

    # One round.

    def _step(self) -> None:
        now = time.monotonic()
        rung = self._inbox.wait(self._next() - now, *self._ear.descriptors(now))
        if rung:
            self._ear.hush()
        self._hear()
        now = time.monotonic()
        if self.handler.releasing.is_set() and self._leaving_until is None:
            self._begin_to_leave(now)
        due = rung or now >= self._look_at
        if now >= self._turn_at:
            try:
                self._meet_store(look=due)
                self._pause = _PAUSE
            except StoreError as error:
                self._postpone(now, error)
            if due:
                # After a ring once more, soon: another ring may have been left out.
                poll = self.plan.poll * random.uniform(0.5, 1.0)  # noqa: S311 - so that handlers don't look together
                self._look_at = time.monotonic() + (_ECHO if rung else poll)
        self.calls.ask(time.monotonic(), progress=self._leaving_until is None)

    def _hear(self) -> None:
        for thing in self._inbox.take():
            self.calls.hear(thing)
        # Ends that follow each other closely are written down together: each commit waits for the disk.
        counts = self.hands.brief()
        if counts.ended and counts.open and time.monotonic() - self._turned_at < _FLOW:
            self._inbox.gather(counts.open, _GATHER)
            for thing in self._inbox.take():
                self.calls.hear(thing)

    def _next(self) -> float:
        """When something has to be done even if nothing happens."""
        waiting = [hand.todo_at for hand in self.hands if hand.todo and not hand.busy]
        # While the store can't be used, its time is that of the next try.
        times = [max(self._look_at, self._turn_at), *waiting]
        if any(hand.running for hand in self.hands):
            times.append(self.calls.progress_at)
        if self._leaving_until is not None:
            times.append(self._leaving_until)
        return min(times)

    def _postpone(self, now: float, error: StoreError) -> None:
        if self._pause == _PAUSE:
            logger.error("%s; nothing is lost, it is tried again", error, extra={"action": "store_failed"})
        self._turn_at = now + self._pause * random.uniform(0.8, 1.2)  # noqa: S311
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    # The store.

    def _meet_store(self, *, look: bool) -> None:
        """Write down what is new and take what can be taken, in one transaction; none if there is nothing to do."""
        strangers = self._look() if look else False
        wanted = None if self._leaving_until is not None else self._wanted()
        work = wanted is not None and wanted.promises(self._waiting)
        news = any(hand.note or hand.outcome for hand in self.hands)
        beat = self._house.beat_due()
        if news or work or strangers or beat or not self._turns:
            self._turn(wanted if work else None, adopt=strangers or not self._turns, beat=beat)
        if look and self._leaving_until is None:
            self._house.run()

    def _look(self) -> bool:
        """Notice what waits, and what somebody wants to end; whether there are jobs of ours that we don't know."""
        # One that couldn't begin may be able to now.
        self.crew.open(self._inbox.put)
        found = self.store.in_hand(self.handler.name)
        if self._leaving_until is None:
            self._waiting = self.store.waiting(self.handler.name, self._wanted())
        known = self.hands.jobs()
        for job, cancel in found.items():
            if cancel and job in known:
                known[job].cancel = True
        return bool(found.keys() - known.keys())

    def _wanted(self) -> Wanted:
        counts = self.hands.counts()
        rooms = {
            name: member.workers - counts.get(name, 0) for name, member in self.crew.members.items() if member.open
        }
        places = list(self.crew.places().items())
        # Destinations that share a runner take turns.
        first = self._turns % len(places) if places else 0
        return Wanted(
            places=dict(places[first:] + places[:first]),
            rooms=rooms,
            pool=self.handler.pool,
            tags=self._tags,
            grab=self._grab,
            window=self.plan.ready_window,
            user_limit=self.plan.user_limit,
            route=self._route,
            waiting=self._waiting,
        )

    def _turn(self, wanted: Wanted | None, *, adopt: bool, beat: bool) -> None:
        noted = [hand for hand in self.hands if hand.note and not hand.outcome]
        ended = [hand for hand in self.hands if hand.outcome]
        claims: list[Claim] = []
        adopted: list[Claim] = []
        with self.store.turn(self.handler) as turn:
            if beat:
                turn.beat()
            turn.note([hand.note for hand in noted if hand.note])
            finished = turn.send_ends([(hand.claim, hand.outcome) for hand in ended if hand.outcome])
            if adopt:
                adopted = self._strangers(turn)
            if wanted:
                claims = turn.claim(wanted)
            states = finished()
        # Only now: if it was rolled back, all of it is tried again.
        self._turns += 1
        self._turned_at = time.monotonic()
        if beat:
            self._house.has_beaten()
        for hand in noted:
            hand.note = None
            self._at("recorded", hand.key)
        for hand in ended:
            self._finished(hand, states.get(hand.claim.job.id))
        for claim in adopted:
            self._take(claim, "recover")
        for claim in claims:
            self._at("claimed", claim.attempt.dispatch_key)
            self._take(claim, "start")
        if wanted and not claims and not self._limited:
            # Whoever submits the next one rings.
            self._waiting = Waiting()
        if claims and (self._grab or self.plan.ready_window or len(claims) >= ROUTED):
            # There may be more, and room for them.
            self._look_at = 0.0

    def _strangers(self, turn: Turn) -> list[Claim]:
        known = self.hands.jobs().keys()
        return [claim for claim in turn.adopt() if claim.job.id not in known]

    def _take(self, claim: Claim, todo: str) -> None:
        hand = Hand(claim, self.crew.assignment(claim.job, claim.attempt), todo=todo)
        hand.running = claim.job.state is JobState.RUNNING
        hand.cancel = claim.job.cancelling
        member = self.crew.members.get(hand.runner)
        hand.volatile = bool(member and not member.runner.durable)
        hand.let_go = claim.attempt.let_go
        self.hands.add(hand)

    def _finished(self, hand: Hand, state: JobState | None) -> None:
        self.hands.drop(hand)
        self._at("finished", hand.key)
        if state is None:
            logger.warning("job %s isn't ours any more", hand.claim.job.id, extra={"action": "job_taken_away"})
        elif state is JobState.NEW:
            self._look_at = 0.0

    def _begin_to_leave(self, now: float) -> None:
        """No more jobs. What is durable goes on without us; what runs in this process may finish."""
        self._leaving_until = now + self._patience + _WRITE
        self.calls.leave(self._patience)

    def _may_leave(self) -> bool:
        if self._leaving_until is None:
            return False
        unwritten = any(hand.note or hand.outcome for hand in self.hands)
        return time.monotonic() >= self._leaving_until or not (unwritten or self.calls.waiting)


def run(store: JobStore | str | None = None, *, plan: JobPlan | None = None) -> None:
    """Run jobs in the handler that calls it, until it has to leave; for the target of a pool of your own.

    Without arguments the plan is that of `[jobs]`; `store` replaces the store in it, `plan` all of it. Raises
    NotAHandlerError outside a handler, StoreError, RunnerError or ConfigError when they can't be used at all.
    """
    handler = current_handler()
    plan = plan or current_plan()
    keep = store if isinstance(store, JobStore) else JobStore(store or plan.store)
    # Boot first: whoever holds the name until now goes on meanwhile.
    keep.prepare()
    crew = Crew(completed(plan), handler.name)
    if not handler.wait_active():
        return
    stop_timeout = float(os.environ.get("INSTAR_STOP_TIMEOUT") or _STOP_TIMEOUT)
    try:
        Manager(plan, handler, keep, crew=crew, patience=stop_timeout * _SHARE).run()
    except Fenced as error:
        logger.error("%s; its jobs are left to the successor", error, extra={"action": "fenced"})


def main() -> None:
    """The target of a pool that has none."""
    run()
