"""A limit for silence: one timer for a whole exchange, which every sign of life puts off without touching it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self


class Silence:
    """`async with`: TimeoutError in this task when `heard` has not been called for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._last = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self._expired = False

    def heard(self) -> None:
        """A sign of life."""
        self._last = self._loop.time()

    async def __aenter__(self) -> Self:
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task else 0
        self.heard()
        self._handle = self._loop.call_later(self._seconds, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._expired and self._task is not None:
            # As asyncio.timeout does: a cancellation from elsewhere, which came at the same time, wins.
            others = self._task.uncancel() > self._cancelling
            if kind is asyncio.CancelledError and not others:
                raise TimeoutError from error

    def _look(self) -> None:
        left = self._last + self._seconds - self._loop.time()
        if left > 0:
            self._handle = self._loop.call_later(left, self._look)
        elif self._task is not None:
            self._expired = True
            self._task.cancel()
