"""How a pool gets a listening socket: from its supervisor, from a zergling of its predecessor, or by binding."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from instar.config.address import Address
from instar.listeners.errors import ListenError
from instar.listeners.systemd import is_bound_to
from instar.uwsgi.kept import Kept, Role, in_use, open_listening

#: Seconds that zerglings of ours have to come back with the sockets of a pool that died.
_RETURN: Final = 5.0
#: Seconds between two tries to bind meanwhile.
_RETRY: Final = 0.5


class Opener:
    """Opens sockets into `kept`."""

    def __init__(self, kept: Kept, *, backlog: int, mode: int | None, log: Callable[[str], object]) -> None:
        self.kept = kept
        self._backlog = backlog
        self._mode = mode
        self._log = log
        self._returned: list[socket.socket] = []
        self._news = asyncio.Event()
        self._opening = False

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """As long as this lasts, sockets that come back are kept for the addresses that need them."""
        self._opening = True
        try:
            yield
        finally:
            self._opening = False
            _close(self._returned)
            self._returned.clear()

    async def open(self, role: Role, address: Address) -> socket.socket:
        """The listening socket for an address; `kept` owns it. Raises ListenError."""
        if (recovered := self.kept.recover(role, address)) is not None:
            return recovered
        try:
            sock = self._bind(address)
        except ListenError as error:
            if not in_use(error) or role == "zerg":
                raise
            sock = await self._wait(address, error)
        self.kept.hold(role, address, sock)
        return sock

    def returned(self, sockets: Sequence[socket.socket]) -> None:
        """Sockets that a zergling got from our predecessor."""
        if self._opening:
            self._returned += sockets
            self._news.set()
        else:
            _close(sockets)

    async def _wait(self, address: Address, error: ListenError) -> socket.socket:
        """Whoever holds the address may be a zergling that is about to greet us. Raises the error in the end."""
        self._log(f"{address} is in use: waiting {_RETURN:g} s for a zergling that may have its socket")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RETURN):
                while True:
                    if (found := self._claim(address)) is not None:
                        self._log(f"the socket for {address} came back from a zergling")
                        return found
                    with contextlib.suppress(ListenError):
                        return self._bind(address)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._news.wait(), _RETRY)
                    self._news.clear()
        raise error

    def _bind(self, address: Address) -> socket.socket:
        return open_listening(address, backlog=self._backlog, mode=self._mode)

    def _claim(self, address: Address) -> socket.socket | None:
        for sock in self._returned:
            listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if listens and sock.type == socket.SOCK_STREAM and is_bound_to(sock, address.location):
                self._returned.remove(sock)
                return sock
        return None


def _close(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
