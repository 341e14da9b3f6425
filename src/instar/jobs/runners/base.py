"""What runs jobs: the interface between the job manager and a place where attempts run.

A runner starts one *attempt* of a job under a key that is never used again, and says what became of it. It keeps three
promises, also when the manager is killed between any two of its steps, or stopped and continued much later:

1. An attempt begins at most once, however often `start` is called for its key, by whomever.
2. After `recover` has answered `NEVER`, the attempt never begins: a late `start` of a manager that was replaced
   does nothing.
3. What is not known is not said. A runner that can't tell raises `UnavailableError`; "no answer" is neither an end
   nor a failure.

The manager in turn writes the attempt with its key down before it calls `start`, has one thread at a time call a
runner about one key, and calls `recover` for every unfinished attempt that it finds when it takes its name.

Others add runners by an entry point of the group `instar.runners`: the name is the runner's `kind` in a job
configuration, the value a class that derives from `Runner`. Runners are loaded in the application's processes.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from instar.errors import InstarError


class RunnerError(InstarError):
    """A runner cannot do what it was asked for."""


class RefusedError(RunnerError):
    """The attempt has not begun, never will, and another attempt would fare no better (the message says why)."""


class UnavailableError(RunnerError):
    """It is not known whether the attempt has begun, or what became of it. Ask again with `recover` later."""


class Phase(enum.StrEnum):
    """Where an attempt stands, as far as its runner knows."""

    #: Accepted; it may begin at any time.
    QUEUED = "queued"
    RUNNING = "running"
    #: It ran to its end: `exit_code` or `signal` (or `error`, of a callable) tells how.
    ENDED = "ended"
    #: It began and is gone, and nobody can tell how it ended.
    LOST = "lost"
    #: It never began and never will.
    NEVER = "never"
    #: It gave the work back, to be begun anew by another attempt. Only runners that are not `durable` say so.
    RETURNED = "returned"

    @property
    def final(self) -> bool:
        """Whether nothing of the attempt is left and nothing follows."""
        return self not in (Phase.QUEUED, Phase.RUNNING)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One attempt of one job, as a runner gets it. The same values for `start`, `recover` and `cancel`.

    Times in seconds. Exactly one of `argv` and `target` is set.
    """

    #: Never used for another attempt: at most 100 of `A-Z a-z 0-9 . _ -`, beginning with a letter or digit. It is the
    #: name of the folder, and of the job in a cluster.
    key: str
    job_id: int
    attempt: int
    #: Program and arguments; never passed through a shell.
    argv: tuple[str, ...] = ()
    #: `module:function`, called as `function(*args, **kwargs)`.
    target: str = ""
    #: JSON values.
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: Added to the environment that the runner gives to jobs.
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: Working folder; empty: a fresh one in the attempt's folder (callables: the application's).
    cwd: str = ""
    #: Ends it after so long a run; 0: no limit.
    timeout: float = 0.0
    #: Between the request to end (SIGTERM) and SIGKILL.
    kill_timeout: float = 10.0
    #: Of the destination, as in the job configuration: for a cluster its resources, partition and so on.
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: For people: shown where the place has a description of a job.
    title: str = ""
    #: From the last notice that was recorded; empty when none was. Only `recover`, `cancel` and `discard` see it.
    external_id: str = ""
    #: When the attempt was written down, seconds since the epoch. `recover` needs it: when the folder of all attempts
    #: is younger (a reboot has emptied it), the absence of traces doesn't mean that nothing has begun.
    dispatched_at: float = 0.0


