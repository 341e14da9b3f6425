"""The nodes behind a router: connected to in turn; one that can't be reached is left out for a while."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from instar.config.address import Address
from instar.system import unix_address

#: Seconds that a dead node is left out (uWSGI's grace time).
_GRACE: Final = 30.0
#: Seconds that a connect may take. It waits for a place in the backlog when no zergling accepts.
_CONNECT: Final = 10.0
_FULL_BACKLOG_PAUSE: Final = 0.02
#: Longest head of a response, and read buffer of its body.
_LIMIT: Final = 64 * 1024

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Nodes:
    """Round robin over addresses."""

    def __init__(self, addresses: Sequence[Address], clock: Callable[[], float] = time.monotonic) -> None:
        self.addresses = tuple(addresses)
        self._clock = clock
        self._next = 0
        self._dead: dict[Address, float] = {}

    async def connect(self) -> Streams:
        """A connection to the next node that takes it; with none alive, all are tried. Raises OSError."""
        last: OSError = ConnectionRefusedError(errno.ECONNREFUSED, "no node takes connections")
        for address in self._order():
            try:
                async with asyncio.timeout(_CONNECT):
                    streams = await _connect(address)
            except OSError as error:
                last = error
                self._dead[address] = self._clock() + _GRACE
            else:
                self._dead.pop(address, None)
                return streams
        raise last

    def status(self) -> list[dict[str, Any]]:
        """For `status`."""
        return [{"address": str(address), "alive": not self._is_dead(address)} for address in self.addresses]

    def _order(self) -> list[Address]:
        count = len(self.addresses)
        turn = [self.addresses[(self._next + offset) % count] for offset in range(count)]
        self._next = (self._next + 1) % count
        return [item for item in turn if not self._is_dead(item)] + [item for item in turn if self._is_dead(item)]

    def _is_dead(self, address: Address) -> bool:
        return self._dead.get(address, 0.0) > self._clock()


async def _connect(address: Address) -> Streams:
    if address.kind == "unix":
        return await asyncio.open_unix_connection(sock=await _connect_unix(Path(address.path)), limit=_LIMIT)
    try:
        ip = ipaddress.ip_address(address.host)
    except ValueError:
        return await asyncio.open_connection(address.host, address.port, limit=_LIMIT)
    sock = socket.socket(
        socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    )
    try:
        # An address needs none of what asyncio does for names.
        await asyncio.get_running_loop().sock_connect(sock, (address.host, address.port))
    except BaseException:
        sock.close()
        raise
    return await asyncio.open_connection(sock=sock, limit=_LIMIT)


async def _connect_unix(path: Path) -> socket.socket:
    """A connected socket. A full backlog is no error that the kernel would tell the end of: it is tried again."""
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with contextlib.suppress(BlockingIOError), unix_address(path) as name:
                sock.connect(name)
                return sock
        except BaseException:
            sock.close()
            raise
        sock.close()
        await asyncio.sleep(_FULL_BACKLOG_PAUSE)
