"""Ends a WebSocket with code 1012 (service restart) without upsetting the application."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]

#: "Service Restart" in the IANA registry of WebSocket close codes: clients reconnect after a random delay.
SERVICE_RESTART = 1012
_REASON = "service restart"
#: Seconds that the application has to return after its WebSocket was closed; then its task is cancelled.
RETURN_GRACE = 5.0


class ConnectionEndedError(ConnectionError):
    """Raised by `send` after the close, as ASGI asks of servers: an OSError means that the peer has gone."""


class WebSocketSession:
    """One WebSocket between server and application. Lives in one event loop."""

    def __init__(
        self,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
        ending: Callable[[], bool],
    ) -> None:
        self._receive = receive
        self._send = send
        self._ending = ending
        self._accepted = False
        self._closed = False
        self._waiting: set[asyncio.Task[Any]] = set()
        self._asked: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._interrupted: asyncio.Event | None = None
        self._closed_by_us: Callable[[], None] = lambda: None
        #: The server said that the client has gone.
        self.gone = False

    async def run(self, app: Callable[..., Awaitable[None]], scope: MutableMapping[str, Any]) -> None:
        """Run the application until it returns."""
        task = asyncio.current_task()
        grace: asyncio.TimerHandle | None = None
        cancelled = False

        def give_up() -> None:
            nonlocal cancelled
            if task is not None:
                cancelled = True
                task.cancel("instar: the WebSocket was closed")

        def arm() -> None:
            nonlocal grace
            grace = asyncio.get_running_loop().call_later(RETURN_GRACE, give_up)

        self._closed_by_us = arm
        try:
            await app(scope, self.receive, self.send)
        except ConnectionEndedError:
            pass
        except asyncio.CancelledError:
            if not cancelled or task is None or task.uncancel() > 0:
                raise
            cancelled = False
        finally:
            if grace is not None:
                grace.cancel()
            if cancelled and task is not None:
                task.uncancel()
            if self._closing is not None:
                with contextlib.suppress(Exception):
                    await self._closing

    def end(self) -> None:
        """Close it now, or right after the application accepts it: before that, a close would be a 403."""
        if self._accepted and not self._closed:
            self._closed = True
            self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        self._closed_by_us()
        # First: granian can't send a close while a `receive` is pending.
        await self._interrupt_receivers()
        # A failing close means that the client was faster.
        with contextlib.suppress(Exception):
            await self._send({"type": "websocket.close", "code": SERVICE_RESTART, "reason": _REASON})

    async def _interrupt_receivers(self) -> None:
        if not self._waiting:
            return
        self._interrupted = asyncio.Event()
        for task in self._waiting:
            self._asked.add(task)
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._interrupted.wait(), 1.0)

    async def receive(self) -> Message:
        """The server's `receive`; after our close it reports the disconnect."""
        if self._closed:
            return self._disconnect()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # inside a coroutine that asyncio runs
        self._waiting.add(task)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if task not in self._asked:
                raise
            self._asked.discard(task)
            # Somebody else cancelled as well: that one counts.
            if task.uncancel() > 0:
                raise
            return self._disconnect()
        finally:
            self._waiting.discard(task)
            if self._interrupted is not None and not self._waiting:
                self._interrupted.set()
        if task in self._asked:
            # The message won the race against our cancellation; the task must not see it later.
            self._asked.discard(task)
            task.uncancel()
        if message["type"] == "websocket.disconnect":
            self.gone = True
        return message

    async def send(self, message: Message) -> None:
        """The server's `send`; after our close it raises, but for the application's own close."""
        kind = message["type"]
        if self._closed:
            if kind == "websocket.close":
                return
            raise ConnectionEndedError("the WebSocket was closed: the worker restarts")
        if kind == "websocket.close":
            self._closed = True
        try:
            await self._send(message)
        except Exception:
            self.gone = True
            raise
        if kind == "websocket.accept":
            self._accepted = True
            if self._ending():
                self.end()

    @staticmethod
    def _disconnect() -> Message:
        return {"type": "websocket.disconnect", "code": SERVICE_RESTART, "reason": _REASON}