@dataclasses.dataclass(frozen=True)
class Notice:
    """What a runner knows about an attempt. Times in seconds since the epoch."""

    key: str
    phase: Phase
    #: What the place calls it: number of a cluster's job, `pid@start` of a local one. Empty: nothing new.
    external_id: str = ""
    exit_code: int | None = None
    #: Number of the signal that ended it. Of a callable, both may be None.
    signal: int | None = None
    #: Ended by the runner since `timeout` was over.
    timed_out: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    #: JSON that a callable returned, or that a program wrote to `$INSTAR_JOB_RESULT`.
    result: Any = None
    #: Of an end: what the attempt said of itself last, as nobody asks any more then. None: nothing, or not known.
    progress: Any = None
    #: Of a callable: the exception, in one line. Of others: what a person should know.
    error: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether it ended well."""
        return self.phase is Phase.ENDED and not self.exit_code and self.signal is None and not self.error


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a runner is made from."""

    #: Its name in the job configuration, for messages.
    name: str
    #: Its settings in the job configuration.
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    #: Each attempt that needs one has a folder in it, named by its key. For a cluster: on the shared file system.
    folder: Path = Path()
    #: Socket of the launcher that the supervisor keeps (`instar.jobs.launcher`); None: the runner starts one.
    launcher: Path | None = None
    #: How many attempts it will have at a time at most; 0: not known.
    workers: int = 0


#: How a runner reports: thread-safe, returns at once. A notice may come twice, and before `start` has returned; none is
#: surely delivered, and `recover` gives it again.
Sink = Callable[[Notice], None]


class Runner(abc.ABC):
    """A place where attempts run. Made once in each handler; its methods may be called from any thread.

    They may block: for milliseconds (local), or as long as a cluster's command takes. The manager calls them from
    threads of its own, up to `threads` at a time.
    """

    #: Attempts go on when the handler has ended, and can be found again by another process with `recover`.
    durable: ClassVar[bool] = True
    #: Understands `Assignment.argv`.
    runs_commands: ClassVar[bool] = True
    #: Understands `Assignment.target`.
    runs_callables: ClassVar[bool] = False
    #: `start` returns at once, so that the manager need not call it from another thread.
    prompt: ClassVar[bool] = False
    #: How many threads may wait in its methods at a time.
    threads: ClassVar[int] = 1

    def __init__(self, setup: Setup) -> None:
        """Check the options. Raises RunnerError (or ConfigError) for wrong ones; starts nothing."""
        self.setup = setup

    @abc.abstractmethod
    def open(self, sink: Sink) -> None:
        """Begin: threads and connections. Called once, when the handler has its name. Raises RunnerError."""

    @abc.abstractmethod
    def start(self, assignment: Assignment) -> Notice:
        """Begin an attempt, and report to the sink from now on what becomes of it.

        Returns a notice with the phase QUEUED or RUNNING (or a later one) and its `external_id`; NEVER if somebody has
        declared meanwhile that this attempt never begins. Raises RefusedError or UnavailableError.
        """

    @abc.abstractmethod
    def recover(self, assignment: Assignment) -> Notice:
        """Find out what became of an attempt for which `start` was called, perhaps, by a process that is gone.

        If it goes on, it is watched from now on as after `start`. If it has not begun, it is made sure that it never
        will (NEVER). Raises UnavailableError.
        """

    @abc.abstractmethod
    def cancel(self, assignment: Assignment, *, now: bool = False) -> None:
        """Ask an attempt to end: SIGTERM, and SIGKILL to all that it has started `kill_timeout` later, or at once.

        Returns without waiting; the end is reported as any other (a cancelled attempt may also end well, or NEVER have
        begun). May be called again. Nothing happens if it has ended. Raises UnavailableError.
        """

    def progress(self, assignment: Assignment) -> Any:
        """What the attempt says of itself just now, as JSON; None if it says nothing. Quick: asked once a second."""
        return None

    def discard(self, assignment: Assignment) -> None:  # noqa: B027 - most have nothing to do
        """Delete what is left of an attempt whose final notice has been recorded, output included."""

    def release(self, timeout: float) -> list[str]:
        """The handler has to leave: start nothing any more; returns the keys of the attempts that its end will end.

        A durable runner returns none, at once. Another one waits up to `timeout` seconds for its attempts, whose
        notices still come. What it returns then ends with the process: `recover` says LOST afterwards, and the
        manager, which knows that it let them go, begins them anew.
        """
        return []

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Stop watching. Durable attempts go on."""
