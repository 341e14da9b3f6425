"""Waiting for a condition that somebody else brings about, in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """`notify` wakes all who wait; each looks again whether its own condition holds."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Something changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds; it is looked at now and after each change."""
        while not condition():
            await self._event.wait()
