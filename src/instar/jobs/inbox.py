"""What the manager's own thread waits on: messages of its other threads, the store's bell, and the clock."""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import select
from typing import Any, Final

from instar.jobs.errors import StoreError
from instar.jobs.store import JobStore
from instar.jobs.store.backend import Bell

logger = logging.getLogger("instar.jobs")

#: Seconds between two tries to listen again.
_AGAIN: Final = 5.0


class Inbox:
    """Any thread may put something in; one takes out.

    Each wake-up is a system call, and a fight for the interpreter: one is enough until the reader has looked.
    """

    def __init__(self) -> None:
        self._things: collections.deque[Any] = collections.deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._event, select.POLLIN)
        #: The reader has been woken and has not looked yet.
        self._rung = False
        #: So many things are worth waking the reader for.
        self._worth = 1

    def put(self, thing: object) -> None:
        """Wake the reader with it; with None always."""
        # First the thing: whoever resets one of the two below takes everything out afterwards.
        self._things.append(thing)
        if self._rung or (len(self._things) < self._worth and thing is not None):
            return
        self._rung = True
        # Closed: the manager has left.
        with contextlib.suppress(OSError):
            os.eventfd_write(self._event, 1)

    def wait(self, seconds: float, *others: int) -> bool:
        """Wait for something in here, or on other descriptors, or for the time; whether another one is readable."""
        if self._things:
            seconds = 0.0
        for fd in others:
            self._poll.register(fd, select.POLLIN)
        try:
            ready = {fd for fd, _ in self._poll.poll(max(0.0, seconds) * 1000)}
        finally:
            for fd in others:
                self._poll.unregister(fd)
        self._looked(ready)
        return bool(ready - {self._event})

    def gather(self, count: int, seconds: float) -> None:
        """Wait until so many things are in here, but not longer."""
        self._worth = count
        if len(self._things) < count:
            self._looked({fd for fd, _ in self._poll.poll(seconds * 1000)})
        self._worth = 1

    def _looked(self, ready: set[int]) -> None:
        if self._event in ready:
            os.eventfd_read(self._event)
            self._rung = False

    def take(self) -> list[Any]:
        """All that is in it."""
        things = []
        with contextlib.suppress(IndexError):
            while True:
                things.append(self._things.popleft())
        return things

    def close(self) -> None:
        """Give up the descriptor."""
        os.close(self._event)


class Ear:
    """The bell of a handler, hung up again whenever it falls down. Without one, the clock has to do."""

    def __init__(self, store: JobStore, name: str) -> None:
        self._store = store
        self._name = name
        self._bell: Bell | None = None
        self._next_try = 0.0

    def descriptors(self, now: float) -> tuple[int, ...]:
        """What to wait on."""
        if self._bell is None and now >= self._next_try:
            self._next_try = now + _AGAIN
            try:
                self._bell = self._store.bell(self._name)
            except StoreError as error:
                logger.warning("%s", error, extra={"action": "bell_failed"})
        return (self._bell.fileno(),) if self._bell else ()

    def hush(self) -> None:
        """It has rung."""
        if self._bell is None:
            return
        try:
            self._bell.hush()
        except StoreError as error:
            logger.warning("%s", error, extra={"action": "bell_failed"})
            self.close()

    def close(self) -> None:
        """Stop listening."""
        if self._bell:
            with contextlib.suppress(Exception):
                self._bell.close()
        self._bell = None
