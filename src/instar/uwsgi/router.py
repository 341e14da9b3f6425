"""`http` with `http-to`: HTTP for zerglings that speak only the uwsgi protocol, those of the real uWSGI."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from instar.config.address import Address, parse_address
from instar.uwsgi import model
from instar.uwsgi.binds import bind_of
from instar.uwsgi.exchange import Exchange
from instar.uwsgi.nodes import Nodes

#: For aiohttp: all headers have to fit into 64 KiB for the uwsgi protocol anyway; bodies pass as they are.
_SETTINGS: Final[dict[str, Any]] = {
    "access_log": None,
    "auto_decompress": False,
    "keepalive_timeout": 75.0,
    "max_field_size": 32 * 1024,
    "max_headers": 256,
    "max_line_size": 32 * 1024,
}
#: Connections that are accepted at once before others get their turn.
_BATCH: Final = 32
#: Seconds until another try to accept when descriptors are short.
_SHORT_PAUSE: Final = 0.5
#: Seconds that idle connections have, when the router stops, to send one more request and be told to go.
_LINGER: Final = 1.0
_POLL: Final = 0.05
#: Seconds that a cancelled request may take to end.
_CANCEL: Final = 0.1
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _Connection(web.RequestHandler):
    """A client's connection. Malformed requests get a bare 400, where aiohttp would explain itself and log it all."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500 and exc is not None:
            return super().handle_error(request, status, exc, message)
        text = f"{status} {HTTPStatus(status).phrase}\n"
        response = web.Response(status=status, text=text, headers={"Server": "instar"})
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **_SETTINGS)


class Router:
    """One HTTP address. Its socket belongs to the pool; while the router is off, zerglings of ours accept from it."""

    def __init__(
        self, address: Address, listener: socket.socket, plan: model.Router, log: Callable[[str], object]
    ) -> None:
        self.address = address
        self.listener = listener
        #: Requests so far, and those that are open.
        self.requests = 0
        self.open = 0
        self._log = log
        self._on = False
        self._stopping = False
        self._short: asyncio.TimerHandle | None = None
        self._accepting: set[asyncio.Task[Any]] = set()
        self.aim(plan)
        self._server = _Server(self._handle, handler_cancellation=True)

    @property
    def nodes(self) -> tuple[Address, ...]:
        """Where requests go."""
        return self._nodes.addresses

    def aim(self, plan: model.Router) -> None:
        """Route to these nodes from now on."""
        self._timeout = plan.timeout
        self._nodes = Nodes([parse_address(node) for node in plan.nodes])

    def resume(self) -> None:
        """Accept connections."""
        if not self._on and not self._stopping:
            self._on = True
            asyncio.get_running_loop().add_reader(self.listener, self._accept)
            self._log(f"the router of {self.address} is on")

    def pause(self) -> None:
        """Leave connections to others; those that are open are served, and closed after their next response."""
        if self._on:
            self._turn_off()
            self._log(f"the router of {self.address} is off: zerglings of instar serve it themselves")

    async def stop(self, grace: float) -> None:
        """Stop after the open requests, at most after `grace` seconds. The socket stays open."""
        self._turn_off()
        self._stopping = True
        loop = asyncio.get_running_loop()
        end, idle_end = loop.time() + grace, loop.time() + min(grace, _LINGER)
        while self._server.connections and loop.time() < (end if self.open else idle_end):
            await asyncio.sleep(_POLL)
        # Zero would be no limit.
        await self._server.shutdown(_CANCEL)

    def status(self) -> dict[str, Any]:
        """For `status`."""
        return {
            "address": bind_of(self.listener, "http"),
            "on": self._on,
            "nodes": self._nodes.status(),
            "requests": self.requests,
            "open": self.open,
            "connections": len(self._server.connections),
        }

    def _turn_off(self) -> None:
        self._on = False
        asyncio.get_running_loop().remove_reader(self.listener)
        if self._short is not None:
            self._short.cancel()

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                connection, _ = self.listener.accept()
            except OSError as error:
                if error.errno in _SHORT:
                    self._rest()
                # Else: another holder of the socket was quicker, or the client has gone.
                return
            connection.setblocking(False)
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._connect(connection), name="router connection")
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(self._server, connection)

    def _rest(self) -> None:
        """No descriptors: the listener stays readable, and the loop would spin."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.listener)
        self._short = loop.call_later(_SHORT_PAUSE, self._rested)

    def _rested(self) -> None:
        if self._on:
            asyncio.get_running_loop().add_reader(self.listener, self._accept)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests += 1
        self.open += 1
        try:
            return await Exchange(request, self._nodes, self._timeout, lambda: not self._on, self._log).run()
        finally:
            self.open -= 1
