"""What the folder of an attempt says about it, in the words of runners."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from instar.handlers.tree import ProcessGroup
from instar.jobs import locks
from instar.jobs.folder import Exit, Folder
from instar.jobs.runners.base import Assignment, Notice, Phase
from instar.system import System


def look(key: str, folder: Folder) -> Notice | None:
    """What became of an attempt on this host; None if nobody has decided yet whether it begins."""
    ticket = folder.ticket()
    if ticket is None:
        return None
    if ticket.void:
        return Notice(key, Phase.NEVER)
    name = f"{ticket.pid}@{ticket.start}"
    # Asked before the end is looked for: who is responsible writes it before it ends.
    responsible = folder.responsible()
    if end := folder.exit():
        return ended(key, folder, end, name)
    if responsible:
        return Notice(key, Phase.RUNNING, name, started_at=ticket.at)
    if still_runs(folder):
        return Notice(key, Phase.RUNNING, name, started_at=ticket.at, error="nobody watches over it any more")
    if group := _group(folder):
        group.remove()
    error = "the process that watched over it was killed, or the host went down"
    return Notice(key, Phase.LOST, name, started_at=ticket.at, error=error, progress=folder.progress())


def ended(key: str, folder: Folder, end: Exit, external_id: str = "") -> Notice:
    """The notice of an end that was written down."""
    result, problem = (end.result, "") if end.result is not None else folder.result()
    return Notice(
        key,
        Phase.ENDED,
        external_id,
        exit_code=end.code,
        signal=end.signal,
        timed_out=end.timed_out,
        started_at=end.started_at,
        finished_at=end.finished_at,
        result=result,
        progress=folder.progress(),
        error=end.error or folder.error() or problem,
    )


def settle(assignment: Assignment, folder: Folder, since: float) -> Notice:
    """What became of an attempt that perhaps nobody has begun: from now on it is certain.

    Without a trace it has not begun, unless traces have been lost: those from before `since` (seconds since the epoch).
    """
    seen = look(assignment.key, folder)
    if seen is None and not folder.void():
        seen = look(assignment.key, folder)
    if seen is not None:
        return seen
    if assignment.external_id or assignment.dispatched_at < since:
        error = "its traces are gone: the host went down, or the folder of the jobs was emptied"
        return Notice(assignment.key, Phase.LOST, error=error)
    return Notice(assignment.key, Phase.NEVER)


def still_runs(folder: Folder) -> bool:
    """Whether something of the attempt lives although the process that is responsible for it doesn't."""
    group = _group(folder)
    return folder.tree() or (group is not None and group.populated())


def signal_rest(folder: Folder, sig: signal.Signals) -> None:
    """Signal what is left of an attempt that nobody watches over."""
    group = _group(folder)
    if sig is signal.SIGKILL and group is not None:
        with contextlib.suppress(OSError):
            group.kill()
    for pid in {*locks.holders(folder.lock), *(group.pids() if group else ())} - {os.getpid()}:
        _signal(pid, sig, folder, group)


def signal_process(pid: int, start: int, sig: int) -> bool:
    """Signal a process that is known by its start time; False when it is gone."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # After the descriptor was opened: it stands for this process and no other.
        return System().start_time(pid) == start and System().pidfd_signal(pidfd, sig)
    finally:
        os.close(pidfd)


def _signal(pid: int, sig: int, folder: Folder, group: ProcessGroup | None) -> None:
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            # The number may have been given to somebody else since we have seen it.
            if pid in locks.holders(folder.lock) or (group is not None and pid in group.pids()):
                signal.pidfd_send_signal(pidfd, sig)
        finally:
            os.close(pidfd)


def _group(folder: Folder) -> ProcessGroup | None:
    path = Path(str(folder.started().get("group", "")))
    # A program may write into its folder: this is not to become a way to reach other people's groups.
    return ProcessGroup(path) if path.name == f"instar-job-{folder.path.name}" else None


def booted() -> float:
    """Seconds since the epoch at which this host was started."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
