"""Whether this mule has to leave, for threads that wait for something else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Leaving:
    """Set once, when the name is wanted and the script ends the mule in its own way."""

    def __init__(self) -> None:
        self._set = False
        self._guard = threading.Lock()
        self._watchers: set[threading.Event] = set()

    def __bool__(self) -> bool:
        return self._set

    def set(self) -> None:
        """The mule has to leave."""
        with self._guard:
            self._set = True
            for event in self._watchers:
                event.set()

    @contextlib.contextmanager
    def watched_by(self, event: threading.Event) -> Iterator[None]:
        """While this lasts, the event is set when the mule has to leave; at once if it has to already."""
        with self._guard:
            self._watchers.add(event)
            if self._set:
                event.set()
        try:
            yield
        finally:
            with self._guard:
                self._watchers.discard(event)
