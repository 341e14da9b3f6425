"""What a job is, as every part of `instar.jobs` sees it. Times are seconds since the epoch, durations seconds."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class JobState(enum.StrEnum):
    """Where a job stands."""

    #: It waits for a handler (perhaps until its `run_at`).
    NEW = "new"
    #: A handler has it, and a number and a key for the attempt are recorded; it is about to be started, or perhaps was.
    DISPATCHING = "dispatching"
    #: The cluster has it and will start it.
    QUEUED = "queued"
    RUNNING = "running"
    #: It was lost, and somebody has to decide: `instar jobs retry` or `instar jobs cancel`.
    HELD = "held"
    #: Ended with exit status 0, or the callable returned.
    OK = "ok"
    #: Ended otherwise, could not be started, or took too long.
    ERROR = "error"
    CANCELLED = "cancelled"
    #: It was started, and nobody can tell how it ended.
    LOST = "lost"

    @property
    def live(self) -> bool:
        """Whether a handler is responsible for it now."""
        return self in LIVE

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen, unless somebody asks for a retry."""
        return self in ENDED


LIVE: Final = frozenset({JobState.DISPATCHING, JobState.QUEUED, JobState.RUNNING})
ENDED: Final = frozenset({JobState.OK, JobState.ERROR, JobState.CANCELLED, JobState.LOST})


class OnLost(enum.StrEnum):
    """What becomes of a job whose attempt was started and then lost."""

    FAIL = "fail"
    #: Another attempt, if `max_attempts` allows one. Only for work that may be done twice.
    RETRY = "retry"
    #: It stays in the state `held` until somebody decides.
    HOLD = "hold"


class Ending(enum.StrEnum):
    """How an attempt ended."""

    #: By itself: the exit status or the signal is known; for a callable, it returned or raised.
    EXITED = "exited"
    #: The runner could not start it, and is sure that it never will.
    REFUSED = "refused"
    #: It was not started and never can be any more (its ticket is void); costs no attempt.
    NEVER_STARTED = "never started"
    #: The handler had to leave before a callable was finished, and gave it back; costs no attempt.
    RETURNED = "returned"
    #: It was started and has ended, and nobody can tell how.
    LOST = "lost"
    #: Ended because somebody asked for it.
    CANCELLED = "cancelled"
    #: Ended because it ran longer than its `timeout`.
    TIMED_OUT = "timed out"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, as its runner reports it."""

    ending: Ending
    #: Exit status; None for a signal, for callables, and when nobody knows.
    exit_code: int | None = None
    #: Number of the signal that ended it.
    signal: int | None = None
    #: One sentence for people; of a callable, `ValueError: …`.
    error: str = ""
    #: What a callable returned, as JSON.
    result: Any = None
    #: What it said of itself last; None: nothing new.
    progress: Any = None
    #: None: not known; the manager takes the time at which it heard of it.
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the work was done."""
        return self.ending is Ending.EXITED and not self.error and not self.exit_code and self.signal is None


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    """A job to be stored. Exactly one of `command` and `target` is set; `checked` makes sure of all the rules."""

    #: Program and arguments; no shell runs them.
    command: tuple[str, ...] = ()
    #: `module:function`, called as `function(*args, **kwargs)` in the handler's process or a child of it.
    target: str = ""
    #: JSON values.
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: What sort of work it is (a tool's id), for people and for the job configuration. Empty: after the work itself.
    kind: str = ""
    #: Name of the only handler that may take it; None: anyone. `""` and `_null_` become None.
    handler: str | None = None
    #: Only handlers of this pool may take it.
    pool: str | None = None
    #: Only handlers that have this tag may take it.
    tag: str | None = None
    #: Where it runs: a destination of the job configuration. None: the handler that takes it decides.
    destination: str | None = None
    #: Parameters for the runner, over those of the destination.
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: On whose behalf, for fairness; no account of the host.
    user: str = ""
    #: Larger first.
    priority: int = 0
    #: Not before; None: now.
    run_at: float | None = None
    #: How often it may be started in all.
    max_attempts: int = 1
    #: Pause before the second attempt; it doubles for each further one, up to `backoff_limit`.
    backoff: float = 5.0
    backoff_limit: float = 3600.0
    on_lost: OnLost = OnLost.FAIL
    #: As long as the store has a job with this key, ended or not, no second one is stored: the first one's id is given
    #: instead. So whoever can't tell whether a submission got through may repeat it.
    dedupe_key: str | None = None
    #: Added to the environment of the command.
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: Working directory; empty: a fresh one of its own (the application's for callables).
    cwd: str = ""
    #: Longest time that an attempt may run; 0: without limit.
    timeout: float = 0.0
    #: Time from the request to end to the forced end.
    kill_timeout: float = 10.0


class Job(NamedTuple):
    """A job as the store has it; nothing here changes by itself (`JobStore.get` reads it anew)."""

    id: int
    state: JobState
    submission: Submission
    created_at: float
    run_at: float
    #: Name of the handler that is responsible for it, or was last; None when no handler has had it.
    holder: str | None = None
    #: Number of the attempt, from 1; 0 when there was none.
    attempt: int = 0
    #: Attempts that don't count against `max_attempts`, because nothing was started.
    uncounted: int = 0
    cancel_requested_at: float | None = None
    #: What the job says of itself: `{"done": 3, "total": 10, "text": "…"}` or any other JSON.
    progress: Any = None
    #: What the callable returned.
    result: Any = None
    #: Why it did not end well.
    error: str = ""
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def handler(self) -> str | None:
        """Who is responsible for it; before that, who may take it (None: anyone)."""
        return self.holder if self.state is not JobState.NEW and self.holder else self.submission.handler

    @property
    def kind(self) -> str:
        """What sort of work it is."""
        return self.submission.kind

    @property
    def cancelling(self) -> bool:
        """Whether somebody wants it to end."""
        return self.cancel_requested_at is not None and not self.state.ended


class Attempt(NamedTuple):
    """One try to do a job. Its key never comes twice, in this store or any other: it names folders and cluster jobs."""

    job_id: int
    #: From 1.
    number: int
    #: `SITE-JOB-aNUMBER`; letters, digits and dashes.
    dispatch_key: str
    #: Who began it, with which epoch. A successor that takes it over is in the events.
    handler: str
    epoch: int
    #: Where it went; the destination as it was then decides the runner.
    destination: str = ""
    runner: str = ""
    #: The runner's own name for it (a Slurm id, a pid); None as long as nothing is known to have been started.
    external_id: str | None = None
    #: What else the runner wants to know at a re-attach; JSON.
    data: Any = None
    dispatched_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    #: The handler that ran it had to leave, and said that the attempt would end with it.
    let_go: bool = False
    ending: Ending | None = None
    exit_code: int | None = None
    signal: int | None = None
    error: str = ""


class Claim(NamedTuple):
    """A job that a handler has to see through, with the attempt that is being made."""

    job: Job
    attempt: Attempt


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    id: int
    job_id: int
    at: float
    #: `submitted`, `claimed`, `started`, `adopted`, `ended`, `retry`, `cancel requested`, `reassigned` …
    what: str
    #: Who says so; None: somebody who is no handler.
    handler: str | None = None
    epoch: int | None = None
    attempt: int | None = None
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
