"""`touch-reload` and its relatives: files that are looked at once a second, as by uWSGI's master."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from instar.uwsgi.model import Touch

#: Seconds between two looks.
LOOK_EVERY = 1.0


class Touches:
    """Remembers the time of each file. One that appears counts as touched, one that goes away doesn't."""

    def __init__(self, touches: Sequence[Touch], log: Callable[[str], object]) -> None:
        self._touches = tuple(touches)
        self._log = log
        self._times = {touch.path: _time(touch.path) for touch in self._touches}

    async def watch(self, act: Callable[[str], Awaitable[object]]) -> None:
        """Call `act` with the action of each file that is touched, for ever."""
        while self._touches:
            await asyncio.sleep(LOOK_EVERY)
            for action in self.look():
                await act(action)

    def look(self) -> list[str]:
        """The actions of all files that were touched since the last look, each once."""
        found: list[str] = []
        touched = {path for path, before in self._times.items() if (now := _time(path)) and now != before}
        for path in touched:
            self._times[path] = _time(path)
        for touch in self._touches:
            if touch.path in touched:
                self._log(f"{touch.path} was touched")
                if touch.action not in found:
                    found.append(touch.action)
        return found


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
