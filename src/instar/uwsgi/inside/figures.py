"""What the workers of the generation are doing, from the scoreboard, as `uwsgi.workers()` tells it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from instar.runtime.scoreboard import Column, Scoreboard, State
from instar.system import System

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
#: A worker that is being replaced has two rows: the one that serves counts.
_RANK = {State.READY: 3, State.STARTING: 2, State.STOPPING: 1, State.EMPTY: 0}


def workers(board: Scoreboard, count: int) -> tuple[dict[str, Any], ...]:
    """One dictionary for each worker."""
    return tuple(_worker(board, index, _row(board, index, count)) for index in range(count))


def all_ready(board: Scoreboard, count: int) -> bool:
    """Whether every worker serves."""
    return all(board.get(_row(board, index, count), Column.STATE) == State.READY for index in range(count))


def requests(board: Scoreboard, row: int | None = None) -> int:
    """Requests answered by the process of a row, or by all."""
    return board.total(Column.REQUESTS) if row is None else board.get(row, Column.REQUESTS)


def memory() -> tuple[int, int]:
    """Resident and virtual memory of this process in bytes (proc_pid_statm(5))."""
    virtual, resident, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return resident * _PAGE, virtual * _PAGE


def _row(board: Scoreboard, index: int, count: int) -> int:
    rows = (index, index + count)
    return max(rows, key=lambda row: _RANK[State(board.get(row, Column.STATE))])


def _worker(board: Scoreboard, index: int, row: int) -> dict[str, Any]:
    pid = board.get(row, Column.PID)
    done = board.get(row, Column.REQUESTS)
    errors = board.get(row, Column.ERRORS)
    app = {"id": 0, "modifier1": 0, "mountpoint": b"", "startup_time": 0, "interpreter": 0, "callable": 0}
    return {
        "id": index + 1,
        "pid": pid,
        "requests": done,
        "delta_requests": done,
        "signals": 0,
        "exceptions": errors,
        "status": b"busy" if board.get(row, Column.IN_FLIGHT) else b"idle",
        "rss": board.get(row, Column.MEMORY),
        "vsz": 0,
        "running_time": 0,
        "last_spawn": _started(pid),
        "respawn_count": 0,
        "tx": 0,
        "avg_rt": 0,
        "apps": ({**app, "requests": done, "exceptions": errors, "chdir": b""},),
    }


def _started(pid: int) -> int:
    """When a process started, in seconds since the epoch; 0 when it is gone."""
    try:
        ticks = System().start_time(pid) if pid else 0
    except (OSError, ValueError):
        return 0
    return int(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS) if ticks else 0
