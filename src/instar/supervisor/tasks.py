"""Background tasks of the supervisor: named, watched, and ended with it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from typing import Any


class Tasks:
    """Owner of the tasks. A task that fails is a defect: its traceback goes to the log."""

    def __init__(self, log: Callable[[str], object]) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something beside everything else."""
        task: asyncio.Task[Any] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def cancel(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log(f"cannot go on with {task.get_name()}: unexpected {type(error).__name__}: {error}")
            for line in "".join(traceback.format_exception(error)).splitlines():
                self._log(line)
