"""What follows from the end of an attempt: done, failed, or once more, and when."""

from __future__ import annotations

import dataclasses
from typing import Final

from instar.jobs.model import Attempt, Ending, Job, JobState, OnLost, Outcome

#: Pause before an attempt that follows one which never began, for the second time and later: seconds, doubling.
_AGAIN: Final = 0.5
_AGAIN_LIMIT: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a job."""

    state: JobState
    #: For `new`: not before so many seconds have passed.
    delay: float = 0.0
    #: The attempt counts against `max_attempts`.
    counted: bool = True


def judge(job: Job, attempt: Attempt, outcome: Outcome) -> Verdict:
    """The next state of a job, and when. Whether it was to be cancelled is for the store to look at."""
    if outcome.ok:
        return Verdict(JobState.OK)
    match outcome.ending:
        case Ending.CANCELLED:
            return Verdict(JobState.CANCELLED)
        case Ending.RETURNED | Ending.NEVER_STARTED:
            # At once, but not in a circle.
            return Verdict(JobState.NEW, delay=_again(job), counted=False)
        case Ending.REFUSED:
            return Verdict(JobState.ERROR)
        case Ending.LOST:
            return _lost(job, attempt)
        case _:
            return _retry(job, attempt) or Verdict(JobState.ERROR)


def _lost(job: Job, attempt: Attempt) -> Verdict:
    match job.submission.on_lost:
        case OnLost.HOLD:
            return Verdict(JobState.HELD)
        case OnLost.RETRY:
            return _retry(job, attempt) or Verdict(JobState.LOST)
        case _:
            return Verdict(JobState.LOST)


def _retry(job: Job, attempt: Attempt) -> Verdict | None:
    counted = attempt.number - job.uncounted
    if counted >= job.submission.max_attempts:
        return None
    pause = job.submission.backoff * 2.0 ** min(counted - 1, 60)
    return Verdict(JobState.NEW, delay=min(pause, job.submission.backoff_limit))


def _again(job: Job) -> float:
    return min(_AGAIN * 2.0 ** min(job.uncounted - 1, 60), _AGAIN_LIMIT) if job.uncounted else 0.0
