"""What a manager has in hand: one entry for each live attempt, and what has come of it that isn't written down yet."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

from instar.jobs.model import Claim, Ending, JobState, Outcome
from instar.jobs.runners.base import Assignment, Notice, Phase
from instar.jobs.store.turn import Note

_ENDINGS = {
    Phase.ENDED: Ending.EXITED,
    Phase.LOST: Ending.LOST,
    Phase.NEVER: Ending.NEVER_STARTED,
    Phase.RETURNED: Ending.RETURNED,
}


@dataclasses.dataclass
class Hand:
    """One live attempt."""

    claim: Claim
    assignment: Assignment
    #: A thread is calling the runner about it: nobody else may.
    busy: bool = False
    #: What the runner is to be asked next, when nobody is asking.
    todo: str = ""
    #: Not before (monotonic seconds), and the pause after the next failure.
    todo_at: float = 0.0
    pause: float = 0.0
    #: Somebody wants it to end; then, the runner knows.
    cancel: bool = False
    cancelled: bool = False
    running: bool = False
    #: Ends with this process: nobody will look for it by what the runner calls it.
    volatile: bool = False
    #: The holder before us had to leave, and said that the attempt would end with it.
    let_go: bool = False
    progress: Any = None
    #: Not written down yet.
    note: Note | None = None
    outcome: Outcome | None = None

    @property
    def key(self) -> str:
        """Its dispatch key."""
        return self.assignment.key

    @property
    def runner(self) -> str:
        """Name of its runner."""
        return self.claim.attempt.runner

    def hear(self, notice: Notice) -> None:
        """Take in what the runner says. The first end counts; the same notice may come twice."""
        if self.outcome:
            return
        if notice.external_id:
            self.assignment = dataclasses.replace(self.assignment, external_id=notice.external_id)
        if notice.phase.final:
            self.outcome = self._outcome(notice)
            return
        state = JobState.RUNNING if notice.phase is Phase.RUNNING else JobState.QUEUED
        # A late "queued" doesn't undo "running", and what is known isn't written again.
        known = self.running and (self.volatile or not notice.external_id or state is JobState.QUEUED)
        if not known:
            self.running = state is JobState.RUNNING
            self.add(state=state, external_id=notice.external_id or None, started_at=notice.started_at)

    def add(self, **changes: object) -> None:
        """Add to the note that will be written."""
        known = {name: value for name, value in changes.items() if value is not None}
        self.note = dataclasses.replace(self.note or Note(self.claim), **known)  # type: ignore[arg-type]

    def _outcome(self, notice: Notice) -> Outcome:
        ending = _ENDINGS[notice.phase]
        if self.let_go and (ending is Ending.LOST or notice.signal == signal.SIGKILL):
            return Outcome(Ending.RETURNED, started_at=notice.started_at)
        if notice.timed_out:
            ending = Ending.TIMED_OUT
        elif self.cancel and ending is Ending.EXITED and not notice.succeeded:
            ending = Ending.CANCELLED
        return Outcome(
            ending,
            exit_code=notice.exit_code,
            signal=notice.signal,
            error=notice.error or _sentence(ending, notice),
            result=notice.result,
            # What was said since the last look, or wasn't written down yet.
            progress=notice.progress if notice.progress is not None else self.progress,
            started_at=notice.started_at,
            finished_at=notice.finished_at,
        )


def _sentence(ending: Ending, notice: Notice) -> str:
    if ending is Ending.TIMED_OUT:
        return "it took longer than its timeout"
    if ending is Ending.LOST:
        return "nobody can tell how it ended"
    if ending is Ending.EXITED and notice.signal is not None:
        return f"it was ended by signal {notice.signal}"
    if ending is Ending.EXITED and notice.exit_code:
        return f"it ended with exit status {notice.exit_code}"
    return ""


class Brief(NamedTuple):
    """Of those in hand."""

    ended: int
    open: int


class Hands:
    """All of them, by dispatch key."""

    def __init__(self) -> None:
        self._hands: dict[str, Hand] = {}

    def __iter__(self) -> Iterator[Hand]:
        return iter(list(self._hands.values()))

    def __len__(self) -> int:
        return len(self._hands)

    def get(self, key: str) -> Hand | None:
        """The one with this key."""
        return self._hands.get(key)

    def add(self, hand: Hand) -> None:
        """Take one more."""
        self._hands[hand.key] = hand

    def drop(self, hand: Hand) -> None:
        """Nothing more is to be done for it."""
        self._hands.pop(hand.key, None)

    def jobs(self) -> dict[int, Hand]:
        """By the job's id."""
        return {hand.claim.job.id: hand for hand in self._hands.values()}

    def brief(self) -> Brief:
        """How many have ended, and how many run that may be about to: those in this process."""
        ended = sum(1 for hand in self._hands.values() if hand.outcome)
        return Brief(ended, sum(1 for hand in self._hands.values() if hand.volatile and not hand.outcome))

    def counts(self) -> dict[str, int]:
        """How many of each runner have not ended."""
        counts: dict[str, int] = {}
        for hand in self._hands.values():
            if not hand.outcome:
                counts[hand.runner] = counts.get(hand.runner, 0) + 1
        return counts
