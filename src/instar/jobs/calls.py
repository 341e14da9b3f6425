"""Asking the runners, in their threads, and taking in what they answer."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from instar.jobs.crew import Crew
from instar.jobs.hand import Hand, Hands
from instar.jobs.inbox import Inbox
from instar.jobs.model import Ending, Outcome
from instar.jobs.runners.base import Notice, RefusedError, Runner, UnavailableError

logger = logging.getLogger("instar.jobs")

#: Pause after a runner couldn't tell: from, to (seconds).
_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
#: Between two looks at the progress of running attempts.
_PROGRESS: Final = 1.0


class Calls:
    """Belongs to the manager's thread."""

    def __init__(self, crew: Crew, hands: Hands, inbox: Inbox, at: Callable[[str, str], object]) -> None:
        self._crew = crew
        self._hands = hands
        self._inbox = inbox
        self._at = at
        self._releases: list[concurrent.futures.Future[Any]] = []
        #: When progress is looked at next (monotonic seconds).
        self.progress_at = 0.0

    def ask(self, now: float, *, progress: bool) -> None:
        """Ask what there is to be asked."""
        for hand in self._hands:
            if hand.busy or hand.outcome:
                continue
            if hand.todo and now >= hand.todo_at:
                self._call(hand, hand.todo)
            elif not hand.todo and hand.cancel and not hand.cancelled:
                self._call(hand, "cancel")
        if progress and now >= self.progress_at:
            self.progress_at = now + _PROGRESS
            self._ask_progress()

    def _call(self, hand: Hand, what: str) -> None:
        """Have a thread of the runner ask it; the answer comes into the inbox."""
        member = self._crew.get(hand.runner)
        if member is None:
            hand.todo, hand.todo_at = hand.todo or "recover", time.monotonic() + _LONGEST_PAUSE
            logger.error(
                "cannot look after job %s: there is no runner %r here; it stays as it is",
                hand.claim.job.id,
                hand.runner,
                extra={"action": "runner_missing"},
            )
            return
        hand.busy, hand.todo = True, ""
        method, assignment = getattr(member.runner, what), hand.assignment

        def ask() -> object:
            try:
                if what == "start":
                    self._at("starting", assignment.key)
                answer = method(assignment)
                if what == "start":
                    self._at("started", assignment.key)
            except Exception as error:
                return error
            return answer

        if what == "start" and member.runner.prompt:
            self._answer(hand, what, ask())
            return
        try:
            member.threads.submit(lambda: self._inbox.put((assignment.key, what, ask())))
        except RuntimeError:
            # The threads are closed already: we leave.
            hand.busy, hand.todo = False, what

    def hear(self, thing: Any) -> None:
        """Take in something from the inbox."""
        if isinstance(thing, Notice):
            hand = self._hands.get(thing.key)
            if hand:
                self._notice(hand, thing)
        elif isinstance(thing, dict):
            for key, progress in thing.items():
                hand = self._hands.get(key)
                if hand and progress is not None and progress != hand.progress:
                    hand.progress = progress
                    hand.add(progress=progress)
        elif thing is not None:
            key, what, answer = thing
            hand = self._hands.get(key)
            if hand:
                self._answer(hand, what, answer)

    def _notice(self, hand: Hand, notice: Notice) -> None:
        if notice.phase.final and not hand.outcome:
            self._at("ended", hand.key)
        hand.hear(notice)

    def _answer(self, hand: Hand, what: str, answer: object) -> None:
        hand.busy = hand.busy and what == "release"
        if isinstance(answer, Notice):
            hand.pause = 0.0
            self._notice(hand, answer)
        elif what == "cancel" and answer is None:
            hand.cancelled = True
        elif what == "release":
            hand.add(let_go=True)
        elif isinstance(answer, RefusedError) and what == "start":
            hand.outcome = hand.outcome or Outcome(Ending.REFUSED, error=str(answer))
        elif isinstance(answer, Exception):
            self._unknown(hand, what, answer)

    def _unknown(self, hand: Hand, what: str, error: Exception) -> None:
        """Nobody knows whether it has begun, or what became of it: ask later. Never an end, nor a failure."""
        hand.pause = min(hand.pause * 2 or _PAUSE, _LONGEST_PAUSE)
        hand.todo_at = time.monotonic() + hand.pause
        hand.todo = "cancel" if what == "cancel" else "recover"
        known = isinstance(error, UnavailableError)
        logger.warning(
            "%s", error, exc_info=None if known else error, extra={"action": "runner_unavailable", "key": hand.key}
        )

    def _ask_progress(self) -> None:
        for name, member in self._crew.members.items():
            asked = [
                hand.assignment for hand in self._hands if hand.running and hand.runner == name and not hand.outcome
            ]
            if asked and member.open:
                member.threads.submit(self._progress_of, member.runner, asked)

    def _progress_of(self, runner: Any, assignments: list[Any]) -> None:
        found = {}
        for assignment in assignments:
            try:
                found[assignment.key] = runner.progress(assignment)
            except Exception:
                logger.warning("cannot read the progress of job %s", assignment.job_id, exc_info=True)
        self._inbox.put(found)

    def leave(self, patience: float) -> None:
        """Start nothing more, and have those runners release whose attempts end with this process."""
        for hand in self._hands:
            if hand.todo == "start":
                # The runner has never heard of it.
                hand.todo, hand.outcome = "", Outcome(Ending.NEVER_STARTED)
        for member in self._crew.members.values():
            if member.open and not member.runner.durable:
                self._releases.append(member.threads.submit(self._release, member.runner, patience))

    def _release(self, runner: Runner, patience: float) -> None:
        for key in runner.release(patience):
            self._inbox.put((key, "release", None))

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return any(hand.busy for hand in self._hands) or any(not future.done() for future in self._releases)
