"""Tells the open pages of this worker that the database has changed, whichever worker or handler changed it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from press import Press
from store import Store

#: How often the database is asked whether it changed, in seconds.
INTERVAL = 0.2


class Board:
    """The pages that listen."""

    def __init__(self, store: Store, press: Press) -> None:
        self._store = store
        self._press = press
        #: The booklets when they were last looked at.
        self._jobs: list[dict[str, Any]] = []
        self._listeners: set[asyncio.Event] = set()

    def state(self) -> dict[str, Any]:
        """What to show."""
        return {
            "notes": self._store.newest(),
            "reports": self._store.reports(),
            "terms": self._store.terms(),
            "jobs": self._jobs,
        }

    @contextlib.asynccontextmanager
    async def subscription(self) -> AsyncIterator[asyncio.Event]:
        """An event that is set at each change."""
        event = asyncio.Event()
        self._listeners.add(event)
        try:
            yield event
        finally:
            self._listeners.discard(event)

    async def watch(self) -> None:
        """Runs as long as the worker."""
        seen = self._store.version()
        while True:
            self._jobs, before = await self._press.jobs(), self._jobs
            if (version := self._store.version()) != seen or self._jobs != before:
                seen = version
                for event in self._listeners:
                    event.set()
            await asyncio.sleep(INTERVAL)
