"""Booklets: jobs that the page submits and watches."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import instar.jobs

_PROGRAM = Path(__file__).with_name("booklet.py")
#: Jobs that the page shows.
_SHOWN = 4


class Press:
    """What of the job store this application uses. `open` is False where it runs without `[jobs]`."""

    def __init__(self) -> None:
        try:
            self._store: instar.jobs.JobStore | None = instar.jobs.current_store()
        except instar.jobs.JobError:
            self._store = None

    @property
    def open(self) -> bool:
        """Whether jobs can be submitted."""
        return self._store is not None

    async def order(self, database: Path, pages: int) -> int:
        """A booklet of the newest notes; the number of the job, which is stored by then."""
        command = [sys.executable, str(_PROGRAM), str(database), str(pages)]
        return await instar.jobs.submit_async(command, kind="booklet")

    async def jobs(self) -> list[dict[str, Any]]:
        """The newest booklets."""
        if self._store is None:
            return []
        # A query that may have to wait for a writer is none for the event loop.
        found = await asyncio.to_thread(self._store.find, kind="booklet", limit=_SHOWN)
        return [_row(job) for job in found]


def _row(job: instar.jobs.Job) -> dict[str, Any]:
    progress = job.progress if isinstance(job.progress, dict) else {}
    done, total = progress.get("done", 0), progress.get("total", 0)
    return {
        "id": job.id,
        "state": str(job.state),
        "handler": job.handler or "anyone",
        "attempt": job.attempt,
        "done": done,
        "total": total,
        "text": progress.get("text", ""),
        "error": job.error,
        "result": job.result,
    }
