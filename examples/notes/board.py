"""Tells the open pages of this worker that the database has changed, whichever worker or handler changed it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from store import Store

#: How often the database is asked whether it changed, in seconds.
INTERVAL = 0.2


class Board:
    """The pages that listen."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: set[asyncio.Event] = set()

    def state(self) -> dict[str, Any]:
        """What to show."""
        return {"notes": self._store.newest(), "reports": self._store.reports(), "terms": self._store.terms()}

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
            await asyncio.sleep(INTERVAL)
            if (version := self._store.version()) != seen:
                seen = version
                for event in self._listeners:
                    event.set()
