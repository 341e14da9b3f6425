"""Which workers of the serving generation take new connections."""

from __future__ import annotations

import time
from collections.abc import Callable

from instar.runtime.scoreboard import Column
from instar.supervisor.generation import Generation
from instar.supervisor.views import WorkerView

#: A worker that was full, or whose event loop stood still, for so long gets no new connections until it recovers.
SATURATED_AFTER = 0.5
#: An event loop beats at least so often (seconds), with room for a busy machine.
LOOP_SILENCE = 1.0


def taking_workers(generation: Generation, now_ns: Callable[[], int] = time.monotonic_ns) -> tuple[int, ...]:
    """Worker numbers that should get new connections; all ready ones when none is free."""
    ready = [worker for worker in generation.workers.values() if worker.ready]
    free = [worker for worker in ready if not saturated(generation, worker, now_ns())]
    return tuple(sorted({worker.index for worker in free or ready}))


def saturated(generation: Generation, worker: WorkerView, now: int) -> bool:
    """Whether a new connection would have to wait for this worker."""
    board, row = generation.board, worker.row
    capacity, oldest = board.get(row, Column.CAPACITY), board.get(row, Column.OLDEST)
    if capacity and board.get(row, Column.IN_FLIGHT) >= capacity and oldest and now - oldest > SATURATED_AFTER * 1e9:
        return True
    loop_beat = board.get(row, Column.LOOP_BEAT)
    return bool(loop_beat) and now - loop_beat > LOOP_SILENCE * 1e9
