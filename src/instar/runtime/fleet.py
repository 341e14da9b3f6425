"""The zygote's records of its workers, and the decisions taken on them: when to respawn, recycle or kill."""

from __future__ import annotations

import dataclasses

from instar.runtime.nursery import Child
from instar.runtime.scoreboard import Column, Scoreboard
from instar.runtime.spec import GenerationSpec

#: A worker that lived this long was healthy: its successor starts at once.
HEALTHY_AFTER = 10.0
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0


@dataclasses.dataclass
class Backoff:
    """Delay before the next respawn of one worker: none, then doubling from 0.5 s to 30 s."""

    failures: int = 0

    def next_delay(self, lived: float) -> float:
        """Seconds to wait after a process that lived so long."""
        if lived >= HEALTHY_AFTER:
            self.failures = 0
        delay = 0.0 if self.failures == 0 else min(LONGEST_DELAY, FIRST_DELAY * 2 ** (self.failures - 1))
        self.failures += 1
        return delay


@dataclasses.dataclass
class Worker:
    """One worker process."""

    index: int
    row: int
    child: Child
    ready: bool = False
    #: Replaced by a newer process and on its way out.
    leaving: bool = False
    #: When a leaving worker gets the next, harsher treatment; 0: never.
    end_streams_at: float = 0.0
    term_at: float = 0.0
    kill_at: float = 0.0
    terminated: bool = False
    #: Scoreboard's survey number when it began to leave.
    surveys_before: int = 0
    #: Why we ended it, for the log.
    reason: str = ""


@dataclasses.dataclass
class Seat:
    """One worker number with its processes: at most the current one, one arriving and one leaving."""

    index: int
    current: Worker | None = None
    arriving: Worker | None = None
    leaving: Worker | None = None
    respawn_at: float | None = None
    #: A replacement that failed to start delays the next try.
    recycle_after: float = 0.0
    backoff: Backoff = dataclasses.field(default_factory=Backoff)

    def workers(self) -> list[Worker]:
        """Its living processes."""
        return [worker for worker in (self.current, self.arriving, self.leaving) if worker is not None]

    def free_row(self, workers: int) -> int | None:
        """A scoreboard row of this seat that no process holds (row = index, or index + number of workers)."""
        taken = {worker.row for worker in self.workers()}
        return next((row for row in (self.index, self.index + workers) if row not in taken), None)

    def remove(self, worker: Worker) -> None:
        """Forget a process that has ended."""
        if self.current is worker:
            self.current = None
        elif self.arriving is worker:
            self.arriving = None
        elif self.leaving is worker:
            self.leaving = None


def stuck(worker: Worker, board: Scoreboard, spec: GenerationSpec, now_ns: int) -> str:
    """Why the worker has to be killed without asking, or an empty string."""
    limit = int(spec.heartbeat_timeout * 1e9)
    if limit <= 0:
        return ""
    for column, what in ((Column.BEAT, "process"), (Column.LOOP_BEAT, "event loop")):
        beat = board.get(worker.row, column)
        if beat and now_ns - beat > limit:
            return f"its {what} gave no sign of life for {spec.heartbeat_timeout:g} s"
    return ""


def overdue(worker: Worker, board: Scoreboard, spec: GenerationSpec, now_ns: int) -> str:
    """Why the worker's oldest request has run too long, or an empty string."""
    oldest = board.get(worker.row, Column.OLDEST)
    if spec.request_timeout > 0 and oldest and now_ns - oldest > spec.request_timeout * 1e9:
        return f"a request took longer than {spec.request_timeout:g} s"
    return ""


def worn_out(worker: Worker, board: Scoreboard, spec: GenerationSpec) -> str:
    """Why the worker should be recycled, or an empty string."""
    # Spread by the worker number, so that not all workers are recycled at the same moment.
    limit = spec.max_requests + spec.max_requests_jitter * worker.index // max(1, spec.workers)
    if spec.max_requests and board.get(worker.row, Column.REQUESTS) >= limit:
        return f"it served {limit} requests"
    memory = board.get(worker.row, Column.MEMORY)
    if spec.max_memory and memory > spec.max_memory:
        return f"its private memory reached {memory // 2**20} MiB"
    return ""


def quiet(worker: Worker, board: Scoreboard, *, besides_http2: bool) -> bool:
    """Whether a leaving worker has no client any more; True only after a count that began since it left."""
    fresh = board.get(worker.row, Column.SURVEYS) >= worker.surveys_before + 2
    return fresh and not board.has_clients(worker.row, besides_http2=besides_http2)
