"""Who am I: what a handler can ask about itself, and do under its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from instar.handlers import fence, messages
from instar.handlers.errors import Fenced, NotAHandlerError
from instar.handlers.latch import Latch
from instar.handlers.process import HandlerProcess


class Handler:
    """The handler that runs the caller. Every method may be called from any thread."""

    def __init__(self, process: HandlerProcess) -> None:
        self._process = process

    @property
    def name(self) -> str:
        """The persistent name, `main.reports.1`. At most one process of the host holds it at a time."""
        return self._process.name

    @property
    def pool(self) -> str:
        """Name of the pool, as in `[handlers.POOL]`."""
        return self._process.pool

    @property
    def index(self) -> int:
        """Number within the pool, from 1."""
        return self._process.index

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the pool."""
        return self._process.tags

    @property
    def generation(self) -> int:
        """The generation whose code runs here."""
        return self._process.generation

    @property
    def epoch(self) -> int:
        """The fencing token: larger than that of every earlier holder of the name.

        Raises NotActiveError before activation. After a lost state directory the first `fence` raises it, so read
        it after that when it is given to somebody outside.
        """
        return self._process.lease.epoch

    @property
    def active(self) -> bool:
        """Whether this process holds the name (also while it is releasing). False in its forked children."""
        return self._process.active

    @property
    def releasing(self) -> Latch:
        """Set when the handler has to leave: `is_set()`, `wait(timeout)`, `await wait_async(timeout)`, truth value."""
        return self._process.releasing

    def wait_active(self, timeout: float | None = None) -> bool:
        """Say that booting is over, and block until this process holds its name.

        False: `timeout` seconds are over (the name may still come: call again or look at `active`), or the handler has
        to leave without having had the name (`releasing` is set). Raises HandlerError if the name can't be taken.
        """
        return self._process.wait_active(timeout)

    async def wait_active_async(self, timeout: float | None = None) -> bool:
        """`wait_active` for an event loop."""
        return await self._process.wait_active_async(timeout)

    def on_release(self, callback: Callable[[], object]) -> None:
        """Call `callback()` once when the handler has to leave (at once if it has to already).

        It runs in a thread of instar, must be short and thread-safe; what it raises is logged.
        """
        self._process.releasing.call(callback)

    def holds(self) -> bool:
        """Whether the lock on the name is still ours: two system calls. Says nothing about a protected database."""
        return self._process.active

    def fence(self, connection: Any) -> int:
        """Make the caller's transaction safe: it commits only if no later holder of the name has written.

        Call it first in the transaction, on the caller's own connection (sqlite3 or psycopg), then write and commit.
        Opens a transaction if none is open; creates the table `instar_lease` if it isn't there. Returns the epoch.
        Raises Fenced when the name is lost: nothing may be written, the process should leave (`releasing` is set).
        Raises NotActiveError before activation, HandlerError for a connection it can't use.
        """
        try:
            return fence.fence(self._process.lease, connection)
        except Fenced as error:
            self._process.lose(error)
            raise

    async def fence_async(self, connection: Any) -> int:
        """`fence` for an asynchronous connection (psycopg.AsyncConnection, aiosqlite)."""
        try:
            return await fence.fence_async(self._process.lease, connection)
        except Fenced as error:
            self._process.lose(error)
            raise

    def receive(self, timeout: float | None = None) -> bytes | None:
        """The next message for this handler's name or its pool (`instar.send`).

        None when `timeout` seconds are over, and as soon as the handler has to leave: the rest is the successor's.
        """
        return messages.receive(timeout)

    async def receive_async(self, timeout: float | None = None) -> bytes | None:
        """`receive` for an event loop."""
        return await messages.receive_async(timeout)


_current: Handler | None = None


def current_handler() -> Handler:
    """The handler that this code runs in. Raises NotAHandlerError outside one (also at import, before the fork)."""
    if _current is None:
        raise NotAHandlerError(
            "cannot tell the current handler: this process is not an instar handler (code that runs at import runs "
            "before the handlers are forked); call it from the pool's target, and use instar.testing.fake_handler() "
            "in tests"
        )
    return _current


def install(process: HandlerProcess) -> Handler:
    """Say who this process is; the runtime calls it in the forked child, before the target runs."""
    process.releasing.call(messages.stop_receiving)
    process.start()
    return replace(Handler(process))


def hand_on() -> bool:
    """The last act of a handler's process, right before os._exit: see `HandlerProcess.hand_on`. For the runtime."""
    return _current is not None and _current._process.hand_on()


def replace(handler: Handler | None) -> Handler:
    """Put another handler (or none) in place; only tests need that. Returns the argument."""
    global _current
    _current = handler
    return handler  # type: ignore[return-value]
