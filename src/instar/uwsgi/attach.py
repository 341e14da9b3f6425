"""What a zergling does: gets its sockets from the pools, and tells pools of ours whether it serves."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from instar.system import unix_address
from instar.uwsgi import zerg
from instar.uwsgi.binds import bind_of
from instar.uwsgi.side import Protocol, State, identity, receive, send, side_path

#: Seconds that a pool may take for its answer on the side socket.
_ANSWER: Final = 10.0
#: Pauses between tries to reach a pool that went away (seconds).
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_VERSION: Final = 1


@dataclasses.dataclass(frozen=True)
class Attached:
    """A listening socket of a pool. Never set it to blocking: O_NONBLOCK belongs to all holders."""

    socket: socket.socket
    protocol: Protocol
    pool: Path

    @property
    def bind(self) -> str:
        """What `web.bind` says for it: `uwsgi:127.0.0.1:4001`, `0.0.0.0:8080`. Raises ConfigError."""
        return bind_of(self.socket, self.protocol)


class Zergling:
    """One instance's side of all its pools. `attach` gives the sockets; `say` keeps our pools informed."""

    def __init__(
        self,
        pools: Sequence[Path],
        *,
        name: str,
        log: Callable[[str], object],
        protocol: Protocol = "uwsgi",
        wait: float = 3.0,
        http: bool = True,
    ) -> None:
        """`protocol` is spoken on zerg sockets. `wait`: seconds for a pool that has not started yet. `http`: whether
        we can serve the HTTP sockets of pools of ours; else their routers do it, as for any other zergling."""
        self._links = [_Link(path, name, protocol, log, side=http) for path in pools]
        self._wait = wait

    @property
    def sockets(self) -> tuple[Attached, ...]:
        """What has been attached. The descriptors stay ours until `close`."""
        return tuple(item for link in self._links for item in link.sockets)

    @property
    def pools(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(link.path for link in self._links)

    @property
    def own_pools(self) -> tuple[Path, ...]:
        """The pools that are instar's."""
        return tuple(link.path for link in self._links if link.connected)

    async def attach(self) -> tuple[Attached, ...]:
        """Get the sockets of all pools. Raises ZergError; nothing stays open then."""
        try:
            for link in self._links:
                await link.attach(self._wait)
        except BaseException:
            await self.close()
            raise
        return self.sockets

    def say(self, state: State) -> None:
        """Tell the pools what we do with new connections. Before `leaving` is said, they must still be accepted."""
        for link in self._links:
            link.say(state)

    async def close(self) -> None:
        """Hang up, and close our descriptors of the sockets."""
        for link in self._links:
            await link.close()


class _Link:
    """One pool. Owns its sockets, the connection to its side socket, and the task that keeps that up."""

    def __init__(self, path: Path, name: str, protocol: Protocol, log: Callable[[str], object], *, side: bool) -> None:
        self.path = path
        self._side_wanted = side
        self.sockets: list[Attached] = []
        self._name = name
        self._protocol: Protocol = protocol
        self._log = log
        self._state: State = "starting"
        self._side: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the pool is ours and lives."""
        return self._side is not None

    async def attach(self, wait: float) -> None:
        """Get the sockets: from a pool of ours, those that speak HTTP too. Raises ZergError."""
        found = await asyncio.to_thread(zerg.attach, self.path, wait=wait)
        self.sockets = [Attached(sock, self._protocol, self.path) for sock in found]
        if not self._side_wanted:
            return
        try:
            sockets = await self._greet([])
        except OSError as error:
            # The real uWSGI has no such socket; a pool of ours opens it before the other.
            if error.errno != errno.ENOENT:
                self._log(f"the zerg pool {self.path} does not answer on its side socket: {error}")
        else:
            self.sockets += [Attached(sock, protocol, self.path) for sock, protocol in sockets]
        self._task = asyncio.create_task(self._keep(), name=f"zerg pool {self.path}")

    def say(self, state: State) -> None:
        """See `Zergling.say`."""
        self._state = state
        if self._side is not None:
            try:
                send(self._side, self._report())
            except OSError:
                # The connection is useless; the next one begins with the state.
                with contextlib.suppress(OSError):
                    self._side.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """See `Zergling.close`."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._hang_up()
        for item in self.sockets:
            item.socket.close()
        self.sockets = []

    def _report(self) -> dict[str, Any]:
        return {"state": self._state, "sockets": [identity(item.socket) for item in self.sockets]}

    def _hang_up(self) -> None:
        if self._side is not None:
            self._side.close()
            self._side = None

    async def _greet(self, held: Sequence[socket.socket]) -> list[tuple[socket.socket, Protocol]]:
        """Connect and say hello, with the sockets that we hold; the answer's sockets. Raises OSError."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            with unix_address(side_path(self.path)) as address:
                sock.connect(address)
            send(sock, {"hello": _VERSION, "name": self._name, **self._report()}, held)
            answer = await asyncio.wait_for(_next(sock), _ANSWER)
            if answer is None:
                raise ConnectionResetError(errno.ECONNRESET, "the pool hung up")
        except BaseException:
            sock.close()
            raise
        self._side = sock
        return _announced(*answer)

    async def _keep(self) -> None:
        """Read the connection to its end (a pool says when it has new sockets), and connect again, for ever."""
        pause = _FIRST_PAUSE
        while True:
            if self._side is not None:
                while (packet := await _next(self._side)) is not None:
                    self._compare(_announced(*packet))
                self._hang_up()
                pause = _FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            with contextlib.suppress(OSError):
                self._compare(await self._greet([item.socket for item in self.sockets]))

    def _compare(self, announced: Sequence[tuple[socket.socket, Protocol]]) -> None:
        """Sockets that a restarted pool has and we don't are served after the next start of this instance."""
        held = {identity(item.socket) for item in self.sockets}
        for sock, protocol in announced:
            with sock:
                if identity(sock) not in held:
                    self._log(
                        f"the zerg pool {self.path} has a new socket, {sock.getsockname()} ({protocol}): "
                        "stop this instance and start it again to serve it"
                    )


def _announced(message: dict[str, Any], sockets: Sequence[socket.socket]) -> list[tuple[socket.socket, Protocol]]:
    """The answer's sockets with what they speak; others are closed."""
    protocols = message.get("protocols")
    named = protocols if isinstance(protocols, list) else []
    found: list[tuple[socket.socket, Protocol]] = []
    for number, sock in enumerate(sockets):
        if number < len(named) and named[number] in ("http", "uwsgi"):
            found.append((sock, named[number]))
        else:
            sock.close()
    return found


async def _next(sock: socket.socket) -> tuple[dict[str, Any], list[socket.socket]] | None:
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            return receive(sock)
        readable = asyncio.Event()
        loop.add_reader(sock, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(sock)
